"""Run: python -m pytest -q tests/test_damage.py        (25 s of one core; no network)

Files that a run reads back, damaged, and the run taken up again: the same results, or one sentence
whose remedy is followed. `-m slow` goes through all files and damages of all scripts, which takes
hours on one core; `python tests/damage.py` does the same with a table of what was found.
"""

import json
import random
from pathlib import Path

import damage
import faults
import pytest

pytestmark = pytest.mark.skipif(bool(faults.why_not()), reason=faults.why_not() or "")

# --- the harness itself: damages differ, and a remedy is read from its sentence ---

OBJECT = json.dumps({"a": 1, "b": "x", "crc32": "00000000"}, indent=1).encode()
LINES = b"".join(b'{"id": "%d", "crc32": "00000000"}\n' % n for n in range(5))


@pytest.mark.parametrize("old", [OBJECT, LINES, bytes(range(256))])
def test_there_are_some_twenty_damages_of_every_file_and_none_is_the_file(old, tmp_path):
    others = {"another seed's": b"other", "an older": old}
    made = damage.damages(old, others, random.Random(0))
    assert len(made) >= (17 if old[:1] == b"\0" else 30)
    assert len({one.name for one in made}) == len(made) and "in its place an older" not in str(made)
    for one in made:
        path = tmp_path / "file"
        path.write_bytes(old)
        one.apply(path)
        assert not damage.is_file(path) or path.read_bytes() != old, one.name
        if path.exists() or path.is_symlink():
            damage.put_away(path)


@pytest.mark.parametrize(
    "said, what, more, out",
    [
        (
            "x is damaged; checkpoint-2 is whole: --resume-from-checkpoint {run}/checkpoint-2",
            "resume from another checkpoint",
            "--resume-from-checkpoint {run}/checkpoint-2",
            "run",
        ),
        ("x; delete {run}/checkpoint-3, and training starts over", "delete PATH", "m", "run"),
        (
            "x; delete iteration-1 and what follows it in {run}, and",
            "delete iterations",
            "m",
            "run",
        ),
        ("{run}/args.json cannot be used: y; move it away, then z", "move it away", "m", "run"),
        ("x is another run's; name another --output-dir", "another directory", "", "again/run"),
        ("all is lost", None, "m", "run"),
    ],
)
def test_a_remedy_is_followed(tmp_path, said, what, more, out):
    run = tmp_path / "run"
    for name in ("checkpoint-2", "checkpoint-3", "iteration-0", "iteration-1", "iteration-2"):
        (run / name).mkdir(parents=True)
    (run / "args.json").write_text("{}")
    before = {path.name for path in run.iterdir()}
    attempt = damage.Try(tmp_path, damage.RUNS["sft"], "m")
    assert damage.follow("error: " + said.format(run=run), attempt, run / "x", b"") == what
    assert attempt.more == more.format(run=run) and attempt.out == out
    gone = before - {path.name for path in run.iterdir()}
    deleted = {
        "delete PATH": {"checkpoint-3"},
        "delete iterations": {"iteration-1", "iteration-2"},
        "move it away": {"args.json"},
    }
    assert gone == deleted.get(what, set())


def test_a_remedy_that_names_nothing_cannot_be_followed(tmp_path):
    attempt = damage.Try(tmp_path, damage.RUNS["sft"], "")
    with pytest.raises(damage.Impossible):
        damage.follow(f"error: x; delete {tmp_path}/none, and y", attempt, tmp_path / "x", b"")


def test_what_is_written_over_is_noticed(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_bytes(LINES)
    other = LINES.replace(b'"id": "4"', b'"id": "7"') + b"cut"
    assert damage.is_kept(path, LINES + b"cut") and not damage.is_kept(path, other)
    Path(f"{path}.damaged").write_bytes(other)
    assert damage.is_kept(path, other)


# --- the scripts ---


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    bench = damage.Bench(folder, faults.Server(faults.build_shim(folder)))
    bench.prepare()
    yield bench
    bench.runner.close()


def check(bench, cases):
    """Try the cases, and fail with the first ten that went wrong."""
    records = [bench.damaged(*case) for case in cases]
    assert records, "no case: nothing was tested"
    wrong = [record for record in records if record["failures"]]
    if wrong:
        said = [json.dumps(record, indent=1) for record in wrong[:10]]
        pytest.fail(f"{len(wrong)} of {len(records)}:\n" + "\n".join(said), pytrace=False)


@pytest.mark.parametrize("run", ["mpo", "evaluate"])
def test_what_is_damaged_is_made_again_or_named_with_a_remedy(run, bench):
    cases = list(damage.cases(bench, run, 1, 1))
    assert len({file for _, file, _ in cases}) > 2
    check(bench, faults.spread(cases, 4))


@pytest.mark.slow
@pytest.mark.parametrize("run", [*damage.RUNS, *damage.READERS])
def test_every_damage_of_every_file(run, bench):
    check(bench, damage.cases(bench, run, damage.STATES, 2))
