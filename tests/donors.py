"""Write text-only LLMs as they are published, tiny, random weights, with a tokenizer like R1's.

    write("somewhere")                          qwen2, as DeepSeek-R1-Distill-Qwen-1.5B: untied
    write("somewhere", "qwen3", tied=True)      qwen3
    write_r1("somewhere")                       the exact shapes of the 1.5B, 3,554,176,000 bytes

The words are those of checkpoints.py, under other ids. The special tokens are DeepSeek-R1's, at
ids where the tokenizer of a Qwen-VL has others.
"""

import random
from pathlib import Path

import checkpoints
import torch

R1_TOKENS = (
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜begin▁of▁sentence｜>",
    "<|EOT|>",
    "<think>",
    "</think>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}"
    "<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
TINY = dict(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
)
R1 = dict(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    max_position_embeddings=131072,
    rms_norm_eps=1e-6,
    rope_theta=10000,
)


def permuted(seed: int) -> dict[str, int]:
    """Give the words of the tiny tokenizer other ids."""
    words = checkpoints.learned_words()["vocab"]
    ids = list(range(len(words)))
    random.Random(seed).shuffle(ids)
    return dict(zip(words, ids))


def write_tokenizer(
    directory: Path, vocab: dict[str, int], tokens: tuple[str, ...], first: int
) -> None:
    """Write tokenizer.json and tokenizer_config.json. tokens: the added ones, from id `first`."""
    merges = checkpoints.learned_words()["merges"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    flags = dict(lstrip=False, rstrip=False, normalized=False, single_word=False)
    # R1's <think> is an added token, but no special one.
    added = [{"content": t, "special": "think" not in t, **flags} for t in tokens]
    settings = checkpoints.tokenizer_json(vocab, merges, added, first)
    checkpoints.write_json(directory / "tokenizer.json", settings)
    config = {
        "added_tokens_decoder": {str(first + i): token for i, token in enumerate(added)},
        "bos_token": "<｜begin▁of▁sentence｜>",
        "eos_token": tokens[0],
        "pad_token": tokens[0],
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 16384,
        "tokenizer_class": "LlamaTokenizerFast",
    }
    checkpoints.write_json(directory / "tokenizer_config.json", config, 2)


def config_of(kind: str, sizes: dict, tied: bool, rows: int, eos: int, dtype: str) -> dict:
    """Make config.json."""
    name = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind]
    own = {"head_dim": 48, "attention_bias": False} if kind == "qwen3" else {}
    return {
        "architectures": [name],
        "attention_dropout": 0.0,
        "bos_token_id": eos + 3,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": 21,
        "model_type": kind,
        "sliding_window": 4096,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "transformers_version": "4.44.0",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": rows,
        **own,
        **sizes,
    }


def shapes_of(config: dict) -> dict[str, tuple[int, ...]]:
    """List every weight's published name and its shape."""
    D, I = config["hidden_size"], config["intermediate_size"]
    K = config.get("head_dim") or D // config["num_attention_heads"]
    q, kv = K * config["num_attention_heads"], K * config["num_key_value_heads"]
    found = {"model.embed_tokens.weight": (config["vocab_size"], D)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        for name, out in (("q", q), ("k", kv), ("v", kv)):
            found[f"{at}.self_attn.{name}_proj.weight"] = (out, D)
            if config["model_type"] == "qwen2":
                found[f"{at}.self_attn.{name}_proj.bias"] = (out,)
            elif name != "v":
                found[f"{at}.self_attn.{name}_norm.weight"] = (K,)
        found[f"{at}.self_attn.o_proj.weight"] = (D, q)
        found |= {f"{at}.mlp.{name}_proj.weight": (I, D) for name in ("gate", "up")}
        found[f"{at}.mlp.down_proj.weight"] = (D, I)
        found |= {f"{at}.{n}_layernorm.weight": (D,) for n in ("input", "post_attention")}
    found["model.norm.weight"] = (D,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], D)
    return found


def write(
    directory: str | Path,
    kind: str = "qwen2",
    tied: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 0.06,
    shard_bytes: int = 0,
    tokens: tuple[str, ...] = R1_TOKENS,
    **sizes: object,
) -> Path:
    """Write a tiny LLM and return its directory. sizes: of config.json, in place of TINY's."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    vocab = permuted(seed)
    first = len(vocab)
    rows = (first + len(tokens) + 63) // 64 * 64
    write_tokenizer(directory, vocab, tokens, first)
    name = str(dtype).removeprefix("torch.")
    config = config_of(kind, TINY | sizes, tied, rows, first, name)
    write_rest(directory, config, seed, dtype, scale, shard_bytes)
    return directory


def write_rest(
    directory: Path, config: dict, seed: int, dtype: torch.dtype, scale: float, shard_bytes: int
) -> None:
    """Write config.json, generation_config.json and the weights."""
    checkpoints.write_json(directory / "config.json", config, 2)
    advice = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "_from_model_config": True}
    ends = {"eos_token_id": config["eos_token_id"], "bos_token_id": config["bos_token_id"]}
    checkpoints.write_json(directory / "generation_config.json", advice | ends, 2)
    named = checkpoints.random_weights(shapes_of(config), seed, dtype, scale)
    checkpoints.write_weights(directory, named, shard_bytes)


def write_r1(directory: str | Path, seed: int = 0) -> Path:
    """Write the shapes of DeepSeek-R1-Distill-Qwen-1.5B in bfloat16, in files of 2 GB."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    vocab = dict(checkpoints.learned_words()["vocab"])
    vocab |= {f"filler{i}": i for i in range(len(vocab), 151643)}
    write_tokenizer(directory, vocab, R1_TOKENS, 151643)
    config = config_of("qwen2", R1, False, 151936, 151643, "bfloat16")
    write_rest(directory, config, seed, torch.bfloat16, 0.02, 2_000_000_000)
    return directory
