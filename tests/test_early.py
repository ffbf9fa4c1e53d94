"""Run: python -m pytest -q tests/test_early.py        (about 20 s on CPU; no network)

A typo, and data that are not there, are told before torch is imported.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import flags_of

from tasks import early

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = "train_sft train_grpo train_dpo selftrain evaluate generate data".split()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_flags_that_a_text_spells_are_those_of_its_parser(script):
    path = ROOT / f"{script}.py"
    spelled = {name for name in early.flags_in(str(path)) if not name.startswith("--no-")}
    real = {name for name in flags_of(path) if not name.startswith("--no-")}
    assert spelled == real - {"-h", "--help"}


@pytest.mark.parametrize(
    "command, says",
    [
        ("train_grpo.py --lerning-rate 1", "--lerning-rate; did you mean --learning-rate?"),
        ("train_grpo.py --data no.jsonl", "--data no.jsonl: no such file or folder"),
        ("train_sft.py --data=no.jsonl --model x", "--data no.jsonl: no such file or folder"),
        ("train_sft.py --data count --eval-data count:test no.json", "--data no.json: no such"),
        ("selftrain.py --refine_weigth 1", "did you mean --refine-weight?"),
        ("selftrain.py --warmup_data no.json", "no.json: no such file or folder"),
        ("selftrain.py --pairs x.json", "use train_dpo.py, which learns from given pairs"),
        ("train_dpo.py --pairs no.json", "no.json: no such file or folder; name a file of pref"),
        ("evaluate.py --use_vllm", "--use-vllm has no meaning here"),
        ("generate.py --imge a.png", "did you mean --image?"),
        ("data.py no.jsonl", "--data no.jsonl: no such file or folder"),
    ],
)
def test_what_is_wrong_is_told_at_once(command, says, tmp_path):
    """A torch that cannot be imported stands in the way: it is not asked for."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    script, *words = command.split()
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, ROOT / script, *words], capture_output=True, text=True, env=env
    )
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


GOOD = [
    "--model tiny --data count:test --eval-data count owner/name --no-gradient-checkpointing",
    "--data=count --system-prompt=--is-it --prompt_template think",
    "--prompt --a-flag? --help",
    "--warmup_data count --direct-weight 0",
]


@pytest.mark.parametrize("line", GOOD)
def test_what_is_right_goes_on_to_the_scripts_own_parser(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["selftrain.py", *line.split()])
    early.check(str(ROOT / "selftrain.py"))


def test_flags_that_a_fork_makes_by_a_format_are_known(tmp_path, monkeypatch, capsys):
    path = tmp_path / "fork.py"
    path.write_text("""for n in "ab":\n    p.add_argument(f"--{n}-weight", f"--{n}")\n""")
    monkeypatch.setattr(sys, "argv", ["fork.py", "--a-weight", "1", "--no-b"])
    early.check(str(path))


def test_every_script_looks_early():
    for script in SCRIPTS:
        lines = (ROOT / f"{script}.py").read_text().splitlines()
        at = next(n for n, line in enumerate(lines) if "early.check(__file__)" in line)
        assert not [line for line in lines[:at] if line.startswith(("import ", "from tasks"))]
        assert importlib.import_module(script)
