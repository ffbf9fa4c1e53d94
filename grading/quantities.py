"""Read a number with its unit: 1,000; 5 km/h; 240π cm²; $3.50; 7 cubes; 5 million; 5 ft 3 in.

Spelled text in (spelling.py), Expression or None out.
"""

import re
from fractions import Fraction

from grading import expressions
from grading.expressions import NUMBER, Unreadable
from grading.units import Unit, read_unit
from grading.values import Expression

CURRENCY = re.compile(
    r"(-?)\s*(?:US|HK|A|C|NT)?([＄€£¥₹])\s*(-?)\s*(?=[0-9.])|(-?)(?:(USD|EUR|GBP|RMB|CNY|JPY|INR|Rs\.?)\s*)(?=[0-9.])"
)
WHERE_UNIT = re.compile(r"(?<=[0-9.)}\]π])\s*(?=[°%'＄€£¥¢₹ÅA-Za-zμΩ\u4e00-\u9fff])")
SCALES = {
    "ten": 10, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "dozen": 12, "gross": 144, "score": 20, "lakh": 10**5, "crore": 10**7,
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
NUMBER_WORD = re.compile(r"(.*[0-9])\s*([A-Za-z]+|[十百佰千仟万萬亿億])(.*)", re.DOTALL)


def read_quantity(text: str, depth: int) -> Expression | None:
    """Read a number or formula with a unit or counted thing behind it, or a currency in front."""
    text, currency = _currency(text)
    number = read_number(text)
    if number is not None:
        return number._replace(unit=currency)
    scaled = _with_number_word(text)
    if scaled is not None and (currency is None or scaled.unit in (None, currency)):
        return scaled._replace(unit=scaled.unit or currency)
    for m in WHERE_UNIT.finditer(text):
        unit = read_unit(text[m.end() :], glued=m.end() == m.start())
        value = None if unit is None else _constant(text[: m.start()])
        if value is None:
            continue
        bare_sum = value.tree[0] in "+-±" and text[m.start() - 1] != ")"
        if bare_sum and re.fullmatch("[A-Za-z]", text[m.end() :]):
            return None  # g may be a variable in 2 + 3g
        if currency is None or currency == unit:
            return value._replace(unit=unit)
    if currency:
        value = _constant(text)
        return value and value._replace(unit=currency)
    return None


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
    """Read 5 million, 5 twelfths, 7万, 5 million dollars: the word multiplies the number."""
    m = NUMBER_WORD.fullmatch(text)
    word = m[2].casefold() if m else ""
    single = next(
        (
            w
            for w in (word, word.removesuffix("s"), word.removesuffix("es"))
            if w in SCALES or w in PARTS
        ),
        None,
    )
    if word in ("halves", "half"):
        single = "half"
    if single is None or not re.match(r"\s|$", m[3]) and word.isascii():
        return None
    number = read_number(m[1].strip())
    unit = read_unit(m[3]) if m[3].strip() else None
    if number is None or m[3].strip() and unit is None:
        return None
    factor = SCALES[single] if single in SCALES else Fraction(1, PARTS[single])
    return Expression(("n", number.tree[1] * factor), unit)


COMPOUND = re.compile(
    rf"({NUMBER})\s*('{{1,2}}|[°A-Za-z\u4e00-\u9fff]+)\s*(?:,\s*|and\s+)?(?=[0-9]|$)"
)


def read_compound(text: str, depth: int) -> Expression | None:
    """5 ft 3 in, 58°30', 2 hours 30 minutes: one quantity in the first of its units."""
    parts, at = [], 0
    while at < len(text):
        m = COMPOUND.match(text, at)
        unit = read_unit(m[2]) if m else None
        if unit is None or unit.offset or unit.pi_power:
            return None
        parts.append((Fraction(m[1]), unit))
        at = m.end()
    if len(parts) < 2 or len({unit.dimension for _, unit in parts}) > 1:
        return None
    factors = [unit.factor for _, unit in parts]
    if factors != sorted(set(factors), reverse=True):
        return None
    total = sum(value * unit.factor for value, unit in parts)
    return Expression(("n", total / factors[0]), parts[0][1])
