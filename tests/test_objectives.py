"""Run: python -m pytest -q tests/test_objectives.py        (about 15 s on a CPU, no network)

The objectives beside GRPO's: closed forms, finite differences, and what they share on-policy.
Then advantages, and the flags that choose.
"""

import math

import pytest
import torch
from commands import grpo, refusal, skip_pictures, use_toy_reward

import losses
import train_grpo
import update
from losses import (
    LOSSES,
    at_level,
    capped_likelihood,
    capped_tokens,
    clip_range,
    clipped_surrogate,
    faded_tokens,
    soft_gate,
    top_entropy_mask,
    two_sided_surrogate,
    two_sided_tokens,
)
from reinforcing import advantages, objective
from reinforcing.advantages import Advantage, decoupled, group_advantage, leave_one_out, whitened

BOUNDS = clip_range(0.2, 0.28)
NEW = ("gspo", "cispo", "sapo")


def make_batch(noise=0.6, B=6, T=5, seed=0):
    """Make (logp, old_logp, adv, mask) in float64; rows of 1 to T tokens."""
    g = torch.Generator().manual_seed(seed)
    old = -2 * torch.rand(B, T, generator=g, dtype=torch.float64) - 0.1
    gap = noise * (2 * torch.rand(B, T, generator=g, dtype=torch.float64) - 1)
    adv = torch.randn(B, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, T + 1, (B,), generator=g)
    mask = (torch.arange(T) < lengths[:, None]).double()
    return (old + gap).requires_grad_(), old, adv, mask


def loss_of(name, logp, old, adv, mask, reduction=None):
    """Compute the loss of a row of LOSSES, by its own weights or another reduction's."""
    row = LOSSES[name]
    seen = at_level(logp, old, mask, row.level)
    weights = (reduction or row.reduction)(mask, 8)
    return (row.term(seen, old, adv, mask, *clip_range(*row.epsilon)) * weights).sum()


def one(ratio, A):
    """Make a row of one token with this ratio and advantage: logp, old_logp, adv, mask."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    return logp, torch.zeros_like(logp), torch.tensor([A], dtype=torch.float64), torch.ones(1, 1)


# --- terms ---


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    """But CISPO's: its weight is a constant, so its difference is taken with that held fixed."""
    logp, old, adv, mask = make_batch()
    if name == "cispo":
        weight = (logp - old).exp().clamp(max=5.0).detach()
        weights = losses.token_mean(mask)
        (got,) = torch.autograd.grad(loss_of(name, logp, old, adv, mask), logp)
        torch.testing.assert_close(got, -weight * adv[:, None] * weights)
        return
    assert torch.autograd.gradcheck(lambda x: loss_of(name, x, old, adv, mask), logp)


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_all_have_the_gradient_of_grpo(name):
    """With one mean over tokens: what --updates-per-rollout 1 promises."""
    logp, _, adv, mask = make_batch()
    old = logp.detach()
    (got,) = torch.autograd.grad(loss_of(name, logp, old, adv, mask, losses.seq_mean), logp)
    (grpo_,) = torch.autograd.grad(loss_of("grpo", logp, old, adv, mask), logp)
    # GSPO gives all tokens of a row its mean gradient: the same sum, for the same weight a token.
    torch.testing.assert_close(got, grpo_)


def test_after_one_update_they_differ():
    logp, old, adv, mask = make_batch()
    gradients = [
        torch.autograd.grad(loss_of(name, logp, old, adv, mask, losses.seq_mean), logp)[0]
        for name in ("grpo", *NEW)
    ]
    for i, first in enumerate(gradients):
        for second in gradients[i + 1 :]:
            assert (first - second).abs().max() > 1e-3


def test_gspo_is_one_ratio_a_completion():
    """s = exp(mean of the log-ratios), clipped as one: a row of (2, 1/2) has s = 1."""
    old = torch.zeros(1, 3, dtype=torch.float64)
    logp = torch.tensor([[math.log(2), -math.log(2), 7.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0]])
    seen = at_level(logp, old, mask, "sequence")
    torch.testing.assert_close(seen, torch.zeros_like(seen))
    seen = at_level(logp + math.log(3), old, mask, "sequence")
    torch.testing.assert_close(seen.exp(), torch.full_like(seen, 3))
    assert at_level(logp, old, mask, "token") is logp
    with pytest.raises(ValueError, match="token, sequence"):
        at_level(logp, old, mask, "word")


def test_a_token_that_is_left_out_has_no_gradient_at_either_level():
    """On-policy, GSPO on some of the tokens is GRPO on these: no other token moves."""
    logp, _, adv, mask = make_batch()
    learned = mask * (torch.arange(mask.shape[1]) % 2 == 0)
    weights, slopes = losses.seq_mean(mask), []
    for level in losses.LEVELS:
        seen = at_level(logp, logp.detach(), mask, level)
        cost = clipped_surrogate(seen, logp.detach(), adv, mask, *BOUNDS) * learned
        slopes += torch.autograd.grad((cost * weights).sum(), logp)
    torch.testing.assert_close(*slopes)
    assert not slopes[1][learned == 0].any()


def test_what_rounding_would_clip_is_not_taken_from_the_rollout():
    """A tenth of the clip range may be lost to rounding: of GSPO's 4e-4, and of GRPO's 0.2."""
    computed, mask = -torch.rand(2, 4).double(), torch.ones(2, 4)
    mask[1, 2:] = 0

    def taken(flags, gap):
        line = f"--model m --data count --output-dir o {flags}".split()
        goal = objective.objective_of(train_grpo.parse_args(line))
        sampled = computed.clone()
        sampled[1, :2] += gap
        return goal.takes(sampled, computed, mask)

    assert taken("", 1e-3)
    assert taken("--loss-type gspo", 1e-5) and not taken("--loss-type gspo", -1e-4)
    assert taken("--importance-sampling-level sequence", 1e-3)


def test_gspo_clips_all_tokens_of_a_row_or_none():
    logp, old, adv, mask = make_batch(noise=0.01)
    row = LOSSES["gspo"]
    seen = at_level(logp, old, mask, row.level)
    clipped = row.clipped(seen, old, adv, mask, *clip_range(*row.epsilon))
    assert ((clipped.sum(1) == 0) | (clipped.sum(1) == clipped.shape[1])).all()
    assert 0 < clipped.float().mean() < 1
    (slope,) = torch.autograd.grad(loss_of("gspo", logp, old, adv, mask), logp)
    assert ((slope == 0) == (clipped | (mask == 0))).all()


def test_cispo_keeps_the_gradient_of_every_token():
    """At a ratio of 10 it weighs 5; at 0.1 it weighs 0.1: no lower bound."""
    for ratio, weight in ((10.0, 5.0), (4.0, 4.0), (0.1, 0.1)):
        for A in (1.0, -2.0):
            logp, *rest = one(ratio, A)
            cost = capped_likelihood(logp, *rest, *clip_range(0.0, 4.0))
            (slope,) = torch.autograd.grad(cost.sum(), logp)
            assert slope.item() == pytest.approx(-weight * A)
            capped = capped_tokens(logp, *rest, *clip_range(0.0, 4.0))
            assert capped.item() == (ratio > 5)


def test_sapo_by_hand():
    """Slope in the ratio: 4 s (1 - s), s = sigmoid(tau (r - 1)); 1 at r = 1."""
    for ratio, A, tau in ((1.0, 2.0, 1.0), (3.0, 1.0, 1.0), (3.0, -1.0, 1.05), (0.2, -1.0, 1.05)):
        logp, *rest = one(ratio, A)
        cost = soft_gate(logp, *rest, *BOUNDS)
        s = 1 / (1 + math.exp(-tau * (ratio - 1)))
        assert cost.item() == pytest.approx(-4 / tau * s * A)
        (slope,) = torch.autograd.grad(cost.sum(), logp)
        assert slope.item() == pytest.approx(-4 * s * (1 - s) * ratio * A)
        assert faded_tokens(logp, *rest, *BOUNDS).item() == (4 * s * (1 - s) < 0.5)
    assert faded_tokens(*one(3.0, 1.0), *BOUNDS).item()  # slope 0.42
    assert not faded_tokens(*one(2.5, 1.0), *BOUNDS).item()  # 0.60


def test_two_sided_clip_bounds_what_a_bad_token_can_cost():
    for ratio, A, cost, has_slope in (
        (3.0, -1.0, 3.0, True),  # below delta: as PPO
        (9.0, -1.0, 4.0, False),  # above: delta itself
        (9.0, 1.0, -1.28, False),  # PPO's own clip
        (1.1, 1.0, -1.1, True),
    ):
        logp, *rest = one(ratio, A)
        got = two_sided_surrogate(logp, *rest, *BOUNDS, delta=4.0)
        assert got.item() == pytest.approx(cost)
        (slope,) = torch.autograd.grad(got.sum(), logp)
        assert bool(slope) == has_slope
        assert two_sided_tokens(logp, *rest, *BOUNDS, delta=4.0).item() != has_slope
    logp, old, adv, mask = make_batch()
    plain = clipped_surrogate(logp, old, adv, mask, *BOUNDS)
    torch.testing.assert_close(two_sided_surrogate(logp, old, adv, mask, *BOUNDS, delta=9.0), plain)


# --- which tokens learn ---


def test_top_entropy_keeps_the_share_that_was_asked_for():
    g = torch.Generator().manual_seed(1)
    entropy, mask = torch.rand(4, 50, generator=g), torch.ones(4, 50)
    mask[0, 10:] = 0
    kept = top_entropy_mask(entropy, mask, 0.2)
    assert kept.sum() == mask.sum() * 0.2
    assert entropy[kept == 1].min() > entropy[(kept == 0) & (mask == 1)].max()
    assert not kept[mask == 0].any()
    assert torch.equal(top_entropy_mask(entropy, mask, 1.0), mask)
    threshold = torch.quantile(entropy[mask == 1], 0.7)
    assert torch.equal(top_entropy_mask(entropy, mask, 0.3), mask * (entropy >= threshold))


def test_top_entropy_of_ties_and_of_nothing():
    entropy = torch.zeros(2, 3)
    assert torch.equal(top_entropy_mask(entropy, torch.ones(2, 3), 0.2), torch.ones(2, 3))
    assert not top_entropy_mask(entropy, torch.zeros(2, 3), 0.2).any()


# --- advantages ---


def test_leave_one_out_by_hand():
    rewards = torch.tensor([1.0, 0, 0, 0, 2, 4, 2, 4])
    want = [1, -1 / 3, -1 / 3, -1 / 3, -4 / 3, 4 / 3, -4 / 3, 4 / 3]
    torch.testing.assert_close(leave_one_out(rewards, 4), torch.tensor(want))


def test_batch_scale_divides_all_groups_by_one_number():
    rewards = torch.tensor([1.0, 0, 1, 0, 3, 0, 0, 0], dtype=torch.float64)
    got = group_advantage(rewards, 4, "batch", eps=0.0)
    want = group_advantage(rewards, 4, "none") / rewards.std()
    torch.testing.assert_close(got, want)
    assert group_advantage(torch.ones(8), 4, "batch").tolist() == [0] * 8
    with pytest.raises(ValueError, match="group, batch, none"):
        group_advantage(rewards, 4, "std")


def test_whitened_is_over_tokens():
    """Repeat each reward as often as its completion has tokens, and whiten that list."""
    rewards = torch.tensor([1.0, 0, 0.5, 2.0], dtype=torch.float64)
    lengths = torch.tensor([3, 1, 10, 2])
    tokens = rewards.repeat_interleave(lengths)
    white = (tokens - tokens.mean()) / tokens.std()
    first = lengths.cumsum(0) - lengths
    torch.testing.assert_close(whitened(rewards, lengths, eps=0.0), white[first])
    assert whitened(torch.full((4,), 0.3), lengths).tolist() == [0] * 4
    with pytest.raises(ValueError, match="not finite"):
        whitened(torch.tensor([1.0, math.nan]), lengths[:2])


def test_gdpo_gives_each_reward_its_say():
    """A reward a hundred times as large drowns the other in a sum, and not here."""
    small, large = torch.tensor([0.0, 1, 0, 1]), torch.tensor([0.0, 0, 100, 100])
    got = decoupled(torch.stack([small, large]), [1.0, 1.0], 4, eps=0.0)
    # Each is -1, 1 after scaling: the sums are -2, 0, 0, 2, their standard deviation sqrt(8 / 3).
    torch.testing.assert_close(got, torch.tensor([-2.0, 0, 0, 2]) / math.sqrt(8 / 3))
    summed = group_advantage(small + large, 4, eps=0.0)
    assert summed[1] < -0.8, "in the sum, the second is nearly as bad as the first"
    weighted = decoupled(torch.stack([small, large]), [1.0, 0.0], 4, eps=0.0)
    assert weighted[1] == weighted[3] > 0


def test_gdpo_gives_a_flat_group_exactly_nothing():
    """Or dynamic sampling would keep it, for what is left of the mean of all."""
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        parts = torch.randint(0, 2, (2, 16), generator=g).float()
        parts[:, :4] = 1
        assert decoupled(parts, [1.0, 0.5], 4)[:4].tolist() == [0] * 4
    opposite = torch.stack([parts[0], 1 - parts[0]])
    assert not decoupled(opposite, [1.0, 1.0], 4).any()


def test_gdpo_takes_no_signal_from_rewards_that_cancel_out():
    """Their spreads differ a thousandfold, and eps counts more in the smaller."""
    parts = [[1.0, 0.0], [0.0, 1e3]]
    assert advantages.decoupled(torch.tensor(parts), [1.0, 1.0], G=2).tolist() == [0, 0]
    parts = [[1.0, 0.0, 1.0, 0.0], [0.0, 1e-3, 0.0, 0.0]]
    adv = advantages.decoupled(torch.tensor(parts), [1.0, 1.0], G=2)
    assert adv[:2].tolist() == [0, 0] and adv[2] == -adv[3] > 1


def test_which_advantage_is_taken():
    rewards = torch.tensor([1.0, 0, 0.5, 0.5])
    lengths, parts = torch.tensor([1, 2, 3, 4]), [[1.0, 0, 0, 0], [0, 0, 0.5, 0.5]]
    make = {
        Advantage(): group_advantage(rewards, 2),
        Advantage(scale="none"): group_advantage(rewards, 2, "none"),
        Advantage("rloo"): leave_one_out(rewards, 2),
        Advantage("reinforce_pp"): whitened(rewards, lengths),
        Advantage(normalize_first=True, weights=(1.0, 2.0)): decoupled(
            torch.tensor(parts), (1.0, 2.0), 2
        ),
    }
    for advantage, want in make.items():
        torch.testing.assert_close(advantage.of(rewards, parts, lengths, 2), want)


# --- flags ---


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--advantage rloo --scale-rewards none", "--scale-rewards is for --advantage group"),
        ("--multi-objective-aggregation normalize_then_sum --advantage rloo", "its own scale"),
        ("--multi-objective-aggregation normalize_then_sum --scale-rewards none", "its own scale"),
        ("--loss-type sapo --delta 4", "PPO's clip, not sapo"),
        ("--loss-type sapo --epsilon-high 0.3", "--epsilon-high is the upper bound of a clip"),
        ("--loss-type cispo --epsilon 0.2", "--epsilon is the lower bound of a clip, and cispo"),
        ("--delta 1.1", "--delta 1.1 must be above the clip of the ratio, 1.2"),
        ("--prompts-per-step 6 --updates-per-rollout 4", "must divide --prompts-per-step 6"),
        ("--top-entropy-quantile 0", "--top-entropy-quantile"),
    ],
)
def test_flags_that_contradict_themselves(flags, words, capsys):
    line = f"--model tiny --data count --output-dir unused {flags}"
    assert words in refusal(train_grpo, line.split(), capsys)


def test_losses_bring_their_published_defaults():
    def args_of(flags):
        return train_grpo.parse_args(f"--model m --data count --output-dir o {flags}".split())

    def ratio(flags):
        goal = objective.objective_of(args_of(flags))
        return goal.level, round(goal.low, 6), round(goal.high, 6)

    assert ratio("") == ("token", 0.8, 1.2)
    assert ratio("--loss-type gspo") == ("sequence", 0.9997, 1.0004)
    assert ratio("--loss-type cispo") == ("token", 1.0, 5.0)
    assert ratio("--importance-sampling-level sequence --epsilon 0.1") == ("sequence", 0.9, 1.1)
    assert ratio("--loss-type gspo --importance-sampling-level token")[0] == "token"
    assert args_of("").scale_rewards == "group"


# --- the script ---


@pytest.fixture
def quick(monkeypatch):
    use_toy_reward(monkeypatch)
    skip_pictures(monkeypatch)


FOUR = "--prompts-per-step 4 --num-generations 2 --learning-rate 1e-3"


def test_every_objective_takes_a_step(base, tmp_path, quick):
    """Later updates of a step have other ratios than 1, and what they clip is counted."""
    for flags in (
        "--loss-type gspo",
        "--loss-type cispo --epsilon-high 0.0",
        "--loss-type sapo --importance-sampling-level sequence",
        "--delta 1.5 --advantage rloo --top-entropy-quantile 0.2",
        "--advantage reinforce_pp --beta 0.1",
        "--scale-rewards batch",
        "--multi-objective-aggregation normalize_then_sum",
    ):
        out = tmp_path / flags.replace(" ", "")
        [step] = grpo(base, out, f"{FOUR} --updates-per-rollout 4 {flags}")
        assert math.isfinite(step["loss"]) and step["grad_norm"] > 0, flags
        assert step["old_logp_from_rollout"] == 1
        if "gspo" in flags or "cispo" in flags:
            assert step["clip_ratio/region_mean"] > 0


def test_one_update_of_a_rollout_is_what_it_was(base, tmp_path, quick):
    """On-policy, GSPO and SAPO have GRPO's gradient, up to rounding."""

    def grad_norm(name):
        [step] = grpo(base, tmp_path / name, f"{FOUR} --loss-type {name}")
        assert "old_logp_from_rollout" not in step
        return step["grad_norm"]

    once = [grad_norm(name) for name in ("grpo", "gspo", "sapo")]
    assert once[1:] == pytest.approx([once[0]] * 2, rel=1e-4)


def test_loss_and_gradient_norm_are_means_of_the_updates(base, tmp_path, quick, monkeypatch):
    found, gradient, clip = [], train_grpo.grpo_gradient, update.clip_gradient

    def seen_gradient(*given):
        loss, *others = gradient(*given)
        found.append(loss)
        return loss, *others

    def seen_clip(*given):
        found.append(clip(*given))
        return found[-1]

    monkeypatch.setattr(train_grpo, "grpo_gradient", seen_gradient)
    monkeypatch.setattr(update, "clip_gradient", seen_clip)
    flags = f"{FOUR} --updates-per-rollout 2 --num-iterations 2 --learning-rate 1e-2"
    [step] = grpo(base, tmp_path, flags)
    found = found[1:]  # after the preflight, which makes a gradient and does not clip it
    losses_, norms = found[::2], found[1::2]
    assert len(losses_) == len(norms) == 4 and len(set(norms)) == 4
    assert step["loss"] == pytest.approx(sum(losses_) / 4, rel=1e-9)
    assert step["grad_norm"] == pytest.approx(sum(norms) / 4, rel=1e-9)


def test_a_cut_rollout_is_whole(base):
    """The parts of a cut have all rows, once, in order, and weights of their own."""
    from types import SimpleNamespace

    import rollout

    N, G, T = 4, 2, 3
    rows = torch.arange(N * G)[:, None].expand(-1, T)
    finish = [str(row) for row in range(N * G)]
    roll = rollout.Rollout(rows, rows * 1.0, torch.ones(N * G, T), rows[:, 0], finish)
    prompts = [SimpleNamespace(name=n) for n in range(N)]
    asked = []

    def batches(prompts, roll):
        asked.append(([p.name for p in prompts], roll.finish, roll.targets[:, 0].tolist()))

    adv, counted = torch.arange(N * G) * 1.0, roll.mask
    weigh = losses.token_mean
    parts = train_grpo.cut(roll, prompts, 2, batches, weigh, adv, counted, counted, None)
    for _, part in parts:
        part.micro_batches()
    assert asked == [([0, 1], finish[:4], [0, 1, 2, 3]), ([2, 3], finish[4:], [4, 5, 6, 7])]
    assert torch.equal(torch.cat([part.adv for _, part in parts]), adv)
    assert [float(part.weights.sum()) for _, part in parts] == pytest.approx([1, 1])
    assert all(part.ref_logp is None for _, part in parts)


def test_advantages_and_losses_have_a_page():
    """docs/objectives.md names every choice that --help names."""
    from pathlib import Path

    page = (Path(__file__).resolve().parents[1] / "docs" / "objectives.md").read_text()
    for name in (*LOSSES, *advantages.KINDS, *advantages.SCALES):
        assert f"`{name}`" in page
