"""Run: python -m pytest -q tests/test_predictions.py        (10 s on CPU; no network)

evaluate.py --predictions on what people save: parquet columns of every type, and numbers and texts
that can be neither computed with nor written. Each is scored, or refused in one sentence that names
file and record.
"""

import datetime
import decimal
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import data
import evaluate
import lengths
import model as modeling
from plumbing import disk
from plumbing.errors import UserError
from plumbing.records import read_lines
from tasks import predictions, protocols


def run(path, protocol, out):
    """evaluate.py --predictions, as it is typed."""
    words = ["--predictions", str(path), "--protocol", protocol, "--output-dir", str(out)]
    evaluate.main(evaluate.parse_args(words))


def line_of(record):
    return record if isinstance(record, str) else json.dumps(record)


def rescore(tmp_path, records, protocol):
    """The figures of these records, or lines, saved as JSON Lines."""
    path = tmp_path / "saved.jsonl"
    lines = [line_of(record) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")
    run(path, protocol, tmp_path / "out")
    return json.loads((tmp_path / "out" / "result.json").read_text())


def rescore_parquet(tmp_path, columns, protocol="geoqa"):
    """Rows of predictions.jsonl for a parquet file of these columns."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    path = tmp_path / "saved.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    run(path, protocol, tmp_path / "out")
    return read_lines(tmp_path / "out" / "predictions.jsonl")


def test_predictions_of_a_parquet_file(tmp_path):
    """A date or a decimal becomes text; bytes that are UTF-8 become that text."""
    values = [
        ("date", datetime.date(2020, 1, 5), "2020-01-05"),
        ("decimal", decimal.Decimal("1.50"), "1.50"),
        ("bytes", "größer".encode(), "größer"),
        ("text", "<answer>3</answer>", "<answer>3</answer>"),
    ]
    for kind, value, text in values:
        rows = rescore_parquet(
            tmp_path, {"prediction": [value] * 2, "answer": ["3", "3"], "id": [value] * 2}
        )
        assert [(row["prediction"], row["id"], row["line"]) for row in rows] == [
            (text, text, 1),
            (text, text, 2),
        ], kind
    assert [row["accuracy"] for row in rows] == [1, 1]


@pytest.mark.parametrize("column", ["id", "image", "task", "source", "extra"])
def test_columns_that_are_not_scored_may_hold_anything(tmp_path, column):
    values = [
        datetime.date(2020, 1, 5),
        decimal.Decimal("1.5"),
        b"\xff\x00",
        None,
        [datetime.date(2020, 1, 5)],
        {"bytes": b"\xff", "path": "a.png"},
        True,
        float("nan"),
    ]
    for value in values:
        rows = rescore_parquet(
            tmp_path,
            {
                "prediction": ["<answer>(A)</answer>"],
                "answer": ["(A)"],
                "choices": [["a", "b"]],
                column: [value],
            },
            "cvbench",
        )
        assert rows[0]["accuracy"] == 1, value


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"prediction": [b"\xff\x00"], "answer": ["3"]}, "saved.parquet:1: `prediction` is null"),
        (
            {"prediction": ["x"] * 2, "answer": [["3"], ["3"]]},
            "saved.parquet:1: `answer` must be text or a number",
        ),
        ({"prediction": ["x"], "answer": [None]}, "saved.parquet:1: no `answer`"),
        (
            {"prediction": [3], "answer": ["3"]},
            "saved.parquet:1: no `prediction` that is text: it is int",
        ),
    ],
)
def test_columns_that_cannot_be_scored_name_their_row(tmp_path, columns, words):
    with pytest.raises(UserError) as error:
        rescore_parquet(tmp_path, columns)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_half_a_character_in_saved_outputs(tmp_path):
    """It once broke the writing of result.json. A gold answer must be whole."""
    half = {
        "prediction": "\ud800 <answer>(A)</answer>",
        "answer": "(A)",
        "choices": ["a", "b"],
        "task": "t\udc00",
        "source": "\ud800",
        "id": "\udfff",
    }
    assert rescore(tmp_path, [half], "cvbench")["by"]["task"] == {
        "t\ufffd": {"accuracy": 1.0, "accuracy_original": 1.0, "n": 1}
    }
    [row] = read_lines(tmp_path / "out" / "predictions.jsonl")
    assert (row["prediction"], row["id"]) == ("\ufffd <answer>(A)</answer>", "\ufffd")
    for more in ({"answer": "\ud800"}, {"choices": ["a", "\ud800"]}):
        with pytest.raises(
            UserError, match=r"saved.jsonl:1: `\w+` contains half of a surrogate pair"
        ):
            rescore(tmp_path, [{**half, **more}], "cvbench")


@pytest.mark.parametrize(
    "key, value",
    [
        ("answer", 10**400),
        ("width", 10**400),
        ("task", 10**4000),
        ("id", [10**400]),
        ("grade", -(10**400)),
    ],
)
def test_numbers_too_large_for_a_float(tmp_path, key, value):
    record = {"prediction": "Answer: 3", "answer": "3", key: value}
    if key == "width":
        with pytest.raises(UserError, match=r"saved.jsonl:1: `size` must be"):
            rescore(tmp_path, [record], "tabmwp")
        return
    assert rescore(tmp_path, [record], "tabmwp")["accuracy"] == (key != "answer")


def test_records_nested_too_deeply_and_long_answers_are_refused_in_a_short_sentence(tmp_path):
    deep = '{"prediction": "x", "answer": "3", "more": ' + "[" * 700 + "]" * 700 + "}"
    long = json.dumps({"prediction": "x", "answer": "9" * 100_000, "choices": ["a", "b"]})
    for text, words in ((deep, "nested too deeply"), (long, " ... ")):
        with pytest.raises(UserError) as error:
            rescore(tmp_path, [text], "cvbench")
        assert (
            "saved.jsonl:1: " in str(error.value)
            and words in str(error.value)
            and len(str(error.value)) < 600
        )


def test_answers_to_questions_with_other_ids_are_not_gone_on_with(tmp_path, monkeypatch):
    """For example of a run from when records of a JSON file were named by line."""
    path, out = tmp_path / "d.json", tmp_path / "out"
    path.write_text(json.dumps([{"question": "q", "answer": "1"}] * 3, indent=1))
    out.mkdir()
    disk.write_lines(out / "predictions.jsonl", [{"id": "d.json:2"}])
    monkeypatch.setattr(modeling, "resolve", lambda *_, **__: {})
    policy = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(modeling, "load_from_args", lambda *_, **__: (policy, None))
    monkeypatch.setattr(data.Asker, "prompt", lambda *_, **__: SimpleNamespace(ids=[]))
    monkeypatch.setattr(lengths, "fitting", lambda asker, examples, *_, **__: examples)
    line = [
        "--model",
        "x",
        "--data",
        str(path),
        "--output-dir",
        str(out),
        "--resume-from-checkpoint",
    ]
    with pytest.raises(UserError, match="or to questions with other ids; name another"):
        evaluate.main(evaluate.parse_args(line))


# --- what is no file of predictions ---


@pytest.fixture
def soon():
    """Let a call that would wait for ever fail instead."""

    def stop(*_):
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".txt"])
def test_what_may_never_end_is_not_read(tmp_path, soon, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    for name in ("pipe", "device", "loop", "x" * 5000, "a\0b", "none"):
        with pytest.raises(UserError, match="cannot be read") as error:
            predictions.read_predictions(tmp_path / f"{name}{suffix}")
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
    with pytest.raises(UserError, match="cannot be read"):
        predictions.read_predictions(tmp_path)


def test_a_pipe_that_the_shell_has_opened_is_read(soon):
    """`--predictions <(zcat saved.jsonl.gz)` names /dev/fd/63."""
    reading, writing = os.pipe()
    line = b'{"prediction": "3", "answer": "3"}\n'

    def write():
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(line * 5000)  # more than a pipe holds

    writer = threading.Thread(target=write)
    writer.start()
    assert len(predictions.read_predictions(Path(f"/dev/fd/{reading}"))) == 5000
    writer.join()
    os.close(reading)


ODD = [
    *(None, True, 0, -1, 2.5, 10**400, float("inf"), float("nan"), "", " ", "a\0b", "\ud800"),
    *("x" * 5000, "9" * 5000, [], [1], [["a"]], {}, {"a": 1}, json.loads("[" * 500 + "]" * 500)),
]
FIELDS = (
    "prediction answer solution ground_truth id question choices task source unit size resized "
    "box_format boxes category grade line width height prompt_template"
)


@pytest.mark.parametrize("protocol", ["geoqa", "tabmwp", "rec", "detection"])
def test_odd_values_are_scored_or_refused_but_nothing_else(tmp_path, protocol):
    answer = "[1, 2, 3, 4]" if protocol in ("rec", "detection") else "3"
    path, seen = tmp_path / "saved.jsonl", set()
    for field in FIELDS.split():
        for odd in ODD:
            record = {"prediction": answer, "answer": answer, "choices": None, field: odd}
            path.write_text(json.dumps(record) + "\n")
            try:
                pairs = protocols.to_examples(predictions.read_predictions(path), protocol)
                result, rows = protocols.score(pairs, protocol)
                disk.write_lines(tmp_path / "rows.jsonl", rows)
                seen.add("scored")
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                seen.add("refused")
    assert seen == {"scored", "refused"}


def test_a_parquet_text_that_is_no_text_is_refused_in_one_line(tmp_path):
    """A text, a list of texts, and the name of a column."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    binary = pyarrow.array([b"ok", b"\xff\xfe"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, binary.buffers())
    good = {"prediction": pyarrow.array(["a", "b"]), "answer": pyarrow.array(["a", "b"])}
    path = tmp_path / "saved.parquet"
    for column in (text, pyarrow.ListArray.from_arrays([0, 1, 2], text)):
        parquet.write_table(pyarrow.table({**good, "task": column}), path)
        with pytest.raises(UserError, match="saved.parquet:2: `task`"):
            predictions.read_predictions(path)
    path.write_bytes(path.read_bytes().replace(b"prediction", b"predict\xffon"))
    with pytest.raises(UserError, match="not a readable parquet file"):
        predictions.read_predictions(path)
