"""Run: python -m pytest -q tests/test_box_texts.py        (a few seconds; no network)

The notations of boxes in golds: what is read, what is refused. ms-swift's placeholders.
"""

import pytest
from PIL import Image
from samples import one, refusal, reply, turns, user, write
from test_upright import png_exif

import tasks
from data import target_text

GROUND = "Please provide the bounding box coordinate of the region this sentence describes: cat."
LIST = "List the first four numbers."
MAN = [([64, 48, 320, 240], None)]  # [100, 100, 500, 500] of 0 to 1000
CAT = [([64, 48, 320, 240], "cat")]
PIXELS = [([10, 20, 200, 300], None)]


def boxes(example):
    return [(box["bbox_2d"], box["label"]) for box in example.meta["boxes"]]


READ = {  # name: (question, gold, its boxes in pixels of 640 x 480)
    "four numbers": (GROUND, "[10, 20, 200, 300]", PIXELS),
    "four numbers, where": ("Where is the cat?", "[10, 20, 200, 300]", PIXELS),
    "four numbers, bare": (GROUND, "10, 20, 200, 300", PIXELS),
    "four numbers, round": (GROUND, "(10, 20, 200, 300)", PIXELS),
    "a sentence's end": (GROUND, "[10, 20, 200, 300].", PIXELS),
    "fenced": (GROUND, "```json\n[10, 20, 2e2, 300.0]\n```", PIXELS),
    "boxed": (GROUND, "\\boxed{[10, 20, 200, 300]}", PIXELS),
    "a list of one": (GROUND, "[[10, 20, 200, 300]]", PIXELS),
    "a list of two": (
        GROUND,
        "[[10, 20, 200, 300], [1, 2, 3, 4]]",
        [*PIXELS, ([1, 2, 3, 4], None)],
    ),
    "VLM-R1": ("q", '{"bbox_2d": [10, 20, 200, 300]}', PIXELS),
    "Visual-RFT": ("q", "[{'Position': [100, 100, 500, 500], 'Confidence': 1}]", MAN),
    "Qwen-VL": ("q", "<ref>cat</ref><box>(100,100),(500,500)</box>", CAT),
    "Qwen-VL, no name": ("q", "<box>(100,100),(500,500)</box>", MAN),
    "Qwen-VL, two": (
        "q",
        "<ref>cat</ref><box>(100,100),(500,500)</box>, <ref>a dog</ref><box>(0,0),(500,500)</box>.",
        [*CAT, ([0, 0, 320, 240], "a dog")],
    ),
    "Qwen2-VL": (
        "q",
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,100),(500,500)<|box_end|>",
        CAT,
    ),
    "InternVL": ("q", "<ref>cat</ref><box>[[100, 100, 500, 500]]</box>", CAT),
    "InternVL, two": (
        "q",
        "<ref>cat</ref><box>[[100,100,500,500],[0,0,500,500]]</box>",
        [*CAT, ([0, 0, 320, 240], "cat")],
    ),
}
FORMS = {  # where a gold may stand
    "reply": lambda q, gold: {"image": "a.png", **turns(q, gold)},
    "tagged reply": lambda q, gold: {"image": "a.png", **turns(q, f"<answer>{gold}</answer>")},
    "solution": lambda q, gold: {"image": "a.png", "problem": q, "solution": gold},
    "tags": lambda q, gold: {
        "image": "a.png",
        "problem": q,
        "solution": f"<answer>{gold}</answer>",
    },
    "answer": lambda q, gold: {"image": "a.png", "question": q, "answer": gold},
    "verl": lambda q, gold: {
        "images": ["a.png"],
        "prompt": [user(q)],
        "reward_model": {"ground_truth": gold},
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READ)
def test_notations_that_are_read(wide, name, form):
    question, gold, expected = READ[name]
    assert boxes(one(wide, FORMS[form](question, gold))) == expected


@pytest.mark.parametrize(
    "reply, target",
    [
        (
            "<think> there </think> [10, 20, 200, 300]",
            "<think> there </think><answer> {} </answer>",
        ),
        ("There.\nAnswer: [10, 20, 200, 300]", "<think> There. </think><answer> {} </answer>"),
        (
            "<think>a</think><answer>[10, 20, 200, 300]</answer>",
            "<think>a</think><answer> {} </answer>",
        ),
        ("[10, 20, 200, 300]", "{}"),
    ],
)
def test_boxes_after_a_worked_text(wide, reply, target):
    example = one(wide, FORMS["reply"](GROUND, reply), box_format="pixels")
    assert boxes(example) == PIXELS
    assert target_text(example, "none") == target.replace("{}", '{"bbox_2d": [10, 20, 200, 300]}')


TEXTS = [  # (question, gold): no boxes
    (LIST, "[1, 2, 3, 4]"),
    ("What are x and y?", "[4, 3, 2, 1]"),
    ("What are the corners?", "(1,2),(3,4)"),
    ("What is the matrix?", "[[1, 2], [3, 4]]"),
    ("How many boxes?", "4"),
    (GROUND, "in the corner"),
    ("What is written in the bounding box [1, 2, 30, 40]?", "EXIT 24"),
    ("Is there a bounding box?", "1, 2"),
    ("Which values?", "[0.1, 0.2, 0.3, 0.4]"),
    ("Which is it?", "[4, 3, 2, 1]"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("question, gold", TEXTS)
def test_texts_that_only_look_like_boxes_stay(wide, question, gold, form):
    example = one(wide, FORMS[form](question, gold))
    assert example.answer == gold and "boxes" not in example.meta


REFUSED = {  # name: (question, gold, what the message must say)
    "box or list": (
        "Solve it.",
        "[1, 2, 3, 4]",
        ['{"bbox_2d": [x1, y1, x2, y2]}', "list of numbers"],
    ),
    "place or list": ("Count what is in each region.", "[1, 2, 3, 4]", ["may be a box or a list"]),
    "variables": ("Find x1, x2, x3, x4.", "[1, 2, 3, 4]", ["may be a box or a list"]),
    "in a sentence": (GROUND, "The cat is at [10, 20, 200, 300].", ["in a way that is not read"]),
    "no commas": (GROUND, "[10 20 200 300]", ["in a way that is not read"]),
    "names": (GROUND, "x1=10, y1=20, x2=200, y2=300", ["in a way that is not read"]),
    "full width": (GROUND, "［１０，２０，２００，３００］", ["in a way that is not read"]),
    "points": (GROUND, "(100,100),(500,500)", ['"box_format": "pixels" or "norm1000"']),
    "LLaVA-1.5, Shikra": (
        GROUND,
        "[0.1, 0.22, 0.55, 0.61]",
        ['"box_format": "norm1"', "LLaVA-1.5"],
    ),
    "a whole picture of 1": (GROUND, "[0, 0, 1, 1]", ['"box_format": "norm1"']),
    "fractions, JSON": ("q", '{"bbox_2d": [0.1, 0.2, 0.5, 1.001]}', ["has no size", '"norm1"']),
    "fractions, Visual-RFT": ("q", "[{'Position': [0.1, 0.2, 0.5, 0.6]}]", ["has no size"]),
    "0 to 1000": (GROUND, "[10, 20, 300, 900]", ["lies outside", '"box_format": "norm1000"']),
    "beyond 1000": (
        "q",
        "<box>(10,20),(300,1400)</box>",
        ["lies outside the picture of 640 x 480"],
    ),
    "corners swapped": (GROUND, "[200, 20, 10, 300]", ["encloses nothing"]),
    "Gemini": (GROUND, '{"box_2d": [1, 2, 30, 40]}', ["in a way that is not read"]),
    "COCO": (GROUND, '[{"bbox": [1, 2, 30, 40], "label": "cat"}]', ["in a way that is not read"]),
    "PaliGemma": ("q", "<loc0100><loc0200><loc0300><loc0400> cat", ["in a way that is not read"]),
    "Florence-2": ("q", "cat<loc_1><loc_2><loc_3><loc_4>", ["in a way that is not read"]),
    "Kosmos-2": ("q", "<object><patch_index_0044><patch_index_0863></object>", ["not read"]),
    "marks in a sentence": ("q", "a <ref>cat</ref><box>(1,2),(3,4)</box> sits", ["as boxes alone"]),
    "a point": ("q", "<box>(1,2)</box>", ["as boxes alone"]),
    "an open mark": ("q", "<box>(1,2),(3,4)", ["as boxes alone"]),
}


@pytest.mark.parametrize("form", ["reply", "tags", "verl"])
@pytest.mark.parametrize("name", REFUSED)
def test_notations_that_are_refused(wide, name, form):
    question, gold, says = REFUSED[name]
    path = write(wide, [FORMS[form](question, gold)])
    text = refusal(tasks.read, path)
    assert text.startswith(f"{path}:1: ") and all(words in text for words in says), text


@pytest.mark.parametrize(
    "box_format, gold, expected",
    [
        ("norm1", "[0.1, 0.25, 0.5, 1]", [([64, 120, 320, 480], None)]),
        ("norm1", "[0, 0, 1, 1]", [([0, 0, 640, 480], None)]),
        ("norm1000", "[100, 100, 500, 500]", MAN),
        ("norm1000", "(100,100),(500,500)", MAN),
        ("pixels", "(10,20),(200,300)", PIXELS),
        ("pixels", "<box>(10,20),(200,300)</box>", PIXELS),
        (None, [10, 20, 200, 300], PIXELS),
        (None, [[10, 20, 200, 300]], PIXELS),
    ],
)
def test_a_record_may_say_its_unit(wide, box_format, gold, expected):
    for form in ("reply", "solution"):
        record = {**FORMS[form]("The cat.", gold), "box_format": box_format}
        assert boxes(one(wide, record)) == expected


def test_lists_are_boxes_unless_a_list_is_asked_for(wide):
    for form in ("reply", "solution"):
        for question in (LIST, f"<image>\n{LIST}", f"See below. {LIST}", "Which rows?"):
            record = FORMS[form](question, [1, 2, 3, 4])
            assert "write the list as a text" in refusal(one, wide, record)


@pytest.mark.parametrize("name", ["number 3", "man in the second row", "last in the row, in order"])
def test_names_with_words_of_a_list_are_boxes(wide, name):
    """RefCOCO's. They were refused as if they asked for a list."""
    assert boxes(one(wide, FORMS["solution"](name, [10, 20, 200, 300]))) == PIXELS
    text = refusal(one, wide, FORMS["solution"](name, "[10, 20, 200, 300]"))
    assert "may be a box or a list" in text


def test_a_box_among_choices_is_one_of_them(wide):
    """It was scored by its overlap, as if it had been drawn."""
    choices = ["[1, 2, 3, 4]", "[5, 6, 70, 80]"]
    for form in ("reply", "solution", "answer"):
        record = FORMS[form]("Which bounding box is the cat's?", choices[1])
        example = one(wide, {**record, "choices": choices})
        assert example.answer == choices[1] and "boxes" not in example.meta


def test_an_unknown_reward_of_vlm_r1_asks_for_boxes(wide):
    record = {**FORMS["reply"](GROUND, "[10, 20, 200, 300]"), "accu_reward_method": "iou"}
    assert boxes(one(wide, record)) == PIXELS


def test_fractions_under_every_key(wide):
    """They were taken for pixels: every gold was a speck in the corner."""
    for record in (
        {"question": "q", "boxes": [[10, 20, 30, 40], [0.1, 0.2, 0.5, 0.6]]},
        {"question": "q", "boxes": [{"bbox_2d": [0.1, 0.2, 0.5, 0.6]}]},
        {"problem": "the man", "solution": [0.1, 0.2, 0.5, 0.6]},
        turns("the man", [0.1, 0.2, 0.5, 0.6]),
    ):
        text = refusal(one, wide, {"image": "a.png", **record})
        assert "[0.1, 0.2, 0.5, 0.6] has no size in a picture of 640 x 480" in text


def test_the_remedy_for_a_turned_picture(tmp_path):
    Image.new("RGB", (168, 56)).save(tmp_path / "a.jpg", exif=png_exif(6))
    stored = {"image": "a.jpg", "question": "q", "boxes": [[40, 0, 168, 56]]}
    assert "EXIF turns this picture" in refusal(one, tmp_path, stored)
    assert "EXIF" not in refusal(one, tmp_path, {**stored, "boxes": [[40, 0, 300, 56]]})


def test_boxes_in_an_earlier_reply_are_refused(wide):
    """LLaVA-1.5's rows: only the last box was converted, and train_sft.py learns all of them."""
    record = {"messages": [user(GROUND), reply("[1, 2, 30, 40]"), user("Why?"), reply("So.")]}
    assert "an earlier reply is a box" in refusal(one, wide, {"image": "a.png", **record})
    record["messages"][1] = reply(
        '<tool_call>{"arguments": {"bbox_2d": [1, 2, 30, 40]}}</tool_call>'
    )
    assert one(wide, {"image": "a.png", **record}).answer == "So."


# --- ms-swift's placeholders ---

JSON = '```json\n[\n\t{"bbox_2d": <bbox>, "label": "<ref-object>"},\n\t{"bbox_2d": <bbox>}\n]\n```'


def swift(question, answer, **objects):
    return {"messages": [user(question), reply(answer)], "images": ["a.png"], "objects": objects}


SWIFT = {  # name: (record, question, boxes in pixels)
    "in the question": (
        swift("<image>Find the <ref-object>.", "<bbox>", ref=["cat"], bbox=[[10, 20, 200, 300]]),
        "Find the cat.",
        PIXELS,
    ),
    "in the reply": (
        swift("q", "<ref-object><bbox>", ref=["cat"], bbox=[[64, 48, 320, 240]], bbox_type="real"),
        "q",
        CAT,
    ),
    "two": (
        swift(
            "q", "<bbox><bbox>", ref=[], bbox=[[10, 20, 200, 300], [1, 2, 3, 4]], image_id=[0, 0]
        ),
        "q",
        [*PIXELS, ([1, 2, 3, 4], None)],
    ),
    "fractions": (
        swift("q", "<bbox>", ref=None, bbox=[[0.1, 0.1, 0.5, 0.5]], bbox_type="norm1"),
        "q",
        MAN,
    ),
    "JSON": (
        swift("q", JSON, ref=['a "b"'], bbox=[[10, 20, 200, 300], [1, 2, 3, 4]]),
        "q",
        [([10, 20, 200, 300], 'a "b"'), ([1, 2, 3, 4], None)],
    ),
}


@pytest.mark.parametrize("name", SWIFT)
def test_placeholders_are_filled(wide, name):
    record, question, expected = SWIFT[name]
    example = one(wide, record)
    assert example.question == question and boxes(example) == expected


def test_names_alone_are_filled_in_order(wide):
    record = swift("Is the <ref-object> <ref-object>?", "a <ref-object>", ref=["cat", "red", "dog"])
    record["messages"].insert(0, {"role": "system", "content": "Be brief."})
    example = one(wide, record)
    assert example.question == "Is the cat red?" and example.answer == "a dog"
    assert example.system == "Be brief." and target_text(example, "none") == "a dog"


BAD_SWIFT = {  # name: (record, what the message must say)
    "in a sentence": (swift("q", "a <bbox> there", bbox=[[1, 2, 3, 4]]), "as boxes alone"),
    "in the question": (swift("What is at <bbox>?", "cat", bbox=[[1, 2, 3, 4]]), "in the unit of"),
    "in thinking": (swift("q", "<think><bbox></think>cat", bbox=[[1, 2, 3, 4]]), "in thinking"),
    "too few": (swift("q", "<bbox><bbox>", bbox=[[1, 2, 3, 4]]), "2 <bbox> in the texts, but 1"),
    "too many": (swift("<ref-object>", "3", ref=["a", "b"]), "1 <ref-object> in the texts, but 2"),
    "a point": (swift("q", "<bbox>", bbox=[[1, 2]]), "`objects` must be"),
    "words": (swift("q", "<bbox>", bbox=[["a", 2, 3, 4]]), "`objects` must be"),
    "another type": (swift("q", "<bbox>", bbox=[[1, 2, 3, 4]], bbox_type="xywh"), "`objects` must"),
    "another image": (swift("q", "<bbox>", bbox=[[1, 2, 3, 4]], image_id=[1]), "of one image"),
    "ms-swift 2": ({**swift("q", "<bbox>"), "objects": [{"caption": "a"}]}, "`objects` must be"),
    "no objects": ({**swift("q", "<bbox>"), "objects": None}, "`objects` must be"),
    "an unlike reply": (
        {**swift("q", "<think>at <bbox></think> 3", bbox=[[1, 2, 3, 4]]), "answer": "3"},
        "ms-swift's <bbox>",
    ),
    "plain": ({"question": "q", "answer": "<bbox>"}, "ms-swift's <bbox>"),
    "plain, a name": ({"question": "the <ref-object>", "answer": "3"}, "ms-swift's <ref-object>"),
}


@pytest.mark.parametrize("name", BAD_SWIFT)
def test_placeholders_that_cannot_be_filled_are_refused(wide, name):
    record, says = BAD_SWIFT[name]
    path = write(wide, [record])
    text = refusal(tasks.read, path)
    assert text.startswith(f"{path}:1: ") and says in text, text


def test_objects_without_placeholders_are_carried_along(wide):
    record = swift("How many?", "3", bbox=[[1, 2, 3, 4]], categories=[1])
    assert one(wide, record).meta["objects"]["categories"] == [1]
