"""MATH-Vision (arXiv:2402.14804): problems of competitions, each with one picture.

Asked as its authors ask Qwen-VL to reason, and scored as their evaluation does, which is a
program (github.com/mathllm/MATH-V, a1f5cc3).
"""

import re

from grading import mathverify
from grading.answers import choice_index, match_answer
from tasks import choice_forms, marks, record_fields
from tasks.example import Example
from tasks.lettered import without_false_letters
from tasks.option_texts import are_letters
from tasks.protocol import Protocol

SAMPLE = {
    "id": "4",
    "question": "How many different digits can you find in this picture?\n<image1>",
    "options": [],
    "image": "images/4.jpg",
    "decoded_image": {"bytes": b"..."},
    "answer": "6",
    "solution": None,
    "level": 1,
    "subject": "counting",
}

TEMPLATE = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". If it is a '
    'multiple choice question, only one letter is allowed in the "\\boxed{}".\n{question}\n'
)


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row. Its solution, where there is one, stays in meta.

    The picture stands where <image1> does. Where a text has several marks, all are parts of the
    one picture: they stay as the words that they are, and the picture comes first.
    """
    choices = record_fields.choices_of(record, where, "options")
    answer = record_fields.needed(record, "answer", where, (str, int, float))
    lines = [record_fields.needed(record, "question", where)]
    if choices and not are_letters(choices):  # else they stand in the picture
        lines += [f"({chr(65 + place)}) {choice}" for place, choice in enumerate(choices)]
    text = "\n".join(lines)
    picture = record.get("decoded_image") or record_fields.needed(record, "image", where)
    one_place = marks.NUMBERED.findall(text) == ["1"]
    fields = {
        "question": text,
        "marks_are_words": not one_place and bool(marks.NUMBERED.search(text)),
        "images": picture,
        "folders": ("", "..", "images"),
        "answer": answer,
        "choices": without_false_letters(choices),
        "id": record.get("id"),
        "task": record.get("subject"),
    }
    meta = record_fields.without(
        record, "id", "question", "options", "image", "decoded_image", "answer"
    )
    return fields, meta


def saved(record: dict) -> dict:
    """Read a saved output with its options."""
    options = choice_forms.listed(record.get("options"))
    if not isinstance(options, list) or not options or record.get("choices") is not None:
        return record
    return {**record, "choices": without_false_letters(options)}


def score_mathvision(completion: str, example: Example) -> float:
    """Score 1 for the right option, or an answer that equals the gold."""
    body = PROTOCOL.read(completion, example)
    return float(match_answer(body, example.answer, example.choices))


# --- MATH-Vision's score ---

LEADS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
LETTERS = "abcde"


def mathv_score(completion: str, example: Example) -> float:
    """Compute MATH-V's score: its answer equals the gold's letter, or the option's text.

    Bugs: of a mixed number only the product is read; "2 cm" is 2 times c times m, without a value.
    """
    said, gold = mathv_answer(completion), example.answer
    right = choice_index(gold, example.choices) if example.choices else None
    if right is None:
        return float(mathverify.ask("mathvision", gold, said))
    letter, text = choice_forms.LETTERS[right], example.choices[right]
    return float(mathverify.ask("mathvision", letter, said)) or float(
        mathverify.ask("mathvision", text, said)
    )


def mathv_answer(response: str) -> str:
    """Extract the answer as MATH-V does: a letter at an end, a number after "is", a box, a lead."""
    answer = response.strip()
    for letter in LETTERS.upper():
        at_the_end = (f" {letter}.", f" ({letter}).")
        at_the_start = (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if answer.endswith(at_the_end) or answer.startswith(at_the_start):
            answer = letter
    number = answer.rpartition("is ")[2].rstrip(".")
    answer = number if is_number(number) else answer
    if "oxed{" not in answer:
        for lead in LEADS:
            for spelled in (lead, lead.replace("the", "The")):
                answer = after_lead(answer, spelled)
    elif answer.count("oxed{") > 1:
        answer = "\\boxed{" + answer.rpartition("oxed{")[2]
    answer = mathv_form(answer)
    for form in ("({})", "{{{}}}"):
        for letter in LETTERS:
            answer = answer.replace(form.format(letter), letter)
    return answer.rstrip(".").lstrip(":").strip()


def after_lead(text: str, lead: str) -> str:
    """Cut a text to what follows a lead in its line and sentence; without one it is stripped."""
    said = text.rpartition(lead)[2].strip()
    return said.split("\n")[0].split(". ")[0] if lead in text else said


def is_number(text: str) -> bool:
    """Tell whether Python reads a text as a float."""
    try:
        float(text)
    except ValueError:
        return False
    return True


DROPPED = (  # in this order, after the value behind "=" and "\approx"
    *((" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\")),
    *(("\n", ""), ("\\text", ""), ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", "")),
    *(("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("{m}^3", ""), ("m^3", "")),
    *(("{units}", ""), ("units", ""), ("{km}", ""), ("km", "")),
)
DROPPED_LAST = (
    *(("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac")),
    *(("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("$", "")),
)


def mathv_form(text: str) -> str:
    """Write an answer in MATH-V's normal form (find_math_answer): what its box holds, stripped."""
    text = text.lower().replace("{}", "")
    start, end = text.find("oxed{"), text.rfind("}")
    answer = text[start + 5 : end] if -1 < start < end - 4 else text
    closing, opening = answer.find("}"), answer.find("{")
    if closing != -1 and (opening == -1 or closing < opening):
        answer = answer.split("}")[0]
    answer = answer.rpartition("=")[2].rpartition("\\approx")[2]
    return mathv_stripped(replaced(answer, DROPPED))


def mathv_stripped(text: str) -> str:
    r"""Strip a formula as MATH-V does (_strip_string): no units, a/b as \frac{a}{b}."""
    text = replaced(text, DROPPED_LAST).split("\\text{ ")[0]
    text = replaced(text, (("\\%", ""), (" .", " 0."), ("{.", "{0.")))
    if text.startswith("."):
        text = f"0{text}"
    for sign in ("=", "\\approx"):
        parts = text.split(sign)
        text = parts[1] if len(parts) == 2 else text
    if "sqrt" in text:
        text = with_braces(text)
    text = text.replace(" ", "")
    if "sqrt" in text:
        text = with_fractions(text)
    text = "\\frac{1}{2}" if text == "0.5" else text
    found = re.fullmatch(r"(0|-?[1-9][0-9]{0,4299})/(0|-?[1-9][0-9]{0,4299})", text)
    return f"\\frac{{{found[1]}}}{{{found[2]}}}" if found else text


def replaced(text: str, changes: tuple[tuple[str, str], ...]) -> str:
    """Replace texts one after another."""
    for old, new in changes:
        text = text.replace(old, new)
    return text


def with_braces(text: str) -> str:
    r"""Write \sqrt3 as \sqrt{3}."""
    first, *others = text.split("\\sqrt")
    braced = [part if part[:1] in ("{", "") else f"{{{part[0]}}}{part[1:]}" for part in others]
    return "\\sqrt".join([first, *braced])


def with_fractions(text: str) -> str:
    r"""Write \frac12 as \frac{1}{2}; the text stays where one has less than two signs."""
    first, *others = text.split("\\frac")
    braced = []
    for part in others:
        if part[:1] == "{":
            braced.append(part)
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            braced.append(f"{{{part[0]}}}{part[1:]}")
        else:
            braced.append(f"{{{part[0]}}}{{{part[1]}}}{part[2:]}")
    return "\\frac".join([first, *braced])


PROTOCOL = Protocol(
    name="mathvision",
    sample=SAMPLE,
    layouts=(({"question", "options", "answer", "level", "subject"}, read),),
    saved=saved,
    template="mathvision",
    templates={"mathvision": TEMPLATE},
    score=score_mathvision,
    published_score=mathv_score,
    marked=True,
    choose=True,
    by=("level", "subject"),
)
