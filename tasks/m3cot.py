"""M3CoT: questions with options on science, mathematics and common sense.

The answer is the letter of an option. How its authors asked and scored is not public.
"""

from grading.answers import match_answer
from grading.tags import answer_line
from tasks import record_fields
from tasks.example import Example
from tasks.protocol import Protocol, with_options
from tasks.worked_answers import is_tagged

SAMPLE = {
    "id": "s-1",
    "category": "...",
    "image": {"bytes": b"..."},
    "question": "Which one?",
    "choices": ["a cat", "a dog"],
    "context": "",
    "answer": "B",
    "rationale": "...",
    "domain": "science",
    "topic": "natural-science",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row; context, question and options are put together.

    `rationale` is prose without a marked answer: imitated only if it has answer tags.
    """
    context = str(record.get("context") or "").strip()
    choices = record_fields.choices_of(record, where)
    question = with_options(record_fields.needed(record, "question", where), choices)
    rationale = record.get("rationale")
    fields = {
        "question": f"{context}\n{question}" if context else question,
        "images": record.get("image"),
        "answer": record_fields.needed(record, "answer", where),
        "choices": choices,
        "solution": rationale if is_tagged(rationale) else None,
        "id": record.get("id"),
        "task": record.get("domain"),
    }
    meta = record_fields.without(record, "id", "question", "image", "answer", "choices", "context")
    return fields, meta


def score_line(completion: str, example: Example) -> float:
    """Score 1 for an answer in tags or on a line that matches the gold."""
    return float(match_answer(answer_line(completion), example.answer, example.choices))


PROTOCOL = Protocol(
    name="m3cot",
    sample=SAMPLE,
    layouts=(({"question", "answer", "choices", "rationale", "domain", "topic"}, read),),
    template="option",
    score=score_line,
    on_a_line=True,
    choose=True,
    by=("domain", "topic"),
)
