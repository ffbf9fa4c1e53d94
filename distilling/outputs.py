"""From the lines of all stages to records: what is kept, what is not and why, and the counts."""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from distilling import formats, replies, stages
from distilling.filters import Trace
from distilling.stages import MODES
from plumbing import disk
from plumbing.text import crc32
from tasks import images
from tasks.example import Example
from tasks.marks import MARK
from tasks.stored import Stored

Said = dict[str, dict[str, dict]]  # {id: {stage: its line}}; failures are not in it

# --- the lines of the stages ---


def said_before(folder: Path, mode: str, names: list[str], examples: dict) -> Said:
    """Read what stages that are not run now have left in `folder`."""
    said = {id: {} for id in examples}
    for name in ("blind", *MODES[mode].stages):
        if name not in names:
            lines, _ = replies.read(folder / f"{name}.jsonl", name)
            add(said, name, {line["id"]: line for line in lines})
    return said


def add(said: Said, name: str, lines: dict[str, dict]) -> None:
    """Add a stage's lines, but for failures."""
    for id, line in lines.items():
        if id in said and line["failed"] is None:
            said[id][name] = line


def summary(name: str, lines: dict[str, dict]) -> str:
    """Say in one line what came of a stage."""
    failed = [line["failed"] for line in lines.values() if line["failed"] is not None]
    cut = sum(line["finish"] == "length" for line in lines.values())
    tokens = sum(line["completion_tokens"] for line in lines.values())
    text = f"{name}: {len(lines)} asked, {tokens} tokens answered"
    text += f", {cut} cut at --max-completion-length" if cut else ""
    return text + (f", {len(failed)} failed, the first: {failed[0]}" if failed else "")


def not_solved_blind(examples: dict[str, Example], said: Said) -> dict[str, Example]:
    """Leave out the examples that were answered right without their picture."""
    return {id: e for id, e in examples.items() if not stages.solved_blind(e, said[id])}


# --- pictures ---


def write_pictures(folder: Path, example: Example) -> list[str]:
    """Name an example's pictures for a record; those that are in no file are written to `folder`.

    A file keeps its place, as a whole path; others are images/ID-NUMBER.png beside the record.
    """
    names = []
    for number, image in enumerate(example.images, 1):
        if isinstance(image, (str, Path)):
            names.append(os.path.abspath(image))
            continue
        path = folder / file_name(example.id, number)
        if not path.is_file():
            folder.mkdir(exist_ok=True)
            save(path, image, example.source)
        names.append(f"{folder.name}/{path.name}")
    return names


def file_name(id: str, number: int) -> str:
    """Name a picture's file by its example's id, of which any text may be one."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", id)[:60]
    return f"{plain}-{crc32(id):08x}-{number}.png"


def save(path: Path, image: Image.Image | bytes | Stored, where: str) -> None:
    """Write a picture as PNG, upright, whole or not at all."""
    part = path.with_name(f".{path.stem}.part.png")
    opened = images.open_image(image, where)
    with disk.writing(path, opened.width * opened.height * 3):
        opened.save(part)
        os.replace(part, path)


# --- records ---


@dataclass
class Found:
    """What is kept, what is not, and how often each filter refused."""

    kept: list[dict] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)

    def in_words(self) -> str:
        """Say why records are not kept."""
        told = [f"{count} {name}" for name, count in self.counts.most_common() if count]
        return f"left out: {', '.join(told)}" if told else "nothing is left out"


def trace_records(
    name: str,
    examples: dict[str, Example],
    said: Said,
    mode: str,
    by_model: bool,
    drop_blind_solved: bool,
    pictures: Callable[[Example], list[str]],
) -> Found:
    """Write every worked answer as a record, and sort them by what the filters say.

    counts: by the first filter that refuses; `failed` where there is no worked answer.
    """
    found = Found()
    for id, example in examples.items():
        solved = stages.solved_blind(example, said[id])
        trace = stages.trace_of(example, said[id], mode)
        if drop_blind_solved and solved:
            found.counts["blind_solved"] += 1
        elif trace is None:
            found.counts["failed"] += 1
        if trace is None:
            continue
        refused = stages.verdicts(example, said[id], mode, by_model)
        if drop_blind_solved and solved:
            refused = {"blind_solved": "", **refused}
        elif refused:
            found.counts[next(iter(refused))] += 1
        record = formats.FORMATS[name](
            example, pictures(example), trace, answer_of(example, trace, refused)
        )
        record = {"id": id, **record, **about(example, mode, said[id], refused)}
        record |= {} if solved is None else {"blind_solved": solved}
        (found.rejected if refused else found.kept).append(record)
    return found


def answer_of(example: Example, trace: Trace, refused: dict) -> str:
    """Choose the answer's spelling: the gold's, if the trace comes to it."""
    if "wrong_answer" in refused:
        return trace.answer
    return trace.answer if "boxes" in example.meta else example.answer


def about(example: Example, mode: str, said: dict, refused: dict) -> dict:
    """Write what all formats say of a record: its source, the verdicts, who wrote it."""
    steps = [said[name] for name in ("blind", *MODES[mode].stages) if name in said]
    keys = ("stage", "model", "server", "prompt", "seed", "prompt_tokens", "completion_tokens")
    shared = {"data_source": source_of(example)}
    shared |= {"task": example.task} if example.task else {}
    return shared | {
        "filter": ", ".join(refused) or "pass",
        "judge_response": said["judge"]["text"] if "judge" in said else "",
        "provenance": [{key: line[key] for key in keys if key in line} for line in steps],
    }


def source_of(example: Example) -> str:
    """Name where a record comes from: by its own word, else its file."""
    for key in ("data_source", "source", "dataset"):
        if isinstance(example.meta.get(key), str):
            return example.meta[key]
    return os.path.basename(re.sub(r":[\d#]+$", "", example.source))


def pair_records(
    name: str,
    documents: dict[str, Example],
    said: Said,
    pictures: Callable[[Example], list[str]],
) -> Found:
    """Write the pairs of each document that pass.

    counts: of pairs; `failed` and `no_pairs` of documents.
    """
    found = Found()
    for id, document in documents.items():
        if "qa" not in said[id]:
            found.counts["failed"] += 1
            continue
        pairs, counts = stages.checked_pairs(said[id]["qa"])
        found.counts += counts
        found.counts["no_pairs"] += not (pairs or counts)
        shared = about(document, "qa", said[id], {})
        written = pictures(document) if pairs else []
        for record in formats.conversation(name, document, written, pairs) if pairs else ():
            found.kept.append({**record, **shared})
    return found


def publish(out: Path, found: Found, questions: int, said: Said) -> None:
    """Write distilled.jsonl, rejected.jsonl and result.json."""
    disk.write_lines(out / "distilled.jsonl", found.kept)
    disk.write_lines(out / "rejected.jsonl", found.rejected)
    lines = [line for of_one in said.values() for line in of_one.values()]
    spent = {}
    for line in lines:
        one = spent.setdefault(line["stage"], Counter(model=line["model"]))
        one["replies"] += 1
        for key in ("prompt_tokens", "completion_tokens"):
            one[key] += line[key]
    result = {
        "questions": questions,
        "kept": len(found.kept),
        "rejected": len(found.rejected),
        "left_out": dict(found.counts),
        "stages": {stage: dict(one) for stage, one in spent.items()},
    }
    disk.write_json(out / "result.json", result)


def shown(found: Found) -> str:
    """Show the first record that is kept, as it is learned: watching text is half of the work."""
    if not found.kept:
        return "no record is kept: rejected.jsonl and stages/ show what the teacher wrote"
    record = found.kept[0]
    turns = record.get("conversations") or record.get("messages") or []
    texts = [turn.get("value") or turn.get("content") for turn in turns]
    texts = texts or [record["question"], record.get("solution") or record["answer"]]
    return "\n  ".join(["the first of them:", *(text.replace(MARK, "").strip() for text in texts)])
