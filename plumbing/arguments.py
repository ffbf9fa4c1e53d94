"""args.json: the flags of a run, and whether a command that goes on with it is still that run."""

import contextlib
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

from plumbing import disk, records
from plumbing.errors import UserError

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "math-verify", "triton", "trl")
# What may change when a run goes on: how long, how often, where, in what portions. None of it
# changes what is learned, but for rounding and for what --lora-dropout draws in each portion.
FREE_ON_RESUME = {
    "max_steps",
    "num_train_epochs",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "report_to",
    "eval_steps",
    "eval_batch_size",
    "micro_batch_size",
    "gradient_checkpointing",
    "iterations",
    "max_image_pixels",
    "num_workers",
}
TYPED_AS = {"max_pixels_growth": "max_pixels"}  # what --max-pixels A:B stores beside B
OF_THIS_START = {
    "device",
    "output_dir",
    "resume_from_checkpoint",
    "argv",
    "run",
    "dry_run",
    "shard",
}


def flags_given(argv=None) -> list[str]:
    """Name the flags in a command, in order, as `args` does: ["max_steps"] of ["--max-steps=3"]."""
    words = sys.argv[1:] if argv is None else argv
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [name[2:].replace("-", "_") for name in flags]


def flag(name: str) -> str:
    """The other way round: "--max-steps" of "max_steps"."""
    return f"--{TYPED_AS.get(name, name).replace('_', '-')}"


def run_id(args) -> str:
    """8 hexadecimal digits of all flags that define a run: equal commands have equal files.

    Once `write_args` has stored it, it stays: a run that goes on keeps it.
    """
    kept = getattr(args, "run", None)
    if kept:
        return kept
    changing = FREE_ON_RESUME | OF_THIS_START
    flags = {name: value for name, value in sorted(vars(args).items()) if name not in changing}
    args.run = f"{zlib.crc32(json.dumps(flags, default=str).encode()):08x}"
    return args.run


def label_of(args, path, given=None) -> str:
    """What the records of a file belong to: this run, and the file's place in its directory.

    given: JSON values that the records were made from, where these could change under them.
    """
    inside = Path(path).absolute().relative_to(Path(args.output_dir).absolute())
    label = f"{run_id(args)} {inside}"
    return label if given is None else f"{label} {records.checksum({'given': given})}"


def write_args(directory, args, **extra):
    """Write args.json: flags as they were used, the command, this code's commit, versions."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    run_id(args)
    flags = {name: value for name, value in vars(args).items() if name != "argv"}
    more = {"argv": getattr(args, "argv", None), "cwd": os.getcwd(), "commit": _commit()}
    more["versions"] = versions
    records.write_record(Path(directory) / "args.json", {**flags, **extra, **more})


@functools.cache  # of the start; and Ctrl-C in a terminal ends git, too
def _commit() -> str | None:
    """The commit of this code; None where there is no git, or no repository."""

    def git(*words):
        command = ["git", "-C", str(Path(__file__).resolve().parents[1]), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "HEAD")
        if commit and git("status", "--porcelain", "--untracked-files=no"):
            return f"{commit} with changes"
        return commit
    except OSError:
        return None


def read_args(directory, ours: bool = False) -> dict:
    """Read args.json of a run's directory or checkpoint; {} where there is none (a hub name).

    One without a checksum is somebody else's, and taken as it is, unless it must be `ours`: then it
    was edited. UserError if it is damaged.
    """
    path = Path(directory) / "args.json"
    if not os.path.lexists(path):
        return {}
    try:
        value = json.loads(disk.read_text(path))
    except (OSError, ValueError, RecursionError):
        value = None
    if ours or isinstance(value, dict) and records.CHECK in value:
        value = records.without_checksum(value)
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is damaged; delete it, and give the flags that the run was started with"
        )
    return value


def same_place(now, was, directory: str | None) -> bool:
    """Whether two paths lead to the same place: `was` was typed in another directory, perhaps.

    Of lists, whether each of one does to that of the other.
    """
    if isinstance(now, list) and isinstance(was, list) and len(now) == len(was):
        return all(a == b or same_place(a, b, directory) for a, b in zip(now, was))
    if not (isinstance(now, str) and isinstance(was, str) and directory and os.path.exists(now)):
        return False
    return os.path.realpath(now) == os.path.realpath(os.path.join(directory, was))


def same_flags(args, directory):
    """Make a command that goes on with a run the command that started it, but for its own flags.

    Flags that are not typed again take the value they had in directory/args.json, if their default
    leaves that open (None, auto, no words) or they are of FREE_ON_RESUME. UserError for any other
    whose value is not what it was, and for another script's directory.
    """
    was = read_args(directory, ours=True)
    # --no-gradient-checkpointing is --gradient-checkpointing
    words = {name.removeprefix("no_") for name in flags_given(args.argv)}
    first = sorted(vars(args).items(), key=lambda item: item[0] != "script")
    for name, value in first:
        # max_steps counts only where num_train_epochs is not typed
        by_epochs = name == "max_steps" and "num_train_epochs" in words
        if name in OF_THIS_START or name not in was or by_epochs:
            continue
        if value in (None, "auto", []) or name in FREE_ON_RESUME and name not in words:
            setattr(args, name, was[name])
        elif same_place(value, was[name], was.get("cwd")):
            pass
        elif name not in FREE_ON_RESUME and value != was[name]:
            what = "this script" if name == "script" else flag(name)
            raise UserError(
                f"{what} was {was[name]} when {directory} was made and is {value} now; "
                "give it as it was, or name another --output-dir"
            )
    args.run = was.get("run")
