"""Records that are conversations: `conversations`, `messages`, `texts`, `prompt`, `query`.

The last user turn is the question, the turns before it are the history, and what the assistant
replied last is the gold, or holds it. A gold of the record's own goes before that of the reply.
"""

from typing import Any, NamedTuple

from plumbing.errors import UserError
from plumbing.text import short
from tasks import (
    box_texts,
    gold_keys,
    image_fields,
    marks,
    placeholders,
    record_fields,
    turns,
)
from tasks.answer_marks import contradict
from tasks.box_texts import WrittenBoxes
from tasks.example import Turn
from tasks.option_texts import with_choices
from tasks.record_fields import NUMBER_OR_TEXT
from tasks.thinking import in_our_tags
from tasks.worked_answers import gold_in, imitated, marked_gold, must_agree, split_gold

TURN_KEYS = ("conversations", "conversation", "messages", "message", "texts")
READ_KEYS = (
    *record_fields.IMAGE_KEYS,
    *record_fields.ANSWER_KEYS,
    *TURN_KEYS,
    *("prompt", "completion", "system", "solution", "id", "task", "box_format"),
)
KTO_KEYS = ("label", "kto_tag")  # of TRL and ms-swift, of LLaMA-Factory


class Chat(NamedTuple):
    """A conversation, its pictures as its parts and <img> tags give them."""

    system: str | None
    history: list[Turn]
    unlearned: list[int]  # places of answers in it that are not to be learned
    question: str
    reply: Any  # of the assistant, to the question: a text, a number or a box; None without one
    images: list
    tagged: bool  # whether <img> tags gave them (LISA, Qwen-VL)
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
    given = [key for key in TURN_KEYS if key in record]
    saying = [key for key in given if says(record, {key})]
    key, *others = saying or given
    chat = chat_of(record, key, where)
    for other in others if saying else ():
        question = chat_of(record, other, where).question
        if turns.words_of(question) != turns.words_of(chat.question):
            raise UserError(
                f"{where}: `{key}` and `{other}` ask different questions; "
                "delete the one that is not meant"
            )
    return fields_of(record, chat, where)


def messages(record: dict, where: str) -> tuple[dict, dict]:
    """Read LLaMA-Factory's and ms-swift's messages, VisualThinker's SAT, deepseek-r1-vision.

    {"messages": [{"role": "user", "content": "<image>How many?"},
                  {"role": "assistant", "content": "3"}], "images": ["a.png"]}
    {"messages": [{"role": "user", "content": "<image>How many?"}], "images": ["a.png"],
     "solution": "<answer> 3 </answer>"}
    """
    return conversation(record, where)


def texts(record: dict, where: str) -> tuple[dict, dict]:
    """Read the_cauldron and FineVision.

    {"images": [{"bytes": ...}], "texts": [{"user": "How many?", "assistant": "3", "source": ...}]}
    """
    return conversation(record, where)


def prompted(record: dict, where: str) -> tuple[dict, dict]:
    """Read TRL's prompts, and the rows of verl and DeepEyes.

    {"prompt": "How many?", "image": "a.png", "solution": "<answer> 3 </answer>"}
    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", ...}]}], ...}
    {"data_source": "geo3k", "prompt": [{"role": "user", "content": "<image>How many?"}],
     "images": [{"bytes": ...}], "reward_model": {"style": "rule", "ground_truth": "3"}}
    """
    prompt = turns.opened(record["prompt"])
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    key = "response" if record.get("completion") is None else "completion"
    completion = turns.opened(record.get(key))
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    if isinstance(prompt, list) and isinstance(completion, list) and completion:
        record = record_fields.without(record, key)
        replies = turns.listed(completion, key, where)
        if [turns.role_of(turn, key, where) for turn in replies] != ["assistant"]:
            raise UserError(
                f"{where}: `{key}` must be one turn of gpt (or assistant), the reply to "
                "`prompt`; fix or delete the record"
            )
        prompt = prompt + replies
    told = record.get("reward_model")
    if isinstance(told, dict) and told.get("ground_truth") is not None:
        record = {**record, "ground_truth": told["ground_truth"]}
    chat = chat_of({**record, "prompt": prompt}, "prompt", where)
    return fields_of(record, chat, where)


def query_or_instruction(record: dict, where: str) -> tuple[dict, dict]:
    """Read ms-swift's `query` and `response`, and alpaca's layout (LLaMA-Factory, Magpie, Dolly).

    {"query": "<image>How many?", "response": "3", "history": [["Red?", "No."]], "images": [...]}
    {"instruction": "How many?", "input": "", "output": "3", "images": ["a.png"]}
    """
    record = turns.unfolded(record, "messages", where)
    return fields_of(record, chat_of(record, "messages", where), where)


READERS = (conversation, messages, texts, prompted, query_or_instruction)
LAYOUTS = [
    *[({key}, messages) for key in ("messages", "message")],
    ({"conversation"}, conversation),
    ({"texts"}, texts),
    ({"prompt"}, prompted),
    ({"query", "response"}, query_or_instruction),
    ({"instruction", "output"}, query_or_instruction),
    ({"instruction", "response"}, query_or_instruction),
]


def has_reply(record: dict) -> bool:
    """Tell whether a record has a conversation that ends with a reply."""
    talks = [turns.opened(record.get(key)) for key in TURN_KEYS]
    return any(turns.are_turns(talk) and turns.is_reply(talk[-1]) for talk in talks)


def says(record: dict, keys: set[str]) -> bool:
    """Tell whether a record has something said under one of these keys."""
    for key in keys:
        value = turns.opened(record[key])
        is_text = isinstance(value, str) and value.strip() and key not in TURN_KEYS
        if is_text or turns.are_turns(value):
            return True
    return False


def fields_of(record: dict, chat: Chat, where: str) -> tuple[dict, dict]:
    """Make the fields of a record of its conversation and its other keys."""
    record = image_fields.gathered(record, where)
    must_be_meant(record, chat, where)
    record, chat = with_objects(record, chat, where)
    images = turns.pictures_of(record, chat.images, where)
    must_hold_no_boxes(record, chat, len(images), where)
    choices = record_fields.choices_of(record, where)
    replies = [turn.text for turn in chat.history if turn.role == "assistant"]
    if isinstance(chat.reply, str):
        replies.append(chat.reply)
    gold = gold_of_chat(record, chat, images, where)
    answer = split_gold(gold.get("answer") or "", where).answer
    fields = {
        "question": with_choices(chat.question, choices, answer),
        "history": chat.history,
        "unlearned": chat.unlearned,
        "system": turns.system_of(record, chat.system, where),
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


def must_be_meant(record: dict, chat: Chat, where: str) -> None:
    """Refuse a conversation beside another question, with tools, or whose reply is a bad one."""
    asked = [turn.text for turn in chat.history if turn.role == "user"] + [chat.question]
    turns.must_ask(record, asked[-1:] if has_gold(record, where) else asked, where)
    turns.must_need_no_tools(record, where)
    bad = next((key for key in KTO_KEYS if record.get(key) is False), None)
    if bad and chat.reply is not None:
        raise UserError(
            f"{where}: `{bad}` is false, which marks the reply as a bad one (KTO), and it would be "
            "imitated; delete the record, or the key if it means something else"
        )


def with_objects(record: dict, chat: Chat, where: str) -> tuple[dict, Chat]:
    """Fill ms-swift's placeholders; a reply that is not the gold keeps its own."""
    texts = [chat.system or "", *(turn.text for turn in chat.history), chat.question]
    reply = None if has_gold(record, where) else chat.reply
    record, filled, reply = placeholders.filled(record, texts, reply, where)
    if filled is texts:
        return record, chat
    history = [turn._replace(text=text) for turn, text in zip(chat.history, filled[1:])]
    return record, chat._replace(
        system=filled[0] or None,
        history=history,
        question=filled[-1],
        reply=chat.reply if reply is None else reply,
    )


def must_hold_no_boxes(record: dict, chat: Chat, pictures: int, where: str) -> None:
    """Refuse boxes as an earlier reply: only those of the last are converted for the model."""
    question = ""
    for turn in chat.history:
        if turn.role == "user":
            question = turn.text
            continue
        try:
            found = box_texts.boxes_in(turn.text, where, question, record, pictures, chat.tagged)
        except UserError:
            found = None  # no boxes alone: words that are learned as they stand
        if found:
            raise UserError(
                f"{where}: an earlier reply is a box ({short(turn.text, 40)}), and only the last "
                "one is converted for the model; make each question a record of its own"
            )


# --- the gold ---


def has_gold(record: dict, where: str) -> bool:
    """Tell whether the gold stands under a key of the record, not in the reply."""
    return record.get("solution") is not None or gold_keys.answer_of(record, where) is not None


def gold_of_chat(record: dict, chat: Chat, images: list, where: str) -> dict:
    """Find answer, solution and boxes: under a key of the record, or else in the last reply."""
    answer = gold_keys.answer_of(record, where)
    solution = record.get("solution")
    if answer is None and solution is None:
        return gold_of_reply(record, chat, images, where)
    if isinstance(solution, list):
        return boxes_fields(record, box_texts.boxes_of_list(solution, chat.question, record, where))
    solution = record_fields.text_of(record, ["solution"], where, NUMBER_OR_TEXT)
    told = box_texts.gold_part(solution if answer is None else answer)
    written = box_texts.boxes_in(told, where, chat.question, record, len(images))
    if written:
        return boxes_fields(record, written)
    if answer is None:
        answer = gold_in(solution)
    choices = record_fields.choices_of(record, where)
    gold = split_gold(answer, where).answer
    must_agree(gold, solution, choices, where)
    if solution:
        solution = imitated(solution, gold, choices)
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
        return boxes_fields(record, box_texts.boxes_of_list(reply, chat.question, record, where))
    answer = gold_in(reply)
    written = boxes_of_reply(reply, chat, record, images, where)
    if written:
        solution = imitated(reply, answer) if answer or "<think>" in reply else None
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
    detects = record.get("accu_reward_method") in record_fields.DETECTION_METHODS
    if detects and gold_in(value).lower().rstrip(".") == "none":
        return WrittenBoxes([], "pixels")
    told = box_texts.gold_part(value) or value
    return box_texts.boxes_in(told, where, chat.question, record, len(images), chat.tagged)


# --- the turns ---


def chat_of(record: dict, key: str, where: str) -> Chat:
    """Read a conversation: perhaps a system turn, then user and assistant in turn."""
    given = turns.listed(record[key], key, where)
    roles = turns.roles_of(given, key, where)
    reply = None
    if roles[-1] == "assistant":
        reply = reply_of(given[-1], key, where)
        must_be_learned(given[-1], key, where)
    said = [turns.read(turn, key, where) for turn in given[: len(given) - (reply is not None)]]
    system = said.pop(0).text if roles[0] == "system" else None
    images, tags = [], []
    for turn in said:
        if turn.role == "user":
            tags += marks.NAMED.findall(turn.text)
        elif marks.MARK in turn.text:
            raise UserError(
                f"{where}: a turn of the assistant has {marks.MARK}, and pictures stand in the "
                "user's turns; move it there, or delete it"
            )
        images += turn.images
    question = said.pop().text
    history, unlearned = turns.history_of(said)
    return Chat(system, history, unlearned, question, reply, tags or images, bool(tags), given)


def reply_of(turn: dict, key: str, where: str) -> str | list:
    """Read the assistant's last turn: a text, or a box as [x1, y1, x2, y2]."""
    content = turn.get(turns.content_key(turn))
    if isinstance(content, list) and not any(isinstance(part, (dict, str)) for part in content):
        return content
    return in_our_tags(turns.read(turn, key, where).text.strip())


def must_be_learned(turn: dict, key: str, where: str) -> None:
    """Refuse a conversation of which the last answer is not to be learned."""
    if not turns.is_learned(turn, "assistant", where):
        raise UserError(
            f"{where}: the last answer of `{key}` is marked as not to be learned; "
            "delete it with its question, or the record"
        )
