"""Test the published claims about self-training on `table`; write docs/selftraining.md's table.

    python recipes/claims.py runs/claims    # an hour on two cores; the same command goes on

Every run is one of the scripts' own commands, printed as it starts, with a log beside its directory.
Two run at a time, one thread each. What is finished is not done again.
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
TRAINED = "--data table --max-train-samples 512 --warmup-data table --iterations 3 --num-generations 3 --num-train-epochs 2 --learning-rate 5e-4 --per-example"
ASKED = "--data table:test --max-eval-samples 256 --eval-batch-size 64"
SHARED = "--max-completion-length 100 --eval-batch-size 96 --max-eval-samples 256 --logging-steps 20 --save-steps 50"
PAIRED = "--data table --max-train-samples 512 --num-generations 8 --max-pairs 4 --max-steps 60 --learning-rate 1e-4 --num-samples 0"


def jobs(out):
    """[[(directory, command)], ...]: the runs, in stages of which each needs the one before."""
    base = f"{out}/base"
    reading = "train_sft.py --model tiny --data table_reading --prompt-template think --learning-rate 2e-3 --warmup-steps 20 --lr-scheduler-type constant --max-steps 200 --max-eval-samples 8 --logging-steps 50"
    basics = f"train_sft.py --model {out}/reading --data table_basics --eval-data table:test --learning-rate 1.5e-3 --warmup-steps 20 --max-steps 600 --per-example --micro-batch-size 16 --eval-batch-size 64 --logging-steps 50"
    first = [
        (
            f"{out}/zero_direct",
            f"evaluate.py --model {base} {ASKED} --prompt-template answer --max-completion-length 100",
        ),
        (
            f"{out}/zero_reasoning",
            f"evaluate.py --model {base} {ASKED} --max-completion-length 100",
        ),
        (f"{out}/planted", f"recipes/planted.py --model {base} --data table"),
    ]
    trained, then = [], []
    for seed in SEEDS:
        for method in ("r3v", "star"):
            trained.append(
                (
                    f"{out}/{method}{seed}",
                    f"selftrain.py --method {method} --model {base} {TRAINED} {SHARED} --seed {seed}",
                )
            )
    for name, flag in (("noselect", "--select-weight 0"), ("norefine", "--refine-weight 0")):
        trained.append(
            (
                f"{out}/{name}",
                f"selftrain.py --method r3v --model {base} {TRAINED} {SHARED} {flag} --seed 0",
            )
        )
    for seed in SEEDS:
        then.append(
            (
                f"{out}/scaling{seed}",
                f"evaluate.py --model {out}/r3v{seed} {ASKED} --num-samples 1 {' '.join(map(str, SIZES))} --self-select --temperature 0.9 --top-p 0.95 --top-k 50 --max-completion-length 100 --seed {seed}",
            )
        )
        for method in ("dpo", "mpo"):
            then.append(
                (
                    f"{out}/{method}{seed}",
                    f"selftrain.py --method {method} --model {out}/star{seed}/iteration-0 {PAIRED} {SHARED} --seed {seed}",
                )
            )
    for percent in (25, 50, 75):
        then.append(
            (
                f"{out}/ntp{percent}",
                f"selftrain.py --method mpo --model {out}/star0/iteration-0 {PAIRED} {SHARED} --pair-source dropout_ntp --start-ratio {percent / 100} --seed 0",
            )
        )
    direct = [
        (
            f"{out}/{name}_direct",
            f"evaluate.py --model {path} {ASKED} --prompt-template answer --max-completion-length 100",
        )
        for seed in SEEDS
        for name, path in (
            (f"warm{seed}", f"{out}/star{seed}/iteration-0"),
            (f"dpo{seed}", f"{out}/dpo{seed}"),
            (f"mpo{seed}", f"{out}/mpo{seed}"),
        )
    ]
    direct += [
        (f"{out}/planted_r3v{seed}", f"recipes/planted.py --model {out}/r3v{seed} --data table")
        for seed in SEEDS
    ]
    return [[(f"{out}/reading", reading)], [(base, basics)], first, trained, then, direct]


def run(job, threads):
    """One command to its end; SystemExit with its last words if it fails."""
    directory, command = job
    if (Path(directory) / "result.json").is_file():
        return
    words = [sys.executable, *shlex.split(command), "--output-dir", directory]
    if "planted" not in command:
        words.append("--resume-from-checkpoint")
    print(f"{time.strftime('%H:%M')}  python {command} --output-dir {directory}", flush=True)
    Path(directory).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{directory}.log", "ab") as log:
        started = time.time()
        code = subprocess.run(
            words,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        ).returncode
    if code:
        sys.exit(
            f"error: {directory} stopped with code {code}; its log is {directory}.log, which ends:\n"
            + Path(f"{directory}.log").read_text(errors="replace")[-800:]
        )
    with open(Path(directory).parent / "times.jsonl", "a") as file:
        file.write(
            json.dumps(
                {
                    "run": Path(directory).name,
                    "seconds": round(time.time() - started),
                    "threads": threads,
                }
            )
            + "\n"
        )


def read(path):
    return json.loads(Path(path).read_text())


def mean(values, digits=3, sign=""):
    """ "0.812 (0.79 - 0.83)", or one value alone."""
    values = [v for v in values if v is not None]
    if len(values) == 1:
        return f"{values[0]:{sign}.{digits}f}"
    return f"{statistics.mean(values):{sign}.{digits}f} ({min(values):{sign}.{digits}f} to {max(values):{sign}.{digits}f})"


def table(out):
    """The results as Markdown."""
    out = Path(out)
    result = lambda name: read(out / name / "result.json")
    of = lambda name, t, key: result(name)[f"iteration-{t}"].get(f"eval/table:test/{key}")
    rows = ["| what | mean of three seeds (range) |", "|---|---|"]
    planted = result("planted")
    rows.append(
        f"| **planted sets, one right and two wrong**: the base chooses right (another picture put in); chance 0.333 | {planted['selected_right']:.3f} ({planted['swapped']:.3f}); by place "
        + " / ".join(f"{v:.2f}" for v in planted["by_place"])
        + "; one base |"
    )
    after = [result(f"planted_r3v{s}") for s in SEEDS]
    rows.append(
        f"| the same, after R3V | {mean([p['selected_right'] for p in after])}; other picture {mean([p['swapped'] for p in after])} |"
    )
    rows += [
        "| **(a)** base, zero-shot direct | "
        + f"{result('zero_direct')['accuracy']:.3f} (one base) |",
        "| base, zero-shot reasoning | "
        + f"{result('zero_reasoning')['accuracy']:.3f} (one base) |",
        "| warm-up only (iteration 0) | "
        + mean([of(f"star{s}", 0, "accuracy") for s in SEEDS])
        + " |",
    ]
    for method, name in (("star", "STaR"), ("r3v", "R3V")):
        for t in (1, 2, 3):
            rows.append(
                f"| {name}, iteration {t} | {mean([of(f'{method}{s}', t, 'accuracy') for s in SEEDS])} |"
            )
    rows.append(
        f"| R3V - STaR, iteration 3 | {mean([of(f'r3v{s}', 3, 'accuracy') - of(f'star{s}', 3, 'accuracy') for s in SEEDS], sign='+')} |"
    )
    curves = {s: {c["step"]: c for c in result(f"scaling{s}")["scaling"]} for s in SEEDS}
    for n in SIZES:
        at = [curves[s][n] for s in SEEDS]
        gain = "; ".join(
            f"{c['self_select_gain']:+.3f} [{c['self_select_gain_low']:+.3f}, {c['self_select_gain_high']:+.3f}]"
            for c in at
        )
        rows.append(
            f"| {'**(b)** ' if n == min(SIZES) else ''}R3V, N = {n}: one sample / majority / self-select / pass | {mean([c['mean_sample_accuracy'] for c in at])} / {mean([c['majority@k'] for c in at])} / {mean([c['self_select@k'] for c in at])} / "
            f"{mean([c['pass@k'] for c in at])}; self-select - majority by seed, 95 % paired bootstrap: {gain} |"
        )
    for name, words in (
        ("r3v0", "R3V"),
        ("noselect", "without select"),
        ("norefine", "without refine"),
    ):
        picked = of(name, 3, "self_select@3")
        rows.append(
            f"| {'**(c)** one seed: ' if name == 'r3v0' else ''}{words}, iteration 3, Test@1 (self-select@3) | {of(name, 3, 'accuracy'):.3f}"
            + (f" ({picked:.3f}) |" if picked is not None else " |")
        )
    for method in ("dpo", "mpo"):
        lines = {
            s: [
                json.loads(line)
                for line in (out / f"{method}{s}/iteration-1/metrics.jsonl")
                .read_text()
                .splitlines()
            ]
            for s in SEEDS
        }
        change = [statistics.mean(m["logps/chosen_change"] for m in lines[s][-10:]) for s in SEEDS]
        share = [
            statistics.mean(
                m["logps/chosen_change"] / abs(m["logps/chosen_start"]) for m in lines[s][-10:]
            )
            for s in SEEDS
        ]
        rows.append(
            f"| {'**(d)** ' if method == 'dpo' else ''}{method.upper()}: log-prob of the chosen response, change in nats and as a share | {mean(change, 2, '+')}, {mean(share, 2, '+')} |"
        )
        rows.append(
            f"| {method.upper()}: reasoning, before -> after | {mean([of(f'{method}{s}', 0, 'accuracy') for s in SEEDS])} -> {mean([of(f'{method}{s}', 1, 'accuracy') for s in SEEDS])} |"
        )
        rows.append(
            f"| {method.upper()}: direct answers, before -> after | {mean([result(f'warm{s}_direct')['accuracy'] for s in SEEDS])} -> {mean([result(f'{method}{s}_direct')['accuracy'] for s in SEEDS])} |"
        )
        rows.append(
            f"| {method.upper()}: unreadable answers of 256 | {mean([of(f'{method}{s}', 1, 'parse_failures') for s in SEEDS], 1)} |"
        )
        rows.append(
            f"| {method.upper()}: sampled tokens per pair (correctness) | {mean([result(f'{method}{s}')['iteration-1']['pairs/tokens_per_pair'] for s in SEEDS], 0)} |"
        )
    for percent in (25, 50, 75):
        after = result(f"ntp{percent}")["iteration-1"]
        rows.append(
            f"| {'**(e)** one seed: ' if percent == 25 else ''}DropoutNTP, {percent} % of the response kept: accuracy, unreadable, sampled tokens per pair (of them used), pairs | {after['eval/table:test/accuracy']:.3f}, {after['eval/table:test/parse_failures']:.0f}, "
            f"{after['pairs/tokens_per_pair']:.0f} ({after['pairs/tokens_used_per_pair']:.0f}), {after['pairs/dropout_ntp']:.0f} (before: {of(f'ntp{percent}', 0, 'accuracy'):.3f}) |"
        )
    return "\n".join(rows)


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
    text = (
        table(out)
        + f"\n\nCommit {commit[:7]}, seeds {', '.join(map(str, SEEDS))} of warm-up, questions, sampling and training from one base; 256 held-out questions; two CPU cores, {sum(t['seconds'] * t['threads'] for t in times) / 60:.0f} core-minutes in all.\n"
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
