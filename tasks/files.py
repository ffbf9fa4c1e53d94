"""Rows of one file: JSON, JSON Lines, parquet, Arrow."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.text import HALF, short
from tasks.example import Example
from tasks.parquet import read_arrow, read_parquet

Rows = Iterator[tuple[Any, str, Any]]
NOTHING = object()  # where null may be a record


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

    place: what follows the file in a message: the line; "1, record 3" where it holds several.
    name: unique in the file, for a record without an id: "x.jsonl:12", in a JSON list "x.json#3".
    UserError, which says what is `expected`, if the file cannot be read or is empty.
    """
    name = name or file.name
    if file.suffix not in READERS:
        raise UserError(f"{file}: only {', '.join(READERS)} files can be read")
    must_end(file)
    known = len(bad.found)
    is_empty = True
    try:
        for place, mark, record in READERS[file.suffix](file, bad):
            is_empty = False
            yield place, f"{name}{mark}", record
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None
    if is_empty and len(bad.found) == known:
        raise UserError(f"{file} holds no record; expected objects with {expected}")


def must_end(path: str | Path) -> None:
    """Refuse a pipe, a socket and a device: reading one may never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(
            f"{short(path)} cannot be read (it is a pipe, a socket or a device); "
            "save what it holds as a file, and name that"
        )


# --- JSON: one list or object, or one record a line, whatever the file is called ---


def read_json(file: Path, bad: BadRecords = REFUSE) -> Rows:
    """Read (place, mark, record) of a JSON file that holds a list of objects.

    Or an object of them, as TabMWP's: {"33": {...}} is read as [{"id": "33", ...}].
    Or CLEVR's {"info": ..., "questions": [...]}. JSON Lines are read too: one object a line, of
    which there are several.
    """
    text = read_text(file)
    if is_json_lines(text):
        yield from marked_lines(text.split("\n"), file, bad)
        return
    try:
        rows = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}); fix that line"
        ) from None
    except RecursionError:
        raise UserError(
            f"{file}: JSON nested too deeply; expected a list of flat objects"
        ) from None
    except ValueError as error:  # a number of more than 4300 digits
        raise UserError(f"{file}: broken JSON ({str(error)[:60]}); fix that number") from None
    if isinstance(rows, dict) and isinstance(rows.get("questions"), list):
        yield from marked_records(numbered(text, False, file, start_of_questions(text)))
        return
    keyed = isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values())
    if not isinstance(rows, list) and not keyed:
        raise UserError(
            f"{file}: expected a list of objects, [{{...}}, {{...}}], found {type(rows).__name__}"
        )
    del rows  # read once more, for the lines
    yield from marked_records(numbered(text, keyed, file))


def is_json_lines(text: str) -> bool:
    """Tell whether a text is more than one line, of which the first is an object."""
    first, _, rest = text.lstrip().partition("\n")
    if not (first.startswith("{") and rest.strip()):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def marked_records(rows: list[tuple[int, Any]]) -> Rows:
    """Give the records of a list their places: the line, and the number where they share it."""
    on_line = Counter(line for line, _ in rows)
    for number, (line, record) in enumerate(rows, 1):
        place = line if on_line[line] == 1 else f"{line}, record {number}"
        # Not ":": in older runs a line follows it, which must not be read as a number.
        yield place, f"#{number}", record


def start_of_questions(text: str) -> int:
    """Find where the list of `questions` begins in an object: the place of its "["."""
    decoder = json.JSONDecoder()
    gap = re.compile(r"[\s,:]*")
    end = text.index("{") + 1
    while True:
        key, end = decoder.raw_decode(text, gap.match(text, end).end())
        start = gap.match(text, end).end()
        if key == "questions" and text[start] == "[":
            return start
        end = decoder.raw_decode(text, start)[1]


def numbered(text: str, keyed: bool, file: Path, start: int | None = None) -> list[tuple[int, Any]]:
    """Read valid JSON once more, for the line where each record begins: [(line, record)].

    keyed: its records are the values of an object, and the keys their ids.
    start: the place of the bracket that opens them, the first one if None.
    """
    decoder = json.JSONDecoder()
    gap = re.compile(r"[\s,:]*")
    rows, ids = [], set()
    end = (text.find("{" if keyed else "[") if start is None else start) + 1
    line = text.count("\n", 0, end) + 1  # counted on from record to record: else it is quadratic
    while True:
        start = gap.match(text, end).end()
        if start >= len(text) or text[start] in "]}":
            return rows
        line += text.count("\n", end, start)
        record, end = decoder.raw_decode(text, start)
        if keyed:
            key = record
            if key in ids:
                raise UserError(
                    f"{file}:{line}: {key!r} is there a second time; delete one of them"
                )
            ids.add(key)
            record, end = decoder.raw_decode(text, gap.match(text, end).end())
            record = {"id": key, **record}
        rows.append((line, record))
        line += text.count("\n", start, end)


def read_tsv(file: Path, bad: BadRecords = REFUSE) -> Rows:
    """Read (line, mark, record) of a table with a header, its columns parted by tabs (VLMEvalKit).

    An empty field is None. UserError, naming the line, for a row of another length.
    """
    csv.field_size_limit(2**31 - 1)  # pictures in base64
    lines = csv.reader(io.StringIO(read_text(file), newline=""), delimiter="\t")
    header = next(lines, [])
    before = lines.line_num
    for fields in lines:
        line, before = before + 1, lines.line_num
        if not fields:
            continue
        record = None
        with bad.checking(f"{file}:{line}"):
            if len(fields) != len(header):
                raise UserError(
                    f"{file}:{line}: {len(fields)} fields, but {len(header)} columns; fix that line"
                )
            record = {key: field or None for key, field in zip(header, fields)}
        if record is not None:
            yield line, f":{line}", record


LONGEST_INDEX = 64  # VLMEvalKit's; a longer `image` is a picture


def read_table(file: Path, bad: BadRecords = REFUSE) -> Rows:
    """Read a TSV whose rows may give, in place of a picture, the index of the row that has it.

    index  image
    1      iVBORw0KGgo...
    2      1
    """
    rows = list(read_tsv(file, bad))
    pictures = {}
    for _, _, record in rows:
        if record.get("index") and len(record.get("image") or "") > LONGEST_INDEX:
            pictures[record["index"]] = record["image"]
    for line, mark, record in rows:
        if record.get("image") in pictures:
            record["image"] = pictures[record["image"]]
        yield line, mark, record


def read_jsonl(file: Path, bad: BadRecords = REFUSE) -> Rows:
    """Read (line, mark, record) of a JSON Lines file; blank lines are skipped.

    A JSON list is read too.
    """
    if begins_list(file):
        text = read_text(file)
        if is_json_list(text):
            yield from marked_records(numbered(text, False, file))
            return
    yield from marked_lines(lines_of(file), file, bad)


def begins_list(file: Path) -> bool:
    """Tell whether a file begins with a square bracket."""
    with open(file, "rb") as opened:
        return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def lines_of(file: Path) -> Iterator[str]:
    """Read a file's lines, one at a time. UserError, naming line and byte, for no UTF-8."""
    start = 0
    with open(file, "rb") as opened:
        for number, line in enumerate(opened, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(file, number, start + error.start) from None
            start += len(line)


def is_json_list(text: str) -> bool:
    """Tell whether a text is one valid list of objects."""
    if not text.lstrip().startswith("["):
        return False
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def marked_lines(lines: Iterable[str], file: Path, bad: BadRecords) -> Rows:
    """Read each line that is not blank, and name its record by its number."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            record = NOTHING
            with bad.checking(f"{file}:{number}"):
                record = parsed(line, f"{file}:{number}")
            if record is not NOTHING:
                yield number, f":{number}", record


def json_lines(text: str, file: Path) -> list[tuple[int, Any]]:
    """Read [(line, record)] of such a file's text. UserError, naming the line, for broken JSON."""
    rows = marked_lines(text.split("\n"), file, REFUSE)
    return [(number, record) for number, _, record in rows]


def parsed(line: str, where: str) -> Any:
    """Read one line of JSON."""
    try:
        return json.loads(line)
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
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".tsv": read_table,
}
