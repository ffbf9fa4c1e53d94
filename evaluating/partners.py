"""Which other questions lend a question their picture, or are shown before it, by a seed."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import data
import rewards
from grading.answers import choice_index, extract_answer, without_letters
from grading.reading import text_form
from plumbing.errors import UserError
from tasks.example import Example, Turn
from tasks.marks import MARK
from tasks.picture_keys import share_one
from tasks.prompts import ASKS_BARE, asked_texts, question_text

TRIES = 200  # random partners before all are looked at


# --- without its picture, and with another's ---


def without_pictures(example: Example) -> Example:
    """Ask in words only: no picture, no place of one."""
    history = [Turn(role, unmarked(text)) for role, text in example.history]
    question = unmarked(example.question)
    return replace(example, images=[], sizes=None, question=question, history=history)


def unmarked(text: str) -> str:
    """Take the places of pictures out of a text."""
    return text.replace(MARK, "").strip()


def with_pictures_of(example: Example, other: Example) -> Example:
    """Ask a question about another's pictures."""
    return replace(example, images=other.images, sizes=other.sizes)


def swapped(examples: Sequence[Example], keys: Sequence[list[str]], seed: int) -> list[int | None]:
    """Choose whose pictures each question is asked with: the place of another one.

    None for a question without pictures. Never one that shares a picture, and as many pictures.
    Never one with the same gold answer, unless there is no other. Each lends its own once, where
    that can be. keys: of each question's pictures. UserError if all share their pictures.
    """
    rng = random.Random(f"swap {seed}")
    golds = [gold_text(example) for example in examples]
    partner: list[int | None] = [None] * len(examples)
    by_count: dict[int, list[int]] = {}
    for place, example in enumerate(examples):
        by_count.setdefault(len(example.images), []).append(place)
    by_count.pop(0, None)
    for group in by_count.values():

        def may(place: int, other: int) -> bool:
            return not share_one(keys[place], keys[other])

        def suits(place: int, other: int) -> bool:
            return golds[place] != golds[other] and not share_one(keys[place], keys[other])

        lent = dict(zip(group, rng.sample(group, len(group))))
        for place in group:  # exchange with another until both are suited
            for other in rng.choices(group, k=TRIES):
                if suits(place, lent[place]):
                    break
                if suits(place, lent[other]) and suits(other, lent[place]):
                    lent[place], lent[other] = lent[other], lent[place]
        for place in group:
            if not suits(place, lent[place]):
                lent[place] = drawn(rng, place, group, (suits, may), examples[place].source)
            partner[place] = lent[place]
    return partner


def drawn(
    rng: random.Random, place: int, group: list[int], rules: Sequence[Callable], source: str
) -> int:
    """Draw one of the group that the first rule allows, or else the second. UserError if none."""
    for rule in rules:
        allowed = [other for other in group if rule(place, other)]
        if allowed:
            return rng.choice(allowed)
    raise UserError(
        f"{source}: --swap needs another picture for this question, and no other question has one; "
        "raise --max-eval-samples, or omit --swap"
    )


def gold_text(example: Example) -> str:
    """Write the gold answer so that equal ones are equal: of a letter, the text of its option."""
    place = choice_index(example.answer, example.choices) if example.choices else None
    if place is None:
        return text_form(example.answer)
    return text_form(without_letters(tuple(example.choices))[place])


# --- shots ---


def shots_of(
    examples: Sequence[Example], keys: Sequence[list[str]], place: int, count: int, seed: int
) -> list[int]:
    """Draw the places of the questions that are shown, answered, before this one.

    None is about a picture of this question, nor are two of them about the same picture. Those of
    a worked solution that is wrong are not drawn. keys: of each question's pictures; of one
    without, its words, which may be asked twice. UserError if there are not so many.
    """
    rng = random.Random(f"shots {seed} {examples[place].id}")
    taken: list[int] = []
    seen = {*keys[place]}
    some = rng.sample(range(len(examples)), min(len(examples), TRIES))
    for other in itertools.chain(some, range(len(examples))):
        if len(taken) == count:
            break
        is_new = other != place and other not in taken and seen.isdisjoint(keys[other])
        is_like = bool(examples[other].images) == bool(examples[place].images)
        suits = is_like and can_be_shown(examples[other])
        if is_new and suits:
            taken.append(other)
            seen |= {*keys[other]}
    if len(taken) < count:
        raise UserError(
            f"{examples[place].source}: --shots {count} needs as many other questions with other "
            f"pictures and a right answer to show, and there are {len(taken)}; lower --shots, or "
            "raise --max-eval-samples"
        )
    return taken


def can_be_shown(example: Example) -> bool:
    """Tell whether a question can be shown with its answer."""
    if example.history or not example.answer:
        return False
    solution = example.solution
    is_read = solution is not None and extract_answer(solution) is not None
    return not is_read or rewards.accuracy(solution, example) == 1


def with_shots(example: Example, shots: Sequence[Example], template: str) -> Example:
    """Put answered questions before one, as earlier turns with their pictures.

    A shot's answer is what the template asks for: its worked solution, or the answer alone.
    """
    if not shots:
        return example
    shown = []
    for shot in shots:
        question = with_places(question_text(shot, template), len(shot.images))
        shown += [Turn("user", question), Turn("assistant", shown_answer(shot, template))]
    history, question = list(example.history), example.question
    if not any(MARK in text for text in asked_texts(example)):
        first = next((n for n, turn in enumerate(history) if turn.role == "user"), None)
        if first is None:
            question = with_places(question, len(example.images))
        else:
            history[first] = Turn("user", with_places(history[first].text, len(example.images)))
    images = [image for shot in shots for image in shot.images] + example.images
    return replace(example, question=question, history=shown + history, images=images, sizes=None)


def with_places(text: str, pictures: int) -> str:
    """Mark where pictures stand in a text that does not say so: before it."""
    return text if MARK in text else MARK * pictures + text


def shown_answer(shot: Example, template: str) -> str:
    """Write the answer of a shot."""
    asks_for_thinking = "<think>" in question_text(shot, template)
    if template in ASKS_BARE:
        return shot.answer
    return data.target_text(shot if asks_for_thinking else replace(shot, solution=None), template)
