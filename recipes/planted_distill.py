"""Measure the filters of distill.py on planted records: precision and recall of each.

    python recipes/planted_distill.py --output-dir runs/planted_distill

1,000 right worked answers about drawn scenes of `count` and `spatial`. A quarter each gets a leak,
a wrong answer and an object that is not there; the last quarter gets what only looks like one of
these (recipes/planted.py). Every filter then sees all 1,000. Writes result.json and the misses.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import data
import tasks
from distilling import filters, leaks, stages
from grading import metrics
from plumbing import disk, flags, running
from recipes import leak_sentences, planted
from tasks.example import Example


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "recipes/planted_distill.py")
    p.add_argument("--num-records", type=flags.int_from_1, default=1000, help="planted records")
    p.add_argument("--seed", type=flags.int_from_0, default=0, help="of scenes and plants")
    p.add_argument("--output-dir", required=True, help="where result.json goes")
    return p.parse_args(argv)


def planted_record(example: Example, number: int, seed: int) -> tuple[str | None, str]:
    """Return (the fault that is planted or None, the text) of one record."""
    rng = random.Random(f"planted {seed} {number}")
    faults = list(planted.PLANTS)
    if number % 4 < 3:
        fault = faults[number % 4]
        return fault, planted.PLANTS[fault](example.solution, example, rng)
    look_alike = planted.LOOK_ALIKES[faults[number // 4 % 3]]
    return None, look_alike(example.solution, example, rng)


def counted(truths: list[bool], found: list[bool]) -> dict:
    """Count one filter: precision and recall with their 95 % intervals."""
    right = sum(truth and said for truth, said in zip(truths, found))
    row = {"planted": sum(truths), "refused": sum(found), "both": right}
    for name, total in (("precision", sum(found)), ("recall", sum(truths))):
        row[name] = right / max(1, total)
        row[f"{name}_low"], row[f"{name}_high"] = metrics.wilson(right, max(1, total))
    return row


def measure_traces(number: int, seed: int) -> tuple[dict, list[dict]]:
    """Plant the records and ask each filter about each: (rows by filter, misses)."""
    half = number - number // 2
    examples = data.head(tasks.read("count", seed, teacher="gold"), half)
    examples += data.head(tasks.read("spatial", seed, teacher="gold"), number - half)
    random.Random(seed).shuffle(examples)
    records = [planted_record(example, n, seed) for n, example in enumerate(examples)]
    refused = [
        filters.refused(stages.to_trace(text), example)
        for (_, text), example in zip(records, examples)
    ]
    rows, misses = {}, []
    for name in planted.PLANTS:
        truths = [fault == name for fault, _ in records]
        found = [name in one for one in refused]
        rows[name] = counted(truths, found)
        misses += [
            {"filter": name, "planted": truth, "refused": said, "text": text}
            for truth, said, (_, text) in zip(truths, found, records)
            if truth != said
        ]
    return rows, misses


def measure_sentences() -> dict:
    """Ask the filter for leaks about each sentence by itself, seen and unseen."""
    rows = {}
    for group in leak_sentences.LEAKS:
        told = [(text, True) for text in leak_sentences.LEAKS[group]]
        told += [(text, False) for text in leak_sentences.INNOCENT[group]]
        found = [bool(leaks.find(text)) for text, _ in told]
        rows[f"leak, sentences {group}"] = counted([truth for _, truth in told], found)
    return rows


def measure_pairs() -> dict:
    """Ask the two filters for pairs about each answer."""
    rows = {}
    for name, bad in planted.BAD_ANSWERS.items():
        check = filters.PAIR_FILTERS[name]
        answers = [(text, True) for text in bad] + [(text, False) for text in planted.GOOD_ANSWERS]
        found = [not check("Which?", text).passes for text, _ in answers]
        rows[f"{name} (qa)"] = counted([truth for _, truth in answers], found)
    return rows


def main(args: argparse.Namespace) -> None:
    rows, misses = measure_traces(args.num_records, args.seed)
    rows |= measure_sentences() | measure_pairs()
    out = Path(args.output_dir)
    disk.write_json(out / "result.json", rows)
    disk.write_lines(out / "misses.jsonl", misses)
    print("| filter | planted | refused | precision | recall |\n|---|---|---|---|---|")
    for name, row in rows.items():
        shown = [
            f"{row[key]:.3f} ({row[f'{key}_low']:.3f} to {row[f'{key}_high']:.3f})"
            for key in ("precision", "recall")
        ]
        print(f"| {name} | {row['planted']} | {row['refused']} | {' | '.join(shown)} |")


if __name__ == "__main__":
    running.run(main, parse_args)
