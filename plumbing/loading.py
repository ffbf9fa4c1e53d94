"""Prepare the prompts of the next steps in worker processes, while the model works on this one.

    with loading(encode, examples, [[4, 0], [2, 1]], num_workers=2) as batches:
        next(batches)  # [encode(examples[4]), encode(examples[0])]
        next(batches)  # [encode(examples[2]), encode(examples[1])]

Results, their order and errors are those of 0 workers, which prepare a step when it is asked for.
Large tensors come through shared memory, all else through a pipe.

Workers are forked where the system can: the data are there at once, and nothing is copied. They
compute on one CPU thread and touch no GPU. On macOS and Windows they are spawned, and everything
that `loading` is given must pickle.
"""

import contextlib
import ctypes
import io
import itertools
import math
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import ExceptionWithTraceback
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from plumbing import stopping
from plumbing.errors import UserError

FORKS = sys.platform == "linux"
AHEAD = 2  # steps; a photograph at a million pixels is 24 MB, so two steps of 32 are 1.5 GB
LARGE = 2**16  # bytes of a tensor for shared memory; each costs a file descriptor
MOST_FILES = 2**16  # open files, which a process may often not have without asking
KILLED = (
    "a worker process that prepares prompts was killed, most likely because the memory is full; "
    "lower --num-workers (0 prepares them without any), or take a machine with more memory"
)


def workers(asked: int | None, is_toy: bool, device: torch.device) -> int:
    """Choose the number of workers: what --num-workers says, else by what would wait for them.

    A toy picture takes a millisecond, and a model on the CPU uses all cores itself: none.
    """
    if asked is not None:
        return asked
    if is_toy or device.type == "cpu":
        return 0
    return max(1, min(4, cores() - 1))  # four prepare 40 photographs a second


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def loading(
    encode: Callable, rows: Sequence, steps: Iterable[Sequence[int]], num_workers: int
) -> Iterator[Iterator[list]]:
    """Give an iterator over the steps: of each, the list of encode(rows[i]) for its places i.

    steps: all of about one length. Workers are at most AHEAD steps ahead of what was taken.
    Raises what `encode` raises, at that step; UserError for a worker that was killed.
    """
    steps = iter(steps)
    first = list(itertools.islice(steps, 1))
    steps = itertools.chain(first, steps)
    size = sum(map(len, first))
    if not num_workers or not size:
        yield ([encode(rows[place]) for place in step] for step in steps)
        return
    steps, ahead = itertools.tee(steps)
    places = itertools.chain.from_iterable(ahead)
    loaded = start(Recipe(encode, rows), places, num_workers, size)
    try:
        yield ([taken(loaded) for _ in step] for step in steps)
    finally:
        loaded._shutdown_workers()  # now; `del` would wait for tracebacks that refer to it
        for worker in loaded._workers:  # one that hangs in a file system has outlived that
            worker.kill()


def start(recipe: "Recipe", places: Iterable[int], num_workers: int, size: int) -> Iterator:
    """Start the workers. size: places in a step."""
    allow_files()
    with stopping.HeldBack(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork beside threads, of more workers than cores
        before = signal.getsignal(signal.SIGCHLD) if FORKS else None
        loaded = iter(
            DataLoader(
                recipe,
                batch_size=None,
                sampler=places,
                num_workers=num_workers,
                prefetch_factor=math.ceil(AHEAD * size / num_workers),
                multiprocessing_context="fork" if FORKS else "spawn",
                worker_init_fn=begin,
                generator=torch.Generator(),  # the global one would draw other numbers after this
            )
        )
        if FORKS:  # torch's handler would raise in the middle of anything; `taken` asks instead
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return loaded


def taken(loaded: Iterator) -> Any:
    """Take the next value that the workers have made. Raises its error, if it is one."""
    try:
        packed = next(loaded)
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise UserError(KILLED) from None
    value = unpack(*packed)
    if isinstance(value, Exception):
        raise value
    return value


def allow_files() -> None:
    """Let this process have as many open files as it may: each picture ahead is one."""
    if sys.platform == "linux":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < MOST_FILES:
            most = MOST_FILES if hard < 0 else min(hard, MOST_FILES)  # -1: without a limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


# --- in a worker ---


class Recipe(Dataset):
    """What a worker does with a place in the data."""

    def __init__(self, encode: Callable, rows: Sequence) -> None:
        self.encode, self.rows = encode, rows

    def __getitem__(self, place: int) -> tuple[bytes, list[torch.Tensor]]:
        """Encode the row at a place. An error is a value, too: it is raised where it is taken."""
        try:
            return pack(self.encode(self.rows[place]))
        except Exception as error:
            return pack(ExceptionWithTraceback(error, error.__traceback__))


def begin(_number: int) -> None:
    """Begin a worker: a signal that ends the run is for its main process, and then for it."""
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if sys.platform == "linux":  # at once; DataLoader's own watchdog looks every five seconds
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Packer(pickle.Pickler):
    """Pickle a value but for its large tensors, which it moves to shared memory: `shared`."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.shared = []

    def persistent_id(self, value: object) -> int | None:
        """Name a large tensor by its place in `shared`."""
        if not isinstance(value, torch.Tensor) or value.nbytes < LARGE:
            return None
        try:
            self.shared.append(value.contiguous().share_memory_())
        except RuntimeError:  # /dev/shm is full, 64 MB in many containers: the pipe is slower
            return None
        return len(self.shared) - 1

    def reducer_override(self, value: object) -> Any:
        """Pickle other tensors as arrays: torch's own way takes 30 times as long."""
        if isinstance(value, torch.Tensor):
            return torch.from_numpy, (value.contiguous().numpy(),)
        return NotImplemented


class Unpacker(pickle.Unpickler):
    """Unpickle what a Packer has packed."""

    def __init__(self, file: io.BytesIO, shared: list[torch.Tensor]) -> None:
        super().__init__(file)
        self.shared = shared

    def persistent_load(self, place: int) -> torch.Tensor:
        """Find a large tensor."""
        return self.shared[place]


def pack(value: object) -> tuple[bytes, list[torch.Tensor]]:
    """Turn a value into bytes and tensors in shared memory."""
    file = io.BytesIO()
    packer = Packer(file)
    packer.dump(value)
    return file.getvalue(), packer.shared


def unpack(text: bytes, shared: list[torch.Tensor]) -> Any:
    """Turn bytes and tensors back into the value."""
    return Unpacker(io.BytesIO(text), shared).load()
