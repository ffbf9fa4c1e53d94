"""Run: python -m pytest -q tests/test_scripts.py        (about 100 s on one core of a CPU, 70 of them its own; no network; `-m slow` adds 25 runs killed at random, four minutes)

The scripts as a user types them: what they write, what they refuse, whether they learn, and whether a killed run goes on as if nothing had
happened. Most run in this process, by main(parse_args([...])); where the process matters (kill -9, Ctrl-C), it is one of its own.
"""

import contextlib
import importlib
import json
import multiprocessing.forkserver
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

import data
import evaluate
import generate
import model as modeling
import rewards
import rollout as rollout_
import selftrain
import tasks
import train_dpo
import train_grpo
import train_sft
import update
from grading import judges
from grading.metrics import wilson
from plumbing import plots, rundir, running
from plumbing.errors import UserError
from plumbing.flags import Parser
from plumbing.records import CHECK, read_lines
from tasks import files
from tasks.example import Example
from tasks.prompts import question_text, select_prompt, with_question

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "train_sft": train_sft,
    "train_grpo": train_grpo,
    "train_dpo": train_dpo,
    "selftrain": selftrain,
    "evaluate": evaluate,
    "generate": generate,
}
TIMING = {"step_time", "rollout_time", "reward_time", "tokens_per_second"}
SHORT = "--data count --max-completion-length 12 --max-eval-samples 4"
GRPO = f"{SHORT} --prompts-per-step 2 --num-generations 2 --reward-funcs vowels"
SFT = "--data count --level 1 --batch-size 2 --max-eval-samples 4 --max-completion-length 80"


def vowels(completion, example=None):
    """A reward that an untrained model earns some of: the share of vowels among the characters."""
    return sum(c in "aeiou" for c in completion) / max(1, len(completion))


def train(script, line, *more):
    """main(parse_args) of a script; `line` is split at spaces, `more` is not."""
    script.main(script.parse_args([*line.split(), *map(str, more)]))


def metrics_of(out):
    """The lines of metrics.jsonl without timings, and not one step twice."""
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)), f"a step twice: {steps}"
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def weights_of(out):
    file = Path(out) / "model.safetensors"
    return load_file(file if file.exists() else Path(out) / "adapter_model.safetensors")


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])] == []


def read(path):
    """A JSON file of a run, without its checksum."""
    value = json.loads(Path(path).read_text(encoding="utf-8"))
    value.pop(CHECK, None)
    return value


@pytest.fixture(scope="session")
def base(tiny, tmp_path_factory):
    """The untrained preset as a checkpoint: says noise, but says it to every script."""
    directory = tmp_path_factory.mktemp("base")
    modeling.save(*tiny, directory)
    return str(directory)


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of a short run's time."""
    monkeypatch.setattr(plots, "plot_samples", lambda *_, **__: None)
    monkeypatch.setattr(plots, "plot_curve", lambda *_, **__: None)
    monkeypatch.setattr(plots, "plot_scaling", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def toy_reward(monkeypatch):
    monkeypatch.setitem(rewards.REWARDS, "vowels", rewards.Reward(vowels))


# --------------------------------------------------------------------------------------------------------------- flags


class Caught(Exception):
    pass


def parser_of(script, monkeypatch):
    def catch(parser, *_):
        raise Caught(parser)

    with monkeypatch.context() as patch, pytest.raises(Caught) as caught:
        patch.setattr(Parser, "parse_args", catch)
        script.parse_args([])
    return caught.value.args[0]


# (flag, what differs): where a flag says something else in one of the scripts, on purpose.
DRIFT = {
    ("--micro-batch-size", "default"),  # supervised rows are shorter
    ("--temperature", "default"),  # generate.py is greedy: one answer, the likeliest
    ("--num-generations", "default"),  # generate.py: one answer
    ("--temperature", "help"),
    ("--top-p", "help"),
    ("--top-k", "help"),  # RL: log-probs use it, and cuts break ratios
    ("--num-generations", "help"),  # RL: at least 2
    ("--max-completion-length", "help"),  # SFT: also the longest target
    ("--max-completion-length", "default"),
    ("--top-p", "default"),
    ("--top-k", "default"),  # self-training samples as R3V does: 384, 0.95, 50
    ("--beta", "help"),
    ("--beta", "default"),
    ("--loss-type", "help"),
    ("--loss-type", "choices"),
    ("--loss-type", "nargs"),
    ("--loss-type", "default"),  # of a pair, as in TRL's DPO
    ("--batch-size", "help"),  # pairs, too
    ("--max-train-samples", "help"),  # questions, or pairs
    ("--method", "help"),
    ("--method", "choices"),
    ("--method", "required"),
    ("--method", "default"),  # train_dpo.py: dpo
    ("--num-train-epochs", "default"),  # self-training: 3 of what was built, 1 of pairs
    ("--num-samples", "help"),
    ("--num-samples", "nargs"),
    ("--num-samples", "default"),  # evaluate.py: several, for curves
    ("--protocol", "help"),  # evaluate.py: it also asks by it
    ("--learning-rate", "help"),  # its defaults
    ("--seed", "help"),  # training also seeds data order and weights
    ("--max-eval-samples", "help"),  # several --eval-data
    ("--prompt-template", "help"),  # generate.py: verbatim where no template is known
    ("--output-dir", "help"),
    ("--resume-from-checkpoint", "help"),  # evaluate.py leaves answers, not checkpoints
}


def test_the_same_flag_means_the_same_everywhere(monkeypatch):
    seen, drift = {}, set()
    for script in SCRIPTS.values():
        for action in parser_of(script, monkeypatch)._actions:
            for name in action.option_strings:
                first = seen.setdefault(name, action)
                for field in (
                    "option_strings",
                    "dest",
                    "type",
                    "choices",
                    "nargs",
                    "const",
                    "required",
                    "default",
                    "help",
                ):
                    if getattr(action, field) != getattr(first, field):
                        drift.add((name, field))
    assert drift == DRIFT


def test_export_shares_names_and_types(monkeypatch):
    known = {
        name: a
        for name, a in (
            (n, a)
            for s in SCRIPTS.values()
            for a in parser_of(s, monkeypatch)._actions
            for n in a.option_strings
        )
    }
    for action in parser_of(modeling, monkeypatch)._actions:
        for name in action.option_strings:
            assert name in known and (action.type, action.nargs, action.dest) == (
                known[name].type,
                known[name].nargs,
                known[name].dest,
            )


def test_the_common_flags_of_the_issue_exist(monkeypatch):
    common = (
        "--max-steps --num-train-epochs --save-steps --save-total-limit --logging-steps --eval-data --eval-steps --seed --dtype --device --learning-rate "
        "--lr-scheduler-type --warmup-steps --max-grad-norm --optim --gradient-checkpointing --micro-batch-size --max-pixels --min-pixels --system-prompt --output-dir "
        "--resume-from-checkpoint --model --model-name-or-path --quant --lora-r --lora-alpha --lora-dropout --freeze-vision --freeze-llm --freeze-merger --data"
    ).split()
    sampling = "--temperature --top-p --top-k".split()
    published = (
        "--num-generations --max-completion-length --beta --epsilon --epsilon-high --num-iterations --report-to --reward-funcs --reward-weights --loss-type "
        "--mask-truncated-completions --scale-rewards"
    ).split()
    trl = "--num-generations --max-completion-length --beta --label-smoothing --loss-type --loss-weights --report-to --num-samples --protocol".split()
    for name, wanted in (
        ("train_sft", common),
        ("train_grpo", common + sampling + published),
        ("train_dpo", [flag for flag in common if flag != "--data"] + trl[1:] + ["--pairs"]),
        ("selftrain", common + sampling + trl),
        ("evaluate", sampling + ["--num-samples"]),
        ("generate", sampling + ["--raw", "--image", "--prompt"]),
    ):
        options = parser_of(SCRIPTS[name], monkeypatch)._option_string_actions
        assert [flag for flag in wanted if flag not in options] == []


@pytest.mark.parametrize("script", [*SCRIPTS.values(), modeling], ids=lambda s: s.__name__)
def test_help(script, monkeypatch, capsys):
    parser = parser_of(script, monkeypatch)
    with pytest.raises(SystemExit) as stop:
        script.parse_args(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and script.__doc__.strip().splitlines()[0] in said
    for action in parser._actions:
        assert action.option_strings == [] or max(action.option_strings, key=len) in said


@pytest.mark.parametrize("name", SCRIPTS)
def test_dashes_and_underscores(name):
    line = {
        "train_sft": "--model tiny --data count --max-steps 2 --save-total-limit 3 --output-dir out",
        "train_grpo": "--model-name-or-path x --data count --num-generations 4 --no-gradient-checkpointing --output-dir out",
        "selftrain": "--method r3v --model x --data count --num-generations 4 --refine-weight 0.5 --select-sizes 2 3 --output-dir out",
        "train_dpo": "--model x --pairs x --max-train-samples 4 --no-gradient-checkpointing --output-dir out",
        "evaluate": "--model x --data count --num-samples 3 --output-dir out",
        "generate": "--model x --prompt a_b --max-completion-length 3",
    }[name].split()
    scored = ["--" + word[2:].replace("-", "_") if word.startswith("--") else word for word in line]
    assert {**vars(SCRIPTS[name].parse_args(line)), "argv": 0} == {
        **vars(SCRIPTS[name].parse_args(scored)),
        "argv": 0,
    }


# What people paste from TRL, R1-V, VLM-R1, and the flag of ours that the answer must name.
FOREIGN = {
    "--per_device_train_batch_size 1": "--micro-batch-size",
    "--gradient_accumulation_steps=2": "--micro-batch-size",
    "--use_vllm true": "built in",
    "--max_prompt_length 1024": "--max-pixels",
    "--load_in_4bit": "--quant nf4",
    "--bf16": "--dtype bfloat16",
    "--torch_dtype bfloat16": "--dtype",
    "--dataset_name leonardPKU/clevr": "--data",
    "--use_peft true": "--lora-r",
    "--deepspeed zero3.json": "--gradient-checkpointing",
    "--attn_implementation flash_attention_2": "scaled_dot_product",
    "--run_name a": "--output-dir",
    "--warmup_ratio 0.1": "--warmup-steps",
    "--log_completions true": "samples/",
    "--max_new_tokens 5": "--max-completion-length",
    "--freeze_vision_modules true": "--freeze-vision",
    "--image_folders a": "data file",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=lambda s: s.__name__)
def test_flags_of_other_projects_name_ours(script, capsys):
    for typed, ours in FOREIGN.items():
        with pytest.raises(SystemExit) as stop:
            script.parse_args(["--model", "x", *typed.split()])
        said = capsys.readouterr().err
        flag = typed.split()[0].partition("=")[0].replace("_", "-")
        assert stop.value.code == 2 and ours in said and flag in said and said.count("\n") == 1, (
            said
        )


# ------------------------------------------------------------------------------------- two steps of each, one after another


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """sft -> grpo -> evaluate -> export, two steps each: the directories, by name."""
    out = {
        name: tmp_path_factory.mktemp("chain") / name for name in ("sft", "grpo", "eval", "export")
    }
    train(
        train_sft,
        f"--model tiny {SFT} --max-steps 2 --save-steps 1 --save-total-limit 1 --learning-rate 2e-3 --eval-data count:test count:ood --eval-steps 1 --system-prompt Count. --output-dir {out['sft']}",
    )
    train(
        train_grpo,
        f"--model {out['sft']} {SHORT} --prompts-per-step 2 --num-generations 2 --max-steps 2 --save-steps 1 --save-total-limit 1 --output-dir {out['grpo']}",
    )
    train(
        evaluate,
        f"--model {out['grpo']} --data count:test --num-samples 3 --max-eval-samples 4 --max-completion-length 12 --output-dir {out['eval']}",
    )
    modeling.main(
        modeling.parse_args(
            [
                "export",
                "--model",
                str(out["grpo"]),
                "--output-dir",
                str(out["export"]),
                "--dtype",
                "float32",
            ]
        )
    )
    return SimpleNamespace(**out)


def opened(png):
    with Image.open(png) as image:
        image.load()
        return min(image.size)


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_what_a_run_leaves(chain, name):
    out = getattr(chain, name)
    args = read(out / "args.json")
    assert args["max_steps"] == 2 and args["argv"][:2] == [
        "--model",
        "tiny" if name == "sft" else str(chain.sft),
    ]
    assert (
        len(args["commit"] or "x" * 40) >= 40
        and {"python", "torch", "transformers"} <= args["versions"].keys()
    )
    assert args["prompt_template"] == "r1v" and args["system_prompt"] == "Count.", (
        "the training prompt is handed on"
    )
    lines = metrics_of(out)
    assert [line["step"] for line in lines] == ([1, 2] if name == "sft" else [0, 1, 2])
    assert all(isinstance(v, (int, float)) for line in lines for v in line.values()), (
        "null: something was not finite"
    )
    wanted = {"loss", "grad_norm", "learning_rate"}
    if name == "grpo":
        wanted |= {
            "reward",
            "reward_std",
            "rewards/accuracy",
            "rewards/format",
            "frac_reward_zero_std",
            "kl",
            "entropy",
            "clip_ratio/region_mean",
            "completions/mean_length",
            "completions/clipped_ratio",
            "sampling_logp_difference/mean",
            "adv_abs",
        }
        assert lines[0]["eval/count:test/n"] == lines[2]["eval/count:test/n"] == 4
    assert (
        wanted <= lines[-1].keys()
        and TIMING - {"rollout_time", "reward_time"} <= read_lines(out / "metrics.jsonl")[-1].keys()
    )
    pictures = [*(out / "samples").glob("*.png"), out / "curve.png"]
    assert len(pictures) >= 3 and min(map(opened, pictures)) > 50
    assert [p.name for p in rundir.checkpoints(out)] == ["checkpoint-2"] and not list(
        out.glob(".*")
    )
    result = read(out / "result.json")
    assert 0 <= result["accuracy"] <= 1 and result["n"] == 4 and result["data"] == "count:test"
    assert (
        same_weights(out, out / "checkpoint-2") and read(out / "checkpoint-2" / "args.json") == args
    )


def test_evaluations_during_sft_are_in_the_metrics(chain):
    first = metrics_of(chain.sft)[0]
    assert {
        f"eval/{name}/{what}"
        for name in ("count:test", "count:ood")
        for what in ("accuracy", "accuracy_parsed", "n", "format_rate")
    } <= first.keys()


NAMES = [  # data sets, and what metrics and files call them
    (["count:test", "count:ood"], ["count:test", "count:ood"]),
    (["a/d.jsonl"], ["d"]),
    (["./a/d.jsonl", "a/e.parquet"], ["d", "e"]),
    (["a/d.jsonl", "b/d.jsonl"], ["a/d", "b/d"]),
    (["a/d.jsonl", "a/d.json"], ["d.jsonl", "d.json"]),
    (["a/d.jsonl", "./a/d.jsonl"], ["a/d.jsonl", "./a/d.jsonl"]),  # the same file, twice
    (["count", "count.jsonl"], ["count", "count.jsonl"]),
    (["a:test", "a/"], ["a:test", "a"]),
    (["v1.5", "/"], ["v1.5", "/"]),
]


@pytest.mark.parametrize("specs, names", NAMES)
def test_short_names_of_data_sets(specs, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", "v1.5"):
        Path(folder).mkdir()
    for file in ("a/d.jsonl", "a/d.json", "b/d.jsonl", "a/e.parquet", "count.jsonl"):
        Path(file).touch()
    assert files.short_names(specs) == dict(zip(specs, names))


def test_data_sets_of_one_name_stay_apart_in_metrics_and_files(base, tmp_path, no_pictures):
    """`eval/a/d/accuracy`, not `eval//tmp/.../a/d.jsonl/accuracy`; alone, `eval/d/accuracy`."""
    sets = []
    for folder, answer in (("a", "1"), ("b", "2")):
        (tmp_path / folder).mkdir()
        sets.append(tmp_path / folder / "d.jsonl")
        sets[-1].write_text(json.dumps({"question": "Which?", "answer": answer}) + "\n")
    out, more = tmp_path / "out", "--prompts-per-step 1 --max-steps 1 --output-dir"
    line = f"--model {base} {GRPO} --eval-data {sets[0]} {sets[1]} {more} {out}"
    train(train_grpo, line)
    lines, result = metrics_of(out), read(out / "result.json")
    assert all(line["eval/a/d/n"] == line["eval/b/d/n"] == 1 for line in lines)
    assert result["data"] == "a/d" and "eval/b/d/accuracy" in result["after"]
    kept = {path.name for path in (out / "samples").glob("eval_*")}
    assert kept == {f"eval_{i}_d_{step:06d}.jsonl" for i in (0, 1) for step in (0, 1)}
    train(
        evaluate, f"--model {base} --data {sets[0]} --max-completion-length 4 --output-dir {out}2"
    )
    assert read(f"{out}2/result.json")["data"] == "d"


def test_completions_are_kept_with_their_rewards(chain):
    rows = [
        json.loads(line)
        for line in (chain.grpo / "samples" / "step_000001.jsonl").read_text().splitlines()
    ]
    assert (
        len(rows) == 4
        and {"completion", "answer", "accuracy", "format", "advantage", "question"}
        <= rows[0].keys()
    )
    assert rows[0]["id"] == rows[1]["id"] != rows[2]["id"] == rows[3]["id"]
    for step in (0, 2):
        assert (
            len(
                (chain.grpo / "samples" / f"eval_0_count-test_{step:06d}.jsonl")
                .read_text()
                .splitlines()
            )
            == 4
        )


def test_what_an_evaluation_leaves(chain):
    result = read(chain.eval / "result.json")
    shares = "accuracy accuracy_parsed format_rate majority@3 pass@3 accuracy_low accuracy_high"
    assert result["n"] == 4 and all(0 <= result[name] <= 1 for name in shares.split())
    assert [point["step"] for point in result["scaling"]] == [1, 2, 3]
    rows = read_lines(chain.eval / "predictions.jsonl")
    assert [len(row["samples"]) for row in rows] == [len(row["right"]) for row in rows] == [3] * 4
    assert len(set(rows[0]["samples"])) > 1
    assert read(chain.eval / "args.json")["system_prompt"] == "Count."
    assert min(map(opened, [chain.eval / "curve.png", chain.eval / "samples" / "answers.png"])) > 50


def completions_of(*answers):
    """Completions with these answers; None: one that cannot be read."""
    return [{None: "no tags"}.get(a, f"<think> x </think><answer> {a} </answer>") for a in answers]


def row_of(gold, answers, selections):
    """A row of predictions.jsonl, and what it is judged by."""
    row = {
        "choices": None,
        "samples": completions_of(*answers),
        "right": [float(a == gold) for a in answers],
        "prompt_tokens": 10,
        "tokens": 5,
        "sample_tokens": [3] * len(answers),
        "selections": selections,
        "selection_tokens": {n: [40, 2] for n in selections},
    }
    return row, SimpleNamespace(answer=gold, choices=None, meta={})


ON_A_LINE = ["Answer: 14", "Answer: 15", "Answer: 15"]
IN_TAGS = ["<answer>14</answer>", "<answer>15</answer>", "<answer>15</answer>"]
SELECTED = [  # protocol, gold, samples, what was chosen, whether that is right
    ("chartqa", "14", ON_A_LINE, "14", 1),  # bare, as R3V's targets are
    ("chartqa", "14", ON_A_LINE, "Answer: 14", 1),
    ("chartqa", "14", ON_A_LINE, "I think that it is 14.", 0),  # fell back
    # within 5 %, as the protocol scores
    ("chartqa", "14.0", ["Answer: 14.3", *ON_A_LINE[1:]], "Answer: 14.3", 1),
    ("superclevr", "14", IN_TAGS, "14", 0),
]


@pytest.mark.parametrize("protocol, gold, samples, chosen, right", SELECTED)
def test_self_select_reads_and_scores_as_the_protocol_does(protocol, gold, samples, chosen, right):
    row, example = row_of(gold, [None] * 3, {"3": chosen})
    point = evaluate.sampled_scores([row | {"samples": samples}], [example], 3, protocol)
    assert (point["self_select@k"], point["self_select_fell_back"]) == (right, 1 - right)
    assert point["majority@k"] == 0


@pytest.fixture(scope="module")
def chooser(chain, tmp_path_factory):
    out = tmp_path_factory.mktemp("chooser") / "eval"
    line = f"--model {chain.sft} --data count:test --num-samples 3 1 2 --self-select "
    line += "--max-eval-samples 4 --eval-batch-size 3 --max-completion-length 12 "
    line += f"--output-dir {out}"
    train(evaluate, line)
    return SimpleNamespace(out=out, line=line)


def test_what_self_select_leaves(chooser):
    result, args = read(chooser.out / "result.json"), read(chooser.out / "args.json")
    points = result["scaling"]
    assert args["num_samples"] == [1, 2, 3] == [point["step"] for point in points]
    assert args["self_select"]
    for name in ("majority", "pass", "self_select"):
        assert 0 <= result[f"{name}@3_low"] <= result[f"{name}@3"] <= result[f"{name}@3_high"] <= 1
        for point in points:
            assert {f"{name}@k", f"{name}@k_low", f"{name}@k_high"} <= point.keys()
    figures = "gain gain_low gain_high unreadable not_a_candidate fell_back by".split()
    for point in points[1:]:
        assert {f"self_select_{figure}" for figure in figures} <= point.keys()
    rows = read_lines(chooser.out / "predictions.jsonl")
    spent = [row["prompt_tokens"] + sum(row["sample_tokens"][:2]) for row in rows]
    selecting = [sum(row["selection_tokens"]["2"]) for row in rows]
    assert points[1]["majority_tokens"] == sum(spent) / 4
    assert points[1]["self_select_tokens"] == sum(spent + selecting) / 4
    pictures = [chooser.out / "curve.png", chooser.out / "samples" / "answers.png"]
    assert min(map(opened, pictures)) > 50


def test_what_self_select_asks(chooser):
    """The first n samples are shown, greedily, one question at a time; one is no choice."""
    policy, processor = modeling.load(read(chooser.out / "args.json")["model"])
    asker = data.Asker(processor, "r1v", "Count.")
    rows = read_lines(chooser.out / "predictions.jsonl")
    for row, example in zip(rows, data.head(tasks.read("count:test"), 4)):
        assert row["selections"].keys() == row["selection_tokens"].keys() == {"2", "3"}
        assert row["prompt_tokens"] == len(asker.prompt(example).ids)
        assert len(row["sample_tokens"]) == 3 and max(row["sample_tokens"]) <= 12
        for n in (2, 3):
            text = select_prompt(question_text(example, "r1v"), row["samples"][:n])
            ask = with_question(example, text)
            greedy = rollout_.Sampling(12, temperature=0)
            texts, lengths, _ = rollout_.answer_all(policy, asker.verbatim(), [ask], greedy)
            assert row["selections"][str(n)] == texts[0]
            read_tokens = len(asker.verbatim().prompt(ask).ids)
            assert row["selection_tokens"][str(n)] == [read_tokens, lengths[0]]


def test_a_parrot_that_takes_the_second_candidate(base, tmp_path, no_pictures, monkeypatch):
    """Sample k of 3 is right where the question's number divides by k + 1.

    The second of those shown is right on the even ones.
    """
    asked = []

    def sample_of(example, k):
        right = int(example.id.split(":")[-1]) % (k + 1) == 0
        return completions_of(example.answer if right else 99 - k)[0]

    def answer_all(policy, asker, examples, sampling, G=1, **options):
        if asker.template == "none":
            asked.extend(e.question for e in examples)
            shown = [e.question.split("Model's prediction 2:\n")[1] for e in examples]
            texts = [text.split("\n")[0] for text in shown]
        else:
            texts = [sample_of(e, k) for e in examples for k in range(G)]
        return texts, [7] * len(texts), None

    monkeypatch.setattr(rollout_, "answer_all", answer_all)
    line = f"--model {base} --data count:test --num-samples 2 3 --self-select "
    line += f"--max-eval-samples 12 --eval-batch-size 7 --max-completion-length 12 --output-dir {tmp_path}"
    train(evaluate, line)
    result, rows = read(tmp_path / "result.json"), read_lines(tmp_path / "predictions.jsonl")
    two, three = result["scaling"]
    assert (two["step"], two["self_select@k"], two["majority@k"]) == (2, 1 / 2, 1)
    assert (three["step"], three["self_select@k"], three["majority@k"]) == (3, 1 / 2, 1)
    assert two["pass@k"] == pytest.approx(8 / 9) and three["pass@k"] == 1
    assert result["self_select@3"] == 1 / 2 and three["self_select_gain"] == -1 / 2
    assert three["self_select_not_a_candidate"] == 0
    # 1, 5, 7 and 11; and one of two is no minority
    assert three["self_select_by"]["right in the minority"] == {"accuracy": 0, "n": 4}
    assert two["self_select_by"] == {"some right": {"accuracy": 1 / 2, "n": 12}}
    expected = []
    for example, row in zip(data.head(tasks.read("count:test"), 12), rows):
        question = question_text(example, "r1v")
        expected += [select_prompt(question, row["samples"][:n]) for n in (2, 3)]
    assert asked == expected and len(set(expected)) > 12


def test_self_select_that_was_cut_goes_on(chooser, tmp_path, no_pictures, capsys):
    out = tmp_path / "eval"
    shutil.copytree(chooser.out, out)
    whole = (out / "predictions.jsonl").read_bytes()
    line = chooser.line.replace(str(chooser.out), str(out)) + " --resume-from-checkpoint"
    for kept in (len(whole) // 3, len(whole) * 4 // 5):
        (out / "predictions.jsonl").write_bytes(whole[:kept])
        train(evaluate, line)
        assert (out / "predictions.jsonl").read_bytes() == whole
        assert read(out / "result.json") == read(chooser.out / "result.json")
    for other in (
        line.replace(" --self-select", ""),
        line.replace("--num-samples 3 1 2", "--num-samples 3"),
    ):
        assert "another evaluation" in refusal(evaluate, other.split(), capsys)


def test_the_picture_of_a_perfect_score(tmp_path):
    """Wilson's upper end of n of n is 1e-16 short of 1, and no bar has a negative length."""
    text = completions_of("3")[0]
    records, examples = zip(*[row_of("3", ["3"] * 4, {"2": text, "4": text})] * 300)
    assert wilson(300, 300)[1] < 1
    curve = [evaluate.sampled_scores(records, examples, n) for n in (1, 2, 4)]
    for point in curve:
        assert point["self_select@k"] == point["majority@k"] == point["pass@k"] == 1
    result = {"accuracy": 1.0, "accuracy_low": 0.9, "accuracy_high": 1.0}
    plots.plot_scaling(curve, result, tmp_path / "curve.png", "title")
    assert opened(tmp_path / "curve.png") > 50


@pytest.mark.parametrize(
    "line, sizes",
    [("", [0]), ("--num-samples 8", [8]), ("--num-samples 4 1 4 2", [1, 2, 4])],
)
def test_one_number_of_samples_is_the_whole_curve(line, sizes):
    args = evaluate.parse_args(f"--model x --data count --output-dir o {line}".split())
    assert args.num_samples == sizes


def test_what_self_select_cannot_do_is_said_before_the_work(chain, tmp_path, capsys):
    line = f"--model {chain.sft} --data count:test --max-eval-samples 2 --self-select "
    line += f"--output-dir {tmp_path / 'out'}"
    assert "--num-samples 3" in refusal(evaluate, line.split(), capsys)
    long = f"{line} --num-samples 1 10 --max-completion-length 512"
    message = refusal(evaluate, long.split(), capsys)
    most = int(re.search(r"--max-completion-length to (\d+)", message)[1])
    assert "context of 4096" in message and "--num-samples" in message
    assert 300 < most < 4096 // 11 and not lines_in(tmp_path / "out")
    long = f"{line} --num-samples 10 --max-completion-length {most + 1}"
    assert f"to {most}" in refusal(evaluate, long.split(), capsys)


def test_an_evaluation_that_was_cut_goes_on(chain, tmp_path, no_pictures, capsys):
    out = tmp_path / "eval"
    shutil.copytree(chain.eval, out)
    whole = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(whole[: len(whole) // 2])
    line = f"--model {chain.grpo} --data count:test --num-samples 3 --max-eval-samples 4 "
    line += "--max-completion-length 12 --eval-batch-size 6 --resume-from-checkpoint "
    line += f"--output-dir {out}"
    train(evaluate, line)
    assert "answered already" in capsys.readouterr().out
    assert (out / "predictions.jsonl").read_bytes() == whole
    assert read(out / "result.json") == read(chain.eval / "result.json")
    other = line.replace("--num-samples 3", "--num-samples 2")
    assert "another evaluation" in refusal(evaluate, other.split(), capsys)


def test_asking_about_a_picture(chain, tmp_path, capsys):
    Image.new("RGB", (112, 112), "red").save(tmp_path / "picture.png")
    line = [
        "--image",
        str(tmp_path / "picture.png"),
        "--prompt",
        "How many red objects are there?",
        "--max-completion-length",
        "12",
    ]
    said = {}
    for name, more in {
        "raw": ["--raw"],
        "again": ["--raw"],
        "plain": [],
        "hot": ["--raw", "--temperature", "1", "--num-generations", "3"],
        "exported": ["--raw"],
    }.items():
        train(
            generate, f"--model {chain.export if name == 'exported' else chain.grpo}", *line, *more
        )
        said[name] = capsys.readouterr().out
    assert said["raw"] == said["again"] == said["exported"], "greedy"
    assert said["plain"].startswith(said["raw"]) and "prompt template: r1v" in said["plain"]
    assert said["raw"] not in said["hot"]


def test_a_prompt_is_verbatim_where_no_template_is_known(base, capsys, monkeypatch):
    asked = []
    rollout = rollout_.rollout
    monkeypatch.setattr(
        rollout_,
        "rollout",
        lambda policy, prompts, *a, **k: (asked.extend(prompts), rollout(policy, prompts, *a, **k))[
            1
        ],
    )
    train(generate, f"--model {base} --max-completion-length 2", "--prompt", " Two  spaces? ")
    assert (
        asked[0].text.endswith(
            "<|im_start|>user\n Two  spaces? <|im_end|>\n<|im_start|>assistant\n"
        )
        and "prompt template: none" in capsys.readouterr().out
    )


def test_exported_checkpoint_is_stock(chain):
    from transformers import Qwen2VLForConditionalGeneration

    stock, report = Qwen2VLForConditionalGeneration.from_pretrained(
        chain.export, output_loading_info=True
    )
    assert (
        not report["missing_keys"]
        and not report["unexpected_keys"]
        and stock.dtype == torch.float32
    )


# ------------------------------------------------------------------------------------------------------------- learning

COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A data file of four pictures with worked answers; the question is the same, so that only looking helps."""
    folder = tmp_path_factory.mktemp("pictures")
    with open(folder / "d.jsonl", "w") as file:
        for colour in COLOURS:
            picture = Image.new("RGB", (56, 56), "white")
            ImageDraw.Draw(picture).rectangle([8, 8, 47, 47], fill=colour)
            picture.save(folder / f"{colour}.png")
            file.write(
                json.dumps(
                    {
                        "image": f"{colour}.png",
                        "question": "Which colour?",
                        "answer": colour,
                        "solution": f"<think> I see {colour}. </think><answer> {colour} </answer>",
                    }
                )
                + "\n"
            )
    return folder / "d.jsonl"


def test_sft_overfits_one_batch_and_then_answers_it(pictures, base, tmp_path, no_pictures, capsys):
    """Loss 6 at first, 0.002 to 0.01 at the end and accuracy 1, for each of four seeds; 0.01 is reached after about 30 of these 50 steps."""
    train(
        train_sft,
        f"--model {base} --data {pictures} --batch-size 4 --max-completion-length 64 --max-steps 50 --learning-rate 3e-3 --save-steps 0 --output-dir {tmp_path}",
    )
    lines = metrics_of(tmp_path)
    assert (
        5 < lines[0]["loss"] < 8
        and lines[-1]["loss"] < 0.1
        and lines[-1]["perplexity"] == pytest.approx(2.718281828 ** lines[-1]["loss"], rel=1e-4)
    )
    result = read(tmp_path / "result.json")
    assert (
        result["accuracy"] == 1 and result["n"] == 4 and "not held out" in capsys.readouterr().out
    )
    for colour in COLOURS:  # and the picture alone decides
        train(
            generate,
            f"--model {tmp_path} --raw --max-completion-length 64",
            "--image",
            pictures.parent / f"{colour}.png",
            "--prompt",
            "Which colour?",
        )
        assert (
            capsys.readouterr().out.strip()
            == f"<think> I see {colour}. </think><answer> {colour} </answer>"
        )


def test_grpo_raises_a_toy_reward(base, tmp_path, no_pictures):
    """From 0.22 (the share of vowels in noise) to 0.4 - 1.0 in 24 steps: over 30 seeds the gain was 0.22 to 0.81. Without learning it is 0
    with a standard deviation of about 0.02. A false alarm (no gain of 0.1): never in those 30, so below one in ten by the rule of three, and
    with a fixed seed only a new version of torch draws again."""
    train(
        train_grpo,
        f"--model {base} {GRPO} --max-eval-samples 1 --num-generations 8 --max-completion-length 8 --micro-batch-size 16 --lr-scheduler-type constant --max-steps 24 --save-steps 0 "
        f"--learning-rate 3e-3 --output-dir {tmp_path}",
    )
    reward = [line["reward"] for line in metrics_of(tmp_path)[1:]]
    assert sum(reward[-3:]) / 3 > sum(reward[:3]) / 3 + 0.1


# ------------------------------------------------------------------------------------------------ the same twice, whatever fits


def test_same_seed_same_metrics_and_another_seed_others(base, tmp_path, no_pictures):
    for script, line in (
        (
            train_grpo,
            f"--model {base} {GRPO} --max-steps 3 --beta 0.04 --num-iterations 2 --learning-rate 1e-3",
        ),
        (train_sft, f"--model {base} {SFT} --max-steps 2 --learning-rate 2e-3"),
    ):
        runs = {}
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            out = tmp_path / script.__name__ / name
            train(script, f"{line} --seed {seed} --output-dir {out}")
            runs[name] = metrics_of(out)
        assert runs["a"] == runs["b"] and same_weights(
            tmp_path / script.__name__ / "a", tmp_path / script.__name__ / "b"
        )
        assert runs["a"][-1]["loss"] != runs["c"][-1]["loss"] and not same_weights(
            tmp_path / script.__name__ / "a", tmp_path / script.__name__ / "c"
        )


def one_step(script, line, monkeypatch):
    """Gradients by name (after clipping) and metrics of the first step."""
    caught = {}

    class Recording(torch.optim.SGD):
        def step(self):
            caught["gradients"] = [
                q.grad.clone() for group in self.param_groups for q in group["params"]
            ]

    with monkeypatch.context() as patch:
        patch.setattr(
            update,
            "make_optimizer",
            lambda name, parameters, rate, **_: Recording(parameters, rate),
        )
        train(script, line)
    return caught["gradients"], next(m for m in metrics_of(line.split()[-1]) if m["step"] == 1)


@pytest.mark.parametrize(
    "script, more",
    [
        (train_grpo, "--num-generations 4 --beta 0.04 --loss-type dapo --scale-rewards none"),
        (train_grpo, "--num-generations 4 --lora-r 4"),
        (train_sft, "--batch-size 8"),
    ],
    ids=["grpo", "grpo-lora", "sft"],
)
def test_micro_batches_change_memory_not_gradients(
    script, more, base, tmp_path, no_pictures, monkeypatch
):
    line = f"--model {base} {GRPO if script is train_grpo else SFT} --max-eval-samples 1 --max-steps 1 --save-steps 0 {more}"
    runs = {
        size: one_step(
            script,
            f"{line} --micro-batch-size {size} --output-dir {tmp_path / str(size)}",
            monkeypatch,
        )
        for size in (8, 1, 3)
    }
    gradients, metrics = runs[8]
    assert len(gradients) > 20
    for size in (1, 3):
        for other, one in zip(runs[size][0], gradients):
            assert float((other - one).norm()) <= 1e-5 * float(one.norm()) + 1e-9
        for name, value in metrics.items():
            assert runs[size][1][name] == pytest.approx(value, rel=1e-5, abs=2e-6), name


# ------------------------------------------------------------------------------------------------------------ kill -9, Ctrl-C


def child(script, argv, log, dies_at):
    """In a process of its own: what `python SCRIPT argv` does, its output in a file. dies_at: ("module.function", n) and a signal, SIGKILL
    if none is given, that it gets in the n-th call of that function."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(log, "a", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)  # a signal is answered there, past Python's streams
    rewards.REWARDS["vowels"] = rewards.Reward(vowels)
    if dies_at:
        where, left, what = dies_at[0], [dies_at[1]], (*dies_at, signal.SIGKILL)[2]
        module, name = importlib.import_module(where.rsplit(".", 1)[0]), where.rsplit(".", 1)[1]
        real = getattr(module, name)

        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), what)
            return real(*args, **kwargs)

        setattr(module, name, counted)
    module = importlib.import_module(script)
    running.run(module.main, module.parse_args, argv)


@pytest.fixture(scope="session")
def start():
    """start(script, line, log, dies_at=None) -> a running process. They are forked from one that has imported torch: a third of a second each, not four."""
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("no SIGKILL on this system")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_scripts", "peft", "matplotlib.figure"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        multiprocessing.forkserver.ensure_running()

    def start(script, line, log, dies_at=None):
        process = context.Process(
            target=child, args=(script, line.split(), str(log), dies_at), daemon=True
        )
        process.start()
        return process

    return start


def finish(process, log, seconds=120):
    process.join(seconds)
    assert process.exitcode is not None, (
        f"still running after {seconds} s:\n{Path(log).read_text()[-2000:]}"
    )
    return process.exitcode


def lines_in(out):
    with contextlib.suppress(OSError):
        return (out / "metrics.jsonl").read_text().count("\n")
    return 0


def run_with_kills(start, script, line, out, moments, seed=0):
    """Runs a script to its end, killed at each of `moments` and resumed: ("module.function", n) dies there; a number kills it from outside a
    random while after metrics.jsonl has so many lines. Returns how many were killed (a run may be done before its moment comes)."""
    rng, log, killed = random.Random(seed), out.with_suffix(".log"), 0
    for moment in moments:
        process = start(
            script,
            f"{line} --output-dir {out} --resume-from-checkpoint",
            log,
            moment if isinstance(moment, tuple) else None,
        )
        if not isinstance(moment, tuple):
            deadline = time.monotonic() + 120
            while process.is_alive() and lines_in(out) < moment and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        killed += finish(process, log) == -signal.SIGKILL
        steps = [m["step"] for m in read_lines(out / "metrics.jsonl")]
        assert steps == sorted(set(steps))
    assert (
        finish(start(script, f"{line} --output-dir {out} --resume-from-checkpoint", log), log) == 0
    ), log.read_text()[-2000:]
    return killed


def same_run(one, other):
    assert metrics_of(one) == metrics_of(other)
    assert same_weights(one, other)
    assert read(one / "result.json") == read(other / "result.json")
    assert {p.name for p in one.glob("**/*") if p.suffix != ".log"} >= {
        p.name for p in other.glob("**/*")
    }
    return True


KILLED = {
    # in the evaluation before; in the first save; between a save's two files; at random; in an evaluation; in the last save; after it
    "grpo": (
        "train_grpo",
        f"{GRPO} --num-iterations 2 --beta 0.04 --learning-rate 1e-3 --max-steps 6 --save-steps 2 --eval-data count:test count:ood --eval-steps 3",
        [
            ("generate.rollout", 2),
            ("model.save", 1),
            ("torch.save", 2),
            4,
            ("generate.rollout", 3),
            5,
            ("plumbing.rundir.publish", 1),
            ("plumbing.plots.plot_curve", 1),
        ],
    ),
    "grpo-lora": (
        "train_grpo",
        f"{GRPO} --num-iterations 2 --beta 0.04 --learning-rate 1e-3 --max-steps 4 --save-steps 1 --lora-r 4 --lora-dropout 0.1",
        [2, ("torch.save", 2), 4],
    ),
    "sft": (
        "train_sft",
        f"{SFT} --learning-rate 2e-3 --lr-scheduler-type cosine --warmup-steps 2 --max-steps 6 --save-steps 2 --eval-steps 3",
        [1, ("torch.save", 2), 3, ("generate.rollout", 1)],
    ),
    "sft-lora": (
        "train_sft",
        f"{SFT} --learning-rate 2e-3 --max-steps 3 --save-steps 1 --lora-r 4 --lora-dropout 0.1 --gradient-checkpointing",
        [1, ("model.save", 2)],
    ),
}


@pytest.mark.parametrize("kind", KILLED)
def test_killed_and_resumed_is_the_same_run(kind, start, base, tmp_path):
    script, line, moments = KILLED[kind]
    line = f"--model {base} {line}"
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    other = start(script, f"{line} --output-dir {whole}", tmp_path / "whole.log")
    killed = run_with_kills(start, script, line, pieces, moments)
    assert finish(other, tmp_path / "whole.log") == 0
    assert killed > len(moments) / 2, "the moments never came: nothing was tested"
    assert same_run(pieces, whole) and "no checkpoint in" in (tmp_path / "pieces.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [*KILLED, "grpo-nf4"])
def test_killed_at_random_again_and_again(kind, seed, start, base, tmp_path):
    """About four minutes in all, on a core that others use too."""
    script, line, _ = KILLED.get(
        kind,
        (
            "train_grpo",
            f"{GRPO} --num-iterations 2 --beta 0.04 --learning-rate 1e-3 --max-steps 4 --save-steps 2 --quant nf4 --lora-r 4",
            None,
        ),
    )
    line = f"--model {base} {line}".replace("--max-steps 6", "--max-steps 10")
    moments = sorted(random.Random(seed).choices(range(0, 10), k=5))
    assert (
        finish(
            start(script, f"{line} --output-dir {tmp_path / 'whole'}", tmp_path / "whole.log"),
            tmp_path / "whole.log",
        )
        == 0
    )
    run_with_kills(start, script, line, tmp_path / "pieces", moments, seed)
    assert same_run(tmp_path / "pieces", tmp_path / "whole")


def test_going_back_to_a_named_checkpoint_repeats_what_followed(base, tmp_path, no_pictures):
    line = f"--model {base} {GRPO} --beta 0.04 --learning-rate 1e-3 --max-steps 4 --save-steps 1 --save-total-limit 4 --output-dir {tmp_path / 'a'}"
    train(train_grpo, line)
    shutil.copytree(tmp_path / "a", tmp_path / "first")
    train(train_grpo, line, "--resume-from-checkpoint", tmp_path / "a" / "checkpoint-1")
    assert same_run(tmp_path / "a", tmp_path / "first")


def test_a_used_directory_is_refused_unless_resumed(base, tmp_path, no_pictures, capsys):
    line = f"--model {base} {GRPO} --max-eval-samples 1 --max-steps 1 --output-dir {tmp_path}"
    train(train_grpo, line)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    said = refusal(train_grpo, line.split(), capsys)
    assert (
        "checkpoint-1" in said
        and "--resume-from-checkpoint" in said
        and (tmp_path / "metrics.jsonl").read_bytes() == before
    )
    train(train_grpo, line, "--resume-from-checkpoint")  # nothing left to do: the same result again
    assert (
        tmp_path / "metrics.jsonl"
    ).read_bytes() == before and "resuming from" in capsys.readouterr().out


def test_ctrl_c_saves_and_leaves_with_130(start, base, tmp_path):
    line = f"--model {base} {GRPO} --learning-rate 1e-3 --max-steps 5 --save-steps 0"
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "out.log"
    other = start("train_grpo", f"{line} --output-dir {whole}", tmp_path / "whole.log")
    assert (
        finish(
            start(
                "train_grpo",
                f"{line} --output-dir {out}",
                log,
                ("losses.group_advantage", 3, signal.SIGINT),
            ),
            log,
        )
        == 130
    ), log.read_text()
    assert (
        metrics_of(out)[-1]["step"] == 3
        and [p.name for p in rundir.checkpoints(out)] == ["checkpoint-3"]
        and not (out / "result.json").exists()
    )
    assert (
        "stopping after this step" in log.read_text()
        and "stopped after step 3; go on with --resume-from-checkpoint" in log.read_text()
    )
    assert (
        finish(start("train_grpo", f"{line} --output-dir {out} --resume-from-checkpoint", log), log)
        == 0
    )
    assert (
        finish(other, tmp_path / "whole.log") == 0
        and metrics_of(out) == metrics_of(whole)
        and same_weights(out, whole)
    )


# ------------------------------------------------------------------------------------------------------------- bad input


def refusal(script, argv, capsys, lines=1):
    """The sentence on stderr of a command that must stop with exit code 2, before any training."""
    capsys.readouterr()
    started = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        running.run(script.main, script.parse_args, list(map(str, argv)))
    said = capsys.readouterr().err.strip()
    assert (
        stop.value.code == 2
        and said.startswith("error: ")
        and said.count("\n") == lines - 1
        and "Traceback" not in said
    ), said
    assert time.monotonic() - started < 30
    return said


def record(**changes):
    return json.dumps(
        {
            k: v
            for k, v in {
                "image": "good.png",
                "question": "How many?",
                "answer": "3",
                **changes,
            }.items()
            if v is not ...
        }
    )


# name: (the file, its text, what the sentence must say). Line 1 is good, line 2 is not.
BAD_FILES = {
    "missing image": (
        "d.jsonl",
        [record(), record(image="nowhere.png")],
        ["d.jsonl:2", "nowhere.png", "does not exist", "relative paths resolve beside"],
    ),
    "truncated image": (
        "d.jsonl",
        [record(), record(image="cut.png")],
        ["d.jsonl:2", "cut.png", "cannot be opened", "replace the file or delete the record"],
    ),
    "no image at all": (
        "d.jsonl",
        [record(), record(image="d.jsonl")],
        ["d.jsonl:2", "cannot be opened"],
    ),
    "no answer": ("d.jsonl", [record(), record(answer=...)], ["d.jsonl:2", "no answer; expected"]),
    "empty answer": ("d.jsonl", [record(), record(answer=" ")], ["d.jsonl:2", "`answer` is empty"]),
    "no question": (
        "d.jsonl",
        [record(), record(question=...)],
        ["d.jsonl:2", "no question; expected"],
    ),
    "broken line": ("d.jsonl", [record(), record()[:-3]], ["d.jsonl:2", "broken JSON", "fix"]),
    "broken JSON": (
        "d.json",
        ["[" + record() + ",", record()[:-3] + "]"],
        ["d.json:2", "broken JSON", "fix"],
    ),
    "empty file": ("d.jsonl", [], ["d.jsonl", "holds no record", "expected"]),
    "empty JSON": ("d.json", ["[]"], ["d.json", "holds no record", "expected"]),
    "wrong type": (
        "d.jsonl",
        [record(), record(question=5)],
        ["d.jsonl:2", "`question` must be str, found int"],
    ),
    "image of a wrong type": (
        "d.jsonl",
        [record(), record(image=[5])],
        ["d.jsonl:2", "an image must be a path"],
    ),
    "not an object": (
        "d.jsonl",
        [record(), "[1, 2]"],
        ["d.jsonl:2", "expected an object", "found list"],
    ),
    "not one of the choices": (
        "d.jsonl",
        [record(), record(choices=["1", "2"], answer="cat")],
        ["d.jsonl:2", "'cat'", "choices"],
    ),
    "too long": (
        "d.jsonl",
        [record(), record(question="How many? " * 3000)],
        ["d.jsonl:2", "tokens", "context of 4096", "shorten"],
    ),
    "a reserved token": (
        "d.jsonl",
        [record(), record(question="What is <|image_pad|>?")],
        ["d.jsonl:2", "<|image_pad|>", "remove it"],
    ),
    "another format": ("d.csv", ["image,question,answer"], ["d.csv", ".jsonl"]),
}


@pytest.fixture
def bad_file(tmp_path):
    def write(case):
        name, text, wanted = BAD_FILES[case]
        Image.effect_noise((64, 64), 50).save(tmp_path / "good.png")
        whole = (tmp_path / "good.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / name).write_text("".join(line + "\n" for line in text))
        return tmp_path / name, wanted

    return write


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_data_is_refused_before_any_training(case, bad_file, base, tmp_path, capsys):
    file, wanted = bad_file(case)
    said = refusal(
        train_grpo,
        [
            "--model",
            base,
            "--data",
            file,
            "--eval-data",
            "count:test",
            "--max-eval-samples",
            "1",
            "--max-steps",
            "1",
            "--output-dir",
            tmp_path / "out",
        ],
        capsys,
    )
    assert [w for w in wanted if w not in said] == [] and lines_in(tmp_path / "out") == 0


@pytest.mark.parametrize("case", ["missing image", "truncated image", "broken line", "too long"])
def test_so_it_is_in_the_other_scripts_and_in_data_for_evaluation(
    case, bad_file, base, tmp_path, capsys
):
    """`too long` in --eval-data once came up after the training: supervised runs are measured at the end."""
    file, wanted = bad_file(case)
    for number, (script, line) in enumerate(
        [
            (train_sft, f"--model {base} --data {file} --max-steps 1"),
            (
                train_sft,
                f"--model {base} --data count --max-steps 1 --max-eval-samples 2 --eval-data count:test {file}",
            ),
            (
                train_grpo,
                f"--model {base} --data count --max-steps 1 --eval-data {file} --max-eval-samples 2",
            ),
            (evaluate, f"--model {base} --data {file}"),
        ]
    ):
        out = tmp_path / f"out{number}"
        said = refusal(script, f"{line} --output-dir {out}".split(), capsys)
        assert [w for w in wanted if w not in said] == [] and lines_in(out) == 0
        assert (
            not (out / "predictions.jsonl").exists()
            or (out / "predictions.jsonl").read_text() == ""
        )


REFUSED = {
    "unknown task": (
        "train_grpo",
        "--model {base} --data cuont",
        ["cuont", "not a toy task (count"],
    ),
    "unknown split": ("train_grpo", "--model {base} --data count:tset", ["count:tset", "toy task"]),
    "unknown reward": (
        "train_grpo",
        "--model {base} --data count --reward-funcs accuracy speed",
        ["speed", "accuracy, accuracy_confidence"],
    ),
    "unknown flag": (
        "train_grpo",
        "--model {base} --data count --num-generation 4",
        ["--num-generation", "did you mean --num-generations"],
    ),
    "unknown template": (
        "train_grpo",
        "--model {base} --data count --prompt-template r2v",
        ["r2v", "r1v"],
    ),
    "a number that is none": (
        "train_grpo",
        "--model {base} --data count --max-steps many",
        ["--max-steps", "whole number", "many"],
    ),
    "one generation": (
        "train_grpo",
        "--model {base} --data count --num-generations 1",
        ["--num-generations must be at least 2", "got 1"],
    ),
    "greedy RL": (
        "train_grpo",
        "--model {base} --data count --temperature 0",
        ["--temperature must be above 0"],
    ),
    "too few weights": (
        "train_grpo",
        "--model {base} --data count --reward-weights 1",
        ["--reward-weights", "one weight for each of accuracy format", "got 1"],
    ),
    "endless": ("train_grpo", "--model {base} --data count", ["never ends", "--max-steps"]),
    "no data": ("train_grpo", "--model {base}", ["--data"]),
    "not Qwen2-VL": (
        "train_grpo",
        "--model {out}/gpt --data count --max-steps 1",
        ["gpt", "config.json", "model_type is gpt2", "Qwen2-VL"],
    ),
    "no checkpoint": (
        "train_grpo",
        "--model {out} --data count --max-steps 1",
        ["no config.json", "not a Hugging Face checkpoint"],
    ),
    "no such model": (
        "train_grpo",
        "--model runs/nowhere --data count --max-steps 1",
        ["runs/nowhere", "no such directory"],
    ),
    "a hub name without network": (
        "train_grpo",
        "--model nobody/nothing --data count --max-steps 1",
        ["nobody/nothing", "could not be fetched", "download it"],
    ),
    "4 bits to train": (
        "train_grpo",
        "--model {base} --data count --max-steps 1 --quant nf4 --lora-r 0",
        ["--quant nf4", "--lora-r 16"],
    ),
    "LoRA and freezing": (
        "train_grpo",
        "--model {base} --data count --max-steps 1 --lora-r 4 --freeze-vision",
        ["--freeze-vision", "--lora-r 0"],
    ),
    "all frozen": (
        "train_sft",
        "--model {base} --data count --max-steps 1 --freeze-vision --freeze-merger --freeze-llm",
        ["everything is frozen"],
    ),
    "no such device": (
        "train_sft",
        "--model {base} --data count --max-steps 1 --device cuda:99",
        ["--device cuda:99", "--device cpu"],
    ),
    "pixels": (
        "train_sft",
        "--model {base} --data count --max-steps 1 --min-pixels 5000 --max-pixels 4000",
        ["--min-pixels 5000", "--max-pixels 4000", "lower it"],
    ),
    "a solution too long": (
        "train_sft",
        "--model {base} --data count --max-steps 1 --max-completion-length 9",
        ["--max-completion-length 9", "raise it"],
    ),
    "no room for the answer": (
        "train_grpo",
        "--model {base} --data count --max-steps 1 --max-completion-length 4090",
        ["context of 4096", "lower --max-pixels or --max-completion-length"],
    ),
    "not a checkpoint to resume": (
        "train_grpo",
        "--model {base} --data count --max-steps 1 --resume-from-checkpoint {out}/gpt",
        ["gpt", "is not a checkpoint"],
    ),
    "below a file": (
        "train_grpo",
        "--model {base} --data count --max-steps 1 --output-dir {out}/file/run",
        ["file/run", "cannot be written", "another"],
    ),
    "a file": (
        "train_sft",
        "--model {base} --data count --max-steps 1 --output-dir {out}/file",
        ["file", "cannot be written", "another"],
    ),
    "evaluate below a file": (
        "evaluate",
        "--model {base} --data count:test --output-dir {out}/file/run",
        ["file/run", "cannot be written"],
    ),
    "export onto a run": (
        "model",
        "export --model {base} --output-dir {base}",
        ["is --model", "would write over", "another directory"],
    ),
    "export nothing": (
        "model",
        "export --model {out}/gpt --output-dir {out}/exported",
        ["gpt", "Qwen2-VL"],
    ),
    "no such picture": (
        "generate",
        "--model {base} --prompt hi --image {out}/nowhere.png",
        ["nowhere.png", "does not exist"],
    ),
    "no picture": (
        "generate",
        "--model {base} --prompt hi --image {out}/file",
        ["file", "cannot be opened"],
    ),
    "untrained": (
        "generate",
        "--model tiny --prompt hi",
        ["untrained", "python train_sft.py --model tiny"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case, base, tmp_path, capsys):
    script, line, wanted = REFUSED[case]
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "file").write_text("not a folder, not a picture")
    argv = line.format(base=base, out=tmp_path).split()
    if script.startswith("train"):
        argv += ["--max-eval-samples", "1"]
    if "--output-dir" not in argv and script != "generate":
        argv += ["--output-dir", str(tmp_path / "out")]
    said = refusal(
        {**SCRIPTS, "model": modeling}[script], argv, capsys, lines=3 if case == "untrained" else 1
    )
    assert [w for w in wanted if w not in said] == [] and lines_in(tmp_path / "out") == 0


@pytest.mark.parametrize("script", [train_grpo, evaluate], ids=lambda s: s.__name__)
def test_the_untrained_preset_is_answered_with_the_command_that_trains_it(script, tmp_path, capsys):
    said = refusal(
        script,
        f"--model tiny --data count:test --max-eval-samples 1 --max-completion-length 9 --output-dir {tmp_path}".split()
        + ["--max-steps", "1"] * (script is train_grpo),
        capsys,
        lines=3,
    )
    command = next(line for line in said.splitlines() if "python train_sft.py" in line)
    assert train_sft.parse_args(command.split()[2:]).model == "tiny" and "untrained" in said


def test_a_gradient_that_is_not_finite_stops_the_run(base, tmp_path, no_pictures, capsys):
    """Else a step with nan in it is saved as the newest checkpoint, and in time displaces the good ones."""
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors")
    next(weight for name, weight in weights.items() if name.endswith("model.norm.weight")).fill_(
        float("inf")
    )
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError,
        match="gradient of step 1 is nan; begin another --output-dir .*lower --learning-rate",
    ):
        train(
            train_sft,
            f"--model {broken} {SFT} --max-eval-samples 1 --max-steps 2 --output-dir {tmp_path / 'out'}",
        )
    assert not rundir.checkpoints(tmp_path / "out")


def test_as_a_real_command(base, tmp_path):
    """One of each in a process of its own: nothing but the sentence on stderr; nothing but the completion on stdout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = lambda *argv: subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    (tmp_path / "d.jsonl").write_text(record(image="nowhere.png") + "\n")
    bad = run(ROOT / "train_grpo.py", "--model", base, "--data", "d.jsonl", "--output-dir", "out")
    out, err = bad.communicate(timeout=120)
    assert (
        bad.returncode == 2
        and err.startswith("error: d.jsonl:1: image nowhere.png does not exist")
        and err.count("\n") == 1
    )
    good = run(
        ROOT / "generate.py",
        "--model",
        base,
        "--prompt",
        "Hi?",
        "--raw",
        "--max-completion-length",
        "6",
    )
    out, err = good.communicate(timeout=120)
    assert good.returncode == 0 and out.endswith("\n"), err
    policy, processor = modeling.load(base)
    import data

    rolled = rollout_.rollout(
        policy,
        [data.Asker(processor, "none").prompt(Example("", [], "Hi?", ""))],
        processor.special,
        1,
        rollout_.Sampling(6, temperature=0),
    )
    assert (
        out == processor.decode(rolled.targets[0]).encode("utf-8", "replace").decode("utf-8") + "\n"
    )


# ---------------------------------------------------------------------------------------------- every flag does something


def grpo(base, out, more="", steps=1):
    train(
        train_grpo,
        f"--model {base} {GRPO} --max-eval-samples 1 --max-steps {steps} --save-steps 0 --learning-rate 1e-3 {more} --output-dir {out}",
    )
    return metrics_of(out)[1:]


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """Metrics of one ordinary step, and where it is."""
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rewards.REWARDS, "vowels", rewards.Reward(vowels))
        patch.setattr(plots, "plot_samples", lambda *_, **__: None)
        patch.setattr(plots, "plot_curve", lambda *_, **__: None)
        return grpo(base, out, "--num-generations 4")[0], out


def test_on_policy_the_loss_is_zero_and_its_gradient_is_not(plain, base):
    step, out = plain
    assert (
        abs(step["loss"]) < 1e-5
        and step["grad_norm"] > 1e-3
        and step["adv_abs"] > 0.1
        and step["kl"] == 0
        and step["clip_ratio/region_mean"] == 0
    )
    assert step["sampling_logp_difference/max"] < 1e-4, "rollout and trainer are the same policy"
    assert (
        0 < step["reward"] < 1
        and step["reward"] == pytest.approx(step["rewards/vowels"])
        and not same_weights(out, base)
    )


def test_the_log_says_that_the_loss_value_says_nothing(base, tmp_path, no_pictures, capsys):
    grpo(base, tmp_path)
    said = capsys.readouterr().out
    assert (
        "near 0" in said
        and "adv_abs" in said
        and "frac_reward_zero_std" in said
        and "answer " in said
    )


VARIANTS = [
    "--loss-type grpo",
    "--loss-type dapo",
    "--loss-type bnpo",
    "--loss-type dr_grpo --scale-rewards none",
    "--scale-rewards none",
    "--epsilon 0.2 --epsilon-high 0.28 --num-iterations 2",
    "--top-k 20 --top-p 0.9",
    "--beta 0.04",
    "--lora-r 4 --lora-alpha 4",
    "--quant nf4 --lora-r 4",
    "--quant nf4 --beta 0.04",
    "--gradient-checkpointing",
    "--lora-r 4 --gradient-checkpointing",
    "--dtype bfloat16",
    "--dtype bfloat16 --lora-r 4 --beta 0.04",
    "--quant nf4 --dtype bfloat16 --gradient-checkpointing",
    "--freeze-vision --freeze-merger",
    "--warmup-steps 0.5 --lr-scheduler-type cosine",
    "--system-prompt Look.",
    "--prompt-template direct",
    "--max-grad-norm 0",
    "--level 1",
]


@pytest.mark.parametrize("flags", VARIANTS)
def test_one_step_of_each(flags, base, tmp_path, no_pictures):
    step = grpo(base, tmp_path, flags)[0]
    assert all(isinstance(v, float | int) for v in step.values()) and step["grad_norm"] > 0
    assert step["kl"] == pytest.approx(0, abs=1e-6) and step["sampling_logp_difference/mean"] < (
        0.1 if "bfloat16" in flags or "nf4" in flags else 1e-4 if "top" not in flags else 1e-4
    )
    assert read(tmp_path / "result.json")["n"] == 1


def test_adamw_8bit_runs_or_says_why_not(base, tmp_path, no_pictures, capsys):
    try:
        grpo(base, tmp_path, "--optim adamw_8bit", steps=2)
    except UserError as error:
        assert "adamw" in str(error)
    else:
        assert not same_weights(tmp_path, base) and all(
            bool(w.isfinite().all()) for w in weights_of(tmp_path).values()
        )


def test_learning_rate_zero_changes_nothing(base, tmp_path, no_pictures):
    grpo(base, tmp_path, "--learning-rate 0")
    assert same_weights(tmp_path, base)


@pytest.mark.parametrize(
    "flags, frozen",
    [("--freeze-vision", "vision"), ("--freeze-merger", "merger"), ("--freeze-llm", "llm")],
)
def test_frozen_parts_stay_and_the_others_move(flags, frozen, base, tmp_path, no_pictures):
    grpo(base, tmp_path, flags)
    before, after = weights_of(base), weights_of(tmp_path)
    for name, weight in after.items():
        part = "merger" if "visual.merger" in name else "vision" if "visual" in name else "llm"
        if part == frozen:
            assert torch.equal(weight, before[name]), name
    moved = {
        "merger" if "visual.merger" in n else "vision" if "visual" in n else "llm"
        for n in after
        if not torch.equal(after[n], before[n])
    }
    assert moved == {"vision", "merger", "llm"} - {frozen}


def test_gradient_checkpointing_and_bfloat16_are_close_to_plain(plain, base, tmp_path, no_pictures):
    checkpointed = grpo(base, tmp_path / "a", "--num-generations 4 --gradient-checkpointing")[0]
    assert all(checkpointed[k] == pytest.approx(v, rel=1e-5, abs=1e-6) for k, v in plain[0].items())
    halved = grpo(base, tmp_path / "b", "--num-generations 4 --dtype bfloat16")[0]
    assert halved != plain[0] and halved["entropy"] == pytest.approx(plain[0]["entropy"], rel=0.05)
    assert {w.dtype for w in weights_of(tmp_path / "b").values()} == {torch.float32}, (
        "what trains is float32"
    )


@pytest.mark.parametrize(
    "flags, name, compare",
    [
        ("--temperature 0.5", "entropy", "less"),
        ("--temperature 2", "entropy", "more"),
        ("--reward-weights 3", "reward", "other"),
        ("--max-pixels 3136", "entropy", "other"),
        ("--system-prompt Look.", "entropy", "other"),
        ("--prompt-template none", "entropy", "other"),
        ("--quant nf4 --lora-r 4", "entropy", "other"),
        ("--scale-rewards none", "adv_abs", "less"),
        ("--level 1", "entropy", "other"),
        ("--top-k 1", "frac_reward_zero_std", "more"),
        ("--loss-type dr_grpo --max-completion-length 24", "grad_norm", "other"),
        ("--warmup-steps 3", "learning_rate", "less"),
        ("--max-completion-length 6", "completions/max_length", "less"),
        ("--seed 5", "reward", "other"),
    ],
    ids=lambda v: v if v.startswith("--") else "",
)
def test_changing_a_flag_changes_what_happens(
    flags, name, compare, plain, base, tmp_path, no_pictures
):
    before, now = plain[0][name], grpo(base, tmp_path, f"--num-generations 4 {flags}")[0][name]
    assert {"less": now < before, "more": now > before, "other": now != before}[compare], (
        now,
        before,
    )


def test_reward_weights_are_used_in_the_order_of_the_names(base, tmp_path, no_pictures):
    """VLM-R1 accepts --reward_weights and never reads them."""
    step = grpo(base, tmp_path, "--reward-funcs vowels length --reward-weights 2 -0.5")[0]
    assert (
        step["reward"]
        == pytest.approx(2 * step["rewards/vowels"] - 0.5 * step["rewards/length"], rel=1e-5)
        and step["rewards/length"] > 0
    )


def test_truncated_completions_teach_nothing_if_so_asked(base, tmp_path, no_pictures, monkeypatch):
    rollout = rollout_.rollout

    def all_cut(*args, **kwargs):
        rolled = rollout(*args, **kwargs)
        rolled.finish = ["length"] * len(rolled.finish)
        return rolled

    monkeypatch.setattr(rollout_, "rollout", all_cut)
    step = grpo(base, tmp_path, "--mask-truncated-completions")[0]
    assert step["completions/clipped_ratio"] == 1 and step["adv_abs"] > 0
    assert step["grad_norm"] == 0 and step["loss"] == 0 and same_weights(tmp_path, base)


def test_clip_higher_clips_less(base, tmp_path, no_pictures):
    """Three updates on one rollout, at a rate high enough for ratios to leave 1 +- 0.05. The loss of the last is no longer 0: its ratio is to
    the policy that sampled, not to itself."""
    clipped = {
        high: grpo(
            base,
            tmp_path / str(high),
            f"--num-iterations 3 --learning-rate 1e-2 --epsilon 0.05 --epsilon-high {high}",
        )[0]
        for high in (0.05, 1000)
    }
    assert clipped[0.05]["clip_ratio/high_mean"] > 0 == clipped[1000]["clip_ratio/high_mean"]
    assert min(abs(step["loss"]) for step in clipped.values()) > 1e-3 and not same_weights(
        tmp_path / "0.05", tmp_path / "1000"
    )


@pytest.mark.parametrize(
    "off, says, from_rollout",
    [(0.0, None, 1), (0.05, "warning", 0), (0.3, "error", None), (float("nan"), "error", None)],
)
@pytest.mark.parametrize("flags", ["", "--lora-r 4 --lora-dropout 0.2"])
def test_a_rollout_that_disagrees_with_the_update(
    flags, off, says, from_rollout, base, tmp_path, no_pictures, monkeypatch, capsys
):
    """Log-probs off by 0.05 nats: a KL of 1.3e-3, a warning, and old_logp computed; by 0.3: 4e-2, and the step is not taken. LoRA dropout, which the rollout has not, is no disagreement."""
    rollout = rollout_.rollout

    def noisy(*args, **kwargs):
        rolled = rollout(*args, **kwargs)
        rolled.logp = rolled.logp + off * rolled.mask
        return rolled

    monkeypatch.setattr(rollout_, "rollout", noisy)
    if says == "error":
        with pytest.raises(UserError, match="step 1: rollout and update disagree"):
            grpo(base, tmp_path, f"{flags} --num-iterations 2")
        return
    step = grpo(base, tmp_path, f"{flags} --num-iterations 2")[0]
    assert ("warning: step 1: rollout and update disagree" in capsys.readouterr().out) == (
        says == "warning"
    )
    assert step["old_logp_from_rollout"] == from_rollout and step[
        "sampling_logp_difference/mean"
    ] == pytest.approx(off, abs=1e-4)


def test_log_probs_of_the_rollout_serve_as_old_ones(base, tmp_path, no_pictures, monkeypatch):
    """Three updates with them, and with those the update computes itself: the same but for rounding."""
    line = "--num-iterations 3 --learning-rate 1e-2"
    recorded = grpo(base, tmp_path / "a", line)[0]
    monkeypatch.setattr(train_grpo.losses, "rollout_agrees", lambda *_: False)
    computed = grpo(base, tmp_path / "b", line)[0]
    assert (recorded.pop("old_logp_from_rollout"), computed.pop("old_logp_from_rollout")) == (1, 0)
    assert recorded == pytest.approx(computed, rel=1e-3, abs=1e-5)


def test_loss_types_weigh_tokens_differently(base, tmp_path, no_pictures):
    """Where completions have different lengths: each its mean (grpo), all tokens alike (dapo, bnpo), by the longest allowed (dr_grpo)."""
    steps = {
        kind: grpo(
            base,
            tmp_path / kind,
            f"--loss-type {kind} --num-generations 16 --max-completion-length 32 --micro-batch-size 32 --max-grad-norm 0",
        )[0]
        for kind in ("grpo", "dapo", "dr_grpo")
    }
    assert steps["grpo"]["completions/clipped_ratio"] < 1, (
        "another seed, please: with this one no completion ends"
    )
    assert len({round(step["grad_norm"], 5) for step in steps.values()}) == 3


@pytest.mark.parametrize("flags", ["", "--lora-r 4", "continued", "--quant nf4"])
def test_kl_starts_at_zero_and_then_grows(flags, base, tmp_path, no_pictures):
    """`continued`: an adapter trained before. With the adapter switched off, the reference would be the model from before it: KL > 0 at once."""
    model = base
    if flags == "continued":
        model = tmp_path / "before"
        grpo(base, model, "--lora-r 4 --learning-rate 3e-2", steps=2)
        drift = max(float(w.abs().max()) for n, w in weights_of(model).items() if "lora_B" in n)
        assert drift > 1e-2, "it did not move, so that nothing is tested"
        flags = ""
    steps = grpo(model, tmp_path / "run", f"{flags} --beta 0.04 --learning-rate 1e-2", steps=2)
    assert abs(steps[0]["kl"]) < 1e-6 < 1e-5 < steps[1]["kl"] and abs(steps[0]["loss"]) < 1e-5


def test_a_four_bit_adapter_is_loaded_in_four_bits_again(base, tmp_path, no_pictures, capsys):
    grpo(base, tmp_path / "a", "--quant nf4 --lora-r 4")
    args = read(tmp_path / "a" / "args.json")
    assert (args["quant"], args["lora_r"]) == ("nf4", 4) and set(
        p.name for p in (tmp_path / "a").iterdir()
    ) >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    capsys.readouterr()
    train(
        evaluate,
        f"--model {tmp_path / 'a'} --data count:test --max-eval-samples 2 --max-completion-length 6 --output-dir {tmp_path / 'eval'}",
    )
    assert (
        "trained on nf4 weights" in capsys.readouterr().out
        and read(tmp_path / "eval" / "args.json")["quant"] == "nf4"
    )
    grpo(tmp_path / "a", tmp_path / "b")  # and trained further, at its own rank
    again = read(tmp_path / "b" / "args.json")
    assert (again["quant"], again["lora_r"]) == ("nf4", 4) and not same_weights(
        tmp_path / "a", tmp_path / "b"
    )


def test_the_run_is_on_policy_at_every_step(base, tmp_path, no_pictures):
    """Rollout and update see the same weights: log-probs recorded while sampling equal the trainer's, after updates too."""
    for flags in ("", "--lora-r 4 --lora-dropout 0.0 --beta 0.04"):
        steps = grpo(
            base, tmp_path / flags.replace(" ", ""), f"{flags} --learning-rate 1e-2", steps=3
        )
        assert (
            max(s["sampling_logp_difference/max"] for s in steps) < 1e-3
            and max(s["grad_norm"] for s in steps) > 0
        )


def test_epochs_of_a_file_and_the_rest_of_it(pictures, base, tmp_path, no_pictures):
    """Four pictures, 3 a step, 2 epochs: round(8 / 3) = 3 steps; every picture comes up in each epoch."""
    train(
        train_sft,
        f"--model {base} --data {pictures} --batch-size 3 --num-train-epochs 2 --max-completion-length 64 --save-steps 0 --output-dir {tmp_path}",
    )
    assert [m["step"] for m in metrics_of(tmp_path)] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------------ other tasks and rewards


@pytest.mark.parametrize(
    "task, names",
    [
        ("spatial", "accuracy format mcq repetition"),
        ("ground", "iou accuracy_iou od_length format_rec"),
        ("count", "accuracy length cosine soft_overlong"),
    ],
)
def test_every_kind_of_reward_runs_in_a_step(task, names, base, tmp_path, no_pictures):
    train(
        train_grpo,
        f"--model {base} --data {task} --max-completion-length 12 --max-eval-samples 4 --prompts-per-step 2 --num-generations 2 --max-steps 1 --reward-funcs {names}",
        "--output-dir",
        tmp_path / "run",
    )
    first, last = metrics_of(tmp_path / "run")
    assert all(
        f"rewards/{name}" in last and last[f"rewards/{name}/failed"] == 0 for name in names.split()
    )
    assert last["reward"] == pytest.approx(
        sum(last[f"rewards/{name}"] for name in names.split()), abs=1e-5
    )
    assert last["completions/reflection_words"] >= 0 and last["rewards/undecided"] >= 0
    assert ("iou" in read(tmp_path / "run" / "result.json")["after"].__str__()) == (
        task == "ground"
    )


def test_length_counts_tokens_not_words(base, tmp_path, no_pictures):
    train(
        train_grpo,
        f"--model {base} {SHORT} --prompts-per-step 2 --num-generations 2 --max-steps 1 --reward-funcs length",
        "--output-dir",
        tmp_path / "run",
    )
    last = metrics_of(tmp_path / "run")[-1]
    assert last["rewards/length"] == pytest.approx(0.001 * last["completions/mean_length"])


def test_a_reward_for_boxes_without_boxes_stops_before_any_work(base, tmp_path, capsys):
    line = refusal(
        train_grpo,
        [
            "--model",
            str(base),
            *SHORT.split(),
            "--max-steps",
            "1",
            "--reward-funcs",
            "iou",
            "--output-dir",
            str(tmp_path / "run"),
        ],
        capsys,
    )
    assert "iou" in line and "boxes" in line


def test_a_checkpoint_as_reward(base, tmp_path, no_pictures, capsys, monkeypatch):
    """Its score is the step's reward, by its own tokenizer, and what is not finite counts as failed."""
    monkeypatch.setattr(
        judges,
        "RewardModel",
        lambda name, device, dtype: SimpleNamespace(
            score=lambda questions, completions, size: (
                [float("nan")] + [2.0] * (len(completions) - 1)
            )
        ),
    )
    train(
        train_grpo,
        f"--model {base} {SHORT} --prompts-per-step 2 --num-generations 2 --max-steps 1 --reward-funcs judges/one vowels --reward-weights 3 0",
        "--output-dir",
        tmp_path / "run",
    )
    last = metrics_of(tmp_path / "run")[-1]
    assert (
        last["rewards/judges/one"] == pytest.approx(1.5)
        and last["rewards/judges/one/failed"] == 1
        and last["reward"] == pytest.approx(4.5)
    )
    monkeypatch.undo()
    line = refusal(
        train_grpo,
        [
            "--model",
            str(base),
            *SHORT.split(),
            "--max-steps",
            "1",
            "--reward-funcs",
            str(tmp_path / "no" / "model"),
            "--output-dir",
            str(tmp_path / "x"),
        ],
        capsys,
    )
    assert "cannot be loaded" in line


def test_boxes_in_an_answer_are_said_in_pixels_of_the_picture(base, tmp_path, capsys, monkeypatch):
    """Thousandths of a picture of 200 x 100: (500, 500) is (100, 50). --box-format pixels takes them as they are; --raw says nothing but the text."""
    Image.new("RGB", (200, 100), "red").save(tmp_path / "picture.png")
    text = (
        '<think> so </think><answer> [{"label": "cat", "bbox_2d": [100, 200, 500, 500]}] </answer>'
    )
    monkeypatch.setattr(rollout_, "answer_all", lambda *args, **more: ([text], [9], ["stop"]))
    for flags, told in (
        ("", "cat: [20, 20, 100, 50]"),
        ("--box-format pixels", "cat: [100, 200, 500, 500]"),
        ("--raw", None),
    ):
        train(
            generate, f"--model {base} --image {tmp_path / 'picture.png'} --prompt Where? {flags}"
        )
        said = capsys.readouterr().out
        assert (told in said and "pixels of" in said) if told else said.strip() == text


def test_a_finished_pair_of_runs_makes_a_figure(tmp_path):
    """recipes/seed_plot.py as recipes/length.sh calls it: mean and range over runs, printed and drawn."""
    for run, values in {"a0": [0.0, 1.0], "a1": [0.2, 0.6], "b0": [0.5, 0.5]}.items():
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": 10 * i, "x": v}) + "\n" for i, v in enumerate(values))
        )
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "recipes" / "seed_plot.py",
            tmp_path / "x.png",
            "--metrics",
            "the x=x",
            "--runs",
            f"a={tmp_path}/a0,{tmp_path}/a1",
            f"b={tmp_path}/b0",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (
        re.search(r"the x +a +0\.100 -> +0\.800 +range at the end 0\.600 - 1\.000", done)
        and opened(tmp_path / "x.png") > 50
    )
