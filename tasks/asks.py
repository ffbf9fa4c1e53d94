"""What a teacher is asked and what it replies: plain records, and how they go out.

Ask("toy:7", [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                           {"type": "text", "text": "How many?"}]}])
"""

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tasks import images
from tasks.example import Example, Turn
from tasks.marks import MARK
from tasks.prompts import quoted

JPEG_QUALITY = 95  # of what is shrunk or turned; all else goes out as it is
MESSAGE_TOKENS, IMAGE_TOKENS, PIXELS_OF_A_TOKEN = 32, 1500, 750  # guesses, see `prompt_bound`


class Ask(NamedTuple):
    """One request.

    id: of the record and the stage, for messages.
    messages: [{"role", "content"}, ...], content a text or a list of {"type": "text", "text"} and
    {"type": "image", "image"}: a PIL image, a path, or encoded bytes. The last one is the user's.
    prefix: the beginning of the assistant's own turn, to be continued.
    """

    id: str
    messages: list[dict]
    prefix: str = ""


class Reply(NamedTuple):
    """What came back. text: without the prefix. finish: "stop" or "length" (cut)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str


class Failure(NamedTuple):
    """A request that was given up, and why."""

    reason: str


def parts_of(message: dict) -> list[dict]:
    """List the parts of a message, whose content may be a text."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def text_of(message: dict) -> str:
    """Join what a message says, without its pictures."""
    return "".join(part["text"] for part in parts_of(message) if part["type"] == "text")


def pictures_of(ask: Ask) -> list:
    """List the pictures of an ask, in order."""
    parts = [part for message in ask.messages for part in parts_of(message)]
    return [part["image"] for part in parts if part["type"] == "image"]


def said_in(ask: Ask) -> int:
    """Count the bytes of an ask's texts. A token of text is at least one byte."""
    texts = [text_of(message) for message in ask.messages] + [ask.prefix]
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


# --- for our own engine ---


def to_example(ask: Ask) -> Example:
    """Write an ask as an Example, for Asker.verbatim().

    What a text spells of a picture's place or of a special token is broken up, as in `quoted`.
    """
    *before, last = ask.messages
    assert last["role"] == "user", f"{ask.id}: the last message is not the user's"
    system = None
    if before and before[0]["role"] == "system":
        system = quoted(text_of(before.pop(0)))
    history = [Turn(message["role"], marked(message)) for message in before]
    return Example(
        ask.id,
        pictures_of(ask),
        marked(last),
        "",
        history=history,
        system=system,
        source=ask.id,
    )


def marked(message: dict) -> str:
    """Write a message as one text, with <image> for each picture."""
    texts = [
        MARK if part["type"] == "image" else quoted(part["text"]) for part in parts_of(message)
    ]
    return "".join(texts)


# --- for a server ---


def prompt_bound(ask: Ask) -> int:
    """Guess from above how many tokens a prompt has.

    For text it is a bound: a token is at least a byte. For pictures nobody knows: the guess is
    above what GPT-4o, Claude and Qwen-VL count. served.py corrects it by what the server counts.
    UserError for a picture that cannot be opened.
    """
    tokens = said_in(ask) + MESSAGE_TOKENS * (len(ask.messages) + 1)
    for image in pictures_of(ask):
        width, height = images.picture_size(image, ask.id)
        tokens += max(IMAGE_TOKENS, width * height // PIXELS_OF_A_TOKEN)
    return tokens


def to_wire(ask: Ask, max_pixels: int | None = None) -> list[dict]:
    """Write the messages of an ask as the OpenAI protocol has them, pictures as data URLs.

    A message without pictures is a plain text: not every server takes parts there.
    max_pixels: shrink larger pictures. UserError for a picture that cannot be opened.
    """
    wire = []
    for message in ask.messages:
        parts = parts_of(message)
        content = text_of(message)
        if any(part["type"] == "image" for part in parts):
            content = [wire_part(part, max_pixels, ask.id) for part in parts]
        wire.append({"role": message["role"], "content": content})
    return wire


def wire_part(part: dict, max_pixels: int | None, where: str) -> dict:
    """Write one part of a message as the OpenAI protocol has it."""
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    return {
        "type": "image_url",
        "image_url": {"url": picture_url(part["image"], max_pixels, where)},
    }


def picture_url(image: images.Picture, max_pixels: int | None, where: str) -> str:
    """Write a picture as a data URL: the file itself if it is an upright PNG or JPEG in RGB.

    Servers do not all turn pictures by their EXIF data, nor lay transparency on white.
    """
    header = images.open_header(image, where)
    kind = "JPEG" if header.format == "JPEG" else "PNG"
    fits = not max_pixels or header.width * header.height <= max_pixels
    plain = header.format == kind and header.mode in ("RGB", "L") and fits
    plain = plain and "transparency" not in header.info and images.turn_of(header) is None
    picture = images.open_image(image, where)  # decoded: half a file is found here
    if plain and not isinstance(image, Image.Image):
        return images.data_url(encoded_of(image), kind)
    if not fits:
        scale = (max_pixels / (picture.width * picture.height)) ** 0.5
        size = [max(1, int(side * scale)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, kind, quality=JPEG_QUALITY)
    return images.data_url(file.getvalue(), kind)


def encoded_of(image: str | Path | bytes | images.Encoded) -> bytes:
    """Read the encoded picture."""
    if isinstance(image, bytes):
        return image
    return image.read() if isinstance(image, images.Encoded) else Path(image).read_bytes()
