"""Parts of distill.py, text in and text out:

prompts      what each stage asks of a teacher, in our own words
stages       which stages a mode has, and what each makes of the replies before
filters      text -> verdict: is the answer right, is there a leak, what did the judge say
replies      the file of a stage, which is taken up where it ended
formats      the records that are written, and their schemas
documents    records of a text and its pages, for --mode qa
toy_teacher  a teacher for the toy sets that knows the scene
"""
