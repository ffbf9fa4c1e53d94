"""`evaluate.py --compare RUN_A RUN_B`: two runs on the same questions, and where they differ.

result.json              what grading/paired.py says of every score that both runs have
differ.jsonl             the questions on which their accuracy differs, with both answers
samples/differ.png       some of these, beside their pictures
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from evaluating.keeping import DECIDING
from grading import clusters, paired
from plumbing import disk, plots
from plumbing.arguments import read_args
from plumbing.errors import UserError
from plumbing.records import read_lines
from plumbing.text import short
from tasks import images, picture_keys

ANSWERS = "predictions.jsonl"
# Compared where both runs have them.
SCORES = ("accuracy", "accuracy_original", "accuracy_judged", "lave", "iou")
TESTS = {"lave": "sign test", "iou": "sign test"}  # McNemar's is of right and wrong
SHOWN = 4  # questions on the sheet that B answers better, and as many that it answers worse


# --- the two runs ---


def place_of(a: str, b: str) -> str:
    """Name the directory of a comparison: in that of B, by the name of A."""
    return str(Path(b) / f"compared_with_{Path(a).resolve().name}")


def answers_of(run: str) -> list[dict]:
    """Read the scored answers of an evaluation's directory. UserError for none, and for damage."""
    path = Path(run) / ANSWERS
    if not os.path.isfile(path):  # unlike Path.is_file(), also False for a name too long
        raise UserError(
            f"--compare {short(run)} holds no {ANSWERS}; name two --output-dir of evaluate.py"
        )
    rows = [row for row in read_lines(path) if isinstance(row, dict) and "accuracy" in row]
    if not rows:
        raise UserError(f"{path} holds no scored answer; evaluate that run again")
    for number, row in enumerate(rows, 1):
        wrong = fault_of(row)
        if wrong:
            raise UserError(
                f"{path}: answer {number} has {wrong} {short(repr(row.get(wrong)), 60)}: it is "
                "damaged; evaluate that run again"
            )
    return rows


def fault_of(row: dict) -> str | None:
    """Name the first field of a scored answer that cannot be compared; None if all can."""
    for name in ("id", "question", "answer"):  # of saved outputs, these may be of any type
        if name not in row:
            return name
    if not isinstance(row.get("prediction"), str):
        return "prediction"
    if not isinstance(row.get("picture"), str | None):
        return "picture"
    for name in SCORES:
        score = row.get(name)
        if score is None and name != "accuracy":
            continue
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            return name
    return None


def question_of(row: dict) -> str:
    """Write what tells a question from every other: all that was asked, and the gold answer."""
    names = ("id", "system", "history", "question", "answer", "choices")
    return json.dumps([row.get(name) for name in names], sort_keys=True)


def matched(a: list[dict], b: list[dict], names: Sequence[str]) -> list[tuple[dict, dict]]:
    """Pair the answers of two runs to the same questions, in the order of the first.

    names: of the runs. UserError, which says how many they share, if they were asked others.
    """
    asked_a, asked_b = (Counter(map(question_of, rows)) for rows in (a, b))
    shared = (asked_a & asked_b).total()
    if shared < max(len(a), len(b)):
        raise UserError(
            f"--compare: {short(names[0])} has answers to {len(a)} questions and {short(names[1])} "
            f"to {len(b)}, of which they share {shared}; evaluate both on the same questions "
            f"({first_alone(a, asked_b, names[0]) or first_alone(b, asked_a, names[1])})"
        )
    waiting: dict[str, list[dict]] = {}
    for row in b:
        waiting.setdefault(question_of(row), []).append(row)
    pairs = [(row, partner_of(row, waiting[question_of(row)])) for row in a]
    for before, after in pairs:
        if has_another_picture(before, after):
            raise UserError(
                f"--compare: question {short(before['id'], 60)} has another picture in "
                f"{short(names[0])} than in {short(names[1])}; evaluate both on the same data"
            )
    return pairs


def partner_of(row: dict, others: list[dict]) -> dict:
    """Take the first of the others that is about the same picture; without one, the first."""
    places = range(len(others))
    place = next((n for n in places if others[n].get("picture") == row.get("picture")), 0)
    return others.pop(place)


def has_another_picture(before: dict, after: dict) -> bool:
    """Tell whether two rows are about other pictures: by their hashes, or the ends of their paths.

    A hash and a name say nothing of each other.
    """
    one, other = before.get("picture"), after.get("picture")
    if not one or not other or picture_keys.are_keys(one) != picture_keys.are_keys(other):
        return False
    return Path(one).name != Path(other).name


def first_alone(rows: list[dict], others: Counter, name: str) -> str:
    """Say which question only one run was asked; "" if there is none."""
    alone = [row for row in rows if question_of(row) not in others]
    return f"only {short(name)} has {short(alone[0].get('id'), 60)}" if alone else ""


def pictures_of(pairs: list[tuple[dict, dict]]) -> list:
    """Say which picture each question is about; one without a picture is by itself."""
    found = [before.get("picture") or after.get("picture") for before, after in pairs]
    return clusters.pictures_of([{"picture": picture} for picture in found])


def differing_flags(runs: Sequence[str]) -> list[str]:
    """Name the flags that answers and verdicts depend on, and that two runs do not share."""
    before, after = map(read_args, runs)
    if not before or not after:
        return []
    names = (*DECIDING, "judge", "judge_model")
    return [name for name in names if before.get(name) != after.get(name)]


# --- what they say ---


def compare(runs: Sequence[str], out: Path) -> None:
    """Compare two runs: write, draw and print it. Refused is before anything is written."""
    pairs = matched(*map(answers_of, runs), runs)
    pictures = pictures_of(pairs)
    compared = {}
    for name in SCORES:
        both = [n for n, pair in enumerate(pairs) if all(row.get(name) is not None for row in pair)]
        if both:
            a, b = ([pairs[n][side][name] for n in both] for side in (0, 1))
            compared[name] = paired.compare(a, b, [pictures[n] for n in both])
    result = {"a": str(runs[0]), "b": str(runs[1]), "flags": differing_flags(runs)}
    result |= {name: clusters.known(found._asdict()) for name, found in compared.items()}
    differ = [pair for pair in pairs if pair[0]["accuracy"] != pair[1]["accuracy"]]
    disk.make_writable(out)
    disk.write_json(out / "result.json", result)
    disk.write_lines(out / "differ.jsonl", [record_of(*pair) for pair in differ])
    draw(differ, runs, out / "samples" / "differ.png")
    show(result, compared, out)


def record_of(before: dict, after: dict) -> dict:
    """Write a question on which two runs differ."""
    names = ("id", "picture", "history", "question", "choices", "answer")
    record = {name: before[name] for name in names if before.get(name) is not None}
    said = ("prediction", "accuracy")
    return record | {
        "a": {name: before.get(name) for name in said},
        "b": {name: after.get(name) for name in said},
    }


def show(result: dict, compared: dict[str, paired.Comparison], out: Path) -> None:
    """Print what two runs say."""
    if result["flags"]:
        print(f"the runs differ in {', '.join(result['flags'])}")
    for name, found in compared.items():
        print(
            f"{name}: {found.n} questions about {found.clusters} pictures, by which errors and "
            "interval are clustered"
        )
        print(f"  A  {found.a:.4f}  (± {found.se_a:.4f})  {result['a']}")
        print(f"  B  {found.b:.4f}  (± {found.se_b:.4f})  {result['b']}")
        interval = f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
        if found.clusters == 1:
            interval = "and of one picture no interval can be told"
        print(f"  B less A {found.difference:+.4f} (± {found.se:.4f}), {interval}")
        if 1 < found.clusters < paired.FEW:
            print(f"  of fewer than {paired.FEW} pictures the interval is too narrow")
        print(
            f"  B is better on {found.better} questions and worse on {found.worse}: "
            f"{TESTS.get(name, 'exact McNemar')} p = {found.p:.4g}"
        )
    print(
        f"{out}/differ.jsonl has the questions on which they differ, {out}/samples/differ.png some"
    )


# --- the sheet ---


def draw(differ: list[tuple[dict, dict]], runs: Sequence[str], png: Path) -> None:
    """Draw some questions that B answers better, and some that it answers worse."""
    better = [pair for pair in differ if pair[0]["accuracy"] < pair[1]["accuracy"]]
    worse = [pair for pair in differ if pair[0]["accuracy"] > pair[1]["accuracy"]]
    chosen = better[:SHOWN] + worse[:SHOWN]
    if not chosen:
        return
    shown = small_pictures(runs)
    rows = []
    for before, after in chosen:
        picture = shown.get(json.dumps(before["id"]))
        completions = [
            (f"A: {before['prediction']}", {"accuracy": before["accuracy"]}),
            (f"B: {after['prediction']}", {"accuracy": after["accuracy"]}),
        ]
        rows.append(
            {
                "images": [picture] if picture else [],
                "question": str(before["question"]),
                "answer": before["answer"],
                "completions": completions,
            }
        )
    png.parent.mkdir(exist_ok=True)
    title = f"A: {runs[0]}, B: {runs[1]}: first where B is better, then where it is worse"
    plots.plot_samples(rows, png, title)


def small_pictures(runs: Sequence[str]) -> dict[str, Image.Image]:
    """Open the small pictures that two runs have kept of their questions, by id in JSON."""
    found = {}
    for run in runs:
        for line in read_lines(Path(run) / "samples" / "questions_answers.jsonl"):
            try:
                name, picture = json.dumps(line["id"]), line["picture"]
                if picture and name not in found:
                    encoded = images.decoded_picture(picture) or b""
                    found[name] = images.open_image(encoded, str(line["id"]))
            except (UserError, LookupError, TypeError, ValueError) as error:
                plots.warn(f"a question is shown without its picture: {short(error)}")
    return found
