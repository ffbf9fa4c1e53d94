"""What damage.py need not do twice: copy what has not changed, read it, and make the same run.

Files are known by their inode, size and time: one that was written or replaced has another of
these. After the same command in the same files the same happens: that is what docs/reliability.md
promises, and every run that is made is compared bit for bit. So a run with the same remedy in the
same state is made once. It stands for another whose state has the same names and kinds of files,
and differs only inside of files that it never opened.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faults

FOLDER, FILE, LINK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK


def identity(path: Path) -> tuple[int, int, int, int]:
    """Kind, inode, size and time: another of these if a file was written or replaced."""
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    size, time = (0, 0) if kind == FOLDER else (status.st_size, status.st_mtime_ns)
    return kind, status.st_ino, size, time


def below(folder: Path) -> dict[str, tuple]:
    """All that lies below a folder: name -> identity, a folder before what is in it."""
    found: dict[str, tuple] = {}
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        for name in sorted(os.listdir(folder / inside)):
            path = os.path.join(inside, name)
            found[path] = identity(folder / path)
            if found[path][0] == FOLDER:
                waiting.append(path)
    return found


class Prints:
    """Digests of what runs leave, each file read once."""

    def __init__(self):
        self.known: dict[tuple, str] = {}

    def left_by(self, folder: Path) -> dict[str, str]:
        """As faults.left_by, a digest for each value."""
        return {name: self.of(folder / name, folder, who) for name, who in below(folder).items()}

    def of(self, path: Path, folder: Path, who: tuple) -> str:
        key = str(path), str(folder), *who
        if key not in self.known:
            try:
                self.known[key] = digest_of(faults.plain(path, folder))
            except RecursionError:  # a damage: nested endlessly
                self.known[key] = self.of_bytes(path, who)
        return self.known[key]

    def of_bytes(self, path: Path, who: tuple) -> str:
        key = str(path), *who
        if key not in self.known:
            self.known[key] = hashlib.sha1(path.read_bytes()).hexdigest()
        return self.known[key]


def digest_of(value: object) -> str:
    """A digest of plain values that are equal only if these are, in any order of keys."""
    if isinstance(value, bytes):
        return hashlib.sha1(value).hexdigest()
    if isinstance(value, dict):
        parts = sorted(f"{key!r}: {digest_of(some)}" for key, some in value.items())
    elif isinstance(value, (list, tuple)):
        parts = [digest_of(some) for some in value]
    else:
        parts = [repr(value)]
    return hashlib.sha1(f"{type(value).__name__} {parts}".encode()).hexdigest()


class Place:
    """A folder in which one state after the other is laid out, and runs change it."""

    def __init__(self):
        self.source: tuple[Path, Path] | None = None
        self.copied: dict[str, tuple] = {}  # name -> identity of the copy
        self.aside: Path | None = None  # copies that a repeated run has replaced

    def lay_out(self, state: Path, at: Path) -> None:
        """Make the folder `at` a copy of `state`; of the same state as before, what has changed."""
        if self.source != (state, at) or not at.is_dir():
            shutil.rmtree(at, ignore_errors=True)
            shutil.copytree(state, at, symlinks=True)
            self.source, self.copied = (state, at), below(at)
            self.aside = at.with_name(f"{at.name}-aside")
            shutil.rmtree(self.aside, ignore_errors=True)
            return
        now = below(at)
        for name in reversed(now):  # what is inside first
            if now[name] != self.copied.get(name):
                remove(at / name)
        for name, who in self.copied.items():
            if now.get(name) != who:
                self.lay_out_one(state / name, at / name, self.aside / name, who)
                self.copied[name] = identity(at / name)

    def lay_out_one(self, source: Path, path: Path, aside: Path, who: tuple) -> None:
        if who[0] == FOLDER:
            path.mkdir()
        elif os.path.lexists(aside) and identity(aside) == who:
            os.replace(aside, path)
        else:
            shutil.copy2(source, path, follow_symlinks=False)

    def put_aside(self, path: Path, at: Path) -> None:
        """Remove a file, and keep it if it is a copy that will be wanted again."""
        name = str(path.relative_to(at))
        if path.is_symlink() or not path.is_file() or self.copied.get(name) != identity(path):
            return remove(path)
        (self.aside / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, self.aside / name)


def remove(path: Path) -> None:
    """Remove a file, a link, a pipe or a folder in which nothing is left to keep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@dataclass
class Run:
    """A run: what mattered to it, how it ended, and what it did to its folder."""

    mattered: dict[str, str]  # name -> digest
    end: dict
    text: str
    gone: list[str]
    made: list[str]  # folders and files, which are kept in `files`
    files: Path

    def repeat(self, folder: Path, place: Place) -> tuple[dict, str]:
        """Do to `folder` what the run did to the one that it was made in."""
        for name in reversed(self.gone):  # what is inside first
            place.put_aside(folder / name, folder)
        for name in self.made:
            if (self.files / name).is_dir():
                (folder / name).mkdir()
            else:  # nothing writes into it before it is removed again
                os.link(self.files / name, folder / name)
        return self.end, self.text


class Memory:
    """Runs by their command, and by the names and kinds of all that they found."""

    def __init__(self, folder: Path, prints: Prints):
        self.folder, self.prints = folder, prints
        self.runs: dict[tuple, list[Run]] = {}
        self.made = self.repeated = 0

    def run(
        self,
        command: str,
        folder: Path,
        reads: Path,
        go: Callable,
        place: Place,
        unique: str = "",
    ) -> tuple[dict, str]:
        """Repeat what go() did in a state in which all that it opened was the same, or go().

        go: runs `command` in `folder`, and writes to the file `reads` what it opens.
        unique: a file whose content will not come again; a run that opens it is not kept.
        """
        before = below(folder)
        shape = [(name, who[0], link_of(folder / name, who)) for name, who in before.items()]
        files = {name: who for name, who in before.items() if who[0] == FILE}
        digests = {name: self.prints.of_bytes(folder / name, who) for name, who in files.items()}
        known = self.runs.setdefault((command, str(folder), *shape), [])
        for run in known:
            if all(digests[name] == digest for name, digest in run.mattered.items()):
                self.repeated += 1
                return run.repeat(folder, place)
        self.made += 1
        end, text = go()
        opened = set(reads.read_text().splitlines())
        mattered = {
            name: digests[name]
            for name in files
            for how in ("open", "write")
            if f"{how}\t{folder / name}" in opened
        }
        run = Run(mattered, end, text, [], [], self.folder / str(self.made))
        if unique not in mattered and self.note_changes(run, folder, before):
            known.append(run)
        return end, text

    def note_changes(self, run: Run, folder: Path, before: dict[str, tuple]) -> bool:
        """Note what a run has done. False if that cannot be repeated."""
        after = below(folder)
        origin = {who: name for name, who in before.items() if who[0] == FILE}
        run.gone = [name for name, who in before.items() if after.get(name) != who]
        run.made = [name for name, who in after.items() if before.get(name) != who]
        for name in run.made:
            if after[name][0] not in (FILE, FOLDER):
                return False  # it has made a link or a pipe
            if origin.get(after[name], name) not in (name, *run.mattered):
                return False  # it has renamed a file that it has not opened
        run.files.mkdir(parents=True)
        for name in run.made:
            (run.files / name).parent.mkdir(parents=True, exist_ok=True)
            if after[name][0] == FOLDER:
                (run.files / name).mkdir(exist_ok=True)
            else:
                os.link(folder / name, run.files / name)
        return True


def link_of(path: Path, who: tuple) -> str:
    return os.readlink(path) if who[0] == LINK else ""
