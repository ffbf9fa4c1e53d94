"""Run: python -m pytest -q tests/test_loops.py        (about 20 s on a CPU, no network)

The forks of train_grpo.py in recipes/: short diffs, and loops that do what their papers say.
"""

import difflib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import GRPO, metrics_of, same_weights, skip_pictures, train, use_toy_reward

import rollout
import train_grpo
from recipes import noisy_rollout, on_policy_distillation, papo

ROOT = Path(__file__).resolve().parents[1]
LOOPS = {"papo": papo, "noisy_rollout": noisy_rollout}
LOOPS |= {"on_policy_distillation": on_policy_distillation}
FLAGS = "--prompts-per-step 2 --num-generations 4 --learning-rate 1e-3 --max-eval-samples 1"
NEW = {"teacher_kl"}


@pytest.fixture
def quick(monkeypatch):
    use_toy_reward(monkeypatch)
    skip_pictures(monkeypatch)


def steps(script, base, out, more="", number=1):
    """Run a script for a few steps: their metrics."""
    line = f"--model {base} {GRPO} {FLAGS} --max-steps {number} --save-steps 0"
    train(script, f"{line} {more} --output-dir {out}")
    return metrics_of(out)[1:]


@pytest.mark.parametrize("name", LOOPS)
def test_a_fork_is_a_short_diff(name):
    texts = [(ROOT / path).read_text() for path in ("train_grpo.py", f"recipes/{name}.py")]
    diff = difflib.ndiff(*(text.splitlines() for text in texts))
    changed = [line for line in diff if line[:2] in ("- ", "+ ")]
    assert 10 < len(changed) <= 80


# --- PAPO ---


def test_papo_with_nothing_masked_is_grpo(base, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(papo, "MASKED", 0.0)
    monkeypatch.setattr(papo, "ETA", 0.0)
    plain = steps(train_grpo, base, tmp_path / "grpo", number=2)
    assert steps(papo, base, tmp_path / "papo", number=2) == plain
    assert same_weights(tmp_path / "papo", tmp_path / "grpo")


def test_papo_learns_from_what_is_masked(base, tmp_path, quick):
    [plain] = steps(train_grpo, base, tmp_path / "grpo")
    [other] = steps(papo, base, tmp_path / "papo")
    assert abs(other["grad_norm"] - plain["grad_norm"]) > 1e-4


def test_papo_blacks_out_whole_patches():
    """Black is what the processor makes of a black pixel."""
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    processor = SimpleNamespace(image_processor=SimpleNamespace(image_mean=mean, image_std=std))
    pixels = torch.zeros(1000, 3 * 8)
    from dataclasses import dataclass

    @dataclass
    class Stub:
        pixel_values: torch.Tensor
        features: torch.Tensor | None = None

    got = papo.blacked_out(Stub(pixels), processor, seed=3).pixel_values
    black = got[got[:, 0] != 0]
    assert 550 < len(black) < 650
    for channel in range(3):
        values = black[:, channel * 8 : (channel + 1) * 8]
        torch.testing.assert_close(values, torch.full_like(values, -mean[channel] / std[channel]))
    assert torch.equal(got, papo.blacked_out(Stub(pixels), processor, seed=3).pixel_values)
    assert not torch.equal(got, papo.blacked_out(Stub(pixels), processor, seed=4).pixel_values)


# --- NoisyRollout ---


def test_half_of_a_group_sees_noise_and_all_learn_on_the_clean_picture(
    base, tmp_path, quick, monkeypatch
):
    asked, real = [], rollout.rollout

    def recording(policy, prompts, special, G, *rest, **more):
        asked.append((G, [prompt.pixel_values.clone() for prompt in prompts]))
        return real(policy, prompts, special, G, *rest, **more)

    monkeypatch.setattr(rollout, "rollout", recording)
    step, *_ = steps(noisy_rollout, base, tmp_path, "--updates-per-rollout 2", number=3)
    clean, noisy, *_ = (pixels for G, pixels in asked if G == 2)  # evaluation asks once each
    assert len(clean) == len(noisy) == 2
    assert all((a - b).abs().max() > 0.1 for a, b in zip(clean, noisy))
    assert step["old_logp_from_rollout"] == 1, "the clean half agrees"
    assert step["sampling_logp_difference/max"] < 1e-3


def test_noise_fades_out(tiny):
    prompt = SimpleNamespace(pixel_values=torch.randn(4, 6))
    assert noisy_rollout.noisy(prompt, 0.0, 1) is prompt


# --- on-policy distillation ---


def test_a_teacher_that_is_the_student_teaches_nothing(base, tmp_path, quick):
    [step] = steps(on_policy_distillation, base, tmp_path, f"--teacher {base}")
    assert step["grad_norm"] < 1e-5 and abs(step["teacher_kl"]) < 1e-5


def test_another_teacher_is_approached(base, tmp_path, quick):
    import model

    teacher, processor = model.load("tiny", seed=1)
    model.save(teacher, processor, tmp_path / "teacher")
    flags = f"--teacher {tmp_path / 'teacher'} --prompts-per-step 4 --num-generations 8"
    flags += " --lr-scheduler-type constant --micro-batch-size 32"
    found = steps(on_policy_distillation, base, tmp_path / "out", flags, number=12)
    kls = [step["teacher_kl"] for step in found]
    assert sum(kls[-3:]) < 0.8 * sum(kls[:3])
