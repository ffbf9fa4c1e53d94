"""Open pictures: find the file, check its header, decode it once."""

import io
import itertools
import math
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from plumbing import flags, text
from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from tasks.example import Example
from tasks.stored import Store, Stored

Picture = Image.Image | str | Path | bytes | Stored  # bytes: an encoded picture
DECODED = 2**29  # pixels that are decoded before a run starts: a few seconds
FEW = 32  # examples whose pictures are looked at together
LARGE = 2**24  # pixels of a picture that is not decoded beside another such
ONE_AT_A_TIME = threading.Lock()
MOST_ASPECT = 200  # longer over shorter side, for Qwen2-VL
# What Pillow raises for damaged or absurdly large files; RuntimeError: its AVIF, BLP and DDS.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)


def resized_size(
    size: Sequence[int],
    min_pixels: int = flags.MIN_PIXELS,
    max_pixels: int = flags.MAX_PIXELS,
    step: int = 28,
) -> list[int]:
    """Give [width, height] that Qwen2-VL's image processor makes of a picture.

    Multiples of 28, the area within the limits, the shape kept as far as that allows:
    [640, 480] -> [644, 476], rounded to the nearest multiples. If that breaks a limit, the sides
    are scaled to it, and rounded down to the upper or up to the lower one.
    """
    width, height = size
    rounded = [round(width / step) * step, round(height / step) * step]
    if rounded[0] * rounded[1] > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        return [max(step, math.floor(side / scale / step) * step) for side in size]
    if rounded[0] * rounded[1] < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        return [math.ceil(side * scale / step) * step for side in size]
    return rounded


def locate(
    image: Any,
    file: Path,
    where: str,
    folders: tuple[str, ...] = ("",),
    root: Path | None = None,
) -> Path | bytes:
    """Find a record's picture: its embedded bytes, or a path.

    folders: where to look, in `root`, or beside `file`. UserError if there is no such picture.
    """
    problem = type(image).__name__
    if isinstance(image, dict):
        problem = "an object with neither bytes nor path"
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes) and image:
        return image
    if not isinstance(image, str) or not image.strip():
        problem = "an empty text" if isinstance(image, str) else problem
        raise UserError(
            f"{where}: an image must be a path (or embedded bytes in parquet), found {problem}; "
            "name the picture, or delete the record"
        )
    beside = root or file.parent
    places = [Path(beside, folder, image) for folder in folders]  # an absolute path replaces these
    if len(folders) > 1 and os.path.isabs(image):  # Visual-RFT's LISA names its authors' disk
        places += [beside / folder / os.path.basename(image) for folder in folders]
    for path in places:
        # Unlike path.is_file(), also False for a name too long: base64 in place of a path.
        if os.path.isfile(path):
            return path
    other = next((path for path in places if os.path.exists(path)), None)
    if other:
        raise UserError(
            f"{where}: image {text.short(other)} does not exist as a file, "
            "but as a folder, a pipe or a device; name a picture"
        )
    elsewhere = f", nor in {', '.join(folders[1:])} there" if folders[1:] else ""
    base = f"in {text.short(root)}" if root else f"beside {file.name}"
    raise UserError(
        f"{where}: image {text.short(places[0])} does not exist{elsewhere}; "
        f"relative paths resolve {base}"
    )


def limit_image_pixels(most: int = flags.MAX_IMAGE_PIXELS) -> None:
    """Let Pillow refuse, by its header, every picture of more pixels (--max-image-pixels)."""
    Image.MAX_IMAGE_PIXELS = most / 2  # it warns above this, and refuses above its double


def open_header(image: Picture, where: str) -> Image.Image:
    """Open a PIL image, a path or encoded bytes without decoding anything.

    UserError for what is no picture, is too large, or would have to be run.
    """
    if isinstance(image, Image.Image):
        return image
    try:
        source = image.read() if isinstance(image, Stored) else image
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except IMAGE_ERRORS as error:
        raise not_opened(error, image, where) from None
    if image.format == "EPS":  # a program; Pillow would have Ghostscript run it
        raise UserError(
            f"{where}: {title(image)} is a PostScript program; save what it draws as PNG"
        )
    return image


def title(image: Picture) -> str:
    """Name a picture, for a message."""
    known = image if isinstance(image, (str, Path)) else getattr(image, "filename", None)
    return f"image {known}" if known else "its embedded image"


def not_opened(error: Exception, image: Picture, where: str) -> UserError:
    """Make a UserError of what Pillow raises about a picture."""
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", str(error))[0]
        return UserError(
            f"{where}: {title(image)} has {pixels} pixels, more than --max-image-pixels "
            f"{int(2 * Image.MAX_IMAGE_PIXELS)}; shrink it, or raise the flag "
            "(60 bytes of memory a pixel)"
        )
    cause = text.short(error, 80) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        cause = "it is no picture of a known format"
    return UserError(
        f"{where}: {title(image)} cannot be opened ({cause}); replace the file or delete the record"
    )


def picture_size(image: Picture, where: str) -> tuple[int, int]:
    """Read (width, height) of a picture from its header. UserError as for open_header."""
    if isinstance(image, Image.Image):
        return image.size
    with open_header(image, where) as opened:
        return opened.size


def sizes_of(example: Example) -> list[tuple[int, int]]:
    """Read the sizes of an example's pictures, from their headers, once."""
    if example.sizes is None or len(example.sizes) != len(example.images):
        example.sizes = [picture_size(image, example.source) for image in example.images]
    return example.sizes


def keep_embedded(example: Example, store: Store) -> None:
    """Put an example's embedded pictures into a store, when their sizes are read."""
    if any(isinstance(image, bytes) for image in example.images):
        sizes_of(example)
        example.images = [store.keep(image) for image in example.images]


def open_image(image: Picture, where: str) -> Image.Image:
    """Decode a picture to RGB, transparency laid on white. UserError if that cannot be."""
    image = open_header(image, where)
    try:
        if image.width * image.height <= LARGE:
            rgb = to_rgb(image)
        else:
            with ONE_AT_A_TIME:  # eight at once would fill the memory
                rgb = to_rgb(image)
    except IMAGE_ERRORS as error:
        raise not_opened(error, image, where) from None
    if max(rgb.size) > MOST_ASPECT * min(rgb.size):
        raise UserError(
            f"{where}: image of {rgb.width} x {rgb.height} pixels is too narrow for Qwen2-VL "
            f"(sides at most {MOST_ASPECT} : 1); crop it or delete the record"
        )
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode a picture of any mode to RGB, 16 bits to 8.

    ValueError for 32 bits whose values are not those of 8: nothing tells which of them is white.
    """
    image.load()
    wide = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits, held in 32
    if image.mode.startswith("I;16") or wide:
        image = image.convert("I").point(lambda value: value * (1 / 256))  # the high byte
    elif image.mode in ("I", "F"):
        low, high = image.getextrema()
        if not (0 <= low and high <= 255):
            raise ValueError(f"32 bits a pixel, from {low:g} to {high:g}, not 0 to 255")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def open_images(example: Example) -> list[Image.Image]:
    """Decode the example's pictures now."""
    return [open_image(image, example.source) for image in example.images]


def check_images(
    examples: list[Example], decode: int = 2000, bad: BadRecords = REFUSE
) -> list[Example]:
    """Read the headers of all pictures, and decode those of the first examples.

    Bad files so stop a run before it starts. decode: examples at most, of DECODED pixels together.
    Returns the examples with good pictures.
    UserError for the first bad one, unless `bad` leaves them out.
    """
    good = look_at(examples, sizes_of, "reading headers", bad)
    # A photograph takes 5 to 20 ms: the rest is decoded when its turn comes.
    pixels = itertools.accumulate(pixels_of(example) for example in good)
    number = sum(1 for total in itertools.islice(pixels, decode) if total <= DECODED)
    good[:number] = look_at(good[:number], open_images, "checking images", bad)
    bad.must_leave(good)
    return good


def pixels_of(example: Example) -> int:
    """Count the pixels of an example's pictures."""
    return sum(width * height for width, height in sizes_of(example))


def look_at(
    examples: list[Example], look: Callable[[Example], object], describe: str, bad: BadRecords
) -> list[Example]:
    """Call look(example) for each, in threads; return those for which it raises no UserError."""

    def problems(start: int) -> list[UserError | None]:
        return [problem(example) for example in examples[start : start + FEW]]

    def problem(example: Example) -> UserError | None:
        try:
            look(example)
        except UserError as error:
            if bad.skip:
                return error
            raise
        return None

    kept = []
    starts = range(0, len(examples), FEW)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checks = pool.map(problems, starts)
        quiet = len(examples) < 500
        checks = tqdm(checks, total=len(starts), desc=describe, disable=quiet, leave=False)
        for example, error in zip(examples, itertools.chain.from_iterable(checks)):
            if error is None:
                kept.append(example)
            else:
                bad.add(example.source, example.id, error)
    return kept
