"""Run: python -m pytest -q tests/test_first_minutes.py        (about 10 s on CPU; no network)

What a newcomer types in the first minutes: generate.py --toy, and mistakes, which are answered
with what to type instead. tests/test_help.py has the helps.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SCRIPTS, refusal, train
from PIL import Image

import data
import generate
import model as modeling
import rollout
from plumbing import disk, not_installed, report
from tasks import inspection, toy

# --- generate.py --toy ---


def said(monkeypatch, texts):
    """Let the model give these answers, one after the other."""
    answered = [*texts], [7] * len(texts), ["stop"] * len(texts)
    monkeypatch.setattr(rollout, "answer_all", lambda *_, **__: answered)


def test_a_drawn_picture_is_asked_about_and_shown(base, tmp_path, monkeypatch, capsys):
    sheet = tmp_path / "new" / "a.png"
    records = [toy.make_example("count", "test", number) for number in (5, 6)]
    right, wrong = (f"<answer> {value} </answer>" for value in (records[0]["answer"], 999))
    said(monkeypatch, [right, wrong])
    line = f"--model {base} --toy count --num-questions 2 --seed 5 --output {sheet}"
    generate.main(generate.parse_args(line.split()))
    printed = capsys.readouterr().out
    for number, record in zip((5, 6), records):
        path = sheet.with_name(f"a-{number}.png")
        assert f"picture:  {path}\nquestion: {record['question']}\n" in printed
        with Image.open(path) as picture:
            assert picture.convert("RGB").tobytes() == record["image"].convert("RGB").tobytes()
    assert f"right: the answer is {records[0]['answer']}\n" in printed
    assert f"wrong: the answer is {records[1]['answer']}\n" in printed
    assert f"1 of 2 answers are right; pictures and answers side by side, to look at: {sheet}" in (
        printed
    )
    with Image.open(sheet) as picture:
        assert picture.width > 500


def test_several_answers_to_one_question(base, tmp_path, monkeypatch, capsys, no_pictures):
    gold = toy.make_example("count", "ood", 0)["answer"]
    said(monkeypatch, [f"<answer> {value} </answer>" for value in (gold, 999, gold)])
    line = f"--model {base} --toy count:ood --num-generations 3 --temperature 1"
    generate.main(generate.parse_args([*line.split(), "--output", f"{tmp_path}/a.png"]))
    printed = capsys.readouterr().out
    assert printed.count("right: ") == 2 and printed.count("wrong: ") == 1
    assert printed.count("picture: ") == 1 and "2 of 3 answers are right" in printed


@pytest.mark.parametrize("task", toy.TASKS)
def test_every_toy_task_can_be_asked(task, base, tiny, tmp_path, monkeypatch, capsys, no_pictures):
    """With and without pictures, boxes and lessons."""
    monkeypatch.setattr(modeling, "load_from_args", lambda args: tiny)  # its answers are replaced
    record = toy.make_example(task, "test", 0, teacher="gold")
    text = record["solution"]  # of a reading lesson, the bare answer
    said(monkeypatch, [text if "<answer>" in text else f"<answer> {text} </answer>"])
    line = f"--model {base} --toy {task} --output {tmp_path}/a.png"
    generate.main(generate.parse_args(line.split()))
    printed = capsys.readouterr().out
    assert "1 of 1 answers are right" in printed
    assert (tmp_path / "a-0.png").is_file() == ("image" in record)


def test_the_template_is_the_checkpoints_or_r1v(base, tmp_path, monkeypatch, no_pictures):
    """Verbatim, as for --prompt, a toy question does not say how to answer."""
    asked = []

    def answer_all(policy, asker, examples, *_, **__):
        asked.append(asker.prompt(examples[0]).text)
        return [""], [0], ["stop"]

    monkeypatch.setattr(rollout, "answer_all", answer_all)
    train(generate, f"--model {base} --toy count --output {tmp_path}/a.png")
    assert "<answer>" in asked[0]


def test_the_real_model_answers(base, tmp_path, capsys):
    line = f"--model {base} --toy count --max-completion-length 3 --output {tmp_path}/a.png"
    train(generate, line)
    assert "(3 tokens, cut at --max-completion-length; prompt template: r1v)" in (
        capsys.readouterr().out
    )


# --- mistakes ---

RUN = "--max-steps 1 --output-dir {out}/new"
MISTAKES = {  # script and words, and how the sentence ends
    "train_grpo": "output-dir; for example: python train_grpo.py --model .* --output-dir runs/grpo",
    "train_sft --model": "expected one argument; train_sft.py --help-all says what it takes",
    "train_grpo --model {base} --data count": "output-dir; for example: python train_grpo.py .*",
    f"train_grpo --model {{base}} --data count {RUN} --max-steps x": "train_grpo.py --help-all .*",
    f"train_grpo --model {{out}}/cuont --data count {RUN}": "did you mean {out}/count\\?",
    f"train_grpo --model {{out}}/else/count --data count {RUN}": "mean checkpoints/count\\?",
    f"train_grpo --model {{out}} --data count {RUN}": "did you mean {out}/count\\?",
    f"train_grpo --model {{out}}/empty --data count {RUN}": "such as checkpoints/count, .*",
    f"train_grpo --model tinny --data count {RUN}": "did you mean tiny\\?",
    f"train_grpo --model {{base}} --data cuont {RUN}": "\\(is count meant\\?\\)",
    f"train_grpo --model {{base}} --data count:tset {RUN}": "type --data count:test",
    f"train_grpo --model {{base}} --data count:x {RUN}": "type --data count:test",
    f"train_grpo --model {{base}} --data mine.jsonl {RUN}": "check the path",
    f"train_grpo --model {{base}} --data count --eval-data cuont {RUN}": "--eval-data cuont:.*",
    "train_grpo --model {base} --data count --output-dir {out}/new": "e.g. --max-steps 200",
    f"train_grpo --model {{base}} --data count {RUN} --reward-funcs acuracy": "mean accuracy\\?",
    f"train_grpo --model {{base}} --data count {RUN} --prompt-template r1": "mean r1v\\?",
    f"train_grpo --model {{base}} --data count {RUN} --num-generations 1": "8 are usual",
    "train_grpo --model {base} --data count --max-steps 1 --output-dir {out}/count": (
        "name another --output-dir, such as {out}/count-2"
    ),
    "evaluate --model {base} --data count --output-dir {out}/trained": (
        "name another --output-dir, such as {out}/trained-2"
    ),
    "train_dpo --model {base} --pairs pairs.jsonl --output-dir {out}/new": ".*\\(docs/data.md\\)",
    "selftrain --model {base} --data table --output-dir {out}/new": "--method r3v .*",
    "generate": "for example: python generate.py --model checkpoints/count --toy count .*",
    "generate --model {base}": "--toy count for a drawn picture",
    "generate --model {base} --toy cuont": "did you mean count\\?",
    "generate --model {base} --toy xyz": "type --toy count",
    "generate --model {base} --toy mine.jsonl": "type --toy count",
    "generate --model {base} --toy count --prompt hi": "omit --prompt, --image and --raw",
    "generate --model {base} --prompt hi --num-questions 2": "leave them out",
    "generate --model {base} --toy count --output a.jpg": "a file that ends in .png",
    "model": "for example: python model.py export .*",
    "report": "for example: python -m plumbing.report runs/grpo",
    "inspection": "for example: python data.py FILE .*",
}
MORE = {"model": modeling, "report": report, "inspection": inspection}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_with_what_to_type(line, base, tmp_path, capsys, monkeypatch):
    for name in ("count", "empty", "trained"):
        (tmp_path / name).mkdir()
    (tmp_path / "count" / "config.json").write_text("{}")
    (tmp_path / "count" / "SHA256SUMS").write_text("")
    (tmp_path / "trained" / "metrics.jsonl").write_text("")
    monkeypatch.setattr(inspection, "main", None, raising=False)
    script, *words = line.format(base=base, out=tmp_path).split()
    printed = refusal((SCRIPTS | MORE)[script], words, capsys)
    wanted = MISTAKES[line].format(out=tmp_path)
    assert re.search(f"{wanted}$", printed), printed
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())


@pytest.mark.parametrize("script", ["train_grpo", "evaluate", "generate"])
def test_the_untrained_preset_names_the_checkpoints_that_have_learned(script, tmp_path, capsys):
    words = f"--model tiny --data count --max-steps 1 --output-dir {tmp_path}/new"
    if script == "evaluate":
        words = words.replace("--max-steps 1 ", "")
    if script == "generate":
        words = f"--model tiny --toy count --output {tmp_path}/a.png"
    printed = refusal(SCRIPTS[script], words.split(), capsys, lines=3)
    assert "--model checkpoints/count" in printed
    assert list(tmp_path.glob("*.png")) == []


def test_a_free_directory_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert disk.another(tmp_path / "run") == f"name another --output-dir, such as {tmp_path}/run-3"


def test_a_known_set_may_be_held_out():
    """Only what --eval-data itself names is looked for under that name."""
    examples = [object()]
    [found] = data.read_eval(["mine.jsonl"], {"mine.jsonl": examples}, None).values()
    assert found == examples


# --- what is not installed ---

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[2]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, sys.argv[3])
runpy.run_path(f"{sys.argv[3]}/{sys.argv[1]}", run_name="__main__")
"""


@pytest.mark.parametrize("script, package", [("train_grpo.py", "torch"), ("data.py", "tqdm")])
def test_a_missing_package_is_one_sentence(script, package, tmp_path):
    command = [sys.executable, "-c", WITHOUT, script, package, str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    wanted = f"error: the package {package} is not installed for {sys.executable}; type: "
    assert done.stderr.startswith(wanted) and done.stderr.count("\n") == 1


def test_a_file_of_ours_that_is_missing_is_a_traceback(tmp_path):
    command = [sys.executable, "-c", WITHOUT, "train_grpo.py", "losses", str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    "there, active, wanted",
    [
        (False, False, "type: make install, then: . .venv/bin/activate"),
        (True, False, "type: . .venv/bin/activate"),
        (True, True, "type: make install"),
    ],
)
def test_the_remedy_for_a_missing_package(there, active, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(not_installed, "ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "activate").write_text("")
    if active:
        monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert not_installed.sentence("torch").endswith(f"; {wanted}")
