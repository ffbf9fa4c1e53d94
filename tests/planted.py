"""Does a model compare candidates by looking? Planted sets of one right and two wrong worked solutions (toyworld.planted), with the right picture and with another one.

    python tests/planted.py --model runs/claims/base --data table --output-dir runs/planted

Which of the three is right was drawn by lot, and the picture made to show it: no rule about the text is right more often than one time in three. So what is above 0.333 with the
right picture, and gone with another one, is looking. Writes result.json.
"""

import dataclasses
import sys
from pathlib import Path

import data
import model as modeling
import rewards
import rollout
import tasks
from grading import metrics
from plumbing import disk, flags, running

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args(argv=None):
    p = flags.Parser(__doc__, "tests/planted.py")
    flags.add_model_flags(p)
    p.add_argument("--data", choices=["table", "geometry"], default="table", help="the toy task")
    p.add_argument("--max-eval-samples", type=flags.int_from_1, default=512, help="sets")
    p.add_argument("--eval-batch-size", type=flags.int_from_1, default=64, help="sets at a time")
    p.add_argument("--seed", type=flags.int_from_0, default=0, help="of the sets")
    p.add_argument("--output-dir", required=True, help="where result.json goes")
    return p.parse_args(argv)


def main(args):
    disk.make_writable(args.output_dir)
    policy, processor = modeling.load_from_args(args, needs_training="its choices would be noise")
    n = args.max_eval_samples
    examples = data.head(tasks.read(f"{args.data}_select:test", args.seed), n)
    moved = [dataclasses.replace(e, images=examples[i - 1].images) for i, e in enumerate(examples)]
    right, named = {}, {}
    for name, some in (("selected_right", examples), ("swapped", moved)):
        texts, _, _ = rollout.answer_all(
            policy,
            data.Asker(processor, "none"),
            some,
            rollout.Sampling(32, temperature=0),
            batch_size=args.eval_batch_size,
            describe=name,
        )
        right[name] = [rewards.accuracy(text, e) for text, e in zip(texts, examples)]
        named[name] = [
            metrics.select(text, e.meta["candidates"], e.choices)[1] == "selected"
            for text, e in zip(texts, examples)
        ]
    places = [
        [r for r, e in zip(right["selected_right"], examples) if e.meta["right_at"] == k]
        for k in range(3)
    ]
    result = {
        "data": args.data,
        "model": args.model,
        "n": n,
        **{name: sum(marks) / n for name, marks in right.items()},
        "by_place": [sum(some) / max(1, len(some)) for some in places],
        "not_a_candidate": 1 - sum(named["selected_right"]) / n,
        "swapped_not_a_candidate": 1 - sum(named["swapped"]) / n,
    }
    result["selected_right_low"], result["selected_right_high"] = metrics.wilson(
        sum(right["selected_right"]), n
    )
    result["swapped_low"], result["swapped_high"] = metrics.wilson(sum(right["swapped"]), n)
    disk.write_json(Path(args.output_dir) / "result.json", result)
    print(
        f"chooses right {result['selected_right']:.3f} of {n} sets (95 % interval {result['selected_right_low']:.3f} to {result['selected_right_high']:.3f}; by place of the right one "
        + " / ".join(f"{v:.3f}" for v in result["by_place"])
        + f"); with another picture {result['swapped']:.3f} ({result['swapped_low']:.3f} to {result['swapped_high']:.3f}); "
        f"{result['not_a_candidate']:.3f} and {result['swapped_not_a_candidate']:.3f} named no candidate"
    )


if __name__ == "__main__":
    running.run(main, parse_args)
