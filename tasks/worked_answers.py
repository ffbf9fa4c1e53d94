r"""The answer that a worked text comes to, and the worked text that an answer stands in.

"<think> one, two </think><answer> 2 </answer>"  -> "2"
"... so x = 3.\nAnswer: 3"                       -> "3"
"... so the sum is \boxed{3}."                   -> "3"
"... The answer is **3**."                       -> "3"
"... 48 + 24 = 72\n#### 72"                      -> "72"
"""

import re
from typing import NamedTuple

from grading.answers import choice_index, match_answer
from grading.reading import read, text_form
from grading.values import Text
from plumbing.errors import UserError
from plumbing.text import short

ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
SHORT_ANSWER = 100  # characters: a text without tags that is longer is no answer
HASHES = re.compile(r"^####[ \t]*([^\n]*\S)\s*\Z", re.MULTILINE)  # the last line of GSM8K's texts
ANSWER_MARK = re.compile(r"(?<![A-Za-z])(?:Answer|answer|ANSWER)\**\s*[:：]")
SAID = re.compile(r"\banswer(?:\**\s+(?:is|should be|must be)\b\**)\s*:?\s*", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!](?:\**)(?=\s|$)")
# What shows that an `answer` is a worked text, or is dressed as one.
WORKED = re.compile(
    r"</?think>|<answer>|\\boxed|^####.*\s*\Z|\banswer\**\s+(?:is|should be|must be)\b"
    r"|^\W*(?:final\s+)?answer\**\s*:",
    re.IGNORECASE | re.MULTILINE,
)
NOT_A_NUMBER = ("nan", "NaN", "NAN")  # as tables write an empty field


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
    answer = after_thinking(text)
    return "" if answer is None or len(answer) >= SHORT_ANSWER else bare(answer)


def marked_gold(text: str) -> str | None:
    """Find the answer that is marked as such; "" if it is empty or too long; None without marks.

    The last tagged one, else what follows "####" or the last "Answer:" (R3V, Geo170K), else what
    the last box holds, else what the last "the answer is" says.
    """
    tagged = ANSWER_TAG.findall(text)
    if tagged:
        return bare(tagged[-1])
    tail = after_thinking(text)
    if tail is None:
        return ""
    candidates = []
    hashes = HASHES.search(tail)
    if hashes:
        candidates.append(hashes[1])
    marks = list(ANSWER_MARK.finditer(tail))
    if marks:
        candidates.append(tail[marks[-1].end() :])
    boxed = last_box(tail)
    if boxed is not None:
        candidates.append(boxed)
    said = list(SAID.finditer(tail))
    if said:
        candidates.append(first_sentence(tail[said[-1].end() :]))
    answers = [without_loose_bold(candidate) for candidate in candidates]
    fitting = [answer for answer in answers if answer and len(answer) < SHORT_ANSWER]
    if fitting:
        return bare(fitting[0])
    return "" if candidates else None


def after_thinking(text: str) -> str | None:
    """Give what follows the thinking; None if the thinking never ends."""
    tail = text.rpartition("</think>")[2]
    return None if "<think>" in tail else tail.strip()


def last_box(text: str) -> str | None:
    r"""Give the inside of the last \boxed{...}, with its braces in balance; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    inside = text[start + len("\\boxed{") :]
    depth = 1
    for place, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return inside[:place]
    return ""


def first_sentence(text: str) -> str:
    """Cut a text at the end of its first sentence or line: "3.5 cm. So" -> "3.5 cm"."""
    line = text.strip().partition("\n")[0]
    end = SENTENCE_END.search(line)
    said = line[: end.start()] if end else line
    return "" if re.match(r"(?:not|unclear|unknown)\b", said, re.IGNORECASE) else said


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
    inside = last_box(undressed)
    if inside and undressed == f"\\boxed{{{inside}}}":
        return inside.strip()
    return answer


def split_gold(answer: str, where: str) -> Gold:
    """Part an `answer` into the gold and, where it is a worked text, that text.

    The gold is "" if the worked text does not tell it. UserError for NaN.
    """
    answer = answer.strip()
    if answer in NOT_A_NUMBER:
        raise UserError(
            f"{where}: the answer is {answer}, no number; write what is meant, or delete the record"
        )
    if not WORKED.search(answer):
        return Gold(bare(answer), None)
    gold = marked_gold(answer)
    if gold is None:  # thinking before a plain answer
        gold = gold_in(answer)
    rest = ANSWER_TAG.sub("", answer).strip()
    stands_alone = not rest or bare(answer) == gold
    return Gold(gold, None if stands_alone else answer)


def contradict(answer: str, other: str, choices: list[str] | None = None) -> bool:
    """Tell whether two golds of one record surely differ: two numbers, two letters, two words.

    A letter and a text, or a number and a text, may mean the same.
    """
    if answer == other or match_answer(other, answer, choices):
        return False
    if choices:
        places = choice_index(answer, choices), choice_index(other, choices)
        return None not in places and places[0] != places[1]
    if match_answer(answer, other):
        return False
    one, two = read(answer), read(other)
    if type(one) is not type(two):
        return False
    if isinstance(one, Text):
        forms = text_form(answer), text_form(other)
        return forms[0] not in forms[1] and forms[1] not in forms[0]
    return True


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
    tagged = f"<answer> {answer} </answer>"
    found = list(ANSWER_TAG.finditer(solution))
    if found:
        return solution[: found[-1].start()] + tagged + solution[found[-1].end() :]
    thinking, closed, _ = solution.rpartition("</think>")
    if not closed:
        thinking = f"<think> {solution.strip()} "
    return f"{thinking}</think>{tagged}"


def imitated(reply: str, answer: str) -> str | None:
    """Give the response to imitate, if a reply holds more than its answer.

    What is worked out before an untagged answer is put in tags, so that what is learned from it
    can be scored: "Solution:\\n1. ...\\nAnswer: 3" (R3V)
    -> "<think> Solution:\\n1. ... </think><answer> 3 </answer>".
    A long text after the thinking stays as it is: it is more than an answer.
    """
    if "<answer>" in reply:
        return reply if ANSWER_TAG.sub("", reply).strip() else None
    if not answer:
        return reply
    tail = after_thinking(reply) or ""
    marks = list(ANSWER_MARK.finditer(tail))
    if marks and bare(without_loose_bold(tail[marks[-1].end() :])) == answer:
        rest = reply.strip().removesuffix(tail[marks[-1].start() :])
        return with_answer(re.sub("</?think>", "", rest), answer) if rest.strip(" *\n") else None
    if bare(reply) == answer:
        return None
    if "</think>" in reply and len(tail) >= SHORT_ANSWER:
        return reply
    return with_answer(reply, answer)
