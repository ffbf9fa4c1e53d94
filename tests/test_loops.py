"""Run: python -m pytest -q tests/test_loops.py        (about 20 s on a CPU, no network)

The forks of train_grpo.py in recipes/: short diffs, and loops that do what their papers say.
"""

import copy
import difflib
import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import (
    GRPO,
    metrics_of,
    refusal,
    same_weights,
    skip_pictures,
    train,
    train_until_killed,
    use_toy_reward,
)
from test_ranks import run_in_processes, same

import batching
import data
import logps
import losses
import rewards
import rollout
import tasks
import train_grpo
from recipes import loops_table, noisy_rollout, on_policy_distillation, papo, rethink
from reinforcing import objective, rethinking, shares
from reinforcing.groups import Groups
from reinforcing.replay import Rows

ROOT = Path(__file__).resolve().parents[1]
LOOPS = {"papo": papo, "noisy_rollout": noisy_rollout, "rethink": rethink}
LOOPS |= {"on_policy_distillation": on_policy_distillation}
FLAGS = "--prompts-per-step 2 --num-generations 4 --learning-rate 1e-3 --max-eval-samples 1"
RETHINK = {"replayed", "rethinking/tried", "rethinking/learned", "rethinking/tokens"}


@pytest.fixture
def quick(monkeypatch):
    use_toy_reward(monkeypatch)
    skip_pictures(monkeypatch)


def steps(script, base, out, more="", number=1):
    """Run a script for a few steps: their metrics."""
    line = f"--model {base} {GRPO} {FLAGS} --max-steps {number} --save-steps 0"
    train(script, f"{line} {more} --output-dir {out}")
    return metrics_of(out)[1:]


def texts_of(name):
    """Return train_grpo.py and a fork of it."""
    return [(ROOT / path).read_text() for path in ("train_grpo.py", f"recipes/{name}.py")]


def changed_lines(name):
    diff = difflib.ndiff(*(text.splitlines() for text in texts_of(name)))
    return [line for line in diff if line[:2] in ("- ", "+ ")]


@pytest.mark.parametrize("name", LOOPS)
def test_a_fork_is_a_short_diff(name):
    assert 10 < len(changed_lines(name)) <= 80


# --- docs/forks.md ---

PAGE = (ROOT / "docs" / "forks.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"^```diff recipes/(\w+)\.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_page_shows_every_fork_and_its_lines():
    assert set(SHOWN) == set(LOOPS)
    rows = dict(re.findall(r"^\| `recipes/(\w+)\.py` \| (\d+) \|", PAGE, re.MULTILINE))
    assert {name: int(number) for name, number in rows.items()} == {
        name: len(changed_lines(name)) for name in LOOPS
    }


@pytest.mark.parametrize("name", LOOPS)
def test_a_shown_hunk_is_in_the_fork(name):
    """Lines with - and a space are one piece of train_grpo.py; with + and a space, of the fork."""
    before, after = (f"\n{text}" for text in texts_of(name))
    hunks = re.split(r"^@@ .* @@\n", SHOWN[name], flags=re.MULTILINE)
    assert not hunks[0] and len(hunks) > 2
    for hunk in hunks[1:]:
        lines = hunk.splitlines()
        assert all(line[:1] in ("", " ", "+", "-") for line in lines)
        for text, sign in ((before, "-"), (after, "+")):
            piece = [line[1:] for line in lines if line[:1] in ("", " ", sign)]
            assert "".join(f"\n{line}" for line in piece) in text, hunk


# --- PAPO ---


def test_papo_with_nothing_masked_is_grpo(base, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(papo, "MASKED", 0.0)
    monkeypatch.setattr(papo, "ETA", 0.0)
    plain = steps(train_grpo, base, tmp_path / "grpo", number=2)
    assert steps(papo, base, tmp_path / "papo", number=2) == plain
    assert same_weights(tmp_path / "papo", tmp_path / "grpo")


def test_papo_learns_from_what_is_masked(base, tmp_path, quick):
    [plain] = steps(train_grpo, base, tmp_path / "grpo")
    [other] = steps(papo, base, tmp_path / "papo")
    assert abs(other["grad_norm"] - plain["grad_norm"]) > 1e-4


def test_papo_blacks_out_whole_patches():
    """Black is what the processor makes of a black pixel."""
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    processor = SimpleNamespace(image_processor=SimpleNamespace(image_mean=mean, image_std=std))
    pixels = torch.zeros(1000, 3 * 8)
    from dataclasses import dataclass

    @dataclass
    class Stub:
        pixel_values: torch.Tensor
        features: torch.Tensor | None = None

    got = papo.blacked_out(Stub(pixels), processor, seed=3).pixel_values
    black = got[got[:, 0] != 0]
    assert 550 < len(black) < 650
    for channel in range(3):
        values = black[:, channel * 8 : (channel + 1) * 8]
        torch.testing.assert_close(values, torch.full_like(values, -mean[channel] / std[channel]))
    assert torch.equal(got, papo.blacked_out(Stub(pixels), processor, seed=3).pixel_values)
    assert not torch.equal(got, papo.blacked_out(Stub(pixels), processor, seed=4).pixel_values)


# --- NoisyRollout ---


def test_half_of_a_group_sees_noise_and_all_learn_on_the_clean_picture(
    base, tmp_path, quick, monkeypatch
):
    asked, real = [], rollout.rollout

    def recording(policy, prompts, special, G, *rest, **more):
        asked.append((G, [prompt.pixel_values.clone() for prompt in prompts]))
        return real(policy, prompts, special, G, *rest, **more)

    monkeypatch.setattr(rollout, "rollout", recording)
    step, *_ = steps(noisy_rollout, base, tmp_path, "--updates-per-rollout 2", number=3)
    clean, noisy, *_ = (pixels for G, pixels in asked if G == 2)  # evaluation asks once each
    assert len(clean) == len(noisy) == 2
    assert all((a - b).abs().max() > 0.1 for a, b in zip(clean, noisy))
    assert step["old_logp_from_rollout"] == 1, "the clean half agrees"
    assert step["sampling_logp_difference/max"] < 1e-3


def test_noise_fades_out(tiny):
    prompt = SimpleNamespace(pixel_values=torch.randn(4, 6))
    assert noisy_rollout.noisy(prompt, 0.0, 1) is prompt


# --- on-policy distillation ---


def test_a_teacher_that_is_the_student_teaches_nothing(base, tmp_path, quick):
    [step] = steps(on_policy_distillation, base, tmp_path, f"--teacher {base}")
    assert step["grad_norm"] < 1e-5 and abs(step["teacher_kl"]) < 1e-5


def test_another_teacher_is_approached(base, tmp_path, quick):
    import model

    teacher, processor = model.load("tiny", seed=1)
    model.save(teacher, processor, tmp_path / "teacher")
    flags = f"--teacher {tmp_path / 'teacher'} --prompts-per-step 4 --num-generations 8"
    flags += " --lr-scheduler-type constant --micro-batch-size 32"
    found = steps(on_policy_distillation, base, tmp_path / "out", flags, number=12)
    kls = [step["teacher_kl"] for step in found]
    assert sum(kls[-3:]) < 0.8 * sum(kls[:3])


# --- VL-Rethinker: replay ---


def some_rows(adv, T=3, first=0):
    """Make rows of which the number is the first token."""
    R = len(adv)
    targets = (torch.arange(first, first + R)[:, None] + 10).expand(R, T)
    ones = torch.ones(R, T)
    roll = rollout.Rollout(targets, -ones, ones, torch.full((R,), T), ["stop"] * R)
    return Rows(roll, torch.tensor(adv), list(range(first, first + R)))


def test_rows_without_an_advantage_are_not_kept_and_the_newest_are():
    buffer = Rows.none().and_new(some_rows([0.0, 1.0, -2.0, 0.0]), most=3)
    assert buffer.asked == [1, 2] and buffer.adv.tolist() == [1.0, -2.0]
    buffer = buffer.and_new(some_rows([0.5, 0.0, -0.5], T=5, first=4), most=3)
    assert buffer.asked == [2, 4, 6] and buffer.adv.tolist() == [-2.0, 0.5, -0.5]
    assert buffer.roll.targets[:, 0].tolist() == [12, 14, 16]
    assert buffer.roll.mask.sum(1).tolist() == buffer.roll.lengths.tolist() == [3, 5, 5]
    assert buffer.and_new(some_rows([0.0] * 4), most=3).asked == [2, 4, 6]


def test_rows_are_drawn_in_proportion_to_their_advantage():
    buffer = some_rows([1.0, -2.0, 0.5, 0.5])
    found = [n for seed in range(1000) for n in buffer.drawn(4, seed).asked]
    shares_ = [found.count(n) / len(found) for n in range(4)]
    assert shares_ == pytest.approx([0.25, 0.5, 0.125, 0.125], abs=0.03)
    assert buffer.drawn(4, 7).asked == buffer.drawn(4, 7).asked
    assert len(buffer.drawn(2, 7).asked) == 2 and len(buffer.drawn(9, 7).asked) == 4
    assert buffer.drawn(0, 7).asked == Rows.none().drawn(4, 7).asked == []


def test_a_checkpoint_can_keep_rows(tmp_path):
    rows = some_rows([1.0, -2.0])
    torch.save(rows.plain(), tmp_path / "state.pt")
    again = Rows.of_plain(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.asked == rows.asked and torch.equal(again.adv, rows.adv)
    assert all(
        torch.equal(a, b) for a, b in zip(again[0].at([1, 0]).targets, rows[0].at([1, 0]).targets)
    )
    assert again.roll.finish == rows.roll.finish


def lesson(tiny, G=2, T=6, seed=0):
    """Two toy questions with G random answers each: (asker, examples, prompts, rollout)."""
    _, processor = tiny
    asker = data.Asker(processor, "r1v")
    examples = data.head(tasks.read("count", 0, teacher="gold", training=True), 2)
    prompts = [asker.prompt(example) for example in examples]
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(20, 200, (2 * G, T), generator=draw)
    mask = torch.ones(2 * G, T)
    mask[0, 4:] = 0
    logp = -6 + torch.rand(2 * G, T, generator=draw)
    lengths = mask.sum(1).long()
    return asker, examples, prompts, rollout.Rollout(targets, logp, mask, lengths, ["stop"] * 2 * G)


def gradient_of(policy, loss):
    """Return the gradient of a loss, as one vector."""
    found = torch.autograd.grad(
        loss, [p for p in policy.parameters() if p.requires_grad], allow_unused=True
    )
    return torch.cat([g.flatten() for g in found if g is not None])


def test_an_update_adds_up_grpo_replay_and_imitation(tiny):
    """Against the formula, with every row in a batch of its own."""
    policy, processor = copy.deepcopy(tiny[0]).requires_grad_(True), tiny[1]
    asker, examples, prompts, roll = lesson(tiny)
    adv = torch.tensor([0.5, -0.5, 0.0, 0.0])
    args = rethink.parse_args("--model tiny --data count --output-dir x --max-steps 1".split())
    goal = objective.objective_of(args)
    logp_of = partial(logps.token_logps, suppress=processor.special.vision_ids)
    weigh = partial(losses.token_weights, loss_type="grpo")
    batches = partial(shares.micro_batches, size=8, where=policy.device)
    cut = rethink.cut(roll, prompts, 1, batches, weigh, adv, roll.mask, roll.mask, None)
    again = Rows(roll, torch.tensor([2.0, -1.0, 1.0, 1.0]), [0, 0, 1, 1]).at([1, 3])
    thoughts = Rows(roll, torch.full((4,), 0.05), [0, 0, 1, 1]).at([0, 2])
    lone = partial(
        rethink.alone,
        ask=lambda place, number: examples[place : place + number],
        encode=asker.prompt,
        batches=batches,
        weigh=weigh,
    )
    [(_, batch)] = rethink.beside(cut, thoughts, again, 0, 2, lone)
    policy.zero_grad()
    rethink.grpo_gradient(policy, batch, logp_of, goal, None)
    learned = [p for p in policy.parameters() if p.grad is not None]
    got = torch.cat([p.grad.flatten() for p in learned])

    def row(b):
        one = batching.collate([prompts[b // 2]], roll.targets[[b]], roll.mask[[b]])
        return logp_of(policy, one)[0, : int(roll.lengths[b])]

    wanted = -sum(float(adv[b]) * row(b).mean() for b in (0, 1)) / 4
    for b, a in ((1, -1.0), (3, 1.0)):  # two rows, in two of four places
        ratio = (row(b) - roll.logp[b, : int(roll.lengths[b])]).exp()
        wanted = wanted - torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean() / 4
    wanted = wanted - 0.05 * (row(0).mean() + row(2).mean()) / 2
    torch.testing.assert_close(got, gradient_of(policy, wanted), rtol=1e-3, atol=1e-6)
    policy.zero_grad()


# --- VL-Rethinker: second thoughts ---


def answered(tiny, texts, finish=None, limit=200):
    """Two questions, each with half of these answers."""
    asker, examples, prompts, _ = lesson(tiny)
    _, processor = tiny
    end = torch.tensor([min(processor.special.eos_ids)])
    rows = [torch.cat([asker.encode(text), end]) for text in texts]
    targets, mask = batching.pad_targets(rows, processor.special.pad_id)
    finish = finish or ["stop"] * len(texts)
    roll = rollout.Rollout(targets, -mask, mask, mask.sum(1).long(), finish)
    return Groups(examples, prompts, roll, texts, {}, {})


def said(answer):
    return f"<think> Row 1: none. </think><answer> {answer} </answer>"


def golds(tiny):
    return [int(example.answer) for example in lesson(tiny)[1]]


def test_which_answers_are_thought_over(tiny, monkeypatch):
    """Finished ones with room, of hard groups also the wrong ones; 35 in 100 are left alone."""
    _, processor = tiny
    first, second = golds(tiny)
    texts = [said(first)] * 3 + [said(first + 1)] + [said(second)] + [said(second + 1)] * 3
    groups = answered(tiny, texts)
    found = dict.fromkeys(range(8), 0)
    for seed in range(300):
        for row in rethinking.begun(groups, 200, processor, seed):
            found[row] += 1
    assert found[3] == 0, "wrong, in a group of which three in four are right"
    for row in (0, 1, 2, 4, 5, 6, 7):
        assert 0.55 < found[row] / 300 < 0.75
    monkeypatch.setattr(rethinking, "SKIPPED", 0.0)
    assert len(rethinking.begun(groups, 200, processor, 0)) == 7
    longest = max(map(len, rethinking.begun(groups, 200, processor, 0).values()))
    assert not rethinking.begun(groups, longest, processor, 0), "no room for 0.4 of the limit"
    cut = answered(tiny, texts, ["length"] * 8)
    assert not rethinking.begun(cut, 200, processor, 0)


def test_a_trigger_ends_the_thinking(tiny):
    _, processor = tiny
    for trigger in rethinking.TRIGGERS:
        ids = rethinking.start_of(said(3), trigger, processor)
        assert processor.tokenizer.decode(ids) == f"<think> Row 1: none. {trigger}"
        ids = rethinking.start_of("It is 3.", trigger, processor)
        assert processor.tokenizer.decode(ids) == f"It is 3. {trigger}"
    often = " ".join(rethinking.TRIGGERS)
    assert rethinking.start_of(often, "Wait.", processor) is None
    image = processor.tokenizer.decode([processor.special.image_id])
    assert rethinking.start_of(f"I see {image}", "Wait.", processor) is None


def test_sampling_goes_on_where_the_answer_was_cut(tiny):
    """Log-probs of the continuation are those of the whole completion after the whole prompt."""
    policy, processor = tiny
    _, _, prompts, _ = lesson(tiny)
    start = rethinking.start_of(said(3), "Wait.", processor)
    settings = rollout.Sampling(8)
    for prompt in prompts:
        later = rethinking.continued(prompt, start)
        roll = rollout.rollout(policy, [later], processor.special, 1, settings, seed=3)
        length = int(roll.lengths[0])
        whole = torch.cat([start, roll.targets[0, :length]])[None]
        batch = batching.collate([prompt], whole, torch.ones(whole.shape))
        logp = logps.token_logps(policy, batch, suppress=processor.special.vision_ids)
        sampled = roll.logp[0, :length]
        torch.testing.assert_close(logp[0, len(start) :].detach(), sampled, rtol=0, atol=1e-4)


def test_what_ends_right_is_learned_two_a_question(tiny):
    """What ends wrong, does not end, or answers twice, is not."""
    policy, processor = tiny
    first, second = golds(tiny)
    groups = answered(tiny, [said(9)] * 8)
    start = rethinking.start_of(said(9), "Wait.", processor)
    right, wrong = f" </think><answer> {first} </answer>", " </think><answer> 77 </answer>"
    other = f" </think><answer> {second} </answer>"
    twice = f"{wrong}{right}"
    more = answered(tiny, [twice, right, right, right, wrong, other, other, wrong])
    more.roll.finish[5] = "length"
    starts = dict.fromkeys(range(8), start)
    found = rethinking.ended_right(starts, more.roll, groups, processor)
    assert list(found) == [1, 2, 6]
    assert processor.decode(found[1]) == f"<think> Row 1: none. Wait.{right}"
    rows = rethinking.rows_of(found, 4, 20, 0.05, processor.special.pad_id)
    assert rows.asked == [20, 20, 21] and rows.adv.tolist() == pytest.approx([0.05] * 3)
    assert [rows.roll.targets[n, : rows.roll.lengths[n]].tolist() for n in range(3)] == [
        found[row].tolist() for row in (1, 2, 6)
    ]
    assert rethinking.rows_of({}, 4, 20, 0.05, processor.special.pad_id).asked == []


# --- VL-Rethinker: the loop ---


def think_over(monkeypatch):
    """Let one noisy answer of each question be thought over, and take whatever comes for right."""

    def begun(groups, limit, processor, seed):
        start = torch.tensor(processor.tokenizer("Wait.")["input_ids"])
        own = [n for n, prompt in enumerate(groups.prompts) if prompt is not None]
        return dict.fromkeys([n * groups.G for n in own], start)

    def whole(starts, roll, groups, processor):
        return {
            row: torch.cat([start, ids]) for (row, start), ids in zip(starts.items(), roll.targets)
        }

    monkeypatch.setattr(rethinking, "begun", begun)
    monkeypatch.setattr(rethinking, "ended_right", whole)


def without(lines, names):
    return [{name: value for name, value in line.items() if name not in names} for line in lines]


def test_without_second_thoughts_and_replay_it_is_grpo(base, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(rethinking, "begun", lambda *_: {})
    monkeypatch.setattr(Rows, "and_new", lambda self, *_: self)
    flags = "--updates-per-rollout 2"
    plain = steps(train_grpo, base, tmp_path / "grpo", flags, number=2)
    found = steps(rethink, base, tmp_path / "rethink", flags, number=2)
    assert without(found, RETHINK) == plain
    assert all(line[name] == 0 for line in found for name in RETHINK)
    assert same_weights(tmp_path / "rethink", tmp_path / "grpo")


@pytest.fixture
def rare(monkeypatch):
    """Rewards are rare, so that most groups are idle, and all that is in the buffer is learned."""
    think_over(monkeypatch)
    pay = rewards.Reward(lambda text, example: float(len(text) % 5 == 0))
    monkeypatch.setitem(rewards.REWARDS, "vowels", pay)


@pytest.mark.slow
def test_rethinking_on_two_processes(base, tmp_path, quick, rare):
    line = f"--model {base} {GRPO} {FLAGS} --prompts-per-step 4 --updates-per-rollout 2"
    line += " --max-steps 3 --save-steps 0"
    train(rethink, f"{line} --output-dir {tmp_path / 'one'}")
    found = run_in_processes(2, rethink, line, tmp_path / "several")
    assert found[-1]["replayed"] > 0 and found[-1]["rethinking/learned"] == 4
    same(metrics_of(tmp_path / "one"), found)


@pytest.mark.parametrize(
    "flags",
    [
        "--updates-per-rollout 2",
        pytest.param("--lora-r 4 --num-iterations 2", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_replays_the_same_rows(flags, base, tmp_path, quick, rare):
    line = f"--model {base} {GRPO} {FLAGS} --prompts-per-step 4 {flags} --max-steps 4"
    line += " --save-steps 2 --save-total-limit 9 --output-dir"
    train(rethink, f"{line} {tmp_path / 'whole'}")
    found = metrics_of(tmp_path / "whole")
    replayed = [line["replayed"] for line in found[1:]]
    assert replayed[0] == 0 and min(replayed[2:]) > 0
    assert all(line["rethinking/learned"] == 4 for line in found[1:])
    # The first evaluation and two rollouts a step: in the second rollout of step 4.
    train_until_killed(f"{line} {tmp_path / 'killed'}", 9, rethink)
    left = [path.name for path in (tmp_path / "killed").glob("checkpoint-*")]
    assert left == ["checkpoint-2"]
    train(rethink, f"{line} {tmp_path / 'killed'} --resume-from-checkpoint")
    assert metrics_of(tmp_path / "killed") == found
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


def test_cut_completions_that_are_masked_are_not_replayed(base, tmp_path, quick, monkeypatch):
    fresh, real = [], Rows.and_new
    monkeypatch.setattr(
        Rows, "and_new", lambda self, *new: fresh.append(new[0]) or real(self, *new)
    )
    steps(rethink, base, tmp_path / "all")
    steps(rethink, base, tmp_path / "masked", "--mask-truncated-completions")
    for rows, is_learned in zip(fresh, (True, False), strict=True):
        cut = rows.roll.finished() == 0
        assert cut.any() and bool(rows.adv[cut].any()) == is_learned


def test_rethinking_and_a_dry_run(base, tmp_path, quick):
    steps_ = f"--model {base} {GRPO} {FLAGS} --max-steps 2 --dry-run --output-dir {tmp_path}"
    train(rethink, steps_)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_replay_and_resampling_exclude_each_other(base, tmp_path, capsys):
    line = f"--model {base} {GRPO} --max-steps 1 --max-resample-times 2 --output-dir {tmp_path}"
    assert "rows of earlier steps take the place" in refusal(rethink, line.split(), capsys)


# --- what recipes/loops.sh prints ---


def test_the_table_of_loops(tmp_path, capsys):
    """The warm start, then GRPO, then the others: means over seeds, all that was sampled."""
    for name, seed, accuracy in (("rethink", 0, 0.7), ("grpo", 0, 0.8), ("grpo", 1, 0.9)):
        looked = {"eval/count:test/accuracy": 0.5, "eval/count:ood/accuracy": 0.1, "vision/kl": 0.2}
        step = {"groups/sampled_tokens": 2000, "rethinking/tokens": 1000 * (name == "rethink")}
        lines = [{"step": 0, **looked}, {"step": 1, "step_time": 1.5, **step}]
        lines.append({"step": 2, "step_time": 2.5, **step, **looked})
        lines[-1]["eval/count:test/accuracy"] = accuracy
        folder = tmp_path / f"{name}-seed{seed}"
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loops_table.main(loops_table.parse_args([str(tmp_path)]))
    rows = capsys.readouterr().out.splitlines()[2:]
    same = "0.100 (0.100 - 0.100) | 0.200 (0.200 - 0.200)"
    assert rows == [
        "| before | | 0.500 | 0.100 | 0.200 | | |",
        f"| grpo | 2 | 0.850 (0.800 - 0.900) | {same} | 4 | 4 |",
        "| rethink | 1 | 0.700 | 0.100 | 0.200 | 6 | 4 |",
    ]


def test_a_folder_without_runs_says_what_makes_them(tmp_path, capsys):
    assert "bash recipes/loops.sh" in refusal(loops_table, [tmp_path], capsys)
