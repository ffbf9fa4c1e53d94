"""Toy set `spatial`."""

from tasks import drawing
from tasks.teacher import overlooks


def reading(objects, mark):
    """A scene in words, row by row, each object followed by mark(object): ["Row 1: blue square, red circle (top right).", "Row 2: none.", ...]."""
    return [
        f"Row {row + 1}: {', '.join(f'{o[2]} {o[3]}{mark(o)}' for o in objects if o[0] == row) or 'none'}."
        for row in range(drawing.GRID)
    ]


def only_ones(objects):
    """The colours and shapes that one object of the scene has and no other, with that object."""
    holders = [
        (kind, [o for o in objects if kind in o]) for kind in (*drawing.COLORS, *drawing.SHAPES)
    ]
    return [(kind, found[0]) for kind, found in holders if len(found) == 1]


def spatial(rng, fewest, most, teacher):
    """Where is the one red (round, ...) object? Multiple choice in the words of SAT, VisualThinker-R1-Zero's training set.

    question  "Where is the red object? Choose between the following options: bottom left, top right, top left, bottom right"
    answer    "top right"         choices  ["bottom left", "top right", "top left", "bottom right"]
    solution  "<think> Looking for the red object. Row 1: none. Row 2: blue square, red circle (top right). Row 3: none. Row 4: none. </think>
              <answer> top right </answer>"
    Who overlooks the object guesses; or, half of the time, writes "Wait, let me check again." and reads the scene once more, with new luck, before he does. So
    there is something that reflection is good for, and that a reward for length can make too much of. Questions that compare two objects are
    more than the tiny model learned in 600 steps (docs/log.md).
    """
    unique = []
    while not unique:
        objects = drawing.scene(rng, fewest, most)
        unique = only_ones(objects)
    wanted, target = rng.choice(unique)
    place = lambda o: (
        f"{'top' if o[0] < drawing.GRID // 2 else 'bottom'} {'left' if o[1] < drawing.GRID // 2 else 'right'}"
    )
    choices = rng.sample(["top left", "top right", "bottom left", "bottom right"], 4)
    lines = [f"Looking for the {wanted} object."]
    for look in range(2):
        seen = [o for o in objects if not overlooks(teacher, rng, o)]
        lines += reading(seen, lambda o: f" ({place(o)})" if o is target else "")
        if target in seen or look == 1 or rng.random() < 0.5:
            break
        lines.append("Wait, let me check again.")
    taught = place(target) if target in seen else rng.choice(choices)
    return {
        "question": f"Where is the {wanted} object? Choose between the following options: {', '.join(choices)}",
        "answer": place(target),
        "choices": choices,
        "solution": f"<think> {' '.join(lines)} </think><answer> {taught} </answer>",
        "meta": {"objects": [list(o) for o in objects], "wanted": wanted, "taught": taught},
    }
