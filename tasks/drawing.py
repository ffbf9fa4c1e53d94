"""Draw small scenes: the pictures of the toy sets."""

import math

from PIL import Image, ImageDraw

CELL = 28  # pixels: 2 x 2 patches of 14, merged by Qwen2-VL into one image token
GRID = 4  # cells per side
COLORS = {
    "red": (214, 48, 49),
    "green": (39, 158, 75),
    "blue": (45, 98, 214),
    "yellow": (236, 186, 30),
}
SHAPES = ("circle", "square", "triangle")
SPLITS = ("train", "test", "ood")
LEVELS = {1: (1, 2), 2: (1, 4), 3: (1, 6)}  # difficulty: fewest and most objects in a scene
OOD_OBJECTS = (7, 9)  # more than at any level


def corners_of(shape, x, y, radius):
    """The outline of a shape as points, in the units of its arguments; of a circle, the corners of the square around it."""
    if shape == "triangle":
        return [
            (x + 1.1 * radius * math.sin(a), y + (0.2 - 1.1 * math.cos(a)) * radius)
            for a in (0, 2.0944, 4.1888)
        ]
    return [(x - radius, y - radius), (x + radius, y + radius)]


# 3 x 5 dots for each sign that is written into a picture, row by row
SIGNS = {
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


def draw_text(draw, text, x, y, height, fill):
    """Writes `text` (of SIGNS) around the point x, y, so many pixels high: drawn here, because fonts differ from machine to machine."""
    dot = height / 5
    left, top = x - dot * (4 * len(text) - 1) / 2, y - height / 2
    for n, sign in enumerate(text):
        for i, on in enumerate(SIGNS[sign]):
            if on == "1":
                x1, y1 = left + dot * (4 * n + i % 3), top + dot * (i // 3)
                draw.rectangle((x1, y1, x1 + dot, y1 + dot), fill=fill)


def draw_scene(meta, rng):
    """The picture of meta["objects"], a list of (row, column, color, shape), or of (row, column, color, shape, x, y, radius) in pixels where size
    and place matter. Otherwise they vary a little from object to object, as shades always do. An object of the colour "number" is written: its shape is
    the text. meta["lines"], [[x1, y1, x2, y2], ...] in pixels, are drawn below them."""
    scale = 4  # draw large, shrink once: smooth edges
    # A grey plane, as in CLEVR, under a warm light from the right and above: darker downwards, redder to the right. So each patch shows where
    # it is; on an even background the tiny model has to work that out of M-RoPE alone, which took it two to three times as many steps.
    grey = rng.randint(112, 124)
    corners = [
        (grey + lit - tint, grey + lit, grey + lit + tint)
        for lit in (30, -30)
        for tint in (30, -30)
    ]
    image = Image.new("RGB", (2, 2))
    image.putdata(corners)
    image = image.resize((GRID * CELL * scale,) * 2, Image.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))
    draw = ImageDraw.Draw(image)
    for line in meta.get("lines", ()):
        draw.line([scale * v for v in line], fill=(225, 225, 225), width=2 * scale)
    for row, column, color, shape, *place in meta["objects"]:
        if color == "number":
            x, y = (
                ((column + 0.5) * CELL + rng.uniform(-1, 1)) * scale,
                ((row + 0.5) * CELL + rng.uniform(-1, 1)) * scale,
            )
            draw_text(
                draw, shape, x, y, (20, 16)[len(shape) - 1] * scale, (rng.randint(15, 45),) * 3
            )
            continue
        if place:
            x, y, radius = (scale * value for value in place)
        else:
            radius = rng.uniform(9.5, 11.0) * scale
            x, y = (
                ((column + 0.5) * CELL + rng.uniform(-0.5, 0.5)) * scale,
                ((row + 0.5) * CELL + rng.uniform(-0.5, 0.5)) * scale,
            )
        fill = tuple(max(0, min(255, channel + rng.randint(-8, 8))) for channel in COLORS[color])
        edge = tuple(channel * 2 // 3 for channel in fill)
        outline = corners_of(shape, x, y, radius)
        if shape == "circle":
            draw.ellipse((*outline[0], *outline[1]), fill=fill, outline=edge, width=scale)
        elif shape == "square":
            draw.rectangle((*outline[0], *outline[1]), fill=fill, outline=edge, width=scale)
        else:
            draw.polygon(outline, fill=fill, outline=edge, width=scale)
    return image.resize((GRID * CELL,) * 2, Image.LANCZOS)


def scene(rng, fewest, most):
    """Objects of a random scene, (row, column, color, shape) in reading order."""
    # A third of the scenes are small: from them the first words are learned (see the top of the file).
    number = (
        rng.randint(fewest, min(fewest + 1, most))
        if rng.random() < 0.33
        else rng.randint(fewest, most)
    )
    cells = sorted(rng.sample([(r, c) for r in range(GRID) for c in range(GRID)], number))
    # Two or three colours and shapes in a scene, so that there is something to count, and something that does not count.
    colors, shapes = (
        rng.sample(list(COLORS), rng.randint(2, 3)),
        rng.sample(SHAPES, rng.randint(2, 3)),
    )
    return [(r, c, rng.choice(colors), rng.choice(shapes)) for r, c in cells]
