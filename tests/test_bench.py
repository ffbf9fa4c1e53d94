"""Run: python -m pytest -q tests/test_bench.py        (about 10 s on CPU; no network)

The measurements at toy size: that they measure what they say. The figures themselves are nobody's test."""
import json

import pytest

import bench
import data
import model as modeling
import rewards


@pytest.fixture(scope="module")
def tokenizer():
    return modeling.tiny_tokenizer()


@pytest.mark.parametrize("task", ["count", "spatial", "ground"])
def test_long_completions_are_as_long_as_asked_and_right_half_of_the_time(task, tokenizer):
    """Lengths within three tokens (cut words join differently); every answer can be read; the share of right ones is 1/2 or more, as another question's answer may fit."""
    examples = [data.ToyStream(task, "train", 0, 3, "gold")[i] for i in range(24)]
    texts, asked = bench.long_completions(examples, 8, tokenizer, 120)
    assert len(texts) == len(asked) == 192 and len(set(texts)) == 192 and asked[:8] == [examples[0]] * 8
    assert all(abs(len(tokenizer(text)["input_ids"]) - 120) <= 3 for text in texts)
    scored, failed = rewards.reward_parts(texts, asked, ["accuracy", "format"])
    assert failed == {"accuracy": 0, "format": 0} and set(scored["format"]) == {1.0}
    assert 0.35 < sum(scored["accuracy"]) / 192 < 0.85


def test_rewards_are_measured_against_a_step(tmp_path, capsys):
    bench.main(bench.parse_args(["rewards", "--prompts", "2", "--num-generations", "2", "--max-completion-length", "24", "--repeats", "2", "--device", "cpu", "--output-dir", str(tmp_path)]))
    found = json.loads((tmp_path / "bench_rewards.json").read_text())
    rows = {row["what"]: row for row in found["rows"]}
    assert {f"reward {name}" for name in rewards.REWARDS} | {"reward accuracy + format", "rollout", "update"} <= rows.keys()
    step = rows["rollout"]["seconds"] + rows["update"]["seconds"]
    for row in rows.values():
        assert row["seconds"] > 0
        if "share_of_step" in row:
            assert row["low"] <= row["seconds"] <= row["high"] and row["share_of_step"] == pytest.approx(row["seconds"] / (step + row["seconds"]))
    assert "of a step" in capsys.readouterr().out and json.loads((tmp_path / "args.json").read_text())["what"] == "rewards"
