"""What the tests of the scripts share: short commands, what they leave, and how they refuse."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import faults_server
import pytest
import torch
from faults_server import vowels
from PIL import Image
from safetensors.torch import load_file

import evaluate
import generate
import model
import rewards
import rollout
import selftrain
import train_dpo
import train_grpo
import train_sft
from plumbing import plots, running
from plumbing.records import CHECK

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "train_sft": train_sft,
    "train_grpo": train_grpo,
    "train_dpo": train_dpo,
    "selftrain": selftrain,
    "evaluate": evaluate,
    "generate": generate,
}
TIMING = {
    "step_time",
    "data_time",
    "rollout_time",
    "reward_time",
    "resample_time",
    "tokens_per_second",
}
SHORT = "--data count --max-completion-length 12 --max-eval-samples 4"
SMALL = f"{SHORT} --prompts-per-step 2 --num-generations 2"
GRPO = f"{SMALL} --reward-funcs vowels"
SFT = "--data count --level 1 --batch-size 2 --max-eval-samples 4 --max-completion-length 80"
ANSWER_ALL = rollout.answer_all


def train(script, line, *more):
    """Do what a script does; `line` is split at spaces, `more` is not."""
    script.main(script.parse_args([*line.split(), *map(str, more)]))


def grpo(base, out, more="", steps=1):
    """Train a few steps by GRPO: their metrics."""
    line = f"--model {base} {GRPO} --max-eval-samples 1 --max-steps {steps} --save-steps 0"
    train(train_grpo, f"{line} --learning-rate 1e-3 {more} --output-dir {out}")
    return metrics_of(out)[1:]


def train_until_killed(line, call, script=train_grpo):
    """Train in a process that kills itself at this call of rollout.rollout."""
    child = os.fork()
    if child == 0:
        try:
            sample, calls = rollout.rollout, []

            def dying(*given, **more):
                calls.append(1)
                if len(calls) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return sample(*given, **more)

            rollout.rollout = dying
            train(script, line)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def metrics_of(out):
    """The lines of metrics.jsonl without timings, and not one step twice."""
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)), f"a step twice: {steps}"
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def lines_in(out):
    with contextlib.suppress(OSError):
        return (out / "metrics.jsonl").read_text().count("\n")
    return 0


def weights_of(out):
    file = Path(out) / "model.safetensors"
    return load_file(file if file.exists() else Path(out) / "adapter_model.safetensors")


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def read(path):
    """A JSON file of a run, without its checksum."""
    value = json.loads(Path(path).read_text(encoding="utf-8"))
    value.pop(CHECK, None)
    return value


def opened(png):
    """The shorter side of a picture that can be read to its end."""
    with Image.open(png) as image:
        image.load()
        return min(image.size)


def refusal(script, argv, capsys, lines=1):
    """The sentence on stderr of a command that must stop with exit code 2, before any training."""
    capsys.readouterr()
    started = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        running.run(script.main, script.parse_args, list(map(str, argv)))
    printed = capsys.readouterr().err.strip()
    assert stop.value.code == 2, printed
    assert printed.startswith("error: ") and "Traceback" not in printed, printed
    assert printed.count("\n") == lines - 1, printed
    assert time.monotonic() - started < 30
    return printed


def skip_pictures(patch):
    """Drawing takes most of a short run's time."""
    for name in ("plot_samples", "plot_curve", "plot_scaling"):
        patch.setattr(plots, name, lambda *_, **__: None)


def speak(patch):
    """Let the untrained preset answer; by itself it samples noise without an end."""
    patch.setattr(rollout, "answer_all", faults_server.spoken(ANSWER_ALL))
    skip_pictures(patch)


def use_toy_reward(patch):
    """Add a reward that an untrained model earns some of."""
    patch.setitem(rewards.REWARDS, "vowels", rewards.Reward(vowels))


def two_steps_each(folder):
    """Run sft -> grpo -> evaluate -> export, two steps each: the directories, by name."""
    out = SimpleNamespace(**{n: folder / n for n in ("sft", "grpo", "eval", "export")})
    saving = "--max-steps 2 --save-steps 1 --save-total-limit 1"
    line = f"--model tiny {SFT} {saving} --learning-rate 2e-3 --eval-data count:test count:ood"
    train(train_sft, f"{line} --eval-steps 1 --system-prompt Count. --output-dir {out.sft}")
    train(train_grpo, f"--model {out.sft} {SMALL} {saving} --output-dir {out.grpo}")
    line = f"--model {out.grpo} --data count:test --num-samples 3 --max-eval-samples 4"
    train(evaluate, f"{line} --max-completion-length 12 --output-dir {out.eval}")
    line = f"export --model {out.grpo} --output-dir {out.export} --dtype float32"
    model.main(model.parse_args(line.split()))
    return out
