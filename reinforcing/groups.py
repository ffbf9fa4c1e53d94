"""A step's groups: the G completions of each question, and new questions for those without signal.

A group whose rewards are all equal teaches nothing. `--max-resample-times` replaces it by a further
question, sampled anew: DAPO's dynamic sampling (arXiv:2503.14476, section 3.2). Which question that
is follows from (seed, step, try), so a resumed run sees the same. The whole group is kept or
replaced, by its spread and not by its mean (OpenRLHF#1270, NeMo-RL#3469).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import data
import rollout
from tasks.example import Example

FAR = 1_000_000_000  # in a toy stream: beyond what steps take


class Groups(NamedTuple):
    """N questions, and G completions of each, B = N * G in all, scored."""

    examples: list[Example]  # N
    prompts: list[data.Prompt]  # N
    roll: rollout.Rollout  # B rows
    completions: list[str]  # B
    parts: dict[str, list[float]]  # B scores of each reward
    failed: dict[str, int]  # completions that a reward could not score

    @property
    def G(self) -> int:
        """How many completions each question has."""
        return len(self.completions) // len(self.examples)

    def at(self, places: Sequence[int]) -> "Groups":
        """Return the groups at some places, in that order."""
        G = self.G
        rows = [place * G + row for place in places for row in range(G)]
        return Groups(
            [self.examples[i] for i in places],
            [self.prompts[i] for i in places],
            self.roll.at(rows),
            [self.completions[row] for row in rows],
            {name: [scores[row] for row in rows] for name, scores in self.parts.items()},
            self.failed,
        )


def joined(first: Groups, second: Groups) -> Groups:
    """Put the groups of two samplings one after the other."""
    parts = {name: scores + second.parts[name] for name, scores in first.parts.items()}
    failed = {name: count + second.failed[name] for name, count in first.failed.items()}
    return Groups(
        first.examples + second.examples,
        first.prompts + second.prompts,
        rollout.joined(first.roll, second.roll),
        first.completions + second.completions,
        parts,
        failed,
    )


def replaced(groups: Groups, keep: Tensor, fresh: Groups, good: Tensor) -> Groups:
    """Put good fresh groups, in order, into the places of those that are not kept.

    keep: (N,) bool; good: (n,) bool, of the fresh. What is left without a replacement stays.
    """
    N = len(groups.examples)
    new = iter([N + place for place in good.nonzero().flatten().tolist()])
    places = [place if keep[place] else next(new, place) for place in range(N)]
    return joined(groups, fresh).at(places)


def further(
    examples: Sequence[Example], number: int, N: int, seed: int, step: int, attempt: int, tries: int
) -> list[Example]:
    """Draw `number` further questions, N at most: a function of seed, step and attempt (from 1)."""
    start = ((step - 1) * tries + attempt - 1) * N
    if data.is_endless(examples):
        start += FAR
    places = data.places(examples, start, number, f"{seed}, resampled")
    return [examples[place] for place in places]


def refilled(
    groups: Groups,
    tries: int,
    again: Callable[[int, int], Groups],
    advantage: Callable[[Groups], Tensor],
) -> tuple[Groups, list[Groups]]:
    """Replace groups without signal, and say what was sampled: (groups, all samplings).

    again(number, attempt) samples and scores so many further questions; attempt counts from 1.
    advantage(groups): (B,). What has no replacement after `tries` stays.
    """
    sampled = [groups]
    for attempt in range(1, tries + 1):
        keep = informative(groups, advantage)
        if keep.all():
            break
        fresh = again(int((~keep).sum()), attempt)
        sampled.append(fresh)
        groups = replaced(groups, keep, fresh, informative(fresh, advantage))
    return groups, sampled


def informative(groups: Groups, advantage: Callable[[Groups], Tensor]) -> Tensor:
    """Find the groups that teach something, where an advantage is not 0: (N,) bool."""
    return (advantage(groups).view(-1, groups.G) != 0).any(1)


def signal_metrics(sampled: list[Groups], kept: int) -> dict[str, float]:
    """Describe all that was sampled in a step.

    kept: groups with signal that are learned from. Right and wrong are the accuracy reward's.
    """
    number = sum(len(groups.examples) for groups in sampled)
    found = {
        "groups/sampled_per_kept": number / max(1, kept),
        "groups/sampled_tokens": sum(int(groups.roll.mask.sum()) for groups in sampled),
    }
    if "accuracy" in sampled[0].parts:
        shares = []
        for groups in sampled:
            marks = torch.tensor(groups.parts["accuracy"]).view(-1, groups.G)
            shares += (marks == 1).float().mean(1).tolist()
        found["groups/all_right"] = sum(share == 1 for share in shares) / number
        found["groups/all_wrong"] = sum(share == 0 for share in shares) / number
    return found
