"""Forced rethinking (VL-Rethinker, arXiv:2504.08837): which answers, with what words, what is kept.

    <think> ... Row 4: none. </think><answer> 2 </answer>           an answer, right or wrong
    <think> ... Row 4: none. Wait.                                  what the policy has to continue
    <think> ... Row 4: none. Wait. (...) </think><answer> 3 </answer>   learned, if that is right

Published answers are boxed, and the trigger comes after them. Here thinking has tags, and goes on
inside them; a text without them goes on at its end.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

import batching
import data
import rewards
import rollout
from plumbing import ranks
from processor import Processor
from reinforcing.groups import Groups
from reinforcing.replay import Rows
from tasks.example import Example

SKIPPED = 0.35  # the chance of an answer to be left as it is
EASY = 0.7  # wrong answers are left as they are in groups with more right ones than this
MOST = 2  # right second thoughts that are kept of a question
WAITS = 4  # triggers in a text, at most
ROOM = 0.4  # of --max-completion-length, for the second thoughts; published: 1024 tokens
TRIGGERS = ("Wait.", "Does this look right?", "Let me double-check.", "Maybe I made a mistake.")


def rethink(
    policy: torch.nn.Module,
    processor: Processor,
    settings: rollout.Sampling,
    groups: Groups,
    first: int,
    weight: float,
    seed: int,
) -> tuple[Rows, dict[str, Tensor]]:
    """Let answers of a step be thought over: (those that end right then, metrics).

    first: the position of the step's first question. weight: what is put for their advantage.
    Each process continues the answers to its own questions, and all return the rows of all.
    """
    starts, G = begun(groups, settings.max_tokens, processor, seed), groups.G
    found, tokens = {}, 0
    if starts:
        settings = replace(settings, max_tokens=room_of(settings.max_tokens))
        prompts = [continued(groups.prompts[row // G], ids) for row, ids in starts.items()]
        special, numbers = processor.special, list(starts)
        roll = rollout.rollout(policy, prompts, special, 1, settings, seed, numbers=numbers)
        found, tokens = ended_right(starts, roll, groups, processor), int(roll.mask.sum())
    whole, sums = {}, torch.tensor([len(starts), len(found), tokens])
    for part in ranks.gathered(found):
        whole |= part
    ranks.summed([sums])
    names = ("rethinking/tried", "rethinking/learned", "rethinking/tokens")
    return rows_of(whole, G, first, weight, processor.special.pad_id), dict(zip(names, sums))


def room_of(limit: int) -> int:
    """Count the tokens that second thoughts may have. limit: of a whole completion."""
    return max(1, int(ROOM * limit))


def are_right(texts: Sequence[str], examples: Sequence[Example]) -> list[bool]:
    """Tell which texts answer their question."""
    parts, _ = rewards.reward_parts(list(texts), list(examples), ["accuracy"])
    return [mark == 1 for mark in parts["accuracy"]]


def begun(groups: Groups, limit: int, processor: Processor, seed: int) -> dict[int, Tensor]:
    """Choose what is thought over: {row: (T,) ids up to the trigger's end, with room after them}.

    Rows of prompts that another process has are not among them.
    """
    G, found = groups.G, {}
    asked = [example for example in groups.examples for _ in range(G)]
    right = are_right(groups.completions, asked)
    for row, text in enumerate(groups.completions):
        n, draw = row // G, random.Random(f"{seed} {row}")
        accuracy = sum(right[n * G : (n + 1) * G]) / G
        is_skipped = draw.random() < SKIPPED or accuracy > EASY and not right[row]
        if is_skipped or groups.prompts[n] is None or groups.roll.finish[row] != "stop":
            continue
        ids = start_of(text, draw.choice(TRIGGERS), processor)
        if ids is not None and len(ids) + room_of(limit) <= limit:
            found[row] = ids
    return found


def start_of(text: str, trigger: str, processor: Processor) -> Tensor | None:
    """Encode a text up to the end of its thinking, and a trigger: (T,) ids.

    None: it has WAITS triggers already, or spells a reserved token.
    """
    if sum(map(text.count, TRIGGERS)) >= WAITS:
        return None
    thinking = text.rpartition("</think>")[0] or text
    start = f"{thinking.rstrip()} {trigger}"
    ids = processor.tokenizer(start, add_special_tokens=False)["input_ids"]
    if {*ids} & {*processor.special.vision_ids, *processor.special.eos_ids}:
        return None
    return torch.tensor(ids)


def continued(prompt: data.Prompt, ids: Tensor) -> data.Prompt:
    """Return a prompt after which a completion has begun already, with (T,) ids."""
    places = prompt.next_position + torch.arange(len(ids))
    return replace(
        prompt,
        ids=torch.cat([prompt.ids, ids]),
        positions=torch.cat([prompt.positions, places.expand(3, -1)], 1),
        next_position=prompt.next_position + len(ids),
    )


def ended_right(
    starts: dict[int, Tensor], roll: rollout.Rollout, groups: Groups, processor: Processor
) -> dict[int, Tensor]:
    """Choose what is learned, MOST a question: {row: (T,) ids of the whole completion}.

    It ends, is right, and is in the exact format if the answer was that it goes on from.
    starts: of `begun`. roll: their continuations, in this order.
    """
    wholes = {}
    for (row, ids), more, length, finish in zip(
        starts.items(), roll.targets, roll.lengths, roll.finish
    ):
        if finish == "stop":
            wholes[row] = torch.cat([ids, more[:length]])
    texts = [processor.decode(ids) for ids in wholes.values()]
    right = are_right(texts, [groups.examples[row // groups.G] for row in wholes])
    kept, each = {}, Counter()
    for (row, ids), text, is_right in zip(wholes.items(), texts, right):
        n = row // groups.G
        # Otherwise a policy that answers three times, the last time right, would be imitated.
        is_worse = rewards.format(text) < rewards.format(groups.completions[row])
        if is_right and not is_worse and each[n] < MOST:
            each[n] += 1
            kept[row] = ids
    return kept


def rows_of(found: dict[int, Tensor], G: int, first: int, weight: float, pad_id: int) -> Rows:
    """Make rows of whole completions, in the order of their numbers.

    first, weight: as for `rethink`.
    """
    if not found:
        return Rows.none()
    numbers = sorted(found)
    targets, mask = batching.pad_targets([found[row] for row in numbers], pad_id)
    lengths = mask.sum(1).long()
    roll = rollout.Rollout(targets, torch.zeros_like(mask), mask, lengths, ["stop"] * len(numbers))
    return Rows(roll, torch.full((len(numbers),), weight), [first + row // G for row in numbers])
