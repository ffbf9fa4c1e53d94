"""CLEVR-Math, as R3V asks it. It is trained on; no evaluation of it is published."""

from tasks import record_fields
from tasks.protocol import Protocol

SAMPLE = {
    "image": "CLEVR_train_006841.png",
    "conversations": [
        {
            "from": "user",
            "value": "Add 1 matte cubes. How many matte cubes exist?\n"
            "Answer the question using a single numerical value (0-10).",
        },
        {"from": "assistant", "value": "3"},
    ],
}

SAMPLE_OF_THE_HUB = {
    "template": "subtraction",
    "id": "general-0",
    "question": "Subtract all gray cubes. How many red cylinders are left?",
    "image": {"bytes": b"..."},
    "label": 0,
}

TEMPLATE = (
    "{question}\nFirst generate a step-by-step solution, then answer the question "
    "using a single numerical value (0-10)."
)
SELECT = "Which prediction is correct? Give the final answer with a single numerical value (0-10)."


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row of the Hub's."""
    fields = {
        "question": record_fields.needed(record, "question", where),
        "images": record.get("image"),
        "folders": record_fields.USUAL_FOLDERS,
        "answer": record_fields.needed(record, "label", where, (str, int)),
        "id": record.get("id"),
        "task": record.get("template"),
    }
    return fields, record_fields.without(record, "question", "image", "label", "id")


PROTOCOL = Protocol(
    name="clevr_math",
    sample=SAMPLE,
    layouts=(({"template", "question", "image", "label"}, read),),
    template="clevr_math",
    templates={"clevr_math": TEMPLATE},
    selects={"clevr_math": SELECT},
)
