"""MathVista (arXiv:2310.02255): mathematics in charts, figures and photographs.

`query` is what its authors ask: a hint on the form of the answer, the question and the choices.
Their evaluation (github.com/lupantech/MathVista, 53d5258) lets GPT-4 extract the answer where
its rules do not; then a program brings the answer to the form of the gold.
"""

import re
from fractions import Fraction

from rapidfuzz.distance import Levenshtein

from grading.answers import choice_index, match_answer, quantity
from tasks import image_fields, record_fields
from tasks.example import Example
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

HINT = "Hint: Please answer the question "
FORMS = {  # (answer type, decimals) -> what the hint asks for
    ("integer", 0): "requiring an integer answer and provide the final value, e.g., 1, 2, 3",
    ("float", 1): "requiring a floating-point number with one decimal place and provide the final "
    "value, e.g., 1.2, 1.3, 1.4",
    ("float", 2): "requiring a floating-point number with two decimal places and provide the final "
    "value, e.g., 1.23, 1.34, 1.45",
    ("list", 0): "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3],"
    " [1.2, 1.3, 1.4]",
}
GROUPS = (
    *("question_type", "answer_type", "task", "context", "category", "grade", "language"),
    "source",
)
LETTER_FORM = "and provide the correct option letter, e.g., A, B, C, D"


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row. The answers of the split `test` are empty; the files of GitHub have no query."""
    choices = record_fields.choices_of(record, where)
    told = record if image_fields.has_content(record.get("answer")) else {}
    answer = record_fields.text_of(told, ["answer"], where, (str, int, float))
    query = record_fields.text_of(record, ["query"], where)
    if query is None:
        query = query_of(record_fields.needed(record, "question", where), choices, record)
    metadata = record.get("metadata")
    fields = {
        "question": query,
        "images": record.get("decoded_image") or record_fields.needed(record, "image", where),
        "folders": ("", "..", "data"),
        "answer": answer,
        "choices": choices,
        "id": record.get("pid"),
        "task": metadata.get("task") if isinstance(metadata, dict) else None,
    }
    meta = record_fields.without(
        record, "query", "decoded_image", "image", "answer", "choices", "pid", "id"
    )
    return fields, meta


def query_of(question: str, choices: list[str] | None, record: dict) -> str:
    """Write the query of a question as MathVista's query.json has it."""
    form = LETTER_FORM if choices else FORMS.get((record.get("answer_type"), decimals_of(record)))
    hint = f"{HINT}{form}, at the end.\n" if form else ""
    unit = f" (Unit: {record['unit']})" if record.get("unit") else ""
    options = [f"\n({chr(65 + place)}) {choice}" for place, choice in enumerate(choices or [])]
    listed = "\nChoices:" + "".join(options) if options else ""
    return f"{hint}Question: {question}{unit}{listed}".strip()


def decimals_of(record: dict) -> int:
    """Give the decimals that a question asks for: 0 unless its answer is a float."""
    precision = record.get("precision")
    is_number = isinstance(precision, int | float) and 0 <= precision < 20
    return int(precision) if record.get("answer_type") == "float" and is_number else 0


def groups_of(meta: dict) -> dict:
    """Give the groups in which MathVista's tables report a question."""
    metadata = meta.get("metadata") if isinstance(meta.get("metadata"), dict) else {}
    found = {name: metadata.get(name, meta.get(name)) for name in GROUPS}
    return {name: value for name, value in found.items() if isinstance(value, str)}


# --- our score ---


def score_mathvista(completion: str, example: Example) -> float:
    """Score 1 for the right choice, list or number; a float may have more decimals than asked."""
    body = PROTOCOL.read(completion, example)
    if body is None:
        return 0.0
    said, gold, decimals = quantity(body), quantity(example.answer), decimals_of(example.meta)
    if example.choices or not decimals or said is None or gold is None:
        return float(match_answer(body, example.answer, example.choices))
    return float(2 * abs(said[0] - gold[0]) <= Fraction(1, 10**decimals))


# --- MathVista's score ---


def extracted_by_rules(response: str, example: Example) -> str | None:
    """Extract an answer by MathVista's rules: a bare choice or number; None where GPT-4 is asked.

    An empty response is extracted as "".
    """
    choices, answer_type = example.choices, example.meta.get("answer_type")
    if response == "" or response in (choices or []):
        return response
    try:
        if answer_type == "integer":
            return str(int(response))
        if answer_type == "float":
            return str(float(response))
    except ValueError:
        pass
    return None


def mathvista_form(extraction: str, example: Example) -> str | None:
    """Bring an extracted answer to the form of the gold, as MathVista does; None if it cannot be.

    Of choices, the one with that letter, or else the most similar one: "" is the shortest.
    """
    if example.choices:
        return similar_choice(extraction.strip(), example.choices)
    answer_type = example.meta.get("answer_type")
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))
        if answer_type == "float":
            return str(round(float(extraction), int(example.meta["precision"])))
    except (ValueError, OverflowError, TypeError, KeyError):
        return None
    return extraction if answer_type == "list" else None


def similar_choice(extraction: str, choices: list[str]) -> str:
    """Pick the choice of a letter, or that with the least edit distance."""
    letters = re.findall(r"\(([a-zA-Z])\)", extraction)
    letter = letters[0].upper() if letters else extraction
    place = ord(letter) - ord("A") if len(letter) == 1 else -1
    if 0 <= place < len(choices):
        return choices[place]
    return min(choices, key=lambda choice: Levenshtein.distance(letter, choice))


def mathvista_score(completion: str, example: Example) -> float:
    """Compute MathVista's score of what its rules extract; 0 where it asks GPT-4."""
    extraction = extracted_by_rules(completion, example)
    return 0.0 if extraction is None else mathvista_of_extraction(extraction, example)


def mathvista_of_extraction(extraction: str, example: Example) -> float:
    """Compute MathVista's score of an extracted answer: equal to the gold in its form."""
    gold = example.answer
    if example.choices and gold not in example.choices:
        gold = example.choices[choice_index(gold, example.choices)]
    return float(mathvista_form(extraction, example) == gold)


# The instruction is MathVista's (evaluation/prompts/ext_ans.py). Its five demonstrations are
# CC BY-SA 4.0: these five ask for the same forms of answers.
EXTRACTION = """\
Please read the following example. Then extract the answer from the model response and type it \
at the end of the prompt.

{hint}requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.
Question: How many red balls are there?

Model response: I count three balls on the left and two on the right, so there are 5 red balls.

Extracted answer: 5

{hint}requiring a floating-point number with one decimal place and provide the final value, \
e.g., 1.2, 1.3, 1.4, at the end.
Question: What share of the bars is blue?

Model response: Four of the ten bars are blue, which is a share of 0.4.

Extracted answer: 0.4

{hint}requiring a floating-point number with two decimal places and provide the final value, \
e.g., 1.23, 1.34, 1.45, at the end.
Question: What do a pen and a ruler cost together? (Unit: $)

Model response: A pen costs $0.80 and a ruler $1.35, together $2.15.

Extracted answer: 2.15

{hint}requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], \
[1.2, 1.3, 1.4], at the end.
Question: In which two years were the sales equal?

Model response: The two bars have the same height in 2011 and in 2014.

Extracted answer: [2011, 2014]

{hint}and provide the correct option letter, e.g., A, B, C, D, at the end.
Question: Which shape has the most sides?
Choices:
(A) triangle
(B) hexagon
(C) square

Model response: The hexagon has six sides, more than the others: the answer is (B) hexagon.

Extracted answer: B

{query}

{response}

Extracted answer: """


def ask_extraction(completion: str, example: Example) -> str | None:
    """Write what a judge is asked about a response; None where MathVista's rules decide."""
    if extracted_by_rules(completion, example) is not None:
        return None
    filled = {"{hint}": HINT, "{query}": str(example.question or ""), "{response}": completion}
    return re.sub("|".join(filled), lambda found: filled[found[0]], EXTRACTION)


PROTOCOL = Protocol(
    name="mathvista",
    sample=SAMPLE,
    layouts=(({"pid", "question", "answer_type", "precision"}, read),),
    score=score_mathvista,
    published_score=mathvista_score,
    judge_steps=(ask_extraction,),
    judge_score=mathvista_of_extraction,
    marked=True,
    choose=True,
    by=GROUPS,
    more_fields=groups_of,
)
