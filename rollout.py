"""Sample completions for prompts: the rollout of every script."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

import logps
from fast import decode
from tasks.prompts import SELECT, question_text, select_prompt, with_question


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    max_tokens: of a completion at most. temperature 0: greedy.
    top_p below 1 and top_k above 0 cut the distribution, and importance ratios are no longer exact.
    """

    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass
class Rollout:
    """B completions. targets: (B, T) ids, right-padded, the end-of-turn token included; logp, mask: (B, T) float32; lengths: (B,) long; finish:
    list of B, "stop" (said an end-of-text token) or "length" (cut)."""

    targets: torch.Tensor
    logp: torch.Tensor
    mask: torch.Tensor
    lengths: torch.Tensor
    finish: list


def row_uniforms(seed, rows, length):
    """(len(rows), length) float64 in [0, 1): the draws of each row, from (seed, row) alone, so that neither the composition of the batch
    nor the rows that have left it change what a row says."""
    draws = torch.empty(len(rows), length, dtype=torch.float64)
    generator = torch.Generator()
    for i, row in enumerate(rows):
        generator.manual_seed((seed * 1_000_003 + row * 7_919 + 17) % (2**63))
        torch.rand(length, generator=generator, dtype=torch.float64, out=draws[i])
    return draws


# --------------------------------------------------------------------------------------------------------------- the engine


@torch.no_grad()
def rollout(
    policy,
    prompts,
    special,
    G,
    sampling,
    seed=0,
    first_row=0,
):
    """Sample G completions for each of N prompts. Returns a Rollout of B = N * G rows, the rows of a prompt contiguous.

    prompts: list of data.Prompt, of any lengths and image sizes. special: processor.special; its vision ids are never sampled, its eos_ids end
    a row. Row b draws from (seed, first_row + b), whoever else is in the batch. Runs in eval mode, with no dropout and no gradient checkpointing (in train mode,
    checkpointing drops the cache and the tokens come out wrong), and restores the mode. logp is that of the tempered distribution. What does not fit into memory at
    once is done in several waves.
    """
    core, T = logps.core_of(policy), sampling.max_tokens
    B, was_training = len(prompts) * G, policy.training
    policy.eval()
    try:
        copy, waves = decode.plan_memory(
            core,
            prompts,
            G,
            T,
            decode.free_memory(core.device),
            cut=(sampling.top_p, sampling.top_k) != (1.0, 0),
        )
        if len(waves) > 1:
            decode.warn_once(
                f"rollout: {B} rows of {T} tokens do not fit into memory at once: {len(waves)} waves"
            )
        weights = decode.decode_weights(core, copy)
        targets, logp = torch.full((B, T), special.pad_id), torch.zeros(B, T)
        for first, end, g, g_end in waves:
            rows = [n * G + i for n in range(first, end) for i in range(g, g_end)]
            draws = None
            if sampling.temperature:
                draws = row_uniforms(seed, [first_row + b for b in rows], T)
            targets[rows], logp[rows] = decode.Decoder(
                core,
                weights,
                prompts[first:end],
                special,
                g_end - g,
                T,
                draws,
                sampling.temperature,
                sampling.top_p,
                sampling.top_k,
            ).run()
    finally:
        policy.train(was_training)
    ends = torch.isin(
        targets, torch.tensor(special.eos_ids)
    )  # after its first end a row holds nothing but padding
    stopped = ends.any(1)
    lengths = torch.where(stopped, ends.int().argmax(1) + 1, T)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).float()
    return Rollout(
        targets[:, : mask.shape[1]].clone(),
        logp[:, : mask.shape[1]].clone(),
        mask,
        lengths,
        ["stop" if s else "length" for s in stopped.tolist()],
    )


def answer_all(
    policy,
    asker,
    examples,
    sampling,
    G=1,
    batch_size=64,
    seed=0,
    first_row=0,
    describe="",
):
    """Sample G completions of every example, as text, with a progress bar.

    batch_size: rows at a time; it changes nothing, as row seeds count on through the examples.
    Returns (len(examples) * G texts, their lengths in tokens, their finish reasons).
    """
    texts, lengths, finish = [], [], []
    processor, step = asker.processor, max(1, batch_size // G)
    for start in tqdm(
        range(0, len(examples), step), desc=describe, leave=False, disable=len(examples) <= step
    ):
        prompts = [asker.prompt(e, sampling.max_tokens) for e in examples[start : start + step]]
        out = rollout(policy, prompts, processor.special, G, sampling, seed, first_row + start * G)
        texts += [processor.decode(ids[:n]) for ids, n in zip(out.targets, out.lengths)]
        lengths += out.lengths.tolist()
        finish += out.finish
    return texts, lengths, finish


def self_select(policy, asker, examples, candidates, sampling, batch_size=64, describe=""):
    """Ask every example again with its candidates in the prompt: R3V's self-select (arXiv:2411.00855).

    candidates: one list of texts an example. Which of them a text chose is for grading.metrics.select to say.
    Returns (texts, their lengths in tokens, their prompts' lengths in tokens).
    Raises UserError, before anything is sampled, for a prompt that does not fit the context.
    """
    instruction = SELECT.get(asker.template)
    asks = [
        with_question(e, select_prompt(question_text(e, asker.template), texts, instruction))
        for e, texts in zip(examples, candidates, strict=True)
    ]
    verbatim = asker.verbatim()
    prompt_lengths = verbatim.check(asks, sampling.max_tokens)
    texts, lengths, _ = answer_all(
        policy, verbatim, asks, sampling, batch_size=batch_size, describe=describe
    )
    return texts, lengths, prompt_lengths
