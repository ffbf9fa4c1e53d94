"""The output directory of a run in iterations: selftrain.py and train_dpo.py.

    iteration-T/pool.jsonl          what was sampled (sampler.py)
                hinted.jsonl        answers to hinted questions (--rationalization)
                continuations.jsonl rejected responses continued without the picture (DropoutNTP)
                built.json          the metrics of sampling and building
                train.jsonl         what is learned
                reference.jsonl     the reference's log-probs of its pairs (update.py)
                checkpoint-STEP/    training that has not ended (update.train)
                trained.json        steps and rows; the model here is the result
                eval_N_*.jsonl      the answers of an evaluation (evaluating/heldout.py)
                result.json         all metrics: the iteration is finished
    .run                            whose args.json this is

A killed run goes on in the first iteration without result.json. Samples, log-probs, checkpoints
and answers are taken up where they end; built rows are made again. Of several processes the first
says what is there (plumbing/ranks.py).
"""

import argparse
import gc
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from plumbing import disk, lock, ranks, records, rundir, sums
from plumbing.arguments import run_id, same_flags, write_args
from plumbing.errors import UserError
from plumbing.log import line_of

MARK = ".run"  # holds the id of the run in a directory, as args.json does


def open_output_dir(args) -> dict:
    """Make or reopen --output-dir: the flags of the run there, and of this process.

    Raises UserError for an earlier run without --resume-from-checkpoint, and for another script's.
    """
    return flags_there(args) | ranks.own_flags()


@ranks.first
def flags_there(args) -> dict:
    """Make or reopen --output-dir: the flags, completed by those of the run there. UserError."""
    out = Path(args.output_dir)
    disk.make_writable(out)
    if (out / "args.json").exists() or any(out.glob("iteration-*")):
        if args.resume_from_checkpoint is None:
            raise UserError(
                f"{out} already holds an earlier run; add --resume-from-checkpoint to go on with "
                f"it, or {disk.another(out)}"
            )
        same_flags(args, out)
        refuse_anothers_flags(out, args.run)
    else:
        rundir.refuse_anothers(out, args)
    run_id(args)  # now: flags that are decided later would change it
    return vars(args)


def write_flags(out: Path, args: argparse.Namespace) -> None:
    """Write args.json of the run, and whose it is."""
    disk.write_whole(out / MARK, run_id(args) + "\n")
    write_args(out, args)


def refuse_anothers_flags(out: Path, run: str | None) -> None:
    """Raise UserError if args.json, whose run this is, is not the one that was written here.

    It would complete the command by flags of another run, and all answers would be made anew.
    """
    mark = out / MARK
    if run and mark.is_file():
        found = disk.read_text(mark, errors="replace").strip()
        if re.fullmatch("[0-9a-f]{8}", found) and found != run:
            raise UserError(
                f"{out}/args.json is another run's; delete it, and give the flags that the run was "
                "started with"
            )


def open_folder(out: Path, t: int) -> tuple[Path, bool]:
    """Make the folder of iteration t, without what a killed run has left half-written.

    Returns it, and whether its training has ended.
    """
    folder = out / f"iteration-{t}"
    folder.mkdir(exist_ok=True)
    lock.clean(folder)
    has_ended = ranks.from_first(lambda: is_trained(folder))
    if has_ended:
        for checkpoint in rundir.checkpoints(folder):  # killed before they were removed
            rundir.remove(checkpoint)
    return folder, has_ended


def is_trained(folder: Path) -> bool:
    """Tell whether an iteration's training has ended, and its model is in the folder."""
    return (folder / "trained.json").is_file()


@ranks.first
def weights_of(out: Path, t: int) -> Path | None:
    """Find the newest model up to iteration t; None is the given model."""
    folders = [out / f"iteration-{i}" for i in range(t, -1, -1)]
    return next((folder for folder in folders if is_trained(folder)), None)


def remade(out: Path, t: int) -> str:
    """Say what to do about a damaged file that only the run itself can make."""
    return (
        f"delete iteration-{t} and what follows it in {out}, and go on with "
        "--resume-from-checkpoint: they are made again as they were"
    )


def check_weights(directory: Path) -> None:
    """Raise UserError if a model of this run is not as it was saved."""
    if directory.name.startswith("checkpoint-"):
        rundir.check_checkpoint(directory, by_name=False)
        return
    fault = sums.fault_of(directory)
    if fault:
        raise UserError(f"{fault}; {remade(directory.parent, directory.name.split('-')[1])}")


@ranks.first
def finished_lines(out: Path, last: int, label: Callable[..., str]) -> list[dict]:
    """Return the log's lines of the finished iterations, up to the first that is not."""
    lines = []
    for t in range(last + 1):
        path = out / f"iteration-{t}" / "result.json"
        result = records.read_record(path, label(path))
        if result is None:
            if path.exists():
                print(
                    f"{path} is damaged: iteration {t} is evaluated again, from the answers that "
                    "are there"
                )
            return lines
        if (path.parent / "train.jsonl").exists() and not is_trained(path.parent):
            raise UserError(f"{path.parent}/trained.json is missing; {remade(out, t)}")
        lines.append(line_of(t, {name: float(value) for name, value in result.items()}))
    return lines


@ranks.first
def read_built(folder: Path, label: Callable[..., str]) -> dict:
    """Read the metrics of sampling and building. UserError if they are damaged."""
    path = folder / "built.json"
    built = records.read_record(path, label(path))
    if built is None:
        raise UserError(f"{path} is damaged; {remade(folder.parent, folder.name.split('-')[1])}")
    return built


def write_built(folder: Path, metrics: dict, label: Callable[..., str]) -> None:
    """Write the metrics of sampling and building."""
    records.write_record(folder / "built.json", metrics, label(folder / "built.json"))


def write_result(folder: Path, metrics: dict, label: Callable[..., str]) -> None:
    """Write all metrics of an iteration: it is finished."""
    records.write_record(folder / "result.json", metrics, label(folder / "result.json"))


def write_pairs(folder: Path, pairs: list) -> None:
    """Write the pairs that an iteration learns from, for people."""
    lines = []
    for pair in pairs:
        example = pair.example
        paths = [str(image) for image in example.images if isinstance(image, (str, Path))]
        line = {"id": example.id, "image": paths} | example.asked()
        line |= {"chosen": pair.chosen, "rejected": pair.rejected}
        if pair.kind:
            line["kind"] = pair.kind
        lines.append(line)
    disk.write_lines(folder / "train.jsonl", lines)


def publish(out: Path, source: Path | None, lines: list[dict]) -> None:
    """End a run: the model of its last iteration, and all metrics, in `out`."""
    if source:
        names = list(sums.sums_of(source))
        size = sum((source / name).stat().st_size for name in names)
        rundir.publish(out, lambda directory: copy_files(source, names, directory), size)
    disk.write_json(out / "result.json", {f"iteration-{line['step']}": line for line in lines})
    curve = f"; the curve is {out}/curve.png" if (out / "curve.png").is_file() else ""
    print(
        f"the model is in {out}; {out}/iteration-* have the model of each iteration, what it "
        f"learned from and what it answered{curve}"
    )


def copy_files(source: Path, names: list[str], directory: Path) -> None:
    """Copy files of these names, which may have folders in them."""
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, directory / name)


def to_write(
    model_bytes: int, trained: int, keep: int, iterations: int, answers: int
) -> dict[str, int]:
    """Estimate what a run writes at the most, for disk.announce: what -> bytes.

    trained: parameters that train. keep: --save-total-limit. answers: bytes of all samples.
    """
    state = 8 * trained
    return {
        f"checkpoints (at most {keep + 1})": (keep + 1) * (model_bytes + state),
        f"models (at most {iterations + 2})": (iterations + 2) * model_bytes,
        "samples and what is built of them": 3 * answers,
        "log and pictures": (iterations + 1) * 500_000,
    }


class Models:
    """The one policy in memory, which takes the weights of one iteration after another.

    load(resume=directory) -> (policy, processor); None is the given model.
    """

    def __init__(self, load: Callable) -> None:
        self.load = load
        self.policy = self.processor = self.directory = None

    def use(self, directory: Path | None) -> None:
        """Make `policy` the model in this directory, unless it is."""
        if self.policy is not None and self.directory == directory:
            return
        self.policy = None  # first: two at a time would take twice the memory
        gc.collect()
        if directory:
            check_weights(directory)
        self.policy, self.processor = self.load(resume=directory)
        self.directory = directory

    def use_newest(self, folder: Path, start: Path | None) -> None:
        """Use the newest checkpoint of a training in `folder`; there is none yet: `start`."""
        self.use(rundir.newest(folder) or start)

    @property
    def trained(self) -> list:
        """The parameters that train."""
        return [q for q in self.policy.parameters() if q.requires_grad]
