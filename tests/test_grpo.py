"""Run: python -m pytest -q tests/test_grpo.py    (30 s on one core of a CPU; no network)

train_grpo.py as a user types it: whether it learns, and that every flag does something.
"""

from types import SimpleNamespace

import pytest
import torch
from commands import (
    GRPO,
    SHORT,
    SMALL,
    grpo,
    metrics_of,
    read,
    refusal,
    same_weights,
    skip_pictures,
    train,
    use_toy_reward,
    weights_of,
)

import evaluate
import rollout as rollout_
import train_grpo
from grading import judges
from plumbing.errors import UserError
from plumbing.records import read_lines
from reinforcing import agreement

pytestmark = pytest.mark.usefixtures("toy_reward")


def test_completions_are_kept_with_their_rewards(chain):
    samples = chain.grpo / "samples"
    rows = read_lines(samples / "step_000001.jsonl")
    assert len(rows) == 4
    for name in ("completion", "answer", "accuracy", "format", "advantage", "question"):
        assert name in rows[0]
    assert rows[0]["id"] == rows[1]["id"] != rows[2]["id"] == rows[3]["id"]
    for step in (0, 2):
        assert len(read_lines(samples / f"eval_0_count-test_{step:06d}.jsonl")) == 4


# --- learning ---


def test_grpo_raises_a_toy_reward(base, tmp_path, no_pictures):
    """From 0.22, the share of vowels in noise, to 0.4 - 1.0 in 24 steps.

    Over 30 seeds the gain was 0.22 to 0.81. Without learning it is 0, with a standard deviation of
    about 0.02. A false alarm (no gain of 0.1) did not occur in those 30: below one in ten by the
    rule of three, and with a fixed seed only a new version of torch draws again.
    """
    line = f"--model {base} {GRPO} --max-eval-samples 1 --num-generations 8"
    line += " --max-completion-length 8 --micro-batch-size 16 --lr-scheduler-type constant"
    line += f" --max-steps 24 --save-steps 0 --learning-rate 3e-3 --output-dir {tmp_path}"
    train(train_grpo, line)
    reward = [step["reward"] for step in metrics_of(tmp_path)[1:]]
    assert sum(reward[-3:]) / 3 > sum(reward[:3]) / 3 + 0.1


# --- the first step ---


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """Metrics of one ordinary step, and where it is."""
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        use_toy_reward(patch)
        skip_pictures(patch)
        return grpo(base, out, "--num-generations 4")[0], out


def test_on_policy_the_loss_is_zero_and_its_gradient_is_not(plain, base):
    step, out = plain
    assert abs(step["loss"]) < 1e-5
    assert step["grad_norm"] > 1e-3 and step["adv_abs"] > 0.1
    assert step["kl"] == step["clip_ratio/region_mean"] == 0
    assert step["sampling_logp_difference/max"] < 1e-4, "rollout and trainer are the same policy"
    assert 0 < step["reward"] < 1
    assert step["reward"] == pytest.approx(step["rewards/vowels"])
    assert not same_weights(out, base)


def test_the_log_says_that_the_loss_value_says_nothing(base, tmp_path, no_pictures, capsys):
    grpo(base, tmp_path)
    printed = capsys.readouterr().out
    for words in ("near 0", "adv_abs", "frac_reward_zero_std", "answer "):
        assert words in printed


def test_the_run_is_on_policy_at_every_step(base, tmp_path, no_pictures):
    """Log-probs recorded while sampling equal the trainer's, after updates too."""
    for flags in ("", "--lora-r 4 --lora-dropout 0.0 --beta 0.04"):
        out = tmp_path / flags.replace(" ", "")
        steps = grpo(base, out, f"{flags} --learning-rate 1e-2", steps=3)
        assert max(step["sampling_logp_difference/max"] for step in steps) < 1e-3
        assert max(step["grad_norm"] for step in steps) > 0


DISAGREEMENTS = [  # how much the log-probs are off (nats), what follows, whether they are used
    (0.0, None, 1),
    (0.05, "warning", 0),  # a KL of 1.3e-3: old_logp is computed
    (0.3, "error", None),  # 4e-2: the step is not taken
    (float("nan"), "error", None),
]


@pytest.mark.parametrize("off, follows, from_rollout", DISAGREEMENTS)
@pytest.mark.parametrize("flags", ["", "--lora-r 4 --lora-dropout 0.2"])
def test_a_rollout_that_disagrees_with_the_update(
    flags, off, follows, from_rollout, base, tmp_path, no_pictures, monkeypatch, capsys
):
    """LoRA dropout, which the rollout does not have, is no disagreement."""
    rollout = rollout_.rollout

    def noisy(*args, **kwargs):
        rolled = rollout(*args, **kwargs)
        rolled.logp = rolled.logp + off * rolled.mask
        return rolled

    monkeypatch.setattr(rollout_, "rollout", noisy)
    if follows == "error":
        with pytest.raises(UserError, match="step 1: rollout and update disagree"):
            grpo(base, tmp_path, f"{flags} --num-iterations 2")
        return
    step = grpo(base, tmp_path, f"{flags} --num-iterations 2")[0]
    warned = "warning: step 1: rollout and update disagree" in capsys.readouterr().out
    assert warned == (follows == "warning")
    assert step["old_logp_from_rollout"] == from_rollout
    assert step["sampling_logp_difference/mean"] == pytest.approx(off, abs=1e-4)


def test_log_probs_of_the_rollout_serve_as_old_ones(base, tmp_path, no_pictures, monkeypatch):
    """Three updates with them, or with those that the update computes: equal but for rounding."""
    line = "--num-iterations 3 --learning-rate 1e-2"
    recorded = grpo(base, tmp_path / "a", line)[0]
    monkeypatch.setattr(agreement, "rollout_agrees", lambda *_: False)
    computed = grpo(base, tmp_path / "b", line)[0]
    assert (recorded.pop("old_logp_from_rollout"), computed.pop("old_logp_from_rollout")) == (1, 0)
    assert recorded == pytest.approx(computed, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("flags", ["", "--lora-r 4", "continued", "--quant nf4"])
def test_kl_starts_at_zero_and_then_grows(flags, base, tmp_path, no_pictures):
    """`continued`: an adapter trained before, with which the reference begins.

    With the adapter switched off, the reference would be an older model: KL > 0 at once.
    """
    model = base
    if flags == "continued":
        model = tmp_path / "before"
        grpo(base, model, "--lora-r 4 --learning-rate 3e-2", steps=2)
        drift = max(float(w.abs().max()) for n, w in weights_of(model).items() if "lora_B" in n)
        assert drift > 1e-2, "it did not move, so that nothing is tested"
        flags = ""
    steps = grpo(model, tmp_path / "run", f"{flags} --beta 0.04 --learning-rate 1e-2", steps=2)
    assert abs(steps[0]["kl"]) < 1e-6 < 1e-5 < steps[1]["kl"]
    assert abs(steps[0]["loss"]) < 1e-5


# --- every flag does something ---


VARIANTS = [
    "--loss-type grpo",
    "--loss-type dapo",
    "--loss-type bnpo",
    "--loss-type dr_grpo --scale-rewards none",
    "--scale-rewards none",
    "--epsilon 0.2 --epsilon-high 0.28 --num-iterations 2",
    "--top-k 20 --top-p 0.9",
    "--beta 0.04",
    "--lora-r 4 --lora-alpha 4",
    "--quant nf4 --lora-r 4",
    "--quant nf4 --beta 0.04",
    "--gradient-checkpointing",
    "--lora-r 4 --gradient-checkpointing",
    "--dtype bfloat16",
    "--dtype bfloat16 --lora-r 4 --beta 0.04",
    "--quant nf4 --dtype bfloat16 --gradient-checkpointing",
    "--freeze-vision --freeze-merger",
    "--warmup-steps 0.5 --lr-scheduler-type cosine",
    "--system-prompt Look.",
    "--prompt-template direct",
    "--max-grad-norm 0",
    "--level 1",
]


@pytest.mark.parametrize("flags", VARIANTS)
def test_one_step_of_each(flags, base, tmp_path, no_pictures):
    step = grpo(base, tmp_path, flags)[0]
    rough = "bfloat16" in flags or "nf4" in flags
    assert all(isinstance(v, float | int) for v in step.values())
    assert step["grad_norm"] > 0
    assert step["kl"] == pytest.approx(0, abs=1e-6)
    assert step["sampling_logp_difference/mean"] < (0.1 if rough else 1e-4)
    assert read(tmp_path / "result.json")["n"] == 1


def test_adamw_8bit_runs_or_says_why_not(base, tmp_path, no_pictures):
    try:
        grpo(base, tmp_path, "--optim adamw_8bit", steps=2)
    except UserError as error:
        assert "adamw" in str(error)
    else:
        assert not same_weights(tmp_path, base)
        assert all(bool(w.isfinite().all()) for w in weights_of(tmp_path).values())


def test_learning_rate_zero_changes_nothing(base, tmp_path, no_pictures):
    grpo(base, tmp_path, "--learning-rate 0")
    assert same_weights(tmp_path, base)


def part_of(name):
    """The part of the model that a weight belongs to."""
    if "visual.merger" in name:
        return "merger"
    return "vision" if "visual" in name else "llm"


@pytest.mark.parametrize("frozen", ["vision", "merger", "llm"])
def test_frozen_parts_stay_and_the_others_move(frozen, base, tmp_path, no_pictures):
    grpo(base, tmp_path, f"--freeze-{frozen}")
    before, after = weights_of(base), weights_of(tmp_path)
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert set(map(part_of, moved)) == {"vision", "merger", "llm"} - {frozen}


def test_gradient_checkpointing_and_bfloat16_are_close_to_plain(plain, base, tmp_path, no_pictures):
    step, _ = plain
    checkpointed = grpo(base, tmp_path / "a", "--num-generations 4 --gradient-checkpointing")[0]
    for name, value in step.items():
        assert checkpointed[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    halved = grpo(base, tmp_path / "b", "--num-generations 4 --dtype bfloat16")[0]
    assert halved != step
    assert halved["entropy"] == pytest.approx(step["entropy"], rel=0.05)
    kinds = {weight.dtype for weight in weights_of(tmp_path / "b").values()}
    assert kinds == {torch.float32}, "what trains is float32"


CHANGES = [  # a flag, the metric of the first step that it changes, and how
    ("--temperature 0.5", "entropy", "less"),
    ("--temperature 2", "entropy", "more"),
    ("--reward-weights 3", "reward", "other"),
    ("--max-pixels 3136", "entropy", "other"),
    ("--system-prompt Look.", "entropy", "other"),
    ("--prompt-template none", "entropy", "other"),
    ("--quant nf4 --lora-r 4", "entropy", "other"),
    ("--scale-rewards none", "adv_abs", "less"),
    ("--level 1", "entropy", "other"),
    ("--top-k 1", "frac_reward_zero_std", "more"),
    ("--loss-type dr_grpo --max-completion-length 24", "grad_norm", "other"),
    ("--warmup-steps 3", "learning_rate", "less"),
    ("--max-completion-length 6", "completions/max_length", "less"),
    ("--seed 5", "reward", "other"),
]


@pytest.mark.parametrize("flags, name, how", CHANGES, ids=[flags for flags, _, _ in CHANGES])
def test_changing_a_flag_changes_what_happens(flags, name, how, plain, base, tmp_path, no_pictures):
    before = plain[0][name]
    now = grpo(base, tmp_path, f"--num-generations 4 {flags}")[0][name]
    changed = {"less": now < before, "more": now > before, "other": now != before}
    assert changed[how], (now, before)


def test_truncated_completions_teach_nothing_if_so_asked(base, tmp_path, no_pictures, monkeypatch):
    rollout = rollout_.rollout

    def all_cut(*args, **kwargs):
        rolled = rollout(*args, **kwargs)
        rolled.finish = ["length"] * len(rolled.finish)
        return rolled

    monkeypatch.setattr(rollout_, "rollout", all_cut)
    step = grpo(base, tmp_path, "--mask-truncated-completions")[0]
    assert step["completions/clipped_ratio"] == 1 and step["reward_std"] > 0
    assert step["adv_abs"] == step["grad_norm"] == step["loss"] == 0
    assert step["frac_reward_zero_std"] == 1
    assert same_weights(tmp_path, base)


def test_clip_higher_clips_less(base, tmp_path, no_pictures):
    """Three updates on one rollout, at a rate high enough for ratios to leave 1 +- 0.05.

    The mean loss is no longer 0: later ratios are to the policy that sampled, not to itself.
    """
    line = "--num-iterations 3 --learning-rate 1e-2 --epsilon 0.05 --epsilon-high"
    low, high = tmp_path / "low", tmp_path / "high"
    clipped, free = grpo(base, low, f"{line} 0.05")[0], grpo(base, high, f"{line} 1000")[0]
    assert clipped["clip_ratio/high_mean"] > 0 == free["clip_ratio/high_mean"]
    assert min(abs(clipped["loss"]), abs(free["loss"])) > 1e-3
    assert not same_weights(low, high)


def test_loss_types_weigh_tokens_differently(base, tmp_path, no_pictures):
    """Completions of different lengths, three ways to weigh them.

    Each by its mean (grpo), all tokens alike (dapo, bnpo), by the longest allowed (dr_grpo).
    """
    line = "--num-generations 16 --max-completion-length 32 --micro-batch-size 32"
    line += " --max-grad-norm 0 --loss-type"
    kinds = ("grpo", "dapo", "dr_grpo")
    steps = [grpo(base, tmp_path / kind, f"{line} {kind}")[0] for kind in kinds]
    ended = steps[0]["completions/clipped_ratio"] < 1
    assert ended, "another seed, please: with this one no completion ends"
    assert len({round(step["grad_norm"], 5) for step in steps}) == 3


def test_a_four_bit_adapter_is_loaded_in_four_bits_again(base, tmp_path, no_pictures, capsys):
    first, second, measured = tmp_path / "a", tmp_path / "b", tmp_path / "eval"
    grpo(base, first, "--quant nf4 --lora-r 4")
    args = read(first / "args.json")
    assert (args["quant"], args["lora_r"]) == ("nf4", 4)
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        assert (first / name).exists()
    capsys.readouterr()
    line = f"--model {first} --data count:test --max-eval-samples 2 --max-completion-length 6"
    train(evaluate, f"{line} --output-dir {measured}")
    assert "trained on nf4 weights" in capsys.readouterr().out
    assert read(measured / "args.json")["quant"] == "nf4"
    grpo(first, second)  # and trained further, at its own rank
    again = read(second / "args.json")
    assert (again["quant"], again["lora_r"]) == ("nf4", 4)
    assert not same_weights(first, second)


# --- rewards ---


def test_reward_weights_are_used_in_the_order_of_the_names(base, tmp_path, no_pictures):
    """VLM-R1 accepts --reward_weights and never reads them."""
    step = grpo(base, tmp_path, "--reward-funcs vowels length --reward-weights 2 -0.5")[0]
    weighed = 2 * step["rewards/vowels"] - 0.5 * step["rewards/length"]
    assert step["rewards/length"] > 0
    assert step["reward"] == pytest.approx(weighed, rel=1e-5)


KINDS = [
    ("spatial", "accuracy format mcq repetition"),
    ("ground", "iou accuracy_iou od_length format_rec"),
    ("count", "accuracy length cosine soft_overlong"),
]


@pytest.mark.parametrize("task, names", KINDS)
def test_every_kind_of_reward_runs_in_a_step(task, names, base, tmp_path, no_pictures):
    line = f"--model {base} {SMALL} --data {task} --max-steps 1 --reward-funcs {names}"
    train(train_grpo, f"{line} --output-dir {tmp_path}")
    _, last = metrics_of(tmp_path)
    parts = [last[f"rewards/{name}"] for name in names.split()]
    assert last["reward"] == pytest.approx(sum(parts), abs=1e-5)
    assert all(last[f"rewards/{name}/failed"] == 0 for name in names.split())
    assert last["completions/reflection_words"] >= 0 and last["rewards/undecided"] >= 0
    after = str(read(tmp_path / "result.json")["after"])
    assert ("iou" in after) == (task == "ground")


def test_length_counts_tokens_not_words(base, tmp_path, no_pictures):
    line = f"--model {base} {SMALL} --max-steps 1 --reward-funcs length --output-dir {tmp_path}"
    train(train_grpo, line)
    last = metrics_of(tmp_path)[-1]
    assert last["rewards/length"] == pytest.approx(0.001 * last["completions/mean_length"])


def test_a_reward_for_boxes_without_boxes_stops_before_any_work(base, tmp_path, capsys):
    line = f"--model {base} {SHORT} --max-steps 1 --reward-funcs iou --output-dir {tmp_path}/run"
    printed = refusal(train_grpo, line.split(), capsys)
    assert "iou" in printed and "boxes" in printed


def test_a_checkpoint_as_reward(base, tmp_path, no_pictures, capsys, monkeypatch):
    """Its score is the step's reward, and what is not finite counts as failed."""

    def score(questions, completions, size):
        return [float("nan")] + [2.0] * (len(completions) - 1)

    monkeypatch.setattr(judges, "RewardModel", lambda *_: SimpleNamespace(score=score))
    line = f"--model {base} {SMALL} --max-steps 1 --output-dir {tmp_path / 'run'}"
    train(train_grpo, f"{line} --reward-funcs judges/one vowels --reward-weights 3 0")
    last = metrics_of(tmp_path / "run")[-1]
    assert last["rewards/judges/one"] == pytest.approx(1.5)
    assert last["rewards/judges/one/failed"] == 1
    assert last["reward"] == pytest.approx(4.5)
    monkeypatch.undo()
    line = f"--model {base} {SHORT} --max-steps 1 --output-dir {tmp_path / 'x'}"
    line += f" --reward-funcs {tmp_path / 'no' / 'model'}"
    assert "cannot be loaded" in refusal(train_grpo, line.split(), capsys)
