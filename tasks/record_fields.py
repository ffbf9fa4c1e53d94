"""The fields of a record that are text or choices, and the keys that all layouts share.

Each reader raises UserError, which begins with `where` ("set.jsonl:3") and ends with the remedy.
"""

import math
from decimal import Decimal
from typing import Any

from plumbing.errors import UserError
from plumbing.text import HALF, short
from tasks import choice_forms, files

IMAGE_KEYS = ("images", "image", "image_path")
# Where pictures lie that are given by name, beside their file.
USUAL_FOLDERS = ("", "images", "png", "tables", "clevr_math_imgs")
QUESTION_KEYS = ("question", "problem")
ANSWER_KEYS = ("answer", "ground_truth")
# VLM-R1's rewards whose gold "None" means that there is nothing to find.
DETECTION_METHODS = ("map", "od_ap", "od_ap50", "odLength", "weighted_sum")
NUMBER_OR_TEXT = (str, int, float)  # what `text_of` may read


def text_of(
    record: dict, keys: tuple | list, where: str, types: tuple[type, ...] = (str,)
) -> str | None:
    """Read the first of these keys that is there, as text.

    None if there is none. UserError for another type, NaN, infinity, half a character, no text.
    """
    key = next((key for key in keys if record.get(key) is not None), None)
    if key is None:
        return None
    value = decoded(record[key], key, where)
    if not isinstance(value, types) or isinstance(value, bool):
        raise UserError(
            f"{where}: `{key}` must be {' or '.join(t.__name__ for t in types)}, "
            f"found {type(value).__name__}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(
            f"{where}: `{key}` is {value}, no number; write it as text, or delete the record"
        )
    must_be_whole(value, key, where)
    if not str(value).strip():
        raise UserError(f"{where}: `{key}` is empty; fill it in or delete the record")
    return written(value)


def question_of(record: dict, where: str) -> str | None:
    """Read the question under one of QUESTION_KEYS; UserError for two that differ."""
    filled = [key for key in QUESTION_KEYS if not choice_forms.is_blank(record.get(key))]
    told = [text_of(record, [key], where) for key in filled]
    words = {" ".join(text.replace("<image>", " ").split()) for text in told}
    if len(words) > 1:
        raise UserError(
            f"{where}: `question` and `problem` differ; delete the one that is not to be asked"
        )
    marked = [text for text in told if "<image>" in text]
    return (marked + told)[0] if told else text_of(record, QUESTION_KEYS, where)


def written(value: str | int | float) -> str:
    """Write a number as a person would: 1e-05 -> "0.00001", 1e+16 -> "10000000000000000"."""
    text = str(value)
    is_power = isinstance(value, float) and "e" in text
    return format(Decimal(text), "f") if is_power else text


def decoded(value: Any, key: str, where: str) -> Any:
    """Read bytes, of a binary column, as UTF-8 text; other values stay."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UserError(
            f"{where}: `{key}` holds bytes that are no UTF-8 text; "
            "save it as text, or delete the record"
        ) from None


def must_be_whole(value: Any, key: str, where: str) -> None:
    """Refuse a text with half a character."""
    if isinstance(value, str) and not value.isascii() and HALF.search(value):
        raise UserError(
            f"{where}: `{key}` contains half of a surrogate pair (a character cut in two); "
            "fix or delete the record"
        )


def label_of(record: dict, key: str, where: str) -> str | None:
    """Read an id or a task as text; null, NaN and blanks as None."""
    value = record.get(key)
    if value is None or value != value:
        return None
    value = decoded(value, key, where)
    if isinstance(value, (dict, list)):
        text = files.printable(short(value, 1000))
    else:
        text = str(value)
    must_be_whole(text, key, where)
    return text if text.strip() else None


def carried(meta: dict, where: str) -> dict:
    """Make of the rest of a record what can be written and printed."""
    try:
        return files.printable(meta)
    except RecursionError:
        raise UserError(
            f"{where}: the record is nested too deeply; expected a flat object; "
            "delete what is deep in it"
        ) from None


def needed(record: dict, key: str, where: str, types: tuple[type, ...] = (str,)) -> str:
    """Read a key that this layout cannot do without: `text_of`, never None."""
    text = text_of(record, [key], where, types)
    if text is None:
        raise UserError(f"{where}: `{key}` is null; fill it in or delete the record")
    return text


def choices_of(record: dict, where: str, key: str | None = None) -> list[str] | None:
    """Read `choices`, or `options` if it holds some, as a list of texts; None without any.

    key: the one that holds them, if the layout tells. tasks/choice_forms.py has their forms.
    """
    key = key or choice_key(record)
    if choice_forms.is_blank(record.get(key)):
        return None
    found = choice_forms.read(record[key])
    if found is None:
        raise UserError(
            f"{where}: `{key}` must be a list of texts, found {type(record[key]).__name__}; "
            'write ["red", "blue"]'
        )
    must_have_no_gap(found, key, where)
    choices = [decoded(choice, key, where) for choice in found.texts]
    for choice in choices:
        must_be_whole(choice, key, where)
        if isinstance(choice, float) and not math.isfinite(choice):
            name = "NaN" if choice != choice else str(choice)
            raise UserError(
                f"{where}: `{key}` holds {name}, which is no choice; "
                "write it as text, or delete the record"
            )
    return [written(c) for c in choices] or None


def must_have_no_gap(found: choice_forms.Choices, key: str, where: str) -> None:
    """Refuse choices of which one is left out: {"A": "red", "B": null, "C": "blue"}."""
    labels = found.labels or choice_forms.LETTERS[: len(found.texts)]
    for label, text in zip(labels, found.texts):
        if text is None:
            raise UserError(
                f"{where}: `{key}` has no text for {label}, but for {labels[-1]}; "
                "fill it in, or delete the record"
            )


def choice_key(record: dict) -> str:
    """Tell which key holds the choices. `options` may also be something else, and stays then."""
    if record.get("choices") is not None or record.get("options") is None:
        return "choices"
    return "options" if choice_forms.read(record["options"]) else "choices"


def without(record: dict, *keys: str) -> dict:
    """Copy a record without these keys."""
    return {k: v for k, v in record.items() if k not in keys}
