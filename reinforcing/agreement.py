"""Do rollout and update agree about the same tokens? They are one policy, computed twice."""

from collections.abc import Callable

import torch
from torch import Tensor

from losses import kl_k3, masked_mean
from plumbing.errors import UserError
from plumbing.log import say


def check(
    sampled: Tensor, computed: Tensor, mask: Tensor, takes: Callable[..., bool], step: int
) -> tuple[dict[str, Tensor], bool]:
    """Compare log-probs recorded while sampling with those of the update: (difference, agrees).

    sampled, computed: of the same tokens and weights. All (B, T), nats.
    takes(sampled, computed, mask): whether the objective's clip range takes what differs.
    difference: logp_difference. Where they agree (rollout_agrees, takes), the sampled ones
    may serve as pi_old. UserError as `must_agree`.
    """
    gap = logp_difference(sampled, computed, mask)
    must_agree(gap, step)
    columns = sampled, computed, mask
    return gap, rollout_agrees(*columns) and takes(*columns)


def must_agree(gap: dict[str, Tensor], step: int) -> None:
    """Warn if rollout and update differ by more than 1e-3 nats per token.

    UserError above 1e-2, where the completions are as good as another policy's.
    """
    if not gap["k3"] <= 1e-3:  # so that nan does not pass
        text = (
            f"step {step}: rollout and update disagree about the same tokens: KL "
            f"{gap['k3']:.1e} nats a token, largest difference of log-probs {gap['max']:.2f}"
        )
        if not gap["k3"] <= 1e-2:
            raise UserError(
                f"{text}. What would be learned from is another policy's; "
                "use --dtype float32 or a higher --temperature, and report this"
            )
        say(f"  warning: {text} (in bfloat16 a low --temperature is enough for that)")


@torch.no_grad()
def logp_difference(sampling_logp: Tensor, logp: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Measure how far rollout and trainer disagree about the same tokens and weights.

    sampling_logp: (B, T) as sampled; logp: (B, T), the trainer's before any update; nats.
    Returns mean and max of |difference| in nats, and k3: KL(rollout || trainer), nats per token.
    """
    k3 = masked_mean(kl_k3(sampling_logp, logp), mask)
    gap = (sampling_logp - logp).abs().masked_fill(mask == 0, 0)  # (B, T)
    return {"mean": masked_mean(gap, mask), "max": gap.max(), "k3": k3}


@torch.no_grad()
def rollout_agrees(sampling_logp: Tensor, logp: Tensor, mask: Tensor) -> bool:
    """Decide whether log-probs recorded while sampling may serve as old_logp.  (B, T) nats, all.

    99 % of the first ratios must lie in [0.9, 1.1], and k3 be at most 1e-3 nats per token.
    """
    gap = logp_difference(sampling_logp, logp, mask)
    near = ((logp - sampling_logp).exp() - 1).abs() <= 0.1  # (B, T)
    return bool(masked_mean(near.float(), mask) >= 0.99 and gap["k3"] <= 1e-3)
