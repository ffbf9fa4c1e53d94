"""How many objects do answers to `count` name in a row, by how many there are?

    python evaluate.py --model runs/demo --data count:ood --max-eval-samples 256 \
        --max-completion-length 256 --output-dir runs/demo_ood
    python recipes/row_lengths.py runs/demo_ood

Reads predictions.jsonl; prints Markdown. A row that an answer does not reach is not counted. The
last line has the answers that did not end, by the number of objects in the fullest row.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import records
from tasks import drawing, toy

ROW = re.compile(r"Row (\d)(?::| ) ?([^.]*)")


def objects_in_rows(question: str) -> list[int]:
    """Count the objects in each row of a scene. question: its id, as count:ood:0:12."""
    task, split, seed, index = question.split(":")
    record = toy.make_record(task, split, int(index), int(seed))
    rows = Counter(row for row, *_ in record["meta"]["objects"])
    return [rows[row] for row in range(drawing.GRID)]


def named_in_rows(text: str) -> list[int]:
    """Count the objects that an answer names in each of its first four rows."""
    words = [row.strip() for _, row in ROW.findall(text)[: drawing.GRID]]
    return [0 if row.startswith("none") else row.count(",") + 1 for row in words]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("run", type=Path, help="the output directory of evaluate.py")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    rows, more, endless = Counter(), Counter(), Counter()
    limit = records.read_record(args.run / "args.json")["max_completion_length"]
    for line in records.read_lines(args.run / "predictions.jsonl"):
        there = objects_in_rows(line["id"])
        endless[max(there)] += line["tokens"] >= limit
        for number, named in zip(there, named_in_rows(line["prediction"])):
            rows[number] += 1
            more[number] += named > number
    print("| objects in the row | rows | with more in the answer |\n|---|---|---|")
    for number in sorted(rows):
        print(f"| {number} | {rows[number]} | {100 * more[number] / rows[number]:.1f} % |")
    print(f"\nnot ended, by the fullest row: {dict(sorted(endless.items()))}")


if __name__ == "__main__":
    main(parse_args())
