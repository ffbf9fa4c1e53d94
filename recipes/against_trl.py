"""Compare losses, gradients, metrics and log-probs with what TRL 1.16's own trainers compute.

TRL is no requirement of this project. Install it beside our environment, not into it:

    .venv/bin/python -m venv /tmp/trl
    .venv/bin/python -c "import site; print(site.getsitepackages()[0])" > ours.pth
    mv ours.pth /tmp/trl/lib/python3*/site-packages/
    /tmp/trl/bin/pip install --no-deps trl==1.16.0 datasets==5.2.0 pandas==3.1.1 \\
        multiprocess==0.70.19 dill==0.4.1 xxhash==4.1.0
    /tmp/trl/bin/python -m recipes.against_trl

Time: half a minute on one core of a CPU; no network, no GPU.

How: a real GRPOTrainer and a real DPOTrainer run their own code, and are handed random completions
and tables of log-probs where they would ask a model. The same numbers go through the lines of
train_grpo.py and selftrain.py. The forward pass is compared on the tiny Qwen2-VL with pictures.

Exit code 1 if something differs that should not, or if a difference that docs/exactness.md
explains (D1 to D9) is gone: then the page is no longer true.
"""

import argparse
import dataclasses
import importlib.util
import os
import random
import tempfile
import types
import warnings
from logging import getLogger

import torch

import batching
import data
import families
import logps
import losses
import model as modeling
import rollout
from plumbing import log, running
from plumbing.errors import UserError
from plumbing.flags import Parser, int_from_0, int_from_1
from reinforcing import advantages, objective
from tasks.example import Example

# Before transformers is imported: nothing here needs the network.
os.environ["HF_HUB_OFFLINE"] = "1"

TRL = "1.16.0"
MAX_LENGTH = 12  # --max-completion-length: what dr_grpo divides by
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo")
CLIPPED = LOSS_TYPES[:5]  # those with PPO's clip
WEIGHTS = [1.0, 0.5]  # of the two rewards
BETAS = (0.0, 0.04, 0.5)
PAIR_LISTS = {
    "sigmoid": (("sigmoid",), None),
    "ipo": (("ipo",), None),
    "bco_pair": (("bco_pair",), None),
    "sft": (("sft",), None),
    "sigmoid + ipo": (("sigmoid", "ipo"), None),
    "MPO": (losses.MPO["loss_type"], losses.MPO["loss_weights"]),
}
KNOWN = {
    "D1": "TRL multiplies the KL by the ratio (use_bias_correction_kl=True, its default)",
    "D2": "TRL's sigmoid ignores label_smoothing",
    "D3": "TRL's mean of equal float32 rewards is off by a rounding error",
    "D4": "reward_std: ours is the mean of the groups' std, TRL's the std of the batch",
    "D5": "TRL's bnpo, and its sft of pairs, divide by the tokens of the micro-batch",
    "D6": "top-p cut: which of equal tokens is kept, and whether an exact boundary is",
    "D7": "TRL averages the means of micro-batches, ours is one mean over the tokens",
    "D8": "bco_pair: ours has the running delta, TRL from 0.29 on has none",
    "D9": "where all completions have one token, TRL's metrics take in masked ones too",
    "D10": "one ratio a completion: ours counts clipped tokens, TRL clipped completions",
    "D13": "GDPO: ours gives flat groups 0, TRL what rounding leaves of the mean",
    "D12": "top entropy with one ratio a completion: in TRL tokens that are left out still learn",
    "D11": "two-sided clip: ours counts the tokens beyond delta as clipped, TRL does not",
}


Update = tuple[torch.Tensor | float, torch.Tensor, dict]  # loss, gradient, metrics


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = Parser(__doc__, "against_trl.py")
    more = "ten times as many of pairs, a tenth as many forward passes"
    p.add_argument("--batches", type=int_from_1, default=160, help=f"of GRPO; {more}")
    p.add_argument("--seed", type=int_from_0, default=0, help="of everything drawn")
    return p.parse_args(argv)


# --- the table ---


@dataclasses.dataclass
class Row:
    """One quantity: how often it was compared, and by how much it ever differed."""

    name: str
    tolerance: float
    known: str = ""
    comparisons: int = 0
    largest: float = 0.0
    differ: int = 0


def difference(
    ours: torch.Tensor | float, theirs: torch.Tensor | float, scale: float | None = None
) -> float:
    """Return the largest difference in units of `scale`; infinite for shapes or NaNs that differ.

    scale: a number; default: each value's own size, but at least 1.
    """
    ours = torch.as_tensor(ours).detach().double()
    theirs = torch.as_tensor(theirs).detach().double()
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    if scale is None:
        scale = torch.maximum(ours.abs(), theirs.abs()).clamp(min=1)
    gap = ((ours - theirs).abs() / scale).max().item()
    return gap if gap == gap else float("inf")


class Table:
    """The rows of the result, in the order in which they were first compared."""

    def __init__(self) -> None:
        self.rows = {}

    def compare(
        self,
        name: str,
        ours: torch.Tensor | float,
        theirs: torch.Tensor | float,
        tolerance: float = 1e-6,
        scale: float | None = None,
        known: str = "",
    ) -> None:
        """Compare a number or tensor; `known`: its key in KNOWN if it should differ."""
        row = self.rows.setdefault((name, known), Row(name, tolerance, known))
        gap = difference(ours, theirs, scale)
        row.comparisons += 1
        row.largest = max(row.largest, gap)
        row.differ += gap > row.tolerance

    def gradient(
        self,
        name: str,
        ours: torch.Tensor,
        theirs: torch.Tensor,
        tolerance: float = 1e-5,
        known: str = "",
    ) -> None:
        """Compare gradients in units of the largest entry of either."""
        largest = max(ours.abs().max().item(), theirs.abs().max().item())
        self.compare(name, ours, theirs, tolerance, largest or 1.0, known)

    def unexpected(self) -> list[Row]:
        """List the rows that differ and should not."""
        return [row for row in self.rows.values() if row.differ and not row.known]

    def gone(self) -> list[str]:
        """List the keys of known differences that were measured and never seen."""
        measured = {row.known for row in self.rows.values() if row.known}
        seen = {row.known for row in self.rows.values() if row.differ}
        return sorted(measured - seen)

    def lines(self) -> list[str]:
        """Write the table: the comparisons that should agree, then the known differences."""
        shape = "{:<64}{:>12}{:>20}{:>10}"
        out = [shape.format("quantity", "comparisons", "largest difference", "differ")]
        for row in sorted(self.rows.values(), key=lambda row: row.known):
            name = f"{row.known} {row.name}".strip()
            out.append(shape.format(name, row.comparisons, f"{row.largest:.1e}", row.differ))
        return out


# --- GRPO: what both sides are given ---


@dataclasses.dataclass
class Setting:
    """The flags of one GRPO batch, under the names of train_grpo.py."""

    loss_type: str = "grpo"
    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    num_iterations: int = 1
    scale_rewards: str = "group"
    multi_objective_aggregation: str = "sum_then_normalize"
    importance_sampling_level: str = "token"
    delta: float | None = None
    top_entropy_quantile: float = 1.0
    mask_truncated_completions: bool = False
    micro_batches: int = 1


@dataclasses.dataclass
class Batch:
    """N groups of G completions with tables in place of a model; (B, T) unless noted."""

    G: int
    ids: list  # B lists of token ids, the eos included
    finished: torch.Tensor  # (B,) bool
    parts: torch.Tensor  # (2, B), two rewards
    mask: torch.Tensor
    now: list  # log-probs before each update; the first are also those that were sampled from
    ref: torch.Tensor
    entropy: torch.Tensor

    def rewards(self) -> torch.Tensor:
        """Add up the two rewards: (B,)."""
        return self.parts[0] + WEIGHTS[1] * self.parts[1]


def ordinary_ids(tokenizer: object) -> list[int]:
    """List the ids that are neither an eos nor padding nor a picture."""
    return sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))


def draw_setting(index: int, rng: random.Random) -> Setting:
    """Draw the flags of batch `index`: loss types and betas in turn, the others at random."""
    loss_type = LOSS_TYPES[index % len(LOSS_TYPES)]
    level = losses.LOSSES[loss_type].level
    if loss_type in ("grpo", "sapo"):
        level = rng.choice(losses.LEVELS)
    micro_batches = rng.choice([1, 2])
    return Setting(
        loss_type=loss_type,
        beta=BETAS[index // len(LOSS_TYPES) % len(BETAS)],
        epsilon=rng.choice([0.1, 0.2]),
        epsilon_high=rng.choice([None, 0.28]),
        num_iterations=rng.choice([1, 2, 3]),
        scale_rewards=rng.choice(advantages.SCALES),
        multi_objective_aggregation=rng.choice(["sum_then_normalize", "normalize_then_sum"]),
        importance_sampling_level=level,
        delta=rng.choice([None, 1.5]) if loss_type in CLIPPED else None,
        # TRL's quantile is of a micro-batch.
        top_entropy_quantile=rng.choice([1.0, 0.2]) if micro_batches == 1 else 1.0,
        mask_truncated_completions=rng.random() < 0.5,
        micro_batches=micro_batches,
    )


def draw_batch(setting: Setting, rng: random.Random, ordinary: list[int], eos: int) -> Batch:
    """Draw a batch: ragged lengths, cut completions, now and then a group of equal rewards."""
    N, G = rng.choice([2, 3]), rng.choice([2, 4, 8])
    B, T = N * G, rng.randint(1, MAX_LENGTH)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0] = T
    finished = torch.rand(B, generator=generator) < 0.7
    ids = [rng.choices(ordinary, k=n) for n in lengths.tolist()]
    for row in range(B):
        if finished[row]:
            ids[row][-1] = eos
    parts = torch.rand(2, B, generator=generator)
    for group in range(N):
        if rng.random() < 0.2:
            # Exact in float32; D3 has the others.
            parts[:, group * G : (group + 1) * G] = rng.choice([0.0, 0.5, 1.0])

    def noise(size: float) -> torch.Tensor:
        return size * (2 * torch.rand(B, T, generator=generator) - 1)

    sampled = -3 * torch.rand(B, T, generator=generator)
    now = [sampled + noise(0.6 * (update > 0)) for update in range(setting.num_iterations)]
    mask = (torch.arange(T) < lengths[:, None]).float()
    return Batch(G, ids, finished, parts, mask, now, sampled + noise(0.6), 3 + noise(3))


# --- GRPO: our side, the lines of train_grpo.py ---


def our_grpo(setting: Setting, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[Update]]:
    """Return advantages, the mask that counts, and of each update (loss, gradient, metrics)."""
    flags = argparse.Namespace(
        **dataclasses.asdict(setting), advantage="group", reward_weights=WEIGHTS
    )
    flags.reward_funcs, flags.router_aux_loss_coef = ["one", "two"], 0.0
    advantage, goal = objective.advantage_of(flags), objective.objective_of(flags)
    rewards = batch.rewards()
    adv = advantage.of(rewards, batch.parts.tolist(), batch.mask.sum(1), batch.G)  # (B,)
    counted = batch.mask
    if setting.mask_truncated_completions:
        counted = losses.truncation_mask(batch.mask, batch.finished)
    weights = losses.token_weights(counted, setting.loss_type, MAX_LENGTH)  # (B, T)
    learned = losses.top_entropy_mask(batch.entropy, counted, setting.top_entropy_quantile)
    updates = []
    for table in batch.now:
        logp = table.clone().requires_grad_()
        old = logp.detach() if setting.num_iterations == 1 else batch.now[0]
        per_token = goal.cost(logp, old, adv, counted) * learned
        metrics = {"entropy": losses.masked_mean(batch.entropy, counted)}
        if setting.beta:
            kl = losses.kl_k3(logp, batch.ref)
            per_token = per_token + setting.beta * kl
            metrics["kl"] = losses.masked_mean(kl, counted)
        loss = losses.aggregate(per_token, weights)
        loss.backward()
        ratios = goal.clip_ratio(logp.detach(), old, adv, counted)
        metrics |= {f"clip_ratio/{name}": value for name, value in ratios.items()}
        updates.append((loss.item(), logp.grad, metrics))
    return adv, counted, updates


# --- GRPO: TRL's side ---


def quiet() -> None:
    """Switch off progress bars and warnings of the libraries; the table is the output."""
    import datasets
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    for name in ("trl", "bitsandbytes"):
        getLogger(name).setLevel("ERROR")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()


def save_small(directory: str) -> object:
    """Save a language model of a few weights: a trainer wants one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = families.tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return tokenizer


def common(directory: str) -> dict:
    """Return the arguments that all configs share: nothing is written, nothing is shown."""
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    silent = {"disable_tqdm": True, "logging_strategy": "no", "report_to": "none"}
    return {"output_dir": f"{directory}/out", "save_strategy": "no"} | plain | silent


def scripted_trainer() -> type:
    """Make a GRPOTrainer that is handed completions and log-probs; all else is TRL's own code."""
    from trl import GRPOTrainer

    class Scripted(GRPOTrainer):
        def _generate(self, prompts):
            numbers = [[1 + row] for row in range(len(prompts))]
            texts = [""] * len(prompts)
            return numbers, self.batch.ids, None, texts, None, {}, None, None

        def _get_per_token_logps_and_entropies(
            self, model, input_ids, *_, compute_entropy=False, **more
        ):
            rows = input_ids[:, 0] - 1  # the prompt is the row's number: TRL shuffles the rows
            if model is self.ref_model:
                table = self.batch.ref
            elif compute_entropy:
                table = self.tables[self._step // self.args.steps_per_generation]
            else:
                table = self.batch.now[0]
            return table[rows], self.batch.entropy[rows], None

    return Scripted


def their_trainer(
    setting: Setting,
    batch: Batch,
    directory: str,
    tokenizer: object,
    bias_correction: bool = False,
) -> object:
    """Build TRL's trainer for these flags and this batch."""
    from datasets import Dataset
    from trl import GRPOConfig

    B = batch.parts.shape[1]
    flags = dataclasses.asdict(setting)
    pieces = flags.pop("micro_batches")
    if setting.loss_type == "gspo":
        flags["loss_type"] = "grpo"
    if setting.loss_type == "cispo":  # there epsilon_high is the bound itself
        flags["epsilon_high"] = losses.clip_range(setting.epsilon, setting.epsilon_high)[1]
    config = GRPOConfig(
        **common(directory),
        **flags,
        num_generations=batch.G,
        max_completion_length=MAX_LENGTH,
        reward_weights=WEIGHTS,
        per_device_train_batch_size=B // pieces,
        gradient_accumulation_steps=pieces,
        use_bias_correction_kl=bias_correction,
    )
    rows = Dataset.from_list([{"prompt": "a"}] * B)

    def one(**_) -> list[float]:
        return batch.parts[0].tolist()

    def two(**_) -> list[float]:
        return batch.parts[1].tolist()

    trainer = scripted_trainer()(directory, [one, two], config, rows, processing_class=tokenizer)
    trainer.batch = batch
    trainer.tables = [table.clone().requires_grad_() for table in batch.now]
    trainer.current_gradient_accumulation_steps = pieces
    trainer.model.train()
    return trainer


def their_grpo(
    trainer: object, setting: Setting
) -> tuple[torch.Tensor, torch.Tensor, list[Update]]:
    """Return TRL's advantages, mask, and of each update (loss, gradient, metrics)."""
    logged = trainer._metrics["train"]
    mask, updates = torch.zeros_like(trainer.batch.mask), []
    for table in trainer.tables:
        loss = 0.0
        for _ in range(setting.micro_batches):
            inputs = trainer._prepare_inputs([{"prompt": "a"}] * len(mask))
            part = trainer.compute_loss(trainer.model, inputs)
            part.backward()
            loss += part.item()
            mask[inputs["prompt_ids"][:, 0] - 1] = inputs["completion_mask"].float()
            trainer._step += 1
        # One value a micro-batch: TRL's log shows their mean.
        means = {
            name: sum(values[-setting.micro_batches :]) / setting.micro_batches
            for name, values in logged.items()
        }
        updates.append((loss, table.grad, means))
    return torch.tensor(list(trainer._logs["advantages"])), mask, updates


# --- GRPO: compare ---


def compare_grpo(table: Table, batches: int, seed: int, directory: str, tokenizer: object) -> None:
    """Compare advantages, losses, gradients and metrics of `batches` GRPO batches."""
    rng = random.Random(seed)
    ordinary = ordinary_ids(tokenizer)
    for index in range(batches):
        setting = draw_setting(index, rng)
        batch = draw_batch(setting, rng, ordinary, tokenizer.eos_token_id)
        torch.manual_seed(seed * 1_000_000 + index)  # TRL shuffles the rows with it
        trainer = their_trainer(setting, batch, directory, tokenizer)
        adv, counted, ours = our_grpo(setting, batch)
        their_adv, their_mask, theirs = their_grpo(trainer, setting)
        logged = trainer._metrics["train"]
        is_gdpo = setting.multi_objective_aggregation == "normalize_then_sum"
        scale = "GDPO" if is_gdpo else f"scale {setting.scale_rewards}"
        flat, other = adv == 0, adv != 0
        if is_gdpo and their_adv[flat].any():
            table.compare("GDPO, flat groups", adv[flat], their_adv[flat], 0, known="D13")
            table.compare(f"GRPO advantages, {scale}", adv[other], their_adv[other], 2e-6)
            continue  # the sign of what rounding leaves decides what is clipped
        table.compare(f"GRPO advantages, {scale}", adv, their_adv, 2e-6)
        table.compare("GRPO mask, truncation counted", counted, their_mask, 0)
        if setting.scale_rewards != "batch" and not is_gdpo:  # there TRL logs other things
            rewards = batch.rewards()
            table.compare("GRPO reward", rewards.mean(), logged["reward"][-1])
            zero = advantages.frac_reward_zero_std(rewards, batch.G)
            table.compare("GRPO frac_reward_zero_std", zero, logged["frac_reward_zero_std"][-1])
            inner = rewards.view(-1, batch.G).std(1).mean()
            table.compare("GRPO reward_std", inner, logged["reward_std"][-1], known="D4")
        for mine, other in zip(ours, theirs):
            compare_update(table, setting, mine, other)
        if setting.beta and comparable(setting):
            default = their_trainer(setting, batch, directory, tokenizer, bias_correction=True)
            _, _, theirs = their_grpo(default, setting)
            for update, (mine, other) in enumerate(zip(ours, theirs)):
                policy = {True: "on-policy", False: "off-policy"}[update == 0]
                name = f"GRPO gradient, {policy}, beta {setting.beta}, TRL's default"
                table.gradient(name, mine[1], other[1], known="D1")


def comparable(setting: Setting) -> bool:
    """Say whether TRL's loss is one that micro-batches add up to (D5: bnpo is not)."""
    return setting.loss_type != "bnpo" or setting.micro_batches == 1


def compare_update(table: Table, setting: Setting, ours: Update, theirs: Update) -> None:
    """Compare loss, gradient and metrics of one update."""
    loss, gradient, metrics = ours
    their_loss, their_gradient, their_metrics = theirs
    name = f"{setting.loss_type}, beta {setting.beta}"
    is_sequence = setting.importance_sampling_level == "sequence"
    if is_sequence and setting.loss_type != "gspo":
        name += ", sequence"
    name += ", delta" * (setting.delta is not None)
    name += ", top entropy" * (setting.top_entropy_quantile < 1)
    if comparable(setting):
        table.compare(f"GRPO loss, {name}", loss, their_loss)
        is_spread = is_sequence and setting.top_entropy_quantile < 1
        known = "D12" if is_spread else ""
        table.gradient(f"GRPO gradient, {name}", gradient, their_gradient, known=known)
    else:
        table.gradient(
            "GRPO gradient, bnpo in two micro-batches", gradient, their_gradient, known="D5"
        )
    kind, known = "", ""
    if setting.micro_batches > 1:
        kind, known = " of two micro-batches", "D7"
    elif gradient.shape[1] == 1 and setting.mask_truncated_completions:
        kind, known = " of single tokens", "D9"
    for key, value in metrics.items():
        theirs, why = their_metrics.get(key), known
        if key.startswith("clip_ratio"):
            if setting.loss_type == "cispo" and key == "clip_ratio/high_mean":
                theirs = their_metrics["cispo_clip_ratio"]
            if is_sequence:
                why = known or "D10"
            elif setting.delta is not None and key != "clip_ratio/high_mean":
                why = known or "D11"
        if theirs is not None:
            table.compare(f"GRPO {key}{kind}", value, theirs, known=why)


def compare_equal_rewards(table: Table, directory: str, tokenizer: object) -> None:
    """Measure D3: groups of eight equal rewards, whose mean in float32 is another number."""
    setting, rng = Setting(), random.Random(0)
    batch = draw_batch(setting, rng, [20], tokenizer.eos_token_id)
    while batch.G != 8:
        batch = draw_batch(setting, rng, [20], tokenizer.eos_token_id)
    for reward in (0.1, 0.3, 0.7, 1.1, 1.9):
        batch.parts[:] = torch.tensor([reward, 0.0])[:, None]
        trainer = their_trainer(setting, batch, directory, tokenizer)
        theirs, _, _ = their_grpo(trainer, setting)
        adv, _, _ = our_grpo(setting, batch)
        table.compare("GRPO advantages of equal rewards", adv, theirs, known="D3")
        zero = advantages.frac_reward_zero_std(batch.rewards(), batch.G)
        logged = trainer._metrics["train"]["frac_reward_zero_std"][-1]
        table.compare("GRPO frac_reward_zero_std of equal rewards", zero, logged, known="D3")


# --- pairs ---


class TableModel:
    """Stand in for a model: its log-probs are a table (2P, T)."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def __call__(self, labels: torch.Tensor, **_) -> types.SimpleNamespace:
        logp = self.table.masked_fill(labels[:, 1:] == -100, 0)
        nothing = torch.zeros_like(logp)
        return types.SimpleNamespace(
            log_probs=logp, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def pair_trainer(
    names: tuple[str, ...],
    weights: tuple[float, ...] | None,
    beta: float,
    smoothing: float,
    directory: str,
    tokenizer: object,
) -> object:
    """Build TRL's DPOTrainer for these losses."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        **common(directory),
        loss_type=list(names),
        loss_weights=weights and list(weights),
        beta=beta,
        label_smoothing=smoothing,
    )
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    return DPOTrainer(directory, args=config, train_dataset=rows, processing_class=tokenizer)


def draw_pairs(rng: random.Random, pairs: int, equal: bool = False) -> tuple[torch.Tensor, ...]:
    """Draw lengths (2P,), log-probs and reference log-probs (2P, T); chosen rows first."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    lengths = torch.randint(1, 9, (2 * pairs,), generator=generator)
    if equal:
        lengths[:] = lengths[0]
    T = int(lengths.max())
    logp = -3 * torch.rand(2 * pairs, T, generator=generator)
    return lengths, logp, logp + torch.randn(2 * pairs, T, generator=generator)


def our_pairs(
    lengths: torch.Tensor,
    logp: torch.Tensor,
    ref: torch.Tensor,
    names: tuple[str, ...],
    weights: tuple[float, ...] | None,
    beta: float,
    smoothing: float = 0.0,
    delta: float = 0.0,
) -> Update:
    """Return loss, gradient and metrics of pairs, by the lines of selftrain.py."""
    logp = logp.clone().requires_grad_()
    mask = (torch.arange(logp.shape[1]) < lengths[:, None]).float()  # (2P, T)
    chosen, rejected = losses.sequence_logp(logp, mask).chunk(2)
    ref_chosen, ref_rejected = losses.sequence_logp(ref, mask).chunk(2)
    four = (chosen, rejected, ref_chosen, ref_rejected)
    tokens = lengths.chunk(2)
    cost = losses.preference_loss(*four, *tokens, names, weights, beta, smoothing, delta)
    cost.mean().backward()
    return cost.mean(), logp.grad, losses.preference_metrics(*four, beta)


def their_pairs(
    trainer: object, lengths: torch.Tensor, logp: torch.Tensor, ref: torch.Tensor
) -> Update:
    """Return loss, gradient and metrics of the pairs by TRL's _compute_loss and collator."""
    logp = logp.clone().requires_grad_()
    P = len(lengths) // 2
    rows = []
    for chosen, rejected in zip(lengths[:P].tolist(), lengths[P:].tolist()):
        rows.append({"prompt_ids": [1], "chosen_ids": [2] * chosen, "rejected_ids": [2] * rejected})
    inputs = trainer.data_collator(rows)  # the chosen rows first
    trainer.ref_model = TableModel(ref)
    trainer.model.train()
    loss = trainer._compute_loss(TableModel(logp), inputs, False)
    loss.backward()
    return loss, logp.grad, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def compare_pairs(table: Table, batches: int, seed: int, directory: str, tokenizer: object) -> None:
    """Compare `batches` batches of pairs: values, gradients and metrics of each list of losses."""
    rng = random.Random(seed)
    trainers = {}
    for index in range(batches):
        label = list(PAIR_LISTS)[index % len(PAIR_LISTS)]
        (names, weights), beta = PAIR_LISTS[label], rng.choice([0.05, 0.1, 0.5])
        if (label, beta) not in trainers:
            trainers[label, beta] = pair_trainer(names, weights, beta, 0.0, directory, tokenizer)
        pairs = rng.choice([1, 2, 3])
        drawn = draw_pairs(rng, pairs, equal="sft" in names)
        loss, gradient, metrics = our_pairs(*drawn, names, weights, beta)
        their_loss, their_gradient, their_metrics = their_pairs(trainers[label, beta], *drawn)
        table.compare(f"DPO loss, {label}", loss, their_loss)
        table.gradient(f"DPO gradient, {label}", gradient, their_gradient)
        for name, value in metrics.items():
            table.compare(f"DPO {name}", value, their_metrics[name])


def compare_known_pairs(
    table: Table, batches: int, seed: int, directory: str, tokenizer: object
) -> None:
    """Measure D2, D5 and D8: smoothing, sft of ragged pairs, and BCO's delta."""
    rng = random.Random(seed)
    smoothed = pair_trainer(("sigmoid",), None, 0.1, 0.2, directory, tokenizer)
    generation = pair_trainer(("sft",), None, 0.1, 0.0, directory, tokenizer)
    quality = pair_trainer(("bco_pair",), None, 0.1, 0.0, directory, tokenizer)
    total, count = 0.0, 0
    for _ in range(batches):
        drawn = draw_pairs(rng, 3)
        ours, _, metrics = our_pairs(*drawn, ("sigmoid",), None, 0.1, smoothing=0.2)
        theirs, _, _ = their_pairs(smoothed, *drawn)
        table.compare("DPO loss, sigmoid, smoothing 0.2", ours, theirs, known="D2")
        ours, _, _ = our_pairs(*drawn, ("sft",), None, 0.1)
        theirs, _, _ = their_pairs(generation, *drawn)
        table.compare("DPO loss, sft, ragged", ours, theirs, known="D5")
        shift = metrics["rewards/chosen"][None], metrics["rewards/rejected"][None]
        delta, total, count = losses.reward_shift(*shift, total, count)
        ours, _, _ = our_pairs(*drawn, ("bco_pair",), None, 0.1, delta=delta[0])
        theirs, _, _ = their_pairs(quality, *drawn)
        table.compare("DPO loss, bco_pair, running delta", ours, theirs, known="D8")


# --- the forward pass ---


def draw_prompts(
    rng: random.Random, number: int, processor: modeling.Processor
) -> list[data.Prompt]:
    """Encode `number` questions with 0 to 2 pictures of noise each."""
    from PIL import Image

    prompts = []
    for _ in range(number):
        pictures = []
        for _ in range(rng.choice([0, 1, 2])):
            width, height = 28 * rng.randint(2, 4), 28 * rng.randint(2, 4)
            noise = rng.randbytes(3 * width * height)
            pictures.append(Image.frombytes("RGB", (width, height), noise))
        question = "How many red objects are there?"[: rng.randint(8, 31)]
        example = Example("one", pictures, question, "1")
        prompts.append(data.Asker(processor, "none").prompt(example))
    return prompts


def stock_inputs(
    prompts: list[data.Prompt],
    targets: torch.Tensor,
    mask: torch.Tensor,
    special: types.SimpleNamespace,
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Pad prompts on the left and completions on the right, as TRL does."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), special.pad_id)
    attention = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = prompt.ids
        attention[row, longest - len(prompt.ids) :] = 1
    ids, attention = torch.cat([ids, targets], 1), torch.cat([attention, mask.long()], 1)
    more = {"mm_token_type_ids": (ids == special.image_id).long()}
    pictured = [prompt for prompt in prompts if prompt.grid is not None]
    if pictured:
        more["pixel_values"] = torch.cat([prompt.pixel_values for prompt in pictured])
        more["image_grid_thw"] = torch.cat([prompt.grid for prompt in pictured])
        more["num_images"] = [
            prompt.text.count(special.image + "<|vision_end|>") for prompt in prompts
        ]
    return ids, attention, more


def forward_trainer(temperature: float, weights: dict, directory: str, tokenizer: object) -> object:
    """Build a GRPOTrainer around the stock tiny Qwen2-VL with these weights."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, _, _ = families.tiny()
    model.load_state_dict(weights)
    sizes = {"num_generations": 2, "per_device_train_batch_size": 2}
    config = GRPOConfig(**common(directory), **sizes, temperature=temperature)
    rows = Dataset.from_list([{"prompt": "a"}] * 2)
    return GRPOTrainer(model, lambda **_: [0.0] * 2, config, rows, processing_class=tokenizer)


def compare_forward(
    table: Table, batches: int, seed: int, directory: str, tokenizer: object
) -> None:
    """Compare log-probs, entropies and all gradients of the tiny Qwen2-VL, packed and padded."""
    policy, processor = modeling.load("tiny", seed=seed)
    policy.requires_grad_(True).train()
    temperatures = (1.0, 0.7)
    trainers = [forward_trainer(t, policy.state_dict(), directory, tokenizer) for t in temperatures]
    rng = random.Random(seed)
    for index in range(batches):
        temperature, trainer = temperatures[index % 2], trainers[index % 2]
        packed = index // 2 % 2 == 0
        prompts = draw_prompts(rng, 1 if packed else 3, processor)
        counts = [3] if packed else [1, 1, 1]
        drawn = draw_batch(Setting(), rng, ordinary_ids(tokenizer), tokenizer.eos_token_id)
        rows = [torch.tensor(ids) for ids in drawn.ids[:3]]
        targets, mask = batching.pad_targets(rows, processor.special.pad_id)
        weights = torch.randn(targets.shape, generator=torch.Generator().manual_seed(index)) * mask
        policy.zero_grad()
        batch = batching.collate(prompts, targets, mask, counts)
        logp, entropy = logps.token_logps(policy, batch, temperature, entropy=True)
        (logp * weights).sum().backward()
        each = prompts * 3 if packed else prompts
        ids, attention, more = stock_inputs(each, targets, mask, processor.special)
        trainer.model.zero_grad()
        their_logp, their_entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, targets.shape[1], compute_entropy=True, **more
        )
        (their_logp * weights).sum().backward()
        name = f"{'packed' if packed else 'padded'}, temperature {temperature}"
        table.compare(f"forward log-probs, {name}", logp * mask, their_logp * mask, 1e-5, 1.0)
        table.compare(f"forward entropy, {name}", entropy * mask, their_entropy * mask, 1e-5, 1.0)
        table.gradient(f"forward gradients, {name}", flat(policy), flat(trainer.model), 1e-4)


def flat(model: torch.nn.Module) -> torch.Tensor:
    """Join the gradients of all parameters, by name; zeros where there is none."""
    pieces = []
    for _, parameter in sorted(model.named_parameters()):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        pieces.append(gradient.flatten())
    return torch.cat(pieces)


# --- sampling ---


def compare_cut(table: Table) -> None:
    """Measure D6: which tokens a top-p cut keeps, by the warper of transformers."""
    from transformers import TopPLogitsWarper

    uniform = torch.linspace(0, 1 - 1e-9, 1001, dtype=torch.float64)
    for probs, top_p, known in (
        ([0.5, 0.3, 0.2], 0.75, ""),
        ([0.5, 0.25, 0.25], 0.75, "D6"),
        ([0.4, 0.3, 0.3], 0.7, "D6"),
    ):
        logits = torch.tensor([probs]).log()
        drawn, _ = rollout.sample(
            logits.expand(len(uniform), -1), uniform, rollout.Sampling(top_p=top_p)
        )
        ours = torch.zeros(len(probs))
        ours[drawn.unique()] = 1
        theirs = TopPLogitsWarper(top_p)(None, logits)[0].isfinite().float()
        table.compare(f"tokens kept of {probs} at top-p {top_p}", ours, theirs, 0, known=known)


# --- main ---


def main(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("trl") is None:
        raise UserError(
            "TRL is not installed in this environment; "
            "recipes/against_trl.py --help-all says how to install it beside ours"
        )
    version = importlib.metadata.version("trl")
    if version != TRL:
        log.say(f"warning: docs/exactness.md is about TRL {TRL}, and {version} is installed")
    torch.set_num_threads(1)
    quiet()
    table = Table()
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = save_small(directory)
        compare_grpo(table, args.batches, args.seed, directory, tokenizer)
        compare_equal_rewards(table, directory, tokenizer)
        compare_pairs(table, 10 * args.batches, args.seed, directory, tokenizer)
        compare_known_pairs(table, args.batches, args.seed, directory, tokenizer)
        compare_forward(table, max(4, args.batches // 10), args.seed, directory, tokenizer)
        compare_cut(table)
    print("\n".join(table.lines()))
    print("\nDifferences: absolute below 1, relative above; of gradients in units of their largest")
    print("entry; of log-probs and entropies in nats.")
    print("\ndiffer on purpose:")
    for key, text in KNOWN.items():
        print(f"  {key} {text}")
    report(table, version, judge_known=args.batches >= 16)


def report(table: Table, version: str, judge_known: bool) -> None:
    """Print the verdict; exit with code 1 if something is not as docs/exactness.md has it.

    judge_known: whether there were enough batches to say that a known difference is gone.
    """
    same = [row for row in table.rows.values() if not row.known]
    differ = sum(row.differ for row in same)
    comparisons = sum(row.comparisons for row in same)
    largest = max(row.largest for row in same)
    transformers = importlib.metadata.version("transformers")
    print(f"\ntrl {version}, transformers {transformers}, torch {torch.__version__}:")
    print(f"{len(same)} quantities, {comparisons} comparisons, {differ} differ", end=", ")
    print(f"largest difference {largest:.1e}")
    for row in table.unexpected():
        print(f"DIFFERS: {row.name}, {row.differ} of {row.comparisons}, by up to {row.largest:.1e}")
    gone = table.gone() if judge_known else []
    for key in gone:
        print(
            f"GONE: {key} ({KNOWN[key]}); correct docs/exactness.md and the sentences that name it"
        )
    if table.unexpected() or gone:
        raise SystemExit(1)


if __name__ == "__main__":
    running.run(main, parse_args)
