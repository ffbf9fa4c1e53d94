"""Count the padding of supervised batches, with and without --group-by-length. No model is needed.

    python recipes/padding.py --model tiny --data count --batch-size 32

Prints Markdown. Padding: the share of a batch's places that hold no token. Commonest answer: the
share of a step's examples with the gold answer that is the commonest in it.
"""

import argparse
import functools
import math
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import batching
import curriculum
import data
import processor
import tasks
import train_sft
from plumbing import flags


def padding(
    plan: curriculum.Curriculum, asker: data.Asker, steps: int, sizes: list[int]
) -> list[float]:
    """Encode the first steps as train_sft.py does; return the share of padding.

    sizes: of micro-batches, one result each.
    """
    tokens, places = 0, [0] * len(sizes)
    N, pad_id = plan.per_step, asker.processor.special.pad_id
    for step in range(1, steps + 1):
        found = [train_sft.encode(asker, 512, plan[spot]) for spot in plan.spots(step, steps)]
        found.sort(key=lambda lesson: len(lesson[0].ids) + len(lesson[1]))
        prompts, rows, learned, _ = zip(*found)
        tokens += sum(len(p.ids) + len(row) for p, row in zip(prompts, rows))
        targets, mask = batching.pad_targets(rows, pad_id, learned)
        for i, size in enumerate(sizes):
            for a, b, first, last, counts in batching.micro_batches(N, size, [1] * N):
                batch = batching.collate(prompts[first:last], targets[a:b], mask[a:b], counts)
                places[i] += batch["input_ids"].numel()
    return [1 - tokens / number for number in places]


def commonest(plan: curriculum.Curriculum, steps: int) -> float:
    """Return the share of the commonest gold answer in a step, mean over the first steps."""
    shares = []
    for step in range(1, steps + 1):
        answers = Counter(plan[spot].example.answer for spot in plan.spots(step, steps))
        shares.append(max(answers.values()) / plan.per_step)
    return sum(shares) / steps


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "padding.py")
    p.add_argument("--model", default="tiny", help="whose tokens are counted")
    p.add_argument("--data", required=True, help="as for train_sft.py")
    p.add_argument(
        "--level", type=int, choices=[1, 2, 3], default=3, help="difficulty of toy tasks"
    )
    p.add_argument("--batch-size", type=flags.int_from_1, default=32, help="examples per step")
    p.add_argument("--max-steps", type=flags.int_from_1, help="default: an epoch; 50 of a toy task")
    p.add_argument("--seed", type=flags.int_from_0, default=0, help="of the order")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    asker = data.Asker(processor.processor_of(args.model))
    examples = tasks.read(args.data, args.seed, args.level, needs_answer=False, training=True)
    N = args.batch_size
    counts = None if data.is_endless(examples) else [len(examples)]
    steps = args.max_steps or (50 if counts is None else math.ceil(len(examples) / N))
    measure = functools.partial(curriculum.whole_length, asker)
    print("| --micro-batch-size | padding | with --group-by-length |")
    print("|---|---|---|")
    sizes = sorted({N, max(1, N // 4)}, reverse=True)
    plans = [curriculum.Curriculum([examples], counts, N, args.seed, m) for m in (None, measure)]
    for size, off, on in zip(sizes, *(padding(plan, asker, steps, sizes) for plan in plans)):
        print(f"| {size} | {off:.3f} | {on:.3f} |")
    off, on = (commonest(plan, steps) for plan in plans)
    print(f"commonest answer in a step: {off:.3f}, with --group-by-length {on:.3f}")


if __name__ == "__main__":
    main(parse_args())
