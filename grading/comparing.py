"""Compare two values of values.py.

Each type has its function in COMPARE; `same` says which types may meet.
"""

from fractions import Fraction

from grading import equality
from grading.equality import TooLarge
from grading.expressions import parse, variables
from grading.reading import read_spelled
from grading.units import may_be_one_sign
from grading.values import (
    Alternatives,
    Assignment,
    Choice,
    Expression,
    Matrix,
    Range,
    Ratio,
    Relation,
    Sequence,
    Text,
    Time,
    Union,
    Value,
    YesNo,
)  # fmt: skip

OPTIONS = "ABCDEFGHIJ"  # a capital among these is an option's letter, not a variable
# Two or three of these side by side may be a product: xy, abc. With e, i, o, u they may be a word.
FACTORS = set("abcdfghjklmnpqrstvwxyz")
FLOAT_DIGITS = 15  # that a floating point number has at least when it is printed


def same(said: Value, gold: Value) -> bool:
    """Tell whether two values say the same. Raises TooLarge.

    Values of two types meet only here: a letter with its text, a name with its value, a fraction
    with a ratio, an interval with an inequality, a list with "a or b", letters with a formula.
    """
    if isinstance(said, Choice) and isinstance(gold, Choice):
        return said.letter == gold.letter
    if isinstance(gold, Choice) and gold.rest:
        return same(said, read_spelled(gold.rest))  # "cat" for "A. cat"
    said, gold = _as_formula(said, gold), _as_formula(gold, said)
    said, gold = _whole_set(said), _whole_set(gold)
    if type(said) is type(gold):
        return COMPARE.get(type(said), tuple.__eq__)(said, gold)
    if {type(said), type(gold)} == {Relation, Sequence}:
        a, b = _interval(said), _interval(gold)
        return a is not None and b is not None and _same_sequence(a, b)
    if isinstance(said, Assignment) or isinstance(gold, Assignment):
        return _same_without_name(said, gold)
    if isinstance(said, Ratio) or isinstance(gold, Ratio):
        return _same_beside_ratio(said, gold)
    return _same_members(_alternatives(said, gold), _alternatives(gold, said))


def _as_formula(value: Value, other: Value) -> Value:
    """Read x, and xy, as a formula if the other side is one."""
    if not isinstance(other, Expression | Assignment):
        return value
    if isinstance(value, Choice) and not value.rest and value.symbol not in OPTIONS:
        return Expression(("s", value.symbol))
    letters = value.text if isinstance(value, Text) and isinstance(other, Expression) else ""
    if 2 <= len(letters) <= 3 and set(letters) <= FACTORS:
        return Expression(parse(" ".join(letters)))
    return value


# --- numbers and formulas ---


def _same_expression(said: Expression, gold: Expression) -> bool:
    """Compare by value. Two units must convert into each other; a bare number meets a quantity."""
    a, b = said.unit, gold.unit
    if a and b and a.dimension != b.dimension:
        return may_be_one_sign(a, b) and equality.equal(said.tree, gold.tree)
    if a and b and a != b:
        return equality.equal(_in_base_units(said), _in_base_units(gold))
    return (
        equality.equal(said.tree, gold.tree) or _is_float_of(said, gold) or _is_float_of(gold, said)
    )


def _in_base_units(value: Expression) -> tuple:
    unit, tree = value.unit, value.tree
    if unit.offset:
        tree = ("+", tree, ("n", unit.offset))
    tree = ("*", tree, ("n", unit.factor))
    if unit.pi_power:
        tree = ("*", tree, ("^", ("s", "π"), ("n", Fraction(unit.pi_power))))
    return tree


def _is_float_of(decimal: Expression, value: Expression) -> bool:
    """Tell whether a long decimal is a value as computers print it: 1.3333333333333333, 4/3.

    A whole number must be met exactly: 3.0000000000000001 is not 3.
    """
    digits = decimal.written.replace(".", "").lstrip("0")
    if len(digits) < FLOAT_DIGITS or variables(value.tree):
        return False
    if equality.has_two_values(value.tree):
        return False
    last_place = _last_place(decimal)
    exact = equality.exact(value.tree)
    if exact is not None and len(value.written) > FLOAT_DIGITS:
        return abs(exact - decimal.tree[1]) < max(last_place, _last_place(value))
    if exact is not None:
        near = max(2 * last_place, abs(exact) / 2**51)
        return exact.denominator > 1 and abs(exact - decimal.tree[1]) <= near
    try:
        difference = equality.evaluate(value.tree) - equality.evaluate(decimal.tree)
    except TooLarge:
        raise
    except ArithmeticError:
        return False
    return abs(difference) <= 2 * equality.evaluate(("n", last_place))


def _last_place(decimal: Expression) -> Fraction:
    return Fraction(1, 10 ** len(decimal.written.partition(".")[2]))


def _same_range(said: Range, gold: Range) -> bool:
    return _same_expression(said.low, gold.low) and _same_expression(said.high, gold.high)


# --- ratios and times ---


def _same_ratio(said: Ratio, gold: Ratio) -> bool:
    """Compare term by term; 20:34:00 is the time 20:34."""
    short, long = sorted((said.terms, gold.terms), key=len)
    is_clock = len(short) == 2 and short[0] < 24 and short[1] < 60
    return short == long or (is_clock and long == (*short, 0))


def _same_beside_ratio(said: Value, gold: Value) -> bool:
    """Compare 15:30 with 3:30 PM, and 4:9 with the fraction 4/9 as it is written."""
    read = _time if isinstance(said, Time) or isinstance(gold, Time) else _terms
    a, b = read(said), read(gold)
    return a is not None and a == b


def _time(value: Value) -> int | None:
    """Return the seconds after midnight. 15:30 can only be a time; 3:30 may be before noon."""
    if isinstance(value, Time):
        return value.seconds
    if len(value.terms) == 2 and 13 <= value.terms[0] <= 23 and value.terms[1] < 60:
        return int(value.terms[0] * 3600 + value.terms[1] * 60)
    return None


def _terms(value: Value) -> tuple | None:
    if isinstance(value, Ratio):
        return value.terms
    if not isinstance(value, Expression) or value.unit or value.tree[0] != "/":
        return None
    kinds = [part[0] for part in value.tree[1:]]
    return tuple(part[1] for part in value.tree[1:]) if kinds == ["n", "n"] else None


# --- equations and inequalities ---

REVERSED = dict(zip("=≠<>≤≥", "=≠><≥≤", strict=True))


def _same_relation(said: Relation, gold: Relation) -> bool:
    """Compare side by side, in either direction; one equation may be a multiple of the other."""
    if any(map(equality.has_two_values, said.sides + gold.sides)):
        return _same_members(_without_plus_minus(said), _without_plus_minus(gold))
    if len(said.signs) == len(gold.signs) == 1:
        return _same_two_sides(said, gold)
    for relation in (said, _reversed(said)):
        if relation.signs == gold.signs and all(map(equality.equal, relation.sides, gold.sides)):
            return True
    return False


def _without_plus_minus(relation: Relation) -> tuple[Relation, ...]:
    """Write y = ±x as y = x and y = -x; a relation without ± stays one."""
    if not any(map(equality.has_two_values, relation.sides)):
        return (relation,)
    both = [equality.both_values(side) for side in relation.sides]
    return tuple(relation._replace(sides=sides) for sides in zip(*both, strict=True))


def _reversed(relation: Relation) -> Relation:
    signs = tuple(REVERSED[sign] for sign in reversed(relation.signs))
    return Relation(relation.sides[::-1], signs)


def _same_two_sides(said: Relation, gold: Relation) -> bool:
    constant = equality.proportional(("-", *said.sides), ("-", *gold.sides))
    if constant == 0:
        return False
    sign = said.signs[0] if constant > 0 else REVERSED[said.signs[0]]
    return sign == gold.signs[0]


def _interval(value: Relation | Sequence) -> Sequence | None:
    """Write 2 < x <= 5 as (2, 5]; None for another relation. A sequence stays as it is."""
    if isinstance(value, Sequence):
        return value
    relation = value
    if not set(relation.signs) <= set("<≤"):
        relation = _reversed(relation)
    if len(relation.sides) != 3 or not set(relation.signs) <= set("<≤"):
        return None
    low, middle, high = relation.sides
    if middle[0] != "s" or variables(low) | variables(high):
        return None
    opening = "(" if relation.signs[0] == "<" else "["
    closing = ")" if relation.signs[1] == "<" else "]"
    return Sequence((Expression(low), Expression(high)), opening, closing)


def _same_assignment(said: Assignment, gold: Assignment) -> bool:
    if said.name == gold.name and same(said.value, gold.value):
        return True
    return bool(said.relation and gold.relation) and _same_relation(said.relation, gold.relation)


def _same_without_name(said: Value, gold: Value) -> bool:
    """Compare a named value with one that has no name: x = 7 and 7, y = x + 1 and x - y = -1."""
    named, other = (said, gold) if isinstance(said, Assignment) else (gold, said)
    if isinstance(other, Relation):
        return named.relation is not None and _same_relation(named.relation, other)
    if isinstance(other, Text | Choice | YesNo):
        return False
    return same(named.value, other) if named is said else same(other, named.value)


# --- lists, sets, matrices ---


def _same_sequence(said: Sequence, gold: Sequence) -> bool:
    """Compare item by item between the same brackets; sets and named values in any order."""
    if _brackets(said) != _brackets(gold):
        return False
    named = all(isinstance(item, Assignment | Relation) for item in said.items + gold.items)
    if gold.opening == "⦃" or named:
        return _same_members(said.items, gold.items)
    return len(said.items) == len(gold.items) and all(map(same, said.items, gold.items))


def _brackets(value: Value) -> str | None:
    return value.opening + value.closing if isinstance(value, Sequence) else None


def _same_members(said: tuple, gold: tuple) -> bool:
    """Tell whether the items can be paired, each with one that says the same (Kuhn 1955)."""
    if len(said) != len(gold) or not gold:
        return False
    fits = [[j for j, other in enumerate(said) if same(other, item)] for item in gold]
    partner = {}  # of an item of said: the item of gold that it is paired with

    def find(i: int, tried: set) -> bool:
        for j in fits[i]:
            if j not in tried:
                tried.add(j)
                if j not in partner or find(partner[j], tried):
                    partner[j] = i
                    return True
        return False

    return all(find(i, set()) for i in range(len(gold)))


def _alternatives(value: Value, other: Value) -> tuple:
    """List the items of "a or b" and of "a, b", and the two values of 1 ± √3; else ().

    A set has items only beside a ±: {-2, 2} is ±2.
    """
    if isinstance(value, Alternatives):
        return value.items
    if isinstance(value, Sequence):
        bare = _brackets(value) == "" and not value.joined_by_and
        beside_two = _brackets(value) == "⦃⦄" and isinstance(other, Expression)
        return value.items if bare or beside_two else ()
    if isinstance(value, Expression) and equality.has_two_values(value.tree):
        return tuple(value._replace(tree=tree) for tree in equality.both_values(value.tree))
    return ()


def _whole_set(value: Value) -> Value:
    """Join sets that are written out: {1, 3} ∪ {2, 4} is {1, 3, 2, 4}."""
    if not isinstance(value, Union) or any(_brackets(item) != "⦃⦄" for item in value.items):
        return value
    items = [item for part in value.items for item in part.items]
    return Sequence(tuple(dict.fromkeys(items)), "⦃", "⦄")


def _same_items(said: Alternatives | Union, gold: Alternatives | Union) -> bool:
    return _same_members(said.items, gold.items)


def _same_matrix(said: Matrix, gold: Matrix) -> bool:
    shapes = [[len(row) for row in matrix.rows] for matrix in (said, gold)]
    if said.bars != gold.bars or shapes[0] != shapes[1]:
        return False
    pairs = zip(sum(said.rows, ()), sum(gold.rows, ()), strict=True)
    return all(same(a, b) for a, b in pairs)


COMPARE = {  # the other types are the same if they are equal: Date, Time, YesNo, Text
    Expression: _same_expression,
    Range: _same_range,
    Ratio: _same_ratio,
    Relation: _same_relation,
    Assignment: _same_assignment,
    Sequence: _same_sequence,
    Alternatives: _same_items,
    Union: _same_items,
    Matrix: _same_matrix,
}
