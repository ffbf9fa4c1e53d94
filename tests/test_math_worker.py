"""Tests of grading/math_worker.py.    python -m pytest tests/test_math_worker.py    (CPU, 15 s)"""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from grading import math_worker
from grading.math_worker import Late, MathWorker
from plumbing import stopping
from plumbing.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

# A worker that needs no sympy: it echoes, spins, sleeps or dies, as it is asked.
SCRIPT = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from grading.math_worker import serve

def answer(question):
    kind, value = question
    if kind == "spin":
        while True:
            pass
    if kind == "power":  # one call of C, which no signal handler of Python interrupts
        value = len(str(9 ** (9 ** value)))
    if kind == "sleep":
        time.sleep(value)
    if kind == "die":
        os._exit(1)
    return {{"said": value, "pid": os.getpid()}}

def warm_up():
    if os.environ.get("BROKEN_WORKER"):
        raise ImportError("No module named 'math_verify'")

serve(answer, warm_up)
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    one = MathWorker([str(script)], 0.3)
    yield one
    one.stop()


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
def test_signals_for_the_whole_job_do_not_change_an_answer(worker):
    """Ctrl-C in a terminal, `kill -- -PGID`, a scheduler: the worker gets them too."""
    first = worker.ask(["echo", 0])
    for number in stopping.SIGNALS:
        os.kill(first["pid"], number)
    assert worker.ask(["echo", 1]) == {"said": 1, "pid": first["pid"]}
    assert worker.kill in stopping.last_words, "a parent that ends at once takes it along"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(stopping.SIGNALS)


def test_one_process_answers_question_after_question(worker):
    assert worker.process is None, "nothing starts before the first question"
    said = [worker.ask(["echo", i]) for i in range(20)]
    assert [answer["said"] for answer in said] == list(range(20))
    assert len({answer["pid"] for answer in said}) == 1


@pytest.mark.parametrize("question", [["spin", 0], ["power", 9]])
def test_cpu_time_ends_a_comparison(worker, question):
    before = worker.ask(["echo", 1])["pid"]
    with pytest.raises(Late, match="0.3 s of CPU time"):
        worker.ask(question)
    after = worker.ask(["echo", 2])
    assert after["said"] == 2 and after["pid"] != before


def test_the_clock_does_not(worker):
    """A worker that waits, as beside busy programs, may take five times its CPU time."""
    assert worker.ask(["sleep", 1.5])["said"] == 1.5


def test_a_late_question_is_remembered(worker):
    with pytest.raises(Late):
        worker.ask(["spin", 0])
    start = time.process_time()
    pid = worker.ask(["echo", 1])["pid"]
    for _ in range(50):
        with pytest.raises(Late):
            worker.ask(["spin", 0])
    assert worker.ask(["echo", 2])["pid"] == pid, "it was not asked again"
    assert len(worker.late) == 1 and time.process_time() - start < 1


def test_a_dead_worker_is_replaced(worker):
    worker.ask(["echo", 1])
    worker.process.kill()
    worker.process.wait()
    assert worker.ask(["echo", 2])["said"] == 2
    with pytest.raises(Late):
        worker.ask(["die", 0])
    assert worker.ask(["echo", 3])["said"] == 3


def test_threads_share_a_worker(worker):
    said = {}

    def ask(i):
        said[i] = worker.ask(["echo", i])["said"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {i: i for i in range(16)}


def test_a_missing_math_verify_is_said(worker, monkeypatch):
    monkeypatch.setenv("BROKEN_WORKER", "1")
    with pytest.raises(UserError, match="pip install math-verify"):
        worker.ask(["echo", 1])
    assert worker.process is None


def test_a_worker_that_cannot_start_is_one_sentence(worker, monkeypatch):
    def refuse(*args, **kwargs):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(UserError, match="Resource temporarily unavailable.*; install"):
        worker.ask(["echo", 1])
    assert worker.process is None


def in_a_fork(worker, results):
    results.put(worker.ask(["echo", 7])["pid"])


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork"
)
def test_a_fork_has_a_worker_of_its_own(worker):
    """Answers through a shared pipe would mix. The parent's lock may be taken at the fork."""
    mine = worker.ask(["echo", 1])["pid"]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=in_a_fork, args=(worker, results))
    with worker.lock:
        process.start()
    theirs = results.get(timeout=120)
    process.join()
    assert theirs != mine
    assert worker.ask(["echo", 2])["pid"] == mine, "the parent's worker outlives the child"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_worker_ends_with_its_parent(tmp_path):
    """The parent exits without cleaning up; the worker must notice that its stdin ended."""
    (tmp_path / "script.py").write_text(SCRIPT)
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from grading.math_worker import MathWorker
print(MathWorker([{str(tmp_path / "script.py")!r}], 1).ask(["echo", 1])["pid"], flush=True)
os._exit(1)
"""
    child = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=300)
    gone_when_it_ends(int(child.stdout))


def gone_when_it_ends(pid: int) -> None:
    for _ in range(3000):  # at most a minute, on any machine
        try:
            state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("the worker outlived its parent")


def test_a_stuck_worker_is_given_up(worker, monkeypatch):
    worker.start()  # which may take its time
    monkeypatch.setattr(math_worker, "STUCK_SECONDS", 0.5)
    with pytest.raises(Late):
        worker.ask(["sleep", 30])
    assert worker.process is None
