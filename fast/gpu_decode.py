"""`python -m fast.bench --gpu --only decode`: seconds of a decode step, and what bounds them.

Against `model.generate` (its default cache; last, a static cache and compilation), and as a share
of the roofline: the bytes that a step must read over the copy bandwidth measured on this card.
"""

import statistics
from types import SimpleNamespace
from typing import NamedTuple

import torch

import data
import logps
import rollout
from fast import sides
from fast.decode import as_plain_linear, bytes_of_a_token, linear_layers
from fast.gpu_checks import clear, decoder_midway, stepping, weight_kinds, whole_plan
from fast.race import clock, race
from plumbing.device import pick_dtype


class Weights(NamedTuple):
    """How the linear layers' weights are held. copy: in the compute dtype."""

    name: str
    quant: str
    copy: bool


def bytes_of_step(policy: torch.nn.Module, work: sides.Work, quant: str) -> float:
    """Count the bytes that a step reads, T / 2 tokens after the prompt.

    Once each: linear layers (as they are held), head, adapters, a prompt's cache, a row's own.
    """
    N, P, T, G = work
    core = logps.core_of(policy)
    config = core.config.text_config
    size = logps.dtype_of(core).itemsize
    layers = [as_plain_linear(module)[0] for module in linear_layers(core).values()]
    linear = sum(layer.in_features * layer.out_features for layer in layers)
    adapters = sum(p.numel() for n, p in policy.named_parameters() if "lora_" in n)
    held = size
    if quant == "nf4":
        held = 4.127 / 8  # four bits a weight, and the scales of their blocks
    return (
        linear * held
        + adapters * size
        + config.vocab_size * config.hidden_size * size
        + bytes_of_a_token(core) * (N * P + N * G * T // 2)
    )


@torch.no_grad()
def time_steps(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    work: sides.Work,
    copy: bool,
    repeats: int,
    steps: int = 32,
) -> list[float]:
    """Return seconds of one step around the middle of a completion, `repeats` times.

    Each is the mean of `steps` steps.
    """
    decoder = decoder_midway(policy, special, work, copy)
    step = stepping(decoder)
    device = policy.device
    seconds = []
    steps = min(steps, work.T // 4)
    for turn in range(repeats + 1):
        decoder.length.fill_(work.T // 2 - steps // 2)
        started = clock(device)
        for _ in range(steps):
            step()
        if turn:
            seconds.append((clock(device) - started) / steps)
    return seconds


@torch.no_grad()
def profile_step(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    work: sides.Work,
    copy: bool,
    seconds: float,
    steps: int = 8,
) -> list[dict]:
    """List the kernels of a step, the slowest first: [{"kernel", "calls" a step, "share"}].

    seconds: of a step, measured without the profiler. The last row: how much no kernel runs.
    Empty without a GPU.
    """
    if policy.device.type != "cuda":
        return []
    step = stepping(decoder_midway(policy, special, work, copy))
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    events = [
        e
        for e in profile.key_averages()
        if e.self_device_time_total > 0 and e.device_type == torch.autograd.DeviceType.CUDA
    ]
    events.sort(key=lambda e: -e.self_device_time_total)

    def share(some: list) -> float:
        return sum(e.self_device_time_total for e in some) / 1e6 / steps / seconds

    rows = [
        {"kernel": e.key[:90], "calls": e.count / steps, "share": share([e])} for e in events[:12]
    ]
    calls = sum(e.count for e in events) / steps
    return rows + [{"kernel": "no kernel runs", "calls": calls, "share": 1 - share(events)}]


def generate_times(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    prompts: list[data.Prompt],
    G: int,
    T: int,
    **options: object,
) -> dict:
    """Time stock `generate` once: {"decode_ms", "prefill_s"}, after a turn that does not count.

    Prompts and pictures are repeated. With options: {"failed": why} if it does not run.
    """
    device = policy.device
    rows = sides.repeated(prompts, G)
    # What is compiled is compiled for this length.
    first_length = T if options else 4
    try:
        sides.stock_generate(policy, special, rows, first_length, **options)
        seconds = {}
        for tokens in (1, T):
            started = clock(device)
            sides.stock_generate(policy, special, rows, tokens, **options)
            seconds[tokens] = clock(device) - started
    except Exception as error:  # compilers fail in many ways, none of them ours
        if not options:
            raise
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"decode_ms": 1e3 * (seconds[T] - seconds[1]) / (T - 1), "prefill_s": seconds[1]}


def decode_row(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    prompts: list[data.Prompt],
    work: sides.Work,
    weights: Weights,
    B: int,
    bandwidth: float,
    repeats: int,
) -> dict:
    """Measure a decode step, and a decode with the capture of its graph.

    B: rows, as asked for; N * G of them decode.
    """
    N, _, T, G = work
    plan = whole_plan(weights.copy, N, G)

    def whole(turn: int) -> object:
        sampling = rollout.Sampling(T)
        return rollout.rollout(policy, prompts, special, G, sampling, seed=turn, plan=plan)

    def first_token(turn: int) -> object:
        sampling = rollout.Sampling(1)
        return rollout.rollout(policy, prompts, special, G, sampling, seed=turn, plan=plan)

    steps = time_steps(policy, special, work, weights.copy, repeats)
    seconds = race({"all": whole, "first": first_token}, repeats, policy.device)
    prefill = statistics.median(seconds["first"])
    decode = (statistics.median(seconds["all"]) - prefill) / (T - 1)  # with capturing the graph
    step = statistics.median(steps)
    floor = bytes_of_step(policy, work, "none" if weights.copy else weights.quant) / bandwidth
    return {
        "step_ms": 1e3 * step,
        "step_ms_range": [1e3 * min(steps), 1e3 * max(steps)],
        "decode_ms": 1e3 * decode,
        "prefill_s": prefill,
        "tokens_per_second": B / decode,
        "roofline_ms": 1e3 * floor,
        "roofline_share": floor / step,
    }


def measure_decode(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    size: str,
    weights: Weights,
    work: sides.Work,
    B: int,
    bandwidth: float,
    repeats: int,
    profiled: bool,
    rows: list[dict],
) -> tuple[dict, dict | None]:
    """Append the rows of one model and number of rows; return (ours, generate's or None)."""
    prompts = sides.random_prompts(special, work.N, work.P)
    named = {"size": size, "weights": weights.name, "B": B}
    named_shape = {**named, "P": work.P, "T": work.T}
    name = f"{size}, {weights.name}, B {B}"
    figures = decode_row(policy, special, prompts, work, weights, B, bandwidth, repeats)
    mine = {"what": "decode", **named_shape, **figures}
    rows.append(mine)
    print(
        f"{name}: step {mine['step_ms']:.2f} ms ({mine['roofline_share']:.0%} of the roofline), "
        f"with capture {mine['decode_ms']:.2f} ms, {mine['tokens_per_second']:.0f} tokens/s",
        flush=True,
    )
    theirs = None
    # The 7B is what people hold in 4 bits.
    if weights.quant == "none" or (not weights.copy and size != "2b"):
        theirs = generate_times(policy, special, prompts, work.G, work.T)
        rows.append({"what": "generate", **named_shape, **theirs})
        print(f"{name}: model.generate {theirs['decode_ms']:.2f} ms", flush=True)
    clear(policy.device)
    if profiled:
        seconds = mine["step_ms"] / 1e3
        for found in profile_step(policy, special, work, weights.copy, seconds):
            rows.append({"what": "profile", **named, **found})
            share, calls = found["share"], found["calls"]
            print(f"    {share:6.1%}  {calls:6.1f} calls  {found['kernel']}", flush=True)
    return mine, theirs


def add_ratios(size: str, mine: list[dict], theirs: dict[tuple[str, int], dict]) -> None:
    """Add to each of our rows, and print, how many times our time `generate` takes.

    theirs: {(quant, B): figures of generate}.
    """
    words = {"none": "generate", "nf4": "generate with bitsandbytes and PEFT"}
    for row in mine:
        parts = []
        for quant, other in words.items():
            if (quant, row["B"]) in theirs:
                ratio = theirs[quant, row["B"]]["decode_ms"] / row["decode_ms"]
                row[f"ratio_{quant}"] = ratio
                parts.append(f"{ratio:.2f} times {other}")
        print(f"{size}, {row['weights']}, B {row['B']}: {', '.join(parts)}", flush=True)


def bench_decode(
    device: torch.device,
    directories: dict[str, str],
    row_counts: list[int],
    shape: tuple[int, int, int],
    repeats: int,
    bandwidth: float,
    rows: list[dict],
) -> None:
    """Measure decode steps of every model, kind of weights and number of rows.

    directories: {size: directory}. bandwidth: bytes per second. rows: where results go.
    """
    P, T, G = shape
    dtype = pick_dtype("auto", device)
    for size, directory in directories.items():
        mine, theirs = [], {}
        for kind in weight_kinds(device):
            weights = Weights(*kind)
            policy, _, special = sides.load_bench(
                directory, device, dtype, quant=weights.quant, lora_r=16
            )
            for B in row_counts:
                work = sides.Work(max(1, B // G), P, T, min(B, G))
                profiled = B in (row_counts[0], row_counts[-1])
                ours, generated = measure_decode(
                    policy, special, size, weights, work, B, bandwidth, repeats, profiled, rows
                )
                mine.append(ours)
                if generated:
                    theirs[weights.quant, B] = generated
            policy = None
            clear(device)
        add_ratios(size, mine, theirs)
    # Last, as compiling may take minutes.
    bench_static_cache(device, directories, min(row_counts[0], G), P, T, rows)


def bench_static_cache(
    device: torch.device, directories: dict[str, str], B: int, P: int, T: int, rows: list[dict]
) -> None:
    """Time stock `generate` with a static cache and compilation, once, on the first model."""
    size, directory = next(iter(directories.items()))
    dtype = pick_dtype("auto", device)
    policy, _, special = sides.load_bench(directory, device, dtype, lora_r=16)
    prompts = [sides.random_prompt(special, P)]
    found = generate_times(policy, special, prompts, B, T, cache_implementation="static")
    named = {"size": size, "weights": "bf16", "B": B, "P": P, "T": T}
    rows.append({"what": "generate, static cache and compilation", **named, **found})
    figure = found.get("failed")
    if figure is None:
        figure = f"{found['decode_ms']:.2f} ms"
    print(
        f"{size}, bf16, B {B}: model.generate with a static cache and compilation {figure}",
        flush=True,
    )
