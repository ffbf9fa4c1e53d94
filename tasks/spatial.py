"""Toy set `spatial`: in which quarter is an object? In the words of SAT, VisualThinker's data.

    question  "Where is the red object? Choose between the following options: bottom left,
              top right, top left, bottom right"
    answer    "top right"
    choices   ["bottom left", "top right", "top left", "bottom right"]
    solution  "<think> Looking for the red object. Row 1: none. Row 2: blue square,
              red circle (top right). Row 3: none. Row 4: none. </think>
              <answer> top right </answer>"

A teacher that overlooks the object guesses. Half of the time it first writes "Wait, let me check
again." and reads the scene once more, with new luck. So reflection is good for something, and a
reward for length can make too much of it. Questions that compare two objects are more than the
tiny model learned in 600 steps (docs/log.md).
"""

import random

from tasks import drawing
from tasks.teacher import overlooks


def quarter_of(o: tuple) -> str:
    """Name the quarter of the picture that an object is in."""
    half = drawing.GRID // 2
    return f"{'top' if o[0] < half else 'bottom'} {'left' if o[1] < half else 'right'}"


def spatial(rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Invent a question of `spatial`, without its picture."""
    unique = []
    while not unique:
        objects = drawing.scene(rng, fewest, most)
        unique = drawing.unique_kinds(objects)
    wanted, target = rng.choice(unique)
    choices = rng.sample(["top left", "top right", "bottom left", "bottom right"], 4)
    lines = [f"Looking for the {wanted} object."]
    for look in range(2):
        seen = [o for o in objects if not overlooks(teacher, rng, o)]
        lines += drawing.rows_in_words(seen, {target: f" ({quarter_of(target)})"})
        if target in seen or look == 1 or rng.random() < 0.5:
            break
        lines.append("Wait, let me check again.")
    taught = quarter_of(target) if target in seen else rng.choice(choices)
    return {
        "question": f"Where is the {wanted} object? "
        f"Choose between the following options: {', '.join(choices)}",
        "answer": quarter_of(target),
        "choices": choices,
        "solution": f"<think> {' '.join(lines)} </think><answer> {taught} </answer>",
        "meta": {"objects": [list(o) for o in objects], "wanted": wanted, "taught": taught},
    }
