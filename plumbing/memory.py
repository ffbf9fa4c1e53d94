"""How much memory was taken, and how much is left: the card's, or the process's on a CPU."""

import os
import resource
from pathlib import Path

import torch

STATUS, CLEAR, MEMINFO = (Path("/proc") / p for p in ("self/status", "self/clear_refs", "meminfo"))


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
    """Return the most bytes taken since `reset_peak`."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    try:
        return _in_kilobytes(STATUS, "VmHWM")
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free(where: torch.device) -> int:
    """Return the bytes that could still be taken, those that torch keeps for itself included."""
    if where.type == "cuda":
        kept = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
        return torch.cuda.mem_get_info(where)[0] + kept
    try:
        return _in_kilobytes(MEMINFO, "MemAvailable")
    except (OSError, KeyError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _in_kilobytes(file: Path, name: str) -> int:
    """Read a line such as `VmHWM:  1234 kB` of a file of the kernel's: bytes."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)
