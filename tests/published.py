"""Write checkpoints of every family in the layout published on the hub, tiny, random weights.

    write("somewhere", "qwen2_vl")       of 2024, see checkpoints.py
    write("somewhere", "qwen2_5_vl")     of 2025: still a flat config.json; a tower with gates
    write("somewhere", "qwen3_vl")       of 2025: a nested config.json, today's names of weights
    write("somewhere", "qwen3_vl_moe")   the same with experts, which are stored transposed

As in checkpoints.py, nothing here uses transformers' own classes. today() says
where transformers 5 puts each weight, spelt out here too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import checkpoints
import torch

Shapes = dict[str, tuple[int, ...]]


class Layout(NamedTuple):
    """How a family's checkpoints are published."""

    config: dict  # config.json, but for what every size and tokenizer has of its own
    text: dict | None  # its text_config likewise; None: config.json is flat
    vision: dict  # its vision_config
    preprocessor: dict  # what preprocessor_config.json says otherwise than in 2024
    chat_template: str
    shapes: object  # (text, vision) -> Shapes


# The tiny size, as every family's text_config has it.
TEXT = dict(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    """Return the shapes of a linear layer."""
    found = {f"{name}.weight": (out, into)}
    return found | {f"{name}.bias": (out,)} if bias else found


def under(prefix: str, shapes: Shapes) -> Shapes:
    """Put a prefix before every name."""
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


# --- Qwen2.5-VL ---


def shapes_2_5(text: dict, vision: dict) -> Shapes:
    """List the published names: those of 2024 outside the tower."""
    W, I, D = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"]
    block = {"norm1.weight": (W,), "norm2.weight": (W,)}
    block |= linear("attn.qkv", 3 * W, W) | linear("attn.proj", W, W)
    block |= linear("mlp.gate_proj", I, W) | linear("mlp.up_proj", I, W)
    block |= linear("mlp.down_proj", W, I)
    found = {"visual.patch_embed.proj.weight": (W, 3, 2, 14, 14)}
    for i in range(vision["depth"]):
        found |= under(f"visual.blocks.{i}", block)
    merger = {"ln_q.weight": (W,)}
    merger |= linear("mlp.0", 4 * W, 4 * W) | linear("mlp.2", D, 4 * W)
    found |= under("visual.merger", merger)
    of_2024 = checkpoints.shapes(text, (0, W, 4))
    return found | {name: shape for name, shape in of_2024.items() if "visual" not in name}


QWEN2_5 = Layout(
    config={
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "max_position_embeddings": 128000,
    },
    text=None,
    vision={
        "depth": 2,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 144,
        "num_heads": 4,
        "in_chans": 3,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    preprocessor={
        "image_processor_type": "Qwen2_5_VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    },
    chat_template=checkpoints.CHAT_TEMPLATE,
    shapes=shapes_2_5,
)

# --- Qwen3-VL ---


def merger_3(W: int, D: int, width: int) -> Shapes:
    """List a merger's weights; its norm is of one patch, or of the patches of a token."""
    found = {"norm.weight": (width,), "norm.bias": (width,)}
    return found | linear("linear_fc1", 4 * W, 4 * W) | linear("linear_fc2", D, 4 * W)


def shapes_3(text: dict, vision: dict) -> Shapes:
    """List the published names, which are today's."""
    W, I, D = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"]
    block = {f"norm{n}.{part}": (W,) for n in (1, 2) for part in ("weight", "bias")}
    block |= linear("attn.qkv", 3 * W, W) | linear("attn.proj", W, W)
    block |= linear("mlp.linear_fc1", I, W) | linear("mlp.linear_fc2", W, I)
    tower = {"patch_embed.proj.weight": (W, 3, 2, 16, 16), "patch_embed.proj.bias": (W,)}
    tower["pos_embed.weight"] = (vision["num_position_embeddings"], W)
    for i in range(vision["depth"]):
        tower |= under(f"blocks.{i}", block)
    tower |= under("merger", merger_3(W, D, W))
    for i in range(len(vision["deepstack_visual_indexes"])):
        tower |= under(f"deepstack_merger_list.{i}", merger_3(W, D, 4 * W))
    found = under("model.visual", tower) | under("model.language_model", text_3(text))
    if not text["tie_word_embeddings"]:
        found["lm_head.weight"] = (text["vocab_size"], D)
    return found


def text_3(text: dict) -> Shapes:
    """List the weights of a Qwen3: no biases, norms of a head's query and key."""
    D, I, K = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    q, kv = K * text["num_attention_heads"], K * text["num_key_value_heads"]
    layer = {"input_layernorm.weight": (D,), "post_attention_layernorm.weight": (D,)}
    layer |= linear("self_attn.q_proj", q, D, bias=False)
    layer |= linear("self_attn.k_proj", kv, D, bias=False)
    layer |= linear("self_attn.v_proj", kv, D, bias=False)
    layer |= linear("self_attn.o_proj", D, q, bias=False)
    layer |= {"self_attn.q_norm.weight": (K,), "self_attn.k_norm.weight": (K,)}
    layer |= linear("mlp.gate_proj", I, D, bias=False) | linear("mlp.up_proj", I, D, bias=False)
    layer |= linear("mlp.down_proj", D, I, bias=False)
    found = {"embed_tokens.weight": (text["vocab_size"], D), "norm.weight": (D,)}
    for i in range(text["num_hidden_layers"]):
        found |= under(f"layers.{i}", layer)
    return found


QWEN3 = Layout(
    config={
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
    },
    text={
        "model_type": "qwen3_vl_text",
        "attention_bias": False,
        "head_dim": 48,  # not hidden_size / num_attention_heads
        "max_position_embeddings": 262144,
        "num_hidden_layers": 3,  # behind the last, a deepstack map would reach nothing
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [10, 7, 7],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
    },
    vision={
        "deepstack_visual_indexes": [0, 1],
        "depth": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 144,
        "model_type": "qwen3_vl",
        "num_heads": 4,
        "num_position_embeddings": 36,
        "out_hidden_size": 128,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    preprocessor={
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
    },
    # The published one takes tools and videos, too.
    chat_template=(
        "{%- if messages[0].role == 'system' %}"
        "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}"
        "{%- for message in messages %}{%- if message.role == 'user' %}"
        "{{- '<|im_start|>' + message.role + '\n' }}"
        "{%- if message.content is string %}{{- message.content }}"
        "{%- else %}{%- for content in message.content %}"
        "{%- if content.type == 'image' or 'image' in content or 'image_url' in content %}"
        "<|vision_start|><|image_pad|><|vision_end|>"
        "{%- elif 'text' in content %}{{- content.text }}{%- endif %}{%- endfor %}{%- endif %}"
        "{{- '<|im_end|>\n' }}{%- elif message.role == 'assistant' %}"
        "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    ),
    shapes=shapes_3,
)

# --- Qwen3-VL with experts ---


def shapes_moe(text: dict, vision: dict) -> Shapes:
    """List the published names: two weights of three dimensions in place of each layer's MLP."""
    D, E, I = text["hidden_size"], text["num_experts"], text["moe_intermediate_size"]
    experts = {"gate.weight": (E, D)}
    experts |= {"experts.gate_up_proj": (E, D, 2 * I), "experts.down_proj": (E, I, D)}
    found = {
        n: s for n, s in shapes_3(text, vision).items() if "_model" not in n or ".mlp." not in n
    }
    for i in range(text["num_hidden_layers"]):
        found |= under(f"model.language_model.layers.{i}.mlp", experts)
    return found


QWEN3_MOE = QWEN3._replace(
    config={
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "model_type": "qwen3_vl_moe",
    },
    text=QWEN3.text
    | {
        "model_type": "qwen3_vl_moe_text",
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    vision=QWEN3.vision | {"model_type": "qwen3_vl_moe"},
    shapes=shapes_moe,
)

# --- all ---

LAYOUTS = {"qwen2_5_vl": QWEN2_5, "qwen3_vl": QWEN3, "qwen3_vl_moe": QWEN3_MOE}


# --- real sizes ---


class Size(NamedTuple):
    """A published model: how its text_config and vision_config differ from the tiny ones."""

    model_type: str
    tied: bool
    text: dict
    vision: dict


def words(layers: int, D: int, I: int, heads: tuple[int, int], V: int, **more: int) -> dict:
    """Make the sizes of a language model. heads: of queries, of keys and values."""
    sizes = dict(num_hidden_layers=layers, hidden_size=D, intermediate_size=I, vocab_size=V)
    return sizes | dict(num_attention_heads=heads[0], num_key_value_heads=heads[1]) | more


OF_2_5 = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, window_size=112)
OF_2_5["fullatt_block_indexes"] = [7, 15, 23, 31]
SMALL_3 = dict(depth=24, hidden_size=1024, intermediate_size=4096, num_heads=16)
SMALL_3 |= dict(num_position_embeddings=2304, deepstack_visual_indexes=[5, 11, 17])
LARGE_3 = dict(depth=27, hidden_size=1152, intermediate_size=4304, num_heads=16)
LARGE_3 |= dict(num_position_embeddings=2304, deepstack_visual_indexes=[8, 16, 24])
HEAD = {"head_dim": 128}
EXPERTS = HEAD | dict(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768)
SIZES = {
    "2.5-3B": Size("qwen2_5_vl", True, words(36, 2048, 11008, (16, 2), 151936), OF_2_5),
    "2.5-7B": Size("qwen2_5_vl", False, words(28, 3584, 18944, (28, 4), 152064), OF_2_5),
    "3-2B": Size("qwen3_vl", True, words(28, 2048, 6144, (16, 8), 151936, **HEAD), SMALL_3),
    "3-4B": Size("qwen3_vl", True, words(36, 2560, 9728, (32, 8), 151936, **HEAD), SMALL_3),
    "3-8B": Size("qwen3_vl", False, words(36, 4096, 12288, (32, 8), 151936, **HEAD), LARGE_3),
    "3-30B-A3B": Size(
        "qwen3_vl_moe", False, words(48, 2048, 6144, (32, 4), 151936, **EXPERTS), LARGE_3
    ),
}
SECTIONS = {"qwen2_5_vl": [16, 24, 24]}
FIRST = 151643  # the id of the first special token in every published size


def real(name: str, layers: int | None = None) -> tuple[dict, Shapes]:
    """Return config.json of a published model, and the shapes of its weights.

    layers: how many its language model has instead.
    """
    model_type, tied, text, vision = SIZES[name]
    if layers:
        text = text | {"num_hidden_layers": layers}
    layout = LAYOUTS[model_type]
    vision = layout.vision | vision | {"out_hidden_size": text["hidden_size"]}
    sections = {"mrope_section": SECTIONS.get(model_type, [24, 20, 20])}
    if layout.text:
        rope = layout.text["rope_scaling"] | sections
        layout = layout._replace(text=layout.text | text | {"rope_scaling": rope})
    text = text | {"tie_word_embeddings": tied}
    ids = special_from(FIRST)
    config = config_of(layout._replace(vision=vision), text, ids, torch.bfloat16)
    if not layout.text:
        config["rope_scaling"] |= sections
    return config, layout.shapes(text, vision)


def write(
    directory: str | Path,
    model_type: str,
    tied: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 0.06,
) -> Path:
    """Write a tiny checkpoint in several files, and return its directory. scale: of the weights."""
    directory = Path(directory)
    if model_type == "qwen2_vl":
        size = "tiny" if tied else "tiny-untied"
        return checkpoints.write_2024(directory, size, seed, dtype, scale=scale)
    layout = LAYOUTS[model_type]
    directory.mkdir(parents=True, exist_ok=True)
    words = checkpoints.learned_words()
    first = len(words["vocab"])
    ids = special_from(first)
    text = text_of(layout, tied)
    checkpoints.write_tokenizer(directory, words, first, layout.chat_template)
    config = config_of(layout, text, ids, dtype)
    preprocessor = checkpoints.PREPROCESSOR | layout.preprocessor
    checkpoints.write_json(directory / "config.json", config, 2)
    checkpoints.write_json(directory / "preprocessor_config.json", preprocessor, 2)
    generation = checkpoints.generation_config(ids, 0.1)
    checkpoints.write_json(directory / "generation_config.json", generation, 2)
    named = weights(model_type, tied, seed, dtype, scale)
    checkpoints.write_weights(directory, named, 200_000 * dtype.itemsize)
    return directory


def write_real(directory: str | Path, name: str, layers: int, seed: int = 0) -> Path:
    """Write a published size in bfloat16, but for its number of layers; return its directory."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    config, shapes = real(name, layers)
    layout = LAYOUTS[SIZES[name].model_type]
    words = checkpoints.learned_words()
    checkpoints.write_tokenizer(directory, words, FIRST, layout.chat_template)
    checkpoints.write_json(directory / "config.json", config, 2)
    preprocessor = checkpoints.PREPROCESSOR | layout.preprocessor
    checkpoints.write_json(directory / "preprocessor_config.json", preprocessor, 2)
    generation = checkpoints.generation_config(special_from(FIRST), 0.1)
    checkpoints.write_json(directory / "generation_config.json", generation, 2)
    named = checkpoints.random_weights(shapes, seed, torch.bfloat16, 0.02)
    checkpoints.write_weights(directory, named, 2_000_000_000)
    return directory


def special_from(first: int) -> dict[str, int]:
    """Number the special tokens."""
    return {token: first + i for i, token in enumerate(checkpoints.SPECIAL)}


def config_of(layout: Layout, text: dict, ids: dict[str, int], dtype: torch.dtype) -> dict:
    """Make config.json."""
    flat = checkpoints.config_2024(text, [4, 6, 6], (2, 64, 4), ids, dtype)
    if layout.text is None:
        return flat | layout.config | {"vision_config": layout.vision}
    own = ("bos_token_id", "eos_token_id", "hidden_act", "rms_norm_eps", "use_cache")
    words = {name: flat[name] for name in (*TEXT, *own, "vocab_size")}
    return {
        **layout.config,
        **{name: flat[name] for name in flat if name.startswith(("image_", "video_", "vision_"))},
        "text_config": words | layout.text | {"dtype": flat["torch_dtype"]},
        "tie_word_embeddings": text["tie_word_embeddings"],
        "transformers_version": "4.57.0.dev0",
        "vision_config": layout.vision,
    }


def text_of(layout: Layout, tied: bool) -> dict:
    """Return the sizes of the language model; more rows than tokens, like the real ones."""
    first = len(checkpoints.learned_words()["vocab"])
    rows = (first + len(checkpoints.SPECIAL) + 127) // 128 * 128
    own = {"num_hidden_layers", "head_dim", "num_experts", "moe_intermediate_size"}
    own = {name: value for name, value in (layout.text or {}).items() if name in own}
    return TEXT | own | {"vocab_size": rows, "tie_word_embeddings": tied}


def shapes_of(model_type: str, tied: bool) -> Shapes:
    """List every weight's published name and its shape."""
    if model_type == "qwen2_vl":
        return checkpoints.shapes(text_of(QWEN2_5, tied), checkpoints.SIZES["tiny"][3])
    layout = LAYOUTS[model_type]
    return layout.shapes(text_of(layout, tied), layout.vision)


def weights(
    model_type: str, tied: bool, seed: int, dtype: torch.dtype, scale: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (published name, random tensor) of every weight."""
    return checkpoints.random_weights(shapes_of(model_type, tied), seed, dtype, scale)


def today(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Return a published weight as transformers 5 holds it: (name, tensor)."""
    if ".experts." in name:
        return name, value.transpose(1, 2)
    if name.startswith(("model.visual.", "model.language_model.", "lm_head.")):
        return name, value
    if name.startswith("visual."):
        return f"model.{name}", value
    return re.sub(r"^model\.", "model.language_model.", name), value
