"""What labs 4 to 6 train with: a plain loop around the gradients of update.py."""

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

import data
import pools
import rollout
import update
from labs import classroom
from logps import token_logps
from plumbing import plots
from tasks import protocols
from tasks.example import Example
from tasks.prompts import question_text

TABLE = classroom.ROOT / "checkpoints" / "table"  # lab 4 starts here: it reads small tables

# --- answers ---


def sample_pool(
    policy: torch.nn.Module,
    asker: data.Asker,
    examples: Sequence[Example],
    G: int,
    seed: int = 0,
) -> list[dict]:
    """Sample G answers to each question, and score them: pool lines, as pools.py describes them."""
    sampling = rollout.Sampling(classroom.LIMIT, temperature=0.9, top_p=0.95, top_k=50)  # R3V's
    texts, lengths, finish = rollout.answer_all(policy, asker, examples, sampling, G, 128, seed)
    score = protocols.scorer(None)
    lines = []
    for row, (text, tokens, ending) in enumerate(zip(texts, lengths, finish)):
        example = examples[row // G]
        answer, right = score(text, example)
        line = {"id": example.id, "iteration": 1, "sample": row % G, "completion": text}
        line |= {"answer": answer, "right": right, "readable": answer is not None}
        lines.append(line | {"tokens": tokens, "finish": ending})
    return lines


# --- training ---


def rows_in_turn(rows: Sequence, number: int, seed: int) -> Iterator[list]:
    """Yield `number` rows at a time without end, in a new order each time round.

    Raises ValueError if there are none.
    """
    if not rows:
        raise ValueError("there is nothing to learn from: the list of rows is empty")
    rng = random.Random(seed)
    orders = iter(lambda: rng.sample(rows, len(rows)), None)
    endless = itertools.chain.from_iterable(orders)
    while True:
        yield list(itertools.islice(endless, number))


def train(
    policy: torch.nn.Module,
    rows: Sequence,
    add_gradient: Callable[[list], dict],
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Take optimizer steps, and return what each measured: [{"step": 1, "loss": ...}, ...].

    add_gradient(rows of a step) -> {metric: value}. The rate falls linearly to a tenth.
    """
    optimizer = update.make_optimizer("adamw", list(policy.parameters()), learning_rate)
    batches = rows_in_turn(rows, batch_size, seed)
    lines = []
    for step in range(1, steps + 1):
        rate = learning_rate * (1 - 0.9 * (step - 1) / steps)
        metrics = update.take_step(policy, optimizer, batches, add_gradient, rate, 1.0, step)
        lines.append({"step": step, **metrics})
    policy.eval()
    return lines


def imitate(
    policy: torch.nn.Module,
    asker: data.Asker,
    examples: Sequence[Example],
    items: list[dict],
    steps: int,
    learning_rate: float = 1e-3,
    batch_size: int = 16,
) -> list[dict[str, float]]:
    """Learn to answer items as `pools.item_of` makes them; examples: those they are about."""
    by_id = {example.id: example for example in examples}
    encoded = [update.encode_item(item, asker, by_id) for item in items]
    add_gradient = functools.partial(
        update.imitate,
        policy,
        state={},
        asker=asker,
        weights={},
        per_example=True,
        micro_batch_size=batch_size,
    )
    return train(policy, encoded, add_gradient, steps, learning_rate, batch_size)


def learn_answers(
    policy: torch.nn.Module, asker: data.Asker, examples: Sequence[Example], steps: int
) -> list[dict[str, float]]:
    """Learn the right answers alone, without a word of thinking."""
    items = []
    for example in examples:
        target = f"<think> </think><answer> {example.answer} </answer>"
        question = question_text(example, asker.template)
        items.append(pools.item_of(example.id, "direct", question, target))
    return imitate(policy, asker, examples, items, steps)


# --- pairs, token by token ---


@torch.no_grad()
def logps_of_pairs(
    policy: torch.nn.Module, asker: data.Asker, pairs: Sequence[update.EncodedPair]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Compute the log-probs of both answers of each pair: [((T_c,), (T_r,)), ...], nats."""
    found = []
    for pair in pairs:
        batch = update.pair_batch(pair, asker, policy.device)
        logp = token_logps(policy, batch, suppress=asker.processor.special.vision_ids)  # (2, T)
        found.append(tuple(row[: len(ids)] for row, ids in zip(logp, pair.rows)))
    return found


def words_of(ids: torch.Tensor, asker: data.Asker) -> list[str]:
    """Write each token of an answer as text."""
    return [asker.processor.tokenizer.decode([token]).strip() or "_" for token in ids.tolist()]


def draw_tokens(words: list[str], place: int, changes: dict[str, torch.Tensor]) -> None:
    """Show how the log-prob of each token has changed, a row for each name.

    place: the first token in which chosen and rejected answers differ. changes: (T,) nats each.
    """
    classroom.draw("tokens", plot_tokens, changes, words, place)


def plot_tokens(changes: dict[str, torch.Tensor], png: Path, words: list[str], place: int) -> None:
    """Draw the bars of `draw_tokens` into the file `png`."""
    height = 2.0 * len(changes) + 0.8
    figure, axes = plots.canvas(len(changes), 1, 13, height, sharex=True, sharey=True)
    for [ax], (name, change) in zip(axes, changes.items()):
        colors = ["C3" if value < 0 else "C0" for value in change.tolist()]
        ax.bar(range(len(words)), change.tolist(), color=colors)
        ax.axvline(place - 0.5, color="black", ls="--", label="here the two answers part")
        ax.set_ylabel("change, nats")
        ax.set_title(name, fontsize=10)
        ax.legend(fontsize=8, loc="lower left")
    axes[-1][0].set_xticks(range(len(words)), words, rotation=90, fontsize=8)
    plots.save(figure, png)
