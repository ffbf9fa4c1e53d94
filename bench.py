"""The measurements that README quotes, each beside what it is compared with, in one run on the same work.

    python bench.py rewards                     # what scoring costs, as a share of a GRPO step (10 minutes on two cores)
    python bench.py rewards --prompts 8         # the same, smaller

Prints a table and writes it, with commit and versions, to --output-dir. Short times are the median of --repeats, with the range beside it; a GRPO step, which takes
minutes, is measured once. Compare figures of one run only, and as ratios: other processes on the machine move all of them.
"""
import random
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import torch

import data
import generate
import losses
import model as modeling
import rewards
import toyworld
import utils

WORDS = "so the next one is a small red object near row column left right wait let me check again and then count total blue circle square of it".split()


def parse_args(argv=None):
    p = utils.Parser(__doc__, "bench.py")
    p.add_argument("what", choices=sorted(MEASUREMENTS), help="which measurement")
    p.add_argument("--prompts", type=utils.positive, default=64, help="N, questions of a step")
    p.add_argument("--num-generations", type=utils.positive, default=8, help="G, completions per question")
    p.add_argument("--max-completion-length", type=utils.positive, default=500, help="tokens of every completion")
    p.add_argument("--micro-batch-size", type=utils.positive, default=32, help="rows per forward and backward pass of the update")
    p.add_argument("--repeats", type=utils.positive, default=5, help="times that scoring is measured; the GRPO step, which takes minutes, once")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    p.add_argument("--output-dir", default="runs/bench", help="where bench_NAME.json goes")
    return p.parse_args(argv)


def timed(function, repeats):
    """Seconds of `repeats` calls, in the order they were made."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds


def long_completions(examples, G, tokenizer, tokens, seed=0):
    """(completions, examples) of B = N * G rows, each close to `tokens` tokens long: reasoning of random words, no two alike, and an answer as the gold teacher
    writes it; the right one half of the time, else one to another question, so that answers repeat within a group as a policy's do."""
    rng = random.Random(seed)
    endings = ["</think>" + e.solution.partition("</think>")[2] for e in examples]
    texts, asked = [], []
    for e, right in zip(examples, endings):
        for _ in range(G):
            ending = right if rng.random() < 0.5 else rng.choice(endings)
            room = tokens - len(tokenizer("<think> " + ending)["input_ids"])
            words = tokenizer(" ".join(rng.choice(WORDS) for _ in range(tokens)))["input_ids"][:max(0, room)]
            texts.append("<think> " + tokenizer.decode(words) + ending)
            asked.append(e)
    return texts, asked


def bench_rewards(args):
    """Seconds to score N * G completions, for each reward and for the sets in use, against one GRPO step (rollout, update) of the tiny model with
    as many tokens: every row runs to the full length, as nothing may end it."""
    device, N, G, T = utils.pick_device(args.device), args.prompts, args.num_generations, args.max_completion_length
    policy, processor = modeling.load("tiny", device=device, train=SimpleNamespace(lora_r=0, lora_alpha=0, lora_dropout=0.0, freeze_vision=False, freeze_merger=False,
                                                                                  freeze_llm=False, gradient_checkpointing=False))
    optimizer = utils.make_optimizer("adamw", list(policy.parameters()), 1e-6)
    rows = []

    # ---- scoring: every reward alone on questions of its kind, and the usual sets ------------------------------------------------
    kinds = {}
    for task in sorted(toyworld.TASKS):
        examples = [data.ToyStream(task, "train", 0, 3, "gold")[i] for i in range(N)]
        kinds[task] = long_completions(examples, G, processor.tokenizer, T)
    lengths = [len(processor.tokenizer(text)["input_ids"]) for text in kinds["count"][0]]
    print(f"{N} x {G} = {N * G} completions of {statistics.mean(lengths):.0f} tokens ({sum(map(len, kinds['count'][0])) / N / G:.0f} characters)")
    rewards.symbolically_equal("x+1", "1+x")                         # starts the worker: once a run, not once a step
    sets = [("count", ["accuracy", "format"]), ("spatial", ["accuracy", "format", "repetition"]), ("ground", ["iou", "format"])]
    sets += [("ground" if name in rewards.NEEDS_BOXES else "spatial" if name == "mcq" else "count", [name]) for name in sorted(rewards.REWARDS)]
    for task, names in sets:
        texts, asked = kinds[task]
        seconds = timed(lambda: rewards.reward_parts(texts, asked, names, [T] * len(texts), T), args.repeats)
        rows.append({"what": "reward " + " + ".join(names), "task": task, "seconds": statistics.median(seconds), "low": min(seconds), "high": max(seconds)})

    # ---- a GRPO step with as many tokens -----------------------------------------------------------------------------------------
    stream = data.ToyStream("count", "train", 0, 3, "gold")
    prompts = [data.encode_prompt(stream[i], processor) for i in range(N)]
    endless = SimpleNamespace(**{**vars(processor.special), "eos_ids": []})

    def step():
        started = time.perf_counter()
        roll = generate.rollout(policy, prompts, endless, G, T)
        rolled = time.perf_counter()
        weights = losses.token_weights(roll.mask, "grpo", T)
        adv = losses.group_advantage(torch.rand(N * G), G)
        policy.train()
        optimizer.zero_grad()
        for a, b, first, last, counts in data.micro_batches(N * G, args.micro_batch_size, [G] * N):
            batch = data.collate(prompts[first:last], roll.targets[a:b], roll.mask[a:b], counts, device)
            logp = modeling.token_logps(policy, batch, 1.0, processor.special.vision_ids)
            losses.aggregate(losses.clipped_surrogate(logp, logp.detach(), adv[a:b].to(logp)), weights[a:b].to(logp)).backward()
        optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return rolled - started, time.perf_counter() - rolled

    rollout_seconds, update_seconds = step()
    total = rollout_seconds + update_seconds
    for row in rows:
        row["share_of_step"] = row["seconds"] / (total + row["seconds"])
    rows += [{"what": "rollout", "seconds": rollout_seconds}, {"what": "update", "seconds": update_seconds}]
    print(f"\n{'':<58}{'seconds':>10}{'range':>20}{'of a step':>12}")
    for row in rows:
        spread = f"{row['low']:.4f} - {row['high']:.4f}" if "low" in row else ""
        print(f"{row['what']:<58}{row['seconds']:>10.4f}{spread:>20}" + (f"{row['share_of_step']:>11.3%}" if "share_of_step" in row else ""))
    return {"rows": rows, "tokens": statistics.mean(lengths)}


MEASUREMENTS = {"rewards": bench_rewards}


def main(args):
    out = Path(args.output_dir)
    utils.make_writable(out)
    utils.write_args(out, args)                                      # commit and versions
    utils.write_json(out / f"bench_{args.what}.json", MEASUREMENTS[args.what](args))
    print(f"\n{out}/bench_{args.what}.json has the figures, {out}/args.json the commit and versions")


if __name__ == "__main__":
    utils.run(main, parse_args)
