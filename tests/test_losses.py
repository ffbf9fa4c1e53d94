"""Run: python -m pytest -q tests/test_losses.py        (about 3 s on a CPU, no network)

Closed forms, properties, and a second implementation in plain python loops. Float64 throughout, so
that tolerances can be tight, except where float32 itself is the subject.
"""

import ast
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import losses
from losses import (
    LOSSES,
    MPO,
    PAIR_LOSSES,
    aggregate,
    at_level,
    bco_pair,
    clip_range,
    clip_ratio,
    clipped_surrogate,
    clipped_tokens,
    dpo,
    ipo,
    kl_k3,
    masked_mean,
    nll,
    preference_loss,
    preference_metrics,
    r3v_weights,
    reward_shift,
    sequence_logp,
    sft_pair,
    sft_weights,
    token_weights,
    truncation_mask,
)
from reinforcing.advantages import frac_reward_zero_std, group_advantage
from reinforcing.agreement import logp_difference, rollout_agrees

ALL_LOSSES = [*LOSSES, "sft"]
MAX_LEN = 12


def make_batch(N=3, G=4, T=9, seed=0, noise=0.3, dtype=torch.float64):
    """Make an off-policy batch: logp (a leaf), old_logp, ref_logp, adv, mask of lengths 1..T."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64).to(dtype)

    B = N * G
    old_logp = -2 * rand(B, T) - 0.1
    logp = old_logp + noise * (2 * rand(B, T) - 1)
    ref_logp = old_logp + noise * (2 * rand(B, T) - 1)
    adv = group_advantage(rand(B), G)
    lengths = torch.randint(1, T + 1, (B,), generator=g)
    mask = (torch.arange(T) < lengths[:, None]).to(dtype)
    return logp.requires_grad_(), old_logp, ref_logp, adv, mask


def full_loss(loss_type, logp, old_logp, ref_logp, adv, mask, beta=0.1, weights=None):
    """The line a training script writes: term + beta * KL, weighted."""
    if loss_type == "sft":
        per_token = nll(logp)
    else:
        loss = LOSSES[loss_type]
        seen = at_level(logp, old_logp, mask, loss.level)
        per_token = loss.term(seen, old_logp, adv, mask, *clip_range(*loss.epsilon))
        per_token = per_token + beta * kl_k3(logp, ref_logp)
    return aggregate(per_token, weights_of(mask, loss_type) if weights is None else weights)


def weights_of(mask, loss_type):
    """Weights by name; "sft" is none of LOSSES, whose terms have an advantage."""
    return sft_weights(mask) if loss_type == "sft" else token_weights(mask, loss_type, MAX_LEN)


def surrogate(logp, old_logp, adv, epsilon=0.2, epsilon_high=None):
    """The clipped term, with all tokens counting."""
    mask = torch.ones_like(logp)
    return clipped_surrogate(logp, old_logp, adv, mask, *clip_range(epsilon, epsilon_high))


def ratios_clipped(logp, old_logp, adv, mask, epsilon=0.2, epsilon_high=None):
    """The clip metric of the clipped term."""
    bounds = clip_range(epsilon, epsilon_high)
    return clip_ratio(clipped_tokens(logp, old_logp, adv, mask, *bounds), adv, mask)


# --- advantages ---


def test_advantage_by_hand():
    # rewards 1, 0, 0, 0: mean 1/4, squared deviations 9/16 + 3/16 = 3/4,
    # unbiased variance 1/4, std 1/2 (biased: 0.433)
    rewards = torch.tensor([1.0, 0, 0, 0, 2, 4, 2, 4])
    got = group_advantage(rewards, G=4, eps=0.0)
    s = math.sqrt(4 / 3)  # 2, 4, 2, 4: deviations of 1, 4 / (4 - 1)
    torch.testing.assert_close(
        got, torch.tensor([1.5, -0.5, -0.5, -0.5, -1 / s, 1 / s, -1 / s, 1 / s])
    )
    assert group_advantage(rewards, G=4)[0].item() == pytest.approx(0.75 / (0.5 + 1e-4))
    torch.testing.assert_close(
        group_advantage(rewards, 4, scale="none")[:4],
        torch.tensor([0.75, -0.25, -0.25, -0.25]),
    )


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantage_is_zero_mean_within_each_group_not_only_overall(scale):
    rewards = torch.arange(12, dtype=torch.float64) ** 2
    adv = group_advantage(rewards, 4, scale)
    torch.testing.assert_close(
        adv.view(3, 4).sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert adv.shape == (12,) and adv.abs().min() > 0.01


def test_advantage_ignores_shift_and_positive_scale():
    rewards = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    adv = group_advantage(rewards, 4, eps=0.0)
    torch.testing.assert_close(group_advantage(rewards + 7, 4, eps=0.0), adv)
    torch.testing.assert_close(group_advantage(rewards * 50, 4, eps=0.0), adv)
    torch.testing.assert_close(group_advantage(-rewards, 4, eps=0.0), -adv)
    centred = group_advantage(rewards, 4, scale="none")  # Dr. GRPO keeps the scale, on purpose
    torch.testing.assert_close(group_advantage(rewards * 50 + 7, 4, scale="none"), 50 * centred)


def test_permuting_groups_and_members_permutes_advantages():
    rewards = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    adv = group_advantage(rewards, 4)
    groups, members = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    order = torch.arange(12).view(3, 4)[groups][:, members].flatten()
    torch.testing.assert_close(group_advantage(rewards[order], 4), adv[order])
    assert not torch.allclose(adv[order], adv)


def test_equal_rewards_give_exactly_zero_even_with_float_noise():
    """0.1 + 0.2 != 0.3: a weighted sum of rewards differs in the last bit.

    With a small eps the division by std turns that bit into advantages of order 1 (NeMo-RL#4158).
    The inputs are fixed, so there are no false alarms.
    """
    noisy = torch.tensor([0.1 + 0.2, 0.3, 0.3, 0.3], dtype=torch.float64)
    assert noisy.unique().numel() == 2
    cancelled, large = (
        torch.tensor([1e-8, 0.0, 0.0, -1e-8]),
        torch.tensor([100.0, 100.00001, 100.0, 100.0]),
    )
    for rewards in (noisy, torch.full((4,), 0.1), torch.zeros(4), cancelled, large):
        for scale in ("group", "batch", "none"):
            assert group_advantage(rewards, 4, scale, eps=0.0).tolist() == [0, 0, 0, 0]
        assert frac_reward_zero_std(rewards, 4) == 1
    assert (
        group_advantage(torch.tensor([0.3, 0.3001, 0.3, 0.3]), 4).abs().min() > 0.1
    )  # small, but a real difference


def test_advantage_accepts_integer_and_bool_rewards():
    for dtype in (torch.int64, torch.bool, torch.bfloat16):
        rewards = torch.tensor([1, 0, 0, 0], dtype=dtype)
        torch.testing.assert_close(
            group_advantage(rewards, 4, eps=0.0), torch.tensor([1.5, -0.5, -0.5, -0.5])
        )


@pytest.mark.parametrize(
    "rewards, G, message",
    [
        ([1.0, 0.0, 1.0], 2, "divide"),
        ([1.0, 0.0], 1, "at least 2"),  # std of one number: R1-V trained on NaN
        ([1.0, float("nan")], 2, r"\[1\]"),
        ([float("-inf"), 1.0], 2, r"\[0\]"),
    ],
)
def test_advantage_refuses(rewards, G, message):
    with pytest.raises(ValueError, match=message):
        group_advantage(torch.tensor(rewards), G)


# --- the surrogate ---


def test_on_policy_value_and_gradient():
    """On-policy a token costs -adv. For grpo the sum is 0 ("loss is 0"), its gradient is not."""
    logp, _, _, adv, mask = make_batch()
    for loss_type in LOSSES:
        logp.grad = None
        weights = token_weights(mask, loss_type, MAX_LEN)
        per_token = surrogate(logp, logp.detach(), adv)
        torch.testing.assert_close(per_token, -adv[:, None].expand_as(logp))
        loss = aggregate(per_token, weights)
        loss.backward()
        torch.testing.assert_close(logp.grad, -adv[:, None] * weights)
        assert logp.grad.abs().max() > 1e-3
        if loss_type == "grpo":
            assert (
                loss.item() == pytest.approx(-adv.mean().item(), abs=1e-12)
                and abs(loss.item()) < 1e-12
            )


def test_token_mean_on_policy_gradient_is_minus_adv_over_n_tokens():
    logp, _, _, adv, mask = make_batch()
    full_loss("dapo", logp, logp.detach(), logp.detach(), adv, mask).backward()
    torch.testing.assert_close(logp.grad, -adv[:, None] * mask / mask.sum())


def test_passing_logp_itself_as_old_keeps_the_gradient():
    """Without the detach, logp - logp is a constant: the loss is right and nothing is learnt."""
    logp, _, _, adv, _ = make_batch()
    surrogate(logp, logp, adv).sum().backward()
    torch.testing.assert_close(logp.grad, -adv[:, None].expand_as(logp))


@pytest.mark.parametrize(
    "ratio, adv, epsilon_high, value, slope",
    [
        # inside the range: -ratio * A, d/dlogp = -ratio * A
        (1.1, 2.0, None, -2.2, -2.2),
        (0.9, -2.0, None, 1.8, 1.8),
        # beyond it on the side that was already rewarded: constant, no gradient
        (1.5, 2.0, None, -2.4, 0.0),
        (0.5, -2.0, None, 1.6, 0.0),
        # beyond it on the other side: the mistake may still be corrected, at full size
        (0.5, 2.0, None, -1.0, -1.0),
        (1.5, -2.0, None, 3.0, 3.0),
        # clip-higher moves the upper bound only
        (1.25, 2.0, 0.28, -2.5, -2.5),
        (1.3, 2.0, 0.28, -2.56, 0.0),
        (0.75, -2.0, 0.28, 1.6, 0.0),
    ],
)
def test_clip_by_hand(ratio, adv, epsilon_high, value, slope):
    logp = torch.tensor([[math.log(ratio) - 1.0]], dtype=torch.float64, requires_grad=True)
    old_logp = torch.tensor([[-1.0]], dtype=torch.float64)
    per_token = surrogate(
        logp, old_logp, torch.tensor([adv], dtype=torch.float64), 0.2, epsilon_high
    )
    per_token.sum().backward()
    assert per_token.item() == pytest.approx(value, abs=1e-12)
    assert logp.grad.item() == pytest.approx(slope, abs=1e-12)


def test_surrogate_refuses_a_range_without_one():
    for bad in ({"epsilon": -0.1}, {"epsilon": 0.2, "epsilon_high": -0.1}):
        with pytest.raises(ValueError, match="epsilon"):
            clip_range(**bad)


@pytest.mark.parametrize("loss_type", list(LOSSES))
def test_group_with_equal_rewards_contributes_nothing(loss_type):
    logp, old_logp, _, _, mask = make_batch()
    rewards = torch.tensor([0.1 + 0.2, 0.3, 0.3, 0.3, 1, 0, 0, 0, 1, 1, 1, 1], dtype=torch.float64)
    adv = group_advantage(rewards, 4)
    full_loss(loss_type, logp, old_logp, old_logp, adv, mask, beta=0.0).backward()
    touched = logp.grad.abs().sum(1).view(3, 4).sum(1) > 0
    assert touched.tolist() == [False, True, False]


# --- KL ---


def test_k3_by_hand_and_sign():
    logp = torch.tensor([[math.log(0.5), math.log(0.5), math.log(0.5)]], dtype=torch.float64)
    ref_logp = torch.tensor([[math.log(0.25), math.log(0.5), math.log(1.0)]], dtype=torch.float64)
    expected = [[0.5 + math.log(2) - 1, 0.0, 2 - math.log(2) - 1]]  # r - log r - 1 at r = 1/2, 1, 2
    torch.testing.assert_close(kl_k3(logp, ref_logp), torch.tensor(expected, dtype=torch.float64))


def test_k3_is_never_negative_and_zero_only_where_equal():
    diff = torch.cat([-torch.logspace(-5, 1, 500), torch.logspace(-5, 1, 500)]).double()[None]
    logp = torch.full_like(diff, -1.5)
    assert (kl_k3(logp, logp + diff) > 0).all()
    assert (kl_k3(logp, logp) == 0).all()


def test_k3_float32_is_not_noise_near_zero():
    """In float32 exp(d) - 1 - d is off by 6e-8, sometimes below 0; near 0 k3 itself is smaller."""
    diff = torch.linspace(-1e-3, 1e-3, 2001)[None]
    zero = torch.zeros_like(diff)
    exact = torch.expm1(diff.double()) - diff.double()
    assert (kl_k3(zero, diff) >= 0).all()
    assert (kl_k3(zero, diff).double() - exact).abs().max() < 1e-10
    naive = diff.exp() - 1 - diff
    assert (naive < 0).any() and (
        naive.double() - exact
    ).abs().max() > 1e-8  # the test can tell the two apart


def test_k3_expectation_is_the_exact_kl_and_its_gradient_the_other_direction():
    """Enumerate a categorical over V = 7.

    E_policy[k3] = KL(policy || ref), and E_policy[grad k3] = grad KL(ref || policy).
    """
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(7, generator=g, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0)
    logp = logits.log_softmax(0)
    exact = (logp.exp() * (logp - ref)).sum()
    expectation = (
        logp.exp().detach() @ kl_k3(logp[None], ref[None])[0]
    )  # the sampling probabilities carry no gradient
    assert expectation.item() == pytest.approx(exact.item(), abs=1e-12) and exact > 0.1
    (got,) = torch.autograd.grad(expectation, logits, retain_graph=True)
    (forward,) = torch.autograd.grad((ref.exp() * (ref - logp)).sum(), logits, retain_graph=True)
    (reverse,) = torch.autograd.grad(exact, logits)
    torch.testing.assert_close(got, forward)
    assert not torch.allclose(got, reverse, atol=1e-2)


def test_k3_times_the_ratio_has_the_gradient_of_the_reverse_kl():
    """TRL 1.16 multiplies the KL by the ratio: the same value on-policy, another gradient."""
    g = torch.Generator().manual_seed(4)
    logits = torch.randn(7, generator=g, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0)
    logp = logits.log_softmax(0)
    ratio = (logp - logp.detach()).exp()
    ours, theirs = kl_k3(logp[None], ref[None])[0], ratio * kl_k3(logp[None], ref[None])[0]
    assert torch.equal(ours, theirs)
    expectation = logp.exp().detach() @ theirs
    (got,) = torch.autograd.grad(expectation, logits, retain_graph=True)
    (reverse,) = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits)
    torch.testing.assert_close(got, reverse)


def test_reference_gets_no_gradient():
    logp, _, ref_logp, _, _ = make_batch()
    ref_logp.requires_grad_()
    kl_k3(logp, ref_logp).sum().backward()
    assert ref_logp.grad is None and logp.grad.abs().max() > 0


# --- weights and aggregation ---


def loop_loss(loss_type, logp, old_logp, ref_logp, adv, mask, beta=0.1, epsilon=0.2):
    """Compute the papers' formulas in plain python floats."""
    rows = []  # one list of token losses per completion
    for b in range(len(logp)):
        rows.append([])
        counted = [t for t in range(logp.shape[1]) if mask[b, t]]
        gaps = [(logp[b, t] - old_logp[b, t]).item() for t in counted]
        for t in range(logp.shape[1]):
            if not mask[b, t]:
                continue
            lp, old, ref, A = (
                x.item() for x in (logp[b, t], old_logp[b, t], ref_logp[b, t], adv[b])
            )
            ratio = math.exp(lp - old)
            clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
            gain = min(ratio * A, clipped * A)
            if loss_type == "gspo":
                whole = math.exp(sum(gaps) / len(gaps))
                gain = min(whole * A, min(max(whole, 1 - 3e-4), 1 + 4e-4) * A)
            if loss_type == "cispo":
                gain = min(ratio, 5.0) * A * lp
            if loss_type == "sapo":
                tau = 1.0 if A > 0 else 1.05
                gain = 4 / tau / (1 + math.exp(-tau * (ratio - 1))) * A
            kl = math.exp(ref - lp) - (ref - lp) - 1
            rows[b].append(-lp if loss_type == "sft" else -(gain - beta * kl))
    total, tokens = sum(map(sum, rows)), sum(map(len, rows))
    if loss_type in ("grpo", "gspo", "sapo"):
        return sum(sum(row) / len(row) for row in rows if row) / len(rows)
    if loss_type == "dr_grpo":
        return total / (len(rows) * MAX_LEN)
    assert loss_type in ("dapo", "bnpo", "cispo", "sft")
    return total / tokens


@pytest.mark.parametrize("empty_row", [False, True])
@pytest.mark.parametrize("loss_type", ALL_LOSSES)
def test_matches_plain_python(loss_type, empty_row):
    batch = make_batch(noise=0.6)
    if empty_row:
        batch[-1][5] = 0
    with torch.no_grad():
        got = full_loss(loss_type, *batch).item()
    assert got == pytest.approx(loop_loss(loss_type, *batch), abs=1e-12) and abs(got) > 1e-4


def test_loss_types_differ_on_ragged_rows():
    batch = make_batch(noise=0.6)
    values = {name: round(full_loss(name, *batch).item(), 10) for name in ALL_LOSSES}
    assert values["dapo"] == values["bnpo"]  # one device: the local batch is the whole one
    assert len(set(values.values())) == len(ALL_LOSSES) - 1


def test_weights_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    torch.testing.assert_close(
        token_weights(mask, "grpo"), torch.tensor([[1, 1, 1, 1], [4, 0, 0, 0]]) / 8
    )
    torch.testing.assert_close(token_weights(mask, "dapo"), mask / 5)
    torch.testing.assert_close(token_weights(mask, "dr_grpo", 10), mask / 20)
    torch.testing.assert_close(sft_weights(mask), mask / 5)


@pytest.mark.parametrize("loss_type", ALL_LOSSES)
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [3, 0, 8, 1]])
def test_micro_batches_add_up_to_the_full_batch(loss_type, sizes):
    """--micro-batch-size is about memory.

    Averaging the micro-batches' own means, as TRL does for bnpo, fails this for ragged lengths.
    The padding is trimmed per micro-batch too, as the scripts do.
    """
    logp, old_logp, ref_logp, adv, mask = make_batch(noise=0.6)
    full = full_loss(loss_type, logp, old_logp, ref_logp, adv, mask)
    (full_grad,) = torch.autograd.grad(full, logp)
    weights = weights_of(mask, loss_type)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    total = 0.0
    for rows in order.split(sizes):
        width = int(mask[rows].sum(1).max()) if len(rows) else 0
        part = [x[rows, :width] for x in (logp, old_logp, ref_logp)]
        loss = full_loss(
            loss_type, *part, adv[rows], mask[rows, :width], weights=weights[rows, :width]
        )
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(full.item(), abs=1e-12)
    torch.testing.assert_close(logp.grad, full_grad, atol=1e-12, rtol=0)
    assert full_grad.abs().max() > 1e-3


@pytest.mark.parametrize("loss_type", ALL_LOSSES)
def test_extra_padding_changes_nothing(loss_type):
    batch = make_batch(noise=0.6)
    logp, old_logp, ref_logp, adv, mask = batch

    def pad(x, value):
        return torch.cat([x.detach(), torch.full((len(x), 5), value, dtype=x.dtype)], 1)

    padded = (
        pad(logp, -3.0).requires_grad_(),
        pad(old_logp, -1.0),
        pad(ref_logp, -9.0),
        adv,
        pad(mask, 0.0),
    )
    loss, padded_loss = full_loss(loss_type, *batch), full_loss(loss_type, *padded)
    assert padded_loss.item() == pytest.approx(loss.item(), abs=1e-12)
    (grad,) = torch.autograd.grad(loss, logp)
    (padded_grad,) = torch.autograd.grad(padded_loss, padded[0])
    torch.testing.assert_close(padded_grad[:, :9], grad, atol=1e-12, rtol=0)
    assert (padded_grad[:, 9:] == 0).all()


@pytest.mark.parametrize("loss_type", ALL_LOSSES)
def test_permuting_groups_changes_nothing(loss_type):
    batch = make_batch(noise=0.6)
    order = torch.arange(12).view(3, 4)[[2, 0, 1]].flatten()
    permuted = [x[order] for x in batch]
    assert full_loss(loss_type, *permuted).item() == pytest.approx(
        full_loss(loss_type, *batch).item(), abs=1e-12
    )
    weights = weights_of(batch[-1], loss_type)
    torch.testing.assert_close(weights_of(permuted[-1], loss_type), weights[order])


@pytest.mark.parametrize("loss_type", ALL_LOSSES)
def test_first_eos_is_inside_and_everything_after_it_outside(loss_type):
    """eos is also pad on Qwen: a mask from `ids == pad` would drop the eos of every answer.

    Then the policy never learns to stop (tiny-grpo). The mask comes from lengths, and the losses
    must honour it to the token.
    """
    eos = 7
    targets = torch.tensor([[3, 5, eos, eos, eos], [3, 4, 5, 6, eos], [3, 4, 5, 6, 8]])
    lengths = torch.tensor([3, 5, 5])  # the last row was cut: it has no eos
    mask = (torch.arange(5) < lengths[:, None]).double()
    logp = torch.full((3, 5), -1.0, dtype=torch.float64, requires_grad=True)
    adv = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    full_loss(loss_type, logp, logp.detach(), logp.detach(), adv, mask).backward()
    assert targets[0, 2] == targets[0, 3] == eos
    assert ((logp.grad != 0) == (mask == 1)).all()  # (0, 2) learns, (0, 3) and (0, 4) do not


@pytest.mark.parametrize("loss_type", ALL_LOSSES)
def test_truncated_rows_fall_silent(loss_type):
    logp, old_logp, ref_logp, adv, mask = make_batch()
    finished = torch.tensor([True] * 12)
    finished[[0, 7]] = False
    kept = truncation_mask(mask, finished)
    assert (
        (kept[[0, 7]] == 0).all()
        and torch.equal(kept[finished], mask[finished])
        and kept.dtype == mask.dtype
    )
    full_loss(loss_type, logp, old_logp, ref_logp, adv, kept).backward()
    assert (
        torch.isfinite(logp.grad).all()
        and (logp.grad[[0, 7]] == 0).all()
        and (logp.grad[finished].abs().sum(1) > 0).all()
    )

    logp.grad = None  # every row cut: zero, not 0 / 0
    nothing = full_loss(
        loss_type,
        logp,
        old_logp,
        ref_logp,
        adv,
        truncation_mask(mask, torch.zeros(12, dtype=torch.bool)),
    )
    nothing.backward()
    assert nothing.item() == 0 and (logp.grad == 0).all()


def test_who_counts_a_masked_row():
    """grpo and dr_grpo divide by all B rows (TRL); the token mean forgets the row (trl#6439)."""
    mask = torch.ones(4, 5)
    kept = truncation_mask(mask, torch.tensor([True, True, True, False]))
    totals = {name: token_weights(kept, name, 5).sum().item() for name in LOSSES}
    totals["sft"] = sft_weights(kept).sum().item()
    by_row = dict.fromkeys(("grpo", "dr_grpo", "gspo", "sapo"), 0.75)
    by_token = dict.fromkeys(("bnpo", "dapo", "cispo", "sft"), 1)
    assert totals == pytest.approx(by_row | by_token)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.uint8, torch.bfloat16, torch.float32]
)
def test_mask_dtype_does_not_matter(dtype):
    mask = torch.ones(3, 333)  # 999 tokens: bfloat16 would count 1000
    mask[0, 4:] = 0
    for loss_type in ALL_LOSSES:
        torch.testing.assert_close(
            weights_of(mask.to(dtype), loss_type), weights_of(mask, loss_type)
        )
    assert truncation_mask(mask.to(dtype), torch.tensor([True, False, True])).dtype == dtype
    x = torch.arange(999.0).view(3, 333)
    torch.testing.assert_close(masked_mean(x, mask.to(dtype)), x[mask == 1].mean())


def test_token_weights_refuses():
    mask = torch.ones(2, 3)
    with pytest.raises(ValueError, match="grpo, bnpo, dapo, dr_grpo"):
        token_weights(mask, "gpro")
    for bad in (None, 0, -5):
        with pytest.raises(ValueError, match="max_completion_length"):
            token_weights(mask, "dr_grpo", bad)


def test_supervised_is_cross_entropy():
    g = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 6, 11, generator=g, dtype=torch.float64)
    targets = torch.randint(11, (4, 6), generator=g)
    mask = (torch.arange(6) < torch.tensor([6, 1, 3, 4])[:, None]).double()
    logp = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    labels = targets.masked_fill(mask == 0, -100).flatten()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels)
    torch.testing.assert_close(aggregate(nll(logp), sft_weights(mask)), expected)


# --- R3V ---


def test_r3v_weights_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    tasks, w = ["cot", "refine", "select"], {"refine": 2.0, "select": 0.5}
    torch.testing.assert_close(
        r3v_weights(mask, tasks, w), mask * torch.tensor([[1], [2], [0.5]]) / 8
    )
    rows = torch.tensor([[1 / 4], [2 / 3], [0.5 / 1]]) / 3
    torch.testing.assert_close(r3v_weights(mask, tasks, w, per_example=True), mask * rows)
    assert (r3v_weights(mask, tasks, {"refine": 0.0})[1] == 0).all()
    empty = torch.zeros(2, 3)
    assert (r3v_weights(empty, ["cot", "cot"], {}) == 0).all() and (
        r3v_weights(empty, ["cot", "cot"], {}, True) == 0
    ).all()


def test_r3v_is_the_sum_of_its_three_losses_and_plain_sft_when_unweighted():
    """Each task's loss is computed alone, over the same divisor: the tokens of the update."""
    logp, _, _, _, mask = make_batch()
    tasks = ["cot", "refine", "select", "direct", "warmup", "cot"] * 2
    torch.testing.assert_close(r3v_weights(mask, tasks, {}), sft_weights(mask))
    alone = {
        t: sum(-(logp[b] * mask[b]).sum() for b in range(12) if tasks[b] == t) / mask.sum()
        for t in set(tasks)
    }
    expected = sum(alone.values()) + 0.7 * alone["refine"] + 2 * alone["select"]
    got = aggregate(nll(logp), r3v_weights(mask, tasks, {"refine": 1.7, "select": 3.0}))
    assert got.item() == pytest.approx(expected.item(), abs=1e-12)
    gradients = [torch.autograd.grad(x, logp, retain_graph=True)[0] for x in (got, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("per_example", [False, True])
def test_r3v_micro_batches_add_up(per_example):
    logp, _, _, _, mask = make_batch()
    weights = r3v_weights(
        mask, ["cot", "refine", "select"] * 4, {"refine": 2.0, "select": 0.25}, per_example
    )
    full = aggregate(nll(logp), weights)
    assert sum(
        aggregate(nll(logp[a : a + 5]), weights[a : a + 5]) for a in (0, 5, 10)
    ).item() == pytest.approx(full.item(), abs=1e-12)


def test_r3v_per_example_weighs_a_short_select_like_a_long_rationale():
    mask = (torch.arange(100) < torch.tensor([100, 2])[:, None]).double()

    def share(w):
        return (w.sum(1) / w.sum()).tolist()

    assert share(r3v_weights(mask, ["cot", "select"], {})) == pytest.approx([100 / 102, 2 / 102])
    assert share(r3v_weights(mask, ["cot", "select"], {}, per_example=True)) == pytest.approx(
        [0.5, 0.5]
    )


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_r3v_refuses_a_weight_that_would_unlearn(weight):
    with pytest.raises(ValueError, match="refine"):
        r3v_weights(torch.ones(1, 2), ["cot"], {"refine": weight})


# --- preference ---


def make_pairs(P=7, T=9, seed=0, noise=0.5, dtype=torch.float64):
    """Make P pairs: (P,) sums of log-probs (the policy's are leaves) and lengths, in order."""
    g = torch.Generator().manual_seed(seed)

    def rand():
        return torch.rand(P, generator=g, dtype=torch.float64)

    lengths = [torch.randint(1, T + 1, (P,), generator=g) for _ in range(2)]
    ref = [-(0.1 + 2 * rand()) * n for n in lengths]
    logp = [r + noise * (2 * rand() - 1) * n for r, n in zip(ref, lengths)]
    return [x.to(dtype).requires_grad_() for x in logp] + [x.to(dtype) for x in ref] + lengths


def at_start(P=4):
    """The policy is the reference."""
    _, _, ref_chosen, ref_rejected, *lengths = make_pairs(P)
    return ref_chosen, ref_rejected, ref_chosen, ref_rejected, *lengths


def trl_loss(
    name,
    chosen_logp,
    rejected_logp,
    ref_chosen,
    ref_rejected,
    chosen_tokens,
    rejected_tokens,
    beta,
    label_smoothing,
    delta,
):
    """Compute TRL's formulas, of its DPOTrainer v0.28 ("sft" per sample, as in the MPO paper)."""
    logsigmoid = torch.nn.functional.logsigmoid
    if name == "sigmoid":
        logits = (chosen_logp - rejected_logp) - (ref_chosen - ref_rejected)
        return (
            -logsigmoid(beta * logits) * (1 - label_smoothing)
            - logsigmoid(-beta * logits) * label_smoothing
        )
    if name == "ipo":
        logits = (chosen_logp / chosen_tokens - rejected_logp / rejected_tokens) - (
            ref_chosen / chosen_tokens - ref_rejected / rejected_tokens
        )
        return (logits - 1 / (2 * beta)) ** 2
    if name == "bco_pair":
        chosen_rewards, rejected_rewards = (
            beta * (chosen_logp - ref_chosen),
            beta * (rejected_logp - ref_rejected),
        )
        return -logsigmoid(chosen_rewards - delta) - logsigmoid(-(rejected_rewards - delta))
    assert name == "sft"
    return -chosen_logp / chosen_tokens


def test_sequence_logp_sums_the_tokens_that_count():
    logp, _, _, _, mask = make_batch()
    got = sequence_logp(logp, mask)
    assert got.tolist() == pytest.approx(
        [sum(logp[b, t].item() for t in range(9) if mask[b, t]) for b in range(12)]
    )
    assert torch.equal(torch.autograd.grad(got.sum(), logp)[0], mask)
    long = torch.full((1, 333), -1.0, dtype=torch.bfloat16)  # bfloat16 would say -332 or -334
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        got = sequence_logp(long, torch.ones(1, 333, dtype=dtype))
        assert got.dtype == torch.float32 and got.item() == -333
    spoilt = torch.tensor([[-1.0, float("nan")], [-1.0, -2.0]])
    assert sequence_logp(spoilt, torch.tensor([[1, 0], [1, 0]])).isnan().tolist() == [
        True,
        False,
    ]  # not hidden: it would reach the gradient


def test_at_the_start_every_loss_has_its_known_value():
    """A run whose first loss is another has a reference that is not the policy, or dropout on."""
    args = at_start()
    nll_per_token = -args[0] / args[4]

    def first(**kw):
        return preference_loss(*args, **kw)

    def four(x):
        return torch.full((4,), x, dtype=torch.float64)

    torch.testing.assert_close(first(), four(math.log(2)))
    torch.testing.assert_close(first(label_smoothing=0.3), four(math.log(2)))
    torch.testing.assert_close(first(loss_type="bco_pair"), four(2 * math.log(2)))
    torch.testing.assert_close(first(loss_type=("ipo",)), four(25.0))
    torch.testing.assert_close(first(**MPO), 1.2 * math.log(2) + nll_per_token)
    assert 1.2 * math.log(2) == pytest.approx(0.8318, abs=1e-4)
    assert (
        preference_metrics(*args[:4])["rewards/accuracies"] == 0
    )  # strict: nothing is preferred yet


@pytest.mark.parametrize(
    "beta, label_smoothing, delta", [(0.1, 0.0, 0.0), (0.5, 0.2, -0.4), (2.0, 0.49, 1.3)]
)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_losses_match_trl(name, beta, label_smoothing, delta):
    args = make_pairs()
    got = preference_loss(*args, (name,), beta=beta, label_smoothing=label_smoothing, delta=delta)
    expected = trl_loss(name, *args, beta, label_smoothing, delta)
    torch.testing.assert_close(got, expected)
    assert got.shape == (7,) and got.std() > 1e-3
    for x in args[:1] if name == "sft" else args[:2]:
        torch.testing.assert_close(
            torch.autograd.grad(got.sum(), x, retain_graph=True)[0],
            torch.autograd.grad(expected.sum(), x, retain_graph=True)[0],
        )


def test_losses_are_weighted_and_summed():
    args = make_pairs()
    part = {name: trl_loss(name, *args, 0.3, 0.1, 0.7) for name in PAIR_LOSSES}
    kw = {"beta": 0.3, "label_smoothing": 0.1, "delta": 0.7}
    torch.testing.assert_close(
        preference_loss(*args, **MPO, **kw),
        0.8 * part["sigmoid"] + 0.2 * part["bco_pair"] + part["sft"],
    )
    torch.testing.assert_close(
        preference_loss(*args, tuple(PAIR_LOSSES), **kw), sum(part.values())
    )  # no weights: 1 each, TRL
    torch.testing.assert_close(
        preference_loss(*args, ["ipo", "sft"], [0.0, 2.0], **kw), 2 * part["sft"]
    )


def test_dpo_gradient_is_beta_sigma_of_the_error():
    """Eq. 7's gradient: -beta sigma(-beta h) on every token of the chosen, the opposite on others.

    It is large where the order is wrong.
    """
    logp, ref_logp, _, _, mask = make_batch(N=4, G=2, noise=1.5)  # rows alternate chosen, rejected
    policy, ref = sequence_logp(logp, mask), sequence_logp(ref_logp, mask)
    h = ((policy - ref)[::2] - (policy - ref)[1::2]).detach()
    pairs = policy[::2], policy[1::2], ref[::2], ref[1::2], mask[::2].sum(1), mask[1::2].sum(1)
    preference_loss(*pairs, beta=0.7).sum().backward()
    pull = 0.7 * torch.sigmoid(-0.7 * h)[:, None]  # (P, 1)
    torch.testing.assert_close(logp.grad[::2], -pull * mask[::2])
    torch.testing.assert_close(logp.grad[1::2], pull * mask[1::2])
    assert h.min() < -0.1 and h.max() > 0.1


@pytest.mark.parametrize(
    "name, signs", [("sigmoid", (-1, 1)), ("bco_pair", (-1, 1)), ("sft", (-1, 0))]
)
def test_descent_raises_the_chosen_and_lowers_the_rejected(name, signs):
    args = make_pairs()
    loss = preference_loss(*args, (name,), delta=0.3).sum()
    for x, sign in zip(args[:2], signs):
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)
        assert sign == 0 and grad is None or (grad.sign() == sign).all()


@pytest.mark.parametrize("label_smoothing", [0.05, 0.2, 0.4])
def test_label_smoothing_stops_at_the_log_odds_of_a_right_label(label_smoothing):
    """cDPO = (1 - e) DPO(h) + e DPO(-h) is least at beta h = log((1 - e) / e).

    It costs there the entropy of a coin with bias e.
    """
    e, beta = label_smoothing, 0.1
    zero, h = (
        torch.zeros(3, dtype=torch.float64),
        math.log((1 - e) / e) / beta + torch.tensor([0.0, -1.0, 1.0], dtype=torch.float64),
    )
    h.requires_grad_()
    loss = dpo(h, zero, beta, e)
    torch.testing.assert_close(loss, (1 - e) * dpo(h, zero, beta) + e * dpo(zero, h, beta))
    (grad,) = torch.autograd.grad(loss.sum(), h)
    assert grad[0].item() == pytest.approx(0, abs=1e-12) and grad[1] < -1e-5 and grad[2] > 1e-5
    assert loss[0].item() == pytest.approx(-e * math.log(e) - (1 - e) * math.log(1 - e))


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_ipo_is_least_at_one_over_two_beta_per_token(beta):
    """The margin is in nats per token.

    A chosen of 4 tokens at +m each and a rejected of 8 at -m each are 2 m apart, not 12 m.
    """
    m = 1 / (4 * beta)
    zero, four = torch.zeros(3, dtype=torch.float64), torch.full((3,), 4)
    chosen = torch.tensor([4 * m, 4 * m - 1, 4 * m + 1], dtype=torch.float64, requires_grad=True)
    loss = preference_loss(chosen, zero - 8 * m, zero, zero, four, 2 * four, ("ipo",), beta=beta)
    assert loss.tolist() == pytest.approx([0, 1 / 16, 1 / 16])
    assert torch.autograd.grad(loss.sum(), chosen)[0].tolist() == pytest.approx([0, -1 / 8, 1 / 8])
    torch.testing.assert_close(loss, ipo(chosen / 4, -m + zero, beta))


def test_bco_judges_each_answer_by_itself_and_dpo_only_the_margin():
    """A common fall of both log-probs leaves DPO where it was.

    BCO sees it, unless the reward shift falls along, which is its purpose.
    """
    chosen, rejected = torch.tensor([[0.3, 2.0, -1.0], [0.1, -4.0, 3.0]], dtype=torch.float64)
    beta, fall = 0.5, -6.0
    torch.testing.assert_close(
        dpo(chosen + fall, rejected + fall, beta), dpo(chosen, rejected, beta)
    )
    before, after = (
        bco_pair(chosen, rejected, beta, 0.2),
        bco_pair(chosen + fall, rejected + fall, beta, 0.2),
    )
    assert (before - after).abs().min() > 0.1
    torch.testing.assert_close(
        bco_pair(chosen + fall, rejected + fall, beta, 0.2 + beta * fall), before
    )
    far = torch.tensor([500.0])
    assert bco_pair(far, -far, 0.1, 3.0).item() == pytest.approx(0, abs=1e-12) and bco_pair(
        -far, far, 0.1, 3.0
    ).item() == pytest.approx(100)
    torch.testing.assert_close(
        preference_loss(*at_start(), delta=5.0), preference_loss(*at_start())
    )  # DPO knows no delta
    args = make_pairs()  # a delta per pair is the same as one pair at a time
    delta = torch.linspace(-1, 1, 7, dtype=torch.float64)
    single = [
        preference_loss(*(x[i : i + 1] for x in args), delta=delta[i].item(), **MPO)
        for i in range(7)
    ]
    torch.testing.assert_close(preference_loss(*args, delta=delta, **MPO), torch.cat(single))


def test_sft_pair_counts_every_answer_the_same():
    """-0.7 nats a token costs 0.7, for 1 token as for 100.

    The token mean of a batch would give the long one 100 of 101 parts.
    """
    tokens = torch.tensor([1, 100])
    cost = torch.tensor([0.7, 0.1], dtype=torch.float64)
    got = sft_pair(-cost * tokens, tokens)
    torch.testing.assert_close(got, cost)
    torch.testing.assert_close(
        sft_pair(torch.tensor([-0.7, -70.0]), tokens), torch.tensor([0.7, 0.7])
    )
    token_mean = (cost * tokens).sum() / tokens.sum()
    assert got.mean().item() == pytest.approx(0.4) and token_mean.item() == pytest.approx(
        10.7 / 101
    )


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_extreme_ratios_stay_finite(name):
    """In float32 log(sigmoid(x)) is log(0) from x = -104; a gradient must remain all the same."""
    chosen = torch.tensor([-2e4, 2e4, -300.0], requires_grad=True)
    ref, n = torch.zeros(3), torch.full((3,), 10)
    loss = preference_loss(
        chosen, -chosen.detach(), ref, ref, n, n, (name,), label_smoothing=0.1, delta=1.0
    )
    loss.sum().backward()
    assert (
        torch.isfinite(loss).all() and torch.isfinite(chosen.grad).all() and chosen.grad[0] < -0.01
    )


def test_reward_shift_is_the_mean_of_all_pairs_so_far():
    chosen, rejected = (
        torch.tensor([3.0, 1.0, -2.0, 0.0]),
        torch.tensor([1.0, 0.0, -4.0, 2.0]),
    )  # pair means 2, 0.5, -3, 1
    delta, total, count = reward_shift(chosen, rejected, 0.0, 0)
    torch.testing.assert_close(
        delta, torch.tensor([2.0, 2.5 / 2, -0.5 / 3, 0.5 / 4])
    )  # the first is its own mean: updated before use
    assert (total, count) == (0.5, 4) and type(total) is float and type(count) is int
    more, total, count = reward_shift(torch.tensor([4.5]), torch.tensor([4.5]), total, count)
    assert more.tolist() == [1.0] and (total, count) == (
        5.0,
        5,
    )  # cumulative: an exponential mean would forget
    none, total, count = reward_shift(torch.zeros(0), torch.zeros(0), total, count)
    assert none.shape == (0,) and (total, count) == (5.0, 5)


@pytest.mark.parametrize("sizes", [[1] * 7, [3, 4], [2, 0, 5]])
def test_pairs_in_micro_batches_add_up_running_delta_included(sizes):
    """InternVL's delta and TRL's NLL are means of the micro-batch: a memory flag changes both."""
    args, beta = make_pairs(), 0.4

    def rewards(a):
        return (beta * (a[0] - a[2]), beta * (a[1] - a[3]))

    delta, *state = reward_shift(*rewards(args), 5.0, 9)
    full = preference_loss(*args, beta=beta, delta=delta, **MPO).sum() / 7
    expected = torch.autograd.grad(full, args[:2])
    total, part_state, parts = 0.0, (5.0, 9), []
    for rows in torch.arange(7).split(sizes):
        part = [x[rows] for x in args]
        part_delta, *part_state = reward_shift(*rewards(part), *part_state)
        loss = preference_loss(*part, beta=beta, delta=part_delta, **MPO).sum() / 7
        loss.backward()
        total, parts = total + loss.item(), parts + part_delta.tolist()
    assert (
        total == pytest.approx(full.item(), abs=1e-12)
        and parts == delta.tolist()
        and part_state == state
    )
    for x, grad in zip(args, expected):
        torch.testing.assert_close(x.grad, grad)
        assert grad.abs().min() > 1e-3


def test_reference_delta_and_metrics_carry_no_gradient():
    args = make_pairs()
    chosen, rejected, ref_chosen, ref_rejected = args[:4]
    ref_chosen.requires_grad_(), ref_rejected.requires_grad_()
    delta, _, _ = reward_shift(chosen - ref_chosen, rejected - ref_rejected, 0.0, 0)
    assert not delta.requires_grad and not any(
        x.requires_grad for x in preference_metrics(*args[:4]).values()
    )
    own = chosen.mean()  # a delta that does carry a gradient counts as a constant
    (
        preference_loss(*args, tuple(PAIR_LOSSES), delta=own)
        + bco_pair(chosen - ref_chosen.detach(), rejected, delta=own)
    ).sum().backward()
    assert ref_chosen.grad is None and ref_rejected.grad is None
    constant_delta = own.item()
    again = preference_loss(*args, tuple(PAIR_LOSSES), delta=constant_delta) + bco_pair(
        chosen - ref_chosen.detach(), rejected, delta=constant_delta
    )
    torch.testing.assert_close(torch.autograd.grad(again.sum(), chosen)[0], chosen.grad)


def test_preference_metrics_by_hand():
    chosen_logp, rejected_logp = (
        torch.tensor([-10.0, -20.0, -30.0, -4.0]),
        torch.tensor([-12.0, -18.0, -30.0, -9.0]),
    )
    ref_chosen, ref_rejected = (
        torch.tensor([-12.0, -20.0, -33.0, -4.0]),
        torch.tensor([-11.0, -20.0, -33.0, -1.0]),
    )
    got = preference_metrics(chosen_logp, rejected_logp, ref_chosen, ref_rejected, beta=0.5)
    # rewards of the chosen 1, 0, 1.5, 0; of the rejected -0.5, 1, 1.5, -4:
    # right, wrong, tie (not right), right
    assert {k: v.item() for k, v in got.items()} == pytest.approx(
        {
            "rewards/chosen": 2.5 / 4,
            "rewards/rejected": -2 / 4,
            "rewards/margins": 4.5 / 4,
            "rewards/accuracies": 0.5,
            "logps/chosen": -16,
            "logps/rejected": -69 / 4,
        }
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_preference_is_computed_in_at_least_float32(dtype):
    args = make_pairs(dtype=dtype)
    out = torch.float64 if dtype == torch.float64 else torch.float32
    exact = preference_loss(*(x.detach().double() for x in args), **MPO, label_smoothing=0.1)
    loss = preference_loss(*args, **MPO, label_smoothing=0.1)
    delta, _, _ = reward_shift(args[0], args[1], 0.0, 0)
    assert loss.dtype == delta.dtype == out and all(
        v.is_floating_point() and v.dtype != torch.bfloat16
        for v in preference_metrics(*args[:4]).values()
    )
    torch.testing.assert_close(
        loss.double(), exact, atol=1e-5, rtol=1e-5
    )  # bfloat16 arithmetic would be off by 1e-2
    assert (
        dpo(args[0], args[1]).dtype
        == ipo(args[0], args[1]).dtype
        == bco_pair(args[0], args[1]).dtype
        == sft_pair(args[0], args[4]).dtype
        == out
    )
    loss.sum().backward()
    assert args[0].grad.dtype == dtype
    torch.testing.assert_close(
        dpo(args[0], args[1]).double(),
        dpo(args[0].double(), args[1].double()),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "kw, message",
    [
        ({"loss_type": ("sigmoid", "orpo")}, "orpo.*sigmoid, ipo, bco_pair, sft"),
        ({"loss_type": ()}, "there are"),
        ({"loss_type": ("sigmoid", "sft"), "loss_weights": (1.0,)}, "got 1"),
        ({"beta": 0.0}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"loss_type": "ipo", "beta": 0.0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": -0.01}, "label_smoothing"),
        ({"loss_type": "sft", "beta": 0.0}, "beta"),
        (
            {"loss_type": "bco_pair", "label_smoothing": 0.5},
            "label_smoothing",
        ),  # unused, still wrong
    ],
)
def test_preference_loss_refuses(kw, message):
    with pytest.raises(ValueError, match=message):
        preference_loss(*make_pairs(), **kw)


def test_empty_responses_and_poisoned_rewards_are_refused():
    """A length of 0 is 0 / 0 in the NLL (ms-swift#3276); inf would spoil every later delta."""
    for which in (4, 5):
        args = make_pairs()
        args[which] = args[which].clone()
        args[which][3] = 0
        with pytest.raises(ValueError, match="empty"):
            preference_loss(*args)
    for bad in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="pair 1"):
            reward_shift(torch.tensor([0.0, bad]), torch.zeros(2), 0.0, 0)


# --- metrics ---


@pytest.mark.parametrize("epsilon_high", [None, 0.28])
def test_clip_ratio_counts_exactly_the_zero_gradient_tokens(epsilon_high):
    """Against autograd.

    VLM-R1 counts ratio*A < clip(ratio)*A instead: tokens where the *unclipped* term is chosen.
    """
    logp, old_logp, _, adv, mask = make_batch(N=8, T=50, noise=0.6)
    logp = (
        (logp + 0.2 * adv.sign()[:, None]).detach().requires_grad_()
    )  # as after some updates: moved the way adv points
    surrogate(logp, old_logp, adv, 0.2, epsilon_high).sum().backward()
    dead = (logp.grad == 0) & (mask == 1)  # adv is never 0 here, so clipping is the cause
    assert adv.abs().min() > 1e-3
    got = ratios_clipped(logp, old_logp, adv, mask, 0.2, epsilon_high)
    up = (adv > 0)[:, None]
    expected = {"low_mean": dead & ~up, "high_mean": dead & up, "region_mean": dead}
    for name, tokens in expected.items():
        assert got[name].item() == pytest.approx(
            tokens.sum().item() / mask.sum().item(), abs=1e-6
        ), name
        assert 0.1 < got[name].item() < 0.9
    ratio = (logp - old_logp).exp().detach()
    inverted = masked_mean(
        ratio * adv[:, None]
        < ratio.clamp(0.8, 1.2 if epsilon_high is None else 1.28) * adv[:, None],
        mask,
    )
    assert 0.02 < inverted < got["region_mean"] / 2  # the data tells the two metrics apart


def test_clip_ratio_on_the_boundary_and_without_advantage():
    """At ratio = 1 + eps exactly the gradient is there; at adv 0 it is gone without clipping."""
    old_logp = torch.zeros(1, 3, dtype=torch.float64)
    logp = torch.tensor([[0.3, -0.3, 0.0]], dtype=torch.float64, requires_grad=True)
    high, low, _ = logp.exp()[0].tolist()
    epsilon, epsilon_high = 1 - low, high - 1  # both differences are exact between 1/2 and 2
    for adv in (1.0, -1.0):
        adv = torch.tensor([adv], dtype=torch.float64)
        (grad,) = torch.autograd.grad(
            surrogate(logp, old_logp, adv, epsilon, epsilon_high).sum(), logp
        )
        assert (grad != 0).all()
        assert (
            ratios_clipped(logp, old_logp, adv, torch.ones(1, 3), epsilon, epsilon_high)[
                "region_mean"
            ]
            == 0
        )
    far = torch.full((1, 3), 5.0, dtype=torch.float64)
    assert (
        ratios_clipped(far, old_logp, torch.zeros(1, dtype=torch.float64), torch.ones(1, 3))[
            "region_mean"
        ]
        == 0
    )


def test_frac_reward_zero_std():
    rewards = torch.tensor([1.0, 1, 1, 0, 0.1 + 0.2, 0.3, 0, 0])
    assert frac_reward_zero_std(rewards, 2).item() == 0.75
    assert frac_reward_zero_std(rewards, 4).item() == 0.0
    with pytest.raises(ValueError):
        frac_reward_zero_std(rewards, 3)


def test_masked_mean():
    x = torch.tensor([[1.0, 3.0, float("nan")], [8.0, float("inf"), -5.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    got = masked_mean(x, mask)
    assert got.item() == 4.0 and got.shape == () and not got.requires_grad
    assert masked_mean(x, torch.zeros_like(mask)).item() == 0.0


def test_logp_difference_by_hand():
    sampling_logp = torch.tensor([[math.log(0.5), math.log(0.5), 99.0]], dtype=torch.float64)
    logp = torch.tensor([[math.log(0.25), math.log(0.5), -99.0]], dtype=torch.float64)
    got = logp_difference(sampling_logp, logp, torch.tensor([[1, 1, 0]]))
    assert got["mean"].item() == pytest.approx(math.log(2) / 2)
    assert got["max"].item() == pytest.approx(math.log(2))
    assert got["k3"].item() == pytest.approx((0.5 + math.log(2) - 1) / 2)
    same = logp_difference(logp, logp, torch.ones(1, 3))
    assert same["mean"] == same["max"] == same["k3"] == 0


def test_logp_difference_k3_is_kl_from_rollout_to_trainer():
    g = torch.Generator().manual_seed(6)
    p, q = torch.randn(2, 1, 7, generator=g, dtype=torch.float64).log_softmax(
        -1
    )  # rollout, trainer
    # Every token of the vocabulary once: the mean weighs them 1/7. Reweigh them by hand to an
    # expectation under the rollout.
    k3 = torch.stack(
        [
            logp_difference(p[:, v : v + 1], q[:, v : v + 1], torch.ones(1, 1))["k3"]
            for v in range(7)
        ]
    )
    assert (p.exp()[0] @ k3).item() == pytest.approx((p.exp() * (p - q)).sum().item(), abs=1e-12)
    assert (p.exp()[0] @ k3).item() != pytest.approx((q.exp() * (q - p)).sum().item(), abs=1e-3)


# --- manners ---


def test_no_function_writes_to_its_arguments():
    logp, old_logp, ref_logp, adv, mask = args = make_batch(noise=0.6)
    rewards, finished = torch.rand(12), torch.rand(12) > 0.5
    weights = token_weights(mask, "grpo")
    everything = [*args, rewards, finished, weights]
    before = [x.detach().clone() for x in everything]
    group_advantage(rewards, 4), frac_reward_zero_std(rewards, 4)
    for loss_type in ALL_LOSSES:
        full_loss(loss_type, *args)
    truncation_mask(mask, finished).zero_()  # a new tensor: writing to it reaches no argument
    aggregate(ref_logp, weights)
    for loss_type in ALL_LOSSES:
        weights_of(mask, loss_type).zero_()
    (
        ratios_clipped(logp, old_logp, adv, mask),
        logp_difference(old_logp, logp, mask),
        masked_mean(logp, mask),
    )
    group_advantage(rewards, 4).zero_(), sft_weights(mask).zero_(), nll(old_logp).zero_()
    pairs = make_pairs()
    everything, before = everything + pairs, before + [x.detach().clone() for x in pairs]
    (
        r3v_weights(mask, ["cot"] * 12, {"cot": 2.0}).zero_(),
        sequence_logp(logp, mask).detach().zero_(),
    )
    (
        preference_loss(*pairs, tuple(PAIR_LOSSES)).detach().zero_(),
        preference_metrics(*pairs[:4]),
        reward_shift(*pairs[:2], 0.0, 0)[0].zero_(),
    )
    for x, y in zip(everything, before, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    "call",
    [
        lambda lp, adv, m: surrogate(lp, lp[:, 1:], adv),  # the off-by-one of a second shift
        lambda lp, adv, m: surrogate(lp, lp, adv[:, None]),  # (B, 1) would broadcast
        lambda lp, adv, m: surrogate(lp, lp, adv[:1]),
        lambda lp, adv, m: kl_k3(lp, lp[:1]),  # (1, T) would broadcast
        lambda lp, adv, m: nll(lp[0]),
        lambda lp, adv, m: aggregate(lp, m[:, :1]),
        lambda lp, adv, m: token_weights(m[0], "grpo"),
        lambda lp, adv, m: truncation_mask(m, m),
        lambda lp, adv, m: masked_mean(lp, m[:1]),
        lambda lp, adv, m: clip_ratio(lp > 0, adv, m[:, :1]),
        lambda lp, adv, m: clipped_tokens(lp, lp[:, 1:], adv, m, 0.8, 1.2),
        lambda lp, adv, m: logp_difference(lp, lp, m[:, 1:]),
        lambda lp, adv, m: group_advantage(adv.view(3, 4), 4),
        lambda lp, adv, m: sequence_logp(lp, m[:, :1]),
        lambda lp, adv, m: r3v_weights(m, ["cot"], {}),  # (1, 1) would broadcast
        lambda lp, adv, m: dpo(adv, adv[:1]),
        lambda lp, adv, m: ipo(adv[:, None], adv[:, None]),
        lambda lp, adv, m: bco_pair(adv, adv[:, None]),
        lambda lp, adv, m: bco_pair(adv, adv, delta=adv[:, None]),  # (P, P)
        lambda lp, adv, m: sft_pair(adv, m.sum(1)[:1]),
        lambda lp, adv, m: preference_loss(adv, adv, adv, adv[:1], m.sum(1), m.sum(1)),
        lambda lp, adv, m: preference_loss(adv, adv, adv, adv, m.sum(1), m.sum(1)[:1]),
        lambda lp, adv, m: preference_metrics(adv, adv, adv[:1], adv),
        lambda lp, adv, m: reward_shift(adv, adv[:, None], 0.0, 0),
    ],
)
def test_wrong_shapes_are_refused_rather_than_broadcast(call):
    logp, _, _, adv, mask = make_batch()
    with pytest.raises(AssertionError):
        call(logp.detach(), adv, mask)


def test_slide_size_and_imports():
    """losses.py needs torch only, and each function fits on a slide: 15 lines of code."""
    source = Path(losses.__file__).read_text()
    tree = ast.parse(source)
    imported = {
        getattr(n, "module", None) or n.names[0].name
        for n in ast.walk(tree)
        if isinstance(n, (ast.Import, ast.ImportFrom))
    }
    assert imported == {"torch", "typing", "collections.abc", "math"}
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert len(functions) > 10
    for f in functions:
        assert ast.get_docstring(f), f.name
        assert f.end_lineno - f.body[0].end_lineno <= 15, f.name


def test_rollout_agrees_by_ratios_and_by_kl():
    """99 % of the ratios in [0.9, 1.1], and k3 <= 1e-3, each by itself.

    What the mask leaves out does not count, and nan never agrees.
    """
    logp, mask = torch.full((10, 100), -1.0, dtype=torch.float64), torch.ones(10, 100)

    def moved(tokens, by):  # sampling log-probs of the first `tokens` tokens
        change = by * (torch.arange(1000) < tokens)
        return (logp.flatten() - change).view(10, 100)

    def agrees(sampling, mask=mask):
        return rollout_agrees(sampling, logp, mask)

    assert (
        agrees(logp) and agrees(moved(10, math.log(1.2))) and not agrees(moved(11, math.log(1.2)))
    )
    assert agrees(moved(1000, math.log(1.04))) and not agrees(
        moved(1000, math.log(1.06))
    )  # k3 of a ratio r is r - 1 - log r: 8e-4, 1.7e-3
    assert not agrees(moved(10, math.log(2.0)))  # 0.307 x 1 %
    assert agrees(moved(11, math.log(1.2)), (torch.arange(1000) > 1).view(10, 100).float())
    assert not agrees(torch.full_like(logp, math.nan))


# --- a loss of whole completions: a term and a row, nothing else ---


def gmpo(logp, old_logp, adv, mask, low, high):
    """GMPO, eq. 4 of arXiv:2507.20673: each token is clipped, then the ratios' geometric mean."""
    log_ratio, sign = logp - old_logp.detach(), adv.sign()[:, None]
    clipped = log_ratio.clamp(math.log(low), math.log(high))
    least = sign * torch.minimum(sign * log_ratio, sign * clipped) * mask  # (B, T)
    mean = least.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return -(mean.exp() * adv[:, None]).expand_as(logp)


SEQUENCE_LOSSES = {
    "gmpo": losses.Loss(gmpo, losses.seq_mean, epsilon=(0.3, 0.5)),
}


@pytest.mark.parametrize("name", SEQUENCE_LOSSES)
def test_a_sequence_level_loss_is_a_term_and_a_row(name, monkeypatch):
    monkeypatch.setitem(LOSSES, name, SEQUENCE_LOSSES[name])
    logp, old_logp, ref_logp, adv, mask = make_batch(noise=0.6)
    loss = LOSSES[name]
    bounds = clip_range(*loss.epsilon)
    full = full_loss(name, logp, old_logp, ref_logp, adv, mask)
    (full_grad,) = torch.autograd.grad(full, logp)
    weights, total = token_weights(mask, name), 0.0
    for rows in torch.arange(12).split([5, 7]):  # micro-batches of whole rows add up
        part = [x[rows] for x in (logp, old_logp, ref_logp, adv, mask)]
        total = total + full_loss(name, *part, weights=weights[rows])
    (grad,) = torch.autograd.grad(total, logp)
    assert total.item() == pytest.approx(full.item(), abs=1e-12)
    torch.testing.assert_close(grad, full_grad, atol=1e-12, rtol=0)
    on_policy = loss.term(logp, logp.detach(), adv, mask, *bounds)
    torch.testing.assert_close(on_policy, -adv[:, None].expand_as(logp))
    clipped = loss.clipped(logp.detach(), old_logp, adv, mask, *bounds)
    per_token = loss.term(logp, old_logp, adv, mask, *bounds)
    (slope,) = torch.autograd.grad((per_token * weights).sum(), logp)
    assert ((slope == 0) == (clipped | (mask == 0))).all()  # what the metric counts has no gradient
    assert 0.05 < clip_ratio(clipped, adv, mask)["region_mean"] < 0.95
