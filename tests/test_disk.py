"""Writing whole or not at all, and what is said of a disk that takes no more."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plumbing import disk, loaded, records
from plumbing.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    disk.write_json(tmp_path / "result.json", {"accuracy": 0.5})
    with pytest.raises(TypeError):
        disk.write_json(tmp_path / "result.json", {"accuracy": object()})
    assert json.loads((tmp_path / "result.json").read_text()) == {"accuracy": 0.5}


def test_half_a_surrogate_is_written_as_json_writes_it(tmp_path):
    """A path that is no UTF-8, or a text cut in two, broke the writing of args.json."""
    value = {"data": "runs/\udcff.jsonl", "by \ud800": "é"}
    disk.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


WRITERS = {
    "torch": lambda path: torch.save(torch.zeros(9999), open(path, "wb")),
    "safetensors": lambda path: save_file({"x": torch.zeros(9999)}, path),
    "text": lambda path: disk.write_whole(path, "x" * 9999),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_on_file_sizes_is_said_in_one_sentence(tmp_path, name):
    """Each kind of writer meets the kernel's refusal; in its own process, for the limit stays."""
    script = f"""
import resource, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import test_disk
from plumbing import disk, records
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    with disk.writing("the thing", 40000):
        test_disk.WRITERS[{name!r}]({str(tmp_path / "x")!r})
except Exception as error:
    print(disk.in_words(error, {str(tmp_path)!r}, "type it again"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.startswith("the thing could not be written: a file would be larger"), done
    assert "(40.0 kB are needed and" in done.stdout and "then type it again" in done.stdout


def test_a_full_disk_says_what_is_needed_and_free(tmp_path):
    with pytest.raises(OSError) as full:
        with disk.writing("checkpoint-3", 16_100_000):
            with open("/dev/full", "w") as file:
                file.write("x")
    words = disk.in_words(full.value, tmp_path, "go on")
    assert words.startswith(
        "checkpoint-3 could not be written: no space is left on the disk (16.1 MB"
    )
    assert words.endswith("are free); make room, then go on")


@pytest.mark.parametrize("number", disk.REFUSALS)
def test_refusals_of_the_disk_are_in_words_wherever_they_come_from(tmp_path, number):
    plain = OSError(number, os.strerror(number))
    rust = RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")
    around = RuntimeError("unexpected pos")
    around.__context__ = plain
    for error in (plain, rust, around):
        assert disk.REFUSALS[number][0] in disk.in_words(error, tmp_path, "go on")


def test_obstacles_are_ours_unless_they_lie_in_the_output_directory(tmp_path):
    (tmp_path / "out" / "x").mkdir(parents=True)
    for path, mine in ((tmp_path / "out" / "x", True), (tmp_path, False)):
        with pytest.raises(IsADirectoryError) as error:
            path.open("w")
        words = disk.in_words(error.value, tmp_path / "out", "go on")
        assert (words is not None) == mine
    assert disk.in_words(ValueError("a bug"), tmp_path, "go on") is None
    assert disk.in_words(FileNotFoundError(errno.ENOENT, "no", "/elsewhere"), tmp_path, "x") is None


def test_a_pipe_in_place_of_a_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pool.jsonl")
    with pytest.raises(OSError) as error:
        records.good_lines(tmp_path / "pool.jsonl")  # reading it would never end
    words = disk.in_words(error.value, tmp_path, "go on")
    reason = "a pipe is where a file is expected; move it away, then go on"
    assert words == f"{tmp_path}/pool.jsonl cannot be used: {reason}"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EBUSY, errno.ETIMEDOUT, errno.EXDEV])
def test_a_disk_far_away_may_fail_in_any_way(tmp_path, number):
    with pytest.raises(OSError) as error, disk.writing("checkpoint-3"):
        raise OSError(number, os.strerror(number))
    assert (
        f"checkpoint-3 could not be written: {os.strerror(number)}; see to the disk"
        in disk.in_words(error.value, tmp_path, "go on")
    )


def test_what_ran_out_is_not_damage():
    for error in (MemoryError(), OSError(errno.EMFILE, ""), RuntimeError("can't start new thread")):
        assert disk.is_the_machines(error)
    for error in (ValueError("bad"), OSError(errno.ENOENT, ""), RuntimeError("wrong shape")):
        assert not disk.is_the_machines(error)


def test_what_a_library_raises_while_it_loads_becomes_one_sentence():
    for error in (KeyError("wte"), AssertionError("odd"), RuntimeError("wrong shape\nand more")):
        with pytest.raises(UserError) as refused, loaded.refusing("x cannot be loaded", "fetch it"):
            raise error
        words = str(error).partition("\n")[0]
        assert str(refused.value) == f"x cannot be loaded ({words}); fetch it"
    ours, full = UserError("its own sentence"), torch.OutOfMemoryError("CUDA out of memory")
    for error in (ours, full, MemoryError(), OSError(errno.EMFILE, "")):  # no checkpoint's fault
        with pytest.raises(type(error)) as passed, loaded.refusing("x", "fetch it"):
            raise error
        assert passed.value is error


def test_a_folder_that_has_no_room_says_how_much_it_needs(tmp_path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "iteration-1"))
    words = disk.in_words(error, tmp_path, "go on")
    assert words.startswith(f"{tmp_path}/iteration-1 could not be written: no space")
    assert "(4.1 kB are needed and" in words


def test_sizes_for_people():
    sizes = {0: "0 bytes", 999: "999 bytes", 16_100_000: "16.1 MB", 3.2e9: "3.2 GB", 2e12: "2.0 TB"}
    assert {number: disk.size(number) for number in sizes} == sizes


def test_what_does_not_fit_is_a_warning(tmp_path, capsys, monkeypatch):
    (tmp_path / "old").write_bytes(bytes(500))
    monkeypatch.setattr(disk, "free", lambda path: 1000)
    disk.announce(tmp_path, {"checkpoints": 900, "the model": 600})
    said = capsys.readouterr().out
    assert "about 1.5 kB" in said and "1.0 kB are free" in said and "warning" not in said
    disk.announce(tmp_path, {"checkpoints": 900, "the model": 601})
    assert "warning: that is 1 bytes more than fits" in capsys.readouterr().out


def test_a_directory_that_cannot_be_written_names_another(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to .*name another directory"):
        disk.make_writable(tmp_path / "file" / "out")


def test_a_run_that_cleans_up_at_the_same_moment_does_not_make_it_unwritable(tmp_path, monkeypatch):
    touch = Path.touch
    monkeypatch.setattr(Path, "touch", lambda path: (touch(path), path.unlink()))
    disk.make_writable(tmp_path)
