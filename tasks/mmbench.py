"""MMBench (arXiv:2307.06281) and other sets in its form: options in columns A, B, C, ...

The published TSV holds pictures in base64. Those of VLMEvalKit are the same, or name them.
The files hold each question several times, its options rolled on: it is right if all are
("circular"). Asked and scored as VLMEvalKit does (github.com/open-compass/VLMEvalKit, e8e78f0),
which lets an LLM find the option where its rules do not.
"""

import re

from grading.answers import choice_index, match_answer
from tasks import choice_forms, image_fields, record_fields
from tasks.example import Example
from tasks.lettered import without_false_letters
from tasks.protocol import Protocol, mean
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
        "choices": without_false_letters(choices),
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


def columns_of(record: dict) -> dict[str, str]:
    """Read the filled columns of options: {"A": "red", "B": "blue"}."""
    filled = {letter: told(record, letter).get(letter) for letter in choice_forms.LETTERS}
    return {letter: str(text) for letter, text in filled.items() if text is not None}


def saved(record: dict) -> dict:
    """Read a line of saved answers with its options in columns, as VLMEvalKit writes it."""
    choices = without_false_letters(list(columns_of(record).values()))
    added = {"choices": choices} if choices and record.get("choices") is None else {}
    return {**record, **added}


# --- circular evaluation ---


def place_of(meta: dict) -> dict:
    """Tell which question a row asks, by its index: rolled copies have a million more."""
    index = number_of(meta.get("index", meta.get("id")))
    question = meta.get("g_index")
    if question is None and isinstance(index, int):
        question = index % 1_000_000
    return {"index": index, "g_index": number_of(question)}


def number_of(index: object) -> int | str:
    """Read an index as a number, or else as text."""
    if isinstance(index, int):
        return index if abs(index) < 10**18 else "too large"
    text = str(index).strip()
    return int(text) if text.isdecimal() and len(text) < 19 else text


def circular(rows: list[dict]) -> dict:
    """Count a question as right if all its rows are: figures of all and by category.

    Only questions count whose own row is there, the one that is not rolled on.
    """
    groups = {row["g_index"]: [] for row in rows if row["index"] == row["g_index"]}
    for row in rows:
        if row["g_index"] in groups:
            groups[row["g_index"]].append(row)
    questions = []
    for group in groups.values():
        question = {name: group[0].get(name) for name in GROUPS}
        for key in ("accuracy", "accuracy_original"):
            question[key] = min(row[key] for row in group)
        questions.append(question)
    figures = {
        "circular": mean(questions),
        "circular_original": mean(questions, "accuracy_original"),
        "circular_questions": len(questions),
    }
    for name in GROUPS:
        parts = {}
        for question in questions:
            parts.setdefault(str(question[name]), []).append(question)
        parts.pop("None", None)
        if parts:
            figures[f"circular_by_{name}"] = {
                value: {"accuracy": mean(part), "n": len(part)} for value, part in parts.items()
            }
    return figures


# --- our score ---


def score_mmbench(completion: str, example: Example) -> float:
    """Score 1 for the right option, by its letter or its text."""
    body = PROTOCOL.read(completion, example)
    return float(match_answer(body, example.answer, example.choices))


# --- VLMEvalKit's score ---

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
SAID = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
NO_OPTION = "Z"
FAILED = "Failed to obtain answer via API"


def option_by_rules(answer: str, choices: list[str]) -> str | None:
    """Find the letter of the option by VLMEvalKit's rules; "Z" for none; None: ask an LLM."""
    options = dict(zip(choice_forms.LETTERS, choices))
    return option_by_letter(answer, options) or option_by_text(answer, options)


def option_by_letter(answer: str, options: dict[str, str]) -> str | None:
    """Find the one letter that stands alone, among the last five words, or "answer is B"."""
    if FAILED in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return NO_OPTION
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    if not named and NO_OPTION in words:
        return NO_OPTION
    said = SAID.search(answer)
    return said[1].upper() if said and said[1].upper() in options else None


def option_by_text(answer: str, options: dict[str, str]) -> str | None:
    """Find the one option whose text the answer holds, unless it is much longer than all."""
    if len(answer.lower()) > 2 * sum(map(len, options.values())):
        return None
    held = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return held[0] if len(held) == 1 else None


def vlmevalkit_mmbench(completion: str, example: Example) -> float:
    """Compute VLMEvalKit's score of a row by its rules ("exact matching"); 0 where it asks."""
    return score_of_option(option_by_rules(completion, example.choices or []), example)


def score_of_option(letter: str | None, example: Example) -> float:
    """Score a letter."""
    right = choice_index(example.answer, example.choices or [])
    return float(right is not None and letter == choice_forms.LETTERS[right])


QUESTION = """\
You are an AI assistant who will help me to match an answer with several options of a \
single-choice question. You are provided with a question, several options, and an answer, and you \
need to find which option is most similar to the answer. If the meaning of all options are \
significantly different from the answer, output Z. Your should output a single uppercase character \
in A, B, C, D (if they are valid options), and Z. \n\
Example 1: \n\
Question: What is the main object in image?
Options: A. teddy bear B. rabbit C. cat D. dog
Answer: a cute teddy bear
Your output: A
Example 2: \n\
Question: What is the main object in image?
Options: A. teddy bear B. rabbit C. cat D. dog
Answer: Spider
Your output: Z
Example 3: \n\
Question: {question}?
Options: There are several options: \n\
{options}
Answer: {answer}
Your output: """  # VLMEvalKit's, Apache License 2.0


def ask_option(completion: str, example: Example) -> str | None:
    """Write what a judge is asked about a row; None where the rules decide."""
    if option_by_rules(completion, example.choices or []) is not None:
        return None
    asked = str(example.question or "").rpartition("Question: ")[2].partition("\nOptions:")[0]
    letters = zip(choice_forms.LETTERS, example.choices or [])
    options = "".join(f"{letter}. {choice}\n" for letter, choice in letters)
    filled = {"{question}": asked, "{options}": options, "{answer}": completion}
    return re.sub("|".join(filled), lambda found: filled[found[0]], QUESTION)


def score_of_reply(reply: str, example: Example) -> float:
    """Score the option that a judge names. ValueError if it names none: theirs guesses then."""
    letter = option_by_rules(reply, example.choices or [])
    if letter is None:
        raise ValueError(f"the judge names no option: {reply[:60]!r}")
    return score_of_option(letter, example)


GROUPS = ("category", "l2-category")
PROTOCOL = Protocol(
    name="mmbench",
    sample=SAMPLE,
    layouts=(({"question", "A", "B"}, read),),
    saved=saved,
    template="mmbench",
    templates={
        "mmbench": "{question}\nPlease select the correct answer from the options above. \n"
    },
    score=score_mmbench,
    published_score=vlmevalkit_mmbench,
    judge_steps=(ask_option,),
    judge_score=score_of_reply,
    marked=True,
    phrases=True,
    choose=True,
    by=GROUPS,
    more_fields=place_of,
    totals=circular,
)
