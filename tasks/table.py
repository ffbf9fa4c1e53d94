"""Toy set `table`."""

import random

from tasks import drawing
from tasks.teacher import DIGITS, LOOK_ALIKE, P_MISREAD, P_SLIP, P_WRONG_ROW


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
    free = [color for color in drawing.COLORS if color not in [label for label, _ in found]]
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
        if fewest >= drawing.OOD_OBJECTS[0]
        else (rng.randint(1, 4 if most > 2 else 2), 1)
    )
    rows = [
        (label, [rng.choice(DIGITS) for _ in range(columns)])
        for label in rng.sample(list(drawing.COLORS), number)
    ]
    return rows, rng.choice(
        [("greater", 2), ("greater", 3), ("greater", 4), ("less", 3), ("less", 4), ("less", 5)]
    )


def table_record(rows, wanted, rng, said=None, slip=0):
    """A record of the table that says `rows`, with the worked solution of who reads `said` in it."""
    objects = []
    for row, (label, digits) in enumerate(rows):
        objects += [(row, 0, label, rng.choice(drawing.SHAPES))] + [
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
            (label, [LOOK_ALIKE.get(d, d) if lots.random() < P_MISREAD else d for d in digits])
            for label, digits in rows
        ]
        if lots.random() < P_WRONG_ROW:
            if rows[-1][0] in ("red", "yellow"):
                said = said[:-1] or said
            else:
                free = [
                    color for color in drawing.COLORS if color not in [label for label, _ in said]
                ]
                said = (
                    said + [(lots.choice(free), [lots.choice(DIGITS) for _ in rows[0][1]])]
                    if free
                    else said
                )
        slip = lots.choice((-1, 1)) if lots.random() < P_SLIP else 0
    return table_record(rows, wanted, rng, said, slip)
