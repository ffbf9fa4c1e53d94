"""Run: python -m pytest -q tests/test_report.py        (about 5 s on CPU; no network, no browser)

What is on the page of a run is what stands in its files, whatever became of them. What a browser
makes of it is in test_report_browser.py.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser

import pytest
from commands import refusal
from page_runs import (
    distilled,
    evaluation,
    examples_of,
    grpo_run,
    page_data,
    text_for,
    view,
    write_args,
)
from PIL import Image

from plumbing import disk, records, report, report_data
from plumbing.report_answers import MOST_LETTERS, number_of, text_of
from tasks import kept
from tasks.example import Example

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]><img src=x onerror=alert(1)>",
    "{{script}} {{data}} {{title}} {{style}}",
    "\u2028\u2029\x00\x1b[31m \ud800 \u202e",
    "&lt;script&gt; &#60;script&#62;",
    "\\u003cscript\\u003e",
    "javascript:alert(1)",
    "__proto__",
]


@pytest.fixture
def run(tmp_path):
    return grpo_run(tmp_path / "run")


def data_of(*runs):
    return page_data(report.page(list(runs)))


# --- the data are those of the files ---


def test_metrics_that_are_compared_share_a_chart():
    line = {"step": 1, "mixture/a": 0.25, "mixture/b": 0.75, "router_disagreement/mean": 0.0}
    panels = report_data.curves_of([line | {"router_disagreement/tokens": 0.0}], "step")
    names = [[curve["name"] for curve in panel["curves"]] for panel in panels]
    shares = ["router_disagreement/mean", "router_disagreement/tokens"]
    assert names == [["mixture/a", "mixture/b"], shares]
    assert all(panel["main"] for panel in panels)


def test_every_metric_of_every_step_is_a_point(run):
    [shown] = data_of(run)["runs"]
    curves = {c["name"]: c["points"] for panel in shown["curves"] for c in panel["curves"]}
    wanted = {}
    for line in records.read_lines(run / "metrics.jsonl"):
        for name, value in line.items():
            if name != "step" and value is not None:
                wanted.setdefault(name, []).append([line["step"], pytest.approx(value, rel=1e-5)])
    assert curves == wanted and "loss" not in curves  # null: it was not finite
    assert shown["last"] == shown["end"] == 8


def test_every_sample_of_every_kept_step_is_an_answer(run):
    [shown] = data_of(run)["runs"]
    frames = view(shown, "samples of training")["frames"]
    assert [frame["at"] for frame in frames] == [1, 4, 8]
    for frame in frames:
        lines = records.read_lines(run / "samples" / f"step_{frame['at']:06d}.jsonl")
        assert [len(group["answers"]) for group in frame["groups"]] == [4] * 4
        answers = [
            (shown["questions"][group["question"]], answer)
            for group in frame["groups"]
            for answer in group["answers"]
        ]
        for line, (question, answer) in zip(lines, answers, strict=True):
            assert answer["text"] == line["completion"]
            assert [question["question"], question["answer"]] == [line["question"], line["answer"]]
            for name in ("accuracy", "format", "advantage"):
                assert answer["scores"][name] == pytest.approx(line[name], rel=1e-5)
            assert answer["state"] == ("right" if line["accuracy"] else "wrong")


def test_a_held_out_question_is_the_same_one_at_every_evaluation(run):
    [shown] = data_of(run)["runs"]
    frames = view(shown, "held-out: count:test")["frames"]
    assert [frame["at"] for frame in frames] == [0, 4, 8]
    asked = [[group["question"] for group in frame["groups"]] for frame in frames]
    assert asked[0] == asked[1] == asked[2] and len(set(asked[0])) == 6
    for frame in frames:
        lines = records.read_lines(run / "samples" / f"eval_0_count-test_{frame['at']:06d}.jsonl")
        texts = [group["answers"][0]["text"] for group in frame["groups"]]
        assert texts == [line["prediction"] for line in lines]


def test_each_picture_is_there_once_and_is_the_questions(tmp_path, run):
    data = data_of(run, shutil.copytree(run, tmp_path / "copy"))
    used = {q["picture"] for shown in data["runs"] for q in shown["questions"]}
    assert used == data["pictures"].keys() and len(used) == 18  # 3 steps x 4, and 6 held out
    [shown, _] = data["runs"]
    for example in examples_of("count:test", 6):
        question = next(q for q in shown["questions"] if q["id"] == example.id)
        assert data["pictures"][question["picture"]] == kept.picture_url(example)


def test_the_command_and_the_versions(run):
    [shown] = data_of(run)["runs"]
    assert shown["argv"] == ["--output-dir", str(run)] and shown["versions"] == {"python": "3"}
    assert shown["commit"] == "c" * 40 and shown["script"] == "train_grpo.py"
    assert shown["flags"]["num_generations"] == "4" and "crc32" not in shown["flags"]


@pytest.mark.parametrize(
    "text, state",
    [
        ("<answer> {gold} </answer>", "right"),
        ("<answer> 999 </answer>", "wrong"),
        ("I do not know", "unreadable"),
    ],
)
def test_right_wrong_and_unreadable(text, state, tmp_path):
    [example] = examples_of("count:test", 1)
    (tmp_path / "samples").mkdir()
    answer = text.replace("{gold}", example.answer)
    kept.keep_answers(tmp_path / "samples", ["a"], "a", 0, [example], [answer])
    [shown] = data_of(tmp_path)["runs"]
    assert shown["views"][0]["frames"][0]["groups"][0]["answers"][0]["state"] == state


def test_boxes_are_shares_of_the_picture(tmp_path):
    run = grpo_run(tmp_path / "run", "ground")
    [shown] = data_of(run)["runs"]
    frame = view(shown, "held-out")["frames"][-1]
    seen = 0
    for group, example in zip(frame["groups"], examples_of("ground:test", 6), strict=True):
        width, height = example.meta["size"]
        gold = [box["bbox_2d"] for box in example.meta["boxes"]]
        shares = [[a / width, b / height, c / width, d / height] for a, b, c, d in gold]
        question = shown["questions"][group["question"]]
        assert question["boxes"] == [pytest.approx(box, abs=1e-3) for box in shares]
        [answer] = group["answers"]
        if answer["state"] == "right":  # it repeats the gold boxes, in thousandths
            seen += 1
            said = answer.get("boxes", [])  # there may be nothing to find
            assert said == [pytest.approx(box, abs=5e-3) for box in shares]
        else:
            assert "boxes" not in answer  # "999" is none
    assert seen


def test_an_evaluation_shows_greedy_and_sampled_answers_and_what_is_disputed(tmp_path):
    run = evaluation(tmp_path / "eval")
    [shown] = data_of(run)["runs"]
    [frame] = view(shown, "answers: count:test")["frames"]
    kinds = [[answer["kind"] for answer in group["answers"]] for group in frame["groups"]]
    assert kinds == [["greedy", "sample 1", "sample 2"]] * 5
    assert [group.get("disputed", False) for group in frame["groups"]] == [0, 1, 0, 0, 0]
    states = [[answer["state"] for answer in group["answers"][1:]] for group in frame["groups"]]
    assert states == [["right", "unreadable"]] * 5
    assert {"name": "accuracy", "first": None, "last": 0.6} in shown["figures"]


ITEM = {"id": "q0", "task": "refine", "prompt": "Improve it.", "target": "better"}
PAIR = {"id": "q0", "question": "How?", "chosen": "yes", "rejected": "no", "kind": "answer"}


def test_an_iteration_shows_its_pool_what_it_learned_and_its_evaluation(tmp_path):
    folder = tmp_path / "iteration-1"
    folder.mkdir()
    write_args(tmp_path, "selftrain.py", iterations=1)
    example = Example("q0", [], "How?", "3")
    kept.keep_questions(folder / "questions_pool.jsonl", [example])
    kept.keep_questions(tmp_path / "samples" / "questions_eval_0.jsonl", [example])
    line = {"id": "q0", "completion": "I say 3", "answer": "3", "right": True, "readable": True}
    wrong = line | {"answer": None, "right": False, "readable": False}
    records.write_lines(folder / "pool.jsonl", [line, wrong], "label")
    disk.write_lines(folder / "train.jsonl", [ITEM, PAIR])
    records.write_lines(folder / "eval_0_greedy.jsonl", [line], "label")
    picked = {"id": "q0", "selection": "the first", "answer": "4", "how": "selected"}
    records.write_lines(folder / "eval_0_selected.jsonl", [picked | {"right": False}], "label")
    [shown] = data_of(tmp_path)["runs"]
    [group] = view(shown, "pool")["frames"][0]["groups"]
    assert [answer["state"] for answer in group["answers"]] == ["right", "unreadable"]
    item, pair = view(shown, "learned from")["frames"][0]["groups"]
    assert item["prompt"] == "Improve it." and item["answers"][0]["kind"] == "refine"
    assert [a["kind"] for a in pair["answers"]] == ["answer: chosen", "answer: rejected"]
    [group] = view(shown, "held-out")["frames"][0]["groups"]
    assert [answer["kind"] for answer in group["answers"]] == ["greedy", "selected"]
    [question] = {q["key"]: q for q in shown["questions"]}.values()  # one, not one a file
    assert question["answer"] == "3" and shown["x"] == "iteration"


# --- thinning ---


def test_long_runs_are_thinned_evenly_and_keep_both_ends():
    for count in (1, 2, 3, 39, 40, 41, 1000):
        values = list(range(count))
        chosen = report_data.spread(values, 40)
        assert len(chosen) == min(count, 40) == len(set(chosen))
        assert chosen[0] == 0 and chosen[-1] == count - 1
        gaps = [b - a for a, b in zip(chosen, chosen[1:])]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_answers_of_a_long_run_fit_their_room(tmp_path, monkeypatch):
    run = grpo_run(tmp_path / "run")
    whole = data_of(run)["runs"][0]["views"]
    monkeypatch.setattr(report_data, "ANSWER_BYTES", len(json.dumps(whole)) // 4)
    thin = data_of(run)["runs"][0]["views"]
    assert len(json.dumps(thin)) < len(json.dumps(whole)) // 3
    assert all("no room" in each["note"] for each in thin)
    for one, other in zip(thin, whole):  # what is left is as it was
        frames = {frame["at"]: frame["groups"] for frame in other["frames"]}
        for frame in one["frames"]:
            assert frame["groups"] == frames[frame["at"]][: len(frame["groups"])] != []


def test_pictures_beyond_their_room_are_counted(run, monkeypatch):
    monkeypatch.setattr("plumbing.report_answers.PICTURE_BYTES", 8000)
    data = data_of(run)
    [shown] = data["runs"]
    assert sum(map(len, data["pictures"].values())) <= 8000
    assert len(data["pictures"]) + shown["pictures_omitted"] == 18


# --- hostile texts, odd files ---


class Parts(HTMLParser):
    """The start tags of a page."""

    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_data(text, tmp_path):
    run = grpo_run(tmp_path / "run", say=lambda example, right: text)
    args = json.loads((run / "args.json").read_text())
    disk.write_json(run / "args.json", args | {"argv": [text], "script": text, "commit": text})
    disk.write_lines(run / "metrics.jsonl", [{"step": 1, text: 1.0, f"eval/{text}/accuracy": 1}])
    html, parts = report.page([run]), Parts()
    parts.feed(html)
    tags = [tag for tag, _ in parts.tags]
    assert (
        tags
        == "html head meta meta meta meta title style body main noscript".split() + ["script"] * 2
    )
    [shown] = page_data(html)["runs"]
    said = view(shown, "samples")["frames"][0]["groups"][0]["answers"][0]["text"]
    assert said == text or "�" in said  # half a surrogate cannot be written to a file


@pytest.mark.parametrize("name", ["a<b>", '"><script>', "{{data}}", "x'y&z", "日本"])
def test_a_hostile_name_of_a_directory_is_text(name, tmp_path):
    html = report.page([grpo_run(tmp_path / name)])
    parts = Parts()
    parts.feed(html)
    assert [tag for tag, _ in parts.tags].count("script") == 2
    assert page_data(html)["runs"][0]["label"] == name


def test_only_our_script_and_style_are_allowed_and_nothing_is_fetched(run):
    html = report.page([run])
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    script, style = report.read("report.js"), report.read("report.css")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert not re.search(r"url\(|@import", style)
    addresses = set(re.findall(r"https?://[^\s\"']+", script + style))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, which nothing opens


BROKEN = [b"", b"\xff\xfe\x00", b"{", b"null\n[]\n3\n", b'{"id": ', b"[" * 100_000]
ODD = [
    {},
    {"id": None, "completion": None},
    {"id": [], "question": {}, "answer": 3, "completion": [[]], "advantage": "x"},
    {"id": "a", "completion": "x", "accuracy": 1e999, "format": 10**400, "advantage": True},
    {"id": "a", "prediction": 3, "samples": "x", "right": 3, "selections": [1]},
    {"id": "a", "samples": [None, 3], "right": [[], "x"], "selections": {"2": None}},
    {"id": "a", "boxes": [{}, 3], "size": [0, 1], "box_format": [], "picture": "javascript:1"},
    {"id": "a", "boxes": [{"bbox_2d": [1, 2]}], "size": [9, 9], "picture": "data:text/html,x"},
    {"id": "a", "size": [9, 9], "boxes": [], "box_format": "resized", "history": [3, {}]},
    {"messages": [3, {}], "images": [[]], "filter": 3}, {"conversations": 3, "image": "../../x"},
    {"messages": [{"content": {}}, {"value": []}], "image": "samples", "judge_response": [1]},
    {"step": "x", "eval//accuracy": 1}, {"step": None}, {"step": 1e999, "loss": 1},
]  # fmt: skip
FILES = [
    "metrics.jsonl", "args.json", "result.json", "predictions.jsonl", "scaling.jsonl",
    "samples/step_000001.jsonl", "samples/questions_step_000001.jsonl",
    "samples/eval_0_x_000004.jsonl", "samples/questions_eval_0.jsonl", "iteration-1/train.jsonl",
    "iteration-1/pool.jsonl", "iteration-1/eval_0_greedy.jsonl", "iteration-1/metrics.jsonl",
    "distilled.jsonl", "rejected.jsonl",
]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_costs_what_was_in_it(file, run):
    (run / "iteration-1").mkdir()
    wanted = {"metrics.jsonl": "samples of training", "samples/step_000001.jsonl": "held-out"}
    for content in [*BROKEN, "".join(json.dumps(line) + "\n" for line in ODD).encode()]:
        (run / file).write_bytes(content)
        [shown] = data_of(run)["runs"]
        assert view(shown, wanted.get(file, "samples of training"))["frames"]
    (run / file).unlink()
    os.mkfifo(run / file)  # reading it would never end
    assert data_of(run)["runs"]
    (run / file).unlink()
    assert data_of(run)["runs"]
    (run / file).mkdir()
    assert data_of(run)["runs"]


def test_steps_that_a_run_has_gone_back_behind_are_not_shown(run):
    lines = records.read_lines(run / "metrics.jsonl")
    disk.write_lines(run / "metrics.jsonl", [line for line in lines if line["step"] <= 5])
    [shown] = data_of(run)["runs"]
    assert [frame["at"] for frame in view(shown, "samples")["frames"]] == [1, 4]
    assert [frame["at"] for frame in view(shown, "held-out")["frames"]] == [0, 4]


def test_a_run_of_an_earlier_version_is_shown_without_its_pictures(run):
    for path in (run / "samples").glob("questions_*"):
        path.unlink()
    data = data_of(run)
    assert data["pictures"] == {} and len(data["runs"][0]["views"]) == 2
    [note] = data["runs"][0]["notes"]
    assert "kept no pictures" in note and note.endswith(f"--output-dir {run}-eval")
    assert all(question["picture"] is None for question in data["runs"][0]["questions"])


def test_a_page_says_what_it_lacks(run, tmp_path):
    assert data_of(run)["runs"][0]["notes"] == []
    words = grpo_run(tmp_path / "words", "count_words")  # which has no pictures to keep
    assert data_of(words)["runs"][0]["notes"] == []
    (tmp_path / "new").mkdir()
    [note] = data_of(tmp_path / "new")["runs"][0]["notes"]
    assert note.endswith(f"type: python -m plumbing.report {tmp_path}/new")
    write_args(tmp_path / "new", "distill.py")
    [note] = data_of(tmp_path / "new")["runs"][0]["notes"]
    assert note.startswith("Nothing has been made yet")
    (evaluation(tmp_path / "eval") / "samples" / "questions_answers.jsonl").unlink()
    [note] = data_of(tmp_path / "eval")["runs"][0]["notes"]
    assert note.endswith(f"type: the command above, with --output-dir {tmp_path}/eval-2")


def test_what_was_made_is_shown_and_what_was_left_out(tmp_path):
    data = data_of(distilled(tmp_path))
    [shown] = data["runs"]
    [frame] = view(shown, "made")["frames"]
    said = [[(a["kind"], a["state"]) for a in group["answers"]] for group in frame["groups"]]
    judged = [("left out: judge", "right"), ("the judge", "not scored")]
    assert said == [[("kept", "right")], [("kept", "right")], judged]
    assert {question["question"] for question in shown["questions"]} == {"How many?"}
    assert len(data["pictures"]) == 2 and shown["notes"] == []
    assert [q["picture"] is None for q in shown["questions"]] == [False, False, True]
    small = picture_in(next(iter(data["pictures"].values())))
    assert small.size == (224, 112)


@pytest.mark.parametrize(
    "value, number",
    [(1, 1.0), (True, 1.0), (0.1234567, 0.123457), (float("nan"), None), (10**400, None),
     (float("-inf"), None), ("3", None), (None, None), ([], None)],
)  # fmt: skip
def test_numbers(value, number):
    assert number_of(value) == number


def test_a_long_text_is_cut_and_says_so():
    assert text_of("x" * MOST_LETTERS) == "x" * MOST_LETTERS
    assert text_of("x" * (MOST_LETTERS + 7)).endswith("x\n[7 more characters]")
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert text_of(deep) == "[a value that is no text]"


# --- writing it ---


def test_two_runs_of_different_scripts_are_one_page(run, tmp_path, capsys):
    other = evaluation(tmp_path / "eval")
    report.main(report.parse_args([str(run), str(other)]))
    assert capsys.readouterr().out.startswith(f"{other}/compare.html (")
    data = page_data((other / "compare.html").read_text())
    assert [shown["label"] for shown in data["runs"]] == ["run", "eval"]
    assert not (run / "compare.html").exists()


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "b" / "run")
    labels = [shown["label"] for shown in data_of(run, other)["runs"]]
    assert labels == [str(run), str(other)]


@pytest.mark.parametrize(
    "words, says",
    [
        (["nowhere"], "is not a directory"),
        (["."], "holds no run"),
        (["a", "b", "c"], "one run or two"),
        ([], "RUN"),
        (["--runs"], "--runs"),
    ],
)
def test_refused_in_one_sentence(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert says in refusal(report, words, capsys)


def test_a_page_that_cannot_be_written_is_a_warning(run, capsys):
    (run / "report.html").mkdir()
    report.write(run)
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and said.endswith("the run goes on without it\n")
    assert str(run / "report.html") in said and not list(run.glob(".*"))


# --- small pictures ---


def picture_in(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize("sizes, wanted", [
    ([(1000, 500)], (224, 112)), ([(50, 30)], (50, 30)), ([(3000, 20)], (224, 2)),
    ([(400, 400)] * 2, (448, 221)),
])  # fmt: skip
def test_the_size_of_small_pictures(sizes, wanted, tmp_path):
    paths = []
    for n, size in enumerate(sizes):
        paths.append(tmp_path / f"{n}.jpg")
        Image.new("RGB", size, "red").save(paths[-1])
    shown = picture_in(kept.picture_url(Example("a", paths, "How?", "3")))
    assert shown.size == pytest.approx(wanted, abs=1)
    assert shown.getpixel((1, 1)) == pytest.approx((255, 0, 0), abs=4)


def test_a_picture_that_the_model_sees_is_left_as_it_is(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (1000, 500), "red").save(path)
    with Image.open(path) as image:  # as `datasets` gives it: open, not decoded
        kept.picture_url(Example("a", [image], "How?", "3"))
        assert image.size == (1000, 500)


def test_a_picture_that_has_gone_is_a_warning(tmp_path, capsys):
    assert kept.picture_url(Example("a", [tmp_path / "gone.png"], "How?", "3")) is None
    assert "a question is kept without its picture" in capsys.readouterr().err
    assert kept.picture_url(Example("a", [], "How?", "3")) is None
    assert capsys.readouterr().err == ""


def test_text_for_is_as_the_tests_say():
    [example] = examples_of("count:test", 1)
    assert example.answer in text_for(example, True)
    assert example.answer not in text_for(example, False)
