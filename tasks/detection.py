"""Few-shot detection, one category a question. As Visual-RFT evaluates it: COCO's mAP."""

import rewards
from grading.boxes import mean_average_precision, normalize_label
from tasks.outputs import json_value
from tasks.protocol import Protocol
from tasks.rec import mean_iou

SAMPLE = {
    "image": "a.jpg",
    "problem": "Detect all objects belonging to the category 'cat' in the image, and provide "
    "the bounding boxes (between 0 and 1000, integer) and confidence.",
    "solution": "<answer>[{'Position': [110, 120, 210, 230], 'Confidence': 1}]</answer>",
}


def detection_map(rows: list[dict]) -> dict:
    """Compute COCO's mAP and AP50 of the set, and of each category in the gold.

    The mean is over the categories of gold and predictions.
    A row's category names its boxes, whose own labels then say nothing more.
    If nothing is named, there is one class without a name.
    """
    nameless = not any(map(names_something, rows))
    images = [labelled_boxes(row, nameless) for row in rows]  # (predicted, gold) each
    spellings = {}
    for _, gold in images:
        for box in gold:
            spellings.setdefault(normalize_label(box["label"]), box["label"])
    categories = {}
    for name, label in spellings.items():
        of_one = [[with_label(boxes, name) for boxes in image] for image in images]
        n = sum(len(gold) for _, gold in of_one)
        categories[str(json_value(label))] = mean_average_precision(of_one) | {"n": n}
    return mean_average_precision(images) | {"categories": categories} | mean_iou(rows)


def names_something(row: dict) -> bool:
    """Tell whether a row names a category, or a gold box has a label."""
    return bool(row.get("category")) or any(box["label"] for box in row["boxes"])


def labelled_boxes(row: dict, nameless: bool) -> list[list[dict]]:
    """Label the predicted and the gold boxes of a row with their class."""
    category = row.get("category")
    both = []
    for boxes in (row["extracted"] or [], row["boxes"]):
        labels = [None if nameless else category or box.get("label") for box in boxes]
        both.append([{**box, "label": label} for box, label in zip(boxes, labels)])
    return both


def with_label(boxes: list[dict], name: str | None) -> list[dict]:
    """Keep the boxes of one class."""
    return [box for box in boxes if normalize_label(box["label"]) == name]


PROTOCOL = Protocol(
    name="detection",
    sample=SAMPLE,
    score=rewards.accuracy,
    boxes=True,
    unlabelled=False,
    by=("category",),
    totals=detection_map,
)
