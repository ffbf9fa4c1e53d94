"""Test whether a model compares candidates by looking: one right solution among two wrong ones.

    python recipes/planted.py --model runs/claims/base --data table --output-dir runs/planted

A random draw decides which of the three is right, and the picture is made to show it.
So a rule about the text alone is right one time in three. What is above 0.333 with the right
picture, and gone with another one, is looking. Writes result.json.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import data
import model as modeling
import rewards
import rollout
import tasks
from grading import metrics
from plumbing import disk, flags, running
from tasks.example import Example


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "recipes/planted.py")
    flags.add_model_flags(p)
    p.add_argument("--data", choices=["table", "geometry"], default="table", help="the toy task")
    p.add_argument("--max-eval-samples", type=flags.int_from_1, default=512, help="sets")
    p.add_argument("--eval-batch-size", type=flags.int_from_1, default=64, help="sets at a time")
    p.add_argument("--seed", type=flags.int_from_0, default=0, help="of the sets")
    p.add_argument("--output-dir", required=True, help="where result.json goes")
    return p.parse_args(argv)


def share_named(texts: list[str], examples: list[Example]) -> float:
    """Return the share of texts that name one of their candidates."""
    named = 0
    for text, e in zip(texts, examples):
        named += metrics.select(text, e.meta["candidates"], e.choices)[1] == "selected"
    return named / len(texts)


def share_by_place(right: list[float], examples: list[Example]) -> list[float]:
    """Return the share of right choices where the right one is first, second and third."""
    shares = []
    for place in range(3):
        there = [r for r, e in zip(right, examples) if e.meta["right_at"] == place]
        shares.append(sum(there) / max(1, len(there)))
    return shares


def main(args: argparse.Namespace) -> None:
    disk.make_writable(args.output_dir)
    vars(args).update(modeling.resolve(args, needs_training="its choices would be noise"))
    policy, processor = modeling.load_from_args(args)
    n = args.max_eval_samples
    examples = data.head(tasks.read(f"{args.data}_select:test", args.seed), n)
    moved = [dataclasses.replace(e, images=examples[i - 1].images) for i, e in enumerate(examples)]
    texts, right = {}, {}
    for name, asked in (("selected_right", examples), ("swapped", moved)):
        texts[name], _, _ = rollout.answer_all(
            policy,
            data.Asker(processor, "none"),
            asked,
            rollout.Sampling(32, temperature=0),
            batch_size=args.eval_batch_size,
            describe=name,
        )
        right[name] = [rewards.accuracy(text, e) for text, e in zip(texts[name], examples)]
    result = {
        "data": args.data,
        "model": args.model,
        "n": n,
        **{name: sum(marks) / n for name, marks in right.items()},
        "by_place": share_by_place(right["selected_right"], examples),
        "not_a_candidate": 1 - share_named(texts["selected_right"], examples),
        "swapped_not_a_candidate": 1 - share_named(texts["swapped"], examples),
    }
    for name, marks in right.items():
        result[f"{name}_low"], result[f"{name}_high"] = metrics.wilson(sum(marks), n)
    disk.write_json(Path(args.output_dir) / "result.json", result)
    show(result)


def show(result: dict) -> None:
    """Print the shares with their 95 % intervals."""
    places = " / ".join(f"{share:.3f}" for share in result["by_place"])
    low, high = result["selected_right_low"], result["selected_right_high"]
    print(
        f"chooses right {result['selected_right']:.3f} of {result['n']} sets"
        f" (95 % interval {low:.3f} to {high:.3f};"
        f" by place of the right one {places});"
        f" with another picture {result['swapped']:.3f}"
        f" ({result['swapped_low']:.3f} to {result['swapped_high']:.3f});"
        f" {result['not_a_candidate']:.3f} and {result['swapped_not_a_candidate']:.3f}"
        " named no candidate"
    )


if __name__ == "__main__":
    running.run(main, parse_args)
