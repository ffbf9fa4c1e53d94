"""Run: python -m pytest -q tests/test_groups.py        (about 15 s on a CPU, no network)

Dynamic sampling: which groups are replaced and by what; choosing questions by their pass rate.
"""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from commands import grpo, metrics_of, refusal, same_weights, skip_pictures

import rewards
import rollout
import tasks
import train_grpo
from plumbing.errors import UserError
from reinforcing import groups, logged, pass_rates
from reinforcing.advantages import Advantage
from reinforcing.groups import Groups, further, refilled, replaced, signal_metrics
from tasks.example import Example

G = 2


def make(marks, first=0, width=3):
    """Make groups of two completions, whose rewards are a pair of marks; questions count on."""
    names = [f"q{first + n}" for n in range(len(marks))]
    rows = len(marks) * G
    roll = rollout.Rollout(
        torch.arange(rows)[:, None].expand(rows, width) + 100 * first,
        torch.full((rows, width), -1.0),
        torch.ones(rows, width),
        torch.full((rows,), width),
        ["stop"] * rows,
    )
    texts = [f"{name} {row}" for name in names for row in range(G)]
    examples = [Example(name, [], name, "1") for name in names]
    prompts = [SimpleNamespace(name=name) for name in names]
    scores = [mark for pair in marks for mark in pair]
    return Groups(examples, prompts, roll, texts, {"accuracy": scores}, {"accuracy": 1})


def advantage(some):
    scores = torch.tensor(some.parts["accuracy"]).view(-1, G)
    return (scores - scores.mean(1, keepdim=True)).flatten()


RIGHT, WRONG, MIXED = (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)


def ids(some):
    return [example.id for example in some.examples]


# --- what is replaced ---


def test_flat_groups_are_replaced_in_their_places():
    first = make([RIGHT, MIXED, WRONG, MIXED])
    fresh = make([MIXED, RIGHT, MIXED], first=10, width=5)
    keep = groups.informative(first, advantage)
    got = replaced(first, keep, fresh, groups.informative(fresh, advantage))
    assert ids(got) == ["q10", "q1", "q12", "q3"]
    assert [prompt.name for prompt in got.prompts] == ids(got)
    assert got.completions[::G] == [f"{name} 0" for name in ids(got)]
    assert got.parts["accuracy"] == [*MIXED] * 4
    assert got.roll.targets[:, 0].tolist() == [1000, 1001, 2, 3, 1004, 1005, 6, 7]
    assert got.roll.mask.sum(1).tolist() == [5, 5, 3, 3, 5, 5, 3, 3]
    assert got.failed == {"accuracy": 2}


def test_what_finds_no_replacement_stays():
    got = replaced(
        make([RIGHT, WRONG]),
        torch.tensor([False, False]),
        make([WRONG, MIXED], first=10),
        torch.tensor([False, True]),
    )
    assert ids(got) == ["q11", "q1"]


def test_it_tries_until_all_groups_have_signal_or_the_tries_are_over():
    asked = []

    def again(number, attempt):
        asked.append((number, attempt))
        return make([MIXED] + [RIGHT] * (number - 1), first=10 * attempt)

    got, sampled = refilled(make([RIGHT, WRONG, MIXED]), 5, again, advantage)
    assert asked == [(2, 1), (1, 2)], "only as many as are missing, and no more once it is full"
    assert ids(got) == ["q10", "q20", "q2"] and len(sampled) == 3
    got, _ = refilled(make([RIGHT, WRONG]), 1, again, advantage)
    assert ids(got) == ["q10", "q1"]
    got, sampled = refilled(make([RIGHT]), 0, again, advantage)
    assert ids(got) == ["q0"] and len(sampled) == 1


def test_experts_of_both_rollouts_are_kept():
    some, more = make([MIXED]), make([MIXED], first=1, width=5)
    some.roll.experts = torch.zeros(2, 3, 4, 1, dtype=torch.int16)
    more.roll.experts = torch.ones(2, 5, 4, 1, dtype=torch.int16)
    experts = groups.joined(some, more).roll.experts
    assert experts.shape == (4, 5, 4, 1) and experts[2:].eq(1).all() and experts[:2].eq(0).all()


def test_signal_is_counted_over_all_that_was_sampled():
    sampled = [make([RIGHT, WRONG, MIXED, MIXED]), make([WRONG, MIXED])]
    assert signal_metrics(sampled, 3) == {
        "groups/sampled_per_kept": 2.0,
        "groups/sampled_tokens": 12 * 3,
        "groups/all_right": 1 / 6,
        "groups/all_wrong": 2 / 6,
    }
    sampled[0].parts["length"] = sampled[0].parts.pop("accuracy")
    assert "groups/all_right" not in signal_metrics(sampled[:1], 0)
    assert signal_metrics(sampled[:1], 0)["groups/sampled_per_kept"] == 4


# --- which questions come next ---


@pytest.mark.parametrize("data", ["file", "stream"])
def test_further_questions_follow_from_seed_step_and_attempt(data):
    examples = [Example(str(i), [], "q", "1") for i in range(50)]
    if data == "stream":
        examples = tasks.read("count", 0, teacher="gold", training=True)

    def drawn(**change):
        where = {"number": 3, "N": 4, "seed": 0, "step": 1, "attempt": 1, "tries": 2} | change
        return [example.id for example in further(examples, **where)]

    assert drawn() == drawn() and drawn(number=2) == drawn()[:2]
    four = [drawn(step=step, attempt=attempt) for step in (1, 2) for attempt in (1, 2)]
    assert len({name for names in four for name in names}) == 12, "none is asked twice"
    if data == "file":
        assert drawn(seed=1) != drawn()


# --- the script ---


@pytest.fixture
def rare(monkeypatch):
    """Reward an even number of characters: about half of the groups of two have signal."""
    skip_pictures(monkeypatch)
    row = rewards.Reward(lambda text, example=None: float(len(text) % 2 == 0))
    monkeypatch.setitem(rewards.REWARDS, "vowels", row)


FLAGS = "--prompts-per-step 4 --num-generations 2 --learning-rate 1e-3 --max-resample-times 8"


def test_no_group_without_signal_is_learned_from(base, tmp_path, rare):
    steps = grpo(base, tmp_path / "on", FLAGS, steps=3)
    assert all(step["frac_reward_zero_std"] == 0 for step in steps)
    assert all(step["groups/sampled_per_kept"] >= 1 for step in steps)
    assert max(step["groups/sampled_per_kept"] for step in steps) > 1
    off = grpo(base, tmp_path / "off", FLAGS.rsplit(" --max", 1)[0], steps=3)
    assert any(step["frac_reward_zero_std"] > 0 for step in off)


def test_a_resampled_run_resumes_bit_for_bit(base, tmp_path, rare):
    grpo(base, tmp_path / "whole", f"{FLAGS} --save-steps 1 --save-total-limit 9", steps=3)
    resume = f"--resume-from-checkpoint {tmp_path / 'whole' / 'checkpoint-1'}"
    before = metrics_of(tmp_path / "whole")
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    grpo(base, tmp_path / "whole", f"{FLAGS} {resume}", steps=3)
    after = metrics_of(tmp_path / "whole")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == weights
    assert before == after
    assert not same_weights(tmp_path / "whole", base)


def test_groups_whose_signal_is_masked_are_replaced():
    """Where no token of a completion counts, its advantage is no signal either."""
    some = make([MIXED, MIXED, RIGHT])
    some.roll.finish[:3] = ["length", "length", "stop"]
    settings = {"advantage": Advantage(scale="none"), "weights": None}
    adv = train_grpo.compare(some, mask_truncated=True, **settings)
    assert adv.tolist() == [0, 0, 0.5, -0.5, 0, 0]
    masked = partial(train_grpo.compare, mask_truncated=True, **settings)
    assert groups.informative(some, masked).tolist() == [False, True, False]
    all_of_them = partial(train_grpo.compare, mask_truncated=False, **settings)
    assert groups.informative(some, all_of_them).tolist() == [True, True, False]


def test_a_group_without_signal_is_counted_by_its_advantages():
    """Under GDPO rewards of equal sum may differ, and rewards of different sum cancel out."""
    some = make([MIXED, MIXED])
    for parts, flat in (
        ({"one": [1.0, 0.0, 1.0, 0.0], "other": [0.0, 2.0, 0.0, 0.0]}, 0.5),
        ({"one": [1.0, 0.0, 1.0, 0.0], "other": [0.0, 1.0, 0.0, 1.0]}, 1),
    ):
        gdpo = Advantage(normalize_first=True, weights=(1.0, 1.0))
        these = some._replace(parts=parts)
        adv = train_grpo.compare(these, gdpo, None, mask_truncated=False)
        found = logged.sample_metrics(these, [these], None, adv)
        assert found["frac_reward_zero_std"] == flat
        assert found["groups/sampled_per_kept"] == 2 / max(1, 2 * (1 - flat))


# --- pass rates ---


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


EXAMPLES = [Example(f"q{i}", [], "q", "1", meta={"rate": i / 4}) for i in range(5)]


def test_questions_are_chosen_by_evaluate_s_samples(tmp_path, capsys):
    lines = [{"id": f"q{i}", "right": [1.0] * i + [0.0] * (4 - i)} for i in range(4)]
    path = write(tmp_path / "predictions.jsonl", lines)
    kept = pass_rates.chosen(EXAMPLES, path, (0.25, 0.5))
    assert ids(SimpleNamespace(examples=kept)) == ["q1", "q2"]
    assert "kept 2 of 5 questions" in capsys.readouterr().out
    assert pass_rates.chosen(EXAMPLES, None, None) is EXAMPLES


def test_questions_are_chosen_by_a_column():
    kept = pass_rates.chosen(EXAMPLES, "rate", (0.5, 1))
    assert [example.id for example in kept] == ["q2", "q3", "q4"]


@pytest.mark.parametrize(
    "lines, bounds, words",
    [
        ([{"id": "q1", "right": []}], (0, 1), "evaluate.py --num-samples 8"),
        ([{"id": "other", "right": [1.0]}], (0, 1), "no question of --data has an id in it"),
        ([{"id": "q1", "right": [1.0]}], (0, 0.5), "rate, which is from 1 to 1; widen it"),
        ([{"id": "q1", "right": [1.0]}], (0.8, 0.2), "LOW is above HIGH"),
        ([{"id": "q1", "question": "Why?", "right": [1.0]}], (0, 1), "asks other questions"),
        (None, (0, 1), "no such file or column"),
        ([{"id": "q1", "pass_rate": "hard"}], (0, 1), "'hard', the rate of q1, is no number"),
        ([{"id": "q1", "pass_rate": 10**400}], (0, 1), "the rate of q1, is no number"),
        ([{"id": "q1", "right": [10**400, 1]}], (0, 1), "has no samples"),
        ([{"right": [1.0]}, [1], {"id": "q1", "right": 3}], (0, 1), "has no samples"),
        ([{"id": "q1", "right": [None, 1]}], (0, 1), "has no samples"),
        ([{"id": "q1", "right": [1.0]}, {"id": "q1", "right": [0.0]}], (0, 1), "more than once"),
    ],
)
def test_rates_that_choose_nothing_are_refused(tmp_path, lines, bounds, words):
    path = tmp_path / "rates.jsonl"
    if lines is not None:
        write(path, lines)
    with pytest.raises(UserError, match=words):
        pass_rates.chosen(EXAMPLES, str(path), bounds)


def test_another_question_of_the_same_id_has_no_say(tmp_path, capsys):
    """train.jsonl:7 is another question in another train.jsonl, or when a line was removed."""
    asked = [("q1", "q"), ("q2", "another"), ("elsewhere", "q")]
    lines = [{"id": name, "question": text, "right": [1.0, 0.0]} for name, text in asked]
    kept = pass_rates.chosen(EXAMPLES, write(tmp_path / "rates.jsonl", lines), (0, 1))
    assert [example.id for example in kept] == ["q1"]
    printed = capsys.readouterr().out
    assert "1 lines ask another question" in printed and "4 have none" in printed


def test_a_rate_that_is_no_number_is_none(capsys):
    """A half-empty column, as ViRL39K's PassRate_7BBase, holds NaN when it comes through pandas."""
    rates = (0.5, None, float("nan"))
    some = [Example(f"q{i}", [], "q", "1", meta={"rate": rate}) for i, rate in enumerate(rates)]
    assert pass_rates.chosen(some, "rate", (0, 1)) == some[:1]
    assert "2 have none" in capsys.readouterr().out


def test_a_column_of_words_and_a_stream_are_refused():
    rates = ("0.5", None, "hard")
    words = [Example(f"q{i}", [], "q", "1", meta={"rate": rate}) for i, rate in enumerate(rates)]
    with pytest.raises(UserError, match="'hard', the rate of q2, is no number"):
        pass_rates.chosen(words, "rate", (0, 1))
    assert pass_rates.chosen(words[:2], "rate", (0, 1)) == words[:1]
    with pytest.raises(UserError, match="no such file or column"):
        pass_rates.chosen(words, "x" * 5000, (0, 1))
    with pytest.raises(UserError, match="a toy task has no end"):
        pass_rates.chosen(SimpleNamespace(), "rate", (0, 1))


def test_flags_need_each_other(capsys):
    line = "--model tiny --data count --output-dir unused"
    for flags, words in (
        ("--pass-rates x", "need each other"),
        ("--advantage reinforce_pp --max-resample-times 1", "has no groups"),
    ):
        assert words in refusal(train_grpo, f"{line} {flags}".split(), capsys)
