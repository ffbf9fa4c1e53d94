"""Choose questions by how often they are answered right (`--pass-rates`, `--keep-pass-rate`).

A question that is always or never right gives groups without signal. The rates come from an
evaluate.py run with --num-samples, or from a column of the data, such as ViRL39K's.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import data
from plumbing.errors import UserError
from plumbing.log import say
from plumbing.records import read_lines
from plumbing.text import short
from tasks.example import Example


def chosen(
    examples: Sequence[Example], source: str | None, bounds: Sequence[float] | None
) -> Sequence[Example]:
    """Keep the examples whose pass rate lies within the bounds; leave out those without one.

    source: a file of records, or the name of a column; None keeps all. UserError if none is left.
    """
    if source is None:
        return examples
    low, high = bounds
    if low > high:
        raise UserError(f"--keep-pass-rate {low:g} {high:g}: LOW is above HIGH; exchange them")
    if data.is_endless(examples):
        raise UserError(
            "--pass-rates chooses among the questions of a file, and a toy task has no end; "
            "leave it out, or write questions to a file first"
        )
    is_file = os.path.isfile(source)  # unlike Path.is_file(), also False for a name too long
    if is_file:
        rates = rates_in(about(read_lines(Path(source)), examples, source), source)
    else:
        rates = column(examples, source)
    known = [example for example in examples if example.id in rates]
    if not known:
        where = "no question of --data has an id in it" if is_file else "no such file or column"
        raise UserError(f"--pass-rates {source}: {where}")
    kept = [example for example in known if low <= rates[example.id] <= high]
    if not kept:
        found = [rates[example.id] for example in known]
        raise UserError(
            f"--keep-pass-rate {low:g} {high:g} leaves none of the {len(known)} questions with a "
            f"pass rate, which is from {min(found):g} to {max(found):g}; widen it"
        )
    say(
        f"kept {len(kept)} of {len(examples)} questions: those with a pass rate from {low:g} to "
        f"{high:g}; {len(examples) - len(known)} have none"
    )
    return kept


def about(lines: Iterable[object], examples: Sequence[Example], name: str) -> list[dict]:
    """Keep the lines with an id, but those that ask another question than the example of that id.

    An id may be a file's name and a line's number, which another file, or a changed one, has, too.
    UserError if there are others only.
    """
    lines = [line for line in lines if isinstance(line, dict) and "id" in line]
    asked = {example.id: example.question for example in examples}

    def is_another(line: dict) -> bool:
        question = asked.get(str(line["id"]))
        return question is not None and line.get("question", question) != question

    others = [line for line in lines if is_another(line)]
    same = [line for line in lines if not is_another(line)]
    if others and not any(str(line["id"]) in asked for line in same):
        raise UserError(
            f"--pass-rates {name}: it asks other questions than --data under the same ids, such as "
            f"{others[0]['id']}; run evaluate.py on this --data"
        )
    if others:
        say(f"--pass-rates {name}: {len(others)} lines ask another question than --data; left out")
    return same


def rates_in(lines: Sequence[dict], name: str) -> dict[str, float]:
    """Read how often each question was answered right: {id: share}.

    lines: predictions.jsonl of evaluate.py, with `right` for each sample; or with `pass_rate`.
    UserError if they have neither, or if a question is there twice.
    """
    ids = Counter(str(line["id"]) for line in lines)
    twice = [id for id, count in ids.items() if count > 1]
    if twice:
        raise UserError(
            f"--pass-rates {name} has {twice[0]} more than once; keep one line for each question"
        )
    rates = numbers({str(line["id"]): rate_of(line) for line in lines}, name)
    if not rates:
        raise UserError(
            f"--pass-rates {name} has no samples; make it by evaluate.py --num-samples 8"
        )
    return rates


def rate_of(line: dict) -> object:
    """Return a line's `pass_rate`, or the mean of its marks, 0 to 1; None if it has neither."""
    if line.get("pass_rate") is not None:
        return line["pass_rate"]
    right = line.get("right")
    if not isinstance(right, list) or not right:
        return None
    if not all(isinstance(mark, int | float) and 0 <= mark <= 1 for mark in right):
        return None
    return sum(right) / len(right)


def column(examples: Sequence[Example], name: str) -> dict[str, float]:
    """Read the rates from a column of the data: {id: share}."""
    return numbers({example.id: example.meta.get(name) for example in examples}, name)


def numbers(values: dict[str, object], name: str) -> dict[str, float]:
    """Turn rates into numbers, but None and NaN, which stand for none. UserError for words."""
    found = {}
    for key, value in values.items():
        try:
            if value is not None and not math.isnan(float(value)):
                found[key] = float(value)
        except (TypeError, ValueError, OverflowError):  # the last: of 309 digits and more
            raise UserError(
                f"--pass-rates {name}: {short(repr(value), 60)}, the rate of {key}, is no "
                "number; correct it, or leave it out"
            ) from None
    return found
