"""What kinds of errors there are: for the person at the keyboard, and of the machine."""

import errno
import re
import sys

NO_MEMORY = "can't allocate|Cannot allocate|not enough memory|bad_alloc|can't start new thread"


class UserError(ValueError):
    """Something the person at the keyboard can fix: one sentence with the remedy. Exit code 2."""


def gpu_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that a GPU's memory is full."""
    torch = sys.modules.get("torch")  # without it, nothing of its kind can have been raised
    return bool(torch) and isinstance(error, torch.OutOfMemoryError)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that the machine's memory is full.

    A GPU's is no such: it has its own type, torch.OutOfMemoryError, and other remedies.
    """
    if gpu_out_of_memory(error):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):  # torch's own, which has no type for it on a CPU
        return re.search(NO_MEMORY, str(error)) is not None
    return isinstance(error, MemoryError)  # numpy, PIL, arrow and safetensors derive theirs from it
