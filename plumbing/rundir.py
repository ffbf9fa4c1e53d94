"""The output directory of a run: whole checkpoints, and the model at its end.

    with lock.claim(args):                         # running.run does it, around every main
        resume = rundir.open_output_dir(args)      # the checkpoint to go on from, or None
        rundir.set_aside_later(out, resume)        # those after it; this line and the next ones
        rundir.save_checkpoint(out, step, save_model, state, log, keep)    # are plumbing/run.py's
        rundir.publish(out, save_model)

A checkpoint is a folder checkpoint-STEP with the model, state.pt, args.json, metrics.jsonl up to
its step, and SHA256SUMS of these (`sha256sum -c SHA256SUMS` checks it by hand). It is written
beside and renamed when whole, and renamed before it is removed: under that name it is complete.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from plumbing import disk, ranks, records
from plumbing.arguments import same_flags
from plumbing.errors import UserError
from plumbing.log import MetricsLog
from plumbing.sums import SUMS, fault_of, sums_of, write_sums


def checkpoints(out: str | Path) -> list[Path]:
    """List the checkpoints in a run's directory, oldest first."""
    found = [p for p in Path(out).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=step_of)


@ranks.first
def newest(out: str | Path) -> Path | None:
    """Find the newest checkpoint in a run's directory."""
    return next(reversed(checkpoints(out)), None)


def step_of(checkpoint: str | Path) -> int:
    """Read the step in a checkpoint's name."""
    return int(Path(checkpoint).name.split("-")[1])


def open_output_dir(args: argparse.Namespace) -> Path | None:
    """Find the checkpoint in --output-dir to go on from; None to start at step 0.

    UserError if there are checkpoints of an earlier run and --resume-from-checkpoint was not given,
    if the named one is not there, is damaged, or is another run's.
    """
    out, wanted = Path(args.output_dir), args.resume_from_checkpoint
    disk.make_writable(out)
    put_back(out)
    found = checkpoints(out)
    if not found:
        refuse_anothers(out, args)
    if wanted is None:
        if found:
            refuse_another_script(out, args)
            raise UserError(
                f"{out} already holds {found[-1].name} of an earlier run; add "
                f"--resume-from-checkpoint to go on from it, or {disk.another(out)}"
            )
        return None
    if wanted == "newest":
        if not found:
            print(f"no checkpoint in {out} yet: starting from the beginning")
            return None
        path = found[-1]
        print(f"resuming from {path}")
    else:
        hidden = out / f".{Path(wanted).name}.later"
        if (
            hidden.is_dir() and not (out / Path(wanted).name).exists()
        ):  # set aside, and wanted again
            os.replace(hidden, out / Path(wanted).name)
            found = checkpoints(out)
        path = next((p for p in found if _real(wanted) in (_real(p), _real(p.name))), None)
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


def open_together(args: argparse.Namespace) -> tuple[Path | None, dict]:
    """Find the checkpoint to go on from, and the flags of this process: (checkpoint, flags).

    Of several processes the first decides both. UserError as `open_output_dir`.
    """
    resume, decided = ranks.from_first(lambda: (open_output_dir(args), vars(args)))
    return resume, decided | ranks.own_flags()


def put_back(out: Path) -> None:
    """Give a checkpoint its name again, if `save_checkpoint` was killed while replacing it.

    What it has replaced is deleted, if the new one is whole.
    """
    for hidden in [*out.glob(".checkpoint-*.before"), *out.glob(".checkpoint-*.later")]:
        final = out / hidden.stem[1:]
        if final.exists() and not fault_of(final):
            delete(hidden)
        elif hidden.suffix == ".before":
            delete(final)
            os.replace(hidden, final)


def _real(path: str | Path) -> str:
    """Resolve the links of a path."""
    return os.path.realpath(path)  # Path.resolve raises where links lead in a circle


def set_aside_later(out: str | Path, resume: Path | None) -> None:
    """Hide the checkpoints after the one to go on from; the next save removes them.

    "newest" must not mean one of them, whatever stops this run. Called before the first step, when
    nothing of the command can be wrong any more.
    """
    if resume is None:
        return
    for later in reversed([p for p in checkpoints(out) if step_of(p) > step_of(resume)]):
        hidden = later.with_name(f".{later.name}.later")
        print(f"{later.name} is set aside as {hidden.name}, and removed with the next save")
        delete(hidden)
        os.replace(later, hidden)


def refuse_anothers(out: str | Path, args: argparse.Namespace) -> None:
    """Refuse a directory with a saved model or another script's run. UserError."""
    out = Path(out)
    if (out / SUMS).is_file():
        raise UserError(f"--output-dir {out} holds a saved model; {disk.another(out)}")
    refuse_another_script(out, args)


def refuse_another_script(out: Path, args: argparse.Namespace) -> None:
    """Refuse a directory with another script's run. UserError."""
    was = what_ran(out)
    script, saved = getattr(args, "script", None), bool(getattr(args, "predictions", None))
    if was and was != (script or was[0], saved):
        what = f"{was[0]} --predictions" if was[1] else was[0]
        raise UserError(f"--output-dir {out} holds a run of {what}; {disk.another(out)}")


def what_ran(out: Path) -> tuple[str, bool] | None:
    """Read the script of a run, and whether it scored --predictions."""
    try:
        was = json.loads(disk.read_text(out / "args.json"))
        return was["script"], bool(was.get("predictions"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def newest_whole(run: Path, but: str) -> Path | None:
    """Find the newest checkpoint that passes its sums, other than the one named `but`."""
    others = (path for path in reversed(checkpoints(run)) if path.name != but)
    return next((path for path in others if not fault_of(path)), None)


def check_checkpoint(path: Path, by_name: bool = True) -> None:
    """Compare a checkpoint with its SHA256SUMS. UserError, naming a good one, if it is damaged.

    by_name: whether the script takes a checkpoint's name to resume from.
    """
    fault = fault_of(path)
    if not fault:
        return
    good = newest_whole(path.parent, path.name)
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
    elif by_name and (path.parent / SUMS).is_file():  # nothing starts over beside a saved model
        remedy = "no other checkpoint is whole: train again in another --output-dir"
        if not fault_of(path.parent):
            remedy += f" (the model in {path.parent} is whole)"
    else:
        remedy = f"no other checkpoint is whole: delete {path}, and training starts over"
    raise UserError(f"{fault}; {remedy}")


def check_model_files(directory: str | Path) -> None:
    """Compare a model that was saved here with its SHA256SUMS. UserError if it is damaged.

    A checkpoint from elsewhere has no such file, or another kind of it: nothing to compare with.
    """
    directory = Path(directory)
    ours = records.read_record(directory / "args.json") is not None  # it passes its own checksum
    if not (directory / SUMS).exists() or not ours and sums_of(directory) is None:
        return
    fault = fault_of(directory)
    if not fault:
        return
    run = directory.parent if re.fullmatch(r"checkpoint-\d+", directory.name) else directory
    good = newest_whole(run, directory.name)
    if good:
        remedy = f"{good} is whole: name that, or go on with its run to write the model again"
    else:
        remedy = "save it again, or fetch it again"
    raise UserError(f"{fault}; {remedy} (if you changed it yourself, delete {SUMS})")


def save_checkpoint(
    out: str | Path,
    step: int,
    save_model: Callable[[Path], object],
    state: dict,
    log: MetricsLog,
    keep: int,
    needed: int | None = None,
    leaving: bool = False,
) -> None:
    """Write out/checkpoint-STEP: the model by save_model(directory), `state`, the log up to here.

    state: tensors and plain values, for state.pt. needed: bytes it will take, for the message.
    Removes older checkpoints beyond `keep`, and later ones that were set aside unless the run is
    `leaving`: it may have gone back by mistake.
    """
    out = Path(out)
    temporary, final = out / f".checkpoint-{step}.tmp", out / f"checkpoint-{step}"
    with disk.writing(final, needed):
        _fill(temporary, save_model, state | {"step": step}, log.lines)
        before = out / f".{final.name}.before"
        if final.exists():  # of the same step, whose evaluation was still to be done
            delete(before)
            os.replace(final, before)
        os.replace(temporary, final)
        delete(before)
        delete(out / f".{final.name}.later")  # this one has its name: nobody can go back to that
        if not leaving:
            drop_later(out)
        remove_older(out, keep)


def remove_older(out: str | Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep`; a run that was killed may have left one more."""
    for old in checkpoints(out)[:-keep]:
        remove(old)


def _fill(
    temporary: Path,
    save_model: Callable[[Path], object],
    state: dict | None = None,
    lines: list | None = None,
) -> None:
    """Make a folder of a model and its sums; leave nothing if that fails."""
    import torch  # here: it takes a second, which rescoring saved outputs needs not wait for

    delete(temporary)
    temporary.mkdir()  # its parent is there, or was moved away under the run
    try:
        save_model(temporary)
        readable(temporary)
        if state is not None:
            # A file, not its name: torch's own writer raises errors without a number.
            with open(temporary / "state.pt", "wb", buffering=2**20) as file:
                torch.save(state, file)
            disk.write_lines(temporary / "metrics.jsonl", lines)
        write_sums(temporary)
    except BaseException:
        delete(temporary)
        raise


def readable(folder: Path) -> None:
    """Give weights the permissions of other new files: safetensors lets only the user read."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o666 & ~mask)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint such that there is never half of one under its name."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.old.tmp")
    delete(doomed)
    with contextlib.suppress(FileNotFoundError):
        os.replace(checkpoint, doomed)
    delete(doomed)


def drop_later(out: Path) -> None:
    """Remove the checkpoints that `set_aside_later` has hidden."""
    for later in Path(out).glob(".checkpoint-*.later"):
        delete(later)


def delete(path: Path) -> None:
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
    import torch

    path = Path(checkpoint) / "state.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        step = state["step"]
    except Exception as error:  # torch raises a handful of unrelated types for a damaged file
        if disk.is_the_machines(error):
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


def publish(
    out: str | Path, save_model: Callable[[Path], object], needed: int | None = None
) -> None:
    """Write the finished model into the run's directory, so that `--model runs/grpo` loads it.

    Each file appears whole, SHA256SUMS first: without the last file the model is refused.
    """
    out = Path(out)
    temporary = out / ".final.tmp"
    with disk.writing(f"the model in {out}", needed):
        _fill(temporary, save_model)
        before, now = sums_of(out) or {}, sums_of(temporary) or {}
        for name in before.keys() - now.keys():  # an adapter would be taken before the weights
            (out / name).unlink(missing_ok=True)
        for name in (SUMS, "args.json", *now):
            (out / name).parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # args.json: not every model has one
                os.replace(temporary / name, out / name)
        delete(temporary)


def to_write(
    args: argparse.Namespace, model_bytes: int, state_bytes: int, steps: int
) -> dict[str, int]:
    """Estimate what a training run writes at most, for `disk.announce`: what -> bytes."""
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


def must_be_new(out: str | Path) -> None:
    """Make a directory for a model that is written once. UserError if something is in it."""
    visible = [file for file in Path(out).glob("*") if not file.name.startswith(".")]
    if visible and not is_half_published(out):
        raise UserError(f"--output-dir {out} is not empty; name a new directory")
    disk.make_writable(out)
