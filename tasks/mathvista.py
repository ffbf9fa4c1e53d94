"""MathVista (arXiv:2310.02255): mathematics in charts, figures and photographs.

`query` is what its authors ask: a hint on the form of the answer, the question and the choices.
"""

from tasks import image_fields, record_fields
from tasks.option_texts import with_choices
from tasks.protocol import Protocol

SAMPLE = {
    "pid": "2",
    "question": "What is the missing number?",
    "image": "images/2.jpg",
    "decoded_image": {"bytes": b"..."},
    "choices": None,
    "unit": None,
    "precision": 1.0,
    "answer": "2",
    "question_type": "free_form",
    "answer_type": "integer",
    "metadata": {"task": "math word problem", "category": "general-vqa"},
    "query": "Hint: Please answer the question requiring an integer answer and provide the final "
    "value, e.g., 1, 2, 3, at the end.\nQuestion: What is the missing number?",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row. The answers of the split `test` are empty."""
    choices = record_fields.choices_of(record, where)
    told = record if image_fields.has_content(record.get("answer")) else {}
    answer = record_fields.text_of(told, ["answer"], where, (str, int, float))
    question = record_fields.text_of(record, ["query"], where)
    if question is None:
        question = with_choices(record_fields.needed(record, "question", where), choices, answer)
    metadata = record.get("metadata")
    fields = {
        "question": question,
        "images": record.get("decoded_image") or record_fields.needed(record, "image", where),
        "answer": answer,
        "choices": choices,
        "id": record.get("pid"),
        "task": metadata.get("task") if isinstance(metadata, dict) else None,
    }
    meta = record_fields.without(
        record, "query", "decoded_image", "image", "answer", "choices", "pid", "id"
    )
    return fields, meta


PROTOCOL = Protocol(
    name="mathvista",
    sample=SAMPLE,
    layouts=(({"pid", "question", "answer_type", "precision"}, read),),
)
