"""Referring expressions: where is what a sentence describes? RefCOCO/+/g and LISA-Grounding.

As VLM-R1 evaluates them: accuracy at IoU 0.5.
"""

import re

import rewards
from grading.tags import first_answer
from tasks.example import Example
from tasks.protocol import Protocol, mean

SAMPLE = {
    "image": "a.jpg",
    "problem": "Please provide the bounding box coordinate of the region "
    "this sentence describes: the man.",
    "solution": [10, 20, 200, 300],  # pixels
    "normalized_solution": [0.03, 0.08, 0.63, 1.25],
}

THINK = (
    "{question} First output the thinking process in <think> </think> tags and then output "
    "the final answer in <answer> </answer> tags."
)
TEMPLATES = {
    "vlmr1": THINK,
    "rec": THINK + " Output the final answer in JSON format.",
    "rec_direct": "{question} Please provide the bounding box coordinate in JSON format.",
}  # the last one asks the baseline

INTEGER_BOX = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)]")
MOST_DIGITS = 300  # of a coordinate; Python's float ends at 308


def vlmr1_rec(completion: str, example: Example) -> float:
    """Compute VLM-R1's score: 1 for an IoU above 0.5.

    It reads the last integer box inside braces in the first answer.
    """
    body = first_answer(completion) or ""
    start, end = body.find("{"), body.rfind("}")
    boxes = INTEGER_BOX.findall(body[start + 1 : end]) if 0 <= start < end else []
    last_box = boxes[-1] if boxes else (0, 0, 0, 0)
    return float(vlmr1_box_iou(last_box, example) > 0.5)


def vlmr1_box_iou(box: tuple, example: Example) -> float:
    """Compute VLM-R1's IoU of four integers, as text or not, with the first gold box.

    The box is scaled from the resized image where its size is known. An overlap of one pixel is 0.
    """
    if not example.meta["boxes"]:
        return 0.0
    if max(map(len, map(str, box))) > MOST_DIGITS:
        return 0.0  # theirs: ValueError or OverflowError
    a, b = [int(v) for v in box], example.meta["boxes"][0]["bbox_2d"]
    if example.meta.get("resized") and example.meta.get("size"):
        (w, h), (W, H) = example.meta["resized"], example.meta["size"]
        a = [a[0] * W / w, a[1] * H / h, a[2] * W / w, a[3] * H / h]
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]) - 1, min(a[3], b[3]) - 1
    overlap = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0.0  # theirs: ZeroDivisionError, caught, 0


def mean_iou(rows: list[dict]) -> dict:
    """Average the `iou` reward: an answer that cannot be read counts 0."""
    return {"mean_iou": mean(rows, "iou")}


PROTOCOL = Protocol(
    name="rec",
    sample=SAMPLE,
    template="rec",
    templates=TEMPLATES,
    score=rewards.accuracy,
    published_score=vlmr1_rec,
    boxes=True,
    unsized_boxes="pixels",  # VLM-R1 before 2025-06-26
    by=("task",),
    totals=mean_iou,
)
