"""The two operations of a decode step that are more than matrix products, each in plain torch and in Triton.

`shared_prefix_attention`: grouped-query attention of one new token a row, over the prompt its group shares and its own suffix.
`head_sample`: the output head, one draw a row and its log-prob; in Triton without ever holding the (B, V) logits.

Each comes as `x_reference`, a few lines of torch that are the CPU path and what the other is tested against, `x_triton` with the same
signature, and `x`, which takes the second where it can. Nothing here reads a value on the host: a step made of these can be captured in a
CUDA graph, and lengths and members refreshed in place between replays. Triton comes with the CUDA builds of torch; without it all works.

Not `kernels.py`: that name is a package of Hugging Face's, which transformers and bitsandbytes import where it is installed.

Dimension key: N prompts, M rows of a prompt at most, B rows, P prompt length, T suffix length, V vocabulary, D model width, H query heads,
KV key/value heads, R = H / KV query heads to each of them, K head size.
"""

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TRITON_HEAD_SIZES = (
    16,
    32,
    64,
    128,
)  # powers of two, because tiles are, and what fits into shared memory


# --- attention of one new token a row -----------------------------------------------------------------------------------------------------


def shared_prefix_attention(
    q,
    prefix_k,
    prefix_v,
    suffix_k,
    suffix_v,
    members=None,
    prefix_lengths=None,
    suffix_lengths=None,
):
    """One decode step of attention over [prompt | own suffix], the prompt stored and read once a group (Hydragen, arXiv:2402.05099). Returns (B, H, K) in q.dtype.

    q: (B, H, K), rotated and not yet scaled. prefix_k, prefix_v: (N, KV, P, K). suffix_k, suffix_v: (B or more, KV, T, K), of which the first
    B count; views of larger buffers are fine. members: (N, M) long, for each prompt the rows of q that belong to it, and -1 for nobody; None:
    the rows of a prompt are contiguous and B = N * M. prefix_lengths (N,), suffix_lengths (B,) long: how many positions count, None for
    all; what lies beyond must be finite. A row without suffix, or one that no prompt names, has ended: it costs little and comes back as zeros.
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
    q,
    prefix_k,
    prefix_v,
    suffix_k,
    suffix_v,
    members=None,
    prefix_lengths=None,
    suffix_lengths=None,
):
    """The same in torch: two matrix products for the scores, one softmax over both, two products for the output.

    Two softmaxes merged by log-sum-exp, and torch's flash attention for the CPU, which is private, took the same time within 15 % (P 60 to 944, B 8 to
    128). Low precision is computed in float32, which on a CPU with bf16 took about as long and erred a quarter as much.
    """
    (B, H, K), (N, KV, P, _), T, dtype = q.shape, prefix_k.shape, suffix_k.shape[2], q.dtype
    R, suffix_k, suffix_v = H // KV, suffix_k[:B], suffix_v[:B]
    if dtype in (torch.float16, torch.bfloat16):
        q, prefix_k, prefix_v, suffix_k, suffix_v = (
            q.float(),
            prefix_k.float(),
            prefix_v.float(),
            suffix_k.float(),
            suffix_v.float(),
        )

    def by_group(x):  # (B, KV, R, X) -> (N, KV, M, R, X); nobody, -1, reads the last row
        return (x.view(N, B // N, KV, R, -1) if members is None else x[members]).transpose(1, 2)

    def by_row(x):  # and back; nobody writes to a spare last row
        x = x.transpose(1, 2)
        return (
            x.reshape(B, KV, R, -1)
            if members is None
            else x.new_zeros(B + 1, *x.shape[2:]).index_put_((members,), x)[:B]
        )

    rows = q.reshape(B, KV, R, K)
    groups = by_group(rows)  # (N, KV, M, R, K)
    prefix = torch.bmm(groups.reshape(N * KV, -1, K), prefix_k.flatten(0, 1).transpose(1, 2)).view(
        N, KV, -1, R, P
    )
    suffix = torch.bmm(rows.flatten(0, 1), suffix_k.flatten(0, 1).transpose(1, 2)).view(B, KV, R, T)
    if prefix_lengths is not None:
        prefix = prefix.masked_fill(
            (torch.arange(P, device=q.device) >= prefix_lengths[:, None])[:, None, None, None],
            -torch.inf,
        )
    if suffix_lengths is not None:
        suffix = suffix.masked_fill(
            (torch.arange(T, device=q.device) >= suffix_lengths[:, None])[:, None, None], -torch.inf
        )
    probs = (
        torch.cat([prefix, by_group(suffix)], -1).mul_(K**-0.5).softmax(-1)
    )  # (N, KV, M, R, P + T)
    seen_prefix = torch.bmm(probs[..., :P].reshape(N * KV, -1, P), prefix_v.flatten(0, 1)).view(
        N, KV, -1, R, K
    )  # (N, KV, M, R, K)
    seen_suffix = torch.bmm(
        by_row(probs[..., P:]).reshape(B * KV, R, T), suffix_v.flatten(0, 1)
    ).view(B, KV, R, K)  # (B, KV, R, K)
    out = by_row(seen_prefix) + seen_suffix
    if suffix_lengths is not None:
        out = torch.where((suffix_lengths > 0)[:, None, None, None], out, 0)
    return out.reshape(B, H, K).to(dtype)


def shared_prefix_attention_triton(
    q,
    prefix_k,
    prefix_v,
    suffix_k,
    suffix_v,
    members=None,
    prefix_lengths=None,
    suffix_lengths=None,
):
    """The same in Triton: float32 partial outputs and their log-sum-exps, of splits of the prefix and of the suffix, and a second small kernel that merges them."""
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
    most, BN = (
        (64, 64) if q.element_size() == 2 else (16, 16)
    )  # float32 has no tensor cores: larger tiles would not fit into registers
    BQ, BR = (
        min(most, max(16, triton.next_power_of_2(M * R))),
        max(16, triton.next_power_of_2(R)),
    )  # query rows to a tile; 16 is the least that tl.dot takes
    tiles = triton.cdiv(M * R, BQ)
    splits = prefix_splits(P, N * KV * tiles, q.device)
    parts = torch.empty(B, H, splits + 1, K, dtype=torch.float32, device=q.device)
    lse, out = (
        parts.new_empty(B, H, splits + 1),
        torch.empty(B, H, K, dtype=q.dtype, device=q.device),
    )
    if members is not None and suffix_lengths is None:
        lse.fill_(
            -torch.inf
        )  # a row that no prompt names: no program writes it, and no length says so
    _attention_parts[(N * KV, splits * tiles + M)](
        q,
        prefix_k,
        prefix_v,
        suffix_k,
        suffix_v,
        members,
        prefix_lengths,
        suffix_lengths,
        parts,
        lse,
        P,
        T,
        M,
        tiles,
        K**-0.5,
        *q.stride()[:2],
        *prefix_k.stride()[:3],
        *suffix_k.stride()[:3],
        H=H,
        KV=KV,
        R=R,
        K=K,
        SPLITS=splits,
        BQ=BQ,
        BR=BR,
        BN=BN,
        num_warps=4,
        num_stages=2,
    )
    _attention_merge[(B, H)](
        parts,
        lse,
        suffix_lengths,
        out,
        H=H,
        K=K,
        SLOTS=splits + 1,
        BS=triton.next_power_of_2(splits + 1),
        num_warps=4,
    )
    return out


def prefix_splits(P, programs, device):
    """In how many parts the prefix is read: enough to give every multiprocessor one, of 256 tokens at least. From shapes alone, so that a CUDA graph keeps it."""
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else 1
    )
    return max(1, min(-(-processors // programs), P // 256))


if triton is not None:
    # "ieee": float32 products in full, as the reference has them; the default would round their factors to TF32

    @triton.jit
    def _attend(
        q,
        k,
        v,
        parts,
        lse,
        row,
        head,
        here,
        slot,
        begin,
        end,
        scale,
        stride_row,
        stride_head,
        stride_k,
        H: tl.constexpr,
        K: tl.constexpr,
        SLOTS: tl.constexpr,
        BQ: tl.constexpr,
        BN: tl.constexpr,
    ):
        """BQ queries, each a (row, head), over the positions begin .. end of one k, v (., K); into their slot go the output (K) and the log-sum-exp, -inf if there is no position."""
        width, offset = tl.arange(0, K), tl.arange(0, BN)
        queries = tl.load(
            q + (row * stride_row + head * stride_head)[:, None] + width[None, :],
            mask=here[:, None],
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
        at = (row * H + head) * SLOTS + slot
        tl.store(parts + at[:, None] * K + width[None, :], acc / total[:, None], mask=here[:, None])
        tl.store(lse + at, top + tl.log(total), mask=here)

    @triton.jit(
        do_not_specialize=["P", "T", "M", "tiles"]
    )  # they change from call to call: no compilation for each
    def _attention_parts(
        q,
        prefix_k,
        prefix_v,
        suffix_k,
        suffix_v,
        members,
        prefix_lengths,
        suffix_lengths,
        parts,
        lse,
        P,
        T,
        M,
        tiles,
        scale,
        q_row,
        q_head,
        prefix_n,
        prefix_kv,
        prefix_p,
        suffix_b,
        suffix_kv,
        suffix_t,
        H: tl.constexpr,
        KV: tl.constexpr,
        R: tl.constexpr,
        K: tl.constexpr,
        SPLITS: tl.constexpr,
        BQ: tl.constexpr,
        BR: tl.constexpr,
        BN: tl.constexpr,
    ):
        """Grid (N * KV, SPLITS * tiles + M): first, for each tile of the group's M * R queries, the splits of the prefix; then each member's R queries over its own suffix."""
        n, kv = (tl.program_id(0) // KV).to(tl.int64), tl.program_id(0) % KV
        job = tl.program_id(1)
        if job < SPLITS * tiles:
            query = (job // SPLITS) * BQ + tl.arange(0, BQ)
            member = query // R
            if members is None:
                rows = tl.where(member < M, n * M + member, -1)
            else:
                rows = tl.load(members + n * M + member, mask=member < M, other=-1)
            some = rows >= 0
            if suffix_lengths is not None:
                some = some & (tl.load(suffix_lengths + rows, mask=some, other=0) > 0)
            if tl.max(some.to(tl.int32), 0) > 0:
                length = P
                if prefix_lengths is not None:
                    length = tl.load(prefix_lengths + n).to(tl.int32)
                share = tl.cdiv(tl.cdiv(length, SPLITS), BN) * BN
                begin = (job % SPLITS) * share
                base = n * prefix_n + kv * prefix_kv
                _attend(
                    q,
                    prefix_k + base,
                    prefix_v + base,
                    parts,
                    lse,
                    rows,
                    kv * R + query % R,
                    some,
                    job % SPLITS,
                    begin,
                    tl.minimum(length, begin + share),
                    scale,
                    q_row,
                    q_head,
                    prefix_p,
                    H,
                    K,
                    SPLITS + 1,
                    BQ,
                    BN,
                )
        else:
            own = job - SPLITS * tiles
            if members is None:
                one = n * M + own
            else:
                one = tl.load(members + n * M + own)
            count = T
            if suffix_lengths is not None:
                count = tl.load(suffix_lengths + one, mask=one >= 0, other=0).to(tl.int32)
            if (one >= 0) & (count > 0):
                heads = tl.arange(0, BR)
                start = one * suffix_b + kv * suffix_kv
                _attend(
                    q,
                    suffix_k + start,
                    suffix_v + start,
                    parts,
                    lse,
                    one + tl.zeros((BR,), tl.int64),
                    kv * R + heads,
                    heads < R,
                    SPLITS,
                    0,
                    count,
                    scale,
                    q_row,
                    q_head,
                    suffix_t,
                    H,
                    K,
                    SPLITS + 1,
                    BR,
                    BN,
                )

    @triton.jit
    def _attention_merge(
        parts,
        lse,
        suffix_lengths,
        out,
        H: tl.constexpr,
        K: tl.constexpr,
        SLOTS: tl.constexpr,
        BS: tl.constexpr,
    ):
        """Grid (B, H): the parts weighted by the softmax of their log-sum-exps; zeros for a row that has ended, whose parts nobody wrote."""
        row = tl.program_id(0).to(tl.int64)
        at, slot, width = row * H + tl.program_id(1), tl.arange(0, BS), tl.arange(0, K)
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


# --- output head, draw and log-prob -------------------------------------------------------------------------------------------------------


def inverse_cdf(probs, uniform):
    """One token a row by inverting the cumulative distribution: what a row draws does not depend on the rows beside it.

    probs: (B, V), of any sum above 0; uniform: (B,) in [0, 1), float64 for a fine grid. Returns (B,) long.
    """
    if probs.device.type == "mps":  # Apple's GPUs have no float64
        return inverse_cdf(probs.cpu(), uniform.cpu()).to(probs.device)
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    # right=True: the first token whose cumulative mass exceeds the draw, so one of probability 0 is never taken
    tokens = torch.searchsorted(
        cumulative, uniform.double()[:, None] * cumulative[:, -1:], right=True
    )[:, 0]
    return tokens.clamp_max(probs.shape[-1] - 1)


def head_sample(states, weight, banned, uniform, temperature=1.0):
    """Output head, one draw a row, its log-prob. Returns tokens (B,) long and logp (B,) float32 (nats), that of the tempered distribution.

    states: (B, D); weight: (V, D), of the same dtype; banned: (V,) bool, tokens without any mass, at least one of them allowed; uniform: (B,) in
    [0, 1), see `inverse_cdf`. temperature 0 is greedy, the lowest id of several, and log-probs at temperature 1; uniform may then be None.
    """
    fits = (
        triton is not None
        and states.is_cuda
        and states.dtype in TRITON_DTYPES
        and states.dtype == weight.dtype
    )
    return (head_sample_triton if fits else head_sample_reference)(
        states, weight, banned, uniform, temperature
    )


def head_sample_reference(states, weight, banned, uniform, temperature=1.0):
    """The same in torch, over the (B, V) logits."""
    bias = torch.zeros_like(banned, dtype=weight.dtype).masked_fill(banned, -torch.inf)
    probs = (F.linear(states, weight, bias).float() / (temperature or 1.0)).softmax(-1)  # (B, V)
    tokens = probs.argmax(-1) if temperature == 0 else inverse_cdf(probs, uniform)
    return tokens, probs.gather(-1, tokens[:, None])[:, 0].log()


def head_sample_triton(states, weight, banned, uniform, temperature=1.0):
    """The same in Triton, over tiles of the vocabulary: the mass of each, then one program a row that computes the tile its draw falls into once more."""
    (B, D), V = states.shape, weight.shape[0]
    assert states.dtype == weight.dtype and states.stride(1) == weight.stride(1) == 1, (
        "one dtype, and the last dimension contiguous"
    )
    assert banned.is_contiguous() and (uniform is None or uniform.is_contiguous())
    BB, BV, BK = (
        min(64, max(16, triton.next_power_of_2(B))),
        128,
        64 if states.element_size() == 2 else 32,
    )
    tiles = triton.cdiv(V, BV)
    tops, sums = torch.empty(2, B, tiles, dtype=torch.float32, device=states.device)
    tokens, logp = torch.empty(B, dtype=torch.long, device=states.device), tops.new_empty(B)
    strides, tau = (states.stride(0), weight.stride(0)), temperature or 1.0
    _head_tiles[(triton.cdiv(B, BB), tiles)](
        states,
        weight,
        banned,
        tops,
        sums,
        B,
        V,
        D,
        tiles,
        *strides,
        tau,
        BB=BB,
        BV=BV,
        BK=BK,
        num_warps=4,
    )
    _head_pick[(B,)](
        states,
        weight,
        banned,
        uniform,
        tops,
        sums,
        tokens,
        logp,
        V,
        D,
        tiles,
        *strides,
        tau,
        GREEDY=temperature == 0,
        BT=triton.next_power_of_2(tiles),
        BV=BV,
        BK=BK,
        num_warps=4,
    )
    return tokens, logp


if triton is not None:

    @triton.jit(do_not_specialize=["B"])
    def _head_tiles(
        states,
        weight,
        banned,
        tops,
        sums,
        B,
        V,
        D,
        tiles,
        stride_states,
        stride_weight,
        temperature,
        BB: tl.constexpr,
        BV: tl.constexpr,
        BK: tl.constexpr,
    ):
        """Grid (B / BB, tiles): for BB rows and BV tokens, the largest logit and the sum of exp(logit - largest). Neighbours share a tile of the weight."""
        row, token, inner = (
            tl.program_id(0) * BB + tl.arange(0, BB),
            tl.program_id(1) * BV + tl.arange(0, BV),
            tl.arange(0, BK),
        )
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
        """The first of BT whose cumulative mass exceeds target; never one without mass, and the last with mass if rounding leaves none."""
        index = tl.arange(0, BT)
        first = tl.min(tl.where((tl.cumsum(mass, 0) > target) & (mass > 0), index, BT), 0)
        return tl.minimum(first, tl.max(tl.where(mass > 0, index, 0), 0))

    @triton.jit
    def _head_pick(
        states,
        weight,
        banned,
        uniform,
        tops,
        sums,
        tokens,
        logp,
        V,
        D,
        tiles,
        stride_states,
        stride_weight,
        temperature,
        GREEDY: tl.constexpr,
        BT: tl.constexpr,
        BV: tl.constexpr,
        BK: tl.constexpr,
    ):
        """Grid (B,): log-sum-exp over the BT tiles, the tile that holds the draw (or the largest logit), its logits again, and the token inside it."""
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
