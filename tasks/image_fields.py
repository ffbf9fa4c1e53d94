"""Which fields of a record are pictures. One that seems to have an unread picture is refused."""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbing.errors import UserError
from plumbing.text import short
from tasks import choice_forms, record_fields
from tasks.example import Example
from tasks.images import BASE64_STARTS, SUFFIXES, WEB_ADDRESS, is_encoded

# Other keys of published sets: read where they hold pictures, and IMAGE_KEYS hold nothing.
OTHER_KEYS = (
    *("image_bytes", "img", "imgs", "picture", "pictures", "visual", "visuals", "image_list"),
    *("image_url", "image_urls", "image_paths", "img_path", "img_paths", "image_file"),
    *("image_files", "image_filename", "img_filename", "image_name", "image_names", "img_name"),
    *("img_names", "imgname", "file_name", "file_names"),
)
NUMBERED_KEY = re.compile(r"(image_?|img_?)(\d{1,2})")  # image_1 (BLINK), img1
PLACE_NAME = re.compile(r"<image_\d+>")
READ_FROM = "pictures are read from `image`, `images` or `image_path`"

# --- what looks like a picture ---

PICTURE = (
    "images?|imgs?|pictures?|pics?|photos?|photographs?|figures?|figs?|frames?|videos?|pixels?"
    "|screenshots?|diagrams?|visuals?"
)
HANDLE = (
    "paths?|files?|filenames?|names?|ur[il]s?|bytes|base64|b64|data|src|raw|pil|list|input|values"
    "|top|original|full|main|query|question|local|rgb"
)
# Which of several: target_image, image_b.
WHICH = (
    "left|right|first|second|before|after|target|reference|support|options?|choices?|other"
    "|(?<![a-z])[a-h](?![a-z])"
)
NAMES_PICTURE = re.compile(rf"(?:{PICTURE}|{HANDLE}|{WHICH}|[^a-z])+")  # imgname, leftImagePath
ANOTHER = re.compile(rf"\d|{WHICH}")  # image_2, image_b, target_image, beside `image`
NUMBERS_PICTURE = re.compile(rf"(?:{PICTURE})_?(?:ids?|idx|index|key|hash|uuid)")  # COCO's image_id
SAYS_PICTURE = re.compile(
    rf"(?:has|have|is|with|contains|needs|requires|uses)_?(?:an?_?)?(?:{PICTURE})"
)
COUNTS_PICTURES = re.compile(
    r"(?:num|number|n|nb|count|total)_?(?:of_?)?(?:image|img|picture|photo)s?"
    r"|(?:image|img|picture|photo)s?_?(?:count|num)"
)
PICTURE_FILE = re.compile(
    rf"[^\n]{{1,255}}\.(?:{SUFFIXES}|mp4|m4v|avi|mov|mkv|webm)(?:[?#]\S*)?",
    re.IGNORECASE,
)
MOST_WORDS = 6  # of a file name; a longer text is a sentence
PICTURE_BYTES = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cJXL "
)  # fmt: skip
ENCODED_STARTS = ("data:image/", "data:video/", *BASE64_STARTS)
# What is told about a picture or the answer: its source, its mask. It is no other picture.
TOLD = (
    *("source", "sources", "origin", "original", "orig", "meta", "metadata", "info", "id", "ids"),
    *("mask", "masks", "segmentation", "segmentations", "filename", "file_name"),
    *("solution", "explanation", "rationale", "ocr", "thumbnail"),
)
# Of a turn's parts, in chats.
PART_TYPES = ("image", "image_url", "input_image", "video", "video_url")


# --- the fields ---


def as_list(value: Any) -> list:
    """Make a list of one value, of none for null. A list may be written as a text (VLMEvalKit)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = choice_forms.listed(value)
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def listed(value: Any) -> list:
    """List what a field of pictures holds.

    {"<image_00>": "a.png", "<image_01>": "b.png"} (MiniCPM-V) -> ["a.png", "b.png"]
    """
    if isinstance(value, dict) and value and all(PLACE_NAME.fullmatch(str(key)) for key in value):
        value = [value[key] for key in sorted(value, key=lambda name: int(name[7:-1]))]
    return [opened(image) for image in as_list(value)]


def gathered(record: dict, where: str) -> dict:
    """Write a record with its pictures under `images`, if they are under another known key.

    image_1, image_2, ... in their order, or one of OTHER_KEYS. Nothing else is a picture's key.
    """
    if any(record.get(key) is not None for key in record_fields.IMAGE_KEYS):
        return record
    keys = numbered_keys(record, where)
    if not keys:
        keys = [key for key in OTHER_KEYS if holds_pictures(record.get(key))]
        here = [key for key in keys if not any(map(is_address, as_list(record[key])))]
        keys = (here or keys)[:1]
    if not keys:
        return record
    images = [image for key in keys for image in listed(record[key])]
    return {**record_fields.without(record, *keys), "images": images}


def numbered_keys(record: dict, where: str) -> list[str]:
    """List the keys image_1, image_2, ... in order, with one of null behind the last (BLINK).

    None unless all hold pictures. UserError where a number in between is missing.
    """
    found = [match for key in record if (match := NUMBERED_KEY.fullmatch(str(key)))]
    full = {int(match[2]): match[0] for match in found if has_content(record[match[0]])}
    are_pictures = all(holds_pictures(record[key]) for key in full.values())
    if not full or 0 in full or not are_pictures or len({match[1] for match in found}) > 1:
        return []
    missing = next((n for n in range(1, max(full)) if n not in full), None)
    if missing:
        raise UserError(
            f"{where}: `{full[max(full)]}` is a picture, but number {missing} is none; "
            "list all of them in `images`"
        )
    empty = [match[0] for match in found if int(match[2]) not in full]
    return [full[number] for number in sorted(full)] + empty


def opened(image: Any) -> Any:
    """Take it out of OpenAI's {"url": "a.png"}, or verl's {"image": "a.png"}; else it stays."""
    if not isinstance(image, dict) or image.get("bytes") or image.get("path"):
        return image
    return image.get("url") or image.get("image") or image


def pictures_of(record: dict, where: str) -> list:
    """List what a record has under IMAGE_KEYS.

    UserError for an empty text, an empty list beside a picture, and keys that name different ones.
    """
    given = {
        key: listed(record[key]) for key in record_fields.IMAGE_KEYS if record.get(key) is not None
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
        first, others = given[full[0]], given[key]
        some_of_them = len(others) < len(first) and all(is_among(one, first) for one in others)
        are_known = some_of_them or tell_origin(others, first) or same_pictures(others, first)
        if not are_known:
            raise UserError(
                f"{where}: `{full[0]}` and `{key}` name different pictures; "
                f"put all of them in `images`, or delete `{key}`"
            )
    return given[full[0]] if full else []


# --- the same picture? ---


def name_of(image: Any) -> list[str] | None:
    """Tell a picture's path, or None if it has none: "./x/a.png" -> ["x", "a", ".png"]."""
    if isinstance(image, dict):
        image = image.get("path") or image.get("url")
    if not isinstance(image, str) or is_encoded(image):
        return None
    stem, suffix = os.path.splitext(re.split("[?#]", image)[0].replace("\\", "/"))
    return [part for part in stem.split("/") if part not in ("", ".")] + [suffix.lower()]


def same_name(name: list[str], other: list[str], with_suffix: bool = False) -> bool:
    """Tell whether one path is the end of the other: "a.png" and "/x/a.jpg", not "y/a.png"."""
    if with_suffix and name[-1] != other[-1]:
        return False
    short_one, long_one = sorted((name[:-1], other[:-1]), key=len)
    return bool(short_one) and long_one[-len(short_one) :] == short_one


def content_of(image: Any) -> bytes | str | None:
    """Give what an embedded picture is, None for a path."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    is_embedded = isinstance(image, bytes) or (isinstance(image, str) and is_encoded(image))
    return image if is_embedded else None


def is_among(image: Any, others: list, with_suffix: bool = False) -> bool:
    """Tell whether a picture is surely one of these: by its path or its content."""
    name, content = name_of(image), content_of(image)
    for other in others:
        other_name = name_of(other)
        if content is not None and content == content_of(other):
            return True
        if name and other_name and same_name(name, other_name, with_suffix):
            return True
    return False


def tell_origin(names: list, images: list) -> bool:
    """Tell whether these are the names of as many embedded pictures: where they come from.

    ["data/7.png"], [{"bytes": ..., "path": "image.png"}] -> True
    """
    are_names = all(content_of(name) is None for name in names)
    return are_names and len(names) == len(images) and all(map(content_of, images))


def same_pictures(images: list, others: list) -> bool:
    """Tell whether as many pictures are in both lists, none with another name or other bytes."""
    if len(images) != len(others):
        return False
    for image, other in zip(images, others):
        contents = [content_of(image), content_of(other)]
        if all(isinstance(content, bytes) for content in contents):
            is_same = contents[0] == contents[1]
        else:
            names = [name_of(image), name_of(other)]
            is_same = None in names or same_name(*names)
        if not is_same:
            return False
    return True


# --- what seems to be a picture ---


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
        is_webp = value[:4] == b"RIFF" and value[8:12] == b"WEBP"
        return value.startswith(PICTURE_BYTES) or is_webp or value[4:8] == b"ftyp"
    if not isinstance(value, str):
        return False
    if value.startswith(ENCODED_STARTS) and is_encoded(value):
        return True
    is_file = "." in value and PICTURE_FILE.fullmatch(value.strip())
    return bool(is_file) and len(value.split()) <= MOST_WORDS


def is_file_object(value: Any) -> bool:
    """Tell whether this is a picture as parquet has it, {"bytes", "path"}, or OpenAI's {"url"}."""
    if not isinstance(value, dict):
        return False
    return any(is_picture(value.get(key)) for key in ("bytes", "path", "url"))


def holds_pictures(value: Any) -> bool:
    """Tell whether a field holds pictures, and nothing else."""
    images = as_list(value)
    return bool(images) and all(is_picture(image) or is_file_object(image) for image in images)


@lru_cache(1024)
def names_picture(key: Any) -> bool:
    """Tell whether a key is made of words for a picture: imgname, image_2, not image_id."""
    key = str(key).lower()[:60]  # the limit: matching is exponential in words
    return bool(NAMES_PICTURE.fullmatch(key) and re.search(PICTURE, key))


def seems_pictured(key: Any, value: Any) -> bool:
    """Tell whether this looks like a picture, by key or value, where none was read."""
    if (key == "type" and value in PART_TYPES) or is_picture(value):
        return True
    return names_picture(key) and has_content(value)


@lru_cache(1024)
def names_another(key: Any) -> bool:
    """Tell whether a key names one picture beside another: image_2, right_image."""
    return names_picture(key) and bool(ANOTHER.search(str(key).lower()))


@lru_cache(1024)
def tells_of_one(key: Any) -> bool:
    """Tell whether a key is for what is told about a picture: imageSource, mask, meta_info."""
    words = re.findall("[A-Z]?[a-z]+|[A-Z]+", str(key))
    return str(key) in TOLD or any(word.lower() in TOLD for word in words)


def pictures_in(key: Any, value: Any) -> list[tuple[Any, Any]]:
    """List (nearest key, picture) of all pictures inside a field, but those it tells about."""
    found, todo = [], [(key, value)]
    while todo:
        key, value = todo.pop()
        if tells_of_one(key):
            continue
        is_named = names_another(key) and isinstance(value, str) and bool(value.strip())
        if is_picture(value) or is_file_object(value) or is_named:
            found.append((key, value))
        elif isinstance(value, dict):
            todo += value.items()
        elif isinstance(value, str):
            todo += [(key, item) for item in as_list(value) if item is not value]
        elif isinstance(value, (list, tuple)):
            todo += [(key, item) for item in value]
    return found


def is_one_more(key: Any, value: Any, read: list) -> bool:
    """Tell whether this looks like another picture than those that were read."""
    found = pictures_in(key, value)
    if not found or "video" in str(key).lower():
        return bool(found) and names_picture(key)
    if all(is_address(item) for _, item in found) and not names_another(key):
        return names_picture(key) and len(found) > len(read)  # where those that were read come from
    others = []
    for name, item in found:
        exact = names_another(name) or not names_picture(name)
        is_second = names_another(name) and content_of(item) is not None
        if is_second or not is_among(item, read, with_suffix=exact):
            others.append((name, item))
    are_names = all(may_name_embedded(name, item) for name, item in others)
    if are_names and any(map(content_of, read)):
        return len(others) > len(read)
    return bool(others)


def is_address(value: Any) -> bool:
    """Tell whether this is an address of the web."""
    return isinstance(value, str) and bool(WEB_ADDRESS.match(value))


def may_name_embedded(key: Any, value: Any) -> bool:
    """Tell whether this may be the file name of an embedded picture."""
    if names_another(key) or content_of(value) is not None:
        return False
    return bool(re.search("path|name|file", str(key).lower()))


# --- refusals ---


def must_see(left: dict, turns: list, read: list, where: str) -> None:
    """Refuse a record that seems to have a picture besides those that are read.

    left: what of the record is carried along unread.
    turns: those of its conversation, of which the words are read.
    read: its pictures, as they are given.
    """
    fields = list(left.items())
    for turn in turns:
        if isinstance(turn, dict):
            beside = record_fields.without(turn, "from", "value", "role", "content")
            fields += beside.items()
    for key, value in fields:
        must_be_as_many(key, value, len(read), where)
        if read:
            seems = is_one_more(key, value, read)
        else:
            seems = any(seems_pictured(name or key, item) for name, item in leaves(value))
        if seems:
            raise unread_picture(key, bool(read), where)


def must_have_no_number(record: dict, read: list, where: str) -> None:
    """Refuse a record that has but the number of a picture, which names no file.

    A record whose `image` is null says that it needs none.
    """
    if read or any(key in record for key in record_fields.IMAGE_KEYS):
        return
    for key, value in record.items():
        is_number = isinstance(value, (str, int)) and not isinstance(value, bool)
        is_blank = str(value).strip() in ("", "-1")
        if is_number and not is_blank and NUMBERS_PICTURE.fullmatch(str(key).lower()):
            raise UserError(
                f"{where}: `{short(key, 60)}` is {short(value, 40)}, and no picture is read; "
                "write the name of its file in `image`, or null if the question needs none"
            )


def must_be_as_many(key: Any, value: Any, count: int, where: str) -> None:
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


def say_without_pictures(examples: list[Example], spec: Any) -> None:
    """Print how many records of each file have no picture, and their keys."""
    by_file = {}
    for example in examples:
        file = re.split(r":\d+(?:#\d+)?$", example.source)[0]
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
