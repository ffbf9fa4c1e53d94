"""MATH-Vision (arXiv:2402.14804): problems of competitions, each with one picture."""

from tasks import marks, record_fields
from tasks.option_texts import with_choices
from tasks.protocol import Protocol

SAMPLE = {
    "id": "4",
    "question": "How many different digits can you find in this picture?\n<image1>",
    "options": [],
    "image": "images/4.jpg",
    "decoded_image": {"bytes": b"..."},
    "answer": "6",
    "solution": None,
    "level": 1,
    "subject": "counting",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row. Its solution, where there is one, stays in meta.

    The picture stands where <image1> does. Where a text has several marks, all are parts of the
    one picture: they stay as the words that they are, and the picture comes first.
    """
    choices = record_fields.choices_of(record, where, "options")
    answer = record_fields.needed(record, "answer", where, (str, int, float))
    text = with_choices(record_fields.needed(record, "question", where), choices, answer)
    picture = record.get("decoded_image") or record_fields.needed(record, "image", where)
    one_place = marks.NUMBERED.findall(text) == ["1"]
    fields = {
        "question": text,
        "marks_are_words": not one_place and bool(marks.NUMBERED.search(text)),
        "images": picture,
        "folders": ("", "..", "images"),
        "answer": answer,
        "choices": choices,
        "id": record.get("id"),
        "task": record.get("subject"),
    }
    meta = record_fields.without(
        record, "id", "question", "options", "image", "decoded_image", "answer"
    )
    return fields, meta


PROTOCOL = Protocol(
    name="mathvision",
    sample=SAMPLE,
    layouts=(({"question", "options", "answer", "level", "subject"}, read),),
)
