"""Run: python -m pytest -q tests/test_selftrain.py        (60 s on one core of a CPU; no network)

The phases and `main` of selftrain.py on the untrained preset: killed in each phase and resumed
against never killed, what an iteration leaves, and what is refused. tests/test_pools.py has the
builders, tests/test_update.py one update, tests/test_dpo.py given pairs.
"""

import copy
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import metrics_of, read, speak, train
from PIL import Image
from pool_lines import example, line

import data
import lengths
import model as modeling
import rollout
import sampler
import selftrain
import tasks as tasks_
import train_dpo
import update
from evaluating import heldout
from grading import answers
from plumbing import plots, records, rundir
from plumbing.errors import UserError
from pools import BUILT, blind, build_items, count_questions, distinct, sort_pool
from tasks import images, protocols
from tasks.example import Example
from tasks.prompts import SELECT, question_text, with_question

# --- main, on a model that says noise ---

LINE = (
    "--data count --level 1 --max-train-samples 6 --num-generations 4 --max-completion-length 80 "
    "--max-steps 2 --save-steps 1 --batch-size 4 --learning-rate 1e-3 "
    "--eval-data count:test --max-eval-samples 3 --eval-batch-size 4"
)
RUNS = {
    "r3v": "--method r3v --iterations 2 --warmup-data count --max-warmup-samples 4 "
    "--select-sizes 2 3",
    "mpo": "--method mpo",
    "ntp": "--method mpo --pair-source dropout_ntp --max-train-samples 10",
    "star": "--method star --iterations 1 --rationalization --lora-r 4 --instructions mpo "
    "--num-generations 2",
}


def run(line, *more):
    train(selftrain, line, *more)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """whole(kind): the directory of a run that nobody killed."""
    made = {}

    def whole(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp(kind) / "whole"
            with pytest.MonkeyPatch.context() as patch:
                speak(patch)
                run(f"--model {base} {LINE} {RUNS[kind]} --output-dir {out}")
            made[kind] = out
        return made[kind]

    return whole


def left_by(out):
    """{path: what is in it} of a run's files, hidden ones included, without timings.

    args.json and the page are left out: they know their own directory, and how long it took.
    """
    found, own = {}, {"args.json", "report.html"}
    for path in sorted(p for p in Path(out).rglob("*") if p.is_file() and p.name not in own):
        timed = path.name == "metrics.jsonl"
        found[str(path.relative_to(out))] = metrics_of(path.parent) if timed else path.read_bytes()
    return found


class Killed(BaseException):
    """No `except Exception` holds it up: as close to kill -9 as one process comes."""


def killed_at(where, when):
    """A patch under which module.function dies.

    `when` is the number of the call, or the end of its first argument (a file's name).
    """
    module, name = where.rsplit(".", 1)
    module = importlib.import_module(module)
    patch, real, calls = pytest.MonkeyPatch.context(), getattr(module, name), []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == when or isinstance(when, str) and str(args[0]).endswith(when):
            raise Killed
        return real(*args, **kwargs)

    return patch, lambda p: p.setattr(module, name, dies)


# One run each, killed at the first moment, resumed and killed at the second, ... (where, when[, a
# file of which 9 bytes are then torn off]).
KILLS = {
    "r3v": [
        ("plumbing.rundir.save_checkpoint", 2),
        ("plumbing.rundir.publish", 1),
        ("plumbing.disk.write_json", "iteration-0/trained.json"),
        ("plumbing.rundir.remove", "iteration-0/checkpoint-1"),
        ("rollout.answer_all", 2),
        ("rollout.self_select", 1),
        ("plumbing.records.write_record", "iteration-0/result.json"),
        ("rollout.answer_all", 4, "iteration-1/pool.jsonl"),
        ("rollout.answer_all", 3),
        ("pools.select_items", 1),
        ("update.take_step", 2),
        ("torch.save", 1),
        ("plumbing.disk.write_json", "iteration-1/trained.json"),
        ("evaluating.heldout.evaluate", 1),
        ("rollout.answer_all", 3, "iteration-1/eval_0_samples.jsonl"),
        ("selftrain.draw", 1),
        ("update.train", 1),
        ("plumbing.rundir.save_checkpoint", 2),
        ("shutil.copy", 3),
    ],
    "mpo": [
        ("rollout.answer_all", 3),
        ("rollout.answer_all", 5, "iteration-1/pool.jsonl"),
        ("pools.correctness_pairs", 2),
        ("update.pair_logps", 5, "iteration-1/reference.jsonl"),
        ("update.take_step", 1),
        ("plumbing.rundir.save_checkpoint", 2),
        ("update.take_step", 1),
        ("plumbing.disk.write_json", "iteration-1/trained.json"),
        ("rollout.answer_all", 2),
    ],
    "ntp": [
        ("data.append_response", 5, "iteration-1/continuations.jsonl"),
        ("data.append_response", 3),
        ("pools.ntp_pair", 2),
        ("update.pair_logps", 3),
        ("plumbing.rundir.save_checkpoint", 2),
        ("evaluating.heldout.evaluate", 1),
    ],
    "star": [
        ("rollout.answer_all", 4),
        ("rollout.answer_all", 4),
        ("rollout.answer_all", 3),
        ("pools.select_items", 1),
        ("plumbing.rundir.save_checkpoint", 2),
        ("evaluating.heldout.evaluate", 1),
    ],
}


SLOW = {"ntp": pytest.mark.slow, "star": pytest.mark.slow}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=SLOW.get(kind, ())) for kind in KILLS])
def test_killed_in_each_phase_and_resumed_is_the_same_run(kind, whole, base, tmp_path, speaking):
    """In sampling, building, training, evaluating, and between them: every file to the last bit."""
    out, wanted = tmp_path / "pieces", left_by(whole(kind))
    line = f"--model {base} {LINE} {RUNS[kind]} --output-dir {out} --resume-from-checkpoint"
    for where, when, *torn in KILLS[kind]:
        context, dies = killed_at(where, when)
        with context as patch:
            dies(patch)
            with pytest.raises(Killed):
                run(line)
                print(f"{where} {when} never came")
        for name in torn:
            text = (out / name).read_bytes()
            assert len(text) > 9, f"{name} is empty when {where} dies: nothing is torn"
            (out / name).write_bytes(text[:-9])
    run(line)
    found = left_by(out)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    before = {p: p.stat().st_mtime_ns for p in out.glob("iteration-*/*")}
    run(line)  # once more: nothing is left to do
    assert left_by(out) == wanted
    assert {p: p.stat().st_mtime_ns for p in out.glob("iteration-*/*")} == before


@pytest.mark.parametrize("step", [1, 2])
def test_ctrl_c_saves_and_leaves_with_130(
    step, whole, base, tmp_path, speaking, monkeypatch, capsys
):
    """The first step is ended; the second is given up, and done again."""
    real, out = update.take_step, tmp_path / "out"
    line = f"--model {base} {LINE} {RUNS['star']} --output-dir {out} --save-steps 0"

    def interrupted(*args):
        if args[-1] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(update, "take_step", interrupted)
        run(line)
    assert stop.value.code == 130
    assert (
        "stopped in the training of iteration 1, after step 1; go on with --resume-from-check"
        in capsys.readouterr().out
    )
    assert [p.name for p in rundir.checkpoints(out / "iteration-1")] == ["checkpoint-1"]
    assert not (out / "iteration-1" / "trained.json").exists()
    run(f"{line} --resume-from-checkpoint")
    assert left_by(out) == left_by(whole("star"))


def test_portions_change_no_sample(base, tmp_path):
    """Every row draws its own numbers, wherever it stands in its batch.

    So --eval-batch-size may change when a run goes on; and no two rows draw the same.
    """
    policy, processor = modeling.load(base)
    examples = data.head(tasks_.read("count", level=1), 5)
    asks = [with_question(e, "How many?") for e in [examples[0]] * 5]

    def label(path, given=None):
        return f"{path.name} {given}"

    def drawn(size):
        asker, sampling = data.Asker(processor), rollout.Sampling(5)
        return sampler.Sampler(asker, sampling, protocols.scorer(None), label, size)

    pools = []
    for size in (2, 4, 64):
        path = tmp_path / f"{size}.jsonl"
        pools.append(drawn(size).sample(path, policy, asks, examples, 2, 7, rollout.Sampling(5)))
    assert pools[0] == pools[1] == pools[2] == records.read_lines(tmp_path / "64.jsonl")
    assert len({one["completion"] for one in pools[0]}) == 10
    assert [(one["id"], one["sample"]) for one in pools[0]] == [
        (e.id, k) for e in examples for k in range(2)
    ]
    same = [{**pools[0][0], "completion": "There are two of them"} for _ in range(5)]
    ends = [
        drawn(size).continue_blind(tmp_path / f"end{size}.jsonl", policy, same, asks, 0.5, 7)
        for size in (1, 2, 64)
    ]
    assert ends[0] == ends[1] == ends[2]
    assert {one["prefix"] for one in ends[0]} == {"There are"}
    assert len({one["continuation"] for one in ends[0]}) == 5


def test_a_run_in_progress_is_not_another_run(base, tmp_path, whole, speaking):
    out = tmp_path / "copy"
    shutil.copytree(whole("mpo"), out)
    line = f"--model {base} {LINE} {RUNS['mpo']} --output-dir {out}"
    with pytest.raises(
        UserError, match="already holds an earlier run; add --resume-from-checkpoint"
    ):
        run(line)
    with pytest.raises(UserError, match="--beta was 0.1 .* is 0.2 now"):
        run(f"{line} --beta 0.2 --resume-from-checkpoint")


def test_another_runs_args_do_not_complete_the_command(base, tmp_path, whole, speaking):
    """A flag that is not typed again comes from there; then all would be made anew by it."""
    out = tmp_path / "copy"
    shutil.copytree(whole("mpo"), out)
    (out / "iteration-1" / "result.json").unlink()
    line = f"--model {base} {LINE} {RUNS['mpo']} --output-dir {out} --resume-from-checkpoint"
    theirs = read(out / "args.json") | {"system_prompt": "Look.", "run": "01234567"}
    records.write_record(out / "args.json", theirs)
    with pytest.raises(UserError, match="args.json is another run's; delete it, and give"):
        run(line)
    (out / "args.json").unlink()
    run(line)
    assert left_by(out) == left_by(whole("mpo"))


# --- what an iteration leaves ---


LEFT = set(
    "train.jsonl built.json trained.json model.safetensors config.json tokenizer.json "
    "metrics.jsonl eval_0_greedy.jsonl eval_0_samples.jsonl eval_0_selected.jsonl "
    "result.json".split()
)
FIGURES = (
    "accuracy majority@3 pass@3 self_select@3 sample_accuracy invalid_selections parse_failures n"
).split()


def test_what_an_iteration_leaves(whole):
    out = whole("r3v")
    for t in range(3):
        folder = out / f"iteration-{t}"
        names = {p.name for p in folder.iterdir()}
        assert LEFT <= names
        assert ("pool.jsonl" in names) == (t > 0)
        assert not any(name.startswith(("checkpoint", ".")) for name in names)
        result, items = read(folder / "result.json"), records.read_lines(folder / "train.jsonl")
        assert {f"eval/count:test/{figure}" for figure in FIGURES} <= result.keys()
        assert read(folder / "trained.json") == {"steps": 2, "rows": len(items)}
        for item in items:
            assert {"id", "task", "prompt", "target"} <= item.keys()
            if item["task"] == "select":
                assert len(item["candidates"]) == sum(map(int, item["kind"].split("+"))) in (2, 3)
        tasks = Counter(item["task"] for item in items)
        assert (tasks["direct"], tasks["warmup"]) == (6, 4)
        assert set(tasks) - {
            "direct",
            "warmup",
        } == (set(BUILT) if t == 2 else set(tasks) & set(BUILT))
        if t:
            pool = records.read_lines(folder / "pool.jsonl")
            assert [(one["sample"], one["iteration"]) for one in pool] == [
                (k, t) for k in range(4)
            ] * 6
            assert len({one["id"] for one in pool}) == 6
            assert all(set(one) == set(line(0, "3", True)) for one in pool)
            assert result["pool/right"] == sum(one["right"] for one in pool) / 24
            assert result["pool/unreadable"] == sum(one["answer"] is None for one in pool) / 24
            assert result["built/questions"] == 6 and result["built/cot"] == tasks["cot"]
    golds = {e.id: e.answer for e in data.head(tasks_.read("count", 0, 1), 6)}
    assert all(one["right"] == (one["answer"] == golds[one["id"]]) for one in pool)
    assert list(read(out / "result.json")) == ["iteration-0", "iteration-1", "iteration-2"]
    assert (
        (out / "model.safetensors").read_bytes()
        == (folder / "model.safetensors").read_bytes()
        != (out / "iteration-1" / "model.safetensors").read_bytes()
    )


def test_what_the_last_iteration_learns_is_built_from_all_pools(whole):
    out = whole("r3v")
    pools = [
        one for t in (1, 2) for one in records.read_lines(out / f"iteration-{t}" / "pool.jsonl")
    ]
    examples = {e.id: e for e in data.head(tasks_.read("count", 0, 1), 6)}
    items, counts = build_items(
        examples, pools, lambda e: question_text(e, "r1v"), sizes=[2, 3], seed=2
    )

    def key(item):
        return json.dumps(item, sort_keys=True)

    assert sorted(map(key, items)) == sorted(
        key(item)
        for item in records.read_lines(out / "iteration-2" / "train.jsonl")
        if item["task"] in BUILT
    )
    result = read(out / "iteration-2" / "result.json")
    assert counts == {name: result[f"built/{name}"] for name in counts}
    assert counts["mixed"] + counts["all_wrong"] + counts["all_right"] == 6


def test_the_numbers_of_an_evaluation(whole):
    """Recomputed from its files."""
    folder = whole("r3v") / "iteration-2"
    golds = [e.answer for e in data.head(tasks_.read("count:test", level=1), 3)]
    greedy = records.read_lines(folder / "eval_0_greedy.jsonl")
    samples = records.read_lines(folder / "eval_0_samples.jsonl")
    selected = records.read_lines(folder / "eval_0_selected.jsonl")
    values = read(folder / "result.json").items()
    result = {name.removeprefix("eval/count:test/"): value for name, value in values}
    groups = [[one["answer"] for one in samples[i : i + 3]] for i in (0, 3, 6)]
    votes = [Counter(answer for answer in group if answer).most_common(1)[0][0] for group in groups]
    assert result["accuracy"] == sum(one["answer"] == gold for one, gold in zip(greedy, golds)) / 3
    assert result["n"] == 3
    assert result["pass@3"] == sum(gold in group for group, gold in zip(groups, golds)) / 3
    assert result["majority@3"] == sum(map(str.__eq__, votes, golds)) / 3
    for one, group, vote in zip(selected, groups, votes):
        said = answers.extract_answer(one["selection"])
        wanted = (said, "selected") if said and said in group else (vote, "majority")
        assert (one["answer"], one["how"]) == wanted
    right = sum(one["answer"] == gold for one, gold in zip(selected, golds))
    assert right == sum(one["right"] for one in selected)
    assert result["self_select@3"] == right / 3
    assert result["invalid_selections"] == sum(one["how"] != "selected" for one in selected) / 3


def test_pairs_of_an_iteration_are_what_they_say(whole):
    folder = whole("mpo") / "iteration-1"
    pairs = records.read_lines(folder / "train.jsonl")
    pool = records.read_lines(folder / "pool.jsonl")
    result = read(folder / "result.json")
    said = {(one["id"], one["completion"]): one for one in pool}
    kinds = Counter()
    for pair in pairs:
        chosen, rejected = said[pair["id"], pair["chosen"]], said[pair["id"], pair["rejected"]]
        assert chosen["right"] and not rejected["right"]
        kinds["answer" if rejected["readable"] else "format"] += 1
        assert pair["kind"] == ("answer" if rejected["readable"] else "format")
    assert kinds == {kind: result[f"pairs/{kind}"] for kind in ("answer", "format")}
    assert min(kinds.values()) > 0
    assert result["pairs/tokens_per_pair"] == sum(one["tokens"] for one in pool) / len(pairs)
    assert len(records.read_lines(folder / "reference.jsonl")) == len(pairs)
    assert not (whole("mpo") / "iteration-0" / "pool.jsonl").exists()
    assert not (whole("mpo") / "iteration-0" / "model.safetensors").exists()
    folder = whole("ntp") / "iteration-1"
    spent = sum(
        one["tokens"]
        for name in ("pool.jsonl", "continuations.jsonl")
        for one in records.read_lines(folder / name)
    )  # all that was sampled
    assert read(folder / "result.json")["pairs/tokens_per_pair"] == spent / len(
        records.read_lines(folder / "train.jsonl")
    )
    for pair in records.read_lines(folder / "train.jsonl"):
        half = pair["chosen"].split(" ")[: len(pair["chosen"].split(" ")) // 2]
        assert pair["rejected"].split(" ")[: len(half)] == half
        assert pair["rejected"] != pair["chosen"]


PREFERENCE = (
    "rewards/chosen rewards/rejected rewards/margins rewards/accuracies logps/chosen "
    "logps/rejected logps/chosen_change logps/chosen_start delta loss"
).split()
ZERO_AT_FIRST = (
    "rewards/chosen rewards/rejected rewards/margins rewards/accuracies logps/chosen_change delta"
).split()


def test_metrics_of_preference_steps(whole):
    first, second = records.read_lines(whole("mpo") / "iteration-1" / "metrics.jsonl")
    for name in PREFERENCE:
        assert name in first
    for name in ZERO_AT_FIRST:
        assert first[name] == 0
    chosen, rejected = second["rewards/chosen"], second["rewards/rejected"]
    assert chosen != 0
    assert second["rewards/margins"] == pytest.approx(chosen - rejected, abs=1e-6)
    change = second["logps/chosen"] - second["logps/chosen_start"]
    assert second["logps/chosen_change"] == pytest.approx(change, rel=1e-5, abs=1e-4)
    # four pairs of reward 0 came before these four
    assert second["delta"] == pytest.approx((chosen + rejected) / 4, rel=1e-4)


def test_pictures_are_drawn(base, tmp_path, monkeypatch):
    drawn = plots.plot_curve, plots.plot_samples
    speak(monkeypatch)
    monkeypatch.setattr(plots, "plot_curve", drawn[0])
    monkeypatch.setattr(plots, "plot_samples", drawn[1])
    line = f"--model {base} {LINE} --method r3v --iterations 1 --output-dir {tmp_path / 'out'}"
    run(f"{line} --max-steps 1 --max-eval-samples 1")
    for png in ("curve.png", "iteration-0/answers.png", "iteration-1/answers.png"):
        assert Image.open(tmp_path / "out" / png).size[0] > 300
    assert not (
        tmp_path / "out" / "iteration-0" / "train.jsonl"
    ).exists()  # nothing to warm up on: iteration 0 is the given model


def test_weights_of_zero_leave_tasks_out(base, tmp_path, speaking):
    def tasks(out):
        return {item["task"] for item in records.read_lines(out / "iteration-1" / "train.jsonl")}

    line = (
        f"--model {base} {LINE} --iterations 1 --max-steps 1 --num-samples 0 --max-eval-samples 1 "
        "--output-dir"
    )
    run(
        f"{line} {tmp_path / 'a'} --method r3v --refine-weight 0 --direct-weight 0 "
        "--warmup-weight 0 --warmup-data count --max-warmup-samples 2 --select-sizes 2"
    )
    assert tasks(tmp_path / "a") == {"cot", "select"}
    assert not (tmp_path / "a" / "iteration-0" / "trained.json").exists()
    run(f"{line} {tmp_path / 'b'} --method star")
    assert tasks(tmp_path / "b") == {"cot", "direct"}
    assert "eval/count:test/pass@3" not in read(tmp_path / "b" / "iteration-1" / "result.json")


def test_a_method_is_a_builder_and_a_row(base, tmp_path, speaking, monkeypatch):
    """Rejection sampling fine-tuning: every right text of a question, once."""

    def build(examples, pool, prompt_of, **_):
        sorts = sort_pool(pool)
        items = [
            {
                "id": id,
                "task": "cot",
                "prompt": prompt_of(examples[id]),
                "target": right["completion"],
            }
            for id, (rights, _, _) in sorts.items()
            for right in distinct(rights)
        ]
        return items, dict(count_questions(sorts))

    star = selftrain.METHODS["star"]
    monkeypatch.setitem(selftrain.METHODS, "rft", star._replace(build=build))
    out = tmp_path / "out"
    run(f"--model {base} {LINE} --method rft --iterations 1 --direct-weight 0 --output-dir {out}")
    pool = records.read_lines(out / "iteration-1" / "pool.jsonl")
    items = records.read_lines(out / "iteration-1" / "train.jsonl")
    right = {(one["id"], one["completion"]) for one in pool if one["right"]}
    assert {(item["id"], item["target"]) for item in items} == right
    assert len(items) == len(right) > len({id for id, _ in right})
    with pytest.raises(SystemExit):
        run(f"--model {base} {LINE} --method rft --beta 0.2 --output-dir {out}")


def test_star_asks_again_with_the_answer_and_with_other_instructions(whole):
    folder = whole("star") / "iteration-1"
    pools = [
        records.read_lines(folder / name)
        for name in ("pool.jsonl", "pool_instructed.jsonl", "hinted.jsonl")
    ]
    lost = [id for id, (right, _, _) in sort_pool(pools[0] + pools[1]).items() if not right]
    assert [len(pool) for pool in pools] == [6, 6, len(lost)]
    assert [one["id"] for one in pools[2]] == lost != []
    items = records.read_lines(folder / "train.jsonl")
    assert not any(
        "Hint" in item["prompt"] or "describe" in item["prompt"] or "First name" in item["prompt"]
        for item in items
    )
    counted = read(folder / "result.json")
    assert counted["built/rationalised"] == sum(one["right"] for one in pools[2])
    assert counted["built/cot"] == counted["built/rationalised"] + 6 - len(lost)


def test_an_old_policy_is_gone_before_the_next_is_loaded(base, tmp_path, speaking, monkeypatch):
    """Two at a time would need twice the memory: 30 GB for 7B in float32.

    Nor does an evaluation keep the last step's gradient.
    """
    real, evaluate, alive = modeling.load_from_args, heldout.evaluate, []

    def load_from_args(*args, **kwargs):
        gc.collect()
        assert [reference for reference in alive if reference() is not None] == []
        policy, processor = real(*args, **kwargs)
        alive.append(weakref.ref(policy))
        return policy, processor

    def bare(folder, number, policy, *rest):
        assert not any(p.grad is not None for p in policy.parameters())
        return evaluate(folder, number, policy, *rest)

    monkeypatch.setattr(modeling, "load_from_args", load_from_args)
    monkeypatch.setattr(heldout, "evaluate", bare)
    run(
        f"--model {base} {LINE} --max-steps 1 --num-samples 0 --max-eval-samples 1 --method mpo "
        f"--iterations 2 --output-dir {tmp_path / 'out'}"
    )
    assert len(alive) == 1  # trained on from where it is; nothing was loaded twice
    run(
        f"--model {base} {LINE} --max-steps 1 --num-samples 0 --max-eval-samples 1 --method star "
        f"--iterations 2 --output-dir {tmp_path / 'star'}"
    )
    assert (
        len(alive) == 1 + 1 + 1
    )  # the given model answers; trained, it answers; the given model is trained anew


def test_a_split_of_the_data_is_what_it_is_evaluated_on(base, tmp_path, speaking):
    """With --data FOLDER:train and no --eval-data the evaluation once had no question."""
    (tmp_path / "d").mkdir()
    for i in range(4):
        Image.new("RGB", (56, 56), "red").save(tmp_path / "d" / f"{i}.png")
    (tmp_path / "d" / "train.jsonl").write_text(
        "".join(
            json.dumps({"image": f"{i}.png", "question": f"How many? {i}", "answer": "2"}) + "\n"
            for i in range(4)
        )
    )
    line = LINE.replace("--data count", f"--data {tmp_path / 'd'}:train").replace(
        "--eval-data count:test --max-eval-samples 3", ""
    )
    run(
        f"--model {base} {line} --method star --iterations 1 --max-steps 1 --num-samples 0 "
        f"--output-dir {tmp_path / 'out'}"
    )
    assert read(tmp_path / "out" / "iteration-1" / "result.json")["eval/d:train/n"] == 4


def test_a_sample_that_spells_a_reserved_token_is_no_pair(base, tmp_path, speaking, monkeypatch):
    """A policy can spell <|im_end|> letter by letter.

    Such a sample is unreadable; a format pair that was made with it once stopped the run.
    """
    inner, spelt = rollout.answer_all, []

    def answer_all(*args, **kwargs):
        texts, *rest = inner(*args, **kwargs)
        return [
            text if "<answer>" in text else spelt.append(text) or text + "<|im_end|>"
            for text in texts
        ], *rest

    monkeypatch.setattr(rollout, "answer_all", answer_all)
    run(
        f"--model {base} {LINE} --max-steps 1 --num-samples 0 --max-eval-samples 1 --method mpo "
        f"--output-dir {tmp_path / 'out'}"
    )
    assert spelt
    assert not any(
        "<|im_end|>" in text
        for pair in records.read_lines(tmp_path / "out" / "iteration-1" / "train.jsonl")
        for text in pair.values()
        if isinstance(text, str)
    )


# --- protocols, flags ---


def test_tabmwp_is_asked_and_scored_as_published(base, tmp_path, monkeypatch):
    """Two problems as in the release, a letter and a number with its unit; answers are given."""
    (tmp_path / "tables").mkdir()
    problems = {
        "8": {
            "question": "Is the function linear?",
            "choices": ["linear", "nonlinear"],
            "answer": "nonlinear",
            "unit": None,
            "ques_type": "multi_choice",
            "ans_type": "boolean_text",
            "grade": 8,
        },
        "9": {
            "question": "How much is it?",
            "choices": None,
            "answer": "1,735",
            "unit": "$",
            "ques_type": "free_text",
            "ans_type": "integer_number",
            "grade": 3,
        },
    }
    for name in problems:
        Image.new("RGB", (84, 56), "white").save(tmp_path / "tables" / f"{name}.png")
    (tmp_path / "problems_train.json").write_text(json.dumps(problems))
    says = {
        "8": ["Answer: B", "Answer: (A)", "I cannot tell from this table."],
        "9": ["Answer: $1,735.", "Answer: 1736", "Answer:\n1735"],
    }
    seen = []

    def answer_all(policy, asker, examples, sampling, G=1, **_):
        seen.extend((e.question, asker.template) for e in examples)
        steps = (
            "Solution:\n1. Look at the first and the last row of the table.\n2. Compare the two.\n"
        )
        return (
            [steps + says[e.id][k % 3] for e in examples for k in range(G)],
            [20] * len(examples) * G,
            ["stop"] * len(examples) * G,
        )

    speak(monkeypatch)
    monkeypatch.setattr(rollout, "answer_all", answer_all)
    run(
        f"--method r3v --model {base} --data {tmp_path / 'problems_train.json'} --protocol tabmwp "
        "--prompt-template tabmwp --iterations 1 --num-generations 3 --max-completion-length 60 "
        "--max-steps 1 "
        f"--batch-size 2 --output-dir {tmp_path / 'out'}"
    )
    assert seen[0] == (
        "Is the function linear?\nOptions:\n(A) linear\n(B) nonlinear\nFirst generate a "
        "step-by-step solution, then answer with the option\u2019s letter from the given choices "
        "directly.",
        "none",
    )
    assert (
        seen[1][0]
        == "How much is it? (Unit: $)\nFirst generate a step-by-step solution, then answer the "
        "question using a single word or phrase."
    )
    pool = records.read_lines(tmp_path / "out" / "iteration-1" / "pool.jsonl")
    assert [(one["id"], one["right"], one["answer"]) for one in pool] == [
        ("8", True, "B"),
        ("8", False, "(A)"),
        ("8", False, None),
        ("9", True, "$1,735."),
        ("9", False, "1736"),
        ("9", True, "1735"),
    ]
    items = {
        (item["id"], item["task"]): item
        for item in records.read_lines(tmp_path / "out" / "iteration-1" / "train.jsonl")
    }
    assert items["8", "direct"]["target"] == "nonlinear"
    assert items["9", "cot"]["target"].endswith("Answer:\n1735")
    assert ("8", "refine") in items
    result = read(tmp_path / "out" / "iteration-1" / "result.json")

    def of(name):
        return next(value for key, value in result.items() if key.endswith(f"/{name}"))

    assert (
        of("accuracy"),
        of("majority@3"),
        of("pass@3"),
        of("self_select@3"),
        of("sample_accuracy"),
    ) == (1, 1, 1, 1, 0.5)
    chosen = next(question for question, _ in seen if "prediction 3" in question)
    assert chosen.endswith(SELECT["tabmwp"]) and "\n(A) linear\n(B) nonlinear\n" in chosen


def test_a_protocol_asks_and_judges_as_evaluate_does(base, tmp_path, speaking, monkeypatch):
    """Its template is used where none is given; a correct box without a label is right.

    What it cannot score is refused by file and line before a model is loaded.
    """
    monkeypatch.setattr(
        modeling, "load_from_args", lambda *_, **__: pytest.fail("a model was loaded")
    )
    (tmp_path / "d.jsonl").write_text(
        json.dumps({"question": "How many?", "answer": "a few"}) + "\n"
    )
    with pytest.raises(UserError, match="d.jsonl:1 does not suit --protocol superclevr"):
        run(
            f"--method star --model {base} --warmup-data count --data {tmp_path / 'd.jsonl'} "
            f"--protocol superclevr --output-dir {tmp_path / 'out'}"
        )
    args = selftrain.parse_args(
        f"--method star --model {base} --data {tmp_path}/d.jsonl --protocol superclevr "
        f"--output-dir {tmp_path}/out".split()
    )
    with pytest.raises(UserError):
        selftrain.main(args)
    assert args.prompt_template == "superclevr"
    box = Example(
        "0",
        [Image.new("RGB", (100, 100))],
        "Where is the cat?",
        "[10, 10, 50, 50]",
        meta={"boxes": [{"label": "cat", "bbox_2d": [10, 10, 50, 50]}], "size": [100, 100]},
        source="x.jsonl:1",
    )
    right = protocols.scorer("rec")
    assert [
        right(f"<think> x </think><answer> {said} </answer>", box)[1]
        for said in ([100, 100, 500, 500], [500, 500, 900, 900])
    ] == [True, False]


def test_questions_without_a_gold_answer_are_not_evaluated(base, tmp_path, speaking, capsys):
    """DropoutNTP needs no answers.

    Then all that ends once counted as right, and the curve showed an accuracy of 1.
    """
    (tmp_path / "d.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "id": str(k),
                    "question": f"What is in picture {k}?",
                    **({"answer": "2"} if k == 3 else {}),
                }
            )
            + "\n"
            for k in range(4)
        )
    )
    line = (
        f"--method mpo --pair-source dropout_ntp --model {base} --data {tmp_path / 'd.jsonl'} "
        "--num-generations 1 --max-completion-length 60 --max-steps 1 --batch-size 2 "
        "--num-samples 2"
    )
    run(f"{line} --output-dir {tmp_path / 'out'}")
    result = read(tmp_path / "out" / "iteration-1" / "result.json")
    assert "3 of 4 questions" in capsys.readouterr().out
    assert next(v for k, v in result.items() if k.endswith("/n")) == 1
    known = [
        one
        for one in records.read_lines(tmp_path / "out" / "iteration-1" / "pool.jsonl")
        if one["id"] == "3"
    ]
    assert result["pool/right"] == float(known[0]["right"])
    (tmp_path / "d.jsonl").write_text(
        "".join(
            json.dumps({"id": str(k), "question": f"What is in picture {k}?"}) + "\n"
            for k in range(3)
        )
    )
    run(f"{line} --output-dir {tmp_path / 'none'}")
    assert not [
        k
        for k in read(tmp_path / "none" / "iteration-1" / "result.json")
        if k.startswith(("eval/", "pool/"))
    ]


def test_an_optimizer_that_is_not_installed_is_found_out_first(
    base, tmp_path, speaking, monkeypatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(
        rollout, "answer_all", lambda *_, **__: pytest.fail("something was sampled")
    )
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        run(
            f"--method star --model {base} {LINE} --optim adamw_8bit --output-dir "
            f"{tmp_path / 'out'}"
        )
    assert not (tmp_path / "out" / "args.json").exists()  # so another --optim may be given


REFUSED = {
    "--method star --data count --refine-weight 2": "--refine-weight is for --method r3v, not star",
    "--method mpo --data count --per-example": "--per-example is for --method star and r3v",
    "--method r3v --data count --loss-type=ipo": "--loss-type is for --method dpo and mpo, not r3v",
    "--method dpo --data count --warmup-data count": "warm up by train_sft.py",
    "--method dpo --data count --micro_batch_size 4": "--micro-batch-size is for --method star",
    "--method mpo --data count --start-ratio 0.3": "--start-ratio is for --pair-source dropout_ntp",
    "--method dpo --data count --loss-type ipo --label-smoothing 0.1": "changes the loss sigmoid",
    "--method dpo --data count --num-generations 1": "--num-generations must be at least 2",
    "--method mpo --pairs x": "use train_dpo.py, which learns from given pairs",
    "--method mpo --data count --image_folder=x": "train_dpo.py has --image-folder",
    "--method dpo --data count --beta 0": "--beta must be above 0",
    "--method dpo --data count --label-smoothing 0.5": "--label-smoothing must be below 0.5",
    "--method star --data count --temperature 0": "--temperature must be above 0",
    "--method r3v --data count --select-sizes 1 3": "--select-sizes must be at least 2",
    "--method mpo --data count --loss-weights 1 1": "each of sigmoid bco_pair sft, got 2",
    "--method mpo --data count --loss-type sigmoid sft --loss-weights 1": "of sigmoid sft, got 1",
    "--method ppo --data count": "--method",
    "--data count": "--method",
    "--method star": "--data",
    "--method dpo --data count --loss-type hinge": "--loss-type",
    "--method star --data count --max-new-tokens 5": "--max-completion-length",
    "--method star --data count --num-iteration 5": "did you mean --iterations",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_in_one_sentence(line, capsys):
    with pytest.raises(SystemExit) as stop:
        selftrain.parse_args(f"--model x --output-dir out {line}".split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and REFUSED[line] in said and said.count("\n") == 1, said


def test_defaults_by_method():
    def of(line):
        return selftrain.parse_args(f"--model x --output-dir out {line}".split())

    assert [of(f"--data count --method {method}").iterations for method in selftrain.METHODS] == [
        3,
        3,
        1,
        1,
    ]
    mpo = ["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]
    dpo = ["sigmoid"], None
    for method, wanted in (("mpo", mpo), ("dpo", dpo)):
        sampled = of(f"--data count --method {method}")
        line = f"--model x --output-dir out --pairs x --method {method}"
        given = train_dpo.parse_args(line.split())
        for args in (sampled, given):
            assert (args.loss_type, args.loss_weights, args.num_train_epochs) == (*wanted, 1.0)
    assert of("--method mpo --data count --loss-type sigmoid sft").loss_weights is None
    assert of("--method star --data count").loss_type == []


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("--method star --data count", "answers now and then, or --warmup-data"),
        (
            "--method r3v --data {out}/d.jsonl --warmup-data {out}/d.jsonl",
            "d.jsonl:1: --warmup-data needs",
        ),
        ("--method r3v --data count --direct-template nosuch", "nosuch is unknown"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(line, wanted, tmp_path, monkeypatch):
    record = {"id": "a", "question": "How many?", "answer": "2"}
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n")
    monkeypatch.setattr(modeling, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=wanted):
        run(
            f"--model tiny --max-train-samples 4 --output-dir {tmp_path / 'out'} "
            f"{line.format(out=tmp_path)}"
        )


class Ready(Exception):
    """Everything is read and checked, and work would begin."""


@pytest.fixture
def examined(monkeypatch):
    """examined(line): the questions and the warm-up solutions that `main` would work with."""

    def examine(line):
        checked = []

        def fitting(asker, examples, room, targets=False, bad=None):
            checked.append(list(examples))
            if targets:
                raise Ready
            return examples

        monkeypatch.setattr(modeling, "resolve", lambda *_, **__: {})
        monkeypatch.setattr(modeling, "load_from_args", lambda *_, **__: (None, None))
        monkeypatch.setattr(lengths, "fitting", fitting)
        monkeypatch.setattr(images, "check_images", lambda examples, bad=None: examples)
        with pytest.raises(Ready):
            run(line)
        return checked[0], checked[-1]

    return examine


def test_every_warm_up_solution_of_a_file_on_one_line_is_kept(examined, tmp_path):
    """R3V's released files have 1,000 records without ids and newlines; once only one was used."""
    worked = {
        "conversations": [
            {"from": "user", "value": "q"},
            {"from": "assistant", "value": "One.\nAnswer: 1"},
        ]
    }
    asked = {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "1"}]}
    (tmp_path / "w.json").write_text(json.dumps([worked] * 1000))
    (tmp_path / "q.json").write_text(json.dumps([asked] * 30))
    questions, warm = examined(
        f"--method r3v --model x --data {tmp_path}/q.json --warmup-data {tmp_path}/w.json "
        f"--output-dir {tmp_path}/out"
    )
    assert (len(questions), len(warm)) == (30, 1000)


def test_ids_that_repeat_or_look_like_those_of_the_warm_up_lose_nothing(examined, tmp_path):
    record = {"question": "q", "answer": "1", "solution": "One."}
    for name, ids in (("q", ["7", "7", "warmup:7"]), ("w", ["7", "7"])):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"id": i, **record}) + "\n" for i in ids)
        )
    questions, warm = examined(
        f"--method star --model x --data {tmp_path}/q.jsonl --warmup-data {tmp_path}/w.jsonl "
        f"--output-dir {tmp_path}/out"
    )
    assert (len(questions), len(warm)) == (3, 2)


@pytest.mark.parametrize("name", sampler.POOLS)
def test_a_run_that_was_begun_with_other_ids_is_not_resumed(tmp_path, name, monkeypatch):
    """Ids were once by line ("d.json:2"): samples of such ids would mix up questions."""
    monkeypatch.setattr(modeling, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    out = tmp_path / "out"
    (out / "iteration-1").mkdir(parents=True)
    (tmp_path / "d.json").write_text(json.dumps([{"question": "q", "answer": "1"}] * 3, indent=1))
    args = f"--method star --model tiny --data {tmp_path}/d.json --output-dir {out}"
    begun = {"method": "star", "model": "tiny", "data": f"{tmp_path}/d.json", "run": "x"}
    records.write_record(out / "args.json", begun)
    old = {**line(1, "1", True), "id": "d.json:2"}
    records.write_lines(out / "iteration-1" / name, [old], f"x iteration-1/{name}")
    with pytest.raises(UserError) as refused:
        run(f"{args} --resume-from-checkpoint")
    text = str(refused.value)
    assert text.startswith(f"{out}/iteration-1/{name} has samples of 'd.json:2'")
    assert "another --output-dir" in text


def test_a_pool_without_anything_to_learn_from_says_so(base, tmp_path, speaking, monkeypatch):
    monkeypatch.setattr(
        protocols,
        "scorer",
        lambda protocol: lambda text, example: (answers.extract_answer(text), False),
    )
    line = f"--model {base} {LINE} --num-samples 0 --max-eval-samples 1 --output-dir {tmp_path}"
    with pytest.raises(
        UserError, match=r"nothing was built from .*pool.jsonl, 0.0% of whose samples are right"
    ):
        run(f"{line}/a --method star")
    with pytest.raises(UserError, match=r"no pair could be made of .*pool.jsonl"):
        run(f"{line}/b --method dpo")


# --- building, with a model or in a run ---


@pytest.mark.parametrize(
    "template, target",
    [("chartqa", "3"), ("clevr_math", "3"), ("tabmwp", "Answer: 3"), ("direct", "Answer: 3")],
)
def test_an_iteration_takes_the_targets_of_its_template(monkeypatch, tmp_path, template, target):
    monkeypatch.setattr(sampler.Sampler, "fits", lambda *_: True)
    said = "Solution:\n{}. I count all the things that there are, one by one.\nAnswer: {}"
    pool = [
        {**line(k, answer, answer == "3"), "completion": said.format(k, answer)}
        for k, answer in enumerate(["3", "3", "9", "9"], 1)
    ]
    asking = sampler.Sampler(data.Asker(None, template), None, None, None, 1)
    folder, examples = tmp_path / "iteration-1", {"q": example()}
    items, _ = sampler.items_from_pools(
        folder, 1, None, asking, examples, pool, (4, 0), build_items, BUILT, False, 0
    )
    assert [item["target"] for item in items if item["task"] == "select"] == [target] * 2


def test_instructions_for_pictures_of_no_known_kind_are_refused(base, tmp_path):
    """They would all be the plain prompt, without a word."""
    (tmp_path / "d.jsonl").write_text(json.dumps({"question": "How many?", "answer": "2"}) + "\n")
    with pytest.raises(
        UserError, match="d.jsonl: --instructions mpo goes by the kind of picture.*`task`.*chart"
    ):
        run(
            f"--method mpo --model {base} --data {tmp_path / 'd.jsonl'} --instructions mpo "
            f"--output-dir {tmp_path / 'out'}"
        )


def test_the_continuation_is_written_without_the_picture(tiny):
    """The prompt has the same question, but no image token and no pixels.

    The example keeps its pictures.
    """
    _, processor = tiny
    seen = Example(
        "0",
        [Image.new("RGB", (56, 56), "red")] * 2,
        "<image><image>\nWhat is it?",
        "a",
        source="x.jsonl:1",
    )
    before = copy.copy(seen)
    prompt = data.Asker(processor, "think").prompt(blind(seen))
    special = processor.special
    assert prompt.pixel_values is None
    assert prompt.grid is None
    assert len(prompt.image_slots) == 0
    assert special.image_id not in prompt.ids
    assert "<image>" not in prompt.text
    assert not any(
        token in prompt.text for token in ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
    )
    assert "user\nWhat is it?" in prompt.text and seen == before and len(seen.images) == 2
    assert (
        "<|image_pad|>"
        in data.Asker(processor, "think")
        .prompt(SimpleNamespace(**{**vars(seen), "question": "What is it?"}))
        .text
    )
