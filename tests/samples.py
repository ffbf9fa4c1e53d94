"""Records, pictures and files that several tests write."""

import copy
import io
import json
import os
import socket
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

import tasks
from plumbing.errors import UserError
from tasks import files, pairs

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


RECORDS = SHARED / "records"


def png(width=56, height=56, color="red", kind="PNG"):
    """An encoded picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, kind)
    return buffer.getvalue()


def write(folder, records, name="set.jsonl"):
    """Records in a JSON, JSONL or parquet file."""
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def captions(path, number, words=30):
    """Write questions on pictures with long answers and no gold, so that nothing is evaluated."""
    lines = []
    for i in range(number):
        name = f"{path.stem}{i}.png"
        (path.parent / name).write_bytes(
            png(56 + 28 * (i % 3), 56, ("red", "blue", "green")[i % 3])
        )
        solution = " ".join(f"one {i}" for _ in range(words + i))
        lines.append({"image": name, "question": f"What is {i}?", "solution": solution})
    return write(path.parent, lines, path.name)


def refusal(call, *args, within=1.0, **more):
    """Give the text of the UserError that the call must raise soon: one line, not too long.

    Timed in processor seconds, so that a busy machine raises no false alarm; ten times as much by
    the clock, so that waiting for something does.
    """
    start, clock = time.process_time(), time.perf_counter()
    with pytest.raises(UserError) as error:
        call(*args, **more)
    text = str(error.value)
    assert time.process_time() - start < within and time.perf_counter() - clock < 10 * within
    assert "\n" not in text and len(text) < 600, text
    return text


ASKED = {"question": "q", "answer": "a"}


def one(folder, record, name="set.jsonl", **more):
    """The example of a file that holds this record."""
    [example] = tasks.read(write(folder, [record], name), **more)
    return example


def turns(question, value, names=("human", "gpt")):
    return {
        "conversations": [{"from": names[0], "value": question}, {"from": names[1], "value": value}]
    }


TABMWP = {
    "33": {
        "question": "Is the function linear?",
        "choices": ["linear", "nonlinear"],
        "answer": "nonlinear",
        "unit": None,
        "table_title": None,
        "table": "x | y\n10 | 15",
        "solution": "The function is nonlinear.",
        "ques_type": "multi_choice",
        "ans_type": "boolean_text",
        "grade": 8,
        "split": "dev",
    },
    "117": {
        "question": "What is the weight?",
        "choices": None,
        "answer": "10",
        "unit": "pounds",
        "table_title": None,
        "table": "x",
        "solution": "It is 10.",
        "ques_type": "free_text",
        "ans_type": "integer_number",
        "grade": 3,
        "split": "dev",
    },
}


CVBENCH = {
    "idx": 7,
    "type": "2D",
    "task": "Count",
    "image": "a.png",
    "question": "How many organs?",
    "choices": ["3", "2"],
    "answer": "(A)",
    "prompt": "How many organs? Select from the following choices.\n(A) 3\n(B) 2",
    "filename": "img/2D/count/ade20k_10.png",
    "source": "ADE20K",
}


M3COT = {
    "id": "s-1",
    "category": "c",
    "image_id": "i",
    "question": "Which one?",
    "choices": ["a cat", "a dog"],
    "context": "Look.",
    "answer": "B",
    "rationale": "It barks.",
    "split": "test",
    "image": "a.png",
    "domain": "science",
    "topic": "t",
}


GOOD = {"question": "q", "answer": "a"}


def bad_images(folder):
    noise = Image.effect_noise((100, 100), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    (folder / "images" / "cut.png").write_bytes(buffer.getvalue()[:5000])
    (folder / "images" / "text.png").write_text("I am no picture")
    (folder / "images" / "empty.png").touch()
    (folder / "images" / "narrow.png").write_bytes(png(2, 500))
    header = bytearray(
        png()
    )  # width and height of 60,000, made up: nothing so large is written or read
    header[16:24] = (60000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (folder / "images" / "bomb.png").write_bytes(header)


def odd_files(folder, suffix):
    """One file of every kind that is not one: name -> path."""
    named = {kind: folder / f"{kind}{suffix}" for kind in ("pipe", "socket", "device", "loop")}
    os.mkfifo(named["pipe"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(named["socket"]))  # absolute, it may be too long
    named["device"].symlink_to("/dev/zero")
    named["loop"].symlink_to(named["loop"])
    named["long"] = folder / ("x" * 5000 + suffix)
    named["NUL"] = folder / f"a\0b{suffix}"
    return named


DEEP = json.loads("[" * 500 + "]" * 500)


ODD = [
    *(None, True, 0, -1, 2.5, 10**400, float("inf"), float("nan"), "", " ", "a\0b", "\ud800"),
    *("x" * 5000, "9" * 5000, [], [1], [["a"]], {}, {"a": 1}, {"bytes": 1}, [{"type": []}], DEEP),
]


BESIDE = ("prompt_template", "boxes", "size", "resized", "box_style", "box_format", "task", "id")


def places_in(value, before=()):
    """Every place inside a value, as a path of keys."""
    inside = value.items() if isinstance(value, dict) else []
    inside = enumerate(value) if isinstance(value, list) else inside
    for key, item in inside:
        yield (*before, key)
        yield from places_in(item, (*before, key))


def put(value, place, item):
    """A copy of the value with something else at this place."""
    changed = copy.copy(value)
    changed[place[0]] = put(value[place[0]], place[1:], item) if place[1:] else item
    return changed


def user(text):
    return {"role": "user", "content": text}


def reply(text):
    return {"role": "assistant", "content": text}


A, B, Q = "images/a.png", "images/b.png", "How many?"


# layout: (record, its images, its question, its meta); the responses are "Two." and "Three."
PAIRS = {
    "MMPR": (
        {
            "image": A,
            "question": "<image>\nHow many?",
            "chosen": "Two.",
            "rejected": " Three.\n",
            "margin": 2,
        },
        [A],
        Q,
        {"margin": 2},
    ),
    "MMPR, several images": (
        {
            "image": [A, B],
            "question": "<image><image>Same?",
            "chosen": "Two.",
            "rejected": "Three.",
        },
        [A, B],
        "Same?",
        {},
    ),
    "MMPR, text only": ({"question": Q, "chosen": "Two.", "rejected": "Three."}, [], Q, {}),
    "MMPR, no image": (
        {"image": None, "video": None, "question": Q, "chosen": "Two.", "rejected": "Three."},
        [],
        Q,
        {},
    ),
    "MMPR, an empty image": (
        {"image": "", "question": Q, "chosen": "Two.", "rejected": "Three."},
        [],
        Q,
        {},
    ),
    "RLHF-V": (
        {
            "idx": 0,
            "image_path": A,
            "text": json.dumps({"question": Q, "chosen": "Two.", "rejected": "Three."}),
            "ds_name": "RLHF-V",
        },
        [A],
        Q,
        {"ds_name": "RLHF-V"},
    ),
    "RLHF-V, an object": (
        {"image": B, "text": {"question": Q, "chosen": "Two.", "rejected": "Three."}},
        [B],
        Q,
        {},
    ),
    "TRL": (
        {"images": [A, B], "prompt": "Same?", "chosen": "Two.", "rejected": "Three."},
        [A, B],
        "Same?",
        {},
    ),
    "VL-RLHF": ({"prompt": Q, "chosen": "Two.", "rejected": "Three.", "image": A}, [A], Q, {}),
    "TRL, conversational": (
        {
            "images": [A],
            "prompt": [user(Q)],
            "chosen": [reply("Two.")],
            "rejected": [reply("Three.")],
            "annotation": "gpt",
        },
        [A],
        Q,
        {"annotation": "gpt"},
    ),
    "TRL, parts": (
        {
            "images": [A, B],
            "prompt": [
                user(
                    [
                        {"type": "image", "text": None},
                        {"type": "image", "text": None},
                        {"type": "text", "text": "Same?"},
                    ]
                )
            ],
            "chosen": [reply([{"type": "text", "text": "Tw"}, {"type": "text", "text": "o."}])],
            "rejected": [reply([{"type": "text", "text": "Three."}])],
        },
        [A, B],
        "Same?",
        {},
    ),
    "TRL, image in a part": (
        {
            "prompt": [user([{"type": "text", "text": Q}, {"type": "image", "image": B}])],
            "chosen": "Two.",
            "rejected": "Three.",
        },
        [B],
        f"{Q}<image>",
        {},
    ),
    "TRL, implicit": (
        {"images": [A], "chosen": [user(Q), reply("Two.")], "rejected": [user(Q), reply("Three.")]},
        [A],
        Q,
        {},
    ),
    "TRL, prompt said again": (
        {
            "images": None,
            "prompt": Q,
            "chosen": [user(Q), reply("Two.")],
            "rejected": [user(Q), reply("Three.")],
        },
        [],
        Q,
        {},
    ),
    "LLaMA-Factory": (
        {
            "conversations": [{"from": "human", "value": "<image>How many?"}],
            "chosen": {"from": "gpt", "value": "Two."},
            "rejected": {"from": "gpt", "value": "Three."},
            "images": [A],
            "system": "",
        },
        [A],
        Q,
        {},
    ),
    "messages": (
        {
            "messages": [user("<image>How many?")],
            "chosen": reply("Two."),
            "rejected": reply("Three."),
            "images": [A],
        },
        [A],
        Q,
        {},
    ),
}


def embedded(value):
    """The same picture as parquet rows hold it."""
    if isinstance(value, list):
        return [embedded(item) for item in value]
    return {"bytes": png(640, 480), "path": value}


def read_any(path):
    """Examples of a file of questions or of pairs."""
    record = next(files.rows_of(path, ""))[2]
    record = record["text"] if isinstance(record.get("text"), dict) else record
    if "chosen" in record:
        return [pair.example for pair in pairs.read_pairs(path)]
    return tasks.read(path)


HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
