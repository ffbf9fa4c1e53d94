"""From what --model names to a directory, on this machine or fetched from the hub."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import families
from plumbing import checkpoint_files, disk, rundir, sums
from plumbing.errors import UserError
from plumbing.text import meant


def locate(
    name: str | Path, named_by: Path | None = None, weights: bool = True
) -> tuple[str, Path | None]:
    """Find what --model names: (base, adapter), as paths or hub names.

    base: a tiny preset, a full checkpoint, or what an adapter was trained on.
    named_by: the adapter whose base `name` is. weights=False: fetch and check no weights.
    UserError if there is no such thing.
    """
    if families.preset(name):
        return str(name), None
    path = Path(name)
    what = f"--model {name}"
    if named_by:
        what = f"{named_by}/adapter_config.json: the base model {name}"
    if not os.path.isdir(path):
        if looks_local(name):
            raise UserError(f"{what}: no such directory{instead_of(path)}")
        path = fetch(name, weights)
    if weights:
        rundir.check_model_files(path)  # first: it knows a better remedy than to fetch it again
    if (path / "adapter_config.json").is_file():
        if named_by:
            raise UserError(
                f"{named_by} is an adapter on {name}, itself an adapter; correct "
                "base_model_name_or_path in its adapter_config.json, or merge that first: "
                f"python model.py export --model {name} --output-dir merged"
            )
        base, _ = locate(base_of(path), named_by=path, weights=weights)
        return base, path
    if not (path / "config.json").is_file():
        rundir.check_model_files(path)  # if saved here, its sums name what is gone
        within = rundir.checkpoints(path) or checkpoints_in(path)
        raise UserError(
            f"{what} holds no config.json and no adapter_config.json: not a Hugging Face checkpoint"
            + (f"; did you mean {within[-1]}?" if within else f"; {WHAT_TO_NAME}")
        )
    checkpoint_files.read_config(path)
    return str(path), None


SHIPPED = "checkpoints"  # the folder of the trained tiny models in this repository
WHAT_TO_NAME = (
    f"name a checkpoint's directory, such as {SHIPPED}/count, a hub name (owner/model), or tiny"
)


def checkpoints_in(folder: Path) -> list[Path]:
    """List the checkpoints right below a folder, by name."""
    files = ("config.json", "adapter_config.json")
    below = sorted(folder.iterdir()) if folder.is_dir() and os.access(folder, os.R_OK) else []
    return [path for path in below if any((path / file).is_file() for file in files)]


def instead_of(path: Path) -> str:
    """Say what to name instead of a directory that is not there: the nearest checkpoint."""
    names = {
        str(each) for folder in (path.parent, SHIPPED) for each in checkpoints_in(Path(folder))
    }
    same = [name for name in sorted(names) if Path(name).name == path.name]
    if same:
        return f"; did you mean {same[0]}?"
    return meant(str(path), [*names, "tiny"]) or f"; {WHAT_TO_NAME}"


def looks_local(name: str | Path) -> bool:
    """Say whether a name is meant as a path: a hub name is owner/model."""
    name = str(name)
    return (
        os.path.exists(name)
        or len(name) > 200
        or name.startswith((".", "/", "~"))
        or name.count("/") != 1
        or name.split("/")[0] in ("runs", "checkpoints", "models")
    )


def base_of(adapter: Path) -> str:
    """Read which base an adapter was trained on; a relative path may start at the adapter.

    UserError if it can be no base, or is an absolute path that is not there.
    """
    base = checkpoint_files.read_adapter(adapter)["base_model_name_or_path"]
    if families.preset(base):  # names an untrained model, which lies in no directory
        raise UserError(
            f"{adapter}/adapter_config.json names the base model {base}; "
            "give there the directory of the model that the adapter was trained on"
        )
    if not os.path.isdir(base) and os.path.isdir(adapter / base):
        base = str(adapter / base)
    if Path(base).is_absolute() and not os.path.isdir(base):
        raise UserError(
            f"{adapter}/adapter_config.json names the base model {base[:200]}, "
            "which is not there; correct base_model_name_or_path"
        )
    return base


@functools.cache
def fetch(name: str, weights: bool = True, flag: str = "--model") -> Path:
    """Download the hub's newest snapshot of `name`, or all but its weights, once a run.

    flag: which named it, for the message.
    Returns its local directory. UserError if it cannot be had.
    """
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.jinja", "*.txt", sums.SUMS]
    if weights:
        wanted.append("*.safetensors")
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub client raises some twenty types: network, gating, spelling
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"{flag} {name} is no local directory and could not be fetched from the hub "
            f"({type(error).__name__}); check the name, or download it and give its directory"
        ) from None


def must_not_overwrite(
    output_dir: str | Path | None,
    model: str | Path,
    reward_funcs: Iterable[str] = (),
    training: bool = True,
) -> None:
    """Raise UserError if a run would write over a checkpoint that it reads.

    It reads --model, its base and checkpoints among --reward-funcs. Links are followed.
    training: the directory may not contain one either. One within the model's is fine.
    """
    if output_dir is None:
        return
    out = Path(os.path.realpath(output_dir))
    base, _ = locate(model)
    read = [("--model", model), ("the base of --model", base)]
    read += [("--reward-funcs", name) for name in reward_funcs]
    for what, name in read:
        path = Path(os.path.realpath(name))
        # Names of rewards, and tiny, are no directories with such a file.
        files = ("config.json", "adapter_config.json")
        if not any((path / file).is_file() for file in files):
            continue
        if path == out or (training and path.is_relative_to(out)):  # training removes checkpoints
            verb = "is" if path == out else "contains"
            raise UserError(
                f"--output-dir {output_dir} {verb} {what} {name}, which the run would write over; "
                "name another directory"
            )
