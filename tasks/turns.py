"""The turns of a conversation: who speaks, what is said, with which pictures, what is learned.

Questions (chats.py) and preference pairs (pairs.py) read their turns here.
"""

import re
from typing import Any, NamedTuple

from plumbing.errors import UserError
from plumbing.text import short
from tasks import choice_forms, image_fields, option_texts, record_fields
from tasks.example import Turn
from tasks.json_records import json_or_none
from tasks.marks import MARK
from tasks.record_fields import NUMBER_OR_TEXT

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
QUERY_KEYS = ("query", "response")  # ms-swift's
ALPACA_KEYS = ("instruction", "input", "context", "output", "response")  # `context` is Dolly's
TOOLS = ("tool", "tool_call", "tool_response", "function", "function_call", "observation")
CALL_KEYS = ("tool_calls", "function_call")
LEARNED_KEYS = ("loss", "loss_scale", "weight", "train", "training")  # ms-swift, OpenAI, axolotl
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")  # DeepSeek, OpenRouter, gpt-oss
REPLY_KEYS = ("output", "response")
PLACE = re.compile(r"<\|?(?:image|img)[^<>\n]*>", re.IGNORECASE)  # of a picture, in any form


class Said(NamedTuple):
    """One turn, as it was read."""

    role: str  # user, assistant or system
    text: str  # an <image> is the place of a picture
    images: list  # those of its parts
    learned: bool  # False: an answer that the record says is not to be learned


# --- lists of turns ---


def opened(value: Any) -> Any:
    """Read turns that stand in a text as JSON; other values stay.

    '[{"role": "user", "content": "How many?"}]' -> [{"role": "user", "content": "How many?"}]
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    found = json_or_none(value)
    return found if are_turns(image_fields.as_list(found)) else value


def are_turns(value: Any) -> bool:
    """Tell whether this is a list of turns, or of exchanges."""
    return isinstance(value, list) and bool(value) and all(map(is_turn_or_exchange, value))


def is_turn_or_exchange(value: Any) -> bool:
    """Tell whether this is a turn, or a question with its answer."""
    return isinstance(value, dict) and ("role" in value or "from" in value or is_exchange(value))


def is_exchange(value: dict) -> bool:
    """Tell whether this is a question with its answer: the_cauldron's, ms-swift's ShareGPT's."""
    return "assistant" in value and ("user" in value or "human" in value)


def listed(value: Any, key: str, where: str) -> list[dict]:
    """List the turns of a conversation, each as an object with who speaks and what.

    [{"user": "How many?", "assistant": "Two.", "source": "VQAv2"}] (the_cauldron, FineVision)
    -> [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}]
    """
    value = opened(value)
    if not (isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value)):
        raise out_of_order(key, where)
    turns = []
    for turn in value:
        if "role" in turn or "from" in turn or not is_exchange(turn):
            turns.append(turn)
        else:
            asked, answered = exchange(turn.get("user", turn.get("human")), turn["assistant"])
            beside = record_fields.without(turn, "user", "human", "assistant")
            turns += [asked, beside | answered]
    return [turn for turn in turns if not is_blank_system(turn)]


def is_blank_system(turn: dict) -> bool:
    """Tell whether this is a system turn that says nothing: there is then none."""
    speaker = str(turn.get("role") or turn.get("from")).strip().lower()
    said = turn.get(content_key(turn))
    is_blank = not said or (isinstance(said, str) and not said.strip())
    return ROLES.get(speaker) == "system" and is_blank


def exchange(asked: Any, answered: Any) -> list[dict]:
    """Write a question and its answer as two turns."""
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def earlier(record: dict, where: str) -> list[Said]:
    """Read a record's `history`: turns, or pairs of question and answer (LLaMA-Factory, ms-swift).

    [["How many?", "Two."]] -> Said("user", "How many?", ...), Said("assistant", "Two.", ...)
    [] if it is no list: it may be anything.
    """
    history = choice_forms.listed(opened(record.get("history")))
    if not isinstance(history, list) or not history:
        return []
    turns = []
    for each in history:
        if isinstance(each, list) and len(each) == 2:
            turns += exchange(*each)
        elif is_turn_or_exchange(each):
            turns += listed([each], "history", where)
        else:
            raise UserError(
                f"{where}: `history` must be turns, or pairs of a question and its answer, "
                f"found {short(each, 40)}; fix it, or delete the key if it means something else"
            )
    said = [read(turn, "history", where) for turn in turns]
    if not are_in_order([turn.role for turn in said]) or said[-1].role != "assistant":
        raise UserError(
            f"{where}: `history` must begin with a question and end with its answer; fix it, "
            "or delete the key"
        )
    if any(turn.images for turn in said):
        raise UserError(
            f"{where}: `history` holds pictures; put all pictures in `images`, and <image> in "
            "their places"
        )
    return said


def must_ask(record: dict, asked: list[str], where: str) -> None:
    """Refuse a `question` or `problem` that is in none of these texts of the conversation."""
    said = " ".join(map(words_of, asked))
    for key in record_fields.QUESTION_KEYS:
        text = record.get(key)
        if isinstance(text, str) and words_of(text) not in said:
            raise UserError(
                f"{where}: `{key}` is not what the conversation asks last, "
                f"{short(asked[-1], 60)!r}; delete the one that is not meant"
            )


def words_of(text: str) -> str:
    """Give the words of a text, without marks: "<image>\\nHow many? (A) 1" -> "how many a 1"."""
    return option_texts.plain_words(PLACE.sub(" ", text)).strip()


def must_need_no_tools(record: dict, where: str) -> None:
    """Refuse a conversation with a list of tools."""
    tools = record.get("tools")
    if image_fields.has_content(tools) and tools not in ("[]", "{}"):
        raise UserError(
            f"{where}: `tools` names tools that the model may call, which cannot be learned; "
            "delete the record, or the key if the conversation needs none"
        )


def system_of(record: dict, said: str | None, where: str) -> str | None:
    """Give the system turn, or the record's key `system`. UserError if they differ."""
    if not record.get("system"):
        return said
    system = record_fields.needed(record, "system", where)
    if said not in (None, system):
        raise UserError(f"{where}: `system` is not the system turn; delete one of them")
    return system


def pictures_of(record: dict, embedded: list, where: str) -> list:
    """List the pictures that a record names, else those of its turns. UserError if they differ."""
    named = image_fields.pictures_of(record, where)
    if named and embedded and not image_fields.same_pictures(named, embedded):
        raise UserError(
            f"{where}: the turns hold other pictures than the record names; "
            "delete those that are not meant"
        )
    return named or embedded


def unfolded(record: dict, key: str, where: str) -> dict:
    """Write ms-swift's `query` and `response`, or alpaca's `instruction`, as turns under `key`.

    What `instruction` is about follows on the next line. `history` is read elsewhere.

        {"instruction": "How many?", "input": "Of the cats.", "output": "3"}
        -> {key: [{"role": "user", "content": "How many?\\nOf the cats."}, ...]}
    """
    keys = ALPACA_KEYS if record.get("query") is None else QUERY_KEYS
    asked = record_fields.needed(record, keys[0], where)
    for about in [name for name in keys if name in ("input", "context")]:
        if image_fields.has_content(record.get(about)):
            asked = f"{asked}\n{record_fields.needed(record, about, where)}"
    replies = [record[name] for name in keys if name in REPLY_KEYS and record.get(name) is not None]
    turns = exchange(asked, replies[0] if replies else None)
    return {**record_fields.without(record, *keys), key: turns if replies else turns[:1]}


# --- the order of turns ---


def roles_of(turns: list[dict], key: str, where: str) -> list[str]:
    """Give who speaks in each turn. UserError for turns that are no conversation."""
    roles = [role_of(turn, key, where) for turn in turns]
    if not are_in_order(roles[1:] if roles[:1] == ["system"] else roles):
        raise out_of_order(key, where, f", found {short(', '.join(roles), 60)}")
    return roles


def role_of(turn: dict, key: str, where: str) -> str:
    """Give who speaks: user, assistant or system."""
    speaker = turn.get("role") or turn.get("from")
    name = speaker.strip().lower() if isinstance(speaker, str) else None
    if name in TOOLS:
        raise UserError(
            f"{where}: `{key}` has a turn from {speaker}, and calls of tools cannot be learned; "
            "delete the record"
        )
    if name not in ROLES:
        raise out_of_order(key, where, f", found a turn from {short(speaker, 40)}")
    return ROLES[name]


def are_in_order(roles: list[str]) -> bool:
    """Tell whether a user begins, and no answer follows another. A user may speak twice."""
    twice = any(pair == ("assistant", "assistant") for pair in zip(roles, roles[1:]))
    return roles[:1] == ["user"] and not twice and "system" not in roles


def is_reply(turn: dict) -> bool:
    """Tell whether a turn or an exchange ends with what an assistant says."""
    speaker = turn.get("role") or turn.get("from")
    return ROLES.get(str(speaker).lower()) == "assistant" or is_exchange(turn)


def out_of_order(key: str, where: str, found: str = "") -> UserError:
    """Make the message about turns that are no conversation."""
    return UserError(
        f"{where}: `{key}` must begin with a turn from human (or user), and it and gpt (or "
        "assistant) must take turns, each with `from` and `value` or `role` and `content`; "
        f"one system turn may come first{found}"
    )


# --- one turn ---


def read(turn: dict, key: str, where: str) -> Said:
    """Read one turn. UserError if it holds more than text and pictures."""
    role = role_of(turn, key, where)
    if any(image_fields.has_content(turn.get(name)) for name in CALL_KEYS):
        raise UserError(
            f"{where}: `{key}` has a turn that calls a tool, which cannot be learned; "
            "delete the record"
        )
    text, images = text_of(turn, role, key, where)
    return Said(role, with_thoughts(turn, role, text, where), images, is_learned(turn, role, where))


def text_of(turn: dict, role: str, key: str, where: str) -> tuple[str, list]:
    """Read what a turn says: (text with <image> marks, pictures of its parts)."""
    named = content_key(turn)
    content = turn.get(named)
    if not isinstance(content, list):
        types = NUMBER_OR_TEXT if role == "assistant" else (str,)
        return record_fields.needed({named: content}, named, where, types), []
    parts = [as_part(part) for part in content]
    kinds = [part.get("type") if isinstance(part, dict) else type(part).__name__ for part in parts]
    known = ["text", "image"] if role == "user" else ["text"]  # lists: a kind may be anything
    if not all(kind in known for kind in kinds):
        found = ", ".join(short(kind, 20) for kind in kinds[:5])
        raise UserError(
            f"{where}: `{key}` holds {found} in a turn of the {role}; a reply is made of text, "
            "a user's turn of text and images; delete the record"
        )
    must_be_in_order(content, key, where)
    texts, images = [], []
    for kind, part in zip(kinds, parts):
        if kind == "image":
            texts.append(MARK)
            images += [] if part["image"] is None else [part["image"]]
        elif part.get("text") != "":
            texts.append(record_fields.needed({key: part.get("text")}, key, where))
    return record_fields.needed({key: "".join(texts)}, key, where), images


def must_be_in_order(parts: list, key: str, where: str) -> None:
    """Refuse parts whose `index` (llava-instruct-mix) names pictures in another order."""
    places = [part.get("index") for part in parts if isinstance(part, dict)]
    places = [place for place in places if isinstance(place, int)]
    if places != sorted(places):
        raise UserError(
            f"{where}: the `index` of the parts of `{key}` names the pictures in the order "
            f"{short(places, 40)}, and they are read in the order of `images`; sort these"
        )


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
    kind = part.get("type")
    if kind is None and image_fields.has_content(part.get("text")):
        kind = "both" if picture is not None else "text"
    if kind in ("image", "image_url", "input_image") or (kind is None and picture is not None):
        return {"type": "image", "image": picture}
    is_text = kind in ("text", "input_text", "output_text")
    if is_text and image_fields.has_content(picture):
        kind, is_text = "both", False
    return {**part, "type": "text" if is_text else kind}


def with_thoughts(turn: dict, role: str, text: str, where: str) -> str:
    """Put the thoughts of an answer, where they have a key of their own, before it.

    {"reasoning_content": "one, two", "content": "2"} -> "<think> one, two </think>\\n2"
    """
    given = [name for name in THOUGHT_KEYS if image_fields.has_content(turn.get(name))]
    thoughts = {record_fields.needed(turn, name, where).strip() for name in given}
    if not thoughts:
        return text
    thought = thoughts.pop().removeprefix("<think>").removesuffix("</think>").strip()
    if thought in text:
        return text
    if thoughts or role != "assistant" or "<think>" in text:
        raise UserError(
            f"{where}: `{given[0]}` in a turn of the {role} has no one place before its text; "
            "an answer thinks once: delete the key"
        )
    return f"<think> {thought} </think>\n{text}"


def is_learned(turn: dict, role: str, where: str) -> bool:
    """Tell whether a turn is to be learned: an answer is, unless a key of it says 0 or false."""
    learned = role == "assistant"
    if turn.get("train_detail"):
        raise UserError(
            f"{where}: `train_detail` marks parts of a turn, and answers are learned as a whole; "
            "delete the key, or the record"
        )
    for name in LEARNED_KEYS:
        value = turn.get(name)
        if value is None:
            continue
        if value not in (0, 1) or (value and role != "assistant"):
            raise UserError(
                f"{where}: `{name}` is {short(value, 20)} in a turn of the {role}; of an answer it "
                "may be true or 1 (learned), false or 0 (not learned), and other turns are not "
                "learned; fix it, or delete the key"
            )
        learned = learned and bool(value)
    return learned


def history_of(said: list[Said]) -> tuple[list[Turn], list[int]]:
    """Give the turns, and the places of the answers among them that are not learned."""
    turns = [Turn(turn.role, turn.text) for turn in said]
    unlearned = [
        place for place, turn in enumerate(said) if turn.role == "assistant" and not turn.learned
    ]
    return turns, unlearned
