"""Toy set `geometry`."""

import itertools
import random

from tasks import drawing
from tasks.teacher import FIGURE_WRONG, P_MISREAD, P_SLIP


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
                turned(
                    px + x * drawing.CELL,
                    py + y * drawing.CELL,
                    drawing.GRID * drawing.CELL - 1,
                    *turn,
                )
                for px, py in (line[:2], line[2:])
            ]
            for line in lines
        ]
        found.append(
            (
                [[*one, *other] for one, other in ends],
                [
                    turned(column + x, row + y, drawing.GRID - 1, *turn)[::-1]
                    for row, column in places
                ],
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
        rng, FIGURES_AT[most > 2], OOD_ANGLES if fewest >= drawing.OOD_OBJECTS[0] else ANGLES
    )
    lots = random.Random(rng.random())  # the teacher's own: his luck changes nothing in the picture
    (figure, angle), slip = readings[0], 0
    if teacher == "fallible":
        if angle >= 50 and lots.random() < FIGURE_WRONG:
            figure = FIGURES[figure][1]
        angle += lots.choice((-10, 10)) if lots.random() < P_MISREAD else 0
        slip = lots.choice((-10, 10)) if lots.random() < P_SLIP and FIGURES[figure][0] else 0
    return geometry_record(readings, rng, (figure, angle), slip)
