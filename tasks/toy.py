"""Toy sets: drawn questions with worked solutions. Unlimited, seeded, nothing to download.

A set's file makes records, and begins with one. `make_example` adds the picture, of 112 x 112
pixels; `ToyStream` makes an `Example` of it. meta["objects"] is what is drawn, meta["taught"] what
the teacher answers.

The splits are disjoint by construction: a checksum of its contents says whether a scene belongs to
`test` or to `train`, whatever seed or index drew it. `ood` holds more objects than any of these.

`table` and `geometry` have lessons too, about what a published checkpoint knows and the tiny model
has to learn first. A lesson's record says with `ask` how it is put: "read" as it stands, "select"
with the candidates in its meta, "direct" for the answer alone, "reason" as usual.
"""

import functools
import itertools
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from plumbing import flags
from tasks import (
    box_fields,
    count,
    drawing,
    geometry,
    ground,
    images,
    prompts,
    spatial,
    table,
    worked_answers,
)
from tasks.example import Example


class ToySet(NamedTuple):
    """What a toy set does; lessons need the last two.

    draw: None for questions without a picture.
    candidates: (rng, fewest, most) -> a record and three worked solutions, the right one first.
    read: (record, rng) -> a question about what there is to read in its picture, and the answer.
    """

    make: Callable[[random.Random, int, int, str], dict]  # (rng, fewest, most, teacher) -> record
    draw: Callable[[dict, random.Random], Image.Image] | None = drawing.draw_scene
    candidates: Callable[[random.Random, int, int], tuple[dict, list[str]]] | None = None
    read: Callable[[dict, random.Random], tuple[str, str]] | None = None


# --- lessons ---


def planted_candidates(
    task: str, rng: random.Random, fewest: int, most: int
) -> tuple[dict, list[str], int]:
    """Invent (record, three worked solutions, index of the right one).

    Three readings are drawn independently of order, then one is picked at random to be drawn. A
    rule that reads the texts alone is right one time in three. No solution slips in arithmetic,
    which would be found without looking.
    """
    record, (right, *wrong) = TASKS[task].candidates(rng, fewest, most)
    place = rng.randrange(3)
    texts = rng.sample(wrong, 2)
    texts.insert(place, right)
    return record, texts, place


def reading_lesson(task: str, rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Ask for what there is to read in a picture."""
    record = TASKS[task].make(rng, fewest, most, "gold")
    question, answer = TASKS[task].read(record, rng)
    record.pop("choices", None)
    return {**record, "ask": "read", "question": question, "answer": answer, "solution": answer}


def select_lesson(task: str, rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Ask which of three candidates is right; out of distribution, a plain question."""
    if fewest >= drawing.OOD_OBJECTS[0]:
        return {**TASKS[task].make(rng, fewest, most, teacher), "ask": "reason"}
    record, texts, place = planted_candidates(task, rng, fewest, most)
    return {
        **record,
        "ask": "select",
        "solution": f"<answer> {record['answer']} </answer>",
        "meta": {**record["meta"], "candidates": texts, "right_at": place},
    }


def repeat_candidates(texts: list[str], place: int, rng: random.Random) -> list[str]:
    """Make two to six candidates of three, the right one among them.

    How often a text is there tells nothing.
    """
    kept = [texts[place], *rng.sample(texts[:place] + texts[place + 1 :], rng.randrange(3))]
    repeats = rng.randint(max(0, 2 - len(kept)), 6 - len(kept))
    candidates = kept + rng.choices(kept, k=repeats)
    rng.shuffle(candidates)
    return candidates


def lesson(task: str, rng: random.Random, fewest: int, most: int, teacher: str) -> dict:
    """Mix the lessons of a set.

    Read one in ten, select nine in twenty, answer directly one in ten; reason about the rest.
    """
    # The teacher draws from rng, and so changes nothing but its own solution.
    lesson_rng = random.Random(rng.random())
    record = TASKS[task].make(rng, fewest, most, teacher)
    gold = TASKS[task].make(lesson_rng, fewest, most, "gold")
    kind = lesson_rng.random()
    if kind < 0.1:
        return reading_lesson(task, lesson_rng, fewest, most, teacher)
    if kind < 0.55:
        record = select_lesson(task, lesson_rng, fewest, most, teacher)
        meta = record["meta"]
        if record["ask"] == "select":
            place = meta.pop("right_at")
            meta["candidates"] = repeat_candidates(meta["candidates"], place, lesson_rng)
        return record
    if kind < 0.65:
        return {**gold, "ask": "direct", "solution": f"<answer> {gold['answer']} </answer>"}
    return {**record, "ask": "reason"}


LESSONS = {"reading": reading_lesson, "select": select_lesson, "basics": lesson}
TASKS = {
    "count": ToySet(count.count),
    "count_captions": ToySet(count.count_captions),
    "count_words": ToySet(count.count_words, draw=None),
    "spatial": ToySet(spatial.spatial),
    "ground": ToySet(ground.ground),
    "table": ToySet(table.table, candidates=table.table_candidates, read=table.read_table),
    "geometry": ToySet(
        geometry.geometry, candidates=geometry.geometry_candidates, read=geometry.read_figure
    ),
}
TASKS |= {
    f"{name}_{kind}": ToySet(functools.partial(make, name))
    for name, toy_set in TASKS.items()
    if toy_set.candidates
    for kind, make in LESSONS.items()
}

# --- examples ---


def in_test(record: dict) -> bool:
    """Tell whether a scene belongs to the test split: one in eight does.

    By a checksum of what is drawn, without sizes; not of seed or index.
    """
    scene = [o[:4] for o in record["meta"]["objects"]]
    return zlib.crc32(repr(scene).encode()) % 8 == 0


def make_record(
    task: str,
    split: str = "train",
    index: int = 0,
    seed: int = 0,
    level: int = 3,
    teacher: str = "fallible",
) -> dict:
    """Make `make_example` without its picture: a hundred times as fast."""
    fewest, most = drawing.OOD_OBJECTS if split == "ood" else drawing.LEVELS[level]
    for attempt in itertools.count():
        # A text seeds by its SHA-512: the same on every machine. Drawing has a generator of its
        # own, so that the teacher changes neither the scene nor its picture.
        rng = random.Random(f"{task} {split} {seed} {index} {attempt}")
        record = TASKS[task].make(rng, fewest, most, teacher)
        if split == "ood" or in_test(record) == (split == "test"):
            return record


def make_example(
    task: str,
    split: str = "train",
    index: int = 0,
    seed: int = 0,
    level: int = 3,
    teacher: str = "fallible",
) -> dict:
    """Make example `index` of an endless stream: the same on every machine, with its picture.

    split: train, test or ood. level: 1 to 3 (at most 2, 4 or 6 objects; ignored by ood).
    teacher: who wrote the solution, fallible or gold; the answer is right either way.
    """
    record = make_record(task, split, index, seed, level, teacher)
    if not TASKS[task].draw:
        return record
    rng = random.Random(f"draw {task} {split} {seed} {index}")
    return {"image": TASKS[task].draw(record["meta"], rng), **record}


@dataclass(eq=False)
class ToyStream:
    """The Examples of a toy set without end; stream[i] never changes.

    pixels: for box_format "resized", the fewest and the most of a picture that the model sees,
    and the side of an image token.
    """

    task: str
    split: str
    seed: int
    level: int
    teacher: str
    box_format: str = "norm1000"
    pixels: tuple[int, int, int] = (flags.MIN_PIXELS, flags.MAX_PIXELS, images.TOKEN_SIDE)

    def __getitem__(self, index: int) -> Example:
        """Make the example at this place; no index is too large."""
        record = make_example(self.task, self.split, index, self.seed, self.level, self.teacher)
        example = Example(
            id=f"{self.task}:{self.split}:{self.seed}:{index}",
            images=[record["image"]] if "image" in record else [],
            question=record["question"],
            answer=record["answer"],
            choices=record.get("choices"),
            solution=record["solution"],
            task=self.task,
            meta=record["meta"],
            source=f"toy task {self.task}",
        )
        ask = record.get("ask", "reason")
        if ask == "select":
            question = prompts.question_text(example, "think")
            example.question = prompts.select_prompt(question, example.meta["candidates"])
        if ask != "reason":
            example.meta["prompt_template"] = "answer" if ask == "direct" else "none"
        box_fields.set_box_format(example, self.box_format, *self.pixels)
        if "boxes" in example.meta and self.box_format != "norm1000":
            # The teacher writes 0 to 1000; meta["taught"] has its boxes in pixels.
            taught = json.loads(example.meta["taught"])
            answer = box_fields.answer_text(example, taught)
            example.solution = worked_answers.with_answer(example.solution, answer)
        return example
