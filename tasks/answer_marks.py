r"""Where a text marks its answer: "#### 72", "Answer: 3", "\boxed{3}", "The answer is 3."."""

import re
from typing import NamedTuple

from grading import equality
from grading.answers import choice_index, match_answer
from grading.expressions import variables
from grading.reading import read, text_form
from grading.values import Expression, Text, YesNo

SHORT_ANSWER = 100  # characters: a text without tags that is longer is no answer
HASHES = re.compile(r"^####[ \t]*([^\n]*\S)\s*\Z", re.MULTILINE)  # the last line of GSM8K's texts
ANSWER_LINE = re.compile(
    r"(?<![A-Za-z])(?:Answer|answer|ANSWER|Ans|ANS)\**\s*[:：]"
    r"|(?i:^[ \t#*_]*(?:the )?(?:final |correct )?answer[ \t*_]*$)(?=\s*\S)"  # a heading
    r"|答案\s*[:：]|【答案】",
    re.MULTILINE,
)
SAID = re.compile(
    r"\b(?:answer(?: (?:to|for|of) [^.\n]{1,80}?)?|(?:correct|right) (?:option|choice))\**"
    r"\s+(?:is|should be|must be|would be|will be)\b\**\s*:?\s*"
    r"(?:(?:therefore|thus|hence|then|indeed|clearly|simply|just|still|likely|probably)\b,?\s*)?"
    r"|(?:答案|正确选项)[应该]*[是为选]\s*[:：]?\s*|故选\s*[:：]?\s*",
    re.IGNORECASE,
)
SAYS_NOTHING = re.compile(
    r"\**(?:not|as follows|given (?:by|in|as)|found|obtained)\b|什么|多少|否", re.IGNORECASE
)
UNCLEAR = re.compile(r"\**(?:unclear|unknown)\b", re.IGNORECASE)
LEAD = re.compile(
    r"\W*(?:(?:so|thus|hence|therefore|solution|and|the|final|correct|right|my)\b\W*)*"
    r"(?:(?:因此|所以|故|最终|正确)\W*)*",
    re.IGNORECASE,
)
CLAUSE = re.compile(
    r",?\s+(?:because|since)\b|,\s+(?:as|so|which|where|and so|but|not)\b|[，,](?:因为|所以)"
)
ROUGHLY = re.compile(
    r"(?:approx(?:imately|\.)?|about|roughly|around|ca\.|≈)\s*(?=[\d.$\\-])", re.IGNORECASE
)
MARKUP = " \t\r*_#$`\\[]():"  # a line of these alone is around the answer, not the answer
BETWEEN_BOXES = re.compile(r"\\text|\\quad|\band\b|\bor\b|[\s$,;.{}()&\\\[\]]")
FENCE = re.compile(r"[\s*]*```\w*\n(.*?)```", re.DOTALL)
LIST_ITEM = re.compile(r"(?:[-*•]|\d+[.)])\s")
UNFINISHED = re.compile(r"(?:[,;&+=(]|\b(?:and|or|the|of))\Z")
LATER_BOX = re.compile(  # what leads on to a later box, where other words may join two answers
    r"[.!?:]\s|\n|\b(?:then|so|thus|hence|therefore|finally|no|not|wait|but|which|gives?|gets?)\b",
    re.IGNORECASE,
)
STEP = re.compile(r"[^,;()]*(?:[=≈→⇒]|\\approx|\\implies|\\Rightarrow)[\s$]*")  # "3 + 4 = 7"
WORD = re.compile(r"[^\W\d_]{2}")
SENTENCE_END = re.compile(r"[.!．](?:\**)(?=\s|$)|[。！]")
STOPS = " .!*。．！"
ABBREVIATION = re.compile(  # its full stop ends no sentence, before such a word
    r"\b(?:St|Mt|Ft|Mr|Mrs|Ms|Dr|Prof|Gen|Lt|Col|Sgt|Capt|Rev|Gov|Sen|Pres)\.(?=\s+[A-Z])"
    r"|\b(?:[Aa]pprox|ca|cf|vs|[Nn]os?|[Ff]igs?|e\.g|i\.e)\.(?=\s+[^A-Za-z\s])"
    r"|\b(?:[Aa]pprox|ca|cf|vs|e\.g|i\.e|ft|in|lbs?|oz|sq|a\.m|p\.m)\.(?=\s+[a-z])"
    r"|\b[A-Z]\.[A-Z]\.(?=\s+\S)"
)


class Mark(NamedTuple):
    """A marked answer, "" if it cannot be told, and the place of both in the text."""

    start: int
    end: int
    answer: str
    kind: str  # "line" ("####", "Answer:"), "box" or "said"

    def stands_alone(self, text: str) -> bool:
        """Tell whether the text says nothing else: "The answer is 3.", r"\boxed{3} cm"."""
        words_after = text[self.end :].split()
        return len(words_after) < 2 and LEAD.fullmatch(text, 0, self.start) is not None


def find(text: str) -> Mark | None:
    """Find the answer that a text without thinking marks as such; None without marks.

    What follows "####" or the last "Answer:", else what the last box holds, else what the last
    "the answer is" says. If a later mark surely differs, that one if it ends the text, else "".
    """
    found = [hashes(text), answer_line(text), box(text), said(text)]
    marks = [mark._replace(answer=undressed(mark.answer)) for mark in found if mark]
    fitting = [mark for mark in marks if mark.answer and len(mark.answer) < SHORT_ANSWER]
    if not fitting:
        return marks[0]._replace(answer="") if marks else None
    best = fitting[0]
    later = [mark for mark in fitting if mark.start > best.start]
    later = [mark for mark in later if contradict(best.answer, mark.answer)]
    if not later:
        return best
    last = max(later)
    ends_the_text = "\n" not in text[last.start :].strip()
    may_explain = best.kind == "line" and last.kind == "said"
    return last if ends_the_text and not may_explain else best._replace(answer="")


def hashes(text: str) -> Mark | None:
    """Find the last line of GSM8K's texts: "#### 72"."""
    found = HASHES.search(text)
    return Mark(found.start(), len(text), found[1], "line") if found else None


def answer_line(text: str) -> Mark | None:
    """Find the last "Answer: 3" (R3V, Geo170K) or heading, "### Final Answer\\n3"."""
    marks = list(ANSWER_LINE.finditer(text))
    if not marks:
        return None
    begin, start = marks[-1].span()
    fenced = FENCE.match(text, start)
    if fenced:
        return Mark(begin, fenced.end(), fenced[1].strip(), "line")
    line, end = first_line(text, start)
    if goes_on(line, text[end:]):
        return Mark(begin, end, "", "line")
    first = first_sentence(line)
    words_after = line[len(first) :].strip(STOPS).split()
    if len(first.split()) > 3 or len(words_after) in (1, 2):  # "B. two cats" is an answer
        first = line
    return Mark(begin, end, first, "line")


def box(text: str) -> Mark | None:
    r"""Find the last \boxed{...}; those that stand together are one answer: "3, 4"."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    inside, end = inside_of_box(text, start)
    answers = [inside]
    while sum(map(len, answers)) < SHORT_ANSWER:
        earlier = text.rfind("\\boxed{", 0, start)
        if earlier < 0:
            break
        inside, closed = inside_of_box(text, earlier)
        between = text[closed:start]
        joined = BETWEEN_BOXES.sub(" ", between).strip()
        if closed > start or STEP.fullmatch(between):
            break
        if WORD.search(joined) and LATER_BOX.search(between):
            break
        if joined:  # "x = 3, y = 4", "3 by 4" and "(a) 3 (b) 4" have no single answer
            return Mark(earlier, end, "", "box")
        if not any(match_answer(inside, answer) for answer in answers):
            answers.insert(0, inside)
        start = earlier
    return Mark(start, end, ", ".join(answers), "box")


def inside_of_box(text: str, start: int) -> tuple[str, int]:
    r"""Read the \boxed{...} that begins there: (its inside, its end); "" if it never ends."""
    first = start + len("\\boxed{")
    depth = 1
    for place in range(first, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[first:place].strip(), place + 1
    return "", len(text)


def said(text: str) -> Mark | None:
    """Find the last "the answer is 3"; "the answer is not 4" says nothing."""
    marks = list(SAID.finditer(text))
    if not marks:
        return None
    telling = [mark for mark in marks if not SAYS_NOTHING.match(text, mark.end())]
    if not telling or UNCLEAR.match(text, telling[-1].end()):
        return Mark(marks[-1].start(), marks[-1].end(), "", "said")
    line, end = first_line(text, telling[-1].end())
    first = CLAUSE.split(first_sentence(line))[0]
    words_after = line[len(first) :].strip(STOPS).split()
    if re.search(r"\b[A-Za-z]\Z", first) and len(words_after) in (1, 2):
        first = line.rstrip(".!。．！")  # "B. two cats", "George W. Bush"
    if first == line and re.match(r"\n\s*[a-z]", text[end:]):
        first = ""
    return Mark(telling[-1].start(), end - len(line) + len(first), first, "said")


# --- the text of an answer ---


def first_line(text: str, start: int) -> tuple[str, int]:
    """Read the first line from there that holds more than markup: (the line, its end)."""
    for found in re.compile(r"[^\n]+").finditer(text, start):
        if found[0].strip(MARKUP):
            return found[0].strip(), start + len(text[start : found.end()].rstrip())
    return text[start:].strip(), len(text.rstrip())


def goes_on(line: str, after: str) -> bool:
    """Tell whether an answer may go on below its first line, as a list or a long sentence does."""
    below = after.partition("\n")[2].partition("\n")[0].strip()
    words = below.strip(MARKUP + "-")
    if not words:
        return False
    if LIST_ITEM.match(below) or UNFINISHED.search(line) or words[0].islower():
        return True
    is_heading = below.startswith(("#", "**", "【"))
    few_words = len(words.split()) < 3 and len(words) < 40  # no spaces are written in Chinese
    return not is_heading and few_words and not below.endswith((".", "!", "?", ":", "。", "："))


def first_sentence(line: str) -> str:
    """Cut a line at the end of its first sentence: "3.5 cm. So" -> "3.5 cm"."""
    inside = {found.end() - 1 for found in ABBREVIATION.finditer(line)}
    for stop in SENTENCE_END.finditer(line):
        if stop.start() not in inside:
            return line[: stop.start()]
    return line


def undressed(answer: str) -> str:
    r"""Undress a marked answer: "**3**", "$3$", "x = \boxed{3}", "the final answer is 3" -> "3"."""
    answer = bare(without_loose_bold(answer))
    answer = ROUGHLY.sub("", answer, count=1) if ROUGHLY.match(answer) else answer
    if len(answer) >= SHORT_ANSWER:
        return answer
    marked = find(answer)
    if marked and "\\boxed" in answer:
        return marked.answer
    if marked and marked.answer and LEAD.fullmatch(answer, 0, marked.start):
        return marked.answer
    formula = re.fullmatch(r"\$+([^$]+)\$+|\\\((.+)\\\)|\\\[(.+)\\\]", answer)
    return next(filter(None, formula.groups())).strip() if formula else answer


def without_loose_bold(text: str) -> str:
    """Drop the half of a pair of ** whose other half stands before the answer: "3**" -> "3"."""
    text = text.strip()
    if text.count("**") == 1:
        text = text.removeprefix("**").removesuffix("**")
    return text.strip()


def bare(answer: str) -> str:
    r"""Undress an answer: "**3**" -> "3"; r"$\boxed{3}$" -> "3"."""
    answer = answer.strip()
    if "*" not in answer and "\\boxed" not in answer:
        return answer
    bold = re.fullmatch(r"\*\*([^*]+)\*\*\.?", answer)
    if bold:
        answer = bold[1].strip()
    undressed = re.sub(r"^(?:\$+|\\\(|\\\[)\s*|\s*(?:\$+|\\\)|\\\])\.?$", "", answer)
    if undressed.startswith("\\boxed{"):
        inside, end = inside_of_box(undressed, 0)
        if inside and end == len(undressed):
            return inside
    return answer


def contradict(answer: str, other: str, choices: list[str] | None = None) -> bool:
    """Tell whether two golds of one record surely differ: two numbers, two letters, two words.

    A letter and a text, or a number and a text, may mean the same.
    """
    if answer == other or match_answer(other, answer, choices):
        return False
    listed = [sorted(text.strip(" \\{}").split(", ")) for text in (answer, other)]
    if listed[0] == listed[1]:
        return False
    if choices:
        places = choice_index(answer, choices), choice_index(other, choices)
        return None not in places and places[0] != places[1]
    if match_answer(answer, other):
        return False
    one, two = read(answer), read(other)
    if type(one) is not type(two):
        return False
    if isinstance(one, YesNo):  # "true" may answer what "yes" does
        return (one.word in ("yes", "true")) != (two.word in ("yes", "true"))
    if isinstance(one, Expression) and may_be_rounded(one, two):
        return False
    if isinstance(one, Text):
        forms = [re.sub(r"[\W_]", "", text_form(text)) for text in (answer, other)]
        return forms[0] not in forms[1] and forms[1] not in forms[0]
    return True


def may_be_rounded(one: Expression, two: Expression) -> bool:
    """Tell whether one number may be the other, rounded: 0.33 and 1/3, 4.24 and 3√2, 50% and 0.5.

    A whole number is not taken for a rounded one.
    """
    if any(variables(value.tree) or equality.has_two_values(value.tree) for value in (one, two)):
        return False
    written = [value.written for value in (one, two) if "." in value.written]
    try:
        numbers = [equality.evaluate(value.tree) for value in (one, two)]
    except ArithmeticError:  # a value that is none, or too large
        return False
    a, b = (n / 100 if is_percent(value) else n for n, value in zip(numbers, (one, two)))
    places = min((len(text.partition(".")[2]) for text in written), default=9)
    places += 2 * any(map(is_percent, (one, two)))
    return abs(a - b) * 10**places < 0.999


def is_percent(value: Expression) -> bool:
    """Tell whether a number is followed by %."""
    return value.unit is not None and value.unit.dimension == frozenset({("percent", 1)})
