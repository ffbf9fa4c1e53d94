"""What is counted over many answers: intervals, majority, pass@k, self-select."""

import math
import re
from collections import Counter

from grading.answers import extract_answer, match_answer, normalize_answer


def wilson(k, n, z=1.96):
    """95 % interval of a share: k of n (Wilson 1927).  Returns (low, high) in [0, 1]; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, square = k / n, z * z
    middle, half = p + square / (2 * n), z * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, (middle - half) / (1 + square / n)), min(
        1.0, (middle + half) / (1 + square / n)
    )


REFLECTION_WORDS = (
    "wait", "hmm", "hold on", "recheck", "re-check", "double-check", "let me check", "let me verify", "let me recount", "let me count again", "let me look again",
    "check again", "count again", "look again", "think again", "rethink", "re-think", "reconsider", "re-examine", "re-evaluate", "recount", "actually",
    "on second thought", "alternatively", "i made a mistake", "that's not right", "that is not right",
)  # fmt: skip
# The longest first; a space is any whitespace, a hyphen may be a space or left out.
_PHRASES = (
    re.escape(words).replace(r"\ ", r"\s+").replace(r"\-", r"[\s-]?")
    for words in sorted(REFLECTION_WORDS, key=len, reverse=True)
)
REFLECTION = re.compile(rf"(?<!\w)(?:{'|'.join(_PHRASES)})(?!\w)", re.IGNORECASE)


def reflections(completion):
    """How many reflection words or phrases the thinking has ("wait", "re-check", "on second thought"), at word boundaries, overlapping ones once.

    The count that "aha moment" plots show beside accuracy.  The thinking is what stands before the last `</think>`, or, without one, before the first `<answer>`.
    """
    return len(
        REFLECTION.findall(
            completion.rpartition("</think>")[0] or completion.partition("<answer>")[0]
        )
    )


# ---------------------------------------------------------------------------------------------------------------------
# many answers to one question


def majority(completions, choices=None, read=extract_answer):
    """The commonest answer of some completions, as one of them wrote it, or None if none can be read. "3", "3.0" and " 3 " vote together, and
    with `choices` so do "B", "(b)" and the text of B; ties go to the answer that came first."""
    answers = [answer for answer in map(read, completions) if answer is not None]
    if not answers:
        return None
    forms = [normalize_answer(answer, choices) for answer in answers]
    winner = Counter(forms).most_common(1)[0][
        0
    ]  # keeps the order of arrival, and most_common is stable
    return answers[forms.index(winner)]


def pass_at_k(n, right, k):
    """1 - C(n - right, k) / C(n, k): unbiased estimate of the chance that one of k samples is right, from `right` of n (Chen et al. 2021, eq. 1)."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def select(selection, candidates, choices=None, read=extract_answer):
    """What self-select answers (R3V, arXiv:2411.00855): (answer or None, how).

    selection: the completion that had the candidates, a list of completions, in its prompt.  how: "selected", its answer can be read and says the same as
    that of a candidate; else "majority", that of the candidates (ties: the first); "none", nothing can be read, and the answer is None.
    R3V has no such fallback: it scores whatever the selection says.
    """
    chosen = read(selection)
    answers = [answer for answer in map(read, candidates) if answer is not None]
    form = None if chosen is None else normalize_answer(chosen, choices)
    if chosen is not None and (
        any(normalize_answer(answer, choices) == form for answer in answers)
        or any(match_answer(chosen, answer, choices) for answer in answers)
    ):
        return chosen, "selected"
    return majority(candidates, choices, read), "majority" if answers else "none"


def bootstrap_difference(a, b, seed=0, resamples=10_000):
    """95 % interval of mean(a) - mean(b), paired: two scores of the same n questions, which are drawn anew with replacement (percentile bootstrap,
    Efron 1979).  Returns (low, high); (0, 0) for n = 0.  ValueError for lists of different lengths.

    Only how often each difference is drawn matters, and these numbers are multinomial: n questions cost no n draws.
    """
    import numpy

    if len(a) != len(b):
        raise ValueError(
            f"a paired difference needs two scores of each question, got {len(a)} and {len(b)}"
        )
    if not a:
        return 0.0, 0.0
    values, times = numpy.unique(
        numpy.asarray(a, dtype=float) - numpy.asarray(b, dtype=float), return_counts=True
    )
    drawn = numpy.random.default_rng(seed).multinomial(
        len(a), times / len(a), size=resamples
    )  # (resamples, values)
    low, high = numpy.quantile(drawn @ values / len(a), [0.025, 0.975])
    return float(low), float(high)
