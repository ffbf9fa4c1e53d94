"""Read given preference pairs: MMPR's, RLHF-V's, TRL's, VL-RLHF's, LLaMA-Factory's, ms-swift's."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.text import short
from tasks import (
    folders,
    gold_keys,
    hub,
    image_fields,
    json_records,
    marks,
    placeholders,
    record_fields,
    turns,
)
from tasks.example import Example, Pair, Turn
from tasks.files import must_end, no_such, rows_of, tell_apart
from tasks.images import check_images, keep_embedded, locate
from tasks.option_texts import with_choices
from tasks.stored import Store

PROMPT_KEYS = ("prompt", "conversations", "messages", *record_fields.QUESTION_KEYS)
REPLIES = ("chosen", "rejected")
OTHER_KEYS = ("choices", "id", "idx", "task", "video", "system", "history", "boxes")
SWIFT_KEYS = ("rejected_response", "rejected_messages")  # ms-swift's
PAIR_KEYS = "question (or prompt, or conversations), chosen and rejected"
IS_PAIR = "a preference pair without a gold answer: train_dpo.py --pairs learns from such records"
MOST_COPIES = 1000  # of a set with its repeat_time
MOST_PAIRS = 10_000_000  # of such a set


def read_pairs(spec: str, image_folder: str | None = None, bad: BadRecords = REFUSE) -> list[Pair]:
    """Read preference pairs from a file, a folder, a set of the hub or MMPR's meta file.

    In a folder that holds a meta.json, only this is read.
    image_folder: where relative image paths resolve, instead of beside their file.
    bad: what happens to records that cannot be used.
    UserError, naming file, line and remedy, for anything that would fail later.
    """
    must_exist(spec)
    if image_folder is not None and not os.path.isdir(image_folder):
        raise UserError(f"--image-folder {short(image_folder)}: no such folder")
    made, repeats = {}, []  # a repeated record is one pair, whose images are checked once
    store = Store()
    for record, file, line, root, name in rows_of_pairs(spec, image_folder, bad):
        key = (name, file, line, root)
        repeats.append(key)
        if key not in made:
            made[key] = None
            with bad.checking(f"{file}:{line}", name):
                pair = to_pair(record, file, line, root, name)
                keep_embedded(pair.example, store)
                made[key] = (pair, name)
    if not repeats and not bad.found:
        raise UserError(
            f"{spec} holds no pair: its sets are sampled down to none; raise their repeat_time"
        )
    found = [each for each in made.values() if each]
    bad.must_leave(found)
    examples = [pair.example for pair, _ in found]
    tell_apart(examples, [name for _, name in found], spec)
    image_fields.say_without_pictures(examples, spec)
    good = {id(example) for example in check_images(examples, bad=bad)}
    pairs = [made[key][0] for key in repeats if made[key]]
    return [pair for pair in pairs if id(pair.example) in good]


def must_exist(spec: str) -> None:
    """Raise UserError unless --pairs names a file, a folder, or perhaps a set of the hub."""
    name, _ = folders.split_name(spec)
    if not os.path.exists(name) and not hub.is_name(name):
        raise UserError(
            f"--pairs {short(spec)}: {no_such(spec)}; name a file of preference pairs "
            "(docs/data.md)"
        )


def rows_of_pairs(spec: str, image_folder: str | None, bad: BadRecords) -> Iterator[tuple]:
    """Yield what `to_pair` is given for each pair: (record, file, line, root, name)."""
    root = None if image_folder is None else Path(image_folder)
    for file, line, name, record in rows_of_files(spec, bad):
        if is_set(record):
            yield from annotated(record, file, line, root, bad)
        else:
            yield record, file, line, root, name


def rows_of_files(spec: str, bad: BadRecords) -> Iterator[tuple]:
    """Yield (file, line, name, record) of all records; in a folder of MMPR's meta.json only its."""
    metas = sorted(Path(spec).rglob("meta.json")) if os.path.isdir(spec) else []
    for meta in metas:
        for line, name, record in rows_of(meta, PAIR_KEYS, folders.name_in(spec, meta), bad):
            yield meta, line, name, record
    if not metas:
        yield from folders.rows_in(spec, PAIR_KEYS, training=True, bad=bad)


# --- MMPR's meta file ---


def annotated(
    record: dict, file: Path, line: Any, root: Path | None, bad: BadRecords = REFUSE
) -> list[tuple]:
    """List the rows of one set of a meta file, whole copies first.

    A `repeat_time` of 2.5 is all of it twice, then half of it, sampled by the set's name alone.
    root: --image-folder, in which the set's own folder is looked for first.

        {"scienceqa": {"root": "MMPR/images/ScienceQA", "data_augment": false, "repeat_time": 1,
                       "annotation": "MMPR/annotations/scienceqa.jsonl", "length": 12345}}
    """
    name = record.get("id")
    where = f"{file}:{line}: set {short(name, 60)}"
    repeat = record.get("repeat_time", 1)
    is_number = isinstance(repeat, (int, float)) and not isinstance(repeat, bool)
    images = record_fields.text_of({"root": record.get("root") or None}, ["root"], where) or ""
    if not is_number or not 0 <= repeat <= MOST_COPIES:
        raise UserError(
            f"{where}: `repeat_time` must be a number, 1 for once, 0.5 for half of it, "
            f"at most {MOST_COPIES}, found {short(repeat, 40)}; fix it"
        )
    annotation = near(record_fields.needed(record, "annotation", where), file)
    must_end(annotation)
    if not os.path.isfile(annotation):
        raise UserError(
            f"{where}: annotation {short(annotation)} does not exist, "
            f"nor does it above {file.name}; fetch it, or delete the set"
        )
    if root is None:
        folder = near(images, file)
    else:
        folder = root / images if os.path.isdir(root / images) else root
    places = rows_of(annotation, PAIR_KEYS, f"{name}/{annotation.name}", bad)
    rows = [(row, annotation, place, folder, row_name) for place, row_name, row in places]
    if repeat > 1 and len(rows) * repeat > MOST_PAIRS:
        raise UserError(
            f"{where}: {len(rows)} pairs with a `repeat_time` of {repeat} are more than "
            f"{MOST_PAIRS}; lower it, and raise --num-train-epochs instead"
        )
    rest = int(len(rows) * repeat) - len(rows) * int(repeat)
    sample = random.Random(str(name)).sample(range(len(rows)), rest)
    return rows * int(repeat) + [rows[n] for n in sorted(sample)]


def near(name: str, file: Path) -> Path:
    """Find a path beside a meta file, in two folders above, or here.

    MMPR's paths begin with the name of its own folder.
    """
    folders = (file.parent, *list(file.resolve().parent.parents)[:2], Path())
    places = [folder / name for folder in folders]
    return next((path for path in places if os.path.exists(path)), places[0])


# --- one pair ---


def is_set(record: Any) -> bool:
    """Tell by its keys whether a record is a set of MMPR's meta file."""
    return isinstance(record, dict) and "annotation" in record and "chosen" not in record


def to_pair(
    record: Any, file: Path, line: Any, root: Path | None = None, name: str | None = None
) -> Pair:
    """Make a Pair of one record of texts, turns or lists of turns.

    Chosen and rejected answer the last question; what was said before is its history.

        {"image": "a.png", "question": "<image>\\nHow many?", "chosen": "7", "rejected": "5"}  MMPR
        {"image_path": "a.png", "text": "{\\"question\\": ..., \\"chosen\\": ..., ...}"}  RLHF-V
        {"images": ["a.png"], "prompt": [turn], "chosen": [turn], "rejected": [turn]}  TRL
        {"chosen": [turn, turn], "rejected": [the same turn, another]}  TRL, implicit prompt
        {"conversations": [turn], "chosen": turn, "rejected": turn, ...}  LLaMA-Factory
        {"messages": [turn, turn], "rejected_response": "5", ...}  ms-swift
    """
    where = f"{file}:{line}"
    record = image_fields.gathered(unpacked(record, where), where)
    key = next((key for key in PROMPT_KEYS if record.get(key) is not None), None)
    replies = [turns_of(record[reply], "assistant", reply, where) for reply in REPLIES]
    asked, embedded = prompt_of(record, key, replies, where)
    chosen, rejected = (said[-1].text.strip() for said, _ in replies)
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are the same text; delete the record")
    said = asked.pop(0).text if asked[0].role == "system" else None
    system = turns.system_of(record, said, where)
    turns.must_ask(record, [asked[-1].text], where)
    turns.must_need_no_tools(record, where)
    asked = turns.history_of(turns.earlier(record, where))[0] + asked
    images = images_of_pair(record, key, embedded, where)
    placeholders.must_be_filled([*(turn.text for turn in asked), chosen, rejected], where)
    *history, last = asked
    answer, choices = answer_of(record, where), record_fields.choices_of(record, where)
    question = with_choices(last.text, choices, answer)
    history, question, images = marks.placed(history, question, images, where)
    image_fields.must_have_no_number(record, images, where)
    question = record_fields.needed({"question": question}, "question", where)
    given = record_fields.label_of(record, "id", where) or record_fields.label_of(
        record, "idx", where
    )
    meta = record_fields.without(
        record, *record_fields.IMAGE_KEYS, *PROMPT_KEYS, *gold_keys.OF_PAIRS, *REPLIES, *OTHER_KEYS
    )
    meta["prompt_template"] = "none"  # the responses answer this prompt as it stands
    example = Example(
        id=given or name or f"{file.name}:{line}",
        images=[locate(i, file, where, record_fields.USUAL_FOLDERS, root) for i in images],
        question=question,
        answer=answer,
        choices=choices,
        task=record_fields.label_of(record, "task", where),
        meta=record_fields.carried(meta, where),
        source=where,
        history=history,
        system=system,
    )
    return Pair(example, chosen, rejected)


def is_pair(record: Any) -> bool:
    """Tell by its keys whether a record is a preference pair, in any layout."""
    if not isinstance(record, dict):
        return False
    record = {**record, **(opened_text(record) or {})}
    given = {key for key, value in record.items() if value is not None}
    return set(REPLIES) <= given or bool(given & {*SWIFT_KEYS})


def opened_text(record: dict) -> dict | None:
    """Open RLHF-V's `text`, an object or one as JSON; None if it is neither."""
    inner = record.get("text")
    if isinstance(inner, str) and inner.lstrip().startswith("{"):
        inner = json_records.json_or_none(inner)
    return inner if isinstance(inner, dict) else None


def unpacked(record: Any, where: str) -> dict:
    """Check that a record is a pair, and write RLHF-V's and ms-swift's as the others."""
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: expected an object with {PAIR_KEYS}, found {type(record).__name__}"
        )
    if "text" in record and "chosen" not in record:
        inner = opened_text(record)
        if inner is None:
            raise UserError(
                f"{where}: `text` must be an object with question, chosen and rejected, "
                "or one as JSON; fix or delete the record"
            )
        record = {**record_fields.without(record, "text"), **inner}
    given = record
    record = from_swift(from_flat(record, where), where)
    if not set(REPLIES) <= record.keys():
        raise no_pair(given, where)
    if record.get("video"):
        raise UserError(
            f"{where}: the pair is about a video, and only images can be read; delete the record"
        )
    return record


def from_flat(record: dict, where: str) -> dict:
    """Write `query`, or `instruction` and `input`, with or without their reply, as `messages`."""
    has_prompt = any(record.get(key) is not None for key in PROMPT_KEYS)
    if has_prompt or all(record.get(key) is None for key in ("query", "instruction")):
        return record
    record = turns.unfolded(record, "messages", where)
    if "chosen" in record:
        record["messages"] = record["messages"][:1]
    return record


def from_swift(record: dict, where: str) -> dict:
    """Write ms-swift's pairs as TRL's: the last reply of `messages` is chosen."""
    if all(record.get(key) is None for key in SWIFT_KEYS):
        return record
    chosen, rejected = record.get("messages"), record.get("rejected_messages")
    pair = record_fields.without(record, "messages", *SWIFT_KEYS, "rejected_images")
    if record.get("rejected_images") and record["rejected_images"] != record.get("images"):
        raise UserError(
            f"{where}: `rejected_images` are other pictures than `images`, and both answers are "
            "about the same; delete the record"
        )
    if rejected is not None:
        return {**pair, "chosen": chosen, "rejected": rejected}
    if chosen is None:
        raise no_pair(record, where)
    said = turns.listed(chosen, "messages", where)
    if len(said) < 2 or turns.role_of(said[-1], "messages", where) != "assistant":
        raise UserError(
            f"{where}: `messages` must end with the better answer, beside `rejected_response`; "
            "fix or delete the record"
        )
    return {
        **pair,
        "messages": said[:-1],
        "chosen": said[-1],
        "rejected": record["rejected_response"],
    }


def no_pair(record: dict, where: str) -> UserError:
    """Make the message about a record that has not two answers, a better and a worse one."""
    if any(isinstance(record.get(key), bool) for key in ("label", "kto_tag")):
        found = "one answer that is good or bad (KTO), which has no partner"
    elif isinstance(record.get("completions"), (list, dict)):
        found = "several rated answers in `completions`; write a pair for each two of them"
    else:
        found = ", ".join(map(str, record)) or "nothing"
    return UserError(
        f"{where}: no pair; expected {PAIR_KEYS}, found {found}; "
        "`python data.py FILE` says which scripts can use a file"
    )


def prompt_of(
    record: dict, key: str | None, replies: list[tuple[list[Turn], list]], where: str
) -> tuple[list[Turn], list]:
    """Find the turns that both replies answer: under `key`, or how both begin.

    Returns (turns, the pictures embedded in them). The last turn is the user's.
    """
    begun = [turns_of(record[key], "user", key, where)] if key else []
    begun += [(said[:-1], images) for said, images in replies if len(said) > 1 or not key]
    if not all(said for said, _ in begun):
        raise UserError(
            f"{where}: no prompt; expected `question`, `prompt` or `conversations`, "
            "or that chosen and rejected begin with it"
        )
    if any(prompt != begun[0] for prompt in begun):
        raise UserError(
            f"{where}: chosen and rejected do not answer the same prompt; fix or delete the record"
        )
    asking = [turn.role for turn in begun[0][0]]
    replying = [said[-1].role for said, _ in replies]
    said = asking[1:] if asking[0] == "system" else asking
    is_chat = turns.are_in_order(said) and said[-1] == "user"
    if not is_chat or any(role != "assistant" for role in replying):
        raise UserError(
            f"{where}: a pair must be turns from user (or human) and assistant (or gpt), of which "
            "the first, but for a system turn, and the last are the user's, and two replies from "
            f"assistant, found a prompt of {short(', '.join(asking), 60)} "
            f"and replies of {short(', '.join(replying), 60)}; fix or delete the record"
        )
    return begun[0]


def images_of_pair(record: dict, key: str | None, embedded: list, where: str) -> list:
    """List a pair's pictures, which its prompt or its record names, as they are given."""
    named = {name: record.get(name) for name in record_fields.IMAGE_KEYS}
    named["image"] = named["image"] or None  # MMPR writes "" for no picture
    images = turns.pictures_of(named, embedded, where)
    read_keys = [key, *REPLIES] if key else list(REPLIES)
    said = [turn for name in read_keys for turn in image_fields.as_list(record[name])]
    left = record_fields.without(record, *record_fields.IMAGE_KEYS, *read_keys)
    image_fields.must_see(left, said, images, where)
    return images


def answer_of(record: dict, where: str) -> str:
    """Read the gold answer, which a pair may have; "" if it has none."""
    given = [
        record[key] for key in gold_keys.OF_PAIRS if isinstance(record.get(key), (str, int, float))
    ]
    answer = str(given[0]).strip() if given else ""
    record_fields.must_be_whole(answer, "answer", where)
    return answer


# --- turns ---


def turns_of(value: Any, role: str, key: str, where: str) -> tuple[list[Turn], list]:
    """Read a text of this role, a turn or a list of turns, and the pictures in them.

    A turn is {"role", "content"} (TRL) or {"from", "value"} (LLaMA-Factory); parts may embed
    pictures: {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}
    -> [Turn("user", "<image>Why?")], []
    """
    value = turns.opened(value)
    if not isinstance(value, (dict, list)):
        return [Turn(role, record_fields.needed({key: value}, key, where))], []
    found, images = [], []
    for turn in image_fields.as_list(value):
        if not turns.are_turns([turn]):
            raise UserError(
                f"{where}: `{key}` must be a text or a list of turns, each with `role` and "
                f"`content` (or `from` and `value`), found {short(turn, 60)}; fix it"
            )
        for each in turns.listed([turn], key, where):
            said = turns.read(each, key, where)
            found.append(Turn(said.role, said.text))
            images += said.images
    if not found:
        raise UserError(f"{where}: `{key}` is empty; fill it in or delete the record")
    return found, images
