"""Run: python -m pytest -q tests/test_originals.py        (about 15 s on CPU; no network)

Two columns everywhere: ours (rewards.REWARDS), and what the original computes (originals.py). The
original's numbers are those measured on the projects' own functions. Where only a rule is known
and no number, the case says "by rule".
"""

import json
import random
import re

import originals
import pytest
from originals import ORIGINALS as ORIGINAL
from scored import THINK, box_example, boxes, example

import rewards
from grading import mathverify, tags
from tasks import cvbench

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
        assert [tags.first_answer(text), tags.first_answer(text, dotall=False)] == [
            m and m[1] for m in found
        ]
        stripped = re.search(r"<answer>\s*(.*?)\s*</answer>", text)
        assert cvbench.first_line_answer(text) == (stripped and stripped[1])
        assert (
            tags.last_answer(text)
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
    assert originals.extract_choice(text) == letter


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

    assert originals.indel_ratio("7 or 3", "7") == pytest.approx(2 / 7) and originals.indel_ratio(
        "√3", r"\sqrt{3}"
    ) == pytest.approx(0.2)
    draw = random.Random(1)
    for _ in range(300):
        a, b = ("".join(draw.choices("aé😀\ud800", k=draw.randint(0, 9))) for _ in range(2))
        # Equal to the last bit: a published score must not change with a library.
        assert originals.indel_ratio(a, b) == slow(a, b) == originals.indel_ratio(b, a)


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
        mathverify, "verify", lambda *_: False
    )  # its first stage, which these texts do not reach
    e = box_example(boxes((100, 200, 300, 400)), "norm1000")
    assert [
        ORIGINAL[f"visualrft_{name}"](completion, e) for name in ("iou", "confidence")
    ] == pytest.approx([iou, confidence])


def test_visual_rft_with_nothing_to_find(monkeypatch):
    """A junk box still earns 1 - c there; an empty list, which is right, is an IndexError and 0."""
    monkeypatch.setattr(mathverify, "verify", lambda *_: False)
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


def test_texts_that_break_things_are_scored_all_the_same(monkeypatch):
    """Each original ends on each, in its range or by TimeoutError. (The fuzz test of the rewards is in test_rewards.py; the originals never train.)"""
    monkeypatch.setattr(mathverify.worker, "cpu_seconds", 2)
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
                value = function(text, e, *((10, 20) if name in originals.NEEDS_TOKENS else ()))
            except TimeoutError:
                continue
            assert isinstance(value, float) and -1 <= value <= 2, (name, text[:30])
