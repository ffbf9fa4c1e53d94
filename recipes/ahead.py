"""Measure a step whose prompts are prepared by workers, with a sleep in place of a GPU.

    OMP_NUM_THREADS=1 python -m recipes.ahead --num-workers 2

A step is 16 photographs of 1,280 x 960 pixels and 0.5 s of sleep. It prints the time of preparing
them on one core, and of a step without and with workers. The limit is 1.25 times the larger of the
sleep and the preparation's share of a worker. Beside other work look at the CPU times: a step
takes as long as the main process's and the sleep together, or the workers' share.
"""

import argparse
import functools
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy
from PIL import Image

import data
import model
from plumbing.loading import cores, loading
from tasks.example import Example


def photograph(path: Path, seed: int) -> None:
    """Write a picture that costs what a photograph does: shapes of all sizes, and noise."""
    random = numpy.random.default_rng(seed)
    picture = random.normal(0, 6, (960, 1280, 3))
    for size in (3, 12, 48):
        small = random.integers(0, 256, (size, size, 3), dtype=numpy.uint8)
        picture += numpy.asarray(Image.fromarray(small).resize((1280, 960), Image.BICUBIC)) / 3
    Image.fromarray(picture.clip(0, 255).astype(numpy.uint8)).save(path, quality=90)


def time_steps(
    encode: functools.partial, examples: list, steps: list, num_workers: int, sleep: float
) -> list[float]:
    """Take the steps: seconds of each but the first, which waits for its prompts in any case."""
    seconds = []
    with loading(encode, examples, steps, num_workers) as batches:
        for _ in steps:
            started = time.perf_counter()
            next(batches)
            time.sleep(sleep)
            seconds.append(time.perf_counter() - started)
    return seconds[1:]


def cpu_seconds() -> tuple[float, float]:
    """Return the CPU seconds of this process, and of its workers that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    mine, workers = (usage.ru_utime + usage.ru_stime for usage in both)
    return mine, workers


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--num-workers", type=int, default=2)
    p.add_argument("--photographs", type=int, default=16, help="of a step")
    p.add_argument("--steps", type=int, default=12)
    p.add_argument("--sleep", type=float, default=0.5, help="seconds of a step on the GPU")
    p.add_argument("--max-pixels", type=int, help="default: that of the scripts, 401408")
    return p.parse_args(argv)


def main() -> None:
    args = parse_args()
    _, processor = model.load("tiny", max_pixels=args.max_pixels)
    encode = functools.partial(data.Asker(processor).prompt, room=512)
    with tempfile.TemporaryDirectory() as folder:
        examples = []
        for n in range(2 * args.photographs):
            path = Path(folder) / f"{n}.jpg"
            photograph(path, n)
            examples.append(Example(str(n), [path], "How many?", "1", source=path.name))
        N = args.photographs
        steps = [range(step % 2 * N, step % 2 * N + N) for step in range(args.steps)]
        alone = [encode(example) for example in examples[:N]]
        started, cpu = time.perf_counter(), time.process_time()
        for example in examples[:N]:
            encode(example)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        none = time_steps(encode, examples, steps[:5], 0, args.sleep)
        main_before, workers_before = cpu_seconds()
        some = time_steps(encode, examples, steps, args.num_workers, args.sleep)
        main_after, workers_after = cpu_seconds()
    pixels = sum(prompt.pixel_values.nbytes for prompt in alone) / 1e6
    print(f"{cores()} cores; {N} photographs a step, {pixels:.0f} MB when prepared")
    print(f"preparing them on one core: {wall:.2f} s ({cpu:.2f} s of CPU time)")
    print(f"a step without workers: {statistics.median(none):.2f} s")
    larger = max(args.sleep, wall / args.num_workers)
    print(
        f"a step with {args.num_workers} workers: {statistics.median(some):.2f} s "
        f"({min(some):.2f} to {max(some):.2f}); the limit is {1.25 * larger:.2f} s"
    )
    print(
        f"CPU time of such a step: {(main_after - main_before) / args.steps:.2f} s in the main "
        f"process, {(workers_after - workers_before) / args.steps:.2f} s in all workers"
    )


if __name__ == "__main__":
    main()
