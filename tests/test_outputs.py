"""Run: python -m pytest -q tests/test_outputs.py        (about 5 s on CPU; no network)

Saved outputs as examples: fields under other names, gold boxes in any notation, box formats.
"""

import pytest
from scored import score

from tasks import outputs, protocols

# --- how predicted boxes are written ---


def test_box_format_of_the_flag_and_of_the_record():
    record = {
        "prediction": "<answer>[100, 100, 200, 200]</answer>",
        "answer": [200, 50, 400, 100],
        "width": 2000,
        "height": 500,
    }
    assert score([record], "rec")[0]["accuracy"] == 1  # thousandths
    assert score([record], "rec", "pixels")[0]["accuracy"] == 0
    assert score([{**record, "box_format": "norm1000"}], "rec", "pixels")[0]["accuracy"] == 1
    with pytest.raises(ValueError, match="resized"):
        score([record], "rec", "resized")


BOX = '```json [{"bbox_2d": [10, 20, 110, 220], "label": "man"}]```'
IN_PIXELS = {
    "prediction": f"<think>x</think><answer>{BOX}</answer>",
    "answer": [10, 20, 110, 220],
}
RESIZED = {
    "prediction": "<answer>[5, 10, 55, 110]</answer>",
    "answer": [10, 20, 110, 220],
    "size": [1000, 800],
    "resized": [500, 400],
}
ASSUMED = [  # record, protocol, flag, how its predicted box is read
    (IN_PIXELS, "rec", None, "pixels"),  # without sizes, as VLM-R1 wrote
    (RESIZED, "rec", None, "resized"),
    (RESIZED, "lisa", None, "resized"),
    ({**IN_PIXELS, "size": [1000, 1000]}, "rec", None, "norm1000"),
    (IN_PIXELS, "lisa", "pixels", "pixels"),
]


@pytest.mark.parametrize("record, protocol, flag, box_format", ASSUMED)
def test_how_predicted_boxes_are_read_if_nothing_says_so(record, protocol, flag, box_format):
    result, [row] = score([record], protocol, flag)
    assert result["accuracy"] == 1
    assert result["box_format"] == row["box_format"] == box_format


SIZE_MISSING = [  # record, protocol, flag, what the message says besides
    (IN_PIXELS, "lisa", None, '"size": [width, height]'),
    (IN_PIXELS, "rec", "norm1000", '"size"'),
    ({**IN_PIXELS, "size": [9, 9]}, "rec", "resized", '"resized": [width, height]'),
]


@pytest.mark.parametrize("record, protocol, flag, words", SIZE_MISSING)
def test_a_size_that_is_missing_is_asked_for(record, protocol, flag, words):
    with pytest.raises(ValueError) as error:
        score([record], protocol, flag)
    message = str(error.value)
    assert words in message and "--box-format pixels" in message and "meta" not in message


# --- gold boxes ---

NOTATIONS = [  # of [100, 50, 300, 250] in a picture of 2000 x 500
    [100, 50, 300, 250],
    [[100, 50, 300, 250]],
    ["100", "50", "300", "250"],
    "100,50,300,250",
    [{"bbox_2d": [100, 50, 300, 250], "label": "a"}],
    '[{"bbox_2d": [100, 50, 300, 250]}]',
    "[100, 50, 300, 250]",
    [300, 250, 100, 50],
    "<answer>[{'Position': [50, 100, 150, 500], 'Confidence': 1}]</answer>",
    "(50,100),(150,500)",
    [{"Position": [50, 100, 150, 500]}],
]


@pytest.mark.parametrize("gold", NOTATIONS)
def test_gold_boxes_in_every_notation(gold):
    [box], size = outputs.boxes_of_gold(gold, [2000, 500])
    assert box["bbox_2d"] == pytest.approx([100.0, 50.0, 300.0, 250.0])
    assert size == [2000, 500]


@pytest.mark.parametrize("gold", ["none", []])
def test_no_gold_boxes(gold):
    assert outputs.boxes_of_gold(gold, None) == ([], [1000, 1000])


NO_BOXES = [
    "the man",
    7,
    [1, 2, 3],
    [[1, 2, 3]],
    [[1, 2, 3, "x"]],
    [float("nan"), 1, 2, 3],
    [True, 1, 2, 3],
    {"bbox_2d": None},
]


@pytest.mark.parametrize("gold", NO_BOXES)
def test_what_is_no_box_is_refused(gold):
    with pytest.raises(ValueError):
        outputs.boxes_of_gold(gold, [10, 10])


# --- fields under other names ---

R1V_LOG = {
    "question": {"image_path": "a.png", "question": "How many?", "ground_truth": 4},
    "ground_truth": 4,
    "model_output": "<answer>4</answer>",
    "extracted_answer": 4,
}
RENAMED = [  # record, protocol, prediction, answer
    (R1V_LOG, "superclevr", "<answer>4</answer>", "4"),
    ({"output": "x", "solution": "<answer> 3 </answer>"}, "geoqa", "x", "3"),
    ({"response": "x", "gold": 0.5, "answer": "2"}, "geoqa", "x", "2"),
]


@pytest.mark.parametrize("record, protocol, prediction, answer", RENAMED)
def test_records_under_other_names(record, protocol, prediction, answer):
    completion, example = outputs.to_example(record, protocols.PROTOCOLS[protocol])
    assert (completion, example.answer) == (prediction, answer)
    assert example.question == ("How many?" if record is R1V_LOG else None)


def test_a_row_has_its_line():
    record = {"prediction": "<answer>3</answer>", "answer": 3, "line": 7}
    assert score([record], "geoqa")[1][0]["line"] == 7
