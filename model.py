"""Qwen2-VL, as every script uses it: load, quantise, adapt, freeze, compute log-probs, save, export. One class of model, three sizes:
`tiny` (1.4 M parameters, made here, for laptops and tests), 2B and 7B. All three take the same path through this file.

Dimension key: N prompts, G completions of each, B = N * G rows (or rows of a micro-batch), groups contiguous; T response positions;
S prompt and response together, or packed: one prompt and all its responses; P prompt length; V vocabulary; D model width; H query heads,
KV key/value heads, K head size. Every (B, T) tensor speaks about the response tokens `targets`.

    python model.py export --model runs/grpo --output-dir exported      # one merged checkpoint that stock transformers loads
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import functools
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

import families
import logps
from plumbing import checkpoint_files, disk, fields, rundir, running, stopping, sums, templates
from plumbing.device import pick_device, pick_dtype
from plumbing.errors import UserError
from plumbing.flags import MAX_IMAGE_PIXELS, MAX_PIXELS, MIN_PIXELS, Parser
from tasks import toy


@dataclass
class Processor:
    """Text and pictures to numbers and back. special: ids by name (see `special_ids`). context: the most tokens a prompt and its answer may have."""

    tokenizer: object
    image_processor: object
    special: SimpleNamespace
    context: int

    def save(self, directory):
        """The tokenizer, its chat template and the image processor, as transformers reads them."""
        self.tokenizer.save_pretrained(directory)
        self.image_processor.save_pretrained(directory)

    def decode(self, ids):
        """Text of a response: (T,) ids up to the first end-of-text token, special tokens left out."""
        ids = [int(i) for i in ids]
        end = next((t for t, i in enumerate(ids) if i in self.special.eos_ids), len(ids))
        return self.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


# ----------------------------------------------------------------------------------------------------------------- load


def locate(name, named_by=None):
    """What --model names: (base, adapter) as paths or hub names. base is "tiny", a full checkpoint, or what an adapter was trained on; adapter
    is None or the adapter's directory. UserError if there is no such thing. named_by: the adapter whose base `name` is."""
    if name == "tiny":
        return "tiny", None
    path = Path(name)
    what = (
        f"{named_by}/adapter_config.json: the base model {name}" if named_by else f"--model {name}"
    )
    if not os.path.isdir(path):
        looks_local = (
            os.path.exists(path)
            or len(str(name)) > 200
            or str(name).startswith((".", "/", "~"))
            or str(name).count("/") != 1
            or str(name).split("/")[0] in ("runs", "checkpoints", "models")
        )
        if looks_local:
            raise UserError(
                f"{what}: no such directory; name a checkpoint's directory, a hub name (owner/model) or tiny"
            )
        path = fetch(name)
    rundir.check_model_files(path)  # first: it knows a better remedy than to fetch it again
    if (path / "adapter_config.json").is_file():
        if named_by:
            raise UserError(
                f"{named_by} is an adapter on {name}, itself an adapter; correct base_model_name_or_path in its adapter_config.json, or merge that first: "
                f"python model.py export --model {name} --output-dir merged"
            )
        base = checkpoint_files.read_adapter(path)["base_model_name_or_path"]
        if base == "tiny":  # a word for a model that is not trained, and lies in no directory
            raise UserError(
                f"{path}/adapter_config.json names the base model tiny; give there the directory of the model that the adapter was trained on"
            )
        beside = path / base
        if not os.path.isdir(base) and os.path.isdir(beside):
            base = str(beside)
        if Path(base).is_absolute() and not os.path.isdir(base):
            raise UserError(
                f"{path}/adapter_config.json names the base model {base[:200]}, which is not there; correct base_model_name_or_path"
            )
        base, _ = locate(base, named_by=path)
        return base, path
    if not (path / "config.json").is_file():
        newest = rundir.checkpoints(path)
        raise UserError(
            f"{what} holds no config.json and no adapter_config.json: not a Hugging Face checkpoint"
            + (f"; did you mean {newest[-1]}?" if newest else "")
        )
    checkpoint_files.read_config(path)
    return str(path), None


@functools.cache
def fetch(name):
    """The hub snapshot of `name` as a local directory, asked for once a run. UserError if it cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", sums.SUMS]
            )
        )
    except Exception as error:  # the hub client raises some twenty types: network, gating, spelling
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"--model {name} is no local directory and could not be fetched from the hub ({type(error).__name__}); check the name, or download it and give its directory"
        ) from None


def load_processor(directory, max_pixels=None, min_pixels=None):
    """Processor of a checkpoint's directory, without AutoProcessor (which needs torchvision). The chat template is the tokenizer's, or the
    checkpoint's chat_template.json (2024) or .jinja, or Qwen2-VL's format."""
    directory = Path(directory)
    if not any((directory / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        raise UserError(
            f"{directory} holds no tokenizer.json; copy the tokenizer's files of the original checkpoint there"
        )
    config = (
        checkpoint_files.read_config(directory) if (directory / "config.json").is_file() else {}
    )
    tokenizer = checkpoint_files.load_tokenizer(directory)
    special = families.special_ids(tokenizer)
    size = {"shortest_edge": min_pixels or MIN_PIXELS, "longest_edge": max_pixels or MAX_PIXELS}
    if size["shortest_edge"] > size["longest_edge"]:
        raise UserError(
            f"--min-pixels {size['shortest_edge']} is more than --max-pixels {size['longest_edge']}; lower it"
        )
    image_processor = families.QWEN2_VL.image_processor_class()(
        size=size, **checkpoint_files.read_preprocessor(directory)
    )
    checkpoint_files.check_processor(directory, config, image_processor, special, len(tokenizer))
    context = checkpoint_files.text_of(config)[0].get("max_position_embeddings") or 32768
    tokenizer.chat_template = (
        templates.chat_template(tokenizer, directory) or families.QWEN2_VL.chat_template
    )
    return Processor(tokenizer, image_processor, special, context)


def load(
    name,
    dtype=torch.float32,
    device="cpu",
    quant="none",
    train=None,
    max_pixels=None,
    min_pixels=None,
    seed=0,
):
    """(policy, processor) from --model. The policy is a Qwen2VLForConditionalGeneration, or a PeftModel around one.

    train: None for inference, or a namespace with lora_r, lora_alpha, lora_dropout, freeze_vision, freeze_merger, freeze_llm and
    gradient_checkpointing. What trains is float32 whatever `dtype` is, and computes under autocast: in bfloat16, at a learning rate of
    1e-6, an AdamW step is smaller than a weight's last bit and is lost (facts that bite, 17). What does not train is kept in `dtype`.
    quant "nf4": the language model's linears in 4 bits, vision tower and head left alone. Raises UserError for whatever does not fit.
    """
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        Qwen2VLForConditionalGeneration,
    )
    from transformers.masking_utils import sdpa_mask
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    base, adapter = locate(name)
    lora_r = train.lora_r if train else 0
    full = bool(train) and not lora_r and not adapter
    if quant == "nf4" and full:
        raise UserError(
            "--quant nf4 weights cannot be trained themselves; add --lora-r 16, or leave --quant away"
        )
    if base == "tiny":
        model, tokenizer, image_processor = families.tiny(seed)
        image_processor.size = {
            "shortest_edge": min_pixels or MIN_PIXELS,
            "longest_edge": max_pixels or MAX_PIXELS,
        }
        processor = Processor(tokenizer, image_processor, families.special_ids(tokenizer), 4096)
        if quant == "nf4":  # bitsandbytes quantises while loading: save, and load like any other
            with tempfile.TemporaryDirectory() as directory:
                model.save_pretrained(directory)
                model = from_pretrained(
                    families.QWEN2_VL.model_class(), directory, dtype, device, quant
                )
        elif not full:
            for (
                parameter
            ) in model.parameters():  # not model.to(dtype): that rounds the rotary frequencies too
                parameter.data = parameter.data.to(dtype)
    else:
        checkpoint_files.check_model(
            base
        )  # these first: they take a second, and the weights minutes
        if adapter:
            checkpoint_files.check_adapter(adapter, base, families.QWEN2_VL.lora_targets)
        processor = load_processor(base, max_pixels, min_pixels)
        model = from_pretrained(
            Qwen2VLForConditionalGeneration, base, torch.float32 if full else dtype, device, quant
        )
    if quant == "none":
        model.to(device)
    (
        model.generation_config.top_k,
        model.generation_config.top_p,
        model.generation_config.temperature,
    ) = 50, 1.0, 1.0
    model.generation_config.repetition_penalty, model.generation_config.do_sample = (
        1.0,
        False,
    )  # the published ones are silently greedy
    model.requires_grad_(False)
    policy = model
    if adapter:
        policy = load_adapter(model, adapter, train)
    elif lora_r:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        policy = get_peft_model(
            model,
            LoraConfig(
                r=lora_r,
                lora_alpha=train.lora_alpha or 2 * lora_r,
                lora_dropout=train.lora_dropout,
                target_modules=families.QWEN2_VL.lora_targets,
                task_type="CAUSAL_LM",
            ),
        )
        if base != "tiny" and not Path(name).is_dir():  # the hub's name, not this machine's cache
            policy.peft_config["default"].base_model_name_or_path = name
    if full:
        unfreeze(model, train)
        for module in model.modules():  # frozen parts back to --dtype, trained ones stay float32
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if train and not any(p.requires_grad for p in policy.parameters()):
        raise UserError(
            "everything is frozen: leave away one of --freeze-vision, --freeze-merger, --freeze-llm"
        )
    if train and train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = True  # a checkpoint saved with it off generates at a crawl
    AttentionInterface.register("packed", logps.packed_attention)
    AttentionMaskInterface.register("packed", sdpa_mask)
    model.model.language_model.config._attn_implementation = (
        "packed"  # never switched, not saved; the vision tower keeps sdpa
    )
    model.compute_dtype = dtype
    policy.eval()
    return policy, processor


def from_pretrained(cls, directory, dtype, device, quant):
    """cls.from_pretrained, in 4 bits if asked, with the ways it fails put in words. Weights that are missing are an error, not noise."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    options = dict(
        dtype=dtype, attn_implementation="sdpa", ignore_mismatched_sizes=True
    )  # mismatches are reported below, with their names
    if quant == "nf4":
        try:
            import bitsandbytes
            from transformers import BitsAndBytesConfig
        except ImportError:
            raise UserError("--quant nf4 needs bitsandbytes: pip install bitsandbytes") from None
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=families.QWEN2_VL.keep_unquantised,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, report = cls.from_pretrained(directory, output_loading_info=True, **options)
    except torch.OutOfMemoryError:
        raise
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        ImportError,
        TypeError,
        AttributeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:  # of transformers, alone here
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"{directory} cannot be loaded as Qwen2-VL ({fields.first_line(error)}); fetch or save the checkpoint again"
        ) from None
    lacking = sorted(report["missing_keys"]) + [
        str(entry[0]) for entry in report.get("mismatched_keys", [])
    ]
    lacking = [
        key for key in lacking if not (key == "lm_head.weight" and model.config.tie_word_embeddings)
    ]
    if lacking:
        raise UserError(
            f"{directory}: {len(lacking)} weights are missing or of the wrong shape ({', '.join(lacking[:3])}, ...); the checkpoint is incomplete, fetch it again"
        )
    outside = [
        n
        for n, m in model.named_modules()
        if type(m).__name__ in ("Linear4bit", "Linear8bitLt")
        and not n.startswith("model.language_model.layers.")
    ]
    if outside and quant == "none":
        raise UserError(
            f"{directory}: quantization_config in its config.json puts layers outside the language model in few bits ({outside[0]}); "
            "fetch the checkpoint that is not quantised, and add --quant nf4"
        )
    if quant == "nf4":
        for module in model.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                # bitsandbytes 0.50.2 repacks a layer at its first evaluation on CPUs with AVX512-BF16, after which no gradient passes (facts that bite, 14).
                module.support_avx512bf16_for_cpu = False
        inside = [n for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
        wrong = [n for n in inside if not n.startswith("model.language_model.layers.")]
        if wrong or len(inside) != 7 * model.config.text_config.num_hidden_layers:
            raise UserError(
                f"bitsandbytes put {len(inside)} layers in 4 bits, {len(wrong)} of them outside the language model ({wrong[:2]}); use the versions of requirements.txt"
            )
    return model


def load_adapter(model, adapter, train):
    """PeftModel of `model` with the adapter in directory `adapter`, trainable if `train`."""
    from peft import PeftModel
    from safetensors import SafetensorError

    config = checkpoint_files.read_adapter(adapter)
    if train and train.lora_r and train.lora_r != config.get("r"):
        raise UserError(
            f"--lora-r {train.lora_r}, but the adapter in {adapter} has rank {config.get('r')}; leave --lora-r away, or merge it first: "
            f"python model.py export --model {adapter} --output-dir merged"
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            policy = PeftModel.from_pretrained(model, adapter, is_trainable=bool(train))
    except torch.OutOfMemoryError:
        raise
    except SafetensorError as error:
        raise UserError(
            f"the adapter in {adapter} cannot be read ({str(error)[:120]}); fetch or save it again"
        ) from None
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        IndexError,
        ImportError,
        AttributeError,
        TypeError,
    ) as error:  # of PEFT, alone here
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"the adapter in {adapter} does not fit its base ({fields.first_line(error)}); correct base_model_name_or_path in its adapter_config.json"
        ) from None
    missing = [
        str(w.message)
        for w in caught
        if "missing" in str(w.message).lower() and "adapter" in str(w.message).lower()
    ]
    if missing:  # e.g. saved under the module names of transformers 4: loads nothing, silently
        raise UserError(f"the adapter in {adapter} does not fit its base: {missing[0][:200]}")
    placed, pairs = (
        sum("lora_A.default" in name for name, _ in policy.named_parameters()),
        checkpoint_files.adapted(adapter),
    )
    if config["peft_type"] == "LORA" and placed != pairs:
        raise UserError(
            f"the adapter in {adapter} has weights for {pairs} modules, but its adapter_config.json places {placed}; correct target_modules there, or fetch the adapter again"
        )
    if train:
        for module in policy.modules():
            for dropout in (
                getattr(module, "lora_dropout", {}).values()
                if hasattr(module, "lora_dropout")
                else ()
            ):
                if isinstance(dropout, torch.nn.Dropout):
                    dropout.p = train.lora_dropout
    return policy


def unfreeze(model, flags):
    """Full fine-tuning: requires_grad on all parameters but those of the parts named by --freeze-vision, --freeze-merger, --freeze-llm."""
    for name, parameter in model.named_parameters():
        part = (
            "merger"
            if name.startswith("model.visual.merger")
            else "vision"
            if name.startswith("model.visual")
            else "llm"
        )
        parameter.requires_grad_(
            not {
                "merger": flags.freeze_merger,
                "vision": flags.freeze_vision,
                "llm": flags.freeze_llm,
            }[part]
        )


def must_not_overwrite(args, training=True):
    """UserError if --output-dir is a checkpoint that the run reads (--model, its base, one of --reward-funcs), or, in training, contains one: its old checkpoints are removed.
    A directory within the model's is fine. Symbolic links are followed."""
    if getattr(args, "output_dir", None) is None:
        return
    out = Path(os.path.realpath(args.output_dir))
    base, _ = locate(args.model)
    read = [
        ("--model", args.model),
        ("the base of --model", base),
        *(("--reward-funcs", name) for name in getattr(args, "reward_funcs", None) or []),
    ]
    for what, name in read:
        path = Path(os.path.realpath(name))
        is_model = any(
            (path / file).is_file() for file in ("config.json", "adapter_config.json")
        )  # and no folder named as a reward is, or tiny
        if is_model and (path == out or training and path.is_relative_to(out)):
            raise UserError(
                f"--output-dir {args.output_dir} {'is' if path == out else 'contains'} {what} {name}, which the run would write over; name another directory"
            )


def load_from_args(args, train=False, resume=None, needs_training=None):
    """load() as the command line asks for it; the processor remembers nothing, args learns what was decided (lora_r, quant, dtype, device).

    resume: a checkpoint's directory to take the weights from. needs_training: the sentence to stop with if --model is the untrained `tiny`.
    """
    if args.model == "tiny" and needs_training:
        raise UserError(
            f"--model tiny is the untrained preset, and {needs_training}. Train one first (about seven minutes on two cores):\n"
            "  python train_sft.py --model tiny --data count --learning-rate 2e-3 --max-steps 1000 --output-dir runs/sft\nthen use --model runs/sft"
        )
    must_not_overwrite(args, train)
    base, adapter = locate(args.model)
    if args.quant is None:
        args.quant = (
            checkpoint_files.read_run(args.model).get("quant") or "none" if adapter else "none"
        )
        if args.quant != "none":
            print(
                f"the adapter was trained on {args.quant} weights: loading them so (--quant none to change that)"
            )
    if train:
        if args.lora_r is None:
            args.lora_r = (
                checkpoint_files.read_adapter(adapter).get("r", 0)
                if adapter
                else 16
                if args.quant == "nf4"
                else 0
            )
        if base == "tiny" and args.lora_r:
            raise UserError(
                "--lora-r adapts a trained model, but --model tiny is untrained, and lies in no directory that an adapter could name; use --lora-r 0 --quant none"
            )
        if (adapter or args.lora_r) and (
            args.freeze_vision or args.freeze_merger or args.freeze_llm
        ):
            raise UserError(
                "with LoRA only the adapter in the language model trains: --freeze-vision, --freeze-merger and --freeze-llm are for --lora-r 0"
            )
    trained_with = checkpoint_files.read_run(
        args.model
    )  # the same pictures in evaluation as in training
    args.max_pixels = args.max_pixels or trained_with.get("max_pixels") or MAX_PIXELS
    args.min_pixels = args.min_pixels or trained_with.get("min_pixels") or MIN_PIXELS
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    args.device, args.dtype = str(device), str(dtype).removeprefix("torch.")
    policy, processor = load(
        str(resume or args.model),
        dtype,
        device,
        args.quant,
        args if train else None,
        args.max_pixels,
        args.min_pixels,
        args.seed,
    )
    return policy, processor


def describe(policy):
    """One line: parameters, how many train, where."""
    total = sum(
        p.numel() * (2 if p.__class__.__name__ == "Params4bit" else 1) for p in policy.parameters()
    )
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    core = logps.core_of(policy)
    return f"{total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained, {str(core.compute_dtype).removeprefix('torch.')} on {core.device}"


class Reference:
    """The frozen policy that training started from, for KL(policy || reference). `with reference as policy: token_logps(policy, ...)`.

    A fresh LoRA: the same weights with the adapter off. A LoRA that training continues: a second, frozen copy of that adapter (with the
    adapter off one would get the model from before it). Full fine-tuning: a frozen copy of the model, which costs its size once more.
    """

    def __init__(self, policy, args):
        self.policy, (_, adapter) = policy, locate(args.model)
        self.copy = self.loaded = None
        if adapter:
            rundir.check_model_files(adapter)
            policy.load_adapter(str(adapter), adapter_name="reference", is_trainable=False)
            policy.set_adapter(
                "default"
            )  # load_adapter leaves requires_grad as it was for inference: switch back
            self.loaded = [p for n, p in policy.named_parameters() if ".reference." in n]
            for parameter in self.loaded:
                parameter.requires_grad_(False)
        elif not hasattr(policy, "get_base_model"):
            core = logps.core_of(policy)
            self.copy, _ = load(
                args.model, torch.float32, core.device, "none", None, seed=args.seed
            )  # float32 under autocast, as the policy is:
            self.copy.compute_dtype = (
                core.compute_dtype
            )  # else the KL starts at rounding noise, not 0
            size = sum(p.numel() * p.element_size() for p in self.copy.parameters())
            print(
                f"--beta above 0 with full fine-tuning keeps a frozen copy of the model: {size / 2**30:.2f} GiB more (LoRA needs none)"
            )

    def __enter__(self):
        if self.copy is not None:
            return self.copy
        self.trained = [p for p in self.policy.parameters() if p.requires_grad]
        if self.loaded is not None:
            self.policy.set_adapter("reference")
        else:
            self.off = self.policy.disable_adapter()
            self.off.__enter__()
        return self.policy

    def __exit__(self, *error):
        if self.copy is not None:
            return
        if self.loaded is not None:
            self.policy.set_adapter("default")  # PEFT flips requires_grad with the active adapter
            for parameter in self.loaded:
                parameter.requires_grad_(False)
        else:
            self.off.__exit__(*error)
        for parameter in self.trained:
            parameter.requires_grad_(True)


# ------------------------------------------------------------------------------------------------------------------ save


def save(policy, processor, directory):
    """A directory that stock transformers (full) or PEFT (adapter) loads, with tokenizer, chat template and image processor. Trained weights
    are written in float32, exactly as they are, so that training resumed from here does not notice."""
    directory = Path(directory)
    if hasattr(policy, "get_base_model"):
        config = policy.peft_config["default"]
        if os.path.isdir(config.base_model_name_or_path or ""):
            config.base_model_name_or_path = os.path.abspath(config.base_model_name_or_path)
        policy.save_pretrained(
            directory, selected_adapters=["default"], save_embedding_layers=False
        )
    else:
        policy.save_pretrained(directory)
    processor.save(directory)


def saved_bytes(policy, processor):
    """Bytes that `save` writes: the adapter or all weights, each once, and the tokenizer."""
    adapter = hasattr(policy, "get_base_model")
    weights = [p for p in policy.parameters() if p.requires_grad or not adapter]
    tokenizer = processor.tokenizer.backend_tokenizer.to_str()
    return sum(p.numel() * p.element_size() for p in weights) + len(tokenizer.encode()) + 20_000


def export(args):
    """`python model.py export`: one merged checkpoint in `--dtype`. Merged in float32 from the unquantised base, and cast last: merging into
    4-bit weights destroys the adapter, and into bfloat16 loses most of a young one (facts/performance.md, 4.2).

    Prints the mean |difference in log-prob| between the trained policy, as it was trained, and the exported one, on 16 prompts.
    """
    import data  # upwards, against the rule of this project, for the comparison only
    import rollout
    import tasks
    from tasks import files, images
    from tasks.prompts import DEFAULT_TEMPLATE

    run_args = checkpoint_files.read_run(args.model)
    base, adapter = locate(args.model)
    out = Path(args.output_dir)
    must_not_overwrite(args)
    if not rundir.is_half_published(out) and [
        file for file in out.glob("*") if not file.name.startswith(".")
    ]:
        raise UserError(f"--output-dir {out} is not empty; name a new directory")
    disk.make_writable(out)
    device = pick_device(args.device)
    policy, processor = load(
        args.model,
        torch.float32,
        "cpu",
        "none",
        None,
        run_args.get("max_pixels"),
        run_args.get("min_pixels"),
    )
    spec = args.data or (
        run_args.get("data")
        if files.split_name(run_args.get("data", ""))[0] in toy.TASKS
        or os.path.exists(str(run_args.get("data")))
        else "count:test"
    )
    images.limit_image_pixels(run_args.get("max_image_pixels") or MAX_IMAGE_PIXELS)
    examples = data.head(tasks.read(spec), 16)
    template = run_args.get("prompt_template") or DEFAULT_TEMPLATE
    asker = data.Asker(processor, template, run_args.get("system_prompt"))
    prompts = [asker.prompt(e, 64) for e in examples]
    merged = policy.merge_and_unload() if adapter else policy
    dtype = getattr(torch, args.dtype)
    merged.to(dtype)
    merged.config.dtype = dtype
    merged.generation_config.eos_token_id, merged.generation_config.pad_token_id = (
        processor.special.eos_ids,
        processor.special.pad_id,
    )

    def save_model(directory):
        merged.save_pretrained(directory, max_shard_size="4GB")
        processor.save(directory)
        if (Path(args.model) / "args.json").is_file():
            shutil.copy(
                Path(args.model) / "args.json", directory / "args.json"
            )  # names the prompt template

    size = saved_bytes(merged.requires_grad_(False), processor)
    disk.announce(out, {"the model": size})
    rundir.publish(out, save_model, size)
    print(f"wrote {out} ({args.dtype}{', adapter merged' if adapter else ''})")

    trained_dtype = pick_dtype(run_args.get("dtype", "float32"), device)
    trained, _ = load(args.model, trained_dtype, device, run_args.get("quant") or "none", None)
    sampled = rollout.rollout(
        trained, prompts, processor.special, 1, rollout.Sampling(64, temperature=0)
    )
    batch = data.collate(prompts, sampled.targets, sampled.mask, device=device)
    exported, _ = load(str(out), dtype, device, "none", None)
    with torch.no_grad():
        before, after = (
            logps.token_logps(p, batch, suppress=processor.special.vision_ids)
            for p in (trained, exported)
        )
    gap = float(((before - after).abs().sum() / batch["mask"].sum()))
    print(
        f"mean |difference in log-prob| between the policy as trained ({run_args.get('quant') or 'none'}, {str(trained_dtype).removeprefix('torch.')}) and the exported one, over "
        f"{int(batch['mask'].sum())} greedy tokens of {len(prompts)} prompts: {gap:.2e}"
    )
    return gap


def parse_args(argv=None):
    p = Parser(__doc__, "model.py")
    p.add_argument("command", choices=["export"], help="write one merged checkpoint")
    p.add_argument(
        "--model", "--model-name-or-path", required=True, help="as in the training scripts"
    )
    p.add_argument("--output-dir", required=True, help="where the exported checkpoint goes")
    p.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="bfloat16",
        help="weights of the exported checkpoint",
    )
    p.add_argument(
        "--device",
        default="auto",
        help="where the exported policy is compared with the trained one",
    )
    p.add_argument("--data", help="prompts for the comparison; default: those of the training run")
    return p.parse_args(argv)


main = export

if __name__ == "__main__":
    running.run(main, parse_args)
