"""Splits of folders, files that are no data, what a file is called and what it holds.

Command: pytest tests/test_folders.py. Expected: 3 s.
"""

import json

import pytest
from samples import ASKED, refusal, write

import tasks
from plumbing.bad_records import BadRecords
from tasks import folders, splits


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
    "RefCOCO": (
        ["train.json", "val.json", "testA.json", "testB.json"],
        {None: ["train.json"], "testA": ["testA.json"], "testb": ["testB.json"]},
    ),
    "sets": (["trainset/x.json", "testset/x.json"], {None: ["trainset/x.json"]}),
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


NAMES = {  # the split that a name says
    "train": "train.json x_train.jsonl train2014 trainset training_set.json MyTrain TRAINDATA",
    "validation": "val.json val2017 valset dev1 dev1k.json devset x-validate.json VQAVal",
    "test": "test1.json testset clevrTest testData testing test_split CLEVRTestSet evaluation",
    "testa": "testA refcoco_testA.json refcoco_testa MyTestA",
    "testb": "testB.jsonl refcoco+_testB",
    "valb": "CLEVR_valB_questions.json",
    "testmini": "testmini TestMini.json",
    "testdev": "testdev_balanced.json",
    "trainval": "trainval trainVal2007",
    None: "latest contest retrain strain protest pretraining device developer evaluator value "
    "restval constrained trainer testament MMStar modelA prétest data.json Latest CONTEST Valley",
}


@pytest.mark.parametrize(
    "split, name", [(s, n) for s, names in NAMES.items() for n in names.split()]
)
def test_the_split_that_a_name_says(split, name):
    assert [splits.meaning(word) for word in splits.splits_in(name)] == ([split] if split else [])


REFUSED = {  # the files, the split, what is said
    "files of none": (["train.jsonl", "more.jsonl"], None, "beside files of none (more.jsonl)"),
    "two and no train": (["validation.json", "test.json"], None, "the splits test, validation"),
    "only test": (["test/0.jsonl"], None, "holds only the split test"),
    "two in a name": (["train_test.jsonl"], None, "says the splits train and test"),
    "none of that": (["train.jsonl", "test.jsonl"], "ood", "has no split ood (it has test, train)"),
    "none at all": (["a.jsonl"], "test", "omit :test to read all of it"),
    "testA and none": (["testA.jsonl", "more.jsonl"], None, "beside files of none (more.jsonl)"),
    "RefCOCO without train": (
        ["testA.json", "testB.json"],
        None,
        "the splits testa, testb, and no",
    ),
    "a misspelt one": (["train.jsonl", "val.jsonl", "test.jsonl"], "vlaidation", "; say {}:val"),
    "another one": (["train.jsonl", "test.jsonl"], "hard", "; say {}:train"),
    "another, only test": (["test.jsonl"], "validation", "; name one of these"),
    "two and no train, which": (["dev.json", "test.json"], None, "; say {}:dev"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_whose_split_cannot_be_told_is_refused(tmp_path, case):
    names, split, says = REFUSED[case]
    make(tmp_path, names)
    text = refusal(tasks.read, f"{tmp_path}:{split}" if split else str(tmp_path), training=True)
    assert says.format(tmp_path) in text and str(tmp_path) in text


def test_an_evaluation_reads_the_only_split_and_says_so(tmp_path, capsys):
    make(tmp_path, ["test/0.jsonl"])
    assert answers(tmp_path) == ["test/0.jsonl"]
    assert "all its files are of the split test" in capsys.readouterr().out


# --- rows that say a split ---


def said(*words, key="split"):
    """A record for each of these splits; the answer is its place."""
    records = []
    for number, word in enumerate(words, 1):
        record = {"question": "q", "answer": str(number)}
        if word is not None:
            record |= {"extra_info": {"split": word}} if key == "extra_info" else {key: word}
        records.append(record)
    return records


ROWS = {  # the splits of the rows, :split, what is read where one trains and where one does not
    "train": (["train", "train"], "", "12", "12"),
    "none": ([None, None], "", "12", "12"),
    "no word for a split": (["2D", "new"], "", "12", "12"),
    "some say none": (["train", None], "", "12", "12"),
    "other words": (["trainset", "training"], "", "12", "12"),
    "test": (["test", "test"], "", "say which is meant: {0}:train, or {0}:test", "12"),
    "dev": (["dev", "dev"], "", "{0}:dev", "12"),
    "asked for": (["test", "train", "test"], ":test", "13", "13"),
    "train, asked for": (["test", "train", "test"], ":train", "2", "2"),
    "by another word": (["dev", "train"], ":validation", "1", "1"),
    "several": (["train", "test"], "", "{0}:2: its `split` is test", "records before it say train"),
    "one half": (["testA", "testB"], ":testA", "1", "1"),
    "not there": (["train", "val"], ":test", "no record of split test (it has train, val)", None),
    "misspelt": (["train", "val"], ":vla", "{0}:val", None),
    "none says it": ([None, None], ":test", "{0}:1: the record says no `split`", None),
}


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize(
    "name, key",
    [
        ("x.jsonl", "split"),
        ("x.jsonl", "data_split"),
        ("x.jsonl", "extra_info"),
        ("x.parquet", "split"),
    ],
)
def test_rows_that_say_a_split(tmp_path, case, name, key):
    words, split, training, asking = ROWS[case]
    path = write(tmp_path, said(*words, key=key), name)
    for trains, expected in ((True, training), (False, asking or training)):
        if expected.isdigit():
            assert "".join(answers(f"{path}{split}", training=trains)) == expected
        else:
            text = refusal(tasks.read, f"{path}{split}", training=trains, bad=BadRecords(skip=True))
            assert expected.format(path) in text


FOLDERS = {  # the files and the splits of their rows, :split, what is read or said in training
    "as the name says": ({"train/0.jsonl": ["train"], "test/0.jsonl": ["test"]}, "", "1"),
    "another than the name": ({"train.jsonl": ["train", "test"]}, "", "but it is read as train"),
    "another than asked": ({"test.jsonl": ["train"]}, ":test", "FILE:train"),
    "another word": ({"validation.jsonl": ["dev"]}, ":validation", "1"),
    "a part of it": ({"test.jsonl": ["testA"], "testmini.jsonl": ["test"]}, ":testmini", "1"),
    "no name": ({"a.jsonl": ["train"], "b.jsonl": ["test"]}, "", "b.jsonl:1: its `split` is test"),
    "one says none": ({"a.jsonl": ["train"], "b.jsonl": [None]}, "", "11"),
    "held out": ({"eval/0.jsonl": ["val", "val"]}, ":eval", "12"),
    "trained on": ({"eval.jsonl": ["train"]}, ":eval", "but it is read as eval"),
    "test in trainval": ({"trainval.jsonl": ["test"]}, ":trainval", "but it is read as trainval"),
    "trainval": ({"trainval.jsonl": ["train", "val"]}, ":trainval", "12"),
    "out of distribution": ({"ood.jsonl": ["test"]}, ":ood", "1"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_rows_and_names_agree(tmp_path, case):
    files, split, expected = FOLDERS[case]
    for name, words in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write((tmp_path / name).parent, said(*words), (tmp_path / name).name)
    if expected.isdigit():
        assert "".join(answers(f"{tmp_path}{split}", training=True)) == expected
    else:
        assert expected in refusal(tasks.read, f"{tmp_path}{split}", training=True)


# --- other files ---


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
