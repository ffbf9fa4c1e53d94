"""Run: python -m pytest -q tests/test_shipped.py    (15 s on one core of a CPU; no network)

checkpoints/: the bytes that were trained, what they answer, and that no run writes over them.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path, PurePath

import pytest
from commands import ROOT, SCRIPTS, refusal, train

import data
import model
import rewards
import rollout
import tasks
import train_grpo
from grading.metrics import wilson
from plumbing import records, sums
from plumbing.errors import UserError
from recipes import ship

SHIPPED = {"count": "count", "table": "table"}  # folder: the task that it answers
FOLDERS = [ROOT / "checkpoints" / name for name in SHIPPED]
QUESTIONS = 64


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_shipped_folder_is_here() -> None:
    assert sorted(ROOT.glob("checkpoints/*")) == sorted(FOLDERS)


def test_the_bytes_are_those_that_were_saved(folder: Path) -> None:
    assert sums.fault_of(folder) is None
    assert sorted(sums.sums_of(folder)) == sums.files_of(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6


def test_args_name_no_place_of_the_machine_that_trained(folder: Path) -> None:
    args = records.read_record(folder / "args.json")
    assert args and "cwd" not in args
    words = [*map(str, args.values()), *args["argv"]]
    assert not any(PurePath(word).is_absolute() for word in words)
    assert len(args["commit"]) == 40  # of a checkout without changes


def test_make_trains_them(folder: Path) -> None:
    """The command in args.json is the one in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    args = records.read_record(folder / "args.json")
    command = " ".join([args["script"], *args["argv"]])
    assert command in " ".join(makefile.split())


def test_git_changes_no_byte(folder: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = [file.relative_to(ROOT).as_posix() for file in folder.iterdir()]

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert sorted(git("ls-files", folder)) == sorted(names)
    said = git("check-attr", "text", "filter", "--", *names)
    assert {line.rpartition(": ")[2] for line in said if ": text: " in line} == {"unset"}
    assert {line.rpartition(": ")[2] for line in said if ": filter: " in line} == {"unspecified"}


def test_accuracy_on_other_questions_is_what_the_run_measured(folder: Path) -> None:
    """The run asked 512 questions of the held-out set; these are the next ones.

    Intervals of four standard errors: by chance one pair in 10,000 is apart.
    """
    args = records.read_record(folder / "args.json")
    task = SHIPPED[folder.name]
    stated = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert stated["data"] == f"{task}:test" and stated["n"] == 512
    policy, processor = model.load(folder)
    asker = data.Asker(processor, args["prompt_template"], args["system_prompt"])
    stream = tasks.read(f"{task}:test")
    examples = [stream[n] for n in range(512, 512 + QUESTIONS)]
    greedy = rollout.Sampling(128, temperature=0)
    texts, _, _ = rollout.answer_all(policy, asker, examples, sampling=greedy, batch_size=QUESTIONS)
    measured = rewards.summary(texts, examples)
    assert measured["format_rate"] > 0.9
    low, high = wilson(measured["accuracy"] * QUESTIONS, QUESTIONS, z=4)
    assert low < stated["accuracy"] < high


def test_it_learns_from_there(folder: Path, tmp_path: Path) -> None:
    """A step of reinforcement learning has a gradient, and leaves the folder as it was."""
    line = f"--model {folder} --data {SHIPPED[folder.name]} --max-eval-samples 2 --save-steps 0"
    line += " --prompts-per-step 4 --num-generations 4 --max-completion-length 100 --max-steps 1"
    train(train_grpo, f"{line} --temperature 1.2 --output-dir {tmp_path}")
    step = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert step["grad_norm"] > 0 and step["rewards/format"] > 0.5
    assert sums.fault_of(folder) is None


WRITERS = {  # a command of every script that writes a directory
    "train_sft": "--data count --max-steps 1",
    "train_grpo": "--data count --max-steps 1",
    "train_dpo": "--pairs pairs.jsonl",
    "selftrain": "--method r3v --data table",
    "evaluate": "--data count:test",
}


@pytest.mark.parametrize("its_model", [True, False], ids=["its model", "another model"])
@pytest.mark.parametrize("script", WRITERS)
def test_no_run_writes_over_them(
    script: str, its_model: bool, base: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """On a copy: what fails here would overwrite it."""
    folder = tmp_path / "count"
    shutil.copytree(FOLDERS[0], folder)
    words = ["--model", folder if its_model else base, *WRITERS[script].split()]
    assert str(folder) in refusal(SCRIPTS[script], [*words, "--output-dir", folder], capsys)
    assert sums.fault_of(folder) is None


# --- recipes/ship.py ---


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, as its directory would be."""
    out = tmp_path / "run"
    shutil.copytree(FOLDERS[0], out)
    args = records.read_record(out / "args.json")
    records.write_record(out / "args.json", args | {"cwd": "/home/somebody"})
    return out


def test_shipping_again_gives_the_same_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old.txt").write_text("of an earlier one")
    ship.main(ship.parse_args([str(run), str(tmp_path / "new")]))
    for file in FOLDERS[0].iterdir():
        assert (tmp_path / "new" / file.name).read_bytes() == file.read_bytes(), file.name
    assert not (tmp_path / "new" / "old.txt").exists()


def test_what_is_not_finished_is_not_shipped(run: Path, tmp_path: Path) -> None:
    for name in ("result.json", sums.SUMS):
        os.remove(run / name)
        with pytest.raises(UserError, match=f"{name} is missing; let the run finish"):
            ship.ship(run, tmp_path / "new")


def test_a_path_of_this_machine_is_not_shipped(run: Path, tmp_path: Path) -> None:
    args = records.read_record(run / "args.json")
    for change in ({"model": "/home/somebody/reading"}, {"argv": ["--model", "/home/reading"]}):
        records.write_record(run / "args.json", args | change)
        with pytest.raises(UserError, match="a path of this machine"):
            ship.ship(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()
