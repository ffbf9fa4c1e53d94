r"""Read what is no formula: yes and no, letters of options, times, dates, ratios, codes.

Spelled text in (spelling.py), a value of values.py or None out.
"""

import re
from fractions import Fraction

from grading import expressions
from grading.expressions import NUMBER
from grading.spelling import plain
from grading.units import read_unit
from grading.values import Choice, Date, Ratio, Text, Time, YesNo

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
    r"(?:^|[,.;:!/(-]\s*|\b(?:or|and|but|it's|actually|mean)\s+)"  # where a clause begins
    r"(yes|no|true|false|yeah|yep|nope|nah)\b(?!\s+\w+)"
    r"|^(yes|no)\b|\b(yes|no)$",
    re.IGNORECASE,
)


# Sentences that end as the other word would: Yes, it is not. No, it is.
SUBJECT = r"(?:it|there|they|he|she|this|that|these|those|the \w+)"
VERB = r"(?:is|are|was|were|does|do|did|has|have|can|will)"
DENIES = re.compile(
    rf"(?:{SUBJECT}\s+{VERB}(?:\s+not|n't)|.*\b(?:none|never|false))$", re.IGNORECASE | re.DOTALL
)
AFFIRMS = re.compile(rf"{SUBJECT}\s+{VERB}$", re.IGNORECASE)
TAKEN_BACK = {"yes": DENIES, "true": DENIES, "no": AFFIRMS, "false": AFFIRMS}


def read_yes_no(text: str) -> YesNo | None:
    """Read yes, no, true or false, alone or before a sentence that does not take it back.

    "No idea" and "No. 5" are neither.
    """
    m = YES_NO.fullmatch(text)
    if not m:
        return None
    word, mark, rest = m[1].casefold(), m[2], m[3]
    others = {"".join(found).casefold() for found in ANOTHER_WORD.findall(rest)} - {word}
    numbered = mark in (".", ":") and re.match("[0-9]", rest)  # No. 5
    if others or numbered or UNSURE.search(rest) or TAKEN_BACK[word].fullmatch(rest):
        return None
    return YesNo(word)


# --- letters ---

LETTER = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*:?\s*(?=[(\[]?[A-J]))?"
    r"(?:([A-Za-z])\s*[.:,)、]?|[(\[]\s*([A-Za-z])\s*[)\]][.:,]?)"
)
LETTER_AND_TEXT = re.compile(
    r"""(?: ([A-J]) (?: [.:)] \s* | \s*、\s* | \s+-\s+ (?=[^\W\d]{2}) )  # A.cat  A、猫  A - cat
         | ([a-j]) (?: [.:] \s+ | \) \s* | \s*、\s* )                    # a. cat  a) cat
         | [(\[] ([A-Ja-j]) [)\]]                                       # (A) cat  (a)cat
           (?: [.:]? \s+ | (?=[A-Za-z\u4e00-\u9fff]) )
        )
        ([^\s,:)].*)""",
    re.DOTALL | re.VERBOSE,
)


def read_choice(text: str) -> Choice | None:
    """Read a letter in its usual dress, alone or before its text.

    "A cat" has none, and "A. cat B. dog" names two.
    """
    m = LETTER.fullmatch(text)
    if m:
        letter = m[1] or m[2]
        return Choice(letter.casefold(), "", letter)
    parted = letter_and_text(text)
    if parted is None or names_another_letter(*parted):
        return None
    letter, rest = parted
    return Choice(letter.casefold(), rest, letter)


def letter_and_text(text: str) -> tuple[str, str] | None:
    """Part "A. cat", "(A) cat", "A) cat" or "A、cat" into ("A", "cat"); None for anything else."""
    m = LETTER_AND_TEXT.fullmatch(text)
    return (m[1] or m[2] or m[3], m[4]) if m else None


CONNECTIVE = r"(?:\b(?i:or|nor|but|actually|maybe|perhaps|so)|[,/&;?!|])"
ANOTHER_LETTER = re.compile(
    rf"""(?<![\w.∠]) ([A-J]) [.:)、] (?=\s*[^\s.])                # cat B. dog
      | (?<![\w.]) ([a-j]) [.:)、] (?=\s+\S)                     # cat b. dog, but not a.m.
      | (?<=[0-9]) ([A-Ja-j]) \)                                # 3 B)4
      | (?<![A-Za-z]) [(\[] ([A-Ja-j]) [)\]]                     # cat (B) dog, but not P(A)
      | {CONNECTIVE} \s* ([A-J]) (?=\s*$|[,.?!)]|\s+[a-z-])      # cat or B; cat, but B is
      | \w{{2,}} \s+ and \s+ ([A-J]) (?=\s*$|\s+(?:is|are)\b)     # cat and B""",
    re.VERBOSE,
)
JOINED = re.compile(r"(?:both|neither|either|all|none)\b", re.IGNORECASE)


def names_another_letter(letter: str, rest: str) -> bool:
    """Tell whether the text behind a letter names another option: "cat B. dog", "cat or B"."""
    if JOINED.match(rest):
        return False  # D. Both A and B
    found = ANOTHER_LETTER.findall(rest)
    others = {"".join(groups).upper() for groups in found} - {letter.upper()}
    lone = letter.isupper() and re.fullmatch("[A-J]", rest.strip(" ."))  # A. B
    return bool(others or lone)


# --- times, dates, ranges, ratios, codes ---

TIME = re.compile(
    r"(上午|下午)?\s*([0-9]{1,2})(?:\s*[:.]\s*([0-9]{2}))?(?:\s*:\s*([0-9]{2}))?"
    r"\s*(?:([ap])\.?\s*m\.?)?",
    re.IGNORECASE,
)


def read_time(text: str) -> Time | None:
    """Read a time of day with its half: 3:30 PM, 5 p.m., 下午3:30."""
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
_MONTH = r"(?P<month>[A-Za-z]{3,9})\.?"
_DAY = r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>[0-9]{4})"
_GAP = r"(?:\s*,\s*|\s+)"
ISO_DATE = re.compile(r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})")
CHINESE_DATE = re.compile(r"([0-9]{4})\s*年\s*([0-9]{1,2})\s*月(?:\s*([0-9]{1,2})\s*[日号])?")
NAMED_DATES = [
    re.compile(rf"{_MONTH}\s+{_DAY}{_GAP}{_YEAR}"),
    re.compile(rf"{_DAY}\s+(?:of\s+)?{_MONTH}{_GAP}{_YEAR}"),
    re.compile(rf"{_MONTH}\s*,?\s+{_YEAR}"),
    re.compile(rf"{_MONTH}\s+{_DAY}"),
    re.compile(rf"{_DAY}\s+(?:of\s+)?{_MONTH}"),
]
SOME_DATE = re.compile(r"([0-9]{1,4})\s*/\s*([0-9]{1,2})\s*/\s*([0-9]{1,4})")


def read_date(text: str) -> Date | None:
    """Read 2020-02-04, February 4, 2020, 4 Feb 2020, 2020年2月4日; 2/4/2020 stays as it is."""
    m = ISO_DATE.fullmatch(text)
    if m:
        return _date(m[1], int(m[3]), m[4])
    m = SOME_DATE.fullmatch(text)
    if m:
        return Date(("in some order", *map(int, m.groups())))
    m = CHINESE_DATE.fullmatch(text)
    if m:
        return _date(m[1], int(m[2]), m[3])
    for pattern in NAMED_DATES:
        m = pattern.fullmatch(text)
        if m:
            found = m.groupdict()
            return _date(found.get("year"), MONTH.get(m["month"].casefold(), 0), found.get("day"))
    return None


def _date(year: str | None, month: int, day: str | None) -> Date | None:
    """Make a date of what is named; None if there is no such month or day."""
    if not 1 <= month <= 12 or not 1 <= int(day or 1) <= 31:
        return None
    return Date((year and int(year), month, day and int(day)))


RATIO = re.compile(rf"{NUMBER}(?:\s*:\s*{NUMBER})+")
O_CLOCK = re.compile(r"([0-9]{1,2})\s*o'?clock", re.IGNORECASE)


def read_ratio(text: str) -> Ratio | None:
    """Read 1:2, 3:4:5, and times without am or pm."""
    hour = O_CLOCK.fullmatch(text)
    if hour:
        return Ratio((Fraction(hour[1]), Fraction(0)))
    if not RATIO.fullmatch(text):
        return None
    return Ratio(tuple(Fraction(term) for term in re.findall(NUMBER, text)))


_FUNCTION = "|".join(expressions.FUNCTIONS)
CODES = [
    # AB12, x2: a letter before a digit, but not log2 and 1e3
    rf"(?!(?:{_FUNCTION}|sqrt|pi)[0-9]+$)(?![0-9.]+e[0-9]+$)(?=[a-z0-9]*[a-z][0-9])[a-z0-9]+",
    "[12][0-9]{2}0s",  # 1990s
    r"[0-9]+(?:st|nd|rd|th)(?:\s.*)?",  # 1st
    "[0-9]+(?:-[0-9]+){2,}",  # 555-12-34
    r"[0-9]+(?:\.[0-9]+){2,}",  # 1.2.3
    "[0-9]+(?:/[0-9]+){2,}",
    "n/a",
]
CODE = re.compile("|".join(CODES), re.IGNORECASE)
BASED = re.compile(r"\(?\s*([0-9A-F]+)\s*\)?\s*_\s*(?:\{\s*([0-9]{1,2})\s*\}|([0-9]{1,2}))")

CHEMICAL = re.compile(r"(?:[A-Z][a-z]?(?:_\{[0-9]+\}|_?[0-9]+)?){2,}")  # CO_2, H2O
POWER_OF_UNIT = re.compile(r"[0-9.]+((?:[a-z]{2}|m)[23])")  # 5cm2


def read_code(text: str) -> Text | None:
    """Read letters with digits that are no product, and hyphens that are no minus.

    AB12, x2, 1st, 1990s, 555-12-34, 1.2.3; and 52_8, a numeral in another base.
    """
    m = BASED.fullmatch(text)
    if m:
        return Text(f"{m[1]}_{m[2] or m[3]}")
    chemical = re.sub(r"\s", "", text) if "_" in text else text
    if CHEMICAL.fullmatch(chemical) and re.search("[0-9]", text):
        return Text(re.sub(r"[_{}]", "", chemical))
    m = POWER_OF_UNIT.fullmatch(text)
    if m and read_unit(m[1]):
        return None
    return Text(plain(text)) if CODE.fullmatch(text) else None
