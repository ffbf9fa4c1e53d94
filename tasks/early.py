"""What can be said of a command before torch is imported, which takes seconds.

A script calls `check(__file__)` before its other imports. Its own parser looks again, more closely.
"""

import re
import sys
from pathlib import Path

import tasks
from plumbing import flags
from plumbing.errors import UserError
from tasks import inspection, pairs

ADDED = re.compile(r'\badd(?:_argument)?\(\s*((?:f?"--[\w{}-]+",?\s*)+)')
FLAG = re.compile(r"--[\w{}-]+")
CHECKS = {  # flags that name data
    "--data": tasks.must_exist,
    "--eval-data": tasks.must_exist,
    "--warmup-data": tasks.must_exist,
    "--pairs": pairs.must_exist,
}


def check(script: str) -> None:
    """Stop, as the script would, at a misspelt flag and at data that are not there."""
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        return
    parser = flags.Parser(None, Path(script).name)
    parser.check_bytes(words)
    parser.check_names(words, flags_in(script))
    try:
        for flag, name in values(words):
            if flag in CHECKS:
                CHECKS[flag](name)
    except UserError as error:
        parser.error(str(error))


def flags_in(script: str) -> list[str]:
    """List the flags of a script, as its text and what it calls of plumbing/flags.py spell them.

    f"--{task}-weight" -> "--*-weight"
    """
    text, shared = Path(script).read_text(encoding="utf-8"), ""
    if "inspection.parse_args" in text:
        text += Path(inspection.__file__).read_text(encoding="utf-8")
    for function in Path(flags.__file__).read_text(encoding="utf-8").split("\ndef ")[1:]:
        name = function.partition("(")[0]
        if f"flags.{name}(" in text or f" {name}(" in shared:  # what one calls is below it
            shared += function
    names = FLAG.findall(" ".join(ADDED.findall(text + shared)))
    names = [re.sub(r"\{\w*}", "*", name) for name in names]
    return [*names, *(name.replace("--", "--no-", 1) for name in names)]


def values(words: list[str]) -> list[tuple[str, str]]:
    """Pair each value with its flag; what comes before all flags is data, as in data.py."""
    flag, found = "--data", []
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flag = flag.replace("_", "-")
            found += [(flag, value)] if equals else []
        else:
            found.append((flag, word))
    return found
