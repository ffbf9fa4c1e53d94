"""The gold that a record has under a key of its own, and whether it names one of the choices."""

import re
from typing import Any

from grading.answers import choice_index, equal_as_text_or_number, match_answer
from grading.reading import read, text_form
from grading.values import Choice
from plumbing.errors import UserError
from plumbing.text import short
from tasks import choice_forms, image_fields, record_fields, worked_answers
from tasks.record_fields import NUMBER_OR_TEXT

# Where a gold may be. A question may have several of these, which must agree; the first is taken.
KEYS = (
    *record_fields.ANSWER_KEYS,
    *("gt", "gt_answer", "correct_answer", "correct_choice", "correct_option"),
    *("multiple_choice_answer", "answerKey"),  # VQAv2's, ARC's
)
PLACE_KEYS = ("answer_idx", "answer_index", "correct_choice_idx")  # counted from 0, or a letter
LESSER_KEYS = ("answers", "label")  # read where there is none of the others
OF_PAIRS = (*record_fields.ANSWER_KEYS, "answer_gt")  # of preference pairs; the last is MMPR's
OF_OUTPUTS = ("ground_truth", "gold", "gt", "label", "solution")  # of saved outputs, after `answer`
# Names of other keys that may hold the gold.
SEEMS_GOLD = re.compile(
    r"(?:final|short|full|direct|gold|golden|correct|right|true|reference|expected|target)?"
    r"(?:answers?|answertext|labels?|gts?|golds?|groundtruths?|targets?|responses?|outputs?|reply"
    r"|captions?|completions?|option|choice|(?:answer|choice)(?:idx|index))"
)


def answer_of(record: dict, where: str) -> str | None:
    """Read the gold under a record's own key; None without one.

    An empty one is absent (R1-Onevision's `gt`), unless it is all that there is.
    UserError for two that differ, and for a number that may be the place of a choice.
    """
    choices = record_fields.choices_of(record, where)
    golds = golds_of(record, (*KEYS, *PLACE_KEYS), choices, where)
    if not golds:
        golds = golds_of(record, LESSER_KEYS, choices, where)
    if not golds:
        return record_fields.text_of(record, record_fields.ANSWER_KEYS, where, NUMBER_OR_TEXT)
    first, *others = golds
    for key in others:
        if differ(golds[first], golds[key], choices, where):
            raise UserError(
                f"{where}: `{first}` is {short(golds[first], 40)!r}, but `{key}` is "
                f"{short(golds[key], 40)!r}; delete the one that is not the answer"
            )
    return golds[first]


def golds_of(record: dict, keys: tuple, choices: list[str] | None, where: str) -> dict[str, str]:
    """Read the golds under those of these keys that hold one: {key: gold}."""
    golds = {}
    for key in keys:
        if key in record and not choice_forms.is_blank(record[key]):
            gold = gold_under(key, record, choices, where)
            golds |= {} if gold is None else {key: gold}
    return golds


def gold_under(key: str, record: dict, choices: list[str] | None, where: str) -> str | None:
    """Read the gold under one key; None if it holds none."""
    value = one_of(record.get(key), key, where)
    if key not in record_fields.ANSWER_KEYS and not holds_gold(key, value, choices):
        return None
    text = record_fields.text_of({key: value}, [key], where, NUMBER_OR_TEXT)
    if text is None:
        return None
    labels = labels_of(record) or list(choice_forms.LETTERS[: len(choices or [])])
    if choices and key in PLACE_KEYS and text.isdecimal():
        return choice_at(int(text[:9]), choices, key, where)
    if choices and choice_forms.bare(text) in labels:
        place = labels.index(choice_forms.bare(text))
        others = [choice for at, choice in enumerate(choices) if at != place]
        is_text = any(equal_as_text_or_number(text, other) for other in others)
        if is_text and key != "answerKey":
            raise UserError(
                f"{where}: `{key}` is {text}, the label of {short(choices[place], 40)!r} and the "
                "text of another choice; write letter and text of the one that is meant"
            )
        return text if labels[0] == "A" and not is_text else choices[place]
    must_be_no_place(value, choices, where)
    return text


def one_of(value: Any, key: str, where: str) -> Any:
    """Take the answer of a list that holds one, or the same several times; others stay.

    VQA's [{"answer": "red", "answer_confidence": "yes"}, ...] is such a list too.
    UserError for texts that differ: one gold is scored.
    """
    if key == "answers":
        value = choice_forms.listed(value)
    if not isinstance(value, list):
        return value
    given = [item.get("answer") if isinstance(item, dict) else item for item in value]
    if len(given) == 1:
        return given[0]
    if not given or not all(isinstance(item, str) for item in given):
        return value
    first = given[0]
    if all(text_form(item) == text_form(first) for item in given):
        return first
    raise UserError(
        f"{where}: `{key}` holds {len(set(given))} answers ({short(', '.join(given), 60)}), and "
        "one gold is scored; write the one that is meant as `answer`, or delete the record"
    )


def holds_gold(key: str, value: Any, choices: list[str] | None) -> bool:
    """Tell whether a key besides `answer` and `ground_truth` holds a gold.

    `label` may also be the name of a class. The place of a choice says nothing without choices.
    """
    is_value = isinstance(value, (*NUMBER_OR_TEXT, bytes)) and not isinstance(value, bool)
    if not is_value or choice_forms.is_blank(value):  # also an item of a list
        return False
    if key == "label":
        return isinstance(value, str) and bool(choices) and choice_index(value, choices) is not None
    is_place = key in PLACE_KEYS or key in ("correct_choice", "correct_option")
    return bool(choices) or not is_place or not str(value).strip().isdecimal()


def labels_of(record: dict) -> list[str]:
    """List how a record calls its choices: ["1", "2"] of ARC's; [] where it does not."""
    found = choice_forms.read(record.get(record_fields.choice_key(record)))
    return found.labels if found else []


def right_choice(record: dict, key: str, choices: list[str] | None, where: str) -> str | None:
    """Give the text of the right choice: by its place, its letter or its text.

    None in a test split, which does not tell it.
    """
    value = record.get(key)
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():  # of a column with empty fields
        value = int(value)
    if isinstance(value, str) and choices and not value.strip().isdecimal():
        place = choice_index(value, choices)
        value = value if place is None else place
    return choice_at(value, choices, key, where)


def choice_at(place: Any, choices: list[str] | None, key: str, where: str) -> str:
    """Give the text of the choice at a place counted from 0."""
    is_number = isinstance(place, int) and not isinstance(place, bool)
    if not is_number or not choices or not 0 <= place < len(choices):
        raise UserError(
            f"{where}: `{key}` must be the place of a choice, from 0 to "
            f"{len(choices or []) - 1}, found {place!r:.40}; fix it, or delete the record"
        )
    return choices[place]


def must_be_no_place(value: Any, choices: list[str] | None, where: str) -> None:
    """Refuse a number that may be the place of a choice, as in ScienceQA."""
    if not choices or not isinstance(value, int) or isinstance(value, bool):
        return
    if 0 <= value < len(choices) and choices[value] != str(value):
        raise may_be_place(str(value), where)


def may_be_place(answer: str, where: str) -> UserError:
    """Make the message about a number that may be the place of a choice."""
    return UserError(
        f"{where}: the answer is {answer}, which may be the place of a choice, and these are "
        "counted from 0 or from 1; write the choice's letter, or its text in quotes"
    )


def differ(answer: str, other: str, choices: list[str] | None, where: str) -> bool:
    """Tell whether two golds of one record differ. A letter may mean any text."""
    answer, other = (worked_answers.split_gold(text, where).answer for text in (answer, other))
    if not answer or not other or match_answer(other, answer, choices):
        return False
    if worked_answers.contradict(answer, other, choices):
        return True
    if choices or any(isinstance(read(text), Choice) for text in (answer, other)):
        return bool(choices)
    words, others = (set(text_form(text).split()) for text in (answer, other))
    return not (words <= others or others <= words)


def must_name_a_choice(answer: str, choices: list[str] | None, where: str) -> None:
    """Refuse a gold that names none of its record's choices."""
    if not choices or not answer.strip() or choice_index(answer, choices) is not None:
        return
    if answer.isdecimal() and len(answer) < 3 and int(answer) <= len(choices):
        raise may_be_place(answer, where)
    shown = short(", ".join(choices), 100)
    raise UserError(
        f"{where}: the answer {short(answer, 40)!r} names none of the {len(choices)} choices "
        f"({shown}), or several; correct it, or delete the choices if the question has others"
    )


def must_not_be_left(meta: dict, where: str) -> None:
    """Refuse a record without gold and solution, of which another key seems to hold one."""
    for key, value in meta.items():
        name = re.sub(r"[^a-z]", "", str(key).casefold()[:60])
        if SEEMS_GOLD.fullmatch(name) and not isinstance(value, bool):
            if value == 0 or image_fields.has_content(value):
                raise UserError(
                    f"{where}: no answer is read, but `{short(key, 40)}` may hold one; write it "
                    "as `answer`, or as `solution` if it is for imitation only, or delete the key"
                )
