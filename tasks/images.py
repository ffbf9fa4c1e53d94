"""Open pictures: find the file, check its header, decode it once, upright."""

import base64
import binascii
import io
import itertools
import math
import os
import re
import struct
import threading
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from plumbing import flags
from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.text import short
from tasks import files
from tasks.example import Example
from tasks.stored import Encoded, Store

Picture = Image.Image | str | Path | bytes | Encoded  # bytes: an encoded picture
DECODED = 2**29  # pixels that are decoded before a run starts: a few seconds
FEW = 32  # examples whose pictures are looked at together
LARGE = 2**24  # pixels of a picture that is not decoded beside another such
ONE_AT_A_TIME = threading.Lock()
MOST_ASPECT = 200  # longer over shorter side, for the image processor
# What Pillow raises for damaged or absurdly large files; RuntimeError: its AVIF, BLP and DDS.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
# How a picture is turned upright, by its EXIF orientation. Not ImageOps.exif_transpose: it also
# writes the other tags again, and fails where one of them is damaged.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPPING = tuple(TURNS[orientation] for orientation in (5, 6, 7, 8))  # width becomes height
TOKEN_SIDE = 28  # pixels across of what one image token shows, but in some families


def resized_size(
    size: Sequence[int],
    min_pixels: int = flags.MIN_PIXELS,
    max_pixels: int = flags.MAX_PIXELS,
    token_side: int = TOKEN_SIDE,
) -> list[int]:
    """Give [width, height] that the model's image processor makes of a picture.

    Multiples of the side of an image token, the area within the limits, the shape kept as far as
    that allows: by 28, [640, 480] -> [644, 476], rounded to the nearest multiples. If that breaks
    a limit, the sides are scaled to it, and rounded down to the upper or up to the lower one.
    """
    width, height = size
    step = token_side
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
SUFFIXES = "png|jpe?g|jfif|gif|webp|bmp|tiff?|svg|heic|avif|ppm"  # of picture files
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


def data_url(encoded: bytes, kind: str) -> str:
    """Write an encoded picture, a "PNG" or "JPEG", as a data URL."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded).decode()}"


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
        image = image.removeprefix("file://")
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
        source = image.read() if isinstance(image, Encoded) else image
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
    cause = short(error, 80) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        cause = "it is no picture of a known format"
        if isinstance(image, (str, Path)) and files.is_pointer(image):
            cause = "it is a git-lfs pointer: run git lfs pull"
    return UserError(
        f"{where}: {title(image)} cannot be opened ({cause}); replace the file or delete the record"
    )


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Read from its header how to turn a picture upright; None if it is, or does not tell.

    Before it is decoded.
    """
    if image.format == "TIFF":  # Pillow turns these itself, and gives the size that comes of it
        image.info.pop("xmp", None)  # but by XMP it would turn them without saying so
        return None
    try:
        if image.format == "PNG" and "exif" not in image.info and image.fp:
            late = late_exif(image.fp)
            if late:
                image.info["exif"] = b"Exif\0\0" + late
        # A PNG's own getexif would decode it.
        return TURNS.get(Image.Image.getexif(image).get(ExifTags.Base.Orientation))
    except Exception:  # damaged tags: Pillow raises errors of every type
        return None


def late_exif(png: IO[bytes]) -> bytes | None:
    """Read the EXIF data that stand behind a PNG's pixels, where Pillow's header ends."""
    place = png.tell()
    try:
        png.seek(8)
        while len(start := png.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind == b"eXIf":
                return png.read(length)
            png.seek(length + 4, os.SEEK_CUR)
    finally:
        png.seek(place)
    return None


def picture_size(image: Picture, where: str) -> tuple[int, int]:
    """Read (width, height) of the upright picture from its header. UserError as for open_header."""
    opened = open_header(image, where)
    try:
        size = opened.size
        return size[::-1] if turn_of(opened) in SWAPPING else size
    finally:
        if opened is not image:
            opened.close()


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
    """Decode a picture to RGB, as a browser shows it. UserError if that cannot be.

    It is turned as its EXIF data say, and transparency is laid on white.
    """
    image = open_header(image, where)
    try:
        if image.width * image.height <= LARGE:
            rgb = upright_rgb(image)
        else:
            with ONE_AT_A_TIME:  # eight at once would fill the memory
                rgb = upright_rgb(image)
    except IMAGE_ERRORS as error:
        raise not_opened(error, image, where) from None
    if max(rgb.size) > MOST_ASPECT * min(rgb.size):
        raise UserError(
            f"{where}: image of {rgb.width} x {rgb.height} pixels is too narrow for the model "
            f"(sides at most {MOST_ASPECT} : 1); crop it or delete the record"
        )
    return rgb


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode a picture to RGB and turn it upright."""
    turn = turn_of(image)
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode a picture of any mode to RGB, more than 8 bits scaled to 8.

    ValueError where nothing tells which value is white.
    """
    image.load()
    wide = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits, held in 32
    if image.mode.startswith("I;16") or wide:
        image = from_16_bits(image)
    elif image.mode in ("I", "F"):
        image = from_32_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        key = image.info.get("transparency")
        if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, as the file's colors were
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in key)
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def from_16_bits(image: Image.Image) -> Image.Image:
    """Take the high byte of each pixel. ValueError if all are 0, but not all pixels."""
    wide = image.convert("I")
    high = wide.getextrema()[1]
    if 0 < high < 256:
        raise ValueError(f"16 bits a pixel, but none above {high}: 8 bits saved as 16?")
    grey = wide.point(lambda value: value * (1 / 256)).convert("L")
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    opaque = [255] * 65536
    opaque[clear] = 0
    return Image.merge("LA", (grey, wide.point(opaque, "L")))


def from_32_bits(image: Image.Image) -> Image.Image:
    """Scale floats of 0 to 1; other values must be those of 8 bits, or it is a ValueError."""
    low, high = image.getextrema()
    broken = image.mode == "F" and not math.isfinite(sum(array("f", image.tobytes())))
    if broken or not (0 <= low and high <= 255):
        found = "with NaN or infinity" if broken else f"from {low:g} to {high:g}"
        raise ValueError(f"32 bits a pixel, {found}, not 0 to 255")
    if image.mode == "F" and high <= 1:
        return image.point(lambda value: value * 255 + 0.5)  # the half: it is cut off, not rounded
    return image


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
