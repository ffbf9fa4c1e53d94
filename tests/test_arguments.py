"""args.json: written, read back, damaged; what makes two commands the same run."""

import json
import re
from argparse import Namespace
from importlib import metadata

import pytest

import train_sft
from plumbing import arguments, disk
from plumbing.errors import UserError

WORDS = [
    "--model",
    "tiny",
    "--data",
    "count",
    "--output-dir",
    "out",
    "--system-prompt",
    "Höflich. 😀",
]


def test_args_are_written_and_read_back(tmp_path):
    args = train_sft.parse_args(WORDS)
    arguments.write_args(tmp_path, args, batch=32)
    got = arguments.read_args(tmp_path)
    assert {name: got[name] for name in vars(args)} == vars(args)
    assert got["batch"] == 32 and got["script"] == "train_sft.py" and got["argv"] == WORDS
    assert got["versions"]["torch"] == metadata.version("torch") and "python" in got["versions"]
    assert got["commit"] is None or re.fullmatch(r"[0-9a-f]{40}( with changes)?", got["commit"])
    assert [p.name for p in tmp_path.iterdir()] == ["args.json"]


def test_args_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "_commit", arguments._commit.__wrapped__)  # asked once a process
    monkeypatch.setenv("PATH", "")
    arguments.write_args(tmp_path, Namespace(model="tiny"))
    assert arguments.read_args(tmp_path)["commit"] is None


def test_args_that_are_not_there_are_empty_and_damaged_ones_are_said(tmp_path):
    assert arguments.read_args(tmp_path) == arguments.read_args("Qwen/Qwen2-VL-2B-Instruct") == {}
    arguments.write_args(tmp_path, train_sft.parse_args(WORDS))
    whole = (tmp_path / "args.json").read_text()
    for text in ("", "{broken", "[1]", "5", "null", whole[:-9], whole.replace("count", "cound")):
        (tmp_path / "args.json").write_text(text)
        with pytest.raises(UserError, match="args.json is damaged; delete it"):
            arguments.read_args(tmp_path)


def test_args_of_elsewhere_have_no_checksum(tmp_path):
    disk.write_json(tmp_path / "args.json", {"max_pixels": 3136})
    assert arguments.read_args(tmp_path) == {"max_pixels": 3136}
    with pytest.raises(UserError, match="args.json is damaged; delete it"):
        arguments.read_args(tmp_path, ours=True)  # a run's own always has one: this was edited


def test_equal_commands_are_one_run_and_others_are_not():
    def run(*more):
        return arguments.run_id(train_sft.parse_args([*WORDS, *more]))

    assert run() == run("--max-steps", "7") == run("--output-dir", "elsewhere", "--device", "cpu")
    assert len({run(), run("--seed", "1"), run("--data", "spatial"), run("--lora-r", "4")}) == 4


def test_a_run_that_goes_on_keeps_its_id(tmp_path):
    args = train_sft.parse_args(WORDS)
    arguments.write_args(tmp_path, args)
    again = train_sft.parse_args([*WORDS, "--max-steps", "9"])
    arguments.same_flags(again, tmp_path)
    assert again.run == args.run == json.loads((tmp_path / "args.json").read_text())["run"]


def test_a_path_is_where_it_leads(tmp_path, monkeypatch):
    """`--model base` typed in one directory, and gone on with from another."""
    (tmp_path / "a" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    words = ["--data", "count", "--output-dir", "out"]
    arguments.write_args(tmp_path, train_sft.parse_args(["--model", "base", *words]))
    monkeypatch.chdir(tmp_path)
    arguments.same_flags(train_sft.parse_args(["--model", "a/base", *words]), tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="--model was base"):
        arguments.same_flags(train_sft.parse_args(["--model", "other", *words]), tmp_path)


def test_flags_by_their_names_and_back():
    assert arguments.flags_given(["--max-steps", "3", "x", "--seed=1", "--top_p", "1"]) == [
        "max_steps",
        "seed",
        "top_p",
    ]
    assert arguments.flag("max_steps") == "--max-steps"
