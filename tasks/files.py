"""Rows of files: JSON, JSON Lines, parquet, a folder."""

import csv
import datetime
import decimal
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plumbing.errors import UserError
from plumbing.text import HALF, short
from tasks import drawing
from tasks.example import Example


def split_name(spec: str | Path) -> tuple[str, str | None]:
    """Part "count:test" into ("count", "test"); "C:\\x.json" has no split: (itself, None)."""
    name, colon, split = str(spec).rpartition(":")
    return (name, split) if colon and split in drawing.SPLITS else (str(spec), None)


def short_names(specs: list[str]) -> dict[str, str]:
    """Name each data set as briefly as tells it from the others: {spec: name}.

    "count:test" -> "count:test"; "/home/x/d.jsonl" -> "d"; beside "/home/y/d.jsonl", "x/d".
    """
    possible = {spec: names_of(spec) for spec in specs}
    chosen = {}
    for spec, names in possible.items():
        taken = set().union(*(possible[other] for other in possible if other != spec))
        chosen[spec] = next((name for name in names if name not in taken), spec)
    return chosen


def names_of(spec: str) -> list[str]:
    """List the names of a data set, the shortest first: "d", "d.jsonl", "x/d", ..., the spec."""
    path, split = split_name(spec)
    if not os.path.exists(path):  # a toy task
        return [spec]
    whole, end = Path(os.path.abspath(path)), f":{split}" if split else ""
    names = []
    for n in range(1, len(whole.parts)):
        name = "/".join(whole.parts[-n:])
        names += [name.removesuffix(whole.suffix), name] if whole.suffix in READERS else [name]
    return [f"{name}{end}" for name in names] + [spec]


def files_of(spec: str | Path) -> list[Path]:
    """List the data files that "x.jsonl", a folder or "folder:test" stands for, in order.

    UserError if there are none.
    """
    name, split = split_name(spec)
    path = Path(name)
    if split and not path.is_dir():
        raise UserError(f"{spec}: a single file has no split; omit :{split}")
    files = files_in(path, split) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no {', '.join(READERS)} file")
    return files


def files_in(folder: Path, split: str | None) -> list[Path]:
    """List a folder's data files; if their names tell, those of the split."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        is_data = path.suffix in READERS and path.suffix != ".tsv"  # those are named themselves
        if is_data and not hidden and path.name not in NO_DATA:
            files.append(path)
    wanted = split or "train"  # a hub snapshot has train-00000-of-00002.parquet, test-...
    named = [path for path in files if re.match(rf"{wanted}\b|{wanted}_", path.name)]
    if split and not named:
        raise UserError(
            f"{folder} has no file whose name begins with {split}; omit :{split} to read all of it"
        )
    files = named or files
    # CV-Bench holds test_2d.parquet and, without images, test_2d.jsonl.
    return [p for p in files if p.suffix == ".parquet" or p.with_suffix(".parquet") not in files]


def name_in(spec: str | Path, file: Path) -> str:
    """Name a file by its path within the given folder, or by its name."""
    folder = Path(split_name(spec)[0])
    return file.relative_to(folder).as_posix() if folder.is_dir() else file.name


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


def rows_of(file: Path, expected: str, name: str | None = None) -> list[tuple[Any, str, Any]]:
    """Read [(place, name, record)] of a file, the records in order.

    place: what follows the file in a message: the line; "1, record 3" where it holds several.
    name: unique in the file, for a record without an id: "x.jsonl:12", in a JSON list "x.json#3".
    UserError, which says what is `expected`, if the file cannot be read or is empty.
    """
    name = name or file.name
    if file.suffix not in READERS:
        raise UserError(f"{file}: only {', '.join(READERS)} files can be read")
    must_end(file)
    try:
        rows = READERS[file.suffix](file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None
    if not rows:
        raise UserError(f"{file} holds no record; expected objects with {expected}")
    if file.suffix != ".json":  # one record a line: the line is the name
        return [(line, f"{name}:{line}", record) for line, record in rows]
    on_line = Counter(line for line, _ in rows)
    places = []
    for number, (line, record) in enumerate(rows, 1):
        place = line if on_line[line] == 1 else f"{line}, record {number}"
        # Not ":": in older runs a line follows it, which must not be read as a number.
        places.append((place, f"{name}#{number}", record))
    return places


def must_end(path: str | Path) -> None:
    """Refuse a pipe, a socket and a device: reading one may never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(
            f"{short(path)} cannot be read (it is a pipe, a socket or a device); "
            "save what it holds as a file, and name that"
        )


def read_json(file: Path) -> list[tuple[int, Any]]:
    """Read [(line, record)] of a JSON file that holds a list of objects.

    Or an object of them, as TabMWP's: {"33": {...}} is read as [{"id": "33", ...}].
    Or CLEVR's {"info": ..., "questions": [...]}.
    """
    text = read_text(file)
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
        return numbered(text, False, file, start_of_questions(text))
    keyed = isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values())
    if not isinstance(rows, list) and not keyed:
        raise UserError(
            f"{file}: expected a list of objects, [{{...}}, {{...}}], found {type(rows).__name__}"
        )
    return numbered(text, keyed, file)


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


def read_tsv(file: Path) -> list[tuple[int, Any]]:
    """Read [(line, record)] of a table with a header, its columns parted by tabs (VLMEvalKit).

    An empty field is None. UserError, naming the line, for a row of another length.
    """
    csv.field_size_limit(2**31 - 1)  # pictures in base64
    lines = csv.reader(io.StringIO(read_text(file), newline=""), delimiter="\t")
    header = next(lines, [])
    rows, before = [], lines.line_num
    for fields in lines:
        line, before = before + 1, lines.line_num
        if not fields:
            continue
        if len(fields) != len(header):
            raise UserError(
                f"{file}:{line}: {len(fields)} fields, but {len(header)} columns; fix that line"
            )
        rows.append((line, {key: field or None for key, field in zip(header, fields)}))
    return rows


def read_jsonl(file: Path) -> list[tuple[int, Any]]:
    """Read [(line, record)] of a JSON Lines file; blank lines are skipped."""
    return json_lines(read_text(file), file)


def json_lines(text: str, file: Path) -> list[tuple[int, Any]]:
    """Read [(line, record)] of such a file's text. UserError, naming the line, for broken JSON."""
    lines = enumerate(text.split("\n"), 1)
    return [(number, parsed(line, f"{file}:{number}")) for number, line in lines if line.strip()]


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
        raise UserError(
            f"{file}:{line}: not UTF-8 text (byte {error.start} of the file); save it as UTF-8"
        ) from None


def read_parquet(file: Path) -> list[tuple[int, dict]]:
    """Read [(row, record)] of a parquet file.

    Hub snapshots embed pictures in it: {"bytes": ..., "path": ...}.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: parquet needs pyarrow: pip install pyarrow") from None
    try:
        table = pyarrow.parquet.read_table(file)
        names = table.column_names
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        if getattr(error, "errno", None):  # not the content, but the path or its permissions
            raise
        raise UserError(
            f"{file}: not a readable parquet file ({short(error, 100)}); fetch it again"
        ) from None
    columns = {name: values_of(table[name], name, file) for name in names}
    rows = zip(*columns.values())
    return [(number, dict(zip(columns, row))) for number, row in enumerate(rows, 1)]


def values_of(column: Any, name: str, file: Path) -> list:
    """List the plain values of a parquet column.

    UserError, naming the row, for one that Python cannot hold.
    """
    try:
        return [plain_value(value) for value in column.to_pylist()]
    except (ValueError, OverflowError, LookupError):
        pass  # a year past 9999, nanoseconds, a text that is no UTF-8
    values = []
    for row, scalar in enumerate(column, 1):
        try:
            values.append(plain_value(scalar.as_py()))
        except (ValueError, OverflowError, LookupError) as error:
            raise UserError(
                f"{file}:{row}: `{short(name, 60)}` of type {short(column.type, 60)} "
                f"cannot be read ({short(error, 80)}); save it as text, or delete the column"
            ) from None
    return values


def plain_value(value: Any) -> Any:
    """Turn a value of a parquet row into what JSON would hold.

    Bytes stay: pictures are made of them.

    Decimal("1.50") -> "1.50"; date(2020, 1, 5) and a time stamp of its midnight -> "2020-01-05"
    """
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        text = str(value)
        return text.removesuffix(" 00:00:00")  # pandas keeps dates as such time stamps
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        return value
    return str(value)  # a date, a time, a duration, a UUID


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


# What a folder may hold that is no data: of `datasets` and of a checkpoint.
NO_DATA = ("dataset_infos.json", "dataset_info.json", "state.json")
READERS = {".json": read_json, ".jsonl": read_jsonl, ".parquet": read_parquet, ".tsv": read_tsv}
