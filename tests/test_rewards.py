"""Tests of rewards.py.    python -m pytest tests/test_rewards.py    (CPU, 20 s)

Golden vectors were measured on R1-V. The rules named beside them:
D1   only the last well-formed answer body is scored
D2   units, symbols and gold are normalised, gold comes first
D4   empty or ambiguous never scores, letters in their usual dress do
D5   yes and no by word
D11  each tag exactly once
"""

import copy
import itertools
import json
import math
import os
import random
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from grading import class_names, metrics
from grading.answers import forget, match_answer, normalize_answer
from grading.boxes import (
    BOX_FORMATS,
    average_precision,
    from_pixels,
    giou,
    iou,
    match_boxes,
    mean_average_precision,
    parse_boxes,
    to_pixels,
)
from recipes import fuzz_rewards
from recipes.fuzz_rewards import in_range

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def example(answer, choices=None):
    return SimpleNamespace(answer=answer, choices=choices)


# --- golden vectors ---

FORMAT = [  # completion, ours, R1-V's number (documentation), rule
    ("<think>a</think><answer>b</answer>", 1, 1, "D11"),
    ("<think>a</think>\n<answer>b</answer>", 1, 1, "D11"),
    ("<think>a\nb</think>\n\n<answer>b</answer>", 1, 1, "D11 DOTALL"),
    ("<think>a</think><answer>b</answer>\n", 1, 0, "D11 surrounding whitespace is free"),
    (" <think>a</think><answer>b</answer>", 1, 0, "D11 surrounding whitespace is free"),
    ("<think>a</think><answer>b</answer> extra", 0, 0, "D11"),
    ("<think>a</think><think>c</think><answer>b</answer>", 0, 1, "D11 exactly one"),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 0, 1, "D11 exactly one"),
    ("<think>a</think> so <answer>b</answer>", 0, 0, "D11"),
    ("<think></think><answer></answer>", 0, 1, "D4, D11 non-empty"),
    ("<think> </think><answer>b</answer>", 0, 1, "D11 non-empty"),
    ("<think>a</think><answer>\n</answer>", 0, 1, "D4 non-empty"),
    ("<answer>b</answer>", 0, 0, "D11"),
    ("<think>a<answer>b</answer></think><answer>c</answer>", 0, 1, "D11 exactly one"),
    ("<answer>b</answer><think>a</think>", 0, 0, "D11 order"),
    ("<think>a<answer>b</think></answer>", 0, 0, "D11 order"),
    ("</think>a<think><answer>b</answer>", 0, 0, "D11 order"),
    ("", 0, 0, "D11"),
]  # fmt: skip


@pytest.mark.parametrize("completion, ours, r1v, rule", FORMAT)
def test_format_golden(completion, ours, r1v, rule):
    assert rewards.format(completion, example("b")) == ours, rule


BOX = "<answer>[1, 2, 3, 4]</answer>"
JSON_BOX = '<answer>```json\n{"bbox_2d": [1.5, 2, 3, 4]}\n```</answer>'
CAPTION = "<caption>a</caption>"
FORMAT_NAMES = (
    "format format_lenient format_rec format_multi_think format_caption tag_count".split()
)
FORMATS = [  # completion, and the scores of FORMAT_NAMES
    ("<think>a</think><answer>b</answer>", 1, 1, 0, 1, 0, 1.0),
    # lenient: 0 in open-r1-multimodal, which has no DOTALL
    ("<think>a\nb</think>\n\n<answer>b</answer>", 1, 1, 0, 1, 0, 1.0),
    ("<think>a</think><answer>b</answer> extra", 0, 1, 0, 0, 0, 1.0),
    # lenient: 0 in the original, even for a space
    ("So: <think>a</think><answer>b</answer>", 0, 1, 0, 0, 0, 1.0),
    ("<think>a</think> so <answer>b</answer>", 0, 0, 0, 0, 0, 1.0),
    # these four: 1 for strict and lenient in the originals
    ("<think>a</think><think>c</think>\n<answer>b</answer>", 0, 0, 0, 1, 0, 0.5),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 0, 0, 0, 0, 0, 0.5),
    ("<think>a<answer>b</answer></think><answer>c</answer>", 0, 0, 0, 0, 0, 0.5),
    ("<think></think><answer></answer>", 0, 0, 0, 0, 0, 1.0),
    ("<think>a</think><think></think><answer>b</answer>", 0, 0, 0, 0, 0, 0.5),
    ("<answer>b</answer>", 0, 0, 0, 0, 0, 0.5),
    ("<think>a</think><think>a</think>", 0, 0, 0, 0, 0, 0.0),
    # R1-Onevision's data: thinking, then steps outside of it; no thinking; no answer tag
    ("<think>a</think>the steps<answer>so 3</answer>", 0, 0, 0, 0, 0, 1.0),
    ("the steps <answer>b</answer>", 0, 0, 0, 0, 0, 0.5),
    ("<think>a</think>b", 0, 0, 0, 0, 0, 0.5),
    (CAPTION + "<think>a</think><answer>b</answer>", 0, 1, 0, 0, 1, 1.0),
    (CAPTION + "\n<think>a</think>\n<answer>b</answer>\n", 0, 1, 0, 0, 1, 1.0),
    (f"<think>a</think>{CAPTION}<answer>b</answer>", 0, 0, 0, 0, 0, 1.0),
    ("<caption></caption><think>a</think><answer>b</answer>", 0, 1, 0, 0, 0, 1.0),
    # rec: 0 in VLM-R1 without braces, and for a decimal
    ("<think>a</think>" + BOX, 1, 1, 1, 1, 0, 1.0),
    ("<think>a</think>" + JSON_BOX, 1, 1, 1, 1, 0, 1.0),
    ("<think>a</think><answer>(1,2),(3,4)</answer>", 1, 1, 1, 1, 0, 1.0),
    ("<think>a</think><answer>[1, 2, 3]</answer>", 1, 1, 0, 1, 0, 1.0),
    # rec: an answer where there is nothing to find; 0 in VLM-R1
    ("<think>a</think><answer>none</answer>", 1, 1, 1, 1, 0, 1.0),
    # rec: 1 in VLM-R1
    ("<think>a</think><answer>{x</answer>{[1, 2, 3, 4]}</answer>", 0, 0, 0, 0, 0, 0.75),
    ("", 0, 0, 0, 0, 0, 0.0),
]


@pytest.mark.parametrize("row", FORMATS)
def test_other_formats_golden(row):
    scores = [rewards.REWARDS[name](row[0], example("b")) for name in FORMAT_NAMES]
    assert scores == list(row[1:])


THINK = "<think>a</think>"
ACCURACY = [  # completion, gold, ours, R1-V's number (None: not measured), rule
    (THINK + "<answer>3</answer>", " 3 ", 1, 1, "D2"),
    ("3", " 3 ", 0, 1, "D1 no tag"),
    ("<think>I count 7</think><answer> seven</answer>", "7", 0, 1, "D1 the 7 is in the thinking"),
    (r"<think>\boxed{7}</think><answer>5</answer>", "7", 0, 1, "D1"),
    (THINK + "<answer>3.0</answer>", "3", 1, 0, "D2"),
    (THINK + "<answer>3 or 7</answer>", "7", 0, 1, "D4 ambiguous"),
    (THINK + "<answer>7 or 3</answer>", "7", 0, 0, "D4 ambiguous"),
    (THINK + "<answer>145</answer>", "145°", 1, 0, "D2 unit"),
    (THINK + "<answer>(A)</answer>", "A", 1, 0, "D4 letter"),
    (THINK + "<answer>A. cat</answer>", "A", 1, 0, "D4 letter"),
    (THINK + "<answer>\nA\n</answer>", "A", 1, 0, "D1 DOTALL"),
    (THINK + "<answer>yes</answer>", "Yes", 1, 0, "D5 case"),
    (THINK + "<answer>1/2</answer>", "0.5", 1, 0, "D2"),
    (THINK + r"<answer>$\frac{1}{2}$</answer>", "0.5", 1, 1, "D2"),
    (THINK + "<answer>√3</answer>", r"\sqrt{3}", 1, 0, "D2"),
    (THINK + "<answer>1,000</answer>", "1000", 1, 0, "D2"),
    (THINK + "<answer>70%</answer>", "70", 1, 0, "D2"),
    ("", "3", 0, 0, "D1"),
    (THINK + "<answer></answer>", "3", 0, 0, "D4 empty"),
    # section 1b
    ("<think>there are 4 cubes and 2 balls</think><answer>6</answer>", "2", 0, 1, "D1"),
    ("<think>there are 4 cubes and 2 balls</think><answer>6</answer>", "6", 1, 1, "D1"),
    ("<think>a</think><answer>5</answer> The final answer is $7$.", "7", 0, 1, "D1"),
    # the known hacks
    ("<answer>7</answer><think>now I think</think>", "7", 0, None, "answer before the thinking"),
    ("<think>so <answer>7</answer></think>", "7", 0, None, "answer inside the thinking"),
    ("<think>so <answer>7</answer>", "7", 0, None, "inside thinking that never ends"),
    ("<think>a</think><answer>7</answer><think>wait", "7", 0, None, "thinking reopened"),
    ("<think>a<answer>3</answer></think><answer>7</answer>", "7", 1, None, "D1 last wins"),
    ("<think>a<answer>7</answer></think><answer>3</answer>", "7", 0, None, "D1 last wins"),
    (THINK + "<answer>7</answer><answer>3</answer>", "7", 0, None, "D1 last wins"),
    (THINK + "<answer>7</answer><answer></answer>", "7", 0, None, "D4 the last is empty"),
    (THINK + "<answer>3</answer><answer>7", "3", 1, None, "D1 the last well-formed"),
    (THINK + "<answer>3</answer> 7</answer>", "3", 1, None, "D1 the last well-formed"),
    ("<answer>7</answer>", "7", 1, None, "direct answer without thinking"),
    ("the prompt opened it</think><answer>7</answer>", "7", 1, None, "<think> stood in the prompt"),
]  # fmt: skip


@pytest.mark.parametrize("completion, gold, ours, r1v, rule", ACCURACY)
def test_accuracy_golden(completion, gold, ours, r1v, rule):
    assert rewards.accuracy(completion, example(gold)) == ours, rule


BOX_REWARDS = sorted(n for n, reward in rewards.REWARDS.items() if reward.needs is rewards.BOXES)
ANIMALS, NUMBERS = ["cat", "dog", "black cat"], [r"2\sqrt{3}", "4", "0.5"]


# --- length ---


def test_length_is_gameable_and_bounded():
    """The known failure: repetition is paid in full."""
    assert rewards.length("any", example("3"), 3, 512) == pytest.approx(0.003)
    assert rewards.length("", example("3"), 0, 512) == 0.0
    assert rewards.length("so " * 5000, example("3"), 5000, 8192) == 1.0


@pytest.mark.parametrize(
    "completion, scores",
    [
        ("<answer>3</answer>", [1, 0.926777, 0.75, 0.5, 0.5, 0.5]),
        ("<answer>4</answer>", [0, -0.073223, -0.25, -0.5, -0.5, -0.5]),
    ],
)
def test_cosine_is_not_periodic(completion, scores):
    """VLM-R1 measured: 1.0, .9268, .75, .5, and then .75 and 1.0, right or wrong."""

    def score(tokens):
        return rewards.cosine(completion, example("3"), tokens, 1024)

    lengths = [0, 256, 512, 1024, 1536, 2048]
    assert [score(n) for n in lengths] == pytest.approx(scores, abs=1e-6)
    falling = [score(n) for n in range(0, 3000, 50)]
    assert falling == sorted(falling, reverse=True)


def test_soft_overlong_is_dapo_13():
    """L_max = 20,480 and L_cache = 4,096 as in the paper."""
    lengths = (0, 16384, 18432, 20480, 40960)
    scores = [rewards.soft_overlong("", example("3"), n, 20480) for n in lengths]
    assert scores == [0, 0, -0.5, -1, -1]


THREE_BOXES = ", ".join(
    f'{{"bbox_2d": [1, 2, 3, {y}], "label": "a"}}'
    for y in (4, 4, 5)  # one twice
)


@pytest.mark.parametrize(
    "completion, score",
    [
        ("", 0),
        ("one", 0),
        ("the cat and the dog", 0),
        ("one two three four five six seven", 0),
        ("a a a a a a a a", 1 / 3 - 1),  # VLM-R1's own number
        ("a a a a a", 1 / 4 - 1),
        ("a a a a a a", 1 / 5 - 1),
        ("a b a b a", 2 / 4 - 1),
        ("Wait WAIT wait " * 100, 1 / 295 - 1),
        ("a b c d e f g " * 2, 7 / 9 - 1),
        ("x" * 8000, 1 / 995 - 1),  # one word without end
        (f"<answer>[{THREE_BOXES}]</answer>", 2 / 3 - 1),
    ],
)
def test_repetition_golden(completion, score):
    assert rewards.repetition(completion) == pytest.approx(score)


@pytest.mark.parametrize(
    "text, score",
    [
        ("", 0),
        ("a", 0),
        ("a b c d", 0),
        ("a b c a b c", -1 / 4),  # four 3-grams, three of them distinct
        ("a " * 10, -7 / 8),
        ("a b a b", 0),
        ("x" * 800, 1 / 98 - 1),  # a word without end, in pieces of eight
    ],
)
def test_repetition_penalty_closed_forms(text, score):
    """Up to three words are measured in 2-grams."""
    assert rewards.repetition_penalty(text) == pytest.approx(score)


def test_repetition_in_the_thinking_is_not_hidden_by_boxes():
    """VLM-R1 looks at the boxes alone if there are any."""
    boxes = '<answer>```json [{"bbox_2d": [1, 2, 3, 4], "label": "a"}] ```</answer>'
    assert rewards.repetition(f"<think>{'so it is ' * 200}</think>{boxes}") < -0.9
    thinking = "<think>It is left of the tree, near the middle.</think>"
    assert rewards.repetition(f"{thinking}<answer>[1, 2, 3, 4]</answer>") == 0


# --- classes, letters, yes and no ---


@pytest.mark.parametrize(
    "answer, gold, score",
    [
        ("737-800", "737-800", 1), ("737_800", "737-800", 1), ("Boeing 737-800", "737-800", 1),
        ("golden retriever", "Golden_Retriever", 1), ("Golden-Retriever.", "golden retriever", 1),
        ("a photo of a lily", "lily", 1),
        ("This is an image of a Golden Retriever", "golden_retriever", 1), ("", "lily", 0),
        ("A", "A320", 0), ("A320", "A", 0), ("A320-200", "A320", 0), ("Airbus A320", "A320", 1),
        ("rose or lily", "lily", 0), ("lily rose", "lily", 0), ("lily, rose", "lily", 0),
        ("rose\nlily", "lily", 0), ("not a lily", "lily", 0), ("water lily", "lily", 0),
        ("lilypad", "lily", 0), ("lil", "lily", 0), ("A320 737-800", "737-800", 0),
        ("A320 or 737-800", "737-800", 0), ("-63", "737-800", 0), ("737-800 A320", "737-800", 0),
        ("not Boeing 737-800", "737-800", 0), ("cat dog", "dog", 0), ("lily " * 100, "lily", 0),
        ("...", "...", 0), ("The aircraft is a 737-800", "737-800", 1),
        ("The aircraft is a Boeing 737-800", "737-800", 1), ("The flower is a lily", "lily", 1),
        ("a lily flower", "lily", 1), ("species name: lily", "lily", 1), ("lily!", "lily", 1),
        ("Airbus, A320", "A320", 1), ("never 737-800", "737-800", 0),
        ("unlike 737-800", "737-800", 0), ("maybe 737-800", "737-800", 0),
        ("A320, 737-800", "737-800", 0), ("the plant", "plant", 1), ("flower plant", "plant", 0),
        ("flower plant", "flower", 0), ("Lily (Lilium)", "lily", 0),
    ],
)  # fmt: skip
def test_classification(answer, gold, score):
    """Visual-RFT pays 'rose or lily' for both, 'A' for A320, the empty answer for everything."""
    completion = f"<think>{gold}</think><answer>{answer}</answer>"
    assert rewards.classification(completion, example(gold)) == score


DRESSED = [  # what stands around a class name, which is %s
    "%s", r"\boxed{%s}", r"$%s$", r"$\text{%s}$", r"\boxed{\text{%s}}", r"\(%s\)", r"\[ %s \]",
    r"$$%s$$", "(%s)", "[%s].", "{%s}", "**%s**", "**%s**.", "*%s*", "`%s`", '"%s"', "'%s'", "“%s”",
    r"\textbf{%s}", r"\mathrm{%s}", r"**\boxed{%s}**", "((%s))", "(%s", "This is a **%s**.",
    r"The answer is \boxed{%s}.", 'It is a "%s"', "It’s a (%s)", r"\emph{%s}",
]  # fmt: skip
DRESSED_CLASSES = [
    "SR-20", "Honda Odyssey Minivan 2007", "great masterwort", "water_lily", "A320", "A320-200",
    "lily",
]  # fmt: skip


def paid_golds(answer, classes):
    """List the classes that an answer is paid for."""
    completion = f"<answer>{answer}</answer>"
    return [gold for gold in classes if rewards.classification(completion, example(gold))]


@pytest.mark.parametrize("form", DRESSED)
def test_a_dressed_class_is_the_class(form):
    for name in DRESSED_CLASSES:
        assert paid_golds(form.replace("%s", name), DRESSED_CLASSES) == [name]


@pytest.mark.parametrize(
    "answer, gold, score",
    [
        (r"\boxed{lily} or \boxed{rose}", "lily", 0),
        ("**lily** or **rose**", "lily", 0),
        ("$lily$ and $rose$", "rose", 0),
        ("(lily) (rose)", "lily", 0),
        ("{lily, rose}", "lily", 0),
        (r"\boxed{A320}-200", "A320", 0),
        ("A320$-200$", "A320", 0),
        (r"water \textbf{lily}", "lily", 0),
        (r"water\_lily", "water lily", 1),
        (r"water\ lily", "water_lily", 1),
        (r"\boxed{}", "lily", 0),
        ("$$", "lily", 0),
        ("()", "lily", 0),
        ("(not) 737-800", "737-800", 0),
        ("isn't 737-800", "737-800", 0),
        ("isn’t 737-800", "737-800", 0),
        ("Boeing (737-800)", "737-800", 1),
        ("Lily (Lilium)", "lily", 0),
        ("(lily) not", "lily", 0),
        (r"\not{lily}", "lily", 0),
        ("(" * 99 + "lily" + ")" * 99, "lily", 0),
    ],
)
def test_what_dressing_is_not(answer, gold, score):
    assert rewards.classification(f"<answer>{answer}</answer>", example(gold)) == score


def test_no_answer_is_paid_for_two_classes():
    classes = [
        "737-800", "737-700", "A320", "A320-200", "Spitfire", "lily", "water lily", "rose",
        "golden retriever", "cat", *sorted(class_names.ASKED_ABOUT)[::2],
    ]  # fmt: skip
    joints = (" ", ", ", " or ", "-", "_", "\n", ": ")
    pairs = itertools.product(classes, joints, classes)
    for answer in [f"{a}{joint}{b}" for a, joint, b in pairs] + classes:
        assert len(paid_golds(answer, classes)) <= 1, answer


LETTERS = [  # answer, gold, choices, score
    ("A", "A", None, 1), ("(A)", "A", None, 1), ("A", "(A)", None, 1), ("[a].", "A", None, 1),
    ("A)", "A", None, 1), ("A. cat", "A", None, 1), ("I think A, but B.", "A", None, 0),
    ("A or B", "A", None, 0), ("I.", "A", None, 0), ("", "A", None, 0), ("B", "dog", ANIMALS, 1),
    ("dog", "B", ANIMALS, 1), ("A or B", "B", ANIMALS, 0), ("√12", "A", NUMBERS, 0),
    ("7", "7", None, 0),
]  # fmt: skip


@pytest.mark.parametrize("answer, gold, choices, score", LETTERS)
def test_mcq(answer, gold, choices, score):
    completion = f"<think>A</think><answer>{answer}</answer>"
    assert rewards.mcq(completion, example(gold, choices)) == score


@pytest.mark.parametrize(
    "answer, gold, score",
    [
        ("Yes", "yes", 1),
        ("No, it is not", "No", 1),
        ("I do not know", "no", 0),
        ("maybe", "perhaps", 0),
        ("yes and no", "yes", 0),
        ("", "no", 0),
        ("nobody", "no", 0),
    ],
)
def test_yes_no(answer, gold, score):
    """VLM-R1: 'I do not know' is no, and two texts with neither are equal."""
    assert rewards.yes_no(f"<answer>{answer}</answer>", example(gold)) == score


@pytest.mark.parametrize(
    "completion, gold, score",
    [
        ("<answer> Click the\n'OK' button. </answer>", "click the 'ok' button", 1),
        ("<answer>click</answer>", "click ok", 0),
        ("<answer>...</answer>", ".", 0),
        ("click", "click", 0),  # no tag; VLM-R1 takes the whole completion
    ],
)
def test_all_match(completion, gold, score):
    assert rewards.all_match(completion, example(gold)) == score


# --- boxes ---

A, B = (10, 20, 30, 40), (1, 2, 3, 4)
QWEN = "<|object_ref_start|>cat<|object_ref_end|>"
QWEN += "<|box_start|>(10,20),(30,40)<|box_end|><|box_start|>(1,2),(3,4)<|box_end|>"
PARSED = [  # text, and (box, label, score) of each box
    ("[10, 20, 30, 40]", (A, None, None)),
    ("The box is [10.5,20,\n30,40].", ((10.5, 20, 30, 40), None, None)),
    ("(10,20),(30,40)", (A, None, None)),
    ('{"bbox_2d": [10, 20, 30, 40], "label": "a cat"}', (A, "a cat", None)),
    ('{"label": "it\'s", "bbox_2d": [1, 2, 3, 4]}', (B, "it's", None)),
    (
        '```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "a cat"}, '
        '{"label": "it\'s", "bbox_2d": [1, 2, 3, 4]}]\n```',
        (A, "a cat", None),
        (B, "it's", None),
    ),
    (
        "[{'Position': [10, 20, 30, 40], 'Confidence': 0.9}, {'Position': [1, 2, 3, 4]}]",
        (A, None, 0.9),
        (B, None, None),
    ),
    ('[{"Position": [10, 20, 30, 40], "Confidence": 1.5}]', (A, None, 1.0)),
    ("[{'Position': [1, 2, 3, 4], 'Confidence': -2}]", (B, None, 0.0)),
    (QWEN, (A, "cat", None), (B, "cat", None)),
    ("[30, 40, 10, 20]", (A, None, None)),
    ("[[1, 2, 3, 4], [5, 5, 5, 9]]", (B, None, None)),  # the other has no area
    ('[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6', (B, "a", None)),
    (
        '{"bbox_2d": [1, 2, 3, 4], "label": "[9, 9, 99, 99] \\"b\\""}',
        (B, '[9, 9, 99, 99] "b"', None),
    ),
    ('{"bbox_2d": [1, 2, 3, 4], "label": "caf\\u00e9"}', (B, "café", None)),
    ("［１０，２０，３０，４０］", (A, None, None)),
    ("（10，20），（30，40）", (A, None, None)),
    ('{"bbox_2d"：[10，20.5，30，40]，"label"："猫"}', ((10, 20.5, 30, 40), "猫", None)),
    *[(nothing,) for nothing in ("[]", "［］", "none", "No Objects", "['No Objects']", "None.")],
    ("```json\n[]\n```",),
]


@pytest.mark.parametrize("text, boxes", [pytest.param(row[0], row[1:]) for row in PARSED])
def test_parse_boxes(text, boxes):
    assert [(b["bbox_2d"], b["label"], b["score"]) for b in parse_boxes(text)] == list(boxes)


UNREADABLE = [
    None, "", "on the left", "[1, 2, 3]", "[1, 2, 3, 4, 5]", "{}", "[0, 0, 0, 0]",
    "[nan, 1, 2, 3]", "[1e999, 1, 2, 3]", "[" + "9" * 400 + ",1,2,3]", "[1,2,3,4]" * 301,
    "none of these, but two", "[" * 90_000, "x" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: str(text)[:20])
def test_unreadable_boxes(text):
    """A box without area is not the statement that there is nothing."""
    assert parse_boxes(text) is None


def test_coordinates_are_explicit():
    box, size = (100.0, 50.0, 300.0, 200.0), [400, 200]
    assert from_pixels(box, "norm1000", size) == (250, 250, 750, 1000)
    assert from_pixels(box, "resized", size, [200, 100]) == (50, 25, 150, 100)
    for box_format in BOX_FORMATS:
        there = from_pixels(box, box_format, size, [196, 112])
        assert to_pixels(there, box_format, size, [196, 112]) == pytest.approx(box)
        written = boxed([box], box_format=box_format, size=size, resized=[196, 112])
        assert score("accuracy", f"[{', '.join(map(str, there))}]", written) == 1
    assert to_pixels(box, "pixels") == box


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("norm1000",), "size of the original"),
        (("resized", [400, 200]), "size the model saw"),
        (("qwen", [400, 200]), "norm1000, resized, pixels"),
    ],
)
def test_what_the_units_of_boxes_need(arguments, words):
    with pytest.raises(ValueError, match=words):
        to_pixels((100, 50, 300, 200), *arguments)


def boxed(boxes, labels=None, **meta):
    """An example with gold boxes in pixels; so are the policy's, unless meta says otherwise."""
    labels = labels or [None] * len(boxes)
    gold = [{"bbox_2d": list(box), "label": label} for box, label in zip(boxes, labels)]
    meta = {"box_format": "pixels", "boxes": gold, **meta}
    return SimpleNamespace(answer=json.dumps(gold), choices=None, meta=meta)


def score(name, answer, gold):
    return rewards.REWARDS[name](f"<think>I see 120.</think>\n<answer>\n{answer}\n</answer>", gold)


@pytest.mark.parametrize(
    "other, shared, generalised",
    [
        ((0, 0, 10, 10), 1, 1),
        ((5, 0, 15, 10), 1 / 3, 1 / 3),  # the union fills the enclosing box
        ((10, 0, 20, 10), 0, 0),
        ((30, 0, 40, 10), 0, 20 / 40 - 1),
        ((9, 0, 19, 10), 10 / 190, 10 / 190),  # one pixel wide: VLM-R1 says 0
    ],
)
def test_iou_and_giou_closed_forms(other, shared, generalised):
    box = (0.0, 0.0, 10.0, 10.0)
    assert iou(box, other) == pytest.approx(shared)
    assert giou(box, other) == pytest.approx(generalised)


def test_match_boxes_is_greedy_and_knows_labels():
    def b(*box, label=None, score=None):
        return {"bbox_2d": box, "label": label, "score": score}

    def pairs(predicted, gold, threshold, **options):
        return [match[:2] for match in match_boxes(predicted, gold, threshold, **options)]

    gold = [b(0, 0, 10, 10, label="Cat"), b(4, 0, 14, 10)]
    near = b(0, 0, 10, 11, label="cat", score=0.9)
    nearer = b(0, 0, 10, 10, label="c-a_t", score=0.1)
    dog = b(0, 0, 10, 10, label="dog")
    assert pairs([near, nearer], gold, 0.5) == [(1, 0)]  # the larger overlap first
    assert pairs([near, nearer], gold, 0.5, by_score=True) == [(0, 0)]  # the surer first
    assert pairs([near, nearer], gold, 0.3) == [(1, 0), (0, 1)]
    assert pairs([dog], gold, 0.4) == [(0, 1)]  # the gold without a label takes any
    assert pairs([dog], gold, 0.4, labels=False) == [(0, 0)]
    assert pairs([b(0, 0, 10, 10)], gold[:1], 0.5) == []  # no label is not the right one
    assert pairs([], gold, 0.5) == []
    assert pairs([b(0, 0, 10, 20)], [b(0, 0, 10, 10)], 0.5) == []  # exactly 0.5 is not over 0.5


ONE = boxed([(0, 0, 100, 100)])
TWO = boxed([(0, 0, 100, 100), (200, 200, 300, 300)])
PETS = boxed([(0, 0, 100, 100), (200, 200, 300, 300)], ["cat", "dog"])
NOTHING = boxed([])
ONE_CAT = boxed([(0, 0, 100, 100)], ["cat"])
CAT = '{"bbox_2d": [0, 0, 100, 100], "label": "cat"}'
DOG = '{"bbox_2d": [200, 200, 300, 300], "label": "dog"}'
JUNK = '{"bbox_2d": [400, 400, 500, 500], "label": "cat"}'
UNICORN = '{"bbox_2d": [0, 0, 100, 100], "label": "unicorn"}'
HALF = "[0, 0, 100, 50]"  # IoU exactly 0.5 with ONE
WHOLE = "[0, 0, 100, 100]"


def sure(confidence, *boxes):
    """Boxes as Visual-RFT writes them, all of one confidence (None: without)."""
    end = "" if confidence is None else f", 'Confidence': {confidence}"
    return ", ".join(f"{{'Position': {box}{end}}}" for box in boxes)


SECOND, JUNK_BOX = [200, 200, 300, 300], [400, 400, 500, 500]
BOTH_AND_JUNK = f"[{sure(0.9, WHOLE, SECOND, JUNK_BOX)}, {sure(0.1, [600, 0, 700, 9])}]"
BOX_GOLDEN = [  # reward, answer, gold, score, what the original says
    ("iou", WHOLE, ONE, 1, ""),
    ("iou", HALF, ONE, 0.5, ""),
    ("iou", "[0.0, 0.0, 100.0, 50.0]", ONE, 0.5, "0: integers only"),
    ("iou", f"{WHOLE}, {HALF}", ONE, 0.5, "1: the first"),
    ("iou", "[400, 400, 500, 500]", ONE, 0, ""),
    ("iou", "[100, 100, 0, 0]", ONE, 1, "swapped corners"),
    ("iou", WHOLE, TWO, 0.5, ""),
    ("iou", "on the left", ONE, 0, ""),
    ("iou", "", ONE, 0, ""),
    ("iou", "[]", ONE, 0, ""),
    ("iou", "[0, 0, 0, 0]", ONE, 0, ""),
    ("iou_hard", "[0, 0, 100, 51]", ONE, 1, ""),
    ("iou_hard", HALF, ONE, 0, ""),
    ("iou_hard", f"{WHOLE}, {WHOLE}", ONE, 0, "1: the first"),
    ("giou", "(0,0),(100,100)", ONE, 2, ""),
    ("giou", "(0,0),(100,50)", ONE, 1.5, "1.5"),
    ("giou", "(100,100),(0,0)", ONE, 2, "2.0 without an order of corners, by accident"),
    ("giou", "(300,0),(400,100)", ONE, 0.5, ""),
    ("giou", "(0,0),(100,100),(0,0),(100,100)", ONE, 1, "1.25: mixes two boxes"),
    ("giou", "(0,0)", ONE, 0, ""),
    ("giou", "[]", NOTHING, 2, "-"),
    ("accuracy_iou", f"[{sure(0.9, WHOLE, SECOND)}]", TWO, 1, "the same; 0 over two lines"),
    ("accuracy_iou", f"[{sure(0.9, [0, 0, 100, 80])}]", TWO, 0.4, "the same"),
    ("accuracy_iou", f"[{sure(0.9, HALF)}]", ONE, 0, "the same"),
    ("accuracy_iou", f"[{sure(None, WHOLE)}]", ONE, 1, "0: KeyError"),
    ("accuracy_iou", "[]", ONE, 0, "the same"),
    ("accuracy_iou", f"[{sure(1, WHOLE, WHOLE)}]", ONE, 0.5, "1: repeated boxes are dropped"),
    ("accuracy_confidence", f"[{sure(0.9, WHOLE, SECOND)}]", TWO, 0.9, "0.9"),
    ("accuracy_confidence", f"[{sure(0.5, WHOLE, SECOND)}]", TWO, 0.5, "0.5"),
    ("accuracy_confidence", f"[{sure(0.9, WHOLE)}]", TWO, 0.45, "0.9: a miss costs nothing"),
    ("accuracy_confidence", f"[{sure(0.0, JUNK_BOX)}]", ONE, 0, "1: the junk box"),
    ("accuracy_confidence", BOTH_AND_JUNK, TWO, 0.6, "0.7"),
    ("accuracy_confidence", f"[{sure(None, WHOLE)}]", ONE, 0, "0: KeyError"),
    ("accuracy_confidence", f"[{sure(1.5, WHOLE)}]", ONE, 1, "1"),
    ("weighted_sum", f"[{CAT}, {DOG}]", PETS, 1, "1"),
    ("weighted_sum", f"[{CAT}]", PETS, 0.575, "0.575"),
    ("weighted_sum", f"[{UNICORN}]", PETS, 0, "0.225: a wrong label completes"),
    ("weighted_sum", f"[{CAT}, {DOG}, {JUNK}, {UNICORN}]", PETS, 0.575, "0.925: junk is free"),
    ("weighted_sum", f"[[{CAT}, {DOG}], {JUNK}, {UNICORN}]", PETS, 0.575, "0.925"),
    ("weighted_sum", HALF, TWO, 0.4, "0.40"),
    ("weighted_sum", "none", NOTHING, 1, "1"),
    ("weighted_sum", "none", PETS, 0, "0"),
    ("od_ap", f"[{CAT}, {DOG}]", PETS, 1, "1"),
    ("od_ap", f"[{CAT}]", PETS, 0.5, "0.5"),
    ("od_ap", f"[{CAT}, {JUNK}]", ONE_CAT, 0.5, "1: junk after the hit is free"),
    ("od_ap", f"[[{CAT}, {DOG}], {UNICORN}]", PETS, 2 / 3, "1: unknown labels are dropped"),
    ("od_ap", "[0, 0, 100, 80]", ONE, 0.7, "7 of 10 thresholds"),
    ("od_ap", WHOLE, TWO, 51 / 101, "COCO's 101 points"),
    ("od_ap", "[]", NOTHING, 1, "1"),
    ("od_ap", "[1, 2, 3, 4]", NOTHING, 0, "0"),
    ("od_ap50", HALF, ONE, 1, "1: COCO's thresholds are inclusive"),
    ("od_ap50", f"[{CAT}, {DOG}]", PETS, 1, "1"),
    ("od_ap50", f"[{CAT}, {JUNK}]", ONE_CAT, 0.5, "1"),
    ("od_length", f"[{CAT}, {DOG}]", PETS, 1, "1"),
    ("od_length", f"[{CAT}, {JUNK}]", ONE_CAT, 0.25, "0.5"),
    ("accuracy", f"[{CAT}, {DOG}]", PETS, 1, ""),
    ("accuracy", f"[{CAT}]", PETS, 0, ""),
    ("accuracy", f"[[{CAT}, {DOG}], {JUNK}]", PETS, 0, ""),
    ("accuracy", f"[{UNICORN}]", ONE_CAT, 0, ""),
    ("accuracy", "[0, 0, 100, 51]", ONE, 1, ""),
    ("accuracy", HALF, ONE, 0, ""),
    ("accuracy", "No Objects", NOTHING, 1, ""),
    ("accuracy", "[1, 2, 3, 4]", NOTHING, 0, ""),
    ("accuracy", "I see", NOTHING, 0, ""),
]


@pytest.mark.parametrize("name, answer, gold, expected, original", BOX_GOLDEN)
def test_boxes_golden(name, answer, gold, expected, original):
    assert score(name, answer, gold) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", BOX_REWARDS)
def test_no_box_reward_reads_the_thinking(name):
    """Visual-RFT: math-verify reduces the gold to 120, which the thinking mentions: 1.0."""
    gold, reward = boxed([(110, 120, 210, 230)]), rewards.REWARDS[name]
    for answer in ("[]", "120", ""):
        assert score(name, answer, gold) == 0
    assert reward("<think>[110, 120, 210, 230]</think>", gold) == 0
    assert reward("<answer>[110, 120, 210, 230]</answer><think>so</think>", gold) == 0
    assert score(name, "[]", NOTHING) == max(reward.range)
    assert reward("<answer>No Objects</answer>", NOTHING) == max(reward.range)
    assert score(name, "[1, 2, 3, 4]", NOTHING) == 0 == score(name, "I see nothing.", NOTHING)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", [*BOX_REWARDS, "accuracy"])
def test_box_spam_never_pays(name, confidence):
    """Junk after right boxes never raises a reward.

    It lowers all but the confidence of junk that claims nothing.
    """
    right = sure(0.8, WHOLE)
    junk = [sure(confidence, [400 + i, 400, 500, 500]) for i in range(90)]
    scores = [score(name, f"[{', '.join([right, *junk[:n]])}]", ONE) for n in (0, 1, 10, 90)]
    assert scores == sorted(scores, reverse=True)
    assert scores[1] < scores[0] or (name, confidence) == ("accuracy_confidence", 0.0)
    assert score(name, f"[{', '.join([right] * 301)}]", ONE) == 0


@pytest.mark.parametrize("name", BOX_REWARDS)
def test_a_grid_laid_blindly_earns_next_to_nothing(name):
    """256 boxes of 400 x 400, one of them good by chance: 0.73 in VLM-R1's weighted_sum."""
    steps = range(0, 640, 40)
    grid = [f"[{x}, {y}, {x + 400}, {y + 400}]" for x in steps for y in steps]
    assert len(grid) == 256
    assert score(name, f"[{', '.join(grid)}]", boxed([[100, 100, 500, 500]])) < 0.16


@pytest.mark.parametrize(
    "text",
    [
        "score:" + " " * 90_000 + "x",
        "Confidence':" + " " * 90_000,
        "score:'" + " " * 90_000,
        "(1,2)" + " " * 90_000 + "x",
        ("score:" + " " * 2000) * 45,
        "[1," * 30_000,
        "label:" + " " * 90_000,
        "[" + " " * 90_000 + "1",
    ],
    ids=lambda t: f"{t[:6]}...",
)
def test_reading_boxes_takes_linear_time(text):
    """Two runs of \\s* side by side once made "score:" and 8,000 spaces take 10 s."""
    started = time.thread_time()
    parse_boxes(text)
    assert time.thread_time() - started < 0.5


@pytest.mark.parametrize("name", sorted(set(BOX_REWARDS) - {"accuracy_confidence"}))
def test_labels_say_nothing_where_the_gold_has_none(name):
    assert score(name, f"[{CAT}]", ONE) == max(rewards.REWARDS[name].range)


NEAR_BOX, OTHER_BOX, FAR_BOX = (0, 0, 10, 10), (20, 0, 30, 10), (90, 90, 99, 99)


@pytest.mark.parametrize(
    "found, gold, precision",
    [
        ([(0, NEAR_BOX, 1.0)], [(0, NEAR_BOX)], 1),
        ([(0, FAR_BOX, 0.9), (0, NEAR_BOX, 0.8)], [(0, NEAR_BOX)], 0.5),
        ([(0, NEAR_BOX, 0.9), (0, FAR_BOX, 0.8)], [(0, NEAR_BOX)], 1),  # less sure junk is free
        ([(0, NEAR_BOX, 0.9)], [(0, NEAR_BOX), (1, OTHER_BOX)], 51 / 101),
        ([(1, NEAR_BOX, 0.9)], [(0, NEAR_BOX)], 0),
        ([], [(0, NEAR_BOX)], 0),
        ([(0, NEAR_BOX, 1)], [], 0),
    ],
)
def test_average_precision_closed_form(found, gold, precision):
    assert average_precision(found, gold, 0.5) == pytest.approx(precision)


CAT_BOX = {"bbox_2d": NEAR_BOX, "label": "cat", "score": None}


@pytest.mark.parametrize(
    "images, expected",
    [
        ([([CAT_BOX], [CAT_BOX]), (None, [])], 1),
        ([([CAT_BOX, {**CAT_BOX, "label": "unicorn"}], [CAT_BOX])], 0.5),  # COCO drops that class
        ([([], []), ([], [])], 1),
        ([([], []), (None, [])], 0),
    ],
)
def test_mean_average_precision_closed_form(images, expected):
    assert mean_average_precision(images)["mAP"] == pytest.approx(expected)


def random_boxes(rng, n):
    sides = [[rng.randrange(60), rng.randrange(60)] for _ in range(n)]
    sides = [[x, y, x + rng.randrange(5, 40), y + rng.randrange(5, 40)] for x, y in sides]
    return [{"bbox_2d": tuple(box), "label": rng.choice(["a", "b"])} for box in sides]


def random_image(rng):
    """(predicted, gold): most golds found nearly, some boxes beside them, scores often equal."""
    gold = random_boxes(rng, rng.randrange(1, 6))
    near = []
    for box in gold:
        if rng.random() < 0.8:
            near.append({**box, "bbox_2d": tuple(v + rng.randrange(-2, 3) for v in box["bbox_2d"])})
    predicted = near + random_boxes(rng, rng.randrange(4))
    scores = [0.2, 0.5, 0.9]
    return [{**box, "score": rng.choice([*scores, rng.random()])} for box in predicted], gold


def coco_row(image, box):
    x, y, right, bottom = box["bbox_2d"]
    width, height = right - x, bottom - y
    row = {"image_id": image, "category_id": "ab".index(box["label"]) + 1}
    return row | {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_pycocotools(seed, capsys):
    """Random sets, with equal scores, several images and classes: the reference's number."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = random.Random(seed)
    images = [random_image(rng) for _ in range(8)]
    truth, found = [], []
    for i, (predicted, gold) in enumerate(images):
        truth += [coco_row(i, box) for box in gold]
        found += [coco_row(i, box) | {"score": box["score"]} for box in predicted]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [row | {"id": number} for number, row in enumerate(truth, 1)],
        "info": {},
    }
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = mean_average_precision(images)
    assert ours["mAP"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert ours["AP50"] == pytest.approx(evaluation.stats[1], abs=1e-9)
    assert 0.1 < ours["mAP"] < 0.9


# --- which examples a reward can score ---


@pytest.mark.parametrize("name", BOX_REWARDS)
def test_box_rewards_refuse_an_example_without_boxes(name):
    with pytest.raises(ValueError, match="boxes"):
        rewards.REWARDS[name]("<answer>[1, 2, 3, 4]</answer>", example("3"))


UNSUITED = [  # rewards, examples, the message
    (
        ["accuracy", "iou"],
        [ONE, example("x")],
        "reward iou needs examples with boxes .*; not so example 1 with the answer 'x'",
    ),
    (
        ["yes_no"],
        [example("7")],
        "yes_no needs answers that are yes or no; not so example 0 with the answer '7'",
    ),
    (["mcq"], [example("cat")], "mcq needs"),
    (["iuo"], [], "unknown reward 'iuo'; known are accuracy"),
]


@pytest.mark.parametrize("names, examples, words", UNSUITED)
def test_setup_errors_are_found_before_training(names, examples, words):
    with pytest.raises(ValueError, match=words):
        rewards.check_rewards(names, examples)


def test_what_suits_is_not_refused():
    rewards.check_rewards(["accuracy", "iou", "od_ap"], [ONE, NOTHING])
    rewards.check_rewards(["mcq", "yes_no"], [example("yes", ["yes", "no"])])


BAD_GOLDS = [  # answer, choices, meta, the message
    *[(answer, None, None, "gold answer") for answer in ("", " \n", None, 3)],
    ("E", ANIMALS, None, "choices"),
    ("[]", None, {"box_format": "pixels", "boxes": [{"bbox_2d": [5, 5, 5, 9]}]}, "x1 < x2"),
    ("[]", None, {"box_format": "pixels", "boxes": [[1, 2, 3, 4]]}, "gold box"),
    ("[]", None, {"box_format": "norm1000", "boxes": []}, "size"),
    ("[]", None, {"box_format": "resized", "boxes": [], "size": [1, 1]}, "model saw"),
]


@pytest.mark.parametrize("answer, choices, meta, words", BAD_GOLDS)
def test_check_gold(answer, choices, meta, words):
    with pytest.raises(ValueError, match=words):
        rewards.check_gold(answer, choices, meta)


@pytest.mark.parametrize(
    "answer, choices, meta",
    [("b", ANIMALS, None), ("dog", ANIMALS, None), ("3", None, None), (ONE.answer, None, ONE.meta)],
)
def test_a_good_gold(answer, choices, meta):
    rewards.check_gold(answer, choices, meta)


def test_an_empty_gold_is_never_scored():
    """Visual-RFT pays an empty answer where '' is in the gold."""
    with pytest.raises(ValueError, match="gold answer"):
        rewards.accuracy("<answer></answer>", example(""))


def test_summary_of_boxes():
    answers = ("[0, 0, 100, 100]", HALF, "left", "")
    texts = [f"<think>a</think><answer>{answer}</answer>" for answer in answers]
    result = rewards.summary(texts, [ONE] * 4)
    assert (result["accuracy"], result["accuracy_parsed"]) == (0.25, 0.5)
    assert result["iou"] == pytest.approx(1.5 / 4) and result["parse_failures"] == 2
    assert "iou" not in rewards.summary(["<answer>3</answer>"], [example("3")])


# --- combining ---


def test_parts_and_total():
    completions = ["<think>a</think><answer>3</answer>", "<answer>3</answer>", "no"]
    parts, failed = rewards.reward_parts(
        completions,
        [example("3")] * 3,
        ["accuracy", "format", "length"],
        tokens=[9, 6, 1],
        max_tokens=512,
    )
    assert parts["accuracy"] == [1, 1, 0] and parts["format"] == [1, 0, 0]
    assert failed == {"accuracy": 0, "format": 0, "length": 0}
    assert rewards.total(parts, [1.0, 0.5, 0.0]) == [1.5, 1.0, 0.0]
    assert rewards.total(parts) == pytest.approx([2.009, 1.006, 0.001])
    with pytest.raises(ValueError, match="2 reward weights for 3 rewards"):
        rewards.total(parts, [1.0, 1.0])
    with pytest.raises(ValueError, match="acuracy.*accuracy, accuracy_confidence"):
        rewards.reward_parts(completions, [example("3")] * 3, ["acuracy"])
    with pytest.raises(ValueError, match="3 completions but 1 examples"):
        rewards.reward_parts(completions, [example("3")], ["format"])


def test_rewards_about_length_need_the_tokens():
    for name in ("length", "cosine", "soft_overlong"):
        with pytest.raises(ValueError, match=f"{name} is about the number of tokens"):
            rewards.reward_parts(["a"], [example("3")], ["accuracy", name])
    with pytest.raises(ValueError, match="2 completions but 1 token counts"):
        rewards.reward_parts(["a", "b"], [example("3")] * 2, ["length"], tokens=[1], max_tokens=9)
    parts, _ = rewards.reward_parts(
        ["", ""], [example("3")] * 2, ["soft_overlong", "cosine"], tokens=[0, 100], max_tokens=100
    )
    assert parts == {"soft_overlong": [0, -1], "cosine": [0, -0.5]}


def test_exceptions_are_counted_not_swallowed(monkeypatch, caplog):
    def moody(completion, example):
        if completion == "bad":
            raise ZeroDivisionError
        return {"nan": math.nan, "inf": math.inf}.get(completion, 0.25)

    monkeypatch.setitem(rewards.REWARDS, "moody", rewards.Reward(moody))
    completions, examples = ["ok", "bad", "nan", "inf", "ok"], [example("3")] * 5
    parts, failed = rewards.reward_parts(completions, examples, ["moody", "format"])
    assert parts["moody"] == [0.25, 0.0, 0.0, 0.0, 0.25] and failed == {"moody": 3, "format": 0}
    assert "ZeroDivisionError" in caplog.text
    # a gold that cannot be scored against
    _, failed = rewards.reward_parts(["<answer>3</answer>"], [example(" ")], ["accuracy"])
    assert failed == {"accuracy": 1}


def test_inputs_are_not_changed():
    completions = ["<answer>b</answer>", "<answer>[9, 9, 1, 1]</answer>"]
    examples, names = [copy.deepcopy(PETS), copy.deepcopy(ONE)], list(rewards.REWARDS)
    before = copy.deepcopy((completions, examples, names))
    parts, failed = rewards.reward_parts(completions, examples, names, tokens=[3, 3], max_tokens=9)
    assert (completions, examples, names) == before and not any(failed.values())
    parts_before, weights = copy.deepcopy(parts), [1.0] * len(names)
    rewards.total(parts, weights)
    assert parts == parts_before and weights == [1.0] * len(names)


@pytest.mark.parametrize("name", sorted(rewards.REWARDS))
def test_every_reward_is_called_in_the_same_way(name):
    reward = rewards.REWARDS[name]
    example_ = ONE if reward.needs is rewards.BOXES else example("yes")
    assert in_range(name, reward("<answer>yes</answer>", example_, 5, 512))


def shown_range(allowed):
    """As docs/rewards.md writes it: "0, 1" for a set, "[0, 1]" for an interval."""
    text = ", ".join(f"{value:g}" for value in sorted(allowed))
    return text if isinstance(allowed, set) else f"[{text}]"


def test_names_ranges_and_docs():
    """docs/rewards.md has every reward with its range, and every test it names exists."""
    docs = Path(rewards.__file__).parent / "docs" / "rewards.md"
    text = docs.read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("| `")}
    for name, reward in rewards.REWARDS.items():
        row = rows[f"`{name}`"]
        assert row.split("|")[2].strip() == shown_range(reward.range)
        assert re.search(r"`test_\w+`", row), row
        assert reward.function.__name__ == name
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    for name in set(re.findall(r"`(test_\w+)`", text)):
        assert f"def {name}(" in "".join(tests), name


def test_scoring_a_step_is_quick():
    """64 prompts x 8 completions of 500 tokens take tens of milliseconds, a tenth of the limit."""
    rng = random.Random(0)
    words = "the left ball is red and near that cube so there are two more in front of it".split()
    texts = []
    for _ in range(512):
        thinking = " ".join(rng.choice(words) for _ in range(450))
        texts.append(f"<think>{thinking}</think><answer>{rng.randrange(9)}</answer>")
    start = time.thread_time()
    rewards.reward_parts(texts, [example("3")] * 512, ["accuracy", "format", "repetition"])
    assert time.thread_time() - start < 0.5


# --- any text, any thread, bounded time ---

BODIES = [
    "\0" * 150, "\ud800\udfff 3 \ud800", "\u202e3\u202c", "\u200b", "9**9**9**9", "9^9^9^9",
    "10^{10^{10}}", "9^{99999999}", "((9^{99})^{99})^{99}", "{{9^{999}}^{999}}^{999}",
    "\\frac{" * 1000, "\\frac{" * 25, "\\sqrt{" * 15 + "2" + "}" * 15, "(" * 19 + "x" + ")" * 19,
    "{" * 19 + "x" + "}" * 19, "\\frac{1}{" * 9 + "x" + "}" * 9, "x^{2}" * 9, "x+" * 90 + "1",
    "\\sin(\\cos(\\tan(x)))^9+\\sin x\\cos x\\tan x", "-" * 190, "[" * 200, "1" * 200, "1," * 100,
    "1,111" * 39, "1/" * 99 + "1", ("9" * 30 + "*") * 6 + "9", "x^{999}y^{999}z^{999}",
    "__import__('os').abort()", "exit()", "().__class__", "lambda: 0", "3!!!!", "999999!",
    "\\int_0^1 x dx", "\\sum_{x=1}^{999999} x", "\\lim", "\\left(" * 30, "\\boxed{" * 28, '"' * 200,
    "$" * 200, "*" * 200, "." * 200, "√" * 200, "π" * 200, "\ufdfa" * 200, "²" * 200,
    "\\text{" * 33, "A. " * 66, "a) " * 66, "a" * 200, " " * 150 + "A" + " " * 48, "yes " * 50,
    "\n" * 99, "x" * 200_000, "1" * 200_000, "A. " * 70_000, "\\text{" * 30_000, "=" * 100,
    "x=" * 99, "\\\\" * 99, "\\", "%" * 200, "°" * 200, "1e999999999", "0x7fffffff", "NaN", "1_000",
    "٣",
]  # fmt: skip
COMPLETIONS = ["<think>a</think><answer>" + body + "</answer>" for body in BODIES] + [
    "<answer>" * 20_000, "</answer>" * 20_000, "<answer></answer>" * 10_000, "<think>" * 20_000,
    "</think>" * 20_000, "<think></think>" * 20_000 + "<answer>3</answer>",
    "<answer>" * 10_000 + "3" + "</answer>" * 10_000, "<think>" + "<" * 300_000, "<answer" * 50_000,
    "a " * 200_000, " " * 500_000, "\ud800" * 100_000,
]  # fmt: skip
COMPLETIONS += ["<answer>" + body + "</answer>" for body in [
    "[1,2,3,4]," * 300, "[1,2,3,4]," * 9_000, "".join(f"[{i},0,{i + 9},9]," for i in range(300)),
    '{"label":"' * 9_000, '"label":"\\' * 9_000, "[1," * 30_000, "[ " * 40_000, "[" + " " * 90_000,
    "label: '" * 9_000, "<|object_ref_start|>" * 5_000, "{" * 90_000, "(1,2)" * 15_000,
    "Confidence:" * 8_000, "[1" + "1," * 40_000 + "]", "no objects " * 8_000, "-_ " * 30_000,
]] + ["a b c d e f g " * 9_000, "let me " * 20_000]  # fmt: skip


def slowest_and_wrong(completions=COMPLETIONS):
    """Score with every reward: (CPU seconds of the slowest call, what it was, wrong scores)."""
    forget()  # or a fork would only repeat what its parent has worked out
    slowest, wrong = (0.0, ""), []
    for completion in completions:
        # a number and algebra; one box and several
        for index in (0, 3) if len(completion) < 1_000 else (3,):
            for name, arguments in fuzz_rewards.calls(index, completion):
                start = time.thread_time()
                score = rewards.REWARDS[name](*arguments)
                what = f"{name} of {completion[:60]!r} against {arguments[1].answer!r}"
                slowest = max(slowest, (time.thread_time() - start, what))
                if not in_range(name, score):
                    wrong.append((name, completion[:60], score))
        metrics.reflections(completion)
    return *slowest, wrong


def test_adversarial_text():
    slowest, what, wrong = slowest_and_wrong()
    assert not wrong
    assert slowest < 0.3, what


def test_adversarial_text_in_threads():
    """mpmath's arithmetic is not safe between threads: each has its own."""
    results = []

    def work():
        results.append(rewards.accuracy(r"<answer>2\sqrt{5}</answer>", example(r"\sqrt{20}")))
        results.append(slowest_and_wrong(COMPLETIONS[:60:4]))

    threads = [threading.Thread(target=work) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 4
    for result in results:
        if isinstance(result, float):
            assert result == 1.0
        else:
            assert not result[2] and result[0] < 0.3, result[1]


@pytest.mark.parametrize(
    "body",
    [
        "open('{}','w')",
        "__import__('os').system('touch {}')",
        r"\operatorname{{open}}('{}','w')",
        "$open('{}','w')$",
    ],
)
def test_text_is_never_executed(body, tmp_path):
    """sympy.parse_expr is eval: math-verify's plain expressions reach it, ours do not."""
    path = tmp_path / "canary"
    rewards.accuracy(f"<answer>{body.format(path)}</answer>", example(r"\sqrt{3}"))
    assert not path.exists()


PIECES = st.sampled_from(
    [
        "<think>", "</think>", "<answer>", "</answer>", "3", "7", " or ", "A", "B", ")", "(", ".",
        ":", ",", "=", "x", "+", "^", "{", "}", "\\frac", "\\sqrt", "\\", "√", "π", "°", "%", "cm",
        "yes", "\n", "½", "1,000", "[1, 2, 3, 4]", '"label": "cat"',
    ]
)  # fmt: skip
CANARY = os.path.join(tempfile.gettempdir(), f"nanovlr-canary-{os.getpid()}")
TEXTS = st.one_of(
    st.text(alphabet=st.characters(), max_size=80),  # surrogates included
    st.lists(PIECES, max_size=20).map("".join),
    st.lists(PIECES, max_size=12).map(lambda pieces: "<answer>" + "".join(pieces) + "</answer>"),
    # what recipes/fuzz_rewards.py makes 100,000 of
    st.integers(0, 10**6).map(lambda index: fuzz_rewards.completion("test", index, CANARY)),
)


@settings(deadline=None, max_examples=250, derandomize=True, database=None)
@given(TEXTS, st.integers(0, 1000), TEXTS)
def test_any_text_scores_in_range(completion, index, other):
    other = other[:2000]
    for name, arguments in fuzz_rewards.calls(index, completion):
        assert in_range(name, rewards.REWARDS[name](*arguments)), name
    assert json.dumps(normalize_answer(other)) and isinstance(match_answer(other, completion), bool)
    if other.strip():
        assert match_answer(other, other)  # reflexive
    canonical = normalize_answer(other)  # idempotent, or votes would depend on who counts
    assert normalize_answer(canonical) == canonical
    assert metrics.reflections(completion) >= 0 and not os.path.exists(CANARY)


NEAR = st.tuples(
    st.integers(0, 60), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@settings(deadline=None, max_examples=150, derandomize=True, database=None)
@given(
    st.lists(NEAR, min_size=1, max_size=4),
    st.lists(st.tuples(NEAR, st.integers(0, 10)), max_size=5),
    st.integers(0, 10),
)
def test_a_junk_box_never_raises_a_reward(gold, predicted, confidence):
    """One more box far from every gold is worth nothing, or less, whatever was predicted.

    Not so for giou, whose slope from near to far is its purpose.
    """

    def write(boxes):
        return f"[{', '.join(sure(c / 10, list(box)) for box, c in boxes)}]"

    example_, far = boxed(gold), [((900, 900, 950, 950), confidence)]
    for name in [*(set(BOX_REWARDS) - {"giou"}), "accuracy"]:
        without = score(name, write(predicted), example_)
        assert score(name, write(predicted + far), example_) <= without + 1e-9, name
    assert score("giou", write([(box, 10) for box in gold]), example_) == pytest.approx(2)
