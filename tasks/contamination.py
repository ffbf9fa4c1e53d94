"""Find what a training set and a benchmark have in common: pictures, and questions about them.

    python -m tasks.contamination train.jsonl benchmark.jsonl
    python -m tasks.contamination train.jsonl benchmark.jsonl --exclude clean.jsonl

TRAIN and EVAL are what `python data.py FILE` takes. Three rates of EVAL's questions, the first two
as Idefics3 reports them (arXiv:2408.12637, section 4.4):
    picture           its picture is in TRAIN: encoded again, resized, recoloured a little or
                      cropped by 2 %, but not one that only looks alike (tasks/likeness.py)
    picture_question  that, and a near-identical question about it (tasks/wording.py)
    question          its question is in TRAIN, whatever the picture
result.json has them; pairs.jsonl has the pairs, pairs.png the most doubtful ones.
"""

import argparse
import functools
import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

import tasks
from grading import metrics
from plumbing import disk, flags, plots, running
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.text import short
from tasks import (
    files,
    folders,
    hub,
    images,
    kept,
    layouts,
    likeness,
    pairs,
    picture_keys,
    toy,
    wording,
)
from tasks.example import Example
from tasks.stored import Store

OF_A_STREAM = 1024  # records of a toy task: it has no end
BATCH = 64  # records whose pictures are decoded side by side
SHEET = 12  # pairs that are shown
SIDE, GAP = 224, 8  # pixels of the height of a picture there, and between two
ALIKE = 20  # records about one picture that are told of a question: those most alike
OPENED = 512  # pictures kept open while pairs are compared


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    p = flags.Parser(__doc__, "python -m tasks.contamination", "traps.md")
    g = p.add_argument_group("data")
    g.add_argument("train", metavar="TRAIN", help="what is trained on")
    g.add_argument("eval", metavar="EVAL", help="what is evaluated on")
    g.add_argument(
        "--max-samples",
        type=flags.int_from_1,
        metavar="N",
        help=f"look at the first N records of each; default: all, {OF_A_STREAM} of a toy task",
    )
    g.add_argument(
        "--level", type=int, choices=[1, 2, 3], default=3, help="difficulty of toy tasks"
    )
    flags.add_max_image_pixels(g)
    flags.add_skip_bad_records(g)
    g = p.add_argument_group("output")
    g.add_argument(
        "--exclude",
        metavar="FILE",
        help="write TRAIN's records here (JSONL) without those that hold a picture of EVAL, or are "
        "text only and ask its question",
    )
    g.add_argument(
        "--output-dir", default="runs/contamination", help="where figures, pairs and the sheet go"
    )
    args = p.parse_args(argv)
    if args.exclude and (is_toy(args.train) or not args.exclude.endswith(".jsonl")):
        why = "TRAIN is drawn anew each time" if is_toy(args.train) else "FILE must end in .jsonl"
        p.error(f"--exclude {args.exclude}: {why}")
    if args.exclude and args.max_samples:
        p.error("--exclude needs all of TRAIN: omit --max-samples")
    return args


def is_toy(spec: str) -> bool:
    """Say whether a toy task is named, whose pictures are drawn."""
    name, _ = folders.split_name(spec)
    return name in toy.TASKS and not os.path.exists(name)


# --- what is in a set ---


class Entry(NamedTuple):
    """A record. pictures: places among those of its set."""

    id: str
    source: str
    question: str
    answer: str
    words: tuple[str, ...]
    pictures: list[int]


@dataclass
class Contents:
    """A set: its records, and its pictures, each once. keys: {key: place} of these."""

    entries: list[Entry] = field(default_factory=list)
    pictures: list[images.Picture] = field(default_factory=list)
    prints: list[likeness.Print] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    asked_about: dict[int, list[int]] = field(default_factory=dict)  # {picture: entries}

    def add(self, example: Example, prints: Iterable[tuple[str, likeness.Print]]) -> None:
        """Take a record into account. prints: (key, print) of each of its pictures."""
        places = []
        for image, (key, made) in zip(example.images, prints):
            if key not in self.keys:
                self.keys[key] = len(self.pictures)
                self.pictures.append(image)
                self.prints.append(made)
            places.append(self.keys[key])
        for place in places:
            self.asked_about.setdefault(place, []).append(len(self.entries))
        words = wording.words_of(example.question)
        about = example.id, example.source, example.question, example.answer
        self.entries.append(Entry(*about, words, places))


def rows_of(spec: str, bad: BadRecords) -> Iterator[tuple]:
    """Yield (record, file, place, root, name) of all records of a set that is no toy task.

    root: where the pictures of a pair are, of MMPR's meta file.
    """
    for file, place, name, record in folders.rows_in(spec, layouts.EXAMPLE_KEYS, False, bad):
        if pairs.is_set(record):
            yield from pairs.annotated({**record, "repeat_time": 1}, file, place, None, bad)
        else:
            yield record, file, place, None, name


def to_example(record: Any, file: Path, place: Any, root: Path | None, name: str) -> Example:
    """Make an Example of a record; of a preference pair, its question."""
    if isinstance(record, dict) and pairs.is_pair(record):
        return pairs.to_pair(record, file, place, root, name).example
    return layouts.to_example(record, file, place, False, name)


def examples_of(spec: str, level: int, most: int | None, bad: BadRecords) -> Iterator[Example]:
    """Read a set's records one by one. UserError if there is none, or one that is bad."""
    tasks.must_exist(spec)
    name, _ = folders.split_name(spec)
    if not os.path.exists(name) and not hub.is_name(name):
        stream = tasks.read(spec, level=level)
        for index in range(most or OF_A_STREAM):
            example = stream[index]
            example.source = example.id
            yield example
        return
    store = Store()
    for row in islice(rows_of(spec, bad), most):
        _, file, place, _, own_name = row
        with bad.checking(f"{file}:{place}", own_name):
            example = to_example(*row)
            images.keep_embedded(example, store)
            yield example


def printed(example: Example) -> list[tuple[str, likeness.Print]] | UserError:
    """Make (key, print) of each of an example's pictures; the error of one that is bad."""
    try:
        opened = [kept.small_picture(image, example.source) for image in example.images]
        return list(zip(picture_keys.keys_of(example), map(likeness.of, opened)))
    except UserError as error:
        return error


def contents_of(spec: str, level: int, most: int | None, bad: BadRecords) -> Contents:
    """Look at all records of a set and their pictures."""
    found = Contents()
    records = examples_of(spec, level, most, bad)
    records = iter(tqdm(records, desc=f"look at {short(spec, 30)}", unit=" records", leave=False))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(records, BATCH)):
            for example, prints in zip(batch, pool.map(printed, batch)):
                with bad.checking(example.source, example.id):
                    if isinstance(prints, UserError):
                        raise prints
                    found.add(example, prints)
    bad.must_leave(found.entries)
    return found


# --- what two sets have in common ---


class Match(NamedTuple):
    """A picture of both: its places, and how much the two differ, at most 1 (tasks/likeness.py)."""

    eval: int
    train: int
    difference: float


def matches(train: Contents, evaluated: Contents) -> list[Match]:
    """Find the pictures that two sets share. Those of equal files need no look."""
    candidates = list(likeness.candidates(evaluated.prints, train.prints))
    equal = {(place, train.keys.get(key)) for key, place in evaluated.keys.items()}

    @functools.lru_cache(OPENED)
    def opened(is_train: bool, place: int) -> Image.Image:
        image = (train if is_train else evaluated).pictures[place]
        where = "a picture of TRAIN" if is_train else "a picture of EVAL"
        return kept.small_picture(image, where, exact=True)

    def compared(pair: tuple[int, int]) -> Match:
        if pair in equal:
            return Match(*pair, 0.0)
        return Match(*pair, likeness.difference(opened(False, pair[0]), opened(True, pair[1])))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked = pool.map(compared, candidates)
        looked = tqdm(looked, total=len(candidates), desc="compare pictures", leave=False)
        return [match for match in looked if match.difference <= 1]


class Shared(NamedTuple):
    """A question of EVAL and a record of TRAIN about the same picture; see `Match`.

    overlap: of their questions, from 0 to 1 (tasks/wording.py).
    """

    eval: int
    train: int
    match: Match
    overlap: float


def shared_records(
    train: Contents, evaluated: Contents, found: Sequence[Match]
) -> Iterator[Shared]:
    """Pair the records about each picture that two sets share.

    Of a question those of TRAIN that are most alike: one picture may be in all records of both.
    """
    for match in found:
        others = train.asked_about[match.train]
        for place in evaluated.asked_about[match.eval]:
            words = evaluated.entries[place].words
            overlaps = [(wording.overlap(words, train.entries[n].words), n) for n in others]
            for overlap, other in heapq.nlargest(ALIKE, overlaps, key=lambda pair: pair[0]):
                yield Shared(place, other, match, overlap)


def with_pictures(train: Contents, found: Sequence[Match]) -> set[int]:
    """List the records of TRAIN that hold a picture of EVAL."""
    return {place for match in found for place in train.asked_about[match.train]}


def rates(
    train: Contents, evaluated: Contents, found: Sequence[Match], shared: Sequence[Shared]
) -> dict:
    """Compute the three rates of EVAL's questions, with 95 % intervals (Wilson)."""
    asked = wording.Asked(entry.words for entry in train.entries)
    n = len(evaluated.entries)
    both = {pair.eval for pair in shared if pair.overlap >= wording.NEAR}
    return {
        **metrics.share("picture", len({pair.eval for pair in shared}), n),
        **metrics.share("picture_question", len(both), n),
        **metrics.share("question", sum(e.words in asked for e in evaluated.entries), n),
        "train_n": len(train.entries),
        "train_pictures": len(train.pictures),
        "eval_pictures": len(evaluated.pictures),
        "train_with_picture": len(with_pictures(train, found)),
    }


# --- a training set without them ---


def excluded(train: Contents, evaluated: Contents, found: Sequence[Match]) -> set[str]:
    """Name the records of TRAIN, by their source, that hold a picture of EVAL.

    And those that are text only and ask a question of EVAL that is text only, too.
    """
    asked = wording.Asked(e.words for e in evaluated.entries if not e.pictures)
    of_text = {e.source for e in train.entries if not e.pictures and e.words in asked}
    return of_text | {train.entries[place].source for place in with_pictures(train, found)}


def write_clean(spec: str, path: Path, without: set[str], bad: BadRecords) -> int:
    """Write the other records of a set as JSON Lines; returns how many.

    A record stays as it is; embedded pictures become data URLs. UserError if FILE would stand where
    a record's pictures are not found, or replace a file of TRAIN.
    """
    left_out = without | {source for source, _ in bad.found}
    lines = []
    for record, file, place, root, _ in rows_of(spec, bad):
        if root is not None:
            raise UserError(
                f"--exclude: {spec} is a meta file of several sets; name one annotation file of "
                "them as TRAIN"
            )
        if file.resolve() == path.resolve():
            raise UserError(f"--exclude {path} is TRAIN itself; name another file")
        source = f"{file}:{place}"
        if source in left_out:
            continue
        written = files.every_part(record, in_json)
        if file.parent.resolve() != path.parent.resolve():
            must_be_found(written, path, source)
        lines.append(written)
    disk.write_lines(path, lines)
    return len(lines)


def in_json(value: Any) -> Any:
    """Make a part of a record one that JSON can hold."""
    if isinstance(value, bytes):
        return images.data_url(value, "png")  # readers go by the bytes, not by the kind
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)  # a date, a decimal


def must_be_found(record: dict, path: Path, source: str) -> None:
    """Refuse to write a record whose pictures would not be found from there. UserError."""
    try:
        to_example(record, path, source, None, source)
    except UserError as error:
        raise UserError(
            f"--exclude {path}: the picture of {source} is not found from there; write the file "
            f"beside TRAIN's ({short(error, 150)})"
        ) from None


# --- what is written and shown ---


def record_of(train: Contents, evaluated: Contents, pair: Shared) -> dict:
    """Write a pair for pairs.jsonl."""
    sides = {"eval": evaluated.entries[pair.eval], "train": train.entries[pair.train]}
    names = ("id", "source", "question", "answer")
    told = {side: {name: getattr(entry, name) for name in names} for side, entry in sides.items()}
    return {"difference": pair.match.difference, "overlap": pair.overlap} | told


def pictures_of(train: Contents, evaluated: Contents, match: Match) -> list[Image.Image]:
    """Open both pictures of a match, that of EVAL first."""
    both = evaluated.pictures[match.eval], train.pictures[match.train]
    return [kept.small_picture(image, "a picture that was opened before") for image in both]


def side_by_side(one: Image.Image, other: Image.Image) -> Image.Image:
    """Lay two pictures side by side, at one height."""
    widths = [min(4 * SIDE, max(1, p.width * SIDE // p.height)) for p in (one, other)]
    sized = [p.resize((width, SIDE)) for p, width in zip((one, other), widths)]
    whole = Image.new("RGB", (widths[0] + GAP + widths[1], SIDE), "white")
    whole.paste(sized[0], (0, 0))
    whole.paste(sized[1], (widths[0] + GAP, 0))
    return whole


def draw(train: Contents, evaluated: Contents, shared: Sequence[Shared], png: Path) -> None:
    """Draw the pictures that are least alike, each once, with the questions most alike."""
    best: dict[tuple[int, int], Shared] = {}
    for pair in sorted(shared, key=lambda pair: -pair.overlap):
        best.setdefault(pair.match[:2], pair)
    doubtful = sorted(best.values(), key=lambda pair: -pair.match.difference)
    rows = []
    for pair in doubtful[:SHEET]:
        one, other = evaluated.entries[pair.eval], train.entries[pair.train]
        scores = {"difference": pair.match.difference, "overlap": pair.overlap}
        rounded = {name: round(value, 2) for name, value in scores.items()}
        rows.append(
            {
                "images": [side_by_side(*pictures_of(train, evaluated, pair.match))],
                "question": f"EVAL {one.source}: {one.question}",
                "answer": one.answer,
                "completions": [(f"TRAIN {other.source}: {other.question}", rounded)],
            }
        )
    png.unlink(missing_ok=True)  # one of another day would look like today's
    if rows:
        plots.plot_samples(rows, png, "left EVAL, right TRAIN: the least alike first")


def show(result: dict, args: argparse.Namespace, out: Path) -> None:
    """Print the rates."""
    print(
        f"TRAIN {args.train}: {result['train_n']} records, {result['train_pictures']} pictures; "
        f"EVAL {args.eval}: {result['n']} records, {result['eval_pictures']} pictures"
    )
    for name, what in (
        ("picture", "of EVAL's questions have a picture that is in TRAIN"),
        ("picture_question", "have that picture and a near-identical question in TRAIN"),
        ("question", "have a question that is in TRAIN, whatever its picture"),
    ):
        low, high = result[f"{name}_low"], result[f"{name}_high"]
        print(f"  {result[name]:7.2%}  ({low:.2%} to {high:.2%})  {what}")
    print(f"  {result['train_with_picture']} records of TRAIN hold a picture of EVAL")
    if result["train_with_picture"]:
        print(f"{out}/pairs.jsonl has the pairs, {out}/pairs.png the most doubtful ones")


def main(args: argparse.Namespace) -> None:
    out = Path(args.output_dir)
    images.limit_image_pixels(args.max_image_pixels)
    bad = BadRecords(args.skip_bad_records)
    sets = [contents_of(s, args.level, args.max_samples, bad) for s in (args.train, args.eval)]
    found = matches(*sets)
    shared = list(shared_records(*sets, found))
    result = {"train": args.train, "eval": args.eval} | rates(*sets, found, shared)
    disk.make_writable(out)
    bad.report(out)
    if args.exclude:
        without = excluded(*sets, found)
        result["kept"] = write_clean(args.train, Path(args.exclude), without, bad)
    disk.write_json(out / "result.json", result)
    disk.write_lines(out / "pairs.jsonl", [record_of(*sets, pair) for pair in shared])
    draw(*sets, shared, out / "pairs.png")
    show(result, args, out)
    if args.exclude:
        print(f"{args.exclude} has {result['kept']} of TRAIN's {result['train_n']} records")


if __name__ == "__main__":
    running.run(main, parse_args)
