"""Units of measurement: a table, a reader of unit texts, and what converts into what.

    read_unit("km/h")         -> Unit(dimension={length: 1, time: -1}, factor=5/18)
    read_unit("square feet")  -> Unit(dimension={length: 2}, factor=145161/1562500)
    read_unit("dogs")         -> Unit(dimension={"dog": 1}, factor=1)        a thing that is counted
    read_unit("fewer")        -> None                      a word that changes what the number means

Two quantities compare by value if their dimensions are equal. Factors are exact.
A table and not pint (0.25.3): pint takes 0.6 s to import and 68 µs a unit, and does not return from
`m**9**9**9`.
"""

import functools
import re
from fractions import Fraction
from typing import NamedTuple

from grading.number_words import changes_number, singular


class Unit(NamedTuple):
    """What a number counts: (number + offset) * factor * pi**pi_power base units."""

    dimension: frozenset  # of (base, power)
    factor: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    pi_power: int = 0


# Base and factor of a unit, then how people write it. Symbols keep their case, words do not.
BASE = {
    "length": """
        1 m meter meters metre metres 米
        1/100 cm centimeter centimeters centimetre centimetres 厘米 公分
        1000 km kilometer kilometers kilometre kilometres kms 千米 公里
        1/10 dm decimeter decimeters decimetre decimetres 分米
        1/1000 mm millimeter millimeters millimetre millimetres 毫米
        1/1000000 μm um micrometer micrometers micrometre micrometres micron microns 微米
        1/1000000000 nm nanometer nanometers nanometre nanometres 纳米
        1/10000000000 Å angstrom angstroms
        127/5000 in inch inches 英寸
        381/1250 ft foot feet 英尺
        1143/1250 yd yard yards
        201168/125 mi mile miles 英里
        1852 海里
    """,
    "mass": """
        1 kg kilogram kilograms kilogramme kilogrammes kgs kilo kilos 千克 公斤
        1/1000 g gram grams gramme grammes 克
        1/1000000 mg milligram milligrams 毫克
        1/1000000000 μg microgram micrograms
        1000 tonne tonnes 吨
        45359237/100000000 lb lbs
        45359237/1600000000 oz ounce ounces
    """,
    "time": """
        1 s sec secs second seconds 秒 秒钟
        1/1000 ms millisecond milliseconds 毫秒
        1/1000000 μs microsecond microseconds
        1/1000000000 ns nanosecond nanoseconds
        60 min mins minute minutes 分钟 分
        3600 h hr hrs hour hours 小时 时
        86400 day days 天
        604800 week weeks 周
    """,
    "month": """
        1 month months 个月
        12 year years yr yrs 年
        120 decade decades
        1200 century centuries
    """,
    "angle": """
        1 ° deg degs degree degrees 度
        1/60 ' arcmin arcminute arcminutes
        1/3600 '' arcsec arcsecond arcseconds
        360 revolution revolutions
    """,
    "current": "1 A amp amps ampere amperes \n 1/1000 mA milliamp milliamps milliamperes",
    "amount": "1 mol mole moles 摩尔 \n 1/1000 mmol millimole millimoles",
    "data": """
        1 byte bytes
        1000 kB kilobyte kilobytes
        1000000 MB megabyte megabytes
        1000000000 GB gigabyte gigabytes
        1000000000000 TB terabyte terabytes
        1/8 bit bits
    """,
    "percent": "1 % percent percents percentage pct 百分",
    "hkd": "1 HK＄ HKD 港元",
    "twd": "1 NT＄ TWD 新台币",
    "cad": "1 C＄ CA＄ CAD",
    "aud": "1 A＄ AU＄ AUD",
    "won": "1 ₩ won KRW",
    "decibel": "1 dB decibel decibels",
    "pixel": "1 px pixel pixels",
    "horsepower": "1 hp horsepower",
    "permille": "1 ‰",
    "¥": "1 ¥",
    "dollar": "1 ＄ US＄ dollar dollars USD buck bucks 美元 \n 1/100 ¢ cent cents penny pennies",
    "euro": "1 € euro euros EUR 欧元",
    "sterling": "1 £ GBP 英镑",
    "pound": "1 pound pounds",  # of weight or of money
    "yuan": "1 元 yuan RMB rmb CNY 块 块钱 人民币 \n 1/10 角",
    "yen": "1 yen JPY 日元 円",
    "rupee": "1 ₹ rupee rupees Rs INR",
    "unit": "1 unit units 单位",
    "ton": "1 ton tons",  # not a tonne: which ton is meant is not known
    "person": "1 people person persons 人 名 位",
}
# Units that are products of others: names, factor, dimension.
DERIVED = [
    ("N newton newtons 牛 牛顿", 1, "mass 1 length 1 time -2"),
    ("Nm", 1, "mass 1 length 2 time -2"),
    ("Wb weber webers", 1, "mass 1 length 2 time -2 current -1"),
    ("J joule joules 焦耳", 1, "mass 1 length 2 time -2"),
    ("W watt watts 瓦", 1, "mass 1 length 2 time -3"),
    ("V volt volts 伏", 1, "mass 1 length 2 time -3 current -1"),
    ("Ω ohm ohms 欧姆", 1, "mass 1 length 2 time -3 current -2"),
    ("C coulomb coulombs", 1, "current 1 time 1"),
    ("F farad farads", 1, "mass -1 length -2 time 4 current 2"),
    ("Hz hertz", 1, "time -1"),
    ("Pa pascal pascals", 1, "mass 1 length -1 time -2"),
    ("atm atmosphere atmospheres", 101325, "mass 1 length -1 time -2"),
    ("bar bars", 100000, "mass 1 length -1 time -2"),
    ("Wh", 3600, "mass 1 length 2 time -2"),
    ("eV", Fraction("1.602176634e-19"), "mass 1 length 2 time -2"),
    ("cal calorie calories", Fraction("4.184"), "mass 1 length 2 time -2"),
    ("L l liter liters litre litres 升", Fraction(1, 1000), "length 3"),
    ("mL ml milliliter milliliters millilitre millilitres 毫升", Fraction(1, 10**6), "length 3"),
    ("dL dl", Fraction(1, 10**4), "length 3"),
    ("cL cl", Fraction(1, 10**5), "length 3"),
    ("hPa", 100, "mass 1 length -1 time -2"),
    ("cc", Fraction(1, 10**6), "length 3"),
    ("gal gallon gallons", Fraction("0.003785411784"), "length 3"),
    ("qt quart quarts", Fraction("0.000946352946"), "length 3"),
    ("pint pints", Fraction("0.000473176473"), "length 3"),
    ("mph", Fraction(1397, 3125), "length 1 time -1"),
    ("kph kmph kmh", Fraction(5, 18), "length 1 time -1"),
    ("acre acres", Fraction("4046.8564224"), "length 2"),
    ("ha hectare hectares 公顷", 10000, "length 2"),
    ("亩", Fraction(2000, 3), "length 2"),
]
PREFIXES = {
    "k": ("kilo", 10**3),
    "M": ("mega", 10**6),
    "G": ("giga", 10**9),
    "m": ("milli", Fraction(1, 10**3)),
    "μ": ("micro", Fraction(1, 10**6)),
    "n": ("nano", Fraction(1, 10**9)),
    "p": ("pico", Fraction(1, 10**12)),
}
PREFIXED = [
    "N newton newtons", "J joule joules", "W watt watts", "V volt volts", "Ω ohm ohms",
    "C coulomb coulombs", "F farad farads", "Hz hertz", "Pa pascal pascals", "eV", "Wh",
    "cal calorie calories",
]  # fmt: skip
POWER_WORDS = {
    "square": 2,
    "sq": 2,
    "cubic": 3,
    "cu": 3,
    "平方": 2,
    "立方": 3,
    "squared": 2,
    "cubed": 3,
}

# Glued to a number a letter may be a size or a code (5A, 5K): these are units only after a space.
AFTER_SPACE = set("A K C F".split())


def _table() -> dict[str, Unit]:
    """Write out every spelling of every unit; symbols and words alike."""
    table = {}
    for base, lines in BASE.items():
        for line in lines.strip().split("\n"):
            factor, *names = line.split()
            unit = Unit(frozenset([(base, 1)]), Fraction(factor))
            table.update(dict.fromkeys(names, unit))
    for names, factor, dimension in DERIVED:
        words = dimension.split()
        powers = frozenset(zip(words[::2], map(int, words[1::2]), strict=True))
        table.update(dict.fromkeys(names.split(), Unit(powers, Fraction(factor))))
    for symbol, *words in map(str.split, PREFIXED):
        unit = table[symbol]
        for prefix, (word, size) in PREFIXES.items():
            larger = unit._replace(factor=unit.factor * size)
            table.setdefault(prefix + symbol, larger)
            table.update({word + name: larger for name in words})
    angle = table["°"].dimension
    for name in ("rad", "rads", "radian", "radians", "弧度"):
        table[name] = Unit(angle, Fraction(180), pi_power=-1)
    kelvin = frozenset([("temperature", 1)])
    for name in ("K", "kelvin", "kelvins"):
        table[name] = Unit(kelvin)
    for name in ("°C", "celsius", "摄氏度"):
        table[name] = Unit(kelvin, offset=Fraction("273.15"))
    for name in ("°F", "fahrenheit"):
        table[name] = Unit(kelvin, Fraction(5, 9), offset=Fraction("459.67"))
    return table


UNITS = _table()
WORDS = {name.casefold(): unit for name, unit in UNITS.items() if len(name) > 3}


# People write these in any case. Elsewhere the case decides: mW and MW, Nm and nm.
SLOPPY = {
    "kg": "KG Kg", "cm": "CM Cm", "km": "KM Km", "lb": "LB", "lbs": "LBS Lbs", "ft": "FT Ft",
    "in": "IN", "Hz": "HZ hz", "Pa": "PA", "hr": "HR", "hrs": "HRS", "sec": "SEC", "min": "MIN Min",
}  # fmt: skip
for _name, _others in SLOPPY.items():
    UNITS.update(dict.fromkeys(_others.split(), UNITS[_name]))
MEASURES = (set(BASE) | {"temperature"}) - {"unit", "person"}
# Units without a common measure that may be meant: ¥ is yuan or yen, a pound weighs or pays.
ONE_SIGN = [
    {UNITS[a], UNITS[b]} for a, b in (("¥", "元"), ("¥", "yen"), ("pounds", "£"), ("pounds", "lb"))
]


# One factor of a unit: "square feet", "cm^2", "cm2", "s^{-1}", "cm squared", "平方米"
CELSIUS = r"°\s?[CF](?![A-Z])|(?:degrees?|degs?)\s+(?:celsius|fahrenheit|[CF](?![A-Z]))"
CURRENCY = "(?:US|HK|NT|CA?|AU?)?＄|[€£¥¢₹₩]"
FACTOR = re.compile(
    rf"""(?: (square|sq|cubic|cu) (?:\.\s*|\s+) | (平方|立方) )?
         ( {CELSIUS} | {CURRENCY} | '' | [°%‰'Å] | [A-ZμΩ]+ | [\u4e00-\u9fff]{{1,4}} ) \.?
         (?: \s*\^\s* \{{? \s* (-?[1-4]) \s* \}}? | ([23]) (?![0-9]) | \s+ (squared|cubed) )?""",
    re.IGNORECASE | re.VERBOSE,
)
JOINT = re.compile(r"\s*[*/]\s*|\s+per\s+|\s+", re.IGNORECASE)
_STACKED = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}")


@functools.lru_cache(maxsize=4096)
def read_unit(text: str, glued: bool = False) -> Unit | None:
    """Read a unit or a counted thing; None if the text is neither.

    glued: the text stood directly behind its number, as in "5N": then some letters are no unit.
    """
    text = re.sub(r"μ\s+", "μ", re.sub(r"^US\s+(?=dollar)", "", text.strip()))
    text = _STACKED.sub(r"\1/(\2)", text)
    text = re.sub(r"/\s*\(([^()]*)\)", _over_all, text).strip()
    if glued and text in AFTER_SPACE:
        return None
    m = FACTOR.match(text)
    if not m:
        return None
    unit = _factor(m)
    if unit is None:
        return _thing(text, glued)
    while m.end() < len(text):
        joint = JOINT.match(text, m.end())
        following = FACTOR.match(text, joint.end()) if joint else None
        factor = _factor(following) if following else None
        if factor is None:
            return _thing(text, glued)
        over = joint[0].strip().casefold() in ("/", "per")
        unit = times(unit._replace(offset=Fraction(0)), factor, -1 if over else 1)
        m = following
    return unit


def _over_all(m: re.Match) -> str:
    """Write kg/(m s^2) as kg/m/s^2."""
    return "/" + "/".join(re.split(r"[*\s]+", m[1].strip()))


def _factor(m: re.Match) -> Unit | None:
    """Read one factor with its power; None if its name is not in the table."""
    name = " ".join(m[3].split())
    degrees = re.fullmatch(r"(?:°|degrees?|degs?)\s*([CF])\w*", name, re.IGNORECASE)
    if degrees:
        name = "°" + degrees[1].upper()
    unit = UNITS.get(name) or WORDS.get(name.casefold())
    if unit is None:
        return None
    word = m[1] or m[2] or m[6] or ""
    power = int(m[4] or m[5] or POWER_WORDS.get(word.casefold(), 1))
    return unit if power == 1 else times(Unit(frozenset()), unit, power)


def times(unit: Unit, other: Unit, power: int) -> Unit:
    """Multiply a unit by a power of another. Offsets are dropped."""
    dimension = dict(unit.dimension)
    for base, n in other.dimension:
        dimension[base] = dimension.get(base, 0) + n * power
    left = frozenset((base, n) for base, n in dimension.items() if n)
    pi_power = unit.pi_power + other.pi_power * power
    return Unit(left, unit.factor * other.factor**power, Fraction(0), pi_power)


# What Chinese counts with a measure word: 3 只, 5 个苹果. Other characters may change the number.
MEASURE_WORD = re.compile(
    "[个個只隻条條本张張人名位岁歲次件朵棵头頭匹辆輛台架艘间間座把块颗粒株所家支枝片根瓶杯碗箱袋包篇页章题道句层]"
    "[\u4e00-\u9fff]{0,3}"
)
CHINESE_NUMBER = re.compile(
    "[一二两三四五六七八九十百千万亿半几数多余成折倍分点以约近至到或和与上下左右内外前后第少不超过方]"
)
TWO_WORDS = re.compile(r"([a-z]{3,})[\s-]+([a-z]{3,}s)")


def _thing(text: str, glued: bool) -> Unit | None:
    """Read a counted thing: cubes, red cubes, 个苹果. Glued to its number, a plural."""
    word = text.casefold()
    if re.fullmatch(r"[\u4e00-\u9fff]{1,4}", word):
        counts = MEASURE_WORD.fullmatch(word) and not CHINESE_NUMBER.search(word)
        return Unit(frozenset([(word, 1)])) if counts else None
    two = TWO_WORDS.fullmatch(word)
    words = two.groups() if two else (word,)
    if not re.fullmatch("[a-z]{3,}", words[0]) or any(map(changes_number, words)):
        return None
    if glued and not word.endswith("s"):
        return None
    return Unit(frozenset([(" ".join((*words[:-1], singular(words[-1]))), 1)]))


def may_be_one_sign(a: Unit, b: Unit) -> bool:
    """Tell whether two units without a common measure may be the same sign: ¥ is yuan or yen."""
    return {a, b} in ONE_SIGN


def is_measure(unit: Unit) -> bool:
    """Tell whether a unit measures, as cm does and dogs do not."""
    return any(base in MEASURES for base, _ in unit.dimension)
