r"""Run: python -m pytest -q tests/test_protocols.py        (about 15 s on CPU, importing torch and sympy; no network)

Two columns everywhere: ours (rewards.REWARDS, or the protocol's scorer), and what the original computes. The original's numbers are those measured on the
projects' own functions (facts/rl_family.md sections 1b, 3b, 5b, 6b, 9e and E); where only a rule is known and no number, the case says "by rule".
"""

import datetime
import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

import data
import evaluate
import model as modeling
import rewards
import rollout
import tasks
from grading import metrics
from grading.boxes import from_pixels
from plumbing import plots
from plumbing.errors import UserError
from plumbing.records import read_lines
from tasks import prompts, protocols

ROOT = Path(__file__).resolve().parents[1]
GEOQA = ROOT.parent / "shared" / "data" / "records" / "r1v_geoqa.jsonl"
ORIGINAL = protocols.ORIGINALS
THINK = "<think>a</think>"


def example(answer="x", choices=None, **meta):
    return SimpleNamespace(answer=answer, choices=choices, meta=meta, id="7")


def score(records, protocol, box_format=None):
    """(result, rows) of saved records."""
    return protocols.score(
        protocols.to_examples(enumerate(records), protocol, box_format), protocol
    )


def boxes(*corners, label=None):
    return [
        {"bbox_2d": list(box[:4]), "label": box[4] if len(box) > 4 else label} for box in corners
    ]


def box_example(gold, box_format="pixels", size=(1000, 1000), **meta):
    return example(json.dumps(gold), boxes=gold, size=list(size), box_format=box_format, **meta)


# ------------------------------------------------------------------------------------------------------------- accuracy, by text

SIX = "<think>there are 4 cubes and 2 balls</think>"
ACCURACY = [  # completion, gold, ours, R1-V, VLM-R1 (None: not measured)
    (THINK + "<answer>3</answer>", "3", 1, 1, 1),
    ("3", "3", 0, 1, 1),  # no tag: a parse failure
    ("<think>I count 7</think><answer> seven</answer>", "7", 0, 1, 0),
    (r"<think>\boxed{7}</think><answer>5</answer>", "7", 0, 1, 0),
    (THINK + "<answer>3.0</answer>", "3", 1, 0, 1),
    (THINK + "<answer>3 or 7</answer>", "7", 0, 1, 1),
    (THINK + "<answer>7 or 3</answer>", "7", 0, 0, 0.286),
    ("7 or 3", "7", 0, 0, 0.286),
    (THINK + "<answer>145</answer>", "145°", 1, 0, 1),
    (THINK + "<answer> 145 </answer>", "145°", 1, 1, None),
    (THINK + "<answer>(A)</answer>", "A", 1, 0, 0),
    (THINK + "<answer>A. cat</answer>", "A", 1, 0, 1),
    (THINK + "<answer>\nA\n</answer>", "A", 1, 0, 1),
    (THINK + "<answer>yes</answer>", "Yes", 1, 0, 1),
    (THINK + "<answer>1/2</answer>", "0.5", 1, 0, 1),
    (THINK + r"<answer>$\frac{1}{2}$</answer>", "0.5", 1, 1, 1),
    (THINK + "<answer>√3</answer>", r"\sqrt{3}", 1, 0, 0.2),
    (THINK + "<answer>1,000</answer>", "1000", 1, 0, 1),
    (THINK + "<answer>70%</answer>", "70", 1, 0, 1),
    ("", "3", 0, 0, 0),
    ("<answer></answer>", "3", 0, 0, 0),
    (
        SIX + "<answer>6</answer>",
        "2",
        0,
        1,
        None,
    ),  # "6" glued to its tags is not read; the 2 of the thinking is
    (SIX + "<answer>6</answer>", "6", 1, 1, None),
    (SIX + "\n<answer> 6 </answer>", "2", 0, 0, None),
    ("<think>The final answer is $7$.</think><answer>5</answer>", "7", 0, 1, None),
    (THINK + "<answer>7.0</answer>", "7", 1, 0, None),
    (THINK + "<answer> 7.0 </answer>", "7", 1, 1, None),
]


@pytest.mark.parametrize("completion, gold, ours, r1v, vlmr1", ACCURACY, ids=range(len(ACCURACY)))
def test_accuracy(completion, gold, ours, r1v, vlmr1):
    e = example(gold)
    assert rewards.REWARDS["accuracy"](completion, e) == ours
    assert ORIGINAL["r1v_accuracy"](completion, e) == r1v
    if vlmr1 is not None:
        assert ORIGINAL["vlmr1_accuracy"](completion, e) == pytest.approx(vlmr1, abs=5e-4)


@pytest.mark.parametrize(
    "text, parsed",
    [
        ("A", None),
        ("√{3}", None),
        (r"\sqrt{3}", None),
        (r"2\sqrt{3}", "2"),
        (r"\frac{1}{2}", "1/2"),
        ("3cm", "3"),
        ("240πcm^{2}", "240"),
        ("9米", "9"),
        ("1,000", "1000"),
        ("3 or 7", "7"),
        ("<answer>3</answer>", None),
        ("<answer> 3 </answer>", "3"),
        ("8√{3}", "8"),
        (" 737-800 ", "-63"),
    ],
)
def test_what_math_verify_reads_in_its_default_setting(text, parsed):
    """The reason for half of the bugs. 0.9.0, installed here, reads these as 0.5.2, pinned by R1-V. Of 1,536 further comparisons (51 golds, GEOQA's and such, 16 kinds of text)
    the two differed in 20: LaTeX with a unit glued to its number, "$8m$", is 8 to 0.9.0 and 8*m to 0.5.2."""
    assert protocols.verify(text, text) == (parsed is not None)
    if parsed:
        assert protocols.verify(text, parsed) and not protocols.verify(text, "5555")


FORMAT = [  # completion, R1-V, open-r1-multimodal, ours (format)
    (THINK + "<answer>b</answer>", 1, 1, 1),
    ("<think>a</think>\n<answer>b</answer>", 1, 1, 1),
    ("<think>a\nb</think>\n\n<answer>b</answer>", 1, 0, 1),
    (THINK + "<answer>b</answer>\n", 0, 1, 1),
    (" " + THINK + "<answer>b</answer>", 0, 0, 1),
    (THINK + "<answer>b</answer> extra", 0, 1, 0),
    (THINK + THINK + "<answer>b</answer>", 1, 1, 0),
    (THINK + "<answer>b</answer><answer>c</answer>", 1, 1, 0),
    (THINK + " so <answer>b</answer>", 0, 0, 0),
    ("<think></think><answer></answer>", 1, 1, 0),
    ("<answer>b</answer>", 0, 0, 0),
    ("<think>a<answer>b</answer></think><answer>c</answer>", 1, 1, 0),
]


@pytest.mark.parametrize("completion, strict, lenient, ours", FORMAT, ids=range(len(FORMAT)))
def test_format(completion, strict, lenient, ours):
    assert (ORIGINAL["r1v_format"](completion), ORIGINAL["open_r1_format"](completion)) == (
        strict,
        lenient,
    )
    assert rewards.REWARDS["format"](completion, None) == ours


def test_tags_without_backtracking_are_the_regexes_of_the_originals():
    """first_answer, first_line_answer, last_answer, r1v_format and vlmr1_format_rec are linear; on small texts they agree with the patterns they stand for."""
    draw = random.Random(0)
    pieces = [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "\n",
        " ",
        "a",
        "{",
        "}",
        "[1, 2, 3, 4]",
    ]
    rec = re.compile(
        r"<think>.*?</think>\s*<answer>.*?\{.*\[\d+,\s*\d+,\s*\d+,\s*\d+\].*\}.*?</answer>",
        re.DOTALL,
    )
    for _ in range(5000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 14)))
        found = [re.search("<answer>(.*?)</answer>", text, flags) for flags in (re.DOTALL, 0)]
        assert [protocols.first_answer(text), protocols.first_answer(text, dotall=False)] == [
            m and m[1] for m in found
        ]
        stripped = re.search(r"<answer>\s*(.*?)\s*</answer>", text)
        assert protocols.first_line_answer(text) == (stripped and stripped[1])
        assert (
            protocols.last_answer(text)
            == (re.findall("<answer>(.*?)</answer>", text, re.DOTALL) or [None])[-1]
        )
        assert ORIGINAL["r1v_format"](text) == bool(
            re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)
        )
        assert ORIGINAL["vlmr1_format_rec"](text) == bool(rec.search(text))


@pytest.mark.parametrize(
    "said, right",
    [
        ("A.", 0),
        ("The answer is A", 1),
        ("(A)", 1),
        ("A", 1),
        ("[A]", 1),
        ("B then A", 1),
        ("A then (B)", 0),
        ("Apple", 0),
    ],
)
def test_visualthinker_takes_the_last_standalone_letter(said, right):
    assert (
        ORIGINAL["visualthinker_accuracy"](f"{THINK}<answer>{said}</answer>", example("A")) == right
    )
    ours = rewards.REWARDS["mcq"](f"{THINK}<answer>{said}</answer>", example("A"))
    assert ours == (
        said in ("A.", "(A)", "A", "[A]")
    )  # a sentence is no letter, two letters are none


VISUALTHINKER = [  # completion, gold, VisualThinker's code on its own data (gold glued to its tags), R1-V's (with spaces)
    ("Answer: 7", "7", 0, 1),
    ("<answer>7</answer>", "7", 1, 1),
    ("x is 7", "7", 0, 1),
    ("<think> 7 </think><answer>8</answer>", "7", 0, 1),
    ("<answer> 1/2 </answer>", "0.5", 0, 1),
    (r"\boxed{7}", "7", 0, 1),
    (r"\boxed{7}", "$7$", 1, 1),
    ("answer: 7", " 7 ", 1, 1),
    ("<answer>cat</answer>", "cat", 1, 1),
    ("Cat", "cat", 0, 0),
]


@pytest.mark.parametrize("completion, gold, visualthinker, r1v", VISUALTHINKER)
def test_visualthinkers_gold_is_glued_to_its_tags(completion, gold, visualthinker, r1v):
    assert (
        ORIGINAL["visualthinker_accuracy"](completion, example(gold)),
        ORIGINAL["r1v_accuracy"](completion, example(gold)),
    ) == (visualthinker, r1v)


@pytest.mark.parametrize(
    "text, letter",
    [
        ("A", "A"),
        ("A. cat", "A"),
        ("The answer is B", "B"),
        ("(A)", None),
        ("A)", None),
        ("Option C is right.", None),
        ("I think A, but B.", "A"),
        ("I.", "I"),
    ],
)
def test_vlmr1_letter(text, letter):
    assert protocols.extract_choice(text) == letter


@pytest.mark.parametrize(
    "said, gold, ours, original",
    [
        ("A", "A", 1, 1),
        ("A", "(A)", 1, 0),
        ("(A)", "A", 1, 0),
        ("B. dog", "B", 1, 1),
        ("", "B", 0, 0),
        ("I think A, but B.", "B", 0, 0),
    ],
)
def test_mcq(said, gold, ours, original):
    completion = f"{THINK}<answer>{said}</answer>"
    assert (
        rewards.REWARDS["mcq"](completion, example(gold)),
        ORIGINAL["vlmr1_mcq"](completion, example(gold)),
    ) == (ours, original)


@pytest.mark.parametrize(
    "said, gold, ours, original",
    [
        ("Yes", "yes", 1, 1),
        ("No.", "no", 1, 1),
        ("I do not know", "no", 0, 1),
        ("maybe", "perhaps", 0, 1),
        ("yes", "no", 0, 0),
        ("</answer>no <ANSWER>yes</ANSWER>", "yes", 0, 0),
    ],
)
def test_yes_no(said, gold, ours, original):
    completion = f"{THINK}<answer>{said}</answer>"
    assert (
        rewards.REWARDS["yes_no"](completion, example(gold)),
        ORIGINAL["vlmr1_yes_no"](completion, example(gold)),
    ) == (ours, original)


@pytest.mark.parametrize(
    "text, original",
    [
        ("no <ANSWER>yes</ANSWER>", 1),
        ("no <Answer>yes</aNSWER>", 1),
        ("yes <ANSWER>no</ANSWER>", 0),
        ("no yes", 0),
        ("<answer></answer>yes", 0),
    ],
)
def test_vlmr1_yes_no_drops_case_before_it_reads_tags(text, original):
    assert ORIGINAL["vlmr1_yes_no"](text, example("yes")) == original


def test_all_match():
    for text, ours, original in (
        (f"{THINK}<answer> Click\nOK. </answer>", 1, 1),
        ("click ok", 0, 1),
    ):
        assert (
            rewards.REWARDS["all_match"](text, example("click OK")),
            ORIGINAL["vlmr1_all_match"](text, example("click OK")),
        ) == (ours, original)


@pytest.mark.parametrize(
    "tokens, vlmr1", [(0, 1.0), (256, 0.9268), (512, 0.75), (1024, 0.5), (1536, 0.75), (2048, 1.0)]
)
def test_length(tokens, vlmr1):
    """VLM-R1's is periodic and the same for a wrong answer; VisualThinker's has no end. Ours falls and stays down, and a wrong answer is below every right one."""
    right, wrong, e = f"{THINK}<answer>3</answer>", f"{THINK}<answer>4</answer>", example("3")
    assert ORIGINAL["vlmr1_length"](wrong, e, tokens, 1024) == pytest.approx(vlmr1, abs=5e-5)
    assert ORIGINAL["visualthinker_length"](right, e, tokens, 1024) == pytest.approx(0.001 * tokens)
    assert rewards.REWARDS["cosine"](right, e, tokens, 1024) == pytest.approx(
        vlmr1 if tokens <= 1024 else 0.5, abs=5e-5
    )
    assert rewards.REWARDS["cosine"](wrong, e, tokens, 1024) <= 0
    assert rewards.REWARDS["length"](right, e, tokens, 1024) == pytest.approx(
        min(1, 0.001 * tokens)
    )


def test_repetition():
    same = "a a a a a a a a"
    assert (
        ORIGINAL["vlmr1_repetition"](same)
        == rewards.REWARDS["repetition"](same, None)
        == pytest.approx(-2 / 3)
    )
    assert (
        ORIGINAL["vlmr1_repetition"]("a a a a a")
        == 0
        > rewards.REWARDS["repetition"]("a a a a a", None)
    )  # by rule: fewer than six words
    twice = '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [1, 2, 3, 4], "label": "a"}]\n```'
    assert (
        ORIGINAL["vlmr1_repetition"](twice) == -0.5 and ORIGINAL["vlmr1_repetition"]("") == 0
    )  # by rule


BOX = {"bbox_2d": [1, 2, 3, 4], "label": "a"}
WORDS = " a b c d e f a b c d e f"
REPEATS = [  # text, VLM-R1's repetition
    ("```json\n[[1, 2, 3, 4]]\n```" + WORDS, 0),  # a list without boxes
    ('```json\n[{"label": "a"}]\n```' + WORDS, 0),
    (
        f"```json\n{json.dumps([BOX, BOX, {'label': 'a'}])}\n```" + WORDS,
        -0.5,
    ),  # items without a box do not count
    (f"```json\n{json.dumps([BOX, BOX, [1], 'x'])}\n```", -0.5),
    ("```json\n[null]\n```" + WORDS, 0),
    (f"```json\n{json.dumps([BOX, BOX, 3])}\n```", 0),  # TypeError there
    ("```json\n[]\n```" + WORDS, -0.1),
    ("```json\n{}\n```" + WORDS, -0.1),
    ("```json\n3\n```" + WORDS, -0.1),  # not a list: words
    (f"```\n{json.dumps([BOX, BOX])}\n```", -0.5),
    (f"``` ``` {json.dumps([BOX, BOX])}", -0.5),
    (f"```json\n``` {json.dumps([BOX, BOX])}", 0),
    (f"x {json.dumps([BOX, BOX])} y {json.dumps([BOX])}", -0.5),
    (f"x {json.dumps([BOX])} y {json.dumps([BOX, BOX])}", 0),  # the first span
    ('x [ {"bbox_2d": [1], "label": 3},{"bbox_2d": [1], "label": 3} ]', -0.5),
    ('[{"a": 1}] ' + json.dumps([BOX, BOX]), 0),
    (f"```json\n{json.dumps([BOX, {**BOX, 'bbox_2d': '[1, 2, 3, 4]'}])}\n```", -0.5),
    (f"```json\n{json.dumps([BOX, {**BOX, 'label': 'A'}])}\n```", 0),
]


@pytest.mark.parametrize("text, original", REPEATS, ids=range(len(REPEATS)))
def test_vlmr1_repetition_is_its_code(text, original):
    assert ORIGINAL["vlmr1_repetition"](text) == pytest.approx(original)


def test_indel_ratio():
    """2 LCS / (len a + len b), against the quadratic recurrence."""

    def slow(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            row = step(row, x, b)
        return 2 * row[-1] / (len(a) + len(b)) if a or b else 1.0

    def step(row, x, b):
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(row[j + 1], new[j]))
        return new

    assert protocols.indel_ratio("7 or 3", "7") == pytest.approx(2 / 7) and protocols.indel_ratio(
        "√3", r"\sqrt{3}"
    ) == pytest.approx(0.2)
    draw = random.Random(1)
    for _ in range(300):
        a, b = ("".join(draw.choices("aé😀\ud800", k=draw.randint(0, 9))) for _ in range(2))
        # Equal to the last bit: a published score must not change with a library.
        assert protocols.indel_ratio(a, b) == slow(a, b) == protocols.indel_ratio(b, a)


# --------------------------------------------------------------------------------------------------------------------- boxes

TWO = boxes((0, 0, 100, 100), (200, 200, 300, 300), label="a")


def fenced(*corners):
    return f"{THINK}<answer>```json\n{json.dumps(boxes(*corners, label='a'))}\n```</answer>"


WEIGHTED = [  # predicted, ours, VLM-R1's weighted_sum, its od_ap50 and odLength at IoU 1 (by rule: spam costs odLength only)
    (((0, 0, 100, 100), (200, 200, 300, 300)), 1.0, 1.0),
    (((0, 0, 100, 100),), 0.575, 0.575),
    (((0, 0, 100, 100, "b"),), 0.0, 0.225),
    (
        ((0, 0, 100, 100), (200, 200, 300, 300), (500, 500, 600, 600), (700, 700, 800, 800)),
        0.575,
        0.925,
    ),
    (((0, 0, 100, 50),), 0.40, 0.40),
]


@pytest.mark.parametrize(
    "predicted, ours, original",
    WEIGHTED,
    ids=["exact", "one of two", "wrong label", "two and junk", "IoU exactly half"],
)
def test_weighted_sum(predicted, ours, original):
    e = box_example(TWO)
    assert rewards.REWARDS["weighted_sum"](fenced(*predicted), e) == pytest.approx(ours)
    assert ORIGINAL["vlmr1_weighted_sum"](fenced(*predicted), e) == pytest.approx(original)


def test_map_is_hacked_by_unknown_labels_and_by_spam():
    e, right = box_example(TWO), [(0, 0, 100, 100), (200, 200, 300, 300)]
    junk = [(500 + i, 500, 600 + i, 600) for i in range(4)]
    unknown = [(500 + i, 500, 600 + i, 600, "zzz") for i in range(4)]
    rows = {
        "exact": (right, 1, 1, 1),
        "one": (right[:1], 51 / 101, 51 / 101, 51 / 101),
        "spam": (right + junk, 1, 1, 1 / 3),
        "unknown labels": (right + unknown, 1, 1, 1 / 3),
        "nothing": ([], 0, 0, 0),
    }
    for name, (predicted, *wanted) in rows.items():
        assert [
            ORIGINAL[k](fenced(*predicted), e)
            for k in ("vlmr1_od_ap", "vlmr1_od_ap50", "vlmr1_od_length")
        ] == pytest.approx(wanted), name
    for name in ("spam", "unknown labels"):
        assert rewards.REWARDS["od_ap"](fenced(*rows[name][0]), e) < 0.6
    empty = box_example([])
    assert (
        ORIGINAL["vlmr1_od_ap"]("<answer>None</answer>", empty)
        == rewards.REWARDS["od_ap"]("<answer>None</answer>", empty)
        == 1
    )
    assert ORIGINAL["vlmr1_od_ap"]("None", empty) == 0  # no tag


CAT = {"bbox_2d": [0, 0, 10, 10], "label": "cat"}
DOG = {"bbox_2d": [20, 20, 40, 40], "label": "dog"}


def json_fence(items):
    return (
        f"<answer>```json\n{items if isinstance(items, str) else json.dumps(items)}\n```</answer>"
    )


def labelled(label, *corners):
    return {"bbox_2d": list(corners), "label": label}


STOPS = 0  # VLM-R1's function raises UnboundLocalError, so its run ends: 0 here
DETECTIONS = [  # items said, weighted_sum, od_ap, odLength of their functions, for one gold cat at [0, 0, 10, 10]
    ([CAT], 1, 1, 1),
    # labels: with case in od_ap and odLength, without in weighted_sum
    ([labelled("CAT", 0, 0, 10, 10)], 1, 0, 0),
    ([labelled(" cat", 0, 0, 10, 10)], 0.3, 0, 0),
    # boxes that are not four numbers
    ([labelled("cat", 0, 0, 10)], 0, 0, 0),
    ([labelled("cat")], 0, 0, 0),
    ([labelled("cat", 0, 0, 10, 10, 3)], 1, 1, 1),
    ([labelled("cat", "0", "0", "10", "10")], 0, 0, 0),
    ([{"bbox_2d": None, "label": "cat"}], 0, 0, 0),
    # one spoilt item beside a good one is junk
    ([CAT, {"label": "cat"}], 0.925, 1, 0.5),
    ([{"label": "cat"}, CAT], 0.925, 1, 0.5),
    ([CAT, None], 0.925, 1, 0.5),
    ([CAT, 3], 0.925, 1, 0.5),
    ([CAT, [0, 0, 10, 10]], 0.925, 1, 0.5),
    ([CAT, labelled("cat", 0, 0, 10)], 0.925, 1, 0.5),
    # without a label: after another pair its label is taken, before it the run stops
    ([CAT, {"bbox_2d": [0, 0, 10, 10]}], 0.925, 1, 0.5),
    ([{"bbox_2d": [0, 0, 10, 10]}, CAT], STOPS, 1, 0.5),
    ([labelled(3, 0, 0, 10, 10)], STOPS, 0, 0),
    # corners: with one side reversed COCO ignores a box, with both it counts
    ([labelled("cat", 9, 0, 5, 10), CAT], 0.925, 1, 0.5),
    ([labelled("cat", 9, 9, 5, 1), CAT], 0.925, 0.5, 0.25),
    ([labelled("cat", 10, 10, 0, 0)], 0, 0, 0),
    (
        [labelled("cat", 0, 0, 200000, 200000), CAT],
        0.925,
        1,
        0.5,
    ),  # and one beyond its largest area
    # a threshold of COCO's is 0.85, and the next 0.8999999999999999
    ([labelled("cat", 0, 0, 10, 8.5)], 0.7 * 0.85 + 0.3, 0.8, 0.8),
    ([labelled("cat", 0, 0, 10, 9)], 0.93, 0.9, 0.9),
    # what is no list
    (CAT, 0, 0, 0),
    ("3", 0, 0, 0),
    ("null", 0, 0, 0),
    ('"cat"', 0, 0, 0),
    ([], 0, 0, 0),
    ("[NaN", 0, 0, 0),
]


@pytest.mark.parametrize("said, weighted, ap, length", DETECTIONS, ids=range(len(DETECTIONS)))
def test_vlmr1_detection_is_its_code(said, weighted, ap, length):
    e = box_example([CAT])
    found = [
        ORIGINAL[f"vlmr1_{name}"](json_fence(said), e)
        for name in ("weighted_sum", "od_ap", "od_length")
    ]
    assert found == pytest.approx([weighted, ap, length])


NOTHING = [  # answer, weighted_sum, od_ap, odLength of their functions, where there is nothing to find
    ("none", 1, 1, 1),
    ("None.", 1, 1, 1),
    ("[]", 0, 1, 1),
    ("no objects", 0, 1, 1),
    ("```json\n[]\n```", 0, 1, 1),
    ("```json\nnull\n```", 0, 1, 1),
    ("```json\n3\n```", 0, 1, 1),
    ("```json\n[[0, 0, 10, 10]]\n```", 0, 0, 0),
    ("```json\n[null]\n```", 0, 0, 0),
    ('```json\n[{"label": "cat"}]\n```', 0, 0, 0),
    ('```json\n{"bbox_2d": 3}\n```', 0, 0, 0),
]


@pytest.mark.parametrize("answer, weighted, ap, length", NOTHING, ids=range(len(NOTHING)))
def test_vlmr1_detection_of_nothing(answer, weighted, ap, length):
    found = [
        ORIGINAL[f"vlmr1_{name}"](f"<answer>{answer}</answer>", box_example([]))
        for name in ("weighted_sum", "od_ap", "od_length")
    ]
    assert found == [weighted, ap, length]


def test_vlmr1_labels_that_differ_in_case_are_two_classes():
    gold = [CAT, {**DOG, "label": "Cat"}]
    assert ORIGINAL["vlmr1_od_ap"](json_fence(gold), box_example(gold)) == pytest.approx(1)
    assert ORIGINAL["vlmr1_od_ap"](json_fence([CAT]), box_example(gold)) == pytest.approx(0.5)
    assert ORIGINAL["vlmr1_od_ap"](
        json_fence([CAT, {**DOG, "label": "cat"}]), box_example(gold)
    ) == pytest.approx(0.5)


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


def test_referring_expressions():
    """VLM-R1 trains on the first box and evaluates the last; both are integers in pixels of the resized image. Two boxes are half an answer here."""
    gold, off = [100, 100, 200, 200], [300, 300, 400, 400]
    e = box_example(boxes(gold), "resized", size=(1000, 500), resized=[500, 500])
    seen = [[50, 100, 100, 200], [150, 300, 200, 400]]  # the same two as the model saw them
    say = lambda *found: (
        f"{THINK}<answer>{json.dumps([{'bbox_2d': box} for box in found])}</answer>"
    )
    cases = [
        (say(seen[0]), 1, 1, 1),
        (say(seen[0], seen[1]), 0.5, 1, 0),
        (say(seen[1], seen[0]), 0.5, 0, 1),
        (say([50.0, 100.0, 100.0, 200.0]), 1, 0, 0),
        (f"{THINK}I see none", 0, 0, 0),
    ]
    for completion, ours, reward, evaluated in cases:
        assert rewards.REWARDS["iou"](completion, e) == pytest.approx(ours)
        assert [ORIGINAL[k](completion, e) for k in ("vlmr1_iou", "vlmr1_rec")] == pytest.approx(
            [reward, evaluated]
        )
    assert ORIGINAL["vlmr1_iou_hard"](cases[0][0], e) == 1
    e = box_example(
        boxes((0, 0, 10, 10))
    )  # an overlap one pixel wide: none there, 1/19 of the union here
    assert (
        ORIGINAL["vlmr1_iou"](say([9, 0, 19, 10]), e)
        == 0
        < rewards.REWARDS["iou"](say([9, 0, 19, 10]), e)
    )
    assert (
        ORIGINAL["vlmr1_iou"](say([0, 0, 10, 20]), e)
        == rewards.REWARDS["iou"](say([0, 0, 10, 20]), e)
        == 0.5
    )
    assert (
        ORIGINAL["vlmr1_format_rec"](say(gold)) == 1
        and ORIGINAL["vlmr1_format_rec"](f"{THINK}<answer>[1, 2, 3, 4]</answer>") == 0
    )


FLOWERS = boxes((100, 100, 300, 152), (500, 500, 600, 557))
NEAR = [
    (100, 102, 300, 152),
    (500, 501, 600, 557),
]  # IoU 50/52 and 56/57; other y1, or math-verify pays them 1.0
JUNK = [(800, 801, 850, 850), (900, 901, 950, 950)]


def positions(*scored):
    return (
        "["
        + ", ".join(f"{{'Position': {list(box)}, 'Confidence': {c}}}" for box, c in scored)
        + "]"
    )


RFT = {  # answer: (ours iou, ours confidence, Visual-RFT's iou, Visual-RFT's confidence)
    "both .9": (positions((NEAR[0], 0.9), (NEAR[1], 0.9)), 0.972, 0.9, 0.972, 0.9),
    "both .5": (positions((NEAR[0], 0.5), (NEAR[1], 0.5)), 0.972, 0.5, 0.972, 0.5),
    "one .9": (positions((NEAR[0], 0.9)), 0.481, 0.45, 0.481, 0.9),
    "two and junk": (
        positions((NEAR[0], 0.9), (NEAR[1], 0.9), (JUNK[0], 0.9), (JUNK[1], 0.1)),
        0.486,
        0.6,
        0.486,
        0.7,
    ),
    "junk of confidence 0": (positions((JUNK[0], 0)), 0, 0, 0, 1.0),
    "confidence 1.5": (positions((NEAR[0], 1.5), (NEAR[1], 1.5)), 0.972, 1, 0.972, 1),
    "no confidence": (f"[{{'Position': {list(NEAR[0])}}}]", 0.481, 0, 0, 0),
    "the right y1 only": (positions(((800, 100, 850, 850), 0.3)), 0, 0, 1, 1),
    "several lines": (
        positions((NEAR[0], 0.9), (NEAR[1], 0.9)).replace("{", "\n{"),
        0.972,
        0.9,
        0,
        0,
    ),
}


@pytest.mark.parametrize(
    "answer, iou, confidence, their_iou, their_confidence", RFT.values(), ids=RFT
)
def test_visual_rft_detection(answer, iou, confidence, their_iou, their_confidence):
    e, completion = box_example(FLOWERS, "norm1000"), f"{THINK}<answer>{answer}</answer>"
    assert [
        ORIGINAL[k](completion, e) for k in ("visualrft_iou", "visualrft_confidence")
    ] == pytest.approx([their_iou, their_confidence], abs=5e-4)
    assert [
        rewards.REWARDS[k](completion, e) for k in ("accuracy_iou", "accuracy_confidence")
    ] == pytest.approx([iou, confidence], abs=5e-3)


def test_visual_rft_detection_without_an_answer():
    e, empty = box_example(FLOWERS, "norm1000"), box_example([], "norm1000")
    cut = f"{THINK}<answer>[{{'Position': {list(NEAR[0])}, 'Confidence': 0.9}}, {{'Posi"
    mentioned = "<think> I see 100 </think><answer>[]</answer>"  # the y1 of the first gold box
    for name in ("visualrft_iou", "visualrft_confidence"):
        assert ORIGINAL[name](cut, e) == 0
        assert ORIGINAL[name](mentioned, e) == 1
        assert ORIGINAL[name](f"{THINK}<answer>No Objects</answer>", empty) == 0
    for name in ("accuracy_iou", "accuracy_confidence"):
        assert (
            rewards.REWARDS[name](mentioned, e) == 0
            and rewards.REWARDS[name](f"{THINK}<answer>No Objects</answer>", empty) == 1
        )


SURE = "{'Position': [101, 201, 300, 400], 'Confidence': 0.9}"
FAR = "{'Position': [500, 601, 700, 800], 'Confidence': 0.2}"
RFT_TEXTS = [  # completion, Visual-RFT's iou and confidence for the gold [100, 200, 300, 400]
    (f"<answer>[{SURE}]</answer>", 0.990025, 0.9),
    (f"[{SURE}]", 0.990025, 0.9),
    (f"[{SURE}]</answer>", 0.990025, 0.9),
    # a tag that is not closed on its line stays in the text, which is then no JSON
    (f"<answer>[{SURE}]", 0, 0),
    (f"<answer>\n[{SURE}]\n</answer>", 0, 0),
    (f"<answer><answer>[{SURE}]</answer>", 0, 0),
    (f"<answer>[{SURE}, {{'Po", 0, 0),
    # cut inside a closed tag: closed after the last "},", or at the end
    (f"<answer>[{SURE[:-1]}</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}</answer>", 0, 0),
    (f"<answer>[{SURE}, {{'Posi</answer>", 0.990025, 0.9),
    (f"[{SURE[:-1]}", 0.990025, 0.9),
    (f"<answer>[{SURE}, {FAR[:-1]}</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}, {FAR}</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}] ok</answer>", 0, 0),
    # confidences: what is no number is a TypeError, but only after equal boxes have gone
    (f"<answer>[{SURE.replace('0.9', repr('0.9'))}]</answer>", 0, 0),
    (f"<answer>[{SURE}, {FAR.replace('0.2', repr('0.2'))}]</answer>", 0, 0),
    (f"<answer>[{SURE}, {SURE.replace('0.9', repr('x'))}]</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}, {{'Position': [101, 201, 300, 400]}}]</answer>", 0.990025, 0.9),
    (f"<answer>[{{'Position': [101, 201, 300, 400]}}, {SURE}]</answer>", 0, 0),
    (f"<answer>[{SURE.replace('0.9', 'null')}]</answer>", 0, 0),
    (f"<answer>[{SURE.replace('0.9', 'NaN')}]</answer>", 0.990025, 0),  # confidence is NaN there
    # positions of another length
    ("<answer>[{'Position': [101, 201, 300], 'Confidence': 0.9}]</answer>", 0, 0),
    ("<answer>[{'Position': [101, 201, 300, 400, 5], 'Confidence': 0.9}]</answer>", 0, 0),
    (f"<answer>[{SURE}, 3]</answer>", 0, 0),
    (f"<answer>[[{SURE}]]</answer>", 0.990025, 0.9),
    ("<answer>[]</answer>", 0, 0),
]


@pytest.mark.parametrize("completion, iou, confidence", RFT_TEXTS, ids=range(len(RFT_TEXTS)))
def test_visual_rft_reads_as_its_code(monkeypatch, completion, iou, confidence):
    monkeypatch.setattr(
        protocols, "verify", lambda *_: False
    )  # its first stage, which these texts do not reach
    e = box_example(boxes((100, 200, 300, 400)), "norm1000")
    assert [
        ORIGINAL[f"visualrft_{name}"](completion, e) for name in ("iou", "confidence")
    ] == pytest.approx([iou, confidence])


def test_visual_rft_with_nothing_to_find(monkeypatch):
    """A junk box still earns 1 - c there; an empty list, which is right, is an IndexError and 0."""
    monkeypatch.setattr(protocols, "verify", lambda *_: False)
    e = box_example([], "norm1000")
    for text, iou, confidence in (
        (f"<answer>[{SURE}]</answer>", 0, 0.1),
        (f"<answer>[{FAR}]</answer>", 0, 0.8),
        ("<answer>[]</answer>", 0, 0),
        ("<answer>No Objects</answer>", 0, 0),
    ):
        assert [
            ORIGINAL[f"visualrft_{name}"](text, e) for name in ("iou", "confidence")
        ] == pytest.approx([iou, confidence])


LISA = [  # answer, ours, Visual-RFT's: GIoU + 1
    ("(100,100),(200,200)", 2.0, 2.0),
    ("(100,100),(200,150)", 1.5, 1.5),
    ("(300,300),(400,400)", 0.222, 0.222),
    ("(200,200),(100,100)", 2.0, 2.0),
    ("(100,100),(200,200),(150,150),(250,250)", 1.0, 1.25),
    ("nothing", 0.0, 0.0),
]


@pytest.mark.parametrize("answer, ours, original", LISA, ids=[answer for answer, _, _ in LISA])
def test_lisa(answer, ours, original):
    """Swapped corners: 2.0 in both, but there because a negative width times a negative height passes, here because corners are put in order."""
    e = box_example(boxes((100, 100, 200, 200)), "norm1000")
    completion = f"{THINK}<answer>{answer}</answer>"
    assert ORIGINAL["visualrft_lisa"](completion, e) == pytest.approx(original, abs=5e-4)
    assert rewards.REWARDS["giou"](completion, e) == pytest.approx(ours, abs=5e-4)


def test_lisa_leaves_its_range_for_reversed_corners():
    """As its docstring says: GIoU + 1 of boxes whose corners are in order is in [0, 2]."""
    e = box_example(boxes((100, 100, 200, 200)), "norm1000")
    assert ORIGINAL["visualrft_lisa"](f"{THINK}<answer>(300,100),(150,200)</answer>", e) < 0
    assert (
        ORIGINAL["visualrft_lisa"](f"{THINK}<answer>({'9' * 400},100),(150,200)</answer>", e) == 0
    )  # OverflowError there


def test_lisa_far_apart():
    e, completion = (
        box_example(boxes((0, 0, 90, 90)), "norm1000"),
        f"{THINK}<answer>(900,900),(990,990)</answer>",
    )
    assert (
        ORIGINAL["visualrft_lisa"](completion, e)
        == pytest.approx(0.017, abs=5e-4)
        == pytest.approx(rewards.REWARDS["giou"](completion, e), abs=5e-4)
    )  # 2 / 121
    swapped = box_example(boxes((100, 100, 200, 200)), "norm1000")
    assert ORIGINAL["visualrft_lisa"](
        f"{THINK}<answer>(250,250),(150,150)</answer>", swapped
    ) > rewards.REWARDS["giou"](f"{THINK}<answer>(250,250),(150,150)</answer>", swapped)


@pytest.mark.parametrize(
    "said, gold, ours, original",
    [
        ("", "lily", 0, 1),
        ("A", "A320", 0, 1),
        ("rose or lily", "lily", 0, 1),
        ("737-800", "737-800", 1, 1),
        ("Boeing 737-800", "737-800", 1, 1),
        ("Water Lily", "water_lily", 1, 1),
        ("rose", "lily", 0, 0),
    ],
)
def test_classification(said, gold, ours, original):
    completion = f"{THINK}<answer>{said}</answer>"
    assert rewards.REWARDS["classification"](completion, example(gold)) == ours
    assert (
        ORIGINAL["visualrft_classification"](completion, example(gold))
        == ORIGINAL["visualrft_classification_eval"](completion, example(gold))
        == original
    )


def test_classification_goes_through_a_numeric_verifier_there():
    assert (
        ORIGINAL["visualrft_classification"](f"{THINK}<answer> 737-800 </answer>", example(" -63 "))
        == 1
    )  # by rule: a subtraction
    assert ORIGINAL["visualrft_classification_eval"]("lily", example("lily")) == 0  # no tag


@pytest.mark.parametrize(
    "completion, gold, original",
    [
        ("<answer>9</answer>", "2", 1.0),
        ("<answer>9</answer>", "336", 1.0),
        ("9", "2", 0.0),
        (f"{THINK}<answer>9</answer>", "27", 1.5),  # the gold cannot be read: anything is right
        (f"{THINK}<answer>$27$</answer>", "$27$", 0.5),
        (rf"{THINK}<answer>\boxed{{27}}</answer>", "$27$", 1.5),
        (rf"{THINK}<answer>\boxed{{28}}</answer>", "$27$", 0.5),
        (rf"{THINK} <answer>\boxed{{27}}</answer>", "$27$", 1.0),
    ],
)
def test_align_anything(completion, gold, original):
    assert ORIGINAL["align_math_verifier"](completion, example(gold)) == original
    assert rewards.REWARDS["accuracy"](completion, example(gold)) == ("27" in completion)


# ------------------------------------------------------------------------------------------ text is never run, and always ends

CODE = [
    "__import__('os').system('touch {0}')",
    " __import__('os').system('touch {0}') ",
    "$__import__('os').system('touch {0}')$",
    r"\boxed{{__import__('os').system('touch {0}')}}",
    "1/2+__import__('os').system('touch {0}')",
    "answer: 1+(lambda: open('{0}', 'w'))()",
    r"$\text{{__import__('os').system('touch {0}')}}$",
    r"\(open('{0}','w')\)",
    "1 + 1;import os;os.system('touch {0}')",
    "\\[ exec(\"open('{0}','w')\") \\]",
    "9 - (open('{0}', 'w'))",
    r"$\operatorname{{open}}('{0}', 'w')$",
    "＿＿import＿＿(ｏｓ).system(touch {0})",
    "1*\n__import__('os').system('touch {0}')",
]


def test_no_text_is_run_as_code(tmp_path):
    target = tmp_path / "run"
    for text in CODE:
        text = text.format(target)
        for first, second in ((text, "1"), ("1", text), (f"<answer> {text} </answer>", text)):
            try:
                protocols.verify(first, second)
                protocols._ask("latex", first, second)
                protocols._ask("strings", first, [second], [second])
            except TimeoutError:
                pass
    assert not target.exists()


def test_only_digits_and_operators_reach_eval():
    """sympy.parse_expr gets what math-verify's pattern calls `expr`: of random text made of what code needs, never a letter, quote, comma or bracket."""
    from math_verify import ExprExtractionConfig, parser

    patterns = [pattern for pattern, _ in parser.lazy_expr_regex(ExprExtractionConfig())]
    draw, reached = random.Random(2), 0
    pieces = list("0123456789.+-*/^() ×÷\n\t_'\"[]{}:;,=abcxyzλ٣½") + [
        "__import__('os')",
        "open",
        "answer is ",
        "answer: ",
        "final answer is ",
        " 1/2",
        "(1+2)",
        "$",
        "**",
        "\u2028",
    ]
    for _ in range(20000):
        text = "".join(draw.choices(pieces, k=draw.randint(3, 25)))
        for pattern in patterns:
            for found in pattern.finditer(text):
                expr = found.groupdict().get("expr")
                if expr:
                    reached += 1
                    assert re.fullmatch(r"[\d.\s+\-*/^()×÷]+", expr), (text, expr)
    assert reached > 500


def test_none_of_that_code_reaches_eval(monkeypatch, tmp_path):
    """The same from the other end: what parse_expr is called with, here in this process, for texts that are code."""
    from math_verify import parser

    seen, before = [], parser.parse_expr
    monkeypatch.setattr(
        parser,
        "parse_expr",
        lambda text, **options: [seen.append(text), before(text, **options)][1],
    )
    for text in CODE:
        text = text.format(tmp_path / "run")
        for said in (text, f"1 {text}", f"answer: 3*{text}", f"${text}$", f"7/2 {text}"):
            for kind, more in (("default", ()), ("latex", ()), ("strings", (["a"],))):
                protocols._compare(kind, said, ["1"] if more else "1", *more)
    assert (
        seen
        and all(re.fullmatch(r"[\d.\s+\-*/()×÷]+", text) for text in seen)
        and not (tmp_path / "run").exists()
    )


def test_the_workers_process_cannot_get_out(tmp_path):
    """The limits of the worker, in a process of their own: no program, no file, no socket; reading and importing still work."""
    code = f"""
import os, socket, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
import protocols
protocols._limit()
for attempt in (lambda: os.system('touch {tmp_path}/a'), lambda: subprocess.run(['touch', '{tmp_path}/b']), lambda: open('{tmp_path}/c', 'w'), lambda: os.open('{tmp_path}/d', os.O_CREAT | os.O_WRONLY),
                lambda: socket.create_connection(('127.0.0.1', 9)), lambda: os.mkdir('{tmp_path}/e'), lambda: os.remove(protocols.__file__), lambda: bytearray(1 << 40)):
    try:
        attempt()
    except (PermissionError, MemoryError):
        continue
    print('got out')
import wave
print(len(open(protocols.__file__).read()) > 1000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"], done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_what_takes_too_long_counts_as_wrong_and_is_counted(monkeypatch):
    monkeypatch.setattr(protocols._worker, "cpu_seconds", 2)
    records = [
        {"prediction": "<answer> 9**9**9**9 - 1 </answer>", "answer": "3"},
        {"prediction": "<answer> 3 </answer>", "answer": "3"},
    ]
    result, rows = score(records, "geoqa")
    assert (
        rows[0]["accuracy_original"] == 0
        and rows[0]["original_timeout"]
        and result["original_timeouts"] == 1
    )
    assert (
        rows[1]["accuracy_original"] == 1
        and result["accuracy"] == 0.5
        and result["disagreements"] == 0
    )


def test_ours_counts_what_it_cannot_decide():
    said = ["9^{9^{9}}", "$a^2$", "2√3+1.6", "3"]
    golds = [r"\sqrt{7}", "a^{2}", "(2√{3}+1.6)m", "3"]
    records = [
        {"prediction": f"<answer>{text}</answer>", "answer": gold}
        for text, gold in zip(said, golds)
    ]
    result, rows = score(records, "geoqa")
    assert [row["accuracy"] for row in rows] == [0, 1, 1, 1]
    assert [row["undecided"] for row in rows] == [True, False, False, False] and result[
        "undecided"
    ] == 1


def test_texts_that_break_things_are_scored_all_the_same(monkeypatch):
    """Each original ends on each, in its range or by TimeoutError. (The fuzz test of the rewards is in test_rewards.py; the originals never train.)"""
    monkeypatch.setattr(protocols._worker, "cpu_seconds", 2)
    nasty = [
        "",
        "\x00",
        "\ud800",
        "<answer>" * 3000,
        "</think><answer>" * 2000,
        "{" * 5000,
        "[" * 5000,
        "<answer>" + "[" * 3000 + "</answer>",
        "```json" + "[" * 3000 + "```",
        "<answer>" + "9" * 5000 + "</answer>",
        "<answer> " + "\\frac{" * 100 + " </answer>",
        "\u202e<answer>3</answer>",
        "Answer: " * 500,
        "[{" * 500 + "}]" * 500,
        "<think>" * 3000,
        "<answer>[{'Position': [1, 2], 'Confidence': 'x'}]</answer>",
        '<answer>```json [{"bbox_2d": [1, 2, "x", NaN], "label": 3}]```</answer>',
        "<answer>(0,0),(0,0)</answer>",
    ]
    e = example("3", ["3", "4"], boxes=boxes((1, 2, 3, 4)), size=[1000, 1000])
    for name, function in ORIGINAL.items():
        for text in nasty:
            try:
                value = function(text, e, *((10, 20) if name in protocols.NEEDS_TOKENS else ()))
            except TimeoutError:
                continue
            assert isinstance(value, float) and -1 <= value <= 2, (name, text[:30])


DIGITS = "9" * 100_000
BIG = "9" * 400  # an int that no float holds
HALF = "\ud800"  # half of a character
BOX_JSON = '```json\n[{"bbox_2d": [0, 0, %s, 9], "label": "a"}]\n```'
HOSTILE = [  # answers
    DIGITS,
    "-" + DIGITS,
    "0." + DIGITS,
    "1/" + DIGITS,
    DIGITS + "/" + DIGITS,
    "1e" + DIGITS,
    "1e999",
    "NaN",
    "Infinity",
    DIGITS + "%",
    BIG,
    "9" * 4301,
    "1," * 50_000,
    HALF,
    "5" + HALF,
    HALF * 1000,
    "\x00",
    "\u202e\u200b" * 30_000,
    "½" * 50_000,
    "٣" * 100_000,
    "\u2212" * 50_000,
    "[" * 50_000,
    "{" * 50_000,
    "(" * 50_000,
    "[{" * 30_000 + "}]",
    "[[" * 20_000 + "]]" * 20_000,
    "```json\n" + '{"a":' * 20_000 + "1" + "}" * 20_000 + "\n```",
    "[NaN, NaN, NaN, NaN]",
    "[1e999, 0, 1, 1]",
    f"[0, 0, {DIGITS}, 9]",
    f"({DIGITS},0),(1,1)",
    f"({BIG},0),(1,1)",
    "(1,2),(" * 20_000,
    BOX_JSON % DIGITS,
    BOX_JSON % BIG,
    BOX_JSON % "NaN",
    BOX_JSON % "1e999",
    BOX_JSON % "1e308",
    BOX_JSON % '"\\ud800"',
    "```json\n[null, 3, [], {}, true]\n```",
    "```json\n[" + '{"bbox_2d": [0, 0, 9, 9], "label": "a"},' * 2000 + "null]\n```",
    "```json" * 10_000,
    "```" * 30_000,
    "{[%s, 2, 3, 4]}" % DIGITS,
    "{[%s, 2, 3, 4]}" % BIG,
    "{" + "[1,2,3,4]" * 10_000 + "}",
    "[{'Position': [0, 0, %s, 9], 'Confidence': 1}]" % DIGITS,
    "[{'Position': [0, 0, %s, 9], 'Confidence': 1}]" % BIG,
    "[{'Position': [0, 0, 9, 9], 'Confidence': %s}]" % BIG,
    "[{'Position': [0, 0, 9, 9], 'Confidence': NaN}, {'Position': [0, 0, 9, 8], 'Confidence': Infinity}]",
    "[" + "{'Position': [0, 0, 9, 9], 'Confidence': 1}," * 2000 + "]",
    "yes " * 25_000,
    "A. " * 30_000,
    "A or B " * 15_000,
    "-" * 100_000,
    "$.,/:-" * 20_000,
    " is " * 25_000,
    " = 1" * 25_000,
    "1=" * 50_000,
    " 1:1" * 25_000,
    "\\frac{1}{2}" * 9_000,
    "\\frac{" * 15_000,
    "\\boxed{" * 14_000,
    " \n" * 50_000,
    "a b " * 25_000,
    "*" * 100_000,
    "\"'`" * 30_000,
    "1 000 " * 16_000,
    "3:00 PM " * 12_000,
]
UNFRAMED = [
    "",
    "<answer>" * 12_000,
    "<answer>\n" * 11_000 + "</answer>",
    "</think><answer>" * 6_000,
    "<think>" + "</think><answer>" * 6_000,
    "<answer></answer>" * 6_000,
    "<think>" * 14_000,
    "Answer:" * 14_000,
    "answer is " * 10_000,
    "Answer:" + " " * 99_000,
    "The table shows that " + "5" * 90_000,
    "<|im_end|>" * 10_000,
]


@pytest.fixture
def no_math(monkeypatch):
    """math-verify works in another process, which has its own limits and tests."""
    monkeypatch.setattr(protocols, "_ask", lambda *_: False)


def test_hostile_texts_are_scored_in_a_second(no_math):
    """By every original and by every rule of ours: a finite float, no exception, less than a second of CPU."""
    texts = [
        frame.replace("%", text)
        for text in HOSTILE
        for frame in (f"{THINK}<answer>%</answer>", "Answer: %")
    ] + UNFRAMED
    scorers = dict(ORIGINAL) | {
        f"ours, {name}": recipe["ours"] for name, recipe in protocols.PROTOCOLS.items()
    }
    golds = [
        example(
            "3",
            choices,
            boxes=boxes((1, 2, 3, 4), label="a"),
            size=[1000, 1000],
            box_format="pixels",
            unit="tokens",
        )
        for choices in (None, ["3", "a b"])
    ]
    for name, scorer in scorers.items():
        more = (10, 20) if name in protocols.NEEDS_TOKENS else ()
        for k, text in enumerate(texts):
            start = time.process_time()
            value = scorer(text, golds[k % 2], *more)
            assert time.process_time() - start < 1, (name, text[:40])
            assert isinstance(value, float) and math.isfinite(value), (name, text[:40], value)


HOSTILE_GOLDS = [
    DIGITS,
    "1/" + DIGITS,
    HALF,
    "NaN",
    "inf",
    float("nan"),
    10**400,
    10**5000,
    True,
    [],
    {},
    "\x00",
    "[" * 50_000,
    "\\boxed{" * 9_000,
    "<answer>" * 9_000,
    "none",
    ["a"] * 3,
    [10**400, 0, 1, 1],
    [0, 0, float("nan"), 1],
    [DIGITS, "0", "1", "1"],
    f"[0, 0, {DIGITS}, 9]",
    f"(0,0),({DIGITS},9)",
    {"bbox_2d": [0, 0, 10**400, 9]},
    {"Position": [0, 0, 1e308, 9]},
    {"bbox_2d": [0, 0, 9, 9], "label": HALF},
    {"bbox_2d": [0, 0, 9, 9], "label": 10**5000},
    datetime.date(2020, 1, 1),
    Decimal("5"),
    b"5",
    [b"5"] * 4,
]
HOSTILE_FIELDS = [
    {},
    {"size": [10**400, 9]},
    {"size": [1e308, 1e308], "resized": [1e-308, 1]},
    {"choices": [DIGITS, "3"]},
    {"choices": [10**5000, 3]},
    {"unit": DIGITS, "task": HALF},
    {"unit": 10**5000},
    {"category": HALF},
    {"width": 9, "height": 10**400},
    {
        "grade": 10**5000,
        "task": Decimal("1"),
        "split": datetime.date(2020, 1, 1),
        "type": b"x",
        "domain": HALF,
    },
    {"id": b"x", "question": 10**5000},
]


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_hostile_golds_are_scored_or_refused_in_a_sentence(no_math, protocol):
    for gold in HOSTILE_GOLDS:
        for fields in HOSTILE_FIELDS:
            for said in (
                "<answer>3</answer>",
                f"Answer: {DIGITS}",
                "<answer>[0, 0, 9, 9]</answer>",
                HALF,
            ):
                try:
                    pairs = protocols.to_examples(
                        [("saved.jsonl:3", {"prediction": said, "answer": gold, **fields})],
                        protocol,
                        "pixels",
                    )
                except ValueError as error:
                    message = str(error)
                    assert (
                        message.startswith("saved.jsonl:3: ")
                        and "\n" not in message
                        and len(message) < 400
                    ), message[:200]
                    assert "integer string conversion" not in message
                    continue
                result, rows = protocols.score(pairs, protocol)
                json.dumps(result, ensure_ascii=False).encode("utf-8")
                json.dumps(rows)


# ---------------------------------------------------------------------------------------------------------- the protocols


def test_every_protocol_is_asked_in_a_known_way():
    for name, recipe in protocols.PROTOCOLS.items():
        assert recipe["template"] in prompts.TEMPLATES and (
            recipe["original"] is None or recipe["original"] in ORIGINAL
        ), name
    assert {
        "superclevr",
        "geoqa",
        "cvbench",
        "rec",
        "lisa",
        "detection",
        "classification",
        "chartqa",
        "tabmwp",
        "m3cot",
    } == set(protocols.PROTOCOLS)


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
    assert protocols.answer_line(text) == read


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
        protocols.r3v_answer(text)
        for text in ("Answer: \n", "Answer:", " 5 ", "Answer:5 Answer: 6")
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
    assert protocols.tabmwp_normal(text) == normal


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
    assert protocols.promptpg_normal(text, unit) == normal


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


def test_how_predicted_boxes_are_read_if_nothing_says_so():
    """resized, if that size is known; pixels, in a `rec` record without sizes, as VLM-R1 did; thousandths. The result says which; a flag or the record decides."""
    vlm = {
        "prediction": '<think>x</think><answer>```json [{"bbox_2d": [10, 20, 110, 220], "label": "man"}]```</answer>',
        "answer": [10, 20, 110, 220],
    }
    resized = {
        "prediction": "<answer>[5, 10, 55, 110]</answer>",
        "answer": [10, 20, 110, 220],
        "size": [1000, 800],
        "resized": [500, 400],
    }
    for record, protocol, flag, box_format in (
        (vlm, "rec", None, "pixels"),
        (resized, "rec", None, "resized"),
        (resized, "lisa", None, "resized"),
        ({**vlm, "size": [1000, 1000]}, "rec", None, "norm1000"),
        (vlm, "lisa", "pixels", "pixels"),
    ):
        result, rows = score([record], protocol, flag)
        assert (result["accuracy"], result["box_format"], rows[0]["box_format"]) == (
            1,
            box_format,
            box_format,
        )
    for record, protocol, flag, words in (
        (vlm, "lisa", None, '"size": [width, height]'),
        (vlm, "rec", "norm1000", '"size"'),
        ({**vlm, "size": [9, 9]}, "rec", "resized", '"resized": [width, height]'),
    ):
        with pytest.raises(ValueError) as error:
            score([record], protocol, flag)
        assert (
            words in str(error.value)
            and "--box-format pixels" in str(error.value)
            and "meta" not in str(error.value)
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


def test_gold_boxes_in_every_notation():
    wanted = [[100.0, 50.0, 300.0, 250.0]]
    for gold in (
        [100, 50, 300, 250],
        [[100, 50, 300, 250]],
        ["100", "50", "300", "250"],
        "100,50,300,250",
        [{"bbox_2d": [100, 50, 300, 250], "label": "a"}],
        '[{"bbox_2d": [100, 50, 300, 250]}]',
        "[100, 50, 300, 250]",
        [300, 250, 100, 50],
    ):
        assert [
            box["bbox_2d"] for box in protocols.boxes_of_gold(gold, {"size": [2000, 500]})
        ] == wanted
    for gold in (
        "<answer>[{'Position': [50, 100, 150, 500], 'Confidence': 1}]</answer>",
        "(50,100),(150,500)",
        [{"Position": [50, 100, 150, 500]}],
    ):
        assert [box["bbox_2d"] for box in protocols.boxes_of_gold(gold, {"size": [2000, 500]})] == [
            pytest.approx(wanted[0])
        ]
    assert protocols.boxes_of_gold("none", {}) == protocols.boxes_of_gold([], {}) == []
    for gold in (
        "the man",
        7,
        [1, 2, 3],
        [[1, 2, 3]],
        [[1, 2, 3, "x"]],
        [float("nan"), 1, 2, 3],
        [True, 1, 2, 3],
        {"bbox_2d": None},
    ):
        with pytest.raises(ValueError):
            protocols.boxes_of_gold(gold, {"size": [10, 10]})


def test_records_under_other_names():
    logged = {
        "question": {"image_path": "a.png", "question": "How many?", "ground_truth": 4},
        "ground_truth": 4,
        "model_output": "<answer>4</answer>",
        "extracted_answer": 4,
    }  # R1-V's own log
    completion, e = protocols.to_example(logged, "superclevr")
    assert (completion, e.answer, e.question) == ("<answer>4</answer>", "4", "How many?")
    assert (
        protocols.to_example({"output": "x", "solution": "<answer> 3 </answer>"}, "geoqa")[1].answer
        == "3"
    )
    assert (
        score([{"prediction": "<answer>3</answer>", "answer": 3, "line": 7}], "geoqa")[1][0]["line"]
        == 7
    )
    assert (
        protocols.to_example({"response": "x", "gold": 0.5, "answer": "2"}, "geoqa")[1].answer
        == "2"
    )


# ------------------------------------------------------------------------------------------------- evaluate.py --predictions


def rescore(tmp_path, records, protocol, *more):
    path = tmp_path / "saved.jsonl"
    path.write_text(
        "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records),
        encoding="utf-8",
    )
    evaluate.main(
        evaluate.parse_args(
            [
                "--predictions",
                str(path),
                "--protocol",
                protocol,
                "--output-dir",
                str(tmp_path / "out"),
                *more,
            ]
        )
    )
    return json.loads((tmp_path / "out" / "result.json").read_text())


@pytest.mark.skipif(
    not GEOQA.is_file(), reason="the real records of ../shared/data are not on this machine"
)
def test_geoqa_from_end_to_end(tmp_path, capsys):
    """Its own golds as answers: in tags ours takes each as right, in LaTeX too; untagged text is a parse failure; a number in the thinking is none."""
    golds = [
        json.loads(line)["ground_truth"]
        for line in GEOQA.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ] + ["8√{3}", "240πcm^{2}", "9米"]
    latex = [
        gold.replace("√", "\\sqrt").replace("π", "\\pi ").replace("°", "^\\circ") for gold in golds
    ]
    records = [
        {
            "id": f"tag{i}",
            "prediction": f"<think>Say 12345.</think>\n<answer> {gold} </answer>",
            "answer": gold,
        }
        for i, gold in enumerate(golds)
    ]
    records += [
        {
            "id": f"latex{i}",
            "model_output": f"<think>Say 12345.</think><answer>${text}$</answer>",
            "ground_truth": gold,
        }
        for i, (text, gold) in enumerate(zip(latex, golds))
    ]
    records += [
        {"id": f"bare{i}", "prediction": f"The angle is {gold}.", "answer": gold}
        for i, gold in enumerate(golds)
    ]
    records += [
        {
            "id": f"thought{i}",
            "prediction": f"<think> It is {gold} , I think.</think><answer>12345</answer>",
            "answer": gold,
        }
        for i, gold in enumerate(golds)
    ]
    n = len(golds)
    result, out = rescore(tmp_path, records, "geoqa"), tmp_path / "out"
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    wrong = [
        (row["id"], row["answer"], row["extracted"]) for row in rows[: 2 * n] if not row["accuracy"]
    ]
    assert wrong == [] and not any(row["accuracy"] for row in rows[2 * n :])
    assert (
        result["n"] == 4 * n == len(rows)
        and result["parse_failures"] == n
        and result["accuracy"] == 0.5
        and result["accuracy_parsed"] == pytest.approx(2 / 3)
    )
    assert 0.5 < result["accuracy_original"] < 1 and result["original"] == "r1v_geoqa"
    differ = [json.loads(line) for line in (out / "disagreements.jsonl").read_text().splitlines()]
    assert (
        len(differ)
        == result["disagreements"]
        == sum(row["accuracy"] != row["accuracy_original"] for row in rows)
        > n
    )
    assert {"accuracy", "accuracy_original", "extracted", "answer", "prediction"} <= differ[
        0
    ].keys()
    said = capsys.readouterr().out
    assert (
        "accuracy, ours" in said
        and "accuracy, original" in said
        and said.count("gold '") == 3
        and (out / "args.json").is_file()
    )


def test_boxes_from_end_to_end(tmp_path):
    record = {
        "prediction": "<answer>[10, 10, 20, 20]</answer>",
        "answer": [10, 10, 20, 20],
        "category": "cat",
    }
    assert rescore(tmp_path, [record], "detection", "--box-format", "pixels")[
        "mAP"
    ] == pytest.approx(1)


@pytest.mark.parametrize(
    "records, protocol, words",
    [
        (
            [{"prediction": "x", "answer": "3"}, "{broken"],
            "geoqa",
            ["saved.jsonl:2:", "broken JSON"],
        ),
        ([{"answer": "3"}], "geoqa", ["saved.jsonl:1:", "no `prediction`"]),
        ([{"prediction": 3, "answer": "3"}], "geoqa", ["is int"]),
        ([{"prediction": "x"}], "geoqa", ["no `answer`"]),
        ([["x"]], "geoqa", ["expected an object"]),
        ([{"prediction": "x", "answer": " "}], "geoqa", ["empty"]),
        ([{"prediction": "x", "answer": True}], "geoqa", ["text or a number"]),
        ([{"prediction": "x", "answer": "four"}], "superclevr", ["not a count"]),
        (
            [{"prediction": "x", "answer": "the man", "size": [9, 9]}],
            "rec",
            ["boxes cannot be read"],
        ),
        ([{"prediction": "x", "answer": [1, 2, 3, 4]}], "lisa", ["size", "--box-format pixels"]),
        (
            [{"prediction": "x", "answer": [1, 2, 3, 4], "size": "big"}],
            "rec",
            ["`size`", "`width` and `height`"],
        ),
        (
            [{"prediction": "x", "answer": [1, 2, 3, 4], "width": 5}],
            "rec",
            ["`width` and `height`", "None"],
        ),
        (
            [{"prediction": "x", "answer": [1, 2, 3, 4], "size": [float("inf"), 9]}],
            "rec",
            ["`size`"],
        ),
        ([{"prediction": "x", "answer": [1, 2, True, 4]}], "rec", ["cannot be read", "write [x1"]),
        ([{"prediction": None, "answer": "3"}], "geoqa", ["`prediction` is null"]),
        ([{"prediction": "x", "answer": "3", "unit": ["a"]}], "tabmwp", ["`unit` must be text"]),
        (
            [
                {"prediction": "x", "answer": [1, 2, 3, 4], "size": [9, 9]},
                {"prediction": "x", "answer": [1, 2, 3, 4], "size": [9, 9], "category": "cat"},
            ],
            "detection",
            ["saved.jsonl:1:", "category"],
        ),
        (['{"results": [{"prediction": "x"}]}'], "geoqa", ["result 1", "no `answer`"]),
        ([{"prediction": "x", "answer": "C", "choices": ["a", "b"]}], "cvbench", ["choices"]),
        ([""], "geoqa", ["no record"]),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_work(tmp_path, records, protocol, words):
    with pytest.raises(UserError) as error:
        rescore(tmp_path, records, protocol)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("indent", [None, 2])
def test_a_log_of_r1v_is_read_as_it_is(tmp_path, indent):
    """One object with `results`, on one line or on many; each row has its number in the file."""
    log = json.dumps(
        {
            "accuracy": 0.5,
            "results": [
                {"question": "?", "ground_truth": 4, "model_output": f"<answer>{said}</answer>"}
                for said in (4, 5)
            ],
        },
        indent=indent,
    )
    assert rescore(tmp_path, [log], "superclevr")["accuracy"] == 0.5
    assert [row["line"] for row in read_lines(tmp_path / "out" / "predictions.jsonl")] == [
        1,
        2,
    ] and read_lines(tmp_path / "out" / "disagreements.jsonl") == []


def test_fields_that_are_numbers(tmp_path):
    assert (
        rescore(
            tmp_path,
            [
                {"prediction": "Answer: 5", "answer": 5, "unit": 3},
                "",
                {"prediction": "Answer: 6", "answer": 5},
            ],
            "tabmwp",
        )["accuracy"]
        == 0.5
    )
    assert [row["line"] for row in read_lines(tmp_path / "out" / "predictions.jsonl")] == [
        1,
        3,
    ]


def test_files_that_are_not_there_or_would_be_overwritten(tmp_path):
    line = [
        "--predictions",
        str(tmp_path / "none.jsonl"),
        "--protocol",
        "geoqa",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    with pytest.raises(UserError, match="none.jsonl cannot be read"):
        evaluate.main(evaluate.parse_args(line))
    with pytest.raises(UserError, match="cannot be read"):
        evaluate.main(evaluate.parse_args([line[0], "", *line[2:]]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.jsonl").write_text(
        json.dumps({"prediction": "<answer>3</answer>", "answer": "3"})
    )
    with pytest.raises(UserError, match="would be overwritten"):
        evaluate.main(
            evaluate.parse_args(
                [
                    "--predictions",
                    str(tmp_path / "out" / "predictions.jsonl"),
                    "--protocol",
                    "geoqa",
                    "--output-dir",
                    str(tmp_path / "out"),
                ]
            )
        )


@pytest.mark.parametrize(
    "line, words",
    [
        ("--predictions f --output-dir o", ["--protocol"]),
        ("--predictions f --protocol geoqa --model tiny --output-dir o", ["--model"]),
        ("--predictions=f --protocol geoqa --output-dir o --data count", ["--data"]),
        ("--predictions f --protocol geoqa --output-dir o --num_samples 4", ["--num-samples"]),
        ("--predictions f --protocol nonsense --output-dir o", ["nonsense", "geoqa"]),
        ("--protocol geoqa --output-dir o", ["--model"]),
        (
            "--predictions f --protocol geoqa --output-dir o --box-format pixels",
            ["--box-format", "no boxes"],
        ),
        ("--predictions f --protocol geoqa", ["--output-dir"]),
    ],
)
def test_flags_that_do_not_go_together(line, words, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.parse_args(line.split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and all(word in said for word in words), (
        said
    )


def test_rescoring_needs_no_model_code(tmp_path):
    """In a process of its own: neither transformers nor our model is imported."""
    (tmp_path / "p.jsonl").write_text(json.dumps({"prediction": "<answer>3</answer>", "answer": 3}))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import evaluate; evaluate.main(evaluate.parse_args('--predictions p.jsonl --protocol superclevr --output-dir out'.split())); print({{'transformers', 'model', 'peft'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stdout.rstrip().endswith("set()"), (
        done.stdout + done.stderr
    )


# ------------------------------------------------------------------------------------------------------ evaluate.py --protocol


def ask(monkeypatch, tmp_path, says, line):
    """evaluate.py with a model that says says(example, sample number or None): (result, rows of predictions.jsonl, templates asked with)."""

    asked = []

    def answer_all(policy, asker, examples, sampling, G=1, **_):
        asked.append(asker.template)
        greedy = sampling.temperature == 0
        texts = [says(e, None if greedy else k) for e in examples for k in range(G)]
        return texts, [len(text) for text in texts], None

    monkeypatch.setattr(modeling, "load_from_args", lambda *_, **__: (None, None))
    monkeypatch.setattr(modeling, "describe", lambda policy: "a parrot")
    monkeypatch.setattr(data.Asker, "check", lambda *_, **__: None)
    monkeypatch.setattr(rollout, "answer_all", answer_all)
    monkeypatch.setattr(plots, "plot_samples", lambda *_, **__: None)
    monkeypatch.setattr(plots, "plot_curve", lambda *_, **__: None)
    evaluate.main(
        evaluate.parse_args(["--model", "parrot", "--output-dir", str(tmp_path), *line.split()])
    )
    return (
        json.loads((tmp_path / "result.json").read_text()),
        read_lines(tmp_path / "predictions.jsonl"),
        set(asked),
    )


def test_a_protocol_asks_and_scores_as_the_original_does(monkeypatch, tmp_path, capsys):
    """Odd questions are answered in words that the original cannot read; of three samples two are right."""
    says = lambda e, k: (
        f"<think>7</think><answer>{(e.answer + ' objects' if int(e.id[-1]) % 2 else e.answer) if k != 1 else 99}</answer>"
    )
    result, rows, asked = ask(
        monkeypatch,
        tmp_path,
        says,
        "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr",
    )
    assert (
        asked == {"superclevr"}
        and result["accuracy"] == 1
        and result["accuracy_original"] == 0.5
        and result["disagreements"] == 3
    )
    assert (
        result["majority@3"] == 1
        and result["mean_sample_accuracy"] == pytest.approx(2 / 3)
        and all(row["right"] == [1, 0, 1] for row in rows)
    )
    assert (
        len(read_lines(tmp_path / "disagreements.jsonl")) == 3
        and "accuracy, original" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="holds the answers of an evaluation"):
        ask(
            monkeypatch,
            tmp_path,
            says,
            "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr",
        )
    (tmp_path / "predictions.jsonl").unlink()  # as the sentence says
    again, rows_again, asked = ask(
        monkeypatch,
        tmp_path,
        says,
        "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr --prompt-template direct",
    )
    assert asked == {"direct"} and again["accuracy"] == 1
    line = "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr --prompt-template direct --resume-from-checkpoint"
    assert ask(monkeypatch, tmp_path, None, line) == (again, rows_again, set()), (
        "all answered already: nothing is asked, the figures are the same"
    )
    with pytest.raises(UserError, match="another evaluation"):
        ask(monkeypatch, tmp_path, None, line.replace("superclevr", "geoqa"))


def test_a_protocol_on_data_that_it_does_not_suit(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--protocol rec"):
        ask(
            monkeypatch,
            tmp_path,
            lambda e, k: "",
            "--data count:test --max-eval-samples 2 --protocol rec",
        )


def test_it_is_said_when_questions_are_left_out(monkeypatch, tmp_path, capsys):
    """The default of 512 would cut GEOQA's 754 and CV-Bench's 2,638 without a word."""
    four = data.head(tasks.read("count:test"), 4)
    monkeypatch.setattr(tasks, "read", lambda *_, **__: four)
    for most, said in ((3, True), (4, False)):
        ask(
            monkeypatch,
            tmp_path / str(most),
            lambda e, k: "",
            f"--data count:test --max-eval-samples {most} --protocol superclevr",
        )
        assert (
            "asking the first 3 of 4 questions; --max-eval-samples 4" in capsys.readouterr().out
        ) == said


def test_a_protocol_for_boxes(monkeypatch, tmp_path):
    says = lambda e, k: (
        "<answer>"
        + json.dumps(
            [
                {
                    "bbox_2d": [
                        round(v) for v in from_pixels(box["bbox_2d"], "norm1000", e.meta["size"])
                    ],
                    "label": box["label"],
                }
                for box in e.meta["boxes"]
            ]
        )
        + "</answer>"
    )
    result, rows, asked = ask(
        monkeypatch, tmp_path, says, "--data ground:test --max-eval-samples 5 --protocol lisa"
    )
    assert (
        asked == {"lisa"}
        and result["accuracy"] == 1
        and result["mean_iou"] > 0.9
        and len(rows) == 5
        and "iou" in rows[0]
    )


def test_without_a_protocol_nothing_has_changed(monkeypatch, tmp_path):
    result, rows, asked = ask(
        monkeypatch,
        tmp_path,
        lambda e, k: f"<think>x</think><answer>{e.answer}</answer>",
        "--data count:test --max-eval-samples 3",
    )
    assert (
        asked == {"r1v"}
        and result["accuracy"] == result["format_rate"] == 1
        and "accuracy_original" not in result
        and not (tmp_path / "disagreements.jsonl").exists()
    )
    assert {
        "id",
        "question",
        "answer",
        "choices",
        "prediction",
        "tokens",
        "accuracy",
        "samples",
        "right",
    } <= rows[0].keys()
