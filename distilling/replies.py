"""The file of a stage: a line for each reply, written as it comes, in the data's order at the end.

A line is known by the id of its request and by a checksum of what was asked, so that whatever
stopped a run, no reply is asked for again, lost or doubled. Each line has its own checksum
(plumbing/records.py). A damaged line costs its own reply, and of batches those behind it.
"""

import itertools
import json
from pathlib import Path

from plumbing import disk, records
from plumbing.errors import UserError
from plumbing.text import counted


class Replies:
    """The lines of one stage by id, in a file that is taken up where it ended.

    wanted: {id: checksum of the request}, in the data's order. by: who answers, and how it is
    sampled: {"model": name, "sampling": {...}}, as lines have it.
    batch: answers that are computed together. Above 1 they come in order, and only whole batches
    are kept, so that the rest is computed as it was; failures are answers there. Of a server's
    replies each is kept that came, and what failed is asked again.
    server: its address. Another one goes on, if its model has the same name: servers move.
    Raises UserError if the file is another teacher's.
    """

    def __init__(
        self,
        path: Path,
        wanted: dict[str, str],
        by: dict,
        batch: int = 1,
        server: str | None = None,
    ) -> None:
        self.path, self.label, self.wanted = path, path.stem, wanted
        found, damaged = read(path, self.label)
        self.must_be_by(found, by)
        kept = {line["id"]: line for line in found if line["ask"] == wanted.get(line["id"])}
        # Of questions that are not asked this time: paid for, and kept behind the others.
        self.spare = {line["id"]: line for line in found if line["id"] not in wanted}
        others = len(found) - len(kept) - len(self.spare)
        if damaged or others:
            aside = records.keep_aside(path)
            print(
                f"{path}: dropped {counted(damaged, 'damaged line')} and "
                f"{counted(others, 'reply')} to other requests, asked again where they are wanted "
                f"(as it was: {aside.name})"
            )
        if batch > 1:
            there = list(itertools.takewhile(kept.__contains__, wanted))
            whole = len(there) if len(there) == len(wanted) else len(there) // batch * batch
            self.lines = {id: kept[id] for id in there[:whole]}
        else:
            self.lines = {id: line for id, line in kept.items() if line["failed"] is None}
        if self.left:
            self.tell_of_others(server)
        self.write_all()

    def tell_of_others(self, server: str | None) -> None:
        """Say that a server goes on with what another one has begun."""
        others = {line.get("server") for line in self.lines.values()} - {server, None}
        if server and others:
            print(
                f"{self.path}: {server} goes on with replies of {', '.join(sorted(others))}, whose "
                "model has the same name; each record's provenance says who wrote it"
            )

    def must_be_by(self, lines: list[dict], by: dict) -> None:
        """Refuse to go on with the replies of another model, or that were sampled otherwise."""
        for key, now in by.items():
            was = next((line[key] for line in lines if line[key] != now), None)
            if was is not None:
                raise UserError(
                    f"{self.path} has replies of {key} {was}, and {now} would go on with it; name "
                    "the teacher and its flags as before, leave the stage out of --stages, or name "
                    "another --output-dir"
                )

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
        lines = [*self.lines.values(), *self.spare.values()]
        whole = "".join(map(self.dumped, lines))
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
