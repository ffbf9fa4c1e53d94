"""Read a number with its unit: 1,000; 5 km/h; 240π cm²; $3.50; 7 cubes; 5 million; 5 ft 3 in.

Spelled text in (spelling.py), Expression or None out.
"""

import re
from fractions import Fraction

from grading import expressions, number_words
from grading.expressions import NUMBER, Unreadable
from grading.units import CURRENCY, Unit, read_unit, times
from grading.values import Expression

LONE_NUMBER = re.compile(rf"\+?(-?)\s*(?:{expressions.LITERAL_WITH_COMMAS.pattern})")
SIGN_IN_FRONT = re.compile(rf"(-?)\s*({CURRENCY})\s*(-?)\s*(?=[0-9.])")
CODE_IN_FRONT = re.compile(r"(-?)(USD|EUR|GBP|RMB|CNY|JPY|INR|Rs)\.?\s*(?=[0-9.])")
PER = re.compile(r"(.*[0-9])\s*(?:/|\bper\b|\ban?\b)\s*(.+)", re.DOTALL)
# Between what ends a number or formula and what begins a unit.
WHERE_UNIT = re.compile(
    r"(?<=[0-9.)}\]π])\s*(?=\\frac\s*\{\s*[A-Za-z]|[°%‰'＄€£¥¢₹₩ÅA-Za-zμΩ\u4e00-\u9fff])"
)
NUMBER_WORD = re.compile(r"\s*([A-Za-z]+|[十百佰千仟万萬亿億])")


def read_quantity(text: str, depth: int) -> Expression | None:
    """Read a number, or a formula with a unit behind it or a currency in front.

    depth: how many lists it stands in.
    """
    text, currency = _currency(text)
    number = read_number(text)
    if number is not None:
        return number._replace(unit=currency)
    scaled = _with_number_word(text)
    if scaled is not None and (currency is None or scaled.unit in (None, currency)):
        return scaled._replace(unit=scaled.unit or currency)
    if currency is not None:
        return _price(text, currency)
    for m in WHERE_UNIT.finditer(text):
        if _may_be_a_variable(text, m, depth):
            continue
        unit = read_unit(text[m.end() :], glued=m.end() == m.start())
        value = _constant(text[: m.start()]) if unit else None
        if value is not None:
            return value._replace(unit=unit)
    return None


def read_number(text: str) -> Expression | None:
    """Read a number written out: 3.0, 1,000, -2, 1.5E3."""
    m = LONE_NUMBER.fullmatch(text)
    if not m:
        return None
    try:
        value = expressions.literal_value(m)
    except Unreadable:
        return None
    written = "" if m["exponent"] else m["decimal"] or m["grouped"]
    return Expression(("n", -value if m[1] else value), None, written if "." in written else "")


def _constant(text: str) -> Expression | None:
    """Read a formula without variables."""
    text = text.strip()
    number = read_number(text)
    if number is not None:
        return number
    try:
        tree = expressions.parse(text)
    except Unreadable:
        return None
    return None if expressions.variables(tree) else Expression(tree)


SUM = re.compile(r"[^(\[{/^*]\s*[-+±]")


def _may_be_a_variable(text: str, m: re.Match, depth: int) -> bool:
    """Tell whether the letters behind a formula may be variables: 2 + 3g, 2πh, the s of (2s, 3)."""
    before, letters = text[: m.start()], text[m.end() :]
    if letters == "°":
        return any(name in before for name in expressions.TRIGONOMETRY)  # sin 30° is no angle
    if not re.fullmatch(r"[a-z]{1,2}(?:\s*\^.*)?", letters):
        return False
    glued = m.end() == m.start()
    single = not re.match("[a-z]{2}", letters)
    if single and letters[0] != "m" and before[-1] not in ")0123456789.":
        return True
    in_a_sum = before[-1] != ")" and bool(SUM.search(before))
    return glued and (in_a_sum or (single and depth > 0))


# --- currencies, number words ---


def _currency(text: str) -> tuple[str, Unit | None]:
    """Take the currency in front off a text, which keeps its sign."""
    m = SIGN_IN_FRONT.match(text)
    if m:
        return (m[1] or m[3]) + text[m.end() :], read_unit(m[2])
    m = CODE_IN_FRONT.match(text)
    return (m[1] + text[m.end() :], read_unit(m[2])) if m else (text, None)


def _price(text: str, currency: Unit) -> Expression | None:
    """Read what stands behind a currency: a formula, the 15 per hour of $15 per hour, 5 dollars."""
    value = _constant(text)
    if value is not None:
        return value._replace(unit=currency)
    m = PER.fullmatch(text)
    number = read_number(m[1].strip()) if m else None
    unit = read_unit(m[2]) if number else None
    return number._replace(unit=times(currency, unit, -1)) if unit else None


def _with_number_word(text: str) -> Expression | None:
    """Read 5 million, 5 hundred thousandths, 7百万, 5 million dollars: the words multiply."""
    m = LONE_NUMBER.match(text)
    number = read_number(m[0]) if m else None
    if number is None:
        return None
    at, factor = m.end(), Fraction(1)
    while word := NUMBER_WORD.match(text, at):
        size = number_words.size(word[1].casefold())
        if size is None or read_unit(text[at:]):  # 千克 is a kilogram, no thousand
            break
        factor *= size
        at = word.end()
    rest = text[at:].strip()
    unit = read_unit(rest) if rest else None
    if factor == 1 or (rest and unit is None):
        return None
    return Expression(("n", number.tree[1] * factor), unit)


# --- several units ---

SECOND = read_unit("s")
FEET = re.compile(rf"({NUMBER})\s*'\s*({NUMBER})\s*(?:\"|'')")
COMPOUND = re.compile(
    rf"({NUMBER})\s*('{{1,2}}|[°A-Za-z\u4e00-\u9fff]+)\.?\s*(?:,\s*|and\s+)?(?=[0-9]|$)"
)


def read_compound(text: str) -> Expression | None:
    """Read 5 ft 3 in, 58°30', 2 hours 30 minutes as one quantity in the first of its units."""
    sign = -1 if text.startswith("-") else 1
    text = text.removeprefix("-").strip()
    feet = FEET.fullmatch(text)
    parts = _compound_parts(f"{feet[1]} ft {feet[2]} in" if feet else text)
    factors = [unit.factor for _, unit in parts]
    decreasing = factors == sorted(set(factors), reverse=True)
    if len(parts) < 2 or not decreasing or len({unit.dimension for _, unit in parts}) > 1:
        return None
    total = sum(value * unit.factor for value, unit in parts)
    return Expression(("n", sign * total / factors[0]), parts[0][1])


def _compound_parts(text: str) -> list[tuple[Fraction, Unit]]:
    """Read the numbers and units that make up all of a text; [] if something else is in it."""
    parts, at = [], 0
    while at < len(text):
        m = COMPOUND.match(text, at)
        unit = read_unit(m[2]) if m else None
        if unit is None or unit.offset or unit.pi_power:
            return []
        if m[2] == "m" and parts and parts[0][1].dimension == SECOND.dimension:
            unit = read_unit("min")  # 1h30m
        parts.append((Fraction(m[1]), unit))
        at = m.end()
    return parts
