"""What of a model trains: an adapter (LoRA, arXiv:2106.09685), or the parts that are not frozen."""

import argparse
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch

import families
from plumbing import checkpoint_files, disk, fields, loaded
from plumbing.errors import UserError


def lora_rank(args: argparse.Namespace, base: str, adapter: Path | None, quant: str) -> int:
    """Decide --lora-r: the flag's, the adapter's, 16 on 4-bit weights, else 0 (all weights).

    UserError if the rank does not fit the model or the other flags.
    """
    lora_r = args.lora_r
    if lora_r is None:
        lora_r = 16 if quant == "nf4" else 0
        if adapter:
            lora_r = checkpoint_files.read_adapter(adapter).get("r", 0)
    if families.preset(base) and lora_r:
        raise UserError(
            f"--lora-r adapts a trained model, but --model {base} is untrained, and lies in no "
            "directory that an adapter could name; use --lora-r 0 --quant none"
        )
    freezes = args.freeze_vision or args.freeze_merger or args.freeze_llm
    if (adapter or lora_r) and freezes:
        raise UserError(
            "with LoRA only the adapter in the language model trains: "
            "--freeze-vision, --freeze-merger and --freeze-llm are for --lora-r 0"
        )
    return lora_r


def add_adapter(model, train: argparse.Namespace | SimpleNamespace, seed: int):
    """Put a fresh LoRA on the language model's linear layers, drawn from `seed`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=train.lora_r,
        lora_alpha=train.lora_alpha or 2 * train.lora_r,
        lora_dropout=train.lora_dropout,
        target_modules=model.family.lora_targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def load_adapter(model, adapter: Path, train: argparse.Namespace | SimpleNamespace | None):
    """Load the adapter of a directory around `model`: a PeftModel, trainable if `train`."""
    from peft import PeftModel
    from safetensors import SafetensorError

    config = checkpoint_files.read_adapter(adapter)
    if train and train.lora_r and train.lora_r != config.get("r"):
        raise UserError(
            f"--lora-r {train.lora_r}, but the adapter in {adapter} has rank {config.get('r')}; "
            "omit --lora-r, or merge it first: "
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
    ) as error:  # only PEFT raises here
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"the adapter in {adapter} does not fit its base ({fields.first_line(error)}); "
            "correct base_model_name_or_path in its adapter_config.json"
        ) from None
    loaded.check_placed(policy, adapter, config, [str(warning.message) for warning in caught])
    if train:
        for module in policy.modules():
            for dropout in getattr(module, "lora_dropout", {}).values():
                if isinstance(dropout, torch.nn.Dropout):
                    dropout.p = train.lora_dropout
    return policy


def unfreeze(model, train: argparse.Namespace | SimpleNamespace, dtype: torch.dtype) -> None:
    """Train all parameters but those of frozen parts, which go to `dtype`.

    UserError if every part is frozen.
    """
    frozen = dict.fromkeys(model.family.mergers, train.freeze_merger)
    frozen |= {"model.visual": train.freeze_vision, "": train.freeze_llm}
    for name, parameter in model.named_parameters():
        part = next(start for start in frozen if name.startswith(start))
        parameter.requires_grad_(not frozen[part])
        if frozen[part]:
            parameter.data = parameter.data.to(dtype)
    if all(frozen.values()):
        raise UserError(
            "everything is frozen: omit one of --freeze-vision, --freeze-merger, --freeze-llm"
        )
