"""Run: python -m pytest -q tests/test_data.py        (about 15 s on CPU, half of it importing transformers; no network)

Readers on files written here, bad input of every kind, prompts against literal strings and transformers' own positions, collate
against a literal example and plain loops.
"""

import copy
import dataclasses
import io
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile

import data
import families
import logps
import rewards
import tasks
from data import Asker, Prompt, collate, micro_batches, pad_targets, take
from grading.boxes import BOX_FORMATS, from_pixels, json_quotes, predicted_boxes
from plumbing.errors import UserError
from plumbing.flags import add_data_flags
from plumbing.text import short
from tasks import box_fields, drawing, files, layouts, pairs, record_fields, toy
from tasks import images as images_
from tasks.example import Example, Pair
from tasks.images import (
    ONE_AT_A_TIME,
    check_images,
    limit_image_pixels,
    open_image,
    open_images,
    picture_size,
    resized_size,
)
from tasks.prompts import (
    SELECT,
    TEMPLATES,
    question_text,
    refine_prompt,
    select_prompt,
    template_of,
    with_question,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RECORDS = SHARED / "records"


def png(width=56, height=56, color="red", kind="PNG"):
    """An encoded picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A folder with two pictures in it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(color="red"))
    (tmp_path / "images" / "b.png").write_bytes(png(color="blue"))
    return tmp_path


def write(folder, records, name="set.jsonl"):
    """Records in a JSON, JSONL or parquet file."""
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def refusal(call, *args, within=1.0, **more):
    """The text of the UserError that the call must raise soon: one line, of a bearable length. Timed in processor seconds, so that a busy
    machine raises no false alarm; ten times as much by the clock, so that waiting for something does."""
    start, clock = time.process_time(), time.perf_counter()
    with pytest.raises(UserError) as error:
        call(*args, **more)
    text = str(error.value)
    assert time.process_time() - start < within and time.perf_counter() - clock < 10 * within
    assert "\n" not in text and len(text) < 600, text
    return text


# ----------------------------------------------------------------------------------------------------------- readers


def test_r1v_record(folder):
    record = {
        "image": "images/a.png",
        "problem": "How many items are there?",
        "solution": "<answer> 3 </answer>",
        "origin": "clevr",
    }
    [example] = tasks.read(write(folder, [record]))
    assert example == Example(
        "set.jsonl:1",
        [folder / "images" / "a.png"],
        "How many items are there?",
        "3",
        None,
        None,
        None,
        {"origin": "clevr"},
        f"{folder / 'set.jsonl'}:1",
    )
    assert open_images(example)[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.parquet"])
def test_plain_record_in_every_format(folder, name):
    records = [
        {
            "id": "q1",
            "image": "images/a.png",
            "question": "Which color?",
            "answer": "red",
            "task": "colors",
        },
        {
            "id": "q2",
            "image": "images/b.png",
            "question": "And now?",
            "answer": "blue",
            "task": "colors",
        },
    ]
    got = tasks.read(write(folder, records, name))
    assert [(e.id, e.question, e.answer, e.task, e.images, e.meta) for e in got] == [
        ("q1", "Which color?", "red", "colors", [folder / "images" / "a.png"], {}),
        ("q2", "And now?", "blue", "colors", [folder / "images" / "b.png"], {}),
    ]


def test_several_images_none_choices_and_numbers(folder):
    got = tasks.read(
        write(
            folder,
            [
                {
                    "images": ["images/a.png", "images/b.png"],
                    "question": "Same <image> or <image>?",
                    "answer": "no",
                    "choices": ["yes", "no"],
                },
                {"question": "2 + 2?", "answer": 4},
                {"image": None, "question": "Half?", "answer": 0.5, "choices": [1, 0.5]},
                {"images": [], "question": "Nothing?", "answer": " yes\n"},
                {
                    "image_path": str(folder / "images" / "a.png"),
                    "question": "Absolute?",
                    "ground_truth": 7,
                },
            ],
        )
    )
    assert [len(e.images) for e in got] == [2, 0, 0, 0, 1]
    assert [e.answer for e in got] == ["no", "4", "0.5", "yes", "7"]
    assert [e.choices for e in got] == [["yes", "no"], None, ["1", "0.5"], None, None]
    assert got[0].question == "Same  or ?"  # placeholders go: images always come first here
    assert [image.getpixel((3, 3)) for image in open_images(got[0])] == [
        (255, 0, 0),
        (0, 0, 255),
    ]


@pytest.mark.parametrize(
    "record, answer, solution",
    [
        ({"solution": "<answer> 3 </answer>"}, "3", None),  # nothing worked out to imitate
        (
            {"solution": "<think> one, two </think><answer> 2 </answer>"},
            "2",
            "<think> one, two </think><answer> 2 </answer>",
        ),
        (
            {"thinking": "<think> one </think>", "solution": "<answer> 1 </answer>"},
            "1",
            "<think> one </think>\n<answer> 1 </answer>",
        ),
        (
            {"thinking": "one, two", "solution": "<answer>2</answer>"},
            "2",
            "one, two\n<answer>2</answer>",
        ),
        (
            {"solution": "First <answer> 3 </answer>, no: <answer>\n4 </answer>"},
            "4",
            "First <answer> 3 </answer>, no: <answer>\n4 </answer>",
        ),
        ({"solution": "42"}, "42", "42"),
        ({"answer": "5", "solution": "Two and three.\nSo 5."}, "5", "Two and three.\nSo 5."),
    ],
)
def test_where_answer_and_solution_come_from(tmp_path, record, answer, solution):
    record = {"problem": "How many?", **record}
    before = copy.deepcopy(record)
    example = layouts.to_example(record, tmp_path / "x.json", 1)
    assert (example.answer, example.solution) == (answer, solution)
    assert record == before


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
    assert files.read_json(path) == list(zip(starts, records)) and len(starts) == 4


def test_a_json_list_of_many_records_is_read_at_once(tmp_path):
    """Line numbers were counted from the top for every record: 20,000 took 20 s, and R1-V's 37,000 a minute. False alarm: only on a machine
    fifty times slower than ours (0.1 s)."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"question": "q" * 200, "answer": "1"}] * 20000, indent=1))
    start = time.process_time()
    assert files.read_json(path)[-1][0] == 2 + 4 * 19999
    assert time.process_time() - start < 5


def test_jsonl_with_blank_lines_other_line_ends_and_line_separators_inside_texts(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        '\ufeff{"question": "one\u2028two", "answer": "é"}\r\n\r\n  \n{"question": "q", "answer": "2"}'.encode()
    )
    assert files.read_jsonl(path) == [
        (1, {"question": "one\u2028two", "answer": "é"}),
        (4, {"question": "q", "answer": "2"}),
    ]


def test_a_hub_snapshot(tmp_path):
    """A folder as huggingface_hub leaves it: parquet shards with embedded bytes, train and test side by side."""
    inner = tmp_path / "data"
    inner.mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train-x.json").write_text("not for us")
    (tmp_path / "dataset_infos.json").write_text("{}")
    row = lambda n, color: {
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


@pytest.mark.skipif(
    not RECORDS.is_dir(),
    reason=f"{RECORDS} (public records, not part of this repository) is not there",
)
@pytest.mark.parametrize("name", ["r1v_geoqa.jsonl", "r1v_superclevr.jsonl"])
def test_published_r1v_records(tmp_path, name):
    """Their images are not there, which is what the message must say; with images put there, every record is read."""
    text = refusal(tasks.read, RECORDS / name)
    records = [json.loads(line) for line in (RECORDS / name).read_text().splitlines()]
    assert (
        text.startswith(f"{RECORDS / name}:1: image ")
        and Path(records[0]["image_path"]).name in text
        and "does not exist" in text
        and "relative paths" in text
    )
    for record in records:
        picture = tmp_path / record["image_path"]
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(png())
    (tmp_path / name).write_text((RECORDS / name).read_text())
    got = tasks.read(tmp_path / name)
    assert [(e.question, e.answer) for e in got] == [
        (r["question"].strip(), str(r["ground_truth"]).strip()) for r in records
    ] and len(got) > 3


# --- ids ---

ASKED = {"question": "q", "answer": "a"}
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
    assert got[999].source == f"{folder / 'w.json'}:1, record 1000"


JSON_TEXTS = {  # how a list of three stands in its file: (text around {0}, {1} and {2}, their places)
    "one line": ("[{0}, {1}, {2}]", ["1, record 1", "1, record 2", "1, record 3"]),
    "a line each": ("[\n{0},\n{1},\n{2}]\n", ["2", "3", "4"]),
    "two on a line": ("[\n{0},\n\n{1}, {2}]", ["2", "4, record 2", "4, record 3"]),
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


def test_ids_of_pairs(mmpr):
    """Two sets of a meta file may have annotations of one name; a record taken twice stays one pair."""
    home = mmpr(a=2, b=1).parent
    (home / "annotations" / "b").mkdir()
    (home / "annotations" / "b.jsonl").rename(home / "annotations" / "b" / "a.jsonl")
    meta = json.loads((home / "meta.json").read_text())
    meta["b"]["annotation"] = "MMPR-v1.2/annotations/b/a.jsonl"
    (home / "meta.json").write_text(json.dumps(meta))
    ids = [pair.example.id for pair in pairs.read_pairs(home)]
    assert ids[:10] == ids[10:20] == [f"a/a.jsonl:{n}" for n in range(1, 11)]
    assert ids[20:] == [f"b/a.jsonl:{n}" for n in range(1, 4)]
    pair = {"question": "q", "chosen": "yes", "rejected": "no"}
    (home / "x.json").write_text(json.dumps([pair] * 3))
    got = [pair.example for pair in pairs.read_pairs(home / "x.json")]
    assert [(e.id, e.source.rpartition(":")[2]) for e in got] == [
        (f"x.json#{n}", f"1, record {n}") for n in (1, 2, 3)
    ]


# ------------------------------------------------------------------------------------------------- published layouts


def one(folder, record, name="set.jsonl", **more):
    """The example of a file that holds this record."""
    [example] = tasks.read(write(folder, [record], name), **more)
    return example


def turns(question, value, names=("human", "gpt")):
    return {
        "conversations": [{"from": names[0], "value": question}, {"from": names[1], "value": value}]
    }


@pytest.fixture
def wide(tmp_path):
    """A folder with a picture of 640 x 480."""
    (tmp_path / "a.png").write_bytes(png(640, 480))
    return tmp_path


def test_chartqa_in_its_published_tree(tmp_path):
    for folder in ("test/png", "train/png", "train/annotations", "flat/png", "flat/human"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "test/png/12.png").write_bytes(png())
    (tmp_path / "flat/png/12.png").write_bytes(png())
    record = {"imgname": "12.png", "query": "What is the max?", "label": "14"}
    write(tmp_path / "test", [record], "test_human.json")
    write(tmp_path / "test", [{**record, "label": 0.5}], "test_augmented.json")
    write(tmp_path / "flat/human", [record], "x.json")
    got = tasks.read(f"{tmp_path}:test")
    assert [(e.question, e.answer, e.choices, e.solution, e.meta) for e in got] == [
        ("What is the max?", answer, None, None, {}) for answer in ("0.5", "14")
    ]
    assert [e.images for e in got] == [[tmp_path / "test/png/12.png"]] * 2 and got[
        1
    ].source == f"{tmp_path / 'test/test_human.json'}:2"
    assert (
        tasks.read(tmp_path / "flat/human/x.json")[0].images[0].resolve()
        == tmp_path / "flat/png/12.png"
    )
    text = refusal(
        tasks.read, write(tmp_path / "test", [{**record, "imgname": "13.png"}], "x.json")
    )
    assert "13.png does not exist, nor in png, ../png there" in text


def test_chartqa_as_the_hub_has_it_and_with_pictures_beside_the_file(wide):
    hub = {
        "image": {"bytes": png(), "path": None},
        "query": "What is the max?",
        "label": ["14"],
        "human_or_machine": 0,
    }
    example = one(wide, hub, "test-00000-of-00001.parquet")
    assert (example.question, example.answer, example.solution, example.meta, example.images) == (
        "What is the max?",
        "14",
        None,
        {"human_or_machine": 0},
        [png()],
    )
    beside = one(wide, {"imgname": "a.png", "query": "What is the max?", "label": "14"})
    assert (beside.answer, beside.images, beside.meta) == ("14", [wide / "a.png"], {}) and one(
        wide, {"image": "a.png", "query": "q", "label": [0.5]}
    ).answer == "0.5"


TABMWP = {
    "33": {
        "question": "Is the function linear?",
        "choices": ["linear", "nonlinear"],
        "answer": "nonlinear",
        "unit": None,
        "table_title": None,
        "table": "x | y\n10 | 15",
        "solution": "The function is nonlinear.",
        "ques_type": "multi_choice",
        "ans_type": "boolean_text",
        "grade": 8,
        "split": "dev",
    },
    "117": {
        "question": "What is the weight?",
        "choices": None,
        "answer": "10",
        "unit": "pounds",
        "table_title": None,
        "table": "x",
        "solution": "It is 10.",
        "ques_type": "free_text",
        "ans_type": "integer_number",
        "grade": 3,
        "split": "dev",
    },
}


@pytest.mark.parametrize("indent", [None, 1])
def test_tabmwp_record(tmp_path, indent):
    (tmp_path / "tables").mkdir()
    for pid in TABMWP:
        (tmp_path / "tables" / f"{pid}.png").write_bytes(png())
    path = tmp_path / "problems_dev.json"
    path.write_text(json.dumps(TABMWP, indent=indent))
    choice, free = tasks.read(path)
    assert (choice.id, choice.question, choice.answer, choice.choices, choice.solution) == (
        "33",
        "Is the function linear?\nOptions:\n(A) linear\n(B) nonlinear",
        "nonlinear",
        ["linear", "nonlinear"],
        None,
    )
    assert (free.id, free.question, free.answer, free.choices, free.images) == (
        "117",
        "What is the weight? (Unit: pounds)",
        "10",
        None,
        [tmp_path / "tables" / "117.png"],
    )
    assert {
        k: free.meta[k] for k in ("unit", "ques_type", "ans_type", "grade", "split", "solution")
    } == {
        "unit": "pounds",
        "ques_type": "free_text",
        "ans_type": "integer_number",
        "grade": 3,
        "split": "dev",
        "solution": "It is 10.",
    }
    lines = path.read_text().split("\n")
    places = (
        [lines.index(f' "{pid}": {{') + 1 for pid in TABMWP]
        if indent
        else ["1, record 1", "1, record 2"]
    )
    assert [e.source for e in (choice, free)] == [f"{path}:{place}" for place in places]
    (tmp_path / "tables" / "117.png").rename(tmp_path / "117.png")
    assert tasks.read(path)[1].images == [tmp_path / "117.png"]
    (tmp_path / "117.png").unlink()
    assert refusal(tasks.read, path).startswith(f"{free.source}: image ")


def test_an_object_of_objects_names_none_twice(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        '{"1": {"question": "q", "answer": "a"},\n "1": {"question": "q", "answer": "b"}}'
    )
    assert f"{path}:2: '1' is there a second time" in refusal(tasks.read, path)
    path.write_text('{"1": {"question": "q", "answer": "a"},\n "2": {"question": "q"}}')
    assert refusal(tasks.read, path).startswith(f"{path}:2: no answer")


@pytest.mark.skipif(
    not (SHARED / "tabmwp").is_dir(),
    reason=f"{SHARED / 'tabmwp'} (public records, not part of this repository) is not there",
)
def test_published_tabmwp():
    import rewards

    path = SHARED / "tabmwp" / "problems_dev64.json"
    raw, got = json.loads(path.read_text()), tasks.read(path)
    data.check_golds(got, rewards.check_gold)
    assert [e.id for e in got] == list(raw) and len(got) == 64
    for example, record in zip(got, raw.values()):
        assert example.question.startswith(record["question"]) and (
            "\nOptions:\n(A) " in example.question
        ) == bool(record["choices"])
        assert (
            ("(Unit: " in example.question) == bool(record["unit"])
            and example.answer == record["answer"].strip()
            and example.images[0].name == f"{example.id}.png"
        )
    lines = path.read_text().split("\n")
    assert all(f'"{e.id}": {{' in lines[int(e.source.rpartition(":")[2]) - 1] for e in got)


@pytest.mark.skipif(
    not (SHARED / "tabmwp").is_dir(),
    reason=f"{SHARED / 'tabmwp'} (public records, not part of this repository) is not there",
)
def test_published_worked_solutions_and_their_wording():
    """R3V's warm-up file names its pictures bare; they lie in tables/. Its questions end as our templates do."""
    got = tasks.read(SHARED / "tabmwp" / "warmup_cot64.json")
    assert len(got) == 64 and all(
        e.images[0].parent.name == "tables"
        and e.solution.endswith(f" </think><answer> {e.answer} </answer>")
        for e in got
    )
    assert [e.answer for e in got[:5]] == ["B", "D", "74", "A", "3"]
    ends = {True: TEMPLATES["tabmwp_choices"], False: TEMPLATES["tabmwp"]}
    assert all(
        e.question.endswith(ends["\nOptions:\n(A) " in e.question].replace("{question}", ""))
        for e in got
    )
    import rewards

    for name in ("accuracy", "format"):  # without tags, imitating these earned nothing: 0 of 64
        assert [rewards.REWARDS[name](data.target_text(e, "none"), e) for e in got] == [1.0] * 64


@pytest.mark.skipif(
    not (SHARED / "tabmwp").is_dir(),
    reason=f"{SHARED / 'tabmwp'} (public records, not part of this repository) is not there",
)
@pytest.mark.parametrize("name", ["problems_dev64.json", "warmup_cot64.json"])
def test_every_published_tabmwp_record_has_question_options_and_answer(name):
    """The warm-up set and what is measured after it, by the raw records: nothing is left out, and gold letters are among the options asked about."""
    path = SHARED / "tabmwp" / name
    raw, got = json.loads(path.read_text()), tasks.read(path)
    raw = (
        list(raw.values())
        if isinstance(raw, dict)
        else [
            {
                "question": r["conversations"][0]["value"],
                "answer": r["conversations"][1]["value"].rpartition("Answer:")[2].strip(),
            }
            for r in raw
        ]
    )
    assert (
        len(got) == len(raw) == 64
        and [e.answer for e in got] == [r["answer"].strip() for r in raw]
        and all(e.answer for e in got)
    )
    lettered = 0
    for example, record in zip(got, raw):
        assert (
            example.question.startswith(record["question"].partition("\nFirst generate")[0])
            and len(example.images) == 1
        )
        options = re.findall(r"^\(([A-Z])\) (.+)$", example.question, re.MULTILINE)
        assert bool(options) == ("\nOptions:\n" in example.question)
        if options:
            lettered += 1
            assert example.answer in (example.choices or [letter for letter, _ in options]) and [
                text for _, text in options
            ] == (example.choices or [text for _, text in options])
    assert 10 < lettered < 40


@pytest.mark.skipif(
    not RECORDS.is_dir(),
    reason=f"{RECORDS} (public records, not part of this repository) is not there",
)
@pytest.mark.parametrize(
    "name, worked, answers, template",
    [
        (
            "r3v_chartqa_qwenvl_sft_gpt.json",
            True,
            ["Yes", "49", "73", "6.785", "2018", "2", "35.5", "44"],
            "chartqa",
        ),
        (
            "r3v_clevr_qwenvl_sft_gpt.json",
            True,
            ["0", "4", "2", "10", "2", "6", "10", "8"],
            "clevr_math",
        ),
        (
            "r3v_chartqa_sft_qa.json",
            False,
            [
                "0.334",
                "Premier Inn - other",
                "3.19",
                "Germany",
                "2012",
                "2003",
                "3.52173913",
                "329",
            ],
            None,
        ),
        ("r3v_clevr_sft_qa.json", False, ["3", "2", "5", "2", "5", "3", "1", "8"], None),
    ],
)
def test_published_conversations(tmp_path, name, worked, answers, template):
    records = json.loads((RECORDS / name).read_text())
    assert "does not exist, nor in images, png, tables" in refusal(tasks.read, RECORDS / name)
    (tmp_path / "png").mkdir()
    for record in records:
        (tmp_path / "png" / record["image"]).write_bytes(png())
    (tmp_path / name).write_text((RECORDS / name).read_text())
    got = tasks.read(tmp_path / name)
    assert [e.answer for e in got] == answers
    thinking = [r["conversations"][1]["value"].rpartition("Answer:")[0].strip() for r in records]
    assert [e.solution for e in got] == [
        f"<think> {words} </think><answer> {answer} </answer>" if worked else None
        for words, answer in zip(thinking, answers)
    ]
    assert [e.question for e in got] == [r["conversations"][0]["value"].strip() for r in records]
    assert [data.target_text(e, "none") for e in got] == [e.solution or e.answer for e in got]
    assert template is None or all(
        e.question.endswith(TEMPLATES[template].replace("{question}", "")) for e in got
    )


@pytest.mark.skipif(
    not RECORDS.is_dir(),
    reason=f"{RECORDS} (public records, not part of this repository) is not there",
)
def test_published_records_of_several_images(tmp_path):
    name = "vlmr1_gui_multi_image.jsonl"
    records = [json.loads(line) for line in (RECORDS / name).read_text().splitlines()]
    for record in records:
        for picture in record["image"]:
            (tmp_path / picture).write_bytes(png())
    (tmp_path / name).write_text((RECORDS / name).read_text())
    got = tasks.read(tmp_path / name)
    assert [(len(e.images), e.answer, e.solution) for e in got] == [
        (2, r["conversations"][1]["value"], None) for r in records
    ] and got[0].answer == "Operation No Response"


@pytest.mark.parametrize(
    "value, answer, solution",
    [
        ("yes", "yes", None),
        (3.5, "3.5", None),
        (" 7\n", "7", None),
        ("<answer> 7 </answer>", "7", None),
        ("Answer: 7", "7", None),
        ("Answer: \nB", "B", None),
        (
            "<think> one </think><answer> 1 </answer>",
            "1",
            "<think> one </think><answer> 1 </answer>",
        ),
        (
            "Solution:\n1. One.\n\nAnswer:\nYes\n",
            "Yes",
            "<think> Solution:\n1. One. </think><answer> Yes </answer>",
        ),
        ("So it is two. Answer:B", "B", "<think> So it is two. </think><answer> B </answer>"),
        (
            "Answer: 3 is wrong.\nAnswer: 4",
            "4",
            "<think> Answer: 3 is wrong. </think><answer> 4 </answer>",
        ),
        ("<think> one </think>\nAnswer: 1", "1", "<think> one </think><answer> 1 </answer>"),
        (
            "word " * 40 + "\nAnswer: no",
            "no",
            "<think> " + "word " * 40 + "</think><answer> no </answer>",
        ),
        ("Answer: 3? <answer> 4 </answer>", "4", "Answer: 3? <answer> 4 </answer>"),
    ],
)
@pytest.mark.parametrize("names", [("human", "gpt"), ("user", "assistant")])
def test_answers_of_conversations(folder, value, answer, solution, names):
    example = one(
        folder,
        {
            "id": 5,
            "image": "a.png",
            **turns("<image>\nHow many?", value, names),
            "accu_reward_method": "mcq",
        },
    )  # the picture lies in images/
    assert example == Example(
        "5",
        [folder / "images" / "a.png"],
        "How many?",
        answer,
        None,
        solution,
        None,
        {"accu_reward_method": "mcq"},
        f"{folder / 'set.jsonl'}:1",
    )


def test_conversations_without_and_with_several_images(folder):
    assert one(folder, turns("2 + 2?", 4)).images == []
    example = one(
        folder, {"image": ["images/b.png", "images/a.png"], **turns("<image><image>Same?", "no")}
    )
    assert [path.name for path in example.images] == [
        "b.png",
        "a.png",
    ] and example.question == "Same?"
    later = turns("2 + 2?", 4)
    later["conversations"] += [
        {"from": "human", "value": "And 3 + 3?"},
        {"from": "gpt", "value": "6"},
    ]
    assert (one(folder, later).question, one(folder, later).answer) == ("2 + 2?", "4")


CVBENCH = {
    "idx": 7,
    "type": "2D",
    "task": "Count",
    "image": "a.png",
    "question": "How many organs?",
    "choices": ["3", "2"],
    "answer": "(A)",
    "prompt": "How many organs? Select from the following choices.\n(A) 3\n(B) 2",
    "filename": "img/2D/count/ade20k_10.png",
    "source": "ADE20K",
}


@pytest.mark.parametrize("name", ["test_2d.jsonl", "test_2d.parquet"])
def test_cvbench_row(wide, name):
    row = (
        {**CVBENCH, "image": {"bytes": png(), "path": None}}
        if name.endswith("parquet")
        else CVBENCH
    )
    example = one(wide, row, name)
    assert (
        example.id,
        example.question,
        example.answer,
        example.choices,
        example.task,
        len(example.images),
    ) == ("7", CVBENCH["prompt"], "(A)", ["3", "2"], "Count", 1)
    assert (example.meta["task"], example.meta["source"], example.meta["type"]) == (
        "Count",
        "ADE20K",
        "2D",
    )
    assert (
        question_text(example, "cvbench")
        == CVBENCH["prompt"]
        + "\nOutput the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    )


def test_a_cvbench_snapshot_is_read_once(tmp_path):
    """It holds the parquet file with the pictures, and the same rows without them as JSON lines."""
    write(tmp_path, [{**CVBENCH, "image": {"bytes": png(), "path": None}}], "test_2d.parquet")
    write(tmp_path, [record_fields.without(CVBENCH, "image")], "test_2d.jsonl")
    assert len(tasks.read(tmp_path)) == len(tasks.read(f"{tmp_path}:test")) == 1
    assert "ade20k_10.png does not exist" in refusal(tasks.read, tmp_path / "test_2d.jsonl")


M3COT = {
    "id": "s-1",
    "category": "c",
    "image_id": "i",
    "question": "Which one?",
    "choices": ["a cat", "a dog"],
    "context": "Look.",
    "answer": "B",
    "rationale": "It barks.",
    "split": "test",
    "image": "a.png",
    "domain": "science",
    "topic": "t",
}


def test_m3cot_row(wide):
    example = one(wide, M3COT)
    assert (example.id, example.question, example.answer, example.choices, example.solution) == (
        "s-1",
        "Look.\nWhich one?\nOptions:\n(A) a cat\n(B) a dog",
        "B",
        M3COT["choices"],
        None,
    )
    assert (example.meta["domain"], example.meta["topic"], example.meta["rationale"]) == (
        "science",
        "t",
        "It barks.",
    )
    for context in (None, ""):
        assert (
            one(wide, {**M3COT, "context": context, "image": None}).question
            == "Which one?\nOptions:\n(A) a cat\n(B) a dog"
        )
    tagged = "<think> It barks. </think><answer> B </answer>"
    assert one(wide, {**M3COT, "rationale": tagged}).solution == tagged
    assert question_text(example, "tabmwp").endswith(
        "then answer with the option\u2019s letter from the given choices directly."
    )


def test_visual_rft_classification(wide):
    question = "Identify the model.\nThe output answer format should be as follows:\n<think> ... </think> <answer>species name</answer>\nPlease strictly follow the format."
    example = one(
        wide, {"image": "a.png", "problem": question, "solution": "<answer>737-800</answer>"}
    )
    assert (example.question, example.answer, example.solution, example.meta) == (
        question,
        "737-800",
        None,
        {},
    )
    assert (
        data.target_text(example, "none") == "<answer> 737-800 </answer>"
    )  # the question asks for tags itself


# ------------------------------------------------------------------------------------------------------------- boxes

BOXES = {  # layout: (record, the boxes of its answer in pixels of 640 x 480, its answer)
    "VLM-R1 REC": (
        {
            "image": "a.png",
            "problem": "the man on the left",
            "normal_caption": "man",
            "solution": [10, 20, 200, 300],
            "normalized_solution": [16, 42, 312, 625],
        },
        [([10, 20, 200, 300], None)],
        '{"bbox_2d": [10, 20, 200, 300]}',
    ),
    "Visual-RFT": (
        {
            "image": "a.png",
            "problem": "Detect.",
            "solution": "<answer>[{'Position': [100, 250, 500, 500], 'Confidence': 1}, {'Position': [0, 0, 1000, 1000], 'Confidence': 1}]</answer>",
        },
        [([64, 120, 320, 240], None), ([0, 0, 640, 480], None)],
        "[{'Position'",
    ),
    "Visual-RFT, nothing": (
        {
            "image": "a.png",
            "problem": "Provide the bounding boxes.",
            "solution": "<answer>No Objects</answer>",
        },
        [],
        "[]",
    ),
    "LISA": (
        turns(
            "<img>/mnt/authors/disk/a.png</img> Output the bounding box.",
            "(100,250),(500,500)",
            ("user", "assistant"),
        ),
        [([64, 120, 320, 240], None)],
        None,
    ),
    "VLM-R1 box": (
        {"image": "a.png", **turns("<image>Where?", [10, 20.5, 200, 300])},
        [([10, 20.5, 200, 300], None)],
        '{"bbox_2d": [10, 20, 200, 300]}',
    ),
    "VLM-R1 box as a text": (
        {"image": "a.png", **turns("<image>Where?", " [10, 20.5,200,300]\n")},
        [([10, 20.5, 200, 300], None)],
        '{"bbox_2d": [10, 20, 200, 300]}',
    ),
    "VLM-R1 detection": (
        {
            "image": "a.png",
            **turns("<image>Find.", '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]\n```'),
            "accu_reward_method": "od_ap",
        },
        [([1, 2, 3, 4], "cat")],
        '[{"label": "cat", "bbox_2d": [1, 2, 3, 4]}]',
    ),
    "VLM-R1 detection, nothing": (
        {"image": "a.png", **turns("<image>Find.", "None"), "accu_reward_method": "od_ap"},
        [],
        "[]",
    ),
    "VLM-R1 detection, an empty list": (
        {"image": "a.png", **turns("<image>Find.", "[]"), "accu_reward_method": "odLength"},
        [],
        "[]",
    ),
    "Visual-RFT, labels": (
        {
            "image": "a.png",
            "problem": "q",
            "solution": "<answer>"
            + str(
                [
                    {"Position": [100, 250, 500, 500], "label": 'men\'s "x"'},
                    {"Position": [0, 0, 1000, 1000], "label": "men's"},
                ]
            )
            + "</answer>",
        },
        [([64, 120, 320, 240], None), ([0, 0, 640, 480], None)],
        None,
    ),
    "plain": (
        {
            "image": "a.png",
            "question": "Find.",
            "boxes": [[10, 20, 200, 300], {"bbox_2d": [0, 0, 640, 480], "label": "wall"}],
        },
        [([10, 20, 200, 300], None), ([0, 0, 640, 480], "wall")],
        '[{"bbox_2d": [10, 20, 200, 300]}, {"label": "wall", "bbox_2d": [0, 0, 640, 480]}]',
    ),
    "plain, norm1000": (
        {
            "image": "a.png",
            "question": "Find.",
            "boxes": [[0, 0, 500, 1000]],
            "box_format": "norm1000",
        },
        [([0, 0, 320, 480], None)],
        '{"bbox_2d": [0, 0, 320, 480]}',
    ),
    "plain, nothing": ({"image": "a.png", "question": "Find.", "boxes": []}, [], "[]"),
    "a pixel over the edge": (
        {"image": "a.png", "question": "Find.", "boxes": [[-0.4, 3, 640.6, 481]]},
        [([0, 3, 640, 480], None)],
        '{"bbox_2d": [0, 3, 640, 480]}',
    ),
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_of_every_layout_become_pixels(wide, name):
    record, boxes, answer = BOXES[name]
    before = copy.deepcopy(record)
    example = one(wide, record)
    assert (
        [(box["bbox_2d"], box["label"]) for box in example.meta["boxes"]] == boxes
        and example.meta["size"] == [640, 480]
        and example.meta["box_format"] == "norm1000"
    )
    assert (
        "resized" not in example.meta
        and example.solution is None
        and [path.name for path in example.images] == ["a.png"]
    )
    if answer and answer.startswith(('[{"', "{", "[]")):
        assert example.answer == answer
    assert json.loads(example.answer) is not None and record == before
    assert example.meta.get("accu_reward_method") == record.get("accu_reward_method") and not {
        "box_format",
        "solution",
    } & set(record_fields.without(example.meta, "box_format"))


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_what_is_imitated_scores_full_marks(wide, name, box_format):
    """The supervised target of each layout, in each convention, read back by the rewards: the gold boxes, up to rounding."""
    import rewards

    assert BOX_FORMATS == BOX_FORMATS
    if (
        name.startswith(("Visual-RFT", "LISA")) and box_format != "norm1000"
    ):  # their questions say "between 0 and 1000"
        text = refusal(one, wide, BOXES[name][0], box_format=box_format)
        assert (
            text.startswith(f"{wide / 'set.jsonl'}:1: ")
            and f"--box-format {box_format}" in text
            and text.endswith("--box-format norm1000")
        )
        return
    example = one(wide, BOXES[name][0], box_format=box_format, max_pixels=200 * 200)
    rewards.check_gold(example.answer, example.choices, example.meta)
    found = predicted_boxes(data.target_text(example, "think"), example)
    assert len(found) == len(example.meta["boxes"])
    step = 1 if box_format == "pixels" else 640 / min(1000, *example.meta.get("resized", [1000]))
    for got, gold in zip(found, example.meta["boxes"]):
        assert (
            got["label"] == gold["label"]
            and max(abs(a - b) for a, b in zip(got["bbox_2d"], gold["bbox_2d"])) <= step
        )


def test_boxes_are_written_in_the_models_convention(wide):
    rec, rft, lisa = ({**BOXES[name][0]} for name in ("VLM-R1 REC", "Visual-RFT", "LISA"))
    assert [data.target_text(one(wide, rec, box_format=f), "rec") for f in BOX_FORMATS] == [
        '<answer> {"bbox_2d": [16, 42, 312, 625]} </answer>',
        '<answer> {"bbox_2d": [10, 20, 201, 298]} </answer>',
        '<answer> {"bbox_2d": [10, 20, 200, 300]} </answer>',
    ]
    assert one(wide, rec, box_format="resized").meta["resized"] == [644, 476]
    assert one(wide, rec, box_format="resized", max_pixels=100 * 100).meta["resized"] == [112, 84]
    assert (
        data.target_text(one(wide, rft), "none")
        == "[{'Position': [100, 250, 500, 500], 'Confidence': 1}, {'Position': [0, 0, 1000, 1000], 'Confidence': 1}]"
    )  # as its question asks
    assert (
        data.target_text(one(wide, BOXES["Visual-RFT, nothing"][0]), "think")
        == "<answer> No Objects </answer>"
    )
    assert data.target_text(one(wide, lisa), "lisa") == "<answer> (100,250),(500,500) </answer>"
    worked = "<think> there </think><answer> [{'Position': [100, 250, 500, 500], 'Confidence': 1}] </answer>"
    example = one(wide, {**rft, "solution": worked})
    assert (
        example.solution == data.target_text(example, "none") == worked
        and len(example.meta["boxes"]) == 1
    )


IN_PIXELS = '{"bbox_2d": [10,20,200,300]}'
WORKED_BOXES = {  # name: (a record with a worked solution, what the target says around {boxes})
    "VLM-R1": (
        {"image": "a.png", **turns("q", f"<think>hm</think><answer>{IN_PIXELS}</answer>")},
        "<think>hm</think><answer> {boxes} </answer>",
    ),
    "VLM-R1, four numbers": (
        {"image": "a.png", **turns("q", "<think>hm</think><answer>[10, 20, 200, 300]</answer>")},
        "<think>hm</think><answer> {boxes} </answer>",
    ),
    "VLM-R1, fenced": (
        {"image": "a.png", **turns("q", f"<think>hm</think>```json\n{IN_PIXELS}\n```")},
        "<think>hm</think><answer> {boxes} </answer>",
    ),
    "plain": (
        {
            "image": "a.png",
            "problem": "q",
            "thinking": "<think>hm</think>",
            "solution": f"<answer>{IN_PIXELS}</answer>",
        },
        "<think>hm</think>\n<answer> {boxes} </answer>",
    ),
    "plain, thinks again": (
        {
            "image": "a.png",
            "problem": "q",
            "solution": f"<answer>no \\1</answer> <answer>{IN_PIXELS}</answer>.",
        },
        "<answer>no \\1</answer> <answer> {boxes} </answer>.",
    ),
    "plain, untagged": (
        {
            "image": "a.png",
            "problem": "q",
            "boxes": [[10, 20, 200, 300]],
            "solution": "There it is.\n",
        },
        "<think> There it is. </think><answer> {boxes} </answer>",
    ),
}


@pytest.mark.parametrize("name", WORKED_BOXES)
@pytest.mark.parametrize(
    "box_format, boxes",
    [
        ("norm1000", "[16, 42, 312, 625]"),
        ("resized", "[10, 20, 201, 298]"),
        ("pixels", "[10, 20, 200, 300]"),
    ],
)
def test_worked_solutions_say_their_boxes_in_the_models_convention(wide, name, box_format, boxes):
    """They were imitated to the letter, in the file's pixels: learned at the default norm1000, that is an IoU of 0.27."""
    import rewards

    record, expected = WORKED_BOXES[name]
    example = one(wide, record, box_format=box_format)
    assert data.target_text(example, "rec") == expected.replace(
        "{boxes}", f'{{"bbox_2d": {boxes}}}'
    )
    assert rewards.REWARDS["iou"](example.solution, example) > 0.99 and example.meta["boxes"][0][
        "bbox_2d"
    ] == [10, 20, 200, 300]


@pytest.mark.parametrize(
    "record, answer",
    [
        (
            {"problem": "What is left on the table?", "solution": "<answer>No objects.</answer>"},
            "No objects.",
        ),
        ({"problem": "Which indices?", "solution": "<answer>[]</answer>"}, "[]"),
        (turns("How many boxes are there?", "No Objects"), "No Objects"),
        (
            {**turns("Which rows?", "[1, 2, 3, 4]"), "accu_reward_method": "all_match"},
            "[1, 2, 3, 4]",
        ),
    ],
)
def test_what_only_looks_like_boxes_is_a_text(wide, record, answer):
    example = one(wide, {"image": "a.png", **record})
    assert (
        example.answer == answer
        and "boxes" not in example.meta
        and data.target_text(example, "think") == f"<answer> {answer} </answer>"
    )
    assert (
        layouts.to_example(turns("Sort them.", "[1, 2, 3, 4]"), wide / "x.json", 1).answer
        == "[1, 2, 3, 4]"
    )  # no picture: no box


@pytest.mark.parametrize(
    "value",
    [
        [{"label": "men's"}],
        [{"a": 'say "x"', "b": 'it\'s "y" \\ z'}],
        {"tab\n": ["'", '"', "\\'", '\\"']},
        [],
        "é",
    ],
)
def test_pythons_quotes_as_jsons(value):
    """Against Python's own way to write a value, and JSON's."""
    assert (
        json.loads(json_quotes(str(value) if not isinstance(value, str) else repr(value))) == value
    )
    assert json_quotes(json.dumps({"a": "it's"})) == '{"a": "it\'s"}'


def test_quotes_take_linear_time():
    for hostile in ("'" + "\\'" * 200_000, "\"'" * 200_000, "'\\" * 200_000, "'\"\\" * 200_000):
        start = time.process_time()
        json_quotes(hostile)
        assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "boxes, box_format, expected",
    [
        ([], "pixels", "[]"),
        ([((10, 20, 30, 40), None)], "norm1000", '{"bbox_2d": [100, 100, 300, 200]}'),
        ([((10, 20, 30, 40), "é")], "resized", '[{"label": "é", "bbox_2d": [5, 20, 15, 40]}]'),
        ([((10.2, 20, 10.4, 20.6), None)], "pixels", '{"bbox_2d": [10, 20, 11, 21]}'),
        ([((99.7, 199.9, 100, 200), None)], "pixels", '{"bbox_2d": [99, 199, 100, 200]}'),
    ],
)
def test_boxes_to_text(boxes, box_format, expected):
    boxes = [{"bbox_2d": list(corners), "label": label} for corners, label in boxes]
    assert box_fields.boxes_to_text(boxes, box_format, [100, 200], [50, 200]) == expected


def test_the_conversion_is_that_of_the_rewards():

    rng = random.Random(0)
    for _ in range(200):
        size, resized, box_format = (
            [rng.randrange(30, 2000), rng.randrange(30, 2000)],
            [rng.randrange(28, 1000), rng.randrange(28, 1000)],
            rng.choice(BOX_FORMATS),
        )
        xs, ys = (
            sorted(rng.uniform(0, size[0]) for _ in range(2)),
            sorted(rng.uniform(0, size[1]) for _ in range(2)),
        )
        box = [xs[0], ys[0], xs[1], ys[1]]
        whole = json.loads(
            box_fields.boxes_to_text([{"bbox_2d": box, "label": None}], box_format, size, resized)
        )["bbox_2d"]
        assert (
            all(abs(a - b) <= 1 for a, b in zip(whole, from_pixels(box, box_format, size, resized)))
            and whole[0] < whole[2]
            and whole[1] < whole[3]
        )


def test_resized_size_equals_transformers():
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
    except ImportError:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
    assert resized_size([640, 480]) == [644, 476]
    rng = random.Random(0)
    for _ in range(2000):
        width, height = rng.choice(
            [
                (rng.randrange(1, 3000), rng.randrange(1, 3000)),
                (rng.randrange(1, 90), rng.randrange(1, 90)),
            ]
        )
        if max(width, height) <= 200 * min(width, height):
            low, high = rng.choice([(3136, 401408), (50176, 100352), (3136, 12845056)])
            assert (
                resized_size([width, height], low, high)
                == list(smart_resize(height, width, 28, low, high))[::-1]
            )


def test_resized_is_what_the_model_sees(tiny, wide):

    processor = dataclasses.replace(
        tiny[1],
        image_processor=families.image_processor_class()(
            size={"shortest_edge": 3136, "longest_edge": 50176}
        ),
    )
    example = one(wide, BOXES["plain"][0], box_format="resized", max_pixels=50176)
    _, rows, columns = Asker(processor).prompt(example).grid[0].tolist()
    assert example.meta["resized"] == [columns * 14, rows * 14]


BAD_BOXES = {  # name: (what a plain record has beside image and question, what the message must say)
    "outside": (
        {"boxes": [[10, 20, 700, 300]]},
        ["[10, 20, 700, 300] lies outside the picture of 640 x 480 pixels", '"norm1000"'],
    ),
    "outside, norm1000": (
        {"boxes": [[10, 20, 1100, 300]], "box_format": "norm1000"},
        ["lies outside", '"pixels"'],
    ),
    "negative": ({"boxes": [[-5, 20, 100, 300]]}, ["lies outside"]),
    "flat": ({"boxes": [[10, 20, 10, 300]]}, ["encloses nothing", "[left, top, right, bottom]"]),
    "width and height": (
        {"boxes": [[300, 200, 50, 40]]},
        ["encloses nothing", "not [left, top, width, height]"],
    ),
    "three numbers": ({"boxes": [[1, 2, 3]]}, ["must be four numbers", "found [1, 2, 3]"]),
    "texts": ({"boxes": [["1", "2", "3", "4"]]}, ["must be four numbers"]),
    "true": ({"boxes": [[True, 2, 3, 4]]}, ["must be four numbers"]),
    "NaN": ({"boxes": [[float("nan"), 2, 3, 4]]}, ["must be four numbers"]),
    "infinite": ({"boxes": [[1, 2, float("inf"), 4]]}, ["must be four numbers"]),
    "a number of 400 digits": ({"boxes": [[1, 2, 10**400, 4]]}, ["must be four numbers"]),
    "no list": ({"boxes": "1, 2, 3, 4"}, ["`boxes` must be a list", "found str"]),
    "one box, no list of it": ({"boxes": [1, 2, 3, 4]}, ["must be four numbers", "found 1"]),
    "no corners": (
        {"boxes": [{"bbox": [1, 2, 3, 4], "label": "a"}]},
        ["must be four numbers", "bbox_2d"],
    ),
    "label of the wrong type": (
        {"boxes": [{"bbox_2d": [1, 2, 3, 4], "label": 3}]},
        ["label of a box must be a text", "found 3"],
    ),
    "empty label": (
        {"boxes": [{"bbox_2d": [1, 2, 3, 4], "label": " "}]},
        ["label of a box must be a text", "an empty one"],
    ),
    "unknown format": (
        {"boxes": [[1, 2, 3, 4]], "box_format": "xywh"},
        ["`box_format` xywh is unknown", "pixels", "norm1000"],
    ),
    "resized is no format of files": (
        {"boxes": [[1, 2, 3, 4]], "box_format": "resized"},
        ["`box_format` resized is unknown"],
    ),
    "format of the wrong type": (
        {"boxes": [[1, 2, 3, 4]], "box_format": ["pixels"]},
        ["`box_format` ['pixels'] is unknown"],
    ),
    "no image": (
        {"boxes": [[1, 2, 3, 4]], "image": None},
        ["boxes lie in one image, but this record has 0"],
    ),
    "two images": (
        {"boxes": [[1, 2, 3, 4]], "image": ["a.png", "a.png"]},
        ["boxes lie in one image, but this record has 2"],
    ),
    "broken image": ({"boxes": [[1, 2, 3, 4]], "image": "text.png"}, ["text.png cannot be opened"]),
    "an answer too": ({"boxes": [[1, 2, 3, 4]], "answer": "3"}, ["both an answer and boxes"]),
    "REC of five": (
        {"solution": [1, 2, 3, 4, 5]},
        ["must be four numbers", "found [1, 2, 3, 4, 5]"],
    ),
    "REC outside": ({"solution": [10, 20, 200, 700]}, ["lies outside"]),
    "broken Visual-RFT": (
        {"solution": "<answer>[{'Position': [1, 2, 3</answer>"},
        ["looks like a list of boxes"],
    ),
    "Visual-RFT outside": (
        {"solution": "<answer>[{'Position': [1, 2, 3, 1400], 'Confidence': 1}]</answer>"},
        ["lies outside"],
    ),
    "code": (
        {
            "solution": "<answer>[{'Position': [1, 2, 3, __import__('os')], 'Confidence': 1}]</answer>"
        },
        ["looks like a list of boxes"],
    ),
    "JSON bomb": (
        {"solution": "<answer>" + "[" * 100_000 + "'Position'</answer>"},
        ["looks like a list of boxes"],
    ),
}


@pytest.mark.parametrize("fault", BAD_BOXES)
def test_bad_boxes_are_refused_with_file_line_and_remedy(wide, fault):
    record, expected = BAD_BOXES[fault]
    (wide / "text.png").write_text("I am no picture")
    path = write(wide, [GOOD, {"image": "a.png", "question": "q", **record}])
    text = refusal(tasks.read, path)
    assert text.startswith(f"{path}:2: ") and all(words in text for words in expected), text


BAD_LAYOUTS = {  # name: (record, what the message must say)
    "one turn": (
        {"conversations": [{"from": "human", "value": "q"}]},
        ["`conversations` must begin with a turn from human"],
    ),
    "no turns": ({"conversations": None}, ["`conversations` must begin"]),
    "the reply first": (turns("q", "a", ("gpt", "human")), ["`conversations` must begin"]),
    "texts for turns": ({"conversations": ["q", "a"]}, ["`conversations` must begin"]),
    "no question": (turns(None, "a"), ["`value` is null"]),
    "no reply": (turns("q", None), ["`value` is null"]),
    "reply true": (turns("q", True), ["`value` must be", "found bool"]),
    "reply an object": (turns("q", {"a": 1}), ["`value` must be", "found dict"]),
    "long reply without an answer": (
        turns("q", "word " * 50),
        ["no answer", "Answer:", "fewer than 100 characters"],
    ),
    "a list of three": (turns("q", [1, 2, 3]), ["boxes lie in one image"]),
    "a list of three, with an image": (
        {"image": "a.png", **turns("q", [1, 2, 3])},
        ["must be four numbers"],
    ),
    "fewer images than marks": (
        {"image": "a.png", **turns("<image><image>q", "a")},
        ["2 <image> in the question, but 1 images"],
    ),
    "an image nowhere": (
        {"image": "b.png", **turns("q", "a")},
        ["b.png does not exist, nor in images, png", "relative paths resolve beside set.jsonl"],
    ),
    "an absolute image nowhere": (
        turns("<img>/mnt/b.png</img>q", "(1,2),(3,4)"),
        ["/mnt/b.png does not exist"],
    ),
    "ChartQA without a label": (
        {"imgname": "12.png", "query": "q", "label": None},
        ["`label` is null"],
    ),
    "ChartQA, two labels": (
        {"imgname": "12.png", "query": "q", "label": ["a", "b"]},
        ["`label` must be str", "found list"],
    ),
    "ChartQA without a picture": (
        {"image": None, "query": "q", "label": ["a"]},
        ["`imgname` is null"],
    ),
    "TabMWP without a number": (TABMWP["33"], ["`id` is null"]),
    "TabMWP, unit": ({"id": "3", **TABMWP["33"], "unit": 3}, ["`unit` must be str", "found int"]),
    "CV-Bench without an image": (
        {**CVBENCH, "image": None, "filename": None},
        ["`filename` is null"],
    ),
    "CV-Bench without a prompt": ({**CVBENCH, "prompt": ""}, ["`prompt` is empty"]),
    "M3CoT, choices": ({**M3COT, "choices": "ab"}, ["`choices` must be a list of texts"]),
    "M3CoT, half a character": ({**M3COT, "choices": ["\ud83d"]}, ["surrogate"]),
}


@pytest.mark.parametrize("fault", BAD_LAYOUTS)
def test_bad_records_of_published_layouts(wide, fault):
    record, expected = BAD_LAYOUTS[fault]
    path = write(wide, [GOOD, record])
    text = refusal(tasks.read, path)
    assert text.startswith(f"{path}:2: ") and all(words in text for words in expected), text


def test_two_points_are_boxes_in_lisa_only(wide):
    assert (
        one(
            wide, {"image": "a.png", "problem": "q", "solution": "<answer>(1,2),(3,4)</answer>"}
        ).answer
        == "(1,2),(3,4)"
    )
    assert one(wide, {"image": "a.png", **turns("q", "(1,2),(3,4)")}).meta == {}
    assert one(wide, {"image": "a.png", **turns("q", "None")}).answer == "None"


def test_box_format_flag():
    import argparse

    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    [flag] = [a for a in parser._actions if a.dest == "box_format"]
    assert tuple(flag.choices) == BOX_FORMATS
    assert "--box-format xywh" in refusal(tasks.read, "count", box_format="xywh")


def test_the_box_format_is_that_of_the_training_run(tmp_path):
    from argparse import Namespace

    asked = lambda given, model: Namespace(
        model=str(model),
        prompt_template=None,
        system_prompt=None,
        box_format=given,
        min_pixels=None,
        max_pixels=None,
    )
    (tmp_path / "args.json").write_text(json.dumps({"box_format": "resized", "max_pixels": 50176}))
    for given, model, expected in (
        (None, tmp_path, ("resized", 3136, 50176)),
        ("pixels", tmp_path, ("pixels", 3136, 50176)),
        (None, "elsewhere", ("norm1000", 3136, 401408)),
    ):
        args = asked(given, model)
        vars(args).update(data.ask_as_trained(args))
        assert (args.box_format, args.min_pixels, args.max_pixels) == expected


# ------------------------------------------------------------------------------------------------------- toy streams


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_toy_boxes_in_every_convention(box_format):
    """`ground` writes its worked solutions from 0 to 1000; in the other conventions they say the same."""

    stream, standard = (
        tasks.read("ground", box_format=box_format, max_pixels=84 * 84),
        tasks.read("ground"),
    )
    for n in range(40):
        example, plain = stream[n], standard[n]
        assert example.meta["box_format"] == box_format and example.meta.get("resized") == (
            [84, 84] if box_format == "resized" else None
        )
        assert (example.answer, example.question, example.meta["boxes"]) == (
            plain.answer,
            plain.question,
            plain.meta["boxes"],
        )
        assert example.solution.split("<answer>")[0] == plain.solution.split("<answer>")[0]
        assert re.sub(r"\d+, \d+, \d+, \d+", "", example.solution) == re.sub(
            r"\d+, \d+, \d+, \d+", "", plain.solution
        )  # the label first in all three
        taught = toy.make_record("ground", "train", n)["solution"]
        assert plain.solution == taught  # the fallible teacher's boxes stay his
        found, expected = (predicted_boxes(e.solution, e) for e in (example, plain))
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            assert (
                a["label"] == b["label"]
                and max(abs(x - y) for x, y in zip(a["bbox_2d"], b["bbox_2d"])) < 1.1
            )


def test_toy_task_by_name_and_split():
    for spec, split in (
        ("count", "train"),
        ("count:train", "train"),
        ("count:test", "test"),
        ("count:ood", "ood"),
    ):
        stream = tasks.read(spec, seed=3, level=2, teacher="gold")
        record = toy.make_example("count", split, 5, 3 if split == "train" else 0, 2, "gold")
        example = stream[5]
        assert (example.question, example.answer, example.solution, example.meta, example.task) == (
            record["question"],
            record["answer"],
            record["solution"],
            record["meta"],
            "count",
        )
        assert (
            example.images[0].tobytes() == record["image"].tobytes()
            and stream[5].images[0] is not example.images[0]
        )


def test_every_run_is_measured_on_the_same_questions():
    for split in ("test", "ood"):
        one, two = tasks.read(f"count:{split}", seed=1), tasks.read(f"count:{split}", seed=2)
        assert [(one[i].id, one[i].question, one[i].meta) for i in range(20)] == [
            (two[i].id, two[i].question, two[i].meta) for i in range(20)
        ]
    assert [tasks.read("count", seed=1)[i].meta for i in range(5)] != [
        tasks.read("count", seed=2)[i].meta for i in range(5)
    ]


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
    assert files.split_name(spec) == parts


def test_a_folder_named_like_a_toy_task_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "count").mkdir()
    write(tmp_path / "count", [{"question": "q", "answer": "mine"}])
    assert [e.answer for e in tasks.read("count")] == ["mine"]


def test_heads_steps_and_what_to_evaluate_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stream, few = tasks.read("count"), [Example(str(n), [], "q", "a") for n in range(10)]
    assert [e.id for e in data.head(stream, 3)] == [
        "count:train:0:0",
        "count:train:0:1",
        "count:train:0:2",
    ]
    assert data.head(few, 3) == few[:3] and data.head(few, 99) == few
    assert data.steps_of(7, 1.0, "count", stream, 4) == 7
    assert "--max-steps" in refusal(data.steps_of, None, 1.0, "count", stream, 4)
    assert [data.steps_of(None, e, "count", few, 4) for e in (0.01, 1.0, 3.0)] == [1, 2, 8]
    assert data.default_eval("count:train") == ["count:test"] and not capsys.readouterr().out
    assert data.default_eval("x.json") == ["x.json"] and "not held out" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- bad input

GOOD = {"question": "q", "answer": "a"}

BAD_RECORDS = {  # name: (the record, what the message must contain besides file and line)
    "missing image": (
        {**GOOD, "image": "images/none.png"},
        ["none.png does not exist", "relative paths resolve beside set."],
    ),
    "one image of two missing": (
        {**GOOD, "images": ["images/a.png", "gone.png"]},
        ["gone.png does not exist"],
    ),
    "no answer": ({"question": "q"}, ["no answer", "`answer`", "`solution`"]),
    "empty answer": ({"question": "q", "answer": "  "}, ["`answer` is empty", "fill it in"]),
    "null answer": ({"question": "q", "answer": None}, ["no answer"]),
    "empty answer tag": (
        {"question": "q", "solution": "<think> hm </think><answer> </answer>"},
        ["no answer"],
    ),
    "long solution without a tag": (
        {"question": "q", "solution": "word " * 50},
        ["no answer", "<answer>"],
    ),
    "no question": (
        {"answer": "a", "prompt": "q"},
        ["no question", "`question` or `problem`", "answer, prompt"],
    ),
    "empty question": ({"question": "", "answer": "a"}, ["`question` is empty"]),
    "nothing": ({}, ["no question"]),
    "question of the wrong type": (
        {"question": 5, "answer": "a"},
        ["`question` must be str", "found int"],
    ),
    "question a list": (
        {"question": ["q"], "answer": "a"},
        ["`question` must be str", "found list"],
    ),
    "answer of the wrong type": (
        {"question": "q", "answer": ["a"]},
        ["`answer` must be str or int or float", "found list"],
    ),
    "answer true": ({"question": "q", "answer": True}, ["`answer` must be", "found bool"]),
    "solution of the wrong type": (
        {"question": "q", "answer": "a", "solution": 3},
        ["`solution` must be str", "found int"],
    ),
    "choices of the wrong type": (
        {**GOOD, "choices": "abc"},
        ["`choices` must be a list of texts"],
    ),
    "choices of lists": ({**GOOD, "choices": [["a"]]}, ["`choices` must be a list of texts"]),
    "image of the wrong type": ({**GOOD, "image": 3}, ["an image must be a path", "found int"]),
    "image with a NUL": ({**GOOD, "image": "a\0.png"}, ["does not exist"]),
    "base64 for a path": (
        {**GOOD, "image": "iVBORw0KGgo" + "A" * 5000},
        ["does not exist", "iVBORw0KGgo"],
    ),
    "image a folder": ({**GOOD, "image": "images"}, ["does not exist"]),
    "not an object": ([1, 2], ["expected an object", "found list"]),
    "half a surrogate pair": (
        {"question": "cut \ud83d", "answer": "a"},
        ["`question`", "surrogate"],
    ),
    "truncated PNG": (
        {**GOOD, "image": "images/cut.png"},
        ["cut.png cannot be opened", "replace the file or delete the record"],
    ),
    "text for a PNG": ({**GOOD, "image": "images/text.png"}, ["text.png cannot be opened"]),
    "empty PNG": ({**GOOD, "image": "images/empty.png"}, ["empty.png cannot be opened"]),
    "narrow image": (
        {**GOOD, "image": "images/narrow.png"},
        ["2 x 500 pixels", "200 : 1", "crop it"],
    ),
    "absurdly large image": (
        {**GOOD, "image": "images/bomb.png"},
        [
            "bomb.png has 3600000000 pixels, more than --max-image-pixels 178956970",
            "shrink it, or raise the flag",
        ],
    ),
}


def bad_images(folder):
    noise = Image.effect_noise((100, 100), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    (folder / "images" / "cut.png").write_bytes(buffer.getvalue()[:5000])
    (folder / "images" / "text.png").write_text("I am no picture")
    (folder / "images" / "empty.png").touch()
    (folder / "images" / "narrow.png").write_bytes(png(2, 500))
    header = bytearray(
        png()
    )  # width and height of 60,000, made up: nothing so large is written or read
    header[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (folder / "images" / "bomb.png").write_bytes(header)


@pytest.mark.parametrize("name", ["set.jsonl", "set.json"])
@pytest.mark.parametrize("fault", BAD_RECORDS)
def test_bad_records_are_refused_with_file_line_and_remedy(folder, fault, name):
    record, expected = BAD_RECORDS[fault]
    bad_images(folder)
    path = write(folder, [GOOD, {**GOOD, "image": "images/a.png"}, record, GOOD], name)
    text = refusal(tasks.read, path)
    line = (
        3
        if name == "set.jsonl"
        else path.read_text()
        .split("\n")
        .index(
            " {" if isinstance(record, dict) and record else " {}," if record == {} else " [", 10
        )
        + 1
    )
    assert text.startswith(f"{path}:{line}: "), text
    for words in expected:
        assert words in text, text


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
    assert any(word in text for word in ("mend", "save it as", "expected")), f"no remedy in: {text}"


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'[\n{"question": "q", "answer": "a"},\n{"question": "q",]\n', ":3: broken JSON"),
        (b'[{"question": "q", "answer": "a"}', ":1: broken JSON"),
        (b"", "holds no record"),
        (b"\n \n", "holds no record"),
        (b"[]", "holds no record"),
        (b'{"question": "q", "answer": "a"}', "expected a list of objects"),
        (b'"text"', "expected a list of objects"),
        (b"null", "expected a list of objects"),
        (b'[{"question": "q",\n "answer": "caf\xe9"}]', ":2: not UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"question": "q", "answer": ' + b"1" * 5000 + b"}]", "broken JSON"),
        (b"[\n1, 2]", ":2, record 1: expected an object"),
    ],
)
def test_bad_json_files(tmp_path, content, expected):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    text = refusal(tasks.read, path)
    assert text.startswith(str(path)) and expected in text
    assert any(word in text for word in ("mend", "save it as", "expected")), f"no remedy in: {text}"


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
        assert f"--data {spec}" in text and f"toy task ({', '.join(sorted(toy.TASKS))})" in text
    (tmp_path / "x.csv").write_text("a,b")
    assert "only .json, .jsonl, .parquet" in refusal(tasks.read, "x.csv")
    (tmp_path / "folder").mkdir()
    assert "holds no .json" in refusal(tasks.read, "folder")
    write(tmp_path, [GOOD], "x.jsonl")
    assert "leave :test away" in refusal(tasks.read, "x.jsonl:test")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder" / "x.json").mkdir()
    assert "folder/x.json cannot be read" in refusal(tasks.read, "folder")


def test_bad_images_are_found_beyond_those_that_are_decoded_at_the_start(folder):
    """Headers are read even where decoding waits; what decoding would say comes when the image's turn does."""
    bad_images(folder)
    examples = lambda name: [
        Example("0", [], "q", "a"),
        Example("1", [folder / "images" / name], "q", "a", source="set.json:9"),
    ]
    for name in ("text.png", "empty.png", "bomb.png"):
        assert refusal(check_images, examples(name), decode=1).startswith("set.json:9: ")
    check_images(examples("cut.png"), decode=1)
    assert refusal(open_images, examples("cut.png")[1]).startswith("set.json:9: ")


def test_one_bad_image_of_many_stops_at_once(folder):
    """A thousand pictures queue behind it: the message must not wait for them."""
    bad_images(folder)
    noise = Image.effect_noise((600, 600), 90).convert("RGB")
    noise.save(folder / "images" / "noise.png")  # about 20 ms to decode
    examples = [Example("0", [folder / "images" / "text.png"], "q", "a", source="set.json:1")] + [
        Example("1", [folder / "images" / "noise.png"], "q", "a")
    ] * 1500
    refusal(check_images, examples, within=5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_damaged_pictures_are_opened_or_refused_but_nothing_else(kind):
    whole, rng, refused = png(40, 40, kind=kind), random.Random(kind), 0
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _ in range(rng.choice([0, 1, 4])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            assert open_image(bytes(damaged), "x.json:1").mode == "RGB"
        except UserError as error:
            assert str(error).startswith("x.json:1: ") and "\n" not in str(error)
            refused += 1
    assert refused > 30


# --- pictures too large, and what is no picture ---


@pytest.fixture
def pixel_limit():
    """Set another limit on pixels, for this test alone."""
    yield limit_image_pixels
    limit_image_pixels()


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


def chunk(kind, body):
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width, height, depth, color_type, row):
    """A PNG of this row again and again; of zeros it is some thousand times smaller than them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + row) * height, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


HUGE = raw_png(20_000, 20_000, 1, 0, bytes(2500))  # whole, and 0.2 MB


def test_pictures_over_the_limit_are_refused_by_their_headers(folder, pixel_limit, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    (folder / "huge.png").write_bytes(HUGE)
    record = {"image": "huge.png", "question": "q", "answer": "a"}
    boxed = {"image": "huge.png", "question": "q", "boxes": [[1, 2, 3, 4]]}
    pair = {"image": "huge.png", "question": "q", "chosen": "yes", "rejected": "no"}
    for call, records in (
        (tasks.read, [record]),
        (tasks.read, [boxed]),
        (pairs.read_pairs, [pair]),
    ):
        text = refusal(call, write(folder, records))
        assert text.startswith(
            f"{folder / 'set.jsonl'}:1: image {folder / 'huge.png'} has 400000000"
        )
        assert "more than --max-image-pixels 178956970; shrink it, or raise the flag" in text
    late = [Example("0", [], "q", "a"), Example("1", [HUGE], "q", "a", source="set.json:9")]
    for call in (check_images, lambda examples: check_images(examples, decode=0)):
        assert refusal(call, late).startswith("set.json:9: its embedded image has 400000000")
    pytest.importorskip("pyarrow")
    embedded = write(folder, [{**record, "image": {"bytes": HUGE, "path": None}}], "x.parquet")
    assert "its embedded image has 400000000 pixels" in refusal(tasks.read, embedded, within=5)
    pixel_limit(400_000_000)
    assert picture_size(HUGE, "x") == (20_000, 20_000)


def test_the_limit_is_exact_and_the_same_in_every_script(pixel_limit):
    pixel_limit(30 * 41)
    assert open_image(png(30, 41), "x").size == (30, 41)
    assert "has 1260 pixels" in refusal(open_image, png(30, 42), "x")
    import evaluate
    import generate
    import selftrain
    import train_dpo
    import train_grpo
    import train_sft

    out = ["--model", "tiny", "--output-dir", "out"]
    commands = {
        evaluate: [*out, "--data", "count"],
        generate: ["--model", "tiny", "--prompt", "How many?"],
        selftrain: [*out, "--data", "count", "--method", "star"],
        train_dpo: [*out, "--pairs", "x"],
        train_grpo: [*out, "--data", "count"],
        train_sft: [*out, "--data", "count"],
    }
    for script, words in commands.items():
        assert script.parse_args(words).max_image_pixels == 178_956_970
        args = script.parse_args([*words, "--max-image-pixels", "1260"])
        data.ask_as_trained(args)
        assert open_image(png(30, 42), "x").size == (30, 42)
        assert "more than --max-image-pixels 1260" in refusal(open_image, png(30, 43), "x")


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    """Eight just below the limit, side by side, are 20 GB."""
    locked = []

    def spied(image):
        locked.append((image.size, ONE_AT_A_TIME.locked()))
        return image

    monkeypatch.setattr(images_, "to_rgb", spied)
    monkeypatch.setattr(images_, "LARGE", 56 * 56)
    for size in ((56, 56), (57, 56)):
        open_image(png(*size), "x")
    assert locked == [((56, 56), False), ((57, 56), True)] and not ONE_AT_A_TIME.locked()


def saved(image, kind, **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


GREY = struct.pack(">H", 40_000)  # 0x9c40


@pytest.mark.parametrize(
    "case, encoded, expected",
    [
        ("16 bits, grey", raw_png(30, 30, 16, 0, GREY * 30), (156, 156, 156)),
        ("16 bits, alpha", raw_png(30, 30, 16, 4, (GREY + b"\xff\xff") * 30), (156, 156, 156)),
        ("16 bits, RGB", raw_png(30, 30, 16, 2, (GREY + b"\x00\x00\xff\xff") * 30), (156, 0, 255)),
        ("16 bits, TIFF", saved(Image.new("I;16", (30, 30), 40_000), "TIFF"), (156, 156, 156)),
        ("16 bits, Motorola", saved(Image.new("I;16B", (30, 30), 40_000), "TIFF"), (156, 156, 156)),
        ("16 bits, PGM", b"P5 30 30 65535\n" + GREY * 900, (156, 156, 156)),
        ("32 bits", saved(Image.new("I", (30, 30), 99), "TIFF"), (99, 99, 99)),
        ("floats", saved(Image.new("F", (30, 30), 99.0), "TIFF"), (99, 99, 99)),
        ("CMYK", saved(Image.new("CMYK", (30, 30), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (
            "animated",
            saved(
                Image.new("RGB", (30, 30), "red"),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (30, 30), "blue")],
            ),
            (255, 0, 0),
        ),
    ],
)
def test_pictures_of_every_depth_are_read_right(case, encoded, expected):
    assert open_image(encoded, "x").getpixel((9, 9)) == expected, case


@pytest.mark.parametrize("mode, value", [("I", 256), ("I", -1), ("F", 300.0), ("F", -0.5)])
def test_no_white_is_guessed_for_32_bits(mode, value):
    text = refusal(open_image, saved(Image.new(mode, (30, 30), value), "TIFF"), "x.json:3")
    assert text.startswith("x.json:3: ") and "32 bits a pixel" in text


def test_no_program_is_run_for_a_picture(folder, monkeypatch):
    """Pillow has Ghostscript draw an EPS file, whatever its name is."""
    import subprocess

    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("run"))
    Image.new("RGB", (30, 30)).save(folder / "a.eps")
    (folder / "a.eps").rename(folder / "a.png")
    text = refusal(tasks.read, write(folder, [{"image": "a.png", "question": "q", "answer": "a"}]))
    assert "set.jsonl:1: " in text and "is a PostScript program; save what it draws as PNG" in text


def odd_files(folder, suffix):
    """One file of every kind that is not one: name -> path."""
    named = {kind: folder / f"{kind}{suffix}" for kind in ("pipe", "socket", "device", "loop")}
    os.mkfifo(named["pipe"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(named["socket"]))  # absolute, it may be too long
    named["device"].symlink_to("/dev/zero")
    named["loop"].symlink_to(named["loop"])
    named["long"] = folder / ("x" * 5000 + suffix)
    named["NUL"] = folder / f"a\0b{suffix}"
    return named


def test_pictures_that_are_no_files(folder, monkeypatch, soon):
    monkeypatch.chdir(folder)
    (folder / "folder.png").mkdir()
    for kind, path in {**odd_files(folder, ".png"), "folder": folder / "folder.png"}.items():
        record = {"image": str(path), "question": "q", "answer": "a"}
        text = refusal(tasks.read, write(folder, [record]))
        assert text.startswith(f"{folder / 'set.jsonl'}:1: image ") and "does not exist" in text, (
            kind
        )


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


def test_an_annotation_that_may_never_end(mmpr, soon):
    path = mmpr(a=1, b=1)
    (path.parent / "annotations" / "a.jsonl").unlink()
    os.mkfifo(path.parent / "annotations" / "a.jsonl")
    assert "a.jsonl cannot be read (it is a pipe" in refusal(pairs.read_pairs, path)


def test_links_to_files_are_read(folder):
    write(folder, [GOOD], "set.jsonl")
    (folder / "link.jsonl").symlink_to("set.jsonl")
    (folder / "link.png").symlink_to(folder / "images" / "a.png")
    assert len(tasks.read(folder / "link.jsonl")) == 1
    linked = write(folder, [{"image": "link.png", "question": "q", "answer": "a"}], "x.jsonl")
    assert open_images(tasks.read(linked)[0])[0].getpixel((0, 0)) == (255, 0, 0)


# --- odd values everywhere ---

SAMPLES = [
    {"image": "images/a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"},
    {"images": ["images/a.png"], "question": "q", "answer": "a", "choices": ["a", "b"], "id": 1},
    {"image": "images/a.png", "question": "q", "boxes": [[1, 2, 30, 40]], "box_format": "pixels"},
    {
        "image": "images/a.png",
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "x Answer: 3"}],
    },
    {"imgname": "images/a.png", "query": "q", "label": "14"},
    {
        "id": "images/a",
        "question": "q",
        "choices": ["a", "b"],
        "answer": "a",
        "unit": None,
        "ques_type": "multi_choice",
        "ans_type": "text",
    },
    {
        "image": "images/a.png",
        "question": "q",
        "choices": ["3", "2"],
        "answer": "(A)",
        "prompt": "q",
        "task": "Count",
        "source": "COCO",
    },
    {
        "image": "images/a.png",
        "question": "q",
        "choices": ["a", "b"],
        "answer": "B",
        "rationale": "<answer>B</answer>",
        "domain": "d",
        "topic": "t",
    },
]
PAIR_SAMPLES = [
    {"image": "images/a.png", "question": "<image>q", "chosen": "yes", "rejected": "no"},
    {"text": {"question": "q", "chosen": "yes", "rejected": "no"}},
    {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}]}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "no"}]}],
    },
]
DEEP = json.loads("[" * 500 + "]" * 500)
ODD = [
    *(None, True, 0, -1, 2.5, 10**400, float("inf"), float("nan"), "", " ", "a\0b", "\ud800"),
    *("x" * 5000, "9" * 5000, [], [1], [["a"]], {}, {"a": 1}, {"bytes": 1}, [{"type": []}], DEEP),
]
BESIDE = ("prompt_template", "boxes", "size", "resized", "box_style", "box_format", "task", "id")


def places_in(value, before=()):
    """Every place inside a value, as a path of keys."""
    inside = value.items() if isinstance(value, dict) else []
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, item in inside:
        yield (*before, key)
        yield from places_in(item, (*before, key))


def put(value, place, item):
    """A copy of the value with something else at this place."""
    changed = copy.copy(value)
    changed[place[0]] = put(value[place[0]], place[1:], item) if place[1:] else item
    return changed


@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_odd_values_are_read_or_refused_but_nothing_else(tiny, folder, number):
    """What is read can be asked, judged and written: a script meets nothing new after its start."""
    sample, path, counts = SAMPLES[number], folder / "set.jsonl", Counter()
    for place in [*places_in(sample), *((key,) for key in BESIDE)]:
        for odd in ODD:
            write(folder, [put(sample, place, odd)])
            try:
                [example] = tasks.read(path)
                Asker(tiny[1], "think").prompt(example)
                data.check_golds([example], rewards.check_gold)
                json.dumps([data.target_text(example, "think"), example.id, example.choices])
                counts["read"] += 1
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                counts["refused"] += 1
    assert counts["read"] > 20 and counts["refused"] > 20


@pytest.mark.parametrize("number", range(len(PAIR_SAMPLES)))
def test_odd_values_in_pairs_are_read_or_refused_but_nothing_else(tiny, folder, number):
    sample, path, counts = PAIR_SAMPLES[number], folder / "set.jsonl", Counter()
    for place in [*places_in(sample), *((key,) for key in (*BESIDE, "system", "video"))]:
        for odd in ODD:
            write(folder, [put(sample, place, odd)])
            try:
                Asker(tiny[1], "none").check_pairs(pairs.read_pairs(path))
                counts["read"] += 1
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                counts["refused"] += 1
    assert counts["read"] > 20 and counts["refused"] > 20


@pytest.mark.parametrize("odd", [["think"], {"a": 1}, 5, "thinking", "", True])
def test_a_records_own_template_is_one_of_ours(folder, odd):
    write(folder, [GOOD, {**GOOD, "prompt_template": odd}])
    text = refusal(tasks.read, folder / "set.jsonl")
    assert (
        text.startswith(f"{folder / 'set.jsonl'}:2: `prompt_template` ")
        and "delete the key" in text
    )


def test_a_records_own_template_is_used_and_null_is_none(folder):
    write(folder, [{**GOOD, "prompt_template": name} for name in (None, "direct")])
    plainly, directly = tasks.read(folder / "set.jsonl")
    assert question_text(plainly, "none") == plainly.question
    assert question_text(directly, "none") == question_text(plainly, "direct") != plainly.question


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


# -------------------------------------------------------------------------------------------------------- preference pairs


def user(text):
    return {"role": "user", "content": text}


def reply(text):
    return {"role": "assistant", "content": text}


A, B, Q = "images/a.png", "images/b.png", "How many?"
PAIRS = {  # layout: (record, its images, its question, its meta); the responses are "Two." and "Three."
    "MMPR": (
        {
            "image": A,
            "question": "<image>\nHow many?",
            "chosen": "Two.",
            "rejected": " Three.\n",
            "margin": 2,
        },
        [A],
        Q,
        {"margin": 2},
    ),
    "MMPR, several images": (
        {
            "image": [A, B],
            "question": "<image><image>Same?",
            "chosen": "Two.",
            "rejected": "Three.",
        },
        [A, B],
        "Same?",
        {},
    ),
    "MMPR, text only": ({"question": Q, "chosen": "Two.", "rejected": "Three."}, [], Q, {}),
    "MMPR, no image": (
        {"image": None, "video": None, "question": Q, "chosen": "Two.", "rejected": "Three."},
        [],
        Q,
        {},
    ),
    "MMPR, an empty image": (
        {"image": "", "question": Q, "chosen": "Two.", "rejected": "Three."},
        [],
        Q,
        {},
    ),
    "RLHF-V": (
        {
            "idx": 0,
            "image_path": A,
            "text": json.dumps({"question": Q, "chosen": "Two.", "rejected": "Three."}),
            "ds_name": "RLHF-V",
        },
        [A],
        Q,
        {"ds_name": "RLHF-V"},
    ),
    "RLHF-V, an object": (
        {"image": B, "text": {"question": Q, "chosen": "Two.", "rejected": "Three."}},
        [B],
        Q,
        {},
    ),
    "TRL": (
        {"images": [A, B], "prompt": "Same?", "chosen": "Two.", "rejected": "Three."},
        [A, B],
        "Same?",
        {},
    ),
    "VL-RLHF": ({"prompt": Q, "chosen": "Two.", "rejected": "Three.", "image": A}, [A], Q, {}),
    "TRL, conversational": (
        {
            "images": [A],
            "prompt": [user(Q)],
            "chosen": [reply("Two.")],
            "rejected": [reply("Three.")],
            "annotation": "gpt",
        },
        [A],
        Q,
        {"annotation": "gpt"},
    ),
    "TRL, parts": (
        {
            "images": [A, B],
            "prompt": [
                user(
                    [
                        {"type": "image", "text": None},
                        {"type": "image", "text": None},
                        {"type": "text", "text": "Same?"},
                    ]
                )
            ],
            "chosen": [reply([{"type": "text", "text": "Tw"}, {"type": "text", "text": "o."}])],
            "rejected": [reply([{"type": "text", "text": "Three."}])],
        },
        [A, B],
        "Same?",
        {},
    ),
    "TRL, image in a part": (
        {
            "prompt": [user([{"type": "text", "text": Q}, {"type": "image", "image": B}])],
            "chosen": "Two.",
            "rejected": "Three.",
        },
        [B],
        Q,
        {},
    ),
    "TRL, implicit": (
        {"images": [A], "chosen": [user(Q), reply("Two.")], "rejected": [user(Q), reply("Three.")]},
        [A],
        Q,
        {},
    ),
    "TRL, prompt said again": (
        {
            "images": None,
            "prompt": Q,
            "chosen": [user(Q), reply("Two.")],
            "rejected": [user(Q), reply("Three.")],
        },
        [],
        Q,
        {},
    ),
    "LLaMA-Factory": (
        {
            "conversations": [{"from": "human", "value": "<image>How many?"}],
            "chosen": {"from": "gpt", "value": "Two."},
            "rejected": {"from": "gpt", "value": "Three."},
            "images": [A],
            "system": "",
        },
        [A],
        Q,
        {},
    ),
    "messages": (
        {
            "messages": [user("<image>How many?")],
            "chosen": reply("Two."),
            "rejected": reply("Three."),
            "images": [A],
        },
        [A],
        Q,
        {},
    ),
}


@pytest.mark.parametrize("layout", PAIRS)
def test_pairs_of_every_layout(folder, layout):
    record, images, question, meta = PAIRS[layout]
    path = write(folder, [record])
    [pair] = pairs.read_pairs(path)
    name = str(record.get("idx", "set.jsonl:1"))
    assert pair == Pair(
        Example(
            name,
            [folder / image for image in images],
            question,
            "",
            None,
            None,
            None,
            {**meta, "prompt_template": "none"},
            f"{path}:1",
        ),
        "Two.",
        "Three.",
    )
    assert question_text(pair.example, "think") == question  # a given prompt is whole


@pytest.mark.parametrize("name", ["set.json", "set.jsonl", "set.parquet"])
def test_pairs_in_every_format_and_order(folder, name):
    records = [
        {
            "id": n,
            "image": A,
            "question": f"q{n}",
            "chosen": f"right {n}",
            "rejected": f"wrong {n}",
            "answer_gt": n,
        }
        for n in (3, 1, 2)
    ]
    path = write(folder, records, name)
    got = pairs.read_pairs(path)
    lines = [2, 10, 18] if name == "set.json" else [1, 2, 3]
    assert [
        (p.example.id, p.example.question, p.example.answer, p.chosen, p.rejected, p.example.source)
        for p in got
    ] == [
        (str(n), f"q{n}", str(n), f"right {n}", f"wrong {n}", f"{path}:{line}")
        for n, line in zip((3, 1, 2), lines)
    ]


def test_pairs_of_a_parquet_snapshot(tmp_path):
    """TRL's columns as the Hub has them: shards, embedded bytes, and every part with every key."""
    row = lambda n, color: {
        "images": [{"bytes": png(color=color), "path": None}],
        "prompt": [user([{"type": "image", "text": None}, {"type": "text", "text": f"q{n}"}])],
        "chosen": [reply([{"type": "text", "text": "Two."}])],
        "rejected": [reply([{"type": "text", "text": "Three."}])],
    }
    write(tmp_path, [row(0, "red")], "train-00000-of-00002.parquet")
    write(tmp_path, [row(1, "lime")], "train-00001-of-00002.parquet")
    write(tmp_path, [row(2, "blue")], "test-00000-of-00001.parquet")
    train, test = pairs.read_pairs(tmp_path), pairs.read_pairs(f"{tmp_path}:test")
    assert [(p.example.question, p.chosen, p.rejected) for p in train + test] == [
        (f"q{n}", "Two.", "Three.") for n in range(3)
    ]
    assert [open_images(p.example)[0].getpixel((5, 5)) for p in train + test] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]


def test_pair_images_beside_the_file_in_a_usual_folder_or_in_one_named_apart(folder):
    pair = lambda image: [{"image": image, "question": Q, "chosen": "Two.", "rejected": "Three."}]
    [usual] = pairs.read_pairs(write(folder, pair("a.png")))
    assert usual.example.images == [folder / "images" / "a.png"]
    other = folder / "other"
    other.mkdir()
    (other / "a.png").write_bytes(png(color="lime"))
    [apart] = pairs.read_pairs(write(folder, pair("a.png")), image_folder=str(other))
    assert apart.example.images == [other / "a.png"]
    text = refusal(
        pairs.read_pairs, write(folder, pair("b.png")), image_folder=other
    )  # it is in images/, which is not asked for
    assert (
        text.startswith(f"{folder / 'set.jsonl'}:1: ")
        and "b.png does not exist" in text
        and f"relative paths resolve in {other}" in text
    )
    assert "--image-folder nowhere: no such folder" in refusal(
        pairs.read_pairs, folder / "set.jsonl", image_folder="nowhere"
    )


# ---- MMPR's meta file


@pytest.fixture
def mmpr(tmp_path):
    """MMPR's published tree: meta(repeat_time of "a", of "b") writes its meta.json, whose paths begin with the name of its own folder, and returns its path."""
    home = tmp_path / "MMPR-v1.2"
    for name, color in (("a", "red"), ("b", "blue")):
        (home / "images" / name).mkdir(parents=True)
        (home / "images" / name / "1.png").write_bytes(png(color=color))
    (home / "annotations").mkdir()
    for name, count in (("a", 10), ("b", 3)):
        write(
            home / "annotations",
            [
                {
                    "image": "1.png",
                    "question": f"<image>\n{name}{n}",
                    "chosen": "yes",
                    "rejected": "no",
                }
                for n in range(count)
            ],
            f"{name}.jsonl",
        )

    def meta(**times):
        entry = lambda name, times: {
            "root": f"MMPR-v1.2/images/{name}",
            "annotation": f"MMPR-v1.2/annotations/{name}.jsonl",
            "data_augment": False,
            "repeat_time": times,
            "length": 10,
        }
        (home / "meta.json").write_text(
            json.dumps({name: entry(name, n) for name, n in times.items()}, indent=1)
        )
        return home / "meta.json"

    return meta


def test_an_mmpr_meta_file(mmpr, monkeypatch):
    path = mmpr(b=1, a=1)
    for spec in (
        path,
        path.parent,
    ):  # of a folder, what its meta.json says: not the annotations a second time
        got = pairs.read_pairs(spec)
        assert [p.example.question for p in got] == [f"b{n}" for n in range(3)] + [
            f"a{n}" for n in range(10)
        ]
        assert [open_images(got[n].example)[0].getpixel((0, 0)) for n in (0, 3)] == [
            (0, 0, 255),
            (255, 0, 0),
        ]
        assert Path(got[4].example.source.rpartition(":")[0]).samefile(
            path.parent / "annotations" / "a.jsonl"
        ) and got[4].example.source.endswith(":2")
    monkeypatch.chdir(path.parent)
    assert len(pairs.read_pairs("meta.json")) == 13


@pytest.mark.parametrize(
    "times, copies, sampled",
    [(0, 0, 0), (0.3, 0, 3), (0.05, 0, 0), (1, 1, 0), (1.0, 1, 0), (2, 2, 0), (2.3, 2, 3)],
)
def test_repeat_time(mmpr, times, copies, sampled):
    path = mmpr(a=times, b=1)
    numbers = [
        int(p.example.question[1:]) for p in pairs.read_pairs(path) if p.example.question[0] == "a"
    ]
    assert numbers[: 10 * copies] == list(range(10)) * copies
    rest = numbers[10 * copies :]
    assert len(rest) == len(set(rest)) == sampled and rest == sorted(rest)
    random.seed(7)
    assert [p.example.question for p in pairs.read_pairs(path)][: len(numbers)] == [
        f"a{n}" for n in numbers
    ]  # the set's name decides alone
    assert rest == sorted(random.Random("a").sample(range(10), sampled))


def test_a_repeated_record_is_one_pair(mmpr):
    got = pairs.read_pairs(mmpr(b=2))
    assert got[0] is got[3] and len({id(p) for p in got}) == 3


def test_records_that_are_not_sampled_need_no_image(mmpr):
    path = mmpr(a=0.3)
    chosen = random.Random("a").sample(range(10), 3)
    records = [
        {
            "image": "1.png" if n in chosen else "gone.png",
            "question": "q",
            "chosen": "yes",
            "rejected": "no",
        }
        for n in range(10)
    ]
    write(path.parent / "annotations", records, "a.jsonl")
    assert len(pairs.read_pairs(path)) == 3
    assert "gone.png does not exist" in refusal(pairs.read_pairs, mmpr(a=1))


def test_an_mmpr_meta_file_with_its_images_elsewhere(mmpr, tmp_path):
    path = mmpr(a=1)
    elsewhere = tmp_path / "disk"
    (path.parent / "images").rename(elsewhere)
    text = refusal(pairs.read_pairs, path)
    assert "a.jsonl:1: image" in text and "1.png does not exist" in text
    assert pairs.read_pairs(path, elsewhere / "a")[0].example.images == [
        elsewhere / "a" / "1.png"
    ]  # in place of the set's folder
    nested = tmp_path / "mount"
    (nested / "MMPR-v1.2" / "images").mkdir(parents=True)
    (elsewhere / "a").rename(nested / "MMPR-v1.2" / "images" / "a")
    assert pairs.read_pairs(path, nested)[0].example.images == [
        nested / "MMPR-v1.2/images/a/1.png"
    ]  # before it


BAD_META = {  # (what the set "a" says otherwise, what the message must say)
    "annotation nowhere": (
        {"annotation": "gone.jsonl"},
        ["set a: annotation", "gone.jsonl does not exist", "fetch it, or delete the set"],
    ),
    "annotation a number": ({"annotation": 5}, ["set a: `annotation` must be str"]),
    "root a number": ({"root": 5}, ["set a: `root` must be str"]),
    "a text for a number": ({"repeat_time": "2"}, ["set a: `repeat_time` must be a number"]),
    "true for a number": ({"repeat_time": True}, ["`repeat_time` must be a number"]),
    "less than nothing": ({"repeat_time": -1}, ["`repeat_time` must be a number"]),
    "no number": ({"repeat_time": float("nan")}, ["`repeat_time` must be a number"]),
    "nearly a million times": (
        {"repeat_time": 900_000},
        ["`repeat_time` must be a number", "at most 1000", "found 900000"],
    ),
    "an annotation of 5,000 characters": (
        {"annotation": "x" * 5000},
        ["set a: annotation", "does not exist"],
    ),
    "an annotation with a NUL": (
        {"annotation": "a\0.jsonl"},
        ["set a: annotation", "does not exist"],
    ),
    "an annotation a folder": (
        {"annotation": "annotations"},
        ["set a: annotation", "does not exist"],
    ),
}


@pytest.mark.parametrize("fault", BAD_META)
def test_bad_meta_files(mmpr, fault):
    change, expected = BAD_META[fault]
    path = mmpr(b=1, a=1)
    path.write_text(
        json.dumps(
            {
                name: {**entry, **(change if name == "a" else {})}
                for name, entry in json.loads(path.read_text()).items()
            },
            indent=1,
        )
    )
    text = refusal(pairs.read_pairs, path)
    assert text.startswith(f"{path}:9: ") and all(words in text for words in expected), text


def test_a_meta_file_that_comes_to_nothing(mmpr):
    assert "raise their repeat_time" in refusal(pairs.read_pairs, mmpr(b=0.1))


# ---- refusals

PAIR = {"question": "q", "chosen": "yes", "rejected": "no"}
BAD_PAIRS = {  # name: (record, what the message must say)
    "missing image": (
        {**PAIR, "image": "gone.png"},
        ["gone.png does not exist, nor in images", "relative paths resolve beside set.jsonl"],
    ),
    "one image of two missing": ({**PAIR, "image": [A, "gone.png"]}, ["gone.png does not exist"]),
    "broken image": (
        {**PAIR, "image": "images/cut.png"},
        ["cut.png cannot be opened", "replace the file or delete the record"],
    ),
    "image of the wrong type": ({**PAIR, "image": 3}, ["an image must be a path", "found int"]),
    "the same text": (
        {**PAIR, "rejected": " yes\n"},
        ["chosen and rejected are the same text", "delete the record"],
    ),
    "empty chosen": ({**PAIR, "chosen": " "}, ["`chosen` is empty", "fill it in"]),
    "empty rejected": ({**PAIR, "rejected": ""}, ["`rejected` is empty"]),
    "null chosen": ({**PAIR, "chosen": None}, ["`chosen` is null"]),
    "no turn": ({**PAIR, "chosen": []}, ["`chosen` is empty"]),
    "chosen a number": ({**PAIR, "chosen": 5}, ["`chosen` must be str", "found int"]),
    "rejected of texts": (
        {**PAIR, "rejected": ["no", "never"]},
        ["`rejected` must be a text or a list of turns", "found no"],
    ),
    "a part whose type is a list": (
        {**PAIR, "question": [{"role": "user", "content": [{"type": ["text"], "text": "q"}]}]},
        ["`question` holds ['text']", "delete the record"],
    ),
    "a part whose type is an object": (
        {**PAIR, "chosen": [{"role": "assistant", "content": [{"type": {}, "text": "q"}]}]},
        ["`chosen` holds {}", "delete the record"],
    ),
    "half a surrogate pair": ({**PAIR, "rejected": "cut \ud83d"}, ["`rejected`", "surrogate"]),
    "question a number": ({**PAIR, "question": 5}, ["`question` must be str"]),
    "no rejected": (
        {"question": "q", "chosen": "yes"},
        ["no pair", "chosen and rejected", "found question, chosen"],
    ),
    "a question and its answer": (
        {"question": "q", "answer": "a"},
        ["no pair", "found question, answer"],
    ),
    "nothing": ({}, ["no pair", "found nothing"]),
    "not an object": ([1, 2], ["expected an object with question", "found list"]),
    "no prompt": (
        {"chosen": "yes", "rejected": "no"},
        ["no prompt", "`question`, `prompt` or `conversations`"],
    ),
    "only an image for a prompt": (
        {**PAIR, "question": "<image>", "image": A},
        ["`question` is empty"],
    ),
    "a video": ({**PAIR, "video": "a.mp4"}, ["about a video", "only images", "delete the record"]),
    "a video in a part": (
        {
            **PAIR,
            "question": None,
            "prompt": [user([{"type": "video"}, {"type": "text", "text": "q"}])],
        },
        ["`prompt` holds video, text"],
    ),
    "an image in a reply": (
        {**PAIR, "chosen": [reply([{"type": "image"}, {"type": "text", "text": "q"}])]},
        ["`chosen` holds image, text", "a reply is made of text"],
    ),
    "a part that is empty": (
        {**PAIR, "chosen": [reply([{"type": "text", "text": None}])]},
        ["`chosen` is null"],
    ),
    "more marks than images": (
        {**PAIR, "question": "<image><image>q", "image": A},
        ["2 <image> in the question, but 1 images"],
    ),
    "a mark without an image": (
        {**PAIR, "question": "<image>q"},
        ["1 <image> in the question, but 0 images"],
    ),
    "RLHF-V, broken JSON": (
        {"image": A, "text": "{"},
        ["`text` must be an object with question, chosen and rejected", "mend"],
    ),
    "RLHF-V, a list": ({"image": A, "text": "[1]"}, ["`text` must be an object"]),
    "RLHF-V, no chosen": (
        {"image": A, "text": {"question": "q", "rejected": "no"}},
        ["no pair", "found image, question, rejected"],
    ),
    "two prompts": (
        {"chosen": [user("q"), reply("yes")], "rejected": [user("r"), reply("no")]},
        ["do not answer the same prompt"],
    ),
    "a prompt and another": (
        {**PAIR, "chosen": [user("r"), reply("yes")]},
        ["do not answer the same prompt"],
    ),
    "one implicit prompt": (
        {"chosen": [user("q"), reply("yes")], "rejected": [reply("no")]},
        ["no prompt"],
    ),
    "several turns": (
        {
            "conversations": turns("q", "a")["conversations"]
            + turns("r", "b")["conversations"][:1],
            "chosen": "yes",
            "rejected": "no",
        },
        ["one turn from user", "found a prompt of user, assistant, user"],
    ),
    "a system turn": (
        {
            **PAIR,
            "question": None,
            "prompt": [{"role": "system", "content": "Be brief."}, user("q")],
        },
        ["found a prompt of system, user", "--system-prompt"],
    ),
    "a system key": (
        {**PAIR, "system": "Be brief."},
        ["found a prompt of system, user", "--system-prompt"],
    ),
    "a prompt from gpt": (
        {**PAIR, "question": None, "prompt": [reply("q")]},
        ["found a prompt of assistant"],
    ),
    "a reply from human": (
        {**PAIR, "rejected": {"from": "human", "value": "no"}},
        ["replies of assistant, user"],
    ),
    "a turn without a role": (
        {**PAIR, "chosen": [{"content": "yes"}]},
        ["`chosen` must be a text or a list of turns"],
    ),
}


@pytest.mark.parametrize("fault", BAD_PAIRS)
def test_bad_pairs_are_refused_with_file_line_and_remedy(folder, fault):
    record, expected = BAD_PAIRS[fault]
    bad_images(folder)
    path = write(folder, [PAIR, {**PAIR, "image": A}, record, PAIR])
    text = refusal(pairs.read_pairs, path)
    assert text.startswith(f"{path}:3: ") and all(words in text for words in expected), text


def test_bad_files_of_pairs(tmp_path):
    assert "none.jsonl: no such file" in refusal(pairs.read_pairs, "none.jsonl")
    (tmp_path / "x.csv").write_text("a,b")
    assert "only .json, .jsonl, .parquet" in refusal(pairs.read_pairs, tmp_path / "x.csv")
    (tmp_path / "x.jsonl").write_text("\n")
    assert (
        "holds no record; expected objects with question (or prompt, or conversations), chosen and rejected"
        in refusal(pairs.read_pairs, tmp_path / "x.jsonl")
    )
    (tmp_path / "x.jsonl").write_text(json.dumps(PAIR) + "\n{")
    assert refusal(pairs.read_pairs, tmp_path / "x.jsonl").startswith(
        f"{tmp_path / 'x.jsonl'}:2: broken JSON"
    )


# --- never blind ---

PICTURE_KEYS = (
    "image_filename",
    "img_path",
    "imgname",
    "img",
    "imgs",
    "Image",
    "IMAGES",
    "imagePath",
    "image_file",
    "image_url",
    "image_1",
    "image0",
    "left_image",
    "pic",
    "picture",
    "photos",
    "figure",
    "frame",
    "frames",
    "screenshot",
    "pixel_values",
    "video",
    "video_path",
    "videos",
    "file_name",
    "path",
    "media",
    "jpg",
)
WITH_PICTURE = {  # layout: a record that is about the picture a.png, and the key that names it
    "R1-V": (
        {"image": "a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"},
        "image",
    ),
    "R1-V, evaluation": (
        {"image_path": "a.png", "question": "How many?", "ground_truth": 3},
        "image_path",
    ),
    "plain": ({"images": ["a.png"], "question": "How many?", "answer": "3"}, "images"),
    "plain, two": ({"images": ["a.png", "a.png"], "question": "Same?", "answer": "yes"}, "images"),
    "distilled": (
        {"image": "a.png", "problem": "q", "thinking": "one", "solution": "<answer>1</answer>"},
        "image",
    ),
    "R3V": (
        {"image": "a.png", **turns("How many?", "One.\nAnswer: 1", ("user", "assistant"))},
        "image",
    ),
    "LLaVA": ({"id": 1, "image": "a.png", **turns("<image>\nHow many?", "1")}, "image"),
    "VLM-R1, two": ({"image": ["a.png", "a.png"], **turns("Same?", "yes")}, "image"),
    "VLM-R1, a box": ({"image": "a.png", **turns("Where?", [10, 20, 200, 300])}, "image"),
    "VLM-R1 REC": (
        {"image": "a.png", "problem": "the man", "solution": [10, 20, 200, 300]},
        "image",
    ),
    "ChartQA": ({"imgname": "a.png", "query": "q", "label": "14"}, "imgname"),
    "ChartQA of the Hub": ({"image": "a.png", "query": "q", "label": ["14"]}, "image"),
    "CV-Bench": (CVBENCH, "image"),
    "M3CoT": (M3COT, "image"),
    "pair, MMPR": ({"image": "a.png", "question": "q", "chosen": "yes", "rejected": "no"}, "image"),
    "pair, RLHF-V": (
        {"image_path": "a.png", "text": {"question": "q", "chosen": "yes", "rejected": "no"}},
        "image_path",
    ),
    "pair, TRL": (
        {
            "images": ["a.png"],
            "prompt": [user("q")],
            "chosen": [reply("yes")],
            "rejected": [reply("no")],
        },
        "images",
    ),
    "pair, implicit": (
        {
            "images": ["a.png"],
            "chosen": [user("q"), reply("yes")],
            "rejected": [user("q"), reply("no")],
        },
        "images",
    ),
    "pair, LLaMA-Factory": (
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
            "images": ["a.png"],
        },
        "images",
    ),
}


def embedded(value):
    """The same picture as parquet rows hold it."""
    if isinstance(value, list):
        return [embedded(item) for item in value]
    return {"bytes": png(640, 480), "path": value}


def read_any(path):
    """Examples of a file of questions or of pairs."""
    record = files.rows_of(path, "")[0][2]
    record = record["text"] if isinstance(record.get("text"), dict) else record
    if "chosen" in record:
        return [pair.example for pair in pairs.read_pairs(path)]
    return tasks.read(path)


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.parquet"])
@pytest.mark.parametrize("layout", WITH_PICTURE)
def test_a_picture_under_any_other_key_is_never_passed_by(wide, layout, name):
    """CLEVR's `image_filename` and the like made text-only questions, without a word."""
    record, key = WITH_PICTURE[layout]
    if name == "set.parquet":
        if layout in ("VLM-R1, a box", "pair, TRL", "pair, implicit") or key == "imgname":
            pytest.skip("columns of two types, or no place for bytes")
        record = {**record, key: embedded(record[key])}
    [example] = read_any(write(wide, [record], name))
    assert len(example.images) == (2 if "two" in layout else 1)
    for other in PICTURE_KEYS:
        if other == key or other == "imgname" and "query" in record:  # which ChartQA has
            continue
        renamed = {other if k == key else k: v for k, v in record.items()}
        path = write(wide, [renamed], name)
        text = refusal(read_any, path, within=5)
        assert text.startswith(f"{path}:{2 if name == 'set.json' else 1}: "), text


BLIND = {  # name: (what a plain question has besides, what the message must say); a.png is there
    "CLEVR": (
        {"image_filename": "CLEVR_train_000000.png"},
        ["`image_filename` seems to hold a picture", "rename the key"],
    ),
    "a name without a suffix": ({"img": "000000"}, ["`img` seems to hold"]),
    "a number": ({"picture": 17}, ["`picture` seems to hold"]),
    "an id that is a file": ({"image_id": "000001.jpg"}, ["`image_id` seems to hold"]),
    "base64": ({"photo": "iVBORw0KGgo" + "A" * 500}, ["`photo` seems to hold"]),
    "a data URL elsewhere": (
        {"content": "data:image/png;base64,iVBOR"},
        ["`content` seems to hold"],
    ),
    "a key of any name": ({"file": "x/a b.JPEG"}, ["`file` seems to hold"]),
    "inside another": ({"meta": {"deep": [{"image": "a.png"}]}}, ["`meta` seems to hold"]),
    "a message's part": (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        ["`messages` seems to hold"],
    ),
    "a message's address": (
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "http://x/1"}}]}]},
        ["`messages` seems to hold"],
    ),
    "a video": ({"video": "a.mp4"}, ["about a video", "delete the record"]),
    "it says so": ({"has_image": True}, ["`has_image` is True, but no picture is read"]),
    "it counts them": ({"num_images": 2}, ["`num_images` is 2, but 0 images are read"]),
    "fewer than counted": (
        {"image": "a.png", "image_count": 2},
        ["`image_count` is 2, but 1 images are read"],
    ),
    "an empty text": ({"image": ""}, ["`image` is empty", "write null"]),
    "blank": ({"image_path": "  "}, ["`image_path` is empty"]),
    "an empty text in a list": ({"images": ["a.png", ""]}, ["`images` is empty"]),
    "null in a list": ({"images": ["a.png", None]}, ["found NoneType", "name the picture"]),
    "neither bytes nor path": (
        {"image": {"bytes": None, "path": None}},
        ["an object with neither bytes nor path"],
    ),
    "an address": ({"image": {"url": "http://x/a.png"}}, ["an object with neither bytes nor path"]),
    "an empty list beside it": (
        {"images": [], "image": "a.png"},
        ["`images` is an empty list", "delete `images`"],
    ),
    "an empty list beside its path": (
        {"image": [], "image_path": "a.png"},
        ["`image` is an empty list"],
    ),
    "two that differ": (
        {"image": "a.png", "image_path": "b.png"},
        ["`image` and `image_path` name different pictures"],
    ),
    "more in the other": (
        {"images": ["a.png"], "image": ["a.png", "b.png"]},
        ["name different pictures"],
    ),
    "a second": (
        {"image": "a.png", "image_2": "b.png"},
        ["`image_2` seems to hold one more picture"],
    ),
    "a second without a suffix": (
        {"image": "a.png", "right_image": "b"},
        ["`right_image` seems to hold one more"],
    ),
    "a second with bytes": (
        {"image": "a.png", "img": {"bytes": "x", "path": "b.png"}},
        ["`img` seems to hold one more"],
    ),
    "a video beside": ({"image": "a.png", "video": "a.mp4"}, ["about a video"]),
    "a mark": ({"question": "<image>\nHow many?"}, ["1 <image> in the question, but 0 images"]),
    "a mark too many": (
        {"question": "<image><image>q", "image": "a.png"},
        ["2 <image> in the question, but 1 images"],
    ),
    "a mark too few": (
        {"question": "<image>q", "images": ["a.png", "a.png"]},
        ["1 <image> in the question, but 2 images"],
    ),
    "a numbered mark": (
        {"question": "In <image 1>?"},
        ["the text has <image 1>, but 0 images are read"],
    ),
    "a higher mark": (
        {"question": "<image 1> or <image 2>?", "image": "a.png"},
        ["<image 2>, but 1 images"],
    ),
    "a mark among the choices": (
        {"choices": ["<image 1>", "<image 2>"]},
        ["<image 1>, but 0 images"],
    ),
    "another project's mark": ({"question": "<ImageHere> q"}, ["but 0 images are read"]),
    "yet another's": ({"question": "<|image_1|> q"}, ["but 0 images are read"]),
    "a mark of a video": (
        {"question": "<video>q", "image": "a.png"},
        ["<video>, but 1 images are read"],
    ),
    "a mark and null": (
        {"question": "<image>q", "image": None},
        ["1 <image> in the question, but 0 images"],
    ),
}


@pytest.mark.parametrize("name", ["set.jsonl", "set.json"])
@pytest.mark.parametrize("fault", BLIND)
def test_a_picture_that_is_not_read_is_refused_with_place_and_remedy(wide, fault, name):
    more, expected = BLIND[fault]
    path = write(wide, [GOOD, {"question": "How many?", "answer": "3", **more}], name)
    text = refusal(tasks.read, path)
    place = {"set.jsonl": "2", "set.json": "6"}[name]
    assert text.startswith(f"{path}:{place}: ") and all(words in text for words in expected), text


BLIND_TALKS = {  # the same in conversations, and in pairs
    "a picture of a turn": (
        {
            "conversations": [
                {"from": "human", "value": "q", "image": "a.png"},
                {"from": "gpt", "value": "1"},
            ]
        },
        ["`image` seems to hold"],
    ),
    "a mark in the reply": (turns("q", "<image>"), ["<image>, but 0 images"]),
    "a mark of a later turn": (
        {
            "conversations": turns("q", "1")["conversations"]
            + turns("<image>r", "2")["conversations"]
        },
        ["a later turn has <image>"],
    ),
    "a pair's picture": (
        {"img": "a.png", "question": "q", "chosen": "yes", "rejected": "no"},
        ["`img` seems to hold"],
    ),
    "a pair's mark": (
        {"question": "In <image 1>?", "chosen": "yes", "rejected": "no"},
        ["<image 1>, but 0 images"],
    ),
    "a picture of a prompt": (
        {"prompt": [{**user("q"), "images": ["a.png"]}], "chosen": "yes", "rejected": "no"},
        ["`images` seems to hold"],
    ),
    "a prompt's and another": (
        {
            "images": ["a.png"],
            "chosen": "yes",
            "rejected": "no",
            "prompt": [user([{"type": "image", "image": "b.png"}, {"type": "text", "text": "q"}])],
        },
        ["the prompt holds other pictures"],
    ),
}


@pytest.mark.parametrize("fault", BLIND_TALKS)
def test_a_picture_of_a_talk_that_is_not_read_is_refused(wide, fault):
    record, expected = BLIND_TALKS[fault]
    text = refusal(read_any, write(wide, [record]))
    assert text.startswith(f"{wide / 'set.jsonl'}:1: ") and all(
        words in text for words in expected
    ), text


SEEN = {  # name: (what a plain question has besides, how many pictures it is asked with)
    "no key": ({}, 0),
    "null": ({"image": None, "images": None, "image_path": None}, 0),
    "an empty list": ({"images": []}, 0),
    "null under other keys": (
        {"img": None, "image_filename": "", "video": None, "videos": [], "pic": {"bytes": None}},
        0,
    ),
    "an id": ({"image_id": 458752, "imageId": "COCO_458752"}, 0),
    "numbers about it": (
        {"image_size": [640, 480], "image_width": 640, "frame_rate": 25, "pixel_count": 3},
        0,
    ),
    "it says no": (
        {"has_image": False, "num_images": 0, "with_picture": 0, "image_count": None},
        0,
    ),
    "words about it": (
        {
            "image_caption": "A cat.",
            "figure_type": "bar",
            "video_title": "Cats",
            "imagenet_label": "cat",
        },
        0,
    ),
    "words with such letters": (
        {"topic": "cats", "epic": "Iliad", "timeframe": "1990", "configured": "yes"},
        0,
    ),
    "texts with a dot": (
        {"source": "example.com", "license": "CC-BY-4.0", "note": "See a.png for more."},
        0,
    ),
    "a record about it": ({"meta": {"image_size": [1, 2], "has_image": False, "n": [1]}}, 0),
    "a tag that is no mark": ({"question": "What is <images>, <imageless> or < img src=x>?"}, 0),
    "null beside it": ({"image": None, "images": ["a.png"]}, 1),
    "twice the same": (
        {"image": "a.png", "images": ["a.png"], "image_path": "/disk/of/authors/a.png"},
        1,
    ),
    "one of them again": ({"images": ["a.png", "b.png"], "image": "b.png"}, 2),
    "its name": (
        {"image": "a.png", "image_name": "a.png", "img_path": "x/a.jpg", "image_stem": "a"},
        1,
    ),
    "its address": (
        {
            "image": "a.png",
            "image_url": "http://host/1234.jpg?size=big",
            "flickr_url": "http://x/2.jpg",
        },
        1,
    ),
    "words beside it": (
        {
            "image": "a.png",
            "figure": "Figure 3: cats",
            "image_source": "coco/1.jpg",
            "photo": "indoors",
        },
        1,
    ),
    "numbers beside it": (
        {
            "image": "a.png",
            "image_id": 5,
            "num_images": 1,
            "has_image": True,
            "pixels": 300,
            "frame": 2,
        },
        1,
    ),
    "other files beside it": ({"image": "a.png", "filename": "full.png", "mask": "mask.png"}, 1),
    "marks": ({"images": ["a.png", "b.png"], "question": "<image> and <image>?"}, 2),
    "numbered marks": (
        {"images": ["a.png", "b.png"], "question": "<image 1> or <image 2>, and <image 1>?"},
        2,
    ),
}


@pytest.mark.parametrize("name", ["set.jsonl", "set.parquet"])
@pytest.mark.parametrize("case", SEEN)
def test_what_only_sounds_like_a_picture_is_read_as_before(wide, case, name):
    more, count = SEEN[case]
    (wide / "b.png").write_bytes(png())
    example = one(wide, {"question": "How many?", "answer": "3", **more}, name)
    assert len(example.images) == count and example.answer == "3"


def test_names_of_embedded_pictures_are_no_more_pictures(tmp_path):
    row = {
        "image": {"bytes": png(), "path": None},
        "image_path": "train/1.png",
        "img_name": "1.png",
        **GOOD,
    }
    assert len(one(tmp_path, row, "x.parquet").images) == 1
    text = refusal(
        one, tmp_path, {**row, "image_2": {"bytes": png(), "path": None}}, "x.parquet", within=5
    )
    assert "`image_2` seems to hold one more picture" in text


def test_records_without_a_picture_are_counted_once_a_file(wide, capsys):
    """One record with a picture must not silence the others of its file."""
    write(wide, [GOOD] * 3 + [{**GOOD, "image_id": 5}], "text.jsonl")
    write(wide, [{**GOOD, "image": "a.png"}, {**GOOD, "imgae": "0007"}, GOOD], "some.jsonl")
    write(wide, [{**GOOD, "image": "a.png"}], "all.jsonl")
    tasks.read(wide)
    alone = "those without are asked as text alone"
    none, some = sorted(capsys.readouterr().out.splitlines(), key=lambda line: "1 of 3" in line)
    counted = f"{wide}: none of 4 records of text.jsonl have a picture"
    assert none == f"{counted}; keys not read: image_id; {alone}"
    assert some.startswith(
        f"{wide}: 1 of 3 records of some.jsonl have a picture, the first without is "
    )
    assert some.endswith(f"some.jsonl:2; keys not read: imgae; {alone}")
    pairs.read_pairs(
        write(wide, [{"question": "q", "chosen": "yes", "rejected": "no"}] * 2, "pairs.json")
    )
    assert capsys.readouterr().out.count("none of 2 records of pairs.json have a picture") == 1


@pytest.mark.parametrize("mark", ["<img src='b.png'>", "![](b.png)", "![a plot](b.png)", "[image]"])
def test_pictures_inside_the_text_are_no_text(wide, mark):
    file = write(wide, [{**GOOD, "question": f"{mark} How many?"}], "embedded.jsonl")
    with pytest.raises(UserError, match="but no image is read"):
        tasks.read(str(file))
    for text in ("Is [x] an image?", "5! (b)", "x <img"):
        written = write(wide, [{**GOOD, "question": text}], "plain.jsonl")
        assert tasks.read(str(written))[0].question == text


@pytest.mark.parametrize(
    "answer, choices, refused",
    [
        (1, ["1", "2", "3"], True),  # ScienceQA: the second, "2"
        (0, ["cat", "dog"], True),
        ("1", ["1", "2", "3"], False),
        (7, ["6", "7"], False),
        ("B", ["1", "2"], False),
        (0, ["0", "1"], False),  # either way the same
    ],
)
def test_an_answer_that_may_be_the_place_of_a_choice_is_refused(wide, answer, choices, refused):
    file = write(wide, [{**GOOD, "answer": answer, "choices": choices}], "choices.jsonl")
    if not refused:
        assert tasks.read(str(file))[0].answer == str(answer)
        return
    with pytest.raises(UserError, match="counted from 0; write the choice's letter"):
        tasks.read(str(file))


def test_hostile_records_are_looked_through_at_once(tmp_path):
    """Keys and values that could make a pattern try every way, or a call go too deep. False alarm: 50 times slower."""
    deep = "a.png"
    for _ in range(5000):
        deep = [deep]
    start = time.process_time()
    for key, value in (
        ("filename" * 9000 + "!", "x"),
        ("img" * 9000, "x"),
        ("x", deep),
        ("image", "< " * 100_000),
    ):
        with pytest.raises(UserError):
            layouts.to_example(
                {**GOOD, "question": "q", key: value, "img": "x"}, tmp_path / "x.json", 1
            )
    assert layouts.to_example(
        {**GOOD, "question": "<" + " " * 200_000, "note": "x" * 500_000}, tmp_path / "x.json", 1
    )
    assert time.process_time() - start < 5


# --- values of every type ---


def parquet(folder, column, values, kind=None, **rest):
    """A parquet file with a column of this type beside those of `rest`."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pyarrow.table({**{key: [value] * len(values) for key, value in rest.items()}})
    array = values if kind is None else pyarrow.array(values, getattr(pyarrow, kind[0])(*kind[1:]))
    pyarrow.parquet.write_table(
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


STRANGE = {  # name: (what a plain record has besides, what becomes of id, task and choices; or what the message must say)
    "numbers": ({"id": 7, "task": 2, "choices": [1, 0.5]}, ("7", "2", ["1", "0.5"])),
    "NaN": ({"id": float("nan"), "task": float("nan")}, ("x.jsonl:1", None, None)),
    "blank": ({"id": " ", "task": ""}, ("x.jsonl:1", None, None)),
    "lists": ({"id": ["a"], "task": ["a", "b"]}, ("['a']", "['a', 'b']", None)),
    "objects": ({"id": {"$oid": "5f"}, "task": {"a": 1}}, ("{'$oid': '5f'}", "{'a': 1}", None)),
    "true": ({"id": True, "task": False}, ("True", "False", None)),
    "4,000 digits": ({"id": 10**4000, "task": 10**4000}, (str(10**4000), str(10**4000), None)),
    "half a character, id": ({"id": "x\ud800"}, "`id` contains half of a surrogate pair"),
    "half a character, task": ({"task": "\udc00"}, "`task` contains half of a surrogate pair"),
    "half a character, choice": (
        {"choices": ["a", "\ud800"]},
        "`choices` contains half of a surrogate pair",
    ),
    "half a character, label": (
        {"image": "a.png", "answer": None, "boxes": [{"bbox_2d": [1, 2, 3, 4], "label": "\ud800"}]},
        "`label` contains half of a surrogate pair",
    ),
    "null, choice": ({"choices": ["a", None]}, "`choices` must be a list of texts"),
    "NaN, choice": ({"choices": ["a", float("nan")]}, "`choices` holds NaN"),
    "infinite answer": ({"answer": float("inf")}, "`answer` is inf, no number"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_labels_work_or_are_refused(wide, case):
    more, expected = STRANGE[case]
    path = write(wide, [{**GOOD, **more}], "x.jsonl")
    if isinstance(expected, str):
        assert refusal(tasks.read, path).startswith(f"{path}:1: {expected}")
        return
    [example] = tasks.read(path)
    assert (example.id, example.task, example.choices) == expected


def test_half_characters_in_what_is_carried_along_can_be_written(tmp_path):
    example = one(tmp_path, {**GOOD, "topic": "a\ud800b", "more": {"\udfff": ["\udc80"]}})
    assert example.meta == {"topic": "a\ufffdb", "more": {"\ufffd": ["\ufffd"]}}


def test_what_is_nested_too_deeply_is_refused(tmp_path):
    for field, fits in (
        ("extra", ["nested too deeply"]),
        ("boxes", ["must be four numbers"]),
        ("answer", ["found list"]),
    ):
        text = '{"question": "q", "image": "a.png", ' + f'"{field}": ' + "[" * 700 + "]" * 700
        (tmp_path / "a.png").write_bytes(png())
        (tmp_path / "x.jsonl").write_text(text + ("}" if field != "extra" else ', "answer": "a"}'))
        said = refusal(tasks.read, tmp_path / "x.jsonl")
        assert said.startswith(f"{tmp_path / 'x.jsonl'}:1: ") and all(
            words in said for words in fits
        ), said


def test_a_message_about_a_long_gold_answer_is_short(tmp_path):
    got = tasks.read(write(tmp_path, [{**GOOD, "answer": "9" * 100_000, "choices": ["a", "b"]}]))
    text = refusal(data.check_golds, got, rewards.check_gold)
    assert text.startswith(f"{tmp_path / 'set.jsonl'}:1: ") and " ... " in text


def test_two_columns_of_one_name(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pyarrow.table(
        [pyarrow.array(["q"]), pyarrow.array(["a"]), pyarrow.array(["b"])],
        names=["question", "answer", "answer"],
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    text = refusal(tasks.read, tmp_path / "x.parquet", within=5)
    assert (
        text.startswith(f"{tmp_path / 'x.parquet'}: not a readable parquet file (")
        and "answer" in text
    )


# ---- pairs and the model


def test_prompts_and_responses_of_pairs_encode(tiny, folder):
    """As one packed group: the prompt with its pictures once, then both responses."""
    _, processor = tiny
    for layout in ("MMPR", "TRL, parts", "MMPR, text only"):
        record, images, question, _ = PAIRS[layout]
        [pair] = pairs.read_pairs(write(folder, [record]))
        prompt = Asker(processor, "none").prompt(pair.example)
        picture = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
        assert (
            prompt.text
            == f"{HELPFUL}<|im_start|>user\n{picture * len(images)}{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        rows = [
            data.encode_response(text, processor, pair.example.source, 100)
            for text in (pair.chosen, pair.rejected)
        ]
        assert [processor.tokenizer.decode(row) for row in rows] == [
            "Two.<|im_end|>",
            "Three.<|im_end|>",
        ]
        batch = collate([prompt], *pad_targets(rows, 0))
        assert batch["input_ids"][0].tolist() == [
            *prompt.ids.tolist(),
            *rows[0].tolist(),
            *rows[1].tolist(),
        ]


def test_pairs_that_do_not_fit_are_refused(tiny):
    _, processor = tiny
    example = Example("0", [Image.new("RGB", (560, 560))], "word " * 50, "", source="set.jsonl:2")
    P, lengths = (
        len(Asker(processor, "none").prompt(example).ids),
        [
            len(data.encode_response(text, processor, "", 1000))
            for text in ("short", "quite a bit longer " * 5)
        ],
    )
    assert lengths[0] < lengths[1]
    for chosen, rejected in (
        ("short", "quite a bit longer " * 5),
        ("quite a bit longer " * 5, "short"),
    ):
        pair = Pair(example, chosen, rejected)
        fits = dataclasses.replace(processor, context=P + lengths[1])
        Asker(fits, "none").check_pairs([pair] * 2)
        short = dataclasses.replace(processor, context=P + lengths[1] - 1)
        text = refusal(Asker(short, "none").check_pairs, [pair])
        assert (
            text.startswith("set.jsonl:2: ")
            and f"{P} tokens (400 of them from images) and with {lengths[1]} more" in text
        )


def test_reserved_tokens_in_pairs_are_refused(tiny):
    _, processor = tiny
    for token in ("<|im_end|>", "<|endoftext|>", "<|image_pad|>"):
        for name in ("chosen", "rejected", "question"):
            texts = {"question": "q", "chosen": "yes", "rejected": "no", name: f"so {token}"}
            pair = Pair(
                Example("0", [], texts["question"], "", source="set.jsonl:7"),
                texts["chosen"],
                texts["rejected"],
            )
            text = refusal(
                Asker(processor, "none").check_pairs,
                [Pair(Example("1", [], "q", ""), "yes", "no"), pair],
            )
            assert (
                text.startswith("set.jsonl:7: ")
                and name in text
                and token in text
                and "remove it" in text
            )


# ------------------------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize(
    "mode, pixel, expected",
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (0, 255), (0, 0, 0)),
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_transparency_is_laid_on_white_and_every_mode_becomes_rgb(mode, pixel, expected):
    image = Image.new(mode, (30, 30), pixel)
    before = image.tobytes()
    opened = open_image(image, "x")
    assert (
        opened.mode == "RGB"
        and opened.size == (30, 30)
        and max(abs(a - b) for a, b in zip(opened.getpixel((4, 4)), expected)) <= 1
    )
    assert image.mode == mode and image.tobytes() == before


def test_transparent_palette_from_bytes():
    image = Image.new("P", (30, 30), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    for transparent, expected in ((1, (255, 255, 255)), (0, (200, 0, 0))):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", transparency=transparent)
        assert open_image(buffer.getvalue(), "x").getpixel((4, 4)) == expected


def test_sides_of_200_to_1_are_the_limit(tiny):
    _, processor = tiny
    for size in ((1, 200), (2, 400), (400, 2)):
        prompt = Asker(processor).prompt(Example("0", [Image.new("RGB", size)], "q", "a"))
        assert len(prompt.image_at) == prompt.grid.prod() // 4
    for size in ((1, 201), (201, 1)):
        text = refusal(open_image, Image.new("RGB", size), "x.json:4")
        assert text.startswith("x.json:4: ") and f"{size[0]} x {size[1]}" in text


@pytest.mark.parametrize(
    "width, height", [(1, 1), (20, 20), (28, 28), (112, 112), (30, 500), (1000, 900), (3000, 100)]
)
@pytest.mark.parametrize("low, high", [(3136, 401408), (50176, 100352), (3136, 12544)])
def test_pixels_stay_within_their_limits(tiny, width, height, low, high):

    processor = dataclasses.replace(
        tiny[1],
        image_processor=families.image_processor_class()(
            size={"shortest_edge": low, "longest_edge": high}
        ),
    )
    prompt = Asker(processor).prompt(
        Example("0", [Image.new("RGB", (width, height), "red")], "q", "a")
    )
    _, rows, columns = prompt.grid[0].tolist()
    pixels = rows * columns * 14 * 14
    assert rows % 2 == columns % 2 == 0 and prompt.pixel_values.shape == (rows * columns, 1176)
    assert (
        low <= pixels <= high or min(rows, columns) == 2
    )  # a strip of one token's height cannot be made thinner
    assert len(prompt.image_at) == rows * columns // 4
    if low <= width * height <= high and width % 28 == height % 28 == 0:
        assert (rows, columns) == (
            height // 14,
            width // 14,
        )  # within the limits nothing is resized
    want, got = width / height, columns / rows
    assert (
        abs(want - got) / want < 0.5 or min(rows, columns) <= 4
    )  # the shape is kept, up to rounding to whole tokens


# ----------------------------------------------------------------------------------------------------------- prompts

HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.mark.parametrize(
    "images, system, template, expected",
    [
        (
            0,
            None,
            "none",
            HELPFUL + "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            0,
            "Be brief.",
            "none",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            1,
            None,
            "none",
            HELPFUL
            + "<|im_start|>user\n<|vision_start|>PADS<|vision_end|>How many?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            2,
            "Be brief.",
            "direct",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>PADS<|vision_end|><|vision_start|>PADS<|vision_end|>How many?\n"
            "Answer the question using a single word or phrase.<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            1,
            None,
            "r1v",
            HELPFUL
            + "<|im_start|>user\n<|vision_start|>PADS<|vision_end|>How many?  Output the thinking process in <think> </think> and final answer (number) in "
            "<answer> </answer> tags.<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_prompt_text_is_qwen2_vls(tiny, images, system, template, expected):
    _, processor = tiny
    example = Example("0", [Image.new("RGB", (56, 84), "red")] * images, "How many?", "3")
    prompt = Asker(processor, template, system).prompt(example)
    assert prompt.text == expected.replace(
        "PADS", "<|image_pad|>" * 6
    )  # 2 x 3 tokens of 28 x 28 pixels
    assert processor.tokenizer.decode(prompt.ids) == prompt.text
    assert (
        len(prompt.image_at) == 6 * images
        and prompt.positions.shape == (3, len(prompt.ids))
        and prompt.ids.dtype == torch.long
    )
    assert (prompt.pixel_values is None) == (prompt.grid is None) == (images == 0)


def test_special_tokens_are_single_ids_and_not_spelt_out(tiny):
    _, processor = tiny
    prompt = Asker(processor, "none").prompt(Example("0", [Image.new("RGB", (56, 56))], "q", "a"))
    ids = Counter(prompt.ids.tolist())
    name = processor.tokenizer.convert_tokens_to_ids
    assert [
        ids[name(t)]
        for t in (
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|image_pad|>",
            "<|vision_end|>",
        )
    ] == [3, 2, 1, 4, 1]


def test_the_example_and_its_pictures_are_not_written_to(tiny):
    _, processor = tiny
    picture = Image.new("RGBA", (60, 60), (255, 0, 0, 100))
    example = Example(
        "0", [picture, picture], "q {question} {0} %s", "a", ["x"], "s", "t", {"m": [1]}, "f:1"
    )
    before = (
        copy.deepcopy(dataclasses.asdict(dataclasses.replace(example, images=[]))),
        picture.tobytes(),
    )
    prompt = Asker(processor, "r1v").prompt(example)
    assert (
        dataclasses.asdict(dataclasses.replace(example, images=[])),
        picture.tobytes(),
    ) == before and example.images == [picture, picture]
    assert "q {question} {0} %s  Output" in prompt.text  # braces in a question are text


def test_reserved_tokens_in_texts_are_refused(tiny):
    _, processor = tiny
    for token in (
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ):
        for images in ([], [Image.new("RGB", (28, 28))]):
            example = Example(
                "0",
                images,
                f"What is {token}?",
                "a",
                solution=f"It is {token}.",
                source="set.json:7",
            )
            text = refusal(Asker(processor).prompt, example)
            assert text.startswith("set.json:7: ") and token in text and "remove it" in text
            assert "--system-prompt" in refusal(
                Asker(processor, system_prompt=f"Like {token}").prompt,
                dataclasses.replace(example, question="q"),
            )
        text = refusal(Asker(processor, "r1v").target, example, 100)
        assert text.startswith("set.json:7: ") and "solution" in text and token in text


def test_half_a_character_in_a_system_prompt_is_refused(tiny):
    """args.json of a checkpoint may hold one, and the tokenizer answered with a TypeError."""
    _, processor = tiny
    example = Example("0", [], "q", "a")
    for text in ("half \ud83d", "\udcff"):
        said = refusal(Asker(processor, system_prompt=text).prompt, example)
        assert "half a character" in said and "--system-prompt" in said
    for text in ("日本 \U0001f600", "a\0b", ""):
        assert Asker(processor, system_prompt=text).prompt(example).text


def test_a_prompt_longer_than_the_context_is_refused_and_never_cut(tiny):
    _, processor = tiny
    prompt = Asker(processor).prompt(
        Example("0", [Image.new("RGB", (560, 560))], "word " * 50, "a")
    )
    exact = dataclasses.replace(processor, context=len(prompt.ids) + 10)
    example = Example("0", [Image.new("RGB", (560, 560))], "word " * 50, "a", source="set.json:2")
    assert torch.equal(Asker(exact).prompt(example, 10).ids, prompt.ids)
    text = refusal(Asker(exact).prompt, example, 11)
    assert (
        text.startswith("set.json:2: ")
        and f"{len(prompt.ids)} tokens" in text
        and "400 of them from images" in text
        and "--max-pixels" in text
    )
    assert processor.context == 4096
    assert "context" in refusal(
        Asker(processor).prompt, dataclasses.replace(example, images=[], question="日本語" * 3000)
    )


def test_unknown_template():
    assert all(
        name in refusal(template_of, "r2v") for name in ("--prompt-template r2v", *TEMPLATES)
    )


def test_targets(tiny):
    _, processor = tiny
    worked = Example(
        "0",
        [],
        "q",
        "3",
        solution="  <think> x </think><answer> 3 </answer>\n",
        source="set.json:8",
    )
    plain = Example("0", [], "q", "3")
    assert [data.target_text(plain, t) for t in ("r1v", "think", "option", "direct", "none")] == [
        "<answer> 3 </answer>"
    ] * 3 + ["3"] * 2
    assert (
        data.target_text(worked, "r1v")
        == data.target_text(worked, "direct")
        == "<think> x </think><answer> 3 </answer>"
    )
    ids = Asker(processor, "r1v").target(worked, 100)
    assert (
        ids[-1]
        == processor.special.eos_ids[0]
        == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        and (ids[:-1] < min(processor.special.vision_ids)).all()
    )
    assert processor.decode(ids) == "<think> x </think><answer> 3 </answer>"
    assert torch.equal(Asker(processor, "r1v").target(worked, len(ids)), ids)
    text = refusal(Asker(processor, "r1v").target, worked, len(ids) - 1)
    assert (
        text.startswith("set.json:8: ")
        and f"{len(ids)} tokens" in text
        and "--max-completion-length" in text
    )


TEXTS = [
    "",
    " ",
    "\n",
    "\n\n\r\n\t ",
    "plain",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301 vs \u00e9",
    "n\u0303o\u0308 NFD",
    "ﬁ ﬀ Å \u212b",
    "שלום עולם \u202ertl\u202c",
    "مرحبا 123",
    "a\x00b\x00",
    "\x7f\x1b[0m\x80",
    "日本語　全角",
    "\ufeffBOM",
    "\uffff\U0010ffff",
    "  two  spaces ",
    "tabs\t\tand\x0bvertical",
    "1234567890 3.14",
    "don't DON'T",
    "<think>",
    "</answer>",
    "ᄀ\u1161\u11a8",
]


def test_any_text_goes_through_the_tokenizer_and_back(tiny):
    tokenizer = tiny[1].tokenizer
    rng = random.Random(0)
    alphabet = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = (
        TEXTS
        + ["".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 12))) for _ in range(300)]
        + ["".join(rng.choices("".join(TEXTS), k=30)) for _ in range(300)]
    )
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            == text
        ), ascii(text)
        assert not set(ids) & set(tiny[1].special.vision_ids)


def test_the_processors_decode_stops_at_either_end_and_leaves_text_as_it_is(tiny):
    processor = tiny[1]
    for text in TEXTS:
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for eos in processor.special.eos_ids:
            assert processor.decode(torch.tensor(ids + [eos] + ids)) == text
        assert processor.decode(ids) == text


# --------------------------------------------------------------------------------------------------------- positions


def test_positions_by_hand():
    """Two words, an image of 2 x 3, one word: the image stands at time 2 and counts rows and columns from there; after it comes 2 + 3."""
    is_image = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 0]).bool()
    positions, following = families.rope_positions(is_image, [(2, 3)])
    assert (
        positions.tolist()
        == [[0, 1, 2, 2, 2, 2, 2, 2, 5], [0, 1, 2, 2, 2, 3, 3, 3, 5], [0, 1, 2, 3, 4, 2, 3, 4, 5]]
        and following == 6
    )


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [(112, 112)],
        [(28, 28)],
        [(56, 280)],
        [(280, 56)],
        [(112, 56), (84, 140)],
        [(28, 28), (300, 100)],
        [(200, 200), (56, 56), (100, 300)],
    ],
)
def test_positions_and_expansion_equal_transformers(tiny, sizes):
    policy, processor = tiny
    example = Example(
        "0", [Image.new("RGB", size) for size in sizes], "How many red objects are there?", "3"
    )
    prompt = Asker(processor).prompt(example)
    rows = prompt.ids[None]
    if sizes:
        is_image = rows == processor.special.image_id
        assert is_image.sum() == (prompt.grid.prod(1) // 4).sum() == len(prompt.image_at)
        positions, deltas = policy.model.get_rope_index(
            rows, mm_token_type_ids=is_image.int(), image_grid_thw=prompt.grid
        )
        assert is_image[0, prompt.image_at].all()
        features = policy.model.get_image_features(prompt.pixel_values, prompt.grid).pooler_output
        assert [len(f) for f in features] == (
            prompt.grid.prod(1) // 4
        ).tolist()  # what the tower makes fits where it goes
    else:
        positions, deltas = (
            torch.arange(rows.shape[1]).expand(3, 1, -1),
            torch.zeros(1, 1, dtype=torch.long),
        )
    assert torch.equal(prompt.positions, positions[:, 0])
    assert prompt.following == rows.shape[1] + int(
        deltas
    )  # transformers' position of the first generated token


def test_a_collated_batch_means_to_the_model_what_transformers_own_inputs_do(tiny):
    """The whole of this file at once: the states from collate's tensors, and stock transformers' from ids, pixels and a left-out position."""

    policy, processor = tiny
    examples = [
        Example("0", [Image.effect_noise((112, 84), 80)], "How many circles are there?", "3"),
        Example("1", [], "None?", "no"),
        Example(
            "2",
            [Image.effect_noise((56, 56), 80), Image.effect_noise((84, 112), 80)],
            "Same?",
            "no",
        ),
    ]
    prompts = [Asker(processor).prompt(e) for e in examples]
    targets, mask = pad_targets(
        [Asker(processor, "r1v").target(e, 50) for e in examples for _ in range(2)],
        processor.special.pad_id,
    )
    targets[1, :3] = targets[3, 2]  # the two responses of a prompt differ
    batch = collate(prompts, targets, mask)
    with torch.no_grad():
        got = logps.token_logps(policy, batch)
        for b in range(len(targets)):
            prompt, length = prompts[b // 2], int(mask[b].sum())
            ids = torch.cat([prompt.ids, targets[b, :length]])[None]
            pictures = (
                {}
                if prompt.grid is None
                else {
                    "pixel_values": prompt.pixel_values,
                    "image_grid_thw": prompt.grid,
                    "mm_token_type_ids": (ids == processor.special.image_id).int(),
                }
            )
            logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[
                0
            ]
            expected = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1].gather(
                1, targets[b, :length, None]
            )[:, 0]
            torch.testing.assert_close(got[b, :length], expected, rtol=1e-4, atol=1e-4)
            assert (got[b, length:] == 0).all()


# ---------------------------------------------------------------------------------------------------------------- take


def test_take_is_pure_and_every_epoch_a_permutation():
    examples = [Example(str(n), [], "q", "a") for n in range(7)]
    before = copy.deepcopy(examples)
    straight = take(examples, 0, 70, seed=3)
    assert examples == before
    epochs = [tuple(e.id for e in straight[i : i + 7]) for i in range(0, 70, 7)]
    assert all(sorted(epoch) == list("0123456") for epoch in epochs)
    assert len(set(epochs)) >= 8  # ten draws of 5,040 orders: a repeat or two by chance, at most
    for start in range(0, 63):
        for number in (1, 4, 7):
            assert take(examples, start, number, seed=3) == straight[start : start + number]
    assert [e.id for e in take(examples, 0, 70, seed=4)] != [e.id for e in straight]
    assert take(examples, 5, 0, seed=3) == []


def test_take_does_not_touch_global_randomness():
    examples = [Example(str(n), [], "q", "a") for n in range(7)]
    random.seed(1), torch.manual_seed(1)
    states = random.getstate(), torch.get_rng_state()
    take(examples, 3, 9, 0)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_resuming_mid_way_equals_the_straight_run():
    for examples in (
        [Example(str(n), [], "q", "a") for n in range(10)],
        tasks.read("count", seed=2),
    ):
        ids = lambda taken: [e.id for e in taken]
        straight = [i for step in range(8) for i in ids(take(examples, step * 3, 3, seed=5))]
        resumed = [i for step in range(5, 8) for i in ids(take(examples, step * 3, 3, seed=5))]
        assert straight[15:] == resumed and len(straight) == 24


def test_one_example_and_steps_larger_than_the_data():
    [only] = examples = [Example("0", [], "q", "a")]
    assert take(examples, 5, 3, 0) == [only] * 3
    pair = [Example("0", [], "q", "a"), Example("1", [], "q", "a")]
    assert Counter(e.id for e in take(pair, 0, 100, 0)) == {"0": 50, "1": 50}


# ------------------------------------------------------------------------------------------------------------- collate


def fake_prompt(ids, image_at=(), following=None, fill=0.0):
    """A Prompt of these ids; positions 0, 1, 2, ... in all three dimensions, so that mix-ups show; four patches an image token."""
    n = len(image_at)
    return Prompt(
        torch.tensor(ids),
        torch.arange(len(ids)).expand(3, -1).contiguous(),
        len(ids) if following is None else following,
        torch.tensor(image_at, dtype=torch.long),
        torch.full((4 * n, 1176), fill) if n else None,
        torch.tensor([[1, 2, 2 * n]]) if n else None,
    )


def test_pad_targets_by_hand():
    targets, mask = pad_targets(
        [torch.tensor([5, 6, 9]), torch.tensor([9]), torch.tensor([7, 9])], pad_id=0
    )
    assert targets.tolist() == [[5, 6, 9], [9, 0, 0], [7, 9, 0]] and targets.dtype == torch.long
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]] and mask.dtype == torch.float32


def test_the_mask_comes_from_lengths_and_not_from_the_pad_token():
    targets, mask = pad_targets(
        [torch.tensor([0, 0, 0]), torch.tensor([5])], pad_id=0
    )  # a response may hold the pad token: it also ends texts
    assert mask.sum(1).tolist() == [3, 1]


def test_collate_by_hand():
    """Prompt A (3 ids, one image token at 1, next position 7) has one response; prompt B (2 ids) has two."""
    a, b = fake_prompt([11, 90, 12], [1], following=7, fill=1.0), fake_prompt([21, 22])
    targets = torch.tensor([[31, 32], [41, 0], [51, 52]])
    mask = torch.tensor([[1.0, 1], [1, 0], [1, 1]])
    batch = collate([a, b], targets, mask, [1, 2])
    assert batch["input_ids"].tolist() == [
        [11, 90, 12, 31, 32],
        [21, 22, 41, 0, 0],
        [21, 22, 51, 52, 0],
    ]
    assert batch["predicts"].tolist() == [[2, 3], [1, 2], [1, 2]]  # the state before each target
    for dimension in range(3):
        assert batch["positions"][dimension, 0].tolist() == [0, 1, 2, 7, 8]
        assert batch["positions"][dimension, 1:, :4].tolist() == [[0, 1, 2, 3]] * 2
    assert batch["image_to"].tolist() == [1] and batch["image_from"].tolist() == [0]
    assert torch.equal(batch["targets"], targets) and torch.equal(batch["mask"], mask)
    assert torch.equal(batch["pixel_values"], a.pixel_values) and torch.equal(batch["grid"], a.grid)


def test_every_response_of_a_group_sees_its_own_image_once_encoded():
    prompts = [
        fake_prompt([90, 90, 1], [0, 1], fill=1.0),
        fake_prompt([1]),
        fake_prompt([1, 90], [1], fill=2.0),
    ]
    batch = collate(
        prompts, torch.ones(6, 2, dtype=torch.long), torch.ones(6, 2)
    )  # two rows each by default
    S = batch["input_ids"].shape[1]
    assert (
        S == 3 + 2
        and batch["pixel_values"].shape == (4 * 3, 1176)
        and batch["grid"].tolist() == [[1, 2, 4], [1, 2, 2]]
    )
    where = {
        (int(to) // S, int(to) % S): int(row)
        for to, row in zip(batch["image_to"], batch["image_from"])
    }
    assert where == {(0, 0): 0, (0, 1): 1, (1, 0): 0, (1, 1): 1, (4, 1): 2, (5, 1): 2}
    assert all(batch["input_ids"][b, s] == 90 for b, s in where) and (
        batch["input_ids"] == 90
    ).sum() == len(where)


def test_text_only_batch_has_no_pixels():
    batch = collate([fake_prompt([1, 2])], torch.ones(2, 1, dtype=torch.long), torch.ones(2, 1))
    assert (
        batch["pixel_values"] is None
        and batch["grid"] is None
        and len(batch["image_to"]) == len(batch["image_from"]) == 0
    )


def test_each_target_follows_the_state_that_predicts_it():
    """Plain loops over random ragged batches."""
    rng = random.Random(0)
    for _ in range(50):
        prompts = [
            fake_prompt(
                [rng.randrange(1, 50) for _ in range(rng.randrange(1, 6))],
                following=rng.randrange(20),
            )
            for _ in range(rng.randrange(1, 4))
        ]
        counts = [rng.randrange(1, 4) for _ in prompts]
        rows = [
            torch.tensor([rng.randrange(50, 99) for _ in range(rng.randrange(1, 7))])
            for _ in range(sum(counts))
        ]
        targets, mask = pad_targets(rows, 0)
        batch = collate(prompts, targets, mask, counts, packed=False)
        owner = [p for p, count in zip(prompts, counts) for _ in range(count)]
        for b, (prompt, row) in enumerate(zip(owner, rows)):
            assert (
                batch["input_ids"][b].tolist()
                == (prompt.ids.tolist() + row.tolist() + [0] * 99)[: batch["input_ids"].shape[1]]
            )
            for t in range(len(row)):
                assert batch["input_ids"][b, batch["predicts"][b, t] + 1] == targets[b, t]
                assert (
                    batch["positions"][:, b, batch["predicts"][b, t] + 1] == prompt.following + t
                ).all()


def test_pack_by_hand():
    """A prompt of 3 ids (one image token at 1, next position 7) and responses of 2, 0 and 1 tokens: six tokens, none of padding."""
    prompt = fake_prompt([11, 90, 12], [1], following=7, fill=1.0)
    targets, mask = (
        torch.tensor([[31, 32], [88, 88], [41, 88]]),
        torch.tensor([[1.0, 1], [0, 0], [1, 0]]),
    )
    batch = collate([prompt], targets, mask)
    assert batch["input_ids"].tolist() == [[11, 90, 12, 31, 32, 41]]
    assert batch["positions"].tolist() == [[[0, 1, 2, 7, 8, 7]]] * 3
    assert batch["predicts"][mask.bool()].tolist() == [
        2,
        3,
        2,
    ]  # the first token of every response is predicted by the prompt's last
    assert batch["to_rows"].tolist() == [[3, 4], [0, 0], [5, 0]] and batch[
        "from_rows"
    ].tolist() == [0, 1, 4]
    assert batch["image_to"].tolist() == [1] and batch["image_from"].tolist() == [0]
    assert torch.equal(batch["targets"], targets) and torch.equal(batch["mask"], mask)
    assert torch.equal(batch["pixel_values"], prompt.pixel_values) and torch.equal(
        batch["grid"], prompt.grid
    )
    empty = collate([prompt], targets, torch.zeros(3, 2))
    assert (
        empty["input_ids"].tolist() == [[11, 90, 12]]
        and empty["to_rows"].tolist() == [[0]] * 3
        and len(empty["from_rows"]) == 0
    )


def test_only_one_prompt_with_two_responses_or_more_is_packed():
    one, two, ones = (
        fake_prompt([1, 2]),
        fake_prompt([3]),
        lambda *shape: torch.ones(*shape, dtype=torch.long),
    )
    rows = lambda prompts, B, **more: len(
        collate(prompts, ones(B, 2), torch.ones(B, 2), **more)["input_ids"]
    )
    assert rows([one], 2) == rows([one], 8) == 1
    assert (
        rows([one], 1),
        rows([one, two], 2),
        rows([one, two], 4),
        rows([one], 2, packed=False),
    ) == (1, 2, 4, 2)
    assert "to_rows" not in collate([one], ones(1, 2), torch.ones(1, 2)) and "to_rows" in collate(
        [one], ones(2, 2), torch.ones(2, 2)
    )


def test_packed_tokens_and_the_way_back():
    """Plain loops over random ragged groups, some responses empty."""
    rng = random.Random(0)
    for _ in range(100):
        prompt = fake_prompt(
            [rng.randrange(1, 50) for _ in range(rng.randrange(1, 6))], following=rng.randrange(20)
        )
        rows, P = (
            [
                torch.tensor(
                    [rng.randrange(50, 99) for _ in range(rng.choice([0, 1, 2, 3, 7]))],
                    dtype=torch.long,
                )
                for _ in range(rng.randrange(2, 6))
            ],
            len(prompt.ids),
        )
        targets, mask = pad_targets(
            [*rows, torch.tensor([60] * rng.randrange(1, 9))], 0
        )  # wider than the longest of `rows`, at times
        targets, mask = targets[:-1], mask[:-1]
        batch = collate([prompt], targets, mask)
        ids, positions, predicts = (
            batch["input_ids"][0],
            batch["positions"][:, 0],
            batch["predicts"],
        )
        assert ids.tolist() == prompt.ids.tolist() + [int(i) for row in rows for i in row]
        assert torch.equal(positions[:, :P], prompt.positions) and batch["to_rows"].shape == (
            len(rows),
            max(1, *map(len, rows)),
        )
        at = P
        for b, row in enumerate(rows):
            for t in range(len(row)):
                assert (
                    predicts[b, t] == (P - 1 if t == 0 else at + t - 1)
                    and (positions[:, at + t] == prompt.following + t).all()
                )
                assert (
                    batch["to_rows"][b, t] == at + t
                    and batch["from_rows"][at - P + t] == b * batch["to_rows"].shape[1] + t
                )
            at += len(row)
        assert batch["to_rows"].flatten()[batch["from_rows"]].tolist() == list(range(P, at))
        assert (
            0 <= int(batch["to_rows"].min())
            and int(batch["to_rows"].max()) < at
            and 0 <= int(predicts.min())
            and int(predicts.max()) < at
        )


def test_features_take_the_place_of_the_pixels_if_every_picture_has_them():
    prompts = [
        fake_prompt([90, 1], [0], fill=1.0),
        fake_prompt([1]),
        fake_prompt([90, 90], [0, 1], fill=2.0),
    ]
    ones = torch.ones(3, 2, dtype=torch.long), torch.ones(3, 2)
    prompts[0].features = torch.full((1, 5), 1.0)
    assert (
        "features" not in collate(prompts, *ones)
        and len(collate(prompts, *ones)["pixel_values"]) == 12
    )
    prompts[2].features = torch.full((2, 5), 2.0)
    batch = collate(prompts, *ones)
    assert (
        batch["pixel_values"] is None
        and batch["grid"] is None
        and batch["features"][:, 0].tolist() == [1, 2, 2]
        and batch["image_from"].tolist() == [0, 1, 2]
    )
    assert collate(prompts[2:], *ones)["features"].shape == (2, 5)


def test_collate_does_not_write_to_its_inputs():
    prompts, targets, mask, counts = (
        [fake_prompt([1, 90], [1], fill=1.0), fake_prompt([2, 3, 4])],
        torch.tensor([[5, 6], [7, 0], [8, 9]]),
        torch.tensor([[1.0, 1], [1, 0], [1, 1]]),
        [2, 1],
    )
    before = copy.deepcopy((prompts, targets, mask, counts))
    for batch in (collate(prompts, targets, mask, counts), collate(prompts[:1], targets, mask)):
        for value in (batch["input_ids"], batch["positions"], batch["predicts"]):
            value += 1
    for old, new in zip(before[0], prompts):
        assert (
            all(
                torch.equal(getattr(old, f), getattr(new, f))
                for f in ("ids", "positions", "image_at")
            )
            and old.following == new.following
        )
    assert torch.equal(before[1], targets) and torch.equal(before[2], mask) and counts == before[3]


def test_collate_refuses_counts_that_do_not_fit():
    for counts in ([1, 1], [3], [1, 1, 1]):
        with pytest.raises(AssertionError):
            collate(
                [fake_prompt([1]), fake_prompt([2])],
                torch.ones(3, 1, dtype=torch.long),
                torch.ones(3, 1),
                counts,
            )


# ------------------------------------------------------------------------------------------------------- micro-batches


def test_micro_batches_by_hand():
    assert list(micro_batches(6, 4, [3, 3])) == [
        (0, 3, 0, 1, [3]),
        (3, 6, 1, 2, [3]),
    ]  # never two prompts where one has two rows
    assert list(micro_batches(4, 8, [2, 2])) == [(0, 2, 0, 1, [2]), (2, 4, 1, 2, [2])]
    assert list(micro_batches(8, 5, [8])) == [(0, 4, 0, 1, [4]), (4, 8, 0, 1, [4])]  # not 5 and 3
    assert list(micro_batches(3, 1, [1, 2])) == [
        (0, 1, 0, 1, [1]),
        (1, 2, 1, 2, [1]),
        (2, 3, 1, 2, [1]),
    ]
    assert list(micro_batches(7, 2, [1, 1, 1, 2, 1, 1])) == [
        (0, 2, 0, 2, [1, 1]),
        (2, 3, 2, 3, [1]),
        (3, 5, 3, 4, [2]),
        (5, 7, 4, 6, [1, 1]),
    ]
    assert list(micro_batches(0, 4, [])) == []


def test_micro_batches_cover_every_row_once_with_its_own_prompt():
    rng = random.Random(0)
    for _ in range(300):
        counts = [rng.choice([0, 1, 1, 2, 5, 8]) for _ in range(rng.randrange(1, 8))]
        rows, size, before = sum(counts), rng.randrange(1, 12), list(counts)
        owner = [n for n, count in enumerate(counts) for _ in range(count)]
        seen = []
        for start, end, first, last, piece in micro_batches(rows, size, counts):
            assert (
                0 < end - start <= size and sum(piece) == end - start and len(piece) == last - first
            )
            assert [n for n, count in enumerate(piece, first) for _ in range(count)] == owner[
                start:end
            ]
            assert len(piece) == 1 or max(counts[n] for n in owner[start:end]) == 1, (
                "two prompts, one of which has several rows"
            )
            seen += range(start, end)
        assert seen == list(range(rows)) and counts == before


def test_micro_batches_collate_to_the_rows_of_the_whole():
    prompts = [
        fake_prompt([11, 90, 12], [1], following=5, fill=1.0),
        fake_prompt([21]),
        fake_prompt([90, 31], [0], fill=2.0),
    ]
    counts, rng = [3, 1, 2], random.Random(1)
    targets, mask = pad_targets(
        [
            torch.tensor([rng.randrange(40, 90) for _ in range(rng.randrange(1, 5))])
            for _ in range(6)
        ],
        0,
    )
    whole = collate(prompts, targets, mask, counts)
    for start, end, first, last, piece in micro_batches(6, 2, counts):
        part = collate(
            prompts[first:last], targets[start:end], mask[start:end], piece, packed=False
        )
        S = part["input_ids"].shape[1]
        assert torch.equal(part["input_ids"], whole["input_ids"][start:end, :S]) and torch.equal(
            part["predicts"], whole["predicts"][start:end]
        )
        P = part["predicts"][:, :1] + 1  # positions agree wherever there is a token
        for b in range(end - start):
            assert torch.equal(
                part["positions"][:, b, : P[b] + targets.shape[1]],
                whole["positions"][:, start + b, : P[b] + targets.shape[1]],
            )
        if len(part["image_to"]):
            lookup = lambda batch, b: [
                (int(to) % batch["input_ids"].shape[1], float(batch["pixel_values"][4 * int(f), 0]))
                for to, f in zip(batch["image_to"], batch["image_from"])
                if int(to) // batch["input_ids"].shape[1] == b
            ]
            assert [lookup(part, b) for b in range(end - start)] == [
                lookup(whole, start + b) for b in range(end - start)
            ]


# ------------------------------------------------------------------------------------------- R3V's prompts: refine and select


def test_refine_and_select_prompts_are_r3vs():
    prompt = question_text(Example("0", [], "How many are red?", "3"), "chartqa")
    asks = "How many are red?\nFirst generate a step-by-step solution, then answer the question with a numerical value, Yes/No, or a word or phrase."
    assert prompt == asks
    assert refine_prompt(prompt, "Solution:\n1. Two.\n\nAnswer:\n2") == (
        asks
        + "\nModel's prediction:\nSolution:\n1. Two.\n\nAnswer:\n2\nJudge the correctness of the model's prediction and refine it."
    )
    three = (
        asks + "\nModel's prediction 1:\na\nModel's prediction 2:\nb\nModel's prediction 3:\nc\n"
    )
    assert (
        select_prompt(prompt, ["a", "b", "c"], SELECT.get("chartqa"))
        == three
        + "Which prediction is correct? Give the final answer with a numerical value, Yes/No, or a word or phrase."
    )
    assert (
        select_prompt(prompt, ["a", "b", "c"])
        == three + "Which prediction is correct? Give the final answer."
    )
    assert select_prompt(prompt, ["a", "b", "c"], "Well?") == three + "Well?"
    assert (
        SELECT["tabmwp"]
        == "Which prediction has the right OCR, reasoning and calculations? Give the final answer."
    )
    assert (
        SELECT["clevr_math"]
        == "Which prediction is correct? Give the final answer with a single numerical value (0-10)."
    )
    assert SELECT.keys() <= TEMPLATES.keys()


@pytest.mark.parametrize("template", TEMPLATES)
def test_where_a_question_asks_for_tags_so_does_the_selection(template):
    text = select_prompt(question_text(Example("0", [], "How many?", "3"), template), ["a"])
    assert text.endswith(
        "Which prediction is correct? Give the final answer in <answer> </answer> tags."
    ) == ("<answer>" in TEMPLATES[template])


def test_asked_again_only_the_question_changes(tiny):
    _, processor = tiny
    picture = Image.new("RGB", (56, 84), "red")
    example = Example(
        "7",
        [picture],
        "Which?",
        "B",
        ["cat", "dog"],
        "I see. B",
        "pets",
        {"boxes": [], "box_format": "pixels"},
        "set.json:7",
    )
    again = with_question(example, "A {question}?")
    assert dataclasses.asdict(dataclasses.replace(again, images=[])) == dataclasses.asdict(
        dataclasses.replace(example, images=[], question="A {question}?", solution=None)
    )
    assert again.images == [picture] and (example.question, example.solution) == (
        "Which?",
        "I see. B",
    )
    assert (
        Asker(processor, "none").prompt(again).text
        == HELPFUL
        + "<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * 6
        + "<|vision_end|>A {question}?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_candidate_cannot_put_an_image_or_a_turn_into_the_prompt(tiny):
    """A policy spells what it likes, letter by letter."""
    _, processor = tiny
    plain = Counter(Asker(processor, "none").prompt(Example("0", [], "q", "3")).ids.tolist())
    special = processor.tokenizer.convert_tokens_to_ids(list(processor.special.reserved))
    for token in processor.special.reserved:
        for text in (
            select_prompt("q", [f"a {token} b", token * 2]),
            refine_prompt("q", f"<|x{token}x|>"),
        ):
            ids = Counter(
                Asker(processor, "none")
                .prompt(with_question(Example("0", [], "q", "3"), text))
                .ids.tolist()
            )
            assert token not in text and [ids[i] for i in special] == [plain[i] for i in special]


@pytest.mark.skipif(
    not (SHARED / "tabmwp").is_dir(),
    reason=f"{SHARED / 'tabmwp'} (public records, not part of this repository) is not there",
)
def test_worked_solutions_and_problems_of_tabmwp_are_asked_alike():
    """R3V's worked solutions carry its instruction in the question, TabMWP's problems do not: under one template both ask alike, with options and without."""
    solved, problems = (
        tasks.read(SHARED / "tabmwp" / "warmup_cot64.json"),
        tasks.read(SHARED / "tabmwp" / "problems_dev64.json"),
    )
    asks = {text for name, text in TEMPLATES.items() if name.startswith("tabmwp")}
    for e in (*solved, *problems):
        text = question_text(e, "tabmwp")
        suffix = next(
            ask.removeprefix("{question}")
            for ask in asks
            if text.endswith(ask.removeprefix("{question}"))
        )
        assert text.count("step-by-step solution") == 1 and ("option" in suffix) == (
            "\n(B) " in text
        )
    assert (
        question_text(solved[0], "tabmwp") == solved[0].question
        and question_text(problems[0], "tabmwp") != problems[0].question
    )
    assert question_text(solved[0], "think") != solved[0].question


def test_a_question_is_not_asked_twice_in_the_same_words():
    """Nor in those of the template's twin, whichever was meant for it; another template is put as ever, and "none" adds nothing."""
    for name in ("tabmwp", "tabmwp_choices"):
        asked = Example("0", [], TEMPLATES[name].replace("{question}", "Which?"), "B")
        for choices in (None, ["a", "b"]):
            assert (
                question_text(dataclasses.replace(asked, choices=choices), "tabmwp")
                == asked.question
            )
        assert question_text(asked, "think") != asked.question == question_text(asked, "none")
    assert question_text(Example("0", [], "Which?", "B", ["a", "b"]), "tabmwp") == TEMPLATES[
        "tabmwp_choices"
    ].replace("{question}", "Which?")


def test_lengths_are_those_of_the_encoded_prompts(tiny):
    _, processor = tiny
    examples = [
        Example(str(k), [Image.new("RGB", (28 * k, 56))] * (k % 3), "How many? " * k, "3")
        for k in range(1, 5)
    ]
    assert Asker(processor, "r1v", "Count.").check(examples, 5) == [
        len(Asker(processor, "r1v", "Count.").prompt(e).ids) for e in examples
    ]


# -------------------------------------------------------------------------------- toy questions put in their own ways; responses begun


@pytest.mark.parametrize("task", ["table_basics", "geometry_basics"])
def test_a_mixed_toy_task_puts_each_question_in_its_own_way(task, tiny):
    """Whatever the template: "read" as it stands, "direct" for the answer alone, "select" with three candidates; "reason" as the template says."""
    _, processor = tiny
    stream, seen = tasks.read(task, teacher="gold"), Counter()
    for index in range(60):
        example, record = stream[index], toy.make_record(task, "train", index, teacher="gold")
        ask, question = record["ask"], record["question"]
        expected = {
            "read": question,
            "direct": TEMPLATES["answer"].replace("{question}", question),
            "reason": TEMPLATES["r1v"].replace("{question}", question),
        }
        if ask == "select":
            shown = "".join(
                f"Model's prediction {k}:\n{text}\n"
                for k, text in enumerate(record["meta"]["candidates"], 1)
            )
            expected["select"] = (
                TEMPLATES["think"].replace("{question}", question)
                + f"\n{shown}Which prediction is correct? Give the final answer in <answer> </answer> tags."
            )
        assert question_text(example, "r1v") == expected[ask] and example.meta.get(
            "prompt_template"
        ) == {"read": "none", "direct": "answer", "select": "none"}.get(ask)
        assert (example.answer, example.choices, example.solution) == (
            record["answer"],
            record.get("choices"),
            record["solution"],
        )
        assert (
            Asker(processor, "r1v")
            .prompt(example)
            .text.endswith(f"<|vision_end|>{expected[ask]}<|im_end|>\n<|im_start|>assistant\n")
        )
        seen[ask] += 1
    assert set(seen) == {"read", "direct", "reason", "select"}
    plain = tasks.read(task.removesuffix("_basics"))[0]
    assert "prompt_template" not in plain.meta and question_text(plain, "think").startswith(
        plain.question
    )


@pytest.mark.parametrize("task", sorted(toy.TASKS))
@pytest.mark.parametrize("split", drawing.SPLITS)
def test_what_a_toy_task_calls_right_can_be_scored(task, split):
    """Every script asks this before it starts: `geometry_reading` once had the question's choices, and an answer that is none of them."""
    data.check_golds(data.head(tasks.read(f"{task}:{split}"), 30), rewards.check_gold)


def test_asked_again_a_toy_question_no_longer_has_a_template_of_its_own():
    """Else "answer" would be wrapped around the candidates of a question that was to be answered directly."""
    stream = tasks.read("table_basics")
    example = next(
        e for e in (stream[i] for i in range(100)) if e.meta.get("prompt_template") == "answer"
    )
    before = copy.deepcopy(example.meta)
    again = with_question(example, "Which?")
    assert "prompt_template" not in again.meta and question_text(again, "none") == "Which?"
    assert {**again.meta, "prompt_template": "answer"} == before == example.meta


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_response_begun_continues_the_prompt(tiny, images):
    """Ids and positions are those of prompt and text read as one: text goes on by ones, in all three dimensions."""
    _, processor = tiny
    prompt = Asker(processor, "think").prompt(
        Example("0", [Image.new("RGB", (56, 84), "red")] * images, "How many?", "3")
    )
    begun = "<think> red 3, 4 (1)."
    ids = processor.tokenizer(begun, add_special_tokens=False)["input_ids"]
    longer = data.append_response(prompt, begun, processor)
    assert longer.ids.tolist() == prompt.ids.tolist() + ids and longer.text == prompt.text + begun
    is_image = longer.ids == processor.special.image_id
    positions, following = families.rope_positions(is_image, [(3, 2)] * images)
    assert torch.equal(
        longer.positions, positions
    ) and longer.following == following == prompt.following + len(ids)
    assert (
        longer.positions[:, -1].tolist() == [following - 1] * 3
        and torch.equal(longer.image_at, prompt.image_at)
        and longer.pixel_values is prompt.pixel_values
    )
    same = data.append_response(prompt, "", processor)
    assert (
        torch.equal(same.ids, prompt.ids)
        and torch.equal(same.positions, prompt.positions)
        and same.following == prompt.following
    )


def test_open_ended_questions_need_no_answer_where_none_is_compared(folder):
    """MPO's DropoutNTP has descriptions to write, and no gold answers; whoever scores answers is told which line lacks one."""
    records = [
        {"image": "images/a.png", "question": "Describe the picture."},
        {"image": "images/a.png", "question": "How many?", "answer": "3"},
        {"image": "images/a.png", "question": "Describe it.", "answer": None},
    ]
    path = folder / "open.json"
    path.write_text(json.dumps(records))
    assert [(e.question, e.answer.strip()) for e in tasks.read(str(path), needs_answer=False)] == [
        ("Describe the picture.", ""),
        ("How many?", "3"),
        ("Describe it.", ""),
    ]
    with pytest.raises(UserError, match="open.json"):
        tasks.read(str(path))
    path.write_text(json.dumps(records[1:2]))
    assert (
        [e.answer for e in tasks.read(str(path))]
        == [e.answer for e in tasks.read(str(path), needs_answer=False)]
        == ["3"]
    )
