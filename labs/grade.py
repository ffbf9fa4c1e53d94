"""Grade a folder of labs: run the checks on what each student filled in, and print a table.

    python -m labs.grade handed_in/

Each student has a folder there, handed_in/ada/01_advantage.ipynb, or a file whose name begins with
theirs, handed_in/ada_01_advantage.ipynb. The .py texts do as well. Of two files for one lab, the
better one counts.

Only the cells that begin with `# YOUR CODE` are taken from a student. They are put into our own
copy of the lab, which runs in a process of its own with a time limit. Training runs are shortened
(--full: not); no check depends on that. The process has your rights: grade what strangers wrote on
a machine, or as a user, with nothing to lose. Writes grades.csv: passed checks, and what the first
failed one said.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()

import argparse
import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from labs import notebooks
from plumbing import disk, flags, running
from plumbing.errors import UserError
from plumbing.text import short

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 20_000_000  # of a notebook, with its pictures
ENDINGS = (".ipynb", ".py")


class Grade(NamedTuple):
    """What one file is worth. note: "", or what the first failed check said."""

    student: str
    lab: str
    passed: int
    checks: int
    seconds: float
    note: str
    file: str


# --- what was handed in ---


def handed_in(folder: Path, labs: list[str]) -> Iterator[tuple[str, str, Path]]:
    """Find (student, lab, file) of every lab in a folder, in order."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        is_hidden = any(part.startswith((".", "__MACOSX")) for part in inside.parts)
        if is_hidden or path.suffix not in ENDINGS or not path.is_file():
            continue
        for lab in labs:
            before, found, _ = path.stem.partition(lab)
            if found:
                in_name = before.strip("_- ") or "(no name)"
                student = inside.parts[0] if len(inside.parts) > 1 else in_name
                yield plain(student), lab, path


def plain(text: str) -> str:
    """Put a text on one line, with ? for what no terminal and no UTF-8 file takes."""
    return "".join(c if c.isprintable() else "?" for c in short(text, 300))


def read_blanks(path: Path, lab: list[notebooks.Cell]) -> dict[str, str]:
    """Read what a student filled in. UserError if that is nothing."""
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"the file has more than {MOST_BYTES // 1_000_000} MB")
    found = notebooks.blanks(notebooks.read(path))
    if not found:
        raise UserError("no cell begins with # YOUR CODE: the first lines of the blanks are gone")
    empty = notebooks.blanks(lab)
    changed = {name for name in found if found[name] != empty.get(name)}
    if not changed:
        raise UserError("nothing is filled in")
    return found


# --- run it ---


def run_apart(cells: list[notebooks.Cell], limit: float, full: bool) -> tuple[list[dict], str]:
    """Run cells in a process of its own: (how the checks ended, why it ended early or "")."""
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as folder:
        # The student's folder lies in one of ours: a notebook puts what is above it on sys.path.
        given, results, home = (Path(folder, n) for n in ("cells.json", "results.jsonl", "labs"))
        home.mkdir()
        given.write_text(json.dumps([[c.kind, c.name, c.source] for c in cells]))
        results.touch()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
        environment["LABS_QUICK"] = "" if full else "1"
        process = subprocess.Popen(
            [sys.executable, "-m", "labs.run_cells", str(given), str(results)],
            cwd=home,
            env=environment,
            # Files would fill the disk, and a pipe stays open as long as any child of a child.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def stop() -> None:
            end_group(process)  # at Ctrl-C, which does not reach it

        stopping.last_words.append(stop)
        why = ""
        try:
            code = process.wait(limit)
            if code:
                why = f"the process ended early, with exit code {code}"
        except subprocess.TimeoutExpired:
            why = f"it took more than {limit:g} s"
        finally:
            end_group(process)
            stopping.last_words.remove(stop)
        return read_results(results), why


def end_group(process: subprocess.Popen) -> None:
    """Kill a process and the children that it left behind."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # all of them have ended
    process.kill()
    process.wait()


def read_results(path: Path) -> list[dict]:
    """Read the lines that run_cells.py wrote; what a student broke is skipped."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(line)
            result = {"check": str(line["check"]), "passed": line["passed"] is True}
            found.append(result | {"said": str(line["said"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return found


def grade_file(
    student: str, lab: str, path: Path, cells: list[notebooks.Cell], limit: float, full: bool
) -> Grade:
    """Grade one file: whatever it holds, a Grade comes back."""
    checks = notebooks.names(cells, "check")
    started = time.monotonic()
    try:
        merged = notebooks.filled_in(cells, read_blanks(path, cells))
    except (UserError, OSError) as error:
        return Grade(student, lab, 0, len(checks), 0.0, plain(str(error)), plain(str(path)))
    results, why = run_apart(merged, limit, full)
    # The first line of a check counts: a student cannot add a second one behind it.
    ended = {result["check"]: result for result in reversed(results)}
    passed = [name for name in checks if name in ended and ended[name]["passed"]]
    failed = [name for name in checks if name in ended and name not in passed]
    if len(ended) < len(checks) and not why:
        why = "the process ended early"
    notes = [why] if why else []
    notes += [f"{name}: {ended[name]['said']}" for name in failed[:1]]
    note = plain(" | ".join(notes))
    seconds = time.monotonic() - started
    return Grade(student, lab, len(passed), len(checks), seconds, note, plain(str(path)))


# --- say it ---


def better(new: Grade, old: Grade | None) -> Grade:
    """Choose of two files for one lab."""
    return new if old is None or new.passed > old.passed else old


def table(grades: dict[tuple[str, str], Grade], labs: list[str]) -> list[str]:
    """Write a row for each student and a column for each lab: passed/checks."""
    rows = [["student", *labs]]
    for student in sorted({student for student, _ in grades}):
        row = [student[:40]]
        for lab in labs:
            grade = grades.get((student, lab))
            row.append(f"{grade.passed}/{grade.checks}" if grade else "-")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]


def write_csv(path: Path, grades: list[Grade]) -> None:
    """Write a line for each student and lab, whole or not at all: it holds hours of grading."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(Grade._fields)
    for grade in grades:
        writer.writerow([*grade[:4], f"{grade.seconds:.1f}", *grade[5:]])
    disk.write_whole(path, file.getvalue())


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "python -m labs.grade", "labs.md")
    p.add_argument("folder", metavar="DIR", help="what the students handed in")
    p.add_argument("--limit", type=flags.above_0, default=300.0, help="seconds for one lab")
    p.add_argument("--full", action="store_true", help="do not shorten the training runs")
    p.add_argument("--csv", metavar="FILE", help="default: grades.csv in DIR")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    folder = Path(args.folder)
    texts = notebooks.labs()
    if not folder.is_dir():
        raise UserError(f"{folder} is no directory; name the one with what was handed in")
    found = list(handed_in(folder, list(texts)))
    if not found:
        raise UserError(
            f"{folder} has no file named after a lab; {next(iter(texts))}.ipynb in a folder for "
            "each student is what is looked for"
        )
    cells = {lab: notebooks.read(path) for lab, path in texts.items()}
    out = Path(args.csv) if args.csv else folder / "grades.csv"
    if os.path.isdir(out):
        raise UserError(f"{out}, where the grades go, is a directory; name a file as --csv")
    disk.make_writable(out.parent, "--csv")
    grades = {}

    def kept() -> str:
        return f"{out} has the grades so far" if grades else ""

    stopping.last_words.append(kept)
    for student, lab, path in found:
        grade = grade_file(student, lab, path, cells[lab], args.limit, args.full)
        grades[student, lab] = better(grade, grades.get((student, lab)))
        score = f"{grade.passed} of {grade.checks} checks in {grade.seconds:.0f} s"
        write_csv(out, list(grades.values()))  # each time: it may be stopped
        print(f"{student[:40]}  {lab}: {score}", flush=True)
    stopping.last_words.remove(kept)
    graded = [lab for lab in texts if any(lab == other for _, other in grades)]
    print("", *table(grades, graded), sep="\n")
    print(f"\n{out} says what the first failed check of each file said")


if __name__ == "__main__":
    running.run(main, parse_args)
