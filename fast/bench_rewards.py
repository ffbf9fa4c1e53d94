"""`python -m fast.bench rewards`: what scoring costs, as a share of a GRPO step."""

import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

import batching
import data
import logps
import losses
import model as modeling
import rewards
import rollout
from fast.sides import surrogate, training_flags
from reinforcing import advantages
from tasks import toy
from tasks.example import Example
from update import make_optimizer

WORDS = (
    "so the next one is a small red object near row column left right wait let me check again "
    "and then count total blue circle square of it"
).split()
# The sets in use, each on a toy task that has what they score; every reward alone follows.
USUAL_SETS = [
    ("count", ["accuracy", "format"]),
    ("spatial", ["accuracy", "format", "repetition"]),
    ("ground", ["iou", "format"]),
]


def timed(function: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of `repeats` calls, in the order they were made."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds


def long_completions(
    examples: list[Example], G: int, tokenizer: object, tokens: int, seed: int = 0
) -> tuple[list[str], list[Example]]:
    """Write G completions of about `tokens` tokens for each example: (texts, examples), B each.

    Reasoning of random words, no two alike, and an answer as the gold teacher writes it.
    Half the answers are right, the others another question's: they repeat within a group.
    """
    rng = random.Random(seed)
    endings = ["</think>" + e.solution.partition("</think>")[2] for e in examples]
    texts, asked = [], []
    for e, right in zip(examples, endings):
        for _ in range(G):
            ending = right if rng.random() < 0.5 else rng.choice(endings)
            room = max(0, tokens - len(tokenizer("<think> " + ending)["input_ids"]))
            reasoning = " ".join(rng.choice(WORDS) for _ in range(tokens))
            words = tokenizer(reasoning)["input_ids"][:room]
            texts.append("<think> " + tokenizer.decode(words) + ending)
            asked.append(e)
    return texts, asked


def task_of(name: str) -> str:
    """Return the toy task whose questions the reward `name` scores."""
    if rewards.REWARDS[name].needs is rewards.BOXES:
        return "ground"
    return "spatial" if name == "mcq" else "count"


def time_rewards(kinds: dict[str, tuple], T: int, repeats: int) -> list[dict]:
    """Time the usual sets of rewards, then every reward alone.

    kinds: {toy task: (texts, examples)}.
    """
    rows = []
    alone = [(task_of(name), [name]) for name in sorted(rewards.REWARDS)]
    for task, names in USUAL_SETS + alone:
        texts, asked = kinds[task]

        def score(texts: list = texts, asked: list = asked, names: list = names) -> object:
            return rewards.reward_parts(texts, asked, names, [T] * len(texts), T)

        seconds = timed(score, repeats)
        rows.append(
            {
                "what": "reward " + " + ".join(names),
                "task": task,
                "seconds": statistics.median(seconds),
                "low": min(seconds),
                "high": max(seconds),
            }
        )
    return rows


def time_step(
    policy: torch.nn.Module,
    processor: modeling.Processor,
    N: int,
    G: int,
    T: int,
    micro_batch_size: int,
) -> tuple[float, float]:
    """Time one GRPO step: (seconds of the rollout, seconds of the update).

    Every row runs to T tokens, as no token ends it.
    """
    device = policy.device
    optimizer = make_optimizer("adamw", list(policy.parameters()), 1e-6)
    stream = toy.ToyStream("count", "train", 0, 3, "gold")
    prompts = [data.Asker(processor).prompt(stream[i]) for i in range(N)]
    endless = SimpleNamespace(**{**vars(processor.special), "eos_ids": []})
    started = time.perf_counter()
    roll = rollout.rollout(policy, prompts, endless, G, rollout.Sampling(T))
    rolled = time.perf_counter()
    weights = losses.token_weights(roll.mask, "grpo", T)
    adv = advantages.group_advantage(torch.rand(N * G), G)
    policy.train()
    optimizer.zero_grad()
    for a, b, first, last, counts in batching.micro_batches(N * G, micro_batch_size, [G] * N):
        batch = batching.collate(
            prompts[first:last], roll.targets[a:b], roll.mask[a:b], counts, device
        )
        logp = logps.token_logps(policy, batch, 1.0, processor.special.vision_ids)
        surrogate(logp, adv[a:b], batch["mask"], weights[a:b]).backward()
    optimizer.step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return rolled - started, time.perf_counter() - rolled


def print_rows(rows: list[dict]) -> None:
    """Print seconds, range and share of a step of each row."""
    print(f"\n{'':<58}{'seconds':>10}{'range':>20}{'of a step':>12}")
    for row in rows:
        spread, share = "", ""
        if "low" in row:
            spread = f"{row['low']:.4f} - {row['high']:.4f}"
        if "share_of_step" in row:
            share = f"{row['share_of_step']:>11.3%}"
        print(f"{row['what']:<58}{row['seconds']:>10.4f}{spread:>20}{share}")


def bench_rewards(
    N: int, G: int, T: int, micro_batch_size: int, repeats: int, device: torch.device
) -> dict:
    """Time the scoring of N * G completions against a step of the tiny model.

    The step (rollout, update) has as many tokens.
    """
    policy, processor = modeling.load("tiny", device=device, train=training_flags(0))
    kinds = {}
    for task in sorted(toy.TASKS):
        examples = [toy.ToyStream(task, "train", 0, 3, "gold")[i] for i in range(N)]
        kinds[task] = long_completions(examples, G, processor.tokenizer, T)
    texts, _ = kinds["count"]
    tokens = statistics.mean(len(processor.tokenizer(text)["input_ids"]) for text in texts)
    characters = sum(map(len, texts)) / N / G
    print(f"{N} x {G} = {N * G} completions of {tokens:.0f} tokens ({characters:.0f} characters)")

    rows = time_rewards(kinds, T, repeats)
    rollout_seconds, update_seconds = time_step(policy, processor, N, G, T, micro_batch_size)
    total = rollout_seconds + update_seconds
    for row in rows:
        row["share_of_step"] = row["seconds"] / (total + row["seconds"])
    rows += [
        {"what": "rollout", "seconds": rollout_seconds},
        {"what": "update", "seconds": update_seconds},
    ]
    print_rows(rows)
    return {"rows": rows, "tokens": tokens}
