"""Log-probs of responses: packed attention, chunked head, image features, the reference policy."""

import contextlib
from typing import NamedTuple

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

# --------------------------------------------------------------------------------------------------------------- forward


def core_of(policy):
    """The Qwen2VLForConditionalGeneration inside a PeftModel (whose LoRA layers sit in it), or the policy itself."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def dtype_of(core):
    """What the model computes in, whatever its weights are."""
    return getattr(core, "compute_dtype", core.dtype)


def autocast(core, cache_enabled=True):
    """Mixed precision as the whole project uses it, in rollout and update alike: float32 weights compute in dtype_of(core). cache_enabled: torch's, of weights once cast."""
    dtype = dtype_of(core)
    return (
        contextlib.nullcontext()
        if dtype in (torch.float32, torch.float64)
        else torch.autocast(core.device.type, dtype=dtype, cache_enabled=cache_enabled)
    )


class Packing(NamedTuple):
    """Where the responses lie in [prompt | r1 | ... | rG] (data.pack): to_rows (G, T), the index in S of each response's tokens; from_rows (response
    tokens,), the way back, in G*T. Passed down as the attention mask, so that gradient checkpointing recomputes with the one it ran with."""

    to_rows: torch.Tensor
    from_rows: torch.Tensor


def packed_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **more):
    """Causal attention over [prompt | r1 | ... | rG] where each response sees the prompt and itself (as in Prefix Grouper, arXiv:2506.05433).

    query: (1, H, S, K); key, value: (1, KV, S, K). Returns ((1, S, H, K), None). Two calls, without a mask tensor where torch has flash or memory-efficient
    attention: the prompt on itself, and the responses, padded to (G, T) here and nowhere else, on [prompt | itself], aligned to the lower right;
    padding comes last, where nobody looks. Anything but a Packing as attention_mask: transformers' own sdpa, for stock forward and generate.
    """
    if not isinstance(attention_mask, Packing):
        from transformers.integrations.sdpa_attention import (
            sdpa_attention_forward,
        )  # here, and in load(): two seconds that --help need not wait

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **more
        )
    to_rows, from_rows = attention_mask
    (G, T), P = to_rows.shape, query.shape[2] - len(from_rows)
    ragged = len(from_rows) < G * T
    query, key = (
        query.to(value.dtype),
        key.to(value.dtype),
    )  # rotated in float32 under autocast, which the call with a CausalBias bypasses

    if query.is_cuda and (
        query.dtype not in (torch.float16, torch.bfloat16)
        or torch.cuda.get_device_capability(query.device)[0] < 8
    ):
        key, value = (
            x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value)
        )  # there only flash, which this cannot be, takes fewer of them

    def rows(x):  # (1, heads, S, K) -> (G, heads, T, K)
        tokens = x[0].transpose(0, 1)  # (S, heads, K)
        tokens = (
            tokens.index_select(0, to_rows.flatten()) if ragged else tokens[P:]
        )  # (G * T, heads, K)
        return tokens.unflatten(0, (G, T)).transpose(1, 2)

    def both(x):  # (1, KV, S, K) -> (G, KV, P + T, K)
        return torch.cat([x[:, :, :P].expand(G, -1, -1, -1), rows(x)], 2)

    same = dict(dropout_p=dropout, scale=scaling, enable_gqa=True)
    prompt = scaled_dot_product_attention(
        query[:, :, :P], key[:, :, :P], value[:, :, :P], is_causal=True, **same
    )  # (1, H, P, K)
    own = scaled_dot_product_attention(
        rows(query), both(key), both(value), attn_mask=causal_lower_right(T, P + T), **same
    )  # (G, H, T, K)
    own = own.transpose(1, 2).flatten(0, 1)  # (G * T, H, K)
    return torch.cat(
        [prompt[0].transpose(0, 1), own.index_select(0, from_rows) if ragged else own]
    )[None], None


def image_features(core, pixel_values, grid, most=16384):
    """(image tokens, D) from the vision tower and merger, all images of a batch in order. Without gradient, in runs of whole images of at most
    `most` patches: a batch of 64 photographs at once would need gigabytes for the tower alone. pixel_values may lie anywhere."""
    patches = grid.prod(-1).tolist()
    runs, now = [[]], 0
    for i, n in enumerate(patches):
        if runs[-1] and now + n > most and not torch.is_grad_enabled():
            runs.append([])
            now = 0
        runs[-1].append(i)
        now += n
    features = []
    for pixels, run in zip(
        pixel_values.split([sum(patches[i] for i in run) for run in runs]), runs
    ):
        out = core.model.visual(
            pixels.to(core.device, core.model.visual.dtype), grid_thw=grid[run].to(core.device)
        )
        features.append(out.pooler_output if hasattr(out, "pooler_output") else out)
    return torch.cat(features)


@torch.no_grad()
def cache_features(policy, prompts):
    """Where tower and merger are frozen: every prompt's image features, once, into `prompt.features` (image tokens, D), whence `data.collate` takes
    them for all passes. Where one of them trains it does nothing: features of a step ago are another model's, and carry no gradient."""
    core = core_of(policy)
    pictured = [p for p in prompts if p.pixel_values is not None]
    if not pictured or any(p.requires_grad for p in core.model.visual.parameters()):
        return
    with autocast(core):
        features = image_features(
            core,
            torch.cat([p.pixel_values for p in pictured]),
            torch.cat([p.grid for p in pictured]),
        )
    for prompt, own in zip(pictured, features.split([len(p.image_slots) for p in pictured])):
        prompt.features = own


def embed(core, batch):
    """(rows, S, D) input embeddings of a collated batch: words by id, pictures by position. Each prompt's images go through the vision tower
    once, however many responses it has; not at all if the batch holds their `features`."""
    embeds = core.model.language_model.embed_tokens(batch["input_ids"])  # (rows, S, D)
    features = batch.get("features")
    if features is None and batch["pixel_values"] is None:
        return embeds
    if features is None:
        features = image_features(core, batch["pixel_values"], batch["grid"])  # (image tokens, D)
    flat = embeds.flatten(0, 1).index_put(
        (batch["slot_index"],), features.to(embeds.dtype)[batch["feature_index"]]
    )
    return flat.view_as(embeds)


def token_logps(policy, batch, temperature=1.0, suppress=(), entropy=False, chunk=None):
    """log pi(targets | prompt, earlier targets) of a batch from data.collate, packed or padded: (B, T) float32, 0 where the mask is 0; carries gradient.

    temperature: logits are divided by it, as in sampling. suppress: ids that cannot be sampled (processor.special.vision_ids): their logits
    are minus infinity here too, so that these are the log-probs of the distribution that was sampled from. The head runs over `chunk`
    tokens at a time (default: such that a chunk's logits are 128 MB) and is recomputed in the backward pass: the (B, T, V) logits never
    exist at once (7B, 8 x 1024 tokens: 5 GB in float32, several times over).
    Returns logp, or (logp, entropy (B, T) in nats, no gradient) with entropy=True.
    """
    core = core_of(policy)
    chunk = chunk or max(64, 2**25 // core.config.text_config.vocab_size)
    # Padded rows need no attention mask: padding is on the right, and attention is causal.
    packing = Packing(batch["to_rows"], batch["from_rows"]) if "to_rows" in batch else None
    with autocast(core):
        states = core.model.language_model(
            inputs_embeds=embed(core, batch),
            position_ids=batch["positions"],
            attention_mask={"full_attention": packing},
            use_cache=False,
        ).last_hidden_state
        keep = batch["mask"].bool()  # (B, T)
        rows = (
            torch.arange(len(keep), device=states.device)
            .clamp_max(len(states) - 1)[:, None]
            .expand_as(keep)
        )  # packed: all in row 0
        states = states[rows[keep], batch["state_index"][keep]]  # (tokens, D)
        targets = batch["targets"][keep]  # (tokens,)

        def head(h, t):
            logits = core.lm_head(h).float() / temperature  # (chunk, V)
            logits[:, list(suppress)] = -torch.inf
            logp = logits.log_softmax(-1)
            spread = (
                -(logp.detach().exp() * logp.detach().clamp_min(-1e4)).sum(-1)
                if entropy
                else logp.new_zeros(len(h))
            )
            return logp.gather(1, t[:, None])[:, 0], spread

        pieces = [
            checkpoint(head, h, t, use_reentrant=False) if torch.is_grad_enabled() else head(h, t)
            for h, t in zip(states.split(chunk), targets.split(chunk))
        ]
    scatter = lambda values: torch.zeros_like(batch["mask"]).masked_scatter(keep, values)
    logp = scatter(torch.cat([p for p, _ in pieces]))
    return (logp, scatter(torch.cat([e for _, e in pieces]))) if entropy else logp
