"""Tests of answer_pairs.jsonl.    python -m pytest tests/test_answer_pairs.py    (CPU, under 1 s)

The file lists answers and golds with the verdict of a fair judge, one JSON object a line:
prediction, gold, same (is the prediction right if the gold is the reference answer?), kind,
source (the public report that the pair comes from or varies, or "neighbour of KIND"),
and choices where the question had some.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

LINES = (Path(__file__).parent / "answer_pairs.jsonl").read_text(encoding="utf-8").splitlines()
PAIRS = [json.loads(line) for line in LINES]
KEYS = ["prediction", "gold", "same", "kind", "source"]
KINDS = sorted({pair["kind"] for pair in PAIRS})


def test_every_line_is_a_whole_pair():
    for number, pair in enumerate(PAIRS, 1):
        assert list(pair) in (KEYS, [*KEYS, "choices"]), f"line {number}"
        assert isinstance(pair["same"], bool), f"line {number}"
        assert all(isinstance(pair[key], str) for key in KEYS if key != "same"), f"line {number}"
        assert pair["gold"].strip() and pair["source"].strip(), f"line {number}"


def test_enough_pairs_of_both_verdicts():
    verdicts = Counter(pair["same"] for pair in PAIRS)
    assert verdicts.total() >= 340
    assert abs(verdicts[True] - verdicts[False]) <= 0.1 * verdicts.total()
    assert sum("choices" in pair for pair in PAIRS) >= 20


def test_no_question_is_asked_twice():
    """A pair with two verdicts, or counted twice, would tilt the comparison of graders."""
    asked = Counter((p["prediction"], p["gold"], str(p.get("choices"))) for p in PAIRS)
    assert [question for question, count in asked.items() if count > 1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_both_ways(kind):
    """A grader that always pays, or never does, must fail in every kind."""
    verdicts = Counter(pair["same"] for pair in PAIRS if pair["kind"] == kind)
    assert verdicts.total() >= 6
    assert min(verdicts[True], verdicts[False]) >= 2


def test_choices_come_with_and_without_letters():
    lists = [pair["choices"] for pair in PAIRS if "choices" in pair]
    lettered = [choices[0].lstrip("(").startswith("A") for choices in lists]
    assert all(len(choices) >= 2 for choices in lists)
    assert any(lettered) and not all(lettered)
