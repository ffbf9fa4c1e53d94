"""Run: python -m pytest -q tests/test_preflight.py        (about 10 s on a CPU, no network)

The update before the first: it changes nothing, and out of memory halves the micro-batch.
"""

import pytest
import torch
from commands import GRPO, SMALL, grpo, metrics_of, skip_pictures, train, use_toy_reward

import tasks
import train_grpo
from plumbing import memory, ranks
from plumbing.errors import UserError
from reinforcing import preflight
from tasks.example import Example

CPU = torch.device("cpu")
FLAGS = "--prompts-per-step 2 --num-generations 4 --learning-rate 1e-3"


@pytest.fixture
def quick(monkeypatch):
    use_toy_reward(monkeypatch)
    skip_pictures(monkeypatch)


@pytest.mark.parametrize("flags", ["", "--lora-r 4 --lora-dropout 0.2 --beta 0.1"])
def test_a_run_is_the_same_with_and_without_it(flags, base, tmp_path, quick, monkeypatch):
    with_it = grpo(base, tmp_path / "with", f"{FLAGS} {flags}", steps=2)
    monkeypatch.setattr(preflight, "size_that_fits", lambda gradient, opt, where, size: size)
    without = grpo(base, tmp_path / "without", f"{FLAGS} {flags}", steps=2)
    assert with_it == without


def test_weights_gradients_and_optimizer_are_as_before():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.5, weight_decay=0.1)

    def gradient(size):
        weight.grad = torch.tensor([3.0, 4.0])

    assert preflight.size_that_fits(gradient, optimizer, CPU, 8) == 8
    assert weight.tolist() == [1.0, -2.0] and weight.grad is None
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 0.5
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[weight].items()}
    preflight.size_that_fits(gradient, optimizer, CPU, 8)
    for name, value in optimizer.state[weight].items():
        assert torch.equal(value, before[name]), "that of a resumed run stays"


# --- an allocator that fails above a limit ---


class Allocator:
    """Make a gradient whose rows need a gigabyte each, of `limit`."""

    def __init__(self, limit):
        self.limit, self.tried = limit, []

    def __call__(self, size):
        self.tried.append(size)
        if size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_halves_the_micro_batch(capsys):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    allocator = Allocator(limit=3)
    assert preflight.size_that_fits(allocator, optimizer, CPU, 16) == 2
    assert allocator.tried == [16, 8, 4, 2]
    printed = capsys.readouterr().out
    for size in (16, 8, 4):
        assert f"--micro-batch-size {size} is too much for the memory; {size // 2}" in printed


def test_one_row_that_does_not_fit_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match="--gradient-checkpointing"):
        preflight.size_that_fits(Allocator(limit=0), optimizer, CPU, 5)


def test_nothing_is_halved_where_others_wait_for_the_gradient(monkeypatch):
    """--shard: the processes exchange gradients inside the backward pass."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    allocator = Allocator(limit=3)
    monkeypatch.setattr(ranks, "sharded", ["a layer"])
    with pytest.raises(UserError, match="--micro-batch-size 16 .* lower it to 8"):
        preflight.size_that_fits(allocator, optimizer, CPU, 16)
    assert allocator.tried == [16]


def test_the_run_goes_on_with_the_size_that_fits(base, tmp_path, quick, monkeypatch):
    """And learns the same: the size is about memory."""
    plain = grpo(base, tmp_path / "plain", f"{FLAGS} --micro-batch-size 1")
    real = train_grpo.grpo_gradient

    def too_large(policy, batch, *rest):
        for _, micro in batch.micro_batches():
            if len(micro["targets"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return real(policy, batch, *rest)

    monkeypatch.setattr(train_grpo, "grpo_gradient", too_large)
    halved = grpo(base, tmp_path / "halved", f"{FLAGS} --micro-batch-size 4")
    assert halved == plain


# --- what is tried ---


def test_the_longest_question_is_found():
    class Stub:
        def render(self, example):
            return example.question

        def image_tokens(self, example):
            return 10 * len(example.images)

        def check(self, examples, room):
            return [len(e.question) // 4 + self.image_tokens(e) for e in examples]

    examples = [
        Example("a", [], "x" * 30, "1"),  # more bytes than the next has bytes and image tokens
        Example("b", [None], "x" * 10, "1"),
        Example("c", [], "x" * 3, "1"),
    ]
    assert preflight.longest(Stub(), examples).id == "b"
    stream = tasks.read("count", 0, teacher="gold", training=True)
    assert preflight.longest(Stub(), stream).question


def test_a_run_that_goes_on_can_be_tried_first(base, tmp_path, quick, capsys):
    """--dry-run is of this start: it need not be as it was, and it leaves the run alone."""
    line = f"--model {base} {GRPO} {SMALL} {FLAGS} --save-steps 1 --output-dir {tmp_path / 'run'}"
    train(train_grpo, f"{line} --max-steps 1")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    train(train_grpo, f"{line} --max-steps 2 --resume-from-checkpoint --dry-run")
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert before == after
    assert capsys.readouterr().out.count("preflight, ") == 2
    train(train_grpo, f"{line} --max-steps 2 --resume-from-checkpoint")


def test_dry_run_stops_before_the_first_question(base, tmp_path, quick, capsys):
    line = f"--model {base} {GRPO} {SMALL} {FLAGS} --max-steps 1 --dry-run"
    line += f" --output-dir {tmp_path / 'out'}"
    train(train_grpo, line)
    assert "preflight, the longest question" in capsys.readouterr().out
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    grpo(base, tmp_path / "out", FLAGS)
    assert len(metrics_of(tmp_path / "out")) == 2


def test_memory_counts_what_was_taken():
    memory.reset_peak(CPU)
    before = memory.peak(CPU)
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert memory.peak(CPU) - before > 150_000_000
    assert memory.free(CPU) > 0


def test_memory_is_counted_without_linuxs_files(monkeypatch, tmp_path):
    """macOS and Windows have neither these files nor what os.sysconf was asked for."""
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "nowhere" / "clear_refs")
    memory.reset_peak(CPU)
    assert 10**7 < memory.peak(CPU) < 10**11
    assert 10**7 < memory.free(CPU) < 10**14
