"""Records that a run writes and reads back: JSON files and JSON Lines, each with its own checksum.

A record's last key is "crc32", of its text and of what it belongs to (`label`): a changed byte, a
cut, a key that was removed, or another run's record does not pass. In files of lines the number of
the line belongs to the label: none can be left out, doubled or exchanged. They are appended to a
batch at a time; taken up again, they are good as far as their lines pass; the rest is made anew.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

from plumbing import disk, ranks
from plumbing.errors import UserError

CHECK = "crc32"


def checksum(record: dict, label: str = "") -> str:
    """CRC-32 of a record as JSON and of its label, as 8 hexadecimal digits."""
    text = f"{label}\n{json.dumps(record)}"
    return f"{zlib.crc32(text.encode()):08x}"


def with_checksum(record: dict, label: str = "") -> dict:
    """Add its checksum to a record, as the last key."""
    return {**record, CHECK: checksum(record, label)}


def without_checksum(value: object, label: str = "") -> dict | None:
    """Take the checksum off a record; None if it does not pass, or there is none."""
    if not isinstance(value, dict) or CHECK not in value:
        return None
    record = {key: item for key, item in value.items() if key != CHECK}
    return record if value[CHECK] == checksum(record, label) else None


def write_record(path: str | Path, record: dict, label: str = "") -> None:
    """Write a JSON file with its checksum, whole or not at all."""
    disk.write_json(path, with_checksum(record, label))


def read_record(path: str | Path, label: str = "") -> dict | None:
    """Read a JSON file with its checksum; None if it is damaged or not there."""
    try:
        return without_checksum(json.loads(disk.read_text(path)), label)
    except (OSError, ValueError, RecursionError):
        return None


def read_lines(path: str | Path) -> list:
    """Read a JSON Lines file for people or pictures: without checksums, broken lines left out."""
    lines = []
    with contextlib.suppress(OSError):
        for text in disk.read_text(path, errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict):
                    line.pop(CHECK, None)
                lines.append(line)
    return lines


def good_lines(path: str | Path, label: str = "") -> tuple[list[dict], int]:
    """Read lines with checksums: (records before the first that fails, lines in the file)."""
    try:
        texts = disk.read_text(path, errors="replace").splitlines()
    except FileNotFoundError:
        return [], 0
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            record = without_checksum(json.loads(text), f"{label}:{number}")
        except (ValueError, RecursionError):
            break
        if record is None:
            break
        lines.append(record)
    return lines, len(texts)


def finished_lines(path: str | Path, label: str, total: int, remedy: str) -> list[dict]:
    """Read the `total` lines that a finished phase left. UserError if one fails or is missing."""
    lines, count = good_lines(path, label)
    if len(lines) < count:
        raise UserError(f"{path}:{len(lines) + 1} is damaged or another run's; {remedy}")
    if count != total:
        raise UserError(f"{path} has {count} lines, not {total}: it is damaged; {remedy}")
    return lines


def write_lines(path: str | Path, records: list[dict], label: str) -> None:
    """Write a file of lines with checksums, whole or not at all."""
    disk.write_lines(path, numbered(records, label))


def numbered(records: list[dict], label: str, before: int = 0) -> list[dict]:
    """Add checksums to records as the lines of a file that follow `before` others."""
    return [with_checksum(record, f"{label}:{n}") for n, record in enumerate(records, before + 1)]


class Lines:
    """A file of lines with checksums, appended to a batch at a time, and taken up where it ended.

    path: the file. label: what its lines belong to. batch: lines that are written together.
    total: lines when it is finished; the last batch may be smaller. fresh: begin with none.
    `lines` are its records: whole batches only, so that the rest is made as it was made before.
    Of several processes the first takes up its file; each of the others writes a copy.
    """

    def __init__(
        self, path: str | Path, label: str, batch: int, total: int, fresh: bool = False
    ) -> None:
        self.path, self.label = Path(path), label
        self.batch, self.total = batch, total
        self.lines = [] if fresh else self.taken_up()
        whole = "".join(json.dumps(line) + "\n" for line in numbered(self.lines, label))
        if not self.path.is_file() or disk.read_text(path, errors="replace") != whole:
            disk.write_whole(self.path, whole)

    @ranks.first
    def taken_up(self) -> list[dict]:
        """Read whole batches, and keep a damaged file aside."""
        path, batch, total = self.path, self.batch, self.total
        good, count = good_lines(path, self.label)
        kept = total if len(good) >= total else len(good) // batch * batch
        if len(good) < count and not was_being_written(path, len(good), count):
            aside = keep_aside(path)
            print(
                f"{path}:{len(good) + 1} is damaged or another run's: made anew from there "
                f"(as it was: {aside.name})"
            )
        return good[:kept]

    def left(self) -> list[range]:
        """List the batches that are still to be made, as the places of their lines."""
        starts = range(len(self.lines), self.total, self.batch)
        return [range(first, min(first + self.batch, self.total)) for first in starts]

    def append(self, records: list[dict]) -> None:
        """Add a batch, in one write."""
        lines = numbered(records, self.label, before=len(self.lines))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with disk.writing(self.path, len(text)), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)
        self.lines += records

    def fill(self, make: Callable[[int, int], list[dict]], describe: str = "") -> list[dict]:
        """Append make(first, end), the records of lines first to end, until the file is finished.

        Returns all its records. describe: for the progress bar.
        """
        from tqdm import tqdm

        for lines in tqdm(self.left(), desc=describe, unit="batch", leave=False):
            self.append(make(lines.start, lines.stop))
        return self.lines


def was_being_written(path: str | Path, good: int, count: int) -> bool:
    """Tell whether what fails is the half line that a killed run leaves."""
    return good == count - 1 and not disk.read_text(path, errors="replace").endswith("\n")


def keep_aside(path: str | Path) -> Path:
    """Rename a damaged file to FILE.damaged, or -2, -3, ... behind that, which is free."""
    aside, number = Path(f"{path}.damaged"), 2
    while os.path.lexists(aside):
        aside, number = Path(f"{path}.damaged-{number}"), number + 1
    os.replace(path, aside)
    return aside
