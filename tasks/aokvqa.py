"""A-OKVQA: questions about photographs that need knowledge of the world.

Of the Hub, with pictures, or its authors' aokvqa_v1p0_*.json, beside COCO's pictures.
"""

from typing import Any

from plumbing.errors import UserError
from tasks import record_fields
from tasks.gold_keys import right_choice
from tasks.option_texts import with_choices
from tasks.protocol import Protocol

SAMPLE = {
    "image": {"bytes": b"..."},
    "question_id": "22MexNkBPpdZGX6sxbxVBH",
    "question": "What is the man by the bags awaiting?",
    "choices": ["skateboarder", "train", "delivery", "cab"],
    "correct_choice_idx": 3,
    "direct_answers": "['ride', 'ride', 'bus', 'taxi', 'travelling']",
    "difficult_direct_answer": False,
    "rationales": ["A train would not be on the street."],
}

COCO = ("train2017", "val2017", "test2017")
FOLDERS = ("", "images", *COCO, *(f"coco/{folder}" for folder in COCO))


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row. The rationales have no marked answer: they stay in meta."""
    choices = record_fields.choices_of(record, where)
    answer = right_choice(record, "correct_choice_idx", choices, where)
    fields = {
        "question": with_choices(record_fields.needed(record, "question", where), choices),
        "images": record.get("image") or name_in_coco(record.get("image_id"), where),
        "folders": FOLDERS,
        "answer": answer,
        "choices": choices,
        "id": record.get("question_id"),
        "task": record.get("task"),
    }
    meta = record_fields.without(
        record, "question", "image", "choices", "correct_choice_idx", "question_id"
    )
    return fields, meta


def name_in_coco(image_id: Any, where: str) -> str:
    """Name COCO's picture of a number: 299207 -> "000000299207.jpg"."""
    if not isinstance(image_id, int) or isinstance(image_id, bool):
        raise UserError(
            f"{where}: no picture; expected `image`, or `image_id`, the number of one of COCO's; "
            "name the picture, or delete the record"
        )
    return f"{image_id:012d}.jpg"


PROTOCOL = Protocol(
    name="aokvqa",
    sample=SAMPLE,
    layouts=(({"question", "choices", "direct_answers"}, read),),
    template="option",
    choose=True,
)
