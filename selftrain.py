"""Self-training in iterations: a model samples answers, and the next one learns from them.

    star   imitate the right answers (STaR, arXiv:2203.14465)          L = L_SFT
    r3v    and reflect on wrong ones (R3V, arXiv:2411.00855): correct  L = L_SFT + L_REF + L_SEL
           them, choose among candidates
    dpo    prefer right to wrong answers (arXiv:2305.18290)            L = -log sigmoid(beta margin)
    mpo    that, their quality, and imitation (arXiv:2411.10442)       L = 0.8 dpo + 0.2 bco + sft
The margin of a pair is Delta_c - Delta_r, of chosen and rejected response, Delta = log pi / pi_ref.
Iteration 0 is the given model, or with --warmup-data that model trained on worked solutions.
A killed run goes on where it was: plumbing/iterations.py says what it finds there.

Differences from the releases:
 1. Built prompts keep their options; right candidates stand in each place equally often; sets with
    a right and with a wrong majority are balanced (R3V: neither).
 2. A selection that names no candidate's answer falls back on the majority, and is counted.
    What cannot be read is wrong, never guessed, and kept apart in the pool.
 3. The reference of dpo and mpo is the policy that the iteration starts from, an adapter included.
    Its log-probs are computed once, before the first step.
 4. The reward shift delta counts pairs, which go through the model one at a time, prompt and
    picture once for both responses.
 5. Rates and batches are this repository's: docs/differences.md has the table, and the flags.

On a laptop (runs/basics: the tiny model after the two lessons in docs/selftraining.md):
    python selftrain.py --method r3v --model runs/basics --data table --max-train-samples 512 \\
        --warmup-data table --num-train-epochs 2 --learning-rate 5e-4 --per-example \\
        --max-completion-length 100 --output-dir runs/r3v
Given pairs are for train_dpo.py. The builders of training rows are in pools.py.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import data
import lengths
import losses
import model
import pools
import rewards
import rollout
import tasks
import update
from evaluating.golds import check_protocol, with_answers
from evaluating.heldout import Evaluation, draw, evaluate_all
from plumbing import disk, flags, iterations, loading, records, running
from plumbing.arguments import flag, flags_given, label_of, write_args
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.log import MetricsLog
from plumbing.text import short
from sampler import (
    POOLS,
    Sampler,
    direct_items,
    items_from_pools,
    pairs_from_pool,
    sample_pool,
    warmup_items,
)
from tasks import protocols
from tasks.example import Example
from tasks.prompts import DEFAULT_TEMPLATE, template_of

# --- the methods ---


class Method(NamedTuple):
    """A way to learn from samples.

    build: pool -> rows, in pools.py. step: rows -> gradient, update.imitate or update.prefer.
    defaults: of flags that depend on the method. flags: those that not every method reads.
    """

    build: Callable
    step: Callable
    defaults: dict
    flags: frozenset

    @property
    def prefers(self) -> bool:
        """Whether it learns from pairs, as it then reads their flags."""
        return "pair_source" in self.flags

    def tasks(self, weights: dict[str, float]) -> list[str]:
        """Return what it learns of pools.BUILT: cot, and those whose weight it reads."""
        read = [task for task in pools.BUILT if f"{task}_weight" in self.flags]
        return ["cot", *(task for task in read if weights[task])]


IMITATION = {"iterations": 3, "num_train_epochs": 3.0}
PREFERENCE = {"iterations": 1, "num_train_epochs": 1.0}
FOR_ITEMS = frozenset(
    "rationalization continue_training warmup_data max_warmup_samples direct_template "
    "direct_weight warmup_weight per_example micro_batch_size".split()
)
FOR_REFLECTION = frozenset("refine_weight select_weight select_sizes".split())
FOR_PAIRS = frozenset(
    "pair_source start_ratio max_pairs loss_type loss_weights beta label_smoothing".split()
)
METHODS = {
    "star": Method(pools.build_items, update.imitate, IMITATION, FOR_ITEMS),
    "r3v": Method(pools.build_items, update.imitate, IMITATION, FOR_ITEMS | FOR_REFLECTION),
    "dpo": Method(pools.build_pairs, update.prefer, PREFERENCE | losses.DPO, FOR_PAIRS),
    "mpo": Method(pools.build_pairs, update.prefer, PREFERENCE | losses.MPO, FOR_PAIRS),
}

WEIGHTED = ("refine", "select", "direct", "warmup")  # what is learned beside self-CoT

# --- flags ---


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Exit code 2 for what contradicts itself."""
    p = flags.Parser(__doc__, "selftrain.py", "selftraining.md")
    p.add_argument(
        "--method",
        choices=METHODS,
        required=True,
        help="star and r3v imitate what is built from the pool; dpo and mpo learn from pairs",
    )
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    add_data_flags(flags.add_data_flags(p))
    add_rollout_flags(p.add_argument_group("rollout"))
    add_objective_flags(p.add_argument_group("objective"))
    flags.add_optimization_flags(
        p, "peak learning rate; default: 1e-4 with LoRA, 1e-5 without; dpo and mpo: 1e-5 and 5e-6"
    )
    flags.add_evaluation_flags(p)
    p.add_common(
        "--num-samples",
        type=flags.int_from_0,
        default=3,
        help="samples of each held-out question for majority, self-select (r3v) and pass@N; 0: "
        "only greedy answers",
    )
    flags.add_output_flags(p)
    p.set_defaults(micro_batch_size=32, num_train_epochs=None)
    p.set_uncommon("--eval-steps")
    given = set(flags_given(argv))
    args = p.parse_args(argv)
    method = METHODS[args.method]
    refuse_flags_of_other_methods(p, args.method, given)
    for name in ("iterations", "num_train_epochs"):
        if getattr(args, name) is None:
            setattr(args, name, method.defaults[name])
    check_sampling(p, args, given)
    if method.prefers:
        flags.decide_pair_losses(p, args, method.defaults)
    else:
        args.loss_type = []
    flags.refuse_steps_of_iterations(p, args)
    return args


def add_data_flags(g: flags.Group) -> None:
    """What to learn from, besides --data."""
    flags.add_max_train_samples(g)
    g.add_common(
        "--warmup-data",
        metavar="DATA",
        help="worked solutions that stay in every iteration's mix (a toy task: its fallible "
        "teacher's); iteration 0 trains on them",
    )
    g.add_argument(
        "--max-warmup-samples",
        type=flags.int_from_1,
        help="how many of them; default: all of a file, a tenth of the questions of a toy task",
    )
    g.add_argument(
        "--direct-template",
        help="how the direct-answer data ask, by name; default: answer where reasoning is asked "
        "for in tags, else direct",
    )
    flags.add_protocol(g, protocols.PROTOCOLS)


def add_rollout_flags(g: flags.Group) -> None:
    """How the model samples."""
    g.add_common(
        "--iterations",
        type=flags.int_from_1,
        help="rounds of sampling, building and training; default: 3 for star and r3v, 1 for dpo "
        "and mpo",
    )
    g.add_common(
        "--num-generations",
        type=flags.int_from_1,
        default=3,
        help="K, samples of each question in each iteration",
    )
    flags.add_sampling_flags(g)
    g.add_argument(
        "--instructions",
        choices=["plain", "mpo"],
        default="plain",
        help="mpo: every other sample is asked for with one of MPO's three instructions for "
        "reasoning, by the example's task",
    )
    g.add_argument(
        "--rationalization",
        action="store_true",
        default=False,
        help="STaR: questions without a right sample are asked again with the answer as a hint",
    )


def add_objective_flags(g: flags.Group) -> None:
    """What is built from the samples, and how it counts."""
    g.add_argument(
        "--continue-training",
        action="store_true",
        default=False,
        help="each iteration trains the model of the one before; default: star and r3v train the "
        "given model anew",
    )
    g.add_argument(
        "--select-sizes",
        type=int,
        nargs="+",
        default=[3],
        metavar="N",
        help="r3v: candidates in a set to select from; 2 3 4 5 6 for scaling at test time",
    )
    weight = {"type": flags.not_negative, "default": 1.0}
    beside = "beside self-CoT; 0 leaves them out"
    g.add_argument("--refine-weight", **weight, help=f"r3v: weight of L_REF {beside}")
    g.add_argument("--select-weight", **weight, help=f"r3v: weight of L_SEL {beside}")
    g.add_argument(
        "--direct-weight", **weight, help=f"star and r3v: weight of the direct answers {beside}"
    )
    g.add_argument(
        "--warmup-weight", **weight, help=f"star and r3v: weight of the warm-up solutions {beside}"
    )
    g.add_common(
        "--per-example",
        action="store_true",
        default=False,
        help="every example counts the same; default: every token",
    )
    g.add_argument(
        "--pair-source",
        choices=["correctness", "dropout_ntp"],
        default="correctness",
        help="correctness: right against wrong samples; dropout_ntp: a sample against its "
        "beginning, continued without the image",
    )
    g.add_argument(
        "--start-ratio",
        type=flags.below_1,
        default=0.5,
        help="dropout_ntp: share of the response's words that is kept",
    )
    g.add_argument(
        "--max-pairs",
        type=flags.int_from_1,
        default=15,
        help="pairs of a question at most, and as many with an unreadable answer",
    )
    flags.add_preference_flags(g, losses.PAIR_LOSSES)
    g.add_common(
        "--batch-size", type=flags.int_from_1, default=32, help="examples, or pairs, per step"
    )


def refuse_flags_of_other_methods(p: flags.Parser, name: str, given: set[str]) -> None:
    """Stop at a flag that this method does not read: it would be ignored silently."""
    known = frozenset().union(*(method.flags for method in METHODS.values()))
    for word in sorted(given & known - METHODS[name].flags):
        readers = [other for other, method in METHODS.items() if word in method.flags]
        remedy = "leave it out"
        if word == "warmup_data":
            remedy += "; warm up by train_sft.py, and give the result as --model"
        p.error(f"{flag(word)} is for --method {' and '.join(readers)}, not {name}: {remedy}")


def check_sampling(p: flags.Parser, args: argparse.Namespace, given: set[str]) -> None:
    """Stop at flags of sampling and building that contradict each other."""
    by_correctness = METHODS[args.method].prefers and args.pair_source == "correctness"
    if "start_ratio" in given and args.pair_source != "dropout_ntp":
        p.error("--start-ratio is for --pair-source dropout_ntp")
    if by_correctness and args.num_generations < 2:
        p.error(
            "--num-generations must be at least 2: a pair is a right and a wrong sample of one "
            "question"
        )
    if args.temperature == 0:
        p.error("--temperature must be above 0: greedy samples of one question are all the same")
    if min(args.select_sizes) < 2:
        p.error("--select-sizes must be at least 2")


# --- data ---


def read_questions(
    read: Callable, spec: str, number: int | None, needs_answer: bool, bad: BadRecords
) -> dict[str, Example]:
    """Read the questions to sample answers to, by id. number: the first so many."""

    def check(answer: str, choices: list | None, meta: dict) -> None:
        if answer:
            rewards.check_gold(answer, choices, meta)

    found = read(spec, needs_answer=needs_answer)
    if number is None:
        number = 1024 if data.is_endless(found) else len(found)
    return by_id(data.check_golds(data.head(found, number), check, bad))


def read_warmup(
    read: Callable, spec: str, number: int | None, examples: dict[str, Example], bad: BadRecords
) -> dict[str, Example]:
    """Read the worked solutions to warm up on, by ids that no question has.

    Raises UserError for a record without a solution.
    """
    found = read(spec, needs_answer=False)
    if number is None:
        is_toy = data.is_endless(found)
        number = max(1, len(examples) // 10) if is_toy else len(found)
    solved = bad.usable(data.head(found, number), must_be_solved)
    prefix = "warmup:"
    while any(f"{prefix}{example.id}" in examples for example in solved):  # any id is allowed
        prefix += "warmup:"
    return by_id(solved, prefix)


def must_be_solved(example: Example) -> None:
    """Refuse an example without a worked solution."""
    if not example.solution:
        raise UserError(
            f"{example.source}: --warmup-data needs a worked `solution` in every record; delete "
            "this one, or omit --warmup-data"
        )


def by_id(examples: list[Example], prefix: str = "") -> dict[str, Example]:
    """Index examples by their ids, each of which tasks.read gives once."""
    indexed = {f"{prefix}{example.id}": example for example in examples}
    assert len(indexed) == len(examples), "tasks.read gives every example an id of its own"
    return indexed


def check_pools(out: Path, examples: dict[str, Example], spec: str, label: Callable) -> None:
    """Raise UserError if an earlier start has sampled questions that --data does not have."""
    for path in sorted(path for name in POOLS for path in out.glob(f"iteration-*/{name}")):
        lines, _ = records.good_lines(path, label(path))
        unknown = next((line for line in lines if line["id"] not in examples), None)
        if unknown:
            raise UserError(
                f"{path} has samples of {short(unknown['id'], 60)!r}, and {spec} has no question "
                "of that id: the data have changed, or their ids are made otherwise now; begin "
                "anew in another --output-dir"
            )


def check_kinds(examples: list[Example], spec: str) -> None:
    """Raise UserError if --instructions mpo would ask every question plainly."""
    kinds = {str(example.task).lower() for example in examples}
    if not kinds & pools.INSTRUCTION_OF.keys():
        raise UserError(
            f"{spec}: --instructions mpo goes by the kind of picture, and no example says its "
            f"kind; give the records a `task` ({', '.join(sorted(pools.INSTRUCTION_OF))}), or "
            "leave the flag out"
        )


def direct_template(template: str) -> str:
    """Choose how the direct answers are asked for: in tags where reasoning is."""
    return "answer" if "<answer>" in template_of(template) else "direct"


def main(args: argparse.Namespace) -> None:
    """Run all iterations, or those that are left."""
    # --- setup: everything that can be wrong is found out before the first sample ---
    method = METHODS[args.method]
    vars(args).update(iterations.open_output_dir(args))
    out = Path(args.output_dir)
    label = functools.partial(label_of, args)
    if args.protocol and not args.prompt_template:
        args.prompt_template = protocols.PROTOCOLS[args.protocol].template
    vars(args).update(data.ask_as_trained(args, DEFAULT_TEMPLATE))
    bad = BadRecords(args.skip_bad_records)
    reading = data.reading(args, bad)
    read = functools.partial(
        tasks.read, seed=args.seed, teacher="fallible", training=True, **reading
    )
    needs_answer = args.pair_source == "correctness" or not method.prefers
    examples = read_questions(read, args.data, args.max_train_samples, needs_answer, bad)
    questions = list(examples.values())
    check_pools(out, examples, args.data, label)
    warm = {}
    if args.warmup_data:
        warm = read_warmup(read, args.warmup_data, args.max_warmup_samples, examples, bad)
    args.eval_data = args.eval_data or data.default_eval(args.data)
    known = {args.data: questions}
    eval_sets = data.read_eval(args.eval_data, known, args.max_eval_samples, **reading)
    eval_sets = with_answers(eval_sets, rewards.check_gold, bad)
    check_protocol([questions, *eval_sets.values()], args.protocol)
    if args.instructions == "mpo":
        check_kinds(questions, args.data)
    args.direct_template = args.direct_template or direct_template(args.prompt_template)
    template_of(args.direct_template)

    # --- model ---
    needs = "self-training needs one that already answers now and then, or --warmup-data"
    needs = None if args.warmup_data else needs
    vars(args).update(model.resolve(args, train=True, needs_training=needs))
    load = functools.partial(model.load_from_args, args, train=True)
    models = iterations.Models(load)
    models.use(iterations.weights_of(out, args.iterations))
    asker = data.Asker(models.processor, args.prompt_template, args.system_prompt)
    limit = args.max_completion_length
    questions = lengths.fitting(asker, questions, limit, bad=bad)
    examples = by_id(questions)
    eval_sets = lengths.fitting_sets(asker, eval_sets, limit, bad)
    solved = lengths.fitting(asker, list(warm.values()), limit, targets=True, bad=bad)
    kept = {id(example) for example in solved}
    warm = {name: example for name, example in warm.items() if id(example) in kept}
    bad.report(out)
    update.make_optimizer(args.optim, models.trained, 0.0)  # now, not after an hour of sampling
    device = models.policy.device
    args.num_workers = loading.workers(args.num_workers, data.is_toy(args.data), device)
    iterations.write_flags(out, args)
    if args.learning_rate is None:
        args.learning_rate = update.default_learning_rate(method.prefers, args.lora_r)
    finished = iterations.finished_lines(out, args.iterations, label)
    log = MetricsLog(out, finished, args.report_to)
    model_bytes = model.saved_bytes(models.policy, models.processor)
    size = sum(q.numel() for q in models.trained)
    answer_bytes = 4 * args.max_completion_length + 200  # 4 a token, as long as it may be
    answers = args.iterations * len(examples) * args.num_generations * answer_bytes
    keep = args.save_total_limit
    disk.announce(out, iterations.to_write(model_bytes, size, keep, args.iterations, answers))
    print(f"model: {model.describe(models.policy)}; prompt template {args.prompt_template}")
    direct, warmed = [], []  # items of every iteration
    if args.direct_weight and not method.prefers:
        direct = direct_items(examples, args.direct_template)
    if args.warmup_weight and not method.prefers:
        warmed = warmup_items(warm, args.prompt_template)
    print(
        f"{args.method}: {len(examples)} questions, {args.num_generations} samples of each an "
        f"iteration, {args.iterations} iteration(s)"
        + (f"; also learned: {len(direct)} direct answers" if direct else "")
        + (f"; {len(warm)} warm-up solutions" if warm else "")
        + (f"; iteration {len(finished) - 1} is finished" if finished else "")
    )

    # --- what every iteration needs ---
    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    score = protocols.scorer(args.protocol)
    sampler = Sampler(
        asker, sampling, score, label, args.eval_batch_size, args.num_workers, args.protocol
    )
    shares = pools.sample_shares(args.num_generations, args.instructions)
    weights = {task: getattr(args, f"{task}_weight") for task in WEIGHTED}
    learned = method.tasks(weights)
    ratio = args.start_ratio if args.pair_source == "dropout_ntp" else None
    balance = {"router_aux_loss_coef": args.router_aux_loss_coef}
    if method.prefers:
        cost = update.PairLoss(args.loss_type, args.loss_weights, args.beta, args.label_smoothing)
        build = functools.partial(method.build, most=args.max_pairs)
        step = functools.partial(method.step, asker=asker, cost=cost, **balance)
        encode = functools.partial(update.encode_row, asker=asker)
    else:
        build = functools.partial(method.build, tasks=learned, sizes=args.select_sizes)
        step = functools.partial(
            method.step,
            asker=asker,
            weights=weights,
            per_example=args.per_example,
            micro_batch_size=args.micro_batch_size,
            **balance,
        )
        encode = functools.partial(update.encode_item, asker=asker, examples=examples | warm)
    settings = update.Settings.of(args)
    evaluation = Evaluation(args.num_samples, "select" in learned, args.seed)
    title = f"selftrain.py --method {args.method}, {args.model}, {args.data}, seed {args.seed}"

    def save_model(directory: Path) -> None:
        model.save(models.policy, models.processor, directory)
        write_args(directory, args)

    # --- loop ---
    for t in range(len(finished), args.iterations + 1):
        folder, is_trained = iterations.open_folder(out, t)
        metrics = {}
        rows = []
        if not is_trained:
            # 1. sample K answers to each question with the model before        -> pool.jsonl
            model_before = iterations.weights_of(out, t - 1)
            if t:
                models.use(model_before)
                pool, metrics = sample_pool(
                    folder, t, models.policy, sampler, examples, shares, args.seed
                )

            # 2. build: pairs from this pool, or items from all pools so far    -> train.jsonl
            if t and method.prefers:
                rows, counts = pairs_from_pool(
                    folder, t, models.policy, sampler, examples, pool, build, ratio, args.seed
                )
                metrics |= counts
            elif t:
                hints = args.rationalization
                built, counts = items_from_pools(
                    folder, t, models.policy, sampler, examples, pool, shares, build, learned,
                    hints, args.seed,
                )  # fmt: skip
                rows = built + direct + warmed
                metrics |= counts
            elif warm:
                rows = direct + warmed
            iterations.write_built(folder, metrics, label)

            # 3. train the model before (pairs), or the given one               -> the model
            start = model_before if args.continue_training or method.prefers else None
            if rows and method.prefers:
                iterations.write_pairs(folder, rows)
                rows = update.with_references(
                    folder, label, models, start, asker, rows, args.num_workers
                )
            elif rows:
                random.Random(args.seed * 100 + t).shuffle(rows)
                disk.write_lines(folder / "train.jsonl", rows)
            if rows:
                models.use_newest(folder, start)
                seed = args.seed * 1000 + t
                update.train(
                    folder, t, models.policy, rows, encode, step, settings, seed, save_model,
                    model_bytes,
                )  # fmt: skip
                models.directory = folder
        models.use(iterations.weights_of(out, t))
        metrics = iterations.read_built(folder, label) | metrics

        # 4. evaluate                                            -> eval_*.jsonl, result.json
        metrics |= evaluate_all(
            folder, t, models.policy, sampler, eval_sets, evaluation, args.method
        )
        log.log(t, {name: float(value) for name, value in metrics.items()})
        iterations.write_result(folder, metrics, label)
        if t < args.iterations:
            draw(out, log.lines, list(eval_sets), args.num_samples, title)

    # --- the end: draw, publish; here, since a run that was stopped may have this left to do ---
    draw(out, log.lines, list(eval_sets), args.num_samples, title)
    iterations.publish(out, iterations.weights_of(out, args.iterations), log.lines)


if __name__ == "__main__":
    running.run(main, parse_args)
