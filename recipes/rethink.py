"""VL-Rethinker: train_grpo.py, and answers are thought over, and seen again (arXiv:2504.08837).

    loss = GRPO's, where rows without an advantage give their place to rows of earlier steps,
           drawn in proportion to |A|                                (reinforcing/replay.py)
         + 0.05 supervised loss of right second thoughts             (reinforcing/rethinking.py)

Second thoughts: "Wait." or the like ends an answer's thinking, and the policy goes on from there.
What is published left 1024 tokens for them. Here it is 0.4 of --max-completion-length, since toy
answers have fifty tokens. Its buffer has half a batch, as here.

On a laptop (five minutes on two cores):
    python -m recipes.rethink --model checkpoints/count --data count --eval-data count:test \\
        --learning-rate 1e-4 --max-grad-norm 0.2 --prompts-per-step 16 --num-generations 8 \\
        --max-steps 160 --output-dir runs/grpo
On one GPU (QLoRA):
    python -m recipes.rethink --model Qwen/Qwen2-VL-2B-Instruct --quant nf4 \\
        --data clevr_cogen_a_train/ --gradient-checkpointing --prompts-per-step 8 \\
        --num-generations 8 --max-steps 500 --output-dir runs/clevr
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
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
from plumbing import device, disk, flags, loading, ranks, report, results, rundir, running
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.flags import int_from_0, int_from_1, not_negative, share
from plumbing.run import Run
from processor import Processor
from reinforcing import agreement, logged, looking, objective, pass_rates, preflight, shares
from reinforcing.advantages import Advantage
from reinforcing.groups import Groups, further, refilled
from reinforcing.replay import Rows
from reinforcing.rethinking import rethink
from tasks import kept
from tasks.example import Example

IMITATED = 0.05  # the weight of the supervised loss, which is the paper's
RETRY = 10**15  # between the seeds of a step's rollouts
WHAT_TO_WATCH = (
    "What to watch: the loss VALUE says nothing here. On-policy the ratio is 1 and advantages\n"
    "average to zero, so it is near 0 (or beta x KL) from the first step to the last, while its\n"
    "gradient is not. What moves: reward, up; adv_abs, the mean |advantage|; and\n"
    "frac_reward_zero_std, the share of groups whose completions all score the same: no lesson."
)


def add_rollout_flags(p: flags.Parser) -> None:
    g = p.add_argument_group("rollout")
    add, common = g.add_argument, g.add_common
    common("--prompts-per-step", type=int_from_1, default=8, help="N, questions asked per step")
    common(
        "--num-generations", type=int_from_1, default=8, help="G, completions per question (>= 2)"
    )
    common("--max-completion-length", type=int_from_1, default=512, help="tokens of a completion")
    add(
        "--updates-per-rollout",
        type=int_from_1,
        default=1,
        help="K, cut the N questions of a step into K optimizer steps. With 1 the policy has not "
        "moved when it learns: the ratio is 1, and all --loss-type have the gradient of grpo, up "
        "to their mean over tokens",
    )
    add(
        "--max-resample-times",
        type=int_from_0,
        default=0,
        help="replace groups whose rewards are all equal by further questions, so many times "
        "(DAPO's dynamic sampling)",
    )
    add(
        "--pass-rates",
        metavar="FILE",
        help="how often each question is answered right: predictions.jsonl of an evaluate.py "
        "--num-samples run, or the name of a column of the data",
    )
    add(
        "--keep-pass-rate",
        nargs=2,
        type=not_negative,
        metavar=("LOW", "HIGH"),
        help="with --pass-rates: train on the questions within, both ends included",
    )
    common("--temperature", type=not_negative, default=1.0, help="of sampling, and of log-probs")
    inexact = "log-probs stay those of the uncut distribution: ratios are no longer exact"
    add("--top-p", type=share, default=1.0, help=f"mass of the likeliest; below 1 {inexact}")
    add("--top-k", type=int_from_0, default=0, help=f"the k likeliest, 0: all; above 0 {inexact}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "recipes.rethink", "forks.md")
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    flags.add_data_flags(p)
    add_rollout_flags(p)
    objective.add_flags(p)
    flags.add_optimization_flags(p, "peak learning rate; default: 1e-5 with LoRA, 1e-6 without")
    flags.add_evaluation_flags(p)
    flags.add_output_flags(p).add_argument(
        "--dry-run",
        action="store_true",
        default=False,
        help="stop after the preflight: one update of the longest question, which changes nothing",
    )
    args = p.parse_args(argv)
    if args.num_generations < 2:
        p.error(
            "--num-generations must be at least 2 for a group-relative advantage, "
            f"got {args.num_generations}; 8 are usual"
        )
    if args.temperature == 0:
        p.error("--temperature must be above 0: greedy completions of one prompt are all the same")
    if args.prompts_per_step % args.updates_per_rollout:
        p.error(
            f"--updates-per-rollout {args.updates_per_rollout} must divide --prompts-per-step "
            f"{args.prompts_per_step}"
        )
    if (args.pass_rates is None) != (args.keep_pass_rate is None):
        p.error("--pass-rates and --keep-pass-rate need each other")
    if args.max_resample_times:
        p.error("rows of earlier steps take the place of --max-resample-times; leave it out")
    objective.check_flags(p, args)
    vars(args).update(objective.defaults(args))
    return args


# --- the steps of the loop ---


def sample(
    policy: Module,
    processor: Processor,
    G: int,
    settings: rollout.Sampling,
    examples: list[Example],
    prompts: shares.Prompts,
    seed: int,
) -> Groups:
    """Sample G completions for each of N prompts -> B = N * G rows, not scored yet."""
    places, own = shares.held(prompts)
    logps.cache_features(policy, own)  # a frozen tower sees a picture once a step
    rows, roll = shares.rows_of(places, G), None
    if rows:
        special = processor.special
        roll = rollout.rollout(policy, own, special, G, settings, seed, numbers=rows)
    roll = shares.all_rows(roll, rows)
    texts = [processor.decode(ids[:n]) for ids, n in zip(roll.targets, roll.lengths)]
    return Groups(examples, prompts, roll, texts, {}, {})


def score(
    groups: Groups,
    limit: int,
    names: list[str],
    reward_models: dict[str, judges.RewardModel],
    size: int,
) -> Groups:
    """Score each completion by each reward.

    limit: tokens of a completion at most. size: rows that a model reads at a time.
    """
    G = groups.G
    own = groups.at(ranks.share(len(groups.examples)))  # another process scores the others
    completions, tokens = own.completions, own.roll.lengths.tolist()
    asked = [example for example in own.examples for _ in range(G)]
    formulas = [name for name in names if name not in reward_models]
    parts, failed = rewards.reward_parts(completions, asked, formulas, tokens, limit)
    questions = [example.question for example in asked]
    for name, judge in reward_models.items():
        values = torch.tensor(judge.score(questions, completions, size), dtype=torch.float64)
        broken = ~values.isfinite()
        failed[name], parts[name] = int(broken.sum()), values.masked_fill(broken, 0.0).tolist()
    parts = {name: parts[name] for name in names}  # in the order of --reward-weights
    parts, failed = shares.all_scores(parts, failed)
    return groups._replace(parts=parts, failed=failed)


def compare(
    groups: Groups, advantage: Advantage, weights: list[float] | None, mask_truncated: bool
) -> Tensor:
    """Compute the advantages of a step's completions: (B,).

    mask_truncated: those of cut completions are 0 in the end, as none of their tokens counts.
    """
    parts, G = groups.parts, groups.G
    scores = torch.tensor(rewards.total(parts, weights))
    adv = advantage.of(scores, list(parts.values()), groups.roll.lengths, G)
    return adv * groups.roll.finished() if mask_truncated else adv


@torch.no_grad()
def frozen_logps(policy: Module, batches: Iterable, logp_of: Callable, like: Tensor) -> Tensor:
    """Compute log-probs of all rows without gradient, a micro-batch at a time: (B, T), CPU.

    like: (B, T), of the shape that is wanted. Of several processes each computes its rows.
    """
    found = torch.zeros_like(like)
    for rows, batch in batches:
        found[rows] = logp_of(policy, batch).cpu()
    ranks.summed([found])  # a row is 0 in all processes but one
    return found


@torch.no_grad()
def learned_tokens(
    policy: Module, batches: Callable, logp_of: Callable, counted: Tensor, share: float
) -> Tensor:
    """Choose the tokens that the objective counts, by their entropy: (B, T) of 0 and 1.

    share 1: all that are counted, (B, T), without a pass.
    """
    if share == 1:
        return counted
    entropy = frozen_logps(policy, batches(), lambda *of: logp_of(*of, entropy=True)[1], counted)
    return losses.top_entropy_mask(entropy, counted, share)


class Batch(NamedTuple):
    """What one update learns from: some questions of a rollout, with their B rows."""

    micro_batches: Callable[[], Iterable]  # yields (rows, batch), of this process's share
    adv: Tensor  # (B,)
    counted: Tensor  # (B, T), 1 where a token counts
    learned: Tensor  # (B, T), 1 where the objective, not only the KL, counts
    weights: Tensor  # (B, T), of this update
    ref_logp: Tensor | None  # (B, T); None: no KL
    beside: Sequence = ()  # (another Batch, its old_logp) each


def cut(
    roll: rollout.Rollout, prompts: list, K: int, batches: Callable, weigh: Callable, *columns
) -> list[tuple[slice, Batch]]:
    """Cut a rollout into the batches of K updates, each with the rows it has: (rows, batch).

    batches(prompts, roll): micro-batches of those. weigh(counted): its weights.
    columns: adv, counted, learned and ref_logp of all rows.
    """
    N, G = len(prompts), len(roll.targets) // len(prompts)
    found = []
    for first in range(0, N, N // K):
        end = first + N // K
        rows = slice(first * G, end * G)
        own = roll.at(range(first * G, end * G))
        adv, counted, learned, ref_logp = (x if x is None else x[rows] for x in columns)
        part = partial(batches, prompts[first:end], own)
        found.append((rows, Batch(part, adv, counted, learned, weigh(counted), ref_logp)))
    return found


def beside(parts: list, thoughts: Rows, again: Rows, first: int, G: int, alone: Callable) -> list:
    """Deal second thoughts and rows of earlier steps to the updates, whose `parts` are of `cut`.

    first: the position of the step's first question. alone(rows): a batch of them.
    """
    found = []
    for k, (rows, batch) in enumerate(parts):
        own = thoughts.within(first + rows.start // G, first + rows.stop // G)
        dealt = again.at(range(k, len(again.asked), len(parts)))
        dealt = dealt._replace(adv=dealt.adv * len(dealt.asked) / len(batch.adv))  # their share
        # At a ratio of 1 the gradient is the supervised one, times the advantage.
        others = [(own, None), (dealt, dealt.roll.logp)]
        others = [(alone(some), old_logp) for some, old_logp in others if some.asked]
        found.append((rows, batch._replace(beside=others)))
    return found


def alone(rows: Rows, ask: Callable, encode: Callable, batches: Callable, weigh: Callable) -> Batch:
    """Make a batch of rows, each with its own prompt. ask(place, 1): the question there."""
    prompts = shares.encoded(encode, [ask(place, 1)[0] for place in rows.asked])
    part = partial(batches, prompts, rows.roll)
    counted = rows.roll.mask
    return Batch(part, rows.adv, counted, counted, weigh(counted), None)


def grpo_gradient(
    policy: Module,
    batch: Batch,
    logp_of: Callable,
    goal: objective.Objective,
    old_logp: Tensor | None,
) -> tuple[float, Tensor, Tensor, experts.Balance]:
    """Add up one update's gradient, of this process's rows: (loss, log-probs, entropy, balance).

    old_logp: (B, T); None: on-policy, the ratio is 1 and no second pass is needed.
    """
    loss = 0.0
    new_logp, entropy = torch.zeros_like(batch.counted), torch.zeros_like(batch.counted)
    balance = experts.Balance(policy, goal.router_aux_loss_coef, batch.micro_batches)
    for rows, micro in batch.micro_batches():
        with balance.watching(micro):
            logp, spread = logp_of(policy, micro, entropy=True)  # (rows, T)
        old = logp.detach() if old_logp is None else old_logp[rows].to(logp)
        counted = batch.counted[rows].to(logp)
        per_token = goal.cost(logp, old, batch.adv[rows].to(logp), counted)
        per_token = per_token * batch.learned[rows].to(logp)
        if batch.ref_logp is not None:
            per_token = per_token + goal.beta * losses.kl_k3(logp, batch.ref_logp[rows].to(logp))
        part = losses.aggregate(per_token, batch.weights[rows].to(logp))
        (part + balance.cost()).backward()
        loss += part.item()
        new_logp[rows] = logp.detach().cpu()
        entropy[rows] = spread.cpu()
    for other, old in batch.beside:
        loss += grpo_gradient(policy, other, logp_of, goal._replace(router_aux_loss_coef=0), old)[0]
    return loss, new_logp, entropy, balance


def worst_update(
    policy: Module,
    asker: data.Asker,
    examples: Sequence[Example],
    G: int,
    limit: int,
    weigh: Callable,
    logp_of: Callable,
    goal: objective.Objective,
) -> Callable[[int], None]:
    """Return what makes the gradient of the longest question's G completions, all of length limit.

    Their advantages are 0. It is called with the rows of a micro-batch.
    """
    prompt = asker.prompt(preflight.longest(asker, examples), room=limit)
    roll = preflight.worst_rollout(asker.processor, G, limit)

    def gradient(size: int) -> None:
        policy.train()
        cut_up = partial(rollout.micro_batches, size=size, where=policy.device)
        columns = torch.zeros(G), roll.mask, roll.mask, None
        [(_, batch)] = cut(roll, [prompt], 1, cut_up, weigh, *columns)
        grpo_gradient(policy, batch, logp_of, goal, None)

    return gradient


# --- evaluation, samples, results ---


def evaluate(
    ask: Callable, looks: Callable, eval_sets: dict[str, list], step: int, folder: Path
) -> dict[str, float]:
    """Score greedy answers to the held-out sets, and keep them in `folder`: {metric: value}.

    looks(examples): what looking.measure says, of the first set.
    """
    metrics = looks(next(iter(eval_sets.values())))
    for name, examples in eval_sets.items():
        texts, lengths, _ = ask(examples, describe=f"asking {name}")
        kept.keep_answers(folder, list(eval_sets), name, step, examples, texts)
        scores = rewards.summary(texts, examples)
        scores["mean_length"] = sum(lengths) / max(1, len(lengths))
        metrics |= {f"eval/{name}/{key}": value for key, value in scores.items()}
    return metrics


# --- the whole run ---


def reward_models(names: list[str], policy: Module) -> dict[str, judges.RewardModel]:
    """Load the rewards that are checkpoints: {name: model}."""
    where, dtype = policy.device, logps.core_of(policy).compute_dtype
    return {n: judges.RewardModel(n, where, dtype) for n in names if n not in rewards.REWARDS}


def check_needs(examples: Sequence[Example], names: list[str]) -> None:
    """Check that rewards have what they need. UserError."""
    formulas = [name for name in names if name in rewards.REWARDS]
    some = data.head(examples, 16) if data.is_endless(examples) else examples
    try:
        rewards.check_rewards(formulas, some)
    except ValueError as error:
        raise UserError(
            f"--reward-funcs: {error}; choose other rewards, or data that have what they need"
        ) from None


def main(args: argparse.Namespace) -> None:
    # --- setup: what can be wrong is found out before the first step ---
    resume, decided = rundir.open_together(args)
    vars(args).update(decided)
    N, G, K = args.prompts_per_step, args.num_generations, args.updates_per_rollout
    out = Path(args.output_dir)
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
    check_needs(examples, args.reward_funcs)
    examples = pass_rates.chosen(examples, args.pass_rates, args.keep_pass_rate)
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
    graders = reward_models(args.reward_funcs, policy)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = update.make_optimizer(args.optim, trained, args.learning_rate)
    save_model = partial(model.save, policy, processor)
    model_bytes = model.saved_bytes(policy, processor)
    goal = objective.objective_of(args)
    draw = partial(sample, policy, processor, G, sampling)
    judge = partial(score, limit=limit, names=args.reward_funcs, reward_models=graders, size=size)
    compared = partial(compare, advantage=objective.advantage_of(args), weights=args.reward_weights)
    compared = partial(compared, mask_truncated=args.mask_truncated_completions)
    logp_of = partial(
        logps.token_logps, temperature=args.temperature, suppress=processor.special.vision_ids
    )
    weigh = partial(losses.token_weights, loss_type=args.loss_type, max_completion_length=limit)

    # --- preflight ---
    worst = worst_update(policy, asker, examples, G, limit, weigh, logp_of, goal)
    args.micro_batch_size = size = preflight.size_that_fits(worst, optimizer, policy.device, size)
    if args.dry_run:
        return
    batches = partial(shares.micro_batches, size=size, where=policy.device)
    greedy = rollout.Sampling(limit, temperature=0)
    args.num_workers = loading.workers(args.num_workers, data.is_toy(args.data), policy.device)
    ask = partial(rollout.answer_together, policy, asker, sampling=greedy)
    ask = partial(ask, batch_size=args.eval_batch_size, num_workers=args.num_workers)
    looks = partial(looking.measure, policy, asker, limit=limit, logp_of=logp_of, size=size)
    looks = partial(looks, batch_size=args.eval_batch_size)
    measure = partial(evaluate, ask, looks, eval_sets, folder=out / "samples")
    hooks = {"page": report.write, "measure": measure}
    names = list(eval_sets)
    show = logged.shown(args.reward_funcs, names)

    # --- loop ---
    more = {"rows": Rows.none().plain()}  # of earlier steps; a checkpoint has them
    with Run(
        args, save_model, model_bytes, optimizer, resume, None, more, "rethink", **hooks
    ) as run:
        disk.announce(out, rundir.to_write(args, model_bytes, run.state_bytes, max_steps))
        kept.keep_sets(out / "samples", eval_sets)
        print(f"model: {model.describe(policy)}; prompt template {args.prompt_template}")
        logged.print_plan(args, size, max_steps)
        print(WHAT_TO_WATCH)
        if run.step == 0:
            before = measure(0)
            results.print_before(before, names)
            run.log(before)
            report.write(out)
            print(
                f"what the model saw and answered is in {out}/report.html, which grows with the run"
            )
        encode = partial(asker.prompt, room=limit)
        asked_at = partial(data.take, examples, seed=args.seed)
        todo = range(run.step + 1, max_steps + 1)
        ahead = shares.prompts_ahead(encode, examples, todo, N, K, args.seed, args.num_workers)
        encoded = run.enter_context(ahead)
        for step in run.steps(max_steps):
            started = time.perf_counter()
            device.seed_everything(args.seed, step - 1)
            chosen = data.take(examples, (step - 1) * N, N, args.seed)
            prompts = next(encoded)
            waited = time.perf_counter() - started

            # 1. sample G completions for each of N prompts -> B = N * G rows
            roll_seed = args.seed * 1_000_000 + step - 1
            groups = draw(chosen, prompts, roll_seed)
            rolled = time.perf_counter()

            # 2. score them
            undecided = answers.undecided()
            groups = judge(groups)
            scored = time.perf_counter()

            # 3. compare within the group; where there is nothing to compare, ask another question
            def again(number: int, attempt: int, step: int = step, seed: int = roll_seed) -> Groups:
                place = args.seed, step, attempt, args.max_resample_times
                more = further(examples, number, N, *place)
                return judge(draw(more, shares.encoded(encode, more), seed + attempt * RETRY))

            groups, sampled = refilled(groups, args.max_resample_times, again, compared)
            undecided = sum(ranks.gathered(answers.undecided() - undecided))
            groups = shares.completed(groups, K, encode)
            prompts, roll, adv = groups.prompts, groups.roll, compared(groups)  # adv: (B,)
            place, seed = (step - 1) * N, roll_seed + RETRY
            wanted = policy, processor, sampling, groups, place
            thoughts, thought = rethink(*wanted, IMITATED, seed)
            refilled_at = time.perf_counter()

            # 4. fixed during the updates: what each token counts, and log-probs without gradient
            counted = roll.mask  # (B, T)
            if args.mask_truncated_completions:
                counted = losses.truncation_mask(roll.mask, roll.finished())
            policy.eval()  # without LoRA dropout, as in the rollout
            every = partial(batches, prompts, roll, K)
            logp_without_dropout = ref_logp = None
            if args.lora_r and args.lora_dropout:
                logp_without_dropout = frozen_logps(policy, every(), logp_of, counted)  # (B, T)
            if reference:
                with reference as frozen:
                    ref_logp = frozen_logps(frozen, every(), logp_of, counted)  # (B, T)
            learned = learned_tokens(policy, every, logp_of, counted, args.top_entropy_quantile)
            columns = adv, counted, learned, ref_logp
            minibatches = cut(roll, prompts, K, batches, weigh, *columns)
            buffer = Rows.of_plain(more["rows"])
            again = buffer.drawn(int((adv == 0).sum()), seed)
            lone = partial(alone, ask=asked_at, encode=encode, batches=batches, weigh=weigh)
            minibatches = beside(minibatches, thoughts, again, place, G, lone)
            fresh = Rows(roll, adv, [place + row // G for row in range(N * G)])
            more["rows"] = buffer.and_new(fresh, N * G // 2).plain()

            # 5. clipped gradient steps, in micro-batches
            policy.train()
            # None: the policy is that of the rollout, and the first update's ratio is 1.
            old_logp, clips, updates = None, [], []
            first_logp, first_entropy = torch.zeros_like(counted), torch.zeros_like(counted)
            for iteration, (rows, batch) in product(range(args.num_iterations), minibatches):
                optimizer.zero_grad()
                old = old_logp if old_logp is None else old_logp[rows]
                part = grpo_gradient(policy, batch, logp_of, goal, old)
                loss, new_logp, entropy, balance = shares.added(*part, trained)
                # The first update's ratio is 1: its denominator is this pass itself, with dropout.
                denominator = new_logp if old is None else old
                clips.append(goal.clip_ratio(new_logp, denominator, batch.adv, batch.counted))
                if iteration == 0:
                    first_logp[rows], first_entropy[rows] = new_logp, entropy
                if old_logp is None:
                    first_balance, computed = balance, new_logp
                    if logp_without_dropout is not None:
                        computed = logp_without_dropout[rows]
                    both = roll.logp[rows], computed, roll.mask[rows]
                    gap, agrees = agreement.check(*both, goal.takes, step)
                    old_logp = roll.logp if agrees else logp_without_dropout
                    if old_logp is None and args.num_iterations * K > 1:
                        old_logp = frozen_logps(policy, every(), logp_of, counted)
                updates.append([loss, update.clip_gradient(trained, args.max_grad_norm, step)])
                optimizer.step()
            loss, grad_norm = torch.tensor(updates, dtype=torch.float64).mean(0)

            # 6. log, and evaluate if that is due
            seconds = time.perf_counter() - started
            metrics = {
                "loss": loss,
                **logged.sample_metrics(groups, sampled, args.reward_weights, adv),
                **logged.policy_metrics(first_logp, first_entropy, ref_logp, counted, clips, gap),
                **first_balance,
                **thought,
                "replayed": len(again.asked),
                "rewards/undecided": undecided,
                "grad_norm": grad_norm,
                "learning_rate": run.learning_rate,
                "step_time": seconds,
                "data_time": waited,
                "rollout_time": rolled - started,
                "reward_time": scored - rolled,
                "resample_time": refilled_at - scored,
                "tokens_per_second": int(roll.mask.sum()) / seconds,
            }
            if args.num_iterations * K > 1:
                metrics["old_logp_from_rollout"] = agrees
            run.log({name: float(value) for name, value in metrics.items()}, show)
            is_shown = step == 1 or run.due(args.eval_steps or 50)
            if is_shown or run.due(kept.every(max_steps)):
                about = groups.examples, groups.completions, groups.parts
                kept.keep_samples(out / "samples", step, *about, adv.tolist())
            if is_shown:
                logged.show_samples(out / "samples", step, groups, args.reward_weights, adv)

    # --- the end: publish, compare, draw ---
    run.publish()
    before, after = run.history.at(0), run.history.at(run.step)
    if f"eval/{names[0]}/accuracy" not in after:
        # It was resumed to stop at a step that an earlier, longer run did not evaluate.
        after |= measure(run.step)
    logged.finish(run.history.lines, args, before, after, eval_sets, run.step, out)


if __name__ == "__main__":
    running.run(main, parse_args, several=True)
