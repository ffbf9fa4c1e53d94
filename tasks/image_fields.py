"""Which fields of a record are pictures. One that seems to have an unread picture is refused."""

import os
import re
from pathlib import Path
from typing import Any

from plumbing.errors import UserError
from plumbing.text import short
from tasks import record_fields
from tasks.example import Example
from tasks.images import BASE64_STARTS, is_encoded

# --- what looks like a picture ---

PICTURE = (
    "images?|imgs?|pictures?|pics?|photos?|photographs?|figures?|figs?|frames?|videos?|pixels?"
    "|screenshots?|diagrams?"
)
HANDLE = (
    "paths?|files?|filenames?|names?|ur[il]s?|bytes|base64|b64|data|src|raw|pil|list|input|values"
    "|left|right|first|second|top|original|full|main|query|question|before|after|local|rgb"
)
NAMES_PICTURE = re.compile(rf"(?:{PICTURE}|{HANDLE}|[^a-z])+")  # imgname, image_2, leftImagePath
SAYS_PICTURE = re.compile(
    rf"(?:has|have|is|with|contains|needs|requires|uses)_?(?:an?_?)?(?:{PICTURE})"
)
COUNTS_PICTURES = re.compile(
    r"(?:num|number|n|nb|count|total)_?(?:of_?)?(?:image|img|picture|photo)s?"
    r"|(?:image|img|picture|photo)s?_?(?:count|num)"
)
PICTURE_FILE = re.compile(
    r"[^\n]{1,255}\.(?:png|jpe?g|jfif|gif|webp|bmp|tiff?|svg|heic|avif|ppm"
    r"|mp4|m4v|avi|mov|mkv|webm)(?:[?#]\S*)?",
    re.IGNORECASE,
)
PICTURE_BYTES = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cJXL "
)  # fmt: skip
ANOTHER = re.compile(r"\d|left|right|first|second|before|after")  # image_2, beside `image`
# Of a turn's parts, in chats.
PART_TYPES = ("image", "image_url", "input_image", "video", "video_url")
# Where a picture belongs in a text: <image>, <image 1>, <|image_1|>, <ImageHere>, <video>.
EMBEDDED = re.compile(r"<img\s[^>]*>|!\[[^\]]*\]\([^)]*\)|\[image\]", re.IGNORECASE)
MARK = re.compile(
    r"<\|?\s*(image|img|picture|photo|video)[ _-]?(\d{1,3}|here|placeholder|pad|token)?\s*\|?>",
    re.IGNORECASE,
)
READ_FROM = "pictures are read from `image`, `images` or `image_path`"


def as_list(value: Any) -> list:
    """Make a list of one value, of none for null."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def pictures_of(record: dict, where: str) -> list:
    """List what a record has under IMAGE_KEYS.

    UserError for an empty text, an empty list beside a picture, and keys that name different ones.
    """
    given = {
        key: as_list(record[key]) for key in record_fields.IMAGE_KEYS if record.get(key) is not None
    }
    for key, images in given.items():
        if any(isinstance(image, str) and not image.strip() for image in images):
            raise UserError(
                f"{where}: `{key}` is empty; name the picture, or write null where there is none"
            )
    full = [key for key in given if given[key]]
    empty = next((key for key in given if not given[key]), None)
    if full and empty:
        raise UserError(
            f"{where}: `{empty}` is an empty list, but `{full[0]}` is not; delete `{empty}`"
        )
    for key in full[1:]:
        known = {name_of(image) for image in given[full[0]]} - {None}
        among = all(name_of(image) in known for image in given[key])
        if not among and not same_pictures(given[key], given[full[0]]):
            raise UserError(
                f"{where}: `{full[0]}` and `{key}` name different pictures; "
                f"put all of them in `images`, or delete `{key}`"
            )
    return given[full[0]] if full else []


def name_of(image: Any) -> str | None:
    """Tell a picture's file name without folders and suffix, or None: "x/a.png" -> "a"."""
    if isinstance(image, dict):
        image = image.get("path") or image.get("url")
    if not isinstance(image, str) or is_encoded(image):
        return None
    path = re.split("[?#]", image)[0].replace("\\", "/")
    return os.path.splitext(os.path.basename(path))[0]


def same_pictures(images: list, others: list) -> bool:
    """Tell whether as many pictures are in both lists, none with another name."""
    if len(images) != len(others):
        return False
    pairs = [(name_of(a), name_of(b)) for a, b in zip(images, others)]
    return all(a == b for a, b in pairs if a is not None and b is not None)


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """List (nearest key, value) of all that is inside a value, containers too."""
    parts, todo = [], [(None, value)]
    while todo:  # a loop: values may be nested deeper than calls may
        key, value = todo.pop()
        parts.append((key, value))
        if isinstance(value, dict):
            todo += value.items()
        elif isinstance(value, (list, tuple)):
            todo += [(key, item) for item in value]
    return parts


def has_content(value: Any) -> bool:
    """Tell whether anything is there but null, blanks, 0, false, NaN and containers of such."""
    for _, item in leaves(value):
        if isinstance(item, (str, bytes)):
            item = item.strip()
        if not isinstance(item, (dict, list, tuple)) and item == item and item:
            return True
    return False


def is_picture(value: Any) -> bool:
    """Tell whether this looks like a picture or video, or its name."""
    if isinstance(value, bytes):
        return value.startswith(PICTURE_BYTES) or value[4:8] == b"ftyp"
    if not isinstance(value, str):
        return False
    begins = value.startswith(("data:image/", "data:video/", *BASE64_STARTS))
    return (begins and is_encoded(value)) or bool(PICTURE_FILE.fullmatch(value.strip()))


def names_picture(key: Any) -> bool:
    """Tell whether a key is made of words for a picture: imgname, image_2, not image_id."""
    key = str(key).lower()[:60]  # the limit: matching is exponential in words
    return bool(NAMES_PICTURE.fullmatch(key) and re.search(PICTURE, key))


def seems_pictured(key: Any, value: Any) -> bool:
    """Tell whether this looks like a picture, by key or value, where none was read."""
    if (key == "type" and value in PART_TYPES) or is_picture(value):
        return True
    return names_picture(key) and has_content(value)


def is_one_more(key: Any, value: Any, read: list) -> bool:
    """Tell whether this looks like another picture than those that were read."""
    if not names_picture(key):
        return False
    low = str(key).lower()
    sure = bool(ANOTHER.search(low))
    named = []
    for _, item in leaves(value):
        if is_picture(item) or (sure and isinstance(item, str) and item.strip()):
            named.append(item)
    if not named or "video" in low:
        return bool(named)
    if all(isinstance(item, str) and item.startswith(("http://", "https://")) for item in named):
        return len(named) > len(read)  # where those that were read come from
    whole = as_list(value)
    named = whole if any(isinstance(item, dict) for item in whole) else named
    known = {name_of(image) for image in read}
    if None in known and not sure and re.search("path|name|file", low):
        return len(named) > len(read)  # the names of embedded pictures
    return any(name_of(image) not in known - {None} for image in named)


# --- refusals ---


def must_see(left: dict, turns: list, read: list, where: str) -> None:
    """Refuse a record that seems to have a picture besides those that are read.

    left: what of the record is carried along unread.
    turns: those of its conversation, of which the words are read.
    read: its pictures, as they are given.
    """
    fields = list(left.items())
    if not read:
        for turn in turns:
            if isinstance(turn, dict):
                beside = record_fields.without(turn, "from", "value", "role", "content")
                fields += beside.items()
    for key, value in fields:
        must_agree(key, value, len(read), where)
        if read:
            seems = is_one_more(key, value, read)
        else:
            seems = any(seems_pictured(name or key, item) for name, item in leaves(value))
        if seems:
            raise unread_picture(key, bool(read), where)


def must_agree(key: Any, value: Any, count: int, where: str) -> None:
    """Refuse a field that states more pictures than the `count` that are read."""
    low = str(key).lower()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if COUNTS_PICTURES.fullmatch(low) and is_number and value > count:
        raise UserError(
            f"{where}: `{key}` is {short(value, 20)}, but {count} images are read; "
            f"{READ_FROM}: list all of them in `images`, or fix the number"
        )
    if SAYS_PICTURE.fullmatch(low) and value in (True, "true", "True", "yes") and not count:
        raise UserError(
            f"{where}: `{key}` is {short(value, 20)}, but no picture is read; {READ_FROM}: "
            "name it there, or write false"
        )


def unread_picture(key: Any, one_more: bool, where: str) -> UserError:
    """Make the message about a field that seems to hold an unread picture."""
    shown = short(key, 60)
    if "video" in str(key).lower():
        return UserError(
            f"{where}: `{shown}`: the record is about a video, and only images can be read; "
            "delete the record, or the key if the question needs no video"
        )
    if one_more:
        return UserError(
            f"{where}: `{shown}` seems to hold one more picture, which is not read; "
            "put all pictures in `images`, or delete the key if the question does not need it"
        )
    return UserError(
        f"{where}: `{shown}` seems to hold a picture, but {READ_FROM}; "
        "rename the key, or delete it if the question needs no picture"
    )


def must_match_marks(texts: list[str | None], count: int, where: str) -> None:
    """Refuse texts that speak of other pictures than the `count` that are read.

    texts: the question first; in it there is one <image> for each picture, or none at all.
    """
    marks = texts[0].count("<image>") if texts and texts[0] else 0
    if marks and marks != count:
        raise UserError(
            f"{where}: {marks} <image> in the question, but {count} images; "
            "there must be one for each, or no <image> at all"
        )
    for text in filter(None, texts):
        embedded = EMBEDDED.search(text)
        if embedded and not count:
            raise UserError(
                f"{where}: the text has {short(embedded[0], 40)}, but no image is read; "
                f"{READ_FROM}: name it there, or remove it"
            )
        for kind, number in MARK.findall(text):
            beyond = number.isdigit() and int(number) > count
            if not count or beyond or kind.lower() == "video":
                mark = f"{kind} {number}".strip()
                raise UserError(
                    f"{where}: the text has <{mark}>, but {count} images are read; "
                    f"{READ_FROM}: name it there, or remove the mark"
                )


def say_without_pictures(examples: list[Example], spec: Any) -> None:
    """Print how many records of each file have no picture, and their keys."""
    by_file = {}
    for example in examples:
        file = re.split(r":\d+(?:, record \d+)?$", example.source)[0]
        by_file.setdefault(file, []).append(example)
    lines = []
    for file, records in by_file.items():
        blank = [example for example in records if not example.images]
        if blank:
            name = short(Path(file).name, 60)
            lines.append(line_without_pictures(name, blank, len(records)))
    for line in lines[:3]:
        print(f"{spec}: {line}; those without are asked as text alone")
    if len(lines) > 3:
        print(f"{spec}: {len(lines) - 3} more files have records without a picture")


def line_without_pictures(name: str, blank: list[Example], total: int) -> str:
    """Write how many of a file's `total` records have no picture: the `blank` ones."""
    if len(blank) == total:
        line = f"none of {total} records of {name} have a picture"
    else:
        line = (
            f"{total - len(blank)} of {total} records of {name} have a picture, "
            f"the first without is {short(blank[0].source, 80)}"
        )
    keys = {str(key) for example in blank for key in example.meta}
    keys = sorted(keys - {"prompt_template"})  # which is read, and set for pairs
    return f"{line}; keys not read: {short(', '.join(keys), 60)}" if keys else line
