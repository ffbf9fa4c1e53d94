"""Run: python -m pytest -q tests/test_loading.py        (60 s of one core; no network)

Worker processes that prepare prompts: the same values, order, errors and runs as without them.
"""

import functools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from commands import lines_in, metrics_of, read, same_weights, train
from PIL import Image

import data
import evaluate
import model
import rollout
import selftrain
import tasks
import train_dpo
import train_grpo
import train_sft
from plumbing import loading, stopping
from plumbing.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")


def all_of(encode, rows, steps, num_workers):
    with loading.loading(encode, rows, steps, num_workers) as batches:
        return list(batches)


def same(one, other):
    """Whether two values are the same to the last bit, tensors in them included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, data.Prompt):
        return same(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# --- values and their order ---

BIG = torch.arange(3 * 2**15, dtype=torch.float32).view(3, -1)
VALUES = {
    "nothing": None,
    "a text": "text",
    "a small tensor": torch.arange(5),
    "an empty one": torch.zeros(0, 3),
    "a number": torch.tensor(2.5, dtype=torch.float64),
    "a mask": torch.tensor([True, False]),
    "a row of a large one": BIG[1, :5],
    "columns": BIG[:, :2].T,
    "expanded": torch.arange(4).expand(3, -1),
    "large": BIG,
    "large, transposed": BIG.T,
    "in a tuple": (BIG, [BIG[0], {"a": torch.ones(2)}], 3),
    "twice": [BIG, BIG],
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_travels_to_the_last_bit(kind):
    [[found]] = all_of(lambda row: row, [VALUES[kind]], [[0]], 1)
    assert same(found, VALUES[kind])


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("steps", [[], [[]], [[3]], [[1, 0], [0, 0], [2, 1]], [[0, 1, 2, 3], [4]]])
def test_the_order_is_that_of_the_steps(steps, num_workers):
    found = all_of(lambda row: row * 10, list(range(5)), steps, num_workers)
    assert found == [[10 * place for place in step] for step in steps]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_without_an_end_is_read_as_far_as_it_is_asked(num_workers):
    stream = tasks.read("count")
    ahead = data.batches_ahead(lambda one: one.id, stream, range(3, 10**9), 2, 0, num_workers)
    with ahead as batches:
        assert next(batches) == [example.id for example in data.take(stream, 4, 2, 0)]
        assert next(batches) == [example.id for example in data.take(stream, 6, 2, 0)]


def test_the_examples_of_a_step_are_those_of_take():
    """Over the end of an epoch, for every step."""
    rows = [f"row {i}" for i in range(7)]
    with data.batches_ahead(str, rows, range(1, 8), 3, 5, 2) as batches:
        taken = list(batches)
    assert taken == [data.take(rows, 3 * i, 3, 5) for i in range(7)]
    assert sorted(sum(taken, [])) == sorted(rows * 3)


@pytest.mark.parametrize("forks", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_prompts_of_two_workers_are_those_of_none(tiny, forks, monkeypatch):
    """Spawned as on macOS and Windows, too: there, all that workers need has to pickle."""
    monkeypatch.setattr(loading, "FORKS", forks)
    asker = data.Asker(tiny[1])
    examples = data.head(tasks.read("count"), 6)
    sampling, places, counted = rollout.Sampling(8), [range(1, 5), [5]], []
    for num_workers in (0, 2):
        with rollout.prompts_ahead(asker, examples, sampling, places, num_workers) as batches:
            counted.append(list(batches))
    assert [len(batch) for batch in counted[1]] == [4, 1] and same(*counted)
    assert counted[1][0][0].pixel_values.is_shared()


# --- ahead, and how far ---


def test_two_steps_are_prepared_ahead_and_no_more():
    """Events, not the clock: step 0 is taken, and its four rows come only as 4 to 11 are made."""
    context = multiprocessing.get_context("fork")
    made = [context.Event() for _ in range(40)]
    drawn = []

    def steps():
        for step in range(10):
            drawn.append(step)
            yield range(4 * step, 4 * step + 4)

    def encode(event):
        event.set()
        return os.getpid()

    with loading.loading(encode, made, steps(), 2) as batches:
        pids = set(next(batches))
        assert all(event.wait(60) for event in made[:12])  # while nobody asks for them
        assert len(pids) == 2 and os.getpid() not in pids
        assert not any(event.is_set() for event in made[12:])
        assert max(drawn) <= 3
    assert not multiprocessing.active_children()


def test_an_evaluation_within_a_training_step_has_workers_of_its_own():
    rows = list(range(40))
    training = [range(4 * step, 4 * step + 4) for step in range(10)]
    with loading.loading(str, rows, training, 2) as batches:
        found = [next(batches)]
        for _ in range(2):
            asked = all_of(lambda row: -row, rows, [[5, 6], [7]], 2)
            assert asked == [[-5, -6], [-7]]
            found.append(next(batches))
        found += list(batches)
    assert found == all_of(str, rows, training, 0)
    assert not multiprocessing.active_children()


def test_the_main_process_draws_no_random_number():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    all_of(str, [1, 2], [[0, 1]], 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_worker_computes_on_one_thread():
    threads = all_of(lambda row: torch.get_num_threads(), [0, 1], [[0, 1]], 2)
    assert threads == [[1, 1]]


# --- errors ---


class Odd(Exception):
    """An error that does not pickle."""

    def __init__(self):
        super().__init__("odd")
        self.file = sys.stdout


def fail_at(row, error):
    if row == 5:
        raise error
    return row


ERRORS = {
    "of the user": UserError("a.jsonl:5: the picture is damaged; delete the record"),
    "of the code": KeyError("size"),
    "of the disk": OSError(5, "Input/output error", "a.png"),
    "of memory": MemoryError(),
}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_comes_at_its_step_as_it_is(kind, num_workers):
    error = ERRORS[kind]
    encode = functools.partial(fail_at, error=error)
    steps = [[0, 1], [2, 3], [4, 5], [6, 7]]
    with loading.loading(encode, list(range(8)), steps, num_workers) as batches:
        assert next(batches) == [0, 1] and next(batches) == [2, 3]
        with pytest.raises(type(error)) as raised:
            next(batches)
    assert str(raised.value) == str(error) and vars(raised.value) == vars(error)
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)
    if num_workers:
        assert "in fail_at" in str(raised.value.__cause__)  # the traceback in the worker
    assert not multiprocessing.active_children()


def test_of_two_errors_the_first_in_order_is_said():
    def encode(row):
        raise UserError(f"row {row}")

    with pytest.raises(UserError, match="row 7"):
        all_of(encode, list(range(8)), [[7, 6, 5, 4, 3, 2]], 2)


def test_an_error_that_does_not_pickle_is_still_an_error():
    with pytest.raises(Exception, match="fail_at") as raised:
        all_of(functools.partial(fail_at, error=Odd()), [5], [[0]], 1)
    assert "odd" in str(raised.value)


def test_a_worker_that_is_killed_is_one_sentence():
    """As the system does it when memory is full. DataLoader looks after five seconds of silence."""

    taken = multiprocessing.get_context("fork").Event()

    def encode(row):
        if row == 3:
            taken.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    with loading.loading(encode, list(range(8)), [[0, 1], [2, 3]], 2) as batches:
        assert next(batches) == [0, 1]
        taken.set()
        with pytest.raises(UserError, match="was killed, .*lower --num-workers") as raised:
            next(batches)
    assert "\n" not in str(raised.value)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("full", [True, False])
def test_without_shared_memory_the_pipe_will_do(full, monkeypatch):
    def none_left(tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    if full:
        monkeypatch.setattr(torch.Tensor, "share_memory_", none_left)
    [[found]] = all_of(lambda row: row, [BIG], [[0]], 1)
    assert same(found, BIG) and found.is_shared() != full


def test_more_pictures_ahead_than_open_files_are_usually_allowed():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    try:
        found = all_of(lambda row: BIG + row, list(range(200)), [range(200)], 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all(torch.equal(value, BIG + row) for row, value in enumerate(found[0]))


# --- signals, and ends ---


def test_workers_are_deaf_to_the_signals_that_stop_a_run():
    def encode(row):
        for number in stopping.SIGNALS:
            os.kill(os.getpid(), number)
        return row

    handlers = [signal.getsignal(number) for number in stopping.SIGNALS]
    child = signal.getsignal(signal.SIGCHLD)
    assert all_of(encode, [1, 2], [[0], [1]], 2) == [[1], [2]]
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == handlers
    assert signal.getsignal(signal.SIGCHLD) == child
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


WAITING = """
    import os, signal, sys, time
    from plumbing import stopping
    stopping.watch()
    from plumbing import loading

    def encode(row):
        if row == "hang":
            print("hangs", flush=True)
            time.sleep(600)
        return row

    with loading.loading(encode, ["a", "b", ROW], [[0, 1], [2]], 2) as batches:
        assert next(batches) == ["a", "b"]
        print("ready", flush=True)
        ACT
"""
ENDS = {  # what the main process does, while a worker works or waits: its exit code
    "os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)": 143,
    "os.killpg(os.getpgid(0), signal.SIGINT); time.sleep(600)": 130,
    "sys.exit(3)": 3,
    "raise ValueError": 1,
}


@pytest.mark.parametrize("row", ["hang", "c"])
@pytest.mark.parametrize("act", ENDS)
def test_no_worker_outlives_the_main_process(act, row):
    """The end of the output comes when the last process that has the pipe is gone."""
    if row == "hang" and act in ("sys.exit(3)", "raise ValueError"):
        pytest.skip("DataLoader gives such a worker ten seconds to end by itself")
    body = textwrap.dedent(WAITING).replace("ROW", repr(row)).replace("ACT", act)
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{body}"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == ENDS[act] and b"ready" in said


# --- whole runs ---


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Nine questions about pictures in files, with worked answers."""
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for n in range(9):
        Image.new("RGB", (56 + 28 * n, 84), (25 * n, 90, 120)).save(folder / f"{n}.png")
        line = {"image": f"{n}.png", "question": f"How many? {n}", "answer": str(n % 3)}
        lines.append(line | {"solution": f"<think> {n} </think><answer> {n % 3} </answer>"})
    file = folder / "d.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


SHORT = "--max-completion-length 24 --max-eval-samples 3 --eval-batch-size 2"
TRAIN = f"{SHORT} --learning-rate 1e-3"
SELF = f"{TRAIN} --num-samples 0 --batch-size 4 --iterations 1 --num-train-epochs 0.5"
RUNS = {
    "sft": (train_sft, f"{TRAIN} --batch-size 2 --max-steps 3 --eval-steps 1"),
    "grpo": (
        train_grpo,
        f"{TRAIN} --prompts-per-step 2 --num-generations 2 --max-steps 2 --reward-funcs vowels",
    ),
    "star": (selftrain, f"{SELF} --method star --max-train-samples 6 --direct-weight 0"),
    "mpo": (selftrain, f"{SELF} --method mpo --max-train-samples 4 --max-pairs 1"),
    "evaluate": (evaluate, f"{SHORT} --num-samples 2 --self-select"),
}


@pytest.mark.parametrize("kind", RUNS)
def test_metrics_and_weights_with_two_workers_are_those_of_none(
    kind, base, questions, tmp_path, speaking, toy_reward
):
    script, line = RUNS[kind]
    line = f"--model {base} --data {questions} {line}"
    for n in (0, 2):
        train(script, f"{line} --num-workers {n} --output-dir {tmp_path / str(n)}")
    none, two = tmp_path / "0", tmp_path / "2"
    assert read(two / "args.json")["num_workers"] == 2
    if kind == "evaluate":
        assert (two / "predictions.jsonl").read_bytes() == (none / "predictions.jsonl").read_bytes()
        return
    assert metrics_of(two) == metrics_of(none) and lines_in(two) > 1
    assert same_weights(two, none)


def test_pairs_with_two_workers_are_those_of_none(base, mmpr, tmp_path, speaking):
    line = f"--model {base} --pairs {mmpr} --eval-data count:test {TRAIN} --num-samples 0"
    line += " --max-train-samples 4 --batch-size 2"
    for n in (0, 2):
        train(train_dpo, f"{line} --num-workers {n} --output-dir {tmp_path / str(n)}")
    assert metrics_of(tmp_path / "2") == metrics_of(tmp_path / "0")
    assert same_weights(tmp_path / "2", tmp_path / "0")


DYING = """
    import os, signal
    import train_sft
    from plumbing import plots, rundir, running

    for name in ("plot_samples", "plot_curve"):
        setattr(plots, name, lambda *_, **__: None)
    inner = rundir.save_checkpoint

    def dies(out, step, *more):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(out, step, *more)

    rundir.save_checkpoint = dies
    running.run(train_sft.main, train_sft.parse_args)
"""


def test_killed_and_resumed_at_once_with_two_workers_is_the_same_run(
    base, questions, tmp_path, no_pictures
):
    """At once: the directory's lock, which workers inherit, is free when the main process dies."""
    line = f"--model {base} --data {questions} {TRAIN} --batch-size 2 --max-steps 4 --save-steps 1"
    train(train_sft, f"{line} --num-workers 0 --output-dir {tmp_path / 'whole'}")
    out = tmp_path / "out"
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{textwrap.dedent(DYING)}"
    line = f"{line} --num-workers 2 --output-dir {out}"
    done = subprocess.run([sys.executable, "-c", script, *line.split()], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    train(train_sft, f"{line} --resume-from-checkpoint")
    assert metrics_of(out) == metrics_of(tmp_path / "whole")
    assert same_weights(out, tmp_path / "whole")


def test_a_picture_that_is_gone_is_the_same_sentence(questions, base, tmp_path, no_pictures):
    """Checked before the first step, gone when its turn comes."""
    said = {}
    for n in (0, 2):
        file = tmp_path / str(n) / "d.jsonl"
        file.parent.mkdir()
        for path in questions.parent.iterdir():
            (file.parent / path.name).write_bytes(path.read_bytes())
        examples = tasks.read(str(file))
        (file.parent / "4.png").unlink()
        policy, processor = model.load(base)
        ask = functools.partial(rollout.answer_all, policy, data.Asker(processor), examples)
        with pytest.raises(UserError, match=r"d\.jsonl:5: .*4\.png") as raised:
            ask(rollout.Sampling(4), batch_size=2, num_workers=n)
        said[n] = str(raised.value).replace(str(file.parent), "")
    assert said[0] == said[2]


# --- how many ---

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    "asked, is_toy, device, cores, wanted",
    [
        (None, False, CUDA, 16, 4),
        (None, False, CUDA, 4, 3),
        (None, False, CUDA, 2, 1),
        (None, False, CUDA, 1, 1),
        (None, True, CUDA, 16, 0),
        (None, False, CPU, 16, 0),
        (0, False, CUDA, 16, 0),
        (7, True, CPU, 2, 7),
    ],
)
def test_how_many_workers(asked, is_toy, device, cores, wanted, monkeypatch):
    monkeypatch.setattr(loading, "cores", lambda: cores)
    assert loading.workers(asked, is_toy, device) == wanted
