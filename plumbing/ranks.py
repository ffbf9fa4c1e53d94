"""Several processes of one run: `torchrun --nproc-per-node 8 train_grpo.py ...`, one for each card.

    running.run(main, parse_args, several=True)   # starts them, and ends them
    ranks.share(N)             # which of N things are this process's
    ranks.dealt(things)        # those that are this process's, if they are dealt in turn
    ranks.gathered(value)      # what each process has, in their order
    ranks.any_of(flag)         # whether some process says so
    ranks.meet()               # all give up what they do, if one does
    ranks.collected(own)       # what all have made of what was dealt
    ranks.summed(tensors)      # add up over the processes, in place
    ranks.from_first(function) # the first decides, or writes
    @ranks.first               # so it is at each call of this function
    ranks.shard(policy)        # split gradients and moments; see gather, whole and split

Without torchrun there is one process, and all of it does nothing. Every process must make the same
calls in the same order. Those after the first print nothing, and write into a scratch directory.
"""

import argparse
import contextlib
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from plumbing import stopping
from plumbing.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = timedelta(hours=2)  # that one process waits for another, which saves or evaluates
BUCKET = 2**26  # elements that are added up at a time

_rank, _world = 0, 1
_flags = {}  # those that this process has for itself
_store = None  # what the processes know of each other
sharded = []  # what --shard splits: the layers, then the model with all else
_errors = None  # where errors are printed, in a process that prints nothing else


def rank() -> int:
    """Return this process's number, from 0."""
    return _rank


def world() -> int:
    """Count the processes of the run."""
    return _world


def own_flags() -> dict[str, str]:
    """Return the flags that this process has for itself: {name: value}; {} if it is alone.

    They are its card and, after the first, a scratch directory.
    """
    return dict(_flags)


def share(number: int) -> range:
    """Return this process's part of range(number): in the order of the processes, they are all."""
    return range(number * _rank // _world, number * (_rank + 1) // _world)


def dealt(things: Sequence) -> Sequence:
    """Return this process's part of things that are dealt out, one at a time, in turn."""
    return things[_rank::_world]


def collected(own: list) -> list:
    """Put together what the processes have made of what was `dealt`, in its order."""
    found = gathered(own)
    every = [None] * sum(map(len, found))
    for number, part in enumerate(found):
        every[number::_world] = part
    return every


def gathered(value: Any) -> list:
    """Return what each process has, in their order. It must pickle, with tensors on the CPU."""
    if _world == 1:
        return [value]
    import torch.distributed as dist

    meet()
    found = [None] * _world
    dist.all_gather_object(found, value)
    return found


def from_first(function: Callable[[], Any]) -> Any:
    """Call a function in the first process, and return its value in all of them."""
    if _world == 1:
        return function()
    import torch.distributed as dist

    meet()
    found = [function() if _rank == 0 else None]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def first(function: Callable) -> Callable:
    """Let the first process call a function, wherever all call it, and all have its value."""

    @functools.wraps(function)
    def asked(*given: Any, **more: Any) -> Any:
        return from_first(lambda: function(*given, **more))

    return asked


def meet(gives_way: bool = False) -> None:
    """Raise stopping.Interrupted in all processes if one of them gives way.

    A process that gives way calls this where the others call it before their next exchange. So
    that exchange must belong to the same step, or the same evaluation: Run sees to that.
    """
    if _world == 1:
        return
    import torch
    import torch.distributed as dist

    told = torch.tensor([gives_way], dtype=torch.int32)
    dist.all_reduce(told)
    if told.any():
        raise stopping.Interrupted


def any_of(flag: bool) -> bool:
    """Tell whether the flag is set in some process."""
    return any(gathered(flag))


def summed(tensors: Sequence["Tensor"]) -> None:
    """Add up tensors over the processes, in place: afterwards all have the same bits."""
    if _world == 1:
        return
    import torch
    import torch.distributed as dist

    meet()
    kinds = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for same in kinds.values():
        for bucket in buckets(same):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts):
                tensor.copy_(part.view_as(tensor))


def buckets(tensors: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Cut a list of tensors into lists of about BUCKET elements."""
    bucket, size = [], 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel()
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def sum_gradients(parameters: Sequence["Tensor"]) -> None:
    """Add up the gradients of the processes. One without a gradient counts as 0.

    A parameter that has none in any process keeps none.
    """
    if _world == 1 or sharded:  # FSDP2 has added them up
        return
    import torch

    has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    summed([has])
    learned = [parameter for parameter, number in zip(parameters, has) if number]
    for parameter in learned:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    summed([parameter.grad for parameter in learned])


def shard(policy: Any) -> None:
    """Split gradients and moments over the processes (FSDP2); `gather` gives all the weights."""
    from torch.distributed.fsdp import fully_shard

    sharded[:] = [*policy.model.language_model.layers, policy]
    for part in sharded:
        fully_shard(part, reshard_after_forward=False)
        part.set_gradient_divide_factor(1.0)  # gradients are added, not averaged
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other way
    policy.set_reshard_after_backward(False)
    policy._get_fsdp_state()._lazy_init()  # before a layer takes itself for the whole


def gather(*_) -> None:
    """Put the weights together, in every process, anew after each step of the optimizer."""
    for part in sharded:
        part.reshard()
        part.unshard()


def whole(value: Any) -> Any:
    """Put a split tensor together, on the CPU, and return anything else as it is."""
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value


def split(moments: dict[int, dict], weights: Sequence["Tensor"]) -> None:
    """Split an AdamW's moments as its weights are, in place."""
    if not sharded:
        return
    from torch.distributed.tensor import Shard, distribute_tensor

    for number, found in moments.items():
        for name in ("exp_avg", "exp_avg_sq"):
            found[name] = distribute_tensor(found[name], weights[number].device_mesh, [Shard(0)])


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """Turn what is raised when another process has ended into a UserError."""
    try:
        yield
    except RuntimeError as error:
        # gloo names its source file; nccl and the store have types of their own.
        if "gloo" not in str(error) and not type(error).__name__.startswith("Dist"):
            raise
        raise UserError(
            "another process of this run ended or cannot be reached; go on with "
            "--resume-from-checkpoint"
        ) from None


# --- start and end ---


def several() -> bool:
    """Tell whether torchrun has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let no process but the first print."""
    global _errors
    if not several() or os.environ["RANK"] == "0":
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _errors = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    yield  # the process ends with it: nothing is put back


def speaks() -> bool:
    """Tell whether this process is the first that ends by an error, and let it print that."""
    if not several():
        return True
    if _world == 1:  # not started yet: all see the same error
        return os.environ["RANK"] == "0"
    try:
        is_first = _store.add("nanovlr/errors", 1) == 1
    except RuntimeError:  # whoever kept it is gone
        is_first = _rank == 0
    if is_first and _errors is not None:
        os.dup2(_errors, 2)
    return is_first


@contextlib.contextmanager
def together(args: argparse.Namespace, allowed: bool) -> Iterator[None]:
    """Start the processes' group, and leave it at the end. Those after the first get a directory.

    UserError for a script that works in one process, and for a card that cannot be had.
    """
    global _rank, _world, _store, _flags
    if not several():
        yield
        return
    if not allowed:
        raise UserError("this script works in one process: start it with python, not with torchrun")
    import torch
    import torch.distributed as dist

    backend, flags = "gloo", {}
    if torch.cuda.is_available() and args.device != "cpu":
        if args.device not in ("auto", "cuda"):
            raise UserError(
                f"--device {args.device} is one card, and torchrun gives each process its own; "
                "omit it"
            )
        flags["device"] = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        backend = "cpu:gloo,cuda:nccl"
    try:
        _store, rank, world = next(dist.rendezvous("env://"))
        dist.init_process_group(backend, store=_store, rank=rank, world_size=world, timeout=LONGEST)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of this run cannot be joined ({error})") from None
    with talking(), scratch() if rank else contextlib.nullcontext() as folder:
        if folder:
            flags |= {"output_dir": folder, "report_to": "none"}
        _rank, _world, _flags = rank, world, flags
        stopping.tell_others = functools.partial(meet, True)
        yield
    dist.destroy_process_group()  # not after an error: the others would see that first
    _rank, _world, _flags = 0, 1, {}
    stopping.tell_others = None


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Make a directory, and remove it at the end, also of a process that ends at once."""
    with tempfile.TemporaryDirectory(prefix="nanovlr-", ignore_cleanup_errors=True) as folder:
        stopping.last_words[:] = [lambda: shutil.rmtree(folder, ignore_errors=True)]
        yield folder
