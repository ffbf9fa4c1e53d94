"""What all tests share: the repository on the path, no network, and one tiny model."""

import os
import signal
import sys
from pathlib import Path

import pytest

# Before transformers is imported: a test that downloads should fail.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before triton is imported: its kernels run on the CPU, as written.
os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.fixture(scope="session")
def tiny():
    """Load (policy, processor) of the untrained preset once, for all tests: do not change it."""
    import model

    return model.load("tiny", seed=0)


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
