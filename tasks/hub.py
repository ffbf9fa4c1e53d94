"""Sets of the Hugging Face hub by their names, through the optional package `datasets`."""

import os
import re
from pathlib import Path

from plumbing.errors import UserError
from plumbing.text import short
from tasks.files import READERS, no_such

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:/\w[\w.-]*)?")


def is_name(spec: str) -> bool:
    """Tell whether this may be "owner/name" or "owner/name/config".

    A path that exists is none, nor is one whose folder exists: that is misspelt.
    """
    has_suffix = os.path.splitext(spec)[1] in READERS
    is_path = os.path.exists(spec) or os.path.isdir(spec.partition("/")[0])
    return bool(NAME.fullmatch(spec)) and not has_suffix and not is_path


def splits_of(name: str) -> dict[str, list[Path]]:
    """Fetch a set, unless it has been fetched: {split: its Arrow files}.

    They are in the cache of `datasets`, where pictures stay encoded until they are looked at.
    UserError for no such set, one that is closed, no network and an unknown config.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"--data {name}: {no_such(name)}; to read a set of that name from the "
            "Hugging Face hub, pip install datasets"
        ) from None
    owner, title, *rest = name.split("/")
    path, config = f"{owner}/{title}", (rest or [None])[0]
    try:
        configs = datasets.get_dataset_config_names(path)
        must_be_among(config, configs, path)
        found = datasets.load_dataset(path, config)
    except UserError:
        raise
    except Exception as error:  # of datasets, of huggingface_hub, of its HTTP client
        raise not_fetched(error, name) from None
    return {str(split): arrow_files(part, name) for split, part in found.items()}


def must_be_among(config: str | None, configs: list[str], path: str) -> None:
    """Refuse an unknown config, and none where there are several."""
    if config in configs or config is None and (len(configs) < 2 or "default" in configs):
        return
    wrong = "is not among them" if config else "says none"
    raise UserError(
        f"{path} has the configs {short(', '.join(configs), 200)}, and --data {wrong}; "
        f"say {path}/{configs[0] if configs else 'CONFIG'}"
    )


def not_fetched(error: Exception, name: str) -> UserError:
    """Make one sentence of what may be wrong with a name, a network or a set."""
    said = f"{type(error).__name__}: {short(error, 160)}"
    kind = " ".join(each.__name__ for each in type(error).__mro__)
    if "gated" in str(error).lower() or "Gated" in kind:
        remedy = "its owners ask for an agreement: accept it on the hub, and run `hf auth login`"
    elif "NotFound" in kind:
        return UserError(
            f"--data {name}: {no_such(name)}, nor an open set of the hub ({said}); check the name"
        )
    elif "Connect" in kind or "Timeout" in kind or "Offline" in kind:
        return UserError(
            f"--data {name}: {no_such(name)}, and the hub is out of reach ({said}); "
            "check path and network"
        )
    else:
        remedy = "fetch its files, and name their folder"
    return UserError(f"--data {name} cannot be fetched ({said}); {remedy}")


def arrow_files(part: object, name: str) -> list[Path]:
    """List the files in which a split lies, in order."""
    files = [Path(cached["filename"]) for cached in part.cache_files]
    if not files:
        raise UserError(
            f"--data {name}: `datasets` holds it in memory; unset HF_DATASETS_IN_MEMORY_MAX_SIZE"
        )
    return files
