"""The iterative stage: a model answers, what came out right or wrong is sorted into a pool, and the next model learns from what is built from the pool.

    star   answer-filtered self-training (STaR, arXiv:2203.14465): imitate the right answers           L = L_SFT
    r3v    and reflect on the wrong ones (R3V, arXiv:2411.00855): mend them, choose among candidates    L = L_SFT + L_REF + L_SEL
    dpo    prefer right to wrong ones (arXiv:2305.18290)                                                L = -log sigmoid(beta (Delta_c - Delta_r)), Delta = log pi / pi_ref
    mpo    the same, with what is good in itself, and imitation (arXiv:2411.10442)                      L = 0.8 L_dpo + 0.2 L_bco + NLL_c / |y_c|
An iteration: sample K answers to each question, --eval-batch-size at a time -> build training data from all pools so far -> train -> evaluate. Each leaves its files in iteration-T/, and a killed
run goes on in the phase it was in. Iteration 0 is the given model, or, with --warmup-data, that model trained on worked solutions and direct answers.
Differences from the releases:
 1. Built prompts keep their options; right candidates stand in each place equally often; sets with a right and with a wrong majority are balanced (R3V: neither).
 2. A selection that names no candidate's answer falls back on the majority, and is counted. What cannot be read is wrong, never guessed, and in the pool kept apart.
 3. The reference of dpo and mpo is the policy that the iteration starts from, an adapter included; its log-probs are computed once, before the first step.
 4. The reward shift delta counts pairs, which go through the model one at a time, prompt and picture once for both responses.
 5. Rates and batches are this repository's (32 a step, linear decay, 1e-4 with LoRA; a tenth of that for pairs), not R3V's (64, 3e-5, constant after a warm-up) or MPO's (256, 5e-6 for all
    weights, cosine; 32 samples a question at temperature 1): give theirs by --batch-size, --learning-rate, --lr-scheduler-type, --warmup-steps, --num-generations, --temperature.

On a laptop (runs/basics: the tiny model after README's two train_sft.py commands):
    python selftrain.py --method r3v --model runs/basics --data table --max-train-samples 512 --warmup-data table --num-train-epochs 2 --learning-rate 5e-4 --per-example --max-completion-length 100 --output-dir runs/r3v
On one GPU (QLoRA; given pairs in MMPR's, RLHF-V's or TRL's format):
    python selftrain.py --method mpo --pairs mmpr.jsonl --image-folder images/ --model Qwen/Qwen2-VL-7B-Instruct --quant nf4 --gradient-checkpointing --output-dir runs/mpo

Below come the builders, text in and text out, then the phases, then `main`.
A pool is a list of lines, one sample each, oldest first:
    {"id": example id, "iteration": 1, "sample": 0, "completion": text, "answer": "3" or None, "right": True, "readable": True, "tokens": 57, "finish": "stop" or "length"}
A sample is wrong if its answer is not the gold one, and unreadable if no answer could be read in it. No builder writes to its arguments or draws lots but from the
random.Random (or the seed) it is given.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import dataclasses
import gc
import random
import shutil
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

import data
import losses
import model as modeling
import pools
import rewards
import rollout
import tasks as tasks_
from grading.metrics import majority, select, wilson
from plumbing import device, disk, flags, lock, plots, records, rundir, running, stopping, sums
from plumbing.arguments import flag, label_of, run_id, same_flags, write_args
from plumbing.arguments import flags_given as typed
from plumbing.errors import UserError
from plumbing.log import MetricsLog, line_of, metrics_of, say
from plumbing.text import short
from tasks import protocols, toy
from tasks.example import Pair
from tasks.pairs import read_pairs
from tasks.prompts import (
    DEFAULT_TEMPLATE,
    SELECT,
    question_text,
    select_prompt,
    template_of,
    with_question,
)
from update import (
    clip_gradient,
    imitate,
    lr_scale,
    make_optimizer,
    optimizer_bytes,
    prefer,
    reference_logps,
    texts_of,
)

POOLS = (
    "pool.jsonl",
    "pool_instructed.jsonl",
)  # of an iteration: samples asked for plainly, and with MPO's instructions


# --------------------------------------------------------------------------------------------------------------------- the phases


def check_pools(out, examples, args):
    """Refuse to go on with samples of questions that are not there: UserError before any work.

    examples: {id: Example} of --data.
    """
    for path in sorted(path for name in POOLS for path in out.glob(f"iteration-*/{name}")):
        lines, _ = records.good_lines(path, label_of(args, path))
        unknown = next((line for line in lines if line["id"] not in examples), None)
        if unknown:
            raise UserError(
                f"{path} has samples of {short(unknown['id'], 60)!r}, and {args.data} has no "
                "question of that id: the data have changed, or their ids are made otherwise now; "
                "begin anew in another --output-dir"
            )


def check_order(file, ids):
    """Refuse to go on with lines of other questions than these, in order: the data have changed.

    file: records.Lines. ids: one for each line of the finished file.
    """
    for number, (line, id) in enumerate(zip(file.lines, ids), 1):
        if line["id"] != id:
            raise UserError(
                f"{file.path}:{number} is of {short(line['id'], 60)!r}, where the data have "
                f"{short(id, 60)!r}: they have changed; begin anew in another --output-dir"
            )


def made_again(out, t):
    """What to do about a file of iteration t that is damaged and that nothing else can restore."""
    return (
        f"delete iteration-{t} and what follows it in {out}, and go on with "
        "--resume-from-checkpoint: they are made again as they were"
    )


def sample_into(
    path, policy, processor, asks, examples, score, G, args, seed, temperature, describe, **more
):
    """G samples of each ask, appended to the file `path` a batch at a time: its lines, G for each, in order. What a run that was killed has left there is kept.

    asks: examples whose question is the whole user turn; examples: what they are scored as, by score(text, example) -> (answer or None, right). more: for every line.
    """
    step = max(1, args.eval_batch_size // G)
    file = records.Lines(path, label_of(args, path), step * G, len(asks) * G)
    check_order(file, [e.id for e in examples for _ in range(G)])
    for at in tqdm(
        range(len(file.lines) // G, len(asks), step), desc=describe, unit="batch", leave=False
    ):
        batch, lines = asks[at : at + step], []
        texts, lengths, finish = rollout.answer_all(
            policy,
            data.Asker(processor, "none", args.system_prompt),
            batch,
            rollout.Sampling(
                args.max_completion_length,
                temperature,
                top_p=args.top_p if temperature else 1.0,
                top_k=args.top_k if temperature else 0,
            ),
            G,
            batch_size=step * G,
            first_row=at * G,
            seed=seed,
        )
        for row, (text, tokens, end) in enumerate(zip(texts, lengths, finish)):
            example = examples[at + row // G]
            # A policy can spell <|im_end|> letter by letter, which no training text may.
            answer, right = (
                (None, False)
                if any(token in text for token in processor.special.reserved)
                else score(text, example)
            )
            lines.append(
                {
                    "id": example.id,
                    **more,
                    "sample": row % G,
                    "completion": text,
                    "answer": answer,
                    "right": right,
                    "readable": answer is not None,
                    "tokens": tokens,
                    "finish": end,
                }
            )
        file.append(lines)
    return file.lines


def sample_pool(folder, policy, processor, examples, score, args, t):
    """Phase 1 of iteration t: --num-generations samples of each question, with --instructions mpo half of them instructed: (pool lines, {metric: share of them})."""
    questions = list(examples.values())
    plain = [question_text(e, args.prompt_template) for e in questions]
    prompted = [plain, [pools.instructed(prompt, e.task) for prompt, e in zip(plain, questions)]]
    pool = []
    for n, (share, prompts) in enumerate(zip(pools.pool_shares(args), prompted)):
        if share:
            pool += sample_into(
                folder / POOLS[n],
                policy,
                processor,
                [with_question(e, prompt) for e, prompt in zip(questions, prompts)],
                questions,
                score,
                share,
                args,
                (args.seed * 100 + t) * 10 + n,
                args.temperature,
                f"iteration {t}: sample",
                iteration=t,
            )
    known = [
        line for line in pool if examples[line["id"]].answer
    ]  # of the others nobody knows what is right
    return pool, {f"pool/{kind}": share for kind, share in pools.shares_of(known).items()}


def build_items(folder, policy, processor, examples, pool, score, args, t):
    """Phase 2 of iteration t for star and r3v: (items from this pool and those of the iterations before, {metric: count}). Raises UserError if there are none."""

    def wording(e):
        return question_text(e, args.prompt_template)

    hinted = []
    if args.rationalization:
        lost = [examples[id] for id, (right, _, _) in pools.sort_pool(pool).items() if not right]
        hinted = sample_into(
            folder / "hinted.jsonl",
            policy,
            processor,
            [with_question(e, pools.hint_prompt(wording(e), e.answer)) for e in lost],
            lost,
            score,
            1,
            args,
            args.seed,
            0,
            f"iteration {t}: with the answer as a hint",
            iteration=t,
        )
    before = []
    for i in range(1, t):
        for name, share in zip(POOLS, pools.pool_shares(args)):
            path, total = folder.parent / f"iteration-{i}" / name, share * len(examples)
            before += records.finished_lines(
                path, label_of(args, path), total, made_again(folder.parent, i)
            )
    tasks = [task for task in METHODS[args.method] if getattr(args, f"{task}_weight", 1)]
    built, counts = pools.build(
        examples,
        before + pool,
        wording,
        tasks,
        args.select_sizes,
        args.seed * 100 + t,
        hinted=hinted,
        instruction=SELECT.get(args.prompt_template),
        bare=args.prompt_template in pools.BARE_ANSWERS,
    )
    whole = [
        item
        for item in built
        if fits(with_question(examples[item["id"]], item["prompt"]), processor, args)
    ]
    counts |= {
        "too_long": len(built) - len(whole),
        **{task: sum(item["task"] == task for item in whole) for task in tasks},
    }
    shares = pools.shares_of(pool)
    print(
        f"iteration {t}: samples "
        + ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items())
        + f"; of {counts['questions']} questions in all "
        f"pools {counts['all_right']} all right, {counts['mixed']} mixed, {counts['all_wrong']} without a right one; built "
        + ", ".join(f"{counts[task]} {task}" for task in tasks)
    )
    if not whole:
        raise UserError(
            f"iteration {t}: nothing was built from {folder}/pool.jsonl, {shares['right']:.1%} of whose samples are right; start from a model that answers right now and then, "
            "or, in another --output-dir, raise --num-generations or --max-completion-length"
        )
    return whole, {f"built/{name}": count for name, count in counts.items()}


def build_pairs(folder, policy, processor, examples, pool, args, t):
    """Phase 2 of iteration t for dpo and mpo: (list of data.Pair from this pool, {metric: count}). Raises UserError if there are none."""
    sorts, spent, more = pools.sort_pool(pool), sum(line["tokens"] for line in pool), {}
    if args.pair_source == "correctness":
        rng, found = random.Random(args.seed * 100 + t), []
        for id, (right, wrong, unreadable) in sorts.items():
            answers, formats = pools.correctness_pairs(
                right, wrong, unreadable, rng, args.max_pairs, examples[id].choices
            )
            found += [
                (id, a["completion"], b["completion"], kind)
                for kind, some in (("answer", answers), ("format", formats))
                for a, b in some
            ]
    else:
        chosen = [lines[-1] for right, _, _ in sorts.values() if (lines := pools.usable(right, 0))]
        asks = [
            with_question(
                examples[line["id"]], question_text(examples[line["id"]], args.prompt_template)
            )
            for line in chosen
        ]
        ends = continue_into(
            folder / "continuations.jsonl",
            policy,
            processor,
            chosen,
            asks,
            args,
            (args.seed * 100 + t) * 10 + 9,
        )
        spent += sum(end["tokens"] for end in ends)
        made = [
            (
                line["id"],
                pools.ntp_pair(
                    line["completion"].strip(),
                    end["prefix"],
                    end["continuation"],
                    examples[line["id"]].choices,
                    protocols.reader(args.protocol),
                ),
            )
            for line, end in zip(chosen, ends)
        ]
        found = [(id, *pair, "dropout_ntp") for id, pair in made if pair]
        more = {
            "pairs/tokens_used_per_pair": sum(line["tokens"] for line in chosen + ends)
            / max(1, len(found))
        }  # what --num-generations 1 would have spent
    found = [
        pair
        for pair in found
        if not any(token in text for text in pair[1:3] for token in processor.special.reserved)
    ]  # spelt letter by letter
    if not found:
        right = sum(line["right"] for line in pool) / len(pool)
        raise UserError(
            f"iteration {t}: no pair could be made of {folder}/pool.jsonl ({right:.1%} of its samples are right); raise --num-generations or --max-train-samples, "
            "in another --output-dir"
        )
    pairs, kinds = (
        [Pair(examples[id], a.strip(), b.strip(), kind) for id, a, b, kind in found],
        Counter(kind for *_, kind in found),
    )
    print(
        f"iteration {t}: {len(pairs)} pairs ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), {spent / len(pairs):.0f} sampled tokens a pair"
    )
    return pairs, {
        "pairs/tokens_per_pair": spent / len(pairs),
        **more,
        **{f"pairs/{kind}": count for kind, count in kinds.items()},
    }


def continue_into(path, policy, processor, chosen, asks, args, seed):
    """DropoutNTP's continuations, appended to `path`: the beginning of each chosen text, and how the policy goes on from there without the image.

    chosen: pool lines; asks: for each an example whose question is the whole user turn. Returns [{"id", "sample", "prefix", "continuation", "tokens"}, ...].
    """
    step = args.eval_batch_size
    verbatim = data.Asker(processor, "none", args.system_prompt)
    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    label = label_of(args, path, [line["completion"] for line in chosen])
    file = records.Lines(path, label, step, len(chosen))
    check_order(file, [line["id"] for line in chosen])
    for at in tqdm(
        range(len(file.lines), len(chosen), step),
        desc="continue without the image",
        unit="batch",
        leave=False,
    ):
        batch = [
            (line, pools.truncate_words(line["completion"].strip(), args.start_ratio), ask)
            for line, ask in zip(chosen[at : at + step], asks[at : at + step])
        ]
        prompts = [
            data.append_response(
                verbatim.prompt(pools.blind(ask), 2 * args.max_completion_length),
                prefix,
                processor,
            )
            for _, prefix, ask in batch
        ]
        roll = rollout.rollout(
            policy,
            prompts,
            processor.special,
            1,
            sampling,
            seed=seed,
            first_row=at,
        )
        file.append(
            [
                {
                    "id": line["id"],
                    "sample": line["sample"],
                    "prefix": prefix,
                    "continuation": processor.decode(ids[:n]),
                    "tokens": n,
                }
                for (line, prefix, _), ids, n in zip(batch, roll.targets, roll.lengths.tolist())
            ]
        )
    return file.lines


def train(folder, policy, processor, rows, update, args, t, state):
    """Trains `policy` on `rows` (items or pairs), by update(rows of a step) -> metrics, and publishes it in `folder`. Goes on from the newest checkpoint there: its weights are
    loaded already. state: a dict that is saved and restored with it."""
    found = rundir.checkpoints(folder)
    if args.learning_rate is None:
        args.learning_rate = (1e-4 if args.lora_r else 1e-5) / (
            10
            if args.method in PREFERENCE and args.lora_r
            else 2
            if args.method in PREFERENCE
            else 1
        )
    max_steps = data.steps_of(
        args.max_steps, args.num_train_epochs, args.data, rows, args.batch_size
    )
    trained = [q for q in policy.parameters() if q.requires_grad]
    optimizer = make_optimizer(args.optim, trained, args.learning_rate)
    step = 0
    if found:
        saved = rundir.load_state(found[-1])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        state |= saved["more"]
        del saved  # the optimizer has it now
    log = MetricsLog(
        folder, metrics_of(found[-1] if found else None), args.report_to, args.logging_steps
    )
    save_model = lambda directory: (
        modeling.save(policy, processor, directory),
        write_args(directory, args),
    )
    model_bytes, state_bytes = (
        modeling.saved_bytes(policy, processor),
        optimizer_bytes(optimizer),
    )
    shown = [
        "loss",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen_change",
        "loss/cot",
        "loss/refine",
        "loss/select",
        "grad_norm",
    ]
    fallen, change = False, []
    bar = tqdm(
        total=max_steps, initial=step, desc=f"iteration {t}: train", unit="step", leave=False
    )
    with stopping.Stop() as stop:
        while step < max_steps:
            started = time.perf_counter()
            device.seed_everything(args.seed * 1000 + t, step)
            scale = lr_scale(step, max_steps, args.warmup_steps, args.lr_scheduler_type)
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * scale
            policy.train()
            optimizer.zero_grad()
            metrics = update(
                data.take(rows, step * args.batch_size, args.batch_size, args.seed * 1000 + t)
            )
            metrics["grad_norm"] = clip_gradient(trained, args.max_grad_norm, step + 1)
            optimizer.step()
            step += 1
            seconds = time.perf_counter() - started
            metrics |= {
                "learning_rate": args.learning_rate * scale,
                "step_time": seconds,
                "tokens_per_second": metrics.pop("tokens") / seconds,
            }
            bar.update()
            bar.set_postfix(loss=f"{metrics['loss']:.3f}")
            log.log(step, metrics, shown, step == max_steps)
            if (
                "logps/chosen_change" in metrics
            ):  # the failure that everybody meets: both responses become unlikely, and only the margin grows
                change = (
                    change
                    + [
                        metrics["logps/chosen_change"]
                        / max(1.0, abs(metrics["logps/chosen_start"]))
                    ]
                )[-10:]
                if not fallen and sum(change) / 10 < -0.1:
                    fallen = True
                    say(
                        f"  warning: step {step}: the chosen responses have lost {-sum(change) / 10:.0%} of their log-probability since the start; the margin grows because the rejected "
                        "ones lose more. --loss-type sigmoid sft (or --method mpo), a lower --learning-rate or fewer steps contain it"
                    )
            leaving = (
                stop.requested
            )  # asked once: the step that is named below is the one that is saved here
            if leaving or step == max_steps or args.save_steps and step % args.save_steps == 0:
                rundir.save_checkpoint(
                    folder,
                    step,
                    save_model,
                    {"optimizer": optimizer.state_dict(), "more": state},
                    log,
                    args.save_total_limit,
                    model_bytes + state_bytes,
                    leaving,
                )
            if leaving:
                bar.close()
                stop.leave(
                    f"stopped in the training of iteration {t}, after step {step}; go on with --resume-from-checkpoint"
                )
    bar.close()
    optimizer.zero_grad()  # the evaluation needs the room
    policy.eval()
    rundir.publish(folder, save_model, model_bytes)
    disk.write_json(folder / "trained.json", {"steps": step, "rows": len(rows)})
    for checkpoint in rundir.checkpoints(folder):  # the published model is their end
        rundir.remove(checkpoint)


def evaluate(folder, policy, processor, name, examples, args, score, at):
    """Test@1 and, from --num-samples samples, majority, pass@N and for r3v self-select, on one --eval-data: ({metric: value}, lines for people). `at`: its number."""
    N, template = args.num_samples, args.prompt_template
    asks = [with_question(e, question_text(e, template)) for e in examples]
    file = lambda what: folder / f"eval_{at}_{what}.jsonl"
    greedy = sample_into(
        file("greedy"),
        policy,
        processor,
        asks,
        examples,
        score,
        1,
        args,
        args.seed,
        0,
        f"asking {name}",
    )
    rate = lambda marks: sum(marks) / max(1, len(examples))
    result = {
        "accuracy": rate(line["right"] for line in greedy),
        "n": len(examples),
        "parse_failures": sum(not line["readable"] for line in greedy),
        "mean_length": rate(line["tokens"] for line in greedy),
    }
    result["accuracy_low"], result["accuracy_high"] = wilson(
        sum(line["right"] for line in greedy), len(examples)
    )
    said = [[(f"greedy: {line['completion']}", {"right": line["right"]})] for line in greedy]
    if N:
        lines = sample_into(
            file("samples"),
            policy,
            processor,
            asks,
            examples,
            score,
            N,
            args,
            args.seed + 1,
            args.temperature,
            f"sampling {name}",
        )
        groups = [lines[i : i + N] for i in range(0, len(lines), N)]
        texts = [[line["completion"] for line in group] for group in groups]
        read = protocols.reader(args.protocol)
        gold = lambda answer, e: answer is not None and score(f"<answer> {answer} </answer>", e)[1]
        result[f"majority@{N}"] = rate(
            gold(majority(group, e.choices, read), e) for group, e in zip(texts, examples)
        )
        result[f"pass@{N}"] = rate(any(line["right"] for line in group) for group in groups)
        result["sample_accuracy"] = rate(
            sum(line["right"] for line in group) / N for group in groups
        )
        if args.method == "r3v" and args.select_weight and N > 1:
            selected = file("selected")
            file = records.Lines(
                selected, label_of(args, selected, texts), max(1, len(examples)), len(examples)
            )
            if not file.lines:
                shown = [
                    group
                    if fits(
                        with_question(
                            e,
                            select_prompt(question_text(e, template), group, SELECT.get(template)),
                        ),
                        processor,
                        args,
                    )
                    else []
                    for e, group in zip(examples, texts)
                ]
                whole = [
                    i for i, group in enumerate(shown) if group
                ]  # what has no room for all its candidates is left to the majority
                some, spent, _ = rollout.self_select(
                    policy,
                    data.Asker(processor, template, args.system_prompt),
                    [examples[i] for i in whole],
                    [shown[i] for i in whole],
                    rollout.Sampling(args.max_completion_length, temperature=0),
                    batch_size=args.eval_batch_size,
                    describe=f"selecting {name}",
                )
                chosen, lengths = (
                    [dict(zip(whole, values)).get(i, empty) for i in range(len(examples))]
                    for values, empty in ((some, ""), (spent, 0))
                )
                picks = [
                    select(protocols.on_a_line(text, args.protocol), group, e.choices, read)
                    for text, group, e in zip(chosen, texts, examples)
                ]
                picks = [
                    {
                        "id": e.id,
                        "selection": text,
                        "answer": answer,
                        "how": how,
                        "right": gold(answer, e),
                        "tokens": n,
                    }
                    for e, text, (answer, how), n in zip(examples, chosen, picks, lengths)
                ]
                file.append(picks)
            picks = file.lines
            asked = [
                pick["how"] == "selected" for pick in picks if pick["tokens"]
            ]  # the others had no room
            result |= {
                f"self_select@{N}": rate(pick["right"] for pick in picks),
                "invalid_selections": asked.count(False) / max(1, len(asked)),
                "not_asked_to_select": len(picks) - len(asked),
            }
            said = [
                mine
                + [
                    (f"sample {k}: {line['completion']}", {"right": line["right"]})
                    for k, line in enumerate(group, 1)
                ]
                + [(f"selected: {pick['selection']}", {"right": pick["right"]})]
                for mine, group, pick in zip(said, groups, picks)
            ]
    return result, said


def with_answers(sets):
    """{name: examples to ask}, without those that have no gold answer: of them nobody knows what is right. UserError for a gold that cannot be scored."""
    found = {name: [e for e in some if e.answer] for name, some in sets.items()}
    for name, some in found.items():
        if len(some) < len(sets[name]):
            print(
                f"evaluation: {len(sets[name]) - len(some)} of {len(sets[name])} questions of {name} have no gold answer and are left out"
            )
        data.check_golds(some, rewards.check_gold)
    return {name: some for name, some in found.items() if some}


def fits(ask, processor, args):
    """Whether a whole user turn (an example's question), and an answer of --max-completion-length tokens, fit the model's context."""
    try:
        verbatim = data.Asker(processor, "none", args.system_prompt)
        return bool(verbatim.check([ask], args.max_completion_length))
    except UserError:
        return False


# Flags that only some methods know; given to another they would be ignored without a word.
PREFERENCE = ("dpo", "mpo")
IMITATION = ("star", "r3v")
FLAGS_OF = {
    "refine_weight": ("r3v",),
    "select_weight": ("r3v",),
    "select_sizes": ("r3v",),
    **dict.fromkeys(
        (
            "rationalization",
            "continue_training",
            "warmup_data",
            "max_warmup_samples",
            "direct_template",
            "direct_weight",
            "warmup_weight",
            "per_example",
            "micro_batch_size",
        ),
        IMITATION,
    ),
    **dict.fromkeys(
        (
            "pairs",
            "image_folder",
            "pair_source",
            "start_ratio",
            "max_pairs",
            "loss_type",
            "loss_weights",
            "beta",
            "label_smoothing",
        ),
        PREFERENCE,
    ),
}
METHODS = {
    "star": ("cot",),
    "r3v": pools.BUILT,
    "dpo": ("sigmoid",),
    "mpo": losses.MPO["loss_type"],
}  # what is built, or what a pair costs


def parse_args(argv=None):
    p = flags.Parser(__doc__, "selftrain.py")
    p.add_argument(
        "--method",
        choices=METHODS,
        required=True,
        help="star and r3v imitate what is built from the pool; dpo and mpo learn from pairs",
    )
    flags.add_model_flags(p)
    flags.add_training_flags(p)
    g = flags.add_data_flags(p)
    g.add_argument(
        "--max-train-samples",
        type=flags.int_from_1,
        help="questions (or --pairs) to learn from: the first so many; default: all of a file, 1024 of a toy task",
    )
    g.add_argument(
        "--warmup-data",
        metavar="DATA",
        help="worked solutions that stay in every iteration's mix (a toy task: its fallible teacher's); iteration 0 trains on them",
    )
    g.add_argument(
        "--max-warmup-samples",
        type=flags.int_from_1,
        help="how many of them; default: all of a file, a tenth of the questions of a toy task",
    )
    g.add_argument(
        "--direct-template",
        help="how the direct-answer data ask, by name; default: answer where reasoning is asked for in tags, else direct",
    )
    g.add_argument(
        "--protocol",
        choices=sorted(protocols.PROTOCOLS),
        help="read and score answers as this benchmark does; default: the accuracy reward",
    )
    g = p.add_argument_group("rollout")
    g.add_argument(
        "--iterations",
        type=flags.int_from_1,
        help="rounds of sampling, building and training; default: 3 for star and r3v, 1 for dpo and mpo",
    )
    g.add_argument(
        "--num-generations",
        type=flags.int_from_1,
        default=3,
        help="K, samples of each question in each iteration",
    )
    g.add_argument(
        "--max-completion-length",
        type=flags.int_from_1,
        default=384,
        help="tokens of a sampled completion at most (given --pairs may be as long as the context)",
    )
    g.add_argument(
        "--temperature", type=flags.not_negative, default=0.9, help="sampling temperature"
    )
    g.add_argument(
        "--top-p",
        type=flags.share,
        default=0.95,
        help="sample among the likeliest tokens that make up this mass",
    )
    g.add_argument(
        "--top-k",
        type=flags.int_from_0,
        default=50,
        help="sample among this many likeliest tokens, 0: all",
    )
    g.add_argument(
        "--instructions",
        choices=["plain", "mpo"],
        default="plain",
        help="mpo: every other sample is asked for with one of MPO's three instructions for reasoning, by the example's task",
    )
    g.add_argument(
        "--rationalization",
        action="store_true",
        default=False,
        help="STaR: questions without a right sample are asked again with the answer as a hint",
    )
    g = p.add_argument_group("objective")
    g.add_argument(
        "--continue-training",
        action="store_true",
        default=False,
        help="each iteration trains the model of the one before; default: star and r3v train the given model anew",
    )
    g.add_argument(
        "--select-sizes",
        type=int,
        nargs="+",
        default=[3],
        metavar="N",
        help="r3v: candidates in a set to select from; 2 3 4 5 6 for scaling at test time",
    )
    for task, what in (
        ("refine", "L_REF"),
        ("select", "L_SEL"),
        ("direct", "the direct answers"),
        ("warmup", "the warm-up solutions"),
    ):
        g.add_argument(
            f"--{task}-weight",
            type=flags.not_negative,
            default=1.0,
            help=f"star and r3v: weight of {what} beside self-CoT; 0 leaves them out",
        )
    g.add_argument(
        "--per-example",
        action="store_true",
        default=False,
        help="every example counts the same; default: every token",
    )
    g.add_argument(
        "--pairs",
        metavar="DATA",
        help="dpo and mpo: learn from these pairs (MMPR, RLHF-V, TRL's columns, LLaMA-Factory) instead of sampling; their prompts stay as they are, and --prompt-template is for --eval-data",
    )
    g.add_argument(
        "--image-folder",
        metavar="DIR",
        help="where relative image paths of --pairs resolve; default: beside its file",
    )
    g.add_argument(
        "--pair-source",
        choices=["correctness", "dropout_ntp"],
        default="correctness",
        help="correctness: right against wrong samples; dropout_ntp: a sample against its beginning, continued without the image",
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
    g.add_argument(
        "--loss-type",
        nargs="+",
        choices=sorted(losses.PAIR_LOSSES),
        help="dpo and mpo: what a pair costs, to be added up; default: sigmoid, and for mpo sigmoid bco_pair sft",
    )
    g.add_argument(
        "--loss-weights",
        nargs="+",
        type=flags.not_negative,
        metavar="W",
        help="one weight per --loss-type; default: all 1, and for mpo 0.8 0.2 1.0",
    )
    g.add_argument(
        "--beta", type=flags.not_negative, default=0.1, help="how far log-ratios count as rewards"
    )
    g.add_argument(
        "--label-smoothing",
        type=flags.below_1,
        default=0.0,
        help="sigmoid: share of pairs taken to be the wrong way round (cDPO); below 0.5",
    )
    g.add_argument(
        "--batch-size", type=flags.int_from_1, default=32, help="examples, or pairs, per step"
    )
    flags.add_optimization_flags(
        p, "peak learning rate; default: 1e-4 with LoRA, 1e-5 without; dpo and mpo: 1e-5 and 5e-6"
    )
    flags.add_evaluation_flags(p)
    p.add_argument(
        "--num-samples",
        type=flags.int_from_0,
        default=3,
        help="samples of each held-out question for majority, self-select (r3v) and pass@N; 0: only greedy answers",
    )
    flags.add_output_flags(p)
    p.set_defaults(micro_batch_size=32, num_train_epochs=None)
    words = set(typed(argv))
    for action in p._actions:
        action.required = action.required and not ("pairs" in words and action.dest == "data")
    args = p.parse_args(argv)
    prefers = args.method in PREFERENCE
    for name in sorted(words & set(FLAGS_OF)):
        if args.method not in FLAGS_OF[name]:
            p.error(
                f"{flag(name)} is for --method {' and '.join(FLAGS_OF[name])}, not {args.method}: leave it away"
                + (
                    "; warm up by train_sft.py, and give the result as --model"
                    if name == "warmup_data"
                    else ""
                )
            )
    if args.pairs and args.data:
        p.error(
            "--pairs are given pairs, --data questions to sample pairs for: leave one of them away"
        )
    for name in sorted(
        words & {"pair_source", "start_ratio", "max_pairs", "instructions", "num_generations"}
        if args.pairs
        else ()
    ):
        p.error(
            f"{flag(name)} is for pairs that are sampled, and --pairs are given: leave one of them away"
        )
    if args.image_folder and not args.pairs:
        p.error(
            "--image-folder is where the images of --pairs are: those of --data lie beside its file"
        )
    if "start_ratio" in words and args.pair_source != "dropout_ntp":
        p.error("--start-ratio is for --pair-source dropout_ntp")
    if (
        prefers
        and not args.pairs
        and args.pair_source == "correctness"
        and args.num_generations < 2
    ):
        p.error(
            "--num-generations must be at least 2: a pair is a right and a wrong sample of one question"
        )
    if args.beta == 0 and prefers:
        p.error("--beta must be above 0: it is what turns log-ratios into rewards")
    if args.label_smoothing >= 0.5:
        p.error(
            "--label-smoothing must be below 0.5: from there on the pairs would say the opposite"
        )
    if args.temperature == 0 and not args.pairs:
        p.error("--temperature must be above 0: greedy samples of one question are all the same")
    if min(args.select_sizes) < 2:
        p.error("--select-sizes must be at least 2")
    if args.loss_type is None:
        args.loss_type = list(METHODS[args.method]) if prefers else []
        args.loss_weights = args.loss_weights or (
            list(losses.MPO["loss_weights"]) if args.method == "mpo" else None
        )
    if args.label_smoothing and "sigmoid" not in args.loss_type:
        p.error(
            f"--label-smoothing changes the loss sigmoid, which is not among --loss-type {' '.join(args.loss_type)}"
        )
    if args.loss_weights and len(args.loss_weights) != len(args.loss_type):
        p.error(
            f"--loss-weights needs one weight for each of {' '.join(args.loss_type)}, got {len(args.loss_weights)}"
        )
    args.iterations = args.iterations or (1 if prefers else 3)
    if args.num_train_epochs is None:
        args.num_train_epochs = 1.0 if prefers else 3.0
    if args.eval_steps:
        p.error("--eval-steps has no meaning here: every iteration is evaluated at its end")
    if args.resume_from_checkpoint not in (None, "newest"):
        p.error(
            "--resume-from-checkpoint takes no directory here: a run goes on in the phase it was in"
        )
    if args.pairs and args.iterations > 1:
        p.error("--pairs are given once: --iterations is for sampled ones")
    return args


def check_weights(directory, out):
    """UserError if a model of this run, an iteration's or a checkpoint, is not as it was saved."""
    if directory.name.startswith("checkpoint-"):
        rundir.check_checkpoint(directory, by_name=False)
        return
    fault = sums.fault_of(directory)
    if fault:
        raise UserError(f"{fault}; {made_again(out, directory.name.split('-')[1])}")


def finished_iterations(out, args):
    """The log's lines of the iterations that are finished, from their result.json, up to the first that is not."""
    lines = []
    for t in range(args.iterations + 1):
        path = out / f"iteration-{t}" / "result.json"
        result = records.read_record(path, label_of(args, path))
        if result is None:
            if path.exists():
                print(
                    f"{path} is damaged: iteration {t} is evaluated again, from the answers that are there"
                )
            return lines
        if (path.parent / "train.jsonl").exists() and not (path.parent / "trained.json").is_file():
            raise UserError(f"{path.parent}/trained.json is missing; {made_again(out, t)}")
        lines.append(line_of(t, {name: float(value) for name, value in result.items()}))
    return lines


def to_write(policy, processor, examples, args):
    """What a run writes at the most, for disk.announce: what -> bytes. An answer is taken to have 4 bytes a token, and to be as long as it may be."""
    model, trained = (
        modeling.saved_bytes(policy, processor),
        [q for q in policy.parameters() if q.requires_grad],
    )
    state = 8 * sum(q.numel() for q in trained)
    answers = (
        args.iterations
        * len(examples)
        * args.num_generations
        * (4 * args.max_completion_length + 200)
    )
    return {
        f"checkpoints (at most {args.save_total_limit + 1})": (args.save_total_limit + 1)
        * (model + state),
        f"models (at most {args.iterations + 2})": (args.iterations + 2) * model,
        "samples and what is built of them": 3 * answers,
        "log and pictures": (args.iterations + 1) * 500_000,
    }


def main(args):
    # ---- setup: everything that can be wrong is found out before the first sample --------------------------------------------------
    prefers, out = args.method in PREFERENCE, Path(args.output_dir)
    disk.make_writable(out)
    if (out / "args.json").exists() or any(out.glob("iteration-*")):
        if args.resume_from_checkpoint is None:
            raise UserError(
                f"{out} already holds an earlier run; add --resume-from-checkpoint to go on with it, or name another --output-dir"
            )
        same_flags(args, out)
    else:
        rundir.refuse_anothers(out, args)
    run_id(args)  # now: flags that are found out below would change it
    if args.protocol:
        args.prompt_template = args.prompt_template or protocols.PROTOCOLS[args.protocol].template
    vars(args).update(data.ask_as_trained(args, "none" if args.pairs else DEFAULT_TEMPLATE))
    score, examples, warm, eval_sets, given = protocols.scorer(args.protocol), {}, {}, {}, None
    read = lambda spec, **more: tasks_.read(
        spec,
        args.seed,
        args.level,
        "fallible",
        args.box_format,
        args.min_pixels,
        args.max_pixels,
        **more,
    )
    if args.pairs:
        given = read_pairs(args.pairs, args.image_folder)[: args.max_train_samples]
    else:
        found = read(args.data, needs_answer=args.pair_source == "correctness" or not prefers)
        questions = data.head(
            found,
            args.max_train_samples or (1024 if isinstance(found, toy.ToyStream) else len(found)),
        )
        data.check_golds([e for e in questions if e.answer], rewards.check_gold)
        examples = {e.id: e for e in questions}
        assert len(examples) == len(questions), "data.read gives every example an id of its own"
        check_pools(out, examples, args)
    if args.warmup_data:
        solved = read(args.warmup_data)
        solved = data.head(
            solved,
            args.max_warmup_samples
            or (max(1, len(examples) // 10) if isinstance(solved, toy.ToyStream) else len(solved)),
        )
        lacking = next((e for e in solved if not e.solution), None)
        if lacking:
            raise UserError(
                f"{lacking.source}: --warmup-data needs a worked `solution` in every record; delete this one, or leave --warmup-data away"
            )
        prefix = "warmup:"
        while any(f"{prefix}{e.id}" in examples for e in solved):  # a question may have any id
            prefix += "warmup:"
        warm = {f"{prefix}{e.id}": e for e in solved}
        assert len(warm) == len(solved), "data.read gives every example an id of its own"
    everything = examples | warm
    if args.eval_data or not args.pairs:
        args.eval_data = args.eval_data or data.default_eval(args.data)
        eval_sets = data.read_eval(
            args.eval_data,
            {args.data: [] if args.pairs else questions},
            args.max_eval_samples,
            level=args.level,
            box_format=args.box_format,
            min_pixels=args.min_pixels,
            max_pixels=args.max_pixels,
        )
    eval_sets = with_answers(eval_sets)
    for some in (examples.values(), *eval_sets.values()) if args.protocol else ():
        protocols.judged([e for e in some if e.answer], args.protocol)
    if args.instructions == "mpo" and not any(
        str(e.task).lower() in pools.INSTRUCTION_OF for e in examples.values()
    ):
        raise UserError(
            f"{args.data}: --instructions mpo goes by the kind of picture, and no example says its kind; give the records a `task` "
            f"({', '.join(sorted(pools.INSTRUCTION_OF))}), or leave the flag away"
        )
    args.direct_template = args.direct_template or (
        "answer" if "<answer>" in template_of(args.prompt_template) else "direct"
    )
    template_of(args.direct_template)

    # ---- model -------------------------------------------------------------------------------------------------------------------
    def weights(t):
        """Where iteration t's weights are: its own folder, the newest before it that trained, or None, the given model."""
        return next(
            (
                out / f"iteration-{i}"
                for i in range(t, -1, -1)
                if (out / f"iteration-{i}" / "trained.json").is_file()
            ),
            None,
        )

    def load(directory):
        """Makes `policy` the model in this directory, unless it is. The old one goes before the next comes: two at a time would be twice the memory."""
        nonlocal policy, processor, held
        if policy is None or held != directory:
            policy = None
            gc.collect()
            if directory:
                check_weights(directory, out)
            needs = (
                None
                if args.warmup_data or args.pairs
                else "self-training needs one that already answers now and then, or --warmup-data"
            )
            policy, processor = modeling.load_from_args(
                args, train=True, resume=directory, needs_training=needs
            )
            held = directory

    policy = processor = held = None
    load(weights(args.iterations))
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    for some in (examples.values(), *eval_sets.values()):
        asker.check(list(some), args.max_completion_length)
    asker.check(list(warm.values()), args.max_completion_length, targets=True)
    if given:
        asker.check_pairs(given)
    make_optimizer(
        args.optim, [q for q in policy.parameters() if q.requires_grad], 0.0
    )  # found out now, not after an hour of sampling
    write_args(out, args)
    finished = finished_iterations(out, args)
    log = MetricsLog(out, finished, args.report_to)
    disk.announce(out, to_write(policy, processor, examples, args))
    print(f"model: {modeling.describe(policy)}; prompt template {args.prompt_template}")
    what = (
        f"{len(given)} given pairs"
        if given
        else f"{len(examples)} questions, {args.num_generations} samples of each an iteration"
    )
    print(
        f"{args.method}: {what}, {args.iterations} iteration(s)"
        + (f"; {len(warm)} warm-up solutions" if warm else "")
        + (f"; iteration {len(finished) - 1} is finished" if finished else "")
    )

    def wording(e):
        return question_text(e, args.prompt_template)

    def direct_items():
        return (
            [
                {
                    "id": e.id,
                    "task": "direct",
                    "prompt": question_text(e, args.direct_template),
                    "target": data.target_text(
                        dataclasses.replace(e, solution=None), args.direct_template
                    ),
                }
                for e in examples.values()
            ]
            if args.direct_weight
            else []
        )

    def warmup_items():
        return (
            [
                {
                    "id": id,
                    "task": "warmup",
                    "prompt": wording(e),
                    "target": data.target_text(e, args.prompt_template),
                }
                for id, e in warm.items()
            ]
            if args.warmup_weight
            else []
        )

    # ---- loop --------------------------------------------------------------------------------------------------------------------
    for t in range(args.iterations + 1):
        folder = out / f"iteration-{t}"
        if t < len(finished):
            continue
        folder.mkdir(exist_ok=True)
        lock.clean(folder)
        metrics, pairs, items = {}, given if t else None, []
        if (folder / "trained.json").is_file():
            for checkpoint in rundir.checkpoints(folder):  # killed before they were removed
                rundir.remove(checkpoint)
        else:
            # 1. sample K answers to each question with the model of the iteration before                    -> pool.jsonl
            if t and not given:
                load(weights(t - 1))
                pool, metrics = sample_pool(folder, policy, processor, examples, score, args, t)

            # 2. build: from all pools for star and r3v, from this one for dpo and mpo                        -> train.jsonl
            if t == 0 and warm:
                items = direct_items() + warmup_items()
            elif t and prefers and not given:
                pairs, more = build_pairs(folder, policy, processor, examples, pool, args, t)
                metrics |= more
            elif t and not prefers:
                built, more = build_items(folder, policy, processor, examples, pool, score, args, t)
                metrics, items = metrics | more, built + direct_items() + warmup_items()
            records.write_record(
                folder / "built.json", metrics, label_of(args, folder / "built.json")
            )
            if pairs:
                disk.write_lines(
                    folder / "train.jsonl",
                    [
                        {
                            "id": p.example.id,
                            "image": [
                                str(i) for i in p.example.images if isinstance(i, (str, Path))
                            ],
                            "question": p.example.question,
                            "chosen": p.chosen,
                            "rejected": p.rejected,
                            **({"kind": p.kind} if p.kind else {}),
                        }
                        for p in pairs
                    ],
                )
            elif items:
                random.Random(args.seed * 100 + t).shuffle(items)
                disk.write_lines(folder / "train.jsonl", items)

            # 3. train: the given model, or with --continue-training (and for dpo and mpo) the one before      -> the model, in the folder
            if items or pairs:
                found = rundir.checkpoints(folder)
                start = weights(t - 1) if args.continue_training or prefers else None
                state = {"total": 0.0, "count": 0}
                rows = items
                if pairs:  # the reference is where training starts, whatever the checkpoint
                    path = folder / "reference.jsonl"
                    known, _ = records.good_lines(path, label_of(args, path, texts_of(pairs)))
                    if len(known) < len(pairs):
                        load(start)
                    rows = list(zip(pairs, reference_logps(path, policy, processor, pairs, args)))
                load(found[-1] if found else start)

                def update(some):
                    """The gradient of a step, from some of the rows: {metric: value}."""
                    if pairs:
                        return prefer(
                            policy,
                            processor,
                            [pair for pair, _ in some],
                            [ref for _, ref in some],
                            args,
                            state,
                        )
                    return imitate(policy, processor, some, everything, args)

                train(folder, policy, processor, rows, update, args, t, state)
                held = folder
        load(weights(t))
        built = records.read_record(folder / "built.json", label_of(args, folder / "built.json"))
        if built is None:
            raise UserError(f"{folder}/built.json is damaged; {made_again(out, t)}")
        metrics = built | metrics

        # 4. evaluate                                                                                            -> eval_*.jsonl, result.json
        policy.eval()
        for n, (name, some) in enumerate(eval_sets.items()):
            result, said = evaluate(folder, policy, processor, name, some, args, score, n)
            metrics |= {f"eval/{name}/{k}": v for k, v in result.items()}
            if n == 0:
                rows = sorted(
                    zip(some, said), key=lambda row: all(marks["right"] for _, marks in row[1])
                )[:8]  # first those that went wrong
                plots.plot_samples(
                    [
                        {
                            "images": plots.images_for_a_sheet(e),
                            "question": e.question,
                            "answer": e.answer,
                            "completions": mine,
                        }
                        for e, mine in rows
                    ],
                    folder / "answers.png",
                    f"{args.method}, iteration {t}: {name}, some that went wrong",
                )
            print(
                f"iteration {t}: {name}: "
                + ", ".join(
                    f"{k} {v:.3f}"
                    for k, v in result.items()
                    if k in ("accuracy", "sample_accuracy") or "@" in k
                )
                + f"; {result['parse_failures']} unreadable"
            )
        log.log(t, {k: float(v) for k, v in metrics.items()})
        records.write_record(
            folder / "result.json", metrics, label_of(args, folder / "result.json")
        )
        if t < args.iterations:
            draw(out, log.lines, list(eval_sets), args)

    # ---- the end: publish, draw --------------------------------------------------------------------------------------------------
    draw(
        out, log.lines, list(eval_sets), args
    )  # here: a run that was stopped just before it has nothing else left to do
    last = weights(args.iterations)
    if last:
        names = list(sums.sums_of(last))
        rundir.publish(
            out,
            lambda directory: copy_files(last, names, directory),
            sum((last / name).stat().st_size for name in names),
        )
    disk.write_json(out / "result.json", {f"iteration-{m['step']}": m for m in log.lines})
    print(
        f"the model is in {out}, those of the iterations with their pools in {out}/iteration-*"
        + (f", the curve in {out}/curve.png" if (out / "curve.png").is_file() else "")
    )


def copy_files(source, names, directory):
    """Copy the files of a folder that have these names, which may lie in folders of it."""
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, directory / name)


def draw(out, lines, names, args):
    """curve.png: accuracy and the make-up of the pool, by iteration."""
    N = args.num_samples
    panels = [
        (
            name,
            [
                f"eval/{name}/{k}"
                for k in (
                    "accuracy",
                    "sample_accuracy",
                    f"majority@{N}",
                    f"self_select@{N}",
                    f"pass@{N}",
                )
            ],
        )
        for name in names
    ]
    panels += [
        ("samples of the training questions", ["pool/right", "pool/wrong", "pool/unreadable"]),
        ("questions, over all pools", [f"built/{k}" for k in ("all_right", "mixed", "all_wrong")]),
        ("built", [f"built/{k}" for k in pools.BUILT]),
    ]
    plots.plot_curve(
        lines,
        out / "curve.png",
        panels,
        f"selftrain.py --method {args.method}, {args.model}, {args.pairs or args.data}, seed {args.seed}",
        x="iteration",
    )


if __name__ == "__main__":
    running.run(main, parse_args)
