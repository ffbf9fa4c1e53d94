"""The seeds table of README from finished runs of `make demo`:  python tests/seed_table.py runs/seed0 runs/seed1 runs/seed2

Reads RUN/sft and RUN/grpo (result.json, metrics.jsonl); prints markdown. Exits with 1 if, on the first evaluation set, the lowest accuracy
after reinforcement learning is not above the highest before: the claim that README makes.
"""

import json
import sys
from pathlib import Path


def main(runs):
    results = [
        json.loads((Path(run) / "grpo" / "result.json").read_text(encoding="utf-8")) for run in runs
    ]
    seeds = [
        json.loads((Path(run) / "grpo" / "args.json").read_text(encoding="utf-8"))["seed"]
        for run in runs
    ]
    minutes = [
        sum(
            json.loads(line).get("step_time", 0)
            for stage in ("sft", "grpo")
            for line in (Path(run) / stage / "metrics.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        / 60
        for run in runs
    ]
    names = [
        key.removesuffix("/accuracy") for key in results[0]["after"] if key.endswith("/accuracy")
    ]
    rows = []
    for name in names:
        label = name.removeprefix("eval/")
        for key, what in (
            ("accuracy", "accuracy"),
            ("iou", "mean IoU"),
            ("accuracy_parsed", "accuracy, readable answers only"),
            ("format_rate", "format rate"),
            ("mean_length", "tokens per answer"),
        ):
            if f"{name}/{key}" in results[0]["after"]:
                rows.append(
                    (
                        f"{label}, {what} (n = {results[0]['after'][name + '/n']:.0f})",
                        [
                            (r["before"][f"{name}/{key}"], r["after"][f"{name}/{key}"])
                            for r in results
                        ],
                    )
                )
    print("| greedy | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | range after |")
    print("|---|" + "---|" * (len(seeds) + 2))
    for label, pairs in rows:
        before, after = zip(*pairs)
        digits = 1 if "tokens" in label else 3
        print(
            f"| {label} | "
            + " | ".join(f"{b:.{digits}f} → {a:.{digits}f}" for b, a in pairs)
            + f" | {sum(before) / len(before):.{digits}f} → {sum(after) / len(after):.{digits}f} | {min(after):.{digits}f} – {max(after):.{digits}f} |"
        )
    print(
        "| minutes of training | "
        + " | ".join(f"{m:.1f}" for m in minutes)
        + f" | {sum(minutes) / len(minutes):.1f} | |"
    )
    before, after = zip(*rows[0][1])
    print(
        f"\nlowest after {min(after):.3f}, highest before {max(before):.3f}: "
        + ("holds" if min(after) > max(before) else "DOES NOT HOLD")
    )
    return 0 if min(after) > max(before) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
