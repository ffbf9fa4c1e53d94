"""Run: python -m pytest -q tests/test_bench_gpu.py    (about a minute on one core; no network)

The GPU's measurements at toy size on a CPU: every section runs and writes its figures, and its
checks can fail. What only a GPU has does not run here: the graph, the profile, the memory limit.
"""

import json
from types import SimpleNamespace

import pytest
import torch

import rollout
from fast import bench, bench_gpu, gpu_checks, gpu_decode, kernels, sides
from fast import decode as decode_
from fast.decode import Decoder, free_memory
from fast.sides import Work
from plumbing.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    made = tmp_path_factory.mktemp("8m")
    sides.write_model(made, "8m")
    return str(made)


def test_without_a_gpu_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds none here"):
        bench.main(bench.parse_args(["--gpu", "--output-dir", str(tmp_path)]))


def test_every_section_runs_and_writes_its_figures(tmp_path, capsys):
    bench.main(
        bench.parse_args(
            [
                "--gpu",
                "--device",
                "cpu",
                "--sizes",
                "8m",
                "--shapes",
                "60x8x4",
                "--rows",
                "4",
                "8",
                "--repeats",
                "1",
                "--output-dir",
                str(tmp_path),
            ]
        )
    )
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert (
        "FAILED" not in printed
        and result["failed"] == 0
        and all(row["ok"] for row in result["check"])
        and len(result["check"]) > 10
    )
    decode = [
        row for row in result["decode"] if row["what"] == "decode" and row["weights"] == "bf16"
    ]
    assert [row["B"] for row in decode] == [4, 8]
    theirs = {
        row["B"]: row
        for row in result["decode"]
        if row["what"] == "generate" and row["weights"] == "bf16"
    }
    for row in decode:
        assert row["step_ms"] > 0 and row["tokens_per_second"] == pytest.approx(
            1e3 * row["B"] / row["decode_ms"]
        )
        assert row["ratio_none"] == pytest.approx(
            theirs[row["B"]]["decode_ms"] / row["decode_ms"]
        ) and row["roofline_share"] == pytest.approx(row["roofline_ms"] / row["step_ms"])
    assert {(row["what"], row["side"]) for row in result["step"]} >= {
        ("step", "ours"),
        ("step", "straightforward loop"),
        ("update", "ours"),
        ("update", "plain: prompt and picture repeated"),
    }
    assert [list(row)[-4:] for row in result["memory"]] == [
        ["load", "rollout", "update", "optimizer"]
    ]
    assert (
        set(result) >= {"card", "bandwidth", "check_seconds", "memory_seconds"}
        and json.loads((tmp_path / "args.json").read_text())["commit"]
    )


def test_a_wrong_kernel_fails_the_check(tmp_path, monkeypatch, capsys):
    """An attention without each suffix's last token, and a head that is off by a tenth of a nat."""
    attention, head = kernels.shared_prefix_attention_reference, kernels.head_sample_reference
    monkeypatch.setattr(
        kernels, "shared_prefix_attention", lambda *a: attention(*a[:-1], (a[-1] - 1).clamp_min(1))
    )
    found = gpu_checks.kernel_checks(CPU, 2, 3, 40, 12, ((2, 3, 32),), (64, 500))
    assert not any(
        figure <= limit for what, figure, limit in found if what.startswith("attention")
    ) and all(figure <= limit for what, figure, limit in found if what.startswith("head"))
    monkeypatch.setattr(kernels, "shared_prefix_attention", attention)

    def shifted_head(*arguments):
        tokens, logp = head(*arguments)
        return tokens, logp + 0.1

    monkeypatch.setattr(kernels, "head_sample", shifted_head)
    found = gpu_checks.kernel_checks(CPU, 2, 3, 40, 12, ((2, 3, 32),), (64, 500))
    assert all(
        figure <= limit for what, figure, limit in found if what.startswith("attention")
    ) and not any(figure <= limit for what, figure, limit in found if "exact" in what)
    assert not gpu_checks.relative(torch.tensor([float("nan")]), torch.ones(1)) <= 1


def test_what_a_check_raises_is_a_failure_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(gpu_checks, "kernel_checks", broken)
    monkeypatch.setattr(gpu_checks, "weight_kinds", lambda device: [])
    with pytest.raises(SystemExit) as stop:
        bench.main(
            bench.parse_args(
                [
                    "--gpu",
                    "--only",
                    "check",
                    "--device",
                    "cpu",
                    "--sizes",
                    "8m",
                    "--shapes",
                    "60x8x4",
                    "--output-dir",
                    str(tmp_path),
                ]
            )
        )
    result = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert (
        stop.value.code == 1
        and result["failed"] == 1
        and len(result["check"]) > 4
        and "illegal memory access" in result["check"][0]["what"]
    )
    assert "FAILED  kernels: RuntimeError" in capsys.readouterr().out


def test_rows_are_written_as_they_come():
    written = []
    rows = bench_gpu.Kept(lambda: written.append(len(rows)))
    rows.append({})
    rows += [{}, {}]
    assert written == [1, 2, 3] and json.dumps(rows) == "[{}, {}, {}]"


def test_a_compiler_that_fails_is_told(directory, monkeypatch):
    policy, _, special = sides.load_bench(directory, CPU, torch.float32)

    def broken(*_, **options):
        raise RuntimeError("dynamo")

    monkeypatch.setattr(sides, "stock_generate", broken)
    assert gpu_decode.generate_times(
        policy,
        special,
        [sides.random_prompt(special, 60)],
        2,
        8,
        cache_implementation="static",
    ) == {"failed": "RuntimeError: dynamo"}
    with pytest.raises(RuntimeError):
        gpu_decode.generate_times(policy, special, [sides.random_prompt(special, 60)], 2, 8)


def test_the_graph_check_sees_a_replay_that_differs(directory, monkeypatch):
    """Rows in buckets as on a GPU; a right replay, one of another position, and one of NaNs."""
    policy, _, special = sides.load_bench(directory, CPU, torch.float32)
    monkeypatch.setattr(decode_, "can_capture", lambda device, weights: True)
    monkeypatch.setattr(
        Decoder,
        "capture",
        lambda wave: SimpleNamespace(
            replay=lambda: (wave.forward_one_token(), wave.sample_one_token())
        ),
    )
    assert gpu_checks.graph_check(policy, special, Work(2, 60, 16, 3), True) == 0.0

    def stale(wave):
        start = wave.start.clone() + 1

        def replay():
            wave.start, kept = start, wave.start
            wave.forward_one_token()
            wave.start = kept
            wave.sample_one_token()

        return SimpleNamespace(replay=replay)

    monkeypatch.setattr(Decoder, "capture", stale)
    assert gpu_checks.graph_check(policy, special, Work(2, 60, 16, 3), True) > 1e-3

    def broken(wave):
        def replay():
            wave.forward_one_token()
            wave.sample_one_token()
            wave.state.fill_(float("nan"))

        return SimpleNamespace(replay=replay)

    monkeypatch.setattr(Decoder, "capture", broken)
    assert not gpu_checks.graph_check(policy, special, Work(2, 60, 16, 3), True) <= 1e9


def test_bytes_of_a_step_are_counted_from_the_model(directory):
    policy, _, _ = sides.load_bench(directory, CPU, torch.float32)
    layer = 256 * 256 + 2 * 256 * 128 + 256 * 256 + 3 * 256 * 768
    adapters = sum(p.numel() for n, p in policy.named_parameters() if "lora_" in n)
    expected = 4 * (6 * layer + adapters + 4096 * 256) + 2 * 6 * 2 * 64 * 4 * (2 * 100 + 2 * 4 * 25)
    assert gpu_decode.bytes_of_step(policy, Work(2, 100, 50, 4), "none") == expected


def test_the_plan_of_a_rollout_can_be_given(directory, monkeypatch):
    """The given plan is used, memory is not asked, and the rows are the same."""
    policy, _, special = sides.load_bench(directory, CPU, torch.float32)
    prompts = sides.random_prompts(special, 2, 60)
    usual = rollout.rollout(policy, prompts, special, 2, rollout.Sampling(4))
    seen, weights = [], decode_.decode_weights

    def watched(core, copy):
        seen.append(copy)
        return weights(core, copy)

    monkeypatch.setattr(decode_, "plan_memory", None)
    monkeypatch.setattr(decode_, "decode_weights", watched)
    plan = gpu_checks.whole_plan(False, 2, 2)
    assert plan == (False, [(0, 2, 0, 2)])
    given = rollout.rollout(policy, prompts, special, 2, rollout.Sampling(4), plan=plan)
    assert seen == [False] and torch.equal(given.targets, usual.targets)


def test_a_process_may_be_limited(monkeypatch):
    """What a rollout may take is what the process may: the card's free memory is another matter."""
    for name, value in (
        ("mem_get_info", (100, 140)),
        ("memory_reserved", 20),
        ("memory_allocated", 15),
        ("get_per_process_memory_fraction", 0.5),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda")) == 70 - 20 + 20 - 15
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    assert free_memory(torch.device("cuda")) == 100 + 20 - 15


def test_the_published_shapes():
    """1.310 and 6.525 billion parameters of linear layers, and the published vocabularies."""
    for size, linear, vocabulary in (("2b", 1.310e9, 151936), ("7b", 6.525e9, 152064)):
        hidden, intermediate, layers, V, heads, kv_heads, tied, vision = sides.MODELS[size]
        assert (
            V == vocabulary
            and hidden // heads == 128
            and tied == (size == "2b")
            and vision == (32, 1280, 16)
        )
        assert (
            abs(
                layers
                * (2 * hidden * hidden + 2 * hidden * kv_heads * 128 + 3 * hidden * intermediate)
                / linear
                - 1
            )
            < 1e-3
        )
