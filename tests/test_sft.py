"""Run: python -m pytest -q tests/test_sft.py    (10 s on one core of a CPU; no network)

train_sft.py as a user types it: whether it learns, epochs, and a gradient that is not finite.
"""

import json
import math
import shutil

import pytest
from commands import SFT, metrics_of, read, train
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

import evaluate
import generate
import selftrain
import train_dpo
import train_grpo
import train_sft
from plumbing import rundir
from plumbing.errors import UserError

COLOURS = {
    c: f"<think> I see {c}. </think><answer> {c} </answer>"
    for c in ("red", "green", "blue", "yellow")
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four pictures with worked answers to the same question, so that only looking helps."""
    folder = tmp_path_factory.mktemp("pictures")
    records = []
    for colour, solution in COLOURS.items():
        picture = Image.new("RGB", (56, 56), "white")
        ImageDraw.Draw(picture).rectangle([8, 8, 47, 47], fill=colour)
        picture.save(folder / f"{colour}.png")
        record = {"image": f"{colour}.png", "question": "Which colour?", "answer": colour}
        records.append(record | {"solution": solution})
    (folder / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "d.jsonl"


def test_evaluations_during_sft_are_in_the_metrics(chain):
    first = metrics_of(chain.sft)[0]
    for name in ("count:test", "count:ood"):
        for figure in ("accuracy", "accuracy_parsed", "n", "format_rate"):
            assert f"eval/{name}/{figure}" in first


def test_sft_overfits_one_batch_and_then_answers_it(pictures, base, tmp_path, no_pictures, capsys):
    """The loss falls from 6 to 0.002 - 0.01 and the accuracy is 1, for each of four seeds.

    A loss of 0.01 is reached after about 30 of these 50 steps.
    """
    line = f"--model {base} --data {pictures} --batch-size 4 --max-completion-length 64"
    line += f" --max-steps 50 --learning-rate 3e-3 --save-steps 0 --output-dir {tmp_path}"
    train(train_sft, line)
    first, *_, last = metrics_of(tmp_path)
    assert 5 < first["loss"] < 8 and last["loss"] < 0.1
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]), rel=1e-4)
    result = read(tmp_path / "result.json")
    assert result["accuracy"] == 1 and result["n"] == 4
    assert "not held out" in capsys.readouterr().out
    for colour, solution in COLOURS.items():  # and the picture alone decides
        line = f"--model {tmp_path} --raw --max-completion-length 64 --image"
        picture = pictures.parent / f"{colour}.png"
        train(generate, line, picture, "--prompt", "Which colour?")
        assert capsys.readouterr().out.strip() == solution


def test_epochs_of_a_file_and_the_rest_of_it(pictures, base, tmp_path, no_pictures):
    """Four pictures, 3 a step, 2 epochs: round(8 / 3) = 3 steps."""
    line = f"--model {base} --data {pictures} --batch-size 3 --num-train-epochs 2"
    line += f" --max-completion-length 64 --save-steps 0 --output-dir {tmp_path}"
    train(train_sft, line)
    assert [m["step"] for m in metrics_of(tmp_path)] == [1, 2, 3]


def test_a_gradient_that_is_not_finite_stops_the_run(base, tmp_path, no_pictures):
    """Else a step with nan is saved as the newest checkpoint and displaces the good ones."""
    broken, out = tmp_path / "broken", tmp_path / "out"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors")
    norm = next(name for name in weights if name.endswith("model.norm.weight"))
    weights[norm].fill_(float("inf"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    remedy = "begin another --output-dir .*lower --learning-rate"
    with pytest.raises(UserError, match=f"gradient of step 1 is nan; {remedy}"):
        line = f"--model {broken} {SFT} --max-eval-samples 1 --max-steps 2 --output-dir {out}"
        train(train_sft, line)
    assert not rundir.checkpoints(out)


# --- answers without a gold ---

CAPTION = "A white picture with a square of one colour in the middle of it. " * 3


@pytest.fixture
def captions(pictures, tmp_path):
    """Captions of the four pictures: what is imitated, and no answer that could be scored."""
    records = [json.loads(line) for line in pictures.read_text().splitlines()]
    lines = []
    for record in records:
        image = str(pictures.parent / record["image"])
        line = {"image": image, "question": "Describe it.", "solution": CAPTION + record["answer"]}
        lines.append(json.dumps(line) + "\n")
    (tmp_path / "captions.jsonl").write_text("".join(lines))
    return tmp_path / "captions.jsonl"


OPEN = "--batch-size 2 --max-completion-length 200 --max-steps 2 --eval-steps 1 --save-steps 0"


def test_sft_learns_captions_and_says_once_that_accuracy_cannot_be_measured(
    captions, base, tmp_path, capsys
):
    out = tmp_path / "out"
    train(train_sft, f"--model {base} --data {captions} {OPEN} --output-dir {out}")
    printed = capsys.readouterr().out
    assert printed.count("accuracy cannot be measured") == 1 and "not held out" not in printed
    lines = metrics_of(out)
    assert [line["step"] for line in lines] == [1, 2]
    assert not any("accuracy" in key for line in lines for key in line)
    assert read(out / "result.json") == {"steps": 2}
    assert (out / "curve.png").is_file() and (out / "model.safetensors").is_file()


def test_captions_are_measured_on_questions_with_answers(captions, pictures, base, tmp_path):
    """Given apart, or as those records of --data that have one."""
    out = tmp_path / "apart"
    line = f"--model {base} {OPEN} --data"
    train(train_sft, f"{line} {captions} --eval-data {pictures} --output-dir {out}")
    assert read(out / "result.json")["n"] == 4
    question = {"question": "How many?", "answer": "3"}
    captions.write_text(captions.read_text() + json.dumps(question) + "\n")
    train(train_sft, f"{line} {captions} --output-dir {tmp_path / 'mixed'}")
    assert read(tmp_path / "mixed" / "result.json")["n"] == 1


@pytest.mark.parametrize(
    "script, more",
    [
        (train_grpo, ""),
        (evaluate, ""),
        (train_sft, "--eval-data {data}"),
        (train_sft, "--eval-data {data} --data count --max-steps 1"),
        (train_dpo, "--pairs {pairs} --eval-data {data}"),
        (selftrain, "--method star"),
    ],
)
def test_what_is_scored_needs_a_gold_answer(script, more, captions, base, tmp_path):
    pair = {"question": "q", "chosen": "yes", "rejected": "no"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    more = more.format(data=captions, pairs=tmp_path / "pairs.jsonl")
    data = "" if script is train_dpo else f"--data {captions}"
    with pytest.raises(UserError, match=r"captions\.jsonl:1: .*needs a gold answer"):
        train(script, f"--model {base} {data} {more} --output-dir {tmp_path / 'out'}")


def test_a_record_with_nothing_to_imitate_is_refused(captions, base, tmp_path):
    captions.write_text(captions.read_text() + json.dumps({"question": "Hm?"}) + "\n")
    with pytest.raises(UserError, match=r"captions\.jsonl:5: nothing to imitate"):
        train(train_sft, f"--model {base} --data {captions} {OPEN} --output-dir {tmp_path / 'o'}")
