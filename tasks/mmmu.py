"""MMMU (arXiv:2311.16502): college questions with up to seven pictures in their places."""

from tasks import choice_forms, image_fields, record_fields
from tasks.option_texts import with_choices
from tasks.protocol import Protocol

SAMPLE = {
    "id": "validation_Art_1",
    "question": "Who painted <image 1>?",
    "options": "['Monet', 'Manet', 'Degas', 'Renoir']",
    "explanation": "",
    "image_1": {"bytes": b"..."},
    "image_2": None,
    "img_type": "['Paintings']",
    "answer": "A",
    "topic_difficulty": "Medium",
    "question_type": "multiple-choice",
    "subfield": "Art History",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row: <image 1> in question and options is where `image_1` stands.

    An open question may have several right answers, "['1.06', '1.060']": the first is the gold,
    all are in meta["answers"]. The answers of the split `test` are "?".
    """
    record = image_fields.gathered(record, where)
    choices = record_fields.choices_of(record, where, "options")
    meta = record_fields.without(record, "id", "question", "options", "answer", "images")
    answer = record_fields.text_of(record, ["answer"], where, (str, int, float))
    answer = None if answer == "?" else answer
    answers = choice_forms.listed(answer)
    if isinstance(answers, list) and answers and not choices:
        meta["answers"] = [str(one) for one in answers]
        answer = meta["answers"][0]
    fields = {
        "question": with_choices(record_fields.needed(record, "question", where), choices, answer),
        "images": record.get("images"),
        "answer": answer,
        "choices": choices,
        "id": record.get("id"),
        "task": record.get("subfield"),
    }
    return fields, meta


PROTOCOL = Protocol(
    name="mmmu",
    sample=SAMPLE,
    layouts=(({"question", "options", "image_1", "answer"}, read),),
    template="option",
    choose=True,
)
