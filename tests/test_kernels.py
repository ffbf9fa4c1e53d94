"""The operations of a decode step; most of the time goes into Triton's interpreter.

Triton decides when it is imported whether its kernels are interpreted, so conftest.py sets
TRITON_INTERPRET first: on a CPU they run as written. On a machine with a GPU,
`TRITON_INTERPRET=0 pytest tests/test_kernels.py` runs the same tests there.
Not in bf16, whose products are garbage in the interpreter.
"""

import os

# For this file alone: in the whole suite conftest.py has set it.
os.environ.setdefault("TRITON_INTERPRET", "1")

import math
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fast import kernels

COMPILED = os.environ["TRITON_INTERPRET"] == "0"
DEVICE = "cuda" if COMPILED and torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(
    kernels.triton is None or COMPILED and DEVICE == "cpu",
    reason="needs triton: pip install -r requirements-test.txt",
)
both = pytest.mark.parametrize("how", ["reference", pytest.param("triton", marks=needs_triton)])


@pytest.fixture(autouse=True)
def poison():
    """torch.empty holds NaN: what a kernel did not write must not be read."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_interpreter_is_on():
    if kernels.triton is not None and not COMPILED:
        assert not isinstance(kernels.head_tiles, kernels.triton.runtime.JITFunction), (
            "tests/conftest.py must set TRITON_INTERPRET before triton is imported"
        )


# --- attention ---


def random_case(N, M, R, K, P, T, dtype=torch.float32, KV=2, spare=0, seed=0):
    """A batch whose rows are shuffled over the prompts, with `spare` rows that no prompt has.

    The suffixes are views of larger buffers.
    """
    g = torch.Generator().manual_seed(seed)
    B = N * M - N + spare  # the last place of each prompt is empty

    def draw(*shape):
        return torch.randn(*shape, generator=g).to(DEVICE, dtype)

    # As cut from the product that makes queries and keys at once.
    q = draw(B, KV * R + KV, K)[:, : KV * R]
    prefix_k, prefix_v = draw(N, KV, P, K), draw(N, KV, P, K)
    suffix_k, suffix_v = draw(B + 2, KV, T + 3, K)[:, :, :T], draw(B + 2, KV, T + 3, K)[:, :, :T]
    order = torch.randperm(B, generator=g)
    members = torch.full((N, M), -1)
    members[:, : M - 1] = order[: N * M - N].view(N, M - 1)
    members = members.gather(1, torch.stack([torch.randperm(M, generator=g) for _ in range(N)]))
    prefix_lengths = torch.randint(1, P + 1, (N,), generator=g)
    suffix_lengths = torch.randint(1, T + 1, (B,), generator=g)
    suffix_lengths[order[N * M - N :]] = 0
    return (
        (q, prefix_k, prefix_v, suffix_k, suffix_v),
        members.to(DEVICE),
        prefix_lengths.to(DEVICE),
        suffix_lengths.to(DEVICE),
    )


def dense(
    q,
    prefix_k,
    prefix_v,
    suffix_k,
    suffix_v,
    members=None,
    prefix_lengths=None,
    suffix_lengths=None,
):
    """Row by row, head by head, in float64: softmax(q [prefix | suffix]^T) [prefix | suffix]."""
    B, H, K = q.shape
    (N, KV, P, _), T = prefix_k.shape, suffix_k.shape[2]
    members = torch.arange(B).view(N, -1) if members is None else members
    out = torch.zeros(B, H, K, dtype=torch.float64)
    for n in range(N):
        for b in (b for b in members[n].tolist() if b >= 0):
            p = P if prefix_lengths is None else int(prefix_lengths[n])
            t = T if suffix_lengths is None else int(suffix_lengths[b])
            for h in range(H if t else 0):
                kv = h // (H // KV)
                k = torch.cat([prefix_k[n, kv, :p], suffix_k[b, kv, :t]]).double()
                v = torch.cat([prefix_v[n, kv, :p], suffix_v[b, kv, :t]]).double()
                out[b, h] = (torch.softmax(k @ q[b, h].double() / math.sqrt(K), 0) @ v).cpu()
    return out


def attention(how, *arguments):
    out = getattr(kernels, f"shared_prefix_attention_{how}")(*arguments)
    assert (
        out.shape == arguments[0].shape and out.dtype == arguments[0].dtype and out.isfinite().all()
    )
    return out.cpu().double()


@both
@pytest.mark.parametrize(
    "N, M, R, K, P, T, splits",
    [
        (2, 4, 2, 64, 77, 19, 1),
        (2, 4, 6, 128, 77, 19, 3),
        (3, 3, 1, 32, 200, 40, 8),
        (2, 3, 7, 128, 70, 5, 3),  # ragged; P no multiple of a tile
        (1, 14, 6, 64, 45, 33, 3),
        (2, 41, 2, 32, 40, 3, 1),  # M * R above one tile of 64
        (2, 3, 2, 64, 1, 1, 3),
        (1, 2, 1, 16, 32, 32, 8),
    ],
)  # one token; exactly a tile
def test_attention_agrees_with_dense(how, N, M, R, K, P, T, splits, monkeypatch):
    monkeypatch.setattr(kernels, "prefix_splits", lambda *_: splits)
    case, members, prefix_lengths, suffix_lengths = random_case(N, M, R, K, P, T, spare=1)
    expected = dense(*case, members, prefix_lengths, suffix_lengths)
    torch.testing.assert_close(
        attention(how, *case, members, prefix_lengths, suffix_lengths), expected, atol=2e-6, rtol=0
    )


@both
@pytest.mark.parametrize("N, M, splits", [(2, 4, 1), (1, 7, 3)])
def test_attention_without_members_or_lengths(how, N, M, splits, monkeypatch):
    monkeypatch.setattr(kernels, "prefix_splits", lambda *_: splits)
    case, members, _, _ = random_case(N, M, 2, 64, 50, 9, spare=2)  # B = 8: contiguous groups, too
    torch.testing.assert_close(attention(how, *case), dense(*case), atol=2e-6, rtol=0)
    torch.testing.assert_close(
        attention(how, *case, torch.arange(8, device=DEVICE).view(N, -1)),
        dense(*case),
        atol=2e-6,
        rtol=0,
    )
    torch.testing.assert_close(
        attention(how, *case, members), dense(*case, members), atol=2e-6, rtol=0
    )  # two rows stand nowhere: zeros


@needs_triton
def test_attention_in_half_precision(monkeypatch):
    monkeypatch.setattr(kernels, "prefix_splits", lambda *_: 3)
    case, *rest = random_case(2, 4, 6, 64, 77, 19, torch.float16)
    torch.testing.assert_close(
        attention("triton", *case, *rest), dense(*case, *rest), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_reference_rounds_once(dtype):
    case, *rest = random_case(2, 4, 6, 64, 77, 19, dtype)
    torch.testing.assert_close(
        attention("reference", *case, *rest),
        dense(*case, *rest),
        atol=1e-6,
        rtol=torch.finfo(dtype).eps / 2 * 1.01,
    )


def test_attention_reference_in_float64():
    case, *rest = random_case(3, 5, 2, 32, 60, 21, torch.float64, spare=2)
    torch.testing.assert_close(
        attention("reference", *case, *rest), dense(*case, *rest), atol=1e-12, rtol=0
    )
    case, *_ = random_case(2, 4, 2, 32, 60, 21, torch.float64, spare=2)
    torch.testing.assert_close(attention("reference", *case), dense(*case), atol=1e-12, rtol=0)


@both
def test_rows_that_ended(how, monkeypatch):
    """A group without a row, one with one row left, large scores, and junk beyond the lengths."""
    monkeypatch.setattr(kernels, "prefix_splits", lambda *_: 3)
    case, members, prefix_lengths, suffix_lengths = random_case(3, 4, 2, 64, 77, 19)
    case = (case[0] * 30, *case[1:])
    alive = members[1][members[1] >= 0][0]
    suffix_lengths[members[0][members[0] >= 0]] = 0
    suffix_lengths[members[1][members[1] >= 0]] = 0
    suffix_lengths[alive] = 7
    expected = dense(*case, members, prefix_lengths, suffix_lengths)
    for n, length in enumerate(prefix_lengths):
        case[1][n, :, length:], case[2][n, :, length:] = 100.0, 100.0
    for b, length in enumerate(suffix_lengths):
        case[3][b, :, length:], case[4][b, :, length:] = 100.0, 100.0
    before = [x.clone() for x in case]
    got = attention(how, *case, members, prefix_lengths, suffix_lengths)
    # Scores of about 200: the last bit of a float32 is 1.5e-5 there.
    torch.testing.assert_close(got, expected, atol=3e-5, rtol=0)
    assert (got.abs().amax((1, 2)) == 0).sum() == 5 and got[alive].abs().max() > 0
    assert all(torch.equal(x, y) for x, y in zip(case, before))  # and it leaves its arguments alone


def test_prefix_splits(monkeypatch):
    assert kernels.prefix_splits(4096, 4, torch.device("cpu")) == 1  # counts as one processor
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132)
    )
    for P, programs, expected in (
        (65536, 2, 66),  # at least 132 programs in all
        (65536, 32, 5),
        (65536, 200, 1),
        (1, 2, 1),  # of 256 tokens at least
        (511, 2, 1),
        (1000, 2, 3),
    ):
        assert kernels.prefix_splits(P, programs, torch.device("cuda")) == expected


# --- output head ---

TOP = 1 - 2.0**-53  # the largest float64 below 1


def head_case(B, D, V, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    states, weight = (
        torch.randn(B, D, generator=g),
        torch.randn(V, D, generator=g) * 2 / math.sqrt(D),
    )
    banned = torch.rand(V, generator=g) < 0.2
    return (
        states.to(DEVICE, dtype),
        weight.to(DEVICE, dtype),
        banned.to(DEVICE),
        torch.rand(B, generator=g, dtype=torch.float64).to(DEVICE),
    )


def head(how, *arguments):
    tokens, logp = getattr(kernels, f"head_sample_{how}")(*arguments)
    assert (
        tokens.dtype == torch.long
        and logp.dtype == torch.float32
        and tokens.shape == logp.shape == arguments[0].shape[:1]
    )
    assert not arguments[2][tokens].any(), "a banned token"
    return tokens.cpu(), logp.cpu()


def exact_logp(states, weight, banned, temperature):
    return (
        (
            (states.double() @ weight.double().T).masked_fill(banned, -torch.inf)
            / (temperature or 1.0)
        )
        .log_softmax(-1)
        .cpu()
    )


@both
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 5e-3)])
@pytest.mark.parametrize(
    "B, D, V, temperature",
    [(5, 96, 700, 1.0), (70, 40, 300, 0.6), (3, 64, 128, 1.5), (17, 32, 50, 1.0), (5, 96, 700, 0)],
)
def test_head_sample(how, dtype, tolerance, B, D, V, temperature):
    states, weight, banned, uniform = head_case(B, D, V, dtype)
    tokens, logp = head(how, states, weight, banned, uniform if temperature else None, temperature)
    exact = exact_logp(states, weight, banned, temperature)
    chosen = exact.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logp.double(), chosen, atol=tolerance, rtol=0)
    if temperature == 0:
        assert (chosen >= exact.amax(1) - (0 if dtype == torch.float32 else tolerance)).all()
    else:  # the draw lies between the masses before and after its token
        after = exact.exp().cumsum(1).gather(1, tokens[:, None])[:, 0]
        assert (after - chosen.exp() - tolerance <= uniform.cpu()).all() and (
            uniform.cpu() <= after + tolerance
        ).all()
    if dtype == torch.float32:  # the very token; the seed is fixed, so no false alarm
        reference, _ = head("reference", states, weight, banned, uniform, temperature)
        assert torch.equal(tokens, reference)


@both
def test_float32_uniforms_and_strided_states(how):
    states, weight, banned, uniform = head_case(6, 32, 200)
    wide = torch.cat([states, states], 1)[:, :32]
    assert torch.equal(
        head(how, wide, weight, banned, uniform.float())[0],
        head(how, states, weight, banned, uniform.float().double())[0],
    )


@both
def test_extreme_draws(how):
    """0 takes the first token with mass and 1 - 2^-53 the last; a certain token is always taken.

    Also behind tiles that are banned altogether.
    """
    states, weight, banned, _ = head_case(4, 32, 600)
    banned[:140], banned[500:] = True, True
    allowed = (~banned).nonzero()[:, 0].cpu()
    states = states * 0.1  # nearly uniform: rounding cannot hide the ends
    tokens, _ = head(
        how,
        states,
        weight,
        banned,
        torch.tensor([0.0, TOP, 0.0, TOP], dtype=torch.float64, device=DEVICE),
    )
    assert tokens.tolist() == [int(allowed[0]), int(allowed[-1])] * 2
    for certain in (int(allowed[0]), 333 if not banned[333] else 334, int(allowed[-1])):
        sure = torch.zeros_like(weight)
        sure[certain, 0] = 500.0
        states[:, 0] = 1.0
        banned[certain] = False
        tokens, logp = head(
            how,
            states,
            sure,
            banned,
            torch.tensor([0.0, TOP, 0.5, 0.1], dtype=torch.float64, device=DEVICE),
        )
        assert tokens.tolist() == [certain] * 4 and (logp == 0).all()


@both
def test_greedy_takes_the_lowest_of_equals(how):
    states, weight, banned, _ = head_case(3, 32, 400)
    banned[:] = False
    best = states[0] / states[0].norm() * 20
    for at in (399, 301, 290, 130):
        weight[at] = best
        assert head(how, states, weight, banned, None, 0)[0][0] == at
    banned[130] = True
    assert head(how, states, weight, banned, None, 0)[0][0] == 290


@both
def test_sampling_law(how):
    """Chi-square over 12 tokens, 3 of them banned; evenly spaced draws give n * p to within one.

    8 degrees of freedom: above 26.1 with probability 0.001.
    """
    g = torch.Generator().manual_seed(1)
    n = 20_000 if how == "reference" else 200
    states, weight, banned, _ = head_case(1, 16, 12, seed=3)
    banned[:] = False
    banned[[2, 7, 11]] = True
    probs = exact_logp(states, weight, banned, 0.8)[0].exp()
    counts = head(
        how,
        states.expand(n, -1),
        weight,
        banned,
        torch.rand(n, generator=g, dtype=torch.float64).to(DEVICE),
        0.8,
    )[0].bincount(minlength=12)
    allowed = ~banned.cpu()
    assert ((counts - n * probs) ** 2 / (n * probs))[allowed].sum() < 26.1 and counts[
        ~allowed
    ].sum() == 0
    even = (torch.arange(n, dtype=torch.float64)[torch.randperm(n, generator=g)] + 0.5) / n
    assert (
        head(how, states.expand(n, -1), weight, banned, even.to(DEVICE), 0.8)[0].bincount(
            minlength=12
        )
        - n * probs
    ).abs().max() <= 1.01


def test_a_draw_does_not_depend_on_the_batch():
    states, weight, banned, uniform = (x.cpu() for x in head_case(40, 32, 300))
    tokens = kernels.head_sample_reference(states, weight, banned, uniform)[0]
    assert torch.equal(
        tokens[7:19], kernels.head_sample_reference(states[7:19], weight, banned, uniform[7:19])[0]
    )


def test_inverse_cdf():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).repeat(6, 1)
    draws = torch.tensor([0.0, 0.2499, 0.25, 0.5, 1 - 2.0**-24, TOP], dtype=torch.float64)
    assert kernels.inverse_cdf(probs, draws).tolist() == [1, 1, 3, 3, 3, 3]
    assert torch.equal(
        kernels.inverse_cdf(probs * 7, draws), kernels.inverse_cdf(probs.double(), draws)
    )  # the sum does not matter
    tail = torch.tensor([[1.0, 1e-9, 1e-9]]).repeat(2, 1)  # which a sum in float32 would lose
    assert kernels.inverse_cdf(tail, draws[[0, -1]]).tolist() == [0, 2]


# --- for a CUDA graph ---


class NoHostReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
            torch.ops.aten.equal.default,
        ), func
        return func(*args, **(kwargs or {}))


def every_operation(how):
    case, *rest = random_case(2, 4, 2, 32, 40, 9, spare=1)
    yield lambda: getattr(kernels, f"shared_prefix_attention_{how}")(*case, *rest)
    for temperature in (1.0, 0):
        states, weight, banned, uniform = head_case(4, 32, 150)
        yield lambda: getattr(kernels, f"head_sample_{how}")(
            states, weight, banned, uniform, temperature
        )


@both
def test_nothing_is_read_on_the_host(how):
    for operation in every_operation(how):
        with NoHostReads():
            operation()


def test_nothing_depends_on_values():
    """Fake tensors have shapes and no values: reading one stops here."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        q, prefix, suffix = (
            torch.empty(6, 4, 32),
            torch.empty(2, 2, 40, 32),
            torch.empty(7, 2, 9, 32),
        )
        members, lengths = torch.zeros(2, 4, dtype=torch.long), torch.ones(6, dtype=torch.long)
        assert kernels.shared_prefix_attention(
            q, prefix, prefix, suffix, suffix, members, lengths[:2], lengths
        ).shape == (6, 4, 32)
        out = kernels.shared_prefix_attention(q, prefix, prefix, suffix, suffix)
        assert out.shape == (6, 4, 32)
        for temperature in (1.0, 0):
            tokens, logp = kernels.head_sample(
                torch.empty(6, 32),
                torch.empty(99, 32),
                torch.empty(99, dtype=torch.bool),
                torch.empty(6, dtype=torch.float64),
                temperature,
            )
            assert tokens.shape == logp.shape == (6,)
