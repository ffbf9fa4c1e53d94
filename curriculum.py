"""What the supervised stage learns when: from which source, in which order, how large pictures are.

A run is a row of positions 0, 1, 2, ...; step s, from 1, learns those from (s - 1) N to s N - 1.
What stands at a position is a pure function of the flags, so a run that goes on sees the same:

    epoch     all examples once, shuffled; of a mixture, so many of each source as its weight says
    groups    --group-by-length: within an epoch, examples of about one length share a step
    pictures  --max-pixels A:B: larger from one fifth of the run to the next
"""

import argparse
import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import data
import lengths
import tasks
from plumbing import ranks
from plumbing.errors import UserError
from plumbing.loading import loading
from tasks import folders
from tasks.example import Example

TOY_EPOCH = 1000  # examples that a toy task, which never ends, counts as in a mixture
MEASURED = 256  # examples of a toy task whose answers are counted
GROUP_STEPS = 50  # steps whose examples are sorted together (transformers' mega-batches)
STAGES = 5  # sizes of pictures in a run that grows them (Idefics3: 364, 728, ..., 1820 across)


class Spot(NamedTuple):
    """Where a lesson comes from."""

    source: int  # of --data, in order
    place: int  # in that source
    max_pixels: int | None  # of a picture, where it is not the run's own


class Lesson(NamedTuple):
    """What an encoder is given."""

    example: Example
    source: int
    max_pixels: int | None


# --- the shares of a mixture ---


def epoch_counts(
    sizes: Sequence[int], answer_tokens: Sequence[float], weights: Sequence[float]
) -> list[int]:
    """Decide how many examples of each source an epoch has, for shares of answer tokens.

    sizes: examples of each source; an epoch has as many as all together. answer_tokens: mean of an
    example. weights: wanted shares, of any sum. A source's examples are in proportion to weight /
    answer_tokens, rounded by largest remainders, and at least one.
    """
    total = sum(sizes)
    _, power = math.frexp(max(weights))  # a power of two changes no digit, and 1e308 has a sum
    weights = [math.ldexp(weight, -power) for weight in weights]
    parts = [weight / tokens for weight, tokens in zip(weights, answer_tokens)]
    exact = [total * part / sum(parts) for part in parts]
    counts = [math.floor(number) for number in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    return [max(1, count) for count in counts]


def token_shares(counts: Sequence[float], answer_tokens: Sequence[float]) -> list[float]:
    """Say what share of the answer tokens each source has, at so many examples of each."""
    tokens = [count * each for count, each in zip(counts, answer_tokens)]
    return [each / sum(tokens) for each in tokens]


def mean_answer(asker: data.Asker, examples: Sequence[Example]) -> float:
    """Count the answer tokens of an example, as a mean: of a file all, of a toy task the first."""
    is_toy = data.is_endless(examples)
    counted = data.head(examples, MEASURED) if is_toy else lengths.shown(examples)
    counts = [lengths.lesson_tokens(asker, example).answers for example in counted]
    return sum(counts) / len(counts)


# --- the sizes of pictures ---


def stage_pixels(first: int, last: int) -> list[int]:
    """List the limits on pixels of the stages of a run: sides grow evenly, as in Idefics3.

    364**2, 1820**2 -> 364**2, 728**2, 1092**2, 1456**2, 1820**2 (arXiv:2408.12637, table 3).
    """
    a, b = math.sqrt(first), math.sqrt(last)
    return [round((a + (b - a) * stage / (STAGES - 1)) ** 2) for stage in range(STAGES)]


def pixels_at(step: int, max_steps: int, stages: Sequence[int]) -> int:
    """Return the limit at a step, from 1: each stage has the same share of the steps."""
    return stages[min((step - 1) * len(stages) // max_steps, len(stages) - 1)]


def check_growth(args: argparse.Namespace, is_fixed: bool) -> None:
    """Check --max-pixels A:B against --min-pixels, and against the run that goes on.

    is_fixed: the command has --max-pixels with one number. Raises UserError.
    """
    grows = args.max_pixels_growth
    if grows and is_fixed:
        raise UserError(
            f"--max-pixels was {grows} when {args.output_dir} was made and is {args.max_pixels} "
            "now; give it as it was, or name another --output-dir"
        )
    if grows and int(grows.split(":")[0]) < args.min_pixels:
        raise UserError(
            f"--max-pixels {grows} begins below --min-pixels {args.min_pixels}; raise the first "
            "number, or lower --min-pixels"
        )


# --- examples of about one length ---


def block_of(position: int, epoch: int | None, per_step: int) -> tuple[int, int]:
    """Find the positions [start, end) that are sorted together with this one.

    A block lies in one epoch (None: a stream has none). It ends where a step ends, or an epoch.
    It has GROUP_STEPS steps; of a short epoch a quarter, so that there is some chance left.
    """
    steps = GROUP_STEPS
    if epoch is not None:
        steps = max(1, min(epoch // (4 * per_step), GROUP_STEPS))
    span = steps * per_step
    start = position // span * span
    end = start + span
    if epoch is not None:
        begin = position // epoch * epoch
        start, end = max(start, begin), min(end, begin + epoch)
    return start, end


def grouped(start: int, end: int, tokens: Sequence[int], per_step: int, seed: int) -> list[int]:
    """Reorder the positions of a block so that steps hold examples of about one length.

    tokens: of each position's example, (end - start,). Returns the positions in their new order.
    Sorted by length they are cut into the steps of the block, which come in an order by chance:
    else the rate would fall with the length.
    """
    by_length = sorted(range(start, end), key=lambda position: tokens[position - start])
    cuts = [start, *range((start // per_step + 1) * per_step, end, per_step), end]
    steps = list(range(len(cuts) - 1))
    random.Random(f"groups {seed} {start}").shuffle(steps)
    order = [0] * (end - start)
    taken = 0
    for step in steps:
        size = cuts[step + 1] - cuts[step]
        first = cuts[step] - start
        order[first : first + size] = by_length[taken : taken + size]
        taken += size
    return order


def whole_length(asker: data.Asker, example: Example) -> int:
    """Count the tokens of prompt and response."""
    return lengths.lesson_tokens(asker, example).whole


# --- the run ---


@dataclass(eq=False)
class Curriculum:
    """What stands at each position of a run; curriculum[spot] is the Lesson there.

    counts: examples of each source in an epoch; None of a single stream, which has no epochs.
    per_step: N. measure: the length of an example, to group by; None: not grouped.
    stages: limits on pixels. box_limits: what "resized" boxes need beside the limit.
    """

    sources: list[Sequence[Example]]
    counts: list[int] | None
    per_step: int
    seed: int
    measure: Callable[[Example], int] | None = None
    stages: list[int] | None = None
    box_limits: tuple[str, int, int] = ("norm1000", 0, 0)  # box format, min_pixels, token side
    epochs: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    groups: dict[int, list[int]] = field(default_factory=dict)
    measured: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def epoch(self) -> Sequence[int] | None:
        """The positions of the first epoch; None if there are no epochs."""
        return None if self.counts is None else range(sum(self.counts))

    def at(self, position: int) -> tuple[int, int]:
        """Say what stands at a position before lengths are grouped: (source, place in it)."""
        if len(self.sources) == 1:
            return 0, data.places(self.sources[0], position, 1, self.seed)[0]
        number, place = divmod(position, len(self.epoch))
        if number not in self.epochs:
            self.epochs = {n: e for n, e in self.epochs.items() if abs(n - number) <= 1}
            self.epochs[number] = self.mixed(number)
        return self.epochs[number][place]

    def mixed(self, number: int) -> list[tuple[int, int]]:
        """List what an epoch holds, in its order: each source goes on where it was, shuffled."""
        turns, places = [], []
        for source, (examples, count) in enumerate(zip(self.sources, self.counts)):
            own = f"{self.seed} {source}"  # two sources of one size are shuffled differently
            places.append(iter(data.places(examples, number * count, count, own)))
            turns += [source] * count
        random.Random(f"mixture {self.seed} {number}").shuffle(turns)
        return [(source, next(places[source])) for source in turns]

    def tokens(self, position: int) -> int:
        """Measure the example at a position, once."""
        spot = self.at(position)
        if spot not in self.measured:
            source, place = spot
            self.measured[spot] = self.measure(self.sources[source][place])
        return self.measured[spot]

    def grouped_at(self, position: int) -> int:
        """Say which position's example comes at this one when lengths are grouped."""
        start, end = block_of(position, self.epoch and len(self.epoch), self.per_step)
        if start not in self.groups:
            tokens = [self.tokens(p) for p in range(start, end)]
            order = grouped(start, end, tokens, self.per_step, self.seed)
            self.groups = {s: g for s, g in self.groups.items() if s >= start - len(order)}
            self.groups[start] = order
        return self.groups[start][position - start]

    def spots(self, step: int, max_steps: int) -> list[Spot]:
        """List what a step learns from, step from 1."""
        pixels = pixels_at(step, max_steps, self.stages) if self.stages else None
        positions = range((step - 1) * self.per_step, step * self.per_step)
        if self.measure:
            positions = map(self.grouped_at, positions)
        return [Spot(*self.at(position), pixels) for position in positions]

    def __getitem__(self, spot: Spot) -> Lesson:
        source, place, pixels = spot
        return Lesson(self.example(self.sources[source], place, pixels), source, pixels)

    def example(self, examples: Sequence[Example], place: int, pixels: int | None) -> Example:
        """Take an example, its boxes in pixels of the picture as it is shown now."""
        box_format, min_pixels, token_side = self.box_limits
        if pixels is None or box_format != "resized":
            return examples[place]
        if data.is_endless(examples):
            return replace(examples, pixels=(min_pixels, pixels, token_side))[place]
        example = replace(examples[place], meta=dict(examples[place].meta))
        tasks.as_asked(example, box_format, min_pixels, pixels, token_side)
        return example

    def batches_ahead(
        self, encode: Callable, begun: int, max_steps: int, num_workers: int
    ) -> contextlib.AbstractContextManager[Iterator[list]]:
        """Encode the lessons of each step after `begun` ahead of it: see plumbing/loading.py.

        Of several processes each encodes its share of a step.
        """
        own = ranks.share(self.per_step)
        steps = range(begun + 1, max_steps + 1)
        wanted = (self.spots(step, max_steps)[own.start : own.stop] for step in steps)
        return loading(encode, self, wanted, num_workers)


def of(
    args: argparse.Namespace, asker: data.Asker, sources: dict[str, Sequence[Example]]
) -> Curriculum:
    """Plan a run as its flags say; print the shares of a mixture.

    sources: {--data: its examples}. Raises UserError for a mixture that cannot be.
    """
    every = list(sources.values())
    endless = [data.is_endless(examples) for examples in every]
    sizes = [TOY_EPOCH if e else len(examples) for e, examples in zip(endless, every)]
    counts = None if endless == [True] else sizes
    if args.mixture_weights:
        means = [mean_answer(asker, examples) for examples in every]
        counts = epoch_counts(sizes, means, args.mixture_weights)
        tell(list(sources), sizes, endless, counts, means)
    measure = stages = None
    if args.group_by_length:
        measure = functools.partial(whole_length, asker)
    if args.max_pixels_growth:
        stages = stage_pixels(*map(int, args.max_pixels_growth.split(":")))
        print(f"--max-pixels {args.max_pixels_growth}: {', '.join(map(str, stages))} in turn")
    limits = args.box_format, args.min_pixels, asker.processor.token_side
    return Curriculum(every, counts, args.batch_size, args.seed, measure, stages, limits)


def tell(
    specs: list[str],
    sizes: list[int],
    endless: list[bool],
    counts: list[int],
    means: list[float],
) -> None:
    """Print what an epoch of a mixture holds of each source."""
    names = folders.short_names(specs)
    print(f"an epoch of the mixture has {sum(counts)} examples:")
    shares = token_shares(counts, means)
    for spec, size, never_ends, count, mean, share in zip(
        specs, sizes, endless, counts, means, shares
    ):
        of_all = "drawn here" if never_ends else f"of {size}, {count / size:.2f} times each"
        print(
            f"  {names[spec]}: {share:.4f} of the answer tokens, {count} examples ({of_all}), "
            f"{mean:.1f} answer tokens an example"
        )


def logged_shares(
    specs: list[str], sources: Sequence[int], answers: Sequence[float]
) -> dict[str, float]:
    """Give each source's share of a step's answer tokens: {metric: share}; {} for one source.

    sources, answers: of each row of the step.
    """
    if len(specs) < 2:
        return {}
    names = folders.short_names(specs)
    total = sum(answers)
    return {
        f"mixture/{names[spec]}": sum(n for s, n in zip(sources, answers) if s == source) / total
        for source, spec in enumerate(specs)
    }
