"""The types of answers. Values of two types meet only where comparing.same says so."""

from typing import NamedTuple

from grading.units import Unit


class Expression(NamedTuple):
    """A number or a formula, perhaps with a unit. written: a decimal as it was written, else ""."""

    tree: tuple
    unit: Unit | None = None
    written: str = ""


class Range(NamedTuple):
    """From a number to another: 30-39, 5-10%."""

    low: Expression
    high: Expression


class Date(NamedTuple):
    """Year, month, day, None where not named; or three numbers in an unknown order (2/4/2020)."""

    parts: tuple


class Time(NamedTuple):
    """A time of day, in seconds after midnight."""

    seconds: int


class Ratio(NamedTuple):
    """Numbers with colons, compared one by one: 4:10 and 2:5 may be times of day."""

    terms: tuple


class Relation(NamedTuple):
    """Sides and the signs between them: 2x + y = 4, 1 < x <= 3."""

    sides: tuple
    signs: tuple


class Assignment(NamedTuple):
    """A name and its value: x = 7, f(x) = 2x + 1, n = 1, 2, 3.

    relation: the equation, if both sides are formulas.
    """

    name: str
    value: "Value"
    relation: Relation | None


class Sequence(NamedTuple):
    """A list, tuple, interval or set, by its brackets; "" for both if it has none."""

    items: tuple
    opening: str
    closing: str
    joined_by_and: bool = False


class Alternatives(NamedTuple):
    """One or the other: 60° or 120°."""

    items: tuple


class Union(NamedTuple):
    """Intervals or sets joined by a union sign."""

    items: tuple


class Matrix(NamedTuple):
    """Rows of values. bars: a determinant."""

    rows: tuple
    bars: bool


class Choice(NamedTuple):
    """The letter of an option and the text behind it: A, (B), C. cat."""

    letter: str
    rest: str
    symbol: str  # the letter as it was written


class YesNo(NamedTuple):
    """yes, no, true or false, perhaps with a reason behind it."""

    word: str


class Text(NamedTuple):
    """Anything else, in the form in which texts are compared."""

    text: str


Value = (
    Expression | Range | Date | Time | Ratio | Relation | Assignment | Sequence | Alternatives
    | Union | Matrix | Choice | YesNo | Text
)  # fmt: skip
