"""Run: python -m pytest -q tests/test_dpo.py    (20 s on one core of a CPU; no network)

train_dpo.py on given pairs: the reference against stock transformers, and what it refuses.
"""

import json
import math
import shutil

import checkpoints
import pytest
import torch
from commands import read, refusal, train
from PIL import Image
from preferences import PAIRS, stock_logps, trainable

import data
import model as modeling
import rollout
import train_dpo
import update
from plumbing import disk, records
from plumbing.arguments import read_args
from plumbing.errors import UserError
from tasks.pairs import read_pairs
from tasks.prompts import TEMPLATES, question_text


def run_dpo(line):
    train(train_dpo, line)


@pytest.mark.parametrize("start", ["adapter", "fresh", "full"])
def test_the_reference_is_where_training_starts(start, base, mmpr, tmp_path):
    """The first step's rewards are exactly 0 and its loss is ln 2; stock transformers agrees.

    So it is for an adapter, too, even one that says something else than its base.
    """
    from peft import PeftModel
    from transformers import Qwen2VLForConditionalGeneration

    model, more = base, {"fresh": "--lora-r 4"}.get(start, "")
    if start == "adapter":
        policy, processor = trainable(base, lora_r=4)
        torch.manual_seed(1)
        for parameter_name, parameter in policy.named_parameters():
            if "lora_B" in parameter_name:
                parameter.data.normal_(0, 0.1)
        model = str(tmp_path / "adapter")
        modeling.save(policy, processor, model)
    out = tmp_path / "out"
    run_dpo(f"--method dpo --pairs {mmpr} --model {model} {PAIRS} {more} --output-dir {out}")
    first, second = records.read_lines(out / "iteration-1" / "metrics.jsonl")
    for name in ("chosen", "rejected", "margins", "accuracies"):
        assert first[f"rewards/{name}"] == 0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second["rewards/accuracies"] > 0.5 and second["loss"] < first["loss"]
    kept = records.read_lines(out / "iteration-1" / "reference.jsonl")
    references = [tuple(one.values()) for one in kept]
    pairs = read_pairs(str(mmpr))
    _, processor = modeling.load(base)
    bare = Qwen2VLForConditionalGeneration.from_pretrained(base).eval()
    by_base = stock_logps(bare, processor, pairs)
    by_start = by_base
    if start == "adapter":
        by_start = stock_logps(PeftModel.from_pretrained(bare, model).eval(), processor, pairs)
    for reference, one, of_base in zip(references, by_start, by_base, strict=True):
        assert reference == pytest.approx(one, rel=1e-4)
        assert (reference == pytest.approx(of_base, rel=1e-3)) == (start != "adapter")


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_given_pairs_train_an_adapter_on_a_checkpoint_of_2024(quant, mmpr, tmp_path):
    if quant == "nf4":
        pytest.importorskip("bitsandbytes", reason="--quant nf4 needs bitsandbytes")
    base = checkpoints.write_2024(tmp_path / "published")
    out = tmp_path / "out"
    line = f"--method mpo --pairs {mmpr / 'meta.json'} --model {base} --quant {quant} --lora-r 4"
    run_dpo(f"{line} {PAIRS} --output-dir {out}")
    first, second = records.read_lines(out / "iteration-1" / "metrics.jsonl")
    for name in ("rewards/margins", "rewards/accuracies", "logps/chosen_change"):
        assert first[name] == 0
    assert second["rewards/margins"] > 0
    pairs = read_pairs(str(mmpr))
    references = records.read_lines(out / "iteration-1" / "reference.jsonl")
    policy, processor = modeling.load(str(out), torch.float32, quant=quant)
    lengths = [len(data.encode_response(pair.chosen, processor, "", 99)) for pair in pairs]
    nll = sum(-one["ref_chosen_logps"] / n for one, n in zip(references, lengths)) / len(pairs)
    # sigmoid, bco_pair and sft, where the policy is its own reference: 0.8318 + NLL
    start = 0.8 * math.log(2) + 0.2 * 2 * math.log(2) + nll
    assert first["loss"] == pytest.approx(start, rel=1e-5)
    asker = data.Asker(processor, "none")
    encoded = [update.encode_pair(pair, asker) for pair in pairs]
    now = [update.pair_logps(policy, asker, pair)[0].tolist() for pair in encoded]
    margins = [
        chosen - rejected - one["ref_chosen_logps"] + one["ref_rejected_logps"]
        for (chosen, rejected), one in zip(now, references)
    ]
    assert sum(margins) > 0
    assert (out / "adapter_model.safetensors").is_file()
    assert read(out / "adapter_config.json")["r"] == 4
    assert not list(out.rglob("model*.safetensors"))
    assert not (out / "iteration-1" / "pool.jsonl").exists()


BAD_PAIRS = {
    "equal answers": (dict(chosen="seven", rejected=" seven "), "the same text"),
    "empty chosen": (dict(chosen=" "), "`chosen` is empty"),
    "no chosen": (dict(chosen=...), "no pair"),
    "missing image": (dict(image="nowhere.png"), "nowhere.png does not exist"),
    "a broken image": (dict(image="bad.jsonl"), "cannot be opened"),
    "two placeholders": (
        dict(question="<image><image>Which?"),
        "2 <image> in the question, but 1 images",
    ),
    "no question": (dict(question=...), "no prompt"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_a_malformed_pair_is_refused_before_a_model_is_loaded(
    case, base, tmp_path, capsys, monkeypatch
):
    changes, wanted = BAD_PAIRS[case]
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    good = {"image": "a.png", "question": "How many?", "chosen": "seven", "rejected": "eight"}
    bad = {k: v for k, v in {**good, **changes}.items() if v is not ...}
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    monkeypatch.setattr(
        modeling, "load_from_args", lambda *_, **__: pytest.fail("a model was loaded")
    )
    line = f"--method mpo --pairs {tmp_path}/bad.jsonl --model {base} --output-dir {tmp_path}/out"
    printed = refusal(train_dpo, line.split(), capsys)
    assert "bad.jsonl:2" in printed and wanted in printed


@pytest.mark.parametrize(
    "change, wanted",
    [
        (dict(chosen="seven " * 5000), "the prompt has .* does not fit"),
        (dict(rejected="<|im_end|>"), "the rejected response contains the reserved token"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_before_training(change, wanted, base, tmp_path):
    pair = {"question": "How many?", "chosen": "seven", "rejected": "eight"}
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(pair)}\n{json.dumps({**pair, **change})}\n")
    with pytest.raises(UserError, match=f"bad.jsonl:2: {wanted}"):
        run_dpo(
            f"--method dpo --pairs {tmp_path / 'bad.jsonl'} --model {base} {PAIRS} --output-dir "
            f"{tmp_path / 'out'}"
        )
    assert not (tmp_path / "out" / "iteration-1").exists()


def test_given_prompts_stay_as_they_are_and_the_evaluation_asks_as_trained(
    base, mmpr, tmp_path, speaking, monkeypatch
):
    asked = []
    inner = rollout.answer_all

    def answer_all(policy, asker, examples, *more, **options):
        asked.extend(e.question for e in examples)
        return inner(policy, asker, examples, *more, **options)

    monkeypatch.setattr(rollout, "answer_all", answer_all)
    trained = tmp_path / "trained"
    shutil.copytree(base, trained)
    disk.write_json(trained / "args.json", {"prompt_template": "think"})
    out = tmp_path / "out"
    run_dpo(
        f"--method dpo --pairs {mmpr} --max-train-samples 2 --model {trained} {PAIRS} --eval-data "
        f"count:test --max-eval-samples 2 --num-samples 0 --output-dir {out}"
    )
    given = read_pairs(str(mmpr))
    used = [one["question"] for one in records.read_lines(out / "iteration-1" / "train.jsonl")]
    assert len(given) > 2
    assert used == [pair.example.question for pair in given[:2]]
    assert used == [question_text(pair.example, "think") for pair in given[:2]]
    ending = TEMPLATES["think"].removeprefix("{question}")
    assert asked and all(question.endswith(ending) for question in asked)
    assert read_args(out)["prompt_template"] == "think"


def test_a_log_probability_that_is_not_finite_names_the_pair(base, mmpr, tmp_path, monkeypatch):
    inner = update.pair_logps
    monkeypatch.setattr(
        update, "pair_logps", lambda *more: (inner(*more)[0] * float("nan"), inner(*more)[1])
    )
    with pytest.raises(
        UserError, match=r":\d+: the log-probability of a response is not finite; .*--learning-rate"
    ):
        run_dpo(
            f"--method mpo --pairs {mmpr} --model {base} {PAIRS} --output-dir {tmp_path / 'out'}"
        )


# --- flags ---


REFUSED_PAIRS = {
    "--pairs x --pair-source dropout_ntp": "unknown argument --pair-source",
    "--pairs x --iterations 2": "unknown argument --iterations",
    "--pairs x --data count": "unknown argument --data",
    "--pairs x --micro-batch-size 4": "--micro-batch-size has no meaning here",
    "--pairs x --beta 0": "--beta must be above 0",
    "--pairs x --label-smoothing 0.5": "--label-smoothing must be below 0.5",
    "--pairs x --loss-type ipo --label-smoothing 0.1": "--label-smoothing changes the loss sigmoid",
    "--pairs x --method mpo --loss-weights 1": "one weight for each of sigmoid bco_pair sft, got 1",
    "--pairs x --method r3v": "--method",
    "--pairs x --eval-steps 5": "--eval-steps has no meaning here",
    "--pairs x --resume-from-checkpoint out/iteration-1": "takes no directory here",
    "--method dpo": "--pairs",
}


@pytest.mark.parametrize("line", REFUSED_PAIRS)
def test_train_dpo_refuses_in_one_sentence(line, capsys):
    with pytest.raises(SystemExit) as stop:
        train_dpo.parse_args(f"--model x --output-dir out {line}".split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and REFUSED_PAIRS[line] in said and said.count("\n") == 1, said


def test_pairs_that_are_not_there_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(modeling, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match="nowhere.jsonl: no such file"):
        run_dpo(f"--model tiny --pairs {tmp_path}/nowhere.jsonl --output-dir {tmp_path / 'out'}")
