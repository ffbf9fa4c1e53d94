"""What a step of train_grpo.py logs, prints and draws."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import losses
import rewards
from grading.metrics import reflections
from plumbing import plots, ranks, records, report, results
from plumbing.log import say
from reinforcing import advantages
from reinforcing.groups import Groups, signal_metrics
from tasks import kept, sheets

LOOKING = ("vision/blind_accuracy", "vision/kl")


def shown(reward_funcs: list[str], names: list[str]) -> list[str]:
    """List the metrics that are printed. names: of the held-out sets."""
    show = ["reward", *(f"rewards/{name}" for name in reward_funcs)]
    show += ["adv_abs", "frac_reward_zero_std", "grad_norm", "loss"]
    show += [f"eval/{name}/{key}" for name in names for key in ("accuracy", "iou")]
    return show + list(LOOKING)


def sample_metrics(
    groups: Groups, sampled: list[Groups], weights: list[float] | None, adv: Tensor
) -> dict[str, float | Tensor]:
    """Describe what was sampled, what it scored, and how much signal is in that.

    groups: what is learned from. sampled: all samplings of the step. weights: of the rewards.
    """
    completions = groups.completions
    G = groups.G
    scores = torch.tensor(rewards.total(groups.parts, weights))  # (B,)
    words = sum(map(reflections, completions))
    kept = (adv.view(-1, G) != 0).any(1).sum()
    return {
        "reward": scores.mean(),
        "reward_std": scores.view(-1, G).std(1).mean(),
        **{f"rewards/{name}": sum(values) / len(values) for name, values in groups.parts.items()},
        **{f"rewards/{name}/failed": count for name, count in groups.failed.items()},
        "adv_abs": adv.abs().mean(),
        "frac_reward_zero_std": advantages.frac_reward_zero_std(adv, G),
        **signal_metrics(sampled, int(kept)),
        "completions/mean_length": groups.roll.lengths.float().mean(),
        "completions/max_length": groups.roll.lengths.max(),
        "completions/clipped_ratio": 1 - groups.roll.finished().float().mean(),
        "completions/reflection_words": words / len(completions),
    }


def policy_metrics(
    logp: Tensor,
    entropy: Tensor,
    ref_logp: Tensor | None,
    counted: Tensor,
    clips: list[dict[str, Tensor]],
    gap: dict[str, Tensor],
) -> dict[str, float | Tensor]:
    """Describe the policy in a step's first update, and what all its updates have clipped.

    logp, entropy, ref_logp, counted: (B, T). clips: losses.clip_ratio of each update.
    """
    kl = 0.0
    if ref_logp is not None:
        kl = losses.masked_mean(losses.kl_k3(logp, ref_logp), counted)
    return {
        "entropy": losses.masked_mean(entropy, counted),
        "kl": kl,
        **{f"clip_ratio/{k}": sum(clip[k] for clip in clips) / len(clips) for k in clips[0]},
        **{f"sampling_logp_difference/{name}": value for name, value in gap.items()},
    }


def print_plan(args: argparse.Namespace, size: int, max_steps: int) -> None:
    """Print what a step is made of. size: rows of a micro-batch."""
    N, G, K = args.prompts_per_step, args.num_generations, args.updates_per_rollout
    print(
        f"each step: {N} questions x {G} completions = {N * G} rows, "
        f"{args.num_iterations * K} update(s) of {N // K * -(-G // size)} micro-batches; "
        f"{max_steps} steps"
    )
    if ranks.world() > 1:
        print(f"{ranks.world()} processes share the questions of a step")


def show_samples(
    folder: Path, step: int, groups: Groups, weights: list[float] | None, adv: Tensor
) -> None:
    """Draw some completions of a step with their scores, and print one."""
    examples, completions, parts = groups.examples, groups.completions, groups.parts
    G, rows = groups.G, []
    for n, example in enumerate(examples[:6]):
        drawn = range(n * G, n * G + min(3, G))
        shown = [(completions[b], {name: v[b] for name, v in parts.items()}) for b in drawn]
        rows.append(sheets.sheet_row(example, shown, [completions[b] for b in drawn]))
    png = folder / f"step_{step:06d}.png"
    plots.plot_samples(rows, png, f"step {step}: sampled completions and their rewards")
    say(
        f"  one of them: {examples[0].question}  ->  {completions[0][:300]!r}  "
        f"(answer {examples[0].answer}, reward {rewards.total(parts, weights)[0]:g}, "
        f"advantage {float(adv[0]):+.2f}); drawn with others in {png}"
    )


def draw_run(
    lines: list[dict], args: argparse.Namespace, eval_sets: dict[str, list], step: int, out: Path
) -> None:
    """Draw what moved, against steps, and answers before the first step and after this one."""
    names = list(eval_sets)
    accuracies = [f"eval/{name}/{key}" for name in names for key in ("accuracy", "iou")]
    panels = [
        ("greedy accuracy", accuracies),
        ("blind accuracy, KL to a grey picture", list(LOOKING)),
        ("reward of the samples", [f"rewards/{name}" for name in args.reward_funcs]),
        ("signal", ["adv_abs", "frac_reward_zero_std", "grad_norm"]),
        ("nats per token", ["entropy", "kl"] if args.beta else ["entropy"]),
        ("tokens per completion", ["completions/mean_length"]),
    ]
    words = "completions/reflection_words"
    if any(line.get(words) for line in lines):
        panels.append(("reflection words per completion (wait, re-check, ...)", [words]))
    size = f"{args.prompts_per_step} x {args.num_generations}"
    title = f"train_grpo.py, {args.model}, {args.data}, {size}, seed {args.seed}"
    plots.plot_curve(lines, out / "curve.png", panels, title)
    name = names[0]
    folder = out / "samples"
    files = [kept.answers_file(folder, names, name, n) for n in (0, step)]
    rows = sheets.before_after(eval_sets[name], *map(records.read_lines, files))
    title = f"{name}: answers that changed, and three others"
    plots.plot_samples(rows, folder / "before_after.png", title)


def finish(
    lines: list[dict],
    args: argparse.Namespace,
    before: dict,
    after: dict,
    eval_sets: dict[str, list],
    step: int,
    out: Path,
) -> None:
    """Draw and compare what the first process has kept, and say where everything is.

    lines: of metrics.jsonl; before, after: those of the first evaluation and the last.
    """
    if ranks.rank():
        return
    draw_run(lines, args, eval_sets, step, out)
    results.save_comparison(before, after, list(eval_sets), step, out)
    report.write(out)
    print(
        f"the model is in {out}, the curve in {out}/curve.png, "
        f"answers before and after in {out}/samples/before_after.png, all of it in "
        f"{out}/report.html"
    )
