"""Write the questions of a toy counting set with four options each, as JSON Lines with pictures.

    python recipes/count_choices.py --data count:test --number 256 --output-dir runs/count_choices

The options are the right count and the three numbers next to it, in an order drawn from the seed.
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import data
import tasks
from plumbing import flags
from tasks import images


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "recipes/count_choices.py")
    p.add_argument("--data", default="count:test", help="the toy set and its split")
    p.add_argument("--number", type=flags.int_from_1, default=256, help="questions")
    p.add_argument("--seed", type=flags.int_from_0, default=0, help="of the options' order")
    p.add_argument("--output-dir", required=True, help="where questions.jsonl and its pictures go")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    out = Path(args.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for n, example in enumerate(data.head(tasks.read(args.data), args.number)):
        rng = random.Random(f"options {args.seed} {n}")
        gold = int(example.answer)
        lowest = rng.randint(max(0, gold - 3), gold)
        options = [str(lowest + more) for more in range(4)]
        rng.shuffle(options)
        images.open_images(example)[0].save(out / f"{n}.png")
        line = {"id": example.id, "image": f"{n}.png", "question": example.question}
        lines.append(line | {"choices": options, "answer": "ABCD"[options.index(str(gold))]})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / "questions.jsonl").write_text(text, encoding="utf-8")
    print(f"{out}/questions.jsonl: {len(lines)} questions")


if __name__ == "__main__":
    main(parse_args())
