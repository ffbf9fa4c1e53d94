"""Toy set `ground`."""

import json

from tasks import drawing, spatial
from tasks.teacher import CARELESS, MARGIN, overlooks


def ground(rng, fewest, most, teacher):
    """Where is it? One box; or several with their names, or none at all.

    question  "Draw a box around the red object."     "Find all red objects."
    answer    [{"label": "red circle", "bbox_2d": [33, 33, 51, 51]}]   (JSON text; pixels of the picture)
    solution  "<think> Looking for red objects. Row 1: none. Row 2: red circle (1: 2, 2). Row 3: blue square. Row 4: none. </think>
              <answer> [{\"label\": \"red circle\", \"bbox_2d\": [295, 295, 455, 455]}] </answer>"   (0 to 1000)
    In brackets stand a running number, the row and the column of what is wanted: where its box will be. In the answer the label comes before the box, so that
    the model knows what it is about to draw a box around.
    """
    objects = []
    for row, column, color, shape in drawing.scene(rng, fewest, most):
        objects.append(
            (
                row,
                column,
                color,
                shape,
                (column + 0.5) * drawing.CELL,
                (row + 0.5) * drawing.CELL,
                round(rng.uniform(7.0, 11.0), 2),
            )
        )
    unique = spatial.only_ones(objects)
    if unique and rng.random() < 0.5:
        kind, target = rng.choice(unique)
        wanted, question = [target], f"Draw a box around the {kind} object."
    else:
        kinds = [
            kind
            for kind in (*drawing.COLORS, *drawing.SHAPES)
            if sum(kind in o for o in objects) <= 3
        ]  # at most three boxes to write
        there = [kind for kind in kinds if any(kind in o for o in objects)]
        kind = rng.choice(there if there and rng.random() < 0.8 else kinds)
        wanted, question = [o for o in objects if kind in o], f"Find all {kind} objects."
    side = drawing.GRID * drawing.CELL

    def box(o, margin):
        xs, ys = zip(*drawing.corners_of(o[3], o[4], o[5], o[6]))
        return [
            max(0, min(side, round(v)))
            for v in (min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin)
        ]

    def text(pairs, scale):
        return json.dumps(
            [
                {"label": f"{o[2]} {o[3]}", "bbox_2d": [round(v * scale) for v in b]}
                for o, b in pairs
            ]
        )

    gold = [(o, box(o, 0)) for o in wanted]
    noticed = [o for o in objects if not overlooks(teacher, rng, o)]
    seen = [o for o in wanted if o in noticed]
    lines = [
        f"Looking for {kind} objects.",
        *spatial.reading(
            noticed,
            lambda o: f" ({seen.index(o) + 1}: {o[0] + 1}, {o[1] + 1})" if o in seen else "",
        ),
    ]
    said = [
        (o, box(o, MARGIN if teacher == "fallible" and rng.random() < CARELESS else 0))
        for o in seen
    ]
    return {
        "question": question,
        "answer": text(gold, 1),
        "solution": f"<think> {' '.join(lines)} </think><answer> {text(said, 1000 / side)} </answer>",
        "meta": {
            "objects": [list(o) for o in objects],
            "wanted": kind,
            "taught": text(said, 1),
            "size": [side, side],
            "boxes": [{"label": f"{o[2]} {o[3]}", "bbox_2d": b} for o, b in gold],
        },
    }
