"""Check the files of a checkpoint that somebody else made, where they are read.

Only what is used is checked: settings by the tables below, sizes against the weights' own headers, a
chat template and regular expressions by a try in a child process. UserError names file and remedy.
"""

import contextlib
import json
import math
import os
import pickle
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from plumbing import disk
from plumbing.arguments import read_args
from plumbing.errors import UserError

MOST = 2**31  # of a size: more is damage
MOST_LAYERS = 10_000
CPU_SECONDS = 1.0
MEMORY_BYTES = 512 * 2**20
STUCK_SECONDS = 300  # of the clock: only a child that waits for something needs so long

# --- kinds of values ---


def is_number(value) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


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


def modules(value) -> bool:
    """a regular expression or a list of names"""
    return text(value) or names(value)


def names(value) -> bool:
    """a list of names"""
    return isinstance(value, list) and all(name(v) for v in value)


def ranks(value) -> bool:
    """an object of whole numbers above 0"""
    return isinstance(value, dict) and all(size(v) for v in value.values())


def scales(value) -> bool:
    """an object of numbers above 0"""
    return isinstance(value, dict) and all(positive(v) for v in value.values())


def lora(value) -> bool:
    """LORA, the only kind of adapter that is read here"""
    return value == "LORA"


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
    "max_position_embeddings": whole,
    "rms_norm_eps": positive,
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
    "rescale_factor": positive,
    "image_mean": color_means,
    "image_std": color_deviations,
    "patch_size": size,
    "temporal_patch_size": size,
    "merge_size": size,
    "resample": resampling,
}
ADAPTER = {
    "peft_type": lora,
    "base_model_name_or_path": name,
    "r": size,
    "lora_alpha": positive,
    "lora_dropout": fraction,
    "target_modules": modules,
    "exclude_modules": modules,
    "modules_to_save": names,
    "rank_pattern": ranks,
    "alpha_pattern": scales,
}
RUN = {
    "quant": quantisation,
    "dtype": arithmetic,
    "max_pixels": whole,
    "min_pixels": whole,
    "prompt_template": name,
    "system_prompt": text,
    "box_format": box_format,
    "data": name,
}


def read_object(file: Path, remedy: str = "fetch the checkpoint again") -> dict:
    """Read a JSON file that holds an object."""
    try:
        found = json.loads(disk.read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        reason = first_line(error, 100)
        raise UserError(f"{file} is not readable JSON ({reason}); {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds {shown(found)}, not an object; {remedy}")
    return found


def check(file: Path, found: dict, table: dict, under: str = "") -> None:
    """Check the settings that are there. One that is null counts as not given."""
    for key, kind in table.items():
        value = found.get(key)
        if value is not None and not kind(value):
            raise UserError(
                f"{file}: {under}{key} is {shown(value)}, not {kind.__doc__}; correct it there, or "
                "fetch the checkpoint again"
            )


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


def read_run(directory: str | Path) -> dict:
    """Read what a checkpoint was trained with: its args.json, {} where there is none."""
    found = read_args(directory)
    check(Path(directory) / "args.json", found, RUN)
    return found


def read_config(directory: Path) -> dict:
    """Read config.json of a Qwen2-VL checkpoint, of 2024 (flat) or of today (nested)."""
    file = Path(directory) / "config.json"
    found = read_object(file)
    kind = found.get("model_type")
    if kind != "qwen2_vl":
        raise UserError(
            f"{file}: model_type is {kind}, but only qwen2_vl (Qwen2-VL) can be loaded; "
            "name a Qwen2-VL checkpoint"
        )
    check(file, found, CONFIG)
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
    """Read adapter_config.json of a LoRA."""
    file = Path(directory) / "adapter_config.json"
    found = read_object(file, "fetch or save the adapter again")
    if not found.get("base_model_name_or_path"):
        raise UserError(f"{file} does not name its base model; set base_model_name_or_path there")
    check(file, found, ADAPTER)
    for key in ("peft_type", "r", "target_modules"):
        if not found.get(key):
            raise UserError(f"{file} lacks {key}; fetch or save the adapter again")
    return found


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


def check_processor(directory: Path, config: dict, image_processor, special) -> None:
    """Check that pictures and special tokens are as the model in config.json takes them."""
    vision = config.get("vision_config") or {}
    for ours, theirs, usual in (
        ("patch_size", "patch_size", 14),
        ("temporal_patch_size", "temporal_patch_size", 2),
        ("merge_size", "spatial_merge_size", 2),
    ):
        value, needed = getattr(image_processor, ours), vision.get(theirs) or usual
        if value != needed:
            raise UserError(
                f"{directory}/preprocessor_config.json: {ours} is {value}, but the model in "
                f"config.json takes {needed}; correct it there, or fetch the checkpoint again"
            )
    rows = text_of(config)[0].get("vocab_size")
    last = max(special.eos_ids + special.vision_ids)
    if rows and last >= rows:
        raise UserError(
            f"{directory}: its tokenizer has the special token {last}, but vocab_size in "
            f"config.json is {rows}; fetch the tokenizer's files of this checkpoint"
        )


def check_adapter(directory: Path, found: dict, modules: list[str]) -> int:
    """Check an adapter's settings against each other and its weights. Returns the adapted modules."""
    from peft import LoraConfig

    file = directory / "adapter_config.json"
    check_patterns(file, found, modules)
    with contextlib.redirect_stdout(None):
        parsed(file, lambda _: LoraConfig.from_pretrained(directory), found)
    weights, pickled = directory / "adapter_model.safetensors", directory / "adapter_model.bin"
    if not weights.is_file() and not pickled.is_file():
        raise UserError(
            f"the adapter in {directory} has no adapter_model.safetensors; fetch it again"
        )
    shapes = read_header(weights) if weights.is_file() else read_pickle(pickled)
    downward = {key: shape for key, shape in shapes.items() if ".lora_A." in key}
    allowed = {found["r"], *(found.get("rank_pattern") or {}).values()}
    for key, shape in downward.items():
        if shape[0] not in allowed:
            raise UserError(
                f"{file}: r is {found['r']}, but {key} has rank {shape[0]}; correct r there, or "
                "fetch the adapter again"
            )
    return len(downward)


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


def check_model(directory: Path) -> None:
    """Check that config.json, generation_config.json and weights fit, before memory is taken."""
    from transformers import GenerationConfig, Qwen2VLConfig

    directory = Path(directory)
    file = directory / "config.json"
    config = parsed(file, Qwen2VLConfig.from_dict, read_config(directory))
    must_divide(file, config.text_config, config.vision_config)
    rope = config.text_config.rope_parameters
    check(file, {**rope, "rope_theta": rope.get("rope_theta") or 0}, ROPE, "rope_parameters.")
    generation = directory / "generation_config.json"
    if generation.is_file():
        parsed(generation, GenerationConfig.from_dict, read_object(generation))
    check_sizes(file, config, read_weights(directory))


def must_divide(file: Path, words, vision) -> None:
    """Check that heads share the width evenly, and M-RoPE's sections a head."""
    head, rest = divmod(words.hidden_size, words.num_attention_heads)
    sections = (words.rope_parameters or {}).get("mrope_section")
    if rest or words.num_attention_heads % words.num_key_value_heads:
        problem = (
            f"hidden_size {words.hidden_size}, num_attention_heads {words.num_attention_heads} "
            f"and num_key_value_heads {words.num_key_value_heads} do not divide"
        )
    elif sections is None or 2 * sum(sections) != head:
        problem = f"mrope_section is {sections}, but a head of {head} needs a sum of {head // 2}"
    elif vision.embed_dim % (4 * vision.num_heads):
        problem = f"vision embed_dim {vision.embed_dim} is no multiple of 4 x num_heads"
    elif vision.hidden_size != words.hidden_size:
        problem = f"vision hidden_size {vision.hidden_size} is not hidden_size {words.hidden_size}"
    elif words.pad_token_id is not None and words.pad_token_id >= words.vocab_size:
        problem = f"pad_token_id {words.pad_token_id} is not below vocab_size {words.vocab_size}"
    else:
        return
    raise UserError(f"{file}: {problem}; correct it there, or fetch the checkpoint again")


def check_sizes(file: Path, config, weights: dict) -> None:
    """Compare the sizes that config.json claims with the shapes in the weights' files."""
    words, vision = config.text_config, config.vision_config
    claimed = claimed_shapes(words, vision)
    if getattr(config, "quantization_config", None):  # packed: shapes and names are others
        parameters = words.num_hidden_layers * sum(math.prod(s) for s in claimed.values())
        if parameters > 8 * sum(math.prod(shape) for shape in weights.values()):
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
    for end, shape in claimed.items():
        for weight, has in weights.items():
            if weight.endswith(f".{end}") and tuple(has) != shape:
                raise UserError(
                    f"{file}: {weight} is of the wrong shape, {list(has)} where the config says "
                    f"{list(shape)}; correct the config, or fetch the checkpoint again"
                )


def claimed_shapes(words, vision) -> dict:
    """{end of a weight's name: shape}, of weights that tell all sizes in config.json."""
    D, I, W = words.hidden_size, words.intermediate_size, vision.embed_dim
    kv = D // words.num_attention_heads * words.num_key_value_heads
    merged = W * vision.spatial_merge_size**2
    patch = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    return {
        "embed_tokens.weight": (words.vocab_size, D),
        "self_attn.q_proj.weight": (D, D),
        "self_attn.k_proj.weight": (kv, D),
        "self_attn.v_proj.weight": (kv, D),
        "mlp.gate_proj.weight": (I, D),
        "mlp.down_proj.weight": (D, I),
        "patch_embed.proj.weight": (W, vision.in_channels, *patch),
        "attn.qkv.weight": (3 * W, W),
        "mlp.fc1.weight": (W * vision.mlp_ratio, W),
        "merger.mlp.0.weight": (merged, merged),
        "merger.mlp.2.weight": (D, merged),
    }


# --- weights, by their headers ---


def read_weights(directory: Path) -> dict:
    """{name: shape} of a checkpoint's weights, without reading them."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    pickled = directory / "pytorch_model.bin"
    if single.is_file():
        return read_header(single)
    if index.is_file():
        return read_shards(index)
    if pickled.is_file():
        return read_pickle(pickled)
    if (directory / "pytorch_model.bin.index.json").is_file():
        return read_shards(directory / "pytorch_model.bin.index.json")
    raise UserError(f"{directory} holds no weights (model.safetensors); fetch the checkpoint again")


def read_shards(index: Path) -> dict:
    """{name: shape} of the weights that an index names, from the files beside it."""
    found = read_object(index)
    check(index, found, {"weight_map": settings, "metadata": settings})
    where = found.get("weight_map") or {}
    shapes = {}
    for file in sorted({f if isinstance(f, str) else shown(f) for f in where.values()}):
        path = index.parent / file
        if "\0" in file or Path(file).name != file or not os.path.isfile(path):
            raise UserError(
                f"{index} names the file {file[:100]!r}, which is not beside it; "
                "fetch the checkpoint again"
            )
        shapes |= read_pickle(path) if file.endswith(".bin") else read_header(path)
    lacking = sorted(set(where) - set(shapes))
    if lacking or not where:
        raise UserError(
            f"{index} names {lacking[0][:100] if lacking else 'nothing'}, which is in none of its "
            "files; fetch the checkpoint again"
        )
    return shapes


def read_header(file: Path) -> dict:
    """{name: shape} of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return {key: opened.get_slice(key).get_shape() for key in opened.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is no whole safetensors file ({first_line(error, 100)}); fetch it again"
        ) from None


def read_pickle(file: Path) -> dict:
    """{name: shape} of a file of torch.save. No code in it runs, and no weights are read."""
    try:
        found = torch.load(file, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError):
        found = None
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise UserError(
            f"{file} is a pickle and holds more than weights, or is damaged; nothing of it was "
            "run: fetch the checkpoint as safetensors, or convert it"
        )
    return {key: tuple(value.shape) for key, value in found.items()}


# --- code of somebody else: chat templates and regular expressions ---


def bounded(work: Callable, *given):
    """work(*given), a JSON value, from a child with little CPU time and memory.

    None if it took more. The kernel counts CPU time, so that a busy machine makes no difference.
    Windows cannot do that: there it runs here.
    """
    if not hasattr(os, "fork"):
        return work(*given)
    sys.stdout.flush()
    sys.stderr.flush()
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            limit_child()
            with os.fdopen(into, "w") as answer:
                answer.write(json.dumps(work(*given)))
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None


def limit_child() -> None:
    """Limit what this process may take from now on."""
    import resource

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.alarm(STUCK_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # /proc is Linux's
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def chat_template(tokenizer, directory: Path) -> str | dict | None:
    """The tokenizer's chat template, or that of chat_template.json (2024).

    None if there is none, or if it renders nothing of a question that is given in parts: that of
    the base models, which knows no turns, and one of a model that only reads text.
    UserError for one that is broken, or takes more than a second of CPU time or 512 MB.
    """
    directory = Path(directory)
    file = directory / "tokenizer_config.json"
    if (directory / "chat_template.jinja").is_file():
        file = directory / "chat_template.jinja"
    if tokenizer.chat_template is None and (directory / "chat_template.json").is_file():
        file = directory / "chat_template.json"
        tokenizer.chat_template = read_object(file).get("chat_template")
    if tokenizer.chat_template is None:
        return None
    verdict = try_template(tokenizer)
    if verdict not in ("renders", "says nothing"):
        raise UserError(
            f"{file}: its chat template {verdict}; correct it there, or delete it to use "
            "Qwen2-VL's own"
        )
    return tokenizer.chat_template if verdict == "renders" else None


_TRIED = {}  # template: verdict; a reference model's is the policy's


def try_template(tokenizer) -> str:
    """ "renders", "says nothing", or what is wrong with the tokenizer's chat template."""
    key = json.dumps(tokenizer.chat_template)
    if key not in _TRIED:
        too_much = f"takes more than {CPU_SECONDS:g} s of CPU time, or 512 MB, for a short question"
        _TRIED[key] = bounded(render_samples, tokenizer) or too_much
    return _TRIED[key]


def render_samples(tokenizer) -> str:
    """Render a few conversations. The verdict is about the first; all must end."""
    question = "How many red objects are there? " * 40
    words, picture = {"type": "text", "text": question}, {"type": "image"}
    asks = [{"role": "user", "content": [picture] * n + [words]} for n in (0, 1, 2)]
    system = {"role": "system", "content": "Be brief."}
    verdict = render_sample(tokenizer, asks[:1], question)
    for messages in ([asks[1]], [asks[2]], [system, asks[1]]):
        render_sample(tokenizer, messages, question)
    return verdict


def render_sample(tokenizer, messages: list, question: str) -> str:
    """Render one conversation; say what came of it."""
    from jinja2 import UndefinedError

    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except (TypeError, UndefinedError):  # it takes the content for a text, not for parts
        return "says nothing"
    except MemoryError:
        return "takes more than 512 MB of memory"
    except RecursionError:
        return "calls itself without end"
    except Exception as error:  # a template is a program: it can raise anything
        return f"fails ({first_line(error, 100)})"
    says = question.strip() in rendered and "{'type'" not in rendered
    return "renders" if says else "says nothing"


def render(tokenizer, messages: list, images: int, source: str) -> str:
    """Render a prompt. UserError if the chat template fails, or places other than `images` images."""
    file = Path(tokenizer.name_or_path) / "tokenizer_config.json"
    remedy = f"correct the chat template in {file}, or delete it to use Qwen2-VL's own"
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program: it can raise anything
        raise UserError(
            f"{source}: the chat template fails ({first_line(error, 100)}); {remedy}"
        ) from None
    placed = rendered.count("<|image_pad|>")
    if placed != images:
        raise UserError(
            f"{source}: the chat template placed {placed} images, not {images}; {remedy}"
        )
    return rendered


def check_patterns(file: Path, found: dict, modules: list[str]) -> None:
    """Check that the regular expressions of an adapter compile and are quick."""
    patterns = [found[k] for k in ("target_modules", "exclude_modules") if found.get(k)]
    patterns = [p for p in patterns if isinstance(p, str)]
    patterns += [*(found.get("rank_pattern") or {}), *(found.get("alpha_pattern") or {})]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"{file}: {pattern[:60]!r} is no regular expression ({error}); correct it there, "
                "or fetch the adapter again"
            ) from None
    patterns = [p for p in patterns if not re.fullmatch(r"[\w.-]*", p)]
    if patterns and bounded(match_all, patterns, modules) is None:
        raise UserError(
            f"{file}: {patterns[0][:60]!r} takes more than {CPU_SECONDS:g} s to match; "
            "list the names of the modules there instead"
        )


def match_all(patterns: list[str], modules: list[str]) -> bool:
    """Match everything with everything, for the time that it takes."""
    for pattern in patterns:
        for module in modules:
            re.fullmatch(pattern, module)
            re.match(rf"(.*\.)?({pattern})$", module)
    return True
