"""Boxes: read them, write them, convert them, compare them, average precision.

A box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2. Gold boxes, Example.meta["boxes"], are in pixels
of the original picture, which is what a person sees. What a model writes is in one of BOX_FORMATS,
and meta["box_format"] says in which. Guessing it is how an IoU reward stays at 0 for a whole run
(Visual-RFT issues 143, 152, 232: data in 0 to 1000, and a Qwen2.5-VL that writes pixels).

`parse_boxes` reads what a model wrote, however it is spelt. A gold of a file has to be exact:
tasks/box_texts.py.
"""

import bisect
import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from grading.answers import MAX_TAIL, extract_answer

# How a model writes the corners of a box (--box-format): in thousandths of the picture's sides
# (Qwen2-VL), in pixels of the picture as it was resized for the model (Qwen2.5-VL), or in pixels of
# the original.
BOX_FORMATS = ("norm1000", "resized", "pixels")
Box = Sequence[float]

# --- reading what a model wrote ---

MAX_BOXES = 300  # a longer list is no answer
NUMBER = r"([+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?)\s*"
N = rf"\s*{NUMBER}"
# No two \s* may meet: they would try every way to share a run of spaces, 10 s for 8,000.
KEY = r"[\"']?\s*:\s*"
BOX_TOKEN = re.compile(
    rf"(?P<box>[\[(]{N},{N},{N},{N}[\])])"  # [1, 2, 3, 4]
    # (1,2),(3,4): LISA's and Qwen2-VL's own
    rf"|(?P<corners>[\[(]{N},{N}[\])]\s*(?:,\s*)?[\[(]{N},{N}[\])])"
    rf"|(?P<label>\b(?i:label|category|class){KEY}"
    r"(?:\"((?:[^\"\\]|\\.){0,200})\"|'((?:[^'\\]|\\.){0,200})'))"
    rf"|(?P<score>\b(?i:confidence|score){KEY}(?:[\"']\s*)?{NUMBER})"
    r"|<\|object_ref_start\|>(?P<reference>[^<]{0,200})<\|object_ref_end\|>"
    r"|(?P<brace>[{}])"
)
FULL_WIDTH = {  # [１，２，３，４] by a Chinese model
    ord(char): chr(ord(char) - 0xFEE0) for char in "［］（）｛｝，：．－０１２３４５６７８９"
}
EMPTY_LIST = re.compile(r"none|null|nothing|no (?:objects?|boxes|box)(?: found| detected)?")


def parse_boxes(text: str | None) -> list[dict] | None:
    """List the boxes that a text names, corners in order: see the examples.

    [] if it states that there are none ("[]", "none", "No Objects").
    None if it cannot be read, names more than MAX_BOXES, or boxes without area alone.

        [10, 20, 30, 40]    (10,20),(30,40)    [{'Position': [10, 20, 30, 40], 'Confidence': 0.9}]
        <|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>
        -> {"bbox_2d": (10.0, 20.0, 30.0, 40.0), "label": "cat" or None, "score": 0.9 or None}
    """
    if text is None or len(text) > MAX_TAIL:
        return None
    text = text.translate(FULL_WIDTH)
    parsed, boxes = [], []
    label = score = None
    number = 0
    # One pass of a regex: prose around, newlines, quotes and cut lists are all the same to it.
    for m in BOX_TOKEN.finditer(text):
        kind = m.lastgroup
        if kind in ("brace", "reference"):  # the end of what one label and score are about
            parsed += [{"bbox_2d": box, "label": label, "score": score} for box in boxes]
            boxes, score = [], None
            label = m["reference"] and m["reference"].strip()
        elif kind == "label":
            label = unescaped(m[12] if m[12] is not None else m[13]).strip() or None
        elif kind == "score":
            score = min(1.0, max(0.0, float(m[15])))
        else:
            number += 1
            if number > MAX_BOXES:
                return None
            corners = m.group(2, 3, 4, 5) if kind == "box" else m.group(7, 8, 9, 10)
            box = in_order(*map(float, corners))
            boxes += [box] if box else []
    parsed += [{"bbox_2d": box, "label": label, "score": score} for box in boxes]
    if number:
        return parsed or None  # boxes without area do not state that there is nothing
    return [] if states_none(text) else None


def unescaped(text: str) -> str:
    """Resolve the backslashes of a quoted text: JSON's \\u00e9, and any other character."""
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|(.))", lambda m: chr(int(m[1], 16)) if m[1] else m[2], text
    )


def in_order(x1: float, y1: float, x2: float, y2: float) -> tuple | None:
    """Put the corners in order; None if the box has no area."""
    box = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    return box if box[0] < box[2] and box[1] < box[3] and math.isfinite(area(box)) else None


def states_none(text: str) -> bool:
    """Tell whether a text without boxes states that there are none."""
    plain = re.sub("```(?:json)?", "", text).strip("[]{}()'\"`., \n\t")
    if not plain:
        return bool(re.search(r"\[\s*\]", text))
    return bool(EMPTY_LIST.fullmatch(" ".join(plain.split()).casefold()))


# --- converting and writing ---

SAME_PIXELS = "--box-format pixels if prediction and gold are in the same pixels"
ADD_SIZE = f'add "size": [width, height] to the record, or {SAME_PIXELS}'


def units_across(
    box_format: str, size: Sequence | None = None, resized: Sequence | None = None
) -> Sequence:
    """Give [width, height] of the picture in the units of a convention.

    size, resized: [width, height] of the original and of what the model saw, in pixels.
    ValueError for an unknown convention, and where a size is needed and missing.
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}; it is one of {', '.join(BOX_FORMATS)}")
    if not size:
        raise ValueError(f"boxes in {box_format} need the size of the original image: {ADD_SIZE}")
    if box_format == "resized" and not resized:
        raise ValueError(
            "boxes in resized need the size the model saw: "
            f'add "resized": [width, height] to the record, or {SAME_PIXELS}'
        )
    return {"norm1000": (1000, 1000), "resized": resized, "pixels": size}[box_format]


def pixels_per_unit(
    box_format: str, size: Sequence | None = None, resized: Sequence | None = None
) -> tuple[float, float]:
    """Give (horizontal, vertical) pixels of the original per unit. ValueError: `units_across`."""
    if box_format == "pixels":  # needs no size
        return 1.0, 1.0
    across, down = units_across(box_format, size, resized)
    return size[0] / across, size[1] / down


def stretched(box: Box, x: float, y: float) -> tuple[float, float, float, float]:
    """Multiply the corners of a box."""
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def to_pixels(
    box: Box, box_format: str, size: Sequence | None = None, resized: Sequence | None = None
) -> tuple[float, float, float, float]:
    """Convert a box as the model writes it to pixels of the original."""
    return stretched(box, *pixels_per_unit(box_format, size, resized))


def from_pixels(
    box: Box, box_format: str, size: Sequence | None = None, resized: Sequence | None = None
) -> tuple[float, float, float, float]:
    """Convert pixels of the original to what the model writes, not rounded."""
    x, y = pixels_per_unit(box_format, size, resized)
    return box[0] / x, box[1] / y, box[2] / x, box[3] / y


def whole_corners(box: Box, units: Sequence, size: Sequence) -> list[int]:
    """Convert pixels to whole units; a box thinner than one unit is rounded outwards."""
    corners = [0] * 4
    for axis in (0, 1):
        low = box[axis] * units[axis] / size[axis]
        high = box[axis + 2] * units[axis] / size[axis]
        first, last = round(low), round(high)
        if first >= last:
            first, last = math.floor(low), math.ceil(high)
        corners[axis], corners[axis + 2] = first, last
    return corners


def boxes_to_text(
    boxes: list[dict],
    box_format: str,
    size: Sequence,
    resized: Sequence | None = None,
    style: str | None = None,
) -> str:
    """Write boxes, which are in pixels, as the model writes them.

    None        {"bbox_2d": [10, 20, 200, 300]} for one without a label, else a list: VLM-R1
                [{"label": "cat", "bbox_2d": [10, 20, 200, 300]}, ...], [] for none
    "position"  [{'Position': [10, 20, 200, 300], 'Confidence': 1}], No Objects: Visual-RFT
    "corners"   (10,20),(200,300): LISA in Visual-RFT
    """
    units = units_across(box_format, size, resized)
    rows = [whole_corners(box["bbox_2d"], units, size) for box in boxes]
    if style == "corners":
        return ",".join("({},{}),({},{})".format(*row) for row in rows)
    if style == "position":
        return str([{"Position": row, "Confidence": 1} for row in rows]) if rows else "No Objects"
    written = []
    for box, row in zip(boxes, rows):
        # The label comes first: the model knows what it is about to draw a box around.
        label = {"label": box["label"]} if box.get("label") else {}
        written.append({**label, "bbox_2d": row})
    alone = len(written) == 1 and "label" not in written[0]
    return json.dumps(written[0] if alone else written, ensure_ascii=False)


# --- the boxes of an example ---


def meta_of(example: Any) -> dict:
    """Give an example's meta, {} if it has none."""
    return getattr(example, "meta", None) or {}


def gold_boxes(example: Any) -> list[dict]:
    """Give an example's gold boxes in pixels; [] says that there is nothing to find.

    ValueError for an example without boxes.
    """
    boxes = meta_of(example).get("boxes")
    if boxes is None:
        raise ValueError("this reward needs an example with boxes (meta['boxes'])")
    return boxes


def predicted_boxes(completion: str, example: Any) -> list[dict] | None:
    """Read the answer's boxes, in pixels of the original; None if it cannot be read."""
    meta = meta_of(example)
    boxes = parse_boxes(extract_answer(completion))
    if boxes is None:
        return None
    box_format = meta.get("box_format", BOX_FORMATS[0])
    x, y = pixels_per_unit(box_format, meta.get("size"), meta.get("resized"))
    return [{**box, "bbox_2d": stretched(box["bbox_2d"], x, y)} for box in boxes]


def drawn_boxes(example: Any, *completions: str) -> list[list[Box]]:
    """List the corners to draw on a picture, in pixels: gold, then each completion's.

    [] for an example without boxes.
    """
    if meta_of(example).get("boxes") is None:
        return []
    drawn = [corners_of(gold_boxes(example))]
    for text in completions:
        drawn.append(corners_of(predicted_boxes(text, example) or []))
    return drawn


def corners_of(boxes: list[dict]) -> list[Box]:
    """List the corners of boxes, without their labels."""
    return [box["bbox_2d"] for box in boxes]


# --- comparing two boxes ---


def area(box: Box) -> float:
    """Give the area of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def shared_area(a: Box, b: Box) -> float:
    """Give the area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def iou(a: Box, b: Box) -> float:
    """Give intersection over union of two boxes, in [0, 1]; 0 if they only touch."""
    shared = shared_area(a, b)
    return min(1.0, shared / (area(a) + area(b) - shared)) if shared else 0.0


def giou(a: Box, b: Box) -> float:
    """Give generalised IoU (Rezatofighi et al. 2019, arXiv:1902.09630), in (-1, 1].

    It is IoU minus the share of the enclosing box that neither covers.
    """
    shared = shared_area(a, b)
    union = area(a) + area(b) - shared
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return max(-1.0, min(1.0, shared / union + union / around - 1))


# --- matching ---


def normalize_label(label: str | None) -> str | None:
    """Give one spelling of a class, without case, spaces, underscores and hyphens."""
    if label is None:
        return None
    plain = unicodedata.normalize("NFKC", label).strip("\"'`.。 ").casefold()
    return re.sub(r"[\s_\-\u2010-\u2015\u2212]+", "", plain)


def score_of(box: dict) -> float:
    """Give a predicted box's confidence, 1 if it has none."""
    return 1.0 if box.get("score") is None else box["score"]


def match_boxes(
    predicted: list[dict],
    gold: list[dict],
    threshold: float,
    labels: bool = True,
    overlap: Callable[[Box, Box], float] = iou,
    by_score: bool = False,
) -> list[tuple[int, int, float]]:
    """Pair boxes one to one, greedily: [(index in predicted, index in gold, overlap), ...].

    Each overlap is above the threshold. The largest is paired first (VLM-R1); by_score lets the
    surest prediction choose first (Visual-RFT, COCO). With labels, a gold box that has one is only
    matched by a prediction with the same.
    """
    p_labels = [normalize_label(p.get("label")) for p in predicted]
    g_labels = [normalize_label(g.get("label")) for g in gold]
    pairs = []
    for i, p in enumerate(predicted):
        rank = (-score_of(p), i) if by_score else (0, 0)
        for j, g in enumerate(gold):
            if not labels or g_labels[j] is None or g_labels[j] == p_labels[i]:
                share = overlap(p["bbox_2d"], g["bbox_2d"])
                if share > threshold:
                    pairs.append((*rank, -share, i, j, share))
    used_p, used_g, matches = set(), set(), []
    for *_, i, j, share in sorted(pairs):
        if i not in used_p and j not in used_g:
            used_p.add(i)
            used_g.add(j)
            matches.append((i, j, share))
    return matches


# --- average precision ---

RECALLS = [i * 0.01 for i in range(100)] + [1.0]  # COCO's linspace, to the last bit
THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95]  # and these
MAX_DETECTIONS = 100  # COCO's, per image and class


def average_precision(detections: list, golds: list, threshold: float) -> float:
    """Give COCO's 101-point average precision of one class over images, in [0, 1].

    detections: [(image_id, box, score), ...], golds: [(image_id, box), ...]; 0 without golds.
    Per image the surest detection chooses first, the free gold box with the largest IoU >=
    threshold. Equal scores keep the order in which they are given, as in pycocotools.
    """
    return average_precisions(detections, golds, [threshold])[0]


def average_precisions(detections: list, golds: list, thresholds: list[float]) -> list[float]:
    """Give `average_precision` at each threshold."""
    golds_of = {}
    for image, box in golds:
        golds_of.setdefault(image, []).append(box)
    detections_of = {}
    for image, box, score in detections:
        detections_of.setdefault(image, []).append((score, box))
    hits = []  # (score, one bool per threshold), image by image
    for image, scored in detections_of.items():
        hits += image_hits(scored, golds_of.get(image, []), thresholds)
    hits.sort(key=lambda hit: -hit[0])  # stable
    areas = []
    for k in range(len(thresholds)):
        areas.append(area_under([right[k] for _, right in hits], len(golds)))
    return areas


def image_hits(scored: list, golds: list[Box], thresholds: list[float]) -> list[tuple]:
    """Tell of each (score, box) of one image whether it hits: [(score, [bool per threshold])]."""
    hits = []
    taken = [set() for _ in thresholds]
    for score, box in sorted(scored, key=lambda pair: -pair[0])[:MAX_DETECTIONS]:
        shares = [iou(box, gold) for gold in golds]
        right = []
        for threshold, used in zip(thresholds, taken):
            free = [j for j in range(len(golds)) if j not in used and shares[j] >= threshold]
            best = max(free, key=lambda j: (shares[j], j), default=None)
            right.append(best is not None)
            used.add(best)
        hits.append((score, right))
    return hits


def area_under(right: list[bool], n_gold: int) -> float:
    """Average over 101 recalls the best precision at that recall or beyond; `right` is ranked."""
    if not n_gold:
        return 0.0
    precision, recall, hits = [], [], 0
    for rank, hit in enumerate(right, 1):
        hits += hit
        precision.append(hits / rank)
        recall.append(hits / n_gold)
    for k in range(len(precision) - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    places = [bisect.bisect_left(recall, r) for r in RECALLS]
    return sum(precision[k] for k in places if k < len(precision)) / len(RECALLS)


def mean_average_precision(images: list[tuple[list | None, list]]) -> dict[str, float]:
    """Give {"mAP", "AP50"} of a set of (predicted, gold) images, each in [0, 1].

    The mean is over the classes of gold and predictions: one that is only predicted counts 0
    (COCO and VLM-R1 drop it, so that inventing classes is free). predicted None finds nothing.
    A set with nothing to find scores 1 if nothing is found and everything could be read.
    """
    detections, golds = {}, {}
    for image, (predicted, gold) in enumerate(images):
        for p in predicted or []:
            found = (image, p["bbox_2d"], score_of(p))
            detections.setdefault(normalize_label(p.get("label")), []).append(found)
        for g in gold:
            golds.setdefault(normalize_label(g.get("label")), []).append((image, g["bbox_2d"]))
    if not detections and not golds:
        nothing = float(all(predicted is not None for predicted, _ in images))
        return {"mAP": nothing, "AP50": nothing}
    per_class = [
        average_precisions(detections.get(name, []), golds.get(name, []), THRESHOLDS)
        for name in {**golds, **detections}
    ]
    return {
        "mAP": sum(map(sum, per_class)) / (len(per_class) * len(THRESHOLDS)),
        "AP50": sum(row[0] for row in per_class) / len(per_class),
    }
