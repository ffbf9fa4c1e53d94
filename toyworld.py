"""Procedurally drawn tasks with written-out reasoning: unlimited, seeded, no download.

One example of `count`, as every task here returns it (a plain dict; data.py turns it into an `Example`):

    image     112 x 112 PIL picture, four rows of four cells, each cell 28 x 28 pixels
    question  "How many red objects are there?"
    answer    "2"
    solution  "<think> Looking for red objects. Row 1: red circle (1), blue square. Row 2: none. Row 3: red square (2).
              Row 4: none. </think><answer> 2 </answer>"
    meta      {"objects": [[row, column, color, shape], ...], ...}   what was drawn, for people and for tests

`spatial` asks in which quarter of the picture an object is (multiple choice, with "choices"). `ground` asks for boxes: of one object, or of all
objects of a kind, with their names. Its gold is meta["boxes"], in pixels of the picture, meta["size"]; its
worked solutions write boxes as Qwen2-VL does, from 0 to 1000 across the picture's width and height.

Three things about these pictures are there for the tiny model (docs/log.md has what was tried). Objects sit on the 28-pixel grid of Qwen2-VL's
merged patches, so that one object is one image token. Scenes of one or two objects are common, because they are where a network
that knows nothing learns its first colours. And the light changes across the scene, so that a patch shows where it is.

**Splits are disjoint by construction.** A scene belongs to `test` if a checksum of its contents says so, and to `train`
otherwise, whatever seed or index drew it. `ood` holds more objects than any training scene does.

**The fallible teacher.** With `teacher="fallible"` the worked solution is that of somebody who overlooks each object in the
right-hand column two times in three, and answers accordingly; his boxes, two times in three, are drawn carelessly wide. The gold `answer`
stays right. A model warm-started on such solutions reasons fluently and badly, which is where reinforcement learning from answers alone
can show that it does something.
"""

import functools
import itertools
import json
import math
import random
import zlib

from PIL import Image, ImageDraw

CELL = 28  # pixels: 2 x 2 patches of 14, merged by Qwen2-VL into one image token
GRID = 4  # cells per side
COLORS = {
    "red": (214, 48, 49),
    "green": (39, 158, 75),
    "blue": (45, 98, 214),
    "yellow": (236, 186, 30),
}
SHAPES = ("circle", "square", "triangle")
SPLITS = ("train", "test", "ood")
TEACHERS = ("fallible", "gold")
LEVELS = {1: (1, 2), 2: (1, 4), 3: (1, 6)}  # difficulty: fewest and most objects in a scene
OOD_OBJECTS = (7, 9)  # more than at any level
OVERLOOKED = 2 / 3  # the fallible teacher's chance of missing an object in the right-hand column
ROW_WRONG, MISREAD, SLIPPED = (
    0.6,
    1 / 8,
    1 / 16,
)  # at a table: the last row overlooked or one more seen, each digit that looks like another (an angle), the count (a difference)
FIGURE_WRONG = 0.6  # at a figure with a large angle: taken for another
DIGITS = range(1, 7)  # in a table
LOOK_ALIKE = {1: 4, 4: 1, 3: 6, 6: 3}
CARELESS, MARGIN = (
    2 / 3,
    4,
)  # his chance of drawing a box too wide, and by how many pixels on each side


def corners_of(shape, x, y, radius):
    """The outline of a shape as points, in the units of its arguments; of a circle, the corners of the square around it."""
    if shape == "triangle":
        return [
            (x + 1.1 * radius * math.sin(a), y + (0.2 - 1.1 * math.cos(a)) * radius)
            for a in (0, 2.0944, 4.1888)
        ]
    return [(x - radius, y - radius), (x + radius, y + radius)]


# 3 x 5 dots for each sign that is written into a picture, row by row
SIGNS = {
    "0": "111101101101111",
    "1": "010110010010111",
    "2": "111001111100111",
    "3": "111001011001111",
    "4": "101101111001001",
    "5": "111100111001111",
    "6": "111100111101111",
    "7": "111001010010010",
    "8": "111101111101111",
    "9": "111101111001111",
    "?": "111001010000010",
}


def draw_text(draw, text, x, y, height, fill):
    """Writes `text` (of SIGNS) around the point x, y, so many pixels high: drawn here, because fonts differ from machine to machine."""
    dot = height / 5
    left, top = x - dot * (4 * len(text) - 1) / 2, y - height / 2
    for n, sign in enumerate(text):
        for i, on in enumerate(SIGNS[sign]):
            if on == "1":
                x1, y1 = left + dot * (4 * n + i % 3), top + dot * (i // 3)
                draw.rectangle((x1, y1, x1 + dot, y1 + dot), fill=fill)


def draw_scene(meta, rng):
    """The picture of meta["objects"], a list of (row, column, color, shape), or of (row, column, color, shape, x, y, radius) in pixels where size
    and place matter. Otherwise they vary a little from object to object, as shades always do. An object of the colour "number" is written: its shape is
    the text. meta["lines"], [[x1, y1, x2, y2], ...] in pixels, are drawn below them."""
    scale = 4  # draw large, shrink once: smooth edges
    # A grey plane, as in CLEVR, under a warm light from the right and above: darker downwards, redder to the right. So each patch shows where
    # it is; on an even background the tiny model has to work that out of M-RoPE alone, which took it two to three times as many steps.
    grey = rng.randint(112, 124)
    corners = [
        (grey + lit - tint, grey + lit, grey + lit + tint)
        for lit in (30, -30)
        for tint in (30, -30)
    ]
    image = Image.new("RGB", (2, 2))
    image.putdata(corners)
    image = image.resize((GRID * CELL * scale,) * 2, Image.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))
    draw = ImageDraw.Draw(image)
    for line in meta.get("lines", ()):
        draw.line([scale * v for v in line], fill=(225, 225, 225), width=2 * scale)
    for row, column, color, shape, *place in meta["objects"]:
        if color == "number":
            x, y = (
                ((column + 0.5) * CELL + rng.uniform(-1, 1)) * scale,
                ((row + 0.5) * CELL + rng.uniform(-1, 1)) * scale,
            )
            draw_text(
                draw, shape, x, y, (20, 16)[len(shape) - 1] * scale, (rng.randint(15, 45),) * 3
            )
            continue
        if place:
            x, y, radius = (scale * value for value in place)
        else:
            radius = rng.uniform(9.5, 11.0) * scale
            x, y = (
                ((column + 0.5) * CELL + rng.uniform(-0.5, 0.5)) * scale,
                ((row + 0.5) * CELL + rng.uniform(-0.5, 0.5)) * scale,
            )
        fill = tuple(max(0, min(255, channel + rng.randint(-8, 8))) for channel in COLORS[color])
        edge = tuple(channel * 2 // 3 for channel in fill)
        outline = corners_of(shape, x, y, radius)
        if shape == "circle":
            draw.ellipse((*outline[0], *outline[1]), fill=fill, outline=edge, width=scale)
        elif shape == "square":
            draw.rectangle((*outline[0], *outline[1]), fill=fill, outline=edge, width=scale)
        else:
            draw.polygon(outline, fill=fill, outline=edge, width=scale)
    return image.resize((GRID * CELL,) * 2, Image.LANCZOS)


def scene(rng, fewest, most):
    """Objects of a random scene, (row, column, color, shape) in reading order."""
    # A third of the scenes are small: from them the first words are learned (see the top of the file).
    number = (
        rng.randint(fewest, min(fewest + 1, most))
        if rng.random() < 0.33
        else rng.randint(fewest, most)
    )
    cells = sorted(rng.sample([(r, c) for r in range(GRID) for c in range(GRID)], number))
    # Two or three colours and shapes in a scene, so that there is something to count, and something that does not count.
    colors, shapes = (
        rng.sample(list(COLORS), rng.randint(2, 3)),
        rng.sample(SHAPES, rng.randint(2, 3)),
    )
    return [(r, c, rng.choice(colors), rng.choice(shapes)) for r, c in cells]


def overlooks(teacher, rng, o):
    """Whether the fallible teacher misses this object."""
    return teacher == "fallible" and o[1] == GRID - 1 and rng.random() < OVERLOOKED


def count(rng, fewest, most, teacher):
    """How many objects of a kind are in the picture? Returns the dict shown at the top of this file, without its image."""
    objects = scene(rng, fewest, most)

    # Ask about something that is there four times in five, so that 0 is an answer but not the usual one.
    _, _, color, shape = rng.choice(objects)
    if rng.random() < 0.2:
        color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    wanted = rng.choice((color, shape))
    matches = lambda o: wanted in o

    seen = [o for o in objects if not overlooks(teacher, rng, o)]
    lines, total = [f"Looking for {wanted} objects."], 0
    for row in range(GRID):
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


def reading(objects, mark):
    """A scene in words, row by row, each object followed by mark(object): ["Row 1: blue square, red circle (top right).", "Row 2: none.", ...]."""
    return [
        f"Row {row + 1}: {', '.join(f'{o[2]} {o[3]}{mark(o)}' for o in objects if o[0] == row) or 'none'}."
        for row in range(GRID)
    ]


def only_ones(objects):
    """The colours and shapes that one object of the scene has and no other, with that object."""
    holders = [(kind, [o for o in objects if kind in o]) for kind in (*COLORS, *SHAPES)]
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
        objects = scene(rng, fewest, most)
        unique = only_ones(objects)
    wanted, target = rng.choice(unique)
    place = lambda o: (
        f"{'top' if o[0] < GRID // 2 else 'bottom'} {'left' if o[1] < GRID // 2 else 'right'}"
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
    for row, column, color, shape in scene(rng, fewest, most):
        objects.append(
            (
                row,
                column,
                color,
                shape,
                (column + 0.5) * CELL,
                (row + 0.5) * CELL,
                round(rng.uniform(7.0, 11.0), 2),
            )
        )
    unique = only_ones(objects)
    if unique and rng.random() < 0.5:
        kind, target = rng.choice(unique)
        wanted, question = [target], f"Draw a box around the {kind} object."
    else:
        kinds = [
            kind for kind in (*COLORS, *SHAPES) if sum(kind in o for o in objects) <= 3
        ]  # at most three boxes to write
        there = [kind for kind in kinds if any(kind in o for o in objects)]
        kind = rng.choice(there if there and rng.random() < 0.8 else kinds)
        wanted, question = [o for o in objects if kind in o], f"Find all {kind} objects."
    side = GRID * CELL

    def box(o, margin):
        xs, ys = zip(*corners_of(o[3], o[4], o[5], o[6]))
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
        *reading(
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


def table_rows(objects):
    """What a table says, row by row: [(colour of its first cell, [digits])]."""
    return [
        (o[2], [int(p[3]) for p in objects if p[0] == o[0] and p[1] > 0])
        for o in objects
        if o[1] == 0
    ]


def counts_here(digit, wanted):
    """Whether a number is one of those asked for: wanted is ("greater", 3) or ("less", 3)."""
    return digit > wanted[1] if wanted[0] == "greater" else digit < wanted[1]


def table_solution(rows, wanted, slip=0):
    """The worked solution of who reads the table so, and is wrong by `slip` when he counts: ("<think> ... </think><answer> 2 </answer>", "2")."""
    total, lines = 0, [f"Numbers {wanted[0]} than {wanted[1]}:"]
    for label, digits in rows:
        words = []
        for digit in digits:
            total += counts_here(digit, wanted)
            words.append(f"{digit} ({total})" if counts_here(digit, wanted) else str(digit))
        lines.append(f"{label} {', '.join(words)}.")
    total = max(0, total + slip)
    return f"<think> {' '.join(lines)} </think><answer> {total} </answer>", str(total)


def table_flaw(rows, rng, kind):
    """A reading with one more flaw: kind "skip" leaves a row out, "invent" puts one in, "misread" takes a digit for another. None if there is no row to leave out, or no colour left."""
    found = [(label, list(digits)) for label, digits in rows]
    free = [color for color in COLORS if color not in [label for label, _ in found]]
    if kind == "skip" and len(found) > 1:
        del found[rng.randrange(len(found))]
    elif kind == "invent" and free:
        found.insert(
            rng.randrange(len(found) + 1),
            (rng.choice(free), [rng.choice(DIGITS) for _ in found[0][1]]),
        )
    elif kind == "misread":
        digits = rng.choice(found)[1]
        at = rng.randrange(len(digits))
        digits[at] = rng.choice([d for d in DIGITS if d != digits[at]])
    else:
        return None
    return found


def any_table(rng, fewest, most):
    """(rows, wanted): what a random table says, of one to four rows of one number (level 1: two rows at most; ood: of two numbers, three rows or four), and which numbers are asked for."""
    number, columns = (
        (rng.randint(3, 4), 2)
        if fewest >= OOD_OBJECTS[0]
        else (rng.randint(1, 4 if most > 2 else 2), 1)
    )
    rows = [
        (label, [rng.choice(DIGITS) for _ in range(columns)])
        for label in rng.sample(list(COLORS), number)
    ]
    return rows, rng.choice(
        [("greater", 2), ("greater", 3), ("greater", 4), ("less", 3), ("less", 4), ("less", 5)]
    )


def table_record(rows, wanted, rng, said=None, slip=0):
    """A record of the table that says `rows`, with the worked solution of who reads `said` in it."""
    objects = []
    for row, (label, digits) in enumerate(rows):
        objects += [(row, 0, label, rng.choice(SHAPES))] + [
            (row, column, "number", str(d)) for column, d in enumerate(digits, 1)
        ]
    solution, taught = table_solution(rows if said is None else said, wanted, slip)
    return {
        "question": f"How many numbers are {wanted[0]} than {wanted[1]}?",
        "answer": table_solution(rows, wanted)[1],
        "solution": solution,
        "meta": {"objects": [list(o) for o in objects], "wanted": list(wanted), "taught": taught},
    }


def table(rng, fewest, most, teacher):
    """How many numbers in a table are greater (or less) than one? Rows are named by the coloured shape in front of them.

    question  "How many numbers are greater than 3?"
    answer    "2"
    solution  "<think> Numbers greater than 3: red 4 (1). green 1. blue 6 (2). </think><answer> 2 </answer>"      in brackets: how many so far
    The fallible teacher, three times in five, overlooks the last row if it is a red or yellow one, and sees another below it if it is blue or green; now and then he misreads digits
    that look alike (LOOK_ALIKE), or counts one too many or too few. So flaws go both ways, and nothing but the picture tells his readings from right ones. Sums in place of
    counts are more than the tiny model learns in minutes, and so is telling candidates apart by single digits (docs/log.md).
    """
    rows, wanted = any_table(rng, fewest, most)
    lots = random.Random(rng.random())  # the teacher's own: his luck changes nothing in the picture
    said, slip = rows, 0
    if teacher == "fallible":
        said = [
            (label, [LOOK_ALIKE.get(d, d) if lots.random() < MISREAD else d for d in digits])
            for label, digits in rows
        ]
        if lots.random() < ROW_WRONG:
            if rows[-1][0] in ("red", "yellow"):
                said = said[:-1] or said
            else:
                free = [color for color in COLORS if color not in [label for label, _ in said]]
                said = (
                    said + [(lots.choice(free), [lots.choice(DIGITS) for _ in rows[0][1]])]
                    if free
                    else said
                )
        slip = lots.choice((-1, 1)) if lots.random() < SLIPPED else 0
    return table_record(rows, wanted, rng, said, slip)


def turned(x, y, last, across, upside, sideways):
    """A point of a picture whose coordinates go from 0 to `last`, mirrored left to right, top to bottom, and along the diagonal, as told."""
    x, y = last - x if across else x, last - y if upside else y
    return (y, x) if sideways else (x, y)


def drawings(lines, places, right=1, down=1):
    """[(lines, places), ...]: a drawing at each of `right` x `down` positions, a cell apart, as it is, mirrored and on its side. lines: [[x1, y1, x2, y2], ...] in pixels; places: [(row, column), ...]."""
    found = []
    for x, y, *turn in itertools.product(range(right), range(down), *[(False, True)] * 3):
        ends = [
            [
                turned(px + x * CELL, py + y * CELL, GRID * CELL - 1, *turn)
                for px, py in (line[:2], line[2:])
            ]
            for line in lines
        ]
        found.append(
            (
                [[*one, *other] for one, other in ends],
                [turned(column + x, row + y, GRID - 1, *turn)[::-1] for row, column in places],
            )
        )
    return found


# What the two angles of a figure add up to (None: they are equal), what who errs takes it for, and its drawings
FIGURES = {
    "right triangle": (
        90,
        "isosceles triangle",
        drawings(
            [
                [4, 108, 4, 4],
                [4, 4, 108, 108],
                [108, 108, 4, 108],
                [4, 96, 16, 96],
                [16, 96, 16, 108],
            ],
            [(1, 0), (3, 2)],
        ),
    ),
    "isosceles triangle": (
        None,
        "right triangle",
        drawings(
            [
                [2, 109, 110, 109],
                [2, 109, 56, 3],
                [56, 3, 110, 109],
                [24, 52, 34, 57],
                [88, 52, 78, 57],
            ],
            [(3, 0), (3, 3)],
        ),
    ),
    "line": (
        180,
        "crossing",
        drawings([[2, 54, 110, 54], [56, 54, 56, 6]], [(1, 0), (1, 3)], down=3),
    ),
    "crossing": (None, "line", drawings([[4, 4, 80, 80], [4, 80, 80, 4]], [(1, 0), (1, 2)], 2, 2)),
}
FIGURES_AT = (("line", "crossing"), tuple(FIGURES))  # at level 1, at the others
ANGLES, OOD_ANGLES = (
    range(20, 71, 10),
    range(25, 70, 10),
)  # degrees; no training picture shows one of the latter


def angle_asked(figure, angle):
    """The angle asked for, in degrees."""
    return angle if FIGURES[figure][0] is None else FIGURES[figure][0] - angle


def geometry_solution(reading, values, slip=0):
    """The worked solution for reading = (figure, angle in degrees) and the options' values: ("<think> ... </think><answer> 40° </answer>", "40°"). What comes to no option takes the nearest."""
    figure, angle = reading
    found = angle_asked(*reading) + slip
    sums = (
        f"Equal angles: {found}"
        if FIGURES[figure][0] is None
        else f"{FIGURES[figure][0]}-{angle}={found}"
    )
    answer = f"{min(values, key=lambda value: abs(value - found))}°"
    return (
        f"<think> {figure.capitalize()}: {angle}. {sums}. </think><answer> {answer} </answer>",
        answer,
    )


def geometry_readings(rng, figures, angles, mixed=False):
    """Four things that a picture may say, [(figure, angle in degrees), ...], which come to four answers: one of the figures in two sizes, and in both what it is taken for; mixed: each
    of four figures, in any size. Whichever is drawn, the same four might have been there, so that only the picture tells which is right."""
    one = rng.choice(figures)
    while True:
        sizes = rng.choices(angles, k=4)
        readings = (
            list(zip(figures, sizes))
            if mixed
            else [(figure, size) for figure in (one, FIGURES[one][1]) for size in sizes[:2]]
        )
        if len({angle_asked(*reading) for reading in readings}) == 4:
            return rng.sample(readings, 4)


def geometry_record(readings, rng, said=None, slip=0):
    """A record of a picture that says the first of four readings, which are its options, with the worked solution of who reads `said` in it."""
    figure, angle = readings[0]
    lines, places = rng.choice(FIGURES[figure][2])
    objects = [
        [*place, "number", text] for place, text in zip(rng.sample(places, 2), (str(angle), "?"))
    ]
    values = rng.sample([angle_asked(*reading) for reading in readings], 4)
    options = [f"{value}°" for value in values]
    solution, taught = geometry_solution(readings[0] if said is None else said, values, slip)
    return {
        "question": "How large is the angle marked with a question mark?\nOptions:"
        + "".join(f"\n({letter}) {option}" for letter, option in zip("ABCD", options)),
        "answer": f"{angle_asked(*readings[0])}°",
        "choices": options,
        "solution": solution,
        "meta": {
            "objects": objects,
            "lines": lines,
            "wanted": "?",
            "reading": [figure, angle],
            "values": values,
            "taught": taught,
        },
    }


def geometry(rng, fewest, most, teacher):
    """How large is the angle marked "?"? Two angles of a triangle, at a line, or where two lines cross; multiple choice in the manner of GEOQA.

    question  "How large is the angle marked with a question mark?\\nOptions:\\n(A) 50°\\n(B) 60°\\n(C) 40°\\n(D) 30°"
    answer    "40°"      choices  ["50°", "60°", "40°", "30°"]
    solution  "<think> Right triangle: 50. 90-50=40. </think><answer> 40° </answer>"      "<think> Crossing: 50. Equal angles: 50. </think><answer> 50° </answer>"
    The fallible teacher, three times in five, takes the figure for another if its angle is 50 degrees or more: a right triangle for an isosceles one, a line for a crossing, and the
    other way round. Now and then he misreads the angle by ten degrees, or slips by ten when he subtracts. What comes to none of the options takes the nearest.
    """
    readings = geometry_readings(
        rng, FIGURES_AT[most > 2], OOD_ANGLES if fewest >= OOD_OBJECTS[0] else ANGLES
    )
    lots = random.Random(rng.random())  # the teacher's own: his luck changes nothing in the picture
    (figure, angle), slip = readings[0], 0
    if teacher == "fallible":
        if angle >= 50 and lots.random() < FIGURE_WRONG:
            figure = FIGURES[figure][1]
        angle += lots.choice((-10, 10)) if lots.random() < MISREAD else 0
        slip = lots.choice((-10, 10)) if lots.random() < SLIPPED and FIGURES[figure][0] else 0
    return geometry_record(readings, rng, (figure, angle), slip)


def planted(task, rng, fewest, most):
    """(record, texts, at): three worked solutions with three answers to a question of `table` or `geometry`, of which number `at` is right. Nothing but the picture tells which:
    the three readings are drawn first, by a law that knows no order, and then lots decide which of them the picture shows. So whatever rule reads the texts alone is right one
    time in three. None of them slips in arithmetic, which would be found without looking.

    table: a table, and two more that differ from it, or one from the other, by a row (three times in four) or a digit. geometry: three figures (three times in four), or one in two sizes
    and what it is taken for.
    """
    if task == "geometry":
        readings = geometry_readings(
            rng, FIGURES_AT[most > 2], ANGLES, mixed=most > 2 and rng.random() < 0.75
        )
        record = geometry_record(readings, rng)
        texts = [
            geometry_solution(reading, record["meta"]["values"])[0] for reading in readings[:3]
        ]
    else:
        readings, wanted = [], None
        while len({table_solution(reading, wanted)[1] for reading in readings}) < 3:
            rows, wanted = any_table(rng, fewest, most)
            kinds = rng.choices(("skip", "invent", "misread"), (3, 3, 2), k=2)
            one = table_flaw(rows, rng, kinds[0])
            two = one and table_flaw(rng.choice((rows, one)), rng, kinds[1])
            readings = [rows, one, two] if two else []
            rng.shuffle(readings)
        record = table_record(readings[0], wanted, rng)
        texts = [table_solution(reading, wanted)[0] for reading in readings]
    at, wrong = rng.randrange(3), rng.sample(texts[1:], 2)
    return record, [*wrong[:at], texts[0], *wrong[at:]], at


def aloud(task, rng, fewest, most, teacher):
    """What there is to read in a picture of `table` or `geometry`; for a table, one time in four, a comparison as it comes up there. (Sums among the lessons keep figures from being read.)"""
    found = TASKS[task][0](rng, fewest, most, "gold")
    if task == "geometry":
        figure, angle = found["meta"]["reading"]
        question, answer = "Read the figure.", f"{figure.capitalize()}: {angle}."
    elif rng.random() < 0.25:
        a, b, word = rng.choice(DIGITS), rng.randint(2, 5), rng.choice(("greater", "less"))
        question, answer = (
            f"Is {a} {word} than {b}?",
            f"{'yes' if counts_here(a, (word, b)) else 'no'}, {a} and {b}",
        )
    else:
        question, answer = (
            "Read the table.",
            " ".join(
                f"{label} {', '.join(map(str, digits))}."
                for label, digits in table_rows(found["meta"]["objects"])
            ),
        )
    found.pop("choices", None)
    return {**found, "ask": "read", "question": question, "answer": answer, "solution": answer}


def select(task, rng, fewest, most, teacher):
    """A question with three candidates in its meta (`planted`), which no rule about the text helps with; out of distribution, where pictures are others, a plain one."""
    if fewest >= OOD_OBJECTS[0]:
        return {**TASKS[task][0](rng, fewest, most, teacher), "ask": "reason"}
    record, texts, at = planted(task, rng, fewest, most)
    return {
        **record,
        "ask": "select",
        "solution": f"<answer> {record['answer']} </answer>",
        "meta": {**record["meta"], "candidates": texts, "right_at": at},
    }


def crowd(texts, at, rng):
    """Two to six candidates made of three, as samples of one question are: one, two or all of them, the right one among them, some of them several times. How often a text is
    there says nothing."""
    kept = [texts[at], *rng.sample(texts[:at] + texts[at + 1 :], rng.randrange(3))]
    found = kept + rng.choices(kept, k=rng.randint(max(0, 2 - len(kept)), 6 - len(kept)))
    rng.shuffle(found)
    return found


def basics(task, rng, fewest, most, teacher):
    """What a published checkpoint brings along and the tiny model has to learn first, about pictures of `task` (table or geometry), mixed: to read them aloud (one in ten), to compare
    candidates (nine in twenty: `planted`, made a `crowd`), to answer without reasoning (one in ten), and with reasoning, which it learns from this teacher.

    A record's `ask` says how its question is to be put (data.ToyStream): "read" as it stands, "select" with the "candidates" of its meta, "direct" for the answer alone,
    "reason" as usual.
    """
    lots = random.Random(
        rng.random()
    )  # the teacher, who draws from rng, changes nothing but his own solution
    found, gold, at = (
        TASKS[task][0](rng, fewest, most, teacher),
        TASKS[task][0](lots, fewest, most, "gold"),
        lots.random(),
    )
    if at < 0.1:
        return aloud(task, lots, fewest, most, teacher)
    if at < 0.55:
        found = select(task, lots, fewest, most, teacher)
        if found["ask"] == "select":
            found["meta"]["candidates"] = crowd(
                found["meta"]["candidates"], found["meta"].pop("right_at"), lots
            )
        return found
    if at < 0.65:
        return {**gold, "ask": "direct", "solution": f"<answer> {gold['answer']} </answer>"}
    return {**found, "ask": "reason"}


# name: (who invents a record, who draws it from record["meta"])
TASKS = {
    "count": (count, draw_scene),
    "table": (table, draw_scene),
    "geometry": (geometry, draw_scene),
    "spatial": (spatial, draw_scene),
    "ground": (ground, draw_scene),
}
TASKS |= {
    f"{task}_{name}": (functools.partial(compose, task), draw_scene)
    for task in ("table", "geometry")
    for name, compose in (("reading", aloud), ("select", select), ("basics", basics))
}


def in_test(record):
    """Whether a scene belongs to the test split: one in eight does, by a checksum of what is drawn (not of seed or index)."""
    return zlib.crc32(repr([o[:4] for o in record["meta"]["objects"]]).encode()) % 8 == 0


def record(task, split="train", index=0, seed=0, level=3, teacher="fallible"):
    """`example` without its picture: a hundred times as fast."""
    fewest, most = OOD_OBJECTS if split == "ood" else LEVELS[level]
    compose, _ = TASKS[task]
    for attempt in itertools.count():
        # a string seeds by its SHA-512: the same on every machine and Python. Composing and drawing have a generator each, so that the
        # teacher, who draws lots too, changes neither the scene nor its picture.
        found = compose(
            random.Random(f"{task} {split} {seed} {index} {attempt}"), fewest, most, teacher
        )
        if split == "ood" or in_test(found) == (split == "test"):
            return found


def example(task, split="train", index=0, seed=0, level=3, teacher="fallible"):
    """Example `index` of an endless, reproducible stream. The same arguments give the same example on every machine.

    task: a key of TASKS; split: train, test or ood; level: 1 to 3 (most objects: 2, 4, 6; ignored by ood); teacher: who wrote the
    solution, fallible or gold (the answer is right either way).
    """
    found = record(task, split, index, seed, level, teacher)
    _, draw = TASKS[task]
    return {
        "image": draw(found["meta"], random.Random(f"draw {task} {split} {seed} {index}")),
        **found,
    }
