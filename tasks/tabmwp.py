"""TabMWP: word problems about a table, with a number, a text or a choice for an answer.

As R3V asks and scores them. The files are problems_*.json, the pictures lie in tables/.
"""

import hashlib
import re

from grading.answers import choice_index, match_answer, quantity
from tasks import record_fields
from tasks.example import Example
from tasks.protocol import Protocol, with_options

SAMPLE = {
    "id": "33",
    "question": "Is the function linear?",
    "choices": ["linear", "nonlinear"],
    "answer": "nonlinear",
    "unit": None,
    "ques_type": "multi_choice",
    "ans_type": "boolean_text",
    "grade": 8,
}

SOLVE = "{question}\nFirst generate a step-by-step solution, then answer "
TEMPLATES = {
    "tabmwp": SOLVE + "the question using a single word or phrase.",
    "tabmwp_choices": SOLVE
    + "with the option\u2019s letter from the given choices directly.",  # its twin for choices
}
SELECT = "Which prediction has the right OCR, reasoning and calculations? Give the final answer."


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a problem; its question is put as R3V puts it, with unit and options.

    `solution` ends in a sentence, not in an answer that a reward could read: it stays in meta.
    """
    name = record_fields.needed(record, "id", where, (str, int))
    unit = record_fields.text_of(record, ["unit"], where)
    choices = record_fields.choices_of(record, where)
    question = record_fields.needed(record, "question", where)
    if unit:
        question += f" (Unit: {unit})"
    fields = {
        "question": with_options(question, choices),
        "images": f"{name}.png",
        "folders": ("", "tables"),
        "answer": record_fields.needed(record, "answer", where, (str, int, float)),
        "choices": choices,
        "id": name,
        "task": "table",
    }
    return fields, record_fields.without(record, "id", "question", "choices", "answer")


def grade_band(meta: dict) -> dict:
    """Give the band of grades in which TabMWP's tables report a problem."""
    grade = meta.get("grade")
    if not isinstance(grade, int):
        return {}
    return {"grades": "1-6" if grade <= 6 else "7-8"}


# --- our score ---


def score_tabmwp(completion: str, example: Example) -> float:
    """Score 1 for the right choice, equal normal forms, or a match_answer with the unit.

    The unit may follow either side ("5 tokens", "5 token"), but "5 apples" are not 5 tokens.
    "3:00 PM" is "3:00 P.M.". Neither a letter nor a choice is guessed.
    """
    body = PROTOCOL.read(completion, example)
    if body is None:
        return 0.0
    if example.choices:
        return float(match_answer(body, example.answer, example.choices))
    unit = example.meta.get("unit") or ""
    said, gold = (without_unit(text, unit) for text in (body, example.answer))
    normal = normal_form(said)
    if normal and normal == normal_form(gold):
        return 1.0
    return float(match_answer(said, f"{gold} {unit}" if quantity(gold) else gold))


def without_unit(text: str, unit: str) -> str:
    """Cut the unit from an answer's end, and write "3:00 P.M." as "3:00 PM"."""
    text = re.sub(r"(?<=[0-9])\s*([AaPp])\.?\s?[Mm]\b\.?", r" \1M", text)
    if not unit:
        return text
    end = rf"(?<![^\W\d_]){re.escape(unit.removesuffix('s'))}(?:e?s)?\.?$"
    return re.sub(end, "", text).rstrip() if re.search(end, text) else text


def normal_form(text: str) -> str | None:
    r"""Write an answer in our normal form, after PromptPG's.

    "$1,735." -> "1735", "3/4" and "\frac{3}{4}" -> "0.75", "8.20" -> "8.2", "+5" -> "5",
    other text in lower case. None for what looks like a number and is none: "1/0", "3,4".
    """
    text = str(text).replace("\u2212", "-")
    text = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", text).strip()
    text = re.sub(r"[,./]$", "", re.sub(r"^\$", "", text)).strip()
    if not (re.fullmatch(r"[-+]?[0-9,./]{1,99}", text) and re.search("[0-9]", text)):
        return text.lower()
    if re.search(r"[0-9],(?![0-9]{3}(?![0-9]))|^[-+]?,|\.[0-9]*,", text):
        return None  # "3,4" is a list, not 34
    top, _, bottom = text.replace(",", "").partition("/")
    try:
        value = round(float(top) / float(bottom or 1), 3)
    except (ValueError, ZeroDivisionError):
        return None
    return str(int(value)) if value == int(value) else str(value)


# --- R3V's score, which is PromptPG's with one more pattern ---

LETTERS = [
    r"Answer: ([A-Za-z])",
    r"^\(([A-Za-z])\)$",
    r"^([A-Za-z])$",
    r"^([A-Za-z]). ",
    r"The answer is ([A-Z])",
    r"^\(([A-Za-z])\) [\s\S]",
    r"The answer is \(([A-Za-z])\) [\s\S]",
]
# "4-8" is one number there. From the start of a run, so that this is linear.
LOOSE_NUMBER = r"(?<![-$.,/:\d])[-$.,/:\d]*\d"
FREE_TEXT = [
    r"Answer: ([\s\S]+)",
    r"The answer is ([\s\S]+)$",
    r"The table shows that ([$.,/:\d]+) ",
    r" = ([$.,/:\d]+)",
    rf" (?:be|is) ({LOOSE_NUMBER})",
    rf" (?:are|was) ({LOOSE_NUMBER})",
    rf" were ({LOOSE_NUMBER})",
    r" ([$.,/:\d]+ [AP]\.M\.)",
    rf"({LOOSE_NUMBER})",
]
FINAL_PERIOD = re.compile(r"(?<![AP]\.M)\.$")


def r3v_tabmwp(completion: str, example: Example) -> float:
    """Compute R3V's score: equal normal forms of what its patterns find in the whole text."""
    text = re.sub(r"\$?\\frac\{([-.,\d]+)\}\{([-.,\d]+)\}\$?", r"\1/\2", completion)
    text = text.replace("\u2212", "-")
    text = re.sub(r"(?<=\d)=(?=[$\d])", " = ", text)
    text = FINAL_PERIOD.sub("", text)
    unit, choices, gold = example.meta.get("unit"), example.choices, example.answer
    if choices:
        said = r3v_choice(text, choices, example.id)
        index = choice_index(gold, choices)
        gold = choices[index] if index is not None else gold
    else:
        found = next(filter(None, (re.findall(pattern, text) for pattern in FREE_TEXT)), None)
        said = FINAL_PERIOD.sub("", found[-1].strip()) if found else text
    said, gold = promptpg_normal(said, unit), promptpg_normal(gold, unit)
    said = "0" if said is None else said
    return float(gold is not None and said.lower() == gold.lower())


def r3v_choice(text: str, choices: list[str], id: str) -> str:
    """Pick R3V's choice: by a letter A to F, or by words in common.

    R3V draws a random choice for a letter beyond the list; this draws it from the record's id,
    so that a score can be repeated.
    """
    for pattern in LETTERS:
        found = re.search(pattern, text)
        letter = found[1].upper() if found else ""
        if letter and letter in "ABCDEF":
            index = "ABCDEF".index(letter)
            if index >= len(choices):
                drawn = hashlib.sha256(str(id).encode("utf-8", "replace")).hexdigest()
                index = int(drawn, 16) % len(choices)
            return choices[index]
    return max(choices, key=lambda choice: common_words(text, choice))


def common_words(a: str, b: str) -> float:
    """Compute the share of words that two texts have in common; 2.0 for equal texts."""
    if a == b:
        return 2.0
    x, y = a.split(" "), b.split(" ")
    if len(x) + len(y) <= 2:
        return 0.0
    return len(set(x) & set(y)) / max(len(x), len(y))


def promptpg_normal(text: str, unit: str | None = None) -> str | None:
    """Write an answer in PromptPG's normal form; None where theirs raises: "..", "1/0".

    One leading "$" and one final mark go. Digits with , . / become a number of 3 decimals,
    where "1/2/3" is 1/2. From other text the unit is removed.
    """
    text = re.sub(r"[,./]$", "", re.sub(r"^\$", "", text))
    if not re.search(r"^[-+]?[\d,./]+$", text):
        return text.replace(unit, "").strip() if unit else text
    text = text.replace(",", "")
    try:
        if re.search(r"^[-+]?\d+$", text):
            return str(int(text))
        parts = text.split("/")
        value = float(parts[0]) / float(parts[1]) if len(parts) > 1 else float(text)
    except (ValueError, ZeroDivisionError):
        return None
    return re.sub(r"\.0+$", "", str(round(value, 3)))


PROTOCOL = Protocol(
    name="tabmwp",
    sample=SAMPLE,
    layouts=(({"question", "answer", "choices", "unit", "ques_type", "ans_type"}, read),),
    template="tabmwp",
    templates=TEMPLATES,
    selects={"tabmwp": SELECT},
    score=score_tabmwp,
    published_score=r3v_tabmwp,
    on_a_line=True,
    choose=True,
    by=("ques_type", "ans_type", "grades", "grade"),
    more_fields=grade_band,
)
