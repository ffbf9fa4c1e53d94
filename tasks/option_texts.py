"""Show a question's choices where it does not name them itself."""

import re

from grading.answers import choice_index, equal_as_text_or_number, without_letters
from plumbing.errors import UserError
from plumbing.text import short
from tasks import choice_forms, image_fields, marks

# What counts in a comparison.
WORD_OR_SIGN = re.compile(r"[^\W_]+|[^\w\s.,;:!?()\[\]、．：，（）]")
LETTER = re.compile(r"\(?[A-J][).]?")
# Names of keys that may hold choices.
SEEMS_CHOICES = re.compile(
    r"(?:answer_?|multi(?:ple)?_?|mcq?_?)?(?:options?|choices?|candidates)(?:_?(?:text|list|str))?|[ab]",
    re.IGNORECASE,
)
SECOND_OPTION = re.compile(r"(?<![^\s(,;])B\s*[.:)、]")


def with_choices(question: str, choices: list[str] | None, gold: str | None = None) -> str:
    r"""Put the choices below a question that does not name them.

    "Which?", ["red", "blue"] -> "Which?\nOptions:\nA. red\nB. blue". Choices that carry letters
    stand as they are: ["(A) red", "(B) blue"] -> "Which?\nOptions:\n(A) red\n(B) blue".
    Choices that are bare letters stand in the picture, and are not repeated.
    Where the gold is a letter, the question must name the choices with their letters.
    """
    if not choices or are_letters(choices):
        return question
    if names_all(question, choices, with_letters=is_letter(gold, choices)):
        return question
    lines = choices
    if without_letters(tuple(choices)) == tuple(choices):
        lines = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices)]
    return "\n".join([question.rstrip(), "Options:", *lines])


def is_letter(gold: str | None, choices: list[str]) -> bool:
    """Tell whether the gold names its choice by letter, not by its text."""
    place = choice_index(gold, choices) if gold else None
    if place is None:
        return False
    return not equal_as_text_or_number(gold, without_letters(tuple(choices))[place])


def must_be_shown(meta: dict, asked: list[str], gold: str, where: str) -> None:
    """Refuse a letter as gold where its choices are neither read nor in what is asked.

    meta: what of the record is carried along unread. asked: the question, and what came before.
    """
    if not LETTER.fullmatch(gold) or any(SECOND_OPTION.search(text) for text in asked):
        return
    for key, value in meta.items():
        holds = isinstance(value, (str, dict, list)) and image_fields.has_content(value)
        if holds and SEEMS_CHOICES.fullmatch(str(key)[:60]):
            raise UserError(
                f"{where}: the answer is the letter {gold}, but no choices are read, and "
                f"`{short(key, 40)}` may be these; write them as `choices`: "
                '["red", "blue"], or delete the key if the picture shows them'
            )


def are_letters(choices: list[str]) -> bool:
    """Tell whether the choices are the letters A, B, C, ... and nothing else."""
    return list(map(choice_forms.bare, choices)) == list(choice_forms.LETTERS[: len(choices)])


def names_all(question: str, choices: list[str], with_letters: bool = False) -> bool:
    """Tell whether every choice stands in the question, each as words of its own."""
    asked = plain_words(question)
    for place, choice in enumerate(without_letters(tuple(choices))):
        # Of options that are pictures of the question, the letters tell them apart.
        needs_letter = with_letters or marks.PLACE.search(choice)
        letter = chr(ord("A") + place) if needs_letter else ""
        if plain_words(f"{letter} {choice}") not in asked:
            return False
    return True


def plain_words(text: str) -> str:
    """Write a text so that one inside another can be found: " red cube " in " the red cube "."""
    plain = text.replace("**", "").casefold()
    return f" {' '.join(WORD_OR_SIGN.findall(plain))} "
