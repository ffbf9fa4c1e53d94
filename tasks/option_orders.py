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
LETTERS = r"(?:\b[A-J]\b|\([A-Ja-j]\))"
NAMES_OTHERS = (  # what an option says of others by their letter or place
    re.compile(rf"{LETTERS}\)?\s*(?:[,&/+]|and\b|or\b|nor\b|but\b)\s*(?:not\b\s*)?\(?{LETTERS}"),
    re.compile(rf"\b(?:[Oo]nly|[Oo]ptions?|[Cc]hoices?|[Ss]ame as) \(?{LETTERS}"),
    re.compile(rf"{LETTERS}\)? only\b"),
    re.compile(
        r"\b(?:the|all|any|none) above\b|\bof the (?:below|previous|preceding)\b|以上",
        re.IGNORECASE,
    ),
)


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
    stand in the picture, hold pictures, or speak of each other ("Both A and B", "All of the
    above"). Nor where the gold would name another one: of options that are letters themselves.
    """
    choices = example.choices or []
    gold = choice_index(example.answer, choices) if choices else None
    texts = list(without_letters(tuple(choices)))
    if gold is None or len(choices) < 2 or are_letters(choices):
        return None
    if any(marks.PLACE.search(text) or names_others(text) for text in texts):
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
    stands_at = choice_index(answer, new_choices)
    if stands_at is None or order[stands_at] != gold:
        return None
    return replace(example, question=question, choices=new_choices, answer=answer, solution=None)


def names_others(option: str) -> bool:
    """Tell whether an option speaks of others, whose letters and places change."""
    return any(form.search(option) for form in NAMES_OTHERS)


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
