"""From rewards to advantages: how much better than expected a completion was. (B,) in, (B,) out.

    group         (r - mean of its group) / (std + eps)               GRPO, arXiv:2402.03300
    rloo          r - mean of the other G - 1 of its group            RLOO, arXiv:2402.14740
    reinforce_pp  r whitened over all tokens of the step              REINFORCE++, arXiv:2501.03262

B = N * G rows, the G completions of a prompt contiguous; R rewards. `Advantage` chooses as the
flags of train_grpo.py say.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from losses import at_least_float32

EPS = 1e-4  # as in R1-V and TRL
KINDS = ("group", "rloo", "reinforce_pp")
SCALES = ("group", "batch", "none")


class Advantage(NamedTuple):
    """How a step's rewards become advantages: the flags of train_grpo.py, and what they read."""

    kind: str = "group"  # of KINDS
    scale: str = "group"  # of SCALES, for "group"
    normalize_first: bool = False  # GDPO's order, for "group"
    weights: tuple[float, ...] = ()  # of the rewards, for GDPO

    def of(self, rewards: Tensor, parts: Sequence[Sequence[float]], lengths: Tensor, G: int):
        """Compute the advantages of a step: (B,).

        rewards: (B,), the weighted sum of parts, R times B rewards. lengths: (B,), in tokens.
        Raises ValueError as `group_advantage`.
        """
        if self.normalize_first:
            return decoupled(rewards.new_tensor(parts), self.weights, G)
        if self.kind == "rloo":
            return leave_one_out(rewards, G)
        if self.kind == "reinforce_pp":
            return whitened(rewards, lengths)
        return group_advantage(rewards, G, self.scale)


def group_advantage(rewards: Tensor, G: int, scale: str = "group", eps: float = EPS) -> Tensor:
    """Compare each reward with its group, DeepSeekMath eq. 3 (arXiv:2402.03300).

    (r - mean) / (std + eps), where scale says whose std:
        group   the group's own
        batch   that of all rewards: no group is magnified for being nearly solved (2508.08221)
        none    no division: Dr. GRPO (2503.20783)

    A group with equal rewards gets exactly 0: it has no signal.
    rewards: (B,), the G completions of a prompt contiguous. Returns (B,), zero-mean in each group.
    Raises ValueError if G < 2, if B is not a multiple of G, or if a reward is NaN or infinite.
    """
    check_finite(rewards)
    groups, flat = in_groups(rewards, G)  # (N, G), (N, 1)
    adv = groups - groups.mean(1, keepdim=True)
    # torch's std is unbiased, as in R1-V and TRL. numpy's would give 1.15 times more at G = 4.
    if scale == "group":
        adv = adv / (groups.std(1, keepdim=True) + eps)
    elif scale == "batch":
        adv = adv / (groups.std() + eps)
    elif scale != "none":
        raise ValueError(f"unknown scale {scale!r}; there are {', '.join(SCALES)}")
    return adv.masked_fill(flat, 0.0).flatten()  # (B,)


def leave_one_out(rewards: Tensor, G: int) -> Tensor:
    """Compare each reward with the mean of the others of its group: RLOO (arXiv:2402.14740).

    It is G / (G - 1) times the reward minus the group's mean. rewards: (B,). Returns (B,).
    Raises ValueError as `group_advantage`.
    """
    return group_advantage(rewards, G, "none") * G / (G - 1)


def whitened(rewards: Tensor, lengths: Tensor, eps: float = EPS) -> Tensor:
    """Compare each reward with all others, token by token: REINFORCE++ (arXiv:2501.03262).

    Every token of a completion has its reward (no discount, no KL in the reward); mean and std are
    over all tokens of the step. So a long completion counts more. There are no groups: where all
    completions of the step score the same, all advantages are 0.
    rewards, lengths: (B,); lengths in tokens. Returns (B,). Raises ValueError for NaN or infinity.
    """
    check_finite(rewards)
    rewards = at_least_float32(rewards)
    counts = lengths.to(rewards)
    total = counts.sum().clamp(min=2)
    mean = (counts * rewards).sum() / total
    variance = (counts * (rewards - mean) ** 2).sum() / (total - 1)
    _, flat = in_groups(rewards, len(rewards))
    return ((rewards - mean) / (variance.sqrt() + eps)).masked_fill(flat[0], 0.0)


def decoupled(parts: Tensor, weights: Sequence[float], G: int, eps: float = EPS) -> Tensor:
    """Normalise each reward in its groups, add them up, normalise the sum: GDPO (2601.05242).

    With a plain sum, a reward of large spread drowns the others. A group in which every reward is
    flat gets exactly 0: it has no signal.
    parts: (R, B); weights: R numbers. Returns (B,). Raises ValueError as `group_advantage`.
    """

    def added(eps: float) -> Tensor:
        normalized = torch.stack([group_advantage(part, G, "group", eps) for part in parts])
        return (normalized * normalized.new_tensor(weights)[:, None]).sum(0)  # (B,)

    total = added(eps)
    # What eps leaves of rewards that cancel out is no signal, and the division would magnify it.
    _, flat = in_groups(added(0.0), G)  # (N, 1)
    adv = (total - total.mean()) / (total.std() + eps)  # the mean is 0, up to float noise
    return adv.view(-1, G).masked_fill(flat, 0.0).flatten()


# --- what a step's rewards say ---


@torch.no_grad()
def frac_reward_zero_std(rewards: Tensor, G: int) -> Tensor:
    """Measure the share of groups with equal rewards: those teach nothing. (B,) -> ().

    Equal is as in group_advantage, by the group's range; the name is TRL's.
    """
    return is_flat(rewards, G).float().mean()


def is_flat(rewards: Tensor, G: int) -> Tensor:
    """Find the groups whose rewards are all the same, up to float noise. (B,) -> (N,) bool."""
    return in_groups(rewards, G)[1].flatten()


# --- small helpers ---


def in_groups(rewards: Tensor, G: int) -> tuple[Tensor, Tensor]:
    """Arrange rewards by prompt, and find the flat groups.

    Flat: all the same up to float noise.
    rewards: (B,), any real dtype. Returns groups (N, G) in floating point and flat (N, 1) bool.
    Raises ValueError if G < 2 or B is not a multiple of G.
    """
    assert rewards.ndim == 1, f"rewards must be (B,), got {tuple(rewards.shape)}"
    if G < 2:
        raise ValueError(f"a group needs at least 2 completions to be compared, got G = {G}")
    if len(rewards) % G:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {G}")
    groups = at_least_float32(rewards).reshape(-1, G)  # (N, G)
    spread = groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)  # (N, 1)
    # Relative where rewards exceed 1: 0.1 + 0.2 and 0.3 are the same reward (NeMo-RL#4158).
    return groups, spread <= 1e-6 * groups.abs().amax(1, keepdim=True).clamp(min=1)


def check_finite(rewards: Tensor) -> None:
    """Raise ValueError for a NaN or infinite reward."""
    if not torch.isfinite(rewards).all():
        bad = (~torch.isfinite(rewards)).nonzero().flatten().tolist()
        raise ValueError(
            f"rewards of rows {bad} are not finite: one NaN would spread to its whole group"
        )
