"""MMMU (arXiv:2311.16502): college questions with up to seven pictures in their places.

Asked as its authors ask LLaVA-1.5, and scored as their evaluation does, which is a program
(github.com/MMMU-Benchmark/MMMU, bb0b95a): it guesses where it finds no option. Ours never does.
"""

import random
import re

from grading.answers import choice_index, match_answer
from tasks import choice_forms, image_fields, record_fields
from tasks.example import Example
from tasks.lettered import without_false_letters
from tasks.protocol import Protocol

SAMPLE = {
    "id": "validation_Art_1",
    "question": "Who painted <image 1>?",
    "options": "['Monet', 'Manet', 'Degas', 'Renoir']",
    "explanation": "",
    "image_1": {"bytes": b"..."},
    "image_2": None,
    "img_type": "['Paintings']",
    "answer": "A",
    "topic_difficulty": "Medium",
    "question_type": "multiple-choice",
    "subfield": "Art History",
}

TEMPLATES = {
    "mmmu": "{question}\nAnswer the question using a single word or phrase.",
    "mmmu_choices": "{question}\n\nAnswer with the option's letter from the given choices "
    "directly.",  # its twin for choices
}
# In the order in which the evaluation goes through the subjects, and so draws its guesses.
SUBJECTS = (
    *("Accounting", "Agriculture", "Architecture_and_Engineering", "Art", "Art_Theory"),
    *("Basic_Medical_Science", "Biology", "Chemistry", "Clinical_Medicine", "Computer_Science"),
    *("Design", "Diagnostics_and_Laboratory_Medicine", "Economics", "Electronics"),
    *("Energy_and_Power", "Finance", "Geography", "History", "Literature", "Manage", "Marketing"),
    *("Materials", "Math", "Mechanical_Engineering", "Music", "Pharmacy", "Physics"),
    *("Psychology", "Public_Health", "Sociology"),
)
DISCIPLINES = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": "Basic_Medical_Science Clinical_Medicine "
    "Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": "Agriculture Architecture_and_Engineering Computer_Science "
    "Electronics Energy_and_Power Materials Mechanical_Engineering",
}
DISCIPLINE = {name: one for one, names in DISCIPLINES.items() for name in names.split()}
SEED = 42


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row: <image 1> in question and options is where `image_1` stands.

    An open question may have several right answers, "['1.06', '1.060']": the first is the gold,
    all are in meta["answers"]. The answers of the split `test` are "?".
    """
    record = image_fields.gathered(record, where)
    choices = record_fields.choices_of(record, where, "options")
    meta = record_fields.without(record, "id", "question", "options", "answer", "images")
    answer = record_fields.text_of(record, ["answer"], where, (str, int, float))
    answer = None if answer == "?" else answer
    answers = choice_forms.listed(answer)
    if isinstance(answers, list) and answers and not choices:
        meta["answers"] = [str(one) for one in answers]
        answer = meta["answers"][0]
    lines = [record_fields.needed(record, "question", where)]
    lines += [f"({chr(65 + place)}) {choice}" for place, choice in enumerate(choices or [])]
    fields = {
        "question": "\n".join(lines),
        "images": record.get("images"),
        "answer": answer,
        "choices": without_false_letters(choices),
        "id": record.get("id"),
        "task": record.get("subfield"),
    }
    return fields, meta


def saved(record: dict) -> dict:
    """Read a line of MMMU's own output files: `index2ans` holds the options, `answer` a list."""
    record = dict(record)
    options = choice_forms.listed(record.get("options"))
    if isinstance(record.get("index2ans"), dict) and not options:
        options = list(record["index2ans"].values())
    if isinstance(options, list) and options and record.get("choices") is None:
        record["choices"] = without_false_letters(options)
    answers = choice_forms.listed(record.get("answer"))
    if isinstance(answers, list) and answers:
        record |= {"answers": [str(one) for one in answers], "answer": str(answers[0])}
    return record


def golds_of(example: Example) -> list[str]:
    """List the right answers of an open question."""
    return example.meta.get("answers") or [example.answer]


def subject_of(id: str | None) -> str:
    """Read the subject in an id: "validation_Art_Theory_12" -> "Art_Theory"."""
    return "_".join(str(id).split("_")[1:-1])


def groups_of(meta: dict) -> dict:
    """Give a question's discipline and subject."""
    subject = subject_of(meta.get("id"))
    if subject not in DISCIPLINE:
        return {}
    return {"discipline": DISCIPLINE[subject], "subject": subject}


# --- our score ---


def score_mmmu(completion: str, example: Example) -> float:
    """Score 1 for the right option, or for one of the right answers to an open question."""
    body = PROTOCOL.read(completion, example)
    if example.choices:
        return float(match_answer(body, example.answer, example.choices))
    return float(any(match_answer(body, gold) for gold in golds_of(example)))


# --- MMMU's score ---


def mmmu_score(completion: str, example: Example) -> float:
    """Compute MMMU's score; 0 where it guesses an option: `with_guesses` draws these, in order."""
    if example.choices:
        right = choice_index(example.answer, example.choices)
        return float(option_in(completion, example.choices) == right)
    golds = [form for gold in golds_of(example) for form in normal_forms(gold)]
    return float(any(is_met(said, golds) for said in answers_in(completion)))


def option_in(response: str, choices: list[str]) -> int | None:
    """Find the option that MMMU reads in a response: the last one named; None where it guesses.

    Named as "(A)", else as a lone capital, else in a response of more than five words by its text.
    """
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "
    for form in ("({})", " {} "):
        marks = [form.format(chr(65 + place)) for place in range(len(choices))]
        places = [response.rfind(mark) for mark in marks]
        if max(places) >= 0:
            return places.index(max(places))
    if len(response.split()) <= 5:
        return None
    text = response.lower()
    places = [text.rfind(choice.lower()) for choice in choices]
    return places.index(max(places)) if max(places) >= 0 else None


# Not from inside a run of digits, so that these are linear; what they find is the same.
NUMBERS = [
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])",
]
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def answers_in(response: str) -> list[str | float]:
    """List what MMMU takes for answers to an open question: tails of sentences, and numbers."""
    sentences = response.strip().strip(".").lower().split("\n")
    tails = []
    for place, sentence in enumerate(sentences):
        keys = KEYS if place < len(sentences) - 1 else (*KEYS, "=")
        found = [sentence.rpartition(key)[2].strip() for key in keys if key in sentence]
        tail = ""
        for one in found:  # the shortest, but theirs begins anew after an empty one
            if not tail or len(one) < len(tail):
                tail = one
        if tail and tail not in (":", ",", ".", "!", "?", ";", "'"):
            tails.append(tail)
    tails = tails or ["\n".join(sentences)]
    numbers = [number for tail in tails for form in NUMBERS for number in re.findall(form, tail)]
    return [form for text in tails + numbers for form in normal_forms(text)]


def normal_forms(text: str) -> list[str | float]:
    """Write an answer in MMMU's normal forms: a number of two decimals, or small letters."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def is_met(said: str | float, golds: list[str | float]) -> bool:
    """Tell whether a number is one of the golds, or a text holds one."""
    if isinstance(said, float):
        return said in golds
    return any(isinstance(gold, str) and gold in said for gold in golds)


def with_guesses(rows: list[dict]) -> dict:
    """Draw MMMU's guesses in the order of its evaluation, and score them.

    The order is that of SUBJECTS if every id tells its subject, else that of the file.
    """
    if all(subject_of(row["id"]) in SUBJECTS for row in rows):
        rows = sorted(rows, key=lambda row: SUBJECTS.index(subject_of(row["id"])))
    draw = random.Random(SEED)
    guesses = []
    for row in rows:
        choices = row["choices"]
        if not choices or option_in(row["prediction"], choices) is not None:
            continue
        guess = draw.choice(range(len(choices)))
        row["original_guess"] = chr(65 + guess)
        row["accuracy_original"] = float(guess == choice_index(row["answer"], choices))
        guesses.append(row)
    return {
        "original_guesses": len(guesses),
        "original_guesses_right": sum(int(row["accuracy_original"]) for row in guesses),
    }


PROTOCOL = Protocol(
    name="mmmu",
    sample=SAMPLE,
    layouts=(({"question", "options", "image_1", "answer"}, read),),
    saved=saved,
    template="mmmu",
    templates=TEMPLATES,
    score=score_mmmu,
    published_score=mmmu_score,
    marked=True,
    phrases=True,
    choose=True,
    by=("discipline", "subject", "question_type"),
    more_fields=groups_of,
    totals=with_guesses,
)
