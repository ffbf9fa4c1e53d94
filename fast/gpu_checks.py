"""`python -m fast.bench --gpu --only check`: what has to hold before a figure means anything.

Kernels against their references, graph replay against the eager step, the rollout against the
trainer. A failure is printed and counted, and it becomes the exit status.
"""

import importlib.util
import math
from collections.abc import Callable
from types import SimpleNamespace

import torch

import logps
import rollout
from fast import kernels, sides
from fast.decode import Decoder, Plan, decode_weights
from plumbing.device import pick_dtype

Found = list[tuple[str, float, float]]  # what, figure, the most that it may be
Heads = tuple[int, int, int]  # KV, R query heads for each of them, K

# --- what the sections share ---


def clear(device: torch.device) -> None:
    """Give back what the last measurement left in torch's pools."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def whole_plan(copy: bool, N: int, G: int) -> Plan:
    """Make the plan of a rollout in one wave, in place of decode.plan_memory's.

    copy: whether the linear layers are copied into the compute dtype (NF4: dequantised once).
    """
    return copy, [(0, N, 0, G)]


def weight_kinds(device: torch.device) -> list[tuple[str, str, bool]]:
    """List (name, quant, copy): the ways to hold the linear layers' weights in a rollout."""
    kinds = [("bf16", "none", True)]
    if importlib.util.find_spec("bitsandbytes"):
        kinds.append(("nf4, dequantised once", "nf4", True))
        kinds.append(("nf4, bitsandbytes' own products", "nf4", False))
    return kinds


def decoder_midway(
    policy: torch.nn.Module, special: SimpleNamespace, work: sides.Work, copy: bool = True
) -> Decoder:
    """Make a Decoder at t = T / 2, where a step has its average cost.

    It has sampled its first token, and its cache holds random numbers.
    """
    N, P, T, G = work
    core = logps.core_of(policy)
    policy.eval()
    decoder = Decoder(
        core,
        decode_weights(core, copy),
        sides.random_prompts(special, N, P),
        special,
        G,
        rollout.row_uniforms(0, range(N * G), T),
        rollout.Sampling(T),
        rollout.sample,
    )
    decoder.sample_one_token()
    for k, v in decoder.suffix:
        k.normal_()
        v.normal_()
    decoder.length.fill_(T // 2)
    return decoder


def take_step(decoder: Decoder) -> None:
    """Take the rows one token further, without a graph."""
    decoder.forward_one_token()
    decoder.sample_one_token()


def stepping(decoder: Decoder) -> Callable[[], object]:
    """Return what takes a step: a replayed graph, or without a GPU the step itself."""
    if decoder.graphed:
        return decoder.capture().replay
    return lambda: take_step(decoder)


# --- kernels ---


def relative(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Return ||out - expected|| / ||expected||, in float64; nan if anything is not finite."""
    out, expected = out.double(), expected.double()
    if not torch.isfinite(out).all():
        return float("nan")
    return float((out - expected).norm() / expected.norm())


def check_attention(
    generator: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
    rows: tuple[int, int],
    lengths: tuple[int, int],
    heads: Heads,
) -> float:
    """Measure the attention kernel's relative error against its reference in float64.

    rows: N, M. lengths: P, T. Lengths are ragged, members out of order, and some rows have ended.
    """
    (N, M), (P, T), (KV, R, K) = rows, lengths, heads
    B = N * M
    shapes = [(B, KV * R, K), (N, KV, P, K), (N, KV, P, K), (B, KV, T, K), (B, KV, T, K)]
    tensors = [torch.randn(*shape, generator=generator).to(device, dtype) for shape in shapes]
    members = torch.randperm(B, generator=generator).view(N, M)
    members[:, -1] = -1
    prefix_lengths = torch.randint(1, P + 1, (N,), generator=generator)
    suffix_lengths = torch.randint(1, T + 1, (B,), generator=generator)
    # Rows of no prompt have ended.
    present = set(members.flatten().tolist())
    suffix_lengths[[b for b in range(B) if b not in present]] = 0
    where = [x.to(device) for x in (members, prefix_lengths, suffix_lengths)]
    out = kernels.shared_prefix_attention(*tensors, *where)
    expected = kernels.shared_prefix_attention_reference(*(x.double() for x in tensors), *where)
    return relative(out, expected)


def check_head(
    generator: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    head: tuple[int, int],
) -> Found:
    """Compare the head's kernel with exact log-probs and with the reference's tokens.

    head: D, V.
    """
    found = []
    exactly = dtype == torch.float32
    D, V = head
    states = torch.randn(rows, D, generator=generator).to(device, dtype)
    weight = (torch.randn(V, D, generator=generator) / D**0.5).to(device, dtype)
    banned = torch.zeros(V, dtype=torch.bool, device=device)
    banned[-5:] = True
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64).to(device)
    for temperature in (1.0, 0.0):
        tokens, logp = kernels.head_sample(states, weight, banned, uniform, temperature)
        theirs, _ = kernels.head_sample_reference(states, weight, banned, uniform, temperature)
        logits = (states.double() @ weight.double().T).masked_fill(banned, -torch.inf)
        exact = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        name = f"head, V {V}, {dtype}, temperature {temperature:g}"
        gap = float((logp - exact).abs().max())
        found.append((f"{name}: |log-prob - exact|, largest", gap, 1e-4 if exactly else 0.05))
        # A draw next to a border, or a near-tie, falls either way.
        other = float((tokens != theirs).double().mean())
        what = f"{name}: share of tokens other than the reference's"
        found.append((what, other, 0.04 if exactly else 0.15))
    return found


def kernel_checks(
    device: torch.device,
    N: int = 8,
    M: int = 8,
    P: int = 1000,
    T: int = 512,
    heads: tuple[Heads, ...] = ((2, 6, 128), (4, 7, 128)),
    head: tuple[int, int] = (1536, 151936),
) -> Found:
    """Check the two kernels against their references in float64.

    heads: (KV, R, K) of each attention. head: (D, V).
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for one in heads:
            error = check_attention(generator, device, dtype, (N, M), (P, T), one)
            KV, R, K = one
            what = f"attention, {KV} x {R} heads of {K}, {dtype}: relative error"
            found.append((what, error, limit))
        found += check_head(generator, device, dtype, M * N, head)
    return found


# --- graph and rollout ---


@torch.no_grad()
def graph_check(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    work: sides.Work,
    copy: bool,
    steps: int = 8,
) -> float:
    """Return the largest gap between a replayed step and the eager one, over some steps.

    Of state and log-prob, from the same buffers. 0: bit for bit; inf: a token differs.
    """
    decoder = decoder_midway(policy, special, work, copy)
    step = stepping(decoder)  # capturing restores the buffers
    worst = 0.0
    buffers = (decoder.tokens, decoder.finished, decoder.length, decoder.state)
    for _ in range(min(steps, work.T - work.T // 2 - 1)):
        before = [buffer.clone() for buffer in buffers]
        step()
        tokens, state, logp = decoder.tokens.clone(), decoder.state.clone(), decoder.logp.clone()
        for buffer, value in zip(buffers, before):
            buffer.copy_(value)
        take_step(decoder)
        if not torch.equal(decoder.tokens, tokens):
            return float("inf")
        gaps = [
            float((decoder.state - state).abs().max()),
            float((decoder.logp - logp).abs().max()),
        ]
        if any(math.isnan(gap) for gap in gaps):
            return float("nan")  # max would drop it
        worst = max(worst, *gaps)
    return worst


def k3(gap: torch.Tensor) -> float:
    """Return the mean k3 estimate of the KL of log-prob differences, in nats a token."""
    return float((gap.exp() - 1 - gap).mean())


def agreement_checks(
    directory: str, device: torch.device, dtype: torch.dtype, P: int, T: int, G: int
) -> Found:
    """Compare a rollout with the trainer's log-probs, and both with stock float32.

    The stock forward pass in `dtype` gives the error that is usual in that dtype.
    """
    policy, _, special = sides.load_bench(directory, device, dtype, lora_r=16)
    prompt = sides.random_prompt(special, P)
    policy.eval()
    roll = rollout.rollout(policy, [prompt], special, G, rollout.Sampling(T))
    with torch.no_grad():
        trainer = sides.our_logps(policy, special, [prompt], roll.targets, [G]).cpu()
        stock = sides.stock_logps(policy, special, [prompt] * G, roll.targets).cpu()
    del policy
    clear(device)
    exact_policy, _, _ = sides.load_bench(directory, device, torch.float32, lora_r=16)
    exact_policy.eval()
    with torch.no_grad():
        exact = sides.stock_logps(exact_policy, special, [prompt] * G, roll.targets).cpu()
    del exact_policy
    clear(device)
    noise = float((stock - exact).abs().mean())
    gap = trainer - roll.logp
    name = str(dtype).removeprefix("torch.")
    most = 1e-4 if dtype == torch.float32 else 0.05
    found = [
        (f"{name}: KL (k3) of rollout to trainer, nats a token", k3(gap), 1e-3),
        (f"{name}: |rollout - trainer|, mean", float(gap.abs().mean()), most),
    ]
    if dtype == torch.float32:
        return found
    for who, logp in (("rollout", roll.logp), ("trainer", trainer)):
        what = (
            f"{name}: error of the {who} against float32, over that of the stock forward pass "
            f"({noise:.2e} nats)"
        )
        found.append((what, float((logp - exact).abs().mean()) / noise, 1.25))
    return found


def four_bit_agreement(
    policy: torch.nn.Module, special: SimpleNamespace, P: int, T: int, copy: bool
) -> float:
    """Return the k3 of a 4-bit rollout to the trainer, in nats a token."""
    prompt = [sides.random_prompt(special, P)]
    sampling = rollout.Sampling(min(T, 32))
    roll = rollout.rollout(policy, prompt, special, 2, sampling, plan=whole_plan(copy, 1, 2))
    with torch.no_grad():
        trainer = sides.our_logps(policy, special, prompt, roll.targets, [2]).cpu()
    return k3(trainer - roll.logp)


# --- the section ---


def note(
    rows: list[dict], what: str, measure: Callable[[], float | Found], limit: float = 0.0
) -> None:
    """Print and keep one check, or what it raised, so that the others go on."""
    try:
        found = measure()
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        found = [(f"{what}: {reason}", float("nan"), limit)]
    if not isinstance(found, list):
        found = [(what, found, limit)]
    for name, figure, most in found:
        ok = figure <= most  # false for nan
        rows.append({"what": name, "figure": figure, "limit": most, "ok": ok})
        word = "ok    " if ok else "FAILED"
        print(f"{word}  {name}: {figure:.3g} (at most {most:g})", flush=True)


def check_weights(
    rows: list[dict],
    size: str,
    directory: str,
    device: torch.device,
    kind: tuple[str, str, bool],
    work: sides.Work,
) -> None:
    """Check one size with one kind of weights: graph replay, then rollout or all sides."""
    name, quant, copy = kind
    usual = pick_dtype("auto", device)
    policy, _, special = sides.load_bench(directory, device, usual, quant=quant, lora_r=16)
    note(
        rows,
        f"{size}, {name}: graph replay against the eager step, largest difference",
        lambda: graph_check(policy, special, work, copy),
    )
    if quant == "nf4":
        note(
            rows,
            f"{size}, {name}: KL (k3) of rollout to trainer, nats a token",
            lambda: four_bit_agreement(policy, special, work.P, work.T, copy),
            1e-3,
        )
    elif size != "7b":  # its gradients show no more than the others'
        note(
            rows,
            f"{size}: sides do the same work (log-probs, gradients)",
            lambda: sides.check_same_work(policy, special, work.P) or 0.0,
        )


def bench_check(
    device: torch.device,
    directories: dict[str, str],
    shape: tuple[int, int, int],
    rows: list[dict],
) -> None:
    """Run all checks on every model of `directories`, {size: directory}."""
    small = (2, 3, 40, 12, ((2, 3, 32),), (64, 500))  # N, M, P, T, heads, head
    kernel_sizes = () if device.type == "cuda" else small
    note(rows, "kernels", lambda: kernel_checks(device, *kernel_sizes))
    P, T, G = shape
    for size, directory in directories.items():
        for kind in weight_kinds(device):
            check_weights(rows, size, directory, device, kind, sides.Work(2, P, T, G))
            clear(device)
        if size == "7b":
            continue
        for dtype in (torch.float32, torch.bfloat16):

            def agreement(directory: str = directory, dtype: torch.dtype = dtype) -> Found:
                return agreement_checks(directory, device, dtype, P, min(T, 64), 4)

            note(rows, f"{size}, {dtype}: rollout against trainer", agreement)
