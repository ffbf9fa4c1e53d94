"""Score answers as a published evaluation does: by our rule and by its authors' rule.

    to_examples(places_and_records, name) -> pairs      saved outputs as (completion, example)
    score(pairs, name) -> (result, rows)                their figures

Ours reads the answer and nothing else; what cannot be read is wrong and never guessed. The
authors' rules keep their bugs, and give 0 where they would raise: they reproduce published
figures, and train nothing.
"""

from collections.abc import Callable, Iterable

import rewards
from grading import metrics
from grading.answers import extract_answer, undecided
from plumbing.errors import UserError
from plumbing.text import cut
from tasks.example import Example
from tasks.outputs import json_value, to_example
from tasks.protocol import Protocol, mean
from tasks.published import PROTOCOLS

Pair = tuple[str, Example]  # (completion, example)
# Figures of `totals` that are printed.
FIGURES = (
    *("mean_iou", "mAP", "AP50", "cvbench", "cvbench_2d", "cvbench_3d"),
    *("circular", "circular_original"),
)


# --- examples that a protocol can score ---


def to_examples(
    records: Iterable[tuple[str, dict]], protocol: str, box_format: str | None = None
) -> list[Pair]:
    """Make (completion, example) of saved outputs.

    records: (place, record) each, the place as a person finds it: "outputs.jsonl:3".
    UserError, beginning with the place, for a record that the protocol cannot score.
    """
    pairs, unnamed, units = [], [], {}
    for place, record in records:
        try:
            pair = to_example(record, PROTOCOLS[protocol], box_format)
        except ValueError as error:
            reason = cut(" ".join(str(error).split()), 300)
            raise UserError(cut(f"{place}: {reason}")) from None
        pairs.append(pair)
        if not (box_format or record.get("box_format")):  # one is assumed
            units.setdefault(pair[1].meta["box_format"], place)
        if not names_its_classes(pair[1], PROTOCOLS[protocol]):
            unnamed.append(place)
    if PROTOCOLS[protocol].boxes and len(units) > 1:
        (one, first), (other, place) = list(units.items())[:2]
        raise UserError(
            f"{place}: its boxes would be read in {other}, those of {first} in {one}, for only "
            "some records have `size` or `resized`; give them to all, or say --box-format"
        )
    if 0 < len(unnamed) < len(pairs):
        raise UserError(
            f"{unnamed[0]}: which category is it? Other records name one. "
            "Add `category`, or a `label` to every gold box"
        )
    return pairs


def names_its_classes(example: Example, protocol: Protocol) -> bool:
    """Tell whether a detection query names its category, or its gold boxes their labels."""
    if not protocol.boxes or protocol.unlabelled or example.meta["category"]:
        return True
    boxes = example.meta["boxes"]
    return bool(boxes) and all(box["label"] for box in boxes)


def judged(examples: list[Example], protocol: str | None) -> list[Example]:
    """Make examples of a data set ones that the protocol scores. UserError if it cannot.

    Without a protocol they stay.
    """
    if not protocol:
        return examples
    records = []
    for example in examples:
        record = {
            **example.meta,
            "id": example.id,
            "question": example.question,
            "answer": example.answer,
            "choices": example.choices,
            "task": example.task,
            "prediction": "",
        }
        records.append((f"{example.source} does not suit --protocol {protocol}", record))
    return [example for _, example in to_examples(records, protocol)]


# --- reading and scoring one answer ---


def reader(protocol: str | None) -> Callable[[str], str | None]:
    """Return text -> its answer, as the protocol reads it, or in tags without one."""
    return PROTOCOLS[protocol].body if protocol else extract_answer


def on_a_line(text: str, protocol: str | None) -> str:
    """Complete a selection for a protocol of answer lines: "14" is "Answer: 14"."""
    if not protocol or not PROTOCOLS[protocol].on_a_line:
        return text
    bare = PROTOCOLS[protocol].body(text) is None
    return f"Answer: {text.strip()}" if bare else text


def scorer(protocol: str | None) -> Callable[[str, Example], tuple[str | None, bool]]:
    """Return (text, example) -> (its answer, whether it is right).

    By the protocol, or else by the accuracy reward.
    """
    read = reader(protocol)

    def score_text(text: str, example: Example) -> tuple[str | None, bool]:
        """Read and score one text."""
        if not example.answer:  # DropoutNTP's examples have no gold: all that ends is right
            return text, True
        if not protocol:
            return read(text), bool(rewards.accuracy(text, example))
        [as_judged] = judged([example], protocol)
        return read(text), bool(PROTOCOLS[protocol].score(text, as_judged))

    return score_text


# --- scoring a set ---


def score(
    pairs: list[Pair], protocol: str, progress: Callable[[list], Iterable] = iter
) -> tuple[dict, list[dict]]:
    """Score what to_examples gives: (result, rows) as of `totals` and `score_one`.

    progress: wraps the list that is worked through, such as tqdm.
    """
    rows = [score_one(completion, example, protocol) for completion, example in progress(pairs)]
    return totals(rows, protocol), rows


def score_one(completion: str, example: Example, protocol: str) -> dict:
    """Score one answer: `accuracy` by our rule, `accuracy_original` by the authors'.

    extracted: what was read, None for a parse failure. undecided: ours could not decide.
    needs_judge: the authors would ask an LLM; their rules alone count it as wrong.
    """
    recipe = PROTOCOLS[protocol]
    row = {"line": example.meta["line"]} if "line" in example.meta else {}
    row |= {
        "id": example.id,
        "question": example.question,
        "answer": example.answer,
        "choices": example.choices,
        "prediction": completion,
    }
    for name in recipe.by:
        if example.meta.get(name) is not None:
            row[name] = json_value(example.meta[name])
    more = recipe.more_fields(example.meta)
    row |= {name: json_value(value) for name, value in more.items()}
    undecided_before = undecided()
    row["extracted"] = recipe.read(completion, example)
    row["accuracy"] = recipe.score(completion, example)
    row["undecided"] = undecided() > undecided_before
    if recipe.boxes:
        row["boxes"] = example.meta["boxes"]
        row["box_format"] = example.meta["box_format"]
        row["iou"] = rewards.REWARDS["iou"](completion, example)
    if recipe.published_score:
        row["original_timeout"] = False
        try:
            row["accuracy_original"] = recipe.published_score(completion, example)
        except TimeoutError:
            row["accuracy_original"] = 0.0
            row["original_timeout"] = True
    if recipe.judge_steps:
        row["needs_judge"] = recipe.judge_steps[0](completion, example) is not None
    if recipe.also_published:
        row[also_name(recipe)] = recipe.also_published(completion, example)
    return row


def also_name(recipe: Protocol) -> str:
    """Name the figure of a second published score."""
    return f"accuracy_{recipe.also_published.__name__}"


def totals(rows: list[dict], protocol: str) -> dict:
    """Sum up the rows of a set.

    accuracy is by our rule, with a 95 % interval; accuracy_parsed is of what could be read.
    accuracy_original is by the authors' rule, a late comparison counted as 0.
    by: accuracy and n of the rows with each value of a field.
    needs_judge: how many answers its authors would give to an LLM.
    """
    more = PROTOCOLS[protocol].totals(rows)  # first: it may set accuracy_original in the rows
    recipe, n, right = PROTOCOLS[protocol], len(rows), sum(row["accuracy"] for row in rows)
    failures = sum(row["extracted"] is None for row in rows)
    result = {
        "protocol": protocol,
        **metrics.share("accuracy", right, n),
        "accuracy_parsed": right / max(1, n - failures),
        "parse_failures": failures,
        "undecided": sum(row["undecided"] for row in rows),
    }
    if recipe.boxes:
        result["box_format"] = ", ".join(sorted({row["box_format"] for row in rows}))
    if recipe.published_score:
        result |= {
            "original": recipe.published_score.__name__,
            "accuracy_original": mean(rows, "accuracy_original"),
            "original_timeouts": sum(row["original_timeout"] for row in rows),
            "disagreements": len(disagreements(rows)),
        }
    if recipe.also_published:
        result[also_name(recipe)] = mean(rows, also_name(recipe))
    if recipe.judge_steps:
        result["needs_judge"] = sum(row["needs_judge"] for row in rows)
    result |= more
    by = {name: accuracy_by(rows, name) for name in recipe.by}
    by = {name: parts for name, parts in by.items() if parts}
    return result | ({"by": by} if by else {})


def accuracy_by(rows: list[dict], name: str) -> dict:
    """Compute accuracy, the original one if there is one, and n for each value of a field."""
    parts = {value: [] for value in sorted({str(row[name]) for row in rows if name in row})}
    for row in rows:
        if str(row.get(name)) in parts:
            parts[str(row.get(name))].append(row)
    figures = {}
    for value, part in parts.items():
        figures[value] = {"accuracy": mean(part)}
        if "accuracy_original" in part[0]:
            figures[value]["accuracy_original"] = mean(part, "accuracy_original")
        figures[value]["n"] = len(part)
    return figures


def disagreements(rows: list[dict]) -> list[dict]:
    """Find the rows on which our rule and the authors' differ, but those left to an LLM."""
    decided = [row for row in rows if not row.get("needs_judge")]
    scored_twice = [row for row in decided if "accuracy_original" in row]
    return [row for row in scored_twice if row["accuracy"] != row["accuracy_original"]]
