"""What all tests share: the repository on the path, no network, and one tiny model."""

import os
import signal
import sys
from pathlib import Path

import pytest

# Before torch is imported: a test process a core (pytest-xdist), and threads that spin, are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before transformers is imported: a test that downloads should fail.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before triton is imported: its kernels run on the CPU, as written.
os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Under `nohup` or `&` a process ignores these, and the runs that a test starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGHUP", "SIGTERM"):
    if hasattr(signal, name):  # Windows has no SIGHUP
        signal.signal(getattr(signal, name), signal.SIG_DFL)

import plumbing  # noqa: E402, F401  before torch: it says how OpenMP's threads wait


@pytest.fixture(scope="session")
def tiny():
    """Load (policy, processor) of the untrained preset once, for all tests: do not change it."""
    import model

    return model.load("tiny", seed=0)


@pytest.fixture(scope="session")
def base(tiny, tmp_path_factory):
    """The untrained preset as a checkpoint: it says noise, but no script refuses it."""
    import model

    directory = tmp_path_factory.mktemp("base")
    model.save(*tiny, directory)
    return str(directory)


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of a short run's time."""
    import commands

    commands.skip_pictures(monkeypatch)


@pytest.fixture
def speaking(monkeypatch):
    """The untrained preset gives answers."""
    import commands

    commands.speak(monkeypatch)


@pytest.fixture
def toy_reward(monkeypatch):
    """--reward-funcs vowels."""
    import commands

    commands.use_toy_reward(monkeypatch)


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """sft -> grpo -> evaluate -> export, two steps each: the directories, by name."""
    import commands

    return commands.two_steps_each(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def mmpr(tmp_path_factory):
    """A meta file of three sets of given pairs."""
    import preferences

    return preferences.write_pairs(tmp_path_factory.mktemp("mmpr"))


@pytest.fixture
def folder(tmp_path):
    """A folder with two pictures in it."""
    from samples import png

    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(color="red"))
    (tmp_path / "images" / "b.png").write_bytes(png(color="blue"))
    return tmp_path


@pytest.fixture
def wide(tmp_path):
    """A folder with a picture of 640 x 480."""
    from samples import png

    (tmp_path / "a.png").write_bytes(png(640, 480))
    return tmp_path


@pytest.fixture
def soon():
    """Let a call that would wait forever fail instead."""

    def stop(*_):
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
