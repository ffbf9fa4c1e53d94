"""Run: python -m pytest -q tests/test_help.py        (about 6 s on CPU, mostly importing torch)

The help of every script: a short one of two screens, and a whole one.
"""

import importlib
import re
from pathlib import Path

import pytest

from plumbing import flags
from plumbing.flags_of_others import FLAG_OF_OTHERS

ROOT = Path(__file__).resolve().parents[1]
SCREEN = (50, 100)  # lines, columns
# Files that make a parser of ours, but for recipes, which are run once.
MADE = re.compile(r"= (?:flags\.)?Parser\(__doc__, \"([^\"]+)")
PLACES = [*ROOT.glob("*.py"), *(ROOT / "fast").glob("*.py"), *(ROOT / "plumbing").glob("*.py")]
NAMES = {path.relative_to(ROOT): MADE.search(path.read_text(encoding="utf-8")) for path in PLACES}
SCRIPTS = sorted(
    ".".join(path.with_suffix("").parts) for path, made in NAMES.items() if made is not None
)
SCRIPTS.append("tasks.inspection")  # python data.py


def shown_by(script: str, flag: str, capsys: pytest.CaptureFixture) -> str:
    """Return what a script prints for --help or --help-all."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(script).parse_args([flag])
    assert stop.value.code == 0
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    """Return the flags that have a row in a help text."""
    rows = [line.strip().split("  ")[0] for line in text.splitlines() if line.startswith("  -")]
    return {word for row in rows for word in re.findall(r"--[a-z][\w-]*", row)}


def parser_of(script: str) -> flags.Parser:
    """Catch a script's parser before it parses."""
    caught = []

    def catch(parser: flags.Parser, *_: object) -> None:
        caught.append(parser)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(flags.Parser, "parse_args", catch)
        importlib.import_module(script).parse_args([])
    return caught[0]


def test_all_scripts_are_found():
    assert {"train_grpo", "selftrain", "distill", "teachers", "plumbing.report"} <= set(SCRIPTS)
    assert len(SCRIPTS) == 12


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_short_help_fits_two_screens(script, capsys):
    lines = shown_by(script, "--help", capsys).splitlines()
    assert len(lines) <= 2 * SCREEN[0]
    prose = [line for line in lines if not line.startswith("    python ")]
    assert max(map(len, prose)) <= SCREEN[1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_short_help_has_what_is_common_and_the_whole_one_everything(script, capsys):
    parser = parser_of(script)
    short, whole = shown_by(script, "--help", capsys), shown_by(script, "--help-all", capsys)
    every = {name for action in parser._actions for name in action.option_strings}
    assert {name for name in every if name.startswith("--")} <= flags_in(whole)
    marked = [action for action in parser._actions if action.common or action.required]
    wanted = {name for action in marked for name in action.option_strings}
    if any(action.common for action in parser._actions):
        assert flags_in(short) == wanted
    else:
        assert flags_in(short) == flags_in(whole)
    assert parser.description.strip() in whole


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_short_help_ends_with_where_there_is_more(script, capsys):
    short, whole = shown_by(script, "--help", capsys), shown_by(script, "--help-all", capsys)
    last = short.rstrip().splitlines()[-1]
    [page] = re.findall(r"docs/\w+\.md", last)
    assert (ROOT / page).is_file()
    rows = [len(re.findall(r"^  -", text, re.MULTILINE)) for text in (short, whole)]
    hidden = rows[1] - rows[0]
    assert hidden == 0 or last.startswith(f"--help-all shows all flags, {hidden} more than these;")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_flag_of_one_script_is_known_to_the_others(script):
    """train_sft.py once said of --importance-sampling-level that there was no such thing yet."""
    own = set(parser_of(script)._option_string_actions) & set(FLAG_OF_OTHERS)
    assert all(f"{script}.py" in FLAG_OF_OTHERS[flag] for flag in own)


def test_the_flags_of_readme_are_common(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^    python (\w+)\.py +(.*)$", text, re.MULTILINE)
    assert len(commands) >= 4
    for script, words in commands:
        assert set(re.findall(r"--[a-z][\w-]*", words)) <= flags_in(
            shown_by(script, "--help", capsys)
        )


def test_a_flag_without_a_mark_is_left_to_the_whole_help(capsys):
    parser = flags.Parser("A title.\n\nMore of it.\n\n    python x.py --a 1\n", "x.py", "data.md")
    parser.add_common("--a", type=flags.int_from_1, help="the first")
    parser.add_argument_group("others").add_argument("--b", type=flags.above_0, help="the second")
    short, whole = parser.format_help(), parser.format_help_all()
    assert "A title.\n\n    python x.py --a 1" in short and "More of it." in whole
    assert "--a N " in short and "--b" not in short and "others" not in short
    assert "--a N " in whole and "--b X " in whole
    assert short.endswith(
        "--help-all shows all flags, 3 more than these; docs/data.md says what they are for.\n"
    )
    parser.set_uncommon("--a")
    assert "--b X" in parser.format_help()  # nothing is marked: all is shown
