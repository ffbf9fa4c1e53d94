"""MMStar (arXiv:2403.20330): 1,500 questions that need their picture, in six categories of 250.

The options stand in the question of the Hub's rows, or in columns A, B, C, D. Asked and scored as
its authors do (github.com/MMStar-Benchmark/MMStar, 88f243a).
"""

from grading.answers import choice_index, match_answer
from tasks import choice_forms, lettered, mmbench, record_fields
from tasks.example import Example
from tasks.protocol import Protocol

SAMPLE = {
    "index": 0,
    "question": "Which one is larger?\nOptions: A: the cup, B: the plate, C: the fork, D: the cat",
    "image": {"bytes": b"..."},
    "answer": "B",
    "category": "fine-grained perception",
    "l2_category": "localization",
    "meta_info": {"source": "SEEDBench_IMG", "split": "val", "image_path": "images/0.jpg"},
}

TEMPLATE = "{question}\nAnswer with the option's letter from the given choices directly."
LEADS = ("", "(", "option ", "the answer is ")  # what may stand before the letter


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row of the Hub, or of a table with options in columns."""
    columns = mmbench.columns_of(record)
    question = record_fields.needed(record, "question", where)
    lines = [f"{letter}. {choice}" for letter, choice in columns.items()]
    fields = {
        "question": "\n".join([question, *lines]),
        "images": record.get("image"),
        "answer": record_fields.needed(record, "answer", where).strip(),
        "choices": [str(choice) for choice in columns.values()] or choices_in(question),
        "id": record.get("index"),
        "task": record.get("category"),
    }
    meta = record_fields.without(record, "index", "question", "image", "answer", *columns)
    return fields, meta


def choices_in(question: str) -> list[str] | None:
    """Read the options in a question of the Hub; None where they cannot be told apart."""
    return lettered.options_after(question, "Options:")


def saved(record: dict) -> dict:
    """Add the options that a saved question holds."""
    question = record.get("question")
    if record.get("choices") is not None or not isinstance(question, str):
        return record
    return {**record, "choices": choices_in(question)}


def score_mmstar(completion: str, example: Example) -> float:
    """Score 1 for the right option, by its letter or its text."""
    body = PROTOCOL.read(completion, example)
    return float(match_answer(body, example.answer, example.choices))


def mmstar_score(completion: str, example: Example) -> float:
    """Compute MMStar's score: the gold letter is the first, perhaps after one of LEADS."""
    gold = example.answer
    if example.choices and len(gold) > 1:
        gold = choice_forms.LETTERS[choice_index(gold, example.choices)]
    gold = gold.lower().strip().replace("\n", " ")
    said = completion.lower().strip().replace("\n", " ")
    return float(any(said.startswith(lead + gold) for lead in LEADS))


PROTOCOL = Protocol(
    name="mmstar",
    sample=SAMPLE,
    layouts=(({"question", "answer", "category", "l2_category"}, read),),
    saved=saved,
    template="mmstar",
    templates={"mmstar": TEMPLATE},
    score=score_mmstar,
    published_score=mmstar_score,
    marked=True,
    phrases=True,
    choose=True,
    by=("category", "l2_category"),
)
