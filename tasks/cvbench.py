"""CV-Bench (Tong et al. 2024, arXiv:2406.16860): 2,638 questions with options.

VisualThinker's evaluation script is public.
"""

import rewards
from grading import mathverify
from grading.answers import choice_index
from tasks import record_fields
from tasks.example import Example
from tasks.protocol import Protocol, mean

SAMPLE = {
    "idx": 0,
    "type": "2D",
    "task": "Count",  # Count, Relation, Depth, Distance
    "image": {"bytes": b"..."},
    "question": "How many organs are in the image?",
    "choices": ["3", "2"],
    "answer": "(A)",
    "prompt": "How many organs are in the image? Select from the following choices.\n(A) 3\n(B) 2",
    "filename": "img/2D/count/ade20k_10.png",
    "source": "ADE20K",  # ADE20K, COCO, Omni3D
}

TEMPLATE = (
    "{question}\nOutput the thinking process in <think> </think> and final answer "
    "in <answer> </answer> tags."
)


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a row; `prompt` is its question with its options."""
    fields = {
        "question": record_fields.needed(record, "prompt", where),
        "images": record.get("image") or record_fields.needed(record, "filename", where),
        "answer": record_fields.needed(record, "answer", where),
        "choices": record_fields.choices_of(record, where),
        "id": record.get("idx"),
        "task": record_fields.needed(record, "task", where),
    }
    return fields, record_fields.without(record, "idx", "image", "prompt", "answer", "choices")


def visualthinker_cvbench(completion: str, example: Example) -> float:
    """Compute VisualThinker's score: math-verify on the answer, or else on the whole text.

    math-verify is also given the choices' letters and texts to look for.
    """
    body = first_line_answer(completion)
    body = completion if body is None else body
    choices = example.choices or []
    index = choice_index(example.answer, choices) if choices else None
    if index is None:
        letter = example.answer.strip(" ().").upper()[:1]
        text = example.answer
    else:
        letter = chr(ord("A") + index)
        text = choices[index]
    golds = [text.lower(), text, letter, letter.lower(), f"({letter.lower()})", f"({letter})"]
    letters = [form.format(c) for c in "ABCDEF" for form in ("{}", "({})")]
    strings = letters + [c.lower() for c in letters] + [str(c) for c in choices]
    return float(mathverify.ask("strings", body, golds, strings))


def first_line_answer(text: str) -> str | None:
    r"""Find the first body of re.search(r"<answer>\s*(.*?)\s*</answer>", text), stripped.

    "." matches no newline there, but the newlines next to the tags belong to them.
    """
    for chunk in text.split("</answer>")[:-1]:
        head, newline, line = chunk.rstrip().rpartition("\n")
        if newline and head.rstrip().endswith("<answer>"):
            return line.strip()
        _, tag, body = line.partition("<answer>")
        if tag:
            return body.strip()
    return None


def published_average(rows: list[dict]) -> dict:
    """Average as published: half 2D (itself half ADE20K, half COCO), half 3D (Omni3D).

    {} unless all three sources are there.
    """
    parts = {name: [] for name in ("ade20k", "coco", "omni3d")}
    for row in rows:
        parts.get(str(row.get("source")).lower(), []).append(row)
    if not all(parts.values()):
        return {}
    ade20k, coco, omni3d = map(mean, parts.values())
    flat = (ade20k + coco) / 2
    return {"cvbench": (flat + omni3d) / 2, "cvbench_2d": flat, "cvbench_3d": omni3d}


PROTOCOL = Protocol(
    name="cvbench",
    sample=SAMPLE,
    layouts=(({"question", "answer", "choices", "prompt", "task", "source"}, read),),
    template="cvbench",
    templates={"cvbench": TEMPLATE},
    score=rewards.accuracy,
    published_score=visualthinker_cvbench,
    choose=True,
    by=("task", "source"),
    totals=published_average,
)
