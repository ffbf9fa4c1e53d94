"""Toy set `table`: how many numbers are greater (or less) than one?

    question  "How many numbers are greater than 3?"
    answer    "2"
    solution  "<think> Numbers greater than 3: red 4 (1). green 1. blue 6 (2).
              </think><answer> 2 </answer>"

Rows are named by the coloured shape in front of them; in brackets stands the count so far. The
fallible teacher, three times in five, drops the last row if it is red or yellow, and invents one
below it if it is blue or green. Its misread digits and slips also go both ways, so that only the
picture tells its readings from right ones. Sums in place of counts are more than the tiny model
learns in minutes, and so is telling candidates apart by single digits (docs/log.md).

rows are [(color, [digits]), ...], `wanted` is ("greater", 3) or ("less", 3).
"""

import random

from tasks import drawing
from tasks.teacher import LOOK_ALIKE, P_MISREAD, P_SLIP, P_WRONG_ROW

DIGITS = range(1, 7)
THRESHOLDS = [
    ("greater", 2), ("greater", 3), ("greater", 4), ("less", 3), ("less", 4), ("less", 5)
]  # fmt: skip
FLAWS = {"skip": 3, "invent": 3, "misread": 2}  # of a candidate, and how often each


def table_rows(objects: list) -> list[tuple[str, list[int]]]:
    """Read the rows of a table from the objects of its scene."""
    rows = []
    for row, column, color, _ in objects:
        if column == 0:
            digits = [int(text) for r, c, _, text in objects if r == row and c > 0]
            rows.append((color, digits))
    return rows


def counts_here(digit: int, wanted: tuple[str, int]) -> bool:
    """Tell whether a number is one of those asked for."""
    word, limit = wanted
    return digit > limit if word == "greater" else digit < limit


def table_solution(rows: list, wanted: tuple[str, int], slip: int = 0) -> tuple[str, str]:
    """Write (solution, answer) for a reading of the table, with the count off by `slip`."""
    lines = [f"Numbers {wanted[0]} than {wanted[1]}:"]
    total = 0
    for label, digits in rows:
        words = []
        for digit in digits:
            if counts_here(digit, wanted):
                total += 1
                words.append(f"{digit} ({total})")
            else:
                words.append(str(digit))
        lines.append(f"{label} {', '.join(words)}.")
    total = max(0, total + slip)
    return f"<think> {' '.join(lines)} </think><answer> {total} </answer>", str(total)


def free_colors(rows: list) -> list[str]:
    """List the colours that name no row yet."""
    labels = [label for label, _ in rows]
    return [color for color in drawing.COLORS if color not in labels]


def random_digits(rng: random.Random, number: int) -> list[int]:
    """Pick the digits of a row."""
    return [rng.choice(DIGITS) for _ in range(number)]


def table_flaw(rows: list, rng: random.Random, kind: str) -> list | None:
    """Copy a reading with one more flaw.

    None if it has no row to skip, or no colour left to invent one.
    """
    rows = [(label, list(digits)) for label, digits in rows]
    free = free_colors(rows)
    if kind == "skip" and len(rows) > 1:
        del rows[rng.randrange(len(rows))]
    elif kind == "invent" and free:
        place = rng.randrange(len(rows) + 1)
        rows.insert(place, (rng.choice(free), random_digits(rng, len(rows[0][1]))))
    elif kind == "misread":
        digits = rng.choice(rows)[1]
        place = rng.randrange(len(digits))
        digits[place] = rng.choice([d for d in DIGITS if d != digits[place]])
    else:
        return None
    return rows


def any_table(rng: random.Random, fewest: int, most: int) -> tuple[list, tuple[str, int]]:
    """Invent (rows, wanted).

    One to four rows of one number, at level 1 at most two; ood: three or four rows of two numbers.
    """
    if fewest >= drawing.OOD_OBJECTS[0]:
        number = rng.randint(3, 4)
        columns = 2
    else:
        number = rng.randint(1, 4 if most > 2 else 2)
        columns = 1
    labels = rng.sample(list(drawing.COLORS), number)
    rows = [(label, random_digits(rng, columns)) for label in labels]
    return rows, rng.choice(THRESHOLDS)


def table_record(
    rows: list, wanted: tuple[str, int], rng: random.Random, reading: list, slip: int = 0
) -> dict:
    """Make a record of the table `rows`, with the worked solution that `reading` comes to."""
    objects = []
    for row, (label, digits) in enumerate(rows):
        objects.append([row, 0, label, rng.choice(drawing.SHAPES)])
        objects += [[row, column, "number", str(d)] for column, d in enumerate(digits, 1)]
    solution, taught = table_solution(reading, wanted, slip)
    return {
        "question": f"How many numbers are {wanted[0]} than {wanted[1]}?",
        "answer": table_solution(rows, wanted)[1],
        "solution": solution,
        "meta": {"objects": objects, "wanted": list(wanted), "taught": taught},
    }


def misread_digit(digit: int, rng: random.Random) -> int:
    """Read a digit as the fallible teacher does."""
    return LOOK_ALIKE.get(digit, digit) if rng.random() < P_MISREAD else digit


def misread_rows(rows: list, rng: random.Random) -> list:
    """Read a table as the fallible teacher does."""
    reading = []
    for label, digits in rows:
        reading.append((label, [misread_digit(d, rng) for d in digits]))
    if rng.random() >= P_WRONG_ROW:
        return reading
    if rows[-1][0] in ("red", "yellow"):
        return reading[:-1] or reading
    free = free_colors(rows)
    if free:
        reading.append((rng.choice(free), random_digits(rng, len(rows[0][1]))))
    return reading


def table(rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Invent a question of `table`, without its picture."""
    rows, wanted = any_table(rng, fewest, most)
    # The teacher has its own generator: what it gets wrong changes nothing in the picture.
    teacher_rng = random.Random(rng.random())
    reading = rows
    slip = 0
    if teacher == "fallible":
        reading = misread_rows(rows, teacher_rng)
        if teacher_rng.random() < P_SLIP:
            slip = teacher_rng.choice((-1, 1))
    return table_record(rows, wanted, rng, reading, slip)


# --- lessons ---


def table_candidates(rng: random.Random, fewest: int, most: int) -> tuple[dict, list[str]]:
    """Invent a record and three worked solutions with three answers, the right one first.

    Two tables differ from the third, or one of them from the other, by a row or a digit.
    """
    readings = []
    while not readings:
        rows, wanted = any_table(rng, fewest, most)
        kinds = rng.choices(list(FLAWS), tuple(FLAWS.values()), k=2)
        one = table_flaw(rows, rng, kinds[0])
        two = one and table_flaw(rng.choice((rows, one)), rng, kinds[1])
        readings = [rows, one, two] if two else []
        rng.shuffle(readings)
        if len({table_solution(reading, wanted)[1] for reading in readings}) < 3:
            readings = []
    record = table_record(readings[0], wanted, rng, readings[0])
    return record, [table_solution(reading, wanted)[0] for reading in readings]


def read_table(record: dict, rng: random.Random) -> tuple[str, str]:
    """Ask (question, answer) for all digits, or one time in four a comparison.

    Comparisons are what its questions come down to. Sums, as lessons, kept figures from being read.
    """
    if rng.random() < 0.25:
        a, limit = rng.choice(DIGITS), rng.randint(2, 5)
        word = rng.choice(("greater", "less"))
        verdict = "yes" if counts_here(a, (word, limit)) else "no"
        return f"Is {a} {word} than {limit}?", f"{verdict}, {a} and {limit}"
    rows = table_rows(record["meta"]["objects"])
    words = [f"{label} {', '.join(map(str, digits))}." for label, digits in rows]
    return "Read the table.", " ".join(words)
