"""Fine-grained classification (flowers, aircraft, cars), as Visual-RFT evaluates it."""

import rewards
from grading.tags import first_answer
from tasks.example import Example
from tasks.protocol import Protocol

SAMPLE = {
    "image": "a.png",
    "problem": "This is an image containing a plant. Please identify the species of the plant "
    "based on the image.",
    "solution": "<answer>water lily</answer>",
}


def visualrft_classification_eval(completion: str, example: Example) -> float:
    """Compute Visual-RFT's score: gold or first answer on a line contains the other."""
    body = first_answer(completion, dotall=False)
    return float(body is not None and same_class(example.answer, body))


def same_class(gold: str, said: str) -> bool:
    """Tell whether either text, without spaces and "_", is part of the other."""
    gold, said = (text.replace(" ", "").replace("_", "").lower() for text in (gold, said))
    return gold in said or said in gold


PROTOCOL = Protocol(
    name="classification",
    sample=SAMPLE,
    score=rewards.classification,
    published_score=visualrft_classification_eval,
    by=("task",),
)
