"""Run: python -m pytest -q tests/test_distill.py    (15 s on CPU; no network)

The script: what a command makes, how it goes on, and what it refuses.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from commands import refusal, train
from samples import png
from test_distilling import fault

import distill
import tasks
import teachers
from distilling import asking, estimates, formats, prompts, stages, toy_teacher
from plumbing import running, stopping
from plumbing.errors import UserError
from recipes import planted
from tasks import images
from tasks.asks import Failure, Reply, text_of

ROOT = Path(__file__).resolve().parents[1]
TOY = "--data count --teacher toy --judge toy --max-train-samples 12"


def run(out, line=TOY, *more):
    """Type a command, and return what it left: {name: bytes}, but for args.json."""
    train(distill, f"{line} --output-dir {out}", *more)
    return files_of(out)


def files_of(out):
    out = Path(out)
    paths = [path for path in out.rglob("*") if path.is_file() and path.name != "args.json"]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(paths)}


def lines_of(path):
    return [json.loads(text) for text in Path(path).read_text().splitlines()]


def result_of(out):
    return json.loads((Path(out) / "result.json").read_text())


# --- what is made ---


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("mode", stages.MODES)
def test_every_mode_makes_records_that_fit_their_schema_and_are_read(mode, name, tmp_path):
    run(tmp_path, f"{TOY} --mode {mode} --output-format {name}")
    result = result_of(tmp_path)
    kept, rejected = (lines_of(tmp_path / f"{file}.jsonl") for file in ("distilled", "rejected"))
    assert kept and len(kept) == result["kept"] and len(rejected) == result["rejected"]
    assert len(kept) + sum(result["left_out"].values()) == result["questions"] == 12
    for record in kept + rejected:
        assert fault(record, formats.SCHEMAS[name]) is None
        assert (record["filter"] == "pass") == (record in kept)
    read = tasks.read(str(tmp_path / "distilled.jsonl"))
    for example, record in zip(read, kept):
        assert example.answer and len(example.images) == 1
        if mode != "qa":
            assert example.id == record["id"]
            assert stages.to_trace(example.solution).answer == example.answer


def test_what_is_kept_is_right_and_what_is_not_says_why(tmp_path, monkeypatch):
    faults = planted.Faults(leak=0.3, wrong_answer=0.3, hallucination=0.3)
    monkeypatch.setattr(planted, "SENTENCES", "seen")
    errs = {"spoil": partial(planted.spoilt, faults), "leaks": planted.EVERY_LEAK}
    teacher = partial(toy_teacher.ToyTeacher, **errs)
    monkeypatch.setattr(toy_teacher, "ToyTeacher", teacher)
    run(tmp_path, "--data spatial --teacher toy --max-train-samples 40 --mode direct")
    kept, rejected = (lines_of(tmp_path / f"{file}.jsonl") for file in ("distilled", "rejected"))
    said = {name for record in rejected for name in record["filter"].split(", ")}
    assert {"wrong_answer", "leak", "hallucination"} <= said
    golds = {e.id: e.answer for e in (tasks.read("spatial")[n] for n in range(40))}
    assert all(record["gt"] == golds[record["id"]] for record in kept)


def test_the_provenance_names_model_prompt_seed_and_tokens(tmp_path):
    run(tmp_path)
    record = lines_of(tmp_path / "distilled.jsonl")[0]
    steps = record["provenance"]
    assert [step["stage"] for step in steps] == ["describe", "reason", "look", "judge"]
    for step in steps:
        line = next(
            line
            for line in lines_of(tmp_path / "stages" / f"{step['stage']}.jsonl")
            if line["id"] == record["id"]
        )
        assert line.items() >= step.items() and line["model"] == "toy" and line["messages"]
        assert step["seed"] == asking.seed_of(0, f"{step['stage']}:{record['id']}")


def test_text_only_questions_and_pictures_in_the_record(tmp_path, monkeypatch):
    """Pictures that are in no file are written beside the records; a path stays a path."""
    (tmp_path / "a.png").write_bytes(png())
    rows = [
        {"id": "path/1", "image": "a.png", "question": "How many?", "answer": "1"},
        {"id": "none", "question": "How many?", "answer": "1"},
    ]
    data = tmp_path / "set.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    use(monkeypatch, Scripted("I see one, and no other. <answer> 1 </answer>"))
    for name in formats.FORMATS:
        out = tmp_path / name
        run(out, f"--data {data} --teacher x --judge none --mode direct --output-format {name}")
        one, other = lines_of(out / "distilled.jsonl")
        assert str(tmp_path / "a.png") in (one.get("image"), *one.get("images", ()))
        read = tasks.read(str(out / "distilled.jsonl"))
        assert [len(example.images) for example in read] == [1, 0]


def test_boxes_are_kept_in_our_format_alone(tmp_path, capsys, monkeypatch):
    example = tasks.read("ground", teacher="gold")[0]
    use(monkeypatch, Scripted(example.solution))
    line = "--data ground --max-train-samples 1 --teacher x --judge none --mode direct"
    out = tmp_path / "out"
    assert "nanovlr" in refusal(distill, [*line.split(), "--output-dir", out], capsys)
    run(out, f"{line} --output-format nanovlr")
    [record] = lines_of(out / "distilled.jsonl")
    assert fault(record, formats.SCHEMAS["nanovlr"]) is None
    [read] = tasks.read(str(out / "distilled.jsonl"))
    assert read.meta["boxes"] == example.meta["boxes"]


def test_the_reference_of_a_box_question_is_as_its_answer_is_read(tmp_path, monkeypatch):
    """A teacher that repeats it is right: boxes of the model are in thousandths, not in pixels."""

    def repeat(ask):
        [reference] = re.findall(
            "Reference answer: (.*)|Final answer: (.*)", text_of(ask.messages[0])
        )
        thinking = "It is to the left of the centre, and a little below it."
        return f"<think> {thinking} </think><answer> {''.join(reference)} </answer>"

    use(monkeypatch, Scripted(repeat))
    line = "--data ground --max-train-samples 4 --teacher x --judge none --mode hindsight"
    run(tmp_path, f"{line} --output-format nanovlr")
    assert result_of(tmp_path)["kept"] == 4


def test_blind_solved_questions_are_marked_and_can_be_left_out(tmp_path):
    marked = run(tmp_path, f"{TOY} --stages blind describe reason look judge")
    records = lines_of(tmp_path / "distilled.jsonl") + lines_of(tmp_path / "rejected.jsonl")
    solved = {record["id"] for record in records if record["blind_solved"]}
    assert 0 < len(solved) < len(records)
    dropped = run(tmp_path, f"{TOY} --drop-blind-solved")
    kept = {record["id"] for record in lines_of(tmp_path / "distilled.jsonl")}
    assert kept and not kept & solved
    assert result_of(tmp_path)["left_out"]["blind_solved"] >= len(solved)
    for name in ("describe", "reason"):  # what was paid for stays
        one, other = (files[f"stages/{name}.jsonl"] for files in (marked, dropped))
        assert sorted(one.splitlines()) == sorted(other.splitlines())


def test_documents_need_a_text_and_have_as_many_pages_as_there_are(tmp_path, capsys, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png())
    data = tmp_path / "pages.jsonl"
    row = {"id": "1", "images": ["a.png", "b.png"], "text": ["One.", "Two."]}
    data.write_text(json.dumps(row) + "\n" + json.dumps({"id": "2", "image": "a.png"}) + "\n")
    line = f"--mode qa --data {data} --teacher x"
    said = refusal(distill, [*line.split(), "--output-dir", tmp_path / "out"], capsys)
    assert "pages.jsonl:2: no text to ask about" in said
    teacher = Scripted("Q: What?\nA: One\nQ: And?\nA: Two\nQ: Who?\nA: It is not mentioned.")
    use(monkeypatch, teacher)
    run(tmp_path / "out", f"{line} --skip-bad-records --output-format messages")
    [record] = lines_of(tmp_path / "out" / "distilled.jsonl")
    assert [turn["content"] for turn in record["messages"]] == [
        "<image><image>\nWhat?", "One", "And?", "Two",
    ]  # fmt: skip
    assert result_of(tmp_path / "out")["left_out"]["unanswerable"] == 1
    assert "One.\n\nTwo." in teacher.asked[0].messages[0]["content"]


# --- who answers ---


class Scripted:
    """A teacher that says one text to all, or text(ask); it fails at some ids.

    It answers in an order of its own.
    """

    name = "scripted"

    def __init__(self, text, failing=(), seed=0, before=None):
        self.text, self.failing, self.seed = text, set(failing), seed
        self.before = before  # called before each answer with its number
        self.asked = []

    def ask(self, asks, seeds):
        order = list(range(len(asks)))
        random.Random(self.seed).shuffle(order)
        for number, at in enumerate(order):
            if self.before:
                self.before(number)
            self.asked.append(asks[at])
            text = self.text(asks[at]) if callable(self.text) else self.text
            reply = Reply(text, 10, 5, "stop")
            failed = asks[at].id.partition(":")[2] in self.failing
            yield asks[at], Failure("429: too busy") if failed else reply
            if stopping.requested():
                return


def use(monkeypatch, teacher):
    monkeypatch.setattr(teachers, "make_teacher", lambda *_: teacher)


RIGHT = "I look, row by row, and count. <answer> 1 </answer>"
ONE_BY_ONE = "--data count --max-train-samples 10 --teacher x --judge none --mode direct"


def test_the_order_of_the_replies_does_not_matter(tmp_path, monkeypatch):
    left = []
    for seed in (0, 1):
        use(monkeypatch, Scripted(RIGHT, seed=seed))
        left.append(run(tmp_path / str(seed), ONE_BY_ONE))
    assert left[0] == left[1]


def test_failures_are_counted_and_asked_again(tmp_path, monkeypatch, capsys):
    """A teacher that is down for some of the questions loses none of them."""
    failing = [f"count:train:0:{n}" for n in (2, 5)]
    use(monkeypatch, Scripted(RIGHT, failing))
    run(tmp_path, ONE_BY_ONE)
    assert "2 failed, the first: 429: too busy" in capsys.readouterr().out
    assert result_of(tmp_path)["left_out"]["failed"] == 2
    again = Scripted(RIGHT)
    use(monkeypatch, again)
    ended = run(tmp_path, ONE_BY_ONE)
    assert sorted(ask.id for ask in again.asked) == [f"direct:{id}" for id in failing]
    use(monkeypatch, Scripted(RIGHT))
    assert ended == run(tmp_path.with_name("whole"), ONE_BY_ONE)


def test_stages_one_by_one_by_different_teachers(tmp_path, monkeypatch, capsys):
    """A server that sees describes, another reasons: each stage has its own --teacher."""
    line = "--data count --max-train-samples 4 --teacher x --judge none"
    out, texts = tmp_path / "out", {"describe": "Four rows.", "reason": RIGHT, "look": RIGHT}
    for name, text in texts.items():
        teacher = Scripted(text)
        teacher.name = f"who does {name}"
        use(monkeypatch, teacher)
        run(out, f"{line} --stages {name}")
        left = {"describe": "reason look judge", "reason": "look judge", "look": "judge"}[name]
        assert f"{name} is finished; the next stages: {left}" in capsys.readouterr().out
    run(out, f"{line} --stages judge")
    record = (lines_of(out / "distilled.jsonl") + lines_of(out / "rejected.jsonl"))[0]
    models = [step["model"] for step in record["provenance"]]
    assert models[:2] == ["who does describe", "who does reason"]
    said = refusal(distill, [*line.split(), "--stages", "reason", "--output-dir", out], capsys)
    assert "has replies of model who does reason, and who does look would go on" in said


def test_a_teacher_that_is_asked_nothing_is_not_loaded(tmp_path, monkeypatch):
    """--stages judge with another judge: the teacher's weights have nothing to do."""
    made, line = [], "--data count --max-train-samples 4 --mode direct"

    def make(args, prefix="", like=None):
        made.append((prefix, like))
        return Scripted(RIGHT)

    monkeypatch.setattr(teachers, "make_teacher", make)
    run(tmp_path, f"{line} --teacher x --judge y --stages direct")
    assert made == [("", None)]
    made.clear()
    run(tmp_path, f"{line} --teacher x --judge y --stages judge")
    assert made == [("judge", None)]


def test_another_server_goes_on_with_a_model_of_the_same_name(tmp_path, capsys):
    """Servers move. The command says so once, and each record says who wrote it."""
    pytest.importorskip("openai")
    from chat_server import ChatServer, completion

    def answer(body):
        return 200, completion(RIGHT)

    line = "--data count --mode direct --judge none --teacher-model m --max-train-samples"
    addresses = []
    for number in (2, 5):
        with ChatServer(answer=answer) as server:
            addresses.append(server.address)
            run(tmp_path, f"{line} {number} --teacher {server.address}")
            said = capsys.readouterr().out
            assert said.count("goes on with replies of") == (number == 5)
            run(tmp_path, f"{line} {number} --teacher {server.address}")
            assert "goes on with" not in capsys.readouterr().out
    written = lines_of(tmp_path / "distilled.jsonl") + lines_of(tmp_path / "rejected.jsonl")
    found = [record["provenance"][0]["server"] for record in written]
    assert [found.count(address) for address in addresses] == [2, 3]


def test_a_checkpoint_as_teacher_goes_on_exactly(tmp_path, base):
    """Its batches are cut as before, wherever a run was stopped."""
    line = f"--data count --max-train-samples 7 --teacher {base} --judge none --mode direct"
    line += " --max-completion-length 8 --eval-batch-size 3"
    whole = run(tmp_path / "whole", line)
    run(tmp_path / "cut", line)
    stage = tmp_path / "cut" / "stages" / "direct.jsonl"
    stage.write_bytes(b"".join(stage.read_bytes().splitlines(keepends=True)[:5]))
    assert run(tmp_path / "cut", line) == whole


@pytest.mark.parametrize("flag", ["--dtype bfloat16", "--max-pixels 3136", "--min-pixels 50176"])
def test_a_checkpoint_loaded_otherwise_is_another_teacher(tmp_path, base, capsys, flag):
    line = f"--data count --max-train-samples 2 --teacher {base} --judge none --mode direct"
    line += " --max-completion-length 8"
    run(tmp_path, line)
    said = refusal(distill, [*line.split(), *flag.split(), "--output-dir", tmp_path], capsys)
    assert "direct.jsonl has replies of sampling" in said


def test_a_server_with_faults_loses_and_doubles_nothing(tmp_path, monkeypatch):
    """What 429, 500, half a body, a broken body and a reset leave is what a good server leaves."""
    pytest.importorskip("openai")
    from chat_server import ChatServer, completion
    from test_served import MadeUpClock

    import served

    monkeypatch.setattr(served, "Clock", MadeUpClock)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-of-the-test")
    faults = ["500", None, "half", "429 after 7", "malformed", None, "reset", "503", "html"] * 2

    def answer(body):
        return 200, completion(f"I looked at it {body['seed']} times. <answer> 1 </answer>")

    left = []
    for name, given in (("good", []), ("bad", faults)):
        with ChatServer(answer=answer, faults=given) as server:
            line = f"--data count --max-train-samples 12 --teacher {server.address}"
            line += " --teacher-model m --mode direct --judge none --drop-blind-solved"
            left.append(run(tmp_path / name, line))
            assert (len(server.bodies) > 24) == bool(given)
            # A test's server has another port each time, and each line a checksum.
            told = re.compile(re.escape(server.address).encode() + rb'|"crc32": "\w+"')
            left[-1] = {key: told.sub(b"", text) for key, text in left[-1].items()}
    assert left[0] == left[1]
    assert b"sk-a-key" not in b"".join(left[1].values())
    assert "sk-a-key" not in (tmp_path / "bad" / "args.json").read_text()


def test_a_budget_stops_in_time_and_the_same_command_goes_on(tmp_path):
    pytest.importorskip("openai")
    from chat_server import ChatServer, completion

    def answer(body):
        return 200, completion("I looked at it twice. <answer> 1 </answer>", tokens=50)

    with ChatServer(answer=answer) as server:
        line = f"--data count --max-train-samples 12 --teacher {server.address} --teacher-model m"
        line += " --mode direct --judge none --max-completion-length 50 --teacher-price 0 1000000"
        with pytest.raises(UserError, match="stopped before --budget 260 is exceeded"):
            run(tmp_path / "out", f"{line} --budget 260")
        assert len(server.bodies) == 5
        run(tmp_path / "out", f"{line} --budget 700")
        assert len(server.bodies) == 12
        assert len(lines_of(tmp_path / "out" / "stages" / "direct.jsonl")) == 12


# --- stopped, and typed again ---


def test_a_run_that_is_cut_anywhere_ends_the_same(tmp_path):
    whole = run(tmp_path, TOY)
    rng = random.Random(0)
    names = [name for name in whole if name.startswith("stages/") and whole[name]]
    for _ in range(20):
        name = rng.choice(names)
        (tmp_path / name).write_bytes(whole[name][: rng.randrange(len(whole[name]))])
        for later in ["distilled.jsonl", "result.json", *names[rng.randrange(len(names)) :]]:
            if later != name:
                (tmp_path / later).unlink(missing_ok=True)
        assert run(tmp_path, TOY) == whole


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    stop = Scripted(RIGHT, before=lambda n: n == 4 and os.kill(os.getpid(), signal.SIGINT))
    use(monkeypatch, stop)
    with pytest.raises(SystemExit) as ended:
        words = [*ONE_BY_ONE.split(), "--output-dir", str(tmp_path)]
        running.run(distill.main, distill.parse_args, words)
    assert ended.value.code == 130
    assert "5 of 10 replies are in" in capsys.readouterr().out
    rest = Scripted(RIGHT)
    use(monkeypatch, rest)
    ended = run(tmp_path, ONE_BY_ONE)
    assert len(rest.asked) == 5
    use(monkeypatch, Scripted(RIGHT))
    assert ended == run(tmp_path.with_name("whole"), ONE_BY_ONE)


def test_more_questions_than_before_are_asked_and_the_others_kept(tmp_path, monkeypatch):
    use(monkeypatch, Scripted(RIGHT))
    run(tmp_path, ONE_BY_ONE)
    more = Scripted(RIGHT)
    use(monkeypatch, more)
    run(tmp_path, ONE_BY_ONE.replace("10", "13"))
    assert len(more.asked) == 3


@pytest.mark.slow
def test_killed_at_twenty_random_points(tmp_path, base):
    """kill -9 when so much is written; the same command again, until it ends."""
    line = f"--data spatial --teacher {base} --mode direct --max-completion-length 12"
    line += " --max-train-samples 64 --eval-batch-size 4 --stages blind direct judge"
    whole = run(tmp_path / "whole", line)
    size = sum(len(text) for name, text in whole.items() if name.endswith(".jsonl"))
    rng = random.Random(0)
    out = tmp_path / "killed"
    command = [sys.executable, "distill.py", *line.split(), "--output-dir", str(out)]
    kills = 0
    for goal in sorted(rng.randrange(size) for _ in range(20)):
        process = subprocess.Popen(command, cwd=ROOT, stdout=-3, stderr=-3)
        while process.poll() is None:
            written = sum(path.stat().st_size for path in out.rglob("*.jsonl"))
            if written >= goal:
                process.kill()
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
    subprocess.run(command, cwd=ROOT, stdout=-3, check=True)
    assert files_of(out) == whole and kills >= 15


# --- what is refused, before anything is asked ---


@pytest.mark.parametrize(
    "line, says",
    [
        ("--stages clean", "--stages clean is not of --mode describe, which has blind describe"),
        ("--mode hindsight --picture-kind chart", "--picture-kind is for --mode describe"),
        ("--mode qa --drop-blind-solved", "--drop-blind-solved has no meaning with --mode qa"),
        ("--mode qa --stages blind", "--stages blind is not of --mode qa, which has qa"),
        ("--mode poem", "invalid choice: 'poem'"),
        ("--data table", "know the scenes of count and spatial, and --data is table"),
        ("--data nowhere.jsonl", "no such file or folder"),
        ("--prompt-template odd", "--prompt-template odd is unknown"),
        ("--budget 5", "--budget is for a server, and there is none to pay"),
        ("--teacher-model NAME", "--teacher-model is for a server, and --teacher toy is none"),
        ("--teacher-price 1 1", "--teacher-price is for a server, and --teacher toy is none"),
        ("--judge-model NAME", "--judge-model is for a server as judge"),
        ("--judge-price 1 1", "--judge-price is for a server as judge"),
        ("--judge none --judge-model NAME", "--judge-model is for a server as judge"),
        ("--quant nf4", "--quant is for a checkpoint, and none is asked here"),
        ("--judge http://h/v1 --device cpu", "--device is for a checkpoint, and none is asked"),
        ("--max_retries 3", "--max-retries is for a server, and none is asked here"),
        ("--judge some/model --request-timeout 9", "--request-timeout is for a server, and none"),
        ("--max-pixels 3136", "--max-pixels is for a model, and none is asked here"),
        ("--judge none --max-completion-length 9", "--max-completion-length is for a model, and"),
        ("--temperature 1", "--temperature is for a model as teacher, and toy is none"),
        ("--judge some/model --top-p=1", "--top-p is for a model as teacher, and toy is none"),
    ],
)
def test_refusals(line, says, tmp_path, capsys):
    given = f"{TOY} {line} --output-dir {tmp_path / 'out'}"
    if "--data" in line:
        given = given.replace("--data count", "")
    assert says in refusal(distill, given.split(), capsys)


def test_another_runs_directory_is_refused(tmp_path, capsys):
    run(tmp_path)
    for more, says in (
        ("--seed 1", "--seed was 0 when"),
        ("--mode direct", "--mode was describe when"),
        ("--picture-kind chart", "--picture-kind was None when"),
    ):
        words = f"{TOY} {more} --output-dir {tmp_path}".split()
        assert says in refusal(distill, words, capsys)


def test_a_question_without_a_picture_cannot_be_described(tmp_path, capsys):
    data = tmp_path / "set.jsonl"
    data.write_text(json.dumps({"question": "How many?", "answer": "1"}))
    words = f"--data {data} --teacher toy --output-dir {tmp_path / 'out'}".split()
    assert "set.jsonl:1: no picture to put into words" in refusal(distill, words, capsys)


def test_a_teacher_of_text_is_not_shown_pictures(tmp_path, capsys, monkeypatch):
    teacher = object.__new__(teachers.TextTeacher)
    teacher.name = "reads"
    use(monkeypatch, teacher)
    for line in ("", "--mode hindsight", "--mode prefix --judge none"):
        words = f"--data count --max-train-samples 2 --teacher x {line}".split()
        words += ["--output-dir", tmp_path / "out"]
        assert "reads text only, and stage" in refusal(distill, words, capsys)
    distill.must_see(teacher, ["reason", "look"], "--teacher")  # as these show none


# --- the estimate ---


def test_the_estimate_counts_requests_tokens_and_cost(tmp_path, capsys, monkeypatch):
    use(monkeypatch, Scripted(RIGHT))
    run(tmp_path, f"{ONE_BY_ONE} --teacher-price 1000 2000 --max-completion-length 100")
    said = capsys.readouterr().out
    assert "10 records, stages direct: at most 10 requests, about " in said
    example = tasks.read("count")[0]
    # 112 x 112 pixels are 16 tokens
    words = (len(example.question) + stages.STAGES["direct"].quotes) / estimates.CHARACTERS
    assert estimates.prompt_tokens("direct", example, None) == 16 + words
    assert "1 thousand completion tokens" in said  # 10 of 100 at most
    assert ", 2." in said.split("completion tokens")[1]  # 10 x 100 of 2000 a million, and prompts


def test_the_estimate_counts_kinds_only_where_they_are_asked(tmp_path, capsys):
    """`count` says what its pictures are, so nobody is asked."""
    run(tmp_path, f"{TOY} --stages describe")
    said = capsys.readouterr().out
    assert "12 records, stages kind describe: at most 12 requests, about " in said


def test_help_says_what_is_so(capsys):
    with pytest.raises(SystemExit):
        distill.parse_args(["--help-all"])
    said = " ".join(capsys.readouterr().out.split())
    for flag, is_so, was_so in (
        ("--prompt-template TEMPLATE how", "(default: think)", "else r1v"),
        ("--box-format {norm1000,resized,pixels} how", "(default: norm1000)", "its family"),
        ("--teacher MODEL who", "or toy, which", "none:"),
        ("--judge MODEL who", "none: the rules alone decide", "errs"),
    ):
        text = said.partition(flag)[2].partition(" --")[0]
        assert is_so in text and was_so not in text, flag
    args = distill.parse_args("--data count --teacher toy --output-dir x".split())
    assert (args.prompt_template, args.box_format) == ("think", "norm1000")


def test_prompts_have_no_place_left(tmp_path):
    run(tmp_path, f"{TOY} --stages describe reason look judge blind")
    for path in (tmp_path / "stages").glob("*.jsonl"):
        for line in lines_of(path):
            text = json.dumps(line["messages"])
            assert not any(f"{{{name}}}" in text for name in ("question", "thinking", "answer"))
    assert prompts.KINDS == tuple(prompts.DESCRIBE)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png(640, 480))
    data = tmp_path / "set.jsonl"
    data.write_text(json.dumps({"image": "a.png", "question": "How many?", "answer": "1"}))
    words = f"--data {data} --teacher toy --max-image-pixels 1000 --output-dir {tmp_path / 'o'}"
    assert "set.jsonl:1" in refusal(distill, words.split(), capsys)
    images.limit_image_pixels()
