"""Run: python -m pytest -q tests/test_bench.py    (about a minute on one core; no network)

The measurements at toy size: that they measure what they say. No test asks for a figure.
"""

import importlib.util
import json
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import families
import rewards
import rollout
from fast import bench, bench_memory, bench_rewards, bench_trl, race, sides
from fast.sides import Work
from logps import core_of
from tasks import toy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return families.tiny_tokenizer()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    made = tmp_path_factory.mktemp("8m")
    sides.write_model(made, "8m")
    return str(made)


@pytest.fixture
def loaded(directory):
    return sides.load_bench(directory, CPU, torch.float32)


def test_the_command_line():
    args = bench.parse_args([])
    assert args.what == "speed" and args.repeats == 3 and args.shapes is None and args.model is None
    assert bench.parse_args(["--scaling"]).what == bench.parse_args(["scaling"]).what == "scaling"
    assert bench.parse_args(["memory", "--shapes", "60x512x8", "188x96x32"]).shapes == [
        (60, 512, 8),
        (188, 96, 32),
    ]
    for wrong in (
        ["--shapes", "60x512"],
        ["--shapes", "10x8x2"],
        ["--shapes", "60x8x1"],
        ["nothing"],
        ["--repeats", "0"],
    ):
        with pytest.raises(SystemExit):
            bench.parse_args(wrong)


def test_the_model_and_the_prompt_have_the_shapes_they_should(loaded):
    """8 M parameters, LoRA that is not zero, M-RoPE positions as the stock model has them."""
    policy, _, special = loaded
    core = core_of(policy)
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    assert (
        7e6 < sum(p.numel() for p in policy.parameters()) < 9e6
        and len(trained) == 2 * 7 * 6
        and all(p.abs().max() > 0 for p in trained.values())
    )
    for P, side in ((48, 2), (188, 12), (944, 30), (1000, 30)):
        prompt = sides.random_prompt(special, P)
        inputs = sides.stock_inputs([prompt], special, CPU)
        assert (
            len(prompt.ids) == P
            and len(prompt.image_slots) == side * side == int(prompt.grid.prod()) // 4
            and not set(prompt.ids[:12].tolist()) & set(special.vision_ids)
        )
        positions, delta = core.model.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        assert (
            torch.equal(positions[:, 0], prompt.positions)
            and P + int(delta) == prompt.next_position
        )


def test_no_side_ends_a_row_or_samples_a_vision_token(loaded):
    policy, _, special = loaded
    prompts = [sides.random_prompt(special, 60, n) for n in range(2)]
    sampled = [
        rollout.rollout(policy, prompts, special, 3, rollout.Sampling(24)).targets,
        sides.stock_generate(policy, special, sides.repeated(prompts, 3), 24),
        sides.stock_generate(policy, special, prompts, 24, num_return_sequences=3),
    ]
    for tokens in sampled:
        assert (
            tokens.shape == (6, 24)
            and len(set(map(tuple, tokens.tolist()))) == 6
            and not torch.isin(tokens.cpu(), torch.tensor(special.vision_ids)).any()
        )
    assert set(special.vision_ids) > set(special.eos_ids)


def test_theirs_runs_with_stock_attention(loaded):
    """Our attention is back in its place afterwards, even after an error."""
    policy, _, _ = loaded
    config = core_of(policy).model.language_model.config
    config._attn_implementation = "packed"
    with pytest.raises(KeyError), sides.stock(policy):
        assert config._attn_implementation == "sdpa"
        raise KeyError
    assert config._attn_implementation == "packed"


def test_the_sides_are_checked_to_do_the_same_work(loaded, monkeypatch):
    """The check passes, and fails for a wrong rollout, log-prob or update of ours."""
    policy, _, special = loaded
    sides.check_same_work(policy, special, 60)
    right, logps = rollout.rollout, sides.our_logps

    def other_tokens(*args, **kwargs):
        roll = right(*args, **kwargs)
        roll.targets[0, -1] += 1
        return roll

    def other_logps(*args, **kwargs):
        roll = right(*args, **kwargs)
        return (
            roll
            if kwargs.get("temperature") == 0
            else SimpleNamespace(targets=roll.targets, logp=roll.logp + 1e-3)
        )

    for broken, message in ((other_tokens, "greedy tokens"), (other_logps, "log-probs")):
        with monkeypatch.context() as patched:
            patched.setattr(rollout, "rollout", broken)
            with pytest.raises(ValueError, match=message):
                sides.check_same_work(policy, special, 60)
    with monkeypatch.context() as patched:
        patched.setattr(
            sides,
            "our_logps",
            lambda policy, special, prompts, completions, counts: (
                logps(policy, special, prompts, completions, counts)
                * (1.001 if len(prompts) == 1 else 1)
            ),
        )
        with pytest.raises(ValueError, match="gradient"):
            sides.check_same_work(policy, special, 60)


def test_turns_alternate_and_ratios_are_over_ours():
    called = []
    seconds = race.race(
        {
            "ours": lambda turn: called.append(("ours", turn)),
            "theirs": lambda turn: called.append(("theirs", turn)),
        },
        2,
        CPU,
    )
    assert called == [(name, turn) for turn in range(3) for name in ("ours", "theirs")] and [
        len(s) for s in seconds.values()
    ] == [2, 2]
    ours, theirs = race.rows_of(
        {"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 8.0, 6.0]}, what="step", G=8
    )
    assert ours["ratio"] == ours["low"] == ours["high"] == 1
    assert (
        theirs["seconds"] == 6
        and theirs["ratio"] == 3
        and (theirs["low"], theirs["high"]) == (1.5, 4)
        and theirs["what"] == "step"
        and theirs["G"] == 8
    )


def test_speed_prints_and_writes_every_figure(tmp_path, capsys, monkeypatch):
    # A process each would take a minute.
    monkeypatch.setattr(
        bench_memory, "peak_of", lambda directory, device, dtype, kind, side, work: 1000 * len(side)
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "trl" else find(name, *rest),
    )
    threads = torch.get_num_threads()
    bench.main(
        bench.parse_args(
            [
                "--shapes",
                "60x6x2",
                "60x6x3",
                "--repeats",
                "1",
                "--device",
                "cpu",
                "--output-dir",
                str(tmp_path),
            ]
        )
    )
    found = json.loads((tmp_path / "bench_speed.json").read_text())
    blocks = {}
    for row in found["rows"]:
        blocks.setdefault((row["what"], row["N"], row["G"]), []).append(row)
    assert [len(rows) for rows in blocks.values()] == [3, 3, 3, 3, 2]
    assert set(blocks) == {
        ("rollout", 1, 2),
        ("rollout", 1, 3),
        ("update", 1, 2),
        ("step", 1, 2),
        ("step", 2, 2),
    }
    assert blocks["step", 1, 2][2] == {
        "what": "step",
        "N": 1,
        "P": 60,
        "T": 6,
        "G": 2,
        "side": "TRL's GRPOTrainer",
    }
    for rows in blocks.values():
        assert rows[0]["side"] == "ours" and rows[0]["ratio"] == 1
        for row in rows:
            if row["side"] != "TRL's GRPOTrainer":
                assert (
                    row["seconds"] > 0
                    and row["low"] <= row["ratio"] <= row["high"]
                    and len(row["all_seconds"]) == 1
                )
    assert {row["side"] for row in found["rows"] if "peak_bytes" in row} == {
        "ours",
        "straightforward loop",
        "plain: prompt and picture repeated",
        "the same with full logits",
        "generate, prompts and pictures repeated",
        "generate, num_return_sequences=G",
    }
    assert found["clock"] == "CPU seconds of one thread" and torch.get_num_threads() == threads
    out = capsys.readouterr().out
    assert (
        "not installed" in out
        and "straightforward loop" in out
        and json.loads((tmp_path / "args.json").read_text())["what"] == "speed"
    )


@pytest.mark.slow
def test_peaks_are_those_of_one_turn(directory):
    """Full logits of 8 x 96 tokens and 4096 words are 12.6 MB, held at least twice."""
    peak = bench_memory.peak_of(
        directory, CPU, torch.float32, "update", "the same with full logits", Work(1, 48, 96, 8)
    )
    assert 2 * 4 * 8 * 96 * 4096 < peak < 4e8


def outlive(pipe):
    with open(pipe, "w") as file:
        print("begun", file=file, flush=True)
        time.sleep(60)
        print("ended in its own time", file=file)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends in its own time")
def test_a_fresh_process_ends_with_the_one_that_wanted_it(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    parent = os.fork()
    if parent == 0:
        bench_memory.in_fresh_process(outlive, str(pipe))
    with open(pipe) as file:
        assert file.readline() == "begun\n"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert file.read() == "", "nobody holds the pipe any more"


def test_memory_compares_with_full_logits(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        bench_memory,
        "peak_of",
        lambda directory, device, dtype, kind, side, work: (
            work.P * work.T * work.G * (1 if side == "ours" else 4)
        ),
    )
    bench.main(
        bench.parse_args(
            ["memory", "--shapes", "48x64x2", "--device", "cpu", "--output-dir", str(tmp_path)]
        )
    )
    found = json.loads((tmp_path / "bench_memory.json").read_text())
    assert (
        found["V"] == 151936
        and [row["peak_bytes"] for row in found["rows"]] == [6144, 4 * 6144, 4 * 6144]
        and found["rows"][0]["share_of_full_logits"] == 0.25
    )
    assert "ours over full logits: 0.250" in capsys.readouterr().out


@pytest.mark.slow
def test_scaling_is_drawn(tmp_path, capsys):
    bench.main(
        bench.parse_args(
            [
                "--scaling",
                "--shapes",
                "96x4x4",
                "--repeats",
                "1",
                "--device",
                "cpu",
                "--output-dir",
                str(tmp_path),
            ]
        )
    )
    rows = json.loads((tmp_path / "bench_scaling.json").read_text())["rows"]
    assert {(row["against"], row["value"]) for row in rows} == {
        ("G", 2),
        ("G", 4),
        ("G", 8),
        ("P", 48),
        ("P", 96),
        ("P", 192),
        ("T", 2),
        ("T", 4),
        ("T", 8),
    }
    assert {row["what"] for row in rows} == {
        "pictures and prefill",
        "rollout",
        "update",
        "step",
    } and all(row["seconds"] > 0 for row in rows)
    assert (
        tmp_path / "scaling.png"
    ).stat().st_size > 10_000 and "seconds against G" in capsys.readouterr().out


@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="TRL is no requirement of this project"
)
def test_trl_does_the_same_work(directory):
    turns = []
    seconds = bench_trl.trl_steps(directory, CPU, torch.float32, Work(1, 60, 6, 2), 2, turns.append)
    assert len(seconds) == 2 and min(seconds) > 0 and turns == [0, 1, 2]


@pytest.mark.parametrize("task", ["count", "spatial", "ground"])
def test_long_completions_are_as_long_as_asked_and_right_half_of_the_time(task, tokenizer):
    """Every answer can be read, and about half are right.

    Lengths are within three tokens: cut words join differently. More than half may be right, as
    another question's answer may fit.
    """
    examples = [toy.ToyStream(task, "train", 0, 3, "gold")[i] for i in range(24)]
    texts, asked = bench_rewards.long_completions(examples, 8, tokenizer, 120)
    assert (
        len(texts) == len(asked) == 192
        and len(set(texts)) == 192
        and asked[:8] == [examples[0]] * 8
    )
    assert all(abs(len(tokenizer(text)["input_ids"]) - 120) <= 3 for text in texts)
    scored, failed = rewards.reward_parts(texts, asked, ["accuracy", "format"])
    assert failed == {"accuracy": 0, "format": 0} and set(scored["format"]) == {1.0}
    assert 0.35 < sum(scored["accuracy"]) / 192 < 0.85


def test_rewards_are_measured_against_a_step(tmp_path, capsys):
    bench.main(
        bench.parse_args(
            [
                "rewards",
                "--prompts",
                "2",
                "--num-generations",
                "2",
                "--max-completion-length",
                "24",
                "--repeats",
                "2",
                "--device",
                "cpu",
                "--output-dir",
                str(tmp_path),
            ]
        )
    )
    found = json.loads((tmp_path / "bench_rewards.json").read_text())
    rows = {row["what"]: row for row in found["rows"]}
    assert {f"reward {name}" for name in rewards.REWARDS} | {
        "reward accuracy + format",
        "rollout",
        "update",
    } <= rows.keys()
    step = rows["rollout"]["seconds"] + rows["update"]["seconds"]
    for row in rows.values():
        assert row["seconds"] > 0
        if "share_of_step" in row:
            assert row["low"] <= row["seconds"] <= row["high"] and row[
                "share_of_step"
            ] == pytest.approx(row["seconds"] / (step + row["seconds"]))
    assert (
        "of a step" in capsys.readouterr().out
        and json.loads((tmp_path / "args.json").read_text())["what"] == "rewards"
    )
