"""The ways in which an evaluation puts its questions, beside the one whose figures lead.

Each is the same questions, changed in one respect. A question that cannot be changed so, such as
one without choices, is not asked in that way.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lengths
from data import Asker
from evaluating import partners
from plumbing.errors import UserError
from tasks import changed, option_orders, picture_keys, prompts, protocols
from tasks.example import Example


@dataclass(frozen=True)
class Way:
    """One more way to put the questions.

    name: of its answers in predictions.jsonl, and of its figures.
    asked: each question as it is put, None where it is not. bare: whether the answer has no tags.
    judged: what an answer is scored by; None: by the question as it leads.
    notes: what a line of predictions.jsonl says of it besides.
    """

    name: str
    asked: list[Example | None]
    bare: list[bool]
    judged: list[Example | None] | None = None
    notes: list[dict] | None = None

    def places_in(self, places: range) -> list[int]:
        """List those of the places whose questions are asked in this way."""
        return [place for place in places if self.asked[place] is not None]


@dataclass(frozen=True)
class Questions:
    """The questions of an evaluation, and how they are put.

    template: in whose words, unless a record names another. is_for_all: even then.
    shots: of each question, the places of those that are shown, answered, before it.
    """

    examples: list[Example]
    template: str
    is_for_all: bool
    shots: list[list[int]]

    def put(self, examples: Sequence[Example | None], template: str = "") -> list[Example | None]:
        """Add template and shots to the questions, or to changed ones.

        template: one for all, in place of the leading one.
        """
        own = template or (self.template if self.is_for_all else "")
        asked = []
        for example, shown in zip(examples, self.shots):
            shots = [self.examples[other] for other in shown]
            if example is not None and own:
                example = prompts.with_template(example, own)
                shots = [prompts.with_template(shot, own) for shot in shots]
            if example is not None:
                example = partners.with_shots(example, shots, own or self.template)
            asked.append(example)
        return asked

    def shown_before(self, place: int) -> dict:
        """Say in a question's line of predictions.jsonl which others were shown before it."""
        shots = [self.examples[other].id for other in self.shots[place]]
        return {"shots": shots} if shots else {}

    def bare(self, template: str = "") -> list[bool]:
        """Say of each question whether it asks for an answer without tags."""
        own = template or (self.template if self.is_for_all else "")
        named = [own or e.meta.get("prompt_template", self.template) for e in self.examples]
        return [name in prompts.ASKS_BARE for name in named]


def as_flags_say(examples: list[Example], args: Namespace) -> tuple[Questions, list[Way]]:
    """Return how the questions lead, and all other ways that the flags ask for.

    UserError for a way that fits no question.
    """
    compared = examples if args.swap or args.shots else []
    keys = [picture_keys.keys_of(example) for example in compared]
    shots = shots_of(examples, keys, args.shots, args.seed)
    questions = Questions(examples, args.prompt_template, bool(args.templates), shots)
    ways = list(in_templates(questions, (args.templates or [])[1:]))
    if args.blind:
        ways.append(blind(questions))
    if args.swap:
        ways.append(swap(questions, keys, args.seed))
    if args.consistency:
        ways += small_changes(questions)
    ways += orders(questions, args.shuffle_choices, args.protocol, args.seed)
    must_be_asked(ways)
    if args.choices_by == "likelihood":
        must_have_choices(examples)
    return questions, ways


def must_fit(
    asker: Asker, questions: Questions, asked: list[Example], ways: list[Way], room: int
) -> None:
    """Check that every prompt fits the context with `room` tokens more. UserError now, not later.

    The questions as their records have them were checked before: examples that do not fit may be
    left out there. asked: as they lead.
    """
    shots = max(map(len, questions.shots), default=0)
    if shots or questions.is_for_all:
        check(asker, asked, room, f"with --shots {shots}: " if shots else "")
    for way in ways:
        check(asker, [e for e in way.asked if e is not None], room, f"asked as {way.name}: ")


def check(asker: Asker, asked: list[Example], room: int, which: str) -> None:
    """Check as lengths.fitting does; the message begins with `which`."""
    try:
        lengths.fitting(asker, asked, room)
    except UserError as error:
        raise UserError(f"{which}{error}") from None


def in_templates(questions: Questions, templates: Sequence[str]) -> Iterator[Way]:
    """Ask by other templates."""
    for name in templates:
        asked = questions.put(questions.examples, name)
        yield Way(f"template {name}", asked, questions.bare(name))


def blind(questions: Questions) -> Way:
    """Ask in words only, shots too, as the blind test of MMStar (arXiv:2403.20330).

    A grey picture would say that there is something to be seen.
    """
    asked = [
        partners.without_pictures(example) if example.images else None
        for example in questions.put(questions.examples)
    ]
    return Way("blind", asked, questions.bare())


def swap(questions: Questions, keys: list[list[str]], seed: int) -> Way:
    """Ask about the picture of another question."""
    examples = questions.examples
    changed_ones, notes = [], []
    for example, other in zip(examples, partners.swapped(examples, keys, seed)):
        if other is None:
            changed_ones.append(None)
            notes.append({})
        else:
            changed_ones.append(partners.with_pictures_of(example, examples[other]))
            notes.append({"pictures_of": examples[other].id})
    return Way("swap", questions.put(changed_ones), questions.bare(), notes=notes)


def small_changes(questions: Questions) -> Iterator[Way]:
    """Ask in other words, and about pictures that are changed a little."""
    asked, bare = questions.put(questions.examples), questions.bare()
    reworded = [prompts.reworded(example, questions.template) for example in asked]
    yield Way("wording", reworded, bare)
    for change in changed.CHANGES:
        suits = [bool(e.images) and changed.keeps_gold(e, change) for e in asked]
        if any(suits):
            pairs = zip(asked, suits)
            with_it = [changed.with_change(e, change) if fits else None for e, fits in pairs]
            yield Way(change, with_it, bare)


def orders(questions: Questions, count: int, protocol: str | None, seed: int) -> Iterator[Way]:
    """Ask with the options in `count` other orders."""
    columns: list[list[tuple]] = []
    for example in questions.examples:
        options = len(example.choices or [])
        own = option_orders.orders_of(options, count, f"{seed} {example.id}")
        pairs = [(order, option_orders.reordered(example, order)) for order in own]
        columns.append(pairs + [(None, None)] * (count - len(pairs)))
    for number in range(count):
        turned = [column[number][1] for column in columns]
        taken = [column[number][0] for column in columns]
        notes = [{"order": order} for order in taken]
        judged = [scored_by(protocol, example) for example in turned]
        asked = questions.put(turned)
        yield Way(f"{option_orders.ORDER}{number + 1}", asked, questions.bare(), judged, notes)


def scored_by(protocol: str | None, example: Example | None) -> Example | None:
    """Make a question, if there is one, one that the protocol scores."""
    if example is None:
        return None
    [judged] = protocols.judged([example], protocol)
    return judged


def shots_of(
    examples: list[Example], keys: list[list[str]], count: int, seed: int
) -> list[list[int]]:
    """Draw the places of each question's shots. UserError if there are not so many."""
    if not count:
        return [[] for _ in examples]
    keys = [own or [example.question.strip()] for own, example in zip(keys, examples)]
    return [partners.shots_of(examples, keys, place, count, seed) for place in range(len(examples))]


def must_have_choices(examples: Sequence[Example]) -> None:
    """Refuse to rank the options of questions that have none. UserError."""
    if not any(example.choices for example in examples):
        raise UserError("--choices-by likelihood: no question has choices; omit it")


def must_be_asked(ways: Sequence[Way]) -> None:
    """Refuse a way in which no question can be put. UserError."""
    for way in ways:
        if way.places_in(range(len(way.asked))):
            continue
        if way.name.startswith(option_orders.ORDER):
            raise UserError(
                "--shuffle-choices: no question has so many orders of choices that stand one after "
                "another in its text; lower it, or omit it"
            )
        raise UserError(f"--{way.name}: no question has a picture; omit it")
