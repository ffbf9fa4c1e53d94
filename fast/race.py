"""How the benchmarks measure: sides take turns, and a ratio is over ours.

Short times are the median of the turns, with the range beside it. Compare figures of one run
only, and as ratios: other processes on the machine move all of them.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import torch
from tqdm import tqdm

from fast.sides import Call, write_model


def clock(device: torch.device) -> float:
    """Return seconds: this process's CPU time, or on a GPU the synchronised wall clock."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def race(
    sides: dict[str, Call], repeats: int, device: torch.device, describe: str = ""
) -> dict[str, list[float]]:
    """Time calls in turns, A B C A B C ...: {name: [seconds]}.

    The first turn does not count. Each call gets the number of its turn.
    """
    seconds = {name: [] for name in sides}
    bar = tqdm(total=len(sides) * (repeats + 1), desc=describe, leave=False)
    for turn in range(repeats + 1):
        for name, side in sides.items():
            started = clock(device)
            side(turn)
            if turn:
                seconds[name].append(clock(device) - started)
            bar.update()
    bar.close()
    return seconds


def rows_of(seconds: dict[str, list[float]], **described: object) -> list[dict]:
    """Make the table's rows of a race; `described` comes first in each.

    The first side is ours, which the others' ratios are over.
    ratio: of the medians. low, high: the range of the turns' own ratios.
    """
    ours = next(iter(seconds.values()))
    rows = []
    for name, theirs in seconds.items():
        ratios = [b / a for a, b in zip(ours, theirs)]
        rows.append(
            {
                **described,
                "side": name,
                "seconds": statistics.median(theirs),
                "all_seconds": theirs,
                "ratio": statistics.median(theirs) / statistics.median(ours),
                "low": min(ratios),
                "high": max(ratios),
            }
        )
    return rows


def print_table(rows: list[dict]) -> None:
    """Print one block of lines for each comparison."""
    before = None
    for row in rows:
        compared = [row[k] for k in ("what", "N", "P", "T", "G")]
        if compared != before:
            title = row["what"]
            if row["N"] > 1:
                title += f", {row['N']} prompts"
            title = f"\n{title:<8} P {row['P']}, T {row['T']}, G {row['G']}"[:60]
            print(f"{title:<62}{'seconds':>9}{'ratio':>9}{'range':>16}{'peak MB':>10}")
            before = compared
        peak = ""
        if row.get("peak_bytes") is not None:
            peak = f"{row['peak_bytes'] / 1e6:>10.0f}"
        if "seconds" in row:
            spread = f"{row['low']:.2f} - {row['high']:.2f}"
            figures = f"{row['seconds']:>9.3f}{row['ratio']:>9.2f}{spread:>16}{peak}"
        elif peak:
            figures = f"{'':>34}{peak}"
        else:
            figures = f"{'not installed':>34}"
        print(f"  {row['side']:<60}{figures}")


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Keep torch on one thread of a CPU: CPU time would count threads that wait."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def checkpoint(model: str | None, size: str) -> Iterator[str]:
    """Yield `model`, or the directory of a temporary random model of MODELS[size]."""
    with tempfile.TemporaryDirectory() as made:
        if model is None:
            write_model(made, size)
        yield model or made
