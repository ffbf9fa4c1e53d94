"""Rows for `plots.plot_samples`: an example's picture and boxes beside what was answered."""

import math

from PIL import Image

from grading.boxes import drawn_boxes
from plumbing import plots
from plumbing.errors import UserError
from tasks import images
from tasks.example import Example

CELL, GAP = 320, 8  # pixels: the largest side of one of several pictures, and between them


def sheet_row(
    example: Example, completions: list[tuple[str, dict]], boxed: list[str] | None = None
) -> dict:
    """Make one row of a sheet.

    completions: (text, its scores by name). boxed: texts whose boxes are drawn with the gold ones.
    """
    return {
        "images": in_one(pictures_of(example)),
        "boxes": [] if boxed is None else drawn_boxes(example, *boxed),
        "question": "\n".join([*(turn.text for turn in example.history), example.question]),
        "answer": example.answer,
        "completions": completions,
    }


def pictures_of(example: Example) -> list[Image.Image]:
    """Open an example's images; [] and a warning if they have gone since."""
    try:
        return images.open_images(example)
    except UserError as error:
        plots.warn(f"a sheet is drawn without its picture: {error}")
        return []


def in_one(pictures: list[Image.Image]) -> list[Image.Image]:
    """Put several pictures into one, from left to right and down: a row has room for one."""
    if len(pictures) < 2:
        return pictures
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    whole = Image.new("RGB", (columns * (CELL + GAP) - GAP, rows * (CELL + GAP) - GAP), "white")
    for n, picture in enumerate(pictures):
        small = picture.convert("RGB")
        small.thumbnail((CELL, CELL))
        whole.paste(small, (n % columns * (CELL + GAP), n // columns * (CELL + GAP)))
    return [whole]


def before_after(examples: list[Example], before: list[dict], after: list[dict]) -> list[dict]:
    """Make rows of held-out questions: five answers that training changed, and three others.

    before, after: the lines of samples/eval_*.jsonl, in the order of `examples`.
    """
    triples = list(zip(examples, before, after))
    same = [old["accuracy"] == new["accuracy"] for _, old, new in triples[:200]]
    shown = sorted(range(len(same)), key=same.__getitem__)[:5]  # the changed ones first
    shown += [i for i in range(len(triples)) if i not in shown][:3]
    rows = []
    for example, old, new in [triples[i] for i in shown]:
        answers = [(f"before: {old['prediction']}", marks_of(old))]
        answers.append((f"after: {new['prediction']}", marks_of(new)))
        rows.append(sheet_row(example, answers, [old["prediction"], new["prediction"]]))
    return rows


def marks_of(line: dict) -> dict:
    """What a line of samples/eval_*.jsonl says about an answer."""
    return {name: line[name] for name in ("accuracy", "iou") if name in line}
