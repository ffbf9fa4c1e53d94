"""Run: python -m pytest -q tests/test_choices.py        (a few seconds; no network)

Choices in every form, golds that name one of them, and the keys under which golds are published.
"""

import pytest
from samples import one, png, refusal, turns, user

import rewards

RED = ["red", "blue"]
THREE = ["red", "blue", "green"]
MCQ = "Which?\nOptions:\nA. red\nB. blue"


def which(**fields):
    """A question with some fields."""
    return {"question": "Which?", **fields}


def chat(reply, **fields):
    """The same as a conversation."""
    return {**turns("Which?", reply), **fields}


# --- a gold names one of the choices ---

NAMED = [  # gold, choices
    ("B", RED),
    ("b", RED),
    ("(B)", RED),
    ("Blue", RED),
    ("B. blue", RED),
    ("\\boxed{B}", RED),
    ("The answer is B.", RED),
    ("yes", ["Yes", "No"]),
    ("Yes, it is", ["yes", "no"]),
    ("(C)", ["A", "B", "C"]),  # they stand in the picture
    ("A", ["(A)", "(B)"]),
    ("3.0", ["2", "3"]),
    ("3", [2, 3.0]),
    ("1", ["1", "2", "3"]),
    ("1/2", ["$\\frac{1}{2}$", "$2\\sqrt{3}$"]),
    ("2√3", ["$\\frac{1}{2}$", "$2\\sqrt{3}$"]),
    ("J", [f"number {n}" for n in range(10)]),
]
UNNAMED = [
    ("green", RED),
    ("D", RED),
    ("A, B", RED),  # several: none is scored
    ("AB", RED),
    ("4", ["2", "3"]),
    ("7", THREE),
    ("D", ["A", "B", "C"]),
]


@pytest.mark.parametrize("gold, choices", NAMED)
def test_a_gold_that_names_a_choice_is_read(gold, choices, tmp_path):
    for record in (which(answer=gold, choices=choices), chat(gold, choices=choices)):
        got = one(tmp_path, record)
        rewards.check_gold(got.answer, got.choices)


@pytest.mark.parametrize("gold, choices", UNNAMED)
def test_a_gold_that_names_none_is_refused_everywhere(gold, choices, tmp_path):
    """By the supervised stage too, which learned it."""
    for record in (
        which(answer=gold, choices=choices),
        which(solution=f"<answer>{gold}</answer>", options=choices),
        chat(gold, choices=choices),
        {"prompt": [user("Which?")], "ground_truth": gold, "choices": choices},
    ):
        text = refusal(one, tmp_path, record, needs_answer=False)
        assert f"the answer '{gold}' names none of the {len(choices)} choices" in text


@pytest.mark.parametrize("gold", ["0", "1", "3", 0, 1, 2, 3])
@pytest.mark.parametrize("key", ["answer", "ground_truth", "correct_option"])
def test_a_number_that_may_be_a_place_is_refused(gold, key, tmp_path):
    """As text too: lmms-lab/ai2d counts from 0, others from 1."""
    text = refusal(one, tmp_path, which(**{key: gold}, options=THREE))
    assert f"the answer is {gold}, which may be the place of a choice" in text
    text = refusal(one, tmp_path, {"messages": [user("q")], key: gold, "choices": THREE})
    assert "which may be the place of a choice" in text


# --- letters are shown where the gold is one ---

LETTERED = [  # question, gold, whether the choices are put below it
    ("Red or blue?", "A", True),
    ("Red or blue?", "B. blue", True),
    ("Red or blue?", "red", False),
    ("Which? A. red B. blue", "A", False),
    ("Which?\n(A) red\n(B) blue", "B", False),
    ("Which?\n**A:** red\n**B:** blue", "B", False),
    ("哪个?\nA、red\nB、blue", "B", False),
]


@pytest.mark.parametrize("question, gold, shown", LETTERED)
def test_a_letter_is_the_gold_only_where_letters_are_asked(question, gold, shown, tmp_path):
    asked = f"{question}\nOptions:\nA. red\nB. blue" if shown else question
    got = one(tmp_path, {"question": question, "choices": RED, "answer": gold})
    assert got.question == asked
    assert one(tmp_path, {**turns(question, gold), "choices": RED}).question == asked


# --- forms of choices ---

FORMS = [
    {"A": "red", "B": "blue", "C": None, "D": ""},
    {"a": "red", "b": "blue"},
    {"B": "blue", "A": "red"},
    {"(A)": "red", "(B)": "blue"},
    {"text": ["red", "blue"], "label": ["A", "B"]},
    [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}],
    [{"key": "A", "value": "red"}, {"key": "B", "value": "blue"}, {"key": "C", "value": None}],
    ["red", "blue", None, ""],
    "A. red\nB. blue",
    '{"A": "red", "B": "blue", "C": null}',
]
NUMBERED = [
    {"1": "red", "2": "blue", "3": None},
    {"text": ["red", "blue"], "label": ["1", "2"]},
    [{"id": 1, "text": "red"}, {"id": 2, "text": "blue"}],
]


@pytest.mark.parametrize("key", ["choices", "options"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_choices(form, key, tmp_path):
    got = one(tmp_path, which(answer="B", **{key: form}))
    assert (got.question, got.answer, got.choices, got.meta) == (MCQ, "B", RED, {})


@pytest.mark.parametrize("form", NUMBERED)
@pytest.mark.parametrize("gold", ["2", 2, "blue", "B"])
def test_numbers_as_labels_are_told_apart_from_places(form, gold, tmp_path):
    got = one(tmp_path, which(answer=gold, choices=form))
    assert (got.question, got.choices) == (MCQ, RED)
    assert rewards.accuracy("<answer>blue</answer>", got) == 1


def test_a_label_that_is_another_choices_text_is_refused(tmp_path):
    numbers = {"1": "2", "2": "3"}
    assert "the label of '3' and the text of another choice" in refusal(
        one, tmp_path, which(answer="2", choices=numbers)
    )
    assert one(tmp_path, which(answerKey="2", choices=numbers)).answer == "3"


POINTS = ["B", "A", "D"]


def test_a_letter_that_is_another_choices_text_is_refused(tmp_path):
    text = refusal(one, tmp_path, which(answer="B", choices=POINTS))
    assert "the label of 'A' and the text of another choice" in text
    for gold, right in (("B. A", "A"), ("A. B", "B"), ("C", "D"), ("D", "D")):
        got = one(tmp_path, which(answer=gold, choices=POINTS))
        assert rewards.accuracy(f"<answer>{right}</answer>", got) == 1
    key = which(answerKey="B", choices={"text": POINTS, "label": ["A", "B", "C"]})
    assert rewards.accuracy("<answer>A</answer>", one(tmp_path, key)) == 1


OF_SCIENCE_QA = [1, 1.0, "B", "blue", "(B)"]


@pytest.mark.parametrize("gold", OF_SCIENCE_QA)
def test_the_right_choice_of_scienceqa(gold, tmp_path):
    got = one(tmp_path, which(choices=RED, answer=gold, hint="", lecture=""))
    assert got.answer == "blue"


@pytest.mark.parametrize("gold", ["1", 2, 0.5, "green"])
def test_what_is_no_choice_of_scienceqa(gold, tmp_path):
    record = which(choices=RED, answer=gold, hint="", lecture="")
    assert "must be the place of a choice" in refusal(one, tmp_path, record)


COLUMNS_UNREAD = [
    {"problem": "Which?", "A": "red", "B": "blue"},
    {"question": "Which?", "a": "red", "b": "blue"},
    {**turns("Which?", "B"), "A": "red", "B": "blue"},
]


@pytest.mark.parametrize("record", COLUMNS_UNREAD)
def test_columns_that_are_not_read_are_missed(record, tmp_path):
    if "conversations" not in record:
        record = {**record, "answer": "B"}
    assert "`a` may be" in refusal(one, tmp_path, record).replace("`A`", "`a`")


GAPS = [
    {"A": "red", "B": None, "C": "blue"},
    {"1": "red", "3": "blue"},
    ["red", None, "blue"],
    ["red", " ", "blue"],
]


@pytest.mark.parametrize("form", GAPS)
def test_choices_with_a_gap_are_refused(form, tmp_path):
    text = refusal(one, tmp_path, which(answer="C", choices=form))
    assert "`choices` has no text for" in text and "fill it in" in text


COLUMNS = [
    {"option_a": "red", "option_b": "blue", "option_c": None},
    {"choice_a": "red", "choice_b": "blue"},
    {"optionA": "red", "optionB": "blue"},
    {"option0": "red", "option1": "blue"},  # Q-Bench
    {"option1": "red", "option2": "blue"},
]


@pytest.mark.parametrize("columns", COLUMNS)
def test_columns_of_choices_are_asked(columns, tmp_path):
    got = one(tmp_path, which(answer="B", **columns))
    assert (got.question, got.choices, got.meta) == (MCQ, RED, {})


PICTURES = [
    {},
    {"image": "a.png"},
    {"images": ["a.png"]},
    {"image_path": "a.png"},
    {"image_path": "['a.png']", "image": ""},  # VLMEvalKit, several
]


@pytest.mark.parametrize("picture", PICTURES)
def test_columns_named_by_letters_are_asked_with_any_picture(picture, tmp_path):
    """Also without one, or with `image_path`: only `image` was known."""
    (tmp_path / "a.png").write_bytes(png())
    row = which(A="red", B="blue", C="", D=float("nan"), answer="B", **picture)
    got = one(tmp_path, row)
    assert got.question == "Question: Which?\nOptions:\nA. red\nB. blue"
    assert (got.choices, len(got.images)) == (RED, bool(picture))
    assert "has no text for C, but for D" in refusal(one, tmp_path, {**row, "D": "x"})
    assert "names none of the 2 choices" in refusal(one, tmp_path, {**row, "answer": "D"})
    assert one(tmp_path, {**row, "A": "", "B": "", "answer": "4"}).question == "Question: Which?"


@pytest.mark.parametrize("options", ["A. x B. y", {"first": "x"}, [{"key": "A"}]])
@pytest.mark.parametrize("key", ["options", "Choices", "answer_choices", "candidates"])
def test_a_letter_without_its_choices_is_refused(key, options, tmp_path):
    for record in (which(answer="B", **{key: options}), chat("B", **{key: options})):
        assert f"`{key}` may be these" in refusal(one, tmp_path, record)
        shown = record.get("conversations", [record])[0]
        shown["value" if "from" in shown else "question"] = "Which? A. x B. y"
        assert one(tmp_path, record).answer == "B"


def test_choices_that_are_bare_letters_do_not_hide_options(tmp_path):
    record = which(answer="B", choices=["A", "B"], options=RED)
    assert "`options` may be these" in refusal(one, tmp_path, record)
    assert one(tmp_path, {**record, "question": "A. red B. blue"}).answer == "B"


def test_unread_options_are_carried_along_beside_other_golds(tmp_path):
    for fields in ({"answer": "x", "options": "A. x B. y"}, {"answer": "B", "options": 3}):
        assert one(tmp_path, which(**fields)).meta == {"options": fields["options"]}


# --- keys that hold the gold ---

HELD = [  # fields, gold
    ({"gt": "3"}, "3"),
    ({"gt_answer": 3}, "3"),
    ({"correct_answer": "red"}, "red"),
    ({"correct_choice": "B", "choices": RED}, "B"),
    ({"correct_option": "blue", "choices": RED}, "blue"),
    ({"answer_idx": 1, "choices": RED}, "blue"),  # array/SAT_dense
    ({"answer_idx": "B", "answer": "blue", "options": {"A": "red", "B": "blue"}}, "blue"),  # MedQA
    ({"answer_index": 1, "answer": "B", "options": RED}, "B"),  # MMLU-Pro
    ({"correct_choice_idx": 0, "choices": RED}, "red"),
    ({"label": "B", "options": RED}, "B"),  # ArxivQA
    ({"label": 7, "answer": "cat"}, "cat"),  # the number of a class
    ({"answer": ["red"]}, "red"),
    ({"answer": [3]}, "3"),
    ({"answers": ["red"]}, "red"),
    ({"answers": ["red", "Red", "red "]}, "red"),
    ({"answers": "['red']"}, "red"),
    ({"answers": [{"answer": "net", "answer_id": n} for n in (1, 2)]}, "net"),
    ({"answers": ["net", "a net"], "multiple_choice_answer": "net"}, "net"),  # VQAv2
    ({"answers": ["net", "a net"], "answer": "net"}, "net"),
    ({"answer": "3", "ground_truth": 3.0}, "3"),
    ({"answer": "B", "ground_truth": "40°"}, "B"),
    ({"answer": "B", "correct_answer": "blue", "choices": RED}, "B"),
    ({"answer": "48 + 24 = 72\n#### 72", "ground_truth": "72"}, "72"),
    ({"answer": "B", "answer_idx": 1}, "B"),
    ({"answer": "red", "gt": "The car is red."}, "red"),
    ({"answer": "12", "gt": "12 cm"}, "12"),
    ({"answer": "3", "ground_truth": ""}, "3"),  # columns of a table
    ({"answer": None, "ground_truth": float("nan"), "gt": "3"}, "3"),
    ({"gt": "", "solution": "<answer>3</answer>"}, "3"),
    ({"gt": [1, 2], "answer": "3"}, "3"),
]


@pytest.mark.parametrize("fields, gold", HELD)
def test_golds_under_their_published_keys(fields, gold, tmp_path):
    assert one(tmp_path, which(**fields)).answer == gold
    assert one(tmp_path, {"messages": [user("Which?")], **fields}).answer == gold


REFUSED = [  # fields, what is said
    ({"answers": ["red", "crimson"]}, "`answers` holds 2 answers (red, crimson)"),
    ({"answer": ["A", "C"], "choices": THREE}, "`answer` holds 2 answers (A, C)"),
    ({"answer": "3", "ground_truth": "4"}, "`answer` is '3', but `ground_truth` is '4'"),
    ({"answer": "3", "gt": "dog"}, "`answer` is '3', but `gt` is 'dog'"),
    ({"answer": "A", "correct_answer": "blue", "choices": RED}, "but `correct_answer` is 'blue'"),
    ({"answer": "A", "answer_idx": 1, "choices": RED}, "but `answer_idx` is 'blue'"),
    ({"answer_idx": 2, "choices": RED}, "the place of a choice, from 0 to 1, found 2"),
    ({"answer_idx": 1}, "`answer_idx` may hold one"),  # a place, without choices
    ({"correct_option": "2"}, "`correct_option` may hold one"),
    ({"label": 1, "choices": RED}, "no answer is read, but `label` may hold one"),
    ({"label": 0}, "`label` may hold one"),
    ({"label": "cat"}, "`label` may hold one; write it as `answer`"),
    ({"gt": [1, 2, 3, 4]}, "`gt` may hold one"),
    ({"final_answer": "3"}, "`final_answer` may hold one"),
    ({"Answer": "3"}, "`Answer` may hold one"),
    ({"caption": "A cat."}, "or as `solution` if it is for imitation only"),
]


@pytest.mark.parametrize("fields, says", REFUSED)
def test_golds_that_cannot_be_told_are_refused(fields, says, tmp_path):
    """Not taken for an open question, either."""
    assert says in refusal(one, tmp_path, which(**fields), needs_answer=False)
    messages = {"messages": [user("Which?")], **fields}
    assert says in refusal(one, tmp_path, messages, needs_answer=False)


@pytest.mark.parametrize("fields", [{"note": "3"}, {"gt": ""}, {"label": None}, {"answers": []}])
def test_what_holds_no_gold_stays_an_open_question(fields, tmp_path):
    assert one(tmp_path, which(**fields), needs_answer=False).answer == ""


def test_an_empty_gt_leaves_the_gold_to_the_reply(tmp_path):
    assert one(tmp_path, {**turns("q", "<think> x </think> 3"), "gt": ""}).answer == "3"


def test_two_questions_that_differ_are_refused(tmp_path):
    record = {"problem": "How  many?", "question": "How many?", "answer": "3"}
    assert one(tmp_path, record).question == "How many?"
    assert one(tmp_path, {**record, "problem": ""}).question == "How many?"
    assert "`question` is empty" in refusal(one, tmp_path, {"question": "", "answer": "3"})
    assert "`answer` is empty" in refusal(one, tmp_path, {"question": "q", "answer": " "})
    text = refusal(one, tmp_path, {**record, "problem": "How many circles?"})
    assert "`question` and `problem` differ" in text
