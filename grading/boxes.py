"""Boxes: read, write, convert, compare, average precision."""

import bisect
import json
import math
import re
import unicodedata

from grading.answers import MAX_TAIL, extract_answer
from plumbing.errors import UserError
from plumbing.text import short

# How a model writes the corners of a box (--box-format): in thousandths of the picture's sides (Qwen2-VL), in pixels of the picture as it was resized for
# the model (Qwen2.5-VL), or in pixels of the original. What a person sees, and Example.meta["boxes"], is always the last.
BOX_FORMATS = ("norm1000", "resized", "pixels")
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
FOUR_NUMBERS = re.compile(r"\[\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3}\s*\]")
CORNERS = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def boxes_in(text, where, corners=False, asked=False):
    """(boxes, box_format, style) that a gold answer's text writes down, or None if it is another kind of answer. json and regular expressions only.

    "[{'Position': [110, 120, 210, 230], 'Confidence': 1}]", "No Objects"     Visual-RFT's detection: 0 to 1000; the latter and "[]" only if boxes were `asked` for
    "(100,200),(300,400)"                                                     its LISA: 0 to 1000; read so only if `corners`, as it could be two points elsewhere
    '```json\\n[{"bbox_2d": [10, 20, 200, 300], "label": "cat"}]\\n```'         VLM-R1's detection: pixels
    UserError for what begins like boxes and cannot be read.
    """
    text = text.strip()
    if asked and text == "[]":
        return [], "pixels", None
    if asked and text.lower().rstrip(".") == "no objects":
        return [], "norm1000", "position"
    pair = corners and CORNERS.fullmatch(text)
    if pair:
        return [[int(v) for v in pair.groups()]], "norm1000", "corners"
    if not re.search("[\"'](Position|bbox_2d)[\"']", text):
        return None
    fenced = FENCE.search(text)
    body = fenced[1] if fenced else text
    try:
        found = json.loads(json_quotes(body) if "'Position'" in body else body)
    except (ValueError, RecursionError):
        found = None
    found = [found] if isinstance(found, dict) else found
    if isinstance(found, list) and all(
        isinstance(box, dict) and "Position" in box for box in found
    ):
        return [box["Position"] for box in found], "norm1000", "position"
    if isinstance(found, list) and all(isinstance(box, dict) and "bbox_2d" in box for box in found):
        return found, "pixels", None
    raise UserError(
        f"{where}: the answer looks like a list of boxes, but is none ({short(text, 60)}); mend or delete the record"
    )


def json_quotes(text):
    """Python's quotes as JSON's, in one pass: [{'label': "men's", 'note': 'a "b"'}] -> [{"label": "men's", "note": "a \\"b\\""}]."""
    inside = lambda m: re.sub(
        r'\\.|"', lambda e: {"\\'": "'", '"': '\\"'}.get(e[0], e[0]), m[1], flags=re.DOTALL
    )
    return re.sub(
        r"""\\.|"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'""",
        lambda m: m[0] if m[1] is None else f'"{inside(m)}"',
        text,
        flags=re.DOTALL,
    )


# ---------------------------------------------------------------------------------------------------------------------
# boxes: reading them
#
# A box is (x1, y1, x2, y2), x1 < x2 and y1 < y2.  Gold boxes are in pixels of the original image, which is what a person sees.  What the policy
# writes is in one of three conventions, and example.meta["box_format"] says in which: guessing it is how an IoU reward stays at 0 for a
# whole run (Visual-RFT issues 143, 152, 232: 0-1000 data, a Qwen2.5-VL that writes pixels; VLM-R1's reward assumes the latter).

MAX_BOXES = 300  # a longer list is no answer

WHITE = r"\s*"
_N = WHITE + r"([+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?)\s*"
_KEY = r"[\"']?\s*:\s*"  # no two \s* may meet: between them they would try every way to share a run of spaces, 10 s for 8,000
BOX_TOKEN = re.compile(
    rf"(?P<box>[\[(]{_N},{_N},{_N},{_N}[\])])"  # [1, 2, 3, 4]
    rf"|(?P<corners>[\[(]{_N},{_N}[\])]\s*(?:,\s*)?[\[(]{_N},{_N}[\])])"  # (1,2),(3,4): LISA and Qwen2-VL's own
    rf"|(?P<label>\b(?i:label|category|class){_KEY}(?:\"((?:[^\"\\]|\\.){{0,200}})\"|'((?:[^'\\]|\\.){{0,200}})'))"
    rf"|(?P<score>\b(?i:confidence|score){_KEY}(?:[\"']\s*)?{_N.removeprefix(WHITE)})"
    r"|<\|object_ref_start\|>(?P<reference>[^<]{0,200})<\|object_ref_end\|>"
    r"|(?P<brace>[{}])"
)
FULL_WIDTH = {
    ord(char): chr(ord(char) - 0xFEE0) for char in "［］（）｛｝，：．－" + "０１２３４５６７８９"
}  # [１，２，３，４] by a Chinese model
EMPTY_LIST = re.compile(r"none|null|nothing|no (?:objects?|boxes|box)(?: found| detected)?")


def parse_boxes(text):
    """The boxes a text names: [{"bbox_2d": (x1, y1, x2, y2), "label": str or None, "score": float in [0, 1] or None}, ...].

    [] if it says in so many words that there are none ("[]", "none", "No Objects"); None if it cannot be read, or names more than MAX_BOXES.

        [10, 20, 30, 40]    (10,20),(30,40)    <|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>
        ```json [{"bbox_2d": [10, 20, 30, 40], "label": "cat"}, ...] ```    [{'Position': [10, 20, 30, 40], 'Confidence': 0.9}, ...]

    One pass of a regex, so prose around the boxes, newlines, either quotes, fences, integers or decimals, and a list that was cut off are all the
    same to it, and there is nothing to recurse into.  Corners are put in order (Visual-RFT pays swapped ones 2.0); boxes without area are dropped.
    Every box counts, wherever it stands in the answer: VLM-R1 trains on the first and evaluates the last, and both may be hedged.
    """
    if text is None or len(text) > MAX_TAIL:
        return None
    text = text.translate(FULL_WIDTH)
    found, boxes, label, score, seen = [], [], None, None, 0
    for m in BOX_TOKEN.finditer(text):
        kind = m.lastgroup
        if kind in ("brace", "reference"):  # the end of what one label and score are about
            found += [{"bbox_2d": box, "label": label, "score": score} for box in boxes]
            boxes, label, score = [], m["reference"] and m["reference"].strip(), None
        elif kind == "label":
            value = m[12] if m[12] is not None else m[13]
            label = (
                re.sub(
                    r"\\(?:u([0-9a-fA-F]{4})|(.))",
                    lambda e: chr(int(e[1], 16)) if e[1] else e[2],
                    value,
                ).strip()
                or None
            )
        elif kind == "score":
            score = min(1.0, max(0.0, float(m[15])))
        else:
            seen += 1
            if seen > MAX_BOXES:
                return None
            box = _ordered(
                *map(float, m.group(2, 3, 4, 5) if kind == "box" else m.group(7, 8, 9, 10))
            )
            boxes += [box] if box else []
    found += [{"bbox_2d": box, "label": label, "score": score} for box in boxes]
    if found or seen:
        return found or None  # boxes without area are not the statement that there is nothing
    plain = re.sub("```(?:json)?", "", text).strip("[]{}()'\"`., \n\t")
    said = EMPTY_LIST.fullmatch(" ".join(plain.split()).casefold()) or (
        not plain and re.search(r"\[\s*\]", text)
    )
    return [] if said else None


def _ordered(x1, y1, x2, y2):
    """The corners in order, or None if the box has no area."""
    box = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    return (
        box
        if box[0] < box[2]
        and box[1] < box[3]
        and math.isfinite((box[2] - box[0]) * (box[3] - box[1]))
        else None
    )


SAME_PIXELS = "--box-format pixels if prediction and gold are in the same pixels"
ADD_SIZE = f'add "size": [width, height] to the record, or {SAME_PIXELS}'


def _scale(box_format, size, resized):
    """(horizontal, vertical) pixels of the original per unit of the convention."""
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}; it is one of {', '.join(BOX_FORMATS)}")
    if box_format == "pixels":
        return 1.0, 1.0
    if not size:
        raise ValueError(f"boxes in {box_format} need the size of the original image: {ADD_SIZE}")
    if box_format == "norm1000":
        return size[0] / 1000, size[1] / 1000
    if not resized:
        raise ValueError(
            f'boxes in resized need the size the model saw: add "resized": [width, height] to the record, or {SAME_PIXELS}'
        )
    return size[0] / resized[0], size[1] / resized[1]


def to_pixels(box, box_format, size=None, resized=None):
    """A box as the policy writes it -> pixels of the original image.  size and resized are [width, height]."""
    x, y = _scale(box_format, size, resized)
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def from_pixels(box, box_format, size=None, resized=None):
    """The inverse of to_pixels: pixels of the original image -> as the policy writes it (not rounded)."""
    x, y = _scale(box_format, size, resized)
    return box[0] / x, box[1] / y, box[2] / x, box[3] / y


def _meta(example):
    return getattr(example, "meta", None) or {}


def gold_boxes(example):
    """example.meta["boxes"]: [{"bbox_2d": [x1, y1, x2, y2] in original pixels, "label": str or None}, ...]; [] says there is nothing to find."""
    boxes = _meta(example).get("boxes")
    if boxes is None:
        raise ValueError("this reward needs an example with boxes (meta['boxes'])")
    return boxes


def predicted_boxes(completion, example):
    """parse_boxes of the answer body, in pixels of the original image; None if there is no readable answer."""
    boxes, meta = parse_boxes(extract_answer(completion)), _meta(example)
    if boxes is None:
        return None
    x, y = _scale(meta.get("box_format", "norm1000"), meta.get("size"), meta.get("resized"))
    return [
        {
            **b,
            "bbox_2d": (
                b["bbox_2d"][0] * x,
                b["bbox_2d"][1] * y,
                b["bbox_2d"][2] * x,
                b["bbox_2d"][3] * y,
            ),
        }
        for b in boxes
    ]


# ---------------------------------------------------------------------------------------------------------------------
# boxes: comparing them


def iou(a, b):
    """Intersection over union of two boxes, in [0, 1].  Touching boxes have 0.  (VLM-R1 counts an overlap one pixel wide as none.)"""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return min(
        1.0, shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
    )


def giou(a, b):
    """Generalised IoU (Rezatofighi et al. 2019, arXiv:1902.09630): IoU minus the share of the enclosing box that neither covers; in (-1, 1]."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return max(-1.0, min(1.0, shared / union + union / around - 1))


def normalize_label(label):
    """One spelling of a class: case, spaces, underscores and hyphens aside.  None stays None."""
    return (
        None
        if label is None
        else re.sub(
            r"[\s_\-\u2010-\u2015\u2212]+",
            "",
            unicodedata.normalize("NFKC", label).strip("\"'`.。 ").casefold(),
        )
    )


def match_boxes(predicted, gold, threshold, labels=True, overlap=iou, by_score=False):
    """Greedy one-to-one pairs, each better than the threshold: [(index in predicted, index in gold, overlap), ...].

    The largest overlap is paired first (VLM-R1); by_score lets the surest prediction choose first (Visual-RFT, COCO; no score counts as 1).
    With labels, a gold box that has a label is only matched by a prediction with the same one.
    """
    p_labels, g_labels = (
        [normalize_label(p.get("label")) for p in predicted],
        [normalize_label(g.get("label")) for g in gold],
    )
    pairs = []
    for i, p in enumerate(predicted):
        for j, g in enumerate(gold):
            if not labels or g_labels[j] is None or g_labels[j] == p_labels[i]:
                share = overlap(p["bbox_2d"], g["bbox_2d"])
                if share > threshold:
                    pairs.append(
                        (
                            (-_score(p) if by_score else 0, i if by_score else 0, -share, i, j),
                            i,
                            j,
                            share,
                        )
                    )
    used_p, used_g, matches = set(), set(), []
    for _, i, j, share in sorted(pairs):
        if i not in used_p and j not in used_g:
            used_p.add(i)
            used_g.add(j)
            matches.append((i, j, share))
    return matches


def _score(box):
    return 1.0 if box.get("score") is None else box["score"]


RECALLS = [i * 0.01 for i in range(100)] + [1.0]  # COCO's linspace, to the last bit
THRESHOLDS = [
    0.5,
    0.55,
    0.6,
    0.65,
    0.7,
    0.75,
    0.8,
    0.85,
    0.8999999999999999,
    0.95,
]  # COCO's, as numpy's linspace has them
MAX_DETECTIONS = 100  # COCO's, per image and class


def average_precision(detections, golds, threshold):
    """COCO's 101-point average precision of one class over a set of images, in [0, 1]; 0 if there is no gold.

    detections: [(image_id, box, score), ...], golds: [(image_id, box), ...].  Per image the surest detection chooses first and takes the free gold box
    with the largest IoU >= threshold; all are then ranked by score.  Equal scores keep the order in which they are given, as in pycocotools.
    """
    return _average_precisions(detections, golds, [threshold])[0]


def _average_precisions(detections, golds, thresholds):
    free = {}
    for image, box in golds:
        free.setdefault(image, []).append(box)
    by_image = {}
    for image, box, score in detections:
        by_image.setdefault(image, []).append((score, box))
    hits = []  # (score, one bool per threshold), image by image
    for image, found in by_image.items():
        boxes = free.get(image, [])
        taken = [set() for _ in thresholds]
        for score, box in sorted(found, key=lambda pair: -pair[0])[:MAX_DETECTIONS]:
            shares = [iou(box, other) for other in boxes]
            right = []
            for threshold, used in zip(thresholds, taken):
                best = max(
                    (j for j in range(len(boxes)) if j not in used and shares[j] >= threshold),
                    key=lambda j: (shares[j], j),
                    default=None,
                )
                right.append(best is not None)
                used.add(best)
            hits.append((score, right))
    hits.sort(key=lambda hit: -hit[0])  # stable
    return [area_under([right[k] for _, right in hits], len(golds)) for k in range(len(thresholds))]


def area_under(right, n_gold):
    """Mean over 101 recalls of the best precision at that recall or beyond; `right` is ranked."""
    precision, recall, hits = [], [], 0
    for rank, hit in enumerate(right, 1):
        hits += hit
        precision.append(hits / rank)
        recall.append(hits / max(1, n_gold))
    for k in range(len(precision) - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    return (
        sum(
            precision[k]
            for k in (bisect.bisect_left(recall, r) for r in RECALLS)
            if k < len(precision)
        )
        / len(RECALLS)
        if n_gold
        else 0.0
    )


def mean_average_precision(images):
    """{"mAP", "AP50"} of a set, each in [0, 1]: images is a list of (predicted, gold) lists of boxes; predicted may be None (unreadable: finds nothing).

    The mean over the classes of gold and predictions together: a class that is only predicted counts 0.  COCO and VLM-R1 drop those, so that inventing
    classes is free.  A box without a score has score 1.  A set with nothing to find scores 1 if nothing is found and everything could be read.
    """
    detections, golds = {}, {}
    for image, (predicted, gold) in enumerate(images):
        for p in predicted or []:
            detections.setdefault(normalize_label(p.get("label")), []).append(
                (image, p["bbox_2d"], _score(p))
            )
        for g in gold:
            golds.setdefault(normalize_label(g.get("label")), []).append((image, g["bbox_2d"]))
    if not detections and not golds:
        nothing = float(all(predicted is not None for predicted, _ in images))
        return {"mAP": nothing, "AP50": nothing}
    per_class = [
        _average_precisions(detections.get(name, []), golds.get(name, []), THRESHOLDS)
        for name in {**golds, **detections}
    ]
    return {
        "mAP": sum(map(sum, per_class)) / (len(per_class) * len(THRESHOLDS)),
        "AP50": sum(row[0] for row in per_class) / len(per_class),
    }


def drawn_boxes(example, *completions):
    """The boxes to draw on an example's picture: the gold ones, then those of each completion, as corners in pixels; [] for an example without boxes."""
    if _meta(example).get("boxes") is None:
        return []
    return [
        [b["bbox_2d"] for b in boxes or []]
        for boxes in (
            gold_boxes(example),
            *(predicted_boxes(text, example) for text in completions),
        )
    ]
