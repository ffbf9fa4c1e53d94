"""Put questions to a checkpoint: greedily, several times, and once more about its own answers."""

from functools import partial
from typing import TYPE_CHECKING

from tasks.example import Example

if TYPE_CHECKING:
    import torch

    from data import Asker, Prompt
    from rollout import Sampling


def ask_batch(
    policy: "torch.nn.Module",
    asker: "Asker",
    examples: list[Example],
    sampling: "Sampling",
    N: int,
    sizes: list[int],
    batch_size: int,
    seed: int,
    first: int,
    prompts: "list[Prompt]",
    num_workers: int,
) -> list[dict]:
    """Ask some questions greedily and N times more, and at each size which sample is right.

    first: the number of questions before these, from which the samples' random draws follow.
    prompts: these questions', encoded. num_workers: prepare those of the selections.
    Returns each question's prediction, prompt_tokens, tokens, samples, sample_tokens and, by size,
    selections and selection_tokens (those of the prompt and of the answer).
    """
    import rollout

    greedy = rollout.Sampling(sampling.max_tokens, temperature=0)
    ask = partial(rollout.answer_all, policy, asker, examples, batch_size=batch_size)
    texts, lengths, _ = ask(greedy, batches=iter([prompts]))
    answers = [
        {
            "prediction": text,
            "prompt_tokens": len(prompt.ids),
            "tokens": tokens,
            "samples": [],
            "sample_tokens": [],
        }
        for text, prompt, tokens in zip(texts, prompts, lengths)
    ]
    if not N:
        return answers
    texts, lengths, _ = ask(sampling, N, seed=seed, first_row=first * N, batches=iter([prompts]))
    for i, answer in enumerate(answers):
        answer["samples"] = texts[i * N : (i + 1) * N]
        answer["sample_tokens"] = lengths[i * N : (i + 1) * N]
    if not sizes:
        return answers
    pairs = [(i, n) for i in range(len(examples)) for n in sizes]
    again = [examples[i] for i, _ in pairs]
    shown = [answers[i]["samples"][:n] for i, n in pairs]
    texts, lengths, prompt_lengths = rollout.self_select(
        policy, asker, again, shown, greedy, batch_size=batch_size, num_workers=num_workers
    )
    for (i, n), text, *tokens in zip(pairs, texts, prompt_lengths, lengths):
        answers[i].setdefault("selections", {})[str(n)] = text
        answers[i].setdefault("selection_tokens", {})[str(n)] = tokens
    return answers
