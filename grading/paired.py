"""Compare two runs on the same questions: a paired difference, and how far to trust it.

Questions about one picture stand or fall together, so everything is clustered by picture: the
standard errors, and what the bootstrap draws. McNemar's test asks about the questions alone.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from grading.clusters import bootstrap, by_cluster
from grading.metrics import mean

FEW = 50  # clusters: of fewer the bootstrap's interval is too narrow (docs/traps.md)


class Comparison(NamedTuple):
    """What two runs say of the same n questions, B less A.

    low, high: 95 % interval of the difference. se, se_a, se_b: standard errors, by picture.
    better, worse: questions on which B scores more, and less. p: McNemar's, exact, two-sided.
    """

    n: int
    clusters: int
    a: float
    b: float
    se_a: float
    se_b: float
    difference: float
    low: float
    high: float
    se: float
    better: int
    worse: int
    p: float


def compare(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], seed: int = 0
) -> Comparison:
    """Compare two runs' scores of the same questions; clusters: which picture each is about.

    ValueError for sequences of different lengths, or without a question.
    """
    if not len(a) == len(b) == len(clusters) > 0:
        raise ValueError(
            f"a paired comparison needs two scores and a picture of each question, got {len(a)}, "
            f"{len(b)} and {len(clusters)}"
        )
    differences = [after - before for before, after in zip(a, b)]
    better = sum(d > 0 for d in differences)
    worse = sum(d < 0 for d in differences)
    low, high = bootstrap(differences, clusters, seed)
    return Comparison(
        n=len(a),
        clusters=len(set(clusters)),
        a=mean(a),
        b=mean(b),
        se_a=clustered_error(a, clusters),
        se_b=clustered_error(b, clusters),
        difference=mean(differences),
        low=low,
        high=high,
        se=clustered_error(differences, clusters),
        better=better,
        worse=worse,
        p=mcnemar(better, worse),
    )


def mcnemar(better: int, worse: int) -> float:
    """Test, exact and two-sided, whether two runs are right equally often (McNemar 1947).

    better, worse: questions that only the one, and only the other answers right. Where the two are
    alike, each of these falls to either side like a coin; questions on which they agree say
    nothing. Of scores between 0 and 1 it is the sign test.
    """
    from scipy.stats import binomtest

    if better + worse == 0:
        return 1.0
    return float(binomtest(better, better + worse).pvalue)


def clustered_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Compute the standard error of a mean whose values come in clusters (arXiv:2411.00640).

    With one value a cluster it is the usual one, s / sqrt(n). NaN of a single cluster: nothing
    tells how much another picture would change.
    """
    middle = mean(values)
    sums = by_cluster([value - middle for value in values], clusters)
    G = len(sums)
    if G < 2:
        return math.nan
    squares = sum(total * total for total, _ in sums)
    return math.sqrt(squares * G / (G - 1)) / len(values)
