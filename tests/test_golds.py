"""Run: python -m pytest -q tests/test_golds.py        (2 s on CPU; no network)

Golds in worked texts, as the field writes them, and what is imitated of such texts. A gold holds
no thinking and no tags. What is imitated is scored right.
"""

import pytest
from layout_table import LONG
from samples import one, png, refusal, turns

import rewards
from grading.answers import extract_answer, match_answer
from tasks import worked_answers
from tasks.answer_marks import SHORT_ANSWER, contradict
from tasks.thinking import in_our_tags

OF_LLAVA_COT = (
    "<SUMMARY> I count. </SUMMARY>\n\n<CAPTION> Dots. </CAPTION>\n\n"
    "<REASONING> One, two. </REASONING>\n\n<CONCLUSION> {} </CONCLUSION>"
)
OF_SKY_T1 = (
    "<|begin_of_thought|>\n\nIs it 5?\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\nSo \\boxed{3}.\n\n<|end_of_solution|>"
)
OF_GPT_OSS = (
    "<|channel|>analysis<|message|>Is it 5?<|end|>"
    "<|start|>assistant<|channel|>final<|message|>3<|return|>"
)
OF_MULBERRY = (
    "### Rationales:\nOne.\n\n### Let's think step by step\n\n### Step 1:\nIt is blue.\n\n"
    "### The final answer is: B"
)
OF_SCIENCE_QA = "LECTURE: Maps.\nSOLUTION: Look.\n\n###\n\nANSWER: B."

THINKING = [  # a text with thinking, its gold
    ("<think>Check <answer>5</answer>? No.</think> The answer is 3.", "3"),
    ("<think>Check <answer>5</answer>? No.</think> 3", "3"),
    ("<think> Use <answer> tags. So 3. </think><answer> 3 </answer>", "3"),
    ("<answer> tags. So 3. </think><answer> 3 </answer>", "3"),
    ("<think> Use <answer> tags. </think> 3", "3"),
    ("Is it 5?\n</think>\n\n**Answer:** B", "B"),  # QwQ, DeepSeek-R1
    ("Is it 5?\n</think>\n\n" + LONG + "\n**Final Answer**\n\\[ \\boxed{3} \\]", "3"),
    ("<think>Is it 5?</think>\n\nThe number of dots in the picture is **3**.", "3"),  # R1-Onevision
    ("<Think>Is it 5?</Think> 3", "3"),
    ("<THINK>Is it 5?</THINK><ANSWER>3</ANSWER>", "3"),
    ("<thinking>Is it 5?</thinking>\n3", "3"),
    ("<thought>Is it 5?</thought>\n<Answer> 3 </Answer>", "3"),
    ("<Thought>Is it 5?</Thought>\n<Output>3</Output>", "3"),
    ("<reasoning>Is it 5?</reasoning>\n<answer>3</answer>", "3"),
    ("<reasoning>Is it 5?</reasoning> 3", "3"),
    ("<think>Is it 5?</think><reasoning>No.</reasoning> 3", "3"),
    ("◁think▷Is it 5?◁/think▷3", "3"),
    ("[THINK]Is it 5?[/THINK]3", "3"),
    ("<|START_THINKING|>5?<|END_THINKING|><|START_RESPONSE|>3<|END_RESPONSE|>", "3"),
    ("## Thinking\n\nIs it 5?\n\n## Final Response\n\n3", "3"),
    ("<think>5?</think><answer><|begin_of_box|>3<|end_of_box|></answer>", "3"),
    (OF_SKY_T1, "3"),
    (OF_GPT_OSS, "3"),
    (OF_LLAVA_COT.format("3"), "3"),
    (OF_LLAVA_COT.format("The answer is 3."), "3"),
    (OF_LLAVA_COT.format(LONG), ""),
    ("<caption> Dots. </caption><think> 5? </think><answer> 3 </answer>", "3"),
    ("<think> One, two. <answer> 3 </answer></think>", "3"),
    ("<think> One, two. <answer> 3 </answer>", "3"),
    ("<answer> 3 </answer><think> One, two. </think>", "3"),
]
CUT_OFF = [  # a text that is cut off or tells two answers, and has no gold
    "<think> Is it <answer>5</answer>? No, 3. </think>",
    "<think> Is it <answer>5</answer>? No, wait",
    "<answer>5</answer><think> No, wait",
    "<answer> 3",
    "<think> One. </think><answer> 3",
    "<think> One. </think> 3 </answer>",
    "<THINK> One, two",
    "<SUMMARY> I count. </SUMMARY><CAPTION> Dots.",
    "◁think▷ One, two",
    "Answer: apple\nbanana",
    "Answer:\n- apple\n- banana",
    "Answer: 3 cats and\n4 dogs are there.",
    "Answer: the cat that sits on\nthe mat in the room",
    "The answer is 3 cats\nand 4 dogs.",
    "Answer: $\\begin{pmatrix} 1\n\\end{pmatrix}$",
    "x = \\boxed{3}, y = \\boxed{4}",
    "(a) \\boxed{3}\n(b) \\boxed{4}",
    "The answer is \\boxed{3} by \\boxed{4}.",
    "<answer> x = \\boxed{3}, y = \\boxed{4} </answer>",
    "It is \\boxed{3} by \\boxed{4}.",
    "\\boxed{3",
    "Answer: cat\nIt purrs, and the answer is an animal with fur.",
    "So \\boxed{7}.\nThe answer is 5.\nBut it is odd.",
    "The answer is not 3.",
    "The answer is as follows: see above.",
    "The answer is given in the table: 5.",
]
MARKED = [  # a text without thinking, its gold
    ("Ans: 3", "3"),
    ("The answer is 3, not 4.", "3"),
    ("答案：40°", "40°"),
    ("解：∠1=∠2=40°。\n故答案为：40°．", "40°"),
    ("由图可知，故选：C．\n点评：本题考查方程。", "C"),
    ("因此，正确答案是B。", "B"),
    ("所以答案是3，因为1+2=3。", "3"),
    ("【答案】B\n【解析】因为AB平行于CD。", "B"),
    ("Answer: 3\nLet me know if you need more.", "3"),
    ("Answer: 3. Let me know if you need more.", "3"),
    ("Answer: 3\n\nDone.", "3"),
    ("Answer: B\nExplanation: It is blue.", "B"),
    ("Answer: B\n### Explanation\nIt is blue.", "B"),
    ("Answer: B. two cats", "B. two cats"),
    ("Answer: St. Paul", "St. Paul"),
    ("Answer: 3.5 cm.", "3.5 cm"),
    ("Answer: x = \\boxed{3}", "3"),
    ("Answer:\n\\[\n3\n\\]", "3"),
    ("Answer: $5", "$5"),
    ("Answer:\n```\n3\n```\nAsk me.", "3"),
    ("Answer:\r\n3\r\n\r\nAsk me.", "3"),
    ("Answer: □\nIt is a square.", "□"),
    ("**Final Answer**\n\n3", "3"),
    ("### Answer\n3", "3"),
    ("### Final Answer:\n$$\n\\boxed{3}\n$$", "3"),
    ("Final answer\n\\boxed{3}", "3"),
    ("Answer", "Answer"),
    ("The answer is approx. 3.5", "3.5"),
    ("The answer is about 3.5 cm.", "3.5 cm"),
    ("The answer is St. Paul.", "St. Paul"),
    ("The answer is St. Paul. It is big.", "St. Paul"),
    ("The answer is George W. Bush.", "George W. Bush"),
    ("The answer is No. 5.", "No. 5"),
    ("The answer is No. It is red.", "No"),
    ("The answer is 5 ft. tall.", "5 ft. tall"),
    ("The answer is 5 ft. It is tall.", "5 ft"),
    ("The answer is B. It shows that the cat sits.", "B"),
    ("The answer is B. blue", "B. blue"),
    ("The answer is B because the sum is 180.", "B"),
    ("The answer is 3, since 1 + 2 = 3.", "3"),
    ("The answer is\n\\[\n3\n\\]", "3"),
    ("The answer is 3. The answer is not 4.", "3"),
    ("\\boxed{3}, \\boxed{4}", "3, 4"),
    ("So $\\boxed{3}$ and $\\boxed{4}$.", "3, 4"),
    ("The answer is therefore 3.", "3"),
    ("The answer to the question is 3.", "3"),
    ("The correct option is B.", "B"),
    ("There are **3** dots and **4** lines.", "There are **3** dots and **4** lines."),
    ("\\boxed{3}\n\n\\boxed{3}", "3"),
    ("\\boxed{\\frac{1}{2}} or \\boxed{0.5}", "0.5"),
    ("\\boxed{3} + 4 = \\boxed{7}", "7"),
    ("$\\boxed{6 + 1} = \\boxed{7}$", "7"),
    ("So \\boxed{1}. It is \\boxed{2}.", "2"),
    ("First \\boxed{1}, then \\boxed{2}.", "2"),
    ("\\boxed{7} is a step. The answer is 5.", "5"),
    ("\\boxed{7} is a step.\nAnswer: 5", "5"),
    ("Answer: 3\nNo, so \\boxed{4}.", "4"),
    ("Answer: B\nExplanation: The answer is 12, and B says so.", "B"),
    ("\\boxed{3} cm", "3"),
    ("The answer is \\boxed{3} cm.", "3"),
    ("One.\n#### The final answer is 15", "15"),
    ("Final Answer: The final answer is $3$. I hope it is correct.", "3"),
    ("Therefore, the final answer is: $\\boxed{3}$. I hope it is correct.", "3"),
    ("<answer> The answer is 3. </answer>", "3"),
    ("<answer>#### 72</answer>", "72"),
    ("<answer> So x = \\boxed{3}. </answer>", "3"),
    ("<answer> Final Answer: B </answer>", "B"),
    ("<answer> The color is red. </answer>", "The color is red."),
    (OF_MULBERRY, "B"),
    (OF_SCIENCE_QA, "B"),
]


@pytest.mark.parametrize("text, gold", [*THINKING, *MARKED, *((text, "") for text in CUT_OFF)])
def test_the_gold_of_a_worked_text(text, gold):
    assert worked_answers.gold_in(text) == gold


@pytest.mark.parametrize("text, gold", THINKING)
def test_every_reader_finds_the_same_gold(text, gold, tmp_path):
    records = [{"question": "q", key: text} for key in ("answer", "solution")]
    records += [turns("q", text), {"prompt": "q", "solution": text}]
    for record in records:
        if gold:
            got = one(tmp_path, record)
            assert got.answer == gold
            assert rewards.accuracy(got.solution, got) == 1
        else:
            assert "no answer to compare with" in refusal(one, tmp_path, record)


@pytest.mark.parametrize("text", [text for text, gold in THINKING if gold])
def test_what_was_thought_is_learned_as_one_block(text):
    learned = worked_answers.imitated(text, worked_answers.gold_in(text))
    speaks_of_tags = learned.count("<answer>") > 1
    assert rewards.format(learned) == 1 or speaks_of_tags or learned.startswith("<caption>")
    assert worked_answers.imitated(learned, worked_answers.gold_in(text)) == learned


@pytest.mark.parametrize("text, gold", [*THINKING, *MARKED])
def test_what_is_imitated_is_scored_right(text, gold):
    learned = worked_answers.imitated(text, gold)
    if gold and learned:
        assert match_answer(extract_answer(learned), gold)


LEARNED = [  # a text, its gold, what is learned of it; None: the gold alone
    ("One.\nAnswer: 3", "3", "<think> One. </think><answer> 3 </answer>"),
    ("One.\n**Final Answer:** 3\nAsk me.", "3", "<think> One. </think><answer> 3 </answer>"),
    ("48 + 24 = 72\n#### 72", "72", "<think> 48 + 24 = 72 </think><answer> 72 </answer>"),
    ("Answer: B\nReason: Blue.", "B", "<think> Reason: Blue. </think><answer> B </answer>"),
    (f"Answer: 3\n\n{LONG}", "3", f"<think> {LONG.strip()} </think><answer> 3 </answer>"),
    ("Two and three.\nSo 5.", "5", "<think> Two and three.\nSo 5. </think><answer> 5 </answer>"),
    (
        "<think> One. </think>\nSo it is.\nAnswer: 3",
        "3",
        "<think> One. \nSo it is. </think><answer> 3 </answer>",
    ),
    (
        "<think>Is it <answer>5</answer>?</think> One.\nAnswer: 3",
        "3",
        "<think> Is it <answer>5</answer>?\nOne. </think><answer> 3 </answer>",
    ),
    (
        "<think>Is it <answer>5</answer></think> No, 3.",
        "3",
        "<think>Is it <answer>5</answer></think><answer> 3 </answer>",
    ),
    (
        OF_LLAVA_COT.format("3"),
        "3",
        "<think> I count. \n\n Dots. \n\n One, two. </think><answer> 3 </answer>",
    ),
    (f"<think> One. </think>{LONG}", "3", f"<think> One. </think>{LONG}"),
    ("<think> One. </think><answer>\n3</answer>", "3", "<think> One. </think><answer>\n3</answer>"),
    (
        "<think> One. </think><answer> The answer is 3. </answer>",
        "3",
        "<think> One. </think><answer> 3 </answer>",
    ),
    ("<answer> The answer is 3. </answer>", "3", None),
    ("Answer: 3", "3", None),
    ("**Final Answer:** 3", "3", None),
    ("The final answer is 3.", "3", None),
    ("\\boxed{3} cm", "3", None),
    ("3", "3", None),
    ("A long tale.", "", "A long tale."),
]


@pytest.mark.parametrize("text, gold, learned", LEARNED)
def test_what_is_imitated(text, gold, learned):
    assert worked_answers.imitated(text, gold) == learned


@pytest.mark.parametrize("text, gold, learned", [case for case in LEARNED if case[1]])
def test_every_reader_learns_the_same(text, gold, learned, tmp_path):
    records = [
        {"question": "q", "answer": gold, "solution": text},
        {"messages": [{"role": "user", "content": "q"}], "answer": gold, "solution": text},
    ]
    assert [one(tmp_path, record).solution for record in records] == [learned] * 2


def test_a_choice_may_be_said_by_its_letter(tmp_path):
    record = {"question": "q", "answer": "blue", "choices": ["red", "blue"]}
    kept = "<think> Sky. </think><answer> B </answer>"
    assert one(tmp_path, {**record, "solution": kept}).solution == kept
    assert "comes to 'A'" in refusal(one, tmp_path, {**record, "solution": "Sky.\nAnswer: A"})


UNTOUCHED = [
    "3",
    "x < 3 and y > 4",
    "<b>3</b>",
    "<think> One. </think><think> Two. </think><answer> 3 </answer>",
    "<caption> Dots. </caption><think> One. </think><answer> 3 </answer>",
    "I think [think] of ## Thinking\n## Thinking\nand go on.",
    "the <summary> of a page",
]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_our_own_tags_and_other_texts_stay(text):
    assert in_our_tags(text) == text


@pytest.mark.parametrize("text", [text for text, _ in THINKING])
def test_respelling_twice_changes_nothing_more(text):
    assert in_our_tags(in_our_tags(text)) == in_our_tags(text)


def test_the_order_of_several_answers_is_no_contradiction():
    assert not contradict("4, 3", "3, 4") and contradict("(4, 3)", "(3, 4)")


SETS = [  # records of layouts that carry a solution along, the gold B
    {"question": "q", "A": "a cat", "B": "a dog"},
    {"question": "q", "choices": ["a cat", "a dog"], "hint": "", "lecture": ""},
    {"question": "q", "options": [], "level": 1, "subject": "s", "image": "a.png"},
]


@pytest.mark.parametrize("record", SETS)
def test_a_solution_with_tags_is_learned_in_any_layout(record, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    solution = "<think> hm </think><answer> {} </answer>"
    tagged = {**record, "answer": "B", "solution": solution.format("B")}
    assert one(tmp_path, tagged).solution == tagged["solution"]
    wrong = {**tagged, "solution": solution.format("A")}
    assert "but the solution comes to 'A'" in refusal(one, tmp_path, wrong)
    told = one(tmp_path, {**tagged, "solution": "It barks."})
    assert told.solution is None and told.meta["solution"] == "It barks."


THOUGHTS = ["I see.", "<think> I see. </think>", "<thinking>I see.</thinking>"]


@pytest.mark.parametrize("thinking", THOUGHTS)
def test_thinking_beside_an_answer_is_learned(thinking, tmp_path):
    for answer in ("3", "So. Answer: 3"):
        got = one(tmp_path, {"question": "q", "thinking": thinking, "answer": answer})
        assert got.answer == "3"
        assert got.solution == "<think> I see. </think><answer> 3 </answer>"
    (tmp_path / "a.png").write_bytes(png())
    box = {"question": "Where?", "image": "a.png", "boxes": [[0, 0, 28, 28]]}
    learned = one(tmp_path, {**box, "thinking": thinking}).solution
    assert learned.startswith("<think> I see. </think><answer> {") and "500" in learned


ROUNDED = [  # two golds, whether they surely differ
    ("4.24", "3\\sqrt{2}", False),
    ("0.33", "1/3", False),
    ("12.57", "4\\pi", False),
    ("50%", "0.5", False),
    ("66.7%", "2/3", False),
    ("yes", "True", False),
    ("yes", "False", True),
    ("50", "0.5", True),
    ("5%", "0.5", True),
    ("0.5", "0.4", True),
    ("19.99", "20", True),
    ("67", "66.7", True),
    ("2.5", "x", False),
    ("2.5", "1/0", True),
    ("±2", "2.0", True),
    ("2, 4", "\\{4, 2\\}", False),
    ("mcdonald's", "McDonalds", False),
    ("ice-cream", "ice cream", False),
    ("red", "blue", True),
]


@pytest.mark.parametrize("one, two, differ", ROUNDED)
def test_a_rounded_number_is_no_contradiction(one, two, differ):
    assert contradict(one, two) == contradict(two, one) == differ


HOSTILE = [
    "答案：",
    "故选",
    "\\boxed{",
    "\\boxed{1},",
    "Answer: ",
    "Answer:\n",
    "answer\n",
    "the answer is ",
    "#### 3\n",
    "<answer>",
    "</think><answer>",
    "<reasoning>",
    "## Thinking\n",
    "<|begin_of_box|>",
    " \n",
    "*",
    "$",
    "U.S. ",
    "answer to ",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_texts_take_no_time(piece):
    text = piece * (40_000 // len(piece))  # quadratic, it would take minutes
    gold = worked_answers.split_gold(text, "x").answer
    assert len(gold) < SHORT_ANSWER or gold == text.strip()
