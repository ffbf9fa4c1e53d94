"""Rows that an update learns from beside its groups: selective sample replay (arXiv:2504.08837).

    a row with an advantage    goes into the buffer, which keeps the newest
    a row without one          teaches nothing, and gives its place to one of the buffer
    which one                  row j with probability |A_j| / sum |A|, at each draw

pi_old of a replayed row is the log-prob recorded when it was sampled, so its ratio is not 1.
A checkpoint keeps the buffer: `plain`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

import rollout


class Rows(NamedTuple):
    """R completions, each with its own question."""

    roll: rollout.Rollout  # R rows
    adv: Tensor  # (R,)
    asked: list[int]  # R, positions of the questions in the run, as data.take counts them

    @classmethod
    def none(cls) -> "Rows":
        """Return 0 rows."""
        nothing = torch.zeros(0, 0)
        lengths = torch.zeros(0, dtype=torch.long)
        roll = rollout.Rollout(nothing.long(), nothing, nothing, lengths, [])
        return cls(roll, torch.zeros(0), [])

    def at(self, places: Sequence[int]) -> "Rows":
        """Return some of the rows, in this order."""
        places = list(places)
        return Rows(self.roll.at(places), self.adv[places], [self.asked[n] for n in places])

    def within(self, first: int, end: int) -> "Rows":
        """Return the rows of the questions at positions `first` to `end` - 1."""
        return self.at([n for n, asked in enumerate(self.asked) if first <= asked < end])

    def and_new(self, fresh: "Rows", most: int) -> "Rows":
        """Add the fresh rows that have an advantage, and keep the newest `most`."""
        useful = fresh.at(fresh.adv.nonzero().flatten().tolist())
        # Which experts computed a row is compared in its own step only.
        roll = rollout.joined(self.roll, replace(useful.roll, experts=None))
        whole = Rows(roll, torch.cat([self.adv, useful.adv]), self.asked + useful.asked)
        number = len(whole.asked)
        return whole.at(range(max(0, number - most), number))

    def drawn(self, number: int, seed: int) -> "Rows":
        """Draw rows in proportion to |A|: `number`, but not more than there are.

        Each draw is from all rows, so one may come twice.
        """
        number = min(number, len(self.asked))
        if not number:
            return self.at([])
        generator = torch.Generator().manual_seed(seed)
        chances = self.adv.abs().double()
        return self.at(torch.multinomial(chances, number, True, generator=generator).tolist())

    def plain(self) -> dict:
        """Return tensors and lists, which a checkpoint can keep."""
        return {"roll": vars(self.roll), "adv": self.adv, "asked": self.asked}

    @classmethod
    def of_plain(cls, saved: dict) -> "Rows":
        """Return the rows of which `plain` has made this."""
        return cls(rollout.Rollout(**saved["roll"]), saved["adv"], saved["asked"])
