r"""Find an answer in a completion, and compare two. Text in, True or False out.

    completion --extract_answer--> body --match_answer(body, gold, choices)--> True / False

An answer is put into one spelling (spelling.py), read into a typed value (reading.py) and compared
with another (comparing.py), formulas by evaluation (equality.py). What cannot be decided is
unequal. No text is run, and nothing waits on a clock. docs/rewards.md has the rules.
"""

import functools
import logging
import re
from fractions import Fraction

from grading.comparing import same
from grading.equality import TooLarge, exact, forget_values
from grading.expressions import parse, variables
from grading.phrases import letter_and_text, names_another_letter, read_choice
from grading.reading import MAX_ANSWER, parts, read, read_spelled, text_form
from grading.spelling import spell
from grading.units import Unit
from grading.values import Choice, Expression, Text, Value, YesNo

log = logging.getLogger(__name__)

MAX_TAIL = 100_000  # characters after the thinking that are searched for the answer, from the end


# --- finding the answer ---


def extract_answer(completion: str) -> str | None:
    """Find the body of the last well-formed `<answer>...</answer>` after the thinking.

    None if there is none or it is empty. An answer before or inside the thinking does not count:
    a policy that is paid for it learns to answer first and to think never.
    A completion without think tags is searched as a whole.
    """
    tail = completion.rpartition("</think>")[2]
    if "<think>" in tail:
        return None
    # text, tag, text, tag, ..., text: linear on any input
    pieces = re.split(r"(</?answer>)", tail[-MAX_TAIL:])
    for i in range(len(pieces) - 4, 0, -2):
        if pieces[i] == "<answer>" and pieces[i + 2] == "</answer>":
            return pieces[i + 1].strip() or None
    return None


def parse_failure(completion: str) -> bool:
    """Tell whether there is no answer to score."""
    return extract_answer(completion) is None


# --- comparing two answers ---

_undecided = 0


def undecided() -> int:
    """Count the comparisons of this process that were too large to work out."""
    return _undecided


def match_answer(prediction: str | None, gold: str, choices: list[str] | None = None) -> bool:
    """Tell whether the prediction, an answer body or None, says the same as the gold."""
    if prediction is None or not prediction.strip() or not gold.strip():
        return False
    # The completions of a group repeat their answers. Long texts would fill the memory.
    match = _match if len(prediction) <= MAX_ANSWER else _match.__wrapped__
    equal = match(prediction, gold, tuple(choices or ()))
    if equal is None:
        global _undecided
        _undecided += 1
    return bool(equal)


@functools.lru_cache(maxsize=8192)
def _match(prediction: str, gold: str, choices: tuple[str, ...]) -> bool | None:
    """Compare as match_answer does; return None if a number on the way is too large."""
    right = choice_index(gold, choices) if choices else None
    if right is None:
        return _same_text(prediction, gold, bool(choices))
    picked = choice_index(prediction, choices)
    if picked is not None or len(prediction) > MAX_ANSWER:
        return picked == right
    # The prediction may still be a formula that equals one choice and no other.
    equal = [_same_text(prediction, choice, True) for choice in without_letters(choices)]
    if None in equal:
        return None
    return equal[right] is True and equal.count(True) == 1


def _same_text(prediction: str, gold: str, has_choices: bool) -> bool | None:
    """Compare two texts; return None if a number on the way is too large."""
    if _spelled_alike(prediction, gold):
        return True
    said, expected = read(prediction), read(gold)
    if isinstance(said, Choice) and said.rest and not isinstance(expected, Choice):
        if has_choices:
            return False  # the letter stands for an option, and it is not this one
        said = read_spelled(said.rest)  # "B. 140°" for 140°
    if Text in (type(said), type(expected)) and text_form(prediction) == text_form(gold):
        return True
    try:
        return same(said, expected)
    except TooLarge:
        log.warning("a number is too large, counted as unequal: %.80r, %.80r", prediction, gold)
        return None


def _spelled_alike(prediction: str, gold: str) -> bool:
    """Tell whether two texts are spelled alike, case included."""
    long = [len(text) > MAX_ANSWER for text in (prediction, gold)]
    if any(long):
        return all(long) and prediction.split() == gold.split()
    return _compact(spell(prediction)) == _compact(spell(gold))


def _compact(text: str) -> str:
    """Drop the spaces but those between two digits or two letters: 300 K is 300K, 3 7 is not 37."""
    kept = re.sub(r"(?<=[0-9])\s+(?=[0-9])|(?<=[^\W\d])\s+(?=[^\W\d])", "\0", text)
    return re.sub(r"\s+", "", kept)


def quantity(text: str) -> tuple[Fraction, Unit | None] | None:
    """Read a text as one number that is known exactly, with its unit; else None."""
    value = read(text)
    number = _exact_or_none(value.tree) if isinstance(value, Expression) else None
    return None if number is None else (number, value.unit)


def _exact_or_none(tree: tuple) -> Fraction | None:
    try:
        return exact(tree)
    except TooLarge:
        return None


# --- choices ---


def choice_index(text: str, choices: list[str] | tuple[str, ...]) -> int | None:
    """Find which choice, a list of texts, a text names: by its words, its number or its letter.

    None if it names none, or more than one.
    """
    if not text.strip():
        return None
    if len(text) > MAX_ANSWER:
        return _choice_of_long_text(text, without_letters(tuple(choices)))
    return _choice_index(text, tuple(choices))


@functools.lru_cache(maxsize=8192)
def _choice_index(text: str, choices: tuple[str, ...]) -> int | None:
    if not spell(text):
        return None
    choices = without_letters(choices)
    # Words first: a choice may itself read "A".
    alike = [i for i, choice in enumerate(choices) if _spelled_alike(text, choice)]
    if alike:
        return alike[0]
    equal = [i for i, choice in enumerate(choices) if equal_as_text_or_number(text, choice)]
    if equal:
        return equal[0] if len(equal) == 1 else None
    letter, rest = letter_and_text(spell(text)) or (_lone_letter(text), "")
    index = _place(letter, choices)
    if index is None or not rest or equal_as_text_or_number(rest, choices[index]):
        return index
    others = [choice for i, choice in enumerate(choices) if i != index]
    if names_another_letter(letter, rest) or _mentions(rest, others):
        return None  # "A: dog" and "A. cat or dog" where dog is B
    return index


def _choice_of_long_text(text: str, choices: tuple[str, ...]) -> int | None:
    """Find the choice whose text a long text is, with its letter or without."""
    letter, rest = letter_and_text(text) or ("", "")
    form, form_of_rest = text_form(text), text_form(rest)
    for i, choice in enumerate(choices):
        own = text_form(choice)
        if own == form or (own == form_of_rest and i == _place(letter, choices)):
            return i
    return None


def _lone_letter(text: str) -> str:
    choice = read_choice(spell(text))
    return choice.letter if choice else ""


def _place(letter: str, choices: tuple[str, ...]) -> int | None:
    """Return the index of a letter's choice; None if there is no such choice."""
    index = ord(letter.casefold()) - ord("a") if letter else len(choices)
    return index if index < len(choices) else None


def _mentions(text: str, choices: list[str]) -> bool:
    form = text_form(text)
    patterns = (rf"(?<!\w){re.escape(text_form(choice))}(?!\w)" for choice in choices)
    return any(re.search(pattern, form) for pattern in patterns)


def without_letters(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Strip the letters that choices carry: ["A. cat", "B. dog"] -> ("cat", "dog")."""
    parted = [letter_and_text(spell(choice[:MAX_ANSWER])) or ("", "") for choice in choices]
    letters = [letter.casefold() for letter, _ in parted]
    if letters != [chr(ord("a") + i) for i in range(len(choices))]:
        return choices
    return tuple(letter_and_text(spell(choice))[1] for choice in choices)


def equal_as_text_or_number(a: str, b: str) -> bool:
    """Tell whether two texts are equal as texts, or as numbers with units without roots."""
    x, y = read(a), read(b)
    if isinstance(x, Expression) and isinstance(y, Expression):
        known = _exact_or_none(x.tree) is not None and _exact_or_none(y.tree) is not None
        return x == y or (known and same(x, y))
    if x == y:
        return x != Text("")
    return text_form(a) == text_form(b) != ""


def forget() -> None:
    """Clear what is remembered, so that every comparison is worked out: for measurements."""
    for cached in (_match, _choice_index, read_spelled, parts, spell, parse, variables, exact):
        cached.cache_clear()
    forget_values()


# --- voting ---


def normalize_answer(text: str, choices: list[str] | None = None) -> str:
    """Write an answer as the string that it votes with (majority@N).

    With choices, every way to name one gives its letter. Only numbers, letters and yes or no are
    brought to one form: 2/4 votes with 0.5, but 2√3 not with √12. Units are dropped.
    """
    index = choice_index(text, choices) if choices else None
    if index is not None:
        return chr(ord("a") + index) if index < 26 else f"choice {index + 1}"
    return _form(read(text), text)


def _form(value: Value, text: str) -> str:
    if isinstance(value, Choice):
        return value.letter
    if isinstance(value, YesNo):
        return value.word
    if isinstance(value, Expression):
        return _form_of_tree(value.tree)
    if isinstance(value, Text):
        again = read(value.text)  # in small letters it may be a formula: CΑ, c times alpha
        return value.text if again == value else _form(again, value.text)
    return text_form(text).replace(" ", "")


def _form_of_tree(tree: tuple) -> str:
    number = _exact_or_none(tree)
    if number is not None and number.numerator.bit_length() < 10_000:
        return str(number)
    if tree[0] == "n":
        return f"{tree[1].numerator:x}/{tree[1].denominator:x}"  # str refuses 4,300 digits
    if tree[0] == "s":
        return tree[1]
    return f"{tree[0]}({','.join(map(_form_of_tree, tree[1:]))})".casefold()
