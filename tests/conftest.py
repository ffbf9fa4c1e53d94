"""What all tests share: the repository on the path, no network, and one tiny model."""

import os
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
