"""Run: python -m pytest -q tests/test_adapters.py        (20 s on CPU; no network)

What trains, by flags, in every family: LoRA on words, tower and experts, the merger beside it, DoRA
and rsLoRA. Each against stock PEFT on stock transformers, and against the base it starts from.
"""

import json
from types import SimpleNamespace

import checkpoints
import published
import pytest
import torch
from commands import (
    SCRIPTS,
    metrics_of,
    refusal,
    same_weights,
    train,
    train_until_killed,
    weights_of,
)
from stock import (
    batch_of,
    both_ways,
    changed,
    export,
    export_gap,
    flags,
    gradients,
    randomise_lora,
    relative,
    responses_of,
    stock_greedy,
    stock_model,
    train_steps,
)

import adapters
import families
import model as modeling
import rollout
import train_grpo
import train_sft
from fast import decode
from logps import cache_features, core_of, token_logps
from plumbing.errors import UserError

bitsandbytes = pytest.importorskip("bitsandbytes")
KINDS = list(families.FAMILIES)
MOE = [kind for kind in KINDS if families.FAMILIES[kind].experts]
NEVER = [10**6]  # an id that no vocabulary has: rows go on to the end
EVERYTHING = dict(lora_targets=["all"], train_merger=True, use_rslora=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a family's checkpoint in the published layout, once: kind -> its directory."""
    found = {}

    def directory(kind):
        if kind not in found:
            path = tmp_path_factory.mktemp(kind)
            found[kind] = published.write(path, kind, tied=False, scale=0.12)
        return found[kind]

    return directory


def greedy(policy, processor, prompts, length=24):
    special = SimpleNamespace(**vars(processor.special) | {"eos_ids": NEVER})
    sampled = rollout.rollout(policy, prompts, special, 1, rollout.Sampling(length, temperature=0))
    return sampled.targets.tolist()


def small_batch(processor):
    prompts = checkpoints.prompts_of(processor, slice(4, 8))
    return batch_of(processor, prompts, responses_of(processor, [3, 6, 2, 5]))


def logps_of(policy, batch):
    with torch.no_grad():
        return token_logps(policy, batch)


def moved(policy, scale=0.1):
    """Move all that trains, as a step would: B from zero, the rest from where it was."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad and ".lora_A." not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(scale * noise * parameter.abs().mean().clamp_min(0.3))
    return policy


def expected_layers(core, part):
    """The full names of the layers of a part, told by their kind and place in stock's model."""
    linear = [n for n, m in core.named_modules() if isinstance(m, torch.nn.Linear)]
    if part == "vision":
        return {n for n in linear if n.startswith("model.visual.blocks.")}
    if part == "llm":
        return {n for n in linear if n.startswith("model.language_model.layers.")}
    return {n for n, m in core.named_modules() if n.endswith(".mlp.experts")}


# --- what trains ---

WAYS = {
    "vision": (dict(lora_targets=["vision"]), ["vision"]),
    "merger": (dict(train_merger=True), ["llm"]),
    "dora": (dict(use_dora=True), ["llm"]),
    "experts": (dict(lora_targets=["experts"]), ["experts"]),
    "all": (EVERYTHING, ["llm", "vision", "experts"]),
}


def asked_of(kind, way):
    if way == "experts" and kind not in MOE:
        pytest.skip("no experts")
    return WAYS[way][0]


def every_family(quick):
    """All pairs of a family and a way; those that are not `quick` run in make test-slow."""
    pairs = [(kind, way) for kind in KINDS for way in WAYS]
    slow = pytest.mark.slow
    return [pytest.param(*p, marks=[] if quick(*p) else slow, id="-".join(p)) for p in pairs]


@pytest.mark.parametrize("kind, way", every_family(lambda kind, way: way in ("all", "experts")))
def test_what_was_asked_trains_and_nothing_else(kind, way, made):
    """Two steps: B is zero at first, so A's first gradient is zero."""
    asked, parts = WAYS[way]
    if way == "experts" and kind not in MOE:
        with pytest.raises(UserError, match="has no experts; name llm, vision or all"):
            modeling.load(str(made(kind)), train=flags(lora_r=4, **asked))
        return
    bare, _ = modeling.load(str(made(kind)))
    policy, processor = modeling.load(str(made(kind)), train=flags(lora_r=4, **asked))
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    losses = train_steps(policy, processor, steps=2)
    expected = set()
    for part in parts:
        for name in expected_layers(bare, part):
            name = f"base_model.model.{name}"
            inner = [name, f"{name}.base_layer"] if part == "experts" else [name]
            expected |= {f"{n}.lora_{ab}.default.weight" for n in inner for ab in "AB"}
            if asked.get("use_dora"):
                expected.add(f"{name}.lora_magnitude_vector.default.weight")
    if asked.get("train_merger"):
        for name, _ in bare.named_parameters():
            if "merger" in name:
                module = name.rsplit(".", name.count(".") - (3 if "list" in name else 2))[0]
                rest = name.removeprefix(f"{module}.")
                expected.add(f"base_model.model.{module}.modules_to_save.default.{rest}")
    assert changed(policy, before) == expected and losses[1] < losses[0]
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == expected
    said = modeling.describe(policy)
    assert ("the merger" in said) == bool(asked.get("train_merger"))
    assert ("layers of the vision tower" in said) == ("vision" in parts)
    assert ("the experts of 3 layers" in said) == ("experts" in parts and kind in MOE)


def test_the_start_message_says_it_in_words(made):
    policy, _ = modeling.load(str(made("qwen3_vl")), train=flags(lora_r=4, **EVERYTHING))
    assert adapters.what_trains(policy) == (
        "LoRA r 4, alpha / sqrt(r), on 21 layers of the language model and 8 layers of the vision "
        "tower; the merger"
    )
    for frozen, said in (((), "all weights"), (("vision", "llm"), "the merger")):
        train = flags(**{f"freeze_{part}": True for part in frozen})
        policy, _ = modeling.load(str(made("qwen3_vl")), train=train)
        assert adapters.what_trains(policy) == said


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_padded(kind, made):
    """Each parameter's gradient, through tower and experts; layers recomputed."""
    train = flags(lora_r=4, gradient_checkpointing=True, **EVERYTHING)
    policy, processor = modeling.load(str(made(kind)), train=train)
    moved(policy).train()
    (logp, _, padded), (packed_logp, _, packed) = both_ways(policy, processor)
    assert (logp - packed_logp).abs().max() < 1e-5 and logp.std() > 0.1
    assert (
        set(packed) == set(padded) == {n for n, p in policy.named_parameters() if p.requires_grad}
    )
    worst = max((relative(packed[n], padded[n]), n) for n in padded)
    assert worst[0] < 1e-5 and all(g.norm() > 0 for g in packed.values()), worst


@pytest.mark.parametrize("asked", [dict(lora_targets=["vision"]), dict(train_merger=True)])
def test_features_are_not_kept_where_the_tower_or_the_merger_trains(asked, made):
    """A kept feature would be of the last step's weights, and carry no gradient."""
    for more, kept in (({}, True), (asked, False)):
        policy, processor = modeling.load(str(made("qwen2_vl")), train=flags(lora_r=4, **more))
        prompts = checkpoints.prompts_of(processor, slice(4, 6))
        cache_features(policy, prompts)
        assert all((p.features is not None) == kept for p in prompts)


# --- where it starts, and what it is compared with ---

FIRST_STEPS = [("qwen2_vl", "dora"), (MOE[0], "all")]


@pytest.mark.parametrize("kind, way", every_family(lambda *p: p in FIRST_STEPS))
@pytest.mark.parametrize(
    "quant, dtype",
    [
        ("nf4", torch.bfloat16),
        pytest.param("none", torch.float32, marks=pytest.mark.slow),
        pytest.param("none", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_the_first_step_is_the_bases(kind, way, quant, dtype, made):
    """Exactly, in bfloat16 on 4 bits too; and with the adapter off it is the base's ever after."""
    asked = asked_of(kind, way)
    loading = str(made(kind)), dtype, "cpu", quant
    bare, _ = modeling.load(*loading)
    policy, processor = modeling.load(*loading, flags(lora_r=4, **asked))
    reference = modeling.Reference(policy, str(made(kind)), 0)
    batch = small_batch(processor)
    start = logps_of(bare, batch)
    assert torch.equal(logps_of(policy, batch), start)
    train_steps(policy, processor, steps=2)
    with reference as frozen:
        assert torch.equal(logps_of(frozen, batch), start)
    assert (logps_of(policy, batch) - start).abs().max() > 0.1
    assert all(p.dtype == torch.float32 for p in policy.parameters() if p.requires_grad)


@pytest.mark.parametrize("asked", [EVERYTHING, dict(use_dora=True)], ids=["all", "dora"])
def test_a_reloaded_adapter_goes_on_exactly(asked, made, tmp_path):
    """In bfloat16 on 4 bits: PEFT copies a merger in the type of the base, which rounds it.

    The reference of a continued one is that adapter, merger and magnitudes included.
    """
    loading = torch.bfloat16, "cpu", "nf4"
    policy, processor = modeling.load(str(made(MOE[0])), *loading, flags(lora_r=4, **asked))
    train_steps(policy, processor, steps=2)
    modeling.save(policy, processor, tmp_path / "a")
    again, _ = modeling.load(str(tmp_path / "a"), *loading, flags(lora_r=None))
    batch = small_batch(processor)
    expected = logps_of(policy, batch)
    assert torch.equal(logps_of(again, batch), expected)
    answering, _ = modeling.load(str(tmp_path / "a"), *loading)
    assert torch.equal(logps_of(answering, batch), expected)
    reference = modeling.Reference(again, str(tmp_path / "a"), 0)
    trains = {n for n, p in again.named_parameters() if p.requires_grad}
    assert trains == {n for n, p in policy.named_parameters() if p.requires_grad}
    train_steps(again, processor, steps=1)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == trains
    with reference as frozen:
        assert torch.equal(logps_of(frozen, batch), expected)
    modeling.save(again, processor, tmp_path / "b")
    assert weights_of(tmp_path / "b").keys() == weights_of(tmp_path / "a").keys()


# --- as stock PEFT and stock transformers see it ---


@pytest.mark.parametrize("kind, way", every_family(lambda kind, way: way == "all"))
def test_stock_peft_answers_alike_and_so_does_the_export(kind, way, made, tmp_path):
    from peft import PeftModel

    asked = asked_of(kind, way)
    policy, processor = modeling.load(str(made(kind)), train=flags(lora_r=4, **asked))
    moved(policy)
    modeling.save(policy, processor, tmp_path / "adapter")
    prompts = checkpoints.prompts_of(processor, slice(4, 8))
    said = greedy(policy, processor, prompts)
    assert len({token for row in said for token in row}) >= 20, "degenerate"
    bare = stock_model(made(kind), dtype=torch.float32)
    assert stock_greedy(bare, processor, prompts[:1], 24, NEVER) != said[:1]
    stock = PeftModel.from_pretrained(bare, str(tmp_path / "adapter"))
    assert stock_greedy(stock, processor, prompts, 24, NEVER) == said
    export(tmp_path / "adapter", tmp_path / "out", "--dtype", "float32")
    merged = stock_model(tmp_path / "out")
    assert stock_greedy(merged, processor, prompts, 24, NEVER) == said
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    experts = kind in MOE and way in ("all", "experts")
    assert set(saved["target_parameters"] or []) == set(experts * families.FAMILIES[kind].experts)
    assert [*(saved["modules_to_save"] or [])] == (
        adapters.mergers_of(core_of(policy)) if asked.get("train_merger") else []
    )


OTHERS = {  # of somebody else's LoRA: PEFT's settings
    "qwen2_vl": [
        dict(target_modules=["q_proj", "lm_head"]),
        dict(target_modules=["embed_tokens"]),
        dict(target_modules=["q_proj"], modules_to_save=["merger", "norm"]),
        dict(target_modules=["q_proj"], bias="lora_only"),
    ],
    "qwen3_vl_moe": [dict(target_modules=["lm_head"], target_parameters=["mlp.gate.weight"])],
}


def elsewhere(directory, out, **settings):
    """Write an adapter that stock PEFT has made on a checkpoint, moved as by training."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    policy = get_peft_model(stock_model(directory, dtype=torch.float32), config)
    moved(policy).save_pretrained(out)
    return out


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("kind, settings", [(k, s) for k, of in OTHERS.items() for s in of])
def test_an_adapter_of_somebody_else(kind, settings, tmp_path):
    """On a tied checkpoint a LoRA of head or embeddings was merged into both, and nobody told."""
    from peft import PeftModel

    base = published.write(tmp_path / "base", kind, tied=True, scale=0.12)
    at = elsewhere(base, tmp_path / "adapter", **settings)
    policy, processor = modeling.load(str(at))
    prompts = checkpoints.prompts_of(processor, slice(4, 7))
    said = greedy(policy, processor, prompts, 12)
    bare = stock_model(base, dtype=torch.float32)
    assert stock_greedy(bare, processor, prompts, 12, NEVER) != said
    stock = PeftModel.from_pretrained(bare, str(at))
    assert stock_greedy(stock, processor, prompts, 12, NEVER) == said
    export(at, tmp_path / "out", "--dtype", "float32")
    assert stock_greedy(stock_model(tmp_path / "out"), processor, prompts, 12, NEVER) == said


def test_biases_have_no_reference(made, tmp_path):
    settings = dict(target_modules=["q_proj"], bias="lora_only")
    at = elsewhere(made("qwen2_vl"), tmp_path / "adapter", **settings)
    policy, _ = modeling.load(str(at), train=flags(lora_r=None))
    with pytest.raises(UserError, match="trains biases .* model.py export"):
        modeling.Reference(policy, str(at), 0)


@pytest.mark.parametrize("names", [["merger"], ["visual.merger"], ["model.visual.merger"]])
def test_a_merger_is_known_by_any_name(names):
    config = dict(r=4, target_modules=["q_proj"], modules_to_save=names)
    family = families.FAMILIES["qwen2_vl"]
    assert adapters.made_of(config, family)["train_merger"]
    config["modules_to_save"] = ["norm", "lm_head", "embed_tokens"]
    assert not adapters.made_of(config, family)["train_merger"]


@pytest.mark.parametrize("kind, way", every_family(lambda *p: False))
def test_4_bit_answers_and_export_in_every_family(kind, way, made, tmp_path):
    asked = asked_of(kind, way)
    loading = torch.float32, "cpu", "nf4"
    policy, processor = modeling.load(str(made(kind)), *loading, flags(lora_r=4, **asked))
    moved(policy)
    prompts = checkpoints.prompts_of(processor)
    said = greedy(policy, processor, prompts)
    assert said == stock_greedy(policy, processor, prompts, 24, NEVER)
    modeling.save(policy, processor, tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out", "--dtype", "float32")
    assert export_gap(tmp_path / "adapter", tmp_path / "out") < 1e-5


def test_a_dora_is_laid_out_for_the_decode_step(made, capsys):
    """No layer's own forward is called. Queries have biases here, which no length scales."""
    decode.warn_once.cache_clear()
    policy, processor = modeling.load(str(made("qwen2_vl")), train=flags(lora_r=4, use_dora=True))
    moved(policy)
    assert not decode.decode_weights(core_of(policy)).foreign
    layer = core_of(policy).model.language_model.layers[0].self_attn
    assert layer.q_proj.bias.abs().max() > 0
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    for modules in ([layer.q_proj, layer.k_proj, layer.v_proj], [layer.o_proj]):
        fused = decode.fused_linear(modules, core_of(policy), copy=True)
        with torch.no_grad():
            expected = torch.cat([module(x) for module in modules], -1)
            assert (fused(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert "own forward" not in capsys.readouterr().out


# --- experts ---


def adapted_experts(made, dtype, scale):
    """A layer's experts under LoRA, and what they are given."""
    policy, _ = modeling.load(
        str(made(MOE[0])), dtype, train=flags(lora_r=4, lora_targets=["experts"])
    )
    randomise_lora(policy, scale)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(40, 128, generator=generator).to(dtype)
    index = torch.rand(40, 4, generator=generator).argsort(1)[:, :2]
    weights = torch.rand(40, 2, generator=generator).to(dtype)
    wrapper = core_of(policy).model.language_model.layers[0].mlp.experts
    return wrapper, (hidden, index, weights)


def test_experts_with_lora_compute_what_peft_computes(made):
    """In float32, with each gradient; some experts get no token."""
    wrapper, given = adapted_experts(made, torch.float32, 0.3)
    given = (given[0], given[1] % 3, given[2])
    found = []
    for run in (wrapper.forward, lambda *x: type(wrapper).forward(wrapper, *x)):
        wrapper.zero_grad()
        out = run(*given)
        out.square().sum().backward()
        found.append((out.detach(), gradients(wrapper)))
    (ours, mine), (theirs, its) = found
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max() and len(mine) == 4
    assert max(relative(mine[name], its[name]) for name in its) < 1e-5


def test_in_bfloat16_an_adapter_on_experts_is_closer_than_folded_into_them(made):
    """PEFT rounds the sum of a weight and its change to bfloat16, and then the product."""
    wrapper, given = adapted_experts(made, torch.bfloat16, 1e-3)
    exact, whole = adapted_experts(made, torch.float32, 1e-3)
    with torch.no_grad():
        change = exact.forward(*whole) - base_output(exact, whole)
        ours = wrapper.forward(*given) - base_output(wrapper, given)
        theirs = type(wrapper).forward(wrapper, *given) - base_output(wrapper, given)
    assert relative(ours.float(), change) < 0.8 * relative(theirs.float(), change)


def base_output(wrapper, given):
    return wrapper.get_base_layer()(*given)


def test_experts_of_a_checkpoint_that_was_saved_here(made, tmp_path):
    """transformers 5 writes num_experts of config.json as num_local_experts."""
    modeling.save(*modeling.load(str(made(MOE[0]))), tmp_path / "base")
    train = flags(lora_r=4, lora_targets=["experts"])
    policy, processor = modeling.load(str(tmp_path / "base"), train=train)
    moved(policy)
    modeling.save(policy, processor, tmp_path / "adapter")
    again, _ = modeling.load(str(tmp_path / "adapter"))
    batch = small_batch(processor)
    assert torch.equal(logps_of(policy, batch), logps_of(again, batch))


# --- killed and resumed ---

SMALL = "--data count --max-completion-length 12 --max-eval-samples 1 --save-steps 1"
GRPO = f"{SMALL} --prompts-per-step 2 --num-generations 3 --reward-funcs vowels --beta 0.1"
LINES = {
    "all": "--lora-r 4 --lora-targets all --train-merger --use-rslora",
    "dora": "--quant nf4 --lora-r 4 --use-dora",
    "vision": "--lora-r 4 --lora-targets vision --dtype bfloat16 --gradient-checkpointing",
    "experts": "--lora-r 4 --lora-targets experts llm --quant nf4",
}


@pytest.mark.parametrize(
    "kind, way",
    [
        (MOE[0], "all"),
        pytest.param("qwen2_vl", "dora", marks=pytest.mark.slow),
        pytest.param("qwen2_5_vl", "vision", marks=pytest.mark.slow),
        pytest.param("qwen3_vl", "all", marks=pytest.mark.slow),
        pytest.param(MOE[0], "experts", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_exact(kind, way, made, toy_reward, no_pictures, tmp_path):
    """By GRPO with a reference. Rollout and update agree: no feature is of an earlier step."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    line = f"--model {made(kind)} {GRPO} {LINES[way]} --learning-rate 1e-3 --max-steps 3"
    train(train_grpo, f"{line} --output-dir {whole}")
    train_until_killed(f"{line} --output-dir {parts}", call=5)
    train(train_grpo, f"{line} --output-dir {parts} --resume-from-checkpoint")
    assert metrics_of(parts) == metrics_of(whole) and same_weights(parts, whole)
    steps = metrics_of(whole)[1:]
    assert steps[0]["kl"] == 0 < steps[1]["kl"] and all(step["grad_norm"] > 0 for step in steps)
    if "bfloat16" not in LINES[way]:
        assert all(step["sampling_logp_difference/max"] < 1e-4 for step in steps)


@pytest.mark.slow
@pytest.mark.parametrize("way", LINES)
def test_supervised_steps_imitate(way, made, no_pictures, tmp_path):
    line = f"--model {made(MOE[0])} {SMALL} {LINES[way]} --level 1 --batch-size 2 --max-steps 4"
    line += " --max-completion-length 80 --learning-rate 2e-3"
    train(train_sft, f"{line} --output-dir {tmp_path / 'sft'}")
    losses = [line["loss"] for line in metrics_of(tmp_path / "sft") if "loss" in line]
    assert losses[-1] < losses[0]


# --- flags that contradict ---


@pytest.fixture(scope="module")
def saved(made, tmp_path_factory):
    """Adapters to go on with: name -> directory."""

    def save(name, kind, **asked):
        path = tmp_path_factory.mktemp(name)
        modeling.save(*modeling.load(str(made(kind)), train=flags(lora_r=4, **asked)), path)
        return path

    found = {"plain": save("plain", "qwen2_vl"), "dora": save("dora", "qwen2_vl", use_dora=True)}
    found["all"] = save("all", MOE[0], **EVERYTHING)
    foreign = json.loads((found["plain"] / "adapter_config.json").read_text())
    foreign["target_modules"] = r".*language_model.*(q|v)_proj"
    found["foreign"] = found["plain"].with_name("foreign")
    found["foreign"].mkdir()
    (found["foreign"] / "adapter_config.json").write_text(json.dumps(foreign))
    return found


DIFFER = [
    ("plain", dict(lora_r=0), "--lora-r 0, but .* has rank 4; omit --lora-r, or merge it first"),
    ("plain", dict(lora_r=8), "--lora-r 8, but .* has rank 4"),
    ("plain", dict(lora_alpha=64), "--lora-alpha 64, but .* has lora_alpha 8; omit --lora-alpha"),
    ("plain", dict(use_dora=True), "--use-dora, but .* was made without it"),
    ("plain", dict(use_rslora=True), "--use-rslora, but .* was made without it"),
    ("plain", dict(train_merger=True), "--train-merger, but .* was made without it"),
    ("plain", dict(lora_targets=["vision"]), "--lora-targets vision, but .* is on llm"),
    ("plain", dict(lora_targets=["all"]), "--lora-targets llm vision, but .* is on llm"),
    ("plain", dict(lora_targets=["experts"]), "Qwen2-VL has no experts"),
    ("dora", dict(use_dora=False), "--no-use-dora, but .* was made with it"),
    ("all", dict(train_merger=False), "--no-train-merger, but .* was made with it"),
    ("all", dict(lora_targets=["llm"]), "llm, but .* is on llm vision experts"),
    ("all", dict(lora_dropout=0.1), "--lora-dropout is for linear layers, and experts are none"),
    ("foreign", dict(lora_targets=["llm"]), r"llm, but .* is on other layers \(\.\*language"),
]


@pytest.mark.parametrize("name, asked, says", DIFFER)
def test_a_flag_that_contradicts_the_adapter_is_refused(name, asked, says, saved):
    family = families.FAMILIES[MOE[0] if name == "all" else "qwen2_vl"]
    with pytest.raises(UserError, match=says):
        adapters.must_agree(flags(**{"lora_r": 4} | asked), saved[name], family)


def resolved(line):
    """What a training script makes of a command."""
    args = train_sft.parse_args([*line.split(), "--data", "count", "--output-dir", "out"])
    vars(args).update(modeling.resolve(args, train=True))
    return args


def test_a_flag_that_says_the_same_is_taken(saved):
    line = f"--model {saved['all']} --lora-r 4 --lora-alpha 8 --lora-targets all --train-merger"
    args = resolved(f"{line} --use-rslora --no-use-dora")
    policy, _ = modeling.load_from_args(args, train=True)
    open_args = resolved(f"--model {saved['all']}")
    for name in ("lora_r", "train_merger", "use_rslora", "use_dora"):
        assert getattr(args, name) == getattr(open_args, name)
    assert open_args.lora_targets == ["llm", "vision", "experts"] and open_args.train_merger
    assert "the merger" in modeling.describe(policy)


ALONE = [
    ("--lora-alpha 8", "add --lora-r 16, or leave it out"),
    ("--lora-dropout 0.1", "add --lora-r 16"),
    ("--lora-targets vision", "add --lora-r 16"),
    ("--use-dora", "add --lora-r 16"),
    ("--use-rslora", "add --lora-r 16"),
    ("--train-merger", "the merger trains with the rest unless --freeze-merger"),
]


@pytest.mark.parametrize("line, says", ALONE)
def test_a_flag_of_lora_without_lora_is_refused(line, says, made):
    word = line.split()[0]
    for model in ("tiny", made("qwen2_vl")):
        with pytest.raises(UserError, match=f"{word} is for LoRA, but --lora-r is 0 here.*{says}"):
            resolved(f"--model {model} {line}")


@pytest.mark.parametrize("flag", ["--freeze-vision", "--freeze-merger", "--freeze-llm"])
def test_freezing_is_for_full_fine_tuning(flag, made, saved):
    for line in (f"--model {made('qwen2_vl')} --lora-r 4", f"--model {saved['plain']}"):
        with pytest.raises(UserError, match=f"{flag} is for --lora-r 0"):
            resolved(f"{line} {flag}")


def test_what_peft_cannot_do_to_experts_is_refused(made):
    for more in ("--use-dora", "--lora-dropout 0.1"):
        with pytest.raises(UserError, match="is for linear layers, and experts are none"):
            resolved(f"--model {made(MOE[0])} --lora-r 4 --lora-targets all {more}")


def test_resumed_with_other_flags_is_refused(made, no_pictures, tmp_path, capsys):
    line = f"--model {made('qwen2_vl')} {SMALL} --level 1 --batch-size 1 --lora-r 4"
    line += f" --max-completion-length 80 --output-dir {tmp_path / 'run'}"
    train(train_sft, f"{line} --max-steps 1")
    line += " --max-steps 2 --resume-from-checkpoint"
    for more, says in (
        ("--use-dora", "--use-dora was False"),
        ("--lora-targets vision", "--lora-targets was ['llm']"),
        ("--train-merger", "--train-merger was False"),
        ("--lora-alpha 64", "--lora-alpha"),
    ):
        assert says in refusal(train_sft, [*line.split(), *more.split()], capsys)
    train(train_sft, line)


# --- weights that somebody else has quantised ---

# quantization_config as the hub's checkpoints have it.
FOREIGN = {
    "awq": dict(bits=4, group_size=128, modules_to_not_convert=["visual"], quant_method="awq",
                version="gemm", zero_point=True),
    "gptq": dict(bits=4, checkpoint_format="gptq", damp_percent=0.05, desc_act=False,
                 group_size=128, quant_method="gptq", static_groups=False, sym=True),
    "fp8": dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8",
                weight_block_size=[128, 128], modules_to_not_convert=["lm_head"]),
    "compressed-tensors": dict(config_groups={"group_0": {"targets": ["Linear"]}},
                               format="pack-quantized", ignore=["lm_head"],
                               quant_method="compressed-tensors"),
    "auto-round": dict(bits=4, group_size=128, quant_method="auto-round", sym=True),
    "hqq": dict(quant_method="hqq", quant_config={"weight_quant_params": {"nbits": 4}}),
    "torchao": dict(quant_method="torchao", quant_type="int4_weight_only"),
    "an unnamed method": dict(bits=4, group_size=64),  # MLX's
}  # fmt: skip


def quantised(made, folder, settings, key="quantization_config"):
    """A checkpoint whose config.json says so; its weights are never reached."""
    source = made("qwen2_5_vl")
    folder.mkdir()
    for file in source.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text()) | {key: settings}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("method", FOREIGN)
def test_weights_quantised_by_others_get_a_sentence(method, made, tmp_path):
    folder = quantised(made, tmp_path / "q", FOREIGN[method])
    for options in ({}, {"quant": "nf4"}, {"train": flags(lora_r=4)}, {"train": flags()}):
        with pytest.raises(UserError) as caught:
            modeling.load(str(folder), **options)
        said = str(caught.value)
        assert f'quantised by "{method}"' in said and "--quant nf4 makes it as small" in said
        assert "\n" not in said and str(folder / "config.json") in said


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_so(name, made, folder, mmpr, tmp_path, capsys):
    model = quantised(made, tmp_path / "q", FOREIGN["awq"])
    line = f"--model {model} --max-completion-length 12"
    line += {
        "train_sft": f" --data count --max-steps 1 --output-dir {tmp_path / 'out'}",
        "train_grpo": f" --data count --max-steps 1 --output-dir {tmp_path / 'out'}",
        "train_dpo": f" --pairs {mmpr} --output-dir {tmp_path / 'out'}",
        "selftrain": f" --method star --data count --output-dir {tmp_path / 'out'}",
        "evaluate": f" --data count:test --output-dir {tmp_path / 'out'}",
        "generate": f" --image {folder / 'images' / 'a.png'} --prompt why",
    }[name]
    assert 'quantised by "awq"' in refusal(SCRIPTS[name], line.split(), capsys)


BNB = dict(load_in_4bit=True, load_in_8bit=False, bnb_4bit_quant_type="nf4",
           quant_method="bitsandbytes", llm_int8_skip_modules=["visual", "lm_head"])  # fmt: skip


def test_weights_of_bitsandbytes_train_under_lora_alone(made, saved, tmp_path):
    folder = quantised(made, tmp_path / "q", BNB)
    with pytest.raises(UserError, match="quantised by bitsandbytes.*add --lora-r 16"):
        modeling.load(str(folder), train=flags())
    in_8_bits = BNB | dict(load_in_4bit=False, load_in_8bit=True)
    other = quantised(made, tmp_path / "q8", in_8_bits)
    with pytest.raises(
        UserError, match="bitsandbytes to 8 bits, and --quant nf4.*use --quant none"
    ):
        modeling.load(str(other), quant="nf4")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in saved["plain"].iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    for base in (folder, quantised(made, tmp_path / "awq", FOREIGN["awq"])):
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(base)
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="quantised by .*base_model_name_or_path"):
            export(adapter, tmp_path / "out")
        assert not (tmp_path / "out").exists()
