"""Run: python -m pytest -q tests/test_boxes.py        (a few seconds; no network)

Boxes of records, in every layout and convention, read and written.
"""

import copy
import dataclasses
import json
import random
import time

import pytest
from samples import GOOD, one, refusal, turns, write

import data
import families
import rewards
import tasks
from data import Asker
from grading.boxes import (
    BOX_FORMATS,
    boxes_to_text,
    from_pixels,
    parse_boxes,
    predicted_boxes,
    to_pixels,
    units_across,
)
from plumbing import flags
from plumbing.flags import add_data_flags
from tasks import layouts, record_fields
from tasks.box_texts import json_quotes

# --- boxes ---


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
            "solution": "<answer>[{'Position': [100, 250, 500, 500], 'Confidence': 1}, "
            "{'Position': [0, 0, 1000, 1000], 'Confidence': 1}]</answer>",
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
    """The target of each layout, in each convention, read back by the rewards: the gold boxes."""
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
        == "[{'Position': [100, 250, 500, 500], 'Confidence': 1}, "
        "{'Position': [0, 0, 1000, 1000], 'Confidence': 1}]"
    )  # as its question asks
    assert (
        data.target_text(one(wide, BOXES["Visual-RFT, nothing"][0]), "think")
        == "<answer> No Objects </answer>"
    )
    assert data.target_text(one(wide, lisa), "lisa") == "<answer> (100,250),(500,500) </answer>"
    answer = "[{'Position': [100, 250, 500, 500], 'Confidence': 1}]"
    worked = f"<think> there </think><answer> {answer} </answer>"
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
        {
            "image": "a.png",
            **turns("Where?", "<think>hm</think><answer>[10, 20, 200, 300]</answer>"),
        },
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
    """They were imitated in the file's pixels: at the default norm1000 that is an IoU of 0.27."""
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
        ({"problem": "How many?", "answer": "3", "boxes": []}, "3"),  # a set that asks for both
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
    assert boxes_to_text(boxes, box_format, [100, 200], [50, 200]) == expected


@pytest.mark.parametrize("style", [None, "position", "corners"])
@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_what_the_writer_writes_the_parser_reads(box_format, style):
    """In every convention and style: the same boxes, within one unit."""
    rng = random.Random(0)
    for _ in range(200):
        size = [rng.randrange(30, 2000), rng.randrange(30, 2000)]
        resized = [rng.randrange(28, 1000), rng.randrange(28, 1000)]
        boxes = []
        for _ in range(rng.randrange(1, 5)):
            (x1, x2), (y1, y2) = (sorted(rng.uniform(0, side) for _ in "12") for side in size)
            boxes.append({"bbox_2d": [x1, y1, x2, y2], "label": rng.choice(["cat", 'a "b"'])})
        parsed = parse_boxes(boxes_to_text(boxes, box_format, size, resized, style))
        assert len(parsed) == len(boxes)
        units = [s / u for s, u in zip(size, units_across(box_format, size, resized))] * 2
        for box, written in zip(boxes, parsed):
            corners = to_pixels(written["bbox_2d"], box_format, size, resized)
            gaps = [abs(a - b) / unit for a, b, unit in zip(corners, box["bbox_2d"], units)]
            assert max(gaps) <= 1.001
            assert style or written["label"] == box["label"]


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
            boxes_to_text([{"bbox_2d": box, "label": None}], box_format, size, resized)
        )["bbox_2d"]
        assert (
            all(abs(a - b) <= 1 for a, b in zip(whole, from_pixels(box, box_format, size, resized)))
            and whole[0] < whole[2]
            and whole[1] < whole[3]
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


# name: (what a plain record has beside image and question, what the message must say)
BAD_BOXES = {
    "outside": (
        {"boxes": [[10, 20, 700, 300]]},
        ["[10, 20, 700, 300] lies outside the picture of 640 x 480 pixels", '"norm1000"'],
    ),
    "outside, norm1000": (
        {"boxes": [[10, 20, 1100, 300]], "box_format": "norm1000"},
        ["[10, 20, 1100, 300] lies outside the picture of 640 x 480 pixels; fix it"],
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
            "solution": "<answer>[{'Position': [1, 2, 3, __import__('os')], "
            "'Confidence': 1}]</answer>"
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
    parser = flags.Parser("", "x.py")
    add_data_flags(parser)
    [flag] = [a for a in parser._actions if a.dest == "box_format"]
    assert tuple(flag.choices) == BOX_FORMATS
    assert "--box-format xywh" in refusal(tasks.read, "count", box_format="xywh")
