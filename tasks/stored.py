"""Pictures embedded in data files, kept on disk: what stays in memory is a place in a file."""

import os
import tempfile
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from plumbing.errors import UserError

IN_MEMORY = 2**26  # bytes of a set's pictures that are kept as they are
SPILLED = []  # open files; each goes when the process ends


@runtime_checkable
class Encoded(Protocol):
    """A picture that is read when it is needed."""

    def read(self) -> bytes:
        """Return the encoded picture."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An encoded picture: `length` bytes from `offset` of a file.

    Every process opens the file for itself, so a worker can be given this, forked or spawned.
    """

    path: str
    offset: int
    length: int

    def read(self) -> bytes:
        """Read the picture. OSError if the file has gone or is cut off."""
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.length, self.offset)
        if len(data) < self.length:
            raise OSError(f"{self.path} has become shorter")
        return data


class Placed(bytes):
    """Bytes that know where they are stored."""

    place: Stored | None = None


class Store:
    """Where one set's embedded pictures go: at first memory, then a file without a name.

    The file is in $TMPDIR, else in /var/tmp, for /tmp is often memory.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self.room = in_memory
        self.end = 0
        self.path, self.file = None, None

    def keep(self, picture: Any) -> Any:
        """Return a place for a picture's bytes; a path or an opened picture stays.

        UserError if the disk is full.
        """
        if not isinstance(picture, bytes):
            return picture
        if isinstance(picture, Placed):
            return picture.place
        if len(picture) <= self.room:
            self.room -= len(picture)
            return picture
        self.room = 0
        try:
            if self.file is None:
                self.path, self.file = spill_file()
            self.file.write(picture)
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"embedded pictures are copied to {folder()}, which failed after "
                f"{self.end / 1e9:.1f} GB ({error.strerror or error}); set TMPDIR to a folder with "
                "more room, or save the set by save_to_disk of `datasets`, which needs no copy"
            ) from None
        place = Stored(self.path, self.end, len(picture))
        self.end += len(picture)
        return place


def folder() -> str:
    """Choose the folder of temporary files."""
    if not os.environ.get("TMPDIR") and os.path.isdir("/var/tmp"):
        return "/var/tmp"
    return tempfile.gettempdir()


def spill_file() -> tuple[str, Any]:
    """Open a file that is gone when this process is, however it ends: (path, file).

    Other processes reach it by Linux's /proc. Elsewhere it has a name, and a killed run leaves it.
    """
    file = tempfile.TemporaryFile(dir=folder(), buffering=2**20)
    path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
    if not os.path.exists(path):
        file = tempfile.NamedTemporaryFile(dir=folder(), buffering=2**20)
        path = file.name
    SPILLED.append(file)
    return path, file
