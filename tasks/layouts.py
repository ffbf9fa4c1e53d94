"""From a row of a file to an Example: the common layouts."""

import re

from grading.boxes import FOUR_NUMBERS, boxes_in, boxes_to_text
from plumbing.errors import UserError
from plumbing.text import short
from tasks import box_fields, image_fields, prompts, published, record_fields
from tasks.example import Example
from tasks.images import locate

EXAMPLE_KEYS = "image(s), question (or problem) and answer (or solution)"
ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
OUR_WORDS = ("prompt_template", "boxes")  # keys of Example.meta that decide something
SHORT_ANSWER = 100  # characters: a text without tags that is longer is no answer


def to_example(record, file, line, needs_answer=True, name=None):
    """Example from one record of any layout in LAYOUTS, which is recognised by its keys; else from R1-V's or a plain one (`plain`). needs_answer=False: open-ended
    questions too, whose answer is then "".
    line, name: its place in the file, and its id if it has none, as `rows_of` has them.

    A layout's function turns a record into (fields, meta): `fields` are question, images, and where there are any answer, choices, solution, id,
    task, boxes, box_format, box_style and folders (in which its images may be); `meta` is what else is worth keeping.
    """
    where = f"{file}:{line}"
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: expected an object with question and answer, found {type(record).__name__}"
        )
    layout = next((function for keys, function in LAYOUTS if keys <= record.keys()), plain)
    fields, meta = layout(record, where)
    meta = with_our_words(meta, where)
    answer, boxes = fields.get("answer"), fields.get("boxes")
    if boxes is None and not (answer or "").strip() and needs_answer:
        raise UserError(
            f"{where}: no answer; expected `answer`, or `solution` with <answer> ... </answer>"
        )
    given = image_fields.as_list(fields["images"])
    images = [locate(image, file, where, fields.get("folders", ("",))) for image in given]
    image_fields.must_see(
        meta, record["conversations"] if layout is conversation else [], given, where
    )
    image_fields.must_match_marks(
        [fields.get("question"), *(fields.get("choices") or [])], len(images), where
    )
    if boxes is not None:
        boxes, size = box_fields.boxes_of_record(
            boxes, fields.get("box_format") or "pixels", images, where
        )
        answer = boxes_to_text(boxes, "pixels", size)
        meta = {
            **meta,
            "boxes": boxes,
            "size": size,
            **({"box_style": fields["box_style"]} if fields.get("box_style") else {}),
        }
    question = (
        record_fields.text_of(fields, ["question"], where).replace("<image>", "").strip()
    )  # placeholders of other formats: images always come first here
    known = record_fields.label_of(fields, "id", where) or name or f"{file.name}:{line}"
    return Example(
        known,
        images,
        question,
        (answer or "").strip(),
        fields.get("choices"),
        fields.get("solution"),
        record_fields.label_of(fields, "task", where),
        record_fields.carried(meta, where),
        where,
    )


def with_our_words(meta, where):
    """Check the keys left in a record that mean something here; null is as good as absent."""
    meta = {key: value for key, value in meta.items() if value is not None or key not in OUR_WORDS}
    template = meta.get("prompt_template")
    if "prompt_template" in meta and not (
        isinstance(template, str) and template in prompts.TEMPLATES
    ):
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


def gold_in(text):
    """The answer that a worked solution comes to, "" if that cannot be told: the last tagged one, else what follows the last "Answer:" (R3V, Geo170K),
    else all of it, if it is short.

    "<think> one, two </think><answer> 2 </answer>" -> "2"; "Solution:\\n1. ...\\nAnswer: B" -> "B"; "Answer:\\nYes" -> "Yes"; "3.5" -> "3.5"
    """
    tagged = ANSWER_TAG.findall(text)
    if tagged:
        return tagged[-1].strip()
    answer = text.rpartition("Answer:")[2].strip()
    return answer if len(answer) < SHORT_ANSWER else ""


def with_answer(solution, answer):
    """A worked solution that comes to this answer: in the place of its last tagged one, or after its thinking if it has none.

    "<think> hm </think><answer>3</answer>", "4" -> "<think> hm </think><answer> 4 </answer>"; "I see it.", "4" -> "<think> I see it. </think><answer> 4 </answer>"
    """
    tagged = list(ANSWER_TAG.finditer(solution))
    if tagged:
        return f"{solution[: tagged[-1].start()]}<answer> {answer} </answer>{solution[tagged[-1].end() :]}"
    thinking, closed, _ = solution.rpartition("</think>")
    return (
        f"{thinking}</think><answer> {answer} </answer>"
        if closed
        else f"<think> {solution.strip()} </think><answer> {answer} </answer>"
    )


def asks_for_boxes(question, record):
    """Whether a record speaks of boxes, so that "No Objects" is a statement about them: by its question, or by VLM-R1's `accu_reward_method`."""
    return (
        bool(re.search("bounding box|bbox|'Position'", question, re.IGNORECASE))
        or record.get("accu_reward_method") in record_fields.DETECTION_METHODS
    )


# ---- the layouts of published files, each with a record


def must_be_no_index(record, where):
    """Refuse an answer that is a number and may be the place of a choice, as in ScienceQA."""
    answer = next(
        (record[key] for key in record_fields.ANSWER_KEYS if record.get(key) is not None), None
    )
    choices = record_fields.choices_of(record, where)
    if not choices or isinstance(answer, bool) or not isinstance(answer, int):
        return
    if 0 <= answer < len(choices) and choices[answer] != str(answer):
        raise UserError(
            f"{where}: `answer` is {answer}, which may be the place of {short(choices[answer], 40)!r} "
            "counted from 0; write the choice's letter, or its text in quotes"
        )


def plain(record, where):
    """R1-V's layout, that of the sets built like it, and the plain one.

    {"image": "a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"}  ->  question "How many?", answer "3"        R1-V, Visual-RFT's classification
    {"images": ["a.png", "b.png"], "question": "Same?", "answer": "yes", "choices": ["yes", "no"]}
    {"image": "a.jpg", "problem": "Please ...", "solution": [10, 20, 200, 300], "normalized_solution": [...]}                    VLM-R1's REC, in pixels
    {"image": "a.jpg", "problem": "Detect ...", "solution": "<answer>[{'Position': [110, 120, 210, 230], 'Confidence': 1}]</answer>"}   Visual-RFT, 0 to 1000
    {"image": "a.png", "question": "Find the cats.", "boxes": [[10, 20, 200, 300], {"bbox_2d": [5, 5, 9, 9], "label": "cat"}], "box_format": "pixels"}
    `solution` may hold the reasoning too; R1-V's SFT data have it apart, in `thinking`. Relative paths resolve beside the file. `box_format` says how this
    record's boxes are written: pixels of the image (also if it is left out) or norm1000.
    """
    question = record_fields.text_of(record, record_fields.QUESTION_KEYS, where)
    if question is None:
        raise UserError(
            f"{where}: no question; expected `question` or `problem`, found {', '.join(map(str, record)) or 'nothing'}"
        )
    answer = record_fields.text_of(record, record_fields.ANSWER_KEYS, where, (str, int, float))
    must_be_no_index(record, where)
    boxes, solution, box_format, style = record.get("boxes"), record.get("solution"), None, None
    if isinstance(solution, list) and boxes is None:
        boxes, solution = [solution], None
    else:
        solution = record_fields.text_of(record, ["solution"], where)
    if boxes is not None and answer is not None and not boxes_in(answer, where, asked=True):
        raise UserError(f"{where}: both an answer and boxes; delete the one that is not asked for")
    tagged = ANSWER_TAG.findall(solution or "")
    if tagged and answer is None and boxes is None:
        boxes, box_format, style = boxes_in(
            tagged[-1], where, asked=asks_for_boxes(question, record)
        ) or (None, None, None)
    if answer is None and solution is not None:
        answer = gold_in(solution)
    thinking = record_fields.text_of(record, ["thinking"], where)
    if thinking and solution:
        solution = f"{thinking.strip()}\n{solution.strip()}"  # R1-distilled: "<think>...</think>", then "<answer>...</answer>"
    if (
        solution is not None
        and "<think>" not in solution
        and ANSWER_TAG.fullmatch(solution.strip())
    ):
        solution = None  # R1-V's: only the answer in tags; nothing worked out to imitate
    images = image_fields.pictures_of(record, where)
    fields = {
        "question": question,
        "images": images,
        "answer": answer,
        "choices": record_fields.choices_of(record, where),
        "solution": solution,
        "id": record.get("id"),
        "task": record.get("task"),
        "boxes": boxes,
        "box_format": record.get("box_format") or box_format,
        "box_style": style,
    }
    return fields, record_fields.without(
        record,
        *record_fields.IMAGE_KEYS,
        *record_fields.QUESTION_KEYS,
        *record_fields.ANSWER_KEYS,
        "solution",
        "thinking",
        "choices",
        "id",
        "task",
        "boxes",
        "box_format",
    )


def conversation(record, where):
    """VLM-R1's JSONL, LLaVA's, Geo170K's and R3V's JSON, Visual-RFT's LISA: the first question and its answer. Later turns are left out, as in VLM-R1.

    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": 3}]}
    {"image": "a.png", "conversations": [{"from": "user", "value": "How many?"}, {"from": "assistant", "value": "Solution:\\n1. ...\\nAnswer: 3"}]}
    {"image": ["a.png", "b.png"], "conversations": [..., {"from": "gpt", "value": "yes"}], "accu_reward_method": "yes_no"}
    {"image": "a.png", "conversations": [..., {"from": "gpt", "value": [10, 20, 200, 300]}]}            a box, in pixels; so is the text "[10, 20, 200, 300]"
    {"conversations": [{"from": "user", "value": "<img>/x/a.jpg</img> Output ..."}, {"from": "assistant", "value": "(100,200),(300,400)"}]}   LISA, 0 to 1000
    Their images are given by name, and the folder apart: beside the file, or in a folder there of one of the usual names. What is worked out before an
    untagged "Answer: 3" (R3V, Geo170K) is put in tags, so that what is learned from it can be scored: "<think> Solution:\\n1. ... </think><answer> 3 </answer>".
    """
    turns = record["conversations"]
    if not (
        isinstance(turns, list)
        and len(turns) >= 2
        and all(isinstance(turn, dict) for turn in turns[:2])
        and turns[0].get("from") in ("human", "user")
        and turns[1].get("from") in ("gpt", "assistant")
    ):
        raise UserError(
            f"{where}: `conversations` must begin with a turn from human (or user) and one from gpt (or assistant), each with `from` and `value`"
        )
    question, value = record_fields.needed(turns[0], "value", where), turns[1].get("value")
    tagged = re.findall(r"<img>(.*?)</img>", question)
    images, question = (
        image_fields.pictures_of(record, where) + tagged,
        re.sub(r"<img>.*?</img>", "", question),
    )
    values = [turn.get("value") for turn in turns[1:] if isinstance(turn, dict)]
    if any("<image>" in value for value in values[1:] if isinstance(value, str)):
        raise UserError(
            f"{where}: a later turn has <image>, and only the first question and its answer are "
            "read; make that turn a record of its own, or delete it"
        )
    image_fields.must_match_marks([question], len(images), where)
    if not images:
        image_fields.must_match_marks(
            [None, *(value for value in values if isinstance(value, str))], 0, where
        )
    answer = solution = found = None
    if isinstance(value, list):
        found = ([value], "pixels", None)
    else:
        value = record_fields.needed(turns[1], "value", where, (str, int, float)).strip()
        answer, reply, method = (
            gold_in(value),
            (ANSWER_TAG.findall(value) or [value])[-1].strip(),
            record.get("accu_reward_method"),
        )
        if method in record_fields.DETECTION_METHODS and answer.lower().rstrip(".") == "none":
            found = [], "pixels", None
        elif (
            FOUR_NUMBERS.fullmatch(reply)
            and len(images) == 1
            and method in (None, "default", *record_fields.DETECTION_METHODS)
        ):  # not mcq, math, ...
            found = [[float(v) for v in reply.strip("[]").split(",")]], "pixels", None
        else:
            found = boxes_in(
                reply, where, corners=bool(tagged), asked=asks_for_boxes(question, record)
            )
        if not (answer or found):
            raise UserError(
                f'{where}: no answer; expected the reply to hold <answer> ... </answer> or "Answer: ...", or to be an answer of fewer than {SHORT_ANSWER} characters'
            )
        rest = (
            ANSWER_TAG.sub("", value)
            if "<answer>" in value
            else value.removesuffix(answer).strip().removesuffix("Answer:")
        )
        solution = (
            value if ("<think>" in value if found else rest.strip()) else None
        )  # more than the answer: worked out
        if solution and answer and "Answer:" in value and "<answer>" not in value:
            solution = with_answer(re.sub("</?think>", "", rest), answer)
    boxes, box_format, style = found or (None, None, None)
    fields = {
        "question": question,
        "images": images,
        "folders": record_fields.USUAL_FOLDERS,
        "answer": answer,
        "choices": record_fields.choices_of(record, where),
        "solution": solution,
        "id": record.get("id"),
        "task": record.get("task"),
        "boxes": boxes,
        "box_format": record.get("box_format") or box_format,
        "box_style": style,
    }
    return fields, record_fields.without(
        record, *record_fields.IMAGE_KEYS, "conversations", "choices", "id", "task", "box_format"
    )


# (the keys by which a record is recognised, its reader), tried in this order
LAYOUTS = [({"conversations"}, conversation), *published.LAYOUTS]
