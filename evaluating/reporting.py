"""What evaluate.py prints, writes and draws of its figures."""

from pathlib import Path

from evaluating.scoring import as_read, rule_of, selection
from grading import metrics
from plumbing import disk
from tasks import protocols, sheets
from tasks.example import Example


def print_report(out: Path, result: dict, rows: list[dict]) -> None:
    """Write result.json and disagreements.jsonl of a protocol, and print what they say."""
    disk.write_json(out / "result.json", result)
    remarks = ""
    if result["undecided"]:
        remarks += f"; {result['undecided']} with numbers too large to compare"
    if "box_format" in result:
        remarks += f"; predicted boxes in {result['box_format']}"
    print(f"{result['protocol']}: n {result['n']}")
    print(
        f"  {'accuracy, ours':<24}{result['accuracy']:.4f}   95 % interval "
        f"{result['accuracy_low']:.4f} to {result['accuracy_high']:.4f}; "
        f"{result['parse_failures']} could not be read, of the others "
        f"{result['accuracy_parsed']:.4f}{remarks}"
    )
    for name in protocols.FIGURES:
        if name in result:
            print(f"  {name:<24}{result[name]:.4f}")
    for name, parts in result.get("by", {}).items():
        if len(parts) <= 12:
            figures = [f"{key} {part['accuracy']:.4f} ({part['n']})" for key, part in parts.items()]
            print(f"  by {name + ':':<21}" + "  ".join(figures))
    differ = protocols.disagreements(rows)
    disk.write_lines(out / "disagreements.jsonl", differ)
    if "accuracy_original" in result:
        late = result["original_timeouts"]
        remarks = f"; {late} ran out of time" if late else ""
        if result.get("original_guesses"):
            remarks += f"; it guessed {result['original_guesses']}"
        print(
            f"  {'accuracy, original':<24}{result['accuracy_original']:.4f}   {result['original']}"
            f"{remarks}"
        )
        print(f"  {'they differ on':<24}{len(differ)} records: {out}/disagreements.jsonl")
    if result.get("needs_judge"):
        counted = ", and wrong in its figure" if "accuracy_original" in result else ""
        print(f"  {'left to an LLM':<24}{result['needs_judge']} answers by the original{counted}")
    for row in differ[:3]:
        end = " ".join(row["prediction"].split())[-120:]
        print(
            f"    gold {row['answer']!r}, read {row['extracted']!r}: ours {row['accuracy']:g}, "
            f"original {row['accuracy_original']:g}; text ends {end!r}"
        )


def interval(figures: dict, name: str) -> str:
    """Write the interval of a difference."""
    low, high = figures[f"{name}_low"], figures[f"{name}_high"]
    return "unknown: all about one picture" if low is None else f"{low:+.3f} to {high:+.3f}"


def print_point(point: dict) -> None:
    """Print the line of one point of the curves."""
    selected = gain = ""
    if "self_select@k" in point:
        selected = f"self-select {point['self_select@k']:.3f}, "
    if "self_select_gain" in point:
        gain = (
            f"; self-select over majority {point['self_select_gain']:+.3f}, 95 % interval "
            f"{interval(point, 'self_select_gain')}; "
            f"{point['self_select_fell_back']:.1%} of the selections fell back on the majority"
        )
    print(
        f"  k = {point['step']}: one alone is right {point['mean_sample_accuracy']:.3f}, "
        f"majority {point['majority@k']:.3f}, {selected}pass {point['pass@k']:.3f}{gain}"
    )


def announce(
    model: str,
    data: str,
    template: str,
    protocol: str | None,
    n: int,
    N: int,
    temperature: float,
    self_select: bool,
    ways: list[str],
    done: int,
) -> None:
    """Print what is about to be asked. done: questions that are answered already."""
    print(
        f"model: {model}; prompt template {template}"
        + (f"; protocol {protocol}" if protocol else "")
    )
    print(
        f"asking {n} questions of {data}: greedily"
        + (f", and {N} samples each at temperature {temperature}" if N else "")
        + ("; which is right, it is asked again" if self_select else "")
        + (f"; in other ways too: {', '.join(ways)}" if ways else "")
        + (f"; {done} are answered already" if done else "")
    )


def print_greedy(result: dict) -> None:
    """Print the figures of the greedy answers."""
    print(
        f"Test@1 (greedy): accuracy {result['accuracy']:.3f}, 95 % interval "
        f"{result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}, n {result['n']}; "
        f"of readable answers {result['accuracy_parsed']:.3f}; "
        f"format {result['format_rate']:.3f}; {result['parse_failures']} could not be read"
        + (f"; mean IoU {result['iou']:.3f}" if "iou" in result else "")
    )


# --- the other ways ---

# How a way is called in a printed line.
IN_WORDS = {
    "blind": "without any picture",
    "swap": "with another's picture",
    "wording": "in other words",
    "resize": "picture a twentieth smaller",
    "shift": "picture moved by one pixel",
    "jpeg": "picture as JPEG, quality 75",
    "shuffled": "options in other orders",
    "likelihood by letter": "the likeliest letter",
    "likelihood by text": "the likeliest option text",
}


def print_ways(figures: dict[str, float]) -> None:
    """Print what the same questions in other ways gave: figures of evaluating/figures.py."""
    if not any(key.endswith("/difference") for key in figures):
        return
    print(
        "the same questions in other ways: accuracy; difference, the accuracy above minus this "
        "one (paired); how often the answer stays"
    )
    for key in figures:
        name, _, figure = key.partition("/")
        if figure == "accuracy" and not name.startswith("letter "):
            print(f"  {IN_WORDS.get(name, name):<28}{way_in_words(figures, name)}")
    if "commonest_gold" in figures:
        print(f"  always the commonest gold answer: {figures['commonest_gold']:.3f}")
    for figure, what in (
        ("accuracy", "accuracy where it is right"),
        ("chosen", "chosen"),
        ("right", "right"),
    ):
        own = [k for k in figures if k.startswith("letter ") and k.endswith(f"/{figure}")]
        if own:
            parts = [f"{key.split()[1][0]} {figures[key]:.3f}" for key in own]
            print(f"  by letter, {what}: {'  '.join(parts)}")


def way_in_words(figures: dict[str, float], name: str) -> str:
    """Write the figures of one way on a line."""

    def of(figure: str) -> float:
        return figures[f"{name}/{figure}"]

    line = (
        f"{of('accuracy'):.3f} ({of('accuracy_low'):.3f} to {of('accuracy_high'):.3f}), "
        f"difference {of('difference'):+.3f} ({interval(figures, f'{name}/difference')}), "
        f"n {of('n')}"
    )
    if f"{name}/same_answer" in figures:
        line += (
            f"; same answer {of('same_answer'):.3f}, unreadable {of('unreadable'):.3f}, "
            f"{of('mean_length'):.0f} tokens"
        )
    if f"{name}/flips" in figures:
        line += f"; right in every order {of('every_order'):.3f}, flips {of('flips'):.3f}"
    return line


# --- curves, and the sheet ---

SHOWN_WAYS = ("blind", "swap", "wording")  # on the sheet; report.html has all


def curve_figures(curve: list[dict], N: int) -> dict:
    """Return what result.json says of the curves: their last point by name, and all points."""
    last = curve[-1]
    figures = {}
    for name in ("majority", "pass", "self_select"):
        if f"{name}@k" in last:
            for end in ("", "_low", "_high"):
                figures[f"{name}@{N}{end}"] = last[f"{name}@k{end}"]
    return figures | {"mean_sample_accuracy": last["mean_sample_accuracy"], "scaling": curve}


def sheet_row(
    example: Example, as_judged: Example, record: dict, shown: int, protocol: str | None
) -> dict:
    """Make one question's row of samples/answers.png, with the first `shown` samples."""
    read, right = rule_of(protocol)
    samples = record["samples"][:shown]
    completions = [(f"greedy: {record['prediction']}", {"accuracy": record["accuracy"]})]
    completions += [(s, {"accuracy": mark}) for s, mark in zip(samples, record["right"])]
    for name, part in record.get("ways", {}).items():
        if name in SHOWN_WAYS or name.startswith("template "):
            completions.append((f"{name}: {part['prediction']}", {"accuracy": part["accuracy"]}))
    if "selections" in record:
        as_asked = as_read(record, protocol)
        text = selection(as_asked, shown, protocol)
        candidates = as_asked["samples"][:shown]
        answer, how = metrics.select(text, candidates, record["choices"], read)
        [mark] = metrics.answer_scores([answer], [as_judged], right)
        instead = ", the majority in its place" if how == "majority" else ""
        whole = f"self-select among these {shown}{instead}: {record['selections'][str(shown)]}"
        completions.append((whole, {"accuracy": mark}))
    return sheets.sheet_row(example, completions, [record["prediction"], *samples])
