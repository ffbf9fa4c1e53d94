"""Run: python -m pytest -q tests/test_protocols.py        (about 15 s on CPU; no network)

Saved outputs and asked questions under a protocol, and evaluate.py --predictions and --protocol.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scored import score

import data
import evaluate
import lengths
import model as modeling
import rollout
import tasks
from grading import mathverify
from grading.boxes import from_pixels
from plumbing import plots
from plumbing.errors import UserError
from plumbing.records import read_lines

ROOT = Path(__file__).resolve().parents[1]
GEOQA = ROOT.parent / "shared" / "data" / "records" / "r1v_geoqa.jsonl"


def test_what_takes_too_long_counts_as_wrong_and_is_counted(monkeypatch):
    monkeypatch.setattr(mathverify.worker, "cpu_seconds", 2)
    said = ("9**9**9**9 - 1", "3")
    records = [{"prediction": f"<answer> {text} </answer>", "answer": "3"} for text in said]
    result, rows = score(records, "geoqa")
    assert [row["accuracy_original"] for row in rows] == [0, 1]
    assert rows[0]["original_timeout"] and result["original_timeouts"] == 1
    assert result["accuracy"] == 0.5 and result["disagreements"] == 0


UNDECIDED = [  # said, gold, ours, whether it cannot be decided
    ("9^{9^{9}}", r"\sqrt{7}", 0, True),
    ("$a^2$", "a^{2}", 1, False),
    ("2√3+1.6", "(2√{3}+1.6)m", 1, False),
    ("3", "3", 1, False),
]


def test_ours_counts_what_it_cannot_decide():
    records = [
        {"prediction": f"<answer>{said}</answer>", "answer": gold} for said, gold, _, _ in UNDECIDED
    ]
    result, rows = score(records, "geoqa")
    assert [(row["accuracy"], row["undecided"]) for row in rows] == [
        (right, undecided) for _, _, right, undecided in UNDECIDED
    ]
    assert result["undecided"] == 1


# --- evaluate.py --predictions ---


def rescore(tmp_path, records, protocol, *more):
    """result.json of evaluate.py --predictions; a record may be a line of text."""
    path, out = tmp_path / "saved.jsonl", tmp_path / "out"
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")
    line = ["--predictions", path, "--protocol", protocol, "--output-dir", out, *more]
    evaluate.main(evaluate.parse_args(list(map(str, line))))
    return json.loads((out / "result.json").read_text())


def as_latex(gold):
    return gold.replace("√", "\\sqrt").replace("π", "\\pi ").replace("°", "^\\circ")


GEOQA_ANSWERS = {  # how the gold is said: (completion, right by our rule)
    "in tags": (lambda gold: f"<think>Say 12345.</think>\n<answer> {gold} </answer>", 1),
    "in latex": (lambda gold: f"<think>Say 12345.</think><answer>${as_latex(gold)}$</answer>", 1),
    "bare": (lambda gold: f"The angle is {gold}.", 0),
    "thought": (lambda gold: f"<think> It is {gold} , I think.</think><answer>12345</answer>", 0),
}


@pytest.mark.skipif(not GEOQA.is_file(), reason=f"{GEOQA} (public records) is not there")
def test_geoqa_from_end_to_end(tmp_path, capsys):
    """Its own golds as answers; untagged text cannot be read."""
    golds = [record["ground_truth"] for record in read_lines(GEOQA)]
    golds += ["8√{3}", "240πcm^{2}", "9米"]
    records = []
    for kind, (say, _) in GEOQA_ANSWERS.items():
        records += [
            {"id": f"{kind} {i}", "model_output": say(gold), "ground_truth": gold}
            for i, gold in enumerate(golds)
        ]
    n, out = len(golds), tmp_path / "out"
    result = rescore(tmp_path, records, "geoqa")
    rows = read_lines(out / "predictions.jsonl")
    right = [right for _, right in GEOQA_ANSWERS.values() for _ in golds]
    misjudged = [row for row, wanted in zip(rows, right) if row["accuracy"] != wanted]
    assert not misjudged
    assert result["n"] == len(rows) == 4 * n and result["parse_failures"] == n
    assert result["accuracy"] == 0.5
    assert result["accuracy_parsed"] == pytest.approx(2 / 3)
    assert result["original"] == "r1v_geoqa" and 0.5 < result["accuracy_original"] < 1

    differ = read_lines(out / "disagreements.jsonl")
    assert len(differ) == result["disagreements"] > n
    assert differ == [row for row in rows if row["accuracy"] != row["accuracy_original"]]
    columns = {"accuracy", "accuracy_original", "extracted", "answer", "prediction"}
    assert columns <= differ[0].keys()
    printed = capsys.readouterr().out
    assert "accuracy, ours" in printed and "accuracy, original" in printed
    assert printed.count("gold '") == 3
    assert (out / "args.json").is_file()


def test_boxes_from_end_to_end(tmp_path):
    box = [10, 10, 20, 20]
    record = {"prediction": f"<answer>{box}</answer>", "answer": box, "category": "cat"}
    result = rescore(tmp_path, [record], "detection", "--box-format", "pixels")
    assert result["mAP"] == pytest.approx(1)


def saved(answer=None, **fields):
    """A saved output, with a gold answer where one is given."""
    return {"prediction": "x", **fields} | ({} if answer is None else {"answer": answer})


BOX, SIZE = [1, 2, 3, 4], [9, 9]
REFUSED = [  # records, protocol, what the message says
    ([saved("3"), "{broken"], "geoqa", ["saved.jsonl:2:", "broken JSON"]),
    ([{"answer": "3"}], "geoqa", ["saved.jsonl:1:", "no `prediction`"]),
    ([saved("3", prediction=3)], "geoqa", ["is int"]),
    ([saved()], "geoqa", ["no `answer`"]),
    ([["x"]], "geoqa", ["expected an object"]),
    ([saved(" ")], "geoqa", ["empty"]),
    ([saved(True)], "geoqa", ["text or a number"]),
    ([saved("four")], "superclevr", ["not a count"]),
    ([saved("the man", size=SIZE)], "rec", ["boxes cannot be read"]),
    ([saved(BOX)], "lisa", ["size", "--box-format pixels"]),
    ([saved(BOX, size="big")], "rec", ["`size`", "`width` and `height`"]),
    ([saved(BOX, width=5)], "rec", ["`width` and `height`", "None"]),
    ([saved(BOX, size=[float("inf"), 9])], "rec", ["`size`"]),
    ([saved([1, 2, True, 4])], "rec", ["cannot be read", "write [x1"]),
    ([saved([0.1, 0.2, 0.5, 0.6], size=SIZE)], "rec", ["seem to be fractions"]),
    (
        [saved(BOX, size=SIZE), saved(BOX)],
        "rec",
        ["saved.jsonl:2:", "in pixels, those of", "saved.jsonl:1 in norm1000", "--box-format"],
    ),
    ([saved("3", prediction=None)], "geoqa", ["`prediction` is null"]),
    ([saved("3", unit=["a"])], "tabmwp", ["`unit` must be text"]),
    (
        [saved(BOX, size=SIZE), saved(BOX, size=SIZE, category="cat")],
        "detection",
        ["saved.jsonl:1:", "category"],
    ),
    (['{"results": [{"prediction": "x"}]}'], "geoqa", ["result 1", "no `answer`"]),
    ([saved("C", choices=["a", "b"])], "cvbench", ["choices"]),
    ([""], "geoqa", ["no record"]),
]


@pytest.mark.parametrize("records, protocol, words", REFUSED)
def test_what_cannot_be_scored_is_refused_before_any_work(tmp_path, records, protocol, words):
    with pytest.raises(UserError) as error:
        rescore(tmp_path, records, protocol)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def lines_of(path):
    return [row["line"] for row in read_lines(path)]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_log_of_r1v_is_read_as_it_is(tmp_path, indent):
    """One object with `results`, on one line or on many; each row has its number in the file."""
    results = [
        {"question": "?", "ground_truth": 4, "model_output": f"<answer>{said}</answer>"}
        for said in (4, 5)
    ]
    log = json.dumps({"accuracy": 0.5, "results": results}, indent=indent)
    assert rescore(tmp_path, [log], "superclevr")["accuracy"] == 0.5
    assert lines_of(tmp_path / "out" / "predictions.jsonl") == [1, 2]
    assert read_lines(tmp_path / "out" / "disagreements.jsonl") == []


def test_fields_that_are_numbers(tmp_path):
    right = {"prediction": "Answer: 5", "answer": 5, "unit": 3}
    wrong = {"prediction": "Answer: 6", "answer": 5}
    assert rescore(tmp_path, [right, "", wrong], "tabmwp")["accuracy"] == 0.5
    assert lines_of(tmp_path / "out" / "predictions.jsonl") == [1, 3]


def test_files_that_are_not_there_or_would_be_overwritten(tmp_path):
    out = tmp_path / "out"

    def score_file(path):
        line = ["--predictions", path, "--protocol", "geoqa", "--output-dir", out]
        evaluate.main(evaluate.parse_args(list(map(str, line))))

    with pytest.raises(UserError, match="none.jsonl cannot be read"):
        score_file(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        score_file("")
    out.mkdir()
    record = {"prediction": "<answer>3</answer>", "answer": "3"}
    (out / "predictions.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match="would be overwritten"):
        score_file(out / "predictions.jsonl")


SCORED = "--predictions f --protocol geoqa --output-dir o"
FLAGS = {  # command line: what the message says
    "--predictions f --output-dir o": ["--protocol"],
    f"{SCORED} --model tiny": ["--model"],
    f"{SCORED.replace('s f', 's=f')} --data count": ["--data"],
    f"{SCORED} --num_samples 4": ["--num-samples"],
    SCORED.replace("geoqa", "nonsense"): ["nonsense", "geoqa"],
    "--protocol geoqa --output-dir o": ["--model"],
    f"{SCORED} --box-format pixels": ["--box-format", "no boxes"],
    "--predictions f --protocol geoqa": ["--output-dir"],
}


@pytest.mark.parametrize("line, words", FLAGS.items())
def test_flags_that_do_not_go_together(line, words, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.parse_args(line.split())
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    assert all(word in message for word in words), message


RESCORE = """
import sys
sys.path.insert(0, {root!r})
import evaluate
line = "--predictions p.jsonl --protocol superclevr --output-dir out"
evaluate.main(evaluate.parse_args(line.split()))
print({{"transformers", "model", "peft"}} & set(sys.modules))
"""


def test_rescoring_needs_no_model_code(tmp_path):
    """In a process of its own: neither transformers nor our model is imported."""
    (tmp_path / "p.jsonl").write_text(json.dumps({"prediction": "<answer>3</answer>", "answer": 3}))
    command = [sys.executable, "-c", RESCORE.format(root=str(ROOT))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("set()"), done.stdout


# --- evaluate.py --protocol ---


def ask(monkeypatch, tmp_path, says, line):
    """evaluate.py with a model that answers says(example, sample's number or None).

    Returns result.json, the rows of predictions.jsonl and the templates it was asked with.
    """

    asked = []

    def answer_all(policy, asker, examples, sampling, G=1, **_):
        asked.append(asker.template)
        greedy = sampling.temperature == 0
        texts = [says(e, None if greedy else k) for e in examples for k in range(G)]
        return texts, [len(text) for text in texts], None

    monkeypatch.setattr(modeling, "resolve", lambda *_, **__: {})
    policy = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(modeling, "load_from_args", lambda *_, **__: (policy, None))
    monkeypatch.setattr(modeling, "describe", lambda policy: "a parrot")
    monkeypatch.setattr(data.Asker, "prompt", lambda *_, **__: SimpleNamespace(ids=[]))
    monkeypatch.setattr(lengths, "fitting", lambda asker, examples, *_, **__: examples)
    monkeypatch.setattr(rollout, "answer_all", answer_all)
    monkeypatch.setattr(plots, "plot_samples", lambda *_, **__: None)
    monkeypatch.setattr(plots, "plot_curve", lambda *_, **__: None)
    evaluate.main(
        evaluate.parse_args(["--model", "parrot", "--output-dir", str(tmp_path), *line.split()])
    )
    return (
        json.loads((tmp_path / "result.json").read_text()),
        read_lines(tmp_path / "predictions.jsonl"),
        set(asked),
    )


def counts_in_words(example, sample):
    """Odd questions in words that the original cannot read; the second sample is wrong."""
    answer = f"{example.answer} objects" if int(example.id[-1]) % 2 else example.answer
    return f"<think>7</think><answer>{99 if sample == 1 else answer}</answer>"


def test_a_protocol_asks_and_scores_as_the_original_does(monkeypatch, tmp_path, capsys):
    line = "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr"
    result, rows, asked = ask(monkeypatch, tmp_path, counts_in_words, line)
    assert asked == {"superclevr"}
    assert (result["accuracy"], result["accuracy_original"]) == (1, 0.5)
    assert result["disagreements"] == len(read_lines(tmp_path / "disagreements.jsonl")) == 3
    assert result["majority@3"] == 1
    assert result["mean_sample_accuracy"] == pytest.approx(2 / 3)
    assert all(row["right"] == [1, 0, 1] for row in rows)
    assert "accuracy, original" in capsys.readouterr().out


def test_an_evaluation_goes_on_with_its_own_answers_only(monkeypatch, tmp_path):
    line = "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr"
    ask(monkeypatch, tmp_path, counts_in_words, line)
    with pytest.raises(UserError, match="holds the answers of an evaluation"):
        ask(monkeypatch, tmp_path, counts_in_words, line)
    (tmp_path / "predictions.jsonl").unlink()  # as the sentence says

    line += " --prompt-template direct"
    result, rows, asked = ask(monkeypatch, tmp_path, counts_in_words, line)
    assert asked == {"direct"} and result["accuracy"] == 1
    line += " --resume-from-checkpoint"
    # All are answered already: nothing is asked, the figures are the same.
    assert ask(monkeypatch, tmp_path, None, line) == (result, rows, set())
    with pytest.raises(UserError, match="another evaluation"):
        ask(monkeypatch, tmp_path, None, line.replace("superclevr", "geoqa"))


def says_nothing(example, sample):
    return ""


def test_a_protocol_on_data_that_it_does_not_suit(monkeypatch, tmp_path):
    line = "--data count:test --max-eval-samples 2 --protocol rec"
    with pytest.raises(UserError, match="--protocol rec"):
        ask(monkeypatch, tmp_path, says_nothing, line)


@pytest.mark.parametrize("most, printed", [(3, True), (4, False)])
def test_it_is_printed_when_questions_are_omitted(monkeypatch, tmp_path, capsys, most, printed):
    """The default of 512 would cut GEOQA's 754 and CV-Bench's 2,638 without a word."""
    four = data.head(tasks.read("count:test"), 4)
    monkeypatch.setattr(tasks, "read", lambda *_, **__: four)
    line = f"--data count:test --max-eval-samples {most} --protocol superclevr"
    ask(monkeypatch, tmp_path, says_nothing, line)
    sentence = "asking the first 3 of 4 questions; --max-eval-samples 4"
    assert (sentence in capsys.readouterr().out) == printed


def says_the_gold_boxes(example, sample):
    """In thousandths, rounded."""
    found = []
    for box in example.meta["boxes"]:
        corners = from_pixels(box["bbox_2d"], "norm1000", example.meta["size"])
        found.append({"bbox_2d": [round(v) for v in corners], "label": box["label"]})
    return f"<answer>{json.dumps(found)}</answer>"


def test_a_protocol_for_boxes(monkeypatch, tmp_path):
    line = "--data ground:test --max-eval-samples 5 --protocol lisa"
    result, rows, asked = ask(monkeypatch, tmp_path, says_the_gold_boxes, line)
    assert asked == {"lisa"}
    assert result["accuracy"] == 1 and result["mean_iou"] > 0.9
    assert len(rows) == 5 and "iou" in rows[0]


def test_without_a_protocol(monkeypatch, tmp_path):
    def says_the_gold(example, sample):
        return f"<think>x</think><answer>{example.answer}</answer>"

    line = "--data count:test --max-eval-samples 3"
    result, rows, asked = ask(monkeypatch, tmp_path, says_the_gold, line)
    assert asked == {"r1v"}
    assert result["accuracy"] == result["format_rate"] == 1
    assert "accuracy_original" not in result
    assert not (tmp_path / "disagreements.jsonl").exists()
    columns = "id question answer choices prediction tokens accuracy samples right"
    assert set(columns.split()) <= rows[0].keys()
