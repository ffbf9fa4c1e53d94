"""Open pictures: find the file, check its header, decode it once."""

import io
import math
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from plumbing import flags, text
from plumbing.errors import UserError

LARGE = 2**24  # pixels of a picture that is not decoded beside another such
ONE_AT_A_TIME = threading.Lock()
# What Pillow raises for damaged or absurdly large files; RuntimeError: its AVIF, BLP and DDS.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)


def resized_size(size, min_pixels=flags.MIN_PIXELS, max_pixels=flags.MAX_PIXELS, step=28):
    """[width, height] that Qwen2-VL's image processor makes of an image: multiples of 28, the area within the limits, the shape kept as far as that allows.

    [640, 480] -> [644, 476]: rounded to the nearest multiple, unless that breaks a limit; then scaled to it, and rounded down (or up, to the lower one)."""
    width, height = size
    rounded = [round(width / step) * step, round(height / step) * step]
    if rounded[0] * rounded[1] > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        return [max(step, math.floor(side / scale / step) * step) for side in size]
    if rounded[0] * rounded[1] < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        return [math.ceil(side * scale / step) * step for side in size]
    return rounded


def locate(image, file, where, folders=("",), root=None):
    """A record's image as a path, in the first of these folders beside `file` (or in the folder `root`) that holds it, or as the encoded bytes it embeds.
    An absolute path that does not exist (Visual-RFT's LISA names its authors' disk) is looked for by its name there."""
    found = type(image).__name__
    if isinstance(image, dict):
        found = "an object with neither bytes nor path"
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes) and image:
        return image
    if not isinstance(image, str) or not image.strip():
        found = "an empty text" if isinstance(image, str) else found
        raise UserError(
            f"{where}: an image must be a path (or embedded bytes in parquet), found {found}; "
            "name the picture, or delete the record"
        )
    beside = root or file.parent
    places = [
        beside / folder / image for folder in folders
    ]  # an absolute `image` replaces the folder
    if len(folders) > 1 and os.path.isabs(image):
        places += [beside / folder / os.path.basename(image) for folder in folders]
    for path in places:
        if os.path.isfile(
            path
        ):  # unlike path.is_file(), also False for a name too long: base64 in place of a path
            return path
    others = ", ".join(folder for folder in folders[1:])
    other = next((path for path in places if os.path.exists(path)), None)
    if other:
        raise UserError(
            f"{where}: image {text.short(other)} does not exist as a file, "
            "but as a folder, a pipe or a device; name a picture"
        )
    raise UserError(
        f"{where}: image {text.short(places[0])} does not exist{f', nor in {others} there' if others else ''}; relative paths resolve "
        f"{f'in {text.short(root)}' if root else f'beside {file.name}'}"
    )


def limit_image_pixels(most=flags.MAX_IMAGE_PIXELS):
    """Let Pillow refuse, by its header, every picture of more pixels (--max-image-pixels)."""
    Image.MAX_IMAGE_PIXELS = most / 2  # it warns above this, and refuses above its double


def open_header(image, where):
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


def title(image):
    """Name a picture in a message."""
    known = image if isinstance(image, (str, Path)) else getattr(image, "filename", None)
    return f"image {known}" if known else "its embedded image"


def not_opened(error, image, where):
    """Make a UserError of what Pillow says about a picture."""
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+", str(error))[0]
        return UserError(
            f"{where}: {title(image)} has {found} pixels, more than --max-image-pixels "
            f"{int(2 * Image.MAX_IMAGE_PIXELS)}; shrink it, or raise the flag (60 bytes of memory a pixel)"
        )
    said = text.short(error, 80) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        said = "it is no picture of a known format"
    return UserError(
        f"{where}: {title(image)} cannot be opened ({said}); replace the file or delete the record"
    )


def picture_size(image, where):
    """(width, height) of a picture, by its header. UserError as for open_header."""
    if isinstance(image, Image.Image):
        return image.size
    with open_header(image, where) as opened:
        return opened.size


def open_image(image, where):
    """RGB PIL image from a PIL image, a path or encoded bytes; transparency is laid on white.

    UserError for what cannot be decoded.
    """
    image = open_header(image, where)
    try:
        if image.width * image.height <= LARGE:
            rgb = to_rgb(image)
        else:
            with ONE_AT_A_TIME:  # eight at once would fill the memory
                rgb = to_rgb(image)
    except IMAGE_ERRORS as error:
        raise not_opened(error, image, where) from None
    if max(rgb.size) > 200 * min(rgb.size):
        raise UserError(
            f"{where}: image of {rgb.width} x {rgb.height} pixels is too narrow for Qwen2-VL (sides at most 200 : 1); crop it or delete the record"
        )
    return rgb


def to_rgb(image):
    """Decode a picture of any mode to RGB, 16 bits to 8.

    ValueError for 32 bits whose values are not those of 8: nobody knows which of them is white.
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


def open_images(example):
    """The example's images, opened now: list of RGB PIL images."""
    return [open_image(image, example.source) for image in example.images]


def check_images(examples, decode=2000):
    """Decodes the first `decode` examples' images and reads the headers of all others: bad files stop the run before it starts.
    (Decoding is 5 to 20 ms for a photograph; the rest of a large set is decoded when its turn comes, with the same error.)"""

    def check(item):
        number, example = item
        for image in example.images:
            if number < decode:
                open_image(image, example.source)
            else:
                picture_size(image, example.source)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(
            pool.map(check, enumerate(examples)),
            total=len(examples),
            desc="checking images",
            disable=len(examples) < 500,
            leave=False,
        ):
            pass
