"""Count over many answers: intervals, majority, pass@k, self-select, reflection words."""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from grading.answers import extract_answer, match_answer, normalize_answer
from grading.clusters import bootstrap, known, pictures_of

Read = Callable[[str], str | None]  # completion -> its answer, or None


# --- shares and their intervals ---


def mean(values: Sequence[float]) -> float:
    """Average the values; ZeroDivisionError without any."""
    return sum(values) / len(values)


def wilson(k: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share, k of n (Wilson 1927).

    (low, high) in [0, 1]; (0, 1) for n = 0.
    """
    if n == 0:
        return 0.0, 1.0
    p, square = k / n, z * z
    middle = p + square / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    low, high = (middle - half) / (1 + square / n), (middle + half) / (1 + square / n)
    return max(0.0, low), min(1.0, high)


def share(name: str, right: float, n: int) -> dict[str, float]:
    """Return {name: right / n, "n": n, name_low, name_high}, the last two Wilson's."""
    low, high = wilson(right, n)
    return {name: right / max(1, n), "n": n, f"{name}_low": low, f"{name}_high": high}


# --- many answers to one question ---


def majority(
    completions: Sequence[str], choices: list[str] | None = None, read: Read = extract_answer
) -> str | None:
    """Return the commonest answer, as a completion wrote it; None if none can be read.

    "3", "3.0" and " 3 " vote together, and with `choices` so do "B", "(b)" and the text of B.
    Ties go to the answer that came first.
    """
    answers = [answer for answer in map(read, completions) if answer is not None]
    if not answers:
        return None
    forms = [normalize_answer(answer, choices) for answer in answers]
    # Counter keeps the order of arrival, and most_common is stable.
    winner = Counter(forms).most_common(1)[0][0]
    return answers[forms.index(winner)]


def pass_at_k(n: int, right: int, k: int) -> float:
    """Estimate, unbiased, the chance that one of k samples is right (arXiv:2107.03374, eq. 1).

    right: how many of the n samples are.
    """
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def select(
    selection: str,
    candidates: Sequence[str],
    choices: list[str] | None = None,
    read: Read = extract_answer,
) -> tuple[str | None, str]:
    """Return what self-select answers, and how it got there (R3V, arXiv:2411.00855).

    selection: the completion that had the candidates, a list of completions, in its prompt.
    "selected": its answer is that of a candidate. "majority": the candidates' instead.
    "none": no candidate can be read either, and the answer is None.
    R3V has no such fallback: it scores whatever the selection says.
    """
    chosen = read(selection)
    answers = [answer for answer in map(read, candidates) if answer is not None]
    if chosen is not None and _is_among(chosen, answers, choices):
        return chosen, "selected"
    return majority(candidates, choices, read), "majority" if answers else "none"


def _is_among(chosen: str, answers: list[str], choices: list[str] | None) -> bool:
    """Tell whether an answer is one of others, in its form or as mathematics."""
    form = normalize_answer(chosen, choices)
    if any(normalize_answer(answer, choices) == form for answer in answers):
        return True
    return any(match_answer(chosen, answer, choices) for answer in answers)


# --- many answers to many questions ---


def answer_scores(
    answers: Sequence[str | None], examples: Sequence, right: Callable
) -> list[float]:
    """Score bare answers, as a majority or a selection has them; None is wrong.

    right(completion, example): 0 or 1.
    """
    return [
        float(answer is not None and right(f"<answer>{answer}</answer>", example))
        for answer, example in zip(answers, examples)
    ]


def sample_scores(
    samples: Sequence[Sequence[str]],
    marks: Sequence[Sequence[float]],
    choices: Sequence,
    examples: Sequence,
    n: int,
    read: Read,
    right: Callable,
) -> dict[str, list[float]]:
    """Score the first n samples of each question, in three ways: a list of each.

    samples, marks: each question's completions, and which of them are right.
    choices: each question's option texts, or None. read, right: as in `answer_scores`.
    pass@k is estimated from all samples.
    """
    votes = [majority(texts[:n], options, read) for texts, options in zip(samples, choices)]
    return {
        "mean_sample_accuracy": [sum(row[:n]) / n for row in marks],
        "majority@k": answer_scores(votes, examples, right),
        "pass@k": [pass_at_k(len(row), int(sum(row)), n) for row in marks],
    }


def sampled_scores(
    records: Sequence[dict],
    examples: Sequence,
    n: int,
    read: Read,
    right: Callable,
    selections: Sequence[str] | None = None,
    seed: int = 0,
) -> dict:
    """Count one point of the scaling curves, from the first n samples of every question.

    records: rows of predictions.jsonl. examples: what they are judged by, by right(text, example).
    selections: what self-select answered about these samples; of one sample, that one.
    Returns the means of mean_sample_accuracy, majority@k, pass@k (from all samples), self_select@k,
    each with _low and _high (95 %, Wilson), tokens a question, and what `selection_figures` has.
    """
    marks = [record["right"] for record in records]
    samples = [record["samples"] for record in records]
    choices = [record["choices"] for record in records]
    shares = sample_scores(samples, marks, choices, examples, n, read, right)
    spent = [r["prompt_tokens"] + sum(r["sample_tokens"][:n]) for r in records]
    more = {
        "greedy_tokens": mean([r["prompt_tokens"] + r["tokens"] for r in records]),
        "majority_tokens": mean(spent),
    }
    if selections is not None:
        shown = [texts[:n] for texts in samples]
        picks = [select(*row, read) for row in zip(selections, shown, choices)]
        shares["self_select@k"] = answer_scores([answer for answer, _ in picks], examples, right)
        asked = [sum(r["selection_tokens"].get(str(n), [])) for r in records]
        more["self_select_tokens"] = mean([a + b for a, b in zip(spent, asked)])
        if n > 1:  # one sample is no choice, and nothing was asked
            readable = [read(text) is not None for text in selections]
            how = [way for _, way in picks]
            pair = shares["self_select@k"], shares["majority@k"]
            good = [sum(row[:n]) for row in marks]
            pictures = pictures_of(records)
            more |= selection_figures(*pair, how, readable, good, pictures, n, seed)
    point = {"step": n}
    for name, values in shares.items():
        low, high = wilson(sum(values), len(values))
        point |= {name: mean(values), f"{name}_low": low, f"{name}_high": high}
    return point | more


def selection_figures(
    selected: list[float],
    voted: list[float],
    how: list[str],
    readable: list[bool],
    good: list[float],
    pictures: list[Hashable],
    n: int,
    seed: int = 0,
) -> dict:
    """Compare self-select with the majority, and say where it failed.

    selected, voted: their scores. how: as `select` says. good: right ones of the n candidates.
    self_select_gain, _low, _high: the difference, and its 95 % interval (paired bootstrap, by
    picture; None of a single one).
    self_select_unreadable, _not_a_candidate, _fell_back: shares of the selections.
    self_select_by: {what stood in the prompt: {accuracy, n}}.
    """
    gains = [chosen - common for chosen, common in zip(selected, voted)]
    low, high = bootstrap(gains, pictures, seed)
    missed = [way != "selected" and could for way, could in zip(how, readable)]
    groups = {
        "some right": [count > 0 for count in good],
        "none right": [count == 0 for count in good],
        "right in the minority": [0 < 2 * count < n for count in good],
    }
    by = {}
    for name, members in groups.items():
        scores = [score for score, member in zip(selected, members) if member]
        if scores:
            by[name] = {"accuracy": mean(scores), "n": len(scores)}
    gain = {"gain": mean(gains), "gain_low": low, "gain_high": high}
    return known({f"self_select_{name}": value for name, value in gain.items()}) | {
        "self_select_unreadable": mean([not could for could in readable]),
        "self_select_not_a_candidate": mean(missed),
        "self_select_fell_back": mean([way == "majority" for way in how]),
        "self_select_by": by,
    }


# --- reflection words ---

REFLECTION_WORDS = tuple(
    """\
wait, hmm, hold on, recheck, re-check, double-check, let me check, let me verify, let me recount, \
let me count again, let me look again, check again, count again, look again, think again, rethink, \
re-think, reconsider, re-examine, re-evaluate, recount, actually, on second thought, \
alternatively, i made a mistake, that's not right, that is not right""".split(", ")
)
# The longest first; a space is any whitespace, a hyphen may be a space or left out.
_PHRASES = (
    re.escape(words).replace(r"\ ", r"\s+").replace(r"\-", r"[\s-]?")
    for words in sorted(REFLECTION_WORDS, key=len, reverse=True)
)
REFLECTION = re.compile(rf"(?<!\w)(?:{'|'.join(_PHRASES)})(?!\w)", re.IGNORECASE)


def reflections(completion: str) -> int:
    """Count reflection words in the thinking, as "aha moment" plots do; overlapping ones once.

    The thinking is what stands before the last `</think>`, or else before the first `<answer>`.
    """
    thinking = completion.rpartition("</think>")[0] or completion.partition("<answer>")[0]
    return len(REFLECTION.findall(thinking))
