"""Run: python -m pytest -q tests/test_benchmarks.py        (about 15 s on CPU; no network)

MathVista, MMMU, MMStar, MMBench, MathVerse, MATH-Vision, R1-Onevision-Bench and MiniWob: asked as
published, and scored as the published program (its verdicts: recipes/published_verdicts.py).
"""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from scored import score

import tasks
from plumbing.errors import UserError
from plumbing.records import read_lines
from tasks import layouts, lettered, mathvision, mmmu, prompts, protocols
from tasks.marked_answers import marked_answer
from tasks.published import PROTOCOLS

VERDICTS = read_lines(Path(__file__).parent / "published_verdicts.jsonl")
PROGRAMS = ("mathvista", "mmmu", "mmstar", "mmbench", "mathvision")


# --- equal to the published programs ---


@pytest.mark.parametrize("name", PROGRAMS)
def test_verdicts_are_those_of_the_published_program(name):
    records = [record for record in VERDICTS if record["protocol"] == name]
    assert len(records) >= 200 and 0.2 < sum(bool(r["verdict"]) for r in records) / len(records)
    pairs = protocols.to_examples(enumerate(records), name)
    result, rows = protocols.score(pairs, name)
    for record, (_, example), row in zip(records, pairs, rows):
        if "extraction" in record:  # what an LLM has made of the response
            ours = PROTOCOLS[name].judge_score(record["extraction"], example)
        else:
            ours = None if row.get("needs_judge") else row["accuracy_original"]
        assert ours == record["verdict"], record
    if name == "mmbench":
        whole = [record["circular"] for record in records if "circular" in record]
        assert len(whole) == result["circular_questions"] > 100
        assert result["circular_original"] == sum(whole) / len(whole)


def test_ours_never_guesses():
    """What the programs guess or find by likeness, ours counts as unreadable."""
    said = {"prediction": "I cannot tell.", "answer": "A", "choices": ["red", "blue"]}
    for name in PROGRAMS:
        result, rows = score([{**said, "id": place} for place in range(20)], name)
        assert result["accuracy"] == 0 and result["parse_failures"] == 20, name
        assert 0 < result["accuracy_original"] < 1 or name != "mmmu"


# --- how each is asked ---

MMMU_ROW = {
    "id": "validation_Art_1",
    "question": "Which is red, <image 1>?",
    "options": "['this', 'that']",
    "image_1": {},
    "answer": "B",
}
ASKED = {
    "mmmu": (
        MMMU_ROW,
        "Which is red, <image>?\n(A) this\n(B) that\n\nAnswer with the option's letter from the "
        "given choices directly.",
    ),
    "mmmu, open": (
        MMMU_ROW | {"options": "[]", "answer": "['1.06', '1.060']"},
        "Which is red, <image>?\nAnswer the question using a single word or phrase.",
    ),
    "mmstar": (
        {**PROTOCOLS["mmstar"].sample, "question": "Which?\nOptions: A: a, B: b"},
        "Which?\nOptions: A: a, B: b\nAnswer with the option's letter from the given choices "
        "directly.",
    ),
    "mmstar, columns": (
        {**PROTOCOLS["mmstar"].sample, "question": "Which?", "A": "a", "B": "b", "C": None},
        "Which?\nA. a\nB. b\nAnswer with the option's letter from the given choices directly.",
    ),
    "mmbench": (
        {"index": 1, "question": "Which?", "hint": "Look.", "A": "a", "B": "b", "answer": "B"},
        "Hint: Look.\nQuestion: Which?\nOptions:\nA. a\nB. b\nPlease select the correct answer "
        "from the options above. \n",
    ),
    "mathvision": (
        {**PROTOCOLS["mathvision"].sample, "options": list("12345"), "answer": "B"},
        'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a '
        'multiple choice question, only one letter is allowed in the "\\boxed{}".\nHow many '
        "different digits can you find in this picture?\n<image>\n(A) 1\n(B) 2\n(C) 3\n(D) 4\n"
        "(E) 5\n",
    ),
    "mathvista": (  # as in GitHub's files, without a query
        {
            "pid": "1",
            "question": "How long?",
            "image": {},
            "unit": "cm",
            "precision": 1,
            "answer": "1.2",
            "question_type": "free_form",
            "answer_type": "float",
        },
        "Hint: Please answer the question requiring a floating-point number with one decimal place "
        "and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\n"
        "Question: How long? (Unit: cm)",
    ),
    "mathvista, choices": (
        {
            "pid": "1",
            "question": "Which?",
            "image": {},
            "unit": None,
            "precision": None,
            "answer": "b",
            "choices": ["a", "b"],
            "answer_type": "text",
        },
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, "
        "at the end.\nQuestion: Which?\nChoices:\n(A) a\n(B) b",
    ),
}


def picture(size=(64, 48)):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "png")
    return buffer.getvalue()


def read_row(name, record, folder):
    """(protocol, example) of a published row with its picture."""
    recipe = PROTOCOLS[name.partition(",")[0]]
    keys = {"mmmu": "image_1", "mathvista": "decoded_image", "mathvision": "decoded_image"}
    row = record | {keys.get(recipe.name, "image"): {"bytes": picture()}}
    return recipe, layouts.to_example(row, folder / "set.jsonl", 1)


@pytest.mark.parametrize("name", ASKED)
def test_a_row_is_asked_as_published(name, tmp_path):
    record, asked = ASKED[name]
    recipe, example = read_row(name, record, tmp_path)
    assert prompts.question_text(example, recipe.template) == asked
    [judged] = protocols.judged([example], recipe.name)
    assert recipe.score(f"<answer>{example.answer}</answer>", judged) == 1


# --- what is read ---

READ = [  # said, the answer, the answer where a phrase may be one
    ("<answer> B </answer>", "B", "B"),
    ("<think>A?</think> The answer is B.", "B", "B"),
    ("<think>The answer is B.", None, None),
    ("We add.\nSo \\boxed{12} it is.", "12", "12"),
    ("Answer: 14 cm", "14 cm", "14 cm"),
    ("(B) 8/11", "(B) 8/11", "(B) 8/11"),
    ("145°", "145°", "145°"),
    ("the red cube", None, "the red cube"),
    ("First this.\nThen that.", None, None),
    ("Answer: A\nBut \\boxed{B} it may be.\nHm.", None, None),
    ("", None, None),
]


@pytest.mark.parametrize("said, plain, phrase", READ)
def test_what_is_read_without_tags(said, plain, phrase):
    assert marked_answer(said) == plain
    assert marked_answer(said, phrases=True) == phrase


OPTIONS = [
    ("A: red, B: blue", ["red", "blue"]),
    ("A:35°\nB:55°\nC:x + 1", ["35°", "55°", "x + 1"]),
    ("(A) 1 (B) 2, (C) 3", ["1", "2", "3"]),
    ("A. 3.5 cm B. 7", ["3.5 cm", "7"]),
    ("A: see https://a.b, B: none", ["see https://a.b", "none"]),
    ("A: red, C: blue", None),
    ("A: red, B: blue, A: green", None),
    ("red or blue", None),
]


@pytest.mark.parametrize("text, options", OPTIONS)
def test_options_in_a_text(text, options):
    assert lettered.options_in(text) == options


def test_letters_that_mislead_name_the_places():
    """In MMMU, options "E", "B", "C", "A" have the right answer A, which is the first."""
    record = {"prediction": "A", "answer": "A", "choices": None, "options": ["E", "B", "C", "A"]}
    assert score([record], "mmmu")[0]["accuracy"] == 1
    assert lettered.without_false_letters(["A", "C"]) == ["A", "C"]


# --- MathVista ---

NUMBERS = [  # type, decimals, gold, said, ours
    ("float", 1.0, "1.2", "1.2", 1),
    ("float", 1.0, "1.2", "The answer is 1.249 m.", 1),
    ("float", 1.0, "1.2", "1.26", 0),
    ("float", 2.0, "0.5", "\\boxed{1/2}", 1),
    ("integer", None, "14", "14.9", 0),  # theirs cuts it to 14
    ("integer", None, "14", "14 balls", 1),
    ("list", None, "[2, 3]", "<answer>[2, 3]</answer>", 1),
]


@pytest.mark.parametrize("kind, decimals, gold, said, right", NUMBERS)
def test_mathvista(kind, decimals, gold, said, right):
    record = {"prediction": said, "answer": gold, "answer_type": kind, "precision": decimals}
    result = score([record | {"metadata": {"task": "figure question answering"}}], "mathvista")[0]
    assert result["accuracy"] == right
    assert list(result["by"]["task"]) == ["figure question answering"]


# --- MMMU ---


def test_mmmu_guesses_in_the_order_of_its_subjects():
    """Whatever the order of the file, and a resumed run guesses the same."""
    ids = [f"validation_{subject}_{n}" for subject in ("Sociology", "Art") for n in range(6)]
    base = {"prediction": "", "answer": "A", "choices": ["a", "b", "c", "d"]}
    rows = score([{**base, "id": one} for one in ids], "mmmu")[1]
    other = score([{**base, "id": one} for one in [*ids[6:], *ids[:6]]], "mmmu")[1]
    guesses = {row["id"]: row["original_guess"] for row in rows}
    assert guesses == {row["id"]: row["original_guess"] for row in other}
    assert len(set(guesses.values())) > 1
    again = protocols.totals(rows, "mmmu")
    assert guesses == {row["id"]: row["original_guess"] for row in rows}
    assert again["original_guesses"] == 12 and again["accuracy"] == 0
    assert again["by"]["discipline"]["Art and Design"]["n"] == 6


def test_mmmu_knows_every_subject_once():
    assert sorted(mmmu.DISCIPLINE) == sorted(mmmu.SUBJECTS) and len(mmmu.SUBJECTS) == 30


# --- MMBench ---


def rolled(index, *said):
    """Rows of one question, its options red and blue rolled on; the right one is red."""
    rows = []
    for roll, text in enumerate(said):
        choices = ["red", "blue"] if roll % 2 == 0 else ["blue", "red"]
        told = {"index": index + roll * 1_000_000, "answer": "AB"[roll % 2], "category": "colour"}
        rows.append({**told, "choices": choices, "prediction": text})
    return rows


def test_mmbench_counts_a_question_that_is_right_in_all_rows():
    always_a, right, once = rolled(1, "A", "A"), rolled(2, "A", "B"), rolled(3, "A")
    result = score([*always_a, *right, *once], "mmbench")[0]
    assert result["accuracy"] == 4 / 5
    assert result["circular"] == result["circular_original"] == 2 / 3
    assert result["circular_by_category"] == {"colour": {"accuracy": 2 / 3, "n": 3}}
    only_rolled = score(rolled(4, "A", "B")[1:], "mmbench")[0]
    assert only_rolled["circular_questions"] == 0


# --- judges ---

JUDGED = {  # protocol: record, replies to its questions, what the last question holds, score
    "mathvista": (
        {"prediction": "I see two.", "answer": "2", "answer_type": "integer", "question": "Q?"},
        ["2.0"],
        "Q?\n\nI see two.\n\nExtracted answer: ",
        1,
    ),
    "mmbench": (
        {
            "prediction": "a crimson ball",
            "answer": "B",
            "choices": ["blue", "red"],
            "question": "Hint: Look.\nQuestion: Which\nOptions:\nA. blue\nB. red",
        },
        ["B"],
        "Question: Which?\nOptions: There are several options: \nA. blue\nB. red\n\nAnswer: a crim",
        1,
    ),
    "mathverse": (
        {"prediction": "so x is 3", "answer": "3", "question": "Find x."},
        ["Extracted Answer: 3", "Judgement: 1"],
        "[Question]: Find x.\n[Standard Answer]: 3\n[Model_answer] : 3\nJudgement:",
        1,
    ),
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_judge_is_asked_as_published(name):
    record, replies, holds, right = JUDGED[name]
    [(text, example)] = protocols.to_examples([("x", record)], name)
    recipe, said = PROTOCOLS[name], text
    assert len(recipe.judge_steps) == len(replies)
    for step, reply in zip(recipe.judge_steps, replies):
        asked = step(said, example)
        said = reply
    assert recipe.judge_score(said, example) == right
    assert holds in asked
    result, [row] = score([record], name)
    assert row["needs_judge"] and result["needs_judge"] == 1 and not result.get("disagreements")


@pytest.mark.parametrize("name", ["mmbench", "mathverse"])
def test_a_reply_that_says_nothing_is_no_verdict(name):
    record = JUDGED[name][0]
    [(_, example)] = protocols.to_examples([("x", record)], name)
    with pytest.raises(ValueError, match="the judge"):
        PROTOCOLS[name].judge_score("I would rather not.", example)


def test_no_judge_is_asked_where_rules_decide():
    [(text, example)] = protocols.to_examples(
        [("x", {**JUDGED["mmbench"][0], "prediction": "B"})], "mmbench"
    )
    recipe = PROTOCOLS["mmbench"]
    assert (
        recipe.judge_steps[0](text, example) is None and recipe.published_score(text, example) == 1
    )
    assert not PROTOCOLS["mmstar"].judge_steps


# --- MathVerse, R1-Onevision-Bench ---


def test_mathverse_takes_an_option_by_its_text(tmp_path):
    record = {**PROTOCOLS["mathverse"].sample, "problem_version": "Vision Only", "question": ""}
    recipe, example = read_row("mathverse", record, tmp_path)
    [judged] = protocols.judged([example], "mathverse")
    scores = [recipe.score(f"The answer is {said}.", judged) for said in ("B", "55°", "A", "35°")]
    assert scores == [1, 1, 0, 0]


CHOICES = [  # as the row has them, the question, what is read, whether they are added
    (["up", "down"], "Which?", ["up", "down"], True),
    ("['up', 'down']", "Which?", ["up", "down"], True),
    ("A. up\nB. down", "Which?\nChoices:\nA. up\nB. down", ["up", "down"], False),
    ("A. up B. down", "Which?", ["up", "down"], True),
    ("up or down", "Which?", None, True),
    ("", "Which?", None, False),
    (None, "Which?", None, False),
]


@pytest.mark.parametrize("choices, question, read, added", CHOICES)
def test_r1_onevision_reads_choices_of_any_form(choices, question, read, added, tmp_path):
    record = {**PROTOCOLS["r1_onevision"].sample, "choices": choices, "question": question}
    recipe, example = read_row("r1_onevision", record, tmp_path)
    assert example.choices == read
    assert (example.question != question) == added
    [judged] = protocols.judged([example], "r1_onevision")
    assert recipe.score("Answer: B", judged) == 1


# --- MiniWob ---

CLICK = '{"action_type": 4, "click_point": (0.25,0.53)}'
EPISODES = {
    "click-button": [[{"goal": "Click ok", "action_type": "click", "bbox": [20, 100, 60, 121]}]],
    "login": [
        [
            {"goal": "Log in", "action_type": "click", "bbox": [0, 0, 16, 21]},
            {"goal": "Log in", "action_type": "type", "typed_text": 'Ann "x"'},
        ]
    ],
}
STEPS = [  # said, gold, ours
    (CLICK, CLICK, 1),
    (f"<think>x</think><answer>{CLICK}</answer>", CLICK, 1),
    ('{"action_type": 4, "click_point": [0.126, 0.57]}', CLICK, 1),
    ('{"action_type": 4, "click_point": (0.39,0.53)}', CLICK, 0),
    ('{"action_type": 3, "typed_text": "ok"}', CLICK, 0),
    (f"{CLICK} or {CLICK}", CLICK, 0),
    ("click ok", CLICK, 0),
    ('{"action_type": 3, "typed_text": "ok"}', '{"action_type": 3, "typed_text": "ok"}', 1),
    ('{"action_type": 3, "typed_text": "OK"}', '{"action_type": 3, "typed_text": "ok"}', 0),
]


def test_miniwob_steps_are_read_and_asked_as_seeclick_does(tmp_path):
    episodes = json.loads(json.dumps(EPISODES))
    for place, step in enumerate(s for runs in episodes.values() for run in runs for s in run):
        step["img_filename"] = f"{place}.png"
        (tmp_path / f"{place}.png").write_bytes(picture((160, 210)))
    file = tmp_path / "miniwob_data_train.json"
    file.write_text(json.dumps(episodes))
    first, second, third = tasks.read(str(file))
    assert [one.id for one in (first, second, third)] == [
        "click-button-0-0",
        "login-0-0",
        "login-0-1",
    ]
    assert first.answer == CLICK
    assert first.question.endswith("Instruction: Click ok. Previous actions:")
    before = 'Step0: {"action_type": 4, "click_point": (0.05,0.05)}.'
    assert third.question.endswith(f"Instruction: Log in. Previous actions: {before}")
    judged = protocols.judged([first, second, third], "miniwob")
    assert [PROTOCOLS["miniwob"].score(one.answer, one) for one in judged] == [1, 1, 1]
    other = third.answer.replace("x", "y")
    assert PROTOCOLS["miniwob"].score(other, judged[2]) == 0


@pytest.mark.parametrize("said, gold, right", STEPS)
def test_miniwob_scores_a_step(said, gold, right):
    record = {"prediction": said, "answer": gold, "bbox": [20, 100, 60, 121], "task": "click"}
    result = score([record], "miniwob")[0]
    assert result["accuracy"] == right
    assert result["parse_failures"] == (said.count("action_type") != 1)


def test_miniwob_refuses_a_click_without_its_target():
    with pytest.raises(UserError, match="add `bbox`"):
        score([{"prediction": CLICK, "answer": CLICK}], "miniwob")


# --- MATH-Vision's texts ---

FORMS = [
    ("\\boxed{60^{\\circ}}", "60"),
    ("so \\boxed{12} and \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("The answer is (B).", "b"),
    ("it is 61.", "61"),
    ("x = 0.5", "\\frac{1}{2}"),
    ("3/4", "\\frac{3}{4}"),
    ("\\sqrt3", "\\sqrt{3}"),
]


@pytest.mark.parametrize("said, form", FORMS)
def test_mathvision_extracts_as_published(said, form):
    assert mathvision.mathv_answer(said) == form
