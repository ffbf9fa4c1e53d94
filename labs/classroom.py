"""What the labs share: the shipped checkpoint, questions, and pictures to look at."""

import copy
import functools
import io
import itertools
import os
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image

import batching
import data
import logps
import losses
import model
import rewards
import rollout
import tasks
from plumbing import plots
from plumbing.errors import UserError
from reinforcing import advantages
from tasks import images, sheets
from tasks.example import Example

ROOT = Path(__file__).resolve().parents[1]
# The labs start here, with a model that can count a bit.
CHECKPOINT = ROOT / "checkpoints" / "count"
LIMIT = 96  # tokens of an answer at most
TRAINS_ALL = SimpleNamespace(
    lora_r=0,
    freeze_vision=False,
    freeze_merger=False,
    freeze_llm=False,
    gradient_checkpointing=False,
)


def is_quick() -> bool:
    """Tell whether LABS_QUICK shortens the training runs, as in tests and grading."""
    return bool(os.environ.get("LABS_QUICK"))


def steps(number: int) -> int:
    """Shorten a training run to two steps where only the checks matter."""
    return min(number, 2) if is_quick() else number


def questions(number: int) -> int:
    """Shorten a list of questions to two where only the checks matter."""
    return min(number, 2) if is_quick() else number


# --- the model ---


def load(checkpoint: Path = CHECKPOINT, train: bool = True) -> tuple[torch.nn.Module, data.Asker]:
    """Load (policy, asker) of a checkpoint, fresh each time: its weights train.

    Raises UserError if the checkpoint is not there.
    """
    if not (checkpoint / "model.safetensors").is_file():
        raise UserError(
            f"{checkpoint} has no model: `make checkpoints` makes it, and a clone has it already"
        )
    policy, processor = copy.deepcopy(loaded(checkpoint, train))
    asked = data.ask_as_trained(
        SimpleNamespace(model=str(checkpoint), prompt_template=None, system_prompt=None)
    )
    return policy, data.Asker(processor, asked["prompt_template"], asked["system_prompt"])


@functools.cache
def loaded(checkpoint: Path, train: bool) -> tuple:
    """Read a checkpoint once in a process; `load` copies it."""
    return model.load(str(checkpoint), train=TRAINS_ALL if train else None)


# --- questions and answers ---


def examples(
    task: str = "count",
    split: str = "train",
    number: int = 8,
    start: int = 0,
    keep: Callable[[Example], bool] | None = None,
) -> list[Example]:
    """Draw `number` examples of a toy task, from its example `start` on.

    keep(example): take only those for which it is true.
    """
    stream = tasks.read(f"{task}:{split}")
    chosen = []
    for i in itertools.count(start):
        if len(chosen) == number:
            return chosen
        if keep is None or keep(stream[i]):
            chosen.append(stream[i])


def sample(
    policy: torch.nn.Module,
    asker: data.Asker,
    asked: list[Example],
    G: int,
    seed: int = 0,
    sampling: rollout.Sampling | None = None,
) -> tuple[list[data.Prompt], rollout.Rollout, list[str]]:
    """Sample G answers to each question: (prompts, rollout, texts)."""
    processor = asker.processor
    sampling = sampling or rollout.Sampling(LIMIT)
    prompts = [asker.prompt(example) for example in asked]
    roll = rollout.rollout(policy, prompts, processor.special, G, sampling, seed)
    texts = [processor.decode(ids[:n]) for ids, n in zip(roll.targets, roll.lengths)]
    return prompts, roll, texts


def one_batch(prompts: list[data.Prompt], roll: rollout.Rollout) -> dict:
    """Put a whole rollout into one batch for logps.token_logps."""
    return batching.collate(prompts, roll.targets, roll.mask, device="cpu")


def accuracy(
    policy: torch.nn.Module, asker: data.Asker, asked: list[Example]
) -> tuple[float, list[str]]:
    """Ask questions greedily: (share of right answers, the answers)."""
    texts, _, _ = rollout.answer_all(policy, asker, asked, rollout.Sampling(LIMIT, temperature=0))
    right = [rewards.accuracy(text, example) for text, example in zip(texts, asked)]
    return sum(right) / len(right), texts


# --- a short training ---


def learn(
    policy: torch.nn.Module,
    asker: data.Asker,
    score: Callable[[str, Example], float],
    number: int,
    mask_of: Callable[[torch.Tensor], torch.Tensor] | None = None,
    questions_per_step: int = 8,
    G: int = 8,
    learning_rate: float = 2e-4,
) -> list[dict]:
    """Take GRPO steps as lab 1 does, with any reward; returns a line to draw for each.

    score(text, example): the reward. mask_of(targets): what counts, (B, T); else the rollout's.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0)
    suppress = asker.processor.special.vision_ids
    size = questions(questions_per_step)
    lines = []
    for step in range(1, number + 1):
        asked = examples(number=size, start=step * size)
        prompts, roll, texts = sample(policy, asker, asked, G, seed=step)
        repeated = [example for example in asked for _ in range(G)]
        pairs = list(zip(texts, repeated))
        scores = torch.tensor([float(score(text, example)) for text, example in pairs])
        adv = advantages.group_advantage(scores, G)
        mask = mask_of(roll.targets) if mask_of else roll.mask
        logp = logps.token_logps(policy, one_batch(prompts, roll), suppress=suppress)
        cost = losses.clipped_surrogate(logp, logp.detach(), adv, mask, 0.8, 1.2)
        optimizer.zero_grad()
        losses.aggregate(cost, losses.token_weights(mask, "grpo")).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.2)
        optimizer.step()
        right = [rewards.accuracy(text, example) for text, example in pairs]
        line = {"step": step, "reward": float(scores.mean()), "right": sum(right) / len(right)}
        lines.append(line | {"tokens": float(roll.lengths.float().mean())})
        if step % 10 == 0 or step == number:
            print(f"step {step}: reward {line['reward']:.2f}, right {line['right']:.0%}")
    return lines


# --- pictures ---


def in_notebook() -> bool:
    """Tell whether a notebook shows what is displayed."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def draw(name: str, plot: Callable, *args: object) -> None:
    """Draw with a function of plumbing/plots.py, and show the picture or say where it is."""
    png = Path(tempfile.mkdtemp(prefix="lab-")) / f"{name}.png"
    first, *others = args
    plot(first, png, *others)
    if not in_notebook():
        print(f"see {png}")
    elif png.is_file():
        from IPython import display

        display.display(display.Image(filename=str(png)))


def show(asked: list[Example], answers: list[list[tuple[str, dict]]], title: str = "") -> None:
    """Show pictures with their questions and answers.

    answers: for each example [(text, {what: number}), ...], such as its reward.
    """
    if not asked:
        print(f"{title}: there is none to show")
    elif in_notebook():
        from IPython.display import HTML, display

        display(HTML(table_of(asked, answers, title)))
    else:
        rows = [sheets.sheet_row(example, texts) for example, texts in zip(asked, answers)]
        draw("answers", plots.plot_samples, rows, title)


def table_of(asked: list[Example], answers: list[list[tuple[str, dict]]], title: str) -> str:
    """Write pictures and answers as HTML. What a model wrote is escaped."""
    rows = []
    for example, texts in zip(asked, answers):
        pictures = "".join(map(img_of, sheets.pictures_of(example)))
        lines = [f"<b>{escape(example.question)}</b> (right: {escape(example.answer)})"]
        for text, scores in texts:
            marks = " ".join(f"{escape(name)} {value:g}" for name, value in scores.items())
            lines.append(f"<i>{marks}</i> <code>{escape(text)}</code>")
        words = "<br>".join(lines)
        rows.append(f"<tr><td>{pictures}</td><td style='text-align: left'>{words}</td></tr>")
    return f"<table><caption>{escape(title)}</caption>{''.join(rows)}</table>"


def img_of(picture: Image.Image) -> str:
    """Write a picture as an HTML image."""
    png = io.BytesIO()
    picture.save(png, "PNG")
    url = images.data_url(png.getvalue(), "png")
    return f"<img style='width: 168px; max-width: none' src='{url}'>"


def curves(
    lines: list[dict], panels: list[tuple[str, list[str]]], title: str = "", x: str = "step"
) -> None:
    """Draw curves. lines: [{"step": 1, "reward": 0.5, ...}, ...]. panels: (heading, [names]).

    x: what the number under "step" is.
    """
    draw("curves", plots.plot_curve, lines, panels, title, x)
