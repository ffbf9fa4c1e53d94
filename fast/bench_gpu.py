"""`python -m fast.bench --gpu`: whether the kernel path is right on this card, then how fast it is and how much memory it takes, at the published shapes of Qwen2-VL-2B and 7B.

    python -m fast.bench --gpu                                    # all four sections, about half an hour on an H200
    python -m fast.bench --gpu --only check                       # graph replay against the eager step, kernels against references, rollout against trainer
    python -m fast.bench --gpu --only decode --sizes 2b           # one section, one size: each call stays under ten minutes

    check     what has to hold before a figure means anything; a failure is printed, counted, and the exit status
    decode    seconds of a decode step against `model.generate` (its default cache; static cache and compilation where that runs), and the share of the roofline: the bytes
              that a step must read over the copy bandwidth measured here. With a profile of one step: which kernels, how many
    step      a whole GRPO step and its update alone, against the straightforward loop
    memory    peak bytes by phase of a whole QLoRA step in a process that may take no more than a smaller card has: what fits into 24 GB and 12 GB

Weights are random, in the published shapes (speed and memory do not depend on their values), LoRA r 16 on all seven linear layers with B not zero, nothing ends a row
before T. Models are written to the temporary directory first (TMPDIR=/dev/shm is fast). NF4 needs bitsandbytes. On a CPU the same code runs on toy sizes, without graphs:
that is what the tests do.

Dimension key: N prompts of P tokens, G completions of T tokens each, B = N * G rows; V vocabulary.
"""

import concurrent.futures
import contextlib
import importlib.util
import multiprocessing
import statistics
import tempfile
import time

import torch

import logps
import rollout
import update
from fast import bench, kernels
from fast import decode as engine
from fast.decode import Decoder, as_plain_linear, decode_weights, linear_layers
from plumbing import disk
from plumbing.device import pick_device, pick_dtype
from plumbing.errors import UserError

GIB = 2**30
CONTEXT = 1.0  # GiB of a card that CUDA, its libraries and a desktop take before torch sees any
# What is tried on a smaller card, the most wanted first: size, GiB of the card, P, T, G, rows to a micro-batch.
CARDS = [
    ("7b", 24, 1000, 1024, 8, 8),
    ("2b", 12, 1000, 1024, 8, 8),
    ("7b", 24, 2700, 1024, 8, 8),
    ("2b", 24, 2700, 1024, 16, 16),
    ("7b", 24, 1000, 2048, 8, 4),
    ("7b", 24, 1000, 1024, 16, 8),
]


def clear(device):
    """Gives back what the last measurement left in torch's pools."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def card_of(device):
    """What the figures were measured on: name, memory, and the copy bandwidth in bytes per second, read and written (the ceiling of a decode step)."""
    if device.type != "cuda":
        return {"card": "CPU", "bandwidth": copy_bandwidth(device, 2**24)}
    found = torch.cuda.get_device_properties(device)
    return {
        "card": found.name,
        "memory_gib": found.total_memory / GIB,
        "processors": found.multi_processor_count,
        "bandwidth": copy_bandwidth(device, 2**32),
    }


def copy_bandwidth(device, size):
    """Bytes per second, read and written, of copying `size` bytes within the device's memory: the median of five."""
    source = torch.randint(0, 255, (size // 8,), dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    seconds = []
    for turn in range(6):
        started = bench.clock(device)
        for _ in range(4):
            target.copy_(source)
        seconds += [(bench.clock(device) - started) / 4] if turn else []
    return 2 * size / max(statistics.median(seconds), 1e-9)


@contextlib.contextmanager
def checkpoints(sizes, device):
    """{size: directory} of random models, made for the time being: bfloat16 on a GPU."""
    with tempfile.TemporaryDirectory() as made:
        for size in sizes:
            started = time.perf_counter()
            bench.write_model(
                f"{made}/{size}", size, device=device, dtype=pick_dtype("auto", device)
            )
            clear(device)
            print(
                f"{size}: random weights written in {time.perf_counter() - started:.0f} s",
                flush=True,
            )
        yield {size: f"{made}/{size}" for size in sizes}


@contextlib.contextmanager
def planned(copy):
    """fast.decode.plan_memory with its choice made: whether the linear layers are copied into the compute dtype (for NF4: dequantised once) or called as they are."""
    before = engine.plan_memory
    engine.plan_memory = lambda core, prompts, G, T, free, cut=False: (
        copy,
        [(0, len(prompts), 0, G)],
    )
    try:
        yield
    finally:
        engine.plan_memory = before


def weight_kinds(device):
    """(name, quant, copy) of the ways to hold the linear layers' weights in a rollout."""
    four_bit = [
        ("nf4, dequantised once", "nf4", True),
        ("nf4, bitsandbytes' own products", "nf4", False),
    ]
    return [("bf16", "none", True)] + (four_bit if importlib.util.find_spec("bitsandbytes") else [])


# ------------------------------------------------------------------------------------------------------------------------- check


def relative(out, expected):
    """||out - expected|| / ||expected||, in float64; nan if anything is not finite."""
    out, expected = out.double(), expected.double()
    return (
        float((out - expected).norm() / expected.norm())
        if torch.isfinite(out).all()
        else float("nan")
    )


def kernel_checks(
    device, N=8, M=8, P=1000, T=512, heads=((2, 6, 128), (4, 7, 128)), head=(1536, 151936)
):
    """[(what, figure, limit)] of the two kernels against their references in float64, with ragged lengths, members out of order, rows that have ended. heads: (KV, R, K)."""
    found = []
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for KV, R, K in heads:
            B = N * M
            q, prefix_k, prefix_v, suffix_k, suffix_v = (
                draw(*shape).to(device, dtype)
                for shape in (
                    (B, KV * R, K),
                    (N, KV, P, K),
                    (N, KV, P, K),
                    (B, KV, T, K),
                    (B, KV, T, K),
                )
            )
            members = torch.randperm(B, generator=generator).view(N, M)
            members[:, -1] = -1
            prefix_lengths, suffix_lengths = (
                torch.randint(1, P + 1, (N,), generator=generator),
                torch.randint(1, T + 1, (B,), generator=generator),
            )
            lengths = suffix_lengths.clone()
            lengths[[b for b in range(B) if b not in set(members.flatten().tolist())]] = (
                0  # nobody's rows have ended
            )
            arguments = [x.to(device) for x in (members, prefix_lengths, lengths)]
            out = kernels.shared_prefix_attention(
                q, prefix_k, prefix_v, suffix_k, suffix_v, *arguments
            )
            expected = kernels.shared_prefix_attention_reference(
                *(x.double() for x in (q, prefix_k, prefix_v, suffix_k, suffix_v)), *arguments
            )
            found.append(
                (
                    f"attention, {KV} x {R} heads of {K}, {dtype}: relative error",
                    relative(out, expected),
                    limit,
                )
            )
        D, V = head
        states, weight = draw(M * N, D).to(device, dtype), (draw(V, D) / D**0.5).to(device, dtype)
        banned = torch.zeros(V, dtype=torch.bool, device=device)
        banned[-5:] = True
        uniform = torch.rand(M * N, generator=generator, dtype=torch.float64).to(device)
        for temperature in (1.0, 0.0):
            tokens, logp = kernels.head_sample(states, weight, banned, uniform, temperature)
            theirs, _ = kernels.head_sample_reference(states, weight, banned, uniform, temperature)
            logits = (states.double() @ weight.double().T).masked_fill(banned, -torch.inf)
            exact = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
            found.append(
                (
                    f"head, V {V}, {dtype}, temperature {temperature:g}: |log-prob - exact|, largest",
                    float((logp - exact).abs().max()),
                    1e-4 if dtype == torch.float32 else 0.05,
                )
            )
            found.append(
                (
                    f"head, V {V}, {dtype}, temperature {temperature:g}: share of tokens other than the reference's",
                    float((tokens != theirs).double().mean()),
                    0.04 if dtype == torch.float32 else 0.15,
                )
            )  # a draw next to a border, or a near-tie, falls either way
    return found


def a_wave(policy, special, N, P, T, G, copy=True):
    """A Decoder that has sampled its first token, with random words in the cache, at t = T / 2: what a step costs on average."""
    core = logps.core_of(policy)
    policy.eval()
    wave = Decoder(
        core,
        decode_weights(core, copy),
        [bench.random_prompt(special, P, n) for n in range(N)],
        special,
        G,
        rollout.row_uniforms(0, range(N * G), T),
        rollout.Sampling(T),
        rollout.sample,
    )
    wave.sample_one_token()
    for k, v in wave.suffix:
        k.normal_()
        v.normal_()
    wave.length.fill_(T // 2)
    return wave


def stepping(wave):
    """What takes the wave one token further: a replayed graph, or without a GPU the step itself."""
    return (
        wave.capture().replay
        if wave.graphed
        else lambda: (wave.forward_one_token(), wave.sample_one_token())
    )


@torch.no_grad()
def graph_check(policy, special, N, P, T, G, copy, steps=8):
    """Largest difference of state and log-prob between a replayed step and the same step run eagerly from the same buffers, over some steps; inf if a token differs. 0: bit for bit."""
    wave = a_wave(policy, special, N, P, T, G, copy)
    step, worst = stepping(wave), 0.0  # capturing takes back what it says
    buffers = (wave.tokens, wave.finished, wave.length, wave.state)
    for _ in range(min(steps, T - T // 2 - 1)):
        before = [buffer.clone() for buffer in buffers]
        step()
        replayed = wave.tokens.clone(), wave.state.clone(), wave.logp.clone()
        for buffer, value in zip(buffers, before):
            buffer.copy_(value)
        wave.forward_one_token()
        wave.sample_one_token()
        if not torch.equal(wave.tokens, replayed[0]):
            return float("inf")
        gaps = [
            float((wave.state - replayed[1]).abs().max()),
            float((wave.logp - replayed[2]).abs().max()),
        ]
        if any(gap != gap for gap in gaps):
            return float("nan")  # which is larger than nothing
        worst = max(worst, *gaps)
    return worst


def agreement_checks(directory, device, dtype, P, T, G):
    """[(what, figure, limit)] of a rollout against the trainer's log-probs of the same tokens, and of both against the stock forward pass in float32 (performance facts, section 5)."""
    prompt_of = lambda special: bench.random_prompt(special, P)
    policy, _, special = bench.load_bench(directory, device, dtype, lora_r=16)
    prompt = prompt_of(special)
    policy.eval()
    roll = rollout.rollout(policy, [prompt], special, G, rollout.Sampling(T))
    with torch.no_grad():
        trainer = bench.our_logps(policy, special, [prompt], roll.targets, [G]).cpu()
        stock = bench.stock_logps(policy, special, [prompt] * G, roll.targets).cpu()
    del policy
    clear(device)
    exact_policy, _, _ = bench.load_bench(directory, device, torch.float32, lora_r=16)
    exact_policy.eval()
    with torch.no_grad():
        exact = bench.stock_logps(exact_policy, special, [prompt] * G, roll.targets).cpu()
    del exact_policy
    clear(device)
    noise = float((stock - exact).abs().mean())
    gap = trainer - roll.logp
    name = str(dtype).removeprefix("torch.")
    found = [
        (
            f"{name}: KL (k3) of rollout to trainer, nats a token",
            float((gap.exp() - 1 - gap).mean()),
            1e-3,
        ),
        (
            f"{name}: |rollout - trainer|, mean",
            float(gap.abs().mean()),
            1e-4 if dtype == torch.float32 else 0.05,
        ),
    ]
    if dtype != torch.float32:
        found += [
            (
                f"{name}: error of the {who} against float32, over that of the stock forward pass ({noise:.2e} nats)",
                float((logp - exact).abs().mean()) / noise,
                1.25,
            )
            for who, logp in (("rollout", roll.logp), ("trainer", trainer))
        ]
    return found


def bench_check(args, device, directories, rows):
    def noted(what, measure, limit=0.0):
        """Prints and keeps one check, or what it raised: the others go on."""
        try:
            found = measure()
        except Exception as error:
            found = [(f"{what}: {type(error).__name__}: {str(error)[:300]}", float("nan"), limit)]
        for name, figure, at_most in found if isinstance(found, list) else [(what, found, limit)]:
            rows.append(
                {"what": name, "figure": figure, "limit": at_most, "ok": figure <= at_most}
            )  # nan is not
            print(
                f"{'ok    ' if rows[-1]['ok'] else 'FAILED'}  {name}: {figure:.3g} (at most {at_most:g})",
                flush=True,
            )

    noted(
        "kernels",
        lambda: (
            kernel_checks(device)
            if device.type == "cuda"
            else kernel_checks(device, 2, 3, 40, 12, ((2, 3, 32),), (64, 500))
        ),
    )
    P, T, G = args.shapes[0]
    usual = pick_dtype("auto", device)

    def four_bit_agreement():
        with planned(copy):
            roll = rollout.rollout(
                policy, [bench.random_prompt(special, P)], special, 2, rollout.Sampling(min(T, 32))
            )
        with torch.no_grad():
            gap = (
                bench.our_logps(
                    policy, special, [bench.random_prompt(special, P)], roll.targets, [2]
                ).cpu()
                - roll.logp
            )
        return float((gap.exp() - 1 - gap).mean())

    for size, directory in directories.items():
        for name, quant, copy in weight_kinds(device):
            policy, _, special = bench.load_bench(directory, device, usual, quant=quant, lora_r=16)
            noted(
                f"{size}, {name}: graph replay against the eager step, largest difference",
                lambda: graph_check(policy, special, 2, P, T, G, copy),
            )
            if quant == "nf4":
                noted(
                    f"{size}, {name}: KL (k3) of rollout to trainer, nats a token",
                    four_bit_agreement,
                    1e-3,
                )
            elif size != "7b":  # whose gradients say no more than these
                noted(
                    f"{size}: sides do the same work (log-probs, gradients)",
                    lambda: bench.check_same_work(policy, special, P) or 0.0,
                )
            policy = None
            clear(device)
        if size != "7b":
            for dtype in (torch.float32, torch.bfloat16):
                noted(
                    f"{size}, {dtype}: rollout against trainer",
                    lambda: agreement_checks(directory, device, dtype, P, min(T, 64), 4),
                )


# ------------------------------------------------------------------------------------------------------------------------ decode


def bytes_of_step(policy, N, P, T, G, quant):
    """Bytes that a decode step must read, T / 2 tokens after the prompt: linear layers once (as they are held), the head, adapters, each prompt's cache once, each row's own."""
    core = logps.core_of(policy)
    config = core.config.text_config
    size = logps.dtype_of(core).itemsize
    linear = sum(
        as_plain_linear(m)[0].in_features * as_plain_linear(m)[0].out_features
        for m in linear_layers(core).values()
    )
    adapters = sum(p.numel() for n, p in policy.named_parameters() if "lora_" in n)
    token = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * (config.hidden_size // config.num_attention_heads)
        * size
    )
    return (
        linear * (4.127 / 8 if quant == "nf4" else size)
        + adapters * size
        + config.vocab_size * config.hidden_size * size
        + token * (N * P + N * G * T // 2)
    )


@torch.no_grad()
def steady_step(policy, special, N, P, T, G, copy, device, repeats, steps=32):
    """[seconds of one step] around the middle of a completion, `repeats` times `steps` of them."""
    wave = a_wave(policy, special, N, P, T, G, copy)
    step, seconds = stepping(wave), []
    steps = min(steps, T // 4)
    for turn in range(repeats + 1):
        wave.length.fill_(T // 2 - steps // 2)
        started = bench.clock(device)
        for _ in range(steps):
            step()
        seconds += [(bench.clock(device) - started) / steps] if turn else []
    return seconds


@torch.no_grad()
def profile_step(policy, special, N, P, T, G, copy, device, seconds, steps=8):
    """[{"kernel", "calls" a step, "share"}] of a step of so many seconds (measured without the profiler), the dearest first, and how much of it no kernel runs: what to mend next.
    [] without a GPU."""
    if device.type != "cuda":
        return []
    wave = a_wave(policy, special, N, P, T, G, copy)
    step = stepping(wave)
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    events = sorted(
        (
            e
            for e in profile.key_averages()
            if e.self_device_time_total > 0 and e.device_type == torch.autograd.DeviceType.CUDA
        ),
        key=lambda e: -e.self_device_time_total,
    )
    share = lambda some: sum(e.self_device_time_total for e in some) / 1e6 / steps / seconds
    rows = [
        {"kernel": e.key[:90], "calls": e.count / steps, "share": share([e])} for e in events[:12]
    ]
    return rows + [
        {
            "kernel": "no kernel runs",
            "calls": sum(e.count for e in events) / steps,
            "share": 1 - share(events),
        }
    ]


def bench_decode(args, device, directories, rows):
    (P, T, G), bandwidth = args.shapes[0], card_of(device)["bandwidth"]
    for size, directory in directories.items():
        theirs, mine = {}, []
        for name, quant, copy in weight_kinds(device):
            policy, _, special = bench.load_bench(
                directory, device, pick_dtype("auto", device), quant=quant, lora_r=16
            )
            for B in args.rows:
                N, M = max(1, B // G), min(B, G)
                prompts = [bench.random_prompt(special, P, n) for n in range(N)]
                with planned(copy):
                    steps = steady_step(policy, special, N, P, T, M, copy, device, args.repeats)
                    ours = bench.race(
                        {
                            "all": lambda turn: rollout.rollout(
                                policy, prompts, special, M, rollout.Sampling(T), seed=turn
                            ),
                            "first": lambda turn: rollout.rollout(
                                policy, prompts, special, M, rollout.Sampling(1), seed=turn
                            ),
                        },
                        args.repeats,
                        device,
                    )
                decode = (statistics.median(ours["all"]) - statistics.median(ours["first"])) / (
                    T - 1
                )  # with capturing the graph
                step = statistics.median(steps)
                floor = bytes_of_step(policy, N, P, T, M, "none" if copy else quant) / bandwidth
                mine.append(
                    {
                        "what": "decode",
                        "size": size,
                        "weights": name,
                        "B": B,
                        "P": P,
                        "T": T,
                        "step_ms": 1e3 * step,
                        "step_ms_range": [1e3 * min(steps), 1e3 * max(steps)],
                        "decode_ms": 1e3 * decode,
                        "prefill_s": statistics.median(ours["first"]),
                        "tokens_per_second": B / decode,
                        "roofline_ms": 1e3 * floor,
                        "roofline_share": floor / step,
                    }
                )
                rows.append(mine[-1])
                print(
                    f"{size}, {name}, B {B}: step {1e3 * step:.2f} ms ({floor / step:.0%} of the roofline), with capture {1e3 * decode:.2f} ms, {B / decode:.0f} tokens/s",
                    flush=True,
                )
                if (
                    quant == "none" or not copy and size != "2b"
                ):  # the 7B is what people hold in 4 bits
                    theirs[quant, B] = found = generate_times(
                        policy, special, prompts, M, T, device
                    )
                    rows.append(
                        {
                            "what": "generate",
                            "size": size,
                            "weights": name,
                            "B": B,
                            "P": P,
                            "T": T,
                            **found,
                        }
                    )
                    print(
                        f"{size}, {name}, B {B}: model.generate {found['decode_ms']:.2f} ms",
                        flush=True,
                    )
                clear(device)
                if B in (args.rows[0], args.rows[-1]):
                    for found in profile_step(policy, special, N, P, T, M, copy, device, step):
                        rows.append(
                            {"what": "profile", "size": size, "weights": name, "B": B, **found}
                        )
                        print(
                            f"    {found['share']:6.1%}  {found['calls']:6.1f} calls  {found['kernel']}",
                            flush=True,
                        )
            policy = None
            clear(device)
        for row in mine:
            row |= {
                f"ratio_{quant}": found["decode_ms"] / row["decode_ms"]
                for (quant, B), found in theirs.items()
                if B == row["B"]
            }
            print(
                f"{size}, {row['weights']}, B {row['B']}: "
                + ", ".join(
                    f"{row[f'ratio_{quant}']:.2f} times {words}"
                    for quant, words in (
                        ("none", "generate"),
                        ("nf4", "generate with bitsandbytes and PEFT"),
                    )
                    if f"ratio_{quant}" in row
                ),
                flush=True,
            )
    size = next(
        iter(directories)
    )  # last, as compiling may take minutes: stock `generate` with a static cache, once
    policy, _, special = bench.load_bench(
        directories[size], device, pick_dtype("auto", device), lora_r=16
    )
    B = args.rows[0]
    found = generate_times(
        policy,
        special,
        [bench.random_prompt(special, P)],
        min(B, G),
        T,
        device,
        cache_implementation="static",
    )
    rows.append(
        {
            "what": "generate, static cache and compilation",
            "size": size,
            "weights": "bf16",
            "B": min(B, G),
            "P": P,
            "T": T,
            **found,
        }
    )
    print(
        f"{size}, bf16, B {min(B, G)}: model.generate with a static cache and compilation "
        + (f"{found['decode_ms']:.2f} ms" if "decode_ms" in found else found["failed"]),
        flush=True,
    )


def generate_times(policy, special, prompts, G, T, device, **options):
    """{"decode_ms", "prefill_s"} of stock `generate` with prompts and pictures repeated, once, after a turn that does not count; with options, {"failed": why} if it does not run."""
    rows = bench.repeated(prompts, G)
    try:
        bench.stock_generate(
            policy, special, rows, T if options else 4, **options
        )  # what is compiled is compiled for this length
        seconds = {}
        for tokens in (1, T):
            started = bench.clock(device)
            bench.stock_generate(policy, special, rows, tokens, **options)
            seconds[tokens] = bench.clock(device) - started
    except Exception as error:  # compilers fail in many ways, and none of them is ours
        if not options:
            raise
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"decode_ms": 1e3 * (seconds[T] - seconds[1]) / (T - 1), "prefill_s": seconds[1]}


# -------------------------------------------------------------------------------------------------------------------------- step


def bench_step(args, device, directories, rows):
    P, T, G = args.shapes[0]
    for size, directory in directories.items():
        policy, _, special = bench.load_bench(
            directory,
            device,
            pick_dtype("auto", device),
            lora_r=16,
            gradient_checkpointing=True,
        )
        N = max(1, max(args.rows) // G)
        for kind, sides in (
            ("step", bench.step_sides(policy, special, N, P, T, G, micro=G)),
            ("update", bench.update_sides(policy, special, 1, P, T, G)),
        ):
            policy.eval() if kind == "step" else policy.train()
            seconds = bench.race(sides, max(1, args.repeats - 1), device, f"{size} {kind}")
            more = [
                {**row, "size": size}
                for row in bench.rows_of(
                    seconds, what=f"{kind}", N=N if kind == "step" else 1, P=P, T=T, G=G
                )
            ]
            print(f"\n{size}", end="")
            bench.table(more)
            rows += more
        sides = policy = None  # sides hold the policy
        clear(device)


# ------------------------------------------------------------------------------------------------------------------------ memory


def step_in_a_small_card(directory, device, quant, card_gib, P, T, G, micro):
    """{"load", "rollout", "update", "optimizer": peak GiB that tensors took in that phase, over two steps, and "..._reserved": with what torch's pools kept} in this process, whose
    pools may not take more than the card has; {"failed": phase} if it does not fit."""
    device, seen, phase = torch.device(device), {}, "load"

    def reached(name):
        nonlocal phase
        if device.type == "cuda":
            torch.cuda.synchronize()
            for key, peak in (
                (name, torch.cuda.max_memory_allocated()),
                (f"{name}_reserved", torch.cuda.max_memory_reserved()),
            ):
                seen[key] = max(seen.get(key, 0.0), peak / GIB)
            torch.cuda.reset_peak_memory_stats()
        else:
            seen[name] = 0.0
        phase = {
            "load": "rollout",
            "rollout": "update",
            "update": "optimizer",
            "optimizer": "rollout",
        }[name]

    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            (card_gib - CONTEXT) * GIB / torch.cuda.get_device_properties(device).total_memory
        )
    try:
        policy, _, special = bench.load_bench(
            directory,
            device,
            pick_dtype("auto", device),
            quant=quant,
            lora_r=16,
            gradient_checkpointing=True,
        )
        optimizer = update.make_optimizer(
            "adamw", [p for p in policy.parameters() if p.requires_grad], 1e-9
        )
        reached("load")
        for turn in range(2):
            policy.eval()
            bench.our_step(
                policy,
                special,
                [bench.random_prompt(special, P)],
                T,
                G,
                optimizer,
                turn,
                micro,
                reached,
            )
    except torch.OutOfMemoryError:
        return {**seen, "failed": phase}
    return seen


def bench_memory(args, device, directories, rows):
    quant = "nf4" if importlib.util.find_spec("bitsandbytes") and device.type == "cuda" else "none"
    tried = (
        [card for card in CARDS if card[0] in directories]
        if device.type == "cuda"
        else [(size, 24, *args.shapes[0], 2) for size in directories]
    )
    for size, card_gib, P, T, G, micro in tried:
        try:
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn")
            ) as pool:
                found = pool.submit(
                    step_in_a_small_card,
                    directories[size],
                    str(device),
                    quant,
                    card_gib,
                    P,
                    T,
                    G,
                    micro,
                ).result()
        except Exception as error:  # the others go on
            found = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        side = bench.side_of(P)
        rows.append(
            {
                "size": size,
                "quant": quant,
                "card_gib": card_gib,
                "P": P,
                "T": T,
                "G": G,
                "micro_batch_size": micro,
                "max_pixels": side * side * 784,
                **found,
            }
        )
        print(
            f"{size} {quant}, card of {card_gib} GiB, P {P} (--max-pixels {side * side * 784}), T {T}, G {G}, --micro-batch-size {micro}: "
            + (
                f"DOES NOT FIT: {found['failed']}"
                if "failed" in found
                else "fits; peak GiB: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items())
            ),
            flush=True,
        )


SECTIONS = {
    "check": bench_check,
    "decode": bench_decode,
    "step": bench_step,
    "memory": bench_memory,
}


def bench_gpu(args):
    """All sections of --only, in order, and a table of each. Raises UserError without a GPU, unless a CPU was asked for."""
    device = pick_device(args.device)
    if device.type != "cuda" and args.device == "auto":
        raise UserError(
            "--gpu measures a GPU, and torch finds none here; --device cpu --sizes 8m --shapes 60x8x4 --rows 4 tries the same code without"
        )
    args.shapes = args.shapes or [(1000, 512, 8)]
    result = card_of(device)
    print(
        f"{result['card']}: copies {result['bandwidth'] / 1e12:.2f} TB/s; torch {torch.__version__}",
        flush=True,
    )
    with checkpoints(args.sizes, device) as directories:
        for name in args.only:
            print(f"\n== {name}", flush=True)
            started, rows = (
                time.perf_counter(),
                Kept(lambda: disk.write_json(f"{args.output_dir}/bench_gpu.json", result)),
            )
            result[name] = rows
            with bench.one_thread(device):
                SECTIONS[name](args, device, directories, rows)
            result[f"{name}_seconds"] = time.perf_counter() - started
    failed = sum(not row.get("ok", True) for name in args.only for row in result[name])
    if failed:
        print(f"\n{failed} checks FAILED: no figure of this run counts")
    return {**result, "failed": failed}


class Kept(list):
    """A list that is written down whenever something is added: a call that is cut off has lost nothing."""

    def __init__(self, write):
        self.write = write

    def append(self, row):
        super().append(row)
        self.write()

    def __iadd__(self, rows):
        for row in rows:
            self.append(row)
        return self
