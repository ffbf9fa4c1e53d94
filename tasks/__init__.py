"""Question sets: a set is a file of this folder, `read` opens any of them."""

import os
from pathlib import Path
from typing import Any

from grading import boxes
from plumbing import flags
from plumbing.errors import UserError
from plumbing.text import short
from tasks import box_fields, files, image_fields, images, layouts, mixtures, toy, worked_answers
from tasks.example import Example


def read(
    spec: str,
    seed: int = 0,
    level: int = 3,
    teacher: str = "fallible",
    box_format: str = "norm1000",
    min_pixels: int = flags.MIN_PIXELS,
    max_pixels: int = flags.MAX_PIXELS,
    needs_answer: bool = True,
) -> list[Example] | toy.ToyStream:
    """Read --data: a list of Examples, or a stream without end of a toy task.

    seed, level, teacher: of toy tasks. box_format: how the model writes boxes; the limits on
    pixels are for "resized". needs_answer: see `layouts.to_example`.
    UserError, naming file, line and remedy, for anything that would fail later.
    """
    name, split = files.split_name(spec)
    if box_format not in boxes.BOX_FORMATS:
        raise UserError(
            f"--box-format {box_format} is unknown; there are {', '.join(boxes.BOX_FORMATS)}"
        )
    if not os.path.exists(name):  # unlike path.exists(), also False for a name too long
        if name not in toy.TASKS:
            raise UserError(
                f"--data {short(spec)}: no such file or folder, "
                f"and not a toy task ({', '.join(sorted(toy.TASKS))})"
            )
        split = split or "train"
        # Every run is measured on the same questions, whatever its seed.
        seed = seed if split == "train" else 0
        pixels = (min_pixels, max_pixels)
        return toy.ToyStream(name, split, seed, level, teacher, box_format, pixels)
    examples = read_files(spec, needs_answer)
    for example in examples:
        as_asked(example, box_format, min_pixels, max_pixels)
    images.check_images(examples)
    return examples


def as_asked(example: Example, box_format: str, min_pixels: int, max_pixels: int) -> None:
    """Write an example's boxes as the model does."""
    box_fields.set_box_format(example, box_format, min_pixels, max_pixels)
    if "boxes" in example.meta and example.solution:
        # Worked out in the file's convention, imitated in the model's.
        answer = box_fields.answer_text(example, example.meta["boxes"])
        example.solution = worked_answers.with_answer(example.solution, answer)


def read_files(spec: str, needs_answer: bool) -> list[Example]:
    """Read the records of a file or of a folder's files; their ids become different."""
    examples, names = [], []
    for file, place, name, record in rows_of_spec(spec):
        examples.append(layouts.to_example(record, file, place, needs_answer, name))
        names.append(name)
    files.tell_apart(examples, names, spec)
    image_fields.say_without_pictures(examples, spec)
    return examples


def rows_of_spec(spec: str) -> list[tuple[Path, Any, str, Any]]:
    """List (file, place, name, record) of a file, a folder's files or a mixture."""
    if os.path.isfile(spec) and Path(spec).suffix in mixtures.SUFFIXES:
        return mixtures.rows_of_mixture(spec, layouts.EXAMPLE_KEYS)
    rows = []
    for file in files.files_of(spec):
        for row in files.rows_of(file, layouts.EXAMPLE_KEYS, files.name_in(spec, file)):
            rows.append((file, *row))
    return rows
