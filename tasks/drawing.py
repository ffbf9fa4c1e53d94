"""Scenes of the toy sets: invent them, put them into words, draw them.

An object is (row, column, color, shape), or (row, column, color, shape, x, y, radius) in pixels
where size and place matter. Two things help the tiny model (docs/log.md has what was tried):
objects sit on the 28-pixel grid of Qwen2-VL's merged patches, so that each is one image token, and
the light changes across the scene, so that each patch shows where it is.
"""

import math
import random

from PIL import Image, ImageDraw

CELL = 28  # pixels: 2 x 2 patches of 14, merged by Qwen2-VL into one image token
GRID = 4  # cells per side
SIDE = GRID * CELL  # pixels of a picture's side
SCALE = 4  # pictures are drawn so much larger and shrunk once, for smooth edges
COLORS = {
    "red": (214, 48, 49),
    "green": (39, 158, 75),
    "blue": (45, 98, 214),
    "yellow": (236, 186, 30),
}
SHAPES = ("circle", "square", "triangle")
KINDS = (*COLORS, *SHAPES)
SPLITS = ("train", "test", "ood")
LEVELS = {1: (1, 2), 2: (1, 4), 3: (1, 6)}  # difficulty: fewest and most objects in a scene
OOD_OBJECTS = (7, 9)  # more than at any level
SIGNS = {  # 3 x 5 dots for each sign that is written into a picture, row by row
    "0": "111101101101111",
    "1": "010110010010111",
    "2": "111001111100111",
    "3": "111001011001111",
    "4": "101101111001001",
    "5": "111100111001111",
    "6": "111100111101111",
    "7": "111001010010010",
    "8": "111101111101111",
    "9": "111101111001111",
    "?": "111001010000010",
}

# --- scenes ---


def scene(rng: random.Random, fewest: int, most: int) -> list[tuple]:
    """Invent a scene: its objects in reading order."""
    if rng.random() < 0.33:  # a network that knows nothing learns its colours from small scenes
        number = rng.randint(fewest, min(fewest + 1, most))
    else:
        number = rng.randint(fewest, most)
    cells = sorted(rng.sample([(r, c) for r in range(GRID) for c in range(GRID)], number))
    # Two or three of each: then there is something to count, and something that does not count.
    colors = rng.sample(list(COLORS), rng.randint(2, 3))
    shapes = rng.sample(SHAPES, rng.randint(2, 3))
    return [(r, c, rng.choice(colors), rng.choice(shapes)) for r, c in cells]


def name_of(o: tuple) -> str:
    """Name an object: "red circle"."""
    return f"{o[2]} {o[3]}"


def rows_in_words(objects: list[tuple], notes: dict[tuple, str]) -> list[str]:
    """Put a scene into words, row by row, objects with their notes.

    ["Row 1: blue square, red circle (top right).", "Row 2: none.", "Row 3: none.", "Row 4: none."]
    """
    lines = []
    for row in range(GRID):
        words = [name_of(o) + notes.get(o, "") for o in objects if o[0] == row]
        lines.append(f"Row {row + 1}: {', '.join(words) or 'none'}.")
    return lines


def of_kind(objects: list[tuple], kind: str) -> list[tuple]:
    """List the objects of a colour or shape."""
    return [o for o in objects if kind in o]


def unique_kinds(objects: list[tuple]) -> list[tuple[str, tuple]]:
    """List colours and shapes that only one object has, with that object."""
    unique = []
    for kind in KINDS:
        holders = of_kind(objects, kind)
        if len(holders) == 1:
            unique.append((kind, holders[0]))
    return unique


# --- pictures ---


def corners_of(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """List the points of a shape's outline; a circle's are its square's corners."""
    if shape == "triangle":
        return [
            (x + 1.1 * radius * math.sin(a), y + (0.2 - 1.1 * math.cos(a)) * radius)
            for a in (0, 2.0944, 4.1888)
        ]
    return [(x - radius, y - radius), (x + radius, y + radius)]


def draw_text(
    draw: ImageDraw.ImageDraw, text: str, x: float, y: float, height: float, fill: tuple
) -> None:
    """Write `text`, made of SIGNS, around the point x, y: fonts differ between machines."""
    dot = height / 5
    left, top = x - dot * (4 * len(text) - 1) / 2, y - height / 2
    for n, sign in enumerate(text):
        for i, on in enumerate(SIGNS[sign]):
            if on == "1":
                x1, y1 = left + dot * (4 * n + i % 3), top + dot * (i // 3)
                draw.rectangle((x1, y1, x1 + dot, y1 + dot), fill=fill)


def draw_background(rng: random.Random) -> Image.Image:
    """Draw a grey plane under a warm light: darker downwards, redder to the right.

    On an even one the tiny model took two to three times as many steps to tell places apart.
    """
    grey = rng.randint(112, 124)
    corners = [
        (grey + lit - tint, grey + lit, grey + lit + tint)
        for lit in (30, -30)
        for tint in (30, -30)
    ]
    image = Image.new("RGB", (2, 2))
    image.putdata(corners)
    return image.resize((SIDE * SCALE,) * 2, Image.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))


def center_of(row: int, column: int, shift: float, rng: random.Random) -> tuple[float, float]:
    """Pick a point near the middle of a cell, in the large picture."""
    x = ((column + 0.5) * CELL + rng.uniform(-shift, shift)) * SCALE
    y = ((row + 0.5) * CELL + rng.uniform(-shift, shift)) * SCALE
    return x, y


def draw_object(draw: ImageDraw.ImageDraw, o: list | tuple, rng: random.Random) -> None:
    """Draw one object; one of the colour "number" is written, its shape is the text.

    Where it has no place and size of its own, they vary a little, as shades always do.
    """
    row, column, color, shape, *place = o
    if color == "number":
        x, y = center_of(row, column, 1, rng)
        height = (20, 16)[len(shape) - 1] * SCALE
        draw_text(draw, shape, x, y, height, (rng.randint(15, 45),) * 3)
        return
    if place:
        x, y, radius = (SCALE * value for value in place)
    else:
        radius = rng.uniform(9.5, 11.0) * SCALE
        x, y = center_of(row, column, 0.5, rng)
    fill = tuple(max(0, min(255, channel + rng.randint(-8, 8))) for channel in COLORS[color])
    edge = tuple(channel * 2 // 3 for channel in fill)
    outline = corners_of(shape, x, y, radius)
    if shape == "circle":
        draw.ellipse((*outline[0], *outline[1]), fill=fill, outline=edge, width=SCALE)
    elif shape == "square":
        draw.rectangle((*outline[0], *outline[1]), fill=fill, outline=edge, width=SCALE)
    else:
        draw.polygon(outline, fill=fill, outline=edge, width=SCALE)


def draw_scene(meta: dict, rng: random.Random) -> Image.Image:
    """Draw meta["objects"] above meta["lines"], [[x1, y1, x2, y2], ...] in pixels, if any."""
    image = draw_background(rng)
    draw = ImageDraw.Draw(image)
    for line in meta.get("lines", ()):
        draw.line([SCALE * v for v in line], fill=(225, 225, 225), width=2 * SCALE)
    for o in meta["objects"]:
        draw_object(draw, o, rng)
    return image.resize((SIDE,) * 2, Image.LANCZOS)
