"""Run: python -m pytest -q tests/test_chartqa.py        (5 s on CPU; no network)

Answers on a line, and ChartQA: our relaxed accuracy beside the published one and R3V's.
"""

import pytest
from scored import example, score

from grading import tags
from tasks import chartqa

ANSWER_LINES = {
    "<answer> 3 </answer>": "3",
    "Answer: 4\n<answer>3</answer>": "3",
    "Solution:\n1. x\nAnswer: B": "B",
    "Solution:\n\nAnswer:\n\n Yes\nmore": "Yes",
    "Answer: 3\nAnswer: 4": "4",
    "The final answer: 12 cm": "12 cm",
    "**Answer:** B": "B",
    "answer : 7": "7",
    "Answer: 3\nAnswer:": None,
    "the answer is 3": None,
    "": None,
    "Answer: 3</answer>": None,
    "<think>Answer: 3": None,
    "<think>Answer: 3</think> so Answer: 4": "4",
    "bananswer: 3": None,
    "Final Answer:\t5": "5",
    "**Answer**: 14": "14",
    "Answer： 14": "14",
    r"The final answer is: $\boxed{14}$": r"$\boxed{14}$",
    "The answer is: 14": "14",
    "Answer: 14<|im_end|>": "14",
    "Answer: 14</s>": "14",
    "Answer: 14<|endoftext|>": "14",
    "Answer: 1<|im_end|>4": "1",
}


@pytest.mark.parametrize("text, read", ANSWER_LINES.items())
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
    record = {"prediction": f"Solution:\n1. ...\nAnswer: {said}", "answer": gold}
    result, [row] = score([record], "chartqa")
    for figures in (result, row):
        assert figures["accuracy"] == ours
        assert figures["accuracy_original"] == published
        assert figures["accuracy_r3v_chartqa"] == r3v
    assert result["original"] == "pix2struct_relaxed"
    # a bare answer, as Pix2Struct has them
    assert chartqa.pix2struct_relaxed(said, example(gold)) == published


def test_r3v_takes_all_that_follows_the_first_answer():
    [row] = score([{"prediction": "Answer: 3\nNo, Answer: 4", "label": "4"}], "chartqa")[1]
    assert (row["accuracy"], row["accuracy_r3v_chartqa"], row["extracted"]) == (1, 0, "4")


R3V_ANSWERS = {
    "Answer: \n": "",
    "Answer:": "Answer:",
    " 5 ": "5",
    "Answer:5 Answer: 6": "5 Answer: 6",
}


@pytest.mark.parametrize("text, read", R3V_ANSWERS.items())
def test_what_r3v_compares(text, read):
    assert chartqa.r3v_answer(text) == read
