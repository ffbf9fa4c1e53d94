"""Run: python -m pytest -q tests/test_against_trl.py    (about 5 s on one core, 25 with TRL)

The parts of recipes/against_trl.py that need no TRL, and the page that shows its result.
Where TRL is installed, the recipe runs on a few batches, and finds a fault put in on purpose.
"""

import importlib.util
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import losses
from plumbing import running
from recipes import against_trl
from reinforcing import advantages

ROOT = Path(__file__).resolve().parents[1]

NEEDS_TRL = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None,
    reason="TRL is no requirement; the recipe's --help-all installs it",
)
PAGE = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
NAN = float("nan")


# --- flags ---


def test_it_starts_as_the_page_says():
    words = [sys.executable, "-m", "recipes.against_trl", "--help"]
    assert "python -m recipes.against_trl" in PAGE
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_flags_have_defaults_and_can_be_given():
    args = against_trl.parse_args([])
    assert (args.batches, args.seed) == (160, 0)
    args = against_trl.parse_args("--batches 3 --seed 7".split())
    assert (args.batches, args.seed) == (3, 7)


@pytest.mark.parametrize(
    "line, said",
    [
        ("--batches 0", "--batches"),
        ("--seed -1", "--seed"),
        ("--batch 3", "did you mean --batches"),
        ("more", "unknown argument more"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(line, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        against_trl.parse_args(line.split())
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and said in message and message.count("\n") == 1


def test_without_trl_one_sentence_says_how_to_get_it(monkeypatch, capsys):
    find = importlib.util.find_spec

    def without_trl(name, package=None):
        return None if name == "trl" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_trl)
    with pytest.raises(SystemExit) as stopped:
        running.run(against_trl.main, against_trl.parse_args, [])
    assert stopped.value.code == 2 and "recipes/against_trl.py --help" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        against_trl.parse_args(["--help-all"])
    assert "pip install --no-deps trl==1.16.0" in capsys.readouterr().out


# --- the table ---


@pytest.mark.parametrize(
    "ours, theirs, scale, gap",
    [
        (1.0, 1.0, None, 0.0),
        (0.25, 0.5, None, 0.25),  # below 1: absolute
        (100.0, 99.0, None, 0.01),  # above: relative to the larger
        ([1.0, 2.0], [1.0, 2.5], 0.5, 1.0),
        ([], [], None, 0.0),
        ([1.0], 1.0, None, float("inf")),  # another shape, though broadcasting would hide it
        ([1.0, 2.0], [1.0], None, float("inf")),
        (NAN, 1.0, None, float("inf")),
        (NAN, NAN, None, float("inf")),  # a NaN on both sides is no agreement
        ([1.0, NAN], [1.0, 2.0], None, float("inf")),
    ],
)
def test_difference_by_hand(ours, theirs, scale, gap):
    assert against_trl.difference(torch.tensor(ours), torch.tensor(theirs), scale) == gap


def test_a_row_keeps_count_and_the_largest_difference():
    table = against_trl.Table()
    for theirs in (1.0, 1.5, 1.25):
        table.compare("loss", 1.0, theirs, tolerance=0.3)
    (row,) = table.rows.values()
    assert (row.comparisons, row.differ) == (3, 1) and row.largest == pytest.approx(0.5 / 1.5)


def test_gradients_are_compared_in_units_of_their_largest_entry():
    table = against_trl.Table()
    table.gradient("tiny", torch.tensor([1e-9, 0.0]), torch.tensor([2e-9, 0.0]))
    table.gradient("none", torch.zeros(3), torch.zeros(3))
    tiny, none = table.rows.values()
    assert tiny.largest == pytest.approx(0.5) and tiny.differ == 1
    assert none.largest == 0 and none.differ == 0


@pytest.mark.parametrize(
    "ours, theirs, known, code, said",
    [
        (1.0, 1.0, "", None, "0 differ"),
        (1.0, 2.0, "", 1, "DIFFERS: loss, 1 of 1"),
        (1.0, 2.0, "D1", None, "0 differ"),
        (1.0, 1.0, "D1", 1, "GONE: D1"),
    ],
)
def test_the_exit_code_tells_whether_the_page_is_true(ours, theirs, known, code, said, capsys):
    table = against_trl.Table()
    table.compare("other", 1.0, 1.0)
    table.compare("loss", ours, theirs, known=known)
    if code is None:
        against_trl.report(table, "1.16.0", judge_known=True)
    else:
        with pytest.raises(SystemExit) as stopped:
            against_trl.report(table, "1.16.0", judge_known=True)
        assert stopped.value.code == code
    assert said in capsys.readouterr().out


def test_one_row_that_differs_is_enough_for_a_known_difference():
    """Too few batches say nothing about what is gone."""
    table = against_trl.Table()
    table.compare("other", 1.0, 1.0)
    table.compare("low", 1.0, 1.0, known="D7")
    assert table.gone() == ["D7"]
    against_trl.report(table, "1.16.0", judge_known=False)
    table.compare("high", 1.0, 2.0, known="D7")
    assert table.gone() == [] and table.unexpected() == []


def test_the_table_lists_known_differences_last():
    table = against_trl.Table()
    table.compare("b", 1.0, 2.0, known="D2")
    table.compare("a", 1.0, 1.0)
    header, first, second = table.lines()
    assert header.split()[0] == "quantity" and first.split() == ["a", "1", "0.0e+00", "0"]
    assert second.split() == ["D2", "b", "1", "5.0e-01", "1"]


# --- what is drawn, and our side of it ---


def test_21_batches_cover_every_loss_type_with_every_beta():
    rng = random.Random(0)
    drawn = [against_trl.draw_setting(index, rng) for index in range(84)]
    pairs = {(setting.loss_type, setting.beta) for setting in drawn[:21]}
    assert len(pairs) == 21 == len(against_trl.LOSS_TYPES) * len(against_trl.BETAS)
    for name, values in {
        "num_iterations": {1, 2, 3},
        "micro_batches": {1, 2},
        "epsilon_high": {None, 0.28},
        "scale_rewards": {"group", "batch", "none"},
        "importance_sampling_level": {"token", "sequence"},
        "multi_objective_aggregation": {"sum_then_normalize", "normalize_then_sum"},
        "delta": {None, 1.5},
        "top_entropy_quantile": {1.0, 0.2},
        "mask_truncated_completions": {True, False},
    }.items():
        assert {getattr(setting, name) for setting in drawn} == values, name


def test_a_drawn_batch_is_what_the_trainers_expect():
    rng, eos = random.Random(1), 2
    for index in range(40):
        setting = against_trl.draw_setting(index, rng)
        batch = against_trl.draw_batch(setting, rng, range(10, 20), eos)
        B, T = batch.mask.shape
        assert (
            B % batch.G == 0
            and B % setting.micro_batches == 0
            and len(batch.now) == setting.num_iterations
        )
        assert (
            batch.mask.sum(1).tolist() == [len(ids) for ids in batch.ids]
            and max(map(len, batch.ids)) == T
        )
        assert [ids[-1] == eos for ids in batch.ids] == batch.finished.tolist()
        assert all(eos not in ids[:-1] for ids in batch.ids)
        assert all(table.shape == (B, T) for table in (*batch.now, batch.ref, batch.entropy))


def hand_batch(now):
    """Two completions of one prompt, of 2 and 1 tokens, the second one cut."""
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    return against_trl.Batch(
        2,
        [[5, 2], [6]],
        torch.tensor([True, False]),
        torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        mask,
        [torch.tensor(table) for table in now],
        torch.zeros(2, 2),
        torch.ones(2, 2),
    )


def test_our_side_by_hand():
    """On-policy the gradient is -adv times the weight, and the value their weighted sum."""
    batch = hand_batch([[[-1.0, -2.0], [-3.0, -4.0]]])
    setting = against_trl.Setting(loss_type="dapo", scale_rewards="none")
    adv, counted, [(loss, gradient, metrics)] = against_trl.our_grpo(setting, batch)
    assert adv.tolist() == [0.5, -0.5] and torch.equal(counted, batch.mask)
    torch.testing.assert_close(gradient, torch.tensor([[-0.5, -0.5], [0.5, 0.0]]) / 3)
    assert (
        loss == pytest.approx(-0.5 / 3)
        and metrics["entropy"] == 1
        and metrics["clip_ratio/region_mean"] == 0
    )


def test_our_side_leaves_cut_completions_out():
    batch = hand_batch([[[-1.0, -2.0], [-3.0, -4.0]]] * 2)
    batch.entropy[1] = 9.0
    setting = against_trl.Setting(
        loss_type="dapo",
        scale_rewards="none",
        beta=0.5,
        num_iterations=2,
        mask_truncated_completions=True,
    )
    _, counted, updates = against_trl.our_grpo(setting, batch)
    assert counted.tolist() == [[1, 1], [0, 0]] and len(updates) == 2
    for _, gradient, metrics in updates:
        assert gradient[1].tolist() == [0, 0] and metrics["entropy"] == 1
        assert metrics["kl"] == pytest.approx(
            (torch.tensor([1.0, 2.0]).exp() - torch.tensor([2.0, 3.0])).mean()
        )


def test_our_pairs_by_hand():
    """At the reference the sigmoid costs ln 2, and smoothing does not change that."""
    lengths, logp = torch.tensor([2, 1]), torch.tensor([[-1.0, -1.0], [-2.0, -7.0]])
    for smoothing in (0.0, 0.2):
        loss, gradient, metrics = against_trl.our_pairs(
            lengths, logp, logp, ("sigmoid",), None, 0.1, smoothing
        )
        assert loss.item() == pytest.approx(0.693147, abs=1e-6) and metrics["logps/rejected"] == -2
        half = 0.1 * (0.5 - smoothing)
        torch.testing.assert_close(gradient, torch.tensor([[-half, -half], [half, 0.0]]))


# --- the page ---


def test_the_page_has_a_row_for_every_known_difference():
    rows = set(re.findall(r"^\| (D\d+) \|", PAGE, flags=re.MULTILINE))
    assert rows == set(against_trl.KNOWN)


def test_the_page_names_only_files_that_the_repository_has():
    named = set(re.findall(r"\b((?:tests|recipes|docs|grading)/[\w.]+\.(?:py|md))\b", PAGE))
    named |= {f"{name}" for name in re.findall(r"`(\w+\.py)`", PAGE)}
    assert named and not [name for name in sorted(named) if not (ROOT / name).exists()]


# --- with TRL ---


@NEEDS_TRL
def test_a_few_batches_agree(capsys):
    against_trl.main(against_trl.parse_args(["--batches", "12", "--seed", "3"]))
    assert ", 0 differ" in capsys.readouterr().out


@NEEDS_TRL
@pytest.mark.parametrize(
    "room, name, row",
    [
        (losses, "kl_k3", "GRPO gradient, grpo, beta 0.5"),
        (losses, "masked_mean", "GRPO entropy"),
        (losses, "sequence_logp", "DPO logps/chosen"),
        (advantages, "group_advantage", "GRPO advantages"),
    ],
)
def test_a_fault_of_one_in_a_thousand_is_found(room, name, row, monkeypatch, capsys):
    right = getattr(room, name)
    monkeypatch.setattr(room, name, lambda *args, **kwargs: right(*args, **kwargs) * 1.001)
    with pytest.raises(SystemExit) as stopped:
        against_trl.main(against_trl.parse_args(["--batches", "12"]))
    assert stopped.value.code == 1 and f"DIFFERS: {row}" in capsys.readouterr().out
