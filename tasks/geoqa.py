"""GEOQA: geometry, with answers such as 100° and 8√{3}. 754 questions, as R1-V evaluates them."""

import rewards
from grading import mathverify
from tasks.example import Example
from tasks.protocol import Protocol

SAMPLE = {
    "image_path": "./Geo170K/images/test/100.png",
    "question": "As shown in the figure, given the angle of circumference angle A = 50.0, "
    "then the size of angle OBC is ()",
    "ground_truth": "40°",
}

TEMPLATE = (
    "{question} Output the thinking process in <think> </think> and final answer (number) "
    "in <answer> </answer> tags."
)


def r1v_geoqa(completion: str, example: Example) -> float:
    """Compute R1-V's score: math-verify on the whole output, which comes first."""
    return float(mathverify.verify(completion, example.answer))


PROTOCOL = Protocol(
    name="geoqa",
    sample=SAMPLE,
    template="geoqa",
    templates={"geoqa": TEMPLATE},
    score=rewards.accuracy,
    published_score=r1v_geoqa,
)
