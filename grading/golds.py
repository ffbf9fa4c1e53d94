"""Can an answer be scored against this gold? Asked once per example, at load time."""

import math

from grading.answers import choice_index
from grading.boxes import to_pixels


def check_gold(answer: str, choices: list[str] | None = None, meta: dict | None = None) -> None:
    """Raise ValueError if the gold cannot be scored against: called once per example, at load time.

    With choices, the gold must name one of them. With meta["boxes"], every box must have an area,
    and what turns the policy's coordinates into pixels must be there.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            f"the gold answer is empty or not text: {answer!r}; fix the record, or leave it out"
        )
    if choices and choice_index(answer, choices) is None:
        raise ValueError(
            f"the gold answer {answer!r} is neither a letter nor a text of the choices "
            f"{choices!r}; fix the record, or leave it out"
        )
    if meta and meta.get("boxes") is not None:
        units = meta.get("box_format", "norm1000"), meta.get("size"), meta.get("resized")
        to_pixels((0, 0, 1, 1), *units)
        for gold in meta["boxes"]:
            if not _is_box(gold):
                raise ValueError(
                    "a gold box is {'bbox_2d': [x1, y1, x2, y2], 'label': ...} with x1 < x2 "
                    f"and y1 < y2, not {gold!r}"
                )


def _is_box(gold: object) -> bool:
    """Tell whether a gold box has four finite corners in order."""
    box = gold.get("bbox_2d") if isinstance(gold, dict) else None
    if not box or len(box) != 4:
        return False
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        return False
    return box[0] < box[2] and box[1] < box[3]
