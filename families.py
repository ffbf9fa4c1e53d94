"""What one model family does differently, as a record; and a tiny preset of each.

Nothing else in the code names a family: a processor and a model carry their record. A new family
is a record in FAMILIES, and a line in docs/families.md.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch

from plumbing import flags
from plumbing.errors import UserError

# --- what a family does differently ---

Shapes = dict[str, tuple[int, ...]]  # {end of a weight's name: shape}, # for a layer's number


class Family(NamedTuple):
    """One model family; FAMILIES has it under the model_type of its config.json."""

    model_type: str
    llm: str  # model_type of the text-only models whose layers its language model has
    name: str  # as messages write it
    classes: str  # how the names of its classes in transformers begin
    image_processor: dict  # settings that a checkpoint without preprocessor_config.json means
    chat_template: str  # for a checkpoint that brings none
    text_tokens: tuple[str, ...]  # end of text, start of turn, end of turn, ...
    vision_tokens: tuple[str, ...]  # start, end, pad, image, video
    lora_layers: dict[str, str]  # {word of --lora-targets: regular expression of full names}
    experts: tuple[str, ...]  # ends of the full names of their parameters, of three dimensions
    routers: str | None  # regular expression of full names; None: it has no experts
    keep_unquantised: list[str]  # beginnings of the full names of what stays out of 4 bits
    mergers: tuple[str, ...]  # beginnings of the full names of what leads from tower to words
    box_format: str  # how published checkpoints write boxes
    positions: Callable  # (is_image, grids) -> positions of a prompt, and the next one
    has_head_dim: bool  # whether config.json may set the size of a head apart from the width
    tower_width: str  # what vision_config calls the width of the tower
    tower_out: str  # and that of the language model behind it
    text_shapes: Callable  # (text_config) -> Shapes, of weights that tell its sizes
    tower_shapes: Callable  # (vision_config) -> Shapes, likewise
    tiny_text: dict  # text_config of the tiny preset
    tiny_vision: dict  # and its vision_config

    def class_of(self, what: str) -> type:
        """Return a class of transformers, which takes seconds to import."""
        import transformers

        return getattr(transformers, f"{self.classes}{what}")

    def model_class(self) -> type:
        """Return the class of its models."""
        return self.class_of("ForConditionalGeneration")

    def config_class(self) -> type:
        """Return the class of its config.json."""
        return self.class_of("Config")

    def token_side(self, vision: dict) -> int:
        """Compute the pixels across of what one image token shows. vision: vision_config."""
        patch = vision.get("patch_size") or self.image_processor["patch_size"]
        return patch * (vision.get("spatial_merge_size") or 2)


def image_processor_class() -> type:
    """Return the image processor of all families on PIL: the other ones need torchvision."""
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        return Qwen2VLImageProcessorPil
    except ImportError:  # transformers before 5.4
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

        return Qwen2VLImageProcessor


def rope_positions(
    is_image: torch.Tensor, grids: list[tuple[int, int]]
) -> tuple[torch.Tensor, int]:
    """M-RoPE positions of a prompt (Qwen2-VL, arXiv:2409.12191, section 2.1).

    is_image: (P,) bool. grids: (rows, columns) of each image in merged patches.
    Text counts 1, 2, 3, ... in time, height and width alike. An image stands still in time and
    counts its rows and columns from where it starts; text goes on one past the largest number.
    Returns ((3, P) long, the next position).
    """
    pieces = []
    position = start = 0
    is_image = is_image.tolist()
    images = iter(grids)
    while start < len(is_image):
        if is_image[start]:
            rows, columns = next(images)
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            time = torch.zeros(rows * columns, dtype=torch.long)
            pieces.append(torch.stack([time, row.flatten(), column.flatten()]) + position)
            start += rows * columns
            position += max(rows, columns)
        else:
            end = start
            while end < len(is_image) and not is_image[end]:
                end += 1
            text = torch.arange(position, position + end - start)
            pieces.append(text.expand(3, -1))
            position += end - start
            start = end
    return torch.cat(pieces, 1), position


# --- the sizes that weights tell ---


def head_size(words) -> int:
    """Return the size of an attention head of a text_config."""
    return getattr(words, "head_dim", None) or words.hidden_size // words.num_attention_heads


def text_shapes(words) -> Shapes:
    """List shapes of the language model's weights; they tell all sizes in text_config."""
    D, I, K = words.hidden_size, words.intermediate_size, head_size(words)
    q, kv = K * words.num_attention_heads, K * words.num_key_value_heads
    return {
        "embed_tokens.weight": (words.vocab_size, D),
        "layers.#.self_attn.q_proj.weight": (q, D),
        "layers.#.self_attn.k_proj.weight": (kv, D),
        "layers.#.self_attn.v_proj.weight": (kv, D),
        "layers.#.mlp.gate_proj.weight": (I, D),
        "layers.#.mlp.down_proj.weight": (D, I),
    }


def patch_shape(vision) -> tuple[int, ...]:
    """Return the shape of one patch: colors, frames, rows, columns."""
    side = vision.patch_size
    return vision.in_channels, vision.temporal_patch_size, side, side


# --- Qwen2-VL (arXiv:2409.12191) ---


# Where a conversation brings none.
SYSTEM_TURN = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)


def qwen2_vl_tower(vision) -> Shapes:
    """List shapes of a tower of plain blocks."""
    W, D = vision.embed_dim, vision.hidden_size
    merged = W * vision.spatial_merge_size**2
    return {
        "patch_embed.proj.weight": (W, *patch_shape(vision)),
        "blocks.#.attn.qkv.weight": (3 * W, W),
        "blocks.#.mlp.fc1.weight": (W * vision.mlp_ratio, W),
        "merger.mlp.0.weight": (merged, merged),
        "merger.mlp.2.weight": (D, merged),
    }


# Full names: the short ones alone also hit the vision tower of Qwen2.5-VL.
WORDS_LAYERS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


def layers_with(mlp: str) -> dict[str, str]:
    """Make the lora_layers of a family. mlp: the linear layers of a tower block's MLP."""
    tower = rf"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.{mlp})"
    return {"llm": WORDS_LAYERS, "vision": tower}


QWEN2_VL = Family(
    model_type="qwen2_vl",
    llm="qwen2",
    name="Qwen2-VL",
    classes="Qwen2VL",
    image_processor={"patch_size": 14},
    # What its tokenizer's own template renders for text and images.
    chat_template=(
        "{% for message in messages %}" + SYSTEM_TURN + "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
        "{% else %}{% for content in message['content'] %}"
        "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
        "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    text_tokens=(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
    ),
    vision_tokens=(
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
    lora_layers=layers_with(r"fc[12]"),
    experts=(),
    routers=None,
    # bitsandbytes matches from the start of the full name: "visual" alone would skip nothing.
    keep_unquantised=["model.visual", "lm_head"],
    mergers=("model.visual.merger",),
    box_format="norm1000",
    positions=rope_positions,
    has_head_dim=False,
    tower_width="embed_dim",
    tower_out="hidden_size",
    text_shapes=text_shapes,
    tower_shapes=qwen2_vl_tower,
    # At an initializer_range of 0.02 so narrow a model makes no progress for thousands of steps.
    tiny_text=dict(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
    ),
    tiny_vision=dict(
        depth=2,
        embed_dim=96,
        num_heads=4,
        hidden_size=128,
        mlp_ratio=4,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        initializer_range=0.06,
    ),
)

# --- Qwen2.5-VL (arXiv:2502.13923): a tower of windows, and a language model as before ---


def qwen2_5_vl_tower(vision) -> Shapes:
    """List shapes of a tower whose blocks have gates."""
    W, D, I = vision.hidden_size, vision.out_hidden_size, vision.intermediate_size
    merged = W * vision.spatial_merge_size**2
    return {
        "patch_embed.proj.weight": (W, *patch_shape(vision)),
        "blocks.#.attn.qkv.weight": (3 * W, W),
        "blocks.#.mlp.gate_proj.weight": (I, W),
        "blocks.#.mlp.down_proj.weight": (W, I),
        "merger.mlp.0.weight": (merged, merged),
        "merger.mlp.2.weight": (D, merged),
    }


QWEN2_5_VL = QWEN2_VL._replace(
    model_type="qwen2_5_vl",
    name="Qwen2.5-VL",
    classes="Qwen2_5_VL",
    lora_layers=layers_with(r"(gate|up|down)_proj"),
    box_format="resized",
    tower_width="hidden_size",
    tower_out="out_hidden_size",
    tower_shapes=qwen2_5_vl_tower,
    tiny_vision=dict(
        depth=2,
        hidden_size=96,
        intermediate_size=256,
        num_heads=4,
        out_hidden_size=128,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=56,  # 2 x 2 tokens: a toy picture has several windows
        fullatt_block_indexes=[1],
        initializer_range=0.06,
    ),
)

# --- Qwen3-VL (arXiv:2511.21631): norms of queries and keys, deepstack maps ---


def qwen3_vl_tower(vision) -> Shapes:
    """List shapes of a tower with learned positions, and a merger for each deepstack map."""
    W, D, I = vision.hidden_size, vision.out_hidden_size, vision.intermediate_size
    merged = W * vision.spatial_merge_size**2
    return {
        "patch_embed.proj.weight": (W, *patch_shape(vision)),
        "pos_embed.weight": (vision.num_position_embeddings, W),
        "blocks.#.attn.qkv.weight": (3 * W, W),
        "blocks.#.mlp.linear_fc1.weight": (I, W),
        "merger.linear_fc1.weight": (merged, merged),
        "merger.linear_fc2.weight": (D, merged),
    }


QWEN3_VL = QWEN2_5_VL._replace(
    model_type="qwen3_vl",
    llm="qwen3",
    name="Qwen3-VL",
    classes="Qwen3VL",
    image_processor={"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    chat_template=QWEN2_VL.chat_template.replace(SYSTEM_TURN, ""),
    lora_layers=layers_with(r"linear_fc[12]"),
    mergers=("model.visual.merger", "model.visual.deepstack_merger_list"),
    box_format="norm1000",
    has_head_dim=True,
    tower_shapes=qwen3_vl_tower,
    tiny_text=QWEN2_VL.tiny_text
    | dict(
        head_dim=32,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
    ),
    tiny_vision=dict(
        depth=2,
        hidden_size=96,
        intermediate_size=384,
        num_heads=4,
        out_hidden_size=128,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
        initializer_range=0.06,
    ),
)

# --- Qwen3-VL with a mixture of experts in each layer ---


def moe_shapes(words) -> Shapes:
    """List shapes of a language model with experts, as they are published."""
    D, E, I = words.hidden_size, words.num_experts, words.moe_intermediate_size
    return text_shapes(words) | {
        "layers.#.mlp.gate.weight": (E, D),
        "layers.#.mlp.experts.gate_up_proj": (E, D, 2 * I),
        "layers.#.mlp.experts.down_proj": (E, I, D),
    }


QWEN3_VL_MOE = QWEN3_VL._replace(
    model_type="qwen3_vl_moe",
    llm="qwen3_moe",
    name="Qwen3-VL with experts",
    classes="Qwen3VLMoe",
    experts=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    routers=r"model\.language_model\.layers\.\d+\.mlp\.gate",
    text_shapes=moe_shapes,
    tiny_text=QWEN3_VL.tiny_text
    | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=192),
)

# --- which there are ---

ALL = (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, QWEN3_VL_MOE)
FAMILIES = {family.model_type: family for family in ALL}


def known() -> str:
    """List the families that there are, by model_type."""
    return ", ".join(f"{kind} ({family.name})" for kind, family in FAMILIES.items())


def preset(name: str) -> Family | None:
    """Return the family whose untrained preset --model names; None for any other name.

    UserError for a preset of a family that is not known.
    """
    if name == "tiny":
        return QWEN2_VL
    start, colon, kind = str(name).partition(":")
    if start != "tiny" or not colon:
        return None
    if kind not in FAMILIES:
        presets = ", ".join(f"tiny:{kind}" for kind in FAMILIES)
        raise UserError(f"--model {name[:60]}: no such preset; there are tiny, {presets}")
    return FAMILIES[kind]


def special_ids(tokenizer, family: Family = QWEN2_VL) -> SimpleNamespace:
    """Look up the ids that matter, by name.

    eos_ids: end of turn, then end of text, which is also pad_id.
    vision_ids: never sampled, and masked in every log-prob: a sampled one breaks the forward pass.
    UserError if the tokenizer lacks one, or splits it into letters.
    """
    tokens = family.text_tokens + family.vision_tokens
    ids = dict(zip(tokens, tokenizer.convert_tokens_to_ids(list(tokens))))
    end_of_text, start_of_turn, end_of_turn = family.text_tokens[:3]
    needed = (start_of_turn, end_of_turn, end_of_text, *family.vision_tokens)
    missing = [t for t in needed if ids[t] is None or ids[t] == tokenizer.unk_token_id]
    if missing:
        raise UserError(f"the tokenizer has no {', '.join(missing)}: not one of {family.name}")
    if tokenizer("".join(ids), add_special_tokens=False)["input_ids"] != list(ids.values()):
        raise UserError(
            "the tokenizer splits its special tokens into letters (split_special_tokens or "
            "added_tokens_decoder in tokenizer_config.json); fetch the checkpoint again"
        )
    _, _, _, image, video = family.vision_tokens
    return SimpleNamespace(
        eos_ids=[ids[end_of_turn], ids[end_of_text]],
        pad_id=ids[end_of_text],
        image=image,
        image_id=ids[image],
        video_id=ids[video],
        reserved=(*family.vision_tokens, start_of_turn, end_of_turn, end_of_text),
        vision_ids=[ids[token] for token in family.vision_tokens],
    )


# --- the tiny preset ---


def tiny_tokenizer(family: Family = QWEN2_VL):
    """Load the tiny preset's tokenizer: byte-level BPE of 584 words, the family's format.

    A digit is a token of its own, and a word carries the space before it. Any text round-trips.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    # Learned from the toy questions at 43ceb03, and fixed: new tokens would change all figures.
    words = Tokenizer.from_file(str(Path(__file__).with_name("tiny_tokenizer.json")))
    end_of_text, _, end_of_turn = family.text_tokens[:3]
    tokens = family.text_tokens + family.vision_tokens
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=end_of_turn,
        pad_token=end_of_text,
        padding_side="left",
        model_max_length=family.tiny_text["max_position_embeddings"],
        additional_special_tokens=[t for t in tokens if t not in (end_of_turn, end_of_text)],
    )
    tokenizer.chat_template = family.chat_template
    return tokenizer


def tiny(seed: int = 0, family: Family = QWEN2_VL) -> tuple:
    """Make the untrained preset of a family, 1.4 M parameters or a few more in float32.

    Returns (model with weights from `seed`, tokenizer, image processor).
    """
    tokenizer = tiny_tokenizer(family)
    ids = special_ids(tokenizer, family)
    text = dict(
        family.tiny_text,
        vocab_size=len(tokenizer),
        bos_token_id=ids.pad_id,
        eos_token_id=ids.eos_ids[0],
        pad_token_id=ids.pad_id,
    )
    config = family.config_class()(
        text_config=text,
        vision_config=dict(family.tiny_vision),
        image_token_id=ids.image_id,
        video_token_id=ids.video_id,
        vision_start_token_id=ids.vision_ids[0],
        vision_end_token_id=ids.vision_ids[1],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = family.model_class()(config)
    model.family = family
    model.generation_config.eos_token_id = ids.eos_ids
    model.generation_config.pad_token_id = ids.pad_id
    limits = {"shortest_edge": flags.MIN_PIXELS, "longest_edge": 12845056}
    return model, tokenizer, image_processor_class()(size=limits, **family.image_processor)
