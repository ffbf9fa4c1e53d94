"""Signals: the step that is named is saved, a second one ends at once, and never a traceback."""

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from plumbing import stopping

ROOT = Path(__file__).resolve().parents[1]
EXIT = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", EXIT)
def test_the_first_signal_asks_and_the_exit_code_is_its_own(number, capfd):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left, stopping.Stop() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        stop.leave("stopped after step 3")
    assert left.value.code == EXIT[number] and signal.getsignal(number) is before
    out, err = capfd.readouterr()
    assert "stopping soon" in err and "stopped after step 3" in out
    with stopping.Stop() as again:
        assert not again.requested  # one run's request is not the next one's


def test_a_signal_that_comes_with_the_last_step_is_not_forgotten(capfd):
    with pytest.raises(SystemExit) as left, stopping.Stop():
        signal.raise_signal(signal.SIGTERM)
    assert left.value.code == 143 and "after the last step" in capfd.readouterr().out


def test_a_closed_terminal_sends_two_and_the_step_is_still_saved(capfd):
    """The shell sends SIGHUP to its jobs, and the kernel does when the shell has ended."""
    with pytest.raises(SystemExit) as left, stopping.Stop() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        stop.leave("stopped after step 3")
    assert left.value.code == 129 and capfd.readouterr().err.count("stopping soon") == 1


def test_an_error_in_the_loop_is_the_error_that_comes_out():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), stopping.Stop():
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_only_what_can_be_done_again_gives_way(capfd):
    with pytest.raises(SystemExit), stopping.Stop() as stop:
        stop.repeatable = True
        stopping.give_way()  # nobody asks
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(stopping.Interrupted):
            stopping.give_way()
        stop.repeatable = False
        stopping.give_way()  # an update that was begun is ended
    stopping.give_way()


def test_outside_the_main_thread_there_are_no_signals():
    result = []

    def work():
        with stopping.Stop() as stop:
            result.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [False]


def python(body, **more):
    """A process that watches for signals and runs `body`."""
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(body)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script], **pipes, **more)


def ended(process):
    """(exit code, stderr) of a process, which must not have said a traceback."""
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err and "Exception ignored" not in err, err
    return process.returncode, err


def test_nothing_is_imported_before_signals_are_watched_for():
    """Each import takes milliseconds, in which Ctrl-C is still a traceback of the interpreter."""
    body = """
        before = set(sys.modules)
        from plumbing import stopping
        new = set(sys.modules) - before - set(sys.builtin_module_names)
        assert new == {"plumbing", "plumbing.not_installed", "plumbing.stopping"}
        """
    assert ended(python(body))[0] == 0
    scripts = "train_sft train_grpo train_dpo selftrain evaluate model fast/bench"
    for script in scripts.split():
        lines = (ROOT / f"{script}.py").read_text().splitlines()
        first = next(n for n, line in enumerate(lines) if line.startswith(("import ", "from ")))
        assert lines[first] == "from plumbing import stopping"
        assert lines[first + 2] == 'if __name__ == "__main__":'
        assert lines[first + 3].startswith("    stopping.watch()")


WAITS = {  # what the user has set, and how torch's threads wait then
    (): ("PASSIVE", "1000"),
    ("GOMP_SPINCOUNT", "77"): ("PASSIVE", "77"),
    ("OMP_WAIT_POLICY", "active"): ("ACTIVE", "30000000000"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp says what it has read")
@pytest.mark.parametrize("given", WAITS)
def test_threads_sleep_when_they_wait_unless_the_user_says_otherwise(given):
    """libgomp prints it when torch is imported: it was set in time, and is heeded."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | dict([given] if given else [])
    code, said = ended(python("from plumbing import stopping; import torch", env=environment))
    policy, count = WAITS[given]
    assert code == 0
    assert f"OMP_WAIT_POLICY = '{policy}'" in said and f"GOMP_SPINCOUNT = '{count}'" in said


MOMENTS = {
    "in an import": "import time; time.sleep(600)",
    "in a finalizer": """
        class Slow:
            def __del__(self):
                time.sleep(600)
        one = Slow()
        del one
        """,
    "in a broad except": """
        try:
            time.sleep(600)
        except BaseException:
            pass
        """,
    "while threads shut down": "threading.Thread(target=time.sleep, args=(600,)).start()",
    "while the interpreter exits": "atexit.register(time.sleep, 600)",
    "at the second signal": """
        with stopping.Stop():
            signal.raise_signal(signal.SIGTERM)
            time.sleep(600)
        """,
}
CASES = [(moment, number) for moment in MOMENTS for number in EXIT]
CASES.remove(("at the second signal", signal.SIGHUP))  # a SIGHUP is never in haste


@pytest.mark.parametrize("moment, number", CASES)
def test_at_any_moment_one_sentence_and_no_traceback(moment, number):
    process = python(
        "from plumbing import stopping\n"
        "stopping.watch()\n"
        "stopping.last_words.append(lambda: 'all is kept')\n"
        "import atexit, signal, threading, time\n"
        "print('ready', flush=True)\n" + textwrap.dedent(MOMENTS[moment])
    )
    assert process.stdout.readline() == "ready\n"
    # whether it has come to the sleep yet is of no matter
    process.send_signal(number)
    code, err = ended(process)
    assert code == EXIT[number]
    assert err.count("stopped at once") == 1 and "all is kept" in err


@pytest.mark.parametrize("number", EXIT)
def test_a_child_has_no_last_words(number):
    """A signal to the whole group: the child of a trial must not take the parent's lock away."""
    process = python(
        f"""
        import os, time
        from plumbing import stopping
        stopping.watch()
        stopping.last_words.append(lambda: print("released", flush=True))
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(into, b"x")  # a signal that comes before the child is whole is lost
            time.sleep(600)
        os.read(out, 1)
        os.kill(child, {int(number)})
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
        """
    )
    assert process.stdout.read() == f"{EXIT[number]}\n" and ended(process)[0] == 0


@pytest.mark.parametrize("number", EXIT)
def test_a_signal_while_the_modules_are_taken_apart_changes_nothing(number):
    """That takes 2 s with torch, and the interpreter has put back the default action: it kills."""
    process = python(
        f"""
        import atexit, os
        from plumbing import stopping
        stopping.watch()
        class Last:
            def __del__(self, kill=os.kill, process=os.getpid(), write=os.write):
                kill(process, {int(number)})
                write(1, b"taken apart")
        last = Last()
        """
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "taken apart", "")


def test_a_signal_waits_for_lines_that_belong_together():
    process = python(
        """
        import signal
        from plumbing import stopping
        stopping.watch()
        with stopping.Undivided():
            signal.raise_signal(signal.SIGTERM)
            print("the lock and its note")
            sys.stdout.flush()
        print("not reached")
        """
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143 and out == "the lock and its note\n"
    assert err.count("stopped at once") == 1


# where the signal comes, and what the last words are
AROUND_A_RUN = {
    "with lock.claim(args): signal.raise_signal(2)": "what was finished is kept in",
    "with lock.claim(args): pass\nsignal.raise_signal(2)": "the run had finished, and is in",
}


@pytest.mark.parametrize("body", AROUND_A_RUN)
def test_after_the_end_of_a_run_the_words_are_right_and_no_lock_is_left(body, tmp_path):
    process = python(
        "from plumbing import lock, stopping\n"
        "import signal, argparse\n"
        "stopping.watch()\n"
        f"args = argparse.Namespace(output_dir={str(tmp_path)!r})\n" + body
    )
    code, err = ended(process)
    assert code == 130 and AROUND_A_RUN[body] in err and not list(tmp_path.iterdir())


def test_signals_that_the_caller_ignores_stay_ignored():
    """nohup python train_grpo.py: the closed terminal is none of its business."""
    process = python(
        """
        import signal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from plumbing import stopping
        stopping.watch()
        with stopping.Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
        """
    )
    assert ended(process)[0] == 0


def test_a_terminal_that_is_gone_does_not_end_the_step():
    """SIGHUP, and from then on every word to the terminal is an error."""
    master, terminal = os.openpty()
    script = """
        from plumbing import stopping
        import os, signal
        with stopping.SteadyStreams(), stopping.Stop() as stop:
            print("ready", flush=True)
            while not stop.requested:
                pass
            print("into the void", flush=True)
            open(os.environ["SAVED"], "w").close()
            stop.leave("stopped after step 1")
        """
    saved = Path(f"/tmp/nanovlr-saved-{os.getpid()}")
    text = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(script)
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"SAVED": str(saved)},
    )
    os.close(terminal)
    try:
        assert b"ready" in os.read(master, 100)
        os.close(master)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=120) == 129 and saved.exists()
    finally:
        process.kill()
        saved.unlink(missing_ok=True)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_a_run_does_not_need_its_streams(closed, tmp_path):
    body = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from plumbing import stopping\n"
        "with stopping.SteadyStreams():\n"
        "    print('to stdout', flush=True); print('to stderr', file=sys.stderr)\n"
        f"    open({str(tmp_path / 'done')!r}, 'w').close()\n"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(body)} {closed}"
    assert subprocess.run(command, shell=True).returncode == 0 and (tmp_path / "done").exists()


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    """python train_sft.py | head -1"""
    process = python(
        f"""
        from plumbing import stopping
        with stopping.SteadyStreams():
            for _ in range(100000):
                print("a line of some length", flush=True)
            open({str(tmp_path / "done")!r}, "w").close()
        """
    )
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    code, _ = ended(process)
    assert code == 0 and (tmp_path / "done").exists()
