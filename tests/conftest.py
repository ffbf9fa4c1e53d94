"""What all tests share: the repository on the path, no network, and one tiny model."""

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before transformers is imported: a test that downloads should fail
)
os.environ.setdefault(
    "TRITON_INTERPRET", "1"
)  # before triton is imported: its kernels run on the CPU, as written
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.fixture(scope="session")
def tiny():
    """(policy, processor) of the untrained preset. Shared by all tests: leave it as it is, or load your own."""
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
    """Let a call that would wait for ever fail instead."""

    def stop(*_):
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
