"""Question sets: a set is a file, `read` opens any of them."""

import os

from grading import boxes
from plumbing import flags, text
from plumbing.errors import UserError
from tasks import box_fields, files, image_fields, images, layouts, toy


def read(
    spec,
    seed=0,
    level=3,
    teacher="fallible",
    box_format="norm1000",
    min_pixels=flags.MIN_PIXELS,
    max_pixels=flags.MAX_PIXELS,
    needs_answer=True,
):
    """--data or --eval-data to a list of Example, or to a ToyStream (no length) for a toy task.

    seed, level and teacher are for toy tasks. The test and ood splits of a toy task do not depend on the seed: every run is
    measured on the same questions. box_format: how the model writes boxes, for box examples; the two limits are for "resized". needs_answer: see `to_example`.
    Raises UserError, naming file, line and remedy, for anything that would fail later: every image is looked at now.
    """
    name, split = files.split_name(spec)
    if box_format not in boxes.BOX_FORMATS:
        raise UserError(
            f"--box-format {box_format} is unknown; there are {', '.join(boxes.BOX_FORMATS)}"
        )
    if name in toy.TASKS and not os.path.exists(name):
        return toy.ToyStream(
            name,
            split or "train",
            seed if split in (None, "train") else 0,
            level,
            teacher,
            box_format,
            (min_pixels, max_pixels),
        )
    if not os.path.exists(name):  # unlike path.exists(), also False for a name too long
        raise UserError(
            f"--data {text.short(spec)}: no such file or folder, and not a toy task ({', '.join(sorted(toy.TASKS))})"
        )
    examples, names = [], []
    for file in files.files_of(spec):
        for place, name, record in files.rows_of(
            file, layouts.EXAMPLE_KEYS, files.name_in(spec, file)
        ):
            examples.append(layouts.to_example(record, file, place, needs_answer, name))
            names.append(name)
    files.tell_apart(examples, names, spec)
    image_fields.say_without_pictures(examples, spec)
    for example in examples:
        box_fields.set_box_format(example, box_format, min_pixels, max_pixels)
        if (
            "boxes" in example.meta and example.solution
        ):  # worked out in the file's convention, to be imitated in the model's
            example.solution = layouts.with_answer(
                example.solution, box_fields.answer_text(example, example.meta["boxes"])
            )
    images.check_images(examples)
    return examples
