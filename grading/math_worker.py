"""Run math-verify in a process of its own, bounded by the CPU time that a question takes.

    worker = MathWorker(["-m", "grading.mathverify"], cpu_seconds=5)      # no process yet
    worker.ask(["default", "$x+1$", "$1+x$"])             # {"equal": True}, or raises Late

Published scorers call math-verify; our own comparison (answers.py) does not. math-verify's own
limits are SIGALRM: it exists in the main thread only and counts the clock, so that the same answer
gets another reward beside other busy programs. Here the kernel counts the worker's CPU time and
ends the process, whatever C code it is in. The clock guards only against a worker that is stuck.

The worker is a plain subprocess. multiprocessing and pebble 5.2 import the training script again,
and torch with it. Told not to, pebble's pool still breaks where an idle worker is killed or Ctrl-C
comes while one starts, and a forked process that has asked hangs at its end.
"""

import atexit
import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

from plumbing import stopping
from plumbing.errors import UserError

log = logging.getLogger(__name__)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STUCK_SECONDS = 300  # of the clock, for one question or for the start: no such wait is due to load


class Late(TimeoutError):
    """A question took too much CPU time: it has no answer in this process."""


def no_worker(reason: str) -> UserError:
    """Make the error of a worker that cannot start."""
    return UserError(
        f"the process that runs math-verify cannot start ({reason}); install requirements.txt, "
        "and see that the machine has memory and processes left"
    )


class MathWorker:
    """A child process, `python *program --worker SECONDS`: one JSON line per question and answer.

    It starts at the first question, is shared by all threads of a process, and ends with it.
    A worker that is late or dies is replaced at the next question. A late question is remembered
    and never asked again, so that it has one reward. The child's side is serve().
    """

    def __init__(self, program: list[str], cpu_seconds: float):
        self.program, self.cpu_seconds = program, cpu_seconds
        self.late = set()
        self._no_worker_yet()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._no_worker_yet)

    def _no_worker_yet(self) -> None:
        """Begin anew: after a fork, pipes and a lock that may be taken are the parent's."""
        self.pid, self.lock = os.getpid(), threading.Lock()
        self.process = self.answers = None

    def ask(self, question: list) -> dict:
        """Answer a question. Raises Late, and UserError if there can be no worker."""
        line = json.dumps(question)
        with self.lock:
            if line in self.late:
                raise self._late(line)
            if self.process is None or self.process.poll() is not None:
                self.start()
            answer = None
            try:
                self.process.stdin.write(line.encode() + b"\n")
                answer = self.answers.get(timeout=STUCK_SECONDS)
            except (queue.Empty, BrokenPipeError):
                pass
            finally:  # after Ctrl-C too: an unread answer would be taken for the next one's
                if answer is None:
                    self.stop()
            if answer is None:
                self.late.add(line)
                raise self._late(line)
            return answer

    def _late(self, line: str) -> Late:
        """Make the error for a question."""
        return Late(f"math-verify did not finish {line:.200} in {self.cpu_seconds} s of CPU time")

    def start(self) -> None:
        """Start a child and wait for its imports. UserError if it cannot start."""
        self.stop()
        command = [sys.executable, *self.program, "--worker", str(self.cpu_seconds)]
        # bufsize=0: a buffered pipe has a lock of its own, which a fork could inherit taken.
        try:
            with _signals_blocked():
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    cwd=ROOT,  # where `-m` finds our packages, whatever the parent's folder
                )
        except OSError as error:  # too many processes, or no memory for one more
            raise no_worker(str(error)) from None
        if self.kill not in stopping.last_words:
            stopping.last_words.append(self.kill)
        self.answers = queue.Queue()
        # A thread reads, because a pipe cannot be waited on with a time limit on Windows.
        threading.Thread(
            target=_read_lines, args=(self.process.stdout, self.answers), daemon=True
        ).start()
        atexit.unregister(self.stop)
        atexit.register(self.stop)
        try:
            hello = self.answers.get(timeout=STUCK_SECONDS)
        except queue.Empty:
            hello = {"error": f"it did not start within {STUCK_SECONDS} s"}
        if hello is None or "error" in hello:
            self.stop()
            raise no_worker(hello["error"] if hello else "it died")

    def kill(self) -> None:
        """End the child without waiting: also within a signal handler."""
        if self.process is not None and self.pid == os.getpid():
            self.process.kill()

    def stop(self) -> None:
        """End the child and wait for it."""
        if self.process is not None and self.pid == os.getpid():
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()  # stdout is closed by its reading thread
        self.process = None


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start a child that Ctrl-C and its like do not reach: it inherits this mask.

    They go to all processes of a terminal or a job. The parent may still finish its step, and a
    worker that they had ended would make the question count as late, and its reward be another.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read_lines(pipe: IO[bytes], answers: queue.Queue) -> None:
    """Put what each line holds into the queue, and None when the process has ended."""
    with pipe:
        for line in pipe:
            answers.put(json.loads(line))
    answers.put(None)


# --- the worker's side ---


def serve(answer: Callable[[list], dict], warm_up: Callable[[], None]) -> None:
    """Answer questions, a JSON line each, until stdin ends with the parent.

    warm_up is called first, for imports and tables; its ImportError is told to the parent.
    A question over its CPU time, the second argument of the command line, ends the process.
    """
    cpu_seconds = float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it has no mask
    out, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not answer
    try:
        warm_up()
    except ImportError as error:
        print(json.dumps({"error": f"{error} (pip install math-verify)"}), file=out, flush=True)
        return
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        limit_cpu(cpu_seconds)
        reply = answer(json.loads(line))
        limit_cpu(0)
        print(json.dumps(reply), file=out, flush=True)


def limit_cpu(seconds: float) -> None:
    """End this process after so much more CPU time; 0 removes the limit.

    Windows cannot do that: there STUCK_SECONDS of the clock are the only limit.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
