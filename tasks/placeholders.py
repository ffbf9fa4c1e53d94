"""ms-swift's placeholders <ref-object> and <bbox>, which its key `objects` fills.

    {"messages": [{"role": "user", "content": "<image>Find the <ref-object>"},
                  {"role": "assistant", "content": "<bbox><bbox>"}], "images": ["a.png"],
     "objects": {"ref": ["sheep"], "bbox": [[90, 160, 135, 212], [360, 480, 495, 532]]}}

Each list is used up in the order of the texts, on its own. A box is in pixels, or with the
`bbox_type` "norm1" in fractions of width and height.
"""

import json
import re
from typing import Any

from plumbing.errors import UserError
from tasks import box_fields, image_fields

REF, BBOX = "<ref-object>", "<bbox>"
BOX_FORMATS = {"real": "pixels", "norm1": "norm1"}  # of ms-swift's `bbox_type`


def must_be_filled(texts: list[str | None], where: str) -> None:
    """Refuse texts with a placeholder that nothing has filled."""
    for mark in (REF, BBOX):
        if any(text and mark in text for text in texts):
            raise UserError(
                f"{where}: the text has ms-swift's {mark}, which is filled in `messages` from "
                '`objects`: {"ref": [...], "bbox": [...]}; write what it stands for'
            )


def filled(record: dict, asked: list[str], reply: Any, where: str) -> tuple[dict, list[str], Any]:
    """Fill the placeholders of a conversation: the record with a `box_format`, its texts.

    asked: what is said before the reply, in order. Boxes stand only in a reply, which has to be
    made of boxes alone: what unit the model uses in a text is not known here.
    """
    said = reply if isinstance(reply, str) else ""
    if not any(mark in text for mark in (REF, BBOX) for text in [*asked, said]):
        return record, asked, reply
    refs, boxes, box_format = objects_of(record, where)
    if any(BBOX in text for text in asked) or (BBOX in said and "<think>" in said):
        raise UserError(
            f"{where}: <bbox> stands in a question, an earlier turn or in thinking, and is read "
            "only as the whole answer; write the numbers there, in the unit of your model"
        )
    counts = {REF: len(refs), BBOX: len(boxes) if BBOX in said else 0}
    for mark, count in counts.items():
        found = sum(text.count(mark) for text in [*asked, said])
        if found != count:
            raise UserError(
                f"{where}: {found} {mark} in the texts, but {count} in `objects`; "
                "there must be one for each"
            )
    names = iter(refs)
    asked = [re.sub(REF, lambda _: next(names), text) for text in asked]
    if said:
        reply = filled_reply(said, names, iter(boxes))
    if BBOX in said:
        record = {**record, "box_format": box_format}
    return record, asked, reply


def filled_reply(text: str, names: Any, boxes: Any) -> str:
    """Fill a reply: as JSON where it is such, else with marks that are read as boxes."""
    is_json = '"bbox_2d"' in text
    has_boxes = BBOX in text

    def fill(mark: re.Match) -> str:
        """Write what one placeholder stands for."""
        if mark[0] == BBOX:
            box = json.dumps(next(boxes))
            return box if is_json else f"<box>{box}</box>"
        name = next(names)
        if is_json:
            return json.dumps(name)[1:-1]
        return f"<ref>{name}</ref>" if has_boxes else name

    return re.sub(f"{REF}|{BBOX}", fill, text)


def is_box(value: Any) -> bool:
    """Tell whether this is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(box_fields.is_coordinate, value))


def objects_of(record: dict, where: str) -> tuple[list[str], list, str]:
    """Read `objects`: (names, boxes, their `box_format`). UserError for another form."""
    given = record.get("objects")
    objects = given if isinstance(given, dict) else {}
    refs, boxes = objects.get("ref") or [], objects.get("bbox") or []
    is_read = (
        isinstance(given, dict)
        and isinstance(refs, list)
        and isinstance(boxes, list)
        and all(isinstance(name, str) and name.strip() for name in refs)
        and all(is_box(box) for box in boxes)
        and objects.get("bbox_type") in (None, *BOX_FORMATS)
        and not any(image_fields.as_list(objects.get("image_id")))
    )
    if not is_read:
        raise UserError(
            f"{where}: `objects` must be "
            '{"ref": ["cat"], "bbox": [[x1, y1, x2, y2]], "bbox_type": "real" or "norm1"}, '
            "of one image; fix it, or write the boxes into the texts"
        )
    return refs, boxes, BOX_FORMATS[objects.get("bbox_type") or "real"]
