"""The rollout against stock `model.generate`, the plain loop and the trainer's `token_logps`.

Random models repeat one token, which would hide most mistakes. The ones here do not, and a test
fails as degenerate if they do.
"""

import functools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import pytest
import torch
from stock import as_on_a_gpu, stock_greedy

import batching
import data
import families
import generate
import logps
import model as modeling
import rollout
import update
from evaluating import likelihood
from fast import decode
from plumbing import disk, running
from plumbing.errors import UserError
from tasks.example import Example
from tasks.prompts import SELECT, TEMPLATES, question_text

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

NEVER = 10**6  # an id that no vocabulary has: rows go on to the end
LENGTH = 128


def flags(**changed):
    return SimpleNamespace(
        **(
            dict(
                lora_r=0,
                lora_alpha=None,
                lora_dropout=0.0,
                lora_targets=None,
                train_merger=None,
                use_dora=None,
                use_rslora=None,
                freeze_vision=False,
                freeze_merger=False,
                freeze_llm=False,
                gradient_checkpointing=False,
            )
            | changed
        )
    )


def stopping_at(processor, *ids, vision_ids=None):
    """processor.special with other ids that end a row."""
    return SimpleNamespace(
        **(
            vars(processor.special)
            | {"eos_ids": list(ids)}
            | ({} if vision_ids is None else {"vision_ids": vision_ids})
        )
    )


@pytest.fixture(scope="session")
def lively(tmp_path_factory):
    """A checkpoint in the layout of 2024, untied; large weights, so that its text varies."""
    return checkpoints.write_2024(
        tmp_path_factory.mktemp("lively"), "tiny-untied", dtype=torch.float32, scale=0.12
    )


@pytest.fixture
def loaded(lively):
    return modeling.load(str(lively))


@pytest.fixture(scope="session")
def loaded_once(lively):
    """For tests that change nothing."""
    return modeling.load(str(lively))


def with_lora(directory, **changed):
    policy, processor = modeling.load(str(directory), train=flags(lora_r=4, **changed))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy, processor


def rows_of(out):
    return [row[:n].tolist() for row, n in zip(out.targets, out.lengths)]


def trainer_logps(policy, processor, prompts, out, temperature=1.0):
    batch = batching.collate(prompts, out.targets, out.mask)
    with torch.no_grad():
        return logps.token_logps(policy, batch, temperature, processor.special.vision_ids)


# --- against stock generate ---


@pytest.mark.parametrize("kind", ["tiny", "lively", "lora"])
def test_greedy_tokens_equal_stock_generate(kind, tiny, loaded_once, lively):
    """Nine prompts in one batch: six picture sizes, two pictures, text alone."""
    policy, processor = (
        tiny if kind == "tiny" else loaded_once if kind == "lively" else with_lora(lively)
    )
    prompts = checkpoints.prompts_of(processor)
    out = rollout.rollout(
        policy, prompts, stopping_at(processor, NEVER), 1, rollout.Sampling(LENGTH, temperature=0)
    )
    said = rows_of(out)
    assert (
        len(prompts) >= 8
        and len({tuple(p.grid.flatten().tolist()) for p in prompts if p.grid is not None}) >= 6
    )
    assert all(len(row) == LENGTH for row in said) and out.finish == ["length"] * len(prompts)
    assert (
        len({token for row in said for token in row}) >= (15 if kind == "tiny" else 20)
        and len(set(map(tuple, said))) >= 6
    ), "degenerate: this model would not notice"
    assert said == stock_greedy(policy, processor, prompts, LENGTH, [NEVER])
    assert (out.logp - trainer_logps(policy, processor, prompts, out)).abs().max() < 2e-5
    if kind == "lora":  # the adapter took part
        assert said != rows_of(
            rollout.rollout(
                loaded_once[0],
                prompts,
                stopping_at(processor, NEVER),
                1,
                rollout.Sampling(LENGTH, temperature=0),
            )
        )


def test_greedy_rows_stop_where_stock_generate_stops(loaded_once):
    """Two ids end a row, so that rows end at many places and are dropped on the way."""
    policy, processor = loaded_once
    prompts = checkpoints.prompts_of(processor)
    said = rows_of(
        rollout.rollout(
            policy,
            prompts,
            stopping_at(processor, NEVER),
            1,
            rollout.Sampling(LENGTH, temperature=0),
        )
    )

    def first(row, ids):
        return min((row.index(i) + 1 for i in ids if i in row), default=LENGTH)

    tokens = sorted({token for row in said for token in row})
    stops = max(
        ([a, b] for a in tokens for b in tokens if a < b),
        key=lambda ids: len({first(row, ids) for row in said}),
    )
    out = rollout.rollout(
        policy, prompts, stopping_at(processor, *stops), 1, rollout.Sampling(LENGTH, temperature=0)
    )
    assert len(set(out.lengths.tolist())) >= 5, "degenerate: rows end together"
    assert (
        rows_of(out)
        == stock_greedy(policy, processor, prompts, LENGTH, stops)
        == [row[: first(row, stops)] for row in said]
    )


def test_one_prompt_of_each_kind_alone(loaded_once):
    policy, processor = loaded_once
    special = stopping_at(processor, NEVER)
    prompts = checkpoints.prompts_of(processor)
    together = rows_of(
        rollout.rollout(policy, prompts, special, 1, rollout.Sampling(16, temperature=0))
    )
    assert [
        rows_of(rollout.rollout(policy, [p], special, 1, rollout.Sampling(16, temperature=0)))[0]
        for p in prompts
    ] == together


# --- the plain loop ---


@pytest.mark.parametrize("kind", ["lively", "lora"])
def test_the_plain_loop_is_greedy_as_stock_generate(kind, loaded_once, lively):
    policy, processor = loaded_once if kind == "lively" else with_lora(lively)
    prompts, special = checkpoints.prompts_of(processor), stopping_at(processor, *range(16))
    sampling = rollout.Sampling(48, temperature=0)
    plain = rollout.rollout_plain(policy, prompts, special, 1, sampling)
    assert len(set(plain.lengths.tolist())) >= 4, "degenerate: rows end together"
    expected = stock_greedy(policy, processor, prompts, 48, special.eos_ids)
    assert rows_of(plain) == expected
    assert (plain.logp - trainer_logps(policy, processor, prompts, plain)).abs().max() < 2e-5


@pytest.mark.parametrize("kind", ["lively", "lora"])
@pytest.mark.parametrize(
    "sampling",
    [
        rollout.Sampling(40, temperature=0),
        rollout.Sampling(40),
        rollout.Sampling(40, temperature=0.7),
        rollout.Sampling(40, top_p=0.6),
        rollout.Sampling(40, top_p=0.9, top_k=5),
    ],
    ids=str,
)
def test_the_fast_rollout_is_the_plain_loop(kind, sampling, loaded_once, lively):
    """All fields, of nine prompts and three completions each, from the same row uniforms."""
    policy, processor = loaded_once if kind == "lively" else with_lora(lively)
    prompts, special = checkpoints.prompts_of(processor), stopping_at(processor, *range(16))
    options = (policy, prompts, special, 3, sampling, 5, 7)
    fast, plain = rollout.rollout(*options), rollout.rollout_plain(*options)
    assert len(set(plain.lengths.tolist())) >= 4, "degenerate: rows end together"
    assert torch.equal(fast.targets, plain.targets) and torch.equal(fast.mask, plain.mask)
    assert torch.equal(fast.lengths, plain.lengths) and fast.finish == plain.finish
    assert (fast.logp - plain.logp).abs().max() < 5e-5  # of the same sums in another order


class InverseCdf:
    """A logits processor of stock generate that leaves only what the row's uniform number draws."""

    def __init__(self, uniforms, prompt_length, sampling):
        self.uniforms, self.prompt_length, self.sampling = uniforms, prompt_length, sampling

    def __call__(self, ids, scores):
        uniform = self.uniforms[:, ids.shape[1] - self.prompt_length]
        probs = (scores.float() / self.sampling.temperature).softmax(-1).double()
        tokens = (probs.cumsum(-1) <= uniform[:, None] * probs.sum(-1, keepdim=True)).sum(-1)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


@pytest.mark.parametrize("run", [rollout.rollout_plain, rollout.rollout])
def test_sampled_tokens_are_those_of_stock_generate(run, loaded_once):
    """Stock generate draws from the same row uniforms, by an inverse CDF that is spelt out here."""
    policy, processor = loaded_once
    prompts = checkpoints.prompts_of(processor)
    special, sampling = stopping_at(processor, *range(16)), rollout.Sampling(32, temperature=0.8)
    uniforms = rollout.row_uniforms(3, range(len(prompts)), sampling.max_tokens)
    drawn = [
        stock_greedy(
            policy,
            processor,
            [prompt],
            sampling.max_tokens,
            special.eos_ids,
            logits_processor=[InverseCdf(uniforms[n, None], len(prompt.ids), sampling)],
        )[0]
        for n, prompt in enumerate(prompts)
    ]
    assert len(set(map(len, drawn))) >= 4, "degenerate: rows end together"
    assert rows_of(run(policy, prompts, special, 1, sampling, seed=3)) == drawn


def test_the_plain_loop_restores_the_mode(lively):
    policy, processor = with_lora(lively, gradient_checkpointing=True, lora_dropout=0.5)
    prompts, special = checkpoints.prompts_of(processor, slice(4, 6)), stopping_at(processor, NEVER)
    options = (policy.train(), prompts, special, 2, rollout.Sampling(8))
    plain = rollout.rollout_plain(*options)
    assert policy.training and torch.equal(plain.targets, rollout.rollout(*options).targets)


# --- log-probs, seeds, stops ---


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_the_trainers(temperature, loaded_once):
    policy, processor = loaded_once
    prompts = checkpoints.prompts_of(processor)
    special = stopping_at(processor, *range(40))  # rows end early and apart
    out = rollout.rollout(
        policy, prompts, special, 4, rollout.Sampling(40, temperature=temperature), seed=5
    )
    assert len(set(out.lengths.tolist())) >= 6
    assert (
        out.logp - trainer_logps(policy, processor, prompts, out, temperature)
    ).abs().max() < 2e-5
    assert (
        out.logp.dtype == out.mask.dtype == torch.float32
        and out.lengths.dtype == torch.long
        and out.logp.shape == out.targets.shape == out.mask.shape
    )
    for n, prompt in enumerate(prompts):  # and the packed forward's, as training has it
        rows = slice(4 * n, 4 * n + 4)
        with torch.no_grad():
            packed = logps.token_logps(
                policy,
                batching.collate([prompt], out.targets[rows], out.mask[rows]),
                temperature,
                processor.special.vision_ids,
            )
        assert (out.logp[rows] - packed).abs().max() < 2e-5
    cut = rollout.rollout(
        policy,
        prompts,
        special,
        4,
        rollout.Sampling(40, temperature=temperature, top_p=0.5),
        seed=5,
    )  # logp stays that of the whole distribution
    assert (
        cut.logp - trainer_logps(policy, processor, prompts, cut, temperature)
    ).abs().max() < 2e-5


def test_what_a_row_says_depends_on_seed_and_row_alone(loaded_once):
    """Not on the other rows of the batch, nor on those that have finished.

    Cumulative sums differ by 1e-7 between batch shapes: with these 500 tokens the chance that a
    draw lands in between, on another machine, is about 1e-4.
    """
    policy, processor = loaded_once
    prompts, special = (
        checkpoints.prompts_of(processor, slice(3, 9)),
        stopping_at(processor, *range(20)),
    )

    def run(chosen, first_row=0, seed=7, G=4):
        return rows_of(
            rollout.rollout(policy, chosen, special, G, rollout.Sampling(30), seed, first_row)
        )

    together = run(prompts)
    assert len(set(map(len, together))) >= 6, "degenerate: rows end together, none is dropped"
    for n, prompt in enumerate(prompts):
        assert run([prompt], first_row=4 * n) == together[4 * n : 4 * n + 4]
    assert run(prompts[2:3], first_row=9, G=1) == together[9:10]
    assert run(prompts) == together
    assert all(len({tuple(row) for row in together[4 * n : 4 * n + 4]}) == 4 for n in range(6)), (
        "two completions of one prompt are the same"
    )
    assert sum(a == b for a, b in zip(together, run(prompts, seed=8))) <= 1


def test_ends_masks_and_finish_reasons(loaded_once):
    """A row is what it would have been without stop ids, up to its first stop.

    One row ends at its first token, one never, and one at its very last, which is not cut.
    """
    policy, processor = loaded_once
    prompts, T = checkpoints.prompts_of(processor, slice(4, 8)), 20
    free = rows_of(
        rollout.rollout(
            policy, prompts, stopping_at(processor, NEVER), 2, rollout.Sampling(T), seed=3
        )
    )
    stop_first = free[0][0]
    last = next(
        row[-1]
        for row in free[1:]
        if row[-1] not in row[:-1]
        and stop_first not in row
        and not any(row[-1] == other[0] for other in free)
    )
    stops = [stop_first, last]
    out = rollout.rollout(
        policy, prompts, stopping_at(processor, *stops), 2, rollout.Sampling(T), seed=3
    )
    expected = [
        row[: next((t + 1 for t, token in enumerate(row) if token in stops), T)] for row in free
    ]
    assert rows_of(out) == expected and out.lengths.tolist() == [len(row) for row in expected]
    assert out.finish == ["stop" if row[-1] in stops else "length" for row in expected]
    assert (
        min(map(len, expected)) == 1
        and "length" in out.finish
        and any(len(row) == T and reason == "stop" for row, reason in zip(expected, out.finish))
    ), "degenerate"
    assert torch.equal(out.mask, (torch.arange(T) < out.lengths[:, None]).float())
    assert (out.targets[out.mask == 0] == processor.special.pad_id).all() and (
        out.logp[out.mask == 0] == 0
    ).all()
    everything = rollout.rollout(
        policy,
        prompts,
        stopping_at(processor, *range(policy.config.text_config.vocab_size)),
        2,
        rollout.Sampling(T),
        seed=3,
    )
    assert (
        everything.targets.shape == (8, 1)
        and everything.finish == ["stop"] * 8
        and [r[0] for r in rows_of(everything)] == [r[0] for r in free]
    )
    assert rollout.rollout(
        policy, prompts, stopping_at(processor, NEVER), 2, rollout.Sampling(1), seed=3
    ).targets.tolist() == [[r[0]] for r in free]


def test_vision_tokens_are_never_sampled(loaded):
    """A sampled one would break the training forward. Here the head favours them."""
    policy, processor = loaded
    vision = processor.special.vision_ids
    with torch.no_grad():
        policy.lm_head.weight[vision] *= 8
    prompts = checkpoints.prompts_of(processor, slice(4, 8))
    special, open_ = stopping_at(processor, NEVER), stopping_at(processor, NEVER, vision_ids=[])
    for temperature in (0, 1.0):
        assert (
            torch.isin(
                rollout.rollout(
                    policy, prompts, open_, 4, rollout.Sampling(16, temperature=temperature)
                ).targets,
                torch.tensor(vision),
            )
            .float()
            .mean()
            > 0.3
        ), "degenerate"
        out = rollout.rollout(
            policy, prompts, special, 4, rollout.Sampling(16, temperature=temperature)
        )
        assert (
            not torch.isin(out.targets, torch.tensor(vision)).any()
            and torch.isfinite(out.logp).all()
        )
        assert (out.logp - trainer_logps(policy, processor, prompts, out)).abs().max() < 2e-5


# --- the sampler ---


def p_value(counts, probabilities):
    """Of Pearson's chi-square test; cells expected less than 10 times are one cell."""
    expected, counts = probabilities.double() * counts.sum(), counts.double()
    assert (counts[expected == 0] == 0).all()
    rare = expected < 10
    expected, counts = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (expected, counts))
    expected, counts = expected[expected > 0], counts[expected > 0]
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(
        torch.special.gammaincc(
            torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), statistic / 2
        )
    )


def reference_distribution(logits, temperature, top_p, top_k):
    """Temper, keep the k likeliest, of those the smallest set of mass top_p, renormalise."""
    weights = [2.718281828459045 ** (float(x) / temperature) for x in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    order = order[:top_k] if top_k else order
    total, kept, mass = sum(weights[i] for i in order), [], 0.0
    for i in order:
        if mass >= top_p:
            break
        kept.append(i)
        mass += weights[i] / total
    return torch.tensor(
        [
            weights[i] / sum(weights[j] for j in kept) if i in kept else 0.0
            for i in range(len(weights))
        ],
        dtype=torch.float64,
    )


LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.9, -torch.inf, 1.4, -2.5, 0.0, 1.1, -torch.inf])


@pytest.mark.parametrize(
    "temperature, top_p, top_k",
    [
        (1.0, 1.0, 0),
        (0.7, 1.0, 0),
        (2.0, 1.0, 0),
        (1.0, 1.0, 3),
        (1.0, 1.0, 1),
        (1.0, 0.6, 0),
        (0.7, 0.9, 0),
        (1.3, 0.8, 5),
        (1.0, 1e-9, 0),
        (1.0, 1.0, 100),
    ],
)
def test_sampled_distribution_is_the_reference(temperature, top_p, top_k):
    """Draws on an even grid hit each token as often as its probability says, to within two."""
    n = 20_000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logp = rollout.sample(
        LOGITS.expand(n, -1), uniform, rollout.Sampling(1, temperature, top_p, top_k)
    )
    expected = reference_distribution(LOGITS, temperature, top_p, top_k)
    assert (tokens.bincount(minlength=10) - n * expected).abs().max() <= 2
    assert (
        torch.allclose(logp, (LOGITS / temperature).log_softmax(-1)[tokens])
        and logp.dtype == torch.float32
    )


def test_sampler_passes_a_chi_square_test():
    """The first and the tenth draw of 100,000 rows, each with its own seed, as in `rollout`.

    Three tests at 1e-6, seeded: a false alarm on 3 machines in a million.
    """
    uniforms = rollout.row_uniforms(0, range(100_000), 10)
    expected = reference_distribution(LOGITS, 1.0, 1.0, 0)
    logits = LOGITS.expand(len(uniforms), -1)
    drawn = [rollout.sample(logits, uniforms[:, t], rollout.Sampling())[0] for t in (0, 9)]
    for tokens in drawn:
        assert p_value(tokens.bincount(minlength=10), expected) > 1e-6
    # Neighbouring rows, whose seeds are close, draw independently.
    pairs = (drawn[0][:-1:2] * 10 + drawn[0][1::2]).bincount(minlength=100)
    assert p_value(pairs, torch.outer(expected, expected).flatten()) > 1e-6


def test_draws_are_uniform_across_seeds_and_rows():
    """The first draws in 20,000 training steps, whose seeds are consecutive. False alarm: 2e-6."""
    draws = torch.cat(
        [rollout.row_uniforms(3_000_000 + step, [0, 1], 1).T for step in range(20_000)]
    )
    assert draws.dtype == torch.float64 and (draws >= 0).all() and (draws < 1).all()
    for column in draws.T:
        assert p_value((column * 20).long().bincount(minlength=20), torch.full((20,), 0.05)) > 1e-6
    assert abs(float(torch.corrcoef(draws.T)[0, 1])) < 5 / 20_000**0.5  # 5 sigma: 6e-7
    assert torch.equal(
        rollout.row_uniforms(4, [9, 2], 5),
        torch.stack([rollout.row_uniforms(4, [r], 8)[0, :5] for r in (9, 2)]),
    )


def test_extreme_draws_and_logits():
    first, last = (
        torch.tensor([0.0], dtype=torch.float64),
        torch.tensor([1 - 2**-53], dtype=torch.float64),
    )
    logits = torch.tensor([[-torch.inf, 1.0, 0.0, -torch.inf]])
    assert (
        rollout.sample(logits, first, rollout.Sampling())[0] == 1
        and rollout.sample(logits, last, rollout.Sampling())[0] == 2
    )  # never a token of probability 0
    sure = torch.tensor([[-torch.inf, 500.0, -500.0, 0.0]])
    for uniform in (first, last):
        token, logp = rollout.sample(sure, uniform, rollout.Sampling())
        assert token == 1 and logp == 0
    token, logp = rollout.sample(
        torch.tensor([[1.0, 3.0, 2.0]]), None, rollout.Sampling(temperature=0)
    )
    assert token == 1 and torch.allclose(logp, torch.tensor([1.0, 3.0, 2.0]).log_softmax(0)[1])
    before = logits.clone()
    rollout.sample(logits, first, rollout.Sampling(1, 0.5, 0.9, 2))
    assert torch.equal(logits, before)


# --- modes, updates ---


@pytest.mark.parametrize("training", [False, True])
def test_mode_is_restored_and_never_in_the_way(training, lively):
    """In train mode checkpointing drops the cache, and dropout makes tokens random."""
    policy, processor = with_lora(lively, gradient_checkpointing=True, lora_dropout=0.5)
    prompts, special = checkpoints.prompts_of(processor, slice(4, 8)), stopping_at(processor, NEVER)
    expected = rows_of(
        rollout.rollout(policy, prompts, special, 1, rollout.Sampling(12, temperature=0))
    )
    policy.train(training)
    assert (
        rows_of(rollout.rollout(policy, prompts, special, 1, rollout.Sampling(12, temperature=0)))
        == expected
    )
    assert (
        all(module.training == training for module in policy.modules())
        and logps.core_of(policy).model.language_model.gradient_checkpointing
    )
    assert expected == stock_greedy(policy.eval(), processor, prompts, 12, [NEVER])
    assert not any(p.grad is not None for p in policy.parameters())


@pytest.mark.parametrize("temperature", [0, 1])
def test_weights_that_are_not_numbers_are_said(temperature, loaded):
    """One NaN among them. It would be answered with noise, and scored 0."""
    policy, processor = loaded
    policy.model.language_model.norm.weight.data[3] = torch.nan
    prompts = checkpoints.prompts_of(processor, slice(4, 6))
    options = (policy, prompts, processor.special, 2, rollout.Sampling(3, temperature))
    for sample in (rollout.rollout, rollout.rollout_plain):
        with pytest.raises(UserError, match="log-probs are NaN.*another checkpoint as --model"):
            sample(*options)
    with pytest.raises(UserError, match="log-probs are NaN"):
        asker = data.Asker(processor)
        likelihood.option_logps(policy, asker, prompts[0], ["red", "blue"], tags=False)


@pytest.mark.parametrize("kind", ["full", "lora", "nf4"])
def test_a_rollout_uses_the_weights_of_its_moment(kind, lively):
    policy, processor = modeling.load(
        str(lively),
        quant="nf4" if kind == "nf4" else "none",
        train=flags(lora_r=0 if kind == "full" else 4),
    )
    prompts, special = checkpoints.prompts_of(processor, slice(4, 8)), stopping_at(processor, NEVER)

    def run():
        return rollout.rollout(policy, prompts, special, 2, rollout.Sampling(12), seed=1)

    optimizer = update.make_optimizer(
        "adamw", [p for p in policy.parameters() if p.requires_grad], 1e-2
    )
    outs = [run()]
    for _ in range(2):
        policy.train()
        logp = logps.token_logps(
            policy,
            batching.collate(prompts, outs[-1].targets, outs[-1].mask),
            suppress=processor.special.vision_ids,
        )
        assert (logp.detach() - outs[-1].logp).abs().max() < 2e-5  # on-policy: the ratio is 1
        optimizer.zero_grad()
        (-logp.sum()).backward()
        optimizer.step()
        outs.append(run())
        assert (
            outs[-1].logp - trainer_logps(policy.eval(), processor, prompts, outs[-1])
        ).abs().max() < 2e-5
    assert not torch.equal(outs[0].targets, outs[2].targets)


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_bfloat16_rollout_is_the_trainers_policy_to_bfloat16s_precision(quant, lively):
    policy, processor = modeling.load(
        str(lively), torch.bfloat16, quant=quant, train=flags(lora_r=4)
    )
    prompts = checkpoints.prompts_of(processor)
    out = rollout.rollout(
        policy, prompts, stopping_at(processor, NEVER), 2, rollout.Sampling(16), seed=2
    )
    gap = (out.logp - trainer_logps(policy, processor, prompts, out)).abs()
    assert gap.mean() < 0.03 and out.logp.std() > 0.3, gap.mean()


def bfloat16_and_float32(directory, quant, full):
    """The same policy in bfloat16 and in float32, from weights that bfloat16 holds exactly.

    LoRA, or full fine-tuning: float32 weights under autocast. 4-bit weights are dequantised to
    bfloat16 in both.
    """
    checkpoints.write_2024(directory, "tiny-untied", dtype=torch.bfloat16, scale=0.12)
    policies = []
    for dtype in (torch.bfloat16, torch.float32):
        policy, processor = modeling.load(
            str(directory), dtype, quant=quant, train=flags(lora_r=0 if full else 4)
        )
        for module in policy.modules():
            if type(module).__name__ == "Linear4bit" and not hasattr(module, "lora_A"):
                module.weight.quant_state.dtype = torch.bfloat16
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
                if parameter.is_floating_point():
                    parameter.copy_(parameter.bfloat16().to(parameter.dtype))
        policies.append(policy)
    return *policies, processor


@pytest.mark.parametrize("kind", ["none", "nf4", "full"])
def test_bfloat16_rollout_is_no_further_from_float32_than_the_stock_forward(kind, tmp_path):
    """Mean |error| of log-probs: at most 1.25 times that of stock's whole forward in bfloat16."""
    low, high, processor = bfloat16_and_float32(
        tmp_path / "model", "nf4" if kind == "nf4" else "none", kind == "full"
    )
    prompts = checkpoints.prompts_of(processor)
    out = rollout.rollout(
        low, prompts, stopping_at(processor, NEVER), 4, rollout.Sampling(48), seed=2
    )
    exact = trainer_logps(high, processor, prompts, out)
    stock = []
    with torch.no_grad(), logps.autocast(logps.core_of(low)):
        for row, target in enumerate(out.targets):
            prompt = prompts[row // 4]
            logits = (
                low(**checkpoints.stock_inputs([prompt], processor.special, [target]))
                .logits[0, len(prompt.ids) - 1 : -1]
                .float()
            )
            logits[:, processor.special.vision_ids] = -torch.inf
            stock.append(logits.log_softmax(-1).gather(1, target[:, None])[:, 0])
    ours, theirs = (out.logp - exact).abs().mean(), (torch.stack(stock) - exact).abs().mean()
    print(f"{kind}: ours {ours:.4f}, stock {theirs:.4f}")
    assert 1e-4 < theirs < 0.1 and ours <= 1.25 * theirs, (ours, theirs)


# --- layers of all kinds ---


def wrapped(kind, lively, processor, directory, **config):
    """The policy with a PEFT adapter of any kind, its weights moved, loaded from a directory."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    config = dict(target_modules=families.QWEN2_VL.lora_layers["llm"]) | config
    policy = get_peft_model(
        modeling.load(str(lively))[0],
        AdaLoraConfig(init_r=4, total_step=10, **config)
        if kind == "adalora"
        else LoraConfig(r=4, **config),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    logps.core_of(policy).config._name_or_path = str(lively)
    policy.peft_config["default"].base_model_name_or_path = str(lively)
    modeling.save(policy, processor, directory)
    return modeling.load(str(directory), train=flags(lora_r=None))[0]


@pytest.mark.parametrize(
    "kind, config, says",
    [
        ("dora", dict(use_dora=True, lora_alpha=8), ""),
        (
            "adalora",
            dict(target_modules=r".*language_model.*(down_proj|q_proj)"),
            "4 linear layers",
        ),
        (
            "bias",
            dict(lora_bias=True, target_modules=r".*language_model.*(down_proj|q_proj)"),
            "4 linear layers",
        ),
        ("part", dict(target_modules=r".*language_model.*(down_proj|q_proj)"), ""),
        ("head", dict(target_modules=r"(.*language_model.*q_proj|lm_head)"), "lm_head"),
        ("rslora", dict(use_rslora=True, lora_alpha=3), ""),
    ],
)
def test_adapters_of_every_kind_answer_as_stock_does(
    kind, config, says, lively, loaded_once, tmp_path, capsys
):
    """An unknown layer's own forward is called, and the log says so once; also after an update."""
    decode.warn_once.cache_clear()
    processor = loaded_once[1]
    policy = wrapped(kind, lively, processor, tmp_path / "adapter", **config)
    prompts, special = checkpoints.prompts_of(processor, slice(4, 8)), stopping_at(processor, NEVER)
    sampling = rollout.Sampling(32, temperature=0)

    def run():
        return rows_of(rollout.rollout(policy, prompts, special, 1, sampling))

    before = run()
    assert before == stock_greedy(policy, processor, prompts, 32, [NEVER])
    assert before != rows_of(
        rollout.rollout(loaded_once[0], prompts, special, 1, rollout.Sampling(32, temperature=0))
    ), "degenerate: the adapter does nothing"
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=1.0)
    batch = batching.collate(prompts, torch.tensor(before), torch.ones(4, 32))
    logps.token_logps(policy, batch, suppress=processor.special.vision_ids).mean().backward()
    update.clip_gradient([p for p in policy.parameters() if p.requires_grad], 10.0, 1)
    optimizer.step()
    after = run()
    assert after != before and after == stock_greedy(policy, processor, prompts, 32, [NEVER])
    out = capsys.readouterr().out
    assert out.count("rollout:") == bool(says) and says in out


def test_a_full_update_shows_in_the_next_rollout_as_in_stock_generate(lively):
    policy, processor = modeling.load(str(lively), train=flags())
    prompts, special = checkpoints.prompts_of(processor, slice(4, 8)), stopping_at(processor, NEVER)
    before = rows_of(
        rollout.rollout(policy, prompts, special, 1, rollout.Sampling(32, temperature=0))
    )
    batch = batching.collate(prompts, torch.tensor(before), torch.ones(4, 32))
    logps.token_logps(policy, batch, suppress=processor.special.vision_ids).mean().backward()
    torch.optim.SGD(policy.parameters(), lr=1.0).step()
    after = rows_of(
        rollout.rollout(policy, prompts, special, 1, rollout.Sampling(32, temperature=0))
    )
    assert after != before and after == stock_greedy(policy, processor, prompts, 32, [NEVER])


def test_adapter_off_and_second_adapter(lively):
    """disable_adapter and set_adapter, as the reference policy uses them, reach the decode step."""
    policy, processor = with_lora(lively)
    prompts, special = checkpoints.prompts_of(processor, slice(4, 6)), stopping_at(processor, NEVER)
    sampling = rollout.Sampling(16, temperature=0)

    def run():
        return rows_of(rollout.rollout(policy, prompts, special, 1, sampling))

    on = run()
    with policy.disable_adapter():
        off = run()
        assert off == stock_greedy(policy, processor, prompts, 16, [NEVER])
    from peft import LoraConfig

    policy.add_adapter(
        "second", LoraConfig(r=2, target_modules=families.QWEN2_VL.lora_layers["llm"])
    )
    policy.set_adapter("second")  # B is zero: the bare model
    assert run() == off != on
    policy.set_adapter("default")
    assert run() == on
    policy.merge_adapter(["default"])
    assert run() == on
    with policy.disable_adapter():  # PEFT takes it out of the weights, at the next forward
        assert run() == off


def test_without_room_for_copies_each_layer_runs_its_own_forward(lively, monkeypatch):
    """7B in 4 bits on a small card: the same tokens from the modules themselves."""
    for quant in ("none", "nf4"):
        policy, processor = modeling.load(str(lively), quant=quant, train=flags(lora_r=4))
        prompts = checkpoints.prompts_of(processor, slice(4, 8))
        special = stopping_at(processor, NEVER)
        run = functools.partial(
            rollout.rollout, policy, prompts, special, 2, rollout.Sampling(16), seed=1
        )
        copied = run()
        calls = []
        hook = (
            logps.core_of(policy)
            .model.language_model.layers[0]
            .mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
        )
        run()
        assert len(calls) == 1  # the prefill
        with monkeypatch.context() as patch:
            plan = decode.plan_memory
            patch.setattr(decode, "plan_memory", lambda *a, **more: (False, plan(*a, **more)[1]))
            own = run()
        hook.remove()
        assert (
            len(calls) == 2 + 15
            and torch.equal(own.targets, copied.targets)
            and (own.logp - copied.logp).abs().max() < 1e-5
        )


# --- memory, waves, graphs ---


def test_what_does_not_fit_at_once_is_done_in_waves(loaded_once, monkeypatch, capsys):
    policy, processor = loaded_once
    prompts, special = (
        checkpoints.prompts_of(processor, slice(2, 9)),
        stopping_at(processor, *range(20)),
    )

    def run(G):
        return rollout.rollout(policy, prompts, special, G, rollout.Sampling(24), seed=3)

    whole = {G: run(G) for G in (1, 4)}
    plan = decode.plan_memory
    for G, wanted in ((1, 3), (4, 2), (4, 7), (4, 28)):
        free = next(
            free
            for free in range(10**6, 10**9, 2 * 10**4)
            if len(plan(policy, prompts, G, 24, free)[1]) <= wanted
        )
        assert len(plan(policy, prompts, G, 24, free)[1]) == wanted
        decode.warn_once.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(decode, "free_memory", lambda device: free)
            out = run(G)
        assert f"{wanted} waves" in capsys.readouterr().out
        assert (
            torch.equal(out.targets, whole[G].targets)
            and (out.logp - whole[G].logp).abs().max() < 1e-5
            and out.finish == whole[G].finish
        )


def real_size(size):
    """A namespace with the shapes of a real model, for planning, without its weights."""
    text, _, _, (depth, width, heads), _ = checkpoints.SIZES[size]
    text = text | ({"num_hidden_layers": 28} if size.startswith("7b") else {})
    D, I, kv = (
        text["hidden_size"],
        text["intermediate_size"],
        text["hidden_size"] // text["num_attention_heads"] * text["num_key_value_heads"],
    )
    linear = functools.partial(torch.nn.Linear, device="meta", dtype=torch.bfloat16)
    layer = SimpleNamespace(
        self_attn=SimpleNamespace(
            q_proj=linear(D, D), k_proj=linear(D, kv), v_proj=linear(D, kv), o_proj=linear(D, D)
        ),
        mlp=SimpleNamespace(gate_proj=linear(D, I), up_proj=linear(D, I), down_proj=linear(I, D)),
    )
    return SimpleNamespace(
        family=families.preset("tiny"),
        compute_dtype=torch.bfloat16,
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
        lm_head=linear(D, text["vocab_size"]),
        config=SimpleNamespace(
            text_config=SimpleNamespace(**text), vision_config=SimpleNamespace(embed_dim=width)
        ),
        model=SimpleNamespace(
            language_model=SimpleNamespace(layers=[layer] * text["num_hidden_layers"])
        ),
    )


def test_plan_for_real_sizes():
    """Prompts of 1,000 tokens with 900 of a picture, 1,024 tokens an answer.

    7B in 4 bits takes 7 GB of a card. Copies would leave next to nothing of 24 GiB, so layers run
    their own forward there; in 80 GB they fit. A wave's rows never need more than is free: T keys
    and values a row, P a prompt, and the copies.
    """

    def prompt(P=1000):
        ids, grid = torch.zeros(P, dtype=torch.long), torch.tensor([[1, 60, 60]])
        return SimpleNamespace(ids=ids, grid=grid, features=None)

    for size, free, copied in (
        ("2b", 20e9, True),
        ("7b-2layers", 15.5e9, False),
        ("7b-2layers", 70e9, True),
        ("7b-2layers", 130e9, True),
    ):
        core = real_size(size)
        token = {"2b": 28 * 1024, "7b-2layers": 56 * 1024}[size]
        copies = {"2b": 1.310e9, "7b-2layers": 6.525e9}[size] * 2
        for N, G, T, P in (
            (8, 8, 1024, 1000),
            (64, 8, 1024, 1000),
            (8, 64, 1024, 1000),
            (1, 4096, 1024, 1000),
            (12, 9, 4096, 1000),
            (12, 9, 8192, 1000),
            (2, 6, 8192, 16000),
        ):
            copy, waves = decode.plan_memory(core, [prompt(P) for _ in range(N)], G, T, free)
            assert copy == copied or T > 1024
            rows = [(n, g) for a, b, c, d in waves for n in range(a, b) for g in range(c, d)]
            assert sorted(rows) == [(n, g) for n in range(N) for g in range(G)]
            for a, b, c, d in waves:  # with the rows that only fill up a bucket
                assert (
                    decode.bucket((b - a) * (d - c)) * T * token
                    + (b - a) * P * token
                    + copy * copies
                    < 0.9 * free
                )
            if N * G <= 64 and T == 1024:
                assert len(waves) == 1, (size, free, waves)
    assert decode.plan_memory(real_size("2b"), [prompt()], 8, 1024, 1e9)[1] == [
        (0, 1, i, i + 1) for i in range(8)
    ]  # hopeless: one row at a time
    cast = real_size("2b")
    cast.lm_head.float()  # full fine-tuning: the head is copied too

    def waves_of(core, **more):
        prompts = [prompt() for _ in range(64)]
        return len(decode.plan_memory(core, prompts, 8, 1024, 12e9, **more)[1])

    fewest = waves_of(real_size("2b"))
    assert waves_of(cast) >= fewest and waves_of(real_size("2b"), cut=True) >= fewest


def wave_of(policy, processor, prompts, G, T, temperature=1.0, special=None):
    core = logps.core_of(policy)
    with torch.no_grad():
        return decode.Decoder(
            core,
            decode.decode_weights(core),
            prompts,
            special or processor.special,
            G,
            rollout.row_uniforms(0, range(len(prompts) * G), T) if temperature else None,
            rollout.Sampling(T, temperature),
            rollout.sample,
        )


@pytest.mark.parametrize("kind", ["lively", "lora"])
def test_the_path_of_cuda_graphs_samples_the_same(kind, loaded_once, lively, monkeypatch):
    """As on a GPU but for the replay: buckets, lengths in tensors, finished rows every 16 steps."""
    policy, processor = loaded_once if kind == "lively" else with_lora(lively)
    prompts, special = (
        checkpoints.prompts_of(processor, slice(2, 9)),
        stopping_at(processor, *range(16)),
    )

    def run(temperature):
        return rollout.rollout(
            policy, prompts, special, 3, rollout.Sampling(60, temperature), seed=3
        )

    expected = [run(0), run(1.0)]
    assert min(expected[1].lengths) < 17 and max(expected[1].lengths) > 34, (
        "degenerate: no row is dropped"
    )
    captured = as_on_a_gpu(monkeypatch)
    for temperature, wanted in zip((0, 1.0), expected):
        out = run(temperature)
        assert (
            torch.equal(out.targets, wanted.targets)
            and out.finish == wanted.finish
            and (out.logp - wanted.logp).abs().max() < 1e-5
        )
    assert 24 in captured and len(set(captured)) > 1 and set(captured) <= set(decode.BUCKETS)


def addresses(wave):
    """Where each tensor that a step reads or writes lies in memory."""
    tensors = {name: x for name, x in vars(wave).items() if isinstance(x, torch.Tensor)}
    assert tensors.keys() >= {
        *("state", "start", "row_ids", "finished", "tokens", "length", "targets", "logp"),
        *("members", "prefix_lengths", "cos", "sin", "banned", "eos"),
    }
    caches = [x.data_ptr() for pair in wave.prefix + wave.suffix for x in pair]
    return caches, {name: x.data_ptr() for name, x in tensors.items()}


def test_a_step_reads_nothing_on_the_host_and_moves_nothing(loaded_once, monkeypatch):
    """A CUDA graph needs operations that the host does not wait for, and addresses that stay."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoWaiting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            name, tensors = (
                function.overloadpacket.__name__,
                torch.utils._pytree.tree_leaves(arguments[1:]),
            )
            chosen = name in ("index", "index_put", "index_put_") and any(
                isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8)
                for x in torch.utils._pytree.tree_leaves(arguments[1])
            )
            if (
                chosen
                or name
                in (
                    "_local_scalar_dense",
                    "nonzero",
                    "masked_select",
                    "_unique2",
                    "equal",
                    "is_nonzero",
                )
                or name == "repeat_interleave"
                and tensors
            ):
                raise RuntimeError(f"{name} makes the host wait")
            return function(*arguments, **(keywords or {}))

    for waits in (
        lambda: int(torch.ones(1)),
        lambda: torch.ones(3)[torch.ones(3) > 0],
        lambda: bool(torch.ones(1)),
        lambda: torch.ones(2).nonzero(),
    ):
        with pytest.raises(RuntimeError, match="wait"), NoWaiting():
            waits()
    policy, processor = loaded_once
    as_on_a_gpu(monkeypatch)
    prompts = checkpoints.prompts_of(processor, slice(4, 8))
    for temperature in (0, 1.0):
        wave = wave_of(policy, processor, prompts, 2, 40, temperature)
        assert wave.prefix_lengths is not None
        before = addresses(wave)
        with torch.no_grad():
            wave.sample_one_token()
            for _ in range(3):
                wave.forward_one_token()
                wave.sample_one_token()
            wave.drop_finished_rows(torch.tensor([1, 4, 6]), 4)
            wave.forward_one_token()
            wave.sample_one_token()
        assert addresses(wave) == before
        with torch.no_grad(), NoWaiting():
            wave.forward_one_token()
            wave.sample_one_token()
        assert addresses(wave) == before and int(wave.length) == 5


def test_first_tokens_of_a_rollout_pass_a_chi_square_test(loaded_once):
    """2,000 rows of one prompt against the stock forward's distribution. At 1e-6, and seeded."""
    policy, processor = loaded_once
    prompt = checkpoints.prompts_of(processor, slice(4, 5))
    with torch.no_grad():
        logits = policy(**checkpoints.stock_inputs(prompt, processor.special)).logits[0, -1].float()
    logits[processor.special.vision_ids] = -torch.inf
    for temperature in (1.0, 0.6):
        out = rollout.rollout(
            policy,
            prompt,
            processor.special,
            2000,
            rollout.Sampling(1, temperature=temperature),
            seed=9,
        )
        assert (
            p_value(
                out.targets[:, 0].bincount(minlength=len(logits)),
                (logits / temperature).softmax(-1),
            )
            > 1e-6
        )
    # and of second tokens, given the commonest first one
    out = rollout.rollout(
        policy,
        prompt,
        stopping_at(processor, NEVER),
        2000,
        rollout.Sampling(2, temperature=0.5),
        seed=11,
    )
    first = int(out.targets[:, 0].bincount().argmax())
    with torch.no_grad():
        logits = (
            policy(**checkpoints.stock_inputs(prompt, processor.special, [torch.tensor([first])]))
            .logits[0, -1]
            .float()
        )
    logits[processor.special.vision_ids] = -torch.inf
    second = out.targets[out.targets[:, 0] == first, 1]
    assert (
        len(second) > 100
        and p_value(second.bincount(minlength=len(logits)), (logits / 0.5).softmax(-1)) > 1e-6
    )


def test_pictures_and_prompts_are_encoded_once(loaded_once):
    """However many completions: one pass of the vision tower, one of the language model."""
    policy, processor = loaded_once
    calls = {"tower": 0, "layer": 0}
    hooks = [
        policy.model.visual.register_forward_hook(
            lambda *_: calls.update(tower=calls["tower"] + 1)
        ),
        policy.model.language_model.layers[0].register_forward_hook(
            lambda *_: calls.update(layer=calls["layer"] + 1)
        ),
    ]
    try:
        prompts = checkpoints.prompts_of(processor)
        out = rollout.rollout(
            policy, prompts, stopping_at(processor, NEVER), 8, rollout.Sampling(6), seed=1
        )
        assert calls == {"tower": 1, "layer": 1}
        logps.cache_features(policy, prompts)
        again = rollout.rollout(
            policy, prompts, stopping_at(processor, NEVER), 8, rollout.Sampling(6), seed=1
        )
        # The tower ran for the cache, not for the rollout.
        assert calls == {"tower": 2, "layer": 2} and torch.equal(out.targets, again.targets)
    finally:
        for hook in hooks:
            hook.remove()


# --- as a command ---


def ask(directory, *words):
    return generate.main(
        generate.parse_args(
            ["--model", str(directory), "--max-completion-length", "12", *map(str, words)]
        )
    )


@pytest.fixture
def asked(monkeypatch):
    """What was put to the model: texts of the encoded prompts."""
    texts, encode = [], data.Asker.prompt

    def listening(*arguments, **options):
        prompt = encode(*arguments, **options)
        texts.append(prompt.text)
        return prompt

    monkeypatch.setattr(data.Asker, "prompt", listening)
    return texts


@pytest.fixture
def picture_file(tmp_path):
    checkpoints.picture(112, 84).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_answer_all_does_not_depend_on_the_batch_size(loaded_once):
    policy, processor = loaded_once
    put = (data.Asker(processor, "r1v"), checkpoints.questions(), rollout.Sampling(10), 2)
    whole = rollout.answer_all(policy, *put, seed=4)
    assert [len(part) for part in whole] == [18, 18, 18] and len(set(whole[0])) > 9
    for batch_size in (1, 3, 8):
        assert rollout.answer_all(policy, *put, batch_size=batch_size, seed=4) == whole


def test_self_select_asks_greedily_with_the_candidates_in_the_prompt(loaded_once, asked):
    """As the model asked one by one about a question that is spelt out here; pictures stay."""
    policy, processor = loaded_once
    examples = checkpoints.questions()
    candidates = [
        [f"<answer> {k} </answer>", "I see <|image_pad|>"] + ["c"] * (k % 3)
        for k in range(len(examples))
    ]
    greedy = rollout.Sampling(10, temperature=0)
    asker = data.Asker(processor, "r1v", "Look.")
    texts, lengths, read = rollout.self_select(
        policy, asker, examples, candidates, greedy, batch_size=4
    )
    prompts, said = asked[:], []
    del asked[:]
    for example, mine in zip(examples, candidates):
        text = question_text(example, "r1v") + "".join(
            f"\nModel's prediction {k + 1}:\n{one.replace('<|', '< |')}"
            for k, one in enumerate(mine)
        )
        again = Example(
            example.id,
            example.images,
            text
            + "\nWhich prediction is correct? Give the final answer in <answer> </answer> tags.",
            example.answer,
        )
        said.append(rollout.answer_all(policy, asker.verbatim(), [again], greedy)[:2])
        assert read[len(said) - 1] == len(data.Asker(processor, "none", "Look.").prompt(again).ids)
    assert prompts == asked[::2] and len(set(texts)) > len(examples) // 2
    assert [([text], [length]) for text, length in zip(texts, lengths)] == said
    asked.clear()
    rollout.self_select(
        policy,
        data.Asker(processor, "chartqa"),
        examples[:1],
        [["1", "2"]],
        rollout.Sampling(2, temperature=0),
    )
    assert SELECT["chartqa"] + "<|im_end|>" in asked[0]


def test_self_select_refuses_a_prompt_that_does_not_fit_before_anything_is_sampled(
    loaded_once, asked
):
    policy, processor = loaded_once
    examples, asker = checkpoints.questions()[:3], data.Asker(processor, "r1v")
    greedy = rollout.Sampling(10, temperature=0)
    candidates = [["a", "b"], ["a", "b"], ["a", "word " * processor.context]]
    with pytest.raises(UserError, match="does not fit the model's context"):
        rollout.self_select(policy, asker, examples, candidates, greedy)
    assert asked == []
    with pytest.raises(ValueError):
        rollout.self_select(policy, asker, examples, [["a", "b"]], greedy)


def test_command_prints_the_answer(lively, picture_file, loaded_once, capsys, asked):
    ask(lively, "--image", picture_file, "--prompt", "How many red objects are there?")
    out = capsys.readouterr().out
    policy, processor = loaded_once
    expected = rollout.rollout(
        policy,
        [
            data.Asker(processor, "none").prompt(
                Example("", [picture_file], "How many red objects are there?", "")
            )
        ],
        processor.special,
        1,
        rollout.Sampling(12, temperature=0),
    )
    text = processor.decode(expected.targets[0][: expected.lengths[0]])
    end = "complete" if expected.finish[0] == "stop" else "cut at --max-completion-length"
    length = int(expected.lengths[0])
    assert text and out == f"{text}\n({length} tokens, {end}; prompt template: none)\n"
    assert asked[0].endswith(
        "<|vision_end|>How many red objects are there?<|im_end|>\n<|im_start|>assistant\n"
    )
    ask(lively, "--image", picture_file, "--prompt", "How many red objects are there?", "--raw")
    assert capsys.readouterr().out == text + "\n"
    ask(
        lively,
        "--prompt",
        "How many?",
        "--raw",
        "--temperature",
        "1",
        "--num_generations",
        "3",
        "--seed",
        "5",
    )
    assert len(capsys.readouterr().out) > 3
    ask(lively, "--image", picture_file, picture_file, "--prompt", "Same?", "--raw")
    assert asked[-1].count("<|vision_start|>") == 2


def test_raw_prints_nothing_else_to_stdout_in_a_process_of_its_own(lively, picture_file, capsys):
    ask(lively, "--image", picture_file, "--prompt", "How many?", "--raw")
    expected = capsys.readouterr().out
    script = Path(generate.__file__)
    done = subprocess.run(
        [
            sys.executable,
            script,
            "--model",
            lively,
            "--max-completion-length",
            "12",
            "--image",
            picture_file,
            "--prompt",
            "How many?",
            "--raw",
        ],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode("utf-8") == expected and expected.strip()


def test_raw_of_an_adapter_that_says_how_it_is_loaded(lively, picture_file, tmp_path, capsys):
    """--raw keeps even our own remarks off stdout."""
    policy, processor = with_lora(lively)
    modeling.save(policy, processor, tmp_path / "run")
    disk.write_json(tmp_path / "run" / "args.json", {"quant": "nf4"})
    ask(tmp_path / "run", "--image", picture_file, "--prompt", "How many?", "--raw")
    out, err = capsys.readouterr()
    assert "adapter was trained on nf4" in err and "nf4" not in out


def test_checkpoints_template_and_system_prompt_are_used(lively, tmp_path, asked, capsys):
    for file in lively.iterdir():
        (tmp_path / file.name).symlink_to(file)
    disk.write_json(
        tmp_path / "args.json", {"prompt_template": "r1v", "system_prompt": "Be brief."}
    )
    question = TEMPLATES["r1v"].replace("{question}", "How many?")
    for words, expected in [
        ((), question),
        (("--prompt-template", "none"), "How many?"),
        (
            ("--prompt-template", "direct"),
            TEMPLATES["direct"].replace("{question}", "How many?"),
        ),
    ]:
        ask(tmp_path, "--prompt", "How many?", *words)
        assert asked[-1] == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            f"<|im_start|>user\n{expected}<|im_end|>\n<|im_start|>assistant\n"
        )
    ask(tmp_path, "--prompt", "How many?", "--system-prompt", "")
    assert asked[-1].startswith("<|im_start|>system\n<|im_end|>\n")
    assert "prompt template: r1v" in capsys.readouterr().out


def test_missing_image_is_one_sentence_and_exit_code_2(lively, capsys):
    with pytest.raises(SystemExit) as left:
        running.run(
            generate.main,
            generate.parse_args,
            ["--model", str(lively), "--image", "nowhere.png", "--prompt", "How many?"],
        )
    assert left.value.code == 2 and capsys.readouterr() == (
        "",
        "error: --image nowhere.png does not exist; check the path\n",
    )


def test_bad_questions_are_refused_in_one_sentence(lively, tmp_path, picture_file):
    def refuses(*words, says):
        with pytest.raises(UserError, match=says) as caught:
            ask(lively, *words)
        assert "\n" not in str(caught.value)

    refuses("--image", tmp_path / "gone.png", "--prompt", "?", says="gone.png does not exist")
    picture_file.write_bytes(picture_file.read_bytes()[:60])
    refuses("--image", picture_file, "--prompt", "?", says="picture.png cannot be opened")
    refuses("--prompt", "a <|image_pad|> b", says="reserved token")
    refuses("--prompt", "?", "--prompt-template", "r2v", says="--prompt-template r2v is unknown")
    refuses("--prompt", "word " * 40_000, says="context")
    with pytest.raises(UserError, match="untrained"):
        generate.main(generate.parse_args(["--model", "tiny", "--prompt", "?"]))
    for words in (
        ["--temperature", "-1"],
        ["--top-p", "0"],
        ["--num-generations", "0"],
        ["--num-generations", "3"],  # greedy answers are all the same
        ["--max-new-tokens", "5"],
    ):
        with pytest.raises(SystemExit) as left:
            generate.parse_args(["--model", "x", "--prompt", "?", *words])
        assert left.value.code == 2
