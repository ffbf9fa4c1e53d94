"""Saved outputs of a model as examples that a protocol can score.

{"prediction": "<answer>3</answer>", "answer": 3, ...}    ->    (completion, Example)
"""

import json
import math
import re

import rewards
from grading.boxes import parse_boxes, to_pixels
from grading.tags import last_answer
from tasks import box_fields, gold_keys
from tasks.example import Example
from tasks.protocol import Protocol

ALIASES = {  # other names under which saved outputs have these fields
    "prediction": ("model_output", "output", "response", "completion", "generated_text", "pred"),
    "answer": gold_keys.OF_OUTPUTS,
    "question": ("problem", "query", "prompt"),
    "id": ("question_id", "pid", "idx", "image_path", "image"),
    "category": ("class", "class_name"),
}
CATEGORY = re.compile(r"belonging to the category '([^']{1,100})'")  # Visual-RFT's question
# A gold as Visual-RFT and LISA write it, in 0 to 1000.
THOUSANDTHS = re.compile(r"Position|\(\s*[0-9.]+\s*,\s*[0-9.]+\s*\)")
NUMBER = re.compile(r"\s*-?[0-9]{1,9}(?:\.[0-9]{1,20})?\s*")
BOX_NOTATIONS = (
    "write [x1, y1, x2, y2] or {'bbox_2d': [x1, y1, x2, y2], 'label': ...}, or a list of them"
)


def to_example(
    record: dict, protocol: Protocol, box_format: str | None = None
) -> tuple[str, Example]:
    """Make (completion, example) of a saved record.

    record: prediction, answer, and where there are any id, question, choices, task, unit, ...
    Gold boxes: `answer` as [x1, y1, x2, y2], a list of them, the text of VLM-R1 or Visual-RFT, or
    "none"; or `boxes`. `size` (or `width`, `height`): the original picture's; `resized`: the one
    the model saw. box_format: how predicted boxes are written, unless the record says.
    ValueError, saying what is missing and what to do, for one that cannot be scored.
    """
    if not isinstance(record, dict):
        raise ValueError(
            f"expected an object with `prediction` and `answer`, found {type(record).__name__}"
        )
    record = protocol.saved(record)
    prediction = prediction_of(record)
    gold = field(record, "answer")
    if gold is None and not (protocol.boxes and record.get("boxes") is not None):
        remedy = "add the gold answer or `boxes`" if protocol.boxes else "add the gold answer"
        raise ValueError(f"no `answer`; found {names_in(record)}; {remedy}")
    question = field(record, "question")
    if isinstance(question, dict):  # R1-V's logs keep the whole prompt record there
        question = question.get("question")
    question = json_value(question)
    choices = choices_of(record)
    meta = meta_of(record, str(question))
    meta["box_format"] = (
        record.get("box_format") or box_format or assumed_box_format(meta, protocol)
    )
    if protocol.boxes:
        meta |= gold_boxes(record, gold, meta, protocol)
        answer = json.dumps(meta["boxes"], ensure_ascii=False)
    else:
        meta.pop("boxes", None)
        answer = gold_text(gold)
    rewards.check_gold(answer, choices, meta)
    protocol.check_gold(answer)
    known = json_value(field(record, "id"))
    return prediction, Example(known, [], question, answer, choices=choices, meta=meta)


# --- the fields of a record ---


def field(record: dict, name: str) -> object:
    """Find a field under its name or an alias; None if there is none."""
    for key in (name, *ALIASES.get(name, ())):
        if record.get(key) is not None:
            return record[key]
    return None


def names_in(record: dict) -> str:
    """List a record's keys for a message."""
    return ", ".join(map(str, record)) or "nothing"


def prediction_of(record: dict) -> str:
    """Find what the model said."""
    prediction = field(record, "prediction")
    if isinstance(prediction, str):
        return prediction
    if prediction is None and "prediction" in record:
        raise ValueError(
            '`prediction` is null; write what the model said, or "" if it said nothing'
        )
    what = "no `prediction`"
    if prediction is not None:
        what += f" that is text: it is {type(prediction).__name__}"
    raise ValueError(f"{what}; found {names_in(record)}; give what the model said, as text")


def choices_of(record: dict) -> list[str] | None:
    """Read `choices` as texts."""
    choices = record.get("choices")
    if choices is None:
        return None
    if not isinstance(choices, list) or not all(isinstance(c, str | int | float) for c in choices):
        raise ValueError(
            "`choices` must be a list of texts; fix it, or omit it where there are none"
        )
    return [c if isinstance(c, str) else str(json_value(c)) for c in choices] or None


def meta_of(record: dict, question: str) -> dict:
    """Copy a record with its category, unit and the picture's sizes checked."""
    meta = dict(record)
    asked_for = CATEGORY.search(question)
    meta["category"] = field(record, "category") or (asked_for and asked_for[1])
    for key in ("category", "unit"):
        value = meta.get(key)
        if isinstance(value, dict | list | bool):
            raise ValueError(f"`{key}` must be text, found {shown(value)}; fix it or omit it")
        meta[key] = None if value is None else str(json_value(value))
    width, height = record.get("width"), record.get("height")
    if meta.get("size") is None and not (width is None and height is None):
        meta["size"] = [width, height]
    check_size(meta, "size", " or two numbers, `width` and `height`")
    check_size(meta, "resized")
    return meta


def check_size(meta: dict, key: str, or_else: str = "") -> None:
    """Raise ValueError if there is a size that is not two positive numbers."""
    size = meta.get(key)
    if size is None:
        return
    if isinstance(size, list | tuple) and len(size) == 2:
        if all(is_number(v) and v > 0 for v in size):
            return
    raise ValueError(f"`{key}` must be [width, height] in pixels{or_else}; found {shown(size)}")


def assumed_box_format(meta: dict, protocol: Protocol) -> str:
    """Guess how predicted boxes are written where nothing says so."""
    if meta.get("resized"):
        return "resized"
    return "norm1000" if meta.get("size") else protocol.unsized_boxes


def gold_text(gold: object) -> str:
    """Read a gold that is not boxes: the last tagged one, or the text."""
    if not isinstance(gold, str) and not is_number(gold):
        raise ValueError(
            f"`answer` must be text or a number, found {shown(gold)}; "
            "for boxes there are the protocols rec, lisa and detection"
        )
    text = str(gold)
    if "<answer>" in text:
        text = last_answer(text) or text
    return text.strip()


# --- gold boxes ---


def gold_boxes(record: dict, gold: object, meta: dict, protocol: Protocol) -> dict:
    """Read gold boxes into meta's `boxes` (pixels), `size` and, where they are text, `solution`."""
    given = gold if record.get("boxes") is None else record["boxes"]
    boxes, size = boxes_of_gold(given, meta.get("size"))
    if protocol.unlabelled or meta["category"]:
        boxes = [{**box, "label": None} for box in boxes]
    found = {"boxes": boxes}
    if isinstance(gold, str):
        found["solution"] = gold
    if size is not None:
        found["size"] = size
    return found


def boxes_of_gold(gold: object, size: list | None) -> tuple[list[dict], list | None]:
    """Read a gold in any notation; return its boxes in pixels, and the picture's size.

    Without a size, thousandths count as pixels of a 1000 x 1000 picture, as does "none":
    IoU does not change when an axis is stretched.
    """
    boxes, thousandths = boxes_of_text(gold) if isinstance(gold, str) else boxes_of_list(gold)
    if not thousandths and boxes:
        if size and all(box_fields.is_speck(box["bbox_2d"], size) for box in boxes):
            raise ValueError(
                f"the gold boxes {shown(gold, 80)} seem to be fractions; write them in pixels"
            )
        return boxes, size
    size = size or [1000, 1000]
    for box in boxes:
        box["bbox_2d"] = list(to_pixels(box["bbox_2d"], "norm1000", size))
    return boxes, size


def boxes_of_text(gold: str) -> tuple[list[dict], bool]:
    """Read boxes written as text; return them, and whether in thousandths."""
    text = last_answer(gold) or gold
    bare = not re.search(r"[\[({a-zA-Z]", text)  # "10, 20, 110, 220"
    found = parse_boxes(f"[{text}]" if bare else text)
    if found is None:
        raise ValueError(
            f'the gold boxes cannot be read: {gold[:80]!r}; {BOX_NOTATIONS}, or "none"'
        )
    boxes = [{"bbox_2d": list(box["bbox_2d"]), "label": box["label"]} for box in found]
    return boxes, bool(THOUSANDTHS.search(gold))


def boxes_of_list(gold: object) -> tuple[list[dict], bool]:
    """Read one box or a list; return them, and whether in thousandths."""
    four = isinstance(gold, list) and len(gold) == 4 and not isinstance(gold[0], list | dict)
    items = [gold] if four or isinstance(gold, dict) else gold
    if not isinstance(items, list):
        raise ValueError(f"the gold boxes cannot be read: {shown(gold, 80)}; {BOX_NOTATIONS}")
    thousandths = any(isinstance(item, dict) and "Position" in item for item in items)
    return [box_of_item(item) for item in items], thousandths


def box_of_item(item: object) -> dict:
    """Read one box, its corners put in order."""
    box, label = item, None
    if isinstance(item, dict):
        box = item.get("bbox_2d") or item.get("Position")
        label = item.get("label")
    if isinstance(box, list | tuple):
        box = [number_of(v) for v in box]
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        raise ValueError(f"the gold box {shown(item, 80)} cannot be read; {BOX_NOTATIONS}")
    x1, y1, x2, y2 = box
    return {
        "bbox_2d": [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)],
        "label": None if label is None else str(json_value(label)),
    }


def number_of(value: object) -> object:
    """Read a text that is a short number as a float; leave anything else."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    return value


# --- values that JSON, UTF-8 and a message can hold ---


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number; an integer beyond the floats is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def json_value(value: object) -> object:
    """Give a record's field as JSON and UTF-8 can hold it, anything else as text."""
    if value is None or isinstance(value, bool) or is_number(value):
        return value
    if isinstance(value, int):
        return shown(value)
    return str(value).encode("utf-8", "replace").decode("utf-8")


def shown(value: object, most: int = 60) -> str:
    """Give the beginning of a value as Python writes it, for a message."""
    try:
        return repr(value)[:most]
    except (RecursionError, ValueError):  # an integer of more than 4,300 digits
        return f"{type(value).__name__} that is too large to be shown"
