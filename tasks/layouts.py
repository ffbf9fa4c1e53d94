"""From a row of a file to an Example: the common layouts.

A layout's reader turns a record into (fields, meta). `fields` are question and images, and where
there are any
    answer, choices, solution, id, task;
    history, system, turns and replies, of a conversation: tasks/chats.py;
    boxes, box_format and box_style;
    folders, in which its pictures may be, and marks_are_words, if numbered marks name parts of one.
`meta` is what else is worth keeping.
"""

from pathlib import Path
from typing import Any

from grading.boxes import boxes_to_text
from plumbing.errors import UserError
from plumbing.text import short
from tasks import (
    box_fields,
    chats,
    clevr,
    image_fields,
    marks,
    pairs,
    plain,
    prompts,
    published,
    record_fields,
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
    fields, meta = reader_of(record)(record, where)
    meta = with_our_keys(meta, where)
    answer, solution = gold_of(fields, where)
    boxes = fields.get("boxes")
    if boxes is None and not answer and needs_answer:
        if pairs.is_pair(record):
            raise UserError(f"{where}: {pairs.IS_PAIR}")
        raise UserError(
            f"{where}: no answer to compare with; expected `answer`, or a `solution` or reply with "
            r"<answer> ... </answer>, \boxed{...} or "
            f'"Answer: ...", or of fewer than {SHORT_ANSWER} characters: '
            "what is scored needs a gold answer, train_sft.py alone learns without"
        )
    given = image_fields.as_list(fields["images"])
    images = [locate(image, file, where, fields.get("folders", ("",))) for image in given]
    image_fields.must_see(meta, fields.get("turns", []), given, where)
    history, question = asked(fields, len(images), where)
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
        system=fields.get("system"),
    )


def reader_of(record: dict) -> Any:
    """Tell by its keys which reader a record needs."""
    asks = any(record.get(key) is not None for key in record_fields.QUESTION_KEYS)
    for keys, reader in LAYOUTS:
        is_chat = reader in (chats.messages, chats.prompted)
        if keys <= record.keys() and not (is_chat and asks):
            return reader
    return plain.read


def gold_of(fields: dict, where: str) -> tuple[str, str | None]:
    """Give the answer, "" without one, and the worked solution, None without one.

    An answer that is a worked text is parted into both.
    """
    answer, solution = fields.get("answer") or "", fields.get("solution")
    if fields.get("boxes") is not None:
        return answer, solution
    if answer.strip():
        answer, worked = worked_answers.split_gold(answer, where)
        solution = solution or worked
    worked_answers.must_agree(answer, solution, fields.get("choices"), where)
    return answer, solution


def asked(fields: dict, count: int, where: str) -> tuple[list, str]:
    """Give history and question with their marks checked against the `count` pictures."""
    history = fields.get("history", [])
    question = record_fields.text_of(fields, ["question"], where)
    if fields.get("marks_are_words"):
        return history, question.strip()
    history, question = marks.placed(history, question, count, where)
    others = list(fields.get("choices") or [])
    if not count:
        others += fields.get("replies", [])
    if others:
        image_fields.must_match_marks([None, *others], count, where)
    return history, question


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
    ({"messages"}, chats.messages),
    ({"prompt"}, chats.prompted),
]
