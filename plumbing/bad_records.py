"""--skip-bad-records: leave out the records that cannot be used, count and list them."""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plumbing import disk
from plumbing.errors import UserError
from plumbing.text import short

FILE = "skipped.jsonl"


class BadRecords:
    """What happens to records that cannot be used: the first stops the run, or all are left out.

    skip: leave them out. found: {(source, id): what skipped.jsonl says of it}; a mixture may take
    a record twice.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.found: dict[tuple[str, str | None], dict] = {}

    @contextmanager
    def checking(self, source: str, name: str | None = None) -> Iterator[None]:
        """Leave out the record of `source`, its id `name`, if its check raises a UserError."""
        try:
            yield
        except UserError as error:
            if not self.skip:
                raise
            self.add(source, name, error)

    def add(self, source: str, name: str | None, error: UserError) -> None:
        """Note why a record is left out. Its first reason stays."""
        reason = str(error).removeprefix(source).removeprefix(": ")
        self.found.setdefault((source, name), {"record": source, "id": name, "reason": reason})

    def usable(self, items: Collection, check: Callable[[Any], object]) -> list:
        """Return the examples or pairs that pass a check.

        UserError if none does: the first one's reason.
        """
        kept = []
        for item in items:
            example = getattr(item, "example", item)
            with self.checking(example.source, example.id):
                check(item)
                kept.append(item)
        if items:
            self.must_leave(kept)
        return kept

    def must_leave(self, kept: Collection) -> None:
        """Refuse to leave out everything."""
        if not kept and self.found:
            first = next(iter(self.found.values()))
            raise UserError(
                f"{first['record']}: {first['reason']} "
                f"(--skip-bad-records leaves no record: all {len(self.found)} are bad)"
            )

    def report(self, out: str | Path) -> None:
        """Write what was left out to a run's directory, and print how much."""
        if not self.skip:
            return
        path = Path(out) / FILE
        found = sorted(self.found.values(), key=lambda row: place_of(row["record"]))
        disk.write_lines(path, found)
        if not found:
            print("--skip-bad-records: no record is bad")
            return
        first = found[0]
        print(
            f"--skip-bad-records: {len(self.found)} records are left out, listed in {path}; "
            f"the first: {short(first['record'], 100)}: {short(first['reason'], 100)}"
        )


def place_of(source: str) -> tuple:
    """Give what sources are sorted by: file, line and number; they are found check by check."""
    told = re.fullmatch(r"(.*?):(\d+)(?:#(\d+))?", source)
    return (told[1], int(told[2]), int(told[3] or 0)) if told else (source, 0, 0)


REFUSE = BadRecords()
