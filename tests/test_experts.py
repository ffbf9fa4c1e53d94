"""Run: python -m pytest -q tests/test_experts.py        (half a minute on CPU; no network)

The routers of a model with experts: their auxiliary loss is that of stock transformers, however
rows are laid out and cut; the rollout records the experts that the update uses again.
"""

import contextlib
import math

import checkpoints
import published
import pytest
import torch
from commands import metrics_of, refusal, train
from preferences import PAIRS
from stock import (
    as_on_a_gpu,
    batch_of,
    flags,
    gradients,
    randomise_lora,
    relative,
    responses_of,
    stock_model,
)

import batching
import experts
import families
import logps
import model as modeling
import rollout
import selftrain
import train_dpo
import train_grpo
import train_sft
from fast import decode
from plumbing import records

KIND = next(kind for kind, family in families.FAMILIES.items() if family.routers)
PRESET = f"tiny:{KIND}"
DENSE = [kind for kind, family in families.FAMILIES.items() if not family.routers]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A checkpoint of large weights in the published layout: routers are far from even."""
    return published.write(tmp_path_factory.mktemp(KIND), KIND, tied=False, scale=0.12)


def load(directory, **changed):
    return modeling.load(str(directory), train=flags(**changed))


# Of three prompts: two pictures, one, and text alone. No length twice in a row.
LENGTHS, COUNTS = [6, 1, 9, 5, 3, 12, 4, 2], [3, 2, 3]


def rows_and_prompts(processor):
    prompts = checkpoints.prompts_of(processor, slice(5, 8))
    targets, mask = batching.pad_targets(responses_of(processor, LENGTHS), processor.special.pad_id)
    return prompts, targets, mask


def laid_out(processor, layout):
    """Micro-batches of these rows: all padded in one, or each prompt's packed, whole or cut."""
    prompts, targets, mask = rows_and_prompts(processor)
    if layout == "padded":
        return [(None, batching.collate(prompts, targets, mask, COUNTS))]
    found = []
    size = {"packed": 8, "cut": 2, "rows": 1}[layout]
    for a, b, first, last, counts in batching.micro_batches(8, size, COUNTS):
        batch = batching.collate(prompts[first:last], targets[a:b], mask[a:b], counts)
        found.append((slice(a, b), batch))
    assert len(found) == {"packed": 3, "cut": 5, "rows": 8}[layout]
    return found


def ours(policy, batches, coef=1.0):
    """The auxiliary loss of these batches, its metrics, and its gradient alone."""
    policy.train()
    policy.zero_grad()
    balance = experts.Balance(policy, coef, lambda: iter(batches))
    total = 0.0
    for _, batch in batches:
        with balance.watching(batch):
            logps.token_logps(policy, batch)
        part = balance.cost()
        part.backward()
        total += part.item()
    return total, balance.metrics(), gradients(policy)


def stocks(model, processor):
    """transformers' own value and gradient, of a padded batch that has each prompt once a row."""
    prompts, targets, _ = rows_and_prompts(processor)
    repeated = [prompt for prompt, count in zip(prompts, COUNTS) for _ in range(count)]
    responses = [row[:n] for row, n in zip(targets, LENGTHS)]
    inputs = checkpoints.stock_inputs(repeated, processor.special, responses)
    assert not inputs["attention_mask"].all()
    model.zero_grad()
    out = model(**inputs, output_router_logits=True, use_cache=False)
    out.aux_loss.backward()
    return out.aux_loss.item(), gradients(model)


# --- the auxiliary loss ---


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("layout", ["padded", "packed", "cut", "rows"])
def test_auxiliary_loss_is_that_of_transformers(layout, checkpointed, directory):
    """Value and gradient, of padded and packed rows in one micro-batch and in eight."""
    policy, processor = load(directory, gradient_checkpointing=checkpointed)
    value, metrics, found = ours(policy, laid_out(processor, layout))
    expected, wanted = stocks(stock_model(directory), processor)
    assert value == pytest.approx(expected, abs=1e-6) and expected > 2.02
    assert metrics["aux_loss"] == pytest.approx(expected, abs=1e-6)
    assert set(found) >= set(wanted) and len(wanted) > 20
    assert sum("gate.weight" in name for name in wanted) == 3  # one a layer
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() < 1e-6, name
    rest = [name for name in found if name not in wanted]
    assert not any(found[name].any() for name in rest), "the head and the last layer's experts"


def test_the_adapter_on_attention_feels_it(directory):
    """Routers are frozen then; the states that they read are not."""
    policy, processor = load(directory, lora_r=4)
    randomise_lora(policy)
    _, _, whole = ours(policy, laid_out(processor, "padded"))
    _, _, cut = ours(policy, laid_out(processor, "cut"))
    assert whole and all("lora" in name for name in whole)
    # Nothing comes after the last router.
    first = [name for name in whole if "layers.0." in name]
    assert len(first) == 8 and all(whole[name].norm() > 0 for name in first)
    assert all(relative(cut[name], whole[name]) < 1e-5 for name in whole)


def test_it_evens_out_the_load(directory):
    """All that trains are the adapters on attention; the routers' own weights stay."""
    policy, processor = load(directory, lora_r=4)
    batches = laid_out(processor, "packed")
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    before, *_ = ours(policy, batches)
    for _ in range(8):
        optimizer.step()
        after, *_ = ours(policy, batches)
    assert after < before - 0.005


def load_for(counts, shares):
    """A Load of one layer and 12 tokens."""
    return experts.Load(
        torch.tensor([counts]).float(), torch.tensor([shares]) * 12, torch.tensor(12.0)
    )


@pytest.mark.parametrize(
    "counts, shares, loss, violation",
    [
        ([6, 6, 6, 6], [0.25] * 4, 2.0, 0.0),  # k of E = 4 experts, evenly: k
        ([12, 12, 0, 0], [0.5, 0.5, 0.0, 0.0], 4.0, 1.0),  # always the same: E
        ([12, 6, 6, 0], [0.4, 0.3, 0.2, 0.1], 2.6, 1.0),  # 4 (0.4 + 0.15 + 0.1)
    ],
)
def test_closed_forms(counts, shares, loss, violation):
    load = load_for(counts, shares)
    assert float(experts.load_balancing_loss(load, load)) == pytest.approx(loss, abs=1e-6)
    assert float(experts.max_violation(load)) == pytest.approx(violation)


def test_idle_experts_of_single_layers_are_seen():
    """Two layers that use one half each: even in their sum, which is all that the loss sees."""
    one, other = [12, 12, 0, 0], [0, 0, 12, 12]
    load = experts.Load(
        torch.tensor([one, other]).float(), torch.full((2, 4), 3.0), torch.tensor(12.0)
    )
    assert float(experts.load_balancing_loss(load, load)) == pytest.approx(2.0)
    assert float(experts.max_violation(load)) == pytest.approx(1.0)


def test_padding_and_dropout_do_not_count(directory):
    """More padding changes nothing; nor does dropout change what is counted before."""
    policy, processor = load(directory, lora_r=4, lora_dropout=0.5)
    randomise_lora(policy)
    prompts, targets, mask = rows_and_prompts(processor)
    wider = [torch.nn.functional.pad(x, (0, 7)) for x in (targets, mask)]
    loads = []
    for given in ((targets, mask), wider):
        batches = [(None, batching.collate(prompts, *given, COUNTS))] * 2
        policy.train()
        loads.append(experts.count_batches(policy, lambda batches=batches: batches))
        assert policy.training
    assert torch.equal(loads[0].counts, loads[1].counts)
    assert (
        loads[0].tokens
        == loads[1].tokens
        == 2 * (sum(LENGTHS) + sum(len(p.ids) * n for p, n in zip(prompts, COUNTS)))
    )
    assert (loads[0].counts.sum(1) == 2 * loads[0].tokens).all()  # k experts a token, in each layer


def test_how_often_tokens_are_in_rows(directory):
    _, processor = load(directory)
    [(_, padded)] = laid_out(processor, "padded")
    times = batching.times_in_rows(padded)
    assert times.shape == padded["input_ids"].shape and set(times.unique().tolist()) == {0, 1}
    for (_, batch), count in zip(laid_out(processor, "packed"), COUNTS):
        P = int(batch["state_index"][0, 0]) + 1
        rest = batch["input_ids"].shape[1] - P
        assert batching.times_in_rows(batch).flatten().tolist() == [count] * P + [1] * rest
    assert (
        sum(batching.times_in_rows(b).sum() for _, b in laid_out(processor, "cut")) == times.sum()
    )


# --- rollout and update ---


def compared(policy, processor, out, prompts, size=8):
    """The metrics of an update's pass over a rollout."""
    batches = list(rollout.micro_batches(prompts, out, size, policy.device))
    balance = experts.Balance(policy, 0.0, lambda: iter(batches))
    with torch.no_grad():
        for _, batch in batches:
            with balance.watching(batch):
                logps.token_logps(policy, batch, suppress=processor.special.vision_ids)
    return balance.metrics()


def sampled(policy, processor, G=3, tokens=20, **more):
    prompts = checkpoints.prompts_of(processor)
    special = processor.special
    return prompts, rollout.rollout(policy, prompts, special, G, rollout.Sampling(tokens), **more)


def stock_choices(directory, processor, prompts, out, G):
    """(B, T, layers, k): the best k of stock transformers' router logits, where targets begin."""
    responses = [row[:n] for row, n in zip(out.targets, out.lengths)]
    repeated = [prompt for prompt in prompts for _ in range(G)]
    inputs = checkpoints.stock_inputs(repeated, processor.special, responses)
    stock = stock_model(directory)
    with torch.no_grad():
        logits = stock(**inputs, output_router_logits=True, use_cache=False).router_logits
    B, T = out.targets.shape
    found = torch.zeros(B, T, len(logits), 2, dtype=torch.long)
    for layer, scores in enumerate(logits):
        best = scores.topk(2).indices.view(*inputs["input_ids"].shape, 2)
        for b, prompt in enumerate(repeated):
            first = len(prompt.ids) - 1
            found[b, : out.lengths[b], layer] = best[b, first : first + out.lengths[b]]
    return found


def as_sets(ids, out):
    """Experts of the real tokens, in order of their numbers."""
    return ids[out.mask.bool()].sort(-1).values.long()


def test_the_rollout_records_the_experts_of_the_stock_forward(directory):
    """Both loops; the fast one drops finished rows, and does the whole in waves."""
    policy, processor = modeling.load(str(directory))
    prompts, out = sampled(policy, processor)
    assert out.experts.shape == (*out.targets.shape, 3, 2) and out.experts.dtype == torch.int16
    wanted = as_sets(stock_choices(directory, processor, prompts, out, 3), out)
    assert torch.equal(as_sets(out.experts, out), wanted)
    assert len(wanted.unique(dim=0)) > 6  # of 36 pairs of sets
    plain = rollout.rollout_plain(policy, prompts, processor.special, 3, rollout.Sampling(20))
    assert torch.equal(plain.targets, out.targets)
    assert torch.equal(as_sets(plain.experts, plain), wanted)
    N = len(prompts)
    waves = [(0, 2, 0, 3), (2, N, 0, 2), (2, N, 2, 3)]
    _, parts = sampled(policy, processor, plan=(True, waves))
    assert torch.equal(parts.targets, out.targets) and torch.equal(parts.experts, out.experts)


def test_so_does_the_path_of_cuda_graphs(directory, monkeypatch):
    policy, processor = modeling.load(str(directory))
    _, out = sampled(policy, processor)
    captured = as_on_a_gpu(monkeypatch)
    _, again = sampled(policy, processor)
    assert captured and torch.equal(again.targets, out.targets)
    assert torch.equal(as_sets(again.experts, again), as_sets(out.experts, out))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_rollout_and_update_agree_in_float32(size, directory):
    policy, processor = modeling.load(str(directory))
    prompts, out = sampled(policy, processor)
    metrics = compared(policy, processor, out, prompts, size)
    assert metrics["router_disagreement/mean"] == metrics["router_disagreement/tokens"] == 0


def test_disagreement_is_counted_by_token_and_layer(directory):
    """Three sets changed, in two tokens; another order of the same set is no change."""
    policy, processor = modeling.load(str(directory))
    prompts, out = sampled(policy, processor)
    other = {0: 1, 1: 2, 2: 3, 3: 0}

    def change(b, t, layer):
        first, second = out.experts[b, t, layer].tolist()
        new = next(e for e in other if e not in (first, second))
        out.experts[b, t, layer, 0] = new

    change(0, 0, 0)
    change(0, 0, 1)
    change(4, 0, 1)
    out.experts[5, 0] = out.experts[5, 0].flip(-1)
    out.experts[:, -1][out.mask[:, -1] == 0] = 3  # of padding
    tokens = int(out.mask.sum())
    for size in (1, 8):
        metrics = compared(policy, processor, out, prompts, size)
        assert metrics["router_disagreement/mean"] == pytest.approx(3 / (3 * tokens))
        assert metrics["router_disagreement/tokens"] == pytest.approx(2 / tokens)


def test_another_router_disagrees(directory):
    policy, processor = modeling.load(str(directory))
    prompts, out = sampled(policy, processor)
    for router in experts.routers_of(policy):
        router.weight.data = router.weight.data.roll(1, 0)
    metrics = compared(policy, processor, out, prompts)
    assert metrics["router_disagreement/mean"] > 0.5
    assert 1 >= metrics["router_disagreement/tokens"] >= metrics["router_disagreement/mean"]


# --- which modules are watched ---


def test_adapters_on_the_experts_do_not_hide_the_routers(directory):
    """PEFT puts its ParamWrapper around what holds the parameters: experts, or the router."""
    from peft import LoraConfig, get_peft_model

    policy, processor = modeling.load(str(directory))
    _, before, _ = ours(policy.requires_grad_(True), laid_out(processor, "packed"))
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]
    adapted = get_peft_model(policy, LoraConfig(r=2, target_parameters=names, target_modules=[]))
    core = logps.core_of(adapted)
    assert len(experts.routers_of(core)) == 3
    _, after, found = ours(adapted, laid_out(processor, "packed"))
    assert after == pytest.approx(before, abs=1e-6)
    assert any("lora" in name for name in found)
    prompts, out = sampled(adapted, processor)
    metrics = compared(adapted, processor, out, prompts)
    assert metrics["router_disagreement/mean"] == 0


def test_layers_without_experts(monkeypatch):
    """mlp_only_layers and decoder_sparse_step leave some layers their MLP."""
    family = families.FAMILIES[KIND]
    for more in (dict(mlp_only_layers=[0, 2]), dict(decoder_sparse_step=2)):
        changed = family._replace(tiny_text=family.tiny_text | more)
        monkeypatch.setitem(families.FAMILIES, KIND, changed)
        policy, processor = modeling.load(PRESET)
        prompts, out = sampled(policy, processor, tokens=8)
        assert out.experts.shape[2:] == (2, 2)
        metrics = compared(policy, processor, out, prompts)
        assert metrics["router_disagreement/mean"] == 0 and metrics["aux_loss"] > 1


def test_hooks_go_with_an_error(directory):
    policy, processor = modeling.load(str(directory))
    with contextlib.suppress(KeyError), experts.watching(policy):
        assert all(router._forward_hooks for router in experts.routers_of(policy))
        raise KeyError
    assert not any(router._forward_hooks for router in experts.routers_of(policy))


@pytest.mark.parametrize("kind", DENSE)
def test_nothing_is_done_without_experts(kind, monkeypatch):
    policy, processor = modeling.load(f"tiny:{kind}", train=flags())
    monkeypatch.setattr(experts, "load_of", None)
    monkeypatch.setattr(experts, "count_batches", None)
    prompts, out = sampled(policy, processor, tokens=2)
    assert out.experts is None and experts.empty(policy, 3) is None
    batches = list(rollout.micro_batches(prompts, out, 8, policy.device))
    assert not any("experts" in batch for _, batch in batches)
    balance = experts.Balance(policy, 0.5, lambda: iter(batches))
    with balance.watching(batches[0][1]):
        logps.token_logps(policy, batches[0][1])
    assert balance.cost() == 0 and balance.metrics() == {}


def test_memory_of_the_record_is_planned(directory, monkeypatch):
    """What a token's experts take in a rollout: layers * k * 2 bytes."""
    policy, processor = modeling.load(str(directory))
    prompts = checkpoints.prompts_of(processor)
    assert experts.empty(policy).nbytes == 3 * 2 * 2

    def waves():
        return len(decode.plan_memory(policy, prompts[:1], 1_000_000, 500, 10**9)[1])

    with_record = waves()
    monkeypatch.setattr(experts, "empty", lambda core: None)
    assert waves() < with_record


# --- the scripts ---

SMALL = "--data count --max-completion-length 12 --max-eval-samples 1 --save-steps 0"
NAMES = {"aux_loss", "load_balance/max_violation"}
COMPARED = {"router_disagreement/mean", "router_disagreement/tokens"}


def lines_of(script, line, folder):
    train(script, f"{line} --output-dir {folder}")
    return [line for line in metrics_of(folder) if "loss" in line]


SFT = f"--model {PRESET} {SMALL} --level 1 --batch-size 6 --max-steps 2 --learning-rate 1e-3"
SFT += " --max-completion-length 80"


def test_micro_batches_do_not_change_the_gradient_in_sft(speaking, tmp_path):
    """With a weight of 1, the loss of the routers is a third of the whole; without, it is none."""
    found = {}
    for size, coef in ((6, 1), (4, 1), (6, 0)):
        line = f"{SFT} --micro-batch-size {size} --router-aux-loss-coef {coef}"
        lines = lines_of(train_sft, line, tmp_path / f"{size}-{coef}")
        assert all(NAMES <= set(line) and not COMPARED & set(line) for line in lines)
        rows = [[line["grad_norm"], line["loss"], line["aux_loss"]] for line in lines]
        found[size, coef] = torch.tensor(rows)
    assert torch.allclose(found[4, 1], found[6, 1], rtol=1e-4)
    assert not torch.allclose(found[6, 0], found[6, 1], rtol=1e-2)


def test_nor_do_they_with_noise_on_the_embeddings(speaking, tmp_path):
    """The pass that only counts had no noise: the norm of the gradient was another by 10 %."""
    found = []
    for size in (6, 4):
        line = f"{SFT} --micro-batch-size {size} --router-aux-loss-coef 10"
        lines = lines_of(train_sft, f"{line} --neftune-noise-alpha 50", tmp_path / str(size))
        found.append(torch.tensor([[line["grad_norm"], line["aux_loss"]] for line in lines]))
    assert torch.allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("more", ["", "--lora-r 4", "--lora-r 4 --lora-dropout 0.1"])
def test_grpo_reports_load_and_agreement(more, directory, toy_reward, no_pictures, tmp_path):
    """Two updates a step: what is reported is of the first."""
    line = f"--model {directory} {SMALL} --prompts-per-step 2 --num-generations 3 --max-steps 2"
    line += f" --reward-funcs vowels --num-iterations 2 --learning-rate 1e-3 {more}"
    found = []
    for size in (3,) if more else (3, 2):
        where = tmp_path / str(size)
        lines = lines_of(train_grpo, f"{line} --micro-batch-size {size}", where)
        assert len(lines) == 2 and all(NAMES | COMPARED <= set(line) for line in lines)
        if "dropout" not in more:
            assert all(line[name] == 0 for line in lines for name in COMPARED)
        found.append([line["aux_loss"] for line in lines])
    assert found[0] == pytest.approx(found[-1], rel=1e-4) and min(found[0]) > 1


def test_preferences(directory, mmpr, no_pictures, tmp_path):
    """DPO begins at log 2, whatever the routers' loss is."""
    line = f"--method dpo --pairs {mmpr} --model {directory} --lora-r 4 {PAIRS} --max-steps 1"
    norms = []
    for coef in ("1", "0"):
        out = tmp_path / coef
        train(train_dpo, f"{line} --router-aux-loss-coef {coef} --output-dir {out}")
        [first] = records.read_lines(out / "iteration-1" / "metrics.jsonl")
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and NAMES <= set(first)
        norms.append(first["grad_norm"])
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)


def test_self_training(speaking, tmp_path):
    """A warm-up and an iteration of STaR, in micro-batches of two."""
    line = f"--method star --model {PRESET} --data count --level 1 --warmup-data count"
    line += " --max-train-samples 4 --iterations 1 --num-train-epochs 1 --batch-size 4"
    line += " --micro-batch-size 2 --num-generations 2 --num-samples 0 --max-eval-samples 1"
    train(selftrain, f"{line} --max-completion-length 80 --output-dir {tmp_path}")
    for t in (0, 1):
        lines = records.read_lines(tmp_path / f"iteration-{t}" / "metrics.jsonl")
        assert lines and all(NAMES <= set(line) for line in lines)


def test_the_flag(capsys, tmp_path):
    """0.001 with experts, which have it alone; refused for the others before anything is loaded."""
    for kind in DENSE:
        assert modeling.router_coef(None, f"tiny:{kind}") == 0
        assert modeling.router_coef(0.0, f"tiny:{kind}") == 0
    assert modeling.router_coef(None, PRESET) == 0.001
    assert modeling.router_coef(0.0, PRESET) == 0
    assert modeling.router_coef(0.02, PRESET) == 0.02
    line = ["--model", "tiny", *SMALL.split(), "--router-aux-loss-coef", "0.01"]
    says = refusal(train_sft, [*line, "--max-steps", "1", "--output-dir", tmp_path / "x"], capsys)
    assert "--router-aux-loss-coef is for models with experts" in says and "omit it" in says
    line[-2:] = ["--router-aux-loss-coef", "-1"]
    says = refusal(train_sft, [*line, "--output-dir", tmp_path / "x"], capsys)
    assert "--router-aux-loss-coef: -1 is not a finite number of at least 0" in says


def test_nf4_says_what_stays_and_what_that_costs(directory, capsys):
    """By the files' headers; of the 30B-A3B the shapes alone."""
    pytest.importorskip("bitsandbytes")
    modeling.load(str(directory), torch.bfloat16, quant="nf4")
    weights = published.weights(KIND, False, 0, torch.float32, 0.12)
    size = sum(weight.numel() for name, weight in weights if ".experts." in name)
    said = capsys.readouterr().out
    assert f"the experts, {size / 1e9:.3g} billion weights, stay in bfloat16" in said
    assert f"take {2 * size / 2**30:.3g} GiB" in said
    shapes = published.real("3-30B-A3B")[1]
    size = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    assert size == 48 * 128 * 3 * 2048 * 768 and f"{2 * size / 2**30:.3g}" == "54"


def test_batches_of_other_types(directory):
    """In bfloat16 the metrics are finite shares, and the loss has gradient."""
    policy, processor = modeling.load(str(directory), torch.bfloat16, train=flags(lora_r=4))
    randomise_lora(policy)
    prompts = checkpoints.prompts_of(processor, slice(4, 8))
    batch = batch_of(processor, prompts, responses_of(processor, [3, 6, 2, 5]))
    _, metrics, found = ours(policy, [(None, batch)])
    assert 1 < metrics["aux_loss"] < 4
    assert any(g.norm() > 0 for g in found.values())
    assert all(torch.isfinite(g).all() for g in found.values())
    prompts, out = sampled(policy, processor)
    metrics = compared(policy.eval(), processor, out, prompts)
    assert 0 <= metrics["router_disagreement/mean"] <= metrics["router_disagreement/tokens"] < 0.2
