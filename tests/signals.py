"""Send signals at random moments to every script, resume, and compare with a run that had none.

python tests/signals.py --run sft r3v --moments 100 --output signals.jsonl    (forks of one server)
python tests/signals.py --real one end two --moments 20    (processes, with imports and their end)

A moment is a number of milliseconds of the run's own CPU time: how busy the machine is does not
matter.
"""

import argparse
import contextlib
import ctypes
import json
import os
import pty
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import faults
from faults import Run

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


def failures_of(text, code: int | None, folder: Path, sent: list[int], quiet=False) -> list[str]:
    """What is wrong with a run that got the signals `sent`, in this order, and with what it left.

    code: its exit code, None if it hung. A run that had ended before they came has 0.
    quiet: what it says goes nowhere.
    """
    failed = faults.blurts(text)
    if code is None:
        return [*failed, "it hangs"]
    if code not in {0, *(EXIT[number] for number in sent)}:
        said = faults.error_sentences(text)
        failed.append(f"exit code {code}: {said[-1] if said else text[-200:]}")
    if quiet:
        return failed + failures_of_the_folder(text, folder)
    asked = text.count("stopping soon")
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


# --- two at once ---

PAIRED = "sft grpo r3v dpo evaluate rescore distill export graft"
PAIRS = {name: RUNS[name] for name in PAIRED.split()}
PAIRS["bench"] = Run(
    "fast.bench",
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

    def one_after_the_other(self, name: str, others=tuple(PAIRS)) -> list[str]:
        """Let a run end, and others start in its directory: refused, or the same once more."""
        folder, failed = self.bench.folder / f"after-{name}", []
        end, text = self.bench.fork(PAIRS[name], folder)
        if end["code"] != 0:
            return [f"exit code {end['code']}: {text[-300:]}"]
        for other in others:
            run = PAIRS[other]
            for more in dict.fromkeys(("", run.resume)):
                before = contents(folder)
                end, text = self.bench.fork(run, folder, more=more)
                said = faults.error_sentences(text)
                what = f"{other} {more} in the directory of {name}: "
                failed += [what + blurt for blurt in faults.blurts(text)]
                if end["code"] == 2 and len(said) == 1:
                    if contents(folder) != before:
                        failed.append(f"{what}refused, and a file has changed")
                elif end["code"] != 0 or other != name:
                    failed.append(f"{what}exit code {end['code']}, {said or text[-200:]}")
                elif name in RUNS:
                    found = faults.differences(faults.left_by(folder), self.bench.whole(name))
                    failed += [what + difference for difference in found]
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


# --- processes: imports, the end, terminals, pipes ---

AS_IN_A_FORK = f"""
import sys
sys.path[:0] = [{str(faults.ROOT)!r}, {str(faults.HERE)!r}]
from plumbing import stopping
stopping.watch()
import importlib, faults_server, rewards
from plumbing import running
rewards.REWARDS["vowels"] = rewards.Reward(faults_server.vowels)
script = importlib.import_module(sys.argv[1].removesuffix(".py"))
del sys.argv[0]
if script.__name__ == "selftrain":
    faults_server.speak()
running.run(script.main, script.parse_args)
"""
END = ("the model is in", "has the figures", "adapter merged)", "they differ on")


def state_of(pid: int) -> str:
    """R, S, T, Z, ..., or "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def milliseconds_used(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2) * 1000


def await_cpu(pid: int, milliseconds: float) -> None:
    """Wait until a process has used so much CPU time, or has ended."""
    while state_of(pid) not in ("", "Z"):
        with contextlib.suppress(OSError):
            if milliseconds_used(pid) >= milliseconds:
                return
        time.sleep(0.001)


def await_text(pid: int, log: Path, words: tuple[str, ...]) -> None:
    """Wait until a process has printed one of these, or has ended."""
    while state_of(pid) not in ("", "Z"):
        if any(word in log.read_text(errors="replace") for word in words):
            return
        time.sleep(0.001)


def kill(pid: int, number: int, group: bool = False) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, number) if group else os.kill(pid, number)


def watch_for_all() -> None:
    """In the child: signals as a shell gives them, whatever this process ignores."""
    for number in EXIT:
        signal.signal(number, signal.SIG_DFL)


class Real:
    """`python SCRIPT ARGV`, in ways that a person or a machine starts and ends it."""

    def __init__(self, bench: Bench, rng: random.Random):
        self.bench, self.rng = bench, rng

    def command(self, name: str, folder: Path) -> list[str]:
        folder.mkdir(parents=True)
        run, words = RUNS[name], self.bench.argv(RUNS[name], folder)
        if run.script in ("selftrain", "train_grpo"):  # with what the fork server adds to them
            return [sys.executable, "-c", AS_IN_A_FORK, f"{run.script}.py", *words]
        return [sys.executable, str(faults.ROOT / f"{run.script}.py"), *words]

    def start(self, name: str, folder: Path, before=watch_for_all, **streams) -> subprocess.Popen:
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        env |= {"PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.bench.log(folder), "w") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | streams
            return subprocess.Popen(
                self.command(name, folder),
                env=env,
                start_new_session=True,
                preexec_fn=before,
                **streams,
            )

    def case(self, name: str, way: str) -> dict:
        """One way to end one run: a record, as of `Bench.moment`."""
        self.bench.whole(name)
        folder = self.bench.folder / f"{name}-real"
        log = self.bench.log(folder)
        number = self.rng.choice(list(EXIT))
        # imports take 3 s of CPU, which a fork does not need
        moment = round(self.rng.uniform(20, 1000 * (self.bench.cpu[name] + 3)), 1)
        sent, wanted = [number], None
        ignored = {"nohup": signal.SIGHUP, "background": signal.SIGINT}.get(way)
        streams, before = {}, watch_for_all
        if ignored:
            before = lambda: signal.signal(ignored, signal.SIG_IGN)  # noqa: E731
            sent, wanted = [ignored], 0
        if way == "full":
            streams = dict.fromkeys(("stdout", "stderr"), open("/dev/full", "w"))
        if way == "head":
            streams = {"stdout": subprocess.PIPE}
        process = self.start(name, folder, before, **streams)
        if way == "head":
            process.stdout.readline()
            process.stdout.close()
        if way == "wall":
            time.sleep(moment / 1000)
        elif way == "end":
            await_text(process.pid, log, END)
            time.sleep(self.rng.uniform(0, 0.3))
        elif way == "imports":
            moment = round(self.rng.uniform(20, 3000), 1)
            await_cpu(process.pid, moment)
        else:
            await_cpu(process.pid, moment)
        kill(process.pid, sent[0], group=way in ("group", "two"))
        if way == "two":
            sent.append(self.rng.choice(list(EXIT)))
            time.sleep(self.rng.choice([0, 0.001, 0.1, 1]) * self.rng.random())
            kill(process.pid, sent[1], group=True)
        code = process.wait()
        code = 128 - code if code < 0 else code  # as a shell says it
        text = log.read_text(errors="replace")
        failed = failures_of(text, code, folder, sent, way in ("full", "head"))
        if wanted is not None and code != wanted:
            failed.append(f"exit code {code}, not {wanted}")
        deadline = time.monotonic() + 10
        while faults.group_lives(process.pid) and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):  # its own children are ours now
                os.waitpid(-process.pid, os.WNOHANG)
            time.sleep(0.05)
        if faults.group_lives(process.pid):
            failed.append("a process is left")
            os.killpg(process.pid, signal.SIGKILL)
        end = {"code": code}
        return self.bench.record(name, way, [sent, moment], end, text, failed, folder)

    def terminal(self, name: str, moment: float, shell: bool) -> dict:
        """Close the terminal of a run, which its shell has or has not started."""
        self.bench.whole(name)
        folder = self.bench.folder / f"{name}-terminal"
        command = self.command(name, folder)
        libc = ctypes.CDLL(None)
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what the shell leaves is ours
        leader, master = pty.fork()
        if leader == 0:
            watch_for_all()
            os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HISTFILE": ""}
            if shell:
                os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
            os.execv(command[0], command)
        pid, text = leader, b""
        if shell:
            os.write(master, (shlex.join(command) + "\n").encode())
            while not (pids := children_of(leader)):
                time.sleep(0.01)
            pid = pids[0]
        os.set_blocking(master, False)
        while state_of(pid) not in ("", "Z") and milliseconds_used(pid) < moment:
            with contextlib.suppress(BlockingIOError, OSError):
                text += os.read(master, 65536)
            time.sleep(0.001)
        os.close(master)
        if shell:  # it goes first, and leaves the run to this process
            os.waitpid(leader, 0)
        code = 129  # where the shell had still seen the end of it
        with contextlib.suppress(ChildProcessError):
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        failed = [] if code in (129, 0) else [f"exit code {code}"]
        failed += failures_of_the_folder("", folder)
        steps = [
            json.loads(line)["step"]
            for file in folder.rglob("run/metrics.jsonl")
            for line in file.read_text().splitlines()
        ]
        if name in ("sft", "grpo-lora") and max(steps, default=0) > 0:
            saved = folder / "run" / f"checkpoint-{max(steps)}"
            failed += [] if saved.is_dir() else [f"step {max(steps)} was made and is not saved"]
        way = "terminal of a shell" if shell else "terminal"
        text = text.decode(errors="replace")
        return self.bench.record(name, way, moment, {"code": code}, text, failed, folder)


def children_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[1]) == parent:
                found.append(int(path.parent.name))
    return found


WAYS = ("one", "imports", "wall", "end", "group", "two", "nohup", "background", "head", "full")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--moments", type=int, default=100, help="of each run (and way)")
    parser.add_argument(
        "--real", nargs="*", choices=(*WAYS, "terminal"), help="processes, not forks"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON Lines, a record for every case")
    return parser.parse_args()


def cases(bench: Bench, args: argparse.Namespace) -> Iterator[dict]:
    """Try moment after moment; of each, run after run."""
    rng = random.Random(args.seed)
    real = Real(bench, rng)
    for _ in range(args.moments):
        for name in args.run:
            bench.whole(name)
            seconds = bench.cpu[name]
            if args.real is None:
                yield bench.moment(name, alarms_of(rng, seconds))
            for way in args.real or ():
                if way == "terminal":
                    moment = 1000 * rng.uniform(2.5, seconds + 3)
                    yield real.terminal(name, moment, shell=rng.random() < 0.7)
                else:
                    yield real.case(name, way)


def main() -> int:
    args = parse_args()
    faults.hear_signals()
    records: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="signals") as temporary:
        shim = faults.build_shim(Path(temporary))
        bench = Bench(Path(temporary), faults.Server(shim, draw=args.real is not None))
        bench.prepare()
        for record in cases(bench, args):
            records.append(record)
            if args.output:
                with open(args.output, "a") as file:
                    file.write(json.dumps(record) + "\n")
            if record["failures"]:
                print(json.dumps(record, indent=1), flush=True)
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
