r"""Rewards: text in, float out, one dict of names.

    REWARDS[name](completion, example) -> float
    REWARDS[name](completion, example, tokens, max_tokens) -> float      (the names in NEEDS_TOKENS)

`completion` is the text the policy wrote; `example` has `.answer` (the gold, a string such as "3", "140°", "(A)", "yes",
r"\sqrt{3}"), `.choices` (list of option texts, or None) and, if boxes are asked for, `.meta["boxes"]`.  RANGES has the range of every reward, and
docs/rewards.md where each comes from.  To add a reward, write such a function and name it in REWARDS and RANGES.

Answers are found and compared in grading/answers.py. This file: reading boxes, comparing boxes, the rewards (is the answer right, is it written
as asked, how long is it, boxes), names and combining, many answers to one question.

What the projects this follows got wrong (R1-V, VLM-R1, VisualThinker, Visual-RFT) is named where it is avoided.
A policy under RL emits every text there is, so nothing here may hang, raise, or run the text.
"""

import bisect
import functools
import logging
import math
import re
import unicodedata

from grading import metrics
from grading.answers import MAX_TAIL, choice_index, extract_answer, match_answer, parse_failure
from grading.boxes import (
    RECALLS,
    THRESHOLDS,
    giou,
    gold_boxes,
    match_boxes,
    meta_of,
    normalize_label,
    parse_boxes,
    pixels_per_unit,
    predicted_boxes,
    score_of,
)
from grading.reading import MAX_ANSWER, read, text_form
from grading.values import Choice

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------------------------
# the rewards: is the answer right
#
# f(completion, example) -> float; those named in NEEDS_TOKENS are called as f(completion, example, tokens, max_tokens).  RANGES has every range.


def check_gold(answer, choices=None, meta=None):
    """ValueError if the gold cannot be scored against: call it once per example, at load time.

    Empty golds score 1.0 for everything in align-anything and for empty answers in Visual-RFT.  With choices, the gold must name one of them.
    With meta["boxes"], every box must have an area, and what turns the policy's coordinates into pixels must be there.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            f"the gold answer is empty or not text: {answer!r}; mend the record, or leave it out"
        )
    if choices and choice_index(answer, choices) is None:
        raise ValueError(
            f"the gold answer {answer!r} is neither a letter nor a text of the choices {choices!r}; mend the record, or leave it out"
        )
    if meta and meta.get("boxes") is not None:
        pixels_per_unit(meta.get("box_format", "norm1000"), meta.get("size"), meta.get("resized"))
        for gold in meta["boxes"]:
            box = gold.get("bbox_2d") if isinstance(gold, dict) else None
            if (
                not box
                or len(box) != 4
                or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)
                or box[0] >= box[2]
                or box[1] >= box[3]
            ):
                raise ValueError(
                    f"a gold box is {{'bbox_2d': [x1, y1, x2, y2], 'label': ...}} with x1 < x2 and y1 < y2, not {gold!r}"
                )


def accuracy(completion, example):
    """1.0 if the answer body matches example.answer, else 0.0 (see match_answer).  ValueError if the gold is empty.

    Of an example with boxes: 1.0 if every gold box is matched at IoU > 0.5 (with its label, where it has one) and there is no other box; if there is nothing to
    find, 1.0 for an answer that says so.

    R1-V's accuracy with its faults removed: it scores the whole completion, not the answer, and compares tags, units and case.  VLM-R1's default pays
    a wrong text its Levenshtein ratio ("7 or 3" for 7: 0.286); a wrong answer is worth nothing here.
    """
    check_gold(example.answer)
    if meta_of(example).get("boxes") is None:
        return float(match_answer(extract_answer(completion), example.answer, example.choices))
    predicted, gold = predicted_boxes(completion, example), gold_boxes(example)
    return float(
        predicted is not None
        and len(predicted) == len(gold) == len(match_boxes(predicted, gold, 0.5))
    )


def mcq(completion, example):
    """1.0 if the answer names the gold's choice, by letter in any bracket or (with example.choices) by its text, else 0.0.  Never mathematics.

    VLM-R1's mcq: a gold "(A)" never scores, "(A)" and "Option C is right." have no letter, and "I think A, but B." is A.  VisualThinker takes the last
    letter of a sentence.  Here two letters are none, and a sentence is none.
    """
    body, choices = extract_answer(completion), example.choices
    if body is None:
        return 0.0
    if choices:
        right = choice_index(example.answer, choices)
        return float(right is not None and choice_index(body, choices) == right)
    right, named = read(example.answer), read(body)
    return float(
        isinstance(right, Choice) and isinstance(named, Choice) and named.letter == right.letter
    )


def yes_no(completion, example):
    """1.0 if the answer begins with the gold's yes or no and does not contain the other, else 0.0.

    VLM-R1's yes_no looks for the letters: "I do not know" is no, and two texts with neither are equal.
    """
    body, gold = extract_answer(completion), text_form(example.answer)
    return float(
        body is not None
        and len(body) <= MAX_ANSWER
        and gold in ("yes", "no")
        and match_answer(body, gold)
    )


def all_match(completion, example):
    """1.0 if the answer is the gold's text (case, spaces, quotes and the final period aside), else 0.0.

    VLM-R1's all_match (its GUI task), which takes the whole completion for the answer if there is no tag, and scores an empty one against an empty gold.
    """
    body = extract_answer(completion)
    return float(body is not None and text_form(body) == text_form(example.answer) != "")


# Words that may stand around a class name: none of them is a class.  The nouns of Visual-RFT's questions may be one: beside a gold that is such a noun they are not
# passed over, or "flower plant" would be paid for two golds.
AROUND_LABEL = set(
    "a an the this that there it is its it's image picture photo shows show contains depicts of in type kind species model class category label variant breed answer name".split()
)
ASKED_ABOUT = set("aircraft airplane plane plant flower car vehicle animal pet".split())
NO_MAKER = set(
    "or and not no never nor neither either unlike without except but than maybe perhaps possibly probably likely hardly isn't isnt wasn't can't cannot versus vs if non".split()
)

# What may stand around a whole class name and is no part of it.
DRESSING = re.compile(
    r"\\(?:boxed|fbox|mbox|emph|text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf))\s*\{"
)
BRACKETS = {"(": "()", "[": "[]", "{": "{}"}
AROUND_WORD = " \t\r\n\"'`*.。“”‘’"


def _undressed(text):
    """Return a class name without the LaTeX, emphasis, quotes and brackets around all of it."""
    text = re.sub(r"\\([_&%#-])", r"\1", re.sub(r"\\[ ,;:!]|~", " ", text))
    before = None
    while before != text:  # each turn makes the text shorter
        before = text
        text = text.strip(AROUND_WORD)
        command = DRESSING.match(text)
        if command and _wraps(text, "{}"):
            text = text[command.end() : -1]
        elif text[:1] in BRACKETS and _wraps(text, BRACKETS[text[0]]):
            text = text[1:-1]
        elif len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text.strip("$"):
            text = text.strip("$")
        elif re.fullmatch(r"\\\((?:(?!\\[()]).)*\\\)|\\\[(?:(?!\\[\[\]]).)*\\\]", text, re.DOTALL):
            text = text[2:-2]
    return text


def _wraps(text, pair):
    """Say whether the first opening bracket of a text is closed by its last character."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == pair[0]) - (char == pair[1])
        if char == pair[1] and depth == 0:
            return i == len(text) - 1
    return False


def classification(completion, example):
    """1.0 if the answer is the gold class: equal but for case, spaces, underscores and hyphens; or the class among words that name nothing ("a photo of a lily").

    Visual-RFT's rule is `gold in answer or answer in gold` on squeezed text: it pays the empty answer, "A" for "A320" and "rose or lily" for both.  Its first stage
    is math-verify, to which 737-800 is a subtraction.  One direction here, on word boundaries, and no answer is paid for two golds: before a gold with a digit a
    maker may stand ("Boeing 737-800"), but no other word with one; "A320-200" is not "A320"; "water lily" is not "lily".
    Dressing around it all is no part of a name: \\boxed{}, $...$, \\text{}, emphasis, quotes, brackets.
    (A set with the classes "lily" and "lily flower" would have "lily flower" paid for both.)
    """
    body = extract_answer(completion)
    if body is None or len(body) > MAX_ANSWER or not normalize_label(example.answer):
        return 0.0
    bare = _undressed(body)
    if normalize_label(example.answer) in (normalize_label(body), normalize_label(bare)):
        return 1.0
    bare = re.sub(r"[{}$*]", " ", DRESSING.sub(" ", bare)).replace(
        "’", "'"
    )  # "a photo of a **lily**"
    text, gold = (
        unicodedata.normalize("NFKC", t).casefold().strip("\"'`.。 ")
        for t in (bare, example.answer)
    )
    parts = [re.escape(part) for part in re.split(r"[\s_\-]+", gold) if part]
    m = re.search(r"(?<![\w\-])" + r"[\s_\-]?".join(parts) + r"(?![\w\-])", text)
    if not m:
        return 0.0
    words = [
        re.findall(r"[^\s:,!?\"()\[\]“”]+", part) for part in (text[: m.start()], text[m.end() :])
    ]
    before, after = ([word.strip("'`") for word in part if word.strip("'`")] for part in words)
    around = AROUND_LABEL if gold in ASKED_ABOUT else AROUND_LABEL | ASKED_ABOUT
    unknown = [word for word in before + after if word not in around]
    if not unknown:
        return 1.0
    maker = (
        len(unknown) <= 2
        and unknown == before[-len(unknown) :]
        and all(word.replace("-", "").isalpha() for word in unknown)
    )
    return float(maker and bool(re.search("[0-9]", gold)) and not NO_MAKER & set(unknown))


# ---------------------------------------------------------------------------------------------------------------------
# the rewards: is it written as asked


def _blocks(text, tags):
    """[(tag, body), ...] if the text is a flat sequence of `<tag>body</tag>` with only whitespace between, and every body says something; else None."""
    pieces = re.split("(</?(?:" + "|".join(tags) + ")>)", text)  # text, tag, text, tag, ..., text
    if len(pieces) % 4 != 1 or any(outside.strip() for outside in pieces[::4]):
        return None
    blocks = []
    for opened, body, closed in zip(pieces[1::4], pieces[2::4], pieces[3::4]):
        if opened[1] == "/" or closed != "</" + opened[1:] or not body.strip():
            return None
        blocks.append((opened[1:-1], body))
    return blocks


FOUR_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def _order(text, tags):
    return [tag for tag, _ in _blocks(text, tags) or []]


def format_strict(completion, example=None):
    """1.0 if the completion is `<think>...</think> <answer>...</answer>` and nothing else, else 0.0.

    Each of the four tags exactly once, both bodies non-empty; whitespace is free around and between the blocks.  R1-V's fullmatch refuses
    a final newline, and lets nested blocks, repeated blocks and empty bodies pass.
    """
    return float(_order(completion, ["think", "answer"]) == ["think", "answer"])


def format_lenient(completion, example=None):
    """1.0 if the completion contains `<think>...</think> <answer>...</answer>`, each tag once, whatever stands before and after; else 0.0.

    open-r1-multimodal's and R1-Onevision's grpo.py: re.match without DOTALL, so that a newline in the thinking scores 0 and a leading space too.
    """
    if any(completion.count(tag) != 1 for tag in FOUR_TAGS):
        return 0.0
    return format_strict(
        completion[completion.find("<think>") : completion.find("</answer>") + len("</answer>")]
    )


def format_rec(completion, example=None):
    """1.0 if format_strict holds and the answer can be read as boxes (parse_boxes), or as the statement that there are none; else 0.0.

    VLM-R1's format_reward_rec searches the completion: text around, repeated blocks and empty thinking pass, decimals, one-line JSON without braces and
    (1,2),(3,4) do not, and the box may stand behind the answer.
    """
    return float(
        format_strict(completion) == 1.0 and parse_boxes(extract_answer(completion)) is not None
    )


def format_multi_think(completion, example=None):
    """1.0 if the completion is one or more `<think>` blocks and then one `<answer>`, else 0.0; non-empty, flat, whitespace between.

    R1-Onevision's data has thinking in several blocks, which its released format reward does not treat (its strict pattern passes them by accident, as it passes two
    answers); open-r1-multimodal merges them when it prepares data.
    """
    order = _order(completion, ["think", "answer"])
    return float(len(order) > 1 and order[-1] == "answer" and order.count("answer") == 1)


def format_caption(completion, example=None):
    """1.0 if the completion is `<caption>...</caption> <think>...</think> <answer>...</answer>` and nothing else, else 0.0.

    Efficient-R1-VLLM claims that being made to describe the picture first helps; it released neither this reward nor a number.
    """
    return float(
        _order(completion, ["caption", "think", "answer"]) == ["caption", "think", "answer"]
    )


def tag_count(completion, example=None):
    """0.25 for each of the four tags that occurs exactly once: 0, 0.25, ..., 1.0.

    HF open-r1 PR 418, for models whose format reward stays 0.  There the newlines belong to the tags; here a tag is a tag.  Says nothing about order.
    """
    return 0.25 * sum(completion.count(tag) == 1 for tag in FOUR_TAGS)


# ---------------------------------------------------------------------------------------------------------------------
# the rewards: how long it is
#
# tokens is the length of the completion in tokens, max_tokens the longest it could have been (--max-completion-length).


def length(completion, example, tokens, max_tokens):
    """0.001 per token, at most 1.0 (VisualThinker, where it is unbounded and the processor is loaded again at every call).

    Range [0, 1].  Gameable by repetition, and known to be gamed: VisualThinker reports longer text and no better answers.  It is here
    to show that.
    """
    return min(1.0, 0.001 * max(0, tokens))


def cosine(completion, example, tokens, max_tokens):
    """Half a cosine over the length, by correctness: right 1.0 -> 0.5, wrong 0.0 -> -0.5, from no token to max_tokens.  Range [-0.5, 1].

    The "length" of VLM-R1 (after Yeo et al. 2025, arXiv:2502.03373): brief is better, right or wrong, and any right answer beats any wrong one.  HF open-r1 has
    it the other way for wrong answers (-1.0 -> -0.5: a longer attempt is forgiven), which pays for padding whatever the policy cannot solve.
    VLM-R1 overwrites the correctness with 1.0, and its curve is periodic: 2,048 tokens are worth as much as none.  Here the length is clamped.
    """
    best, worst = (1.0, 0.5) if accuracy(completion, example) else (0.0, -0.5)
    share = min(1.0, max(0, tokens) / max(1, max_tokens))
    return worst + (best - worst) * (1 + math.cos(math.pi * share)) / 2


def soft_overlong(completion, example, tokens, max_tokens):
    """0 up to L_max - L_cache tokens, then linear to -1 at L_max: DAPO, arXiv:2503.14476 eq. 13.  Range [-1, 0].

    L_max is max_tokens; L_cache is a fifth of it (DAPO: 4,096 of 20,480).
    """
    cache = max(1, max_tokens) / 5
    return max(-1.0, min(0.0, (max_tokens - cache - tokens) / cache))


def repetition(completion, example=None):
    """-(1 - distinct / all) of the 6-grams of the words, or of the boxes in the answer if that is worse.  Range [-1, 0].

    VLM-R1's repetition.  There fewer than 6 words are never repetitive and 6 have one 6-gram, so that "a a a a a" is free: up to 6 words are measured in
    2-grams here.  A completion without spaces is one word: words are cut into pieces of 8 characters beyond 32.  And a box list hides the thinking from it: the worse
    of the two counts here.  Only the last MAX_TAIL characters are read.
    """
    worst = _repeated_ngrams(completion, 6)
    boxes = (
        parse_boxes(extract_answer(completion)) if "[" in completion or "(" in completion else None
    )
    return min(worst, _repeated([(b["bbox_2d"], b["label"]) for b in boxes])) if boxes else worst


def repetition_penalty(completion, example=None):
    """-(1 - distinct / all) of the 3-grams of the words.  Range [-1, 0].

    HF open-r1's get_repetition_penalty_reward with its defaults (ngram_size 3, max_penalty -1), and its rule for short texts and long words as in `repetition`.  Stricter:
    a policy paid for length makes lists, "red circle, red circle, blue circle", in which 6-grams hardly ever come twice (README, docs/log.md).
    """
    return _repeated_ngrams(completion, 3)


def _repeated_ngrams(completion, n):
    words = []
    for word in completion[-MAX_TAIL:].lower().split():
        words += [word] if len(word) <= 32 else [word[i : i + 8] for i in range(0, len(word), 8)]
    n = n if len(words) > n else 2
    return _repeated(list(zip(*(words[i:] for i in range(n)))))


def _repeated(items):
    return len(set(items)) / len(items) - 1 if items else 0.0


# ---------------------------------------------------------------------------------------------------------------------
# the rewards: boxes
#
# All need example.meta["boxes"] (ValueError without: see check_rewards), read the answer body only and never send it through a numeric verifier, which
# reduces Visual-RFT's gold to the y1 of its first box: "[]" after a thinking that mentions that number scores 1.0 there.  Where there is nothing to find, an
# answer that says so ("[]", "none", "No Objects") has the highest score and everything else 0 (Visual-RFT: 0 for all).


def _on_boxes(score, nothing_found=1.0):
    """A reward from score(predicted, gold), both lists non-empty, in pixels of the original image."""

    @functools.wraps(score)
    def reward(completion, example):
        gold = gold_boxes(example)
        predicted = predicted_boxes(completion, example)
        if predicted is None or bool(predicted) != bool(gold):
            return 0.0
        return float(score(predicted, gold)) if gold else nothing_found

    del reward.__wrapped__  # its signature is a reward's
    return reward


def _shared(matches, predicted, gold):
    """Sum of the matched overlaps over the longer list: a missed box and a surplus one cost the same."""
    return min(1.0, sum(share for _, _, share in matches) / max(len(predicted), len(gold)))


@_on_boxes
def soft_iou(predicted, gold):
    """`iou`: the IoU of one box and one gold; of lists, the sum of the matched IoUs over the longer list.  Range [0, 1].

    VLM-R1's REC reward.  It reads the first box and its evaluation the last; here naming two boxes halves the score.  It takes integers only, and pixels of the resized
    image whatever the model writes.
    """
    return _shared(match_boxes(predicted, gold, 0.0), predicted, gold)


@_on_boxes
def hard_iou(predicted, gold):
    """`iou_hard`: 1.0 if `iou` is over 0.5, else 0.0: the old VLM-R1 and R1-Onevision.  One of two boxes for one object is therefore never enough."""
    return _shared(match_boxes(predicted, gold, 0.0), predicted, gold) > 0.5


@functools.partial(_on_boxes, nothing_found=2.0)
def giou_plus_one(predicted, gold):
    """`giou`: generalised IoU + 1 of one box and one gold; of lists, the matched sum over the longer list.  Range [0, 2].

    Visual-RFT's LISA reward, which pays swapped corners 2.0 and mixes the corners of two boxes.  Mind that junk next to the gold still earns up to 1.0: that slope is
    what GIoU is for.
    """
    matches = match_boxes(predicted, gold, -1.0, overlap=giou)
    return min(2.0, sum(1 + share for _, _, share in matches) / max(len(predicted), len(gold)))


@_on_boxes
def accuracy_iou(predicted, gold):
    """Sum of the matched IoUs over the longer list, matched by confidence at IoU > 0.5.  Range [0, 1].

    Visual-RFT's detection reward.  A newline in the answer or a missing Confidence scores 0 there, and a box with the right y1 alone 1.0.  Repeated boxes are
    removed there; here they are surplus.
    """
    return _shared(match_boxes(predicted, gold, 0.5, by_score=True), predicted, gold)


@_on_boxes
def accuracy_confidence(predicted, gold):
    """Confidence of the matched boxes over (number of gold boxes + confidence of the unmatched ones).  Range [0, 1].

    After Visual-RFT's mean over the predictions of c if matched and 1 - c if not.  That pays a junk box with confidence 0 the full 1.0, and dilutes
    a missed or unsure box with as many of them as one likes.  Here an unmatched box never raises the reward and costs what it claims; a missed gold counts.  Confidences
    are cut to [0, 1]; a matched box without one earns nothing, an unmatched one counts as sure.  So it is for prompts that ask for a confidence, as Visual-RFT's does:
    where none does, the only answer it pays is "[]".
    """
    right = {i for i, _, _ in match_boxes(predicted, gold, 0.5, by_score=True)}
    claimed = sum(score_of(p) for i, p in enumerate(predicted) if i not in right)
    return sum(predicted[i]["score"] or 0.0 for i in right) / (len(gold) + claimed)


AT_LEAST_HALF = math.nextafter(0.5, 0)  # match_boxes wants more than its threshold


@_on_boxes
def weighted_sum(predicted, gold):
    """0.7 position + 0.3 completeness: matched IoU (>= 0.5) over the longer list, and 1 - (share of golds missed + share of boxes not matched) / 2.  Range [0, 1].

    VLM-R1's weighted_sum, which divides by the number of gold boxes: a grid of 256 boxes laid blindly earns 0.73 there, two right and two junk 0.925 (0.575 here).
    There a box with the wrong label is taken for a find in completeness (0.225 for one such box and two golds, 0 here).
    """
    matches = match_boxes(predicted, gold, AT_LEAST_HALF)
    position = _shared(matches, predicted, gold)
    completeness = (
        1
        - (
            (len(gold) - len(matches)) / len(gold)
            + (len(predicted) - len(matches)) / len(predicted)
        )
        / 2
    )
    return min(1.0, 0.7 * position + 0.3 * completeness)


def _image_map(predicted, gold, thresholds):
    """Mean AP of one image's boxes over the thresholds and the classes of both lists, at one operating point: their scores are not asked for.

    COCO ranks boxes of equal score as listed, so that what follows the last hit is free.  All at once, AP is precision times the recalls reached.
    If no gold box has a label, those of the prediction say nothing.
    """
    if not any(normalize_label(b.get("label")) for b in gold):
        predicted, gold = ([{**b, "label": None} for b in boxes] for boxes in (predicted, gold))
    names = {normalize_label(b.get("label")) for b in predicted + gold}
    result = 0.0
    for name in names:
        p, g = (
            [b for b in boxes if normalize_label(b.get("label")) == name]
            for boxes in (predicted, gold)
        )
        matches = (
            [share for _, _, share in match_boxes(p, g, math.nextafter(thresholds[0], 0))]
            if p and g
            else []
        )
        for threshold in thresholds:
            hits = sum(share >= threshold for share in matches)
            result += (
                hits / len(p) * bisect.bisect_right(RECALLS, hits / len(g)) / len(RECALLS)
                if hits
                else 0.0
            )
    return min(1.0, result / (len(names) * len(thresholds)))


@_on_boxes
def od_ap(predicted, gold):
    """COCO's mAP (IoU 0.50:0.95) of the one image, with a price on false boxes.  Range [0, 1].

    VLM-R1's od_ap is gamed by spamming boxes: with all scores 1.0, what follows the hits costs nothing, and boxes with a label that is not in the gold are
    dropped.  Here precision falls with every false box, and a class that is only predicted counts 0.
    """
    return _image_map(predicted, gold, THRESHOLDS)


@_on_boxes
def od_ap50(predicted, gold):
    """od_ap at IoU 0.5 alone.  Range [0, 1].  VLM-R1's has the same holes."""
    return _image_map(predicted, gold, THRESHOLDS[:1])


@_on_boxes
def od_length(predicted, gold):
    """od_ap times min(1, golds / boxes): VLM-R1's odLength, its own remedy against spam.  Range [0, 1].  There unknown labels are still free of AP's part."""
    return _image_map(predicted, gold, THRESHOLDS) * min(1.0, len(gold) / len(predicted))


# ---------------------------------------------------------------------------------------------------------------------
# names, and combining them

REWARDS = {
    "accuracy": accuracy, "mcq": mcq, "yes_no": yes_no, "all_match": all_match, "classification": classification,
    "format": format_strict, "format_lenient": format_lenient, "format_rec": format_rec, "format_multi_think": format_multi_think,
    "format_caption": format_caption, "tag_count": tag_count,
    "length": length, "cosine": cosine, "repetition": repetition, "repetition_penalty": repetition_penalty, "soft_overlong": soft_overlong,
    "iou": soft_iou, "iou_hard": hard_iou, "giou": giou_plus_one, "accuracy_iou": accuracy_iou, "accuracy_confidence": accuracy_confidence,
    "weighted_sum": weighted_sum, "od_ap": od_ap, "od_ap50": od_ap50, "od_length": od_length,
}  # fmt: skip
NEEDS_TOKENS = {"length", "cosine", "soft_overlong"}
NEEDS_BOXES = {
    "iou",
    "iou_hard",
    "giou",
    "accuracy_iou",
    "accuracy_confidence",
    "weighted_sum",
    "od_ap",
    "od_ap50",
    "od_length",
}
RANGES = {name: (0.0, 1.0) for name in REWARDS} | {  # (lowest, highest), or the set of values
    **{name: {0.0, 1.0} for name in ["accuracy", "mcq", "yes_no", "all_match", "classification", "iou_hard"]},
    **{name: {0.0, 1.0} for name in REWARDS if name.startswith("format")}, "tag_count": {0.0, 0.25, 0.5, 0.75, 1.0},
    "cosine": (-0.5, 1.0), "repetition": (-1.0, 0.0), "repetition_penalty": (-1.0, 0.0), "soft_overlong": (-1.0, 0.0), "giou": (0.0, 2.0),
}  # fmt: skip


def _names_a_choice(example):
    if example.choices:
        return choice_index(example.answer, example.choices) is not None
    return isinstance(read(example.answer), Choice)


def check_rewards(names, examples, functions=REWARDS):
    """ValueError, in a sentence, if a named reward does not exist or has nothing to score in an example.  Call it once, before training.

    A reward that cannot work scores 0 all night (VLM-R1's yes_no, on golds without yes or no: 1).  check_gold looks at the golds themselves.
    """
    unknown = [name for name in names if name not in functions]
    if unknown:
        raise ValueError(
            f"unknown reward {', '.join(map(repr, unknown))}; known are {', '.join(sorted(functions))}"
        )
    for i, example in enumerate(examples):
        which = f"example {getattr(example, 'id', None) or i} with the answer {example.answer!r}"
        has_boxes = meta_of(example).get("boxes") is not None
        for name in names:
            if name in NEEDS_BOXES and not has_boxes:
                raise ValueError(
                    f"reward {name} needs examples with boxes (meta['boxes']); {which} has none"
                )
            if name == "yes_no" and text_form(example.answer) not in ("yes", "no"):
                raise ValueError(f"reward yes_no needs answers that are yes or no; not so {which}")
            if name == "mcq" and not _names_a_choice(example):
                raise ValueError(
                    f"reward mcq needs answers that are a choice or its letter; not so {which}"
                )


def reward_parts(completions, examples, names, tokens=None, max_tokens=None, functions=REWARDS):
    """Score each completion against its example: ({name: [float, ...]}, {name: number of failures}).

    tokens is the length of each completion in tokens and max_tokens its limit, for the rewards in NEEDS_TOKENS.  functions may have more rewards than REWARDS
    (a reward model's).  A reward that raises or returns nan or inf scores 0.0, is counted (log it as `rewards/<name>/failed`), and its first traceback is logged.
    """
    unknown = [name for name in names if name not in functions]
    if unknown:
        raise ValueError(
            f"unknown reward {', '.join(map(repr, unknown))}; known are {', '.join(sorted(functions))}"
        )
    if len(completions) != len(examples):
        raise ValueError(
            f"{len(completions)} completions but {len(examples)} examples: repeat each example for its group"
        )
    counting = [name for name in names if name in NEEDS_TOKENS]
    if counting and (tokens is None or max_tokens is None):
        raise ValueError(
            f"reward {counting[0]} is about the number of tokens: it needs tokens and max_tokens"
        )
    if tokens is not None and len(tokens) != len(completions):
        raise ValueError(f"{len(completions)} completions but {len(tokens)} token counts")
    parts, failed = {}, {}
    for name in names:
        parts[name], failed[name] = [], 0
        for i, (completion, example) in enumerate(zip(completions, examples)):
            try:
                more = (int(tokens[i]), int(max_tokens)) if name in NEEDS_TOKENS else ()
                score = float(functions[name](completion, example, *more))
                if not math.isfinite(score):
                    raise ValueError(f"reward {name} returned {score}")
            except (
                Exception
            ):  # whatever a new reward raises: it must not end a night's run, nor pass unseen
                if failed[name] == 0:
                    log.warning("reward %r failed on %.200r", name, completion, exc_info=True)
                score, failed[name] = 0.0, failed[name] + 1
            parts[name].append(score)
    return parts, failed


def total(parts, weights=None):
    """Weighted sum per completion: one weight per reward, in the order of the names; None is the plain sum.

    VLM-R1 accepts --reward_weights and never reads them.
    """
    weights = [1.0] * len(parts) if weights is None else list(weights)
    if len(weights) != len(parts):
        raise ValueError(
            f"{len(weights)} reward weights for {len(parts)} rewards ({', '.join(parts)}): give one each"
        )
    return [sum(w * score for w, score in zip(weights, row)) for row in zip(*parts.values())]


def summary(completions, examples):
    """What an evaluation reports, one answer a question: accuracy in [0, 1] over all n (what cannot be read is wrong, never guessed), its 95 %
    interval, accuracy_parsed over the answers that could be read, format_rate, parse_failures (a count), and the mean iou of examples with boxes, if any."""
    n = len(completions)
    right = sum(accuracy(c, e) for c, e in zip(completions, examples))
    boxed = [(c, e) for c, e in zip(completions, examples) if meta_of(e).get("boxes") is not None]
    failures = sum(map(parse_failure, completions)) + sum(
        not parse_failure(c) and predicted_boxes(c, e) is None for c, e in boxed
    )
    low, high = metrics.wilson(right, n)
    result = {
        "accuracy": right / max(1, n),
        "n": n,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_parsed": right / max(1, n - failures),
        "format_rate": sum(map(format_strict, completions)) / max(1, n),
        "parse_failures": failures,
    }
    return result | ({"iou": sum(soft_iou(c, e) for c, e in boxed) / len(boxed)} if boxed else {})


def marks(completion, example):
    """What an answer sheet says of one answer: its accuracy, and its iou if the example has boxes."""
    found = {"accuracy": accuracy(completion, example)}
    return found | (
        {"iou": soft_iou(completion, example)} if meta_of(example).get("boxes") is not None else {}
    )
