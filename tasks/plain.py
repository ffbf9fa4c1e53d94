"""Records of one question without a conversation: the plain layout, R1-V's, VLM-R1 REC's."""

from plumbing.errors import UserError
from tasks import box_texts, gold_keys, image_fields, record_fields
from tasks.box_texts import WrittenBoxes
from tasks.option_texts import with_choices
from tasks.thinking import ANSWER_TAG, THINK_TAG, in_our_tags
from tasks.worked_answers import gold_in, must_agree, split_gold

PLAIN_KEYS = ("solution", "thinking", "id", "task", "boxes", "box_format")


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read R1-V's layout, that of the sets built like it, and the plain one: docs/data.md.

        {"image": "a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"}
        {"images": ["a.png", "b.png"], "question": "Same?", "answer": "yes"}
        {"image": "a.jpg", "problem": "Please ...", "solution": [10, 20, 200, 300]}
        {"image": "a.png", "question": "Find the cats.", "boxes": [[10, 20, 200, 300]]}

    Boxes are in pixels, or as `box_format` says; those of Visual-RFT's solutions in 0 to 1000.
    """
    record = image_fields.gathered(record, where)
    question = record_fields.question_of(record, where)
    if question is None:
        raise UserError(
            f"{where}: no question; expected `question` or `problem`, "
            f"found {', '.join(map(str, record)) or 'nothing'}"
        )
    answer = gold_keys.answer_of(record, where)
    images = image_fields.pictures_of(record, where)
    written, solution = boxes_of(record, question, where)
    told = solution if answer is None and written.boxes is None else answer
    part = box_texts.gold_part(told or "")
    in_text = box_texts.boxes_in(part, where, question, record, len(images))
    if written.boxes is None:
        written = in_text or written
    elif written.boxes == [] and answer is not None:
        written = in_text or WrittenBoxes()  # a column of a set that asks for both
    elif answer is not None and not in_text:
        raise UserError(f"{where}: both an answer and boxes; delete the one that is not asked for")
    choices = record_fields.choices_of(record, where)
    if answer is not None and written.boxes is None:
        must_agree(split_gold(answer, where).answer, solution, choices, where)
    if answer is None and solution is not None:
        answer = gold_in(solution)
    gold = split_gold(answer, where).answer if answer else None
    has_gold = bool(gold) or written.boxes is not None
    solution = worked_out(record, solution, has_gold, where)
    fields = {
        "question": with_choices(question, choices, gold),
        "images": images,
        "answer": answer,
        "choices": choices,
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
        record_fields.choice_key(record),
        *PLAIN_KEYS,
    )
    return fields, meta


def boxes_of(record: dict, question: str, where: str) -> tuple[WrittenBoxes, str | None]:
    """Give the boxes under `boxes`, or in a `solution` that is a list, and the solution's text."""
    written, solution = WrittenBoxes(record.get("boxes")), record.get("solution")
    if isinstance(solution, list) and written.boxes is None:
        return box_texts.boxes_of_list(solution, question, record, where), None
    return written, in_our_tags(record_fields.text_of(record, ["solution"], where) or "") or None


def worked_out(record: dict, solution: str | None, has_gold: bool, where: str) -> str | None:
    """Give the response to imitate, if there is more than an answer; it is added later."""
    thinking = record_fields.text_of(record, ["thinking"], where)
    if thinking and solution:  # R1-distilled: "<think>...</think>", then "<answer>...</answer>"
        solution = in_our_tags(f"{thinking.strip()}\n{solution.strip()}")
    elif thinking and has_gold:
        solution = f"<think> {THINK_TAG.sub('', in_our_tags(thinking)).strip()} </think>"
    if solution is None or "<think>" in solution:
        return solution
    return None if ANSWER_TAG.fullmatch(solution.strip()) else solution
