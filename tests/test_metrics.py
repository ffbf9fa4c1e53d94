"""Tests of grading/metrics.py.    python -m pytest tests/test_metrics.py    (CPU, 3 s)"""

import itertools
from types import SimpleNamespace

import pytest

from grading import metrics
from rewards import accuracy


def completions_of(*answers):
    """Completions with these answers; None: one that cannot be read."""
    return [{None: "no tags"}.get(a, f"<think> x </think><answer> {a} </answer>") for a in answers]


# --- shares and their intervals ---


def test_wilson():
    assert metrics.wilson(0, 0) == (0, 1)
    assert metrics.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert metrics.wilson(0, 10)[0] == 0 and metrics.wilson(300, 300)[1] <= 1
    assert metrics.share("x", 5, 10) == {
        "x": 0.5,
        "n": 10,
        "x_low": metrics.wilson(5, 10)[0],
        "x_high": metrics.wilson(5, 10)[1],
    }


# --- many answers to one question ---


def test_pass_at_k_is_the_share_of_k_subsets_with_a_right_one():
    for n, right in itertools.product(range(1, 6), range(6)):
        if right <= n:
            answers = [1] * right + [0] * (n - right)
            for k in range(1, n + 1):
                drawn = [max(subset) for subset in itertools.combinations(answers, k)]
                assert metrics.pass_at_k(n, right, k) == pytest.approx(sum(drawn) / len(drawn))


@pytest.mark.parametrize(
    "answers, winner",
    [
        (["3", "4", "4"], "4"),
        (["3", "4"], "3"),  # ties: the first
        (["4", "3.0", "3"], "3.0"),
        ([None, None, "5"], "5"),
        ([None], None),
        ([], None),
    ],
)
def test_majority_counts_what_can_be_read(answers, winner):
    assert metrics.majority(completions_of(*answers)) == winner


SELECTIONS = [  # what was chosen, the candidates, their choices, what counts and how
    ("3", ["4", "4", "3"], None, ("3", "selected")),  # from the minority: voting cannot do that
    ("3.0", ["4", "4", "3"], None, ("3.0", "selected")),  # as the selection wrote it
    ("5", ["4", "4", "3"], None, ("4", "majority")),  # no candidate's answer
    (None, ["3", "4", "4"], None, ("4", "majority")),  # cannot be read
    (None, ["3", "4"], None, ("3", "majority")),  # ties: the first
    (None, [None, "4", None], None, ("4", "majority")),
    ("5", [None, "4"], None, ("4", "majority")),
    ("5", [None, None], None, (None, "none")),
    (None, [None], None, (None, "none")),
    (None, [], None, (None, "none")),
    ("3 or 4", ["3", "4", "4"], None, ("4", "majority")),  # both is no choice
    ("dog", ["A", "(B)", "A"], ["cat", "dog"], ("dog", "selected")),
    ("C", ["A", "(B)", "A"], ["cat", "dog"], ("A", "majority")),
    (r"\sqrt{12}", ["3", r"2\sqrt{3}", "3"], None, (r"\sqrt{12}", "selected")),  # as mathematics
]


@pytest.mark.parametrize("chosen, candidates, choices, expected", SELECTIONS)
def test_select_takes_a_candidates_answer_or_the_majority(chosen, candidates, choices, expected):
    assert (
        metrics.select(completions_of(chosen)[0], completions_of(*candidates), choices) == expected
    )


def test_select_reads_as_it_is_told():
    def last(text):
        return text.rpartition("Answer: ")[2] or None

    candidates = ["Answer: 4", "Answer: 4", "Answer: 3"]
    assert metrics.select("Answer: 3", candidates, read=last) == ("3", "selected")
    assert metrics.select("Answer: 3", candidates) == (None, "none")


# --- many answers to many questions ---


def record_of(gold, answers):
    """A row of predictions.jsonl, three tokens a sample, 40 read and 2 written a selection."""
    return {
        "choices": None,
        "samples": completions_of(*answers),
        "right": [float(a == gold) for a in answers],
        "prompt_tokens": 10,
        "tokens": 5,
        "sample_tokens": [3] * len(answers),
        "selection_tokens": {"3": [40, 2]},
    }


def point(records, n, selections=None):
    examples = [SimpleNamespace(answer="3", choices=None, meta={})] * len(records)
    read = metrics.extract_answer
    return metrics.sampled_scores(records, examples, n, read, accuracy, selections)


@pytest.mark.parametrize(
    "n, majority, any_right, one_right, tokens",
    [(1, 1, 0.25, 1, 13), (3, 0, 0.75, 1 / 3, 19), (4, 0, 1, 0.25, 22)],
)
def test_shares_among_samples_by_hand(n, majority, any_right, one_right, tokens):
    p = point([record_of("3", ["3", "4", "4", None])], n)
    shares = [p["majority@k"], p["pass@k"], p["mean_sample_accuracy"]]
    assert p["step"] == n and shares == [majority, any_right, one_right]
    assert (p["greedy_tokens"], p["majority_tokens"]) == (15, tokens)
    assert "self_select@k" not in p
    for name in ("majority@k", "pass@k", "mean_sample_accuracy"):
        assert (p[f"{name}_low"], p[f"{name}_high"]) == metrics.wilson(p[name], 1)


SELECTED = [  # of five questions with the gold 3: the samples' answers, and what was chosen
    (["4", "3", "4"], "3"),  # from the minority
    (["3", "3", "4"], None),  # unreadable, the majority right
    (["4", "4", "3"], "5"),  # no candidate's answer, the majority wrong
    (["4", "5", "5"], "4"),  # none right
    ([None, None, None], "3"),  # nothing readable
]


def test_self_select_by_hand():
    records = [record_of("3", answers) for answers, _ in SELECTED]
    p = point(records, 3, completions_of(*(chosen for _, chosen in SELECTED)))
    assert (p["self_select@k"], p["majority@k"]) == (2 / 5, 1 / 5)
    assert (p["self_select@k_low"], p["self_select@k_high"]) == metrics.wilson(2, 5)
    assert p["self_select_gain"] == pytest.approx(1 / 5)
    assert p["self_select_gain_low"] == 0
    assert p["self_select_gain_high"] == pytest.approx(3 / 5)  # binomial(5, 1/5) / 5
    assert p["self_select_unreadable"] == 1 / 5
    assert p["self_select_not_a_candidate"] == 2 / 5
    assert p["self_select_fell_back"] == 2 / 5
    assert p["self_select_by"] == {
        "some right": {"accuracy": 2 / 3, "n": 3},
        "none right": {"accuracy": 0, "n": 2},
        "right in the minority": {"accuracy": 1 / 2, "n": 2},
    }
    tokens = [p[f"{name}_tokens"] for name in ("greedy", "majority", "self_select")]
    assert tokens == [15, 19, 61]


def test_of_one_sample_nothing_is_selected():
    records = [record_of("3", answers) for answers, _ in SELECTED]
    p = point(records, 1, [record["samples"][0] for record in records])
    assert p["self_select@k"] == p["majority@k"] == 1 / 5
    assert p["self_select_tokens"] == p["majority_tokens"] == 13
    assert "self_select_gain" not in p


# --- reflection words ---


@pytest.mark.parametrize(
    "text, count",
    [
        ("<think>Wait, I should re-check.</think><answer>wait</answer>", 2),
        ("<think>Let me recheck: hmm, actually no.</think>", 3),
        ("<think>Waiter! Actuality. On second\nthought, double check it.</think>", 2),
        ("wait <answer>wait</answer>", 1),
        ("<think>wait, wait", 2),
        ("", 0),
    ],
)
def test_reflections(text, count):
    assert metrics.reflections(text) == count


@pytest.mark.parametrize("phrase", metrics.REFLECTION_WORDS)
def test_each_reflection_word_counts_once(phrase):
    assert metrics.reflections(f"<think>so {phrase}, 7</think>") == 1
