"""Short forms of text for messages."""

import difflib
import re
import zlib
from collections.abc import Iterable

# Half of a surrogate pair; in an argument or a path: a byte that is not UTF-8.
HALF = re.compile("[\ud800-\udfff]")


def cut(text, most=580):
    """Shorten a message in its middle: its remedy stands last."""
    return text if len(text) <= most else f"{text[: most - 200]} ... {text[-195:]}"


def meant(word: str, names: Iterable[str]) -> str:
    """Ask whether the nearest name is meant: "; did you mean ...?", or "" if none is near."""
    near = difflib.get_close_matches(word, list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""


def short(text, most=200):
    """One line of at most `most` characters, for messages."""
    try:
        text = " ".join(str(text).split())
    except RecursionError:
        text = f"a {type(text).__name__} nested too deeply to be shown"
    return text if len(text) <= most else text[:most] + "..."


def counted(number: int, thing: str) -> str:
    """Count things in words: "1 line", "2 lines"; "1 reply", "2 replies"."""
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing[:-1]}ies" if thing.endswith("y") else f"{number} {thing}s"


def crc32(text: str) -> int:
    """Compute the CRC-32 of any text, half characters too: the same on every machine."""
    return zlib.crc32(text.encode("utf-8", "backslashreplace"))
