"""Tell the same picture, saved anew, from one that only looks alike.

    of(picture) -> Print               a perceptual hash and a thumbnail, a kilobyte together
    candidates(some, others)           which pairs may be the same, by these
    difference(one, other)             how much two pictures differ; at most 1: the same picture

Saved anew is: encoded again, resized, a little recoloured, cropped by some 2 % at a side. Hashes
alone are deceived by drawings, charts and documents, most of whose pixels agree.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

HASH_SIDE = 16  # 256 bits; of 64 bits crops of a drawing change as many as another drawing does
THUMB = 12  # pixels
BITS = 84  # of 256 that differ at most; unrelated photographs differ in about 128
ASPECT = 1.1  # of the widths by the heights
LUMA_OFF, CHROMA_OFF = 40, 60  # levels of 255 by which thumbnails differ at most, in one pixel
ROWS = 20_000  # pictures whose hashes are compared at a time
PAIRS = 4096  # of thumbnails
GREY = np.array([0.299, 0.587, 0.114], np.float32)


class Print(NamedTuple):
    """What is kept of a picture. bits: (4,) uint64. thumb: (12, 12, 3) uint8. aspect: w / h."""

    bits: np.ndarray
    thumb: np.ndarray
    aspect: float


def of(picture: Image.Image) -> Print:
    """Make the print of an RGB picture."""
    import imagehash

    bits = imagehash.phash(picture, hash_size=HASH_SIDE).hash
    packed = np.packbits(bits).view(np.uint64)
    thumb = np.asarray(picture.resize((THUMB, THUMB), Image.Resampling.BILINEAR))
    return Print(packed, thumb, picture.width / picture.height)


# --- which pairs may be the same ---


def candidates(some: Sequence[Print], others: Sequence[Print]) -> Iterator[tuple[int, int]]:
    """Yield (place in some, place in others) of pairs that may be the same picture.

    100,000 by 1,000 pictures take seconds.
    """
    if not some or not others:
        return
    hashes, thumbs, aspects = map(np.array, zip(*others))
    for place, (bits, thumb, aspect) in enumerate(some):
        for start in range(0, len(others), ROWS):
            part = slice(start, start + ROWS)
            apart = np.bitwise_count(hashes[part] ^ bits).sum(1)
            ratio = aspects[part] / aspect
            near = (apart <= BITS) & (ratio < ASPECT) & (ratio > 1 / ASPECT)
            found = start + near.nonzero()[0]
            for first in range(0, len(found), PAIRS):
                chosen = found[first : first + PAIRS]
                alike = chosen[thumbs_alike(thumb, thumbs[chosen])]
                yield from ((place, int(other)) for other in alike)


def thumbs_alike(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tell which thumbnails, (n, 12, 12, 3), may be of the same picture as one: (n,) bool.

    Brightness, contrast and saturation may differ.
    """
    luma, chroma = parts_of(one[None].astype(np.float32))
    lumas, chromas = parts_of(others.astype(np.float32))
    luma_off = np.abs(gained(lumas, luma) - luma).max((1, 2))
    chroma_off = np.abs(gained(chromas, chroma) - chroma).max((1, 2, 3))
    return (luma_off <= LUMA_OFF) & (chroma_off <= CHROMA_OFF)


def parts_of(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part RGB (n, h, w, 3) into luma (n, h, w) and chroma (n, h, w, 3), each of mean 0."""
    luma = pixels @ GREY
    chroma = pixels - luma[..., None]
    luma = luma - luma.mean((1, 2), keepdims=True)
    return luma, chroma - chroma.mean((1, 2), keepdims=True)


def gained(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Multiply each of n arrays, (n, ...), by what brings it nearest to the wanted one."""
    axes = tuple(range(1, values.ndim))
    gain = (values * wanted).mean(axes) / ((values * values).mean(axes) + 1)
    shape = (-1, *[1] * (values.ndim - 1))
    return np.clip(gain, 0.5, 2).reshape(shape) * values


# --- how much two pictures differ ---

MOST_SIDE = 256  # pixels that are compared, of a side
ALIGNED = 64  # pixels of a side while the crop is looked for
CROP = 0.03  # of a side at most
CROP_STEPS = ((0.0, 0.01, 0.02), (-0.005, 0.0, 0.005), (-0.0025, 0.0, 0.0025))
WINDOW = 5  # pixels of a side, over which a difference is averaged
SOFTENED, SOFTENED_COLOR = 0.7, 2.0  # pixels of a blur: JPEG keeps a quarter of the colors
NOISE = 15  # levels of 255 that are no contrast
LUMA_LIMIT = 0.23  # of the contrast around it
CHROMA_LIMIT = 14  # levels of 255
GAINS = (0.5, 2.0)  # of contrast
BRIGHTER = 64  # levels of 255 by which the mean may differ: a white picture is not a black one

Crop = tuple[float, float, float, float]  # shares cut off at left, top, right and bottom


def difference(one: Image.Image, other: Image.Image) -> float:
    """Measure how much two RGB pictures differ, where most; 1 or less: the same picture.

    One may be cropped out of the other, which is looked for, and recoloured, which is undone.
    Then every place must agree with one not a pixel away: in brightness, as a share of the
    contrast around it, and in colour. What another drawing has, or lacks, is at one place.
    """
    whole, cropped, crop = aligned(one, other)
    area = min(one.width * one.height, other.width * other.height)
    side = int(min(MOST_SIDE, max(WINDOW * 4, area**0.5)))
    a, b = part(whole, side, SOFTENED), part(cropped, side, SOFTENED, crop)
    brighter = abs((a @ GREY).mean() - (b @ GREY).mean())
    b, gain = recolored(b, a)
    if not GAINS[0] <= gain <= GAINS[1] and a.std() > 1:
        return np.inf
    luma_a, luma_b = a @ GREY, b @ GREY
    contrast = np.maximum(deviation(luma_a), deviation(luma_b))[1:-1, 1:-1]
    luma = (local_difference(luma_a, luma_b) / (NOISE + contrast)).max()
    a, b = part(whole, side, SOFTENED_COLOR), part(cropped, side, SOFTENED_COLOR, crop)
    b, _ = recolored(b, a)
    chroma_a, chroma_b = (pixels - (pixels @ GREY)[..., None] for pixels in (a, b))
    chroma = max(local_difference(chroma_a[..., c], chroma_b[..., c]).max() for c in range(3))
    return float(max(luma / LUMA_LIMIT, chroma / CHROMA_LIMIT, brighter / BRIGHTER))


def part(picture: Image.Image, side: int, blur: float = 0, crop: Crop = (0, 0, 0, 0)) -> np.ndarray:
    """Take what a crop leaves of a picture as a square of pixels, softened."""
    width, height = picture.size
    left, top, right, bottom = crop
    box = (left * width, top * height, width - right * width, height - bottom * height)
    square = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
    if blur:
        square = square.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(square, np.float32)


def aligned(one: Image.Image, other: Image.Image) -> tuple[Image.Image, Image.Image, Crop]:
    """Find which of two pictures is cropped out of the other: (it, the other, the crop)."""
    grey = one.convert("L"), other.convert("L")
    (error, crop), (error_back, crop_back) = best_crop(*grey), best_crop(*grey[::-1])
    return (one, other, crop) if error <= error_back else (other, one, crop_back)


def best_crop(target: Image.Image, picture: Image.Image) -> tuple[float, Crop]:
    """Find the crop of a grey picture that is nearest to the target: (squared error, crop)."""
    wanted = part(target, ALIGNED)
    wanted = wanted - wanted.mean()

    def error(crop: list[float]) -> float:
        pixels = part(picture, ALIGNED, crop=tuple(crop))
        pixels = pixels - pixels.mean()
        gain = (pixels * wanted).sum() / max(1e-3, (pixels * pixels).sum())
        return float(((gain * pixels - wanted) ** 2).mean())

    crop = [0.0] * 4
    for steps in CROP_STEPS:
        for _ in range(2):
            before = crop
            for sides in ((0, 2), (1, 3)):  # a width and a height each change by two cuts
                crop = min(cuts(crop, sides, steps), key=error)
            if crop == before:
                break
    return error(crop), tuple(crop)


def cuts(crop: list[float], sides: tuple[int, int], steps: Sequence[float]) -> list[list[float]]:
    """List the crops whose cuts at two sides are by these steps larger or smaller."""
    found = []
    for first in steps:
        for second in steps:
            changed = list(crop)
            for side, step in zip(sides, (first, second)):
                changed[side] = min(CROP, max(0.0, crop[side] + step))
            found.append(changed)
    return found


def recolored(pixels: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, float]:
    """Change brightness, contrast, saturation and white point of pixels to the wanted ones.

    By least squares; no colour can become another. Returns the pixels and the gain of contrast.
    """
    grey = (pixels @ GREY)[..., None]
    columns = np.zeros((*pixels.shape, 5), np.float32)  # for (pixel, channel), five numbers
    columns[..., 0] = grey
    columns[..., 1] = pixels - grey
    for channel in range(3):
        columns[:, :, channel, 2 + channel] = 1
    rows = columns.reshape(-1, 5)
    square = rows.T @ rows + 1e-3 * np.eye(5, dtype=np.float32)
    found = np.linalg.solve(square, rows.T @ wanted.reshape(-1))
    return (rows @ found).reshape(wanted.shape), float(found[0])


def averaged(values: np.ndarray) -> np.ndarray:
    """Average over every window: (n, n) -> (n - 4, n - 4)."""
    sums = np.pad(values.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    w = WINDOW
    return (sums[w:, w:] - sums[:-w, w:] - sums[w:, :-w] + sums[:-w, :-w]) / w**2


def deviation(values: np.ndarray) -> np.ndarray:
    """Measure the standard deviation in every window."""
    mean = averaged(values)
    return np.sqrt(np.maximum(averaged(values.astype(np.float64) ** 2) - mean**2, 0))


def local_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Average |a - b| over every window, b shifted by a pixel where that makes it less."""
    n = len(a)
    least = np.full((n - 2 - WINDOW + 1,) * 2, np.inf)
    for y in range(3):
        for x in range(3):
            shifted = b[y : y + n - 2, x : x + n - 2]
            least = np.minimum(least, averaged(np.abs(a[1:-1, 1:-1] - shifted)))
    return least
