"""Parts of evaluate.py:

options      its flags, and which do not go together
scoring      what an answer scores: a line of predictions.jsonl
asking       put a batch of questions to a checkpoint
keeping      whether the answers in a directory are this evaluation's, to go on with
reporting    what is printed and drawn of the figures
judging      --judge: a language model's verdict, beside the rule's
comparing    --compare: two evaluations of the same questions
"""
