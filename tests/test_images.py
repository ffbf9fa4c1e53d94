"""Run: python -m pytest -q tests/test_images.py        (a few seconds; no network)

Pictures of every mode and depth, damaged ones, and the limits on their sizes.
"""

import dataclasses
import io
import random
import struct
import subprocess
import zlib

import pytest
from PIL import Image, ImageFile
from samples import bad_images, odd_files, png, refusal, write

import data
import families
import tasks
from data import Asker
from plumbing.errors import UserError
from tasks import images as images_
from tasks import pairs
from tasks.example import Example
from tasks.images import (
    ONE_AT_A_TIME,
    check_images,
    limit_image_pixels,
    open_image,
    open_images,
    picture_size,
    resized_size,
)

# --- boxes ---


def test_resized_size_equals_transformers():
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
    except ImportError:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
    assert resized_size([640, 480]) == [644, 476]
    rng = random.Random(0)
    for _ in range(2000):
        width, height = rng.choice(
            [
                (rng.randrange(1, 3000), rng.randrange(1, 3000)),
                (rng.randrange(1, 90), rng.randrange(1, 90)),
            ]
        )
        if max(width, height) <= 200 * min(width, height):
            low, high = rng.choice([(3136, 401408), (50176, 100352), (3136, 12845056)])
            assert (
                resized_size([width, height], low, high)
                == list(smart_resize(height, width, 28, low, high))[::-1]
            )


# --- bad input ---


def test_bad_images_are_found_beyond_those_that_are_decoded_at_the_start(folder):
    """Headers are read even where decoding waits; its errors come when the image's turn does."""
    bad_images(folder)

    def examples(name):
        return [
            Example("0", [], "q", "a"),
            Example("1", [folder / "images" / name], "q", "a", source="set.json:9"),
        ]

    for name in ("text.png", "empty.png", "bomb.png"):
        assert refusal(check_images, examples(name), decode=1).startswith("set.json:9: ")
    check_images(examples("cut.png"), decode=1)
    assert refusal(open_images, examples("cut.png")[1]).startswith("set.json:9: ")


def test_one_bad_image_of_many_stops_at_once(folder):
    """A thousand pictures queue behind it: the message must not wait for them."""
    bad_images(folder)
    noise = Image.effect_noise((600, 600), 90).convert("RGB")
    noise.save(folder / "images" / "noise.png")  # about 20 ms to decode
    examples = [Example("0", [folder / "images" / "text.png"], "q", "a", source="set.json:1")] + [
        Example("1", [folder / "images" / "noise.png"], "q", "a")
    ] * 1500
    refusal(check_images, examples, within=5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_damaged_pictures_are_opened_or_refused_but_nothing_else(kind):
    whole, rng, refused = png(40, 40, kind=kind), random.Random(kind), 0
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _ in range(rng.choice([0, 1, 4])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            assert open_image(bytes(damaged), "x.json:1").mode == "RGB"
        except UserError as error:
            assert str(error).startswith("x.json:1: ") and "\n" not in str(error)
            refused += 1
    assert refused > 30


# --- pictures too large, and what is no picture ---


@pytest.fixture
def pixel_limit():
    """Set another limit on pixels, for this test alone."""
    yield limit_image_pixels
    limit_image_pixels()


def chunk(kind, body):
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width, height, depth, color_type, row):
    """A PNG of this row again and again; of zeros it is some thousand times smaller than them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + row) * height, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


HUGE = raw_png(20_000, 20_000, 1, 0, bytes(2500))  # whole, and 0.2 MB


def test_pictures_over_the_limit_are_refused_by_their_headers(folder, pixel_limit, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    (folder / "huge.png").write_bytes(HUGE)
    record = {"image": "huge.png", "question": "q", "answer": "a"}
    boxed = {"image": "huge.png", "question": "q", "boxes": [[1, 2, 3, 4]]}
    pair = {"image": "huge.png", "question": "q", "chosen": "yes", "rejected": "no"}
    for call, records in (
        (tasks.read, [record]),
        (tasks.read, [boxed]),
        (pairs.read_pairs, [pair]),
    ):
        text = refusal(call, write(folder, records))
        assert text.startswith(
            f"{folder / 'set.jsonl'}:1: image {folder / 'huge.png'} has 400000000"
        )
        assert "more than --max-image-pixels 178956970; shrink it, or raise the flag" in text
    late = [Example("0", [], "q", "a"), Example("1", [HUGE], "q", "a", source="set.json:9")]
    for call in (check_images, lambda examples: check_images(examples, decode=0)):
        assert refusal(call, late).startswith("set.json:9: its embedded image has 400000000")
    pytest.importorskip("pyarrow")
    embedded = write(folder, [{**record, "image": {"bytes": HUGE, "path": None}}], "x.parquet")
    assert "its embedded image has 400000000 pixels" in refusal(tasks.read, embedded, within=5)
    pixel_limit(400_000_000)
    assert picture_size(HUGE, "x") == (20_000, 20_000)


def test_the_limit_is_exact_and_the_same_in_every_script(pixel_limit):
    pixel_limit(30 * 41)
    assert open_image(png(30, 41), "x").size == (30, 41)
    assert "has 1260 pixels" in refusal(open_image, png(30, 42), "x")
    import evaluate
    import generate
    import selftrain
    import train_dpo
    import train_grpo
    import train_sft

    out = ["--model", "tiny", "--output-dir", "out"]
    commands = {
        evaluate: [*out, "--data", "count"],
        generate: ["--model", "tiny", "--prompt", "How many?"],
        selftrain: [*out, "--data", "count", "--method", "star"],
        train_dpo: [*out, "--pairs", "x"],
        train_grpo: [*out, "--data", "count"],
        train_sft: [*out, "--data", "count"],
    }
    for script, words in commands.items():
        assert script.parse_args(words).max_image_pixels == 178_956_970
        args = script.parse_args([*words, "--max-image-pixels", "1260"])
        data.ask_as_trained(args)
        assert open_image(png(30, 42), "x").size == (30, 42)
        assert "more than --max-image-pixels 1260" in refusal(open_image, png(30, 43), "x")


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    """Eight just below the limit, side by side, are 20 GB."""
    locked = []

    def spied(image):
        locked.append((image.size, ONE_AT_A_TIME.locked()))
        return image

    monkeypatch.setattr(images_, "to_rgb", spied)
    monkeypatch.setattr(images_, "LARGE", 56 * 56)
    for size in ((56, 56), (57, 56)):
        open_image(png(*size), "x")
    assert locked == [((56, 56), False), ((57, 56), True)] and not ONE_AT_A_TIME.locked()


def saved(image, kind, **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


GREY = struct.pack(">H", 40_000)  # 0x9c40


@pytest.mark.parametrize(
    "case, encoded, expected",
    [
        ("16 bits, grey", raw_png(30, 30, 16, 0, GREY * 30), (156, 156, 156)),
        ("16 bits, alpha", raw_png(30, 30, 16, 4, (GREY + b"\xff\xff") * 30), (156, 156, 156)),
        ("16 bits, RGB", raw_png(30, 30, 16, 2, (GREY + b"\x00\x00\xff\xff") * 30), (156, 0, 255)),
        ("16 bits, TIFF", saved(Image.new("I;16", (30, 30), 40_000), "TIFF"), (156, 156, 156)),
        ("16 bits, Motorola", saved(Image.new("I;16B", (30, 30), 40_000), "TIFF"), (156, 156, 156)),
        ("16 bits, PGM", b"P5 30 30 65535\n" + GREY * 900, (156, 156, 156)),
        ("32 bits", saved(Image.new("I", (30, 30), 99), "TIFF"), (99, 99, 99)),
        ("floats", saved(Image.new("F", (30, 30), 99.0), "TIFF"), (99, 99, 99)),
        ("CMYK", saved(Image.new("CMYK", (30, 30), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (
            "animated",
            saved(
                Image.new("RGB", (30, 30), "red"),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (30, 30), "blue")],
            ),
            (255, 0, 0),
        ),
    ],
)
def test_pictures_of_every_depth_are_read_right(case, encoded, expected):
    assert open_image(encoded, "x").getpixel((9, 9)) == expected, case


@pytest.mark.parametrize("mode, value", [("I", 256), ("I", -1), ("F", 300.0), ("F", -0.5)])
def test_no_white_is_guessed_for_32_bits(mode, value):
    text = refusal(open_image, saved(Image.new(mode, (30, 30), value), "TIFF"), "x.json:3")
    assert text.startswith("x.json:3: ") and "32 bits a pixel" in text


def test_no_program_is_run_for_a_picture(folder, monkeypatch):
    """Pillow has Ghostscript draw an EPS file, whatever its name is."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("run"))
    Image.new("RGB", (30, 30)).save(folder / "a.eps")
    (folder / "a.eps").rename(folder / "a.png")
    text = refusal(tasks.read, write(folder, [{"image": "a.png", "question": "q", "answer": "a"}]))
    assert "set.jsonl:1: " in text and "is a PostScript program; save what it draws as PNG" in text


def test_pictures_that_are_no_files(folder, monkeypatch, soon):
    monkeypatch.chdir(folder)
    (folder / "folder.png").mkdir()
    for kind, path in {**odd_files(folder, ".png"), "folder": folder / "folder.png"}.items():
        record = {"image": str(path), "question": "q", "answer": "a"}
        text = refusal(tasks.read, write(folder, [record]))
        assert text.startswith(f"{folder / 'set.jsonl'}:1: image ") and "does not exist" in text, (
            kind
        )


# --- images ---


@pytest.mark.parametrize(
    "mode, pixel, expected",
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (0, 255), (0, 0, 0)),
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_transparency_is_laid_on_white_and_every_mode_becomes_rgb(mode, pixel, expected):
    image = Image.new(mode, (30, 30), pixel)
    before = image.tobytes()
    opened = open_image(image, "x")
    assert (
        opened.mode == "RGB"
        and opened.size == (30, 30)
        and max(abs(a - b) for a, b in zip(opened.getpixel((4, 4)), expected)) <= 1
    )
    assert image.mode == mode and image.tobytes() == before


def test_transparent_palette_from_bytes():
    image = Image.new("P", (30, 30), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    for transparent, expected in ((1, (255, 255, 255)), (0, (200, 0, 0))):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", transparency=transparent)
        assert open_image(buffer.getvalue(), "x").getpixel((4, 4)) == expected


def test_sides_of_200_to_1_are_the_limit(tiny):
    _, processor = tiny
    for size in ((1, 200), (2, 400), (400, 2)):
        prompt = Asker(processor).prompt(Example("0", [Image.new("RGB", size)], "q", "a"))
        assert len(prompt.image_slots) == prompt.grid.prod() // 4
    for size in ((1, 201), (201, 1)):
        text = refusal(open_image, Image.new("RGB", size), "x.json:4")
        assert text.startswith("x.json:4: ") and f"{size[0]} x {size[1]}" in text


@pytest.mark.parametrize(
    "width, height", [(1, 1), (20, 20), (28, 28), (112, 112), (30, 500), (1000, 900), (3000, 100)]
)
@pytest.mark.parametrize("low, high", [(3136, 401408), (50176, 100352), (3136, 12544)])
def test_pixels_stay_within_their_limits(tiny, width, height, low, high):

    processor = dataclasses.replace(
        tiny[1],
        image_processor=families.image_processor_class()(
            size={"shortest_edge": low, "longest_edge": high}
        ),
    )
    prompt = Asker(processor).prompt(
        Example("0", [Image.new("RGB", (width, height), "red")], "q", "a")
    )
    _, rows, columns = prompt.grid[0].tolist()
    pixels = rows * columns * 14 * 14
    assert rows % 2 == columns % 2 == 0 and prompt.pixel_values.shape == (rows * columns, 1176)
    assert (
        low <= pixels <= high or min(rows, columns) == 2
    )  # a strip of one token's height cannot be made thinner
    assert len(prompt.image_slots) == rows * columns // 4
    if low <= width * height <= high and width % 28 == height % 28 == 0:
        assert (rows, columns) == (
            height // 14,
            width // 14,
        )  # within the limits nothing is resized
    want, got = width / height, columns / rows
    assert (
        abs(want - got) / want < 0.5 or min(rows, columns) <= 4
    )  # the shape is kept, up to rounding to whole tokens
