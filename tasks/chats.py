r"""Records that are conversations: `conversations`, `messages`, `prompt`.

The last user turn is the question, the turns before it are the history, and what the assistant
replied last is the gold, or holds it. A gold of the record's own goes before that of the reply.
"""

import re
from typing import Any, NamedTuple

from grading.boxes import FOUR_NUMBERS, WrittenBoxes, boxes_in
from plumbing.errors import UserError
from plumbing.text import short
from tasks import gold_keys, image_fields, record_fields
from tasks.box_fields import asks_for_boxes
from tasks.example import Turn
from tasks.option_texts import with_choices
from tasks.worked_answers import (
    ANSWER_TAG,
    contradict,
    gold_in,
    imitated,
    marked_gold,
    must_agree,
    split_gold,
)

ROLES = {"human": "user", "gpt": "assistant"}
NUMBER_OR_TEXT = (str, int, float)
READ_KEYS = (
    *record_fields.IMAGE_KEYS,
    *record_fields.ANSWER_KEYS,
    *("conversations", "messages", "prompt", "completion", "system", "solution"),
    *("id", "task", "box_format"),
)


class Chat(NamedTuple):
    """A conversation, its pictures as its parts and <img> tags give them."""

    system: str | None
    history: list[Turn]
    question: str
    reply: Any  # of the assistant, to the question: a text, a number or a box; None without one
    images: list
    tagged: bool  # whether <img> tags gave them (LISA)
    turns: list[dict]  # all of them, as the record has them


# --- the layouts ---


def conversation(record: dict, where: str) -> tuple[dict, dict]:
    """Read VLM-R1's JSONL, LLaVA's, Geo170K's and R3V's JSON, Visual-RFT's LISA, R1-Onevision's.

    A box is in pixels, LISA's (with the picture in <img>) in 0 to 1000. Pictures lie in one of the
    usual folders.

        {"image": "a.png", "conversations": [{"from": "human", "value": "<image>How many?"},
                                             {"from": "gpt", "value": 3}]}
        ... {"from": "assistant", "value": "Solution:\\n1. ...\\nAnswer: 3"}
    """
    return fields_of(record, chat_of(record, "conversations", where), where)


def messages(record: dict, where: str) -> tuple[dict, dict]:
    """Read LLaMA-Factory's and ms-swift's messages, VisualThinker's SAT, deepseek-r1-vision.

    {"messages": [{"role": "user", "content": "<image>How many?"},
                  {"role": "assistant", "content": "3"}], "images": ["a.png"]}
    {"messages": [{"role": "user", "content": "<image>How many?"}], "images": ["a.png"],
     "solution": "<answer> 3 </answer>"}
    """
    return fields_of(record, chat_of(record, "messages", where), where)


def prompted(record: dict, where: str) -> tuple[dict, dict]:
    """Read TRL's prompts, and the rows of verl and DeepEyes.

    {"prompt": "How many?", "image": "a.png", "solution": "<answer> 3 </answer>"}
    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", ...}]}], ...}
    {"data_source": "geo3k", "prompt": [{"role": "user", "content": "<image>How many?"}],
     "images": [{"bytes": ...}], "reward_model": {"style": "rule", "ground_truth": "3"}}
    """
    prompt = record["prompt"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    completion = record.get("completion")
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    if isinstance(prompt, list) and isinstance(completion, list):
        prompt = prompt + completion
    told = record.get("reward_model")
    if isinstance(told, dict) and told.get("ground_truth") is not None:
        record = {**record, "ground_truth": told["ground_truth"]}
    chat = chat_of({**record, "prompt": prompt}, "prompt", where)
    return fields_of(record, chat, where)


def fields_of(record: dict, chat: Chat, where: str) -> tuple[dict, dict]:
    """Make the fields of a record of its conversation and its other keys."""
    images = pictures_of_chat(record, chat, where)
    choices = record_fields.choices_of(record, where)
    replies = [turn.text for turn in chat.history if turn.role == "assistant"]
    if isinstance(chat.reply, str):
        replies.append(chat.reply)
    gold = gold_of_chat(record, chat, images, where)
    answer = split_gold(gold.get("answer") or "", where).answer
    fields = {
        "question": with_choices(chat.question, choices, answer),
        "history": chat.history,
        "system": system_of(record, chat, where),
        "images": images,
        "folders": record_fields.USUAL_FOLDERS,
        "choices": choices,
        "id": record.get("id"),
        "task": record.get("task"),
        "turns": chat.turns,
        "replies": replies,
        **gold,
    }
    choice_key = record_fields.choice_key(record)
    return fields, record_fields.without(record, *READ_KEYS, choice_key)


def pictures_of_chat(record: dict, chat: Chat, where: str) -> list:
    """List the pictures that the record or its turns name."""
    images = image_fields.pictures_of(record, where)
    if chat.tagged:
        return images + chat.images
    if images and chat.images and not image_fields.same_pictures(images, chat.images):
        raise UserError(
            f"{where}: the turns hold other pictures than the record names; "
            "delete those that are not meant"
        )
    return images or chat.images


def system_of(record: dict, chat: Chat, where: str) -> str | None:
    """Give the system turn, or LLaMA-Factory's key `system`."""
    if not record.get("system"):
        return chat.system
    system = record_fields.needed(record, "system", where)
    if chat.system not in (None, system):
        raise UserError(f"{where}: `system` and the system turn differ; delete one of them")
    return system


# --- the gold ---


def gold_of_chat(record: dict, chat: Chat, images: list, where: str) -> dict:
    """Find answer, solution and boxes: under a key of the record, or else in the last reply."""
    answer = gold_keys.answer_of(record, where)
    if answer is None and record.get("solution") is None:
        return gold_of_reply(record, chat, images, where)
    if isinstance(record.get("solution"), list):
        return boxes_fields(record, WrittenBoxes([record["solution"]], "pixels"))
    solution = record_fields.text_of(record, ["solution"], where, NUMBER_OR_TEXT)
    if answer is None:
        tagged = (ANSWER_TAG.findall(solution) or [""])[-1]
        written = boxes_in(tagged, where, asked=asks_for_boxes(chat.question, record))
        if written:
            return boxes_fields(record, written)
        answer = gold_in(solution)
    choices = record_fields.choices_of(record, where)
    gold = split_gold(answer, where).answer
    must_agree(gold, solution, choices, where)
    if solution and (ANSWER_TAG.fullmatch(solution.strip()) or solution.strip() == gold):
        solution = None  # nothing is worked out in it
    if isinstance(chat.reply, str):
        solution = solution or reply_to_imitate(chat.reply, gold, choices, where)
    return {"answer": answer, "solution": solution}


def reply_to_imitate(reply: str, gold: str, choices: list[str] | None, where: str) -> str | None:
    """Give a reply that is worked out, beside a gold of the record's own, which it must meet."""
    said = gold_in(reply)
    if said and gold and contradict(gold, said, choices):
        raise UserError(
            f"{where}: the record's answer is {short(gold, 40)!r}, but the reply comes to "
            f"{short(said, 40)!r}; correct one of them, or delete the record"
        )
    is_worked = marked_gold(reply) is not None or said != reply.strip()
    return imitated(reply, said or gold) if is_worked else None


def gold_of_reply(record: dict, chat: Chat, images: list, where: str) -> dict:
    """Find answer, solution and boxes in the last reply; a text without a gold is a solution."""
    reply = chat.reply
    if reply is None:
        return {"answer": None}
    if isinstance(reply, list):
        return boxes_fields(record, WrittenBoxes([reply], "pixels"))
    answer = gold_in(reply)
    written = boxes_of_reply(reply, chat, record, images, where)
    if written:
        solution = imitated(reply, answer) if "<think>" in reply else None
        return {**boxes_fields(record, written), "answer": answer, "solution": solution}
    return {
        "answer": answer,
        "solution": imitated(reply, answer),
        "box_format": record.get("box_format"),
    }


def boxes_fields(record: dict, written: WrittenBoxes) -> dict:
    """Make fields of boxes."""
    return {
        "boxes": written.boxes,
        "box_format": record.get("box_format") or written.box_format,
        "box_style": written.style,
    }


def boxes_of_reply(
    value: str, chat: Chat, record: dict, images: list, where: str
) -> WrittenBoxes | None:
    """Read the boxes of a conversation's answer; None if it is another kind of answer."""
    method = record.get("accu_reward_method")
    detects = method in record_fields.DETECTION_METHODS
    if detects and gold_in(value).lower().rstrip(".") == "none":
        return WrittenBoxes([], "pixels")
    reply = (ANSWER_TAG.findall(value) or [value])[-1].strip()
    may_be_box = detects or method in (None, "default")  # not mcq, math, ...
    if FOUR_NUMBERS.fullmatch(reply) and len(images) == 1 and may_be_box:
        return WrittenBoxes([[float(v) for v in reply.strip("[]").split(",")]], "pixels")
    asked = asks_for_boxes(chat.question, record)
    return boxes_in(reply, where, corners=chat.tagged, asked=asked)


# --- the turns ---


def chat_of(record: dict, key: str, where: str) -> Chat:
    """Read a conversation: perhaps a system turn, then user and assistant in turn."""
    turns = given_turns = record[key]
    if not (isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns)):
        raise out_of_order(key, where)
    roles = [role_of(turn, key, where) for turn in turns]
    system = None
    if roles[0] == "system":
        system = text_of_turn(turns[0], roles[0], key, where)[0]
        turns, roles = turns[1:], roles[1:]
    must_take_turns(roles, key, where)
    reply = None
    if roles[-1] == "assistant":
        reply = reply_of(turns[-1], key, where)
        turns, roles = turns[:-1], roles[:-1]
    history, images, tags = [], [], []
    for turn, role in zip(turns, roles):
        text, given = text_of_turn(turn, role, key, where)
        if role == "user":
            tags += re.findall(r"<img>(.*?)</img>", text)
            text = re.sub(r"<img>.*?</img>", "", text)
        elif "<image>" in text:
            raise UserError(
                f"{where}: a turn of the assistant has <image>, and pictures stand in the user's "
                "turns; move it there, or delete it"
            )
        history.append(Turn(role, text))
        images += given
    question = history.pop().text
    return Chat(system, history, question, reply, tags or images, bool(tags), given_turns)


def role_of(turn: dict, key: str, where: str) -> str:
    """Give who speaks: user, assistant or system."""
    speaker = turn.get("from") or turn.get("role")
    role = ROLES.get(speaker, speaker) if isinstance(speaker, str) else None
    if role not in ("user", "assistant", "system"):
        raise out_of_order(key, where, f", found a turn from {short(speaker, 40)}")
    return role


def must_take_turns(roles: list[str], key: str, where: str) -> None:
    """Refuse a conversation in which two turns in a row are from the same."""
    expected = [("user", "assistant")[place % 2] for place in range(len(roles))]
    if not roles or roles != expected:
        raise out_of_order(key, where, f", found {short(', '.join(roles), 60) or 'no question'}")


def out_of_order(key: str, where: str, found: str = "") -> UserError:
    """Make the message about turns that are no conversation."""
    return UserError(
        f"{where}: `{key}` must begin with a turn from human (or user), and it and gpt (or "
        "assistant) must take turns, each with `from` and `value` or `role` and `content`; "
        f"one system turn may come first{found}"
    )


def text_of_turn(turn: dict, role: str, key: str, where: str) -> tuple[str, list]:
    """Read a turn: (text with <image> marks, pictures of its parts)."""
    named = content_key(turn)
    content = turn.get(named)
    if not isinstance(content, list):
        types = NUMBER_OR_TEXT if role == "assistant" else (str,)
        return record_fields.needed({named: content}, named, where, types), []
    texts, images = [], []
    for part in map(as_part, content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind == "image" and role == "user":
            texts.append("<image>")
            images += [] if part["image"] is None else [part["image"]]
        elif kind == "text":
            texts.append(record_fields.needed({key: part.get("text")}, key, where))
        else:
            raise UserError(
                f"{where}: `{key}` holds {short(kind, 20)} in a turn of the {role}; a reply is "
                "made of text, a user's turn of text and images; delete the record"
            )
    return record_fields.needed({key: "".join(texts)}, key, where), images


def reply_of(turn: dict, key: str, where: str) -> str | list:
    """Read the assistant's last turn: a text, or a box as [x1, y1, x2, y2]."""
    named = content_key(turn)
    content = turn.get(named)
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        return text_of_turn(turn, "assistant", key, where)[0].strip()
    if isinstance(content, list):
        return content
    return record_fields.needed({named: content}, named, where, NUMBER_OR_TEXT).strip()


def content_key(turn: dict) -> str:
    """Tell under which key a turn speaks."""
    return "content" if "content" in turn and turn.get("value") is None else "value"


def as_part(part: Any) -> Any:
    """Write OpenAI's and Qwen's parts as TRL's.

    {"type": "image_url", "image_url": {"url": "a.png"}} -> {"type": "image", "image": "a.png"}
    {"text": "Why?"} -> {"type": "text", "text": "Why?"}
    """
    if not isinstance(part, dict):
        return part
    picture = part.get("image") or part.get("image_url") or part.get("url") or part.get("path")
    if isinstance(picture, dict) and "url" in picture:
        picture = picture["url"]
    if isinstance(picture, str):
        picture = picture.removeprefix("file://")
    if part.get("type") in ("image", "image_url", "input_image") or (
        part.get("type") is None and picture is not None
    ):
        return {"type": "image", "image": picture}
    if part.get("type") is None and "text" in part:
        return {"type": "text", **part}
    return part
