"""Tell pictures apart by what is in them, wherever they are kept."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tasks.example import Example
from tasks.images import Picture

LETTERS = 16  # of a hash, 64 bits: two of a billion pictures agree in one set of 40


def key_of(image: Picture) -> str:
    """Hash a picture: its encoded bytes, or the pixels of one that is open.

    Equal files have equal keys; the same picture encoded twice has two. OSError if it is gone.
    """
    if isinstance(image, Image.Image):
        about = f"{image.mode} {image.size}".encode()
        return hashlib.sha256(about + image.tobytes()).hexdigest()[:LETTERS]
    content = image
    if isinstance(image, (str, Path)):
        content = Path(image).read_bytes()
    elif not isinstance(image, bytes):
        content = image.read()
    return hashlib.sha256(content).hexdigest()[:LETTERS]


def keys_of(example: Example) -> list[str]:
    """Hash each of an example's pictures, in order."""
    return [key_of(image) for image in example.images]


def are_keys(text: str) -> bool:
    """Tell whether a text is keys of pictures, with a blank between two."""
    return re.fullmatch(rf"[0-9a-f]{{{LETTERS}}}( [0-9a-f]{{{LETTERS}}})*", text) is not None


def share_one(some: Sequence[str], others: Sequence[str]) -> bool:
    """Tell whether two questions have a picture in common, by their keys."""
    return not set(some).isdisjoint(others)
