"""What one model family does differently, as a record; and the tiny preset of Qwen2-VL."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch

from plumbing import flags
from plumbing.errors import UserError

# --- what a family does differently ---


class Family(NamedTuple):
    """One model family; FAMILIES has it under the model_type of its config.json."""

    name: str  # as messages write it
    model_class: Callable[[], type]  # imported when a model is loaded: transformers takes seconds
    image_processor_class: Callable[[], type]
    chat_template: str  # for a checkpoint that brings none
    text_tokens: tuple[str, ...]  # end of text, start of turn, end of turn, ...
    vision_tokens: tuple[str, ...]  # start, end, pad, image, video
    lora_targets: str  # regular expression of the full names of the layers that LoRA adapts
    keep_unquantised: list[str]  # beginnings of the full names of what stays out of 4 bits
    pixels_per_token: int
    box_format: str  # how published checkpoints write boxes
    positions: Callable  # (is_image, grids) -> positions of a prompt, and the next one


def qwen2_vl_class() -> type:
    """Qwen2-VL in transformers."""
    from transformers import Qwen2VLForConditionalGeneration

    return Qwen2VLForConditionalGeneration


def qwen2_vl_image_processor() -> type:
    """Qwen2-VL's image processor on PIL: the other ones need torchvision."""
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


QWEN2_VL = Family(
    name="Qwen2-VL",
    model_class=qwen2_vl_class,
    image_processor_class=qwen2_vl_image_processor,
    # What its tokenizer's own template renders for text and images.
    chat_template=(
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ message['role'] }}\n"
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
    # Full names: the short ones alone also hit the vision tower of Qwen2.5-VL.
    lora_targets=r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
    # bitsandbytes matches from the start of the full name: "visual" alone would skip nothing.
    keep_unquantised=["model.visual", "lm_head"],
    pixels_per_token=28 * 28,
    box_format="norm1000",
    positions=rope_positions,
)
FAMILIES = {"qwen2_vl": QWEN2_VL}


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

# At an initializer_range of 0.02 so narrow a model makes no progress for thousands of steps.
TINY_TEXT = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    initializer_range=0.06,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
)
TINY_VISION = dict(
    depth=2,
    embed_dim=96,
    num_heads=4,
    hidden_size=128,
    mlp_ratio=4,
    patch_size=14,
    spatial_merge_size=2,
    temporal_patch_size=2,
    initializer_range=0.06,
)


def tiny_tokenizer():
    """Load the tiny preset's tokenizer: byte-level BPE of 584 words, Qwen2-VL's format.

    A digit is a token of its own, and a word carries the space before it. Any text round-trips.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    # Learned from the toy questions at 43ceb03, and fixed: new tokens would change all figures.
    words = Tokenizer.from_file(str(Path(__file__).with_name("tiny_tokenizer.json")))
    end_of_text, _, end_of_turn = QWEN2_VL.text_tokens[:3]
    tokens = QWEN2_VL.text_tokens + QWEN2_VL.vision_tokens
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=end_of_turn,
        pad_token=end_of_text,
        padding_side="left",
        model_max_length=TINY_TEXT["max_position_embeddings"],
        additional_special_tokens=[t for t in tokens if t not in (end_of_turn, end_of_text)],
    )
    tokenizer.chat_template = QWEN2_VL.chat_template
    return tokenizer


def tiny(seed: int = 0) -> tuple:
    """Make the untrained preset, a Qwen2-VL of 1.4 M parameters in float32.

    Returns (model with weights from `seed`, tokenizer, image processor).
    """
    from transformers import Qwen2VLConfig

    tokenizer = tiny_tokenizer()
    ids = special_ids(tokenizer)
    text = dict(
        TINY_TEXT,
        vocab_size=len(tokenizer),
        bos_token_id=ids.pad_id,
        eos_token_id=ids.eos_ids[0],
        pad_token_id=ids.pad_id,
    )
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=dict(TINY_VISION),
        image_token_id=ids.image_id,
        video_token_id=ids.video_id,
        vision_start_token_id=ids.vision_ids[0],
        vision_end_token_id=ids.vision_ids[1],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = QWEN2_VL.model_class()(config)
    model.generation_config.eos_token_id = ids.eos_ids
    model.generation_config.pad_token_id = ids.pad_id
    limits = {"shortest_edge": flags.MIN_PIXELS, "longest_edge": 12845056}
    return model, tokenizer, QWEN2_VL.image_processor_class()(size=limits)
