"""Saved outputs, as evaluate.py --predictions reads them: what any project wrote, made scorable."""

import json
import os
from pathlib import Path

from plumbing.errors import UserError
from plumbing.text import short
from tasks import files, outputs
from tasks.json_records import json_or_none

OPENED_BY_THE_SHELL = ("/dev/fd/", "/dev/stdin")  # --predictions <(zcat saved.jsonl.gz)
HALF = "\\ufffd"  # U+FFFD, as json.dumps writes it
TOO_LARGE = 10**300  # near the largest float


def read_predictions(path: Path) -> list[tuple[str, object]]:
    """Read saved outputs: [(place, record)], a record's `line` its number in the file.

    JSON Lines, parquet, and R1-V's and VLM-R1's logs, which are one object with `results`.
    UserError for a file that is missing, empty or broken, or that may never end.
    """
    if not os.path.exists(path):  # also for a name too long, or with a NUL
        raise UserError(
            f"--predictions {short(path)} cannot be read (there is no such file); check the path"
        )
    if not (path.is_fifo() and str(path).startswith(OPENED_BY_THE_SHELL)):
        files.must_end(path)
    if path.suffix == ".parquet":
        rows = files.rows_of(path, "prediction and answer")
        records = [(f"{path}:{row}", row, record) for row, _, record in rows]
    else:
        records = records_of_json(path)
    return [(place, as_saved(record, number, place)) for place, number, record in records]


def records_of_json(path: Path) -> list[tuple[str, int, object]]:
    """Read JSON Lines or a log with `results`: [(place, number, record)]."""
    try:
        text = files.read_text(path)
    except OSError as error:
        raise UserError(
            f"--predictions {path} cannot be read ({error.strerror or error}); check the path"
        ) from None
    whole = json_or_none(text)  # None, as it should be, where there is more than one line
    if isinstance(whole, dict) and isinstance(whole.get("results"), list):
        rows = enumerate(whole["results"], 1)
        records = [(f"{path}, result {number}", number, record) for number, record in rows]
    else:
        rows = files.json_lines(text, path)
        records = [(f"{path}:{number}", number, record) for number, record in rows]
    if not records:
        raise UserError(
            f'{path} holds no record; expected one {{"prediction": ..., "answer": ...}} a line'
        )
    return records


def as_saved(record: object, number: int, place: str) -> object:
    """Make a record one of plain values that can be scored, written and printed.

    Bytes become text, or null where they are none, and half a character becomes U+FFFD.
    A number too large to compute with becomes its digits.
    UserError for a gold answer or choice with half a character, and for what is nested too deeply.
    """
    if not isinstance(record, dict):
        return record  # refused later, in a sentence that says what is expected
    record = {**record, "line": number}
    try:
        saved = {key: files.every_part(value, storable) for key, value in record.items()}
        for key in ("answer", "choices", *outputs.ALIASES["answer"]):
            if key in record and record[key] != saved[key] and HALF in json.dumps(saved[key]):
                raise UserError(
                    f"{place}: `{key}` contains half of a surrogate pair (a character cut in two); "
                    "fix or delete the record"
                )
    except RecursionError:
        raise UserError(
            f"{place}: the record is nested too deeply; expected a flat object; "
            "delete what is deep in it"
        ) from None
    return saved


def storable(value: object) -> object:
    """Make a text, a number or bytes one that JSON can hold and UTF-8 can write."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:  # a picture
            return None
    if isinstance(value, int) and abs(value) >= TOO_LARGE:
        return str(value)
    return files.whole_characters(value)
