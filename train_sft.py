"""Supervised stage: teach a Qwen2-VL to imitate worked answers to questions about pictures.

    loss = - sum over response tokens of log pi(token | picture, question, tokens before) / number of response tokens       (--per-example: in each response, then their mean)

The loss is on the response alone, its end-of-turn token included. Differences from R1-V's SFT script: the prompt is masked out of the loss,
no generation prompt follows the answer, images come before the text as they do in RL, and samples are not packed.

On a laptop (tiny model, about seven minutes on two cores; its teacher is fallible on purpose, see tasks/toy.py):
    python train_sft.py --model tiny --data count --learning-rate 2e-3 --max-steps 1000 --output-dir runs/sft
On a GPU (QLoRA; the projector alone, as LLaVA's first stage, is --lora-r 0 --freeze-vision --freeze-llm):
    python train_sft.py --model Qwen/Qwen2-VL-2B-Instruct --quant nf4 --data warmup.jsonl --gradient-checkpointing --output-dir runs/sft
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import time
from pathlib import Path

import torch
from tqdm import tqdm

import data
import logps
import losses
import model as modeling
import rewards
import rollout
import tasks
import update
from grading import boxes
from plumbing import device, disk, flags, plots, rundir, running, stopping
from plumbing.arguments import write_args
from plumbing.log import MetricsLog, metrics_of
from tasks import teacher


def parse_args(argv=None):
    p = flags.Parser(__doc__, "train_sft.py")
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    g = flags.add_data_flags(p)
    g.add_argument(
        "--teacher",
        choices=teacher.TEACHERS,
        default="fallible",
        help="toy tasks: whose solutions to imitate; fallible overlooks things and leaves RL something to mend",
    )
    g.add_argument("--batch-size", type=flags.int_from_1, default=32, help="examples per step")
    g.add_argument(
        "--max-completion-length",
        type=flags.int_from_1,
        default=512,
        help="longest response to train on or generate, in tokens",
    )
    g.add_argument(
        "--per-example",
        action="store_true",
        default=False,
        help="every example counts the same; default: every token",
    )
    flags.add_optimization_flags(p, "peak learning rate; default: 1e-4 with LoRA, 1e-5 without")
    flags.add_evaluation_flags(p)
    flags.add_output_flags(p)
    p.set_defaults(micro_batch_size=32)
    return p.parse_args(argv)


def main(args):
    # ---- setup: everything that can be wrong is found out before the first step --------------------------------------------------
    resume = rundir.open_output_dir(args)
    vars(args).update(data.ask_as_trained(args))
    examples = tasks.read(
        args.data,
        args.seed,
        args.level,
        args.teacher,
        args.box_format,
        args.min_pixels,
        args.max_pixels,
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
    for some in eval_sets.values():
        data.check_golds(some, rewards.check_gold)
    max_steps = data.steps_of(
        args.max_steps, args.num_train_epochs, args.data, examples, args.batch_size
    )

    # ---- model -------------------------------------------------------------------------------------------------------------------
    policy, processor = modeling.load_from_args(args, train=True, resume=resume)
    if args.learning_rate is None:
        args.learning_rate = 1e-4 if args.lora_r else 1e-5
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    greedy = rollout.Sampling(args.max_completion_length, temperature=0)
    encode = lambda example: (
        asker.prompt(example, args.max_completion_length),
        asker.target(example, args.max_completion_length),
    )
    asker.check(examples, args.max_completion_length, targets=True)
    for some in eval_sets.values():
        asker.check(some, args.max_completion_length)
    # beta2 0.95, as small language models are usually trained: the second moment follows the sudden turns of early learning.
    optimizer = update.make_optimizer(
        args.optim,
        [q for q in policy.parameters() if q.requires_grad],
        args.learning_rate,
        betas=(0.9, 0.95),
    )
    step = 0
    if resume:
        state = rundir.load_state(resume)
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        del state  # the optimizer has it now
    write_args(args.output_dir, args)
    log = MetricsLog(args.output_dir, metrics_of(resume), args.report_to, args.logging_steps)
    rundir.set_aside_later(args.output_dir, resume)
    model_bytes = modeling.saved_bytes(policy, processor)
    state_bytes = update.optimizer_bytes(optimizer)
    disk.announce(args.output_dir, rundir.to_write(args, model_bytes, state_bytes, max_steps))
    print(f"model: {modeling.describe(policy)}")
    how_many = "endless, drawn here" if data.is_endless(examples) else f"{len(examples)} examples"
    print(f"data: {args.data} ({how_many}), {args.batch_size} examples a step, {max_steps} steps")
    print(
        "The loss counts response tokens only. It falls fast while the model learns to write, then slowly, then fast again when it learns to look."
    )

    def evaluate(name, sheet):
        texts, _, _ = rollout.answer_all(
            policy,
            asker,
            eval_sets[name],
            greedy,
            describe=f"asking {name}",
            batch_size=args.eval_batch_size,
        )
        if sheet:
            rows = [
                {
                    "images": plots.images_for_a_sheet(e),
                    "question": e.question,
                    "answer": e.answer,
                    "boxes": boxes.drawn_boxes(e, text),
                    "completions": [(text, rewards.marks(text, e))],
                }
                for e, text in zip(eval_sets[name][:8], texts)
            ]
            plots.plot_samples(
                rows,
                Path(args.output_dir) / "samples" / f"step_{step:06d}.png",
                f"greedy answers on {name}, step {step}",
            )
        return {f"eval/{name}/{k}": v for k, v in rewards.summary(texts, eval_sets[name]).items()}

    def save_model(directory):
        modeling.save(policy, processor, directory)
        write_args(directory, args)

    def save(leaving):
        rundir.save_checkpoint(
            args.output_dir,
            step,
            save_model,
            {"optimizer": optimizer.state_dict()},
            log,
            args.save_total_limit,
            model_bytes + state_bytes,
            leaving,
        )

    # ---- loop --------------------------------------------------------------------------------------------------------------------
    bar = tqdm(total=max_steps, initial=step, desc="sft", unit="step")
    with stopping.Stop() as stop:
        while step < max_steps:
            started = time.perf_counter()
            device.seed_everything(args.seed, step)

            # 1. a batch: prompts, and what to say
            encoded = [
                encode(e)
                for e in data.take(examples, step * args.batch_size, args.batch_size, args.seed)
            ]
            encoded.sort(
                key=lambda e: len(e[0].ids) + len(e[1])
            )  # micro-batches of about one length: less padding
            prompts, rows = zip(*encoded)
            targets, mask = data.pad_targets(rows, processor.special.pad_id)  # (B, T)
            weights = (
                losses.seq_mean(mask) if args.per_example else losses.sft_weights(mask)
            )  # (B, T), of the whole batch

            # 2. log-probs and gradient, a few rows at a time
            scale = update.lr_scale(step, max_steps, args.warmup_steps, args.lr_scheduler_type)
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * scale
            policy.train()
            optimizer.zero_grad()
            loss = 0.0
            for a, b, first, last, counts in data.micro_batches(
                len(rows), args.micro_batch_size, [1] * len(rows)
            ):
                batch = data.collate(
                    prompts[first:last], targets[a:b], mask[a:b], counts, policy.device
                )
                logp = logps.token_logps(policy, batch, suppress=processor.special.vision_ids)
                part = losses.aggregate(losses.nll(logp), weights[a:b].to(policy.device))
                part.backward()
                loss += part.item()
            grad_norm = update.clip_gradient(policy.parameters(), args.max_grad_norm, step + 1)

            # 3. update
            optimizer.step()
            step += 1

            # 4. log, evaluate, save
            seconds = time.perf_counter() - started
            metrics = {
                "loss": loss,
                "perplexity": float(torch.tensor(loss).exp()),
                "grad_norm": grad_norm,
                "learning_rate": args.learning_rate * scale,
                "step_time": seconds,
                "tokens_per_second": float(mask.sum()) / seconds,
            }
            if step == max_steps or args.eval_steps and step % args.eval_steps == 0:
                for name in eval_sets:
                    metrics |= evaluate(name, sheet=name == next(iter(eval_sets)))
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            log.log(
                step,
                metrics,
                ["loss", "grad_norm", "learning_rate", *(f"eval/{n}/accuracy" for n in eval_sets)],
                step == max_steps,
            )
            leaving = (
                stop.requested
            )  # asked once: the step that is named below is the one that is saved here
            if leaving or step == max_steps or args.save_steps and step % args.save_steps == 0:
                save(leaving)
            if leaving:
                bar.close()
                stop.leave(f"stopped after step {step}; go on with --resume-from-checkpoint")
    bar.close()

    # ---- the end: measure, publish, draw -----------------------------------------------------------------------------------------
    rundir.publish(args.output_dir, save_model, model_bytes)
    final = log.at(step)
    if (
        f"eval/{next(iter(eval_sets))}/accuracy" not in final
    ):  # resumed to stop at a step that an earlier, longer run did not evaluate
        for name in eval_sets:
            final |= evaluate(name, sheet=name == next(iter(eval_sets)))
    curve = Path(args.output_dir) / "curve.png"
    panels = [
        ("loss", ["loss"]),
        ("gradient norm", ["grad_norm"]),
        ("greedy accuracy", [f"eval/{name}/accuracy" for name in eval_sets]),
    ]
    plots.plot_curve(log.lines, curve, panels, f"train_sft.py, {args.model}, {args.data}")
    first = next(iter(eval_sets))
    disk.write_json(
        Path(args.output_dir) / "result.json",
        {
            "accuracy": final[f"eval/{first}/accuracy"],
            "n": int(final[f"eval/{first}/n"]),
            "data": first,
            "steps": step,
            **{k: v for k, v in final.items() if k.startswith("eval/")},
        },
    )
    for name in eval_sets:
        print(
            f"{name}: accuracy {final[f'eval/{name}/accuracy']:.3f} of {int(final[f'eval/{name}/n'])} greedy answers, format {final[f'eval/{name}/format_rate']:.3f}"
            + (f", mean IoU {final[f'eval/{name}/iou']:.3f}" if f"eval/{name}/iou" in final else "")
        )
    print(
        f"the model is in {args.output_dir}; what it said is in {args.output_dir}/samples, the curve in {curve}"
    )


if __name__ == "__main__":
    running.run(main, parse_args)
