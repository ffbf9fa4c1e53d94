"""Run: python -m pytest -q tests/test_house.py        (5 s on CPU; no network)

The walls between the files, and the sizes of files and functions. A wall is a function of a folder
and returns what breaks it. STILL lists what breaks a wall today. Last, each wall is broken once.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from recipes import measure

ROOT = Path(__file__).resolve().parents[1]
WINGS = ("tasks", "grading", "distilling", "evaluating", "reinforcing", "plumbing", "fast", "labs")

# The floors, lowest first. A file imports files of its own floor and of lower ones.
FLOORS = [
    ["plumbing*", "families"],
    ["grading*", "plumbing.report", "plumbing.report_answers", "plumbing.report_data"],
    ["tasks.example"],
    ["rewards"],
    ["tasks*"],
    ["pools", "served"],
    ["distilling*"],
    ["losses", "logps", "expert_lora", "fast.kernels"],
    ["reinforcing", "reinforcing.advantages", "reinforcing.agreement", "reinforcing.objective"],
    ["processor", "adapters", "graft"],
    ["model"],
    ["data"],
    ["batching", "distilling.documents"],
    ["lengths", "experts"],
    ["curriculum", "merging"],
    ["fast", "fast.decode", "rollout", "update"],
    ["sampler", "teachers", "evaluating*", "reinforcing*"],
    ["distill", "evaluate", "generate", "selftrain", "train_*", "fast.*", "labs*"],
]

# Heavy packages: imported where used, so that runs without them, and a typo's message, come fast.
OPTIONAL = set(
    "bitsandbytes datasets deepspeed math_verify matplotlib openai peft pyarrow tensorboard"
    " transformers triton trl vllm wandb".split()
)

LINES, FUNCTION_LINES, MAIN_LINES = 600, 60, 200


# --- what a file says ---


@cache
def nodes(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text)))


@cache
def functions(text: str) -> list[tuple[str, ast.AST]]:
    """Return (name, node) of every function; the name has its class or outer function in front."""

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            name = f"{prefix}{child.name}" if named else ""
            if named and not isinstance(child, ast.ClassDef):
                yield name, child
            yield from inside(child, f"{name}." if named else prefix)

    return list(inside(nodes(text)[0], ""))


@cache
def imported(text: str) -> list[tuple[str, str, str]]:
    """Return (module, name taken from it or "", what it is called here) of every import."""
    found = []
    for node in nodes(text):
        if isinstance(node, ast.Import):
            found += [(alias.name, "", alias.asname or alias.name) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            found += [
                (node.module or "", alias.name, alias.asname or alias.name) for alias in node.names
            ]
    return found


def module_of(file: Path, root: Path) -> str:
    name = file.relative_to(root).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def product(root: Path, *more: str) -> dict[str, str]:
    """Return {module: its text} of the top level, the wings and the folders in `more`."""
    files = [*root.glob("*.py")]
    for folder in WINGS + more:
        files += (root / folder).glob("*.py")
    return {module_of(file, root): file.read_text(encoding="utf-8") for file in sorted(files)}


@cache
def resolved(text: str, modules: frozenset[str]) -> list[str]:
    """Return the project's files that this one imports."""
    names = {(f"{module}.{name}", module) for module, name, _ in imported(text)}
    files = {full if full in modules else module for full, module in names}
    return sorted(files & modules)


def graph(root: Path) -> dict[str, list[str]]:
    texts = product(root)
    return {module: resolved(text, frozenset(texts)) for module, text in texts.items()}


# --- the walls: who imports whom ---


def floor(module: str) -> int:
    """Return the module's place in FLOORS, -1 if it has none. A full name goes before a pattern."""
    for match in (str.__eq__, fnmatch):
        for place, patterns in enumerate(FLOORS):
            if any(match(module, pattern) for pattern in patterns):
                return place
    return -1


def imports_go_down(root: Path) -> set[str]:
    edges = graph(root)
    homeless = {f"{module} has no place in FLOORS" for module in edges if floor(module) < 0}
    return homeless | {
        f"{module} imports {other}, which is above it"
        for module, others in edges.items()
        for other in others
        if floor(other) > floor(module) >= 0
    }


def no_circles(root: Path) -> set[str]:
    edges = graph(root)
    found = set()
    for module in edges:
        seen, waiting = set(), [module]
        while waiting:
            new = {*edges[waiting.pop()]} - seen
            seen |= new
            waiting += new
        if module in seen:
            found.add(f"{module} is in a circle of imports")
    return found


def scripts_stay_apart(root: Path) -> set[str]:
    texts, edges = product(root), graph(root)
    scripts = {module for module in texts if "main" in dict(functions(texts[module]))}
    return {
        f"{module} imports {other}, also a script"
        for module in scripts
        for other in scripts & set(edges[module])
    }


def losses_need_torch_only(root: Path) -> set[str]:
    packages = {module.partition(".")[0] for module, *_ in imported(product(root)["losses"])}
    return {f"losses imports {name}" for name in packages - sys.stdlib_module_names - {"torch"}}


WITHOUT_TORCH = """
import importlib, os, sys, traceback

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":  # the last file of ours on the stack is the one that imports it
            here = os.getcwd() + os.sep
            ours = [f.filename for f in traceback.extract_stack() if f.filename.startswith(here)]
            sys.exit(f"{ours[-1].removeprefix(here)} imports torch")

sys.meta_path.insert(0, Watch())
for module in sys.argv[1:]:
    importlib.import_module(module)
assert "torch" not in sys.modules
"""


def texts_need_no_torch(root: Path) -> set[str]:
    """What reads and grades text, and saved outputs, imports no torch, nor what it imports."""
    modules = [name for name in product(root) if name.startswith(("grading", "tasks"))]
    modules = [name for name in modules if name != "grading.judges"] + ["pools", "evaluate"]
    command = [sys.executable, "-B", "-c", WITHOUT_TORCH, *modules]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    return {done.stderr.strip().splitlines()[-1]} if done.returncode else set()


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def optional_packages_wait(root: Path) -> set[str]:
    """A heavy optional package is imported in a function; the kernels may try to import triton."""
    found = set()
    for module, text in product(root).items():
        inside = (ast.FunctionDef, ast.AsyncFunctionDef)
        if module == "fast.kernels":
            inside += (ast.Try,)
        waiting = [nodes(text)[0]]
        while waiting:
            node = waiting.pop()
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = re.findall(r"\w+", ast.unparse(node))
                found |= {f"{module} imports {name} at its top" for name in OPTIONAL & {*names}}
            elif not isinstance(node, inside) and not is_for_types(node):
                waiting += ast.iter_child_nodes(node)
    return found


# --- the walls: who touches what ---


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def private_attributes(text: str) -> set[tuple[str, str]]:
    """Return (owner, name) of every private attribute that is read or written."""
    attributes = [node for node in nodes(text) if isinstance(node, ast.Attribute)]
    return {(ast.unparse(node.value), node.attr) for node in attributes if is_private(node.attr)}


def private_names_stay_home(root: Path) -> set[str]:
    found = set()
    texts = product(root, "recipes", "tests")
    for module, text in texts.items():
        files = set()
        for other, name, local in imported(text):
            if other in texts and is_private(name):
                found.add(f"{module} uses {other}.{name}")
            if (f"{other}.{name}" if name else other) in texts:
                files.add(local)
        uses = [(owner, name) for owner, name in private_attributes(text) if owner in files]
        found |= {f"{module} uses {owner}.{name}" for owner, name in uses}
    return found


FAMILY = re.compile(r"qwen\d(_\d)?_?vl", re.IGNORECASE)  # in code; prose has "Qwen2-VL"


@cache
def names_in(text: str) -> set[str]:
    """Return the names and the texts in a file's code, its docstrings too."""
    found = {name for module, taken, _ in imported(text) for name in (module, taken)}
    for node in nodes(text):
        if isinstance(node, ast.Name):
            found.add(node.id)
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def families_are_records(root: Path) -> set[str]:
    """Only families.py names a family: the rest asks the record that model and processor carry."""
    return {
        f"{module} names the family {name[:30]}"
        for module, text in product(root).items()
        if module != "families"
        for name in names_in(text)
        if FAMILY.search(name)
    }


def writes_to_args(node: ast.AST) -> bool:
    stored = isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))
    if stored and isinstance(node, ast.Attribute):
        return ast.unparse(node.value) == "args"
    if stored and isinstance(node, ast.Subscript):
        return ast.unparse(node.value) in ("vars(args)", "args.__dict__")
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
        return ast.unparse(node.args[0]) == "args"
    changes = ("clear", "pop", "setdefault", "update")
    is_method = isinstance(node.func, ast.Attribute) and node.func.attr in changes
    return is_method and ast.unparse(node.func.value) in ("vars(args)", "args.__dict__")


@cache
def writers(text: str) -> set[str]:
    """Return the functions that write to args; main and parse_args may."""
    return {
        name
        for name, function in functions(text)
        if name.rpartition(".")[2] not in ("main", "parse_args")
        and any(map(writes_to_args, ast.walk(function)))
    }


def args_stay_in_main(root: Path) -> set[str]:
    texts = product(root)
    return {
        f"{module}.{name} writes to args" for module in texts for name in writers(texts[module])
    }


# --- the sizes; ruff checks the columns and the complexity ---


def files_are_short(root: Path) -> set[str]:
    return {
        f"{module} has more than {LINES} lines"
        for module, text in product(root).items()
        if "." not in module and text.count("\n") > LINES
    }


def functions_are_short(root: Path) -> set[str]:
    found = set()
    for module, text in product(root).items():
        for name, function in functions(text):
            limit = MAIN_LINES if name == "main" else FUNCTION_LINES
            if function.end_lineno - function.lineno >= limit:
                found.add(f"{module}.{name} has more than {limit} lines")
    return found


# --- what breaks a wall today ---

# To go, and not to grow: a name that no longer breaks its wall has to leave.
STILL = {
    private_names_stay_home: {
        "tests.test_arguments uses arguments._commit",
    },
    args_stay_in_main: {
        "plumbing.arguments.run_id writes to args",
        "plumbing.arguments.same_flags writes to args",
        "plumbing.flags.decide_pair_losses writes to args",
    },
}


# --- the tests ---

WALLS = [
    imports_go_down,
    no_circles,
    scripts_stay_apart,
    losses_need_torch_only,
    texts_need_no_torch,
    optional_packages_wait,
    private_names_stay_home,
    families_are_records,
    args_stay_in_main,
    files_are_short,
    functions_are_short,
]


@cache
def here(wall) -> set[str]:
    return wall(ROOT)


@pytest.mark.parametrize("wall", WALLS)
def test_the_wall_stands(wall):
    assert here(wall) <= STILL.get(wall, set())


@pytest.mark.parametrize("wall", STILL)
def test_every_exception_is_still_needed(wall):
    assert STILL[wall] <= here(wall)  # otherwise take it out of STILL


NOTES = "\n# a note" * LINES
LONG = "def long():" + "\n    pass" * FUNCTION_LINES
BREAKS = [  # the wall, the file, the line added to it, what the wall says
    (imports_go_down, "plumbing/disk.py", "import losses", "plumbing.disk imports losses"),
    (imports_go_down, "model.py", "def late():\n    import update", "model imports update"),
    (imports_go_down, "attic.py", "", "attic has no place in FLOORS"),
    (no_circles, "grading/units.py", "from grading import answers", "is in a circle"),
    (scripts_stay_apart, "train_sft.py", "import train_grpo", "train_sft imports train_grpo"),
    (scripts_stay_apart, "train_x.py", "import generate\ndef main(): pass", "train_x imports"),
    (losses_need_torch_only, "losses.py", "import numpy", "losses imports numpy"),
    (losses_need_torch_only, "losses.py", "from plumbing import disk", "losses imports plumbing"),
    (texts_need_no_torch, "plumbing/text.py", "import torch", "plumbing/text.py imports torch"),
    (optional_packages_wait, "plumbing/log.py", "import wandb", "plumbing.log imports wandb"),
    (optional_packages_wait, "data.py", "import peft.tuners as p", "data imports peft"),
    (private_names_stay_home, "data.py", "from tasks.files import _x", "data uses tasks.files._x"),
    (private_names_stay_home, "data.py", "import rewards as r\nr._x", "data uses r._x"),
    (families_are_records, "logps.py", "import families as f\nf.QWEN2_VL", "logps names the"),
    (families_are_records, "data.py", "kind = 'qwen2_5_vl'", "data names the family qwen2_5_vl"),
    (families_are_records, "model.py", "from transformers import Qwen3VLConfig", "model names"),
    (args_stay_in_main, "data.py", "def late(args): args.x = 1", "data.late writes"),
    (args_stay_in_main, "data.py", "def late(args): vars(args)['x'] = 1", "data.late writes"),
    (args_stay_in_main, "data.py", "def late(args): setattr(args, 'x', 1)", "data.late writes"),
    (files_are_short, "rollout.py", NOTES, "rollout has more than 600 lines"),
    (functions_are_short, "grading/units.py", LONG, "grading.units.long has more than 60 lines"),
    (functions_are_short, "tasks/count.py", f"class A:\n  {LONG}", "tasks.count.A.long has"),
]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the product's code: each test leaves it as it was."""
    root = tmp_path_factory.mktemp("house")
    for folder in (".", *WINGS):
        (root / folder).mkdir(exist_ok=True)
        for file in (ROOT / folder).glob("*.py"):
            shutil.copy(file, root / folder)
    return root


@pytest.mark.parametrize("wall, file, line, says", BREAKS)
def test_a_broken_wall_is_seen(wall, file, line, says, copied):
    path = copied / file
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    new = wall(copied) - STILL.get(wall, set())
    if before is None:
        path.unlink()
    else:
        path.write_text(before)
    assert new and all(says in finding for finding in new)


def test_every_wall_is_broken_once():
    assert {wall for wall, *_ in BREAKS} == {*WALLS}


# --- recipes/measure.py, which counts the same things ---

CODE = """def f(x):  # why
    '''Do one thing.  Then another

        $ not a sentence
    '''
    for each in x:
        return 1 if each else 'no docstring'
"""


def test_measure(tmp_path):
    (tmp_path / "a.py").write_text(CODE)
    figures = measure.measure(tmp_path)
    assert figures["lines"] == "7" and figures["longest function"] == "7 a.py f"
    assert figures["code tokens"] == "17"  # 6 in the first line, 5 and 6 in the last two
    assert figures["highest complexity"] == "2 a.py f" and figures["conditional expressions"] == "1"
    assert figures["docstring sentences"] == "2" and figures["their words, median"] == "2.5"
