"""Run: python -m pytest -q tests/test_labs.py       (about 20 s of CPU; no network)

The labs: solutions pass their checks, blanks and known mistakes fail them in words, and the grader
survives what students hand in. Whole training runs, in Jupyter's own kernel: pytest -m slow.
"""

import functools
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lab_mistakes import MISTAKES
from lab_mistakes_more import MISTAKES as MORE_MISTAKES

import data
import update
from labs import checks, classroom, grade, notebooks, run_cells, training
from plumbing.errors import UserError
from tasks.example import Example, Pair

LABS = notebooks.labs()
SOLUTIONS = notebooks.FOLDER / "solutions"
needs_checkpoint = pytest.mark.skipif(
    not all(
        (path / "model.safetensors").is_file() for path in (classroom.CHECKPOINT, training.TABLE)
    ),
    reason="no checkpoints/count, or no checkpoints/table",
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


@pytest.fixture(scope="module")
def after_solution() -> Callable[[str], dict]:
    """Run a lab's solution once: the names it leaves behind, and "said" by its checks."""

    @functools.cache
    def run(lab: str) -> dict:
        namespace = {"__name__": "__main__"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LABS_QUICK", "1")
            return {"said": ends(solved(lab), namespace), "namespace": namespace}

    return run


@needs_checkpoint
@pytest.mark.parametrize("lab", LABS)
def test_a_solution_passes_every_check(lab: str, after_solution: Callable) -> None:
    checks_of_lab = notebooks.names(notebooks.read(LABS[lab]), "check")
    assert after_solution(lab)["said"] == dict.fromkeys(checks_of_lab, "")


@needs_checkpoint
@pytest.mark.parametrize("lab, blank, source, check, says", MISTAKES + MORE_MISTAKES)
def test_a_mistake_is_called_by_its_name(
    lab: str, blank: str, source: str, check: str, says: str, after_solution: Callable
) -> None:
    namespace = dict(after_solution(lab)["namespace"])
    cells = {cell.name: cell for cell in notebooks.read(LABS[lab]) if cell.kind == "check"}
    said = ends([notebooks.Cell("blank", blank, source), cells[check]], namespace)
    assert says in said[check]


@needs_checkpoint
@pytest.mark.parametrize("lab", LABS)
def test_blanks_fail_every_check_in_words(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


# --- what labs 4 to 6 train with ---


def test_rows_come_in_turn_each_as_often_and_in_new_orders() -> None:
    batches = training.rows_in_turn("abcdef", 4, seed=0)
    rows = [row for _ in range(6) for row in next(batches)]
    rounds = ["".join(rows[i : i + 6]) for i in range(0, 24, 6)]
    assert all(sorted(each) == list("abcdef") for each in rounds) and len({*rounds}) > 1
    with pytest.raises(ValueError, match="nothing to learn from"):
        next(training.rows_in_turn([], 4, seed=0))


def test_the_log_probs_of_a_pair_are_cut_where_its_answers_end(tiny: tuple) -> None:
    policy, processor = tiny
    asker = data.Asker(processor, "none")
    example = Example("x", [], "How many?", "2")
    pair = update.encode_pair(Pair(example, "<answer> 2 </answer>", "3"), asker)
    [logps] = training.logps_of_pairs(policy, asker, [pair])
    assert [len(row) for row in logps] == [len(ids) for ids in pair.rows]
    sums = update.pair_logps(policy, asker, pair)[0]
    torch.testing.assert_close(torch.stack([row.sum() for row in logps]), sums.detach())
    assert len(training.words_of(pair.rows[0], asker)) == len(pair.rows[0])


# --- how a check speaks ---


def test_close_names_the_first_place_that_differs() -> None:
    right = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    checks.close(right + 1e-6, right, "x")
    for mine, says in [
        (
            right + torch.tensor([[0.0, 0], [0.5, 0]]),
            r"x at \[1, 0\] is 3.5, but should be 3\. Why",
        ),
        (right[0], r"x should have the shape \(2, 2\), but has \(2,\)"),
        ([1.0, 2.0], "x should be a tensor, but is a list"),
        (right * float("nan"), "not a number"),
    ]:
        with pytest.raises(checks.Wrong, match=says):
            checks.close(mine, right, "x", "Why")


def test_run_says_what_a_function_does_wrong() -> None:
    def blank() -> None:
        raise NotImplementedError("Add them.")

    def broken() -> int:
        return {}["answer"]

    for function, says in [
        (blank, "`blank` is not written yet. Add them."),
        (broken, "`broken` stops with KeyError: 'answer'. That is in its line `return {}"),
        (lambda: None, "returns nothing"),
        (3, "should be a function, but is 3"),
    ]:
        with pytest.raises(checks.Wrong, match=re.escape(says)):
            checks.run(function)
    assert checks.run(lambda x: x + 1, 2) == 3


def test_run_says_what_to_do_about_shapes_and_shows_short_arguments() -> None:
    for function, args, says in [
        (torch.add, (torch.ones(2, 3), torch.ones(2)), "needs the shape (N, 1)"),
        (torch.add, (torch.ones(2, 3), torch.ones(2, 0)), "The second one is empty"),
        ({1: 2}.get, ("a",), "`get` returns nothing for 'a'. Does every way"),
        ({1: 2}.get, ("a" * 100,), "`get` returns nothing. Does every way"),
    ]:
        with pytest.raises(checks.Wrong, match=re.escape(says)):
            checks.run(function, *args)
    assert checks.call({}.get, "a") is None


def test_raises_tells_the_asked_error_from_another_and_from_none() -> None:
    assert checks.raises(ValueError, int, "x", silent="?").startswith("invalid literal")
    for function, says in [
        (lambda: 1, "It says nothing."),
        (lambda: {}["x"], "should raise ValueError here, but raises KeyError: 'x'"),
    ]:
        with pytest.raises(checks.Wrong, match=says):
            checks.raises(ValueError, function, silent="It says nothing.")


@pytest.mark.parametrize("value", ["4", None, ..., [4], torch.ones(2)])
def test_what_is_no_number_is_named(value: object) -> None:
    with pytest.raises(checks.Wrong, match="`x` (is still empty. Why|should be a number, but is)"):
        checks.number(value, "x", "Why")
    assert checks.number(torch.tensor(4.0), "x") == checks.number(4, "x") == 4
    with pytest.raises(checks.Wrong, match="`x` should be a text in quotes, but is 4"):
        checks.text(4, "x", "Why")


def test_a_missing_gradient_is_said() -> None:
    x = torch.ones(3, requires_grad=True)
    assert checks.gradient(x**2, x, "?").tolist() == [2, 2, 2]
    for mine in (x.detach() ** 2, x.detach().requires_grad_() ** 2):
        with pytest.raises(checks.Wrong, match="without detach"):
            checks.gradient(mine, x, "without detach")


def test_jupyter_shows_the_sentence_without_a_traceback() -> None:
    assert checks.Wrong("Look again.")._render_traceback_() == ["Not yet: Look again."]


def test_answers_are_shown_escaped() -> None:
    [example] = classroom.examples(number=1)
    text = "<script>alert(1)</script>"
    table = classroom.table_of([example], [[(text, {"reward": 0.5})]], "<b>")
    assert "<script" not in table and "&lt;script&gt;alert(1)" in table
    assert "reward 0.5" in table and "data:image/png;base64," in table and "&lt;b&gt;" in table


# --- the grader ---

TOY_LAB = """# %% [markdown]
# # Lab 1

# %%
from labs import checks

# %%
# YOUR CODE (double)
def double(x):
    raise NotImplementedError("Twice x.")

# %%
# CHECK (two)
checks.true(checks.run(double, 1) == 2, "Twice 1 is 2.")

# %%
# YOUR CODE (triple)
def triple(x):
    raise NotImplementedError("Three times x.")

# %%
# CHECK (six)
checks.true(checks.run(triple, 2) == 6, "Three times 2 is 6.")
"""
DOUBLE = "# %%\n# YOUR CODE (double)\ndef double(x):\n    return 2 * x\n"
TRIPLE = "# %%\n# YOUR CODE (triple)\ndef triple(x):\n    return 3 * x\n"


@pytest.fixture
def toy_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A class with one small lab, `01_toy`: the folder for what is handed in."""
    folder = tmp_path / "labs"
    folder.mkdir()
    (folder / "01_toy.py").write_text(TOY_LAB)
    monkeypatch.setattr(notebooks, "FOLDER", folder)
    handed_in = tmp_path / "handed_in"
    handed_in.mkdir()
    return handed_in


def grade_text(handed_in: Path, text: str, limit: float = 120) -> grade.Grade:
    path = handed_in / "01_toy.py"
    path.write_text(text)
    cells = notebooks.read(notebooks.labs()["01_toy"])
    return grade.grade_file("ada", "01_toy", path, cells, limit, full=False)


def write_ipynb(path: Path, text: str) -> None:
    import jupytext

    path.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.reads(text, fmt="py:percent"), path)


def test_a_class_is_graded(toy_lab: Path, capsys: pytest.CaptureFixture) -> None:
    write_ipynb(toy_lab / "ada" / "01_toy.ipynb", DOUBLE + TRIPLE)
    (toy_lab / "ada" / "01_toy.py").write_text(TOY_LAB)  # as `make labs` leaves it beside
    write_ipynb(toy_lab / "eve" / ".ipynb_checkpoints" / "01_toy-checkpoint.ipynb", DOUBLE)
    write_ipynb(toy_lab / "bob_01_toy.ipynb", DOUBLE)
    write_ipynb(toy_lab / "eve" / "work" / "01_toy (1).ipynb", TOY_LAB)
    (toy_lab / "no notebook").mkdir()
    (toy_lab / "no notebook" / "01_toy.ipynb").write_text("{")
    grade.main(grade.parse_args([str(toy_lab)]))
    table = capsys.readouterr().out.partition("\n\n")[2].split("\n\n")[0].splitlines()
    assert [row.split() for row in table[1:4]] == [["ada", "2/2"], ["bob", "1/2"], ["eve", "0/2"]]
    lines = (toy_lab / "grades.csv").read_text().splitlines()
    assert lines[0] == "student,lab,passed,checks,seconds,note,file" and len(lines) == 5
    notes = {line.split(",")[0]: line for line in lines[1:]}
    assert "six: `triple` is not written yet. Three times x." in notes["bob"]
    assert "nothing is filled in" in notes["eve"] and "no notebook" in notes["no notebook"]


@pytest.mark.parametrize(
    "source, passed, says",
    [
        ("raise SystemExit(0)", 1, "two: SystemExit: 0"),
        ("import os; os._exit(0)", 0, "ended early"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 0, "ended early"),
        ("x = 'a' * 10**14", 1, "two: MemoryError"),
        ("def double(x): return double(x)", 1, "RecursionError"),
        ("def double(x) return 2", 1, "SyntaxError"),
        ("class E(Exception):\n    def __str__(self): return 1 / 0\nraise E", 1, "two: "),
        ("def double(x): raise KeyboardInterrupt", 1, "two: KeyboardInterrupt"),
        (
            "class E(Exception):\n    def __str__(self): return chr(0xDC80) + chr(27)\n"
            "def double(x): raise E",
            1,
            "two: `double` stops with E: ??. That is in its line `def double(x): raise E`",
        ),
    ],
)
def test_what_a_student_breaks_is_the_students(
    source: str, passed: int, says: str, toy_lab: Path
) -> None:
    text = f"# %%\n# YOUR CODE (double)\n{source}\n\n{TRIPLE}"
    done = grade_text(toy_lab, text)
    assert (done.passed, done.checks) == (passed, 2)
    assert says in done.note and done.note.isprintable()


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc")
def test_what_a_student_leaves_running_is_ended(toy_lab: Path) -> None:
    start = "child = subprocess.Popen(['sleep', '600'])"
    keep = f"open({str(toy_lab / 'pid')!r}, 'w').write(str(child.pid))"
    done = grade_text(
        toy_lab, f"# %%\n# YOUR CODE (double)\nimport subprocess\n{start}\n{keep}\n{TRIPLE}"
    )
    assert done.passed == 1
    process = int((toy_lab / "pid").read_text())
    for _ in range(1000):  # the signal has been sent, and takes effect soon
        if not is_alive(process):
            break
        time.sleep(0.01)
    assert not is_alive(process)


def test_an_endless_loop_ends_at_the_limit(toy_lab: Path) -> None:
    loop = "# %%\n# YOUR CODE (triple)\nimport signal\n"
    loop += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    print('x')\n"
    done = grade_text(toy_lab, DOUBLE + loop, limit=5)
    assert done.passed < 2 and "more than 5 s" in done.note


def test_only_the_blanks_are_taken(toy_lab: Path) -> None:
    cheat = TOY_LAB.replace("== 2", "> -9").replace("== 6", "> -9")
    cheat = cheat.replace('raise NotImplementedError("Twice x.")', "return 5")
    done = grade_text(toy_lab, cheat)
    assert done.passed == 0 and "Twice 1 is 2." in done.note


def test_what_cannot_be_graded_is_said(toy_lab: Path) -> None:
    with pytest.raises(UserError, match="is no directory"):
        grade.main(grade.parse_args([str(toy_lab / "nowhere")]))
    with pytest.raises(UserError, match="has no file named after a lab; 01_toy.ipynb"):
        grade.main(grade.parse_args([str(toy_lab)]))
    assert "no cell begins with # YOUR CODE" in grade_text(toy_lab, "# %%\nx = 1\n").note


def test_where_the_grades_go_is_tried_first_and_never_half_written(
    toy_lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ipynb(toy_lab / "ada" / "01_toy.ipynb", DOUBLE)
    (toy_lab / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr(grade, "grade_file", None)  # nothing is graded before that
        for place, words in (
            (toy_lab / "ada", "is a directory"),
            (toy_lab / "file" / "x", "--csv"),
        ):
            with pytest.raises(UserError, match=words):
                grade.main(grade.parse_args([str(toy_lab), "--csv", str(place)]))
    out = toy_lab / "grades.csv"
    grade.write_csv(out, [grade.Grade("ada", "01_toy", 1, 2, 0.5, "a, b", "x")])
    before = out.read_bytes()
    assert before.splitlines()[1] == b'ada,01_toy,1,2,0.5,"a, b",x'

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        grade.write_csv(out, [])
    assert out.read_bytes() == before


def test_results_that_a_student_spoils_are_skipped(tmp_path: Path) -> None:
    good = {"check": "two", "passed": True, "said": ""}
    lines = ["{", "[]", "null", json.dumps({**good, "passed": "yes"}), json.dumps(good), "\x00"]
    (tmp_path / "r").write_text("\n".join(lines))
    assert [line["passed"] for line in grade.read_results(tmp_path / "r")] == [False, True]
