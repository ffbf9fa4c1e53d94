"""Run: python -m pytest -q tests/test_question_sets.py        (about 10 s on CPU; no network)

The published question sets: ours beside what their authors' scorers compute.
"""

import hashlib
import io
import json

import pytest
from originals import ORIGINALS as ORIGINAL
from PIL import Image
from scored import THINK, box_example, boxes, example, score

from grading import metrics, tags
from grading.boxes import from_pixels
from tasks import chartqa, layouts, prompts, protocols, published, tabmwp


def test_the_sets():
    protocols = "superclevr geoqa cvbench rec lisa detection classification chartqa tabmwp m3cot"
    assert list(published.PROTOCOLS) == protocols.split()
    assert list(published.TEMPLATES) == [
        *("superclevr", "geoqa", "cvbench", "vlmr1", "rec", "rec_direct", "lisa"),
        *("chartqa", "clevr_math", "tabmwp", "tabmwp_choices"),
    ], "the order in which messages name them"
    assert set(published.SELECT) <= set(published.TEMPLATES)


def sample_record(one, folder):
    """A set's sample record with a picture where it names one."""
    record, buffer = dict(one.sample), io.BytesIO()
    picture = Image.new("RGB", (640, 480))
    picture.save(buffer, "png")
    if isinstance(record.get("image"), dict):
        return record | {"image": {"bytes": buffer.getvalue()}}
    names = ["a.jpg", f"{record.get('id')}.png"]
    names += [record[key] for key in ("image", "image_path", "imgname") if key in record]
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


@pytest.mark.parametrize(
    "text, read",
    [
        ("<answer> 3 </answer>", "3"),
        ("Answer: 4\n<answer>3</answer>", "3"),
        ("Solution:\n1. x\nAnswer: B", "B"),
        ("Solution:\n\nAnswer:\n\n Yes\nmore", "Yes"),
        ("Answer: 3\nAnswer: 4", "4"),
        ("The final answer: 12 cm", "12 cm"),
        ("**Answer:** B", "B"),
        ("answer : 7", "7"),
        ("Answer: 3\nAnswer:", None),
        ("the answer is 3", None),
        ("", None),
        ("Answer: 3</answer>", None),
        ("<think>Answer: 3", None),
        ("<think>Answer: 3</think> so Answer: 4", "4"),
        ("bananswer: 3", None),
        ("Final Answer:\t5", "5"),
        ("**Answer**: 14", "14"),
        ("Answer： 14", "14"),
        (r"The final answer is: $\boxed{14}$", r"$\boxed{14}$"),
        ("The answer is: 14", "14"),
        ("Answer: 14<|im_end|>", "14"),
        ("Answer: 14</s>", "14"),
        ("Answer: 14<|endoftext|>", "14"),
        ("Answer: 1<|im_end|>4", "1"),
    ],
)
def test_answer_line(text, read):
    assert tags.answer_line(text) == read


RELAXED = [  # said, gold, ours, published (Pix2Struct's function), R3V's
    ("5.2", "5", 1, 1, 1),
    ("5.26", "5", 0, 0, 0),
    ("5.25", "5", 1, 1, 1),
    ("4.75", "5", 1, 1, 1),
    ("4.74", "5", 0, 0, 0),
    ("14%", "14", 1, 0, 0),
    ("14", "14%", 1, 0, 0),
    ("$1,000", "1000", 1, 0, 0),
    ("0.0", "0", 1, 0, 1),
    ("0", "0.0", 1, 0, 1),
    ("0.01", "0", 0, 0, 0),
    ("2019", "2018", 0, 1, 1),
    ("1995", "2017", 0, 1, 1),
    ("2018", "2018", 1, 1, 1),  # years: ours only
    ("2018.0", "2018", 1, 1, 1),
    ("1900", "1990", 1, 1, 1),
    ("2019 years", "2018", 0, 0, 0),
    ("20.2", "20.1", 1, 1, 1),
    ("206%", "205%", 1, 1, 0),
    ("5%", "5", 1, 0, 0),
    ("200%", "2", 0, 1, 0),
    ("5%", "0.05", 0, 1, 0),
    ("70%", "0.7", 0, 1, 0),
    ("70%%", "0.7", 0, 1, 0),
    ("%", "%", 1, 1, 1),
    ("-5", "5", 0, 0, 0),
    ("Yes", "yes", 1, 1, 1),
    ("Blue.", "blue", 1, 0, 0),
    ("red", "blue", 0, 0, 0),
    ("3 or 5", "5", 0, 0, 0),
    ("nan", "5", 0, 0, 0),
    ("nan", "nan", 1, 0, 1),
    ("inf", "inf", 1, 0, 1),
    ("1_0", "10", 0, 1, 1),
    ("14.5.", "14.6", 1, 0, 0),
    ("$14.5$", "14.6", 1, 0, 0),
    ('"14.5"', "14.6", 1, 0, 0),
    (r"\boxed{14.5}", "14.6", 1, 0, 0),
    ("14.5 years", "14.6", 1, 0, 0),
    ("14.6 percent", "14.5", 1, 0, 0),
    ("14.6 percent", "14.5%", 1, 0, 0),
    ("£14.5", "14.6", 1, 0, 0),
    ("14.5€", "14.6", 1, 0, 0),
    ("-£14.5", "-14.6", 1, 0, 0),
    ("14€5", "145", 0, 0, 0),
    ("14.5 years", "14.5%", 0, 0, 0),
    ("20 cm", "20 m", 0, 0, 0),
    ("1.87522e+06", "1856649.5", 1, 1, 1),
    ("1.87522E6", "1856649.5", 1, 1, 1),
    ("1.8e+05", "1856649.5", 0, 0, 0),
    (r"$1.87522 \times 10^{6}$", "1856649.5", 1, 0, 0),
    ("1.87522 × 10⁶", "1856649.5", 1, 0, 0),
    ("-1e3", "-1010", 1, 1, 1),
    ("1e3 dollars", "1,000", 1, 0, 0),
    ("5e-8", "4e-8", 0, 0, 0),
    ("5e-8", "5.1e-8", 1, 1, 1),
    ("2e", "2", 0, 0, 0),
    ("1e400", "5", 0, 0, 0),
]


@pytest.mark.parametrize("said, gold, ours, published, r3v", RELAXED)
def test_chartqa_relaxed(said, gold, ours, published, r3v):
    result, [row] = score(
        [{"prediction": f"Solution:\n1. ...\nAnswer: {said}", "answer": gold}], "chartqa"
    )
    assert (row["accuracy"], row["accuracy_original"], row["accuracy_r3v_chartqa"]) == (
        ours,
        published,
        r3v,
    )
    assert (result["accuracy"], result["accuracy_original"], result["accuracy_r3v_chartqa"]) == (
        ours,
        published,
        r3v,
    )
    assert result["original"] == "pix2struct_relaxed"
    assert ORIGINAL["pix2struct_relaxed"](said, example(gold)) == published, (
        "a bare answer, as Pix2Struct has them"
    )


def test_r3v_takes_all_that_follows_the_first_answer():
    row = score([{"prediction": "Answer: 3\nNo, Answer: 4", "label": "4"}], "chartqa")[1][0]
    assert (row["accuracy"], row["accuracy_r3v_chartqa"], row["extracted"]) == (1, 0, "4")
    assert [
        chartqa.r3v_answer(text) for text in ("Answer: \n", "Answer:", " 5 ", "Answer:5 Answer: 6")
    ] == ["", "Answer:", "5", "5 Answer: 6"]


@pytest.mark.parametrize(
    "text, normal",
    [
        ("$1,735.", "1735"),
        ("3/4", "0.75"),
        ("8.20", "8.2"),
        ("1/0", None),
        ("1.2.3", None),
        ("+5", "5"),
        (r"\frac{1}{2}", "0.5"),
        ("\u22125", "-5"),
        ("1,000", "1000"),
        ("0.66666", "0.667"),
        ("6:30 A.M", "6:30 a.m"),
    ],
)
def test_tabmwp_normal_form(text, normal):
    assert tabmwp.normal_form(text) == normal


PROMPTPG = [  # text, unit, PromptPG's normal form (None: its function raises)
    ("$1,735.", None, "1735"),
    ("1/2/3", None, "0.5"),
    ("8.20 ", None, "8.20 "),
    ("8.20", None, "8.2"),
    (r"\frac{1}{2}", None, r"\frac{1}{2}"),
    ("..", None, None),
    (".", None, ""),
    ("1/0", None, None),
    ("1.2.3", None, None),
    ("/5", None, None),
    ("5/", None, "5"),
    ("+5", None, "5"),
    ("-0.0", None, "-0"),
    ("-0", None, "0"),
    ("4-8", None, "4-8"),
    ("3/-4", None, "3/-4"),
    ("1,2,3", None, "123"),
    ("$-5", None, "-5"),
    ("-$5", None, "-$5"),
    ("$ 5", None, " 5"),
    ("2/3", None, "0.667"),
    ("1.5/2", None, "0.75"),
    ("100000000000000000000.0", None, "1e+20"),
    ("0.00004", None, "0"),
    ("٣", None, "3"),
    ("5\n", None, "5"),
    ("9" * 5000, None, None),
    ("9" * 400 + "/3", None, "inf"),
    ("Cat ", None, "Cat "),
    ("5 tokens", "tokens", "5"),
    ("a tokens b", "tokens", "a  b"),
    ("5.0 tokens", "tokens", "5.0"),
    ("5 TOKENS", "tokens", "5 TOKENS"),
]


@pytest.mark.parametrize("text, unit, normal", PROMPTPG, ids=range(len(PROMPTPG)))
def test_promptpg_normal_form(text, unit, normal):
    assert tabmwp.promptpg_normal(text, unit) == normal


R3V_READS = [  # free text, what R3V's function reads in it
    ("The range is 10-5=5.", "5"),
    ("The range is 4-8.", "4-8"),
    ("a 10=5 b 77", "5"),
    ("a 10 =5 b 77", "77"),
    ("a 10=$5 b 77", "$5"),
    ("a 10=-5 b 77", "77"),
    ("x 1=2=3 y 77", "3"),
    ("x = -5 y 77", "77"),
    ("x = 5-6 y", "5"),
    ("x = 5, is 6", "5,"),
    ("x is -5 y 77", "-5"),
    ("x is $-5 y 77", "$-5"),
    ("x is 5-3 y 77", "5-3"),
    ("x is +5 y 77", "77"),
    ("is 5 are 6 was 7 were 8", "7"),
    ("The table shows that -7 of 9", "9"),
    ("The table shows that $7 of 9", "$7"),
    ("The table shows that 7", "7"),
    ("at 6:30 A.M.", "6:30 A.M."),
    ("6:30 A.M. x 5", "5"),
    ("x 5 P.M. y 7", "5 P.M."),
    ("16:30 A.M. or 7:30 P.M.", "7:30 P.M."),
    ("Answer:12", ":12"),
    ("Answer: 12 ", "12"),
    ("4 - 8", "8"),
    ("5-", "5"),
    ("a\u22125", "-5"),
    (r"is \frac{1}{2}", "1/2"),
    (r"is \frac{a}{b} 7", "7"),
    (r"is $\frac{1}{2}$ x", "1/2"),
    (r"a \frac{1}{2}$5", "1/25"),
    ("is \u0663", "\u0663"),
    ("12..", "12"),
    ("5 A.M..", "5"),
]


@pytest.mark.parametrize("text, read", R3V_READS)
def test_r3v_reads_free_text_as_its_code(text, read):
    assert (
        ORIGINAL["r3v_tabmwp"](text, example(read)) == 1
        and ORIGINAL["r3v_tabmwp"](text, example("88")) == 0
    )


@pytest.mark.parametrize(
    "text, index",
    [
        ("(B)", 1),
        ("(B) ", 0),
        (" (B)", 0),
        ("B\n", 1),
        ("B ", 0),
        ("(B).", 1),
        ("B. x", 1),
        ("(B)\nx", 0),
        ("Answer: Q\nB. x", 2),
        ("dog", 1),
        ("B) x", 1),
        ("By x", 1),
        ("At x", 0),
        ("B  x", 1),
        ("It x", 2),
        ("B.x", 0),
        ("B\n x", 2),
    ],
)
def test_r3v_reads_choices_as_its_code(text, index):
    """Nothing is stripped there; without a letter the choice with most words in common is taken, and the first of equals."""
    choices = ["cat", "dog bird", "x"]
    assert [ORIGINAL["r3v_tabmwp"](text, example(choice, choices)) for choice in choices] == [
        k == index for k in range(3)
    ]


@pytest.mark.parametrize(
    "said, gold, right",
    [
        ("3,4", "34", 0),
        ("3,4", "3,4", 1),
        ("1,735", "1735", 1),
        ("1,2,3", "123", 0),
        ("1,7350", "17350", 0),
        ("12,345,678", "12345678", 1),
        ("1,000/2", "500", 1),
    ],
)
def test_a_list_is_no_number_in_our_tabmwp(said, gold, right):
    """Only groups of three are thousands: PromptPG drops any comma, so that 3,4 is 34."""
    assert (
        score([{"prediction": f"Answer: {said}", "answer": gold}], "tabmwp")[1][0]["accuracy"]
        == right
    )


@pytest.mark.parametrize(
    "said, gold, unit, right",
    [
        ("5in5", "55", "in", 0),
        ("5 in", "5", "in", 1),
        ("5in", "5", "in", 1),
        ("5 km", "5", "m", 0),
        ("main", "ma", "in", 0),
        ("5 minutes", "5", "minutes", 1),
        ("5 buttons", "5 but", "tons", 0),
    ],
)
def test_the_unit_is_a_word_at_the_end(said, gold, unit, right):
    assert (
        score([{"prediction": f"Answer: {said}", "answer": gold, "unit": unit}], "tabmwp")[1][0][
            "accuracy"
        ]
        == right
    )


CHOICES = ["shortage", "surplus"]


TABMWP = [  # prediction, gold, choices, unit, ours, R3V's, why
    ("Answer: B", "surplus", CHOICES, None, 1, 1),
    ("Answer: (B)", "surplus", CHOICES, None, 1, 0),
    ("Answer: surplus", "surplus", CHOICES, None, 1, 1),
    ("Answer: A", "surplus", CHOICES, None, 0, 0),
    ("There is a surplus", "surplus", CHOICES, None, 0, 1),  # no answer: the most similar choice
    ("Answer: $1,735.", "1735", None, None, 1, 1),
    ("Answer: 0.75", "3/4", None, None, 1, 1),
    ("Answer: 8.20", "8.2", None, None, 1, 1),
    ("Answer: 5 tokens", "5", None, "tokens", 1, 1),
    ("Answer: 5.0 tokens", "5", None, "tokens", 1, 0),
    ("Answer: blue tokens", "blue", None, "tokens", 1, 1),
    ("Answer:\n10", "10", None, None, 1, 1),  # there the last number, as luck has it
    ("First 3 and then 10", "10", None, None, 0, 1),
    ("The answer is 12", "12", None, None, 0, 1),
    ("Answer: 3:00 PM", "3:00 P.M.", None, None, 1, 0),
    ("Answer: 3:00 P.M.", "3:00 P.M.", None, None, 1, 1),
    ("Answer: 3:00 AM", "3:00 P.M.", None, None, 0, 0),
    ("Answer: 5 apples", "5", None, "tokens", 0, 0),
    ("Answer: 5 token", "5", None, "tokens", 1, 0),
    ("Answer: 1/0", "0", None, None, 0, 1),
    ("Answer: 1.2.3", "0", None, None, 0, 1),
    ("Answer: +5", "5", None, None, 1, 1),  # what is no number is 0 there
    ("Reason. Answer: nonlinear", "linear", ["linear", "nonlinear"], None, 0, 0),
    ("Reason. Answer: nonlinear", "nonlinear", ["linear", "nonlinear"], None, 1, 1),
    ("Answer: Boston", "Boston", ["Boston", "Rome"], None, 1, 0),  # B, says the first letter
    ("So. B. is it", "surplus", CHOICES, None, 0, 0),
    ("B. is it", "surplus", CHOICES, None, 0, 1),
    ("the answer is B", "surplus", CHOICES, None, 0, 0),
    ("The answer is B", "surplus", CHOICES, None, 0, 1),
    ("The answer is (B)", "surplus", CHOICES, None, 0, 0),
    ("The answer is (B) yes", "surplus", CHOICES, None, 0, 1),
    ("(B) yes", "surplus", CHOICES, None, 0, 1),
    ("(b)", "surplus", CHOICES, None, 0, 1),
    ("The answer is 12\nI think", "12", None, None, 0, 0),
    ("the answer is 12", "12", None, None, 0, 1),
    ("The table shows that 7 of 9", "7", None, None, 0, 1),
    ("The table shows that 7", "7", None, None, 0, 1),
    ("this 4 was 3 or 9", "3", None, None, 0, 1),
    ("12..", "12", None, None, 0, 1),
    ("It ends at 6:30 P.M.", "6:30 P.M.", None, None, 0, 1),
]


@pytest.mark.parametrize("prediction, gold, choices, unit, ours, original", TABMWP)
def test_tabmwp(prediction, gold, choices, unit, ours, original):
    row = score(
        [{"id": "33", "prediction": prediction, "answer": gold, "choices": choices, "unit": unit}],
        "tabmwp",
    )[1][0]
    assert (row["accuracy"], row["accuracy_original"]) == (ours, original)


def test_r3v_draws_a_choice_for_a_letter_beyond_the_list():
    """At random there; from the record's id here, so that a score can be repeated. Ours: no such choice, a parse failure."""
    choices = ["a", "b", "c"]
    rows = score(
        [
            {"id": i, "prediction": "Answer: F", "answer": "b", "choices": choices}
            for i in range(300)
        ],
        "tabmwp",
    )[1]
    assert (
        score([{"prediction": "Answer: Z", "answer": "a", "choices": choices}], "tabmwp")[1][0][
            "accuracy_original"
        ]
        == 1
    ), "Z is no letter there: the most similar choice, the first of three"
    drawn = [
        choices[int(hashlib.sha256(str(i).encode()).hexdigest(), 16) % 3] == "b" for i in range(300)
    ]
    assert [row["accuracy_original"] == 1 for row in rows] == drawn and 70 < sum(drawn) < 130
    assert not any(row["accuracy"] for row in rows) and all(
        row["extracted"] is None for row in rows
    )


def test_tabmwp_splits():
    records = [
        {
            "prediction": f"Answer: {i}",
            "answer": "1",
            "ques_type": "free_text",
            "ans_type": kind,
            "grade": grade,
        }
        for i, kind, grade in (
            (1, "integer_number", 3),
            (2, "integer_number", 7),
            (1, "decimal_number", 8),
        )
    ]
    by = score(records, "tabmwp")[0]["by"]
    assert by["ans_type"] == {
        "decimal_number": {"accuracy": 1.0, "n": 1},
        "integer_number": {"accuracy": 0.5, "n": 2},
    }
    assert (
        by["grades"] == {"1-6": {"accuracy": 1.0, "n": 1}, "7-8": {"accuracy": 0.5, "n": 2}}
        and set(by["grade"]) == {"3", "7", "8"}
        and by["ques_type"]["free_text"]["n"] == 3
    )


def test_superclevr():
    cases = [
        ("<answer> 4 </answer>", 4, 1, 1),
        ("<answer>4.0</answer>", 4, 1, 0),
        ("<answer>4 items</answer>", 4, 1, 0),
        ("4", 4, 0, 0),
        ("<think>it is <answer>4</answer> so</think><answer>5</answer>", 4, 0, 1),
    ]
    result, rows = score(
        [{"prediction": text, "ground_truth": gold} for text, gold, _, _ in cases], "superclevr"
    )
    assert [(row["accuracy"], row["accuracy_original"]) for row in rows] == [
        case[2:] for case in cases
    ]
    counts = {
        "4": 1,
        "4 cubes": 1,
        "4 metal cubes": 1,
        "4 object": 1,
        "4%": 0,
        "4°": 0,
        "4 m": 0,
        "2+2": 0,
        "8/2": 0,
        "x = 4": 0,
        "4 or 5": 0,
        "4 cubes squared": 0,
        "04": 1,
        "four": 0,
    }
    assert {
        said: row["accuracy"]
        for said, row in zip(
            counts,
            score(
                [{"prediction": f"<answer>{said}</answer>", "answer": 4} for said in counts],
                "superclevr",
            )[1],
        )
    } == counts
    assert (
        result["parse_failures"] == 1
        and result["disagreements"] == 3
        and result["accuracy"] == 0.6
        and result["accuracy_original"] == 0.4
    )
    assert (result["accuracy_low"], result["accuracy_high"]) == metrics.wilson(3, 5)


def test_geoqa_roots():
    """60 of 754 golds parse to their leading number, 17 to nothing: the right answer is wrong there, and the bare number right."""
    cases = [
        (rf"{THINK}<answer>$8\sqrt{{3}}$</answer>", "8√{3}", 1, 0),
        (f"{THINK}<answer>8</answer>", "8√{3}", 0, 0),
        (f"{THINK}<answer> 8 </answer>", "8√{3}", 0, 1),
        (f"{THINK}<answer>√3</answer>", "√{3}", 1, 0),
        (rf"{THINK}<answer>$240\pi$ cm²</answer>", "240πcm^{2}", 1, 0),
        ("so it is 140", "140°", 0, 1),
    ]
    rows = score([{"prediction": text, "answer": gold} for text, gold, _, _ in cases], "geoqa")[1]
    assert [(row["accuracy"], row["accuracy_original"]) for row in rows] == [
        case[2:] for case in cases
    ]


def test_cvbench():
    base = {"answer": "(B)", "choices": ["cat", "the dog"], "task": "Relation"}
    cases = [
        ("<answer>B</answer>", 1, 1),
        ("<answer>(B)</answer>", 1, 1),
        ("<answer>the dog</answer>", 1, 1),
        ("<answer>B. the dog</answer>", 1, 1),
        ("<answer>A</answer>", 0, 0),
        ("It must be B", 0, 1),
        ("<answer>a bird</answer>", 0, 0),
        ("A or <answer>\nB\n</answer>", 1, 1),
    ]
    result, rows = score([{**base, "prediction": text} for text, _, _ in cases], "cvbench")
    assert [(row["accuracy"], row["accuracy_original"]) for row in rows] == [
        case[1:] for case in cases
    ]
    assert result["parse_failures"] == 2 and "cvbench" not in result  # no tag, and no choice
    rows = score(
        [{"prediction": f"<answer>{said}</answer>", "answer": "B"} for said in ("B", "a dog", "")],
        "cvbench",
    )[1]
    assert [row["extracted"] for row in rows] == ["B", "a dog", None], (
        "without a list of choices the gold does not decide what can be read"
    )


def test_cvbench_average_is_the_published_one():
    """Half 2D (itself half ADE20K, half COCO), half 3D, whatever the numbers of questions."""
    right = {"ADE20K": [1, 0], "COCO": [1, 1, 1, 0], "Omni3D": [0, 0, 0, 0, 1]}
    records = [
        {
            "prediction": f"<answer>{'A' if r else 'B'}</answer>",
            "answer": "(A)",
            "choices": ["x", "y"],
            "source": name,
            "task": "Depth" if name == "Omni3D" else "Count",
        }
        for name, rs in right.items()
        for r in rs
    ]
    result = score(records, "cvbench")[0]
    assert result["cvbench"] == pytest.approx(((0.5 + 0.75) / 2 + 0.2) / 2) and result[
        "accuracy"
    ] == pytest.approx(5 / 11)
    assert result["by"]["task"]["Count"] == {"accuracy": pytest.approx(4 / 6), "n": 6}


def test_m3cot():
    rows = score(
        [
            {"prediction": text, "answer": "B", "choices": ["a cat", "a dog"], "domain": "science"}
            for text in (
                "Answer: B",
                "<answer>(b)</answer>",
                "Answer: a dog",
                "the point B",
                "Answer: both",
                "Answer: A",
            )
        ],
        "m3cot",
    )[1]
    assert [row["accuracy"] for row in rows] == [1, 1, 1, 0, 0, 0] and [
        row["extracted"] is None for row in rows
    ] == [False, False, False, True, True, False]


REC = [  # body, VLM-R1's evaluation for the gold [0, 0, 100, 100]
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


@pytest.mark.parametrize("body, right", REC)
def test_vlmr1_rec_reads_inside_braces(body, right):
    assert (
        ORIGINAL["vlmr1_rec"](f"<answer>{body}</answer>", box_example(boxes((0, 0, 100, 100))))
        == right
    )


def test_rec():
    say = lambda *found: (
        f"<answer>{json.dumps([{'bbox_2d': box, 'label': 'man'} for box in found])}</answer>"
    )
    base = {
        "solution": [100, 100, 200, 200],
        "size": [1000, 500],
        "resized": [500, 500],
        "box_format": "resized",
    }
    result, rows = score(
        [
            {**base, "prediction": text}
            for text in (
                say([50, 100, 100, 200]),
                say([50, 100, 100, 151]),
                say([50, 100, 100, 150]),
                say([0, 0, 9, 9], [50, 100, 100, 200]),
                "[50, 100, 100, 200]",
            )
        ],
        "rec",
    )
    assert [row["accuracy"] for row in rows] == [1, 1, 0, 0, 0] and [
        row["accuracy_original"] for row in rows
    ] == [1, 1, 0, 1, 0]
    assert (
        [row["iou"] for row in rows] == pytest.approx([1, 0.51, 0.5, 0.5, 0])
        and result["mean_iou"] == pytest.approx(0.502)
        and result["parse_failures"] == 1
    )


@pytest.mark.parametrize("protocol", ["rec", "lisa"])
def test_what_was_asked_for_needs_no_label(protocol):
    record = {
        "prediction": '<answer>[{"bbox_2d": [10, 20, 110, 220], "label": "the man"}]</answer>',
        "answer": [{"bbox_2d": [10, 20, 110, 220], "label": "person"}],
        "box_format": "pixels",
    }
    assert score([record], protocol)[0]["mean_iou"] == score([record], protocol)[0]["accuracy"] == 1


def test_lisa_mean_iou():
    records = [
        {"prediction": f"<answer>{box}</answer>", "answer": "(100,100),(300,300)"}
        for box in ("(100,100),(300,300)", "(100,100),(300,200)", "(500,500),(600,600)", "the man")
    ]
    result = score(records, "lisa")[0]
    assert (
        result["mean_iou"] == pytest.approx(1.5 / 4)
        and result["accuracy"] == 0.25
        and result["parse_failures"] == 1
        and "accuracy_original" not in result
    )


def test_detection_map():
    """Two categories over three images, one query each: cats all found, the surer of two dog boxes is wrong: precision 1/2 from the first recall on."""
    cat, dog = (
        "<answer>[{'Position': [0, 0, 100, 100], 'Confidence': 1}]</answer>",
        "<answer>[{'Position': [100, 100, 200, 200], 'Confidence': 1}]</answer>",
    )
    ask = "Detect all objects belonging to the category '{}' in the image, and ..."
    records = [
        {
            "prediction": cat.replace(": 1}", ": 0.9}"),
            "solution": cat,
            "problem": ask.format("cat"),
        },
        {"prediction": cat, "solution": cat, "problem": ask.format("cat")},
        {
            "prediction": "<answer>[{'Position': [700, 700, 800, 800], 'Confidence': 0.9}, {'Position': [100, 100, 200, 200], 'Confidence': 0.5}]</answer>",
            "solution": dog,
            "category": "dog",
        },
    ]
    result = score(records, "detection")[0]
    assert result["categories"]["cat"] == {
        "mAP": pytest.approx(1),
        "AP50": pytest.approx(1),
        "n": 2,
    } and result["categories"]["dog"]["AP50"] == pytest.approx(0.5)
    assert (
        result["mAP"] == pytest.approx(0.75)
        and result["AP50"] == pytest.approx(0.75)
        and result["accuracy"] == pytest.approx(2 / 3)
    )
    nothing = score(
        [{"prediction": "<answer>No Objects</answer>", "answer": "No Objects", "category": "cat"}],
        "detection",
    )[0]
    assert nothing["accuracy"] == 1 and nothing["mAP"] == 1


def test_detection_without_a_category_or_with_one_and_labels():
    pair = {
        "prediction": "<answer>[{'Position': [0, 0, 100, 100], 'Confidence': 0.9}]</answer>",
        "solution": "<answer>[{'Position': [0, 0, 100, 100], 'Confidence': 1}]</answer>",
    }
    result = score([pair, pair], "detection")[0]  # Visual-RFT's own records: one nameless class
    assert result["mAP"] == pytest.approx(1) and result["accuracy"] == 1
    with pytest.raises(ValueError, match="1: which category"):
        score([{**pair, "category": 5}, pair], "detection")
    for gold in ([{"bbox_2d": [0, 0, 100, 100]}], [{"bbox_2d": [0, 0, 100, 100], "label": "dog"}]):
        result = score(
            [
                {
                    "prediction": '<answer>[{"bbox_2d": [0, 0, 100, 100], "label": "dogs"}]</answer>',
                    "answer": gold,
                    "category": "dog",
                    "box_format": "pixels",
                }
            ],
            "detection",
        )[0]
        assert (
            result["accuracy"] == 1
            and result["mAP"] == pytest.approx(1)
            and list(result["categories"]) == ["dog"]
        )
    labelled = {
        "prediction": '<answer>[{"bbox_2d": [0, 0, 100, 100], "label": "cat"}]</answer>',
        "answer": [{"bbox_2d": [0, 0, 100, 100], "label": "dog"}],
        "box_format": "pixels",
    }
    assert score([labelled], "detection")[0]["mAP"] == 0
