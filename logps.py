"""Log-probs of responses: packed attention, image features, and the head in chunks.

T response positions; S a prompt and its response, or a prompt and all its responses (packed);
P prompt length; V vocabulary; D model width; H query heads, KV key/value heads, K head size.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from plumbing import stopping
from plumbing.errors import UserError

CHUNK_LOGITS = 2**25  # logits of the head that exist at once: 128 MB in float32

# --- the model inside, and its precision ---


def core_of(policy):
    """Find transformers' model inside a PeftModel; LoRA layers sit in it."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def dtype_of(core) -> torch.dtype:
    """Say what the model computes in, whatever type its weights have."""
    return getattr(core, "compute_dtype", core.dtype)


@contextlib.contextmanager
def in_eval_mode(policy: torch.nn.Module) -> Iterator[None]:
    """Switch dropout and gradient checkpointing off, and restore the mode afterwards.

    In train mode, checkpointing drops the cache and the tokens come out wrong.
    """
    was_training = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(was_training)


def autocast(core, cache_enabled: bool = True) -> contextlib.AbstractContextManager:
    """Compute in dtype_of(core) with float32 weights, in rollout and update alike.

    cache_enabled: whether torch keeps the weights that it has cast.
    """
    dtype = dtype_of(core)
    if dtype in (torch.float32, torch.float64):
        return contextlib.nullcontext()
    return torch.autocast(core.device.type, dtype=dtype, cache_enabled=cache_enabled)


# --- attention over a prompt and all its responses ---


class Packing(NamedTuple):
    """Where the responses lie in [prompt | r1 | ... | rG] (batching.pack).

    It goes down as an argument: gradient checkpointing then recomputes with the same one.
    """

    to_rows: torch.Tensor  # (G, T): the index in S of each response's tokens
    from_rows: torch.Tensor  # (response tokens,): the way back, an index in G*T


def causal_lower_right(rows: int, columns: int) -> torch.Tensor:
    """Make the mask of the last `rows` of causal attention over `columns`."""
    from torch.nn.attention import bias  # here: the import takes a second

    return bias.causal_lower_right(rows, columns)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **more,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Let each response see the prompt and itself, causally (Prefix Grouper, arXiv:2506.05433).

    query: (1, H, S, K). key, value: (1, KV, S, K). Returns ((1, S, H, K), None).
    Without a packing transformers' own sdpa runs.
    """
    if packing is None:  # imported here: it takes two seconds, and --help needs none of it
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **more
        )
    to_rows, from_rows = packing
    G, T = to_rows.shape
    P = query.shape[2] - len(from_rows)
    ragged = len(from_rows) < G * T
    # Under autocast they were rotated in float32, and a call with a CausalBias bypasses autocast.
    query = query.to(value.dtype)
    key = key.to(value.dtype)
    if query.is_cuda and not has_flash(query):
        # Only flash attention takes fewer key heads than query heads.
        repeats = query.shape[1] // key.shape[1]
        key = key.repeat_interleave(repeats, 1)
        value = value.repeat_interleave(repeats, 1)

    def rows(x: torch.Tensor) -> torch.Tensor:  # (1, heads, S, K) -> (G, heads, T, K)
        tokens = x[0].transpose(0, 1)  # (S, heads, K)
        # Padding goes to the end of a row, where no token sees it.
        tokens = tokens.index_select(0, to_rows.flatten()) if ragged else tokens[P:]
        return tokens.unflatten(0, (G, T)).transpose(1, 2)

    def prompt_and_rows(x: torch.Tensor) -> torch.Tensor:  # (1, KV, S, K) -> (G, KV, P + T, K)
        return torch.cat([x[:, :, :P].expand(G, -1, -1, -1), rows(x)], 2)

    # Two calls without a mask tensor, which flash and memory-efficient attention do not take.
    same = dict(dropout_p=dropout, scale=scaling, enable_gqa=True)
    prompt = scaled_dot_product_attention(
        query[:, :, :P], key[:, :, :P], value[:, :, :P], is_causal=True, **same
    )  # (1, H, P, K)
    responses = scaled_dot_product_attention(
        rows(query),
        prompt_and_rows(key),
        prompt_and_rows(value),
        attn_mask=causal_lower_right(T, P + T),
        **same,
    )  # (G, H, T, K)
    responses = responses.transpose(1, 2).flatten(0, 1)  # (G * T, H, K)
    if ragged:
        responses = responses.index_select(0, from_rows)  # (response tokens, H, K)
    return torch.cat([prompt[0].transpose(0, 1), responses])[None], None


def has_flash(query: torch.Tensor) -> bool:
    """Say whether flash attention takes this tensor on its card."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return half and torch.cuda.get_device_capability(query.device)[0] >= 8


# --- pictures ---


def image_features(
    core, pixel_values: torch.Tensor, grid: torch.Tensor, most: int = 16384
) -> torch.Tensor:
    """Run vision tower and merger on all images of a batch, in order.

    Returns (image tokens, D), or (image tokens, (1 + maps) * D) of a tower with deepstack maps,
    which follow the features. pixel_values may lie on any device.
    most: patches at a time where no gradient is needed; an image is never split.
    """
    patches = grid.prod(-1).tolist()
    # 64 photographs at once would need gigabytes for the tower alone.
    runs = [[]]
    held = 0
    for i, n in enumerate(patches):
        if runs[-1] and held + n > most and not torch.is_grad_enabled():
            runs.append([])
            held = 0
        runs[-1].append(i)
        held += n
    features = []
    sizes = [sum(patches[i] for i in run) for run in runs]
    for pixels, run in zip(pixel_values.split(sizes), runs):
        out = core.model.visual(
            pixels.to(core.device, core.model.visual.dtype), grid_thw=grid[run].to(core.device)
        )
        maps = getattr(out, "deepstack_features", ())
        features.append(torch.cat([out.pooler_output, *maps], -1))
    return torch.cat(features)


@torch.no_grad()
def cache_features(policy, prompts: list) -> None:
    """Keep every prompt's image features in `prompt.features`, if tower and merger are frozen.

    batching.collate takes them from there: (image tokens, D) of each prompt.
    """
    core = core_of(policy)
    pictured = [p for p in prompts if p.pixel_values is not None]
    # Where one of them trains, features of the last step are outdated and carry no gradient.
    if not pictured or any(p.requires_grad for p in core.model.visual.parameters()):
        return
    pixels = torch.cat([p.pixel_values for p in pictured])
    grid = torch.cat([p.grid for p in pictured])
    with autocast(core):
        features = image_features(core, pixels, grid)
    for prompt, own in zip(pictured, features.split([len(p.image_slots) for p in pictured])):
        prompt.features = own


def embed(core, batch: dict) -> dict:
    """Look up words by id, put image features at their positions: what the language model reads.

    batch: of batching.collate. A prompt's images are computed once, however many responses it
    has; not at all if the batch holds `features`. `noise`: of neftune_noise, for training mode.
    Returns inputs_embeds (rows, S, D). With deepstack maps also visual_pos_masks (rows, S) and
    deepstack_visual_embeds, of each map what the hidden states of a layer get at its True places.
    """
    embeds = core.model.language_model.embed_tokens(batch["input_ids"])  # (rows, S, D)
    if core.training and batch.get("noise") is not None:
        embeds = embeds + batch["noise"].to(embeds.dtype)  # features replace it at their places
    features = batch.get("features")
    if features is None and batch["pixel_values"] is None:
        # Processes of --shard add up the gradients of all weights, also of a tower at rest.
        resting = core.model.visual.parameters() if hasattr(core, "unshard") else ()
        return {"inputs_embeds": embeds + 0 * sum(weight.sum() for weight in resting)}
    if features is None:
        features = image_features(core, batch["pixel_values"], batch["grid"])
    features = features.to(embeds.dtype)[batch["feature_index"]]
    slots = batch["slot_index"]
    features, *maps = features.split(embeds.shape[-1], -1)  # (image tokens, D) each
    flat = embeds.flatten(0, 1).index_put((slots,), features)
    inputs = {"inputs_embeds": flat.view_as(embeds)}
    if maps:
        is_image = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
        is_image[slots] = True
        inputs["visual_pos_masks"] = is_image.view(embeds.shape[:-1])
        inputs["deepstack_visual_embeds"] = maps
    return inputs


def neftune_noise(
    lengths: Sequence[int],
    seeds: Sequence[int],
    alpha: float,
    shape: tuple[int, int],
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Draw NEFTune's noise for padded rows (arXiv:2310.05914): (rows, S, D) float32.

    Uniform within alpha / sqrt(L D), of variance alpha^2 / (3 L D); 0 on padding.
    lengths: L of each row, prompt and response, image tokens among them. shape: (S, D).
    seeds: one a row, so that the rows of a micro-batch do not matter to each other.
    """
    noise = torch.zeros(len(lengths), *shape, device=device)
    for row, length, seed in zip(noise, lengths, seeds):
        generator = torch.Generator(device).manual_seed(seed)
        most = alpha / (length * shape[1]) ** 0.5
        row[:length].uniform_(-most, most, generator=generator)
    return noise


# --- log-probs ---


def token_logps(
    policy,
    batch: dict,
    temperature: float = 1.0,
    suppress: Collection[int] = (),
    entropy: bool = False,
    chunk: int | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compute log pi(targets | prompt, earlier targets) of a batch from batching.collate.

    Returns logp (B, T) float32, 0 where the mask is 0; it carries gradient.
    With entropy=True: (logp, entropy), entropy (B, T) in nats, without gradient.
    suppress: ids that cannot be sampled (special.vision_ids); their logits are minus infinity.
    chunk: tokens that the head takes at a time; by default CHUNK_LOGITS logits.
    """
    stopping.give_way()
    core = core_of(policy)
    chunk = chunk or max(64, CHUNK_LOGITS // core.config.text_config.vocab_size)
    keep = batch["mask"].bool()  # (B, T)
    with autocast(core):
        states = target_states(core, batch, keep)  # (tokens, D)
        targets = batch["targets"][keep]  # (tokens,)

        def head(h: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = core.lm_head(h).float() / temperature  # (chunk, V), as in sampling
            logits[:, list(suppress)] = -torch.inf
            logp = logits.log_softmax(-1)
            spread = logp.new_zeros(len(h))
            if entropy:
                spread = -(logp.detach().exp() * logp.detach().clamp_min(-1e4)).sum(-1)
            return logp.gather(1, t[:, None])[:, 0], spread

        # Recomputed in the backward pass: all (B, T, V) logits at once would take gigabytes.
        pieces = []
        for h, t in zip(states.split(chunk), targets.split(chunk)):
            if torch.is_grad_enabled():
                pieces.append(checkpoint(head, h, t, use_reentrant=False))
            else:
                pieces.append(head(h, t))
    empty = torch.zeros_like(batch["mask"])
    logp = empty.masked_scatter(keep, torch.cat([p for p, _ in pieces]))
    if not entropy:
        return logp
    return logp, empty.masked_scatter(keep, torch.cat([e for _, e in pieces]))


def must_be_numbers(logp: torch.Tensor) -> None:
    """Raise UserError for a NaN, with which sampling would go on and an evaluation score 0."""
    if logp.isnan().any():
        raise UserError(
            "the model's log-probs are NaN: its weights are damaged, or a training went astray; "
            "take another checkpoint as --model, or try --dtype float32"
        )


def target_states(core, batch: dict, keep: torch.Tensor) -> torch.Tensor:
    """Run the language model, and take the state that predicts each kept target.

    keep: (B, T) bool. Returns (tokens, D).
    """
    return at_targets(all_states(core, batch), batch, keep)


def all_states(core, batch: dict) -> torch.Tensor:
    """Run the language model: the last state of each token of a batch, (rows, S, D)."""
    # Padded rows need no attention mask: padding is on the right, and attention is causal.
    packing = Packing(batch["to_rows"], batch["from_rows"]) if "to_rows" in batch else None
    return core.model.language_model(
        **embed(core, batch),
        position_ids=batch["positions"],
        packing=packing,
        use_cache=False,
    ).last_hidden_state


def at_targets(states: torch.Tensor, batch: dict, keep: torch.Tensor) -> torch.Tensor:
    """Take of all tokens, (rows, S, ...), those that predict the kept targets: (tokens, ...)."""
    rows = torch.arange(len(keep), device=states.device)
    rows = rows.clamp_max(len(states) - 1)[:, None].expand_as(keep)  # packed: all in row 0
    return states[rows[keep], batch["state_index"][keep]]
