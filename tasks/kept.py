"""What a run keeps in samples/ for people: answers with their scores, questions with pictures.

A file of answers has a file of its questions beside it, which plumbing/report.py shows:

    {"id": "7", "question": "How many?", "answer": "3", "picture": "data:image/png;base64,..."}

An example with boxes also has them there, with all that it takes to draw an answer's boxes.
"""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

import rewards
from plumbing import disk, plots
from plumbing.errors import UserError
from tasks import images, sheets
from tasks.example import Example

SIDE = 224  # pixels of the longer side; two of that where several pictures are laid into one
MOST = 64  # questions kept of a set that is asked again and again
MOST_EVALUATED = 512  # questions kept of a set that evaluate.py asks
STEPS = 20  # of training, whose samples are kept
FOR_BOXES = ("size", "boxes", "box_format", "resized")  # of meta, to draw an answer's boxes


# --- answers ---


def every(max_steps: int) -> int:
    """Return how many steps apart the samples of training are kept."""
    return max(1, max_steps // STEPS)


def keep_samples(
    folder: Path,
    step: int,
    examples: list[Example],
    completions: list[str],
    parts: dict[str, list[float]],
    adv: list[float],
) -> None:
    """Write every completion of a training step with its reward parts and advantage."""
    G = len(completions) // len(examples)
    lines = []
    for b, completion in enumerate(completions):
        scores = {name: values[b] for name, values in parts.items()}
        line = {"completion": completion, **scores, "advantage": adv[b]}
        lines.append(examples[b // G].about() | line)
    disk.write_lines(folder / f"step_{step:06d}.jsonl", lines)
    keep_questions(folder / f"questions_step_{step:06d}.jsonl", examples)


def keep_answers(
    folder: Path, names: list[str], name: str, step: int, examples: list[Example], texts: list[str]
) -> None:
    """Write the greedy answers to a held-out set at a step, with what they score."""
    lines = [
        example.about() | {"prediction": text} | rewards.marks(text, example)
        for example, text in zip(examples, texts)
    ]
    disk.write_lines(answers_file(folder, names, name, step), lines)


def answers_file(folder: Path, names: list[str], name: str, step: int) -> Path:
    """Name that file. names: of all held-out sets, of which this is one."""
    short = Path(name).name.replace(":", "-")
    return folder / f"eval_{names.index(name)}_{short}_{step:06d}.jsonl"


# --- questions ---


def keep_questions(path: Path, examples: Iterable[Example]) -> None:
    """Write the questions of a file of answers with their pictures, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    disk.write_lines(path, [question_of(example) for example in examples])


def keep_sets(folder: Path, sets: dict[str, list[Example]]) -> None:
    """Write the first questions of each held-out set into folder/questions_eval_N.jsonl."""
    for number, examples in enumerate(sets.values()):
        keep_questions(folder / f"questions_eval_{number}.jsonl", examples[:MOST])


def question_of(example: Example) -> dict:
    """Make the record of one question. Its picture is None where there is none to open."""
    line = example.about() | {"picture": picture_url(example)}
    if example.choices:
        line["choices"] = example.choices
    if example.meta.get("boxes") is not None:
        line |= {name: example.meta[name] for name in FOR_BOXES if name in example.meta}
    return line


def picture_url(example: Example) -> str | None:
    """Encode an example's pictures as one small one, as PNG or JPEG, which is shorter."""
    try:
        small = [small_picture(image, example.source) for image in example.images]
    except UserError as error:
        plots.warn(f"a question is kept without its picture: {error}")
        return None
    if not small:
        return None
    [picture] = sheets.in_one(small)
    side = SIDE if len(small) == 1 else 2 * SIDE
    picture.thumbnail((side, side))
    encoded = [encode(picture, "PNG"), encode(picture, "JPEG", quality=85)]
    return min(encoded, key=len)


def small_picture(image: images.Picture, where: str, exact: bool = False) -> Image.Image:
    """Decode a picture, not much larger than SIDE if its format allows that. UserError.

    exact: decode all of it first, so that a JPEG comes out as the same picture in a PNG does.
    """
    header = images.open_header(image, where)
    # One that is open already is the model's, too: not at this size.
    if header is not image and not exact:
        header.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG decodes to a fraction of its size
    try:
        small = images.upright_rgb(header)
    except images.IMAGE_ERRORS as error:
        raise images.not_opened(error, image, where) from None
    small = small.copy()
    small.thumbnail((2 * SIDE, 2 * SIDE))
    return small


def encode(picture: Image.Image, kind: str, **options: object) -> str:
    """Write a picture as a data URL."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return images.data_url(file.getvalue(), kind)
