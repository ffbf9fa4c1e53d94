"""Run: python -m pytest -q tests/test_faults.py        (30 s of one core; no network)

The real scripts with a full disk, a kill -9 or a Ctrl-C at a write, resumed, and compared with a
run that had none of them. `-m slow` goes through all writes of all runs, which takes hours on one
core; `python tests/faults.py` does the same with a table of what was found. It needs Linux and a C
compiler.
"""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import faults
import pytest

pytestmark = pytest.mark.skipif(bool(faults.why_not()), reason=faults.why_not() or "")

# --- the harness itself: a fault does what it says, and what is wrong is found ---


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    return faults.build_shim(tmp_path_factory.mktemp("shim"))


WRITER = """
import os, shutil, sys
out = sys.argv[1]
os.mkdir(f"{out}/new")
os.makedirs(f"{out}/new", exist_ok=True)
with open(f"{out}/new/a", "wb", buffering=0) as file:
    file.write(b"12345678")
    print("still here", flush=True)
    file.write(b"rest")
os.replace(f"{out}/new/a", f"{out}/new/b")
open(f"{out}/new/b", "ab").close()
os.chdir(out)
shutil.copy("new/b", "c")
shutil.rmtree("new")
"""
CALLS = ["mkdir new", "open new/a", "write new/a", "write new/a", "rename new/b", "open c"]
REMOVED = ["unlinkat new/b", "rmdir new"]


@pytest.fixture
def writer(shim, tmp_path):
    """writer(fault, at) -> (exit code, what it printed, its folder)."""
    (tmp_path / "out").mkdir()

    def writer(fault, at=0):
        armed = {
            "FAULT_FOLDER": str(tmp_path / "out"),
            "FAULT_MODE": str(fault.mode),
            "FAULT_AT": str(at),
            "FAULT_VALUE": str(int(fault.value)),
            "FAULT_HALF": str(fault.half),
            "FAULT_LOG": str(tmp_path / "trace"),
        }
        done = subprocess.run(
            [sys.executable, "-c", WRITER, tmp_path / "out"],
            env=faults.environment(shim) | armed,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr, tmp_path / "out"

    return writer


def test_a_trace_has_every_call_that_changes_a_file_and_no_other(writer, tmp_path):
    code, _, out = writer(faults.TRACED)
    points = faults.read_trace(tmp_path / "trace")
    seen = [f"{p.call} {Path(p.path).relative_to(out)}" for p in points]
    assert code == 0 and [p.number for p in points] == list(range(1, len(seen) + 1))
    assert seen[: len(CALLS)] == CALLS and set(seen[len(CALLS) :]) >= set(REMOVED)
    assert [p.call for p in points if not p.needs_space] == ["rename", "unlinkat", "rmdir"]


def test_a_full_disk(writer):
    code, said, out = writer(faults.FAULTS["full"], 3)
    assert code == 1 and f"[Errno {errno.ENOSPC}]" in said and "still here" not in said
    assert (out / "new" / "a").read_bytes() == b""


def test_a_disk_that_fills_up_within_a_write(writer):
    code, said, out = writer(faults.FAULTS["full-half"], 3)
    assert code == 1 and f"[Errno {errno.ENOSPC}]" in said and "still here" in said
    assert (out / "new" / "a").read_bytes() == b"1234"


def test_a_full_disk_still_renames_and_removes(writer):
    code, said, out = writer(faults.FAULTS["full"], 5)
    assert code == 1 and (out / "new" / "b").exists() and "'c'" in said


@pytest.mark.parametrize("name, left", [("kill", b""), ("kill-half", b"1234")])
def test_a_kill(writer, name, left):
    code, said, out = writer(faults.FAULTS[name], 3)
    assert code == -signal.SIGKILL and said == "" and (out / "new" / "a").read_bytes() == left


def test_a_signal(writer):
    code, said, out = writer(faults.FAULTS["int"], 3)
    assert code == -signal.SIGINT and "KeyboardInterrupt" in said
    assert (out / "new" / "a").read_bytes() == b"12345678", "the write itself is not stopped"


def test_differences_are_found(tmp_path):
    for name, weights in (("one", b"\0"), ("other", b"\1")):
        (tmp_path / name / ".lock").mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "metrics.jsonl").write_text(
            f'{{"step": 1, "step_time": {weights[0]}}}\n'
        )
    (tmp_path / "other" / ".lock").rmdir()
    one, other = faults.left_by(tmp_path / "one"), faults.left_by(tmp_path / "other")
    assert faults.differences(one, one) == []
    assert faults.differences(one, other) == ["left over: .lock", "different: model.safetensors"]
    assert faults.differences(other, one) == ["missing: .lock", "different: model.safetensors"]


def test_what_must_not_be_said_is_found():
    assert faults.blurts("all is well\n") == []
    said = "x\nTraceback (most recent call last):\n  File\nOSError: [Errno 28] full\n"
    assert faults.blurts(said) == [f"{faults.BLURTS[0]}: OSError: [Errno 28] full"]
    said = "\rsft: 1/3 [00:00, loss=6.340]error: full\nan error: no\nerror: again\r"
    assert faults.error_sentences(said) == ["error: full", "error: again"]


# --- the scripts ---


@pytest.fixture(scope="session")
def bench(shim, tmp_path_factory):
    server = faults.Server(shim)
    bench = faults.Bench(tmp_path_factory.mktemp("faults"), server)
    bench.prepare()
    yield bench
    server.close()


def check(bench, run, fault, points):
    """Try the cases, and fail with the first ten that went wrong."""
    records = [bench.case(run, fault, point) for point in points if faults.meets(point, fault)]
    assert records, "no point: nothing was tested"
    wrong = [record for record in records if record["failures"]]
    if wrong:
        said = [json.dumps(record, indent=1) for record in wrong[:10]]
        pytest.fail(f"{len(wrong)} of {len(records)}:\n" + "\n".join(said), pytrace=False)


# Every script, and where: a share of its writes.
SOME = {"full": 0.3, "kill": 0.55, "int": 0.8}


@pytest.mark.parametrize("fault", SOME)
@pytest.mark.parametrize("run", ["sft", "mpo", "export"])
def test_a_fault_loses_nothing_and_resumes_exactly(run, fault, bench):
    points = [p for p in faults.ends_of_bursts(bench.whole(run)[0]) if faults.meets(p, fault)]
    check(bench, run, fault, [points[int(SOME[fault] * len(points))]])


@pytest.mark.slow
@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("run", faults.RUNS)
def test_a_fault_at_every_write(run, fault, bench):
    check(bench, run, fault, bench.whole(run)[0])


# --- the fork server and the shim against what they stand for ---


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "kill", "int", "term"])
@pytest.mark.parametrize("run", ["sft", "evaluate", "export"])
def test_a_process_of_its_own_does_the_same(run, fault, bench, shim, tmp_path):
    """`python SCRIPT ARGV`, its end included, and with real pictures."""
    alone = faults.Bench(tmp_path, faults.Process(shim))
    alone.models = bench.models
    points = [p for p in faults.ends_of_bursts(alone.whole(run)[0]) if faults.meets(p, fault)]
    check(alone, run, fault, faults.spread(points, 4))


def changes(line, folder):
    """(call, path) of a line of strace if the call changed something below the folder."""
    found = re.match(r"\d+ +(\w+)\((.*)", line)
    if not found or " = -1 " in line:
        return None
    call, rest = found.groups()
    if call.startswith(("open", "creat")):
        if "O_CREAT" not in rest and "O_TRUNC" not in rest:
            return None
        call = "open"
    dirs, names = re.findall(r"<([^>]*)>", rest), re.findall(r'"([^"]*)"', rest)
    names = [name for name in names if name]  # -s0 cuts what is written to ""
    path = names[-1] if names else dirs[0] if dirs else ""
    if names and not path.startswith("/"):
        path = f"{dirs[-1]}/{path}" if dirs else path
    return (call, path) if path.startswith(f"{folder}/") else None


# safetensors renames its temporary file by a system call of its own, which no library can see.
UNSEEN = re.compile(r"rename\w* .*/(model|adapter_model)[^/]*\.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace to compare with")
def test_no_call_that_changes_a_file_is_missed(shim, tmp_path):
    bench = faults.Bench(tmp_path, faults.Server(shim, strace=tmp_path / "strace"))
    bench.prepare()
    for run in faults.RUNS:
        bench.whole(run)
    bench.runner.close()
    lines = (tmp_path / "strace").read_text().splitlines()
    for run, (points, _) in bench.traced.items():
        seen = Counter((p.call.removesuffix("64"), p.path) for p in points)
        folder = bench.folder / f"whole-{run}"
        there = Counter(filter(None, (changes(line, folder) for line in lines)))
        paths = {path for _, path in seen}
        missed = [
            f"{call} {path}"
            for call, path in there - seen
            if call != "open" or path not in paths  # opened to append: nothing changes yet
        ]
        assert len(there) > 10 and [name for name in missed if not UNSEEN.fullmatch(name)] == []
