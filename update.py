"""Optimizer, schedule and clipping of all scripts; how selftrain.py and train_dpo.py train.

The gradients here are those of imitation and of preferences; GRPO's is in train_grpo.py.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import torch

import batching
import data
import experts
import losses
from logps import token_logps
from plumbing import device, disk, ranks, records, report, rundir
from plumbing.errors import UserError
from plumbing.iterations import Models
from plumbing.loading import loading
from plumbing.log import say
from plumbing.run import Run
from tasks.example import Example, Pair
from tasks.prompts import with_question

# --- imitation: what is built for star and r3v ---


def encode_item(
    item: dict, asker: data.Asker, examples: dict[str, Example]
) -> tuple[data.Prompt, torch.Tensor, torch.Tensor, str]:
    """Encode an item of pools.build_items: prompt, targets (T,), learned (T,), its task.

    Its id is a key of `examples`.
    """
    asker = asker.verbatim()
    example = with_question(examples[item["id"]], item["prompt"])
    room = asker.processor.context
    if item["task"] == "warmup":  # worked conversations: their earlier answers are learned too
        return *asker.lesson(replace(example, solution=item["target"]), room), "warmup"
    target = data.encode_response(item["target"], asker.processor, item["id"], room)
    return asker.prompt(example), target, torch.ones(len(target)), item["task"]


def imitate(
    policy: torch.nn.Module,
    encoded: list[tuple[data.Prompt, torch.Tensor, torch.Tensor, str]],
    state: dict,
    asker: data.Asker,
    weights: dict[str, float],
    per_example: bool,
    micro_batch_size: int,
    router_aux_loss_coef: float = 0.0,
) -> dict[str, float]:
    """Add one update's gradient of L_SFT + L_REF + L_SEL: {metric: value}.

    encoded: of `encode_item`. weights: by task, else 1. state: not used.
    """
    # Rows of about one length share a micro-batch; their order in the step means nothing.
    encoded = sorted(encoded, key=lambda e: len(e[0].ids) + len(e[1]))
    prompts, rows, learned, tasks = zip(*encoded)
    targets, mask = batching.pad_targets(rows, asker.processor.special.pad_id, learned)  # (B, T)
    weighted = losses.r3v_weights(mask, tasks, weights, per_example)  # (B, T)

    def batches() -> Iterator[tuple[tuple[slice, slice], dict]]:
        for a, b, first, last, counts in batching.micro_batches(
            len(rows), micro_batch_size, [1] * len(rows)
        ):
            longest = max(len(row) for row in rows[a:b])
            cut = slice(a, b), slice(longest)
            asked, where = prompts[first:last], policy.device
            yield cut, batching.collate(asked, targets[cut], mask[cut], counts, where)

    loss, spent = 0.0, torch.zeros_like(mask)
    balance = experts.Balance(policy, router_aux_loss_coef, batches)
    for cut, batch in batches():
        with balance.watching(batch):
            logp = token_logps(policy, batch, suppress=asker.processor.special.vision_ids)
        per_token = losses.nll(logp)
        part = losses.aggregate(per_token, weighted[cut].to(policy.device))
        (part + balance.cost()).backward()
        loss += part.item()
        spent[cut] = per_token.detach().cpu()
    metrics = {"loss": loss, **balance.metrics()}
    for task in sorted(set(tasks)):
        at = [b for b in range(len(rows)) if tasks[b] == task]
        metrics[f"loss/{task}"] = float(losses.masked_mean(spent[at], mask[at]))
    return metrics | {"tokens": float(mask.sum())}


# --- preference: pairs, and the reference they are measured against ---


@dataclass(frozen=True)
class PairLoss:
    """What a pair costs: see losses.preference_loss."""

    loss_type: Sequence[str]
    loss_weights: Sequence[float] | None
    beta: float
    label_smoothing: float


def texts_of(pairs: list[Pair]) -> list[list[str]]:
    """Return what log-probs of pairs depend on, but for the model."""
    return [[pair.example.id, pair.chosen, pair.rejected] for pair in pairs]


class EncodedPair(NamedTuple):
    """A pair as the policy reads it."""

    prompt: data.Prompt
    rows: list[torch.Tensor]  # chosen and rejected, (T_b,) ids
    source: str  # "file:line", for messages
    ref: tuple[float, float] | None  # their log-probs under the reference


def encode_pair(
    pair: Pair, asker: data.Asker, ref: tuple[float, float] | None = None
) -> EncodedPair:
    """Encode the prompt and both responses of a pair."""
    processor = asker.processor
    prompt = asker.prompt(pair.example)
    rows = [
        data.encode_response(text, processor, pair.example.source, processor.context)
        for text in (pair.chosen, pair.rejected)
    ]
    return EncodedPair(prompt, rows, pair.example.source, ref)


def encode_row(row: tuple[Pair, tuple[float, float]], asker: data.Asker) -> EncodedPair:
    """Encode a row of `with_references`."""
    pair, ref = row
    return encode_pair(pair, asker, ref)


def pair_batch(pair: EncodedPair, asker: data.Asker, where: torch.device) -> dict:
    """Lay out [prompt | chosen | rejected]."""
    targets, mask = batching.pad_targets(pair.rows, asker.processor.special.pad_id)  # (2, T)
    return batching.collate([pair.prompt], targets, mask, [2], where)


def pair_logps(
    policy: torch.nn.Module,
    asker: data.Asker,
    pair: EncodedPair,
    watching: Callable = contextlib.nullcontext,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute log pi(y|x) of both responses in one pass over [prompt | chosen | rejected].

    watching: experts.Balance.watching, where gradient is needed.
    Returns sums over tokens, with gradient, (2,), and lengths in tokens, (2,).
    """
    batch = pair_batch(pair, asker, policy.device)
    with watching(batch):
        logp = token_logps(policy, batch, suppress=asker.processor.special.vision_ids)  # (2, T)
    return losses.sequence_logp(logp, batch["mask"]), batch["mask"].sum(1)


def reference_logps(
    file: records.Lines,
    policy: torch.nn.Module,
    asker: data.Asker,
    pairs: list[Pair],
    num_workers: int,
) -> list[tuple[float, float]]:
    """Compute log pi_ref of both responses of each pair: no second model is kept.

    policy: as it is before the first step. Appended to `file` as they come, and taken up there:
    a batch of its lines is dealt to the processes.
    Returns [(chosen, rejected), ...], sums over tokens.
    """
    policy.eval()
    left = [ranks.dealt(places) for places in file.left()]
    encode = functools.partial(encode_pair, asker=asker)
    with loading(encode, pairs, left, num_workers) as batches:

        def logps_of(_first: int, _end: int) -> list[dict]:
            lines = []
            for pair in next(batches):
                with torch.no_grad():
                    chosen, rejected = pair_logps(policy, asker, pair)[0].tolist()
                lines.append({"ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
            return ranks.collected(lines)

        lines = file.fill(logps_of, "reference log-probs")
    return [(line["ref_chosen_logps"], line["ref_rejected_logps"]) for line in lines]


def with_references(
    folder: Path,
    label: Callable[..., str],
    models: Models,
    start: Path | None,
    asker: data.Asker,
    pairs: list[Pair],
    num_workers: int,
) -> list[tuple[Pair, tuple[float, float]]]:
    """Add to each pair its log-probs under the model in `start`, where training starts.

    They are kept in folder/reference.jsonl, and the model is loaded only if some are missing.
    """
    path = folder / "reference.jsonl"
    file = records.Lines(path, label(path, texts_of(pairs)), ranks.world(), len(pairs))
    if len(file.lines) < len(pairs):
        models.use(start)
    references = reference_logps(file, models.policy, asker, pairs, num_workers)
    return list(zip(pairs, references))


def shifted(own: list[torch.Tensor], state: dict) -> torch.Tensor:
    """Move delta of bco_pair on by the next pair of each process, in the order of the step.

    own: the rewards of this one's pair, [(2,)] on the CPU; [] if only others have one left.
    state: as for `prefer`. Returns delta for that pair, (1,).
    """
    rewards = torch.stack(ranks.collected(own))  # (P, 2)
    deltas, state["total"], state["count"] = losses.reward_shift(
        rewards[:, 0], rewards[:, 1], state["total"], state["count"]
    )
    return deltas[ranks.rank() :][:1]


def prefer(
    policy: torch.nn.Module,
    rows: list[EncodedPair],
    state: dict,
    asker: data.Asker,
    cost: PairLoss,
    router_aux_loss_coef: float = 0.0,
) -> dict[str, float]:
    """Add one update's gradient of dpo or mpo: {metric: value}.

    rows: of `encode_row`, dealt to the processes. state: {"total", "count"} of
    losses.reward_shift; it moves on. The metrics are of all rows, the gradient of this process's.
    Raises UserError for a log-prob that is not finite.
    """

    def batches() -> Iterator[tuple[EncodedPair, dict]]:
        return ((pair, pair_batch(pair, asker, policy.device)) for pair in rows)

    loss, seen = 0.0, []
    number = sum(ranks.gathered(len(rows)))
    balance = experts.Balance(policy, router_aux_loss_coef, batches)
    for pair in rows:
        logps, tokens = pair_logps(policy, asker, pair, balance.watching)  # (2,), (2,)
        ref = logps.new_tensor(pair.ref)
        scores = cost.beta * (logps.detach() - ref)
        if not torch.isfinite(scores).all():
            raise UserError(
                f"{pair.source}: the log-probability of a response is not finite; {NOT_FINITE}"
            )
        delta = shifted([scores.cpu()], state).to(scores)
        pair_loss = losses.preference_loss(
            logps[:1],
            logps[1:],
            ref[:1],
            ref[1:],
            tokens[:1],
            tokens[1:],
            cost.loss_type,
            cost.loss_weights,
            cost.beta,
            cost.label_smoothing,
            delta,
        )
        part = pair_loss.sum() / number
        (part + balance.cost()).backward()
        loss += part.item()
        seen.append([*logps.tolist(), *pair.ref, float(tokens.sum())])
    if len(rows) * ranks.world() < number:
        shifted([], state)  # the first processes have one pair more
    chosen, rejected, ref_chosen, ref_rejected, tokens = torch.tensor(ranks.collected(seen)).T
    metrics = losses.preference_metrics(chosen, rejected, ref_chosen, ref_rejected, cost.beta)
    return {
        "loss": sum(ranks.gathered(loss)),
        **{name: float(value) for name, value in metrics.items()},
        "logps/chosen_change": float((chosen - ref_chosen).mean()),
        "logps/chosen_start": float(ref_chosen.mean()),
        "delta": state["total"] / max(1, state["count"]),
        **balance.metrics(),
        "tokens": float(tokens.sum()),
    }


# --- the optimizer ---

# Peak learning rates. Pairs need less, or the chosen responses lose their log-probability.
LEARNING_RATE = {
    ("items", "lora"): 1e-4,
    ("items", "full"): 1e-5,
    ("pairs", "lora"): 1e-5,
    ("pairs", "full"): 5e-6,
}


def default_learning_rate(pairs: bool, lora_r: int) -> float:
    """Return the peak learning rate where none is given."""
    return LEARNING_RATE["pairs" if pairs else "items", "lora" if lora_r else "full"]


def make_optimizer(
    name: str, parameters: list, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Make AdamW without weight decay over float32 parameters; adamw_8bit needs bitsandbytes."""
    options = {"lr": learning_rate, "betas": betas, "weight_decay": 0.0}
    if name == "adamw":
        ranks.gather()
        return torch.optim.AdamW(parameters, **options)
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            "--optim adamw_8bit needs bitsandbytes: pip install bitsandbytes, or use --optim adamw"
        ) from None
    return bitsandbytes.optim.AdamW8bit(parameters, **options)


NOT_FINITE = (
    "begin another --output-dir with the last checkpoint as --model and a lower --learning-rate, "
    "or with --dtype float32"
)


def clip_gradient(parameters: Iterable, max_norm: float, step: int) -> float:
    """Clip the gradient to max_norm (0: not at all), and return its norm before that.

    UserError if it is not finite, before the weights are spoiled.
    """
    norm = float(ranks.whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)))
    if not math.isfinite(norm):
        raise UserError(f"the gradient of step {step} is {norm}; {NOT_FINITE}")
    return norm


# --- a training that a killed run takes up ---


@dataclass(frozen=True)
class Settings:
    """How an iteration trains: flags of the same names."""

    batch_size: int
    max_steps: int | None
    num_train_epochs: float
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    max_grad_norm: float
    optim: str
    save_steps: int
    save_total_limit: int
    logging_steps: int
    report_to: str
    num_workers: int

    @classmethod
    def of(cls, args) -> "Settings":
        """Take the flags out of `args`."""
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})


class ChosenFall:
    """Warn once when the chosen responses have lost a tenth of their log-probability.

    The failure that everybody meets: both responses become unlikely, and only the margin grows.
    """

    def __init__(self):
        self.shares, self.warned = [], False

    def note(self, step: int, metrics: dict[str, float]):
        """Look at the metrics of a step: the mean of the last ten counts."""
        if self.warned or "logps/chosen_change" not in metrics:
            return
        start = max(1.0, abs(metrics["logps/chosen_start"]))
        self.shares = [*self.shares, metrics["logps/chosen_change"] / start][-10:]
        change = sum(self.shares) / 10
        if change < -0.1:
            self.warned = True
            say(
                f"  warning: step {step}: the chosen responses have lost {-change:.0%} of their "
                "log-probability since the start; the margin grows because the rejected ones lose "
                "more. --loss-type sigmoid sft (or --method mpo), a lower --learning-rate or "
                "fewer steps contain it"
            )


SHOWN = (
    "loss",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen_change",
    "loss/cot",
    "loss/refine",
    "loss/select",
    "grad_norm",
)


def train(
    folder: Path,
    t: int,
    policy: torch.nn.Module,
    rows: list,
    encode: Callable,
    update: Callable[[torch.nn.Module, list, dict], dict],
    settings: Settings,
    seed: int,
    save_model: Callable[[Path], None],
    model_bytes: int,
) -> None:
    """Train on `rows` (items or pairs), and publish the model in `folder`.

    Goes on from the newest checkpoint there, whose weights `policy` has already.
    encode(row): what a row is for `update`, by workers (plumbing/loading.py).
    update(policy, encoded rows of a step, state) -> metrics adds the gradient. The rows of a step
    are dealt to the processes.
    """
    report.write(folder.parent)  # what was sampled and built can be looked at while it trains
    state = {"total": 0.0, "count": 0}  # of losses.reward_shift
    N = settings.batch_size
    max_steps = data.steps_of(settings.max_steps, settings.num_train_epochs, rows, N)
    trained = [q for q in policy.parameters() if q.requires_grad]
    optimizer = make_optimizer(settings.optim, trained, settings.learning_rate)
    resume = rundir.newest(folder)
    fall = ChosenFall()
    add_gradient = functools.partial(update, policy, state=state)
    names = {"title": f"iteration {t}: train", "where": f" in the training of iteration {t},"}
    with Run(settings, save_model, model_bytes, optimizer, resume, folder, state, **names) as run:
        todo = range(run.step + 1, max_steps + 1)
        own = ranks.dealt(range(N))
        ahead = data.batches_ahead(encode, rows, todo, N, seed, settings.num_workers, own)
        batches = run.enter_context(ahead)
        for step in run.steps(max_steps):
            device.seed_everything(seed, step - 1)
            rate, max_norm = run.learning_rate, settings.max_grad_norm
            metrics = take_step(policy, optimizer, batches, add_gradient, rate, max_norm, step)
            run.log(metrics, SHOWN)
            fall.note(step, metrics)
    optimizer.zero_grad()  # the evaluation needs the memory
    policy.eval()
    finish(folder, save_model, model_bytes, {"steps": run.step, "rows": len(rows)})


@ranks.first
def finish(
    folder: Path, save_model: Callable[[Path], None], model_bytes: int, result: dict
) -> None:
    """Publish a trained model in `folder`, in place of its checkpoints."""
    rundir.publish(folder, save_model, model_bytes)
    disk.write_json(folder / "trained.json", result)
    for checkpoint in rundir.checkpoints(folder):
        rundir.remove(checkpoint)


def take_step(
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[list],
    add_gradient: Callable[[list], dict],
    rate: float,
    max_grad_norm: float,
    step: int,
) -> dict[str, float]:
    """Take one optimizer step on the next rows: {metric: value}. step: its number, from 1."""
    started = time.perf_counter()
    trained = []
    for group in optimizer.param_groups:
        group["lr"] = rate
        trained += group["params"]
    policy.train()
    optimizer.zero_grad()
    rows = next(batches)
    waited = time.perf_counter() - started
    metrics = add_gradient(rows)
    ranks.sum_gradients(trained)
    metrics["grad_norm"] = clip_gradient(trained, max_grad_norm, step)
    optimizer.step()
    seconds = time.perf_counter() - started
    speed = metrics.pop("tokens") / seconds
    times = {"step_time": seconds, "data_time": waited, "tokens_per_second": speed}
    return metrics | {"learning_rate": rate, **times}
