"""Print and plot what recipes/objectives.sh measured.

    python -m recipes.objectives_table runs/objectives --plot docs/objectives.png

Tokens are all that were sampled, those of replaced groups too, up to the first evaluation at which
the accuracy was reached.
"""

import re
import statistics
from collections import defaultdict
from pathlib import Path

from plumbing import running
from plumbing.errors import UserError
from plumbing.flags import Parser
from plumbing.records import read_lines

EVALUATED = "eval/count:test/accuracy"
REACHED = 0.90


def parse_args(argv: list[str] | None = None):
    p = Parser(__doc__, "objectives_table.py")
    p.add_argument("runs", help="the folder of the runs, NAME-UPDATES-seedSEED each")
    p.add_argument("--plot", help="where to draw accuracy against sampled tokens")
    return p.parse_args(argv)


def curve_of(lines: list[dict]) -> list[tuple[int, float]]:
    """Return (tokens sampled so far, accuracy) at each evaluation of a run."""
    tokens, curve = 0, []
    for line in lines:
        tokens += int(line.get("groups/sampled_tokens", 0))
        if EVALUATED in line:
            curve.append((tokens, line[EVALUATED]))
    return curve


def tokens_to(curve: list[tuple[int, float]], accuracy: float) -> int | None:
    """Return the tokens sampled when the accuracy was first reached; None: it was not."""
    return next((tokens for tokens, reached in curve if reached >= accuracy), None)


def mean_of(lines: list[dict], name: str) -> float:
    values = [line[name] for line in lines if name in line]
    return statistics.mean(values) if values else 0.0


def row_of(name: str, runs: list[list[dict]]) -> str:
    """Write a line of the table: means over seeds, and the range of the last accuracy."""
    curves = [curve_of(lines) for lines in runs]
    last = [curve[-1][1] for curve in curves]
    needed = [tokens_to(curve, REACHED) for curve in curves]
    reached = [tokens for tokens in needed if tokens is not None]
    tokens = f"{statistics.mean(reached) / 1000:,.0f}" if len(reached) == len(runs) else "-"
    clipped = statistics.mean(mean_of(lines, "clip_ratio/region_mean") for lines in runs)
    flat = statistics.mean(mean_of(lines, "frac_reward_zero_std") for lines in runs)
    sampled = statistics.mean(curve[-1][0] for curve in curves)
    return (
        f"| {name} | {len(runs)} | {statistics.mean(last):.3f} ({min(last):.3f} - {max(last):.3f}) "
        f"| {tokens} | {sampled / 1000:,.0f} | {clipped:.4f} | {flat:.2f} |"
    )


def read_runs(folder: Path) -> dict[str, list[list[dict]]]:
    """Read the metrics of each run: {name: a list for each seed}. UserError if there are none."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*-seed*/metrics.jsonl")):
        match = re.fullmatch(r"(\w+)-(\d+)-seed\d+", path.parent.name)
        if match:
            updates = {"1": "1 update"}.get(match[2], f"{match[2]} updates")
            found[f"{match[1]}, {updates}"].append(read_lines(path))
    if not found:
        raise UserError(f"no runs in {folder}; bash recipes/objectives.sh makes them")
    return found


def main(args) -> None:
    runs = read_runs(Path(args.runs))
    print(
        "| objective | seeds | accuracy after | kilotokens to 0.90 | kilotokens | clipped | flat |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, seeds in runs.items():
        print(row_of(name, seeds))
    if args.plot:
        draw(
            {name: [curve_of(lines) for lines in seeds] for name, seeds in runs.items()}, args.plot
        )


def draw(curves: dict[str, list[list[tuple[int, float]]]], path: str) -> None:
    """Draw the mean accuracy of each objective against the mean of sampled tokens."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    for name, seeds in curves.items():
        points = list(zip(*seeds))
        tokens = [statistics.mean(t for t, _ in point) / 1000 for point in points]
        axes.plot(tokens, [statistics.mean(a for _, a in point) for point in points], label=name)
    axes.set_xlabel("thousand tokens sampled")
    axes.set_ylabel("greedy accuracy, count:test")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    running.run(main, parse_args)
