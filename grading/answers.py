r"""Find an answer in a completion, and compare two. Text in, True or False out.

    completion --extract_answer--> body --match_answer(body, gold, choices)--> True / False

An answer is put into one spelling (spelling.py), read into a typed value (reading.py) and compared
with a value of the same type. Formulas are compared by evaluation (expressions.py). What cannot be
decided is unequal. No text is run, and nothing waits on a clock. docs/rewards.md has the rules.
"""

import functools
import logging
import re
from fractions import Fraction

from grading import expressions
from grading.expressions import TooLarge
from grading.reading import (
    MAX_ANSWER, letter_and_text, names_another_letter, read, read_choice, read_spelled, text_form,
)  # fmt: skip
from grading.spelling import spell
from grading.units import Unit, meet
from grading.values import (
    Alternatives, Assignment, Choice, Expression, Matrix, Range, Ratio, Relation, Sequence, Text,
    Time, Union, Value, YesNo,
)  # fmt: skip

log = logging.getLogger(__name__)

MAX_TAIL = 100_000  # characters after the thinking that are searched for the answer, from the end


# --- finding the answer ---


def extract_answer(completion: str) -> str | None:
    """Find the body of the last well-formed `<answer>...</answer>` after the thinking.

    None if there is none or it is empty. An answer before or inside the thinking does not count:
    a policy that is paid for it learns to answer first and to think never.
    A completion without think tags is searched as a whole.
    """
    tail = completion.rpartition("</think>")[2]
    if "<think>" in tail:
        return None
    pieces = re.split(
        r"(</?answer>)", tail[-MAX_TAIL:]
    )  # text, tag, text, tag, ..., text: linear on any input
    for i in range(len(pieces) - 4, 0, -2):
        if pieces[i] == "<answer>" and pieces[i + 2] == "</answer>":
            return pieces[i + 1].strip() or None
    return None


def parse_failure(completion: str) -> bool:
    """Tell whether there is no answer to score."""
    return extract_answer(completion) is None


# --- comparing two answers ---

_undecided = 0


def undecided() -> int:
    """Count the comparisons of this process that were too large to work out."""
    return _undecided


def match_answer(prediction: str | None, gold: str, choices: list[str] | None = None) -> bool:
    """Tell whether the prediction, an answer body or None, says the same as the gold."""
    if prediction is None or not prediction.strip() or not gold.strip():
        return False
    equal = _match(prediction, gold, tuple(choices) if choices else None)
    if equal is None:
        global _undecided
        _undecided += 1
    return bool(equal)


@functools.lru_cache(maxsize=8192)  # the completions of a group repeat their answers
def _match(prediction: str, gold: str, choices: tuple[str, ...] | None) -> bool | None:
    """match_answer; None if a number on the way is too large."""
    if choices:
        right, picked = choice_index(gold, choices), choice_index(prediction, choices)
        if right is not None and picked is not None:
            return right == picked
        if right is not None:  # the prediction may still equal it as mathematics
            return _only_choice(prediction, without_letters(choices)) == right
    return _same_text(prediction, gold, bool(choices))


def _only_choice(prediction: str, choices: tuple[str, ...]) -> int | None:
    """Find the one choice that a formula is equal to; None if there are none or more."""
    equal = [i for i, choice in enumerate(choices) if _same_text(prediction, choice, True)]
    return equal[0] if len(equal) == 1 else None


def _same_text(prediction: str, gold: str, choices: bool) -> bool | None:
    """Compare two texts; None if a number on the way is too large."""
    if _spelled_alike(prediction, gold):
        return True
    said, expected = read(prediction), read(gold)
    if isinstance(said, Choice) and said.rest and not isinstance(expected, Choice):
        if choices:
            return False  # the letter stands for an option, and it is not this one
        said = read_spelled(said.rest)  # "B. 140°" for 140°
    if isinstance(said, Text) or isinstance(expected, Text):
        if text_form(prediction) == text_form(gold):
            return True
        said, expected = _product_of_letters(said, expected), _product_of_letters(expected, said)
    said, expected = _variable(said, expected), _variable(expected, said)
    try:
        return same(said, expected)
    except TooLarge:
        log.warning(
            "counted as unequal, since a number is too large: %.80r and %.80r", prediction, gold
        )
        return None


def _spelled_alike(prediction: str, gold: str) -> bool:
    """Tell whether two texts are one in case and all."""
    if max(len(prediction), len(gold)) > MAX_ANSWER:
        return prediction.split() == gold.split()
    return _compact(spell(prediction)) == _compact(spell(gold))


def _compact(text: str) -> str:
    """Drop the spaces but those between two digits or two letters: 300 K is 300K, 3 7 is not 37."""
    kept = re.sub(r"(?<=[0-9])\s+(?=[0-9])|(?<=[^\W\d])\s+(?=[^\W\d])", "\0", text)
    return re.sub(r"\s+", "", kept)


def _product_of_letters(value: Value, other: Value) -> Value:
    """xy as a product where the other side is a formula; by itself it is a word."""
    if not isinstance(value, Text) or not isinstance(other, Expression):
        return value
    letters = re.fullmatch("[a-df-hj-np-tv-z]{2,3}", value.text)
    return Expression(expressions.parse(" ".join(value.text))) if letters else value


def _variable(value: Value, other: Value) -> Value:
    """A lone letter as a variable where the other side is a formula, or the name of one."""
    if not isinstance(value, Choice) or value.rest or value.symbol in "ABCDEFGHIJ":
        return value
    if isinstance(other, Expression | Assignment):
        return Expression(("s", value.symbol))
    return value


def same(said: Value, gold: Value) -> bool:
    """Tell whether two values say the same. Raises TooLarge."""
    if isinstance(said, Choice) and isinstance(gold, Choice):
        return said.letter == gold.letter
    if isinstance(gold, Choice) and gold.rest:
        return same(said, read_spelled(gold.rest))  # "cat" for "A. cat"
    said, gold = _whole_set(said), _whole_set(gold)
    if isinstance(gold, Relation) and isinstance(said, Sequence):
        interval = _interval(gold)
        return interval is not None and _same_sequence(said, interval)
    if isinstance(said, Assignment) != isinstance(gold, Assignment):
        return _same_without_name(said, gold)
    if isinstance(said, Ratio) != isinstance(gold, Ratio):
        if isinstance(said, Time) or isinstance(gold, Time):
            return _time(said) == _time(gold) is not None
        return _as_ratio(said) == _as_ratio(gold) is not None
    if type(said) is not type(gold):
        return _same_items_in_any_order(_alternatives(said, gold), _alternatives(gold, said))
    return COMPARE.get(type(said), tuple.__eq__)(said, gold)


def _same_expression(said: Expression, gold: Expression) -> bool:
    """By value. Two units must convert into each other; a bare number meets a quantity."""
    a, b = said, gold
    if a.unit and b.unit:
        if a.unit.dimension != b.unit.dimension and not meet(a.unit, b.unit):
            return False
        if a.unit.dimension != b.unit.dimension:
            return expressions.equal(a.tree, b.tree)
        if a.unit != b.unit:
            return expressions.equal(_in_base_units(a), _in_base_units(b))
    return expressions.equal(a.tree, b.tree) or _rounded(a, b) or _rounded(b, a)


def _in_base_units(value: Expression) -> tuple:
    unit = value.unit
    tree = value.tree
    if unit.offset:
        tree = ("+", tree, ("n", unit.offset))
    tree = ("*", tree, ("n", unit.factor))
    if unit.pi_power:
        tree = ("*", tree, ("^", ("s", "π"), ("n", Fraction(unit.pi_power))))
    return tree


FLOAT_DIGITS = 15  # that a floating point number has at least when it is written out


def _rounded(decimal: Expression, value: Expression) -> bool:
    """Tell whether a long decimal is a value as floats are printed: 1.3333333333333333, 4/3.

    A whole number must be met exactly: 3.0000000000000001 is not 3.
    """
    digits = decimal.written.replace(".", "").lstrip("0")
    if (
        len(digits) < FLOAT_DIGITS
        or expressions.variables(value.tree)
        or expressions.has_two_values(value.tree)
    ):
        return False
    last_place = _last_place(decimal)
    exact = expressions.exact(value.tree)
    if exact is not None and len(value.written) > FLOAT_DIGITS:
        return abs(exact - decimal.tree[1]) < max(last_place, _last_place(value))
    if exact is not None:
        near = max(2 * last_place, abs(exact) / 2**51)
        return exact.denominator > 1 and abs(exact - decimal.tree[1]) <= near
    try:
        difference = expressions.evaluate(value.tree) - expressions.evaluate(decimal.tree)
    except TooLarge:
        raise
    except ArithmeticError:
        return False
    return abs(difference) <= 2 * expressions.evaluate(("n", last_place))


def _last_place(decimal: Expression) -> Fraction:
    return Fraction(1, 10 ** len(decimal.written.partition(".")[2]))


def _same_relation(said: Relation, gold: Relation) -> bool:
    """Compare side by side, in either direction; one equation may be a multiple of the other."""
    if any(map(expressions.has_two_values, said.sides + gold.sides)):
        return _same_pairs(said, gold)
    if len(said.signs) == len(gold.signs) == 1:
        return _same_two_sides(said, gold)
    for relation in (said, _reversed(said)):
        if relation.signs == gold.signs and all(map(expressions.equal, relation.sides, gold.sides)):
            return True
    return False


def _same_pairs(said: Relation, gold: Relation) -> bool:
    """Compare y = ±x as y = x and y = -x, in either order."""
    both = [any(map(expressions.has_two_values, relation.sides)) for relation in (said, gold)]
    if not all(both):
        return False
    pairs = [[_with_sign(relation, sign) for sign in (1, -1)] for relation in (said, gold)]
    return _same_items_in_any_order(tuple(pairs[0]), tuple(pairs[1]))


def _with_sign(relation: Relation, sign: int) -> Relation:
    sides = tuple(expressions.one_of_two(side, sign) for side in relation.sides)
    return relation._replace(sides=sides)


REVERSED = dict(zip("=≠<>≤≥", "=≠><≥≤"))


def _reversed(relation: Relation) -> Relation:
    return Relation(
        relation.sides[::-1], tuple(REVERSED[sign] for sign in reversed(relation.signs))
    )


def _same_two_sides(said: Relation, gold: Relation) -> bool:
    a, b = (("-", *relation.sides) for relation in (said, gold))
    constant = expressions.proportional(a, b)
    if constant == 0:
        return False
    sign = said.signs[0] if constant > 0 else REVERSED[said.signs[0]]
    return sign == gold.signs[0]


def _same_assignment(said: Assignment, gold: Assignment) -> bool:
    if said.name == gold.name and same(said.value, gold.value):
        return True
    return bool(said.relation and gold.relation) and _same_relation(said.relation, gold.relation)


def _same_without_name(said: Value, gold: Value) -> bool:
    """7 for x = 7, and the other way round; y = 4 - 2x for 2x + y = 4."""
    named, other = (said, gold) if isinstance(said, Assignment) else (gold, said)
    if isinstance(other, Relation):
        return named.relation is not None and _same_relation(named.relation, other)
    if isinstance(other, Text | Choice | YesNo):
        return False
    if isinstance(named.value, Choice):
        named = named._replace(value=_variable(named.value, other))
    return same(named.value, other) if named is said else same(other, named.value)


def _same_sequence(said: Sequence, gold: Sequence) -> bool:
    """Item by item between the same brackets; sets, and values with their names, in any order."""
    if (said.opening, said.closing.strip("and")) != (gold.opening, gold.closing.strip("and")):
        return False
    named = all(isinstance(item, Assignment | Relation) for item in said.items + gold.items)
    if gold.opening == "⦃" or named:
        return _same_items_in_any_order(said.items, gold.items)
    return len(said.items) == len(gold.items) and all(map(same, said.items, gold.items))


def _same_items_in_any_order(said: tuple, gold: tuple) -> bool:
    """Tell whether each item of one has its own in the other."""
    if len(said) != len(gold) or not gold:
        return False
    left = list(said)
    for item in gold:
        found = next((i for i, other in enumerate(left) if same(other, item)), None)
        if found is None:
            return False
        del left[found]
    return True


def _alternatives(value: Value, other: Value) -> tuple:
    """List the items of "a or b" and of "a, b", and the two values of 1 ± √3; else ().

    A set has items only beside a ±: {-2, 2} is ±2.
    """
    if isinstance(value, Alternatives):
        return value.items
    if isinstance(value, Sequence):
        fits = ("", "⦃⦄") if isinstance(other, Expression) else ("",)
        return value.items if _brackets(value) in fits else ()
    if isinstance(value, Expression) and expressions.has_two_values(value.tree):
        both = (expressions.one_of_two(value.tree, sign) for sign in (1, -1))
        return tuple(value._replace(tree=tree) for tree in both)
    return ()


def _as_ratio(value: Value) -> tuple | None:
    """The terms of 4:9, and of the fraction 4/9 as it is written."""
    if isinstance(value, Ratio):
        return value.terms
    if isinstance(value, Expression) and value.tree[0] == "/" and not value.unit:
        terms = tuple(part[1] for part in value.tree[1:] if part[0] == "n")
        return terms if len(terms) == 2 else None
    return None


def _same_ratio(said: Ratio, gold: Ratio) -> bool:
    """Compare term by term; 20:34:00 is the time 20:34."""
    short, long = sorted((said.terms, gold.terms), key=len)
    is_clock = len(short) == 2 and short[0] < 24 and short[1] < 60
    return short == long or is_clock and long == (*short, 0)


def _time(value: Value) -> int | None:
    """Seconds after midnight. 15:30 can only be a time; 3:30 may be a ratio, or before noon."""
    if isinstance(value, Time):
        return value.seconds
    terms = value.terms
    if len(terms) == 2 and 13 <= terms[0] <= 23 and terms[1] < 60:
        return int(terms[0] * 3600 + terms[1] * 60)
    return None


def _whole_set(value: Value) -> Value:
    """Join sets that are written out: {1, 3} ∪ {2, 4} is {1, 3, 2, 4}."""
    if not isinstance(value, Union) or any(_brackets(item) != "⦃⦄" for item in value.items):
        return value
    items = [item for part in value.items for item in part.items]
    return Sequence(tuple(dict.fromkeys(items)), "⦃", "⦄")


def _brackets(value: Value) -> str:
    return value.opening + value.closing if isinstance(value, Sequence) else ""


def _interval(relation: Relation) -> Sequence | None:
    """Write 2 < x <= 5 as (2, 5], for a gold that is an inequality; else None."""
    if not set(relation.signs) <= set("<≤"):
        relation = _reversed(relation)
    if len(relation.sides) != 3 or not set(relation.signs) <= set("<≤"):
        return None
    low, middle, high = relation.sides
    if middle[0] != "s" or expressions.variables(low) | expressions.variables(high):
        return None
    opening = "(" if relation.signs[0] == "<" else "["
    closing = ")" if relation.signs[1] == "<" else "]"
    return Sequence((Expression(low), Expression(high)), opening, closing)


def _same_range(said: Range, gold: Range) -> bool:
    return _same_expression(said.low, gold.low) and _same_expression(said.high, gold.high)


def _same_matrix(said: Matrix, gold: Matrix) -> bool:
    shapes = [[len(row) for row in matrix.rows] for matrix in (said, gold)]
    if said.bars != gold.bars or shapes[0] != shapes[1]:
        return False
    pairs = zip(sum(said.rows, ()), sum(gold.rows, ()))
    return all(same(a, b) for a, b in pairs)


def _same_union(said: Union, gold: Union) -> bool:
    return _same_items_in_any_order(said.items, gold.items)


def _same_alternatives(said: Alternatives, gold: Alternatives) -> bool:
    return _same_items_in_any_order(said.items, gold.items)


COMPARE = {  # the other types are the same if they are equal: Date, Time, YesNo, Text
    Expression: _same_expression,
    Range: _same_range,
    Relation: _same_relation,
    Assignment: _same_assignment,
    Sequence: _same_sequence,
    Alternatives: _same_alternatives,
    Union: _same_union,
    Matrix: _same_matrix,
    Ratio: _same_ratio,
}


def quantity(text: str) -> tuple[Fraction, Unit | None] | None:
    """Read a text as one number that is known exactly, with its unit; else None."""
    value = read(text)
    if not isinstance(value, Expression):
        return None
    try:
        number = expressions.exact(value.tree)
    except TooLarge:
        return None
    return None if number is None else (number, value.unit)


# --- choices ---


def choice_index(text: str, choices: list[str] | tuple[str, ...]) -> int | None:
    """Find which choice a text names, by its words, its number or its letter.

    None if it names none, or more than one.
    """
    return _choice_index(text, tuple(choices))


@functools.lru_cache(maxsize=8192)
def _choice_index(text: str, choices: tuple[str, ...]) -> int | None:
    choices = without_letters(choices)
    for alike in (_spelled_alike, same_plain):  # words first: a choice may itself read "A"
        named = [i for i, choice in enumerate(choices) if alike(text, choice)]
        if named:
            return named[0] if len(named) == 1 or alike is _spelled_alike else None
    if len(text) > MAX_ANSWER:
        letter, rest = letter_and_text(text) or ("", "")
        index = _index(letter, choices)
        return index if index is not None and same_plain(rest, choices[index]) else None
    letter, rest = letter_and_text(spell(text)) or (_lone_letter(text), "")
    index = _index(letter, choices)
    if index is None or not rest or same_plain(rest, choices[index]):
        return index
    others = [choice for i, choice in enumerate(choices) if i != index]
    if names_another_letter(letter, rest) or _mentions(rest, others):
        return None  # "A: dog" and "A. cat or dog" where dog is B
    return index


def _lone_letter(text: str) -> str:
    choice = read_choice(spell(text), 0)
    return choice.letter if choice else ""


def _index(letter: str, choices: tuple[str, ...]) -> int | None:
    """The place of a letter's choice; None if there is no such choice."""
    index = ord(letter.casefold()) - ord("a") if letter else len(choices)
    return index if index < len(choices) else None


def _mentions(text: str, choices: list[str]) -> bool:
    form = text_form(text)
    return any(
        re.search(rf"(?<!\w){re.escape(text_form(choice))}(?!\w)", form) for choice in choices
    )


def without_letters(choices: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of choices that carry their own letters: ["A. cat", "B. dog"] -> ("cat", "dog")."""
    parted = [
        letter_and_text(spell(choice)) or ("", "")
        for choice in choices
        if len(choice) <= MAX_ANSWER
    ]
    letters = [letter.casefold() for letter, _ in parted]
    if letters != [chr(ord("a") + i) for i in range(len(choices))]:
        return tuple(choices)
    return tuple(rest for _, rest in parted)


def same_plain(a: str, b: str) -> bool:
    """Tell whether two texts are equal as texts or as numbers with units."""
    x, y = read(a), read(b)
    if isinstance(x, Expression) and isinstance(y, Expression):
        if x.tree[0] == y.tree[0] == "n" or x.tree == y.tree:
            return _same_expression(x, y)
        known = (
            [expressions.exact(value.tree) for value in (x, y)] if len(a) + len(b) < 40 else [None]
        )
        return None not in known and _same_expression(x, y)
    if x == y:
        return x != Text("")
    return text_form(a) == text_form(b) != ""


# --- voting ---


def normalize_answer(text: str, choices: list[str] | None = None) -> str:
    """Write an answer so that equal answers are equal strings and vote together (majority@N).

    With choices, every way to name one gives its letter. Units are dropped: 3 cm votes with 3.
    Formulas are not worked out: 2/4 is 1/2, but 2√3 is not √12.
    """
    if choices:
        index = choice_index(text, choices)
        if index is not None:
            return chr(ord("a") + index)
    return _form(read(text), text)


def _form(value: Value, text: str) -> str:
    if isinstance(value, Choice):
        return value.letter
    if isinstance(value, YesNo):
        return value.word
    if isinstance(value, Expression):
        return _form_of_tree(value.tree)
    if isinstance(value, Text):
        return value.text
    return text_form(text).replace(" ", "")


def _form_of_tree(tree: tuple) -> str:
    try:
        exact = expressions.exact(tree)
    except TooLarge:
        exact = None
    if exact is not None:
        return str(exact)
    if tree[0] == "s":
        return tree[1]
    return f"{tree[0]}({','.join(_form_of_tree(part) for part in tree[1:])})"
