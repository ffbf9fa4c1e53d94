"""What one model family does differently: tokens, layers, positions; and the tiny preset."""

from pathlib import Path
from types import SimpleNamespace

import torch

from plumbing.errors import UserError

# LoRA goes on the language model's linear layers, by full name: the short names alone also hit the vision tower of Qwen2.5-VL.
LORA_TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
# bitsandbytes matches these from the start of a module's full name: "visual" alone would skip nothing (facts that bite, 5).
KEEP_UNQUANTISED = ["model.visual", "lm_head"]
VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
) + VISION_TOKENS
# Qwen2-VL's chat format: what its tokenizer's own template renders for text and images (videos and image numbering left out).
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# ----------------------------------------------------------------------------------------------------------------- tiny

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
    """Byte-level BPE of 584 words with Qwen2-VL's splitting rule (a digit is a token of its own, a word carries the space before it), chat format and special tokens. Any Unicode text
    round-trips, because all 256 bytes are in the vocabulary and nothing is normalised.

    It was learned from the toy world's texts at commit 43ceb03. It stays as it is, so that a new toy task does not change the tokens, and with them the weights and figures, of all others.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_file(str(Path(__file__).with_name("tiny_tokenizer.json")))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=4096,
        additional_special_tokens=[
            t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")
        ],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny(seed=0):
    """(model, tokenizer, image processor) of the untrained preset: a Qwen2-VL of 1.4 M parameters in float32 with weights from `seed`.

    initializer_range 0.06 in both towers: at 0.02 so narrow a model sits on a plateau for thousands of steps (DESIGN section 5).
    """
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = tiny_tokenizer()
    ids = special_ids(tokenizer)
    config = Qwen2VLConfig(
        text_config=dict(
            TINY_TEXT,
            vocab_size=len(tokenizer),
            bos_token_id=ids.pad_id,
            eos_token_id=ids.eos_ids[0],
            pad_token_id=ids.pad_id,
        ),
        vision_config=dict(TINY_VISION),
        image_token_id=ids.image_id,
        video_token_id=ids.video_id,
        vision_start_token_id=ids.vision_ids[0],
        vision_end_token_id=ids.vision_ids[1],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        ids.eos_ids,
        ids.pad_id,
    )
    return (
        model,
        tokenizer,
        image_processor_class()(size={"shortest_edge": 3136, "longest_edge": 12845056}),
    )


def image_processor_class():
    """Qwen2-VL's image processor on PIL: AutoProcessor, and in some versions the plain class, needs torchvision."""
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        return Qwen2VLImageProcessorPil
    except ImportError:  # transformers before 5.4
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

        return Qwen2VLImageProcessor


def special_ids(tokenizer):
    """Ids that matter, by name. eos_ids: both of Qwen2-VL's, end of turn first; pad_id is the second. vision_ids: never sampled, and masked
    in every log-prob, because a sampled one breaks the training forward."""
    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))))
    missing = [
        token
        for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", *VISION_TOKENS)
        if ids[token] is None or ids[token] == tokenizer.unk_token_id
    ]
    if missing:
        raise UserError(f"the tokenizer has no {', '.join(missing)}: not one of Qwen2-VL")
    if tokenizer("".join(ids), add_special_tokens=False)["input_ids"] != list(ids.values()):
        raise UserError(
            "the tokenizer splits its special tokens into letters (split_special_tokens or added_tokens_decoder in tokenizer_config.json); fetch the checkpoint again"
        )
    return SimpleNamespace(
        eos_ids=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_id=ids["<|endoftext|>"],
        image="<|image_pad|>",
        image_id=ids["<|image_pad|>"],
        video_id=ids["<|video_pad|>"],
        reserved=VISION_TOKENS + ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        vision_ids=[ids[token] for token in VISION_TOKENS],
    )


def rope_positions(is_image, grids):
    """M-RoPE positions of a prompt (Qwen2-VL, arXiv:2409.12191, section 2.1).

    is_image: (P,) bool; grids: [(rows, columns)] of each image in merged patches. Text counts 1, 2, 3, ... in all three dimensions. An
    image stands still in time and counts its rows and columns from where it starts; the text after it goes on one past the largest
    number used. Returns ((3, P) long, the next position).
    """
    pieces, now, at = [], 0, 0
    flags = is_image.tolist()
    images = iter(grids)
    while at < len(flags):
        if flags[at]:
            rows, columns = next(images)
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            pieces.append(
                torch.stack(
                    [torch.zeros(rows * columns, dtype=torch.long), row.flatten(), column.flatten()]
                )
                + now
            )
            at, now = at + rows * columns, now + max(rows, columns)
        else:
            end = at
            while end < len(flags) and not flags[end]:
                end += 1
            pieces.append(torch.arange(now, now + end - at).expand(3, -1))
            at, now = end, now + end - at
    return torch.cat(pieces, 1), now
