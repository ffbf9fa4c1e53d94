"""A teacher for the toy sets that knows the scene.

`--teacher toy` speaks the solutions of the toy sets' teacher (tasks/teacher.py), mistakes and all.
`--judge toy` judges exactly: it compares what a trace says with the scene.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from distilling import filters
from distilling.filters import Trace
from distilling.stages import to_trace
from plumbing.errors import UserError
from tasks.asks import Ask, Reply, text_of
from tasks.example import Example

# What it says of what it was given, where a stage gives it that: a leak.
OF_THE_DESCRIPTION = "According to the description, this is so."
OF_THE_REFERENCE = "The provided reference answer agrees with this."

Spoil = Callable[[str, Example, random.Random], str]  # a worked answer -> one with faults


def as_it_is(solution: str, example: Example, rng: random.Random) -> str:
    """Leave a worked answer without a fault of its own."""
    return solution


def with_sentence(solution: str, sentence: str, rng: random.Random) -> str:
    """Put a sentence before, between or after those of a worked answer's thinking."""
    trace = to_trace(solution)
    said = [part.strip() for part in re.findall(r"[^.]*\.", trace.thinking)] or [trace.thinking]
    said.insert(rng.randint(0, len(said)), sentence)
    return f"<think> {' '.join(said)} </think><answer> {trace.answer} </answer>"


def must_be_toy(examples: Iterable[Example], spec: str) -> None:
    """Refuse data whose scenes are not known, or are of no shapes. UserError."""
    if not all(filters.scene_of(example) for example in examples):
        raise UserError(
            f"--teacher toy and --judge toy know the scenes of count and spatial, and --data is "
            f"{spec}; name a teacher, or one of these"
        )


class ToyTeacher:
    """Answer every stage about toy examples of shapes, from their scenes; seeded by ask.

    examples: {id: example}, of `count` or `spatial`; a request's id is "stage:id".
    spoil: puts faults into its answers (recipes/planted.py). leaks: sentences that it, as a judge,
    takes for leaks.
    """

    name = "toy"

    def __init__(
        self,
        examples: dict[str, Example],
        spoil: Spoil = as_it_is,
        leaks: Sequence[str] = (OF_THE_DESCRIPTION, OF_THE_REFERENCE),
    ) -> None:
        self.examples, self.spoil, self.leaks = examples, spoil, leaks

    def ask(self, asks: Sequence[Ask], seeds: Sequence[int]) -> Iterator[tuple[Ask, Reply]]:
        """Answer each ask, in order; tokens are counted as words."""
        for ask, seed in zip(asks, seeds):
            stage, _, id = ask.id.partition(":")
            said = "\n".join(text_of(message) for message in ask.messages)
            text = self.answer(stage, self.examples[id], said, random.Random(seed))
            yield ask, Reply(text, len(said.split()), len(text.split()), "stop")

    def answer(self, stage: str, example: Example, said: str, rng: random.Random) -> str:
        """Write what a stage wants. said: the text of the request."""
        solution = example.solution or ""
        rows = " ".join(row[0] for row in filters.ROW.finditer(solution))
        if stage == "kind":
            return "natural"
        if stage == "blind":
            guess = rng.choice(example.choices or ["0", "1", "2"])
            return f"<think> I see nothing, and guess. </think><answer> {guess} </answer>"
        if stage in ("describe", "caption"):
            return f"Four rows of objects on grey. {rows}"
        if stage == "reason":
            return with_sentence(self.spoil(solution, example, rng), OF_THE_DESCRIPTION, rng)
        if stage == "hindsight":
            return with_sentence(self.spoil(solution, example, rng), OF_THE_REFERENCE, rng)
        if stage in ("look", "clean"):
            again = solution.replace(" </think>", " Looking again, I see the same. </think>")
            return self.spoil(again, example, rng)
        if stage == "continue":
            return self.spoil(solution, example, rng).removeprefix("<think>")
        if stage == "judge":
            return self.verdict(example, said)
        if stage == "qa":
            return f"Q: {example.question}\nA: {example.answer}"
        return self.spoil(solution, example, rng)

    def verdict(self, example: Example, said: str) -> str:
        """Judge exactly what the student says about the scene."""
        told = re.search(
            r"Student's reasoning:\n(.*)\n\nStudent's answer: (.*?)\n", said, re.DOTALL
        )
        trace = Trace(f"<think> {told[1]} </think><answer> {told[2]} </answer>")
        found = [filters.hallucination(trace, example), filters.overlooked(trace, example)]
        why = "; ".join(verdict.why for verdict in found if not verdict.passes)
        told_of = next((text for text in self.leaks if text in trace.thinking), "")
        grounded = f"no, {why}" if why else "yes"
        firsthand = f"no, {told_of}" if told_of else "yes"
        return f"CONSISTENT: yes\nRELEVANT: yes\nGROUNDED: {grounded}\nFIRSTHAND: {firsthand}"
