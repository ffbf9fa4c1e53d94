"""Sample completions for prompts: first a plain loop to read, then the fast rollout.

    prefill    prompt and images -> keys and values, and the state that predicts the first token
    sample     state -> a token and its log-prob
    append     token -> its keys and values, and the next state
    stop       at an end-of-text token, or after max_tokens

`rollout_plain` does this with the model's own cache, a prompt at a time. `rollout`, which the
scripts use, samples the same rows faster: all prompts at once, each read once (fast/decode.py).

A checkpoint's generation_config is not consulted: Qwen2-VL's (top_k 1, temperature 0.01,
repetition penalty 1.05) silently makes sampling greedy.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from tqdm import tqdm

import batching
import data
import experts
import logps
from fast import decode, kernels
from plumbing import ranks
from plumbing.loading import loading
from tasks.example import Example
from tasks.prompts import SELECT, question_text, select_prompt, with_question


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    max_tokens: of a completion at most, its end-of-turn token included.
    temperature: 0 is greedy.
    top_p below 1, top_k above 0: draw from a cut distribution. Log-probs stay those of the
    uncut one, so importance ratios are no longer exact.
    """

    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass
class Rollout:
    """B completions, right-padded, their end-of-turn token included.

    targets: (B, T) ids. logp, mask: (B, T) float32. lengths: (B,) long.
    finish: list of B, "stop" (an end-of-text token) or "length" (cut).
    experts: (B, T, layers, k) int16, those that computed the state each target was drawn from.
    """

    targets: torch.Tensor
    logp: torch.Tensor
    mask: torch.Tensor
    lengths: torch.Tensor
    finish: list[str]
    experts: torch.Tensor | None = None

    def finished(self) -> torch.Tensor:
        """Find the completions that ended by themselves and were not cut: (B,) bool."""
        return torch.tensor([reason == "stop" for reason in self.finish])

    def at(self, rows: Sequence[int]) -> "Rollout":
        """Return some of the completions, in this order."""
        places = torch.tensor(list(rows), dtype=torch.long)
        columns = self.targets, self.logp, self.mask, self.lengths
        experts = None if self.experts is None else self.experts[places]
        finish = [self.finish[row] for row in rows]
        return Rollout(*(column[places] for column in columns), finish, experts)


def joined(first: Rollout, second: Rollout) -> Rollout:
    """Put the completions of two rollouts one after the other, both as wide as the wider."""

    def both(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        width = max(one.shape[1], other.shape[1])
        return torch.cat([wide(one, width), wide(other, width)])

    def wide(x: torch.Tensor, width: int) -> torch.Tensor:
        more = x.new_zeros(len(x), width - x.shape[1], *x.shape[2:])
        return torch.cat([x, more], 1)

    experts = None if first.experts is None else both(first.experts, second.experts)
    return Rollout(
        both(first.targets, second.targets),
        both(first.logp, second.logp),
        both(first.mask, second.mask),
        torch.cat([first.lengths, second.lengths]),
        first.finish + second.finish,
        experts,
    )


# --- the plain loop ---


@torch.no_grad()
def rollout_plain(
    policy: torch.nn.Module,
    prompts: list[data.Prompt],
    special: SimpleNamespace,
    G: int,
    sampling: Sampling,
    seed: int = 0,
    first_row: int = 0,
) -> Rollout:
    """Sample G completions of each prompt with the model's own cache: `rollout`, to read.

    Arguments and result are those of `rollout`.
    """
    core = logps.core_of(policy)
    model = core.model.language_model
    from transformers import DynamicCache  # here: it imports for half a second

    B, T = len(prompts) * G, sampling.max_tokens
    uniforms = row_uniforms(seed, range(first_row, first_row + B), T)  # (B, T)
    targets, logp = torch.full((B, T), special.pad_id), torch.zeros(B, T)
    eos_ids = torch.tensor(special.eos_ids)
    chosen = experts.empty(core, B, T)  # (B, T, layers, k)
    computing = logps.autocast(core, cache_enabled=False)
    with logps.in_eval_mode(policy), computing, experts.watching(core) as said:
        for n, prompt in enumerate(prompts):
            rows = slice(n * G, (n + 1) * G)
            finished = torch.zeros(G, dtype=torch.bool)
            cache = DynamicCache(config=core.config.text_config)

            # prefill: the first thing the model reads is the whole prompt, once for each row
            empty = torch.zeros(G, 0)
            batch = batching.collate([prompt], empty.long(), empty, [G], core.device, packed=False)
            inputs = logps.embed(core, batch)  # inputs_embeds (G, P, D)
            positions = batch["positions"]  # (3, G, P)
            for t in range(T):
                given = {"position_ids": positions, "past_key_values": cache}
                states = model(**inputs, **given, use_cache=True).last_hidden_state[:, -1]  # (G, D)

                # sample: the last state predicts the next token
                logits = core.lm_head(states).float()  # (G, V)
                logits[:, special.vision_ids] = -torch.inf
                tokens, token_logp = sample(logits.cpu(), uniforms[rows, t], sampling)  # (G,), (G,)

                if chosen is not None:
                    chosen[rows, t] = experts.take_ids(said).unflatten(0, (G, -1))[:, -1].cpu()

                # append: a finished row gets padding, which nothing reads
                targets[rows, t] = torch.where(finished, special.pad_id, tokens)
                logp[rows, t] = torch.where(finished, 0.0, token_logp)
                embeds = model.embed_tokens(tokens.to(core.device)[:, None])  # (G, 1, D)
                inputs = {"inputs_embeds": embeds}
                positions = torch.full_like(positions[..., :1], prompt.next_position + t)

                # stop
                finished |= torch.isin(tokens, eos_ids)
                if finished.all():
                    break
    return finish_rollout(targets, logp, special, chosen)


def sample(
    logits: torch.Tensor, uniform: torch.Tensor | None, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row by inverting the cumulative distribution.

    logits: (B, V). uniform: (B,) float64 in [0, 1), which greedy sampling does not read.
    Returns tokens (B,) and logp (B,) float32 (nats).
    logp is of the tempered distribution before the cuts, as in `token_logps`; greedy: at 1.
    """
    temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
    logp = (logits.float() / (temperature or 1.0)).log_softmax(-1)  # (B, V)
    if temperature == 0:
        tokens = logp.argmax(-1)
    else:
        # Apple's GPUs have no float64.
        probs = (logp.cpu() if logp.device.type == "mps" else logp).double().exp()
        if top_k and top_k < probs.shape[-1]:
            probs = probs.masked_fill((logp < logp.topk(top_k).values[:, -1:]).to(probs.device), 0)
        if top_p < 1:  # keep the smallest set whose mass reaches top_p
            ordered, order = probs.sort(descending=True)
            ordered = ordered / ordered.sum(-1, keepdim=True)
            beyond = ordered.cumsum(-1) - ordered >= top_p
            probs = probs.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0)
        tokens = kernels.inverse_cdf(probs, uniform.to(probs.device)).to(logp.device)
    return tokens, logp.gather(-1, tokens[:, None])[:, 0]


def row_uniforms(seed: int, rows: Sequence[int], length: int) -> torch.Tensor:
    """Draw each row's uniform numbers from (seed, row) alone: (len(rows), length) float64.

    So what a row samples depends neither on its batch nor on the rows that have left it.
    """
    draws = torch.empty(len(rows), length, dtype=torch.float64)
    generator = torch.Generator()
    for i, row in enumerate(rows):
        generator.manual_seed((seed * 1_000_003 + row * 7_919 + 17) % (2**63))
        torch.rand(length, generator=generator, dtype=torch.float64, out=draws[i])
    return draws


def finish_rollout(
    targets: torch.Tensor,
    logp: torch.Tensor,
    special: SimpleNamespace,
    chosen: torch.Tensor | None = None,
) -> Rollout:
    """Measure sampled rows (B, T): after its first end token a row holds nothing but padding.

    UserError if a log-prob is NaN.
    """
    T = targets.shape[1]
    ends = torch.isin(targets, torch.tensor(special.eos_ids))  # (B, T)
    stopped = ends.any(1)
    lengths = torch.where(stopped, ends.int().argmax(1) + 1, T)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).float()
    T = mask.shape[1]
    logps.must_be_numbers(logp[:, :T][mask.bool()])
    finish = ["stop" if s else "length" for s in stopped.tolist()]
    if chosen is not None:
        chosen = chosen[:, :T] * mask[..., None, None].to(chosen.dtype)
    return Rollout(targets[:, :T].clone(), logp[:, :T].clone(), mask, lengths, finish, chosen)


# --- the fast rollout ---


@torch.no_grad()
def rollout(
    policy: torch.nn.Module,
    prompts: list[data.Prompt],
    special: SimpleNamespace,
    G: int,
    sampling: Sampling,
    seed: int = 0,
    first_row: int = 0,
    plan: decode.Plan | None = None,
    numbers: Sequence[int] | None = None,
) -> Rollout:
    """Sample G completions for each of N prompts: B = N * G rows, those of a prompt contiguous.

    prompts: of any lengths and image sizes.
    special: processor.special; vision_ids are never sampled, eos_ids end a row.
    Row b draws from (seed, first_row + b), or (seed, numbers[b]), whatever else is in the batch.
    logp is of the tempered distribution, before top-p and top-k cut it.
    What does not fit into memory is done in waves. plan: as decode.plan_memory returns it.
    """
    core = logps.core_of(policy)
    B, T = len(prompts) * G, sampling.max_tokens
    numbers = numbers or range(first_row, first_row + B)
    cut = (sampling.top_p, sampling.top_k) != (1.0, 0)
    with logps.in_eval_mode(policy), experts.watching(core) as said:
        copy, waves = plan or decode.plan_memory(
            core, prompts, G, T, decode.free_memory(core.device), cut=cut
        )
        if len(waves) > 1:
            decode.warn_once(
                f"rollout: {B} rows of {T} tokens do not fit into memory at once: "
                f"{len(waves)} waves"
            )
        weights = decode.decode_weights(core, copy)
        targets, logp = torch.full((B, T), special.pad_id), torch.zeros(B, T)
        chosen = experts.empty(core, B, T)
        for first, end, g, g_end in waves:
            rows = [n * G + i for n in range(first, end) for i in range(g, g_end)]
            draws = None
            if sampling.temperature:
                draws = row_uniforms(seed, [numbers[b] for b in rows], T)
            wave = decode.Decoder(
                core, weights, prompts[first:end], special, g_end - g, draws, sampling, sample, said
            )
            targets[rows], logp[rows] = wave.run()
            if chosen is not None:
                chosen[rows] = wave.experts[:-1].cpu()
    return finish_rollout(targets, logp, special, chosen)


def micro_batches(
    prompts: list[data.Prompt], roll: Rollout, size: int, where: torch.device
) -> Iterator[tuple[slice, dict]]:
    """Cut a rollout into batches of at most `size` rows, to learn from: yield (rows, batch)."""
    for rows, batch in batching.pieces(prompts, roll.targets, roll.mask, size, where):
        if roll.experts is not None:
            batch["experts"] = roll.experts[rows].to(where)
        yield rows, batch


def prompts_ahead(
    asker: data.Asker,
    examples: Sequence[Example],
    sampling: Sampling,
    batches: Sequence[Sequence[int]],
    num_workers: int,
) -> contextlib.AbstractContextManager[Iterator[list[data.Prompt]]]:
    """Encode batches of examples ahead, in worker processes: plumbing/loading.py.

    batches: the places of their examples. Each prompt leaves room for sampling.max_tokens.
    """
    encode = functools.partial(asker.prompt, room=sampling.max_tokens)
    return loading(encode, examples, batches, num_workers)


def answer_all(
    policy: torch.nn.Module,
    asker: data.Asker,
    examples: list[Example],
    sampling: Sampling,
    G: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    first_row: int = 0,
    describe: str = "",
    num_workers: int = 0,
    batches: Iterator[list[data.Prompt]] | None = None,
) -> tuple[list[str], list[int], list[str]]:
    """Sample G completions of every example, as text, with a progress bar.

    batch_size: rows at a time; it changes nothing, as row seeds count on through the examples.
    batches: of prompts_ahead, batch_size // G prompts each, where they are being prepared already.
    Returns (len(examples) * G texts, their lengths in tokens, their finish reasons).
    """
    texts, lengths, finish = [], [], []
    processor = asker.processor
    step = max(1, batch_size // G)
    starts = range(0, len(examples), step)
    with contextlib.ExitStack() as stack:
        if batches is None:
            cuts = [range(start, min(start + step, len(examples))) for start in starts]
            ahead = prompts_ahead(asker, examples, sampling, cuts, num_workers)
            batches = stack.enter_context(ahead)
        for start in tqdm(starts, desc=describe, leave=False, disable=len(starts) < 2):
            out = rollout(
                policy,
                next(batches),
                processor.special,
                G,
                sampling,
                seed,
                first_row + start * G,
            )
            texts += [processor.decode(ids[:n]) for ids, n in zip(out.targets, out.lengths)]
            lengths += out.lengths.tolist()
            finish += out.finish
    return texts, lengths, finish


def answer_together(
    policy: torch.nn.Module, asker: data.Asker, examples: list[Example], **settings
) -> tuple[list[str], list[int], list[str]]:
    """Answer each example once; of several processes each its share (plumbing/ranks.py).

    settings: of `answer_all`, which says what is returned: here it is of all examples.
    """
    own = ranks.share(len(examples))
    found = answer_all(
        policy, asker, examples[own.start : own.stop], first_row=own.start, **settings
    )
    texts, lengths, finish = [], [], []
    for their_texts, their_lengths, their_finish in ranks.gathered(found):
        texts += their_texts
        lengths += their_lengths
        finish += their_finish
    return texts, lengths, finish


def self_select(
    policy: torch.nn.Module,
    asker: data.Asker,
    examples: list[Example],
    candidates: list[list[str]],
    sampling: Sampling,
    batch_size: int = 64,
    describe: str = "",
    num_workers: int = 0,
) -> tuple[list[str], list[int], list[int]]:
    """Ask again with an example's candidates in the prompt: R3V's self-select (arXiv:2411.00855).

    candidates: one list of texts an example. grading.metrics.select reads what a text chose.
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
        policy,
        verbatim,
        asks,
        sampling,
        batch_size=batch_size,
        describe=describe,
        num_workers=num_workers,
    )
    return texts, lengths, prompt_lengths
