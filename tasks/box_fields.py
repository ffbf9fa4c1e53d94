"""The boxes of a record: read the gold, and write it as the model does."""

from grading.boxes import BOX_FORMATS, boxes_to_text
from plumbing import text
from plumbing.errors import UserError
from tasks import record_fields
from tasks.images import picture_size, resized_size


def boxes_of_record(boxes, box_format, images, where):
    """(boxes, size) of a record, for Example.meta. UserError for what is no box, or lies outside the picture by more than a pixel (rounding; cut off here).

    [[100, 200, 300, 400]] of "norm1000" in a picture of 640 x 480  ->  [{"bbox_2d": [64.0, 96.0, 192.0, 192.0], "label": None}], [640, 480]
    """
    if box_format not in ("pixels", "norm1000"):
        raise UserError(
            f"{where}: `box_format` {text.short(box_format, 40)} is unknown; a file's boxes are in pixels (of the image, the default) or norm1000 "
            "(0 to 1000 across its width and height)"
        )
    if len(images) != 1:
        raise UserError(
            f"{where}: boxes lie in one image, but this record has {len(images)}; name one"
        )
    if not isinstance(boxes, list):
        raise UserError(
            f"{where}: `boxes` must be a list of boxes, [[x1, y1, x2, y2], ...], found {type(boxes).__name__}"
        )
    size = list(picture_size(images[0], where))
    found = []
    for box in boxes:
        corners, label = (
            (box.get("bbox_2d"), box.get("label")) if isinstance(box, dict) else (box, None)
        )
        if not (
            isinstance(corners, list)
            and len(corners) == 4
            and all(
                isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9
                for v in corners
            )
        ):
            raise UserError(
                f'{where}: a box must be four numbers, [x1, y1, x2, y2] or {{"bbox_2d": [x1, y1, x2, y2], "label": "..."}}, found {text.short(box, 60)}; mend it'
            )
        record_fields.must_be_whole(label, "label", where)
        if label is not None and not (isinstance(label, str) and label.strip()):
            raise UserError(
                f"{where}: the label of a box must be a text, found {text.short(label, 60) or 'an empty one'}; mend it, or leave `label` away"
            )
        if box_format == "norm1000":
            corners = [v * side / 1000 for v, side in zip(corners, size * 2)]
        if any(not -1 <= v <= side + 1 for v, side in zip(corners, size * 2)):
            hint = (
                'write "box_format": "norm1000" if it is in 0 to 1000'
                if box_format == "pixels"
                else 'write "box_format": "pixels" if it is in pixels'
            )
            raise UserError(
                f"{where}: box {text.short(box, 60)} lies outside the picture of {size[0]} x {size[1]} pixels; mend it, or {hint}"
            )
        corners = [min(max(v, 0), side) for v, side in zip(corners, size * 2)]
        if not (corners[0] < corners[2] and corners[1] < corners[3]):
            raise UserError(
                f"{where}: box {text.short(box, 60)} encloses nothing; it must be [left, top, right, bottom], not [left, top, width, height]"
            )
        found.append({"bbox_2d": corners, "label": label})
    return found, size


def answer_text(example, boxes):
    """These boxes as this box example's answer would be written by the model."""
    meta = example.meta
    return boxes_to_text(
        boxes,
        meta.get("box_format", BOX_FORMATS[0]),
        meta["size"],
        meta.get("resized"),
        meta.get("box_style"),
    )


def set_box_format(example, box_format, min_pixels, max_pixels):
    """Notes in a box example how the model writes boxes; other examples stay as they are. UserError if its question asks for another convention."""
    if "boxes" in example.meta:
        if example.meta.get("box_style") and box_format != "norm1000":
            raise UserError(
                f"{example.source}: its boxes are those of Visual-RFT, whose questions ask for 0 to 1000, not for --box-format {box_format}; "
                "read it with --box-format norm1000"
            )
        example.meta["box_format"] = box_format
        if box_format == "resized":
            example.meta["resized"] = resized_size(example.meta["size"], min_pixels, max_pixels)
