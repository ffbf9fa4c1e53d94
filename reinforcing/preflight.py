"""Will a step fit? One update of the worst case before the first, and then all is as before.

The worst case: the longest prompt, and G completions of the full length. Advantages are 0. Out of
memory halves --micro-batch-size, which cannot change the gradient; with --shard it ends the run.
"""

import gc
from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer

import data
import lengths
import rollout
from plumbing import memory, ranks
from plumbing.errors import UserError
from plumbing.log import say
from processor import Processor
from tasks.example import Example

FIRST = 16  # examples of a toy stream among which the longest is looked for: each is drawn


def longest(asker: data.Asker, examples: Sequence[Example]) -> Example:
    """Find the example with the longest prompt, of two: most bytes and image tokens, most pictures.

    A token of text has several bytes, so a long text is not yet longer than a picture.
    """
    some = data.head(examples, FIRST) if data.is_endless(examples) else examples

    def most(example: Example) -> int:
        return lengths.most_tokens(asker.render(example)) + asker.image_tokens(example)

    def tokens(example: Example) -> int:
        return asker.check([example], room=0)[0]

    return max(max(some, key=most), max(some, key=asker.image_tokens), key=tokens)


def worst_rollout(processor: Processor, G: int, limit: int) -> rollout.Rollout:
    """Make up G completions of `limit` tokens, all of them ends of text."""
    targets = torch.full((G, limit), min(processor.special.eos_ids), dtype=torch.long)
    ones = torch.ones(G, limit)
    return rollout.Rollout(targets, -ones, ones, torch.full((G,), limit), ["stop"] * G)


def size_that_fits(
    gradient: Callable[[int], object], optimizer: Optimizer, where: torch.device, size: int
) -> int:
    """Try an update, print its peak, and return the --micro-batch-size with which it fits.

    gradient(size) makes one. Weights, gradients and the optimizer are as before when this returns.
    UserError where one row is too much, or `size` of them with --shard.
    """
    while True:
        try:
            peaks = trial(gradient, optimizer, where, size)
            break
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(
                    "out of memory with one completion of the longest question at a time; "
                    "try --gradient-checkpointing, --quant nf4, a lower --max-pixels or "
                    "--max-completion-length"
                ) from None
            if ranks.sharded:  # others wait inside the backward pass, for a gradient of this size
                raise UserError(
                    f"out of memory with --micro-batch-size {size} on the longest question; "
                    f"lower it to {size // 2}, add --gradient-checkpointing, or use more processes"
                ) from None
        say(f"preflight: --micro-batch-size {size} is too much for the memory; {size // 2} instead")
        size //= 2
        gc.collect()
        if where.type == "cuda":
            torch.cuda.empty_cache()
    shown = ", ".join(f"{name} {taken / 1e9:.2f} GB" for name, taken in peaks.items())
    say(f"preflight, the longest question with completions of full length: {shown}")
    return size


def trial(
    gradient: Callable[[int], object], optimizer: Optimizer, where: torch.device, size: int
) -> dict[str, int]:
    """Make one update that changes nothing: {phase: peak in bytes}, and what is free after it."""
    peaks = {}
    is_new = not optimizer.state
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        memory.reset_peak(where)
        gradient(size)
        peaks["peak of the gradient"] = memory.peak(where)
        memory.reset_peak(where)
        if is_new:  # else its state is there, and counted
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            optimizer.step()
        peaks["of the optimizer"] = memory.peak(where)
        peaks["free beside it"] = memory.free(where)
    finally:
        optimizer.zero_grad()
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        if is_new:
            optimizer.state.clear()
    return peaks
