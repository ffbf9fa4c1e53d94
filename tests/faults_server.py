"""A process that has imported the scripts and forks for every run: 0.1 s to start one, not 5.

It has loaded a model of transformers once, too: what that imports and compiles, a fork need not.

Started by faults.py with the shim loaded. A request is one line of JSON on stdin, the answer one
line on stdout. The fork leaves the loop and does what `python SCRIPT ARGV` does: `running.run`.
"""

import atexit
import ctypes
import dataclasses
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from unittest.mock import MagicMock

import torch

import rewards
import rollout
from plumbing import running

SCRIPTS = ("train_sft", "train_grpo", "train_dpo", "selftrain", "evaluate", "distill", "model")


def spoken(noise: Callable) -> Callable:
    """Turn the endless noise of the untrained model into answers: another `rollout.answer_all`.

    Eight tokens of noise between think tags, and an answer that depends on every letter of them.
    Right a third of the time, unreadable one time in four. Other weights answer something else.
    """

    def answer_all(policy, asker, examples, sampling, *args, **options):
        short = dataclasses.replace(sampling, max_tokens=8)
        texts, lengths, _ = noise(policy, asker, examples, short, *args, **options)
        said = []
        for text in texts:
            hashed = zlib.crc32(text.encode())
            thought = f"There are several objects in the picture: {text.replace('<', '(')}"
            answer = f"<answer> {hashed % 3 + 1} </answer>" if hashed % 4 else ""
            said.append(f"<think> {thought} </think>{answer}")
        return said, lengths, ["stop"] * len(texts)

    return answer_all


def speak() -> None:
    """Let the untrained model of self-training give answers."""
    rollout.answer_all = spoken(rollout.answer_all)


def vowels(completion: str, example: object = None) -> float:
    """A reward that noise earns some of: the share of vowels among the characters."""
    return sum(c in "aeiou" for c in completion) / max(1, len(completion))


def sketch() -> None:
    """Let matplotlib write one grey picture: drawing takes half of a short run's time.

    Only what draws is replaced. Which files are written when, and by what calls, stays.
    """
    import matplotlib.figure
    import numpy
    from PIL import Image

    class Figure(MagicMock):
        def subplots(self, rows, columns, **_):
            axes = numpy.empty((rows, columns), dtype=object)
            for at in numpy.ndindex(rows, columns):
                axes[at] = MagicMock()
            return axes

        def savefig(self, file, dpi=None):
            Image.linear_gradient("L").save(file)

    matplotlib.figure.Figure = Figure


def watch_reads(log: str, folder: str) -> None:
    """Note the files below `folder` that are opened to be read, or looked at, a line each in `log`.

    Looked at counts, too: some files are only asked whether they are there. Not for their size.
    The shim adds a line for each that is opened by whatever library, "open<TAB>path" or
    "write<TAB>path".
    """
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    ctypes.CDLL(None).fault_note(out)
    seen = set()

    def note(path: object) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        path = os.path.abspath(os.fsdecode(path))
        if path.startswith(folder) and path not in seen:
            seen.add(path)
            os.write(out, f"{path}\n".encode())

    def hook(event: str, args: tuple) -> None:
        if event == "open" and args[2] & os.O_ACCMODE != os.O_WRONLY:
            note(args[0])

    def noted(look: object) -> object:
        def wrapped(path: object, *args: object, **more: object) -> object:
            frame, names = sys._getframe(1), []
            while frame and len(names) < 6:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            if not {"used", "_stamp", "announce"} & set(names):
                note(path)
            return look(path, *args, **more)

        return wrapped

    os.stat, os.lstat = noted(os.stat), noted(os.lstat)
    sys.addaudithook(hook)


def warm() -> None:
    """Load a tiny model and its tokenizer as transformers does, so that a fork finds it imported.

    Nothing of ours is called that remembers anything between two runs. No gradient is taken:
    autograd does not outlive a fork.
    """
    import gc
    import tempfile
    import weakref

    from transformers import AutoTokenizer
    from transformers.utils import logging

    import families

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, tokenizer, images = families.tiny()
    with tempfile.TemporaryDirectory(prefix="warm") as folder:
        for part in (model, tokenizer, images):
            part.save_pretrained(folder)
        type(model).from_pretrained(folder, attn_implementation="sdpa", output_loading_info=True)
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    logging.set_verbosity(before)
    logging.enable_progress_bar()
    del model, tokenizer, images
    gc.collect()
    gc.freeze()  # else the first collection in a fork copies every page of the parent
    for finalizer in weakref.finalize._registry:
        finalizer.atexit = False  # torch's 250 libraries: a fork leaves them to the parent


def alive(group: int) -> bool:
    """Tell whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def answer(pid: int, seconds: float) -> dict:
    """Wait for a fork: {"code": as in subprocess, "left": processes behind, "cpu": seconds}."""
    deadline = time.monotonic() + seconds
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"code": None, "left": False, "cpu": seconds}
        time.sleep(0.005)
    # git or the like may be on its way out; what stays is a process that is left
    left, deadline = alive(pid), time.monotonic() + 10
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = alive(pid)
    if left:
        os.killpg(pid, signal.SIGKILL)
    cpu = used.ru_utime + used.ru_stime
    return {"code": os.waitstatus_to_exitcode(status), "left": left, "cpu": round(cpu, 2)}


def set_alarm(number: int, milliseconds: float) -> None:
    """Let the kernel signal this process after so much CPU time: timer_create(2)."""
    event = (ctypes.c_int * 16)(0, 0, number)  # sigev_notify 0 is SIGEV_SIGNAL
    timer, nanoseconds = ctypes.c_void_p(), int(milliseconds * 1e6)
    when = (ctypes.c_long * 4)(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
    libc = ctypes.CDLL(None)
    assert libc.timer_create(time.CLOCK_PROCESS_CPUTIME_ID, event, ctypes.byref(timer)) == 0
    assert libc.timer_settime(timer, 0, when, None) == 0


def become(request: dict) -> tuple[object, list[str]]:
    """In the fork: take the request's command, output and faults. Returns (module, argv)."""
    os.setpgid(0, 0)
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        path = request["log"] if number else os.devnull
        handle = os.open(path, flags | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    if request["script"] == "selftrain":
        speak()
    if request["sketch"]:
        sketch()
    sys.argv = [f"{request['script']}.py", *request["argv"]]
    fault = request["fault"]
    ctypes.CDLL(None).fault_arm(
        fault["folder"].encode(),
        fault["mode"],
        ctypes.c_long(fault["at"]),
        fault["value"],
        fault["half"],
        fault["log"].encode(),
    )
    if fault.get("reads"):
        watch_reads(fault["reads"], fault["folder"])
    module = importlib.import_module(request["script"])
    importlib.import_module("plumbing.stopping").watch()  # as a script does in its first lines
    for number, milliseconds in fault.get("alarms", ()):
        set_alarm(number, milliseconds)
    return module, request["argv"]


def leave(code: int | None) -> None:
    """End the fork as Python does, but for taking apart a gigabyte of modules: that takes 2 s."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def serve() -> tuple[object, list[str]]:
    """Answer requests until stdin ends. Returns in a fork only, with what it is to run."""
    print(json.dumps({"ready": os.getpid()}), flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return become(request)
        print(json.dumps(answer(pid, request["seconds"])), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in (
        *SCRIPTS,
        "peft",
        "matplotlib.figure",
        "PIL.PngImagePlugin",
        "torch.utils.checkpoint",
    ):
        importlib.import_module(name)

    import rewards

    rewards.REWARDS["vowels"] = rewards.Reward(vowels)
    warm()
    module, argv = serve()
    try:
        running.run(module.main, module.parse_args, argv)
    except SystemExit as stop:
        leave(stop.code)
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)
