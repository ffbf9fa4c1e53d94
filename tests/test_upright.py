"""Run: python -m pytest -q tests/test_upright.py        (a few seconds; no network)

EXIF orientation, more than 8 bits, and pictures that are given as text.
"""

import base64
import io
import json
import random
import struct
import warnings
import zlib

import numpy
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from samples import png, refusal, write

import generate
import tasks
from data import Asker
from plumbing import plots
from plumbing.errors import UserError
from tasks import pairs, sheets
from tasks.example import Example
from tasks.images import decoded_picture, open_image, picture_size

ORIENTATION = 0x0112
LOSSLESS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "MPO": {}}


def encoded(image, kind, orientation=None, **more):
    """Write a picture with this orientation tag."""
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
        if kind == "TIFF":
            more["tiffinfo"] = {ORIENTATION: orientation}
        else:
            more["exif"] = exif
    image.save(buffer, kind, **{**LOSSLESS.get(kind, {}), **more})
    return buffer.getvalue()


def corners(size=(96, 64)):
    """A black picture whose first pixels are red, and the last of its first rows green."""
    image = Image.new("RGB", size)
    image.paste("red", (0, 0, 16, 16))
    image.paste("lime", (size[0] - 16, 0, size[0], 16))
    return image


# --- orientation ---

# Where EXIF 2.3 (tag 0x0112) puts the first stored pixel, and the last one of the first row.
DISPLAYED = {
    1: ("top left", "top right"),
    2: ("top right", "top left"),
    3: ("bottom right", "bottom left"),
    4: ("bottom left", "bottom right"),
    5: ("top left", "bottom left"),
    6: ("top right", "bottom right"),
    7: ("bottom right", "top right"),
    8: ("bottom left", "top left"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", DISPLAYED)
def test_a_picture_stands_as_its_tag_says(kind, orientation):
    file = encoded(corners(), kind, orientation)
    shown = open_image(file, "x")
    assert shown.size == ((96, 64) if orientation < 5 else (64, 96)) == picture_size(file, "x")
    for place, channel in zip(DISPLAYED[orientation], (0, 1)):
        x = 7 if "left" in place else shown.width - 8
        y = 7 if "top" in place else shown.height - 8
        pixel = shown.getpixel((x, y))
        assert pixel[channel] > 200 and max(pixel[:channel] + pixel[channel + 1 :]) < 60, place


def test_the_size_by_the_header_is_that_of_the_decoded_picture():
    rng = random.Random(0)
    for _ in range(300):
        kind = rng.choice([*LOSSLESS, "AVIF"])
        size = (rng.randrange(8, 90), rng.randrange(8, 90))
        more = {"compression": "tiff_lzw"} if kind == "TIFF" and rng.random() < 0.5 else {}
        file = encoded(corners(size), kind, rng.choice([None, *DISPLAYED]), **more)
        shown = open_image(file, "x")
        reference = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
        assert picture_size(file, "x") == shown.size == reference.size
        assert shown.tobytes() == reference.tobytes()


def png_chunks(file):
    """Part a PNG into its chunks."""
    place, chunks = 8, []
    while place < len(file):
        length = int.from_bytes(file[place : place + 4], "big")
        chunks.append(file[place : place + 12 + length])
        place += 12 + length
    return chunks


def test_exif_data_behind_the_pixels_of_a_png_are_found():
    first, *chunks = png_chunks(encoded(corners(), "PNG", 6))
    chunks.sort(key=lambda chunk: (chunk[4:8] == b"IEND", chunk[4:8] == b"eXIf"))
    file = b"\x89PNG\r\n\x1a\n" + first + b"".join(chunks)
    assert file.index(b"IDAT") < file.index(b"eXIf")
    assert picture_size(file, "x") == open_image(file, "x").size == (64, 96)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "WEBP"])
def test_an_orientation_in_xmp_makes_no_size_wrong(kind):
    xmp, buffer = b'<x:xmpmeta tiff:Orientation="6"/>', io.BytesIO()
    if kind == "TIFF":
        corners().save(buffer, kind, tiffinfo={700: xmp})
    elif kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        corners().save(buffer, kind, pnginfo=info)
    else:
        corners().save(buffer, kind, xmp=xmp)
    assert b"Orientation" in buffer.getvalue()
    assert picture_size(buffer.getvalue(), "x") == open_image(buffer.getvalue(), "x").size


def test_a_size_is_read_without_decoding(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for kind, file in FILES.items():
        assert picture_size(file, "x") == (64, 96), kind


FILES = {kind: encoded(corners(), kind, 6) for kind in LOSSLESS}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_harm_no_picture(kind):
    """Any bytes may stand there: the picture is opened, turned or not."""
    exif, rng = Image.Exif(), random.Random(kind)
    exif[ORIENTATION], exif[0x010F], exif[0x011A] = 6, "maker", 72.5
    whole = exif.tobytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            damaged[rng.randrange(6, len(damaged))] = rng.randrange(256)
        damaged = bytes(damaged[: rng.choice([len(damaged), rng.randrange(6, len(damaged))])])
        buffer = io.BytesIO()
        corners().save(buffer, kind, exif=damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of corrupt data
            assert picture_size(buffer.getvalue(), "x") == open_image(buffer.getvalue(), "x").size


def test_a_damaged_tiff_is_opened_or_refused():
    whole, rng = encoded(corners(), "TIFF", 6), random.Random(0)
    tags = int.from_bytes(whole[4:8], "little")
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            damaged[rng.randrange(tags, len(damaged))] = rng.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for read in (picture_size, open_image):
                try:
                    read(bytes(damaged), "x.json:1")
                except UserError as error:
                    assert str(error).startswith("x.json:1: ") and "\n" not in str(error)


@pytest.mark.parametrize("tag", [0, 9, 255, 65535])
def test_an_unknown_orientation_is_none(tag):
    assert open_image(encoded(corners(), "JPEG", tag), "x").size == (96, 64)


def test_orientation_in_what_is_counted_drawn_and_asked(tiny, tmp_path):
    """Tokens, boxes, sheets and generate.py all mean the picture as it is shown."""
    wide = corners((168, 56))
    wide.save(tmp_path / "a.jpg", exif=png_exif(6))
    record = {"image": "a.jpg", "question": "Find it.", "boxes": [[40, 0, 56, 168]]}
    [example] = tasks.read(write(tmp_path, [record]), box_format="resized")
    assert example.meta["size"] == example.meta["resized"] == [56, 168]
    asker = Asker(tiny[1])
    prompt = asker.prompt(example)
    assert prompt.grid.tolist() == [[1, 12, 4]] and len(prompt.image_slots) == 12
    assert asker.check([example], 0) == [len(prompt.ids)]
    [picture] = sheets.pictures_of(example)
    assert picture.size == (56, 168)
    asked = generate.make_example("q", [str(tmp_path / "a.jpg")], "pixels", 3136, 401408, 28)
    assert asked.meta["size"] == (56, 168) and asked.meta["resized"] == [56, 168]
    plots.plot_samples([sheets.sheet_row(example, [], [])], tmp_path / "sheet.png")
    outside = {**record, "boxes": [[40, 0, 168, 56]]}
    assert "outside the picture of 56 x 168" in refusal(tasks.read, write(tmp_path, [outside]))


def png_exif(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


# --- more than 8 bits ---


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(pixels, color_type, clear=None):
    """A PNG of 16 bits, of an array (height, width) or (height, width, channels)."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", header)
    if clear is not None:
        body += chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    body += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels, **more):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", **more)
    return buffer.getvalue()


NUMBERS = numpy.random.default_rng(0)
GREY = NUMBERS.integers(0, 65536, (30, 40))
COLOR = NUMBERS.integers(0, 65536, (30, 40, 4))
SHARE = NUMBERS.random((30, 40)).astype("f4")


def on_white(color, alpha):
    """Lay 8-bit colors with this alpha (0 to 255) on white."""
    alpha = alpha[..., None] / 255
    return color * alpha + 255 * (1 - alpha)


def gray(values):
    return numpy.repeat(numpy.asarray(values)[..., None], 3, -1)


CLEARED = {"grey": gray(GREY >> 8), "color": COLOR[..., :3] >> 8}
CLEARED["grey"][GREY == GREY[3, 4]] = 255
CLEARED["color"][3, 4] = 255
DEEP = {  # the file, and what it shows, computed by numpy
    "PNG, grey": (png16(GREY, 0), gray(GREY >> 8)),
    "PNG, RGB": (png16(COLOR[..., :3], 2), COLOR[..., :3] >> 8),
    "PNG, RGBA": (png16(COLOR, 6), on_white(COLOR[..., :3] >> 8, COLOR[..., 3] >> 8)),
    "PNG, LA": (png16(COLOR[..., :2], 4), on_white(gray(COLOR[..., 0] >> 8), COLOR[..., 1] >> 8)),
    "PNG, one grey is clear": (png16(GREY, 0, [GREY[3, 4]]), CLEARED["grey"]),
    "PNG, one color is clear": (png16(COLOR[..., :3], 2, COLOR[3, 4, :3]), CLEARED["color"]),
    "TIFF, I;16": (tiff(GREY.astype("<u2")), gray(GREY >> 8)),
    "TIFF, I;16B": (tiff(GREY.astype(">u2")), gray(GREY >> 8)),
    "TIFF, LZW": (tiff(GREY.astype("<u2"), compression="tiff_lzw"), gray(GREY >> 8)),
    "TIFF, I of 8 bits": (tiff((GREY >> 8).astype("i4")), gray(GREY >> 8)),
    "TIFF, floats to 1": (tiff(SHARE), gray(SHARE * 255)),
    "TIFF, floats to 255": (tiff(SHARE * 255), gray(SHARE * 255)),
    "TIFF, black floats": (tiff(SHARE * 0), gray(SHARE * 0)),
    "TIFF, black": (tiff((GREY * 0).astype("u2")), gray(GREY * 0)),
    "PGM, 12 bits": (
        b"P5 40 30 4095\n" + (GREY % 4096).astype(">u2").tobytes(),
        gray(GREY % 4096 * 255 / 4095),
    ),
    "PFM": (b"Pf\n40 30\n-1.0\n" + SHARE[::-1].astype("<f4").tobytes(), gray(SHARE * 255)),
}


@pytest.mark.parametrize("case", DEEP)
def test_more_than_8_bits_are_scaled(case):
    file, expected = DEEP[case]
    shown = numpy.asarray(open_image(file, "x")).astype(float)
    assert shown.shape == (30, 40, 3) and abs(shown - expected).max() < 1


@pytest.mark.parametrize(
    "pixels, says",
    [
        (GREY.astype("i4"), "32 bits a pixel, from"),
        (GREY.astype("i4") - 30_000, "32 bits a pixel, from -"),
        (SHARE * 300, "32 bits a pixel, from"),
        (SHARE - 0.5, "32 bits a pixel, from -"),
        (numpy.where(SHARE > 0.5, numpy.nan, SHARE), "with NaN or infinity"),
        (numpy.where(SHARE > 0.99, numpy.nan, SHARE * 200), "with NaN or infinity"),
        (numpy.where(SHARE > 0.5, numpy.inf, SHARE), "with NaN or infinity"),
        ((GREY >> 8).astype("u2"), "16 bits a pixel, but none above 255"),  # else it is black
    ],
)
def test_what_cannot_be_scaled_is_refused(pixels, says):
    pixels = pixels.astype("f4") if pixels.dtype.kind == "f" else pixels
    text = refusal(open_image, tiff(pixels), "x.json:3")
    assert text.startswith("x.json:3: ") and says in text


def test_a_picture_that_is_given_stays_as_it_is():
    image = Image.open(io.BytesIO(png16(COLOR[..., :3], 2, COLOR[3, 4, :3])))
    open_image(image, "x")
    assert image.info["transparency"] == tuple(COLOR[3, 4, :3])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO", "TIFF"])
def test_of_several_frames_the_first_is_shown(kind):
    first, second = (Image.new("RGB", (30, 30), color) for color in ("red", "blue"))
    file = encoded(first, kind, save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(file)).n_frames == 2
    red, *others = open_image(file, "x").getpixel((9, 9))
    assert red > 240 and max(others) < 15


@pytest.mark.parametrize(
    "mode, pixel, expected",
    [("PA", (1, 255), (200, 0, 0)), ("PA", (1, 0), (255, 255, 255)), ("1", 0, (0, 0, 0))],
)
def test_other_modes(mode, pixel, expected):
    image = Image.new(mode, (30, 30))
    if mode == "PA":
        image.putpalette([10, 20, 30, 200, 0, 0])
    image.paste(pixel, (0, 0, 30, 30))
    assert open_image(image, "x").getpixel((4, 4)) == expected


# --- pictures as text ---


def text_of(file, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


KINDS = ["PNG", "JPEG", "WEBP", "GIF", "BMP"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_as_text_is_its_bytes(kind):
    file = png(40, 30, kind=kind)
    bare = base64.b64encode(file).decode()
    in_lines = base64.encodebytes(file).decode()
    for text in (text_of(file), bare, in_lines, bare.rstrip("="), f" {bare}\n"):
        assert decoded_picture(text) == file
    assert decoded_picture(f"data:image/{kind};charset=x;base64,{bare}") == file
    assert decoded_picture(f"DATA:IMAGE/{kind};BASE64,{in_lines}") == file
    assert decoded_picture(f"data:;base64,{bare}") == file


@pytest.mark.parametrize(
    "path",
    ["a.png", "images/a.jpg", "/9j/a.jpg", "/9j/" + "a" * 60 + ".png", "Qk0", "R0lGOD", "Qk0/" * 7]
    + ["UklGR/images.of.the.set/000000000123", "data/a.png", "data:a.png", "", "x" * 5000],
)
def test_a_path_is_no_picture(path):
    assert decoded_picture(path) is None


@pytest.mark.parametrize(
    "layout",
    [
        {"image": "{}", "question": "q", "answer": "a"},
        {"images": ["{}"], "problem": "q", "solution": "<answer> a </answer>"},
        {"image": {"path": "{}"}, "question": "q", "answer": "a"},
        {"image": "{}", "image_path": "b.png", "question": "q", "answer": "a"},
        {
            "image": "{}",
            "conversations": [
                {"from": "human", "value": "<image>q"},
                {"from": "gpt", "value": "a"},
            ],
        },
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_pictures_as_text_in_every_layout(layout, bare, tmp_path):
    file = png(40, 30)
    text = text_of(file).partition(",")[2] if bare else text_of(file)
    record = json.loads(json.dumps(layout).replace("{}", text))
    [example] = tasks.read(write(tmp_path, [record]))
    assert example.images == [file] and open_image(example.images[0], "x").size == (40, 30)


LONG = base64.b64encode(random.Random(0).randbytes(300_000)).decode()


@pytest.mark.parametrize(
    "image, says",
    [
        (text_of(png())[:-9] + "?" + text_of(png())[-8:], "broken base64 ('?' at character"),
        ("data:image/png;base64," + LONG[:1001], "it is cut off after 1001 characters"),
        ("iVBORw0KGgo" + LONG + "%%", "broken base64 ('%' at character"),
        ("data:image/png;base64," + LONG, "cannot be opened (it is no picture"),
        ("data:image/png;base64,", "cannot be opened (it is no picture"),
        ("data:image/svg+xml,<svg/>", "a data URL of image/svg+xml that is not base64"),
        ("https://x.org/a.png", "is a web address, and nothing is fetched from there; download it"),
        ("HTTP://x.org/" + "a" * 9000, "is a web address"),
        ("s3://bucket/a.png", "is a web address"),
        (LONG, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_picture_as_text(image, says, tmp_path):
    text = refusal(tasks.read, write(tmp_path, [{"image": image, "question": "q", "answer": "a"}]))
    assert text.startswith(f"{tmp_path}/set.jsonl:1: ") and says in text


def test_pairs_have_pictures_as_text_too(tmp_path):
    file = png(40, 30)
    asked = [{"type": "image", "image": text_of(file)}, {"type": "text", "text": "q"}]
    replies = {"chosen": "yes", "rejected": "no"}
    for record in (
        {"image": text_of(file), "question": "q", **replies},
        {"prompt": [{"role": "user", "content": asked}], **replies},
    ):
        [pair] = pairs.read_pairs(write(tmp_path, [record]))
        assert pair.example.images == [file]


def test_two_pictures_as_text(tiny, tmp_path):
    record = {
        "images": [text_of(png(56, 56)), text_of(png(84, 56))],
        "question": "q",
        "answer": "a",
    }
    [example] = tasks.read(write(tmp_path, [record]))
    assert len(Asker(tiny[1]).prompt(example).image_slots) == 4 + 6
    assert isinstance(example, Example) and "base64" not in str(example.meta)
