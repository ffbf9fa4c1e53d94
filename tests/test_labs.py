"""Run: python -m pytest -q tests/test_labs.py       (about 20 s of CPU; no network)

The labs: solutions pass their checks, blanks and known mistakes fail them in words, and the grader
survives what students hand in. Whole training runs, in Jupyter's own kernel: pytest -m slow.
"""

import re
from pathlib import Path

import pytest

from labs import classroom, notebooks, run_cells

LABS = notebooks.labs()
SOLUTIONS = notebooks.FOLDER / "solutions"
needs_checkpoint = pytest.mark.skipif(
    not (classroom.CHECKPOINT / "model.safetensors").is_file(), reason="no checkpoints/count"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("LABS_QUICK", "1")


def solved(lab: str) -> list[notebooks.Cell]:
    cells = notebooks.read(LABS[lab])
    return notebooks.filled_in(cells, notebooks.blanks(notebooks.read(SOLUTIONS / f"{lab}.py")))


def ends(cells: list[notebooks.Cell], namespace: dict | None = None) -> dict[str, str]:
    """Run cells: {check: "" or what it said}."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    return {result["check"]: result["said"] for result in run_cells.run(cells, namespace)}


# --- what a lab consists of ---


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_has_what_the_readme_promises(lab: str) -> None:
    cells = notebooks.read(LABS[lab])
    text = "\n".join(cell.source for cell in cells if cell.kind == "text")
    code = "\n".join(cell.source for cell in cells if cell.kind == "code")
    assert text.startswith("# Lab ") and "**The question.**" in text
    assert re.search(r"^## Two things to try\n\n1\. [^\n]+(\n[^\n]+)*\n2\. ", text, re.MULTILINE)
    assert "## To read" in text and "arxiv.org/abs/" in text
    assert "classroom.show(" in code or "classroom.curves(" in code
    blanks, named = notebooks.names(cells, "blank"), notebooks.names(cells, "check")
    assert blanks and named
    assert len({*blanks}) == len(blanks) and len({*named}) == len(named)
    for source in notebooks.blanks(cells).values():
        assert "NotImplementedError(" in source or "= ..." in source


@pytest.mark.parametrize("lab", LABS)
def test_a_solution_fills_the_blanks_and_nothing_else(lab: str) -> None:
    solution = notebooks.read(SOLUTIONS / f"{lab}.py")
    assert {cell.kind for cell in solution} == {"blank"}
    names = [notebooks.names(cells, "blank") for cells in (solution, notebooks.read(LABS[lab]))]
    assert names[0] == names[1]
    assert notebooks.blanks(solution) != notebooks.blanks(notebooks.read(LABS[lab]))


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_is_a_notebook_and_comes_back(lab: str, tmp_path: Path) -> None:
    import jupytext

    notebook = tmp_path / f"{lab}.ipynb"
    jupytext.write(jupytext.read(LABS[lab]), notebook)
    assert notebooks.read(notebook) == notebooks.read(LABS[lab])


# --- run it ---


@needs_checkpoint
@pytest.mark.parametrize("lab", LABS)
def test_a_solution_passes_every_check(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom, "look", lambda png: None)
    said = ends(solved(lab))
    assert said == dict.fromkeys(notebooks.names(solved(lab), "check"), "")


@needs_checkpoint
@pytest.mark.parametrize("lab", LABS)
def test_blanks_fail_every_check_in_words(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classroom, "look", lambda png: None)
    monkeypatch.setattr(classroom, "draw", lambda *args: None)
    said = ends(notebooks.read(LABS[lab]))
    assert [*said] == notebooks.names(notebooks.read(LABS[lab]), "check")
    for text in said.values():
        assert re.match(r"`\w+` (is not written yet|is still empty)\. \S", text), text


def in_kernel(lab: str, folder: Path) -> None:
    """Run a solution as Jupyter does; nbclient raises at the first cell that fails."""
    import jupytext
    import nbclient

    notebook = jupytext.read(LABS[lab])
    filled = notebooks.blanks(notebooks.read(SOLUTIONS / f"{lab}.py"))
    for cell in notebook.cells:
        found = notebooks.cell_of(cell.cell_type, cell.source)
        cell.source = filled.get(found.name, found.source) if found.kind == "blank" else cell.source
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures


@needs_checkpoint
def test_the_first_solution_runs_in_jupyter() -> None:
    in_kernel("01_advantage", notebooks.FOLDER)


@needs_checkpoint
@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS)
def test_whole_solutions_run_in_jupyter(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABS_QUICK")
    in_kernel(lab, notebooks.FOLDER)
