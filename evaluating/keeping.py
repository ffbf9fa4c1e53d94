"""Whether a directory's answers are this evaluation's, so that it can go on with them."""

from argparse import Namespace
from pathlib import Path

from plumbing import disk, sums
from plumbing.arguments import read_args
from plumbing.errors import UserError
from plumbing.records import checksum, good_lines

# Flags that answers depend on: kept answers are gone on with only where these are the same.
DECIDING = (
    "model model_files data level num_samples self_select temperature top_p top_k seed "
    "prompt_template system_prompt max_completion_length protocol box_format max_pixels "
    "min_pixels quant dtype templates blind swap shuffle_choices choices_by shots consistency"
).split()


def check_no_training_run(out: Path) -> None:
    """UserError if a directory holds a training run: its result and curve would be overwritten."""
    if (out / "metrics.jsonl").is_file():
        raise UserError(
            f"--output-dir {out} holds a training run, whose result.json would be overwritten; "
            f"{disk.another(out)}"
        )


def model_files(name: str) -> str | None:
    """Tell the model in a directory from a later one there, by a checksum."""
    saved = Path(name) / sums.SUMS
    return checksum({"sums": saved.read_text(encoding="utf-8")}) if saved.is_file() else None


def flags_of_kept(path: Path, goes_on: bool) -> dict:
    """Read the flags of the evaluation whose answers a file holds; {} if there is none.

    goes_on: this evaluation is to go on with it. UserError for one that would be overwritten.
    """
    if path.exists() and not goes_on:
        raise UserError(
            f"{path} holds the answers of an evaluation; add --resume-from-checkpoint to go on "
            "with it, name another --output-dir, or delete the file to start over"
        )
    if path.exists():
        return read_args(path.parent, ours=True)
    if goes_on:
        print(f"no answers in {path.parent} yet: starting from the beginning")
    return {}


def check_kept(path: Path, label: str, before: dict, args: Namespace, ids: list[str]) -> None:
    """Check that the answers in a file are this evaluation's. UserError if they are not.

    before: args.json of the evaluation that made them. args: this one's.
    """
    answered, lines = good_lines(path, label)
    other = before and any(before.get(name) != getattr(args, name) for name in DECIDING)
    unknown = not before and not answered
    same_ids = [row["id"] for row in answered] == ids[: len(answered)]
    if lines and (other or unknown or not same_ids):
        raise UserError(
            f"{path} holds answers of another evaluation, or to questions with other ids; "
            "name another --output-dir, or delete the file to start over"
        )
