r"""Run: python -m pytest -q tests/test_protocols_answers.py        (seconds on CPU; no network)

What the protocols owe to the comparison of answers that they call (grading/answers.py).
"""

import pytest

from grading import answers
from tasks import protocols

LINES = ("chartqa", "tabmwp", "m3cot")  # read by "Answer: ..."
TAGGED = ("geoqa", "cvbench", "classification")


def accuracy(protocol, said, gold, choices=None, **fields):
    text = f"Answer: {said}" if protocol in LINES else f"<think>a</think><answer>{said}</answer>"
    record = {"prediction": text, "answer": gold, "choices": choices, **fields}
    return protocols.score(protocols.to_examples([("record 1", record)], protocol), protocol)[1][0][
        "accuracy"
    ]


HYPHENS = [  # said, gold, equal: hyphens join, they do not subtract
    ("30-39", "20-29", 0),
    ("20-29", "20-29", 1),
    ("20 - 29", "20-29", 1),
    ("20–29", "20-29", 1),
    ("29-20", "20-29", 0),
    ("-9", "20-29", 0),
    ("20-29", "-9", 0),
    ("2020-02-04", "2020-01-05", 0),
    ("2020-02-04", "2020-02-04", 1),
    ("2014", "2020-02-04", 0),
    ("2019-20", "1999", 0),
    ("1999", "2019-20", 0),
    ("2019-20", "2019-20", 1),
    ("555-1234", "-679", 0),
    ("555-1234", "1555-2234", 0),
    ("737-800", "637-700", 0),
]


@pytest.mark.parametrize("protocol", [*LINES, *TAGGED])
@pytest.mark.parametrize("said, gold, equal", HYPHENS)
def test_hyphens_are_not_subtracted(protocol, said, gold, equal):
    assert accuracy(protocol, said, gold) == equal


def test_hyphens_among_choices():
    choices = ["20-29", "30-39", "40-49"]
    for said, index in (("30-39", 1), ("B", 1), ("B. 30-39", 1), ("-9", None), ("50-59", None)):
        for protocol in ("tabmwp", "m3cot", "cvbench"):
            paid = [accuracy(protocol, said, gold, choices) for gold in choices]
            assert paid == [k == index for k in range(3)], (said, protocol)


MIXTURES = ["bromine mixture", "chlorine mixture", "a mixture"]
ARTICLES = [  # said, index of the option: an article in front is no part of it
    ("the bromine mixture", 0),
    ("The bromine mixture.", 0),
    ("a bromine mixture", 0),
    ("bromine mixture", 0),
    ("the chlorine mixture", 1),
    ("a mixture", 2),
    ("the mixture", 2),
    ("mixture", 2),
    ("neither the bromine mixture", None),
    ("the bromine mixture or the chlorine mixture", None),
    ("the iodine mixture", None),
    ("the", None),
    ("the bromine", None),
]


@pytest.mark.parametrize("said, index", ARTICLES)
def test_an_article_in_front_of_an_option(said, index):
    assert [accuracy("tabmwp", said, gold, MIXTURES) for gold in MIXTURES] == [
        k == index for k in range(3)
    ]


@pytest.mark.parametrize(
    "said, index", [("A", 0), ("a", 0), ("A.", 0), ("a cat", None), ("the A", None)]
)
def test_an_article_is_not_a_letter(said, index):
    assert answers.choice_index(said, ["dog", "bird"]) == index


OTHERS = [  # protocol, said, gold, fields, equal
    ("chartqa", "1.5e3", "1500", {}, 1),
    ("geoqa", "1.5e3", "1500", {}, 1),
    ("geoqa", "5E-8", "4E-8", {}, 0),
    ("chartqa", "Dec 2019", "Dec 2018", {}, 0),
    ("chartqa", "5 N", "5", {}, 1),
    ("tabmwp", "3:00 PM", "3:00 P.M.", {}, 1),
    ("tabmwp", "3:00 AM", "3:00 P.M.", {}, 0),
    ("tabmwp", "5 apples", "5", {"unit": "tokens"}, 0),
    ("tabmwp", "5 tokens", "5", {"unit": "tokens"}, 1),
    ("tabmwp", "3, 4", "34", {}, 0),
    ("tabmwp", "1,735", "1735", {}, 1),
    ("m3cot", "No idea", "no", {}, 0),
]


@pytest.mark.parametrize("protocol, said, gold, fields, equal", OTHERS)
def test_neighbours(protocol, said, gold, fields, equal):
    assert accuracy(protocol, said, gold, **fields) == equal
