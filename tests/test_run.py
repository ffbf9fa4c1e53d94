"""Run: python -m pytest -q tests/test_run.py        (about 3 s on one core, no network)

The steps of a training run: numbers, learning rates, when it saves, how it stops and goes on.
"""

import argparse
import json
import signal

import pytest
import torch

import update
from plumbing import rundir, stopping
from plumbing.log import metrics_of
from plumbing.run import Run, lr_scale

FLAGS = {
    "warmup_steps": 2,
    "lr_scheduler_type": "linear",
    "save_steps": 2,
    "eval_steps": 2,
    "save_total_limit": 9,
    "report_to": "none",
    "logging_steps": 1,
}


def make(out, resume=None, **more):
    """A run of one weight, whose model is a file that holds it."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)

    def save_model(directory):
        (directory / "model.txt").write_text(str(weight.item()))

    args = argparse.Namespace(output_dir=str(out), **FLAGS)
    run = Run(args, save_model, 10, optimizer, resume, **more)
    run.weight = weight
    return run


def learn(run, until=None, max_steps=5):
    """Train; send SIGTERM in the step `until`. Returns the numbers of the steps."""
    steps = []
    with run:
        for step in run.steps(max_steps):
            run.optimizer.zero_grad()
            (run.weight * step).sum().backward()
            run.optimizer.step()
            run.log({"rate": run.learning_rate}, ("rate",))
            steps.append(step)
            if step == until:
                signal.raise_signal(signal.SIGTERM)
    return steps


def measured(run, tell=()):
    """Let the run measure its weight, in two batches; send SIGTERM in the first at these calls."""
    calls = []

    def measure(step):
        calls.append(step)
        for batch in range(2):
            stopping.give_way()
            if batch == 0 and len(calls) in tell:
                signal.raise_signal(signal.SIGTERM)
        return {"accuracy": run.weight.item()}

    run.measure = measure
    return calls


def names(out):
    return [path.name for path in rundir.checkpoints(out)]


def test_steps_are_numbered_from_one_and_saved_when_due(tmp_path):
    run = make(tmp_path)
    assert learn(run) == [1, 2, 3, 4, 5]
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    rates = [line["rate"] for line in run.history.lines]
    assert rates == [0.1 * lr_scale(step, 5, 2, "linear") for step in range(5)]
    run.publish()
    assert (tmp_path / "model.txt").is_file() and (tmp_path / "args.json").is_file()


def test_a_signal_lets_the_step_end_and_saves_it_and_the_run_goes_on_as_if_nothing_was(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir(), halves.mkdir()
    learn(make(whole))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        learn(make(halves), until=3)
    assert left.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert names(halves) == ["checkpoint-2", "checkpoint-3"]
    run = make(halves, rundir.checkpoints(halves)[-1])
    assert run.step == 3
    run.weight.data.fill_(float((halves / "checkpoint-3" / "model.txt").read_text()))
    assert learn(run) == [4, 5]
    for name in ("model.txt", "metrics.jsonl"):
        parts = [(out / "checkpoint-5" / name).read_text() for out in (whole, halves)]
        assert parts[0] == parts[1], name


def test_an_evaluation_is_given_up_and_the_resumed_run_does_it_first(tmp_path, capsys):
    """Told to stop in it, and again when it is done again; then the log is that of a whole run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    run = make(whole)
    assert measured(run) == [] and learn(run) == [1, 2, 3, 4, 5]
    run = make(parts)
    calls = measured(run, tell=[2])
    with pytest.raises(SystemExit) as left:
        learn(run)
    assert left.value.code == 143 and calls == [2, 4]
    assert "stopped after step 4, and before its evaluation; go on" in capsys.readouterr().out
    for tell, todo in (([1], None), ([], [5])):
        assert names(parts) == ["checkpoint-2", "checkpoint-4"]
        assert [line["step"] for line in metrics_of(parts / "checkpoint-4")] == [1, 2, 3]
        run = make(parts, parts / "checkpoint-4")
        run.weight.data.fill_(float((parts / "checkpoint-4" / "model.txt").read_text()))
        calls = measured(run, tell)
        if todo is None:
            run.save = None  # it is saved already: 84 GB of a 7B
            with pytest.raises(SystemExit):
                learn(run)
            assert calls == [4]
        else:
            assert learn(run) == todo and calls == [4, 5]
    for file in ("metrics.jsonl", "checkpoint-4/metrics.jsonl", "checkpoint-5/model.txt"):
        assert (whole / file).read_text() == (parts / file).read_text(), file
    ended = rundir.load_state(parts / "checkpoint-4"), rundir.load_state(whole / "checkpoint-4")
    assert ended[0].keys() == ended[1].keys()


def test_the_last_evaluation_is_given_up_and_done_by_a_run_without_steps(tmp_path):
    run = make(tmp_path)
    measured(run, tell=[3])
    with pytest.raises(SystemExit):
        learn(run)
    assert run.history.lines[-1]["step"] == 4
    run = make(tmp_path, tmp_path / "checkpoint-5")
    run.weight.data.fill_(0.25)
    assert measured(run) == [] and learn(run) == []
    assert run.history.at(5)["accuracy"] == 0.25 and run.history.at(5)["rate"] > 0
    assert "unmeasured" not in rundir.load_state(tmp_path / "checkpoint-5")


def test_a_signal_before_a_due_evaluation_begins_none_of_its_batches(tmp_path):
    run = make(tmp_path)
    calls = measured(run)
    step_of = run.optimizer.step

    def told(*given):
        step_of(*given)
        if run.step == 2:
            signal.raise_signal(signal.SIGTERM)

    run.optimizer.step = told
    with pytest.raises(SystemExit):
        learn(run)
    assert calls == [2] and run.unmeasured and names(tmp_path) == ["checkpoint-2"]


def gives_way(run, until, more=None):
    """Train steps that call give_way before their update; send SIGTERM before it in `until`."""
    steps = []
    with run:
        for step in run.steps(5):
            run.optimizer.zero_grad()
            if more is not None:
                more["total"] += step
            (run.weight * step).sum().backward()
            if step == until:
                signal.raise_signal(signal.SIGTERM)
            stopping.give_way()
            run.optimizer.step()
            stopping.give_way()  # the weights have changed: too late
            run.log({"rate": run.learning_rate}, ("rate",))
            steps.append(step)
    return steps


@pytest.mark.parametrize("until, saved", [(4, [2, 3]), (3, [2]), (5, [2, 4])])
def test_a_step_is_given_up_before_its_update_and_done_again(until, saved, tmp_path, capsys):
    """The step before is saved, if it is not; what a step has noted is taken back with it."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    gives_way(make(whole, more=(all_of := {"total": 0.0})), None, all_of)
    run = make(parts, more=(some := {"total": 0.0}))
    with pytest.raises(SystemExit) as left:
        gives_way(run, until, some)
    assert left.value.code == 143
    assert f"stopped after step {until - 1}; go on" in capsys.readouterr().out
    assert names(parts) == [f"checkpoint-{step}" for step in saved]
    last = parts / f"checkpoint-{saved[-1]}"
    assert [line["step"] for line in metrics_of(last)] == list(range(1, until))
    run = make(parts, last, more=some)
    run.weight.data.fill_(float((last / "model.txt").read_text()))
    assert gives_way(run, None, some) == list(range(until, 6))
    assert some == all_of == {"total": 15.0}
    for file in ("metrics.jsonl", "checkpoint-5/model.txt"):
        assert (whole / file).read_text() == (parts / file).read_text(), file


def test_the_first_step_is_ended_and_a_second_update_of_a_step_too(tmp_path):
    """There is no step to go back to; and the weights are those of no step."""
    with pytest.raises(SystemExit):
        gives_way(make(tmp_path), until=1)
    assert names(tmp_path) == ["checkpoint-1"]
    run = make(tmp_path, tmp_path / "checkpoint-1")
    with pytest.raises(SystemExit), run:
        for step in run.steps(5):
            for update in range(2):
                run.optimizer.zero_grad()
                (run.weight * step).sum().backward()
                stopping.give_way()
                run.optimizer.step()
                if (step, update) == (2, 0):
                    signal.raise_signal(signal.SIGTERM)
            run.log({"rate": run.learning_rate})
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_every_optimizer_says_that_the_weights_change(name, tmp_path):
    """Else a step would be given up whose update has begun, and the model saved is that of none."""
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = update.make_optimizer(name, [weight], 0.1)
    args = argparse.Namespace(output_dir=str(tmp_path), **FLAGS)
    run = Run(args, None, 10, optimizer)
    weight.sum().backward()
    run.stop.repeatable = True
    optimizer.step()
    assert not run.stop.repeatable and weight != 0


def test_a_step_that_was_resumed_and_given_up_is_saved_already(tmp_path, monkeypatch):
    learn(make(tmp_path), max_steps=2)
    run = make(tmp_path, tmp_path / "checkpoint-2")
    monkeypatch.setattr(run, "save", None)
    with pytest.raises(SystemExit):
        gives_way(run, until=3)
    assert names(tmp_path) == ["checkpoint-2"]


def test_an_error_in_a_step_puts_the_signals_back_and_saves_nothing(tmp_path):
    run, before = make(tmp_path), signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), run:
        for _ in run.steps(5):
            assert signal.getsignal(signal.SIGTERM) is not before
            raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before and not names(tmp_path)


def test_before_the_first_step_a_signal_is_none_of_its_business(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with make(tmp_path) as run:
        assert signal.getsignal(signal.SIGTERM) is before
        run.log({"accuracy": 0.5})
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 0, "accuracy": 0.5}


def test_a_checkpoint_that_a_killed_run_had_still_to_remove_is_removed_by_the_next(
    tmp_path, monkeypatch
):
    """kill -9 came after checkpoint-4 was written and before checkpoint-2 was removed."""
    with monkeypatch.context() as killed:
        killed.setattr(rundir, "remove_older", lambda *_: None)
        learn(make(tmp_path), max_steps=4)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    monkeypatch.setitem(FLAGS, "save_total_limit", 1)
    assert learn(make(tmp_path, tmp_path / "checkpoint-4"), max_steps=4) == []
    assert names(tmp_path) == ["checkpoint-4"]


def test_a_part_of_a_run_has_a_folder_a_name_and_values_of_its_own(tmp_path, capsys):
    folder = tmp_path / "iteration-1"
    folder.mkdir()
    where = " in the training of iteration 1,"
    with pytest.raises(SystemExit):
        learn(make(tmp_path, folder=folder, more={"total": 1.5}, where=where), until=1)
    assert "stopped in the training of iteration 1, after step 1; go on" in capsys.readouterr().out
    assert names(folder) == ["checkpoint-1"] and not (tmp_path / "args.json").exists()
    kept = {"total": 0.0}
    make(tmp_path, folder / "checkpoint-1", folder=folder, more=kept)
    assert kept == {"total": 1.5}


@pytest.mark.parametrize("every, due", [(0, [5]), (2, [2, 4, 5]), (7, [5])])
def test_due_is_a_multiple_or_the_last(every, due, tmp_path):
    run = make(tmp_path)
    with run:
        assert [step for step in run.steps(5) if run.due(every)] == due
