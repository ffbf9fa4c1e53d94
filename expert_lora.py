"""LoRA on a mixture's experts, computed beside their weights.

PEFT (lora.ParamWrapper) adds B A to a copy of all experts of a layer at every forward pass, so at
every token of a rollout, too; training keeps the copies of all layers for the backward pass. Here
an expert's product and its adapter's are added up, as in any linear layer with LoRA:

    y = x W_e' + s (x A_e') B_e'

D model width; E experts, k of them a token; S = tokens * k rows, sorted by expert; r rank.
"""

import functools

import torch
import torch.nn.functional as F

ALIGNED = 8  # grouped products on a GPU want rows of 16 bytes


def compute_beside(policy) -> None:
    """Replace the forward pass of every layer's adapted experts by `forward`."""
    for module in policy.modules():
        inner = [m for m in module.children() if type(m).__name__ == "ParamWrapper"]
        for wrapper in inner:
            # Others' adapters also wrap routers, which PEFT's own forward serves.
            is_experts = hasattr(wrapper.get_base_layer(), "gate_up_proj")
            if type(module).__name__ != "ParamWrapper" and is_experts:
                wrapper.forward = functools.partial(forward, wrapper)


def forward(
    wrapper: torch.nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Run the experts of a layer: hidden_states (tokens, D) -> (tokens, D).

    top_k_index, top_k_weights: (tokens, k), which experts a token goes to, and how much they count.
    PEFT's own forward runs where the adapter is off, merged, or not alone, and for other layouts.
    """
    experts = wrapper.get_base_layer()
    adapters = adapters_of(wrapper)
    usual = hasattr(experts, "gate_up_proj") and not getattr(experts, "is_transposed", False)
    if adapters is None or not usual:
        return type(wrapper).forward(wrapper, hidden_states, top_k_index, top_k_weights)
    k = top_k_index.shape[1]
    order = top_k_index.flatten().argsort(stable=True)  # (S,)
    counts = top_k_index.flatten().bincount(minlength=experts.num_experts)
    ends = counts.cumsum(0).int()  # (E,): where each expert's rows end
    x = hidden_states[order // k]  # (S, D)
    gate, up = product(x, experts.gate_up_proj, adapters.get("gate_up_proj"), ends).chunk(2, -1)
    x = product(experts.act_fn(gate) * up, experts.down_proj, adapters.get("down_proj"), ends)
    x = x * top_k_weights.flatten()[order, None]
    rows = x[order.argsort()]  # (S, D), the k of a token together again
    return rows.unflatten(0, (-1, k)).sum(1).to(hidden_states.dtype)


def adapters_of(wrapper: torch.nn.Module) -> dict[str, tuple] | None:
    """Return {parameter: (A, B, scale)} of the one active adapter; None if it is not so.

    A: (E, r, in). B: (E, out, r).
    """
    found = {}
    while type(wrapper).__name__ == "ParamWrapper":
        active = [name for name in wrapper.active_adapters if name in wrapper.lora_A]
        if wrapper.disable_adapters or wrapper.merged or len(active) != 1:
            return None
        [name] = active
        E = wrapper.num_experts
        A, B = wrapper.lora_A[name].weight, wrapper.lora_B[name].weight  # (E r, in), (out, r E)
        A, B = A.unflatten(0, (E, -1)), B.unflatten(1, (-1, E)).permute(2, 0, 1)
        found[wrapper.parameter_name] = (A, B, wrapper.scaling[name])
        wrapper = wrapper.base_layer
    return found


def product(
    x: torch.Tensor, weight: torch.Tensor, adapter: tuple | None, ends: torch.Tensor
) -> torch.Tensor:
    """Multiply rows with their experts' weights, and their adapters': (S, in) -> (S, out).

    weight: (E, out, in). ends: (E,). Computed in the type of the weights.
    """
    x = x.to(weight.dtype)
    y = F.grouped_mm(x, weight.transpose(1, 2), offs=ends)
    if adapter is None:
        return y
    A, B, scale = adapter
    more = -A.shape[1] % ALIGNED
    A = F.pad(A.to(x.dtype), (0, 0, 0, more))  # (E, r, in), of zeros from the adapter's r on
    B = F.pad(B.to(x.dtype), (0, more)).contiguous()  # (E, out, r)
    low = F.grouped_mm(x, A.transpose(1, 2), offs=ends)  # (S, r)
    return y + scale * F.grouped_mm(low, B.transpose(1, 2), offs=ends)
