r"""The answer that a worked text comes to, and the worked text that an answer stands in.

"<think> one, two </think><answer> 2 </answer>"  -> "2"
"... so x = 3.\nAnswer: 3"                       -> "3"
"... so the sum is \boxed{3}."                   -> "3"
"... The answer is **3**."                       -> "3"
"... 48 + 24 = 72\n#### 72"                      -> "72"
"""

import re
from typing import Any, NamedTuple

from grading.answers import extract_answer, match_answer
from plumbing.errors import UserError
from plumbing.text import short
from tasks import answer_marks
from tasks.answer_marks import SHORT_ANSWER, bare, contradict
from tasks.thinking import ANSWER_TAG, THINK_TAG, after_thinking, in_our_tags

# What shows that an `answer` is a worked text, or is dressed as one.
WORKED = re.compile(
    r"</?think>|</?answer>|\\boxed|^####.*\s*\Z"
    r"|^\W*(?:final\s+)?answer\W*\n|^\W*(?:final\s+)?ans(?:wer)?\**\s*:",
    re.IGNORECASE | re.MULTILINE,
)
IS_BOLD = re.compile(r"[^*]+\b(?:is|are|be|:)\s*\*\*([^*]+)\*\*\.?")  # a short text
NOT_A_NUMBER = ("nan", "NaN", "NAN")  # as tables write an empty field
EXPLAINS = re.compile(
    r"\W*(?:explanation|reason|rationale|because|solution|解析|因为)", re.IGNORECASE
)


class Gold(NamedTuple):
    """An answer, and the worked text that it was found in, None if it stood alone."""

    answer: str
    solution: str | None


def gold_in(text: str) -> str:
    """Find the answer that a worked text comes to, "" if that cannot be told.

    A text without any mark of an answer is one if it is short, after its thinking: "3.5" -> "3.5".
    """
    found = marked_gold(text)
    if found is not None:
        return found
    answer = after_thinking(in_our_tags(text))
    if answer is None or len(answer) >= SHORT_ANSWER:
        return ""
    bold = IS_BOLD.fullmatch(answer)
    return bold[1].strip() if bold else bare(answer)


def marked_gold(text: str) -> str | None:
    """Find the answer that is marked as such; "" if it is empty or too long; None without marks.

    The last tagged one after the thinking, else what `answer_marks.find` finds there.
    """
    text = in_our_tags(text)
    inside = tagged(text)
    if inside is not None:
        return answer_marks.undressed(inside)
    tail = after_thinking(text)
    if tail is None or "<answer>" in tail or "</answer>" in tail:  # cut off
        return ""
    mark = answer_marks.find(tail)
    return mark.answer if mark else None


def tagged(text: str) -> str | None:
    """Give what the last <answer> after the thinking holds; None without one."""
    pair = last_pair(text)
    return text[pair[0] : pair[1]][len("<answer>") : -len("</answer>")].strip() if pair else None


def is_tagged(value: Any) -> bool:
    """Tell whether a value is a text with an answer in tags, which can be imitated."""
    return isinstance(value, str) and bool(tagged(in_our_tags(value)))


def last_pair(text: str) -> tuple[int, int] | None:
    """Find the place of that answer with its tags.

    Where nothing follows the thinking, the answer may close the thinking or stand before it.
    """
    pairs = [found.span() for found in ANSWER_TAG.finditer(text)]
    if not pairs:
        return None
    start, end = pairs[-1]
    if is_scored(text, start, end) or not text[end:].replace("</think>", "").strip():
        return start, end
    first = [pair for pair in pairs if pair[1] <= text.find("<think>")]
    return first[-1] if first and after_thinking(text) == "" else None


def is_scored(text: str, start: int, end: int) -> bool:
    """Tell whether an answer with its tags stands there after all thinking."""
    return after_thinking(text[:start]) is not None and not THINK_TAG.search(text, end)


def split_gold(answer: str, where: str) -> Gold:
    """Part an `answer` into the gold and, where it is a worked text, that text.

    The gold is "" if the worked text does not tell it. UserError for NaN.
    """
    answer = in_our_tags(answer.strip())
    if answer in NOT_A_NUMBER:
        raise UserError(
            f"{where}: the answer is {answer}, no number; write what is meant, or delete the record"
        )
    marks = (WORKED, answer_marks.ANSWER_LINE, answer_marks.SAID)
    if not any(mark.search(answer) for mark in marks):
        return Gold(bare(answer), None)
    return Gold(gold_in(answer), answer)


def must_agree(answer: str, solution: str | None, choices: list[str] | None, where: str) -> None:
    """Refuse a worked solution that comes to another answer than the record's."""
    found = marked_gold(solution) if solution else None
    if found and answer and contradict(answer, found, choices):
        raise UserError(
            f"{where}: the answer is {short(answer, 40)!r}, but the solution comes to "
            f"{short(found, 40)!r}; correct one of them, or delete the record"
        )


def with_answer(solution: str, answer: str) -> str:
    """Put another answer into a worked solution: in its last tags, or after its thinking.

    "<think> hm </think><answer>3</answer>", "4" -> "<think> hm </think><answer> 4 </answer>"
    "I see it.", "4" -> "<think> I see it. </think><answer> 4 </answer>"
    """
    tags = f"<answer> {answer} </answer>"
    pair = last_pair(solution)
    if pair:
        before, after = solution[: pair[0]], solution[pair[1] :]
        if is_scored(solution, *pair):
            return before + tags + after
        solution = before + after
    thinking, closed, _ = solution.rpartition("</think>")
    if not closed:
        thinking = f"<think> {THINK_TAG.sub('', solution).strip()} "
    return f"{thinking}</think>{tags}"


def imitated(reply: str, answer: str, choices: list[str] | None = None) -> str | None:
    """Give the response to imitate, if a reply holds more than its answer.

    What is worked out before the answer is put in tags, so that what is learned from it can be
    scored: "Solution:\\n1. ...\\nAnswer: 3" (R3V)
    -> "<think> Solution:\\n1. ... </think><answer> 3 </answer>".
    A long text after the thinking that marks no answer stays as it is.
    """
    reply = in_our_tags(reply)
    pair = last_pair(reply)
    if pair and not (reply[: pair[0]] + reply[pair[1] :]).strip():
        return None
    if not answer or match_answer(extract_answer(reply), answer, choices):
        return reply
    tail = after_thinking(reply)
    if pair or tail is None:
        return with_answer(reply, answer)
    thinking, is_thought, _ = reply.rpartition("</think>")
    mark = answer_marks.find(tail)
    is_long = len(tail) >= SHORT_ANSWER
    if is_thought and is_long and not (mark and mark.answer):
        return reply
    says_no_more = (is_thought and not is_long) or match_answer(bare(tail), answer, choices)
    worked = working(tail, mark, says_no_more)
    if re.search(r"\w", worked):
        worked = f"{THINK_TAG.sub('', thinking)}\n{worked}".strip()
        return f"<think> {worked} </think><answer> {answer} </answer>"
    return f"{thinking}</think><answer> {answer} </answer>" if is_thought else None


def working(tail: str, mark: answer_marks.Mark | None, says_no_more: bool) -> str:
    """Give what leads to a marked answer, or explains it; "" without such words."""
    if mark and mark.answer and mark.kind == "line":
        before, after = tail[: mark.start], tail[mark.end :]
        above, _, line = before.rpartition("\n")
        if answer_marks.LEAD.fullmatch(line):  # "**Final " of "**Final Answer:** 3"
            before = above
        if re.search(r"\w", before):
            return before
        return after if EXPLAINS.match(after) or len(after) >= SHORT_ANSWER else ""
    return "" if says_no_more or (mark and mark.stands_alone(tail)) else tail
