"""Print the table of recipes/graft.sh: accuracy before training, after stage 1 and after stage 2.

    python recipes/graft_table.py runs/graft 0 1 2

Reads OUT/beforeSEED/SET/result.json (evaluate.py) and result.json of OUT/stage1_SEED and
OUT/stage2_SEED (train_sft.py); prints Markdown. All answers are greedy.
"""

import argparse
import json
from pathlib import Path

SETS = {
    "count_words:test": "questions about scenes in words",
    "count:test": "the same about pictures",
    "count_captions:test": "captions, every word right",
}


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def accuracies(out: Path, seed: str, name: str) -> list[float]:
    """Return the accuracy of one seed on one set: before, after stage 1, after stage 2."""
    before = read_json(out / f"before{seed}" / name.partition(":")[0] / "result.json")
    stages = [read_json(out / f"stage{n}_{seed}" / "result.json") for n in (1, 2)]
    return [before["accuracy"], *(stage[f"eval/{name}/accuracy"] for stage in stages)]


def row_of(words: str, of_seeds: list[list[float]]) -> str:
    """Write the line of one set: three figures a seed, their means, and the range of the last."""
    n = len(of_seeds)
    means = [sum(figures) / n for figures in zip(*of_seeds)]
    cells = [" → ".join(f"{figure:.3f}" for figure in figures) for figures in [*of_seeds, means]]
    last = [figures[-1] for figures in of_seeds]
    return f"| {words} | " + " | ".join(cells) + f" | {min(last):.3f} – {max(last):.3f} |"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("out", type=Path, help="directory with the runs")
    p.add_argument("seeds", nargs="+", help="which have finished")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    print("| greedy | " + " | ".join(f"seed {s}" for s in args.seeds) + " | mean | range after |")
    print("|---|" + "---|" * (len(args.seeds) + 2))
    for name, words in SETS.items():
        print(row_of(words, [accuracies(args.out, seed, name) for seed in args.seeds]))


if __name__ == "__main__":
    main(parse_args())
