"""Run: python -m pytest -q -s -m slow tests/test_real_size.py

Minutes on two cores, 7 GB of disk, no network. Random weights in the published layouts and exact
shapes: what fits, and how much memory it takes. Each training runs in a process of its
own, whose peak memory is printed. With a tiny checkpoint the same test is not slow (15 s).
"""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import checkpoints
import published
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Two GRPO steps, watched: which parameters moved, where the 4-bit layers are, the peak memory.
WATCHED = """
import json, resource, sys, time, zlib
sys.path.insert(0, sys.argv[1])
import bitsandbytes, logps, model, rewards, rollout, train_grpo

seen, sampled = {}, []
load, sample = model.load, rollout.rollout


def different(completion, example):
    return zlib.crc32(completion.encode("utf-8", "replace")) / 2**32


def watched_rollout(policy, prompts, *arguments, **options):
    out = sample(policy, prompts, *arguments, **options)
    seen["image_tokens"] = len(prompts[0].image_slots)
    sampled.append(out.targets.tolist())
    return out


def watched_load(*arguments, **options):
    policy, processor = load(*arguments, **options)
    named = dict(policy.named_parameters())
    before = {n: p.detach().clone() for n, p in named.items() if p.requires_grad}
    checksum = {n: float(p.detach().float().sum()) for n, p in named.items() if n not in before}
    seen.update(policy=policy, special=vars(processor.special), before=before, checksum=checksum)
    return policy, processor


rewards.REWARDS["length"] = rewards.Reward(different)
rollout.rollout = watched_rollout
model.load = watched_load
started = time.time()
train_grpo.main(train_grpo.parse_args(sys.argv[3:]))
core = logps.core_of(seen["policy"])
named = dict(seen["policy"].named_parameters())
before, checksum = seen["before"], seen["checksum"]
linear = bitsandbytes.nn.Linear4bit
modules = core.named_modules()
language_model = core.model.language_model
found = {
    "seconds": time.time() - started,
    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    "trained": len(before),
    "lora": sum("lora_" in n for n in before),
    "moved": sum(not named[n].equal(p) for n, p in before.items()),
    "frozen_moved": [n for n, c in checksum.items() if float(named[n].detach().float().sum()) != c],
    "four_bit": [n for n, m in modules if isinstance(m, linear) and not hasattr(m, "base_layer")],
    "tied": core.lm_head.weight is language_model.embed_tokens.weight,
    "vocabulary": core.lm_head.weight.shape[0],
    "special": seen["special"],
    "sampled": sampled,
    "image_tokens": seen["image_tokens"],
    "checkpointing": language_model.gradient_checkpointing,
}
json.dump(found, open(sys.argv[2], "w"))
"""


class Size(NamedTuple):
    """One checkpoint, and what the run must find in it."""

    name: str
    write: Callable  # directory -> directory
    layers: int
    vocabulary: int
    tied: bool
    picture: tuple[int, int] = (224, 168)
    image_tokens: int = 48
    end_of_text: int = 151643  # its id; the other special tokens follow


def of_2024(name: str, *expected, **more) -> Size:
    """A Qwen2-VL."""
    return Size(name, partial(checkpoints.write_2024, size=name), *expected, **more)


def two_layers(name: str, *expected, **more) -> Size:
    """A later family, whole but for the depth of its language model."""
    return Size(name, partial(published.write_real, name=name, layers=2), 2, *expected, **more)


TINY = of_2024("tiny", 2, 640, True, end_of_text=584)
REAL = [
    of_2024("7b-2layers", 2, 152064, False),
    of_2024("2b", 28, 151936, True),
    two_layers("2.5-7B", 152064, False, picture=(840, 840), image_tokens=900),
    two_layers("3-8B", 151936, False, picture=(960, 960), image_tokens=900),
]
SIZES = [TINY, *(pytest.param(size, marks=pytest.mark.slow) for size in REAL)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_two_grpo_steps(size, tmp_path):
    """With NF4, LoRA and gradient checkpointing, exactly the adapter trains, and all of it."""
    started = time.time()
    directory = size.write(tmp_path / "checkpoint")
    checkpoints.picture(*size.picture).save(tmp_path / "picture.png")
    record = {
        "image": "picture.png",
        "question": "How many red objects are there?",
        "answer": "3",
    }
    (tmp_path / "one.jsonl").write_text(json.dumps(record) + "\n")
    gib = sum(f.stat().st_size for f in directory.iterdir()) / 2**30
    print(f"\n{size.name}: written in {time.time() - started:.0f} s, {gib:.2f} GiB")
    arguments = [
        "--model",
        directory,
        "--data",
        tmp_path / "one.jsonl",
        "--quant",
        "nf4",
        "--dtype",
        "bfloat16",
        "--lora-r",
        "8",
        "--gradient-checkpointing",
        "--max-steps",
        "2",
        "--num-generations",
        "2",
        "--prompts-per-step",
        "1",
        "--max-completion-length",
        "8",
        "--learning-rate",
        "1e-4",
        "--max-pixels",
        "1003520",
        "--reward-funcs",
        "length",
        "--save-steps",
        "0",
        "--output-dir",
        tmp_path / "run",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, ROOT, tmp_path / "seen.json", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    metrics = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    shutil.rmtree(directory)
    times = [f"step {m['step']}: {m['step_time']:.0f} s" for m in metrics if m.get("step_time")]
    print(
        f"{size.name}: two GRPO steps, {seen['seconds']:.0f} s with loading; "
        f"peak memory {seen['peak_gib']:.2f} GiB; " + ", ".join(times)
    )
    steps = [m for m in metrics if m["step"] > 0]
    assert [m["step"] for m in steps] == [1, 2]
    assert all(
        math.isfinite(m["loss"]) and math.isfinite(m["grad_norm"]) and m["entropy"] > 1
        for m in steps
    )
    expected = (size.vocabulary, size.tied, True)
    assert (seen["vocabulary"], seen["tied"], seen["checkpointing"]) == expected
    assert len(seen["four_bit"]) == 7 * size.layers
    assert all(n.startswith("model.language_model.layers.") for n in seen["four_bit"])
    assert seen["trained"] == seen["lora"] == 14 * size.layers and not seen["frozen_moved"]
    assert seen["moved"] == seen["trained"]  # B at the first step, A from the second on
    # generation_config.json has top_k 1, which must not be used.
    sampled = [rows for rows in seen["sampled"] if len(rows) == 2]
    assert len(sampled) == 2 and all(rows[0] != rows[1] for rows in sampled)
    special = seen["special"]
    first = size.end_of_text
    assert special["eos_ids"] == [first + 2, first]
    assert special["vision_ids"] == list(range(first + 9, first + 14))
    assert special["image_id"] == first + 12
    assert seen["image_tokens"] == size.image_tokens
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
