"""Read what weights a checkpoint has, from the headers of its files: names, shapes, kinds.

And, for models that are larger than the memory: read one weight, write many in files of some size.
"""

import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from plumbing import disk
from plumbing.errors import UserError
from plumbing.fields import check, first_line, read_object, settings, shown


def read_weights(directory: Path) -> dict:
    """{name: Stored} of a checkpoint's weights, without reading them."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    pickled = directory / "pytorch_model.bin"
    if single.is_file():
        return read_header(single)
    if index.is_file():
        return read_shards(index)
    if pickled.is_file():
        return read_pickle(pickled)
    if (directory / "pytorch_model.bin.index.json").is_file():
        return read_shards(directory / "pytorch_model.bin.index.json")
    raise UserError(f"{directory} holds no weights (model.safetensors); fetch the checkpoint again")


def read_shards(index: Path) -> dict:
    """{name: Stored} of the weights that an index names, from the files beside it."""
    found = read_object(index)
    check(index, found, {"weight_map": settings, "metadata": settings})
    where = found.get("weight_map") or {}
    shapes = {}
    for file in sorted({f if isinstance(f, str) else shown(f) for f in where.values()}):
        path = index.parent / file
        if "\0" in file or Path(file).name != file or not os.path.isfile(path):
            raise UserError(
                f"{index} names the file {file[:100]!r}, which is not beside it; "
                "fetch the checkpoint again"
            )
        shapes |= read_pickle(path) if file.endswith(".bin") else read_header(path)
    lacking = sorted(set(where) - set(shapes))
    if lacking or not where:
        raise UserError(
            f"{index} names {lacking[0][:100] if lacking else 'nothing'}, which is in none of its "
            "files; fetch the checkpoint again"
        )
    return shapes


class Stored(NamedTuple):
    """What a file's header says of a weight."""

    shape: tuple
    is_float: bool


def is_float(part) -> bool:
    """Whether a slice of a safetensors file holds numbers of 16 bits or more with a fraction."""
    return part.get_dtype() in ("F64", "F32", "F16", "BF16")


def read_header(file: Path) -> dict:
    """{name: Stored} of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            parts = {key: opened.get_slice(key) for key in opened.keys()}
            return {key: Stored(tuple(p.get_shape()), is_float(p)) for key, p in parts.items()}
    except (SafetensorError, OSError, ValueError) as error:
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"{file} is no whole safetensors file ({first_line(error, 100)}); fetch it again"
        ) from None


def read_pickle(file: Path) -> dict:
    """{name: Stored} of a file of torch.save. No code in it runs, and no weights are read."""
    try:
        found = torch.load(file, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError):
        found = None
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise UserError(
            f"{file} is a pickle and holds more than weights, or is damaged; nothing of it was "
            "run: fetch the checkpoint as safetensors, or convert it"
        )
    return {key: Stored(tuple(v.shape), v.is_floating_point()) for key, v in found.items()}


# --- one weight at a time ---

SHARD_BYTES = 2_000_000_000  # of a file, and the most that is held in memory


def read_weight(directory: Path, name: str) -> torch.Tensor:
    """Read one of the weights that read_weights has listed. UserError for pickles of long ago."""
    from safetensors import safe_open

    file = file_of(directory, name)
    if file.suffix == ".bin":
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)[name]
        except RuntimeError as error:
            if disk.is_the_machines(error):
                raise
            raise UserError(
                f"{file} cannot be read a weight at a time; convert it to safetensors"
            ) from None
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(name)


def file_of(directory: Path, name: str) -> Path:
    """Find the file that a weight is in, in the order in which read_weights looks."""
    for kind in ("model.safetensors", "pytorch_model.bin"):
        index = directory / f"{kind}.index.json"
        if (directory / kind).is_file():
            return directory / kind
        if index.is_file():
            return directory / read_object(index)["weight_map"][name]
    raise FileNotFoundError(directory / "model.safetensors")


def write_weights(
    directory: Path, named: Iterable[tuple[str, torch.Tensor]], most: int = SHARD_BYTES
) -> None:
    """Write safetensors files of about `most` bytes, and their index; one file where that is all.

    named: (name, tensor) of each weight; it is asked for the next one when there is room.
    """
    from safetensors.torch import save_file

    parts, place, total, held = [], {}, 0, {}

    def close() -> None:
        part = directory / f"part{len(parts)}.safetensors"
        save_file(held, part, metadata={"format": "pt"})
        place.update(dict.fromkeys(held, len(parts)))
        parts.append(part)
        held.clear()

    for name, value in named:
        if held and sum(v.nbytes for v in held.values()) + value.nbytes > most:
            close()
        held[name] = value.contiguous()
        total += value.nbytes
    close()
    if len(parts) == 1:
        parts[0].rename(directory / "model.safetensors")
        return
    names = [f"model-{n:05d}-of-{len(parts):05d}.safetensors" for n in range(1, len(parts) + 1)]
    for part, name in zip(parts, names):
        part.rename(directory / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[number] for name, number in sorted(place.items())},
    }
    disk.write_json(directory / "model.safetensors.index.json", index)
