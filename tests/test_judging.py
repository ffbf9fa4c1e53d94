"""Run: python -m pytest -q tests/test_judging.py        (15 s on CPU; no network)

LAVE: what a judge is asked, and how its words are read; and evaluate.py --judge, of a server that
fails and of a checkpoint.
"""

import json

import pytest
from chat_server import ChatServer, completion, question_of
from commands import read

import evaluate
import served
from grading import lave
from plumbing.errors import UserError
from plumbing.records import read_lines

# --- the rule ---

REPLIES = [  # what a judge says, its rating, and what the authors' program makes of it
    ("The candidate answer is correct. So rating=3", 3, 1.0),
    ("It is incomplete because one color is missing. So rating=2", 2, 0.5),
    ("The candidate answer is incorrect. So rating=1", 1, 0.0),
    ("Correct. So rating=3.", 3, 0.5),  # its last character is no digit: the program guesses
    ("**Rating: 3**", 3, 0.5),
    ("rating = 1\n", 1, 0.0),
    ("I rate it.\n\n2", 2, 0.5),
    ("First I thought rating=1, but it is the same amount. So rating=3", 3, 1.0),
    ("Rating: 3/3", None, 1.0),
    ("So rating=4", None, 0.5),
    ("So rating=2.5", None, 0.5),
    ("So rating=13", None, 1.0),
    ("There are 3", 3, 1.0),
    ("The answer names 1, 2 and 3 boats.", None, 0.5),
    ("", None, 0.5),
    ("I cannot rate this answer.", None, 0.5),
    ("The bus came at 10:13", None, 1.0),
    ("Rating (1-3): 3", 3, 1.0),  # the scale is no rating
    ("On a rating of 1 to 3, it is correct.", None, 0.5),
    ("rating=1 or 2", None, 0.5),
    ("rating=2 out of 3", 2, 1.0),
    ("rating=-1", None, 0.0),
    ("He named 1 of 3", None, 1.0),
    ("<think>At first rating=1, but </think>So rating=3", 3, 1.0),
    ("<think>It could be rating=2", None, 0.5),  # cut off
]


@pytest.mark.parametrize("reply, rating, original", REPLIES)
def test_a_judges_words(reply, rating, original):
    assert lave.rating(reply) == rating
    assert lave.score_original(reply) == original


def test_ratings_become_scores():
    assert [lave.score(rating) for rating in (1, 2, 3)] == [0.0, 0.5, 1.0]


def test_what_a_judge_is_asked():
    text = lave.prompt("What color?", ["red", "red", "dark red"], "crimson")
    assert text.startswith("You are given a question, a set of gold-standard reference answers")
    assert text.endswith(
        "Question: 'What color?'\nReference answers: 'dark red', 'red', 'red'\n"
        "Candidate answer: 'crimson'\nOutput:"
    )
    parts = text.split("\n\n")
    assert len(parts) == 2 + 8 + 1  # the instruction has two paragraphs
    assert all(lave.rating(part) in (1, 2, 3) for part in parts[2:-1])


def test_questions_of_yes_or_no_have_demonstrations_of_their_own():
    assert lave.is_binary(["Yes.", "Yes.", "no"]) and not lave.is_binary(["yes, a dog"])
    assert "Is the door open?" in lave.prompt("Is it?", ["no"], "maybe")
    assert "Is the door open?" not in lave.prompt("What is it?", ["nothing"], "maybe")


def test_references_that_are_much_rarer_than_the_commonest_are_left_out():
    """At most a quarter as often, as in the paper."""
    assert lave.without_rare(["a"] * 4 + ["b", "c", "c"]) == ["a"] * 4 + ["c", "c"]
    assert lave.without_rare(["a", "b"]) == ["a", "b"]


def test_the_demonstrations_are_balanced():
    for demonstrations in (lave.DEMONSTRATIONS, lave.BINARY_DEMONSTRATIONS):
        ratings = [rating for *_, rating in demonstrations]
        assert len(ratings) == 8 and {1, 2, 3} == {*ratings}
    assert all(lave.is_binary(given) for _, given, *_ in lave.BINARY_DEMONSTRATIONS)
    assert not any(lave.is_binary(given) for _, given, *_ in lave.DEMONSTRATIONS)


# --- evaluate.py --judge ---


def rate(body):
    """A judge: 3 for a candidate with a 3 in it, 1 for "four", and else no rating."""
    candidate = question_of(body).rpartition("Candidate answer: '")[2]
    said = "So rating=1" if candidate.startswith("four") else "I cannot tell."
    return 200, completion("So rating=3" if "3" in candidate else said)


def saved(tmp_path, said, **more):
    """Saved outputs to questions whose answer is 3."""
    records = [
        {"id": n, "question": "How many?", "prediction": f"<answer>{a}</answer>", "answer": "3"}
        for n, a in enumerate(said)
    ]
    file = tmp_path / "saved.jsonl"
    file.write_text("".join(json.dumps(record | more) + "\n" for record in records))
    return f"--predictions {file} --protocol geoqa --output-dir {tmp_path / 'out'}"


def judged(line, *words):
    evaluate.main(evaluate.parse_args([*line.split(), *words]))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A failed request is sent again at once."""
    monkeypatch.setattr(served, "FIRST_DELAY", 0.001)


def test_ratings_stand_beside_the_rules_verdict(tmp_path, capsys):
    line = saved(tmp_path, ["3", "three or 3 of them", "four", "five"])
    with ChatServer(rate) as server:
        judged(line, "--judge", server.address)
        assert len(server.bodies) == 4 and server.bodies[0]["temperature"] == 0
    result = read(tmp_path / "out" / "result.json")
    assert (result["accuracy"], result["judge"]) == (0.25, "m")
    assert (result["lave_n"], result["lave_unparsable"], result["lave_failed"]) == (3, 1, 0)
    assert result["lave"] == pytest.approx(2 / 3) and result["lave_rule"] == pytest.approx(1 / 3)
    assert (result["lave_lenient"], result["lave_strict"]) == (1, 0)
    assert result["lave_original"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    rows = read_lines(tmp_path / "out" / "predictions.jsonl")
    assert [row["accuracy"] for row in rows] == [1, 0, 0, 0]
    assert [row["lave"] for row in rows] == [1.0, 1.0, 0.0, None]
    assert rows[3]["lave_reply"] == "I cannot tell."
    assert "1 ratings could not be read and 0 were not given" in capsys.readouterr().out


def test_a_judge_that_fails_is_asked_again_and_counted(tmp_path):
    """Every way of failing for now is tried again; one ask fails for good: the run has a result."""
    line = saved(tmp_path, ["3"] * 6)
    faults = ["500", "malformed", "half", "429", "reset", "html"]

    def answer(body):
        return (400, {"error": {"message": "no"}}) if "bad" in str(body) else rate(body)

    file = tmp_path / "saved.jsonl"
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace("How many?", "A bad question?")
    file.write_text("\n".join(lines))
    with ChatServer(answer, faults) as server:
        judged(line, "--judge", server.address, "--teacher-concurrency", "1")
        assert len(server.bodies) == 6 + len(faults)
    result = read(tmp_path / "out" / "result.json")
    assert (result["lave_n"], result["lave_failed"], result["lave"]) == (5, 1, 1.0)
    assert read_lines(tmp_path / "out" / "predictions.jsonl")[2]["lave"] is None


def test_replies_are_not_paid_for_twice(tmp_path):
    """The second time only what failed is asked; the rule's result was there before."""
    line = saved(tmp_path, ["3"] * 4)
    with ChatServer(rate, lambda number: "401" if number == 2 else None) as server:
        with pytest.raises(UserError, match="refuses the key"):
            judged(line, "--judge", server.address, "--teacher-concurrency", "1")
        result = read(tmp_path / "out" / "result.json")
        assert result["accuracy"] == 1 and "lave" not in result
        judged(line, "--judge", server.address)
        assert len(server.bodies) == 3 + 2
    assert read(tmp_path / "out" / "result.json")["lave_n"] == 4


def test_all_annotators_answers_are_references(tmp_path):
    line = saved(tmp_path, ["3"], answers=["3", "3", "three"])
    with ChatServer(rate) as server:
        judged(line, "--judge", server.address)
        assert "Reference answers: '3', '3', 'three'" in question_of(server.bodies[0])


def test_of_an_unreadable_answer_the_whole_text_is_rated(tmp_path):
    line = saved(tmp_path, ["3"])
    file = tmp_path / "saved.jsonl"
    file.write_text(file.read_text().replace("<answer>3</answer>", "I count 3 of them"))
    with ChatServer(rate) as server:
        judged(line, "--judge", server.address)
    result = read(tmp_path / "out" / "result.json")
    assert (result["accuracy"], result["lave"]) == (0, 1)


def test_questions_with_choices_are_left_to_the_rule(tmp_path):
    line = saved(tmp_path, ["3"], choices=["3", "4"])
    with pytest.raises(UserError, match="every question has choices or boxes"):
        judged(line, "--judge", "http://127.0.0.1:9/v1")
    assert not (tmp_path / "out" / "args.json").exists()


def test_a_models_answers_are_rated_and_can_be_rated_later(tmp_path, base):
    """evaluate.py --model, and again with --resume-from-checkpoint --judge."""
    line = f"--model {base} --data count:test --max-eval-samples 3 --max-completion-length 6"
    line += f" --output-dir {tmp_path / 'out'}"
    judged(line)
    before = read_lines(tmp_path / "out" / "predictions.jsonl")
    for _ in range(2):
        with ChatServer(rate) as server:
            judged(line, "--resume-from-checkpoint", "--judge", server.address)
    assert server.bodies == []  # the second time all replies are there
    rows = read_lines(tmp_path / "out" / "predictions.jsonl")
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in before]
    assert all("lave" in row for row in rows)
    assert read(tmp_path / "out" / "result.json")["lave_asked"] == 3


def test_a_checkpoint_can_be_the_judge(tmp_path, base):
    """An untrained one says nothing that could be read: all of it is counted, none guessed."""
    line = saved(tmp_path, ["3", "4"])
    judged(line, "--judge", str(base))
    result = read(tmp_path / "out" / "result.json")
    assert result["accuracy"] == 0.5
    assert result["lave_n"] + result["lave_unparsable"] + result["lave_failed"] == 2


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("--max-retries 3", "--max-retries is for a judge, and none is named"),
        ("--judge localhost:8000", "an address begins with http:// or https://"),
        ("--judge http://x/v1 --temperature 1", "asks no model: omit --temperature"),
        ("--judge http://x/v1 --quant nf4", "--quant is for a checkpoint, and none is asked here"),
        ("--judge some/model --max-retries 3", "--max-retries is for a server, and none is asked"),
        ("--judge some/model --budget 3", "--budget is for a server, and there is none to pay"),
    ],
)
def test_flags_that_do_not_fit(words, sentence, capsys):
    line = f"--predictions x.jsonl --protocol geoqa --output-dir out {words}"
    refused(line, sentence, capsys)


def test_flags_of_a_server_do_not_fit_two_checkpoints(capsys):
    line = "--model some/model --data count:test --output-dir out --judge some/model"
    refused(f"{line} --budget 3", "--budget is for a server, and there is none to pay", capsys)
    args = evaluate.parse_args(
        f"{line.replace('judge some', 'judge http://h')} --quant nf4".split()
    )
    assert args.quant == "nf4"  # of --model


def refused(line, sentence, capsys):
    with pytest.raises(SystemExit):
        evaluate.parse_args(line.split())
    assert sentence in capsys.readouterr().err


# --- what a protocol's authors ask ---


def extract_then_compare(body):
    """MathVerse's two steps: the answer is taken out, then compared; of a 7 nothing is said."""
    asked = question_of(body)
    if "Judgement" not in asked.splitlines()[-1]:
        said = asked.rpartition("Model response: ")[2]
        return 200, completion("Extracted Answer: " + said[:9].strip("'"))
    answer = asked.rpartition("[Model_answer] :")[2]
    return 200, completion("hm" if "7" in answer else str(int("B" in answer)))


def test_answers_are_extracted_and_compared_as_mathverses_authors_do(tmp_path):
    records = [
        {"id": n, "question": "Which?", "prediction": said, "answer": "B"}
        for n, said in enumerate(["It is B", "It is C", "It is 7", "lost"])
    ]
    file = tmp_path / "saved.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))

    def answer(body):
        if "lost" in str(body):
            return 400, {"error": {"message": "no"}}
        return extract_then_compare(body)

    with ChatServer(answer, ["500"]) as server:
        line = f"--predictions {file} --protocol mathverse --output-dir {tmp_path / 'out'}"
        judged(line, "--judge", server.address)
        assert len(server.bodies) == 1 + 4 + 3
    result = read(tmp_path / "out" / "result.json")
    assert (result["accuracy_judged"], result["accuracy_judged_n"]) == (0.5, 2)
    assert (result["judge_unparsable"], result["judge_failed"]) == (1, 1)
    rows = read_lines(tmp_path / "out" / "predictions.jsonl")
    assert [row["accuracy_judged"] for row in rows] == [1, 0, None, None]
    assert len(read_lines(tmp_path / "out" / "judge_2.jsonl")) == 3
