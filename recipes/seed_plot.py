"""Draw one figure from several runs: the mean over seeds, with their range as a band.

    python recipes/seed_plot.py docs/length.png --title "..." \\
        --metrics "greedy accuracy=eval/count:test/accuracy" "tokens=completions/mean_length" \\
        --runs "accuracy=runs/a0,runs/a1,runs/a2" "accuracy + length=runs/b0,runs/b1,runs/b2"

Reads RUN/metrics.jsonl of finished train_grpo.py runs. A metric with a value at every step is
smoothed over ten steps. Also prints first and last values.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import plots

WINDOW = 10  # steps that are averaged
FEW = 40  # a metric with fewer points is drawn as it is
WIDTH = 4.4  # inches of a panel


def series(run: str, metric: str) -> list[tuple[int, float]]:
    """Return (step, value) of one run; of a metric logged at every step, means of ten."""
    text = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    points = [(line["step"], line[metric]) for line in lines if line.get(metric) is not None]
    if len(points) < FEW:
        return points
    smooth = []
    for i in range(0, len(points), WINDOW):
        window = points[i : i + WINDOW]
        smooth.append((window[-1][0], sum(value for _, value in window) / len(window)))
    return smooth


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("png", help="the file to write")
    p.add_argument("--title", default="", help="of the figure")
    p.add_argument("--metrics", nargs="+", required=True, help="HEADING=METRIC, a panel each")
    p.add_argument("--runs", nargs="+", required=True, help="LABEL=RUN,RUN,..., a line each")
    return p.parse_args(argv)


def draw_group(ax: Any, heading: str, metric: str, label: str, runs: list[str]) -> None:
    """Draw mean and range of one metric over the runs, at the steps that all of them have."""
    per_step = {}
    for run in runs:
        for step, value in series(run, metric):
            per_step.setdefault(step, []).append(value)
    steps = sorted(step for step, values in per_step.items() if len(values) == len(runs))
    if not steps:
        return
    low = [min(per_step[s]) for s in steps]
    high = [max(per_step[s]) for s in steps]
    mean = [sum(per_step[s]) / len(per_step[s]) for s in steps]
    marker = "o" if len(steps) < 10 else None
    line = ax.plot(steps, mean, marker=marker, label=plots.label_of(label))[0]
    ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
    print(
        f"{heading:<40}{label:<40}{mean[0]:9.3f} -> {mean[-1]:9.3f}"
        f"   range at the end {low[-1]:.3f} - {high[-1]:.3f}"
    )


def draw(png: str, title: str, metrics: list[str], groups: list[str]) -> None:
    """Draw one panel for each metric. A failure ends the program: there is nothing else to do."""
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = plots.canvas(rows, columns, WIDTH * columns, 3.1 * rows + 0.4)
    for ax in axes.flat[len(metrics) :]:
        ax.axis("off")
    for ax, item in zip(axes.flat, metrics):
        heading, _, metric = item.partition("=")
        for group in groups:
            label, _, runs = group.partition("=")
            draw_group(ax, heading, metric, label, runs.split(","))
        ax.set_title(plots.title_of(heading, WIDTH), fontsize=10)
        ax.set_xlabel("step")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.suptitle(plots.title_of(title, WIDTH * columns), fontsize=10)
    plots.save(figure, png)


def main(args: argparse.Namespace) -> None:
    with matplotlib.rc_context(plots.PLAIN_TEXT):
        draw(args.png, args.title, args.metrics, args.runs)


if __name__ == "__main__":
    main(parse_args())
