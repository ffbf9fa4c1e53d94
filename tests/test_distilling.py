"""Run: python -m pytest -q tests/test_distilling.py    (4 s on CPU; no network)

The parts of distill.py, text in and text out: filters, prompts, traces, pairs, files of replies.
"""

import json
import random
import re
from pathlib import Path

import pytest

from distilling import filters, formats, leaks, prompts, replies, stages
from distilling.filters import Trace
from distilling.toy_teacher import ToyTeacher
from plumbing.errors import UserError
from recipes import leak_sentences, planted
from tasks import toy
from tasks.example import Example, Turn

SCENE = [[0, 0, "red", "circle"], [0, 2, "blue", "square"], [2, 3, "red", "circle"]]
ROWS = "Row 1: red circle (1), blue square. Row 2: none. Row 3: red circle (2). Row 4: none."


def example(**more):
    fields = {
        "id": "a",
        "images": [],
        "question": "How many red objects are there?",
        "answer": "2",
        "meta": {"objects": SCENE, "wanted": "red"},
        "source": "toy task count",
        "task": "count",
    }
    return Example(**fields | more)


def thought(text, answer="2"):
    return Trace(f"<think> {text} </think><answer> {answer} </answer>")


# --- from a reply to a trace ---


@pytest.mark.parametrize(
    "reply, thinking, answer",
    [
        ("<think> one, two </think><answer> 2 </answer>", "one, two", "2"),
        (
            "<think>\none, two\n</think>\n\nSo two.\n<answer>2</answer> Bye.",
            "one, two\n\n\nSo two.",
            "2",
        ),
        ("one, two <answer> 2 </answer>", "one, two", "2"),
        ("one, two </think> <answer> 2 </answer>", "one, two", "2"),  # the prompt opened it
        ("<reasoning> one, two </reasoning><answer> 2 </answer>", "one, two", "2"),
        ("I count one, then another.\nAnswer: 2", "I count one, then another.", "2"),
        (r"I count one, then another, so it is \boxed{2}.", None, "2"),
        ("I cannot say what there is, and go on and on, " * 4, None, ""),
        ("", "", ""),
        ("<answer> 2 </answer>", "", "2"),
        ("<think> it is two <answer> 2 </answer>", "it is two", "2"),  # as the readers have it
    ],
)
def test_a_reply_is_written_in_our_tags(reply, thinking, answer):
    trace = stages.to_trace(reply)
    assert trace.answer == answer
    assert trace.text.count("<think>") == trace.text.count("</think>") == 1
    if thinking is not None:
        assert trace.thinking == thinking
    if answer and trace.thinking:
        assert stages.to_trace(trace.text).text == trace.text  # it is its own trace


# --- filters: each both ways ---


@pytest.mark.parametrize(
    "name, refused, passed",
    [
        ("wrong_answer", thought(ROWS, "3"), thought(ROWS, "2.0")),
        ("wrong_answer", Trace("<think> hm </think>"), thought(ROWS)),
        ("no_reasoning", thought("2."), thought("I see one, and another one.")),
        ("cut", thought(ROWS)._replace(finish="length"), thought(ROWS)),
        ("reserved", thought("It ends. <|im_end|> And on."), thought("a < b | c > d")),
        ("reserved", thought("As in <image> there."), thought("as in the image there")),
        ("reserved", thought("It is <answer> 3 </answer>, no."), thought("It is 3, no.")),
        ("leak", thought("According to the description, two."), thought("I describe each row.")),
        ("leak", thought("The reference answer is 2."), thought("The reference angle is 60.")),
        ("leak", thought("Since the answer is given as 2, ..."), thought("Since AB is given, ...")),
        ("leak", thought("I was told that there are two."), thought("I told myself to look.")),
        ("leak", thought("As provided, it is 5."), thought("It is given that AB = 5.")),
        ("leak", thought("The provided details say so."), thought("The given details say so.")),
        ("leak", thought("It was mentioned that x = 3."), thought("As mentioned above, x = 3.")),
        ("leak", thought("根据描述，有两个。"), thought("我看到两个。")),
        ("hallucination", thought("Row 1: red circle (1), red square."), thought(ROWS)),
        ("hallucination", thought("Row 2: red circle."), thought("Row 3: red circle.")),
        ("hallucination", thought("Row 3: red circle, red circle."), thought(f"{ROWS} {ROWS}")),
        ("hallucination", thought("I see a green square."), thought("I see no green square.")),
    ],
)
def test_filters(name, refused, passed):
    judge = filters.FILTERS[name]
    assert not judge(refused, example()).passes and judge(refused, example()).why is not None
    assert judge(passed, example()).passes


def test_a_question_may_ask_about_a_caption():
    asked = example(question="What does the caption say?")
    told = thought("The caption says hello, I think.")
    assert filters.leak(told, asked).passes
    assert not filters.leak(told, example()).passes


def test_hallucinations_are_known_in_toy_scenes_only():
    odd = thought("Row 1: green triangle.")
    assert filters.hallucination(odd, example(source="set.jsonl:3")).passes
    numbers = {"objects": [[0, 0, "number", "7"]]}
    assert filters.hallucination(odd, example(meta=numbers)).passes
    assert not filters.hallucination(odd, example()).passes


@pytest.mark.parametrize("task", ["count", "spatial"])
def test_right_solutions_pass_all_filters_and_are_complete(task):
    for index in range(40):
        one = toy.ToyStream(task, "train", 1, 3, "gold")[index]
        trace = stages.to_trace(one.solution)
        assert filters.refused(trace, one) == {}
        assert filters.overlooked(trace, one).passes


def test_an_overlooked_object_is_the_judges_matter():
    half = thought("Row 1: red circle (1). Row 3: red circle (2).")
    assert filters.refused(half, example()) == {}
    assert filters.overlooked(half, example()).why == "row 1: blue square"


WELL = "CONSISTENT: yes\nRELEVANT: yes\nGROUNDED: yes\nFIRSTHAND: yes"


@pytest.mark.parametrize(
    "response, passes, why",
    [
        (WELL, True, ""),
        (WELL.replace("yes", "**Yes**, it is.").title(), True, ""),
        (f"<think> CONSISTENT: no? </think>{WELL}", True, ""),
        (WELL.replace("RELEVANT: yes", "RELEVANT: no, it rambles"), False, "relevant"),
        (WELL.replace("GROUNDED: yes", "GROUNDED: no"), False, "grounded"),
        (WELL.replace("FIRSTHAND: yes", "FIRSTHAND: no, a caption"), False, "firsthand"),
        ("All is well.", False, "consistent: unreadable"),
        ("CONSISTENT: yes\nRELEVANT: yes", False, "grounded: unreadable"),
        (WELL.partition("FIRSTHAND")[0], False, "firsthand: unreadable"),
        ("<think> CONSISTENT: yes RELEVANT: yes GROUNDED: yes", False, "consistent: unreadable"),
    ],
)
def test_verdicts_of_a_judge(response, passes, why):
    assert filters.judged(response) == (passes, why)


# --- planted faults ---


@pytest.mark.parametrize("fault", planted.PLANTS)
@pytest.mark.parametrize("task", ["count", "spatial"])
def test_a_plant_is_one_fault_and_its_look_alike_is_none(fault, task):
    """What is not a leak of known words, or an object in other words, must be found."""
    rng = random.Random(0)
    for index in range(30):
        one = toy.ToyStream(task, "train", 0, 3, "gold")[index]
        found = filters.refused(stages.to_trace(planted.PLANTS[fault](one.solution, one, rng)), one)
        assert set(found) <= {fault}
        if fault == "wrong_answer":
            assert fault in found
        like = stages.to_trace(planted.LOOK_ALIKES[fault](one.solution, one, rng))
        # "two": our scorer is strict. The filter for leaks is no exact one (docs/distill.md).
        may = {"wrong_answer"} | ({"leak"} if fault == "leak" else set())
        assert set(filters.refused(like, one)) <= may


def test_the_toy_judge_sees_what_the_teacher_wrote():
    teacher = ToyTeacher({"a": example()})
    for text, verdict in (
        (ROWS, "yes"),
        (ROWS.replace("blue square", "green square"), "no"),
        (ROWS.replace(", blue square", ""), "no"),
    ):
        said = prompts.fill(prompts.JUDGE, question="?", thinking=text, answer="2")
        assert re.search(r"GROUNDED: (\w+)", teacher.verdict(example(), said))[1] == verdict
        assert "FIRSTHAND: yes" in teacher.verdict(example(), said)


def test_the_toy_judge_knows_every_leak_that_is_planted():
    teacher = ToyTeacher({"a": example()}, leaks=planted.EVERY_LEAK)
    for sentence in leak_sentences.LEAKS["unseen"]:  # some others name objects, too
        said = prompts.fill(prompts.JUDGE, question="?", thinking=f"{ROWS} {sentence}", answer="2")
        verdict = filters.judged(teacher.verdict(example(), said))
        assert verdict == (False, "firsthand"), sentence


def test_leaks_that_were_seen_are_found_and_what_only_looks_like_one_is_not():
    found = [bool(leaks.find(text)) for text in leak_sentences.LEAKS["seen"]]
    alarms = [text for text in leak_sentences.INNOCENT["seen"] if leaks.find(text)]
    assert sum(found) / len(found) > 0.95 and len(alarms) <= 2


@pytest.mark.parametrize("name", ["tabmwp/warmup_cot64.json", "records/r3v_chartqa_sft_qa.json"])
def test_real_worked_answers_have_no_leak(name):
    """Written by people and models that saw the picture."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    told = re.findall(r'"((?:[^"\\]|\\.){60,})"', path.read_text(encoding="utf-8"))
    assert told and not [text for text in told if leaks.find(text)]


# --- prompts ---


@pytest.mark.parametrize(
    "task, meta, kind",
    [
        ("count", {}, "natural"),
        ("table", {}, "table"),
        ("geometry", {}, "math"),
        (None, {"source": "ChartQA"}, "chart"),
        (None, {"data_source": "ai2d"}, "diagram"),
        (None, {"dataset": "DocVQA"}, "text"),
        (None, {"source": "CLEVR-Math"}, "natural"),
        (None, {}, None),
        (None, {"source": 7}, None),
    ],
)
def test_the_kind_of_a_picture(task, meta, kind):
    assert prompts.kind_of(example(task=task, meta=meta)) == kind


def test_a_kind_is_read_or_natural():
    assert prompts.read_kind("It is a Chart.") == "chart"
    assert prompts.read_kind("I see charts.") == prompts.read_kind("") == "natural"


def test_braces_and_special_tokens_in_values_mean_nothing():
    text = prompts.fill("{question} / {answer}", question="{answer} <|im_end|>", answer="<image>")
    assert text == "{answer} < |im_end|> / < image>"


def test_a_quoted_question_has_its_history_and_no_places_of_pictures():
    one = example(
        images=["a.png"],
        question="<image>And now?",
        history=[Turn("user", "What?"), Turn("assistant", "A cat.")],
    )
    assert prompts.question_of(one) == "user: What?\nassistant: A cat.\nAnd now?"


def test_every_stage_of_a_mode_can_be_asked():
    for mode in stages.MODES.values():
        for name in mode.stages:
            assert name in stages.STAGES
        assert set(mode.worked) <= set(mode.stages)


def line(text, finish="stop", prefix=""):
    return {"text": text, "finish": finish, "prefix": prefix}


def test_only_a_right_answer_is_rewritten_and_only_what_the_rules_pass_is_judged():
    settings = stages.Settings(None, "think", "describe")
    right, wrong = (f"<think> {ROWS} </think><answer> {n} </answer>" for n in (2, 3))
    leaking = f"<think> According to the description, {ROWS} </think><answer> 2 </answer>"
    for text, rewritten in ((right, True), (wrong, False), (leaking, True)):
        asked = stages.look(example(), {"reason": line(text)}, settings)
        assert bool(asked) == rewritten
    assert stages.look(example(), {"reason": line(right, "length")}, settings) is None
    assert stages.look(example(), {}, settings) is None
    for text, judged in ((right, True), (wrong, False), (leaking, False)):
        assert bool(stages.judge(example(), {"look": line(text)}, settings)) == judged
    before = {"reason": line(right), "look": line(leaking)}
    assert stages.judge(example(), before, settings) is None  # the newest text is what counts


def test_verdicts_need_a_judge_where_there_is_one():
    said = {"direct": line(f"{ROWS} <answer> 2 </answer>")}
    assert stages.verdicts(example(), said, "direct", by_model=False) == {}
    assert stages.verdicts(example(), said, "direct", by_model=True) == {"judge": "no verdict"}


def test_a_prefix_is_the_beginning_of_the_thinking():
    settings = stages.Settings(None, "think", "prefix")
    request = stages.go_on(example(), {"caption": line("Two red circles.")}, settings)
    assert request.prefix.startswith("<think>") and not request.prefix.endswith(" ")
    said = {"continue": line(" I count two.</think><answer> 2 </answer>", prefix=request.prefix)}
    trace = stages.trace_of(example(), said, "prefix")
    assert "Two red circles." in trace.thinking and trace.thinking.endswith("Now, I count two.")


# --- pairs ---


def test_pairs_are_read_and_filtered():
    text = (
        "Here they are:\nQ: Who?\nA: Ann\n\n**Q2:** When?\n**A2:** In 1998\nQ: Who?\nA: Bob\n"
        "Q: Where?\nA: Not mentioned.\nQ: How?\nA: ```print(7)```\nQ: Why?\nA:\n"
    )
    kept, counts = stages.checked_pairs(line(text))
    assert kept == [("Who?", "Ann"), ("When?", "In 1998")]
    assert counts == {"repeated": 1, "unanswerable": 1, "code": 1, "empty": 1}


@pytest.mark.parametrize(
    "text",
    [
        "1. Q: Who?\n   A: Ann\n2. Q: When?\n   A: In 1998",
        "1) **Question:** Who?\n**Answer:** Ann\n\n2) **Question:** When?\n**Answer:** In 1998",
        "Q1. Who?\nA1. Ann\nQ2. When?\nA2. In 1998",
        "Sure!\n\nQ: Who?\nA: Ann\n\nQ: When?\nA: In 1998\n\nI hope this helps!",
    ],
)
def test_pairs_of_a_numbered_list_and_among_other_words(text):
    assert stages.pairs_of(line(text)) == [("Who?", "Ann"), ("When?", "In 1998")]


@pytest.mark.parametrize("answer", ["from 2010", "from Paris", "From 9 to 5"])
def test_an_answer_that_begins_with_from_is_no_code(answer):
    assert filters.code("When?", answer).passes
    assert not filters.code("How?", f"{answer}\nfrom os import path").passes


def test_the_last_pair_of_a_cut_reply_is_left_out():
    text = "Q: Who?\nA: Ann\nQ: When?\nA: In nineteen hund"
    assert stages.pairs_of(line(text, "length")) == [("Who?", "Ann")]
    assert len(stages.pairs_of(line(text))) == 2
    assert stages.pairs_of(line("I would rather not.")) == []


# --- the file of a stage ---

BY = {"model": "m", "sampling": {}}


def reply(id, ask="x", failed=None, **more):
    return {"id": id, "ask": ask, "failed": failed, "text": f"of {id}", **BY, **more}


def filled(path, wanted, order, batch=1):
    file = replies.Replies(path, wanted, BY, batch)
    for id in order:
        file.append(reply(id))
    return file


WANTED = dict.fromkeys("abcdef", "x")


def test_replies_come_in_any_order_and_end_in_the_datas(tmp_path):
    one, other = tmp_path / "one" / "s.jsonl", tmp_path / "other" / "s.jsonl"
    for path, order in ((one, "abcdef"), (other, "fdbace")):
        path.parent.mkdir()
        filled(path, WANTED, order).finish()
    assert one.read_bytes() == other.read_bytes()


def test_a_file_that_is_cut_anywhere_is_taken_up(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    filled(path, WANTED, "fdbace")
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        file = replies.Replies(path, WANTED, BY)
        assert file.left == [id for id in WANTED if id not in file.lines]
        assert len(file.lines) >= whole[:end].count(b"\n")
        for id in file.left:
            file.append(reply(id))
        file.finish()
        assert [json.loads(text)["id"] for text in path.read_text().splitlines()] == list("abcdef")
    assert not list(tmp_path.glob("*.damaged*")) and capsys.readouterr().out == ""


def test_a_damaged_line_costs_its_own_reply(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    filled(path, WANTED, "abcdef")
    path.write_text(path.read_text().replace("of c", "of C"))
    assert replies.Replies(path, WANTED, BY).left == ["c"]
    assert (
        "1 damaged line and" in capsys.readouterr().out and (tmp_path / "s.jsonl.damaged").exists()
    )


def test_of_a_checkpoint_whole_batches_are_kept(tmp_path):
    """What is computed together must be computed together again, to the last bit."""
    path = tmp_path / "s.jsonl"
    filled(path, WANTED, "abcde", batch=2)
    assert replies.Replies(path, WANTED, BY, batch=2).left == ["e", "f"]
    filled(path, WANTED, "ef", batch=2)
    assert replies.Replies(path, WANTED, BY, batch=2).left == []


def test_failures_of_a_server_are_asked_again_and_those_of_a_checkpoint_are_answers(tmp_path):
    path = tmp_path / "s.jsonl"
    file = replies.Replies(path, WANTED, BY)
    for id in WANTED:
        file.append(reply(id, failed="429" if id == "c" else None))
    assert file.left == []
    assert replies.Replies(path, WANTED, BY, batch=2).left == []
    assert replies.Replies(path, WANTED, BY).left == ["c"]


def test_replies_to_other_requests_are_dropped_and_kept_aside(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    filled(path, WANTED, "abcdef")
    assert replies.Replies(path, WANTED | {"b": "other"}, BY).left == ["b"]
    assert "0 damaged lines and 1 reply to other requests" in capsys.readouterr().out
    assert (tmp_path / "s.jsonl.damaged").exists()


def test_replies_to_questions_that_are_not_asked_now_stay(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    filled(path, WANTED, "abcdef").finish()
    file = replies.Replies(path, dict.fromkeys("bd", "x"), BY)
    assert file.left == [] and list(file.finish()) == ["b", "d"]
    assert replies.Replies(path, WANTED, BY).left == [] and capsys.readouterr().out == ""


def test_another_teacher_does_not_go_on_with_a_file(tmp_path):
    path = tmp_path / "s.jsonl"
    filled(path, WANTED, "ab")
    with pytest.raises(UserError, match="has replies of model m, and n would go on"):
        replies.Replies(path, WANTED, BY | {"model": "n"})
    with pytest.raises(UserError, match="sampling"):
        replies.Replies(path, WANTED, BY | {"sampling": {"temperature": 1.0}})


# --- schemas ---


def fault(value, schema, where="record"):
    """What in a value breaks a JSON Schema, of the words that ours use; None if nothing does."""
    known = {"type", "properties", "required", "additionalProperties", "items", "enum", "minimum"}
    assert set(schema) <= known | {"anyOf", "$schema"}, schema
    if "anyOf" in schema:
        faults = [fault(value, one, where) for one in schema["anyOf"]]
        return None if None in faults else faults[0]
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, types[schema["type"]]):
        return f"{where} is {type(value).__name__}"
    if value not in schema.get("enum", [value]) or schema.get("minimum", 0) > (
        value if isinstance(value, int) else 0
    ):
        return f"{where} is {value!r}"
    if isinstance(value, list):
        found = (fault(item, schema["items"], f"{where}[{n}]") for n, item in enumerate(value))
        return next(filter(None, found), None)
    if not isinstance(value, dict):
        return None
    properties = schema.get("properties", {})
    missing = set(schema.get("required", ())) - set(value)
    more = set(value) - set(properties)
    if missing or more and schema.get("additionalProperties") is False:
        return f"{where}: {missing or more}"
    found = (
        fault(value[key], properties[key], f"{where}.{key}") for key in value if key in properties
    )
    return next(filter(None, found), None)


SAID = {"filter": "pass", "judge_response": "", "data_source": "s", "provenance": []}


@pytest.mark.parametrize("name", formats.FORMATS)
def test_records_of_every_kind_fit_their_schema(name):
    kinds = {
        "plain": example(),
        "choices": example(choices=["1", "2"]),
        "several pictures": example(images=["a", "b"]),
        "history": example(history=[Turn("user", "What?"), Turn("assistant", "A.")], system="Be."),
    }
    for one in kinds.values():
        record = formats.FORMATS[name](one, ["a.png"] * len(one.images), thought(ROWS), "2")
        record = {"id": "a", **record, **SAID}
        assert fault(record, formats.SCHEMAS[name]) is None
        assert fault(record | {"odd": 1}, formats.SCHEMAS[name])
        assert fault({k: v for k, v in record.items() if k != "id"}, formats.SCHEMAS[name])
        assert fault(record | {"filter": None}, formats.SCHEMAS[name])
    for record in formats.conversation(name, example(), ["a.png"], [("Q?", "A"), ("R?", "B")]):
        assert fault(record | SAID, formats.SCHEMAS[name]) is None


def test_pictures_are_marked_once_each():
    one = example(images=["a", "b"])
    assert formats.turns_of(one) == [("user", f"<image><image>\n{one.question}")]
    placed = example(images=["a"], question="Here: <image>?")
    assert formats.turns_of(placed) == [("user", "Here: <image>?")]
