"""The log of a run: metrics.jsonl, lines on the screen, wandb or tensorboard."""

import json
import math
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from plumbing import disk, records
from plumbing.errors import UserError


def metrics_of(checkpoint: Path | None) -> list[dict]:
    """Read the metrics up to a checkpoint's step; [] for None."""
    return [] if checkpoint is None else records.read_lines(Path(checkpoint) / "metrics.jsonl")


def line_of(step: int, metrics: dict[str, float]) -> dict:
    """Make a line of metrics.jsonl. JSON has neither infinity nor NaN: they become null."""
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return {"step": step} | finite


def service_id(path: Path, is_new: bool) -> str:
    """Read the id by which a service knows the run, to go on with it; make one for a new run."""
    if is_new or not path.is_file():
        disk.write_whole(path, secrets.token_hex(8) + "\n")
    return disk.read_text(path).strip()


class MetricsLog:
    """metrics.jsonl, one line a step; one line on the screen; wandb or tensorboard if asked.

    `lines` is all of it. The file is never read back: a run that goes on writes it again, from the
    checkpoint, whose copy has a hash; lines of steps whose weights were lost are gone.
    """

    def __init__(
        self, out: str | Path, lines: Sequence[dict] = (), report_to: str = "none", every: int = 1
    ):
        """Begin the file with the lines of the run so far (`metrics_of`)."""
        self.path, self.every, self.send = Path(out) / "metrics.jsonl", every, None
        self.lines = list(lines)
        disk.write_lines(self.path, self.lines)
        try:
            if report_to == "wandb":
                import wandb

                name = "/".join(Path(out).parts[-2:])
                known_as = service_id(Path(out) / "wandb_id", is_new=not lines)
                options = {"id": known_as, "resume": "allow", "reinit": "create_new"}
                run = wandb.init(project="nanovlr", dir=str(out), name=name, **options)
                self.send = run.log
            elif report_to == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                after = self.lines[-1]["step"] + 1 if self.lines else None
                writer = SummaryWriter(str(out), purge_step=after)  # steps that were lost

                def send(metrics, step):
                    for name, value in metrics.items():
                        writer.add_scalar(name, value, step)

                self.send = send
        except ImportError:
            raise UserError(
                f"--report-to {report_to} needs it installed: pip install {report_to}"
            ) from None
        except Exception as error:  # a service: no key, no network, no room
            raise UserError(
                f"--report-to {report_to} cannot be started ({error}); set it up, or omit the flag"
            ) from None

    def log(
        self,
        step: int,
        metrics: dict[str, float],
        show: Sequence[str] = (),
        last: bool = False,
    ) -> None:
        """Write one line, and print `show` of it every `every` steps and at the last."""
        self.lines.append(line_of(step, metrics))
        text = json.dumps(self.lines[-1]) + "\n"
        with disk.writing(self.path, len(text)), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)
        if self.send:
            try:
                self.send(metrics, step=step)
            except Exception as error:  # a service may fail in any way; the run goes on without it
                self.send = None
                say(f"  warning: the metrics are no longer sent ({type(error).__name__}: {error})")
        shown = []
        for name in show:
            if name in metrics:
                short = name.split("/", 1)[-1] if name.startswith("eval/") else name
                shown.append(f"{f'{short} {metrics[name]:.4g}':<16}")
        if shown and (last or step % self.every == 0):
            say(f"step {step:>5}  {'  '.join(shown).rstrip()}")

    def at(self, step: int) -> dict:
        """Copy the line of a step."""
        return dict(next(line for line in self.lines if line["step"] == step))


def say(text: str) -> None:
    """Print above a progress bar instead of through it."""
    from tqdm import tqdm

    tqdm.write(text)
    sys.stdout.flush()
