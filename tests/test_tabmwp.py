"""Run: python -m pytest -q tests/test_tabmwp.py        (5 s on CPU; no network)

TabMWP: our score beside R3V's, which is PromptPG's with one more pattern.
"""

import hashlib

import pytest
from scored import example, score

from tasks import tabmwp


def scored_row(said, gold, **fields):
    """The row of one saved output."""
    [row] = score([{"prediction": said, "answer": gold, **fields}], "tabmwp")[1]
    return row


NORMAL_FORMS = {
    "$1,735.": "1735",
    "3/4": "0.75",
    "8.20": "8.2",
    "1/0": None,
    "1.2.3": None,
    "+5": "5",
    r"\frac{1}{2}": "0.5",
    "\u22125": "-5",
    "1,000": "1000",
    "0.66666": "0.667",
    "6:30 A.M": "6:30 a.m",
}


@pytest.mark.parametrize("text, normal", NORMAL_FORMS.items())
def test_our_normal_form(text, normal):
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
    assert tabmwp.r3v_tabmwp(text, example(read)) == 1
    assert tabmwp.r3v_tabmwp(text, example("88")) == 0


# Nothing is stripped there. Without a letter, the choice with most words in common is taken, and
# the first of equals.
R3V_CHOOSES = {
    "(B)": 1,
    "(B) ": 0,
    " (B)": 0,
    "B\n": 1,
    "B ": 0,
    "(B).": 1,
    "B. x": 1,
    "(B)\nx": 0,
    "Answer: Q\nB. x": 2,
    "dog": 1,
    "B) x": 1,
    "By x": 1,
    "At x": 0,
    "B  x": 1,
    "It x": 2,
    "B.x": 0,
    "B\n x": 2,
}


@pytest.mark.parametrize("text, index", R3V_CHOOSES.items())
def test_r3v_reads_choices_as_its_code(text, index):
    choices = ["cat", "dog bird", "x"]
    found = [tabmwp.r3v_tabmwp(text, example(choice, choices)) for choice in choices]
    assert found == [k == index for k in range(3)]


LISTS = [  # said, gold, equal: only groups of three are thousands; PromptPG drops any comma
    ("3,4", "34", 0),
    ("3,4", "3,4", 1),
    ("1,735", "1735", 1),
    ("1,2,3", "123", 0),
    ("1,7350", "17350", 0),
    ("12,345,678", "12345678", 1),
    ("1,000/2", "500", 1),
]


@pytest.mark.parametrize("said, gold, right", LISTS)
def test_a_list_is_no_number(said, gold, right):
    assert scored_row(f"Answer: {said}", gold)["accuracy"] == right


UNITS = [  # said, gold, unit, equal
    ("5in5", "55", "in", 0),
    ("5 in", "5", "in", 1),
    ("5in", "5", "in", 1),
    ("5 km", "5", "m", 0),
    ("main", "ma", "in", 0),
    ("5 minutes", "5", "minutes", 1),
    ("5 buttons", "5 but", "tons", 0),
]


@pytest.mark.parametrize("said, gold, unit, right", UNITS)
def test_the_unit_is_a_word_at_the_end(said, gold, unit, right):
    assert scored_row(f"Answer: {said}", gold, unit=unit)["accuracy"] == right


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
    row = scored_row(prediction, gold, id="33", choices=choices, unit=unit)
    assert (row["accuracy"], row["accuracy_original"]) == (ours, original)


def test_r3v_draws_a_choice_for_a_letter_beyond_the_list():
    """At random there; from the record's id here. Ours: no such choice, a parse failure."""
    choices, drawn = ["a", "b", "c"], []
    for i in range(300):
        index = int(hashlib.sha256(str(i).encode()).hexdigest(), 16) % 3
        row = scored_row("Answer: F", "b", id=i, choices=choices)
        assert row["accuracy_original"] == (choices[index] == "b")
        assert row["accuracy"] == 0 and row["extracted"] is None
        drawn.append(index)
    assert 70 < drawn.count(1) < 130
    # Z is no letter there: the most similar choice, the first of three
    assert scored_row("Answer: Z", "a", choices=choices)["accuracy_original"] == 1


def test_tabmwp_splits():
    integer, decimal = "integer_number", "decimal_number"
    records = [
        {"prediction": f"Answer: {said}", "answer": "1", "ans_type": kind, "grade": grade}
        for said, kind, grade in ((1, integer, 3), (2, integer, 7), (1, decimal, 8))
    ]
    by = score([{**record, "ques_type": "free_text"} for record in records], "tabmwp")[0]["by"]
    one = {"accuracy": 1.0, "accuracy_original": 1.0, "n": 1}
    half = {"accuracy": 0.5, "accuracy_original": 0.5, "n": 2}
    assert by["ans_type"] == {decimal: one, integer: half}
    assert by["grades"] == {"1-6": one, "7-8": half}
    assert set(by["grade"]) == {"3", "7", "8"}
    assert by["ques_type"]["free_text"]["n"] == 3
