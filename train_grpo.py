"""GRPO: reinforcement learning from question-answer pairs alone (DeepSeekMath, arXiv:2402.03300).

    A_i  = (r_i - mean r) / (std r + 1e-4)                 within the G completions of one prompt
    loss = - sum_it w_it min(ratio_it A_i, clip(ratio_it, 1 - eps, 1 + eps_high) A_i)
           + beta sum_it w_it k3(pi || ref)_it

with ratio = pi / pi_old, and weights w that say which mean is taken (--loss-type; losses.py).
Differences from the trainer of R1-V, which brought this to pictures:
 1. Rewards read the last <answer> body only, not the whole completion (docs/rewards.md).
 2. Prompts are never truncated; picture and prompt are computed once for the G completions of a
    question, in the rollout and in the update.
 3. The rollout is in eval mode and samples the whole distribution: no top-k 50, no repetition
    penalty from the checkpoint.
 4. beta is 0 by default, and then there is no reference policy at all. R1-V's was 0.04.
 5. One step is one rollout and --num-iterations updates on it. --micro-batch-size changes memory,
    never the gradient.

On a laptop (after the train_sft.py command; five minutes on two cores):
    python train_grpo.py --model runs/sft --data count --eval-data count:test \\
        --learning-rate 1e-4 --max-grad-norm 0.2 --prompts-per-step 16 --num-generations 8 \\
        --max-steps 160 --output-dir runs/grpo
On one GPU (QLoRA):
    python train_grpo.py --model Qwen/Qwen2-VL-2B-Instruct --quant nf4 \\
        --data clevr_cogen_a_train/ --gradient-checkpointing --prompts-per-step 8 \\
        --num-generations 8 --max-steps 500 --output-dir runs/clevr
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

import data
import experts
import lengths
import logps
import losses
import model
import rewards
import rollout
import tasks
import update
from grading import answers, judges
from grading.metrics import reflections
from plumbing import device, disk, flags, loading, plots, records, report, results, rundir, running
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.flags import int_from_0, int_from_1, not_negative, share
from plumbing.log import say
from plumbing.run import Run
from tasks import kept, sheets
from tasks.example import Example

WHAT_TO_WATCH = (
    "What to watch: the loss VALUE says nothing here. On-policy the ratio is 1 and advantages\n"
    "average to zero, so it is near 0 (or beta x KL) from the first step to the last, while its\n"
    "gradient is not. What moves: reward, up; adv_abs, the mean |advantage|; and\n"
    "frac_reward_zero_std, the share of groups whose completions all score the same: no lesson."
)


def add_rollout_flags(p: flags.Parser) -> None:
    add = p.add_argument_group("rollout").add_argument
    add("--prompts-per-step", type=int_from_1, default=8, help="N, questions asked per step")
    add("--num-generations", type=int_from_1, default=8, help="G, completions per question (>= 2)")
    add("--max-completion-length", type=int_from_1, default=512, help="tokens of a completion")
    add("--temperature", type=not_negative, default=1.0, help="of sampling, and of log-probs")
    inexact = "log-probs stay those of the uncut distribution: ratios are no longer exact"
    add("--top-p", type=share, default=1.0, help=f"mass of the likeliest; below 1 {inexact}")
    add("--top-k", type=int_from_0, default=0, help=f"the k likeliest, 0: all; above 0 {inexact}")


def add_objective_flags(p: flags.Parser) -> None:
    add = p.add_argument_group("objective").add_argument
    add(
        "--reward-funcs",
        nargs="+",
        default=["accuracy", "format"],
        metavar="NAME",
        help=f"rewards to add up: {', '.join(sorted(rewards.REWARDS))}; or a "
        "sequence-classification checkpoint with one output, as a directory or hub name, "
        "which scores question and completion",
    )
    add("--reward-weights", nargs="+", type=float, metavar="W", help="one per reward; default: 1")
    add(
        "--loss-type",
        choices=sorted(losses.LOSSES),
        default="grpo",
        help="which mean over tokens: grpo of each completion, then of all; "
        "dapo and bnpo over all tokens; dr_grpo by a constant",
    )
    add(
        "--scale-rewards",
        choices=["group", "none"],
        default="group",
        help="divide advantages by the group's standard deviation, or not (Dr. GRPO)",
    )
    add("--beta", type=not_negative, default=0.0, help="weight of KL(policy || reference)")
    add("--epsilon", type=not_negative, help="clip the ratio below 1 - this; default: loss's, 0.2")
    add("--epsilon-high", type=not_negative, help="clip it above 1 + this; default: epsilon")
    add("--num-iterations", type=int_from_1, default=1, help="mu, updates on each rollout")
    add(
        "--mask-truncated-completions",
        action="store_true",
        default=False,
        help="completions cut at --max-completion-length teach nothing (DAPO's overlong filtering)",
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "train_grpo.py")
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    flags.add_data_flags(p)
    add_rollout_flags(p)
    add_objective_flags(p)
    flags.add_optimization_flags(p, "peak learning rate; default: 1e-5 with LoRA, 1e-6 without")
    flags.add_evaluation_flags(p)
    flags.add_output_flags(p)
    args = p.parse_args(argv)
    if args.num_generations < 2:
        p.error(
            "--num-generations must be at least 2 for a group-relative advantage, "
            f"got {args.num_generations}"
        )
    if args.temperature == 0:
        p.error("--temperature must be above 0: greedy completions of one prompt are all the same")
    known = rewards.REWARDS
    unknown = [n for n in args.reward_funcs if n not in known and not judges.names_checkpoint(n)]
    if unknown:
        p.error(
            f"--reward-funcs {unknown[0]} is neither a reward ({', '.join(sorted(known))}) "
            "nor a checkpoint's directory or hub name"
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
    if args.epsilon is None:
        args.epsilon, epsilon_high = losses.LOSSES[args.loss_type].epsilon
        if args.epsilon_high is None:
            args.epsilon_high = epsilon_high
    return args


# --- the steps of the loop ---


def score(
    completions: list[str],
    examples: list[Example],
    lengths: list[int],
    limit: int,
    names: list[str],
    reward_models: dict[str, judges.RewardModel],
    size: int,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Score each completion by each reward: ({name: B scores}, {name: failures}).

    lengths: tokens of each completion, `limit` at most. size: rows that a model reads at a time.
    """
    formulas = [name for name in names if name not in reward_models]
    parts, failed = rewards.reward_parts(completions, examples, formulas, lengths, limit)
    questions = [example.question for example in examples]
    for name, judge in reward_models.items():
        values = torch.tensor(judge.score(questions, completions, size), dtype=torch.float64)
        broken = ~values.isfinite()
        failed[name], parts[name] = int(broken.sum()), values.masked_fill(broken, 0.0).tolist()
    return {name: parts[name] for name in names}, failed  # in the order of --reward-weights


@torch.no_grad()
def frozen_logps(policy: Module, batches: Iterable, logp_of: Callable) -> Tensor:
    """Compute log-probs of all rows without gradient, a micro-batch at a time: (B, T), CPU."""
    return torch.cat([logp_of(policy, batch).cpu() for _, batch in batches])


class Objective(NamedTuple):
    """What a token costs: a row of LOSSES, its clip range, the KL's weight; and the routers'."""

    loss: losses.Loss
    low: float
    high: float
    beta: float
    router_aux_loss_coef: float


def grpo_gradient(
    policy: Module,
    batches: Callable[[], Iterable],
    logp_of: Callable,
    objective: Objective,
    adv: Tensor,
    counted: Tensor,
    weights: Tensor,
    old_logp: Tensor | None,
    ref_logp: Tensor | None,
) -> tuple[float, Tensor, Tensor, dict[str, float]]:
    """Add up one update's gradient: (loss, log-probs, entropy, metrics of experts).

    adv: (B,); counted: (B, T), 1 where a token counts; weights: (B, T), of the whole update.
    batches() yields the micro-batches. ref_logp None: no KL.
    old_logp None: on-policy, the ratio is 1 and no second pass is needed.
    """
    term, low, high, beta = objective.loss.term, objective.low, objective.high, objective.beta
    loss, new_logp, entropy = 0.0, torch.zeros_like(counted), torch.zeros_like(counted)
    balance = experts.Balance(policy, objective.router_aux_loss_coef, batches)
    for rows, batch in batches():
        with balance.watching(batch):
            logp, spread = logp_of(policy, batch, entropy=True)  # (rows, T)
        old = logp.detach() if old_logp is None else old_logp[rows].to(logp)
        per_token = term(logp, old, adv[rows].to(logp), counted[rows].to(logp), low, high)
        if ref_logp is not None:
            per_token = per_token + beta * losses.kl_k3(logp, ref_logp[rows].to(logp))
        part = losses.aggregate(per_token, weights[rows].to(logp))
        (part + balance.cost()).backward()
        loss += part.item()
        new_logp[rows] = logp.detach().cpu()
        entropy[rows] = spread.cpu()
    return loss, new_logp, entropy, balance.metrics()


def trusted_old_logp(
    sampled: Tensor, computed: Tensor, mask: Tensor, step: int
) -> tuple[Tensor, dict[str, Tensor], bool]:
    """Take the rollout's own log-probs as pi_old, or the computed ones where they disagree.

    sampled, computed: of the same tokens and weights. All (B, T), nats.
    Returns also losses.logp_difference, and whether they agree (losses.rollout_agrees).
    UserError as `must_agree`.
    """
    gap = losses.logp_difference(sampled, computed, mask)
    must_agree(gap, step)
    agrees = losses.rollout_agrees(sampled, computed, mask)
    return (sampled if agrees else computed), gap, agrees


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


def sample_metrics(
    roll: rollout.Rollout,
    completions: list[str],
    parts: dict[str, list[float]],
    failed: dict[str, int],
    scores: Tensor,
    adv: Tensor,
    G: int,
) -> dict[str, float | Tensor]:
    """Describe what was sampled, what it scored, and how much signal is in that."""
    words = sum(map(reflections, completions))
    return {
        "reward": scores.mean(),
        "reward_std": scores.view(-1, G).std(1).mean(),
        **{f"rewards/{name}": sum(values) / len(values) for name, values in parts.items()},
        **{f"rewards/{name}/failed": count for name, count in failed.items()},
        "adv_abs": adv.abs().mean(),
        "frac_reward_zero_std": losses.frac_reward_zero_std(scores, G),
        "completions/mean_length": roll.lengths.float().mean(),
        "completions/max_length": roll.lengths.max(),
        "completions/clipped_ratio": 1 - roll.finished().float().mean(),
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


# --- evaluation, samples, results ---


def evaluate(
    ask: Callable, eval_sets: dict[str, list], step: int, folder: Path
) -> dict[str, float]:
    """Score greedy answers to the held-out sets, and keep them in `folder`: {metric: value}."""
    metrics = {}
    for name, examples in eval_sets.items():
        texts, lengths, _ = ask(examples, describe=f"asking {name}")
        kept.keep_answers(folder, list(eval_sets), name, step, examples, texts)
        scores = rewards.summary(texts, examples)
        scores["mean_length"] = sum(lengths) / max(1, len(lengths))
        metrics |= {f"eval/{name}/{key}": value for key, value in scores.items()}
    return metrics


def show_samples(
    folder: Path,
    step: int,
    examples: list[Example],
    completions: list[str],
    parts: dict[str, list[float]],
    totals: Tensor,
    adv: Tensor,
) -> None:
    """Draw some completions of a step with their scores, and print one."""
    G, rows = len(completions) // len(examples), []
    for n, example in enumerate(examples[:6]):
        drawn = range(n * G, n * G + min(3, G))
        shown = [(completions[b], {name: v[b] for name, v in parts.items()}) for b in drawn]
        rows.append(sheets.sheet_row(example, shown, [completions[b] for b in drawn]))
    title, png = f"step {step}: sampled completions and their rewards", f"step_{step:06d}.png"
    plots.plot_samples(rows, folder / png, title)
    say(
        f"  one of them: {examples[0].question}  ->  {completions[0][:300]!r}  "
        f"(answer {examples[0].answer}, reward {float(totals[0]):g}, "
        f"advantage {float(adv[0]):+.2f}); drawn with others in {folder / png}"
    )


def draw_curves(
    lines: list[dict], png: Path, names: list[str], reward_funcs: list[str], beta: float, title: str
) -> None:
    """Draw what moved, against steps. names: of the held-out sets."""
    accuracies = [f"eval/{name}/{key}" for name in names for key in ("accuracy", "iou")]
    panels = [
        ("greedy accuracy", accuracies),
        ("reward of the samples", [f"rewards/{name}" for name in reward_funcs]),
        ("signal", ["adv_abs", "frac_reward_zero_std", "grad_norm"]),
        ("nats per token", ["entropy", "kl"] if beta else ["entropy"]),
        ("tokens per completion", ["completions/mean_length"]),
        ("reflection words per completion (wait, re-check, ...)", ["completions/reflection_words"]),
    ]
    plots.plot_curve(lines, png, panels, title)


# --- the whole run ---


def check_needs(examples: Sequence[Example], formulas: list[str]) -> None:
    """Check that rewards have what they need. UserError."""
    some = data.head(examples, 16) if data.is_endless(examples) else examples
    try:
        rewards.check_rewards(formulas, some)
    except ValueError as error:
        raise UserError(
            f"--reward-funcs: {error}; choose other rewards, or data that have what they need"
        ) from None


def main(args: argparse.Namespace) -> None:
    # --- setup: what can be wrong is found out before the first step ---
    resume = rundir.open_output_dir(args)
    N, G, out = args.prompts_per_step, args.num_generations, Path(args.output_dir)
    vars(args).update(data.ask_as_trained(args))
    bad = BadRecords(args.skip_bad_records)
    reading = data.reading(args, bad)
    examples = tasks.read(args.data, args.seed, teacher="gold", training=True, **reading)
    args.eval_data = args.eval_data or data.default_eval(args.data)
    eval_sets = data.read_eval(
        args.eval_data, {args.data: examples}, args.max_eval_samples, **reading
    )
    examples = data.check_golds(examples, rewards.check_gold, bad)
    eval_sets = {k: data.check_golds(e, rewards.check_gold, bad) for k, e in eval_sets.items()}
    check_needs(examples, [n for n in args.reward_funcs if n in rewards.REWARDS])
    data.must_end(args.max_steps, args.data, examples)

    # --- model ---
    needs = "reinforcement learning needs one that already answers now and then"
    vars(args).update(model.resolve(args, train=True, needs_training=needs))
    policy, processor = model.load_from_args(args, train=True, resume=resume)
    if args.learning_rate is None:
        args.learning_rate = 1e-5 if args.lora_r else 1e-6
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    limit, size = args.max_completion_length, args.micro_batch_size
    sampling = rollout.Sampling(limit, args.temperature, args.top_p, args.top_k)
    examples = lengths.fitting(asker, examples, limit, bad=bad)
    eval_sets = lengths.fitting_sets(asker, eval_sets, limit, bad)
    bad.report(out)
    max_steps = data.steps_of(args.max_steps, args.num_train_epochs, examples, N)
    reference = model.Reference(policy, args.model, args.seed) if args.beta else None
    graders = {
        name: judges.RewardModel(name, policy.device, logps.core_of(policy).compute_dtype)
        for name in args.reward_funcs
        if name not in rewards.REWARDS
    }
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = update.make_optimizer(args.optim, trained, args.learning_rate)
    save_model = partial(model.save, policy, processor)
    model_bytes = model.saved_bytes(policy, processor)
    clip = losses.clip_range(args.epsilon, args.epsilon_high)
    loss_type = losses.LOSSES[args.loss_type]
    objective = Objective(loss_type, *clip, args.beta, args.router_aux_loss_coef)
    logp_of = partial(
        logps.token_logps, temperature=args.temperature, suppress=processor.special.vision_ids
    )
    greedy = rollout.Sampling(limit, temperature=0)
    args.num_workers = loading.workers(args.num_workers, data.is_toy(args.data), policy.device)
    ask = partial(rollout.answer_all, policy, asker, sampling=greedy)
    ask = partial(ask, batch_size=args.eval_batch_size, num_workers=args.num_workers)
    names = list(eval_sets)
    show = ["reward", *(f"rewards/{name}" for name in args.reward_funcs)]
    show += ["adv_abs", "frac_reward_zero_std", "grad_norm", "loss"]
    show += [f"eval/{name}/{key}" for name in names for key in ("accuracy", "iou")]

    # --- loop ---
    with Run(
        args, save_model, model_bytes, optimizer, resume, title="grpo", page=report.write
    ) as run:
        disk.announce(out, rundir.to_write(args, model_bytes, run.state_bytes, max_steps))
        kept.keep_sets(out / "samples", eval_sets)
        print(f"model: {model.describe(policy)}; prompt template {args.prompt_template}")
        pieces = N * -(-G // size)
        print(
            f"each step: {N} questions x {G} completions = {N * G} rows, "
            f"{args.num_iterations} update(s) of {pieces} micro-batches; {max_steps} steps"
        )
        print(WHAT_TO_WATCH)
        if run.step == 0:
            before = evaluate(ask, eval_sets, 0, out / "samples")
            results.print_before(before, names)
            run.log(before)
            report.write(out)
            print(
                f"what the model saw and answered is in {out}/report.html, which grows with the run"
            )
        encode = partial(asker.prompt, room=limit)
        todo = range(run.step + 1, max_steps + 1)
        ahead = data.batches_ahead(encode, examples, todo, N, args.seed, args.num_workers)
        encoded = run.enter_context(ahead)
        for step in run.steps(max_steps):
            started = time.perf_counter()
            device.seed_everything(args.seed, step - 1)
            chosen = data.take(examples, (step - 1) * N, N, args.seed)
            prompts = next(encoded)
            waited = time.perf_counter() - started
            logps.cache_features(policy, prompts)  # a frozen tower sees a picture once a step

            # 1. sample G completions for each of N prompts -> B = N * G rows
            roll = rollout.rollout(
                policy, prompts, processor.special, G, sampling, args.seed * 1_000_000 + step - 1
            )
            completions = [processor.decode(ids[:n]) for ids, n in zip(roll.targets, roll.lengths)]
            rolled = time.perf_counter()

            # 2. score them
            undecided = answers.undecided()
            asked = [example for example in chosen for _ in range(G)]
            parts, failed = score(
                completions, asked, roll.lengths.tolist(), limit, args.reward_funcs, graders, size
            )
            scores = torch.tensor(rewards.total(parts, args.reward_weights))  # (B,)
            undecided = answers.undecided() - undecided
            scored = time.perf_counter()

            # 3. compare within the group
            adv = losses.group_advantage(scores, G, args.scale_rewards == "group")  # (B,)

            # 4. fixed during the updates: what each token counts, and log-probs without gradient
            counted = roll.mask  # (B, T)
            if args.mask_truncated_completions:
                counted = losses.truncation_mask(roll.mask, roll.finished())
            weights = losses.token_weights(counted, args.loss_type, limit)  # (B, T)
            batches = partial(rollout.micro_batches, prompts, roll, size, policy.device)
            policy.eval()  # without LoRA dropout, as in the rollout
            # None: the first update's ratio is 1. It is set in that update, for the next ones.
            old_logp = logp_without_dropout = ref_logp = None
            if args.lora_r and args.lora_dropout:
                logp_without_dropout = frozen_logps(policy, batches(), logp_of)  # (B, T)
            if reference:
                with reference as frozen:
                    ref_logp = frozen_logps(frozen, batches(), logp_of)  # (B, T)

            # 5. a few clipped gradient steps, in micro-batches
            policy.train()
            clips = []
            for iteration in range(args.num_iterations):
                optimizer.zero_grad()
                loss, new_logp, entropy, balance = grpo_gradient(
                    policy, batches, logp_of, objective, adv, counted, weights, old_logp, ref_logp
                )
                # The first update's ratio is 1: its denominator is this pass itself, with dropout.
                denominator = new_logp if old_logp is None else old_logp
                clipped = objective.loss.clipped(new_logp, denominator, adv, counted, *clip)
                clips.append(losses.clip_ratio(clipped, adv, counted))
                if iteration == 0:
                    first_logp, first_entropy, first_balance = new_logp, entropy, balance
                    computed = new_logp if logp_without_dropout is None else logp_without_dropout
                    old_logp, gap, agrees = trusted_old_logp(roll.logp, computed, roll.mask, step)
                grad_norm = update.clip_gradient(trained, args.max_grad_norm, step)
                optimizer.step()

            # 6. log and evaluate
            seconds = time.perf_counter() - started
            metrics = {
                "loss": loss,
                **sample_metrics(roll, completions, parts, failed, scores, adv, G),
                **policy_metrics(first_logp, first_entropy, ref_logp, counted, clips, gap),
                **first_balance,
                "rewards/undecided": undecided,
                "grad_norm": grad_norm,
                "learning_rate": run.learning_rate,
                "step_time": seconds,
                "data_time": waited,
                "rollout_time": rolled - started,
                "reward_time": scored - rolled,
                "tokens_per_second": int(roll.mask.sum()) / seconds,
            }
            if args.num_iterations > 1:
                metrics["old_logp_from_rollout"] = agrees
            if run.due(args.eval_steps):
                metrics |= evaluate(ask, eval_sets, step, out / "samples")
            run.log({name: float(value) for name, value in metrics.items()}, show)
            is_shown = step == 1 or run.due(args.eval_steps or 50)
            if is_shown or run.due(kept.every(max_steps)):
                kept.keep_samples(out / "samples", step, chosen, completions, parts, adv.tolist())
            if is_shown:
                show_samples(out / "samples", step, chosen, completions, parts, scores, adv)

    # --- the end: publish, compare, draw ---
    run.publish()
    before, after = run.history.at(0), run.history.at(run.step)
    if f"eval/{names[0]}/accuracy" not in after:
        # It was resumed to stop at a step that an earlier, longer run did not evaluate.
        after |= evaluate(ask, eval_sets, run.step, out / "samples")
    title = f"train_grpo.py, {args.model}, {args.data}, {N} x {G}, seed {args.seed}"
    draw_curves(run.history.lines, out / "curve.png", names, args.reward_funcs, args.beta, title)
    first = eval_sets[names[0]]
    files = [kept.answers_file(out / "samples", names, names[0], n) for n in (0, run.step)]
    rows = sheets.before_after(first, *map(records.read_lines, files))
    title = f"{names[0]}: answers that changed, and three others"
    plots.plot_samples(rows, out / "samples" / "before_after.png", title)
    results.save_comparison(before, after, names, run.step, out)
    report.write(out)
    print(
        f"the model is in {out}, the curve in {out}/curve.png, "
        f"answers before and after in {out}/samples/before_after.png, all of it in "
        f"{out}/report.html"
    )


if __name__ == "__main__":
    running.run(main, parse_args)
