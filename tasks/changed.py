"""Change a picture so little that no answer should change: for consistency.

The change is made when the picture is opened, so that no changed picture stays in memory.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from tasks import images
from tasks.example import Example

SMALLER = 0.95  # of each side
QUALITY = 75  # of the JPEG, Pillow's default


def smaller(picture: Image.Image) -> Image.Image:
    """Shrink a picture by a twentieth of each side."""
    return picture.resize(smaller_size(picture.size), Image.Resampling.BICUBIC)


def smaller_size(size: tuple[int, int]) -> tuple[int, int]:
    """Compute the size that it then has."""
    width, height = (max(1, round(side * SMALLER)) for side in size)
    return width, height


def shifted(picture: Image.Image) -> Image.Image:
    """Move a picture right and down by one pixel; its first column and row are repeated."""
    moved = picture.copy()
    moved.paste(picture, (1, 0))
    both = moved.copy()
    both.paste(moved, (0, 1))
    return both


def as_it_is(picture: Image.Image) -> Image.Image:
    """Leave the pixels to the encoder."""
    return picture


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "resize": (smaller, "PNG"),
    "shift": (shifted, "PNG"),
    "jpeg": (as_it_is, "JPEG"),
}


@dataclass(frozen=True)
class Changed:
    """A picture with one of CHANGES."""

    image: images.Picture
    change: str
    source: str  # for messages

    def read(self) -> bytes:
        """Encode the changed picture. UserError if it cannot be opened."""
        change, kind = CHANGES[self.change]
        file = io.BytesIO()
        change(images.open_image(self.image, self.source)).save(file, kind, quality=QUALITY)
        return file.getvalue()


def keeps_gold(example: Example, change: str) -> bool:
    """Tell whether the gold stays right: boxes in pixels do not in a smaller picture."""
    in_pixels = "boxes" in example.meta and example.meta.get("box_format") in ("resized", "pixels")
    return not (in_pixels and change == "resize")


def with_change(example: Example, change: str) -> Example:
    """Ask about changed pictures."""
    changed = [Changed(image, change, example.source) for image in example.images]
    sizes = list(images.sizes_of(example))  # so that lengths are checked without opening a picture
    if change == "resize":
        sizes = [smaller_size(size) for size in sizes]
    return replace(example, images=changed, sizes=sizes)
