"""Run: python -m pytest -q tests/test_families.py        (a minute a family on CPU; no network)

Every family through the same paths: one suite. Each has a tiny random checkpoint in its published
layout (published.py), and is compared with stock transformers, or with numbers that are known.
"""

import dataclasses
import json
import math
from types import SimpleNamespace

import checkpoints
import published
import pytest
import torch
from commands import metrics_of, same_weights, train, train_until_killed
from preferences import PAIRS
from stock import (
    as_on_a_gpu,
    batch_of,
    both_ways,
    changed,
    export,
    export_gap,
    flags,
    gradients,
    logits_of,
    randomise_lora,
    relative,
    responses_of,
    stock_greedy,
    stock_logps,
    stock_model,
    train_steps,
)

import batching
import data
import families
import model as modeling
import processor as processing
import rollout
import train_dpo
import train_grpo
import train_sft
from fast import decode
from logps import cache_features, core_of, token_logps
from plumbing import checkpoint_files, records
from plumbing.errors import UserError
from tasks import images
from tasks.example import Example

bitsandbytes = pytest.importorskip("bitsandbytes")
KINDS = list(families.FAMILIES)
PROJECTIONS = [f"self_attn.{p}_proj" for p in "qkvo"]
PROJECTIONS += [f"mlp.{p}_proj" for p in ("gate", "up", "down")]


@pytest.fixture(scope="session", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def directory(kind, tmp_path_factory):
    """A checkpoint in the published layout, tied, in several files."""
    return published.write(tmp_path_factory.mktemp(kind), kind)


@pytest.fixture(scope="session")
def untied(kind, tmp_path_factory):
    """Another, whose head is its own."""
    return published.write(tmp_path_factory.mktemp(kind), kind, tied=False, seed=1)


@pytest.fixture(scope="session")
def lively(kind, tmp_path_factory):
    """Another, of large weights, so that its text varies."""
    return published.write(tmp_path_factory.mktemp(kind), kind, tied=False, scale=0.12)


def projections(policy):
    """The full names of the language model's linear layers; experts have none."""
    words = policy.config.text_config
    names = PROJECTIONS[: 4 if hasattr(words, "num_experts") else 7]
    layers = range(words.num_hidden_layers)
    return {f"model.language_model.layers.{i}.{name}" for i in layers for name in names}


def stored(shapes):
    """As weights.read_header tells of files."""
    return {name: SimpleNamespace(shape=shape, is_float=True) for name, shape in shapes.items()}


def rows_of(out):
    return [row[:n].tolist() for row, n in zip(out.targets, out.lengths)]


NEVER = [10**6]  # an id that no vocabulary has: rows go on to the end


def endless(processor):
    return SimpleNamespace(**vars(processor.special) | {"eos_ids": NEVER})


# --- what is loaded ---


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_published_layout_gives_exactly_the_weights_written(kind, tied, directory, untied):
    written_to = directory if tied else untied
    policy, processor = modeling.load(str(written_to))
    assert policy.family == processor.family == families.FAMILIES[kind]
    state = policy.state_dict()
    written = published.weights(kind, tied, 0 if tied else 1, torch.float32, 0.06)
    written = dict(published.today(name, value) for name, value in written)
    assert set(state) - {"lm_head.weight"} == set(written) - {"lm_head.weight"}
    for name, value in written.items():
        assert torch.equal(state[name], value), name
    embeddings = policy.model.language_model.embed_tokens.weight
    assert (policy.lm_head.weight is embeddings) == tied
    assert torch.equal(policy.lm_head.weight, embeddings) == tied


def test_published_settings_are_read(directory):
    policy, processor = modeling.load(str(directory))
    config = json.loads((directory / "config.json").read_text())
    words = config.get("text_config") or config
    rope = policy.config.text_config.rope_parameters
    assert rope["rope_theta"] == words["rope_theta"]
    assert rope["mrope_section"] == words["rope_scaling"]["mrope_section"]
    assert policy.config.text_config.vocab_size > len(processor.tokenizer)
    special = processor.special
    assert special.image_id == config["image_token_id"]
    assert special.video_id == config["video_token_id"]
    starts = [config[f"vision_{n}_token_id"] for n in ("start", "end")]
    assert special.vision_ids[:2] == starts
    assert processor.context == words["max_position_embeddings"]
    preprocessor = json.loads((directory / "preprocessor_config.json").read_text())
    assert processor.image_processor.patch_size == preprocessor["patch_size"]
    assert list(processor.image_processor.image_mean) == preprocessor["image_mean"]
    # Its generation_config asks for top_k 1 and a repetition penalty.
    rules = policy.generation_config
    assert (rules.top_k, rules.repetition_penalty, rules.do_sample) == (50, 1.0, False)


def test_boxes_are_as_the_family_writes_them(kind, directory):
    """In pixels of the resized picture they are those that the tower sees."""
    asked = dict(prompt_template=None, system_prompt=None, box_format=None, max_pixels=50_000)
    decided = data.ask_as_trained(SimpleNamespace(model=str(directory), min_pixels=None, **asked))
    assert decided["box_format"] == ("resized" if kind == "qwen2_5_vl" else "norm1000")
    processor = processing.load_processor(directory, max_pixels=50_000)
    for size in ((640, 480), (30, 500), (100, 100), (33, 33)):
        picture = checkpoints.picture(*size)
        prompt = data.Asker(processor, "none").prompt(Example("", [picture], "?", ""))
        _, rows, columns = prompt.grid[0].tolist()
        side = processor.image_processor.patch_size
        seen = [columns * side, rows * side]
        step = families.FAMILIES[kind].token_side({})
        assert processor.token_side == step
        assert images.resized_size(size, decided["min_pixels"], 50_000, step) == seen
        assert len(prompt.image_slots) == seen[0] * seen[1] // step**2


def test_a_question_is_put_as_the_published_template_does(kind, directory):
    """So it is without a template: the family's own is used then."""
    processor = processing.load_processor(directory)
    asked = checkpoints.prompts_of(processor)
    theirs = processor.tokenizer.chat_template
    processor.tokenizer.chat_template = families.FAMILIES[kind].chat_template
    assert theirs != processor.tokenizer.chat_template
    assert [p.text for p in checkpoints.prompts_of(processor)] == [p.text for p in asked]
    own = families.tiny_tokenizer(families.FAMILIES[kind])
    assert own.chat_template == processor.tokenizer.chat_template


def test_preset_is_the_family_in_small(kind):
    policy, processor = modeling.load(f"tiny:{kind}", seed=0)
    size = sum(p.numel() for p in policy.parameters())
    assert 1.3e6 < size < 2.5e6
    again = modeling.load(f"tiny:{kind}", seed=0)[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in policy.state_dict().items())
    assert processor.family.model_type == policy.config.model_type == kind
    prompts = checkpoints.prompts_of(processor)
    out = rollout.rollout(policy, prompts, processor.special, 2, rollout.Sampling(6))
    assert out.targets.shape[0] == 2 * len(prompts)


def test_tiny_is_a_preset_of_the_first_family():
    default, named = families.preset("tiny"), families.preset(f"tiny:{KINDS[0]}")
    assert default is named is families.FAMILIES[KINDS[0]]
    with pytest.raises(UserError, match="no such preset; there are tiny, tiny:qwen2_vl, "):
        modeling.load("tiny:llava")


@pytest.mark.parametrize("name", published.SIZES)
def test_published_sizes_are_known(name, tmp_path):
    """What config.json claims of each is what its weights and transformers' model have."""
    found, shapes = published.real(name)
    (tmp_path / "config.json").write_text(json.dumps(found))
    family = families.FAMILIES[found["model_type"]]
    config = family.config_class().from_dict(checkpoint_files.read_config(tmp_path))
    words, vision = config.text_config, config.vision_config
    checkpoint_files.must_divide(tmp_path / "config.json", family, words, vision)
    checkpoint_files.check_sizes(tmp_path / "config.json", family, config, stored(shapes))
    wrong = {name: (*shape[:-1], shape[-1] + 1) for name, shape in shapes.items()}
    for claim in family.text_shapes(words) | family.tower_shapes(vision):
        end = claim.rpartition("#")[2]
        one = {name: wrong[name] for name in shapes if name.endswith(end)}
        if ".mlp." in claim and hasattr(words, "num_experts") and not one:
            continue  # of layers without experts, which this model has none of
        with pytest.raises(UserError, match="of the wrong shape"):
            checkpoint_files.check_sizes(tmp_path, family, config, stored(shapes | one))
    with torch.device("meta"):
        model = family.model_class()._from_config(config)
    assert list(model.model.language_model.rotary_emb.mrope_section) in ([16, 24, 24], [24, 20, 20])
    held = {name: tuple(p.shape) for name, p in model.named_parameters()}
    published_as = {}
    for name, shape in shapes.items():
        name, value = published.today(name, torch.empty(shape, device="meta"))
        published_as[name] = tuple(value.shape)
    assert held == published_as


def test_published_files_are_as_large_as_their_index_says():
    """Of Qwen2.5-VL-7B and Qwen3-VL-8B, in bfloat16."""
    for name, size in (("2.5-7B", 16_584_333_312), ("3-8B", 17_534_247_392)):
        assert sum(2 * math.prod(shape) for shape in published.real(name)[1].values()) == size


# --- as stock transformers ---


def test_greedy_tokens_equal_stock_generate(lively):
    """Nine prompts in one batch: six picture sizes, two pictures, text alone; both loops."""
    policy, processor = modeling.load(str(lively))
    prompts = checkpoints.prompts_of(processor)
    special, sampling = endless(processor), rollout.Sampling(40, temperature=0)
    fast = rollout.rollout(policy, prompts, special, 1, sampling)
    plain = rollout.rollout_plain(policy, prompts, special, 1, sampling)
    said = rows_of(fast)
    sizes = {tuple(p.grid.flatten().tolist()) for p in prompts if p.grid is not None}
    assert len(prompts) >= 8 and len(sizes) >= 6
    assert len({token for row in said for token in row}) >= 20 and len(set(map(tuple, said))) >= 6
    stock = stock_greedy(stock_model(lively), processor, prompts, 40, NEVER)
    assert said == rows_of(plain) == stock
    cache_features(policy, prompts)  # deepstack maps, too
    assert rows_of(rollout.rollout(policy, prompts, special, 1, sampling)) == said
    assert (fast.logp - plain.logp).abs().max() < 5e-5


def test_lora_and_four_bits_answer_as_stock_generate(lively):
    """The decode step lays the weights out anew: adapters and 4-bit layers, too."""
    policy, processor = modeling.load(str(lively), quant="nf4", train=flags(lora_r=4))
    randomise_lora(policy, 0.3)
    prompts = checkpoints.prompts_of(processor)
    special, sampling = endless(processor), rollout.Sampling(24, temperature=0)
    said = rows_of(rollout.rollout(policy, prompts, special, 1, sampling))
    assert said == stock_greedy(policy, processor, prompts, 24, NEVER)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("which", ["tied", "untied"])
def test_token_logps_equal_the_stock_cross_entropy(which, temperature, directory, untied):
    """Six picture sizes, two pictures, and text alone, in one batch of unequal responses.

    Then the entropy likewise.
    """
    source = {"tied": directory, "untied": untied}[which]
    policy, processor = modeling.load(str(source))
    prompts = checkpoints.prompts_of(processor)
    responses = responses_of(processor, [5, 1, 12, 3, 7, 2, 9, 4, 6])
    batch = batch_of(processor, prompts, responses)
    before = {k: v.clone() for k, v in batch.items()}
    suppress = processor.special.vision_ids
    with torch.no_grad():
        found = token_logps(policy, batch, temperature, suppress, entropy=True)
        stock = stock_model(source)
        expected = stock_logps(stock, prompts, responses, processor.special, temperature)
    assert all(torch.equal(batch[k], before[k]) for k in batch), "inputs changed"
    padding = batch["mask"] == 0
    for mine, theirs in zip(found, expected):
        assert mine.shape == batch["targets"].shape and mine.dtype == torch.float32
        assert not mine[padding].any()
        for b, row in enumerate(theirs):
            assert (mine[b, : len(row)] - row).abs().max() < 2e-5
    assert found[0].std() > 0.1  # not one number everywhere


def test_pictures_within_a_response(directory):
    """A conversation's later picture is response text: each token as the stock forward's."""
    policy, processor = modeling.load(str(directory))
    [whole] = checkpoints.prompts_of(processor, slice(6, 7))  # two pictures
    first = int(whole.image_slots[(whole.image_slots.diff() > 1).nonzero()[0, 0]]) + 2
    [more] = responses_of(processor, [9])
    own = (whole.next_position + torch.arange(len(more))).expand(3, -1)
    prompt = dataclasses.replace(
        whole,
        ids=whole.ids[:first],
        positions=whole.positions[:, :first],
        next_position=int(whole.positions[0, first]),
        response_positions=torch.cat([whole.positions[:, first:], own], 1),
    )
    other = checkpoints.prompts_of(processor, slice(0, 1))
    rows = [torch.cat([whole.ids[first:], more]), *responses_of(processor, [4])]
    learned = [torch.zeros(len(rows[0])), torch.ones(4)]
    learned[0][-9:] = 1
    targets, mask = batching.pad_targets(rows, processor.special.pad_id, learned)
    batch = batching.collate([prompt, *other], targets, mask)
    with torch.no_grad():
        logp = token_logps(policy, batch, suppress=processor.special.vision_ids)
        stock = stock_logps(
            stock_model(directory), [whole, *other], [more, rows[1]], processor.special
        )[0]
    assert (logp[0, : len(rows[0])][-9:] - stock[0]).abs().max() < 2e-5
    assert (logp[1, :4] - stock[1]).abs().max() < 2e-5


@pytest.mark.parametrize("lora_r", [0, 4], ids=["full", "lora"])
def test_the_path_of_cuda_graphs_samples_the_same(lora_r, lively, monkeypatch):
    """As on a GPU but for the replay: see stock.as_on_a_gpu."""
    policy, processor = modeling.load(str(lively), train=flags(lora_r=lora_r))
    randomise_lora(policy, 0.3)
    special = SimpleNamespace(**vars(processor.special) | {"eos_ids": [*range(16)]})
    given = (policy, checkpoints.prompts_of(processor, slice(2, 9)), special, 3)
    expected = rollout.rollout(*given, rollout.Sampling(40), seed=3)
    captured = as_on_a_gpu(monkeypatch)
    out = rollout.rollout(*given, rollout.Sampling(40), seed=3)
    assert torch.equal(out.targets, expected.targets) and out.finish == expected.finish
    assert (out.logp - expected.logp).abs().max() < 1e-5
    assert captured and set(captured) <= set(decode.BUCKETS)


@pytest.mark.parametrize("training", ["inference", "lora", "full", "nf4"])
def test_bfloat16_rollout_is_the_trainers_policy(training, lively):
    """Within what bfloat16 rounds, and the gradient is finite with layers recomputed."""
    lora_r = 4 if training in ("lora", "nf4") else 0
    more = {"quant": "nf4"} if training == "nf4" else {}
    if training != "inference":
        more["train"] = flags(lora_r=lora_r, gradient_checkpointing=True)
    policy, processor = modeling.load(str(lively), torch.bfloat16, **more)
    randomise_lora(policy)
    prompts = checkpoints.prompts_of(processor)
    sampling = rollout.Sampling(24)
    out = rollout.rollout(policy, prompts, endless(processor), 2, sampling)
    policy.train(training != "inference")
    gaps = []
    for a, b, first, last, counts in batching.micro_batches(18, 2, [2] * 9):
        batch = batching.collate(prompts[first:last], out.targets[a:b], out.mask[a:b], counts)
        logp = token_logps(policy, batch, suppress=processor.special.vision_ids)
        gaps.append((logp.detach() - out.logp[a:b]).abs())
        if training != "inference":
            logp.sum().backward()
    assert 0 < torch.cat(gaps).mean() < 0.05
    found = gradients(policy)
    assert len(found) == sum(p.requires_grad for p in policy.parameters())
    assert all(torch.isfinite(g).all() and g.norm() > 0 for g in found.values())


# --- packed: [prompt | r1 ... rG] ---


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("training", ["lora", "full", "nf4"])
def test_packed_equals_padded(training, checkpointed, directory):
    """Log-probs, entropy and each parameter's gradient, the vision tower's too.

    Three prompts' forwards come before the one backward, so that a packing that does not travel
    with its own graph is recomputed with another prompt's.
    """
    lora_r = 0 if training == "full" else 8
    quant = "nf4" if training == "nf4" else "none"
    train = flags(lora_r=lora_r, gradient_checkpointing=checkpointed)
    policy, processor = modeling.load(str(directory), quant=quant, train=train)
    randomise_lora(policy)
    policy.train()
    calls = []
    norm = core_of(policy).model.language_model.layers[0].input_layernorm
    norm.register_forward_hook(lambda *_: calls.append("layer"))
    (logp, entropy, padded), (packed_logp, packed_entropy, packed) = both_ways(policy, processor)
    assert len(calls) == (8 if checkpointed else 4)
    assert (logp - packed_logp).abs().max() < 1e-5 and logp.std() > 0.1
    assert (entropy - packed_entropy).abs().max() < 1e-5
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert set(packed) == set(padded) == trained
    adapted = 2 * len(projections(policy))
    assert len(packed) == (adapted if lora_r else len(list(policy.parameters())))
    worst = max((relative(packed[n], padded[n]), n) for n in padded)
    assert worst[0] < 1e-5 and all(g.norm() > 0 for g in packed.values()), worst


# --- what trains, and what does not ---

PARTS = [("vision",), ("merger",), ("llm",)]
PARTS += [(), ("vision", "merger"), ("vision", "llm"), ("merger", "llm")]


@pytest.mark.parametrize("frozen", PARTS, ids=lambda f: "+".join(f) or "nothing")
def test_freezing_really_freezes_and_everything_else_moves(frozen, untied):
    """`module.requires_grad_ = False` freezes nothing and says nothing (R1-V, VLM-R1).

    So train a step and compare every weight.
    """
    train = flags(**{f"freeze_{part}": True for part in frozen})
    policy, processor = modeling.load(str(untied), train=train)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    train_steps(policy, processor)

    def part(name):
        return "merger" if "merger" in name else "vision" if ".visual." in name else "llm"

    expected = {n for n in before if part(n) not in frozen}
    assert {part(n) for n in before} == {"vision", "merger", "llm"}
    assert changed(policy, before) == expected
    assert expected == {n for n, p in policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_lora_changes_every_adapter_weight_and_nothing_else(quant, directory):
    """Two steps: B is zero at first, so A's first gradient is zero. No vision module has any."""
    policy, processor = modeling.load(str(directory), quant=quant, train=flags(lora_r=4))
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    losses = train_steps(policy, processor, steps=2)
    expected = set()
    for name in projections(policy):
        expected |= {f"base_model.model.{name}.lora_{ab}.default.weight" for ab in "AB"}
    assert changed(policy, before) == expected and losses[1] < losses[0]
    tower = core_of(policy).model.visual
    assert not any("lora" in name for name, _ in tower.named_modules())


@pytest.mark.parametrize("which", ["tied", "untied"])
def test_four_bit_layers_are_exactly_the_language_models_linears(which, directory, untied):
    source = str({"tied": directory, "untied": untied}[which])
    plain = modeling.load(source)[0]
    in_4_bits = modeling.load(source, quant="nf4")[0]
    adapted, _ = modeling.load(source, torch.bfloat16, quant="nf4", train=flags(lora_r=4))
    expected = projections(plain)
    for core in (in_4_bits, core_of(adapted)):
        inside = set()
        for name, module in core.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                inside.add(name.removesuffix(".base_layer"))
        assert inside == expected
        assert type(core.lm_head) is torch.nn.Linear
    sizes = [modeling.describe(policy).split(" M")[0] for policy in (plain, in_4_bits)]
    assert sizes[0] == sizes[1]


# --- scripts ---

SMALL = "--data count --max-completion-length 12 --max-eval-samples 1 --save-steps 1"
GRPO = (
    f"{SMALL} --prompts-per-step 2 --num-generations 3 --reward-funcs vowels --learning-rate 1e-3"
)


@pytest.mark.parametrize("training", ["full", "adapter"])
def test_float32_export_answers_as_the_policy_does(training, lively, tmp_path):
    source = lively
    if training == "adapter":
        policy, processor = modeling.load(str(lively), train=flags(lora_r=4))
        randomise_lora(policy, 0.3)
        source = tmp_path / "adapter"
        modeling.save(policy, processor, source)
    export(source, tmp_path / "out", "--dtype", "float32")
    assert export_gap(source, tmp_path / "out") < 1e-5
    policy, processor = modeling.load(str(source))
    prompts = checkpoints.prompts_of(processor)
    sampling = rollout.Sampling(32, temperature=0)
    sampled = rollout.rollout(policy, prompts, processor.special, 1, sampling)
    stock = stock_model(tmp_path / "out")
    answers = stock_greedy(stock, processor, prompts, 32)
    assert answers == rows_of(sampled)
    assert len({token for answer in answers for token in answer}) >= 20, "degenerate"
    base = logits_of(stock_model(lively), processor)
    gap = float((logits_of(stock, processor) - base).abs().max())
    assert gap > 1e-2 if training == "adapter" else gap < 1e-5


def test_supervised_stage_imitates(kind, no_pictures, tmp_path):
    line = f"--model tiny:{kind} {SMALL} --level 1 --batch-size 2 --max-steps 4"
    line += " --max-completion-length 80 --learning-rate 2e-3"
    train(train_sft, f"{line} --output-dir {tmp_path / 'sft'}")
    losses = [line["loss"] for line in metrics_of(tmp_path / "sft") if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("", id="full"),
        pytest.param("--lora-r 4", id="lora", marks=pytest.mark.slow),
        pytest.param("--quant nf4", id="nf4", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_exact(more, directory, toy_reward, no_pictures, tmp_path):
    """Killed in the second of three steps of GRPO, after the evaluation and the first step."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    line = f"--model {directory} {GRPO} {more} --max-steps 3 --output-dir"
    train(train_grpo, f"{line} {whole}")
    train_until_killed(f"{line} {parts}", call=5)
    assert (parts / "checkpoint-1").is_dir() and len(metrics_of(parts)) == 2
    train(train_grpo, f"{line} {parts} --resume-from-checkpoint")
    assert metrics_of(parts) == metrics_of(whole) and same_weights(parts, whole)
    assert all(line["grad_norm"] > 0 for line in metrics_of(whole)[1:])


def test_dpo_margin_is_exactly_0_at_the_start(directory, mmpr, no_pictures, tmp_path):
    line = f"--method dpo --pairs {mmpr} --model {directory} --lora-r 4 {PAIRS}"
    train(train_dpo, f"{line} --output-dir {tmp_path}")
    first, second = records.read_lines(tmp_path / "iteration-1" / "metrics.jsonl")
    for name in ("chosen", "rejected", "margins", "accuracies"):
        assert first[f"rewards/{name}"] == 0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second["loss"] < first["loss"]


# --- what goes wrong ---


@pytest.mark.parametrize(
    "part, key, more, says",
    [
        ("text", "intermediate_size", 8, "is of the wrong shape"),
        ("text", "num_hidden_layers", 1, "num_hidden_layers is"),
        ("text", "num_key_value_heads", 2, "self_attn.k_proj.weight is of the wrong shape"),
        ("vision", "depth", 1, "depth is 3"),
        ("vision", "tower_out", 8, "is not hidden_size 128"),
        ("vision", "tower_width", 16, "is of the wrong shape"),
    ],
)
def test_sizes_that_do_not_fit_the_weights(kind, part, key, more, says, directory, tmp_path):
    key = getattr(families.FAMILIES[kind], key, key)
    config = json.loads((directory / "config.json").read_text())
    where = config["vision_config"] if part == "vision" else config.get("text_config") or config
    key = f"moe_{key}" if f"moe_{key}" in where else key
    where[key] += more
    for file in directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"config.json.*{says}"):
        modeling.load(str(tmp_path))
