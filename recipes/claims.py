"""Test the published claims about self-training on `table`; write docs/selftraining.md's table.

    python recipes/claims.py runs/claims    # an hour on two cores; the same command goes on

Every run is one of the scripts' own commands. It is printed as it starts, and its log is beside its
directory. Two run at a time, one thread each. What is finished is not done again.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
SIZES = range(3, 9)  # candidates to choose from at test time
READING = (
    "--data table_reading --prompt-template think --learning-rate 2e-3 --warmup-steps 20 "
    "--lr-scheduler-type constant --max-steps 200 --max-eval-samples 8 --logging-steps 50"
)
BASICS = (
    "--data table_basics --eval-data table:test --learning-rate 1.5e-3 --warmup-steps 20 "
    "--max-steps 600 --per-example --micro-batch-size 16 --eval-batch-size 64 --logging-steps 50"
)
TRAINED = (
    "--data table --max-train-samples 512 --warmup-data table --iterations 3 --num-generations 3 "
    "--num-train-epochs 2 --learning-rate 5e-4 --per-example"
)
ASKED = "--data table:test --max-eval-samples 256 --eval-batch-size 64"
DIRECT = "--prompt-template answer --max-completion-length 100"
SHARED = (
    "--max-completion-length 100 --eval-batch-size 96 --max-eval-samples 256 --logging-steps 20 "
    "--save-steps 50"
)
PAIRED = (
    "--data table --max-train-samples 512 --num-generations 8 --max-pairs 4 --max-steps 60 "
    "--learning-rate 1e-4 --num-samples 0"
)
CHOSEN_FROM = "--self-select --temperature 0.9 --top-p 0.95 --top-k 50 --max-completion-length 100"

Job = tuple[str, str]  # directory, command

# --- the runs ---


def bases(out: str) -> list[list[Job]]:
    """Make the two stages that the base of all runs takes, and its evaluations."""
    base = f"{out}/base"
    return [
        [(f"{out}/reading", f"train_sft.py --model tiny {READING}")],
        [(base, f"train_sft.py --model {out}/reading {BASICS}")],
        [
            (f"{out}/zero_direct", f"evaluate.py --model {base} {ASKED} {DIRECT}"),
            (
                f"{out}/zero_reasoning",
                f"evaluate.py --model {base} {ASKED} --max-completion-length 100",
            ),
            (f"{out}/planted", f"recipes/planted.py --model {base} --data table"),
        ],
    ]


def self_trained(out: str) -> list[Job]:
    """Make the runs of R3V and STaR, and R3V without select and without refine."""
    shared = f"--model {out}/base {TRAINED} {SHARED}"
    found = []
    for seed in SEEDS:
        for method in ("r3v", "star"):
            command = f"selftrain.py --method {method} {shared} --seed {seed}"
            found.append((f"{out}/{method}{seed}", command))
    for name, flag in (("noselect", "--select-weight 0"), ("norefine", "--refine-weight 0")):
        found.append((f"{out}/{name}", f"selftrain.py --method r3v {shared} {flag} --seed 0"))
    return found


def compared(out: str) -> list[Job]:
    """Make the runs from self-trained models: choosing from N, DPO, MPO and DropoutNTP."""
    found = []
    sizes = " ".join(map(str, SIZES))
    for seed in SEEDS:
        asked = f"{ASKED} --num-samples 1 {sizes} {CHOSEN_FROM} --seed {seed}"
        found.append((f"{out}/scaling{seed}", f"evaluate.py --model {out}/r3v{seed} {asked}"))
        for method in ("dpo", "mpo"):
            start = f"--model {out}/star{seed}/iteration-0"
            command = f"selftrain.py --method {method} {start} {PAIRED} {SHARED} --seed {seed}"
            found.append((f"{out}/{method}{seed}", command))
    for percent in (25, 50, 75):
        start = f"--model {out}/star0/iteration-0"
        source = f"--pair-source dropout_ntp --start-ratio {percent / 100} --seed 0"
        command = f"selftrain.py --method mpo {start} {PAIRED} {SHARED} {source}"
        found.append((f"{out}/ntp{percent}", command))
    return found


def asked_at_the_end(out: str) -> list[Job]:
    """Make the evaluations: direct answers before and after, and planted sets after R3V."""
    found = []
    for seed in SEEDS:
        for name, path in (
            (f"warm{seed}", f"{out}/star{seed}/iteration-0"),
            (f"dpo{seed}", f"{out}/dpo{seed}"),
            (f"mpo{seed}", f"{out}/mpo{seed}"),
        ):
            command = f"evaluate.py --model {path} {ASKED} {DIRECT}"
            found.append((f"{out}/{name}_direct", command))
    for seed in SEEDS:
        command = f"recipes/planted.py --model {out}/r3v{seed} --data table"
        found.append((f"{out}/planted_r3v{seed}", command))
    return found


def jobs(out: str) -> list[list[Job]]:
    """List the runs in stages, of which each needs the one before."""
    return [*bases(out), self_trained(out), compared(out), asked_at_the_end(out)]


def run(job: Job, threads: int) -> None:
    """Run one command to its end; SystemExit with the end of its log if it fails."""
    directory, command = job
    if (Path(directory) / "result.json").is_file():
        return
    words = [sys.executable, *shlex.split(command), "--output-dir", directory]
    if "planted" not in command:
        words.append("--resume-from-checkpoint")
    print(f"{time.strftime('%H:%M')}  python {command} --output-dir {directory}", flush=True)
    Path(directory).parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(f"{directory}.log", "ab") as log:
        started = time.time()
        code = subprocess.run(words, cwd=ROOT, stdout=log, stderr=log, env=env).returncode
    if code:
        end = Path(f"{directory}.log").read_text(errors="replace")[-800:]
        sys.exit(
            f"error: {directory} stopped with code {code}; its log is {directory}.log, "
            f"which ends:\n{end}"
        )
    seconds = round(time.time() - started)
    record = {"run": Path(directory).name, "seconds": seconds, "threads": threads}
    with open(Path(directory).parent / "times.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")


# --- the table ---


def read(path: str | Path) -> dict:
    """Read one JSON file."""
    return json.loads(Path(path).read_text())


def mean(values: list[float | None], digits: int = 3, sign: str = "") -> str:
    """Write "0.812 (0.79 to 0.83)", or one value alone; None is left out."""
    values = [v for v in values if v is not None]
    shape = f"{sign}.{digits}f"
    if len(values) == 1:
        return f"{values[0]:{shape}}"
    low, high = min(values), max(values)
    return f"{statistics.mean(values):{shape}} ({low:{shape}} to {high:{shape}})"


class Results:
    """The result.json of every run below `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def of(self, name: str) -> dict:
        """Return the results of one run."""
        return read(self.out / name / "result.json")

    def iteration(self, name: str, t: int, key: str) -> float | None:
        """Return a figure of table:test after iteration t."""
        return self.of(name)[f"iteration-{t}"].get(f"eval/table:test/{key}")

    def accuracies(self, name: str, t: int) -> list[float]:
        """Return the accuracies of all seeds of a method after iteration t."""
        return [self.iteration(f"{name}{s}", t, "accuracy") for s in SEEDS]

    def last_metrics(self, name: str) -> list[dict]:
        """Return the last ten records of the first iteration's metrics."""
        path = self.out / name / "iteration-1/metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()][-10:]


def planted_rows(results: Results) -> list[str]:
    """Write the rows of planted sets: one right candidate and two wrong ones."""
    planted = results.of("planted")
    after = [results.of(f"planted_r3v{s}") for s in SEEDS]
    places = " / ".join(f"{v:.2f}" for v in planted["by_place"])
    return [
        "| **planted sets, one right and two wrong**: the base chooses right (another picture put "
        f"in); chance 0.333 | {planted['selected_right']:.3f} ({planted['swapped']:.3f}); "
        f"by place {places}; one base |",
        f"| the same, after R3V | {mean([p['selected_right'] for p in after])}; "
        f"other picture {mean([p['swapped'] for p in after])} |",
    ]


def training_rows(results: Results) -> list[str]:
    """Write the rows of claim (a): base, warm-up, STaR and R3V."""
    direct, reasoning = results.of("zero_direct"), results.of("zero_reasoning")
    rows = [
        f"| **(a)** base, zero-shot direct | {direct['accuracy']:.3f} (one base) |",
        f"| base, zero-shot reasoning | {reasoning['accuracy']:.3f} (one base) |",
        f"| warm-up only (iteration 0) | {mean(results.accuracies('star', 0))} |",
    ]
    for method, name in (("star", "STaR"), ("r3v", "R3V")):
        for t in (1, 2, 3):
            rows.append(f"| {name}, iteration {t} | {mean(results.accuracies(method, t))} |")
    pairs = zip(results.accuracies("r3v", 3), results.accuracies("star", 3))
    gain = mean([r3v - star for r3v, star in pairs], sign="+")
    return [*rows, f"| R3V - STaR, iteration 3 | {gain} |"]


def scaling_rows(results: Results) -> list[str]:
    """Write the rows of claim (b): choosing one of N samples."""
    curves = [{c["step"]: c for c in results.of(f"scaling{s}")["scaling"]} for s in SEEDS]
    rows = []
    for n in SIZES:
        at = [curve[n] for curve in curves]
        gains = []
        for c in at:
            ends = c["self_select_gain_low"], c["self_select_gain_high"]
            low, high = ("none" if end is None else f"{end:+.3f}" for end in ends)  # one picture
            gains.append(f"{c['self_select_gain']:+.3f} [{low}, {high}]")
        keys = ("mean_sample_accuracy", "majority@k", "self_select@k", "pass@k")
        figures = " / ".join(mean([c[key] for c in at]) for key in keys)
        claim = "**(b)** " if n == min(SIZES) else ""
        rows.append(
            f"| {claim}R3V, N = {n}: one sample / majority / self-select / pass | {figures}; "
            f"self-select - majority by seed, 95 % paired bootstrap: {'; '.join(gains)} |"
        )
    return rows


def ablation_rows(results: Results) -> list[str]:
    """Write the rows of claim (c): R3V without select, and without refine."""
    rows = []
    for name, words in (
        ("r3v0", "**(c)** one seed: R3V"),
        ("noselect", "without select"),
        ("norefine", "without refine"),
    ):
        figure = f"{results.iteration(name, 3, 'accuracy'):.3f}"
        picked = results.iteration(name, 3, "self_select@3")
        if picked is not None:
            figure += f" ({picked:.3f})"
        rows.append(f"| {words}, iteration 3, Test@1 (self-select@3) | {figure} |")
    return rows


def preference_rows(results: Results, method: str) -> list[str]:
    """Write the rows of claim (d) for "dpo" or "mpo"."""
    changes, shares = [], []
    for s in SEEDS:
        last = results.last_metrics(f"{method}{s}")
        changes.append(statistics.mean(m["logps/chosen_change"] for m in last))
        shares.append(
            statistics.mean(m["logps/chosen_change"] / abs(m["logps/chosen_start"]) for m in last)
        )
    before, after = (mean(results.accuracies(method, t)) for t in (0, 1))
    warm = mean([results.of(f"warm{s}_direct")["accuracy"] for s in SEEDS])
    direct = mean([results.of(f"{method}{s}_direct")["accuracy"] for s in SEEDS])
    unreadable = [results.iteration(f"{method}{s}", 1, "parse_failures") for s in SEEDS]
    tokens = [results.of(f"{method}{s}")["iteration-1"]["pairs/tokens_per_pair"] for s in SEEDS]
    name = method.upper()
    claim = "**(d)** " if method == "dpo" else ""
    return [
        f"| {claim}{name}: log-prob of the chosen response, change in nats and as a share | "
        f"{mean(changes, 2, '+')}, {mean(shares, 2, '+')} |",
        f"| {name}: reasoning, before -> after | {before} -> {after} |",
        f"| {name}: direct answers, before -> after | {warm} -> {direct} |",
        f"| {name}: unreadable answers of 256 | {mean(unreadable, 1)} |",
        f"| {name}: sampled tokens per pair (correctness) | {mean(tokens, 0)} |",
    ]


def dropout_rows(results: Results) -> list[str]:
    """Write the rows of claim (e): pairs by DropoutNTP."""
    rows = []
    for percent in (25, 50, 75):
        after = results.of(f"ntp{percent}")["iteration-1"]
        before = results.iteration(f"ntp{percent}", 0, "accuracy")
        claim = "**(e)** one seed: " if percent == 25 else ""
        rows.append(
            f"| {claim}DropoutNTP, {percent} % of the response kept: accuracy, unreadable, "
            "sampled tokens per pair (of them used), pairs | "
            f"{after['eval/table:test/accuracy']:.3f}, "
            f"{after['eval/table:test/parse_failures']:.0f}, "
            f"{after['pairs/tokens_per_pair']:.0f} ({after['pairs/tokens_used_per_pair']:.0f}), "
            f"{after['pairs/dropout_ntp']:.0f} (before: {before:.3f}) |"
        )
    return rows


def table(out: str) -> str:
    """Write the results as a Markdown table."""
    results = Results(Path(out))
    rows = ["| what | mean of three seeds (range) |", "|---|---|"]
    rows += planted_rows(results) + training_rows(results) + scaling_rows(results)
    rows += ablation_rows(results)
    rows += preference_rows(results, "dpo") + preference_rows(results, "mpo")
    return "\n".join(rows + dropout_rows(results))


# --- the command ---


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("out", nargs="?", default="runs/claims", help="directory of all runs")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    out = args.out
    started = time.time()
    for stage in jobs(out):
        threads = 2 if len(stage) == 1 else 1
        with ThreadPoolExecutor(2) as pool:
            for job in [pool.submit(run, job, threads) for job in stage]:
                job.result()
    commit = read(f"{out}/base/args.json")["commit"]
    times = [json.loads(line) for line in Path(f"{out}/times.jsonl").read_text().splitlines()]
    minutes = sum(t["seconds"] * t["threads"] for t in times) / 60
    text = (
        f"{table(out)}\n\nCommit {commit[:7]}, seeds {', '.join(map(str, SEEDS))} of warm-up, "
        "questions, sampling and training from one base; 256 held-out questions; two CPU cores, "
        f"{minutes:.0f} core-minutes in all.\n"
    )
    print(text)
    print(f"this call took {(time.time() - started) / 60:.1f} minutes")
    page = ROOT / "docs" / "selftraining.md"
    marked = re.sub(
        r"(<!-- claims -->\n).*?(<!-- /claims -->)",
        lambda m: m[1] + text + m[2],
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    page.write_text(marked, encoding="utf-8")


if __name__ == "__main__":
    main(parse_args())
