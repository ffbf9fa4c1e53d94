"""One run at a time has a directory.

The lock is the operating system's, which takes it back from a process that is killed.
"""

import contextlib
import json
import os
import re
import socket
import time
from pathlib import Path

import filelock

from plumbing import disk, stopping
from plumbing.errors import UserError
from plumbing.rundir import checkpoints, delete, what_ran
from plumbing.sums import SUMS

# What a killed run leaves half-written. Others have hidden files, too: ours are called by name.
LEFT = (
    ".checkpoint-*.tmp",
    ".final.tmp",
    ".*.json.part",
    ".*.jsonl.part",
    ".*.part.png",
    ".report.html.part",
    ".nanovlr-*.part",
)


@contextlib.contextmanager
def claim(args):
    """Keep every other run out of --output-dir until the block ends, or the process does.

    The lock is the operating system's, which takes it back from a process that is killed.
    UserError, naming host and process, if another run holds it, or the directory cannot be written.
    """
    out = getattr(args, "output_dir", None)
    if out is None:
        yield
        return
    out, finished = Path(out), False
    refuse_parts_of_a_run(out)
    refuse_own_files(out, args)
    lock, owner = out / ".lock", out / ".owner.json"
    held = filelock.FileLock(str(lock))
    command = getattr(args, "script", None) or "a run"
    started = time.strftime("%Y-%m-%d %H:%M")
    holder = {"host": socket.gethostname(), "process": os.getpid(), "script": command}

    def release():
        if held.is_locked:  # while it is, nobody else can have made them
            for file in (owner, lock):
                with contextlib.suppress(OSError):
                    file.unlink()
            held.release()

    def words():
        release()
        return f"the run had finished, and is in {out}" if finished else _what_is_kept(args)

    with stopping.Undivided():
        made = disk.make_writable(out)
        try:
            with disk.writing(lock, disk.BLOCK):
                held.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(_in_use(out, owner)) from None
        except OSError as error:
            if disk.error_number(error) in disk.REFUSALS:
                raise
            raise UserError(
                f"{lock} cannot be locked ({error.strerror or error}); name another --output-dir"
            ) from None
        stopping.last_words[:] = [words]  # they hold until the process has ended
    try:
        disk.write_json(owner, holder | {"started": started})
        clean(out)
        clean(out / "samples")
        yield
        finished = True
    finally:
        with stopping.Undivided():
            release()
        for folder in made:  # a command that was refused leaves no empty folder behind
            with contextlib.suppress(OSError):
                folder.rmdir()


def clean(folder: Path):
    """Delete what a killed run has left half-written in a folder of its own."""
    for pattern in LEFT:
        for leftover in folder.glob(pattern):
            delete(leftover)


def _in_use(out: Path, owner: Path) -> str:
    who = "another run"
    for _ in range(40):  # a run that started at the same moment is just writing it
        try:
            holder = json.loads(disk.read_text(owner))
            who = (
                f"{holder['script']} (process {holder['process']} on {holder['host']}, "
                f"since {holder['started']})"
            )
            break
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return f"--output-dir {out} is in use by {who}; wait for it, stop it, or {disk.another(out)}"


def again(args) -> str:
    """How a command that was stopped is taken up."""
    if getattr(args, "command", None) in ("export", "graft"):  # which may just have been written
        return "type the command again, with a new --output-dir"
    resumable = hasattr(args, "resume_from_checkpoint") and not getattr(args, "predictions", None)
    return "go on with --resume-from-checkpoint" if resumable else "type the command again"


def _what_is_kept(args) -> str:
    """What a run that ends at once has saved, and how to go on."""
    found = checkpoints(args.output_dir)
    newest = f" (newest: {found[-1].name})" if found else ""
    return f"what was finished is kept in {args.output_dir}{newest}; {again(args)}"


# What runs write into their directory, and what a user could give to the next as data.
WRITTEN = (
    *("args.json", "metrics.jsonl", "result.json", "scaling.jsonl", "disagreements.jsonl"),
    *("distilled.jsonl", "rejected.jsonl"),
)


def refuse_own_files(out: Path, args):
    """UserError if data are read from a file that the run would write over."""
    for name in ("data", "eval_data", "pairs", "warmup_data", "predictions"):
        value = getattr(args, name, None) or []
        for path in value if isinstance(value, list) else [value]:
            folder, file = os.path.split(os.path.realpath(path))
            inside = folder == os.path.realpath(out) and file in (*WRITTEN, "predictions.jsonl")
            if inside and os.path.isfile(path):
                raise UserError(
                    f"--{name.replace('_', '-')} {path} would be written over by the run; name "
                    "another --output-dir"
                )


def refuse_parts_of_a_run(out: Path):
    """UserError if `out` lies in a checkpoint, or is an iteration's folder: another run's."""
    whole = Path(os.path.realpath(out))
    for folder in (whole, *whole.parents):
        if re.fullmatch(r"checkpoint-\d+", folder.name) and (folder / SUMS).is_file():
            raise UserError(
                f"--output-dir {out} lies in a checkpoint ({folder}), which is removed when newer "
                "ones come; name a directory outside"
            )
    of_a_run = what_ran(whole.parent) in (("selftrain.py", False), ("train_dpo.py", False))
    if of_a_run and re.fullmatch(r"iteration-\d+", whole.name):
        raise UserError(
            f"--output-dir {out} is a part of the run in {whole.parent}; name another directory"
        )
