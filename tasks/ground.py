"""Toy set `ground`: draw boxes around one object, or around all of a kind, with their names.

    question  "Draw a box around the red object."     "Find all red objects."
    answer    [{"label": "red circle", "bbox_2d": [33, 33, 51, 51]}]      (pixels of the picture)
    solution  "<think> Looking for red objects. Row 1: none. Row 2: red circle (1: 2, 2).
              Row 3: blue square. Row 4: none. </think>
              <answer> [{"label": "red circle", "bbox_2d": [295, 295, 455, 455]}] </answer>"
              (as Qwen2-VL writes them, from 0 to 1000 across the picture's width and height)

In brackets stand a running number, the row and the column of what is wanted: where its box will be.
The label comes before the box, so that the model knows what it is about to draw a box around.
"""

import random

from grading import boxes
from tasks import drawing
from tasks.teacher import MARGIN, P_WIDE_BOX, overlooks

SIZE = [drawing.SIDE, drawing.SIDE]
MOST_BOXES = 3  # to write, in one answer


def sized_scene(rng: random.Random, fewest: int, most: int) -> list[tuple]:
    """Invent a scene whose objects have their sizes: (row, column, color, shape, x, y, radius)."""
    objects = []
    for row, column, color, shape in drawing.scene(rng, fewest, most):
        x, y = (column + 0.5) * drawing.CELL, (row + 0.5) * drawing.CELL
        objects.append((row, column, color, shape, x, y, round(rng.uniform(7.0, 11.0), 2)))
    return objects


def question_about(objects: list[tuple], rng: random.Random) -> tuple[str, str, list[tuple]]:
    """Pick (question, kind, wanted objects): one object, several of a kind, or none."""
    unique = drawing.unique_kinds(objects)
    if unique and rng.random() < 0.5:
        kind, target = rng.choice(unique)
        return f"Draw a box around the {kind} object.", kind, [target]
    kinds = [k for k in drawing.KINDS if len(drawing.of_kind(objects, k)) <= MOST_BOXES]
    there = [k for k in kinds if drawing.of_kind(objects, k)]
    kind = rng.choice(there if there and rng.random() < 0.8 else kinds)
    return f"Find all {kind} objects.", kind, drawing.of_kind(objects, kind)


def box_around(o: tuple, margin: int = 0) -> dict:
    """Draw a box in whole pixels around an object, `margin` wider on each side."""
    xs, ys = zip(*drawing.corners_of(o[3], o[4], o[5], o[6]))
    sides = (min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin)
    corners = [max(0, min(drawing.SIDE, round(v))) for v in sides]
    return {"label": drawing.name_of(o), "bbox_2d": corners}


def ground(rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Invent a question of `ground`, without its picture."""
    objects = sized_scene(rng, fewest, most)
    question, kind, wanted = question_about(objects, rng)
    gold = [box_around(o) for o in wanted]

    noticed = [o for o in objects if not overlooks(teacher, rng, o)]
    seen = [o for o in wanted if o in noticed]
    notes = {o: f" ({n}: {o[0] + 1}, {o[1] + 1})" for n, o in enumerate(seen, 1)}
    words = " ".join([f"Looking for {kind} objects.", *drawing.rows_in_words(noticed, notes)])
    taught = []
    for o in seen:
        careless = teacher == "fallible" and rng.random() < P_WIDE_BOX
        taught.append(box_around(o, MARGIN if careless else 0))
    answer = boxes.boxes_to_text(taught, "norm1000", SIZE)
    return {
        "question": question,
        "answer": boxes.boxes_to_text(gold, "pixels", SIZE),
        "solution": f"<think> {words} </think><answer> {answer} </answer>",
        "meta": {
            "objects": [list(o) for o in objects],
            "wanted": kind,
            "taught": boxes.boxes_to_text(taught, "pixels", SIZE),
            "size": list(SIZE),
            "boxes": gold,
        },
    }
