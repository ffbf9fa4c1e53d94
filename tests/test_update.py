"""Run: python -m pytest -q tests/test_update.py    (15 s on one core of a CPU; no network)

One update of update.py: gradients against closed forms, and what its training reports.
"""

import itertools

import checkpoints
import pytest
import torch
from preferences import stock_logps, trainable

import data
import losses
import train_dpo
import update
from plumbing import records
from tasks.example import Example, Pair
from tasks.pairs import read_pairs


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
    """The gradient and metrics are the same however the step is cut, and have a closed form.

    It is each task's weighted tokens over all tokens, or its examples over all.
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
        encoded = [update.encode_item(item, asker, examples) for item in items]
        seen[size] = update.imitate(policy, encoded, {}, asker, weights, bool(per_example), size)
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
    wanted = sum(w * nll for w, nll in zip(weights, nlls)) / sum(lengths)
    if per_example:
        wanted = sum(w * nll / n for w, nll, n in zip(weights, nlls, lengths)) / 5
    cot = (nlls[0] + nlls[3]) / (lengths[0] + lengths[3])
    assert seen[32]["tokens"] == sum(lengths)
    assert seen[32]["loss"] == pytest.approx(wanted, rel=1e-4)
    assert seen[32]["loss/cot"] == pytest.approx(cot, rel=1e-4)
    assert seen[32]["loss/select"] == pytest.approx(nlls[2] / lengths[2], rel=1e-4)


def test_preference_pair_by_pair_is_the_batch(base, mmpr, policy_and_processor):
    """One call on six pairs, two on three, and losses.preference_loss on all give the same.

    That is the loss, the gradient and delta; references are off zero, so that delta matters.
    """
    policy, processor = policy_and_processor
    pairs, asker, beta = read_pairs(str(mmpr)), data.Asker(processor, "none"), MPO.beta
    references = [
        tuple(value + shift for value, shift in zip(one, (3 * i, -5 + i)))
        for i, one in enumerate(stock_logps(policy, processor, pairs))
    ]
    shift, parts = {"total": 0.0, "count": 0}, {"total": 0.0, "count": 0}
    policy.zero_grad()
    rows = [update.encode_row(row, asker) for row in zip(pairs, references)]
    together = update.prefer(policy, rows, shift, asker, MPO)
    whole = gradient(policy)
    policy.zero_grad()
    halves = [update.prefer(policy, rows[i : i + 3], parts, asker, MPO) for i in (0, 3)]
    assert parts == pytest.approx(shift) and shift["count"] == 6
    assert halves[1]["delta"] == pytest.approx(together["delta"])
    assert sum(half["loss"] for half in halves) / 2 == pytest.approx(together["loss"], rel=1e-5)
    assert float((gradient(policy) / 2 - whole).norm()) <= 1e-5 * float(whole.norm())
    policy.zero_grad()
    logps, lengths = zip(*(update.pair_logps(policy, asker, row) for row in rows))
    logps = torch.stack(logps)  # (6, 2)
    lengths = torch.stack(lengths)  # (6, 2)
    ref = torch.tensor(references)  # (6, 2)
    chosen, rejected = (beta * (logps.detach() - ref)).unbind(1)
    delta, total, count = losses.reward_shift(chosen, rejected, 0.0, 0)
    rows = (*logps.unbind(1), *ref.unbind(1), *lengths.unbind(1))
    loss = losses.preference_loss(*rows, **losses.MPO, beta=beta, delta=delta).mean()
    loss.backward()
    assert float((gradient(policy) - whole).norm()) <= 1e-5 * float(whole.norm())
    assert together["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert together["delta"] == pytest.approx(total / count, rel=1e-4)
    accuracy, margin = (chosen > rejected).float().mean(), (chosen - rejected).mean()
    assert together["rewards/accuracies"] == pytest.approx(float(accuracy))
    assert together["rewards/margins"] == pytest.approx(float(margin), rel=1e-4)


@pytest.mark.parametrize(
    "fall, start, warns", [(-0.5, -10.0, 1), (-0.05, -10.0, 0), (0.5, -10.0, 0), (0.0, 0.0, 0)]
)
def test_a_fall_of_the_chosen_is_said_once(fall, start, warns, tmp_path, capsys):
    """-0.5 a step from -10: after five steps a quarter is lost. A policy that is sure of its chosen
    responses has lost nothing of 0.
    """
    steps = itertools.count(1)

    def step(policy, rows, state):
        change = fall * next(steps)
        told = {"logps/chosen_change": change, "logps/chosen_start": start}
        return {"loss": 1.0, **told, "tokens": 1.0}

    how = settings("--max-steps 14 --save-steps 0 --logging-steps 99 --learning-rate 1e-3")
    policy = torch.nn.Linear(1, 1)
    update.train(tmp_path, 1, policy, [1, 2, 3], int, step, how, 0, lambda directory: None, 0)
    said = capsys.readouterr().out
    assert said.count("warning: step") == warns
    assert ("--loss-type sigmoid sft" in said) == bool(warns)
    assert len(records.read_lines(tmp_path / "metrics.jsonl")) == 14


def test_a_learning_rate_of_zero_is_one(tmp_path):
    def step(policy, rows, state):
        return {"loss": 1.0, "tokens": 1.0}

    how, policy = settings("--max-steps 1 --learning-rate 0"), torch.nn.Linear(1, 1)
    update.train(tmp_path, 1, policy, [1], int, step, how, 0, lambda directory: None, 0)
    assert records.read_lines(tmp_path / "metrics.jsonl")[0]["learning_rate"] == 0
