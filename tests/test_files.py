"""Run: python -m pytest -q tests/test_files.py        (a few seconds; no network)

JSON, JSON Lines, parquet, folders, ids and splits; broken files of every kind.
"""

import json
import os
import random
import re
import sys
import time
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path

import pytest
from samples import ASKED, CVBENCH, GOOD, odd_files, png, refusal, write

import tasks
from plumbing.errors import UserError
from plumbing.text import short
from tasks import files, folders, pairs, record_fields, toy
from tasks.images import open_images

# --- readers ---


def test_relative_paths_resolve_beside_the_file_and_not_where_one_stands(
    folder, monkeypatch, tmp_path_factory
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    inner = folder / "inner"
    inner.mkdir()
    [example] = tasks.read(
        write(inner, [{"image": "../images/a.png", "question": "q", "answer": "a"}])
    )
    assert example.images[0].resolve() == (folder / "images" / "a.png").resolve()


@pytest.mark.parametrize("prefix", ["", "\n\n  ", "\ufeff"])
@pytest.mark.parametrize("indent", [None, 0, 3])
def test_lines_of_a_json_list_are_where_its_records_begin(tmp_path, prefix, indent):
    path = tmp_path / "x.json"
    records = [
        {"question": f"[{n}]\n{{,", "answer": "a", "deep": {"list": [1, [2]]}} for n in range(4)
    ]
    path.write_text(prefix + json.dumps(records, indent=indent), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").split("\n")
    starts = (
        [n for n, line in enumerate(lines, 1) if line.strip(" ,[") == "{"]
        if indent is not None
        else [1 + prefix.count("\n")] * 4
    )
    rows = list(files.read_json(path))
    got = [(int(str(place).partition("#")[0]), record) for place, _, record in rows]
    assert got == list(zip(starts, records)) and len(starts) == 4


def test_a_json_list_of_many_records_is_read_at_once(tmp_path):
    """Lines were counted from the top for every record: 20,000 took 20 s, R1-V's 37,000 a minute.

    False alarm: only on a machine fifty times slower than ours (0.1 s).
    """
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"question": "q" * 200, "answer": "1"}] * 20000, indent=1))
    start = time.process_time()
    assert list(files.read_json(path))[-1][0] == 2 + 4 * 19999
    assert time.process_time() - start < 5


def test_jsonl_with_blank_lines_other_line_ends_and_line_separators_inside_texts(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        (
            '\ufeff{"question": "one\u2028two", "answer": "é"}\r\n\r\n  \n'
            '{"question": "q", "answer": "2"}'
        ).encode()
    )
    assert list(files.read_json(path)) == [
        (1, ":1", {"question": "one\u2028two", "answer": "é"}),
        (4, ":4", {"question": "q", "answer": "2"}),
    ]


def test_a_hub_snapshot(tmp_path):
    """A folder as huggingface_hub leaves it: parquet shards with embedded bytes, of two splits."""
    inner = tmp_path / "data"
    inner.mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train-x.json").write_text("not for us")
    (tmp_path / "dataset_infos.json").write_text("{}")

    def row(n, color):
        return {
            "image": {"bytes": png(color=color), "path": f"{n}.png"},
            "problem": f"q{n}",
            "solution": f"<answer> {n} </answer>",
        }

    write(inner, [row(0, "red"), row(1, "lime")], "train-00000-of-00002.parquet")
    write(inner, [row(2, "blue")], "train-00001-of-00002.parquet")
    write(inner, [row(3, "white")], "test-00000-of-00001.parquet")
    train, named, test = (
        tasks.read(tmp_path),
        tasks.read(f"{tmp_path}:train"),
        tasks.read(f"{tmp_path}:test"),
    )
    assert [e.answer for e in train] == [e.answer for e in named] == ["0", "1", "2"] and [
        e.answer for e in test
    ] == ["3"]
    assert [open_images(e)[0].getpixel((5, 5)) for e in train + test] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]
    assert train[1].source == f"{inner / 'train-00000-of-00002.parquet'}:2"
    assert "ood" in refusal(tasks.read, f"{tmp_path}:ood")


def test_a_folder_without_names_of_splits_is_read_whole_in_order(tmp_path):
    write(tmp_path, [{"question": "q", "answer": 2}], "b.jsonl")
    write(tmp_path, [{"question": "q", "answer": 1}], "a.json")
    (tmp_path / "readme.md").write_text("# not data")
    assert [e.answer for e in tasks.read(tmp_path)] == ["1", "2"]


def test_parquet_lists_of_images(tmp_path):
    path = write(
        tmp_path,
        [
            {
                "images": [
                    {"bytes": png(color="red"), "path": None},
                    {"bytes": png(color="blue"), "path": None},
                ],
                "question": "q",
                "answer": "a",
                "choices": ["a", "b"],
            }
        ],
        "x.parquet",
    )
    [example] = tasks.read(path)
    assert [image.getpixel((0, 0)) for image in open_images(example)] == [
        (255, 0, 0),
        (0, 0, 255),
    ] and example.choices == ["a", "b"]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert "pip install pyarrow" in refusal(tasks.read, tmp_path / "x.parquet")


# --- ids ---


WORKED = {
    "image": "images/a.png",
    "conversations": [
        {"from": "user", "value": "How many?"},
        {"from": "assistant", "value": "Solution:\n1. One.\n\nAnswer:\n1"},
    ],
}


def test_r3vs_warm_up_files_on_one_line_keep_every_solution(folder):
    """B1: they hold 800 to 1,000 records without ids and no newline; all got the id "w.json:1"."""
    (folder / "w.json").write_text(json.dumps([WORKED] * 1000))
    got = tasks.read(folder / "w.json")
    assert len({e.id for e in got}) == 1000 and all(e.solution for e in got)
    assert [e.id for e in got[:3]] == ["w.json#1", "w.json#2", "w.json#3"]
    assert got[999].source == f"{folder / 'w.json'}:1#1000"


# How a list of three stands in its file: (text around {0}, {1} and {2}, their places).
JSON_TEXTS = {
    "one line": ("[{0}, {1}, {2}]", ["1#1", "1#2", "1#3"]),
    "a line each": ("[\n{0},\n{1},\n{2}]\n", ["2", "3", "4"]),
    "two on a line": ("[\n{0},\n\n{1}, {2}]", ["2", "4#2", "4#3"]),
}


@pytest.mark.parametrize("how", JSON_TEXTS)
def test_ids_and_places_in_a_json_list(tmp_path, how):
    text, places = JSON_TEXTS[how]
    path = tmp_path / "x.json"
    path.write_text(text.format(*[json.dumps(ASKED)] * 3))
    got = tasks.read(path)
    assert [e.id for e in got] == ["x.json#1", "x.json#2", "x.json#3"]
    assert [e.source for e in got] == [f"{path}:{place}" for place in places]
    path.write_text(text.format(json.dumps(ASKED), json.dumps(ASKED), '{"question": "q"}'))
    assert refusal(tasks.read, path).startswith(f"{path}:{places[2]}: no answer")


def test_ids_of_lines_and_rows_are_their_lines_and_rows(tmp_path):
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(ASKED)}\n\n{json.dumps(ASKED)}\n")
    assert [e.id for e in tasks.read(tmp_path / "x.jsonl")] == ["x.jsonl:1", "x.jsonl:3"]
    assert [e.id for e in tasks.read(write(tmp_path, [ASKED] * 2, "x.parquet"))] == [
        "x.parquet:1",
        "x.parquet:2",
    ]


@pytest.mark.parametrize(
    "suffix, places", [("json", "#1 #2"), ("jsonl", ":1 :2"), ("parquet", ":1 :2")]
)
def test_the_same_name_in_two_folders(tmp_path, suffix, places):
    for part in ("a", "b/c"):
        (tmp_path / part).mkdir(parents=True)
        write(tmp_path / part, [ASKED] * 2, f"train.{suffix}")
    expected = [
        f"{part}/train.{suffix}{place}" for part in ("a", "b/c") for place in places.split()
    ]
    assert (
        [e.id for e in tasks.read(tmp_path)]
        == [e.id for e in tasks.read(f"{tmp_path}:train")]
        == expected
    )


GIVEN_IDS = {  # ids in a file x.jsonl: what they become
    "all different": (["7", 8, None], ["7", "8", "x.jsonl:3"]),
    "twice, as in LLaVA's files": (["7", "7", "8"], ["7", "7 (x.jsonl:2)", "8"]),
    "a number and its text": ([7, "7"], ["7", "7 (x.jsonl:2)"]),
    "what another is named": (["x.jsonl:2", None], ["x.jsonl:2", "x.jsonl:2 (x.jsonl:2)"]),
    "what another becomes": (
        ["7", "7", "7 (x.jsonl:2)"],
        ["7", "7 (x.jsonl:2)", "7 (x.jsonl:2) (x.jsonl:3)"],
    ),
    "what another becomes, before it": (
        ["7 (x.jsonl:3)", "7", "7"],
        ["7 (x.jsonl:3)", "7", "7 (x.jsonl:3) (x.jsonl:3)"],
    ),
}


@pytest.mark.parametrize("case", GIVEN_IDS)
@pytest.mark.parametrize("kind", ["questions", "pairs"])
def test_ids_that_repeat_are_told_apart_and_it_is_said(tmp_path, capsys, case, kind):
    given, expected = GIVEN_IDS[case]
    rest = ASKED if kind == "questions" else {"question": "q", "chosen": "yes", "rejected": "no"}
    path = write(tmp_path, [{"id": given_id, **rest} for given_id in given], "x.jsonl")
    if kind == "questions":
        got = tasks.read(path)
    else:
        got = [pair.example for pair in pairs.read_pairs(path)]
    assert [e.id for e in got] == expected
    said = capsys.readouterr().out
    repeated = len(given) - len({str(given_id) for given_id in given})
    assert ("the id of an earlier one" in said) == (case != "all different")
    assert not repeated or f"{repeated} of {len(given)} records" in said or "becomes" in case


# --- published layouts ---


def test_an_object_of_objects_names_none_twice(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        '{"1": {"question": "q", "answer": "a"},\n "1": {"question": "q", "answer": "b"}}'
    )
    assert f"{path}:2: '1' is there a second time" in refusal(tasks.read, path)
    path.write_text('{"1": {"question": "q", "answer": "a"},\n "2": {"question": "q"}}')
    assert refusal(tasks.read, path).startswith(f"{path}:2: no answer")


def test_a_cvbench_snapshot_is_read_once(tmp_path):
    """It holds the parquet file with the pictures, and the same rows without them as JSON lines."""
    write(tmp_path, [{**CVBENCH, "image": {"bytes": png(), "path": None}}], "test_2d.parquet")
    write(tmp_path, [record_fields.without(CVBENCH, "image")], "test_2d.jsonl")
    assert len(tasks.read(tmp_path)) == len(tasks.read(f"{tmp_path}:test")) == 1
    assert "ade20k_10.png does not exist" in refusal(tasks.read, tmp_path / "test_2d.jsonl")


# --- toy streams ---


@pytest.mark.parametrize(
    "spec, parts",
    [
        ("count", ("count", None)),
        ("count:test", ("count", "test")),
        ("C:\\data\\x.json", ("C:\\data\\x.json", None)),
        ("count:tset", ("count:tset", None)),
        ("dir:with:colons:ood", ("dir:with:colons", "ood")),
        (Path("x.json"), ("x.json", None)),
        (":test", ("", "test")),
    ],
)
def test_split_name(spec, parts):
    assert folders.split_name(spec) == parts


def test_a_folder_named_like_a_toy_task_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "count").mkdir()
    write(tmp_path / "count", [{"question": "q", "answer": "mine"}])
    assert [e.answer for e in tasks.read("count")] == ["mine"]


# --- bad input ---


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'{"question": "q", "answer": "a"}\n{"question": "q",\n', ":2: broken JSON"),
        (b'{"question": "q", "answer": "a"}\nquestion\n', ":2: broken JSON"),
        (b'\n\n{"question": "q" "answer": "a"}', ":3: broken JSON"),
        (b"", "holds no record"),
        (b" \n\n", "holds no record"),
        (
            b'{"question": "q", "answer": "a"}\n\n{"question": "caf\xe9", "answer": "a"}\n',
            ":3: not UTF-8 text",
        ),
        (b'\xff\xfe{\x00"\x00', ":1: not UTF-8 text"),
        (b'{"question": "q", "answer": ' + b"1" * 5000 + b"}", ":1: broken JSON"),
        (b"[" * 100_000, ":1: broken JSON"),
        (b"5\n", ":1: expected an object"),
        (b"null\n", ":1: expected an object"),
    ],
)
def test_bad_jsonl_files(tmp_path, content, expected):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    text = refusal(tasks.read, path)
    assert text.startswith(str(path)) and expected in text
    assert any(word in text for word in ("fix", "save it as", "expected")), f"no remedy in: {text}"


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'[\n{"question": "q", "answer": "a"},\n{"question": "q",]\n', ":3: broken JSON"),
        (b'[{"question": "q", "answer": "a"}', ":1: broken JSON"),
        (b"", "holds no record"),
        (b"\n \n", "holds no record"),
        (b"[]", "holds no record"),
        (b'"text"', "expected a list of objects"),
        (b"null", "expected a list of objects"),
        (b'[{"question": "q",\n "answer": "caf\xe9"}]', ":2: not UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"question": "q", "answer": ' + b"1" * 5000 + b"}]", "broken JSON"),
        (b"[\n1, 2]", ":2#1: expected an object"),
    ],
)
def test_bad_json_files(tmp_path, content, expected):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    text = refusal(tasks.read, path)
    assert text.startswith(str(path)) and expected in text
    assert any(word in text for word in ("fix", "save it as", "expected")), f"no remedy in: {text}"


def test_bad_parquet_files(tmp_path):
    pytest.importorskip("pyarrow")
    whole = write(
        tmp_path,
        [{"question": "q", "answer": "a", "image": {"bytes": png()[:60], "path": "x.png"}}],
        "x.parquet",
    ).read_bytes()
    text = refusal(tasks.read, tmp_path / "x.parquet", within=5)  # the first use imports pyarrow
    assert (
        text.startswith(f"{tmp_path / 'x.parquet'}:1: its embedded image cannot be opened")
        and "delete the record" in text
    )
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], b"x" * 100):
        (tmp_path / "x.parquet").write_bytes(damaged)
        assert "not a readable parquet file" in refusal(tasks.read, tmp_path / "x.parquet")
    write(
        tmp_path, [{"question": "q", "answer": "a"}, {"question": "q", "answer": None}], "y.parquet"
    )
    assert refusal(tasks.read, tmp_path / "y.parquet").startswith(
        f"{tmp_path / 'y.parquet'}:2: no answer"
    )


def test_bad_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec in ("cuont", "count:tset", "none.json", "none.json:test"):
        text = refusal(tasks.read, spec)
        assert f"--data {spec}" in text
        is_split = spec == "count:tset"
        known = "train, test, ood" if is_split else f"({', '.join(sorted(toy.TASKS))})"
        assert f"toy task {'are ' * is_split}{known}" in text
    (tmp_path / "x.csv").write_text("a,b")
    assert "only .json, .jsonl, .parquet" in refusal(tasks.read, "x.csv")
    (tmp_path / "folder").mkdir()
    assert "holds no .json" in refusal(tasks.read, "folder")
    write(tmp_path, [GOOD], "x.jsonl")
    assert "omit :test" in refusal(tasks.read, "x.jsonl:test")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder" / "x.json").mkdir()
    assert "folder/x.json cannot be read" in refusal(tasks.read, "folder")


# --- pictures too large, and what is no picture ---


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_what_may_never_end_is_not_read(tmp_path, monkeypatch, soon, suffix):
    monkeypatch.chdir(tmp_path)
    for kind, path in odd_files(tmp_path, suffix).items():
        for call in (tasks.read, pairs.read_pairs):
            text = refusal(call, path, within=5)
            refused = "is a pipe, a socket or a device" in text or "no such file or folder" in text
            assert refused and short(path) in text, kind
    (tmp_path / "set").mkdir()
    os.mkfifo(tmp_path / "set" / "train.jsonl")
    assert "save what it holds as a file" in refusal(tasks.read, tmp_path / "set")


def test_links_to_files_are_read(folder):
    write(folder, [GOOD], "set.jsonl")
    (folder / "link.jsonl").symlink_to("set.jsonl")
    (folder / "link.png").symlink_to(folder / "images" / "a.png")
    assert len(tasks.read(folder / "link.jsonl")) == 1
    linked = write(folder, [{"image": "link.png", "question": "q", "answer": "a"}], "x.jsonl")
    assert open_images(tasks.read(linked)[0])[0].getpixel((0, 0)) == (255, 0, 0)


# --- odd values everywhere ---


def test_damaged_parquet_files_are_read_or_refused_in_one_line(tmp_path):
    """Among 1,000 such files were names of columns that are no UTF-8, and reasons of two lines."""
    pytest.importorskip("pyarrow")
    records = [{"question": "q", "answer": "a", "image": {"bytes": png(), "path": "x"}}] * 2
    whole, rng = write(tmp_path, records, "x.parquet").read_bytes(), random.Random(1)
    named = [at.start() for at in re.finditer(b"question", whole)]
    damaged = [[(at, 0xFF) for at in named]]
    for _ in range(120):
        damaged.append([(rng.randrange(len(whole)), rng.randrange(256)) for _ in range(4)])
    refused = 0
    for changes in damaged:
        broken = bytearray(whole)
        for at, byte in changes:
            broken[at] = byte
        (tmp_path / "x.parquet").write_bytes(broken)
        try:
            tasks.read(tmp_path / "x.parquet")
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path / "x.parquet") in str(error)
            refused += 1
    assert refused > 40


# --- values of every type ---


def parquet(folder, column, values, kind=None, **rest):
    """A parquet file with a column of this type beside those of `rest`."""
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table

    table = pyarrow.table({**{key: [value] * len(values) for key, value in rest.items()}})
    array = values if kind is None else pyarrow.array(values, getattr(pyarrow, kind[0])(*kind[1:]))
    write_table(
        table.append_column(column, array if kind else pyarrow.array(values)), folder / "x.parquet"
    )
    return folder / "x.parquet"


PLAIN_VALUES = {  # column: (its value, its type, the text that it is)
    "date": (date(2020, 1, 5), ("date32",), "2020-01-05"),
    "date of pandas": (datetime(2020, 1, 5), ("timestamp", "us"), "2020-01-05"),
    "time stamp": (datetime(2020, 1, 5, 3, 30), ("timestamp", "ms"), "2020-01-05 03:30:00"),
    "time of day": (time_of_day(15, 30), ("time32", "s"), "15:30:00"),
    "duration": (timedelta(hours=2), ("duration", "s"), "2:00:00"),
    "decimal": (Decimal("1.50"), ("decimal128", 5, 2), "1.50"),
    "large decimal": (Decimal(7) * 10**50, ("decimal256", 60, 0), "7" + "0" * 50),
    "bytes of a text": ("größer".encode(), ("binary",), "größer"),
    "long text": ("three", ("large_string",), "three"),
    "integer": (3, ("int8",), "3"),
    "half precision": (1.5, ("float16",), "1.5"),
}


@pytest.mark.parametrize("kind", PLAIN_VALUES)
def test_columns_of_every_type_become_plain_text(tmp_path, kind):
    value, arrow, text = PLAIN_VALUES[kind]
    [example] = tasks.read(parquet(tmp_path, "answer", [value], arrow, question="q"))
    assert example.answer == text
    [example] = tasks.read(parquet(tmp_path, "id", [value], arrow, question="q", answer="a"))
    assert example.id == text
    [example] = tasks.read(parquet(tmp_path, "task", [value], arrow, question="q", answer="a"))
    assert example.task == text
    [example] = tasks.read(
        parquet(
            tmp_path,
            "choices",
            [[value, value]],
            ("list_", parquet_type(arrow)),
            question="q",
            answer="a",
        )
    )
    assert example.choices == [text, text]


def parquet_type(arrow):
    pyarrow = pytest.importorskip("pyarrow")
    return getattr(pyarrow, arrow[0])(*arrow[1:])


UNREADABLE = {  # column: (its value, its type, what the message must say)
    "bytes of no text": (
        b"\xff\x00",
        ("binary",),
        ["`answer` holds bytes that are no UTF-8 text", "save it as text"],
    ),
    "a year past 9999": (
        2**61,
        ("timestamp", "us"),
        ["`answer` of type timestamp[us] cannot be read", "save it as text"],
    ),
    "a place unknown": (
        5,
        ("timestamp", "ms", "Mars/Base"),
        ["`answer` of type timestamp[ms, tz=Mars/Base] cannot be read"],
    ),
    "list": ([1, 2], ("list_", "int64"), ["`answer` must be str or int or float, found list"]),
    "null": (None, ("null",), ["no answer"]),
    "NaN": (float("nan"), ("float64",), ["`answer` is nan, no number"]),
    "true": (True, ("bool_",), ["`answer` must be", "found bool"]),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_columns_that_cannot_be_an_answer_name_their_row(tmp_path, kind):
    value, arrow, expected = UNREADABLE[kind]
    if arrow[0] == "list_":
        arrow = ("list_", parquet_type(arrow[1:]))
    text = refusal(
        tasks.read, parquet(tmp_path, "answer", [value] * 2, arrow, question="q"), within=5
    )
    assert text.startswith(f"{tmp_path / 'x.parquet'}:1: ") and all(
        words in text for words in expected
    ), text


def test_pictures_stay_bytes_whatever_else_is_bytes(tmp_path):
    [example] = tasks.read(
        parquet(
            tmp_path, "extra", [b"\xff\x00"], ("binary",), question=b"q", answer=b"a", image=png()
        )
    )
    assert example.images == [png()] and (example.question, example.answer) == ("q", "a")


def test_two_columns_of_one_name(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table

    table = pyarrow.table(
        [pyarrow.array(["q"]), pyarrow.array(["a"]), pyarrow.array(["b"])],
        names=["question", "answer", "answer"],
    )
    write_table(table, tmp_path / "x.parquet")
    text = refusal(tasks.read, tmp_path / "x.parquet", within=5)
    assert (
        text.startswith(f"{tmp_path / 'x.parquet'}: not a readable parquet file (")
        and "answer" in text
    )
