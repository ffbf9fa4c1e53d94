"""Find the options that a running text names by letters: "A: red, B: blue"."""

import re

from tasks import choice_forms

LETTER = re.compile(r"(?:(?<=[\s,;，；。、])|^)[(（]?([A-J])\s?[.:)：．）、](?!\w*://)\s*")
AT_THE_END = " \t\r\n,;，；"


def options_in(text: str) -> list[str] | None:
    """List the options that follow A, B, C, ... in a text; None if they cannot be told.

    "A: red, B: blue" -> ["red", "blue"]. The letters must come in order, each of them once.
    """
    marks = list(LETTER.finditer(text))
    letters = [mark[1] for mark in marks]
    if len(marks) < 2 or letters != [chr(ord("A") + place) for place in range(len(marks))]:
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    options = [text[mark.end() : end].strip(AT_THE_END) for mark, end in zip(marks, ends)]
    return options if all(options) else None


def options_after(question: str, heading: str) -> list[str] | None:
    """List the options that stand behind the last such heading; None without one."""
    _, found, options = question.rpartition(heading)
    return options_in(options) if found else None


def without_false_letters(choices: list[str] | None) -> list[str] | None:
    """Name choices by their letters where the text of one is the letter of another.

    ["E", "B", "C", "A"] -> ["A", "B", "C", "D"]: "A" is then the first, not the last.
    """
    if not choices:
        return choices
    letters = list(choice_forms.LETTERS[: len(choices)])
    texts = [choice_forms.bare(choice) for choice in choices]
    mislead = any(text in letters and text != own for text, own in zip(texts, letters))
    return letters if mislead else choices
