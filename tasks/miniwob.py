"""MiniWob++ as SeeClick recorded it: one step of a web task, from its screenshot.

miniwob_data_train.json is {task: [episode: [step, ...]]} (github.com/njucckevin/SeeClick, 0ef37ac).
SeeClick and R3V report the share of episodes solved in the live environment. What is counted here
is the share of recorded steps that are met, which is a different figure.
"""

import re

from grading.answers import extract_answer
from plumbing.errors import UserError
from tasks import record_fields
from tasks.example import Example
from tasks.protocol import Protocol

SAMPLE = {
    "task": "click-button",
    "img_filename": "click-button-1-0.jpg",
    "goal": 'Click on the "ok" button.',
    "action_type": "click",
    "bbox": [20, 100, 60, 121],
    "earlier": [],
}

WIDTH, HEIGHT = 160, 210  # of a screenshot, in pixels
MOST = 100_000  # a larger side of a box is none
TYPE, CLICK = 3, 4  # as actions are numbered
PROMPT = (
    "Please generate the next move according to the ui screenshot, instruction and previous "
    "actions. Instruction: {}. Previous actions: {}"
)
SHOWN = 4  # previous actions
NUMBER = r"\s*(-?[0-9]{1,9}(?:\.[0-9]{1,20})?)\s*"
POINT = re.compile(rf'"click_point"\s*:\s*[(\[]{NUMBER},{NUMBER}[)\]]')
ACTION = re.compile(r'"action_type"\s*:\s*"?([0-9]+)')
TEXT = re.compile(r'"typed_text"\s*:\s*"')


def read(record: dict, where: str) -> tuple[dict, dict]:
    """Read a step; `earlier` holds the steps before it in its episode."""
    earlier = record.get("earlier") if isinstance(record.get("earlier"), list) else []
    for step in [*earlier, record]:
        must_be_step(step if isinstance(step, dict) else {}, where)
    before = [action_of(step) for step in earlier][-SHOWN:]
    previous = "".join(f"Step{place}: {action}. " for place, action in enumerate(before))
    goal = record_fields.needed(record, "goal", where)
    episode = [record.get(name) for name in ("task", "episode", "step")]
    known = "-".join(str(part) for part in episode if part is not None)
    fields = {
        "question": PROMPT.format(goal, previous).strip(),
        "images": record_fields.needed(record, "img_filename", where),
        "folders": ("", "miniwob_imgs", "images"),
        "answer": action_of(record),
        "id": record.get("id") or known or None,
        "task": record.get("task"),
    }
    return fields, record_fields.without(record, "goal", "img_filename", "earlier", "id")


def must_be_step(step: dict, where: str) -> None:
    """Refuse a step without the box of its click or the text that it types."""
    if step.get("action_type") == "type" and isinstance(step.get("typed_text"), str):
        return
    if step.get("action_type") == "click" and is_box(step.get("bbox")):
        return
    raise UserError(
        f"{where}: the step, or one before it, is no action; expected `action_type` click with "
        "`bbox`, [left, top, right, bottom], or type with `typed_text`; delete the episode"
    )


def is_box(box: object) -> bool:
    """Tell whether this is a box of four numbers."""
    is_list = isinstance(box, list) and len(box) == 4
    return is_list and all(isinstance(side, int | float) and abs(side) < MOST for side in box)


def action_of(step: dict) -> str:
    """Write a recorded step as the action that a model is to write, as SeeClick does.

    {"action_type": 4, "click_point": (0.25,0.53)}, in shares of width and height, or
    {"action_type": 3, "typed_text": "ok"}.
    """
    if step.get("action_type") == "type":
        return f'{{"action_type": {TYPE}, "typed_text": "{step.get("typed_text", "")}"}}'
    left, top, right, bottom = step["bbox"]
    x, y = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
    return f'{{"action_type": {CLICK}, "click_point": ({round(x, 3):.2f},{round(y, 3):.2f})}}'


def saved(record: dict) -> dict:
    """Check that a saved click has the box of its target. ValueError without one."""
    answer = record.get("answer")
    action = read_action(answer) if isinstance(answer, str) else None
    if action is None:
        raise ValueError(
            'the gold is no action; write {"action_type": 4, "click_point": (0.25,0.53)}, or '
            '{"action_type": 3, "typed_text": "ok"}'
        )
    if action[0] == CLICK and not is_box(record.get("bbox")):
        raise ValueError(
            "a click is scored by the box of its target; add `bbox`, [left, top, right, bottom] "
            f"in pixels of {WIDTH} x {HEIGHT}"
        )
    return record


def read_action(text: str) -> tuple[int, tuple[float, float] | str] | None:
    """Read the action in an answer: (4, (x, y)) or (3, text); None if there is none, or two."""
    kinds, points, typed = ACTION.findall(text), POINT.findall(text), TEXT.search(text)
    if kinds == [str(CLICK)] and len(points) == 1 and not typed:
        x, y = points[0]
        return CLICK, (float(x), float(y))
    if kinds != [str(TYPE)] or not typed:
        return None
    words = text[typed.end() : text.rfind("}")].rstrip()  # quotes in it are not escaped
    return (TYPE, words[:-1]) if words.endswith('"') else None


def body_of(completion: str) -> str | None:
    """Read the tagged answer, or without tags what follows the thinking, if it holds an action."""
    if "<answer>" in completion or "</answer>" in completion:
        body = extract_answer(completion)
    else:
        body = completion.rpartition("</think>")[2]
        body = None if "<think>" in body else body
    return body if body is not None and read_action(body) else None


def score_step(completion: str, example: Example) -> float:
    """Score 1 for a click inside the recorded target, or the recorded text, letter by letter."""
    body = body_of(completion)
    said, gold = body and read_action(body), read_action(example.answer)
    if not said or not gold or said[0] != gold[0]:
        return 0.0
    if gold[0] == TYPE:
        return float(said[1] == gold[1])
    left, top, right, bottom = example.meta["bbox"]
    x, y = said[1][0] * WIDTH, said[1][1] * HEIGHT
    return float(left <= x <= right and top <= y <= bottom)


PROTOCOL = Protocol(
    name="miniwob",
    sample=SAMPLE,
    layouts=(({"img_filename", "goal", "action_type"}, read),),
    saved=saved,
    score=score_step,
    reads=body_of,
    by=("task", "action_type"),
)
