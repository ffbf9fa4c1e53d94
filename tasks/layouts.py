"""From a row of a file to an Example: choose the reader of its layout, check what it has read.

A layout's reader turns a record into (fields, meta). `fields` are question and images, and where
there are any
    answer, choices, solution, id, task;
    history, unlearned, system, turns and replies, of a conversation: tasks/chats.py;
    boxes, box_format (box_fields.FILE_FORMATS) and box_style;
    folders, in which its pictures may be, and marks_are_words, if numbered marks name parts of one.
`meta` is what else is worth keeping.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from grading.boxes import boxes_to_text
from plumbing.errors import UserError
from plumbing.text import short
from tasks import (
    box_fields,
    chats,
    choice_forms,
    clevr,
    gold_keys,
    image_fields,
    marks,
    option_texts,
    pairs,
    placeholders,
    plain,
    prompts,
    published,
    record_fields,
    turns,
    worked_answers,
)
from tasks.example import Example
from tasks.images import locate
from tasks.worked_answers import SHORT_ANSWER

EXAMPLE_KEYS = "image(s), question (or problem) and answer (or solution)"
OUR_KEYS = ("prompt_template", "boxes")  # of Example.meta, that decide something


def to_example(
    record: Any, file: Path, line: Any, needs_answer: bool = True, name: str | None = None
) -> Example:
    """Make an Example of one record of any layout, told by its keys.

    line, name: its place in the file, and its id if it has none, as `rows_of` gives them.
    needs_answer=False: open-ended questions too, whose answer is then "".
    """
    where = f"{file}:{line}"
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: expected an object with question and answer, found {type(record).__name__}"
        )
    must_be_no_pair(record, where)
    record = choice_forms.from_columns(record)
    fields, meta = with_earlier(*reader_of(record)(record, where), where)
    meta = with_our_keys(meta, where)
    if fields.get("solution") is None and worked_answers.is_tagged(meta.get("solution")):
        fields["solution"] = meta["solution"]
    answer, solution = gold_of(fields, where)
    boxes = fields.get("boxes")
    if boxes is None and not answer and not solution:
        gold_keys.must_not_be_left(meta, where)
    if boxes is None and not answer and needs_answer:
        raise UserError(
            f"{where}: no answer to compare with; expected `answer`, or a `solution` or reply with "
            r"<answer> ... </answer>, \boxed{...} or "
            f'"Answer: ...", or of fewer than {SHORT_ANSWER} characters: '
            "what is scored needs a gold answer, train_sft.py alone learns without"
        )
    history, question, given = what_is_asked(fields, where)
    images = [locate(image, file, where, fields.get("folders", ("",))) for image in given]
    image_fields.must_see(meta, fields.get("turns", []), given, where)
    said = [turn.text for turn in history]
    placeholders.must_be_filled([*said, question, answer, solution], where)
    image_fields.must_have_no_number(record, given, where)
    if not fields.get("choices") or option_texts.are_letters(fields["choices"]):
        option_texts.must_be_shown(meta, [*said, question], answer, where)
    if boxes is not None:
        box_format = fields.get("box_format") or "pixels"
        boxes, size = box_fields.boxes_of_record(boxes, box_format, images, where)
        answer = boxes_to_text(boxes, "pixels", size)
        meta = {**meta, "boxes": boxes, "size": size}
        if fields.get("box_style"):
            meta["box_style"] = fields["box_style"]
    return Example(
        id=record_fields.label_of(fields, "id", where) or name or f"{file.name}:{line}",
        images=images,
        question=question,
        answer=answer,
        choices=fields.get("choices"),
        solution=solution,
        task=record_fields.label_of(fields, "task", where),
        meta=record_fields.carried(meta, where),
        source=where,
        history=history,
        unlearned=fields.get("unlearned", []),
        system=fields.get("system"),
    )


@lru_cache(1024)
def layouts_of(keys: tuple[str, ...]) -> list[tuple[set[str], Any]]:
    """List the layouts that records with these keys may have."""
    return [(needed, reader) for needed, reader in LAYOUTS if needed <= set(keys)]


def reader_of(record: dict) -> Any:
    """Tell by its keys which reader a record needs."""
    fitting = layouts_of(tuple(record))
    for keys, reader in fitting:
        if reader not in chats.READERS or chats.says(record, keys):
            return reader
    asks = any(record.get(key) is not None for key in record_fields.QUESTION_KEYS)
    return plain.read if asks or not fitting else fitting[0][1]


def must_be_no_pair(record: dict, where: str) -> None:
    """Refuse a preference pair that has neither a gold answer nor a reply of its own."""
    if not pairs.is_pair(record):
        return
    has_gold = any(record.get(key) is not None for key in (*record_fields.ANSWER_KEYS, "solution"))
    is_swift = any(record.get(key) is not None for key in pairs.SWIFT_KEYS)
    if not has_gold and (is_swift or not chats.has_reply(record)):
        raise UserError(f"{where}: {pairs.IS_PAIR}")


def with_earlier(fields: dict, meta: dict, where: str) -> tuple[dict, dict]:
    """Read what was said before a question that is no list of turns: `history` and `system`."""
    meta = dict(meta)
    if isinstance(meta.get("system"), str) and meta["system"].strip():
        fields["system"] = record_fields.needed(meta, "system", where)
        meta.pop("system")
    earlier = turns.earlier(meta, where)
    if not earlier:
        return fields, meta
    if fields.get("history"):
        raise UserError(
            f"{where}: both a conversation of several turns and `history`; "
            "delete the one that is not meant"
        )
    fields["history"], fields["unlearned"] = turns.history_of(earlier)
    replies = [turn.text for turn in fields["history"] if turn.role == "assistant"]
    fields["replies"] = [*replies, *fields.get("replies", [])]
    fields["turns"] = [*image_fields.as_list(meta.pop("history")), *fields.get("turns", [])]
    return fields, meta


def gold_of(fields: dict, where: str) -> tuple[str, str | None]:
    """Give the answer, "" without one, and the worked solution, None without one.

    An answer that is a worked text is parted into both. A solution ends with the answer in tags.
    """
    answer, solution = fields.get("answer") or "", fields.get("solution")
    if fields.get("boxes") is not None:
        return answer, solution
    if answer.strip():
        answer, worked = worked_answers.split_gold(answer, where)
        solution = solution or worked
    choices = fields.get("choices")
    gold_keys.must_name_a_choice(answer, choices, where)
    worked_answers.must_agree(answer, solution, choices, where)
    return answer, worked_answers.imitated(solution, answer, choices) if solution else None


def what_is_asked(fields: dict, where: str) -> tuple[list, str, list]:
    """Give history, question and pictures, these in the order of their places."""
    history = fields.get("history", [])
    question = record_fields.text_of(fields, ["question"], where)
    images = image_fields.as_list(fields["images"])
    if fields.get("marks_are_words"):
        return history, question.strip(), images
    history, question, images = marks.placed(history, question, images, where)
    others = list(fields.get("choices") or [])
    if not images:
        others += fields.get("replies", [])
    marks.must_need_none(others, len(images), where)
    return history, question, images


def with_our_keys(meta: dict, where: str) -> dict:
    """Check the keys left in a record that mean something here.

    null is as good as absent.
    """
    meta = {key: value for key, value in meta.items() if value is not None or key not in OUR_KEYS}
    template = meta.get("prompt_template")
    known = isinstance(template, str) and template in prompts.TEMPLATES
    if "prompt_template" in meta and not known:
        raise UserError(
            f"{where}: `prompt_template` {short(template, 40)} is unknown; "
            f"delete the key, or name one of {', '.join(prompts.TEMPLATES)}"
        )
    if "boxes" in meta:  # `plain` has read its own
        raise UserError(
            f"{where}: `boxes` are read only beside `question` and images; "
            "write the record so, or delete the key"
        )
    return meta


# (the keys by which a record is recognised, its reader), tried in this order
LAYOUTS = [
    ({"conversations"}, chats.conversation),
    *published.LAYOUTS,
    *clevr.LAYOUTS,
    *chats.LAYOUTS,
]
