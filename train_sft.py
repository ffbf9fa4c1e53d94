"""Supervised stage: teach a Qwen2-VL to imitate worked answers to questions about pictures.

    loss = - sum over response tokens of log pi(token | picture, question, tokens before) / count

With --per-example it is the mean of each response, then of all. The end-of-turn token counts too.
Differences from R1-V's SFT script: the prompt is masked out of the loss, no generation prompt
follows the answer, and samples are not packed. Of a conversation all answers are learned.

On a laptop (tiny model, about seven minutes on two cores; its teacher errs on purpose, see
tasks/teacher.py):
    python train_sft.py --model tiny --data count --learning-rate 2e-3 --max-steps 1000 \\
        --output-dir runs/sft
On a GPU (QLoRA; the projector alone, as LLaVA's first stage, is --lora-r 0 --freeze-vision
--freeze-llm):
    python train_sft.py --model Qwen/Qwen2-VL-2B-Instruct --quant nf4 --data warmup.jsonl \\
        --gradient-checkpointing --output-dir runs/sft
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import batching
import data
import lengths
import logps
import losses
import model
import rewards
import rollout
import tasks
import update
from heldout import with_answers
from plumbing import device, disk, flags, loading, plots, report, results, rundir, running, stopping
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.run import Run
from tasks import kept, sheets, teacher
from tasks.example import Example


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "train_sft.py")
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    g = flags.add_data_flags(p)
    g.add_argument(
        "--teacher",
        choices=teacher.TEACHERS,
        default="fallible",
        help="toy tasks: whose solutions to imitate; fallible overlooks things "
        "and leaves RL something to fix",
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


def encode(
    asker: data.Asker, limit: int, example: Example
) -> tuple[data.Prompt, torch.Tensor, torch.Tensor]:
    """Encode what is learned from an example: prompt, targets (T,), learned (T,)."""
    return asker.lesson(example, limit, limit)


def evaluate(
    ask: Callable, eval_sets: dict[str, list], step: int, folder: Path
) -> dict[str, float]:
    """Score and keep greedy answers to the held-out sets, and draw some: {metric: value}."""
    metrics = {}
    for name, examples in eval_sets.items():
        texts, _, _ = ask(examples, describe=f"asking {name}")
        if not metrics:
            draw_answers(name, examples, texts, step, folder / f"step_{step:06d}.png")
        kept.keep_answers(folder, list(eval_sets), name, step, examples, texts)
        scores = rewards.summary(texts, examples)
        metrics |= {f"eval/{name}/{key}": value for key, value in scores.items()}
    return metrics


def draw_answers(name: str, examples: list, texts: list[str], step: int, path: Path) -> None:
    """Draw a sheet of the first eight questions, with what the model saw and answered."""
    rows = [
        sheets.sheet_row(example, [(text, rewards.marks(text, example))], [text])
        for example, text in zip(examples[:8], texts)
    ]
    plots.plot_samples(rows, path, f"greedy answers on {name}, step {step}")


def main(args: argparse.Namespace) -> None:
    # --- setup: what can be wrong is found out before the first step ---
    resume = rundir.open_output_dir(args)
    N, out = args.batch_size, Path(args.output_dir)
    vars(args).update(data.ask_as_trained(args))
    bad = BadRecords(args.skip_bad_records)
    reading = data.reading(args, bad)
    examples = tasks.read(
        args.data, args.seed, teacher=args.teacher, needs_answer=False, training=True, **reading
    )
    is_named = bool(args.eval_data)
    if not is_named and data.has_golds(examples):
        args.eval_data = data.default_eval(args.data)
    found = data.read_eval(
        args.eval_data or [], {args.data: examples}, args.max_eval_samples, **reading
    )
    eval_sets = with_answers(found, rewards.check_gold, bad)
    for name, held_out in found.items():
        if is_named and name not in eval_sets:
            raise UserError(
                f"{held_out[0].source}: --eval-data needs a gold answer; name other questions, or "
                "omit the flag to train without measuring accuracy"
            )
    if not eval_sets:
        print(
            f"{args.data} has no gold answers: accuracy cannot be measured; "
            "name questions that have them as --eval-data"
        )
    data.must_end(args.max_steps, args.data, examples)

    # --- model ---
    vars(args).update(model.resolve(args, train=True))
    policy, processor = model.load_from_args(args, train=True, resume=resume)
    if args.learning_rate is None:
        args.learning_rate = 1e-4 if args.lora_r else 1e-5
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    limit = args.max_completion_length
    examples = lengths.fitting(asker, examples, limit, targets=True, bad=bad)
    eval_sets = lengths.fitting_sets(asker, eval_sets, limit, bad)
    bad.report(out)
    max_steps = data.steps_of(args.max_steps, args.num_train_epochs, examples, N)
    suppress = processor.special.vision_ids
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    # beta2 0.95, as usual for small language models: the second moment follows sudden turns.
    optimizer = update.make_optimizer(args.optim, trained, args.learning_rate, betas=(0.9, 0.95))
    save_model = partial(model.save, policy, processor)
    model_bytes = model.saved_bytes(policy, processor)
    greedy = rollout.Sampling(limit, temperature=0)
    args.num_workers = loading.workers(args.num_workers, data.is_toy(args.data), policy.device)
    ask = partial(rollout.answer_all, policy, asker, sampling=greedy)
    ask = partial(ask, batch_size=args.eval_batch_size, num_workers=args.num_workers)
    accuracies = [f"eval/{name}/accuracy" for name in eval_sets]

    # --- loop ---
    with Run(
        args, save_model, model_bytes, optimizer, resume, title="sft", page=report.write
    ) as run:
        disk.announce(out, rundir.to_write(args, model_bytes, run.state_bytes, max_steps))
        kept.keep_sets(out / "samples", eval_sets)
        count = "endless, drawn here" if data.is_endless(examples) else f"{len(examples)} examples"
        print(f"model: {model.describe(policy)}; prompt template {args.prompt_template}")
        print(f"data: {args.data} ({count}), {N} examples a step, {max_steps} steps")
        print(
            "The loss counts response tokens only. It falls fast while the model learns to write, "
            "then slowly, then fast again when it learns to look."
        )
        both, todo = partial(encode, asker, limit), range(run.step + 1, max_steps + 1)
        ahead = data.batches_ahead(both, examples, todo, N, args.seed, args.num_workers)
        batches = run.enter_context(ahead)
        for step in run.steps(max_steps):
            started = time.perf_counter()
            device.seed_everything(args.seed, step - 1)

            # 1. a batch: prompts, and what to answer
            lessons = next(batches)
            waited = time.perf_counter() - started
            # In micro-batches of about one length, prompts have less padding.
            lessons.sort(key=lambda lesson: len(lesson[0].ids) + len(lesson[1]))
            prompts, rows, learned = zip(*lessons)
            targets, mask = batching.pad_targets(rows, processor.special.pad_id, learned)  # (B, T)
            weights = losses.sft_weights(mask, args.per_example)  # (B, T), of the whole batch

            # 2. log-probs and gradient, a few rows at a time
            policy.train()
            optimizer.zero_grad()
            loss = 0.0
            pieces = batching.micro_batches(N, args.micro_batch_size, [1] * N)
            for a, b, first, last, counts in pieces:
                batch = batching.collate(
                    prompts[first:last], targets[a:b], mask[a:b], counts, policy.device
                )
                logp = logps.token_logps(policy, batch, suppress=suppress)  # (b - a, T)
                part = losses.aggregate(losses.nll(logp), weights[a:b].to(policy.device))
                part.backward()
                loss += part.item()

            # 3. update
            grad_norm = update.clip_gradient(trained, args.max_grad_norm, step)
            optimizer.step()

            # 4. log and evaluate
            seconds = time.perf_counter() - started
            metrics = {
                "loss": loss,
                "perplexity": float(torch.tensor(loss).exp()),
                "grad_norm": grad_norm,
                "learning_rate": run.learning_rate,
                "step_time": seconds,
                "data_time": waited,
                "tokens_per_second": float(mask.sum()) / seconds,
            }
            if run.due(args.eval_steps):
                metrics |= evaluate(ask, eval_sets, step, out / "samples")
            run.log(metrics, ["loss", "grad_norm", "learning_rate", *accuracies])

    # --- the end: publish, measure, draw ---
    run.publish()
    final = run.history.at(run.step)
    if accuracies and accuracies[0] not in final:
        # It was resumed to stop at a step that an earlier, longer run did not evaluate.
        final |= evaluate(ask, eval_sets, run.step, out / "samples")
    panels = [("loss", ["loss"]), ("gradient norm", ["grad_norm"]), ("greedy accuracy", accuracies)]
    title = f"train_sft.py, {args.model}, {args.data}"
    plots.plot_curve(run.history.lines, out / "curve.png", panels, title)
    results.save_after(final, list(eval_sets), run.step, out)
    report.write(out)
    print(
        f"the model is in {out}; what it said is in {out}/samples, the curve in {out}/curve.png, "
        f"all of it in {out}/report.html"
    )


if __name__ == "__main__":
    running.run(main, parse_args)
