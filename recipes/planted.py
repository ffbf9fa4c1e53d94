"""Faults of known kinds for worked answers about drawn scenes, and what only looks like one.

recipes/planted_distill.py counts what each filter of distill.py finds of them.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from distilling import filters
from distilling.stages import to_trace
from distilling.toy_teacher import with_sentence
from recipes import leak_sentences
from tasks import drawing
from tasks.example import Example

SENTENCES = "unseen"  # which of leak_sentences.py are planted
EVERY_LEAK = [text for group in leak_sentences.LEAKS.values() for text in group]


def with_answer(solution: str, answer: str) -> str:
    """Put another answer into a worked answer."""
    return f"<think> {to_trace(solution).thinking} </think><answer> {answer} </answer>"


def leaking(solution: str, example: Example, rng: random.Random) -> str:
    """Plant a leak."""
    return with_sentence(solution, rng.choice(leak_sentences.LEAKS[SENTENCES]), rng)


def innocent(solution: str, example: Example, rng: random.Random) -> str:
    """Plant a sentence that only looks like a leak."""
    return with_sentence(solution, rng.choice(leak_sentences.INNOCENT[SENTENCES]), rng)


def wrong(solution: str, example: Example, rng: random.Random) -> str:
    """Plant a wrong answer: another number of the scene's size, or another choice."""
    if example.choices:
        others = [choice for choice in example.choices if choice != example.answer]
        return with_answer(solution, rng.choice(others))
    gold = int(example.answer)
    return with_answer(solution, str(rng.choice([n for n in range(8) if n != gold])))


NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def respelt(solution: str, example: Example, rng: random.Random) -> str:
    """Write the right answer in another way."""
    if example.choices:
        letter = "ABCD"[example.choices.index(example.answer)]
        forms = [f"({letter})", f"{letter}. {example.answer}", f"In the {example.answer}."]
        return with_answer(solution, rng.choice([*forms, example.answer.upper()]))
    word = NUMBER_WORDS[int(example.answer)]
    objects = f"{example.answer} {example.meta['wanted']} objects"
    forms = [word, objects, f"{example.answer}.0", f"**{example.answer}**", f"There are {word}."]
    return with_answer(solution, rng.choice(forms))


def absent(example: Example, rng: random.Random) -> str | None:
    """Draw the name of an object that the scene does not have; None if it has all."""
    there = {drawing.name_of(o) for o in example.meta["objects"]}
    names = [f"{color} {shape}" for color in drawing.COLORS for shape in drawing.SHAPES]
    left = [name for name in names if name not in there]
    return rng.choice(left) if left else None


def row_changed(solution: str, rng: random.Random, change: Callable[[str], str]) -> str:
    """Change what a worked answer lists in one row."""
    rows = list(filters.ROW.finditer(solution))
    row = rng.choice(rows)
    return solution[: row.start(2)] + change(row[2]) + solution[row.end(2) :]


def hallucinating(solution: str, example: Example, rng: random.Random) -> str:
    """Plant an object that is not there: in a row's list, in a sentence, or in other words."""
    name = absent(example, rng)
    color, shape = name.split()
    how = rng.random()
    if how < 0.4:
        return row_changed(solution, rng, lambda row: name if row == "none" else f"{row}, {name}")
    if how < 0.6:  # one that is there is taken for another
        seen = [row for row in filters.ROW.finditer(solution) if filters.named_in(row[2])]
        if seen:
            row = rng.choice(seen)
            first = filters.named_in(row[2])[0]
            return solution[: row.start(2)] + row[2].replace(first, name) + solution[row.end(2) :]
    sentences = (
        f"I also see a {name} near the middle.",
        f"There is a small {name} at the edge.",
        f"The {name} does not count.",
        f"In the corner stands a {shape} that is {color}.",
    )
    return with_sentence(solution, rng.choice(sentences), rng)


def looking_again(solution: str, example: Example, rng: random.Random) -> str:
    """Say true things that only look like hallucinations: listed again, or said to be absent."""
    name = absent(example, rng)
    sentences = [f"There is no {name}.", f"I see no {name} anywhere.", "Some objects are red."]
    rows = [row[0] for row in filters.ROW.finditer(solution)]
    sentences += [f"Looking again: {row}" for row in rows]
    return with_sentence(solution, rng.choice(sentences), rng)


PLANTS: dict[str, Callable[[str, Example, random.Random], str]] = {
    "leak": leaking,
    "wrong_answer": wrong,
    "hallucination": hallucinating,
}
LOOK_ALIKES = {"leak": innocent, "wrong_answer": respelt, "hallucination": looking_again}


# Answers to a page's question that a filter for pairs should refuse, and that it should not.
BAD_ANSWERS = {
    "unanswerable": (
        "Unanswerable",
        "This cannot be determined from the text.",
        "The text does not say.",
        "Not mentioned.",
        "N/A",
        "There is no information about this on the page.",
        "It is not specified.",
        "The document doesn't give the date.",
        "The name isn't stated.",
        "Unknown",
        "Nobody can tell from this page.",
        "The page leaves this open.",
    ),
    "code": (
        "def total(rows):\n    return sum(rows)",
        "```python\nprint(7)\n```",
        "<td>7</td>",
        "import pandas as pd",
        "SELECT name FROM pages WHERE id = 7",
        "for (int i = 0; i < n; i++) {",
        "const total = 7;",
        "#include <stdio.h>",
        "print('7');",
        "x = df['total'].sum()",
    ),
}
GOOD_ANSWERS = (
    "7",
    "On 3 May 2019",
    "The committee (five members)",
    "$1,200.50",
    "The class of 1998",
    "It returns on Monday",
    "From London to Paris",
    "Unknown Pleasures",
    "No",
    "None of the members voted against it",
    "a = b + c",
    "Room B; second floor",
    "john@example.com",
    "He was not available on Tuesday",
)


# --- some of them, by chance ---


@dataclass(frozen=True)
class Faults:
    """How often each fault is planted, beside the mistakes of the solutions."""

    leak: float = 0.0
    wrong_answer: float = 0.0
    hallucination: float = 0.0


def spoilt(faults: Faults, solution: str, example: Example, rng: random.Random) -> str:
    """Plant each fault as often as it should be."""
    for name, plant in PLANTS.items():
        if rng.random() < getattr(faults, name):
            solution = plant(solution, example, rng)
    return solution
