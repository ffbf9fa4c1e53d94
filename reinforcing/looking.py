"""Is it looking? What a policy's own answers owe to the picture."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import Module

import data
import losses
import rewards
import rollout
from tasks.example import Example

MOST = 64  # questions: this is measured at every evaluation


def greyed(prompt: data.Prompt) -> data.Prompt:
    """Return the prompt with pictures of one colour, the mean that processors subtract.

    Everything else stays: the words, the number of image tokens, their positions.
    """
    if prompt.pixel_values is None:
        return prompt
    return replace(prompt, pixel_values=torch.zeros_like(prompt.pixel_values), features=None)


@torch.no_grad()
def measure(
    policy: Module,
    asker: data.Asker,
    examples: list[Example],
    limit: int,
    logp_of: Callable,
    batch_size: int,
    size: int,
) -> dict[str, float]:
    """Compare the greedy answers to MOST questions with pictures, with and without these.

        vision/kl               KL(with the picture || greyed out) on the answer's tokens, by k3,
                                nats per token: 0 for a policy that does not look
        vision/blind_accuracy   share of right answers where the picture is greyed out

    limit: tokens of an answer; batch_size: answers at a time; size: rows of a micro-batch.
    Questions without a picture are left out. Where all are, there is nothing to measure: {}.
    """
    was_training = policy.training
    policy.eval()
    greedy = rollout.Sampling(limit, temperature=0)
    seen = [example for example in examples if example.images][:MOST]
    if not seen:
        return {}
    blind, kl, tokens = [], 0.0, 0.0
    for first in range(0, len(seen), batch_size):
        some = seen[first : first + batch_size]
        prompts = [asker.prompt(example, room=limit) for example in some]
        grey = [greyed(prompt) for prompt in prompts]
        special = asker.processor.special
        answers = rollout.rollout(policy, prompts, special, 1, greedy)
        of = [
            torch.cat([logp_of(policy, batch).cpu() for _, batch in pieces])
            for pieces in (
                rollout.micro_batches(prompts, answers, size, policy.device),
                rollout.micro_batches(grey, answers, size, policy.device),
            )
        ]
        kl += float((losses.kl_k3(*of) * answers.mask).sum())
        tokens += float(answers.mask.sum())
        roll = rollout.rollout(policy, grey, special, 1, greedy)
        texts = [asker.processor.decode(ids[:n]) for ids, n in zip(roll.targets, roll.lengths)]
        blind += [rewards.accuracy(text, example) for text, example in zip(texts, some)]
    policy.train(was_training)
    return {"vision/kl": kl / tokens, "vision/blind_accuracy": sum(blind) / len(blind)}
