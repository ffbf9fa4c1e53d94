"""Measure how well tasks/contamination.py tells saved-anew pictures from others that look alike.

    python -m recipes.planted_duplicates --train count --eval count:test      (CPU, a few minutes)

Pictures of TRAIN are saved anew in seven ways, and looked for in TRAIN. EVAL's pictures are others
that look alike: each that is found in TRAIN is a false alarm. Beside it stands what a perceptual
hash alone finds, 64 bits of which 10 may differ (imagehash's phash, as it is commonly used).
"""

import argparse
import io
import random
import sys
from collections.abc import Callable
from pathlib import Path

import imagehash
from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import flags
from plumbing.bad_records import REFUSE
from tasks import contamination, kept
from tasks.contamination import Contents
from tasks.example import Example

HASH_BITS = 10


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "recipes.planted_duplicates")
    p.add_argument("--train", default="count", help="whose pictures are saved anew")
    p.add_argument("--eval", default="count:test", help="whose pictures look alike, and are others")
    p.add_argument("--number", type=flags.int_from_1, default=60, help="pictures saved anew")
    p.add_argument("--others", type=flags.int_from_1, default=300, help="pictures of each set")
    p.add_argument("--seed", type=flags.int_from_0, default=0, help="of the changes")
    return p.parse_args(argv)


# --- saved anew ---


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(picture: Image.Image, rng: random.Random) -> Image.Image:
    scale = rng.choice([0.6, 0.75, 1.5, 2.0])
    return picture.resize([round(scale * side) for side in picture.size], Image.Resampling.BICUBIC)


def recolored(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Change brightness, contrast and saturation by a tenth at most."""
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(rng.uniform(0.9, 1.1))
    return picture


def cropped(picture: Image.Image, left: float, top: float, right: float, bottom: float):
    width, height = picture.size
    cuts = round(left * width), round(top * height), round(right * width), round(bottom * height)
    return picture.crop((cuts[0], cuts[1], width - cuts[2], height - cuts[3]))


def all_of_it(picture: Image.Image, rng: random.Random) -> Image.Image:
    cuts = [rng.uniform(0, 0.02) for _ in range(4)]
    return as_jpeg(resized(recolored(cropped(picture, *cuts), rng), rng), 85)


CHANGES: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "JPEG, quality 75": lambda picture, rng: as_jpeg(picture, 75),
    "JPEG, quality 50": lambda picture, rng: as_jpeg(picture, 50),
    "resized by 0.6 to 2": resized,
    "recoloured by up to 10 %": recolored,
    "cropped by 2 % at one side": lambda picture, rng: cropped(picture, 0.02, 0, 0, 0),
    "cropped by 2 % at every side": lambda picture, rng: cropped(picture, *[0.02] * 4),
    "cropped, recoloured, resized, JPEG": all_of_it,
}


# --- found ---


def contents_of(pictures: list[Image.Image]) -> Contents:
    found = Contents()
    for n, picture in enumerate(pictures):
        example = Example(str(n), [picture], "", "", source=str(n))
        found.add(example, contamination.printed(example))
    return found


def pictures_of(spec: str, number: int) -> list[Image.Image]:
    examples = contamination.examples_of(spec, 3, number, REFUSE)
    return [kept.small_picture(example.images[0], example.source) for example in examples]


def matched(train: Contents, pictures: list[Image.Image]) -> list[tuple[int, int]]:
    """Find pictures in TRAIN: [(place among them, place in TRAIN)]."""
    return [match[:2] for match in contamination.matches(train, contents_of(pictures))]


def hashed(train: list, pictures: list[Image.Image]) -> list[tuple[int, int]]:
    """The same by a hash of 64 bits alone. train: such hashes."""
    found = []
    for n, picture in enumerate(pictures):
        own = imagehash.phash(picture)
        found += [(n, other) for other, theirs in enumerate(train) if own - theirs <= HASH_BITS]
    return found


def main(args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    pictures = pictures_of(args.train, args.others)
    others = pictures_of(args.eval, args.others)
    train, hashes = contents_of(pictures), list(map(imagehash.phash, pictures))
    print("| saved anew | found | another taken for it | hash alone: found | another |")
    print("| --- | --- | --- | --- | --- |")
    totals = [0, 0, 0, 0]
    for name, change in CHANGES.items():
        copies = [change(picture, rng) for picture in pictures[: args.number]]
        counts = []
        for found in (matched(train, copies), hashed(hashes, copies)):
            right = sum(place == other for place, other in found)
            counts += [right, len(found) - right]
        totals = [a + b for a, b in zip(totals, counts)]
        print(
            f"| {name} | {counts[0]} of {len(copies)} | {counts[1]} | {counts[2]} | {counts[3]} |"
        )
    alarms = [len(matched(train, others)), len(hashed(hashes, others))]
    n = len(CHANGES) * min(args.number, len(pictures))
    print(f"| none: {len(others)} others that look alike | | {alarms[0]} | | {alarms[1]} |")
    for name, right, wrong, more in zip(
        ("tasks/contamination.py", "hash alone"), totals[::2], totals[1::2], alarms
    ):
        precision = right / max(1, right + wrong + more)
        print(f"{name}: precision {precision:.3f}, recall {right / n:.3f}")
    print(f"TRAIN {len(pictures)} pictures")


if __name__ == "__main__":
    main(parse_args())
