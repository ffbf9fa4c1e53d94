r"""The boxes of a gold text: is it boxes, in which notation, in which unit?

A gold has to be exact: what holds boxes and cannot be read whole is refused. docs/data.md has a
table of the notations.
"""

import re
from typing import Any, NamedTuple

from plumbing.errors import UserError
from plumbing.text import short
from tasks import record_fields, worked_answers
from tasks.json_records import json_or_none

# --- what a question asks for ---

BOXES_ASKED = re.compile(r"bounding[ -]?box|bbox|'Position'", re.IGNORECASE)
PLACE_ASKED = re.compile(
    r"\b(?:where|locat\w+|locali[sz]\w+|detect\w*|grounding|region)\b|[\[(]\s*x_?1\b|x_?min\b"
    r"|定位|边界框|检测框|框出",
    re.IGNORECASE,
)
LIST_ASKED = re.compile(
    r"\b(?:list|sort|order|sequence|numbers?|values?|digits?|integers?|rows?|columns?|indices|"
    r"array|matrix|vector|roots|solutions|series|how many|count)\b",
    re.IGNORECASE,
)
# How a sentence that asks begins, or ends: unlike a name, "man in the second row".
ASKS = re.compile(
    r"(?:^|[.:,>\n])\s{0,9}"
    r"(?:list|sort|order|count|what|which|how|give|write|find|compute|predict|read|name)\b|[?？]",
    re.IGNORECASE,
)
TEXT_METHODS = ("mcq", "yes_no", "llm", "math", "all_match")  # VLM-R1's rewards of other answers


def asks_for_boxes(question: str, record: dict) -> bool:
    """Tell whether "No Objects" would be an answer to a record."""
    if record.get("accu_reward_method") in record_fields.DETECTION_METHODS:  # VLM-R1's
        return True
    return bool(record.get("box_format") or BOXES_ASKED.search(question))


def four_numbers_are(question: str, record: dict) -> str:
    """Tell whether an answer [1, 2, 3, 4] is a "box" or a "list", or could be "either"."""
    if record.get("accu_reward_method") in TEXT_METHODS:
        return "list"
    is_list = bool(ASKS.search(question) and LIST_ASKED.search(question))
    is_list = is_list and "coordinate" not in question.lower()
    is_place = bool(PLACE_ASKED.search(question))
    if asks_for_boxes(question, record) or is_place > is_list:
        return "box"
    return "list" if is_list > is_place else "either"


# --- the notations ---

# A quick look: a text without any of these is no boxes.
MAY_BE_BOXES = re.compile(r"[\[({<［（,，=:]|no objects", re.IGNORECASE)
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
CORNERS = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")
BRACKETS = re.compile(r"[\[\]()\s,.\deE+-]+")
POINT = re.compile(r"[\[(][^\[\](),]*,[^\[\](),]*[\])]")  # (1, 2)
QWEN2_MARKS = {
    "<|object_ref_start|>": "<ref>",
    "<|object_ref_end|>": "</ref>",
    "<|box_start|>": "<box>",
    "<|box_end|>": "</box>",
}
QWEN2_MARK = re.compile("|".join(map(re.escape, QWEN2_MARKS)))
MARKED = re.compile(r"\s*(?:<ref>([^<]*)</ref>\s*)?((?:<box>[^<]*</box>[\s,;.]*)+)(?:and\b)?")
WITHIN = re.compile(r"[\[(［（]\s*[\d.]+(?:[\s,，]+[\d.]+){3}\s*[\])］）]")
# PaliGemma's <loc0123>, Florence-2's <loc_123>, Kosmos-2's <patch_index_0123>
PLACE_TOKEN = re.compile(r"<(?:loc_?|patch_index_)\d{1,4}>")
OTHER_KEY = re.compile(
    r"[\"'](?:bbox|box|box_2d|bounding_box|bboxes|boxes)[\"']\s*:|\bx_?(?:1|min)[\"']?\s*[=:]"
)


class WrittenBoxes(NamedTuple):
    """The boxes of a gold text as they stand there, and their convention."""

    boxes: list | None = None
    box_format: str | None = None
    style: str | None = None


def boxes_in(
    text: str, where: str, question: str, record: dict, pictures: int, corners: bool = False
) -> WrittenBoxes | None:
    """Read the boxes of a gold answer; None if it is no such.

    "No Objects" and "[]" count if the question asks for boxes. corners: (1,2),(3,4) are LISA's.
    UserError for what holds boxes and cannot be read, or may be a box or not.

        [{'Position': [110, 120, 210, 230], 'Confidence': 1}]       Visual-RFT's: 0 to 1000
        (100,200),(300,400)                                         its LISA: 0 to 1000
        ```json\\n[{"bbox_2d": [10, 20, 200, 300], "label": "cat"}]\\n```    VLM-R1's: pixels
        <ref>cat</ref><box>(100,200),(300,400)</box>                Qwen-VL's: 0 to 1000
    """
    if record_fields.choices_of(record, where):
        return None  # a box is one of the choices, and scored as such
    text = text.strip()
    asked = asks_for_boxes(question, record)
    if asked and text == "[]":
        return WrittenBoxes([], "pixels")
    if asked and text.lower().rstrip(".") == "no objects":
        return WrittenBoxes([], "norm1000", "position")
    pair = corners and CORNERS.fullmatch(text)
    if pair:
        return WrittenBoxes([[int(v) for v in pair.groups()]], "norm1000", "corners")
    if re.search("[\"'](Position|bbox_2d)[\"']", text):
        return boxes_of_json(text, where)
    plain = QWEN2_MARK.sub(lambda mark: QWEN2_MARKS[mark[0]], text)
    if "<box>" in plain:
        return marked_boxes(plain, asked, where)
    fenced = FENCE.fullmatch(text)
    numbers = (fenced[1] if fenced else text).rstrip(" .")
    if pictures and BRACKETS.fullmatch(numbers) and corners_of(numbers):
        return boxes_of_numbers(numbers, question, record, where)
    if PLACE_TOKEN.search(text) or (asked and pictures and holds_box(text)):
        raise UserError(
            f"{where}: the answer writes a box in a way that is not read ({short(text, 60)}); "
            'write [x1, y1, x2, y2] alone, or {"bbox_2d": [x1, y1, x2, y2], "label": "..."}'
        )
    return None


def holds_box(text: str) -> bool:
    """Tell whether an answer that is no box, asked for one, has one inside or in another way."""
    is_short = len(text) < worked_answers.SHORT_ANSWER
    return bool(OTHER_KEY.search(text) or (is_short and WITHIN.search(text)))


def gold_part(text: str) -> str:
    """Cut out what of a worked text may be boxes, "" if nothing is."""
    if not MAY_BE_BOXES.search(text):
        return ""
    rest = text.rpartition("</think>")[2].strip()
    starts = rest.startswith(tuple("[({<`")) and "<think>" not in rest
    return worked_answers.gold_in(text) or (rest if starts else "")


def boxes_of_list(value: list, question: str, record: dict, where: str) -> WrittenBoxes:
    """Read a JSON list, a box (VLM-R1) or several. UserError if the question asks for a list."""
    if four_numbers_are(question, record) == "list":
        raise UserError(
            f"{where}: {short(value, 60)} is read as a box, and the question seems to ask for a "
            'list; write the list as a text, or a box as {"bbox_2d": [x1, y1, x2, y2]}'
        )
    several = bool(value) and all(isinstance(item, (list, dict)) for item in value)
    return WrittenBoxes(value if several else [value], "pixels")


def boxes_of_json(text: str, where: str) -> WrittenBoxes:
    """Read VLM-R1's and Visual-RFT's lists of boxes, perhaps fenced."""
    fenced = FENCE.search(text)
    body = fenced[1] if fenced else text
    items = json_or_none(json_quotes(body) if "'Position'" in body else body)
    items = [items] if isinstance(items, dict) else items
    if all_have(items, "Position"):
        return WrittenBoxes([item["Position"] for item in items], "norm1000", "position")
    if all_have(items, "bbox_2d"):
        return WrittenBoxes(items, "pixels")
    raise UserError(
        f"{where}: the answer looks like a list of boxes, but is none ({short(text, 60)}); "
        "fix or delete the record"
    )


def marked_boxes(text: str, asked: bool, where: str) -> WrittenBoxes | None:
    """Read Qwen-VL's and InternVL's marks; None for a long text with some in it.

    <ref>cat</ref><box>(1,2),(3,4)</box>, <ref>dogs</ref><box>[[1,2,3,4],[5,6,7,8]]</box>
    """
    boxes, end = [], 0
    while found := MARKED.match(text, end):
        label = (found[1] or "").strip() or None
        for inside in re.findall("<box>([^<]*)</box>", found[2]):
            for corners in corners_of(inside) or [None]:
                boxes.append({"bbox_2d": corners, "label": label})
        end = found.end()
    if not text[end:].strip() and all(box["bbox_2d"] for box in boxes):
        return WrittenBoxes(boxes, "norm1000")
    if not asked and len(text) >= worked_answers.SHORT_ANSWER:
        return None  # a caption
    raise UserError(
        f"{where}: the answer has <box> marks that cannot be read as boxes alone "
        f"({short(text, 60)}); write <ref>cat</ref><box>(x1,y1),(x2,y2)</box>, one after another"
    )


def boxes_of_numbers(text: str, question: str, record: dict, where: str) -> WrittenBoxes | None:
    """Read an answer of numbers and brackets alone: a box, a list of boxes, or no boxes."""
    boxes = corners_of(text)
    meant = four_numbers_are(question, record)
    if meant == "list":
        return None
    if record.get("box_format"):
        return WrittenBoxes(boxes)
    if POINT.search(text):
        if not asks_for_boxes(question, record):
            return None
        raise UserError(
            f"{where}: the points {short(text, 60)} may be in pixels or in 0 to 1000; "
            'write "box_format": "pixels" or "norm1000" in the record'
        )
    if meant == "box":
        return WrittenBoxes(boxes, "pixels")
    if not text.startswith("[") or not all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in boxes):
        return None
    raise UserError(
        f"{where}: {short(text, 60)} may be a box or a list of numbers; "
        'write {"bbox_2d": [x1, y1, x2, y2]} for a box, or the numbers without brackets'
    )


def corners_of(text: str) -> list[list] | None:
    """Read brackets of numbers as boxes: "(1,2),(3,4)" and "[[1,2,3,4]]" -> [[1, 2, 3, 4]].

    None for what is no boxes.
    """
    value = json_or_none(f"[{text.replace('(', '[').replace(')', ']')}]")
    if value is None:
        return None
    while len(value) == 1 and isinstance(value[0], list):
        [value] = value
    if are_numbers(value, 4):
        return [value]
    if value and all(are_numbers(item, 4) for item in value):
        return value
    if value and len(value) % 2 == 0 and all(are_numbers(item, 2) for item in value):
        return [first + second for first, second in zip(value[::2], value[1::2])]
    return None


def are_numbers(value: Any, count: int) -> bool:
    """Tell whether this is a list of so many numbers."""
    is_list = isinstance(value, list) and len(value) == count
    return is_list and all(type(item) in (int, float) for item in value)


def all_have(items: Any, key: str) -> bool:
    """Tell whether this is a list of objects with this key."""
    return isinstance(items, list) and all(isinstance(i, dict) and key in i for i in items)


def json_quotes(text: str) -> str:
    """Write Python's quotes as JSON's, in one pass.

    [{'label': "men's", 'note': 'a "b"'}] -> [{"label": "men's", "note": "a \\"b\\""}]
    """
    other = {"\\'": "'", '"': '\\"'}

    def in_json(m: re.Match) -> str:
        """Write one match, a quoted text, in double quotes."""
        if m[1] is None:  # not in single quotes
            return m[0]
        inside = re.sub(r'\\.|"', lambda e: other.get(e[0], e[0]), m[1], flags=re.DOTALL)
        return f'"{inside}"'

    strings = r"""\\.|"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'"""
    return re.sub(strings, in_json, text, flags=re.DOTALL)
