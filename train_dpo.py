"""Preference stage: a model learns from given pairs of a better and a worse response.

    dpo   Direct Preference Optimization (arXiv:2305.18290)
              L = -log sigmoid(beta (Delta_c - Delta_r)),  Delta = log pi(y|x) - log pi_ref(y|x)
    mpo   Mixed Preference Optimization (arXiv:2411.10442), what a response is worth in itself, too
              L = 0.8 L_dpo + 0.2 L_bco + NLL_c / |y_c|
--loss-type takes these apart: sigmoid (DPO), ipo, bco_pair, sft, or a sum with --loss-weights.
Pairs come in the formats of MMPR, RLHF-V, TRL and LLaMA-Factory (docs/data.md), and their prompts
stay as they are. To make pairs from a model's own samples, see selftrain.py.

Differences from MPO's release and TRL:
 1. The reference is the policy that training starts from, an adapter included. Its log-probs are
    computed once, before the first step: no second model is kept.
 2. Pairs go through the model one at a time, prompt and picture once for both responses. The reward
    shift delta of bco_pair counts pairs.
 3. Rates and batches are this repository's: docs/differences.md has the table, and the flags.

On a laptop, from any checkpoint and file of pairs:
    python train_dpo.py --method dpo --model runs/sft --pairs pairs.jsonl --output-dir runs/dpo
On one GPU (QLoRA; time and memory not measured):
    python train_dpo.py --method mpo --pairs mmpr.jsonl --image-folder images/ \\
        --model Qwen/Qwen2-VL-7B-Instruct --quant nf4 --gradient-checkpointing --output-dir runs/mpo
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
import functools
from pathlib import Path

import data
import experts
import lengths
import losses
import model
import rewards
import rollout
import update
from evaluating.golds import check_protocol, with_answers
from evaluating.heldout import Evaluation, draw, evaluate_all
from plumbing import disk, flags, iterations, loading, ranks, running
from plumbing.arguments import flags_given, label_of, write_args
from plumbing.bad_records import BadRecords
from plumbing.log import MetricsLog
from sampler import Sampler
from tasks import kept, protocols
from tasks.pairs import read_pairs

METHODS = {"dpo": losses.DPO, "mpo": losses.MPO}  # what a pair costs
LAST = 1  # iteration 0 is the given model, measured; iteration 1 is trained


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Exit code 2 for what contradicts itself."""
    p = flags.Parser(__doc__, "train_dpo.py", "training.md")
    p.add_common(
        "--method",
        choices=METHODS,
        default="dpo",
        help="what a pair costs, unless --loss-type says it",
    )
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    g = p.add_argument_group("data")
    g.add_argument(
        "--pairs",
        metavar="DATA",
        required=True,
        help="what to learn from: questions, each with a better answer (chosen) and a worse one "
        "(rejected), in a layout of docs/data.md; they are asked as they stand, and "
        "--prompt-template is for --eval-data",
    )
    g.add_common(
        "--image-folder",
        metavar="DIR",
        help="where relative image paths of --pairs resolve; default: beside its file",
    )
    g.add_common(
        "--max-train-samples",
        type=flags.int_from_1,
        help="pairs to learn from: the first so many; default: all",
    )
    flags.add_asking_flags(g)
    flags.add_protocol(g, protocols.PROTOCOLS)
    g = p.add_argument_group("objective")
    flags.add_preference_flags(g, losses.PAIR_LOSSES)
    g.add_common("--batch-size", type=flags.int_from_1, default=32, help="pairs per step")
    flags.add_optimization_flags(p, "peak learning rate; default: 1e-5 with LoRA, 5e-6 without")
    g = flags.add_evaluation_flags(p)
    flags.add_sampling_flags(g)
    g.add_common(
        "--num-samples",
        type=flags.int_from_0,
        default=3,
        help="samples of each held-out question for majority and pass@N; 0: only greedy answers",
    )
    flags.add_output_flags(p)
    p.set_uncommon("--eval-steps", "--micro-batch-size")
    args = p.parse_args(argv)
    flags.decide_pair_losses(p, args, METHODS[args.method])
    flags.refuse_steps_of_iterations(p, args)
    if args.num_samples > 1 and args.temperature == 0:
        p.error("--num-samples needs --temperature above 0: greedy samples are all the same")
    if "micro_batch_size" in flags_given(argv):
        p.error("--micro-batch-size has no meaning here: pairs go through the model one at a time")
    return args


def main(args: argparse.Namespace) -> None:
    """Measure the given model, train it on the pairs, and measure the result."""
    # --- setup: everything that can be wrong is found out before the first step ---
    vars(args).update(iterations.open_output_dir(args))
    out = Path(args.output_dir)
    label = functools.partial(label_of, args)
    if args.protocol and not args.prompt_template:
        args.prompt_template = protocols.PROTOCOLS[args.protocol].template
    vars(args).update(data.ask_as_trained(args, "none"))
    bad = BadRecords(args.skip_bad_records)
    pairs = read_pairs(args.pairs, args.image_folder, bad)[: args.max_train_samples]
    reading = data.reading(args, bad)
    eval_sets = data.read_eval(args.eval_data, {}, args.max_eval_samples, **reading)
    eval_sets = with_answers(eval_sets, rewards.check_gold, bad)
    check_protocol(list(eval_sets.values()), args.protocol)

    # --- model ---
    vars(args).update(model.resolve(args, train=True))
    load = functools.partial(model.load_from_args, args, train=True)
    models = iterations.Models(load)
    models.use(iterations.weights_of(out, LAST))
    asker = data.Asker(models.processor, args.prompt_template, args.system_prompt)
    eval_sets = lengths.fitting_sets(asker, eval_sets, args.max_completion_length, bad)
    pairs = lengths.fitting_pairs(asker, pairs, bad)
    bad.report(out)
    # Found out now: the first may not be installed, the second not work in several processes.
    update.make_optimizer(args.optim, models.trained, 0.0)
    experts.Balance(models.policy, args.router_aux_loss_coef, list)
    args.num_workers = loading.workers(args.num_workers, False, models.policy.device)
    iterations.write_flags(out, args)
    if args.learning_rate is None:
        args.learning_rate = update.default_learning_rate(pairs=True, lora_r=args.lora_r)
    finished = iterations.finished_lines(out, LAST, label)
    log = MetricsLog(out, finished, args.report_to)
    model_bytes = model.saved_bytes(models.policy, models.processor)
    size = sum(q.numel() for q in models.trained)
    disk.announce(out, iterations.to_write(model_bytes, size, args.save_total_limit, LAST, 0))
    print(f"model: {model.describe(models.policy)}")
    if eval_sets:
        print(f"--eval-data is asked with prompt template {args.prompt_template}")
    else:
        print("no --eval-data: accuracy is not measured, neither before nor after")
    print(
        f"{args.method}: {len(pairs)} pairs of a better and a worse answer; iteration 0 measures "
        "the given model, iteration 1 trains it on the pairs"
        + (f"; iteration {len(finished) - 1} is finished" if finished else "")
    )

    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    score = protocols.scorer(args.protocol)
    sampler = Sampler(
        asker, sampling, score, label, args.eval_batch_size, args.num_workers, args.protocol
    )
    evaluation = Evaluation(args.num_samples, selects=False, seed=args.seed)
    cost = update.PairLoss(args.loss_type, args.loss_weights, args.beta, args.label_smoothing)
    balance = {"router_aux_loss_coef": args.router_aux_loss_coef}
    step = functools.partial(update.prefer, asker=asker, cost=cost, **balance)
    encode = functools.partial(update.encode_row, asker=asker)
    settings = update.Settings.of(args)
    title = f"train_dpo.py --method {args.method}, {args.model}, {args.pairs}, seed {args.seed}"

    def save_model(directory: Path) -> None:
        model.save(models.policy, models.processor, directory)
        write_args(directory, args)

    # --- the given model, then the trained one ---
    for t in range(len(finished), LAST + 1):
        folder, is_trained = iterations.open_folder(out, t)
        if not is_trained:
            iterations.write_built(folder, {}, label)
        if t == LAST and not is_trained:
            # 1. log-probs of the reference, which is the given model         -> reference.jsonl
            iterations.write_pairs(folder, pairs)
            asked = [pair.example for pair in pairs[: kept.MOST]]
            kept.keep_questions(folder / "questions_pool.jsonl", asked)
            rows = update.with_references(
                folder, label, models, None, asker, pairs, args.num_workers
            )

            # 2. train                                                        -> the model
            models.use_newest(folder, None)
            seed = args.seed * 1000 + t
            update.train(
                folder, t, models.policy, rows, encode, step, settings, seed, save_model,
                model_bytes,
            )  # fmt: skip
            models.directory = iterations.weights_of(out, t)
        models.use(iterations.weights_of(out, t))
        metrics = iterations.read_built(folder, label)

        # 3. evaluate                                            -> eval_*.jsonl, result.json
        metrics |= evaluate_all(
            folder, t, models.policy, sampler, eval_sets, evaluation, args.method
        )
        log.log(t, {name: float(value) for name, value in metrics.items()})
        iterations.write_result(folder, metrics, label)
        if t < LAST:
            draw(out, log.lines, list(eval_sets), args.num_samples, title)

    # --- the end: draw, publish ---
    weights = iterations.weights_of(out, LAST)
    if ranks.rank():
        return  # several processes have one output directory
    draw(out, log.lines, list(eval_sets), args.num_samples, title)
    iterations.publish(out, weights, log.lines)


if __name__ == "__main__":
    running.run(main, parse_args, several=True)
