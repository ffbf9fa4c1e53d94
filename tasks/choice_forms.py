r"""The ways in which records write choices, each read as (labels, texts).

    ["red", "blue"]                                 no labels
    {"A": "red", "B": "blue", "C": null}            A, B
    {"text": ["red", "blue"], "label": ["1", "2"]}  1, 2 (ARC)
    [{"label": "A", "text": "red"}, ...]            A, B
    "A. red\nB. blue"                               A, B

Columns of the record, option_a and option_b, are gathered into the second: `from_columns`.
"""

import ast
import json
import re
from typing import Any, NamedTuple

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Labels that choices may have, in order.
SERIES = (LETTERS, [str(number) for number in range(1, 27)], [str(n) for n in range(26)])
LABEL_KEYS, TEXT_KEYS = ("label", "key", "id", "letter"), ("text", "value", "content")
LINE = re.compile(r"\s*\(?([A-Za-z])[.):]\s*(\S.*)")  # (A) red
COLUMN = re.compile(r"(?:option|choice)_?([a-j]|\d)", re.IGNORECASE)  # option_a, choiceB, option0


class Choices(NamedTuple):
    """Choices, and how the record calls each; no labels where it does not."""

    labels: list[str]
    texts: list


def read(value: Any) -> Choices | None:
    """Read choices; None for what holds none. A text left out before the last one is None."""
    value = listed(value)
    if is_plain(value):
        texts = [None if is_blank(text) and text == text else text for text in value]
        return Choices([], without_blanks(texts))
    pairs = labelled(value)
    if pairs is None or not all(is_text(text) or is_blank(text) for _, text in pairs):
        return None
    labels = [bare(label) for label, _ in pairs]
    series = next((one for one in SERIES if one[0] in labels and set(labels) <= set(one)), None)
    if series is None or len(set(labels)) < len(labels):
        return None
    by_label = {label: None if is_blank(text) else text for label, (_, text) in zip(labels, pairs)}
    texts = without_blanks([by_label.get(label) for label in series])
    return Choices(list(series[: len(texts)]), texts)


def without_blanks(texts: list) -> list:
    """Drop what is None at the end, with which a table fills its rows."""
    while texts and texts[-1] is None:
        texts = texts[:-1]
    return texts


def is_plain(value: Any) -> bool:
    """Tell whether this is a list of texts and numbers, with null where one is left out."""
    return isinstance(value, list) and all(item is None or is_text(item) for item in value)


def is_text(value: Any) -> bool:
    """Tell whether this may be a choice: a text or a number."""
    return isinstance(value, (str, int, float, bytes))


def labelled(value: Any) -> list[tuple] | None:
    """List the (label, text) of choices that have labels; None for another value."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels = value.get("label")
        fits = isinstance(labels, list) and len(labels) == len(value["text"])
        return list(zip(labels, value["text"])) if fits else None
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, str):
        lines = [LINE.fullmatch(line) for line in value.strip().splitlines()]
        return [line.groups() for line in lines] if len(lines) > 1 and all(lines) else None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    pairs = []
    for item in value:
        label = next((item[key] for key in LABEL_KEYS if key in item), None)
        texts = [item[key] for key in TEXT_KEYS if key in item]
        if label is None or not texts:
            return None
        pairs.append((label, texts[0]))
    return pairs


def bare(label: Any) -> str:
    """Write a label without what surrounds it: "(a)" -> "A"."""
    return str(label).strip(" ().:").upper()


def is_blank(value: Any) -> bool:
    """Tell whether a text or number is empty: null, NaN or blanks. Not [] or 0: has_content."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def listed(value: Any) -> Any:
    """Read a list or an object that is written as text; other values stay.

    "['red', 'blue']" (MMMU) -> ["red", "blue"]
    """
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    for load in (json.loads, ast.literal_eval):
        try:
            return load(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return value


def from_columns(record: dict) -> dict:
    """Gather a record's columns of choices: option_a, option_b -> choices {"A": ..., "B": ...}."""
    columns = {key: COLUMN.fullmatch(str(key)) for key in record}
    columns = {key: found[1] for key, found in columns.items() if found}
    others = [record.get(key) for key in ("choices", "options")]
    if len(columns) < 2 or any(other is not None for other in others):
        return record
    kept = {key: value for key, value in record.items() if key not in columns}
    return {**kept, "choices": {label: record[key] for key, label in columns.items()}}
