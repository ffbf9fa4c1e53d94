"""Run: python -m pytest -q tests/test_protocols.py        (about 15 s on CPU; no network)

Saved outputs and asked questions under a protocol, and evaluate.py --predictions and --protocol.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scored import score

import data
import evaluate
import model as modeling
import rollout
import tasks
from grading import mathverify
from grading.boxes import from_pixels
from plumbing import plots
from plumbing.errors import UserError
from plumbing.records import read_lines
from tasks import outputs, protocols

ROOT = Path(__file__).resolve().parents[1]
GEOQA = ROOT.parent / "shared" / "data" / "records" / "r1v_geoqa.jsonl"


def test_what_takes_too_long_counts_as_wrong_and_is_counted(monkeypatch):
    monkeypatch.setattr(mathverify.worker, "cpu_seconds", 2)
    records = [
        {"prediction": "<answer> 9**9**9**9 - 1 </answer>", "answer": "3"},
        {"prediction": "<answer> 3 </answer>", "answer": "3"},
    ]
    result, rows = score(records, "geoqa")
    assert (
        rows[0]["accuracy_original"] == 0
        and rows[0]["original_timeout"]
        and result["original_timeouts"] == 1
    )
    assert (
        rows[1]["accuracy_original"] == 1
        and result["accuracy"] == 0.5
        and result["disagreements"] == 0
    )


def test_ours_counts_what_it_cannot_decide():
    said = ["9^{9^{9}}", "$a^2$", "2√3+1.6", "3"]
    golds = [r"\sqrt{7}", "a^{2}", "(2√{3}+1.6)m", "3"]
    records = [
        {"prediction": f"<answer>{text}</answer>", "answer": gold}
        for text, gold in zip(said, golds)
    ]
    result, rows = score(records, "geoqa")
    assert [row["accuracy"] for row in rows] == [0, 1, 1, 1]
    assert [row["undecided"] for row in rows] == [True, False, False, False] and result[
        "undecided"
    ] == 1


def test_box_format_of_the_flag_and_of_the_record():
    record = {
        "prediction": "<answer>[100, 100, 200, 200]</answer>",
        "answer": [200, 50, 400, 100],
        "width": 2000,
        "height": 500,
    }
    assert score([record], "rec")[0]["accuracy"] == 1  # thousandths
    assert score([record], "rec", "pixels")[0]["accuracy"] == 0
    assert score([{**record, "box_format": "norm1000"}], "rec", "pixels")[0]["accuracy"] == 1
    with pytest.raises(ValueError, match="resized"):
        score([record], "rec", "resized")


def test_how_predicted_boxes_are_read_if_nothing_says_so():
    """resized, if that size is known; pixels, in a `rec` record without sizes, as VLM-R1 did; thousandths. The result says which; a flag or the record decides."""
    vlm = {
        "prediction": '<think>x</think><answer>```json [{"bbox_2d": [10, 20, 110, 220], "label": "man"}]```</answer>',
        "answer": [10, 20, 110, 220],
    }
    resized = {
        "prediction": "<answer>[5, 10, 55, 110]</answer>",
        "answer": [10, 20, 110, 220],
        "size": [1000, 800],
        "resized": [500, 400],
    }
    for record, protocol, flag, box_format in (
        (vlm, "rec", None, "pixels"),
        (resized, "rec", None, "resized"),
        (resized, "lisa", None, "resized"),
        ({**vlm, "size": [1000, 1000]}, "rec", None, "norm1000"),
        (vlm, "lisa", "pixels", "pixels"),
    ):
        result, rows = score([record], protocol, flag)
        assert (result["accuracy"], result["box_format"], rows[0]["box_format"]) == (
            1,
            box_format,
            box_format,
        )
    for record, protocol, flag, words in (
        (vlm, "lisa", None, '"size": [width, height]'),
        (vlm, "rec", "norm1000", '"size"'),
        ({**vlm, "size": [9, 9]}, "rec", "resized", '"resized": [width, height]'),
    ):
        with pytest.raises(ValueError) as error:
            score([record], protocol, flag)
        assert (
            words in str(error.value)
            and "--box-format pixels" in str(error.value)
            and "meta" not in str(error.value)
        )


def test_gold_boxes_in_every_notation():
    wanted = [[100.0, 50.0, 300.0, 250.0]]
    for gold in (
        [100, 50, 300, 250],
        [[100, 50, 300, 250]],
        ["100", "50", "300", "250"],
        "100,50,300,250",
        [{"bbox_2d": [100, 50, 300, 250], "label": "a"}],
        '[{"bbox_2d": [100, 50, 300, 250]}]',
        "[100, 50, 300, 250]",
        [300, 250, 100, 50],
    ):
        assert [box["bbox_2d"] for box in outputs.boxes_of_gold(gold, [2000, 500])[0]] == wanted
    for gold in (
        "<answer>[{'Position': [50, 100, 150, 500], 'Confidence': 1}]</answer>",
        "(50,100),(150,500)",
        [{"Position": [50, 100, 150, 500]}],
    ):
        assert [box["bbox_2d"] for box in outputs.boxes_of_gold(gold, [2000, 500])[0]] == [
            pytest.approx(wanted[0])
        ]
    assert outputs.boxes_of_gold("none", None)[0] == outputs.boxes_of_gold([], None)[0] == []
    for gold in (
        "the man",
        7,
        [1, 2, 3],
        [[1, 2, 3]],
        [[1, 2, 3, "x"]],
        [float("nan"), 1, 2, 3],
        [True, 1, 2, 3],
        {"bbox_2d": None},
    ):
        with pytest.raises(ValueError):
            outputs.boxes_of_gold(gold, [10, 10])[0]


def test_records_under_other_names():
    logged = {
        "question": {"image_path": "a.png", "question": "How many?", "ground_truth": 4},
        "ground_truth": 4,
        "model_output": "<answer>4</answer>",
        "extracted_answer": 4,
    }  # R1-V's own log
    completion, e = outputs.to_example(logged, protocols.PROTOCOLS["superclevr"])
    assert (completion, e.answer, e.question) == ("<answer>4</answer>", "4", "How many?")
    assert (
        outputs.to_example(
            {"output": "x", "solution": "<answer> 3 </answer>"}, protocols.PROTOCOLS["geoqa"]
        )[1].answer
        == "3"
    )
    assert (
        score([{"prediction": "<answer>3</answer>", "answer": 3, "line": 7}], "geoqa")[1][0]["line"]
        == 7
    )
    assert (
        outputs.to_example(
            {"response": "x", "gold": 0.5, "answer": "2"}, protocols.PROTOCOLS["geoqa"]
        )[1].answer
        == "2"
    )


def rescore(tmp_path, records, protocol, *more):
    path = tmp_path / "saved.jsonl"
    path.write_text(
        "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records),
        encoding="utf-8",
    )
    evaluate.main(
        evaluate.parse_args(
            [
                "--predictions",
                str(path),
                "--protocol",
                protocol,
                "--output-dir",
                str(tmp_path / "out"),
                *more,
            ]
        )
    )
    return json.loads((tmp_path / "out" / "result.json").read_text())


@pytest.mark.skipif(
    not GEOQA.is_file(), reason="the real records of ../shared/data are not on this machine"
)
def test_geoqa_from_end_to_end(tmp_path, capsys):
    """Its own golds as answers: in tags ours takes each as right, in LaTeX too; untagged text is a parse failure; a number in the thinking is none."""
    golds = [
        json.loads(line)["ground_truth"]
        for line in GEOQA.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ] + ["8√{3}", "240πcm^{2}", "9米"]
    latex = [
        gold.replace("√", "\\sqrt").replace("π", "\\pi ").replace("°", "^\\circ") for gold in golds
    ]
    records = [
        {
            "id": f"tag{i}",
            "prediction": f"<think>Say 12345.</think>\n<answer> {gold} </answer>",
            "answer": gold,
        }
        for i, gold in enumerate(golds)
    ]
    records += [
        {
            "id": f"latex{i}",
            "model_output": f"<think>Say 12345.</think><answer>${text}$</answer>",
            "ground_truth": gold,
        }
        for i, (text, gold) in enumerate(zip(latex, golds))
    ]
    records += [
        {"id": f"bare{i}", "prediction": f"The angle is {gold}.", "answer": gold}
        for i, gold in enumerate(golds)
    ]
    records += [
        {
            "id": f"thought{i}",
            "prediction": f"<think> It is {gold} , I think.</think><answer>12345</answer>",
            "answer": gold,
        }
        for i, gold in enumerate(golds)
    ]
    n = len(golds)
    result, out = rescore(tmp_path, records, "geoqa"), tmp_path / "out"
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    wrong = [
        (row["id"], row["answer"], row["extracted"]) for row in rows[: 2 * n] if not row["accuracy"]
    ]
    assert wrong == [] and not any(row["accuracy"] for row in rows[2 * n :])
    assert (
        result["n"] == 4 * n == len(rows)
        and result["parse_failures"] == n
        and result["accuracy"] == 0.5
        and result["accuracy_parsed"] == pytest.approx(2 / 3)
    )
    assert 0.5 < result["accuracy_original"] < 1 and result["original"] == "r1v_geoqa"
    differ = [json.loads(line) for line in (out / "disagreements.jsonl").read_text().splitlines()]
    assert (
        len(differ)
        == result["disagreements"]
        == sum(row["accuracy"] != row["accuracy_original"] for row in rows)
        > n
    )
    assert {"accuracy", "accuracy_original", "extracted", "answer", "prediction"} <= differ[
        0
    ].keys()
    said = capsys.readouterr().out
    assert (
        "accuracy, ours" in said
        and "accuracy, original" in said
        and said.count("gold '") == 3
        and (out / "args.json").is_file()
    )


def test_boxes_from_end_to_end(tmp_path):
    record = {
        "prediction": "<answer>[10, 10, 20, 20]</answer>",
        "answer": [10, 10, 20, 20],
        "category": "cat",
    }
    assert rescore(tmp_path, [record], "detection", "--box-format", "pixels")[
        "mAP"
    ] == pytest.approx(1)


@pytest.mark.parametrize(
    "records, protocol, words",
    [
        (
            [{"prediction": "x", "answer": "3"}, "{broken"],
            "geoqa",
            ["saved.jsonl:2:", "broken JSON"],
        ),
        ([{"answer": "3"}], "geoqa", ["saved.jsonl:1:", "no `prediction`"]),
        ([{"prediction": 3, "answer": "3"}], "geoqa", ["is int"]),
        ([{"prediction": "x"}], "geoqa", ["no `answer`"]),
        ([["x"]], "geoqa", ["expected an object"]),
        ([{"prediction": "x", "answer": " "}], "geoqa", ["empty"]),
        ([{"prediction": "x", "answer": True}], "geoqa", ["text or a number"]),
        ([{"prediction": "x", "answer": "four"}], "superclevr", ["not a count"]),
        (
            [{"prediction": "x", "answer": "the man", "size": [9, 9]}],
            "rec",
            ["boxes cannot be read"],
        ),
        ([{"prediction": "x", "answer": [1, 2, 3, 4]}], "lisa", ["size", "--box-format pixels"]),
        (
            [{"prediction": "x", "answer": [1, 2, 3, 4], "size": "big"}],
            "rec",
            ["`size`", "`width` and `height`"],
        ),
        (
            [{"prediction": "x", "answer": [1, 2, 3, 4], "width": 5}],
            "rec",
            ["`width` and `height`", "None"],
        ),
        (
            [{"prediction": "x", "answer": [1, 2, 3, 4], "size": [float("inf"), 9]}],
            "rec",
            ["`size`"],
        ),
        ([{"prediction": "x", "answer": [1, 2, True, 4]}], "rec", ["cannot be read", "write [x1"]),
        ([{"prediction": None, "answer": "3"}], "geoqa", ["`prediction` is null"]),
        ([{"prediction": "x", "answer": "3", "unit": ["a"]}], "tabmwp", ["`unit` must be text"]),
        (
            [
                {"prediction": "x", "answer": [1, 2, 3, 4], "size": [9, 9]},
                {"prediction": "x", "answer": [1, 2, 3, 4], "size": [9, 9], "category": "cat"},
            ],
            "detection",
            ["saved.jsonl:1:", "category"],
        ),
        (['{"results": [{"prediction": "x"}]}'], "geoqa", ["result 1", "no `answer`"]),
        ([{"prediction": "x", "answer": "C", "choices": ["a", "b"]}], "cvbench", ["choices"]),
        ([""], "geoqa", ["no record"]),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_work(tmp_path, records, protocol, words):
    with pytest.raises(UserError) as error:
        rescore(tmp_path, records, protocol)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("indent", [None, 2])
def test_a_log_of_r1v_is_read_as_it_is(tmp_path, indent):
    """One object with `results`, on one line or on many; each row has its number in the file."""
    log = json.dumps(
        {
            "accuracy": 0.5,
            "results": [
                {"question": "?", "ground_truth": 4, "model_output": f"<answer>{said}</answer>"}
                for said in (4, 5)
            ],
        },
        indent=indent,
    )
    assert rescore(tmp_path, [log], "superclevr")["accuracy"] == 0.5
    assert [row["line"] for row in read_lines(tmp_path / "out" / "predictions.jsonl")] == [
        1,
        2,
    ] and read_lines(tmp_path / "out" / "disagreements.jsonl") == []


def test_fields_that_are_numbers(tmp_path):
    assert (
        rescore(
            tmp_path,
            [
                {"prediction": "Answer: 5", "answer": 5, "unit": 3},
                "",
                {"prediction": "Answer: 6", "answer": 5},
            ],
            "tabmwp",
        )["accuracy"]
        == 0.5
    )
    assert [row["line"] for row in read_lines(tmp_path / "out" / "predictions.jsonl")] == [
        1,
        3,
    ]


def test_files_that_are_not_there_or_would_be_overwritten(tmp_path):
    line = [
        "--predictions",
        str(tmp_path / "none.jsonl"),
        "--protocol",
        "geoqa",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    with pytest.raises(UserError, match="none.jsonl cannot be read"):
        evaluate.main(evaluate.parse_args(line))
    with pytest.raises(UserError, match="cannot be read"):
        evaluate.main(evaluate.parse_args([line[0], "", *line[2:]]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.jsonl").write_text(
        json.dumps({"prediction": "<answer>3</answer>", "answer": "3"})
    )
    with pytest.raises(UserError, match="would be overwritten"):
        evaluate.main(
            evaluate.parse_args(
                [
                    "--predictions",
                    str(tmp_path / "out" / "predictions.jsonl"),
                    "--protocol",
                    "geoqa",
                    "--output-dir",
                    str(tmp_path / "out"),
                ]
            )
        )


@pytest.mark.parametrize(
    "line, words",
    [
        ("--predictions f --output-dir o", ["--protocol"]),
        ("--predictions f --protocol geoqa --model tiny --output-dir o", ["--model"]),
        ("--predictions=f --protocol geoqa --output-dir o --data count", ["--data"]),
        ("--predictions f --protocol geoqa --output-dir o --num_samples 4", ["--num-samples"]),
        ("--predictions f --protocol nonsense --output-dir o", ["nonsense", "geoqa"]),
        ("--protocol geoqa --output-dir o", ["--model"]),
        (
            "--predictions f --protocol geoqa --output-dir o --box-format pixels",
            ["--box-format", "no boxes"],
        ),
        ("--predictions f --protocol geoqa", ["--output-dir"]),
    ],
)
def test_flags_that_do_not_go_together(line, words, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.parse_args(line.split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and all(word in said for word in words), (
        said
    )


def test_rescoring_needs_no_model_code(tmp_path):
    """In a process of its own: neither transformers nor our model is imported."""
    (tmp_path / "p.jsonl").write_text(json.dumps({"prediction": "<answer>3</answer>", "answer": 3}))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import evaluate; evaluate.main(evaluate.parse_args('--predictions p.jsonl --protocol superclevr --output-dir out'.split())); print({{'transformers', 'model', 'peft'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stdout.rstrip().endswith("set()"), (
        done.stdout + done.stderr
    )


def ask(monkeypatch, tmp_path, says, line):
    """evaluate.py with a model that says says(example, sample number or None): (result, rows of predictions.jsonl, templates asked with)."""

    asked = []

    def answer_all(policy, asker, examples, sampling, G=1, **_):
        asked.append(asker.template)
        greedy = sampling.temperature == 0
        texts = [says(e, None if greedy else k) for e in examples for k in range(G)]
        return texts, [len(text) for text in texts], None

    monkeypatch.setattr(modeling, "load_from_args", lambda *_, **__: (None, None))
    monkeypatch.setattr(modeling, "describe", lambda policy: "a parrot")
    monkeypatch.setattr(data.Asker, "check", lambda *_, **__: None)
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


def test_a_protocol_asks_and_scores_as_the_original_does(monkeypatch, tmp_path, capsys):
    """Odd questions are answered in words that the original cannot read; of three samples two are right."""
    says = lambda e, k: (
        f"<think>7</think><answer>{(e.answer + ' objects' if int(e.id[-1]) % 2 else e.answer) if k != 1 else 99}</answer>"
    )
    result, rows, asked = ask(
        monkeypatch,
        tmp_path,
        says,
        "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr",
    )
    assert (
        asked == {"superclevr"}
        and result["accuracy"] == 1
        and result["accuracy_original"] == 0.5
        and result["disagreements"] == 3
    )
    assert (
        result["majority@3"] == 1
        and result["mean_sample_accuracy"] == pytest.approx(2 / 3)
        and all(row["right"] == [1, 0, 1] for row in rows)
    )
    assert (
        len(read_lines(tmp_path / "disagreements.jsonl")) == 3
        and "accuracy, original" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="holds the answers of an evaluation"):
        ask(
            monkeypatch,
            tmp_path,
            says,
            "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr",
        )
    (tmp_path / "predictions.jsonl").unlink()  # as the sentence says
    again, rows_again, asked = ask(
        monkeypatch,
        tmp_path,
        says,
        "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr --prompt-template direct",
    )
    assert asked == {"direct"} and again["accuracy"] == 1
    line = "--data count:test --max-eval-samples 6 --num-samples 3 --protocol superclevr --prompt-template direct --resume-from-checkpoint"
    assert ask(monkeypatch, tmp_path, None, line) == (again, rows_again, set()), (
        "all answered already: nothing is asked, the figures are the same"
    )
    with pytest.raises(UserError, match="another evaluation"):
        ask(monkeypatch, tmp_path, None, line.replace("superclevr", "geoqa"))


def test_a_protocol_on_data_that_it_does_not_suit(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--protocol rec"):
        ask(
            monkeypatch,
            tmp_path,
            lambda e, k: "",
            "--data count:test --max-eval-samples 2 --protocol rec",
        )


def test_it_is_said_when_questions_are_left_out(monkeypatch, tmp_path, capsys):
    """The default of 512 would cut GEOQA's 754 and CV-Bench's 2,638 without a word."""
    four = data.head(tasks.read("count:test"), 4)
    monkeypatch.setattr(tasks, "read", lambda *_, **__: four)
    for most, said in ((3, True), (4, False)):
        ask(
            monkeypatch,
            tmp_path / str(most),
            lambda e, k: "",
            f"--data count:test --max-eval-samples {most} --protocol superclevr",
        )
        assert (
            "asking the first 3 of 4 questions; --max-eval-samples 4" in capsys.readouterr().out
        ) == said


def test_a_protocol_for_boxes(monkeypatch, tmp_path):
    says = lambda e, k: (
        "<answer>"
        + json.dumps(
            [
                {
                    "bbox_2d": [
                        round(v) for v in from_pixels(box["bbox_2d"], "norm1000", e.meta["size"])
                    ],
                    "label": box["label"],
                }
                for box in e.meta["boxes"]
            ]
        )
        + "</answer>"
    )
    result, rows, asked = ask(
        monkeypatch, tmp_path, says, "--data ground:test --max-eval-samples 5 --protocol lisa"
    )
    assert (
        asked == {"lisa"}
        and result["accuracy"] == 1
        and result["mean_iou"] > 0.9
        and len(rows) == 5
        and "iou" in rows[0]
    )


def test_without_a_protocol_nothing_has_changed(monkeypatch, tmp_path):
    result, rows, asked = ask(
        monkeypatch,
        tmp_path,
        lambda e, k: f"<think>x</think><answer>{e.answer}</answer>",
        "--data count:test --max-eval-samples 3",
    )
    assert (
        asked == {"r1v"}
        and result["accuracy"] == result["format_rate"] == 1
        and "accuracy_original" not in result
        and not (tmp_path / "disagreements.jsonl").exists()
    )
    assert {
        "id",
        "question",
        "answer",
        "choices",
        "prediction",
        "tokens",
        "accuracy",
        "samples",
        "right",
    } <= rows[0].keys()
