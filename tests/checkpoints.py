"""Writes Qwen2-VL checkpoints in the layout published on the hub in 2024, with random weights: what `--model Qwen/Qwen2-VL-2B-Instruct` finds.

A flat config.json with `rope_scaling` of type `mrope`; weights named `visual.*`, `model.*` and, untied, `lm_head.weight`, in several safetensors
files with an index; preprocessor_config.json, chat_template.json, a generation_config.json that makes sampling greedy, Qwen2's tokenizer files.
Nothing here uses transformers' own classes, which know only today's layout (but for the words the tiny tokenizer has learned).

    write_2024("somewhere", "tiny")             0.4 M parameters, the published layout in every file
    write_2024("somewhere", "2b")               the exact shapes of Qwen2-VL-2B-Instruct: 4,417,971,200 bytes in bfloat16
    write_2024("somewhere", "7b-2layers")       two layers of the 7B: its head is not tied to the embeddings
"""

import functools
import json
import random
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

import data
import families
from tasks.example import Example

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TEXT = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
]
SIZES = {  # text dimensions, mrope_section, first special id, (vision depth, width, heads), generation temperature
    "tiny": (dict(zip(TEXT, (128, 256, 2, 4, 2, None, True))), [4, 6, 6], None, (2, 64, 4), 0.1),
    "tiny-untied": (
        dict(zip(TEXT, (128, 256, 2, 4, 2, None, False))),
        [4, 6, 6],
        None,
        (2, 64, 4),
        0.01,
    ),
    "2b": (
        dict(zip(TEXT, (1536, 8960, 28, 12, 2, 151936, True))),
        [16, 24, 24],
        151643,
        (32, 1280, 16),
        0.1,
    ),
    "7b-2layers": (
        dict(zip(TEXT, (3584, 18944, 2, 28, 4, 152064, False))),
        [16, 24, 24],
        151643,
        (32, 1280, 16),
        0.01,
    ),
}
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> <|quad_end|> "
    "<|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
# The published template also numbers pictures when asked to, and takes videos; without either it renders what this one does.
CHAT_TEMPLATE = """{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] %}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part['type'] == 'video' or 'video' in part %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}
{{- '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def write_2024(directory, size="tiny", seed=0, dtype=torch.bfloat16, shard_bytes=None, scale=None):
    """Writes the checkpoint and returns the directory. shard_bytes: files are closed at this size (default: tiny in 3 or 4 files, else
    2 GB, which is also the most that is held in memory); 0: one file, no index. scale: standard deviation of the weights."""
    text, section, first, vision, temperature = SIZES[size]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    words = learned_words()
    first = len(words["vocab"]) if first is None else first
    ids = {token: first + i for i, token in enumerate(SPECIAL)}
    text = dict(
        text, vocab_size=text["vocab_size"] or (first + len(SPECIAL) + 127) // 128 * 128
    )  # more rows than tokens, like the real ones
    write_tokenizer(directory, words, first)
    write = lambda name, value: (directory / name).write_text(
        json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    write(
        "config.json",
        {
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "attention_dropout": 0.0,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "vision_token_id": ids["<|vision_pad|>"],
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": 32768,
            "max_window_layers": 28,
            "model_type": "qwen2_vl",
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "torch_dtype": str(dtype).removeprefix("torch."),
            "transformers_version": "4.41.2",
            "use_cache": True,
            "use_sliding_window": False,
            **text,
            "vision_config": {
                "depth": vision[0],
                "embed_dim": vision[1],
                "mlp_ratio": 4,
                "num_heads": vision[2],
                "in_chans": 3,
                "hidden_size": text["hidden_size"],
                "patch_size": 14,
                "spatial_merge_size": 2,
                "spatial_patch_size": 14,
                "temporal_patch_size": 2,
            },
            "rope_scaling": {"type": "mrope", "mrope_section": section},
        },
    )
    write(
        "generation_config.json",
        {
            "bos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "repetition_penalty": 1.05,
            "temperature": temperature,
            "top_p": 0.001,
            "top_k": 1,
            "transformers_version": "4.37.0",
        },
    )
    write(
        "preprocessor_config.json",
        {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
        },
    )
    write("chat_template.json", {"chat_template": CHAT_TEMPLATE})
    if shard_bytes is None:
        shard_bytes = 200_000 * dtype.itemsize if size.startswith("tiny") else 2_000_000_000
    write_weights(
        directory,
        weights(text, vision, seed, dtype, scale or (0.06 if size.startswith("tiny") else 0.02)),
        shard_bytes,
    )
    return directory


@functools.cache
def learned_words():
    """{"vocab": ..., "merges": ...} of the tiny tokenizer."""
    return json.loads(families.tiny_tokenizer().backend_tokenizer.to_str())["model"]


def write_tokenizer(directory, words, first):
    """tokenizer.json, tokenizer_config.json, vocab.json and merges.txt. words: {"vocab": ..., "merges": ...}; padded with filler words, so that
    the special tokens have the ids first, first + 1, ..."""
    vocab = dict(words["vocab"])
    vocab |= {f"filler{i}": i for i in range(len(vocab), first)}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in words["merges"]]
    added = [
        {
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in SPECIAL
    ]
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    write = lambda name, value: (directory / name).write_text(
        json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    write(
        "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": first + i, **token} for i, token in enumerate(added)],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": pattern},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    byte_level,
                ],
            },
            "post_processor": byte_level,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": vocab,
                "merges": merges,
            },
        },
    )
    write("vocab.json", vocab)
    (directory / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8"
    )
    write(
        "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(first + i): token for i, token in enumerate(added)},
            "additional_special_tokens": SPECIAL[1:],
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "padding_side": "left",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def shapes(text, vision):
    """{published name: shape} of every weight, in the order of the published files' index."""
    depth, width, _ = vision
    D, I, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    kv = D // heads * text["num_key_value_heads"]
    found = {"visual.patch_embed.proj.weight": (width, 3, 2, 14, 14)}
    for i in range(depth):
        block = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
        found |= {f"visual.blocks.{i}.{name}": shape for name, shape in block.items()}
    merger = {
        "ln_q.weight": (width,),
        "ln_q.bias": (width,),
        "mlp.0.weight": (4 * width, 4 * width),
        "mlp.0.bias": (4 * width,),
        "mlp.2.weight": (D, 4 * width),
        "mlp.2.bias": (D,),
    }
    found |= {f"visual.merger.{name}": shape for name, shape in merger.items()}
    found["model.embed_tokens.weight"] = (text["vocab_size"], D)
    for i in range(text["num_hidden_layers"]):
        layer = {
            "input_layernorm.weight": (D,),
            "self_attn.q_proj.weight": (D, D),
            "self_attn.q_proj.bias": (D,),
            "self_attn.k_proj.weight": (kv, D),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.weight": (kv, D),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.o_proj.weight": (D, D),
            "post_attention_layernorm.weight": (D,),
            "mlp.gate_proj.weight": (I, D),
            "mlp.up_proj.weight": (I, D),
            "mlp.down_proj.weight": (D, I),
        }
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    found["model.norm.weight"] = (D,)
    if not text["tie_word_embeddings"]:
        found["lm_head.weight"] = (text["vocab_size"], D)
    return found


def weights(text, vision, seed, dtype, scale):
    """Yields (published name, random tensor), one at a time. Norms are around 1 and biases around 0, none exactly: a swapped one shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes(text, vision).items():
        value = torch.empty(shape, dtype=dtype).normal_(0, scale, generator=generator)
        is_norm = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "ln_q.weight"))
        yield name, value + 1 if is_norm else value


def write_weights(directory, named, shard_bytes):
    """safetensors files of about shard_bytes each, and their index; 0: one model.safetensors. Holds one file's tensors at a time."""
    parts, where, held, total = [], {}, {}, 0

    def close():
        path = directory / f".part{len(parts)}"
        save_file(held, path, metadata={"format": "pt"})
        parts.append(path)
        where.update({name: len(parts) for name in held})
        held.clear()

    for name, value in named:
        held[name] = value
        total += value.nbytes
        if shard_bytes and sum(v.nbytes for v in held.values()) >= shard_bytes:
            close()
    if held:
        close()
    if not shard_bytes:
        parts[0].rename(directory / "model.safetensors")
        return
    names = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    for path, name in zip(parts, names):
        path.rename(directory / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[number - 1] for name, number in sorted(where.items())},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


# ------------------------------------------------------------------------------------- what test_model.py and test_generate.py both use


def picture(width, height, seed=0):
    """A picture of coarse random blocks: unlike any other, and unlike grey for the vision tower."""
    rng = random.Random(f"{width} {height} {seed}")
    small = Image.new("RGB", (max(1, width // 14), max(1, height // 14)))
    small.putdata(
        [tuple(rng.randrange(256) for _ in range(3)) for _ in range(small.width * small.height)]
    )
    return small.resize((width, height), Image.NEAREST)


def questions():
    """Nine examples: six pictures of different sizes, two pictures in one prompt, and two prompts of text alone."""
    sizes = [(112, 112), (56, 56), (140, 56), (84, 196), (168, 112), (28, 280)]
    found = [
        Example(f"one {w} x {h}", [picture(w, h)], f"How many red objects are there? {w}", "1")
        for w, h in sizes
    ]
    found.append(
        Example("two", [picture(56, 84), picture(140, 112, 1)], "Are these the same?", "no")
    )
    found.append(Example("text", [], "How many?", "2"))
    return found + [
        Example(
            "more text",
            [],
            "Row 1: red circle (1), blue square. Row 2: none. How many blue squares are there?",
            "1",
        )
    ]


def prompts_of(processor, chosen=slice(None), template="none"):
    return [data.Asker(processor, template).prompt(e) for e in questions()[chosen]]


def stock_inputs(prompts, special, responses=None):
    """What stock transformers' forward takes, right-padded: ids, mask, image positions by token type. One response (or none) per prompt.
    Made without data.collate, and without M-RoPE positions: the model finds its own."""
    rows = [
        torch.cat([p.ids, r]) if responses else p.ids for p, r in zip(prompts, responses or prompts)
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=special.pad_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == special.image_id).long(),
    }
    pictured = [p for p in prompts if p.pixel_values is not None]
    if pictured:
        inputs |= {
            "pixel_values": torch.cat([p.pixel_values for p in pictured]),
            "image_grid_thw": torch.cat([p.grid for p in pictured]),
        }
    return inputs
