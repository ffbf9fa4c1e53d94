"""Run: python -m pytest -q tests/test_damage.py        (25 s of one core; no network)

Files that a run reads back, damaged, and the run taken up again: the same results, or one sentence
whose remedy is followed. `-m slow` goes through all files and damages of all scripts, which takes
hours on one core; `python tests/damage.py` does the same with a table of what was found.
"""

import json
import random
import shutil
from pathlib import Path

import damage
import faults
import pytest
import remembered

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


# --- runs that are remembered ---


@pytest.fixture
def state(tmp_path):
    """A run's folder with two checkpoints, and the place where commands change it."""
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / "state/run" / name).mkdir(parents=True)
        (tmp_path / "state/run" / name / "weights").write_text(f"weights of {name}")
    (tmp_path / "state/run/pool.jsonl").write_text("a pool")
    (tmp_path / "state/run/link").symlink_to("checkpoint-1/weights")
    place = remembered.Place()
    place.lay_out(tmp_path / "state", tmp_path / "at")
    return tmp_path / "state", tmp_path / "at", place


def resume(at, reads, opens=("checkpoint-1/weights",)):
    """A stand-in for a command: goes on from checkpoint-1, and makes checkpoint-2 again."""
    for name in opens:
        assert (at / "run" / name).read_text() is not None
    shutil.rmtree(at / "run/checkpoint-2")
    (at / "run/checkpoint-2").mkdir()
    (at / "run/checkpoint-2/weights").write_text("weights of checkpoint-2, made again")
    (at / "run/pool.jsonl").unlink()
    reads.write_text("".join(f"open\t{at / 'run' / name}\n" for name in opens))
    return {"code": 0, "left": False}, "it is done"


def damaged_and_resumed(state, memory, damage_of, **options):
    """Lay the state out, damage a file by {name: text}, and resume: what is there then."""
    source, at, place = state
    place.lay_out(source, at)
    for name, text in damage_of.items():
        (at / "run" / name).write_text(text)
    reads = at.with_name("reads")
    go = lambda: resume(at, reads, **options)  # noqa: E731
    memory.run("command", at, reads, go, place)
    files = [path for path in at.rglob("*") if damage.is_file(path)]
    return {str(path.relative_to(at)): path.read_text() for path in files}


def test_a_run_is_repeated_where_nothing_differs_that_it_opened(state, tmp_path):
    memory = remembered.Memory(tmp_path / "memory", remembered.Prints())
    whole = {
        "run/checkpoint-1/weights": "weights of checkpoint-1",
        "run/checkpoint-2/weights": "weights of checkpoint-2, made again",
    }
    assert damaged_and_resumed(state, memory, {"checkpoint-2/weights": "x"}) == whole
    for text in ("y", "weights of checkpoint-X"):
        assert damaged_and_resumed(state, memory, {"checkpoint-2/weights": text}) == whole
        assert damaged_and_resumed(state, memory, {"pool.jsonl": text}) == whole
    assert (memory.made, memory.repeated) == (1, 4)
    other = damaged_and_resumed(state, memory, {"checkpoint-1/weights": "weights of checkpoint-X"})
    assert other == whole | {"run/checkpoint-1/weights": "weights of checkpoint-X"}
    damaged_and_resumed(state, memory, {"more": "a file that was not there"})
    assert memory.made == 3


def test_what_it_did_not_open_is_left_as_it_is(state, tmp_path):
    memory = remembered.Memory(tmp_path / "memory", remembered.Prints())
    for text in ("x", "y"):
        left = damaged_and_resumed(state, memory, {"checkpoint-1/weights": text}, opens=())
        assert left["run/checkpoint-1/weights"] == text
    assert (memory.made, memory.repeated) == (1, 1)


def test_a_run_that_renames_what_it_has_not_opened_is_made_again(state, tmp_path):
    source, at, place = state
    memory, reads = remembered.Memory(tmp_path / "memory", remembered.Prints()), tmp_path / "reads"

    def go():
        reads.write_text("")
        (at / "run/checkpoint-2").rename(at / "run/later")
        return {}, ""

    for text in ("x", "y"):
        place.lay_out(source, at)
        (at / "run/checkpoint-2/weights").write_text(text)
        memory.run("command", at, reads, go, place)
        assert (at / "run/later/weights").read_text() == text
    assert (memory.made, memory.repeated) == (2, 0)


def test_a_state_is_laid_out_again_whatever_was_done_to_it(state):
    source, at, place = state
    whole = remembered.Prints().left_by(source)
    for name in ("checkpoint-2/weights", "pool.jsonl", "link", "checkpoint-1/weights"):
        path, old = at / "run" / name, (source / "run" / name)
        for one in damage.damages(
            old.read_bytes() if old.is_file() else b"x", {}, random.Random(0)
        ):
            one.apply(path)
            (at / "run/checkpoint-1/more").write_text("more")
            place.lay_out(source, at)
            assert remembered.Prints().left_by(at) == whole, one.name
            assert (at / "run/link").readlink() == Path("checkpoint-1/weights")


@pytest.mark.parametrize("name", ["args.json", "metrics.jsonl", "SHA256SUMS", "state.pt", "x"])
def test_every_damage_of_a_file_that_is_left_has_a_digest(name, tmp_path):
    old = OBJECT if name == "args.json" else LINES
    deep = b'{"a": ' + b"[" * 700 + b"]" * 700 + b"}"
    found = set()
    made = [one.content for one in damage.damages(old, {}, random.Random(0))]
    for content in [old, deep, *[some for some in made if some is not None]]:
        (tmp_path / name).write_bytes(content)
        found.add(remembered.Prints().left_by(tmp_path)[name])
    assert len(found) > 20


def test_digests_tell_plain_values_apart():
    values = [b"1", "1", 1, 1.0, True, None, [1], [[1]], {"a": 1}, {"a": b"1"}, {"b": 1}, {}, []]
    assert len({remembered.digest_of(value) for value in values}) == len(values)
    assert remembered.digest_of({"a": 1, "b": 2}) == remembered.digest_of({"b": 2, "a": 1})


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
