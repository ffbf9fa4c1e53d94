r"""The published evaluation protocols, ours beside the originals: text in, float out. For scoring only; what trains is in rewards.py.

    ORIGINALS[name](completion, example) -> float      what a published reward or scorer computes, bugs included
    PROTOCOLS[name]                                    how a benchmark is asked, read, scored by us, and scored by its project
    to_examples(records, name) -> pairs                saved outputs, {"prediction": text, "answer": gold, ...} each
    score(pairs, name) -> (result, rows)               and their figures

The originals are written from descriptions of R1-V, open-r1-multimodal, VisualThinker, VLM-R1, Visual-RFT, align-anything, Pix2Struct and
R3V (MM-Self-Improve) and from what their functions return, which they agree with on thousands of inputs (docs/rewards.md). Where such a
function raises and would end its run, the original here returns 0. They are kept to reproduce published numbers and to show where those come from: a user who trains
on one of them gets the hacks that come with it, so none of them is in rewards.REWARDS.

Most of them hand the model's whole text to math-verify in its default setting, whose expression path calls sympy.parse_expr, that is Python's
eval. See `_limit` for why nothing but digits and operators gets there, and for the process it happens in.
"""

import functools
import hashlib
import json
import math
import os
import re
import sys
from fractions import Fraction
from types import SimpleNamespace

from rapidfuzz.distance import Indel

import rewards
from grading import metrics
from grading.answers import (
    MAX_TAIL,
    choice_index,
    extract_answer,
    match_answer,
    quantity,
    undecided,
)
from grading.boxes import (
    MAX_DETECTIONS,
    THRESHOLDS,
    area_under,
    from_pixels,
    mean_average_precision,
    normalize_label,
    parse_boxes,
    predicted_boxes,
    to_pixels,
)
from grading.math_worker import MathWorker, serve
from grading.reading import read as read_answer
from grading.units import is_measure
from grading.values import Expression
from plumbing.errors import UserError
from plumbing.text import cut

MATH_SECONDS = 5  # of CPU time for one comparison by math-verify, whose own limit is 5 s of the clock; what is later is not equal, and counted
MATH_BYTES = 2 << 30  # address space of the process it runs in


# -------------------------------------------------------------------------------------------------------- part 1: the originals
#
# Each takes (completion, example) with example.answer the gold as text, without tags, and returns what the project's function returned. Those in
# NEEDS_TOKENS take (completion, example, tokens, max_tokens) instead. TimeoutError where math-verify did not finish: `score` counts it, as 0.

NEEDS_TOKENS = {"visualthinker_length", "vlmr1_length"}


def first_answer(text, dotall=True):
    """Body of the first <answer>...</answer>, not stripped, or None; dotall=False: of the first that lies on one line (re.search without DOTALL)."""
    at, end = text.find("<answer>"), -1
    while at >= 0:
        end = end if end >= at else text.find("</answer>", at)  # looked for once, so this is linear
        if end < 0:
            return None
        newline = -1 if dotall else text.find("\n", at, end)
        if newline < 0:
            return text[at + 8 : end]
        at = text.find("<answer>", newline)  # no tag before this newline can close on its own line
    return None


def first_line_answer(text):
    r"""Body of the first <answer>\s*(.*?)\s*</answer>, stripped, or None: without DOTALL, but the newlines next to the tags belong to them."""
    for chunk in text.split("</answer>")[:-1]:
        head, newline, line = chunk.rstrip().rpartition("\n")
        if newline and head.rstrip().endswith("<answer>"):
            return line.strip()
        _, tag, body = line.partition("<answer>")
        if tag:
            return body.strip()
    return None


def last_answer(text):
    """Body of the last pair that re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL) finds, or None."""
    body, at = None, text.find("<answer>")
    while at >= 0:
        end = text.find("</answer>", at)
        if end < 0:
            break
        body, at = text[at + 8 : end], text.find("<answer>", end)
    return body


def indel_ratio(a, b):
    """Levenshtein.ratio: 2 LCS(a, b) / (len(a) + len(b)), 1.0 for two empty texts."""
    total = len(a) + len(b)
    # rapidfuzz's own ratio is 1 - distance / total, which rounds twice.
    return Indel.similarity(a, b) / total if total else 1.0


# ---- R1-V, open-r1-multimodal, VisualThinker


def r1v_accuracy(completion, example):
    """R1-V (also open-r1-multimodal, VisualThinker and Visual-RFT as a first stage). 0 or 1: math-verify on the *whole* text, or equal strings.

    Bugs: a number, \\boxed{} or "final answer" in the thinking beats the tag, because digits glued to tags are not read; of "3 or 7" the last
    counts; the arguments of `verify` are reversed; the tag is searched without DOTALL, so "\\nA\\n" is not found; strings are compared with case.
    """
    body = first_answer(completion, dotall=False)
    body = completion.strip() if body is None else body.strip()
    if (
        body == example.answer.strip()
    ):  # its second stage; first here, because it is the cheaper half of an "or"
        return 1.0
    return float(verify(completion, f"<answer> {example.answer} </answer>"))


def r1v_format(completion, example=None):
    """R1-V, Visual-RFT, VisualThinker, VLM-R1. 0 or 1: fullmatch of <think>.*?</think>\\s*<answer>.*?</answer> with DOTALL, here without backtracking.

    Bugs: empty bodies pass, and nested and repeated blocks; a final newline fails.
    """
    framed = completion.startswith("<think>") and completion.endswith("</answer>")
    return float(framed and bool(re.search(r"</think>\s*<answer>", completion[7:-9])))


def open_r1_format(completion, example=None):
    """Compute open-r1-multimodal's and R1-Onevision's format, 0 or 1: re.match without DOTALL.

    A newline in the thinking fails, text after the answer passes. Here without backtracking.
    """
    line, _, rest = completion.partition("\n")
    if not line.startswith("<think>"):
        return 0.0
    found = re.search(r"</think>[^\S\n]*<answer>", line[7:])
    if found and "</answer>" in line[7 + found.end() :]:
        return 1.0
    answer = rest.lstrip()
    next_line = line[7:].rstrip().endswith("</think>") and answer.startswith("<answer>")
    return float(next_line and "</answer>" in answer.partition("\n")[0])


def visualthinker_accuracy(completion, example):
    """Compute VisualThinker's accuracy, 0 or 1: R1-V's rule, or the last standalone letter A to H.

    Bugs: R1-V's; "A." is no letter; of "A or B" the last counts, unless the first took the space.
    Its data glue the gold to its tags, where math-verify reads no plain number.
    """
    body = first_answer(completion, dotall=False)
    body = completion.strip() if body is None else body.strip()
    letters = re.findall(r"(?:^|\s|\[|\()([A-H])(?:\s|\]|\)|$)", body)
    if example.answer.strip() in (letters[-1:] or [body]) or body == example.answer.strip():
        return 1.0
    return float(verify(completion, f"<answer>{example.answer}</answer>"))


def visualthinker_length(completion, example, tokens, max_tokens=None):
    """VisualThinker. 0.001 a token, unbounded. It is paid for repetition: longer text, no better answers."""
    return 0.001 * tokens


# ---- VLM-R1


def clean_text(text):
    """VLM-R1's normal form: last answer body if any; newlines to spaces (dropped after white space); stripped; final periods away; lower case."""
    body = last_answer(text)
    text = text if body is None else body
    return (
        re.sub(
            r"(?<=\s)\n|(?<!\s)\n",
            lambda m: "" if m.start() and text[m.start() - 1].isspace() else " ",
            text,
        )
        .strip()
        .rstrip(".")
        .lower()
    )


CHOICE_WORDS = "答案 选择 正确 是 对 ANSWER CORRECT CHOOSE SELECT RIGHT 认为 应该 觉得 THINK BELIEVE SHOULD".split()


def extract_choice(text):
    """VLM-R1's letter of a choice, or None. Any capital before . , ? ! : ; or the end; of several the one with most points.

    Bugs: "(A)" and "A)" are none; any capital A to Z counts ("I."). The points of a letter are those of its first occurrence anywhere, inside
    words too: the only reading under which "I think A, but B." is A, as measured.
    """
    text = re.sub(r"\s+", " ", text.upper())
    letters = re.findall(r"(?<![A-Z])([A-Z])(?=[.,?!:;]|$)", text)
    if len(letters) < 2:
        return letters[0] if letters else None
    points = {}
    for letter in dict.fromkeys(letters):
        at = text.find(letter)
        near = text[max(0, at - 20) : at + 20]
        points[letter] = (
            sum(word in near for word in CHOICE_WORDS)
            + 2 * (at > 0.7 * len(text))
            + (text[at + 1 : at + 2] in tuple("。.!！,，"))
        )
    return max(points, key=points.get)  # ties: the first


def vlmr1_accuracy(completion, example):
    """VLM-R1's accuracy "default". [0, 1]: math-verify on the last answer body (or the whole text); else float, letter or Levenshtein ratio.

    Bugs: a wrong text answer is paid for its letters; without tags the thinking is scored; an empty gold would pay everything.
    """
    gold, said = example.answer, last_answer(completion)
    said = completion.strip() if said is None else said.strip()
    late = None
    try:
        if verify(said, gold):
            return 1.0
    except TimeoutError as error:
        late = error
    a, b = clean_text(said), clean_text(gold)
    if re.search(r"\d", gold):
        try:
            score = float(float(a) == float(b))
        except ValueError:
            score = indel_ratio(a, b)
    elif extract_choice(gold):
        score = float(extract_choice(said) == extract_choice(gold))
    else:
        score = indel_ratio(a, b)
    if late and score < 1:
        raise late
    return score


def vlmr1_mcq(completion, example):
    """VLM-R1's "mcq". 0 or 1: the letters of `extract_choice` agree. Bugs: a gold "(A)" has none and is compared with its tags, so nothing is right."""
    said = first_answer(completion)
    letter = extract_choice(completion.strip() if said is None else said.strip())
    return float(
        letter is not None
        and letter == (extract_choice(example.answer) or f"<answer> {example.answer} </answer>")
    )


def vlmr1_yes_no(completion, example):
    """Compute VLM-R1's "yes_no", 0 or 1: the first "yes" or "no" anywhere agrees.

    Bugs: "I do not know" is no; two texts with neither agree. Case is dropped before tags are read.
    """
    text = completion.lower()
    body = first_answer(text)
    said = re.search("yes|no", text if body is None else body)
    gold = re.search("yes|no", example.answer.lower())
    return float((said and said[0]) == (gold and gold[0]))


def vlmr1_all_match(completion, example):
    """VLM-R1's "all_match". 0 or 1: equal in normal form."""
    return float(clean_text(completion) == clean_text(example.answer))


def vlmr1_length(completion, example, tokens, max_tokens=None):
    """VLM-R1's cosine "length", documented as [-0.5, 1]. Really [0.5, 1] whatever the answer (correctness is overwritten by 1), and periodic: at
    0 and at 2048 tokens 1.0, at 1024 0.5."""
    return 1.0 - 0.5 * (1 - math.cos(math.pi * tokens / 1024)) / 2


def vlmr1_repetition(completion, example=None):
    """Compute VLM-R1's "repetition": -(1 - unique / all) of boxes or 6-grams, in [-1, 0].

    The boxes count, as texts "box_label", where the text holds a list in plain JSON that is not
    empty; else words do.
    An item such as null or 3 stops the run there and is 0 here. Broken JSON, which the original
    repairs with json_repair, counts as words here.
    """
    listed = json_list(completion)
    if not listed:
        words = completion.lower().split()
        return repeated(list(zip(*(words[i:] for i in range(6)))))
    items = []
    for item in listed:
        if isinstance(item, dict):
            if "bbox_2d" in item and "label" in item:
                items.append(f"{item['bbox_2d']}_{item['label']}")
        elif not isinstance(item, (list, str)) or ("bbox_2d" in item and "label" in item):
            return 0.0  # theirs: TypeError
    return repeated(items)


def repeated(items):
    """Return -(1 - unique / all), 0 of nothing."""
    return len(set(items)) / len(items) - 1 if items else 0.0


def json_list(text):
    """Return the list in VLM-R1's first fence, or in its first span of boxes, or None."""
    found = fence(text, "```json")
    if found is None:
        plain = fence(text, "```")
        found = plain if plain and plain.strip() else box_span(text)
    if found is None:
        return None
    try:
        items = json.loads(found)
    except (RecursionError, ValueError):
        return None
    return items if isinstance(items, list) else None


def fence(text, opening, last=False):
    """What stands between ```json and ```, or None."""
    at = text.rfind(opening) if last else text.find(opening)
    end = text.find("```", at + len(opening))
    return text[at + len(opening) : end] if at >= 0 and end >= 0 else None


def box_span(text):
    """Return the text from the first "[{" over "bbox_2d" and "label" to the next "}]", or None."""
    start = at = None
    for pattern in (r"\[\s*\{", '"bbox_2d"', '"label"', r"\}\s*\]"):
        found = re.compile(pattern).search(text, at or 0)  # the earliest is enough, and linear
        if not found:
            return None
        start = found.start() if start is None else start
        at = found.end()
    return text[start:at]


def fenced_items(text, last=False):
    """Return the items of a ```json fence as they stand, or [] where nothing can be listed."""
    try:
        found = json.loads(fence(text, "```json", last) or "[]")
    except (RecursionError, ValueError):
        return []
    return list(found) if isinstance(found, (dict, list, str)) else []


def item_box(item):
    """Return the first four numbers of an item's "bbox_2d", or None."""
    box = item.get("bbox_2d") if isinstance(item, dict) else None
    if not isinstance(box, list) or len(box) < 4:
        return None
    if not all(isinstance(v, (int, float)) for v in box[:4]):
        return None
    try:
        return [float(v) for v in box[:4]]
    except OverflowError:  # an integer of more than 308 digits
        return None


def gold_items(example):
    """Return VLM-R1's gold: (box in pixels, label as it is written) of each gold box."""
    return [(list(map(float, box["bbox_2d"])), str(box["label"])) for box in example.meta["boxes"]]


def vlmr1_weighted_sum(completion, example):
    """Compute VLM-R1's detection score: 0.7 position and 0.3 completeness, in [0, 1].

    Position: IoU of greedy pairs (at least 0.5) over n_gold. Completeness: 1 - (missed + junk) / 2.
    Bugs: a wrong label zeroes the IoU but is not missed; an item without a box is one junk item;
    a box without a label takes the label of the pair before; if it is the first, the run stops (0 here).
    """
    gold, content = gold_items(example), clean_text(completion)
    if not gold:
        return float(content == "none")
    items = fenced_items(content)
    found = [(i, item_box(item)) for i, item in enumerate(items)]
    pairs = []
    for i, box in found:
        for j, (gold_box, _) in enumerate(gold):
            value = raw_iou(box, gold_box) if box else 0.0
            if value >= 0.5:
                pairs.append((-value, i, j))
    used_p, used_g, position, said = set(), set(), 0.0, None
    for value, i, j in sorted(pairs):
        if i in used_p or j in used_g:
            continue
        used_p.add(i)
        used_g.add(j)
        label = items[i].get("label")
        said = label.lower() if isinstance(label, str) else said
        if said is None:
            return 0.0  # theirs: UnboundLocalError
        position -= value * (said == gold[j][1].lower())
    if not items:
        return 0.0
    missed, junk = 1 - len(used_g) / len(gold), 1 - len(used_p) / len(items)
    return 0.7 * position / len(gold) + 0.3 * (1 - (missed + junk) / 2)


MOST_AREA = 1e10  # COCO ignores a detection of another area than 0 to this, unless it matches


def coco_hits(found, gold, threshold):
    """Return COCO's verdict, True or False, on the boxes of one class in one image, in order."""
    taken, hits = set(), []
    for box in found[:MAX_DETECTIONS]:
        best, most = None, threshold
        for j, other in enumerate(gold):
            value = coco_iou(box, other)
            if j not in taken and not value < most:  # NaN matches, as it does in COCO
                best, most = j, value
        if best is not None:
            taken.add(best)
            hits.append(True)
            continue
        area = (box[2] - box[0]) * (box[3] - box[1])
        if not area < 0 and not area > MOST_AREA:
            hits.append(False)
    return hits


def coco_iou(box, other):
    """Return pycocotools' IoU, which is NaN where a number of the box is NaN."""
    if any(map(math.isnan, box)):
        return math.nan
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area, other_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return width * height / (area + other_area - width * height)


def vlmr1_ap(completion, example, thresholds):
    """Return VLM-R1's COCO mAP of one image: the mean over the gold's labels and the thresholds.

    All scores are 1. Labels are compared with case; predictions of other labels are dropped.
    """
    body = last_answer(completion)
    if body is None:
        return 0.0
    gold, items = gold_items(example), fenced_items(body, last=True)
    if not gold or not items:
        return float(not gold and not items)
    values = []
    for label in sorted({label for _, label in gold}):
        golds = [box for box, other in gold if other == label]
        named = [item for item in items if isinstance(item, dict) and item.get("label") == label]
        boxes = [box for box in map(item_box, named) if box]
        values += [area_under(coco_hits(boxes, golds, t), len(golds)) for t in thresholds]
    return sum(values) / len(values)


def vlmr1_od_ap(completion, example):
    """Compute VLM-R1's "od_ap": COCO mAP of one image, in [0, 1].

    Bugs: predictions with a label that the gold lacks are dropped, so spam is free; "Cat" is not "cat";
    boxes with one side reversed are ignored.
    """
    return vlmr1_ap(completion, example, THRESHOLDS)


def vlmr1_od_ap50(completion, example):
    """Compute VLM-R1's "od_ap50": the same at IoU 0.5 only, in [0, 1]."""
    return vlmr1_ap(completion, example, THRESHOLDS[:1])


def vlmr1_od_length(completion, example):
    """Compute VLM-R1's "odLength", in [0, 1]: mAP, times n_gold / n_items if there are more items."""
    gold, items = gold_items(example), fenced_items(last_answer(completion) or "", last=True)
    share = len(gold) / len(items) if gold and items else 1.0
    return vlmr1_od_ap(completion, example) * min(1.0, share)


MOST_DIGITS = 300  # of a coordinate; Python's float ends at 308
INTEGER_BOX = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)]")


def vlmr1_box_iou(found, example):
    """IoU of four integers with the first gold box, after scaling from the resized image, where its size is known. Overlaps of one pixel are 0."""
    if not example.meta["boxes"]:
        return 0.0
    if max(map(len, map(str, found))) > MOST_DIGITS:
        return 0.0  # theirs: ValueError or OverflowError
    a, b = [int(v) for v in found], example.meta["boxes"][0]["bbox_2d"]
    if example.meta.get("resized") and example.meta.get("size"):
        (w, h), (W, H) = example.meta["resized"], example.meta["size"]
        a = [a[0] * W / w, a[1] * H / h, a[2] * W / w, a[3] * H / h]
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]) - 1, min(a[3], b[3]) - 1
    overlap = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else 0.0  # theirs: ZeroDivisionError, caught, 0


def vlmr1_iou(completion, example):
    """VLM-R1's REC reward. [0, 1]: IoU of the *first* integer box of the first answer. Bugs: floats are not read; coordinates are Qwen2.5-VL's."""
    found = INTEGER_BOX.search(first_answer(completion) or "")
    return float(vlmr1_box_iou(found.groups(), example)) if found else 0.0


def vlmr1_iou_hard(completion, example):
    """Old VLM-R1, R1-Onevision. 0 or 1: that IoU is above 0.5."""
    return float(vlmr1_iou(completion, example) > 0.5)


def vlmr1_rec(completion, example):
    """Compute VLM-R1's REC evaluation, 0 or 1: IoU above 0.5.

    Of the *last* integer box inside braces in the first answer (the reward takes the first).
    Without a closing brace nothing is read.
    """
    body = first_answer(completion) or ""
    start, end = body.find("{"), body.rfind("}")
    found = INTEGER_BOX.findall(body[start + 1 : end]) if 0 <= start < end else []
    return float(vlmr1_box_iou(found[-1] if found else (0, 0, 0, 0), example) > 0.5)


def vlmr1_format_rec(completion, example=None):
    """VLM-R1's REC format. 0 or 1: <think>, </think> <answer>, {, an integer box, } and </answer> in this order, anything between and around."""
    at = 0
    for pattern in (
        r"<think>",
        r"</think>\s*<answer>",
        r"\{",
        r"\[\d+,\s*\d+,\s*\d+,\s*\d+\]",
        r"\}",
        r"</answer>",
    ):
        found = re.compile(pattern).search(
            completion, at
        )  # the earliest of each is enough, and linear
        if not found:
            return 0.0
        at = found.end()
    return 1.0


# ---- Visual-RFT


def raw_iou(a, b):
    """Return the plain IoU of two boxes as they are written: corners are not ordered."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width, height = max(0, min(ax2, bx2) - max(ax1, bx1)), max(0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height
    return width * height / union if union else 0.0


def visualrft_gold(example):
    """The gold as Visual-RFT writes it: "[{'Position': [x1, y1, x2, y2], 'Confidence': 1}, ...]" in 0 to 1000."""
    text = example.meta.get("solution")
    if isinstance(text, str):
        return last_answer(text) or text
    boxes = [
        from_pixels(box["bbox_2d"], "norm1000", example.meta["size"])
        for box in example.meta["boxes"]
    ]
    return (
        "["
        + ", ".join(
            f"{{'Position': [{', '.join(str(round(v)) for v in box)}], 'Confidence': 1}}"
            for box in boxes
        )
        + "]"
    )


def visualrft_read(text):
    """Return Visual-RFT's list of (box, confidence as written); of equal boxes the first.

    Quotes are changed and a list without "]" is closed after its last "},", if any; then it is JSON.
    Raises READING.
    """
    text = text.replace("[[", "[").replace("]]", "]").replace("\n", "")
    text = text.split("</answer>", 1)[
        0
    ].strip()  # theirs wraps it in tags once more; "<answer>" stays
    if not text.endswith("]"):
        end = text.rfind("},")
        text = (text if end < 0 else text[:end]) + "}]"
    items = json.loads(text.replace("'", '"'))
    seen = {}
    for item in items:
        seen.setdefault(tuple(item["Position"]), item.get("Confidence"))
    return list(seen.items())


def visualrft_matches(completion, example):
    """Return [(IoU or 0 if not above 0.5, confidence)] by confidence, and the number of golds.

    Raises READING, which the original swallows.
    """
    body = first_answer(completion, dotall=False)
    read = visualrft_read(completion.strip() if body is None else body.strip())
    if not read:
        raise IndexError("an empty list of predictions")
    found = sorted(read, key=lambda item: -item[1])  # TypeError for a confidence that is no number
    free = [box for box, _ in visualrft_read(visualrft_gold(example))]
    total, scored = len(free), []
    for box, confidence in found:
        best = max(free, key=lambda gold: raw_iou(box, gold), default=None)
        value = raw_iou(box, best) if best else 0.0
        scored.append((value if value > 0.5 else 0.0, confidence))
        if value > 0.5:
            free.remove(best)
    return scored, total


READING = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError
)  # fmt: skip


def visualrft_iou(completion, example):
    """Visual-RFT's detection reward. [0, 1]: sum of IoU / max(n_gold, n_predicted), predictions by confidence, IoU above 0.5.

    Bugs: math-verify comes first and reads one number of each text, the y1 of the first box: the same y1 is 1.0, whatever the rest. An answer on
    several lines, one without its closing tag and a right "No Objects" are 0.
    """
    if verify(completion, f"<answer>{visualrft_gold(example)}</answer>"):
        return 1.0
    try:
        scored, total = visualrft_matches(completion, example)
        return float(min(1.0, sum(value for value, _ in scored) / max(total, len(scored))))
    except READING:
        return 0.0


def visualrft_confidence(completion, example):
    """Visual-RFT's confidence reward. [0, 1]: mean over predictions of c where matched, else 1 - c. Bugs: as above, and one junk box with c = 0 is 1.0."""
    if verify(completion, f"<answer>{visualrft_gold(example)}</answer>"):
        return 1.0
    try:
        scored, _ = visualrft_matches(completion, example)
        mean = sum(c if value else 1 - c for value, c in scored) / len(scored)
        return 0.0 if math.isnan(mean) else float(min(1.0, max(0.0, mean)))  # NaN there
    except READING:
        return 0.0


def same_class(gold, said):
    """Visual-RFT: either text, without spaces and "_", is part of the other."""
    gold, said = (text.replace(" ", "").replace("_", "").lower() for text in (gold, said))
    return gold in said or said in gold


def visualrft_classification(completion, example):
    """Visual-RFT's classification reward. 0 or 1: math-verify on the whole text, or substring either way. Bugs: an empty answer, "A" for "A320" and
    "rose or lily" for "lily" are right."""
    body = first_answer(completion, dotall=False)
    if same_class(example.answer, completion.strip() if body is None else body.strip()):
        return 1.0
    return float(verify(completion, f"<answer>{example.answer}</answer>"))


def visualrft_classification_eval(completion, example):
    """Visual-RFT's evaluation of classification. 0 or 1: substring either way; no tag on one line: wrong. An empty answer is right."""
    body = first_answer(completion, dotall=False)
    return float(body is not None and same_class(example.answer, body))


def visualrft_lisa(completion, example):
    """Compute Visual-RFT's LISA reward: GIoU + 1 of "(x1,y1),(x2,y2)" in 0 to 1000.

    0 to 2 for boxes whose corners are in order; beyond for others (-19.8 to 94.1 were measured).
    2 for equal text, 1 if math-verify finds a common number.
    Bugs: both corners swapped give 2.0; of two boxes the first corners of both are taken.
    """
    gold = example.meta.get("solution")
    if not isinstance(gold, str):
        if not example.meta["boxes"]:
            return 0.0
        x1, y1, x2, y2 = (
            round(v)
            for v in from_pixels(
                example.meta["boxes"][0]["bbox_2d"], "norm1000", example.meta["size"]
            )
        )
        gold = f"({x1},{y1}),({x2},{y2})"
    body = first_answer(completion)
    body = completion.strip() if body is None else body.strip()
    if verify(completion, f"<answer>{gold}</answer>"):
        return 1.0
    if body == gold:
        return 2.0
    boxes = []
    for text in (body, gold):
        found = [
            [float(v) / 1000 for v in pair]
            for pair in re.findall(
                r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", text
            )
        ]
        if not found:
            return 0.0
        boxes.append(found[0] if len(found) == 1 else found[0][:2] + found[1][:2])
    if not all(math.isfinite(v) for box in boxes for v in box):
        return 0.0  # theirs: OverflowError or ValueError
    a, b = boxes
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union - (hull - union) / hull + 1 if union and hull else 0.0


# ---- align-anything


def align_math_verifier(completion, example):
    """align-anything's (lmm-r1's) reward server. 0 to 1.5: 0.5 format + accuracy, LaTeX only. Bugs: a gold that LaTeX cannot read ("2") makes every tagged
    answer right; no space is allowed between the blocks; "$27$" is not read, only \\boxed{27}."""
    think, answer = "<think>((?!</think>).)*</think>", "<answer>((?!</answer>).)*</answer>"
    tidy = completion.count("<think>") == completion.count("<answer>") == 1 and re.fullmatch(
        think + answer, completion, re.DOTALL
    )
    body = first_answer(completion)
    right = body is not None and _ask("latex", body, example.answer)
    return 0.5 * bool(tidy) + float(right)


# ---- the evaluation scripts


def r1v_superclevr(completion, example):
    """R1-V's SuperCLEVR evaluation. 0 or 1: <answer>\\s*(\\d+)\\s*</answer>, first, is the gold integer. "7 cubes" and "seven" are wrong."""
    found = re.search(
        r"<answer>\s*(\d{1,4000})\s*</answer>", completion
    )  # int() refuses more digits than that
    return float(bool(found) and int(found[1]) == int(float(example.answer)))


def r1v_geoqa(completion, example):
    """R1-V's GEOQA evaluation. 0 or 1: verify(parse(whole output), parse(gold)), reversed. Of golds such as "8√{3}" it reads the leading 8 (60 of 754) or
    nothing (17), so a right LaTeX answer is wrong; and it needs no tag."""
    return float(verify(completion, example.answer))


def visualthinker_cvbench(completion, example):
    """VisualThinker's CV-Bench evaluation. 0 or 1: math-verify, which may also find a letter or a choice's text, on the answer or else the whole text."""
    body = first_line_answer(completion)
    body = completion if body is None else body
    choices, index = example.choices or [], None
    index = choice_index(example.answer, choices) if choices else None
    letter = (
        chr(ord("A") + index) if index is not None else example.answer.strip(" ().").upper()[:1]
    )
    text = choices[index] if index is not None else example.answer
    letters = [form.format(c) for c in "ABCDEF" for form in ("{}", "({})")]
    strings = letters + [c.lower() for c in letters] + [str(c) for c in choices]
    return float(
        _ask(
            "strings",
            body,
            [text.lower(), text, letter, letter.lower(), f"({letter.lower()})", f"({letter})"],
            strings,
        )
    )


def r3v_answer(text):
    """Return what R3V compares: all that follows the first "Answer:", or else the whole text."""
    return (text.partition("Answer:")[2] or text).strip()


def r3v_chartqa(completion, example):
    """Compute R3V's ChartQA score, 0 or 1: floats within 5 % of the gold, else equal without case.

    Bugs: "70%" and "1,000" are no floats; all that follows the first "Answer:" is compared.
    """
    said, gold = r3v_answer(completion), example.answer.strip()
    try:
        near = abs(float(said) - float(gold)) <= 0.05 * abs(float(gold))
    except ValueError:
        near = False
    return float(near or said.lower() == gold.lower())


def percent_float(text):
    """Return a text as a float, "5%" as 0.05; None for other text."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def pix2struct_relaxed(completion, example):
    """Compute ChartQA's published relaxed accuracy, 0 or 1, as Pix2Struct, Qwen-VL and others have it.

    Floats within 5 % of a gold that is not 0, else equal text without case. There is no rule for
    years (that is InternVL's). Bugs: "5%" is 0.05; "1,000" and "$5" are no floats.
    It scores a bare answer: here what `answer_line` reads, or the whole text where it reads nothing.
    """
    said, gold = answer_line(completion), example.answer
    said = completion if said is None else said
    value, target = percent_float(said), percent_float(gold)
    if value is not None and target:
        return float(abs(value - target) / abs(target) <= 0.05)
    return float(said.lower() == gold.lower())


def tabmwp_normal(text):
    """Return our normal form of a TabMWP answer, after PromptPG's.

    "$1,735." -> "1735", "3/4" -> "0.75", "8.20" -> "8.2", "+5" -> "5".
    LaTeX fractions are read as "3/4", other text is put in lower case.
    None of what looks like a number and is none: "1/0", "1.2.3", "3,4".
    """
    text = str(text).replace("\u2212", "-")
    text = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", text).strip()
    text = re.sub(r"[,./]$", "", re.sub(r"^\$", "", text)).strip()
    if not (re.fullmatch(r"[-+]?[0-9,./]{1,99}", text) and re.search("[0-9]", text)):
        return text.lower()
    if re.search(r"[0-9],(?![0-9]{3}(?![0-9]))|^[-+]?,|\.[0-9]*,", text):
        return None  # "3,4" is a list, not 34
    top, _, bottom = text.replace(",", "").partition("/")
    try:
        value = round(float(top) / float(bottom or 1), 3)
    except (ValueError, ZeroDivisionError):
        return None
    return str(int(value)) if value == int(value) else str(value)


def promptpg_normal(text, unit=None):
    """Return PromptPG's normal form of a TabMWP answer.

    One leading "$" and one final mark go; digits with , . / become a number rounded to 3 decimals,
    of a text the unit is removed. Nothing is stripped, and of "1/2/3" the third part is ignored.
    None where theirs raises: "..", "1/0", "1.2.3".
    """
    text = re.sub(r"[,./]$", "", re.sub(r"^\$", "", text))
    if not re.search(r"^[-+]?[\d,./]+$", text):
        return text.replace(unit, "").strip() if unit else text
    text = text.replace(",", "")
    try:
        if re.search(r"^[-+]?\d+$", text):
            return str(int(text))
        parts = text.split("/")
        value = float(parts[0]) / float(parts[1]) if len(parts) > 1 else float(text)
    except (ValueError, ZeroDivisionError):
        return None
    return re.sub(r"\.0+$", "", str(round(value, 3)))


TABMWP_LETTER = [
    r"Answer: ([A-Za-z])",
    r"^\(([A-Za-z])\)$",
    r"^([A-Za-z])$",
    r"^([A-Za-z]). ",
    r"The answer is ([A-Z])",
    r"^\(([A-Za-z])\) [\s\S]",
    r"The answer is \(([A-Za-z])\) [\s\S]",
]
LOOSE = (
    r"(?<![-$.,/:\d])[-$.,/:\d]*\d"  # "4-8" is one number there; from the start of a run: linear
)
TABMWP_FREE = [
    r"Answer: ([\s\S]+)",
    r"The answer is ([\s\S]+)$",
    r"The table shows that ([$.,/:\d]+) ",
    r" = ([$.,/:\d]+)",
    rf" (?:be|is) ({LOOSE})",
    rf" (?:are|was) ({LOOSE})",
    rf" were ({LOOSE})",
    r" ([$.,/:\d]+ [AP]\.M\.)",
    rf"({LOOSE})",
]
FINAL_PERIOD = re.compile(r"(?<![AP]\.M)\.$")


def r3v_tabmwp(completion, example):
    """Compute R3V's TabMWP score, 0 or 1, by PromptPG's rules and one more pattern.

    Bugs: a letter A to F beyond the list is a *random* choice (here drawn from the record's id, so
    that a score can be repeated); any word after "Answer: " gives its first letter, and
    so does a word of two letters at the beginning ("At" is A); no letter goes
    to the choice with most words in common; "Answer:" needs a space and then takes the rest of the
    text; what cannot be turned into a number is 0; "4-8" is one number.
    """
    text = re.sub(r"\$?\\frac\{([-.,\d]+)\}\{([-.,\d]+)\}\$?", r"\1/\2", completion)
    text = text.replace("\u2212", "-")
    text = re.sub(r"(?<=\d)=(?=[$\d])", " = ", text)
    text, unit, choices = FINAL_PERIOD.sub("", text), example.meta.get("unit"), example.choices
    if choices:
        said = r3v_choice(text, choices, example.id)
        right = choice_index(example.answer, choices)
        gold = choices[right] if right is not None else example.answer
    else:
        found = next(filter(None, (re.findall(pattern, text) for pattern in TABMWP_FREE)), None)
        said = FINAL_PERIOD.sub("", found[-1].strip()) if found else text
        gold = example.answer
    said, gold = promptpg_normal(said, unit), promptpg_normal(gold, unit)
    said = "0" if said is None else said
    return float(gold is not None and said.lower() == gold.lower())


def r3v_choice(text, choices, id):
    """Return the choice R3V reads: by a letter A to F, or else by words in common."""
    for pattern in TABMWP_LETTER:
        found = re.search(pattern, text)
        letter = found[1].upper() if found else ""
        if letter and letter in "ABCDEF":
            index = "ABCDEF".index(letter)
            if index >= len(choices):
                drawn = hashlib.sha256(str(id).encode("utf-8", "replace")).hexdigest()
                index = int(drawn, 16) % len(choices)
            return choices[index]
    return max(choices, key=lambda choice: common_words(text, choice))


def common_words(a, b):
    """Share of words that two texts have in common: 2.0 for equal texts."""
    x, y = a.split(" "), b.split(" ")
    return (
        2.0
        if a == b
        else len(set(x) & set(y)) / max(len(x), len(y))
        if len(x) + len(y) > 2
        else 0.0
    )


ORIGINALS = {
    "r1v_accuracy": r1v_accuracy,
    "r1v_format": r1v_format,
    "open_r1_format": open_r1_format,
    "visualthinker_accuracy": visualthinker_accuracy,
    "visualthinker_length": visualthinker_length,
    "vlmr1_accuracy": vlmr1_accuracy,
    "vlmr1_mcq": vlmr1_mcq,
    "vlmr1_yes_no": vlmr1_yes_no,
    "vlmr1_all_match": vlmr1_all_match,
    "vlmr1_length": vlmr1_length,
    "vlmr1_repetition": vlmr1_repetition,
    "vlmr1_weighted_sum": vlmr1_weighted_sum,
    "vlmr1_od_ap": vlmr1_od_ap,
    "vlmr1_od_ap50": vlmr1_od_ap50,
    "vlmr1_od_length": vlmr1_od_length,
    "vlmr1_iou": vlmr1_iou,
    "vlmr1_iou_hard": vlmr1_iou_hard,
    "vlmr1_rec": vlmr1_rec,
    "vlmr1_format_rec": vlmr1_format_rec,
    "visualrft_iou": visualrft_iou,
    "visualrft_confidence": visualrft_confidence,
    "visualrft_classification": visualrft_classification,
    "visualrft_classification_eval": visualrft_classification_eval,
    "visualrft_lisa": visualrft_lisa,
    "align_math_verifier": align_math_verifier,
    "r1v_superclevr": r1v_superclevr,
    "r1v_geoqa": r1v_geoqa,
    "visualthinker_cvbench": visualthinker_cvbench,
    "r3v_chartqa": r3v_chartqa,
    "pix2struct_relaxed": pix2struct_relaxed,
    "r3v_tabmwp": r3v_tabmwp,
}


# ---------------------------------------------------------------------------------- math-verify as the originals call it, in a process of its own

_worker = MathWorker(__file__, MATH_SECONDS)  # no process until the first question


def verify(first, second):
    """math_verify.verify(parse(first), parse(second)) in its default setting: LaTeX and plain expressions, anywhere in the texts. TimeoutError if late.

    With math-verify 0.9.0; the originals pin 0.5.2, which differs only in LaTeX with a unit or a letter glued to its number ("$8m$" is 8 here and 8*m
    there): 20 of 1,536 comparisons over GEOQA's golds.
    """
    return _ask("default", first, second)


def _ask(*question):
    question = json.dumps(question)
    return (_ask_once if len(question) < 20_000 else _ask_once.__wrapped__)(question)


@functools.lru_cache(
    maxsize=4096
)  # the completions of a group repeat their answers; errors are not remembered
def _ask_once(question):
    return _worker.ask(json.loads(question))["equal"]


def _compare(kind, said, gold, strings=()):
    """One question of `_ask`, inside the worker. Whatever math-verify raises is "not equal" (in "latex": equal), as in the originals."""
    from math_verify import (
        ExprExtractionConfig,
        LatexExtractionConfig,
        StringExtractionConfig,
        parse,
    )
    from math_verify import (
        verify as compare,
    )

    try:
        if kind == "default":
            return bool(
                compare(
                    parse(said, parsing_timeout=None),
                    parse(gold, parsing_timeout=None),
                    timeout_seconds=None,
                )
            )
        if kind == "strings":
            known = [
                LatexExtractionConfig(),
                ExprExtractionConfig(),
                StringExtractionConfig(strings=tuple(strings)),
            ]
            return bool(
                compare(
                    gold=gold, target=parse(said, known, parsing_timeout=None), timeout_seconds=None
                )
            )
        gold = parse(gold, [LatexExtractionConfig()], parsing_timeout=None)
        said = parse(
            said,
            [LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0)],
            parsing_timeout=None,
        )
        return not gold or bool(compare(said, gold, timeout_seconds=None))
    except Exception:  # sympy raises anything; the originals swallow it all
        return kind == "latex"


def _limit():
    """The worker's memory, and no way out of it: after this, starting programs, opening sockets and writing or removing files all raise.

    Read in math-verify 0.9.0 (0.5.2 has the same pattern): text reaches sympy.parse_expr, that is eval, only through the group `expr` of its pattern:
    digits (of any script), ".", white space and + - * / ^ ( ) × ÷. No letter, underscore, quote, comma or square bracket: no name, no attribute, no
    string, nothing to call. What such text can still do is to be large (9**9**9), which time and memory limits end. The audit hook is there in
    case a later version lets more through.
    """
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(
            resource.RLIMIT_AS,
            (MATH_BYTES if most == resource.RLIM_INFINITY else min(MATH_BYTES, most), most),
        )
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (
        ImportError,
        OSError,
        ValueError,
    ):  # Windows has no such limits, macOS not all of them; the time limit holds anywhere
        pass
    sys.dont_write_bytecode = True  # sympy imports more of itself when a question needs it
    sys.addaudithook(_refuse)


REFUSED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.kill",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "urllib.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
)


def _refuse(event, arguments):
    if event.startswith(REFUSED):
        raise PermissionError(f"{event} in the math worker")
    if event == "open" and (
        set(arguments[1] or "") & set("wax+")
        or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        raise PermissionError(f"writing {arguments[0]!r} in the math worker")


def _warm_up():
    """Imports, the parser's tables, and then the limits: nothing of a model has been read before."""
    import math_verify  # noqa: F401

    for said, gold in (
        (r"$\frac{1}{2}$", "0.5"),
        (r"\boxed{2\sqrt{3}}", r"$\sqrt{12}$"),
        ("1/2 + 3", "3.5"),
        ("$x+1$", "$1+x$"),
    ):
        _compare("default", said, gold)
    _limit()


# ------------------------------------------------------------------------------------------------------------- part 2: the protocols
#
# Ours reads the answer body only (extract_answer); text without tags is a parse failure, wrong and never guessed. Three sets that are published
# with "Answer: ..." (chartqa, tabmwp, m3cot) are read so too, where a text has no answer tag at all.


ANSWER_LINE = re.compile(r"(?<![^\W_])answer\**\s?(?:is\s?)?[:：]", re.IGNORECASE)


def answer_line(completion):
    """The tagged answer body; in a text without answer tags, what follows its last "Answer:" or "answer is:" on that line or else on the next
    line that is not empty. None if there is neither. Marks of emphasis and of the end of a turn are dropped.

    R3V takes all that follows the first one, and a text without any as a whole.
    """
    if "<answer>" in completion or "</answer>" in completion:
        return extract_answer(completion)
    tail = re.sub(
        r"<\|im_end\|>|<\|endoftext\|>|</s>", "\n", completion.rpartition("</think>")[2][-MAX_TAIL:]
    )
    ends = [] if "<think>" in tail else [found.end() for found in ANSWER_LINE.finditer(tail)]
    lines = tail[ends[-1] :].split("\n") if ends else []
    return next((line.strip(" *\t\r") for line in lines if line.strip(" *\t\r")), None)


def body(completion, protocol):
    """The answer as text, or None."""
    return (
        answer_line(completion) if PROTOCOLS[protocol].get("line") else extract_answer(completion)
    )


def read(completion, example, protocol):
    """What is scored, None if it cannot be read: the boxes in pixels, or the body; where a choice is asked for, one that names none of them is not read."""
    if PROTOCOLS[protocol].get("boxes"):
        return predicted_boxes(completion, example)
    found = body(completion, protocol)
    return (
        None
        if found is None
        or PROTOCOLS[protocol].get("choose")
        and example.choices
        and choice_index(found, example.choices) is None
        else found
    )


def score_count(completion, example):
    """0 or 1: the answer is the gold number, as digits, perhaps with the thing that is counted ("4 cubes"); no measure, no equation, no sum."""
    said = read_answer(extract_answer(completion) or "")
    if not isinstance(said, Expression) or said.tree[0] != "n":
        return 0.0
    measured = said.unit is not None and is_measure(said.unit)
    return float(said.tree[1] == Fraction(example.answer.strip()) and not measured)


def score_line(completion, example):
    """0 or 1: match_answer of `answer_line`."""
    return float(match_answer(answer_line(completion), example.answer, example.choices))


def score_relaxed(completion, example):
    """Score ChartQA, 0 or 1: a number within 5 % of the gold, other text but for case.

    This is the relaxed accuracy of Masry et al. 2022, but for years.
    A gold 2000 to 2099 is a year and must be met exactly. The published figure has no such rule:
    see pix2struct_relaxed. (InternVL's reward has one, for any four characters that begin with 20.)
    A unit, "%", "$" and thousands separators may stand by a number, though two units must agree.
    A gold of 0 is met by 0.0, and the bound itself counts, in exact arithmetic.
    """
    found, gold = answer_line(completion) or "", example.answer.strip()
    said, right = quantity(found), quantity(gold)
    if said is None or right is None:
        return float(match_answer(found, gold))
    if said[1] and right[1] and said[1] != right[1]:
        return float(match_answer(found, gold))
    return float(
        abs(said[0] - right[0]) <= (0 if re.fullmatch("20[0-9]{2}", gold) else abs(right[0]) / 20)
    )


def score_tabmwp(completion, example):
    """Score TabMWP, 0 or 1: the right choice, equal normal forms, or match_answer with the unit.

    The unit may follow either side ("5 tokens", "5 token"), but "5 apples" are not 5 tokens.
    "3:00 PM" is "3:00 P.M.". Nothing is guessed, neither a letter nor a choice.
    """
    found = read(completion, example, "tabmwp")
    if found is None or example.choices:
        return float(found is not None and match_answer(found, example.answer, example.choices))
    unit = example.meta.get("unit") or ""
    said, gold = (without_unit(text, unit) for text in (found, example.answer))
    normal = tabmwp_normal(said)
    if normal and normal == tabmwp_normal(gold):
        return 1.0
    return float(match_answer(said, f"{gold} {unit}" if quantity(gold) else gold))


def without_unit(text, unit):
    """Return a TabMWP answer without the unit at its end, and "3:00 P.M." as "3:00 PM"."""
    text = re.sub(r"(?<=[0-9])\s*([AaPp])\.?\s?[Mm]\b\.?", r" \1M", text)
    if not unit:
        return text
    end = rf"(?<![^\W\d_]){re.escape(unit.removesuffix('s'))}(?:e?s)?\.?$"
    return re.sub(end, "", text).rstrip() if re.search(end, text) else text


def cvbench_average(rows):
    """{"cvbench": published average}: half the mean of ADE20K and COCO (2D), half Omni3D (3D); {} unless all three sources are there."""
    parts = [
        [row for row in rows if str(row.get("source")).lower() == name]
        for name in ("ade20k", "coco", "omni3d")
    ]
    if not all(parts):
        return {}
    ade, coco, omni = (of_rows(part)["accuracy"] for part in parts)
    return {
        "cvbench": ((ade + coco) / 2 + omni) / 2,
        "cvbench_2d": (ade + coco) / 2,
        "cvbench_3d": omni,
    }


def mean_iou(rows):
    """{"mean_iou"}: of REWARDS["iou"], 0 where nothing could be read; of two boxes for one object, the better one's over 2."""
    return {"mean_iou": sum(row["iou"] for row in rows) / max(1, len(rows))}


def detection_map(rows):
    """{"mAP", "AP50", "categories"}: COCO's, over the whole set, a category at a time; mAP is the mean over the categories that occur in gold or
    predictions (rewards.mean_average_precision). A query about one category names it, and its boxes' labels say nothing more. If nothing is named, there is one
    class without a name."""
    images, names = [], {}
    nameless = not any(
        row.get("category") or any(box["label"] for box in row["boxes"]) for row in rows
    )
    for row in rows:
        asked = row.get("category")
        images.append(
            [
                [
                    {**box, "label": None if nameless else asked or box.get("label")}
                    for box in boxes or []
                ]
                for boxes in (row["extracted"], row["boxes"])
            ]
        )
        for box in images[-1][1]:
            names.setdefault(normalize_label(box["label"]), box["label"])
    result = mean_average_precision(images) | {"categories": {}}
    for name, label in names.items():
        one = [
            [[box for box in boxes if normalize_label(box["label"]) == name] for boxes in image]
            for image in images
        ]
        result["categories"][str(plain(label))] = mean_average_precision(one) | {
            "n": sum(len(gold) for _, gold in one)
        }
    return result | mean_iou(rows)


# template: how the project's own evaluation asks, a name in data.TEMPLATES ("none": its questions hold their instructions).
# ours(completion, example): 0 or 1. original: a name in ORIGINALS, None if there is none that is known; also: another one.
# boxes: the answer is boxes. line: read by answer_line. choose: one of the choices is asked for. (See `read`.)
# by: fields of the records for which accuracy is given apart. totals(rows): more figures of the set.
PROTOCOLS = {
    # R1-V: 200 counting questions of SuperCLEVR; 754 of GEOQA
    "superclevr": {"template": "superclevr", "ours": score_count, "original": "r1v_superclevr"},
    "geoqa": {"template": "geoqa", "ours": rewards.accuracy, "original": "r1v_geoqa"},
    # VisualThinker's script on CV-Bench (2,638 questions; Tong et al. 2024, arXiv:2406.16860)
    "cvbench": {
        "template": "cvbench",
        "choose": True,
        "ours": rewards.accuracy,
        "original": "visualthinker_cvbench",
        "by": ("task", "source"),
        "totals": cvbench_average,
    },
    # VLM-R1: referring expressions (RefCOCO/+/g, LISA-Grounding), accuracy at IoU 0.5
    "rec": {
        "template": "rec",
        "boxes": True,
        "ours": rewards.accuracy,
        "original": "vlmr1_rec",
        "by": ("task",),
        "totals": mean_iou,
    },
    # Visual-RFT: mean IoU on LISA; COCO's mAP on few-shot detection, one category a question; fine-grained classification
    "lisa": {
        "template": "lisa",
        "boxes": True,
        "ours": rewards.accuracy,
        "original": None,
        "totals": mean_iou,
    },
    "detection": {
        "template": "none",
        "boxes": True,
        "ours": rewards.accuracy,
        "original": None,
        "by": ("category",),
        "totals": detection_map,
    },
    "classification": {
        "template": "none",
        "ours": rewards.classification,
        "original": "visualrft_classification_eval",
        "by": ("task",),
    },
    # R3V asks ChartQA (human and augmented questions) and TabMWP; ChartQA's published figure is Pix2Struct's
    "chartqa": {
        "template": "chartqa",
        "line": True,
        "ours": score_relaxed,
        "original": "pix2struct_relaxed",
        "also": "r3v_chartqa",
        "by": ("task", "type", "split"),
    },
    "tabmwp": {
        "template": "tabmwp",
        "line": True,
        "choose": True,
        "ours": score_tabmwp,
        "original": "r3v_tabmwp",
        "by": ("ques_type", "ans_type", "grades", "grade"),
    },
    # the letter of the option; how it was asked and scored is not public
    "m3cot": {
        "template": "option",
        "line": True,
        "choose": True,
        "ours": score_line,
        "original": None,
        "by": ("domain", "topic"),
    },
}


# Other names under which saved outputs have these fields.
ALIASES = {
    "prediction": ("model_output", "output", "response", "completion", "generated_text", "pred"),
    "answer": ("ground_truth", "gold", "gt", "label", "solution"),
    "question": ("problem", "query", "prompt"),
    "id": ("question_id", "pid", "idx", "image_path", "image"),
    "category": ("class", "class_name"),
}
CATEGORY = re.compile(r"belonging to the category '([^']{1,100})'")  # Visual-RFT's question
THOUSANDTHS = re.compile(
    r"Position|\(\s*[0-9.]+\s*,\s*[0-9.]+\s*\)"
)  # a gold written as Visual-RFT and LISA write it: 0 to 1000


def field(record, name):
    """record[name], or the same under another name; None if there is none."""
    return next(
        (record[key] for key in (name, *ALIASES.get(name, ())) if record.get(key) is not None), None
    )


def is_number(value):
    """Say whether a value is a finite number; an integer beyond the floats is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def plain(value):
    """Return a record's field as JSON and UTF-8 can hold it, anything else as text."""
    if value is None or isinstance(value, bool) or is_number(value):
        return value
    if isinstance(value, int):
        return shown(value)
    return str(value).encode("utf-8", "replace").decode("utf-8")


def brief(message, most=300):
    """Return a message on one line, without its middle where it is long."""
    message = " ".join(message.split())
    if len(message) <= most:
        return message
    return f"{message[: most // 2]} ... {message[-most // 2 :]}"


def shown(value, most=60):
    """Return the beginning of a value as Python writes it, for a message."""
    try:
        return repr(value)[:most]
    except (RecursionError, ValueError):  # an integer of more than 4,300 digits
        return f"{type(value).__name__} that is too large to be shown"


def to_example(record, protocol, box_format=None):
    """(completion, example) of a saved record. ValueError, saying what is missing and what to do, for one that cannot be scored.

    record: prediction, answer; and where there are any id, question, choices, task, source, unit, ... Gold boxes: `answer` as [x1, y1, x2, y2], a list of them,
    VLM-R1's or Visual-RFT's text, "none"; or `boxes`. `size` (or `width` and `height`) is the original image's, `resized` the one the model saw. How the
    prediction is written: `box_format`, else the argument, else "resized" if that size is known, else norm1000; but pixels in a `rec` record without any size
    (VLM-R1 before 2025-06-26). Gold numbers are original pixels, but thousandths in Visual-RFT's and LISA's notations. What was asked for (rec, lisa, or a
    detection query's category) is what a box must show: labels are not compared there.
    """
    if not isinstance(record, dict):
        raise ValueError(
            f"expected an object with `prediction` and `answer`, found {type(record).__name__}"
        )
    prediction, gold, boxed = (
        field(record, "prediction"),
        field(record, "answer"),
        PROTOCOLS[protocol].get("boxes"),
    )
    names = ", ".join(map(str, record)) or "nothing"
    if not isinstance(prediction, str):
        if prediction is None and "prediction" in record:
            raise ValueError(
                '`prediction` is null; write what the model said, or "" if it said nothing'
            )
        raise ValueError(
            f"no `prediction`{'' if prediction is None else f' that is text: it is {type(prediction).__name__}'}; found {names}; give what the model said, as text"
        )
    if gold is None and not (boxed and record.get("boxes") is not None):
        raise ValueError(
            f"no `answer`; found {names}; add the gold answer{' or `boxes`' if boxed else ''}"
        )
    question, choices = field(record, "question"), record.get("choices")
    question = (
        question.get("question") if isinstance(question, dict) else question
    )  # R1-V's logs keep the whole prompt record there
    if choices is not None and not (
        isinstance(choices, list) and all(isinstance(c, (str, int, float)) for c in choices)
    ):
        raise ValueError(
            "`choices` must be a list of texts; fix it, or omit it where there are none"
        )
    meta = {
        **record,
        "category": field(record, "category")
        or next(iter(CATEGORY.findall(str(plain(question)))), None),
    }
    for key in ("category", "unit"):
        if isinstance(meta.get(key), (dict, list, bool)):
            raise ValueError(f"`{key}` must be text, found {shown(meta[key])}; fix it or omit it")
        meta[key] = None if meta.get(key) is None else str(plain(meta[key]))
    if meta.get("size") is None and not (
        record.get("width") is None and record.get("height") is None
    ):
        meta["size"] = [record.get("width"), record.get("height")]
    for key, other in (("size", " or two numbers, `width` and `height`"), ("resized", "")):
        if meta.get(key) is not None and not (
            isinstance(meta[key], (list, tuple))
            and len(meta[key]) == 2
            and all(is_number(v) and v > 0 for v in meta[key])
        ):
            raise ValueError(
                f"`{key}` must be [width, height] in pixels{other}; found {shown(meta[key])}"
            )
    unknown = (
        "resized"
        if meta.get("resized")
        else "pixels"
        if protocol == "rec" and not meta.get("size")
        else "norm1000"
    )
    meta["box_format"] = record.get("box_format") or box_format or unknown
    if boxed:
        if isinstance(gold, str):
            meta["solution"] = gold
        meta["boxes"] = boxes_of_gold(
            gold if record.get("boxes") is None else record["boxes"], meta
        )
        if protocol != "detection" or meta["category"]:
            meta["boxes"] = [{**box, "label": None} for box in meta["boxes"]]
        answer = json.dumps(meta["boxes"], ensure_ascii=False)
    else:
        if not isinstance(gold, str) and not is_number(gold):
            raise ValueError(
                f"`answer` must be text or a number, found {shown(gold)}; for boxes there are the protocols rec, lisa and detection"
            )
        answer = str(gold)
        answer = (last_answer(answer) or answer).strip() if "<answer>" in answer else answer.strip()
        meta.pop("boxes", None)
    choices = (
        [choice if isinstance(choice, str) else str(plain(choice)) for choice in choices]
        if choices
        else None
    )
    example = SimpleNamespace(
        id=plain(field(record, "id")),
        question=plain(question),
        answer=answer,
        choices=choices,
        meta=meta,
    )
    rewards.check_gold(answer, example.choices, meta)
    if protocol == "superclevr" and not re.fullmatch(r"[0-9]{1,9}(?:\.0+)?", answer):
        raise ValueError(
            f"the gold answer {answer[:60]!r} is not a count; leave the record out, or name another --protocol"
        )
    return prediction, example


def boxes_of_gold(gold, meta):
    """[{"bbox_2d": [x1, y1, x2, y2] in pixels, "label": text or None}, ...] of a gold in any of the ways `to_example` names. Without a size, thousandths
    are taken for the pixels of a 1000 x 1000 image (and meta["size"] is set so): IoU does not change when an axis is stretched. So is "none"."""
    ways = (
        "write [x1, y1, x2, y2] or {'bbox_2d': [x1, y1, x2, y2], 'label': ...}, or a list of them"
    )

    def read(item):
        box = (item.get("bbox_2d") or item.get("Position")) if isinstance(item, dict) else item
        if isinstance(box, (list, tuple)):
            box = [
                float(v)
                if isinstance(v, str) and re.fullmatch(r"\s*-?[0-9]{1,9}(?:\.[0-9]{1,20})?\s*", v)
                else v
                for v in box
            ]
        if not (isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_number, box))):
            raise ValueError(f"the gold box {shown(item, 80)} cannot be read; {ways}")
        label = item.get("label") if isinstance(item, dict) else None
        return {
            "bbox_2d": [
                min(box[0], box[2]),
                min(box[1], box[3]),
                max(box[0], box[2]),
                max(box[1], box[3]),
            ],
            "label": None if label is None else str(plain(label)),
        }

    if isinstance(gold, str):
        text = last_answer(gold) or gold
        found = parse_boxes(
            text if re.search(r"[\[({a-zA-Z]", text) else f"[{text}]"
        )  # "10, 20, 110, 220"
        if found is None:
            raise ValueError(f'the gold boxes cannot be read: {gold[:80]!r}; {ways}, or "none"')
        boxes, thousandths = (
            [{"bbox_2d": list(box["bbox_2d"]), "label": box["label"]} for box in found],
            bool(THOUSANDTHS.search(gold)),
        )
    else:
        items = (
            [gold]
            if isinstance(gold, dict)
            or (isinstance(gold, list) and len(gold) == 4 and not isinstance(gold[0], (list, dict)))
            else gold
        )
        if not isinstance(items, list):
            raise ValueError(f"the gold boxes cannot be read: {shown(gold, 80)}; {ways}")
        boxes, thousandths = (
            [read(item) for item in items],
            any(isinstance(item, dict) and "Position" in item for item in items),
        )
    if thousandths or not boxes:
        meta["size"] = meta.get("size") or [1000, 1000]
        boxes = [
            {**box, "bbox_2d": list(to_pixels(box["bbox_2d"], "norm1000", meta["size"]))}
            for box in boxes
        ]
    return boxes


def to_examples(records, protocol, box_format=None):
    """[(completion, example), ...] of (place, record) pairs, place as a person finds the record ("outputs.jsonl:3"). ValueError, beginning with the place, for one that
    `to_example` refuses, and in detection for one that names no category where others do."""
    pairs, unnamed = [], []
    for place, record in records:
        try:
            pairs.append(to_example(record, protocol, box_format))
        except ValueError as error:
            raise ValueError(f"{place}: {brief(str(error))}") from None
        meta = pairs[-1][1].meta
        if (
            protocol == "detection"
            and not meta["category"]
            and not (meta["boxes"] and all(box["label"] for box in meta["boxes"]))
        ):
            unnamed.append(place)
    if 0 < len(unnamed) < len(pairs):
        raise ValueError(
            f"{unnamed[0]}: which category is it? Other records name one. Add `category`, or a `label` to every gold box"
        )
    return pairs


def score(pairs, protocol, progress=iter):
    """What `to_examples` gives, under a protocol: (result, rows), as `totals` and `score_one` describe them. progress: wraps the list that is worked through (tqdm)."""
    rows = [score_one(completion, example, protocol) for completion, example in progress(pairs)]
    return totals(rows, protocol), rows


def score_one(completion, example, protocol):
    """A record's row: accuracy (ours), what was extracted (None: a parse failure), the original's accuracy, whether ours could not decide and the original ran out of time."""
    recipe = PROTOCOLS[protocol]
    row = {"line": example.meta["line"]} if "line" in example.meta else {}
    row |= {
        "id": example.id,
        "question": example.question,
        "answer": example.answer,
        "choices": example.choices,
        "prediction": completion,
    }
    row |= {
        name: plain(example.meta[name])
        for name in recipe.get("by", ())
        if example.meta.get(name) is not None
    }
    if "grades" in recipe.get("by", ()) and isinstance(example.meta.get("grade"), int):
        row["grades"] = (
            "1-6" if example.meta["grade"] <= 6 else "7-8"
        )  # as TabMWP's tables have them
    before = undecided()
    row |= {
        "extracted": read(completion, example, protocol),
        "accuracy": recipe["ours"](completion, example),
    }
    row["undecided"] = undecided() > before
    if recipe.get("boxes"):
        row |= {
            "boxes": example.meta["boxes"],
            "box_format": example.meta["box_format"],
            "iou": rewards.REWARDS["iou"](completion, example),
        }
    if recipe["original"]:
        row["original_timeout"] = False
        try:
            row["accuracy_original"] = ORIGINALS[recipe["original"]](completion, example)
        except TimeoutError:
            row["accuracy_original"], row["original_timeout"] = 0.0, True
    if "also" in recipe:
        row[f"accuracy_{recipe['also']}"] = ORIGINALS[recipe["also"]](completion, example)
    return row


def totals(rows, protocol):
    """Figures of a set: n, accuracy (ours) with its 95 % interval, accuracy_parsed (of what could be read), parse_failures, undecided (comparisons of
    ours whose numbers grow too large: not equal); how predicted boxes were read; where the project's scorer is known
    accuracy_original, original_timeouts (each counted as 0) and disagreements (rows on which the two differ), and accuracy_NAME of a second one; the protocol's
    own averages; `by`, accuracy and n by task and the like."""
    recipe, n, right = PROTOCOLS[protocol], len(rows), sum(row["accuracy"] for row in rows)
    failures = sum(row["extracted"] is None for row in rows)
    low, high = metrics.wilson(right, n)
    result = {
        "protocol": protocol,
        "accuracy": right / max(1, n),
        "n": n,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_parsed": right / max(1, n - failures),
        "parse_failures": failures,
        "undecided": sum(row["undecided"] for row in rows),
    }
    if recipe.get("boxes"):
        result["box_format"] = ", ".join(sorted({row["box_format"] for row in rows}))
    if recipe["original"]:
        result |= {
            "original": recipe["original"],
            "accuracy_original": sum(row["accuracy_original"] for row in rows) / max(1, n),
            "original_timeouts": sum(row["original_timeout"] for row in rows),
            "disagreements": len(disagreements(rows)),
        }
    if "also" in recipe:
        name = f"accuracy_{recipe['also']}"
        result[name] = sum(row[name] for row in rows) / max(1, n)
    result |= recipe["totals"](rows) if "totals" in recipe else {}
    groups = {
        name: sorted({str(row[name]) for row in rows if name in row})
        for name in recipe.get("by", ())
    }
    by = {
        name: {
            value: of_rows([row for row in rows if str(row.get(name)) == value]) for value in values
        }
        for name, values in groups.items()
        if values
    }
    return result | ({"by": by} if by else {})


def of_rows(rows):
    return {"accuracy": sum(row["accuracy"] for row in rows) / len(rows), "n": len(rows)}


def disagreements(rows):
    """The rows on which ours and the original's differ."""
    return [
        row
        for row in rows
        if "accuracy_original" in row and row["accuracy"] != row["accuracy_original"]
    ]


if __name__ == "__main__":
    if sys.argv[1:2] != ["--worker"]:
        sys.exit("protocols.py is a module: see its docstring, and evaluate.py --predictions")
    serve(lambda question: {"equal": _compare(*question)}, _warm_up)


def on_a_line(text, protocol):
    """A selection as the protocol reads answers: "14" is "Answer: 14" where they stand on a line of their own."""
    bare = protocol and PROTOCOLS[protocol].get("line") and body(text, protocol) is None
    return f"Answer: {text.strip()}" if bare else text


def judged(examples, protocol):
    """The examples as the protocol scores them. UserError, which names file and line, for one that it cannot score."""
    records = [
        {
            **e.meta,
            "id": e.id,
            "question": e.question,
            "answer": e.answer,
            "choices": e.choices,
            "task": e.task,
            "prediction": "",
        }
        for e in examples
    ]
    return [
        e
        for _, e in suited(
            [
                (f"{e.source} does not suit --protocol {protocol}", record)
                for e, record in zip(examples, records)
            ],
            protocol,
        )
    ]


def suited(records, protocol, box_format=None):
    """protocols.to_examples. UserError for a record that the protocol cannot score."""
    try:
        return to_examples(records, protocol, box_format)
    except ValueError as error:
        raise UserError(cut(str(error))) from None


def reader(protocol):
    """text -> its answer, or None, as the protocol reads it, or in tags."""
    return (lambda text: body(text, protocol)) if protocol else extract_answer


def scorer(protocol):
    """score(text, example) -> (answer or None, right): by the protocol, or by the accuracy reward. Where an example has no gold answer (DropoutNTP), all that ends is right."""
    read = reader(protocol)
    right = (
        (lambda text, example: PROTOCOLS[protocol]["ours"](text, *judged([example], protocol)))
        if protocol
        else rewards.accuracy
    )
    return lambda text, example: (
        read(text) if example.answer else text,
        bool(right(text, example)) if example.answer else True,
    )
