"""Rows of a table whose columns are parted by tabs, as pandas writes it and VLMEvalKit reads it."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbing.errors import UserError
from plumbing.text import short

NO_UTF8 = re.compile("[\udc80-\udcff]")  # bytes, as "surrogateescape" decodes them
LONGEST_INDEX = 64  # VLMEvalKit's; a longer `image` is a picture


def read_table(file: Path) -> Iterator[tuple[int, str, Any]]:
    """Read (line, mark, record) of each row, where `image` may be the index of another row.

    It stands for the picture of that row (VLMEvalKit):

        index  image
        1      iVBORw0KGgo...
        2      1
    """
    rows = list(read_tsv(file))
    records = [record for _, _, record in rows if isinstance(record, dict)]
    pictures = {}
    for record in records:
        if record.get("index") and len(record.get("image") or "") > LONGEST_INDEX:
            pictures[record["index"]] = record["image"]
    for record in records:
        if record.get("image") in pictures:
            record["image"] = pictures[record["image"]]
    yield from rows


def read_tsv(file: Path) -> Iterator[tuple[int, str, Any]]:
    """Read (line, mark, record) of each row; the first row names the columns.

    An empty field is None. Instead of a row that cannot be read, the UserError.
    """
    rows = rows_of_table(file)
    line, header, problem = next(rows, (1, [], None))
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        problem = f"two columns are named {short(twice[0], 40)}"
    if problem:
        raise UserError(f"{file}:{line}: {problem}; fix the names of the columns")
    for line, fields, problem in rows:
        if len(fields) != len(header):
            problem = problem or f"{len(fields)} fields, but {len(header)} columns"
        if problem:
            yield line, f":{line}", UserError(f"{file}:{line}: {problem}; fix that line")
        else:
            yield line, f":{line}", {key: field or None for key, field in zip(header, fields)}


def rows_of_table(file: Path) -> Iterator[tuple[int, list[str], str | None]]:
    """Read (line, fields, what is wrong) of each row that is not blank.

    A field in quotes may hold tabs and lines, and "" for a quote. UserError for a quote that is
    not closed, or that may join rows.
    """
    csv.field_size_limit(2**31 - 1)  # pictures in base64
    raw = []  # the lines that csv has taken for the row at hand
    with open(file, "rb") as opened:

        def lines() -> Iterator[str]:
            """Read the file's lines, and note each in `raw`."""
            encoding = "utf-8-sig"
            for line in opened:
                raw.append(line.decode(encoding, "surrogateescape"))
                yield raw[-1]
                encoding = "utf-8"

        rows = csv.reader(lines(), delimiter="\t", strict=True)
        columns = None
        while True:
            raw.clear()
            first, problem = rows.line_num + 1, None
            try:
                fields = next(rows, None)
            except csv.Error as error:
                fields, problem = [], str(error).partition(" - ")[0]
            if fields is None:
                return
            columns = columns or len(fields)
            are_rows = all(line.count("\t") == columns - 1 for line in raw)  # each by itself
            if len(raw) > 1 and (problem or are_rows):
                raise UserError(
                    f"{file}:{first}: a quote opens a field that goes on to line {rows.line_num}, "
                    'and seems to swallow rows; put fields with a quote in quotes, with "" for "'
                )
            if any(map(NO_UTF8.search, raw)):
                problem = "not UTF-8 text"
            if fields or problem:
                yield first, fields, problem
