"""The records that distill.py writes, in three formats, and the JSON Schema of each.

    r1_onevision   R1-Onevision's: image, gt, data_source, conversations, filter, judge_response
    messages       LLaMA-Factory's, ms-swift's and TRL's: messages and images
    nanovlr        ours: images, question, answer, solution
All have `filter` ("pass", or the names of the filters that refuse it), `judge_response` and
`provenance`. `python data.py FILE` reads each, and train_sft.py trains on it.
"""

from collections.abc import Callable
from typing import Any

from distilling.filters import Trace
from tasks.example import Example
from tasks.marks import MARK


def turns_of(example: Example) -> list[tuple[str, str]]:
    """List (role, text) of the system turn, the history and the question, pictures marked."""
    said = [(turn.role, turn.text) for turn in example.history] + [("user", example.question)]
    if example.images and not any(MARK in text for role, text in said if role == "user"):
        first = next(n for n, (role, _) in enumerate(said) if role == "user")
        said[first] = ("user", f"{MARK * len(example.images)}\n{said[first][1]}")
    system = [] if example.system is None else [("system", example.system)]
    return system + said


def worked(trace: Trace, answer: str) -> str:
    """Write what is learned, in our tags."""
    return f"<think> {trace.thinking} </think><answer> {answer} </answer>"


def one_or_many(images: list[str]) -> str | list[str]:
    """Write one picture as a text, several as a list."""
    return images[0] if len(images) == 1 else images


def with_choices(example: Example) -> dict:
    """Carry the choices, by which an answer is scored."""
    return {"choices": example.choices} if example.choices else {}


def r1_onevision(example: Example, images: list[str], trace: Trace, answer: str) -> dict:
    """Write R1-Onevision's record: the thinking in tags, then the answer in bold."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    reply = f"<think>\n{trace.thinking}\n</think>\n\n**Answer:** {answer}"
    turns = [*turns_of(example), ("assistant", reply)]
    return {
        "image": one_or_many(images),
        "gt": example.answer,
        "conversations": [{"from": names[role], "value": text} for role, text in turns],
        **with_choices(example),
    }


def messages(example: Example, images: list[str], trace: Trace, answer: str) -> dict:
    """Write a chat's messages, one <image> for each picture."""
    turns = [*turns_of(example), ("assistant", worked(trace, answer))]
    return {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "images": images,
        **with_choices(example),
    }


def nanovlr(example: Example, images: list[str], trace: Trace, answer: str) -> dict:
    """Write our own record; boxes are in pixels of the picture."""
    gold = {"answer": example.answer}
    if "boxes" in example.meta:
        gold = {"boxes": example.meta["boxes"], "box_format": "pixels"}
    return {
        "images": images,
        **example.asked(),
        **with_choices(example),
        **gold,
        "solution": worked(trace, answer),
    }


FORMATS: dict[str, Callable[[Example, list[str], Trace, str], dict]] = {
    "r1_onevision": r1_onevision,
    "messages": messages,
    "nanovlr": nanovlr,
}


def conversation(name: str, example: Example, images: list[str], pairs: list[tuple]) -> list[dict]:
    """Write the pairs about a page: one conversation, or in our format a record for each pair."""
    if name == "nanovlr":
        return [
            {"id": f"{example.id}#{n}", "images": images, "question": question, "answer": answer}
            for n, (question, answer) in enumerate(pairs, 1)
        ]
    turns = [(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair)]
    turns[0] = ("user", f"{MARK * len(images)}\n{turns[0][1]}" if images else turns[0][1])
    if name == "messages":
        said = [{"role": role, "content": text} for role, text in turns]
        return [{"id": example.id, "messages": said, "images": images}]
    names = {"user": "human", "assistant": "gpt"}
    said = [{"from": names[role], "value": text} for role, text in turns]
    record = {"id": example.id, "image": one_or_many(images), "gt": "", "conversations": said}
    return [record]


# --- the schemas ---


def text(*values: str) -> dict:
    """Describe a text, perhaps one of these."""
    return {"type": "string", **({"enum": list(values)} if values else {})}


def listed(items: dict) -> dict:
    """Describe a list."""
    return {"type": "array", "items": items}


def an_object(properties: dict, optional: tuple = (), closed: bool = True) -> dict:
    """Describe an object; what is not optional is required."""
    required = [key for key in properties if key not in optional]
    described: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    return described | ({"additionalProperties": False} if closed else {})


COUNT = {"type": "integer", "minimum": 0}
STEP = an_object(
    {
        "stage": text(),
        "model": text(),
        "server": text(),
        "prompt": text(),
        "seed": COUNT,
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
    },
    ("server",),
)
SHARED = {
    "id": text(),
    "data_source": text(),
    "task": text(),
    "choices": listed(text()),
    "filter": text(),
    "judge_response": text(),
    "blind_solved": {"type": "boolean"},
    "provenance": listed(STEP),
}
OPTIONAL = ("task", "choices", "blind_solved", "history", "system", "solution")
MESSAGE = an_object({"role": text("system", "user", "assistant"), "content": text()})
SCHEMAS = {
    "r1_onevision": an_object(
        {
            "image": {"anyOf": [text(), listed(text())]},
            "gt": text(),
            "conversations": listed(
                an_object({"from": text("system", "human", "gpt"), "value": text()})
            ),
            **SHARED,
        },
        OPTIONAL,
    ),
    "messages": an_object(
        {"messages": listed(MESSAGE), "images": listed(text()), **SHARED}, OPTIONAL
    ),
    "nanovlr": an_object(
        {
            "images": listed(text()),
            "question": text(),
            "history": listed(MESSAGE),
            "system": text(),
            "answer": text(),
            "boxes": listed({"type": "object"}),
            "box_format": text("pixels"),
            "solution": text(),
            **SHARED,
        },
        (*OPTIONAL, "answer", "boxes", "box_format"),
    ),
}
for schema in SCHEMAS.values():
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
