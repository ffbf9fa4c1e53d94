"""`python -m fast.bench --gpu`: is the fast rollout right on this card, how fast, how much memory.

    python -m fast.bench --gpu                  # all sections, half an hour on an H200
    python -m fast.bench --gpu --only check     # a section
    python -m fast.bench --gpu --only decode --sizes 2b     # one section, one size: ten minutes

    check     what has to hold before a figure means anything (gpu_checks.py)
    decode    seconds of a decode step, and the share of the roofline (gpu_decode.py)
    step      a whole GRPO step and its update alone, against the straightforward loop
    memory    peak bytes by phase of a whole QLoRA step, in a process limited to a smaller card

Weights are random, in the published shapes: speed and memory do not depend on their values. LoRA
r 16 is on all seven linear layers, with B not zero. Nothing ends a row before T. Models are first
written to the temporary directory (TMPDIR=/dev/shm is fast). NF4 needs bitsandbytes.
On a CPU the same code runs on toy sizes, without graphs: that is what the tests do.

Dimension key: N prompts of P tokens, G completions of T tokens each, B = N * G rows.
"""

import contextlib
import functools
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import torch

from fast import sides
from fast.bench_memory import in_fresh_process
from fast.gpu_checks import bench_check, clear
from fast.gpu_decode import bench_decode
from fast.race import clock, one_thread, print_table, race, rows_of
from plumbing import disk
from plumbing.device import pick_dtype

GIB = 2**30
CONTEXT = 1.0  # GiB of a card that CUDA, its libraries and a desktop take before torch sees any


class Card(NamedTuple):
    """A QLoRA step and its card. micro: rows to a micro-batch."""

    size: str
    gib: int
    P: int
    T: int
    G: int
    micro: int


# What is tried on a smaller card, the most wanted first.
CARDS = [
    Card("7b", 24, 1000, 1024, 8, 8),
    Card("2b", 12, 1000, 1024, 8, 8),
    Card("7b", 24, 2700, 1024, 8, 8),
    Card("2b", 24, 2700, 1024, 16, 16),
    Card("7b", 24, 1000, 2048, 8, 4),
    Card("7b", 24, 1000, 1024, 16, 8),
]


def describe_card(device: torch.device) -> dict:
    """Describe what the figures are measured on.

    bandwidth: of copies, in bytes per second, read and written: the ceiling of a decode step.
    """
    if device.type != "cuda":
        return {"card": "CPU", "bandwidth": copy_bandwidth(device, 2**24)}
    found = torch.cuda.get_device_properties(device)
    return {
        "card": found.name,
        "memory_gib": found.total_memory / GIB,
        "processors": found.multi_processor_count,
        "bandwidth": copy_bandwidth(device, 2**32),
    }


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Measure bytes per second, read and written, of copying `size` bytes: the median of five."""
    source = torch.randint(0, 255, (size // 8,), dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    seconds = []
    for turn in range(6):
        started = clock(device)
        for _ in range(4):
            target.copy_(source)
        if turn:
            seconds.append((clock(device) - started) / 4)
    return 2 * size / max(statistics.median(seconds), 1e-9)


@contextlib.contextmanager
def checkpoints(sizes: list[str], device: torch.device) -> Iterator[dict[str, str]]:
    """Yield {size: directory} of temporary random models: bfloat16 on a GPU."""
    dtype = pick_dtype("auto", device)
    with tempfile.TemporaryDirectory() as made:
        for size in sizes:
            started = time.perf_counter()
            sides.write_model(f"{made}/{size}", size, device=device, dtype=dtype)
            clear(device)
            seconds = time.perf_counter() - started
            print(f"{size}: random weights written in {seconds:.0f} s", flush=True)
        yield {size: f"{made}/{size}" for size in sizes}


# --- step ---


def bench_step(
    device: torch.device,
    directories: dict[str, str],
    row_counts: list[int],
    shape: tuple[int, int, int],
    repeats: int,
    rows: list[dict],
) -> None:
    """Compare a whole GRPO step, and its update alone, with the straightforward loop."""
    P, T, G = shape
    dtype = pick_dtype("auto", device)
    for size, directory in directories.items():
        policy, _, special = sides.load_bench(
            directory, device, dtype, lora_r=16, gradient_checkpointing=True
        )
        step = sides.Work(max(1, max(row_counts) // G), P, T, G)
        update = sides.Work(1, P, T, G)
        compared = [
            ("step", step, sides.step_sides(policy, special, step, micro=G)),
            ("update", update, sides.update_sides(policy, special, update)),
        ]
        for kind, work, calls in compared:
            policy.train(kind == "update")
            seconds = race(calls, max(1, repeats - 1), device, f"{size} {kind}")
            more = rows_of(seconds, what=kind, **work._asdict())
            for row in more:
                row["size"] = size
            print(f"\n{size}", end="")
            print_table(more)
            rows += more
        compared = calls = policy = None  # the calls hold the policy
        clear(device)


# --- memory ---


NEXT_PHASE = {
    "load": "rollout",
    "rollout": "update",
    "update": "optimizer",
    "optimizer": "rollout",
}


class PhasePeaks:
    """Peak GiB that tensors took in each phase, and with "_reserved" what torch's pools kept.

    peaks: {phase: GiB}. phase: the one that is running.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phase = "load"
        self.peaks: dict[str, float] = {}

    def reached(self, phase: str) -> None:
        """Note the peaks at the end of `phase`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.raise_to(phase, torch.cuda.max_memory_allocated() / GIB)
            self.raise_to(f"{phase}_reserved", torch.cuda.max_memory_reserved() / GIB)
            torch.cuda.reset_peak_memory_stats()
        else:
            self.peaks[phase] = 0.0
        self.phase = NEXT_PHASE[phase]

    def raise_to(self, key: str, gib: float) -> None:
        """Keep the largest figure of a key."""
        self.peaks[key] = max(self.peaks.get(key, 0.0), gib)


def step_in_a_small_card(directory: str, device: str, quant: str, card: Card) -> dict:
    """Take two QLoRA steps in this process, limited to the memory of `card`.

    Returns PhasePeaks.peaks, with {"failed": phase} if it does not fit.
    """
    device = torch.device(device)
    memory = PhasePeaks(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((card.gib - CONTEXT) * GIB / total)
    try:
        policy, _, special = sides.load_bench(
            directory,
            device,
            pick_dtype("auto", device),
            quant=quant,
            lora_r=16,
            gradient_checkpointing=True,
        )
        optimizer = sides.frozen_optimizer(policy)
        memory.reached("load")
        for turn in range(2):
            policy.eval()
            sides.our_step(
                policy,
                special,
                [sides.random_prompt(special, card.P)],
                card.T,
                card.G,
                optimizer,
                turn,
                card.micro,
                memory.reached,
            )
    except torch.OutOfMemoryError:
        return {**memory.peaks, "failed": memory.phase}
    return memory.peaks


def bench_memory(
    device: torch.device,
    directories: dict[str, str],
    shape: tuple[int, int, int],
    rows: list[dict],
) -> None:
    """Try each step of CARDS in a fresh process; on a CPU, `shape`."""
    quant = "none"
    tried = [Card(size, 24, *shape, 2) for size in directories]
    if device.type == "cuda":
        if importlib.util.find_spec("bitsandbytes"):
            quant = "nf4"
        tried = [card for card in CARDS if card.size in directories]
    for card in tried:
        try:
            what = directories[card.size], str(device), quant, card
            found = in_fresh_process(step_in_a_small_card, *what)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        max_pixels = sides.picture_side(card.P) ** 2 * 784
        rows.append(
            {
                "size": card.size,
                "quant": quant,
                "card_gib": card.gib,
                "P": card.P,
                "T": card.T,
                "G": card.G,
                "micro_batch_size": card.micro,
                "max_pixels": max_pixels,
                **found,
            }
        )
        if "failed" in found:
            outcome = f"DOES NOT FIT: {found['failed']}"
        else:
            peaks = ", ".join(f"{k} {v:.2f}" for k, v in found.items())
            outcome = f"fits; peak GiB: {peaks}"
        print(
            f"{card.size} {quant}, card of {card.gib} GiB, P {card.P} (--max-pixels {max_pixels})"
            f", T {card.T}, G {card.G}, --micro-batch-size {card.micro}: {outcome}",
            flush=True,
        )


# --- all sections ---


class Kept(list):
    """A list that is saved whenever something is appended: an interrupted run loses no row."""

    def __init__(self, write: Callable[[], None]) -> None:
        self.write = write

    def append(self, row: dict) -> None:
        super().append(row)
        self.write()

    def __iadd__(self, rows: list[dict]) -> Self:
        for row in rows:
            self.append(row)
        return self


def bench_gpu(
    sections: list[str],
    sizes: list[str],
    row_counts: list[int],
    shape: tuple[int, int, int],
    repeats: int,
    device: torch.device,
    path: Path,
) -> dict:
    """Run the sections in order, and write `path` after every row.

    "failed" of the result: the number of checks that failed.
    """
    result = describe_card(device)
    bandwidth = result["bandwidth"] / 1e12
    print(f"{result['card']}: copies {bandwidth:.2f} TB/s; torch {torch.__version__}", flush=True)
    with checkpoints(sizes, device) as made:
        run = {
            "check": functools.partial(bench_check, device, made, shape),
            "decode": functools.partial(
                bench_decode, device, made, row_counts, shape, repeats, result["bandwidth"]
            ),
            "step": functools.partial(bench_step, device, made, row_counts, shape, repeats),
            "memory": functools.partial(bench_memory, device, made, shape),
        }
        for name in sections:
            print(f"\n== {name}", flush=True)
            started = time.perf_counter()
            result[name] = Kept(functools.partial(disk.write_json, path, result))
            with one_thread(device):
                run[name](result[name])
            result[f"{name}_seconds"] = time.perf_counter() - started
    failed = sum(not row.get("ok", True) for name in sections for row in result[name])
    if failed:
        print(f"\n{failed} checks FAILED: no figure of this run counts")
    return {**result, "failed": failed}
