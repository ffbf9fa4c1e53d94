"""`python -m fast.bench memory`: peak memory of an update with the real vocabulary.

Each peak is measured in a fresh process, beyond the loaded model.
"""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import logps
from fast.race import checkpoint, one_thread, print_table
from fast.sides import SIDES, Work, load_bench, update_sides
from plumbing import loading


def resident_bytes(field: str) -> int:
    """Read VmRSS (now) or VmHWM (the peak) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_here(
    directory: str, device: str, dtype: torch.dtype, kind: str, side: str, work: Work
) -> int | None:
    """Measure the peak bytes of one turn of SIDES[kind], beyond what was held before it.

    On a GPU what torch allocates; on Linux the process's resident memory; elsewhere None.
    """
    device = torch.device(device)
    if device.type != "cuda" and not Path("/proc/self/clear_refs").exists():
        return None
    with one_thread(device):
        policy, _, special = load_bench(directory, device, dtype)
        # A small turn first: what libraries set up when first used would be most of the peak.
        SIDES[kind](policy, special, Work(work.N, 48, 2, 2))[side](0)
        call = SIDES[kind](policy, special, work)[side]
        policy.zero_grad()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call(0)
            return torch.cuda.max_memory_allocated() - before
        # 5 resets the high-water mark to what is resident now.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = resident_bytes("VmRSS")
        call(0)
        return resident_bytes("VmHWM") - before


def peak_of(
    directory: str, device: torch.device, dtype: torch.dtype, kind: str, side: str, work: Work
) -> int | None:
    """Run `peak_here` in a fresh process."""
    return in_fresh_process(peak_here, directory, str(device), dtype, kind, side, work)


def in_fresh_process(function: Callable, *given: Any) -> Any:
    """Call a function in a process of its own, which ends with this one."""
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=loading.begin, initargs=(0,)
    ) as pool:
        return pool.submit(function, *given).result()


def bench_memory(
    model: str | None,
    shapes: list[tuple[int, int, int]],
    device: torch.device,
    dtype: torch.dtype,
) -> dict:
    """Measure the update of one prompt with the published vocabulary, against full logits."""
    rows = []
    with one_thread(device), checkpoint(model, "head") as directory:
        policy, _, special = load_bench(directory, device, dtype)
        for P, T, G in shapes:
            work = Work(1, P, T, G)
            peak = {
                side: peak_of(directory, device, dtype, "update", side, work)
                for side in update_sides(policy, special, work)
            }
            more = [
                {
                    "what": "update",
                    **work._asdict(),
                    "side": side,
                    "peak_bytes": peak[side],
                    "share_of_full_logits": peak[side] / peak["the same with full logits"],
                }
                for side in peak
            ]
            print_table(more)
            rows += more
        V = logps.core_of(policy).config.text_config.vocab_size
    print(f"V {V}; ours over full logits: {rows[0]['share_of_full_logits']:.3f}")
    return {"rows": rows, "V": V}
