"""Where pictures stand in the user's turns: one <image> for each, in order, or none at all."""

import re

from tasks import image_fields
from tasks.example import Turn

LEADING = re.compile(r"(?:\s*<image>)*\s*")
NUMBERED = re.compile(r"<image ?(\d{1,2})>")  # MMMU's <image 1>


def placed(history: list[Turn], question: str, count: int, where: str) -> tuple[list[Turn], str]:
    """Check the marks in the user's turns, and drop those that only say that pictures come first.

    UserError unless there is one <image> for each of the `count` pictures, or none at all.
    """
    asked = [turn.text for turn in history if turn.role == "user"] + [question]
    image_fields.must_match_marks(["\n".join(asked)], count, where)
    leading = LEADING.match(asked[0])
    if leading[0].count("<image>") == count:
        asked[0] = asked[0][leading.end() :]
    users = iter(asked)
    turns = []
    for turn in history:
        text = next(users) if turn.role == "user" else turn.text
        turns.append(Turn(turn.role, text.strip()))
    return turns, next(users).strip()


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
