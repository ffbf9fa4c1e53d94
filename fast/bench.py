"""The measurements that README quotes, each beside what it is compared with, in one run on the same work.

    python -m fast.bench                             # rollout, update and whole GRPO step against stock transformers, and against TRL where it is installed (15 minutes)
    python -m fast.bench memory                      # peak memory of an update with the real vocabulary, against full logits
    python -m fast.bench --scaling                   # seconds against G, P and T, drawn in scaling.png
    python -m fast.bench rewards                     # what scoring costs, as a share of a GRPO step (10 minutes on two cores)
    python -m fast.bench --gpu                       # on a GPU: first whether it is right, then decode step, GRPO step and memory of the 2B and the 7B (bench_gpu.py; half an hour)
    python -m fast.bench --device cuda --model DIR --shapes 1000x512x8 1000x512x32      # a checkpoint of one's own on a GPU

Prints a table and writes it, with commit and versions, to --output-dir. Short times are the median of --repeats, with the range beside it; the GRPO step of
`rewards`, which takes minutes, is measured once. Compare figures of one run only, and as ratios: other processes on the machine move all of them. So the sides of
a comparison take turns (A B C, A B C, ...), each after one turn that does not count, and a ratio is one of medians, with the range of the turns' own ratios.
Seconds are the CPU time of this process, on one thread; on a GPU they are seconds of the clock, synchronised.

Dimension key: N prompts, G completions of each, B = N * G rows; P tokens of a prompt, T of a completion; V vocabulary. Nothing ends a row before T.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import math
import multiprocessing
import random
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from tqdm import tqdm

import data
import families
import logps
import losses
import model as modeling
import rewards
import rollout
from plumbing import disk, plots, rundir, running, stopping
from plumbing.arguments import write_args
from plumbing.device import pick_device, pick_dtype
from plumbing.flags import Parser, int_from_1
from tasks import toy
from tasks.example import Example
from update import make_optimizer

WORDS = "so the next one is a small red object near row column left right wait let me check again and then count total blue circle square of it".split()
# hidden, intermediate, layers, vocabulary, heads, key and value heads, head tied, vision (depth, width, heads): "8m", in which everything weighs as in the real ones but for the
# size; "head", nearly all of whose memory is the head's; and the published shapes.
MODELS = {
    "8m": (256, 768, 6, 4096, 4, 2, False, (4, 128, 4)),
    "head": (64, 192, 2, 151936, 4, 2, False, (4, 128, 4)),
    "2b": (1536, 8960, 28, 151936, 12, 2, True, (32, 1280, 16)),
    "7b": (3584, 18944, 28, 152064, 28, 4, False, (32, 1280, 16)),
}


def shape(text):
    """argparse type: PxTxG."""
    P, T, G = (int(n) for n in text.split("x"))
    if P < 48 or T < 2 or G < 2:
        raise ValueError
    return P, T, G


def parse_args(argv=None):
    p = Parser(__doc__, "bench.py")
    p.add_argument(
        "what",
        nargs="?",
        choices=sorted(MEASUREMENTS),
        default="speed",
        help="which measurement; default: speed",
    )
    p.add_argument("--scaling", action="store_true", help="the same as the measurement `scaling`")
    p.add_argument("--gpu", action="store_true", help="the same as the measurement `gpu`")
    p.add_argument(
        "--only",
        nargs="+",
        choices=["check", "decode", "step", "memory"],
        default=["check", "decode", "step", "memory"],
        help="gpu: these sections; default: all",
    )
    p.add_argument(
        "--sizes",
        nargs="+",
        choices=sorted(MODELS),
        default=["2b", "7b"],
        help="gpu: random models of these shapes",
    )
    p.add_argument(
        "--rows",
        nargs="+",
        type=int_from_1,
        default=[8, 16, 32, 64],
        help="gpu: rows that decode together",
    )
    p.add_argument(
        "--shapes",
        nargs="+",
        type=shape,
        metavar="PxTxG",
        help="prompt tokens (at least 48; most are one picture's), completion tokens and completions; default: 188x96x8 188x96x32 944x64x8 944x64x32 (speed), 60x512x8 (memory), "
        "444x64x8 (scaling), 1000x512x8 (gpu)",
    )
    p.add_argument(
        "--model",
        help="a checkpoint's directory; default: a random one, made for this: of 8 M parameters, or for `memory` with 151,936 words",
    )
    p.add_argument("--prompts", type=int_from_1, default=64, help="rewards: N, questions of a step")
    p.add_argument(
        "--num-generations",
        type=int_from_1,
        default=8,
        help="rewards: G, completions per question",
    )
    p.add_argument(
        "--max-completion-length",
        type=int_from_1,
        default=500,
        help="rewards: tokens of every completion",
    )
    p.add_argument(
        "--micro-batch-size",
        type=int_from_1,
        default=32,
        help="rewards: rows per forward and backward pass of the update",
    )
    p.add_argument(
        "--repeats",
        type=int_from_1,
        default=3,
        help="turns of each side; the GRPO step of `rewards`, which takes minutes, has one",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    p.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of the frozen weights, and what is computed in; auto: bfloat16 on a GPU",
    )
    p.add_argument("--output-dir", default="runs/bench", help="where bench_NAME.json goes")
    args = p.parse_args(argv)
    args.what = "scaling" if args.scaling else "gpu" if args.gpu else args.what
    if (
        args.what == "scaling"
        and args.shapes
        and (len(args.shapes) > 1 or any(n < least for n, least in zip(args.shapes[0], (96, 4, 4))))
    ):
        p.error("scaling halves one shape and doubles it: give --shapes one, of at least 96x4x4")
    return args


# ------------------------------------------------------------------------------------------------------- one model, two ways to use it


def write_model(directory, size, seed=0, device="cpu", dtype=torch.float32):
    """A random Qwen2-VL of MODELS[size] with the tiny preset's words. Weights are as large, for the model's width, as makes it say something else each time: at the usual
    0.02 the small one would say the same few tokens, whatever it is asked."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    (
        hidden,
        intermediate,
        layers,
        vocabulary,
        heads,
        kv_heads,
        tied,
        (depth, width, vision_heads),
    ) = MODELS[size]
    tokenizer = families.tiny_tokenizer()
    special = families.special_ids(tokenizer)
    head_size = hidden // heads
    section = [
        head_size // 8,
        head_size * 3 // 16,
        head_size * 3 // 16,
    ]  # time, height, width: half a head in all, cut as in the real ones
    config = Qwen2VLConfig(
        text_config=dict(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocabulary,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
            bos_token_id=special.pad_id,
            eos_token_id=special.eos_ids[0],
            pad_token_id=special.pad_id,
        ),
        vision_config=dict(
            depth=depth, embed_dim=width, num_heads=vision_heads, hidden_size=hidden
        ),
        tie_word_embeddings=tied,
        image_token_id=special.image_id,
        video_token_id=special.video_id,
        vision_start_token_id=special.vision_ids[0],
        vision_end_token_id=special.vision_ids[1],
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "visual" not in name:
                parameter.mul_((8 if "lm_head" in name else 2) * 16 / math.sqrt(hidden))
    model.save_pretrained(directory)
    modeling.Processor(tokenizer, families.image_processor_class()(), special, 4096).save(directory)


def load_bench(
    directory, device, dtype, seed=0, quant="none", lora_r=8, gradient_checkpointing=False
):
    """(policy, processor, special) of a checkpoint with LoRA whose B is not zero. special: with the end-of-text tokens among those that are never sampled,
    so that every row of every side has T tokens, and all sides draw from one distribution."""
    flags = SimpleNamespace(
        lora_r=lora_r,
        lora_alpha=2 * lora_r,
        lora_dropout=0.0,
        freeze_vision=False,
        freeze_merger=False,
        freeze_llm=False,
        gradient_checkpointing=gradient_checkpointing,
    )
    policy, processor = modeling.load(
        directory, dtype, device, quant, train=flags, max_pixels=12845056, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    special = SimpleNamespace(
        **vars(processor.special)
        | {"vision_ids": [*processor.special.vision_ids, *processor.special.eos_ids]}
    )
    return policy, processor, special


def side_of(P):
    """Side of the square picture that a prompt of P tokens holds, in tokens: the rest, 42 words at least and two tokens around it, is text."""
    return math.isqrt(P - 44)


def random_prompt(special, P, seed=0):
    """data.Prompt of P tokens: twelve random words, a picture of noise, random words."""
    generator, side = torch.Generator().manual_seed(seed), side_of(P)
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


def stock_inputs(prompts, special, device, completions=None):
    """What stock transformers takes: one row for each of `prompts`, all of one length, with `completions` (B, T) behind them if given."""
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


def repeated(prompts, G):
    """[a, b] -> [a, a, ..., b, b, ...], G times each."""
    return [p for p in prompts for _ in range(G)]


@contextlib.contextmanager
def stock(policy):
    """transformers' own attention for what is measured as theirs (load() sets one that also knows packed rows), and the project's mixed precision."""
    core = logps.core_of(policy)
    config = core.model.language_model.config
    ours, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        with logps.autocast(core):
            yield
    finally:
        config._attn_implementation = ours


def stock_generate(policy, special, prompts, T, **options):
    """(B, T) from `model.generate`: a row for each of `prompts`, or num_return_sequences of them. Samples from the whole distribution but `special.vision_ids`.

    Without cuDNN's attention, which torch prefers on Hopper and which plans anew for each length of the cache: tens of milliseconds a step that are not transformers' fault."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    options = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0) | options
    with (
        torch.no_grad(),
        stock(policy),
        sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]),
    ):
        out = policy.generate(
            **stock_inputs(prompts, special, policy.device),
            max_new_tokens=T,
            repetition_penalty=1.0,
            suppress_tokens=special.vision_ids,
            pad_token_id=special.pad_id,
            **options,
        )
    return out[:, len(prompts[0].ids) :]


def stock_logps(policy, special, prompts, completions):
    """(B, T) log-probs from the stock forward pass with all of the logits, a row of prompt, picture and completion each."""
    T = completions.shape[1]
    with stock(policy):
        logits = (
            policy(
                **stock_inputs(prompts, special, policy.device, completions.cpu()),
                use_cache=False,
                logits_to_keep=T + 1,
            )
            .logits[:, :-1]
            .float()
        )  # (B, T, V)
    logits[..., special.vision_ids] = -torch.inf
    return logits.log_softmax(-1).gather(-1, completions.to(logits.device)[..., None])[..., 0]


def our_logps(policy, special, prompts, completions, counts):
    """(B, T) log-probs as the training scripts have them; `counts` rows for each prompt. Lists of one are the plain path: each row with its own prompt and picture."""
    mask = torch.ones(completions.shape)
    prompts = [
        dataclasses.replace(p) for p in prompts
    ]  # what is cached in a prompt lasts for one step
    logps.cache_features(policy, prompts)
    batch = data.collate(prompts, completions, mask, counts, policy.device)
    return logps.token_logps(policy, batch, 1.0, special.vision_ids)


def backward(logp, G, seed=0):
    """The GRPO loss of rewards drawn by `seed`, and its gradient."""
    mask = torch.ones_like(logp)
    adv = losses.group_advantage(
        torch.rand(len(logp), generator=torch.Generator().manual_seed(seed)), G
    ).to(logp)
    losses.aggregate(
        losses.clipped_surrogate(logp, logp.detach(), adv, mask, 0.8, 1.2),
        losses.token_weights(mask, "grpo"),
    ).backward()


# ------------------------------------------------------------------------------------------------------------------ the sides


def rollout_sides(policy, special, N, P, T, G):
    """{name: call(turn)}, ours first: G completions of each prompt."""
    prompts = [random_prompt(special, P, n) for n in range(N)]
    return {
        "ours": lambda turn: rollout.rollout(
            policy, prompts, special, G, rollout.Sampling(T), seed=turn
        ),
        "generate, prompts and pictures repeated": lambda turn: stock_generate(
            policy, special, repeated(prompts, G), T
        ),
        "generate, num_return_sequences=G": lambda turn: stock_generate(
            policy, special, prompts, T, num_return_sequences=G
        ),
    }


def update_sides(policy, special, N, P, T, G):
    """{name: call(turn)}: log-probs, loss and gradient of given completions, one prompt at a time."""
    prompts = [random_prompt(special, P, n) for n in range(N)]
    completions = torch.randint(
        min(special.vision_ids), (N * G, T), generator=torch.Generator().manual_seed(0)
    )
    rows = [completions[n * G : (n + 1) * G] for n in range(N)]

    def update(logps_of):
        def call(turn):
            policy.zero_grad()
            for prompt, group in zip(prompts, rows):
                backward(logps_of(prompt, group), G)

        return call

    return {
        "ours": update(lambda prompt, group: our_logps(policy, special, [prompt], group, [G])),
        "plain: prompt and picture repeated": update(
            lambda prompt, group: our_logps(policy, special, [prompt] * G, group, [1] * G)
        ),
        "the same with full logits": update(
            lambda prompt, group: stock_logps(policy, special, [prompt] * G, group)
        ),
    }


def step_sides(policy, special, N, P, T, G, micro=None):
    """{name: call(turn)}: a whole GRPO step without the cost of rewards. micro: rows to a forward and backward pass, by whole groups; None: all."""
    prompts = [random_prompt(special, P, n) for n in range(N)]
    optimizer = make_optimizer("adamw", [p for p in policy.parameters() if p.requires_grad], 1e-9)
    micro = micro or N * G

    def straightforward(turn):
        """Everything repeated G times, in the rollout and again in the forward pass of the update."""
        policy.eval()
        rows = repeated(prompts, G)
        completions = stock_generate(policy, special, rows, T)
        policy.train()
        optimizer.zero_grad()
        for a in range(0, N * G, micro):
            backward(
                stock_logps(policy, special, rows[a : a + micro], completions[a : a + micro]),
                G,
                turn,
            )
        optimizer.step()

    return {
        "ours": lambda turn: our_step(policy, special, prompts, T, G, optimizer, turn, micro),
        "straightforward loop": straightforward,
    }


def our_step(
    policy, special, prompts, T, G, optimizer, turn, micro=None, reached=lambda phase: None
):
    """A step of train_grpo.py, with random rewards. micro: rows to a forward and backward pass. reached(phase) is called after the rollout, the update's gradient, the optimizer."""
    N = len(prompts)
    prompts = [dataclasses.replace(p) for p in prompts]
    logps.cache_features(policy, prompts)
    roll = rollout.rollout(policy, prompts, special, G, rollout.Sampling(T), seed=turn)
    reached("rollout")
    weights = losses.token_weights(roll.mask, "grpo")
    adv = losses.group_advantage(
        torch.rand(N * G, generator=torch.Generator().manual_seed(turn)), G
    )
    policy.train()
    optimizer.zero_grad()
    for a, b, first, last, counts in data.micro_batches(N * G, micro or N * G, [G] * N):
        batch = data.collate(
            prompts[first:last], roll.targets[a:b], roll.mask[a:b], counts, policy.device
        )
        logp, _ = logps.token_logps(policy, batch, 1.0, special.vision_ids, entropy=True)
        losses.logp_difference(roll.logp[a:b].to(logp), logp.detach(), batch["mask"])
        losses.aggregate(
            losses.clipped_surrogate(
                logp, logp.detach(), adv[a:b].to(logp), batch["mask"], 0.8, 1.2
            ),
            weights[a:b].to(logp),
        ).backward()
    reached("update")
    optimizer.step()
    reached("optimizer")


SIDES = {"rollout": rollout_sides, "update": update_sides, "step": step_sides}


def check_same_work(policy, special, P, G=2, T=16):
    """ValueError unless all sides do the same work, on a prompt of P tokens: the same greedy tokens (in float32; in bfloat16 near-ties fall either way), log-probs
    of the rollout that the stock forward pass confirms, and the same gradients."""
    exact = logps.core_of(policy).compute_dtype == torch.float32
    prompt = random_prompt(special, P)
    policy.eval()
    if exact:
        ours = rollout.rollout(
            policy, [prompt], special, 1, rollout.Sampling(2 * T, temperature=0)
        ).targets
        stock = stock_generate(policy, special, [prompt], 2 * T, do_sample=False).cpu()
        if not torch.equal(ours, stock):
            raise ValueError(
                f"P = {P}: greedy tokens differ from those of model.generate, {ours.tolist()} and {stock.tolist()}: the figures would compare different work"
            )
    roll = rollout.rollout(policy, [prompt], special, G, rollout.Sampling(T))
    with torch.no_grad():
        gap = (roll.logp - stock_logps(policy, special, [prompt] * G, roll.targets).cpu()).abs()
    if not gap.mean() < (1e-4 if exact else 0.05):
        raise ValueError(
            f"P = {P}: log-probs of the rollout differ by {gap.mean():.1e} on average from those of the stock forward pass"
        )
    gradients = {}
    for name, side in update_sides(policy, special, 1, P, T, G).items():
        side(0)
        gradients[name] = torch.cat(
            [p.grad.flatten() for p in policy.parameters() if p.requires_grad]
        )
    policy.zero_grad()
    ours, *others = gradients.values()
    for name, other in zip([*gradients][1:], others):
        difference = float((ours - other).norm() / other.norm())
        if not difference < (1e-4 if exact else 0.1):
            raise ValueError(
                f"P = {P}: the gradient of the update differs by {difference:.1e} (relative) from that of '{name}'"
            )


# --------------------------------------------------------------------------------------------------------------------- measuring


def clock(device):
    """Seconds: of this process's CPU time, or of the clock once the GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def race(sides, repeats, device, describe=""):
    """{name: [seconds of each turn]} of calls that take turns, after one turn that does not count. Each is called with the number of the turn."""
    seconds = {name: [] for name in sides}
    bar = tqdm(total=len(sides) * (repeats + 1), desc=describe, leave=False)
    for turn in range(repeats + 1):
        for name, side in sides.items():
            started = clock(device)
            side(turn)
            if turn:
                seconds[name].append(clock(device) - started)
            bar.update()
    bar.close()
    return seconds


def rows_of(seconds, **described):
    """Table rows from race(): the first side is ours, which the others' ratios are over. A ratio is of medians; low and high: of the turns' own."""
    ours = next(iter(seconds.values()))
    rows = []
    for name, theirs in seconds.items():
        ratios = [b / a for a, b in zip(ours, theirs)]
        rows.append(
            {
                **described,
                "side": name,
                "seconds": statistics.median(theirs),
                "all_seconds": theirs,
                "ratio": statistics.median(theirs) / statistics.median(ours),
                "low": min(ratios),
                "high": max(ratios),
            }
        )
    return rows


def in_child(directory, device, dtype, kind, name, N, P, T, G):
    """Bytes at the peak of one turn of a side beyond what was held before it, in a process that has taken a small turn already: without that, what libraries set up when first
    used is most of it. On a GPU what torch allocates; on Linux the process's resident memory, whose high-water mark can be reset; elsewhere None."""
    device = torch.device(device)
    status = lambda field: (
        1024
        * int(
            next(
                line
                for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
                if line.startswith(field)
            ).split()[1]
        )
    )
    if device.type != "cuda" and not Path("/proc/self/clear_refs").exists():
        return None
    with one_thread(device):
        policy, _, special = load_bench(directory, device, dtype)
        SIDES[kind](policy, special, N, 48, 2, 2)[name](0)
        side = SIDES[kind](policy, special, N, P, T, G)[name]
        policy.zero_grad()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text(
                "5", encoding="utf-8"
            )  # the high-water mark is what is resident now
            before = status("VmRSS")
        side(0)
        return (
            torch.cuda.max_memory_allocated() if device.type == "cuda" else status("VmHWM")
        ) - before


def peak_of(directory, device, dtype, kind, name, N, P, T, G):
    """in_child(...) of a fresh process."""
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(in_child, directory, str(device), dtype, kind, name, N, P, T, G).result()


# ----------------------------------------------------------------------------------------------------------- TRL, where it is installed


def trl_steps(directory, device, dtype, P, T, G, steps, between=lambda turn: None):
    """[seconds] of `steps` steps of TRL's GRPOTrainer after one that does not count, with the same model, picture, question and settings as `trl_rows` gives ours.

    between(turn): called after every step, and not timed. Its AutoProcessor needs torchvision for videos: it gets a processor without them."""
    from datasets import Dataset
    from transformers import PrinterCallback, Qwen2VLProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Pictures(Qwen2VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            super().__init__(image_processor, tokenizer, None, chat_template)

    class Turns(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.started, self.turn = clock(device), 0

        def on_step_end(self, *_, **__):
            seconds.append(clock(device) - self.started)
            between(self.turn)
            self.started, self.turn = clock(device), self.turn + 1

    def reward(completion_ids, **_):
        if [len(ids) for ids in completion_ids] != [T] * G:
            raise ValueError(
                f"TRL's completions have {[len(ids) for ids in completion_ids]} tokens, not {G} x {T}: the figures would compare different work"
            )
        return [random.random() for _ in completion_ids]

    seconds, example = [], trl_example(P)
    policy, processor, special = load_bench(directory, device, dtype)
    theirs = Pictures(
        processor.image_processor, processor.tokenizer, processor.tokenizer.chat_template
    )
    question = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": example.images[0]},
                {"type": "text", "text": example.question},
            ],
        }
    ]
    asked = theirs.apply_chat_template(
        [question], tokenize=True, return_dict=True, add_generation_prompt=True
    )["input_ids"][0]
    if asked != data.Asker(processor, "none").prompt(example).ids.tolist():
        raise ValueError("TRL's prompt differs from ours: the figures would compare different work")
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=G,
            num_generations=G,
            max_completion_length=T,
            max_steps=steps + 1,
            temperature=1.0,
            beta=0.0,
            num_iterations=1,
            loss_type="grpo",
            learning_rate=1e-9,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            gradient_checkpointing=False,
            use_cpu=device.type == "cpu",
            bf16=dtype == torch.bfloat16,
            generation_kwargs={"suppress_tokens": special.vision_ids},
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rows = Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": example.question}],
                    "image": example.images[0],
                }
            ]
            * (steps + 1)
        )
        trainer = GRPOTrainer(
            policy, reward, config, rows, processing_class=theirs, callbacks=[Turns()]
        )
        trainer.remove_callback(PrinterCallback)
        with stock(policy):
            trainer.train()
    return seconds[1:]


def trl_example(P):
    """A question about a picture of noise as large as that of random_prompt(P)."""
    side = 28 * side_of(P)
    return Example(
        "trl",
        [Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side))],
        "How many red objects are there?",
        "1",
        source="bench.py",
    )


def trl_rows(directory, device, dtype, policy, processor, special, P, T, G, repeats):
    """Rows of a whole step, ours and TRL's, which take turns. Both read the picture and write the prompt; neither pays for a reward."""
    example = trl_example(P)
    optimizer = make_optimizer("adamw", [p for p in policy.parameters() if p.requires_grad], 1e-9)
    ours = []

    def our_turn(turn):
        started = clock(device)
        our_step(
            policy, special, [data.Asker(processor, "none").prompt(example)], T, G, optimizer, turn
        )
        ours.append(clock(device) - started)

    theirs = trl_steps(directory, device, dtype, P, T, G, repeats, our_turn)
    return rows_of(
        {"ours": ours[1:], "TRL's GRPOTrainer": theirs},
        what="step",
        N=1,
        P=len(data.Asker(processor, "none").prompt(example).ids),
        T=T,
        G=G,
    )


# ------------------------------------------------------------------------------------------------------------------ speed, memory, scaling


@contextlib.contextmanager
def one_thread(device):
    """torch on one thread if `device` is the CPU: on more, a process's CPU time counts threads that wait."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def checkpoint(args, size):
    """The directory of --model, or of a random model of MODELS[size], made for the time being."""
    with tempfile.TemporaryDirectory() as made:
        if args.model is None:
            write_model(made, size)
        yield args.model or made


def table(rows):
    """Prints one block of lines for each comparison."""
    head = None
    for row in rows:
        now = [row[k] for k in ("what", "N", "P", "T", "G")]
        if now != head:
            print(
                f"\n{row['what'] + (', ' + str(row['N']) + ' prompts' if row['N'] > 1 else ''):<8} P {row['P']}, T {row['T']}, G {row['G']}"[
                    :60
                ].ljust(62)
                + f"{'seconds':>9}{'ratio':>9}{'range':>16}{'peak MB':>10}"
            )
            head = now
        peak = f"{row['peak_bytes'] / 1e6:>10.0f}" if row.get("peak_bytes") is not None else ""
        if "seconds" in row:
            print(
                f"  {row['side']:<60}{row['seconds']:>9.3f}{row['ratio']:>9.2f}{format(row['low'], '.2f') + ' - ' + format(row['high'], '.2f'):>16}"
                + peak
            )
        else:
            print(
                f"  {row['side']:<60}" + (f"{'':>34}{peak}" if peak else f"{'not installed':>34}")
            )


def bench_speed(args):
    """Rollout for every shape; update, whole step and peak memory for the first shape of each P; a step of two prompts for the first of all."""
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    shapes = args.shapes or [(188, 96, 8), (188, 96, 32), (944, 64, 8), (944, 64, 32)]
    firsts = [s for i, s in enumerate(shapes) if s[0] not in [t[0] for t in shapes[:i]]]
    rows = []
    with one_thread(device), checkpoint(args, "8m") as directory:
        policy, processor, special = load_bench(directory, device, dtype)
        for P in {s[0] for s in shapes}:
            check_same_work(policy, special, P)
        plan = (
            [("rollout", 1, s) for s in shapes]
            + [("update", 1, s) for s in firsts]
            + [("step", 1, s) for s in firsts]
            + [("step", 2, shapes[0])]
        )
        for kind, N, (P, T, G) in plan:
            policy.eval()
            seconds = race(
                SIDES[kind](policy, special, N, P, T, G),
                args.repeats,
                device,
                f"{kind} {P}x{T}x{G}",
            )
            more = rows_of(seconds, what=kind, N=N, P=P, T=T, G=G)
            if N == 1 and (P, T, G) in firsts:
                more = [
                    {
                        **row,
                        "peak_bytes": peak_of(
                            directory, device, dtype, kind, row["side"], N, P, T, G
                        ),
                    }
                    for row in more
                ]
            rows += more
            table(more)
        for P, T, G in firsts:
            if importlib.util.find_spec("trl"):
                more = trl_rows(
                    directory, device, dtype, policy, processor, special, P, T, G, args.repeats
                )
            else:
                more = [
                    {"what": "step", "N": 1, "P": P, "T": T, "G": G, "side": "TRL's GRPOTrainer"}
                ]
            rows += more
            table(more)
        described = modeling.describe(policy)
    return {
        "rows": rows,
        "model": described,
        "clock": "synchronised seconds" if device.type == "cuda" else "CPU seconds of one thread",
    }


def bench_memory(args):
    """Peak memory of the update of one prompt with the published vocabulary, beyond the loaded model."""
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    rows = []
    with one_thread(device), checkpoint(args, "head") as directory:
        policy, _, special = load_bench(directory, device, dtype)
        for P, T, G in args.shapes or [(60, 512, 8)]:
            peak = {
                name: peak_of(directory, device, dtype, "update", name, 1, P, T, G)
                for name in update_sides(policy, special, 1, P, T, G)
            }
            more = [
                {
                    "what": "update",
                    "N": 1,
                    "P": P,
                    "T": T,
                    "G": G,
                    "side": name,
                    "peak_bytes": peak[name],
                    "share_of_full_logits": peak[name] / peak["the same with full logits"],
                }
                for name in peak
            ]
            table(more)
            rows += more
        V = logps.core_of(policy).config.text_config.vocab_size
    print(f"V {V}; ours over full logits: {rows[0]['share_of_full_logits']:.3f}")
    return {"rows": rows, "V": V}


def bench_scaling(args):
    """Seconds of our side against G, P and T: half of, once and twice each of a shape, whose others stay. A rollout of one token is vision tower and prefill."""
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    base = dict(zip("PTG", (args.shapes or [(444, 64, 8)])[0]))
    along = {axis: [base[axis] // 2, base[axis], 2 * base[axis]] for axis in "GPT"}
    rows = []
    with one_thread(device), checkpoint(args, "8m") as directory:
        policy, _, special = load_bench(directory, device, dtype)
        for axis, values in along.items():
            for value in values:
                P, T, G = ({**base, axis: value}[k] for k in "PTG")
                policy.eval()
                sides = {
                    "pictures and prefill": rollout_sides(policy, special, 1, P, 1, G)["ours"]
                } | {kind: SIDES[kind](policy, special, 1, P, T, G)["ours"] for kind in SIDES}
                for name, seconds in race(sides, args.repeats, device, f"{axis} = {value}").items():
                    rows.append(
                        {
                            "against": axis,
                            "value": value,
                            "P": P,
                            "T": T,
                            "G": G,
                            "what": name,
                            "seconds": statistics.median(seconds),
                            "low": min(seconds),
                            "high": max(seconds),
                        }
                    )
    for axis, values in along.items():
        print(f"\n{'seconds against ' + axis:<26}" + "".join(f"{value:>10}" for value in values))
        for name in sides:
            print(
                f"  {name:<24}"
                + "".join(
                    f"{row['seconds']:>10.3f}"
                    for row in rows
                    if (row["against"], row["what"]) == (axis, name)
                )
            )
    plot_scaling(rows, Path(args.output_dir) / "scaling.png", base)
    print(f"\n{args.output_dir}/scaling.png draws them")
    return {"rows": rows}


@plots.picture
def plot_scaling(rows, png, base):
    """One panel for each of G, P and T: seconds, with the range of the turns, of each part of a step."""
    figure, [axes] = plots.canvas(1, 3, 12.6, 3.6, sharey=True)
    for ax, axis in zip(axes, "GPT"):
        for name in dict.fromkeys(row["what"] for row in rows):
            points = [row for row in rows if (row["against"], row["what"]) == (axis, name)]
            middle = [row["seconds"] for row in points]
            spread = [
                [row["seconds"] - row["low"] for row in points],
                [row["high"] - row["seconds"] for row in points],
            ]
            ax.errorbar(
                [row["value"] for row in points],
                middle,
                spread,
                marker="o",
                lw=2,
                capsize=3,
                label=name,
            )
        ax.set_title(
            "with " + ", ".join(f"{k} = {v}" for k, v in base.items() if k != axis), fontsize=10
        )
        ax.set_xlabel(
            {
                "G": "G, completions",
                "P": "P, tokens of the prompt",
                "T": "T, tokens of a completion",
            }[axis]
        )
        ax.grid(alpha=0.3)
    axes[0].set_ylim(
        0, 1.05 * max(row["high"] for row in rows)
    )  # of all panels: each limit set in the loop would hold for the next, too
    axes[0].set_ylabel("seconds")
    axes[0].legend(fontsize=8)
    plots.save(figure, png)


# --------------------------------------------------------------------------------------------------------------------------- rewards


def timed(function, repeats):
    """Seconds of `repeats` calls, in the order they were made."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds


def long_completions(examples, G, tokenizer, tokens, seed=0):
    """(completions, examples) of B = N * G rows, each close to `tokens` tokens long: reasoning of random words, no two alike, and an answer as the gold teacher
    writes it; the right one half of the time, else one to another question, so that answers repeat within a group as a policy's do."""
    rng = random.Random(seed)
    endings = ["</think>" + e.solution.partition("</think>")[2] for e in examples]
    texts, asked = [], []
    for e, right in zip(examples, endings):
        for _ in range(G):
            ending = right if rng.random() < 0.5 else rng.choice(endings)
            room = tokens - len(tokenizer("<think> " + ending)["input_ids"])
            words = tokenizer(" ".join(rng.choice(WORDS) for _ in range(tokens)))["input_ids"][
                : max(0, room)
            ]
            texts.append("<think> " + tokenizer.decode(words) + ending)
            asked.append(e)
    return texts, asked


def bench_rewards(args):
    """Seconds to score N * G completions, for each reward and for the sets in use, against one GRPO step (rollout, update) of the tiny model with
    as many tokens: every row runs to the full length, as nothing may end it."""
    device, N, G, T = (
        pick_device(args.device),
        args.prompts,
        args.num_generations,
        args.max_completion_length,
    )
    policy, processor = modeling.load(
        "tiny",
        device=device,
        train=SimpleNamespace(
            lora_r=0,
            lora_alpha=0,
            lora_dropout=0.0,
            freeze_vision=False,
            freeze_merger=False,
            freeze_llm=False,
            gradient_checkpointing=False,
        ),
    )
    optimizer = make_optimizer("adamw", list(policy.parameters()), 1e-6)
    rows = []

    # ---- scoring: every reward alone on questions of its kind, and the usual sets ------------------------------------------------
    kinds = {}
    for task in sorted(toy.TASKS):
        examples = [toy.ToyStream(task, "train", 0, 3, "gold")[i] for i in range(N)]
        kinds[task] = long_completions(examples, G, processor.tokenizer, T)
    lengths = [len(processor.tokenizer(text)["input_ids"]) for text in kinds["count"][0]]
    print(
        f"{N} x {G} = {N * G} completions of {statistics.mean(lengths):.0f} tokens ({sum(map(len, kinds['count'][0])) / N / G:.0f} characters)"
    )
    sets = [
        ("count", ["accuracy", "format"]),
        ("spatial", ["accuracy", "format", "repetition"]),
        ("ground", ["iou", "format"]),
    ]
    sets += [
        (
            "ground"
            if rewards.REWARDS[name].needs is rewards.BOXES
            else "spatial"
            if name == "mcq"
            else "count",
            [name],
        )
        for name in sorted(rewards.REWARDS)
    ]
    for task, names in sets:
        texts, asked = kinds[task]
        seconds = timed(
            lambda: rewards.reward_parts(texts, asked, names, [T] * len(texts), T), args.repeats
        )
        rows.append(
            {
                "what": "reward " + " + ".join(names),
                "task": task,
                "seconds": statistics.median(seconds),
                "low": min(seconds),
                "high": max(seconds),
            }
        )

    # ---- a GRPO step with as many tokens -----------------------------------------------------------------------------------------
    stream = toy.ToyStream("count", "train", 0, 3, "gold")
    prompts = [data.Asker(processor).prompt(stream[i]) for i in range(N)]
    endless = SimpleNamespace(**{**vars(processor.special), "eos_ids": []})

    def step():
        started = time.perf_counter()
        roll = rollout.rollout(policy, prompts, endless, G, rollout.Sampling(T))
        rolled = time.perf_counter()
        weights = losses.token_weights(roll.mask, "grpo", T)
        adv = losses.group_advantage(torch.rand(N * G), G)
        policy.train()
        optimizer.zero_grad()
        for a, b, first, last, counts in data.micro_batches(N * G, args.micro_batch_size, [G] * N):
            batch = data.collate(
                prompts[first:last], roll.targets[a:b], roll.mask[a:b], counts, device
            )
            logp = logps.token_logps(policy, batch, 1.0, processor.special.vision_ids)
            losses.aggregate(
                losses.clipped_surrogate(
                    logp, logp.detach(), adv[a:b].to(logp), batch["mask"], 0.8, 1.2
                ),
                weights[a:b].to(logp),
            ).backward()
        optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return rolled - started, time.perf_counter() - rolled

    rollout_seconds, update_seconds = step()
    total = rollout_seconds + update_seconds
    for row in rows:
        row["share_of_step"] = row["seconds"] / (total + row["seconds"])
    rows += [
        {"what": "rollout", "seconds": rollout_seconds},
        {"what": "update", "seconds": update_seconds},
    ]
    print(f"\n{'':<58}{'seconds':>10}{'range':>20}{'of a step':>12}")
    for row in rows:
        spread = f"{row['low']:.4f} - {row['high']:.4f}" if "low" in row else ""
        print(
            f"{row['what']:<58}{row['seconds']:>10.4f}{spread:>20}"
            + (f"{row['share_of_step']:>11.3%}" if "share_of_step" in row else "")
        )
    return {"rows": rows, "tokens": statistics.mean(lengths)}


def bench_gpu(args):
    """The figures of a GPU (bench_gpu.py, which builds on this file)."""
    from fast.bench_gpu import bench_gpu

    return bench_gpu(args)


MEASUREMENTS = {
    "gpu": bench_gpu,
    "memory": bench_memory,
    "rewards": bench_rewards,
    "scaling": bench_scaling,
    "speed": bench_speed,
}


def main(args):
    out = Path(args.output_dir)
    disk.make_writable(out)
    rundir.refuse_anothers(out, args)
    write_args(out, args)  # commit and versions
    result = MEASUREMENTS[args.what](args)
    disk.write_json(out / f"bench_{args.what}.json", result)
    print(
        f"\n{out}/bench_{args.what}.json has the figures, {out}/args.json the commit and versions"
    )
    if result.get("failed"):
        raise SystemExit(1)


if __name__ == "__main__":
    running.run(main, parse_args)
