"""What an answer scores, alone and among the samples of its question."""

from collections.abc import Callable, Sequence

import rewards
from grading import metrics
from tasks import protocols
from tasks.example import Example


def judge_of(protocol: str | None) -> tuple[metrics.Read, Callable]:
    """Return how answers are read and scored: read(text), right(text, example)."""
    right = protocols.PROTOCOLS[protocol].score if protocol else rewards.accuracy
    return protocols.reader(protocol), right


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
    read, right = judge_of(protocol)
    selections = None
    if "selections" in records[0]:
        selections = [selection(record, n, protocol) for record in records]
    return metrics.sampled_scores(records, examples, n, read, right, selections)


def row_of(example: Example, as_judged: Example, answer: dict, protocol: str | None) -> dict:
    """Make a question's line of predictions.jsonl: what was answered, and what that scores."""
    _, right = judge_of(protocol)
    text = answer["prediction"]
    row = {"id": example.id} | example.asked()
    row |= {
        "answer": example.answer,
        "choices": example.choices,
        "prediction": text,
    }
    if protocol:
        row |= protocols.score_one(text, as_judged, protocol)
    else:
        row |= rewards.marks(text, example)
    row |= {
        "prompt_tokens": answer["prompt_tokens"],
        "tokens": answer["tokens"],
        "samples": answer["samples"],
        "right": [right(sample, as_judged) for sample in answer["samples"]],
        "sample_tokens": answer["sample_tokens"],
    }
    for name in ("selections", "selection_tokens"):
        if name in answer:
            row[name] = answer[name]
    return row
