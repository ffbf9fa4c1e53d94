"""The stages of each mode: what is asked about an example, given the replies of those before.

A stage's request(example, said, settings) returns a `Request`, or None where there is nothing to
ask: a wrong answer is not rewritten, and what the rules refuse is not judged.
said: {stage: line} of the replies so far; a line is as docs/distill.md shows it.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pools
from distilling import filters, prompts
from distilling.filters import Trace, Verdict
from grading.answers import extract_answer
from plumbing.text import crc32
from tasks.box_fields import answer_text
from tasks.example import Example
from tasks.thinking import THINK_TAG, in_our_tags
from tasks.worked_answers import gold_in, imitated


class Request(NamedTuple):
    """What a stage asks. prompt: its name. prefix: how the answer begins."""

    prompt: str
    messages: list[dict]
    prefix: str = ""


class Settings(NamedTuple):
    """What the flags say. kind: of all pictures. template: of questions put as they are."""

    kind: str | None
    template: str
    mode: str


class Stage(NamedTuple):
    """What is asked, and of whom: "teacher" or "judge". shows: whether it shows the picture.

    quotes: characters of its own words and of what it quotes, beside the question; replies:
    completion tokens of a reply. Both are about so many, for the estimate alone.
    """

    request: Callable[[Example, dict, Settings], Request | None]
    by: str = "teacher"
    shows: bool = False
    quotes: int = 0
    replies: int = 300


class Mode(NamedTuple):
    """A route from questions to worked answers. worked: whose text is learned, the last first."""

    stages: tuple[str, ...]
    worked: tuple[str, ...] = ()
    sees: bool = True  # whether it needs a picture


MODES = {
    "describe": Mode(("kind", "describe", "reason", "look", "judge"), ("look", "reason")),
    "hindsight": Mode(("hindsight", "clean", "judge"), ("clean", "hindsight"), sees=False),
    "direct": Mode(("direct", "judge"), ("direct",), sees=False),
    "prefix": Mode(("caption", "continue", "judge"), ("continue",)),
    "qa": Mode(("qa",), sees=False),
}

# --- from a reply to a trace ---


def to_trace(text: str, finish: str = "stop", choices: list[str] | None = None) -> Trace:
    """Write a reply as "<think> ... </think><answer> ... </answer>", whatever its tags were.

    What it says between thinking and answer joins the thinking; what follows the answer goes.
    Without an answer that can be told, the tags of one are missing.
    """
    text = in_our_tags(text).strip()
    answer = extract_answer(text)
    if answer is None:
        answer = gold_in(text)
        text = (answer and imitated(text, answer, choices)) or text
        if not answer or extract_answer(text) is None:
            return Trace(f"<think> {THINK_TAG.sub('', text).strip()} </think>", finish)
        answer = extract_answer(text)
    thinking = THINK_TAG.sub("", text[: text.rindex("<answer>")]).strip()
    return Trace(f"<think> {thinking} </think><answer> {answer} </answer>", finish)


def trace_of(example: Example, said: dict, mode: str) -> Trace | None:
    """Return the newest worked answer among the replies of a mode; None if there is none."""
    for stage in MODES[mode].worked:
        if stage in said:
            line = said[stage]
            return to_trace(line["prefix"] + line["text"], line["finish"], example.choices)
    return None


def right_trace(example: Example, line: dict) -> Trace | None:
    """Return a reply's trace if it reasons, is whole, and comes to the gold answer."""
    trace = to_trace(line["prefix"] + line["text"], line["finish"], example.choices)
    checks = (filters.wrong_answer, filters.cut, filters.no_reasoning)
    return trace if all(check(trace, example).passes for check in checks) else None


# --- describe: R1-Onevision's four stages (arXiv:2503.10615) ---


def ask_kind(example: Example, said: dict, settings: Settings) -> Request | None:
    """Ask for the kind of picture, where neither a flag nor the record says it."""
    if settings.kind or prompts.kind_of(example):
        return None
    return Request("kind", prompts.about(example, prompts.KIND))


def describe(example: Example, said: dict, settings: Settings) -> Request:
    """Ask for the picture in the formal language of its kind."""
    told = said.get("kind", {"text": ""})["text"]
    kind = settings.kind or prompts.kind_of(example) or prompts.read_kind(told)
    text = prompts.fill(prompts.TO_DESCRIBE, how=prompts.DESCRIBE[kind])
    return Request(f"describe/{kind}", prompts.about(example, text))


def reason(example: Example, said: dict, settings: Settings) -> Request | None:
    """Ask a text teacher to reason over description and question, without the picture."""
    if "describe" not in said:
        return None
    described = said["describe"]["text"]
    question = prompts.question_of(example)
    text = prompts.fill(prompts.REASON, description=described, question=question)
    return Request("reason", prompts.words(text))


def look(example: Example, said: dict, settings: Settings) -> Request | None:
    """Ask for right reasoning to be written again as though looking (role play)."""
    return rewritten("look", prompts.LOOK, "reason", example, said)


def rewritten(name: str, prompt: str, before: str, example: Example, said: dict) -> Request | None:
    """Ask for the trace of the stage before, if it is right, to be written again."""
    trace = right_trace(example, said[before]) if before in said else None
    if trace is None:
        return None
    question = prompts.question_of(example)
    text = prompts.fill(prompt, question=question, thinking=trace.thinking, answer=trace.answer)
    return Request(name, prompts.words(text))


# --- hindsight: deepseek-r1-vision ---


def hindsight(example: Example, said: dict, settings: Settings) -> Request:
    """Ask with the gold answer as a reference; no picture is shown, as in deepseek-r1-vision."""
    question = prompts.question_of(example)
    gold = example.answer
    if "boxes" in example.meta:  # as the answer is read: the gold ones are in pixels
        gold = answer_text(example, example.meta["boxes"])
    text = prompts.fill(prompts.HINDSIGHT, question=question, answer=gold)
    return Request("hindsight", prompts.words(text))


def clean(example: Example, said: dict, settings: Settings) -> Request | None:
    """Ask for a right trace without a word of the reference."""
    return rewritten("clean", prompts.CLEAN, "hindsight", example, said)


# --- direct, prefix ---


def direct(example: Example, said: dict, settings: Settings) -> Request:
    """Ask a teacher that sees the picture."""
    return Request(f"direct/{settings.template}", prompts.asked(example, settings.template))


def caption(example: Example, said: dict, settings: Settings) -> Request:
    """Ask for a caption that can begin somebody's thinking."""
    return Request("caption", prompts.about(example, prompts.CAPTION))


def go_on(example: Example, said: dict, settings: Settings) -> Request | None:
    """Ask a text reasoner to go on with thinking that begins with the caption (R1-Vision)."""
    if "caption" not in said:
        return None
    prefix = prompts.fill(prompts.LEAD_IN, caption=said["caption"]["text"].strip())
    messages = prompts.asked(pools.blind(example), settings.template)
    return Request(f"continue/{settings.template}", messages, prefix)


# --- blind, judge ---


def blind(example: Example, said: dict, settings: Settings) -> Request | None:
    """Ask the question without its picture."""
    if not example.images:
        return None
    messages = prompts.asked(pools.blind(example), settings.template)
    return Request(f"blind/{settings.template}", messages)


def solved_blind(example: Example, said: dict) -> bool | None:
    """Tell whether a question was answered right without its picture; None if it was not asked."""
    if "blind" not in said:
        return None
    line = said["blind"]
    trace = to_trace(line["text"], line["finish"], example.choices)
    return filters.wrong_answer(trace, example).passes


def judge(example: Example, said: dict, settings: Settings) -> Request | None:
    """Ask a judge that sees the picture about a trace that the rules let pass."""
    trace = trace_of(example, said, settings.mode)
    if trace is None or filters.refused(trace, example):
        return None
    question = prompts.question_of(example)
    text = prompts.fill(
        prompts.JUDGE, question=question, thinking=trace.thinking, answer=trace.answer
    )
    return Request("judge", prompts.about(example, text))


def verdicts(example: Example, said: dict, mode: str, by_model: bool) -> dict[str, str]:
    """Return {filter: what it found} of those that refuse an example's trace; {} keeps it.

    by_model: whether a judge model was asked about what the rules let pass.
    """
    refused = filters.refused(trace_of(example, said, mode), example)
    if refused or not by_model:
        return refused
    if "judge" not in said:
        return {"judge": "no verdict"}
    verdict = filters.judged(said["judge"]["text"])
    return {} if verdict.passes else {"judge": verdict.why}


# --- qa: Docmatix (arXiv:2408.12637, section 4.2) ---


def qa(example: Example, said: dict, settings: Settings) -> Request:
    """Ask for pairs about a page, from its text alone, in one of five ways."""
    way = crc32(example.id) % len(prompts.QA)
    form = prompts.QA[way] + prompts.QA_FORM
    text = prompts.fill(form, number=str(prompts.PAIRS), text=example.meta["text"])
    return Request(f"qa/{way}", prompts.words(text))


LISTED = r"^\W*(?:\d+[.)]\W*)?"  # "1. Q: ..." of a numbered list
ASKED, ANSWERED = (
    rf"{LISTED}{word}(?:\W*\d*\W*[:：]|\W*\d+\.)" for word in ("Q(?:uestion)?", "A(?:nswer)?")
)
PAIR = re.compile(
    rf"{ASKED}\s*(?P<question>.+?)\s*{ANSWERED}"
    # An answer ends before the next question, and at an empty line: "I hope this helps!"
    rf"\s*(?P<answer>.*?)\s*(?=\n[ \t]*\n|{ASKED}|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


def pairs_of(line: dict) -> list[tuple[str, str]]:
    """Read the (question, answer) pairs of a reply; the last of one that was cut may be half."""
    found = [
        (pair["question"].strip(" *"), pair["answer"].strip(" *\n"))
        for pair in PAIR.finditer(line["text"])
    ]
    return found[:-1] if line["finish"] == "length" else found


def checked_pairs(line: dict) -> tuple[list[tuple[str, str]], Counter]:
    """Return the pairs that pass, and how many each filter refused; `repeated` is one of these."""
    kept, counts, seen = [], Counter(), set()
    for question, answer in pairs_of(line):
        verdict = pair_verdict(question, answer, seen)
        seen.add(question.lower())
        if verdict is None:
            kept.append((question, answer))
        else:
            counts[verdict] += 1
    return kept, counts


def pair_verdict(question: str, answer: str, seen: set[str]) -> str | None:
    """Name the filter that refuses a pair; None if all pass."""
    if not question or not answer:
        return "empty"
    if question.lower() in seen:
        return "repeated"
    texts = Trace(f"<think> {question} </think><answer> {answer} </answer>")
    if not filters.reserved(texts).passes:
        return "reserved"
    verdicts: dict[str, Verdict] = {
        name: check(question, answer) for name, check in filters.PAIR_FILTERS.items()
    }
    return next((name for name, verdict in verdicts.items() if not verdict.passes), None)


STAGES = {
    "blind": Stage(blind, quotes=100),
    "kind": Stage(ask_kind, shows=True, quotes=200, replies=5),
    "describe": Stage(describe, shows=True, quotes=600),
    "reason": Stage(reason, quotes=1600, replies=500),
    "look": Stage(look, quotes=3000, replies=500),
    "hindsight": Stage(hindsight, quotes=400, replies=500),
    "clean": Stage(clean, quotes=3000, replies=500),
    "direct": Stage(direct, shows=True, quotes=100, replies=500),
    "caption": Stage(caption, shows=True, quotes=300),
    "continue": Stage(go_on, quotes=1200, replies=500),
    "judge": Stage(judge, by="judge", shows=True, quotes=2800, replies=80),
    "qa": Stage(qa, quotes=600, replies=250),
}
