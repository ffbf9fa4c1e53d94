"""From a row of a file to an Example: the common layouts.

A layout's reader turns a record into (fields, meta). `fields` are question and images, and where
there are any answer, choices, solution, id, task, boxes, box_format, box_style and folders, in
which its pictures may be. `meta` is what else is worth keeping.
"""

import re
from pathlib import Path
from typing import Any

from grading.boxes import FOUR_NUMBERS, WrittenBoxes, boxes_in, boxes_to_text
from plumbing.errors import UserError
from plumbing.text import short
from tasks import box_fields, image_fields, prompts, published, record_fields
from tasks.example import Example
from tasks.images import locate

EXAMPLE_KEYS = "image(s), question (or problem) and answer (or solution)"
ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
OUR_KEYS = ("prompt_template", "boxes")  # of Example.meta, that decide something
SHORT_ANSWER = 100  # characters: a text without tags that is longer is no answer


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
    layout = next((reader for keys, reader in LAYOUTS if keys <= record.keys()), plain)
    fields, meta = layout(record, where)
    meta = with_our_keys(meta, where)
    answer, boxes = (fields.get("answer") or "").strip(), fields.get("boxes")
    if boxes is None and not answer and needs_answer:
        raise UserError(
            f"{where}: no answer; expected `answer`, or `solution` with <answer> ... </answer>: "
            "what is scored needs a gold answer, train_sft.py alone learns without"
        )
    given = image_fields.as_list(fields["images"])
    images = [locate(image, file, where, fields.get("folders", ("",))) for image in given]
    turns = record["conversations"] if layout is conversation else []
    image_fields.must_see(meta, turns, given, where)
    texts = [fields.get("question"), *(fields.get("choices") or [])]
    image_fields.must_match_marks(texts, len(images), where)
    if boxes is not None:
        box_format = fields.get("box_format") or "pixels"
        boxes, size = box_fields.boxes_of_record(boxes, box_format, images, where)
        answer = boxes_to_text(boxes, "pixels", size)
        meta = {**meta, "boxes": boxes, "size": size}
        if fields.get("box_style"):
            meta["box_style"] = fields["box_style"]
    # Images always come first here: the placeholders of other formats go.
    question = record_fields.text_of(fields, ["question"], where).replace("<image>", "").strip()
    return Example(
        id=record_fields.label_of(fields, "id", where) or name or f"{file.name}:{line}",
        images=images,
        question=question,
        answer=answer,
        choices=fields.get("choices"),
        solution=fields.get("solution"),
        task=record_fields.label_of(fields, "task", where),
        meta=record_fields.carried(meta, where),
        source=where,
    )


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


def gold_in(text: str) -> str:
    """Find the answer that a worked solution comes to, "" if that cannot be told.

    The last tagged one, else what follows the last "Answer:" (R3V, Geo170K), if it is short:
    "<think> one, two </think><answer> 2 </answer>" -> "2"; "3.5" -> "3.5";
    "Solution:\\n1. ...\\nAnswer: B" -> "B"
    """
    tagged = ANSWER_TAG.findall(text)
    if tagged:
        return tagged[-1].strip()
    answer = text.rpartition("Answer:")[2].strip()
    return answer if len(answer) < SHORT_ANSWER else ""


def with_answer(solution: str, answer: str) -> str:
    """Put another answer into a worked solution: in its last tags, or after its thinking.

    "<think> hm </think><answer>3</answer>", "4" -> "<think> hm </think><answer> 4 </answer>"
    "I see it.", "4" -> "<think> I see it. </think><answer> 4 </answer>"
    """
    tagged = f"<answer> {answer} </answer>"
    found = list(ANSWER_TAG.finditer(solution))
    if found:
        return solution[: found[-1].start()] + tagged + solution[found[-1].end() :]
    thinking, closed, _ = solution.rpartition("</think>")
    if not closed:
        thinking = f"<think> {solution.strip()} "
    return f"{thinking}</think>{tagged}"


def asks_for_boxes(question: str, record: dict) -> bool:
    """Tell whether "No Objects" would be an answer to a record."""
    if record.get("accu_reward_method") in record_fields.DETECTION_METHODS:  # VLM-R1's
        return True
    return bool(re.search("bounding box|bbox|'Position'", question, re.IGNORECASE))


def must_be_no_index(record: dict, where: str) -> None:
    """Refuse a number that may be the place of a choice, as in ScienceQA."""
    answer = next(
        (record[key] for key in record_fields.ANSWER_KEYS if record.get(key) is not None), None
    )
    choices = record_fields.choices_of(record, where)
    if not choices or isinstance(answer, bool) or not isinstance(answer, int):
        return
    if 0 <= answer < len(choices) and choices[answer] != str(answer):
        shown = repr(short(choices[answer], 40))
        raise UserError(
            f"{where}: `answer` is {answer}, which may be the place of {shown} "
            "counted from 0; write the choice's letter, or its text in quotes"
        )


# --- R1-V's layout, and the plain one ---

PLAIN_KEYS = ("solution", "thinking", "choices", "id", "task", "boxes", "box_format")


def plain(record: dict, where: str) -> tuple[dict, dict]:
    """Read R1-V's layout, that of the sets built like it, and the plain one: docs/data.md.

        {"image": "a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"}
        {"images": ["a.png", "b.png"], "question": "Same?", "answer": "yes"}
        {"image": "a.jpg", "problem": "Please ...", "solution": [10, 20, 200, 300]}
        {"image": "a.png", "question": "Find the cats.", "boxes": [[10, 20, 200, 300]]}

    Boxes are in pixels, or as `box_format` says; those of Visual-RFT's solutions in 0 to 1000.
    """
    question = record_fields.text_of(record, record_fields.QUESTION_KEYS, where)
    if question is None:
        raise UserError(
            f"{where}: no question; expected `question` or `problem`, "
            f"found {', '.join(map(str, record)) or 'nothing'}"
        )
    answer = record_fields.text_of(record, record_fields.ANSWER_KEYS, where, (str, int, float))
    must_be_no_index(record, where)
    written = WrittenBoxes(record.get("boxes"))
    solution = record.get("solution")
    if isinstance(solution, list) and written.boxes is None:
        written = WrittenBoxes([solution])
        solution = None
    else:
        solution = record_fields.text_of(record, ["solution"], where)
    if written.boxes is not None and answer is not None and not boxes_in(answer, where, asked=True):
        raise UserError(f"{where}: both an answer and boxes; delete the one that is not asked for")
    tagged = ANSWER_TAG.findall(solution or "")
    if tagged and answer is None and written.boxes is None:
        asked = asks_for_boxes(question, record)
        written = boxes_in(tagged[-1], where, asked=asked) or WrittenBoxes()
    if answer is None and solution is not None:
        answer = gold_in(solution)
    solution = worked_out(record, solution, where)
    fields = {
        "question": question,
        "images": image_fields.pictures_of(record, where),
        "answer": answer,
        "choices": record_fields.choices_of(record, where),
        "solution": solution,
        "id": record.get("id"),
        "task": record.get("task"),
        "boxes": written.boxes,
        "box_format": record.get("box_format") or written.box_format,
        "box_style": written.style,
    }
    meta = record_fields.without(
        record,
        *record_fields.IMAGE_KEYS,
        *record_fields.QUESTION_KEYS,
        *record_fields.ANSWER_KEYS,
        *PLAIN_KEYS,
    )
    return fields, meta


def worked_out(record: dict, solution: str | None, where: str) -> str | None:
    """Give the response to imitate, if the solution is more than an answer."""
    thinking = record_fields.text_of(record, ["thinking"], where)
    if thinking and solution:  # R1-distilled: "<think>...</think>", then "<answer>...</answer>"
        solution = f"{thinking.strip()}\n{solution.strip()}"
    if solution is None or "<think>" in solution:
        return solution
    return None if ANSWER_TAG.fullmatch(solution.strip()) else solution


# --- conversations ---

TALK_KEYS = ("conversations", "choices", "id", "task", "box_format")


def conversation(record: dict, where: str) -> tuple[dict, dict]:
    """Read VLM-R1's JSONL, LLaVA's, Geo170K's and R3V's JSON, Visual-RFT's LISA.

    The first question and its answer; later turns are left out, as in VLM-R1. A box is in pixels,
    LISA's (with the picture in <img>) in 0 to 1000. Pictures lie in one of the usual folders.

        {"image": "a.png", "conversations": [{"from": "human", "value": "<image>How many?"},
                                             {"from": "gpt", "value": 3}]}
        ... {"from": "assistant", "value": "Solution:\\n1. ...\\nAnswer: 3"}
    """
    turns = record["conversations"]
    if not begins_with_question(turns):
        raise UserError(
            f"{where}: `conversations` must begin with a turn from human (or user) "
            "and one from gpt (or assistant), each with `from` and `value`"
        )
    question = record_fields.needed(turns[0], "value", where)
    tagged = re.findall(r"<img>(.*?)</img>", question)
    images = image_fields.pictures_of(record, where) + tagged
    question = re.sub(r"<img>.*?</img>", "", question)
    must_be_about(turns, question, images, where)
    value = turns[1].get("value")
    if isinstance(value, list):
        answer = solution = None
        written = WrittenBoxes([value], "pixels")
    else:
        value = record_fields.needed(turns[1], "value", where, (str, int, float)).strip()
        answer = gold_in(value)
        written = boxes_of_reply(value, question, record, images, bool(tagged), where)
        if not (answer or written):
            raise UserError(
                f"{where}: no answer; expected the reply to hold <answer> ... </answer> or "
                f'"Answer: ...", or to be an answer of fewer than {SHORT_ANSWER} characters'
            )
        solution = solution_of_reply(value, answer, bool(written))
        written = written or WrittenBoxes()
    fields = {
        "question": question,
        "images": images,
        "folders": record_fields.USUAL_FOLDERS,
        "answer": answer,
        "choices": record_fields.choices_of(record, where),
        "solution": solution,
        "id": record.get("id"),
        "task": record.get("task"),
        "boxes": written.boxes,
        "box_format": record.get("box_format") or written.box_format,
        "box_style": written.style,
    }
    return fields, record_fields.without(record, *record_fields.IMAGE_KEYS, *TALK_KEYS)


def begins_with_question(turns: Any) -> bool:
    """Tell whether a conversation begins with a question and its answer."""
    if not isinstance(turns, list) or len(turns) < 2:
        return False
    asked, reply = turns[:2]
    return (
        isinstance(asked, dict)
        and isinstance(reply, dict)
        and asked.get("from") in ("human", "user")
        and reply.get("from") in ("gpt", "assistant")
    )


def must_be_about(turns: list, question: str, images: list, where: str) -> None:
    """Refuse a conversation whose turns speak of pictures that are not read."""
    values = [turn.get("value") for turn in turns[1:] if isinstance(turn, dict)]
    texts = [value for value in values if isinstance(value, str)]
    if any("<image>" in value for value in values[1:] if isinstance(value, str)):
        raise UserError(
            f"{where}: a later turn has <image>, and only the first question and its answer are "
            "read; make that turn a record of its own, or delete it"
        )
    image_fields.must_match_marks([question], len(images), where)
    if not images:
        image_fields.must_match_marks([None, *texts], 0, where)


def boxes_of_reply(
    value: str, question: str, record: dict, images: list, is_lisa: bool, where: str
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
    return boxes_in(reply, where, corners=is_lisa, asked=asks_for_boxes(question, record))


def solution_of_reply(value: str, answer: str, has_boxes: bool) -> str | None:
    """Give the response to imitate, if a conversation's answer holds more than the answer.

    What is worked out before an untagged "Answer: 3" (R3V, Geo170K) is put in tags, so that what
    is learned from it can be scored: "<think> Solution:\\n1. ... </think><answer> 3 </answer>".
    """
    tagged = "<answer>" in value
    if tagged:
        rest = ANSWER_TAG.sub("", value)
    else:
        rest = value.removesuffix(answer).strip().removesuffix("Answer:")
    is_worked_out = "<think>" in value if has_boxes else rest.strip()
    if not is_worked_out:
        return None
    if answer and "Answer:" in value and not tagged:
        return with_answer(re.sub("</?think>", "", rest), answer)
    return value


# (the keys by which a record is recognised, its reader), tried in this order
LAYOUTS = [({"conversations"}, conversation), *published.LAYOUTS]
