"""Questions, pictures and answers on the page of a run, as records for plumbing/report.js.

They are made of files that a killed run has left, or a person has changed: an odd value is omitted.
"""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

from grading.answers import parse_failure
from grading.boxes import BOX_FORMATS, predicted_boxes
from plumbing import disk, records

MOST_LETTERS = 4000  # of a text
PICTURE_BYTES = 4_000_000  # of all pictures of a run
PICTURE_SIDE = 224  # pixels of the longer side, where a page makes a picture small itself
PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")
# What else stands in a line of samples/. All other numbers in it are scores.
NOT_SCORES = {"id", "question", "history", "system", "answer", "completion", "prediction"}

# --- odd values ---


def lines_of(path: Path) -> list[dict]:
    """Read the records of a file of lines; [] if there is none."""
    return [line for line in records.read_lines(path) if isinstance(line, dict)]


def record_of(path: Path) -> dict:
    """Read a JSON file; {} if there is none, or it is damaged."""
    try:
        value = json.loads(disk.read_text(path, errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def text_of(value: object) -> str:
    """Make a text of any value, of MOST_LETTERS at the most."""
    if isinstance(value, (dict, list)):  # perhaps nested deeper than Python can print
        value = "[a value that is no text]"
    text = "" if value is None else str(value)
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[:MOST_LETTERS]}\n[{len(text) - MOST_LETTERS} more characters]"


def number_of(value: object) -> float | None:
    """Return a finite number, to six digits; None for anything else."""
    try:
        number = float(value) if isinstance(value, (bool, int, float)) else math.nan
    except OverflowError:
        return None
    return float(f"{number:.6g}") if math.isfinite(number) else None


def numbers_of(values: object, count: int) -> list[float] | None:
    """Return so many finite numbers; None for anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    numbers = [number_of(value) for value in values]
    return None if None in numbers else numbers


# --- questions ---


class Questions:
    """The questions that a run's answers are about, each once, and its pictures by their hash."""

    def __init__(self) -> None:
        self.lines, self.pictures = [], {}
        self.places, self.kept = {}, {}
        self.bytes = self.omitted = 0

    def read(self, path: Path, name: str) -> int:
        """Read a questions_*.jsonl: what the lines of the set `name` are about. How many."""
        lines = lines_of(path)
        self.kept |= {(name, text_of(line.get("id"))): line for line in lines}
        return len(lines)

    def kept_of(self, line: dict, name: str) -> dict:
        """Find what was kept of the question of a line of the set `name`; {} if nothing was."""
        return self.kept.get((name, text_of(line.get("id"))), {})

    def place(self, line: dict, name: str) -> int:
        """Number the question that a line of the set `name` is about."""
        kept = self.kept_of(line, name)
        about = kept | line
        if "picture" in kept:  # in a line of predictions.jsonl it is a hash
            about["picture"] = kept["picture"]
        id, question = text_of(about.get("id")), text_of(about.get("question"))
        gold = text_of(about.get("answer"))
        words = f"{id}\n{question}\n{gold}".encode(errors="replace")
        key = hashlib.sha256(words).hexdigest()[:12]
        if key not in self.places:
            self.places[key] = len(self.lines)
            shown = {"key": key, "id": id, "question": question, "answer": gold}
            self.lines.append(shown | self.more_of(about))
        return self.places[key]

    def more_of(self, about: dict) -> dict:
        """Return what else is shown of a question: earlier turns, choices, picture, gold boxes."""
        more = {"picture": self.picture(about.get("picture"))}
        for name in ("history", "choices"):
            if isinstance(about.get(name), list):
                more[name] = [turn_or_choice(value) for value in about[name][:50]]
        example = boxed(about)
        if example:
            boxes = [box.get("bbox_2d") for box in about["boxes"] if isinstance(box, dict)]
            more["boxes"] = in_shares(boxes, example.meta["size"])
        return more

    def picture(self, url: object) -> str | None:
        """Keep a picture once and return its hash; None where there is none, or no room."""
        if not isinstance(url, str) or not PICTURE.fullmatch(url):
            return None
        key = hashlib.sha256(url.encode()).hexdigest()[:12]
        if key not in self.pictures and self.bytes + len(url) > PICTURE_BYTES:
            self.omitted += 1
            return None
        if key not in self.pictures:
            self.bytes += len(url)
            self.pictures[key] = url
        return key


def turn_or_choice(value: object) -> str:
    """Write an earlier turn of a conversation, or a choice, as a text."""
    if isinstance(value, dict):
        return f"{text_of(value.get('role'))}: {text_of(value.get('content'))}"
    return text_of(value)


def boxed(kept: dict) -> SimpleNamespace | None:
    """Make an example of a question with boxes, as grading.boxes takes it; None without boxes."""
    size, boxes = numbers_of(kept.get("size"), 2), kept.get("boxes")
    resized = numbers_of(kept.get("resized"), 2)
    box_format = kept.get("box_format", BOX_FORMATS[0])
    if not size or min(size) <= 0 or not isinstance(boxes, list):
        return None
    known = isinstance(box_format, str) and box_format in BOX_FORMATS
    if not known or box_format == "resized" and not (resized and min(resized) > 0):
        return None
    return SimpleNamespace(meta={"size": size, "resized": resized, "box_format": box_format})


def in_shares(boxes: Iterable, size: list[float]) -> list[list[float]]:
    """Turn corners in pixels into shares of a picture's width and height, cut to the picture."""
    shares = []
    for box in boxes:
        corners = numbers_of(list(box), 4) if isinstance(box, (list, tuple)) else None
        if corners:
            cut = [min(1.0, max(0.0, v / s)) for v, s in zip(corners, size * 2)]
            shares.append([round(v, 4) for v in cut])
    return shares


def small_picture(path: Path, folder: Path) -> str | None:
    """Read a picture below a folder as a small data URL; None for anything else."""
    from PIL import Image

    if not path.resolve().is_relative_to(folder.resolve()):
        return None
    try:
        with Image.open(path) as image:
            image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
            written = io.BytesIO()
            image.convert("RGB").save(written, "JPEG", quality=85)
    except Exception:  # PIL raises many types for a damaged file
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


# --- answers ---


def answer_of(
    text: object,
    kept: dict,
    scores: dict,
    right: bool | None,
    readable: bool | None = None,
    kind: str = "",
) -> dict:
    """Make one answer of the page: text, state, scores, and boxes where they can be read.

    kept: what was kept of its question. right: None where it is not scored.
    readable: None to find out.
    """
    whole = text if isinstance(text, str) else ""
    example = boxed(kept)
    boxes = predicted_boxes(whole, example) if example else []
    if readable is None:
        readable = not parse_failure(whole) and boxes is not None
    state = "not scored"
    if right is not None:
        state = "right" if right else "wrong" if readable else "unreadable"
    numbers = {name: number_of(value) for name, value in scores.items()}
    answer = {"text": text_of(text), "state": state}
    answer["scores"] = {name: value for name, value in numbers.items() if value is not None}
    if kind:
        answer["kind"] = kind
    if boxes:
        corners = [box["bbox_2d"] for box in boxes[:50]]
        answer["boxes"] = in_shares(corners, example.meta["size"])
    return answer


def is_right(line: dict) -> bool | None:
    """Tell whether a line's accuracy is full; None if it has none."""
    accuracy = number_of(line.get("accuracy"))
    return None if accuracy is None else accuracy == 1


def of_training(line: dict, kept: dict) -> dict:
    """Make an answer of a line of samples/step_*.jsonl or samples/eval_*.jsonl."""
    text = line.get("completion", line.get("prediction"))
    scores = {name: value for name, value in line.items() if name not in NOT_SCORES}
    return answer_of(text, kept, scores, is_right(line))


def of_pool(line: dict, kept: dict, kind: str = "") -> dict:
    """Make an answer of a line of an iteration's pool or evaluation."""
    text = line.get("completion", line.get("selection"))
    scores = {"right": line.get("right"), "tokens": line.get("tokens")}
    right, readable = line.get("right"), line.get("readable")
    return answer_of(text, kept, scores, bool(right), readable, kind)


def of_prediction(line: dict, kept: dict) -> list[dict]:
    """Make the answers of a line of predictions.jsonl: greedy, sampled, selected."""
    names = ("accuracy", "accuracy_original", "iou", "tokens")
    scores = {name: line[name] for name in names if name in line}
    readable = line["extracted"] is not None if "extracted" in line else None
    answers = [answer_of(line.get("prediction"), kept, scores, is_right(line), readable, "greedy")]
    samples, marks = line.get("samples"), line.get("right")
    if isinstance(samples, list) and isinstance(marks, list):
        for k, (text, mark) in enumerate(zip(samples, marks), 1):
            right = number_of(mark) == 1
            answers.append(answer_of(text, kept, {"accuracy": mark}, right, kind=f"sample {k}"))
    selections = line.get("selections")
    if isinstance(selections, dict):
        for k, text in selections.items():
            kind = f"selection among {text_of(k)}"
            answers.append(answer_of(text, kept, {}, None, kind=kind))
    return answers + of_ways(line, kept)


def of_ways(line: dict, kept: dict) -> list[dict]:
    """Make the answers to the same question in other ways, of a line of predictions.jsonl."""
    ways = line.get("ways")
    answers = []
    for name, part in ways.items() if isinstance(ways, dict) else ():
        if not isinstance(part, dict):
            continue
        scores = {key: part.get(key) for key in ("accuracy", "tokens")}
        note = ""
        if "pictures_of" in part:
            note = f"with the picture of {text_of(part['pictures_of'])}"
        if isinstance(part.get("order"), list):
            note = f"the options in the order {letters_of(part['order'])}"
        own = {} if "pictures_of" in part else kept  # its boxes belong to another picture
        readable = part.get("read") is not None
        answer = answer_of(
            part.get("prediction"), own, scores, is_right(part), readable, text_of(name)
        )
        answers.append(answer | ({"note": note} if note else {}))
    return answers


def letters_of(places: list) -> str:
    """Write places of options as letters: [1, 0] -> "B A"."""
    known = [place for place in places if isinstance(place, int) and 0 <= place < 26]
    return " ".join(chr(ord("A") + place) for place in known)


def of_item(line: dict, kept: dict) -> list[dict]:
    """Make the target of a line of train.jsonl, or the two responses of a pair."""
    kind = kind_of(line)
    if "chosen" not in line:
        return [answer_of(line.get("target"), kept, {}, None, kind=kind)]
    return [
        answer_of(line.get("chosen"), kept, {}, None, kind=f"{kind}: chosen"),
        answer_of(line.get("rejected"), kept, {}, None, kind=f"{kind}: rejected"),
    ]


def of_made(line: dict) -> tuple[dict, list[dict]]:
    """Read a record of distill.py, in any of its formats: (what is asked, answers).

    The answers are what was made and what the judge said of it.
    """
    turns = line.get("messages") or line.get("conversations")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    said = [turn.get("content", turn.get("value")) for turn in turns]
    asked, made = said[-2:] if len(said) > 1 else (line.get("question"), line.get("solution"))
    about = {
        "id": line.get("id"),
        "question": text_of(asked).replace("<image>", "").strip(),
        "answer": line.get("answer", line.get("gt")),
    }
    refused = text_of(line.get("filter"))
    kind = "kept" if refused == "pass" else f"left out: {refused}"
    answers = [answer_of(made, {}, {}, "wrong_answer" not in refused, True, kind)]
    if line.get("judge_response"):
        answers.append(answer_of(line["judge_response"], {}, {}, None, kind="the judge"))
    return about, answers


def kind_of(line: dict) -> str:
    """Name the kind of a line of train.jsonl."""
    return text_of(line.get("kind") or "pair") if "chosen" in line else text_of(line.get("task"))


def groups_of(
    questions: Questions, lines: list[dict], name: str, make: Callable, most: int | None = None
) -> list[dict]:
    """Put the answers to one question together: [{"question": its number, "answers": [...]}, ...].

    make(line, what was kept of its question) -> answer. most: answers of a group, which then
    follow each other; None: all that are about one question.
    """
    groups: list[dict] = []
    open_groups: dict[int, dict] = {}
    for line in lines:
        place = questions.place(line, name)
        is_last = bool(groups) and groups[-1]["question"] == place
        group = open_groups.get(place)
        if group is None or most and (not is_last or len(group["answers"]) >= most):
            group = open_groups[place] = {"question": place, "answers": []}
            groups.append(group)
        group["answers"].append(make(line, questions.kept_of(line, name)))
    return groups
