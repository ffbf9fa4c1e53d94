"""Print a table of finished demo runs, one column a seed.

    python recipes/seed_table.py runs/seed0 runs/seed1 runs/seed2

Reads result.json, args.json and metrics.jsonl of RUN, or of RUN/sft and RUN/grpo; prints Markdown.
Exit status 1 if some seed ends below where another began, on the first evaluation set.
"""

import argparse
import json
import sys
from pathlib import Path

SHOWN = (  # metric, its words in the table, digits
    ("accuracy", "accuracy", 3),
    ("iou", "mean IoU", 3),
    ("accuracy_parsed", "accuracy, readable answers only", 3),
    ("format_rate", "format rate", 3),
    ("mean_length", "tokens per answer", 1),
)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def stages_of(run: str) -> list[Path]:
    """List the directories of a run's stages, reinforcement learning last."""
    stages = [Path(run) / "sft", Path(run) / "grpo"]
    return stages if stages[-1].is_dir() else [Path(run)]


def minutes_of(run: str) -> float:
    """Sum the step times of all stages, in minutes."""
    seconds = 0.0
    for stage in stages_of(run):
        lines = (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        seconds += sum(json.loads(line).get("step_time", 0) for line in lines)
    return seconds / 60


def row_of(label: str, pairs: list[tuple[float, float]], digits: int) -> str:
    """Write the line of one metric from its (before, after) of every seed."""
    before, after = zip(*pairs)
    cells = [f"{b:.{digits}f} → {a:.{digits}f}" for b, a in pairs]
    n = len(pairs)
    cells.append(f"{sum(before) / n:.{digits}f} → {sum(after) / n:.{digits}f}")
    cells.append(f"{min(after):.{digits}f} – {max(after):.{digits}f}")
    return f"| {label} | " + " | ".join(cells) + " |"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("runs", nargs="+", help="directories of runs, one a seed")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    last = [stages_of(run)[-1] for run in args.runs]
    results = [read_json(stage / "result.json") for stage in last]
    seeds = [read_json(stage / "args.json")["seed"] for stage in last]
    minutes = [minutes_of(run) for run in args.runs]
    first = None  # (before, after) of every seed for the first row
    print("| greedy | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | range after |")
    print("|---|" + "---|" * (len(seeds) + 2))
    accuracies = [key for key in results[0]["after"] if key.endswith("/accuracy")]
    for name in [key.removesuffix("/accuracy") for key in accuracies]:
        n = results[0]["after"][f"{name}/n"]
        for metric, words, digits in SHOWN:
            key = f"{name}/{metric}"
            if key not in results[0]["after"]:
                continue
            pairs = [(r["before"][key], r["after"][key]) for r in results]
            first = first or pairs
            print(row_of(f"{name.removeprefix('eval/')}, {words} (n = {n:.0f})", pairs, digits))
    cells = " | ".join(f"{m:.1f}" for m in minutes)
    print(f"| minutes of training | {cells} | {sum(minutes) / len(minutes):.1f} | |")
    before, after = zip(*first)
    holds = min(after) > max(before)
    verdict = "holds" if holds else "DOES NOT HOLD"
    print(f"\nlowest after {min(after):.3f}, highest before {max(before):.3f}: {verdict}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(parse_args()))
