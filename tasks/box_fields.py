"""The boxes of a record: check the gold, and note how the model writes them.

grading/boxes.py reads, converts and writes.
"""

import re
from typing import Any

from grading.boxes import BOX_FORMATS, boxes_to_text, units_across
from plumbing.errors import UserError
from plumbing.text import short
from tasks import record_fields
from tasks.example import Example
from tasks.images import picture_size, resized_size

FILE_FORMATS = ("pixels", "norm1000")  # of the boxes in a file


def boxes_of_record(
    boxes: Any, box_format: Any, images: list, where: str
) -> tuple[list[dict], list[int]]:
    """Check a record's boxes and convert them to pixels: (boxes, size), for Example.meta.

    UserError for what is no box, or lies outside the picture by more than a pixel (rounding).

        [[100, 200, 300, 400]] of "norm1000" in a picture of 640 x 480
        -> [{"bbox_2d": [64.0, 96.0, 192.0, 192.0], "label": None}], [640, 480]
    """
    if box_format not in FILE_FORMATS:
        raise UserError(
            f"{where}: `box_format` {short(box_format, 40)} is unknown; a file's boxes are in "
            "pixels (of the image, the default) or norm1000 (0 to 1000 across its width and height)"
        )
    if len(images) != 1:
        raise UserError(
            f"{where}: boxes lie in one image, but this record has {len(images)}; name one"
        )
    if not isinstance(boxes, list):
        raise UserError(
            f"{where}: `boxes` must be a list of boxes, [[x1, y1, x2, y2], ...], "
            f"found {type(boxes).__name__}"
        )
    size = list(picture_size(images[0], where))
    return [box_of_record(box, box_format, size, where) for box in boxes], size


def box_of_record(box: Any, box_format: str, size: list[int], where: str) -> dict:
    """Check one box, convert it to pixels, cut it off at the border."""
    corners, label = box, None
    if isinstance(box, dict):
        corners, label = box.get("bbox_2d"), box.get("label")
    if not (isinstance(corners, list) and len(corners) == 4 and all(map(is_coordinate, corners))):
        raise UserError(
            f"{where}: a box must be four numbers, [x1, y1, x2, y2] or "
            f'{{"bbox_2d": [x1, y1, x2, y2], "label": "..."}}, found {short(box, 60)}; fix it'
        )
    record_fields.must_be_whole(label, "label", where)
    if label is not None and not (isinstance(label, str) and label.strip()):
        raise UserError(
            f"{where}: the label of a box must be a text, "
            f"found {short(label, 60) or 'an empty one'}; fix it, or omit `label`"
        )
    sides = size * 2
    if box_format == "norm1000":
        units = [*units_across(box_format, size)] * 2
        corners = [v * side / unit for v, side, unit in zip(corners, sides, units)]
    if any(not -1 <= v <= side + 1 for v, side in zip(corners, sides)):
        other, meant = {
            "pixels": ("norm1000", "in 0 to 1000"),
            "norm1000": ("pixels", "in pixels"),
        }[box_format]
        raise UserError(
            f"{where}: box {short(box, 60)} lies outside the picture of {size[0]} x {size[1]} "
            f'pixels; fix it, or write "box_format": "{other}" if it is {meant}'
        )
    corners = [min(max(v, 0), side) for v, side in zip(corners, sides)]
    if not (corners[0] < corners[2] and corners[1] < corners[3]):
        raise UserError(
            f"{where}: box {short(box, 60)} encloses nothing; "
            "it must be [left, top, right, bottom], not [left, top, width, height]"
        )
    return {"bbox_2d": corners, "label": label}


def asks_for_boxes(question: str, record: dict) -> bool:
    """Tell whether "No Objects" would be an answer to a record."""
    if record.get("accu_reward_method") in record_fields.DETECTION_METHODS:  # VLM-R1's
        return True
    return bool(re.search("bounding box|bbox|'Position'", question, re.IGNORECASE))


def is_coordinate(value: Any) -> bool:
    """Tell whether this is a number that a corner may have."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def answer_text(example: Example, boxes: list[dict]) -> str:
    """Write these boxes as the model would write this example's answer."""
    meta = example.meta
    box_format = meta.get("box_format", BOX_FORMATS[0])
    return boxes_to_text(
        boxes, box_format, meta["size"], meta.get("resized"), meta.get("box_style")
    )


def set_box_format(
    example: Example, box_format: str, min_pixels: int, max_pixels: int, step: int | None = None
) -> None:
    """Note in a box example how the model writes boxes.

    The limits and the side of an image token are for "resized": see `images.resized_size`.
    UserError if its question asks for another convention.
    """
    if "boxes" not in example.meta:
        return
    if example.meta.get("box_style") and box_format != "norm1000":
        raise UserError(
            f"{example.source}: its boxes are those of Visual-RFT, whose questions ask for "
            f"0 to 1000, not for --box-format {box_format}; read it with --box-format norm1000"
        )
    example.meta["box_format"] = box_format
    if box_format == "resized":
        example.meta["resized"] = resized_size(example.meta["size"], min_pixels, max_pixels, step)
