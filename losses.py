"""Losses and the numbers that describe them: tensors in, tensors out, no model in sight.

A loss is a *term*, what each token costs, times *weights*, how much each token counts:

    per_token = term(logp, old_logp, adv) + beta * kl_k3(logp, ref_logp)           # (B, T)
    loss      = aggregate(per_token, weights) = sum over b, t of per_token * weights

The two choices are independent, and `LOSSES` at the bottom pairs them under the names of the `--loss-type` flag.

Dimension key: N prompts in a step, G completions per prompt, B = N*G rows with the groups contiguous (or the rows of a
micro-batch), T target positions, V vocabulary.
Alignment rule: every (B, T) tensor speaks about the response tokens, x[b, t] about token targets[b, t], and T counts
responses only. The one shift (the state *before* a token predicts it) happened in `token_logps` (model.py): nothing here
is ever sliced [:, 1:]. `mask` (B, T) is 1 where a target counts, its first eos included, and 0 after.

The weights belong to one optimizer update: make them once, from the mask of *all* its rows, then cut them like the rows.

    weights = token_weights(mask, args.loss_type, args.max_completion_length)      # (B, T), the whole update
    for rows in micro_batches:                                                     # any partition of the B rows
        per_token = clipped_surrogate(logp[rows], old_logp[rows], adv[rows])
        aggregate(per_token, weights[rows]).backward()                             # adds up to the full-batch gradient

So `--micro-batch-size` is about memory and cannot change the gradient. All log-probs and KLs are in nats per token.

Preferences compare whole responses: there P counts pairs (chosen, rejected) of one prompt, a log-prob is the *sum* over the
response, (P,) nats, and `preference_loss` costs each pair by itself, (P,), under the names of `PAIR_LOSSES` at the bottom.
The mean over the P pairs of the update is the loss; micro-batches of pairs add up just as rows do.
"""

import torch

# ---------------------------------------------------------------------------- rewards -> advantages


def _groups(rewards, G):
    """The G completions of each prompt as a row, and whether they all got the same reward up to float noise.

    rewards: (B,), any real dtype.  Returns groups (N, G) in floating point, and flat (N, 1) bool.
    Flat: max - min <= 1e-6, relative where rewards exceed 1 (0.1 + 0.2 and 0.3 are the same reward; NeMo-RL#4158).
    """
    assert rewards.ndim == 1, f"rewards must be (B,), got {tuple(rewards.shape)}"
    if G < 2:
        raise ValueError(f"a group needs at least 2 completions to be compared, got G = {G}")
    if len(rewards) % G:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {G}")
    groups = _at_least_float32(rewards).reshape(-1, G)  # (N, G)
    spread = groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)  # (N, 1)
    return groups, spread <= 1e-6 * groups.abs().amax(1, keepdim=True).clamp(min=1)


def group_advantage(rewards, G, scale_by_std=True, eps=1e-4):
    """Group-relative advantage of DeepSeekMath eq. 3 and its section 4.1.2 (arXiv:2402.03300): (r - mean) / (std + eps).

    scale_by_std=False is Dr. GRPO (2503.20783): r - mean, so that nearly solved and nearly hopeless prompts are not magnified.
    std is torch's, unbiased, as in R1-V and TRL; numpy's default is not, which makes advantages 1.15 times larger at G = 4.
    A group with equal rewards gets exactly 0: no signal, and float noise must not be blown up into one.

    rewards: (B,), the G completions of one prompt contiguous.  Returns (B,) float, zero-mean within each group.
    Raises ValueError if G < 2, if B is not a multiple of G, or if a reward is NaN or infinite.
    """
    if not torch.isfinite(rewards).all():
        bad = (~torch.isfinite(rewards)).nonzero().flatten().tolist()
        raise ValueError(
            f"rewards of rows {bad} are not finite: one NaN would spread to its whole group"
        )
    groups, flat = _groups(rewards, G)  # (N, G), (N, 1)
    adv = groups - groups.mean(1, keepdim=True)
    if scale_by_std:
        adv = adv / (groups.std(1, keepdim=True) + eps)
    return adv.masked_fill(flat, 0.0).flatten()  # (B,)


# ---------------------------------------------------------------------------- terms: what a token costs, (B, T)


def clipped_surrogate(logp, old_logp, adv, epsilon=0.2, epsilon_high=None):
    """PPO's clipped objective (arXiv:1707.06347, eq. 7), to be minimised: -min(ratio A, clip(ratio, 1-eps, 1+eps_high) A).

    epsilon_high=None means epsilon; a larger one is DAPO's clip-higher (2503.14476, section 3.1; 0.28 there).
    On-policy the ratio is 1 and the value is -adv, which averages to 0 over a group: watch the reward, not this number.
    The gradient is then -adv per token: 0 is where the loss starts, not a sign that nothing is learnt.

    logp, old_logp: (B, T) nats; old_logp counts as a constant, so passing logp itself is right on-policy.  adv: (B,).
    Returns per_token (B, T).  A clipped token has zero gradient (see clip_ratio).  Raises ValueError for a negative epsilon.
    """
    _check(logp, old_logp, adv)
    low, high = _clip_range(epsilon, epsilon_high)
    ratio = (logp - old_logp.detach()).exp()  # (B, T)
    adv = adv[:, None]  # (B, 1)
    return -torch.minimum(ratio * adv, ratio.clamp(low, high) * adv)


def kl_k3(logp, ref_logp):
    """Schulman's k3 estimate of KL(policy || ref), DeepSeekMath eq. 4 (http://joschu.net/blog/kl-approx.html).

    With r = ref / policy it is r - log r - 1: never negative, 0 only where both agree, and right on average when the tokens
    were sampled from the policy. That holds for its value; its gradient is on average the one of KL(ref || policy), the
    other direction, as in DeepSeekMath: fine as a leash, not fine as a measurement of slope.
    TRL 1.16 multiplies it by the ratio unless use_bias_correction_kl=False, which gives the gradient
    of KL(policy || ref). So the same beta pulls differently there, on-policy too (docs/exactness.md).

    logp, ref_logp: (B, T) nats; ref_logp counts as a constant.  Returns (B, T) nats, >= 0.
    """
    _check(logp, ref_logp)
    log_r = ref_logp.detach() - logp  # (B, T)
    return (
        torch.expm1(log_r) - log_r
    )  # expm1: exp(x) - 1 - x in float32 would round to noise, even negative, near 0


def nll(logp):
    """Negative log-likelihood of the targets, the supervised term.  logp: (B, T) nats.  Returns (B, T) nats, >= 0."""
    assert logp.ndim == 2, f"logp must be (B, T), got {tuple(logp.shape)}"
    return -logp


# ---------------------------------------------------------------------------- weights: how much a token counts, (B, T)


def seq_mean(mask, max_completion_length=None):
    """Mean over rows of each row's token mean: 1 / (length_b * B).  DeepSeekMath eq. 3, TRL's "grpo".

    Every completion weighs the same, so a token of a long one weighs less: long wrong answers are punished less per token.
    An empty row (a masked truncated completion) still counts among the B, as in TRL: it adds 0 and dilutes the rest.
    """
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)


def token_mean(mask, max_completion_length=None):
    """Mean over all tokens that count: 1 / mask.sum().  DAPO (2503.14476, section 3.3); also plain supervised learning.

    Masked rows count nowhere, numerator or denominator (TRL's "dapo" counted them below until trl#6439).
    """
    return mask / mask.sum().clamp(min=1)


def constant(mask, max_completion_length):
    """Sum over tokens divided by a constant, 1 / (B * max_completion_length).  Dr. GRPO (2503.20783), TRL's "dr_grpo".

    No length appears in the weight, so no length is favoured. The price is scale: if answers use a tenth of the budget, the
    gradient is a tenth of the token mean's; choose the learning rate (or the clipping of its norm) accordingly.
    """
    if max_completion_length is None or max_completion_length < 1:
        raise ValueError(f"this loss divides by max_completion_length, got {max_completion_length}")
    return mask / (len(mask) * max_completion_length)


def token_weights(mask, loss_type, max_completion_length=None):
    """Weight of each token in the loss called `loss_type`, for ALL the rows of one optimizer update (module docstring).

    mask: (B, T) of 0 and 1, any dtype.  Returns (B, T) floats, 0 outside the mask; all 0, never NaN, for an empty mask.
    max_completion_length: tokens, needed by "dr_grpo" only.  Raises ValueError for an unknown loss_type.
    """
    assert mask.ndim == 2, f"mask must be (B, T), got {tuple(mask.shape)}"
    if loss_type not in LOSSES:
        raise ValueError(f"unknown loss type {loss_type!r}; there are {', '.join(LOSSES)}")
    _, reduction = LOSSES[loss_type]
    return reduction(_at_least_float32(mask), max_completion_length)


def sft_weights(mask):
    """Weights of the supervised loss: mask / mask.sum() over the whole update.  mask: (B, T).  Returns (B, T)."""
    return token_weights(mask, "sft")


def aggregate(per_token, weights):
    """sum(per_token * weights): the loss, or these rows' share of it.  per_token, weights: (B, T).  Returns a scalar.

    A NaN in the padding is passed on rather than hidden, because it would reach the gradient all the same.
    """
    _check(per_token, weights)
    return (per_token * weights).sum()


def truncation_mask(mask, finished):
    """Silence the completions cut at the length limit (`--mask-truncated-completions`; DAPO section 3.4, overlong filtering).

    An unfinished answer was cut, which is not the same as wrong. Advantages are computed before this, from full groups.
    mask: (B, T); finished: (B,), true where the row ended with an eos.  Returns a new (B, T) mask of the same dtype.
    """
    assert finished.shape == mask.shape[:1], (
        f"mask {tuple(mask.shape)}, finished {tuple(finished.shape)}"
    )
    return mask * finished.to(mask.dtype)[:, None]


def r3v_weights(mask, tasks, weights, per_example=False):
    """Weights of R3V's self-training loss (arXiv:2411.00855): L = L_SFT + w_ref L_REF + w_sel L_SEL, each an ordinary `nll`.

        L_SFT = -log M(y+ | x, I)         "cot":    the right rationale y+ of question x about image I
        L_REF = -log M(y+ | y-, x, I)     "refine": the same target, with a wrong rationale y- in the prompt
        L_SEL = -log M(a | C, x, I)       "select": the gold answer alone, with the candidates C = {y1 .. yN} in the prompt

    Only the prompt tells the three apart. A token counts its task's weight / mask.sum(); with all weights 1 this is
    `sft_weights`, the released code (one shuffled mix, plain SFT; the paper has no w either). Then a select target of 3 tokens
    beside rationales of 100 hardly counts: per_example=True weighs rows alike, weight / (length_b * B). Neither divisor depends
    on the weights: doubling one task's weight doubles its gradient and leaves the others alone.

    mask: (B, T), ALL the rows of one update.  tasks: B names, such as also "direct" and "warmup".  weights: {name: float >= 0},
    a missing name counts 1, and 0 silences a task.  Returns (B, T).  Raises ValueError for a negative or infinite weight.
    """
    assert mask.ndim == 2 and len(tasks) == len(mask), (
        f"mask {tuple(mask.shape)} needs one task per row, got {len(tasks)}"
    )
    bad = {name: w for name, w in weights.items() if not 0 <= w < float("inf")}
    if bad:
        raise ValueError(f"the weight of a task must be a finite number >= 0, got {bad}")
    mask = _at_least_float32(mask)
    plain = seq_mean(mask) if per_example else token_mean(mask)  # (B, T)
    return plain * mask.new_tensor([weights.get(task, 1.0) for task in tasks])[:, None]


# ---------------------------------------------------------------------------- preference: what a pair costs, (P,)


def sequence_logp(logp, mask):
    """log pi(y|x) of whole responses: the sum over their tokens.  logp, mask: (B, T).  Returns (B,) nats, at least float32.

    Summed, as DPO, BCO and MPO define it; only "ipo" divides by the length, later. As in `aggregate`, a NaN in the padding is passed on.
    """
    _check(logp, mask)
    return (_at_least_float32(logp) * mask).sum(1)


def dpo(chosen, rejected, beta=0.1, label_smoothing=0.0):
    """DPO, eq. 7 of arXiv:2305.18290, TRL's "sigmoid": -log sigma(beta h), where h = chosen - rejected.

    label_smoothing e is the chance that the label is wrong (cDPO): -(1-e) log sigma(beta h) - e log sigma(-beta h),
    least at a finite beta h = log((1-e)/e) rather than at infinity. TRL has this up to 0.28; from 0.29 on its
    "sigmoid" ignores label_smoothing (docs/exactness.md).
    Starts at ln 2 = 0.6931. Only the margin h is trained: both log-probs may fall together.

    chosen, rejected: (P,) log-ratios log pi(y|x) - log ref(y|x), nats per response.  Returns (P,).
    Raises ValueError unless beta > 0 and 0 <= label_smoothing < 0.5.
    """
    _check_pair(chosen, rejected, beta, label_smoothing)
    margin = beta * (_at_least_float32(chosen) - _at_least_float32(rejected))  # (P,)
    return -(1 - label_smoothing) * _log_sigmoid(margin) - label_smoothing * _log_sigmoid(-margin)


def ipo(chosen, rejected, beta=0.1):
    """IPO, eq. 17 of arXiv:2310.12036, tau = beta: (h - 1 / (2 beta))^2, a margin to reach and not to exceed.

    chosen, rejected: (P,) log-ratios *divided by the response's length*, nats per token, as TRL runs it; with sums the
    same beta would ask a long answer for far less per token.  Returns (P,).  Raises ValueError unless beta > 0.
    """
    _check_pair(chosen, rejected, beta)
    return (_at_least_float32(chosen) - _at_least_float32(rejected) - 1 / (2 * beta)) ** 2


def bco_pair(chosen, rejected, beta=0.1, delta=0.0):
    """BCO (arXiv:2404.04656), MPO's quality term L_q (2411.10442): -log sigma(beta chosen - delta) - log sigma(-(beta rejected - delta)).

    Each answer is judged by itself against the reward shift delta: the chosen is good, the rejected bad, not merely better and worse.
    delta: from `reward_shift`, as in InternVL and TRL up to 0.28; TRL from 0.29 has 0, which pulls harder against a common fall.
    Starts at 2 ln 2 = 1.3863 where delta is 0.

    chosen, rejected: (P,) log-ratios, nats per response.  delta: a number or (P,), a constant.  Returns (P,).  Raises ValueError unless beta > 0.
    """
    _check_pair(chosen, rejected, beta)
    assert not torch.is_tensor(delta) or delta.shape in ((), chosen.shape), (
        f"delta must be a number or (P,), got {tuple(delta.shape)}"
    )
    delta = delta.detach() if torch.is_tensor(delta) else delta
    return -_log_sigmoid(beta * _at_least_float32(chosen) - delta) - _log_sigmoid(
        delta - beta * _at_least_float32(rejected)
    )


def sft_pair(chosen_logp, chosen_tokens):
    """MPO's generation term L_g (2411.10442): -log pi(chosen|x) / |chosen|, each answer divided by ITS length.

    InternVL and TRL divide by the tokens of the micro-batch, which is the same at one pair per micro-batch (InternVL's setting)
    and otherwise favours long answers and changes with a memory flag.
    chosen_logp: (P,) sums, nats.  chosen_tokens: (P,) lengths, >= 1.  Returns (P,) nats per token.
    """
    _check_pair(chosen_logp, chosen_tokens)
    return -_at_least_float32(chosen_logp) / chosen_tokens


def preference_loss(
    chosen_logp,
    rejected_logp,
    ref_chosen_logp,
    ref_rejected_logp,
    chosen_tokens,
    rejected_tokens,
    loss_type=("sigmoid",),
    loss_weights=None,
    beta=0.1,
    label_smoothing=0.0,
    delta=0.0,
):
    """What each pair costs: the weighted sum of the named PAIR_LOSSES (TRL's names).  `**MPO` gives InternVL's mix.

    MPO starts at 0.8 * 0.6931 + 0.2 * 1.3863 + NLL = 0.8318 + NLL (delta 0).  loss_weights None: all 1, as in TRL.
    *_logp: (P,) sums over the response, from `sequence_logp`; the reference's count as constants.  *_tokens: (P,) lengths.
    delta: a number or (P,), from `reward_shift`, used by "bco_pair" only; label_smoothing by "sigmoid" only.
    Returns (P,).  Raises ValueError for an unknown name, a wrong count of weights, beta <= 0, label_smoothing outside [0, 0.5), an empty response.
    """
    names = (loss_type,) if isinstance(loss_type, str) else tuple(loss_type)
    loss_weights = [1.0] * len(names) if loss_weights is None else loss_weights
    for x in (rejected_logp, ref_chosen_logp, ref_rejected_logp, chosen_tokens, rejected_tokens):
        _check_pair(chosen_logp, x, beta, label_smoothing)
    if not names or not set(names) <= set(PAIR_LOSSES):
        raise ValueError(f"unknown pair loss in {list(names)}; there are {', '.join(PAIR_LOSSES)}")
    if len(loss_weights) != len(names):
        raise ValueError(
            f"{len(names)} losses ({', '.join(names)}) need as many weights, got {len(loss_weights)}"
        )
    if (chosen_tokens < 1).any() or (rejected_tokens < 1).any():
        raise ValueError("a pair has an empty response: it must hold at least its eos")
    pair = dict(
        chosen=_at_least_float32(chosen_logp) - ref_chosen_logp.detach(),
        rejected=_at_least_float32(rejected_logp) - ref_rejected_logp.detach(),
        chosen_logp=chosen_logp,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
        beta=beta,
        label_smoothing=label_smoothing,
        delta=delta,
    )
    return sum(weight * PAIR_LOSSES[name](pair) for name, weight in zip(names, loss_weights))


@torch.no_grad()
def reward_shift(chosen_rewards, rejected_rewards, total, count):
    """BCO's delta, the running mean of rewards since training began (InternVL's trainer, TRL up to 0.28), updated before it is used.

    Pair i's delta is the mean of (chosen + rejected) / 2 over all pairs so far, i included, in their order: the first pair's is its own
    mean. InternVL averages means of micro-batches of one pair (and over its GPUs); counting pairs keeps that, and cutting the pairs
    into other micro-batches changes nothing. A mean of everything, not an exponential one, though the paper says "moving average".

        delta, total, count = reward_shift(beta * (chosen_logp - ref_chosen_logp), ..., total, count)      # total, count start at 0.0, 0

    Evaluation does not call this (InternVL's does, a side effect): it uses total / max(count, 1). The two numbers belong in the checkpoint.
    *_rewards: (P,) = beta * log-ratio.  Returns delta (P,) without gradient, total (float), count (int).  Raises ValueError for NaN or infinity.
    """
    _check_pair(chosen_rewards, rejected_rewards)
    deltas = []
    for mean in (
        (_at_least_float32(chosen_rewards) + _at_least_float32(rejected_rewards)) / 2
    ).tolist():
        if not abs(mean) < float("inf"):
            raise ValueError(
                f"the reward of pair {len(deltas)} is {mean}: it would stay in the running mean for ever"
            )
        total, count = total + mean, count + 1
        deltas.append(total / count)
    return _at_least_float32(chosen_rewards).new_tensor(deltas), total, count


# ---------------------------------------------------------------------------- metrics: scalar tensors without gradient


@torch.no_grad()
def masked_mean(x, mask):
    """Mean of x over the tokens that count; 0 if there are none.  x, mask: (B, T), x may be anything outside.  Returns ()."""
    _check(x, mask)
    return _at_least_float32(x).masked_fill(mask == 0, 0).sum() / (mask != 0).sum().clamp(min=1)


@torch.no_grad()
def clip_ratio(logp, old_logp, adv, mask, epsilon=0.2, epsilon_high=None):
    """Fraction of tokens whose policy gradient clipped_surrogate sets to zero, and nothing else.

    Give the mask that the loss's weights were made from, or tokens without weight enter the fraction.

    low_mean: ratio < 1-eps and adv < 0 (already pushed down enough); high_mean: ratio > 1+eps_high and adv > 0 (already up
    enough); region_mean: their sum. Outside the range with the *other* sign the gradient stays (VLM-R1 counts those instead).
    logp, old_logp, mask: (B, T); adv: (B,).  Returns {"low_mean", "high_mean", "region_mean"}, fractions in [0, 1].
    """
    _check(logp, old_logp, adv)
    low, high = _clip_range(epsilon, epsilon_high)
    ratio, adv = (logp - old_logp).exp(), adv[:, None]  # (B, T), (B, 1)
    low_mean = masked_mean((ratio < low) & (adv < 0), mask)
    high_mean = masked_mean((ratio > high) & (adv > 0), mask)
    return {"low_mean": low_mean, "high_mean": high_mean, "region_mean": low_mean + high_mean}


@torch.no_grad()
def frac_reward_zero_std(rewards, G):
    """Fraction of the N groups whose G rewards are equal up to float noise: those teach nothing.  rewards: (B,).  Returns ()."""
    return _groups(rewards, G)[1].float().mean()


@torch.no_grad()
def logp_difference(sampling_logp, logp, mask):
    """How far the rollout engine and the trainer disagree about the very same tokens, under the same weights.

    sampling_logp: (B, T) as recorded while sampling; logp: (B, T) recomputed by the trainer before any update; nats.
    Returns {"mean", "max"} of |difference| in nats, and {"k3"}, an estimate of KL(rollout || trainer) in nats per token.
    """
    _check(sampling_logp, logp)
    _check(logp, mask)
    gap = (sampling_logp - logp).abs().masked_fill(mask == 0, 0)  # (B, T)
    return {
        "mean": masked_mean(gap, mask),
        "max": gap.max(),
        "k3": masked_mean(kl_k3(sampling_logp, logp), mask),
    }


@torch.no_grad()
def rollout_agrees(sampling_logp, logp, mask):
    """Whether log-probs recorded while sampling may serve as old_logp: 99 % of the first ratios exp(logp - sampling_logp) lie in [0.9, 1.1], and k3 is at most 1e-3 nats a token."""
    gap = logp_difference(sampling_logp, logp, mask)
    near = ((logp - sampling_logp).exp() - 1).abs() <= 0.1  # (B, T)
    return bool(masked_mean(near.float(), mask) >= 0.99 and gap["k3"] <= 1e-3)


@torch.no_grad()
def preference_metrics(chosen_logp, rejected_logp, ref_chosen_logp, ref_rejected_logp, beta=0.1):
    """What moves in preference training, under TRL's names; the reward of a response is beta * (log pi - log ref), nats.

    rewards/chosen, rewards/rejected, rewards/margins (their difference); rewards/accuracies: the share of pairs with chosen > rejected,
    strictly, so 0 at the start and not 0.5; logps/chosen, logps/rejected: sums over the response. Plain DPO lets both fall: watch logps/chosen.
    All (P,).  Returns means over the P pairs, so micro-batches average by their counts of pairs.
    """
    for x in (rejected_logp, ref_chosen_logp, ref_rejected_logp):
        _check_pair(chosen_logp, x, beta)
    chosen_logp, rejected_logp = _at_least_float32(chosen_logp), _at_least_float32(rejected_logp)
    chosen, rejected = (
        beta * (chosen_logp - ref_chosen_logp),
        beta * (rejected_logp - ref_rejected_logp),
    )  # (P,)
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).float().mean(),
        "logps/chosen": chosen_logp.mean(),
        "logps/rejected": rejected_logp.mean(),
    }


# ---------------------------------------------------------------------------- small helpers


def _at_least_float32(x):
    """float64 stays (tests), all else becomes float32: bf16 cannot count beyond 256, and a bool has no mean."""
    return x if x.dtype == torch.float64 else x.float()


def _clip_range(epsilon, epsilon_high):
    """(1 - epsilon, 1 + epsilon_high), where None means symmetric."""
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    if epsilon < 0 or epsilon_high < 0:
        raise ValueError(
            f"the clip range must contain 1, got epsilon {epsilon}, epsilon_high {epsilon_high}"
        )
    return 1 - epsilon, 1 + epsilon_high


def _check(x, y, adv=None):
    """x and y are (B, T), adv is (B,): otherwise broadcasting would return some plausible number."""
    assert x.ndim == 2 and x.shape == y.shape, (
        f"expected two (B, T), got {tuple(x.shape)} and {tuple(y.shape)}"
    )
    assert adv is None or adv.shape == x.shape[:1], (
        f"adv must be (B,) = ({len(x)},), got {tuple(adv.shape)}"
    )


def _check_pair(x, y, beta=1.0, label_smoothing=0.0):
    """x and y are both (P,), beta > 0, label_smoothing in [0, 0.5): at 0.5 a label says nothing, beyond it the opposite."""
    assert x.ndim == 1 and x.shape == y.shape, (
        f"expected two (P,), got {tuple(x.shape)} and {tuple(y.shape)}"
    )
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta scales the log-ratios and must be a number above 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing is the chance that a label is wrong, in [0, 0.5), got {label_smoothing}"
        )


_log_sigmoid = torch.nn.functional.logsigmoid  # finite where sigma itself rounds to 0


# name: (term, reduction). Add a loss: write either one, pair it with the other, name it here.
# train_grpo.py offers every name but "sft", whose term has no advantage.
# "bnpo" and "dapo": in TRL, bnpo divides by the tokens of the local (micro-)batch, so its gradient depends on a memory flag,
# and dapo by the mean number of tokens of the updates that share a generation batch (one update: its tokens). Here, where
# one device sees the whole update and a memory flag must not change the gradient, the local batch *is* the whole batch, and
# the two names mean the same. (The BNPO of arXiv:2506.02864 is something else, a Beta normalisation of rewards.)
LOSSES = {
    "grpo": (clipped_surrogate, seq_mean),
    "bnpo": (clipped_surrogate, token_mean),
    "dapo": (clipped_surrogate, token_mean),
    "dr_grpo": (clipped_surrogate, constant),
    "sft": (nll, token_mean),
}

# name: cost of the pairs described by p (preference_loss says what p holds), (P,). Add one: write it above, name it here.
PAIR_LOSSES = {
    "sigmoid": lambda p: dpo(p["chosen"], p["rejected"], p["beta"], p["label_smoothing"]),
    "ipo": lambda p: ipo(
        p["chosen"] / p["chosen_tokens"], p["rejected"] / p["rejected_tokens"], p["beta"]
    ),
    "bco_pair": lambda p: bco_pair(p["chosen"], p["rejected"], p["beta"], p["delta"]),
    "sft": lambda p: sft_pair(p["chosen_logp"], p["chosen_tokens"]),
}
# Mixed Preference Optimization (arXiv:2411.10442): preference 0.8 + quality 0.2 + generation 1. preference_loss(..., **MPO)
DPO = {"loss_type": ("sigmoid",), "loss_weights": None}
MPO = {"loss_type": ("sigmoid", "bco_pair", "sft"), "loss_weights": (0.8, 0.2, 1.0)}
