"""Run a script: errors in one sentence, exit codes."""

import contextlib
import sys

from tqdm import tqdm

from plumbing import disk, lock, ranks, stopping
from plumbing.errors import UserError, gpu_out_of_memory, out_of_memory


def run(main, parse_args, argv=None, several=False):
    """The last line of every script: parse, run, and say in one sentence what the user can fix.

    Exit code 2 for that, 130, 143 or 129 for a signal; the output directory is this run's alone.
    several: whether torchrun may start the script in several processes.
    """
    before = stopping.watch()
    try:
        with ranks.quiet(), stopping.SteadyStreams():
            _run(main, parse_args, argv, several)
    finally:
        stopping.restore(before)


def _run(main, parse_args, argv, several):
    args = None
    try:
        args = parse_args(argv)
        with ranks.together(args, several):
            with contextlib.nullcontext() if ranks.rank() else lock.claim(args):
                main(args)
    except UserError as error:
        _stop(str(error))
    except Exception as error:
        out, again = getattr(args, "output_dir", None) or ".", lock.again(args)
        words = disk.in_words(error, out, again)
        if words is None and gpu_out_of_memory(error):
            words = f"the GPU's memory is full ({first_line(error)}); {less_memory(args)}"
        if words is None and out_of_memory(error):
            words = f"the memory is full ({first_line(error)}); {less_memory(args)}"
        if words is None:  # a mistake of this code
            ranks.speaks()
            raise
        _stop(words)


def _stop(sentence):
    stopping.let_it_end()  # torchrun tells all processes to stop: one sentence is enough
    if ranks.speaks():
        # On a line of its own, a progress bar or not.
        tqdm.write(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def first_line(error) -> str:
    """What an error says, in one line; Python's own of memory says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def less_memory(args) -> str:
    """What a command can do about memory, by the flags that it has."""
    if not hasattr(args, "micro_batch_size"):
        return "close other programs, or take a machine with more of it"
    return (
        "lower --micro-batch-size or --eval-batch-size, or add --gradient-checkpointing, and "
        f"{lock.again(args)}; or begin anew with a lower --prompts-per-step or --max-pixels, or "
        "--quant nf4"
    )
