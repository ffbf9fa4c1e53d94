"""Means of questions that share pictures: one picture's questions stand or fall together."""

import math
from collections.abc import Hashable, Sequence

RESAMPLES = 10_000


def pictures_of(rows: Sequence[dict]) -> list[Hashable]:
    """Say which picture each row of predictions.jsonl is about; one without is by itself."""
    return [row.get("picture") or number for number, row in enumerate(rows)]


def bootstrap(
    values: Sequence[float], clusters: Sequence[Hashable], seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a mean (percentile bootstrap, Efron 1979).

    clusters: of the values, which are drawn anew as a whole, with replacement.
    NaN of a single cluster: nothing tells how much another one would change.
    ValueError for sequences of different lengths.
    """
    import numpy

    # Only how often each (sum, size) is drawn matters, and these numbers are multinomial.
    sums = by_cluster(values, clusters)
    if len(sums) < 2:
        return math.nan, math.nan
    kinds, times = numpy.unique(sums, axis=0, return_counts=True)
    rng = numpy.random.default_rng(seed)
    share = times / times.sum()
    means = []
    for _ in range(RESAMPLES // 100):  # in parts: a row has as many numbers as there are kinds
        drawn = rng.multinomial(times.sum(), share, size=100)  # (100, kinds)
        means.append(drawn @ kinds[:, 0] / (drawn @ kinds[:, 1]))
    low, high = numpy.quantile(numpy.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> list[tuple[float, int]]:
    """Add up the values of each cluster: [(their sum, how many)]."""
    if len(values) != len(clusters):
        raise ValueError(f"each value needs a cluster, got {len(values)} and {len(clusters)}")
    sums = {}
    for value, cluster in zip(values, clusters):
        total, size = sums.get(cluster, (0.0, 0))
        sums[cluster] = (total + value, size + 1)
    return list(sums.values())


def known(figures: dict) -> dict:
    """Write NaN as None: JSON has none."""
    return {name: None if value != value else value for name, value in figures.items()}
