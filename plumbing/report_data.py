"""What the page of a run shows, read from the run's directory: curves, and views of its answers.

A view is what was answered at some steps, its frames: the samples of training, a held-out set.

    {"name": "samples of training", "x": "step", "note": "", "frames": [{"at": 40, "groups": [
        {"question": 0, "answers": [{"text", "state", "scores": {name: number}, ...}, ...]}]}]}
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from plumbing import report_answers as answers
from plumbing.report_answers import (
    Questions,
    groups_of,
    lines_of,
    number_of,
    numbers_of,
    record_of,
    text_of,
)

MOST_POINTS = 1000  # of a curve
MOST_FRAMES = 40  # steps of a view
MOST_QUESTIONS = 64  # of a frame, where the run kept no questions with their pictures
MOST_ITEMS = 16  # of each kind, of what an iteration learns from
ANSWER_BYTES = 4_000_000  # of all answers of a run

BY_ITERATION = ("selftrain.py", "train_dpo.py")
NOT_FLAGS = {"argv", "commit", "versions", "script", "crc32", "cwd", "run"}

# The headings of the curves, and the metrics below each. All others have headings of their own.
PANELS = (
    (
        "accuracy on held-out questions",
        r"eval/.+/(accuracy|sample_accuracy|(majority|self_select|pass)@\d+)",
    ),
    ("IoU on held-out questions", r"eval/.+/iou"),
    ("reward", r"reward|rewards/(?!undecided$)[^/]+"),
    ("signal: advantages", r"adv_abs|reward_std|frac_reward_zero_std"),
    ("samples of the training questions", r"pool/.+"),
    ("what was built of them", r"built/.+|pairs/.+"),
    ("loss", r"loss(/.+)?"),
    ("log-probability of the responses, nats", r"logps/.+"),
    ("nats per token", r"entropy|kl"),
    ("tokens per completion", r"completions/(mean|max)_length"),
    ("share in the exact format", r"eval/.+/format_rate"),
    ("gradient norm", r"grad_norm"),
    ("share of answer tokens by source", r"mixture/.+"),
    ("experts that differ between rollout and update, share", r"router_disagreement/.+"),
    ("share of completions cut off", r"completions/clipped_ratio"),
    ("share of tokens clipped", r"clip_ratio/.+"),
    ("seconds", r".*_time"),
)
COST = {
    "greedy": "greedy_tokens",
    "majority@k": "majority_tokens",
    "self_select@k": "self_select_tokens",
}
SCALING = ("mean_sample_accuracy", "majority@k", "self_select@k", "pass@k", "greedy")


def spread(values: list, most: int) -> list:
    """Choose `most` of some values, evenly, the first and the last among them."""
    if len(values) <= most:
        return values
    step = (len(values) - 1) / max(1, most - 1)
    return [values[round(i * step)] for i in range(most)]


# --- curves and figures ---


def points_of(lines: list[dict]) -> dict[str, list]:
    """Collect the points [step, value] of each metric."""
    found: dict[str, list] = {}
    for line in lines:
        for name, value in line.items():
            point = numbers_of([line.get("step"), value], 2)
            if name != "step" and point:
                found.setdefault(name, []).append(point)
    return found


def curves_of(lines: list[dict], x: str, where: str = "") -> list[dict]:
    """Sort the metrics of some lines under headings.

    Returns [{"heading", "x", "main", "curves": [{"name", "points": [[x, value], ...]}]}, ...].
    """
    sorted_by: dict[str, list] = {heading: [] for heading, _ in PANELS}
    for name, points in points_of(lines).items():
        heading = next((h for h, names in PANELS if re.fullmatch(names, name)), name)
        curve = {"name": name, "points": spread(points, MOST_POINTS)}
        sorted_by.setdefault(heading, []).append(curve)
    main = {heading for heading, _ in PANELS}
    return [
        {"heading": where + heading, "x": x, "main": heading in main, "curves": curves}
        for heading, curves in sorted_by.items()
        if curves
    ]


def scaling_curves(lines: list[dict]) -> list[dict]:
    """Take evaluate.py's accuracies against the number of samples, and against their cost."""
    picked = [{name: line.get(name) for name in ("step", *SCALING)} for line in lines]
    curves = [{"name": name, "points": points} for name, points in points_of(picked).items()]
    by_tokens = []
    for name, tokens in COST.items():
        points = [numbers_of([line.get(tokens), line.get(name)], 2) for line in lines]
        points = sorted({tuple(point) for point in points if point})
        if points:
            by_tokens.append({"name": name, "points": points})
    panels = {
        "accuracy against samples": ("samples, k", curves),
        "accuracy against tokens": ("tokens a question, prompts and answers", by_tokens),
    }
    return [
        {"heading": heading, "x": x, "main": True, "curves": found}
        for heading, (x, found) in panels.items()
        if found
    ]


def figures_of(lines: list[dict], result: dict) -> list[dict]:
    """List the first and the last value of what is measured on held-out questions.

    Without a metrics.jsonl, the figures of result.json.
    Returns [{"name", "first", "last"}, ...]; first is None where there is only one.
    """
    if not lines:
        values = {name: number_of(value) for name, value in result.items()}
        found = {name: [None, value] for name, value in values.items() if value is not None}
    else:
        points = points_of(lines)
        names = [name for name in points if name.startswith("eval/")]
        ends = {name: [points[name][0], points[name][-1]] for name in names}
        found = {
            name: [None if first == last else first[1], last[1]]
            for name, (first, last) in ends.items()
        }
    return [{"name": name, "first": v[0], "last": v[1]} for name, v in found.items()]


# --- views ---


def view(name: str, x: str, frames: list[dict], note: str = "") -> dict:
    """Make a view of frames: [{"at": step, "groups": [...]}, ...]."""
    return {"name": name, "x": x, "note": note, "frames": frames}


def held_out_sets(lines: list[dict]) -> list[str]:
    """List the names of the held-out sets, in the order of --eval-data."""
    names: dict[str, None] = {}
    for line in lines:
        found = [re.fullmatch(r"eval/(.+)/accuracy", name) for name in line]
        names |= {match[1]: None for match in found if match}
    return list(names)


def set_name(names: list[str], number: str) -> str:
    """Name a held-out set by its number."""
    name = names[int(number)] if int(number) < len(names) else f"set {number}"
    return f"held-out: {name}"


def step_in(path: Path) -> int:
    """Read the step at the end of a file's name."""
    return int(path.stem.rpartition("_")[2])


def files_at(folder: Path, pattern: str, last: float | None) -> list[Path]:
    """List the files of steps up to the `last`. A run that went back has left later ones."""
    found = [path for path in folder.glob("*.jsonl") if re.fullmatch(pattern, path.name)]
    found = [path for path in found if last is None or step_in(path) <= last]
    return spread(sorted(found, key=step_in), MOST_FRAMES)


def training_views(
    out: Path, questions: Questions, args: dict, names: list[str], last: float | None
) -> Iterator[dict]:
    """Show what train_grpo.py and train_sft.py leave in samples/."""
    folder, frames = out / "samples", []
    G = args.get("num_generations")
    most = G if isinstance(G, int) else None
    for path in files_at(folder, r"step_\d+\.jsonl", last):
        questions.read(folder / f"questions_{path.name}", path.stem)
        groups = groups_of(questions, lines_of(path), path.stem, answers.of_training, most)
        frames.append({"at": step_in(path), "groups": groups})
    if frames:
        yield view("samples of training", "step", frames)
    found = [re.match(r"eval_(\d+)_", path.name) for path in folder.glob("eval_*.jsonl")]
    for number in sorted({match[1] for match in found if match}, key=int):
        name = f"eval_{number}"
        kept = questions.read(folder / f"questions_{name}.jsonl", name)
        frames = []
        for path in files_at(folder, rf"{name}_.*_\d+\.jsonl", last):
            lines = lines_of(path)[: kept or MOST_QUESTIONS]
            groups = groups_of(questions, lines, name, answers.of_training, 1)
            frames.append({"at": step_in(path), "groups": groups})
        if frames:
            yield view(set_name(names, number), "step", frames)


def iterations_of(out: Path) -> list[tuple[int, Path]]:
    """List the iterations of a self-training run: (number, folder)."""
    found = [path for path in out.glob("iteration-*") if re.fullmatch(r"iteration-\d+", path.name)]
    return sorted((int(path.name.split("-")[1]), path) for path in found)


def iteration_views(out: Path, questions: Questions, names: list[str]) -> Iterator[dict]:
    """Show what selftrain.py and train_dpo.py leave in iteration-*/."""
    pools, learned, held_out = [], [], {}
    for t, folder in spread(iterations_of(out), MOST_FRAMES):
        kept = questions.read(folder / "questions_pool.jsonl", "pool")
        files = ("pool.jsonl", "pool_instructed.jsonl", "hinted.jsonl")
        pools.append((t, pool_groups(questions, [folder / name for name in files], "pool", kept)))
        learned.append((t, learned_groups(questions, lines_of(folder / "train.jsonl"))))
        for path in folder.glob("eval_*_greedy.jsonl"):
            number = path.name.split("_")[1]
            if number.isdecimal():
                groups = evaluated_groups(out, folder, questions, number)
                held_out.setdefault(number, []).append((t, groups))
    views = {"pool: samples of the training questions": pools, "learned from": learned}
    views |= {set_name(names, number): held_out[number] for number in sorted(held_out, key=int)}
    for name, shown in views.items():
        frames = [{"at": t, "groups": groups} for t, groups in shown if groups]
        if frames:
            note = f"the first {MOST_ITEMS} of each kind" if shown is learned else ""
            yield view(name, "iteration", frames, note)


def pool_groups(
    questions: Questions, files: list[Path], name: str, kept: int, kinds: list[str] | None = None
) -> list[dict]:
    """Show the lines of an iteration's files about the first `kept` questions."""
    groups: dict[int, dict] = {}
    for path, kind in zip(files, kinds or [""] * len(files)):
        lines = lines_of(path)
        for line in lines:
            line["read"] = line.pop("answer", None)  # not the gold answer, as in other files
        ids = list(dict.fromkeys(text_of(line.get("id")) for line in lines))
        first = set(ids[: kept or MOST_QUESTIONS])
        lines = [line for line in lines if text_of(line.get("id")) in first]
        for group in groups_of(questions, lines, name, partial(answers.of_pool, kind=kind)):
            place = group["question"]
            groups.setdefault(place, {"question": place, "answers": []})
            groups[place]["answers"] += group["answers"]
    return list(groups.values())


def evaluated_groups(out: Path, folder: Path, questions: Questions, number: str) -> list[dict]:
    """Show the greedy, sampled and selected answers to a held-out set after an iteration."""
    name = f"eval_{number}"
    kept = questions.read(out / "samples" / f"questions_{name}.jsonl", name)
    files = [folder / f"{name}_{kind}.jsonl" for kind in ("greedy", "samples", "selected")]
    return pool_groups(questions, files, name, kept, ["greedy", "sample", "selected"])


def learned_groups(questions: Questions, lines: list[dict]) -> list[dict]:
    """Show what an iteration learns from: the first MOST_ITEMS of each kind of item or pair."""
    counts: Counter = Counter()
    groups = []
    for line in lines:
        kind = answers.kind_of(line)
        counts[kind] += 1
        if counts[kind] > MOST_ITEMS:
            continue
        about = {name: line[name] for name in ("id", "question") if name in line}
        kept = questions.kept_of(line, "pool")
        shown = {"question": questions.place(about, "pool")}
        shown["answers"] = answers.of_item(line, kept)
        if line.get("prompt"):
            shown["prompt"] = text_of(line["prompt"])
        groups.append(shown)
    return groups


def evaluation_view(out: Path, questions: Questions, result: dict) -> Iterator[dict]:
    """Show what evaluate.py leaves: the first predictions, and those that are disputed."""
    lines = lines_of(out / "predictions.jsonl")
    kept = questions.read(out / "samples" / "questions_answers.jsonl", "answers")
    most = kept or MOST_QUESTIONS
    disputed = [line for line in lines[most:] if is_disputed(line)]
    groups = []
    for line in lines[:most] + disputed[:MOST_QUESTIONS]:
        group = {"question": questions.place(line, "answers")}
        group["answers"] = answers.of_prediction(line, questions.kept_of(line, "answers"))
        if is_disputed(line):
            group["disputed"] = True
        groups.append(group)
    if groups:
        note = f"{len(groups)} of {len(lines)} questions" if len(groups) < len(lines) else ""
        name = f"answers: {text_of(result['data'])}" if "data" in result else "answers"
        yield view(name, "", [{"at": 0, "groups": groups}], note)


def made_view(out: Path, questions: Questions) -> Iterator[dict]:
    """Show what distill.py leaves: the first records that it kept, and those that it left out."""
    groups = []
    total = 0
    for name in ("distilled.jsonl", "rejected.jsonl"):
        lines = lines_of(out / name)
        total += len(lines)
        for line in lines[:MOST_QUESTIONS]:
            about, made = answers.of_made(line)
            pictures = line.get("images") or line.get("image")
            first = pictures[0] if isinstance(pictures, list) else pictures
            if isinstance(first, str):
                about["picture"] = answers.small_picture(out / first, out)
            groups.append({"question": questions.place(about, "made"), "answers": made})
    if groups:
        note = f"{len(groups)} of {total} records" if len(groups) < total else ""
        yield view("made: kept, then left out", "", [{"at": 0, "groups": groups}], note)


def is_disputed(line: dict) -> bool:
    """Tell whether our rule and the published one differ about a prediction."""
    ours, theirs = number_of(line.get("accuracy")), number_of(line.get("accuracy_original"))
    return theirs is not None and ours != theirs


def fit(views: list[dict]) -> None:
    """Thin the frames of each view, then their questions, until all answers fit ANSWER_BYTES."""
    room = ANSWER_BYTES // max(1, len(views))
    for each in views:
        frames, count = each["frames"], len(each["frames"])
        sizes = {frame["at"]: len(json.dumps(frame)) for frame in frames}
        while len(frames) > 2 and sum(sizes[frame["at"]] for frame in frames) > room:
            frames = spread(frames, max(2, len(frames) // 2))
        if len(frames) < count:
            each["note"] = f"{len(frames)} of {count} {each['x']}s: there is no room for more"
        for frame in frames:
            groups, share = frame["groups"], room // len(frames)
            while len(groups) > 1 and len(json.dumps(groups)) > share:
                groups = groups[: len(groups) // 2]
                each["note"] = "some questions are omitted: there is no room for them"
            frame["groups"] = groups
        each["frames"] = frames


# --- the whole run ---


def notes_of(out: Path, script: str, views: list[dict], questions: Questions) -> list[str]:
    """Say what a page lacks, and what to type."""
    shown = any(question["picture"] for question in questions.lines)
    if not views and script == "distill.py":
        return ["Nothing has been made yet. When distill.py has ended, make this page again."]
    if not views:
        return [
            "No answers are here yet: a run keeps some at each evaluation and each save, and then "
            f"writes this page anew. To make it now, type: python -m plumbing.report {out}"
        ]
    if not shown and not questions.kept and script != "distill.py":
        again = f"python evaluate.py --model {out} --data NAME --output-dir {out}-eval"
        if script == "evaluate.py":
            again = f"the command above, with --output-dir {out}-2"
        kept = "This run kept no pictures, as those of earlier versions."
        return [f"{kept} To see a model's answers beside their pictures, type: {again}"]
    return []


def run_data(out: Path, label: str) -> tuple[dict, dict[str, str]]:
    """Read a run's directory: (what the page shows, {hash: picture as a data URL}).

    label: what the page calls the run.
    """
    args, result = record_of(out / "args.json"), record_of(out / "result.json")
    lines = lines_of(out / "metrics.jsonl")
    is_by_iteration = args.get("script") in BY_ITERATION
    x = "iteration" if is_by_iteration else "step"
    steps = [number_of(line.get("step")) for line in lines]
    last = max((step for step in steps if step is not None), default=None)
    questions, names = Questions(), held_out_sets(lines)
    views = list(training_views(out, questions, args, names, last))
    views += iteration_views(out, questions, names)
    views += evaluation_view(out, questions, result)
    views += made_view(out, questions)
    fit(views)
    curves = curves_of(lines, x) + scaling_curves(lines_of(out / "scaling.jsonl"))
    for t, folder in spread(iterations_of(out), 4):
        curves += curves_of(lines_of(folder / "metrics.jsonl"), "step", f"iteration {t}: ")
    argv, versions = args.get("argv"), args.get("versions")
    shown = {
        "label": label,
        "script": text_of(args.get("script")),
        "argv": [text_of(word) for word in argv] if isinstance(argv, list) else [],
        "commit": text_of(args.get("commit")),
        "versions": texts_of(versions if isinstance(versions, dict) else {}),
        "flags": texts_of({name: v for name, v in args.items() if name not in NOT_FLAGS}),
        "x": x,
        "last": last,
        "end": number_of(args.get("iterations" if is_by_iteration else "max_steps")),
        "figures": figures_of(lines, result),
        "curves": curves,
        "views": views,
        "questions": questions.lines,
        "pictures_omitted": questions.omitted,
        "notes": notes_of(out, text_of(args.get("script")), views, questions),
    }
    return shown, questions.pictures


def texts_of(values: dict) -> dict[str, str]:
    """Write values as texts; of a list, each."""
    shown = {}
    for name, value in values.items():
        words = value if isinstance(value, list) else [value]
        shown[text_of(name)] = " ".join(map(text_of, words))
    return shown
