"""What an answer scores, alone and among the samples of its question."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import rewards
from grading import boxes, metrics
from grading.answers import choice_index, normalize_answer
from tasks import picture_keys, protocols
from tasks.example import Example

if TYPE_CHECKING:
    from evaluating.ways import Way

LONGEST_NAME = 200  # characters of a picture's name in a saved output


def rule_of(protocol: str | None) -> tuple[metrics.Read, Callable]:
    """Return the rule by which answers are read and scored: read(text), right(text, example)."""
    right = protocols.PROTOCOLS[protocol].score if protocol else rewards.accuracy
    return protocols.reader(protocol), right


def completed(text: str, protocol: str | None) -> str:
    """Put the tags around an answer that was asked for without them: "3" -> "<answer>3</answer>".

    Where answers stand on a line, "Answer: 3".
    """
    if protocol and protocols.PROTOCOLS[protocol].on_a_line:
        return protocols.on_a_line(text, protocol)
    has_tags = "<answer>" in text or "<think>" in text or "</think>" in text
    return text if has_tags or not text.strip() else f"<answer>{text.strip()}</answer>"


def as_read(row: dict, protocol: str | None) -> dict:
    """Complete the answers of a line whose template asks for them without tags."""
    if not row.get("bare"):
        return row
    samples = [completed(text, protocol) for text in row["samples"]]
    selections = {n: completed(text, protocol) for n, text in row.get("selections", {}).items()}
    whole = row | {"prediction": completed(row["prediction"], protocol), "samples": samples}
    return whole | ({"selections": selections} if selections else {})


def selection(record: dict, n: int, protocol: str | None = None) -> str:
    """Return what self-select answered about the first n samples; of one, that one.

    Where answers stand on a line, a bare one will do, as in R3V's targets for ChartQA.
    """
    text = record["selections"].get(str(n), record["samples"][0])
    return protocols.on_a_line(text, protocol) if n > 1 else text


def sampled_scores(
    records: Sequence[dict], examples: Sequence, n: int, protocol: str | None = None
) -> dict:
    """Count one point of the curves: metrics.sampled_scores, read and scored by the protocol."""
    records = [as_read(record, protocol) for record in records]
    read, right = rule_of(protocol)
    selections = None
    if "selections" in records[0]:
        selections = [selection(record, n, protocol) for record in records]
    return metrics.sampled_scores(records, examples, n, read, right, selections)


def row_of(
    example: Example, as_judged: Example, answer: dict, protocol: str | None, bare: bool = False
) -> dict:
    """Make a question's line of predictions.jsonl: what was answered, and what that scores.

    picture: by which lines about the same picture are recognised (tasks/picture_keys.py).
    bare: the answer was asked for without tags, which the line says, too.
    """
    _, right = rule_of(protocol)
    text = answer["prediction"]
    samples = answer["samples"]
    scored = completed(text, protocol) if bare else text
    row = {"id": example.id} | example.asked()
    row |= {
        "picture": " ".join(picture_keys.keys_of(example)) or None,
        "answer": example.answer,
        "choices": example.choices,
        "prediction": text,
    }
    if protocol:
        row |= protocols.score_one(text, as_judged, protocol)
    else:
        row |= rewards.marks(scored, example)
    if bare:
        row |= {"bare": True, "extracted": rule_of(protocol)[0](scored)}
        row["accuracy"] = float(right(scored, as_judged))
        samples = [completed(sample, protocol) for sample in samples]
    row |= {
        "prompt_tokens": answer["prompt_tokens"],
        "tokens": answer["tokens"],
        "samples": answer["samples"],
        "right": [right(sample, as_judged) for sample in samples],
        "sample_tokens": answer["sample_tokens"],
    }
    for name in ("selections", "selection_tokens", "likelihood"):
        if name in answer:
            row[name] = answer[name]
    return row


def picture_named(record: dict) -> dict:
    """Say which picture a saved output is about: what evaluate.py wrote, or else its name."""
    names = ("picture", "image_path", "image")
    found = next((record[name] for name in names if isinstance(record.get(name), str)), "")
    if len(found) > LONGEST_NAME:  # the picture itself, in base64
        found = picture_keys.key_of(found.encode("utf-8", "replace"))
    return {"picture": found} if found else {}


# --- the same question in other ways ---


def add_ways(
    row: dict,
    ways: "Sequence[Way]",
    place: int,
    as_judged: Example,
    answer: dict,
    protocol: str | None,
) -> None:
    """Add to a question's line, under `ways`, what was answered in other ways.

    place: of the question. answer: as Interview.answers gives it.
    """
    for way in ways:
        if way.name in answer["ways"]:
            own = answer["ways"][way.name]
            record = way_record(row, way, place, as_judged, own, protocol)
            row.setdefault("ways", {})[way.name] = record


def way_record(
    row: dict, way: "Way", place: int, as_judged: Example, answer: dict, protocol: str | None
) -> dict:
    """Score what was answered in another way.

    answer: its prediction, prompt_tokens and tokens. Added: its accuracy; what was read; whether
    that is the same answer as in the leading way; of options in another order which of them was
    chosen, by its place as written; and the way's notes.
    """
    read, right = rule_of(protocol)
    judged = as_judged if way.judged is None else way.judged[place]
    text = answer["prediction"]
    scored = completed(text, protocol) if way.bare[place] else text
    record = answer | {"accuracy": float(right(scored, judged))}
    record["read"] = read_text(scored, judged, protocol)
    if way.notes:
        record |= way.notes[place]
    leading = as_read(row, protocol)["prediction"]
    if "order" in record:
        stands_at = chosen_place(read(scored), judged.choices)
        record["chosen"] = None if stands_at is None else record["order"][stands_at]
        as_written = chosen_place(read(leading), row["choices"])
        record["same"] = as_written is not None and as_written == record["chosen"]
    else:
        record["same"] = is_same(leading, scored, as_judged, read)
    return record


def read_text(completion: str, example: Example, protocol: str | None) -> str | None:
    """Read an answer's text; None if it cannot be scored: no boxes, or none of the choices."""
    if protocol:
        readable = protocols.PROTOCOLS[protocol].read(completion, example) is not None
    else:
        has_boxes = rewards.has_boxes(example)
        readable = not has_boxes or boxes.predicted_boxes(completion, example) is not None
    return rule_of(protocol)[0](completion) if readable else None


def chosen_place(answer: str | None, choices: list[str] | None) -> int | None:
    """Find the place of the option that an answer names."""
    return choice_index(answer, choices) if answer and choices else None


def is_same(one: str, other: str, example: Example, read: metrics.Read) -> bool:
    """Tell whether two completions give the same answer; unreadable ones give none.

    Boxes are the same if they match one to one at IoU > 0.5.
    """
    if rewards.has_boxes(example):
        found = [boxes.predicted_boxes(text, example) for text in (one, other)]
        if found[0] is None or found[1] is None:
            return False
        matches = boxes.match_boxes(*found, 0.5)
        return len(found[0]) == len(found[1]) == len(matches)
    answers = [read(one), read(other)]
    if answers[0] is None or answers[1] is None:
        return False
    first, second = (normalize_answer(answer, example.choices) for answer in answers)
    return first == second
