"""Print a table of supervised runs with a flag on and off, a row each, three seeds.

    python recipes/practice_table.py runs/practice/off runs/practice/neftune

Reads RUN0, RUN1, ... (result.json, metrics.jsonl); prints Markdown. Loss: mean of the last 20
steps, of training, with the noise of NEFTune in it.
"""

import argparse
import json
import re
from pathlib import Path

LAST = 20  # steps
SECONDS = "seconds of training"


def runs_of(name: str) -> list[Path]:
    """List the finished runs of a name, one a seed."""
    path = Path(name)
    found = [p for p in path.parent.glob(f"{path.name}*") if p.name[len(path.name) :].isdigit()]
    return sorted(path for path in found if (path / "result.json").exists())


def figures(run: Path) -> dict[str, float]:
    """Read a run's accuracies by set, its loss at the end, and the seconds of its steps."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    losses = [line["loss"] for line in metrics[-LAST:]]
    name = re.compile("eval/(.*/accuracy)")
    found = {match[1]: result[key] for key in result if (match := name.fullmatch(key))}
    found[f"loss, last {LAST} steps"] = sum(losses) / len(losses)
    return found | {SECONDS: sum(line["step_time"] for line in metrics)}


def row_of(name: str) -> str:
    """Write the line of one flag."""
    runs = list(map(figures, runs_of(name)))
    cells = []
    for column in runs[0]:
        values = [run[column] for run in runs]
        digits = 0 if column == SECONDS else 3
        each = " / ".join(f"{value:.{digits}f}" for value in values)
        cells.append(f"{each} (mean {sum(values) / len(values):.{digits}f})")
    return f"| {Path(name).name} | {' | '.join(cells)} |"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("runs", nargs="+", help="directories without the seed at their ends")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    names = [name for name in args.runs if runs_of(name)]
    for name in set(args.runs) - set(names):
        print(f"{name}0, {name}1, ...: no run is finished")
    if not names:
        return
    columns = list(figures(runs_of(names[0])[0]))
    print(f"| run | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name in names:
        print(row_of(name))


if __name__ == "__main__":
    main(parse_args())
