"""Mixtures of VLM-R1 and LLaVA-OneVision: a YAML file that lists files, and how much of each.

datasets:
  - json_path: refcoco_train.json
    sampling_strategy: all
  - json_path: refcocog_train.json
    sampling_strategy: random:10%
"""

import math
import os
import random
import re
from pathlib import Path
from typing import Any

from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.text import short
from tasks import splits
from tasks.files import must_end, read_text, rows_of
from tasks.splits import Row

SUFFIXES = (".yaml", ".yml")
BROKEN = (ValueError, LookupError, AttributeError, TypeError)  # what PyYAML lets through
BRACES = re.compile(r"\{([^{}]*)\}")
STRATEGY = re.compile(r"(first|end|random):(\d{1,9})(%?)")


def rows_of_mixture(
    spec: str, expected: str, agreement: splits.Agreement, bad: BadRecords
) -> list[Row]:
    """List the rows of all that a mixture takes, in its order.

    UserError for a file that is no mixture, and for what it names and is not there.
    """
    rows = []
    number = 0
    for part_number, part in enumerate(parts_of(Path(spec)), 1):
        where = f"{spec}: part {part_number}"
        path = part.get("json_path") if isinstance(part, dict) else None
        if not isinstance(path, str) or not path.strip():
            raise UserError(f"{where} has no `json_path`; name a file there, or delete the part")
        for named in spelled_out(path, Path(spec).parent):
            number += 1
            file, split = near(named, Path(spec).parent)
            if not os.path.isfile(file):
                raise UserError(
                    f"{where}: {short(named)} does not exist, neither beside the file nor here; "
                    "correct `json_path`"
                )
            found = rows_of(file, expected, f"{number}/{file.name}", bad)
            found = (Row(file, *row) for row in found)
            if split:
                found = splits.rows_saying(split, found, file)
            found = sampled(list(found), part.get("sampling_strategy", "all"), named, where)
            rows += found if split else agreement.of(found, None)
    if not rows:
        raise UserError(f"{spec} takes no record; raise a number in `sampling_strategy`")
    return rows


def parts_of(file: Path) -> list:
    """Read the list under `datasets`."""
    import yaml

    must_end(file)
    text = read_text(file)
    try:
        content = yaml.safe_load(text)
    except RecursionError:
        raise UserError(f"{file}: broken YAML (nested too deeply); expected a flat list") from None
    except BROKEN as error:  # a date of month 13, a number that is none
        raise UserError(f"{file}: broken YAML ({short(error, 80)}); put it in quotes") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = short(getattr(error, "problem", None) or error, 80)
        raise UserError(f"{file}{line}: broken YAML ({problem}); fix that line") from None
    parts = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(parts, list) or not parts:
        raise UserError(f"{file}: no mixture; expected a list under `datasets`, each a `json_path`")
    return parts


def spelled_out(named: str, folder: Path) -> list[str]:
    """List what braces stand for: "llava_{a,b}.json" -> ["llava_a.json", "llava_b.json"]."""
    braces = BRACES.search(named)
    if not braces or os.path.isfile(near(named, folder)[0]):
        return [named]
    before, after = named[: braces.start()], named[braces.end() :]
    names = [before + part.strip() + after for part in braces[1].split(",")]
    return [each for name in names for each in spelled_out(name, folder)]


def near(named: str, folder: Path) -> tuple[Path, str | None]:
    """Find a file beside the mixture, or here, and its split: "x.json:test" -> (x.json, "test")."""
    name, _, split = named.rpartition(":")
    for path in (folder / named, Path(named)):
        if os.path.isfile(path):
            return path, None
    for path in (folder / name, Path(name)):
        if name and os.path.isfile(path):
            return path, split
    return Path(named), None


def sampled(rows: list, strategy: Any, name: str, where: str) -> list:
    """Take all rows, or the first, the last or random ones: a number of them or a share.

    A share is rounded up, as in VLM-R1. What is random is decided by the file's name alone.
    """
    if strategy in ("all", None):
        return rows
    told = STRATEGY.fullmatch(str(strategy).strip())
    if not told:
        raise UserError(
            f"{where}: `sampling_strategy` {short(strategy, 40)!r} is unknown; "
            "write all, first:100, end:100, random:100 or a share, as random:10%"
        )
    way, number = told[1], int(told[2])
    if told[3]:
        number = math.ceil(number * len(rows) / 100)
    number = min(number, len(rows))
    if way == "first":
        return rows[:number]
    if way == "end":
        return rows[len(rows) - number :]
    places = random.Random(name).sample(range(len(rows)), number)
    return [rows[place] for place in places]
