"""The measurements that docs/speed.md shows, each beside what it is compared with, in one run.

    python -m fast.bench             # rollout, update and GRPO step against stock (15 minutes)
    python -m fast.bench memory      # peak memory of an update, against full logits
    python -m fast.bench --scaling   # seconds against G, P and T, drawn in scaling.png
    python -m fast.bench rewards     # scoring, as a share of a GRPO step (10 minutes, two cores)
    python -m fast.bench --gpu       # on a GPU: checks, decode, step, memory (half an hour)
    python -m fast.bench --device cuda --model DIR --shapes 1000x512x8    # your own checkpoint

"Stock" is transformers, and TRL where it is installed. --gpu first checks that results are right,
then measures random models of the published 2B and 7B shapes (fast/bench_gpu.py).

Prints a table and writes it, with commit and versions, to --output-dir. Sides take turns, after
one turn that does not count; times are medians of --repeats turns (fast/race.py). The GRPO step
of `rewards`, which takes minutes, is measured once. Seconds are the CPU time of this process, on
one thread; on a GPU they are seconds of the clock, synchronised.

Dimension key: N prompts, G completions of each, B = N * G rows; P tokens of a prompt, T of a
completion; V vocabulary. Nothing ends a row before T.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
import importlib.util
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch

import model as modeling
from fast import bench_memory
from fast.bench_rewards import bench_rewards
from fast.bench_trl import trl_rows
from fast.race import checkpoint, one_thread, print_table, race, rows_of
from fast.sides import MODELS, SIDES, Work, check_same_work, load_bench, rollout_sides
from plumbing import disk, plots, rundir, running
from plumbing.arguments import write_args
from plumbing.device import pick_device, pick_dtype
from plumbing.errors import UserError
from plumbing.flags import Parser, int_from_1

MEASUREMENTS = ["gpu", "memory", "rewards", "scaling", "speed"]
SECTIONS = ["check", "decode", "step", "memory"]  # of the measurement gpu
Shape = tuple[int, int, int]  # P, T, G


def shape(text: str) -> Shape:
    """Parse PxTxG, for argparse."""
    P, T, G = (int(n) for n in text.split("x"))
    if P < 48 or T < 2 or G < 2:
        raise ValueError
    return P, T, G


def add_gpu_flags(p: Parser) -> None:
    """Add the flags that only the measurement `gpu` reads."""
    p.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=SECTIONS,
        help="gpu: these sections; default: all",
    )
    p.add_argument(
        "--sizes",
        nargs="+",
        choices=sorted(MODELS),
        default=["2b", "7b"],
        help="gpu: random models of these shapes",
    )
    p.add_argument(
        "--rows",
        nargs="+",
        type=int_from_1,
        default=[8, 16, 32, 64],
        help="gpu: rows that decode together",
    )


def add_reward_flags(p: Parser) -> None:
    """Add the flags that only the measurement `rewards` reads."""
    p.add_argument("--prompts", type=int_from_1, default=64, help="rewards: N, questions of a step")
    p.add_argument(
        "--num-generations",
        type=int_from_1,
        default=8,
        help="rewards: G, completions per question",
    )
    p.add_argument(
        "--max-completion-length",
        type=int_from_1,
        default=500,
        help="rewards: tokens of every completion",
    )
    p.add_argument(
        "--micro-batch-size",
        type=int_from_1,
        default=32,
        help="rewards: rows per forward and backward pass of the update",
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = Parser(__doc__, "bench.py", "speed.md")
    p.add_argument(
        "what",
        nargs="?",
        choices=MEASUREMENTS,
        default="speed",
        help="which measurement; default: speed",
    )
    p.add_argument("--scaling", action="store_true", help="the same as the measurement `scaling`")
    p.add_argument("--gpu", action="store_true", help="the same as the measurement `gpu`")
    add_gpu_flags(p)
    p.add_argument(
        "--shapes",
        nargs="+",
        type=shape,
        metavar="PxTxG",
        help="prompt tokens (at least 48; most are one picture's), completion tokens and "
        "completions; default: 188x96x8 188x96x32 944x64x8 944x64x32 (speed), 60x512x8 (memory), "
        "444x64x8 (scaling), 1000x512x8 (gpu)",
    )
    p.add_argument(
        "--model",
        help="a checkpoint's directory; default: a random one, made for this: of 8 M parameters, "
        "or for `memory` with 151,936 words",
    )
    add_reward_flags(p)
    p.add_argument(
        "--repeats",
        type=int_from_1,
        default=3,
        help="turns of each side; the GRPO step of `rewards`, which takes minutes, has one",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    p.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of the frozen weights, and what is computed in; auto: bfloat16 on a GPU",
    )
    p.add_argument("--output-dir", default="runs/bench", help="where bench_NAME.json goes")
    args = p.parse_args(argv)
    if args.scaling:
        args.what = "scaling"
    elif args.gpu:
        args.what = "gpu"
    if args.what == "scaling" and args.shapes:
        too_small = any(n < least for n, least in zip(args.shapes[0], (96, 4, 4)))
        if len(args.shapes) > 1 or too_small:
            p.error(
                "scaling halves one shape and doubles it: give --shapes one, of at least 96x4x4"
            )
    return args


# --- speed ---


def firsts_of_each_P(shapes: list[Shape]) -> list[Shape]:
    """Return the first shape of each number of prompt tokens, in order."""
    firsts = {}
    for one in shapes:
        firsts.setdefault(one[0], one)
    return list(firsts.values())


def plan_speed(shapes: list[Shape]) -> Iterator[tuple[str, Work]]:
    """List what is compared: (kind of SIDES, work).

    Rollout for every shape; update and step for the first shape of each P.
    A step of two prompts for the first of all.
    """
    firsts = firsts_of_each_P(shapes)
    for kind, chosen in (("rollout", shapes), ("update", firsts), ("step", firsts)):
        for one in chosen:
            yield kind, Work(1, *one)
    yield "step", Work(2, *shapes[0])


def bench_speed(
    model: str | None,
    shapes: list[Shape],
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict:
    """Compare rollout, update and step with stock transformers and TRL (`plan_speed`).

    Peak memory is measured for the first shape of each P.
    """
    firsts = firsts_of_each_P(shapes)
    rows = []
    with one_thread(device), checkpoint(model, "8m") as directory:
        policy, processor, special = load_bench(directory, device, dtype)
        for P in {s[0] for s in shapes}:
            check_same_work(policy, special, P)
        for kind, work in plan_speed(shapes):
            policy.eval()
            sides = SIDES[kind](policy, special, work)
            seconds = race(sides, repeats, device, f"{kind} {work.P}x{work.T}x{work.G}")
            more = rows_of(seconds, what=kind, **work._asdict())
            if work.N == 1 and work[1:] in firsts:
                for row in more:
                    row["peak_bytes"] = bench_memory.peak_of(
                        directory, device, dtype, kind, row["side"], work
                    )
            rows += more
            print_table(more)
        for one in firsts:
            work = Work(1, *one)
            if importlib.util.find_spec("trl"):
                more = trl_rows(directory, device, dtype, policy, processor, special, work, repeats)
            else:
                more = [{"what": "step", **work._asdict(), "side": "TRL's GRPOTrainer"}]
            rows += more
            print_table(more)
        described = modeling.describe(policy)
    clock = "CPU seconds of one thread"
    if device.type == "cuda":
        clock = "synchronised seconds"
    return {"rows": rows, "model": described, "clock": clock}


# --- scaling ---


def bench_scaling(
    model: str | None,
    base: Shape,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
    png: Path,
) -> dict:
    """Time our side at half, once and twice each of G, P and T, and draw it.

    A rollout of one token is vision tower and prefill.
    """
    base = dict(zip("PTG", base))
    along = {axis: [base[axis] // 2, base[axis], 2 * base[axis]] for axis in "GPT"}
    rows = []
    with one_thread(device), checkpoint(model, "8m") as directory:
        policy, _, special = load_bench(directory, device, dtype)
        for axis, values in along.items():
            for value in values:
                size = {**base, axis: value}
                work = Work(1, **size)
                policy.eval()
                prefill = rollout_sides(policy, special, work._replace(T=1))["ours"]
                sides = {"pictures and prefill": prefill}
                sides |= {kind: SIDES[kind](policy, special, work)["ours"] for kind in SIDES}
                for name, seconds in race(sides, repeats, device, f"{axis} = {value}").items():
                    rows.append(
                        {
                            "against": axis,
                            "value": value,
                            **size,
                            "what": name,
                            "seconds": statistics.median(seconds),
                            "low": min(seconds),
                            "high": max(seconds),
                        }
                    )
    print_scaling(rows, along)
    plot_scaling(rows, png, base)
    print(f"\n{png} draws them")
    return {"rows": rows}


def points_of(rows: list[dict], axis: str, name: str) -> list[dict]:
    """Select the rows of one line of the picture: `name` against `axis`."""
    return [row for row in rows if (row["against"], row["what"]) == (axis, name)]


def names_of(rows: list[dict]) -> list[str]:
    """List what was timed, in order."""
    return list(dict.fromkeys(row["what"] for row in rows))


def print_scaling(rows: list[dict], along: dict[str, list[int]]) -> None:
    """Print a block of seconds for each of G, P and T."""
    for axis, values in along.items():
        title = f"seconds against {axis}"
        print(f"\n{title:<26}" + "".join(f"{value:>10}" for value in values))
        for name in names_of(rows):
            seconds = [f"{row['seconds']:>10.3f}" for row in points_of(rows, axis, name)]
            print(f"  {name:<24}" + "".join(seconds))


@plots.picture
def plot_scaling(rows: list[dict], png: Path, base: dict[str, int]) -> None:
    """Draw seconds and their range, a panel for each of G, P and T."""
    labels = {
        "G": "G, completions",
        "P": "P, tokens of the prompt",
        "T": "T, tokens of a completion",
    }
    figure, [axes] = plots.canvas(1, 3, 12.6, 3.6, sharey=True)
    for ax, axis in zip(axes, "GPT"):
        for name in names_of(rows):
            points = points_of(rows, axis, name)
            ax.errorbar(
                [row["value"] for row in points],
                [row["seconds"] for row in points],
                [
                    [row["seconds"] - row["low"] for row in points],
                    [row["high"] - row["seconds"] for row in points],
                ],
                marker="o",
                lw=2,
                capsize=3,
                label=name,
            )
        others = ", ".join(f"{k} = {v}" for k, v in base.items() if k != axis)
        ax.set_title(f"with {others}", fontsize=10)
        ax.set_xlabel(labels[axis])
        ax.grid(alpha=0.3)
    # Once, for all panels: they share it, so a limit set in the loop would hold for the next too.
    axes[0].set_ylim(0, 1.05 * max(row["high"] for row in rows))
    axes[0].set_ylabel("seconds")
    axes[0].legend(fontsize=8)
    plots.save(figure, png)


# --- the command ---

DEFAULT_SHAPES = {
    "speed": [(188, 96, 8), (188, 96, 32), (944, 64, 8), (944, 64, 32)],
    "memory": [(60, 512, 8)],
    "scaling": [(444, 64, 8)],
    "gpu": [(1000, 512, 8)],
}


def main(args: argparse.Namespace) -> None:
    out = Path(args.output_dir)
    disk.make_writable(out)
    rundir.refuse_anothers(out, args)
    write_args(out, args)  # commit and versions
    path = out / f"bench_{args.what}.json"
    shapes = args.shapes or DEFAULT_SHAPES.get(args.what)
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    model, repeats = args.model, args.repeats
    if args.what == "speed":
        result = bench_speed(model, shapes, repeats, device, dtype)
    elif args.what == "memory":
        result = bench_memory.bench_memory(model, shapes, device, dtype)
    elif args.what == "scaling":
        png = out / "scaling.png"
        result = bench_scaling(model, shapes[0], repeats, device, dtype, png)
    elif args.what == "rewards":
        N, G, T = args.prompts, args.num_generations, args.max_completion_length
        result = bench_rewards(N, G, T, args.micro_batch_size, repeats, device)
    else:
        if device.type != "cuda" and args.device == "auto":
            raise UserError(
                "--gpu measures a GPU, and torch finds none here; --device cpu --sizes 8m "
                "--shapes 60x8x4 --rows 4 tries the same code without"
            )
        from fast.bench_gpu import bench_gpu

        result = bench_gpu(args.only, args.sizes, args.rows, shapes[0], repeats, device, path)
    disk.write_json(path, result)
    print(f"\n{path} has the figures, {out}/args.json the commit and versions")
    if result.get("failed"):
        raise SystemExit(1)


if __name__ == "__main__":
    running.run(main, parse_args)
