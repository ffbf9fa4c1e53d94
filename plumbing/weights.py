"""Read what weights a checkpoint has, from the headers of its files: names, shapes, kinds."""

import os
import pickle
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
