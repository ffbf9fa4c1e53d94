"""Print what recipes/loops.sh measured: a row for each loop, means over seeds.

    python -m recipes.loops_table runs/loops --teacher runs/loops/teacher

Tokens are all that were sampled in steps, for second thoughts too. Seconds are those of the steps,
without evaluations.
"""

import argparse
import re
import statistics
from collections import defaultdict
from pathlib import Path

from plumbing import running
from plumbing.errors import UserError
from plumbing.flags import Parser
from plumbing.records import read_lines
from recipes.objectives_table import spread

EVALUATED = "eval/count:test/accuracy", "eval/count:ood/accuracy", "vision/kl"
HEADER = """\
| loop | seeds | accuracy | count:ood | vision/kl | kilotokens | seconds |
|---|---|---|---|---|---|---|"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = Parser(__doc__, "loops_table.py")
    p.add_argument("runs", help="the folder of the runs, NAME-seedSEED each")
    p.add_argument("--teacher", help="the run that distillation learned from, for a row of its own")
    return p.parse_args(argv)


def evaluations_of(lines: list[dict]) -> list[list[float]]:
    """Return what a run's evaluations found, before the first step and after the last."""
    found = [line for line in lines if EVALUATED[0] in line]
    return [[line[name] for name in EVALUATED] for line in (found[0], found[-1])]


def cost_of(lines: list[dict]) -> tuple[float, float]:
    """Return (tokens sampled, seconds) of a run's steps."""
    tokens = sum(
        line.get("groups/sampled_tokens", 0) + line.get("rethinking/tokens", 0) for line in lines
    )
    return tokens, sum(line.get("step_time", 0) for line in lines)


def row_of(name: str, runs: list[list[dict]]) -> str:
    """Write a line of the table. runs: for each seed the lines of metrics.jsonl."""
    columns = zip(*(evaluations_of(lines)[1] for lines in runs))
    cells = [spread(values) for values in columns]
    tokens, seconds = (statistics.mean(each) for each in zip(*map(cost_of, runs)))
    return f"| {name} | {len(runs)} | {' | '.join(cells)} | {tokens / 1000:,.0f} | {seconds:.0f} |"


def read_runs(folder: Path) -> dict[str, list[list[dict]]]:
    """Read the metrics of each run: {name: a list for each seed}. UserError if there are none."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*-seed*/metrics.jsonl")):
        found[re.sub(r"-seed\d+$", "", path.parent.name)].append(read_lines(path))
    if not found:
        raise UserError(f"no runs in {folder}; bash recipes/loops.sh makes them")
    return found


def main(args: argparse.Namespace) -> None:
    runs = read_runs(Path(args.runs))
    before, _ = evaluations_of(next(iter(runs.values()))[0])
    print(HEADER)
    print(f"| before | | {' | '.join(f'{value:.3f}' for value in before)} | | |")
    for name in sorted(runs, key=lambda name: (name != "grpo", name)):  # the yardstick first
        print(row_of(name, runs[name]))
    if args.teacher:
        print(row_of("the teacher", [read_lines(Path(args.teacher) / "metrics.jsonl")]))


if __name__ == "__main__":
    running.run(main, parse_args)
