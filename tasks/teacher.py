"""How the fallible teacher of the toy sets errs.

Its worked solutions are fluent and often wrong, the gold answers are always right. A model that was
warm-started on such solutions reasons badly, and reinforcement learning can improve it.
"""

import random

from tasks import drawing

TEACHERS = ("fallible", "gold")

P_OVERLOOK = 2 / 3  # misses an object in the right-hand column
P_WIDE_BOX = 2 / 3  # draws a box MARGIN too wide on each side
MARGIN = 4  # pixels
P_WRONG_ROW = 3 / 5  # drops the last row of a table, or invents one below it
P_WRONG_FIGURE = 3 / 5  # mistakes a figure with a large angle for another
P_MISREAD = 1 / 8  # per digit, reads a look-alike; per figure, an angle off by 10 degrees
P_SLIP = 1 / 16  # the final count is off by one, the final difference by ten
LOOK_ALIKE = {1: 4, 4: 1, 3: 6, 6: 3}


def overlooks(teacher: str, rng: random.Random, o: tuple) -> bool:
    """Tell whether this teacher misses an object."""
    in_right_column = o[1] == drawing.GRID - 1
    return teacher == "fallible" and in_right_column and rng.random() < P_OVERLOOK
