"""R1-Onevision-Bench (arXiv:2503.10615): 942 problems of schools and universities.

783 have options, 159 none. The question carries a hint and the options. Its authors let GPT-4o-mini
extract and judge the answers; neither the prompts nor the program are public.
"""

from typing import Any

from grading.answers import choice_index, match_answer
from tasks import choice_forms, lettered, record_fields
from tasks.example import Example
from tasks.option_texts import names_all
from tasks.protocol import Protocol

SAMPLE = {
    "index": 12,
    "question": "Hint: Please answer the question and provide the correct option letter, e.g., A, "
    "B, C, D, at the end.\nQuestion: Which force is larger?\nChoices:\nA. the upper\nB. the lower",
    "image": {"bytes": b"..."},
    "answer": "B",
    "choices": "A. the upper\nB. the lower",
    "level": "High School",
    "category": "Physics",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row of the Hub or of the TSV. `choices` may be a list, or a text of any form."""
    question = record_fields.needed(record, "question", where)
    answer = record_fields.needed(record, "answer", where, (str, int, float)).strip()
    choices = choices_in(record.get("choices"))
    shown = record.get("choices") if isinstance(record.get("choices"), str) else ""
    if choices and not names_all(question, choices, with_letters=True):
        listed = [f"{chr(65 + place)}. {choice}" for place, choice in enumerate(choices)]
        question = "\n".join([question, "Choices:", *listed])
    elif not choices and shown.strip() and shown.strip() not in question:
        question = f"{question}\nChoices:\n{shown.strip()}"
    fields = {
        "question": question,
        "images": record.get("image"),
        "answer": answer,
        "choices": choices if choices and choice_index(answer, choices) is not None else None,
        "id": record.get("index"),
        "task": record.get("category"),
    }
    return fields, record_fields.without(record, "index", "question", "image", "answer", "choices")


def choices_in(value: Any) -> list[str] | None:
    """Read the options, in a list or in a text; None where they cannot be told apart."""
    found = choice_forms.read(value)
    if found and found.texts and all(isinstance(text, str) for text in found.texts):
        return found.texts
    return lettered.options_in(value) if isinstance(value, str) else None


def saved(record: dict) -> dict:
    """Read a saved output with its options in any form; none where they do not hold the gold."""
    choices, answer = choices_in(record.get("choices")), record.get("answer")
    fits = choices and isinstance(answer, str) and choice_index(answer, choices) is not None
    return {**record, "choices": choices if fits else None}


def score_r1_onevision(completion: str, example: Example) -> float:
    """Score 1 for the right option, or an answer that equals the gold."""
    body = PROTOCOL.read(completion, example)
    return float(match_answer(body, example.answer, example.choices))


PROTOCOL = Protocol(
    name="r1_onevision",
    sample=SAMPLE,
    layouts=(({"index", "question", "answer", "choices", "level", "category"}, read),),
    saved=saved,
    score=score_r1_onevision,
    marked=True,
    choose=True,
    by=("level", "category"),
)
