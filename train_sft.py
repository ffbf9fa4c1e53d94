"""Supervised stage: teach a Qwen2-VL to imitate worked answers to questions about pictures.

    loss = - sum over response tokens of log pi(token | picture, question, tokens before) / count

With --per-example it is the mean of each response, then of all. The end-of-turn token counts too.
Differences from R1-V's SFT script: the prompt is masked out of the loss, no generation prompt
follows the answer, and samples are not packed. Of a conversation all answers are learned.
docs/training.md has NEFTune, mixtures, growing pictures and merged questions.

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
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import batching
import curriculum
import data
import experts
import lengths
import logps
import losses
import merging
import model
import rewards
import rollout
import tasks
import update
from evaluating.golds import with_answers
from plumbing import device, disk, flags, loading, plots, ranks, report, results, rundir, running
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.run import Run
from tasks import kept, sheets, teacher


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "train_sft.py", "training.md")
    flags.add_model_flags(p, growing=True)
    flags.add_training_flags(p)
    g = flags.add_data_flags(p, several=True)
    add_choosing_flags(g)
    g.add_common(
        "--teacher",
        choices=teacher.TEACHERS,
        default="fallible",
        help="toy tasks: whose solutions to imitate; fallible overlooks things "
        "and leaves RL something to fix (a model as teacher is distill.py's)",
    )
    g.add_common("--batch-size", type=flags.int_from_1, default=32, help="examples per step")
    g.add_common(
        "--max-completion-length",
        type=flags.int_from_1,
        default=512,
        help="longest response to train on or generate, in tokens",
    )
    g.add_common(
        "--per-example",
        action="store_true",
        default=False,
        help="every example counts the same; default: every token",
    )
    g = flags.add_optimization_flags(p, "peak learning rate; default: 1e-4 with LoRA, 1e-5 without")
    g.add_argument(
        "--neftune-noise-alpha",
        type=flags.not_negative,
        help="NEFTune: noise on the input embeddings while training, uniform within "
        "alpha / sqrt(tokens x width); 5 is usual; default: none",
    )
    flags.add_evaluation_flags(p)
    flags.add_output_flags(p)
    p.set_defaults(micro_batch_size=32)
    args = p.parse_args(argv)
    check_choosing(p, args)
    if len(args.data) == 1:
        args.data = args.data[0]
    args.max_pixels_growth = None
    if isinstance(args.max_pixels, str):
        args.max_pixels_growth = args.max_pixels
        args.max_pixels = int(args.max_pixels.partition(":")[2])
    return args


def add_choosing_flags(g: flags.Group) -> None:
    """What is learned when: mixtures, conversations, groups of one length."""
    g.add_common(
        "--mixture-weights",
        nargs="+",
        type=flags.above_0,
        metavar="W",
        help="one weight per --data: the share of the answer tokens that comes from each, of any "
        "sum; default: every example once an epoch",
    )
    g.add_argument(
        "--merge-same-image",
        action="store_true",
        help="make one conversation of the questions on a picture, up to --max-completion-length "
        "tokens after the first question: the picture is read once",
    )
    g.add_argument(
        "--group-by-length",
        action="store_true",
        help="examples of about one length share a step: less padding; an epoch stays what it is",
    )


def check_choosing(p: flags.Parser, args: argparse.Namespace) -> None:
    """Refuse mixtures and merges that mean nothing."""
    if len(set(args.data)) < len(args.data):
        p.error("--data names a set twice; raise its weight in --mixture-weights instead")
    if (args.neftune_noise_alpha or 0) > 1e6:
        p.error("--neftune-noise-alpha is far above what can be learned through; 5 is usual")
    if args.mixture_weights and len(args.data) == 1:
        p.error("--mixture-weights has no meaning with one --data; name several, or omit it")
    if args.mixture_weights and len(args.mixture_weights) != len(args.data):
        p.error(
            f"--mixture-weights needs one weight for each --data: {len(args.data)}, "
            f"got {len(args.mixture_weights)}"
        )
    is_toy = any(map(data.is_toy, args.data))
    if is_toy and len(args.data) > 1 and not args.mixture_weights:
        p.error(
            "--data names a toy task, which never ends, beside other sets; say with "
            "--mixture-weights how much of each"
        )
    if is_toy and args.merge_same_image:
        p.error(
            "--merge-same-image has nothing to merge in a toy task, where each question has a "
            "picture of its own; omit it"
        )


def encode(
    asker: data.Asker, limit: int, lesson: curriculum.Lesson
) -> tuple[data.Prompt, torch.Tensor, torch.Tensor, int]:
    """Encode what is learned from an example: prompt, targets (T,), learned (T,), its source."""
    if lesson.max_pixels:
        asker = replace(asker, processor=asker.processor.limited(lesson.max_pixels))
    return *asker.lesson(lesson.example, limit, limit), lesson.source


def in_order(lessons: list[tuple]) -> tuple[list[tuple], list[tuple], torch.Tensor]:
    """Sort a step's lessons by length: in micro-batches of one length, prompts have less padding.

    lessons: of `encode`, this process's share of the step.
    Returns them sorted; of the lessons of all processes all but the prompt, sorted; and where in
    these its own are.
    """
    lengths = [len(prompt.ids) + len(target) for prompt, target, *_ in lessons]
    found = ranks.gathered([(n, *rest) for n, (_, *rest) in zip(lengths, lessons)])
    every = list(itertools.chain.from_iterable(found))
    order = sorted(range(len(every)), key=lambda place: every[place][0])
    first = sum(map(len, found[: ranks.rank()]))
    rows, own = [], []
    for row, place in enumerate(order):
        if first <= place < first + len(lessons):
            rows.append(row)
            own.append(lessons[place - first])
    return own, [every[place][1:] for place in order], torch.tensor(rows, dtype=torch.long)


def pieces_of(
    args: argparse.Namespace,
    policy: torch.nn.Module,
    lessons: list[tuple],
    targets: torch.Tensor,
    mask: torch.Tensor,
    places: torch.Tensor,
    step: int,
) -> Iterator[tuple[torch.Tensor, dict]]:
    """Yield (rows, batch) of every micro-batch of a step, with --neftune-noise-alpha's noise.

    lessons: of this process. places: of each, its row in targets and mask, which are of all.
    The noise is drawn by (seed, step, row) alone: a resumed run, or one of other micro-batches,
    draws the same.
    """
    prompts = [prompt for prompt, *_ in lessons]
    size, own = args.micro_batch_size, (targets[places], mask[places])
    for cut, batch in batching.pieces(prompts, *own, size, policy.device):
        rows = places[cut]
        if args.neftune_noise_alpha:
            tokens = [len(prompt.ids) + len(target) for prompt, target, *_ in lessons[cut]]
            names = [f"neftune {args.seed} {step} {row}" for row in rows.tolist()]
            seeds = [random.Random(name).getrandbits(63) for name in names]
            width = logps.core_of(policy).config.text_config.hidden_size
            shape = batch["input_ids"].shape[1], width
            alpha = args.neftune_noise_alpha
            batch["noise"] = logps.neftune_noise(tokens, seeds, alpha, shape, policy.device)
        yield rows, batch


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
    is_fixed = bool(args.max_pixels) and not args.max_pixels_growth
    resume, decided = rundir.open_together(args)
    vars(args).update(decided)
    N, out = args.batch_size, Path(args.output_dir)
    vars(args).update(data.ask_as_trained(args))
    curriculum.check_growth(args, is_fixed)
    specs = [args.data] if isinstance(args.data, str) else args.data
    shown = " ".join(specs)
    bad = BadRecords(args.skip_bad_records)
    reading = data.reading(args, bad)
    read = partial(tasks.read, teacher=args.teacher, needs_answer=False, training=True, **reading)
    sources = {spec: read(spec, args.seed) for spec in specs}
    is_named = bool(args.eval_data)
    with_golds = [spec for spec in specs if data.has_golds(sources[spec])]
    if not is_named and with_golds:
        args.eval_data = data.default_eval(*with_golds)
    found = data.read_eval(args.eval_data or [], sources, args.max_eval_samples, **reading)
    eval_sets = with_answers(found, rewards.check_gold, bad)
    for name, held_out in found.items():
        if is_named and name not in eval_sets:
            raise UserError(
                f"{held_out[0].source}: --eval-data needs a gold answer; name other questions, or "
                "omit the flag to train without measuring accuracy"
            )
    if not eval_sets:
        print(
            f"{shown} has no gold answers: accuracy cannot be measured; "
            "name questions that have them as --eval-data"
        )
    for spec, examples in sources.items():
        data.must_end(args.max_steps, spec, examples)

    # --- model ---
    vars(args).update(model.resolve(args, train=True))
    policy, processor = model.load_from_args(args, train=True, resume=resume)
    if args.learning_rate is None:
        args.learning_rate = 1e-4 if args.lora_r else 1e-5
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    limit = args.max_completion_length
    for spec, examples in sources.items():
        sources[spec] = lengths.fitting(asker, examples, limit, targets=True, bad=bad)
    eval_sets = lengths.fitting_sets(asker, eval_sets, limit, bad)
    bad.report(out)
    if args.merge_same_image:
        sources = {spec: merging.merged(asker, e, limit) for spec, e in sources.items()}
    plan = curriculum.of(args, asker, sources)
    max_steps = data.steps_of(args.max_steps, args.num_train_epochs, plan.epoch, N)
    suppress = processor.special.vision_ids
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    # beta2 0.95, as usual for small language models: the second moment follows sudden turns.
    optimizer = update.make_optimizer(args.optim, trained, args.learning_rate, betas=(0.9, 0.95))
    save_model = partial(model.save, policy, processor)
    model_bytes = model.saved_bytes(policy, processor)
    greedy = rollout.Sampling(limit, temperature=0)
    args.num_workers = loading.workers(
        args.num_workers, all(map(data.is_toy, specs)), policy.device
    )
    ask = partial(rollout.answer_together, policy, asker, sampling=greedy)
    ask = partial(ask, batch_size=args.eval_batch_size, num_workers=args.num_workers)
    measure = partial(evaluate, ask, eval_sets, folder=out / "samples")
    hooks = {"page": report.write, "measure": measure}
    accuracies = [f"eval/{name}/accuracy" for name in eval_sets]

    # --- loop ---
    with Run(args, save_model, model_bytes, optimizer, resume, title="sft", **hooks) as run:
        disk.announce(out, rundir.to_write(args, model_bytes, run.state_bytes, max_steps))
        kept.keep_sets(out / "samples", eval_sets)
        count = f"{len(plan.epoch)} examples" if plan.epoch else "endless, drawn here"
        print(f"model: {model.describe(policy)}; prompt template {args.prompt_template}")
        print(f"data: {shown} ({count}), {N} examples a step, {max_steps} steps")
        print(
            "The loss counts response tokens only. It falls fast while the model learns to write, "
            "then slowly, then fast again when it learns to look."
        )
        both = partial(encode, asker, limit)
        ahead = plan.batches_ahead(both, run.step, max_steps, args.num_workers)
        batches = run.enter_context(ahead)
        for step in run.steps(max_steps):
            started = time.perf_counter()
            device.seed_everything(args.seed, step - 1)

            # 1. a batch: prompts, and what to answer
            lessons = next(batches)
            waited = time.perf_counter() - started
            lessons, rest, places = in_order(lessons)
            texts, learned, origins = zip(*rest)
            targets, mask = batching.pad_targets(texts, processor.special.pad_id, learned)  # (B, T)
            weights = losses.sft_weights(mask, args.per_example)  # (B, T), of the whole batch

            # 2. log-probs and gradient, a few rows at a time
            policy.train()
            optimizer.zero_grad()
            loss = 0.0
            pieces = partial(pieces_of, args, policy, lessons, targets, mask, places, step)
            balance = experts.Balance(policy, args.router_aux_loss_coef, pieces)
            for rows, batch in pieces():
                with balance.watching(batch):
                    logp = logps.token_logps(policy, batch, suppress=suppress)  # (rows, T)
                part = losses.aggregate(losses.nll(logp), weights[rows].to(policy.device))
                (part + balance.cost()).backward()
                loss += part.item()
            loss = sum(ranks.gathered(loss))
            ranks.sum_gradients(trained)

            # 3. update
            grad_norm = update.clip_gradient(trained, args.max_grad_norm, step)
            optimizer.step()

            # 4. log, and evaluate if that is due
            seconds = time.perf_counter() - started
            metrics = {
                "loss": loss,
                "perplexity": float(torch.tensor(loss).exp()),
                **balance.metrics(),
                "grad_norm": grad_norm,
                "learning_rate": run.learning_rate,
                "step_time": seconds,
                "data_time": waited,
                "tokens_per_second": float(mask.sum()) / seconds,
            }
            metrics |= curriculum.logged_shares(specs, origins, mask.sum(1).tolist())
            run.log(metrics, ["loss", "grad_norm", "learning_rate", *accuracies])

    # --- the end: publish, measure, draw ---
    run.publish()
    final = run.history.at(run.step)
    if accuracies and accuracies[0] not in final:
        # It was resumed to stop at a step that an earlier, longer run did not evaluate.
        final |= measure(run.step)
    if ranks.rank():
        return
    panels = [("loss", ["loss"]), ("gradient norm", ["grad_norm"]), ("greedy accuracy", accuracies)]
    title = f"train_sft.py, {args.model}, {shown}"
    plots.plot_curve(run.history.lines, out / "curve.png", panels, title)
    results.save_after(final, list(eval_sets), run.step, out)
    report.write(out)
    print(
        f"the model is in {out}; what it said is in {out}/samples, the curve in {out}/curve.png, "
        f"all of it in {out}/report.html"
    )


if __name__ == "__main__":
    running.run(main, parse_args, several=True)
