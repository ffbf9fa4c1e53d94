"""Mixtures of experts in training: what routers choose, their auxiliary loss, metrics of both.

    L_aux = E sum_e f_e p_e          (Switch Transformer, arXiv:2101.03961, equations 4 to 6)

f_e: how many of a token's k experts are expert e. p_e: the router's probability of it. Both are
means over all layers and tokens. L_aux is k where all experts are used alike, and E at worst.
A token counts once in each row [prompt | response] that it belongs to: words, pictures and end of
turn do, padding never. So packed rows, whose prompt is there once, have the loss of padded ones.

On one padded batch it is the loss of transformers. Differences:
 1. f is of the whole update, not of a micro-batch (arXiv:2501.11873 compares these), so that
    --micro-batch-size does not change the gradient. Several micro-batches cost one pass more,
    without gradient, which counts.
 2. f counts the experts that have computed. transformers chooses again, in the logits' type.

For a model without experts nothing here does anything.
"""

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

import batching
import logps
from plumbing import ranks, stopping
from plumbing.errors import UserError

Batches = Callable[[], Iterable[tuple[object, dict]]]  # yields (its rows, batch)

# --- what the routers say ---


class Routed(NamedTuple):
    """What one router says of the tokens of a forward pass."""

    logits: torch.Tensor  # (tokens, E)
    ids: torch.Tensor  # (tokens, k), the experts that compute


def routers_of(core) -> list[torch.nn.Module]:
    """Find the routers of the language model, in the order of its layers; [] if it has none."""
    pattern = core.family.routers
    if not pattern:
        return []
    return [module for name, module in core.named_modules() if re.fullmatch(pattern, name)]


@contextlib.contextmanager
def watching(core) -> Iterator[list[Routed]]:
    """Collect what the routers say, layer after layer, one forward pass after another."""
    said = []

    def keep(_module, _inputs, output) -> None:
        logits, _, ids = output
        said.append(Routed(logits, ids))

    # Only around a forward pass: gradient checkpointing runs it again, and that does not count.
    hooks = [router.register_forward_hook(keep) for router in routers_of(core)]
    try:
        yield said
    finally:
        for hook in hooks:
            hook.remove()


def take_ids(said: list[Routed]) -> torch.Tensor:
    """Return the experts of each token, (tokens, layers, k) int16, and forget what was said."""
    ids = torch.stack([routed.ids for routed in said], 1).to(torch.int16)
    said.clear()
    return ids


def empty(core, *shape: int) -> torch.Tensor | None:
    """Make room for the experts of tokens, (*shape, layers, k) int16; None if there are none."""
    layers = len(routers_of(core))
    if not layers:
        return None
    k = core.config.text_config.num_experts_per_tok
    return torch.zeros(*shape, layers, k, dtype=torch.int16)


# --- how the tokens fall on the experts ---


class Load(NamedTuple):
    """How tokens fall on the experts of each layer: sums, to which micro-batches add up."""

    counts: torch.Tensor  # (layers, E), tokens that each expert computes
    probs: torch.Tensor  # (layers, E), the router's probabilities; they carry gradient
    tokens: torch.Tensor  # ()

    def plus(self, other: "Load") -> "Load":
        """Add what other tokens do."""
        return Load(*(mine + theirs for mine, theirs in zip(self, other)))

    def detached(self) -> "Load":
        """Leave the gradient behind."""
        return self._replace(probs=self.probs.detach())

    def on_cpu(self) -> "Load":
        """Copy it to the CPU."""
        return Load(*(x.cpu() for x in self))


def load_of(said: list[Routed], times: torch.Tensor) -> Load:
    """Sum up a forward pass. times: (rows, S), how often each of its tokens counts."""
    times = times.flatten().float()  # (tokens,)
    counts, probs = [], []
    for logits, ids in said:
        shares = logits.float().softmax(-1)  # (tokens, E)
        choices = times[:, None].expand_as(ids).flatten()
        none = times.new_zeros(shares.shape[1])
        counts.append(none.scatter_add(0, ids.flatten(), choices))
        probs.append((shares * times[:, None]).sum(0))
    return Load(torch.stack(counts), torch.stack(probs), times.sum())


def load_balancing_loss(whole: Load, part: Load) -> torch.Tensor:
    """Compute what `part` of the tokens adds to L_aux of the `whole` (module docstring): ().

    f is of the whole. With part = whole it is L_aux itself.
    """
    layers, E = whole.counts.shape
    f = whole.counts.sum(0) / (layers * whole.tokens)  # (E,)
    p = part.probs.sum(0) / (layers * whole.tokens)  # (E,)
    return E * (f * p).sum()


def max_violation(load: Load) -> torch.Tensor:
    """Compute MaxVio (arXiv:2408.15664): the fullest expert's load over the mean, minus 1.

    It is the mean over layers. L_aux adds the layers up first: two that each use one half of their
    experts look even to it.
    """
    return (load.counts.amax(1) / load.counts.mean(1) - 1).mean()


def count_batches(policy: torch.nn.Module, batches: Batches) -> Load | None:
    """Find the load of several batches in a pass without gradient and dropout; None for one.

    NEFTune's noise is a row's own, so that it is counted as it is trained.
    """
    rest = iter(batches())
    first = list(itertools.islice(rest, 2))
    if len(first) < 2:
        return None
    core, load = logps.core_of(policy), None
    has_noise = core.training
    with torch.no_grad(), logps.in_eval_mode(policy):
        core.training = has_noise  # of the module itself alone, which adds NEFTune's noise
        for _, batch in itertools.chain(first, rest):
            stopping.give_way()
            with watching(core) as said, logps.autocast(core):
                logps.all_states(core, batch)
            new = load_of(said, batching.times_in_rows(batch))
            load = load.plus(new) if load else new
    return load


# --- one update ---


class Balance:
    """The auxiliary loss of one update, and what its routers do, a micro-batch at a time.

    for rows, batch in batches():
        with balance.watching(batch):
            logp = token_logps(policy, batch)
        (loss_of(logp) + balance.cost()).backward()

    coef: --router-aux-loss-coef. batches: yields the update's batches, anew at each call.
    A batch may have "experts" (B, T, layers, k): those of its rollout, to be compared.
    """

    def __init__(self, policy: torch.nn.Module, coef: float, batches: Batches) -> None:
        self.core, self.coef = logps.core_of(policy), coef
        self.has_experts = bool(routers_of(self.core))
        self.whole = self.last = self.seen = None  # Load: of all batches; the last; those so far
        if coef and self.has_experts:
            must_be_alone()
            self.whole = count_batches(policy, batches)
        self.differing = torch.zeros(2, dtype=torch.long)  # (token, layer) pairs; tokens
        self.compared = torch.zeros(2, dtype=torch.long)

    @contextlib.contextmanager
    def watching(self, batch: dict) -> Iterator[None]:
        """Watch the forward pass of this batch."""
        if not self.has_experts:
            yield
            return
        with watching(self.core) as said:
            yield
        with contextlib.nullcontext() if self.coef else torch.no_grad():
            self.last = load_of(said, batching.times_in_rows(batch))
        new = self.last.detached()
        self.seen = self.seen.plus(new) if self.seen else new
        if "experts" in batch:
            self.compare(take_ids(said), batch)

    def compare(self, ids: torch.Tensor, batch: dict) -> None:
        """Count where other experts compute than in the rollout. ids: of all tokens of a batch."""
        keep = batch["mask"].bool()  # (B, T)
        ids = ids.view(*batch["input_ids"].shape, *ids.shape[1:])
        now = logps.at_targets(ids, batch, keep)  # (response tokens, layers, k)
        then = batch["experts"][keep]
        differs = (now.sort(-1).values != then.sort(-1).values).any(-1)  # sets of experts
        self.differing += torch.stack([differs.sum(), differs.any(1).sum()]).cpu()
        self.compared += torch.tensor([differs.numel(), len(differs)])

    def cost(self) -> torch.Tensor | float:
        """Return what the batch just watched adds to the loss; 0.0 without experts."""
        if not (self.coef and self.has_experts):
            return 0.0
        return self.coef * load_balancing_loss(self.whole or self.last, self.last)

    def metrics(self) -> dict[str, float]:
        """Describe the batches watched: {metric: value}; {} without experts (docs/metrics.md).

        Of several processes they are the batches of all.
        """
        if not self.has_experts:
            return {}
        loads = [load for load in ranks.gathered(self.seen and self.seen.on_cpu()) if load]
        if not loads:
            return {}
        seen = functools.reduce(Load.plus, loads)
        differing, compared = self.differing.clone(), self.compared.clone()
        ranks.summed([differing, compared])
        found = {
            "aux_loss": float(load_balancing_loss(seen, seen)),
            "load_balance/max_violation": float(max_violation(seen)),
        }
        if compared.all():
            layers, tokens = (differing / compared).tolist()
            found |= {"router_disagreement/mean": layers, "router_disagreement/tokens": tokens}
        return found


def must_be_alone() -> None:
    """Raise UserError where several processes would each balance their own experts' load."""
    if ranks.world() > 1:
        raise UserError(
            "--router-aux-loss-coef above 0 counts the experts of a whole batch, of which several "
            "processes see parts; use --router-aux-loss-coef 0, or start one process"
        )
