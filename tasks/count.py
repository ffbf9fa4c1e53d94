"""Toy set `count`."""

from tasks import drawing
from tasks.teacher import overlooks


def count(rng, fewest, most, teacher):
    """How many objects of a kind are in the picture? Returns the dict shown at the top of this file, without its image."""
    objects = drawing.scene(rng, fewest, most)

    # Ask about something that is there four times in five, so that 0 is an answer but not the usual one.
    _, _, color, shape = rng.choice(objects)
    if rng.random() < 0.2:
        color, shape = rng.choice(list(drawing.COLORS)), rng.choice(drawing.SHAPES)
    wanted = rng.choice((color, shape))
    matches = lambda o: wanted in o

    seen = [o for o in objects if not overlooks(teacher, rng, o)]
    lines, total = [f"Looking for {wanted} objects."], 0
    for row in range(drawing.GRID):
        words = []
        for o in seen:
            if o[0] == row:
                total += matches(o)
                words.append(f"{o[2]} {o[3]} ({total})" if matches(o) else f"{o[2]} {o[3]}")
        lines.append(f"Row {row + 1}: {', '.join(words) or 'none'}.")
    return {
        "question": f"How many {wanted} objects are there?",
        "answer": str(sum(map(matches, objects))),
        "solution": f"<think> {' '.join(lines)} </think><answer> {total} </answer>",
        "meta": {"objects": [list(o) for o in objects], "wanted": wanted, "taught": str(total)},
    }
