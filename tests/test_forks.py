"""Run: python -m pytest -q tests/test_forks.py         (10 s on CPU; no network)
   and: python -m pytest -q -m slow tests/test_forks.py (4 min: the proofs, after training a model)

docs/forks.md works: each diff applies, changes the files it names, and its proof shows what the
page says.
"""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "forks.md").read_text(encoding="utf-8")
PAGE, _, LOOPS = PAGE.partition("## Loops from papers\n")  # these are there: test_loops.py
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Fork(NamedTuple):
    """What a section of the page shows."""

    before: list[str]  # commands before the diff
    diff: str
    proof: list[str]


def fork_of(section: str) -> Fork:
    """Split a section at its diff."""
    blocks = BLOCK.findall(section)
    [at] = [i for i, (language, _) in enumerate(blocks) if language == "diff"]
    before, proof = (text for _, text in blocks[:at]), (text for _, text in blocks[at + 1 :])
    return Fork(list(before), blocks[at][1], list(proof))


INTRODUCTION, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
FORKS = {section.partition("\n")[0]: fork_of(section) for section in SECTIONS}
[(_, SETUP)] = BLOCK.findall(INTRODUCTION)
VARIABLES = "".join(re.findall(r"^\w+=.*\n", SETUP, re.MULTILINE))

# section: product files that it changes, and that it adds
FILES = {
    "A reward": ({"rewards.py"}, set()),
    "A question set": ({"tasks/published.py"}, {"tasks/vsr.py"}),
    "An objective": ({"losses.py"}, set()),
    "A self-training method": ({"pools.py", "selftrain.py"}, set()),
    "Another loop": (set(), {"train_reinforce.py"}),
}


# --- a copy of the repository ---


def files_of(folder: Path) -> list[str]:
    """List the files of a checkout that are there, also those not yet committed."""
    if not (folder / ".git").exists():
        pytest.skip("not a git checkout")
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (folder / name).is_file()]


def copy_to(folder: Path) -> Path:
    """Copy the product, without tests and docs."""
    for name in files_of(ROOT):
        if not name.startswith(("tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the product."""
    return copy_to(tmp_path / "copy")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def shell(folder: Path, commands: str, seconds: int) -> None:
    """Run commands of the page in a folder, with this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def apply(fork: Fork, folder: Path) -> None:
    """Do as the section says, up to its proof. The folder is no git checkout, nor in one."""
    for commands in fork.before:
        shell(folder, commands, 10)
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    words = ["git", "apply", "-"]
    done = subprocess.run(
        words, cwd=folder, env=env, input=fork.diff, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- each diff ---


def test_the_page_has_all_forks():
    assert LOOPS and not BLOCK.search(LOOPS), "a diff of the last section names its file"
    assert list(FORKS) == list(FILES)
    rows = re.findall(r"^\| \[(.+?)\]\(.+?\) \| (.*) \|$", INTRODUCTION, re.MULTILINE)
    shown = [(f"{name[0].upper()}{name[1:]}", files) for name, files in rows]
    assert [name for name, _ in shown] == list(FILES)
    for name, files in shown:
        assert set(re.findall(r"`(.+?)`", files)) == set.union(*FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_a_diff_applies_and_changes_what_the_page_says(name: str, copy: Path):
    before = contents(copy)
    apply(FORKS[name], copy)
    after = contents(copy)
    changed, added = FILES[name]
    assert max(map(len, re.findall(r"^\+(?!\+\+ )(.*)$", FORKS[name].diff, re.MULTILINE))) <= 100
    assert set(after) - set(before) == added
    assert {path for path in before if before[path] != after.get(path)} == changed
    for path in changed | added:
        compile(after[path], path, "exec")


def commands_of(text: str) -> list[list[str]]:
    """Return [script, argument, ...] of each `python x.py` in commands of the page."""
    values = dict(re.findall(r'^(\w+)="(.*)"$', VARIABLES, re.MULTILINE))
    text = re.sub(r"\$(\w+)", lambda match: values[match[1]], text.replace("\\\n", " "))
    return [shlex.split(line) for line in re.findall(r"^python (\w+\.py .*)$", text, re.MULTILINE)]


# What a fork's modules do, in one process: importing torch takes seconds.
CHECK = """
import importlib, json, sys
for script, *arguments in json.load(sys.stdin):
    importlib.import_module(script.removesuffix(".py")).parse_args(arguments)

import torch
import losses
torch.manual_seed(0)
row = losses.LOSSES["gmpo"]
low, high = losses.clip_range(*row.epsilon)
old = -torch.rand(4, 6, dtype=torch.float64)
logp = (old + 0.5 * torch.randn(4, 6)).requires_grad_()
adv = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
lengths = [6, 4, 1, 6]
mask = torch.tensor([[float(t < n) for t in range(6)] for n in lengths], dtype=torch.float64)
cost = row.term(logp, old, adv, mask, low, high)
for b, n in enumerate(lengths):
    product = 1.0
    for ratio in (logp - old)[b, :n].exp().tolist():
        clipped = min(max(ratio, low), high)
        product *= min(ratio, clipped) if adv[b] > 0 else max(ratio, clipped)
    assert torch.allclose(cost[b], -adv[b] * product ** (1 / n)), b

def gradient(name, term, old):
    weights = losses.token_weights(mask, name)
    cost = term(logp, old, adv, mask, low, high)
    return torch.autograd.grad(losses.aggregate(cost, weights), logp)[0]

still = gradient("gmpo", row.term, old) == 0
clipped = row.clipped(logp, old, adv, mask, low, high)
assert clipped[:2].any() and torch.equal(still, clipped | (mask == 0) | (adv == 0)[:, None])
on_policy = [gradient(name, losses.LOSSES[name].term, logp.detach()) for name in ("gmpo", "grpo")]
assert torch.allclose(*on_policy)
"""


def test_all_forks_together_parse_their_commands_and_gmpo_is_its_formula(copy: Path):
    """A clipped token has no gradient; on-policy the gradient is GRPO's."""
    for fork in FORKS.values():
        apply(fork, copy)
    commands = [
        command for fork in FORKS.values() for text in fork.proof for command in commands_of(text)
    ]
    commands += commands_of(SETUP)
    assert len(commands) == len(FORKS) + 1
    words = [sys.executable, "-c", CHECK]
    done = subprocess.run(
        words, cwd=copy, input=json.dumps(commands), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]


# --- the proofs ---


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(run: Path) -> list[dict]:
    """Return the metrics of three steps, all finite."""
    steps = lines_of(run / "metrics.jsonl")[1:]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) for line in steps)
    return steps


def see_brevity(runs: Path) -> None:
    for line in steps_of(runs / "brevity"):
        assert 0.6 < line["rewards/brevity"] < 0.9 and line["rewards/brevity/failed"] == 0
        total = line["rewards/accuracy"] + 0.2 * line["rewards/brevity"]
        assert line["reward"] == pytest.approx(total)


def see_vsr(runs: Path) -> None:
    [row] = lines_of(runs / "vsr" / "predictions.jsonl")
    assert row["question"] == "A red object is on top. Is this true, yes or no?"
    assert row["answer"] == "no" and row["relation"] == "on top"
    result = json.loads((runs / "vsr" / "result.json").read_text(encoding="utf-8"))
    assert result["by"]["relation"] == {"on top": {"accuracy": row["accuracy"], "n": 1}}


def see_gmpo(runs: Path) -> None:
    args = json.loads((runs / "gmpo" / "args.json").read_text(encoding="utf-8"))
    assert (args["epsilon"], args["epsilon_high"]) == (0.3297, 0.4918)
    assert any(line["clip_ratio/region_mean"] > 0 for line in steps_of(runs / "gmpo"))


def see_rft(runs: Path) -> None:
    folder = runs / "rft" / "iteration-1"
    pool, items = lines_of(folder / "pool.jsonl"), lines_of(folder / "train.jsonl")
    right = {(line["id"], line["completion"].strip()) for line in pool if line["right"]}
    assert len(pool) == 32 and 0 < len(right) == len(items)
    assert {(item["id"], item["target"]) for item in items} == right


def see_reinforce(runs: Path) -> None:
    rewards = []
    for line in steps_of(runs / "reinforce"):
        rewards.append(line["reward"])
        baseline = sum(rewards) / len(rewards)
        assert line["loss"] == pytest.approx(baseline - line["reward"], abs=1e-5)


SEEN = dict(zip(FILES, (see_brevity, see_vsr, see_gmpo, see_rft, see_reinforce)))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the model that the proofs start from."""
    folder = copy_to(tmp_path_factory.mktemp("small"))
    shell(folder, SETUP, 600)
    return folder / "runs" / "small"


@pytest.mark.slow
@pytest.mark.parametrize("name, see", SEEN.items(), ids=list(SEEN))
def test_a_proof_shows_what_the_page_says(
    name: str, see: Callable[[Path], None], copy: Path, small: Path
):
    apply(FORKS[name], copy)
    shutil.copytree(small, copy / "runs" / "small")
    for commands in FORKS[name].proof:
        shell(copy, VARIABLES + commands, 300)
    see(copy / "runs")
