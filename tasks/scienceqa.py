"""ScienceQA (arXiv:2209.09513): school questions with options, half of them with a picture."""

from tasks import image_fields, record_fields
from tasks.gold_keys import right_choice
from tasks.protocol import Protocol, with_options

SAMPLE = {
    "image": {"bytes": b"..."},
    "question": "Which of these states is farthest north?",
    "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
    "answer": 0,
    "hint": "",
    "task": "closed choice",
    "grade": "grade2",
    "subject": "social science",
    "topic": "geography",
    "lecture": "Maps have four cardinal directions.",
    "solution": "To find the answer, look at the compass rose.",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row: its answer is the place of a choice, counted from 0.

    The hint is shown as context, as its authors do. `lecture` and `solution` explain the answer
    without naming it: they stay in meta.
    """
    choices = record_fields.choices_of(record, where)
    question = record_fields.needed(record, "question", where)
    hint = str(record.get("hint") or "").strip()
    if hint:
        question = f"{question}\nContext: {hint}"
    fields = {
        "question": with_options(question, choices),
        "images": image_fields.as_list(record.get("image")),
        "answer": right_choice(record, "answer", choices, where),
        "choices": choices,
        "id": record.get("id"),
        "task": record.get("subject"),
    }
    meta = record_fields.without(record, "image", "question", "choices", "answer", "hint", "id")
    return fields, meta


PROTOCOL = Protocol(
    name="scienceqa",
    sample=SAMPLE,
    layouts=(({"question", "choices", "answer", "hint", "lecture"}, read),),
    template="option",
    choose=True,
)
