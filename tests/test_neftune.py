"""Run: python -m pytest -q tests/test_neftune.py    (10 s on one core of a CPU; no network)

--neftune-noise-alpha: the size of the noise, where it is and where it is not, and that neither
micro-batches nor a stop change it.
"""

import math

import pytest
import torch
from commands import SFT, metrics_of, same_weights, train
from samples import captions

import batching
import data
import families
import logps
import model as modeling
import tasks
import train_sft

ALPHA = 5.0


@pytest.fixture(scope="module", params=families.FAMILIES)
def policy_and_batch(request):
    """The preset of a family, and a micro-batch of three questions with noise beside it."""
    policy, processor = modeling.load(f"tiny:{request.param}")
    asker = data.Asker(processor)
    lessons = [asker.lesson(tasks.read("count")[i], 512) for i in range(3)]
    prompts, rows, learned = zip(*lessons)
    targets, mask = batching.pad_targets(rows, processor.special.pad_id, learned)
    batch = batching.collate(prompts, targets, mask)
    tokens = [len(prompt.ids) + len(row) for prompt, row in zip(prompts, rows)]
    shape = batch["input_ids"].shape[1], policy.config.text_config.hidden_size
    batch["noise"] = logps.neftune_noise(tokens, [1, 2, 3], ALPHA, shape)
    yield policy, batch, tokens
    policy.eval()


# --- its size ---


@pytest.mark.parametrize("length, width, alpha", [(64, 512, 5.0), (301, 128, 15.0), (2, 9000, 0.5)])
def test_the_noise_is_uniform_and_its_size_is_that_of_the_paper(length, width, alpha):
    """Variance alpha^2 / (3 L D), of each row by its own length; L D >= 18,000 draws: 4 sigma."""
    noise = logps.neftune_noise([length, length // 2], [7, 8], alpha, (length, width))
    for row, L in zip(noise, (length, length // 2)):
        drawn, most = row[:L], alpha / math.sqrt(L * width)
        assert drawn.abs().max() <= most and drawn.abs().max() > 0.99 * most
        n = drawn.numel()
        # A uniform draw's square has standard deviation most^2 * sqrt(4 / 45).
        expected, sigma = alpha**2 / (3 * L * width), most**2 * math.sqrt(4 / 45 / n)
        assert abs(drawn.square().mean() - expected) < 4 * sigma
        assert abs(drawn.mean()) < 4 * math.sqrt(expected / n)
        assert not row[L:].any()
    assert not torch.equal(noise[0, : length // 2], noise[1, : length // 2])


def test_a_row_alone_has_the_noise_of_transformers():
    """The same bound and spread as its hook; the hook's length is that of a padded batch."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    embedding = torch.nn.Embedding(1, 512).train()
    embedding.neftune_noise_alpha = ALPHA
    torch.manual_seed(0)
    theirs = neftune_post_forward_hook(embedding, None, torch.zeros(1, 200, 512))
    ours = logps.neftune_noise([200], [0], ALPHA, (200, 512))
    assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=1e-3)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.01)


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    both = logps.neftune_noise([30, 20], [1, 2], ALPHA, (30, 8))
    alone = logps.neftune_noise([20], [2], ALPHA, (25, 8))
    assert torch.equal(both[1, :20], alone[0, :20])


# --- where it is ---


def test_words_have_noise_and_pictures_have_none(policy_and_batch):
    policy, batch, tokens = policy_and_batch
    core = logps.core_of(policy)
    with torch.no_grad():
        clean = logps.embed(core, batch)["inputs_embeds"]
        policy.train()
        noisy = logps.embed(core, batch)["inputs_embeds"]
        policy.eval()
    difference = (noisy - clean).flatten(0, 1)
    is_picture = torch.zeros(len(difference), dtype=torch.bool)
    is_picture[batch["slot_index"]] = True
    assert not difference[is_picture].any()
    is_token = torch.cat([torch.arange(len(row)) < n for row, n in zip(clean, tokens)])
    assert difference[is_token & ~is_picture].all(1).sum() > 0.99 * (is_token & ~is_picture).sum()
    assert not difference[~is_token].any()
    expected = batch["noise"].flatten(0, 1)[~is_picture]
    assert torch.allclose(difference[~is_picture], expected, atol=1e-6)


def test_log_probs_have_noise_in_training_mode_alone(policy_and_batch):
    """And only where a batch brings it: rollouts, references and evaluations bring none."""
    policy, batch, _ = policy_and_batch
    without = {name: value for name, value in batch.items() if name != "noise"}
    with torch.no_grad():
        clean = logps.token_logps(policy, without)
        assert torch.equal(logps.token_logps(policy, batch), clean)
        policy.train()
        assert torch.equal(logps.token_logps(policy, without), clean)
        assert not torch.allclose(logps.token_logps(policy, batch), clean, atol=1e-4)
        policy.eval()


def test_recomputed_layers_see_the_same_noise(policy_and_batch):
    """The gradient with --gradient-checkpointing is the one without, to the last bit."""
    policy, batch, _ = policy_and_batch
    weight = policy.model.language_model.embed_tokens.weight.requires_grad_()
    policy.train()
    gradients = []
    for recompute in (False, True):
        if recompute:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
        logps.token_logps(policy, batch).sum().backward()
        gradients.append(weight.grad.clone())
        weight.grad = None
    policy.gradient_checkpointing_disable()
    policy.eval()
    assert gradients[0].any() and torch.equal(*gradients)


# --- in a run ---


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return captions(tmp_path_factory.mktemp("captions") / "set.jsonl", 8)


@pytest.fixture
def run(base, file, tmp_path, no_pictures):
    """Train two steps of 4 in the folder of this name: its metrics."""

    def two_steps(name, more=""):
        line = f"--model {base} --data {file} --batch-size 4 --max-steps 2 --learning-rate 1e-3"
        line += f" --save-steps 1 --save-total-limit 9 {more} --output-dir {tmp_path / name}"
        train(train_sft, line)
        return metrics_of(tmp_path / name)

    return two_steps


def test_alpha_0_changes_nothing_and_5_does(run, tmp_path):
    without = run("without")
    assert run("0", "--neftune-noise-alpha 0") == without
    assert same_weights(tmp_path / "0", tmp_path / "without")
    assert run("5", "--neftune-noise-alpha 5")[0]["loss"] != without[0]["loss"]


def test_a_stop_and_other_micro_batches_do_not_change_the_noise(run, tmp_path, monkeypatch):
    noise, draw = [], logps.neftune_noise

    def watched(lengths, *more):
        drawn = draw(lengths, *more)
        noise.extend(row[:n].clone() for row, n in zip(drawn, lengths))
        return drawn

    monkeypatch.setattr(logps, "neftune_noise", watched)
    alpha = "--neftune-noise-alpha 5"
    whole = run("whole", alpha)
    assert len(noise) == 8 and not torch.equal(noise[0], noise[4])  # of another step
    run("again", alpha)
    again = f"{alpha} --resume-from-checkpoint {tmp_path / 'again' / 'checkpoint-1'}"
    assert run("again", again) == whole and same_weights(tmp_path / "again", tmp_path / "whole")
    noise[8:] = []
    in_ones = run("ones", f"{alpha} --micro-batch-size 1")
    assert in_ones[0]["loss"] == pytest.approx(whole[0]["loss"], rel=1e-5)
    assert all(map(torch.equal, noise[:8], noise[8:]))


def test_only_the_training_of_a_run_has_noise(base, tmp_path, no_pictures, monkeypatch):
    """Its evaluation, a rollout, has none."""
    calls, embed = [], logps.embed

    def watched(core, batch):
        calls.append((core.training, "noise" in batch))
        return embed(core, batch)

    monkeypatch.setattr(logps, "embed", watched)
    line = f"--model {base} {SFT} --max-eval-samples 1 --max-steps 1 --save-steps 0"
    train(train_sft, f"{line} --neftune-noise-alpha 5 --output-dir {tmp_path}")
    assert set(calls) == {(True, True), (False, False)}
