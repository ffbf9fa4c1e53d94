"""`evaluate.py --judge`: a language model's verdict on answers, beside the rule's.

It rates open answers by LAVE. Where a protocol's authors ask a model to extract or compare answers,
it is asked what they ask instead. A judge is a teacher (teachers.py): a checkpoint, or a server,
which is asked again when it fails. Its replies are kept as they come: none is paid for twice.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from distilling import asking
from distilling.stages import Request
from evaluating.scoring import as_read, rule_of
from grading import clusters, lave, metrics
from grading.metrics import mean
from plumbing import disk
from plumbing.errors import UserError
from tasks.example import Example
from tasks.marks import MARK
from tasks.protocols import PROTOCOLS

REPLIES = "judge{}.jsonl"  # of a protocol's steps each has its own
MOST_TOKENS = 512  # of a rating with its rationale; the paper's judges had 100


def has_steps(protocol: str | None) -> bool:
    """Tell whether a protocol's authors ask a model about answers."""
    return bool(protocol and PROTOCOLS[protocol].judge_steps)


def make_judge(args: argparse.Namespace, examples: Sequence[Example]) -> object | None:
    """Make the judge that --judge names; None without one.

    UserError if it cannot be loaded or reached, or would have nothing to rate.
    """
    if not args.judge:
        return None
    if not has_steps(args.protocol):
        must_be_open(examples)
    import teachers  # and torch, which saved outputs are scored without

    own = {"max_completion_length": MOST_TOKENS}
    return teachers.make_teacher(argparse.Namespace(**vars(args) | own), "judge")


def ask(path: Path, stage: str, judge: object, texts: dict[str, str]) -> dict[str, dict]:
    """Ask a judge each text: {key: line} of docs/distill.md, `text` being the reply.

    `failed` says why there is none, where a server gave up. Replies that `path` holds are kept.
    """
    requests = {
        key: Request(stage, [{"role": "user", "content": text}]) for key, text in texts.items()
    }
    asked = {key: Example(key, [], text, "") for key, text in texts.items()}
    return asking.run_stage(path, stage, judge, asked, requests, seed=0)


# --- LAVE ---


def is_open(example: Example) -> bool:
    """Tell whether a question is answered in one's own words: no options, no boxes."""
    return bool(example.answer) and not example.choices and "boxes" not in example.meta


def must_be_open(examples: Sequence[Example]) -> None:
    """Refuse questions none of which a judge would rate. UserError."""
    if not any(map(is_open, examples)):
        raise UserError(
            "--judge rates open answers, and every question has choices or boxes, which the rule "
            "scores; omit it"
        )


def references_of(example: Example) -> list[str]:
    """List the gold answers of a question: all annotators', where the record has them."""
    given = example.meta.get("answers")
    listed = given if isinstance(given, list) else []
    known = []
    for item in listed:
        text = item.get("answer") if isinstance(item, dict) else item
        if isinstance(text, str) and text.strip():
            known.append(text)
    return known or [example.answer]


def candidate_of(row: dict, protocol: str | None) -> str:
    """Return what is rated: the answer that the rule reads, else the whole text."""
    text = as_read(row, protocol)["prediction"]
    read, _ = rule_of(protocol)
    return read(text) or text


def judge_all(
    judge: object | None,
    out: Path,
    rows: Sequence[dict],
    examples: Sequence[Example],
    protocol: str | None,
    result: dict,
    write: Callable[[list[dict]], None],
) -> None:
    """Ask the judge about all answers, if there is one; write and print what it said.

    result: what result.json says already, and says still if the judge is gone for good.
    write(rows): writes predictions.jsonl.
    """
    if judge is None:
        return
    says = by_protocol if has_steps(protocol) else rate
    judged, found = says(out, judge, rows, examples, protocol)
    write(judged)
    disk.write_json(out / "result.json", result | found)
    show(found)


def rate(
    out: Path,
    judge: object,
    rows: Sequence[dict],
    examples: Sequence[Example],
    protocol: str | None,
) -> tuple[list[dict], dict]:
    """Have open answers rated: (the rows with what the judge said, the figures).

    rows: of predictions.jsonl; `lave`, `lave_rating` and `lave_reply` are added where a question is
    open, None where the judge gave no rating. Their accuracy stays as it is.
    """
    texts = {}
    for number, (row, example) in enumerate(zip(rows, examples)):
        if is_open(example):
            question = example.question.replace(MARK, "").strip()
            text = lave.prompt(question, references_of(example), candidate_of(row, protocol))
            texts[f"{number} {example.id}"] = text
    lines = ask(out / REPLIES.format(""), "lave", judge, texts)
    rated = list(rows)
    for key, line in lines.items():
        number = int(key.partition(" ")[0])
        rating = None if line["failed"] else lave.rating(line["text"])
        rated[number] = rows[number] | {
            "lave": None if rating is None else lave.score(rating),
            "lave_rating": rating,
            "lave_reply": None if line["failed"] else line["text"],
        }
    return rated, figures(rated, judge.name) | {"lave_asked": len(texts)}


def figures(rows: Sequence[dict], name: str) -> dict:
    """Sum up what a judge said of the rows.

    lave: the mean score of the rated answers, with _low and _high (95 %, bootstrap by picture).
    lave_unparsable, lave_failed: replies without a rating, and answers without a reply.
    lave_original: the mean of all replies as the authors' program scores them, 0.5 if unreadable.
    lave_lenient: wrong by the rule, 3 by the judge. lave_strict: right by the rule, 1 by the judge.
    """
    asked = [row for row in rows if "lave_rating" in row]
    rated = [row for row in asked if row["lave_rating"]]
    replies = [row["lave_reply"] for row in asked if row["lave_reply"] is not None]
    found = {
        "judge": name,
        "lave_n": len(rated),
        "lave_unparsable": len(replies) - len(rated),
        "lave_failed": len(asked) - len(replies),
        "lave_lenient": sum(row["lave_rating"] == 3 and row["accuracy"] == 0 for row in rated),
        "lave_strict": sum(row["lave_rating"] == 1 and row["accuracy"] == 1 for row in rated),
    }
    if replies:
        found["lave_original"] = mean([lave.score_original(reply) for reply in replies])
    if rated:
        scores = [row["lave"] for row in rated]
        pictures = clusters.pictures_of(rated)
        found["lave"] = mean(scores)
        found["lave_low"], found["lave_high"] = clusters.bootstrap(scores, pictures)
        found["lave_rule"] = mean([row["accuracy"] for row in rated])
    return clusters.known(found)


# --- what a protocol's authors ask ---


def by_protocol(
    out: Path,
    judge: object,
    rows: Sequence[dict],
    examples: Sequence[Example],
    protocol: str,
) -> tuple[list[dict], dict]:
    """Score answers as a protocol's authors do, with a model: (the rows, the figures).

    `accuracy_judged` is added to each row: what the last reply says, or the authors' rules where
    these decide; None where a reply is missing or says nothing. A row is scored by itself: of sets
    that count several rows together, accuracy_judged does not.
    """
    recipe = PROTOCOLS[protocol]
    said = [as_read(row, protocol)["prediction"] for row in rows]
    scores: list[float | None] = [None] * len(rows)
    waiting = list(range(len(rows)))
    failed = 0
    for number, step in enumerate(recipe.judge_steps, 1):
        asked = {place: step(said[place], examples[place]) for place in waiting}
        for place, text in asked.items():
            if text is None:  # their rules decide
                scores[place] = recipe.published_score(rows[place]["prediction"], examples[place])
        keys = {place: f"{place} {examples[place].id}" for place, text in asked.items() if text}
        texts = {key: asked[place] for place, key in keys.items()}
        lines = ask(out / REPLIES.format(f"_{number}"), f"step {number}", judge, texts)
        waiting = [place for place, key in keys.items() if not lines[key]["failed"]]
        failed += len(keys) - len(waiting)
        for place in waiting:
            said[place] = lines[keys[place]]["text"]
    unparsable = 0
    for place in waiting:
        try:
            scores[place] = recipe.judge_score(said[place], examples[place])
        except ValueError:
            unparsable += 1
    decided = [score for score in scores if score is not None]
    found = {
        "judge": judge.name,
        "judge_unparsable": unparsable,
        "judge_failed": failed,
        "accuracy_judged_n": len(decided),
    }
    if decided:
        found |= metrics.share("accuracy_judged", sum(decided), len(decided))
        del found["n"]
    judged = [row | {"accuracy_judged": score} for row, score in zip(rows, scores)]
    return judged, found


def show(result: dict) -> None:
    """Print what a judge said."""
    if "accuracy_judged_n" in result:
        if "accuracy_judged" in result:
            print(
                f"as the authors score, with {result['judge']}: {result['accuracy_judged']:.4f} of "
                f"{result['accuracy_judged_n']}, 95 % interval {result['accuracy_judged_low']:.4f} "
                f"to {result['accuracy_judged_high']:.4f}"
            )
        print(
            f"  {result['judge_unparsable']} replies could not be read and "
            f"{result['judge_failed']} were not given"
        )
        return
    if result["lave_n"]:
        interval = "of one picture, so without an interval"
        if result["lave_low"] is not None:
            interval = f"95 % interval {result['lave_low']:.3f} to {result['lave_high']:.3f}"
        print(
            f"LAVE by {result['judge']}: {result['lave']:.3f}, {interval}, of {result['lave_n']} "
            f"rated answers; the rule gives these {result['lave_rule']:.3f}"
        )
        print(
            f"  correct by the judge and wrong by the rule: {result['lave_lenient']}; wrong by the "
            f"judge and right by the rule: {result['lave_strict']}"
        )
    else:
        print(f"LAVE by {result['judge']}: no answer was rated")
    print(
        f"  of {result['lave_asked']} open answers {result['lave_unparsable']} ratings could not "
        f"be read and {result['lave_failed']} were not given"
    )
