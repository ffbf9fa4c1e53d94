"""The output directory of a run: one run at a time, whole checkpoints, and a log that fits them.

    with rundir.claim(args):                       # utils.run does it, around every main
        resume = rundir.open_output_dir(args)      # the checkpoint to go on from, or None
        log = rundir.MetricsLog(out, rundir.metrics_of(resume))
        ...
        rundir.save_checkpoint(out, step, save_model, state, log, keep)
        rundir.publish(out, save_model)

A checkpoint is a folder checkpoint-STEP with the model, state.pt, args.json, metrics.jsonl up to
its step, and SHA256SUMS of these (`sha256sum -c SHA256SUMS` checks it by hand). It is written
beside and renamed when whole, and renamed before it is removed: under that name it is complete.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import filelock
import torch

from plumbing import disk, records, stopping
from plumbing.arguments import same_flags
from plumbing.errors import UserError, out_of_memory

SUMS = "SHA256SUMS"
# What a killed run leaves half-written. Others have hidden files, too: ours are called by name.
LEFT = (
    ".checkpoint-*.tmp",
    ".final.tmp",
    ".*.json.part",
    ".*.jsonl.part",
    ".*.part.png",
    ".nanovlr-*.part",
)


# --- one run at a time ---


@contextlib.contextmanager
def claim(args):
    """Keep every other run out of --output-dir until the block ends, or the process does.

    The lock is the operating system's, which takes it back from a process that is killed.
    UserError, naming host and process, if another run holds it, or the directory cannot be written.
    """
    out = getattr(args, "output_dir", None)
    if out is None:
        yield
        return
    out, finished = Path(out), False
    refuse_parts_of_a_run(out)
    lock, owner = out / ".lock", out / ".owner.json"
    held = filelock.FileLock(str(lock))
    command = getattr(args, "script", None) or "a run"
    started = time.strftime("%Y-%m-%d %H:%M")
    holder = {"host": socket.gethostname(), "process": os.getpid(), "script": command}

    def release():
        if held.is_locked:  # while it is, nobody else can have made them
            for file in (owner, lock):
                with contextlib.suppress(OSError):
                    file.unlink()
            held.release()

    def words():
        release()
        return f"the run had finished, and is in {out}" if finished else _what_is_kept(args)

    with stopping.Undivided():
        made = disk.make_writable(out)
        try:
            held.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(_in_use(out, owner)) from None
        except OSError as error:
            raise UserError(
                f"{lock} cannot be locked ({error.strerror or error}); name another --output-dir"
            ) from None
        stopping.last_words[:] = [words]  # they hold until the process has ended
    try:
        disk.write_json(owner, holder | {"started": started})
        clean(out)
        clean(out / "samples")
        yield
        finished = True
    finally:
        with stopping.Undivided():
            release()
        for folder in made:  # a command that was refused leaves no empty folder behind
            with contextlib.suppress(OSError):
                folder.rmdir()


def clean(folder: Path):
    """Delete what a killed run has left half-written in a folder of its own."""
    for pattern in LEFT:
        for leftover in folder.glob(pattern):
            _delete(leftover)


def _in_use(out: Path, owner: Path) -> str:
    who = "another run"
    for _ in range(40):  # a run that started at the same moment is just writing it
        try:
            holder = json.loads(disk.read_text(owner))
            who = (
                f"{holder['script']} (process {holder['process']} on {holder['host']}, "
                f"since {holder['started']})"
            )
            break
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.05)
    return (
        f"--output-dir {out} is in use by {who}; wait for it, stop it, or name another --output-dir"
    )


def again(args) -> str:
    """How a command that was stopped is taken up."""
    resumable = hasattr(args, "resume_from_checkpoint") and not getattr(args, "predictions", None)
    return "go on with --resume-from-checkpoint" if resumable else "type the command again"


def _what_is_kept(args) -> str:
    """What a run that ends at once has saved, and how to go on."""
    found = checkpoints(args.output_dir)
    newest = f" (newest: {found[-1].name})" if found else ""
    return f"what was finished is kept in {args.output_dir}{newest}; {again(args)}"


# --- checkpoints ---


def checkpoints(out: str | Path) -> list[Path]:
    """List the checkpoints in a run's directory, oldest first."""
    found = [p for p in Path(out).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: str | Path) -> int:
    """The step in a checkpoint's name."""
    return int(Path(checkpoint).name.split("-")[1])


def open_output_dir(args) -> Path | None:
    """Find the checkpoint in --output-dir to go on from; None to start at step 0.

    UserError if there are checkpoints of an earlier run and --resume-from-checkpoint was not given,
    if the named one is not there, is damaged, or is another run's.
    """
    out, wanted = Path(args.output_dir), args.resume_from_checkpoint
    disk.make_writable(out)
    found = checkpoints(out)
    if not found:
        refuse_anothers(out, args)
    if wanted is None:
        if found:
            raise UserError(
                f"{out} already holds {found[-1].name} of an earlier run; add "
                "--resume-from-checkpoint to go on from it, or name another --output-dir"
            )
        return None
    if wanted == "newest":
        if not found:
            print(f"no checkpoint in {out} yet: starting from the beginning")
            return None
        path = found[-1]
        print(f"resuming from {path}")
    else:
        path = next((p for p in found if p.resolve() == Path(wanted).resolve()), None)
        if path is None:
            newest = found[-1].name if found else "none"
            raise UserError(
                f"--resume-from-checkpoint {wanted} is not a checkpoint in --output-dir {out} "
                f"(newest there: {newest}); a run goes on where its metrics are. "
                "To start a new run from its weights, use --model"
            )
    check_checkpoint(path)
    same_flags(args, path)
    if args.max_steps and step_of(path) > args.max_steps:
        raise UserError(f"{path} is already past --max-steps {args.max_steps}; raise it")
    return path


def set_aside_later(out: str | Path, resume: Path | None):
    """Hide the checkpoints after the one that a run goes on from; the next save removes them.

    "newest" must not mean one of them, whatever stops this run. Called before the first step, when
    nothing of the command can be wrong any more.
    """
    if resume is None:
        return
    for later in reversed([p for p in checkpoints(out) if step_of(p) > step_of(resume)]):
        hidden = later.with_name(f".{later.name}.later")
        print(f"{later.name} is set aside as {hidden.name}, and removed with the next save")
        _delete(hidden)
        os.replace(later, hidden)


def refuse_anothers(out: str | Path, args):
    """UserError if `out` holds a saved model or another script's run: it would be written over."""
    out = Path(out)
    if (out / SUMS).is_file():
        raise UserError(f"--output-dir {out} holds a saved model; name another --output-dir")
    was = _what_ran(out)
    script, saved = getattr(args, "script", None), bool(getattr(args, "predictions", None))
    if was and was != (script or was[0], saved):
        what = f"{was[0]} --predictions" if was[1] else was[0]
        raise UserError(f"--output-dir {out} holds a run of {what}; name another --output-dir")


def _what_ran(out: Path) -> tuple[str, bool] | None:
    """The script of a run, and whether it scored --predictions: evaluate.py does two things."""
    try:
        was = json.loads(disk.read_text(out / "args.json"))
        return was["script"], bool(was.get("predictions"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def refuse_parts_of_a_run(out: Path):
    """UserError if `out` lies in a checkpoint, or is an iteration's folder: another run's."""
    whole = out.resolve()
    for folder in (whole, *whole.parents):
        if re.fullmatch(r"checkpoint-\d+", folder.name) and (folder / SUMS).is_file():
            raise UserError(
                f"--output-dir {out} lies in a checkpoint ({folder}), which is removed when newer "
                "ones come; name a directory outside"
            )
    of_a_run = _what_ran(whole.parent) == ("selftrain.py", False)
    if of_a_run and re.fullmatch(r"iteration-\d+", whole.name):
        raise UserError(
            f"--output-dir {out} is a part of the run in {whole.parent}; name another directory"
        )


def check_checkpoint(path: Path, by_name: bool = True):
    """Compare a checkpoint with its SHA256SUMS. UserError, naming a good one, if it is damaged.

    by_name: whether the script takes a checkpoint's name to resume from.
    """
    fault = fault_of(path)
    if not fault:
        return
    others = [other for other in reversed(checkpoints(path.parent)) if other.name != path.name]
    good = next((other for other in others if not fault_of(other)), None)
    if not (path / SUMS).exists() and not good:
        # Not damage, perhaps: its weights are worth more than the steps.
        remedy = (
            "an earlier version saved it, or that file was deleted; it cannot be gone on with: "
            f"start another --output-dir with --model {path}"
        )
    elif good and by_name:
        remedy = f"{good.name} is whole: --resume-from-checkpoint {good}"
    elif good:
        remedy = f"delete it, and --resume-from-checkpoint goes on from {good.name}, which is whole"
    else:
        remedy = f"no other checkpoint is whole: delete {path}, and training starts over"
    raise UserError(f"{fault}; {remedy}")


def fault_of(directory: str | Path) -> str | None:
    """Say what is wrong with a folder that was saved with SHA256SUMS; None if nothing is."""
    directory = Path(directory)
    if not directory.is_dir():
        return f"{directory} is no folder"
    if not (directory / SUMS).exists():
        return f"{directory}/{SUMS} is missing"
    sums = sums_of(directory)
    if sums is None:
        return f"{directory}/{SUMS} is damaged"
    for name in sums:
        if not (directory / name).is_file():
            return f"{directory / name} is missing"
    stamp = _stamp(directory, sums)
    if stamp in _checked:
        return None
    for name, digest in sums.items():
        if sha256(directory / name) != digest:
            return f"{directory / name} is damaged (its SHA-256 is not the one in {SUMS})"
    _checked.add(stamp)
    return None


def sums_of(directory: str | Path) -> dict[str, str] | None:
    """Read SHA256SUMS: name -> digest; None if there is none, or none of ours, or it is damaged."""
    try:
        count, *lines = disk.read_text(Path(directory) / SUMS).splitlines()
    except (OSError, ValueError):
        return None
    named = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if count != _count(named) or None in named:
        return None
    return {line[2]: line[1] for line in named}


def check_model_files(directory: str | Path):
    """Compare a model that was saved here with its SHA256SUMS. UserError if it is damaged.

    A checkpoint from elsewhere has no such file, or another kind of it: nothing to compare with.
    """
    directory = Path(directory)
    if sums_of(directory) is None:
        return
    fault = fault_of(directory)
    if not fault:
        return
    run = directory.parent if re.fullmatch(r"checkpoint-\d+", directory.name) else directory
    good = next((p for p in reversed(checkpoints(run)) if p != directory and not fault_of(p)), None)
    if good:
        remedy = f"{good} is whole: name that, or go on with its run to write the model again"
    else:
        remedy = "save it again, or fetch it again"
    raise UserError(f"{fault}; {remedy} (if you changed it yourself, delete {SUMS})")


_checked = set()  # what this process has compared: gigabytes are read once


def _stamp(directory: Path, sums: dict[str, str]) -> tuple:
    """The named files of a folder as they are now, and what they should be."""
    found = [(directory / name).stat() for name in sums]
    times = [(status.st_mtime_ns, status.st_size) for status in found]
    return (directory.resolve(), *sums.items(), *times)


def sha256(file: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_sums(directory: Path):
    """Write SHA256SUMS of all files of a folder; args.json has a checksum of its own."""
    names = sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )
    files = [name for name in names if name not in (SUMS, "args.json")]
    lines = [f"{sha256(directory / name)}  {name}\n" for name in files]
    disk.write_whole(directory / SUMS, f"{_count(files)}\n{''.join(lines)}")


def _count(files: list) -> str:
    """The first line of SHA256SUMS, a comment to sha256sum: a line that is gone is noticed."""
    return f"# {len(files)} files"


def save_checkpoint(out, step: int, save_model, state: dict, log, keep: int, needed=None):
    """Write out/checkpoint-STEP: the model by save_model(directory), `state`, the log up to here.

    state: tensors and plain values, for state.pt. needed: bytes it will take, for the message.
    Older checkpoints beyond `keep` go afterwards, and so do later ones that were set aside.
    """
    out = Path(out)
    temporary, final = out / f".checkpoint-{step}.tmp", out / f"checkpoint-{step}"
    with disk.writing(final, needed):
        _fill(temporary, save_model, state | {"step": step}, log.lines)
        remove(final)
        os.replace(temporary, final)
        drop_later(out)
        for old in checkpoints(out)[:-keep]:
            remove(old)


def _fill(temporary: Path, save_model, state: dict | None, lines: list | None):
    """Make a folder of a model, with its sums; nothing is left of it if that fails."""
    _delete(temporary)
    temporary.mkdir(parents=True)
    try:
        save_model(temporary)
        if state is not None:
            # A file, not its name: torch's own writer raises errors without a number.
            with open(temporary / "state.pt", "wb", buffering=2**20) as file:
                torch.save(state, file)
            disk.write_lines(temporary / "metrics.jsonl", lines)
        write_sums(temporary)
    except BaseException:
        _delete(temporary)
        raise


def remove(checkpoint: Path):
    """Remove a checkpoint such that there is never half of one under its name."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.old.tmp")
    _delete(doomed)
    with contextlib.suppress(FileNotFoundError):
        os.replace(checkpoint, doomed)
    _delete(doomed)


def drop_later(out: Path):
    """Remove the checkpoints that `set_aside_later` has hidden."""
    for later in Path(out).glob(".checkpoint-*.later"):
        _delete(later)


def _delete(path: Path):
    """Delete a file or a folder, if it is there and can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def load_state(checkpoint: str | Path) -> dict:
    """Read state.pt of a checkpoint that `open_output_dir` has checked.

    UserError if it cannot be read, or is of another step than the folder's name says.
    """
    path = Path(checkpoint) / "state.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        step = state["step"]
    except Exception as error:  # torch raises a handful of unrelated types for a damaged file
        if out_of_memory(error):
            raise
        reason = type(error).__name__
        raise UserError(
            f"{path} cannot be read ({reason}); delete that folder and resume from the one before"
        ) from None
    if step != step_of(checkpoint):
        raise UserError(
            f"{checkpoint} holds step {step}: it was renamed; name it checkpoint-{step} again"
        )
    return state


def publish(out: str | Path, save_model, needed=None):
    """Write the finished model into the run's directory, so that `--model runs/grpo` loads it.

    Each file appears whole, SHA256SUMS first: until the last is there, the model does not pass.
    """
    out = Path(out)
    temporary = out / ".final.tmp"
    with disk.writing(f"the model in {out}", needed):
        _fill(temporary, save_model, None, None)
        before, now = sums_of(out) or {}, sums_of(temporary)
        for name in before.keys() - now.keys():  # an adapter would be taken before the weights
            _delete(out / name)
        for name in (SUMS, "args.json", *now):
            (out / name).parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # args.json: not every model has one
                os.replace(temporary / name, out / name)
        _delete(temporary)
        drop_later(out)


def to_write(args, model_bytes: int, state_bytes: int, steps: int) -> dict[str, int]:
    """What a training run writes at the most, for `disk.announce`: what -> bytes."""
    saves = 1 + (steps // args.save_steps if args.save_steps else 0)
    most = min(saves, args.save_total_limit + 1)  # one more while the newest is written
    looks = 3 + (steps // args.eval_steps if args.eval_steps else steps // 50)
    return {
        f"checkpoints (at most {most})": most * (model_bytes + state_bytes),
        "the model": model_bytes,
        "log and pictures": looks * 300_000 + steps * 1000 * (most + 1),
    }


def is_half_published(out: str | Path) -> bool:
    """Whether `publish` was stopped here: SHA256SUMS names files that have not come."""
    return any(not (Path(out) / name).is_file() for name in sums_of(out) or ())


# --- the log ---


def metrics_of(checkpoint: Path | None) -> list[dict]:
    """The metrics up to a checkpoint's step; [] of None."""
    return [] if checkpoint is None else records.read_lines(Path(checkpoint) / "metrics.jsonl")


def line_of(step: int, metrics: dict[str, float]) -> dict:
    """A line of metrics.jsonl: JSON has no infinity, and no nan."""
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return {"step": step} | finite


class MetricsLog:
    """metrics.jsonl, one line a step; one line on the screen; wandb or tensorboard if asked.

    `lines` is all of it. The file is never read back: a run that goes on writes it again, from the
    checkpoint, whose copy has a hash; lines of steps whose weights were lost are gone.
    """

    def __init__(self, out, lines=(), report_to="none", every=1):
        """lines: those of the run so far (`metrics_of`)."""
        self.path, self.every, self.send = Path(out) / "metrics.jsonl", every, None
        self.lines = list(lines)
        disk.write_lines(self.path, self.lines)
        try:
            if report_to == "wandb":
                import wandb

                name = "/".join(Path(out).parts[-2:])
                options = {"resume": "allow", "reinit": "create_new"}
                run = wandb.init(project="nanovlr", dir=str(out), name=name, **options)
                self.send = run.log
            elif report_to == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                after = self.lines[-1]["step"] + 1 if self.lines else None
                writer = SummaryWriter(str(out), purge_step=after)  # steps that were lost

                def send(metrics, step):
                    for name, value in metrics.items():
                        writer.add_scalar(name, value, step)

                self.send = send
        except ImportError:
            raise UserError(
                f"--report-to {report_to} needs it installed: pip install {report_to}"
            ) from None

    def log(self, step, metrics, show=(), last=False):
        """Write one line, and print `show` of it every `every` steps and at the last.

        metrics: name -> number. show: names.
        """
        self.lines.append(line_of(step, metrics))
        text = json.dumps(self.lines[-1]) + "\n"
        with disk.writing(self.path, len(text)), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)
        if self.send:
            self.send(metrics, step=step)
        shown = []
        for name in show:
            if name in metrics:
                short = name.split("/", 1)[-1] if name.startswith("eval/") else name
                shown.append(f"{f'{short} {metrics[name]:.4g}':<16}")
        if shown and (last or step % self.every == 0):
            say(f"step {step:>5}  {'  '.join(shown).rstrip()}")

    def at(self, step) -> dict:
        """A copy of the line of a step."""
        return dict(next(line for line in self.lines if line["step"] == step))


def say(text):
    """Print above a progress bar instead of through it."""
    from tqdm import tqdm

    tqdm.write(text)
    sys.stdout.flush()
