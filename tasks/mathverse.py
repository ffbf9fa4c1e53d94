"""MathVerse (arXiv:2403.14624): one problem with more and more of its words in the picture.

`query_cot` is what its authors ask a model that reasons; `question` is empty where the picture
holds all words.
"""

from tasks import record_fields
from tasks.protocol import Protocol

SAMPLE = {
    "sample_index": "1",
    "problem_index": "1",
    "problem_version": "Text Dominant",
    "question": "As shown in the figure, find angle 1.\nChoices:\nA:35°\nB:55°",
    "image": {"bytes": b"..."},
    "answer": "B",
    "question_type": "multi-choice",
    "metadata": {"subject": "Plane Geometry"},
    "query_wo": "Please directly answer the question.\nQuestion: ...",
    "query_cot": "Please first conduct reasoning, and then answer the question.\nQuestion: ...",
    "question_for_eval": "...",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row."""
    fields = {
        "question": record_fields.needed(record, "query_cot", where),
        "images": record.get("image"),
        "folders": ("", "images"),
        "answer": record_fields.needed(record, "answer", where),
        "id": record.get("sample_index"),
        "task": record.get("problem_version"),
    }
    return fields, record_fields.without(record, "query_cot", "image", "answer", "sample_index")


PROTOCOL = Protocol(
    name="mathverse",
    sample=SAMPLE,
    layouts=(({"problem_version", "query_cot", "question", "answer"}, read),),
)
