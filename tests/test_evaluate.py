"""Run: python -m pytest -q tests/test_evaluate.py    (20 s on one core of a CPU; no network)

evaluate.py as a user types it: what it leaves, self-select, curves, and an evaluation that was cut.
"""

import re
import shutil
from types import SimpleNamespace

import pytest
from commands import lines_in, opened, read, refusal, train

import data
import evaluate
import model as modeling
import rollout as rollout_
import tasks
import train_dpo
from evaluating import scoring
from grading.metrics import wilson
from plumbing import plots
from plumbing.records import read_lines
from tasks.prompts import question_text, select_prompt, with_question


def test_what_an_evaluation_leaves(chain):
    result = read(chain.eval / "result.json")
    shares = "accuracy accuracy_parsed format_rate majority@3 pass@3 accuracy_low accuracy_high"
    assert result["n"] == 4 and all(0 <= result[name] <= 1 for name in shares.split())
    assert [point["step"] for point in result["scaling"]] == [1, 2, 3]
    rows = read_lines(chain.eval / "predictions.jsonl")
    assert [len(row["samples"]) for row in rows] == [len(row["right"]) for row in rows] == [3] * 4
    assert len(set(rows[0]["samples"])) > 1
    assert read(chain.eval / "args.json")["system_prompt"] == "Count."
    assert min(map(opened, [chain.eval / "curve.png", chain.eval / "samples" / "answers.png"])) > 50


# --- self-select ---


def completions_of(*answers):
    """Completions with these answers; None: one that cannot be read."""
    return [{None: "no tags"}.get(a, f"<think> x </think><answer> {a} </answer>") for a in answers]


def row_of(gold, answers, selections):
    """A row of predictions.jsonl, and what it is judged by."""
    row = {
        "choices": None,
        "samples": completions_of(*answers),
        "right": [float(a == gold) for a in answers],
        "prompt_tokens": 10,
        "tokens": 5,
        "sample_tokens": [3] * len(answers),
        "selections": selections,
        "selection_tokens": {n: [40, 2] for n in selections},
    }
    return row, SimpleNamespace(answer=gold, choices=None, meta={})


ON_A_LINE = ["Answer: 14", "Answer: 15", "Answer: 15"]
IN_TAGS = ["<answer>14</answer>", "<answer>15</answer>", "<answer>15</answer>"]
SELECTED = [  # protocol, gold, samples, what was chosen, whether that is right
    ("chartqa", "14", ON_A_LINE, "14", 1),  # bare, as R3V's targets are
    ("chartqa", "14", ON_A_LINE, "Answer: 14", 1),
    ("chartqa", "14", ON_A_LINE, "I think that it is 14.", 0),  # fell back
    # within 5 %, as the protocol scores
    ("chartqa", "14.0", ["Answer: 14.3", *ON_A_LINE[1:]], "Answer: 14.3", 1),
    ("superclevr", "14", IN_TAGS, "14", 0),
]


@pytest.mark.parametrize("protocol, gold, samples, chosen, right", SELECTED)
def test_self_select_reads_and_scores_as_the_protocol_does(protocol, gold, samples, chosen, right):
    row, example = row_of(gold, [None] * 3, {"3": chosen})
    point = scoring.sampled_scores([row | {"samples": samples}], [example], 3, protocol)
    assert (point["self_select@k"], point["self_select_fell_back"]) == (right, 1 - right)
    assert point["majority@k"] == 0


@pytest.fixture(scope="module")
def chooser(chain, tmp_path_factory):
    out = tmp_path_factory.mktemp("chooser") / "eval"
    line = f"--model {chain.sft} --data count:test --num-samples 3 1 2 --self-select "
    line += "--max-eval-samples 4 --eval-batch-size 3 --max-completion-length 12 "
    line += f"--output-dir {out}"
    train(evaluate, line)
    return SimpleNamespace(out=out, line=line)


def test_what_self_select_leaves(chooser):
    result, args = read(chooser.out / "result.json"), read(chooser.out / "args.json")
    points = result["scaling"]
    assert args["num_samples"] == [1, 2, 3] == [point["step"] for point in points]
    assert args["self_select"]
    for name in ("majority", "pass", "self_select"):
        assert 0 <= result[f"{name}@3_low"] <= result[f"{name}@3"] <= result[f"{name}@3_high"] <= 1
        for point in points:
            assert {f"{name}@k", f"{name}@k_low", f"{name}@k_high"} <= point.keys()
    figures = "gain gain_low gain_high unreadable not_a_candidate fell_back by".split()
    for point in points[1:]:
        assert {f"self_select_{figure}" for figure in figures} <= point.keys()
    rows = read_lines(chooser.out / "predictions.jsonl")
    spent = [row["prompt_tokens"] + sum(row["sample_tokens"][:2]) for row in rows]
    selecting = [sum(row["selection_tokens"]["2"]) for row in rows]
    assert points[1]["majority_tokens"] == sum(spent) / 4
    assert points[1]["self_select_tokens"] == sum(spent + selecting) / 4
    pictures = [chooser.out / "curve.png", chooser.out / "samples" / "answers.png"]
    assert min(map(opened, pictures)) > 50


def test_what_self_select_asks(chooser):
    """The first n samples are shown, greedily, one question at a time; one is no choice."""
    policy, processor = modeling.load(read(chooser.out / "args.json")["model"])
    asker = data.Asker(processor, "r1v", "Count.")
    rows = read_lines(chooser.out / "predictions.jsonl")
    for row, example in zip(rows, data.head(tasks.read("count:test"), 4)):
        assert row["selections"].keys() == row["selection_tokens"].keys() == {"2", "3"}
        assert row["prompt_tokens"] == len(asker.prompt(example).ids)
        assert len(row["sample_tokens"]) == 3 and max(row["sample_tokens"]) <= 12
        for n in (2, 3):
            text = select_prompt(question_text(example, "r1v"), row["samples"][:n])
            ask = with_question(example, text)
            greedy = rollout_.Sampling(12, temperature=0)
            texts, lengths, _ = rollout_.answer_all(policy, asker.verbatim(), [ask], greedy)
            assert row["selections"][str(n)] == texts[0]
            read_tokens = len(asker.verbatim().prompt(ask).ids)
            assert row["selection_tokens"][str(n)] == [read_tokens, lengths[0]]


def test_a_parrot_that_takes_the_second_candidate(base, tmp_path, no_pictures, monkeypatch):
    """Sample k of 3 is right where the question's number divides by k + 1.

    The second of those shown is right on the even ones.
    """
    asked = []

    def sample_of(example, k):
        right = int(example.id.split(":")[-1]) % (k + 1) == 0
        return completions_of(example.answer if right else 99 - k)[0]

    def answer_all(policy, asker, examples, sampling, G=1, **options):
        if asker.template == "none":
            asked.extend(e.question for e in examples)
            shown = [e.question.split("Model's prediction 2:\n")[1] for e in examples]
            texts = [text.split("\n")[0] for text in shown]
        else:
            texts = [sample_of(e, k) for e in examples for k in range(G)]
        return texts, [7] * len(texts), None

    monkeypatch.setattr(rollout_, "answer_all", answer_all)
    line = f"--model {base} --data count:test --num-samples 2 3 --self-select "
    line += "--max-eval-samples 12 --eval-batch-size 7 --max-completion-length 12 "
    line += f"--output-dir {tmp_path}"
    train(evaluate, line)
    result, rows = read(tmp_path / "result.json"), read_lines(tmp_path / "predictions.jsonl")
    two, three = result["scaling"]
    assert (two["step"], two["self_select@k"], two["majority@k"]) == (2, 1 / 2, 1)
    assert (three["step"], three["self_select@k"], three["majority@k"]) == (3, 1 / 2, 1)
    assert two["pass@k"] == pytest.approx(8 / 9) and three["pass@k"] == 1
    assert result["self_select@3"] == 1 / 2 and three["self_select_gain"] == -1 / 2
    assert three["self_select_not_a_candidate"] == 0
    # 1, 5, 7 and 11; and one of two is no minority
    assert three["self_select_by"]["right in the minority"] == {"accuracy": 0, "n": 4}
    assert two["self_select_by"] == {"some right": {"accuracy": 1 / 2, "n": 12}}
    expected = []
    for example, row in zip(data.head(tasks.read("count:test"), 12), rows):
        question = question_text(example, "r1v")
        expected += [select_prompt(question, row["samples"][:n]) for n in (2, 3)]
    assert asked == expected and len(set(expected)) > 12


def test_self_select_that_was_cut_goes_on(chooser, tmp_path, no_pictures, capsys):
    out = tmp_path / "eval"
    shutil.copytree(chooser.out, out)
    whole = (out / "predictions.jsonl").read_bytes()
    line = chooser.line.replace(str(chooser.out), str(out)) + " --resume-from-checkpoint"
    for kept in (len(whole) // 3, len(whole) * 4 // 5):
        (out / "predictions.jsonl").write_bytes(whole[:kept])
        train(evaluate, line)
        assert (out / "predictions.jsonl").read_bytes() == whole
        assert read(out / "result.json") == read(chooser.out / "result.json")
    for other in (
        line.replace(" --self-select", ""),
        line.replace("--num-samples 3 1 2", "--num-samples 3"),
    ):
        assert "another evaluation" in refusal(evaluate, other.split(), capsys)


@pytest.mark.parametrize("script, data", [(evaluate, "--data"), (train_dpo, "--pairs")])
def test_samples_are_not_greedy(script, data, capsys):
    line = f"--model x {data} x --output-dir out --num-samples 2 --temperature 0"
    assert "greedy samples are all the same" in refusal(script, line.split(), capsys)
    assert script.parse_args(line.replace("samples 2", "samples 1").split()).temperature == 0


def test_what_self_select_cannot_do_is_said_before_the_work(chain, tmp_path, capsys):
    line = f"--model {chain.sft} --data count:test --max-eval-samples 2 --self-select "
    line += f"--output-dir {tmp_path / 'out'}"
    assert "--num-samples 3" in refusal(evaluate, line.split(), capsys)
    long = f"{line} --num-samples 1 10 --max-completion-length 512"
    message = refusal(evaluate, long.split(), capsys)
    most = int(re.search(r"--max-completion-length to (\d+)", message)[1])
    assert "context of 4096" in message and "--num-samples" in message
    assert 300 < most < 4096 // 11 and not lines_in(tmp_path / "out")
    long = f"{line} --num-samples 10 --max-completion-length {most + 1}"
    assert f"to {most}" in refusal(evaluate, long.split(), capsys)


# --- curves, and going on ---


def test_the_picture_of_a_perfect_score(tmp_path):
    """Wilson's upper end of n of n is 1e-16 short of 1, and no bar has a negative length."""
    text = completions_of("3")[0]
    records, examples = zip(*[row_of("3", ["3"] * 4, {"2": text, "4": text})] * 300)
    assert wilson(300, 300)[1] < 1
    curve = [scoring.sampled_scores(records, examples, n) for n in (1, 2, 4)]
    for point in curve:
        assert point["self_select@k"] == point["majority@k"] == point["pass@k"] == 1
    result = {"accuracy": 1.0, "accuracy_low": 0.9, "accuracy_high": 1.0}
    plots.plot_scaling(curve, result, tmp_path / "curve.png", "title")
    assert opened(tmp_path / "curve.png") > 50


@pytest.mark.parametrize(
    "line, sizes",
    [("", [0]), ("--num-samples 8", [8]), ("--num-samples 4 1 4 2", [1, 2, 4])],
)
def test_one_number_of_samples_is_the_whole_curve(line, sizes):
    args = evaluate.parse_args(f"--model x --data count --output-dir o {line}".split())
    assert args.num_samples == sizes


def test_an_evaluation_that_was_cut_goes_on(chain, tmp_path, no_pictures, capsys):
    out = tmp_path / "eval"
    shutil.copytree(chain.eval, out)
    whole = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(whole[: len(whole) // 2])
    line = f"--model {chain.grpo} --data count:test --num-samples 3 --max-eval-samples 4 "
    line += "--max-completion-length 12 --eval-batch-size 6 --resume-from-checkpoint "
    line += f"--output-dir {out}"
    train(evaluate, line)
    assert "answered already" in capsys.readouterr().out
    assert (out / "predictions.jsonl").read_bytes() == whole
    assert read(out / "result.json") == read(chain.eval / "result.json")
    other = line.replace("--num-samples 3", "--num-samples 2")
    assert "another evaluation" in refusal(evaluate, other.split(), capsys)
