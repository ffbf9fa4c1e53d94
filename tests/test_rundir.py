"""The output directory of a run: checkpoints, hashes, lock, log. No model is needed."""

import contextlib
import json
import math
import os
import pickle
import re
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from plumbing import disk, lock, records, rundir, sums
from plumbing.errors import UserError
from plumbing.log import MetricsLog, metrics_of

ROOT = Path(__file__).resolve().parents[1]

# --- checkpoints ---


class Log:
    """What a checkpoint needs of a MetricsLog."""

    def __init__(self, *steps):
        self.lines = [{"step": step, "loss": step / 2} for step in steps]


def model_writer(text="weights"):
    return lambda directory: (directory / "model.txt").write_text(text)


def save(out, step, keep=2, text="weights", **state):
    state = {"rng": torch.arange(3), **state}
    rundir.save_checkpoint(out, step, model_writer(text), state, Log(), keep)


def names(out):
    return [p.name for p in rundir.checkpoints(out)]


def test_checkpoint_holds_the_model_and_the_state(tmp_path):
    save(tmp_path, 3, moments={"m": torch.ones(2)}, position=17)
    state = rundir.load_state(tmp_path / "checkpoint-3")
    assert (tmp_path / "checkpoint-3" / "model.txt").read_text() == "weights"
    assert (
        state["step"] == 3
        and state["position"] == 17
        and torch.equal(state["moments"]["m"], torch.ones(2))
        and torch.equal(state["rng"], torch.arange(3))
    )
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]  # nothing temporary is left


def test_state_is_not_written_to(tmp_path):
    state = {"position": 1}
    rundir.save_checkpoint(tmp_path, 4, model_writer(), state, Log(), 1)
    assert state == {"position": 1}


def test_a_save_that_fails_half_way_leaves_the_earlier_checkpoint_and_no_new_one(tmp_path):
    save(tmp_path, 1)

    def full_disk(directory):
        (directory / "model.txt").write_text("half")
        raise OSError("no space left on device")

    for step in (1, 2):  # also over a checkpoint of the same step
        with pytest.raises(OSError, match="no space"):
            rundir.save_checkpoint(tmp_path, step, full_disk, {}, Log(), 1)
        assert names(tmp_path) == ["checkpoint-1"] and not (tmp_path / "checkpoint-2").exists()
        assert (tmp_path / "checkpoint-1" / "model.txt").read_text() == "weights"
    save(tmp_path, 2)  # what it left behind is not in the way
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert (tmp_path / "checkpoint-2" / "model.txt").read_text() == "weights"


def test_a_state_that_cannot_be_written_leaves_no_checkpoint(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        rundir.save_checkpoint(tmp_path, 1, model_writer(), {"callback": lambda: None}, Log(), 1)
    assert names(tmp_path) == []


def test_a_step_saved_again_replaces_the_first(tmp_path):
    save(tmp_path, 1, text="old")
    (tmp_path / "checkpoint-1" / "stale.txt").touch()
    save(tmp_path, 1, text="new")
    inside = sorted(p.name for p in (tmp_path / "checkpoint-1").iterdir())
    assert inside == ["SHA256SUMS", "metrics.jsonl", "model.txt", "state.pt"]
    assert (tmp_path / "checkpoint-1" / "model.txt").read_text() == "new"


def test_rotation_keeps_the_newest_by_number(tmp_path):
    for step in (8, 9, 10, 100):  # as text, 9 is after 100
        save(tmp_path, step)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-100"]
    save(tmp_path, 101, keep=1)
    assert names(tmp_path) == ["checkpoint-101"]
    save(tmp_path, 102, keep=5)
    assert names(tmp_path) == ["checkpoint-101", "checkpoint-102"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_rotation_after_going_back_keeps_what_was_just_written(tmp_path, keep):
    """--resume-from-checkpoint out/checkpoint-20 while checkpoint-40 is there.

    Rotation went by number alone: with --save-total-limit 1 it deleted checkpoint-30 as soon as it
    was written, and "newest" went on from the abandoned 40. It happened with every such resume.
    """
    for step in (20, 40):
        save(tmp_path, step)
    rundir.set_aside_later(tmp_path, tmp_path / "checkpoint-20")
    save(tmp_path, 30, keep=keep)
    assert names(tmp_path)[-1] == "checkpoint-30"
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-30"][-keep:]


def test_checkpoints_ignores_what_is_not_one(tmp_path):
    save(tmp_path, 5)
    for name in (".checkpoint-6.tmp", "checkpoint-x", "checkpoint-8-old", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert names(tmp_path) == ["checkpoint-5"]
    assert rundir.checkpoints(tmp_path / "nowhere") == []


def test_a_damaged_state_is_the_users_to_mend(tmp_path):
    save(tmp_path, 5)
    file = tmp_path / "checkpoint-5" / "state.pt"
    whole = file.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(
            UserError, match="checkpoint-5.state.pt cannot be read.*resume from the one before"
        ) as error:
            rundir.load_state(tmp_path / "checkpoint-5")
        assert "\n" not in str(error.value)


def test_state_is_read_without_running_code_in_it(tmp_path):
    """weights_only: a checkpoint from the internet must not be a program."""
    (tmp_path / "checkpoint-1").mkdir()
    torch.save({"step": 1, "x": Namespace(a=1)}, tmp_path / "checkpoint-1" / "state.pt")
    with pytest.raises(UserError):
        rundir.load_state(tmp_path / "checkpoint-1")


def test_publish_puts_the_model_into_the_directory_itself(tmp_path):
    (tmp_path / "model.txt").write_text("of the run before")
    (tmp_path / "metrics.jsonl").write_text("kept")
    rundir.publish(tmp_path, model_writer("final"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "SHA256SUMS",
        "metrics.jsonl",
        "model.txt",
    ]
    assert (tmp_path / "model.txt").read_text() == "final"


# --- the output directory ---


def output(path, resume=None):
    return Namespace(output_dir=str(path), resume_from_checkpoint=resume, max_steps=None, argv=[])


def test_a_fresh_directory_is_made(tmp_path):
    assert rundir.open_output_dir(output(tmp_path / "a" / "b")) is None
    assert (tmp_path / "a" / "b").is_dir() and not any((tmp_path / "a" / "b").iterdir())


def test_a_directory_that_holds_a_run_is_not_overwritten(tmp_path):
    save(tmp_path, 3)
    with pytest.raises(UserError, match="checkpoint-3.*--resume-from-checkpoint.*--output-dir"):
        rundir.open_output_dir(output(tmp_path))
    assert names(tmp_path) == ["checkpoint-3"]


def test_other_files_in_the_directory_are_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert rundir.open_output_dir(output(tmp_path)) is None
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_takes_the_newest_and_says_so(tmp_path, capsys):
    for step in (9, 10):
        save(tmp_path, step)
    assert rundir.open_output_dir(output(tmp_path, "newest")) == tmp_path / "checkpoint-10"
    assert "checkpoint-10" in capsys.readouterr().out


def test_resuming_where_nothing_is_yet_starts_over_and_says_so(tmp_path, capsys):
    assert rundir.open_output_dir(output(tmp_path / "new", "newest")) is None
    assert "starting from the beginning" in capsys.readouterr().out


def test_resuming_from_a_named_checkpoint(tmp_path):
    for step in (9, 10):
        save(tmp_path, step)
    assert (
        rundir.open_output_dir(output(tmp_path, str(tmp_path / "checkpoint-9")))
        == tmp_path / "checkpoint-9"
    )
    with pytest.raises(
        UserError, match="is not a checkpoint in --output-dir.*--model"
    ):  # its metrics would be missing
        rundir.open_output_dir(output(tmp_path / "elsewhere", str(tmp_path / "checkpoint-9")))
    for wrong in (tmp_path, tmp_path / "checkpoint-11"):
        with pytest.raises(UserError, match="is not a checkpoint.*checkpoint-10"):
            rundir.open_output_dir(output(tmp_path, str(wrong)))


def test_a_resumed_run_is_the_run_that_was_interrupted(tmp_path):
    """Flags that are not typed again keep their value; a changed one is refused.

    But for those that say how long, how often or in what portions.
    """
    was = {
        "script": "train_grpo.py",
        "seed": 0,
        "lora_r": 8,
        "quant": "nf4",
        "dtype": "float32",
        "learning_rate": 1e-4,
        "eval_data": ["count:test"],
        "save_steps": 5,
        "max_steps": 9,
    }
    save(tmp_path, 9)
    records.write_record(tmp_path / "checkpoint-9" / "args.json", was)

    def flags(**changes):
        return Namespace(
            **{
                **vars(output(tmp_path, "newest")),
                "script": "train_grpo.py",
                "seed": 0,
                "lora_r": None,
                "quant": None,
                "dtype": "auto",
                "learning_rate": None,
                "eval_data": [],
                "save_steps": 100,
                "max_steps": None,
                **changes,
                "argv": [f"--{name.replace('_', '-')}=..." for name in changes],
            }
        )

    args = flags()
    assert rundir.open_output_dir(args) == tmp_path / "checkpoint-9" and [
        args.save_steps,
        args.max_steps,
    ] == [5, 9]
    args = flags(num_train_epochs=2.0)  # which would count for nothing beside the old --max-steps
    assert rundir.open_output_dir(args) == tmp_path / "checkpoint-9" and [
        args.save_steps,
        args.max_steps,
    ] == [5, None]
    args = flags(save_steps=7, max_steps=12)
    assert rundir.open_output_dir(args) == tmp_path / "checkpoint-9"
    assert [
        args.lora_r,
        args.quant,
        args.dtype,
        args.learning_rate,
        args.eval_data,
        args.save_steps,
        args.max_steps,
    ] == [8, "nf4", "float32", 1e-4, ["count:test"], 7, 12]
    for changes, words in (
        ({"seed": 1}, "--seed was 0"),
        ({"quant": "none"}, "--quant was nf4"),
        ({"learning_rate": 2e-4}, "--learning-rate was 0.0001"),
        ({"script": "train_sft.py"}, "this script was train_grpo.py"),
        ({"max_steps": 8}, "past --max-steps 8"),
    ):
        with pytest.raises(UserError, match=words):
            rundir.open_output_dir(flags(**changes))


def test_what_a_killed_save_left_is_removed(tmp_path):
    (tmp_path / ".checkpoint-4.tmp").mkdir()
    (tmp_path / ".checkpoint-4.tmp" / "state.pt").touch()
    (tmp_path / ".args.json.part").touch()
    (tmp_path / ".hidden").touch()
    with lock.claim(output(tmp_path)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".hidden"]


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    """Below a regular file, and in its place: these fail for root, too."""
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "out", tmp_path / "file", tmp_path / ("n" * 300)):
        with pytest.raises(
            UserError, match="--output-dir .* cannot be written to .*another directory"
        ) as error:
            rundir.open_output_dir(output(path))
        assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere"
)
def test_a_read_only_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written to"):
        rundir.open_output_dir(output(tmp_path))


# --- the log ---


def steps(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_one_line_a_step(tmp_path, capsys):
    log = MetricsLog(tmp_path, every=2)
    for step in range(5):
        log.log(
            step,
            {"reward": step / 4, "eval/accuracy": 0.25},
            show=["reward", "eval/accuracy", "absent"],
            last=step == 4,
        )
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": s, "reward": s / 4, "eval/accuracy": 0.25} for s in range(5)
    ]
    shown = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in shown] == [0, 2, 4]
    assert "reward 0.5" in shown[1] and "accuracy 0.25" in shown[1] and "absent" not in shown[1]
    assert log.path == tmp_path / "metrics.jsonl" and [p.name for p in tmp_path.iterdir()] == [
        "metrics.jsonl"
    ]


def test_the_last_step_is_shown_whatever_the_interval(tmp_path, capsys):
    MetricsLog(tmp_path, every=10).log(7, {"loss": 1.0}, show=["loss"], last=True)
    assert "step     7  loss 1" in capsys.readouterr().out


def test_numbers_that_json_has_not_are_null(tmp_path):
    log = MetricsLog(tmp_path)
    log.log(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e300, "e": 0})
    line = log.path.read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {
        "step": 0,
        "a": None,
        "b": None,
        "c": None,
        "d": 1e300,
        "e": 0,
    }


def test_metrics_given_are_not_written_to(tmp_path):
    metrics = {"a": math.nan, "b": 1.0}
    MetricsLog(tmp_path).log(0, metrics)
    assert set(metrics) == {"a", "b"} and math.isnan(metrics["a"])


def test_a_new_run_begins_a_new_log(tmp_path):
    MetricsLog(tmp_path).log(0, {"a": 1})
    MetricsLog(tmp_path)
    assert steps(tmp_path) == []


def test_a_run_that_goes_on_writes_the_log_of_its_checkpoint_again(tmp_path):
    """Whatever has happened to the file: lines of lost steps, half a line, nothing, a folder."""
    log = MetricsLog(tmp_path)
    for step in range(4):
        log.log(step, {"a": step})
    rundir.save_checkpoint(tmp_path, 3, model_writer(), {}, log, 1)
    for text in ("", '{"step": 7, "a"', "5\n{}\n", '{"step": 0, "a": 9}\n', None):
        log.path.unlink(missing_ok=True)
        if text is not None:
            log.path.write_text(text)
        resumed = MetricsLog(tmp_path, metrics_of(tmp_path / "checkpoint-3"))
        resumed.log(4, {"a": 4})
        assert [line["a"] for line in records.read_lines(log.path)] == [0, 1, 2, 3, 4]
        assert resumed.at(2) == {"step": 2, "a": 2}


def test_lines_for_pictures_leave_out_what_is_broken(tmp_path):
    assert records.read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert records.read_lines(tmp_path / "m.jsonl") == [{"step": 1}]


def test_two_logs_are_two_runs_of_wandb(tmp_path, monkeypatch):
    """selftrain.py has a log for its iterations and one for the steps of each.

    As one run, whose steps must not go back, most lines would be lost.
    """
    begun = []
    monkeypatch.setitem(
        sys.modules,
        "wandb",
        Namespace(
            init=lambda **flags: begun.append(flags) or Namespace(log=lambda metrics, step: None)
        ),
    )
    for out in (tmp_path / "r3v", tmp_path / "r3v" / "iteration-1"):
        out.mkdir()
        MetricsLog(out, report_to="wandb").log(1, {"loss": 1.0})
    assert [run["reinit"] for run in begun] == ["create_new"] * 2 and begun[1][
        "name"
    ] == "r3v/iteration-1" != begun[0]["name"]
    assert begun[0]["id"] != begun[1]["id"]
    MetricsLog(tmp_path / "r3v", [{"step": 1}], report_to="wandb")
    assert begun[2]["id"] == begun[0]["id"], "a run that goes on is one run there, too"
    MetricsLog(tmp_path / "r3v", report_to="wandb")
    assert begun[3]["id"] not in (begun[0]["id"], begun[1]["id"])


@pytest.mark.parametrize(
    "service, module", [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")]
)
def test_a_missing_service_says_what_to_install(tmp_path, monkeypatch, service, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install {service}"):
        MetricsLog(tmp_path, report_to=service)


# --- hashes ---


def damages(whole):
    """The bytes of a file, damaged in ways that a disk, an editor and a person know."""
    middle = len(whole) // 2
    return {
        "empty": b"",
        "cut": whole[:middle],
        "one byte": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "longer": whole + b"\n",
        "first line gone": whole.partition(b"\n")[2],
        "last line gone": whole[:-1].rpartition(b"\n")[0] + b"\n",
        "zeros": bytes(len(whole)),
        "another's": whole[::-1],
    }


@pytest.mark.parametrize("name", ["model.txt", "state.pt", "metrics.jsonl", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_named_and_a_whole_one_beside_it(tmp_path, name):
    for step in (3, 6):
        save(tmp_path, step, text="one line\ntwo lines\n", keep=3)
    file = tmp_path / "checkpoint-6" / name
    whole = file.read_bytes() if name != "metrics.jsonl" else b""
    kinds = damages(whole) if whole else {"longer": b"{}\n"}
    for damaged in [*kinds.values(), None]:
        file.unlink()
        if damaged is None:
            file.mkdir()
        else:
            file.write_bytes(damaged)
        with pytest.raises(
            UserError, match=rf"checkpoint-6/.*{name}.*; checkpoint-3 is whole"
        ) as error:
            rundir.open_output_dir(output(tmp_path, "newest"))
        # the remedy that it names
        remedy = str(error.value).split("--resume-from-checkpoint ")[1]
        assert rundir.open_output_dir(output(tmp_path, remedy)) == tmp_path / "checkpoint-3"
    file.rmdir()
    file.write_bytes(whole)
    assert rundir.open_output_dir(output(tmp_path, "newest")) == tmp_path / "checkpoint-6"


def test_a_damaged_checkpoint_alone_is_deleted_and_the_run_starts_over(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "checkpoint-3" / "model.txt").unlink()
    with pytest.raises(
        UserError, match="model.txt is missing; no other .* delete .*checkpoint-3, "
    ):
        rundir.open_output_dir(output(tmp_path, "newest"))
    rundir.remove(tmp_path / "checkpoint-3")
    assert rundir.open_output_dir(output(tmp_path, "newest")) is None


@pytest.mark.parametrize("model_is_whole", [True, False])
def test_a_damaged_checkpoint_of_a_finished_run_is_not_to_be_deleted(tmp_path, model_is_whole):
    """Nothing starts over beside a saved model: that remedy was refused."""
    save(tmp_path, 3)
    rundir.publish(tmp_path, model_writer())
    (tmp_path / "checkpoint-3" / "model.txt").unlink()
    if not model_is_whole:
        (tmp_path / "model.txt").write_text("changed")
    with pytest.raises(UserError, match="no other .* train again in another --output-dir") as said:
        rundir.open_output_dir(output(tmp_path, "newest"))
    assert f"(the model in {tmp_path} is whole)" in str(said.value) or not model_is_whole
    assert "delete" not in str(said.value) and ("whole)" in str(said.value)) == model_is_whole
    assert rundir.open_output_dir(output(tmp_path / "again")) is None


def test_a_file_in_place_of_a_checkpoint_is_said(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "checkpoint-6").write_text("")
    with pytest.raises(UserError, match="checkpoint-6 is no folder; checkpoint-3 is whole"):
        rundir.open_output_dir(output(tmp_path, "newest"))


def test_a_renamed_checkpoint_is_said(tmp_path):
    save(tmp_path, 3)
    os.replace(tmp_path / "checkpoint-3", tmp_path / "checkpoint-5")
    with pytest.raises(
        UserError, match="checkpoint-5 holds step 3: it was renamed; name it checkpoint-3"
    ):
        rundir.load_state(tmp_path / "checkpoint-5")


def test_the_sums_are_those_of_sha256sum(tmp_path):
    """An independent reader: the format is coreutils'."""
    save(tmp_path, 3)
    where = {"cwd": tmp_path / "checkpoint-3", "capture_output": True, "text": True}
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], **where)
    assert done.returncode == 0 and done.stdout.count(": OK") == 3, done.stderr
    (tmp_path / "checkpoint-3" / "model.txt").write_text("other")
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], **where)
    assert done.returncode == 1 and "model.txt: FAILED" in done.stdout


def test_a_damaged_model_is_refused_and_a_foreign_one_is_not(tmp_path):
    rundir.publish(tmp_path, model_writer("final"))
    rundir.check_model_files(tmp_path)
    (tmp_path / "model.txt").write_text("fatal")
    with pytest.raises(UserError, match="model.txt is damaged.*delete SHA256SUMS"):
        rundir.check_model_files(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()  # as the sentence says
    rundir.check_model_files(tmp_path)


def test_a_half_published_model_does_not_pass(tmp_path, monkeypatch):
    real, moved = os.replace, []

    def dies(source, target):
        moved.append(Path(target).name)
        if moved[1:] == [
            "SHA256SUMS",
            "args.json",
            "model.txt",
        ]:  # the sums are written by the first
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        rundir.publish(tmp_path, model_writer("final"))
    with pytest.raises(UserError, match="model.txt is missing"):
        rundir.check_model_files(tmp_path)
    assert rundir.is_half_published(tmp_path)
    monkeypatch.undo()
    rundir.publish(tmp_path, model_writer("final"))
    assert not rundir.is_half_published(tmp_path)


def test_a_model_of_another_kind_leaves_nothing_of_the_one_before(tmp_path):
    """An adapter_config.json beside new weights would be loaded in their place."""
    (tmp_path / "notes.txt").write_text("mine")
    rundir.publish(tmp_path, lambda folder: (folder / "adapter_config.json").write_text("old"))
    rundir.publish(tmp_path, model_writer("new"))
    assert {p.name for p in tmp_path.iterdir()} == {"SHA256SUMS", "model.txt", "notes.txt"}


def test_a_model_may_have_folders(tmp_path):
    """transformers 5 writes the templates of a tokenizer that has several into one."""

    def nested(folder):
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tools.jinja").write_text("x")

    rundir.save_checkpoint(tmp_path, 1, nested, {}, Log(), 1)
    rundir.publish(tmp_path, nested)
    rundir.publish(tmp_path, nested)
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert sums.fault_of(folder) is None
        (folder / "additional_chat_templates" / "tools.jinja").write_text("y")
        assert "additional_chat_templates/tools.jinja is damaged" in sums.fault_of(folder)


def test_a_checkpoint_of_an_earlier_version_is_not_called_damaged(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "checkpoint-3" / "SHA256SUMS").unlink()
    said = "SHA256SUMS is missing; an earlier version saved it.*--output-dir with --model .*-3"
    with pytest.raises(UserError, match=said):
        rundir.open_output_dir(output(tmp_path, "newest"))
    rundir.check_model_files(tmp_path / "checkpoint-3")  # as the sentence says


def test_sums_of_elsewhere_are_not_ours(tmp_path):
    """A checkpoint of the hub has another tool's list, which may name what was not fetched."""
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  pytorch_model.bin\n")
    rundir.check_model_files(tmp_path)


def test_a_file_that_changes_is_compared_again(tmp_path):
    save(tmp_path, 3)
    file = tmp_path / "checkpoint-3" / "model.txt"
    assert sums.fault_of(file.parent) is None
    file.write_text("other content")
    assert "is damaged" in sums.fault_of(file.parent)


def test_a_checkpoint_by_another_name_is_that_checkpoint(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "latest").symlink_to(tmp_path / "checkpoint-3")
    path = rundir.open_output_dir(output(tmp_path, str(tmp_path / "latest")))
    assert path == tmp_path / "checkpoint-3"


def test_only_what_a_run_leaves_is_tidied_up(tmp_path):
    """--output-dir . in a home directory: other programs have hidden files."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / ".step_000002.part.png").touch()
    for name in (".mine.tmp", ".video.mp4.part", ".checkpoint-3.tmp", ".args.json.part"):
        (tmp_path / name).touch()
    with lock.claim(output(tmp_path)):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"samples", ".mine.tmp", ".video.mp4.part"}
    assert not any((tmp_path / "samples").iterdir())


# --- going back ---


@contextlib.contextmanager
def killed_at(moment, monkeypatch):
    """End at this change of a name or removal. Yields [how many are left]: above 0, none came."""
    left = [moment]

    def dies(real):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(os, name, dies(getattr(os, name)))
        yield left


def test_going_back_leaves_at_every_moment_a_directory_that_resumes(tmp_path, monkeypatch):
    """Killed at each change of a name or removal; what is resumed then has its own metrics."""
    for moment in range(1, 40):
        out = tmp_path / str(moment)
        out.mkdir()
        for step in (2, 4, 6):
            log = Log(*range(1, step + 1))
            rundir.save_checkpoint(out, step, model_writer(), {}, log, 3)
        with killed_at(moment, monkeypatch) as left:
            resume = rundir.open_output_dir(output(out, str(out / "checkpoint-2")))
            rundir.set_aside_later(out, resume)
            rundir.save_checkpoint(out, 3, model_writer(), {}, Log(1, 2, 3), 3)
        path = rundir.open_output_dir(output(out, "newest"))
        step = rundir.load_state(path)["step"]
        assert [line["step"] for line in metrics_of(path)] == list(range(1, step + 1))
        if left[0] > 0:
            break
    assert moment > 8 and names(out) == ["checkpoint-2", "checkpoint-3"]
    assert not list(out.glob(".*"))


def test_a_step_saved_again_is_there_at_every_moment(tmp_path, monkeypatch):
    """Its evaluation was given up, and is done now; no other checkpoint is there to resume."""
    out = tmp_path / "run"
    out.mkdir()
    for moment in range(1, 40):
        rundir.save_checkpoint(out, 2, model_writer(), {"unmeasured": 1}, Log(1), 1)
        (out / ".checkpoint-2.later").mkdir()  # gone back from, and passed again
        with killed_at(moment, monkeypatch) as left:
            rundir.save_checkpoint(out, 2, model_writer(), {}, Log(1, 2), 1)
        path = rundir.open_output_dir(output(out, "newest"))
        is_new = "unmeasured" not in rundir.load_state(path)
        assert [line["step"] for line in metrics_of(path)] == [1, 2][: 1 + is_new]
        assert not list(out.glob(".*.before")) and not list(out.glob(".*.later"))
        if left[0] > 0:
            break
    assert moment > 4 and is_new and names(out) == ["checkpoint-2"]


def test_what_was_replaced_is_had_back_if_the_new_one_is_damaged(tmp_path):
    """A power cut: the new name was on the disk, and what it names was not."""
    final, before = tmp_path / "checkpoint-2", tmp_path / ".checkpoint-2.before"
    rundir.save_checkpoint(tmp_path, 2, model_writer(), {}, Log(1), 1)
    os.replace(final, tmp_path / "kept")
    rundir.save_checkpoint(tmp_path, 2, model_writer(), {}, Log(1, 2), 1)
    os.replace(tmp_path / "kept", before)
    with open(final / "state.pt", "r+b") as file:
        file.truncate(9)
    path = rundir.open_output_dir(output(tmp_path, "newest"))
    assert [line["step"] for line in metrics_of(path)] == [1]
    assert names(tmp_path) == ["checkpoint-2"] and not before.exists()


# --- one at a time ---


def test_a_second_run_is_refused_by_host_and_process(tmp_path):
    """In a process of its own, killed by -9: the lock is gone with it, whatever files are left."""
    script = tmp_path / "first.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(ROOT)!r})\nfrom argparse import Namespace\n"
        "from plumbing import lock\n"
        f"args = Namespace(output_dir={str(tmp_path / 'out')!r}, script='train_sft.py')\n"
        "with lock.claim(args):\n"
        "    print('mine', flush=True)\n    time.sleep(600)\n"
    )
    first = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "mine\n"
        said = rf"in use by train_sft.py \(process {first.pid} on {re.escape(socket.gethostname())}"
        with pytest.raises(UserError, match=said):
            with lock.claim(output(tmp_path / "out")):
                pytest.fail("two at once")
    finally:
        first.kill()
        first.wait()
    with lock.claim(output(tmp_path / "out")):
        assert {".lock", ".owner.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert not any((tmp_path / "out").iterdir())  # no lock is left


def test_a_refused_command_leaves_no_empty_folder(tmp_path):
    with pytest.raises(UserError):
        with lock.claim(output(tmp_path / "a" / "b")):
            raise UserError("no")
    assert not any(tmp_path.iterdir())
    with lock.claim(output(tmp_path / "a" / "b")):
        (tmp_path / "a" / "b" / "result.json").touch()
    assert (tmp_path / "a" / "b" / "result.json").exists()


def test_what_another_script_has_written_is_not_overwritten(tmp_path):
    disk.write_json(tmp_path / "args.json", {"script": "evaluate.py"})
    args = output(tmp_path)
    args.script = "train_sft.py"
    with pytest.raises(UserError, match="holds a run of evaluate.py; name another --output-dir"):
        rundir.open_output_dir(args)
    args.script = "evaluate.py"
    assert rundir.open_output_dir(args) is None
    args.predictions = "saved.jsonl"  # the other half of evaluate.py
    with pytest.raises(UserError, match="holds a run of evaluate.py; name another --output-dir"):
        rundir.refuse_anothers(tmp_path, args)


def test_a_saved_model_is_not_written_over(tmp_path):
    rundir.publish(tmp_path, model_writer())  # model.py export leaves no more
    with pytest.raises(UserError, match="holds a saved model; name another --output-dir"):
        rundir.open_output_dir(output(tmp_path))


def test_parts_of_a_run_are_no_output_directories(tmp_path):
    (tmp_path / "run").mkdir()
    save(tmp_path / "run", 3)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for inside in ("run/checkpoint-3", "run/checkpoint-3/eval", "link/checkpoint-3/eval"):
        with (
            pytest.raises(UserError, match="lies in a checkpoint.*; name a directory outside"),
            lock.claim(output(tmp_path / inside)),
        ):
            pass
    (tmp_path / "self").mkdir()
    disk.write_json(tmp_path / "self" / "args.json", {"script": "selftrain.py"})
    with (
        pytest.raises(UserError, match="is a part of the run in .*self; name another directory"),
        lock.claim(output(tmp_path / "self" / "iteration-1")),
    ):
        pass
    for fine in (
        "run/eval",
        "self/iteration-1/eval",
        "iteration-1",
        "run/checkpoint-4",
        "other/checkpoint-3",
    ):
        with lock.claim(output(tmp_path / fine)):
            pass


@pytest.mark.parametrize("name", ["/etc", "..", "a/../../b", "", ".", "x" * 300])
def test_sums_name_nothing_outside_their_folder(tmp_path, name):
    """A finished run removes what its old sums name and the new do not: anything, perhaps."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "SHA256SUMS").write_text(f"# 1 files\n{'0' * 64}  {name}\n")
    assert sums.sums_of(tmp_path / "run") is None
    rundir.publish(tmp_path / "run", model_writer("new"))
    assert (tmp_path / "kept").is_dir() and (tmp_path / "run" / "model.txt").exists()


def test_a_file_that_was_added_to_a_checkpoint_is_a_fault(tmp_path):
    """A special_tokens_map.json would change the tokens that training goes on with."""
    save(tmp_path, 3)
    (tmp_path / "checkpoint-3" / "special_tokens_map.json").write_text("{}")
    with pytest.raises(UserError, match="special_tokens_map.json was added to the checkpoint"):
        rundir.open_output_dir(output(tmp_path, "newest"))


def test_a_checkpoint_that_was_set_aside_is_had_back_by_its_name(tmp_path):
    for step in (2, 4):
        save(tmp_path, step)
    rundir.set_aside_later(tmp_path, tmp_path / "checkpoint-2")
    assert names(tmp_path) == ["checkpoint-2"]
    rundir.publish(tmp_path, model_writer())  # nothing new was saved
    wanted = str(tmp_path / "checkpoint-4")
    assert rundir.open_output_dir(output(tmp_path, wanted)) == tmp_path / "checkpoint-4"


def test_leaving_keeps_what_was_set_aside(tmp_path):
    """Gone back by a typing error, and Ctrl-C at once: the later ones are still there."""
    for step in (2, 4, 6):
        rundir.save_checkpoint(tmp_path, step, model_writer(), {}, Log(), 5)
    rundir.set_aside_later(tmp_path, tmp_path / "checkpoint-2")
    rundir.save_checkpoint(tmp_path, 3, model_writer(), {}, Log(), 5, leaving=True)
    for step in (4, 6):
        wanted = str(tmp_path / f"checkpoint-{step}")
        assert rundir.open_output_dir(output(tmp_path, wanted)) == tmp_path / f"checkpoint-{step}"
    rundir.set_aside_later(tmp_path, tmp_path / "checkpoint-3")
    rundir.save_checkpoint(tmp_path, 5, model_writer(), {}, Log(), 5)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3", "checkpoint-5"]
    assert not list(tmp_path.glob(".*later"))


def test_what_was_set_aside_goes_when_its_step_is_saved_again(tmp_path):
    """Nobody could name it any more; a run that ends there would keep it for ever."""
    for step in (4, 5, 6):
        rundir.save_checkpoint(tmp_path, step, model_writer(), {}, Log(), 9)
    rundir.set_aside_later(tmp_path, tmp_path / "checkpoint-4")
    rundir.save_checkpoint(tmp_path, 5, model_writer(), {}, Log(), 9, leaving=True)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]
    assert [path.name for path in tmp_path.glob(".*later")] == [".checkpoint-6.later"]


def test_an_adapter_whose_base_was_moved_may_be_corrected(tmp_path):
    """By hand, in its adapter_config.json, as the sentence about the missing base says."""

    def adapter(folder):
        disk.write_json(folder / "adapter_config.json", {"r": 4, "base_model_name_or_path": "old"})
        (folder / "adapter_model.safetensors").write_bytes(b"weights")

    rundir.publish(tmp_path, adapter)
    disk.write_json(tmp_path / "adapter_config.json", {"r": 4, "base_model_name_or_path": "new"})
    rundir.check_model_files(tmp_path)
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 1  # sha256sum still sees it
    disk.write_json(tmp_path / "adapter_config.json", {"r": 5, "base_model_name_or_path": "new"})
    with pytest.raises(UserError, match="adapter_config.json is damaged"):
        rundir.check_model_files(tmp_path)


def test_weights_may_be_read_by_whoever_may_read_the_rest(tmp_path):
    def private(folder):
        (folder / "model.safetensors").touch(0o600)
        (folder / "config.json").touch()

    rundir.publish(tmp_path, private)
    modes = {(tmp_path / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1


def test_a_checkpoint_by_its_bare_name(tmp_path):
    save(tmp_path, 3)
    assert rundir.open_output_dir(output(tmp_path, "checkpoint-3")) == tmp_path / "checkpoint-3"


def test_a_directory_that_was_moved_away_is_not_made_again(tmp_path):
    (tmp_path / "run").mkdir()
    save(tmp_path / "run", 2)
    os.replace(tmp_path / "run", tmp_path / "moved")
    with pytest.raises(OSError) as error:
        save(tmp_path / "run", 4)
    assert "it has gone" in disk.in_words(error.value, tmp_path / "run", "go on")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["data", "eval_data", "pairs", "predictions"])
def test_a_run_does_not_write_over_its_data(tmp_path, name):
    (tmp_path / "metrics.jsonl").touch()
    args = output(tmp_path)
    value = str(tmp_path / "metrics.jsonl")
    setattr(args, name, [value] if name == "eval_data" else value)
    with pytest.raises(UserError, match="would be written over by the run"), lock.claim(args):
        pass
    setattr(args, name, str(tmp_path / "mine.jsonl"))  # beside it is fine
    with lock.claim(args):
        pass


def test_links_in_a_circle_are_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (
        pytest.raises(UserError, match="cannot be written to"),
        lock.claim(output(tmp_path / "loop")),
    ):
        pass


def test_a_service_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def fails(metrics, step):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "wandb", Namespace(init=lambda **_: Namespace(log=fails)))
    log = MetricsLog(tmp_path, report_to="wandb")
    for step in (1, 2):
        log.log(step, {"loss": 1.0})
    assert [line["step"] for line in records.read_lines(log.path)] == [1, 2]
    assert capsys.readouterr().out.count("no longer sent (ConnectionError: no route)") == 1


def test_the_second_of_two_waits_for_the_first_to_say_who_it_is(tmp_path, monkeypatch):
    """Both started at once: the first has the lock, and is just writing its note."""
    with lock.claim(output(tmp_path)):
        note = (tmp_path / ".owner.json").read_text()
        (tmp_path / ".owner.json").unlink()
        monkeypatch.setattr(
            lock.time, "sleep", lambda _: (tmp_path / ".owner.json").write_text(note)
        )
        said = f"is in use by a run .process {os.getpid()} on {re.escape(socket.gethostname())}"
        with pytest.raises(UserError, match=said), lock.claim(output(tmp_path)):
            pass


def test_the_estimate_counts_one_checkpoint_more_than_is_kept(tmp_path):
    args = Namespace(save_steps=10, save_total_limit=2, eval_steps=0)
    parts = rundir.to_write(args, 100, 200, steps=100)
    assert parts["checkpoints (at most 3)"] == 900 and parts["the model"] == 100
    args.save_steps = 0  # the last step alone
    assert rundir.to_write(args, 100, 200, steps=100)["checkpoints (at most 1)"] == 300
