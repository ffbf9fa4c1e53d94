r"""Put a question's options into other orders: what a preference for a letter is found out by.

    "Which?\nOptions:\nA. red\nB. blue", gold "A", order [1, 0]
    -> "Which?\nOptions:\nA. blue\nB. red", gold "B"

The letters stay where they are, and the texts move: order[place] is the option that now stands
there.
"""

import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace

from grading.answers import choice_index, without_letters
from tasks import marks
from tasks.example import Example
from tasks.option_texts import are_letters, is_letter

ORDER = "order "  # begins the name of a way to ask with the options in another order
# What may stand between two options: signs, "or", and the letter or number of the next one.
BETWEEN = r"(?:[^\w]+(?:(?:or|and)\b[^\w]+)?|[^\w]*)(?:[A-Z0-9]\b[^\w]+)?"
LONE_LETTER = re.compile(r"[A-Za-z]")
NAMES_OTHERS = re.compile(r"\b[A-J]\b\)?\s*(?:,|&|and\b|or\b)\s*\(?[A-J]\b")  # "Both A and B"


def orders_of(options: int, count: int, seed: str) -> Iterator[list[int]]:
    """Give `count` different orders of so many options, none as written; fewer if there are not.

    First the rotations, in which each option stands once at every letter (the circular evaluation
    of MMBench, arXiv:2307.06281), then shuffled ones.
    """
    as_written = list(range(options))
    taken = [as_written]
    rng = random.Random(f"orders {seed}")
    for number in range(1, min(count, math.factorial(options) - 1) + 1):
        order = as_written[number:] + as_written[:number]
        while order in taken:
            order = rng.sample(as_written, options)
        taken.append(order)
        yield order


def reordered(example: Example, order: list[int]) -> Example | None:
    """Write a question with its options in another order, and its gold accordingly.

    None where that cannot be: options that are not written one after another in the question,
    stand in the picture, hold pictures, or speak of each other's letters.
    """
    choices = example.choices or []
    gold = choice_index(example.answer, choices) if choices else None
    texts = list(without_letters(tuple(choices)))
    if gold is None or len(choices) < 2 or are_letters(choices):
        return None
    if any(marks.PLACE.search(text) or NAMES_OTHERS.search(text) for text in texts):
        return None
    question = moved(example.question, texts, order)
    if question is None:
        return None
    letters = [choice.removesuffix(text) for choice, text in zip(choices, texts)]
    answer = example.answer
    if is_letter(answer, choices):
        letter = chr(ord("A") + order.index(gold))
        alone = len(LONE_LETTER.findall(answer)) == 1
        answer = LONE_LETTER.sub(letter, answer) if alone else letter  # "(A)" -> "(B)"
    new_choices = [letter + texts[place] for letter, place in zip(letters, order)]
    return replace(example, question=question, choices=new_choices, answer=answer, solution=None)


def moved(question: str, texts: list[str], order: list[int]) -> str | None:
    """Exchange the options in a question's text; None unless they stand there in their order."""
    words = [r"\s+".join(map(re.escape, text.split())) for text in texts]
    in_order = BETWEEN.join(rf"(?<!\w)({each})(?!\w)" for each in words)
    places = list(re.finditer(in_order, question, re.IGNORECASE))
    if not places:
        return None
    found = places[-1]  # a story before the options may list the same words
    pieces = []
    end = 0
    for place, option in enumerate(order, 1):
        pieces += [question[end : found.start(place)], found[option + 1]]
        end = found.end(place)
    return "".join([*pieces, question[end:]])
