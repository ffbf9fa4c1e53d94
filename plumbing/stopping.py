"""Ctrl-C, SIGTERM and SIGHUP: what happens to a run that is told to stop.

Inside `with Stop() as stop:`, a training loop, the first signal only asks: the loop finishes its
step, saves it, and leaves with `stop.leave(sentence)`. Anywhere else, and at the second signal, the
process ends at once, with one sentence: what is finished lies in whole files already.
The exit code is 128 + the signal's number, as shells have it: 130, 143, 129.

Imports nothing heavy: a script watches for signals before it imports torch.
"""

import contextlib
import os
import signal
import sys

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
NAMES = {signal.SIGINT: "Ctrl-C"}

# Functions that are called when the process ends at once. One may return what is kept, and where.
last_words = []
_asking = None  # the Stop that a first signal is handed to
_process = None  # who watches: a child has the handlers too, but neither locks nor last words


def watch():
    """Take over the signals, but for ignored ones (nohup). Returns the handlers before."""
    global _process
    before, _process = {}, os.getpid()
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_IGN, _handle):
            continue
        with contextlib.suppress(ValueError):  # not in the main thread: signals do not arrive here
            before[number] = signal.signal(number, _handle)
    return before


def restore(handlers):
    """Put back what `watch` returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Stop:
    """The context of a training loop: the first signal sets `requested`, and the step goes on."""

    def __init__(self):
        self.requested = False
        self.number = signal.SIGINT

    def __enter__(self):
        global _asking
        self.before = watch()
        _asking = self
        return self

    def __exit__(self, kind, *_):
        global _asking
        _asking = None
        restore(self.before)
        if self.requested and kind is None:
            self.leave("stopped after the last step; go on with --resume-from-checkpoint")

    def ask(self, number):
        self.requested, self.number = True, number
        name = NAMES.get(number, number.name)
        _say(f"stopping after this step ({name}; a second one stops at once)")

    def leave(self, sentence):
        """Say it and end the process in the ordinary way. The step that it names must be saved."""
        print(f"\n{sentence}", flush=True)
        raise SystemExit(128 + self.number)


def _handle(number, _frame):
    number = signal.Signals(number)
    if os.getpid() != _process:
        os._exit(128 + number)
    if number == getattr(signal, "SIGHUP", None):
        _let_go_of_terminal()
    if _asking is not None and not _asking.requested:
        _asking.ask(number)
    else:
        end_now(number)


def end_now(number):
    """End the process with one sentence. Not by an exception: those can be swallowed or blurted."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    kept = [words for function in last_words if (words := function())]
    rest = "; ".join(kept) or "nothing had been written"
    _say(f"stopped at once ({NAMES.get(number, number.name)}); {rest}")
    os._exit(128 + number)


def _say(sentence):
    """Write to stderr itself: the stream's lock may be held by what was interrupted."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{sentence}\n".encode(errors="backslashreplace"))


def _let_go_of_terminal():
    """The terminal is gone, and writing to it would raise: send what would go there to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(stream):
                os.dup2(nowhere, stream)
    os.close(nowhere)


class SteadyStream:
    """A stream that never raises: a run outlives the pipe or the disk that its words go to."""

    def __init__(self, stream):
        self.stream = stream
        self.lost = False

    def write(self, text):
        try:
            return self.stream.write(text)
        except (OSError, ValueError):  # ValueError: closed
            self.lost = True
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self.lost = True

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextlib.contextmanager
def steady_streams():
    """Replace stdout and stderr by ones that cannot end the run."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):  # a pipe may not be able to write all that a model says
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = steady = SteadyStream(before[0]), SteadyStream(before[1])
    try:
        yield
    finally:
        for stream in steady:
            stream.flush()
            if stream.lost:  # else the interpreter complains about it when it ends
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.stdout, sys.stderr = before
