"""Run: python -m pytest -q tests/test_clusters.py        (5 s on CPU; no network)

Intervals of means whose questions share pictures (grading/clusters.py), and where they are used.
"""

import math
import random

import pytest

from evaluating import figures, reporting
from grading import clusters, metrics


def binomial_quantile(n, p, q):
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= q:
            return k


def binomial_interval(n, gained):
    """The 95 % interval of a share: the sum of a resample of 0 and 1 is binomial(n, gained / n)."""
    ends = [binomial_quantile(n, gained / n, q) / n for q in (0.025, 0.975)]
    return pytest.approx(ends, abs=1.001 / n)  # a quantile on a step may go either way


# --- the bootstrap ---


@pytest.mark.parametrize("n, gained", [(20, 6), (50, 10), (200, 60)])
@pytest.mark.parametrize("size", [1, 4])
def test_the_bootstrap_is_binomial_over_pictures(n, gained, size):
    """Where all questions about a picture, `size` of them, are gained or none is."""
    values = [1.0] * gained * size + [0.0] * (n - gained) * size
    pictures = [place // size for place in range(n * size)]
    for seed in range(3):
        low, high = clusters.bootstrap(values, pictures, seed)
        assert [low, high] == binomial_interval(n, gained)
        lost = clusters.bootstrap([-value for value in values], pictures, seed)
        assert [-lost[1], -lost[0]] == binomial_interval(n, gained)


def test_the_bootstrap_of_a_difference_is_paired():
    rng = random.Random(0)
    a = [float(rng.random() < 0.5) for _ in range(400)]
    b = a[1:] + a[:1]
    differences = [x - y for x, y in zip(a, b)]
    low, high = clusters.bootstrap(differences, range(400))
    error = math.sqrt(sum(d * d for d in differences)) / len(a)  # their mean is 0
    assert low == pytest.approx(-1.96 * error, rel=0.1)
    assert high == pytest.approx(1.96 * error, rel=0.1)
    assert clusters.bootstrap(differences, range(400)) == (low, high)
    assert clusters.bootstrap([0.0] * 400, range(400)) == (0, 0)  # equal, question by question


def test_the_bootstrap_against_scipys():
    import numpy
    from scipy import stats

    rng = numpy.random.default_rng(0)
    sizes = rng.integers(1, 5, 80)
    pictures = [n for n, size in enumerate(sizes) for _ in range(size)]
    values = [float(rng.choice((-1, 0, 0, 1))) for _ in pictures]
    sums = [total for total, _ in clusters.by_cluster(values, pictures)]

    def ratio(total, size, axis):
        return total.sum(axis) / size.sum(axis)

    theirs = stats.bootstrap(
        (sums, sizes), ratio, paired=True, method="percentile", rng=0
    ).confidence_interval
    ours = clusters.bootstrap(values, pictures)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_of_one_picture_nothing_can_be_told():
    assert all(map(math.isnan, clusters.bootstrap([1.0, 0.0], ["a", "a"])))  # not 0.5 to 0.5
    assert clusters.known({"low": math.nan, "n": 2}) == {"low": None, "n": 2}
    with pytest.raises(ValueError, match="got 2 and 1"):
        clusters.bootstrap([1.0, 0.0], ["a"])


def test_a_row_without_a_picture_is_by_itself():
    rows = [{"picture": "p"}, {"picture": None}, {}, {"picture": "p"}]
    assert clusters.pictures_of(rows) == ["p", 1, 2, "p"]


def held(pictures, questions, by_picture, draws=200):
    """Count how often the interval holds the true difference, 0.2: all questions of a picture
    are gained, with that chance, or none is. by_picture: how the interval is computed.
    """
    rng = random.Random(0)
    times = 0
    for seed in range(draws):
        gained = [float(rng.random() < 0.2) for _ in range(pictures)]
        values = [value for value in gained for _ in range(questions)]
        names = [n // questions if by_picture else n for n in range(len(values))]
        low, high = clusters.bootstrap(values, names, seed)
        times += low <= 0.2 <= high
    return times / draws


def test_by_question_the_interval_is_too_narrow(monkeypatch):
    """Of 8 questions a picture the error is sqrt(8) times what it seems: 1.96 / sqrt(8) of it."""
    monkeypatch.setattr(clusters, "RESAMPLES", 1000)
    assert held(100, 8, by_picture=True) > 0.89  # 0.95, of 200 draws: sd 0.015
    inside = math.erf(1.96 / math.sqrt(8) / math.sqrt(2))  # of a normal error: 0.51
    assert held(100, 8, by_picture=False) == pytest.approx(inside, abs=0.11)  # sd 0.035


# --- where it is used ---


def rows_about(pictures, questions, gained):
    """Rows of predictions.jsonl: right as they lead; in another way wrong about `gained` pictures.

    So the difference is 1 there and 0 elsewhere.
    """
    rows = []
    for picture in range(pictures):
        part = {"accuracy": float(picture >= gained), "same": True, "read": "1", "tokens": 3}
        row = {"picture": f"p{picture}", "answer": "1", "choices": None, "accuracy": 1.0}
        rows += [row | {"ways": {"blind": part}}] * questions
    return rows


def test_the_intervals_of_other_ways_are_by_picture():
    found = figures.of_ways(rows_about(50, 4, 10))
    ends = [found["blind/difference_low"], found["blind/difference_high"]]
    assert found["blind/n"] == 200 and found["blind/difference"] == pytest.approx(0.2)
    assert ends == binomial_interval(50, 10)
    low, high = binomial_interval(200, 40).expected
    assert ends[1] - ends[0] > 1.7 * (high - low)  # twice as wide, and by question too narrow


def test_of_one_picture_a_way_has_no_interval(capsys):
    found = figures.of_ways(rows_about(1, 4, 1))
    assert found["blind/difference"] == 1
    assert found["blind/difference_low"] is found["blind/difference_high"] is None
    reporting.print_ways(found)
    assert "difference +1.000 (unknown: all about one picture), n 4" in capsys.readouterr().out


def test_the_interval_of_self_selects_gain_is_by_picture():
    gained, n = 10, 50
    selected = [float(place // 4 < gained) for place in range(4 * n)]
    pictures = [place // 4 for place in range(4 * n)]
    same = ["selected"] * len(selected), [True] * len(selected), [1] * len(selected)
    voted = [0.0] * len(selected)
    found = metrics.selection_figures(selected, voted, *same, pictures, 3)
    ends = [found["self_select_gain_low"], found["self_select_gain_high"]]
    assert found["self_select_gain"] == pytest.approx(0.2) and ends == binomial_interval(n, gained)
