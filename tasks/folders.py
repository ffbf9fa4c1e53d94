"""What --data names: a toy task, a file, a folder, a set of the hub; and which split of it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.text import short
from tasks import drawing, hub, images, mixtures, splits
from tasks.files import READERS, rows_of
from tasks.splits import Row

# --- names ---


def split_name(spec: str | Path) -> tuple[str, str | None]:
    """Part "count:test" into ("count", "test"); "C:\\x.json" has no split: (itself, None).

    A path that exists is whole. What exists, and a hub name, may have a split of any name.
    """
    spec = str(spec)
    name, colon, split = spec.rpartition(":")
    if not colon or os.path.exists(spec):
        return spec, None
    may_be = split in drawing.SPLITS or bool(name) and os.path.exists(name) or hub.is_name(name)
    return (name, split) if may_be and re.fullmatch(r"[\w.-]+", split) else (spec, None)


def short_names(specs: list[str]) -> dict[str, str]:
    """Name each data set as briefly as tells it from the others: {spec: name}.

    "count:test" -> "count:test"; "/home/x/d.jsonl" -> "d"; beside "/home/y/d.jsonl", "x/d".
    """
    possible = {spec: names_of(spec) for spec in specs}
    chosen = {}
    for spec, names in possible.items():
        taken = set().union(*(possible[other] for other in possible if other != spec))
        chosen[spec] = next((name for name in names if name not in taken), spec)
    return chosen


def names_of(spec: str) -> list[str]:
    """List the names of a data set, the shortest first: "d", "d.jsonl", "x/d", ..., the spec.

    "owner/set/config:test" -> "set/config:test", the whole.
    """
    path, split = split_name(spec)
    end = f":{split}" if split else ""
    if hub.is_name(path):
        return [path.partition("/")[2] + end, spec]
    if not os.path.exists(path):  # a toy task
        return [spec]
    whole = Path(os.path.abspath(path))
    names = []
    for n in range(1, len(whole.parts)):
        name = "/".join(whole.parts[-n:])
        names += [name.removesuffix(whole.suffix), name] if whole.suffix in READERS else [name]
    return [f"{name}{end}" for name in names] + [spec]


# --- the files of a folder ---

IN_FOLDERS = [suffix for suffix in READERS if suffix != ".tsv"]  # which is named itself

# What a folder may hold that is no data: of `datasets`, of git and of a checkpoint.
NO_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
ORDINARY = re.compile(
    r"(?i)(?:readme|licen[cs]e|notice|citation|changelog|makefile)\b.*"
    r"|.*\.(?:md|rst|pdf|py|sh|ya?ml|toml|cfg|lock|log|html?|bib|ipynb"
    rf"|{images.SUFFIXES}|mp4|mkv|webm|mov|avi)"
)


def files_of(spec: str | Path, training: bool = False) -> list[Path]:
    """List the data files that "x.jsonl", a folder or "folder:test" stands for, in order.

    training: rows of another split than `train` must be asked for. UserError if there are none.
    """
    name, split = split_name(spec)
    path = Path(name)
    if not path.is_dir():
        return [path]
    files = data_files(path)
    if not files:
        raise UserError(f"{path} holds no {', '.join(IN_FOLDERS)} file")
    return files_of_split(path, files, split, training)


def data_files(folder: Path) -> list[Path]:
    """List a folder's data files, and print once what else cannot be read."""
    files, others = [], []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # A folder x.json is refused when it is read; x.parquet is a folder of Spark's.
        named = [name for name in folders if name.endswith((".json", ".jsonl"))]
        for name in names + named:
            is_cache = name.startswith("cache-") and name.endswith(".arrow")  # of `datasets`
            if name.startswith(".") or name in NO_DATA or is_cache:
                continue
            if os.path.splitext(name)[1] in IN_FOLDERS:
                files.append(Path(place, name))
            elif not ORDINARY.fullmatch(name):
                others.append(os.path.join(place, name))
    if others:
        print(
            f"{folder}: {len(others)} files are left out, the first {short(min(others), 100)}: "
            f"in a folder only {', '.join(IN_FOLDERS)} files are read"
        )
    files.sort()
    # CV-Bench holds test_2d.parquet and, without images, test_2d.jsonl.
    return [p for p in files if p.suffix == ".parquet" or p.with_suffix(".parquet") not in files]


def name_in(spec: str | Path, file: Path) -> str:
    """Name a file by its path within the given folder, or by its name."""
    folder = Path(split_name(spec)[0])
    return file.relative_to(folder).as_posix() if folder.is_dir() else file.name


# --- splits ---


def files_of_split(
    folder: Path, files: list[Path], split: str | None, training: bool
) -> list[Path]:
    """Choose the files of the wanted split: the given one, else train, else the only one."""
    said = {file: splits.split_of(folder, file) for file in files}
    there = sorted({word for word in said.values() if word})
    if split:
        return files_named(folder, said, there, split)
    if not there:
        return files
    without = [file for file in files if not said[file]]
    if without:
        named = next(file for file in files if said[file])
        raise UserError(
            f"{folder} holds files of a split ({name_in(folder, named)}) beside files of none "
            f"({name_in(folder, without[0])}); to read a split alone "
            f"{splits.advice(str(folder), there)}, or name one file"
        )
    found = {word: splits.meaning(word) for word in there}
    if "train" in found.values():
        return [file for file in files if found[said[file]] == "train"]
    if len(set(found.values())) > 1:
        raise UserError(
            f"{folder} holds the splits {', '.join(there)}, and no train; "
            + splits.advice(str(folder), there)
        )
    if training:
        raise UserError(
            f"{folder} holds only the split {there[0]}; to train on it, say {folder}:{there[0]}"
        )
    print(f"{folder}: all its files are of the split {there[0]}")
    return files


def files_named(
    folder: Path, said: dict[Path, str | None], there: list[str], split: str
) -> list[Path]:
    """List the files of a split, by its own word or by another for it: dev is validation."""
    exact = [file for file, word in said.items() if word in (split, split.lower())]
    meant = splits.meaning(split)
    files = exact or [file for file, word in said.items() if word and splits.meaning(word) == meant]
    if not files and there:
        raise UserError(
            f"{folder} has no split {split} (it has {', '.join(there)}); "
            + splits.advice(str(folder), there, split)
        )
    if not files:
        raise UserError(
            f"{folder} has no split {split} (no name of a file or folder says one); "
            f"omit :{split} to read all of it, or name a file whose records say it, FILE:{split}"
        )
    return files


# --- all records ---


def rows_in(
    spec: str, expected: str, training: bool = False, bad: BadRecords = REFUSE
) -> Iterator[Row]:
    """Read the records of a file, a folder's files, a mixture or a set of the hub, in order."""
    name, split = split_name(spec)
    agreement = splits.Agreement(training)
    if hub.is_name(name):
        yield from hub_rows(name, split, expected, training, agreement, bad)
    elif is_mixture(name):
        if split:
            raise UserError(
                f"{spec}: a mixture has no split; omit :{split}, and say it in `json_path`: "
                f"x.json:{split}"
            )
        yield from mixtures.rows_of_mixture(spec, expected, agreement, bad)
    else:
        for file in files_of(spec, training):
            yield from rows_of_file(spec, file, expected, agreement, bad)


def rows_of_file(
    spec: str | Path, file: Path, expected: str, agreement: splits.Agreement, bad: BadRecords
) -> Iterator[Row]:
    """Read the records of one of the files of `spec`; those of "x.json:test" say this split."""
    name, split = split_name(spec)
    rows = (Row(file, *row) for row in rows_of(file, expected, name_in(spec, file), bad))
    if os.path.isdir(name):
        return agreement.of(rows, splits.split_of(Path(name), file))
    return splits.rows_saying(split, rows, file) if split else agreement.of(rows, None)


def is_mixture(spec: str | Path) -> bool:
    """Tell whether --data is a YAML file that lists files."""
    return os.path.isfile(spec) and Path(spec).suffix in mixtures.SUFFIXES


def hub_rows(
    name: str,
    split: str | None,
    expected: str,
    training: bool,
    agreement: splits.Agreement,
    bad: BadRecords,
) -> Iterator[Row]:
    """Read a set of the hub, named by its split and numbered through: "owner/set:train:12"."""
    found = hub.splits_of(name)
    split = hub_split(name, list(found), split, training)
    shown = Path(f"{name}:{split}")

    def rows() -> Iterator[Row]:
        records = (row[-1] for file in found[split] for row in rows_of(file, expected, None, bad))
        for number, record in enumerate(records, 1):
            yield Row(shown, number, f"{shown}:{number}", record)

    yield from agreement.of(rows(), split)


def hub_split(name: str, there: list[str], split: str | None, training: bool) -> str:
    """Choose a split of a set of the hub: the given one, else train, else the only one."""
    if split is None and len(there) == 1 and (there[0] == "train" or not training):
        return there[0]
    wanted = split or "train"
    same = [word for word in there if splits.meaning(word) == splits.meaning(wanted)]
    if wanted in there or len(same) == 1:
        return wanted if wanted in there else same[0]
    raise UserError(
        f"{name} has no split {wanted}, but {', '.join(there)}; "
        + splits.advice(name, there, wanted)
    )
