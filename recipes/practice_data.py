"""Draw scenes of `count` with three questions each, and write them as our records.

    python recipes/practice_data.py --output-dir runs/practice/data

OUT/shared.jsonl has the questions on a picture one behind the other, with right worked answers.
recipes/practice.sh trains on it with and without --merge-same-image.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import disk, flags, running
from tasks import count, drawing, toy

QUESTIONS = 3  # of a picture


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "recipes/practice_data.py")
    p.add_argument("--num-pictures", type=flags.int_from_1, default=800, help="scenes to draw")
    p.add_argument("--level", type=int, choices=drawing.LEVELS, default=1, help="of the scenes")
    p.add_argument("--seed", type=flags.int_from_0, default=0, help="of the scenes")
    p.add_argument("--output-dir", required=True, help="where shared.jsonl and the pictures go")
    return p.parse_args(argv)


def questions_on(example: dict, image: str, rng: random.Random) -> list[dict]:
    """Ask about three kinds of objects in one scene, those that are there first."""
    objects = [tuple(o) for o in example["meta"]["objects"]]
    there = [kind for kind in drawing.KINDS if drawing.of_kind(objects, kind)]
    others = [kind for kind in drawing.KINDS if kind not in there]
    kinds = rng.sample(there, min(QUESTIONS, len(there)))
    kinds += rng.sample(others, QUESTIONS - len(kinds))
    rows = [count.about(objects, objects, kind) for kind in kinds]
    keys = ("question", "answer", "solution")
    return [{"images": [image], **{key: row[key] for key in keys}} for row in rows]


def main(args: argparse.Namespace) -> None:
    out = Path(args.output_dir)
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(args.num_pictures):
        example = toy.make_example("count", "train", index, args.seed, args.level, "gold")
        name = f"images/{index}.png"
        example["image"].save(out / name)
        rows += questions_on(example, name, random.Random(f"practice {args.seed} {index}"))
    disk.write_lines(out / "shared.jsonl", rows)
    print(f"{out}/shared.jsonl has {len(rows)} questions on {args.num_pictures} pictures")


if __name__ == "__main__":
    running.run(main, parse_args)
