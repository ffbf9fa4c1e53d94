"""Where pictures stand in the user's turns: one <image> for each, in order, or none at all."""

import re

from tasks import image_fields
from tasks.example import Turn

MARK = "<image>"  # in a user's turn, the place of a picture
NUMBERED = re.compile(r"<image ?(\d{1,2})>")  # MMMU's <image 1>


def placed(history: list[Turn], question: str, count: int, where: str) -> tuple[list[Turn], str]:
    """Check the marks in the user's turns, and drop those that only say that pictures come first.

    UserError unless there is one <image> for each of the `count` pictures, or none at all.
    """
    asked = [turn.text for turn in history if turn.role == "user"] + [question]
    image_fields.must_match_marks(["\n".join(asked)], count, where)
    *history, last = without_first_marks([*history, Turn("user", question)])
    return history, last.text


def without_first_marks(turns: list[Turn]) -> list[Turn]:
    """Strip the texts of a conversation, and its marks if all stand before its first words.

    Without marks pictures come first all the same, and nothing is left between them and the text.
    "<image>\\n<image> Which?" -> "Which?"; "<image> or <image>?" stays.
    """
    turns = [Turn(role, text.strip()) for role, text in turns]
    at = next((n for n, turn in enumerate(turns) if turn.role == "user"), None)
    if at is None:
        return turns
    rest = turns[at].text
    while rest.startswith(MARK):
        rest = rest.removeprefix(MARK).lstrip()
    others = [turn.text for n, turn in enumerate(turns) if turn.role == "user" and n != at]
    if not any(MARK in text for text in [rest, *others]):
        turns[at] = Turn("user", rest)
    return turns


def in_order(text: str, images: list) -> tuple[str, list]:
    """Write numbered marks as <image>, with the pictures in the order of their marks.

    "Is <image 2> or <image 1> red?", [a, b] -> "Is <image> or <image> red?", [b, a]
    A picture without a mark comes first. A second mention of one stays words: "image 1".
    """
    order, parts, end = [], [], 0
    for mark in NUMBERED.finditer(text):
        number = int(mark[1])
        if not 1 <= number <= len(images):
            continue  # refused later, with the number
        parts += [text[end : mark.start()], f"image {number}" if number in order else "<image>"]
        end = mark.end()
        if number not in order:
            order.append(number)
    unmarked = [number for number in range(1, len(images) + 1) if number not in order]
    if order:
        parts.insert(0, "<image>" * len(unmarked))
    return "".join(parts) + text[end:], [images[number - 1] for number in unmarked + order]
