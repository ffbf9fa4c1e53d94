"""Run: python -m pytest -q tests/test_scripts.py    (50 s on one core of a CPU; no network)

What all scripts have in common: flags, what they write, what they refuse, and that a killed run
goes on as if nothing had happened; then generate.py and export. Most run in this process; where the
process matters (kill -9, Ctrl-C), it is one of its own. `-m slow` adds 25 runs killed at random,
four minutes. test_sft.py, test_grpo.py, test_dpo.py, test_selftrain.py and test_evaluate.py have
what one script does.
"""

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

import pytest
import torch
from commands import (
    GRPO,
    ROOT,
    SCRIPTS,
    SFT,
    TIMING,
    lines_in,
    metrics_of,
    opened,
    read,
    refusal,
    same_weights,
    train,
    use_toy_reward,
)
from page_runs import page_data
from PIL import Image

import data
import distill
import evaluate
import generate
import model as modeling
import rollout as rollout_
import teachers
import train_grpo
import train_sft
import update
from plumbing import report, rundir, running
from plumbing.flags import Parser
from plumbing.records import read_lines
from tasks import folders
from tasks.example import Example

pytestmark = pytest.mark.usefixtures("toy_reward")


# --- flags ---


class Caught(Exception):
    pass


def parser_of(script, monkeypatch):
    def catch(parser, *_):
        raise Caught(parser)

    with monkeypatch.context() as patch, pytest.raises(Caught) as caught:
        patch.setattr(Parser, "parse_args", catch)
        script.parse_args([])
    return caught.value.args[0]


# Where a flag says something else in one of the scripts, on purpose: (flag, what differs).
DRIFT = {
    ("--micro-batch-size", "default"),  # supervised rows are shorter
    ("--temperature", "default"),  # generate.py is greedy: one answer, the likeliest
    ("--num-generations", "default"),  # generate.py: one answer
    # RL: log-probs use the temperature, and cuts break ratios
    ("--temperature", "help"),
    ("--top-p", "help"),
    ("--top-k", "help"),
    ("--num-generations", "help"),  # RL: at least 2
    ("--max-completion-length", "help"),  # SFT: also the longest target
    # self-training samples as R3V does: 384, 0.95, 50
    ("--max-completion-length", "default"),
    ("--top-p", "default"),
    ("--top-k", "default"),
    # of a pair, as in TRL's DPO
    ("--beta", "help"),
    ("--beta", "default"),
    ("--loss-type", "help"),
    ("--loss-type", "choices"),
    ("--loss-type", "nargs"),
    ("--loss-type", "default"),
    # SFT: several sets, and pictures that grow
    ("--data", "help"),
    ("--data", "nargs"),
    ("--max-pixels", "help"),
    ("--max-pixels", "type"),
    ("--batch-size", "help"),  # pairs, too
    ("--max-train-samples", "help"),  # questions, or pairs
    # train_dpo.py: dpo
    ("--method", "help"),
    ("--method", "choices"),
    ("--method", "required"),
    ("--method", "default"),
    ("--num-train-epochs", "default"),  # self-training: 3 of what was built, 1 of pairs
    # evaluate.py: several, for curves
    ("--num-samples", "help"),
    ("--num-samples", "nargs"),
    ("--num-samples", "default"),
    ("--judge", "help"),  # distill.py: the teacher judges without it
    ("--protocol", "help"),  # evaluate.py: it also asks by it
    ("--learning-rate", "help"),  # its defaults
    ("--seed", "help"),  # training also seeds data order and weights
    ("--max-eval-samples", "help"),  # several --eval-data
    ("--prompt-template", "help"),  # generate.py: verbatim where no template is known
    ("--output-dir", "help"),
    ("--resume-from-checkpoint", "help"),  # evaluate.py leaves answers, not checkpoints
    # distill.py: goes on without it, too, and has one place to go on from
    ("--resume-from-checkpoint", "nargs"),
    ("--resume-from-checkpoint", "const"),
    ("--resume-from-checkpoint", "default"),
    # distill.py: it trains nothing that another checkpoint must be asked like
    ("--prompt-template", "default"),
    ("--box-format", "default"),
    ("--box-format", "help"),
    # distill.py, teachers.py: a model; train_sft.py: who solves toy tasks
    ("--teacher", "type"),
    ("--teacher", "choices"),
    ("--teacher", "required"),
    ("--teacher", "default"),
    ("--teacher", "help"),
}
FIELDS = "option_strings dest type choices nargs const required default help".split()


def test_the_same_flag_means_the_same_everywhere(monkeypatch):
    seen, drift = {}, set()
    for script in [*SCRIPTS.values(), distill, teachers]:
        for action in parser_of(script, monkeypatch)._actions:
            for name in action.option_strings:
                first = seen.setdefault(name, action)
                differ = [f for f in FIELDS if getattr(action, f) != getattr(first, f)]
                drift |= {(name, field) for field in differ}
    assert drift == DRIFT


def test_export_shares_names_and_types(monkeypatch):
    known = {}
    for script in SCRIPTS.values():
        known |= parser_of(script, monkeypatch)._option_string_actions
    parser = parser_of(modeling, monkeypatch)
    for name, action in parser._option_string_actions.items():
        if name in ("--llm", "--vision", "--merger"):  # of graft alone
            continue
        assert name in known
        for field in ("type", "nargs", "dest"):
            assert getattr(action, field) == getattr(known[name], field)


COMMON = """
--max-steps --num-train-epochs --save-steps --save-total-limit --logging-steps --eval-data
--eval-steps --seed --dtype --device --learning-rate --lr-scheduler-type --warmup-steps
--max-grad-norm --optim --gradient-checkpointing --micro-batch-size --max-pixels --min-pixels
--system-prompt --output-dir --resume-from-checkpoint --model --model-name-or-path --quant --lora-r
--lora-alpha --lora-dropout --freeze-vision --freeze-llm --freeze-merger
"""
SAMPLING = "--temperature --top-p --top-k "
PREFERENCE = """
--max-completion-length --beta --label-smoothing --loss-type --loss-weights --report-to
--num-samples --protocol
"""
PUBLISHED = """
--num-generations --max-completion-length --beta --epsilon --epsilon-high --num-iterations
--report-to --reward-funcs --reward-weights --loss-type --mask-truncated-completions --scale-rewards
"""
EXPECTED = {
    "train_sft": f"--data {COMMON}",
    "train_grpo": f"--data {COMMON} {SAMPLING} {PUBLISHED}",
    "train_dpo": f"--pairs {COMMON} {PREFERENCE}",
    "selftrain": f"--data {COMMON} {SAMPLING} --num-generations {PREFERENCE}",
    "evaluate": f"{SAMPLING} --num-samples",
    "generate": f"{SAMPLING} --raw --image --prompt",
}


def test_the_common_flags_exist(monkeypatch):
    for name, flags in EXPECTED.items():
        options = parser_of(SCRIPTS[name], monkeypatch)._option_string_actions
        assert [flag for flag in flags.split() if flag not in options] == []


@pytest.mark.parametrize("script", [*SCRIPTS.values(), modeling], ids=lambda s: s.__name__)
def test_help(script, monkeypatch, capsys):
    parser = parser_of(script, monkeypatch)
    with pytest.raises(SystemExit) as stop:
        script.parse_args(["--help-all"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert script.__doc__.strip().splitlines()[0] in printed
    for action in parser._actions:
        assert action.option_strings == [] or max(action.option_strings, key=len) in printed


TYPED = {
    "train_sft": "--model tiny --data count --max-steps 2 --save-total-limit 3 --output-dir out",
    "train_grpo": "--model-name-or-path x --data count --num-generations 4 "
    "--no-gradient-checkpointing --output-dir out",
    "selftrain": "--method r3v --model x --data count --num-generations 4 --refine-weight 0.5 "
    "--select-sizes 2 3 --output-dir out",
    "train_dpo": "--model x --pairs x --max-train-samples 4 --no-gradient-checkpointing "
    "--output-dir out",
    "evaluate": "--model x --data count --num-samples 3 --output-dir out",
    "generate": "--model x --prompt a_b --max-completion-length 3",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_dashes_and_underscores(name):
    underscored = re.sub(r"--\S+", lambda flag: "--" + flag[0][2:].replace("-", "_"), TYPED[name])
    one = SCRIPTS[name].parse_args(TYPED[name].split())
    other = SCRIPTS[name].parse_args(underscored.split())
    assert underscored != TYPED[name]
    assert {**vars(one), "argv": 0} == {**vars(other), "argv": 0}


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
        printed = capsys.readouterr().err
        flag = typed.split()[0].partition("=")[0].replace("_", "-")
        assert stop.value.code == 2 and printed.count("\n") == 1, printed
        assert ours in printed and flag in printed, printed


# --- what a run leaves ---


FIGURES = {
    "sft": "loss grad_norm learning_rate",
    "grpo": "loss grad_norm learning_rate reward reward_std rewards/accuracy rewards/format "
    "frac_reward_zero_std kl entropy clip_ratio/region_mean completions/mean_length "
    "completions/clipped_ratio sampling_logp_difference/mean adv_abs",
}


@pytest.mark.parametrize("name", FIGURES)
def test_what_a_run_leaves(chain, name):
    out = getattr(chain, name)
    model = {"sft": "tiny", "grpo": str(chain.sft)}[name]
    args = read(out / "args.json")
    assert args["max_steps"] == 2 and args["argv"][:2] == ["--model", model]
    assert len(args["commit"] or "x" * 40) >= 40
    assert {"python", "torch", "transformers"} <= args["versions"].keys()
    # the training prompt is handed on
    assert args["prompt_template"] == "r1v" and args["system_prompt"] == "Count."
    lines = metrics_of(out)
    assert [line["step"] for line in lines] == {"sft": [1, 2], "grpo": [0, 1, 2]}[name]
    for line in lines:  # None: something was not finite
        assert all(isinstance(value, (int, float)) for value in line.values())
    assert set(FIGURES[name].split()) <= lines[-1].keys()
    timed = TIMING - {"rollout_time", "reward_time", "resample_time"}
    assert timed <= read_lines(out / "metrics.jsonl")[-1].keys()
    if name == "grpo":
        assert lines[0]["eval/count:test/n"] == lines[2]["eval/count:test/n"] == 4
    pictures = [*(out / "samples").glob("*.png"), out / "curve.png"]
    assert len(pictures) >= 3 and min(map(opened, pictures)) > 50
    assert [p.name for p in rundir.checkpoints(out)] == ["checkpoint-2"]
    assert not list(out.glob(".*"))
    result = read(out / "result.json")
    assert 0 <= result["accuracy"] <= 1 and result["n"] == 4 and result["data"] == "count:test"
    assert same_weights(out, out / "checkpoint-2")
    assert read(out / "checkpoint-2" / "args.json") == args


def test_what_a_run_has_answered_is_on_its_page(chain):
    for out, name in ((chain.sft, "held-out"), (chain.grpo, "samples"), (chain.eval, "answers")):
        data = page_data((out / "report.html").read_text())
        [shown] = data["runs"]
        [frames] = [v["frames"] for v in shown["views"] if v["name"].startswith(name)][:1]
        assert frames[-1]["at"] in (0, 2) and len(frames[-1]["groups"]) in (2, 4)
        pictures = {shown["questions"][g["question"]]["picture"] for g in frames[-1]["groups"]}
        assert pictures <= data["pictures"].keys()
        assert page_data(report.page([out])) == data  # by hand it is the same


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
    assert folders.short_names(specs) == dict(zip(specs, names))


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


# --- the same twice, and in micro-batches ---


SEEDED = [
    (train_grpo, f"{GRPO} --max-steps 3 --beta 0.04 --num-iterations 2 --learning-rate 1e-3"),
    (train_sft, f"{SFT} --max-steps 2 --learning-rate 2e-3"),
]


def test_same_seed_same_metrics_and_another_seed_others(base, tmp_path, no_pictures):
    for script, line in SEEDED:
        runs = {name: tmp_path / script.__name__ / name for name in "abc"}
        for out, seed in zip(runs.values(), (3, 3, 4)):
            train(script, f"--model {base} {line} --seed {seed} --output-dir {out}")
        a, b, c = map(metrics_of, runs.values())
        assert a == b and same_weights(runs["a"], runs["b"])
        assert a[-1]["loss"] != c[-1]["loss"] and not same_weights(runs["a"], runs["c"])


def one_step(script, line, out, monkeypatch):
    """Gradients (after clipping) and metrics of the first step."""
    gradients = []

    class Recording(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                gradients.extend(parameter.grad.clone() for parameter in group["params"])

    def make_optimizer(name, parameters, rate, **_):
        return Recording(parameters, rate)

    with monkeypatch.context() as patch:
        patch.setattr(update, "make_optimizer", make_optimizer)
        train(script, f"{line} --output-dir {out}")
    return gradients, next(m for m in metrics_of(out) if m["step"] == 1)


CUT = {
    "grpo": (
        train_grpo,
        f"{GRPO} --num-generations 4 --beta 0.04 --loss-type dapo --scale-rewards none",
    ),
    "grpo-lora": (train_grpo, f"{GRPO} --num-generations 4 --lora-r 4"),
    "sft": (train_sft, f"{SFT} --batch-size 8"),
}


@pytest.mark.parametrize("kind", CUT)
def test_micro_batches_change_memory_not_gradients(kind, base, tmp_path, no_pictures, monkeypatch):
    script, line = CUT[kind]
    line = f"--model {base} {line} --max-eval-samples 1 --max-steps 1 --save-steps 0"
    runs = {}
    for size in (8, 1, 3):
        cut = f"{line} --micro-batch-size {size}"
        runs[size] = one_step(script, cut, tmp_path / str(size), monkeypatch)
    gradients, metrics = runs[8]
    assert len(gradients) > 20
    for size in (1, 3):
        for other, one in zip(runs[size][0], gradients, strict=True):
            assert float((other - one).norm()) <= 1e-5 * float(one.norm()) + 1e-9
        for name, value in metrics.items():
            assert runs[size][1][name] == pytest.approx(value, rel=1e-5, abs=2e-6), name


# --- kill -9, Ctrl-C ---


def child(script, argv, log, dies_at):
    """Do, in a process of its own, what `python SCRIPT argv` does, its output in a file.

    dies_at: ("module.function", n, signal): the signal comes in the n-th call of that function.
    """
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(log, "a", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)  # a signal is answered there, past Python's streams
    patch = pytest.MonkeyPatch()
    use_toy_reward(patch)
    if dies_at:
        where, left, number = dies_at
        module, name = where.rsplit(".", 1)
        module = importlib.import_module(module)
        real = getattr(module, name)

        def counted(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)
            return real(*args, **kwargs)

        patch.setattr(module, name, counted)
    module = importlib.import_module(script)
    running.run(module.main, module.parse_args, argv)


@pytest.fixture(scope="session")
def start():
    """start(script, line, log, dies_at=None) -> a running process.

    They fork from one that has imported torch: a third of a second each, not four.
    """
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("no SIGKILL on this system")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_scripts", "peft", "matplotlib.figure"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        multiprocessing.forkserver.ensure_running()

    def start(script, line, log, dies_at=None):
        argv = (script, line.split(), str(log), dies_at)
        process = context.Process(target=child, args=argv, daemon=True)
        process.start()
        return process

    return start


def finish(process, log, seconds=120):
    """Wait for a process: its exit code."""
    process.join(seconds)
    end = Path(log).read_text()[-2000:]
    assert process.exitcode is not None, f"still running after {seconds} s:\n{end}"
    return process.exitcode


def kill_after(process, out, lines, rng):
    """Kill a process a random while after metrics.jsonl has so many lines."""
    deadline = time.monotonic() + 120
    while process.is_alive() and lines_in(out) < lines and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()


def run_with_kills(start, script, line, out, moments, seed=0):
    """Run a script to its end, killed at each of `moments` and resumed: how often it was killed.

    ("module.function", n) dies there; a number is killed from outside after so many lines of
    metrics. A run may be done before its moment comes.
    """
    rng, log, killed = random.Random(seed), out.with_suffix(".log"), 0
    line = f"{line} --output-dir {out} --resume-from-checkpoint"
    for moment in moments:
        if isinstance(moment, tuple):
            process = start(script, line, log, (*moment, signal.SIGKILL))
        else:
            process = start(script, line, log)
            kill_after(process, out, moment, rng)
        killed += finish(process, log) == -signal.SIGKILL
        steps = [m["step"] for m in read_lines(out / "metrics.jsonl")]
        assert steps == sorted(set(steps))
    assert finish(start(script, line, log), log) == 0, log.read_text()[-2000:]
    return killed


def same_run(one, other):
    assert metrics_of(one) == metrics_of(other)
    assert same_weights(one, other)
    assert read(one / "result.json") == read(other / "result.json")
    names = {p.name for p in one.glob("**/*") if p.suffix != ".log"}
    assert names >= {p.name for p in other.glob("**/*")}
    return True


TWICE = f"{GRPO} --num-iterations 2 --beta 0.04 --learning-rate 1e-3"
KILLED = {  # the script, its flags, and the moments
    "grpo": (
        "train_grpo",
        f"{TWICE} --max-steps 6 --save-steps 2 --eval-data count:test count:ood --eval-steps 3",
        [
            ("generate.rollout", 2),  # in the evaluation before
            ("model.save", 1),  # in the first save
            ("torch.save", 2),  # between a save's two files
            4,
            ("generate.rollout", 3),  # in an evaluation
            5,
            ("plumbing.rundir.publish", 1),  # in the last save
            ("plumbing.plots.plot_curve", 1),  # after it
        ],
    ),
    "grpo-lora": (
        "train_grpo",
        f"{TWICE} --max-steps 4 --save-steps 1 --lora-r 4 --lora-dropout 0.1",
        [2, ("torch.save", 2), 4],
    ),
    "sft": (
        "train_sft",
        f"{SFT} --learning-rate 2e-3 --lr-scheduler-type cosine --warmup-steps 2 --max-steps 6 "
        "--save-steps 2 --eval-steps 3",
        [1, ("torch.save", 2), 3, ("generate.rollout", 1)],
    ),
    "sft-lora": (
        "train_sft",
        f"{SFT} --learning-rate 2e-3 --max-steps 3 --save-steps 1 --lora-r 4 --lora-dropout 0.1 "
        "--gradient-checkpointing",
        [1, ("model.save", 2)],
    ),
}
NF4 = ("train_grpo", f"{TWICE} --max-steps 4 --save-steps 2 --quant nf4 --lora-r 4", None)


@pytest.mark.parametrize("kind", KILLED)
def test_killed_and_resumed_is_the_same_run(kind, start, base, tmp_path):
    script, line, moments = KILLED[kind]
    line = f"--model {base} {line}"
    whole, pieces, log = tmp_path / "whole", tmp_path / "pieces", tmp_path / "whole.log"
    other = start(script, f"{line} --output-dir {whole}", log)
    killed = run_with_kills(start, script, line, pieces, moments)
    assert finish(other, log) == 0
    assert killed > len(moments) / 2, "the moments never came: nothing was tested"
    assert same_run(pieces, whole)
    assert "no checkpoint in" in (tmp_path / "pieces.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [*KILLED, "grpo-nf4"])
def test_killed_at_random_again_and_again(kind, seed, start, base, tmp_path):
    """About four minutes in all, on a core that others use too."""
    script, line, _ = {**KILLED, "grpo-nf4": NF4}[kind]
    line = f"--model {base} {line}".replace("--max-steps 6", "--max-steps 10")
    moments = sorted(random.Random(seed).choices(range(10), k=5))
    whole, pieces, log = tmp_path / "whole", tmp_path / "pieces", tmp_path / "whole.log"
    assert finish(start(script, f"{line} --output-dir {whole}", log), log) == 0
    run_with_kills(start, script, line, pieces, moments, seed)
    assert same_run(pieces, whole)


def test_going_back_to_a_named_checkpoint_repeats_what_followed(base, tmp_path, no_pictures):
    out, first = tmp_path / "a", tmp_path / "first"
    line = f"--model {base} {GRPO} --beta 0.04 --learning-rate 1e-3 --max-steps 4"
    line += f" --save-steps 1 --save-total-limit 4 --output-dir {out}"
    train(train_grpo, line)
    shutil.copytree(out, first)
    train(train_grpo, line, "--resume-from-checkpoint", out / "checkpoint-1")
    assert same_run(out, first)


def test_a_used_directory_is_refused_unless_resumed(base, tmp_path, no_pictures, capsys):
    line = f"--model {base} {GRPO} --max-eval-samples 1 --max-steps 1 --output-dir {tmp_path}"
    train(train_grpo, line)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    printed = refusal(train_grpo, line.split(), capsys)
    assert "checkpoint-1" in printed and "--resume-from-checkpoint" in printed
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    train(train_grpo, line, "--resume-from-checkpoint")  # nothing left to do: the same result again
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert "resuming from" in capsys.readouterr().out


def test_ctrl_c_saves_and_leaves_with_130(start, base, tmp_path):
    line = f"--model {base} {GRPO} --learning-rate 1e-3 --max-steps 5 --save-steps 0"
    whole, out = tmp_path / "whole", tmp_path / "out"
    log, other_log = tmp_path / "out.log", tmp_path / "whole.log"
    other = start("train_grpo", f"{line} --output-dir {whole}", other_log)
    line = f"{line} --output-dir {out}"
    stopped = start(
        "train_grpo", line, log, ("reinforcing.advantages.group_advantage", 3, signal.SIGINT)
    )
    assert finish(stopped, log) == 130, log.read_text()
    assert metrics_of(out)[-1]["step"] == 2
    assert [p.name for p in rundir.checkpoints(out)] == ["checkpoint-2"]
    assert not (out / "result.json").exists()
    printed = log.read_text()
    assert "stopping soon" in printed
    assert "stopped after step 2; go on with --resume-from-checkpoint" in printed
    assert finish(start("train_grpo", f"{line} --resume-from-checkpoint", log), log) == 0
    assert finish(other, other_log) == 0
    assert metrics_of(out) == metrics_of(whole) and same_weights(out, whole)


def told_in_a_call(script, line, call, monkeypatch):
    """Train, and send SIGTERM in this call of rollout.rollout: how many there are in all."""
    sample, calls = rollout_.rollout, []

    def called(*given, **more):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return sample(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(rollout_, "rollout", called)
        try:
            train(script, line)
        except SystemExit as left:
            assert left.code == 143
        else:
            assert call == 0
    return len(calls)


EARLY, LATE = "stopped after step {}; go on", "stopped after step {}, and before its evaluation"
# Two steps with evaluations of four questions in two batches. In which call the signal comes, and
# what is said in the end. GRPO asks once in a step; its evaluations ask each batch with the picture
# and without it first; and one is made before the first step, which must be ended.
GIVEN_UP = {
    "sft": (train_sft, SFT, {n: LATE.format((n + 1) // 2) for n in (1, 2, 3, 4)}),
    "grpo": (
        train_grpo,
        GRPO,
        {n: LATE.format(1) for n in (7, 9, 13)}
        | {14: EARLY.format(1)}
        | {n: LATE.format(2) for n in (15, 20)},
    ),
}


@pytest.mark.parametrize("name", GIVEN_UP)
def test_a_signal_gives_up_what_can_be_done_again_and_loses_nothing(
    name, base, tmp_path, no_pictures, monkeypatch, capsys
):
    script, flags, calls = GIVEN_UP[name]
    line = f"--model {base} {flags} --max-steps 2 --eval-steps 1 --eval-batch-size 2"
    line = f"{line} --save-steps 0 --output-dir"
    whole = tmp_path / "whole"
    assert told_in_a_call(script, f"{line} {whole}", 0, monkeypatch) == max(calls)
    for call, said in calls.items():
        out = tmp_path / str(call)
        capsys.readouterr()
        made = told_in_a_call(script, f"{line} {out}", call, monkeypatch)
        assert made == call or call == 7 and made == 8, "no more is sampled"
        assert said in capsys.readouterr().out
        train(script, f"{line} {out} --resume-from-checkpoint")
        assert same_run(out, whole)


# --- bad input ---


def record(**changes):
    """A line of a data file; a field that is `...` is not in it."""
    fields = {"image": "good.png", "question": "How many?", "answer": "3", **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


# The second line of d.jsonl, whose first is good, and what the sentence must say.
BAD_LINES = {
    "missing image": (
        record(image="nowhere.png"),
        ["nowhere.png", "does not exist", "relative paths resolve beside"],
    ),
    "truncated image": (
        record(image="cut.png"),
        ["cut.png", "cannot be opened", "replace the file or delete the record"],
    ),
    "no image at all": (record(image="d.jsonl"), ["cannot be opened"]),
    "no answer": (record(answer=...), ["no answer to compare with; expected"]),
    "empty answer": (record(answer=" "), ["`answer` is empty"]),
    "no question": (record(question=...), ["no question; expected"]),
    "broken line": (record()[:-3], ["broken JSON", "fix"]),
    "wrong type": (record(question=5), ["`question` must be str, found int"]),
    "image of a wrong type": (record(image=[5]), ["an image must be a path"]),
    "not an object": ("[1, 2]", ["expected an object", "found list"]),
    "not one of the choices": (record(choices=["1", "2"], answer="cat"), ["'cat'", "choices"]),
    "too long": (
        record(question="How many? " * 3000),
        ["tokens", "context of 4096", "shorten"],
    ),
    "a reserved token": (
        record(question="What is <|image_pad|>?"),
        ["<|image_pad|>", "remove it"],
    ),
}
BAD_FILES = {  # the file, its lines, and what the sentence must say
    "broken JSON": (
        "d.json",
        ["[" + record() + ",", record()[:-3] + "]"],
        ["d.json:2", "broken JSON", "fix"],
    ),
    "empty file": ("d.jsonl", [], ["d.jsonl", "holds no record", "expected"]),
    "empty JSON": ("d.json", ["[]"], ["d.json", "holds no record", "expected"]),
    "another format": ("d.csv", ["image,question,answer"], ["d.csv", ".jsonl"]),
}
BAD_FILES |= {
    case: ("d.jsonl", [record(), bad], ["d.jsonl:2", *wanted])
    for case, (bad, wanted) in BAD_LINES.items()
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
    line = f"--model {base} --data {file} --eval-data count:test --max-eval-samples 1"
    line += f" --max-steps 1 --output-dir {tmp_path / 'out'}"
    printed = refusal(train_grpo, line.split(), capsys)
    assert [words for words in wanted if words not in printed] == []
    assert lines_in(tmp_path / "out") == 0


# `too long` in --eval-data once came up after the training: SFT is evaluated at its end.
READERS = [
    (train_sft, "--data {file} --max-steps 1"),
    (
        train_sft,
        "--data count --max-steps 1 --max-eval-samples 2 --eval-data count:test {file}",
    ),
    (train_grpo, "--data count --max-steps 1 --eval-data {file} --max-eval-samples 2"),
    (evaluate, "--data {file}"),
]


@pytest.mark.parametrize("case", ["missing image", "truncated image", "broken line", "too long"])
def test_so_it_is_in_the_other_scripts_and_in_data_for_evaluation(
    case, bad_file, base, tmp_path, capsys
):
    file, wanted = bad_file(case)
    for number, (script, line) in enumerate(READERS):
        out = tmp_path / f"out{number}"
        line = f"--model {base} {line.format(file=file)} --output-dir {out}"
        printed = refusal(script, line.split(), capsys)
        assert [words for words in wanted if words not in printed] == []
        assert lines_in(out) == 0
        answers = out / "predictions.jsonl"
        assert not answers.exists() or answers.read_text() == ""


# {script: {case: (flags, what the sentence must say)}}
REFUSED = {
    "train_grpo": {
        "unknown task": ("--data cuont", ["cuont", "not a toy task (count"]),
        "unknown split": ("--data count:tset", ["count:tset", "toy task"]),
        "unknown reward": (
            "--data count --reward-funcs accuracy speed",
            ["speed", "accuracy, accuracy_confidence"],
        ),
        "unknown flag": (
            "--data count --num-generation 4",
            ["--num-generation", "did you mean --num-generations"],
        ),
        "unknown template": ("--data count --prompt-template r2v", ["r2v", "r1v"]),
        "a number that is none": (
            "--data count --max-steps many",
            ["--max-steps", "whole number", "many"],
        ),
        "one generation": (
            "--data count --num-generations 1",
            ["--num-generations must be at least 2", "got 1"],
        ),
        "greedy RL": ("--data count --temperature 0", ["--temperature must be above 0"]),
        "too few weights": (
            "--data count --reward-weights 1",
            ["--reward-weights", "one weight for each of accuracy format", "got 1"],
        ),
        "endless": ("--data count", ["never ends", "--max-steps"]),
        "no data": ("", ["--data"]),
        "no known family": (
            "--model {out}/gpt --data count --max-steps 1",
            ["gpt", "config.json", 'model_type is "gpt2"', "Qwen2-VL"],
        ),
        "no checkpoint": (
            "--model {out} --data count --max-steps 1",
            ["no config.json", "not a Hugging Face checkpoint"],
        ),
        "no such model": (
            "--model runs/nowhere --data count --max-steps 1",
            ["runs/nowhere", "no such directory"],
        ),
        "a hub name without network": (
            "--model nobody/nothing --data count --max-steps 1",
            ["nobody/nothing", "could not be fetched", "download it"],
        ),
        "4 bits to train": (
            "--data count --max-steps 1 --quant nf4 --lora-r 0",
            ["--quant nf4", "--lora-r 16"],
        ),
        "LoRA and freezing": (
            "--data count --max-steps 1 --lora-r 4 --freeze-vision",
            ["--freeze-vision", "--lora-r 0"],
        ),
        "no room for the answer": (
            "--data count --max-steps 1 --max-completion-length 4090",
            ["context of 4096", "lower --max-pixels or --max-completion-length"],
        ),
        "not a checkpoint to resume": (
            "--data count --max-steps 1 --resume-from-checkpoint {out}/gpt",
            ["gpt", "is not a checkpoint"],
        ),
        "below a file": (
            "--data count --max-steps 1 --output-dir {out}/file/run",
            ["file/run", "cannot be written", "another"],
        ),
    },
    "train_sft": {
        "all frozen": (
            "--data count --max-steps 1 --freeze-vision --freeze-merger --freeze-llm",
            ["everything is frozen"],
        ),
        "no such device": (
            "--data count --max-steps 1 --device cuda:99",
            ["--device cuda:99", "--device cpu"],
        ),
        "pixels": (
            "--data count --max-steps 1 --min-pixels 5000 --max-pixels 4000",
            ["--min-pixels 5000", "--max-pixels 4000", "lower it"],
        ),
        "a solution too long": (
            "--data count --max-steps 1 --max-completion-length 9",
            ["--max-completion-length 9", "raise it"],
        ),
        "a file": (
            "--data count --max-steps 1 --output-dir {out}/file",
            ["file", "cannot be written", "another"],
        ),
    },
    "evaluate": {
        "evaluate below a file": (
            "--data count:test --output-dir {out}/file/run",
            ["file/run", "cannot be written"],
        ),
    },
    "model": {
        "export onto a run": (
            "export --model {base} --output-dir {base}",
            ["is --model", "would write over", "another directory"],
        ),
        "export nothing": (
            "export --model {out}/gpt --output-dir {out}/exported",
            ["gpt", "Qwen2-VL"],
        ),
    },
    "generate": {
        "no such picture": (
            "--prompt hi --image {out}/nowhere.png",
            ["nowhere.png", "does not exist"],
        ),
        "no picture": ("--prompt hi --image {out}/file", ["file", "cannot be opened"]),
        "untrained": (
            "--model tiny --prompt hi",
            ["untrained", "python train_sft.py --model tiny"],
        ),
    },
}
CASES = [(script, case) for script, rows in REFUSED.items() for case in rows]


@pytest.mark.parametrize("script, case", CASES, ids=[case for _, case in CASES])
def test_refused_in_one_sentence(script, case, base, tmp_path, capsys):
    flags, wanted = REFUSED[script][case]
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "file").write_text("not a folder, not a picture")
    argv = flags.format(base=base, out=tmp_path).split()
    if "--model" not in argv:
        argv = ["--model", base, *argv]
    if script.startswith("train"):
        argv += ["--max-eval-samples", "1"]
    if "--output-dir" not in argv and script != "generate":
        argv += ["--output-dir", str(tmp_path / "out")]
    lines = 3 if case == "untrained" else 1
    printed = refusal({**SCRIPTS, "model": modeling}[script], argv, capsys, lines)
    assert [words for words in wanted if words not in printed] == []
    assert lines_in(tmp_path / "out") == 0


@pytest.mark.parametrize("script", [train_grpo, evaluate], ids=lambda s: s.__name__)
def test_the_untrained_preset_is_answered_with_the_command_that_trains_it(script, tmp_path, capsys):
    line = "--model tiny --data count:test --max-eval-samples 1 --max-completion-length 9"
    line += f" --output-dir {tmp_path}"
    if script is train_grpo:
        line += " --max-steps 1"
    printed = refusal(script, line.split(), capsys, lines=3)
    command = next(text for text in printed.splitlines() if "python train_sft.py" in text)
    assert train_sft.parse_args(command.split()[2:]).model == "tiny"
    assert "untrained" in printed


def python(folder, *argv):
    """Run a command in a process of its own: (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_as_a_real_command(base, tmp_path):
    """Nothing but the sentence is on stderr, and nothing but the completion on stdout."""
    (tmp_path / "d.jsonl").write_text(record(image="nowhere.png") + "\n")
    line = f"--model {base} --data d.jsonl --output-dir out"
    code, _, error = python(tmp_path, ROOT / "train_grpo.py", *line.split())
    assert code == 2 and error.count("\n") == 1
    assert error.startswith("error: d.jsonl:1: image nowhere.png does not exist")
    line = f"--model {base} --prompt Hi? --raw --max-completion-length 6"
    code, printed, error = python(tmp_path, ROOT / "generate.py", *line.split())
    assert code == 0, error
    policy, processor = modeling.load(base)
    prompt = data.Asker(processor, "none").prompt(Example("", [], "Hi?", ""))
    greedy = rollout_.Sampling(6, temperature=0)
    rolled = rollout_.rollout(policy, [prompt], processor.special, 1, greedy)
    text = processor.decode(rolled.targets[0]).encode("utf-8", "replace").decode("utf-8")
    assert printed == text + "\n"


# --- generate.py, export, recipes ---


ASKED = {
    "raw": "--raw",
    "again": "--raw",
    "plain": "",
    "hot": "--raw --temperature 1 --num-generations 3",
    "exported": "--raw",
}


def test_asking_about_a_picture(chain, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (112, 112), "red").save(picture)
    printed = {}
    for name, flags in ASKED.items():
        model = chain.export if name == "exported" else chain.grpo
        line = f"--model {model} --image {picture} --max-completion-length 12 {flags}"
        train(generate, line, "--prompt", "How many red objects are there?")
        printed[name] = capsys.readouterr().out
    assert printed["raw"] == printed["again"] == printed["exported"], "greedy"
    assert printed["plain"].startswith(printed["raw"])
    assert "prompt template: r1v" in printed["plain"]
    assert printed["raw"] not in printed["hot"]


def test_a_prompt_is_verbatim_where_no_template_is_known(base, capsys, monkeypatch):
    asked = []
    real = rollout_.rollout

    def rollout(policy, prompts, *args, **more):
        asked.extend(prompts)
        return real(policy, prompts, *args, **more)

    monkeypatch.setattr(rollout_, "rollout", rollout)
    train(generate, f"--model {base} --max-completion-length 2", "--prompt", " Two  spaces? ")
    turn = "<|im_start|>user\n Two  spaces? <|im_end|>\n<|im_start|>assistant\n"
    assert asked[0].text.endswith(turn)
    assert "prompt template: none" in capsys.readouterr().out


def test_exported_checkpoint_is_stock(chain):
    from transformers import Qwen2VLForConditionalGeneration as Stock

    stock, report = Stock.from_pretrained(chain.export, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert stock.dtype == torch.float32


BOXES = '[{"label": "cat", "bbox_2d": [100, 200, 500, 500]}]'
TOLD = [  # flags, and the box that is printed
    ("", "cat: [20, 20, 100, 50]"),
    ("--box-format pixels", "cat: [100, 200, 500, 500]"),
    ("--raw", None),  # nothing but the text
]


def test_boxes_in_an_answer_are_said_in_pixels_of_the_picture(base, tmp_path, capsys, monkeypatch):
    """Thousandths of a picture of 200 x 100: (500, 500) is (100, 50)."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (200, 100), "red").save(picture)
    text = f"<think> so </think><answer> {BOXES} </answer>"
    monkeypatch.setattr(rollout_, "answer_all", lambda *args, **more: ([text], [9], ["stop"]))
    for flags, told in TOLD:
        train(generate, f"--model {base} --image {picture} --prompt Where? {flags}")
        printed = capsys.readouterr().out
        if told:
            assert told in printed and "pixels of" in printed
        else:
            assert printed.strip() == text


def test_a_finished_pair_of_runs_makes_a_figure(tmp_path):
    """recipes/seed_plot.py as recipes/length.sh calls it: mean and range, printed and drawn."""
    for run, values in {"a0": [0.0, 1.0], "a1": [0.2, 0.6], "b0": [0.5, 0.5]}.items():
        lines = [json.dumps({"step": 10 * i, "x": value}) for i, value in enumerate(values)]
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    runs = ["a=a0,a1", "b=b0"]
    flags = ["x.png", "--metrics", "the x=x", "--runs", *runs]
    code, printed, error = python(tmp_path, ROOT / "recipes" / "seed_plot.py", *flags)
    assert code == 0, error
    line = r"the x +a +0\.100 -> +0\.800 +range at the end 0\.600 - 1\.000"
    assert re.search(line, printed)
    assert opened(tmp_path / "x.png") > 50
