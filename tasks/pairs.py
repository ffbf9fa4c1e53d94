"""Read given preference pairs."""

import json
import os
import random
from pathlib import Path

from plumbing import text
from plumbing.errors import UserError
from tasks import image_fields, record_fields
from tasks.example import Example, Pair
from tasks.files import files_of, must_end, name_in, rows_of, split_name, tell_apart
from tasks.images import check_images, locate

# ---- preference pairs

PROMPT_KEYS = ("prompt", "conversations", "messages", *record_fields.QUESTION_KEYS)
PAIR_KEYS = "question (or prompt, or conversations), chosen and rejected"
ROLES = {"human": "user", "gpt": "assistant"}


def read_pairs(spec, image_folder=None):
    """A file or folder of preference pairs, in any layout of `to_pair` or by an MMPR meta file, to a list of Pair: those that it repeats, several times.

    In a folder that holds a meta.json, only this is read. image_folder: where relative image paths resolve, instead of beside their file.
    Raises UserError, naming file, line and remedy, for anything that would fail later: every image is looked at now.
    """
    if not os.path.exists(split_name(spec)[0]):
        raise UserError(
            f"{text.short(spec)}: no such file or folder; name a file of preference pairs"
        )
    if image_folder is not None and not os.path.isdir(image_folder):
        raise UserError(f"--image-folder {text.short(image_folder)}: no such folder")
    root = None if image_folder is None else Path(image_folder)
    files, rows, made = files_of(spec), [], {}
    for file in [f for f in files if f.name == "meta.json"] or files:
        for line, name, record in rows_of(file, PAIR_KEYS, name_in(spec, file)):
            is_set = isinstance(record, dict) and "annotation" in record and "chosen" not in record
            if is_set:
                rows += annotated(record, file, line, root)
            else:
                rows.append((record, file, line, root, name))
    for row in rows:
        if id(row[0]) not in made:  # a repeated record is made, and its images are looked at, once
            made[id(row[0])] = to_pair(*row)
    if not rows:
        raise UserError(
            f"{spec} holds no pair: its sets are sampled down to none; raise their repeat_time"
        )
    examples = [pair.example for pair in made.values()]
    names = {id(record): name for record, *_, name in rows}
    tell_apart(examples, [names[key] for key in made], spec)
    image_fields.say_without_pictures(examples, spec)
    check_images(examples)
    return [made[id(record)] for record, *_ in rows]


def annotated(record, file, line, root):
    """What `to_pair` is to be given for one set of an MMPR meta file, whole copies first.

    {"scienceqa": {"root": "MMPR/images/ScienceQA", "annotation": "MMPR/annotations/scienceqa.jsonl", "data_augment": false, "repeat_time": 1, "length": 12345}}
    `repeat_time` 2.5: all of it twice, then half of it, sampled by the set's name alone and left in order; 0.1: a tenth. root: --image-folder, in which the set's
    own folder is looked for first.
    """
    where, name = f"{file}:{line}: set {text.short(record.get('id'), 60)}", record.get("id")
    repeat, images = (
        record.get("repeat_time", 1),
        record_fields.text_of({"root": record.get("root") or None}, ["root"], where) or "",
    )
    if (
        isinstance(repeat, bool)
        or not isinstance(repeat, (int, float))
        or not 0 <= repeat <= record_fields.MOST_COPIES
    ):
        raise UserError(
            f"{where}: `repeat_time` must be a number, 1 for once, 0.5 for half of it, "
            f"at most {record_fields.MOST_COPIES}, found {text.short(repeat, 40)}; mend it"
        )
    annotation = near(record_fields.needed(record, "annotation", where), file)
    must_end(annotation)
    if not os.path.isfile(annotation):
        raise UserError(
            f"{where}: annotation {text.short(annotation)} does not exist, nor does it above {file.name}; fetch it, or delete the set"
        )
    folder = (
        near(images, file)
        if root is None
        else root / images
        if os.path.isdir(root / images)
        else root
    )
    found = rows_of(annotation, PAIR_KEYS, f"{name}/{annotation.name}")
    rows = [(row, annotation, place, folder, row_name) for place, row_name, row in found]
    if repeat > 1 and len(rows) * repeat > record_fields.MOST_PAIRS:
        raise UserError(
            f"{where}: {len(rows)} pairs with a `repeat_time` of {repeat} are more than "
            f"{record_fields.MOST_PAIRS}; lower it, and raise --num-train-epochs instead"
        )
    sample = random.Random(str(name)).sample(
        range(len(rows)), int(len(rows) * repeat) - len(rows) * int(repeat)
    )
    return rows * int(repeat) + [rows[n] for n in sorted(sample)]


def near(name, file):
    """What a meta file means by a path: one beside it, in the two folders above it (MMPR's begin with the name of its own), or from where one stands."""
    places = [
        folder / name for folder in (file.parent, *list(file.resolve().parent.parents)[:2], Path())
    ]
    return next((path for path in places if os.path.exists(path)), places[0])


def to_pair(record, file, line, root=None, name=None):
    """Pair from one record. A prompt is under one of PROMPT_KEYS, or is how both responses begin; prompt and responses are texts, turns or lists of turns (`turns_of`).

    {"image": "a.png", "question": "<image>\nHow many?", "chosen": "... Final answer: 7", "rejected": "... Final answer: 5"}              MMPR; no image: text only
    {"image_path": "a.png", "text": "{\"question\": \"How many?\", \"chosen\": \"Two.\", \"rejected\": \"Three.\"}"}                    RLHF-V; `text` may be an object
    {"images": ["a.png"], "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}],
     "chosen": [{"role": "assistant", "content": "Two."}], "rejected": [{"role": "assistant", "content": "Three."}]}                       TRL, conversational
    {"image": "a.png", "prompt": "How many?", "chosen": "Two.", "rejected": "Three."}                                                      TRL, standard; VL-RLHF
    {"chosen": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}], "rejected": [the same, another]}      TRL, implicit prompt
    {"conversations": [{"from": "human", "value": "<image>How many?"}], "chosen": {"from": "gpt", "value": "Two."},
     "rejected": {"from": "gpt", "value": "Three."}, "images": ["a.png"]}                                                                  LLaMA-Factory
    A pair has one question: longer conversations and system turns are refused, not cut. `answer` (MMPR's is `answer_gt`), if there, is kept.
    """
    where = f"{file}:{line}"
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: expected an object with {PAIR_KEYS}, found {type(record).__name__}"
        )
    if "text" in record and "chosen" not in record:
        inner = record["text"]
        try:
            inner = json.loads(inner) if isinstance(inner, str) else inner
        except (ValueError, RecursionError):
            inner = None
        if not isinstance(inner, dict):
            raise UserError(
                f"{where}: `text` must be an object with question, chosen and rejected, or one as JSON; mend or delete the record"
            )
        record = {**record_fields.without(record, "text"), **inner}
    if not {"chosen", "rejected"} <= record.keys():
        raise UserError(
            f"{where}: no pair; expected {PAIR_KEYS}, found {', '.join(map(str, record)) or 'nothing'}"
        )
    if record.get("video"):
        raise UserError(
            f"{where}: the pair is about a video, and only images can be read; delete the record"
        )
    key = next((key for key in PROMPT_KEYS if record.get(key) is not None), None)
    replies = {
        name: turns_of(record[name], "assistant", name, where) for name in ("chosen", "rejected")
    }
    begun = [turns_of(record[key], "user", key, where)] if key else []
    begun += [
        turns[:-1] for turns in replies.values() if len(turns) > 1 or not key
    ]  # how the responses begin
    if not all(begun):
        raise UserError(
            f"{where}: no prompt; expected `question`, `prompt` or `conversations`, or that chosen and rejected begin with it"
        )
    if any(turns != begun[0] for turns in begun):
        raise UserError(
            f"{where}: chosen and rejected do not answer the same prompt; mend or delete the record"
        )
    spoken = ["system"] * bool(record.get("system")) + [role for role, *_ in begun[0]]
    if spoken != ["user"] or any(turns[-1][0] != "assistant" for turns in replies.values()):
        raise UserError(
            f"{where}: a pair must be one turn from user (or human) and two replies from assistant (or gpt), found a prompt of {text.short(', '.join(spoken), 60)} "
            f"and replies of {text.short(', '.join(turns[-1][0] for turns in replies.values()), 60)}; a system prompt is given by --system-prompt; delete longer "
            "conversations"
        )
    chosen, rejected = (turns[-1][1].strip() for turns in replies.values())
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are the same text; delete the record")
    _, question, embedded = begun[0][0]
    # MMPR writes "" for no picture.
    named = {key: record.get(key) for key in record_fields.IMAGE_KEYS}
    images = image_fields.pictures_of({**named, "image": named["image"] or None}, where)
    if images and embedded and not image_fields.same_pictures(images, embedded):
        raise UserError(
            f"{where}: the prompt holds other pictures than the record names; "
            "delete those that are not meant"
        )
    images = images or embedded
    spoken = [
        turn for name in (key, *replies) if name for turn in image_fields.as_list(record[name])
    ]
    image_fields.must_see(
        record_fields.without(record, *record_fields.IMAGE_KEYS, key, *replies),
        spoken,
        images,
        where,
    )
    image_fields.must_match_marks([question], len(images), where)
    question = record_fields.needed(
        {"question": question.replace("<image>", "").strip()}, "question", where
    )
    given = record_fields.label_of(record, "id", where) or record_fields.label_of(
        record, "idx", where
    )
    name = given or name or f"{file.name}:{line}"
    answer = next(
        (
            str(record[key]).strip()
            for key in (*record_fields.ANSWER_KEYS, "answer_gt")
            if isinstance(record.get(key), (str, int, float))
        ),
        "",
    )
    record_fields.must_be_whole(answer, "answer", where)
    meta = record_fields.without(
        record,
        *record_fields.IMAGE_KEYS,
        *PROMPT_KEYS,
        *record_fields.ANSWER_KEYS,
        "answer_gt",
        "chosen",
        "rejected",
        "choices",
        "id",
        "idx",
        "task",
        "video",
        "system",
    )
    meta["prompt_template"] = "none"  # the responses answer this prompt as it stands
    example = Example(
        name,
        [locate(image, file, where, record_fields.USUAL_FOLDERS, root) for image in images],
        question,
        answer,
        choices=record_fields.choices_of(record, where),
        task=record_fields.label_of(record, "task", where),
        meta=record_fields.carried(meta, where),
        source=where,
    )
    return Pair(example, chosen, rejected)


def turns_of(value, role, key, where):
    """[(role, text, images)] of what is under this key: a text of this role, a turn, or a list of turns, {"role", "content"} (TRL) or {"from", "value"} (LLaMA-Factory).

    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}  ->  [("user", "<image>How many?", [])]; a part may embed its image
    """
    turns = []
    for turn in (
        value
        if isinstance(value, list)
        else [value if isinstance(value, dict) else {"role": role, "content": value}]
    ):
        speaker = turn.get("role") or turn.get("from") if isinstance(turn, dict) else None
        if not isinstance(speaker, str):
            raise UserError(
                f"{where}: `{key}` must be a text or a list of turns, each with `role` and `content` (or `from` and `value`), found {text.short(turn, 60)}; mend it"
            )
        speaker, images = ROLES.get(speaker, speaker), []
        content = next(
            (turn[name] for name in ("content", "value") if turn.get(name) is not None), None
        )
        if isinstance(content, list):
            kinds = [
                part.get("type") if isinstance(part, dict) else type(part).__name__
                for part in content
            ]
            known = ["text"] if speaker == "assistant" else ["text", "image"]
            if not all(kind in known for kind in kinds):  # a list: a kind may be anything
                raise UserError(
                    f"{where}: `{key}` holds {', '.join(text.short(kind, 20) for kind in kinds[:5])}; a reply is made of text, a prompt of text and images; delete the record"
                )
            images = [
                part["image"]
                for kind, part in zip(kinds, content)
                if kind == "image" and part.get("image") is not None
            ]
            content = "".join(
                "<image>"
                if kind == "image"
                else record_fields.needed({key: part.get("text")}, key, where)
                for kind, part in zip(kinds, content)
            )
        turns.append((speaker, record_fields.needed({key: content}, key, where), images))
    if not turns:
        raise UserError(f"{where}: `{key}` is empty; fill it in or delete the record")
    return turns
