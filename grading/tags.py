"""Read an answer where our own rule does not apply: on a line, or by other projects' tags.

Our own rule is extract_answer (grading/answers.py). These are linear where regexes backtrack.
"""

import re

from grading.answers import MAX_TAIL, extract_answer

ANSWER_LINE = re.compile(r"(?<![^\W_])answer\**\s?(?:is\s?)?[:：]", re.IGNORECASE)
END_OF_TURN = re.compile(r"<\|im_end\|>|<\|endoftext\|>|</s>")


def answer_line(completion: str) -> str | None:
    """Read the tagged answer, or in a text without answer tags its last "Answer:" line.

    "Solution: ...\\nAnswer: B" -> "B"; the answer may be the next line that is not empty.
    "The answer is: 14" counts too. Marks of emphasis and of the end of a turn are dropped.
    """
    if "<answer>" in completion or "</answer>" in completion:
        return extract_answer(completion)
    tail = END_OF_TURN.sub("\n", completion.rpartition("</think>")[2][-MAX_TAIL:])
    if "<think>" in tail:
        return None
    ends = [found.end() for found in ANSWER_LINE.finditer(tail)]
    if not ends:
        return None
    for line in tail[ends[-1] :].split("\n"):
        if line.strip(" *\t\r"):
            return line.strip(" *\t\r")
    return None


def first_answer(text: str, dotall: bool = True) -> str | None:
    """Find the first body of re.search("<answer>(.*?)</answer>"), not stripped.

    dotall: whether "." matches a newline there; if not, the pair must lie on one line.
    """
    start, end = text.find("<answer>"), -1
    while start >= 0:
        if end < start:  # searched for once per closing tag, so this is linear
            end = text.find("</answer>", start)
        if end < 0:
            return None
        newline = -1 if dotall else text.find("\n", start, end)
        if newline < 0:
            return text[start + 8 : end]
        start = text.find("<answer>", newline)  # no tag before this newline closes on its line
    return None


def last_answer(text: str) -> str | None:
    """Find the last body of re.findall("<answer>(.*?)</answer>", text, re.DOTALL)."""
    body, start = None, text.find("<answer>")
    while start >= 0:
        end = text.find("</answer>", start)
        if end < 0:
            break
        body, start = text[start + 8 : end], text.find("<answer>", end)
    return body
