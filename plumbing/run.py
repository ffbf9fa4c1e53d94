"""The steps of a training run and its directory: a generator, not a trainer.

    with Run(args, save_model, model_bytes, optimizer, resume) as run:
        for step in run.steps(max_steps):  # 1, 2, ...; a run that goes on begins where it stopped
            ...                            # the learning rate is set already
            run.log(metrics, ("loss",))    # metrics.jsonl, screen
    run.publish()

When the body has ended, the step is saved if that is due. Told to stop (Ctrl-C), a run gives up
what it can do again: a step whose update has not begun, or an evaluation, which the resumed run
does first. It saves the last whole step, and leaves.
Of several processes (plumbing/ranks.py) the first saves, and a signal to one stops all.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch.optim import Optimizer
from torch.utils._pytree import tree_map
from tqdm import tqdm

from plumbing import flags, ranks, rundir, stopping
from plumbing.arguments import write_args
from plumbing.log import MetricsLog, metrics_of


def lr_scale(step: int, max_steps: int, warmup_steps: float = 0, kind: str = "linear") -> float:
    """Return the learning rate at `step` (from 0) as a share of its peak.

    Linear warm-up, then SCHEDULES[kind] down to max_steps. warmup_steps below 1: a share of these.
    """
    warmup = round(warmup_steps * max_steps) if warmup_steps < 1 else int(warmup_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)  # the first step is never wasted on a rate of 0
    return flags.SCHEDULES[kind]((step - warmup) / max(1, max_steps - warmup))


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of an AdamW's two moments, as state.pt holds them."""
    each = 1 if "8bit" in type(optimizer).__name__ else 4
    return sum(2 * each * q.numel() for group in optimizer.param_groups for q in group["params"])


class Run(contextlib.ExitStack):
    """A run's directory and the steps in it. `step` counts those that were begun.

    save_model(directory) writes model_bytes. resume: the checkpoint to go on from.
    folder: where to write, if it is not --output-dir. Then args may be a record of the flags that
    are read here, and args.json is save_model's.
    more: values and tensors to keep in checkpoints; a step replaces them, none is changed in place.
    title and where: what the progress bar and the sentence after Ctrl-C call the training.
    page: writes what people look at into a directory, after each evaluation and before each save.
    measure(step) -> more metrics, at --eval-steps and at the end: `log` calls it.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        save_model: Callable[[Path], None],
        model_bytes: int,
        optimizer: Optimizer,
        resume: Path | None = None,
        folder: Path | None = None,
        more: dict | None = None,
        title: str = "train",
        where: str = "",
        page: Callable[[Path], None] | None = None,
        measure: Callable[[int], dict[str, float]] | None = None,
    ):
        super().__init__()
        self.args, self.optimizer, self.folder = args, optimizer, folder
        self.out = Path(folder or args.output_dir)
        self.write_weights, self.model_bytes = save_model, model_bytes
        self.state_bytes = optimizer_bytes(optimizer)
        self.more, self.title, self.where = more, title, where
        self.page = None if ranks.rank() else page
        self.measure = measure
        self.step, self.max_steps, self.shown = 0, None, {}
        self.unmeasured = None  # (metrics, show) of a step whose evaluation was given up
        self.saved = None  # the step of the newest checkpoint; None if there is more to save of it
        self.stop = stopping.Stop()
        optimizer.register_step_pre_hook(self.begin_update)
        optimizer.register_step_post_hook(ranks.gather)
        if resume:
            state = rundir.load_state(resume)
            ranks.split(state["optimizer"]["state"], optimizer.param_groups[0]["params"])
            optimizer.load_state_dict(state["optimizer"])
            self.step, self.unmeasured = state["step"], state.get("unmeasured")
            if more is not None:
                more |= state["more"]
            self.saved = self.step
            del state  # the optimizer has it now
        if folder is None:
            write_args(self.out, args)
        self.history = MetricsLog(self.out, metrics_of(resume), args.report_to, args.logging_steps)
        rundir.set_aside_later(self.out, resume)
        if resume:
            rundir.remove_older(self.out, args.save_total_limit)

    def steps(self, max_steps: int) -> Iterator[int]:
        """Yield the numbers of the remaining steps; save each when due."""
        self.max_steps, peak = max_steps, self.optimizer.defaults["lr"]
        schedule = self.args.warmup_steps, self.args.lr_scheduler_type
        bar = {"total": max_steps, "initial": self.step, "desc": self.title, "unit": "step"}
        self.bar = tqdm(**bar, leave=not self.where)
        self.enter_context(self.stop)  # until the `with` of the run ends
        self.push(self.given_up)
        if self.unmeasured:
            self.log(*self.unmeasured)
            if not self.unmeasured:
                self.saved = None  # the checkpoint lacks what was measured
            self.end_step()
        while self.step < max_steps:
            self.learning_rate = peak * lr_scale(self.step, max_steps, *schedule)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
            self.more_before = dict(self.more or {})
            # With --shard the processes meet inside the backward pass: none may leave.
            self.stop.repeatable = self.step > 0 and not ranks.sharded
            self.step += 1
            yield self.step
            self.bar.update()
            self.end_step()
        self.bar.close()

    def begin_update(self, *_):
        """Before the weights change: the step must be ended now, in all processes."""
        if self.stop.repeatable:
            ranks.meet()
        self.stop.repeatable = False

    def given_up(self, kind: type | None, *_):
        """Save the step before the one that was given up, unless it is saved, and leave."""
        if kind is not stopping.Interrupted:
            return
        self.step -= 1
        if self.more is not None:
            self.more |= self.more_before
        if self.saved != self.step:
            if self.page:
                self.page(self.out)
            self.save(leaving=True)
        self.leave()

    def end_step(self):
        """Save the step if that is due, and leave if the run has been told to stop."""
        self.bar.set_postfix(self.shown)
        # Asked once: the step named below is the one saved here.
        leaving = ranks.any_of(self.stop.requested)
        must_save = leaving or self.due(self.args.save_steps)
        if self.page and (must_save or self.due(self.args.eval_steps)):
            self.page(self.out)  # first: a run killed in between does this step again
        if must_save and self.saved != self.step:
            self.save(leaving)
        if leaving:
            self.leave()

    def leave(self):
        """Say which step is saved, and end the process."""
        self.bar.close()
        rest = ", and before its evaluation" if self.unmeasured else ""
        self.stop.leave(
            f"stopped{self.where} after step {self.step}{rest}; go on with --resume-from-checkpoint"
        )

    def due(self, every: int) -> bool:
        """Whether this step is the last, or a multiple of `every` above 0."""
        return self.step == self.max_steps or every > 0 and self.step % every == 0

    def log(self, metrics: dict[str, float], show: Sequence[str] = ()):
        """Measure if that is due, write a line of metrics.jsonl, and print `show` of it.

        The progress bar shows the first of these. If the run is told to stop meanwhile, the metrics
        go into the checkpoint, and the resumed run measures and writes the line.
        """
        is_due = self.measure and self.step and (self.unmeasured or self.due(self.args.eval_steps))
        self.unmeasured = None
        if is_due:
            self.stop.repeatable = True
            try:
                metrics = metrics | self.measure(self.step)
                ranks.meet()  # one may have given way at its end
            except stopping.Interrupted:
                self.unmeasured = metrics, list(show)
                return
            finally:
                self.stop.repeatable = False
        self.history.log(self.step, metrics, show, self.step == self.max_steps)
        self.shown = {name: f"{metrics[name]:.3f}" for name in show[:1]}

    def save(self, leaving: bool = False):
        """Write a checkpoint of this step."""
        state = {"optimizer": tree_map(ranks.whole, self.optimizer.state_dict())}
        if self.more is not None:
            state["more"] = self.more
        if self.unmeasured:
            state["unmeasured"] = self.unmeasured
        needed, keep = self.model_bytes + self.state_bytes, self.args.save_total_limit
        place = self.out, self.step, self.save_model
        ranks.from_first(
            lambda: rundir.save_checkpoint(*place, state, self.history, keep, needed, leaving)
        )
        self.saved = self.step

    def save_model(self, directory: Path):
        """Write the model and the args.json that belongs to it."""
        self.write_weights(directory)
        if self.folder is None:
            write_args(directory, self.args)

    def publish(self):
        """Write the finished model into the run's directory."""
        ranks.from_first(lambda: rundir.publish(self.out, self.save_model, self.model_bytes))
