"""How the fallible teacher errs."""

from tasks import drawing

TEACHERS = ("fallible", "gold")
OVERLOOKED = 2 / 3  # the fallible teacher's chance of missing an object in the right-hand column
P_WRONG_ROW, P_MISREAD, P_SLIP = (
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


def overlooks(teacher, rng, o):
    """Whether the fallible teacher misses this object."""
    return teacher == "fallible" and o[1] == drawing.GRID - 1 and rng.random() < OVERLOOKED
