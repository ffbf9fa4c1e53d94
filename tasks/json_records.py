"""Records of one JSON text: a list of objects, or an object that holds them."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from plumbing.errors import UserError
from plumbing.text import short
from tasks import splits

# Keys under which a set's authors put the list of its records: CLEVR, DocVQA, VQA, ...
LIST_KEYS = (
    *("questions", "data", "annotations", "examples", "records"),
    *("rows", "samples", "instances", "items", "problems"),
)
GAP = re.compile(r"[\s,:]*")


class Twice(ValueError):
    """A key that an object has twice, with two values."""


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values. Twice if a key has two values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise Twice(f"`{short(key, 40)}` is there twice, with two values; delete one")
    return found


PLAIN = json.JSONDecoder()
STRICT = json.JSONDecoder(object_pairs_hook=distinct)


def read_whole(file: Path, text: str) -> Iterator[tuple[Any, str, Any]]:
    """Read (place, mark, record) of each record; instead of one that cannot be read, the UserError.

    [{...}, {...}]; CLEVR's {"info": ..., "questions": [...]}; {"train": [...], "test": [...]};
    one record. TabMWP's {"33": {...}} is read as [{"id": "33", ...}]. Of SeeClick's episodes,
    {"click-button": [[{...}, {...}]]}, each step is one: {"task": "click-button", "earlier": ...}.
    """
    if not text.strip():
        return
    line, before = 1, 0  # counted on from record to record: else it is quadratic
    records = []
    try:
        for start, record in records_in(file, text, loaded(file, text)):
            line += text.count("\n", before, start)
            before = start
            records.append((line, record))
    except RecursionError:
        raise UserError(
            f"{file}:1: broken JSON (nested too deeply); expected a list of flat objects"
        ) from None
    on_line = Counter(line for line, _ in records)
    for number, (line, record) in enumerate(records, 1):
        place = line if on_line[line] == 1 else f"{line}#{number}"
        if isinstance(record, Twice):
            record = UserError(f"{file}:{place}: {record}")
        # Not ":": in older runs a line follows it, which must not be read as a number.
        yield place, f"#{number}", record


def json_or_none(text: str) -> Any:
    """Read a text that may be JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def loaded(file: Path, text: str) -> Any:
    """Read a JSON text. UserError, naming the line, if it is broken."""
    try:
        return PLAIN.decode(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}); fix that line"
        ) from None
    except ValueError as error:  # a number of more than 4300 digits
        raise UserError(f"{file}:1: broken JSON ({str(error)[:60]}); fix that number") from None


def records_in(file: Path, text: str, whole: Any) -> Iterator[tuple[int, Any]]:
    """Read valid JSON once more, for the place where each record begins: (place, record)."""
    opening = GAP.match(text).end()
    if isinstance(whole, list):
        del whole  # it may be large, and is read once more
        yield from values_of(text, opening)
        return
    if not isinstance(whole, dict):
        raise UserError(
            f"{file}: expected a list of objects, [{{...}}, {{...}}], found {type(whole).__name__}"
        )
    members = list(members_of(text, opening))
    must_differ(file, text, members)
    if whole and all(isinstance(value, dict) for value in whole.values()):
        for member in members:
            record = member.value
            if not isinstance(record, Twice):
                record = {"id": member.key, **record}
            yield member.start, record
        return
    if whole and all(map(is_list_of_episodes, whole.values())):
        for member in members:
            yield from steps_of(text, member)
        return
    lists = {member.key: member.at for member in members if is_list_of_objects(whole[member.key])}
    filled = [key for key, value in whole.items() if value != []]  # a split may be empty
    are_splits = list(lists) == filled and all(map(splits.splits_in, whole))
    if not are_splits and lists.keys().isdisjoint(LIST_KEYS):
        wrong = [member.value for member in members if isinstance(member.value, Twice)]
        yield opening, (wrong or [whole])[0]
        return
    if not are_splits and len(lists) > 1:
        raise UserError(
            f"{file}: holds the lists {short(' and '.join(lists))}; save the one whose objects are "
            "the records in a file of its own"
        )
    said = splits.split_said(whole)
    del whole, members
    for key, at in lists.items():
        yield from values_of(text, at, key if are_splits else said)


class Member(NamedTuple):
    """A value of a list or an object, and where it and its key begin in the text."""

    key: str | None
    start: int
    at: int
    value: Any  # Twice where an object in it has a key twice


def members_of(text: str, opening: int) -> Iterator[Member]:
    """Read the list or object that opens at a place of valid JSON."""
    is_object = text[opening] == "{"
    end = opening + 1
    while True:
        start = at = GAP.match(text, end).end()
        if text[start] in "]}":
            return
        key = None
        if is_object:
            key, end = PLAIN.raw_decode(text, start)
            at = GAP.match(text, end).end()
        try:
            value, end = STRICT.raw_decode(text, at)
        except Twice as error:
            value, end = error, PLAIN.raw_decode(text, at)[1]
        yield Member(key, start, at, value)


def values_of(text: str, opening: int, split: str | None = None) -> Iterator[tuple[int, Any]]:
    """Read (place, record) of a list, whose records are of a split unless they say another."""
    for member in members_of(text, opening):
        record = member.value
        if split and isinstance(record, dict):
            record = {"split": split, **record}
        yield member.start, record


def steps_of(text: str, task: Member) -> Iterator[tuple[int, Any]]:
    """Read (place, record) of each step of a task's episodes, with the steps before it."""
    for number, episode in enumerate(members_of(text, task.at)):
        earlier = []
        for place, step in enumerate(members_of(text, episode.at)):
            record = step.value
            if not isinstance(record, Twice):
                told = {"task": task.key, "episode": number, "step": place}
                record = told | record | {"earlier": list(earlier)}
                earlier.append(step.value)
            yield step.start, record


def must_differ(file: Path, text: str, members: list[Member]) -> None:
    """Refuse an object that has a key twice: all its records would be those of the last."""
    keys = set()
    for member in members:
        if member.key in keys:
            line = text.count("\n", 0, member.start) + 1
            raise UserError(
                f"{file}:{line}: {member.key!r} is there a second time; delete one of them"
            )
        keys.add(member.key)


def is_list_of_objects(value: Any) -> bool:
    """Tell whether a value is a list of objects, and not empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def is_list_of_episodes(value: Any) -> bool:
    """Tell whether a value is a list of lists of objects, and not empty."""
    return isinstance(value, list) and bool(value) and all(map(is_list_of_objects, value))
