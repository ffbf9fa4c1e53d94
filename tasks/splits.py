"""Which split rows are of: by a word in the name of their file or folder, or by their `split`.

A split is train, validation or test, whatever word is used for it, or one of its own: testmini.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from plumbing.errors import UserError
from plumbing.text import short

WORDS = {  # the word in a name: the split
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "ood": "ood",
    "testdev": "testdev",
    "testmini": "testmini",
    "minitest": "minitest",
    "minival": "minival",
    "minitrain": "minitrain",
    "trainval": "trainval",
}
# trainset and testdata are those words; RefCOCO's testA and CLEVR-CoGenT's valB are splits.
WORD = re.compile(f"({'|'.join(WORDS)})(?:sets?|data|split)?([ab]?)")
LETTERS = re.compile(r"[^\W\d_]+")
CAPITALS = re.compile(r"[A-Z]?[a-z]+[AB]$|[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")  # MyTestSet, VQATest
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}\b.*")
NO_SPLIT = ("data", "part", "shard", "default")  # data-00000-of-00002.arrow, of save_to_disk
HOLDERS = ("extra_info", "metadata", "info")  # verl, MathVista, CLEVR: what a `split` lies in
SPLIT_KEYS = ("split", "dataset_split", "data_split", "set_name")  # of DocVQA, of TextVQA


class Row(NamedTuple):
    """One record and where it stands: `file` and `place` for messages, `name` for its id."""

    file: Path
    place: Any
    name: str
    record: Any


# --- names ---


def splits_in(name: str) -> list[str]:
    """List the words for splits in a name: "x_train.jsonl" -> ["train"], "MyTestSet" -> ["test"].

    What stands before "-00000-of-00002" is the hub's name of a split, whatever it is.
    """
    words = []
    for run in LETTERS.findall(name):
        parts = [run] if WORD.fullmatch(run.lower()) else CAPITALS.findall(run)
        words += [part.lower() for part in parts if WORD.fullmatch(part.lower())]
    shard = SHARD.fullmatch(name)
    if not words and shard and shard[1] not in NO_SPLIT:
        return [shard[1]]
    return words


def meaning(word: str) -> str:
    """Give the split that a word means: "dev" -> "validation", "testA" -> "testa"."""
    told = WORD.fullmatch(word.lower())
    if told and told[2]:
        return told[1] + told[2]
    return WORDS[told[1]] if told else word


def purposes(word: str) -> set[str]:
    """Tell what a word's split may be for: "dev" -> {"val"}, "eval" -> {"val", "test"}.

    {} for a word that does not say, as ood.
    """
    told = WORD.fullmatch(word.lower())
    texts = (told[1], WORDS[told[1]]) if told else ()
    return {use for use in ("train", "val", "test") for text in texts if use in text}


def split_of(folder: Path, file: Path) -> str | None:
    """Read a file's split in its name, or else in the nearest folder that says one.

    UserError for a name that says two.
    """
    for name in reversed(file.relative_to(folder).parts):
        words = splits_in(name)
        if len({meaning(word) for word in words}) > 1:
            raise UserError(
                f"{file}: its name says the splits {' and '.join(words)}; rename it, or name the "
                "file itself"
            )
        if words:
            return words[0]
    return None


def advice(name: str, there: Iterable[str], asked: str = "") -> str:
    """Say which of the splits that are `there` may be meant. Never test, unless it was `asked`."""
    near = difflib.get_close_matches(asked.lower(), [*there, *WORDS], 1)
    wanted = [meaning(word) for word in near] + ["train", "validation"]
    for split in wanted:
        for word in there:
            if meaning(word) == split:
                return f"say {name}:{word}"
    return "name one of these"


# --- rows ---


def split_said(record: Any) -> str | None:
    """Read the split that a row says itself: in `split`, or in verl's `extra_info`."""
    if not isinstance(record, dict):
        return None
    for part in (record, *map(record.get, HOLDERS)):
        for key in SPLIT_KEYS if isinstance(part, dict) else ():
            value = part.get(key)
            words = splits_in(value) if isinstance(value, str) else []
            if words:
                return words[0] if len(set(map(meaning, words))) == 1 else short(value, 40)
    return None


def rows_saying(split: str, rows: Iterable[Row], file: Path) -> Iterator[Row]:
    """Choose the rows of file:split. UserError for a row that says none, and if none says this."""
    there = set()
    for row in rows:
        said = split_said(row.record)
        if said is None:
            raise UserError(
                f"{file}:{row.place}: the record says no `split`; add it, or omit :{split} to "
                "read the whole file"
            )
        there.add(said)
        if meaning(said) == meaning(split):
            yield row
    if meaning(split) not in set(map(meaning, there)):
        known = sorted(there)
        raise UserError(
            f"{file} has no record of split {split} (it has {', '.join(known)}); "
            f"{advice(file, known, split)}"
        )


class Agreement:
    """Refuses rows that say another split than the one that is read.

    training: rows of another split than train must be asked for.
    """

    def __init__(self, training: bool) -> None:
        self.first = "train" if training else None  # in what follows a name that says none
        self.why = "what is trained on is train" if training else "records before it say {}"

    def of(self, rows: Iterable[Row], named: str | None) -> Iterator[Row]:
        """Pass on rows of a file whose name, or whose user, says the split `named`."""
        for row in rows:
            said = split_said(row.record)
            if said is not None:
                self.must_be(said, named, row)
            yield row

    def must_be(self, said: str, named: str | None, row: Row) -> None:
        """Refuse a row that says another split."""
        where = f"{row.file}:{row.place}: its `split` is {said}"
        if named:
            uses = purposes(said), purposes(named)
            if all(uses) and uses[0].isdisjoint(uses[1]):
                raise UserError(
                    f"{where}, but it is read as {named}; correct one of them, "
                    f"or name its file with the split that is meant, FILE:{said}"
                )
            return
        self.first = self.first or meaning(said)
        if meaning(said) != self.first:
            raise UserError(
                f"{where}, but {self.why.format(self.first)}; "
                f"say which is meant: {row.file}:{self.first}, or {row.file}:{said}"
            )
