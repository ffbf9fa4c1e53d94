"""Check the fields of a checkpoint's JSON files: kinds of values, and a table for each file.

Only what is used is checked. UserError names file, field and remedy.
"""

import json
import re
import sys
from pathlib import Path

import torch

from plumbing import disk
from plumbing.errors import UserError

MOST = 2**31  # of a size: more is damage
MOST_LAYERS = 10_000

REMEDY = "fetch the checkpoint again"
ADAPTER_REMEDY = "fetch or save the adapter again"
RUN_REMEDY = "delete the file, and give the flags that it stood for"


# --- kinds of values ---


def is_number(value) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # 10**400: no float


def is_whole(value, most: int = MOST) -> bool:
    return type(value) is int and 0 < value <= most


def size(value) -> bool:
    """a whole number above 0"""
    return is_whole(value)


def layers(value) -> bool:
    """a number of layers"""
    return is_whole(value, MOST_LAYERS)


def whole(value) -> bool:
    """a whole number above 0"""
    return is_whole(value, 2**62)


def positive(value) -> bool:
    """a finite number above 0"""
    return is_number(value) and value > 0


def fraction(value) -> bool:
    """a number from 0 to below 1"""
    return is_number(value) and 0 <= value < 1


def small(value) -> bool:
    """a number above 0 and below 1"""
    return is_number(value) and 0 < value < 1


def scale(value) -> bool:
    """a number above 0, at most 1"""
    return is_number(value) and 0 < value <= 1


def switch(value) -> bool:
    """true or false"""
    return type(value) is bool


def text(value) -> bool:
    """a text"""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


def name(value) -> bool:
    """a name"""
    return text(value) and bool(value.strip())


def settings(value) -> bool:
    """an object"""
    return isinstance(value, dict)


def token_id(value) -> bool:
    """a token's id"""
    return type(value) is int and -1 <= value < MOST


def dtype(value) -> bool:
    """the name of a dtype of torch, such as bfloat16"""
    if not isinstance(value, str):
        return False
    known = getattr(torch, value.removeprefix("torch."), None)
    return isinstance(known, torch.dtype) and known.is_floating_point


def three_numbers(value) -> bool:
    """three numbers, one a color"""
    return isinstance(value, list) and len(value) == 3 and all(is_number(v) for v in value)


def three_positive(value) -> bool:
    """three numbers above 0, one a color"""
    return three_numbers(value) and min(value) > 0


def color_means(value) -> bool:
    """three numbers, one a color"""
    return is_number(value) or three_numbers(value)


def color_deviations(value) -> bool:
    """three numbers above 0, one a color"""
    return positive(value) or three_positive(value)


def resampling(value) -> bool:
    """a whole number from 0 to 5, one of Pillow's filters"""
    return type(value) is int and 0 <= value <= 5


def rope_sections(value) -> bool:
    """three whole numbers above 0"""
    return isinstance(value, list) and len(value) == 3 and all(size(v) for v in value)


def indices(value) -> bool:
    """a list of whole numbers from 0"""
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def modules(value) -> bool:
    """a regular expression or a list of names"""
    return text(value) or names(value)


def names(value) -> bool:
    """a list of names"""
    return isinstance(value, list) and all(name(v) for v in value)


def name_or_names(value) -> bool:
    """a name or a list of names"""
    return name(value) or names(value)


def ranks(value) -> bool:
    """an object of whole numbers above 0"""
    return isinstance(value, dict) and all(size(v) for v in value.values())


def scales(value) -> bool:
    """an object of numbers above 0"""
    return isinstance(value, dict) and all(alpha(v) for v in value.values())


def alpha(value) -> bool:
    """a number above 0, at most 65536"""
    return is_number(value) and 0 < value <= 65536


def nothing(value) -> bool:
    """null, as in any plain LoRA"""
    return False  # null counts as not given


def quantisation(value) -> bool:
    """none or nf4"""
    return value in ("none", "nf4")


def box_format(value) -> bool:
    """norm1000, resized or pixels"""
    return value in ("norm1000", "resized", "pixels")


def arithmetic(value) -> bool:
    """auto, float32 or bfloat16"""
    return value in ("auto", "float32", "bfloat16")


# --- what each file says ---

CONFIG = {
    "text_config": settings,
    "vision_config": settings,
    "quantization_config": settings,
    "image_token_id": token_id,
    "tie_word_embeddings": switch,
    "dtype": dtype,
    "torch_dtype": dtype,
}
TEXT_CONFIG = {
    "vocab_size": size,
    "hidden_size": size,
    "intermediate_size": size,
    "num_hidden_layers": layers,
    "num_attention_heads": size,
    "num_key_value_heads": size,
    "head_dim": size,
    "num_experts": size,
    "num_local_experts": size,
    "num_experts_per_tok": size,
    "moe_intermediate_size": size,
    "attention_bias": switch,
    "max_position_embeddings": whole,
    "rms_norm_eps": small,
    "rope_theta": positive,
    "rope_scaling": settings,
    "rope_parameters": settings,
    "attention_dropout": fraction,
    "hidden_act": name,
    "model_type": name,
    "pad_token_id": token_id,
    "tie_word_embeddings": switch,
    "dtype": dtype,
    "torch_dtype": dtype,
}
VISION_CONFIG = {
    "depth": layers,
    "embed_dim": size,
    "num_heads": size,
    "hidden_size": size,
    "mlp_ratio": size,
    "intermediate_size": size,
    "out_hidden_size": size,
    "window_size": size,
    "fullatt_block_indexes": indices,
    "num_position_embeddings": size,
    "deepstack_visual_indexes": indices,
    "patch_size": size,
    "spatial_merge_size": size,
    "temporal_patch_size": size,
    "in_channels": size,
    "hidden_act": name,
    "model_type": name,
    "dtype": dtype,
    "torch_dtype": dtype,
}
ROPE = {
    "type": name,
    "rope_type": name,
    "rope_theta": positive,
    "factor": positive,
    "mrope_section": rope_sections,
}
PREPROCESSOR = {
    "do_rescale": switch,
    "do_normalize": switch,
    "do_convert_rgb": switch,
    "rescale_factor": scale,
    "image_mean": color_means,
    "image_std": color_deviations,
    "patch_size": size,
    "temporal_patch_size": size,
    "merge_size": size,
    "resample": resampling,
}
ADAPTER = {
    "peft_type": name,
    "base_model_name_or_path": name,
    "r": size,
    "lora_alpha": alpha,
    "lora_dropout": fraction,
    "target_modules": modules,
    "exclude_modules": modules,
    "modules_to_save": names,
    "target_parameters": names,
    "rank_pattern": ranks,
    "alpha_pattern": scales,
    "use_rslora": switch,
    "use_dora": switch,
    "alora_invocation_tokens": nothing,
}
RUN = {
    "quant": quantisation,
    "dtype": arithmetic,
    "max_pixels": whole,
    "min_pixels": whole,
    "max_image_pixels": size,
    "prompt_template": name,
    "system_prompt": text,
    "box_format": box_format,
    "data": name_or_names,
}


# --- reading and checking ---


def read_object(file: Path, remedy: str = REMEDY) -> dict:
    """Read a JSON file that holds an object."""
    try:
        found = json.loads(disk.read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        reason = first_line(error, 100)
        raise UserError(f"{file} is not readable JSON ({reason}); {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds {shown(found)}, not an object; {remedy}")
    return found


def check(file: Path, found: dict, table: dict, under: str = "", remedy: str = "") -> None:
    """Check the settings that are there. One that is null counts as not given."""
    remedy = remedy or f"correct it there, or {REMEDY}"
    for key, kind in table.items():
        value = found.get(key)
        if value is not None and not kind(value):
            raise UserError(f"{file}: {under}{key} is {shown(value)}, not {kind.__doc__}; {remedy}")


def shown(value) -> str:
    """Spell a value as JSON, in few letters."""
    try:
        spelled = json.dumps(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a {type(value).__name__}"
    return spelled if len(spelled) <= 60 else f"{spelled[:57]}..."


def first_line(error: BaseException, most: int = 160) -> str:
    """Say what an error of another library says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__
