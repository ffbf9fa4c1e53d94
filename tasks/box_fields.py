"""The boxes of a record: check the gold, and note how the model writes them.

grading/boxes.py reads, converts and writes.
"""

from typing import Any

from grading.boxes import BOX_FORMATS, boxes_to_text
from plumbing.errors import UserError
from plumbing.text import short
from tasks import images, record_fields
from tasks.example import Example

FILE_FORMATS = {  # of the boxes in a file: (what a side of the picture counts, words for it)
    "pixels": (None, "in pixels"),
    "norm1000": (1000, "in 0 to 1000"),
    "norm1": (1, "in fractions of width and height"),
}
SPECK = 2  # a box that ends before this is none of pixels, or of 0 to 1000


def boxes_of_record(
    boxes: Any, box_format: Any, pictures: list, where: str
) -> tuple[list[dict], list[int]]:
    """Check a record's boxes and convert them to pixels: (boxes, size), for Example.meta.

    UserError for what is no box, or lies outside the picture by more than a pixel (rounding).

        [[100, 200, 300, 400]] of "norm1000" in a picture of 640 x 480
        -> [{"bbox_2d": [64.0, 96.0, 192.0, 192.0], "label": None}], [640, 480]
    """
    if not (isinstance(box_format, str) and box_format in FILE_FORMATS):
        raise UserError(
            f"{where}: `box_format` {short(box_format, 40)} is unknown; a file's boxes are in "
            "pixels (of the image, the default), norm1000 (0 to 1000 across its width and "
            "height) or norm1 (0 to 1)"
        )
    if len(pictures) != 1:
        raise UserError(
            f"{where}: boxes lie in one image, but this record has {len(pictures)}; name one"
        )
    if not isinstance(boxes, list):
        raise UserError(
            f"{where}: `boxes` must be a list of boxes, [[x1, y1, x2, y2], ...], "
            f"found {type(boxes).__name__}"
        )
    [picture] = pictures
    size = list(images.picture_size(picture, where))
    read = []
    for box in boxes:
        corners, label = parts_of(box, where)
        if not is_inside(corners, box_format, size):
            raise outside(corners, box_format, picture, where)
        read.append({"bbox_2d": cut_to_picture(corners, box_format, size, where), "label": label})
    return read, size


def parts_of(box: Any, where: str) -> tuple[list, str | None]:
    """Read one box: (its corners, its label). UserError for what is none."""
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
    return corners, label


def in_pixels(corners: list, box_format: str, size: list[int]) -> list:
    """Convert the corners of a file's box to pixels."""
    unit, _ = FILE_FORMATS[box_format]
    if unit is None:
        return corners
    return [v * side / unit for v, side in zip(corners, size * 2)]


def is_inside(corners: list, box_format: str, size: list[int]) -> bool:
    """Tell whether a box lies in the picture, but for a pixel of rounding, and is no speck."""
    if box_format != "norm1" and is_speck(corners, size):
        return False
    converted = in_pixels(corners, box_format, size)
    return all(-1 <= v <= side + 1 for v, side in zip(converted, size * 2))


def is_speck(corners: list, size: list[int]) -> bool:
    """Tell whether a box is in the picture's first two pixels: its corners are fractions."""
    return max(corners) < SPECK < max(size)


def outside(corners: list, box_format: str, picture: Any, where: str) -> UserError:
    """Make the message about a box that lies outside the picture, or is a speck in its corner."""
    size = list(images.picture_size(picture, where))
    message = f"{where}: box {short(corners, 60)} "
    if is_speck(corners, size) and min(corners) >= -1:
        message += f"has no size in a picture of {size[0]} x {size[1]} pixels; fix it"
    else:
        message += f"lies outside the picture of {size[0]} x {size[1]} pixels; fix it"
    for other, (_, unit) in FILE_FORMATS.items():
        if other != box_format and is_inside(corners, other, size):
            message += f', or write "box_format": "{other}" if it is {unit}'
    if is_inside(corners, "norm1", size):
        message += " (some of LLaVA-1.5's are of the picture padded to a square: convert those)"
    stored = stored_size(picture, where)
    if stored != size and is_inside(corners, box_format, stored):
        message += (
            "; EXIF turns this picture: if the box is in its stored pixels, delete that tag "
            "(exiftool -Orientation= FILE)"
        )
    return UserError(message)


def stored_size(picture: Any, where: str) -> list[int]:
    """Read the size that a picture has before its EXIF orientation turns it."""
    opened = images.open_header(picture, where)
    try:
        return list(opened.size)
    finally:
        if opened is not picture:
            opened.close()


def cut_to_picture(corners: list, box_format: str, size: list[int], where: str) -> list:
    """Convert a box to pixels and cut it off at the border. UserError if nothing is in it."""
    cut = [min(max(v, 0), s) for v, s in zip(in_pixels(corners, box_format, size), size * 2)]
    if not (cut[0] < cut[2] and cut[1] < cut[3]):
        raise UserError(
            f"{where}: box {short(corners, 60)} encloses nothing; "
            "it must be [left, top, right, bottom], not [left, top, width, height]"
        )
    return cut


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
    example: Example, box_format: str, min_pixels: int, max_pixels: int, token_side: int
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
        size = example.meta["size"]
        example.meta["resized"] = images.resized_size(size, min_pixels, max_pixels, token_side)
