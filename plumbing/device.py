"""Device, dtype and seeds."""

import random

import torch

from plumbing.errors import UserError

# ---------------------------------------------------------------------------------------------- device, seeds, schedule


def pick_device(name):
    """torch.device for --device; auto is cuda where there is one, else cpu. UserError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name} cannot be used here ({str(error).splitlines()[0]}); --device cpu always can"
        ) from None
    if torch.device(name).type == "cuda":
        torch.cuda.set_device(name)  # streams, graphs and Triton's kernels go where this says
    return torch.device(name)


def pick_dtype(name, device):
    """torch.dtype for --dtype; auto is bfloat16 on a GPU and float32 elsewhere."""
    if (
        name == "auto"
    ):  # cards before Ampere only emulate bfloat16, and Qwen2-VL overflows in float16
        name = (
            "bfloat16"
            if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            else "float32"
        )
    return getattr(torch, name)


def seed_everything(seed, step=0):
    """Seeds Python and torch from (seed, step). Called at the start of every step, so that nothing random needs to be saved: a resumed
    run draws at step s what an uninterrupted one draws there."""
    mixed = random.Random(f"{seed} {step}").getrandbits(63)
    random.seed(mixed)
    torch.manual_seed(mixed)
