"""What train_grpo.py optimises: its flags, and what they make of rewards and log-probs.

rewards -> advantages    advantages.py     --advantage --scale-rewards
log-probs -> loss        losses.py         --loss-type --importance-sampling-level --epsilon ...
"""

import argparse
import math
from functools import partial
from typing import NamedTuple

from torch import Tensor

import losses
import rewards
from grading import judges
from plumbing import flags
from plumbing.flags import int_from_1, not_negative, share
from plumbing.text import meant
from reinforcing.advantages import KINDS, SCALES, Advantage


def add_flags(p: flags.Parser) -> None:
    """Add the flags of the objective: rewards, advantages, loss."""
    group = p.add_argument_group("objective")
    add_advantage_flags(group)
    add_loss_flags(group)


def add_advantage_flags(g: flags.Group) -> None:
    """Add what makes rewards, and advantages of them."""
    add, common = g.add_argument, g.add_common
    common(
        "--reward-funcs",
        nargs="+",
        default=["accuracy", "format"],
        metavar="NAME",
        help=f"rewards to add up: {', '.join(sorted(rewards.REWARDS))}; or a "
        "sequence-classification checkpoint with one output, as a directory or hub name, "
        "which scores question and completion",
    )
    common(
        "--reward-weights", nargs="+", type=float, metavar="W", help="one per reward; default: 1"
    )
    common(
        "--advantage",
        choices=KINDS,
        default="group",
        help="how good a completion is: against its group's mean (GRPO); against the others of its "
        "group (rloo); against all tokens of the step (reinforce_pp)",
    )
    add(
        "--scale-rewards",
        choices=SCALES,
        help="divide by the standard deviation of the group, of the step, or not (Dr. GRPO); "
        "default: group; for --advantage group",
    )
    add(
        "--multi-objective-aggregation",
        choices=["sum_then_normalize", "normalize_then_sum"],
        default="sum_then_normalize",
        help="normalize_then_sum: each reward in its group, then their sum in the step (GDPO)",
    )


def add_loss_flags(g: flags.Group) -> None:
    """Add what makes a loss of advantages and log-probs."""
    add, common = g.add_argument, g.add_common
    common(
        "--loss-type",
        choices=sorted(losses.LOSSES),
        default="grpo",
        help="grpo, bnpo, dapo, dr_grpo: PPO's clip, and which mean over tokens: of each "
        "completion, then of all; over all tokens (bnpo and dapo); by a constant. gspo clips "
        "whole completions, cispo caps the weight of a token, sapo has a soft gate",
    )
    add(
        "--importance-sampling-level",
        choices=losses.LEVELS,
        help="a ratio for each token, or one for each completion (GSPO); default: loss's",
    )
    common("--beta", type=not_negative, default=0.0, help="weight of KL(policy || reference)")
    common(
        "--epsilon", type=not_negative, help="clip the ratio below 1 - this; default: loss's, 0.2"
    )
    add("--epsilon-high", type=not_negative, help="clip it above 1 + this; default: epsilon")
    add(
        "--delta",
        type=not_negative,
        help="where A < 0, count a ratio above this as this; above 1 + epsilon-high",
    )
    add(
        "--top-entropy-quantile",
        type=share,
        default=1.0,
        help="learn from this share of the step's tokens, those of the highest entropy (0.2: the "
        "80/20 rule, arXiv:2506.01939); below 1 it costs a pass without gradient",
    )
    add("--num-iterations", type=int_from_1, default=1, help="mu, updates on each rollout")
    add(
        "--mask-truncated-completions",
        action="store_true",
        default=False,
        help="completions cut at --max-completion-length teach nothing (DAPO's overlong filtering)",
    )


def check_flags(p: flags.Parser, args: argparse.Namespace) -> None:
    """Refuse what contradicts itself."""
    check_rewards(p, args)
    if args.advantage != "group" and args.scale_rewards:
        p.error(f"--scale-rewards is for --advantage group, not {args.advantage}; leave it out")
    is_gdpo = args.multi_objective_aggregation == "normalize_then_sum"
    if is_gdpo and (args.advantage != "group" or args.scale_rewards):
        p.error(
            "--multi-objective-aggregation normalize_then_sum (GDPO) has its own scale; "
            "leave out --advantage and --scale-rewards"
        )
    if args.loss_type in ("cispo", "sapo") and args.epsilon is not None:
        p.error(
            f"--epsilon is the lower bound of a clip, and {args.loss_type} has none; leave it out"
        )
    if args.loss_type == "sapo" and args.epsilon_high is not None:
        p.error("--epsilon-high is the upper bound of a clip, and sapo has none; leave it out")
    filled = argparse.Namespace(**vars(args) | defaults(args))
    if args.delta is not None:
        _, high = losses.clip_range(filled.epsilon, filled.epsilon_high)
        if losses.LOSSES[args.loss_type].term is not losses.clipped_surrogate:
            p.error(f"--delta is for losses with PPO's clip, not {args.loss_type}; leave it out")
        if args.delta <= high:
            p.error(f"--delta {args.delta:g} must be above the clip of the ratio, {high:g}")


def defaults(args: argparse.Namespace) -> dict:
    """Return what flags that were not given are: it follows from --loss-type."""
    row = losses.LOSSES[args.loss_type]
    epsilon, epsilon_high = row.epsilon
    if args.epsilon is not None:
        epsilon, epsilon_high = args.epsilon, None
    if args.epsilon_high is not None:
        epsilon_high = args.epsilon_high
    return {
        "scale_rewards": args.scale_rewards or "group",
        "importance_sampling_level": args.importance_sampling_level or row.level,
        "epsilon": epsilon,
        "epsilon_high": epsilon_high,
    }


def check_rewards(p: flags.Parser, args: argparse.Namespace) -> None:
    """Refuse rewards that do not exist, and weights that do not fit them."""
    known = rewards.REWARDS
    unknown = [n for n in args.reward_funcs if n not in known and not judges.names_checkpoint(n)]
    if unknown:
        p.error(
            f"--reward-funcs {unknown[0]} is neither a reward ({', '.join(sorted(known))}) "
            f"nor a checkpoint's directory or hub name{meant(unknown[0], known)}"
        )
    if len(set(args.reward_funcs)) < len(args.reward_funcs):
        p.error("--reward-funcs names a reward twice; use --reward-weights to count it more")
    if args.reward_weights and not all(math.isfinite(w) for w in args.reward_weights):
        p.error("--reward-weights must be finite numbers")
    if args.reward_weights and len(args.reward_weights) != len(args.reward_funcs):
        p.error(
            f"--reward-weights needs one weight for each of {' '.join(args.reward_funcs)}, "
            f"got {len(args.reward_weights)}"
        )


def advantage_of(args: argparse.Namespace) -> Advantage:
    """Return what turns rewards into advantages, as the flags say."""
    weights = args.reward_weights or [1.0] * len(args.reward_funcs)
    is_gdpo = args.multi_objective_aggregation == "normalize_then_sum"
    return Advantage(args.advantage, args.scale_rewards, is_gdpo, tuple(weights))


class Objective(NamedTuple):
    """What a token costs: a row of LOSSES and its settings; the KL's weight; and the routers'."""

    loss: losses.Loss
    level: str  # of losses.LEVELS
    low: float  # the bounds of the ratio
    high: float
    beta: float
    router_aux_loss_coef: float

    def cost(self, logp: Tensor, old_logp: Tensor, adv: Tensor, counted: Tensor) -> Tensor:
        """Cost each token, without the KL. logp, old_logp, counted: (B, T); adv: (B,). (B, T)."""
        seen = losses.at_level(logp, old_logp, counted, self.level)
        return self.loss.term(seen, old_logp, adv, counted, self.low, self.high)

    def clip_ratio(
        self, logp: Tensor, old_logp: Tensor, adv: Tensor, counted: Tensor
    ) -> dict[str, Tensor]:
        """Measure the share of tokens that are clipped; arguments of `cost`."""
        seen = losses.at_level(logp, old_logp, counted, self.level)
        clipped = self.loss.clipped(seen, old_logp, adv, counted, self.low, self.high)
        return losses.clip_ratio(clipped, adv, counted)

    def takes(self, sampled: Tensor, computed: Tensor, mask: Tensor) -> bool:
        """Decide whether log-probs recorded while sampling are exact enough for this clip range.

        A ratio of a whole completion is clipped so near 1 (GSPO: 3e-4) that what bfloat16 rounds
        off is beyond it. It may be a tenth of the range. sampled, computed, mask: (B, T), nats.
        """
        if self.level == "token":
            return True
        seen = losses.at_level(computed, sampled, mask, self.level)
        return bool(((seen - sampled) * mask).abs().max() <= 0.1 * (self.high - 1))


def objective_of(args: argparse.Namespace) -> Objective:
    """Return what a token costs, as the flags say."""
    loss = losses.LOSSES[args.loss_type]
    if args.delta is not None:
        term = partial(losses.two_sided_surrogate, delta=args.delta)
        clipped = partial(losses.two_sided_tokens, delta=args.delta)
        loss = loss._replace(term=term, clipped=clipped)
    bounds = losses.clip_range(args.epsilon, args.epsilon_high)
    level = args.importance_sampling_level
    return Objective(loss, level, *bounds, args.beta, args.router_aux_loss_coef)
