"""What of a model trains: an adapter (LoRA, arXiv:2106.09685), or the parts that are not frozen.

An adapter is PEFT's: DoRA (arXiv:2402.09353) and rsLoRA (arXiv:2312.03732) are settings of it, a
merger that trains beside it is one of its modules_to_save, experts are its target_parameters.
"""

import argparse
import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

import expert_lora
import families
from plumbing import checkpoint_files, loaded
from plumbing.arguments import flag
from plumbing.errors import UserError

ONLY_WITH_LORA = (
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "use_dora",
    "use_rslora",
    "train_merger",
)

# --- as the command line asks ---


def decide(
    args: argparse.Namespace, base: str, adapter: Path | None, quant: str
) -> dict[str, object]:
    """Decide what flags left open: those of the adapter that is trained on, else defaults.

    lora_r: 16 on 4-bit weights, else 0 (all weights). Returns {flag: value}.
    UserError if they do not fit the model or each other.
    """
    has = {"lora_r": 16 if quant == "nf4" else 0}
    if adapter:
        has = made_of(checkpoint_files.read_adapter(adapter), family_of(base))
    lora_r = has["lora_r"] if args.lora_r is None else args.lora_r
    if families.preset(base) and lora_r:
        raise UserError(
            f"--lora-r adapts a trained model, but --model {base} is untrained, and lies in no "
            "directory that an adapter could name; use --lora-r 0 --quant none"
        )
    if adapter or lora_r:
        for name in ("freeze_vision", "freeze_merger", "freeze_llm"):
            if getattr(args, name):
                raise UserError(
                    f"{flag(name)} is for --lora-r 0: with LoRA everything is frozen but what "
                    "--lora-targets and --train-merger name"
                )
    else:
        for name in ONLY_WITH_LORA:
            if getattr(args, name):
                remedy = "add --lora-r 16, or leave it out"
                if name == "train_merger":
                    remedy = "leave it out: the merger trains with the rest unless --freeze-merger"
                raise UserError(f"{flag(name)} is for LoRA, but --lora-r is 0 here; {remedy}")
    decided = {"lora_r": lora_r}
    if adapter:
        for name in ("lora_targets", "use_dora", "use_rslora", "train_merger"):
            decided[name] = has[name] if getattr(args, name) is None else getattr(args, name)
        return decided
    if lora_r:
        decided["lora_targets"] = args.lora_targets or ["llm"]
        check_fit(args, parts_of(args.lora_targets, family_of(base)))
    for name in ("use_dora", "use_rslora", "train_merger"):
        decided[name] = bool(getattr(args, name))
    return decided


def family_of(base: str) -> families.Family:
    """Return the family of a preset, or of a checkpoint's directory."""
    known = families.preset(base)
    return known or families.FAMILIES[checkpoint_files.read_config(Path(base))["model_type"]]


def parts_of(words: list[str] | None, family: families.Family) -> list[str]:
    """List the parts that --lora-targets names, in a fixed order; by default the language model.

    UserError for experts of a family that has none.
    """
    words = words or ["llm"]
    if "experts" in words and not family.experts:
        raise UserError(
            f"--lora-targets experts: {family.name} has no experts; name llm, vision or all"
        )
    every = [*family.lora_layers, *(["experts"] if family.experts else [])]
    return [part for part in every if part in words or "all" in words]


def check_fit(args: argparse.Namespace | SimpleNamespace, parts: list[str]) -> None:
    """Raise UserError for what PEFT cannot do to experts, which are no linear layers."""
    remedy = "leave it out, or name other --lora-targets"
    if "experts" in parts and args.use_dora:
        raise UserError(f"--use-dora is for linear layers, and experts are none; {remedy}")
    if "experts" in parts and args.lora_dropout:
        raise UserError(f"--lora-dropout is for linear layers, and experts are none; {remedy}")


# --- an adapter: its settings, and whether the flags agree ---


def settings_of(parts: list[str], train_merger: bool, model) -> dict[str, object]:
    """Return what PEFT's LoraConfig says of the parts that train.

    model: anything with the family and get_submodule of a model.
    """
    family = model.family
    layers = [family.lora_layers[part] for part in parts if part in family.lora_layers]
    found = {"target_modules": "|".join(layers) or []}
    if "experts" in parts:
        found["target_parameters"] = list(family.experts)
    if train_merger:
        found["modules_to_save"] = mergers_of(model)
    return found


def mergers_of(model) -> list[str]:
    """List the full names of the modules that lead from tower to words."""
    names = []
    for start in model.family.mergers:
        several = isinstance(model.get_submodule(start), torch.nn.ModuleList)
        more = range(len(model.get_submodule(start))) if several else ()
        names += [f"{start}.{i}" for i in more] or [start]
    return names


def made_of(config: dict, family: families.Family) -> dict[str, object]:
    """Say what flags an adapter's config stands for.

    lora_targets is None for one that they cannot make, of other layers.
    """
    experts = set(config.get("target_parameters") or [])
    parts = []
    for words in (["llm"], ["vision"], ["llm", "vision"], []):
        layers = "|".join(family.lora_layers[word] for word in words)
        if (config.get("target_modules") or "") == layers:
            parts = words
    known = bool(parts) or not config.get("target_modules")
    if experts:
        known = known and experts == set(family.experts)
        parts = [*parts, "experts"]
    saved = config.get("modules_to_save") or []
    return {
        "lora_r": config.get("r") or 0,
        "lora_alpha": config.get("lora_alpha"),
        "lora_targets": parts if known and parts else None,
        "use_dora": bool(config.get("use_dora")),
        "use_rslora": bool(config.get("use_rslora")),
        "train_merger": any(is_merger(name, family) for name in saved),
    }


def is_merger(name: str, family: families.Family) -> bool:
    """Say whether a name of modules_to_save, a full one or its end, is a merger's."""
    ends = (f".{full}" for full in family.mergers)
    return name.startswith(family.mergers) or any(end.endswith(f".{name}") for end in ends)


def check_adapter(
    adapter: Path, base: str, train: argparse.Namespace | SimpleNamespace | None
) -> None:
    """Check an adapter's files, and the flags of a training that goes on with it. UserError."""
    checkpoint_files.check_adapter(adapter, base)
    if train:
        must_agree(train, adapter, family_of(base))


def must_agree(
    train: argparse.Namespace | SimpleNamespace, adapter: Path, family: families.Family
) -> None:
    """Raise UserError for a flag that says otherwise than the adapter that is trained on.

    One that is None says nothing.
    """
    config = checkpoint_files.read_adapter(adapter)
    has = made_of(config, family)
    for name, value in has.items():
        asked = getattr(train, name, None)
        if name == "lora_targets" and asked is not None:
            asked = parts_of(asked, family)
        if asked is None or asked == value:
            continue
        said = f"{flag(name)} {' '.join(asked) if isinstance(asked, list) else asked}"
        if name == "lora_r":
            is_so = f"has rank {value}"
        elif name == "lora_alpha":
            is_so = f"has lora_alpha {value}"
        elif name == "lora_targets":
            is_so = f"is on {shown_targets(config, value)}"
        else:
            said = flag(name) if asked else flag(f"no_{name}")
            is_so = f"was made {'with' if value else 'without'} it"
        raise UserError(
            f"{said}, but the adapter in {adapter} {is_so}; omit {flag(name)}, or merge it first: "
            f"python model.py export --model {adapter} --output-dir merged"
        )
    check_fit(train, ["experts"] if config.get("target_parameters") else [])


def shown_targets(config: dict, parts: list[str] | None) -> str:
    """Name what an adapter is on, in the words of --lora-targets where they can say it."""
    if parts:
        return " ".join(parts)
    names = config.get("target_modules") or []
    names = [names] if isinstance(names, str) else names
    return f"other layers ({', '.join([*names, *(config.get('target_parameters') or [])])[:80]})"


# --- make and load ---


def add_adapter(model, train: argparse.Namespace | SimpleNamespace, seed: int, dtype: torch.dtype):
    """Put a fresh adapter on a model, drawn from `seed`. dtype: what the model computes in."""
    from peft import LoraConfig, get_peft_model
    from peft.utils.integrations import dequantize_module_weight

    parts = parts_of(train.lora_targets, model.family)
    check_fit(train, parts)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=train.lora_r,
        lora_alpha=train.lora_alpha or 2 * train.lora_r,
        lora_dropout=train.lora_dropout,
        use_dora=bool(train.use_dora),
        use_rslora=bool(train.use_rslora),
        task_type="CAUSAL_LM",
        **settings_of(parts, train.train_merger, model),
    )
    policy = get_peft_model(model, config)
    compute_as_base(policy, dtype)
    for layer, name in dora_layers(policy):
        # PEFT measured them in the type of the base: the first step would not be the base's.
        weight = dequantize_module_weight(layer.get_base_layer())
        layer.lora_magnitude_vector[name].weight.data = dora_norms(layer, name, weight, dtype)
    return policy


def load_adapter(
    model, adapter: Path, train: argparse.Namespace | SimpleNamespace | None, dtype: torch.dtype
):
    """Load the adapter of a directory around `model`: a PeftModel, trainable if `train`.

    dtype: what the model computes in.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    config = checkpoint_files.read_adapter(adapter)
    what = f"the adapter in {adapter} does not fit its base"
    remedy = "correct base_model_name_or_path in its adapter_config.json"
    with (
        loaded.refusing(what, remedy),
        warnings.catch_warnings(record=True) as caught,
        whole_copies(model, config),
    ):
        warnings.simplefilter("always")
        try:
            policy = PeftModel.from_pretrained(model, adapter, is_trainable=bool(train))
        except SafetensorError as error:
            raise UserError(
                f"the adapter in {adapter} cannot be read ({str(error)[:120]}); "
                "fetch or save it again"
            ) from None
    loaded.check_placed(policy, adapter, config, [str(warning.message) for warning in caught])
    if train:
        for module in policy.modules():
            for dropout in getattr(module, "lora_dropout", {}).values():
                if isinstance(dropout, torch.nn.Dropout):
                    dropout.p = train.lora_dropout
    compute_as_base(policy, dtype)
    return policy


def add_reference(policy, adapter: Path) -> list[torch.nn.Parameter]:
    """Load the adapter that training starts from once more, frozen, as "reference".

    UserError for an adapter with biases: they lie in the base, where there is room for one only.
    """
    config = checkpoint_files.read_adapter(adapter)
    if config.get("bias") not in (None, "none"):
        raise UserError(
            f"the adapter in {adapter} trains biases (bias: {config['bias']}), of which PEFT keeps "
            "no second copy, so it has no reference; merge it first: python model.py export "
            f"--model {adapter} --output-dir merged"
        )
    with whole_copies(policy, config):
        policy.load_adapter(str(adapter), adapter_name="reference", is_trainable=False)
    policy.set_adapter("default")  # load_adapter leaves requires_grad off: switch back
    measure_in_float32(policy)
    frozen = [p for name, p in policy.named_parameters() if ".reference." in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def merged(policy) -> torch.nn.Module:
    """Merge an adapter into its base, and return that.

    A head that is tied to the embeddings is untied where one of the two is adapted: PEFT would
    merge into the one weight that both read.
    """
    core = policy.get_base_model()
    words, head = core.get_input_embeddings(), core.get_output_embeddings()
    if words.weight is head.weight and any(hasattr(layer, "lora_A") for layer in (words, head)):
        layer = head.get_base_layer() if hasattr(head, "get_base_layer") else head
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
        core.config.tie_word_embeddings = core.config.text_config.tie_word_embeddings = False
    return policy.merge_and_unload()


def compute_as_base(policy, dtype: torch.dtype) -> None:
    """Correct what PEFT computes otherwise than the layer beneath would."""
    expert_lora.compute_beside(policy)
    measure_in_float32(policy)
    if dtype == torch.float32:
        return
    for layer in {layer for layer, _ in dora_layers(policy)}:
        # On 4-bit layers DoRA puts out float32, and all that follows would be in float32.
        layer.register_forward_hook(lambda module, given, out: out.to(dtype))


@contextlib.contextmanager
def whole_copies(model, config: dict) -> Iterator[None]:
    """Let PEFT copy modules_to_save in float32, as they were saved; the originals stay as they are.

    It copies in the type of the base: in bfloat16 a resumed merger would not be the one saved.
    """
    names = tuple(config.get("modules_to_save") or ())
    types = {
        parameter: parameter.dtype
        for name, module in model.named_modules()
        if names and name.endswith(names)
        for parameter in module.parameters()
        if parameter.is_floating_point()
    }
    for parameter in types:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in types.items():
            parameter.data = parameter.data.to(dtype)


# --- DoRA ---


def dora_layers(policy) -> Iterator[tuple[torch.nn.Module, str]]:
    """Yield (layer, its adapter's name) of every layer with magnitudes."""
    for module in policy.modules():
        for name in getattr(module, "lora_magnitude_vector", {}):
            yield module, name


def measure_in_float32(policy) -> None:
    """Let PEFT's DoRA measure weights in float32: in bfloat16 lengths are off by 0.4 %."""
    for layer, name in dora_layers(policy):
        layer.lora_magnitude_vector[name].get_weight_norm = weight_norm


def weight_norm(
    weight: torch.Tensor, lora_weight: torch.Tensor, scaling: float, adapter_name: str | None = None
) -> torch.Tensor:
    """Compute |W + s B A| of each output, DoRA's eq. 5: (out,) float32.

    weight: W; lora_weight: B A; both (out, in).
    """
    return torch.linalg.norm(weight.float() + scaling * lora_weight.float(), dim=1)


def dora_norms(
    layer: torch.nn.Module, name: str, weight: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Compute a layer's `weight_norm` as its forward pass does: (out,) float32.

    weight: (out, in), dequantised. dtype: what the model computes in.
    """
    A, B = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
    return weight_norm(weight, B.to(dtype) @ A.to(dtype), layer.scaling[name])


# --- full fine-tuning ---


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


# --- what trains, in words ---


def what_trains(policy) -> str:
    """Say in a few words what trains: "LoRA r 16 on 196 layers of the language model"."""
    if not any(p.requires_grad for p in policy.parameters()):
        return "nothing"
    if not hasattr(policy, "peft_config"):
        return parts_that_train(policy)
    config = policy.peft_config["default"]
    if not hasattr(config, "use_dora"):
        return f"an adapter ({config.peft_type.value})"
    kind = "DoRA" if config.use_dora else "LoRA"
    scale = ", alpha / sqrt(r)," if config.use_rslora else ""
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    layers = [name.partition(".lora_A.")[0] for name in names if ".lora_A.default." in name]
    experts = {name.partition(".experts")[0] for name in layers if ".experts" in name}
    layers = [name for name in layers if ".experts" not in name]
    tower = sum(".visual." in name for name in layers)
    where = []
    if len(layers) > tower:
        where.append(f"{len(layers) - tower} layers of the language model")
    if tower:
        where.append(f"{tower} layers of the vision tower")
    if experts:
        where.append(f"the experts of {len(experts)} layers")
    said = f"{kind} r {config.r}{scale} on {' and '.join(where)}"
    beside = sorted(
        {n.partition(".modules_to_save.")[0] for n in names if ".modules_to_save." in n}
    )
    mergers = [name for name in beside if "merger" in name]
    others = [name.rpartition(".")[2] for name in beside if "merger" not in name]
    others = list(dict.fromkeys(others))  # once, however many layers have it
    others = [*others, *(["the merger"] if mergers else [])]
    return "; ".join([said, *others])


def parts_that_train(model) -> str:
    """Say which parts are not frozen in full fine-tuning."""
    parts = {"the language model": 0, "the vision tower": 0, "the merger": 0}
    frozen = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        part = "the vision tower" if name.startswith("model.visual") else "the language model"
        if name.startswith(model.family.mergers):
            part = "the merger"
        (parts if parameter.requires_grad else frozen)[part] += 1
    if not any(frozen.values()):
        return "all weights"
    return " and ".join(part for part, number in parts.items() if number)
