"""The fast rollout: many rows of many prompts decode together, each prompt read once.

    prefill              once a prompt   images, prompt -> its keys and values, the first state
    sample_one_token     every step      state -> token and its log-prob (kernels.head_sample)
    forward_one_token    every step      token -> state: attention over [prompt | own tokens], MLP

A prompt's keys and values are kept once for its G rows; a row's own cache holds its own tokens.
On a GPU the two steps are one CUDA graph: addresses stay, and the host reads nothing.
A rollout lays out the weights anew (LoRA unmerged) and drops them after it, so none can be stale.
"""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F

import adapters
import batching
import data
import experts
import families
import logps
from fast import kernels
from plumbing import stopping
from plumbing.log import say

PREFILL_TOKENS = 4096  # of several prompts in one prefill pass: enough to keep a GPU busy
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48)  # rows of a CUDA graph; from 64 on every 32

Function = Callable[[torch.Tensor], torch.Tensor]
Plan = tuple[bool, list[tuple[int, int, int, int]]]  # what plan_memory returns

# --- the model's weights ---


def as_plain_linear(module: torch.nn.Module) -> tuple[torch.nn.Module, str | None] | None:
    """Return (linear layer, its adapter's name or None), or None for a layer of another kind.

    Known: torch.nn.Linear and bitsandbytes' Linear4bit, alone or under one active, unmerged LoRA
    or DoRA. Not known: several adapters, AdaLoRA, adapters with biases, merged ones, 8-bit layers.
    """
    name = None
    if hasattr(module, "lora_A"):
        active = []
        if not module.disable_adapters and not module.merged:
            active = [name for name in module.active_adapters if name in module.lora_A]
        plain = all(
            type(module.lora_A[name]) is torch.nn.Linear
            and (name not in module.lora_variant or name in module.lora_magnitude_vector)
            and not module.lora_bias.get(name)
            for name in active
        )
        if len(active) > 1 or not plain or (module.merged and module.disable_adapters):
            return None
        name = active[0] if active else None
        module = module.base_layer
    if type(module) is torch.nn.Linear or type(module).__name__ == "Linear4bit":
        return module, name
    return None


class Weights(NamedTuple):
    """A known layer's: y = (x weight' + x A' B') scale + bias."""

    weight: torch.Tensor  # (out, in)
    bias: torch.Tensor | None  # (out,)
    A: torch.Tensor  # (r, in); r is 0 without an adapter
    B: torch.Tensor  # (out, r)
    scale: torch.Tensor | None  # (out,) float32, of a DoRA


def weights_of(module: torch.nn.Module, dtype: torch.dtype) -> Weights:
    """Return the weights of a known layer.

    4-bit weights are dequantised to the very numbers that the trainer multiplies with.
    """
    layer, name = as_plain_linear(module)
    weight, bias = layer.weight, layer.bias
    if type(layer) is not torch.nn.Linear:
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    scale = None
    if name is not None and name in module.lora_magnitude_vector:
        length = module.lora_magnitude_vector[name].weight
        scale = length / adapters.dora_norms(module, name, weight, dtype)
    weight = weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if name is None:
        A, B = weight.new_zeros(0, weight.shape[1]), weight.new_zeros(len(weight), 0)
        return Weights(weight, bias, A, B, None)
    # The adapter stays unmerged: merging into bfloat16 rounds most of a young one away.
    A = module.lora_A[name].weight.to(dtype)
    B = (module.lora_B[name].weight * module.scaling[name]).to(dtype)
    return Weights(weight, bias, A, B, scale)


def fused_linear(modules: list[torch.nn.Module], core: torch.nn.Module, copy: bool) -> Function:
    """Fuse linear layers that read one input: q, k and v with LoRA cost two products, not nine.

        y = x @ [W_q W_k W_v A_q A_k A_v]     the weights and the LoRA down-projections
        y_W + y_A @ blockdiag(B_q, B_k, B_v)

    Returns a function (B, in) -> (B, sum of outs). A DoRA's scale comes after both products.
    It calls each layer's own forward without `copy` (no memory) or if a layer is not known.
    """
    dtype = logps.dtype_of(core)
    if not copy or not all(map(as_plain_linear, modules)):

        def own_forwards(x: torch.Tensor) -> torch.Tensor:
            # No cache of cast weights: a CUDA graph would read addresses that autocast frees.
            with logps.autocast(core, cache_enabled=False):
                return torch.cat([module(x).to(dtype) for module in modules], -1)

        return own_forwards
    weights, biases, As, Bs, scales = zip(*(weights_of(module, dtype) for module in modules))
    n = sum(map(len, weights))
    B = torch.block_diag(*Bs).T.contiguous()  # (sum of r, n)
    # Transposed, (in, n + sum of r), a CPU reads it faster: for few rows by a tenth.
    weight = torch.cat(weights + As).T.contiguous()
    bias = scale = None
    if any(b is not None for b in biases):
        parts = [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases)]
        bias = torch.cat([*parts, weight.new_zeros(len(B))])
    if any(s is not None for s in scales):
        parts = [torch.ones_like(w[:, 0]) if s is None else s for w, s in zip(weights, scales)]
        scale = torch.cat([part.float() for part in parts])  # (n,)
        last, bias = 0.0 if bias is None else bias[:n], None

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if bias is None:
            return x.to(dtype) @ weight
        return torch.addmm(bias, x.to(dtype), weight)

    def with_adapters(x: torch.Tensor) -> torch.Tensor:
        y = multiply(x)
        return torch.addmm(y[:, :n], y[:, n:], B)

    def with_scale(x: torch.Tensor) -> torch.Tensor:
        return (with_adapters(x) * scale + last).to(dtype)

    if scale is not None:
        return with_scale
    return with_adapters if len(B) else multiply


def fused_norm(module: torch.nn.Module) -> Function:
    """Return an RMSNorm as torch's fused one; anything else as it is."""
    if not hasattr(module, "variance_epsilon"):
        return module

    def norm(x: torch.Tensor) -> torch.Tensor:
        weight = module.weight
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), module.variance_epsilon)

    return norm


def fused_qk_norm(attention: torch.nn.Module) -> Function | None:
    """Return the norm of each head's query and key, (B, H + KV, K); None if there is none."""
    if not hasattr(attention, "q_norm"):
        return None
    q, k = attention.q_norm, attention.k_norm
    K = attention.head_dim
    heads = [attention.q_proj.out_features // K, attention.k_proj.out_features // K]
    weight = torch.cat([norm.weight.expand(n, K) for norm, n in zip((q, k), heads)])

    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (K,), eps=q.variance_epsilon) * weight.to(x.dtype)

    return norm


def fused_mlp(mlp: torch.nn.Module, core: torch.nn.Module, copy: bool) -> Function:
    """Return the MLP with gates, (B, D) -> (B, D); a mixture of experts as it is."""
    if not hasattr(mlp, "gate_proj"):

        def with_experts(x: torch.Tensor) -> torch.Tensor:
            with logps.autocast(core, cache_enabled=False):
                return mlp(x[None])[0]

        return with_experts
    gate_up = fused_linear([mlp.gate_proj, mlp.up_proj], core, copy)
    down = fused_linear([mlp.down_proj], core, copy)

    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up(x).chunk(2, -1)
        return down(mlp.act_fn(gate) * up)

    return gated


@functools.cache
def warn_once(text: str) -> None:
    """Print `text`, the first time only."""
    say(text)


def linear_layers(core: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """List the language model's linear layers by name, adapters included: seven a layer.

    Experts have none: their weights are parameters of three dimensions.
    """
    return {
        f"{i}.{part}.{name}_proj": getattr(getattr(layer, part), f"{name}_proj")
        for i, layer in enumerate(core.model.language_model.layers)
        for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
        for name in names
        if hasattr(getattr(layer, part), f"{name}_proj")
    }


def warn_of_unknown_layers(core: torch.nn.Module, plain_head: bool) -> bool:
    """Say once which layers run their own forward, which is slower; return whether any does."""
    foreign = [
        f"{name} ({type(module).__name__})"
        for name, module in linear_layers(core).items()
        if not as_plain_linear(module)
    ]
    if foreign:
        warn_once(
            f"rollout: {len(foreign)} linear layers are of a kind that the decode step does not "
            f"know ({foreign[0]}, ...): their own forward is called, which is slower"
        )
    if not plain_head:
        warn_once(
            f"rollout: lm_head ({type(core.lm_head).__name__}) is of a kind that the decode step "
            "does not know: its own forward is called"
        )
    return bool(foreign) or not plain_head


def decode_weights(core: torch.nn.Module, copy: bool = True) -> SimpleNamespace:
    """Lay out the language model for a decode step: functions over its present weights.

    copy: whether there is memory for the linear layers in the compute dtype (`plan_memory`).
    head: (V, D) in the compute dtype, or None if lm_head is not a plain linear layer.
    logits: x (B, D) -> (B, V) in either case. foreign: whether a layer's own forward is called.
    """
    language_model = core.model.language_model
    dtype = logps.dtype_of(core)
    plain_head = type(core.lm_head) is torch.nn.Linear and core.lm_head.bias is None
    foreign = warn_of_unknown_layers(core, plain_head)
    foreign |= len(linear_layers(core)) < 7 * len(language_model.layers)  # experts
    layers = []
    for layer in language_model.layers:
        attention = layer.self_attn
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        layers.append(
            SimpleNamespace(
                norm1=fused_norm(layer.input_layernorm),
                qkv=fused_linear(qkv, core, copy),
                qk_norm=fused_qk_norm(attention),
                o=fused_linear([attention.o_proj], core, copy),
                norm2=fused_norm(layer.post_attention_layernorm),
                mlp=fused_mlp(layer.mlp, core, copy),
            )
        )
    head = core.lm_head.weight.to(dtype) if plain_head else None

    def plain_logits(x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.to(dtype), head)

    return SimpleNamespace(
        layers=layers,
        dtype=dtype,
        embed=language_model.embed_tokens,
        norm=fused_norm(language_model.norm),
        rotary=language_model.rotary_emb,
        head=head,
        logits=plain_logits if plain_head else fused_linear([core.lm_head], core, copy=False),
        foreign=foreign,
    )


# --- memory ---


def free_memory(device: torch.device) -> int:
    """Measure the bytes that a rollout may take: what is free, and what this process may have."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
        return min(free, allowed) + reserved - torch.cuda.memory_allocated(device)
    if Path("/proc/meminfo").is_file():
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 8 * 2**30


def plan_memory(
    core: torch.nn.Module, prompts: list[data.Prompt], G: int, T: int, free: int, cut: bool = False
) -> Plan:
    """Plan how a rollout fits into `free` bytes: (copy, waves), an estimate with a tenth to spare.

    copy: whether the linear layers are copied into the compute dtype. cut: top-k or top-p.
    waves: (first prompt, end prompt, first generation, end generation), as even as can be.
    A prompt whose own G rows do not fit is encoded and prefilled once a wave.
    """
    dtype = logps.dtype_of(core)
    V, B = core.config.text_config.vocab_size, len(prompts) * G
    longest = max(len(p.ids) for p in prompts)
    token = bytes_of_a_token(core)
    prefix = longest * token
    # Logits, log-probs, probabilities and their sums; with a cut, sorted too.
    chosen = experts.empty(core)
    chosen_bytes = 0 if chosen is None else chosen.nbytes
    row = T * (token + chosen_bytes) + (60 if cut else 24) * V
    head_weight = getattr(core.lm_head, "weight", None)
    head = 0
    if head_weight is not None and head_weight.dtype != dtype:
        head = V * core.config.text_config.hidden_size * dtype.itemsize
    room = 0.9 * free - prefill_bytes(core, prompts) - head

    def rows_that_fit(room: float) -> int:
        rows = int(room / (row + prefix / G))
        if rows < G:  # some of one prompt's rows, and all of its prefix
            rows = int((room - prefix) / row)
        if core.device.type != "cuda":
            return rows
        return next((size for size in range(rows, 0, -1) if bucket(size) == size), 0)

    with_copies = rows_that_fit(room - copied_bytes(core))
    without = rows_that_fit(room)
    # Without copies a step is slower, but not slower than two.
    copy = with_copies > 0 and 2 * with_copies >= min(B, without)
    rows = max(1, with_copies if copy else without)
    if rows < G:
        cuts = batching.even_cuts(G, rows)
        return copy, [(n, n + 1, a, b) for n in range(len(prompts)) for a, b in zip(cuts, cuts[1:])]
    cuts = batching.even_cuts(len(prompts), rows // G)
    return copy, [(a, b, 0, G) for a, b in zip(cuts, cuts[1:])]


def bytes_of_a_token(core: torch.nn.Module) -> int:
    """Count the bytes of one token's keys and values in all layers."""
    config = core.config.text_config
    K = families.head_size(config)
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * K
    return values * logps.dtype_of(core).itemsize


def prefill_bytes(core: torch.nn.Module, prompts: list[data.Prompt]) -> int:
    """Estimate what one prefill pass takes, the vision tower included."""
    config = core.config.text_config
    itemsize = logps.dtype_of(core).itemsize
    D, ff = config.hidden_size, config.intermediate_size
    longest = max(len(p.ids) for p in prompts)
    sizes = [
        int(p.grid.prod(-1).sum()) for p in prompts if p.grid is not None and p.features is None
    ]
    patches = 0  # of one pass, four to a token
    if sizes:
        patches = max(max(sizes), min(sum(sizes), 4 * PREFILL_TOKENS))
    a_token = bytes_of_a_token(core) + itemsize * (6 * D + 5 * ff) + 8 * D
    tower_width = core.family.tower_width
    a_patch = 40 * getattr(core.config.vision_config, tower_width) * itemsize
    return max(longest, PREFILL_TOKENS) * a_token + patches * a_patch


def copied_bytes(core: torch.nn.Module) -> int:
    """Count the bytes of the known linear layers' weights in the compute dtype."""
    known = [as_plain_linear(module) for module in linear_layers(core).values()]
    weights = sum(one[0].in_features * one[0].out_features for one in known if one)
    return weights * logps.dtype_of(core).itemsize


# --- the steps ---


class Decoder:
    """The rows that decode together: all that a step reads and writes, at addresses that stay.

    `rows` rows take part, at the front of every buffer.
    Row i of them is row row_ids[i] of the result, of prompt prompt_of_row[i].
    A finished row emits padding until it is dropped.
    A spare row, which only fills up a bucket, is finished from the start.
    """

    def __init__(
        self,
        core: torch.nn.Module,
        weights: SimpleNamespace,
        prompts: list[data.Prompt],
        special: SimpleNamespace,
        G: int,
        draws: torch.Tensor | None,
        sampling: object,
        sample: Callable,
        said: list[experts.Routed] | None = None,
    ) -> None:
        """Allocate the buffers and prefill the prompts.

        draws: (N * G, T) uniform numbers, or None to be greedy.
        sampling, sample: rollout.Sampling and rollout.sample; rollout imports this module.
        said: what routers say meanwhile (experts.watching).
        """
        self.core, self.weights = core, weights
        self.sampling, self.sample, self.said = sampling, sample, said
        device, T = core.device, sampling.max_tokens
        config = core.config.text_config
        self.H, self.KV = config.num_attention_heads, config.num_key_value_heads
        self.K = families.head_size(config)
        self.graphed = can_capture(device, weights)
        self.graph = None
        N, B = len(prompts), len(prompts) * G
        self.rows = bucket(B) if self.graphed else B

        # what the prompts share
        self.prefix = self.key_value_buffers(N, max(len(p.ids) for p in prompts))
        lengths = torch.tensor([len(p.ids) for p in prompts])
        self.prefix_lengths = lengths.to(device) if lengths.min() < lengths.max() else None
        states, chosen = self.prefill(prompts)  # (N, D), (N, layers, k)
        self.state = with_spares(states.repeat_interleave(G, 0), self.rows)  # (rows, D)
        self.chosen = self.experts = None  # of each row's state; of each state sampled from
        if chosen is not None:
            self.chosen = with_spares(chosen.repeat_interleave(G, 0), self.rows)
            self.experts = chosen.new_zeros(B + 1, T, *chosen.shape[1:])
        starts = torch.tensor([p.next_position for p in prompts])
        first = int(starts.min())
        self.cos, self.sin = self.rotations(states, first, int(starts.max()) + T)

        # what each row has of its own
        self.suffix = self.key_value_buffers(self.rows, T, zeros=self.graphed)
        prompt_of_row = torch.arange(N).repeat_interleave(G)
        starts = (starts - first)[prompt_of_row]
        self.start = with_spares(starts, self.rows).to(device)  # (rows,) in cos, sin
        self.prompt_of_row = prompt_of_row.tolist() + [None] * (self.rows - B)
        # None: the rows of a prompt are contiguous, G each.
        self.members = self.rows_of_prompts(N, G).to(device) if self.graphed else None
        self.row_ids = torch.arange(self.rows, device=device).clamp_max(B)
        self.finished = self.row_ids == B
        self.tokens = torch.full((self.rows,), special.pad_id, device=device)
        self.length = torch.zeros(1, dtype=torch.long, device=device)  # own tokens in each cache

        self.allocate_results(B, special, draws)

    def allocate_results(
        self, B: int, special: SimpleNamespace, draws: torch.Tensor | None
    ) -> None:
        """Allocate what comes out and what goes in; spare rows share the last row."""
        device = self.core.device
        T = self.sampling.max_tokens
        self.targets = torch.full((B + 1, T), special.pad_id, device=device)
        self.logp = torch.zeros(B + 1, T, device=device)
        self.draws = None
        if draws is not None:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self.draws = torch.cat([draws, draws.new_zeros(1, T)]).to(device, dtype)
        self.eos = torch.tensor(special.eos_ids, device=device)
        self.pad_id = special.pad_id
        vocabulary = self.core.config.text_config.vocab_size
        self.banned = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.banned[special.vision_ids] = True

    def key_value_buffers(
        self, rows: int, length: int, zeros: bool = True
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Allocate keys and values for every layer, (rows, KV, length, K) each.

        zeros=False: a step that is not a graph reads only what it wrote, and a CPU touches no more.
        """
        allocate = torch.zeros if zeros else torch.empty
        shape = (rows, self.KV, length, self.K)
        options = {"dtype": self.weights.dtype, "device": self.core.device}
        return [
            (allocate(*shape, **options), allocate(*shape, **options))
            for _ in range(self.core.config.text_config.num_hidden_layers)
        ]

    def rotations(
        self, states: torch.Tensor, first: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tabulate cos and sin of positions first .. end, (positions, 1, K) each.

        In a response all three M-RoPE positions are equal and count 1, 2, 3, ...
        The sign of rotate_half is in sin.
        """
        positions = torch.arange(first, end, device=self.core.device)
        cos, sin = self.weights.rotary(states[None], positions[None, None].expand(3, 1, -1))
        half = self.K // 2
        signed = torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        return cos[0, :, None], signed[:, None]

    def prefill(self, prompts: list[data.Prompt]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read each prompt once: keys and values into `prefix`, and the last states (N, D) out.

        Returns also the experts that computed these, (N, layers, k); None if there are none.
        """
        from transformers import DynamicCache

        states = [None] * len(prompts)
        chosen = [None] * len(prompts)
        # Without autocast's cache, which would be a second copy of a fully trained model.
        with logps.autocast(self.core, cache_enabled=False):
            for indices in prefill_passes([len(p.ids) for p in prompts]):
                stopping.give_way()
                # Padded on the right, where causal attention needs no mask.
                empty = torch.zeros(len(indices), 0)
                batch = batching.collate(
                    [prompts[n] for n in indices], empty.long(), empty, device=self.core.device
                )
                cache = DynamicCache(config=self.core.config.text_config)
                out = self.core.model.language_model(
                    **logps.embed(self.core, batch),
                    position_ids=batch["positions"],
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
                for (k, v), layer in zip(self.prefix, cache.layers):
                    P = layer.keys.shape[2]
                    k[indices, :, :P] = layer.keys.to(k.dtype)
                    v[indices, :, :P] = layer.values.to(v.dtype)
                ids = None
                if self.said:
                    ids = experts.take_ids(self.said).unflatten(0, out.shape[:2])
                for i, n in enumerate(indices):
                    last = len(prompts[n].ids) - 1
                    states[n] = out[i, last]
                    if ids is not None:
                        chosen[n] = ids[i, last]
        return torch.stack(states), None if ids is None else torch.stack(chosen)

    def rows_of_prompts(self, N: int, M: int) -> torch.Tensor:
        """List which rows belong to each prompt: (N, M), -1 for none."""
        members = torch.full((N, M), -1)
        counts = [0] * N
        for i, n in enumerate(self.prompt_of_row):
            if n is not None:
                members[n, counts[n]] = i
                counts[n] += 1
        return members

    def forward_one_token(self, span: int | None = None) -> None:
        """Feed each row its token: `tokens` (rows,) -> `state` (rows, D).

        span: a row's own tokens with this one, if the host knows them; nothing beyond is read.
        None: as `length` says, and finished rows cost no attention.
        """
        w = self.weights
        b, H, KV, K = self.rows, self.H, self.KV, self.K
        h = w.embed(self.tokens[:b])  # (b, D)
        position = self.start[:b] + self.length
        cos, sin = self.cos[position], self.sin[position]  # (b, 1, K)
        lengths = None if span else torch.where(self.finished[:b], 0, self.length + 1)
        for layer, (prefix_k, prefix_v), (suffix_k, suffix_v) in zip(
            w.layers, self.prefix, self.suffix
        ):
            y = layer.qkv(layer.norm1(h))  # (b, (H + 2 KV) K)
            qk, v = y[:, : (H + KV) * K].view(b, H + KV, K), y[:, (H + KV) * K :].view(b, KV, 1, K)
            if layer.qk_norm:
                qk = layer.qk_norm(qk)
            swapped = qk.view(b, H + KV, 2, K // 2).flip(2).view(b, H + KV, K)
            qk = torch.addcmul(qk * cos, swapped, sin).to(w.dtype)  # rotated
            suffix_k[:b].index_copy_(2, self.length, qk[:, H:, None])
            suffix_v[:b].index_copy_(2, self.length, v)
            attended = kernels.shared_prefix_attention(
                qk[:, :H],
                prefix_k,
                prefix_v,
                suffix_k[:b, :, :span],
                suffix_v[:b, :, :span],
                self.members,
                self.prefix_lengths,
                lengths,
            )  # (b, H, K)
            h = h + layer.o(attended.reshape(b, H * K))
            h = h + layer.mlp(layer.norm2(h))
        self.state[:b] = w.norm(h)
        if self.chosen is not None:
            self.chosen[:b] = experts.take_ids(self.said)
        self.length += 1

    def sample_one_token(self) -> None:
        """Sample from `state` each row's next token and its log-prob; a finished row's is padding.

        They go into `tokens`, `targets` and `logp`.
        """
        b = self.rows
        sampling, weights = self.sampling, self.weights
        row_ids, state = self.row_ids[:b], self.state[:b]
        uniform = None if self.draws is None else self.draws[row_ids, self.length]  # (b,)
        if weights.head is not None and (sampling.top_p, sampling.top_k) == (1.0, 0):
            tokens, logp = kernels.head_sample(
                state.to(weights.dtype), weights.head, self.banned, uniform, sampling.temperature
            )
        else:
            logits = weights.logits(state).float().masked_fill(self.banned, -torch.inf)
            tokens, logp = self.sample(logits, uniform, sampling)
        finished = self.finished[:b]
        tokens = torch.where(finished, self.pad_id, tokens)
        self.targets[row_ids, self.length] = tokens
        self.logp[row_ids, self.length] = torch.where(finished, 0.0, logp)
        if self.experts is not None:
            self.experts[row_ids, self.length] = self.chosen[:b]
        self.tokens[:b] = tokens
        finished |= torch.isin(tokens, self.eos)

    def drop_finished_rows(self, keep: torch.Tensor, rows: int) -> None:
        """Move the rows `keep` (indices, ascending) to the front; `rows` >= len(keep) go on."""
        n, length = len(keep), int(self.length)
        for k, v in self.suffix:
            k[:n, :, :length] = k[keep, :, :length]
            v[:n, :, :length] = v[keep, :, :length]
        for buffer in (self.start, self.row_ids, self.tokens, self.finished, self.state):
            buffer[:n] = buffer[keep]
        self.row_ids[n:] = len(self.targets) - 1
        self.finished[n:] = True
        self.prompt_of_row = [self.prompt_of_row[i] for i in keep.tolist()] + [None] * (rows - n)
        self.rows = rows
        if self.graphed:  # at the same address, and as wide as ever
            self.members.copy_(self.rows_of_prompts(*self.members.shape))
            # The graph is for more rows. It is not running: the host has just waited.
            self.graph = None
            return
        self.drop_prompts_without_rows()
        most = max(map(self.prompt_of_row.count, set(self.prompt_of_row)))
        self.members = self.rows_of_prompts(len(self.prefix[0][0]), most).to(keep.device)

    def drop_prompts_without_rows(self) -> None:
        """Free the keys and values of prompts whose rows have all finished."""
        left = sorted(set(self.prompt_of_row))
        if len(left) == len(self.prefix[0][0]):
            return
        for i, (k, v) in enumerate(self.prefix):  # a layer at a time, as each is a copy
            self.prefix[i] = (k[left], v[left])
        if self.prefix_lengths is not None:
            self.prefix_lengths = self.prefix_lengths[left]
        self.prompt_of_row = [left.index(n) for n in self.prompt_of_row]

    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode to the end: targets (B, T) and logp (B, T) on the CPU."""
        self.sample_one_token()
        # The host asks which rows are finished. A GPU would have to wait for the answer.
        every = 16 if self.graphed else 1
        for length in range(1, self.sampling.max_tokens):
            if (length - 1) % every == 0:
                stopping.give_way()
                running = (~self.finished[: self.rows]).nonzero()[:, 0]
                n = len(running)
                if n == 0:
                    break
                rows = bucket(n) if self.graphed else n
                # Moving rows costs about as much as a few steps.
                if rows < self.rows and (self.graphed or n <= 0.75 * self.rows):
                    self.drop_finished_rows(running, rows)
            if self.graphed:
                self.graph = self.graph or self.capture()
                self.graph.replay()
            else:
                self.forward_one_token(length)
                self.sample_one_token()
        return self.targets[:-1].cpu(), self.logp[:-1].cpu()

    def capture(self) -> "torch.cuda.CUDAGraph":
        """Capture one step for the present rows as a CUDA graph, warmed up on another stream.

        The warm-up compiles kernels and allocates workspaces; its tokens are taken back.
        What it wrote beyond `length` is written again by the replay.
        """
        buffers = (self.tokens, self.finished, self.length, self.state)
        kept = [(buffer, buffer.clone()) for buffer in buffers]
        stream = side_stream(self.core.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.forward_one_token()
                self.sample_one_token()
                for buffer, value in kept:
                    buffer.copy_(value)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.forward_one_token()
            self.sample_one_token()
        return graph


def with_spares(rows: torch.Tensor, total: int) -> torch.Tensor:
    """Add rows of zeros up to `total`."""
    return torch.cat([rows, rows.new_zeros(total - len(rows), *rows.shape[1:])])


def prefill_passes(lengths: list[int]) -> Iterator[list[int]]:
    """Group prompts of about one length: indices of at most PREFILL_TOKENS, padding counted."""
    indices = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        if indices and (len(indices) + 1) * lengths[n] > PREFILL_TOKENS:
            yield indices
            indices = []
        indices.append(n)
    yield indices


@functools.cache
def side_stream(device: torch.device) -> "torch.cuda.Stream":
    """Return the stream to warm up on, always the same: torch keeps a workspace for each."""
    return torch.cuda.Stream(device)


def can_capture(device: torch.device, weights: SimpleNamespace) -> bool:
    """Say whether a step can be a CUDA graph.

    A layer's own forward may read values on the host, as 8-bit layers and experts do.
    """
    return device.type == "cuda" and not weights.foreign


def bucket(rows: int) -> int:
    """Round the number of rows up to one that a CUDA graph is captured for."""
    return next((size for size in BUCKETS if size >= rows), -(-rows // 32) * 32)
