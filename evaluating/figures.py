"""Count what the other ways to ask say about an evaluation's accuracy, from predictions.jsonl.

Each difference is paired, the same questions in both ways, and is the leading accuracy minus the
other; its 95 % interval is a paired bootstrap's, which draws whole pictures.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from evaluating.scoring import as_read, chosen_place, rule_of
from grading import clusters, metrics
from tasks.option_orders import ORDER


def of_ways(rows: Sequence[dict], protocol: str | None = None) -> dict[str, float]:
    """Return the figures of all other ways: {"blind/accuracy": 0.3, "blind/difference": ...}."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("ways", {})))
    figures: dict[str, float] = {}
    for name in names:
        if not name.startswith(ORDER):
            both = [(row, row["ways"][name]) for row in rows if name in row.get("ways", {})]
            figures |= of_way(name, both)
    if "blind" in names or "swap" in names:
        golds = Counter(row["answer"] for row in rows)
        figures["commonest_gold"] = golds.most_common(1)[0][1] / len(rows)
    if any(name.startswith(ORDER) for name in names):
        figures |= of_orders(rows, protocol)
    return figures | of_likelihoods(rows)


def of_way(name: str, both: Sequence[tuple[dict, dict]]) -> dict[str, float]:
    """Compare one way with the leading one. both: (a line, its part about this way)."""
    marks = [part["accuracy"] for _, part in both]
    figures = paired(name, [row for row, _ in both], marks)
    figures[f"{name}/same_answer"] = metrics.mean([part["same"] for _, part in both])
    figures[f"{name}/unreadable"] = metrics.mean([part["read"] is None for _, part in both])
    figures[f"{name}/mean_length"] = metrics.mean([part["tokens"] for _, part in both])
    return figures


def paired(name: str, rows: list[dict], marks: list[float]) -> dict[str, float | None]:
    """Return accuracy, n and difference of the rows' marks in one way, each with its interval.

    None for the interval of a difference whose questions are all about one picture.
    """
    share = metrics.share("accuracy", sum(marks), len(marks))
    differences = [row["accuracy"] - mark for row, mark in zip(rows, marks)]
    low, high = clusters.bootstrap(differences, clusters.pictures_of(rows))
    difference = {
        "difference": metrics.mean(differences),
        "difference_low": low,
        "difference_high": high,
    }
    figures = share | clusters.known(difference)
    return {f"{name}/{key}": value for key, value in figures.items()}


# --- options ---


def of_orders(rows: Sequence[dict], protocol: str | None) -> dict[str, float]:
    """Count over the orders of the options, and by the letter at which the right one stands.

    shuffled/accuracy: the mean over the other orders.
    shuffled/every_order: the share of questions right in all of them and as written.
    shuffled/flips: of the answers that name an option, as the one as written does, the share that
    name another.
    letter A/accuracy: of all orders in which A is right, if any. letter A/right: how often it is.
    letter A/chosen: how often it is chosen, of the answers that name an option.
    """
    shuffled = [row for row in rows if orders_in(row)]
    means, every, flips, answers = [], [], [], []
    for row in shuffled:
        as_written, *others = own = answers_of(row, protocol)
        means.append(metrics.mean([answer.accuracy for answer in others]))
        every.append(all(answer.accuracy == 1 for answer in own))
        named = [answer.chosen for answer in others if answer.chosen is not None]
        if as_written.chosen is not None:
            flips += [chosen != as_written.chosen for chosen in named]
        answers += own
    figures = paired("shuffled", shuffled, means)
    figures["shuffled/every_order"] = metrics.mean(every)
    figures["shuffled/flips"] = sum(flips) / max(1, len(flips))
    return figures | by_letter(answers)


class Answer(NamedTuple):
    """An answer to a question with its options in some order. Options by their place as written."""

    order: list[int]  # order[place] is the option that stands there
    gold: int
    chosen: int | None
    accuracy: float


def orders_in(row: dict) -> list[dict]:
    """List what a line says of its options in other orders."""
    return [part for name, part in row.get("ways", {}).items() if name.startswith(ORDER)]


def answers_of(row: dict, protocol: str | None) -> list[Answer]:
    """List the answers to a question in all orders, first as written."""
    read, _ = rule_of(protocol)
    gold = chosen_place(row["answer"], row["choices"])
    chosen = chosen_place(read(as_read(row, protocol)["prediction"]), row["choices"])
    as_written = Answer(list(range(len(row["choices"]))), gold, chosen, row["accuracy"])
    return [as_written] + [
        Answer(part["order"], gold, part["chosen"], part["accuracy"]) for part in orders_in(row)
    ]


def by_letter(answers: Sequence[Answer]) -> dict[str, float]:
    """Count by the letter at which the right option stands, and the chosen one."""
    scores: dict[int, list[float]] = {}
    for answer in answers:
        scores.setdefault(answer.order.index(answer.gold), []).append(answer.accuracy)
    named = [answer for answer in answers if answer.chosen is not None]
    chosen = Counter(answer.order.index(answer.chosen) for answer in named)
    figures = {}
    for place in sorted({*scores, *chosen}):
        name = f"letter {chr(ord('A') + place)}"
        own = scores.get(place, [])
        if own:
            figures[f"{name}/accuracy"] = metrics.mean(own)
        figures[f"{name}/chosen"] = chosen[place] / max(1, len(named))
        figures[f"{name}/right"] = len(own) / len(answers)
    return figures


def of_likelihoods(rows: Sequence[dict]) -> dict[str, float]:
    """Compare the likeliest option, by letter and by text, with the answer that was written."""
    figures = {}
    for kind in ("letter", "text"):
        both = [row for row in rows if kind in row.get("likelihood", {})]
        if both:
            golds = [chosen_place(row["answer"], row["choices"]) for row in both]
            chosen = [row["likelihood"][kind]["chosen"] for row in both]
            marks = [float(option == gold) for option, gold in zip(chosen, golds)]
            figures |= paired(f"likelihood by {kind}", both, marks)
    return figures
