"""SAT (arXiv:2412.07755): where things are, and how they and the camera move. Of the Hub."""

from tasks import image_fields, record_fields
from tasks.option_texts import with_choices
from tasks.protocol import Protocol

SAMPLE = {
    "image_bytes": {"bytes": b"..."},  # or a list of two
    "question": "Is the chair left of the table?",
    "answers": ["yes", "no"],
    "question_type": "obj_movement",
    "correct_answer": "no",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row. Its choices are put in order of their texts, so that no place is the right one.

    That their order in the files says nothing of the answer is not known.
    """
    choices = sorted(record_fields.choices_of(record, where, "answers") or []) or None
    question = record_fields.needed(record, "question", where)
    pictures = image_fields.as_list(record.get("image_bytes"))
    fields = {
        "question": with_choices(question, choices),
        "images": pictures or image_fields.pictures_of(record, where),
        "answer": record_fields.text_of(record, ["correct_answer"], where),
        "choices": choices,
        "id": record.get("id"),
        "task": record.get("question_type"),
    }
    meta = record_fields.without(
        record, "question", "answers", "correct_answer", "image_bytes", *record_fields.IMAGE_KEYS
    )
    return fields, meta


PROTOCOL = Protocol(
    name="sat",
    sample=SAMPLE,
    layouts=(({"question", "answers", "question_type", "correct_answer"}, read),),
    template="option",
    choose=True,
)
