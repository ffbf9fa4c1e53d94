"""How much memory was taken, and how much is left: the card's, or the process's on a CPU."""

from pathlib import Path

import psutil
import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def reset_peak(where: torch.device) -> None:
    """Let the next `peak` count from here. On a CPU only Linux can."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        return
    try:
        CLEAR.write_text("5")  # the high-water mark of the resident set
    except OSError:
        pass


def peak(where: torch.device) -> int:
    """Return the most bytes taken since `reset_peak`.

    Without Linux's files: since the process began (Windows), or those taken now (macOS).
    """
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    try:
        return _in_kilobytes(STATUS, "VmHWM")
    except (OSError, KeyError):
        taken = psutil.Process().memory_info()
        return getattr(taken, "peak_wset", taken.rss)


def free(where: torch.device) -> int:
    """Return the bytes that could still be taken, those that torch keeps for itself included."""
    if where.type == "cuda":
        kept = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
        return torch.cuda.mem_get_info(where)[0] + kept
    return psutil.virtual_memory().available


def _in_kilobytes(file: Path, name: str) -> int:
    """Read a line such as `VmHWM:  1234 kB` of a file of the kernel's: bytes."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)
