"""Losses and the numbers that describe them: tensors in, tensors out, no model in sight.

A loss is a *term*, what each token costs, times *weights*, how much each token counts:

    per_token = term(logp, old_logp, adv, mask, low, high) + beta * kl_k3(logp, ref_logp)  # (B, T)
    loss      = aggregate(per_token, weights) = sum over b, t of per_token * weights

The two choices are independent. `LOSSES` at the bottom pairs them under the names of `--loss-type`.

Dimension key: N prompts in a step, G completions per prompt, B = N*G rows with the groups
contiguous (or the rows of a micro-batch), T target positions, P pairs.
Alignment rule: every (B, T) tensor speaks about the response tokens, x[b, t] about targets[b, t].
T counts responses only. The one shift (the state *before* a token predicts it) is made in
`batching.pad` and `batching.pack` (`state_index`): nothing here is ever sliced [:, 1:].
`mask` (B, T) is 1 where a target counts, its first eos included, and 0 after.
All log-probs and KLs are in nats.

The weights belong to one optimizer update: make them from the mask of *all* its rows, then cut them
like the rows. So `--micro-batch-size` is about memory and cannot change the gradient:

    weights = token_weights(mask, loss_type, max_completion_length)            # the whole update
    for rows in micro_batches:                                  # any partition of the B rows
        per_token = term(logp[rows], old_logp[rows], adv[rows], mask[rows], low, high)
        aggregate(per_token, weights[rows]).backward()          # adds up to the full gradient

Preferences compare whole responses: a log-prob is the *sum* over the response, (P,) nats.
`preference_loss` costs each pair by itself, (P,), under the names of `PAIR_LOSSES` at the bottom.
The loss is the mean over the P pairs of the update; micro-batches of pairs add up as rows do.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# --- terms: what a token costs, (B, T) ---


def clip_range(epsilon: float, epsilon_high: float | None = None) -> tuple[float, float]:
    """Turn --epsilon and --epsilon-high into the bounds of the ratio; None means symmetric.

    Returns low = 1 - epsilon and high = 1 + epsilon_high. Raises ValueError for a negative epsilon.
    """
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    if epsilon < 0 or epsilon_high < 0:
        raise ValueError(
            f"the clip range must contain 1, got epsilon {epsilon}, epsilon_high {epsilon_high}"
        )
    return 1 - epsilon, 1 + epsilon_high


def clipped_surrogate(
    logp: Tensor, old_logp: Tensor, adv: Tensor, mask: Tensor, low: float, high: float
) -> Tensor:
    """Cost -min(ratio A, clip(ratio, low, high) A): PPO's objective, eq. 7 of arXiv:1707.06347.

    A high farther from 1 than low is DAPO's clip-higher (2503.14476, section 3.1; 1.28 there).
    logp, old_logp: (B, T) nats; old_logp counts as a constant. adv: (B,). Returns (B, T).
    """
    _check(logp, old_logp, adv)
    # On-policy the ratio is 1 and the value -adv, whose mean is 0. Its gradient is -adv per token.
    ratio = (logp - old_logp.detach()).exp()  # (B, T)
    adv = adv[:, None]  # (B, 1)
    return -torch.minimum(ratio * adv, ratio.clamp(low, high) * adv)


def clipped_tokens(
    logp: Tensor, old_logp: Tensor, adv: Tensor, mask: Tensor, low: float, high: float
) -> Tensor:
    """Find the tokens whose gradient clipped_surrogate sets to zero; same arguments, (B, T) bool.

    Below low with adv < 0, already pushed down enough; above high with adv > 0, already up enough.
    """
    _check(logp, old_logp, adv)
    ratio, adv = (logp - old_logp).exp(), adv[:, None]  # (B, T), (B, 1)
    # Outside the range with the *other* sign the gradient stays.
    return ((ratio < low) & (adv < 0)) | ((ratio > high) & (adv > 0))


def two_sided_surrogate(
    logp: Tensor,
    old_logp: Tensor,
    adv: Tensor,
    mask: Tensor,
    low: float,
    high: float,
    delta: float,
) -> Tensor:
    """Bound the cost of clipped_surrogate below zero advantage too (INTELLECT-2, 2505.07291).

    Where A < 0 a ratio above delta counts as delta, so that one token cannot cost without limit.
    delta: above high. Otherwise as clipped_surrogate. Returns (B, T).
    """
    _check(logp, old_logp, adv)
    log_ratio = (logp - old_logp.detach()).clamp(max=math.log(delta))
    return clipped_surrogate(old_logp.detach() + log_ratio, old_logp, adv, mask, low, high)


def two_sided_tokens(
    logp: Tensor,
    old_logp: Tensor,
    adv: Tensor,
    mask: Tensor,
    low: float,
    high: float,
    delta: float,
) -> Tensor:
    """Find the tokens whose gradient two_sided_surrogate sets to zero: (B, T) bool."""
    beyond = ((logp - old_logp).exp() > delta) & (adv < 0)[:, None]
    return clipped_tokens(logp, old_logp, adv, mask, low, high) | beyond


def capped_likelihood(
    logp: Tensor, old_logp: Tensor, adv: Tensor, mask: Tensor, low: float, high: float
) -> Tensor:
    """Cost -sg(min(ratio, high)) A logp: CISPO, arXiv:2506.13585, section 3.1.

    The capped ratio is a constant weight of REINFORCE, so no token loses its gradient. There is no
    lower bound: low is not read. TRL's epsilon_high is `high` itself, 5.0 there and here.
    logp, old_logp: (B, T) nats. adv: (B,). Returns (B, T); its value, a log-prob, says nothing.
    """
    _check(logp, old_logp, adv)
    weight = (logp - old_logp).exp().clamp(max=high).detach()  # (B, T)
    return -weight * adv[:, None] * logp


def capped_tokens(
    logp: Tensor, old_logp: Tensor, adv: Tensor, mask: Tensor, low: float, high: float
) -> Tensor:
    """Find the tokens whose weight capped_likelihood cuts. They still learn. (B, T) bool."""
    _check(logp, old_logp, adv)
    return (logp - old_logp).exp() > high


SAPO_TEMPERATURES = 1.0, 1.05  # for A > 0, and otherwise: negative updates fade sooner


def soft_gate(
    logp: Tensor, old_logp: Tensor, adv: Tensor, mask: Tensor, low: float, high: float
) -> Tensor:
    """Cost -f(ratio) A, f(r) = sigmoid(tau (r - 1)) 4 / tau: SAPO, arXiv:2511.20347.

    A soft gate in place of the clip: its slope is 1 at r = 1 and fades on both sides. low and high
    are not read. logp, old_logp: (B, T) nats; old_logp counts as a constant. adv: (B,).
    Returns (B, T).
    """
    _check(logp, old_logp, adv)
    ratio, tau = (logp - old_logp.detach()).exp(), _sapo_temperature(adv)
    return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * adv[:, None]


def faded_tokens(
    logp: Tensor, old_logp: Tensor, adv: Tensor, mask: Tensor, low: float, high: float
) -> Tensor:
    """Find the tokens where soft_gate's slope is below a half: (B, T) bool.

    The slope is 4 sigma (1 - sigma), sigma = sigmoid(tau (ratio - 1)).
    """
    _check(logp, old_logp, adv)
    gate = torch.sigmoid(_sapo_temperature(adv) * ((logp - old_logp).exp() - 1))
    return 4 * gate * (1 - gate) < 0.5


def _sapo_temperature(adv: Tensor) -> Tensor:
    """Choose tau by the sign of the advantage. (B,) -> (B, 1)."""
    positive, other = adv.new_tensor(SAPO_TEMPERATURES)
    return torch.where(adv > 0, positive, other)[:, None]


def at_level(logp: Tensor, old_logp: Tensor, mask: Tensor, level: str) -> Tensor:
    """Return the log-probs whose ratio a term should see.

        token       logp itself: every token has its own ratio
        sequence    old_logp plus the row's mean of logp - old_logp: all tokens of a completion
                    share s = (pi(y|x) / pi_old(y|x)) ^ (1 / length): GSPO, eq. 7 of 2507.18071

    The gradient of s reaches each token through itself (GSPO-token, eq. 14 there): summed over a
    row it is the same, and tokens that --top-entropy-quantile leaves out have none.
    logp, old_logp, mask: (B, T); old_logp counts as a constant. Returns (B, T) nats.
    Raises ValueError for an unknown level.
    """
    _check(logp, old_logp)
    _check(logp, mask)
    if level == "token":
        return logp
    if level != "sequence":
        raise ValueError(f"unknown level {level!r}; there are {', '.join(LEVELS)}")
    now, old_logp = logp.detach(), old_logp.detach()
    gap = ((now - old_logp) * mask).sum(1, keepdim=True)  # (B, 1)
    return old_logp + gap / mask.sum(1, keepdim=True).clamp(min=1) + (logp - now)


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL(policy || ref) per token by k3, DeepSeekMath eq. 4 (joschu.net/blog/kl-approx).

    With r = ref / policy it is r - log r - 1: never negative, and 0 only where both agree.
    Its mean over tokens of the policy is the KL; its gradient is that of KL(ref || policy).
    logp, ref_logp: (B, T) nats; ref_logp counts as a constant. Returns (B, T) nats.
    """
    _check(logp, ref_logp)
    log_r = ref_logp.detach() - logp  # (B, T)
    return torch.expm1(log_r) - log_r  # exp(x) - 1 - x in float32 is noise near 0, even negative


def nll(logp: Tensor) -> Tensor:
    """Cost the targets their negative log-likelihood, the supervised term. (B, T) nats, both."""
    assert logp.ndim == 2, f"logp must be (B, T), got {tuple(logp.shape)}"
    return -logp


# --- weights: how much a token counts, (B, T) ---


def seq_mean(mask: Tensor, max_completion_length: int | None = None) -> Tensor:
    """Average tokens within rows, then rows: DeepSeekMath eq. 3, TRL's "grpo".

    1 / (length_b * B).

    So a token of a long completion weighs less: long wrong answers are punished less per token.
    An empty row (a masked truncated completion) adds 0 and still counts among the B, as in TRL.
    """
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)


def token_mean(mask: Tensor, max_completion_length: int | None = None) -> Tensor:
    """Average over all tokens that count: 1 / mask.sum().  DAPO (2503.14476, section 3.3)."""
    return mask / mask.sum().clamp(min=1)


def constant(mask: Tensor, max_completion_length: int | None) -> Tensor:
    """Divide by a constant, 1 / (B * max_completion_length).  Dr. GRPO (2503.20783).

    No length is favoured. The price is scale: answers that use a tenth of the budget have a tenth
    of the token mean's gradient.
    """
    if max_completion_length is None or max_completion_length < 1:
        raise ValueError(f"this loss divides by max_completion_length, got {max_completion_length}")
    return mask / (len(mask) * max_completion_length)


def token_weights(mask: Tensor, loss_type: str, max_completion_length: int | None = None) -> Tensor:
    """Weigh each token as `loss_type` does, for ALL the rows of one optimizer update.

    mask: (B, T) of 0 and 1, any dtype. Returns (B, T) floats, 0 outside the mask, never NaN.
    max_completion_length: tokens, for "dr_grpo" only. Raises ValueError for an unknown loss_type.
    """
    assert mask.ndim == 2, f"mask must be (B, T), got {tuple(mask.shape)}"
    if loss_type not in LOSSES:
        raise ValueError(f"unknown loss type {loss_type!r}; there are {', '.join(LOSSES)}")
    return LOSSES[loss_type].reduction(at_least_float32(mask), max_completion_length)


def sft_weights(mask: Tensor, per_example: bool = False) -> Tensor:
    """Weigh tokens of the supervised loss: all alike, or per_example: all rows alike. (B, T)."""
    assert mask.ndim == 2, f"mask must be (B, T), got {tuple(mask.shape)}"
    mask = at_least_float32(mask)
    return seq_mean(mask) if per_example else token_mean(mask)


def aggregate(per_token: Tensor, weights: Tensor) -> Tensor:
    """Sum per_token * weights: the loss, or these rows' share of it. (B, T) -> ().

    A NaN in the padding stays visible, because it would reach the gradient all the same.
    """
    _check(per_token, weights)
    return (per_token * weights).sum()


def truncation_mask(mask: Tensor, finished: Tensor) -> Tensor:
    """Silence completions cut at the length limit: DAPO's overlong filtering (section 3.4).

    mask: (B, T); finished: (B,), true where the row ended with an eos. Returns a new (B, T) mask.
    Compute advantages before this, from full groups: a cut answer is not the same as a wrong one.
    """
    assert finished.shape == mask.shape[:1], (
        f"mask {tuple(mask.shape)}, finished {tuple(finished.shape)}"
    )
    return mask * finished.to(mask.dtype)[:, None]


@torch.no_grad()
def top_entropy_mask(entropy: Tensor, mask: Tensor, share: float) -> Tensor:
    """Keep the tokens of the highest entropy: the 80/20 rule (arXiv:2506.01939, eq. 5).

    Only there does a policy choose; the rest follows. Ties at the threshold are kept, as in TRL.
    entropy: (B, T) nats; mask: (B, T), 1 where a token counts; share: of those, in (0, 1].
    Returns (B, T) of 0 and 1, in the dtype of mask.
    """
    _check(entropy, mask)
    counted = at_least_float32(entropy)[mask != 0]
    if share == 1 or not len(counted):
        return mask.clone()
    # Not torch.quantile, which refuses more than 16 million numbers.
    rank = (len(counted) - 1) * (1 - share)
    low, high = counted.sort().values[[math.floor(rank), math.ceil(rank)]]
    threshold = low + (high - low) * (rank - math.floor(rank))
    return mask * (entropy >= threshold).to(mask.dtype)


def r3v_weights(
    mask: Tensor, tasks: list[str], weights: dict[str, float], per_example: bool = False
) -> Tensor:
    """Weigh tokens by task: R3V's L_SFT + w_ref L_REF + w_sel L_SEL (2411.00855).

        cot       -log M(y+ | x, I)        the right rationale y+ of question x about image I
        refine    -log M(y+ | y-, x, I)    the same target, with a wrong rationale y- in the prompt
        select    -log M(a | C, x, I)      the answer alone, with the candidates C in the prompt

    mask: (B, T), ALL rows of an update; tasks: B names; weights: missing names count 1, 0 silences.
    Returns (B, T). Raises ValueError for a negative or infinite weight.
    """
    assert mask.ndim == 2 and len(tasks) == len(mask), (
        f"mask {tuple(mask.shape)} needs one task per row, got {len(tasks)}"
    )
    bad = {name: w for name, w in weights.items() if not 0 <= w < float("inf")}
    if bad:
        raise ValueError(f"the weight of a task must be a finite number >= 0, got {bad}")
    # The divisor ignores the weights: doubling one task's weight leaves the others' gradient alone.
    plain = sft_weights(mask, per_example)  # (B, T); all weights 1 are the released code
    return plain * plain.new_tensor([weights.get(task, 1.0) for task in tasks])[:, None]


# --- preferences: what a pair costs, (P,) ---


def sequence_logp(logp: Tensor, mask: Tensor) -> Tensor:
    """Sum the log-probs of whole responses, as DPO, BCO and MPO define log pi(y|x).

    logp, mask: (B, T). Returns (B,) nats, at least float32. A NaN in the padding stays visible.
    """
    _check(logp, mask)
    return (at_least_float32(logp) * mask).sum(1)


def dpo(
    chosen: Tensor, rejected: Tensor, beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Cost -log sigma(beta (chosen - rejected)): DPO, eq. 7 of arXiv:2305.18290; TRL's "sigmoid".

    label_smoothing: the chance that a label is wrong (cDPO); the best margin is then finite.
    Starts at ln 2 = 0.6931. It trains the margin only: both log-probs may fall together.
    chosen, rejected: (P,) log-ratios log pi(y|x) - log ref(y|x), nats per response. Returns (P,).
    Raises ValueError unless beta > 0 and 0 <= label_smoothing < 0.5.
    """
    _check_pair(chosen, rejected, beta, label_smoothing)
    margin = beta * (at_least_float32(chosen) - at_least_float32(rejected))  # (P,)
    return -(1 - label_smoothing) * _log_sigmoid(margin) - label_smoothing * _log_sigmoid(-margin)


def ipo(chosen: Tensor, rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Cost the distance to a fixed margin: IPO, eq. 17 of arXiv:2310.12036.

    (chosen - rejected - 1 / (2 beta))^2, where beta is the paper's tau.
    chosen, rejected: (P,) log-ratios *divided by the response's length*, nats per token, as in TRL.
    Returns (P,). Raises ValueError unless beta > 0.
    """
    _check_pair(chosen, rejected, beta)
    return (at_least_float32(chosen) - at_least_float32(rejected) - 1 / (2 * beta)) ** 2


def bco_pair(
    chosen: Tensor, rejected: Tensor, beta: float = 0.1, delta: float | Tensor = 0.0
) -> Tensor:
    """Judge each answer by itself against the shift delta: BCO (2404.04656), MPO's quality term.

    -log sigma(beta chosen - delta) - log sigma(-(beta rejected - delta)); 2 ln 2 at the start.
    chosen, rejected: (P,) log-ratios, nats per response. delta: a number or (P,), a constant.
    Returns (P,). Raises ValueError unless beta > 0.
    """
    _check_pair(chosen, rejected, beta)
    if torch.is_tensor(delta):
        assert delta.shape in ((), chosen.shape), f"delta must be (P,), got {tuple(delta.shape)}"
        delta = delta.detach()
    good = beta * at_least_float32(chosen) - delta
    bad = delta - beta * at_least_float32(rejected)
    return -_log_sigmoid(good) - _log_sigmoid(bad)


def sft_pair(chosen_logp: Tensor, chosen_tokens: Tensor) -> Tensor:
    """Cost -log pi(chosen|x) / |chosen|: MPO's generation term L_g (arXiv:2411.10442).

    Each answer is divided by ITS length, so that micro-batches change nothing.
    chosen_logp: (P,) sums, nats. chosen_tokens: (P,) lengths, >= 1. Returns (P,) nats per token.
    """
    _check_pair(chosen_logp, chosen_tokens)
    return -at_least_float32(chosen_logp) / chosen_tokens


class Pairs(NamedTuple):
    """What a row of PAIR_LOSSES is handed: P pairs, all (P,), and the settings."""

    chosen: Tensor  # log-ratios, nats per response
    rejected: Tensor
    chosen_logp: Tensor  # sums over the response, nats
    chosen_tokens: Tensor  # lengths
    rejected_tokens: Tensor
    beta: float
    label_smoothing: float
    delta: float | Tensor


def preference_loss(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    ref_chosen_logp: Tensor,
    ref_rejected_logp: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    loss_type: str | tuple[str, ...] = ("sigmoid",),
    loss_weights: tuple[float, ...] | None = None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    delta: float | Tensor = 0.0,
) -> Tensor:
    """Cost each pair the weighted sum of the named PAIR_LOSSES. `**MPO` gives InternVL's mix.

    *_logp: (P,) from `sequence_logp`, the reference's are constants. *_tokens: (P,) lengths.
    loss_weights None: all 1, as in TRL. delta: of `reward_shift`, for "bco_pair" only.
    Returns (P,). Raises ValueError for an unknown name, a wrong count of weights, an empty response
    and what the losses themselves refuse.
    """
    names = (loss_type,) if isinstance(loss_type, str) else tuple(loss_type)
    weights = [1.0] * len(names) if loss_weights is None else loss_weights
    for x in (rejected_logp, ref_chosen_logp, ref_rejected_logp, chosen_tokens, rejected_tokens):
        _check_pair(chosen_logp, x, beta, label_smoothing)
    if not names or not set(names) <= set(PAIR_LOSSES):
        raise ValueError(f"unknown pair loss in {list(names)}; there are {', '.join(PAIR_LOSSES)}")
    if len(weights) != len(names):
        raise ValueError(f"{len(names)} losses {names} need as many weights, got {len(weights)}")
    if (chosen_tokens < 1).any() or (rejected_tokens < 1).any():
        raise ValueError("a pair has an empty response: it must hold at least its eos")
    chosen = at_least_float32(chosen_logp) - ref_chosen_logp.detach()
    rejected = at_least_float32(rejected_logp) - ref_rejected_logp.detach()
    lengths, settings = (chosen_tokens, rejected_tokens), (beta, label_smoothing, delta)
    pairs = Pairs(chosen, rejected, chosen_logp, *lengths, *settings)
    return sum(weight * PAIR_LOSSES[name](pairs) for name, weight in zip(names, weights))


@torch.no_grad()
def reward_shift(
    chosen_rewards: Tensor, rejected_rewards: Tensor, total: float, count: int
) -> tuple[Tensor, float, int]:
    """Update BCO's delta, the mean of all rewards since training began (InternVL's trainer).

    Pair i's delta is the mean of (chosen + rejected) / 2 over all pairs so far, i included:

        delta, total, count = reward_shift(chosen, rejected, total, count)  # total, count: 0.0, 0

    *_rewards: (P,) = beta * log-ratio. Returns delta (P,) without gradient, total and count: these
    belong in the checkpoint. Raises ValueError for NaN or infinity.
    """
    _check_pair(chosen_rewards, rejected_rewards)
    means = (at_least_float32(chosen_rewards) + at_least_float32(rejected_rewards)) / 2
    deltas = []
    for mean in means.tolist():
        if not abs(mean) < float("inf"):
            raise ValueError(
                f"the reward of pair {len(deltas)} is {mean}: "
                "it would stay in the running mean for ever"
            )
        total, count = total + mean, count + 1
        deltas.append(total / count)
    return means.new_tensor(deltas), total, count


# --- metrics: scalar tensors without gradient ---


@torch.no_grad()
def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average x over the tokens that count; 0 if there are none.

    x, mask: (B, T); x may be anything outside the mask, NaN too. Returns ().
    """
    _check(x, mask)
    return at_least_float32(x).masked_fill(mask == 0, 0).sum() / (mask != 0).sum().clamp(min=1)


@torch.no_grad()
def clip_ratio(clipped: Tensor, adv: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Measure the share of tokens that a loss has clipped, under TRL's names.

    clipped: (B, T) bool, from `Loss.clipped`; adv: (B,); mask: (B, T), that of the loss's weights.
    Returns low_mean (adv < 0), high_mean (adv > 0) and region_mean, their sum, in [0, 1].
    """
    _check(clipped, mask, adv)
    adv = adv[:, None]  # (B, 1)
    low_mean = masked_mean(clipped & (adv < 0), mask)
    high_mean = masked_mean(clipped & (adv > 0), mask)
    return {"low_mean": low_mean, "high_mean": high_mean, "region_mean": low_mean + high_mean}


@torch.no_grad()
def preference_metrics(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    ref_chosen_logp: Tensor,
    ref_rejected_logp: Tensor,
    beta: float = 0.1,
) -> dict[str, Tensor]:
    """Measure what moves in preference training, under TRL's names.

    The reward of a response is beta * (log pi - log ref), nats. All (P,), sums over the response.
    Returns means over the P pairs, so micro-batches average by their counts of pairs.
    """
    for x in (rejected_logp, ref_chosen_logp, ref_rejected_logp):
        _check_pair(chosen_logp, x, beta)
    chosen_logp, rejected_logp = at_least_float32(chosen_logp), at_least_float32(rejected_logp)
    chosen = beta * (chosen_logp - ref_chosen_logp)  # (P,)
    rejected = beta * (rejected_logp - ref_rejected_logp)  # (P,)
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).float().mean(),  # 0 at the start, not 0.5
        "logps/chosen": chosen_logp.mean(),  # plain DPO lets both fall: watch this one
        "logps/rejected": rejected_logp.mean(),
    }


# --- small helpers ---


def at_least_float32(x: Tensor) -> Tensor:
    """Keep float64 and turn all else into float32: bf16 cannot count beyond 256."""
    return x if x.dtype == torch.float64 else x.float()


def _check(x: Tensor, y: Tensor, adv: Tensor | None = None) -> None:
    """Refuse shapes that would broadcast: x and y are (B, T), adv is (B,)."""
    assert x.ndim == 2 and x.shape == y.shape, (
        f"expected two (B, T), got {tuple(x.shape)} and {tuple(y.shape)}"
    )
    assert adv is None or adv.shape == x.shape[:1], (
        f"adv must be (B,) = ({len(x)},), got {tuple(adv.shape)}"
    )


def _check_pair(x: Tensor, y: Tensor, beta: float = 1.0, label_smoothing: float = 0.0) -> None:
    """Refuse what is not (P,) twice, and settings out of range."""
    assert x.ndim == 1 and x.shape == y.shape, (
        f"expected two (P,), got {tuple(x.shape)} and {tuple(y.shape)}"
    )
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta scales the log-ratios and must be a number above 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:  # at 0.5 a label says nothing, beyond it the opposite
        raise ValueError(
            "label_smoothing is the chance that a label is wrong, in [0, 0.5), "
            f"got {label_smoothing}"
        )


_log_sigmoid = torch.nn.functional.logsigmoid  # finite where sigma itself rounds to 0

# --- the tables: add a loss by writing a function above and a row here ---


class Loss(NamedTuple):
    """A row of LOSSES. A term may give all tokens of a row the same, sequence-level value."""

    term: Callable[..., Tensor]  # (logp, old_logp, adv, mask, low, high) -> (B, T)
    reduction: Callable[..., Tensor]  # (mask, max_completion_length) -> (B, T)
    clipped: Callable[..., Tensor] = clipped_tokens  # arguments of term -> (B, T) bool
    epsilon: tuple[float, float | None] = (0.2, None)  # defaults of --epsilon and --epsilon-high
    level: str = "token"  # default of --importance-sampling-level


LEVELS = ("token", "sequence")


# bnpo and dapo are the same here. TRL's divide by the tokens of the micro-batch and of several
# updates; here a memory flag must not change the gradient, and the batch is the update's.
# (The BNPO of arXiv:2506.02864 is something else, a Beta normalisation of rewards.)
LOSSES = {
    "grpo": Loss(clipped_surrogate, seq_mean),
    "bnpo": Loss(clipped_surrogate, token_mean),
    "dapo": Loss(clipped_surrogate, token_mean),
    "dr_grpo": Loss(clipped_surrogate, constant),
    "gspo": Loss(clipped_surrogate, seq_mean, epsilon=(3e-4, 4e-4), level="sequence"),
    "cispo": Loss(capped_likelihood, token_mean, capped_tokens, (0.0, 4.0)),
    "sapo": Loss(soft_gate, seq_mean, faded_tokens),
}

# name: what the Pairs p cost, (P,). The names are TRL's.
PAIR_LOSSES = {
    "sigmoid": lambda p: dpo(p.chosen, p.rejected, p.beta, p.label_smoothing),
    "ipo": lambda p: ipo(p.chosen / p.chosen_tokens, p.rejected / p.rejected_tokens, p.beta),
    "bco_pair": lambda p: bco_pair(p.chosen, p.rejected, p.beta, p.delta),
    "sft": lambda p: sft_pair(p.chosen_logp, p.chosen_tokens),
}
DPO = {"loss_type": ("sigmoid",), "loss_weights": None}
# Mixed Preference Optimization (2411.10442): preference 0.8 + quality 0.2 + generation 1.
MPO = {"loss_type": ("sigmoid", "bco_pair", "sft"), "loss_weights": (0.8, 0.2, 1.0)}
