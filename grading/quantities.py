"""Read a number with its unit: 1,000; 5 km/h; 240π cm²; $3.50; 7 cubes; 5 million; 5 ft 3 in.

Spelled text in (spelling.py), Expression or None out.
"""

import re
from fractions import Fraction

from grading import expressions
from grading.expressions import NUMBER, Unreadable
from grading.units import Unit, read_unit, times
from grading.values import Expression

CURRENCY = re.compile(
    r"(-?)\s*((?:US|HK|NT|CA?|AU?)?＄|[€£¥₹₩])\s*(-?)\s*(?=[0-9.])"
    r"|(-?)(?:(USD|EUR|GBP|RMB|CNY|JPY|INR|Rs\.?)\s*)(?=[0-9.])"
)
PER = re.compile(r"(.*[0-9])\s*(?:/|\bper\b|\ban?\b)\s*(.+)", re.DOTALL)
WHERE_UNIT = re.compile(
    r"(?<=[0-9.)}\]π])\s*(?=\\frac\s*\{\s*[A-Za-z]|[°%‰'＄€£¥¢₹ÅA-Za-zμΩ\u4e00-\u9fff])"
)
SCALES = {
    "ten": 10, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "quadrillion": 10**15, "quintillion": 10**18, "myriad": 10**4,
    "mln": 10**6, "bln": 10**9, "dozen": 12, "gross": 144, "score": 20, "lakh": 10**5, "crore": 10**7,
    "十": 10, "百": 10**2, "佰": 10**2, "千": 10**3, "仟": 10**3, "万": 10**4, "萬": 10**4,
    "亿": 10**8, "億": 10**8,
}  # fmt: skip
ORDINALS = (
    "half third quarter fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth "
    "fiftieth sixtieth seventieth eightieth ninetieth hundredth thousandth millionth billionth "
    "trillionth"
).split()
PARTS = dict(
    zip(
        ORDINALS,
        [2, 3, 4, *range(4, 21), 30, 40, 50, 60, 70, 80, 90, 10**2, 10**3, 10**6, 10**9, 10**12],
    )
)
NUMBER_WORD = re.compile(r"\s*([A-Za-z]+|[十百佰千仟万萬亿億])")


def read_quantity(text: str, depth: int) -> Expression | None:
    """Read a number or formula with a unit or counted thing behind it, or a currency in front."""
    text, currency = _currency(text)
    number = read_number(text)
    if number is not None:
        return number._replace(unit=currency)
    scaled = _with_number_word(text)
    if scaled is not None and (currency is None or scaled.unit in (None, currency)):
        return scaled._replace(unit=scaled.unit or currency)
    if currency and (price := _price(text, currency)):
        return price
    for m in WHERE_UNIT.finditer(text):
        glued = m.end() == m.start()
        if _may_be_a_variable(text, m, depth):
            continue
        unit = read_unit(text[m.end() :], glued)
        value = None if unit is None else _constant(text[: m.start()])
        if value is None:
            continue
        if currency is None or currency == unit:
            return value._replace(unit=unit)
    if currency:
        value = _constant(text)
        return value and value._replace(unit=currency)
    return None


def _price(text: str, currency: Unit) -> Expression | None:
    """Read the 15 per hour of $15 per hour."""
    m = PER.fullmatch(text)
    number = read_number(m[1].strip()) if m else None
    unit = read_unit(m[2]) if number else None
    return number._replace(unit=times(currency, unit, -1)) if unit else None


SUM = re.compile(r"[^(\[{/^*]\s*[-+±]")


def _may_be_a_variable(text: str, m: re.Match, depth: int) -> bool:
    """Tell whether the letters behind a formula may be variables: 2 + 3g, 2πh, the s of (2s, 3)."""
    before, letters = text[: m.start()], text[m.end() :]
    if letters == "°":
        return any(name in before for name in expressions.TRIGONOMETRY)  # sin 30° is no angle
    if not re.fullmatch(r"[a-z]{1,2}(?:\s*\^.*)?", letters):
        return False
    glued, single = m.end() == m.start(), not re.match("[a-z]{2}", letters)
    if before[-1] not in ")0123456789." and single and letters[0] != "m":
        return True
    in_a_sum = before[-1] != ")" and bool(SUM.search(before))
    return glued and (single and depth > 1 or in_a_sum)


def _currency(text: str) -> tuple[str, Unit | None]:
    """The text without the currency in front, which keeps its sign; and the currency."""
    m = CURRENCY.match(text)
    if not m:
        return text, None
    minus = m[1] or m[3] or m[4] or ""
    return minus + text[m.end() :], read_unit((m[2] or m[5]).rstrip("."))


LONE_NUMBER = re.compile(rf"\+?(-?)\s*(?:{expressions.LITERAL_WITH_COMMAS.pattern})")


def read_number(text: str) -> Expression | None:
    """A number written out: 3.0, 1,000, -2, 1.5E3."""
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
    """A formula without variables."""
    text = text.strip()
    number = read_number(text)
    if number is not None:
        return number
    try:
        tree = expressions.parse(text)
    except Unreadable:
        return None
    return None if expressions.variables(tree) else Expression(tree)


def _with_number_word(text: str) -> Expression | None:
    """Read 5 million, 5 hundred thousandths, 7百万, 5 million dollars: the words multiply the number."""
    m = LONE_NUMBER.match(text)
    number = read_number(m[0]) if m else None
    if number is None:
        return None
    at, factor = m.end(), Fraction(1)
    while (word := NUMBER_WORD.match(text, at)) and (size := _size(word[1].casefold())):
        if read_unit(text[at:]):  # 千克 is a kilogram, no thousand
            break
        factor *= size
        at = word.end()
    if factor == 1:
        return None
    rest = text[at:].strip()
    unit = read_unit(rest) if rest else None
    if rest and unit is None:
        return None
    return Expression(("n", number.tree[1] * factor), unit)


def _size(word: str) -> Fraction | None:
    """The number that a number word stands for: 10**6 of millions, 1/12 of twelfths."""
    if word in ("half", "halves"):
        return Fraction(1, 2)
    for singular in (word, word.removesuffix("s"), word.removesuffix("es")):
        if singular in SCALES:
            return Fraction(SCALES[singular])
        if singular in PARTS:
            return Fraction(1, PARTS[singular])
    return None


SECOND = read_unit("s")
FEET = re.compile(rf"({NUMBER})\s*'\s*({NUMBER})\s*(?:\"|'')")
COMPOUND = re.compile(
    rf"({NUMBER})\s*('{{1,2}}|[°A-Za-z\u4e00-\u9fff]+)\.?\s*(?:,\s*|and\s+)?(?=[0-9]|$)"
)


def read_compound(text: str, depth: int) -> Expression | None:
    """5 ft 3 in, 58°30', 2 hours 30 minutes: one quantity in the first of its units."""
    feet = FEET.fullmatch(text)
    if feet:
        text = f"{feet[1]} ft {feet[2]} in"
    sign = -1 if text.startswith("-") else 1
    text = text.removeprefix("-").strip()
    parts, at = [], 0
    while at < len(text):
        m = COMPOUND.match(text, at)
        unit = read_unit(m[2]) if m else None
        if unit is None or unit.offset or unit.pi_power:
            return None
        if m[2] == "m" and parts and parts[0][1].dimension == SECOND.dimension:
            unit = read_unit("min")  # 1h30m
        parts.append((Fraction(m[1]), unit))
        at = m.end()
    if len(parts) < 2 or len({unit.dimension for _, unit in parts}) > 1:
        return None
    factors = [unit.factor for _, unit in parts]
    if factors != sorted(set(factors), reverse=True):
        return None
    total = sum(value * unit.factor for value, unit in parts)
    return Expression(("n", sign * total / factors[0]), parts[0][1])
