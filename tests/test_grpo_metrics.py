"""Run: python -m pytest -q tests/test_grpo_metrics.py        (about 5 s on one core, no network)

What train_grpo.py logs speaks about the tokens that its loss counts. Each figure has a closed form:
the test sets entropies and log-ratios row by row, and lets the last token of some rows be cut.
"""

import json
import math

import pytest
import torch

import logps
import model as modeling
import rewards
import rollout as rollout_
import train_grpo
from plumbing import plots
from reinforcing import advantages, looking, preflight

FINISHED = [True, False, True, False]
ADVANTAGES = [1.0, 1.0, -1.0, -1.0]
# Per row: the entropy of each token, log ref - log pi, and log pi - log old in the second update.
ENTROPY = [1.0, 50.0, 2.0, 70.0]
LOG_REF = [math.log(2), 3.0, math.log(3), 4.0]
LOG_RATIO = [0.0, 1.0, -1.0, -1.0]


def spread(values, mask):
    """Give each token of row b the b-th value: (B, T), 0 outside the mask."""
    return torch.tensor(values)[:, None] * mask


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """Return a function that makes one step with these figures and returns (metrics, lengths)."""
    policy, processor = tiny
    modeling.save(policy, processor, tmp_path / "base")
    seen = {}
    rollout, token_logps = rollout_.rollout, logps.token_logps

    def scripted_rollout(*args, **kwargs):
        rolled = rollout(*args, **kwargs)
        rolled.finish = [{True: "stop", False: "length"}[finished] for finished in seen["finished"]]
        seen["lengths"], seen["updates"] = rolled.lengths.tolist(), 0
        return rolled

    def scripted_logps(policy, batch, temperature=1.0, suppress=(), entropy=False, chunk=None):
        logp = token_logps(policy, batch, temperature, suppress)
        if not entropy:  # the reference
            return logp + spread(LOG_REF, batch["mask"])
        seen["updates"] += 1
        if seen["updates"] == 2:
            logp = logp + spread(LOG_RATIO, batch["mask"])
        return logp, spread(ENTROPY, batch["mask"])

    # What is measured before and beside the step is not scripted.
    monkeypatch.setattr(preflight, "size_that_fits", lambda gradient, optimizer, where, size: size)
    monkeypatch.setattr(looking, "measure", lambda *_, **__: {})
    monkeypatch.setattr(rollout_, "rollout", scripted_rollout)
    monkeypatch.setattr(logps, "token_logps", scripted_logps)
    monkeypatch.setattr(advantages, "group_advantage", lambda *_: torch.tensor(ADVANTAGES))
    monkeypatch.setitem(
        rewards.REWARDS, "vowels", rewards.Reward(lambda text, example: text.count("e"))
    )
    answers = ["<answer>1</answer>"] * 2
    monkeypatch.setattr(rollout_, "answer_all", lambda *_, **__: (answers, [1, 1], ["stop"] * 2))
    for drawing in ("plot_samples", "plot_curve"):
        monkeypatch.setattr(plots, drawing, lambda *_, **__: None)

    def step(flags="", finished=FINISHED):
        seen["finished"] = finished
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        line = (
            f"--model {tmp_path / 'base'} --data count --max-eval-samples 2 "
            "--reward-funcs vowels --max-steps 1 --prompts-per-step 1 --num-generations 4 "
            "--max-completion-length 6 --beta 0.1 --learning-rate 1e-9 "
            f"--num-iterations 2 --output-dir {out} {flags}"
        )
        train_grpo.main(train_grpo.parse_args(line.split()))
        return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1]), seen["lengths"]

    return step


def expected(lengths, rows):
    """Return the metrics in closed form when the tokens of `rows` count."""

    def mean(values):
        return sum(values[b] * lengths[b] for b in rows) / max(1, sum(lengths[b] for b in rows))

    k3 = [math.exp(x) - x - 1 for x in LOG_REF]
    # The first of two updates is on-policy and clips nothing; the log has the mean of both.
    low = [float(x < 0 and a < 0) / 2 for x, a in zip(LOG_RATIO, ADVANTAGES)]
    high = [float(x > 0 and a > 0) / 2 for x, a in zip(LOG_RATIO, ADVANTAGES)]
    region = [a + b for a, b in zip(low, high)]
    return {
        "entropy": mean(ENTROPY),
        "kl": mean(k3),
        "clip_ratio/low_mean": mean(low),
        "clip_ratio/high_mean": mean(high),
        "clip_ratio/region_mean": mean(region),
    }


@pytest.mark.parametrize(
    "flags, finished, rows",
    [
        ("", FINISHED, [0, 1, 2, 3]),
        ("--mask-truncated-completions", FINISHED, [0, 2]),
        ("--mask-truncated-completions", [True] * 4, [0, 1, 2, 3]),
        ("--mask-truncated-completions", [False] * 4, []),
        ("--mask-truncated-completions --loss-type dapo", FINISHED, [0, 2]),
    ],
    ids=["all count", "two are cut", "none is cut", "all are cut", "two are cut, dapo"],
)
def test_metrics_are_means_over_the_tokens_that_the_loss_counts(flags, finished, rows, run):
    metrics, lengths = run(flags, finished)
    for name, value in expected(lengths, rows).items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert metrics["completions/clipped_ratio"] == 1 - sum(finished) / 4


def test_what_speaks_about_the_sampling_keeps_the_cut_completions(run):
    """Lengths, rewards and the agreement of rollout and update describe what was sampled."""
    masked, lengths = run("--mask-truncated-completions")
    plain, _ = run()
    of_all = (
        "completions/mean_length",
        "reward",
        "reward_std",
        "sampling_logp_difference/mean",
    )
    for name in of_all:
        assert masked[name] == plain[name], name
    assert masked["completions/mean_length"] == sum(lengths) / 4
    assert masked["adv_abs"] == plain["adv_abs"] / 2  # two of four, of equal size, are cut
