"""The file of a stage: a line for each reply, written as it comes, in the data's order at the end.

A line is known by the id of its request and by a checksum of what was asked, so that whatever
stopped a run, no reply is asked for again, lost or doubled. Each line has its own checksum
(plumbing/records.py). A damaged line costs its own reply; the others stay.
"""

import json
from pathlib import Path

from plumbing import disk, records
from plumbing.errors import UserError


class Replies:
    """The lines of one stage by id, in a file that is taken up where it ended.

    wanted: {id: checksum of the request}, in the data's order. by: who answers.
    Lines of other requests are dropped, and so are failures, which are asked again.
    Raises UserError if the file is another teacher's.
    """

    def __init__(self, path: Path, wanted: dict[str, str], by: str) -> None:
        self.path, self.label = path, path.stem
        self.wanted = wanted
        found, damaged = read(path, self.label)
        other = next((line["model"] for line in found if line["model"] != by), None)
        if other is not None:
            raise UserError(
                f"{path} was written by {other}, and {by} would go on with it; name {other} again, "
                "leave the stage out of --stages, or name another --output-dir"
            )
        if damaged:
            aside = records.keep_aside(path)
            print(f"{path}: {damaged} damaged line(s) are asked again (as it was: {aside.name})")
        kept = {line["id"]: line for line in found if line["ask"] == wanted.get(line["id"])}
        if len(kept) < len(found):
            print(f"{path}: {len(found) - len(kept)} replies to other requests are dropped")
        self.lines = {id: line for id, line in kept.items() if line["failed"] is None}
        self.write_all()

    @property
    def left(self) -> list[str]:
        """List the ids without a line, in order."""
        return [id for id in self.wanted if id not in self.lines]

    def append(self, line: dict) -> None:
        """Add a line, in one write."""
        text = self.dumped(line)
        with disk.writing(self.path, len(text)), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)
        self.lines[line["id"]] = line

    def finish(self) -> dict[str, dict]:
        """Put the lines in order, and return them: {id: line}."""
        self.lines = {id: self.lines[id] for id in self.wanted if id in self.lines}
        self.write_all()
        return self.lines

    def dumped(self, line: dict) -> str:
        """Write a line with its checksum."""
        return json.dumps(records.with_checksum(line, self.label)) + "\n"

    def write_all(self) -> None:
        """Write the file whole, unless it is so already."""
        whole = "".join(map(self.dumped, self.lines.values()))
        if not self.path.is_file() or disk.read_text(self.path, errors="replace") != whole:
            disk.write_whole(self.path, whole)


def read(path: Path, label: str) -> tuple[list[dict], int]:
    """Read (good lines, number of damaged ones) of a stage's file.

    The half line that a killed run leaves at the end is not damaged.
    """
    try:
        text = disk.read_text(path, errors="replace")
    except FileNotFoundError:
        return [], 0
    lines, damaged = [], 0
    for written in text.splitlines(keepends=True):
        try:
            line = records.without_checksum(json.loads(written), label)
        except (ValueError, RecursionError):
            line = None
        if line is not None:
            lines.append(line)
        elif written.endswith("\n"):
            damaged += 1
    return lines, damaged
