"""Look at your data before anything trains on it.

    python data.py FILE --model Qwen/Qwen2-VL-2B-Instruct

Prints what was recognised and which scripts can use it, some prompts as the model sees them,
lengths, picture sizes, and every problem with its line. Draws a sheet of the first pictures with
their questions and golds. FILE is what --data of the scripts takes, or --pairs of train_dpo.py.
The exit code is 1 if there is a problem, else 0.
"""

import argparse
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

import rewards
import tasks
from grading import answers
from plumbing import flags, plots
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.text import cut, short
from tasks import folders, hub, images, layouts, pairs, prompts, sheets, splits
from tasks.example import Example, Pair

OF_A_STREAM = 200  # records of a toy task to look at: it has no end
SHEET = 12  # pictures that are shown
LAYOUTS_SHOWN = 3  # the first prompt of so many layouts is shown
SPREAD = 8  # records kept, spread evenly, one of which is in the middle
BATCH = 64  # records whose pictures are decoded side by side
MOST_SHOWN = 20  # lines about files and about problems; more are summed up
LONGEST_PROMPT = 2000  # characters
PAIR = "preference pair"  # its layout
KINDS = {
    "choices": "with choices",
    "boxes": "with boxes",
    "solution": "with a worked solution",
    "history": "with earlier turns",
    "system": "with a system turn",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line of `python data.py`."""
    p = flags.Parser(__doc__, "data.py", "data.md")
    g = p.add_argument_group("data")
    g.add_argument(
        "data",
        metavar="FILE",
        help="what --data of the scripts takes, or --pairs of train_dpo.py (docs/data.md)",
    )
    flags.add_asking_flags(g)
    g.add_common(
        "--max-samples",
        type=flags.int_from_1,
        metavar="N",
        help=f"look at the first N records; default: all, {OF_A_STREAM} of a toy task",
    )
    g = p.add_argument_group("model")
    g.add_common(
        "--model",
        "--model-name-or-path",
        default="tiny",
        help="whose tokens are counted: `tiny`, a directory, or a hub name such as "
        "Qwen/Qwen2-VL-2B-Instruct, of which no weights are fetched",
    )
    flags.add_seeing_flags(g)
    g = p.add_argument_group("output")
    g.add_common(
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
    """Something wrong with a record or a file, or with all of them together."""

    where: str  # "set.jsonl:3"
    sentence: str
    kind: Any  # the same for problems of one kind


class Record(NamedTuple):
    """A record as it was read, or why it could not be."""

    file: str
    layout: str | None  # None: a file that could not be read
    example: Example | None
    problem: Problem | None
    pair: Pair | None = None  # whose example this is

    @property
    def texts(self) -> list[str]:
        """What is learned from a pair; [] of a question, whose target the asker knows."""
        return [self.pair.chosen, self.pair.rejected] if self.pair else []


@dataclass
class Shown:
    """Which records are shown: the first of each layout, one from the middle, and the last."""

    firsts: dict[str, Record] = field(default_factory=dict)
    spread: list[Record] = field(default_factory=list)  # every `apart`-th
    apart: int = 1
    seen: int = 0
    last: Record | None = None

    def note(self, record: Record) -> None:
        """Take a record into account; few are kept, since they may hold pictures."""
        self.firsts.setdefault(record.layout, record)
        self.last = record
        if self.seen % self.apart == 0:
            self.spread.append(record)
        self.seen += 1
        if len(self.spread) > SPREAD:
            self.spread = self.spread[::2]
            self.apart *= 2

    def records(self) -> list[Record]:
        """List them, each once."""
        if not self.seen:
            return []
        chosen = list(self.firsts.values())[:LAYOUTS_SHOWN]
        chosen += [self.spread[len(self.spread) // 2], self.last]
        return list({record.example.source: record for record in chosen}.values())


@dataclass
class Findings:
    """What a data set holds; all but records, layouts and problems is of the good records."""

    records: Counter = field(default_factory=Counter)  # by file
    layouts: Counter = field(default_factory=Counter)
    good: int = 0
    kinds: Counter = field(default_factory=Counter)
    per_record: Counter = field(default_factory=Counter)  # number of pictures: records
    ids: Counter = field(default_factory=Counter)
    prompts: list[int] = field(default_factory=list)  # tokens
    targets: list[int] = field(default_factory=list)  # tokens
    pictures: list[int] = field(default_factory=list)  # tokens
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of pictures, upright
    first: list[Example] = field(default_factory=list)
    shown: Shown = field(default_factory=Shown)
    unasked: list[Example] = field(default_factory=list)  # the template asks for another answer
    left_out: list[str] = field(default_factory=list)  # files of other splits
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
    if pairs.is_pair(record):
        return PAIR
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


def records_of(spec: str, level: int, boxes: tuple, left_out: list[str]) -> Iterator[Record]:
    """Read the records of --data `spec` one by one; what cannot be read is a problem.

    boxes: see `tasks.as_asked`. left_out: takes the names of files of other splits.
    UserError if there is no such data set.
    """
    name, _ = folders.split_name(spec)
    bad = Noted()
    if hub.is_name(name) or folders.is_mixture(name):
        rows = folders.rows_in(spec, layouts.EXAMPLE_KEYS, False, bad)
        yield from records_in(rows, spec, bad, boxes)
    elif not os.path.exists(name):  # a toy task, or a sentence that says what there is
        stream = tasks.read(spec, 0, level, "fallible", *boxes)
        for index in range(OF_A_STREAM):
            yield Record(spec, "of a toy task", stream[index], None)
    else:
        chosen, others = files_of(spec)
        left_out += others
        agreement = splits.Agreement(training=False)
        for file in chosen:
            own = folders.name_in(spec, file)
            rows = folders.rows_of_file(spec, file, layouts.EXAMPLE_KEYS, agreement, bad)
            yield from records_in(rows, own, bad, boxes)


def files_of(spec: str) -> tuple[list[Path], list[str]]:
    """List the files that are read of a path, and the names of those of other splits."""
    name, split = folders.split_name(spec)
    folder = Path(name)
    there = folders.data_files(folder) if folder.is_dir() else []
    if not there:
        return folders.files_of(spec), []
    chosen = folders.files_of_split(folder, there, split, training=False)
    return chosen, [folders.name_in(spec, file) for file in there if file not in chosen]


def records_in(rows: Iterable[tuple], name: str, bad: Noted, boxes: tuple) -> Iterator[Record]:
    """Read the records of a file, from its rows."""
    try:
        for file, place, own_name, row in rows:
            yield from noted(bad, name)
            if pairs.is_set(row):  # of MMPR's meta file
                once = {**row, "repeat_time": 1}
                for pair, *where in pairs.annotated(once, file, place, None, bad):
                    yield record_of(pair, *where, name, boxes)
            else:
                yield record_of(row, file, place, None, own_name, name, boxes)
    except UserError as error:  # nothing more of it can be read
        bad.add(name, None, error)
    yield from noted(bad, name)


def record_of(
    row: Any, file: Path, place: Any, root: Path | None, own_name: str, name: str, boxes: tuple
) -> Record:
    """Read one row of the file called `name`. root: where a pair's pictures are."""
    layout = layout_of(row)
    try:
        if layout == PAIR:
            pair = pairs.to_pair(row, file, place, root, own_name)
            return Record(name, layout, pair.example, None, pair)
        example = layouts.to_example(row, file, place, False, own_name)
        tasks.as_asked(example, *boxes)
        return Record(name, layout, example, None)
    except UserError as error:
        return Record(name, layout, None, problem_of(error, f"{file}:{place}"))


def noted(bad: Noted, name: str) -> Iterator[Record]:
    """Take what was noted so far."""
    for problem in bad.problems:
        yield Record(name, None, None, problem)
    bad.problems.clear()


# --- look ---


def look_at(found: Findings, records: Iterable[Record], asker: Any) -> None:
    """Count, measure and check these records; their pictures are decoded.

    asker: a data.Asker.
    """
    records = iter(tqdm(records, desc="looking", unit=" records", leave=False, delay=2))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(records, BATCH)):
            for record, (sizes, problems) in zip(batch, pool.map(look_at_pictures, batch)):
                if record.problem:
                    problems = [record.problem]
                problems = problems or look_at_words(found, record, asker)
                is_file = record.layout is None and record.problem.where == record.file
                found.records[record.file] += not is_file
                if record.layout:
                    found.layouts[record.layout] += 1
                if not problems:
                    found.sizes += sizes
                    note(found, record, asker)
                found.problems += problems
    if found.kinds["pair"] and found.kinds["question"]:
        found.problems.append(mixed(found.kinds))


def look_at_pictures(record: Record) -> tuple[list[tuple[int, int]], list[Problem]]:
    """Decode a record's pictures: (their sizes, what is wrong with them)."""
    sizes, problems = [], []
    for image in record.example.images if record.example else []:
        try:
            sizes.append(images.open_image(image, record.example.source).size)
        except UserError as error:
            problems.append(problem_of(error, record.example.source))
    return sizes, problems


def note(found: Findings, record: Record, asker: Any) -> None:
    """Count what a good record holds."""
    example = record.example
    found.good += 1
    found.shown.note(record)
    if len(found.first) < SHEET:
        found.first.append(example)
    found.ids[example.id] += 1
    found.per_record[len(example.images)] += 1
    found.pictures += [asker.tokens_of(*size) for size in images.sizes_of(example)]
    found.kinds["pair" if record.pair else "question"] += 1
    if not record.pair:
        found.kinds["answer" if example.answer else "open"] += 1
    for kind in KINDS:
        has = "boxes" in example.meta if kind == "boxes" else getattr(example, kind)
        found.kinds[kind] += bool(has)
    if example.answer and not is_asked_for(example, asker.template):
        found.unasked.append(example)


def is_asked_for(example: Example, template: str) -> bool:
    """Tell whether a template asks for the kind of answer that an example has."""
    words = prompts.question_text(example, template).removeprefix(example.question)
    if "(number)" in words:
        return answers.quantity(example.answer) is not None
    return "(option)" not in words or bool(example.choices) or len(example.answer) == 1


def mixed(kinds: Counter) -> Problem:
    """Say that questions and pairs are together, which no script reads."""
    sentence = (
        f"{count(kinds['pair'], 'preference pair')} beside {count(kinds['question'], 'question')}: "
        "no script reads both; put them into two files"
    )
    return Problem("", sentence, "mixed")


def look_at_words(found: Findings, record: Record, asker: Any) -> list[Problem]:
    """Measure a record's prompt and targets, and check its gold: what is wrong with them."""
    example, problems = record.example, []
    learned = [replace(example, solution=text) for text in record.texts] or [example]
    try:
        prompt = asker.check([example], 0)
        targets = [len(asker.target(each, math.inf)) for each in learned]
        found.prompts += prompt
        found.targets += targets
    except UserError as error:
        problems.append(problem_of(error, example.source))
    try:
        if example.answer and not record.pair:
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
    boxes = (args.box_format, args.min_pixels, args.max_pixels, asker.processor.token_side)
    found = Findings()
    records = records_of(args.data, args.level, boxes, found.left_out)
    look_at(found, islice(records, args.max_samples), asker)
    say_what_is_there(found, args)
    for record in found.shown.records():
        say_prompt(record, asker)
    say_problems(found.problems, sheet)
    say_unasked(found, args.prompt_template)
    draw(found.first, sheet, args.data)
    return not found.problems


def file_name(spec: str) -> str:
    """Name a data set in a file's name: "d/a.jsonl" -> "a", "count:test" -> "count-test"."""
    return re.sub(r"[^\w.-]+", "-", folders.names_of(spec)[0])[:100]


def say_what_is_there(found: Findings, args: argparse.Namespace) -> None:
    """Print counts, sizes and lengths, a line each."""
    total = sum(found.records.values())
    say("data", args.data)
    shares = f": {found.good} good, {total - found.good} with a problem"
    shares = shares if found.good < total else ""
    say("records", f"{total} in {count(len(found.records), 'file')}{shares}")
    if len(found.records) > 1:
        for file, number in list(found.records.items())[:MOST_SHOWN]:
            say("", f"{number} in {file}")
        if len(found.records) > MOST_SHOWN:
            say("", f"... and {len(found.records) - MOST_SHOWN} more files")
    for file in found.left_out[:MOST_SHOWN]:
        say("", f"not read: {file} (of another split)")
    names = [f"{number} {name}" for name, number in found.layouts.most_common()]
    say("layouts", ", ".join(names))
    say_answers(found.kinds)
    others = [f"{found.kinds[kind]} {words}" for kind, words in KINDS.items() if found.kinds[kind]]
    say("", ", ".join(others))
    say_what_for(found.kinds)
    repeated = found.good - len(found.ids)
    if repeated:
        say("ids", f"{count(repeated, 'record')} with an earlier one's; the place is added to it")
    say("pictures", pictures_in_words(found.per_record))
    measured = {
        "width": [width for width, _ in found.sizes],
        "height": [height for _, height in found.sizes],
        "tokens of a picture": found.pictures,
        "tokens of a prompt": found.prompts,
        "tokens of a target": found.targets,
    }
    if found.prompts:
        template = f" with template {args.prompt_template}" if found.kinds["question"] else ""
        say("", f"least / median / most, for {args.model}{template}")
    for name, values in measured.items():
        if values:
            say(name, f"{min(values)} / {statistics.median_low(values)} / {max(values)}")


def say_answers(kinds: Counter) -> None:
    """Print which answers there are."""
    if kinds["question"]:
        golds = f"{kinds['answer']} with a gold answer"
        if kinds["open"]:
            golds += f", {kinds['open']} open (no gold: nothing to reward or to evaluate)"
        say("answers", golds)


def say_what_for(kinds: Counter) -> None:
    """Print which scripts can use the records."""
    uses = {
        "train_sft.py": kinds["question"],
        "train_grpo.py, selftrain.py and evaluate.py": kinds["answer"],
        "train_dpo.py --pairs": kinds["pair"],
    }
    name = "good for"
    for scripts, number in uses.items():
        if number:
            say(name, f"{scripts} ({count(number, 'record')})")
            name = ""


def say_unasked(found: Findings, template: str) -> None:
    """Warn of golds that are of another kind than the template asks for."""
    if not found.unasked:
        return
    first = found.unasked[0]
    kind = "option" if "(option)" in prompts.template_of(template) else "number"
    print(
        f'note: template {template} asks for "({kind})", but {len(found.unasked)} of '
        f"{found.kinds['answer']} gold answers are no {kind}, such as "
        f"{for_terminal(short(first.answer, 40))!r} of {for_terminal(first.source)}; "
        "--prompt-template think asks for any answer, option for the letter of a choice"
    )


def say(name: str, words: str) -> None:
    """Print a line of the table; nothing where there are no words."""
    if words:
        print(f"{name:<20}{for_terminal(words)}")


def for_terminal(text: str) -> str:
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


def say_prompt(record: Record, asker: Any) -> None:
    """Print a prompt as the model sees it, and what is learned from it."""
    example = record.example
    pad = asker.processor.special.image
    text = asker.prompt(example).text
    text = re.sub(f"(?:{re.escape(pad)})+", lambda run: f"{pad} x {len(run[0]) // len(pad)}", text)
    print(f"\n--- prompt of {for_terminal(example.source)} ---")
    print(for_terminal(cut(text, LONGEST_PROMPT)))
    if record.pair:
        learned = {"chosen": record.pair.chosen, "rejected": record.pair.rejected}
    else:
        print(f"--- gold: {for_terminal(short(example.answer)) or 'none, it is open'} ---")
        target = asker.processor.decode(asker.target(example, math.inf))
        learned = {"target of the supervised stage": target}
    for name, text in learned.items():
        print(f"--- {name} ---\n{for_terminal(cut(text, LONGEST_PROMPT))}")


def say_problems(problems: Sequence[Problem], sheet: Path) -> None:
    """Print every problem; many by their kinds, and all of them into a file beside the sheet."""
    print(f"\n{count(len(problems), 'problem')}" if problems else "\nno problem was found")
    if len(problems) <= MOST_SHOWN:
        for problem in problems:
            print(f"  {for_terminal(problem.sentence)}")
        return
    kinds = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    for same in sorted(kinds.values(), key=len, reverse=True):
        print(f"  {len(same)} times: {for_terminal(same[0].sentence)}")
        others = ", ".join(problem.where for problem in same[1:MOST_SHOWN])
        more = f", and {len(same) - MOST_SHOWN} more" if len(same) > MOST_SHOWN else ""
        if others:
            print(f"      also {for_terminal(others)}{more}")
    path = sheet.with_suffix(".txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{for_terminal(problem.sentence)}\n" for problem in problems]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"all of them: {path}")


def draw(examples: Sequence[Example], sheet: Path, title: str) -> None:
    """Draw the sheet of the first pictures, with their questions and golds."""
    rows = []
    for example in examples:
        if example.images:
            row = sheets.sheet_row(example, [], [])
            row["answer"] = example.answer or short(example.solution or "none, it is open")
            rows.append(row)
    if not rows:
        print("no sheet: there is no picture to show")
        return
    sheet.unlink(missing_ok=True)  # one of another day would look like today's
    plots.plot_samples(rows, sheet, title)
    if sheet.exists():
        print(f"the first {count(len(rows), 'record')} with pictures: {sheet}")
