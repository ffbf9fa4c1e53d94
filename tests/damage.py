"""Damage every file that a run reads back, in every way, and take the run up again.

python tests/damage.py --run sft grpo --every 1 --output damage.jsonl

The state is what a kill leaves at some of a run's writes, and what is there at its end. Which files
are read back is traced, not listed (`watch_reads` in faults_server.py). A case is one file with one
damage and the same command again. It may end well with the undamaged run's results, bit for bit, or
with one sentence that names the file and a remedy; then the remedy is followed, and must work.

Most remedies lead to the same state: after the same command in the same files, the same happens.
So each such run is made once and remembered (remembered.py).
"""

import argparse
import json
import os
import random
import re
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import faults
import remembered
from faults import NO_FAULT, Run

# --- what is run ---

TWO = ("--save-total-limit 1", "--save-total-limit 2")  # a checkpoint to fall back on
STATES = 5  # kills, besides the end
RUNS = {
    "sft": Run("train_sft", faults.RUNS["sft"].line.replace(*TWO)),
    "grpo": Run("train_grpo", faults.RUNS["grpo"].line.replace(*TWO)),
    "grpo-lora": faults.RUNS["grpo-lora"],
    "r3v": Run(
        "selftrain",
        f"{faults.SELFTRAIN} --method r3v --iterations 2 --select-sizes 2"
        " --warmup-data count --max-warmup-samples 4",
    ),
    "star": Run(
        "selftrain", f"{faults.SELFTRAIN} --method star --iterations 2 --rationalization --lora-r 4"
    ),
    "mpo": faults.RUNS["mpo"],
    "ntp": Run("selftrain", f"{faults.SELFTRAIN} --method mpo --pair-source dropout_ntp"),
    "dpo": faults.RUNS["dpo"],
    "evaluate": faults.RUNS["evaluate"],
}
# Scripts that read a model's directory. What they make of it must be as before, or nothing.
MODEL = "--model {model}"
READERS = {
    "model-sft": Run("train_sft", RUNS["sft"].line.replace("--model {base}", MODEL)),
    "model-grpo": Run("train_grpo", RUNS["grpo-lora"].line.replace("--model {base}", MODEL)),
    "model-mpo": Run("selftrain", RUNS["mpo"].line.replace("--model {base}", MODEL)),
    "model-evaluate": Run("evaluate", RUNS["evaluate"].line.replace("--model {base}", MODEL)),
    "model-export": Run("model", f"export {MODEL}", resume=""),
    "adapter-sft": Run("train_sft", RUNS["sft"].line.replace("--model {base}", MODEL)),
    "adapter-grpo": Run(
        "train_grpo",
        RUNS["grpo"].line.replace("--model {base}", MODEL) + " --beta 0.04",
    ),
    "adapter-evaluate": Run("evaluate", RUNS["evaluate"].line.replace("--model {base}", MODEL)),
    "adapter-export": Run("model", f"export {MODEL}", resume=""),
}
MODELS = {
    **faults.MODELS,
    "other-base": Run("train_sft", faults.MODELS["base"].line + " --seed 1"),
    "other-adapter": Run("train_sft", faults.MODELS["adapter"].line + " --seed 1"),
}

WEIGHTS = r"\.safetensors$|metrics\.jsonl$"

# --- damage ---


@dataclass(frozen=True)
class Damage:
    """`content`: what stands in the file then. `place`: what stands in its place instead."""

    name: str
    content: bytes | None = None
    place: str = ""

    def apply(self, path: Path) -> None:
        if self.content is not None:
            path.write_bytes(self.content)
            return
        path.unlink()
        if self.place == "a folder":
            path.mkdir()
        elif self.place == "a dangling link":
            path.symlink_to(path.parent / "nothing-here")
        elif self.place == "a FIFO":
            os.mkfifo(path)


def damages(old: bytes, others: dict[str, bytes], rng: random.Random) -> list[Damage]:
    """Make some forty damages of a file from its content. Those that change nothing are left out.

    others: what the file is called -> its content, of files that could be in its place.
    """
    made = [Damage(f"in its place {what}", place=what) for what in ("a folder", "a FIFO")]
    made += [Damage("removed"), Damage("in its place a dangling link", place="a dangling link")]
    contents = {f"in its place {what}": some for what, some in others.items()}
    contents |= of_bytes(old, rng)
    contents |= of_blocks(old)
    text = as_text(old)
    if text is not None:
        contents |= of_text(old, rng)
        value = as_json(text)
        lines = [as_json(line) for line in text.splitlines()]
        if isinstance(value, dict):
            contents |= of_object(value, rng)
        elif lines and all(isinstance(line, dict) for line in lines):
            contents |= of_lines(text.splitlines(), rng)
    return made + [Damage(name, some) for name, some in contents.items() if some != old]


def as_text(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def as_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def of_bytes(old: bytes, rng: random.Random) -> dict[str, bytes]:
    def changed(at: int) -> bytes:
        return old[:at] + bytes([old[at] ^ 1 << rng.randrange(8)]) + old[at + 1 :]

    made = {"empty": b"", "longer": old + b"\0garbage", "doubled": old + old}
    if len(old) > 4:
        made |= {
            "cut by two bytes": old[:-2],
            "cut in the middle": old[: len(old) // 2],
            "cut somewhere": old[: rng.randrange(1, len(old))],
            "a bit of the first byte": changed(0),
            "a bit in the middle": changed(len(old) // 2),
            "a bit near the end": changed(len(old) - 2),
            "a bit somewhere": changed(rng.randrange(len(old))),
            "all zeros": bytes(len(old)),
            "zeros from somewhere on": old[: len(old) // 3].ljust(len(old), b"\0"),
        }
    return made


LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
OF_ANOTHER_KIND = {
    "a pointer of Git LFS": LFS.encode(),
    "a page of a server": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "an archive": b"PK\x03\x04" + bytes(99),
    "only spaces": b" " * 99,
    "only line ends": b"\n" * 99,
}


def of_blocks(old: bytes) -> dict[str, bytes]:
    """What happens to whole blocks, and files of another kind in its place."""
    rng, middle = random.Random(len(old)), len(old) // 2
    made = {"zeros before it": bytes(64) + old, "a line before it": b"x\n" + old}
    if len(old) > 4:
        flipped = bytearray(old)
        for at in rng.choices(range(len(old)), k=64):
            flipped[at] ^= 255
        block = len(old) // 8 + 1
        made |= {
            "64 bytes flipped": bytes(flipped),
            "its halves exchanged": old[middle:] + old[:middle],
            "a byte lost in the middle": old[:middle] + old[middle + 1 :],
            "a block lost": old[:middle] + old[middle + block :],
            "a block twice": old[: middle + block] + old[middle:],
            "a block of zeros": old[:middle] + bytes(block) + old[middle + block :],
        }
    return {f"blocks: {name}": content for name, content in (made | OF_ANOTHER_KIND).items()}


def of_text(old: bytes, rng: random.Random) -> dict[str, bytes]:
    at = rng.randrange(1, max(2, len(old)))
    _, _, rest = old.partition(b"\n")
    return {
        "a broken letter": old[:at] + b"\xff" + old[at:],
        "first line gone": rest,
        "a list": b"[]",
        "a number": b"5",
        "null": b"null",
        "a bare object": b"{}",
        "nested a thousandfold": b"[" * 1000 + b"]" * 1000,
        "nested endlessly": b'{"a":' * 100_000,
    }


OTHER_TYPES = (None, [], {}, "x", -1, 1e400, True, [[1]], {"a": {"b": 1}}, 10**400)


def of_object(old: dict, rng: random.Random) -> dict[str, bytes]:
    """Of JSON with an object: with its checksum (`crc32`), and as if edited by hand, without."""
    keys = [key for key in old if key != "crc32"]
    deep: list = []
    for _ in range(700):
        deep = [deep]
    made = {"another key": old | {"more": 1}, "without its checksum": without_checksum(old)}
    for key in rng.sample(keys, min(2, len(keys))):
        made[f"{key} removed"] = {name: some for name, some in old.items() if name != key}
        made[f"{key} removed by hand"] = without_checksum(made[f"{key} removed"])
    for key in rng.sample(keys, min(3, len(keys))):
        made[f"{key} of another type"] = old | {key: rng.choice(OTHER_TYPES)}
        by_hand = old | {key: rng.choice(OTHER_TYPES)}
        made[f"{key} of another type, by hand"] = without_checksum(by_hand)
    if keys:
        made[f"{keys[0]} nested deeply"] = old | {keys[0]: deep}
    return {name: json.dumps(some, indent=1).encode() for name, some in made.items()}


def without_checksum(record: dict) -> dict:
    return {key: some for key, some in record.items() if key != "crc32"}


def of_lines(old: list[str], rng: random.Random) -> dict[str, bytes]:
    """Of JSON Lines, each an object."""
    at = rng.randrange(len(old))
    record = json.loads(old[at])
    key = rng.choice(list(record))
    less = {name: some for name, some in record.items() if name != key}
    kept = [some for some in record if some != "crc32"]
    typed = record | {rng.choice(kept): rng.choice(OTHER_TYPES)} if kept else record
    made = {
        "last line gone": old[:-1],
        "a line gone": old[:at] + old[at + 1 :],
        "a line twice": old[: at + 1] + old[at:],
        "first and last line exchanged": [old[-1], *old[1:-1], old[0]] if len(old) > 1 else old,
        "half of the lines": old[: len(old) // 2],
        "a line is 5": [*old[:at], "5", *old[at + 1 :]],
        "a line is {}": [*old[:at], "{}", *old[at + 1 :]],
        "a blank line": [*old[:at], "", *old[at:]],
        f"a line without {key}": [*old[:at], json.dumps(less), *old[at + 1 :]],
        "a line of other types": [*old[:at], json.dumps(typed), *old[at + 1 :]],
        "a line edited by hand": [*old[:at], json.dumps(without_checksum(typed)), *old[at + 1 :]],
    }
    return {name: "".join(f"{line}\n" for line in some).encode() for name, some in made.items()}


# --- following a remedy ---


@dataclass
class Try:
    """One command: what it is called with, and where."""

    folder: Path
    run: Run
    more: str
    out: str = "run"
    untouched: bool = False  # it has left the damaged file as it was
    deleted: list[str] = field(default_factory=list)  # as told: an args.json, which may stay away


class Impossible(Exception):
    """A remedy names something that is not there."""


def put_away(path: Path) -> None:
    if not os.path.lexists(path):
        raise Impossible
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def follow(said: str, attempt: Try, damaged: Path, old: bytes) -> str | None:
    """Do what a sentence says, for the first remedy that it names. None if it names none."""
    checkpoint = re.search(r"--resume-from-checkpoint (\S+checkpoint-\d+)", said)
    later = re.search(r"delete iteration-(\d+) and what follows it in (\S+?),", said)
    delete = re.search(r"delete (/\S+?),? (?:and|or)|delete (/\S+?)[,;]", said)
    whole = re.search(r"(/\S+) is whole: name that", said)
    cannot = re.match(r"error: (\S+) cannot be used: .*move it away", said)
    renamed = re.search(r"name it (checkpoint-\d+) again", said)
    if checkpoint:
        attempt.more = f"--resume-from-checkpoint {checkpoint[1]}"
        return "resume from another checkpoint"
    if later:
        for folder in Path(later[2]).glob("iteration-*"):
            if int(folder.name.split("-")[1]) >= int(later[1]):
                put_away(folder)
        return "delete iterations"
    if "; delete it, and" in said or "; delete that folder" in said:
        path = damaged if damaged.name == "args.json" else damaged.parent
        put_away(path)
        attempt.deleted += [str(path.relative_to(attempt.folder))] if path == damaged else []
        return f"delete it ({path.name})"
    if delete:
        path = Path(delete[1] or delete[2])
        put_away(path)
        return "delete PATH"
    if cannot:
        put_away(Path(cannot[1]))
        return "move it away"
    if whole:
        line = attempt.run.line.replace("{model}", whole[1])
        attempt.run = Run(attempt.run.script, line, attempt.run.resume)
        return "name another model"
    if renamed:
        damaged.parent.rename(damaged.parent.with_name(renamed[1]))
        return "rename"
    if re.search("fetch it again|fetch the checkpoint again|fetch or save|save it again", said):
        if damaged.exists() or damaged.is_symlink():
            put_away(damaged)
        damaged.write_bytes(old)
        return "fetch it again"
    if re.search("(another|new) --output-dir|another( directory)?$", said):
        attempt.out, attempt.more = "again/run", ""  # of the same name: records know it
        return "another directory"
    return None


# --- cases ---


@dataclass
class State:
    """What an interrupted run has left, and what the same command makes of it undamaged."""

    name: str
    run: Run
    folder: Path  # a copy, to be copied to `at`
    at: Path  # where the commands run
    wanted: dict[str, str]
    reads: list[str]
    others: dict[str, Path]  # what a tree is -> a tree that could be in this one's place


def of_other_data(line: str) -> str:
    """The same command for other questions or pairs."""
    other = line.replace("--data count", "--data spatial")
    return other.replace("--pairs", "--max-train-samples 4 --pairs")


class Bench(faults.Bench):
    """The states, and the cases that begin with them."""

    def __init__(self, folder: Path, runner: faults.Server):
        super().__init__(folder, runner)
        self.prints = remembered.Prints()
        self.memory = remembered.Memory(self.folder / "memory", self.prints)
        self.place = remembered.Place()
        self.reads = self.folder / "reads"

    def prepare(self) -> None:
        for name, run in MODELS.items():
            folder = self.folder / f"model-{name}"
            if self.start(run, folder, NO_FAULT)["code"] != 0:
                raise RuntimeError(self.log(folder).read_text()[-2000:])
            self.models[name] = str(folder / "run")

    def go(self, attempt: Try, unique: str = "") -> tuple[dict, str]:
        """Run a command, or repeat what it is known to do: (how it ended, what it said).

        unique: a file that will not be there again as it is.
        """
        command = " ".join([attempt.run.script, *self.argv(attempt)])
        go = lambda: self.really_go(attempt)  # noqa: E731
        return self.memory.run(command, attempt.folder, self.reads, go, self.place, unique)

    def argv(self, attempt: Try) -> list[str]:
        models = self.models | {"model": str(attempt.folder / "model")}
        line = attempt.run.line.format(**models)
        return f"{line} --output-dir {attempt.folder / attempt.out} {attempt.more}".split()

    def really_go(self, attempt: Try) -> tuple[dict, str]:
        """Run a command, which leaves in `self.reads` what it has looked at."""
        log = self.log(attempt.folder)
        log.write_text("")
        self.reads.write_text("")
        armed = dict(folder=str(attempt.folder), mode=0, at=0, value=0, half=0, log="")
        armed["reads"] = str(self.reads)
        end = self.runner.run(attempt.run.script, self.argv(attempt), log, armed, 120)
        return end, log.read_text(errors="replace")

    def states(self, name: str, count: int = STATES) -> Iterator[State]:
        """The states of a run, or the one of a reader."""
        if name in READERS:
            yield self.reader(name)
            return
        run, at = RUNS[name], self.folder / f"case-{name}"
        twins = {
            "another seed's": Run(run.script, f"{run.line} --seed 1"),
            "other data's": Run(run.script, of_other_data(run.line)),
        }
        trace = self.folder / f"whole-{name}"
        if self.start(run, trace, faults.TRACED)["code"] != 0:
            raise RuntimeError(self.log(trace).read_text()[-2000:])
        points = faults.read_trace(trace.with_suffix(".trace"))
        kept = self.folder / f"states-{name}"
        for what, twin in twins.items():
            self.start(twin, at, NO_FAULT)
            move(at, kept / what)
        self.start(run, at, NO_FAULT)
        wanted = self.prints.left_by(at)
        move(at, kept / "end")
        chosen = faults.spread(faults.ends_of_bursts(points), count + 2)[1:-1] if count else []
        before = {}
        for point in [*chosen, None]:
            label = "end" if point is None else f"kill-{point.number}"
            if point:
                if at.exists():
                    shutil.rmtree(at)
                end = self.start(run, at, faults.FAULTS["kill"], point.number)
                if end["code"] != faults.FAULTS["kill"].code:
                    raise RuntimeError(f"{label} of {name} was not killed: {end}")
                move(at, kept / label)
            others = {what: kept / what for what in twins} | before
            yield self.with_reads(State(label, run, kept / label, at, wanted, [], others))
            before = {"an older": kept / label}

    def reader(self, name: str) -> State:
        """A model's directory, and a command that reads it."""
        kind = name.split("-")[0].replace("model", "base")
        at, kept = self.folder / f"case-{name}", self.folder / f"states-{name}"
        for what, model in ((kind, "tree"), (f"other-{kind}", "another seed's")):
            shutil.copytree(self.models[what], kept / model / "model")
        shutil.copytree(kept / "tree", at)
        run = READERS[name]
        end, text = self.really_go(Try(at, run, ""))
        if end["code"] != 0:
            raise RuntimeError(text[-2000:])
        wanted = self.prints.left_by(at / "run")
        others = {"another seed's": kept / "another seed's"}
        return self.with_reads(State("model", run, kept / "tree", at, wanted, [], others))

    def more(self, state: State) -> str:
        return state.run.resume if state.name != "model" else ""

    def with_reads(self, state: State) -> State:
        """Trace what the command reads of this state, undamaged."""
        self.copy(state)
        end, text = self.really_go(Try(state.at, state.run, self.more(state)))
        wrong = faults.differences(self.left(state), state.wanted)
        if end["code"] != 0 or wrong:
            raise RuntimeError(f"undamaged {state.folder}: {wrong} {text[-1500:]}")
        lines = [line.removeprefix("open\t") for line in self.reads.read_text().splitlines()]
        seen = [Path(line) for line in dict.fromkeys(lines)]  # "write\t..." is no such path
        names = [str(path.relative_to(state.at)) for path in seen if path.is_relative_to(state.at)]
        state.reads = [name for name in names if is_file(state.folder / name) and not half(name)]
        return state

    def copy(self, state: State) -> None:
        self.place.lay_out(state.folder, state.at)

    def left(self, state: State, out: str = "run") -> dict[str, str]:
        """What the command leaves, under the names it has in `wanted`, as digests."""
        where = state.at / out if state.name == "model" else (state.at / out).parent
        for path in where.rglob("*"):
            if not path.is_dir() and not is_file(path):  # reading a FIFO would never end
                path.unlink()
                path.write_text("neither a file nor a folder")
        found = self.prints.left_by(where)
        return {name: some for name, some in found.items() if not name.endswith(".damaged")}

    def damages_of(self, state: State, name: str) -> list[Damage]:
        """The damages of one file of a state: the same ones every time."""
        others = {what: tree / name for what, tree in state.others.items()}
        for number in re.findall(r"(?:iteration|checkpoint)-(\d+)", name):
            earlier = re.sub(r"((?:iteration|checkpoint)-)\d+", rf"\g<1>{int(number) - 1}", name)
            others["an earlier iteration's"] = state.folder / earlier
        contents = {what: path.read_bytes() for what, path in others.items() if is_file(path)}
        old = (state.folder / name).read_bytes()
        return damages(old, contents, random.Random(f"{state.run.script} {state.name} {name}"))

    def damaged(self, state: State, name: str, damage: Damage) -> dict:
        """One case: a record with `failures`, empty if all is well."""
        started = time.perf_counter()
        self.copy(state)
        path, old = state.at / name, (state.folder / name).read_bytes()
        damage.apply(path)
        attempt = Try(state.at, state.run, self.more(state))
        end, text = self.go(attempt, name)
        failures, outcome = failures_of_the_end(end, text), "as before"
        said = faults.error_sentences(text)
        again = ""
        if end["code"] == 2 and len(said) == 1:
            if str(path) not in said[0] and str(path.parent) not in said[0]:
                failures.append("the sentence does not name the file or its folder")
            try:
                outcome = follow(said[0], attempt, path, old) or ""
            except Impossible:
                outcome = ""
            if not outcome:
                failures.append("the sentence names no remedy that can be followed")
            else:
                end, again = self.go(attempt)
                failures += [f"remedied: {what}" for what in failures_of_the_end(end, again)]
                failures += ["remedied: exit code 2"] if end["code"] == 2 else []
        attempt.untouched = untouched(path, damage)
        if end["code"] == 0 and outcome == "as before" and attempt.untouched:
            outcome = "not needed"
        if end["code"] == 0:
            failures += self.failures_of_the_result(state, attempt, path, damage, old)
        return {
            "state": state.name,
            "file": name,
            "damage": damage.name,
            "outcome": outcome,
            "failures": failures,
            "sentence": said[0] if said else "",
            "said": text[-600:] if failures else "",
            "said_again": again[-600:] if failures else "",
            "seconds": round(time.perf_counter() - started, 2),
        }

    def failures_of_the_result(
        self, state: State, attempt: Try, path: Path, damage: Damage, old: bytes
    ) -> list[str]:
        found = self.left(state, attempt.out)
        kept = damage.content is None or is_kept(path, damage.content)
        wanted = state.wanted
        if attempt.run != state.run:  # another model's name is in all but these
            wanted = {key: some for key, some in wanted.items() if re.search(WEIGHTS, key)}
            found = {key: some for key, some in found.items() if re.search(WEIGHTS, key)}
        if attempt.deleted:
            gone = {*attempt.deleted, *(Path(name).name for name in attempt.deleted)}
            wanted = {key: some for key, some in wanted.items() if key not in gone}
            found = {key: some for key, some in found.items() if key not in gone}
        name = str(path.relative_to(state.at))
        if attempt.untouched and name in wanted:
            found[name] = wanted[name]
        failed = [f"exit code 0, but {what}" for what in faults.differences(found, wanted)]
        if attempt.out == "run" and not kept and b'"crc32"' in old and path.suffix == ".jsonl":
            failed.append("what was there is lost: it was written over")
        return failed


def failures_of_the_end(end: dict, text: str) -> list[str]:
    failed = faults.blurts(text)
    if end["code"] is None:
        return [*failed, "it hangs"]
    if end["left"]:
        failed.append("a process is left")
    if end["code"] == 2 and len(faults.error_sentences(text)) != 1:
        failed.append(f"{len(faults.error_sentences(text))} sentences that start with `error: `")
    if end["code"] == 2 and faults.error_sentences(text):
        failed += (
            ["a sentence of 600 letters"] if len(faults.error_sentences(text)[0]) > 600 else []
        )
    if end["code"] not in (0, 2):
        failed.append(f"exit code {end['code']}")
    if end["code"] == 2 and failed == [] and "error: error" in text:
        failed.append("an error of an error")
    return failed


def is_kept(path: Path, content: bytes) -> bool:
    """Whether all lines that were whole are still there, or the file was set aside as it was."""
    aside = [p for p in path.parent.glob(f"{path.name}*.damaged*") if p.read_bytes() == content]
    now = path.read_bytes() if is_file(path) else b""
    lines = [line for line in content.splitlines()[:-1] if b'"crc32"' in line]
    return bool(aside) or all(line in now for line in lines) or not path.parent.exists()


def untouched(path: Path, damage: Damage) -> bool:
    """Whether the file is as it was damaged: the run did not need what stands in it."""
    if damage.content is not None:
        return is_file(path) and path.read_bytes() == damage.content
    if damage.place in ("a folder", "a FIFO"):
        return path.is_dir() or path.is_fifo()
    return not path.exists()


def half(name: str) -> bool:
    """Whether it is half-written: looked at to be deleted, and no more."""
    return re.search(r"(^|/)\.[^/]*\.(tmp|part)(/|\.|$)", name) is not None


def is_file(path: Path) -> bool:
    """Whether it is a regular file itself, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def move(folder: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(to)


# --- all of them ---


def cases(bench: Bench, name: str, count: int, most: int) -> Iterator[tuple[State, str, Damage]]:
    """All damages of the files of a run, each file in `most` of the states that read it."""
    states = list(bench.states(name, count))
    readers: dict[str, list[State]] = {}
    for state in states:
        for file in state.reads:
            readers.setdefault(file, []).append(state)
    for file, some in readers.items():
        for state in faults.spread(some, most):
            yield from ((state, file, damage) for damage in bench.damages_of(state, file))


def sweep(bench: Bench, args: argparse.Namespace) -> Iterator[dict]:
    """Try the chosen cases, all runs in turn. Yields their records."""
    chosen: dict[str, list[tuple[State, str, Damage]]] = {}
    for turn in range(args.from_turn - 1, args.turns):
        for name in args.run:
            if name not in chosen:
                every = cases(bench, name, args.states, args.states_of_a_file)
                found = [c for c in every if re.search(args.only, c[1])]
                found = [c for c in found if re.search(args.damage, c[2].name)]
                print(f"{name}: {len({c[1] for c in found})} files, {len(found)} cases", flush=True)
                chosen[name] = found[args.first :: args.every]
            for case in chosen[name][turn :: args.turns]:
                yield {"run": name, **bench.damaged(*case)}
        print(f"turn {turn + 1} of {args.turns} is done", flush=True)


def table(records: list[dict]) -> str:
    heads = f"{'as before':>11}{'not needed':>12}{'remedied':>10}{'failed':>8}"
    lines = [f"{'run':<18}{'files':>6}{'cases':>7}{heads}"]
    for run in dict.fromkeys(r["run"] for r in records):
        some = [r for r in records if r["run"] == run]
        files = len({r["file"] for r in some})
        well = [r for r in some if not r["failures"]]
        same = sum(r["outcome"] == "as before" for r in well)
        idle = sum(r["outcome"] == "not needed" for r in well)
        failed = len(some) - len(well)
        ended = f"{same:>11}{idle:>12}{len(well) - same - idle:>10}{failed:>8}"
        lines.append(f"{run:<18}{files:>6}{len(some):>7}{ended}")
    kinds = Counter((Path(r["file"]).name, f"{w[:110]}") for r in records for w in r["failures"])
    lines += [f"{count:>5}  {file:<24} {what}" for (file, what), count in kinds.most_common()]
    remedies = Counter(r["outcome"] for r in records if not r["failures"])
    return "\n".join([*lines, ", ".join(f"{what}: {n}" for what, n in remedies.most_common())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", choices=[*RUNS, *READERS], default=[*RUNS, *READERS])
    parser.add_argument("--every", type=int, default=1, help="take every so many-th case")
    parser.add_argument("--from", dest="first", type=int, default=0, help="first case to take")
    parser.add_argument("--states", type=int, default=STATES, help="kills of each run")
    parser.add_argument("--states-of-a-file", type=int, default=2, help="states to damage it in")
    parser.add_argument("--turns", type=int, default=1, help="go through all runs so many times")
    parser.add_argument("--from-turn", type=int, default=1, help="go on after earlier turns")
    parser.add_argument("--only", default="", help="regular expression of the files")
    parser.add_argument("--damage", default="", help="regular expression of the damages")
    parser.add_argument("--output", type=Path, help="JSON Lines, a record for every case")
    args = parser.parse_args()
    records: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="damage") as temporary:
        bench = Bench(Path(temporary), faults.Server(faults.build_shim(Path(temporary))))
        bench.prepare()
        for record in sweep(bench, args):
            records.append(record)
            if args.output:
                with open(args.output, "a") as file:
                    file.write(json.dumps(record) + "\n")
            if record["failures"]:
                place = " ".join(record[key] for key in ("run", "state", "file", "damage"))
                print(f"{place}: {'; '.join(record['failures'])[:300]}", flush=True)
        bench.runner.close()
    print(table(records))
    return int(any(record["failures"] for record in records))


if __name__ == "__main__":
    sys.exit(main())
