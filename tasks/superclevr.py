"""SuperCLEVR: how many things are in a picture. 200 questions, as R1-V evaluates them."""

import re
from fractions import Fraction

from grading import reading
from grading.answers import extract_answer
from grading.units import is_measure
from grading.values import Expression
from tasks.example import Example
from tasks.protocol import Protocol

SAMPLE = {
    "image_path": "./images/superCLEVR_new_025000.png",
    "question": "How many different items are there in the image?",
    "ground_truth": 4,
}

TEMPLATE = (
    "{question} First output the thinking process in <think> </think> and final answer (number) "
    "in <answer> </answer> tags."
)


def check_count(answer: str) -> None:
    """Raise ValueError for a gold that is not a count."""
    if not re.fullmatch(r"[0-9]{1,9}(?:\.0+)?", answer):
        raise ValueError(
            f"the gold answer {answer[:60]!r} is not a count; "
            "leave the record out, or name another --protocol"
        )


def score_count(completion: str, example: Example) -> float:
    """Score 1 for the gold number in digits; the thing counted may follow ("4 cubes").

    A measure, an equation or a sum is 0.
    """
    said = reading.read(extract_answer(completion) or "")
    if not isinstance(said, Expression) or said.tree[0] != "n":
        return 0.0
    equal = said.tree[1] == Fraction(example.answer.strip())
    is_count = said.unit is None or not is_measure(said.unit)
    return float(equal and is_count)


def r1v_superclevr(completion: str, example: Example) -> float:
    """Compute R1-V's score: the first tagged run of digits is the gold integer."""
    # int() refuses more than 4,300 digits.
    found = re.search(r"<answer>\s*(\d{1,4000})\s*</answer>", completion)
    return float(bool(found) and int(found[1]) == int(float(example.answer)))


PROTOCOL = Protocol(
    name="superclevr",
    sample=SAMPLE,
    check_gold=check_count,
    template="superclevr",
    templates={"superclevr": TEMPLATE},
    score=score_count,
    published_score=r1v_superclevr,
)
