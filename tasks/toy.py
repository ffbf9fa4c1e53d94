"""Procedurally drawn tasks with written-out reasoning: unlimited, seeded, no download.

One example of `count`, as every task here returns it (a plain dict; ToyStream turns it into an `Example`):

    image     112 x 112 PIL picture, four rows of four cells, each cell 28 x 28 pixels
    question  "How many red objects are there?"
    answer    "2"
    solution  "<think> Looking for red objects. Row 1: red circle (1), blue square. Row 2: none. Row 3: red square (2).
              Row 4: none. </think><answer> 2 </answer>"
    meta      {"objects": [[row, column, color, shape], ...], ...}   what was drawn, for people and for tests

`spatial` asks in which quarter of the picture an object is (multiple choice, with "choices"). `ground` asks for boxes: of one object, or of all
objects of a kind, with their names. Its gold is meta["boxes"], in pixels of the picture, meta["size"]; its
worked solutions write boxes as Qwen2-VL does, from 0 to 1000 across the picture's width and height.

Three things about these pictures are there for the tiny model (docs/log.md has what was tried). Objects sit on the 28-pixel grid of Qwen2-VL's
merged patches, so that one object is one image token. Scenes of one or two objects are common, because they are where a network
that knows nothing learns its first colours. And the light changes across the scene, so that a patch shows where it is.

**Splits are disjoint by construction.** A scene belongs to `test` if a checksum of its contents says so, and to `train`
otherwise, whatever seed or index drew it. `ood` holds more objects than any training scene does.

**The fallible teacher.** With `teacher="fallible"` the worked solution is that of somebody who overlooks each object in the
right-hand column two times in three, and answers accordingly; his boxes, two times in three, are drawn carelessly wide. The gold `answer`
stays right. A model warm-started on such solutions reasons fluently and badly, which is where reinforcement learning from answers alone
can show that it does something.
"""

import functools
import itertools
import json
import random
import zlib

from plumbing import flags
from tasks import box_fields, count, drawing, geometry, ground, layouts, prompts, spatial, table
from tasks.example import Example
from tasks.teacher import DIGITS

# -------------------------------------------------------------------------------------------------------------- readers


class ToyStream:
    """An endless, indexable list of examples of a toy task (toyworld.example): stream[i] is always the same example."""

    def __init__(
        self,
        task,
        split,
        seed,
        level,
        teacher,
        box_format="norm1000",
        pixels=(flags.MIN_PIXELS, flags.MAX_PIXELS),
    ):
        self.task, self.split, self.seed, self.level, self.teacher, self.box_format, self.pixels = (
            task,
            split,
            seed,
            level,
            teacher,
            box_format,
            pixels,
        )

    def __getitem__(self, index):
        record = make_example(self.task, self.split, index, self.seed, self.level, self.teacher)
        example = Example(
            f"{self.task}:{self.split}:{self.seed}:{index}",
            [record["image"]],
            record["question"],
            record["answer"],
            record.get("choices"),
            record["solution"],
            self.task,
            record["meta"],
            f"toy task {self.task}",
        )
        if (
            record.get("ask") == "select"
        ):  # a mixed task (toyworld.basics): each question is put in its own way
            example.question = prompts.select_prompt(
                prompts.question_text(example, "think"), example.meta["candidates"]
            )
        if record.get("ask", "reason") != "reason":
            example.meta["prompt_template"] = "answer" if record["ask"] == "direct" else "none"
        box_fields.set_box_format(example, self.box_format, *self.pixels)
        if (
            "boxes" in example.meta and self.box_format != "norm1000"
        ):  # the toy teacher writes 0 to 1000; what he thinks, in pixels, is meta["taught"]
            example.solution = layouts.with_answer(
                example.solution,
                box_fields.answer_text(example, json.loads(example.meta["taught"])),
            )
        return example


def planted_candidates(task, rng, fewest, most):
    """(record, texts, at): three worked solutions with three answers to a question of `table` or `geometry`, of which number `at` is right. Nothing but the picture tells which:
    the three readings are drawn first, by a law that knows no order, and then lots decide which of them the picture shows. So whatever rule reads the texts alone is right one
    time in three. None of them slips in arithmetic, which would be found without looking.

    table: a table, and two more that differ from it, or one from the other, by a row (three times in four) or a digit. geometry: three figures (three times in four), or one in two sizes
    and what it is taken for.
    """
    if task == "geometry":
        readings = geometry.geometry_readings(
            rng,
            geometry.FIGURES_AT[most > 2],
            geometry.ANGLES,
            mixed=most > 2 and rng.random() < 0.75,
        )
        record = geometry.geometry_record(readings, rng)
        texts = [
            geometry.geometry_solution(reading, record["meta"]["values"])[0]
            for reading in readings[:3]
        ]
    else:
        readings, wanted = [], None
        while len({table.table_solution(reading, wanted)[1] for reading in readings}) < 3:
            rows, wanted = table.any_table(rng, fewest, most)
            kinds = rng.choices(("skip", "invent", "misread"), (3, 3, 2), k=2)
            one = table.table_flaw(rows, rng, kinds[0])
            two = one and table.table_flaw(rng.choice((rows, one)), rng, kinds[1])
            readings = [rows, one, two] if two else []
            rng.shuffle(readings)
        record = table.table_record(readings[0], wanted, rng)
        texts = [table.table_solution(reading, wanted)[0] for reading in readings]
    at, wrong = rng.randrange(3), rng.sample(texts[1:], 2)
    return record, [*wrong[:at], texts[0], *wrong[at:]], at


def read_aloud_record(task, rng, fewest, most, teacher):
    """What there is to read in a picture of `table` or `geometry`; for a table, one time in four, a comparison as it comes up there. (Sums among the lessons keep figures from being read.)"""
    found = TASKS[task][0](rng, fewest, most, "gold")
    if task == "geometry":
        figure, angle = found["meta"]["reading"]
        question, answer = "Read the figure.", f"{figure.capitalize()}: {angle}."
    elif rng.random() < 0.25:
        a, b, word = rng.choice(DIGITS), rng.randint(2, 5), rng.choice(("greater", "less"))
        question, answer = (
            f"Is {a} {word} than {b}?",
            f"{'yes' if table.counts_here(a, (word, b)) else 'no'}, {a} and {b}",
        )
    else:
        question, answer = (
            "Read the table.",
            " ".join(
                f"{label} {', '.join(map(str, digits))}."
                for label, digits in table.table_rows(found["meta"]["objects"])
            ),
        )
    found.pop("choices", None)
    return {**found, "ask": "read", "question": question, "answer": answer, "solution": answer}


def select(task, rng, fewest, most, teacher):
    """A question with three candidates in its meta (`planted`), which no rule about the text helps with; out of distribution, where pictures are others, a plain one."""
    if fewest >= drawing.OOD_OBJECTS[0]:
        return {**TASKS[task][0](rng, fewest, most, teacher), "ask": "reason"}
    record, texts, at = planted_candidates(task, rng, fewest, most)
    return {
        **record,
        "ask": "select",
        "solution": f"<answer> {record['answer']} </answer>",
        "meta": {**record["meta"], "candidates": texts, "right_at": at},
    }


def repeat_candidates(texts, at, rng):
    """Two to six candidates made of three, as samples of one question are: one, two or all of them, the right one among them, some of them several times. How often a text is
    there says nothing."""
    kept = [texts[at], *rng.sample(texts[:at] + texts[at + 1 :], rng.randrange(3))]
    found = kept + rng.choices(kept, k=rng.randint(max(0, 2 - len(kept)), 6 - len(kept)))
    rng.shuffle(found)
    return found


def lesson(task, rng, fewest, most, teacher):
    """What a published checkpoint brings along and the tiny model has to learn first, about pictures of `task` (table or geometry), mixed: to read them aloud (one in ten), to compare
    candidates (nine in twenty: `planted`, made a `crowd`), to answer without reasoning (one in ten), and with reasoning, which it learns from this teacher.

    A record's `ask` says how its question is to be put (data.ToyStream): "read" as it stands, "select" with the "candidates" of its meta, "direct" for the answer alone,
    "reason" as usual.
    """
    lots = random.Random(
        rng.random()
    )  # the teacher, who draws from rng, changes nothing but his own solution
    found, gold, at = (
        TASKS[task][0](rng, fewest, most, teacher),
        TASKS[task][0](lots, fewest, most, "gold"),
        lots.random(),
    )
    if at < 0.1:
        return read_aloud_record(task, lots, fewest, most, teacher)
    if at < 0.55:
        found = select(task, lots, fewest, most, teacher)
        if found["ask"] == "select":
            found["meta"]["candidates"] = repeat_candidates(
                found["meta"]["candidates"], found["meta"].pop("right_at"), lots
            )
        return found
    if at < 0.65:
        return {**gold, "ask": "direct", "solution": f"<answer> {gold['answer']} </answer>"}
    return {**found, "ask": "reason"}


# name: (who invents a record, who draws it from record["meta"])
TASKS = {
    "count": (count.count, drawing.draw_scene),
    "table": (table.table, drawing.draw_scene),
    "geometry": (geometry.geometry, drawing.draw_scene),
    "spatial": (spatial.spatial, drawing.draw_scene),
    "ground": (ground.ground, drawing.draw_scene),
}


TASKS |= {
    f"{task}_{name}": (functools.partial(compose, task), drawing.draw_scene)
    for task in ("table", "geometry")
    for name, compose in (("reading", read_aloud_record), ("select", select), ("basics", lesson))
}


def in_test(record):
    """Whether a scene belongs to the test split: one in eight does, by a checksum of what is drawn (not of seed or index)."""
    return zlib.crc32(repr([o[:4] for o in record["meta"]["objects"]]).encode()) % 8 == 0


def make_record(task, split="train", index=0, seed=0, level=3, teacher="fallible"):
    """`example` without its picture: a hundred times as fast."""
    fewest, most = drawing.OOD_OBJECTS if split == "ood" else drawing.LEVELS[level]
    compose, _ = TASKS[task]
    for attempt in itertools.count():
        # a string seeds by its SHA-512: the same on every machine and Python. Composing and drawing have a generator each, so that the
        # teacher, who draws lots too, changes neither the scene nor its picture.
        found = compose(
            random.Random(f"{task} {split} {seed} {index} {attempt}"), fewest, most, teacher
        )
        if split == "ood" or in_test(found) == (split == "test"):
            return found


def make_example(task, split="train", index=0, seed=0, level=3, teacher="fallible"):
    """Example `index` of an endless, reproducible stream. The same arguments give the same example on every machine.

    task: a key of TASKS; split: train, test or ood; level: 1 to 3 (most objects: 2, 4, 6; ignored by ood); teacher: who wrote the
    solution, fallible or gold (the answer is right either way).
    """
    found = make_record(task, split, index, seed, level, teacher)
    _, draw = TASKS[task]
    return {
        "image": draw(found["meta"], random.Random(f"draw {task} {split} {seed} {index}")),
        **found,
    }
