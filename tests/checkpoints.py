"""Write Qwen2-VL checkpoints in the layout published on the hub in 2024, with random weights.

They are what `--model Qwen/Qwen2-VL-2B-Instruct` finds: a flat config.json with `rope_scaling` of
type `mrope`; weights named `visual.*`, `model.*` and, untied, `lm_head.weight`, in several
safetensors files with an index; preprocessor_config.json, chat_template.json, Qwen2's tokenizer
files, and a generation_config.json that makes sampling greedy.
Nothing here uses transformers' own classes, which know only today's layout, but for the
vocabulary of the tiny tokenizer.

    write_2024("somewhere", "tiny")         0.4 M parameters, the published layout in every file
    write_2024("somewhere", "2b")           Qwen2-VL-2B-Instruct: 4,417,971,200 bytes in bfloat16
    write_2024("somewhere", "7b-2layers")   two layers of the 7B: its head is not tied
"""

import functools
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

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
# text, mrope_section, first special id, (vision depth, width, heads), generation temperature
SIZES = {
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
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
).split()
# The published template also numbers pictures when asked to, and takes videos. Without either it
# renders what this one does.
CHAT_TEMPLATE = (
    "{%- for message in messages %}\n"
    "{%- if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}\n"
    "{{- '<|im_start|>' + message['role'] + '\n' }}\n"
    "{%- if message['content'] is string %}{{ message['content'] }}\n"
    "{%- else %}{% for part in message['content'] %}\n"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}\n"
    "{%- elif part['type'] == 'video' or 'video' in part %}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}\n"
    "{%- elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\n"
    "{{- '<|im_end|>\n' }}{% endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}


def write_json(path: Path, value: object, indent: int | None = None) -> None:
    """Write one JSON file as the hub's are written."""
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_2024(
    directory: str | Path,
    size: str = "tiny",
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int | None = None,
    scale: float | None = None,
) -> Path:
    """Write the checkpoint and return its directory.

    shard_bytes: files are closed at this size, which is also the most held in memory; default:
    tiny in 3 or 4 files, else 2 GB; 0: one file, no index. scale: std of the weights.
    """
    text, section, first, vision, temperature = SIZES[size]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    words = learned_words()
    first = len(words["vocab"]) if first is None else first
    ids = {token: first + i for i, token in enumerate(SPECIAL)}
    # More rows than tokens, like the real ones.
    rows = text["vocab_size"] or (first + len(SPECIAL) + 127) // 128 * 128
    text = dict(text, vocab_size=rows)
    write_tokenizer(directory, words, first)
    config = config_2024(text, section, vision, ids, dtype)
    write_json(directory / "config.json", config, 2)
    generation = generation_config(ids, temperature)
    write_json(directory / "generation_config.json", generation, 2)
    write_json(directory / "preprocessor_config.json", PREPROCESSOR, 2)
    write_json(directory / "chat_template.json", {"chat_template": CHAT_TEMPLATE}, 2)
    if shard_bytes is None:
        shard_bytes = 200_000 * dtype.itemsize if size.startswith("tiny") else 2_000_000_000
    if scale is None:
        scale = 0.06 if size.startswith("tiny") else 0.02
    write_weights(directory, weights(text, vision, seed, dtype, scale), shard_bytes)
    return directory


def config_2024(
    text: dict, section: list[int], vision: tuple[int, int, int], ids: dict, dtype: torch.dtype
) -> dict:
    """Make config.json. ids: {special token: id}."""
    return {
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
    }


def generation_config(ids: dict[str, int], temperature: float) -> dict:
    """Make generation_config.json, which makes sampling greedy."""
    return {
        "bos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "repetition_penalty": 1.05,
        "temperature": temperature,
        "top_p": 0.001,
        "top_k": 1,
        "transformers_version": "4.37.0",
    }


@functools.cache
def learned_words() -> dict:
    """Return {"vocab": ..., "merges": ...} of the tiny tokenizer."""
    return json.loads(families.tiny_tokenizer().backend_tokenizer.to_str())["model"]


# How Qwen2's tokenizer splits text into words before it merges bytes.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def tokenizer_json(vocab: dict[str, int], merges: list[str], added: list[dict], first: int) -> dict:
    """Make tokenizer.json. added: special tokens, whose ids are first, first + 1, ..."""
    split = {
        "type": "Split",
        "pattern": {"Regex": WORD_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": first + i, **token} for i, token in enumerate(added)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL]},
        "post_processor": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
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
    }


def tokenizer_config(added: list[dict], first: int, chat_template: str) -> dict:
    """Make tokenizer_config.json."""
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(first + i): token for i, token in enumerate(added)},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "padding_side": "left",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write_tokenizer(
    directory: Path, words: dict, first: int, chat_template: str = CHAT_TEMPLATE
) -> None:
    """Write tokenizer.json, tokenizer_config.json, vocab.json and merges.txt.

    words: {"vocab": ..., "merges": ...}, filled up so that the special tokens start at id `first`.
    """
    vocab = dict(words["vocab"])
    vocab |= {f"filler{i}": i for i in range(len(vocab), first)}
    merges = []
    for merge in words["merges"]:
        merges.append(merge if isinstance(merge, str) else " ".join(merge))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"content": token, **flags, "special": True} for token in SPECIAL]
    write_json(directory / "tokenizer.json", tokenizer_json(vocab, merges, added, first))
    write_json(directory / "vocab.json", vocab)
    lines = "\n".join(["#version: 0.2", *merges])
    (directory / "merges.txt").write_text(lines + "\n", encoding="utf-8")
    write_json(directory / "tokenizer_config.json", tokenizer_config(added, first, chat_template))


def shapes(text: dict, vision: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Return {published name: shape} of every weight, in the order of the published index."""
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


def weights(
    text: dict, vision: tuple[int, int, int], seed: int, dtype: torch.dtype, scale: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (published name, random tensor), one at a time."""
    return random_weights(shapes(text, vision), seed, dtype, scale)


def random_weights(
    shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype, scale: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, random tensor), one at a time.

    Norms are around 1 and biases around 0, but never exactly: a test notices a swapped one.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        value = torch.empty(shape, dtype=dtype).normal_(0, scale, generator=generator)
        is_norm = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "ln_q.weight"))
        yield name, value + 1 if is_norm else value


def write_weights(
    directory: Path, named: Iterable[tuple[str, torch.Tensor]], shard_bytes: int
) -> None:
    """Write safetensors files of about shard_bytes each, and their index.

    shard_bytes 0: one model.safetensors. Holds one file's tensors at a time.
    """
    parts, where, held = [], {}, {}
    total = 0

    def close() -> None:
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


# --- questions and stock inputs, for several test files ---


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw coarse random blocks: unlike any other picture, and unlike grey in the vision tower."""
    rng = random.Random(f"{width} {height} {seed}")
    small = Image.new("RGB", (max(1, width // 14), max(1, height // 14)))
    small.putdata(
        [tuple(rng.randrange(256) for _ in range(3)) for _ in range(small.width * small.height)]
    )
    return small.resize((width, height), Image.NEAREST)


def questions() -> list[Example]:
    """Make nine examples: six sizes of picture, two pictures in one prompt, two of text alone."""
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


def prompts_of(
    processor: object, chosen: slice = slice(None), template: str = "none"
) -> list[data.Prompt]:
    """Make the prompts of some of `questions`."""
    return [data.Asker(processor, template).prompt(e) for e in questions()[chosen]]


def stock_inputs(
    prompts: list[data.Prompt],
    special: SimpleNamespace,
    responses: list[torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Make the inputs of stock transformers' forward, right-padded.

    responses: one for each prompt. Made without batching.collate and without M-RoPE positions: the
    model finds its own.
    """
    rows = [p.ids for p in prompts]
    if responses:
        rows = [torch.cat([ids, response]) for ids, response in zip(rows, responses)]
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
