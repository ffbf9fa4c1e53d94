"""Text and pictures to numbers, and back: one checkpoint's tokenizer and image processor."""

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import families
from plumbing import checkpoint_files, templates
from plumbing.errors import UserError
from plumbing.find_model import locate, looks_local
from plumbing.flags import MAX_PIXELS, MIN_PIXELS


@dataclass
class Processor:
    """Text and pictures to numbers, and back."""

    tokenizer: object
    image_processor: object
    special: SimpleNamespace  # ids by name, see families.special_ids
    context: int  # the most tokens that a prompt and its answer may have
    family: families.Family

    @property
    def token_side(self) -> int:
        """Pixels across of what one image token shows."""
        return self.image_processor.patch_size * self.image_processor.merge_size

    def limited(self, max_pixels: int) -> "Processor":
        """Return one that shrinks pictures to this many pixels, and is the same otherwise."""
        image_processor = copy.copy(self.image_processor)
        fewest = self.image_processor.size["shortest_edge"]
        image_processor.size = pixel_limits(max_pixels, fewest)
        return replace(self, image_processor=image_processor)

    def save(self, directory: str | Path) -> None:
        """Write tokenizer, chat template and image processor, as transformers reads them."""
        self.tokenizer.save_pretrained(directory)
        self.image_processor.save_pretrained(directory)

    def decode(self, ids: Iterable[int]) -> str:
        """Turn (T,) ids into text, up to the first end of text and without special tokens."""
        ids = [int(i) for i in ids]
        end = next((t for t, i in enumerate(ids) if i in self.special.eos_ids), len(ids))
        return self.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def pixel_limits(max_pixels: int | None, min_pixels: int | None) -> dict[str, int]:
    """Write the limits as an image processor's `size`."""
    return {"shortest_edge": min_pixels or MIN_PIXELS, "longest_edge": max_pixels or MAX_PIXELS}


def processor_of(
    name: str, max_pixels: int | None = None, min_pixels: int | None = None
) -> Processor:
    """Load what --model `name` reads with, but not its weights."""
    family = families.preset(name)
    if not family:
        base, _ = locate(name, weights=False)
        return load_processor(base, max_pixels, min_pixels)
    _, tokenizer, image_processor = families.tiny(family=family)
    image_processor.size = pixel_limits(max_pixels, min_pixels)
    return tiny_processor(family, tokenizer, image_processor)


def tiny_processor(
    family: families.Family, tokenizer: object, image_processor: object
) -> Processor:
    """Join what families.tiny has made."""
    context = family.tiny_text["max_position_embeddings"]
    special = families.special_ids(tokenizer, family)
    return Processor(tokenizer, image_processor, special, context, family)


def family_of(name: str) -> tuple[families.Family, int]:
    """Find the family of what --model names, and the pixels across of an image token.

    What is no directory counts as `tiny`: it is refused where the model is loaded.
    """
    family = families.preset(name)
    if not family and looks_local(name) and not os.path.isdir(name):
        family = families.preset("tiny")
    if family:
        return family, family.token_side(family.tiny_vision)
    base, _ = locate(name, weights=False)
    config = checkpoint_files.read_config(base)
    family = families.FAMILIES[config["model_type"]]
    return family, family.token_side(config.get("vision_config") or {})


def load_processor(
    directory: str | Path, max_pixels: int | None = None, min_pixels: int | None = None
) -> Processor:
    """Load tokenizer and image processor without AutoProcessor, which needs torchvision.

    The chat template is the tokenizer's, the checkpoint's file (.json or .jinja), or the family's.
    """
    directory = Path(directory)
    if not any((directory / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        raise UserError(
            f"{directory} holds no tokenizer.json; "
            "copy the tokenizer's files of the original checkpoint there"
        )
    config = checkpoint_files.read_config(directory)
    family = families.FAMILIES[config["model_type"]]
    tokenizer = checkpoint_files.load_tokenizer(directory)
    special = families.special_ids(tokenizer, family)
    size = pixel_limits(max_pixels, min_pixels)
    if size["shortest_edge"] > size["longest_edge"]:
        raise UserError(
            f"--min-pixels {size['shortest_edge']} is more than "
            f"--max-pixels {size['longest_edge']}; lower it"
        )
    settings = family.image_processor | checkpoint_files.read_preprocessor(directory)
    image_processor = families.image_processor_class()(size=size, **settings)
    checkpoint_files.check_processor(directory, config, image_processor, special, len(tokenizer))
    context = checkpoint_files.text_of(config)[0].get("max_position_embeddings") or 32768
    template = templates.chat_template(tokenizer, directory)
    tokenizer.chat_template = template or family.chat_template
    return Processor(tokenizer, image_processor, special, context, family)
