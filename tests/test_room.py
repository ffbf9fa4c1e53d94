"""Run: python -m pytest -q tests/test_room.py        (about 20 s on CPU; the slow part: minutes)

The room that a run has: memory, descriptors, and the language of the terminal.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plumbing.errors import UserError, out_of_memory
from tasks import toy

ROOT = Path(__file__).resolve().parents[1]


def python(*words, timeout=300, **environment):
    """Run Python in a process of its own, one thread each; (exit code, stdout, stderr)."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, env=environment, timeout=timeout, check=False
    )
    return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


# --- memory that runs out ---


@pytest.mark.parametrize(
    "error, expected",
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 B"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 B"), True),
        (RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
        (ValueError("can't allocate memory"), False),
        (UserError("Cannot allocate memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (KeyError("memory"), False),
    ],
)
def test_what_means_that_memory_is_full(error, expected):
    assert out_of_memory(error) is expected


# What a library says when memory ends is not written down anywhere: so each is made to say it.
# The limit leaves 100 MB; every line needs 400 MB or more.
HUNGRY = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
folder = sys.argv[2]
import numpy, safetensors.torch, torch
from PIL import Image
from plumbing import errors
torch.set_num_threads(1)
safetensors.torch.save_file({"a": torch.zeros(100_000_000)}, f"{folder}/a.safetensors")
torch.save({"a": torch.zeros(100_000_000)}, f"{folder}/a.pt")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
weight = torch.zeros(1000, 1000, requires_grad=True)
hungry = {
    "a list": lambda: [0] * 100_000_000,
    "a text": lambda: "x" * 400_000_000,
    "reading a file": lambda: open(f"{folder}/a.pt", "rb").read(),
    "torch.zeros": lambda: torch.zeros(100_000_000),
    "a product": lambda: torch.zeros(10_000, 10) @ torch.zeros(10, 10_000),
    "a backward pass": lambda: sum((weight * i).sin().exp() for i in range(50)).sum().backward(),
    "numpy": lambda: numpy.ones(100_000_000),
    "a new picture": lambda: Image.new("RGB", (20_000, 20_000)),
    "an enlarged picture": lambda: Image.new("RGB", (9, 9)).resize((12_000, 12_000)),
    "safetensors": lambda: safetensors.torch.load_file(f"{folder}/a.safetensors"),
    "torch.load": lambda: torch.load(f"{folder}/a.pt", weights_only=True),
    "torch.load, mapped": lambda: torch.load(f"{folder}/a.pt", weights_only=True, mmap=True),
}
said = {}
for name, eat in hungry.items():
    try:
        eat()
        said[name] = "nothing was raised"
    except Exception as error:
        said[name] = errors.out_of_memory(error) or repr(error)
print(json.dumps(said))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_every_library_that_runs_out_of_memory_is_understood(tmp_path):
    code, out, err = python("-c", HUNGRY, ROOT, tmp_path)
    assert code == 0, err
    said = json.loads(out)
    assert len(said) == 12 and {k: v for k, v in said.items() if v is not True} == {}


# --- two hundred steps ---

# Runs a script, and notes resident MB and open descriptors at each step: every script seeds there.
# "leak" keeps a megabyte and an open file of every step: the test must see both.
MEASURED = """
import importlib, json, os, resource, sys
sys.path.insert(0, sys.argv[1])
from plumbing import device
_, _, script, leak, *argv = sys.argv
seed_everything, seen, kept = device.seed_everything, [], []
def measured(*seed_and_step):
    pages = int(open("/proc/self/statm").read().split()[1])
    megabytes = pages * resource.getpagesize() / 1e6
    seen.append((megabytes, len(os.listdir("/proc/self/fd"))))
    if leak == "leak":
        kept.append((b"x" * 1_000_000, open(os.devnull)))
    return seed_everything(*seed_and_step)
device.seed_everything = measured
module = importlib.import_module(script)
module.main(module.parse_args(argv))
print("\\nmeasured " + json.dumps(seen))
"""
SMALL = "--max-steps 200 --save-steps 0 --learning-rate 1e-4"
EVALUATED = "--data count --max-eval-samples 2"
STEADY = {
    "train_sft": f"{EVALUATED} --batch-size 4",
    "train_grpo": f"{EVALUATED} --prompts-per-step 2 --num-generations 4 "
    "--max-completion-length 32",
    "train_dpo": "--method dpo --batch-size 4 --pairs {pairs} --num-train-epochs 100",
}


def growth(script, line, base, out, leak="no leak"):
    """What 160 steps add, after 40 that fill what is kept: (megabytes, descriptors)."""
    words = f"--model {base} {line} {SMALL} --output-dir {out}".split()
    code, said, error = python("-c", MEASURED, ROOT, script, leak, *words)
    assert code == 0, error
    [measured] = [text for text in said.splitlines() if text.startswith("measured ")]
    seen = json.loads(measured.removeprefix("measured "))
    assert len(seen) >= 200
    (megabytes_before, open_before), (megabytes, still_open) = seen[40], seen[199]
    return megabytes - megabytes_before, still_open - open_before


def write_pairs(folder):
    """Write the worked solutions of drawn scenes, and each with another's: the file."""
    examples = [toy.make_example("count", index=i) for i in range(16)]
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for i, example in enumerate(examples):
            example["image"].save(folder / f"{i}.png")
            chosen, rejected = example["solution"], examples[i - 1]["solution"]
            record = {"image": f"{i}.png", "prompt": example["question"]}
            file.write(json.dumps(record | {"chosen": chosen, "rejected": rejected}) + "\n")
    return folder / "pairs.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("script", STEADY)
def test_memory_and_descriptors_are_steady(script, base, tmp_path):
    """Measured: SFT +3 MB, GRPO +7, DPO -1. A leak of half a megabyte a step is found."""
    line = STEADY[script].format(pairs=write_pairs(tmp_path))
    megabytes, descriptors = growth(script, line, base, tmp_path / "out")
    print(f"{script}: {megabytes:+.1f} MB, {descriptors:+d} descriptors")
    assert megabytes < 60
    assert abs(descriptors) <= 2


@pytest.mark.slow
def test_a_leak_is_seen(base, tmp_path):
    line = STEADY["train_sft"]
    megabytes, descriptors = growth("train_sft", line, base, tmp_path / "out", "leak")
    assert megabytes > 120 and descriptors > 150
