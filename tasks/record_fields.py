"""The fields of a record that are text: read each, or say what is wrong."""

import math

from plumbing.errors import UserError
from plumbing.text import HALF, short
from tasks import files

IMAGE_KEYS = ("images", "image", "image_path")
USUAL_FOLDERS = (
    "",
    "images",
    "png",
    "tables",
    "clevr_math_imgs",
)  # where images lie that are given by name, beside their file
QUESTION_KEYS = ("question", "problem")
ANSWER_KEYS = ("answer", "ground_truth")
MOST_COPIES, MOST_PAIRS = 1000, 10_000_000  # of a set with its repeat_time


def text_of(record, keys, where, types=(str,)):
    """The first of these keys that the record has, as text; None if it has none. UserError for another type, half a character or emptiness."""
    for key in keys:
        value = record.get(key)
        if value is not None:
            value = decoded(value, key, where)  # a binary column of texts
            if not isinstance(value, types) or isinstance(value, bool):
                raise UserError(
                    f"{where}: `{key}` must be {' or '.join(t.__name__ for t in types)}, found {type(value).__name__}"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(
                    f"{where}: `{key}` is {value}, no number; "
                    "write it as text, or delete the record"
                )
            must_be_whole(value, key, where)
            if not str(value).strip():
                raise UserError(f"{where}: `{key}` is empty; fill it in or delete the record")
            return str(value)
    return None


def decoded(value, key, where):
    """Read bytes as UTF-8 text; other values stay. UserError if they are no text."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UserError(
            f"{where}: `{key}` holds bytes that are no UTF-8 text; "
            "save it as text, or delete the record"
        ) from None


def must_be_whole(value, key, where):
    """UserError for a text with half a character."""
    if isinstance(value, str) and not value.isascii() and HALF.search(value):
        raise UserError(
            f"{where}: `{key}` contains half of a surrogate pair (a character cut in two); "
            "mend or delete the record"
        )


def label_of(record, key, where):
    """Read what is only shown, an id or a task, as text; null, NaN and blanks as None."""
    value = record.get(key)
    if value is None or value != value:
        return None
    value = decoded(value, key, where)
    text = files.mended(short(value, 1000)) if isinstance(value, (dict, list)) else str(value)
    must_be_whole(text, key, where)
    return text if text.strip() else None


def carried(meta, where):
    """Make of the rest of a record what can be written and printed."""
    try:
        return files.mended(meta)
    except RecursionError:
        raise UserError(
            f"{where}: the record is nested too deeply; expected a flat object; "
            "delete what is deep in it"
        ) from None


def needed(record, key, where, types=(str,)):
    """text_of a key that this layout cannot do without."""
    text = text_of(record, [key], where, types)
    if text is None:
        raise UserError(f"{where}: `{key}` is null; fill it in or delete the record")
    return text


def choices_of(record, where):
    """`choices` as a list of texts, or None."""
    choices = record.get("choices")
    if isinstance(choices, list):
        choices = [decoded(choice, "choices", where) for choice in choices]
    if choices is not None and not (
        isinstance(choices, list) and all(isinstance(c, (str, int, float)) for c in choices)
    ):
        raise UserError(f"{where}: `choices` must be a list of texts")
    for choice in choices or []:
        must_be_whole(choice, "choices", where)
        if choice != choice:
            raise UserError(
                f"{where}: `choices` holds NaN, which is no choice; "
                "write it as text, or delete the record"
            )
    return [str(c) for c in choices] if choices else None


def without(record, *keys):
    """What is left of a record."""
    return {k: v for k, v in record.items() if k not in keys}


# ---- boxes

DETECTION_METHODS = (
    "map",
    "od_ap",
    "od_ap50",
    "odLength",
    "weighted_sum",
)  # VLM-R1's rewards whose gold "None" means that there is nothing to find
