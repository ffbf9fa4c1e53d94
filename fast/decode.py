"""The fast rollout: weights laid out for decoding, and its steps."""

import functools
import os
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from transformers import DynamicCache

import data
import logps
from fast import kernels
from plumbing.log import say

PREFILL_TOKENS = 4096  # of several prompts in one prefill pass: enough to keep a GPU busy
BUCKETS = (
    1,
    2,
    4,
    8,
    16,
    24,
    32,
    48,
)  # rows for which a CUDA graph is captured; from 64 on every 32


# --------------------------------------------------------------------------------------------------------------- sampling


def sample(logits, uniform, temperature=1.0, top_p=1.0, top_k=0):
    """One token a row by inverting the cumulative distribution. logits: (B, V); uniform: (B,) float64 in [0, 1).

    temperature 0 is greedy. top_k 0 and top_p 1 keep the whole distribution, which is what RL wants: any cut makes importance ratios
    wrong. Returns tokens (B,) and logp (B,) float32: of the tempered distribution before top-k and top-p, the one that
    `token_logps` computes (greedy: at temperature 1).
    """
    logp = (logits.float() / (temperature or 1.0)).log_softmax(-1)  # (B, V)
    if temperature == 0:
        tokens = logp.argmax(-1)
    else:
        probs = (
            (logp.cpu() if logp.device.type == "mps" else logp).double().exp()
        )  # Apple's GPUs have no float64
        if top_k and top_k < probs.shape[-1]:
            probs = probs.masked_fill((logp < logp.topk(top_k).values[:, -1:]).to(probs.device), 0)
        if top_p < 1:
            ordered, order = probs.sort(descending=True)
            ordered = ordered / ordered.sum(-1, keepdim=True)
            beyond = (
                ordered.cumsum(-1) - ordered >= top_p
            )  # the smallest set whose mass reaches top_p
            probs = probs.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0)
        tokens = kernels.inverse_cdf(probs, uniform.to(probs.device)).to(logp.device)
    return tokens, logp.gather(-1, tokens[:, None])[:, 0]


# --------------------------------------------------------------------------------------------------------------- the model's weights


def as_plain_linear(module):
    """(linear layer, its adapter's name or None) of a layer that the decode step can compute by itself; None for any other.

    Known are torch.nn.Linear and bitsandbytes' Linear4bit, each alone or under one vanilla LoRA adapter of PEFT, active and unmerged. Not known: several adapters at
    once, DoRA, AdaLoRA and their like, adapters with biases, one that is merged and switched off, 8-bit layers.
    """
    name = None
    if hasattr(module, "lora_A"):
        active = (
            []
            if module.disable_adapters or module.merged
            else [name for name in module.active_adapters if name in module.lora_A]
        )
        plain = all(
            type(module.lora_A[name]) is torch.nn.Linear
            and name not in module.lora_variant
            and not module.lora_bias.get(name)
            for name in active
        )
        if len(active) > 1 or not plain or module.merged and module.disable_adapters:
            return None
        module, name = module.base_layer, active[0] if active else None
    return (
        (module, name)
        if type(module) is torch.nn.Linear or type(module).__name__ == "Linear4bit"
        else None
    )


def weights_of(module, dtype):
    """(weight (out, in), bias (out,) or None, A (r, in), B (out, r)) of a known layer in `dtype`: y = x weight' + bias + x A' B', r 0 without an adapter.

    4-bit weights are dequantised, to the very numbers that the trainer multiplies with. Adapters stay unmerged: merging into bfloat16 rounds most of a young one
    away (facts/performance.md, 4.2).
    """
    layer, name = as_plain_linear(module)
    weight, bias = layer.weight, layer.bias
    if type(layer) is not torch.nn.Linear:
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    weight = weight.to(dtype)
    if name is None:
        A, B = weight.new_zeros(0, weight.shape[1]), weight.new_zeros(len(weight), 0)
    else:
        A, B = (
            module.lora_A[name].weight.to(dtype),
            (module.lora_B[name].weight * module.scaling[name]).to(dtype),
        )
    return weight, None if bias is None else bias.to(dtype), A, B


def fused_linear(modules, core, copy):
    """One function x (B, in) -> (B, sum of outs) for linear layers that read the same x. Their weights and their adapters' A are one matrix, x [W1; W2; A1; A2]', and
    the adapters' B another, [B1, 0; 0, B2]: two multiplications for up to three layers with LoRA. Without `copy`, or with a layer that is not known, each layer's own forward.
    """
    dtype = logps.dtype_of(core)
    if not copy or not all(map(as_plain_linear, modules)):

        def own(
            x,
        ):  # no cache of cast weights: a CUDA graph would read addresses that autocast frees
            with logps.autocast(core, cache_enabled=False):
                return torch.cat([module(x).to(dtype) for module in modules], -1)

        return own
    weights, biases, As, Bs = zip(*(weights_of(module, dtype) for module in modules))
    n, B = sum(map(len, weights)), torch.block_diag(*Bs).T.contiguous()  # (sum of r, n)
    weight, bias = (
        torch.cat(weights + As).T.contiguous(),
        None,
    )  # (in, n + sum of r): read faster so by a CPU, for few rows by a tenth
    if any(b is not None for b in biases):
        bias = torch.cat(
            [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases)]
            + [weight.new_zeros(len(B))]
        )
    multiply = (
        (lambda x: x.to(dtype) @ weight)
        if bias is None
        else (lambda x: torch.addmm(bias, x.to(dtype), weight))
    )
    if not len(B):
        return multiply

    def with_adapters(x):
        y = multiply(x)
        return torch.addmm(y[:, :n], y[:, n:], B)

    return with_adapters


def normed(module):
    """An RMSNorm as torch's fused one; anything else as it is."""
    if not hasattr(module, "variance_epsilon"):
        return module
    return lambda x: F.rms_norm(
        x, module.weight.shape, module.weight.to(x.dtype), module.variance_epsilon
    )


@functools.cache
def warn_once(text):
    say(text)


def linear_layers(core):
    """{name: module} of the language model's linear layers, adapters included, seven a layer."""
    return {
        f"{i}.{part}.{name}_proj": getattr(getattr(layer, part), f"{name}_proj")
        for i, layer in enumerate(core.model.language_model.layers)
        for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
        for name in names
    }


def decode_weights(core, copy=True):
    """The language model as a decode step wants it: functions over its weights of this moment. To be built for each rollout and dropped after it, so that it is never stale.

    copy: whether there is room for a second copy of the linear layers in the compute dtype (`plan`). head: (V, D) in the compute dtype, or None if lm_head is not a
    plain linear layer; logits: x (B, D) -> (B, V) in either case.
    """
    language_model, dtype = core.model.language_model, logps.dtype_of(core)
    foreign = [
        f"{name} ({type(module).__name__})"
        for name, module in linear_layers(core).items()
        if not as_plain_linear(module)
    ]
    if foreign:
        warn_once(
            f"rollout: {len(foreign)} linear layers are of a kind that the decode step does not know ({foreign[0]}, ...): their own forward is called, which is slower"
        )
    layers = []
    for layer in language_model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layers.append(
            SimpleNamespace(
                norm1=normed(layer.input_layernorm),
                qkv=fused_linear(
                    [attention.q_proj, attention.k_proj, attention.v_proj], core, copy
                ),
                o=fused_linear([attention.o_proj], core, copy),
                norm2=normed(layer.post_attention_layernorm),
                gate_up=fused_linear([mlp.gate_proj, mlp.up_proj], core, copy),
                down=fused_linear([mlp.down_proj], core, copy),
                act=mlp.act_fn,
            )
        )
    plain = type(core.lm_head) is torch.nn.Linear and core.lm_head.bias is None
    if not plain:
        warn_once(
            f"rollout: lm_head ({type(core.lm_head).__name__}) is of a kind that the decode step does not know: its own forward is called"
        )
    head = core.lm_head.weight.to(dtype) if plain else None
    logits = (
        (lambda x: F.linear(x.to(dtype), head))
        if plain
        else fused_linear([core.lm_head], core, copy=False)
    )
    return SimpleNamespace(
        layers=layers,
        dtype=dtype,
        embed=language_model.embed_tokens,
        norm=normed(language_model.norm),
        rotary=language_model.rotary_emb,
        head=head,
        logits=logits,
        foreign=bool(foreign) or not plain,
    )


# --------------------------------------------------------------------------------------------------------------- the plan


def free_memory(device):
    """Bytes that a rollout may take on this device: what the card has free, and this process may take (torch.cuda.set_per_process_memory_fraction)."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        return (
            min(free, int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved)
            + reserved
            - torch.cuda.memory_allocated(device)
        )
    if Path("/proc/meminfo").is_file():
        return next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("MemAvailable")
        )
    return (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        if hasattr(os, "sysconf")
        else 8 * 2**30
    )


def plan_memory(core, prompts, G, T, free, cut=False):
    """How a rollout fits into `free` bytes: (copy, waves). copy: whether the linear layers' weights are copied into the compute dtype. waves: list of (first prompt, end
    prompt, first generation, end generation); one wave if all fits, else several of about the same size. An estimate, with a tenth of `free` left over. cut: top-k or top-p.

    A prompt whose own G rows do not fit is encoded and prefilled once a wave.
    """
    config, dtype, B = core.config.text_config, logps.dtype_of(core), len(prompts) * G
    D, ff, V = config.hidden_size, config.intermediate_size, config.vocab_size
    token = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * (D // config.num_attention_heads)
        * dtype.itemsize
    )  # keys and values of one token
    longest = max(len(p.ids) for p in prompts)
    row = (
        T * token + (60 if cut else 24) * V
    )  # logits, log-probs, probabilities and their sums; sorted, if cut
    pictures = [
        int(p.grid.prod(-1).sum()) for p in prompts if p.grid is not None and p.features is None
    ]
    patches = (
        max(max(pictures), min(sum(pictures), 4 * PREFILL_TOKENS)) if pictures else 0
    )  # that one pass has, four to a token
    prefill = (
        max(longest, PREFILL_TOKENS) * (token + dtype.itemsize * (6 * D + 5 * ff) + 8 * D)
        + patches * 40 * core.config.vision_config.embed_dim * dtype.itemsize
    )
    head = (
        V * D * dtype.itemsize
        if getattr(core.lm_head, "weight", None) is not None and core.lm_head.weight.dtype != dtype
        else 0
    )
    copies = (
        sum(
            as_plain_linear(m)[0].in_features * as_plain_linear(m)[0].out_features
            for m in linear_layers(core).values()
            if as_plain_linear(m)
        )
        * dtype.itemsize
    )

    def fitting(taken):
        """How many rows fit beside `taken` bytes."""
        room = 0.9 * free - prefill - head - taken
        rows = int(room / (row + longest * token / G))
        rows = (
            rows if rows >= G else int((room - longest * token) / row)
        )  # some of one prompt's, and all of its prefix
        return (
            rows
            if core.device.type != "cuda"
            else next((size for size in range(rows, 0, -1) if bucket(size) == size), 0)
        )

    copy = fitting(copies) > 0 and 2 * fitting(copies) >= min(
        B, fitting(0)
    )  # without copies a step is slower, but not than two
    fit = max(1, fitting(copies if copy else 0))
    if fit < G:
        cuts = data.even_cuts(G, fit)
        return copy, [(n, n + 1, a, b) for n in range(len(prompts)) for a, b in zip(cuts, cuts[1:])]
    cuts = data.even_cuts(len(prompts), fit // G)
    return copy, [(a, b, 0, G) for a, b in zip(cuts, cuts[1:])]


class Decoder:
    """The rows that decode together, and everything a step reads and writes, at addresses that do not change.

    b rows take part, at the front of every buffer; row i of them is row `live[i]` of the wave, of prompt `group[i]`. Rows that ended say padding until they leave (`leave`).
    Rows that only fill up a bucket have ended from the start, and write to a spare last row of `targets`.
    """

    def __init__(self, core, weights, prompts, special, G, T, draws, temperature, top_p, top_k):
        self.core, self.weights, self.T, self.sampling = (
            core,
            weights,
            T,
            (temperature, top_p, top_k),
        )
        device, dtype, config = core.device, weights.dtype, core.config.text_config
        N, B, L = len(prompts), len(prompts) * G, config.num_hidden_layers
        self.H, self.KV, self.K = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.hidden_size // config.num_attention_heads,
        )
        self.graphed, self.graph = can_capture(device, weights), None
        self.b = b = bucket(B) if self.graphed else B
        spare = b - B  # rows that only fill up a bucket: ended from the start

        # what the prompts share
        longest = max(len(p.ids) for p in prompts)
        self.prefix = [
            (
                torch.zeros(N, self.KV, longest, self.K, dtype=dtype, device=device),
                torch.zeros(N, self.KV, longest, self.K, dtype=dtype, device=device),
            )
            for _ in range(L)
        ]
        lengths = [len(p.ids) for p in prompts]
        self.prefix_lengths = (
            torch.tensor(lengths, device=device) if min(lengths) < longest else None
        )
        states = self.prefill(prompts)  # (N, D)
        self.state = torch.cat(
            [states.repeat_interleave(G, 0), states.new_zeros(spare, states.shape[1])]
        )  # (b, D)
        first = min(p.following for p in prompts)
        where = torch.arange(first, max(p.following for p in prompts) + T, device=device)
        cos, sin = weights.rotary(
            states[None], where[None, None].expand(3, 1, -1)
        )  # in a response all three M-RoPE positions count 1, 2, 3, ...
        half = self.K // 2
        self.cos, self.sin = (
            cos[0, :, None],
            torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)[:, None],
        )  # (positions, 1, K), the sign of rotate_half in sin

        # what each row has of its own
        memory = (
            torch.zeros if self.graphed else torch.empty
        )  # a step that is not a graph reads nothing beyond what it has written: a CPU need not touch it
        self.suffix = [
            (
                memory(b, self.KV, T, self.K, dtype=dtype, device=device),
                memory(b, self.KV, T, self.K, dtype=dtype, device=device),
            )
            for _ in range(L)
        ]
        group = torch.arange(N).repeat_interleave(G)
        self.following = torch.cat(
            [
                torch.tensor([p.following - first for p in prompts])[group],
                torch.zeros(spare, dtype=torch.long),
            ]
        ).to(device)  # (b,)
        self.group, self.members = (
            group.tolist() + [None] * spare,
            None,
        )  # members None: the rows of a prompt are contiguous, G each
        if self.graphed:
            self.members = self.table(N, G).to(device)
        self.live = torch.arange(b, device=device).clamp_max(B)  # (b,)
        self.ended = self.live == B
        self.tokens = torch.full((b,), special.pad_id, device=device)
        self.t = torch.zeros(
            1, dtype=torch.long, device=device
        )  # how many of its own tokens each row has in its cache

        # what comes out, and what goes in
        self.targets = torch.full((B + 1, T), special.pad_id, device=device)
        self.logp = torch.zeros(B + 1, T, device=device)
        self.draws = (
            None
            if draws is None
            else torch.cat([draws, draws.new_zeros(1, T)]).to(
                device, torch.float32 if device.type == "mps" else torch.float64
            )
        )
        self.eos, self.pad_id = torch.tensor(special.eos_ids, device=device), special.pad_id
        self.banned = torch.zeros(config.vocab_size, dtype=torch.bool, device=device)
        self.banned[special.vision_ids] = True

    def prefill(self, prompts):
        """Each prompt once: its keys and values into `prefix`; returns the states that say the first tokens, (N, D). Padded on the right, where causal attention needs no mask."""
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n].ids))
        passes = [[]]
        for n in order:
            if passes[-1] and (len(passes[-1]) + 1) * len(prompts[n].ids) > PREFILL_TOKENS:
                passes.append([])
            passes[-1].append(n)
        states = [None] * len(prompts)
        with logps.autocast(
            self.core, cache_enabled=False
        ):  # the cache would be a second copy of a fully trained model
            for chosen in passes:
                nothing = torch.zeros(len(chosen), 0)
                batch = data.collate(
                    [prompts[n] for n in chosen], nothing.long(), nothing, device=self.core.device
                )
                cache = DynamicCache(config=self.core.config.text_config)
                out = self.core.model.language_model(
                    inputs_embeds=logps.embed(self.core, batch),
                    position_ids=batch["positions"],
                    attention_mask={"full_attention": None},
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
                for (k, v), layer in zip(self.prefix, cache.layers):
                    k[chosen, :, : layer.keys.shape[2]], v[chosen, :, : layer.keys.shape[2]] = (
                        layer.keys.to(k.dtype),
                        layer.values.to(v.dtype),
                    )
                for i, n in enumerate(chosen):
                    states[n] = out[i, len(prompts[n].ids) - 1]
        return torch.stack(states)

    def table(self, N, M):
        """members (N, M): which of the b rows belong to each prompt, -1 for none."""
        members, seen = torch.full((N, M), -1), [0] * N
        for i, n in enumerate(self.group):
            if n is not None:
                members[n, seen[n]] = i
                seen[n] += 1
        return members

    def think(self, span=None):
        """One token further: `tokens` (b,) -> `state` (b, D). span: how many of the rows' own tokens there are with this one, if the host knows (no mask, nothing of the
        cache read beyond it); None: as `t` says, and rows that ended cost no attention."""
        w, b, H, KV, K = self.weights, self.b, self.H, self.KV, self.K
        h = w.embed(self.tokens[:b])  # (b, D)
        at = self.following[:b] + self.t
        cos, sin = self.cos[at], self.sin[at]  # (b, 1, K)
        lengths = None if span else torch.where(self.ended[:b], 0, self.t + 1)
        for layer, (prefix_k, prefix_v), (suffix_k, suffix_v) in zip(
            w.layers, self.prefix, self.suffix
        ):
            y = layer.qkv(layer.norm1(h))  # (b, (H + 2 KV) K)
            qk, v = y[:, : (H + KV) * K].view(b, H + KV, K), y[:, (H + KV) * K :].view(b, KV, 1, K)
            swapped = qk.view(b, H + KV, 2, K // 2).flip(2).view(b, H + KV, K)
            qk = torch.addcmul(qk * cos, swapped, sin).to(w.dtype)  # rotated
            suffix_k[:b].index_copy_(2, self.t, qk[:, H:, None])
            suffix_v[:b].index_copy_(2, self.t, v)
            seen = kernels.shared_prefix_attention(
                qk[:, :H],
                prefix_k,
                prefix_v,
                suffix_k[:b, :, :span],
                suffix_v[:b, :, :span],
                self.members,
                self.prefix_lengths,
                lengths,
            )  # (b, H, K)
            h = h + layer.o(seen.reshape(b, H * K))
            gate, up = layer.gate_up(layer.norm2(h)).chunk(2, -1)
            h = h + layer.down(layer.act(gate) * up)
        self.state[:b] = w.norm(h)
        self.t += 1

    def speak(self):
        """`state` -> the next token of each row and its log-prob, into `tokens`, `targets` and `logp`. Rows that ended say padding."""
        b, (temperature, top_p, top_k) = self.b, self.sampling
        uniform = None if self.draws is None else self.draws[self.live[:b], self.t]  # (b,)
        if self.weights.head is not None and (top_p, top_k) == (1.0, 0):
            tokens, logp = kernels.head_sample(
                self.state[:b].to(self.weights.dtype),
                self.weights.head,
                self.banned,
                uniform,
                temperature,
            )
        else:
            tokens, logp = sample(
                self.weights.logits(self.state[:b]).float().masked_fill(self.banned, -torch.inf),
                uniform,
                temperature,
                top_p,
                top_k,
            )
        ended = self.ended[:b]
        tokens, logp = torch.where(ended, self.pad_id, tokens), torch.where(ended, 0.0, logp)
        self.targets[self.live[:b], self.t], self.logp[self.live[:b], self.t] = tokens, logp
        self.tokens[:b] = tokens
        ended |= torch.isin(tokens, self.eos)

    def leave(self, keep, b):
        """Rows other than `keep` (indices, ascending) leave: those move to the front of every buffer, and b >= len(keep) rows go on."""
        n, said = len(keep), int(self.t)
        for k, v in self.suffix:
            k[:n, :, :said], v[:n, :, :said] = k[keep, :, :said], v[keep, :, :said]
        for buffer in (self.following, self.live, self.tokens, self.ended, self.state):
            buffer[:n] = buffer[keep]
        self.live[n:], self.ended[n:] = len(self.targets) - 1, True
        self.group = [self.group[i] for i in keep.tolist()] + [None] * (b - n)
        self.b = b
        if self.graphed:  # at the same address, and as wide as ever
            self.members.copy_(self.table(*self.members.shape))
            self.graph = None  # for more rows than there will ever be again; the host has just waited, so it is not running
            return
        there = sorted(set(self.group))  # prompts without a row leave too
        if len(there) < len(self.prefix[0][0]):
            for i, (k, v) in enumerate(self.prefix):  # a layer at a time, as each is a copy
                self.prefix[i] = (k[there], v[there])
            self.prefix_lengths = (
                None if self.prefix_lengths is None else self.prefix_lengths[there]
            )
            self.group = [there.index(n) for n in self.group]
        self.members = self.table(len(there), max(map(self.group.count, set(self.group)))).to(
            keep.device
        )

    def run(self):
        """Decodes to the end. Returns targets (B, T) and logp (B, T) on the CPU."""
        self.speak()
        every = (
            16 if self.graphed else 1
        )  # the host asks who has ended: a GPU would wait for the answer
        for said in range(1, self.T):
            if (said - 1) % every == 0:
                running = (~self.ended[: self.b]).nonzero()[:, 0]
                n = len(running)
                if n == 0:
                    break
                rows = bucket(n) if self.graphed else n
                if rows < self.b and (
                    self.graphed or n <= 0.75 * self.b
                ):  # moving costs about as much as a few steps
                    self.leave(running, rows)
            if self.graphed:
                self.graph = self.graph or self.capture()
                self.graph.replay()
            else:
                self.think(said)
                self.speak()
        return self.targets[:-1].cpu(), self.logp[:-1].cpu()

    def capture(self):
        """`think` and `speak` for b rows as a CUDA graph. Warmed up first, on another stream, as torch asks for: kernels are compiled and workspaces allocated there. What the
        warm-up said is taken back; what it wrote behind `t` is written again by the replay."""
        kept = [
            (buffer, buffer.clone()) for buffer in (self.tokens, self.ended, self.t, self.state)
        ]
        stream = side_stream(self.core.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.think()
                self.speak()
                for buffer, value in kept:
                    buffer.copy_(value)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.think()
            self.speak()
        return graph


@functools.cache
def side_stream(device):
    """The stream to warm up on, always the same: torch keeps a workspace for each that was ever multiplied on."""
    return torch.cuda.Stream(device)


def can_capture(device, weights):
    """Whether a step can be a CUDA graph: not with layers whose forward is not ours, which may read values on the host (8-bit layers do)."""
    return device.type == "cuda" and not weights.foreign


def bucket(rows):
    """The number of rows, at least this many, that a CUDA graph is captured for."""
    return next((size for size in BUCKETS if size >= rows), -(-rows // 32) * 32)
