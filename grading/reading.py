r"""Read an answer into a typed value (values.py).

    read("30-39")         -> Range(Expression(30), Expression(39))
    read("5 km/h")        -> Expression(5, unit=km/h)
    read("x = 7")         -> Assignment("x", Expression(7))
    read("(2, 5]")        -> Sequence((Expression(2), Expression(5)), "(", "]")
    read("A. cat")        -> Choice("a", "cat")
    read("No idea")       -> Text("no idea")

READERS has the readers in the order in which they are tried. Each takes a spelled text
(spelling.py) and returns a value or None.
"""

import functools
import re
from fractions import Fraction

from grading import expressions
from grading.expressions import NUMBER, Unreadable
from grading.quantities import read_compound, read_number, read_quantity
from grading.spelling import closes_at_end, plain, spell
from grading.units import read_unit
from grading.values import (
    Alternatives, Assignment, Choice, Date, Expression, Matrix, Range, Ratio, Relation, Sequence,
    Text, Time, Union, Value, YesNo,
)  # fmt: skip

MAX_ANSWER = 200  # a longer text is compared as text only
MAX_NESTING = 4  # of lists in lists


def read(text: str) -> Value:
    """Read an answer. A text of more than MAX_ANSWER characters is a Text."""
    if len(text) > MAX_ANSWER:
        return Text(text_form(text))
    return read_spelled(spell(text))


def text_form(text: str) -> str:
    """Write a text so that case, spaces, quotes and the final period make no difference."""
    if len(text) > MAX_ANSWER:
        return " ".join(text.split()).casefold()
    return plain(spell(text))


@functools.lru_cache(maxsize=8192)
def read_spelled(text: str, depth: int = 0) -> Value:
    """Read a spelled text. depth: how many lists it stands in."""
    text = text.removeprefix("≈").strip()
    if text and len(text) <= MAX_ANSWER and depth <= MAX_NESTING:  # spelling can lengthen a text
        for reader in READERS:
            value = reader(text, depth)
            if value is not None:
                return value
    return Text(plain(text))


# --- yes and no ---

SENTENCE = "it|there|they|he|she|this|these|those|the|we|you|i|because|since|as"
YES_NO = re.compile(
    rf"(yes|no|true|false)(?:\s*([,;.!:(-])\s*|\s+(?=(?:{SENTENCE})\b)|$)(.*)",
    re.IGNORECASE | re.DOTALL,
)
# What takes the word back: doubt, no knowledge, another such word.
UNSURE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|unsure|uncertain|unclear|unknown|not sure|not certain"
    r"|not really|(?:do not|don't) know|no idea|it depends|could be|may be|might be|n/a"
    r"|not enough|insufficient|wrong|incorrect|not the answer|not possible to"
    r"|(?:cannot|can't|can not|could not|couldn't|unable to|impossible to|hard to|difficult to)"
    r"\s+(?:be\s+)?(?:tell|say|told|determined?|know|answer|decided?|see the (?:image|picture))"
    r"|or\s+(?:yes|no|not|maybe))\b|^not$",
    re.IGNORECASE,
)
ANOTHER_WORD = re.compile(
    r"(?:^|[,.;:!/(-]\s*|\b(?:or|and|but|it's|actually|mean)\s+)(yes|no|true|false|yeah|yep|nope|nah)\b(?!\s+\w+)"
    r"|\b(?:yes|no)$",
    re.IGNORECASE,
)


def read_yes_no(text: str, depth: int) -> YesNo | None:
    """Read yes, no, true or false, alone or before a sentence that does not take it back.

    "No idea" and "No. 5" are neither.
    """
    m = YES_NO.fullmatch(text)
    if not m:
        return None
    word, mark, rest = m[1].casefold(), m[2], m[3]
    others = {other.casefold() for other in ANOTHER_WORD.findall(rest)} - {word}
    if others or UNSURE.search(rest) or mark in (".", ":") and re.match("[0-9]", rest):
        return None
    return YesNo(word)


# --- letters ---

LETTER = re.compile(r"([A-Za-z])\s*[.:,)、]?|\(\s*([A-Za-z])\s*\)[.:,]?|\[\s*([A-Za-z])\s*\][.:,]?")
_BEHIND = r"(?:[.:]?\s+|(?=[A-Za-z\u4e00-\u9fff]))"
LETTER_AND_TEXT = re.compile(
    rf"(?:([A-J])(?:[.:)]\s*|\s*、\s*|\s+-\s+(?=[^\W\d]{{2}}))|([a-j])(?:[.:]\s+|\)\s*|\s*、\s*)"
    rf"|\(([A-Ja-j])\){_BEHIND}|\[([A-Ja-j])\]{_BEHIND})([^\s,:)].*)",
    re.DOTALL,
)


def read_choice(text: str, depth: int) -> Choice | None:
    """Read a letter in its usual dress, alone or before its text.

    "A cat" has none, and "A. cat B. dog" names two.
    """
    m = LETTER.fullmatch(text)
    if m:
        letter = m[1] or m[2] or m[3]
        return Choice(letter.casefold(), "", letter)
    parted = letter_and_text(text)
    if parted is None or names_another_letter(*parted):
        return None
    letter, rest = parted
    return Choice(letter.casefold(), rest, letter)


def letter_and_text(text: str) -> tuple[str, str] | None:
    """("A", "cat") of "A. cat", "(A) cat", "A) cat", "A、cat"; None of anything else."""
    m = LETTER_AND_TEXT.fullmatch(text)
    return (m[1] or m[2] or m[3] or m[4], m[5]) if m else None


ANOTHER_LETTER = re.compile(
    r"(?<![\w.∠])([A-J])[.:)、](?=\s*[^\s.])"  # cat B. dog
    r"|(?<![\w.])([a-j])[.:)、](?=\s+[^\s])|(?<=[0-9])([A-Ja-j])\)"
    r"|(?<![A-Za-z])[(\[]([A-Ja-j])[)\]]"  # cat (B) dog, but not P(A)
    r"|(?:\b(?i:or|nor|but|actually|maybe|perhaps|so)|[,/&;?!|])\s*([A-J])(?=\s*$|[,.?!)]|\s+[a-z-])"
    r"|\w{2,}\s+and\s+([A-J])(?=\s*$|\s+(?:is|are)\b)"  # cat and B
)
JOINED = re.compile(r"(?:both|neither|either|all|none)\b", re.IGNORECASE)


def names_another_letter(letter: str, rest: str) -> bool:
    """Tell whether the text behind a letter names another option: "cat B. dog", "cat or B"."""
    if JOINED.match(rest):
        return False  # D. Both A and B
    found = ANOTHER_LETTER.findall(rest)
    others = {"".join(groups).upper() for groups in found} - {letter.upper()}
    return bool(others) or rest.strip(" .") in set("ABCDEFGHIJ") and letter.isupper()


# --- times, dates, ranges, ratios, codes ---

TIME = re.compile(
    r"(上午|下午)?\s*([0-9]{1,2})(?:\s*[:.]\s*([0-9]{2}))?(?:\s*:\s*([0-9]{2}))?\s*(?:([ap])\.?\s*m\.?)?",
    re.IGNORECASE,
)


def read_time(text: str, depth: int) -> Time | None:
    """3:30 PM, 3:30PM, 5 p.m."""
    m = TIME.fullmatch(text)
    half = (m[5] or m[1]) if m else None
    if half is None:
        return None
    hour, minute, second = (int(part or 0) for part in m.groups()[1:4])
    if not 1 <= hour <= 12 or minute > 59 or second > 59:
        return None
    afternoon = half in ("p", "P", "下午")
    return Time((hour % 12 + 12 * afternoon) * 3600 + minute * 60 + second)


MONTHS = (
    "january february march april may june july august september october november december".split()
)
MONTH = {name[:n]: i + 1 for i, name in enumerate(MONTHS) for n in (3, 4, len(name))}
_NAME = r"([A-Za-z]{3,9})\.?"
_DAY = r"([0-9]{1,2})(?:st|nd|rd|th)?"
ISO_DATE = re.compile(r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})")
CHINESE_DATE = re.compile(r"([0-9]{4})\s*年\s*([0-9]{1,2})\s*月(?:\s*([0-9]{1,2})\s*[日号])?")
NAMED_DATES = [  # regex, positions of year, month, day
    (re.compile(rf"{_NAME}\s+{_DAY}(?:\s*,\s*|\s+)([0-9]{{4}})"), (3, 1, 2)),
    (re.compile(rf"{_DAY}\s+(?:of\s+)?{_NAME}(?:\s*,\s*|\s+)([0-9]{{4}})"), (3, 2, 1)),
    (re.compile(rf"{_NAME}\s*,?\s+([0-9]{{4}})"), (2, 1, None)),
    (re.compile(rf"{_NAME}\s+{_DAY}"), (None, 1, 2)),
    (re.compile(rf"{_DAY}\s+(?:of\s+)?{_NAME}"), (None, 2, 1)),
]
SOME_DATE = re.compile(r"([0-9]{1,4})\s*/\s*([0-9]{1,2})\s*/\s*([0-9]{1,4})")


def read_date(text: str, depth: int) -> Date | None:
    """2020-02-04, February 4, 2020, 4 Feb 2020, 2020年2月4日; 2/4/2020 stays as it is."""
    m = ISO_DATE.fullmatch(text)
    if m and _is_date(int(m[3]), int(m[4])):
        return Date((int(m[1]), int(m[3]), int(m[4])))
    m = CHINESE_DATE.fullmatch(text)
    if m:
        return Date((int(m[1]), int(m[2]), int(m[3]) if m[3] else None))
    m = SOME_DATE.fullmatch(text)
    if m:
        return Date(("in some order", *map(int, m.groups())))
    for pattern, (year, month, day) in NAMED_DATES:
        m = pattern.fullmatch(text)
        if m and m[month].casefold() in MONTH:
            return Date(
                (
                    int(m[year]) if year else None,
                    MONTH[m[month].casefold()],
                    int(m[day]) if day else None,
                )
            )
    return None


def _is_date(month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= 31


COMMA_NUMBER = rf"(?:{expressions.GROUPED}|{NUMBER})"
RANGE = re.compile(
    rf"(?:from\s+)?([^0-9a-z]{{0,2}}?-?{COMMA_NUMBER})([^0-9-]*?)\s*(?:-|~|\bto\b|至|到)\s*(\D?{COMMA_NUMBER})(.*)",
    re.IGNORECASE | re.DOTALL,
)


def read_range(text: str, depth: int) -> Range | None:
    """Read 30-39, 10 to 20 cm, $5-$10. A hyphen between two bare numbers is never a minus."""
    m = RANGE.fullmatch(text)
    if not m or m[3].startswith("-") and not m[1].startswith("-"):
        return None
    if re.fullmatch(r"[a-z](?:\s*\^.*)?", m[4]):
        return None  # 3-2m may be a formula
    high = read_quantity(m[3] + m[4], depth)
    low = read_quantity(m[1] + m[2], depth)
    if high is None or low is None or low.tree[0] not in "n-" or high.tree[0] != "n":
        return None
    unit = high.unit or low.unit
    return Range(low._replace(unit=low.unit or unit), high._replace(unit=unit))


RATIO = re.compile(rf"{NUMBER}(?:\s*:\s*{NUMBER})+")
O_CLOCK = re.compile(r"([0-9]{1,2})\s*o'?clock", re.IGNORECASE)


def read_ratio(text: str, depth: int) -> Ratio | None:
    """1:2, 3:4:5, and times without am or pm."""
    hour = O_CLOCK.fullmatch(text)
    if hour:
        return Ratio((Fraction(hour[1]), Fraction(0)))
    if not RATIO.fullmatch(text):
        return None
    return Ratio(tuple(Fraction(term) for term in re.findall(NUMBER, text)))


CODE = re.compile(
    rf"(?!(?:{'|'.join(expressions.FUNCTIONS)}|sqrt|pi)[0-9]+$)(?=[A-Za-z0-9]*[A-Za-z][0-9])(?![0-9.]+[eE][0-9]+$)[A-Za-z0-9]+"
    r"|[12][0-9]{2}0s|[0-9]+(?:st|nd|rd|th)(?:\s.*)?|[0-9]+(?:-[0-9]+){2,}|[0-9]+(?:\.[0-9]+){2,}|[0-9]+(?:/[0-9]+){2,}",
    re.IGNORECASE,
)


BASED = re.compile(r"\(?\s*([0-9A-F]+)\s*\)?\s*_\s*(?:\{\s*([0-9]{1,2})\s*\}|([0-9]{1,2}))")


FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:_\{[0-9]+\}|_?[0-9]+)?){2,}")  # of chemistry: CO_2, H2O
POWER_OF_UNIT = re.compile(r"[0-9.]+((?:[a-z]{2}|m)[23])")  # 5cm2


def read_code(text: str, depth: int) -> Text | None:
    """Read letters with digits that are no product, and hyphens that are no minus.

    AB12, x2, 1st, 1990s, 555-12-34, 1.2.3; and 52_8, a numeral in another base.
    """
    m = BASED.fullmatch(text)
    if m:
        return Text(f"{m[1]}_{m[2] or m[3]}")
    formula = re.sub(r"\s", "", text) if "_" in text else text
    if FORMULA.fullmatch(formula) and re.search("[0-9]", text):
        return Text(re.sub(r"[_{}\s]", "", text).casefold())
    m = POWER_OF_UNIT.fullmatch(text)
    if m and read_unit(m[1]):
        return None
    return Text(plain(text)) if CODE.fullmatch(text) else None


# --- formulas ---


def read_expression(text: str, depth: int) -> Expression | None:
    """A formula, with variables or without."""
    try:
        tree = expressions.parse(text, depth == 0)
    except Unreadable:
        return None
    if tree[0] == "!" and tree[1][0] == "n":
        return None  # 3! is no 6: it may be followed by a cry
    return Expression(tree)


# --- lists, sets, intervals, matrices ---

OPENING, CLOSING = "([⦃⟨{", ")]⦄⟩}"


def split(text: str, pattern: str) -> list[str]:
    """The pieces of a text between the separators that stand outside of all brackets."""
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
    return tuple(read_spelled(piece, depth + 1) for piece in pieces)


def read_alternatives(text: str, depth: int) -> Value | None:
    """60° or 120°; a name that all share is taken out: x = 1 or x = 2."""
    pieces = split(text, r"\s+or\s+|\s*或者?\s*")
    if len(pieces) < 2 or not all(pieces):
        return None
    pieces[0] = re.sub(r"^either\s+", "", pieces[0], flags=re.IGNORECASE)
    return _named_together(Alternatives(_items(pieces, depth)))


def _named_together(value: Alternatives | Sequence) -> Value:
    """x = 1 or x = 2, and x = 1 or 2, as the assignment of 1 or 2 to x."""
    first, *others = value.items
    if not isinstance(first, Assignment):
        return value
    values = [first.value]
    for item in others:
        if isinstance(item, Relation) or isinstance(item, Assignment) and item.name != first.name:
            return value
        values.append(item.value if isinstance(item, Assignment) else item)
    return Assignment(first.name, value._replace(items=tuple(values)), None)


def read_union(text: str, depth: int) -> Union | None:
    """(1,2) ∪ (3,4)"""
    pieces = split(text, "∪")
    if len(pieces) < 2 or not all(pieces):
        return None
    return Union(_items(pieces, depth))


def read_sequence(text: str, depth: int) -> Value | None:
    """3, 7; (1, 2); [0, 1); {1, 2}. Braces of LaTeX are a set only around a comma."""
    if text[0] in "([⦃⟨" and text[-1] in ")]⦄⟩":
        inner = text[1:-1]
        if _balanced(inner):
            pieces = [] if not inner.strip() else parts(inner)
            if all(pieces) and (len(pieces) > 1 or text[0] not in "(⟨"):
                return Sequence(_items(pieces, depth + 1), text[0], text[-1])
    if text[0] == "{" and closes_at_end(text, "{}"):
        pieces = parts(text[1:-1])
        if len(pieces) > 1 and all(pieces):
            return Sequence(_items(pieces, depth + 1), "⦃", "⦄")
    pieces = parts(text)
    if len(pieces) > 1 and all(pieces) and not (depth == 0 and read_number(text)):
        joint = "and" if re.search(r"\sand\s|[和且]", text) else ""
        return _named_together(Sequence(_items(pieces, depth + 1), "", joint))
    return None


AND = r"[,;]\s*and\s+|\s+and\s+|\s*[和且]\s*"


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


MATRIX = re.compile(
    r"\\begin\s*\{([pbvBV]?)(?:small)?(?:matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\s*\{\1(?:small)?(?:matrix|array)\}",
    re.DOTALL,
)


CASES = re.compile(r"\\begin\s*\{cases\}(.*)\\end\s*\{cases\}", re.DOTALL)


def read_cases(text: str, depth: int) -> Sequence | None:
    """Read \\begin{cases} x=1 \\\\ y=2 \\end{cases} as the list of its lines."""
    m = CASES.fullmatch(text)
    rows = [row.strip(" ,;") for row in m[1].split("\\\\") if row.strip()] if m else []
    return Sequence(_items(rows, depth + 1), "", "") if rows else None


def read_matrix(text: str, depth: int) -> Matrix | None:
    """\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}"""
    m = MATRIX.fullmatch(text.strip("()[] "))
    if not m:
        return None
    rows = [row.strip() for row in m[2].split("\\\\") if row.strip()]
    return Matrix(
        tuple(_items([cell.strip() for cell in row.split("&")], depth + 1) for row in rows),
        m[1] in "vV" and m[1] != "",
    )


# --- equations, inequalities, names ---

POINT = re.compile(r"([A-Z]'?)\s*(\(.*,.*\))", re.DOTALL)


def read_point(text: str, depth: int) -> Assignment | None:
    """P(-3, 4): a name and its coordinates."""
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
    """x = 7, f(x) = 2x + 1, n = 1, 2, 3, x in [0, 1]; 2x + y = 4, x > 3, 1 < x <= 3."""
    found = [char for char in text if char in SIGNS]
    if not found:
        return None
    chance = PROBABILITY.fullmatch(text)
    if chance:
        return Assignment(chance[1].replace(" ", ""), read_spelled(chance[2], depth + 1), None)
    if len(found) == 1 and found[0] in "=∈≈":
        name, _, value = (part.strip() for part in text.partition(found[0]))
        if NAME.fullmatch(name) and value:
            return _assignment(name, value, text, found, depth)
    if found[-1] == "≈":
        return _exact_part(text, depth)
    if len(parts(text)) > 1:
        return None
    return _relation(text, found)


def _assignment(name: str, value: str, text: str, signs: list[str], depth: int) -> Assignment:
    formula = read_expression(value, depth + 1) if "(" in name else None  # the m of f(m) = 2m
    relation = None if "(" in name else _relation(text, signs)  # f(2) is no product
    name = re.sub(r"[{}\s]|^m(?=\s*∠)", "", name)
    return Assignment(name, formula or read_spelled(value, depth + 1), relation)


def _relation(text: str, signs: list[str]) -> Relation | None:
    """Formulas with signs between them; None if a side is none."""
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
    if not re.search(r"\\sqrt|\\frac|√|π|/", exact) or value is None or value.tree[0] not in "n-":
        return None
    return read_spelled(exact, depth)


READERS = [
    read_yes_no, read_choice, read_time, read_date, read_compound, read_code, read_range,
    read_ratio, read_quantity, read_matrix, read_cases,
    read_alternatives, read_union, read_point, read_relation, read_sequence, read_expression,
]  # fmt: skip
