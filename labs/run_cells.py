"""Run a lab's cells, each whatever became of those before: what grade.py starts for a student.

    python -m labs.run_cells CELLS.json RESULTS.jsonl

CELLS.json: [[kind, name, source], ...]. A line of RESULTS.jsonl says how a check ended:
{"check": name, "passed": true or false, "said": text}. Lines are written as they come, so that a
process that is killed leaves what it had checked.
"""

import contextlib
import json
import linecache
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from labs.checks import Wrong
from labs.notebooks import Cell

MEMORY, FILE = 8 * 2**30, 2**30  # bytes that a lab may hold, and write into one file


def run(cells: list[Cell], namespace: dict) -> Iterator[dict]:
    """Run cells in one namespace, as a notebook does; yield how each check ended."""
    failed = ""  # what stopped the last cell that was no check
    for cell in cells:
        if cell.kind == "text":
            continue
        said = run_cell(cell, namespace)
        if cell.kind == "check":
            # A check that stumbles over a missing name means little: say what was wrong before.
            if said.startswith("NameError") and failed:
                said = failed
            yield {"check": cell.name, "passed": not said, "said": said}
        elif said:
            failed = said


def run_cell(cell: Cell, namespace: dict) -> str:
    """Run one cell; return what went wrong, in a line, or ""."""
    place = f"<{cell.kind} {cell.name}>"
    # So that an error can show its line, as in Jupyter.
    linecache.cache[place] = (len(cell.source), None, cell.source.splitlines(True), place)
    try:
        exec(compile(cell.source, place, "exec"), namespace)
    except Wrong as error:
        return str(error)
    except BaseException as error:  # sys.exit and KeyboardInterrupt of a student too
        try:
            lines = traceback.format_exception_only(type(error), error)
            return " ".join(lines[-1].split())[:300] or type(error).__name__
        except BaseException:  # an error whose own text raises
            return type(error).__name__
    return ""


def limit_resources() -> None:
    """Keep a lab from filling the memory or the disk, where the system can do that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for what, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_FSIZE, FILE)):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(what, (most, most))


def main(cells_file: str, results_file: str) -> None:
    limit_resources()
    cells = [Cell(*cell) for cell in json.loads(Path(cells_file).read_text(encoding="utf-8"))]
    with open(results_file, "a", encoding="utf-8") as out:
        for result in run(cells, {"__name__": "__main__"}):
            out.write(json.dumps(result) + "\n")
            out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
