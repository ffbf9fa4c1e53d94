"""Toy set `geometry`: how large is the angle marked "?"? Multiple choice, in the manner of GEOQA.

    question  "How large is the angle marked with a question mark?\\nOptions:
              \\n(A) 50°\\n(B) 60°\\n(C) 40°\\n(D) 30°"
    answer    "40°"      choices  ["50°", "60°", "40°", "30°"]
    solution  "<think> Right triangle: 50. 90-50=40. </think><answer> 40° </answer>"
              "<think> Crossing: 50. Equal angles: 50. </think><answer> 50° </answer>"

The two angles are in a triangle, at a line, or where two lines cross. The fallible teacher, three
times in five, mistakes a figure whose angle is 50 degrees or more: a right triangle for an
isosceles one, a line for a crossing, and the other way round. It misreads some angles by ten
degrees, and some differences are off by ten. What is no option becomes the nearest one.

A reading is (figure, angle in degrees).
"""

import itertools
import random
from typing import NamedTuple

from tasks import drawing
from tasks.teacher import P_MISREAD, P_SLIP, P_WRONG_FIGURE


class Figure(NamedTuple):
    """One kind of figure, with all its drawings: (lines, cells of the two angles)."""

    total: int | None  # degrees that its two angles add up to; None: they are equal
    looks_like: str  # what the fallible teacher mistakes it for
    drawings: list[tuple[list, list]]


def flip(x: int, y: int, last: int, across: bool, upside: bool, sideways: bool) -> tuple[int, int]:
    """Mirror a point as told; coordinates go from 0 to `last`."""
    x = last - x if across else x
    y = last - y if upside else y
    return (y, x) if sideways else (x, y)


def drawings(
    lines: list[list[int]], cells: list[tuple[int, int]], right: int = 1, down: int = 1
) -> list[tuple[list, list]]:
    """List a drawing in each place, mirrored and on its side.

    lines: [[x1, y1, x2, y2], ...] in pixels; cells: [(row, column), ...]. Returns pairs of them.
    right, down: how many places, a cell apart.
    """
    found = []
    for x, y, *flips in itertools.product(range(right), range(down), *[(False, True)] * 3):
        dx, dy = x * drawing.CELL, y * drawing.CELL
        moved_lines = []
        for x1, y1, x2, y2 in lines:
            start = flip(x1 + dx, y1 + dy, drawing.SIDE - 1, *flips)
            moved_lines.append([*start, *flip(x2 + dx, y2 + dy, drawing.SIDE - 1, *flips)])
        moved_cells = [
            flip(column + x, row + y, drawing.GRID - 1, *flips)[::-1] for row, column in cells
        ]
        found.append((moved_lines, moved_cells))
    return found


RIGHT_TRIANGLE = [
    [4, 108, 4, 4], [4, 4, 108, 108], [108, 108, 4, 108],
    [4, 96, 16, 96], [16, 96, 16, 108],  # the mark of the right angle
]  # fmt: skip
ISOSCELES_TRIANGLE = [
    [2, 109, 110, 109], [2, 109, 56, 3], [56, 3, 110, 109],
    [24, 52, 34, 57], [88, 52, 78, 57],  # a tick on each of the equal sides
]  # fmt: skip
RAY_ON_LINE = [[2, 54, 110, 54], [56, 54, 56, 6]]
TWO_LINES = [[4, 4, 80, 80], [4, 80, 80, 4]]
FIGURES = {
    "right triangle": Figure(90, "isosceles triangle", drawings(RIGHT_TRIANGLE, [(1, 0), (3, 2)])),
    "isosceles triangle": Figure(
        None, "right triangle", drawings(ISOSCELES_TRIANGLE, [(3, 0), (3, 3)])
    ),
    "line": Figure(180, "crossing", drawings(RAY_ON_LINE, [(1, 0), (1, 3)], down=3)),
    "crossing": Figure(None, "line", drawings(TWO_LINES, [(1, 0), (1, 2)], 2, 2)),
}
FIRST_FIGURES = ("line", "crossing")  # of level 1
ANGLES = range(20, 71, 10)  # degrees
OOD_ANGLES = range(25, 70, 10)  # no training picture shows one of these
LARGE_ANGLE = 50  # from here on the teacher may mistake the figure


def figures_at(most: int) -> tuple[str, ...]:
    """Name the figures of a level, which is told by its most objects."""
    return tuple(FIGURES) if most > 2 else FIRST_FIGURES


def angle_asked(figure: str, angle: int) -> int:
    """Work out the angle asked for, in degrees."""
    total = FIGURES[figure].total
    return angle if total is None else total - angle


def geometry_solution(
    reading: tuple[str, int], values: list[int], slip: int = 0
) -> tuple[str, str]:
    """Write (solution, answer) for a reading, among options of these values, off by `slip`."""
    figure, angle = reading
    total = FIGURES[figure].total
    result = angle_asked(figure, angle) + slip
    sums = f"Equal angles: {result}" if total is None else f"{total}-{angle}={result}"
    answer = f"{min(values, key=lambda value: abs(value - result))}°"
    thinking = f"{figure.capitalize()}: {angle}. {sums}."
    return f"<think> {thinking} </think><answer> {answer} </answer>", answer


def geometry_readings(
    rng: random.Random, figures: tuple[str, ...], angles: range, mixed: bool = False
) -> list[tuple[str, int]]:
    """Pick four readings with four answers.

    Either one figure and its look-alike with two angles each, or (mixed) each of four figures. The
    four are exchangeable: the text alone never tells which one was drawn.
    """
    figure = rng.choice(figures)
    while True:
        sizes = rng.choices(angles, k=4)
        if mixed:
            readings = list(zip(figures, sizes))
        else:
            pair = (figure, FIGURES[figure].looks_like)
            readings = [(name, size) for name in pair for size in sizes[:2]]
        if len({angle_asked(*reading) for reading in readings}) == 4:
            return rng.sample(readings, 4)


def geometry_record(
    readings: list[tuple[str, int]],
    rng: random.Random,
    taught_reading: tuple[str, int],
    slip: int = 0,
) -> dict:
    """Make a record of a picture of the first of four readings.

    The options are their answers, the worked solution is what `taught_reading` comes to.
    """
    figure, angle = readings[0]
    lines, cells = rng.choice(FIGURES[figure].drawings)
    signs = zip(rng.sample(cells, 2), (str(angle), "?"))
    objects = [[*cell, "number", sign] for cell, sign in signs]
    values = rng.sample([angle_asked(*reading) for reading in readings], 4)
    options = [f"{value}°" for value in values]
    listed = "".join(f"\n({letter}) {option}" for letter, option in zip("ABCD", options))
    solution, taught = geometry_solution(taught_reading, values, slip)
    return {
        "question": f"How large is the angle marked with a question mark?\nOptions:{listed}",
        "answer": f"{angle_asked(figure, angle)}°",
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


def geometry(rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Invent a question of `geometry`, without its picture."""
    angles = OOD_ANGLES if fewest >= drawing.OOD_OBJECTS[0] else ANGLES
    readings = geometry_readings(rng, figures_at(most), angles)
    # The teacher has its own generator: what it gets wrong changes nothing in the picture.
    teacher_rng = random.Random(rng.random())
    figure, angle = readings[0]
    slip = 0
    if teacher == "fallible":
        if angle >= LARGE_ANGLE and teacher_rng.random() < P_WRONG_FIGURE:
            figure = FIGURES[figure].looks_like
        if teacher_rng.random() < P_MISREAD:
            angle += teacher_rng.choice((-10, 10))
        if teacher_rng.random() < P_SLIP and FIGURES[figure].total:
            slip = teacher_rng.choice((-10, 10))
    return geometry_record(readings, rng, (figure, angle), slip)


# --- lessons ---


def geometry_candidates(rng: random.Random, fewest: int, most: int) -> tuple[dict, list[str]]:
    """Invent a record and three worked solutions with three answers, the right one first.

    They read three figures (three times in four), or one with two angles and its look-alike.
    """
    mixed = most > 2 and rng.random() < 0.75
    readings = geometry_readings(rng, figures_at(most), ANGLES, mixed)
    record = geometry_record(readings, rng, readings[0])
    values = record["meta"]["values"]
    return record, [geometry_solution(reading, values)[0] for reading in readings[:3]]


def read_figure(record: dict, rng: random.Random) -> tuple[str, str]:
    """Ask (question, answer) for what the picture says."""
    figure, angle = record["meta"]["reading"]
    return "Read the figure.", f"{figure.capitalize()}: {angle}."
