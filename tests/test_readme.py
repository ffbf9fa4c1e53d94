"""Run: python -m pytest -q tests/test_readme.py    (about 15 s on CPU, importing torch; no network)

What README and docs/ show works: commands parse, links resolve, sizes hold.
"""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tasks import prompts

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = [
    *SCRIPTS,
    *(path for room in ("fast", "recipes") for path in sorted(ROOT.glob(f"{room}/*.py"))),
    ROOT / "labs" / "grade.py",
    ROOT / "tasks" / "contamination.py",
]

COMMAND = re.compile(r"python3?\s+(-m\s+[\w.]+|[\w/]+\.py)\b([^\n]*)")
AFTER = r"\s{2,}#|\s#\s| \.\.\.|\s&&|\s\|\||\s\(CPU|`"  # a remark, or another command
NOT_OURS = {"-m pip", "-m pytest", "-m venv"}
MAX_LINES, MAX_BYTES, MAX_COLUMNS = 150, 9_000, 120

# The brackets keep this file out of its own search.
BANNED = r"DESIGN[ ]section|facts[/]|facts[ ]that[ ]bite|shared[/]|\bsession[s]?\b"
ALLOWED = re.compile(r'scope="')  # a pytest fixture


# --- what is shown ---


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def joined(text: str) -> str:
    """Put a command that goes on after a backslash on one line."""
    return re.sub(r"\\\n\s*", " ", text)


def without_diffs(page: str) -> str:
    """A page without its diffs, which test_forks.py applies and test_loops.py finds."""
    return re.sub(r"^```diff\b.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def prose_of(page: str) -> str:
    """A page without diffs and tables: a row shows a command as it was at the row's commit."""
    lines = without_diffs(page).splitlines()
    return "\n".join(line for line in lines if not line.startswith("|"))


def rows_of(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("|")]


def code_of(page: str) -> list[str]:
    """Return the code spans and indented lines of a page."""
    text = re.sub(r"(?<=\S)\n(?=[^\s#|-])", " ", page)  # a span may be wrapped
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    lines = [line for line in joined(page).splitlines() if line.startswith("    ")]
    return spans + lines


def strings(path: Path) -> Iterator[str]:
    """Yield all text a module could print, with VALUE where an f-string is filled in."""
    tree = ast.parse(read(path))
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {id(part) for node in formatted for part in node.values}
    for node in formatted:
        parts = [getattr(part, "value", None) for part in node.values]
        yield "".join(part if isinstance(part, str) else "VALUE" for part in parts)
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in inside:
            yield node.value


def makefile() -> str:
    """Return the Makefile with its variables filled in."""
    text = joined(read(ROOT / "Makefile")).replace("$(BIN)/", "")
    values = dict(re.findall(r"^(\w+) \??= (.*)$", text, re.MULTILINE))
    return re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], ""), text)


def shell(path: Path) -> str:
    """Return a shell script with its variables filled in: of a loop, the first turn."""
    text = joined(read(path)).replace('"$@"', "")
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)  # ${1:-default}
    values = dict(re.findall(r"\bfor (\w+) in ([^\s;]+)", text))
    values |= {
        name: value.strip("\"'") for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)
    }
    for _ in range(3):  # a value may name another variable
        text = re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], match[0]), text)
    return text


def split_command(text: str) -> Iterator[tuple[str, str]]:
    """Yield each script a text shows, with its arguments as typed."""
    for script, rest in COMMAND.findall(joined(text)):
        script = " ".join(script.split())
        if script in NOT_OURS:
            continue
        yield script, re.split(AFTER, rest)[0].rstrip(" )")


def commands() -> Iterator[tuple[str, str, str]]:
    """Yield (where, script, arguments) of every command shown."""
    for path in PAGES:
        for text in code_of(prose_of(read(path))):
            for script, rest in split_command(text):
                yield path.name, script, rest
    texts = {path.name: list(strings(path)) for path in CODE}
    texts["Makefile"] = [makefile()]
    texts |= {path.name: [shell(path)] for path in sorted(ROOT.glob("recipes/*.sh"))}
    for where, found in texts.items():
        for text in found:
            for script, rest in split_command(text):
                if "--" in rest:  # otherwise a sentence names the script
                    yield where, script, rest


def file_of(script: str) -> Path:
    """Return the file of `x.py`, `recipes/x.py` or `-m fast.x`."""
    if script.startswith("-m "):
        script = script.removeprefix("-m ").replace(".", "/") + ".py"
    return ROOT / script


def load(path: Path) -> ModuleType:
    """Import a script. tests/ is no package: pytest has it on the path."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return importlib.import_module(".".join(part for part in parts if part != "tests"))


def arguments(rest: str) -> list[str]:
    return [word.rstrip(";,") for word in shlex.split(rest, comments=True)]


# --- commands ---


SHOWN = [pytest.param(*command, id=" ".join(command)[:90]) for command in commands()]


@pytest.mark.parametrize("where, script, rest", SHOWN)
def test_what_is_shown_can_be_typed(
    where: str, script: str, rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_of(script).is_file(), f"{where} names {script}"
    if not rest.strip():
        return
    module = load(file_of(script))
    assert hasattr(module, "parse_args"), f"{where} shows arguments of {script}, which takes none"
    monkeypatch.setattr(sys, "argv", [script, *arguments(rest)])
    args = module.parse_args()
    assert getattr(args, "argv", arguments(rest)) == arguments(rest)


def test_the_search_finds_commands_and_a_misspelt_flag_fails() -> None:
    found = {(where, script) for where, script, _ in commands()}
    expected = [
        ("train_grpo.py", "train_grpo.py"),
        ("Makefile", "train_grpo.py"),
        ("README.md", "train_grpo.py"),
        ("speed.md", "-m fast.bench"),
        ("rewards.md", "recipes/fuzz_rewards.py"),
        ("selftraining.md", "train_dpo.py"),
    ]
    assert [pair for pair in expected if pair not in found] == []
    readme = [c for c in commands() if c[:2] == ("README.md", "train_grpo.py")]
    rest = readme[0][2]
    assert "--max-steps 160" in rest
    misspelt = rest.replace("--max-steps", "--max-step")
    with pytest.raises(SystemExit):
        load(ROOT / "train_grpo.py").parse_args(arguments(misspelt))


def test_readme_shows_the_main_commands() -> None:
    shown = {script for where, script, _ in commands() if where == "README.md"}
    assert {"train_sft.py", "train_grpo.py", "evaluate.py", "generate.py"} <= shown
    assert "make demo" in read(PAGES[0])
    assert "make test" in read(PAGES[0])


def test_a_row_names_a_script_that_its_commit_has() -> None:
    """A figure's command may be an old one. Then the row's commit has that script."""
    checked = 0
    for path in PAGES:
        for row in rows_of(read(path)):
            hashes = re.findall(r"\b(?=[a-f]*\d)[0-9a-f]{7}\b", row)
            for script, _ in split_command(row):
                name = file_of(script).relative_to(ROOT).as_posix()
                checked += 1
                places = [git("cat-file", "-e", f"{commit}:{name}") for commit in hashes]
                there = any(place.returncode == 0 for place in places)
                assert there or file_of(script).is_file(), f"{path.name}: {script} in {row[:80]}"
    assert checked


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_make_targets_and_recipes_exist(path: Path) -> None:
    code = "\n".join(code_of(prose_of(read(path))))
    targets = " ".join(re.findall(r"^([\w -]+):", makefile(), re.MULTILINE)).split()
    assert set(re.findall(r"^\s*make ([a-z][\w-]*)", code, re.MULTILINE)) <= set(targets)
    recipes = re.findall(r"\b(?:ba)?sh (\w+/\w+\.sh)", code)
    assert [name for name in recipes if not (ROOT / name).is_file()] == []


def flags_of(path: Path) -> set[str]:
    """Return the flags of a script's parser, which is caught before it parses."""

    class Caught(Exception):
        pass

    def catch(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Caught(parser)

    module = load(path)
    if not hasattr(module, "parse_args"):
        return set()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Caught) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", catch)
        module.parse_args([])
    return set(caught.value.args[0]._option_string_actions)


def test_flags_in_the_text_exist() -> None:
    known = {"--help"}
    for path in CODE:
        known |= flags_of(path)
    shown = {}
    for path in PAGES:
        for code in code_of(prose_of(read(path))):
            if code.startswith("--"):
                for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
                    shown[flag] = path.name
    assert {flag: where for flag, where in shown.items() if flag not in known} == {}


# --- sizes, links, words ---


def test_the_templates_are_all_in_the_table() -> None:
    section = read(ROOT / "docs" / "data.md").partition("## How a question is put")[2]
    rows = rows_of(section.partition("\n## ")[0])[2:]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(prompts.TEMPLATES)


def test_readme_is_short() -> None:
    text = read(PAGES[0])
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.encode()) <= MAX_BYTES
    assert [line for line in text.splitlines() if len(line) > MAX_COLUMNS] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_only_tables_are_wide(path: Path) -> None:
    lines = prose_of(read(path)).splitlines()
    assert [line for line in lines if len(line) > MAX_COLUMNS] == []


def test_the_file_table_names_every_script_and_nothing_else() -> None:
    cells = re.findall(r"^\| (`\w+\.py`[^|]*)", read(PAGES[0]), re.MULTILINE)
    named = re.findall(r"`(\w+\.py)`", " ".join(cells))
    assert sorted(named) == [path.name for path in SCRIPTS]
    wings = re.findall(r"`(\w+/)`", "\n".join(rows_of(read(PAGES[0]))))
    assert wings
    assert [wing for wing in wings if not (ROOT / wing).is_dir()] == []


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", read(path), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in plain}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(path: Path) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", read(path)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or anchor and anchor not in anchors_of(target):
            missing.append(link)
    assert missing == []


def test_every_page_is_linked_from_readme() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.md)", read(PAGES[0])))
    assert [path.name for path in PAGES[1:] if path.name not in linked] == []


def git(*words: str) -> subprocess.CompletedProcess:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_nothing_refers_to_what_the_repository_does_not_have() -> None:
    lines = git("grep", "-nIP", BANNED).stdout.splitlines()
    assert [line for line in lines if not ALLOWED.search(line)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_nothing_waits_to_be_filled_in(path: Path) -> None:
    assert not re.search("@@|TODO|FIXME", without_diffs(read(path)))
