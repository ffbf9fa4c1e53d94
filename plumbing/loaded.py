"""Whether a model was loaded as its checkpoint and the flags say."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from plumbing import checkpoint_files, disk, fields
from plumbing.device import dtype_name
from plumbing.errors import UserError
from plumbing.weights import read_weights

NF4_BITS = 4.127  # of a weight, with double quantisation (QLoRA, arXiv:2305.14314, section 3)
IN_4_BITS = "model.language_model.layers."  # where nf4 layers may lie


@contextlib.contextmanager
def refusing(what: str, remedy: str) -> Iterator[None]:
    """Turn what another library raises while it loads a checkpoint into a UserError, in quiet.

    "`what` (its own words); `remedy`". Where memory runs out, no checkpoint is at fault.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the loaders and their file formats raise some twenty types
        if disk.is_the_machines(error):
            raise
        raise UserError(f"{what} ({fields.first_line(error)}); {remedy}") from None


def check_report(directory: str | Path, model, report: dict) -> None:
    """Raise UserError if transformers' loading report names missing or mismatched weights."""
    mismatched = [str(entry[0]) for entry in report.get("mismatched_keys", [])]
    lacking = sorted(report["missing_keys"]) + mismatched
    if model.config.tie_word_embeddings:
        lacking = [key for key in lacking if key != "lm_head.weight"]
    if lacking:
        raise UserError(
            f"{directory}: {len(lacking)} weights are missing or of the wrong shape "
            f"({', '.join(lacking[:3])}, ...); the checkpoint is incomplete, fetch it again"
        )


def check_unquantised(directory: str | Path, model) -> None:
    """Raise UserError if the checkpoint has tower or head in few bits."""
    for name, module in model.named_modules():
        in_few_bits = type(module).__name__ in ("Linear4bit", "Linear8bitLt")
        if in_few_bits and not name.startswith(IN_4_BITS):
            raise UserError(
                f"{directory}: quantization_config in its config.json puts layers outside the "
                f"language model in few bits ({name}); "
                "fetch the checkpoint that is not quantised, and add --quant nf4"
            )


def check_quantised(model) -> None:
    """Raise UserError unless just the language model's linear layers are in 4 bits."""
    from bitsandbytes.nn import Linear4bit

    inside, expected = [], []
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            inside.append(name)
        if isinstance(module, torch.nn.Linear) and name.startswith(IN_4_BITS):
            expected.append(name)
    wrong = [n for n in inside if not n.startswith(IN_4_BITS)]
    if inside != expected or not inside:
        raise UserError(
            f"bitsandbytes put {len(inside)} layers in 4 bits, {len(wrong)} of them outside the "
            f"language model ({wrong[:2]}), and not its {len(expected)}; "
            "use the versions of requirements.txt"
        )


def say_what_stays(directory: str | Path, dtype: torch.dtype) -> None:
    """Say of a model with experts what --quant nf4 leaves in `dtype`, and what that costs.

    It is said before the weights are loaded, for they may not fit.
    """
    weights = read_weights(Path(directory))
    size = sum(math.prod(stored.shape) for name, stored in weights.items() if ".experts." in name)
    if size:
        print(
            f"--quant nf4: only linear layers go to 4 bits; the experts, {size / 1e9:.3g} billion "
            f"weights, stay in {dtype_name(dtype)} and take {size * dtype.itemsize / 2**30:.3g} "
            f"GiB (in 4 bits they would take {size * NF4_BITS / 8 / 2**30:.3g})"
        )


def check_placed(policy, adapter: Path, config: dict, said: list[str]) -> None:
    """Raise UserError unless every weight of the adapter has found its module.

    said: the warnings while it was loaded.
    """
    # PEFT only warns of names of transformers 4, and loads nothing.
    missing = [text for text in said if "missing" in text.lower() and "adapter" in text.lower()]
    if missing:
        raise UserError(f"the adapter in {adapter} does not fit its base: {missing[0][:200]}")
    placed = sum("lora_A.default" in name for name, _ in policy.named_parameters())
    pairs = checkpoint_files.adapted(adapter)
    if config["peft_type"] == "LORA" and placed != pairs:
        raise UserError(
            f"the adapter in {adapter} has weights for {pairs} modules, but its "
            f"adapter_config.json places {placed}; correct target_modules there, "
            "or fetch the adapter again"
        )
