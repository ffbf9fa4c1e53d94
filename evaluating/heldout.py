"""Measure a policy on held-out questions: Test@1, majority, pass@N, self-select.

Its answers are kept in files, which a killed run takes up where they end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import pools
import rollout
from grading.metrics import sample_scores, select, wilson
from plumbing import plots, records, report
from sampler import Sampler
from tasks import kept, protocols, sheets
from tasks.example import Example
from tasks.prompts import SELECT, select_prompt, with_question


@dataclass(frozen=True)
class Evaluation:
    """What is measured on held-out questions.

    num_samples: N of majority, self-select and pass@N; 0: greedy answers only.
    selects: whether the model learns to select.
    """

    num_samples: int
    selects: bool
    seed: int


def is_right(sampler: Sampler, answer: str | None, example: Example) -> bool:
    """Score an answer alone."""
    return answer is not None and sampler.score(f"<answer> {answer} </answer>", example)[1]


def share(marks: Iterable[float], examples: list) -> float:
    """Return the sum of marks per question."""
    return sum(marks) / max(1, len(examples))


def evaluate(
    folder: Path,
    number: int,
    policy: torch.nn.Module,
    sampler: Sampler,
    name: str,
    examples: list[Example],
    evaluation: Evaluation,
) -> tuple[dict[str, float], list[list[tuple]]]:
    """Measure Test@1 and, from samples, majority, pass@N and self-select on one set.

    number: of the set, in the names of its files. name: for the progress bar.
    Returns ({metric: value}, for each question [(text, {"right": bool}), ...], for people).
    """
    N = evaluation.num_samples
    seed = evaluation.seed
    asks = [with_question(example, sampler.question(example)) for example in examples]
    path = folder / f"eval_{number}_greedy.jsonl"
    greedy = sampler.sample(path, policy, asks, examples, 1, seed, sampler.greedy, f"asking {name}")
    right = sum(line["right"] for line in greedy)
    low, high = wilson(right, len(examples))
    result = {
        "accuracy": share((line["right"] for line in greedy), examples),
        "n": len(examples),
        "parse_failures": sum(not line["readable"] for line in greedy),
        "mean_length": share((line["tokens"] for line in greedy), examples),
        "accuracy_low": low,
        "accuracy_high": high,
    }
    shown = [[(f"greedy: {line['completion']}", {"right": line["right"]})] for line in greedy]
    if not N:
        return result, shown
    path = folder / f"eval_{number}_samples.jsonl"
    lines = sampler.sample(
        path, policy, asks, examples, N, seed + 1, sampler.sampling, f"sampling {name}"
    )
    groups = [lines[i : i + N] for i in range(0, len(lines), N)]
    result |= of_samples(sampler, examples, groups)
    if not evaluation.selects or N < 2:
        return result, shown
    path = folder / f"eval_{number}_selected.jsonl"
    picks = select_answers(path, policy, sampler, name, examples, groups)
    asked = [pick["how"] == "selected" for pick in picks if pick["tokens"]]  # the rest: no room
    result |= {
        f"self_select@{N}": share((pick["right"] for pick in picks), examples),
        "invalid_selections": asked.count(False) / max(1, len(asked)),
        "not_asked_to_select": len(picks) - len(asked),
    }
    for texts, group, pick in zip(shown, groups, picks):
        for k, line in enumerate(group, 1):
            texts.append((f"sample {k}: {line['completion']}", {"right": line["right"]}))
        texts.append((f"selected: {pick['selection']}", {"right": pick["right"]}))
    return result, shown


def of_samples(
    sampler: Sampler, examples: list[Example], groups: list[list[dict]]
) -> dict[str, float]:
    """Compute majority@N, pass@N and the mean accuracy of N samples a question."""
    N = len(groups[0]) if groups else 0
    texts = [[line["completion"] for line in group] for group in groups]
    marks = [[line["right"] for line in group] for group in groups]
    choices = [example.choices for example in examples]
    read = protocols.reader(sampler.protocol)

    def right(text: str, example: Example) -> bool:
        return sampler.score(text, example)[1]

    scores = sample_scores(texts, marks, choices, examples, N, read, right)
    return {
        f"majority@{N}": share(scores["majority@k"], examples),
        f"pass@{N}": share(scores["pass@k"], examples),
        "sample_accuracy": share(scores["mean_sample_accuracy"], examples),
    }


def select_answers(
    path: Path,
    policy: torch.nn.Module,
    sampler: Sampler,
    name: str,
    examples: list[Example],
    groups: list[list[dict]],
) -> list[dict]:
    """Let the model choose among each question's samples (self-select), into the file `path`.

    What has no room for all its candidates is left to the majority, with 0 tokens.
    Returns [{"id", "selection", "answer", "how", "right", "tokens"}, ...].
    """
    texts = [[line["completion"] for line in group] for group in groups]
    total, read = len(examples), protocols.reader(sampler.protocol)
    instruction = SELECT.get(sampler.asker.template)

    def selections(_first: int, _end: int) -> list[dict]:
        whole = []
        for i, (example, group) in enumerate(zip(examples, texts)):
            prompt = select_prompt(sampler.question(example), group, instruction)
            if sampler.fits(with_question(example, prompt)):
                whole.append(i)
        selected, lengths, _ = rollout.self_select(
            policy,
            sampler.asker,
            [examples[i] for i in whole],
            [texts[i] for i in whole],
            sampler.greedy,
            batch_size=sampler.batch_size,
            describe=f"selecting {name}",
            num_workers=sampler.num_workers,
        )
        chosen = dict(zip(whole, zip(selected, lengths)))
        picks = []
        for i, (example, group) in enumerate(zip(examples, texts)):
            text, tokens = chosen.get(i, ("", 0))
            selection = protocols.on_a_line(text, sampler.protocol)
            answer, how = select(selection, group, example.choices, read)
            pick = {"id": example.id, "selection": text, "answer": answer, "how": how}
            right = is_right(sampler, answer, example)
            picks.append(pick | {"right": right, "tokens": tokens})
        return picks

    file = records.Lines(path, sampler.label(path, texts), max(1, total), total)
    return file.fill(selections, f"selecting {name}")


def evaluate_all(
    folder: Path,
    t: int,
    policy: torch.nn.Module,
    sampler: Sampler,
    sets: dict[str, list[Example]],
    evaluation: Evaluation,
    method: str,
) -> dict[str, float]:
    """Evaluate on every set, print the figures, and draw the answers to the first."""
    policy.eval()
    kept.keep_sets(folder.parent / "samples", sets)
    metrics = {}
    for number, (name, examples) in enumerate(sets.items()):
        result, shown = evaluate(folder, number, policy, sampler, name, examples, evaluation)
        metrics |= {f"eval/{name}/{key}": value for key, value in result.items()}
        if number == 0:
            title = f"{method}, iteration {t}: {name}, some that went wrong"
            draw_answers(folder / "answers.png", title, examples, shown)
        figures = [
            f"{key} {value:.3f}"
            for key, value in result.items()
            if key in ("accuracy", "sample_accuracy") or "@" in key
        ]
        print(f"iteration {t}: {name}: {', '.join(figures)}; {result['parse_failures']} unreadable")
    return metrics


def draw_answers(path: Path, title: str, examples: list[Example], shown: list[list[tuple]]) -> None:
    """Draw eight questions with their answers, first those that went wrong."""
    rows = sorted(zip(examples, shown), key=lambda row: all(marks["right"] for _, marks in row[1]))
    sheet = [sheets.sheet_row(example, texts) for example, texts in rows[:8]]
    plots.plot_samples(sheet, path, title)


def draw(out: Path, lines: list[dict], names: list[str], num_samples: int, title: str) -> None:
    """Draw curve.png, accuracy and the make-up of the pool by iteration, and the page."""
    N = num_samples
    keys = "accuracy", "sample_accuracy", f"majority@{N}", f"self_select@{N}", f"pass@{N}"
    panels = [(name, [f"eval/{name}/{key}" for key in keys]) for name in names]
    pool = ["pool/right", "pool/wrong", "pool/unreadable"]
    states = [f"built/{state}" for state in ("all_right", "mixed", "all_wrong")]
    panels += [
        ("samples of the training questions", pool),
        ("questions, over all pools", states),
        ("built", [f"built/{task}" for task in pools.BUILT]),
    ]
    plots.plot_curve(lines, out / "curve.png", panels, title, x="iteration")
    report.write(out)
