r"""Verdicts on what a teacher wrote. Text in, a `Verdict` out.

    wrong_answer    the answer is not the gold one, by our own scorer (rewards.accuracy)
    no_reasoning    there is an answer and next to nothing before it
    cut             the reply ended at the limit on its length
    leak            it speaks of a description, a caption, a reference or a given answer
    reserved        it spells a token that no training text may hold
    hallucination   it names an object that the scene does not have: toy sets, whose scene is known
    judge           the judge model says that it is inconsistent, off the question, not seen, or
                    not told first-hand
Pairs of --mode qa have two of their own, `unanswerable` and `code`.
docs/distill.md has precision and recall of each on planted records.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pools
import rewards
from distilling import leaks
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


# --- leaks ---


def leak(trace: Trace, example: Example | None = None) -> Verdict:
    """Refuse talk of a description, a caption, a reference, a hint or a given answer.

    A phrase that the question itself has is none: it may ask about a caption.
    """
    question = example.question.lower() if example else ""
    for words in leaks.find(trace.thinking):
        if words.lower() not in question:
            return Verdict(False, words)
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

ASPECTS = ("consistent", "relevant", "grounded", "firsthand")


def judged(response: str) -> Verdict:
    """Read a judge's four lines; what cannot be read is a refusal, never a guess."""
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
