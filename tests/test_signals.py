"""Run: python -m pytest -q tests/test_signals.py        (50 s of one core; no network)

Signals at random moments of the real scripts, and two of them that want one directory. `-m slow`
has 100 moments a script, processes of their own, terminals and pipes: hours on one core.
"""

import json
import random
import signal
import zlib

import faults
import pytest
import signals

pytestmark = pytest.mark.skipif(bool(faults.why_not()), reason=faults.why_not() or "")


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return faults.build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def bench(shim, tmp_path_factory):
    server = faults.Server(shim)
    bench = signals.Bench(tmp_path_factory.mktemp("signals"), server)
    bench.prepare()
    yield bench
    server.close()


@pytest.fixture(scope="module")
def second(shim):
    server = faults.Server(shim)
    yield server
    server.close()


def check(*records):
    """Fail with the first five records that have failures."""
    wrong = [json.dumps(record, indent=1) for record in records if record["failures"]]
    if wrong:
        pytest.fail(f"{len(wrong)} of {len(records)}:\n" + "\n".join(wrong[:5]), pytrace=False)


# --- the harness itself: what is wrong is found ---

ASKED = "\nstopping soon (Ctrl-C; a second one stops at once)\n"
WRONG = {
    (ASKED + "\nstopped after step 3; go on\n", 143, (2,)): "exit code 143",
    (ASKED + "\nstopped after step 3; go on\n", 130, (2,)): "step 3, which is named",
    (ASKED + "\nstopped at once (Ctrl-C); x\n", 130, (2,)): "a step that it had promised",
    ("\nstopped at once (Ctrl-C); x\nstopped at once\n", 130, (2, 2)): "too many sentences",
    ("", 130, (2,)): "and it said []",
    ("\nstopped at once; newest: checkpoint-7)\n", 130, (2,)): "step 7, which is named",
    ("Traceback (most recent call last):\nKeyboardInterrupt\n", 130, (2,)): "Traceback",
    ("", None, (2,)): "it hangs",
}


@pytest.mark.parametrize("case", WRONG, ids=WRONG.values())
def test_what_is_wrong_is_found(case, tmp_path):
    text, code, sent = case
    assert any(WRONG[case] in what for what in signals.failures_of(text, code, tmp_path, sent))


def test_locks_and_damaged_checkpoints_are_found(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model").write_text("weights")
    (checkpoint / "SHA256SUMS").write_text(f"# 1 files\n{'0' * 64}  model\n")
    (tmp_path / "run" / ".lock").touch()
    text = ASKED + "\nstopped after step 3; go on\n"
    found = signals.failures_of(text, 130, tmp_path, [2])
    assert found == ["checkpoint-3 is not whole", ".lock is left"]


# --- signals ---

# Where the signal comes: a share of the run's CPU time.
SOME = {"sft": 0.5, "mpo": 0.4, "evaluate": 0.3}


@pytest.mark.parametrize("run", SOME)
def test_a_signal_loses_nothing_and_resumes_exactly(run, bench):
    bench.whole(run)
    number = list(signals.EXIT)[zlib.crc32(run.encode()) % 3]
    check(bench.moment(run, [(number, SOME[run] * bench.cpu[run] * 1000)]))


def test_two_signals_end_a_run_at_once(bench):
    bench.whole("sft")
    at = 0.4 * bench.cpu["sft"] * 1000
    check(bench.moment("sft", [(signal.SIGTERM, at), (signal.SIGINT, at + 5)]))


@pytest.mark.slow
@pytest.mark.parametrize("run", signals.RUNS)
def test_100_moments(run, bench):
    rng = random.Random(run)
    bench.whole(run)
    moments = [signals.alarms_of(rng, bench.cpu[run]) for _ in range(100)]
    check(*[bench.moment(run, alarms) for alarms in moments])


@pytest.fixture(scope="module")
def real(shim, tmp_path_factory):
    server = faults.Server(shim, draw=True)
    bench = signals.Bench(tmp_path_factory.mktemp("real"), server)
    bench.prepare()
    yield signals.Real(bench, random.Random(0))
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", signals.WAYS)
@pytest.mark.parametrize("run", signals.RUNS)
def test_a_process_of_its_own(run, way, real):
    check(*[real.case(run, way) for _ in range(10)])


@pytest.mark.slow
@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize("run", signals.RUNS)
def test_a_terminal_that_is_closed(run, shell, real):
    real.bench.whole(run)
    end = 1000 * (3 + real.bench.cpu[run])
    moments = [real.rng.uniform(2500, end) for _ in range(10)]
    check(*[real.terminal(run, moment, shell) for moment in moments])


# --- two at once ---


def test_a_second_run_is_refused_and_the_first_does_not_notice(bench, second):
    assert signals.Pairs(bench, second).pairs("evaluate", 12) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", signals.PAIRS)
def test_all_pairs_of_scripts(first, bench, second):
    for at in (8, 12) if first in ("rescore", "bench") else (8, 25):
        assert signals.Pairs(bench, second).pairs(first, at) == []


def test_of_two_that_start_at_the_same_moment_one_runs(bench, second, tmp_path):
    assert signals.Pairs(bench, second).race("rescore", tmp_path / "race") == []


@pytest.mark.slow
def test_of_two_that_start_at_the_same_moment_one_runs_20_times(bench, second, tmp_path):
    for n in range(20):
        assert signals.Pairs(bench, second).race("rescore", tmp_path / f"race-{n}") == []


# --- one after the other ---


@pytest.mark.slow
@pytest.mark.parametrize("first", signals.PAIRS)
def test_nothing_is_lost_in_a_directory_that_another_script_has_filled(first, bench, second):
    assert signals.Pairs(bench, second).one_after_the_other(first) == []
