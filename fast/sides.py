"""The same work done several ways: ours beside stock transformers, for the benchmarks to compare.

Nothing ends a row before T tokens, so every side of a comparison does the same work.
`check_same_work` refuses to compare sides that do not.

Dimension key: N prompts, G completions of each, B = N * G rows; P tokens of a prompt, T of a
completion; V vocabulary.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch

import batching
import data
import families
import logps
import losses
import model as modeling
import rollout
from processor import Processor
from reinforcing import advantages, agreement
from update import make_optimizer

Call = Callable[[int], object]  # takes the number of the turn


class Work(NamedTuple):
    """The size of what is measured: N prompts of P tokens, G completions of T."""

    N: int
    P: int
    T: int
    G: int


class Size(NamedTuple):
    """The shape of a random model. tied: head and embeddings. vision: depth, width, heads."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    heads: int
    kv_heads: int
    tied: bool
    vision: tuple[int, int, int]


# "8m": every part has the weight that it has in the real ones, only smaller.
# "head": nearly all of its memory is the head's. "2b", "7b": the published shapes.
MODELS = {
    "8m": Size(256, 768, 6, 4096, 4, 2, False, (4, 128, 4)),
    "head": Size(64, 192, 2, 151936, 4, 2, False, (4, 128, 4)),
    "2b": Size(1536, 8960, 28, 151936, 12, 2, True, (32, 1280, 16)),
    "7b": Size(3584, 18944, 28, 152064, 28, 4, False, (32, 1280, 16)),
}

FAMILY = families.preset("tiny")

# --- the model ---


def model_config(size: str, special: SimpleNamespace) -> object:
    """Make the config.json of MODELS[size] with the special tokens of `special`."""
    shape = MODELS[size]
    depth, width, vision_heads = shape.vision
    head_size = shape.hidden // shape.heads
    # Time, height and width: half a head in all, divided as in the real ones.
    section = [head_size // 8, head_size * 3 // 16, head_size * 3 // 16]
    return FAMILY.config_class()(
        text_config={
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": section,
            },
            "bos_token_id": special.pad_id,
            "eos_token_id": special.eos_ids[0],
            "pad_token_id": special.pad_id,
        },
        vision_config={
            "depth": depth,
            "embed_dim": width,
            "num_heads": vision_heads,
            "hidden_size": shape.hidden,
        },
        tie_word_embeddings=shape.tied,
        image_token_id=special.image_id,
        video_token_id=special.video_id,
        vision_start_token_id=special.vision_ids[0],
        vision_end_token_id=special.vision_ids[1],
    )


def write_model(
    directory: str | Path,
    size: str,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a random model of MODELS[size] with the tiny preset's words."""
    tokenizer = families.tiny_tokenizer()
    special = families.special_ids(tokenizer)
    config = model_config(size, special)
    torch.manual_seed(seed)
    with torch.device(device):
        model = FAMILY.model_class()._from_config(config, dtype=dtype)
    # At the usual 0.02 a small model answers the same few tokens to every prompt.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "visual" not in name:
                factor = 8 if "lm_head" in name else 2
                parameter.mul_(factor * 16 / math.sqrt(MODELS[size].hidden))
    model.save_pretrained(directory)
    image_processor = families.image_processor_class()()
    Processor(tokenizer, image_processor, special, 4096, FAMILY).save(directory)


def training_flags(lora_r: int, gradient_checkpointing: bool = False) -> SimpleNamespace:
    """Make the flags that model.load wants of a training script: nothing is frozen."""
    return SimpleNamespace(
        lora_r=lora_r,
        lora_alpha=2 * lora_r,
        lora_dropout=0.0,
        lora_targets=None,
        train_merger=None,
        use_dora=None,
        use_rslora=None,
        freeze_vision=False,
        freeze_merger=False,
        freeze_llm=False,
        gradient_checkpointing=gradient_checkpointing,
    )


def load_bench(
    directory: str,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    quant: str = "none",
    lora_r: int = 8,
    gradient_checkpointing: bool = False,
) -> tuple[torch.nn.Module, Processor, SimpleNamespace]:
    """Load (policy, processor, special) of a checkpoint with LoRA whose B is not zero.

    special: its end-of-text tokens are among those never sampled, so every row has T tokens.
    """
    policy, processor = modeling.load(
        directory,
        dtype,
        device,
        quant,
        train=training_flags(lora_r, gradient_checkpointing),
        max_pixels=12845056,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    never = [*processor.special.vision_ids, *processor.special.eos_ids]
    return policy, processor, SimpleNamespace(**vars(processor.special) | {"vision_ids": never})


# --- the prompts ---


def picture_side(P: int) -> int:
    """Return the side, in tokens, of the square picture in a prompt of P tokens.

    The rest is text: at least 42 words, and two tokens around the picture.
    """
    return math.isqrt(P - 44)


def random_prompt(special: SimpleNamespace, P: int, seed: int = 0) -> data.Prompt:
    """Make a prompt of P tokens: twelve random words, a picture of noise, random words."""
    generator = torch.Generator().manual_seed(seed)
    side = picture_side(P)
    words = torch.randint(min(special.vision_ids), (P - side * side - 2,), generator=generator)
    ids = torch.cat(
        [
            words[:12],
            torch.tensor(special.vision_ids[:1]),
            torch.full((side * side,), special.image_id),
            torch.tensor(special.vision_ids[1:2]),
            words[12:],
        ]
    )
    is_image = ids == special.image_id
    positions, following = families.rope_positions(is_image, [(side, side)])
    return data.Prompt(
        ids,
        positions,
        following,
        is_image.nonzero()[:, 0],
        torch.randn(4 * side * side, 1176, generator=generator),
        torch.tensor([[1, 2 * side, 2 * side]]),
    )


def random_prompts(special: SimpleNamespace, N: int, P: int) -> list[data.Prompt]:
    """Make N prompts of P tokens each, no two alike."""
    return [random_prompt(special, P, n) for n in range(N)]


def repeated(prompts: list[data.Prompt], G: int) -> list[data.Prompt]:
    """Repeat each prompt G times: [a, b] -> [a, a, ..., b, b, ...]."""
    return [p for p in prompts for _ in range(G)]


# --- stock transformers ---


def stock_inputs(
    prompts: list[data.Prompt],
    special: SimpleNamespace,
    device: torch.device,
    completions: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Make the inputs of stock transformers: one row a prompt, all of one length.

    completions: (B, T), appended to the prompts if given.
    """
    ids = torch.stack([p.ids for p in prompts])  # (B, P)
    if completions is not None:
        ids = torch.cat([ids, completions], 1)  # (B, P + T)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == special.image_id).long(),
        "pixel_values": torch.cat([p.pixel_values for p in prompts]),
        "image_grid_thw": torch.cat([p.grid for p in prompts]),
    }
    return {name: value.to(device) for name, value in inputs.items()}


@contextlib.contextmanager
def stock(policy: torch.nn.Module) -> Iterator[None]:
    """Switch to transformers' own attention, in the project's mixed precision.

    model.load sets an attention that also knows packed rows.
    """
    core = logps.core_of(policy)
    config = core.model.language_model.config
    ours = config._attn_implementation
    config._attn_implementation = "sdpa"
    try:
        with logps.autocast(core):
            yield
    finally:
        config._attn_implementation = ours


def stock_generate(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    prompts: list[data.Prompt],
    T: int,
    **options: object,
) -> torch.Tensor:
    """Sample (B, T) tokens with `model.generate`, from all tokens but `special.vision_ids`.

    A row for each of `prompts`, or num_return_sequences of them.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Torch prefers cuDNN's attention on Hopper, which plans anew for each length of the cache:
    # tens of milliseconds a step that are not transformers' fault.
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} | options
    with torch.no_grad(), stock(policy), sdpa_kernel(backends):
        out = policy.generate(
            **stock_inputs(prompts, special, policy.device),
            max_new_tokens=T,
            repetition_penalty=1.0,
            suppress_tokens=special.vision_ids,
            pad_token_id=special.pad_id,
            **options,
        )
    return out[:, len(prompts[0].ids) :]


def stock_logps(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    prompts: list[data.Prompt],
    completions: torch.Tensor,
) -> torch.Tensor:
    """Compute (B, T) log-probs with the stock forward pass and all of its logits.

    A row has a prompt, its picture and a completion.
    """
    T = completions.shape[1]
    inputs = stock_inputs(prompts, special, policy.device, completions.cpu())
    with stock(policy):
        logits = policy(**inputs, use_cache=False, logits_to_keep=T + 1).logits
        logits = logits[:, :-1].float()  # (B, T, V)
    logits[..., special.vision_ids] = -torch.inf
    return logits.log_softmax(-1).gather(-1, completions.to(logits.device)[..., None])[..., 0]


# --- ours ---


def our_logps(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    prompts: list[data.Prompt],
    completions: torch.Tensor,
    counts: list[int],
) -> torch.Tensor:
    """Compute (B, T) log-probs as the training scripts do; `counts` rows for each prompt.

    Counts of 1 are the plain path: each row with its own prompt and picture.
    """
    mask = torch.ones(completions.shape)
    prompts = [dataclasses.replace(p) for p in prompts]  # features stay cached for one step only
    logps.cache_features(policy, prompts)
    batch = batching.collate(prompts, completions, mask, counts, policy.device)
    return logps.token_logps(policy, batch, 1.0, special.vision_ids)


def random_advantage(B: int, G: int, seed: int) -> torch.Tensor:
    """Return (B,) group advantages of rewards drawn by `seed`."""
    rewards = torch.rand(B, generator=torch.Generator().manual_seed(seed))
    return advantages.group_advantage(rewards, G)


def surrogate(
    logp: torch.Tensor, adv: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Compute the on-policy GRPO loss. logp, mask, weights: (B, T); adv: (B,)."""
    per_token = losses.clipped_surrogate(logp, logp.detach(), adv.to(logp), mask, 0.8, 1.2)
    return losses.aggregate(per_token, weights.to(logp))


def backward(logp: torch.Tensor, G: int, seed: int = 0) -> None:
    """Compute the GRPO loss of rewards drawn by `seed`, and its gradient."""
    mask = torch.ones_like(logp)
    adv = random_advantage(len(logp), G, seed)
    surrogate(logp, adv, mask, losses.token_weights(mask, "grpo")).backward()


def ignore_phase(phase: str) -> None:
    """Do nothing at the end of a phase of `our_step`."""


def our_step(
    policy: torch.nn.Module,
    special: SimpleNamespace,
    prompts: list[data.Prompt],
    T: int,
    G: int,
    optimizer: torch.optim.Optimizer,
    turn: int,
    micro: int | None = None,
    reached: Callable[[str], None] = ignore_phase,
) -> None:
    """Take a step of train_grpo.py with random rewards.

    micro: rows per forward and backward pass; None: all.
    reached: called with "rollout", "update" (the gradient) and "optimizer" as each ends.
    """
    N = len(prompts)
    prompts = [dataclasses.replace(p) for p in prompts]
    logps.cache_features(policy, prompts)
    roll = rollout.rollout(policy, prompts, special, G, rollout.Sampling(T), seed=turn)
    reached("rollout")
    weights = losses.token_weights(roll.mask, "grpo")
    adv = random_advantage(N * G, G, turn)
    policy.train()
    optimizer.zero_grad()
    for a, b, first, last, counts in batching.micro_batches(N * G, micro or N * G, [G] * N):
        batch = batching.collate(
            prompts[first:last], roll.targets[a:b], roll.mask[a:b], counts, policy.device
        )
        logp, _ = logps.token_logps(policy, batch, 1.0, special.vision_ids, entropy=True)
        # Its result is not used: the training script logs it, so it belongs to the time.
        agreement.logp_difference(roll.logp[a:b].to(logp), logp.detach(), batch["mask"])
        surrogate(logp, adv[a:b], batch["mask"], weights[a:b]).backward()
    reached("update")
    optimizer.step()
    reached("optimizer")


def frozen_optimizer(policy: torch.nn.Module) -> torch.optim.Optimizer:
    """Make AdamW with a learning rate that changes nothing, for the trained parameters."""
    return make_optimizer("adamw", [p for p in policy.parameters() if p.requires_grad], 1e-9)


# --- the sides ---


def rollout_sides(policy: torch.nn.Module, special: SimpleNamespace, work: Work) -> dict[str, Call]:
    """Make {name: call(turn)}, ours first: sample G completions of each prompt."""
    N, P, T, G = work
    prompts = random_prompts(special, N, P)

    def ours(turn: int) -> object:
        return rollout.rollout(policy, prompts, special, G, rollout.Sampling(T), seed=turn)

    def all_repeated(turn: int) -> object:
        return stock_generate(policy, special, repeated(prompts, G), T)

    def return_sequences(turn: int) -> object:
        return stock_generate(policy, special, prompts, T, num_return_sequences=G)

    return {
        "ours": ours,
        "generate, prompts and pictures repeated": all_repeated,
        "generate, num_return_sequences=G": return_sequences,
    }


def update_sides(policy: torch.nn.Module, special: SimpleNamespace, work: Work) -> dict[str, Call]:
    """Make {name: call(turn)}: log-probs, loss and gradient of completions, a prompt at a time."""
    N, P, T, G = work
    prompts = random_prompts(special, N, P)
    completions = torch.randint(
        min(special.vision_ids), (N * G, T), generator=torch.Generator().manual_seed(0)
    )
    rows = [completions[n * G : (n + 1) * G] for n in range(N)]

    def update(logps_of: Callable[[data.Prompt, torch.Tensor], torch.Tensor]) -> Call:
        def call(turn: int) -> None:
            policy.zero_grad()
            for prompt, group in zip(prompts, rows):
                backward(logps_of(prompt, group), G)

        return call

    def ours(prompt: data.Prompt, group: torch.Tensor) -> torch.Tensor:
        return our_logps(policy, special, [prompt], group, [G])

    def plain(prompt: data.Prompt, group: torch.Tensor) -> torch.Tensor:
        return our_logps(policy, special, [prompt] * G, group, [1] * G)

    def full_logits(prompt: data.Prompt, group: torch.Tensor) -> torch.Tensor:
        return stock_logps(policy, special, [prompt] * G, group)

    return {
        "ours": update(ours),
        "plain: prompt and picture repeated": update(plain),
        "the same with full logits": update(full_logits),
    }


def step_sides(
    policy: torch.nn.Module, special: SimpleNamespace, work: Work, micro: int | None = None
) -> dict[str, Call]:
    """Make {name: call(turn)}: a whole GRPO step without the cost of rewards.

    micro: rows per forward and backward pass, whole groups; None: all.
    """
    N, P, T, G = work
    prompts = random_prompts(special, N, P)
    optimizer = frozen_optimizer(policy)
    micro = micro or N * G

    def ours(turn: int) -> None:
        our_step(policy, special, prompts, T, G, optimizer, turn, micro)

    def straightforward(turn: int) -> None:
        """Repeat everything G times, in the rollout and in the forward pass of the update."""
        policy.eval()
        rows = repeated(prompts, G)
        completions = stock_generate(policy, special, rows, T)
        policy.train()
        optimizer.zero_grad()
        for a in range(0, N * G, micro):
            logp = stock_logps(policy, special, rows[a : a + micro], completions[a : a + micro])
            backward(logp, G, turn)
        optimizer.step()

    return {"ours": ours, "straightforward loop": straightforward}


SIDES = {"rollout": rollout_sides, "update": update_sides, "step": step_sides}

# --- whether they do the same work ---


def check_same_work(
    policy: torch.nn.Module, special: SimpleNamespace, P: int, G: int = 2, T: int = 16
) -> None:
    """Check tokens, log-probs and gradients of all sides on a prompt of P tokens.

    Greedy tokens are compared in float32 only: in bfloat16 near-ties fall either way.
    Raises ValueError if the sides do different work.
    """
    exact = logps.core_of(policy).compute_dtype == torch.float32
    prompt = random_prompt(special, P)
    policy.eval()
    if exact:
        check_greedy(policy, special, prompt, 2 * T)
    roll = rollout.rollout(policy, [prompt], special, G, rollout.Sampling(T))
    with torch.no_grad():
        gap = (roll.logp - stock_logps(policy, special, [prompt] * G, roll.targets).cpu()).abs()
    if not gap.mean() < (1e-4 if exact else 0.05):
        raise ValueError(
            f"P = {P}: log-probs of the rollout differ by {gap.mean():.1e} on average from those "
            "of the stock forward pass"
        )
    check_gradients(policy, special, Work(1, P, T, G), 1e-4 if exact else 0.1)


def check_greedy(
    policy: torch.nn.Module, special: SimpleNamespace, prompt: data.Prompt, T: int
) -> None:
    """Raise ValueError unless both rollouts give the same T greedy tokens."""
    sampling = rollout.Sampling(T, temperature=0)
    ours = rollout.rollout(policy, [prompt], special, 1, sampling).targets
    stock = stock_generate(policy, special, [prompt], T, do_sample=False).cpu()
    if not torch.equal(ours, stock):
        raise ValueError(
            f"P = {len(prompt.ids)}: greedy tokens differ from those of model.generate, "
            f"{ours.tolist()} and {stock.tolist()}: the figures would compare different work"
        )


def check_gradients(
    policy: torch.nn.Module, special: SimpleNamespace, work: Work, most: float
) -> None:
    """Raise ValueError if gradients of the update differ by `most` or more (relative)."""
    gradients = {}
    for name, side in update_sides(policy, special, work).items():
        side(0)
        trained = [p.grad.flatten() for p in policy.parameters() if p.requires_grad]
        gradients[name] = torch.cat(trained)
    policy.zero_grad()
    ours = gradients.pop("ours")
    for name, other in gradients.items():
        difference = float((ours - other).norm() / other.norm())
        if not difference < most:
            raise ValueError(
                f"P = {work.P}: the gradient of the update differs by {difference:.1e} "
                f"(relative) from that of '{name}'"
            )
