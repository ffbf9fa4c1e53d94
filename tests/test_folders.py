"""Splits of folders, files that are no data, what a file is called and what it holds.

Command: pytest tests/test_folders.py. Expected: 3 s.
"""

import json

import pytest
from samples import ASKED, refusal, write

import tasks
from tasks import folders


def make(root, names):
    """A file of one record for each name; the answer is the name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path.parent, [{"question": "q", "answer": name}], path.name)


def answers(spec, **reading):
    return [example.answer for example in tasks.read(str(spec), **reading)]


# The files of a folder: what is read for each split; None: without one.
SPLITS = {
    "folders": (
        ["test/0000.parquet", "train/0000.parquet"],
        {None: ["train/0000.parquet"], "test": ["test/0000.parquet"]},
    ),
    "shards": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
        + ["data/validation-00000-of-00001.parquet"],
        {
            None: ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "validation": ["data/validation-00000-of-00001.parquet"],
            "dev": ["data/validation-00000-of-00001.parquet"],
        },
    ),
    "endings": (
        ["x_train.jsonl", "val.json", "y-test.jsonl", "train2014/z.jsonl"],
        {
            None: ["train2014/z.jsonl", "x_train.jsonl"],
            "validation": ["val.json"],
            "val": ["val.json"],
            "test": ["y-test.jsonl"],
        },
    ),
    "a name of the hub's own": (
        ["data/test-00000-of-00001.parquet", "data/testmini-00000-of-00001.parquet"],
        {
            "test": ["data/test-00000-of-00001.parquet"],
            "testmini": ["data/testmini-00000-of-00001.parquet"],
        },
    ),
    "a file before its folder": (["test/train.json"], {None: ["test/train.json"]}),
    "words inside words": (
        ["pretraining.jsonl", "latest.jsonl", "device.jsonl"],
        {None: ["device.jsonl", "latest.jsonl", "pretraining.jsonl"]},
    ),
    "shards without a split": (
        ["data-00000-of-00001.jsonl", "part-00000-of-00001.jsonl"],
        {None: ["data-00000-of-00001.jsonl", "part-00000-of-00001.jsonl"]},
    ),
    "one split beside none, asked for": (
        ["train.jsonl", "more.jsonl"],
        {"train": ["train.jsonl"]},
    ),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits_are_taken_from_names(tmp_path, case):
    names, expected = SPLITS[case]
    make(tmp_path, names)
    for split, wanted in expected.items():
        spec = f"{tmp_path}:{split}" if split else tmp_path
        assert answers(spec, training=True) == wanted


REFUSED = {  # the files, the split, what is said
    "files of none": (["train.jsonl", "more.jsonl"], None, "beside files of none (more.jsonl)"),
    "two and no train": (["validation.json", "test.json"], None, "the splits test, validation"),
    "only test": (["test/0.jsonl"], None, "holds only the split test"),
    "two in a name": (["train_test.jsonl"], None, "says the splits train and test"),
    "none of that": (["train.jsonl", "test.jsonl"], "ood", "has no split ood (it has test, train)"),
    "none at all": (["a.jsonl"], "test", "omit :test to read all of it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_whose_split_cannot_be_told_is_refused(tmp_path, case):
    names, split, says = REFUSED[case]
    make(tmp_path, names)
    text = refusal(tasks.read, f"{tmp_path}:{split}" if split else str(tmp_path), training=True)
    assert says in text and str(tmp_path) in text


def test_an_evaluation_reads_the_only_split_and_says_so(tmp_path, capsys):
    make(tmp_path, ["test/0.jsonl"])
    assert answers(tmp_path) == ["test/0.jsonl"]
    assert "all its files are of the split test" in capsys.readouterr().out


def test_files_that_cannot_be_read_are_named_once(tmp_path, capsys):
    make(tmp_path, ["a.jsonl"])
    ordinary = ["README.md", "LICENSE", "b.PNG", "dataset_infos.json", ".hidden.csv", "load.py"]
    for name in [*ordinary, "LICENSE.txt"]:
        (tmp_path / name).write_text("x")
    assert answers(tmp_path) == ["a.jsonl"]
    assert "left out" not in capsys.readouterr().out
    for name in ("x.csv", "y.zip", "z.txt"):
        (tmp_path / name).write_text("x")
    assert answers(tmp_path) == ["a.jsonl"]
    said = capsys.readouterr().out
    assert said.count("left out") == 1 and "3 files" in said and "x.csv" in said


def test_made_up_ids_differ_across_folders(tmp_path):
    make(tmp_path, ["a/x.jsonl", "b/x.jsonl"])
    assert [e.id for e in tasks.read(tmp_path)] == ["a/x.jsonl:1", "b/x.jsonl:1"]


@pytest.mark.parametrize(
    "spec, parts",
    [
        ("d:validation", ("d", "validation")),
        ("d:testmini", ("d", "testmini")),
        ("d/x:1", ("d/x:1", None)),
        ("none.json:validation", ("none.json:validation", None)),
        ("owner/set:validation", ("owner/set", "validation")),
        ("owner/set/config:test", ("owner/set/config", "test")),
        ("count:validation", ("count:validation", None)),
    ],
)
def test_names_and_splits(tmp_path, monkeypatch, spec, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x:1").mkdir()
    assert folders.split_name(spec) == parts


CONTENT = {  # name: (the text, the ids)
    "lines.json": (f"{json.dumps(ASKED)}\n{json.dumps(ASKED)}\n", ["lines.json:1", "lines.json:2"]),
    "list.jsonl": (json.dumps([ASKED, ASKED]), ["list.jsonl#1", "list.jsonl#2"]),
    "tall.jsonl": (json.dumps([ASKED, ASKED], indent=1), ["tall.jsonl#1", "tall.jsonl#2"]),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_is_what_it_holds(tmp_path, name):
    text, ids = CONTENT[name]
    (tmp_path / name).write_text(text)
    assert [e.id for e in tasks.read(tmp_path / name)] == ids


def test_broken_lines_in_a_json_file_are_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(f"{json.dumps(ASKED)}\n{{broken\n")
    assert refusal(tasks.read, path).startswith(f"{path}:2: broken JSON")
