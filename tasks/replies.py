"""Read what a server of the OpenAI protocol answers, from which anything may be missing."""

import email.utils
import re
import time
from typing import NamedTuple

from plumbing.text import HALF, short
from tasks.asks import Failure, Reply

MOST = 10**8  # tokens; the longest contexts have some 10 million


class Arrived(NamedTuple):
    """An answer, or that there will be none; and its tokens, as the server counts them.

    answered: whether the server was reached.
    """

    result: Reply | Failure
    usage: tuple[int, int] | None
    answered: bool = True


class Again(NamedTuple):
    """Failed for now. after: seconds that the server asks to wait. for_all: not this ask's fault.

    billed: the server may have worked on it. answered: it was reached.
    """

    reason: str
    after: float | None = None
    for_all: bool = False
    billed: bool = True
    answered: bool = True


class Without(NamedTuple):
    """The model does not take this parameter."""

    parameter: str


def read_completion(completion: object, prefix: str, size: int) -> Arrived | Again:
    """Read a chat completion, from which anything may be missing. size: bytes of the ask."""
    try:
        choice, said = completion.choices[0], completion.choices[0].message
        texts = [said.content or "", reasoning_of(said)]
        if not all(isinstance(text, str) for text in texts):
            return Again("its answer is no text")
        text, thought = [HALF.sub("\ufffd", text) for text in texts]
        refusal, finish = getattr(said, "refusal", None), choice.finish_reason
    except (AttributeError, TypeError, IndexError, KeyError):
        error = getattr(completion, "error", None)  # OpenRouter's, with status 200
        return Again(f"no chat completion: {short(error or completion, 100)}")
    usage = usage_of(completion)
    if finish == "content_filter" or refusal:
        return Arrived(Failure(short(f"refused ({refusal or 'content filter'})")), usage)
    text = text.removeprefix(prefix) if prefix else text
    if not text.strip():
        why = "it thought, and said nothing" if thought else "it said nothing"
        if thought and finish == "length":
            why = "it was cut while thinking"
        return Arrived(Failure(f"empty answer: {why}, finish_reason {finish}"), usage)
    if thought:
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text.strip()}"
    counted = usage or (size, len(text.encode()))
    finish = "length" if finish == "length" else "stop"
    return Arrived(Reply(text, *counted, finish), usage)


def reasoning_of(message: object) -> str:
    """Read what a reasoning model thought, where the server gives it apart.

    `reasoning_content` of DeepSeek, llama.cpp and SGLang, `reasoning` of vLLM and OpenRouter.
    """
    apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return apart or ""


def usage_of(completion: object) -> tuple[int, int] | None:
    """Read (prompt tokens, completion tokens); None if the server does not count them.

    No answer has MOST tokens: such a count would stand in the stage's file, and use up any budget.
    """
    usage = getattr(completion, "usage", None)
    counts = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return counts if all(type(n) is int and 0 <= n < MOST for n in counts) else None


def retry_after(headers: object) -> float | None:
    """Read how many seconds a server asks to wait: a number, or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name) or ""
        if re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
            return float(value) * unit
    parsed = email.utils.parsedate_tz(headers.get("retry-after") or "")
    if parsed is None:
        return None
    return max(0.0, email.utils.mktime_tz(parsed) - time.time())
