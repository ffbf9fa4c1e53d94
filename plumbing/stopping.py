"""Ctrl-C, SIGTERM and SIGHUP: what happens to a run that is told to stop.

Inside `with Stop() as stop:`, a training loop, the first signal only asks. While what goes on can
be done again (`stop.repeatable`), `give_way`, which long work calls now and then, raises
Interrupted. Else the loop finishes its step. It saves, and leaves with `stop.leave(sentence)`.
Anywhere else, and at the second signal (if it is no SIGHUP), the process ends at once with one
sentence: what is finished is in whole files.
The exit code is 128 + the signal's number, as shells have it: 130, 143, 129.

Imports next to nothing: a script watches for signals before anything else.
"""

import _signal  # `signal`, which wraps it, imports for 10 ms: there Ctrl-C would be a traceback
import atexit
import os
import sys

from plumbing.not_installed import explain_imports

SIGINT, SIGTERM, SIGHUP = (getattr(_signal, f"SIG{name}", None) for name in ("INT", "TERM", "HUP"))
SIGNALS = tuple(number for number in (SIGINT, SIGTERM, SIGHUP) if number)
NAMES = {SIGINT: "Ctrl-C", SIGTERM: "SIGTERM", SIGHUP: "SIGHUP"}

# Functions that are called when the process ends at once. One may return what is kept, and where.
last_words = []
tell_others = None  # a function: the other processes of the run are interrupted, too
_asking = None  # the Stop that a first signal is handed to
_process = None  # who watches: a child has the handlers too, but neither locks nor last words
_waiting = None  # in `Undivided`: the signals that wait for its end


def watch():
    """Take over the signals, but for ignored ones (nohup). Returns the handlers before.

    A script imports next: a package that it lacks is told in one sentence.
    """
    explain_imports()
    global _process
    before, _process = {}, os.getpid()
    for number in SIGNALS:
        if _signal.getsignal(number) in (_signal.SIG_IGN, _handle):
            continue
        try:
            before[number] = _signal.signal(number, _handle)
        except ValueError:  # not in the main thread: signals do not arrive here
            pass
    return before


def restore(handlers):
    """Put back what `watch` returned."""
    for number, handler in handlers.items():
        _signal.signal(number, handler)


class HeldBack:
    """The context of starting processes: they never get these signals, this one after its end."""

    def __enter__(self):
        if hasattr(_signal, "pthread_sigmask"):
            self.before = _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGNALS)

    def __exit__(self, *_):
        if hasattr(_signal, "pthread_sigmask"):
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.before)


class Interrupted(BaseException):  # nobody's `except Exception` means it
    """Work that can be done again was given up, so that the process ends soon."""


class Stop:
    """The context of a training loop: the first signal sets `requested`, and the loop goes on."""

    def __init__(self):
        self.requested = False
        self.repeatable = False  # whether what goes on can be done again
        self.number = SIGINT

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
        _say(f"stopping soon ({NAMES[number]}; a second one stops at once)")

    def leave(self, sentence):
        """Say it and end the process in the ordinary way. The step that it names must be saved."""
        print(f"\n{sentence}", flush=True)
        raise SystemExit(128 + self.number)


class Undivided:
    """The context of a few quick lines that belong together: a first signal waits for their end."""

    def __enter__(self):
        global _waiting
        _waiting = []

    def __exit__(self, *_):
        global _waiting
        waiting, _waiting = _waiting, None
        for number in waiting:
            _handle(number, None)


def requested():
    """Whether a training loop, or another that watches, has been told to stop after its step."""
    return _asking is not None and _asking.requested


def give_way():
    """Raise Interrupted if a training loop has been told to stop, in what can be done again."""
    if requested() and _asking.repeatable:
        if tell_others:
            tell_others()  # it raises in all
        else:
            raise Interrupted


def _handle(number, _frame):
    if os.getpid() != _process:
        os._exit(128 + number)
    if _waiting == []:
        _waiting.append(number)
        return
    if number == SIGHUP:
        _let_go_of_terminal()
    if _asking is not None and not _asking.requested:
        _asking.ask(number)
    elif _asking is not None and number == SIGHUP:
        pass  # the shell and the kernel each send one when a terminal is closed: no haste is meant
    else:
        end_now(number)


def let_it_end():
    """Ignore signals: the process ends. The interpreter gives up all handlers when it does.

    A signal would change the exit code, or say a second sentence after an error's.
    """
    for number in SIGNALS:
        if _signal.getsignal(number) is _handle:
            _signal.signal(number, _signal.SIG_IGN)


atexit.register(let_it_end)  # the first to register is the last to be called


def end_now(number):
    """End the process with one sentence. Not by an exception: those can be swallowed or blurted."""
    for other in SIGNALS:
        _signal.signal(other, _signal.SIG_IGN)
    kept = [words for function in last_words if (words := function())]
    rest = "; ".join(kept) or "nothing had been written"
    _say(f"stopped at once ({NAMES[number]}); {rest}")
    os._exit(128 + number)


def _say(sentence):
    """Write to stderr itself: the stream's lock may be held by what was interrupted."""
    try:
        os.write(2, f"\n{sentence}\n".encode(errors="backslashreplace"))
    except OSError:
        pass


def _let_go_of_terminal():
    """The terminal is gone, and writing to it would raise: send what would go there to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
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


class SteadyStreams:
    """A context in which stdout and stderr cannot end the run."""

    def __enter__(self):
        self.before = sys.stdout, sys.stderr
        if None in self.before:  # closed by the caller: python train_sft.py >&-
            nowhere = open(os.devnull, "w")
            sys.stdout, sys.stderr = (stream or nowhere for stream in self.before)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a pipe may not take all that a model says
                stream.reconfigure(errors="backslashreplace")
        self.steady = SteadyStream(sys.stdout), SteadyStream(sys.stderr)
        sys.stdout, sys.stderr = self.steady

    def __exit__(self, *_):
        for stream in self.steady:
            stream.flush()
            if stream.lost:  # else the interpreter complains about it when it ends
                try:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                except (OSError, ValueError):
                    pass
        sys.stdout, sys.stderr = self.before
