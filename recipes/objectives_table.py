"""Print and plot what recipes/objectives.sh measured.

    python -m recipes.objectives_table runs/objectives --plot docs/objectives.png

Tokens are all that were sampled, those of replaced groups too. Where an accuracy was reached lies
on the line between the last evaluation below it and the first that is not.
KL is of the final policy to the warm start, nats per token, on answers that it samples.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

import data
import logps
import losses
import model
import rollout
import tasks
from plumbing import plots, running
from plumbing.errors import UserError
from plumbing.flags import Parser
from plumbing.records import read_lines

WARM_START = "checkpoints/count"
EVALUATED = "eval/count:test/accuracy"
ANSWERS = 128  # that the KL is measured on
HEADER = """\
| objective | accuracy | steps to 0.90 | kilotokens | to 0.95 | in all | clipped | no signal | KL |
|---|---|---|---|---|---|---|---|---|"""


class Arm(NamedTuple):
    """One objective: for each seed the lines of metrics.jsonl, and the KL to the warm start."""

    name: str
    runs: list[list[dict]]
    drifts: list[float]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = Parser(__doc__, "objectives_table.py")
    p.add_argument("runs", help="the folder of the runs, NAME-UPDATES-seedSEED each")
    p.add_argument("--plot", help="where to draw accuracy against sampled tokens")
    return p.parse_args(argv)


# --- what a run did ---


class Point(NamedTuple):
    """An evaluation: how far the run was, and what it could."""

    step: int
    tokens: int  # sampled so far
    accuracy: float


def curve_of(lines: list[dict]) -> list[Point]:
    """Return the evaluations of a run."""
    tokens, curve = 0, []
    for line in lines:
        tokens += int(line.get("groups/sampled_tokens", 0))
        if EVALUATED in line:
            curve.append(Point(line["step"], tokens, line[EVALUATED]))
    return curve


def reached(curve: list[Point], accuracy: float) -> tuple[float | None, float | None]:
    """Return (steps, thousand tokens) when the accuracy was first reached; None: it was not."""
    before = curve[0]
    for point in curve:
        if point.accuracy >= accuracy:
            gained = point.accuracy - before.accuracy
            part = (accuracy - before.accuracy) / gained if gained > 0 else 0.0
            steps = before.step + part * (point.step - before.step)
            tokens = before.tokens + part * (point.tokens - before.tokens)
            return steps, tokens / 1000
        before = point
    return None, None


@torch.no_grad()
def drift(directory: Path, start: str) -> float:
    """Estimate KL(the policy in `directory` || the one in `start`) by k3, nats per token."""
    policy, processor = model.load(str(directory))
    other, _ = model.load(start)
    trained_with = json.loads((directory / "args.json").read_text())
    asker = data.Asker(processor, trained_with["prompt_template"], trained_with["system_prompt"])
    examples = data.head(tasks.read("count:test"), ANSWERS)
    prompts = [asker.prompt(example) for example in examples]
    sampling = rollout.Sampling(trained_with["max_completion_length"], temperature=1.0)
    roll = rollout.rollout(policy, prompts, processor.special, 1, sampling)
    kl = 0.0
    for rows, batch in rollout.micro_batches(prompts, roll, 64, policy.device):
        both = [
            logps.token_logps(one, batch, suppress=processor.special.vision_ids)
            for one in (policy, other)
        ]
        kl += float((losses.kl_k3(*both) * roll.mask[rows]).sum())
    return kl / float(roll.mask.sum())


def read_arms(folder: Path) -> list[Arm]:
    """Read the runs of each objective. UserError if there are none."""
    found = defaultdict(lambda: ([], []))
    for path in sorted(folder.glob("*-seed*/metrics.jsonl")):
        match = re.fullmatch(r"(\w+)-(\d+)-seed\d+", path.parent.name)
        if match:
            updates = "1 update" if match[2] == "1" else f"{match[2]} updates"
            runs, drifts = found[f"{match[1]}, {updates}"]
            runs.append(read_lines(path))
            drifts.append(drift(path.parent, WARM_START))
    if not found:
        raise UserError(f"no runs in {folder}; bash recipes/objectives.sh makes them")
    return [Arm(name, *both) for name, both in found.items()]


# --- the table and the plot ---


def spread(values: Iterable[float | None], form: str = "{:.3f}") -> str:
    """Write a mean, its range over seeds, and how many seeds have a value if some have none."""
    values = list(values)
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, low, high = (form.format(f(known)) for f in (statistics.mean, min, max))
    if len(values) == 1:
        return mean
    missing = f"; {len(known)} of {len(values)} seeds" if len(known) < len(values) else ""
    return f"{mean} ({low} - {high}{missing})"


def mean_of(lines: list[dict], name: str) -> float:
    values = [line[name] for line in lines if name in line]
    return statistics.mean(values) if values else 0.0


def row_of(arm: Arm) -> str:
    """Write a line of the table: means over seeds and steps, with ranges over seeds."""
    curves = [curve_of(lines) for lines in arm.runs]
    cells = [arm.name, spread(curve[-1].accuracy for curve in curves)]
    steps, tokens = zip(*(reached(curve, 0.90) for curve in curves))
    cells += [spread(steps, "{:.1f}"), spread(tokens, "{:.0f}")]
    _, tokens = zip(*(reached(curve, 0.95) for curve in curves))
    cells.append(spread(tokens, "{:.0f}"))
    cells.append(f"{statistics.mean(curve[-1].tokens for curve in curves) / 1000:.0f}")
    for name, form in ("clip_ratio/region_mean", "{:.4f}"), ("frac_reward_zero_std", "{:.2f}"):
        cells.append(form.format(statistics.mean(mean_of(lines, name) for lines in arm.runs)))
    cells.append(spread(arm.drifts, "{:.4f}"))
    return "| " + " | ".join(cells) + " |"


@plots.picture
def draw(arms: list[Arm], png: str) -> None:
    """Draw the mean accuracy of each objective against the mean of sampled tokens.

    Up to where the thriftiest ends: dynamic sampling goes on for twice as long.
    """
    figure, [axes] = plots.canvas(1, 2, 11, 4.5, sharey=True)
    for arm in arms:
        points = list(zip(*map(curve_of, arm.runs)))
        tokens = [statistics.mean(seed.tokens for seed in point) / 1000 for point in points]
        means = [statistics.mean(seed.accuracy for seed in point) for point in points]
        panel = axes[0] if arm.name.endswith("1 update") else axes[1]
        panel.plot(tokens, means, label=arm.name)
    shortest = min(curve_of(lines)[-1].tokens for arm in arms for lines in arm.runs)
    for panel in axes:
        panel.set_xlim(0, shortest / 1000)
        panel.axhline(0.90, color="grey", linewidth=0.8, linestyle=":")
        panel.set_xlabel("thousand tokens sampled")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    axes[0].set_ylabel("greedy accuracy, count:test")
    plots.save(figure, png)


def main(args: argparse.Namespace) -> None:
    arms = read_arms(Path(args.runs))
    print(HEADER)
    for arm in arms:
        print(row_of(arm))
    if args.plot:
        draw(arms, args.plot)


if __name__ == "__main__":
    running.run(main, parse_args)
