"""Run: python -m pytest -q tests/test_layout_table.py        (a few seconds; no network)

Every published layout by a record of its form: what it is read as, what is said of a broken one,
and that none is read without its picture. Then golds, marks, choices, files and mixtures.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from layout_table import BASE64, CASES, LONG, PICTURE, THOUGHT, URL, talk
from samples import ODD, SHARED, one, places_in, png, put, refusal, reply, turns, user, write

import rewards
import tasks
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from tasks import image_fields, layouts, marks, mixtures, option_texts, worked_answers
from tasks.prompts import TEMPLATES, question_text


def shown(picture):
    return picture if isinstance(picture, bytes) else Path(picture).name


def read(case, folder, record=None, needs_answer=None):
    needed = not case.open if needs_answer is None else needs_answer
    record = case.record if record is None else record
    return layouts.to_example(record, folder / "set.jsonl", 1, needed)


@pytest.fixture
def there(wide):
    """The folder with a.png and p2.png, and with a picture of COCO's."""
    (wide / "p2.png").write_bytes(png())
    (wide / "000000299207.jpg").write_bytes(png(kind="JPEG"))
    return wide


def test_the_table_is_long_enough():
    assert len(CASES) >= 25


@pytest.mark.parametrize("name", CASES)
def test_a_record_is_read_as_its_authors_meant(name, there):
    case = CASES[name]
    got = read(case, there)
    assert (got.question, got.answer, got.solution) == (case.question, case.answer, case.solution)
    assert [shown(picture) for picture in got.images] == case.images
    assert (got.history, got.system) == (case.history, case.system)
    assert (got.choices, got.task) == (case.choices, case.task)
    assert {key: got.meta[key] for key in case.meta} == case.meta


@pytest.mark.parametrize("name", CASES)
def test_its_gold_can_be_scored(name, there):
    case = CASES[name]
    got = read(case, there)
    if case.open or "boxes" in got.meta:
        return
    rewards.check_gold(got.answer, got.choices, got.meta)
    assert rewards.accuracy(f"<think> I see. </think><answer> {got.answer} </answer>", got) == 1
    assert "<think>" not in got.answer


@pytest.mark.parametrize("name", CASES)
def test_a_broken_copy_gets_its_sentence(name, there):
    case = CASES[name]
    text = refusal(read, case, there, {**case.record, **case.broken})
    assert text.startswith(f"{there / 'set.jsonl'}:1: ") and case.says in text, text


OTHER_NAMES = (
    *(
        "picture",
        "img",
        "photo_path",
        "screenshot",
        "image_b",
        "image_0",
        "image_2",
        "target_image",
    ),
    *("option_image_A", "choice_images", "crops", "reference", "support", "query_image", "visual"),
    *("left_image", "pic", "img_path", "image_url", "file_name", "thumbnail", "depth", "imgname"),
    *(
        "image_name",
        "image_list",
        "image_bytes",
        "Image",
        "imagePath",
        "media",
        "jpg",
        "frames",
        "x",
    ),
)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].keys])
def test_no_layout_is_read_without_its_picture(name, there):
    """Under another key it is read the same, or refused, as long as the record holds it."""
    case = CASES[name]
    for to in OTHER_NAMES:
        for end in ("", "_x"):
            renamed = {}
            for key, value in case.record.items():
                number = key[-1] if len(case.keys) > 1 else ""
                renamed[f"{to}{number}{end}" if key in case.keys else key] = value
            try:
                got = read(case, there, renamed, needs_answer=False)
            except UserError:
                continue
            assert to in ("img", "image_0", *image_fields.OTHER_KEYS) and not end
            assert [shown(picture) for picture in got.images] == case.images, to
            assert got.question in (case.question, case.plain), to
            assert got.answer in (case.answer, ""), to


@pytest.mark.parametrize("name", CASES)
def test_odd_values_are_read_or_refused_and_nothing_else(name, there):
    """What is read is text throughout, and can be written."""
    case, counts = CASES[name], Counter()
    for place in places_in(case.record):
        for odd in ODD:
            try:
                got = read(case, there, put(case.record, place, odd), needs_answer=False)
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 600, place
                counts["refused"] += 1
                continue
            texts = [got.question, got.answer, got.solution or "", got.system or "", got.id]
            texts += [text for turn in got.history for text in turn] + (got.choices or [])
            assert all(isinstance(text, str) for text in texts), (place, odd)
            "".join(texts).encode()
            counts["read"] += 1
    assert counts["refused"] > 10


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].open])
def test_what_has_no_gold_is_refused_where_one_is_needed(name, there):
    text = refusal(read, CASES[name], there, needs_answer=True)
    assert "no answer to compare with" in text and "learns without" in text


# --- golds ---

GOLDS = [  # a worked text, its gold
    (f"{THOUGHT}<answer> 3 </answer>", "3"),
    (f"{THOUGHT}<answer> \\boxed{{3}} </answer>", "3"),
    (f"{THOUGHT} 3", "3"),
    (f"{THOUGHT} The answer is **3**.", "3"),
    ("**The answer is: 3**", "3"),
    ("**Answer:** 3", "3"),
    ("**Final Answer**: 3", "3"),
    ("Final answer: 7", "7"),
    ("So $x = \\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
    ("First \\boxed{1}, then \\boxed{2}.", "2"),
    ("The answer is 3.5 cm. It is long.", "3.5 cm"),
    ("The answer is **3.**", "3"),
    ("The correct answer is (B) blue.", "(B) blue"),
    ("x\n#### 1,000", "1,000"),
    ("#### Step one\nTwo and two.\n" + LONG, ""),
    ("The answer is unclear. " + LONG, ""),
    (LONG, ""),
    ("<think> it never ends. The answer is 3.", ""),
    ("<answer> </answer>", ""),
    ("3.5", "3.5"),
    ("**yes**", "yes"),
    ("2 ** 3", "2 ** 3"),
    ("$5", "$5"),
    ("$\\boxed{A}$", "A"),
]


@pytest.mark.parametrize("text, gold", GOLDS)
def test_the_gold_of_a_worked_text(text, gold):
    assert worked_answers.gold_in(text) == gold


@pytest.mark.parametrize("text, gold", [case for case in GOLDS if case[0] != LONG])
def test_an_answer_that_is_a_worked_text_is_parted(text, gold, tmp_path):
    """It yields its gold, or is open supervision, or is refused; never is it the gold itself."""
    record = {"question": "q", "answer": text}
    got = layouts.to_example(record, tmp_path / "x.json", 1, needs_answer=False)
    if gold or "answer is" in text or "<" in text:
        assert got.answer == gold
    if not got.answer:
        with pytest.raises(UserError, match="no answer to compare with"):
            layouts.to_example(record, tmp_path / "x.json", 1)


NUMBERS = [(1e-05, "0.00001"), (1e16, "10000000000000000"), (0.5, "0.5"), (4.0, "4.0"), (7, "7")]


@pytest.mark.parametrize("number, text", NUMBERS)
def test_numbers_are_written_so_that_they_can_be_met(number, text, tmp_path):
    got = one(tmp_path, {"question": "q", "answer": number})
    assert got.answer == text
    assert one(tmp_path, turns("q", number)).answer == text
    assert rewards.accuracy(f"<answer>{text}</answer>", got) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "record",
    [
        lambda value: {"question": "q", "answer": value},
        lambda value: {"question": "q", "solution": [1, 2, 3, value], "image": "a.png"},
        lambda value: {"question": "q", "answer": "a", "choices": ["a", value]},
        lambda value: turns("q", value),
        lambda value: {"messages": [user("q"), reply(value)]},
        lambda value: {"prompt": "q", "reward_model": {"ground_truth": value}},
    ],
)
def test_what_is_no_number_is_no_gold(record, value, wide):
    with pytest.raises(UserError):
        layouts.to_example(record(value), wide / "x.jsonl", 1)


AGREE = [  # answer, solution, choices, whether they are refused
    ("4", "<answer> 5 </answer>", None, True),
    ("4", "So \\boxed{5}", None, True),
    ("A", "<answer> B </answer>", None, True),
    ("dog", "<answer> cat </answer>", None, True),
    ("red", "<answer> B </answer>", ["red", "blue"], True),
    ("4", "<answer> four </answer>", None, False),
    ("0.5", "<answer> \\frac{1}{2} </answer>", None, False),
    ("140°", "So \\boxed{140^\\circ}", None, False),
    ("A", "<answer> red </answer>", None, False),
    ("B", "<answer> blue </answer>", ["red", "blue"], False),
    ("dog", "<answer> a dog </answer>", None, False),
    ("4", "Five, and then six.", None, False),
]


@pytest.mark.parametrize("answer, solution, choices, refused", AGREE)
def test_answer_and_solution_agree(answer, solution, choices, refused, tmp_path):
    record = {"question": "q", "answer": answer, "solution": solution, "choices": choices}
    if refused:
        assert "but the solution comes to" in refusal(one, tmp_path, record)
    else:
        assert one(tmp_path, record).answer == answer
    chat = {"messages": [user("q")], "answer": answer, "solution": solution, "choices": choices}
    if refused:
        assert "but the solution comes to" in refusal(one, tmp_path, chat)
    else:
        assert one(tmp_path, chat).answer == answer


def test_a_reply_that_contradicts_the_records_gold_is_refused(tmp_path):
    for worked in ("5", f"{THOUGHT} The answer is 5."):
        text = refusal(one, tmp_path, {**turns("q", worked), "gt": "4"})
        assert "the record's answer is '4', but the reply comes to '5'" in text


# --- choices ---

SHOWN = [  # question, choices, what is asked
    ("Which?", ["red", "blue"], "Which?\nOptions:\nA. red\nB. blue"),
    ("Which?\n", ["A. red", "B. blue"], "Which?\nOptions:\nA. red\nB. blue"),
    ("Which?", ["(A) red", "(B) blue"], "Which?\nOptions:\n(A) red\n(B) blue"),
    ("Which?", ["A: red", "B: blue"], "Which?\nOptions:\nA: red\nB: blue"),
    ("Which?", ["A", "B", "C"], "Which?"),
    ("Red or blue?", ["red", "blue"], "Red or blue?"),
    ("Which?\n(A) 3 cm\n(B) 4 cm", ["3 cm", "4 cm"], "Which?\n(A) 3 cm\n(B) 4 cm"),
    ("Which?\nA. red\nB. blue", ["A. red", "B. blue"], "Which?\nA. red\nB. blue"),
    ("Do you know?", ["no", "yes"], "Do you know?\nOptions:\nA. no\nB. yes"),
    ("How many?", None, "How many?"),
]


@pytest.mark.parametrize("question, choices, asked", SHOWN)
def test_choices_are_shown_where_the_question_does_not_name_them(question, choices, asked):
    assert option_texts.with_choices(question, choices) == asked
    assert option_texts.with_choices(asked, choices) == asked  # once


@pytest.mark.parametrize("choices", [["A. red", "B. blue"], ["(A) red", "(B) blue"]])
@pytest.mark.parametrize("said", ["B", "(B)", "blue", "B. blue", "(B) blue"])
def test_choices_with_letters_of_their_own_are_understood(choices, said, tmp_path):
    for key in ("choices", "options"):
        for gold in ("B", "blue", choices[1]):
            got = one(tmp_path, {"question": "q", "answer": gold, key: choices})
            assert rewards.accuracy(f"<answer>{said}</answer>", got) == 1
            assert rewards.mcq(f"<answer>{said}</answer>", got) == 1
            assert rewards.accuracy("<answer>A. red</answer>", got) == 0


@pytest.mark.parametrize("key", ["choices", "options"])
@pytest.mark.parametrize("choices", [["x", "y"], "['x', 'y']", {"A": "x", "B": "y"}])
def test_ways_to_write_choices(key, choices, tmp_path):
    got = one(tmp_path, {"question": "q", "answer": "B", key: choices})
    assert (got.choices, got.meta) == (["x", "y"], {})
    chat = {"messages": [user("q"), reply("B")], key: choices}
    assert (one(tmp_path, chat).choices, one(tmp_path, chat).meta) == (["x", "y"], {})


@pytest.mark.parametrize("options", ["A. x B. y", {"first": "x"}, [{"key": "A"}], None, 3])
def test_options_that_are_no_choices_are_carried_along(options, tmp_path):
    got = one(tmp_path, {"question": "q", "answer": "x", "options": options})
    assert (got.question, got.choices, got.meta) == ("q", None, {"options": options})


def test_published_templates_ask_as_before(tmp_path):
    """The options are below the question, and the instruction below them."""
    got = one(tmp_path, {"question": "Which?", "answer": "B", "choices": ["red", "blue"]})
    asked = question_text(got, "option")
    assert asked == TEMPLATES["option"].format(question="Which?\nOptions:\nA. red\nB. blue")


# --- marks ---

MARKS = [  # question, pictures, what is asked
    ("<image>\nHow many?", 1, "How many?"),
    (" <image> <image>\n How many?", 2, "How many?"),
    ("How many?\n<image>", 1, "How many?\n<image>"),
    ("<image>Is it <image>?", 2, "<image>Is it <image>?"),
    ("How many?", 2, "How many?"),
]


@pytest.mark.parametrize("question, count, asked", MARKS)
def test_marks_stay_in_their_places_but_at_the_beginning(question, count, asked):
    pictures = ["a.png"] * count
    assert marks.placed([], question, pictures, "x:1") == ([], asked, pictures)


def test_marks_of_a_conversation(wide):
    chat = talk("<image>Is it green?", "No.", "And <image>?", "yes")
    got = one(wide, {"image": ["a.png", "a.png"], "conversations": chat})
    assert got.history == [("user", "<image>Is it green?"), ("assistant", "No.")]
    assert got.question == "And <image>?" and len(got.images) == 2
    text = refusal(one, wide, {"image": "a.png", "conversations": chat})
    assert "2 <image> in the question, but 1 images" in text


@pytest.mark.parametrize(
    "text, written, order",
    [
        ("Is <image 2> or <image 1> red?", "Is <image> or <image> red?", "ba"),
        (
            "<image 1> and <image 2>: is <image 1> red?",
            "<image> and <image>: is image 1 red?",
            "ab",
        ),
        ("Is <image 2> red?", "<image>Is <image> red?", "ab"),
        ("Is it red?", "Is it red?", "ab"),
        ("Is <image 3> red?", "Is <image 3> red?", "ab"),
    ],
)
def test_numbered_marks(text, written, order):
    assert marks.in_order([text], ["a", "b"], "x:1") == ([written], list(order))


# --- conversations ---


@pytest.mark.parametrize(
    "roles",
    ["gpt", "gpt human", "human gpt gpt", "system", "system system human", "human system gpt"],
)
def test_turns_that_are_no_conversation_are_refused(roles, tmp_path):
    chat = [{"from": role, "value": "3"} for role in roles.split()]
    text = refusal(one, tmp_path, {"conversations": chat, "answer": "3"})
    assert "must begin with a turn from human (or user)" in text


def test_a_conversation_that_ends_in_the_question_needs_a_gold_of_its_own(tmp_path):
    chat = {"conversations": talk("Is it green?", "No.", "How many?")}
    got = one(tmp_path, {**chat, "answer": 3})
    assert (got.question, got.answer, got.history[1].text) == ("How many?", "3", "No.")
    assert "no answer to compare with" in refusal(one, tmp_path, chat)


def test_a_system_turn_and_another_are_refused(tmp_path):
    chat = {"conversations": talk("q", "3", system="Be brief.")}
    assert one(tmp_path, {**chat, "system": "Be brief."}).system == "Be brief."
    assert "delete one of them" in refusal(one, tmp_path, {**chat, "system": "Be long."})


# --- files ---


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("first", ["info", "questions"])
def test_clevr_in_its_published_tree(tmp_path, indent, first):
    for folder in ("questions", "images/val"):
        (tmp_path / folder).mkdir(parents=True)
    questions = []
    for number in range(3):
        name = f"CLEVR_val_00000{number}.png"
        (tmp_path / "images/val" / name).write_bytes(png())
        record = {"image_filename": name, "question": "How many [{", "answer": f"{number}"}
        questions.append({**record, "split": "val"})
    content = {"info": {"split": "val", "list": [{}]}, "questions": questions}
    content = {key: content[key] for key in sorted(content, reverse=first == "questions")}
    path = tmp_path / "questions/CLEVR_val_questions.json"
    path.write_text(json.dumps(content, indent=indent))
    got = tasks.read(path)
    assert [example.answer for example in got] == ["0", "1", "2"]
    assert [shown(example.images[0]) for example in got] == [q["image_filename"] for q in questions]
    if indent:
        lines = path.read_text().split("\n")
        at = [int(example.source.rpartition(":")[2]) for example in got]
        assert [lines[line].strip() for line in at] == [
            f'"image_filename": "{q["image_filename"]}",' for q in questions
        ]


def test_mmbench_as_a_table(tmp_path):
    path = tmp_path / "MMBench_DEV_EN.tsv"
    rows = ["index\tquestion\thint\tA\tB\tC\tanswer\tcategory\timage"]
    rows.append(f'241\t"Which\none?"\t\tred\tblue\t\tB\tx\t{BASE64}')
    rows.append(f"242\tHow many?\tnan\t1\t2\t3\tC\ty\t{BASE64}")
    path.write_text("\n".join(rows) + "\n")
    first, second = tasks.read(path)
    assert first.question == "Question: Which\none?\nOptions:\nA. red\nB. blue"
    assert (first.id, first.answer, first.images) == ("241", "B", [PICTURE])
    assert (second.source, second.answer) == (f"{path}:4", "C")
    path.write_text("\n".join([*rows, "243\tshort"]))
    assert refusal(tasks.read, path).startswith(f"{path}:5: 2 fields, but 9 columns")


@pytest.mark.parametrize("image", [BASE64, URL, {"bytes": BASE64, "path": None}])
def test_pictures_written_out_are_decoded(tmp_path, image):
    assert one(tmp_path, {"image": image, "question": "q", "answer": "a"}).images == [PICTURE]


@pytest.mark.parametrize("text", ["data: the sum, in all", "R0lGOD is a word", "/9j/ is a path"])
def test_words_that_begin_like_a_picture_are_none(tmp_path, text):
    assert one(tmp_path, {"note": text, "question": "q", "answer": "a"}).images == []


# --- mixtures ---

STRATEGIES = [  # of ten records, those that are taken; None: decided by the file's name
    ("all", list(range(10))),
    ("first:3", [0, 1, 2]),
    ("end:3", [7, 8, 9]),
    ("first:25%", [0, 1, 2]),
    ("end:1%", [9]),
    ("first:99", list(range(10))),
    ("end:0", []),
    ("random:4", None),
]


@pytest.fixture
def ten(wide):
    records = [
        {"image": "a.png", "problem": "the man", "solution": [1, 2, 3, n]} for n in range(3, 13)
    ]
    return write(wide, records, "rec.json")


def mixture(folder, *parts):
    path = folder / "rec.yaml"
    path.write_text("datasets:\n" + "".join(f"  - json_path: {part}\n" for part in parts))
    return str(path)


@pytest.mark.parametrize("strategy, taken", STRATEGIES)
def test_a_mixture_takes_what_it_says(ten, strategy, taken):
    spec = mixture(ten.parent, "rec.json", f"{ten}\n    sampling_strategy: {strategy}")
    got = [example.meta["boxes"][0]["bbox_2d"][3] - 3 for example in tasks.read(spec)]
    assert got[:10] == list(range(10))
    if taken is None:
        assert len(set(got[10:])) == 4 and got == [
            example.meta["boxes"][0]["bbox_2d"][3] - 3 for example in tasks.read(spec)
        ]
    else:
        assert got[10:] == taken
    assert len({example.id for example in tasks.read(spec)}) == len(got)


def test_a_mixture_spells_braces_out(ten):
    for name in ("a_1.json", "a_2.json", "b_1.json", "b_2.json", "c{x,y}.json"):
        (ten.parent / name).write_text(ten.read_text())
    spec = mixture(ten.parent, '"{a,b}_{1, 2}.json"\n    sampling_strategy: first:1', "c{x,y}.json")
    names = [example.source.rpartition("/")[2] for example in tasks.read(spec)]
    assert names[:4] == ["a_1.json:2", "a_2.json:2", "b_1.json:2", "b_2.json:2"]
    assert len(names) == 14 and names[4].startswith("c{x,y}.json")


def test_splits_in_a_mixture(wide):
    records = [{"problem": "q", "solution": "3", "split": split} for split in ("train", "test")]
    path = write(wide, records, "said.json")
    for part, training, says in (
        (path, True, f"{path}:7: its `split` is test, but what is trained on is train"),
        (path, False, "records before it say train"),
        (f"{path}:train", True, None),
        (f"{path}:test", True, None),
    ):
        spec = mixture(wide, part)
        if says:
            assert says in refusal(tasks.read, spec, training=training)
        else:
            assert len(tasks.read(spec, training=training)) == 1
    assert "a mixture has no split" in refusal(tasks.read, f"{spec}:test")


def test_a_file_that_a_mixture_takes_twice_has_its_bad_records_twice(wide):
    path = wide / "lines.jsonl"
    path.write_text('{"problem": "q", "solution": "3"}\n{broken\n{"problem": "q"}\n')
    bad = BadRecords(skip=True)
    assert len(tasks.read(mixture(wide, path, path), bad=bad)) == 2
    assert [row["id"] for row in bad.found.values()] == [
        f"{part}/lines.jsonl:{line}" for part, line in ((1, 2), (2, 2), (1, 3), (2, 3))
    ]


@pytest.mark.parametrize(
    "text, says",
    [
        ("datasets: []", "no mixture; expected a list under `datasets`"),
        ("- json_path: rec.json", "no mixture"),
        ("datasets:\n  - path: rec.json", "part 1 has no `json_path`"),
        ("datasets:\n  - json_path: none.json", "part 1: none.json does not exist"),
        ("datasets: [", "rec.yaml:1: broken YAML"),
        ("[" * 500, "broken YAML (nested too deeply)"),
        ("datasets: 2024-13-45", "broken YAML (month must be in 1..12); put it in quotes"),
        ("datasets: !!timestamp x", "broken YAML"),
        ("datasets: 1:99999999999999999999:0", "no mixture"),
        ("datasets:\n  - json_path: none_{a,b}.json", "part 1: none_a.json does not exist"),
        ("datasets:\n  - json_path: rec.json:test", "rec.json:2: the record says no `split`"),
        ("datasets:\n  - json_path: rec.json\n    sampling_strategy: most", "'most' is unknown"),
        ("datasets:\n  - json_path: rec.json\n    sampling_strategy: end:0", "takes no record"),
    ],
)
def test_a_mixture_that_is_none_is_refused(ten, text, says):
    path = ten.parent / "rec.yaml"
    path.write_text(text)
    assert says in refusal(tasks.read, str(path))
    assert mixtures.SUFFIXES


# --- the slices of public data ---


@pytest.mark.skipif(
    not SHARED.is_dir(),
    reason=f"{SHARED} (public records, not part of this repository) is not there",
)
def test_every_slice_reads_without_a_flag(tmp_path):
    """Those of records/ come without pictures: they are drawn."""
    files = [*SHARED.glob("records/*.json*"), *SHARED.glob("tabmwp/*.json")]
    assert len(files) >= 9
    for file in files:
        if file.parent.name == "tabmwp":
            assert len(tasks.read(file)) == 64
            continue
        text = file.read_text()
        records = json.loads(text) if file.suffix == ".json" else map(json.loads, text.splitlines())
        for record in records:
            named = record.get("image") or record.get("image_path")
            for picture in named if isinstance(named, list) else [named]:
                (tmp_path / picture).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / picture).write_bytes(png())
        (tmp_path / file.name).write_text(text)
        assert all(
            example.answer and example.images for example in tasks.read(tmp_path / file.name)
        )
