"""MMBench (arXiv:2307.06281) and other sets in its form: options in columns A, B, C, ...

The published TSV holds pictures in base64. Those of VLMEvalKit are the same, or name them.
"""

from tasks import choice_forms, image_fields, record_fields
from tasks.protocol import Protocol
from tasks.record_fields import NUMBER_OR_TEXT

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


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row, asked as its authors ask: hint, question, options.

    Pictures are in `image`, VLMEvalKit's also in `image_path`; several are a list as text.
    """
    record = image_fields.gathered(record, where)
    letters = [letter for letter in choice_forms.LETTERS if letter in record]
    columns = {letter: told(record, letter).get(letter) for letter in letters}
    name = f"{letters[0]} to {letters[-1]}"
    choices = record_fields.choices_of({name: columns}, where, name)
    hint = record_fields.text_of(told(record, "hint"), ["hint"], where)
    lines = [f"Hint: {hint}"] if hint else []
    lines.append(f"Question: {record_fields.needed(record, 'question', where)}")
    lines += ["Options:"] if choices else []
    lines += [f"{letter}. {choice}" for letter, choice in zip(letters, choices or [])]
    pictures = {
        key: choice_forms.listed(told(record, key).get(key)) for key in record_fields.IMAGE_KEYS
    }
    fields = {
        "question": "\n".join(lines),
        "images": image_fields.pictures_of(pictures, where),
        "folders": record_fields.USUAL_FOLDERS,
        "answer": record_fields.text_of(told(record, "answer"), ["answer"], where, NUMBER_OR_TEXT),
        "choices": choices,
        "id": record.get("index"),
        "task": record.get("category"),
    }
    read_keys = ("question", "hint", "answer", "index", *record_fields.IMAGE_KEYS, *letters)
    meta = record_fields.without(record, *read_keys)
    return fields, meta


def told(record: dict, key: str) -> dict:
    """Keep a field of a table if it is filled: an empty one is null, NaN or "nan"."""
    value = record.get(key)
    is_nan = isinstance(value, str) and value.strip() == "nan"
    return {} if is_nan or choice_forms.is_blank(value) else {key: value}


PROTOCOL = Protocol(
    name="mmbench",
    sample=SAMPLE,
    layouts=(({"question", "A", "B"}, read),),
    template="option",
    choose=True,
)
