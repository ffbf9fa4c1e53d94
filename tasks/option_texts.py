r"""Show a question's choices where it does not name them itself."""

import re

from grading.answers import without_letters
from tasks import marks

WORD_OR_SIGN = re.compile(r"[^\W_]+|[^\w\s.,;:!?()\[\]]")  # what counts in a comparison


def with_choices(question: str, choices: list[str] | None) -> str:
    r"""Put the choices below a question that does not name them.

    "Which?", ["red", "blue"] -> "Which?\nOptions:\nA. red\nB. blue". Choices that carry letters
    stand as they are: ["(A) red", "(B) blue"] -> "Which?\nOptions:\n(A) red\n(B) blue".
    Choices that are bare letters stand in the picture, and are not repeated.
    """
    if not choices or are_letters(choices) or names_all(question, choices):
        return question
    lines = choices
    if without_letters(tuple(choices)) == tuple(choices):
        lines = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices)]
    return "\n".join([question.rstrip(), "Options:", *lines])


def are_letters(choices: list[str]) -> bool:
    """Tell whether the choices are the letters A, B, C, ... and nothing else."""
    letters = [choice.strip(" ().:").upper() for choice in choices]
    return letters == [chr(ord("A") + place) for place in range(len(choices))]


def names_all(question: str, choices: list[str]) -> bool:
    """Tell whether every choice stands in the question, each as words of its own."""
    asked = plain_words(question)
    for place, choice in enumerate(without_letters(tuple(choices))):
        if marks.PLACE.search(choice):  # the question's own pictures name no choice
            choice = f"{chr(ord('A') + place)} {choice}"
        if plain_words(choice) not in asked:
            return False
    return True


def plain_words(text: str) -> str:
    """Write a text so that one inside another can be found: " red cube " in " the red cube "."""
    return f" {' '.join(WORD_OR_SIGN.findall(text.casefold()))} "
