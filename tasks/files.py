"""Rows of files: JSON, JSON Lines, parquet, a folder, a hub name."""

import datetime
import decimal
import json
import os
import re
from collections import Counter
from pathlib import Path

from plumbing.errors import UserError
from plumbing.text import HALF, short
from tasks import drawing


def split_name(spec):
    """("count", "test") from "count:test"; ("C:\\x.json", None) stays whole, as does a path without a split."""
    name, colon, split = str(spec).rpartition(":")
    return (name, split) if colon and split in drawing.SPLITS else (str(spec), None)


def files_of(spec):
    """The data files that "x.jsonl", a folder or "folder:test" stands for, in order. UserError if there are none."""
    name, split = split_name(spec)
    path = Path(name)
    files = [path]
    if path.is_dir():
        files = sorted(
            p
            for p in path.rglob("*")
            if p.suffix in READERS
            and not any(part.startswith(".") for part in p.relative_to(path).parts)
            and p.name not in ("dataset_infos.json", "dataset_info.json", "state.json")
        )
        wanted = split or "train"  # a hub snapshot has train-00000-of-00002.parquet, test-...
        named = [p for p in files if re.match(rf"{wanted}\b|{wanted}_", p.name)]
        if split and not named:
            raise UserError(
                f"{path} has no file whose name begins with {split}; leave :{split} away to read all of it"
            )
        files = named or files
        files = [
            p for p in files if p.suffix == ".parquet" or p.with_suffix(".parquet") not in files
        ]  # CV-Bench holds test_2d.parquet and, without images, test_2d.jsonl
    elif split:
        raise UserError(f"{spec}: a single file has no split; leave :{split} away")
    if not files:
        raise UserError(f"{path} holds no {', '.join(READERS)} file")
    return files


def name_in(spec, file):
    """Name a file by its path within the folder that was given, or by its own name."""
    folder = Path(split_name(spec)[0])
    return file.relative_to(folder).as_posix() if folder.is_dir() else file.name


def tell_apart(examples, names, spec):
    """Add its place to every id that an earlier example has, and say so once.

    names: of each example, what `rows_of` calls it.
    """
    taken, again = set(), []
    for example, name in zip(examples, names):
        if example.id in taken:
            again.append(example.id)
        while example.id in taken:  # a record may be given any id, even this one
            example.id = f"{example.id} ({name})"
        taken.add(example.id)
    if again:
        print(
            f"{spec}: {len(again)} of {len(examples)} records have the id of an earlier one "
            f"(the first: {short(again[0], 40)!r}); their place is added to it, and none is lost"
        )


def rows_of(file, expected, name=None):
    """[(place, name, record)] of a file, the records in order.

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
    shared, found = Counter(line for line, _ in rows), []
    for number, (line, record) in enumerate(rows, 1):
        place = line if shared[line] == 1 else f"{line}, record {number}"
        # Not ":": older runs have lines behind it, which must not be taken for numbers.
        found.append((place, f"{name}#{number}", record))
    return found


def must_end(path):
    """Refuse a pipe, a socket and a device: reading one may never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(
            f"{short(path)} cannot be read (it is a pipe, a socket or a device); "
            "save what it holds as a file, and name that"
        )


def read_json(file):
    """[(line, record)] of a JSON file that holds a list of objects, or as TabMWP's an object of them: {"33": {...}} is read as [{"id": "33", ...}]."""
    text = read_text(file)
    try:
        rows = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}); mend that line"
        ) from None
    except RecursionError:
        raise UserError(
            f"{file}: JSON nested too deeply; expected a list of flat objects"
        ) from None
    except ValueError as error:  # a number of more than 4300 digits
        raise UserError(f"{file}: broken JSON ({str(error)[:60]}); mend that number") from None
    keyed = isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values())
    if not isinstance(rows, list) and not keyed:
        raise UserError(
            f"{file}: expected a list of objects, [{{...}}, {{...}}], found {type(rows).__name__}"
        )
    decoder, at, found = json.JSONDecoder(), text.find("{" if keyed else "[") + 1, []
    gap, line, ids = re.compile(r"[\s,:]*"), text.count("\n", 0, at) + 1, set()
    while (start := gap.match(text, at).end()) < len(text) and text[
        start
    ] not in "]}":  # a second pass, for the line where each record begins
        line += text.count("\n", at, start)
        record, at = decoder.raw_decode(text, start)
        if keyed:
            key = record
            if key in ids:
                raise UserError(
                    f"{file}:{line}: {key!r} is there a second time; delete one of them"
                )
            ids.add(key)
            record, at = decoder.raw_decode(text, gap.match(text, at).end())
            record = {"id": key, **record}
        found.append((line, record))
        line += text.count(
            "\n", start, at
        )  # counted on from the record before: from the top would be quadratic
    return found


def read_jsonl(file):
    """[(line, record)] of a JSON Lines file; blank lines are skipped."""
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (
                ValueError,
                RecursionError,
            ) as error:  # ValueError: broken, or a number of more than 4300 digits
                raise UserError(
                    f"{file}:{number}: broken JSON ({getattr(error, 'msg', str(error)[:60])}); mend or delete that line"
                ) from None
    return rows


def read_text(file):
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}:{line}: not UTF-8 text (byte {error.start} of the file); save it as UTF-8"
        ) from None


def read_parquet(file):
    """[(row, record)] of a parquet file; images embedded as {"bytes": ..., "path": ...}, as hub snapshots have them."""
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


def values_of(column, name, file):
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


def plain_value(value):
    """Turn a value of a parquet row into what a JSON record would hold.

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


def mended(value):
    """Turn half surrogates in all texts of a value into U+FFFD.

    They can be neither written nor printed.
    """
    if isinstance(value, str):
        return value if value.isascii() else HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mended(item) for item in value]
    return value


READERS = {".json": read_json, ".jsonl": read_jsonl, ".parquet": read_parquet}
