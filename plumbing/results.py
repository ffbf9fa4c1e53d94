"""What a training run says of its held-out sets: result.json, and lines on the screen.

A line of metrics holds `eval/NAME/accuracy`, n, accuracy_low, accuracy_high, accuracy_parsed,
format_rate, and iou where the examples have boxes. The first of `names` is the one that counts.
"""

from pathlib import Path

from plumbing import disk


def scores_of(line: dict[str, float], name: str) -> dict[str, float]:
    """Pick the scores of one held-out set out of a line of metrics."""
    start = f"eval/{name}/"
    return {key.removeprefix(start): v for key, v in line.items() if key.startswith(start)}


def evaluated(line: dict[str, float]) -> dict[str, float]:
    """Pick what was evaluated out of a line of metrics."""
    return {key: value for key, value in line.items() if key.startswith("eval/")}


def head(line: dict[str, float], names: list[str], steps: int) -> dict:
    """Begin a result.json: accuracy and n of the first set, if there is one, and the steps."""
    if not names:
        return {"steps": steps}
    scores = scores_of(line, names[0])
    accuracy, n = scores["accuracy"], int(scores["n"])
    return {"accuracy": accuracy, "n": n, "data": names[0], "steps": steps}


def mean_iou(scores: dict[str, float]) -> str:
    """Add the mean IoU to a sentence, where there is one."""
    return f", mean IoU {scores['iou']:.3f}" if "iou" in scores else ""


def save_after(after: dict[str, float], names: list[str], steps: int, out: Path) -> None:
    """Write result.json of supervised training, and print a line for each held-out set."""
    disk.write_json(out / "result.json", head(after, names, steps) | evaluated(after))
    for name in names:
        scores = scores_of(after, name)
        print(
            f"{name}: accuracy {scores['accuracy']:.3f} of {int(scores['n'])} greedy answers, "
            f"format {scores['format_rate']:.3f}" + mean_iou(scores)
        )


def print_before(before: dict[str, float], names: list[str]) -> None:
    """Print a line for each held-out set before training."""
    for name in names:
        scores = scores_of(before, name)
        print(
            f"before: {name}: accuracy {scores['accuracy']:.3f}, "
            f"of readable answers {scores['accuracy_parsed']:.3f}, "
            f"format {scores['format_rate']:.3f}" + mean_iou(scores)
        )


def save_comparison(before: dict, after: dict, names: list[str], steps: int, out: Path) -> None:
    """Write result.json of reinforcement learning, and print a table of before and after."""
    result = head(after, names, steps)
    result["accuracy_before"] = before[f"eval/{names[0]}/accuracy"]
    result |= {"before": evaluated(before), "after": evaluated(after)}
    disk.write_json(out / "result.json", result)
    print(
        f"\n{'greedy accuracy':<28}{'before':>8}{'after':>8}   95 % interval   "
        "readable answers only   format"
    )
    for name in names:
        b, a = scores_of(before, name), scores_of(after, name)
        print(
            f"{name + ' (' + str(int(a['n'])) + ')':<28}"
            f"{b['accuracy']:>8.3f}{a['accuracy']:>8.3f}   "
            f"{a['accuracy_low']:.3f} - {a['accuracy_high']:.3f}   "
            f"{b['accuracy_parsed']:.3f} -> {a['accuracy_parsed']:.3f}          "
            f"{b['format_rate']:.3f} -> {a['format_rate']:.3f}"
        )
        if "iou" in a:
            print(f"{'  mean IoU':<28}{b['iou']:>8.3f}{a['iou']:>8.3f}")
