"""MMBench (arXiv:2307.06281) and other sets in its form: options in columns A, B, C, ...

The published TSV holds pictures in base64. MMStar's TSV of VLMEvalKit is the same.
"""

from tasks import image_fields, record_fields
from tasks.protocol import Protocol

SAMPLE = {
    "index": 241,
    "question": "Which of the following could Laura and Isabella's test show?",
    "hint": "The passage below describes an experiment.",
    "A": "whether the bread is fresh",
    "B": "whether the bread is warm",
    "C": None,
    "D": None,
    "answer": "B",
    "category": "identity_reasoning",
    "l2-category": "attribute_reasoning",
    "image": {"bytes": b"..."},
}

LETTERS = "ABCDEFGH"
NUMBER_OR_TEXT = (str, int, float)


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row, asked as its authors ask: hint, question, options."""
    record = image_fields.gathered(record, where)
    choices = []
    for letter in LETTERS:
        choice = record_fields.text_of(told(record, letter), [letter], where, NUMBER_OR_TEXT)
        if choice is not None:
            choices.append(choice)
    hint = record_fields.text_of(told(record, "hint"), ["hint"], where)
    lines = [f"Hint: {hint}"] if hint else []
    lines += [f"Question: {record_fields.needed(record, 'question', where)}", "Options:"]
    lines += [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices)]
    fields = {
        "question": "\n".join(lines),
        "images": image_fields.pictures_of(record, where),
        "answer": record_fields.text_of(told(record, "answer"), ["answer"], where),
        "choices": choices,
        "id": record.get("index"),
        "task": record.get("category"),
    }
    read_keys = ("question", "hint", "answer", "index", *record_fields.IMAGE_KEYS, *LETTERS)
    meta = record_fields.without(record, *read_keys)
    return fields, meta


def told(record: dict, key: str) -> dict:
    """Keep a field of a table if it is filled: an empty one is null, NaN or "nan"."""
    value = record.get(key)
    blank = isinstance(value, str) and value.strip() in ("", "nan")
    is_empty = value is None or value != value or blank
    return {} if is_empty else {key: value}


PROTOCOL = Protocol(
    name="mmbench",
    sample=SAMPLE,
    layouts=(({"question", "A", "B"}, read),),
    template="option",
    choose=True,
)
