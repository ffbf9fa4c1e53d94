"""Check the files of a checkpoint that somebody else made, where they are read.

Settings by the tables in fields.py, then against each other and against the weights' own headers,
before memory is taken for them. UserError names file and remedy.
"""

import contextlib
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import families
from plumbing import disk
from plumbing.arguments import read_args
from plumbing.errors import UserError
from plumbing.fields import (
    ADAPTER,
    ADAPTER_REMEDY,
    CONFIG,
    PREPROCESSOR,
    REMEDY,
    ROPE,
    RUN,
    RUN_REMEDY,
    TEXT_CONFIG,
    VISION_CONFIG,
    check,
    first_line,
    read_object,
    shown,
)
from plumbing.templates import check_patterns
from plumbing.weights import read_header, read_pickle, read_weights


def read_run(directory: str | Path) -> dict:
    """Read what a checkpoint was trained with: its args.json, {} where there is none."""
    found = read_args(directory)
    check(Path(directory) / "args.json", found, RUN, remedy=RUN_REMEDY)
    return found


def read_config(directory: Path) -> dict:
    """Read config.json of a known family, of 2024 (flat) or of today (nested)."""
    file = Path(directory) / "config.json"
    found = read_object(file)
    kind = found.get("model_type")
    if kind not in list(families.FAMILIES):  # a list: what the file says may have no hash
        raise UserError(
            f"{file}: model_type is {shown(kind)}, which is not known; "
            f"name a checkpoint of {families.known()}; if it is one, {REMEDY}"
        )
    check(file, found, CONFIG)
    method = quantised_by(found)
    if method not in (None, "bitsandbytes"):
        refuse_quantised(file, method, "only those of bitsandbytes can be read")
    words, under = text_of(found)
    check(file, words, TEXT_CONFIG, under)
    for key in ("rope_scaling", "rope_parameters"):
        check(file, words.get(key) or {}, ROPE, f"{under}{key}.")
    check(file, found.get("vision_config") or {}, VISION_CONFIG, "vision_config.")
    return found


def text_of(config: dict) -> tuple[dict, str]:
    """The part of config.json about the language model, and where it stands."""
    if config.get("text_config") is None:
        return config, ""
    return config["text_config"], "text_config."


def read_preprocessor(directory: Path) -> dict:
    """Read the settings of the image processor that are used, {} where there is no file."""
    file = Path(directory) / "preprocessor_config.json"
    if not file.is_file():
        return {}
    found = read_object(file)
    check(file, found, PREPROCESSOR)
    return {key: found[key] for key in PREPROCESSOR if found.get(key) is not None}


def read_adapter(directory: Path) -> dict:
    """Read adapter_config.json."""
    file = Path(directory) / "adapter_config.json"
    found = read_object(file, ADAPTER_REMEDY)
    if not found.get("base_model_name_or_path"):
        raise UserError(f"{file} does not name its base model; set base_model_name_or_path there")
    check(file, found, ADAPTER, remedy=f"correct it there, or {ADAPTER_REMEDY}")
    of_lora = ()
    if found.get("peft_type") == "LORA":
        of_lora = ("r",) if found.get("target_parameters") else ("r", "target_modules")
    for key in ("peft_type", *of_lora):
        if not found.get(key):
            raise UserError(f"{file} lacks {key}; {ADAPTER_REMEDY}")
    return found


# --- weights that somebody else has quantised ---


def quantised_by(config: dict) -> str | None:
    """Name the method that a config.json says its weights were quantised by, None for whole ones.

    A method without a name is MLX's.
    """
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    for found in parts:
        for key in ("quantization_config", "compression_config", "quantization"):
            if not found.get(key):
                continue
            settings = found[key] if isinstance(found[key], dict) else {}
            of_bitsandbytes = settings.get("load_in_4bit") or settings.get("load_in_8bit")
            unnamed = "bitsandbytes" if of_bitsandbytes else "an unnamed method"
            return settings.get("quant_method") or unnamed
    return None


def refuse_quantised(file: Path, method: object, why: str) -> NoReturn:
    """Raise UserError for weights that others have quantised."""
    raise UserError(
        f"{file}: these weights were quantised by {shown(method)}, and {why}; fetch the checkpoint "
        "that is not quantised, and name it (an adapter's base: in base_model_name_or_path of its "
        "adapter_config.json); --quant nf4 makes it as small"
    )


def must_be_whole(directory: Path, why: str) -> None:
    """Raise UserError for weights that others have quantised, by whatever method."""
    method = quantised_by(read_config(directory))
    if method:
        refuse_quantised(Path(directory) / "config.json", method, why)


def check_quantised(file: Path, found: dict, full: bool, quant: str) -> None:
    """Raise UserError for a use that weights quantised by bitsandbytes do not allow.

    They are for inference, and for LoRA.
    """
    said = f"{file}: these weights were quantised by bitsandbytes"
    in_8_bits = (found.get("quantization_config") or {}).get("load_in_8bit")
    if quantised_by(found) and full:
        raise UserError(
            f"{said}, and cannot be trained themselves; add --lora-r 16, or name the checkpoint "
            "that is not quantised"
        )
    if in_8_bits and quant == "nf4":
        raise UserError(
            f"{said} to 8 bits, and --quant nf4 wants whole ones; use --quant none, or name the "
            "checkpoint that is not quantised"
        )


# --- settings as transformers reads them ---


def load_tokenizer(directory: Path):
    """The checkpoint's tokenizer. UserError unless it gives a text back, in fewer tokens."""
    from transformers import AutoTokenizer

    sample = "How many red objects are there? Count them: 1, 2."
    file = directory / "tokenizer_config.json"
    if file.is_file():
        read_object(file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        ids = tokenizer(sample, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    except Exception as error:  # the tokenizers library raises bare Exception for most damage
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"{directory}: its tokenizer cannot be read ({first_line(error, 120)}); fetch the "
            "checkpoint again"
        ) from None
    if back != sample or len(ids) >= len(sample):
        raise UserError(
            f"{directory}/tokenizer.json is damaged: it makes {len(ids)} tokens of {sample!r} and "
            f"{back[:60]!r} of these; fetch the checkpoint again"
        )
    return tokenizer


def check_processor(directory: Path, config: dict, image_processor, special, words: int) -> None:
    """Check that pictures and tokens are as the model in config.json takes them.

    words: of the tokenizer, special tokens included.
    """
    vision = config.get("vision_config") or {}
    patch = families.FAMILIES[config["model_type"]].image_processor["patch_size"]
    for ours, theirs, usual in (
        ("patch_size", "patch_size", patch),
        ("temporal_patch_size", "temporal_patch_size", 2),
        ("merge_size", "spatial_merge_size", 2),
    ):
        value, needed = getattr(image_processor, ours), vision.get(theirs) or usual
        if value != needed:
            raise UserError(
                f"{directory}/preprocessor_config.json: {ours} is {value}, but the model in "
                f"config.json takes {needed}; correct it there, or fetch the checkpoint again"
            )
    image = config.get("image_token_id")
    if image is not None and image != special.image_id:
        raise UserError(
            f"{directory}: {special.image} is token {special.image_id} of its tokenizer, but "
            f"{image} in config.json; fetch the tokenizer's files of this checkpoint"
        )
    rows = text_of(config)[0].get("vocab_size")
    last = max(*special.eos_ids, *special.vision_ids, words - 1)
    if rows and last >= rows:
        raise UserError(
            f"{directory}: its tokenizer has the token {last}, but vocab_size in "
            f"config.json is {rows}; fetch the tokenizer's files of this checkpoint"
        )


def check_adapter(directory: Path, base: str) -> None:
    """Check an adapter's settings against each other and its weights."""
    from peft import PeftConfig

    file = directory / "adapter_config.json"
    found = read_adapter(directory)
    base_weights = read_weights(Path(base)) if os.path.isdir(base) else {}
    layers = [family.lora_layers.values() for family in families.FAMILIES.values()]
    ours = [pattern for each in layers for pattern in (*each, "|".join(each))]  # need no try
    check_patterns(file, found, [name.removesuffix(".weight") for name in base_weights], ours)
    with contextlib.redirect_stdout(None):
        config = parsed(file, lambda _: PeftConfig.from_pretrained(directory), found)
    if config.is_prompt_learning:
        raise UserError(
            f"{file}: peft_type {found['peft_type']} puts trained tokens before the prompt, which "
            "is not supported; name a LoRA, or its base model"
        )
    shapes = adapter_weights(directory)
    must_be_floats(directory, shapes)
    if found["peft_type"] == "LORA":
        words, _ = text_of(read_config(Path(base)) if os.path.isdir(base) else {})
        # transformers 5 saves num_experts as num_local_experts.
        experts = words.get("num_experts") or words.get("num_local_experts") or 1
        check_ranks(file, found, shapes, experts)


def check_ranks(file: Path, found: dict, shapes: dict, experts: int) -> None:
    """Compare the rank of a LoRA with the shapes of its weights. experts: of a layer."""
    downward = {key: stored.shape for key, stored in shapes.items() if ".lora_A." in key}
    allowed = {found["r"], *(found.get("rank_pattern") or {}).values()}
    if found.get("target_parameters"):  # a layer's experts lie one after the other
        allowed |= {rank * experts for rank in allowed}
    for key, shape in downward.items():
        if shape[0] not in allowed:
            raise UserError(
                f"{file}: r is {found['r']}, but {key} has rank {shape[0]}; correct r there, or "
                "fetch the adapter again"
            )


def adapted(directory: Path) -> int:
    """Count the modules that a LoRA has weights for."""
    return sum(".lora_A." in key for key in adapter_weights(directory))


def adapter_weights(directory: Path) -> dict:
    """{name: Stored} of an adapter's weights."""
    weights, pickled = directory / "adapter_model.safetensors", directory / "adapter_model.bin"
    if not weights.is_file() and not pickled.is_file():
        raise UserError(
            f"the adapter in {directory} has no adapter_model.safetensors; fetch it again"
        )
    return read_header(weights) if weights.is_file() else read_pickle(pickled)


def parsed(file: Path, read: Callable, found: dict):
    """read(found), where `read` is a configuration class of another library."""
    from huggingface_hub.errors import StrictDataclassError

    odd = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(found)
    except (*odd, StrictDataclassError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{file} cannot be read ({reason}); correct it, or fetch it again"
        ) from None


def check_model(directory: Path, full: bool = False, quant: str = "none") -> None:
    """Check that config.json, generation_config.json and weights fit, before memory is taken.

    full: all weights will train. quant: how they are asked for.
    """
    from transformers import GenerationConfig

    directory = Path(directory)
    file = directory / "config.json"
    found = read_config(directory)
    check_quantised(file, found, full, quant)
    family = families.FAMILIES[found["model_type"]]
    config = parsed(file, family.config_class().from_dict, found)
    must_divide(file, family, config.text_config, config.vision_config)
    rope = config.text_config.rope_parameters
    check(file, {**rope, "rope_theta": rope.get("rope_theta") or 0}, ROPE, "rope_parameters.")
    generation = directory / "generation_config.json"
    if generation.is_file():
        parsed(generation, GenerationConfig.from_dict, read_object(generation))
    check_sizes(file, family, config, read_weights(directory))


def must_divide(file: Path, family: families.Family, words, vision) -> None:
    """Check that heads share the width evenly, and M-RoPE's sections a head."""
    even, rest = divmod(words.hidden_size, words.num_attention_heads)
    head = families.head_size(words)
    rest = rest and not family.has_head_dim
    sections = (words.rope_parameters or {}).get("mrope_section")
    layer_types = getattr(words, "layer_types", None) or ["full_attention"]
    side = vision.patch_size * vision.spatial_merge_size
    width, out = getattr(vision, family.tower_width), getattr(vision, family.tower_out)
    if rest or words.num_attention_heads % words.num_key_value_heads:
        problem = (
            f"hidden_size {words.hidden_size}, num_attention_heads {words.num_attention_heads} "
            f"and num_key_value_heads {words.num_key_value_heads} do not divide"
        )
    elif head != even and not family.has_head_dim:
        problem = f"head_dim is {head}, but hidden_size / num_attention_heads is {even}"
    elif set(layer_types) != {"full_attention"}:
        problem = "sliding-window attention (use_sliding_window, layer_types) is not supported"
    elif sections is None or 2 * sum(sections) != head:
        problem = f"mrope_section is {sections}, but a head of {head} needs a sum of {head // 2}"
    elif width % (4 * vision.num_heads):
        problem = f"vision {family.tower_width} {width} is no multiple of 4 x num_heads"
    elif getattr(vision, "window_size", side) < side:
        problem = f"window_size {vision.window_size} is less than an image token's {side} pixels"
    elif out != words.hidden_size:
        problem = f"vision {family.tower_out} {out} is not hidden_size {words.hidden_size}"
    elif words.pad_token_id is not None and words.pad_token_id >= words.vocab_size:
        problem = f"pad_token_id {words.pad_token_id} is not below vocab_size {words.vocab_size}"
    else:
        return
    raise UserError(f"{file}: {problem}; correct it there, or fetch the checkpoint again")


def check_sizes(file: Path, family: families.Family, config, weights: dict) -> None:
    """Compare the sizes that config.json claims with the shapes in the weights' files."""
    words, vision = config.text_config, config.vision_config
    claimed = family.text_shapes(words) | family.tower_shapes(vision)
    if getattr(config, "quantization_config", None):  # packed: shapes and names are others
        parameters = words.num_hidden_layers * sum(math.prod(s) for s in claimed.values())
        if parameters > 8 * sum(math.prod(stored.shape) for stored in weights.values()):
            raise UserError(f"{file} claims more than its weights hold; fetch the checkpoint again")
        return
    for what, key, number in (
        ("layers", "num_hidden_layers", words.num_hidden_layers),
        ("blocks", "depth", vision.depth),
    ):
        found = {int(n) for n in re.findall(rf"\b{what}\.(\d+)\.", "\n".join(weights))}
        lacking = next((n for n in range(number) if n not in found), None)
        if lacking is not None:
            raise UserError(
                f"{file}: {key} is {number}, but weights are missing ({what}.{lacking}, ...); "
                "the checkpoint is incomplete, fetch it again"
            )
        if len(found) > number:
            raise UserError(
                f"{file}: {key} is {number}, but the weights have {len(found)} {what}; "
                f"correct {key}, or fetch the checkpoint again"
            )
    for weight, stored in weights.items():
        numberless = re.sub(r"\b(layers|blocks)\.\d+\.", r"\1.#.", weight)
        for end, shape in claimed.items():
            if numberless.endswith(f".{end}") and not fits(stored.shape, shape):
                raise UserError(
                    f"{file}: {weight} is of the wrong shape, {list(stored.shape)} where the "
                    f"config says {list(shape)}; correct the config, or {REMEDY}"
                )
    must_be_floats(file.parent, weights)


def fits(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Compare two shapes; experts, of three dimensions, are stored either way round."""
    if len(shape) == 3:
        return sorted(stored) == sorted(shape)
    return stored == shape


def must_be_floats(directory: Path, weights: dict) -> None:
    """Check that no weight is stored as whole numbers."""
    whole_numbers = [weight for weight, stored in weights.items() if not stored.is_float]
    if whole_numbers:
        raise UserError(
            f"{directory}: {whole_numbers[0]} is stored as whole numbers or in 8 bits; fetch the "
            "checkpoint again, in float32, bfloat16 or float16"
        )
