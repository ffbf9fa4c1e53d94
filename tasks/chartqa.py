"""ChartQA (Masry et al. 2022): human and augmented questions about charts, as R3V asks them.

The published figure is the relaxed accuracy, as Pix2Struct, Qwen-VL and others compute it.
"""

import re

from grading.answers import match_answer, quantity
from grading.tags import answer_line
from tasks import record_fields
from tasks.example import Example
from tasks.protocol import Protocol

SAMPLE = {"imgname": "12.png", "query": "What is the max?", "label": "14"}
SAMPLE_OF_THE_HUB = {
    "image": {"bytes": b"..."},
    "query": "What is the max?",
    "label": ["14"],
    "human_or_machine": 0,
}

TEMPLATE = (
    "{question}\nFirst generate a step-by-step solution, then answer the question "
    "with a numerical value, Yes/No, or a word or phrase."
)
SELECT = (
    "Which prediction is correct? Give the final answer with a numerical value, Yes/No, "
    "or a word or phrase."
)


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a record of the published tree (test/test_human.json, test/png) or of the Hub."""
    if isinstance(record["label"], list) and len(record["label"]) == 1:
        record = {**record, "label": record["label"][0]}
    fields = {
        "question": record_fields.needed(record, "query", where),
        "images": record.get("image") or record_fields.needed(record, "imgname", where),
        "folders": ("", "png", "../png"),
        "answer": record_fields.needed(record, "label", where, (str, int, float)),
        "id": record.get("id"),
        "task": "chart",
    }
    return fields, record_fields.without(record, "image", "imgname", "query", "label", "id")


def score_relaxed(completion: str, example: Example) -> float:
    """Score 1 for a number within 5 % of the gold, or matching text.

    A gold 2000 to 2099 is a year and must be met exactly; the published rule has no years.
    "%", "$", thousands separators or a unit may stand by a number, but two units must agree.
    A gold of 0 is met by 0.0, and the bound itself counts, in exact arithmetic.
    """
    body, gold = answer_line(completion) or "", example.answer.strip()
    said, right = quantity(body), quantity(gold)
    if said is None or right is None:
        return float(match_answer(body, gold))
    (number, unit), (gold_number, gold_unit) = said, right
    if unit and gold_unit and unit != gold_unit:
        return float(match_answer(body, gold))
    is_year = re.fullmatch("20[0-9]{2}", gold)
    tolerance = 0 if is_year else abs(gold_number) / 20
    return float(abs(number - gold_number) <= tolerance)


def pix2struct_relaxed(completion: str, example: Example) -> float:
    """Compute the published relaxed accuracy: floats within 5 %, else equal text without case.

    It scores a bare answer: here what answer_line reads, or else the whole text.
    """
    said, gold = answer_line(completion), example.answer
    said = completion if said is None else said
    value, target = percent_float(said), percent_float(gold)
    if value is not None and target:
        return float(abs(value - target) / abs(target) <= 0.05)
    return float(said.lower() == gold.lower())


def percent_float(text: str) -> float | None:
    """Read a text as a float, "5%" as 0.05; None for other text."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def r3v_chartqa(completion: str, example: Example) -> float:
    """Compute R3V's score: floats within 5 % of the gold, else equal text without case."""
    said, gold = r3v_answer(completion), example.answer.strip()
    try:
        near = abs(float(said) - float(gold)) <= 0.05 * abs(float(gold))
    except ValueError:
        near = False
    return float(near or said.lower() == gold.lower())


def r3v_answer(text: str) -> str:
    """Find what R3V compares: all that follows the first "Answer:", or else the whole text."""
    return (text.partition("Answer:")[2] or text).strip()


PROTOCOL = Protocol(
    name="chartqa",
    sample=SAMPLE,
    layouts=(({"imgname", "query", "label"}, read), ({"image", "query", "label"}, read)),
    template="chartqa",
    templates={"chartqa": TEMPLATE},
    selects={"chartqa": SELECT},
    score=score_relaxed,
    published_score=pix2struct_relaxed,
    also_published=r3v_chartqa,
    on_a_line=True,
    by=("task", "type", "split"),
)
