"""Run: python -m pytest -q tests/test_question_sets.py        (5 s on CPU; no network)

The published question sets: every set by its sample record, then set by set, ours beside what
their authors' scorers compute. (ChartQA and TabMWP have files of their own.)
"""

import io
import json

import pytest
from PIL import Image
from scored import THINK, box_example, boxes, score

from grading import metrics
from grading.boxes import from_pixels
from tasks import layouts, prompts, protocols, published, rec


def test_the_sets():
    protocols = (
        "superclevr geoqa cvbench rec lisa detection classification chartqa mathvista mathverse "
        "mathvision mmmu mmstar mmbench r1_onevision miniwob tabmwp m3cot"
    )
    assert list(published.PROTOCOLS) == protocols.split()
    assert list(published.TEMPLATES) == [
        *("superclevr", "geoqa", "cvbench", "vlmr1", "rec", "rec_direct", "lisa"),
        *("chartqa", "clevr_math", "mathvision", "mmmu", "mmmu_choices", "mmstar", "mmbench"),
        *("tabmwp", "tabmwp_choices"),
    ], "the order in which messages name them"
    assert set(published.SELECT) <= set(published.TEMPLATES)


def sample_record(one, folder):
    """A set's sample record with a picture where it names one."""
    record, buffer = dict(one.sample), io.BytesIO()
    picture = Image.new("RGB", (640, 480))
    picture.save(buffer, "png")
    embedded = [
        key for key, value in record.items() if isinstance(value, dict) and "bytes" in value
    ]
    if embedded:
        return record | {key: {"bytes": buffer.getvalue()} for key in embedded}
    names = ["a.jpg", f"{record.get('id')}.png"]
    keys = ("image", "image_path", "imgname", "image_filename", "img_filename")
    names += [record[key] for key in keys if key in record]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(buffer.getvalue())
    return record


@pytest.mark.parametrize("one", published.SETS, ids=lambda one: one.name)
def test_the_sample_of_a_set_is_read_asked_and_scored(one, tmp_path):
    """Its gold, written as the set asks for it, can be read and is right by every rule."""
    example = layouts.to_example(sample_record(one, tmp_path), tmp_path / "set.jsonl", 1)
    assert prompts.question_text(example, one.template)
    if one.score is None:
        return
    [judged] = protocols.judged([example], one.name)
    gold = example.answer
    if one.boxes:
        box = from_pixels(judged.meta["boxes"][0]["bbox_2d"], "norm1000", judged.meta["size"])
        gold = f"[{', '.join(str(round(v)) for v in box)}]"
    text = f"<think>I see.</think><answer> {gold} </answer>"
    assert one.read(text, judged) is not None
    assert one.score(text, judged) == 1
    assert one.read("I see.", judged) is None


def both_accuracies(rows):
    return [(row["accuracy"], row["accuracy_original"]) for row in rows]


# --- SuperCLEVR, GEOQA ---

SUPERCLEVR = [  # prediction for the gold 4, ours, R1-V's
    ("<answer> 4 </answer>", 1, 1),
    ("<answer>4.0</answer>", 1, 0),
    ("<answer>4 items</answer>", 1, 0),
    ("4", 0, 0),
    ("<think>it is <answer>4</answer> so</think><answer>5</answer>", 0, 1),
]


def test_superclevr():
    records = [{"prediction": case[0], "ground_truth": 4} for case in SUPERCLEVR]
    result, rows = score(records, "superclevr")
    assert both_accuracies(rows) == [case[1:] for case in SUPERCLEVR]
    assert result["parse_failures"] == 1 and result["disagreements"] == 3
    assert (result["accuracy"], result["accuracy_original"]) == (0.6, 0.4)
    assert (result["accuracy_low"], result["accuracy_high"]) == metrics.wilson(3, 5)


COUNTS = ["4", "4 cubes", "4 metal cubes", "4 object", "04"]
NO_COUNTS = ["4%", "4°", "4 m", "2+2", "8/2", "x = 4", "4 or 5", "4 cubes squared", "four"]


@pytest.mark.parametrize("said", COUNTS + NO_COUNTS)
def test_what_is_a_count(said):
    [row] = score([{"prediction": f"<answer>{said}</answer>", "answer": 4}], "superclevr")[1]
    assert row["accuracy"] == (said in COUNTS)


GEOQA = [  # prediction, gold, ours, R1-V's: of a root it reads the leading number, or nothing
    (rf"{THINK}<answer>$8\sqrt{{3}}$</answer>", "8√{3}", 1, 0),
    (f"{THINK}<answer>8</answer>", "8√{3}", 0, 0),
    (f"{THINK}<answer> 8 </answer>", "8√{3}", 0, 1),
    (f"{THINK}<answer>√3</answer>", "√{3}", 1, 0),
    (rf"{THINK}<answer>$240\pi$ cm²</answer>", "240πcm^{2}", 1, 0),
    ("so it is 140", "140°", 0, 1),
]


def test_geoqa_roots():
    records = [{"prediction": text, "answer": gold} for text, gold, _, _ in GEOQA]
    assert both_accuracies(score(records, "geoqa")[1]) == [case[2:] for case in GEOQA]


# --- CV-Bench, M3CoT ---

CVBENCH = [  # prediction, ours, VisualThinker's
    ("<answer>B</answer>", 1, 1),
    ("<answer>(B)</answer>", 1, 1),
    ("<answer>the dog</answer>", 1, 1),
    ("<answer>B. the dog</answer>", 1, 1),
    ("<answer>A</answer>", 0, 0),
    ("It must be B", 0, 1),
    ("<answer>a bird</answer>", 0, 0),
    ("A or <answer>\nB\n</answer>", 1, 1),
]


def test_cvbench():
    base = {"answer": "(B)", "choices": ["cat", "the dog"], "task": "Relation"}
    result, rows = score([{**base, "prediction": case[0]} for case in CVBENCH], "cvbench")
    assert both_accuracies(rows) == [case[1:] for case in CVBENCH]
    assert result["parse_failures"] == 2  # no tag, and no choice
    assert "cvbench" not in result


def test_without_choices_the_gold_does_not_decide_what_can_be_read():
    records = [
        {"prediction": f"<answer>{said}</answer>", "answer": "B"} for said in ("B", "a dog", "")
    ]
    rows = score(records, "cvbench")[1]
    assert [row["extracted"] for row in rows] == ["B", "a dog", None]


def test_cvbench_average_is_the_published_one():
    """Half 2D (itself half ADE20K, half COCO), half 3D, whatever the numbers of questions."""
    letters = {"ADE20K": "AB", "COCO": "AAAB", "Omni3D": "BBBBA"}  # A is right
    tasks = {"ADE20K": "Count", "COCO": "Count", "Omni3D": "Depth"}
    base = {"answer": "(A)", "choices": ["x", "y"]}
    records = []
    for source, said in letters.items():
        own = {**base, "source": source, "task": tasks[source]}
        records += [{**own, "prediction": f"<answer>{letter}</answer>"} for letter in said]
    result = score(records, "cvbench")[0]
    assert result["cvbench"] == pytest.approx(((0.5 + 0.75) / 2 + 0.2) / 2)
    assert result["accuracy"] == pytest.approx(5 / 11)
    assert result["by"]["task"]["Count"]["accuracy"] == pytest.approx(4 / 6)
    assert result["by"]["task"]["Count"]["n"] == 6


M3COT = [  # prediction, ours, whether it can be read
    ("Answer: B", 1, True),
    ("<answer>(b)</answer>", 1, True),
    ("Answer: a dog", 1, True),
    ("the point B", 0, False),
    ("Answer: both", 0, False),
    ("Answer: A", 0, True),
]


@pytest.mark.parametrize("text, right, readable", M3COT)
def test_m3cot(text, right, readable):
    record = {"prediction": text, "answer": "B", "choices": ["a cat", "a dog"]}
    [row] = score([record | {"domain": "science"}], "m3cot")[1]
    assert row["accuracy"] == right and (row["extracted"] is not None) == readable


# --- boxes ---

# body, VLM-R1's evaluation for the gold [0, 0, 100, 100]
IN_BRACES = [
    ("{[0, 0, 100, 100]}", 1),
    ("{[0, 0, 100, 100]\n", 0),
    ("}{[0, 0, 100, 100]", 0),
    ("{[0, 0, 100, 100]{", 0),
    ("{\n[0,\n0,100,100]\n}", 1),
    ("[0, 0, 100, 100]{}", 0),
    ("{[1,2,3,4]} [0, 0, 100, 100]}", 1),
    ("{[0, 0, 100, 100], [1,2,3,4.0]}", 1),
    ("{[0, 0 ,100, 100]}", 0),
]


@pytest.mark.parametrize("body, right", IN_BRACES)
def test_vlmr1_rec_reads_inside_braces(body, right):
    e = box_example(boxes((0, 0, 100, 100)))
    assert rec.vlmr1_rec(f"<answer>{body}</answer>", e) == right


def men(*corners):
    return f"<answer>{json.dumps([{'bbox_2d': box, 'label': 'man'} for box in corners])}</answer>"


REC = [  # prediction, ours, VLM-R1's, IoU
    (men([50, 100, 100, 200]), 1, 1, 1),
    (men([50, 100, 100, 151]), 1, 1, 0.51),
    (men([50, 100, 100, 150]), 0, 0, 0.5),
    (men([0, 0, 9, 9], [50, 100, 100, 200]), 0, 1, 0.5),
    ("[50, 100, 100, 200]", 0, 0, 0),
]


def test_rec():
    sizes = {"size": [1000, 500], "resized": [500, 500], "box_format": "resized"}
    base = {"solution": [100, 100, 200, 200], **sizes}
    result, rows = score([{**base, "prediction": case[0]} for case in REC], "rec")
    assert both_accuracies(rows) == [case[1:3] for case in REC]
    assert [row["iou"] for row in rows] == pytest.approx([case[3] for case in REC])
    assert result["mean_iou"] == pytest.approx(0.502)
    assert result["parse_failures"] == 1


@pytest.mark.parametrize("protocol", ["rec", "lisa"])
def test_what_was_asked_for_needs_no_label(protocol):
    record = {
        "prediction": '<answer>[{"bbox_2d": [10, 20, 110, 220], "label": "the man"}]</answer>',
        "answer": [{"bbox_2d": [10, 20, 110, 220], "label": "person"}],
        "box_format": "pixels",
    }
    result = score([record], protocol)[0]
    assert result["mean_iou"] == result["accuracy"] == 1


def test_lisa_mean_iou():
    said = ("(100,100),(300,300)", "(100,100),(300,200)", "(500,500),(600,600)", "the man")
    records = [
        {"prediction": f"<answer>{box}</answer>", "answer": "(100,100),(300,300)"} for box in said
    ]
    result = score(records, "lisa")[0]
    assert result["mean_iou"] == pytest.approx(1.5 / 4)
    assert result["accuracy"] == 0.25 and result["parse_failures"] == 1
    assert "accuracy_original" not in result


def found(*scored):
    """An answer as Visual-RFT writes it."""
    items = [f"{{'Position': {box}, 'Confidence': {confidence}}}" for box, confidence in scored]
    return f"<answer>[{', '.join(items)}]</answer>"


def detection(prediction, **fields):
    return {"prediction": prediction, **fields}


AT_0, AT_100, AT_700 = [0, 0, 100, 100], [100, 100, 200, 200], [700, 700, 800, 800]


def test_detection_map():
    """Two categories over three images, one query each.

    Cats are all found. The surer of two dog boxes is wrong: precision 1/2 from the first recall on.
    """
    cats = "Detect all objects belonging to the category 'cat' in the image, and ..."
    cat, dog = found((AT_0, 1)), found((AT_100, 1))
    records = [
        detection(found((AT_0, 0.9)), solution=cat, problem=cats),
        detection(cat, solution=cat, problem=cats),
        detection(found((AT_700, 0.9), (AT_100, 0.5)), solution=dog, category="dog"),
    ]
    result = score(records, "detection")[0]
    perfect = {"mAP": pytest.approx(1), "AP50": pytest.approx(1), "n": 2}
    assert result["categories"]["cat"] == perfect
    assert result["categories"]["dog"]["AP50"] == pytest.approx(0.5)
    assert result["mAP"] == result["AP50"] == pytest.approx(0.75)
    assert result["accuracy"] == pytest.approx(2 / 3)


def test_detection_of_nothing():
    record = detection("<answer>No Objects</answer>", answer="No Objects", category="cat")
    result = score([record], "detection")[0]
    assert result["accuracy"] == 1 and result["mAP"] == 1


def test_detection_without_a_category():
    """Visual-RFT's own records: one nameless class."""
    record = detection(found((AT_0, 0.9)), solution=found((AT_0, 1)))
    result = score([record, record], "detection")[0]
    assert result["mAP"] == pytest.approx(1) and result["accuracy"] == 1
    with pytest.raises(ValueError, match="1: which category"):
        score([{**record, "category": 5}, record], "detection")


def labelled(label):
    return {"bbox_2d": AT_0, "label": label}


@pytest.mark.parametrize("gold", [{"bbox_2d": AT_0}, labelled("dog")])
def test_a_category_decides_before_labels(gold):
    said = f"<answer>{json.dumps([labelled('dogs')])}</answer>"
    record = detection(said, answer=[gold], category="dog", box_format="pixels")
    result = score([record], "detection")[0]
    assert result["accuracy"] == 1 and result["mAP"] == pytest.approx(1)
    assert list(result["categories"]) == ["dog"]


def test_labels_decide_where_there_is_no_category():
    said = f"<answer>{json.dumps([labelled('cat')])}</answer>"
    record = detection(said, answer=[labelled("dog")], box_format="pixels")
    assert score([record], "detection")[0]["mAP"] == 0
