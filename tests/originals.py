"""Published rewards and scorers written again, bugs included, which no command can reach.

They were written from descriptions of R1-V, open-r1-multimodal, VisualThinker, VLM-R1, Visual-RFT
and align-anything, and agree with what their functions return on thousands of inputs
(docs/rewards.md). Where such a function raises and would end its run, the one here returns 0.
The scorers that evaluate.py --protocol reports are in tasks/, a file each.

A user who trains on one of them gets the hacks that come with it: none is in rewards.REWARDS.
"""

import json
import math
import re

from rapidfuzz.distance import Indel

from grading import mathverify
from grading.boxes import MAX_DETECTIONS, THRESHOLDS, area_under, from_pixels
from grading.tags import first_answer, last_answer
from tasks import classification, rec
from tasks.published import PROTOCOLS

# Each takes (completion, example) with example.answer the gold as text, without tags. Those in
# NEEDS_TOKENS take (completion, example, tokens, max_tokens). TimeoutError if math-verify is late.
NEEDS_TOKENS = {"visualthinker_length", "vlmr1_length"}


def indel_ratio(a, b):
    """Levenshtein.ratio: 2 LCS(a, b) / (len(a) + len(b)), 1.0 for two empty texts."""
    total = len(a) + len(b)
    # rapidfuzz's own ratio is 1 - distance / total, which rounds twice.
    return Indel.similarity(a, b) / total if total else 1.0


# --- R1-V, open-r1-multimodal, VisualThinker ---


def r1v_accuracy(completion, example):
    """R1-V's accuracy: math-verify on the whole text, or equal strings.

    open-r1-multimodal, VisualThinker and Visual-RFT begin with it.
    Bugs: a number, \\boxed{} or "final answer" in the thinking beats the tag, because digits glued
    to tags are not read; of "3 or 7" the last counts; the arguments of `verify` are reversed;
    the tag is searched without DOTALL, so "\\nA\\n" is not found; strings are compared with case.
    """
    body = first_answer(completion, dotall=False)
    body = completion.strip() if body is None else body.strip()
    if (
        body == example.answer.strip()
    ):  # its second stage; first here, because it is the cheaper half of an "or"
        return 1.0
    return float(mathverify.verify(completion, f"<answer> {example.answer} </answer>"))


def r1v_format(completion, example=None):
    """R1-V's format: fullmatch of <think>.*?</think>\\s*<answer>.*?</answer> with DOTALL.

    Visual-RFT, VisualThinker and VLM-R1 have it too. Here without backtracking.
    Bugs: empty bodies pass, and nested and repeated blocks; a final newline fails.
    """
    framed = completion.startswith("<think>") and completion.endswith("</answer>")
    return float(framed and bool(re.search(r"</think>\s*<answer>", completion[7:-9])))


def open_r1_format(completion, example=None):
    """open-r1-multimodal's and R1-Onevision's format: re.match without DOTALL.

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
    """VisualThinker's accuracy: R1-V's rule, or the last standalone letter A to H.

    Bugs: R1-V's; "A." is no letter; of "A or B" the last counts, unless the first took the space.
    Its data glue the gold to its tags, where math-verify reads no plain number.
    """
    body = first_answer(completion, dotall=False)
    body = completion.strip() if body is None else body.strip()
    letters = re.findall(r"(?:^|\s|\[|\()([A-H])(?:\s|\]|\)|$)", body)
    if example.answer.strip() in (letters[-1:] or [body]) or body == example.answer.strip():
        return 1.0
    return float(mathverify.verify(completion, f"<answer>{example.answer}</answer>"))


def visualthinker_length(completion, example, tokens, max_tokens=None):
    """VisualThinker's length: 0.001 a token, unbounded.

    It is paid for repetition: longer text, no better answers.
    """
    return 0.001 * tokens


# --- VLM-R1 ---


def clean_text(text):
    """VLM-R1's normal form of a text: its last answer, lower case, no final periods.

    Newlines become spaces; after white space they are dropped.
    """
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


CHOICE_WORDS = (
    "答案 选择 正确 是 对 ANSWER CORRECT CHOOSE SELECT RIGHT 认为 应该 觉得 THINK BELIEVE SHOULD"
).split()


def extract_choice(text):
    """VLM-R1's letter of a choice, or None: a capital before . , ? ! : ; or the end.

    Of several, the one with most points. "(A)" and "A)" are none; any capital A to Z counts ("I.").
    The points of a letter are those of its first occurrence anywhere, inside words too: the only
    reading under which "I think A, but B." is A, as measured.
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
    """VLM-R1's "default", in [0, 1]: math-verify on the last answer, or else on the whole text.

    What is not equal is compared as float, letter or by Levenshtein ratio.
    Bugs: a wrong text answer is paid for its letters; without tags the thinking is scored; an empty
    gold would pay everything.
    """
    gold, said = example.answer, last_answer(completion)
    said = completion.strip() if said is None else said.strip()
    late = None
    try:
        if mathverify.verify(said, gold):
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
    """VLM-R1's "mcq": the letters of extract_choice agree.

    Bug: a gold "(A)" has none and is compared with its tags, so nothing is right.
    """
    said = first_answer(completion)
    letter = extract_choice(completion.strip() if said is None else said.strip())
    return float(
        letter is not None
        and letter == (extract_choice(example.answer) or f"<answer> {example.answer} </answer>")
    )


def vlmr1_yes_no(completion, example):
    """VLM-R1's "yes_no": the first "yes" or "no" anywhere agrees.

    Bugs: "I do not know" is no; two texts with neither agree. Case is dropped before tags are read.
    """
    text = completion.lower()
    body = first_answer(text)
    said = re.search("yes|no", text if body is None else body)
    gold = re.search("yes|no", example.answer.lower())
    return float((said and said[0]) == (gold and gold[0]))


def vlmr1_all_match(completion, example):
    """VLM-R1's "all_match": equal in normal form."""
    return float(clean_text(completion) == clean_text(example.answer))


def vlmr1_length(completion, example, tokens, max_tokens=None):
    """VLM-R1's cosine "length", documented as [-0.5, 1].

    Really [0.5, 1] whatever the answer (correctness is overwritten by 1), and periodic: 1.0 at 0
    and at 2048 tokens, 0.5 at 1024.
    """
    return 1.0 - 0.5 * (1 - math.cos(math.pi * tokens / 1024)) / 2


def vlmr1_repetition(completion, example=None):
    """VLM-R1's "repetition": -(1 - unique / all) of boxes or 6-grams, in [-1, 0].

    The boxes count, as texts "box_label", where the text holds a list in plain JSON that is not
    empty; else words do. An item such as null or 3 stops the run there and is 0 here. Broken JSON,
    which the original repairs with json_repair, counts as words here.
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
    """-(1 - unique / all), 0 of nothing."""
    return len(set(items)) / len(items) - 1 if items else 0.0


def json_list(text):
    """The list in VLM-R1's first fence, or in its first span of boxes, or None."""
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
    """The text from the first "[{" over "bbox_2d" and "label" to the next "}]", or None."""
    start = at = None
    for pattern in (r"\[\s*\{", '"bbox_2d"', '"label"', r"\}\s*\]"):
        found = re.compile(pattern).search(text, at or 0)  # the earliest is enough, and linear
        if not found:
            return None
        start = found.start() if start is None else start
        at = found.end()
    return text[start:at]


def fenced_items(text, last=False):
    """The items of a ```json fence as they stand, or [] where nothing can be listed."""
    try:
        found = json.loads(fence(text, "```json", last) or "[]")
    except (RecursionError, ValueError):
        return []
    return list(found) if isinstance(found, (dict, list, str)) else []


def item_box(item):
    """The first four numbers of an item's "bbox_2d", or None."""
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
    """VLM-R1's gold: (box in pixels, label as it is written) of each gold box."""
    return [(list(map(float, box["bbox_2d"])), str(box["label"])) for box in example.meta["boxes"]]


def vlmr1_weighted_sum(completion, example):
    """VLM-R1's detection score: 0.7 position and 0.3 completeness, in [0, 1].

    Position: IoU of greedy pairs (at least 0.5) over n_gold. Completeness: 1 - (missed + junk) / 2.
    Bugs: a wrong label zeroes the IoU but is not missed; an item without a box is one junk item;
    a box without a label takes the label of the pair before; if it is the first, the run stops
    (0 here).
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


MOST_AREA = 1e10  # COCO ignores a detection beyond it, or below 0, unless it matches


def coco_hits(found, gold, threshold):
    """COCO's verdict, True or False, on the boxes of one class in one image, in order."""
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
    """pycocotools' IoU, which is NaN where a number of the box is NaN."""
    if any(map(math.isnan, box)):
        return math.nan
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area, other_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return width * height / (area + other_area - width * height)


def vlmr1_ap(completion, example, thresholds):
    """VLM-R1's COCO mAP of one image: the mean over the gold's labels and the thresholds.

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
    """VLM-R1's "od_ap": COCO mAP of one image, in [0, 1].

    Bugs: predictions with a label that the gold lacks are dropped, so spam is free; "Cat" is not
    "cat"; boxes with one side reversed are ignored.
    """
    return vlmr1_ap(completion, example, THRESHOLDS)


def vlmr1_od_ap50(completion, example):
    """VLM-R1's "od_ap50": the same at IoU 0.5 only, in [0, 1]."""
    return vlmr1_ap(completion, example, THRESHOLDS[:1])


def vlmr1_od_length(completion, example):
    """VLM-R1's "odLength": mAP, times n_gold / n_items if there are more items."""
    gold, items = gold_items(example), fenced_items(last_answer(completion) or "", last=True)
    share = len(gold) / len(items) if gold and items else 1.0
    return vlmr1_od_ap(completion, example) * min(1.0, share)


def vlmr1_iou(completion, example):
    """VLM-R1's REC reward, in [0, 1]: IoU of the first integer box of the first answer.

    Bugs: floats are not read; coordinates are Qwen2.5-VL's.
    """
    found = rec.INTEGER_BOX.search(first_answer(completion) or "")
    return float(rec.vlmr1_box_iou(found.groups(), example)) if found else 0.0


def vlmr1_iou_hard(completion, example):
    """Old VLM-R1's and R1-Onevision's reward: that IoU is above 0.5."""
    return float(vlmr1_iou(completion, example) > 0.5)


def vlmr1_format_rec(completion, example=None):
    """VLM-R1's REC format, anything between and around its parts.

    <think>, </think> <answer>, {, an integer box, } and </answer> in this order.
    """
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


# --- Visual-RFT ---


def raw_iou(a, b):
    """Plain IoU of two boxes as they are written: corners are not ordered."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width, height = max(0, min(ax2, bx2) - max(ax1, bx1)), max(0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - width * height
    return width * height / union if union else 0.0


def visualrft_gold(example):
    """The gold as Visual-RFT writes it, in 0 to 1000.

    "[{'Position': [x1, y1, x2, y2], 'Confidence': 1}, ...]"
    """
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
    """Visual-RFT's list of (box, confidence as written); of equal boxes the first.

    Quotes are changed and a list without "]" is closed after its last "},", if any; then it is
    JSON. Raises UNREADABLE.
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
    """[(IoU or 0 if not above 0.5, confidence)] by confidence, and the number of golds.

    Raises UNREADABLE, which the original swallows.
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


UNREADABLE = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError
)  # fmt: skip


def visualrft_iou(completion, example):
    """Visual-RFT's detection reward, in [0, 1]: sum of IoU / max(n_gold, n_predicted).

    Predictions by confidence, IoU above 0.5.
    Bugs: math-verify comes first and reads one number of each text, the y1 of the first box: the
    same y1 is 1.0, whatever the rest. An answer on several lines, one without its closing tag and a
    right "No Objects" are 0.
    """
    if mathverify.verify(completion, f"<answer>{visualrft_gold(example)}</answer>"):
        return 1.0
    try:
        scored, total = visualrft_matches(completion, example)
        return float(min(1.0, sum(value for value, _ in scored) / max(total, len(scored))))
    except UNREADABLE:
        return 0.0


def visualrft_confidence(completion, example):
    """Visual-RFT's confidence reward, in [0, 1]: mean of c where matched, else 1 - c.

    Bugs: as above, and one junk box with c = 0 is 1.0.
    """
    if mathverify.verify(completion, f"<answer>{visualrft_gold(example)}</answer>"):
        return 1.0
    try:
        scored, _ = visualrft_matches(completion, example)
        mean = sum(c if value else 1 - c for value, c in scored) / len(scored)
        return 0.0 if math.isnan(mean) else float(min(1.0, max(0.0, mean)))  # NaN there
    except UNREADABLE:
        return 0.0


def visualrft_classification(completion, example):
    """Visual-RFT's classification reward: math-verify on the whole text, or substring.

    Bugs: an empty answer, "A" for "A320" and "rose or lily" for "lily" are right.
    """
    body = first_answer(completion, dotall=False)
    if classification.same_class(
        example.answer, completion.strip() if body is None else body.strip()
    ):
        return 1.0
    return float(mathverify.verify(completion, f"<answer>{example.answer}</answer>"))


def visualrft_lisa(completion, example):
    """Visual-RFT's LISA reward: GIoU + 1 of "(x1,y1),(x2,y2)" in 0 to 1000.

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
    if mathverify.verify(completion, f"<answer>{gold}</answer>"):
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


# --- align-anything ---


def align_math_verifier(completion, example):
    """align-anything's (lmm-r1's) reward server, 0 to 1.5: 0.5 format + accuracy.

    Bugs: a gold that LaTeX cannot read ("2") makes every tagged answer right; no space is allowed
    between the blocks; "$27$" is not read, only \\boxed{27}.
    """
    think, answer = "<think>((?!</think>).)*</think>", "<answer>((?!</answer>).)*</answer>"
    tidy = completion.count("<think>") == completion.count("<answer>") == 1 and re.fullmatch(
        think + answer, completion, re.DOTALL
    )
    body = first_answer(completion)
    right = body is not None and mathverify.ask("latex", body, example.answer)
    return 0.5 * bool(tidy) + float(right)


REACHED = [  # by a protocol
    score
    for protocol in PROTOCOLS.values()
    for score in (protocol.published_score, protocol.also_published)
    if score
]
UNREACHED = [
    r1v_accuracy,
    r1v_format,
    open_r1_format,
    visualthinker_accuracy,
    visualthinker_length,
    vlmr1_accuracy,
    vlmr1_mcq,
    vlmr1_yes_no,
    vlmr1_all_match,
    vlmr1_length,
    vlmr1_repetition,
    vlmr1_weighted_sum,
    vlmr1_od_ap,
    vlmr1_od_ap50,
    vlmr1_od_length,
    vlmr1_iou,
    vlmr1_iou_hard,
    vlmr1_format_rec,
    visualrft_iou,
    visualrft_confidence,
    visualrft_classification,
    visualrft_lisa,
    align_math_verifier,
]
ORIGINALS = {function.__name__: function for function in UNREACHED + REACHED}
