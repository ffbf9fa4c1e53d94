r"""Verdicts on what a teacher wrote. Text in, a `Verdict` out.

    wrong_answer    the answer is not the gold one, by our own scorer (rewards.accuracy)
    no_reasoning    there is an answer and next to nothing before it
    cut             the reply ended at the limit on its length
    leak            it speaks of a description, a caption, a reference or a given answer
    reserved        it spells a token that no training text may hold
    hallucination   it names an object that the scene does not have: toy sets, whose scene is known
    judge           the judge model says that it is inconsistent, off the question, or not seen
Pairs of --mode qa have two of their own, `unanswerable` and `code`.
docs/distill.md has precision and recall of each on planted records.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pools
import rewards
from grading.answers import extract_answer
from tasks import drawing
from tasks.example import Example
from tasks.thinking import after_thinking, in_our_tags


class Verdict(NamedTuple):
    """What a filter says. why: the words that it found; "" if the text passes."""

    passes: bool
    why: str = ""


class Trace(NamedTuple):
    """A worked answer in our tags, and how its reply ended ("stop" or "length")."""

    text: str
    finish: str = "stop"

    @property
    def thinking(self) -> str:
        """What stands between the think tags."""
        inside = self.text.rpartition("</think>")[0]
        return inside.replace("<think>", "").strip()

    @property
    def answer(self) -> str:
        """The answer, "" if there is none."""
        return extract_answer(self.text) or ""


PASSES = Verdict(True)

# --- the answer and the form ---


def wrong_answer(trace: Trace, example: Example) -> Verdict:
    """Refuse an answer that our scorer does not find right."""
    if rewards.accuracy(trace.text, example):
        return PASSES
    return Verdict(False, trace.answer or "no answer")


def no_reasoning(trace: Trace, example: Example | None = None) -> Verdict:
    """Refuse fewer than pools.LEAST characters of thinking."""
    return PASSES if pools.has_reasoning(trace.text) else Verdict(False, trace.thinking)


def cut(trace: Trace, example: Example | None = None) -> Verdict:
    """Refuse a reply that ended at its limit."""
    return Verdict(trace.finish != "length", "" if trace.finish != "length" else "length")


# Tokens of chat formats, a picture's place, and our own tags inside of the thinking.
RESERVED = re.compile(r"<\|[^|>\s]{1,40}\|>|<image>|</?(?:think|answer|s)>", re.IGNORECASE)


def reserved(trace: Trace, example: Example | None = None) -> Verdict:
    """Refuse a token of a chat format, a picture's place or a tag in thinking or answer."""
    found = RESERVED.search(f"{trace.thinking}\n{trace.answer}")
    return Verdict(False, found[0]) if found else PASSES


# --- leaks: talk of what the teacher was given in words ---

# A chart has a caption, a triangle a reference angle, and a text may ask for a description.
PLACED = r"(?! (?:of|below|under|above|on|in|beside|at|for|column|field|line) )"
NO_CRIB = (
    r"(?! (?:angle|point|line|frame|triangle|level|circle|square|axis|number|value|mark|object|"
    r"height|length|side|scale|to\b))"
)
THE = r"\b(?:the|this|that|your|my|our|an?|any|only)(?: [\w-]+){0,2} "  # with up to two adjectives
PICTURE = r"(?:image|picture|photo|photograph|figure|chart|table|diagram|scene)"
TOLD = r"(?:told|given|handed|supplied with|provided with|shown only)"
PROVIDED = r"(?:provided|supplied|attached)"
GIVEN = r"(?:given|provided|supplied|stated|attached|accompanying)"
MATTER = r"(?:text|information|data|facts|details?|representation|context|material|list|words)"
RESULT = r"(?:final |correct |right )?(?:answer|solution|result|label|output)s?"
BY_THE_PICTURE = rf"(?! (?:in|by|on|at) (?:the|this) (?:question|problem|legend|axis|{PICTURE}))"
LEAKS = [
    # a description, a caption and the like, unless it is a part of the picture
    rf"{THE}descriptions?\b(?! (?:of|column|field|in) )",
    rf"{THE}captions?\b{PLACED}|\bas the caption\b|\bcaption (?:says|states|notes)\b",
    rf"{THE}(?:annotations?|transcripts?|transcriptions?|metadata|scene graph|alt text)\b",
    r"\b(?:the|this) (?:JSON|CSV|HTML|PlantUML|Mermaid|OCR)\b",
    r"\b(?:is|are|was|were|been|as|it) described\b(?! (?:in|by) the (?:question|problem))",
    # "It is given that AB = 5" and "as mentioned above" are how mathematics is written.
    rf"\bas (?:given|provided|annotated)\b{BY_THE_PICTURE}"
    rf"|\bit (?:was|is) (?:stated|mentioned|specified|provided)\b{BY_THE_PICTURE}",
    rf"\b{PROVIDED} {MATTER}\b|\b{MATTER} (?:that (?:was|were|is|are) )?{PROVIDED}\b"
    rf"{BY_THE_PICTURE}|\bgiven (?:text|context|representation)\b",
    # a reference, a hint, the answer itself
    rf"{THE}reference\b{NO_CRIB}|\breference (?:answer|solution|text)s?\b",
    r"\b(?:the|this|my|your) hints?\b|\bhint (?:says|tells|suggests)\b",
    rf"\b(?:{GIVEN}|reference|gold(?:en)?|expected|known|model|target|official) {RESULT}\b"
    r"(?! (?:choice|option))",
    r"\bground[ -]truth\b|\banswer key\b",
    rf"\b{RESULT} (?:(?:(?:that|which|I|we) )?(?:is|was|were|am) )?(?:already )?"
    rf"(?:{GIVEN}|told|handed|known)\b",
    r"\b(?:I|we) (?:already )?(?:know|knew) (?:that )?the (?:correct |right |final )?answer\b",
    r"\b(?:match(?:es|ing)?|agree(?:s|ing)? with|consistent with|in line with|equals) the "
    r"(?:correct|right) (?:answer|solution|result)\b",
    # who was told, and cannot see
    r"\bI(?: am| was|['’]m| have been|['’]ve been) "
    rf"{TOLD}\b(?! to\b)|\bwe(?: were| have been|['’]ve been) {TOLD}\b"
    r"|\bwe are told\b|\b(?:given|told|described) to (?:me|us)\b",
    r"\b(?:can(?:not|['’]t| not)|unable to|not able to|without|do(?: not|n['’]t)) "
    r"(?:directly |actually )?(?:see(?:ing)?|view(?:ing)?|look(?:ing)? at|(?:have |having )?access "
    rf"to) (?:the|this|any|an) (?:actual )?{PICTURE}\b",
    r"\bthe user (?:has )?(?:said|says|provided|provides|described|describes|gave|gives|told)\b",
    # Chinese
    "参考(?![线点系角价值图书])|描述[中里]|标准答案",
    "(?:根据|按照|依据|结合).{0,4}(?:描述|提供|给出|给定|说明|提示|标注)",
    "用户(?:提供|给出|提到|描述|已经|告诉)|(?:提供|给出|给定)的(?:信息|内容|资料|描述|答案|文本)",
    "(?:无法|不能|没有)(?:直接)?(?:看到|查看)(?:这张)?(?:图|照)",
]  # fmt: skip
LEAK = re.compile("|".join(f"(?:{leak})" for leak in LEAKS), re.IGNORECASE)


def leak(trace: Trace, example: Example | None = None) -> Verdict:
    """Refuse talk of a description, a caption, a reference, a hint or a given answer.

    A phrase that the question itself has is none: it may ask about a caption.
    """
    question = example.question.lower() if example else ""
    for found in LEAK.finditer(trace.thinking):
        if found[0].lower() not in question:
            return Verdict(False, found[0])
    return PASSES


# --- hallucinations: exact, where the scene is known ---

OBJECT = re.compile(
    r"(?:\b(?P<none>no|not an?|without an?|neither an?|nor an?) )?"
    rf"\b(?P<color>{'|'.join(drawing.COLORS)}) (?P<shape>{'|'.join(drawing.SHAPES)})s?\b",
    re.IGNORECASE,
)  # fmt: skip
ROW = re.compile(r"\bRow (\d): ?([^.]*)\.", re.IGNORECASE)


def scene_of(example: Example) -> list[list] | None:
    """Give the objects of a toy scene of shapes; None for any other example."""
    objects = example.meta.get("objects")
    if not isinstance(objects, list) or not example.source.startswith("toy task"):
        return None
    return objects if all(o[2] in drawing.COLORS for o in objects) else None


def named_in(text: str) -> list[str]:
    """List the objects that a text says are there: ["red circle", ...]."""
    found = [match for match in OBJECT.finditer(text) if not match["none"]]
    return [f"{match['color']} {match['shape']}".lower() for match in found]


def hallucination(trace: Trace, example: Example) -> Verdict:
    """Refuse an object that the scene does not have, or not as often in the row that is listed.

    Only toy scenes of shapes are known; other examples pass. What is overlooked is no
    hallucination: see `overlooked`.
    """
    scene = scene_of(example)
    if scene is None:
        return PASSES
    for number, listed in ROW.findall(trace.thinking):
        there = Counter(drawing.name_of(o) for o in scene if o[0] == int(number) - 1)
        more = Counter(named_in(listed)) - there
        if more:
            return Verdict(False, f"row {number}: {next(iter(more))}")
    anywhere = {drawing.name_of(o) for o in scene}
    absent = [name for name in named_in(trace.thinking) if name not in anywhere]
    return Verdict(False, absent[0]) if absent else PASSES


def overlooked(trace: Trace, example: Example) -> Verdict:
    """Refuse a listing of a toy scene's rows that leaves objects out, in every look at the row.

    It is the exact judge's (planted.py), not a filter: a general one cannot be had for it.
    """
    rows = {}
    for number, listed in ROW.findall(trace.thinking):
        rows[int(number) - 1] = Counter(named_in(listed))  # the last look counts
    for row, listed in rows.items():
        there = Counter(drawing.name_of(o) for o in scene_of(example) or [] if o[0] == row)
        if there - listed:
            return Verdict(False, f"row {row + 1}: {next(iter(there - listed))}")
    return PASSES


# --- the judge model ---

ASPECTS = ("consistent", "relevant", "grounded")


def judged(response: str) -> Verdict:
    """Read a judge's three lines; what cannot be read is a refusal, never a guess."""
    said = after_thinking(in_our_tags(response)) or ""
    for aspect in ASPECTS:
        found = re.findall(rf"(?i)\b{aspect}\b\W*\b(yes|no)\b", said)
        if not found:
            return Verdict(False, f"{aspect}: unreadable")
        if found[-1].lower() == "no":
            return Verdict(False, aspect)
    return PASSES


# --- question-answer pairs of a page (Docmatix, arXiv:2408.12637, section 4.2) ---

UNANSWERABLE = re.compile(
    r"\bunanswerable\b|\b(?:not|n['’]t|cannot be|no) (?:be )?(?:mentioned|specified|stated|given|"
    r"provided|answered|determined|available|known|found|listed|indicated|disclosed)\b"
    r"|\b(?:text|page|document|passage) (?:does not|doesn['’]t|did not)\b"
    r"|\bno (?:information|answer|mention)\b|^\W*(?:n/?a|unknown|none|unclear)\W*$",
    re.IGNORECASE,
)
CODE = re.compile(
    r"```|</?[a-z][\w-]*(?: [\w-]+=\"[^\"]*\")*/?>|\b(?:def|function|class) \w+ ?\(|\breturn \w+;"
    r"|^\s*from [\w.]+ import\b|^\s*import [\w.]+(?: as \w+)?\s*$|#include\b"
    r"|\w+\([\w\"', =]*\)[;{]|[{};]\s*$"
    r"|\b(?:SELECT|INSERT|UPDATE) .+\b(?:FROM|INTO|SET)\b|\b(?:var|let|const) \w+ =|[!=]==",
    re.MULTILINE,
)


def unanswerable(question: str, answer: str) -> Verdict:
    """Refuse an answer that says there is none."""
    found = UNANSWERABLE.search(answer)
    return Verdict(False, found[0]) if found else PASSES


def code(question: str, answer: str) -> Verdict:
    """Refuse an answer that is code or markup, which a text model writes when it loses the page."""
    found = CODE.search(answer)
    return Verdict(False, found[0].strip()) if found else PASSES


# In this order they are counted: the first that refuses names the reason.
FILTERS: dict[str, Callable[[Trace, Example], Verdict]] = {
    "wrong_answer": wrong_answer,
    "cut": cut,
    "no_reasoning": no_reasoning,
    "reserved": reserved,
    "leak": leak,
    "hallucination": hallucination,
}
PAIR_FILTERS = {"unanswerable": unanswerable, "code": code}


def refused(trace: Trace, example: Example) -> dict[str, str]:
    """Return what each filter that refuses a trace has found: {} if all pass."""
    verdicts = {name: judge(trace, example) for name, judge in FILTERS.items()}
    return {name: verdict.why for name, verdict in verdicts.items() if not verdict.passes}
