"""Print a table of finished demo runs, one column a seed.

    python recipes/seed_table.py runs/seed0 runs/seed1 runs/seed2

Reads RUN/sft and RUN/grpo (result.json, args.json, metrics.jsonl); prints Markdown.
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


def minutes_of(run: str) -> float:
    """Sum the step times of both stages, in minutes."""
    seconds = 0.0
    for stage in ("sft", "grpo"):
        lines = (Path(run) / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
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
    p.add_argument("runs", nargs="+", help="directories with sft and grpo in them, one a seed")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    results = [read_json(Path(run) / "grpo" / "result.json") for run in args.runs]
    seeds = [read_json(Path(run) / "grpo" / "args.json")["seed"] for run in args.runs]
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
