"""Run: python -m pytest -q tests/test_selftrain.py        (70 s on one core of a CPU; no network)

The phases and `main` of selftrain.py and train_dpo.py on the untrained preset: killed in each and
resumed against never killed, the reference against stock transformers, gradients against closed
forms. tests/test_pools.py has the builders.
"""

import copy
import dataclasses
import gc
import importlib
import itertools
import json
import math
import os
import shutil
import signal
import sys
import weakref
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import pytest
import torch
from PIL import Image
from pool_lines import example, line

import data
import heldout
import losses
import model as modeling
import rollout
import sampler
import selftrain
import tasks as tasks_
import train_dpo
import update
from grading import answers
from plumbing import disk, plots, records, rundir, running
from plumbing.arguments import read_args
from plumbing.errors import UserError
from pools import (
    BUILT,
    blind,
    build_items,
    count_questions,
    distinct,
    sort_pool,
)
from tasks import images, protocols
from tasks.example import Example, Pair
from tasks.pairs import read_pairs
from tasks.prompts import (
    SELECT,
    TEMPLATES,
    question_text,
    with_question,
)

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
TIMING = ("step_time", "tokens_per_second")
ANSWER_ALL = rollout.answer_all


@pytest.fixture(scope="session")
def base(tiny, tmp_path_factory):
    """The untrained preset as a checkpoint."""
    directory = tmp_path_factory.mktemp("base")
    modeling.save(*tiny, directory)
    return str(directory)


def speak(patch):
    """Let the untrained preset answer; by itself it samples noise without an end.

    Eight tokens of noise stand between think tags, and the answer depends on every letter of them:
    right a third of the time, unreadable one time in four. Other weights answer something else.
    """

    def answer_all(policy, asker, examples, sampling, *args, **options):
        short = dataclasses.replace(sampling, max_tokens=8)
        texts, lengths, finish = ANSWER_ALL(policy, asker, examples, short, *args, **options)
        said = [(zlib.crc32(text.encode()), text.replace("<", "(")) for text in texts]
        return (
            [
                f"<think> There are several objects in the picture: {text} </think>"
                + f"<answer> {n % 3 + 1} </answer>" * (n % 4 > 0)
                for n, text in said
            ],
            lengths,
            ["stop"] * len(texts),
        )

    patch.setattr(rollout, "answer_all", answer_all)
    patch.setattr(plots, "plot_samples", lambda *_, **__: None)
    patch.setattr(plots, "plot_curve", lambda *_, **__: None)


@pytest.fixture
def speaking(monkeypatch):
    speak(monkeypatch)


def run(line, *more, script=selftrain):
    script.main(script.parse_args([*line.split(), *map(str, more)]))


def run_dpo(line):
    run(line, script=train_dpo)


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


def read(path):
    """A JSON file of a run, without its checksum."""
    value = json.loads(path.read_text())
    value.pop(records.CHECK, None)
    return value


def left_by(out):
    """{path: what is in it} of a run's files, hidden ones included, without timings and without
    args.json, which knows its own directory.
    """
    found = {}
    for path in sorted(p for p in Path(out).rglob("*") if p.is_file() and p.name != "args.json"):
        found[str(path.relative_to(out))] = path.read_bytes()
        if path.name == "metrics.jsonl":
            found[str(path.relative_to(out))] = [
                {k: v for k, v in line.items() if k not in TIMING}
                for line in records.read_lines(path)
            ]
    return found


class Killed(BaseException):
    """No `except Exception` holds it up: as close to kill -9 as one process comes."""


def killed_at(where, when):
    """A patch under which module.function dies: in its when-th call (a number), or in the first
    whose first argument ends in `when` (a file's name).
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
        ("heldout.evaluate", 1),
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
        ("heldout.evaluate", 1),
    ],
    "star": [
        ("rollout.answer_all", 4),
        ("rollout.answer_all", 4),
        ("rollout.answer_all", 3),
        ("pools.select_items", 1),
        ("plumbing.rundir.save_checkpoint", 2),
        ("heldout.evaluate", 1),
    ],
}


@pytest.mark.parametrize("kind", KILLS)
def test_killed_in_each_phase_and_resumed_is_the_same_run(kind, whole, base, tmp_path, speaking):
    """The issue: sampling, building, training, evaluating, and between them; weights to the last
    bit, and every file.
    """
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
    assert (
        found.keys() == wanted.keys()
        and [name for name in wanted if found[name] != wanted[name]] == []
    )
    before = {p: p.stat().st_mtime_ns for p in out.glob("iteration-*/*")}
    run(line)  # once more: nothing is left to do
    assert (
        left_by(out) == wanted
        and {p: p.stat().st_mtime_ns for p in out.glob("iteration-*/*")} == before
    )


def test_ctrl_c_saves_and_leaves_with_130(whole, base, tmp_path, speaking, monkeypatch, capsys):
    real, out = update.take_step, tmp_path / "out"
    line = f"--model {base} {LINE} {RUNS['star']} --output-dir {out} --save-steps 0"
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(
            update, "take_step", lambda *args: os.kill(os.getpid(), signal.SIGINT) or real(*args)
        )
        run(line)
    assert (
        stop.value.code == 130
        and "stopped in the training of iteration 1, after step 1; go on with --resume-from-check"
        in capsys.readouterr().out
    )
    assert [p.name for p in rundir.checkpoints(out / "iteration-1")] == ["checkpoint-1"] and not (
        out / "iteration-1" / "trained.json"
    ).exists()
    run(f"{line} --resume-from-checkpoint")
    assert left_by(out) == left_by(whole("star"))


def test_portions_change_no_sample(base, tmp_path):
    """--eval-batch-size may change when a run goes on: every row draws its own numbers, wherever it
    stands in its batch; and no two rows draw the same.
    """
    policy, processor = modeling.load(base)
    examples = data.head(tasks_.read("count", level=1), 5)
    asks = [with_question(e, "How many?") for e in [examples[0]] * 5]
    label = lambda path, given=None: f"{path.name} {given}"
    drawn = lambda size: sampler.Sampler(
        data.Asker(processor), rollout.Sampling(5), protocols.scorer(None), label, size
    )
    pools = [
        drawn(size).sample(
            tmp_path / f"{size}.jsonl", policy, asks, examples, 2, 7, rollout.Sampling(5)
        )
        for size in (2, 4, 64)
    ]
    assert (
        pools[0] == pools[1] == pools[2] == records.read_lines(tmp_path / "64.jsonl")
        and len({one["completion"] for one in pools[0]}) == 10
    )
    assert [(one["id"], one["sample"]) for one in pools[0]] == [
        (e.id, k) for e in examples for k in range(2)
    ]
    same = [{**pools[0][0], "completion": "There are two of them"} for _ in range(5)]
    ends = [
        drawn(size).continue_blind(tmp_path / f"end{size}.jsonl", policy, same, asks, 0.5, 7)
        for size in (1, 2, 64)
    ]
    assert (
        ends[0] == ends[1] == ends[2]
        and {one["prefix"] for one in ends[0]} == {"There are"}
        and len({one["continuation"] for one in ends[0]}) == 5
    )


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


# --- what an iteration leaves ---


def test_what_an_iteration_leaves(whole):
    out = whole("r3v")
    for t in range(3):
        folder = out / f"iteration-{t}"
        names = {p.name for p in folder.iterdir()}
        assert (
            {
                "train.jsonl",
                "built.json",
                "trained.json",
                "model.safetensors",
                "config.json",
                "tokenizer.json",
                "metrics.jsonl",
                "eval_0_greedy.jsonl",
                "eval_0_samples.jsonl",
                "eval_0_selected.jsonl",
                "result.json",
            }
            <= names
            and ("pool.jsonl" in names) == (t > 0)
            and not any(name.startswith(("checkpoint", ".")) for name in names)
        )
        result, items = read(folder / "result.json"), records.read_lines(folder / "train.jsonl")
        assert {
            f"eval/count:test/{k}"
            for k in (
                "accuracy",
                "majority@3",
                "pass@3",
                "self_select@3",
                "sample_accuracy",
                "invalid_selections",
                "parse_failures",
                "n",
            )
        } <= result.keys()
        assert read(folder / "trained.json") == {"steps": 2, "rows": len(items)}
        for item in items:
            assert {"id", "task", "prompt", "target"} <= item.keys()
            if item["task"] == "select":
                assert len(item["candidates"]) == sum(map(int, item["kind"].split("+"))) in (2, 3)
        tasks = Counter(item["task"] for item in items)
        assert (tasks["direct"], tasks["warmup"]) == (6, 4) and set(tasks) - {
            "direct",
            "warmup",
        } == (set(BUILT) if t == 2 else set(tasks) & set(BUILT))
        if t:
            pool = records.read_lines(folder / "pool.jsonl")
            assert [(one["sample"], one["iteration"]) for one in pool] == [
                (k, t) for k in range(4)
            ] * 6 and len({one["id"] for one in pool}) == 6
            assert all(set(one) == set(line(0, "3", True)) for one in pool)
            assert (
                result["pool/right"] == sum(one["right"] for one in pool) / 24
                and result["pool/unreadable"] == sum(one["answer"] is None for one in pool) / 24
            )
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
    key = lambda item: json.dumps(item, sort_keys=True)
    assert sorted(map(key, items)) == sorted(
        key(item)
        for item in records.read_lines(out / "iteration-2" / "train.jsonl")
        if item["task"] in BUILT
    )
    result = read(out / "iteration-2" / "result.json")
    assert (
        counts == {name: result[f"built/{name}"] for name in counts}
        and counts["mixed"] + counts["all_wrong"] + counts["all_right"] == 6
    )


def test_the_numbers_of_an_evaluation(whole):
    """Recomputed from its files."""
    folder, golds = (
        whole("r3v") / "iteration-2",
        [e.answer for e in data.head(tasks_.read("count:test", level=1), 3)],
    )
    greedy, samples, selected = (
        records.read_lines(folder / f"eval_0_{name}.jsonl")
        for name in ("greedy", "samples", "selected")
    )
    result = {
        name.removeprefix("eval/count:test/"): value
        for name, value in read(folder / "result.json").items()
    }
    groups = [[one["answer"] for one in samples[i : i + 3]] for i in (0, 3, 6)]
    votes = [Counter(answer for answer in group if answer).most_common(1)[0][0] for group in groups]
    assert (
        result["accuracy"] == sum(one["answer"] == gold for one, gold in zip(greedy, golds)) / 3
        and result["n"] == 3
    )
    assert (
        result["pass@3"] == sum(gold in group for group, gold in zip(groups, golds)) / 3
        and result["majority@3"] == sum(map(str.__eq__, votes, golds)) / 3
    )
    for one, group, vote in zip(selected, groups, votes):
        said = answers.extract_answer(one["selection"])
        assert (one["answer"], one["how"]) == (
            (said, "selected") if said in group and said else (vote, "majority")
        )
    assert (
        result["self_select@3"]
        == sum(one["answer"] == gold for one, gold in zip(selected, golds)) / 3
        == sum(one["right"] for one in selected) / 3
    )
    assert result["invalid_selections"] == sum(one["how"] != "selected" for one in selected) / 3


def test_pairs_of_an_iteration_are_what_they_say(whole):
    folder = whole("mpo") / "iteration-1"
    pairs, pool, result = (
        records.read_lines(folder / "train.jsonl"),
        records.read_lines(folder / "pool.jsonl"),
        read(folder / "result.json"),
    )
    said = {(one["id"], one["completion"]): one for one in pool}
    kinds = Counter()
    for pair in pairs:
        chosen, rejected = said[pair["id"], pair["chosen"]], said[pair["id"], pair["rejected"]]
        assert chosen["right"] and not rejected["right"]
        kinds["answer" if rejected["readable"] else "format"] += 1
        assert pair["kind"] == ("answer" if rejected["readable"] else "format")
    assert (
        kinds == {kind: result[f"pairs/{kind}"] for kind in ("answer", "format")}
        and min(kinds.values()) > 0
    )
    assert result["pairs/tokens_per_pair"] == sum(one["tokens"] for one in pool) / len(
        pairs
    ) and len(records.read_lines(folder / "reference.jsonl")) == len(pairs)
    assert (
        not (whole("mpo") / "iteration-0" / "pool.jsonl").exists()
        and not (whole("mpo") / "iteration-0" / "model.safetensors").exists()
    )
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
        assert (
            pair["rejected"].split(" ")[: len(half)] == half and pair["rejected"] != pair["chosen"]
        )


def test_metrics_of_preference_steps(whole):
    first, second = records.read_lines(whole("mpo") / "iteration-1" / "metrics.jsonl")
    assert {
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
        "logps/chosen_change",
        "logps/chosen_start",
        "delta",
        "loss",
    } <= first.keys()
    assert [
        first[k]
        for k in (
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "rewards/accuracies",
            "logps/chosen_change",
            "delta",
        )
    ] == [0] * 6
    assert (
        second["rewards/margins"]
        == pytest.approx(second["rewards/chosen"] - second["rewards/rejected"], abs=1e-6)
        and second["rewards/chosen"] != 0
    )
    assert second["logps/chosen_change"] == pytest.approx(
        second["logps/chosen"] - second["logps/chosen_start"], rel=1e-5, abs=1e-4
    )
    assert second["delta"] == pytest.approx(
        (second["rewards/chosen"] + second["rewards/rejected"]) / 4, rel=1e-4
    )  # four pairs of reward 0 before these four


def test_pictures_are_drawn(base, tmp_path, monkeypatch):
    drawn = plots.plot_curve, plots.plot_samples
    speak(monkeypatch)
    monkeypatch.setattr(plots, "plot_curve", drawn[0])
    monkeypatch.setattr(plots, "plot_samples", drawn[1])
    run(
        f"--model {base} {LINE} --method r3v --iterations 1 --output-dir {tmp_path / 'out'}",
        "--max-steps",
        1,
        "--max-eval-samples",
        1,
    )
    for png in ("curve.png", "iteration-0/answers.png", "iteration-1/answers.png"):
        assert Image.open(tmp_path / "out" / png).size[0] > 300
    assert not (
        tmp_path / "out" / "iteration-0" / "train.jsonl"
    ).exists()  # nothing to warm up on: iteration 0 is the given model


def test_weights_of_zero_leave_tasks_out(base, tmp_path, speaking):
    tasks = lambda out: {
        item["task"] for item in records.read_lines(out / "iteration-1" / "train.jsonl")
    }
    line = (
        f"--model {base} {LINE} --iterations 1 --max-steps 1 --num-samples 0 --max-eval-samples 1 "
        "--output-dir"
    )
    run(
        f"{line} {tmp_path / 'a'} --method r3v --refine-weight 0 --direct-weight 0 "
        "--warmup-weight 0 --warmup-data count --max-warmup-samples 2 --select-sizes 2"
    )
    assert (
        tasks(tmp_path / "a") == {"cot", "select"}
        and not (tmp_path / "a" / "iteration-0" / "trained.json").exists()
    )
    run(f"{line} {tmp_path / 'b'} --method star")
    assert tasks(tmp_path / "b") == {"cot", "direct"} and "eval/count:test/pass@3" not in read(
        tmp_path / "b" / "iteration-1" / "result.json"
    )


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
    assert [len(pool) for pool in pools] == [6, 6, len(lost)] and [
        one["id"] for one in pools[2]
    ] == lost != []
    items = records.read_lines(folder / "train.jsonl")
    assert not any(
        "Hint" in item["prompt"] or "describe" in item["prompt"] or "First name" in item["prompt"]
        for item in items
    )
    counted = read(folder / "result.json")
    assert counted["built/rationalised"] == sum(one["right"] for one in pools[2]) and counted[
        "built/cot"
    ] == counted["built/rationalised"] + 6 - len(lost)


def test_an_old_policy_is_gone_before_the_next_is_loaded(base, tmp_path, speaking, monkeypatch):
    """Two at a time would need twice the memory: 30 GB for 7B in float32. Nor does an evaluation
    drag the last step's gradient along.
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


# --- the reference, and given pairs ---

FLAGS = dict(
    lora_r=0,
    lora_alpha=None,
    lora_dropout=0.0,
    freeze_vision=False,
    freeze_merger=False,
    freeze_llm=False,
    gradient_checkpointing=False,
)


def trainable(base, **more):
    return modeling.load(base, train=SimpleNamespace(**{**FLAGS, **more}))


@pytest.fixture(scope="module")
def mmpr(tmp_path_factory):
    """A meta file with three sets: one image, two images, text only; six pairs."""
    folder = tmp_path_factory.mktemp("mmpr")
    (folder / "images").mkdir()
    for i in range(4):
        checkpoints.picture(56 + 28 * i, 84, i).save(folder / "images" / f"{i}.png")
    sets = {
        "one": [
            {
                "image": f"{i}.png",
                "question": "<image>\nHow many?",
                "chosen": f"I see {i}. Final answer: {i}",
                "rejected": f"Final answer: {i + 2}",
                "answer_gt": str(i),
            }
            for i in range(2)
        ],
        "two": [
            {
                "image": [f"{i}.png", "3.png"],
                "question": "<image>\n<image>\nThe same?",
                "chosen": "They differ. Final answer: no",
                "rejected": "yes",
            }
            for i in range(2)
        ],
        "text": [
            {
                "question": f"What is {i} + 1?",
                "chosen": f"Final answer: {i + 1}",
                "rejected": f"Final answer: {i}, or perhaps more",
            }
            for i in range(2)
        ],
    }
    for name, some in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    (folder / "meta.json").write_text(
        json.dumps(
            {
                name: {
                    "root": "images",
                    "annotation": f"{name}.jsonl",
                    "data_augment": False,
                    "repeat_time": 1,
                    "length": 2,
                }
                for name in sets
            }
        )
    )
    return folder


PAIRS = (
    "--max-steps 2 --save-steps 0 --batch-size 6 --learning-rate 1e-2 --max-completion-length 60"
)


def stock_logps(policy, processor, pairs):
    """[(log pi of the chosen, of the rejected)] by stock transformers' forward on padded rows:
    nothing of ours but the prompt's ids and pixels.
    """
    found, special = [], processor.special
    for name in ("chosen", "rejected"):
        prompts = [data.Asker(processor, "none").prompt(pair.example) for pair in pairs]
        rows = [
            torch.tensor(
                processor.tokenizer(getattr(pair, name), add_special_tokens=False)["input_ids"]
                + [special.eos_ids[0]]
            )
            for pair in pairs
        ]
        with torch.no_grad():
            logits = policy(
                **checkpoints.stock_inputs(prompts, special, rows)
            ).logits.float()  # (B, S, V)
        logits[..., special.vision_ids] = -torch.inf
        logp = logits.log_softmax(-1)
        found.append(
            [
                float(
                    logp[b, len(p.ids) - 1 : len(p.ids) + len(row) - 1]
                    .gather(1, row[:, None])
                    .sum()
                )
                for b, (p, row) in enumerate(zip(prompts, rows))
            ]
        )
    return list(zip(*found))


@pytest.mark.parametrize("start", ["adapter", "fresh", "full"])
def test_the_reference_is_where_training_starts(start, base, mmpr, tmp_path):
    """An adapter included, even one that says something else than its base: the first step's
    rewards are exactly 0 and the loss ln 2; the file against stock transformers.
    """
    from peft import PeftModel
    from transformers import Qwen2VLForConditionalGeneration

    name, more = base, {"fresh": "--lora-r 4", "full": ""}.get(start, "")
    if start == "adapter":
        policy, processor = trainable(base, lora_r=4)
        torch.manual_seed(1)
        for parameter_name, parameter in policy.named_parameters():
            if "lora_B" in parameter_name:
                parameter.data.normal_(0, 0.1)
        name = str(tmp_path / "adapter")
        modeling.save(policy, processor, name)
    run_dpo(
        f"--method dpo --pairs {mmpr} --model {name} {PAIRS} {more} --output-dir {tmp_path / 'out'}"
    )
    first, second = records.read_lines(tmp_path / "out" / "iteration-1" / "metrics.jsonl")
    assert [
        first[k]
        for k in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    ] == [0, 0, 0, 0] and first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second["rewards/accuracies"] > 0.5 and second["loss"] < first["loss"]
    references = [
        tuple(one.values())
        for one in records.read_lines(tmp_path / "out" / "iteration-1" / "reference.jsonl")
    ]
    pairs, processor = read_pairs(str(mmpr)), modeling.load(base)[1]
    bare = Qwen2VLForConditionalGeneration.from_pretrained(base).eval()
    by_base = stock_logps(bare, processor, pairs)
    by_start = (
        stock_logps(PeftModel.from_pretrained(bare, name).eval(), processor, pairs)
        if start == "adapter"
        else by_base
    )
    for reference, one, of_base in zip(references, by_start, by_base, strict=True):
        assert reference == pytest.approx(one, rel=1e-4) and (
            reference == pytest.approx(of_base, rel=1e-3)
        ) == (start != "adapter")


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_given_pairs_train_an_adapter_on_a_checkpoint_of_2024(quant, mmpr, tmp_path):
    if quant == "nf4":
        pytest.importorskip("bitsandbytes", reason="--quant nf4 needs bitsandbytes")
    base = checkpoints.write_2024(tmp_path / "published")
    run_dpo(
        f"--method mpo --pairs {mmpr / 'meta.json'} --model {base} --quant {quant} --lora-r 4 "
        f"{PAIRS} --output-dir {tmp_path / 'out'}"
    )
    first, second = records.read_lines(tmp_path / "out" / "iteration-1" / "metrics.jsonl")
    assert (
        first["rewards/margins"] == first["rewards/accuracies"] == first["logps/chosen_change"] == 0
        and second["rewards/margins"] > 0
    )
    pairs, references = (
        read_pairs(str(mmpr)),
        records.read_lines(tmp_path / "out" / "iteration-1" / "reference.jsonl"),
    )
    policy, processor = modeling.load(
        str(tmp_path / "out"), torch.bfloat16 if first is None else torch.float32, quant=quant
    )
    lengths = [len(data.encode_response(pair.chosen, processor, "", 99)) for pair in pairs]
    nll = sum(-one["ref_chosen_logps"] / n for one, n in zip(references, lengths)) / len(pairs)
    assert first["loss"] == pytest.approx(
        0.8 * math.log(2) + 0.2 * 2 * math.log(2) + nll, rel=1e-5
    )  # facts 8.2: 0.8318 + NLL
    asker = data.Asker(processor, "none")
    now = [update.pair_logps(policy, asker, pair)[0].tolist() for pair in pairs]
    margins = [
        chosen - rejected - one["ref_chosen_logps"] + one["ref_rejected_logps"]
        for (chosen, rejected), one in zip(now, references)
    ]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file() and sum(margins) > 0
    assert read(tmp_path / "out" / "adapter_config.json")["r"] == 4 and not list(
        (tmp_path / "out").rglob("model*.safetensors")
    )
    assert not (tmp_path / "out" / "iteration-1" / "pool.jsonl").exists()


BAD_PAIRS = {
    "equal answers": (dict(chosen="seven", rejected=" seven "), "the same text"),
    "empty chosen": (dict(chosen=" "), "`chosen` is empty"),
    "no chosen": (dict(chosen=...), "no pair"),
    "missing image": (dict(image="nowhere.png"), "nowhere.png does not exist"),
    "a broken image": (dict(image="bad.jsonl"), "cannot be opened"),
    "two placeholders": (
        dict(question="<image><image>Which?"),
        "2 <image> in the question, but 1 images",
    ),
    "no question": (dict(question=...), "no prompt"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_a_malformed_pair_is_refused_before_a_model_is_loaded(
    case, base, tmp_path, capsys, monkeypatch
):
    changes, wanted = BAD_PAIRS[case]
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    good = {"image": "a.png", "question": "How many?", "chosen": "seven", "rejected": "eight"}
    bad = {k: v for k, v in {**good, **changes}.items() if v is not ...}
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    monkeypatch.setattr(
        modeling, "load_from_args", lambda *_, **__: pytest.fail("a model was loaded")
    )
    with pytest.raises(SystemExit) as stop:
        running.run(
            train_dpo.main,
            train_dpo.parse_args,
            f"--method mpo --pairs {tmp_path}/bad.jsonl --model {base} "
            f"--output-dir {tmp_path}/out".split(),
        )
    said = capsys.readouterr().err
    assert (
        stop.value.code == 2 and "bad.jsonl:2" in said and wanted in said and said.count("\n") == 1
    ), said


@pytest.mark.parametrize(
    "change, wanted",
    [
        (dict(chosen="seven " * 5000), "the prompt has .* does not fit"),
        (dict(rejected="<|im_end|>"), "the rejected response contains the reserved token"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_before_training(change, wanted, base, tmp_path):
    pair = {"question": "How many?", "chosen": "seven", "rejected": "eight"}
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(pair)}\n{json.dumps({**pair, **change})}\n")
    with pytest.raises(UserError, match=f"bad.jsonl:2: {wanted}"):
        run_dpo(
            f"--method dpo --pairs {tmp_path / 'bad.jsonl'} --model {base} {PAIRS} --output-dir "
            f"{tmp_path / 'out'}"
        )
    assert not (tmp_path / "out" / "iteration-1").exists()


def test_a_sample_that_spells_a_reserved_token_is_no_pair(base, tmp_path, speaking, monkeypatch):
    """A policy can spell <|im_end|> letter by letter. Such a sample is unreadable, and once stopped
    the run when a format pair was made with it.
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
    assert spelt and not any(
        "<|im_end|>" in text
        for pair in records.read_lines(tmp_path / "out" / "iteration-1" / "train.jsonl")
        for text in pair.values()
        if isinstance(text, str)
    )


# --- one update ---


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@pytest.fixture
def policy_and_processor(base):
    return trainable(base)


MPO = update.PairLoss(**losses.MPO, beta=0.1, label_smoothing=0.0)


def settings(line):
    """How train_dpo.py would train."""
    return update.Settings.of(
        train_dpo.parse_args(f"--model x --pairs x --output-dir out {line}".split())
    )


@pytest.mark.parametrize("per_example", ["", "--per-example"])
def test_imitation_in_micro_batches(per_example, base, policy_and_processor):
    """The same gradient and metrics however the step is cut, and in a closed form: each task's
    weighted tokens over all tokens, or its examples over all.
    """
    policy, processor = policy_and_processor
    examples = {
        str(i): Example(
            str(i),
            [checkpoints.picture(56 + 28 * i, 56, i)] if i < 3 else [],
            f"How many? {i}",
            "1",
        )
        for i in range(5)
    }
    items = [
        {"id": str(i), "task": task, "prompt": f"How many? {i}", "target": "one " * n}
        for i, (task, n) in enumerate(
            [("cot", 9), ("refine", 3), ("select", 1), ("cot", 20), ("direct", 1)]
        )
    ]
    gradients, seen = {}, {}
    for size in (32, 1, 2):
        policy.zero_grad()
        weights, asker = {"refine": 2, "select": 0.5}, data.Asker(processor, "none")
        seen[size] = update.imitate(
            policy, items, {}, asker, examples, weights, bool(per_example), size
        )
        gradients[size] = gradient(policy)
    for size in (1, 2):
        assert float((gradients[size] - gradients[32]).norm()) <= 1e-5 * float(gradients[32].norm())
        assert seen[size] == pytest.approx(seen[32], rel=1e-5)
    nlls, lengths = [], []
    for item in items:  # one by one, by stock transformers
        [(logp, _)] = stock_logps(
            policy, processor, [Pair(examples[item["id"]], item["target"], "x")]
        )
        nlls.append(-logp)
        lengths.append(len(data.encode_response(item["target"], processor, "", 999)))
    weights = [{"refine": 2, "select": 0.5}.get(item["task"], 1) for item in items]
    wanted = (
        sum(w * nll / n for w, nll, n in zip(weights, nlls, lengths)) / 5
        if per_example
        else sum(w * nll for w, nll in zip(weights, nlls)) / sum(lengths)
    )
    assert seen[32]["loss"] == pytest.approx(wanted, rel=1e-4) and seen[32]["tokens"] == sum(
        lengths
    )
    assert seen[32]["loss/cot"] == pytest.approx(
        (nlls[0] + nlls[3]) / (lengths[0] + lengths[3]), rel=1e-4
    ) and seen[32]["loss/select"] == pytest.approx(nlls[2] / lengths[2], rel=1e-4)


def test_preference_pair_by_pair_is_the_batch(base, mmpr, policy_and_processor):
    """One call on six pairs, two on three, and losses.preference_loss on all at once: the same
    loss, gradient and delta; references off zero, so that delta matters.
    """
    policy, processor = policy_and_processor
    pairs, asker, beta = read_pairs(str(mmpr)), data.Asker(processor, "none"), MPO.beta
    references = [
        tuple(value + shift for value, shift in zip(one, (3 * i, -5 + i)))
        for i, one in enumerate(stock_logps(policy, processor, pairs))
    ]
    shift, parts = {"total": 0.0, "count": 0}, {"total": 0.0, "count": 0}
    policy.zero_grad()
    rows = list(zip(pairs, references))
    together = update.prefer(policy, rows, shift, asker, MPO)
    whole = gradient(policy)
    policy.zero_grad()
    halves = [update.prefer(policy, rows[i : i + 3], parts, asker, MPO) for i in (0, 3)]
    assert (
        parts == pytest.approx(shift)
        and shift["count"] == 6
        and halves[1]["delta"] == pytest.approx(together["delta"])
    )
    assert sum(half["loss"] for half in halves) / 2 == pytest.approx(together["loss"], rel=1e-5)
    assert float((gradient(policy) / 2 - whole).norm()) <= 1e-5 * float(whole.norm())
    policy.zero_grad()
    logps, lengths = zip(*(update.pair_logps(policy, asker, pair) for pair in pairs))
    logps, lengths, ref = (
        torch.stack(logps),
        torch.stack(lengths),
        torch.tensor(references),
    )  # (6, 2) each
    delta, total, count = losses.reward_shift(
        beta * (logps[:, 0] - ref[:, 0]).detach(),
        beta * (logps[:, 1] - ref[:, 1]).detach(),
        0.0,
        0,
    )
    loss = losses.preference_loss(
        logps[:, 0],
        logps[:, 1],
        ref[:, 0],
        ref[:, 1],
        lengths[:, 0],
        lengths[:, 1],
        **losses.MPO,
        beta=beta,
        delta=delta,
    ).mean()
    loss.backward()
    assert together["loss"] == pytest.approx(float(loss), rel=1e-5) and together[
        "delta"
    ] == pytest.approx(total / count, rel=1e-4)
    assert float((gradient(policy) - whole).norm()) <= 1e-5 * float(whole.norm())
    rewards_of = beta * (logps.detach() - ref)
    assert together["rewards/accuracies"] == pytest.approx(
        float((rewards_of[:, 0] > rewards_of[:, 1]).float().mean())
    ) and together["rewards/margins"] == pytest.approx(
        float((rewards_of[:, 0] - rewards_of[:, 1]).mean()), rel=1e-4
    )


@pytest.mark.parametrize(
    "fall, start, warns", [(-0.5, -10.0, 1), (-0.05, -10.0, 0), (0.5, -10.0, 0), (0.0, 0.0, 0)]
)
def test_a_fall_of_the_chosen_is_said_once(fall, start, warns, tmp_path, capsys):
    """-0.5 a step from -10: after five steps a quarter is lost. A policy that is sure of its chosen
    responses has lost nothing of 0.
    """
    steps = itertools.count(1)
    step = lambda policy, rows, state: {
        "loss": 1.0,
        "logps/chosen_change": fall * next(steps),
        "logps/chosen_start": start,
        "tokens": 1.0,
    }
    how = settings("--max-steps 14 --save-steps 0 --logging-steps 99 --learning-rate 1e-3")
    policy = torch.nn.Linear(1, 1)
    update.train(tmp_path, 1, policy, [1, 2, 3], step, how, 0, lambda directory: None, 0)
    said = capsys.readouterr().out
    assert said.count("warning: step") == warns and ("--loss-type sigmoid sft" in said) == bool(
        warns
    )
    assert len(records.read_lines(tmp_path / "metrics.jsonl")) == 14


def test_a_learning_rate_of_zero_is_one(tmp_path):
    step = lambda policy, rows, state: {"loss": 1.0, "tokens": 1.0}
    how, policy = settings("--max-steps 1 --learning-rate 0"), torch.nn.Linear(1, 1)
    update.train(tmp_path, 1, policy, [1], step, how, 0, lambda directory: None, 0)
    assert records.read_lines(tmp_path / "metrics.jsonl")[0]["learning_rate"] == 0


# --- protocols, flags ---


def test_tabmwp_is_asked_and_scored_as_published(base, tmp_path, monkeypatch):
    """Two problems as the release has them, a letter and a number with its unit; the model is made
    to say what the test says.
    """
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
    assert (
        items["8", "direct"]["target"] == "nonlinear"
        and items["9", "cot"]["target"].endswith("Answer:\n1735")
        and ("8", "refine") in items
    )
    result = read(tmp_path / "out" / "iteration-1" / "result.json")
    of = lambda name: next(value for key, value in result.items() if key.endswith(f"/{name}"))
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
    """Its template where none is given; what it cannot score refused by file and line before a
    model is loaded; a correct box without a label is right.
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
    """DropoutNTP needs no answers; then all that ends counted as right, and the curve showed an
    accuracy of 1.
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
    assert (
        "3 of 4 questions" in capsys.readouterr().out
        and next(v for k, v in result.items() if k.endswith("/n")) == 1
    )
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
        if k.startswith("eval/") or k.startswith("pool/")
    ]


def test_given_prompts_stay_as_they_are_and_the_evaluation_asks_as_trained(
    base, mmpr, tmp_path, speaking, monkeypatch
):
    asked, inner = [], rollout.answer_all
    monkeypatch.setattr(
        rollout,
        "answer_all",
        lambda policy, asker, examples, *more, **options: (
            asked.extend(e.question for e in examples)
            or inner(policy, asker, examples, *more, **options)
        ),
    )
    trained = tmp_path / "trained"
    shutil.copytree(base, trained)
    disk.write_json(trained / "args.json", {"prompt_template": "think"})
    run_dpo(
        f"--method dpo --pairs {mmpr} --max-train-samples 2 --model {trained} {PAIRS} --eval-data "
        f"count:test --max-eval-samples 2 --num-samples 0 --output-dir {tmp_path / 'out'}"
    )
    given, used = (
        read_pairs(str(mmpr)),
        records.read_lines(tmp_path / "out" / "iteration-1" / "train.jsonl"),
    )
    assert len(given) > 2 and [one["question"] for one in used] == [
        pair.example.question for pair in given[:2]
    ] == [question_text(pair.example, "think") for pair in given[:2]]
    assert asked and all(
        question.endswith(TEMPLATES["think"].removeprefix("{question}")) for question in asked
    )
    assert read_args(tmp_path / "out")["prompt_template"] == "think"


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


def test_a_log_probability_that_is_not_finite_names_the_pair(base, mmpr, tmp_path, monkeypatch):
    inner = update.pair_logps
    monkeypatch.setattr(
        update, "pair_logps", lambda *more: (inner(*more)[0] * float("nan"), inner(*more)[1])
    )
    with pytest.raises(
        UserError, match=r":\d+: the log-probability of a response is not finite; .*--learning-rate"
    ):
        run_dpo(
            f"--method mpo --pairs {mmpr} --model {base} {PAIRS} --output-dir {tmp_path / 'out'}"
        )


REFUSED = {
    "--method star --data count --refine-weight 2": "--refine-weight is for --method r3v, not star",
    "--method mpo --data count --per-example": "--per-example is for --method star and r3v",
    "--method r3v --data count --loss-type=ipo": "--loss-type is for --method dpo and mpo, not r3v",
    "--method dpo --data count --warmup-data count": "warm up by train_sft.py",
    "--method dpo --data count --micro_batch_size 4": "--micro-batch-size is for --method star",
    "--method mpo --data count --start-ratio 0.3": "--start-ratio is for --pair-source dropout_ntp",
    "--method dpo --data count --loss-type ipo --label-smoothing 0.1": "changes the loss sigmoid",
    "--method dpo --data count --num-generations 1": "--num-generations must be at least 2",
    "--method mpo --pairs x": "train_dpo.py --model x --output-dir out --method mpo --pairs x",
    "--method mpo --image_folder=x": "given pairs have a script of their own: python train_dpo.py",
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


REFUSED_PAIRS = {
    "--pairs x --pair-source dropout_ntp": "unknown argument --pair-source",
    "--pairs x --iterations 2": "unknown argument --iterations",
    "--pairs x --data count": "unknown argument --data",
    "--pairs x --micro-batch-size 4": "--micro-batch-size has no meaning here",
    "--pairs x --beta 0": "--beta must be above 0",
    "--pairs x --label-smoothing 0.5": "--label-smoothing must be below 0.5",
    "--pairs x --loss-type ipo --label-smoothing 0.1": "--label-smoothing changes the loss sigmoid",
    "--pairs x --method mpo --loss-weights 1": "one weight for each of sigmoid bco_pair sft, got 1",
    "--pairs x --method r3v": "--method",
    "--pairs x --eval-steps 5": "--eval-steps has no meaning here",
    "--pairs x --resume-from-checkpoint out/iteration-1": "takes no directory here",
    "--method dpo": "--pairs",
}


@pytest.mark.parametrize("line", REFUSED_PAIRS)
def test_train_dpo_refuses_in_one_sentence(line, capsys):
    with pytest.raises(SystemExit) as stop:
        train_dpo.parse_args(f"--model x --output-dir out {line}".split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and REFUSED_PAIRS[line] in said and said.count("\n") == 1, said


def test_defaults_by_method():
    of = lambda line: selftrain.parse_args(f"--model x --output-dir out {line}".split())
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


def test_pairs_that_are_not_there_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(modeling, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match="nowhere.jsonl: no such file"):
        run_dpo(f"--model tiny --pairs {tmp_path}/nowhere.jsonl --output-dir {tmp_path / 'out'}")


class Ready(Exception):
    """Everything is read and checked, and work would begin."""


@pytest.fixture
def examined(monkeypatch):
    """examined(line): the questions and the warm-up solutions that `main` would work with."""

    def examine(line):
        checked = []

        def check(asker, examples, room, targets=False):
            checked.append(list(examples))
            if targets:
                raise Ready

        monkeypatch.setattr(modeling, "resolve", lambda *_, **__: {})
        monkeypatch.setattr(modeling, "load_from_args", lambda *_, **__: (None, None))
        monkeypatch.setattr(data.Asker, "check", check)
        monkeypatch.setattr(images, "check_images", lambda examples: None)
        with pytest.raises(Ready):
            run(line)
        return checked[0], checked[-1]

    return examine


def test_every_warm_up_solution_of_a_file_on_one_line_is_kept(examined, tmp_path):
    """R3V's released files: 1,000 records without ids and without a newline. One of them was
    learned from.
    """
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
    """Ids were "d.json:2", by line; with samples of such ids the run died of a KeyError, or would
    mix up questions.
    """
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
    assert (
        text.startswith(f"{out}/iteration-1/{name} has samples of 'd.json:2'")
        and "another --output-dir" in text
    )


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
    """No image token and no pixels in the prompt, whose question is otherwise the same; the example
    keeps its pictures.
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
    assert (
        prompt.pixel_values is None
        and prompt.grid is None
        and len(prompt.image_slots) == 0
        and special.image_id not in prompt.ids
    )
    assert "<image>" not in prompt.text and not any(
        token in prompt.text for token in ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
    )
    assert "user\nWhat is it?" in prompt.text and seen == before and len(seen.images) == 2
    assert (
        "<|image_pad|>"
        in data.Asker(processor, "think")
        .prompt(SimpleNamespace(**{**vars(seen), "question": "What is it?"}))
        .text
    )
