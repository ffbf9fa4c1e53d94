r"""Read an answer into a typed value (values.py).

    read("30-39")         -> Range(Expression(30), Expression(39))
    read("5 km/h")        -> Expression(5, unit=km/h)
    read("x = 7")         -> Assignment("x", Expression(7))
    read("(2, 5]")        -> Sequence((Expression(2), Expression(5)), "(", "]")
    read("A. cat")        -> Choice("a", "cat")
    read("No idea")       -> Text("no idea")

PHRASES and READERS have the readers in the order in which they are tried. Each takes a spelled text
(spelling.py) and returns a value or None.
"""

import functools
import re

from grading import equality, expressions
from grading.equality import TooLarge
from grading.expressions import NUMBER, Unreadable
from grading.phrases import read_choice, read_code, read_date, read_ratio, read_time, read_yes_no
from grading.quantities import read_compound, read_number, read_quantity
from grading.spelling import closes_at_end, plain, spell
from grading.values import (
    Alternatives,
    Assignment,
    Expression,
    Matrix,
    Range,
    Relation,
    Sequence,
    Text,
    Union,
    Value,
)

MAX_ANSWER = 200  # a longer text is compared as text only
MAX_NESTING = 4  # of lists in lists


def read(text: str) -> Value:
    """Read an answer. A text of more than MAX_ANSWER characters is a Text."""
    if len(text) > MAX_ANSWER:
        return Text(text_form(text))
    return read_spelled(spell(text))


def text_form(text: str) -> str:
    """Write a text without what makes no difference: case, spaces, quotes, the final period.

    Of a long text only case and spaces.
    """
    if len(text) > MAX_ANSWER:
        return " ".join(text.split()).casefold()
    return plain(spell(text))


@functools.lru_cache(maxsize=8192)
def read_spelled(text: str, depth: int = 0) -> Value:
    """Read a spelled text. depth: how many lists it stands in."""
    text = text.removeprefix("≈").strip()
    if text and len(text) <= MAX_ANSWER and depth <= MAX_NESTING:  # spelling can lengthen a text
        for read_phrase in PHRASES:
            value = read_phrase(text)
            if value is not None:
                return value
        for reader in READERS:
            value = reader(text, depth)
            if value is not None:
                return value
    return Text(plain(text))


# --- ranges and formulas ---

COMMA_NUMBER = rf"(?:{expressions.GROUPED}|{NUMBER})"
RANGE = re.compile(
    rf"""(?: from \s+ )?
        ( [^0-9a-z]{{0,2}}? -? {COMMA_NUMBER} ) ( [^0-9-]*? )          # $5, 5 cm
        \s* (?: - | ~ | \b to \b | 至 | 到 ) \s*
        ( \D? {COMMA_NUMBER} ) (.*)                                   # $10, 10 cm""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def read_range(text: str, depth: int) -> Range | None:
    """Read 30-39, 10 to 20 cm, $5-$10. A hyphen between two bare numbers is never a minus."""
    m = RANGE.fullmatch(text)
    if not m or (m[3].startswith("-") and not m[1].startswith("-")):
        return None
    if re.fullmatch(r"[a-z](?:\s*\^.*)?", m[4]):
        return None  # 3-2m may be a formula
    high = read_quantity(m[3] + m[4], depth)
    low = read_quantity(m[1] + m[2], depth)
    if high is None or low is None or low.tree[0] not in "n-" or high.tree[0] != "n":
        return None
    unit = high.unit or low.unit
    return Range(low._replace(unit=low.unit or unit), high._replace(unit=unit))


def read_expression(text: str, depth: int) -> Expression | None:
    """Read a formula, with variables or without."""
    try:
        tree = expressions.parse(text, depth == 0)
    except Unreadable:
        return None
    if tree[0] == "!" and tree[1][0] == "n":
        return None  # 3! may be the number 3 with an exclamation mark
    return Expression(tree)


# --- lists, sets, intervals, matrices ---

OPENING, CLOSING = "([⦃⟨{", ")]⦄⟩}"


def split(text: str, pattern: str) -> list[str]:
    """Part a text at the separators that stand outside of all brackets."""
    pieces, start, depth = [], 0, 0
    separator = re.compile(pattern)
    at = 0
    while at < len(text):
        char = text[at]
        if char in OPENING:
            depth += 1
        elif char in CLOSING:
            depth -= 1
        elif depth == 0 and (m := separator.match(text, at)):
            pieces.append(text[start:at].strip())
            start = at = m.end()
            continue
        at += 1
    return [*pieces, text[start:].strip()]


def _items(pieces: list[str], depth: int) -> tuple:
    """Read the items of a list that stands in `depth` others."""
    return tuple(read_spelled(piece, depth + 1) for piece in pieces)


def read_alternatives(text: str, depth: int) -> Value | None:
    """Read 60° or 120°; a name that all share is taken out: x = 1 or x = 2."""
    pieces = split(text, r"\s+or\s+|\s*或者?\s*")
    if len(pieces) < 2 or not all(pieces):
        return None
    pieces[0] = re.sub(r"^either\s+", "", pieces[0], flags=re.IGNORECASE)
    return _named_together(Alternatives(tuple(read_spelled(piece, depth) for piece in pieces)))


def _named_together(value: Alternatives | Sequence) -> Value:
    """Write x = 1 or x = 2, and x = 1 or 2, as the assignment of 1 or 2 to x."""
    first, *others = value.items
    if not isinstance(first, Assignment):
        return value
    values = [first.value]
    for item in others:
        if isinstance(item, Relation):
            return value
        if isinstance(item, Assignment):
            if item.name != first.name:
                return value
            item = item.value
        values.append(item)
    return Assignment(first.name, value._replace(items=tuple(values)), None)


def read_union(text: str, depth: int) -> Union | None:
    """Read sets joined by ∪."""
    pieces = split(text, "∪")
    if len(pieces) < 2 or not all(pieces):
        return None
    return Union(_items(pieces, depth))


def read_sequence(text: str, depth: int) -> Value | None:
    """Read 3, 7; (1, 2); [0, 1); {1, 2}. Braces of LaTeX are a set only around a comma."""
    if text[0] in "([⦃⟨" and text[-1] in ")]⦄⟩" and _balanced(text[1:-1]):
        pieces = parts(text[1:-1]) if text[1:-1].strip() else []
        least = 2 if text[0] in "(⟨" else 0  # (3) is 3
        if all(pieces) and len(pieces) >= least:
            return Sequence(_items(pieces, depth), text[0], text[-1])
    if text[0] == "{" and closes_at_end(text, "{}"):
        pieces = parts(text[1:-1])
        if len(pieces) > 1 and all(pieces):
            return Sequence(_items(pieces, depth), "⦃", "⦄")
    pieces = parts(text)
    if len(pieces) < 2 or not all(pieces) or (depth == 0 and read_number(text)):
        return None
    joined_by_and = bool(re.search(r"\sand\s|[和且]", text))
    return _named_together(Sequence(_items(pieces, depth), "", "", joined_by_and))


AND = r"[,;]\s*and\s+|\s+and\s+|\s*[和且]\s*"


@functools.lru_cache(maxsize=1024)
def parts(text: str) -> list[str]:
    """Part a list at its commas; at "1,000, 2,000" only at those before a space."""
    pieces = split(text, AND + r"|[,;、]")
    wide = split(text, AND + r"|;|,\s+")
    thousands = [piece for piece in wide if "," in piece]
    if thousands and all(re.fullmatch(expressions.GROUPED, piece) for piece in thousands):
        return wide if len(wide) > 1 else pieces
    return pieces


def _balanced(text: str) -> bool:
    """Tell whether no bracket closes before it opens."""
    depth = 0
    for char in text:
        depth += (char in OPENING) - (char in CLOSING)
        if depth < 0:
            return False
    return depth == 0


_MATRIX = r"\{([pbvBV]?)(?:small)?(?:matrix|array)\}"
MATRIX = re.compile(rf"\\begin\s*{_MATRIX}(?:\{{[lcr|]*\}})?(.*)\\end\s*{_MATRIX}", re.DOTALL)
CASES = re.compile(r"\\begin\s*\{cases\}(.*)\\end\s*\{cases\}", re.DOTALL)


def read_cases(text: str, depth: int) -> Sequence | None:
    """Read the lines between \\begin{cases} and \\end{cases} as a list."""
    m = CASES.fullmatch(text)
    if not m:
        return None
    rows = [row.strip(" ,;") for row in m[1].split("\\\\") if row.strip()]
    return Sequence(_items(rows, depth), "", "")


def read_matrix(text: str, depth: int) -> Matrix | None:
    """Read a LaTeX matrix or array."""
    m = MATRIX.fullmatch(text.strip("()[] "))
    if not m or m[1] != m[3]:
        return None
    rows = [row.split("&") for row in m[2].split("\\\\") if row.strip()]
    cells = [_items([cell.strip() for cell in row], depth) for row in rows]
    return Matrix(tuple(cells), bars=m[1] in ("v", "V"))


# --- equations, inequalities, names ---

POINT = re.compile(r"([A-Z]'?)\s*(\(.*,.*\))", re.DOTALL)


def read_point(text: str, depth: int) -> Assignment | None:
    """Read a name with its coordinates: P(-3, 4)."""
    m = POINT.fullmatch(text)
    value = read_sequence(m[2], depth) if m else None
    return Assignment(m[1], value, None) if isinstance(value, Sequence) and value.opening else None


_ANGLE = r"(?:m?\s*(?:∠|\bangle)\s*(?:[A-Za-zα-ω]{1,3}|[0-9]))"
_LETTERS = r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\)"
_ARGUMENTS = r"\(\s*-?[0-9.A-Za-z]+(?:\s*,\s*-?[0-9.A-Za-z]+)*\s*\)"
_INVERSE = r"(?:\s*\^\s*\{?\s*-1\s*\}?)"
_DERIVATIVE = r"d[a-z]\s*/\s*d[a-z]|\\frac\s*\{\s*d[a-z]\s*\}\s*\{\s*d[a-z]\s*\}"
_SHARE = r"[A-Z]{2}\s*/\s*[A-Z]{2}|\\frac\s*\{\s*[A-Z]{2}\s*\}\s*\{\s*[A-Z]{2}\s*\}"
_SUBSCRIPT = r"(?:\s*_\s*(?:\{[^{}]{1,20}\}|[0-9A-Za-z]+)|[0-9]{1,2})"
_SYMBOL = (
    r"(?:[A-Za-zα-ωΓ-Ω]|[A-Z]{2,3}|△\s*[A-Z]{3})'{0,2}"
    rf"{_SUBSCRIPT}?(?:{_INVERSE}?\s*{_ARGUMENTS})?"
)
NAME = re.compile(
    rf"{_ANGLE}|(?:sin|cos|tan|cot)\s*(?:{_ANGLE}|[A-Zα-ω]{{1,3}}|[a-z])"
    rf"|{_SYMBOL}(?:\s*:\s*{_SYMBOL})?|{_LETTERS}|\|\s*[A-Z]{{2}}\s*\||{_DERIVATIVE}|{_SHARE}"
    r"|S_?\{?\s*△\s*[A-Z]{3}\}?"
)
PROBABILITY = re.compile(r"(P\s*\([^()]*[=<>≤≥][^()]*\))\s*=\s*([^=]+)")
SIGNS = "=<>≤≥≠∈≈"


def read_relation(text: str, depth: int) -> Value | None:
    """Read a named value, an equation or an inequality.

    x = 7, f(x) = 2x + 1, n = 1, 2, 3, x in [0, 1]; 2x + y = 4, x > 3, 1 < x <= 3.
    """
    found = [char for char in text if char in SIGNS]
    if not found:
        return None
    chance = PROBABILITY.fullmatch(text)
    if chance:
        return Assignment(chance[1].replace(" ", ""), read_spelled(chance[2], depth), None)
    if len(found) == 1 and found[0] in "=∈≈":
        name, _, value = (part.strip() for part in text.partition(found[0]))
        if NAME.fullmatch(name) and value:
            return _assignment(name, value, text, found, depth)
    if len(found) > 1 and set(found) == {"="}:
        return _chain(text)
    if found[-1] == "≈":
        return _exact_part(text, depth)
    if len(parts(text)) > 1:
        return None
    return _relation(text, found)


def _assignment(name: str, value: str, text: str, signs: list[str], depth: int) -> Assignment:
    """Make a named value. In f(m) = 2m the m is a variable, no unit, and f(2) is no product."""
    is_function = "(" in name
    name = re.sub(r"[{}\s]|^m(?=\s*∠)", "", name)
    formula = read_expression(value, 1) if is_function else None
    relation = None if is_function else _relation(text, signs)
    return Assignment(name, formula or read_spelled(value, depth), relation)


def _chain(text: str) -> Value | None:
    """Read m + n = 256 + 37 = 293 as the assignment of 293, if what follows the name is equal."""
    relation = _relation(text, ["="] * text.count("="))
    if relation is None or not expressions.variables(relation.sides[0]):
        return relation
    try:
        values = [equality.exact(side) for side in relation.sides[1:]]
    except TooLarge:
        return relation
    if None in values or len(set(values)) > 1:
        return relation
    name = text.partition("=")[0].replace(" ", "")
    return Assignment(name, Expression(relation.sides[-1]), None)


def _relation(text: str, signs: list[str]) -> Relation | None:
    """Read formulas with signs between them; None if a side is no formula."""
    if not set(signs) <= set("=<>≤≥≠"):
        return None
    try:
        sides = tuple(_side(side.strip()) for side in re.split("[=<>≤≥≠]", text))
    except Unreadable:
        return None
    return Relation(sides, tuple(signs))


def _side(text: str) -> tuple:
    """Read one side of an equation: a formula, or the name of a segment."""
    return ("s", text) if re.fullmatch("[A-Z]{2,3}", text) else expressions.parse(text, False)


def _exact_part(text: str, depth: int) -> Value | None:
    """Read 8√3 of "8√3 ≈ 13.86", a root, a fraction or a multiple of π; never 7 of "7 ≈ 3"."""
    exact, _, rounded = (part.strip() for part in text.rpartition("≈"))
    value = read_quantity(rounded, depth)
    if value is None or value.tree[0] not in "n-":
        return None
    return read_spelled(exact, depth) if re.search(r"\\sqrt|\\frac|√|π|/", exact) else None


# A compound quantity (5ft3in) goes before the codes.
PHRASES = [
    read_yes_no, read_choice, read_time, read_date, read_compound, read_code, read_ratio,
]  # fmt: skip
READERS = [
    read_range, read_quantity, read_matrix, read_cases, read_alternatives, read_union, read_point,
    read_relation, read_sequence, read_expression,
]  # fmt: skip
