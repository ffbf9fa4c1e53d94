"""MathVerse (arXiv:2403.14624): one problem with more and more of its words in the picture.

`query_cot` is what its authors ask a model that reasons; `question` is empty where the picture
holds all words. Their evaluation (github.com/ZrrSkywalker/MathVerse, 937b090) has no rule: one
LLM extracts the answer, and another says whether it is the gold.
"""

import re

from grading.answers import match_answer
from tasks import lettered, mathverse_prompts, record_fields
from tasks.example import Example
from tasks.protocol import Protocol

SAMPLE = {
    "sample_index": "1",
    "problem_index": "1",
    "problem_version": "Text Dominant",
    "question": "As shown in the figure, find angle 1.\nChoices:\nA:35°\nB:55°",
    "image": {"bytes": b"..."},
    "answer": "B",
    "question_type": "multi-choice",
    "metadata": {"subject": "Plane Geometry", "subfield": "Angle"},
    "query_wo": "Please directly answer the question.\nQuestion: ...",
    "query_cot": "Please first conduct reasoning, and then answer the question.\nQuestion: ...",
    "question_for_eval": "As shown in the figure, find angle 1.\nChoices:\nA:35°\nB:55°",
}


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row. `question_for_eval` has the whole problem, whatever the picture holds of it."""
    fields = {
        "question": record_fields.needed(record, "query_cot", where),
        "images": record.get("image"),
        "folders": ("", "images", "..", "../images"),
        "answer": record_fields.needed(record, "answer", where),
        "id": record.get("sample_index"),
        "task": record.get("problem_version"),
    }
    return fields, record_fields.without(record, "query_cot", "image", "answer", "sample_index")


def problem_of(example: Example) -> str:
    """Give the whole problem in words."""
    return str(example.meta.get("question_for_eval") or example.question or "")


def groups_of(meta: dict) -> dict:
    """Give a problem's subject and subfield."""
    metadata = meta.get("metadata") if isinstance(meta.get("metadata"), dict) else {}
    found = {name: metadata.get(name) for name in ("subject", "subfield")}
    return {name: value for name, value in found.items() if isinstance(value, str)}


# --- our score ---


def score_mathverse(completion: str, example: Example) -> float:
    """Score 1 for the right answer; a letter's text is as good, where the problem lists both."""
    body = PROTOCOL.read(completion, example)
    choices = lettered.options_after(problem_of(example), "Choices:")
    return float(match_answer(body, example.answer, choices))


# --- what MathVerse asks an LLM ---


def ask_extraction(completion: str, example: Example) -> str:
    """Write MathVerse's question for the answer in a response."""
    return mathverse_prompts.EXTRACT.replace("{response}", completion)


def ask_judgement(reply: str, example: Example) -> str:
    """Write MathVerse's question whether an extracted answer is the gold."""
    said = reply.replace("Extracted Answer: ", "").strip()
    filled = {"{question}": problem_of(example), "{gt}": example.answer, "{extraction}": said}
    return re.sub("|".join(filled), lambda found: filled[found[0]], mathverse_prompts.JUDGE)


def score_of_judgement(reply: str, example: Example) -> float:
    """Read a judgement, 1 or 0. ValueError for another: theirs asks again without end."""
    said = reply.replace("Judgement:", "").strip()
    if said not in ("0", "1"):
        raise ValueError(f"the judge says neither 0 nor 1: {reply[:60]!r}")
    return float(said)


PROTOCOL = Protocol(
    name="mathverse",
    sample=SAMPLE,
    layouts=(({"problem_version", "query_cot", "question", "answer"}, read),),
    score=score_mathverse,
    judge_steps=(ask_extraction, ask_judgement),
    judge_score=score_of_judgement,
    marked=True,
    by=("problem_version", "subject", "subfield", "question_type"),
    more_fields=groups_of,
)
