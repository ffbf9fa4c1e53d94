"""Words behind a number: those that multiply it, those that change it otherwise, and things.

size("million")             -> 10**6
size("twelfths")            -> Fraction(1, 12)
changes_number("fewer")     -> True
singular("cherries")        -> "cherry"
"""

import re
from fractions import Fraction

SCALES = {
    "ten": 10, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "quadrillion": 10**15, "quintillion": 10**18, "myriad": 10**4,
    "mln": 10**6, "bln": 10**9, "dozen": 12, "gross": 144, "score": 20, "lakh": 10**5,
    "crore": 10**7, "十": 10, "百": 10**2, "佰": 10**2, "千": 10**3, "仟": 10**3, "万": 10**4,
    "萬": 10**4, "亿": 10**8, "億": 10**8,
}  # fmt: skip
PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12,
    "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "sixteenth": 16, "seventeenth": 17,
    "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30, "fortieth": 40,
    "fiftieth": 50, "sixtieth": 60, "seventieth": 70, "eightieth": 80, "ninetieth": 90,
    "hundredth": 10**2, "thousandth": 10**3, "millionth": 10**6, "billionth": 10**9,
    "trillionth": 10**12,
}  # fmt: skip
OTHER_NUMBERS = (
    "zero one two three four five six seven eight nine eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
    "eighty ninety twentie thirtie fortie fiftie sixtie seventie eightie ninetie first once "
    "twice thrice pair couple trio quartet double triple quadruple quintuple googol zillion"
).split()
NUMBER_ENDING = re.compile(
    "fold$|(?:[mbtrdx]ill?ion|illiard)(?:th)?s?$|[a-z]{3}(?:first|third|fourth|fifth|sixth|seventh"
    "|eighth|ninth|tenth|enth|ieth)s?$"
)
# Comparisons, computations, verdicts: with them the number is another, or is not the answer.
CHANGING = (
    "plus minus times over under less fewer more greater smaller larger bigger extra "
    "additional another other further above below beyond off short behind ahead before after "
    "ago later earlier factorial squared cubed root mod modulo negative positive not none and "
    "but then than with without per each something odd even maybe perhaps about approximately "
    "roughly around nearly almost exactly the for out ish too many much few most least some "
    "any all infinite infinity higher lower older younger taller shorter longer faster slower "
    "wider deeper heavier lighter closer farther nearer cheaper better worse lesser inverse "
    "reciprocal minimum maximum max wrong right correct incorrect percentile power multiplied "
    "divided doubled tripled halved upwards past until false true yes never nor neither "
    "unknown unless thou mil grand sin cos tan cot sec csc log exp sqrt lim arcsin arccos "
    "arctan sinh cosh tanh"
).split()
NUMBERS = set(SCALES) | set(PARTS) | set(OTHER_NUMBERS)
PLURALS = {
    "children": "child",
    "men": "man",
    "women": "woman",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "dice": "die",
}


def size(word: str) -> Fraction | None:
    """Return the number that a word multiplies by; None if it is no such word."""
    for stem in (word, word.removesuffix("s"), word.removesuffix("es")):
        if stem in SCALES:
            return Fraction(SCALES[stem])
        if stem in PARTS:
            return Fraction(1, PARTS[stem])
    return None


def changes_number(word: str) -> bool:
    """Tell whether a word behind a number counts, compares or computes: twelfths, fewer."""
    stems = {word, word.removesuffix("s"), word.removesuffix("es")}
    return bool(NUMBER_ENDING.search(word) or stems & NUMBERS or word in CHANGING)


def singular(word: str) -> str:
    """Write a thing and several in one way: dogs, boxes and cherries are dog, box and cherry."""
    if word in PLURALS:
        return PLURALS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(?:x|ch|sh|ss)es$", word):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word
