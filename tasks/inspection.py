"""Look at your data before anything trains on it.

    python data.py FILE --model Qwen/Qwen2-VL-2B-Instruct

Prints what was recognised, three prompts as the model sees them, lengths, picture sizes, and every
problem with its line. Draws a sheet of the first pictures with their questions and golds.
FILE is what --data of the scripts takes. The exit code is 1 if there is a problem, else 0.
"""

import argparse
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

import rewards
import tasks
from plumbing import flags, plots
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.text import cut, short
from tasks import files, folders, hub, images, layouts, sheets
from tasks.example import Example

OF_A_STREAM = 200  # records of a toy task to look at: it has no end
PROMPTS, SHEET = 3, 12  # how many are shown
BATCH = 64  # records whose pictures are decoded side by side
MOST_SHOWN = 20  # lines about files and about problems; more are summed up
LONGEST_PROMPT = 2000  # characters
KINDS = {
    "choices": "with choices",
    "boxes": "with boxes",
    "solution": "with a worked solution",
    "history": "with earlier turns",
    "system": "with a system turn",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line of `python data.py`."""
    p = flags.Parser(__doc__, "data.py")
    g = p.add_argument_group("data")
    g.add_argument("data", metavar="FILE", help="what --data of the scripts takes (docs/data.md)")
    flags.add_asking_flags(g)
    g.add_argument(
        "--max-samples",
        type=flags.int_from_1,
        metavar="N",
        help=f"look at the first N records; default: all, {OF_A_STREAM} of a toy task",
    )
    g = p.add_argument_group("model")
    g.add_argument(
        "--model",
        "--model-name-or-path",
        default="tiny",
        help="whose tokens are counted: `tiny`, a directory, or a hub name such as "
        "Qwen/Qwen2-VL-2B-Instruct, of which no weights are fetched",
    )
    flags.add_seeing_flags(g)
    g = p.add_argument_group("output")
    g.add_argument(
        "--output",
        metavar="PNG",
        help="where the sheet of pictures goes; default: runs/data/NAME.png",
    )
    args = p.parse_args(argv)
    if args.output and (not args.output.endswith(".png") or os.path.isdir(args.output)):
        p.error(f"--output {args.output} must be the name of a file that ends in .png")
    return args


# --- what was found ---


class Problem(NamedTuple):
    """Something wrong with a record or a file."""

    where: str  # "set.jsonl:3"
    sentence: str
    kind: Any  # the same for problems of one kind


class Record(NamedTuple):
    """A record as it was read, or why it could not be."""

    file: str
    layout: str | None  # None: a file that could not be read
    example: Example | None
    problem: Problem | None


@dataclass
class Findings:
    """What a data set holds."""

    records: Counter = field(default_factory=Counter)  # by file
    layouts: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    per_record: Counter = field(default_factory=Counter)  # number of pictures: records
    ids: Counter = field(default_factory=Counter)
    prompts: list[int] = field(default_factory=list)  # tokens
    targets: list[int] = field(default_factory=list)  # tokens
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of pictures, upright
    first: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def problem_of(error: Exception, where: str) -> Problem:
    """Make a problem of an error. Its kind is the line of code that raised it."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return Problem(where, str(error), (trace.tb_frame.f_code.co_filename, trace.tb_lineno))


# --- read ---


def layout_of(record: Any) -> str:
    """Name the layout by which a record is read: plain, conversation, chartqa, ..."""
    if not isinstance(record, dict):
        return "none"
    reader = layouts.reader_of(record)
    if reader.__name__ == "read":  # of a set's own file
        return reader.__module__.removeprefix("tasks.")
    return reader.__name__


class Noted(BadRecords):
    """Notes what is wrong with records that cannot be read, and goes on."""

    def __init__(self) -> None:
        super().__init__(skip=True)
        self.problems: list[Problem] = []

    def add(self, source: str, name: str | None, error: UserError) -> None:
        """Note a problem."""
        super().add(source, name, error)
        self.problems.append(problem_of(error, source))


def records_of(spec: str, level: int, boxes: tuple) -> Iterator[Record]:
    """Read the records of --data `spec` one by one; what cannot be read is a problem.

    boxes: see `tasks.as_asked`. UserError if there is no such data set.
    """
    name, _ = folders.split_name(spec)
    bad = Noted()
    if hub.is_name(name) or folders.is_mixture(spec):
        rows = folders.rows_in(spec, layouts.EXAMPLE_KEYS, False, bad)
        yield from records_in(rows, spec, bad, boxes)
    elif not os.path.exists(name):  # a toy task, or a sentence that says what there is
        stream = tasks.read(spec, 0, level, "fallible", *boxes)
        for index in range(OF_A_STREAM):
            yield Record(spec, "of a toy task", stream[index], None)
    else:
        for file in folders.files_of(spec):
            own = folders.name_in(spec, file)
            rows = files.rows_of(file, layouts.EXAMPLE_KEYS, own, bad)
            yield from records_in(((file, *row) for row in rows), own, bad, boxes)


def records_in(rows: Iterator[tuple], name: str, bad: Noted, boxes: tuple) -> Iterator[Record]:
    """Read the records of a file, from its rows."""
    try:
        for file, place, own_name, row in rows:
            yield from noted(bad, name)
            where = f"{file}:{place}"
            layout = layout_of(row)
            try:
                example = layouts.to_example(row, file, place, False, own_name)
                tasks.as_asked(example, *boxes)
                yield Record(name, layout, example, None)
            except UserError as error:
                yield Record(name, layout, None, problem_of(error, where))
    except UserError as error:  # nothing more of it can be read
        bad.add(name, None, error)
    yield from noted(bad, name)


def noted(bad: Noted, name: str) -> Iterator[Record]:
    """Take what was noted so far."""
    for problem in bad.problems:
        yield Record(name, None, None, problem)
    bad.problems.clear()


# --- look ---


def look_at(records: Iterable[Record], asker: Any) -> Findings:
    """Count, measure and check these records; their pictures are decoded.

    asker: a data.Asker.
    """
    found = Findings()
    records = iter(tqdm(records, desc="looking", unit=" records", leave=False, delay=2))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(records, BATCH)):
            for record, (sizes, problems) in zip(batch, pool.map(look_at_pictures, batch)):
                found.records[record.file] += record.layout is not None
                found.layouts[record.layout] += record.layout is not None
                problems = ([record.problem] if record.problem else []) + problems
                if record.example:
                    found.sizes += sizes
                    note_kinds(found, record.example)
                    problems = problems or look_at_words(found, record.example, asker)
                    if not problems and len(found.first) < SHEET:
                        found.first.append(record.example)
                found.problems += problems
    return found


def look_at_pictures(record: Record) -> tuple[list[tuple[int, int]], list[Problem]]:
    """Decode a record's pictures: (their sizes, what is wrong with them)."""
    sizes, problems = [], []
    for image in record.example.images if record.example else []:
        try:
            sizes.append(images.open_image(image, record.example.source).size)
        except UserError as error:
            problems.append(problem_of(error, record.example.source))
    return sizes, problems


def note_kinds(found: Findings, example: Example) -> None:
    """Count what a record holds."""
    found.ids[example.id] += 1
    found.per_record[len(example.images)] += 1
    found.kinds["answer" if example.answer else "open"] += 1
    for kind in KINDS:
        has = "boxes" in example.meta if kind == "boxes" else getattr(example, kind)
        found.kinds[kind] += bool(has)


def look_at_words(found: Findings, example: Example, asker: Any) -> list[Problem]:
    """Measure a record's prompt and target, and check its gold: what is wrong with them."""
    problems = []
    try:
        found.prompts += asker.check([example], 0)
        if example.answer or example.solution:
            found.targets.append(len(asker.target(example, math.inf)))
    except UserError as error:
        problems.append(problem_of(error, example.source))
    try:
        if example.answer:
            rewards.check_gold(example.answer, example.choices, example.meta)
    except ValueError as error:
        problem = problem_of(error, example.source)
        problems.append(problem._replace(sentence=cut(f"{example.source}: {error}")))
    return problems


# --- tell ---


def report(args: argparse.Namespace, asker: Any) -> bool:
    """Print what --data holds, draw its sheet, and tell whether all is well.

    args: of `parse_args`, with what data.ask_as_trained decided. asker: a data.Asker.
    """
    sheet = Path(args.output or f"runs/data/{file_name(args.data)}.png")
    boxes = (args.box_format, args.min_pixels, args.max_pixels)
    records = records_of(args.data, args.level, boxes)
    found = look_at(islice(records, args.max_samples), asker)
    say_what_is_there(found, args)
    for example in found.first[:PROMPTS]:
        say_prompt(example, asker)
    say_problems(found.problems, sheet)
    draw(found.first, sheet, args.data)
    return not found.problems


def file_name(spec: str) -> str:
    """Name a data set in a file's name: "d/a.jsonl" -> "a", "count:test" -> "count-test"."""
    return re.sub(r"[^\w.-]+", "-", folders.names_of(spec)[0])[:100]


def say_what_is_there(found: Findings, args: argparse.Namespace) -> None:
    """Print counts, sizes and lengths, a line each."""
    total, read = sum(found.records.values()), sum(found.per_record.values())
    say("data", args.data)
    unread = "" if read == total else f", {total - read} of which cannot be read"
    say("records", f"{total} in {count(len(found.records), 'file')}{unread}")
    if len(found.records) > 1:
        for file, number in list(found.records.items())[:MOST_SHOWN]:
            say("", f"{number} in {file}")
        if len(found.records) > MOST_SHOWN:
            say("", f"... and {len(found.records) - MOST_SHOWN} more files")
    for file in left_out(args.data, found.records)[:MOST_SHOWN]:
        say("", f"not read: {file} (of another split, or no data)")
    names = [f"{number} {name}" for name, number in found.layouts.most_common() if number]
    say("layouts", ", ".join(names))
    answers = f"{found.kinds['answer']} with a gold answer"
    if found.kinds["open"]:
        answers += f", {found.kinds['open']} open (no gold: nothing to reward or to evaluate)"
    say("answers", answers)
    others = [f"{found.kinds[kind]} {words}" for kind, words in KINDS.items() if found.kinds[kind]]
    say("", ", ".join(others))
    repeated = read - len(found.ids)
    if repeated:
        say("ids", f"{count(repeated, 'record')} with an earlier one's; the place is added to it")
    say("pictures", pictures_in_words(found.per_record))
    tokens = []
    for size in found.sizes:
        width, height = images.resized_size(size, args.min_pixels, args.max_pixels)
        tokens.append(width * height // images.token_side**2)
    measured = {
        "width": [width for width, _ in found.sizes],
        "height": [height for _, height in found.sizes],
        "tokens of a picture": tokens,
        "tokens of a prompt": found.prompts,
        "tokens of a target": found.targets,
    }
    if found.prompts:
        say("", f"least / median / most, for {args.model} with template {args.prompt_template}")
    for name, values in measured.items():
        if values:
            say(name, f"{min(values)} / {statistics.median_low(values)} / {max(values)}")


def say(name: str, words: str) -> None:
    """Print a line of the table; nothing where there are no words."""
    if words:
        print(f"{name:<20}{printable(words)}")


def printable(text: str) -> str:
    """Replace what would move a terminal's cursor, and half characters."""
    shown = [c if c.isprintable() or c in "\n\t" else "?" for c in text]
    return "".join(shown)


def count(number: int, what: str) -> str:
    """Write "1 file" and "2 files"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def pictures_in_words(per_record: Counter) -> str:
    """Write how many records have how many pictures: "1 each in 7 records, none in 2"."""
    parts = []
    for number, records in sorted(per_record.items(), key=lambda item: (item[0] == 0, item[0])):
        what = f"{number} each" if number else "none (text only)"
        parts.append(f"{what} in {count(records, 'record')}")
    return ", ".join(parts)


def left_out(spec: str, read: Iterable[str]) -> list[str]:
    """List the data files of a folder that are not read."""
    folder = Path(folders.split_name(spec)[0])
    if not folder.is_dir():
        return []
    names = []
    for path in sorted(folder.rglob("*")):
        name = folders.name_in(spec, path)
        hidden = any(part.startswith(".") for part in Path(name).parts)
        if path.suffix in files.READERS and not hidden and name not in read:
            names.append(name)
    return names


def say_prompt(example: Example, asker: Any) -> None:
    """Print a prompt as the model sees it, and what is learned from it."""
    pad = asker.processor.special.image
    text = asker.prompt(example).text
    text = re.sub(f"(?:{re.escape(pad)})+", lambda run: f"{pad} x {len(run[0]) // len(pad)}", text)
    print(f"\n--- prompt of {printable(example.source)} ---")
    print(printable(cut(text, LONGEST_PROMPT)))
    print(f"--- gold: {printable(short(example.answer)) or 'none, it is open'} ---")
    if example.answer or example.solution:
        target = asker.processor.decode(asker.target(example, math.inf))
        print(f"--- target of the supervised stage ---\n{printable(cut(target, LONGEST_PROMPT))}")


def say_problems(problems: Sequence[Problem], sheet: Path) -> None:
    """Print every problem; many by their kinds, and all of them into a file beside the sheet."""
    print(f"\n{count(len(problems), 'problem')}" if problems else "\nno problem was found")
    if len(problems) <= MOST_SHOWN:
        for problem in problems:
            print(f"  {printable(problem.sentence)}")
        return
    kinds = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    for same in sorted(kinds.values(), key=len, reverse=True):
        print(f"  {len(same)} times: {printable(same[0].sentence)}")
        others = ", ".join(problem.where for problem in same[1:MOST_SHOWN])
        more = f", and {len(same) - MOST_SHOWN} more" if len(same) > MOST_SHOWN else ""
        if others:
            print(f"      also {printable(others)}{more}")
    path = sheet.with_suffix(".txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{printable(problem.sentence)}\n" for problem in problems]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"all of them: {path}")


def draw(examples: Sequence[Example], sheet: Path, title: str) -> None:
    """Draw the sheet of the first pictures, with their questions and golds."""
    rows = []
    for example in examples:
        if example.images:
            row = sheets.sheet_row(example, [], [])
            row["images"] = [side_by_side(row["images"])]
            row["answer"] = example.answer or short(example.solution or "none, it is open")
            rows.append(row)
    if not rows:
        print("no sheet: there is no picture to show")
        return
    sheet.unlink(missing_ok=True)  # one of another day would look like today's
    plots.plot_samples(rows, sheet, title)
    if sheet.exists():
        print(f"the first {count(len(rows), 'record')} with pictures: {sheet}")


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures into a row, scaled to the height of the lowest; one stays as it is."""
    if len(pictures) == 1:
        return pictures[0]
    height = min(picture.height for picture in pictures)
    scaled = []
    for picture in pictures:
        width = max(1, round(picture.width * height / picture.height))
        scaled.append(picture.resize((width, height)))
    row = Image.new("RGB", (sum(picture.width for picture in scaled), height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width
    return row
