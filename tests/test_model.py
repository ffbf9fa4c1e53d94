"""Run: python -m pytest -q tests/test_model.py        (about 30 s on one core, no network)

Everything is compared with stock transformers and PEFT, or with a checkpoint whose every number is known (tests/checkpoints.py writes it in the
layout published in 2024). What holds for every family is in tests/test_families.py.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import pytest
import torch
from stock import (
    COUNTS,
    batch_of,
    both_ways,
    changed,
    export,
    export_gap,
    flags,
    gradients,
    logits_of,
    packed_case,
    randomise_lora,
    relative,
    responses_of,
    stock_logps,
    stock_model,
    train_steps,
)

import batching
import data
import families
import logps
import model as modeling
import rollout
from grading import judges
from logps import autocast, cache_features, core_of, token_logps
from plumbing import checkpoint_files, disk, rundir
from plumbing.arguments import write_args
from plumbing.errors import UserError
from plumbing.find_model import locate, must_not_overwrite
from plumbing.flags import Parser, add_model_flags, add_optimization_flags, add_training_flags
from processor import load_processor
from tasks.example import Example

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

bitsandbytes = pytest.importorskip("bitsandbytes")
PROJECTIONS = [f"self_attn.{p}_proj" for p in "qkvo"] + [
    f"mlp.{p}_proj" for p in ("gate", "up", "down")
]


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A checkpoint in the layout of 2024, tied, in three files."""
    return checkpoints.write_2024(tmp_path_factory.mktemp("published"), "tiny", dtype=torch.float32)


@pytest.fixture(scope="session")
def untied(tmp_path_factory):
    """The same, with a head of its own, in one file."""
    return checkpoints.write_2024(
        tmp_path_factory.mktemp("untied"), "tiny-untied", seed=1, dtype=torch.float32, shard_bytes=0
    )


@pytest.fixture(scope="session")
def adapter(published, tmp_path_factory):
    """A LoRA directory on `published`, r 4, whose B is not zero."""
    policy, processor = modeling.load(str(published), train=flags(lora_r=4))
    randomise_lora(policy)
    directory = tmp_path_factory.mktemp("adapter")
    modeling.save(policy, processor, directory)
    return directory


# ------------------------------------------------------------------------------------------------------------ the layout of 2024


def test_writer_has_the_published_size_of_the_2b():
    """4,417,971,200 bytes is what the published index of Qwen2-VL-2B states: every tensor of it is written, with its shape."""
    text, _, _, vision, _ = checkpoints.SIZES["2b"]
    assert (
        sum(2 * torch.Size(shape).numel() for shape in checkpoints.shapes(text, vision).values())
        == 4_417_971_200
    )


def test_layout_in_bfloat16_is_not_changed_by_loading(tmp_path):
    directory = checkpoints.write_2024(tmp_path, "tiny", seed=3)  # bfloat16, as published
    state = modeling.load(str(directory), torch.bfloat16)[0].state_dict()
    for name, value in checkpoints.weights(
        json.loads((directory / "config.json").read_text()), (2, 64, 4), 3, torch.bfloat16, 0.06
    ):
        name = (
            "model." + name
            if name.startswith("visual")
            else name.replace("model.", "model.language_model.", 1)
        )
        assert state[name].dtype == torch.bfloat16 and torch.equal(state[name], value)


@pytest.mark.parametrize(
    "train",
    [None, flags(lora_r=4), flags(), flags(freeze_vision=True)],
    ids=["inference", "lora", "full", "frozen"],
)
@pytest.mark.parametrize("which", ["tiny", "published"])
def test_rotary_frequencies_stay_float32_in_bfloat16(which, train, published, tiny, monkeypatch):
    """model.to(bfloat16) would round the frequencies too: by 0.2 %, so that at position 1,000 the angles are off by radians."""
    monkeypatch.setattr(families, "tiny_tokenizer", lambda _: tiny[1].tokenizer)  # a second saved
    exact = tiny[0] if which == "tiny" else core_of(modeling.load(str(published))[0])
    policy = modeling.load(
        "tiny" if which == "tiny" else str(published), torch.bfloat16, train=train
    )[0]
    core = core_of(policy)
    assert {p.dtype for p in policy.parameters()} - {torch.float32} == (
        {torch.bfloat16} if train is None or train.lora_r or train.freeze_vision else set()
    )
    for name, buffer in exact.named_buffers():
        if "inv_freq" in name:
            assert torch.equal(core.get_buffer(name).float(), buffer), name


def test_chat_template_comes_from_the_tokenizer_or_chat_template_json_or_ours(published, tmp_path):
    messages = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}],
        }
    ]
    render = lambda: load_processor(tmp_path / "c").tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    shutil.copytree(published, tmp_path / "c", ignore=shutil.ignore_patterns("*.safetensors"))
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + "<|vision_start|><|image_pad|><|vision_end|>" * 2
        + "Same?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render() == expected
    config = json.loads((tmp_path / "c" / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (tmp_path / "c" / "tokenizer_config.json").write_text(json.dumps(config))
    assert render() == expected
    (tmp_path / "c" / "chat_template.json").write_text(
        json.dumps({"chat_template": "from the file: {{ messages[0]['content'][-1]['text'] }}"})
    )
    assert render() == "from the file: Same?"
    # that of the base models, Qwen2-VL-2B and 7B without -Instruct, goes through parts of content, not turns: of a conversation it renders nothing
    parts = "{% for part in messages %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    (tmp_path / "c" / "chat_template.json").write_text(json.dumps({"chat_template": parts}))
    assert render() == expected
    (tmp_path / "c" / "chat_template.json").unlink()
    assert render() == expected


def test_pixel_budget_is_the_flags_not_the_checkpoints(published):
    processor = load_processor(published, max_pixels=28 * 28 * 4, min_pixels=28 * 28)
    prompt = data.Asker(processor, "none").prompt(
        Example("", [checkpoints.picture(280, 280)], "?", "")
    )
    assert 1 <= len(prompt.image_slots) <= 4
    assert (
        len(
            data.Asker(processor, "none")
            .prompt(Example("", [checkpoints.picture(28, 28)], "?", ""))
            .image_slots
        )
        == 1
    )


# ------------------------------------------------------------------------------------------------------------------ tiny preset


def test_tiny_is_the_same_for_a_seed_and_its_tokenizer_loses_nothing(tiny):
    policy, processor = tiny
    size = sum(p.numel() for p in policy.parameters())
    assert 1.0e6 < size < 1.6e6 and modeling.describe(policy).startswith(
        f"{size / 1e6:.2f} M parameters, 0.00 M trained, float32"
    )
    state = policy.state_dict()
    again, other = families.tiny(0)[0].state_dict(), families.tiny(1)[0].state_dict()
    assert all(torch.equal(state[n], again[n]) for n in state)
    assert not torch.equal(state["lm_head.weight"], other["lm_head.weight"])
    for text in (
        "How many red objects are there?",
        "  two spaces\n\n\tand a tab ",
        "naïve cafe\u0301",
        "深度 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u202eabc",
        "\x00\x7f\u0085\ufeff\uffff",
        "1234567890",
        "<think> </think>",
    ):
        assert (
            processor.tokenizer.decode(
                processor.tokenizer(text, add_special_tokens=False)["input_ids"],
                clean_up_tokenization_spaces=False,
            )
            == text
        )
    assert processor.context >= 4096


def test_decode_ends_at_the_first_end_of_text_and_survives_ids_without_a_token(published):
    processor = load_processor(published)
    words = processor.tokenizer("red circle", add_special_tokens=False)["input_ids"]
    end, pad = processor.special.eos_ids
    assert (
        processor.decode(words + [end] + words)
        == processor.decode(torch.tensor(words + [pad, pad]))
        == processor.decode(words)
        == "red circle"
    )
    assert processor.decode([]) == processor.decode([end]) == ""
    assert (
        processor.decode(words + [len(processor.tokenizer) + 3]) == "red circle"
    )  # a row of padding in the vocabulary


# ------------------------------------------------------------------------------------------------------------------ log-probs


def test_rows_of_a_group_share_the_picture_and_not_the_answer(published):
    policy, processor = modeling.load(str(published))
    prompts, responses = (
        checkpoints.prompts_of(processor, slice(4, 8)),
        responses_of(processor, [3, 6, 2, 5, 1, 4, 7, 7]),
    )
    with torch.no_grad():
        logp = token_logps(
            policy,
            batch_of(processor, prompts, responses, G=2),
            suppress=processor.special.vision_ids,
        )
        expected, _ = stock_logps(
            policy, [p for p in prompts for _ in range(2)], responses, processor.special
        )
    for b, row in enumerate(expected):
        assert (logp[b, : len(row)] - row).abs().max() < 2e-5


def test_suppressed_ids_have_no_mass_and_cost_nothing_elsewhere(published):
    """Over the whole vocabulary as target, probabilities sum to 1 with the five vision ids at 0; without `suppress` they take part."""
    policy, processor = modeling.load(str(published))
    prompt, V = checkpoints.prompts_of(processor, slice(0, 1)), policy.config.text_config.vocab_size
    batch = batch_of(processor, prompt, list(torch.arange(V)[:, None]), G=V)
    with torch.no_grad():
        mass = token_logps(policy, batch, suppress=processor.special.vision_ids)[:, 0].exp()
        whole = token_logps(policy, batch)[:, 0].exp()
    assert (
        torch.equal(mass[processor.special.vision_ids], torch.zeros(5))
        and abs(float(mass.sum()) - 1) < 1e-5
    )
    assert (whole[processor.special.vision_ids] > 0).all() and abs(float(whole.sum()) - 1) < 1e-5


def test_chunk_size_and_padding_change_nothing(published):
    policy, processor = modeling.load(str(published))
    policy.requires_grad_(True)
    prompts, responses = (
        checkpoints.prompts_of(processor, slice(0, 4)),
        responses_of(processor, [5, 1, 12, 3]),
    )
    batch = batch_of(processor, prompts, responses)
    found = []
    for chunk in (1024, 1, 4):
        policy.zero_grad()
        logp, entropy = token_logps(
            policy, batch, 0.7, processor.special.vision_ids, entropy=True, chunk=chunk
        )
        (logp * torch.arange(12.0)).sum().backward()
        found.append((logp.detach(), entropy, gradients(policy)))
    for logp, entropy, grads in found[1:]:
        assert (logp - found[0][0]).abs().max() < 1e-5 and (
            entropy - found[0][1]
        ).abs().max() < 1e-5
        assert max(relative(grads[n], found[0][2][n]) for n in grads) < 1e-5
    targets, mask = batching.pad_targets(responses, processor.special.pad_id)
    wider = batching.collate(
        prompts,
        torch.nn.functional.pad(targets, (0, 9), value=7),
        torch.nn.functional.pad(mask, (0, 9)),
    )
    with torch.no_grad():
        assert (
            token_logps(policy, wider, 0.7, processor.special.vision_ids)[:, :12] - found[0][0]
        ).abs().max() < 1e-5


# ------------------------------------------------------------------------------------------------------------------ gradients


def test_checkpointed_gradients_are_the_plain_ones(published):
    """Float64: layers recomputed and head in chunks, against the same without either (1e-10), and against the stock forward's (1e-5: norms,
    the softmax of attention and log-probs are float32 in both, and rounded in different places)."""
    policy, processor = modeling.load(str(published), train=flags(gradient_checkpointing=True))
    policy.double()
    policy.compute_dtype = torch.float64
    prompts, responses = (
        checkpoints.prompts_of(processor, slice(3, 8)),
        responses_of(processor, [5, 1, 12, 3, 4]),
    )
    batch = batch_of(processor, prompts, responses, dtype=torch.float64)
    weights = (
        torch.rand(batch["mask"].shape, generator=torch.Generator().manual_seed(0)) * batch["mask"]
    )
    calls = []
    hook = policy.model.language_model.layers[0].input_layernorm.register_forward_hook(
        lambda *_: calls.append("layer")
    )
    policy.train()
    (
        token_logps(policy, batch, 0.7, processor.special.vision_ids, chunk=4) * weights
    ).sum().backward()
    assert len(calls) == 2, "gradient checkpointing is not on"
    hook.remove()
    checkpointed = gradients(policy)

    policy.gradient_checkpointing_disable()
    policy.zero_grad()
    (
        token_logps(policy, batch, 0.7, processor.special.vision_ids, chunk=10**9) * weights
    ).sum().backward()
    plain = gradients(policy)
    assert set(checkpointed) == set(plain) == {n for n, _ in policy.named_parameters()}
    assert max(relative(checkpointed[n], plain[n]) for n in plain) < 1e-10

    policy.zero_grad()
    logps, _ = stock_logps(policy, prompts, responses, processor.special, 0.7)
    sum((row * weights[b, : len(row)].double()).sum() for b, row in enumerate(logps)).backward()
    stock = gradients(policy)
    assert max(relative(plain[n], stock[n]) for n in stock) < 1e-5


def all_in_float64(policy, monkeypatch):
    """The vision tower's rotation and the language model's norms are done in float32 by transformers whatever the weights are, and float32(a) + float32(b)
    is not float32(a + b) when two gradients go through them here and their sum there (1e-8 to 1e-7): here they are done in float64."""
    from transformers.models.qwen2_vl import modeling_qwen2_vl as theirs

    turn = lambda x, cos, sin: x * cos.unsqueeze(-2) + theirs.rotate_half(x) * sin.unsqueeze(-2)
    monkeypatch.setattr(
        theirs,
        "apply_rotary_pos_emb_vision",
        lambda q, k, cos, sin: (turn(q, cos, sin), turn(k, cos, sin)),
    )
    norm = lambda self, x: (
        self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
    )
    monkeypatch.setattr(type(core_of(policy).model.language_model.norm), "forward", norm)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_micro_batches_do_not_change_gradients(dtype, tolerance, published, monkeypatch):
    """Four prompts (pictures of three sizes, and text), two rows each, cut into pieces of 1, 3 and 5 rows: through groups, too.

    Those of 8 and 3 rows are packed, those of 1 padded."""
    policy, processor = modeling.load(str(published), dtype)
    policy.requires_grad_(True)
    if dtype == torch.float64:
        all_in_float64(policy, monkeypatch)
    prompts = checkpoints.prompts_of(processor, slice(4, 8))
    targets, mask = batching.pad_targets(
        responses_of(processor, [3, 6, 2, 5, 1, 4, 7, 7]), processor.special.pad_id
    )
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for size in (8, 1, 3, 5):
        policy.zero_grad()
        for a, b, first, last, counts in batching.micro_batches(8, size, [2] * 4):
            batch = batching.collate(prompts[first:last], targets[a:b], mask[a:b], counts)
            (
                token_logps(policy, batch, suppress=processor.special.vision_ids) * weights[a:b]
            ).sum().backward()
        found.append(gradients(policy))
    worst = max(relative(grads[n], found[0][n]) for grads in found[1:] for n in found[0])
    assert worst < tolerance, worst


# ------------------------------------------------------------------------------------------------------------------ packed: [prompt | r1 ... rG]


@pytest.mark.parametrize(
    "train", [flags(lora_r=8), flags(gradient_checkpointing=True)], ids=["lora", "full"]
)
def test_packed_equals_padded_in_float64(train, published, monkeypatch):
    policy, processor = modeling.load(str(published), train=train)
    randomise_lora(policy)
    policy.double().train()
    core_of(policy).compute_dtype = torch.float64
    all_in_float64(policy, monkeypatch)
    (logp, _, padded), (packed_logp, _, packed) = both_ways(policy, processor, torch.float64)
    assert (logp - packed_logp).abs().max() < 2e-6  # float32 from the head on: a last bit
    worst = max((relative(packed[n], padded[n]), n) for n in padded)
    assert worst[0] < 1e-10, worst


@pytest.mark.parametrize(
    "train", [None, flags(lora_r=8), flags()], ids=["inference", "lora", "full"]
)
def test_packed_bfloat16_is_as_exact_as_the_stock_forward(train, published):
    """Mean |error| against float32 with the same weights (rounded to bfloat16), at most 1.25 times that of the stock forward."""
    errors = {}
    exact, processor = modeling.load(str(published), train=train)
    randomise_lora(exact)
    for parameter in exact.parameters():
        parameter.data = parameter.data.bfloat16().float()
    policy, _ = modeling.load(str(published), torch.bfloat16, train=train)
    policy.load_state_dict(exact.state_dict())
    prompts, T = checkpoints.prompts_of(processor, slice(0, 8)), 24
    responses = responses_of(processor, [T - i % 3 for i in range(32)])
    special = processor.special
    with torch.no_grad():
        for n, prompt in enumerate(prompts):
            rows = responses[4 * n : 4 * n + 4]
            truth, _ = stock_logps(exact, [prompt] * 4, rows, special)
            with autocast(core_of(policy)):
                stock, _ = stock_logps(policy, [prompt] * 4, rows, special)
            packed = token_logps(
                policy, batch_of(processor, [prompt], rows, G=4), suppress=special.vision_ids
            )
            for name, found in (("stock", stock), ("packed", packed)):
                errors.setdefault(name, []).extend(
                    float(e)
                    for row, true in zip(found, truth)
                    for e in (row[: len(true)] - true).abs()
                )
    stock, packed = (sum(errors[k]) / len(errors[k]) for k in ("stock", "packed"))
    assert len(errors["packed"]) > 700 and 1e-3 < stock < 5e-2 and packed <= 1.25 * stock, (
        packed,
        stock,
    )


def test_responses_of_a_pack_do_not_see_each_other_and_their_order_does_not_matter(published):
    policy, processor = modeling.load(str(published))
    prompt, rows = (
        checkpoints.prompts_of(processor, slice(6, 7)),
        responses_of(processor, [7, 2, 0, 9, 9]),
    )
    with torch.no_grad():
        logps = lambda rows: token_logps(
            policy,
            batch_of(processor, prompt, rows, G=len(rows)),
            suppress=processor.special.vision_ids,
        )
        logp, order = logps(rows), torch.tensor([3, 0, 4, 2, 1])
        assert (logps([rows[i] for i in order]) - logp[order]).abs().max() < 1e-5
        for changed in (0, 3):
            others = [b for b in range(5) if b != changed]
            rows_now = [(row + 1) % 100 if b == changed else row for b, row in enumerate(rows)]
            now = logps(rows_now)
            assert (now[others] - logp[others]).abs().max() < 1e-6 and (
                now[changed] - logp[changed]
            ).abs().max() > 1e-2
        assert (logps(rows[:2]) - logp[:2, :7]).abs().max() < 1e-5  # nor does their number
        first = torch.stack([r[0] for r in rows if len(r)])
        assert (
            not torch.equal(logp[[0, 1, 3, 4], 0], torch.zeros(4)) and len(set(first.tolist())) > 1
        )


def test_a_pack_of_empty_responses_is_harmless(published):
    policy, processor = modeling.load(str(published), train=flags())
    prompt = checkpoints.prompts_of(processor, slice(0, 1))
    logp = token_logps(
        policy, batching.collate(prompt, torch.ones(3, 4, dtype=torch.long), torch.zeros(3, 4))
    )
    logp.sum().backward()
    assert torch.equal(logp, torch.zeros(3, 4)) and all(
        torch.equal(g, torch.zeros_like(g)) for g in gradients(policy).values()
    )


def test_packed_update_holds_neither_all_logits_nor_a_mask_of_the_whole_length(
    published, monkeypatch
):
    """The shape of everything that is computed, forward and backward. G * T = 8 * 48 response tokens, less one, S = P + 383."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    policy, processor = modeling.load(str(published), train=flags(lora_r=4))
    # what torch makes of a CausalBias on CPU; the thing itself cannot be made under a dispatch mode
    monkeypatch.setattr(
        logps, "causal_lower_right", lambda T, L: torch.ones(T, L, dtype=torch.bool).tril(L - T)
    )
    shapes = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            shapes.update(tuple(x.shape) for x in tree_leaves(out) if isinstance(x, torch.Tensor))
            return out

    batch = batch_of(
        processor,
        checkpoints.prompts_of(processor, slice(7, 8)),
        responses_of(processor, [48] * 7 + [47]),
        G=8,
    )
    S, V = batch["input_ids"].shape[1], policy.config.text_config.vocab_size
    with Watch():
        token_logps(policy, batch, chunk=64).sum().backward()
    assert (1, S, 128) in shapes and (64, V) in shapes  # it did watch
    assert not [s for s in shapes if sum(d >= S for d in s) > 1], "(S, S)"
    assert max(torch.Size(s).numel() for s in shapes if V in s and 128 not in s) == 64 * V, (
        "(B, T, V)"
    )


def test_stock_generate_with_padding_is_unmoved_and_the_attention_is_not_saved(published, tmp_path):
    policy, processor = modeling.load(str(published))
    core = core_of(policy)
    assert (
        core.config.text_config._attn_implementation == "packed"
        and core.model.visual.config._attn_implementation == "sdpa"
    )
    policy.save_pretrained(tmp_path / "saved")
    assert "packed" not in (tmp_path / "saved" / "config.json").read_text()
    stock = stock_model(tmp_path / "saved", dtype=torch.float32)
    assert stock.config.text_config._attn_implementation == "sdpa"
    inputs = checkpoints.stock_inputs(
        checkpoints.prompts_of(processor, slice(5, 8)), processor.special
    )
    shifts = (1 - inputs["attention_mask"]).sum(1).tolist()
    inputs |= {
        k: torch.stack([row.roll(n) for row, n in zip(inputs[k], shifts)])
        for k in ("input_ids", "attention_mask", "mm_token_type_ids")
    }  # padded on the left
    out = [
        m.generate(
            **inputs,
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for m in (policy, stock)
    ]
    assert max(shifts) > 0 and torch.equal(out[0].sequences, out[1].sequences)
    assert max(float((a - b).abs().max()) for a, b in zip(out[0].logits, out[1].logits)) < 1e-5


# ------------------------------------------------------------------------------------------------------------------ image features, once


def tower_calls(policy):
    calls = []
    core_of(policy).model.visual.register_forward_hook(lambda *_: calls.append("tower"))
    return calls


@pytest.mark.parametrize(
    "train",
    [None, flags(lora_r=8), flags(freeze_vision=True, freeze_merger=True)],
    ids=["inference", "lora", "frozen"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_of_a_frozen_tower_are_computed_once_and_change_nothing(dtype, train, published):
    policy, processor = modeling.load(str(published), dtype, train=train)
    randomise_lora(policy)
    prompts, targets, mask = packed_case(processor)
    starts = [sum(COUNTS[:n]) for n in range(4)]

    def logps():
        batches = [batching.collate(prompts, targets, mask, COUNTS)] + [
            batching.collate([p], targets[a:b], mask[a:b])
            for p, a, b in zip(prompts, starts, starts[1:])
        ]
        return [
            token_logps(policy, batch, suppress=processor.special.vision_ids).detach()
            for batch in batches
        ]

    before, calls = logps(), tower_calls(policy)
    cache_features(policy, prompts)
    assert len(calls) == 1 and [
        None if p.features is None else (len(p.features), p.features.requires_grad) for p in prompts
    ] == [(len(prompts[0].image_slots), False), (len(prompts[1].image_slots), False), None]
    after = logps()
    assert len(calls) == 1
    assert max(float((a - b).abs().max()) for a, b in zip(before, after)) < (
        1e-5 if dtype == torch.float32 else 0.1
    )
    cache_features(policy, prompts[2:])  # text alone
    assert len(calls) == 1 and prompts[2].features is None


@pytest.mark.parametrize(
    "train",
    [flags(), flags(freeze_vision=True), flags(freeze_merger=True)],
    ids=["both", "merger", "tower"],
)
def test_features_are_not_kept_where_tower_or_merger_train(train, published):
    policy, processor = modeling.load(str(published), train=train)
    prompts, targets, mask = packed_case(processor)
    calls = tower_calls(policy)
    cache_features(policy, prompts)
    assert not calls and all(p.features is None for p in prompts)
    token_logps(
        policy,
        batching.collate(prompts[:1], targets[:4], mask[:4]),
        suppress=processor.special.vision_ids,
    ).sum().backward()
    assert len(calls) == 1  # once for four responses
    reached = {
        n for n, g in gradients(policy).items() if n.startswith("model.visual") and g.norm() > 0
    }
    assert (
        reached
        == {
            n
            for n, p in policy.named_parameters()
            if n.startswith("model.visual") and p.requires_grad
        }
        and reached
    )


# ------------------------------------------------------------------------------------------------------- what trains, and what does not


def test_lora_dropout_and_alpha(published):
    policy, _ = modeling.load(str(published), train=flags(lora_r=4, lora_dropout=0.1, lora_alpha=4))
    config = policy.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 4, 0.1)
    assert (
        modeling.load(str(published), train=flags(lora_r=4))[0].peft_config["default"].lora_alpha
        == 8
    )


# ------------------------------------------------------------------------------------------------------------------ 4 bits, bfloat16


def test_four_bit_needs_lora(published):
    with pytest.raises(UserError, match="--lora-r"):
        modeling.load(str(published), quant="nf4", train=flags())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_gradients_reach_every_adapter_after_a_rollout(quant, dtype, published):
    """bitsandbytes 0.50.2 repacks 4-bit layers at their first evaluation on CPUs with AVX512-BF16, and then returns no gradient, without a word: a
    rollout before the update was enough to stop all adapters below the last layer from learning. The same gradient must come out before
    and after."""
    policy, processor = modeling.load(
        str(published), dtype, quant=quant, train=flags(lora_r=4, gradient_checkpointing=True)
    )
    randomise_lora(policy)
    prompts = checkpoints.prompts_of(processor, slice(4, 8))
    batch = batch_of(processor, prompts, responses_of(processor, [3, 6, 2, 5]))
    found = []
    for _ in range(2):
        policy.train()
        policy.zero_grad()
        token_logps(policy, batch, suppress=processor.special.vision_ids).sum().backward()
        found.append(gradients(policy))
        rollout.rollout(policy, prompts, processor.special, 2, rollout.Sampling(6), seed=1)
    assert len(found[0]) == 2 * 2 * 7 and all(g.abs().max() > 0 for g in found[1].values())
    assert max(relative(found[1][n], found[0][n]) for n in found[0]) == 0


@pytest.mark.parametrize(
    "train",
    [flags(lora_r=4), flags(), flags(freeze_vision=True, freeze_merger=True)],
    ids=["lora", "full", "frozen"],
)
def test_bfloat16_keeps_trained_weights_in_float32_and_computes_in_bfloat16(train, published):
    """At a learning rate of 1e-6 an AdamW step is lost in a bfloat16 weight. On CPU too, where --dtype bfloat16 can be asked for."""
    policy, processor = modeling.load(str(published), torch.bfloat16, train=train)
    core, seen = core_of(policy), {}
    for name in (
        "model.language_model.layers.1.mlp.down_proj",
        "model.language_model.layers.0.self_attn.q_proj",
        "lm_head",
        "model.visual.blocks.1.mlp.fc1",
        "model.visual.merger.mlp.2",
    ):
        core.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.dtype})
        )
    for name, parameter in policy.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), (
            name
        )
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    losses = train_steps(policy, processor, steps=2, learning_rate=1e-6)
    assert (
        all(torch.isfinite(torch.tensor(losses)))
        and set(seen.values()) == {torch.bfloat16}
        and len(seen) == 5
    )
    assert changed(policy, before) == {n for n, p in policy.named_parameters() if p.requires_grad}
    assert not any(p.requires_grad and p.dtype != torch.float32 for p in policy.parameters())
    # and it is the same policy as in float32, within what bfloat16 rounds
    exact, _ = modeling.load(str(published))
    batch = batch_of(processor, checkpoints.prompts_of(processor), responses_of(processor, [6] * 9))
    with torch.no_grad():
        gap = (token_logps(policy, batch) - token_logps(exact, batch)).abs().mean()
    assert gap < 0.05, gap


# ------------------------------------------------------------------------------------------------------------------ save, load, export


def test_adapter_directory_loads_with_stock_peft(adapter, published):
    from peft import PeftModel

    policy, processor = modeling.load(str(adapter))
    assert isinstance(policy, PeftModel) and not any(p.requires_grad for p in policy.parameters())
    stock = PeftModel.from_pretrained(stock_model(published, dtype=torch.float32), str(adapter))
    mine, theirs, base = (
        logits_of(policy, processor),
        logits_of(stock, processor),
        logits_of(stock_model(published, dtype=torch.float32), processor),
    )
    assert (mine - theirs).abs().max() < 1e-5 and (mine - base).abs().max() > 1e-2
    resumed, _ = modeling.load(str(adapter), train=flags(lora_r=4))
    assert {n for n, p in resumed.named_parameters() if p.requires_grad} == {
        n for n, _ in resumed.named_parameters() if "lora_" in n
    }
    assert torch.equal(logits_of(resumed, processor), mine)
    saved = json.loads((adapter / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(published)


def test_adapter_names_its_base_by_absolute_path(published, tmp_path, monkeypatch):
    """Trained with a relative --model, loaded from another directory."""
    monkeypatch.chdir(published.parent)
    policy, processor = modeling.load(published.name, train=flags(lora_r=4))
    modeling.save(policy, processor, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert locate(str(tmp_path / "out")) == (str(published), tmp_path / "out")
    modeling.load("out" if Path("out").is_dir() else str(tmp_path / "out"))


def test_full_save_loads_with_stock_transformers(published, untied, tmp_path):
    for directory in (published, untied):
        policy, processor = modeling.load(str(directory), train=flags())
        train_steps(policy, processor, learning_rate=1e-3)
        out = tmp_path / directory.name
        modeling.save(policy, processor, out)
        stock = stock_model(out)
        assert {p.dtype for p in stock.parameters()} == {torch.float32}
        assert all(
            torch.equal(stock.state_dict()[n], v) for n, v in policy.state_dict().items()
        ) and torch.equal(logits_of(stock, processor), logits_of(policy, processor))
        again, processor_again = modeling.load(str(out), train=flags())
        assert all(torch.equal(again.state_dict()[n], v) for n, v in policy.state_dict().items())
        assert [p.text for p in checkpoints.prompts_of(processor_again)] == [
            p.text for p in checkpoints.prompts_of(processor)
        ]
        assert all(
            torch.equal(a.ids, b.ids)
            and (a.pixel_values is None or torch.equal(a.pixel_values, b.pixel_values))
            for a, b in zip(
                checkpoints.prompts_of(processor_again), checkpoints.prompts_of(processor)
            )
        )


def test_export_of_a_four_bit_run_is_merged_from_the_unquantised_base(published, tmp_path):
    """So the exported policy is not quite the one that was trained; nor is the adapter lost, as it
    is if it is merged into 4-bit weights.
    """
    policy, processor = modeling.load(str(published), quant="nf4", train=flags(lora_r=4))
    randomise_lora(policy)
    modeling.save(policy, processor, tmp_path / "run")
    disk.write_json(
        tmp_path / "run" / "args.json",
        {"quant": "nf4", "dtype": "float32", "prompt_template": "none", "data": "count"},
    )
    export(tmp_path / "run", tmp_path / "out")
    assert 1e-4 < export_gap(tmp_path / "run", tmp_path / "out", torch.bfloat16, "nf4") < 1
    stock = stock_model(tmp_path / "out")
    assert {p.dtype for p in stock.parameters()} == {torch.bfloat16} and not any(
        "lora" in n for n in stock.state_dict()
    )
    # exactly W + B A alpha / r of the unquantised base, cast last
    base, state, run = (
        stock_model(published, dtype=torch.float32).state_dict(),
        stock.state_dict(),
        dict(policy.named_parameters()),
    )
    for i in range(2):
        for p in PROJECTIONS:
            name = f"model.language_model.layers.{i}.{p}"
            A, B = (
                run[f"base_model.model.{name}.lora_{ab}.default.weight"].detach() for ab in "AB"
            )
            merged = base[f"{name}.weight"] + 2 * B @ A
            assert (
                state[f"{name}.weight"].float() - merged
            ).abs().max() <= merged.abs().max() * 2**-8
    assert json.loads((tmp_path / "out" / "args.json").read_text())["prompt_template"] == "none"
    with pytest.raises(UserError, match="not empty"):
        export(tmp_path / "run", tmp_path / "out")


def test_describe_and_parser(published):
    assert "M parameters, 0.00 M trained, float32 on cpu" in modeling.describe(
        modeling.load(str(published))[0]
    )
    with pytest.raises(SystemExit):
        modeling.parse_args(["export", "--model", str(published)])


# ------------------------------------------------------------------------------------------------------------------ the reference policy


def reference_of(policy, model, seed=0):
    return modeling.Reference(policy, str(model), seed)


def reference_logps(reference, batch):
    with reference as frozen, torch.no_grad():
        return token_logps(frozen, batch)


@pytest.mark.parametrize("kind", ["fresh", "continued", "full"])
def test_reference_is_the_policy_that_training_started_from(kind, published, adapter, capsys):
    """A continued LoRA's reference is that adapter, not the base beneath it (with the adapter off, KL starts far from 0); and PEFT's
    set_adapter flips requires_grad, after which nothing would learn."""
    source = adapter if kind == "continued" else published
    policy, processor = modeling.load(str(source), train=flags(lora_r=0 if kind == "full" else 4))
    reference = reference_of(policy, source)
    trains = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert trains and not any(".reference." in n for n in trains)
    batch = batch_of(
        processor,
        checkpoints.prompts_of(processor, slice(4, 8)),
        responses_of(processor, [3, 6, 2, 5]),
    )
    logps = lambda: token_logps(policy, batch).detach()
    start, at_start = logps(), reference_logps(reference, batch)
    assert torch.equal(start, at_start)  # KL is exactly 0
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == trains
    if kind == "continued":
        base, _ = modeling.load(str(published))
        with torch.no_grad():
            assert (token_logps(base, batch) - at_start).abs().max() > 1e-2
    train_steps(policy, processor, steps=2)
    assert (logps() - start).abs().max() > 1e-2  # the policy has moved,
    assert torch.equal(reference_logps(reference, batch), at_start)  # the reference has not,
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == trains
    moved = logps()
    try:  # not even after an error inside
        with reference:
            raise KeyError
    except KeyError:
        pass
    assert (
        torch.equal(logps(), moved)
        and {n for n, p in policy.named_parameters() if p.requires_grad} == trains
    )
    assert ("frozen copy" in capsys.readouterr().out) == (kind == "full")


def test_saving_beside_a_reference_writes_the_trained_adapter_alone(adapter, tmp_path):
    policy, processor = modeling.load(str(adapter), train=flags(lora_r=4))
    reference_of(policy, adapter)
    train_steps(policy, processor, steps=1)
    modeling.save(policy, processor, tmp_path / "out")
    again, _ = modeling.load(str(tmp_path / "out"))
    assert not (tmp_path / "out" / "reference").exists()
    assert torch.equal(logits_of(again, processor), logits_of(policy, processor))


# ------------------------------------------------------------------------------------------------------------------ what goes wrong


def broken(published, tmp_path, **edits):
    """A copy of the checkpoint with config.json edited."""
    shutil.copytree(published, tmp_path / "bad")
    config = json.loads((tmp_path / "bad" / "config.json").read_text())
    (tmp_path / "bad" / "config.json").write_text(json.dumps(config | edits))
    return tmp_path / "bad"


def refuses(directory, *words, **options):
    """One sentence that names the file (or flag) and what to do about it."""
    with pytest.raises(UserError) as caught:
        modeling.load(str(directory), **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_a_known_family(published, tmp_path):
    refuses(
        broken(published, tmp_path, model_type="llava"),
        "config.json",
        "llava",
        "name a checkpoint of qwen2_vl (Qwen2-VL)",
        "fetch the checkpoint again",  # where the word is damaged
    )


def test_broken_config(published, tmp_path):
    bad = broken(published, tmp_path)
    (bad / "config.json").write_text("{")
    refuses(bad, "config.json", "fetch")


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_missing_weights_file(quant, published, tmp_path):
    bad = broken(published, tmp_path)
    sorted(bad.glob("*.safetensors"))[1].unlink()
    refuses(bad, str(bad), "fetch", quant=quant, train=flags(lora_r=4))


@pytest.mark.parametrize("keep", [0, 5, 4000, 0.7])
def test_truncated_safetensors(keep, published, tmp_path):
    bad = broken(published, tmp_path)
    part = sorted(bad.glob("*.safetensors"))[1]
    content = part.read_bytes()
    part.write_bytes(content[: int(keep * len(content)) if keep == 0.7 else keep])
    refuses(bad, str(bad), "fetch")


def test_no_weights_at_all(published, tmp_path):
    bad = broken(published, tmp_path)
    for file in bad.glob("model*"):
        file.unlink()
    refuses(bad, str(bad), "fetch")


def test_weights_of_another_size_or_missing_from_the_files(published, untied, tmp_path):
    refuses(broken(published, tmp_path / "a", intermediate_size=320), "wrong shape", "fetch")
    refuses(broken(published, tmp_path / "b", num_hidden_layers=3), "missing", "layers.2", "fetch")
    refuses(broken(published, tmp_path / "c", tie_word_embeddings=False), "lm_head.weight", "fetch")


def test_tokenizer_missing_or_broken_or_of_another_family(published, tmp_path):
    bad = broken(published, tmp_path / "a")
    for name in ("tokenizer.json", "vocab.json"):
        (bad / name).unlink()
    refuses(bad, "tokenizer.json", "copy")
    bad = broken(published, tmp_path / "b")
    (bad / "tokenizer.json").write_text((bad / "tokenizer.json").read_text()[:5000])
    refuses(bad, str(bad), "fetch")
    bad = broken(published, tmp_path / "c")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bad / name).write_text((bad / name).read_text().replace("<|image_pad|>", "<image>"))
    refuses(bad, "<|image_pad|>", "Qwen2-VL")


def test_no_such_directory(tmp_path):
    refuses(tmp_path / "nothing", "nothing", "no such directory", "tiny")
    for name in ("./runs/x", "runs/x", "x", "a/b/c"):
        refuses(name, name, "no such directory")
    refuses(tmp_path, str(tmp_path), "config.json")
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "state.pt").touch()
    refuses(tmp_path, "did you mean", "checkpoint-4")


def test_a_model_of_ours_that_has_lost_a_file_is_known(tmp_path):
    """Not "no Hugging Face checkpoint": the checkpoint beside it is named."""
    out = tmp_path / "run"
    log = SimpleNamespace(lines=[])
    out.mkdir()
    policy, processor = modeling.load("tiny", seed=0)
    args = argparse.Namespace(output_dir=str(out))

    def save(folder):
        modeling.save(policy, processor, folder)
        write_args(folder, args)

    rundir.save_checkpoint(out, 1, save, {}, log, 1)
    rundir.publish(out, save)
    (out / "config.json").unlink()
    whole = f"{out}/checkpoint-1 is whole: name that"
    refuses(out, f"{out}/config.json", whole)
    with pytest.raises(UserError, match=re.escape(whole)):
        locate(str(out), weights=False)


def test_hub_name_that_cannot_be_fetched(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise ConnectionError("no network here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refuses("someone/no-such-model", "someone/no-such-model", "check the name")


def adapter_with(adapter, tmp_path, **edits):
    shutil.copytree(adapter, tmp_path / "edited")
    file = tmp_path / "edited" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edits))
    return tmp_path / "edited"


def test_adapter_without_its_base(adapter, tmp_path):
    refuses(
        adapter_with(adapter, tmp_path / "a", base_model_name_or_path=str(tmp_path / "gone")),
        "adapter_config.json",
        "gone",
        "base_model_name_or_path",
    )
    refuses(
        adapter_with(adapter, tmp_path / "b", base_model_name_or_path=None),
        "adapter_config.json",
        "base_model_name_or_path",
    )
    refuses(
        adapter_with(adapter, tmp_path / "c", base_model_name_or_path=str(adapter)),
        "itself an adapter",
        "export",
    )


def test_adapter_of_another_size(adapter, tmp_path, tmp_path_factory):
    other = checkpoints.write_2024(tmp_path / "wide", "tiny", dtype=torch.float32)
    config = json.loads((other / "config.json").read_text())
    text = {k: config[k] for k in checkpoints.TEXT} | {"intermediate_size": 320}
    for file in other.glob("model*"):
        file.unlink()
    checkpoints.write_weights(
        other, checkpoints.weights(text, (2, 64, 4), 0, torch.float32, 0.06), 0
    )
    (other / "config.json").write_text(json.dumps(config | text))
    refuses(
        adapter_with(adapter, tmp_path, base_model_name_or_path=str(other)),
        "edited",
        "does not fit",
        "base_model_name_or_path",
    )


def test_adapter_under_the_names_of_transformers_4_is_not_silently_ignored(adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    old = adapter_with(adapter, tmp_path)
    file = old / "adapter_model.safetensors"
    save_file(
        {k.replace("model.language_model.", "model."): v for k, v in load_file(file).items()}, file
    )
    refuses(old, "edited", "does not fit")


def test_adapter_weights_missing_or_truncated(adapter, tmp_path):
    bad = adapter_with(adapter, tmp_path / "a")
    (bad / "adapter_model.safetensors").write_bytes(
        (bad / "adapter_model.safetensors").read_bytes()[:3000]
    )
    refuses(bad, str(bad))
    bad = adapter_with(adapter, tmp_path / "b")
    (bad / "adapter_model.safetensors").unlink()
    refuses(bad, str(bad))


def test_another_rank_than_the_adapters(adapter):
    refuses(adapter, "--lora-r 8", "rank 4", "export", train=flags(lora_r=8))


def test_everything_frozen(published):
    refuses(
        published,
        "--freeze-vision",
        "--freeze-merger",
        "--freeze-llm",
        train=flags(freeze_vision=True, freeze_merger=True, freeze_llm=True),
    )


def test_smallest_picture_above_the_largest(published):
    refuses(published, "--min-pixels", "--max-pixels", min_pixels=10**6, max_pixels=10**5)


# --- somebody else's checkpoint ---

NONSENSE = [[], [1, "x"], {}, {"a": [1]}, "x", "", 0, -1, 10**9, float("nan"), 0.5, True]
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


def set_in(file, path, value):
    """Write `value` at a dotted path of a JSON file."""
    whole = json.loads(file.read_text())
    part = whole
    *outer, last = path.split(".")
    for key in outer:
        part = part[key]
    part[last] = value
    file.write_text(json.dumps(whole))


def copy_of(checkpoint, directory):
    shutil.copytree(checkpoint, directory)
    return directory


def refused(directory):
    """The sentence that refuses a checkpoint, from everything that is read before its weights."""
    with pytest.raises(UserError) as caught:
        base, found = locate(str(directory))
        if found:
            checkpoint_files.check_adapter(found, base)
        checkpoint_files.check_model(base)
        load_processor(base)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def no_weights_are_read(monkeypatch):
    monkeypatch.setattr(
        modeling, "from_pretrained", lambda *_, **__: pytest.fail("memory was taken")
    )


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "preprocessor_config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
    ],
)
def test_a_file_that_is_no_object_is_named(name, published, tmp_path):
    whole = (published / name).read_text()
    for i, content in enumerate(
        [
            "[]",
            "5",
            "null",
            '"x"',
            "true",
            "",
            whole[: len(whole) // 2],
            "[" * 100_000,
            '{"a": ' + "9" * 5000,
        ]
    ):
        bad = copy_of(published, tmp_path / str(i))
        (bad / name).write_text(content)
        assert str(bad) in refused(bad)


@pytest.mark.parametrize("nested", [False, True])
def test_sizes_that_are_none_or_do_not_fit_the_weights(nested, published, tmp_path, monkeypatch):
    no_weights_are_read(monkeypatch)
    whole = copy_of(published, tmp_path / "whole")
    if nested:
        config = json.loads((whole / "config.json").read_text())
        moved = {
            key: config.pop(key)
            for key in list(config)
            if key in SIZES or key.startswith(("rope_", "max_position", "rms"))
        }
        (whole / "config.json").write_text(json.dumps(config | {"text_config": moved}))
    checkpoint_files.check_model(whole)
    under = "text_config." if nested else ""
    fields = [
        *(under + size for size in SIZES),
        "vision_config.depth",
        "vision_config.embed_dim",
        "vision_config.patch_size",
        "vision_config.mlp_ratio",
    ]
    good = (whole / "config.json").read_text()
    for field in fields:
        for value in [*NONSENSE, 3]:
            set_in(whole / "config.json", field, value)
            with pytest.raises(UserError, match="config.json"):
                modeling.load(str(whole))
            (whole / "config.json").write_text(good)
    for value in (None, [], 5):  # null: transformers takes the sizes of the 72B
        if nested or value is not None:
            set_in(whole / "config.json", "text_config", value)
            assert "config.json" in refused(whole)
            (whole / "config.json").write_text(good)


def test_pictures_must_be_prepared_as_the_model_takes_them(published, tmp_path):
    bad = copy_of(published, tmp_path / "bad")
    file = bad / "preprocessor_config.json"
    good = file.read_text()
    for field in (
        "patch_size",
        "merge_size",
        "temporal_patch_size",
        "image_std",
        "image_mean",
        "rescale_factor",
        "resample",
        "do_normalize",
    ):
        wrong = (
            [-1, 0] if field == "image_std" else [[0, 0]] if field == "image_mean" else [-1, 10**9]
        )
        for value in [[], {}, "x", "", float("nan"), 10**400, *wrong]:
            set_in(file, field, value)
            assert field in refused(bad)
            file.write_text(good)
    for field, value in (
        ("patch_size", None),
        ("size", "x"),
        ("max_pixels", "x"),
        ("do_resize", None),
        ("rescale_factor", 1.0),
        ("image_mean", [0.5] * 3),
    ):
        set_in(file, field, value)
        load_processor(bad)
        file.write_text(good)


TEMPLATES = {
    "loop": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "a second|1 s of CPU",
    ),
    "memory": (
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "512 MB",
    ),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself"),
    "raises": ("{{ raise_exception('no') }}", "no"),
    "divides": ("{{ 1 // 0 }}", "zero"),
    "syntax": ("{% for", "unexpected"),
    "number": (5, "not a text"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_chat_template_that_does_not_end_or_fails(kind, published, tmp_path):
    template, words = TEMPLATES[kind]
    bad = copy_of(published, tmp_path / "bad")
    set_in(bad / "tokenizer_config.json", "chat_template", template)
    sentence = refused(bad)
    assert "tokenizer_config.json" in sentence and re.search(words, sentence)


@pytest.mark.parametrize(
    "old, new, placed",
    [("<|image_pad|>", "", 0), ("<|image_pad|>", "<|image_pad|><|image_pad|>", 2)],
)
def test_chat_template_places_each_picture_once(old, new, placed, published, tmp_path):
    bad = copy_of(published, tmp_path / "bad")
    set_in(
        bad / "tokenizer_config.json", "chat_template", checkpoints.CHAT_TEMPLATE.replace(old, new)
    )
    processor = load_processor(bad)
    data.Asker(processor, "none").prompt(Example("", [], "How many?", "2"))  # text needs no picture
    with pytest.raises(UserError, match=f"placed {placed} images, not 1"):
        checkpoints.prompts_of(processor, slice(1))


def test_pickles_run_no_code(published, tmp_path):
    from safetensors.torch import load_file

    bad = copy_of(published, tmp_path / "bad")
    weights = {}
    for file in bad.glob("model*"):
        weights |= load_file(file) if file.suffix == ".safetensors" else {}
        file.unlink()

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    for content in ({"a": Evil()}, [1], "x"):
        torch.save(content, bad / "pytorch_model.bin")
        assert "pytorch_model.bin" in refused(bad) and not (tmp_path / "ran").exists()
    torch.save(weights, bad / "pytorch_model.bin")
    assert modeling.load(str(bad))


def test_shards_lie_beside_their_index_and_are_whole(published, tmp_path):
    bad = copy_of(published, tmp_path / "bad")
    index = bad / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    first = next(iter(good["weight_map"]))
    for file in (
        f"../{published.name}/x.safetensors",
        str(published / "x.safetensors"),
        "gone.safetensors",
        ".",
        "",
        5,
        None,
        [],
    ):
        index.write_text(json.dumps(good | {"weight_map": good["weight_map"] | {first: file}}))
        assert "index.json" in refused(bad)
    index.write_text(json.dumps(good))
    shard = sorted(bad.glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    for content in (
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        b"version https://git-lfs.github.com/spec/v1",
        whole[:-10],
        whole + b"0",
        whole.replace(b'"F32"', b'"I32"', 1),
    ):
        shard.write_bytes(content)
        assert str(bad) in refused(bad)


def test_adapter_config_is_checked_before_the_base_is_read(adapter, tmp_path, monkeypatch):
    no_weights_are_read(monkeypatch)
    bad = copy_of(adapter, tmp_path / "bad")
    file = bad / "adapter_config.json"
    good = file.read_text()
    cases = [
        (field, value)
        for field in ("r", "target_modules", "base_model_name_or_path", "peft_type")
        for value in ({}, {"a": 1}, 5.5, -1, 0, True, "", None)
    ]
    cases += [
        ("r", 8),
        ("r", 10**8),
        ("lora_alpha", 0),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 1),
        ("peft_type", "PREFIX_TUNING"),
        ("target_modules", "("),
        ("target_modules", r"(\w+\.?)+#"),
        ("target_modules", [1]),
        ("rank_pattern", {"(": 4}),
        ("base_model_name_or_path", "a\0b"),
        ("base_model_name_or_path", "/" + "a" * 5000),
    ]
    for field, value in cases:
        set_in(file, field, value)
        with pytest.raises(UserError, match="adapter_config.json"):
            modeling.load(str(bad))
        file.write_text(good)


def test_adapter_that_places_other_modules_than_it_has_weights_for(adapter, tmp_path):
    for i, modules in enumerate((["no_such"], ["q_proj"], "nothing")):
        refuses(adapter_with(adapter, tmp_path / str(i), target_modules=modules), "adapter")


def test_adapter_that_names_itself_or_another_adapter(adapter, tmp_path):
    one = adapter_with(adapter, tmp_path / "one")
    two = adapter_with(adapter, tmp_path / "two", base_model_name_or_path=str(one))
    for base in (one, two):
        set_in(one / "adapter_config.json", "base_model_name_or_path", str(base))
        refuses(one, "itself an adapter", "base_model_name_or_path")


@pytest.mark.parametrize(
    "field, values",
    [
        ("max_pixels", ["x", [1], 0, 1.5]),
        ("quant", ["int3", 4, ["nf4"]]),
        ("prompt_template", [["r1v"], 5, {}]),
        ("system_prompt", [5, ["a"]]),
        ("box_format", ["x", [1]]),
    ],
)
def test_args_json_of_another_type(field, values, published, tmp_path):
    ask = lambda: data.ask_as_trained(
        SimpleNamespace(model=str(tmp_path), prompt_template=None, system_prompt=None)
    )
    for value in values:
        (tmp_path / "args.json").write_text(json.dumps({field: value}))
        with pytest.raises(UserError, match=f"args.json: {field}"):
            ask()
    for content in ("[]", "5", "{"):
        (tmp_path / "args.json").write_text(content)
        with pytest.raises(UserError, match="args.json"):
            ask()
    (tmp_path / "args.json").write_text(json.dumps({field: None, "of_somebody_else": [1]}))
    ask()


def test_a_run_does_not_write_over_what_it_reads(published, adapter, tmp_path):
    (tmp_path / "link").symlink_to(published)

    def check(out, model, reward_funcs=()):
        must_not_overwrite(str(out), str(model), reward_funcs)

    for out, model in (
        (published, published),
        (tmp_path / "link", published),
        (published.parent, published),
        (published, adapter),
        (adapter, adapter),
    ):
        with pytest.raises(UserError, match="--output-dir"):
            check(out, model)
    with pytest.raises(UserError, match="--reward-funcs"):
        check(adapter, published, reward_funcs=["accuracy", str(adapter)])
    check(published / "sub", published)
    check(tmp_path / "new", adapter, reward_funcs=["accuracy"])
    check(tmp_path, "tiny")


# ------------------------------------------------------------------------------------------------------------------ the command line


def command_line(*words):
    parser = Parser("")
    add_model_flags(parser)
    add_training_flags(parser)
    add_optimization_flags(parser, "peak learning rate")
    parser.add_argument("--batch-size", type=int, default=8)
    return parser.parse_args([str(w) for w in words])


def load_as_main_does(args, **options):
    """Resolve the flags of a training script, store what was decided, and load."""
    vars(args).update(modeling.resolve(args, train=True, **options))
    return modeling.load_from_args(args, train=True)


def test_untrained_tiny_is_refused_where_a_trained_model_is_needed():
    with pytest.raises(UserError, match="python train_sft.py --model tiny"):
        modeling.resolve(command_line("--model", "tiny"), needs_training="RL needs a start")


def test_flags_decide_rank_and_quantisation(published, adapter, tmp_path):
    args = command_line("--model", published, "--quant", "nf4")
    policy, _ = load_as_main_does(args)
    assert (
        args.lora_r == 16 == policy.peft_config["default"].r
        and args.dtype == "float32"
        and args.device == "cpu"
    )
    args = command_line("--model", published)
    assert not hasattr(load_as_main_does(args)[0], "peft_config") and (
        args.lora_r,
        args.quant,
    ) == (0, "none")
    run = adapter_with(adapter, tmp_path)
    disk.write_json(run / "args.json", {"quant": "nf4"})
    args = command_line("--model", run)
    policy, _ = load_as_main_does(args)
    assert (args.lora_r, args.quant) == (4, "nf4") and any(
        isinstance(m, bitsandbytes.nn.Linear4bit) for m in policy.modules()
    )
    with pytest.raises(UserError, match="--lora-r 0"):
        modeling.resolve(
            command_line("--model", published, "--lora-r", "4", "--freeze-vision"), train=True
        )


def test_lora_on_the_untrained_preset_can_be_loaded_again_or_is_refused(tmp_path):
    """Its weights come from a seed and lie in no directory: an adapter on them would name no base."""
    with pytest.raises(UserError, match="--lora-r 0"):
        modeling.resolve(command_line("--model", "tiny", "--lora-r", "4"), train=True)


# ------------------------------------------------------------------------------------------------------ a model as reward


@pytest.fixture(scope="module")
def reward_checkpoint(tmp_path_factory):
    """A random sequence classifier with one output and a tokenizer that is not the policy's: words, no chat template, as old reward models have."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPTNeoXConfig,
        GPTNeoXForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    directory = tmp_path_factory.mktemp("reward_model")
    words = {
        word: i
        for i, word in enumerate(["<unk>", "<end>", "how", "many", "three", "four", "so", "wait"])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>", model_max_length=64
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    GPTNeoXForSequenceClassification(config).save_pretrained(directory)
    return directory


def test_reward_model_scores_each_text_as_if_it_were_alone(reward_checkpoint):
    """Ragged texts in one padded batch against each of them by itself, through transformers' own classes."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    questions, answers = (
        ["how many", "how", "how many many many"],
        ["three", "wait wait so four so three", "four"],
    )
    judge = judges.RewardModel(str(reward_checkpoint))
    scores = judge.score(questions, answers)
    tokenizer, plain = (
        AutoTokenizer.from_pretrained(reward_checkpoint),
        AutoModelForSequenceClassification.from_pretrained(reward_checkpoint).eval(),
    )
    plain.config.pad_token_id = 1
    alone = [
        plain(**tokenizer(f"{q}\n{a}", return_tensors="pt", return_token_type_ids=False))
        .logits[0, 0]
        .item()
        for q, a in zip(questions, answers)
    ]
    assert all(type(s) is float for s in scores) and len(set(scores)) == 3
    assert scores == pytest.approx(alone, abs=1e-5)
    assert judge.score(questions, answers, batch_size=1) == pytest.approx(scores, abs=1e-5)


def test_reward_model_reads_a_conversation_if_its_tokenizer_has_a_template(reward_checkpoint):
    judge = judges.RewardModel(str(reward_checkpoint))
    plain = judge.score(["how many"], ["three"])
    judge.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} so {% endfor %}"
    spelled = judges.RewardModel(str(reward_checkpoint)).score(["how many so"], ["three so"])
    assert judge.score(["how many"], ["three"]) == pytest.approx(
        spelled, abs=1e-5
    ) and spelled != pytest.approx(plain, abs=1e-3)


def test_reward_model_keeps_the_end_of_a_text_that_is_too_long(reward_checkpoint):
    judge = judges.RewardModel(str(reward_checkpoint))
    start = judge.score(["how"], ["so " * 200 + "three"])
    assert start == pytest.approx(
        judge.score(["many"], ["so " * 500 + "three"]), abs=1e-5
    ) and start != pytest.approx(judge.score(["how"], ["so " * 200 + "four"]), abs=1e-3)


def test_what_is_no_reward_model_is_refused_with_a_sentence(reward_checkpoint, tmp_path):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXForSequenceClassification

    with pytest.raises(UserError, match="cannot be loaded"):
        judges.RewardModel(str(tmp_path / "nothing"))
    shutil.copytree(reward_checkpoint, tmp_path / "two")
    config = GPTNeoXConfig.from_pretrained(
        reward_checkpoint, num_labels=2, id2label={0: "a", 1: "b"}
    )
    GPTNeoXForSequenceClassification(config).save_pretrained(tmp_path / "two")
    with pytest.raises(UserError, match="2 outputs"):
        judges.RewardModel(str(tmp_path / "two"))
    shutil.copytree(reward_checkpoint, tmp_path / "language")
    GPTNeoXForCausalLM(
        GPTNeoXConfig.from_pretrained(reward_checkpoint, num_labels=1)
    ).save_pretrained(tmp_path / "language")
    with pytest.raises(UserError, match="score.weight"):
        judges.RewardModel(str(tmp_path / "language"))


def test_reward_model_whose_template_does_not_end_or_that_has_no_end_of_text(
    reward_checkpoint, tmp_path
):
    for i, (field, value) in enumerate(
        (
            ("chat_template", TEMPLATES["loop"][0]),
            ("chat_template", "{{ 1 // 0 }}"),
            ("eos_token", None),
        )
    ):
        bad = copy_of(reward_checkpoint, tmp_path / str(i))
        set_in(bad / "tokenizer_config.json", field, value)
        with pytest.raises(UserError, match="--reward-funcs"):
            judges.RewardModel(str(bad))


def test_a_name_is_a_checkpoint_if_it_looks_like_one(tmp_path):
    assert (
        judges.names_checkpoint("owner/model")
        and judges.names_checkpoint(str(tmp_path))
        and not judges.names_checkpoint("acuracy")
    )
