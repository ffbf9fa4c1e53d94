"""Run directories for the tests of the page: written as the scripts write them, without a model."""

import json
import random
import re
from functools import cache
from pathlib import Path

from PIL import Image

import data
import tasks
from plumbing import disk, records
from tasks import kept

PARTS = ("accuracy", "format")


@cache
def examples_of(spec: str, count: int) -> list:
    """The first questions of a toy task: drawn once, for all tests."""
    return data.head(tasks.read(spec), count)


def text_for(example, right: bool) -> str:
    answer = example.answer if right else "999"
    if right and "boxes" in example.meta:  # as the model writes them: in thousandths
        across, down = example.meta["size"]
        boxes = [box["bbox_2d"] for box in example.meta["boxes"]]
        labels = [box["label"] for box in example.meta["boxes"]]
        in_thousandths = [[1000 * v / s for v, s in zip(b, [across, down] * 2)] for b in boxes]
        pairs = zip(in_thousandths, labels)
        answer = json.dumps([{"bbox_2d": [*map(round, b)], "label": label} for b, label in pairs])
    return f"<think> I look. </think><answer> {answer} </answer>"


def write_args(out: Path, script: str, **flags) -> None:
    more = {"argv": ["--output-dir", str(out)], "commit": "c" * 40, "versions": {"python": "3"}}
    records.write_record(out / "args.json", {"script": script, "max_steps": 8} | flags | more)


def grpo_run(out: Path, spec: str = "count", say=text_for, N: int = 4, G: int = 4) -> Path:
    """Steps 1, 4 and 8 of training with N x G samples, and 6 held-out questions at 0, 4 and 8."""
    draw = random.Random(0)
    (out / "samples").mkdir(parents=True)
    write_args(out, "train_grpo.py", num_generations=G, eval_data=[f"{spec}:test"])
    held_out, name = examples_of(f"{spec}:test", 6), f"{spec}:test"
    kept.keep_sets(out / "samples", {name: held_out})
    for step in (0, 4, 8):
        texts = [say(example, draw.random() < 0.3 + step / 12) for example in held_out]
        kept.keep_answers(out / "samples", [name], name, step, held_out, texts)
    for step in (1, 4, 8):
        asked = examples_of(spec, 40)[step * N : (step + 1) * N]
        rows = [example for example in asked for _ in range(G)]
        right = [draw.random() < 0.5 for _ in rows]
        texts = [say(example, mark) for example, mark in zip(rows, right)]
        marks = [float(mark) for mark in right]
        parts = {"accuracy": marks, "format": [draw.random() for _ in rows]}
        adv = [draw.uniform(-2, 2) for _ in rows]
        kept.keep_samples(out / "samples", step, asked, texts, parts, adv)
    lines = [{"step": 0, f"eval/{name}/accuracy": 0.25}]
    for step in range(1, 9):
        lines.append({"step": step, "reward": step / 8, "grad_norm": 1 / step, "loss": None})
    lines[-1] |= {f"eval/{name}/accuracy": 0.75, f"eval/{name}/accuracy_low": 0.5}
    disk.write_lines(out / "metrics.jsonl", lines)
    return out


def evaluation(out: Path, seed: int = 0) -> Path:
    """A run of evaluate.py under a protocol: 5 questions, 2 samples each, one disputed."""
    draw = random.Random(seed)
    examples = examples_of("count:test", 5)
    (out / "samples").mkdir(parents=True)
    write_args(out, "evaluate.py", model="m")
    kept.keep_questions(out / "samples" / "questions_answers.jsonl", examples)
    lines = []
    for n, example in enumerate(examples):
        right = draw.random() < 0.5
        line = example.about() | {"choices": None, "prediction": text_for(example, right)}
        line |= {"extracted": "x", "accuracy": float(right), "accuracy_original": float(right)}
        if n == 1:
            line["accuracy_original"] = 1 - line["accuracy"]
        texts = [text_for(example, True), "no answer"]
        lines.append(line | {"tokens": 9, "samples": texts, "right": [1.0, 0.0]})
    disk.write_lines(out / "predictions.jsonl", lines)
    disk.write_json(out / "result.json", {"accuracy": 0.6, "n": 5, "data": "count:test"})
    return out


def distilled(out: Path) -> Path:
    """A directory of distill.py: a record in each format, the last of a picture elsewhere."""
    write_args(out, "distill.py")
    (out / "images").mkdir()
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (600, 300), color).save(out / "images" / f"{name}.png")
    Image.new("RGB", (20, 20)).save(out.parent / f"{out.name}.png")
    texts = [f"<think> {name} </think><answer> 3 </answer>" for name in "abc"]
    chat = [{"role": "user", "content": "<image>\nHow many?"}]
    chat.append({"role": "assistant", "content": texts[0]})
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": texts[1]}]
    kept = [
        {"id": "a", "messages": chat, "images": ["images/a.png"], "filter": "pass"},
        {"id": "b", "conversations": turns, "image": "images/b.png", "gt": "3", "filter": "pass"},
    ]
    bad = {"id": "c", "question": "How many?", "answer": "3", "solution": texts[2]}
    bad |= {"images": [f"../{out.name}.png"], "filter": "judge", "judge_response": "no"}
    disk.write_lines(out / "distilled.jsonl", kept)
    disk.write_lines(out / "rejected.jsonl", [bad])
    return out


def page_data(html: str) -> dict:
    """What is in the page, as a browser reads it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(found[1])


def view(run: dict, name: str) -> dict:
    return next(view for view in run["views"] if view["name"].startswith(name))
