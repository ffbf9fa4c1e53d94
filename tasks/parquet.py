"""Rows of parquet and Arrow files, a few at a time: their pictures never fill the memory."""

import datetime
import decimal
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbing.errors import UserError
from plumbing.text import short
from tasks.stored import Placed, Stored

if TYPE_CHECKING:
    import pyarrow

ROWS = 64  # made into Python values at a time
BUFFER = 2**20  # bytes read at a time of a column: a row group may be as large as the file
NO_VALUE = (ValueError, OverflowError, LookupError)  # a year past 9999, a text that is no UTF-8

Rows = Iterator[tuple[int, str, dict | UserError]]


def read_parquet(file: Path) -> Rows:
    """Read (row, ":row", record) of a parquet file; instead of a bad record, the UserError.

    Hub snapshots embed pictures in it: {"bytes": ..., "path": ...}.
    """
    number = 1
    for batch in parquet_batches(file):
        yield from rows_of_batch(batch, number, plain_values, file)
        number += batch.num_rows


def read_arrow(file: Path) -> Rows:
    """Read (row, ":row", record) of an Arrow file, as save_to_disk of `datasets` writes it.

    Its pictures know their places in the file, which need no copy.
    """
    number = 1
    for batch, values in arrow_batches(file):
        for start in range(0, batch.num_rows, ROWS):
            part = batch.slice(start, ROWS)
            yield from rows_of_batch(part, number, values, file)
            number += part.num_rows


def needs_pyarrow(file: Path) -> None:
    """Refuse a file that cannot be read without pyarrow where that is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError(f"{file}: {file.suffix[1:]} needs pyarrow: pip install pyarrow") from None


def must_be_columns(names: list[str]) -> None:
    """Refuse none, and two of one name: only one of them would be read. ValueError."""
    if not names:
        raise ValueError("it has no columns")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two columns are named {twice[0]}")


def parquet_batches(file: Path) -> Iterator["pyarrow.RecordBatch"]:
    """Read a parquet file in batches of ROWS rows."""
    needs_pyarrow(file)
    import pyarrow
    import pyarrow.parquet

    try:
        # pre_buffer would keep all that has been read until the end.
        reading = {"buffer_size": BUFFER, "pre_buffer": False}
        with pyarrow.parquet.ParquetFile(file, **reading) as opened:
            must_be_columns(opened.schema_arrow.names)
            yield from opened.iter_batches(ROWS, use_threads=False)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise unreadable(error, file) from None


def unreadable(error: Exception, file: Path) -> Exception:
    """Make a UserError of what pyarrow raises about a file's content, not about its path."""
    if getattr(error, "errno", None):
        return error
    kind = file.suffix[1:]
    return UserError(f"{file}: not a readable {kind} file ({short(error, 100)}); fetch it again")


def arrow_batches(file: Path) -> Iterator[tuple["pyarrow.RecordBatch", Callable]]:
    """Read (batch, what reads a column's values) of an Arrow file, a stream's or a file's format.

    A file's format is a stream between eight bytes and a table of contents.
    """
    needs_pyarrow(file)
    import pyarrow

    try:
        with pyarrow.OSFile(str(file)) as opened:
            start = 8 if opened.read(6) == b"ARROW1" else 0
            opened.seek(start)
            messages = pyarrow.ipc.MessageReader.open_stream(opened)
            schema = pyarrow.ipc.read_schema(messages.read_next_message())
            must_be_columns(schema.names)
            for message in messages:
                if message.type == "dictionary":
                    yield from batches_with_categories(opened, start)
                    return
                batch = pyarrow.ipc.read_record_batch(message, schema)
                batch.validate(full=True)  # damaged offsets would crash the process
                body = message.body
                yield batch, PlacedValues(str(file), opened.tell() - body.size, body)
    except (pyarrow.ArrowException, ValueError, OSError, StopIteration) as error:
        raise unreadable(error, file) from None


def batches_with_categories(
    opened: "pyarrow.NativeFile", start: int
) -> Iterator[tuple["pyarrow.RecordBatch", Callable]]:
    """Read what `arrow_batches` does where columns hold numbers of texts that stand elsewhere."""
    import pyarrow

    opened.seek(start)
    for batch in pyarrow.ipc.open_stream(opened):
        batch.validate(full=True)
        yield batch, plain_values


# --- the values of a batch ---


def rows_of_batch(batch: "pyarrow.RecordBatch", first: int, values: Callable, file: Path) -> Rows:
    """Read (row, ":row", record) of a batch whose first row has the number `first`."""
    names = batch.schema.names
    try:
        columns = [values(column) for column in batch.columns]
    except NO_VALUE:
        columns = None
    for n in range(batch.num_rows):
        number = first + n
        if columns is not None:
            record = {name: column[n] for name, column in zip(names, columns)}
        else:
            try:
                record = record_of(batch.slice(n, 1), values, f"{file}:{number}")
            except UserError as error:
                record = error
        yield number, f":{number}", record


def record_of(row: "pyarrow.RecordBatch", values: Callable, where: str) -> dict:
    """Read a batch of one row. UserError, naming the column, for what Python cannot hold."""
    record = {}
    for name, column in zip(row.schema.names, row.columns):
        try:
            [record[name]] = values(column)
        except NO_VALUE as error:
            raise UserError(
                f"{where}: `{short(name, 60)}` of type {short(column.type, 60)} "
                f"cannot be read ({short(error, 80)}); save it as text, or delete the column"
            ) from None
    return record


def plain_values(column: "pyarrow.Array") -> list:
    """List a column's values as JSON would hold them."""
    return [plain_value(value, column.type) for value in column.to_pylist()]


def plain_value(value: Any, kind: Any) -> Any:
    """Turn a value of a parquet row into what JSON would hold. kind: its Arrow type.

    Bytes stay: pictures are made of them.

    Decimal("1.50") -> "1.50"; date(2020, 1, 5) and a time stamp of its midnight -> "2020-01-05"
    """
    kind = stored_kind(kind)
    if isinstance(value, dict):
        fields = kind if str(kind).startswith("struct<") else ()
        kinds = {field.name: field.type for field in fields}
        return {str(key): plain_value(item, kinds.get(key)) for key, item in value.items()}
    if isinstance(value, tuple):  # of a map: a key and its value
        kinds = getattr(kind, "key_type", None), getattr(kind, "item_type", None)
        return [plain_value(item, inner) for item, inner in zip(value, kinds)]
    if isinstance(value, list):
        inner = kind if hasattr(kind, "item_type") else getattr(kind, "value_type", None)
        return [plain_value(item, inner) for item in value]
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        text = str(value)
        return text.removesuffix(" 00:00:00")  # pandas keeps dates as such time stamps
    if isinstance(value, float):
        return written_float(value, kind)
    if value is None or isinstance(value, (str, bytes, bool, int)):
        return value
    return str(value)  # a date, a time, a duration, a UUID


def stored_kind(kind: Any) -> Any:
    """Give the type of the values themselves: that of an extension, of categories."""
    kind = getattr(kind, "storage_type", kind)
    return kind.value_type if hasattr(kind, "index_type") else kind


def written_float(value: float, kind: Any) -> float:
    """Give a number of 32 or 16 bits the digits that were meant: 0.10000000149011612 -> 0.1."""
    import numpy

    narrow = {"float": numpy.float32, "halffloat": numpy.float16}.get(str(kind))
    return float(str(narrow(value))) if narrow else value


def with_nulls(values: list, column: "pyarrow.Array") -> list:
    """Put None where a column has no value."""
    for place in range(len(values)):
        if not column[place].is_valid:
            values[place] = None
    return values


class PlacedValues:
    """Reads columns as `plain_values` does, each of their bytes with its place in the file.

    start: where the batch's `body` begins in the file.
    """

    def __init__(self, path: str, start: int, body: "pyarrow.Buffer") -> None:
        self.path, self.start, self.body = path, start, body

    def __call__(self, column: "pyarrow.Array") -> list:
        """List a column's values; bytes may be in objects, and in lists."""
        from pyarrow import types

        kind = column.type
        if types.is_binary(kind) or types.is_large_binary(kind):
            return self.placed(column)
        if types.is_struct(kind):
            names = [str(field.name) for field in kind]
            parts = zip(*map(self, column.flatten()))
            objects = [dict(zip(names, part)) for part in parts]
            return with_nulls(objects, column)
        if types.is_list(kind) or types.is_large_list(kind):
            items = iter(self(column.flatten()))
            lengths = column.value_lengths().to_pylist()
            lists = [list(islice(items, length or 0)) for length in lengths]
            return with_nulls(lists, column)
        return plain_values(column)

    def placed(self, column: "pyarrow.Array") -> list[bytes | None]:
        """Read bytes, with their places unless they were compressed."""
        import pyarrow

        values = column.to_pylist()
        _, ends, data = column.buffers()
        start = data.address - self.body.address if data else -1
        if not 0 <= start < self.body.size:
            return values
        wide = pyarrow.types.is_large_binary(column.type)
        kind = pyarrow.int64() if wide else pyarrow.int32()
        offsets = pyarrow.Array.from_buffers(
            kind, len(column) + 1, [None, ends], offset=column.offset
        )
        for n, offset in enumerate(offsets.to_pylist()[:-1]):
            if values[n] is not None:
                value = Placed(values[n])
                value.place = Stored(self.path, self.start + start + offset, len(value))
                values[n] = value
        return values
