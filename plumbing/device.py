"""Where a run computes, in which type, and from which seed."""

import random

import torch

from plumbing import ranks
from plumbing.errors import UserError


def pick_device(name: str) -> torch.device:
    """Choose the device that --device names; `auto` is cuda where there is one, else cpu.

    UserError if it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name} cannot be used here ({str(error).splitlines()[0]}); "
            "--device cpu always can"
        ) from None
    if torch.device(name).type == "cuda":
        torch.cuda.set_device(name)  # streams, graphs and Triton's kernels follow this device
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Choose the type that --dtype names; `auto` is bfloat16 on a GPU, else float32."""
    if name != "auto":
        return getattr(torch, name)
    # Cards before Ampere only emulate bfloat16, and Qwen2-VL overflows in float16.
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Write a type as flags and messages do: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def seed_everything(seed: int, step: int = 0) -> None:
    """Seed Python and torch from (seed, step), at the start of every step.

    No random state needs saving: a resumed run draws at a step what the first run drew there.
    Of several processes each has its own, or their rows would share one dropout.
    """
    name = f"{seed} {step}"
    if ranks.rank():
        name += f" {ranks.rank()}"
    mixed = random.Random(name).getrandbits(63)
    random.seed(mixed)
    torch.manual_seed(mixed)
