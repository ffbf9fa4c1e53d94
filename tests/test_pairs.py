"""Run: python -m pytest -q tests/test_pairs.py        (a few seconds; no network)

Preference pairs of every layout, and MMPR's meta files.
"""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from samples import (
    BESIDE,
    ODD,
    PAIRS,
    A,
    B,
    Q,
    bad_images,
    places_in,
    png,
    put,
    refusal,
    reply,
    turns,
    user,
    write,
)

from data import Asker
from lengths import fitting_pairs
from plumbing.errors import UserError
from tasks import pairs
from tasks.example import Example, Pair
from tasks.images import open_images
from tasks.prompts import question_text

# --- ids ---


def test_ids_of_pairs(mmpr):
    """Two sets of a meta file may have annotations of one name; a repeated record is one pair."""
    home = mmpr(a=2, b=1).parent
    (home / "annotations" / "b").mkdir()
    (home / "annotations" / "b.jsonl").rename(home / "annotations" / "b" / "a.jsonl")
    meta = json.loads((home / "meta.json").read_text())
    meta["b"]["annotation"] = "MMPR-v1.2/annotations/b/a.jsonl"
    (home / "meta.json").write_text(json.dumps(meta))
    ids = [pair.example.id for pair in pairs.read_pairs(home)]
    assert ids[:10] == ids[10:20] == [f"a/a.jsonl:{n}" for n in range(1, 11)]
    assert ids[20:] == [f"b/a.jsonl:{n}" for n in range(1, 4)]
    pair = {"question": "q", "chosen": "yes", "rejected": "no"}
    (home / "x.json").write_text(json.dumps([pair] * 3))
    got = [pair.example for pair in pairs.read_pairs(home / "x.json")]
    assert [(e.id, e.source.rpartition(":")[2]) for e in got] == [
        (f"x.json#{n}", f"1#{n}") for n in (1, 2, 3)
    ]


# --- pictures too large, and what is no picture ---


def test_an_annotation_that_may_never_end(mmpr, soon):
    path = mmpr(a=1, b=1)
    (path.parent / "annotations" / "a.jsonl").unlink()
    os.mkfifo(path.parent / "annotations" / "a.jsonl")
    assert "a.jsonl cannot be read (it is a pipe" in refusal(pairs.read_pairs, path)


# --- odd values everywhere ---


PAIR_SAMPLES = [
    {"image": "images/a.png", "question": "<image>q", "chosen": "yes", "rejected": "no"},
    {"text": {"question": "q", "chosen": "yes", "rejected": "no"}},
    {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}]}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "no"}]}],
    },
    {
        "messages": [user("q"), {**reply("yes"), "reasoning_content": "so"}],
        "rejected_response": "no",
        "history": [["p", "no"]],
        "rejected_images": None,
    },
    {"instruction": "q", "input": "r", "chosen": "yes", "rejected": "no"},
]


@pytest.mark.parametrize("number", range(len(PAIR_SAMPLES)))
def test_odd_values_in_pairs_are_read_or_refused_but_nothing_else(tiny, folder, number):
    sample, path, counts = PAIR_SAMPLES[number], folder / "set.jsonl", Counter()
    for place in [*places_in(sample), *((key,) for key in (*BESIDE, "system", "video"))]:
        for odd in ODD:
            write(folder, [put(sample, place, odd)])
            try:
                fitting_pairs(Asker(tiny[1], "none"), pairs.read_pairs(path))
                counts["read"] += 1
            except UserError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                counts["refused"] += 1
    assert counts["read"] > 20 and counts["refused"] > 20


# --- preference pairs ---


@pytest.mark.parametrize("layout", PAIRS)
def test_pairs_of_every_layout(folder, layout):
    record, images, question, meta = PAIRS[layout]
    path = write(folder, [record])
    [pair] = pairs.read_pairs(path)
    name = str(record.get("idx", "set.jsonl:1"))
    assert pair == Pair(
        Example(
            name,
            [folder / image for image in images],
            question,
            "",
            None,
            None,
            None,
            {**meta, "prompt_template": "none"},
            f"{path}:1",
        ),
        "Two.",
        "Three.",
    )
    assert question_text(pair.example, "think") == question  # a given prompt is whole


@pytest.mark.parametrize("name", ["set.json", "set.jsonl", "set.parquet"])
def test_pairs_in_every_format_and_order(folder, name):
    records = [
        {
            "id": n,
            "image": A,
            "question": f"q{n}",
            "chosen": f"right {n}",
            "rejected": f"wrong {n}",
            "answer_gt": n,
        }
        for n in (3, 1, 2)
    ]
    path = write(folder, records, name)
    got = pairs.read_pairs(path)
    lines = [2, 10, 18] if name == "set.json" else [1, 2, 3]
    assert [
        (p.example.id, p.example.question, p.example.answer, p.chosen, p.rejected, p.example.source)
        for p in got
    ] == [
        (str(n), f"q{n}", str(n), f"right {n}", f"wrong {n}", f"{path}:{line}")
        for n, line in zip((3, 1, 2), lines)
    ]


def test_pairs_of_a_parquet_snapshot(tmp_path):
    """TRL's columns as the Hub has them: shards, embedded bytes, and every part with every key."""

    def row(n, color):
        return {
            "images": [{"bytes": png(color=color), "path": None}],
            "prompt": [user([{"type": "image", "text": None}, {"type": "text", "text": f"q{n}"}])],
            "chosen": [reply([{"type": "text", "text": "Two."}])],
            "rejected": [reply([{"type": "text", "text": "Three."}])],
        }

    write(tmp_path, [row(0, "red")], "train-00000-of-00002.parquet")
    write(tmp_path, [row(1, "lime")], "train-00001-of-00002.parquet")
    write(tmp_path, [row(2, "blue")], "test-00000-of-00001.parquet")
    train, test = pairs.read_pairs(tmp_path), pairs.read_pairs(f"{tmp_path}:test")
    assert [(p.example.question, p.chosen, p.rejected) for p in train + test] == [
        (f"q{n}", "Two.", "Three.") for n in range(3)
    ]
    assert [open_images(p.example)[0].getpixel((5, 5)) for p in train + test] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]


def test_pair_images_beside_the_file_in_a_usual_folder_or_in_one_named_apart(folder):
    def pair(image):
        return [{"image": image, "question": Q, "chosen": "Two.", "rejected": "Three."}]

    [usual] = pairs.read_pairs(write(folder, pair("a.png")))
    assert usual.example.images == [folder / "images" / "a.png"]
    other = folder / "other"
    other.mkdir()
    (other / "a.png").write_bytes(png(color="lime"))
    [apart] = pairs.read_pairs(write(folder, pair("a.png")), image_folder=str(other))
    assert apart.example.images == [other / "a.png"]
    text = refusal(
        pairs.read_pairs, write(folder, pair("b.png")), image_folder=other
    )  # it is in images/, which is not asked for
    assert (
        text.startswith(f"{folder / 'set.jsonl'}:1: ")
        and "b.png does not exist" in text
        and f"relative paths resolve in {other}" in text
    )
    assert "--image-folder nowhere: no such folder" in refusal(
        pairs.read_pairs, folder / "set.jsonl", image_folder="nowhere"
    )


# --- MMPR's meta file ---


@pytest.fixture
def mmpr(tmp_path):
    """MMPR's tree: meta(repeat_time of "a", of "b") writes its meta.json and returns its path.

    The paths in it begin with the name of its own folder.
    """
    home = tmp_path / "MMPR-v1.2"
    for name, color in (("a", "red"), ("b", "blue")):
        (home / "images" / name).mkdir(parents=True)
        (home / "images" / name / "1.png").write_bytes(png(color=color))
    (home / "annotations").mkdir()
    for name, count in (("a", 10), ("b", 3)):
        write(
            home / "annotations",
            [
                {
                    "image": "1.png",
                    "question": f"<image>\n{name}{n}",
                    "chosen": "yes",
                    "rejected": "no",
                }
                for n in range(count)
            ],
            f"{name}.jsonl",
        )

    def meta(**times):
        def entry(name, times):
            return {
                "root": f"MMPR-v1.2/images/{name}",
                "annotation": f"MMPR-v1.2/annotations/{name}.jsonl",
                "data_augment": False,
                "repeat_time": times,
                "length": 10,
            }

        (home / "meta.json").write_text(
            json.dumps({name: entry(name, n) for name, n in times.items()}, indent=1)
        )
        return home / "meta.json"

    return meta


def test_an_mmpr_meta_file(mmpr, monkeypatch):
    path = mmpr(b=1, a=1)
    for spec in (
        path,
        path.parent,
    ):  # of a folder, what its meta.json says: not the annotations a second time
        got = pairs.read_pairs(spec)
        assert [p.example.question for p in got] == [f"b{n}" for n in range(3)] + [
            f"a{n}" for n in range(10)
        ]
        assert [open_images(got[n].example)[0].getpixel((0, 0)) for n in (0, 3)] == [
            (0, 0, 255),
            (255, 0, 0),
        ]
        assert Path(got[4].example.source.rpartition(":")[0]).samefile(
            path.parent / "annotations" / "a.jsonl"
        ) and got[4].example.source.endswith(":2")
    monkeypatch.chdir(path.parent)
    assert len(pairs.read_pairs("meta.json")) == 13


@pytest.mark.parametrize(
    "times, copies, sampled",
    [(0, 0, 0), (0.3, 0, 3), (0.05, 0, 0), (1, 1, 0), (1.0, 1, 0), (2, 2, 0), (2.3, 2, 3)],
)
def test_repeat_time(mmpr, times, copies, sampled):
    path = mmpr(a=times, b=1)
    numbers = [
        int(p.example.question[1:]) for p in pairs.read_pairs(path) if p.example.question[0] == "a"
    ]
    assert numbers[: 10 * copies] == list(range(10)) * copies
    rest = numbers[10 * copies :]
    assert len(rest) == len(set(rest)) == sampled and rest == sorted(rest)
    random.seed(7)
    assert [p.example.question for p in pairs.read_pairs(path)][: len(numbers)] == [
        f"a{n}" for n in numbers
    ]  # the set's name decides alone
    assert rest == sorted(random.Random("a").sample(range(10), sampled))


def test_a_repeated_record_is_one_pair(mmpr):
    got = pairs.read_pairs(mmpr(b=2))
    assert got[0] is got[3] and len({id(p) for p in got}) == 3


def test_records_that_are_not_sampled_need_no_image(mmpr):
    path = mmpr(a=0.3)
    chosen = random.Random("a").sample(range(10), 3)
    records = [
        {
            "image": "1.png" if n in chosen else "gone.png",
            "question": "q",
            "chosen": "yes",
            "rejected": "no",
        }
        for n in range(10)
    ]
    write(path.parent / "annotations", records, "a.jsonl")
    assert len(pairs.read_pairs(path)) == 3
    assert "gone.png does not exist" in refusal(pairs.read_pairs, mmpr(a=1))


def test_an_mmpr_meta_file_with_its_images_elsewhere(mmpr, tmp_path):
    path = mmpr(a=1)
    elsewhere = tmp_path / "disk"
    (path.parent / "images").rename(elsewhere)
    text = refusal(pairs.read_pairs, path)
    assert "a.jsonl:1: image" in text and "1.png does not exist" in text
    assert pairs.read_pairs(path, elsewhere / "a")[0].example.images == [
        elsewhere / "a" / "1.png"
    ]  # in place of the set's folder
    nested = tmp_path / "mount"
    (nested / "MMPR-v1.2" / "images").mkdir(parents=True)
    (elsewhere / "a").rename(nested / "MMPR-v1.2" / "images" / "a")
    assert pairs.read_pairs(path, nested)[0].example.images == [
        nested / "MMPR-v1.2/images/a/1.png"
    ]  # before it


BAD_META = {  # (what the set "a" says otherwise, what the message must say)
    "annotation nowhere": (
        {"annotation": "gone.jsonl"},
        ["set a: annotation", "gone.jsonl does not exist", "fetch it, or delete the set"],
    ),
    "annotation a number": ({"annotation": 5}, ["set a: `annotation` must be str"]),
    "root a number": ({"root": 5}, ["set a: `root` must be str"]),
    "a text for a number": ({"repeat_time": "2"}, ["set a: `repeat_time` must be a number"]),
    "true for a number": ({"repeat_time": True}, ["`repeat_time` must be a number"]),
    "less than nothing": ({"repeat_time": -1}, ["`repeat_time` must be a number"]),
    "no number": ({"repeat_time": float("nan")}, ["`repeat_time` must be a number"]),
    "nearly a million times": (
        {"repeat_time": 900_000},
        ["`repeat_time` must be a number", "at most 1000", "found 900000"],
    ),
    "an annotation of 5,000 characters": (
        {"annotation": "x" * 5000},
        ["set a: annotation", "does not exist"],
    ),
    "an annotation with a NUL": (
        {"annotation": "a\0.jsonl"},
        ["set a: annotation", "does not exist"],
    ),
    "an annotation a folder": (
        {"annotation": "annotations"},
        ["set a: annotation", "does not exist"],
    ),
}


@pytest.mark.parametrize("fault", BAD_META)
def test_bad_meta_files(mmpr, fault):
    change, expected = BAD_META[fault]
    path = mmpr(b=1, a=1)
    path.write_text(
        json.dumps(
            {
                name: {**entry, **(change if name == "a" else {})}
                for name, entry in json.loads(path.read_text()).items()
            },
            indent=1,
        )
    )
    text = refusal(pairs.read_pairs, path)
    assert text.startswith(f"{path}:9: ") and all(words in text for words in expected), text


def test_a_meta_file_that_comes_to_nothing(mmpr):
    assert "raise their repeat_time" in refusal(pairs.read_pairs, mmpr(b=0.1))


# --- refusals ---


PAIR = {"question": "q", "chosen": "yes", "rejected": "no"}
SYSTEM = {"role": "system", "content": "Be brief."}


BAD_PAIRS = {  # name: (record, what the message must say)
    "missing image": (
        {**PAIR, "image": "gone.png"},
        ["gone.png does not exist, nor in images", "relative paths resolve beside set.jsonl"],
    ),
    "one image of two missing": ({**PAIR, "image": [A, "gone.png"]}, ["gone.png does not exist"]),
    "broken image": (
        {**PAIR, "image": "images/cut.png"},
        ["cut.png cannot be opened", "replace the file or delete the record"],
    ),
    "image of the wrong type": ({**PAIR, "image": 3}, ["an image must be a path", "found int"]),
    "the same text": (
        {**PAIR, "rejected": " yes\n"},
        ["chosen and rejected are the same text", "delete the record"],
    ),
    "empty chosen": ({**PAIR, "chosen": " "}, ["`chosen` is empty", "fill it in"]),
    "empty rejected": ({**PAIR, "rejected": ""}, ["`rejected` is empty"]),
    "null chosen": ({**PAIR, "chosen": None}, ["`chosen` is null"]),
    "no turn": ({**PAIR, "chosen": []}, ["`chosen` is empty"]),
    "chosen a number": ({**PAIR, "chosen": 5}, ["`chosen` must be str", "found int"]),
    "rejected of texts": (
        {**PAIR, "rejected": ["no", "never"]},
        ["`rejected` must be a text or a list of turns", "found no"],
    ),
    "a part whose type is a list": (
        {**PAIR, "question": [{"role": "user", "content": [{"type": ["text"], "text": "q"}]}]},
        ["`question` holds ['text']", "delete the record"],
    ),
    "a part whose type is an object": (
        {**PAIR, "chosen": [{"role": "assistant", "content": [{"type": {}, "text": "q"}]}]},
        ["`chosen` holds {}", "delete the record"],
    ),
    "half a surrogate pair": ({**PAIR, "rejected": "cut \ud83d"}, ["`rejected`", "surrogate"]),
    "question a number": ({**PAIR, "question": 5}, ["`question` must be str"]),
    "no rejected": (
        {"question": "q", "chosen": "yes"},
        ["no pair", "chosen and rejected", "found question, chosen"],
    ),
    "a question and its answer": (
        {"question": "q", "answer": "a"},
        ["no pair", "found question, answer"],
    ),
    "nothing": ({}, ["no pair", "found nothing"]),
    "not an object": ([1, 2], ["expected an object with question", "found list"]),
    "no prompt": (
        {"chosen": "yes", "rejected": "no"},
        ["no prompt", "`question`, `prompt` or `conversations`"],
    ),
    "only an image for a prompt": (
        {**PAIR, "question": "<image>", "image": A},
        ["`question` is empty"],
    ),
    "a video": ({**PAIR, "video": "a.mp4"}, ["about a video", "only images", "delete the record"]),
    "a video in a part": (
        {
            **PAIR,
            "question": None,
            "prompt": [user([{"type": "video"}, {"type": "text", "text": "q"}])],
        },
        ["`prompt` holds video, text"],
    ),
    "an image in a reply": (
        {**PAIR, "chosen": [reply([{"type": "image"}, {"type": "text", "text": "q"}])]},
        ["`chosen` holds image, text", "a reply is made of text"],
    ),
    "a part that is empty": (
        {**PAIR, "chosen": [reply([{"type": "text", "text": None}])]},
        ["`chosen` is null"],
    ),
    "more marks than images": (
        {**PAIR, "question": "<image><image>q", "image": A},
        ["2 <image> in the question, but 1 images"],
    ),
    "a mark without an image": (
        {**PAIR, "question": "<image>q"},
        ["1 <image> in the question, but 0 images"],
    ),
    "RLHF-V, broken JSON": (
        {"image": A, "text": "{"},
        ["`text` must be an object with question, chosen and rejected", "fix"],
    ),
    "RLHF-V, a list": ({"image": A, "text": "[1]"}, ["`text` must be an object"]),
    "RLHF-V, no chosen": (
        {"image": A, "text": {"question": "q", "rejected": "no"}},
        ["no pair", "found image, question, rejected"],
    ),
    "two prompts": (
        {"chosen": [user("q"), reply("yes")], "rejected": [user("r"), reply("no")]},
        ["do not answer the same prompt"],
    ),
    "a prompt and another": (
        {**PAIR, "chosen": [user("r"), reply("yes")]},
        ["do not answer the same prompt"],
    ),
    "one implicit prompt": (
        {"chosen": [user("q"), reply("yes")], "rejected": [reply("no")]},
        ["no prompt"],
    ),
    "turns that end with an answer": (
        {"conversations": turns("q", "a")["conversations"], "chosen": "yes", "rejected": "no"},
        ["the last are the user's", "found a prompt of user, assistant"],
    ),
    "turns that begin with an answer": (
        {**PAIR, "question": None, "prompt": [reply("a"), user("q")]},
        ["the first, but for a system turn", "found a prompt of assistant, user"],
    ),
    "a system turn in the middle": (
        {**PAIR, "question": None, "prompt": [user("q"), SYSTEM, user("r")]},
        ["found a prompt of user, system, user"],
    ),
    "a system turn alone": (
        {**PAIR, "question": None, "prompt": [SYSTEM]},
        ["found a prompt of system"],
    ),
    "a turn of a tool": (
        {**PAIR, "question": None, "prompt": [user("q"), {"role": "tool", "content": "4"}]},
        ["`prompt` has a turn from tool"],
    ),
    "two system turns that differ": (
        {**PAIR, "question": None, "system": "Be kind.", "prompt": [SYSTEM, user("q")]},
        ["`system` is not the system turn", "delete one of them"],
    ),
    "an image in a system turn": (
        {
            **PAIR,
            "question": None,
            "image": A,
            "prompt": [{"role": "system", "content": [{"type": "image"}]}, user("q")],
        },
        ["`prompt` holds image"],
    ),
    "a system key that is no text": ({**PAIR, "system": ["Be kind."]}, ["`system` must be str"]),
    "fewer marks than images in all turns": (
        {
            **PAIR,
            "question": None,
            "images": [A, B],
            "prompt": [user("q"), reply("a"), user("is <image> red?")],
        },
        ["1 <image> in the question, but 2 images"],
    ),
    "a prompt from gpt": (
        {**PAIR, "question": None, "prompt": [reply("q")]},
        ["found a prompt of assistant"],
    ),
    "a reply from human": (
        {**PAIR, "rejected": {"from": "human", "value": "no"}},
        ["replies of assistant, user"],
    ),
    "a turn without a role": (
        {**PAIR, "chosen": [{"content": "yes"}]},
        ["`chosen` must be a text or a list of turns"],
    ),
}


@pytest.mark.parametrize("fault", BAD_PAIRS)
def test_bad_pairs_are_refused_with_file_line_and_remedy(folder, fault):
    record, expected = BAD_PAIRS[fault]
    bad_images(folder)
    path = write(folder, [PAIR, {**PAIR, "image": A}, record, PAIR])
    text = refusal(pairs.read_pairs, path)
    assert text.startswith(f"{path}:3: ") and all(words in text for words in expected), text


def test_bad_files_of_pairs(tmp_path):
    assert "none.jsonl: no such file" in refusal(pairs.read_pairs, "none.jsonl")
    (tmp_path / "x.csv").write_text("a,b")
    assert "only .json, .jsonl, .parquet" in refusal(pairs.read_pairs, tmp_path / "x.csv")
    (tmp_path / "x.jsonl").write_text("\n")
    assert (
        "holds no record; expected objects with question (or prompt, or conversations), "
        "chosen and rejected" in refusal(pairs.read_pairs, tmp_path / "x.jsonl")
    )
    (tmp_path / "x.jsonl").write_text(json.dumps(PAIR) + "\n{")
    assert refusal(pairs.read_pairs, tmp_path / "x.jsonl").startswith(
        f"{tmp_path / 'x.jsonl'}:2: broken JSON"
    )
