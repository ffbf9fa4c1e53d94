"""The labs as text: their cells, what a student fills in, and how both are put together again.

A cell that begins with `# YOUR CODE (name)` is a blank: only these are taken from a student.
One that begins with `# CHECK (name)` is a check. A name is a blank's or a check's, once in a lab.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from plumbing.errors import UserError

FOLDER = Path(__file__).resolve().parent
MARK = re.compile(r"\s*# (YOUR CODE|CHECK) \((\w+)\)")
KINDS = {"YOUR CODE": "blank", "CHECK": "check"}


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook. kind: "text", "code", "blank" or "check"; the last two have a name."""

    kind: str
    name: str
    source: str


def labs() -> dict[str, Path]:
    """Find the labs: {name: its text}, in order."""
    return {path.stem: path for path in sorted(FOLDER.glob("[0-9]*.py"))}


def read(path: Path) -> list[Cell]:
    """Read the cells of a lab, as text (py:percent) or .ipynb. UserError if it is neither."""
    try:
        import jupytext  # here: run_cells.py does without
    except ImportError:
        raise UserError(
            "labs are read with jupytext, which is missing; `make labs` installs it"
        ) from None
    try:
        if path.suffix == ".ipynb":
            notebook = jupytext.read(path, fmt="ipynb")
        else:
            notebook = jupytext.read(path, fmt="py:percent")
        return [cell_of(cell.cell_type, cell.source) for cell in notebook.cells]
    except Exception as error:  # json's, nbformat's and jupytext's own, and any of a broken file
        raise UserError(
            f"{path} is no notebook ({type(error).__name__}); hand in the .ipynb that Jupyter saved"
        ) from None


def cell_of(cell_type: str, source: str) -> Cell:
    """Tell by its first line what a cell is."""
    if cell_type != "code":
        return Cell("text", "", source)
    found = MARK.match(source)
    if not found:
        return Cell("code", "", source)
    return Cell(KINDS[found[1]], found[2], source)


def names(cells: list[Cell], kind: str) -> list[str]:
    """List the names of the blanks or the checks."""
    return [cell.name for cell in cells if cell.kind == kind]


def blanks(cells: list[Cell]) -> dict[str, str]:
    """Collect what stands in the blanks: {name: source}; of two with one name, the last."""
    return {cell.name: cell.source for cell in cells if cell.kind == "blank"}


def filled_in(lab: list[Cell], sources: dict[str, str]) -> list[Cell]:
    """Put a student's blanks into a lab. What is not there stays blank."""
    merged = []
    for cell in lab:
        source = cell.source
        if cell.kind == "blank":
            source = sources.get(cell.name, source)
        merged.append(Cell(cell.kind, cell.name, source))
    return merged
