"""Run: python -m pytest -q tests/test_compare_graders.py    (3 s on CPU)

The comparison of graders in recipes/compare_graders.py.
"""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from recipes import compare_graders

FIVE = [  # prediction, gold, same
    ("7", "7", True),
    ("0.5", r"\frac{1}{2}", True),
    ("Yes", "yes", True),
    ("5 kg", "5 g", False),
    ("cat", "dog", False),
]


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = [{"prediction": a, "gold": b, "same": same} for a, b, same in FIVE]
    path.write_text("\n".join(json.dumps(pair) for pair in pairs) + "\n", encoding="utf-8")
    return path


def table(path: Path, *graders: str) -> dict[str, list[str]]:
    """Run the recipe: the cells after the grader's name, by that name."""
    output = path.with_suffix(".md")
    argv = ["--pairs", str(path), "--graders", *graders, "--output", str(output)]
    compare_graders.main(compare_graders.parse_args(argv))
    lines = [line.split("|")[1:-1] for line in output.read_text(encoding="utf-8").splitlines()]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines[2:]}


def test_five_pairs(pairs_file, capsys):
    """R1-V reads the number of "5 kg" alone, and compares words with their case."""
    rows = table(pairs_file, "R1-V", "open-r1", "string")
    assert rows["string"][:4] == ["", "0 of 2", "2 of 3", "0"]
    assert rows["R1-V"][:4] == ["0.9.0", "1 of 2", "1 of 3", "0"]
    assert rows["open-r1"][2] == "0 of 3"
    assert all(float(cell.replace(",", "")) > 0 for cell in rows["R1-V"][4:])
    assert pairs_file.with_suffix(".md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_ours_gets_the_choices(monkeypatch, tmp_path):
    def match_answer(prediction, gold, choices=None):
        return choices == ["A. cat", "B. dog"]

    answers = SimpleNamespace(match_answer=match_answer)
    monkeypatch.setitem(sys.modules, "grading", SimpleNamespace(answers=answers))
    pair = {"prediction": "dog", "gold": "B", "same": True, "choices": ["A. cat", "B. dog"]}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair), encoding="utf-8")
    assert table(path, "ours")["ours"][1:4] == ["0 of 0", "0 of 1", "0"]


def test_what_raises_or_runs_late_is_counted_and_unpaid():
    def grader(prediction, gold, choices=None):
        if prediction == "raises":
            raise TypeError
        if prediction == "late":
            logging.getLogger("math_verify.grader").warning("Timeout during comparison")
            return False
        return True

    pairs = [{"prediction": text, "gold": "7"} for text in ("raises", "late", "7", "raises")]
    verdicts = [verdict[:2] for verdict in compare_graders.measure(grader, pairs)]
    assert verdicts == [(False, True), (False, True), (True, False), (False, True)]
    assert logging.getLogger("math_verify").handlers == []


def test_mathruler_is_optional(pairs_file, monkeypatch):
    monkeypatch.setattr(compare_graders, "find_spec", lambda name: None)
    assert table(pairs_file, "mathruler", "string")["mathruler"][0] == "not installed"


NO_SAME = '{"prediction": "7", "gold": "7"}'
WORD_SAME = '{"prediction": "7", "gold": "7", "same": "yes"}'


@pytest.mark.parametrize("line", ["", "7", "{", NO_SAME, WORD_SAME, '["prediction"]'])
def test_a_bad_line_is_named(pairs_file, line):
    with pairs_file.open("a", encoding="utf-8") as file:
        file.write(line + "\n{}\n")
    with pytest.raises(SystemExit) as error:
        compare_graders.main(compare_graders.parse_args(["--pairs", str(pairs_file)]))
    assert f"{pairs_file}:6 is no pair" in str(error.value)
    assert "prediction, gold and same" in str(error.value)


def test_every_grader_is_explained():
    for name in compare_graders.GRADERS:
        assert f"\n    {name} " in compare_graders.__doc__
