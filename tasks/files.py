"""Rows of one file, whatever its format; ids that differ; texts that can be printed."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.text import HALF, short
from tasks import json_records, tables
from tasks.example import Example
from tasks.parquet import read_arrow, read_parquet

# (place, mark, record) of each; instead of a record that cannot be read, the UserError.
Rows = Iterator[tuple[Any, str, Any]]
MOST_BROKEN = 1000  # records at the head of a file that is given up
POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that is not fetched yet


def tell_apart(examples: list[Example], names: list[str], spec: str | Path) -> None:
    """Add its place to every id that an earlier example has, and print so once.

    names: of each example, what `rows_of` calls it.
    """
    taken, repeated = set(), []
    for example, name in zip(examples, names):
        if example.id in taken:
            repeated.append(example.id)
        while example.id in taken:  # a record may be given any id, even this one
            example.id = f"{example.id} ({name})"
        taken.add(example.id)
    if repeated:
        print(
            f"{spec}: {len(repeated)} of {len(examples)} records have the id of an earlier one "
            f"(the first: {short(repeated[0], 40)!r}); their place is added to it, and none is lost"
        )


def rows_of(file: Path, expected: str, name: str | None = None, bad: BadRecords = REFUSE) -> Rows:
    """Read (place, name, record) of each record of a file, in order.

    place: what follows the file in a message: the line; "1#3" if it holds several records.
    name: unique in the file, for a record without an id: "x.jsonl:12", in a JSON list "x.json#3".
    UserError, which says what is `expected`, if the file cannot be read or holds no object.
    """
    name = name or file.name
    if file.suffix not in READERS:
        raise UserError(f"{file}: only {', '.join(READERS)} files can be read")
    must_end(file)
    has_objects = False
    errors = []  # until an object is found: a file without any is broken as a whole
    try:
        must_be_fetched(file)
        for place, mark, record in READERS[file.suffix](file):
            if isinstance(record, UserError):
                errors.append((f"{file}:{place}", f"{name}{mark}", record))
            has_objects = has_objects or isinstance(record, dict)
            while errors and has_objects:
                source, own_name, error = errors.pop(0)
                with bad.checking(source, own_name):
                    raise error
            if len(errors) == MOST_BROKEN:
                break
            if not isinstance(record, UserError):
                yield place, f"{name}{mark}", record
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None
    if errors:
        raise UserError(f"{errors[0][2]} (and no other record of the file can be read)")
    if not has_objects:
        raise UserError(f"{file} holds no record; expected objects with {expected}")


def no_such(spec: str | Path, others: Iterable[str] = ()) -> str:
    """Say that there is no such path, and which path or other name may be meant."""
    return "no such file or folder" + nearest(spec, others)


def nearest(spec: str | Path, others: Iterable[str] = ()) -> str:
    """Ask whether the nearest path or other name is meant: " (is ... meant?)", or ""."""
    there, missing = "", str(spec)
    while "/" in missing and os.path.isdir(there + missing.partition("/")[0] + "/"):
        part, _, missing = missing.partition("/")
        there += f"{part}/"
    names = [] if there else list(others)
    if os.access(there or ".", os.R_OK):
        names += os.listdir(there or ".")
    near = difflib.get_close_matches(re.split("[/:]", missing)[0], names, 1)
    return f" (is {there}{near[0]} meant?)" if near else ""


def must_end(path: str | Path) -> None:
    """Refuse a pipe, a socket and a device: reading one may never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(
            f"{short(path)} cannot be read (it is a pipe, a socket or a device); "
            "save what it holds as a file, and name that"
        )


def must_be_fetched(file: Path) -> None:
    """Refuse what git-lfs leaves in place of a large file."""
    if is_pointer(file):
        raise UserError(f"{file} is a git-lfs pointer, not the file; run git lfs pull there")


def is_pointer(path: str | Path) -> bool:
    """Tell whether a file is what git-lfs leaves in place of a large one."""
    with open(path, "rb") as opened:
        return opened.read(len(POINTER)) == POINTER


# --- JSON Lines: one record a line, whatever the file is called ---


def read_json(file: Path) -> Rows:
    """Read JSON Lines, or a JSON list or object."""
    if is_json_lines(file):
        yield from records_of_lines(file)
    else:
        yield from json_records.read_whole(file, read_text(file))


def is_json_lines(file: Path) -> bool:
    """Tell whether a file is more than one line, of which the first is an object.

    A file called .jsonl is, unless it begins a list.
    """
    with open(file, "rb") as opened:
        lines = (line for line in opened if line.strip())
        first = next(lines, b"").removeprefix(b"\xef\xbb\xbf").lstrip()
        has_more = next(lines, None) is not None
    if first.startswith(b"[") or file.suffix == ".jsonl":
        return not first.startswith(b"[")
    if not (first.startswith(b"{") and has_more):
        return False
    return json_records.json_or_none(first.decode("utf-8", "replace")) is not None


def records_of_lines(file: Path) -> Rows:
    """Read each line that is not blank, one at a time; its record is named by its number."""
    start = 0
    with open(file, "rb") as opened:
        for number, line in enumerate(opened, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, f":{number}", parsed(text, f"{file}:{number}")
            except UnicodeDecodeError as error:
                yield number, f":{number}", not_utf8(file, number, start + error.start)
            except UserError as error:
                yield number, f":{number}", error
            start += len(line)


def json_lines(text: str, file: Path) -> list[tuple[int, Any]]:
    """Read [(line, record)] of such a file's text. UserError, naming the line, for broken JSON."""
    lines = enumerate(text.split("\n"), 1)
    return [(number, parsed(line, f"{file}:{number}")) for number, line in lines if line.strip()]


def parsed(line: str, where: str) -> Any:
    """Read one line of JSON."""
    try:
        return json_records.STRICT.decode(line)
    except json_records.Twice as error:
        raise UserError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:  # also a number of more than 4300 digits
        problem = getattr(error, "msg", str(error)[:60])
        raise UserError(f"{where}: broken JSON ({problem}); fix or delete that line") from None


def read_text(file: Path) -> str:
    """Read a file as UTF-8. UserError, naming line and byte, if it is not."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise not_utf8(file, line, error.start) from None


def not_utf8(file: Path, line: int, byte: int) -> UserError:
    """Make the message about a byte that begins no character."""
    return UserError(f"{file}:{line}: not UTF-8 text (byte {byte} of the file); save it as UTF-8")


# --- values ---


def printable(value: Any) -> Any:
    """Turn half surrogates, which cannot be written, into U+FFFD in all texts of a value."""
    return every_part(value, whole_characters)


def every_part(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply change(part) to each key and each text or number of a nested value."""
    if isinstance(value, dict):
        return {every_part(key, change): every_part(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [every_part(item, change) for item in value]
    return change(value)


def whole_characters(value: Any) -> Any:
    """Turn half surrogates in a text into U+FFFD; anything else stays."""
    if not isinstance(value, str) or value.isascii():
        return value
    return HALF.sub("\ufffd", value)


READERS = {
    ".json": read_json,
    ".jsonl": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".tsv": tables.read_table,
}
