"""Open pictures: find the file, check its header, decode it once."""

import base64
import binascii
import io
import math
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from plumbing import flags
from plumbing.errors import UserError
from plumbing.text import short
from tasks.example import Example

Picture = Image.Image | str | Path | bytes  # bytes: an encoded picture
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


# --- where a picture is ---

DATA_URL = re.compile(r"\s*data:([^,]{0,200}),", re.IGNORECASE)
WEB_ADDRESS = re.compile(r"\s*(https?|ftp|s3|gs|hf)://", re.IGNORECASE)
# How PNG, JPEG, GIF, RIFF (of WebP) and BMP begin in base64.
BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "Qk1", "Qk2", "Qk3")
SHORTEST_PICTURE = 32  # characters of base64; a shorter text is a name
LONGEST_NAME = 4096  # characters; a longer text is no path


def is_encoded(text: str) -> bool:
    """Tell whether a text is a picture, as a data URL or in bare base64, and no name of one."""
    if DATA_URL.match(text):
        return True
    begins = text[:LONGEST_NAME].lstrip()
    if not begins.startswith(BASE64_STARTS) or len(begins) < SHORTEST_PICTURE:
        return False
    return len(text) > LONGEST_NAME or "." not in begins  # the path "/9j/a.jpg" begins as a JPEG


def decoded_picture(text: str) -> bytes | None:
    """Decode a picture that is given as a text: a data URL, or bare base64.

    None for any other text, such as a path. ValueError, which says what is wrong, for broken ones.
    """
    if not is_encoded(text):
        return None
    url = DATA_URL.match(text)
    if url is None:
        return from_base64(text)
    if not url[1].lower().replace(" ", "").endswith(";base64"):
        kind = short(url[1], 40) or "no type"
        raise ValueError(f"a data URL of {kind} that is not base64")
    return from_base64(text[url.end() :])


def from_base64(encoded: str) -> bytes:
    """Decode base64, with line ends and without padding too. ValueError if it is broken."""
    encoded = "".join(encoded.split()).rstrip("=")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        pass
    odd = re.search(r"[^A-Za-z0-9+/]", encoded)
    if odd:
        what = f"{odd[0]!r} at character {odd.start() + 1}"
    else:
        what = f"it is cut off after {len(encoded)} characters"
    raise ValueError(f"a picture in broken base64 ({what})")


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
    if isinstance(image, str):
        try:
            decoded = decoded_picture(image)
        except ValueError as error:
            raise UserError(
                f"{where}: the image is {error}; encode it again, or name a file"
            ) from None
        if decoded is not None:
            return decoded
        if WEB_ADDRESS.match(image):
            raise UserError(
                f"{where}: image {short(image, 100)} is a web address, and nothing is "
                "fetched from there; download it, and name the file"
            )
    if not isinstance(image, str) or not image.strip():
        problem = "an empty text" if isinstance(image, str) else problem
        raise UserError(
            f"{where}: an image must be a path (or embedded bytes in parquet), found {problem}; "
            "name the picture, or delete the record"
        )
    beside = root or file.parent
    places = [beside / folder / image for folder in folders]  # an absolute path replaces these
    if len(folders) > 1 and os.path.isabs(image):  # Visual-RFT's LISA names its authors' disk
        places += [beside / folder / os.path.basename(image) for folder in folders]
    for path in places:
        # Unlike path.is_file(), also False for a name too long: base64 in place of a path.
        if os.path.isfile(path):
            return path
    other = next((path for path in places if os.path.exists(path)), None)
    if other:
        raise UserError(
            f"{where}: image {short(other)} does not exist as a file, "
            "but as a folder, a pipe or a device; name a picture"
        )
    elsewhere = f", nor in {', '.join(folders[1:])} there" if folders[1:] else ""
    base = f"in {short(root)}" if root else f"beside {file.name}"
    raise UserError(
        f"{where}: image {short(places[0])} does not exist{elsewhere}; "
        f"relative paths resolve {base}"
    )


# --- open ---


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
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
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
    cause = short(error, 80) or type(error).__name__
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


def check_images(examples: list[Example], decode: int = 2000) -> None:
    """Decode the pictures of the first examples and read the headers of all others.

    Bad files so stop a run before it starts. UserError for the first of them.
    """

    def check(item: tuple[int, Example]) -> None:
        """Look at the pictures of one example."""
        number, example = item
        # A photograph takes 5 to 20 ms: the rest is decoded when its turn comes.
        look = open_image if number < decode else picture_size
        for image in example.images:
            look(image, example.source)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checks = pool.map(check, enumerate(examples))
        quiet = len(examples) < 500
        for _ in tqdm(
            checks, total=len(examples), desc="checking images", disable=quiet, leave=False
        ):
            pass
