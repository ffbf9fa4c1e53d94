"""Question sets: `read` opens any of them. Most files here are one set, or one step of reading:

folders, splits, hub, mixtures           what --data names: which files, which split
files, json_records, tables, parquet     rows of a file
layouts                                  which reader a row needs, and what must hold of all
plain; chats, turns; published           the readers: plain, conversations, the published sets
record_fields, choice_forms              texts and choices, checked
image_fields, marks                      which fields are pictures, where these stand in a text
gold_keys; worked_answers, answer_marks, thinking    the gold, under a key or in a worked text
box_texts, placeholders, box_fields      a gold of boxes
option_texts, prompts                    how a question is asked
images, stored                           pictures, found and decoded
pairs                                    preference pairs, which layouts refuses
inspection                               `python data.py FILE`
contamination; likeness, wording         what training and evaluation have in common
"""

import difflib
import os

from grading import boxes
from plumbing import flags
from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.text import short
from tasks import (
    box_fields,
    drawing,
    files,
    folders,
    hub,
    image_fields,
    images,
    layouts,
    toy,
    worked_answers,
)
from tasks.example import Example
from tasks.stored import Store


def read(
    spec: str,
    seed: int = 0,
    level: int = 3,
    teacher: str = "fallible",
    box_format: str = "norm1000",
    min_pixels: int = flags.MIN_PIXELS,
    max_pixels: int = flags.MAX_PIXELS,
    token_side: int = images.TOKEN_SIDE,
    needs_answer: bool = True,
    training: bool = False,
    bad: BadRecords = REFUSE,
) -> list[Example] | toy.ToyStream:
    """Read --data: a list of Examples, or a stream without end of a toy task.

    seed, level, teacher: of toy tasks. box_format: how the model writes boxes; the limits on
    pixels and the side of an image token are for "resized". needs_answer: see
    `layouts.to_example`. training: see `folders.files_of`. bad: what happens to records that
    cannot be used.
    UserError, naming file, line and remedy, for anything that would fail later.
    """
    name, split = folders.split_name(spec)
    if box_format not in boxes.BOX_FORMATS:
        raise UserError(
            f"--box-format {box_format} is unknown; there are {', '.join(boxes.BOX_FORMATS)}"
        )
    must_exist(spec)
    if not os.path.exists(name) and not hub.is_name(name):
        split = split or "train"
        # Every run is measured on the same questions, whatever its seed.
        seed = seed if split == "train" else 0
        pixels = (min_pixels, max_pixels, token_side)
        return toy.ToyStream(name, split, seed, level, teacher, box_format, pixels)
    examples = read_files(spec, needs_answer, training, bad)

    def as_model(example: Example) -> None:
        """Write an example's boxes as the model does."""
        as_asked(example, box_format, min_pixels, max_pixels, token_side)

    return images.check_images(bad.usable(examples, as_model), bad=bad)


def must_exist(spec: str, flag: str = "--data") -> None:
    """Raise UserError unless a flag names a file, a folder, a toy task, or perhaps a hub's set."""
    name, _ = folders.split_name(spec)
    task, _, split = name.rpartition(":")
    if task in toy.TASKS and not os.path.exists(name):
        near = difflib.get_close_matches(split, drawing.SPLITS, 1) or ["test"]
        raise UserError(
            f"{flag} {short(spec)}: the splits of a toy task are {', '.join(drawing.SPLITS)}; "
            f"type {flag} {task}:{near[0]}"
        )
    # Unlike path.exists(), this is also False for a name too long.
    if not os.path.exists(name) and not hub.is_name(name) and name not in toy.TASKS:
        raise UserError(
            f"{flag} {short(spec)}: no such file or folder, and not a toy task "
            f"({', '.join(sorted(toy.TASKS))}); check the path"
            f"{files.nearest(spec, toy.TASKS)}"
        )


def as_asked(
    example: Example, box_format: str, min_pixels: int, max_pixels: int, token_side: int
) -> None:
    """Write an example's boxes as the model does."""
    box_fields.set_box_format(example, box_format, min_pixels, max_pixels, token_side)
    if "boxes" in example.meta and example.solution:
        # Worked out in the file's convention, imitated in the model's.
        answer = box_fields.answer_text(example, example.meta["boxes"])
        example.solution = worked_answers.with_answer(example.solution, answer)


def read_files(
    spec: str, needs_answer: bool, training: bool = False, bad: BadRecords = REFUSE
) -> list[Example]:
    """Read the records of a file, a folder or a set; their ids become different."""
    examples, names = [], []
    store = Store()
    for file, place, name, record in folders.rows_in(spec, layouts.EXAMPLE_KEYS, training, bad):
        with bad.checking(f"{file}:{place}", name):
            example = layouts.to_example(record, file, place, needs_answer, name)
            images.keep_embedded(example, store)
            examples.append(example)
            names.append(name)
    bad.must_leave(examples)
    files.tell_apart(examples, names, spec)
    image_fields.say_without_pictures(examples, spec)
    return examples
