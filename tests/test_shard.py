"""Run: python -m pytest -q tests/test_shard.py        (about 20 s on a CPU, no network)

--shard: processes that hold their parts of gradients and moments learn what one process learns.
"""

import signal
from argparse import Namespace
from dataclasses import replace
from functools import partial

import pytest
import torch
from commands import SFT, metrics_of, refusal, train
from safetensors.torch import load_file
from test_ranks import (
    LINE,
    in_processes,
    kill,
    quick,
    run_in_processes,
    run_script,
    short_answers,
)

import batching
import data
import logps
import losses
import model
import selftrain
import tasks
import train_dpo
import train_grpo
import train_sft
import update
from plumbing import ranks
from plumbing.errors import UserError
from recipes import rethink

__all__ = ["quick", "short_answers"]  # fixtures

FULL = f"{SFT} --learning-rate 1e-3 --batch-size 6 --micro-batch-size 2 --level 3"
FULL += " --max-completion-length 250 --dtype float32"


def same(some, others):
    """Compare metrics: one process's float32 norm of a million numbers is off by some 1e-6."""
    assert len(some) == len(others)
    for one, other in zip(some, others):
        assert one.keys() == other.keys()
        assert other.pop("grad_norm", 0) == pytest.approx(one.pop("grad_norm", 0), rel=1e-5)
        assert other == pytest.approx(one, rel=1e-6, abs=1e-6)


# --- parts ---


def one_step(policy, processor, path):
    """Save gradient, its norm, weights and moments after a step on four questions.

    The first two have no picture: a process of these does not touch its tower.
    """
    asker = data.Asker(processor)
    examples = data.head(tasks.read("count:test"), 4)
    examples[:2] = [replace(example, images=[], sizes=None) for example in examples[:2]]
    prompts = [asker.prompt(example) for example in examples]
    rows = [torch.arange(10, 10 + length) for length in (3, 7, 5, 6)]
    targets, mask = batching.pad_targets(rows, processor.special.pad_id)  # (4, T)
    own = ranks.share(4)
    cut = slice(own.start, own.stop)
    trained = [q for q in policy.parameters() if q.requires_grad]
    optimizer = update.make_optimizer("adamw", trained, 1e-3)
    optimizer.register_step_post_hook(ranks.gather)
    for rows, batch in batching.pieces(prompts[cut], targets[cut], mask[cut], 1, policy.device):
        logp = logps.token_logps(policy, batch)
        losses.aggregate(losses.nll(logp), mask[cut][rows].double()).backward()
    ranks.sum_gradients(trained)
    gradient = [ranks.whole(q.grad).clone() for q in trained]  # before it is clipped
    norm = update.clip_gradient(trained, 1.0, 1)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    moments = [ranks.whole(state[i]["exp_avg_sq"]) for i in range(len(trained))]
    weights = [q.detach() for q in policy.parameters()]
    held = sum(getattr(q, "to_local", q.detach)().numel() for q in trained)
    torch.save((norm, gradient, weights, moments, held), path)


def test_a_step_is_that_of_one_process(tmp_path):
    """In float64, on two and on four processes; half of them see no picture."""
    policy, processor = model.load("tiny", seed=0)
    policy.double().requires_grad_(True)

    def work(rank):
        with ranks.together(Namespace(device="cpu"), True):
            ranks.shard(policy)
            one_step(policy, processor, tmp_path / f"{ranks.world()}-{rank}")

    for world in (2, 4):
        codes, errors = in_processes(world, work, tmp_path / "printed")
        assert codes == [0] * world, errors
    one_step(policy, processor, tmp_path / "one")
    norm, *lists, held = torch.load(tmp_path / "one")
    assert max(g.abs().max() for g in lists[0]) > 1e-2
    for name in ("2-0", "2-1", "4-0", "4-3"):
        their_norm, *theirs, their_part = torch.load(tmp_path / name)
        assert their_norm == pytest.approx(norm, rel=1e-10)
        for ours, others in zip(lists, theirs):
            for a, b in zip(ours, others, strict=True):
                assert (a - b).abs().max() <= 1e-10
        assert their_part < 1.1 * held / int(name[0])


# --- whole runs ---


def sft_is_the_same(world, flags, base, out):
    line = f"--model {base} {FULL} --save-steps 0 {flags} --max-steps 2"
    train(train_sft, f"{line} --output-dir {out / 'one'}")
    found = run_in_processes(world, train_sft, f"{line} --shard", out / "several")
    same(metrics_of(out / "one"), found)
    one, other = (load_file(out / name / "model.safetensors") for name in ("one", "several"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert (weight - other[name]).abs().max() < 1e-4  # of Adam's step of 1e-3


def grpo_is_the_same(world, flags, base, out):
    line = f"--model {base} {LINE} --num-generations 2 {flags} --max-steps 2"
    train(train_grpo, f"{line} --output-dir {out / 'one'}")
    found = run_in_processes(world, train_grpo, f"{line} --shard", out / "several")
    assert found[1]["adv_abs"] > 0 and found[1]["grad_norm"] > 0
    same(metrics_of(out / "one"), found)


def test_sft_on_two_processes(base, tmp_path, quick, short_answers):
    sft_is_the_same(2, "--neftune-noise-alpha 5", base, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--gradient-checkpointing", "--freeze-vision --freeze-merger"])
def test_sft_on_three_processes(flags, base, tmp_path, quick, short_answers):
    sft_is_the_same(3, flags, base, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    "flags", ["--max-resample-times 2 --top-entropy-quantile 0.5", "--beta 0.1"]
)
def test_grpo(world, flags, base, tmp_path, quick):
    """With K mini-batches where there is a KL, each of one question a process."""
    K = 2 if "beta" in flags else 1
    flags += f" --updates-per-rollout {K} --prompts-per-step {K * world}"
    grpo_is_the_same(world, flags, base, tmp_path)


def dying(call, how, monkeypatch):
    """Let the second process, or the only one, end at this call of logps.token_logps."""
    real, calls = logps.token_logps, []

    def compute(*given, **more):
        calls.append(1)
        if ranks.rank() == ranks.world() - 1 and len(calls) == call:
            how()
        return real(*given, **more)

    monkeypatch.setattr(logps, "token_logps", compute)


@pytest.mark.slow
def test_killed_on_two_processes_and_resumed_on_one(base, tmp_path, quick, monkeypatch):
    line = f"--model {base} {FULL} --save-steps 1 --eval-steps 0 --max-eval-samples 1 --max-steps 4"
    train(train_sft, f"{line} --output-dir {tmp_path / 'one'}")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        dying(6, kill, patch)  # in the third step
        work = partial(run_script, train_sft, f"{line} --shard --output-dir {out}")
        codes, errors = in_processes(2, work, tmp_path / "printed")
    assert codes == [2, -signal.SIGKILL]
    said = [line for line in errors.splitlines() if "rror" in line]
    assert len(said) == 1 and "another process of this run ended" in said[0], errors
    assert 1 < len(metrics_of(out)) < 4, "it was killed in the middle"
    train(train_sft, f"{line} --resume-from-checkpoint --output-dir {out}")
    same(metrics_of(tmp_path / "one"), metrics_of(out))


@pytest.mark.slow
def test_stopped_in_one_process_and_resumed_on_three(base, tmp_path, quick):
    line = f"--model {base} {FULL} --save-steps 2 --eval-steps 0 --max-eval-samples 1 --max-steps 4"
    out = tmp_path / "out"
    train(train_sft, f"{line} --output-dir {out}")
    before = metrics_of(out)
    line += f" --shard --resume-from-checkpoint {out}/checkpoint-2"
    same(before, run_in_processes(3, train_sft, line, out))


# --- what it refuses ---


def test_one_process_refuses_it(base, tmp_path):
    line = f"--model {base} {FULL} --max-steps 1 --shard --output-dir {tmp_path / 'out'}"
    with pytest.raises(UserError, match="--shard needs torchrun"):
        train(train_sft, line)


@pytest.mark.parametrize(
    "flags", ["--batch-size 5", "--batch-size 4 --lora-r 4", "--batch-size 4 --optim adamw_8bit"]
)
def test_what_it_refuses(flags, base, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "_world", 2)
    line = f"--model {base} --data count {flags} --shard --output-dir {tmp_path / 'out'}"
    with pytest.raises(UserError, match="--shard needs torchrun, equal shares"):
        model.resolve(train_sft.parse_args(line.split()), train=True)


@pytest.mark.parametrize("script", [train_dpo, selftrain, rethink])
def test_scripts_whose_processes_are_not_in_step_do_not_have_it(script, tmp_path, capsys):
    """train_dpo.py would train nothing, and an update of recipes/rethink.py has odd rows."""
    assert "unknown argument --shard" in refusal(script, ["--shard"], capsys)
