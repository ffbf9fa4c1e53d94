"""Run: python -m pytest -q tests/test_hostile_texts.py        (about 20 s on CPU; no network)

Texts and golds made to break a scorer: by every protocol and every original.
"""

import datetime
import itertools
import json
import math
import time
from decimal import Decimal

import originals
import pytest
from originals import ORIGINALS
from scored import THINK, boxes, example

from grading import mathverify
from tasks import protocols

NASTY = [
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


@pytest.mark.parametrize("name", ORIGINALS)
def test_originals_end_on_texts_that_break_things(name, monkeypatch):
    """With math-verify: each ends on each, in its range or by TimeoutError."""
    monkeypatch.setattr(mathverify.worker, "cpu_seconds", 2)
    e = example("3", ["3", "4"], boxes=boxes((1, 2, 3, 4)), size=[1000, 1000])
    tokens = (10, 20) if name in originals.NEEDS_TOKENS else ()
    for text in NASTY:
        try:
            value = ORIGINALS[name](text, e, *tokens)
        except TimeoutError:
            continue
        assert isinstance(value, float) and -1 <= value <= 2, text[:30]


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
    f"{{[{DIGITS}, 2, 3, 4]}}",
    f"{{[{BIG}, 2, 3, 4]}}",
    "{" + "[1,2,3,4]" * 10_000 + "}",
    f"[{{'Position': [0, 0, {DIGITS}, 9], 'Confidence': 1}}]",
    f"[{{'Position': [0, 0, {BIG}, 9], 'Confidence': 1}}]",
    f"[{{'Position': [0, 0, 9, 9], 'Confidence': {BIG}}}]",
    "[{'Position': [0, 0, 9, 9], 'Confidence': NaN}, "
    "{'Position': [0, 0, 9, 8], 'Confidence': Infinity}]",
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
    monkeypatch.setattr(mathverify, "ask", lambda *_: False)


SCORERS = dict(ORIGINALS)
SCORERS |= {f"ours, {name}": protocol.score for name, protocol in protocols.PROTOCOLS.items()}


@pytest.mark.parametrize("name", SCORERS)
def test_hostile_texts_are_scored_in_a_second(name, no_math):
    """A finite float, no exception, less than a second of CPU."""
    frames = (f"{THINK}<answer>%</answer>", "Answer: %")
    texts = [frame.replace("%", text) for text in HOSTILE for frame in frames] + UNFRAMED
    meta = {"boxes": boxes((1, 2, 3, 4), label="a"), "size": [1000, 1000]}
    meta |= {"box_format": "pixels", "unit": "tokens"}
    golds = [example("3", choices, **meta) for choices in (None, ["3", "a b"])]
    tokens = (10, 20) if name in originals.NEEDS_TOKENS else ()
    for k, text in enumerate(texts):
        start = time.process_time()
        value = SCORERS[name](text, golds[k % 2], *tokens)
        assert time.process_time() - start < 1, text[:40]
        assert isinstance(value, float) and math.isfinite(value), (text[:40], value)


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
    Decimal(5),
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
        "task": Decimal(1),
        "split": datetime.date(2020, 1, 1),
        "type": b"x",
        "domain": HALF,
    },
    {"id": b"x", "question": 10**5000},
]


SAID = ("<answer>3</answer>", f"Answer: {DIGITS}", "<answer>[0, 0, 9, 9]</answer>", HALF)


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_hostile_golds_are_scored_or_refused_in_a_sentence(no_math, protocol):
    for gold, fields, said in itertools.product(HOSTILE_GOLDS, HOSTILE_FIELDS, SAID):
        record = {"prediction": said, "answer": gold, **fields}
        try:
            pairs = protocols.to_examples([("saved.jsonl:3", record)], protocol, "pixels")
        except ValueError as error:
            message = str(error)
            assert message.startswith("saved.jsonl:3: "), message[:200]
            assert "\n" not in message and len(message) < 400, message[:200]
            assert "integer string conversion" not in message
            continue
        result, rows = protocols.score(pairs, protocol)
        json.dumps(result, ensure_ascii=False).encode("utf-8")
        json.dumps(rows)
