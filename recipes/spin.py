"""Measure how OpenMP's threads should wait: alone, and beside a process that keeps a core busy.

    python -m recipes.spin                  # 7 minutes on a quiet machine with two cores

For each setting of libgomp: seconds of a training step and of a rollout of the tiny model, on all
cores, in processes of their own that take turns. Median of the repetitions, and their range; CPU
seconds beside them say what spinning costs. A line of the load comes first: on a busy machine only
the second half of the table means anything.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict

SETTINGS = {
    "as it comes (300,000)": {"GOMP_SPINCOUNT": "300000"},
    "10,000 turns": {"GOMP_SPINCOUNT": "10000"},
    "3,000 turns": {"GOMP_SPINCOUNT": "3000"},
    "1,000 turns, PASSIVE (ours)": {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "PASSIVE"},
    "100 turns": {"GOMP_SPINCOUNT": "100"},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def measure(steps: int) -> None:
    """Print {what: [wall seconds, CPU seconds]} of a step, as JSON. The process measured."""
    import batching
    import data
    import logps
    import losses
    import model
    import rollout
    import tasks

    policy, processor = model.load("tiny")
    policy.requires_grad_(True)
    asker, examples = data.Asker(processor), data.head(tasks.read("count"), 32)
    prompts = [asker.prompt(example, 200) for example in examples]
    targets, mask = batching.pad_targets(
        [asker.target(example, 200) for example in examples], processor.special.pad_id
    )
    batch = batching.collate(prompts, targets, mask)

    def train() -> None:
        policy.zero_grad()
        logp = logps.token_logps(policy, batch, suppress=processor.special.vision_ids)
        losses.aggregate(losses.nll(logp), losses.sft_weights(mask)).backward()

    def sample() -> None:
        sampling = rollout.Sampling(48)
        rollout.rollout(policy, prompts[:8], processor.special, 8, sampling)

    found = {}
    for name, work in {"training step": train, "rollout": sample}.items():
        work()
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            work()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        found[name] = [wall / steps, cpu / steps]
    print(json.dumps(found))


def run(setting: dict[str, str], steps: int) -> dict[str, list[float]]:
    """Measure a setting in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-m", "recipes.spin", "--child", "--steps", str(steps)]
    done = subprocess.run(
        command, env=environment | setting, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--repetitions", type=int, default=3)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        measure(args.steps)
        return
    for where in ("alone", "beside a busy core"):
        busy = None
        if where != "alone":
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        seconds = defaultdict(list)
        try:
            for _ in range(args.repetitions):
                for name, setting in SETTINGS.items():
                    for what, pair in run(setting, args.steps).items():
                        seconds[name, what].append(pair)
        finally:
            if busy:
                busy.kill()
                busy.wait()
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{where}; load {load}: seconds, and of CPU time")
        for (name, what), pairs in seconds.items():
            wall, cpu = zip(*pairs)
            print(f"  {name:<28} {what:<14} {spread(wall):<24} {spread(cpu)}", flush=True)


if __name__ == "__main__":
    main()
