"""Run: python -m pytest -q tests/test_ranks.py        (about 25 s on a CPU, no network)

Several processes of one run learn what one learns. They are forked here, and talk by gloo.
"""

import os
import signal
import socket
import sys
import traceback
from argparse import Namespace
from functools import partial

import pytest
import torch
from commands import GRPO, SFT, metrics_of, skip_pictures, train, use_toy_reward

import data
import evaluate
import logps
import losses
import model
import rollout
import tasks
import train_dpo
import train_grpo
import train_sft
import update
from plumbing import ranks, records, running
from plumbing.errors import UserError
from reinforcing import objective, shares
from tasks.pairs import read_pairs

LINE = f"{GRPO} --max-eval-samples 3 --learning-rate 1e-3 --save-steps 0"


@pytest.fixture
def quick(monkeypatch):
    use_toy_reward(monkeypatch)
    skip_pictures(monkeypatch)


# --- processes ---


def become(rank, world, port, folder):
    """Make this child a process that torchrun has started, which prints into files."""
    signal.alarm(300)  # one that waits for the others for ever ends, and fails the test
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(folder / f"{name}{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)


def in_processes(world, work, folder):
    """Call work(rank) in so many processes: their exit codes, and what they printed as errors."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                become(rank, world, port, folder)
                work(rank)
                code = 0
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code or 0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    errors = "".join((folder / f"err{rank}").read_text() for rank in range(world))
    return codes, errors


def run_script(script, line, _rank=0):
    running.run(script.main, script.parse_args, line.split(), several=True)


def run_in_processes(world, script, line, out, codes=0):
    """Run a script in so many processes: metrics.jsonl without timings."""
    work = partial(run_script, script, f"{line} --output-dir {out}")
    ended, errors = in_processes(world, work, out.with_name(f"{out.name}.printed"))
    assert ended == [codes] * world, errors
    return metrics_of(out)


def same(some, others, tolerance=1e-6):
    """Compare two lists of metrics."""
    assert len(some) == len(others)
    for one, other in zip(some, others):
        assert one.keys() == other.keys()
        assert other == pytest.approx(one, rel=tolerance, abs=tolerance)


# --- parts ---


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("number", [0, 1, 7, 8])
def test_shares_follow_each_other_and_are_all(world, number, monkeypatch):
    monkeypatch.setattr(ranks, "_world", world)
    found = []
    for rank in range(world):
        monkeypatch.setattr(ranks, "_rank", rank)
        found += ranks.share(number)
    assert found == list(range(number))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("number", [0, 1, 7, 8])
def test_what_is_dealt_is_collected_in_its_order(world, number, monkeypatch):
    monkeypatch.setattr(ranks, "_world", world)
    hands = []
    for rank in range(world):
        monkeypatch.setattr(ranks, "_rank", rank)
        hands.append(list(ranks.dealt(range(number))))
    assert len(hands[0]) - len(hands[-1]) in (0, 1)
    monkeypatch.setattr(ranks, "gathered", lambda own: hands)
    assert ranks.collected(hands[0]) == list(range(number))


def test_a_process_samples_what_it_learns_from(monkeypatch):
    """Its share of each mini-batch: no picture is prepared twice."""
    monkeypatch.setattr(ranks, "_world", 2)
    monkeypatch.setattr(ranks, "_rank", 1)
    assert shares.places(8, 2) == [2, 3, 6, 7]
    assert shares.rows_of([2, 3], 2, 10) == [14, 15, 16, 17]


def gradient_of(policy, processor, path):
    """Save loss, log-probs and gradient of a step of three questions."""
    asker = data.Asker(processor)
    prompts = [asker.prompt(example) for example in data.head(tasks.read("count:test"), 3)]
    lengths = torch.tensor([3, 7, 5, 5, 1, 6])
    mask = (torch.arange(7) < lengths[:, None]).float()  # (B, T)
    targets = torch.randint(10, 90, (6, 7), generator=torch.Generator().manual_seed(0))
    roll = rollout.Rollout(targets, -mask, mask, lengths, ["stop"] * 6)
    weigh = partial(losses.token_weights, loss_type="grpo", max_completion_length=7)
    batches = partial(shares.micro_batches, size=2, where=policy.device)
    columns = torch.tensor([1.0, -1.0, 0.5, -0.5, -2.0, 2.0]), mask, mask, None
    args = train_grpo.parse_args("--model x --data count --output-dir x".split())
    [(_, batch)] = train_grpo.cut(roll, prompts, 1, batches, weigh, *columns)
    trained = [q for q in policy.parameters() if q.requires_grad]
    goal = objective.objective_of(args)
    part = train_grpo.grpo_gradient(policy, batch, logps.token_logps, goal, None)
    loss, logp, *_ = shares.added(*part, trained)
    torch.save((loss, logp, [q.grad for q in trained]), path)


def test_gradients_are_those_of_one_process(tmp_path):
    """In float64: of three questions on two and three processes, and on four, where one is idle."""
    policy, processor = model.load("tiny", seed=0)
    policy.double().requires_grad_(True)
    policy.unused = torch.nn.Parameter(torch.ones(2))  # it never has a gradient

    def work(rank):
        with ranks.together(Namespace(device="cpu"), True):
            gradient_of(policy, processor, tmp_path / f"{ranks.world()}-{rank}")

    for world in (2, 3, 4):
        codes, errors = in_processes(world, work, tmp_path / "printed")
        assert codes == [0] * world, errors
    gradient_of(policy, processor, tmp_path / "one")
    loss, logp, one = torch.load(tmp_path / "one")
    assert max(g.abs().max() for g in one if g is not None) > 1e-2
    for name in ("2-0", "2-1", "3-0", "3-2", "4-0", "4-3"):
        their_loss, their_logp, several = torch.load(tmp_path / name)
        assert their_loss == pytest.approx(loss, abs=1e-10)
        torch.testing.assert_close(their_logp, logp)
        for a, b in zip(one, several):
            assert a is b is None or (a - b).abs().max() <= 1e-10


def preference_gradients(policy, processor, pairs, path):
    """Save metrics, running mean and gradient of two steps of three pairs, by all losses of pairs.

    The references are off zero, so that delta of bco_pair matters.
    """
    asker, names = data.Asker(processor, "none"), tuple(losses.PAIR_LOSSES)
    cost = update.PairLoss(names, (0.8, 0.3, 0.2, 1.0), 0.1, 0.0)
    trained = [q for q in policy.parameters() if q.requires_grad]
    state, found = {"total": 0.0, "count": 0}, []
    for first in (0, 3):
        references = [(-40.0 - 3 * n, -70.0 + 5 * n) for n in range(first, first + 3)]
        rows = [update.encode_row(row, asker) for row in zip(pairs[first:], references)]
        policy.zero_grad()
        metrics = update.prefer(policy, ranks.dealt(rows), state, asker, cost)
        ranks.sum_gradients(trained)
        found.append((metrics, dict(state), [q.grad for q in trained]))
    torch.save(found, path)


def test_gradients_of_pairs_are_those_of_one_process(mmpr, tmp_path):
    """In float64: of three pairs on two and three processes, and on four, where one is idle."""
    policy, processor = model.load("tiny", seed=0)
    policy.double().requires_grad_(True)
    pairs = read_pairs(str(mmpr))

    def work(rank):
        with ranks.together(Namespace(device="cpu"), True):
            path = tmp_path / f"{ranks.world()}-{rank}"
            preference_gradients(policy, processor, pairs, path)

    for world in (2, 3, 4):
        codes, errors = in_processes(world, work, tmp_path / "printed")
        assert codes == [0] * world, errors
    preference_gradients(policy, processor, pairs, tmp_path / "one")
    one = torch.load(tmp_path / "one")
    assert one[0][1]["total"] != 0 and one[1][1]["count"] == 6
    for name in ("2-0", "2-1", "3-0", "3-2", "4-0", "4-3"):
        several = torch.load(tmp_path / name)
        for (metrics, state, gradient), (theirs, their_state, their_gradient) in zip(one, several):
            assert theirs == pytest.approx(metrics, rel=1e-10)
            assert their_state == pytest.approx(state, rel=1e-12)
            assert max(g.abs().max() for g in gradient if g is not None) > 1e-2
            for a, b in zip(gradient, their_gradient):
                assert a is b is None or (a - b).abs().max() <= 1e-10


# --- whole runs ---

GRPO_FLAGS = {
    "lora": "--lora-r 4 --prompts-per-step 6 --updates-per-rollout 2 --beta 0.1",
    "full": "--prompts-per-step 5 --max-resample-times 2 --top-entropy-quantile 0.5",
}
SFT_FLAGS = {
    "lora": "--lora-r 4 --batch-size 5 --per-example --group-by-length",
    # Answers of different lengths, so that the order of rows is not that of the data.
    "full": "--batch-size 5 --micro-batch-size 2 --neftune-noise-alpha 5 --level 3",
}


DPO_FLAGS = {
    "dpo": "--method dpo --batch-size 3",
    "lora": "--method mpo --lora-r 4 --batch-size 5 --num-workers 1",
    "list": "--loss-type bco_pair ipo sigmoid sft --loss-weights 0.2 0.3 0.8 1 --batch-size 4",
}


def grpo_is_the_same(world, flags, base, out, steps):
    line = f"--model {base} {LINE} --num-generations 2 {flags} --max-steps {steps}"
    train(train_grpo, f"{line} --output-dir {out / 'one'}")
    found = run_in_processes(world, train_grpo, line, out / "several")
    same(metrics_of(out / "one"), found)
    assert found[1]["adv_abs"] > 0 and found[1]["grad_norm"] > 0


def sft_is_the_same(world, flags, base, out, steps):
    line = f"--model {base} {SFT} --save-steps 0 --learning-rate 1e-3 {flags} --max-steps {steps}"
    line += " --max-completion-length 250"
    train(train_sft, f"{line} --output-dir {out / 'one'}")
    found = run_in_processes(world, train_sft, line, out / "several")
    same(metrics_of(out / "one"), found)
    return found


def dpo_line(base, mmpr, flags, steps, save_steps=0):
    line = f"--model {base} --pairs {mmpr} --learning-rate 1e-3 --max-completion-length 8 {flags}"
    line += " --eval-data count:test --max-eval-samples 3 --num-samples 2 --eval-batch-size 2"
    return f"{line} --max-steps {steps} --save-steps {save_steps}"


def same_steps(some, others):
    """Compare steps of pairs: what is a difference of log-probs is as exact as these, of 100 nats.

    Their last digit in float32 is 8e-6.
    """
    names = "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen_change", "delta"
    for one, other in zip(some, others):
        differences = [line.pop(name) for line in (one, other) for name in names]
        nats = abs(one["logps/rejected"])
        theirs = differences[len(names) :]
        assert theirs == pytest.approx(differences[: len(names)], rel=1e-6, abs=1e-6 * nats)
    same(some, others)


def same_pair_runs(one, several):
    """Compare what is measured, the training's steps, the reference's log-probs, and answers."""
    same(metrics_of(one), metrics_of(several))
    same_steps(metrics_of(one / "iteration-1"), metrics_of(several / "iteration-1"))
    names = {path.relative_to(one) for path in one.rglob("iteration-*/*.jsonl")}
    assert names == {path.relative_to(several) for path in several.rglob("iteration-*/*.jsonl")}
    kept = [name for name in names if name.name != "metrics.jsonl"]
    assert len(kept) == 7  # two evaluations of two files, the reference, pairs, their pictures
    for name in kept:
        assert records.read_lines(one / name) == records.read_lines(several / name)


def dpo_is_the_same(world, flags, base, mmpr, out, steps):
    line = dpo_line(base, mmpr, flags, steps)
    train(train_dpo, f"{line} --output-dir {out / 'one'}")
    run_in_processes(world, train_dpo, line, out / "several")
    same_pair_runs(out / "one", out / "several")
    last = metrics_of(out / "several" / "iteration-1")[-1]
    assert last["rewards/margins"] > 0 and last["delta"] != 0


def test_dpo_on_two_processes(base, mmpr, tmp_path, quick, monkeypatch):
    real = model.save

    def save(*given):
        assert ranks.rank() == 0, "only the first writes models: others have no room for them"
        real(*given)

    monkeypatch.setattr(model, "save", save)
    dpo_is_the_same(2, DPO_FLAGS["dpo"], base, mmpr, tmp_path, steps=2)


def test_grpo_on_two_processes(base, tmp_path, quick):
    grpo_is_the_same(2, GRPO_FLAGS["full"], base, tmp_path, steps=2)
    assert not list(tmp_path.glob("several/*.tmp")), "only the first writes"


def test_sft_on_two_processes(base, tmp_path, quick, short_answers):
    sft_is_the_same(2, SFT_FLAGS["full"], base, tmp_path, steps=2)


@pytest.fixture
def short_answers(monkeypatch):
    """An untrained model talks to the end: it is asked for a few tokens, though taught more."""
    real = rollout.answer_all

    def few(policy, asker, examples, sampling, **more):
        return real(policy, asker, examples, rollout.Sampling(4, 0), **more)

    monkeypatch.setattr(rollout, "answer_all", few)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRPO_FLAGS)
@pytest.mark.parametrize("world", [2, 3])
def test_grpo_is_the_same(kind, world, base, tmp_path, quick):
    grpo_is_the_same(world, GRPO_FLAGS[kind], base, tmp_path, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SFT_FLAGS)
@pytest.mark.parametrize("world", [2, 3])
def test_sft_is_the_same(kind, world, base, tmp_path, quick, short_answers):
    sft_is_the_same(world, SFT_FLAGS[kind], base, tmp_path, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DPO_FLAGS)
@pytest.mark.parametrize("world", [2, 3])
def test_dpo_is_the_same(kind, world, base, mmpr, tmp_path, quick):
    dpo_is_the_same(world, DPO_FLAGS[kind], base, mmpr, tmp_path, steps=3)


# --- ends ---


def dying(call, how, monkeypatch, module=rollout, name="rollout"):
    """Let the second process end at this call of a function."""
    real, calls = getattr(module, name), []

    def called(*given, **more):
        calls.append(1)
        if ranks.rank() == 1 and len(calls) == call:
            how()
        return real(*given, **more)

    monkeypatch.setattr(module, name, called)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise UserError("this process cannot go on")


def test_an_error_in_one_process_ends_all_with_its_sentence(base, tmp_path, quick, monkeypatch):
    line = f"--model {base} {LINE} --prompts-per-step 2 --num-generations 2 --max-steps 2"
    dying(2, fail, monkeypatch)
    work = partial(run_script, train_grpo, f"{line} --output-dir {tmp_path / 'out'}")
    codes, errors = in_processes(2, work, tmp_path / "printed")
    assert codes == [2, 2]
    said = [line for line in errors.splitlines() if "error" in line]
    assert said == ["error: this process cannot go on"]


def test_a_signal_to_one_process_in_an_evaluation_ends_all(
    base, tmp_path, quick, short_answers, monkeypatch
):
    """The second asks two of three questions, one at a time, and is told to stop in the first."""
    line = f"--model {base} {SFT} --max-eval-samples 3 --eval-batch-size 1 --max-steps 1"
    line = f"{line} --learning-rate 1e-3 --save-steps 0"
    out, one = tmp_path / "out", tmp_path / "one"
    with monkeypatch.context() as patch:
        dying(1, lambda: signal.raise_signal(signal.SIGTERM), patch)
        work = partial(run_script, train_sft, f"{line} --output-dir {out}")
        codes, errors = in_processes(2, work, tmp_path / "printed")
    assert codes == [130, 143], errors  # torchrun tells all, and all say 143
    assert metrics_of(out) == [] and (out / "checkpoint-1").is_dir()
    train(train_sft, f"{line} --output-dir {one}")
    found = run_in_processes(2, train_sft, f"{line} --resume-from-checkpoint", out)
    same(metrics_of(one), found)


# In which call of a function the second process is told. Before: three of an evaluation, or two and
# the preflight, and one of the first step.
GIVEN_UP = {"while it samples": (rollout, "rollout"), "in a gradient": (logps, "token_logps")}


@pytest.mark.parametrize("where", GIVEN_UP)
def test_a_signal_to_one_process_gives_up_the_step_of_all(
    where, base, tmp_path, quick, monkeypatch
):
    """The other two wait for it at different places. Three questions, one a process."""
    line = f"--model {base} {LINE} --prompts-per-step 3 --num-generations 2 --max-steps 2"
    line = line.replace("--save-steps 0", "--save-steps 0 --eval-steps 0")
    out, one = tmp_path / "out", tmp_path / "one"
    with monkeypatch.context() as patch:
        dying(5, lambda: signal.raise_signal(signal.SIGTERM), patch, *GIVEN_UP[where])
        work = partial(run_script, train_grpo, f"{line} --output-dir {out}")
        codes, errors = in_processes(3, work, tmp_path / "printed")
    assert codes == [130, 143, 130], errors
    assert [line["step"] for line in metrics_of(out)] == [0, 1]
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]
    train(train_grpo, f"{line} --output-dir {one}")
    found = run_in_processes(2, train_grpo, f"{line} --resume-from-checkpoint", out)
    same(metrics_of(one), found)


@pytest.mark.slow
def test_killed_on_two_processes_and_resumed_on_one(base, tmp_path, quick, monkeypatch):
    line = f"--model {base} {LINE} --prompts-per-step 3 --num-generations 2 --max-steps 4"
    line = line.replace("--save-steps 0", "--save-steps 1 --eval-steps 0")
    train(train_grpo, f"{line} --output-dir {tmp_path / 'one'}")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        dying(7, kill, patch)  # in the third or fourth step
        work = partial(run_script, train_grpo, f"{line} --output-dir {out}")
        codes, errors = in_processes(2, work, tmp_path / "printed")
    assert codes == [2, -signal.SIGKILL]
    said = [line for line in errors.splitlines() if "error" in line]
    assert len(said) == 1 and "another process of this run ended" in said[0], errors
    before = len(metrics_of(out))
    assert 2 < before < 5, "it was killed in the middle"
    train(train_grpo, f"{line} --resume-from-checkpoint --output-dir {out}")
    same(metrics_of(tmp_path / "one"), metrics_of(out))


DEATHS = {
    "in an evaluation": (rollout, "rollout", 2),
    "in the reference": (update, "pair_logps", 2),
    "in a step": (update, "pair_logps", 8),  # 3 calls of the reference, then 2 a step
}


@pytest.mark.slow
@pytest.mark.parametrize("then", [1, 3])
@pytest.mark.parametrize("where", DEATHS)
def test_dpo_killed_on_two_processes_and_resumed(
    where, then, base, mmpr, tmp_path, quick, monkeypatch
):
    line = dpo_line(base, mmpr, "--method mpo --batch-size 4", 4, save_steps=1)
    train(train_dpo, f"{line} --output-dir {tmp_path / 'one'}")
    module, name, call = DEATHS[where]
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        dying(call, kill, patch, module, name)
        work = partial(run_script, train_dpo, f"{line} --output-dir {out}")
        codes, errors = in_processes(2, work, tmp_path / "printed")
    assert codes == [2, -signal.SIGKILL]
    said = [line for line in errors.splitlines() if "error" in line]
    assert len(said) == 1 and "another process of this run ended" in said[0], errors
    kept = out / "iteration-1" / "reference.jsonl"
    lines = len(records.read_lines(kept))
    assert lines == {"in an evaluation": 0, "in the reference": 2, "in a step": 6}[where]
    steps = [path.name for path in out.glob("iteration-1/checkpoint-*")]
    assert bool(steps) == (where == "in a step")
    run_in_processes(then, train_dpo, f"{line} --resume-from-checkpoint", out)
    same_pair_runs(tmp_path / "one", out)


def test_a_script_of_one_process_refuses_several(tmp_path):
    line = f"--model tiny --data count:test --output-dir {tmp_path / 'out'}"

    def work(_rank):
        running.run(evaluate.main, evaluate.parse_args, line.split())

    codes, errors = in_processes(2, work, tmp_path / "printed")
    assert codes == [2, 2]
    assert errors.count("error: ") == 1 and "start it with python, not with torchrun" in errors
