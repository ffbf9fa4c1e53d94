"""One figure from several runs, mean over seeds with the range as a band:

    python tests/seed_plot.py docs/length.png --title "..." --metrics "greedy accuracy=eval/count:test/accuracy" "tokens=completions/mean_length" \\
        --runs "accuracy=runs/a0,runs/a1,runs/a2" "accuracy + length=runs/b0,runs/b1,runs/b2"

Reads RUN/metrics.jsonl of finished train_grpo.py runs; metrics are smoothed over ten steps where there is a value at every step. Also prints first and last values.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import plots


def series(run, metric):
    """[(step, value)] of one run; a metric logged at every step as the mean of ten."""
    points = [
        (line["step"], line[metric])
        for line in map(
            json.loads, (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        )
        if line.get(metric) is not None
    ]
    if len(points) < 40:
        return points
    return [
        (
            points[min(i + 9, len(points) - 1)][0],
            sum(v for _, v in points[i : i + 10]) / len(points[i : i + 10]),
        )
        for i in range(0, len(points), 10)
    ]


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("png")
    p.add_argument("--title", default="")
    p.add_argument("--metrics", nargs="+", required=True, help="HEADING=METRIC")
    p.add_argument("--runs", nargs="+", required=True, help="LABEL=RUN,RUN,...")
    args = p.parse_args()
    with matplotlib.rc_context(plots.PLAIN_TEXT):
        draw(args)


def draw(args):
    """Draw one panel for each metric. A failure ends the program: the picture is all that it makes."""
    columns = min(3, len(args.metrics))
    rows = -(-len(args.metrics) // columns)
    figure, axes = plots.canvas(rows, columns, 4.4 * columns, 3.1 * rows + 0.4)
    for ax in axes.flat[len(args.metrics) :]:
        ax.axis("off")
    for ax, item in zip(axes.flat, args.metrics):
        heading, _, metric = item.partition("=")
        for group in args.runs:
            label, _, runs = group.partition("=")
            per_step = {}
            for run in runs.split(","):
                for step, value in series(run, metric):
                    per_step.setdefault(step, []).append(value)
            steps = sorted(
                step for step, values in per_step.items() if len(values) == len(runs.split(","))
            )
            if not steps:
                continue
            low, high = [min(per_step[s]) for s in steps], [max(per_step[s]) for s in steps]
            mean = [sum(per_step[s]) / len(per_step[s]) for s in steps]
            line = ax.plot(
                steps, mean, marker="o" if len(steps) < 10 else None, label=plots.label_of(label)
            )[0]
            ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
            print(
                f"{heading:<40}{label:<40}{mean[0]:9.3f} -> {mean[-1]:9.3f}   range at the end {low[-1]:.3f} - {high[-1]:.3f}"
            )
        ax.set_title(plots.title_of(heading, 4.4), fontsize=10)
        ax.set_xlabel("step")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.suptitle(plots.title_of(args.title, 4.4 * columns), fontsize=10)
    plots.save(figure, args.png)


if __name__ == "__main__":
    main()
