"""Run: python -m pytest -q tests/test_layouts.py        (a few seconds; no network)

Records of every layout become examples, or are refused with file, line and remedy.
"""

import copy
import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from samples import (
    BESIDE,
    CVBENCH,
    GOOD,
    M3COT,
    ODD,
    RECORDS,
    SHARED,
    TABMWP,
    bad_images,
    embedded,
    one,
    places_in,
    png,
    put,
    read_any,
    refusal,
    reply,
    turns,
    user,
    write,
)

import data
import rewards
import tasks
from data import Asker
from plumbing.errors import UserError
from plumbing.text import short
from tasks import layouts, pairs
from tasks.example import Example
from tasks.images import open_images
from tasks.prompts import TEMPLATES, question_text

# --- readers ---


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
    assert got[0].question == "Same <image> or <image>?\nOptions:\nA. yes\nB. no"
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
        ({"solution": "42"}, "42", None),
        (
            {"answer": "5", "solution": "Two and three.\nSo 5."},
            "5",
            "<think> Two and three.\nSo 5. </think><answer> 5 </answer>",
        ),
    ],
)
def test_where_answer_and_solution_come_from(tmp_path, record, answer, solution):
    record = {"problem": "How many?", **record}
    before = copy.deepcopy(record)
    example = layouts.to_example(record, tmp_path / "x.json", 1)
    assert (example.answer, example.solution) == (answer, solution)
    assert record == before


@pytest.mark.skipif(
    not RECORDS.is_dir(),
    reason=f"{RECORDS} (public records, not part of this repository) is not there",
)
@pytest.mark.parametrize("name", ["r1v_geoqa.jsonl", "r1v_superclevr.jsonl"])
def test_published_r1v_records(tmp_path, name):
    """Their images are not there, as the message must say; with images, every record is read."""
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


# --- published layouts ---


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
    places = [lines.index(f' "{pid}": {{') + 1 for pid in TABMWP] if indent else ["1#1", "1#2"]
    assert [e.source for e in (choice, free)] == [f"{path}:{place}" for place in places]
    (tmp_path / "tables" / "117.png").rename(tmp_path / "117.png")
    assert tasks.read(path)[1].images == [tmp_path / "117.png"]
    (tmp_path / "117.png").unlink()
    assert refusal(tasks.read, path).startswith(f"{free.source}: image ")


@pytest.mark.skipif(
    not (SHARED / "tabmwp").is_dir(),
    reason=f"{SHARED / 'tabmwp'} (public records, not part of this repository) is not there",
)
def test_published_tabmwp():
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
    """R3V's warm-up file names pictures in tables/. Its questions end as our templates do."""
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
    for name in ("accuracy", "format"):  # without tags, imitating these earned nothing: 0 of 64
        assert [rewards.REWARDS[name](data.target_text(e, "none"), e) for e in got] == [1.0] * 64


@pytest.mark.skipif(
    not (SHARED / "tabmwp").is_dir(),
    reason=f"{SHARED / 'tabmwp'} (public records, not part of this repository) is not there",
)
@pytest.mark.parametrize("name", ["problems_dev64.json", "warmup_cot64.json"])
def test_every_published_tabmwp_record_has_question_options_and_answer(name):
    """By the raw records: nothing is left out, and gold letters are among the options."""
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
    example = one(folder, later)
    assert (example.question, example.answer) == ("And 3 + 3?", "6")
    assert example.history == [("user", "2 + 2?"), ("assistant", "4")]


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
        + "\nOutput the thinking process in <think> </think> "
        "and final answer in <answer> </answer> tags."
    )


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
    question = (
        "Identify the model.\nThe output answer format should be as follows:\n"
        "<think> ... </think> <answer>species name</answer>\nPlease strictly follow the format."
    )
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


# --- boxes ---


BAD_LAYOUTS = {  # name: (record, what the message must say)
    "one turn": (
        {"conversations": [{"from": "human", "value": "q"}]},
        ["no answer to compare with"],
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


# --- bad input ---


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
        {"answer": "a", "query": "q"},
        ["no question", "`question` or `problem`", "answer, query"],
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
        {"question": "q", "answer": [["a"]]},
        ["`answer` must be str or int or float", "found list"],
    ),
    "two answers": (
        {"question": "q", "answer": ["a", "b"]},
        ["`answer` holds 2 answers (a, b)", "write the one that is meant"],
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
    "base64 that is cut": (
        {**GOOD, "image": "iVBORw0KGgo" + "A" * 5000},
        ["embedded image cannot be opened"],
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


# --- never blind ---


# Keys under which a picture is read, and those under which it is refused.
READ_KEYS = (
    *("img_path", "imgname", "img", "imgs", "image_file", "image_url", "image_1", "img1"),
    *("picture", "visual", "image_list", "image_bytes", "image_name", "file_name"),
)
PICTURE_KEYS = (  # but image_filename, CLEVR's, which is read
    *READ_KEYS,
    *(
        "Image",
        "IMAGES",
        "imagePath",
        "image0",
        "image_2",
        "image_b",
        "left_image",
        "pic",
        "photos",
    ),
    *("figure", "frame", "frames", "screenshot", "pixel_values", "video", "video_path", "videos"),
    *("path", "media", "jpg", "target_image", "option_image_A", "choice_images", "crops"),
    *("reference", "support", "query_image", "img_id", "image_id", "pic_id", "thumbnail", "x"),
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


TOLD_BY_PICTURE = ("ChartQA", "ChartQA of the Hub", "CV-Bench", "M3CoT")  # that need its key


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.parquet"])
@pytest.mark.parametrize("layout", WITH_PICTURE)
def test_a_picture_under_any_other_key_is_never_passed_by(wide, layout, name):
    """CLEVR's `image_filename` and the like made text-only questions, without a word.

    Now the same pictures are read, or it is refused.
    """
    record, key = WITH_PICTURE[layout]
    if name == "set.parquet":
        if layout in ("VLM-R1, a box", "pair, TRL", "pair, implicit") or key == "imgname":
            pytest.skip("columns of two types, or no place for bytes")
        record = {**record, key: embedded(record[key])}
    [example] = read_any(write(wide, [record], name))
    assert len(example.images) == (2 if "two" in layout else 1)
    for other in PICTURE_KEYS:
        if other == key or (other == "imgname" and "query" in record):  # which ChartQA has
            continue
        renamed = {other if k == key else k: v for k, v in record.items()}
        path = write(wide, [renamed], name)
        if other in READ_KEYS and layout not in TOLD_BY_PICTURE:
            [again] = read_any(path)
            assert (again.images, again.question) == (example.images, example.question), other
            continue
        text = refusal(read_any, path, within=5)
        assert text.startswith(f"{path}:{2 if name == 'set.json' else 1}: "), text


BLIND = {  # name: (what a plain question has besides, what the message must say); a.png is there
    "CLEVR": (
        {"image_filename": "CLEVR_train_000000.png"},
        ["CLEVR_train_000000.png does not exist, nor in images, png"],
    ),
    "beside the turns": (
        {"photo_path": "CLEVR_train_000000.png"},
        ["`photo_path` seems to hold a picture", "rename the key"],
    ),
    "COCO's number": ({"image_id": 458752}, ["`image_id` is 458752", "name of its file"]),
    "the first number": ({"image_id": 0}, ["`image_id` is 0, and no picture is read"]),
    "GQA's": ({"imageId": "2370799"}, ["`imageId` is 2370799"]),
    "other numbers": ({"img_id": "COCO_5"}, ["`img_id` is COCO_5", "or null if"]),
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
        ["`question` is not what the conversation asks last"],
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
    "an address": ({"image": {"url": "http://x/a.png"}}, ["is a web address", "download it"]),
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
        {"choices": ["<image 1>", "<image 2>"], "answer": "A"},
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
        ["1 <image> in the question, but 0 images"],
    ),
    "a pair's picture": (
        {"photo": "a.png", "question": "q", "chosen": "yes", "rejected": "no"},
        ["`photo` seems to hold"],
    ),
    "a pair's number": (
        {"image_id": 5, "question": "q", "chosen": "yes", "rejected": "no"},
        ["`image_id` is 5, and no picture is read"],
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
        ["the turns hold other pictures"],
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
    "an id of none": ({"image": None, "image_id": 458752, "imageId": "COCO_458752"}, 0),
    "no id": ({"image_id": None, "img_id": "", "pic_id": -1, "clip_id": 5}, 0),
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
    write(wide, [GOOD] * 3 + [{**GOOD, "image_width": 5}], "text.jsonl")
    write(wide, [{**GOOD, "image": "a.png"}, {**GOOD, "imgae": "0007"}, GOOD], "some.jsonl")
    write(wide, [{**GOOD, "image": "a.png"}], "all.jsonl")
    tasks.read(wide)
    alone = "those without are asked as text alone"
    none, some = sorted(capsys.readouterr().out.splitlines(), key=lambda line: "1 of 3" in line)
    counted = f"{wide}: none of 4 records of text.jsonl have a picture"
    assert none == f"{counted}; keys not read: image_width; {alone}"
    first = short(f"{wide / 'some.jsonl'}:2", 80)
    assert some == (
        f"{wide}: 1 of 3 records of some.jsonl have a picture, the first without is {first}; "
        f"keys not read: imgae; {alone}"
    )
    pairs.read_pairs(
        write(wide, [{"question": "q", "chosen": "yes", "rejected": "no"}] * 2, "pairs.json")
    )
    assert capsys.readouterr().out.count("none of 2 records of pairs.json have a picture") == 1
    (wide / "line.json").write_text(json.dumps([GOOD] * 4))
    tasks.read(wide / "line.json")
    assert capsys.readouterr().out.count("none of 4 records of line.json have a picture") == 1


@pytest.mark.parametrize("mark", ["<img src='b.png'>", "![](b.png)", "![a plot](b.png)", "[image]"])
def test_pictures_inside_the_text_are_no_text(wide, mark):
    file = write(wide, [{**GOOD, "question": f"{mark} How many?"}], "embedded.jsonl")
    with pytest.raises(UserError, match="but 0 images are read"):
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
    with pytest.raises(UserError, match="counted from 0 or from 1; write the choice's letter"):
        tasks.read(str(file))


def test_hostile_records_are_looked_through_at_once(tmp_path):
    """Some could make a pattern try every way, or a call go too deep.

    False alarm: on a machine 50 times slower.
    """
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


# name: (what a plain record has besides, its id, task and choices; or what the message must say)
STRANGE = {
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
    "null, choice": ({"choices": [None, "a"]}, "`choices` has no text for A, but for B"),
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
    path = write(tmp_path, [{**GOOD, "answer": "9" * 100_000, "choices": ["a", "b"]}])
    text = refusal(tasks.read, path)
    assert text.startswith(f"{tmp_path / 'set.jsonl'}:1: ") and "..." in text


# --- toy questions put in their own ways; responses begun ---


def test_open_ended_questions_need_no_answer_where_none_is_compared(folder):
    """MPO's DropoutNTP has descriptions to write, no gold answers; scorers are told the line."""
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
