"""Send signals at random moments to every script, resume, and compare with a run that had none.

python tests/signals.py --run sft r3v --moments 100 --output signals.jsonl        (forks of one server)
python tests/signals.py --real --moments 20                    (processes: imports and the end included)

A moment is a number of milliseconds of the run's own CPU time: how busy the machine is does not matter.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faults
from faults import NO_FAULT, Run

EXIT = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
RUNS = faults.RUNS | {
    "star": Run("selftrain", f"{faults.SELFTRAIN} --method star --iterations 1"),
    "rescore": Run("evaluate", "--predictions {saved} --protocol geoqa", resume=""),
}
LEFT = (".lock", ".owner.json", ".*.tmp", ".*.part")

# --- what must be true after a signal ---


def is_whole(checkpoint: Path) -> bool:
    """Ask sha256sum, as a user would."""
    done = subprocess.run(
        ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=checkpoint, capture_output=True
    )
    return done.returncode == 0


def failures_of(text: str, code: int | None, folder: Path, sent: list[int]) -> list[str]:
    """What is wrong with a run that got the signals `sent`, in this order, and with what it left.

    code: its exit code, None if it hung. A run that had ended before they came has 0.
    """
    failed = faults.blurts(text)
    if code is None:
        return [*failed, "it hangs"]
    if code not in {0, *(EXIT[number] for number in sent)}:
        said = faults.error_sentences(text)
        failed.append(f"exit code {code}: {said[-1] if said else text[-200:]}")
    asked = text.count("stopping after this step")
    ended = re.findall(r"^stopped .*", text, re.MULTILINE)
    if len(ended) > 1 or asked > 1 or asked + len(ended) > len(sent) + 1:
        failed.append(f"too many sentences: {asked}, {ended}")
    if (code == 0) != (not ended):
        failed.append(f"exit code {code}, and it said {ended}")
    if asked and len(sent) == 1 and "stopped at once" in text:
        failed.append("a step that it had promised to finish was not")
    failed += failures_of_the_folder(text, folder)
    return failed


def failures_of_the_folder(text: str, folder: Path) -> list[str]:
    failed = []
    steps = re.findall(r"^stopped .*after step (\d+)", text, re.MULTILINE)
    steps += re.findall(r"^stopped at once.*newest: checkpoint-(\d+)", text, re.MULTILINE)
    for step in steps:
        if not list(folder.rglob(f"checkpoint-{step}")):
            failed.append(f"step {step}, which is named, is in no checkpoint")
    there = [path for path in folder.rglob("checkpoint-*") if path.is_dir()]
    failed += [f"{path.name} is not whole" for path in there if not is_whole(path)]
    if there and "nothing had been written" in text:
        failed.append("it says that nothing had been written")
    locks = [path.name for name in LEFT[:2] for path in folder.rglob(name)]
    return failed + [f"{name} is left" for name in locks]


# --- forks ---


class Bench(faults.Bench):
    """Runs that get signals, and the uninterrupted ones that they are compared with."""

    def __init__(self, folder: Path, runner: faults.Server | faults.Process):
        super().__init__(folder, runner)
        self.cpu: dict[str, float] = {}  # seconds of the uninterrupted runs

    def prepare(self) -> None:
        super().prepare()
        saved = self.folder / "saved.jsonl"
        answers = [rf"$\frac{{{n}}}{{2}}$" for n in range(1, 25)]
        lines = [
            {"prediction": rf"<answer>${n}/2$</answer>", "answer": answer}
            for n, answer in enumerate(answers, 1)
        ]
        saved.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.models["saved"] = str(saved)

    def argv(self, run: Run, folder: Path, more: str = "") -> list[str]:
        line = run.line.format(**self.models)
        return f"{line} --output-dir {folder / 'run'} {more}".split()

    def fork(self, run: Run, folder: Path, alarms=(), more: str = "") -> tuple[dict, str]:
        """Run a command below `folder`: ({"code", "left", "cpu"}, what it printed)."""
        folder.mkdir(parents=True, exist_ok=True)
        log = self.log(folder)
        log.write_text("")
        off = dict(folder="/nowhere", mode=faults.OFF, at=0, value=0, half=0, log="")
        armed = off | {"alarms": [(int(number), at) for number, at in alarms]}
        end = self.runner.run(run.script, self.argv(run, folder, more), log, armed, 300)
        return end, log.read_text(errors="replace")

    def whole(self, name: str) -> dict[str, object]:
        """Run without a signal, once: what it leaves."""
        folder = self.folder / f"whole-{name}"
        if name not in self.traced:
            end, text = self.fork(RUNS[name], folder)
            if end["code"] != 0:
                raise RuntimeError(text[-2000:])
            self.cpu[name] = end["cpu"]
            self.traced[name] = faults.left_by(folder)
        return self.traced[name]

    def moment(self, name: str, alarms: list[tuple[int, float]]) -> dict:
        """A fork that gets signals after so many milliseconds of CPU time, then resumed."""
        self.whole(name)
        folder = self.folder / f"{name}-signals"
        end, text = self.fork(RUNS[name], folder, alarms)
        sent = [number for number, _ in sorted(alarms, key=lambda alarm: alarm[1])]
        failed = failures_of(text, end["code"], folder, sent)
        if end["left"]:
            failed.append("a process is left")
        return self.record(name, "fork", alarms, end, text, failed, folder)

    def record(self, name, way, moment, end, text, failed, folder) -> dict:
        """Go on with what a run left, and write down what was wrong."""
        resumed, again = self.go_on(name, folder, end["code"])
        record = {
            "run": name,
            "way": way,
            "moment": moment,
            "code": end["code"],
            "said": " | ".join(re.findall(r"^stop.*", text, re.MULTILINE)),
            "failures": failed + [f"resumed: {what}" for what in resumed],
        }
        if record["failures"]:
            record |= {"text": text[-1500:], "again": again[-1500:]}
        shutil.rmtree(folder, ignore_errors=True)
        return record

    def go_on(self, name: str, folder: Path, code: int | None) -> tuple[list[str], str]:
        """The command again, as a user types it: (what is wrong, what it printed)."""
        run, text = RUNS[name], ""
        if code != 0:
            end, text = self.fork(run, folder, more=run.resume)
            if end["code"] == 2 and not run.resume and "name a" in text:
                shutil.rmtree(folder)  # it cannot be resumed and says so: the remedy is a new one
                end, text = self.fork(run, folder)
            if end["code"] != 0:
                return [f"exit code {end['code']}: {text[-300:]}"], text
        failed = faults.differences(faults.left_by(folder), self.whole(name))
        return failed + faults.blurts(text), text


def alarms_of(rng: random.Random, cpu: float) -> list[tuple[int, float]]:
    """One signal at any moment of a run and a little after; one time in three a second soon."""
    moments = [rng.uniform(0, 1.02 * cpu * 1000)]
    if rng.random() < 1 / 3:
        moments.append(moments[0] + rng.choice([0, 1, 10, 100, 1000]) * rng.random())
    return [(int(rng.choice(list(EXIT))), round(moment, 3)) for moment in moments]


# --- processes ---


def used(pid: int) -> float:
    """Milliseconds of CPU time of a process; infinity when it has ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2) * 1000
    except OSError:
        return float("inf")


def when_used(pid: int, milliseconds: float) -> bool:
    """Wait until a process has used so much CPU time. False if it has ended."""
    while (now := used(pid)) < milliseconds:
        time.sleep(0.001)
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
    return now != float("inf")


# --- two at once ---

PAIRS = {name: RUNS[name] for name in ("sft", "grpo", "r3v", "evaluate", "rescore", "export")}
PAIRS["bench"] = Run(
    "bench",
    "rewards --prompts 2 --num-generations 2 --max-completion-length 60 --repeats 1",
    resume="",
)
SPELLINGS = ("{out}", "{out}/", "{link}", "{out}/../run", "{relative}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Pairs:
    """A run that is frozen at one of its writes, and others that want its directory."""

    def __init__(self, bench: Bench, second: faults.Server | faults.Process):
        self.bench, self.second = bench, second

    def start(self, name: str, folder: Path, at: int) -> tuple[threading.Thread, list, int]:
        """Start a run that stops (SIGSTOP) at its write number `at`: (its thread, end, process)."""
        run, end = PAIRS[name], []
        folder.mkdir(parents=True)
        log = self.bench.log(folder)
        log.write_text("")
        armed = dict(folder=str(folder), at=at, half=0, log="")
        armed |= dict(mode=faults.SIGNAL, value=int(signal.SIGSTOP))
        request = (run.script, self.bench.argv(run, folder), log, armed, 300)
        thread = threading.Thread(target=lambda: end.append(self.bench.runner.run(*request)))
        thread.start()
        while thread.is_alive():
            try:
                process = json.loads((folder / "run" / ".owner.json").read_text())["process"]
                if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    return thread, end, process
            except (OSError, ValueError):
                pass
            time.sleep(0.01)
        raise RuntimeError(f"{name} never came to write {at}: {log.read_text()[-1000:]}")

    def refusal(self, name: str, folder: Path, process: int, spelling: str) -> list[str]:
        """What is wrong with how a second run is refused."""
        link = folder.with_name("link")
        link.unlink(missing_ok=True)
        link.symlink_to(folder / "run")
        relative = os.path.relpath(folder / "run")
        out = spelling.format(out=folder / "run", link=link, relative=relative)
        line = PAIRS[name].line.format(**self.bench.models)
        log = folder.with_name("second.log")
        log.write_text("")
        before = contents(folder)
        off = dict(folder="/nowhere", mode=faults.OFF, at=0, value=0, half=0, log="")
        argv = [*line.split(), "--output-dir", out]
        code = self.second.run(PAIRS[name].script, argv, log, off, 300)["code"]
        text = log.read_text(errors="replace")
        said, failed = faults.error_sentences(text), faults.blurts(text)
        if code != 2 or len(said) != 1:
            failed.append(f"exit code {code}, {said or text[-300:]}")
        elif f"process {process} on {socket.gethostname()}" not in said[0]:
            failed.append(f"it does not name the first: {said[0]}")
        if contents(folder) != before:
            failed.append("a file of the first was changed")
        return [f"second {name} as {spelling}: {what}" for what in failed]

    def pairs(self, name: str, at: int, others=tuple(PAIRS)) -> list[str]:
        """Freeze a run, let all others try, and let it go on: what is wrong."""
        folder = self.bench.folder / f"pair-{name}"
        thread, end, process = self.start(name, folder, at)
        failed = []
        try:
            for n, other in enumerate(others):
                failed += self.refusal(other, folder, process, SPELLINGS[n % len(SPELLINGS)])
        finally:
            os.kill(process, signal.SIGCONT)
            thread.join()
        if end[0]["code"] != 0:
            text = self.bench.log(folder).read_text()[-500:]
            failed.append(f"the first ended with {end[0]['code']}: {text}")
        elif name in RUNS:
            found = faults.differences(faults.left_by(folder), self.bench.whole(name))
            failed += [f"the first, {what}" for what in found]
        shutil.rmtree(folder)
        return failed

    def race(self, name: str, folder: Path) -> list[str]:
        """Two that start at the same moment: one runs, the other is refused by its name."""
        run, ends = PAIRS[name], {}
        folder.mkdir(parents=True)
        off = dict(folder="/nowhere", mode=faults.OFF, at=0, value=0, half=0, log="")

        def start(which: str, runner: faults.Server | faults.Process) -> None:
            log = folder.with_name(f"{folder.name}-{which}.log")
            log.write_text("")
            end = runner.run(run.script, self.bench.argv(run, folder), log, off, 300)
            ends[which] = (end["code"], log.read_text(errors="replace"))

        both = {"one": self.bench.runner, "other": self.second}
        threads = [threading.Thread(target=start, args=item) for item in both.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = [what for _, text in ends.values() for what in faults.blurts(text)]
        codes = sorted(str(code) for code, _ in ends.values())
        refused = [text for code, text in ends.values() if code == 2]
        if codes != ["0", "2"]:
            failed.append(f"exit codes {codes}: {[text[-300:] for _, text in ends.values()]}")
        elif not re.search(r"is in use by .*process \d+ on ", refused[0]):
            failed.append(f"refused without the first's name: {refused[0][-300:]}")
        failed += [f"{path.name} is left" for path in (folder / "run").glob(".*")]
        if name in RUNS and not failed:
            failed += faults.differences(faults.left_by(folder), self.bench.whole(name))
        shutil.rmtree(folder)
        return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--moments", type=int, default=100, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON Lines, a record for every case")
    args = parser.parse_args()
    records: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="signals") as temporary:
        bench = Bench(Path(temporary), faults.Server(faults.build_shim(Path(temporary))))
        bench.prepare()
        rng = {name: random.Random(f"{args.seed} {name}") for name in args.run}
        for name in args.run:
            bench.whole(name)
            print(f"{name}: {bench.cpu[name]} s of CPU", flush=True)
        for _ in range(args.moments):
            for name in args.run:
                records.append(bench.moment(name, alarms_of(rng[name], bench.cpu[name])))
                if args.output:
                    with open(args.output, "a") as file:
                        file.write(json.dumps(records[-1]) + "\n")
                if records[-1]["failures"]:
                    print(json.dumps(records[-1], indent=1), flush=True)
        bench.runner.close()
    print(table(records))
    return int(any(record["failures"] for record in records))


def table(records: list[dict]) -> str:
    lines = [f"{'run':<11}{'cases':>7}{'passed':>8}   exit codes"]
    for name in dict.fromkeys(record["run"] for record in records):
        some = [record for record in records if record["run"] == name]
        passed = sum(not record["failures"] for record in some)
        codes = Counter(str(record["code"]) for record in some)
        shown = "  ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
        lines.append(f"{name:<11}{len(some):>7}{passed:>8}   {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
