"""Run: python -m pytest -q tests/test_readme.py        (about 5 s on CPU, importing torch; no network)

Every command that README, a docstring, an error message or the Makefile shows is fed to the parser of its script: what is printed works.
"""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from plumbing import flags

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(ROOT.glob("*.py"))
COMMAND = re.compile(r"python3?\s+(\w+\.py)\b([^\n`]*)")


def strings(path):
    """All text a module could print: its string constants, f-strings with VALUE where something is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "VALUE"
                for part in node.values
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.value


def makefile():
    """The Makefile with its variables filled in; of the targets `spatial ground`, which share a recipe, the first; of its loops, the first turn."""
    text = (
        re.sub(r"\\\n\s*", " ", (ROOT / "Makefile").read_text(encoding="utf-8"))
        .replace("$@", "spatial")
        .replace("$$seed", "0")
        .replace("$${task}", "spatial")
        .replace("$$task", "spatial")
    )
    defaults = dict(re.findall(r"^(\w+) \??= (.*)$", text, re.M))
    return re.sub(r"\$\((\w+)\)", lambda m: defaults.get(m[1], ""), text.replace("$(BIN)/", ""))


def commands():
    texts = {path.name: list(strings(path)) for path in MODULES} | {"Makefile": [makefile()]}
    readme = ROOT / "README.md"
    if readme.exists():
        texts["README.md"] = [readme.read_text(encoding="utf-8")]
    for where, found in texts.items():
        for text in found:
            for script, rest in COMMAND.findall(re.sub(r"\\\n\s*", " ", text)):
                rest = re.split(r"\s{2,}#|\s#\s| \.\.\.|\s&&", rest)[0]
                if "--" in rest:  # else only the script is named
                    yield pytest.param(where, script, rest, id=f"{where}: {script}{rest[:60]}")


def arguments(rest):
    return [word.rstrip(";,") for word in shlex.split(rest, comments=True)]


@pytest.mark.parametrize("where, script, rest", list(commands()))
def test_what_is_printed_can_be_typed(where, script, rest):
    assert (ROOT / script).is_file(), f"{where} names {script}"
    module = importlib.import_module(script.removesuffix(".py"))
    assert hasattr(module, "parse_args"), f"{where} shows a command of {script}, which is no script"
    assert module.parse_args(arguments(rest)).argv == arguments(rest)


def test_the_net_has_no_holes(tmp_path):
    """The commands of the issue are among those found, and a misspelt flag in one would not pass."""
    found = {(p.values[0], p.values[1]) for p in commands()}
    assert {
        ("train_sft.py", "train_sft.py"),
        ("train_grpo.py", "train_grpo.py"),
        ("evaluate.py", "evaluate.py"),
        ("generate.py", "generate.py"),
        ("model.py", "model.py"),
        ("Makefile", "train_sft.py"),
        ("Makefile", "train_grpo.py"),
        ("model.py", "train_sft.py"),
    } <= found
    rest = next(
        p.values[2] for p in commands() if p.values[:2] == ("train_grpo.py", "train_grpo.py")
    )
    assert "--max-steps 160" in rest and "\\" not in rest
    with pytest.raises(SystemExit):
        importlib.import_module("train_grpo").parse_args(
            arguments(rest.replace("--max-steps", "--max-step"))
        )


@pytest.fixture(scope="module")
def readme():
    if not (ROOT / "README.md").exists():
        pytest.skip("README.md is not written yet")
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_four_commands_of_the_issue_are_in_readme(readme):
    shown = {p.values[1] for p in commands() if p.values[0] == "README.md"}
    assert (
        {"train_sft.py", "train_grpo.py", "evaluate.py", "generate.py"} <= shown
        and "make demo" in readme
        and "make test" in readme
    )


def test_the_file_table_names_every_script_and_nothing_else(readme):
    rows = re.findall(r"^\|\s*\[?`([\w/]+\.?\w*)/?`[^|]*\|", readme, re.M)
    named = {name for name in rows if name.endswith(".py")}
    assert [name for name in named if not list(ROOT.glob(f"**/{name}"))] == []
    assert [p.name for p in MODULES if p.name not in named] == []


def test_make_targets_exist(readme):
    targets = {
        target for line in re.findall(r"^([\w -]+):", makefile(), re.M) for target in line.split()
    }
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", readme, re.M)) <= targets


def test_pictures_and_links_lead_somewhere(readme):
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", readme) if not re.match(r"\w+:", link)]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_flags_in_the_text_exist(readme):
    """`--flag` in running text belongs to one of the scripts (or is one of another project's, that we answer)."""

    class Caught(Exception):
        pass

    known = set(flags.FLAG_OF_OTHERS)
    for path in MODULES:
        module = importlib.import_module(path.stem)
        if hasattr(module, "parse_args"):

            def catch(parser, *_):
                raise Caught(parser)

            with pytest.MonkeyPatch.context() as patch, pytest.raises(Caught) as caught:
                patch.setattr(flags.Parser, "parse_args", catch)
                module.parse_args([])
            known |= set(caught.value.args[0]._option_string_actions)
    shown = {
        flag.replace("_", "-")
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", readme)
        if code.startswith("--") or ".py" in code
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }
    assert sorted(shown - known) == []


def test_nothing_in_the_readme_waits_to_be_filled_in(readme):
    assert "@@" not in readme and "TODO" not in readme
