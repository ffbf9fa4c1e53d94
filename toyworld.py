"""Procedurally drawn tasks with written-out reasoning: unlimited, seeded, no download.

One example of `count`, as every task here returns it (a plain dict; data.py turns it into an `Example`):

    image     112 x 112 PIL picture, four rows of four cells, each cell 28 x 28 pixels
    question  "How many red objects are there?"
    answer    "2"
    solution  "<think> Looking for red objects. Row 1: red circle (1), blue square. Row 2: none. Row 3: red square (2).
              Row 4: none. </think><answer> 2 </answer>"
    meta      {"objects": [[row, column, color, shape], ...], ...}   what was drawn, for people and for tests

Three things about these pictures are there for the tiny model (docs/log.md has what was tried). Objects sit on the 28-pixel grid of Qwen2-VL's
merged patches, so that one object is one image token. Scenes of one or two objects are common, because they are where a network
that knows nothing learns its first colours. And the light changes across the scene, so that a patch shows where it is.

**Splits are disjoint by construction.** A scene belongs to `test` if a checksum of its contents says so, and to `train`
otherwise, whatever seed or index drew it. `ood` holds more objects than any training scene does.

**The fallible teacher.** With `teacher="fallible"` the worked solution is that of somebody who overlooks each object in the
right-hand column two times in three, and answers accordingly. The gold `answer` stays right. A model warm-started on such solutions
reasons fluently and badly, which is where reinforcement learning from answers alone can show that it does something.
"""
import itertools
import math
import random
import zlib

from PIL import Image, ImageDraw

CELL = 28                                   # pixels: 2 x 2 patches of 14, merged by Qwen2-VL into one image token
GRID = 4                                    # cells per side
COLORS = {"red": (214, 48, 49), "green": (39, 158, 75), "blue": (45, 98, 214), "yellow": (236, 186, 30)}
SHAPES = ("circle", "square", "triangle")
SPLITS = ("train", "test", "ood")
TEACHERS = ("fallible", "gold")
LEVELS = {1: (1, 2), 2: (1, 4), 3: (1, 6)}  # difficulty: fewest and most objects in a scene
OOD_OBJECTS = (7, 9)                        # more than at any level
OVERLOOKED = 2 / 3                          # the fallible teacher's chance of missing an object in the right-hand column


def draw_scene(meta, rng):
    """The picture of meta["objects"], a list of (row, column, color, shape). Sizes and shades vary a little from object to object."""
    scale = 4                               # draw large, shrink once: smooth edges
    # A grey plane, as in CLEVR, under a warm light from the right and above: darker downwards, redder to the right. So each patch shows where
    # it is; on an even background the tiny model has to work that out of M-RoPE alone, which took it two to three times as many steps.
    grey = rng.randint(112, 124)
    corners = [(grey + lit - tint, grey + lit, grey + lit + tint) for lit in (30, -30) for tint in (30, -30)]
    image = Image.new("RGB", (2, 2))
    image.putdata(corners)
    image = image.resize((GRID * CELL * scale,) * 2, Image.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))
    draw = ImageDraw.Draw(image)
    for row, column, color, shape in meta["objects"]:
        radius = rng.uniform(9.5, 11.0) * scale
        x, y = ((column + 0.5) * CELL + rng.uniform(-0.5, 0.5)) * scale, ((row + 0.5) * CELL + rng.uniform(-0.5, 0.5)) * scale
        fill = tuple(max(0, min(255, channel + rng.randint(-8, 8))) for channel in COLORS[color])
        edge = tuple(channel * 2 // 3 for channel in fill)
        if shape == "circle":
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=edge, width=scale)
        elif shape == "square":
            draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=edge, width=scale)
        else:
            corners = [(x + 1.1 * radius * math.sin(a), y + (0.2 - 1.1 * math.cos(a)) * radius) for a in (0, 2.0944, 4.1888)]
            draw.polygon(corners, fill=fill, outline=edge, width=scale)
    return image.resize((GRID * CELL,) * 2, Image.LANCZOS)


def count(rng, fewest, most, teacher):
    """How many objects of a kind are in the picture? Returns the dict shown at the top of this file, without its image."""
    # A third of the scenes are small: from them the first words are learned (see the top of the file).
    number = rng.randint(fewest, min(fewest + 1, most)) if rng.random() < 0.33 else rng.randint(fewest, most)
    cells = sorted(rng.sample([(r, c) for r in range(GRID) for c in range(GRID)], number))
    # Two or three colours and shapes in a scene, so that there is something to count, and something that does not count.
    colors, shapes = rng.sample(list(COLORS), rng.randint(2, 3)), rng.sample(SHAPES, rng.randint(2, 3))
    objects = [(r, c, rng.choice(colors), rng.choice(shapes)) for r, c in cells]

    # Ask about something that is there four times in five, so that 0 is an answer but not the usual one.
    _, _, color, shape = rng.choice(objects)
    if rng.random() < 0.2:
        color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    wanted = rng.choice((color, shape))
    matches = lambda o: wanted in o

    seen = objects
    if teacher == "fallible":
        seen = [o for o in objects if not (o[1] == GRID - 1 and rng.random() < OVERLOOKED)]
    lines, total = [f"Looking for {wanted} objects."], 0
    for row in range(GRID):
        words = []
        for o in seen:
            if o[0] == row:
                total += matches(o)
                words.append(f"{o[2]} {o[3]} ({total})" if matches(o) else f"{o[2]} {o[3]}")
        lines.append(f"Row {row + 1}: {', '.join(words) or 'none'}.")
    return {
        "question": f"How many {wanted} objects are there?",
        "answer": str(sum(map(matches, objects))),
        "solution": f"<think> {' '.join(lines)} </think><answer> {total} </answer>",
        "meta": {"objects": [list(o) for o in objects], "wanted": wanted, "taught": str(total)},
    }


TASKS = {"count": (count, draw_scene)}      # name: (who invents a record, who draws it from record["meta"])


def in_test(record):
    """Whether a scene belongs to the test split: one in eight does, by a checksum of what is drawn (not of seed or index)."""
    return zlib.crc32(repr(record["meta"]["objects"]).encode()) % 8 == 0


def example(task, split="train", index=0, seed=0, level=3, teacher="fallible"):
    """Example `index` of an endless, reproducible stream. The same arguments give the same example on every machine.

    task: a key of TASKS; split: train, test or ood; level: 1 to 3 (most objects: 2, 4, 6; ignored by ood); teacher: who wrote the
    solution, fallible or gold (the answer is right either way).
    """
    fewest, most = OOD_OBJECTS if split == "ood" else LEVELS[level]
    compose, draw = TASKS[task]
    for attempt in itertools.count():
        # a string seeds by its SHA-512: the same on every machine and Python. Composing and drawing have a generator each, so that the
        # teacher, who draws lots too, changes neither the scene nor its picture.
        record = compose(random.Random(f"{task} {split} {seed} {index} {attempt}"), fewest, most, teacher)
        if split == "ood" or in_test(record) == (split == "test"):
            return {"image": draw(record["meta"], random.Random(f"draw {task} {split} {seed} {index}")), **record}


def tokenizer_text(samples=200):
    """Yields the texts from which the tiny model's tokenizer learns its words: every task, every split, both teachers."""
    for task in sorted(TASKS):
        for index in range(samples):
            for split in SPLITS:
                record = example(task, split, index, teacher=TEACHERS[index % 2])
                yield record["question"]
                yield record["solution"]
