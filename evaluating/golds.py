"""Which held-out questions can be measured: those with a gold answer that can be scored."""

from collections.abc import Callable

import data
from plumbing.bad_records import REFUSE, BadRecords
from tasks import protocols
from tasks.example import Example


def with_answers(
    sets: dict[str, list[Example]], check: Callable, bad: BadRecords = REFUSE
) -> dict[str, list[Example]]:
    """Leave out the questions without a gold answer: what is right is unknown.

    check, bad: see data.check_golds, which raises UserError for a gold that cannot be scored.
    """
    answered = {}
    for name, examples in sets.items():
        known = [example for example in examples if example.answer]
        if len(known) < len(examples):
            print(
                f"evaluation: {len(examples) - len(known)} of {len(examples)} questions of {name} "
                "have no gold answer and are left out"
            )
        if known:
            known = data.check_golds(known, check, bad)
            answered[name] = known
    return answered


def check_protocol(sets: list[list[Example]], protocol: str | None) -> None:
    """Raise UserError, naming file and line, for what the protocol cannot score."""
    for examples in sets:
        protocols.judged([example for example in examples if example.answer], protocol)
