"""The model, as every script uses it: load, quantise, adapt, freeze, save, export.

Every family of families.py in all its sizes: `tiny` (1.4 M parameters, made here), 2B, 7B, ...

    python model.py export --model runs/grpo --output-dir exported

writes one merged checkpoint that stock transformers loads;

    python model.py graft --llm DIR --vision DIR --output-dir grafted

puts a text-only LLM behind the tower of a vision checkpoint (graft.py).
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports: they take seconds, and Ctrl-C may come there too

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

import adapters
import families
import graft
import logps
from plumbing import checkpoint_files, disk, loaded, ranks, rundir, running
from plumbing.device import dtype_name, pick_device, pick_dtype
from plumbing.errors import UserError
from plumbing.find_model import locate, must_not_overwrite
from plumbing.flags import MAX_PIXELS, MIN_PIXELS, Parser, int_from_0
from processor import Processor, load_processor, pixel_limits, tiny_processor

# --- as the command line asks ---


def resolve(
    args: argparse.Namespace, train: bool = False, needs_training: str | None = None
) -> dict[str, object]:
    """Decide what flags left open: quant, what trains, pixel limits, device, dtype.

    Returns {flag: value} for main to store. What trains, and router_aux_loss_coef, only for
    `train`.
    needs_training: the sentence to stop with if --model is an untrained preset.
    UserError for flags that do not fit the model, or a directory that must not be written.
    """
    if families.preset(args.model) and needs_training:
        raise UserError(
            f"--model {args.model} is the untrained preset, and {needs_training}. "
            "Name one that has learned, --model checkpoints/count (for --data table "
            "checkpoints/table), or train one first (about seven minutes on two cores):\n"
            f"  python train_sft.py --model {args.model} --data count --learning-rate 2e-3 "
            "--max-steps 1000 --output-dir runs/sft\nthen use --model runs/sft"
        )
    output_dir = getattr(args, "output_dir", None)
    reward_funcs = getattr(args, "reward_funcs", None) or []
    must_not_overwrite(output_dir, args.model, reward_funcs, train)
    base, adapter = locate(args.model)
    trained_with = checkpoint_files.read_run(args.model)
    quant = args.quant
    if quant is None:
        quant = (trained_with.get("quant") if adapter else None) or "none"
        if quant != "none":
            print(
                f"the adapter was trained on {quant} weights: loading them so "
                "(--quant none to change that)"
            )
    decided = {"quant": quant}
    if train:
        decided |= adapters.decide(args, base, adapter, quant)
        decided["router_aux_loss_coef"] = router_coef(args.router_aux_loss_coef, base)
        number = vars(args).get("batch_size") or args.prompts_per_step / args.updates_per_rollout
        odd = ranks.world() == 1 or number % ranks.world() or decided["lora_r"]
        if vars(args).get("shard") and (odd or args.optim != "adamw"):
            raise UserError("--shard needs torchrun, equal shares, --lora-r 0 and --optim adamw")
    # The same pictures in evaluation as in training.
    decided["max_pixels"] = args.max_pixels or trained_with.get("max_pixels") or MAX_PIXELS
    decided["min_pixels"] = args.min_pixels or trained_with.get("min_pixels") or MIN_PIXELS
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    return decided | {"device": str(device), "dtype": dtype_name(dtype)}


def router_coef(given: float | None, base: str) -> float:
    """Decide --router-aux-loss-coef: the flag's, else 0.001; 0 for a model without experts.

    UserError if it is given for one.
    """
    family = adapters.family_of(base)
    if given and not family.routers:
        raise UserError(
            f"--router-aux-loss-coef is for models with experts, and {base} is {family.name}, "
            "which has none; omit it"
        )
    if given is None and family.routers:
        return 0.001
    return given or 0.0


def load_from_args(
    args: argparse.Namespace, train: bool = False, resume: str | Path | None = None
) -> tuple:
    """Load (policy, processor) as flags say that `resolve` has completed.

    resume: a checkpoint's directory to take the weights from.
    """
    policy, processor = load(
        str(resume or args.model),
        getattr(torch, args.dtype),
        torch.device(args.device),
        args.quant,
        args if train else None,
        args.max_pixels,
        args.min_pixels,
        args.seed,
    )
    if train and vars(args).get("shard"):
        ranks.shard(policy)
    return policy, processor


# --- load ---


def load(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    quant: str = "none",
    train: argparse.Namespace | SimpleNamespace | None = None,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    seed: int = 0,
) -> tuple:
    """Load (policy, processor) from --model.

    policy: the family's model class, or a PeftModel around one.
    train: None for inference; else the flags of flags.add_training_flags. What trains is the
    adapter that --model names, a fresh one of --lora-r, or all weights.
    quant "nf4": the language model's linear layers in 4 bits, but not tower and head.
    Trained weights are float32 whatever `dtype` is, and compute under autocast in `dtype`.
    UserError for whatever does not fit.
    """
    silence_transformers()
    base, adapter = locate(name)
    lora_r = train.lora_r if train else 0
    full = bool(train) and not lora_r and not adapter
    if quant == "nf4" and full:
        raise UserError(
            "--quant nf4 weights cannot be trained themselves; add --lora-r 16, or omit --quant"
        )
    preset = families.preset(base)
    if preset:
        model, processor = load_tiny(preset, dtype, device, quant, full, seed)
        processor.image_processor.size = pixel_limits(max_pixels, min_pixels)
    else:
        checkpoint_files.check_model(base, full, quant)  # a second; the weights take minutes
        if adapter:
            adapters.check_adapter(adapter, base, train)
        processor = load_processor(base, max_pixels, min_pixels)
        stored = torch.float32 if full else dtype
        model = from_pretrained(base, processor.family, stored, device, quant)
    if quant == "none":
        model.to(device)
    model.requires_grad_(False)
    policy = model
    if adapter:
        policy = adapters.load_adapter(model, adapter, train, dtype)
    elif lora_r:
        policy = adapters.add_adapter(model, train, seed, dtype)
        if not preset and not Path(name).is_dir():  # the hub's name, not this machine's cache
            policy.peft_config["default"].base_model_name_or_path = name
    if full:
        adapters.unfreeze(model, train, dtype)
    for parameter in policy.parameters():
        # In bfloat16, at a learning rate of 1e-6, a step is below a weight's last bit, and lost.
        if parameter.requires_grad:
            # Experts are copied: where a tensor lies in memory decides their products' last bits.
            parameter.data = parameter.data.to(torch.float32, copy=parameter.dim() == 3)
    if train and train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    prepare(model, dtype)
    policy.eval()
    return policy, processor


def silence_transformers() -> None:
    """Keep transformers from printing what we say ourselves."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tiny(
    family: families.Family,
    dtype: torch.dtype,
    device: str | torch.device,
    quant: str,
    full: bool,
    seed: int,
) -> tuple:
    """Make the untrained preset of a family: (model, processor).

    full: all weights will be trained, and stay float32.
    """
    model, tokenizer, image_processor = families.tiny(seed, family)
    processor = tiny_processor(family, tokenizer, image_processor)
    if quant == "nf4":  # bitsandbytes quantises while loading: save, and load like any other
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            model = from_pretrained(directory, family, dtype, device, quant)
    elif not full:
        for parameter in model.parameters():  # model.to(dtype) would round rotary frequencies too
            parameter.data = parameter.data.to(dtype)
    return model, processor


def prepare(model, dtype: torch.dtype) -> None:
    """Set how the model computes: attention, type, and no sampling rules of its own."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    # The published rules are greedy without saying so: top_k 1 and a repetition penalty. Ours
    # are in rollout.Sampling; these serve stock `generate`, and are saved with the model.
    rules = model.generation_config
    rules.top_k = 50
    rules.top_p = 1.0
    rules.temperature = 1.0
    rules.repetition_penalty = 1.0
    rules.do_sample = False
    model.config.use_cache = True  # a checkpoint saved with it off generates at a crawl
    AttentionInterface.register("packed", logps.packed_attention)
    AttentionMaskInterface.register("packed", sdpa_mask)
    # The language model's alone, and never saved: the vision tower keeps sdpa.
    model.model.language_model.config._attn_implementation = "packed"
    model.compute_dtype = dtype


def from_pretrained(
    directory: str | Path,
    family: families.Family,
    dtype: torch.dtype,
    device: str | torch.device,
    quant: str,
):
    """Load the family's model, in 4 bits if asked.

    UserError if it cannot be loaded, and if weights are missing: no random ones stand in.
    """
    # Mismatches are reported below, by name.
    options = dict(dtype=dtype, attn_implementation="sdpa", ignore_mismatched_sizes=True)
    if quant == "nf4":
        options["device_map"] = {"": device}
        options["quantization_config"] = four_bit_config(family.keep_unquantised, dtype)
        loaded.say_what_stays(directory, dtype)
    what = f"{directory} cannot be loaded as {family.name}"
    with loaded.refusing(what, "fetch or save the checkpoint again"):
        model, report = family.model_class().from_pretrained(
            directory, output_loading_info=True, **options
        )
    model.family = family
    loaded.check_report(directory, model, report)
    if quant == "none":
        loaded.check_unquantised(directory, model)
    else:
        keep_gradients_on_cpu(model)
        loaded.check_quantised(model)
    return model


def four_bit_config(skip: list[str], dtype: torch.dtype):
    """Make the settings of NF4 with double quantisation (QLoRA, arXiv:2305.14314).

    skip: beginnings of the full names of what stays out of 4 bits.
    """
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError:
        raise UserError("--quant nf4 needs bitsandbytes: pip install bitsandbytes") from None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skip,
    )


def keep_gradients_on_cpu(model) -> None:
    """Stop bitsandbytes from repacking 4-bit layers on CPUs with AVX512-BF16.

    Version 0.50.2 does so at a layer's first evaluation, and no gradient passes it from then on.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False


# --- the reference policy ---


class Reference:
    """The frozen policy that training started from, for KL(policy || reference).

        with reference as policy:
            logps.token_logps(policy, ...)

    A fresh LoRA: the same weights with the adapter off.
    A LoRA that training continues: a frozen copy of that adapter; without it one has its base.
    Full fine-tuning: a frozen copy of the model, which takes its memory once more.
    """

    def __init__(self, policy, model: str, seed: int):
        self.policy = policy
        self.frozen_model = None
        self.frozen_adapter = None
        _, adapter = locate(model)
        if adapter:
            rundir.check_model_files(adapter)
            self.frozen_adapter = adapters.add_reference(policy, adapter)
        elif not hasattr(policy, "get_base_model"):
            core = logps.core_of(policy)
            # float32 under autocast, as the policy is: else the KL starts at rounding noise, not 0.
            self.frozen_model, _ = load(model, torch.float32, core.device, seed=seed)
            self.frozen_model.compute_dtype = core.compute_dtype
            size = sum(p.numel() * p.element_size() for p in self.frozen_model.parameters())
            print(
                "--beta above 0 with full fine-tuning keeps a frozen copy of the model: "
                f"{size / 2**30:.2f} GiB more (LoRA needs none)"
            )

    def __enter__(self):
        if self.frozen_model is not None:
            return self.frozen_model
        self.trained = [p for p in self.policy.parameters() if p.requires_grad]
        if self.frozen_adapter is not None:
            self.policy.set_adapter("reference")
        else:
            self.off = self.policy.disable_adapter()
            self.off.__enter__()
        return self.policy

    def __exit__(self, *error) -> None:
        if self.frozen_model is not None:
            return
        if self.frozen_adapter is not None:
            self.policy.set_adapter("default")  # PEFT flips requires_grad with the active adapter
            for parameter in self.frozen_adapter:
                parameter.requires_grad_(False)
        else:
            self.off.__exit__(*error)
        for parameter in self.trained:
            parameter.requires_grad_(True)


# --- describe, save, export ---


def describe(policy) -> str:
    """Say in one line how many parameters there are, how many and which train, and where."""
    total = 0
    for parameter in policy.parameters():
        # Two weights of 4 bits share an element.
        total += parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    which = f" ({adapters.what_trains(policy)})" if trained else ""
    core = logps.core_of(policy)
    return (
        f"{total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained{which}, "
        f"{dtype_name(core.compute_dtype)} on {core.device}"
    )


def save(policy, processor: Processor, directory: str | Path) -> None:
    """Write a directory that stock transformers (full) or PEFT (adapter) loads.

    Trained weights stay float32, so that resumed training goes on with the same numbers.
    """
    directory = Path(directory)
    if hasattr(policy, "get_base_model"):
        config = policy.peft_config["default"]
        if os.path.isdir(config.base_model_name_or_path or ""):
            config.base_model_name_or_path = os.path.abspath(config.base_model_name_or_path)
        policy.save_pretrained(
            directory, selected_adapters=["default"], save_embedding_layers=False
        )
    else:
        policy.save_pretrained(directory, state_dict=dict(policy.named_parameters()))
    processor.save(directory)


def saved_bytes(policy, processor: Processor) -> int:
    """Count the bytes that `save` writes: the adapter or all weights, and the tokenizer."""
    adapter = hasattr(policy, "get_base_model")
    weights = [p for p in policy.parameters() if p.requires_grad or not adapter]
    tokenizer = processor.tokenizer.backend_tokenizer.to_str()
    return sum(p.numel() * p.element_size() for p in weights) + len(tokenizer.encode()) + 20_000


def export(args: argparse.Namespace) -> None:
    """Write one merged checkpoint in --dtype."""
    run_args = checkpoint_files.read_run(args.model)
    base, adapter = locate(args.model)
    if not families.preset(base):
        checkpoint_files.must_be_whole(Path(base), "model.py export writes whole weights")
    out = Path(args.output_dir)
    must_not_overwrite(args.output_dir, args.model)
    rundir.must_be_new(out)
    # Merged in float32 from the unquantised base, and cast last: merging into 4-bit weights
    # destroys the adapter, and into bfloat16 loses most of a young one.
    limits = {name: run_args.get(name) for name in ("max_pixels", "min_pixels")}
    policy, processor = load(args.model, **limits)
    merged = adapters.merged(policy) if adapter else policy
    dtype = getattr(torch, args.dtype)
    merged.to(dtype)
    merged.config.dtype = dtype
    merged.generation_config.eos_token_id = processor.special.eos_ids
    merged.generation_config.pad_token_id = processor.special.pad_id

    def save_model(directory: Path) -> None:
        merged.save_pretrained(directory, max_shard_size="4GB")
        processor.save(directory)
        run = Path(args.model) / "args.json"  # names the prompt template
        if run.is_file():
            shutil.copy(run, directory / "args.json")

    size = saved_bytes(merged.requires_grad_(False), processor)
    disk.announce(out, {"the model": size})
    rundir.publish(out, save_model, size)
    print(f"wrote {out} ({args.dtype}{', adapter merged' if adapter else ''})")


# --- commands ---

OF_COMMAND = {"export": ("model", "dtype"), "graft": ("llm", "vision", "merger", "seed")}
REQUIRED = {"export": ("model",), "graft": ("llm", "vision")}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = Parser(__doc__, "model.py", "families.md")
    p.add_argument(
        "command",
        choices=list(OF_COMMAND),
        help="export: write one merged checkpoint; graft: give a text-only LLM eyes",
    )
    p.add_argument("--output-dir", required=True, help="where the new checkpoint goes")
    g = p.add_argument_group("export")
    g.add_argument("--model", "--model-name-or-path", help="as in the training scripts")
    g.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="weights of the exported checkpoint; default: bfloat16",
    )
    g = p.add_argument_group("graft")
    g.add_argument("--llm", help="text-only LLM: a directory or a hub name")
    g.add_argument("--vision", help="checkpoint with the tower, the tokenizer and the merger")
    g.add_argument(
        "--merger",
        choices=graft.MERGERS,
        help="what leads from tower to words: the vision checkpoint's, or drawn anew, of any "
        "width; default: keep",
    )
    g.add_argument("--seed", type=int_from_0, help="of a fresh merger; default: 0")
    args = p.parse_args(argv)
    for command, names in OF_COMMAND.items():
        given = [name for name in names if getattr(args, name) is not None]
        if command != args.command and given:
            p.error(f"--{given[0]} has no meaning for {args.command}; it is a flag of {command}")
    for name in REQUIRED[args.command]:
        if getattr(args, name) is None:
            p.error(f"{args.command} needs --{name}")
    args.dtype = args.dtype or "bfloat16"
    args.merger = args.merger or "keep"
    args.seed = args.seed or 0
    return args


def command(args: argparse.Namespace) -> None:
    """Do what the command line asks."""
    {"export": export, "graft": graft.graft}[args.command](args)


main = command

if __name__ == "__main__":
    running.run(main, parse_args)
