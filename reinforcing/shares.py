"""Which part of a step each of several processes computes (plumbing/ranks.py).

    split     prompts, rollout, rewards, and all passes with and without gradient
    not       what is made of whole groups: advantages, weights, which groups are replaced, metrics.
              Every process computes that of all rows, from the same numbers

A process holds the prompts of its own questions, and None in place of the others: preparing a
picture costs more than reading its answers. One process alone holds and computes all.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

import data
import rollout
from plumbing import ranks
from reinforcing.groups import Groups
from tasks.example import Example

Prompts = list[data.Prompt | None]  # None: another process has it


def places(N: int, K: int = 1) -> list[int]:
    """List this process's questions of N: its share of each of the K mini-batches."""
    own = ranks.share(N // K)
    return [first + n for first in range(0, N, N // K) for n in own]


def spread(own: Sequence[int], prompts: Sequence[data.Prompt], N: int) -> Prompts:
    """Put this process's prompts at their places among N."""
    found = [None] * N
    for place, prompt in zip(own, prompts):
        found[place] = prompt
    return found


@contextlib.contextmanager
def prompts_ahead(
    encode: Callable,
    examples: Sequence[Example],
    steps: Iterable[int],
    N: int,
    K: int,
    seed: int,
    num_workers: int,
) -> Iterator[Iterator[Prompts]]:
    """Encode this process's prompts of each step ahead of it: data.batches_ahead."""
    own = places(N, K)
    with data.batches_ahead(encode, examples, steps, N, seed, num_workers, own) as ahead:
        yield (spread(own, prompts, N) for prompts in ahead)


def encoded(encode: Callable, examples: Sequence[Example]) -> Prompts:
    """Encode this process's share of some examples."""
    own = ranks.share(len(examples))
    return spread(own, [encode(examples[n]) for n in own], len(examples))


def completed(groups: Groups, K: int, encode: Callable) -> Groups:
    """Encode what this process learns from and another has sampled: in the place of one replaced.

    The prompts of others go.
    """
    N = len(groups.examples)
    own = places(N, K)
    prompts = [groups.prompts[n] or encode(groups.examples[n]) for n in own]
    return groups._replace(prompts=spread(own, prompts, N))


def held(prompts: Prompts) -> tuple[list[int], list[data.Prompt]]:
    """Return the places of the prompts that this process has, and these."""
    own = [place for place, prompt in enumerate(prompts) if prompt is not None]
    return own, [prompts[place] for place in own]


def rows_of(questions: Sequence[int], G: int, first: int = 0) -> list[int]:
    """List the rows of some questions, G each, counted from `first`."""
    return [first + n * G + i for n in questions for i in range(G)]


def all_rows(roll: rollout.Rollout | None, rows: Sequence[int]) -> rollout.Rollout:
    """Put together what all processes have sampled.

    rows: where this one's belong. None: it has sampled nothing.
    """
    found = ranks.gathered((list(rows), roll))
    whole = functools.reduce(rollout.joined, [roll for rows, roll in found if rows])
    order = [row for rows, _ in found for row in rows]
    return whole.at(sorted(range(len(order)), key=order.__getitem__))


def all_scores(
    parts: dict[str, list[float]], failed: dict[str, int]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Put together the scores of all processes, and add up their failures."""
    whole, failures = {name: [] for name in parts}, dict.fromkeys(parts, 0)
    for their_parts, their_failed in ranks.gathered((parts, failed)):
        for name in parts:
            whole[name] += their_parts[name]
            failures[name] += their_failed[name]
    return whole, failures


def micro_batches(
    prompts: Prompts,
    roll: rollout.Rollout,
    K: int = 1,
    *,
    size: int,
    where: torch.device,
) -> Iterator[tuple[slice, dict]]:
    """Cut this process's share of each of K mini-batches into micro-batches: yield (rows, batch).

    rows: counted in the whole rollout.
    """
    N = len(prompts)
    G, own = len(roll.targets) // N, ranks.share(N // K)
    for start in range(0, N, N // K):
        first, end = start + own.start, start + own.stop
        part = roll.at(range(first * G, end * G))
        for rows, batch in rollout.micro_batches(prompts[first:end], part, size, where):
            yield slice(first * G + rows.start, first * G + rows.stop), batch


def added(
    loss: float, logp: Tensor, entropy: Tensor, balance: object, trained: Sequence[Parameter]
) -> tuple[float, Tensor, Tensor, dict[str, float]]:
    """Add up what the processes made of their rows, and their gradients, in place.

    logp, entropy: (B, T), 0 where a row is another's. balance: experts.Balance.
    Returns (loss, log-probs, entropy, metrics of experts) of the whole batch.
    """
    losses = torch.tensor([loss], dtype=torch.float64)
    ranks.summed([losses, logp, entropy])
    ranks.sum_gradients(trained)
    return losses.item(), logp, entropy, balance.metrics()
