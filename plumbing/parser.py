"""The command line: a parser with a short and a whole help, and one sentence for each error."""

import argparse
import contextlib
import os
import sys
import textwrap
from typing import NoReturn

from plumbing.flags_of_others import FLAG_OF_OTHERS
from plumbing.text import HALF, cut, meant

# --- help ---

COLUMNS = 100  # of a help text
METAVARS = {"whole number": "N", "number": "X"}  # by the name of a flag's type (plumbing/flags.py)


class HelpFormatter(argparse.HelpFormatter):
    """Show defaults that say something, and keep the paragraphs of the script's docstring."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=COLUMNS)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        silent = silent or action.default in (argparse.SUPPRESS, "", [])
        if silent or not action.option_strings or "%(default)" in (action.help or ""):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return f"{action.help} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        """A name for a flag's value: N or X of a number, else the flag's last word."""
        name = getattr(action.type, "__name__", "")
        return METAVARS.get(name) or action.dest.rpartition("_")[2].upper()

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.dedent(text)


class HelpAll(argparse.Action):
    """--help-all: print the whole help and stop."""

    def __call__(self, parser: "Parser", *_: object) -> NoReturn:
        print(parser.format_help_all(), end="")
        parser.exit()


class Marking:
    """Flags are common, and in --help, or not, and only in --help-all."""

    def add_argument(self, *names: str, **more: object) -> argparse.Action:
        """Add a flag as argparse does, which only --help-all shows."""
        action = super().add_argument(*names, **more)
        action.common = False
        return action

    def add_common(self, *names: str, **more: object) -> argparse.Action:
        """Add a flag that --help shows too."""
        action = self.add_argument(*names, **more)
        action.common = True
        return action


class Group(Marking, argparse._ArgumentGroup):
    """A heading of the help, and the flags below it."""


# --- the parser ---


class Parser(Marking, argparse.ArgumentParser):
    """argparse that takes underscores, guesses at typos and knows other projects' flags.

    description: the script's docstring; the short help has its title and its commands.
    page: of docs/, named at the end of the short help.
    """

    def __init__(
        self, description: str | None, script: str | None = None, page: str | None = None
    ) -> None:
        super().__init__(
            prog=script, description=description, allow_abbrev=False, formatter_class=HelpFormatter
        )
        self.page = page
        self.add_argument(
            "--help-all", action=HelpAll, nargs=0, help="show every flag, and the whole description"
        )

    def add_argument_group(self, title: str | None = None, description: str | None = None) -> Group:
        """Add a heading, whose flags may be marked as common."""
        group = Group(self, title, description)
        self._action_groups.append(group)
        return group

    def format_help(self) -> str:
        """Write the short help: the common flags, or all where none is marked as common."""
        shown = [action for action in self._actions if action.common or action.required]
        if not any(action.common for action in self._actions):
            shown = self._actions
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [a for a in self._actions if a.required], [])
        formatter.add_text(self.title_and_commands())
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_arguments([a for a in group._group_actions if a in shown])
            formatter.end_section()
        formatter.add_text(self.last_line(len(self._actions) - len(shown)))
        return formatter.format_help()

    def format_help_all(self) -> str:
        """Write the whole help: every flag, and the whole description."""
        return super().format_help()

    def title_and_commands(self) -> str:
        """Return the first paragraph of the description, and those about a command."""
        title, *others = (self.description or "").strip().split("\n\n")
        about = [part for part in others if "    python " in part or part.endswith(":")]
        return "\n\n".join([title, *about])

    def last_line(self, hidden: int) -> str:
        """Say where there is more to read."""
        page = f"docs/{self.page}" if self.page else ""
        if not hidden:
            return f"{page} says more." if page else ""
        more = f"--help-all shows all flags, {hidden} more than these"
        return f"{more}; {page} says what they are for." if page else f"{more}."

    def set_own_default(self, flag: str, value: object) -> None:
        """Give a shared flag a default of this script's own, in its help too."""
        action = self._option_string_actions[flag]
        action.default = value
        action.help = action.help.partition("; default:")[0]

    def set_uncommon(self, *flags: str) -> None:
        """Leave shared flags that have no meaning in this script to --help-all."""
        for flag in flags:
            self._option_string_actions[flag].common = False

    def parse_known_args(
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse with underscores in flags turned into dashes; values stay as they are."""
        dashed = []
        for word in sys.argv[1:] if args is None else args:
            name, equals, value = word.partition("=")
            if name.startswith("--"):
                word = name.replace("_", "-") + equals + value
            dashed.append(word)
        return super().parse_known_args(dashed, namespace)

    def do_without(self, *names: str) -> None:
        """Require these flags no longer."""
        for action in self._actions:
            action.required = action.required and action.dest not in names

    def check_bytes(self, words: list[str]) -> None:
        """Refuse what no file name and no tokenizer takes: NUL, and what is not UTF-8."""
        with contextlib.suppress(OSError):  # a directory that is gone
            if HALF.search(os.getcwd()):  # an adapter's file names its base by its whole path
                self.error("the name of the current directory is not UTF-8; rename it")
        flag = ""
        for word in words:
            if word.startswith("--"):
                flag, _, word = word.partition("=")
            shown = f"{flag} {word}".strip().encode("utf-8", "backslashreplace").decode()
            if "\0" in flag + word:
                self.error(f"{cut(shown)!r} has a NUL byte in it; leave it out")
            if HALF.search(flag + word):
                self.error(
                    f"{cut(shown)} is not UTF-8; rename the file or directory, or write the text "
                    "in UTF-8"
                )

    def check_names(self, words: list[str]) -> None:
        """Refuse flags that are not known, before those that are required and missing."""
        known = self._option_string_actions
        unknown = []
        for word in words:
            flag = word.partition("=")[0].replace("_", "-")
            if word.startswith("--") and " " not in word and flag != "--" and flag not in known:
                unknown.append((word, flag))
        for _, flag in unknown:
            if flag in FLAG_OF_OTHERS:
                self.error(f"{flag} has no meaning here; use {FLAG_OF_OTHERS[flag]}")
        for word, _ in unknown:
            self.refuse(word)

    def refuse(self, word: str) -> NoReturn:
        """Stop at a word that is no flag, with the flag that is nearest."""
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        if "key" in flag and value:
            value = "..."  # a secret must be on no screen and in no log
        hint = meant(flag, self._option_string_actions) or "; --help-all lists the flags"
        self.error(f"unknown argument {flag}{equals}{value}{hint}")

    def parse_args(
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse, or stop with exit code 2 and one sentence that names the flag and its remedy."""
        words = sys.argv[1:] if args is None else args
        self.check_bytes(words)
        self.check_names(words)
        known, unknown = self.parse_known_args(args, namespace)
        for word in unknown:
            if word.lower() in ("true", "false"):
                self.error(
                    f"unknown argument {word}: flags such as --gradient-checkpointing take no "
                    "value; --no-gradient-checkpointing switches off"
                )
            self.refuse(word)
        known.script = self.prog
        known.argv = list(words)
        return known

    def example(self) -> str:
        """Return the first command that the description shows, in one line; "" if it has none."""
        lines = (self.description or "").replace("\\\n", " ").splitlines()
        commands = [line.partition(" #")[0] for line in lines if line.startswith("    python ")]
        return " ".join(commands[0].split()) if commands else ""

    def error(self, message: str) -> NoReturn:
        """Stop with one sentence on stderr and exit code 2, as for a UserError."""
        if message.startswith("the following arguments are required") and self.example():
            message += f"; for example: {self.example()}"
        elif message.startswith("argument ") and "choose from" not in message:
            message += f"; {self.prog} --help-all says what it takes"
        self.exit(2, f"error: {message}\n")
