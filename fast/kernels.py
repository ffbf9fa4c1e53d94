"""The two operations of a decode step that are more than matrix products, in torch and in Triton.

    shared_prefix_attention    one new token a row, over the group's prompt and the row's suffix
    head_sample                output head, one draw a row and its log-prob

`x_reference` is a few lines of torch: the CPU path, and what the other is tested against.
`x_triton` has the same signature; `x` takes it where it can (Triton comes with torch for CUDA).
Nothing here reads a value on the host, so a step can be captured in a CUDA graph, and lengths and
members refreshed in place between replays.

N prompts, M rows of a prompt at most, B rows, P prompt length, T suffix length, V vocabulary,
D model width, H query heads, KV key/value heads, R = H / KV query heads to each, K head size.
"""

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TRITON_HEAD_SIZES = (16, 32, 64, 128)  # powers of two, as tiles are; what shared memory holds


# --- attention of one new token a row ---


def shared_prefix_attention(
    q: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    suffix_k: torch.Tensor,
    suffix_v: torch.Tensor,
    members: torch.Tensor | None = None,
    prefix_lengths: torch.Tensor | None = None,
    suffix_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend over [prompt | own suffix], the prompt read once a group (Hydragen, 2402.05099).

    q: (B, H, K), rotated, not yet scaled. prefix_k, prefix_v: (N, KV, P, K).
    suffix_k, suffix_v: (B or more, KV, T, K); the first B count. Views of larger buffers are fine.
    members: (N, M), each prompt's rows of q, -1 for none; None: contiguous, B = N * M.
    prefix_lengths (N,), suffix_lengths (B,): positions that count; beyond, values must be finite.
    Returns (B, H, K) in q.dtype: zeros for a row without suffix or prompt, which costs little.
    """
    fits = (
        triton is not None
        and q.is_cuda
        and q.dtype in TRITON_DTYPES
        and q.shape[-1] in TRITON_HEAD_SIZES
    )
    run = shared_prefix_attention_triton if fits else shared_prefix_attention_reference
    return run(q, prefix_k, prefix_v, suffix_k, suffix_v, members, prefix_lengths, suffix_lengths)


def shared_prefix_attention_reference(
    q: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    suffix_k: torch.Tensor,
    suffix_v: torch.Tensor,
    members: torch.Tensor | None = None,
    prefix_lengths: torch.Tensor | None = None,
    suffix_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do the same in torch: one softmax over the scores of prompt and suffix."""
    # Two softmaxes merged by log-sum-exp took the same time within 15 % (P 60 to 944, B 8 to 128),
    # and so did torch's private flash attention for the CPU.
    (B, H, K), (N, KV, P, _), T = q.shape, prefix_k.shape, suffix_k.shape[2]
    R, dtype = H // KV, q.dtype
    suffix_k, suffix_v = suffix_k[:B], suffix_v[:B]
    if dtype in (torch.float16, torch.bfloat16):
        # Low precision takes about as long on a CPU, and errs four times as much.
        q, prefix_k, prefix_v = q.float(), prefix_k.float(), prefix_v.float()
        suffix_k, suffix_v = suffix_k.float(), suffix_v.float()

    def by_group(x: torch.Tensor) -> torch.Tensor:  # (B, KV, R, X) -> (N, KV, M, R, X)
        if members is None:
            return x.view(N, B // N, KV, R, -1).transpose(1, 2)
        return x[members].transpose(1, 2)  # -1, no row, reads the last one

    def by_row(x: torch.Tensor) -> torch.Tensor:  # and back
        x = x.transpose(1, 2)
        if members is None:
            return x.reshape(B, KV, R, -1)
        spare = x.new_zeros(B + 1, *x.shape[2:])  # -1, no row, writes to the spare last one
        return spare.index_put_((members,), x)[:B]

    def beyond(lengths: torch.Tensor, size: int) -> torch.Tensor:
        return torch.arange(size, device=q.device) >= lengths[:, None]

    rows = q.reshape(B, KV, R, K)
    groups = by_group(rows)  # (N, KV, M, R, K)
    prefix = torch.bmm(groups.reshape(N * KV, -1, K), prefix_k.flatten(0, 1).transpose(1, 2))
    prefix = prefix.view(N, KV, -1, R, P)
    suffix = torch.bmm(rows.flatten(0, 1), suffix_k.flatten(0, 1).transpose(1, 2))
    suffix = suffix.view(B, KV, R, T)
    if prefix_lengths is not None:
        hidden = beyond(prefix_lengths, P)[:, None, None, None]
        prefix = prefix.masked_fill(hidden, -torch.inf)
    if suffix_lengths is not None:
        suffix = suffix.masked_fill(beyond(suffix_lengths, T)[:, None, None], -torch.inf)
    scores = torch.cat([prefix, by_group(suffix)], -1)  # (N, KV, M, R, P + T)
    probs = scores.mul_(K**-0.5).softmax(-1)
    seen_prefix = torch.bmm(probs[..., :P].reshape(N * KV, -1, P), prefix_v.flatten(0, 1))
    seen_prefix = seen_prefix.view(N, KV, -1, R, K)  # (N, KV, M, R, K)
    own = by_row(probs[..., P:]).reshape(B * KV, R, T)
    seen_suffix = torch.bmm(own, suffix_v.flatten(0, 1)).view(B, KV, R, K)
    out = by_row(seen_prefix) + seen_suffix
    if suffix_lengths is not None:
        out = torch.where((suffix_lengths > 0)[:, None, None, None], out, 0)
    return out.reshape(B, H, K).to(dtype)


def shared_prefix_attention_triton(
    q: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    suffix_k: torch.Tensor,
    suffix_v: torch.Tensor,
    members: torch.Tensor | None = None,
    prefix_lengths: torch.Tensor | None = None,
    suffix_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Do the same in Triton: partial outputs and their log-sum-exps, merged by a second kernel."""
    (B, H, K), (N, KV, P, _), T = q.shape, prefix_k.shape, suffix_k.shape[2]
    M, R = B // N if members is None else members.shape[1], H // KV
    assert all(
        x.stride(-1) == 1 and x.dtype == q.dtype
        for x in (q, prefix_k, prefix_v, suffix_k, suffix_v)
    ), "one dtype, and the head dimension contiguous"
    assert prefix_k.stride() == prefix_v.stride() and suffix_k.stride() == suffix_v.stride(), (
        "keys and values lie alike"
    )
    assert all(x is None or x.is_contiguous() for x in (members, prefix_lengths, suffix_lengths))
    # float32 has no tensor cores: larger tiles would not fit into registers.
    most = BN = 64 if q.element_size() == 2 else 16
    # Query rows to a tile; 16 is the least that tl.dot takes.
    BQ = min(most, max(16, triton.next_power_of_2(M * R)))
    BR = max(16, triton.next_power_of_2(R))
    tiles = triton.cdiv(M * R, BQ)
    splits = prefix_splits(P, N * KV * tiles, q.device)
    parts = torch.empty(B, H, splits + 1, K, dtype=torch.float32, device=q.device)
    lse = parts.new_empty(B, H, splits + 1)
    out = torch.empty(B, H, K, dtype=q.dtype, device=q.device)
    if members is not None and suffix_lengths is None:
        # No program writes a row that no prompt names, and no length says so.
        lse.fill_(-torch.inf)
    _attention_parts[(N * KV, splits * tiles + M)](
        q, prefix_k, prefix_v, suffix_k, suffix_v,
        members, prefix_lengths, suffix_lengths, parts, lse,
        P, T, M, tiles, K**-0.5,
        *q.stride()[:2], *prefix_k.stride()[:3], *suffix_k.stride()[:3],
        H=H, KV=KV, R=R, K=K, SPLITS=splits, BQ=BQ, BR=BR, BN=BN,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    slots = splits + 1
    _attention_merge[(B, H)](
        parts, lse, suffix_lengths, out,
        H=H, K=K, SLOTS=slots, BS=triton.next_power_of_2(slots), num_warps=4,
    )  # fmt: skip
    return out


def prefix_splits(P: int, programs: int, device: torch.device) -> int:
    """Choose into how many parts the prefix is read: one a multiprocessor, of 256 tokens or more.

    From shapes alone, so that a CUDA graph keeps it.
    """
    processors = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(-(-processors // programs), P // 256))


if triton is not None:
    # "ieee": float32 products in full, as in the reference. The default rounds factors to TF32.

    @triton.jit
    def _attend(
        q, k, v, parts, lse, row, head, valid, slot, begin, end, scale,
        stride_row, stride_head, stride_k,
        H: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr,
    ):  # fmt: skip
        """Attend from BQ queries, each a (row, head), to positions begin .. end of one k, v (., K).

        The output (K) and the log-sum-exp go into their slot; -inf if there is no position.
        """
        width, offset = tl.arange(0, K), tl.arange(0, BN)
        queries = tl.load(
            q + (row * stride_row + head * stride_head)[:, None] + width[None, :],
            mask=valid[:, None],
            other=0.0,
        )  # (BQ, K)
        top = tl.full((BQ,), float("-inf"), tl.float32)
        total = tl.zeros((BQ,), tl.float32)
        acc = tl.zeros((BQ, K), tl.float32)
        for start in range(begin, end, BN):
            position = start + offset
            inside = position < end
            keys = tl.load(
                k + position[None, :] * stride_k + width[:, None], mask=inside[None, :], other=0.0
            )  # (K, BN)
            scores = tl.where(
                inside[None, :],
                tl.dot(queries, keys, input_precision="ieee") * scale,
                float("-inf"),
            )  # (BQ, BN)
            higher = tl.maximum(top, tl.max(scores, 1))
            probs = tl.exp(scores - higher[:, None])
            shrink = tl.exp(top - higher)
            values = tl.load(
                v + position[:, None] * stride_k + width[None, :], mask=inside[:, None], other=0.0
            )  # (BN, K)
            acc = acc * shrink[:, None] + tl.dot(
                probs.to(values.dtype), values, input_precision="ieee"
            )
            total = total * shrink + tl.sum(probs, 1)
            top = higher
        total = tl.where(total > 0, total, 1.0)  # no position: 0 / 1, and -inf + log 1
        index = (row * H + head) * SLOTS + slot
        tl.store(
            parts + index[:, None] * K + width[None, :], acc / total[:, None], mask=valid[:, None]
        )
        tl.store(lse + index, top + tl.log(total), mask=valid)

    # These change from call to call: no compilation for each.
    @triton.jit(do_not_specialize=["P", "T", "M", "tiles"])
    def _attention_parts(
        q, prefix_k, prefix_v, suffix_k, suffix_v,
        members, prefix_lengths, suffix_lengths, parts, lse,
        P, T, M, tiles, scale,
        q_row, q_head, prefix_n, prefix_kv, prefix_p, suffix_b, suffix_kv, suffix_t,
        H: tl.constexpr, KV: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
        SPLITS: tl.constexpr, BQ: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr,
    ):  # fmt: skip
        """Compute the partial outputs; grid (N * KV, SPLITS * tiles + M).

        First, for each tile of the group's M * R queries, the splits of the prefix.
        Then each member's R queries over its own suffix.
        """
        n, kv = (tl.program_id(0) // KV).to(tl.int64), tl.program_id(0) % KV
        job = tl.program_id(1)
        if job < SPLITS * tiles:
            query = (job // SPLITS) * BQ + tl.arange(0, BQ)
            member = query // R
            if members is None:
                rows = tl.where(member < M, n * M + member, -1)
            else:
                rows = tl.load(members + n * M + member, mask=member < M, other=-1)
            valid = rows >= 0
            if suffix_lengths is not None:
                valid = valid & (tl.load(suffix_lengths + rows, mask=valid, other=0) > 0)
            if tl.max(valid.to(tl.int32), 0) > 0:
                length = P
                if prefix_lengths is not None:
                    length = tl.load(prefix_lengths + n).to(tl.int32)
                share = tl.cdiv(tl.cdiv(length, SPLITS), BN) * BN
                begin = (job % SPLITS) * share
                base = n * prefix_n + kv * prefix_kv
                end = tl.minimum(length, begin + share)
                _attend(
                    q, prefix_k + base, prefix_v + base, parts, lse,
                    rows, kv * R + query % R, valid, job % SPLITS, begin, end, scale,
                    q_row, q_head, prefix_p, H, K, SPLITS + 1, BQ, BN,
                )  # fmt: skip
        else:
            own = job - SPLITS * tiles
            if members is None:
                row = n * M + own
            else:
                row = tl.load(members + n * M + own)
            count = T
            if suffix_lengths is not None:
                count = tl.load(suffix_lengths + row, mask=row >= 0, other=0).to(tl.int32)
            if (row >= 0) & (count > 0):
                heads = tl.arange(0, BR)
                start = row * suffix_b + kv * suffix_kv
                same = row + tl.zeros((BR,), tl.int64)
                _attend(
                    q, suffix_k + start, suffix_v + start, parts, lse,
                    same, kv * R + heads, heads < R, SPLITS, 0, count, scale,
                    q_row, q_head, suffix_t, H, K, SPLITS + 1, BR, BN,
                )  # fmt: skip

    @triton.jit
    def _attention_merge(
        parts, lse, suffix_lengths, out,
        H: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr, BS: tl.constexpr,
    ):  # fmt: skip
        """Merge the parts by the softmax of their log-sum-exps; grid (B, H).

        Zeros for a finished row, whose parts no program wrote.
        """
        row = tl.program_id(0).to(tl.int64)
        at = row * H + tl.program_id(1)
        slot, width = tl.arange(0, BS), tl.arange(0, K)
        written = SLOTS
        if suffix_lengths is not None:
            written = tl.where(tl.load(suffix_lengths + row) > 0, SLOTS, 0)
        each = tl.load(lse + at * SLOTS + slot, mask=slot < written, other=float("-inf"))
        weight = tl.exp(each - tl.maximum(tl.max(each, 0), -1e30))  # (BS,)
        part = tl.load(
            parts + (at * SLOTS + slot)[:, None] * K + width[None, :],
            mask=(weight > 0)[:, None],
            other=0.0,
        )
        total = tl.sum(weight, 0)
        merged = tl.sum(weight[:, None] * part, 0) / tl.where(total > 0, total, 1.0)
        tl.store(out + at * K + width, merged.to(out.dtype.element_ty))


# --- output head, draw and log-prob ---


def inverse_cdf(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw one token a row by inverting the cumulative distribution, whatever rows are beside it.

    probs: (B, V), of any sum above 0. uniform: (B,) in [0, 1), float64 for a fine grid.
    Returns (B,) long.
    """
    if probs.device.type == "mps":  # Apple's GPUs have no float64
        return inverse_cdf(probs.cpu(), uniform.cpu()).to(probs.device)
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    # right=True: the first token whose cumulative mass exceeds the draw, so never one without mass
    draws = uniform.double()[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, draws, right=True)[:, 0]
    return tokens.clamp_max(probs.shape[-1] - 1)


def head_sample(
    states: torch.Tensor,
    weight: torch.Tensor,
    banned: torch.Tensor,
    uniform: torch.Tensor | None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the output head and draw one token a row: tokens (B,) long, logp (B,) float32 (nats).

    states: (B, D). weight: (V, D), of the same dtype.
    banned: (V,) bool, tokens without any mass; at least one is allowed.
    uniform: (B,) in [0, 1), see `inverse_cdf`; None if greedy.
    logp is of the tempered distribution. temperature 0: the lowest id of the likeliest, logp at 1.
    """
    fits = (
        triton is not None
        and states.is_cuda
        and states.dtype in TRITON_DTYPES
        and states.dtype == weight.dtype
    )
    run = head_sample_triton if fits else head_sample_reference
    return run(states, weight, banned, uniform, temperature)


def head_sample_reference(
    states: torch.Tensor,
    weight: torch.Tensor,
    banned: torch.Tensor,
    uniform: torch.Tensor | None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same in torch, over the (B, V) logits."""
    bias = torch.zeros_like(banned, dtype=weight.dtype).masked_fill(banned, -torch.inf)
    probs = (F.linear(states, weight, bias).float() / (temperature or 1.0)).softmax(-1)  # (B, V)
    tokens = probs.argmax(-1) if temperature == 0 else inverse_cdf(probs, uniform)
    return tokens, probs.gather(-1, tokens[:, None])[:, 0].log()


def head_sample_triton(
    states: torch.Tensor,
    weight: torch.Tensor,
    banned: torch.Tensor,
    uniform: torch.Tensor | None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same in Triton: the mass of each tile of the vocabulary, then the draw.

    One program a row computes the tile that its draw falls into once more.
    """
    (B, D), V = states.shape, weight.shape[0]
    assert states.dtype == weight.dtype and states.stride(1) == weight.stride(1) == 1, (
        "one dtype, and the last dimension contiguous"
    )
    assert banned.is_contiguous() and (uniform is None or uniform.is_contiguous())
    BB, BV = min(64, max(16, triton.next_power_of_2(B))), 128
    BK = 64 if states.element_size() == 2 else 32
    tiles = triton.cdiv(V, BV)
    tops, sums = torch.empty(2, B, tiles, dtype=torch.float32, device=states.device)
    tokens = torch.empty(B, dtype=torch.long, device=states.device)
    logp = tops.new_empty(B)
    strides = (states.stride(0), weight.stride(0))
    tau = temperature or 1.0
    head_tiles[(triton.cdiv(B, BB), tiles)](
        states, weight, banned, tops, sums, B, V, D, tiles, *strides, tau,
        BB=BB, BV=BV, BK=BK, num_warps=4,
    )  # fmt: skip
    _head_pick[(B,)](
        states, weight, banned, uniform, tops, sums, tokens, logp, V, D, tiles, *strides, tau,
        GREEDY=temperature == 0, BT=triton.next_power_of_2(tiles), BV=BV, BK=BK, num_warps=4,
    )  # fmt: skip
    return tokens, logp


if triton is not None:

    @triton.jit(do_not_specialize=["B"])
    def head_tiles(
        states, weight, banned, tops, sums, B, V, D, tiles,
        stride_states, stride_weight, temperature,
        BB: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr,
    ):  # fmt: skip
        """Find the largest logit and the sum of exp(logit - largest) of BV tokens, for BB rows.

        Grid (B / BB, tiles): neighbours share a tile of the weight.
        """
        row = tl.program_id(0) * BB + tl.arange(0, BB)
        token = tl.program_id(1) * BV + tl.arange(0, BV)
        inner = tl.arange(0, BK)
        acc = tl.zeros((BB, BV), tl.float32)
        for start in range(0, D, BK):
            d = start + inner
            a = tl.load(
                states + row[:, None] * stride_states + d[None, :],
                mask=(row < B)[:, None] & (d < D)[None, :],
                other=0.0,
            )
            b = tl.load(
                weight + token.to(tl.int64)[None, :] * stride_weight + d[:, None],
                mask=(token < V)[None, :] & (d < D)[:, None],
                other=0.0,
            )
            acc += tl.dot(a, b, input_precision="ieee")
        out = tl.load(banned + token, mask=token < V, other=1) != 0
        acc = acc.to(states.dtype.element_ty).to(
            tl.float32
        )  # rounded as the trainer's head rounds them
        logits = tl.where(out[None, :], float("-inf"), acc / temperature)  # (BB, BV)
        top = tl.max(logits, 1)
        at = row * tiles + tl.program_id(1)
        tl.store(tops + at, top, mask=row < B)
        tl.store(
            sums + at, tl.sum(tl.exp(logits - tl.maximum(top, -1e30)[:, None]), 1), mask=row < B
        )

    @triton.jit
    def _first_above(mass, target, BT: tl.constexpr):
        """Return the first of BT whose cumulative mass exceeds target, never one without mass.

        The last with mass if rounding leaves none.
        """
        index = tl.arange(0, BT)
        first = tl.min(tl.where((tl.cumsum(mass, 0) > target) & (mass > 0), index, BT), 0)
        return tl.minimum(first, tl.max(tl.where(mass > 0, index, 0), 0))

    @triton.jit
    def _head_pick(
        states, weight, banned, uniform, tops, sums, tokens, logp, V, D, tiles,
        stride_states, stride_weight, temperature,
        GREEDY: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr,
    ):  # fmt: skip
        """Pick a row's token; grid (B,).

        Log-sum-exp over the BT tiles, the tile that holds the draw (greedy: the largest logit), its
        logits again, and the token inside it.
        """
        row = tl.program_id(0)
        tile, column, inner = tl.arange(0, BT), tl.arange(0, BV), tl.arange(0, BK)
        largest = tl.load(tops + row * tiles + tile, mask=tile < tiles, other=float("-inf"))
        top = tl.max(largest, 0)
        mass = (
            tl.load(sums + row * tiles + tile, mask=tile < tiles, other=0.0) * tl.exp(largest - top)
        ).to(tl.float64)  # (BT,)
        total = tl.sum(mass, 0)
        if GREEDY:
            chosen = tl.min(tl.where(largest == top, tile, BT - 1), 0)
        else:
            target = tl.load(uniform + row).to(tl.float64) * total
            chosen = _first_above(mass, target, BT)
        token = chosen * BV + column
        acc = tl.zeros((BV,), tl.float32)
        for start in range(0, D, BK):
            d = start + inner
            a = tl.load(states + row * stride_states + d, mask=d < D, other=0.0).to(tl.float32)
            b = tl.load(
                weight + token.to(tl.int64)[:, None] * stride_weight + d[None, :],
                mask=(token < V)[:, None] & (d < D)[None, :],
                other=0.0,
            ).to(tl.float32)
            acc += tl.sum(a[None, :] * b, 1)
        out = tl.load(banned + token, mask=token < V, other=1) != 0
        logits = tl.where(
            out, float("-inf"), acc.to(states.dtype.element_ty).to(tl.float32) / temperature
        )  # (BV,)
        if GREEDY:
            pick = tl.min(tl.where(logits == tl.max(logits, 0), column, BV - 1), 0)
        else:
            before = tl.sum(tl.where(tile < chosen, mass, 0.0), 0)
            pick = _first_above(tl.exp(logits - top).to(tl.float64), target - before, BV)
        tl.store(tokens + row, (chosen * BV + pick).to(tl.int64))
        tl.store(
            logp + row,
            tl.sum(tl.where(column == pick, logits, 0.0), 0) - top - tl.log(total.to(tl.float32)),
        )
