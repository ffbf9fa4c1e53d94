"""Writing files: whole or not at all, and one sentence for a disk that takes no more."""

import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path

from plumbing.errors import UserError, out_of_memory

# What a disk says, whatever was written, and the remedy; another OSError may be our mistake.
REFUSALS = {
    errno.ENOSPC: ("no space is left on the disk", "make room"),
    errno.EDQUOT: ("your quota on the disk is used up", "make room"),
    errno.EFBIG: ("a file would be larger than the limit on file sizes", "raise it (ulimit -f)"),
    errno.EROFS: ("the disk can only be read", "make it writable"),
    errno.EIO: ("the disk reports an input/output error", "check the disk"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "end other programs"),
}
# These need a path inside the output directory to be the user's business and not ours.
OBSTACLES = {
    errno.EACCES: ("permission is denied", "give yourself permission"),
    errno.EPERM: ("permission is denied", "give yourself permission"),
    errno.EISDIR: ("a folder is where a file is expected", "move it away"),
    errno.ENXIO: ("a pipe is where a file is expected", "move it away"),
    errno.ENOTDIR: ("a file is where a folder is expected", "move it away"),
    errno.EEXIST: ("a file is where a folder is expected", "move it away"),
    errno.ENOTEMPTY: ("a folder is where a file is expected", "move it away"),
    errno.ELOOP: ("its links lead in a circle", "move it away"),
    errno.ENOENT: ("it has gone", "find out what else removes files there"),
}


BLOCK = 4096  # bytes that the smallest file or folder takes


def error_number(error: BaseException | None) -> int | None:
    """Find the errno of an error or of what it was raised from; Rust's writers put it in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found:
            return int(found[1])
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def in_words(error: BaseException, out: str | Path, again: str) -> str | None:
    """Say in one sentence why something below `out` could not be written.

    again: what to do once that is remedied. None if the error is not about the disk.
    """
    number = error_number(error)
    path = getattr(error, "filename2", None) or getattr(error, "filename", None)
    where = path if path and not is_below(path, out) else out  # another disk: a cache, the data
    what = getattr(error, "what", None) or os.fsdecode(path or f"a file in {out}")
    failed = "could not be written" if where is out else "could not be read or written"
    if number in REFUSALS:
        reason, remedy = REFUSALS[number]
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            needed = getattr(error, "needed", None) or BLOCK
            reason += f" ({size(needed)} are needed and {size(free(where))} are free)"
        return f"{what} {failed}: {reason}; {remedy}, then {again}"
    if number in OBSTACLES and path and is_below(path, out):
        reason, remedy = OBSTACLES[number]
        return f"{os.fsdecode(path)} cannot be used: {reason}; {remedy}, then {again}"
    if number and hasattr(error, "what"):  # of `writing`: a disk far away has many ways to fail
        return f"{what} {failed}: {os.strerror(number)}; see to the disk, then {again}"
    return None


def is_the_machines(error: BaseException) -> bool:
    """Whether memory, disk or descriptors ran out while a file was read: it is not damaged."""
    return out_of_memory(error) or error_number(error) in REFUSALS


@contextlib.contextmanager
def writing(what: str | Path, needed: int | None = None):
    """Make an error of the disk know what was being written, and how many bytes that takes."""
    try:
        yield
    except Exception as error:
        number = error_number(error)
        if number is None:
            raise
        path = getattr(error, "filename2", None) or getattr(error, "filename", None)
        failed = OSError(number, os.strerror(number), path)
        failed.what, failed.needed = what, needed or getattr(error, "needed", None)
        raise failed from error


def is_below(path, folder) -> bool:
    """Whether `path` is `folder` or lies in it."""
    path, folder = Path(os.fsdecode(path)).absolute(), Path(folder).absolute()
    return path == folder or folder in path.parents


def free(path: str | Path) -> int:
    """Bytes free for this user on the disk that `path`, or its nearest parent, lies on."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def size(count: float) -> str:
    """Write a number of bytes for people: 16.1 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:.1f} TB"


def used(folder: str | Path) -> int:
    """Bytes of all files below a folder; 0 where there is none. Some may go while it counts."""
    total = 0
    for file in Path(folder).rglob("*"):
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total


def announce(out: str | Path, parts: dict[str, int]):
    """Print what a run will write below `out`, and warn if it does not fit.

    parts: what -> bytes at the most; what lies there already is taken off.
    """
    total = sum(parts.values())
    room = free(out)
    items = ", ".join(f"{what} {size(count)}" for what, count in parts.items())
    print(f"disk: this run writes about {size(total)} to {out} ({items}); {size(room)} are free")
    missing = total - used(out) - room
    if missing > 0:
        print(
            f"  warning: that is {size(missing)} more than fits; make room, or name another "
            "--output-dir" + (" or a lower --save-total-limit" if len(parts) > 2 else "")
        )


def read_text(path: str | Path, errors: str = "strict") -> str:
    """Read a text file. OSError for a pipe, too: it would keep the run waiting for ever."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), str(path))
    return path.read_text(encoding="utf-8", errors=errors)


def write_whole(path: str | Path, text: str):
    """Write a text file, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    # Half a surrogate, of a path or a text, is written as JSON writes it: \udc80.
    content = text.encode("utf-8", errors="backslashreplace")
    with writing(path, max(len(content), BLOCK)):
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_json(path: str | Path, value):
    """Write a JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: str | Path, records: list):
    """Write a JSON Lines file, whole or not at all."""
    write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def another(out: str | Path) -> str:
    """Say what to name instead of a directory that is taken: the first free NAME-2, NAME-3, ..."""
    out = Path(out)
    n = 2
    while out.with_name(f"{out.name}-{n}").exists():
        n += 1
    return f"name another --output-dir, such as {out.with_name(f'{out.name}-{n}')}"


def make_writable(out: str | Path, flag: str = "--output-dir") -> list[Path]:
    """Make the directory `out`, and return the folders that this took, inner ones first.

    flag: which named it, for the message. UserError if it cannot be written to.
    """
    out = Path(out)
    probe = out / f".nanovlr-{os.getpid()}.part"
    try:
        made = [folder for folder in (out, *out.absolute().parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another run that starts now has cleaned up
    except (OSError, RecursionError) as error:  # the latter: thousands of folders deep
        reason = getattr(error, "strerror", "too many folders")
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            reason += f"; a run needs 1 MB at the least, and {size(free(out))} are free"
        raise UserError(
            f"{flag} {out} cannot be written to ({reason}); name another directory"
        ) from None
    return made
