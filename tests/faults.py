"""Put a fault at every write of a run, resume it, and compare with a run that had none.

python tests/faults.py --run sft grpo --fault full kill int --every 1 --jobs 2 --output faults.jsonl

The writes are found by tracing the calls of an uninterrupted run (faults_shim.c), so that none is
forgotten. A case is one run with one fault at one of them, and the same command once more with
--resume-from-checkpoint. Needs Linux, a C compiler and no network; a case takes some seconds.
"""

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent

# --- what is run ---


@dataclass(frozen=True)
class Run:
    script: str
    line: str
    resume: str = "--resume-from-checkpoint"


# Not every step is saved, and an old checkpoint is removed.
COUNT = "--data count --level 1 --learning-rate 1e-3 --eval-batch-size 4"
SFT = (
    f"--model {{base}} {COUNT} --batch-size 2 --max-steps 3 --save-steps 2 --save-total-limit 1"
    " --eval-data count:test --eval-steps 2 --max-eval-samples 2 --max-completion-length 80"
)
GRPO = (
    f"--model {{base}} {COUNT} --prompts-per-step 2 --num-generations 2 --max-steps 3"
    " --save-steps 2 --save-total-limit 1 --eval-data count:test --eval-steps 2"
    " --max-eval-samples 2 --max-completion-length 12 --reward-funcs vowels"
)
SELFTRAIN = (
    f"--model {{base}} {COUNT} --max-train-samples 6 --num-generations 4 --batch-size 4"
    " --max-completion-length 80 --max-steps 3 --save-steps 2 --num-samples 2"
    " --eval-data count:test --max-eval-samples 2"
)
DPO = (
    f"--model {{base}} --pairs {HERE}/given_pairs.jsonl --learning-rate 1e-3 --batch-size 4"
    " --max-steps 3 --save-steps 2 --num-samples 2 --eval-data count:test --level 1"
    " --max-eval-samples 2 --eval-batch-size 4 --max-completion-length 80"
)
RUNS = {
    "sft": Run("train_sft", SFT),
    "grpo": Run("train_grpo", GRPO),
    "grpo-lora": Run("train_grpo", f"{GRPO} --lora-r 4 --lora-dropout 0.1 --beta 0.04"),
    "r3v": Run(
        "selftrain",
        f"{SELFTRAIN} --method r3v --iterations 1 --select-sizes 2"
        " --warmup-data count --max-warmup-samples 4",
    ),
    "mpo": Run("selftrain", f"{SELFTRAIN} --method mpo"),
    "dpo": Run("train_dpo", DPO),
    "evaluate": Run(
        "evaluate",
        "--model {base} --data count:test --level 1 --num-samples 2 --max-eval-samples 6"
        " --eval-batch-size 4 --max-completion-length 12",
    ),
    "distill": Run(
        "distill", "--data count --level 1 --teacher toy --judge toy --max-train-samples 3"
    ),
    "export": Run("model", "export --model {adapter}", resume=""),
    "graft": Run("model", "graft --llm {llm} --vision {base}", resume=""),
}

# The models that the runs start from. One step each: what they say is noise.
ONE_STEP = (
    "--data count --level 1 --batch-size 2 --max-steps 1 --max-eval-samples 1"
    " --max-completion-length 80 --save-steps 0"
)
MODELS = {
    "base": Run("train_sft", f"--model tiny {ONE_STEP}"),
    "adapter": Run("train_sft", f"--model {{base}} {ONE_STEP} --lora-r 4 --learning-rate 1e-2"),
    "llm": Run("recipes.text_llm", "--model {base}"),
}

# --- faults ---

OFF, TRACE, FAIL, KILL, SIGNAL = range(5)  # as in faults_shim.c
ENOSPC = 28


@dataclass(frozen=True)
class Fault:
    """`code` is how the run must end: its exit code, negative for a signal that kills."""

    mode: int
    value: int
    half: int
    code: int


FAULTS = {
    "full": Fault(FAIL, ENOSPC, 0, 2),
    "full-half": Fault(FAIL, ENOSPC, 1, 2),  # the write at the point still writes half
    "kill": Fault(KILL, 0, 0, -signal.SIGKILL),
    "kill-half": Fault(KILL, 0, 1, -signal.SIGKILL),
    "int": Fault(SIGNAL, signal.SIGINT, 0, 130),
    "term": Fault(SIGNAL, signal.SIGTERM, 0, 143),
    "hup": Fault(SIGNAL, signal.SIGHUP, 0, 129),
}
NO_FAULT = Fault(OFF, 0, 0, 0)
TRACED = Fault(TRACE, 0, 0, 0)


@dataclass(frozen=True)
class Point:
    """One call that changes a file: its number in the run, and what it does."""

    number: int
    call: str
    needs_space: bool
    path: str


def meets(point: Point, name: str) -> bool:
    """Tell whether this fault at this point differs from the same fault at the next one."""
    fault = FAULTS[name]
    if fault.half:
        return "write" in point.call
    return point.needs_space if fault.mode == FAIL else True


def bursts(points: list[Point]) -> list[list[Point]]:
    """Group the points that follow one another with the same call on the same file."""
    found: list[list[Point]] = []
    for point in points:
        if found and (found[-1][-1].call, found[-1][-1].path) == (point.call, point.path):
            found[-1].append(point)
        else:
            found.append([point])
    return found


def ends_of_bursts(points: list[Point]) -> list[Point]:
    """Keep the first and the last point of every burst: what lies between them is alike."""
    found = []
    for burst in bursts(points):
        found += [burst[0], burst[-1]] if len(burst) > 1 else burst
    return found


def spread(points: list[Point], count: int) -> list[Point]:
    """Choose `count` points at equal distances, the first and the last among them."""
    last = len(points) - 1
    return [points[round(i * last / max(1, count - 1))] for i in range(min(count, len(points)))]


# --- starting processes ---


def why_not() -> str | None:
    """Say why there can be no faults on this machine, None if there can."""
    if not sys.platform.startswith("linux"):
        return "faults are put in by LD_PRELOAD: Linux only"
    if not shutil.which("cc"):
        return "no C compiler (cc) to build faults_shim.c with"
    return None


def build_shim(folder: Path) -> Path:
    """Compile faults_shim.c."""
    shim = folder / "faults_shim.so"
    source = str(HERE / "faults_shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    return shim


def environment(shim: Path) -> dict[str, str]:
    more = {
        "LD_PRELOAD": str(shim),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**os.environ, **more}


# The system calls that change files, as strace names them.
CHANGING = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,"
    "rename,renameat,renameat2,mkdir,mkdirat,link,linkat,symlink,symlinkat,"
    "unlink,unlinkat,rmdir,truncate,ftruncate,fallocate"
)


class Server:
    """faults_server.py, one run at a time.

    draw: with real pictures. strace: a file for what strace says of the calls that change files.
    """

    def __init__(self, shim: Path, draw: bool = False, strace: Path | None = None):
        self.draw = draw
        watch = ["strace", "-f", "--seccomp-bpf", "-y", "-s0", f"-etrace={CHANGING}"]
        self.process = subprocess.Popen(
            [
                *([*watch, f"-o{strace}"] if strace else []),
                sys.executable,
                HERE / "faults_server.py",
            ],
            env=environment(shim),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()  # it is ready

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("faults_server.py has died; its message is above")
        return json.loads(line)

    def run(self, script: str, argv: list[str], log: Path, fault: dict, seconds: int) -> dict:
        """Returns {"code", "left"}; code None: still running after `seconds`, and killed."""
        request = dict(script=script, argv=argv, log=str(log), fault=fault, seconds=seconds)
        request["sketch"] = not self.draw
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Process:
    """The same interface, with a process of its own for every run: `python SCRIPT ARGV`."""

    def __init__(self, shim: Path):
        self.shim = shim

    def run(self, script: str, argv: list[str], log: Path, fault: dict, seconds: int) -> dict:
        more = environment(self.shim)
        more |= {f"FAULT_{name.upper()}": str(value) for name, value in fault.items()}
        with open(log, "a") as output:
            process = subprocess.Popen(
                [sys.executable, ROOT / f"{script}.py", *argv],
                env=more,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
        left = code is not None and group_lives(process.pid)
        if code is None or left:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return {"code": code, "left": left}


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- one case ---

TIMES = re.compile(r".*_time|tokens_per_second")
OF_THIS_START = re.compile(
    "argv|output_dir|resume_from_checkpoint|commit|crc32|cwd"
)  # in args.json


def left_by(folder: Path) -> dict[str, object]:
    """Everything below a case's folder, hidden files included, without what may differ.

    That is: times in metrics.jsonl, the command in args.json, and the folder's own name.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = plain(path, folder)
    return found


def plain(path: Path, folder: Path) -> object:
    """One of these files or folders."""
    if path.is_dir():
        return "a folder"
    if path.name == "report.html":  # made of the other files, with their times
        return "a page"
    if path.name == "state.pt":
        return plain_state(path)
    content = path.read_bytes().replace(str(folder).encode(), b"FOLDER")
    if path.name == "metrics.jsonl":
        return [without(TIMES, line) for line in content.splitlines()]
    if path.name == "args.json":
        return without(OF_THIS_START, content)
    if path.name == "SHA256SUMS":  # of args.json, too, which knows its command
        return [line.split()[-1:] for line in content.splitlines()]
    return content


def plain_state(path: Path) -> object:
    """Read state.pt as plain values: torch writes equal tensors in more than one way."""
    import torch  # takes 2 s

    def values(value: object) -> object:
        if isinstance(value, dict):
            return {key: values(some) for key, some in value.items()}
        if isinstance(value, (list, tuple)):
            return [values(some) for some in value]
        if isinstance(value, torch.Tensor):
            return (
                value.dtype,
                value.shape,
                value.contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
            )
        return value

    try:
        return values(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # torch raises a handful of unrelated types for a damaged file
        return path.read_bytes()


def without(names: re.Pattern, text: bytes) -> dict | bytes:
    """Read an object in JSON, less the keys with these names; what is none stays as it is."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(record, dict):
        return text
    return {key: value for key, value in record.items() if not names.fullmatch(key)}


def differences(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """Name the files that differ, one sentence each kind."""
    missing = tops(wanted.keys() - found.keys())
    surplus = tops(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if found[name] != wanted[name])
    said = (("missing", missing), ("left over", surplus), ("different", other))
    return [f"{what}: {' '.join(names)}" for what, names in said if names]


def tops(names: set[str]) -> list[str]:
    """Leave out what is below another of these."""
    return sorted(name for name in names if not names & set(map(str, Path(name).parents)))


# What must not be printed, whatever happens.
BLURTS = ("Traceback (most recent call last)", "Exception ignored")
AMOUNT = re.compile(r"\d[\d.,]*\s?(bytes|B|[kKMGT]i?B)\b")


def blurts(text: str) -> list[str]:
    """Find tracebacks: one failure each, with the exception's line."""
    found = []
    for mark in BLURTS:
        if mark in text:
            lines = re.findall(
                r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*$", text, re.MULTILINE
            )
            found.append(f"{mark}: {lines[-1][:150] if lines else '?'}")
    return found


def error_sentences(text: str) -> list[str]:
    return re.findall(r"(?:^|[\r\n\]])(error: [^\r\n]*)", text)  # ] ends a progress bar


@dataclass
class Case:
    """A run with one fault, and what is known of the same run without it."""

    run: Run
    name: str
    point: Point
    folder: Path
    points: list[Point]  # of the run without a fault, which was below `whole_folder`
    whole_folder: Path
    whole: dict[str, object]
    text: str = ""  # what the faulted run printed

    def failures_of_the_end(self, end: dict) -> list[str]:
        """How the faulted run ended, and what it said."""
        fault, code = FAULTS[self.name], end["code"]
        failed = blurts(self.text)
        if code is None:
            return [*failed, "it hangs"]
        if end["left"] and fault.mode != KILL:
            failed.append("a process is left")
        if code == 0 and fault.mode != KILL:
            return failed + self.failures_of_a_success()
        if code != fault.code:
            failed.append(f"exit code {code}, not {fault.code}")
        elif fault.mode == FAIL:
            failed += self.failures_of_the_sentence()
        elif fault.mode == SIGNAL:
            failed += self.failures_of_the_step()
        return failed

    def failures_of_a_success(self) -> list[str]:
        """A run that ended well must be complete; on a full disk, but for pictures."""
        found, wanted = left_by(self.folder), dict(self.whole)
        if FAULTS[self.name].mode == FAIL:
            drawn = (".png", ".html")
            wanted = {name: some for name, some in wanted.items() if not name.endswith(drawn)}
            found = {name: some for name, some in found.items() if not name.endswith(drawn)}
            if "warning: " not in self.text:
                return ["exit code 0 on a full disk, without a warning"]
        return [f"exit code 0, but {what}" for what in differences(found, wanted)]

    def failures_of_the_sentence(self) -> list[str]:
        said = error_sentences(self.text)
        if len(said) != 1:
            return [f"{len(said)} sentences that start with `error: `"]
        if len(AMOUNT.findall(said[0])) < 2:
            return ["the sentence does not say how much is needed and free"]
        return []

    def failures_of_the_step(self) -> list[str]:
        """A step that the message names must be in a checkpoint."""
        for step in re.findall(r"after step (\d+)", self.text):
            if not list(self.folder.rglob(f"checkpoint-{step}")):
                return ["the step that the message names is in no checkpoint"]
        return []

    def failures_of_what_was_finished(self) -> list[str]:
        """The newest checkpoint that was whole before the fault is there, or a newer one."""
        if FAULTS[self.name].mode == SIGNAL:  # the run went on
            return []
        before = [p for p in self.points if p.number < self.point.number]
        finished = {}  # folder of the run: its newest checkpoint
        for p in before:
            path = Path(p.path)
            if re.fullmatch(r"checkpoint-\d+", path.name) and p.call.startswith("rename"):
                finished[path.parent] = path
        for parent, path in finished.items():
            gone = str(path.with_name(f".{path.name}.old.tmp"))  # renamed before it is removed
            removed = [p for p in before if p.path == gone]
            here = self.folder / parent.relative_to(self.whole_folder)
            newest = max((number_of(p) for p in here.glob("checkpoint-*")), default=-1)
            if newest < number_of(path) and not removed:
                return [f"{path.name} was finished and is lost"]
        return []


def number_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


class Bench:
    """The uninterrupted runs, and the cases that are compared with them."""

    def __init__(self, folder: Path, runner: Server | Process):
        self.folder, self.runner = folder.resolve(), runner
        self.models: dict[str, str] = {}
        self.traced: dict[str, tuple[list[Point], dict[str, object]]] = {}

    def start(self, run: Run, folder: Path, fault: Fault, at=0, more="", out="run") -> dict:
        """Run a command with its output below `folder`. Returns {"code", "left"}."""
        folder.mkdir(parents=True, exist_ok=True)
        line = run.line.format(**self.models)
        armed = dict(
            folder=str(folder),
            mode=fault.mode,
            at=at,
            value=int(fault.value),
            half=fault.half,
            log=str(folder.with_suffix(".trace")) if fault.mode == TRACE else "",
        )
        argv = f"{line} --output-dir {folder / out} {more}".split()
        return self.runner.run(run.script, argv, self.log(folder), armed, 120)

    @staticmethod
    def log(folder: Path) -> Path:
        return folder.with_suffix(".log")

    def prepare(self) -> None:
        """Make the models that the runs start from."""
        for name, run in MODELS.items():
            folder = self.folder / f"model-{name}"
            if not folder.exists() and self.start(run, folder, NO_FAULT)["code"] != 0:
                raise RuntimeError(self.log(folder).read_text()[-2000:])
            self.models[name] = str(folder / "run")

    def whole(self, name: str) -> tuple[list[Point], dict[str, object]]:
        """Run without a fault, once: (its points, what it leaves)."""
        folder = self.folder / f"whole-{name}"
        if name not in self.traced:
            if not folder.exists() and self.start(RUNS[name], folder, TRACED)["code"] != 0:
                raise RuntimeError(self.log(folder).read_text()[-2000:])
            self.traced[name] = read_trace(folder.with_suffix(".trace")), left_by(folder)
        return self.traced[name]

    def case(self, name: str, fault: str, point: Point) -> dict:
        """One fault at one point, then resumed: a record with `failures`, empty if all is well."""
        started = time.perf_counter()
        points, whole = self.whole(name)
        folder = self.folder / f"{name}-{fault}-{point.number}"
        whole_folder = self.folder / f"whole-{name}"
        case = Case(RUNS[name], fault, point, folder, points, whole_folder, whole)
        end = self.start(case.run, folder, FAULTS[fault], point.number)
        case.text = self.log(folder).read_text(errors="replace")
        failures = case.failures_of_the_end(end) + case.failures_of_what_was_finished()
        resumed, again = self.resume(case)
        failures += [f"resumed: {what}" for what in resumed]
        record = {
            "run": name,
            "fault": fault,
            "point": point.number,
            "call": point.call,
            "path": str(Path(point.path).relative_to(case.whole_folder)),
            "code": end["code"],
            "failures": failures,
            "said": case.text[-600:] if failures else "",
            "said_again": again[-600:] if resumed else "",
            "seconds": round(time.perf_counter() - started, 2),
        }
        shutil.rmtree(folder)
        self.log(folder).unlink()
        return record

    def resume(self, case: Case) -> tuple[list[str], str]:
        """The command again, as a user types it: (what is wrong, what it printed)."""
        self.log(case.folder).write_text("")
        end = self.start(case.run, case.folder, NO_FAULT, more=case.run.resume)
        text = self.log(case.folder).read_text(errors="replace")
        wanted = case.whole
        if end["code"] == 2 and not case.run.resume and "name a" in text:
            # It cannot be resumed and says so: the remedy is a new folder.
            shutil.rmtree(case.folder)
            end = self.start(case.run, case.folder, NO_FAULT)
        failed = blurts(text)
        if end["left"]:
            failed.append("a process is left")
        if end["code"] != 0:
            said = error_sentences(text)
            return [*failed, f"exit code {end['code']}: {said[-1] if said else '?'}"], text
        return failed + differences(left_by(case.folder), wanted), text


def read_trace(path: Path) -> list[Point]:
    found = []
    for line in path.read_text().splitlines():
        number, call, needs_space, name = line.split("\t")
        found.append(Point(int(number), call, needs_space == "1", name))
    return found


# --- all of them ---


def sweep(bench: Bench, cases: list[tuple[str, str, Point]], shim: Path, jobs: int) -> Iterator:
    """Run the cases on `jobs` servers. Yields their records as they come."""
    waiting: queue.Queue = queue.Queue()
    done: queue.Queue = queue.Queue()
    for case in cases:
        waiting.put(case)

    def work() -> None:
        mine = Bench(bench.folder, Server(shim))
        mine.models, mine.traced = bench.models, bench.traced
        try:
            while True:
                done.put(mine.case(*waiting.get_nowait()))
        except queue.Empty:
            mine.runner.close()
        except BaseException as error:  # told to the main thread, which raises it
            done.put(error)

    for _ in range(jobs):
        threading.Thread(target=work, daemon=True).start()
    for _ in cases:
        record = done.get()
        if isinstance(record, BaseException):
            raise record
        yield record


def kind_of(failure: str) -> str:
    """A failure without what is its own: numbers and folders."""
    without_folder = re.sub(r"/tmp/faults\w+/[\w-]+/", "", failure)
    without_random = re.sub(r"\.tmp[A-Za-z0-9]{6}\b", ".tmpXXXXXX", without_folder)
    return re.sub(r"\d+", "N", without_random)[:160]


def table(records: list[dict]) -> str:
    """Points, passed, seconds for each run and fault; then the failures by kind."""
    lines = [f"{'run':<11}{'fault':<11}{'points':>7}{'passed':>7}{'seconds a case':>16}"]
    for run, fault in dict.fromkeys((r["run"], r["fault"]) for r in records):
        some = [r for r in records if (r["run"], r["fault"]) == (run, fault)]
        passed = sum(not r["failures"] for r in some)
        seconds = sum(r["seconds"] for r in some) / len(some)
        lines.append(f"{run:<11}{fault:<11}{len(some):>7}{passed:>7}{seconds:>16.1f}")
    kinds = Counter((r["fault"], kind_of(what)) for r in records for what in r["failures"])
    lines += ["", "failures"] if kinds else []
    lines += [f"{count:>6}  {fault:<10} {kind}" for (fault, kind), count in kinds.most_common()]
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", "--script", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--fault", nargs="+", choices=FAULTS, default=["full", "kill", "int"])
    parser.add_argument("--every", type=int, default=1, help="take every so many-th point")
    parser.add_argument("--from", dest="first", type=int, default=1, help="first point to take")
    parser.add_argument(
        "--bursts", action="store_true", help="only the first and last of a file's writes in a row"
    )
    parser.add_argument("--trace", action="store_true", help="only count the points")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, 0.6 GB each")
    parser.add_argument("--output", type=Path, help="JSON Lines, a record for every case")
    return parser.parse_args()


def hear_signals() -> None:
    """Undo what nohup and `&` ignore: a run inherits it and would not hear the tested signal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def main() -> int:
    args = parse_args()
    hear_signals()
    if why_not():
        sys.exit(f"error: {why_not()}")
    records: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="faults") as temporary:
        shim = build_shim(Path(temporary))
        bench = Bench(Path(temporary), Server(shim))
        bench.prepare()
        cases = []
        for name in args.run:
            started = time.perf_counter()
            points, _ = bench.whole(name)
            ends = ends_of_bursts(points)
            seconds = time.perf_counter() - started
            print(f"{name}: {len(points)} points, {len(ends)} ends of bursts, {seconds:.1f} s")
            chosen = [p for p in (ends if args.bursts else points) if p.number >= args.first]
            for fault in args.fault:
                met = [point for point in chosen if meets(point, fault)]
                cases += [(name, fault, point) for point in met[:: args.every]]
        bench.runner.close()
        for record in sweep(bench, [] if args.trace else cases, shim, args.jobs):
            records.append(record)
            if args.output:
                with open(args.output, "a") as file:
                    file.write(json.dumps(record) + "\n")
            what = "; ".join(record["failures"])[:200] or "passed"
            place = f"{record['run']} {record['fault']} {record['point']} {record['path']}"
            print(f"{len(records)}/{len(cases)} {place}: {what}", flush=True)
    print(table(records))
    return int(any(record["failures"] for record in records))


if __name__ == "__main__":
    sys.exit(main())
