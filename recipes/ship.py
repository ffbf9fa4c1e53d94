"""Copy the model of a finished training run into the folder that this repository ships.

    python recipes/ship.py runs/checkpoints/count checkpoints/count

The folder gets the model, args.json, metrics.jsonl, result.json and SHA256SUMS of these; what it
held before is removed. args.json loses `cwd`, which names a folder of this machine.
"""

import argparse
import shutil
import sys
from pathlib import Path, PurePath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plumbing import flags, records, rundir, running, sums
from plumbing.errors import UserError

ABOUT = ("metrics.jsonl", "result.json")  # beside the model: how it was trained, what it scores


def shipped_args(run: Path) -> dict:
    """Read args.json of a run without `cwd`. UserError if it names an absolute path."""
    args = records.read_record(run / "args.json")
    if args is None:
        raise UserError(f"{run}/args.json is damaged or missing; train again")
    args.pop("cwd")
    words = [str(value) for value in args.values()] + args["argv"]
    for word in words:
        if PurePath(word).is_absolute():
            raise UserError(
                f"{run}/args.json names {word}, a path of this machine; train from the "
                "repository's folder with relative paths"
            )
    return args


def ship(run: Path, folder: Path) -> None:
    """Copy the finished run's model and its record into `folder`. UserError if one is missing."""
    fault = sums.fault_of(run)
    if not fault and not (run / "result.json").is_file():
        fault = f"{run}/result.json is missing"
    if fault:
        raise UserError(f"{fault}; let the run finish: repeat its command")
    args = shipped_args(run)
    new = folder.with_name(f".{folder.name}.tmp")
    rundir.delete(new)
    new.mkdir(parents=True)
    for name in (*sums.sums_of(run), *ABOUT):
        shutil.copyfile(run / name, new / name)
    records.write_record(new / "args.json", args)
    sums.write_sums(new)
    rundir.delete(folder)
    new.rename(folder)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "recipes/ship.py")
    p.add_argument("run", type=Path, help="the output directory of a finished train_sft.py")
    p.add_argument("folder", type=Path, help="the folder to write, such as checkpoints/count")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    ship(args.run, args.folder)
    size = sum(file.stat().st_size for file in args.folder.iterdir())
    print(f"{args.folder}: {size / 1e6:.2f} MB, from {args.run}")


if __name__ == "__main__":
    running.run(main, parse_args)
