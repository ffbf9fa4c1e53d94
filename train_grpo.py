"""GRPO: reinforcement learning from question-answer pairs alone (DeepSeekMath, arXiv:2402.03300; R1-V for pictures).

    A_i  = (r_i - mean r) / (std r + 1e-4)                      within the G completions of one prompt
    loss = - sum_it w_it min(ratio_it A_i, clip(ratio_it, 1 - eps, 1 + eps_high) A_i) + beta k3(pi || ref)_it

with ratio = pi / pi_old, and weights w that say which mean is taken (--loss-type; losses.py). Differences from R1-V's trainer:
 1. Rewards read the last <answer> body only, not the whole completion (rewards.py says what each original does wrong).
 2. Prompts are never truncated; picture and prompt are computed once for the G completions of a question, in the rollout and in the update.
 3. The rollout is in eval mode and samples the whole distribution: no top-k 50, no repetition penalty from the checkpoint.
 4. beta is 0 by default, and then there is no reference policy at all. R1-V's was 0.04.
 5. One step is one rollout and --num-iterations updates on it. --micro-batch-size changes memory, never the gradient.

On a laptop (after the train_sft.py command; five minutes on two cores):
    python train_grpo.py --model runs/sft --data count --eval-data count:test --learning-rate 1e-4 --max-grad-norm 0.2 \\
        --prompts-per-step 16 --num-generations 8 --max-steps 160 --output-dir runs/grpo
On one GPU (QLoRA):
    python train_grpo.py --model Qwen/Qwen2-VL-2B-Instruct --quant nf4 --data clevr_cogen_a_train/ --gradient-checkpointing \\
        --prompts-per-step 8 --num-generations 8 --max-steps 500 --output-dir runs/clevr
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

import data
import losses
import model as modeling
import rewards
import rollout
import tasks
import update
from grading import answers, boxes
from grading.judges import RewardModel, names_checkpoint
from grading.metrics import reflections
from logps import cache_features, core_of, token_logps
from plumbing import device, disk, flags, plots, records, rundir, running, stopping
from plumbing.arguments import write_args
from plumbing.errors import UserError
from plumbing.log import MetricsLog, metrics_of, say


def parse_args(argv=None):
    p = flags.Parser(__doc__, "train_grpo.py")
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    flags.add_data_flags(p)
    g = p.add_argument_group("rollout")
    g.add_argument(
        "--prompts-per-step", type=flags.int_from_1, default=8, help="N, questions asked per step"
    )
    g.add_argument(
        "--num-generations",
        type=flags.int_from_1,
        default=8,
        help="G, completions per question (at least 2)",
    )
    g.add_argument(
        "--max-completion-length",
        type=flags.int_from_1,
        default=512,
        help="tokens of a completion at most",
    )
    g.add_argument(
        "--temperature",
        type=flags.not_negative,
        default=1.0,
        help="sampling temperature; log-probs use the same",
    )
    g.add_argument(
        "--top-p",
        type=flags.share,
        default=1.0,
        help="sample among the likeliest tokens that make up this mass; below 1 importance ratios are no longer exact",
    )
    g.add_argument(
        "--top-k",
        type=flags.int_from_0,
        default=0,
        help="sample among this many likeliest tokens, 0: all; above 0 importance ratios are no longer exact",
    )
    g = p.add_argument_group("objective")
    g.add_argument(
        "--reward-funcs",
        nargs="+",
        default=["accuracy", "format"],
        metavar="NAME",
        help=f"rewards to add up: {', '.join(sorted(rewards.REWARDS))}; or a sequence-classification checkpoint with one output, as a directory or hub name, "
        "which scores question and completion (default: accuracy format)",
    )
    g.add_argument(
        "--reward-weights",
        nargs="+",
        type=float,
        metavar="W",
        help="one weight per reward; default: all 1",
    )
    g.add_argument(
        "--loss-type",
        choices=[name for name in sorted(losses.LOSSES) if name != "sft"],
        default="grpo",
        help="which mean over tokens: grpo of each completion, then of all; dapo and bnpo over all tokens; dr_grpo by a constant",
    )
    g.add_argument(
        "--scale-rewards",
        choices=["group", "none"],
        default="group",
        help="divide advantages by the group's standard deviation, or not (Dr. GRPO)",
    )
    g.add_argument(
        "--beta",
        type=flags.not_negative,
        default=0.0,
        help="weight of KL(policy || reference); 0 needs no reference",
    )
    g.add_argument(
        "--epsilon", type=flags.not_negative, default=0.2, help="clip the ratio below 1 - epsilon"
    )
    g.add_argument(
        "--epsilon-high",
        type=flags.not_negative,
        help="clip the ratio above 1 + this; default: epsilon (DAPO's clip-higher: 0.28)",
    )
    g.add_argument(
        "--num-iterations",
        type=flags.int_from_1,
        default=1,
        help="mu, updates on each rollout; clipping matters above 1 only",
    )
    g.add_argument(
        "--mask-truncated-completions",
        action="store_true",
        default=False,
        help="completions cut at --max-completion-length teach nothing (DAPO's overlong filtering)",
    )
    flags.add_optimization_flags(p, "peak learning rate; default: 1e-5 with LoRA, 1e-6 without")
    flags.add_evaluation_flags(p)
    flags.add_output_flags(p)
    args = p.parse_args(argv)
    if args.num_generations < 2:
        p.error(
            f"--num-generations must be at least 2 for a group-relative advantage, got {args.num_generations}"
        )
    if args.temperature == 0:
        p.error("--temperature must be above 0: greedy completions of one prompt are all the same")
    unknown = [
        name
        for name in args.reward_funcs
        if name not in rewards.REWARDS and not names_checkpoint(name)
    ]
    if unknown:
        p.error(
            f"--reward-funcs {unknown[0]} is neither a reward ({', '.join(sorted(rewards.REWARDS))}) nor a checkpoint's directory or hub name"
        )
    if len(set(args.reward_funcs)) < len(args.reward_funcs):
        p.error("--reward-funcs names a reward twice; use --reward-weights to count it more")
    if args.reward_weights and not all(math.isfinite(w) for w in args.reward_weights):
        p.error("--reward-weights must be finite numbers")
    if args.reward_weights and len(args.reward_weights) != len(args.reward_funcs):
        p.error(
            f"--reward-weights needs one weight for each of {' '.join(args.reward_funcs)}, got {len(args.reward_weights)}"
        )
    return args


def main(args):
    # ---- setup: everything that can be wrong is found out before the first step --------------------------------------------------
    resume = rundir.open_output_dir(args)
    N, G, out = args.prompts_per_step, args.num_generations, Path(args.output_dir)
    vars(args).update(data.ask_as_trained(args))
    examples = tasks.read(
        args.data, args.seed, args.level, "gold", args.box_format, args.min_pixels, args.max_pixels
    )
    args.eval_data = args.eval_data or data.default_eval(args.data)
    eval_sets = data.read_eval(
        args.eval_data,
        {args.data: examples},
        args.max_eval_samples,
        level=args.level,
        box_format=args.box_format,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
    )
    for some in (examples, *eval_sets.values()):
        data.check_golds(some, rewards.check_gold)
    formulas = [name for name in args.reward_funcs if name in rewards.REWARDS]
    try:
        rewards.check_rewards(
            formulas, data.head(examples, 16) if data.is_endless(examples) else examples
        )
    except ValueError as error:
        raise UserError(
            f"--reward-funcs: {error}; choose other rewards, or data that have what they need"
        ) from None
    max_steps = data.steps_of(args.max_steps, args.num_train_epochs, args.data, examples, N)

    # ---- model -------------------------------------------------------------------------------------------------------------------
    policy, processor = modeling.load_from_args(
        args,
        train=True,
        resume=resume,
        needs_training="reinforcement learning needs one that already answers now and then",
    )
    if args.learning_rate is None:
        args.learning_rate = 1e-5 if args.lora_r else 1e-6
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    greedy = rollout.Sampling(args.max_completion_length, temperature=0)
    for some in (examples, *eval_sets.values()):
        asker.check(some, args.max_completion_length)
    reference = modeling.Reference(policy, args) if args.beta else None
    judges = {
        name: RewardModel(name, policy.device, core_of(policy).compute_dtype)
        for name in args.reward_funcs
        if name not in formulas
    }
    trained = [q for q in policy.parameters() if q.requires_grad]
    optimizer = update.make_optimizer(args.optim, trained, args.learning_rate)
    step = 0
    if resume:
        state = rundir.load_state(resume)
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        del state  # the optimizer has it now
    write_args(out, args)
    log = MetricsLog(out, metrics_of(resume), args.report_to, args.logging_steps)
    rundir.set_aside_later(out, resume)
    model_bytes, state_bytes = (
        modeling.saved_bytes(policy, processor),
        update.optimizer_bytes(optimizer),
    )
    disk.announce(out, rundir.to_write(args, model_bytes, state_bytes, max_steps))
    (out / "samples").mkdir(exist_ok=True)
    suppress = processor.special.vision_ids
    print(f"model: {modeling.describe(policy)}")
    pieces = N * -(-G // args.micro_batch_size)
    print(
        f"each step: {N} questions x {G} completions = {N * G} rows, {args.num_iterations} update(s) of {pieces} micro-batches; {max_steps} steps"
    )
    print(
        "What to watch: the loss VALUE says nothing here. On-policy the ratio is 1 and advantages average to zero, so it is near 0 (or beta x KL)\n"
        "from the first step to the last, while its gradient is not. What moves: reward, up; adv_abs, the mean |advantage|; and\n"
        "frac_reward_zero_std, the share of groups whose completions all score the same and teach nothing."
    )

    # ---- helpers -----------------------------------------------------------------------------------------------------------------
    def evaluate(name):
        """Greedy answers to a held-out set, kept in samples/: {metric: value}."""
        texts, lengths, _ = rollout.answer_all(
            policy,
            asker,
            eval_sets[name],
            greedy,
            describe=f"asking {name}",
            batch_size=args.eval_batch_size,
        )
        disk.write_lines(
            eval_file(name, step),
            [
                {
                    "id": e.id,
                    "question": e.question,
                    "answer": e.answer,
                    "prediction": text,
                    **rewards.marks(text, e),
                }
                for e, text in zip(eval_sets[name], texts)
            ],
        )
        scores = rewards.summary(texts, eval_sets[name]) | {
            "mean_length": sum(lengths) / max(1, len(lengths))
        }
        return {f"eval/{name}/{k}": v for k, v in scores.items()}

    def eval_file(name, at):
        return (
            out
            / "samples"
            / f"eval_{list(eval_sets).index(name)}_{Path(name).name.replace(':', '-')}_{at:06d}.jsonl"
        )

    def logps(prompts, targets, mask, with_policy):
        """token_logps of all rows without gradient, a micro-batch at a time: (B, T) on the CPU."""
        pieces = []
        policy.eval()  # without LoRA dropout, as in the rollout
        with torch.no_grad():
            for a, b, first, last, counts in data.micro_batches(
                len(targets), args.micro_batch_size, [G] * len(prompts)
            ):
                batch = data.collate(
                    prompts[first:last], targets[a:b], mask[a:b], counts, policy.device
                )
                pieces.append(token_logps(with_policy, batch, args.temperature, suppress).cpu())
        return torch.cat(pieces)

    def save_model(directory):
        modeling.save(policy, processor, directory)
        write_args(directory, args)

    # ---- before ------------------------------------------------------------------------------------------------------------------
    if step == 0:
        before = {}
        for name in eval_sets:
            before |= evaluate(name)
            print(
                f"before: {name}: accuracy {before[f'eval/{name}/accuracy']:.3f}, of readable answers {before[f'eval/{name}/accuracy_parsed']:.3f}, "
                f"format {before[f'eval/{name}/format_rate']:.3f}"
                + (
                    f", mean IoU {before[f'eval/{name}/iou']:.3f}"
                    if f"eval/{name}/iou" in before
                    else ""
                )
            )
        log.log(0, before)

    # ---- loop --------------------------------------------------------------------------------------------------------------------
    bar = tqdm(total=max_steps, initial=step, desc="grpo", unit="step")
    with stopping.Stop() as stop:
        while step < max_steps:
            started = time.perf_counter()
            device.seed_everything(args.seed, step)
            chosen = data.take(examples, step * N, N, args.seed)
            prompts = [asker.prompt(e, args.max_completion_length) for e in chosen]
            cache_features(
                policy, prompts
            )  # a frozen vision tower sees each picture once a step, not once a pass

            # 1. sample G completions for each of N prompts -> B = N * G rows
            roll = rollout.rollout(
                policy,
                prompts,
                processor.special,
                G,
                sampling,
                seed=args.seed * 1_000_000 + step,
            )
            targets, mask = roll.targets, roll.mask  # (B, T)
            completions = [processor.decode(ids[:n]) for ids, n in zip(targets, roll.lengths)]
            rollout_seconds = time.perf_counter() - started

            # 2. score them
            asked, undecided = [e for e in chosen for _ in range(G)], answers.undecided()
            parts, failed = rewards.reward_parts(
                completions, asked, formulas, roll.lengths.tolist(), args.max_completion_length
            )
            for name, judge in judges.items():
                judged = judge.score(
                    [e.question for e in asked], completions, args.micro_batch_size
                )
                parts[name], failed[name] = (
                    [v if math.isfinite(v) else 0.0 for v in judged],
                    sum(not math.isfinite(v) for v in judged),
                )
            parts = {
                name: parts[name] for name in args.reward_funcs
            }  # the order of --reward-weights
            reward_seconds = time.perf_counter() - started - rollout_seconds
            scores = torch.tensor(rewards.total(parts, args.reward_weights))  # (B,)

            # 3. compare within the group: advantages, zero-mean per group
            adv = losses.group_advantage(scores, G, args.scale_rewards == "group")  # (B,)

            # 4. how much each token counts, over the whole step; log-probs of the reference, and without dropout, if there is any
            finished = torch.tensor([reason == "stop" for reason in roll.finish])
            counted = (
                losses.truncation_mask(mask, finished) if args.mask_truncated_completions else mask
            )
            weights = losses.token_weights(counted, args.loss_type, args.max_completion_length)
            ref_logp = old_logp = sampled_logp = (
                None  # old_logp None: before the first update it is logp itself, at no cost
            )
            if args.lora_r and args.lora_dropout:
                sampled_logp = logps(
                    prompts, targets, mask, policy
                )  # (B, T): the policy that was sampled from has none
            if reference:
                with reference as frozen:
                    ref_logp = logps(prompts, targets, mask, frozen)  # (B, T)

            # 5. a few clipped gradient steps, in micro-batches
            scale = update.lr_scale(step, max_steps, args.warmup_steps, args.lr_scheduler_type)
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * scale
            policy.train()
            clipped = []
            for iteration in range(args.num_iterations):
                optimizer.zero_grad()
                loss, now, spread = 0.0, torch.zeros_like(mask), torch.zeros_like(mask)
                for a, b, first, last, counts in data.micro_batches(
                    len(targets), args.micro_batch_size, [G] * N
                ):
                    batch = data.collate(
                        prompts[first:last], targets[a:b], mask[a:b], counts, policy.device
                    )
                    logp, entropy = token_logps(
                        policy, batch, args.temperature, suppress, entropy=True
                    )
                    old = logp.detach() if old_logp is None else old_logp[a:b].to(logp)
                    term, _ = losses.LOSSES[args.loss_type]
                    per_token = term(logp, old, adv[a:b].to(logp), args.epsilon, args.epsilon_high)
                    if reference:
                        per_token = per_token + args.beta * losses.kl_k3(
                            logp, ref_logp[a:b].to(logp)
                        )
                    part = losses.aggregate(per_token, weights[a:b].to(logp))
                    part.backward()
                    loss, now[a:b], spread[a:b] = (
                        loss + part.item(),
                        logp.detach().cpu(),
                        entropy.cpu(),
                    )
                clipped.append(
                    losses.clip_ratio(
                        now,
                        now if old_logp is None else old_logp,
                        adv,
                        counted,
                        args.epsilon,
                        args.epsilon_high,
                    )
                )
                if iteration == 0:
                    first_entropy = spread
                    first_logp, computed = now, now if sampled_logp is None else sampled_logp
                    gap, agrees = check_agreement(roll.logp, computed, mask, step + 1)
                    old_logp = roll.logp if agrees else computed  # for further updates
                grad_norm = update.clip_gradient(trained, args.max_grad_norm, step + 1)
                optimizer.step()
            step += 1

            # 6. log, evaluate, save
            seconds, tokens = time.perf_counter() - started, int(mask.sum())
            metrics = {
                "loss": loss,
                "reward": scores.mean(),
                "reward_std": scores.view(N, G).std(1).mean(),
                **{f"rewards/{name}": sum(values) / len(values) for name, values in parts.items()},
                **{f"rewards/{name}/failed": count for name, count in failed.items()},
                "rewards/undecided": answers.undecided() - undecided,
                "adv_abs": adv.abs().mean(),
                "frac_reward_zero_std": losses.frac_reward_zero_std(scores, G),
                "grad_norm": grad_norm,
                "learning_rate": args.learning_rate * scale,
                "entropy": losses.masked_mean(first_entropy, counted),
                "kl": losses.masked_mean(losses.kl_k3(first_logp, ref_logp), counted)
                if reference
                else 0.0,
                **{
                    f"clip_ratio/{k}": sum(c[k] for c in clipped) / len(clipped) for k in clipped[0]
                },
                "completions/mean_length": roll.lengths.float().mean(),
                "completions/max_length": roll.lengths.max(),
                "completions/clipped_ratio": 1 - finished.float().mean(),
                "completions/reflection_words": sum(map(reflections, completions))
                / len(completions),
                **{f"sampling_logp_difference/{k}": v for k, v in gap.items()},
                **({"old_logp_from_rollout": agrees} if args.num_iterations > 1 else {}),
                "step_time": seconds,
                "rollout_time": rollout_seconds,
                "reward_time": reward_seconds,
                "tokens_per_second": tokens / seconds,
            }
            look = step == 1 or step == max_steps or step % (args.eval_steps or 50) == 0
            if step == max_steps or args.eval_steps and step % args.eval_steps == 0:
                for name in eval_sets:
                    metrics |= evaluate(name)
            metrics = {k: float(v) for k, v in metrics.items()}
            bar.update()
            bar.set_postfix(reward=f"{metrics['reward']:.2f}")
            show = [
                "reward",
                *(f"rewards/{name}" for name in parts),
                "adv_abs",
                "frac_reward_zero_std",
                "grad_norm",
                "loss",
            ]
            log.log(
                step,
                metrics,
                show
                + [
                    f"eval/{name}/{k}"
                    for name in eval_sets
                    for k in ("accuracy", "iou")
                    if f"eval/{name}/{k}" in metrics
                ],
                step == max_steps,
            )
            if look:
                save_samples(out / "samples", step, chosen, completions, parts, adv, G)
                say(
                    f"  one of them: {chosen[0].question}  ->  {completions[0][:300]!r}  "
                    f"(answer {chosen[0].answer}, reward {float(scores[0]):g}, advantage {float(adv[0]):+.2f})"
                )
            leaving = (
                stop.requested
            )  # asked once: the step that is named below is the one that is saved here
            if leaving or step == max_steps or args.save_steps and step % args.save_steps == 0:
                rundir.save_checkpoint(
                    out,
                    step,
                    save_model,
                    {"optimizer": optimizer.state_dict()},
                    log,
                    args.save_total_limit,
                    model_bytes + state_bytes,
                    leaving,
                )
            if leaving:
                bar.close()
                stop.leave(f"stopped after step {step}; go on with --resume-from-checkpoint")
    bar.close()

    # ---- the end: publish, compare, draw -----------------------------------------------------------------------------------------
    rundir.publish(out, save_model, model_bytes)
    before, after, first = log.at(0), log.at(step), next(iter(eval_sets))
    if (
        f"eval/{first}/accuracy" not in after
    ):  # resumed to stop at a step that an earlier, longer run did not evaluate
        for name in eval_sets:
            after |= evaluate(name)
    panels = [
        (
            "greedy accuracy",
            [f"eval/{name}/{k}" for name in eval_sets for k in ("accuracy", "iou")],
        ),
        ("reward of the samples", [f"rewards/{name}" for name in args.reward_funcs]),
        ("signal", ["adv_abs", "frac_reward_zero_std", "grad_norm"]),
        ("nats per token", ["entropy", "kl"] if args.beta else ["entropy"]),
        ("tokens per completion", ["completions/mean_length"]),
        ("reflection words per completion (wait, re-check, ...)", ["completions/reflection_words"]),
    ]
    plots.plot_curve(
        log.lines,
        out / "curve.png",
        panels,
        f"train_grpo.py, {args.model}, {args.data}, {N} x {G}, seed {args.seed}",
    )
    plots.plot_before_after(
        out / "samples" / "before_after.png",
        first,
        eval_sets[first],
        records.read_lines(eval_file(first, 0)),
        records.read_lines(eval_file(first, step)),
    )
    only_eval = lambda line: {k: v for k, v in line.items() if k.startswith("eval/")}
    disk.write_json(
        out / "result.json",
        {
            "accuracy": after[f"eval/{first}/accuracy"],
            "n": int(after[f"eval/{first}/n"]),
            "accuracy_before": before[f"eval/{first}/accuracy"],
            "data": first,
            "steps": step,
            "before": only_eval(before),
            "after": only_eval(after),
        },
    )
    print(
        f"\n{'greedy accuracy':<28}{'before':>8}{'after':>8}   95 % interval   readable answers only   format"
    )
    for name in eval_sets:
        b, a = (
            {k.rsplit("/", 1)[1]: v for k, v in line.items() if k.startswith(f"eval/{name}/")}
            for line in (before, after)
        )
        print(
            f"{name + ' (' + str(int(a['n'])) + ')':<28}{b['accuracy']:>8.3f}{a['accuracy']:>8.3f}   {a['accuracy_low']:.3f} - {a['accuracy_high']:.3f}   "
            f"{b['accuracy_parsed']:.3f} -> {a['accuracy_parsed']:.3f}          {b['format_rate']:.3f} -> {a['format_rate']:.3f}"
            + (f"\n{'  mean IoU':<28}{b['iou']:>8.3f}{a['iou']:>8.3f}" if "iou" in a else "")
        )
    print(
        f"the model is in {out}, the curve in {out}/curve.png, answers before and after in {out}/samples/before_after.png"
    )


def check_agreement(sampling_logp, logp, mask, step):
    """(losses.logp_difference, losses.rollout_agrees) of the same tokens under the same weights, once as sampled and once as the update computes them, which differ by
    rounding alone. Says so above a KL of 1e-3 nats a token; above 1e-2, where the completions are as good as another policy's, UserError."""
    gap = losses.logp_difference(sampling_logp, logp, mask)
    if not gap["k3"] <= 1e-3:  # so that nan does not pass
        text = f"step {step}: rollout and update disagree about the same tokens: KL {gap['k3']:.1e} nats a token, largest difference of log-probs {gap['max']:.2f}"
        if not gap["k3"] <= 1e-2:
            raise UserError(
                f"{text}. What would be learned from is another policy's; use --dtype float32 or a higher --temperature, and report this"
            )
        say(f"  warning: {text} (in bfloat16 a low --temperature is enough for that)")
    return gap, losses.rollout_agrees(sampling_logp, logp, mask)


def save_samples(directory, step, chosen, completions, parts, adv, G):
    """samples/step_N.jsonl: every completion of the step with its scores. samples/step_N.png: some of them, beside what the model saw."""
    scores = [{name: values[b] for name, values in parts.items()} for b in range(len(completions))]
    disk.write_lines(
        directory / f"step_{step:06d}.jsonl",
        [
            {
                "id": chosen[b // G].id,
                "question": chosen[b // G].question,
                "answer": chosen[b // G].answer,
                "completion": completions[b],
                **scores[b],
                "advantage": float(adv[b]),
            }
            for b in range(len(completions))
        ],
    )
    rows = []
    for n, e in enumerate(chosen[:6]):
        some = range(n * G, n * G + min(3, G))
        rows.append(
            {
                "images": plots.images_for_a_sheet(e),
                "boxes": boxes.drawn_boxes(e, *(completions[b] for b in some)),
                "question": e.question,
                "answer": e.answer,
                "completions": [(completions[b], scores[b]) for b in some],
            }
        )
    plots.plot_samples(
        rows,
        directory / f"step_{step:06d}.png",
        f"step {step}: sampled completions and their rewards",
    )


if __name__ == "__main__":
    running.run(main, parse_args)
