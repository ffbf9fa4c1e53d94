"""SHA256SUMS: what is in a saved folder, so that damage is noticed when it is read.

The format is coreutils', `sha256sum -c SHA256SUMS` checks it; the first line counts the others.
"""

import hashlib
import json
import os
import re
from pathlib import Path

from plumbing import disk

SUMS = "SHA256SUMS"
ADAPTER = "adapter_config.json"


def fault_of(directory: str | Path) -> str | None:
    """Say what is wrong with a folder that was saved with SHA256SUMS; None if nothing is."""
    directory = Path(directory)
    if not directory.is_dir():
        return f"{directory} is no folder"
    if not (directory / SUMS).exists():
        return f"{directory}/{SUMS} is missing"
    sums = sums_of(directory)
    if sums is None:
        return f"{directory}/{SUMS} is damaged"
    for name in sums:
        if not (directory / name).is_file():
            return f"{directory / name} is missing"
    if re.fullmatch(r"checkpoint-\d+", directory.name):  # all of it is ours
        more = set(files_of(directory)) - set(sums)
        if more:
            return f"{directory / min(more)} was added to the checkpoint"
    stamp = _stamp(directory, sums)
    if stamp in _checked:
        return None
    for name, digest in sums.items():
        changed = sha256(directory / name) != digest
        if changed and not (name == ADAPTER and _only_its_base_changed(directory)):
            return f"{directory / name} is damaged (its SHA-256 is not the one in {SUMS})"
    _checked.add(stamp)
    return None


def sums_of(directory: str | Path) -> dict[str, str] | None:
    """Read SHA256SUMS: name -> digest; None if there is none, or none of ours, or it is damaged."""
    try:
        count, *lines = disk.read_text(Path(directory) / SUMS).splitlines()
        lines = [line for line in lines if not line.endswith(f"  {ADAPTER} without its base")]
    except (OSError, ValueError):
        return None
    named = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not named or count != _count(named) or None in named:
        return None
    sums = {line[2]: line[1] for line in named}
    return sums if all(map(_is_inside, sums)) else None


_checked = set()  # what this process has compared: gigabytes are read once


def _stamp(directory: Path, sums: dict[str, str]) -> tuple:
    """The named files of a folder as they are now, and what they should be."""
    found = [(directory / name).stat() for name in sums]
    times = [(status.st_mtime_ns, status.st_size) for status in found]
    return (directory.resolve(), *sums.items(), *times)


def sha256(file: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while piece := content.read(2**22):  # 4 MB
            digest.update(piece)
    return digest.hexdigest()


def files_of(directory: Path) -> list[str]:
    """Name the files in a folder and below, but SHA256SUMS, and args.json with its own checksum."""
    found = [path for path in directory.rglob("*") if path.is_file() or path.is_symlink()]
    names = sorted(path.relative_to(directory).as_posix() for path in found)
    return [name for name in names if name not in (SUMS, "args.json")]


def write_sums(directory: Path):
    """Write SHA256SUMS of all files of a folder; args.json has a checksum of its own."""
    files = files_of(directory)
    lines = [f"{sha256(directory / name)}  {name}\n" for name in files]
    if ADAPTER in files:
        lines.append(f"# {_adapter_digest(directory)}  {ADAPTER} without its base\n")
    disk.write_whole(directory / SUMS, f"{_count(files)}\n{''.join(lines)}")


def _adapter_digest(directory: Path) -> str | None:
    """SHA-256 of an adapter's settings without its base model's place, which people correct."""
    try:
        settings = json.loads(disk.read_text(directory / ADAPTER))
        settings.pop("base_model_name_or_path")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _only_its_base_changed(directory: Path) -> bool:
    """Whether adapter_config.json is as it was saved, but for its base model's place."""
    digest = _adapter_digest(directory)
    lines = disk.read_text(directory / SUMS).splitlines()
    return digest is not None and f"# {digest}  {ADAPTER} without its base" in lines


def _is_inside(name: str) -> bool:
    """Whether a name is of a file in the folder or below it: nothing else is read or removed."""
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and len(os.fsencode(name)) < 256


def _count(files: list) -> str:
    """The first line of SHA256SUMS, a comment to sha256sum: a line that is gone is noticed."""
    return f"# {len(files)} files"
