"""How a policy is measured. While it trains (selftrain.py, train_dpo.py, train_sft.py):

golds        which held-out questions can be measured
heldout      a policy's answers to them: Test@1, majority, pass@N, self-select

By evaluate.py:

options      its flags, and which do not go together
ways         how the questions are put: as they lead, and changed in one respect
partners     which other questions lend their picture, or are shown first
asking       what is asked about each question, a batch at a time
likelihood   the option with the highest log-prob
scoring      what an answer scores: a line of predictions.jsonl
figures      what the other ways say about the accuracy
keeping      whether the answers in a directory are this evaluation's, to go on with
reporting    what is printed and drawn of the figures
judging      --judge: a language model's verdict, beside the rule's
comparing    --compare: two evaluations of the same questions
"""
