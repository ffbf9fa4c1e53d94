"""Toy set `count`: how many objects of a kind are there?

question  "How many red objects are there?"
answer    "2"
solution  "<think> Looking for red objects. Row 1: red circle (1), blue square. Row 2: none.
          Row 3: red square (2). Row 4: none. </think><answer> 2 </answer>"

count_words asks the same about a scene that is told in words, without a picture:

question  "Row 1: red circle, blue square. Row 2: none. Row 3: red square. Row 4: none. How many
          red objects are there?"

count_captions asks for these words, with the picture:

question  "What is in the picture?"
answer    "Row 1: red circle, blue square. Row 2: none. Row 3: red square. Row 4: none."
"""

import random

from tasks import drawing
from tasks.teacher import overlooks


def count(rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Invent a question of `count`, without its picture."""
    objects = drawing.scene(rng, fewest, most)
    # Four questions in five are about what is there: 0 is an answer, but not the usual one.
    _, _, color, shape = rng.choice(objects)
    if rng.random() < 0.2:
        color, shape = rng.choice(list(drawing.COLORS)), rng.choice(drawing.SHAPES)
    wanted = rng.choice((color, shape))

    seen = [o for o in objects if not overlooks(teacher, rng, o)]
    return about(objects, seen, wanted)


def about(objects: list[tuple], seen: list[tuple], wanted: str) -> dict:
    """Ask how many objects of a scene are `wanted`, and answer as who has seen some of them."""
    counted = [o for o in seen if wanted in o]
    notes = {o: f" ({n})" for n, o in enumerate(counted, 1)}
    words = " ".join([f"Looking for {wanted} objects.", *drawing.rows_in_words(seen, notes)])
    return {
        "question": f"How many {wanted} objects are there?",
        "answer": str(sum(wanted in o for o in objects)),
        "solution": f"<think> {words} </think><answer> {len(counted)} </answer>",
        "meta": {
            "objects": [list(o) for o in objects],
            "wanted": wanted,
            "taught": str(len(counted)),
        },
    }


def told(record: dict) -> str:
    """Put a record's scene into words."""
    return " ".join(drawing.rows_in_words(list(map(tuple, record["meta"]["objects"])), {}))


def count_words(rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Invent a question about a scene in words. Nothing in them can be overlooked."""
    record = count(rng, fewest, most, "gold")
    return record | {"question": f"{told(record)} {record['question']}"}


def count_captions(rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Ask for the words of a scene, which are the answer, without thinking."""
    record = count(rng, fewest, most, "gold")
    words = told(record)
    return {
        "ask": "direct",
        "question": "What is in the picture?",
        "answer": words,
        "solution": f"<answer> {words} </answer>",
        "meta": {"objects": record["meta"]["objects"]},
    }
