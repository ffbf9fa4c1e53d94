r"""Rewards by name: text in, a number out.

    REWARDS[name](completion, example, tokens, max_tokens) -> float

`completion` is what the policy wrote. `example` has `.answer` (the gold: "3", "140°", "(A)", "yes",
r"\sqrt{3}"), `.choices` (option texts, or None) and, if boxes are asked for, `.meta["boxes"]`.
To add a reward, write a function and give it a row of REWARDS, at the end of this file.

Answers are found and compared in grading/answers.py, boxes in grading/boxes.py. docs/rewards.md
says where each reward comes from, and what the original gets wrong.
A policy under RL emits every text there is, so nothing here may hang, raise, or run the text.
"""

import bisect
import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from grading import boxes, metrics
from grading.answers import MAX_TAIL, choice_index, extract_answer, match_answer, parse_failure
from grading.boxes import gold_boxes, match_boxes, normalize_label, parse_boxes, predicted_boxes
from grading.class_names import names_class
from grading.golds import check_gold
from grading.reading import MAX_ANSWER, read, text_form
from grading.values import Choice

if TYPE_CHECKING:
    from tasks.example import Example

log = logging.getLogger(__name__)


# --- is the answer right ---


def accuracy(completion: str, example: "Example") -> float:
    """Pay 1.0 if the answer body matches the gold, else 0.0 (R1-V; see match_answer).

    With boxes: 1.0 if each gold box is matched at IoU > 0.5, by its label if it has one, and no
    box is left over. If there is nothing to find, 1.0 for an answer that says so.
    ValueError if the gold is empty.
    """
    check_gold(example.answer)
    if not has_boxes(example):
        return float(match_answer(extract_answer(completion), example.answer, example.choices))
    predicted, gold = predicted_boxes(completion, example), gold_boxes(example)
    if predicted is None:
        return 0.0
    return float(len(predicted) == len(gold) == len(match_boxes(predicted, gold, 0.5)))


def mcq(completion: str, example: "Example") -> float:
    """Pay 1.0 if the answer names the gold's choice, by letter or text, else 0.0 (VLM-R1).

    Never mathematics. Two letters are none, and a sentence is none.
    """
    body, choices = extract_answer(completion), example.choices
    if body is None:
        return 0.0
    if choices:
        right = choice_index(example.answer, choices)
        return float(right is not None and choice_index(body, choices) == right)
    right, named = read(example.answer), read(body)
    if not (isinstance(right, Choice) and isinstance(named, Choice)):
        return 0.0
    return float(named.letter == right.letter)


def yes_no(completion: str, example: "Example") -> float:
    """Pay 1.0 if the answer begins with the gold's yes or no (VLM-R1).

    It must not contain the other one.
    """
    body, gold = extract_answer(completion), text_form(example.answer)
    if body is None or len(body) > MAX_ANSWER or gold not in ("yes", "no"):
        return 0.0
    return float(match_answer(body, gold))


def all_match(completion: str, example: "Example") -> float:
    """Pay 1.0 if the answer is the gold's text, else 0.0 (VLM-R1's GUI task).

    Case, spaces, quotes and the final period do not count.
    """
    body = extract_answer(completion)
    return float(body is not None and text_form(body) == text_form(example.answer) != "")


def classification(completion: str, example: "Example") -> float:
    """Pay 1.0 if the answer is the gold class, perhaps in a sentence, else 0.0 (Visual-RFT)."""
    body = extract_answer(completion)
    return float(body is not None and names_class(body, example.answer))


# --- is it written as asked ---


def _tags_in_order(text: str, tags: list[str]) -> list[str]:
    """List the tags of a flat sequence of `<tag>body</tag>`; [] if the text is anything else.

    Only whitespace may stand between the blocks, and every body says something.
    """
    pieces = re.split("(</?(?:" + "|".join(tags) + ")>)", text)  # text, tag, text, tag, ..., text
    if len(pieces) % 4 != 1 or any(outside.strip() for outside in pieces[::4]):
        return []
    order = []
    for opened, body, closed in zip(pieces[1::4], pieces[2::4], pieces[3::4]):
        if opened[1] == "/" or closed != "</" + opened[1:] or not body.strip():
            return []
        order.append(opened[1:-1])
    return order


FOUR_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format(completion: str, example: "Example | None" = None) -> float:
    """Pay 1.0 for `<think>...</think> <answer>...</answer>` and nothing else, else 0.0 (R1-V).

    Each of the four tags once, both bodies non-empty; whitespace is free around and between them.
    """
    return float(_tags_in_order(completion, ["think", "answer"]) == ["think", "answer"])


def format_lenient(completion: str, example: "Example | None" = None) -> float:
    """Pay 1.0 if such a pair of blocks is there, whatever is around it (open-r1-multimodal).

    Each of the four tags once in all.
    """
    if any(completion.count(tag) != 1 for tag in FOUR_TAGS):
        return 0.0
    end = completion.find("</answer>") + len("</answer>")
    return format(completion[completion.find("<think>") : end])


def format_rec(completion: str, example: "Example | None" = None) -> float:
    """Pay 1.0 if `format` holds and the answer reads as boxes, or as none (VLM-R1)."""
    if format(completion) != 1.0:
        return 0.0
    return float(parse_boxes(extract_answer(completion)) is not None)


def format_multi_think(completion: str, example: "Example | None" = None) -> float:
    """Pay 1.0 for one or more `<think>` blocks, then one `<answer>` (R1-Onevision's data)."""
    order = _tags_in_order(completion, ["think", "answer"])
    return float(len(order) > 1 and order[-1] == "answer" and order.count("answer") == 1)


def format_caption(completion: str, example: "Example | None" = None) -> float:
    """Pay 1.0 for `<caption>`, `<think>` and `<answer>` blocks, in order (Efficient-R1-VLLM)."""
    wanted = ["caption", "think", "answer"]
    return float(_tags_in_order(completion, wanted) == wanted)


def tag_count(completion: str, example: "Example | None" = None) -> float:
    """Pay 0.25 for each of the four tags that occurs exactly once (HF open-r1, PR 418).

    For models whose format reward stays 0. Says nothing about order.
    """
    return 0.25 * sum(completion.count(tag) == 1 for tag in FOUR_TAGS)


# --- how long is it: `tokens` of at most `max_tokens` (--max-completion-length) ---


def length(completion: str, example: "Example", tokens: int, max_tokens: int) -> float:
    """Pay 0.001 per token, at most 1.0 (VisualThinker).

    Gameable by repetition, and known to be gamed. It is here to show that.
    """
    return min(1.0, 0.001 * max(0, tokens))


def cosine(completion: str, example: "Example", tokens: int, max_tokens: int) -> float:
    """Pay by half a cosine over the length: brief is better (VLM-R1, after arXiv:2502.03373).

    From no token to max_tokens: right 1.0 -> 0.5, wrong 0.0 -> -0.5.
    """
    best, worst = (1.0, 0.5) if accuracy(completion, example) else (0.0, -0.5)
    share = min(1.0, max(0, tokens) / max(1, max_tokens))
    return worst + (best - worst) * (1 + math.cos(math.pi * share)) / 2


def soft_overlong(completion: str, example: "Example", tokens: int, max_tokens: int) -> float:
    """Charge the last fifth of max_tokens linearly, from 0 to -1 (DAPO, arXiv:2503.14476 eq. 13).

    L_max is max_tokens; L_cache is a fifth of it (DAPO: 4,096 of 20,480).
    """
    cache = max(1, max_tokens) / 5
    return max(-1.0, min(0.0, (max_tokens - cache - tokens) / cache))


def repetition(completion: str, example: "Example | None" = None) -> float:
    """Charge repeated 6-grams of words, or repeated boxes if that is worse (VLM-R1).

    -(1 - distinct / all), in [-1, 0], of the last MAX_TAIL characters.
    """
    worst = _repeated_ngrams(completion, 6)
    if "[" not in completion and "(" not in completion:
        return worst
    found = parse_boxes(extract_answer(completion))
    if not found:
        return worst
    return min(worst, _repeated([(box["bbox_2d"], box["label"]) for box in found]))


def repetition_penalty(completion: str, example: "Example | None" = None) -> float:
    """Charge repeated 3-grams of words: HF open-r1's get_repetition_penalty_reward.

    Stricter than `repetition`: a policy paid for length makes lists, "red circle, red circle, blue
    circle", in which 6-grams hardly ever come twice (docs/log.md).
    """
    return _repeated_ngrams(completion, 3)


def _repeated_ngrams(completion: str, n: int) -> float:
    """Return -(1 - distinct / all) of the n-grams of the words.

    Up to n words are measured in 2-grams, or "a a a a a" would be free.
    """
    words = []
    for word in completion[-MAX_TAIL:].lower().split():
        if len(word) <= 32:
            words.append(word)
        else:  # a text without spaces is one word: cut it
            words += [word[i : i + 8] for i in range(0, len(word), 8)]
    n = n if len(words) > n else 2
    return _repeated(list(zip(*(words[i:] for i in range(n)))))


def _repeated(items: Sequence) -> float:
    return len(set(items)) / len(items) - 1 if items else 0.0


# --- boxes: lists of {"bbox_2d": corners in pixels of the original image, "label", "score"} ---


def has_boxes(example: "Example") -> bool:
    """Tell whether boxes are asked for, perhaps none."""
    return boxes.meta_of(example).get("boxes") is not None


def _on_boxes(score: Callable[[list, list], float], nothing_found: float = 1.0) -> Callable:
    """Make a reward of score(predicted, gold), which gets two lists that are not empty.

    Only the answer body is read. Where there is nothing to find, an answer that says so earns
    `nothing_found`, the highest score, and everything else 0. ValueError without gold boxes.
    """

    @functools.wraps(score)
    def reward(completion: str, example: "Example") -> float:
        gold = gold_boxes(example)
        predicted = predicted_boxes(completion, example)
        if predicted is None or bool(predicted) != bool(gold):
            return 0.0
        return float(score(predicted, gold)) if gold else nothing_found

    del reward.__wrapped__  # its signature is a reward's
    return reward


def _mean_overlap(matches: list, predicted: list, gold: list) -> float:
    """Divide the matched overlaps by the longer list: misses and surplus cost alike."""
    return min(1.0, sum(share for _, _, share in matches) / max(len(predicted), len(gold)))


@_on_boxes
def iou(predicted: list[dict], gold: list[dict]) -> float:
    """Pay the matched IoUs over the longer list (VLM-R1's REC reward).

    Naming two boxes for one object halves the score.
    """
    return _mean_overlap(match_boxes(predicted, gold, 0.0), predicted, gold)


@_on_boxes
def iou_hard(predicted: list[dict], gold: list[dict]) -> float:
    """Pay 1.0 if `iou` is over 0.5, else 0.0 (the old VLM-R1 and R1-Onevision)."""
    return _mean_overlap(match_boxes(predicted, gold, 0.0), predicted, gold) > 0.5


@functools.partial(_on_boxes, nothing_found=2.0)
def giou(predicted: list[dict], gold: list[dict]) -> float:
    """Pay generalised IoU + 1, the matched sum over the longer list (Visual-RFT's LISA reward).

    In [0, 2]. Junk next to the gold still earns up to 1.0: that slope is what GIoU is for.
    """
    matches = match_boxes(predicted, gold, -1.0, overlap=boxes.giou)
    return min(2.0, sum(1 + share for _, _, share in matches) / max(len(predicted), len(gold)))


@_on_boxes
def accuracy_iou(predicted: list[dict], gold: list[dict]) -> float:
    """Pay IoUs over the longer list, matched by confidence at IoU > 0.5 (Visual-RFT detection)."""
    return _mean_overlap(match_boxes(predicted, gold, 0.5, by_score=True), predicted, gold)


@_on_boxes
def accuracy_confidence(predicted: list[dict], gold: list[dict]) -> float:
    """Pay the confidence of matched boxes over (gold boxes + confidence of the others).

    After Visual-RFT. An unmatched box costs what it claims, and 1.0 if it claims nothing; a matched
    box without a confidence earns nothing. So where a prompt asks for none, only "[]" is ever paid.
    """
    right = {i for i, _, _ in match_boxes(predicted, gold, 0.5, by_score=True)}
    claimed = sum(boxes.score_of(box) for i, box in enumerate(predicted) if i not in right)
    return sum(predicted[i]["score"] or 0.0 for i in right) / (len(gold) + claimed)


AT_LEAST_HALF = math.nextafter(0.5, 0)  # match_boxes wants more than its threshold


@_on_boxes
def weighted_sum(predicted: list[dict], gold: list[dict]) -> float:
    """Pay 0.7 position + 0.3 completeness (VLM-R1).

    position: IoUs matched at 0.5 or more, over the longer list.
    completeness: 1 - (share of golds missed + share of boxes not matched) / 2.
    """
    matches = match_boxes(predicted, gold, AT_LEAST_HALF)
    position = _mean_overlap(matches, predicted, gold)
    missed = (len(gold) - len(matches)) / len(gold)
    surplus = (len(predicted) - len(matches)) / len(predicted)
    completeness = 1 - (missed + surplus) / 2
    return min(1.0, 0.7 * position + 0.3 * completeness)


def _image_map(predicted: list[dict], gold: list[dict], thresholds: list[float]) -> float:
    """Average AP over thresholds and the classes of both lists, of one image's boxes.

    All boxes count at once, whatever their scores: AP is precision times the recalls reached.
    COCO ranks boxes of equal score as listed, so that what follows the last hit is free.
    """
    if not any(normalize_label(b.get("label")) for b in gold):  # then the prediction's say nothing
        predicted = [{**b, "label": None} for b in predicted]
        gold = [{**b, "label": None} for b in gold]
    names = dict.fromkeys(normalize_label(b.get("label")) for b in predicted + gold)
    result = 0.0
    for name in names:
        p = [b for b in predicted if normalize_label(b.get("label")) == name]
        g = [b for b in gold if normalize_label(b.get("label")) == name]
        shares = [share for _, _, share in match_boxes(p, g, math.nextafter(thresholds[0], 0))]
        for threshold in thresholds:
            hits = sum(share >= threshold for share in shares)
            if hits:
                recalls = bisect.bisect_right(boxes.RECALLS, hits / len(g))
                result += hits / len(p) * recalls / len(boxes.RECALLS)
    return min(1.0, result / (len(names) * len(thresholds)))


@_on_boxes
def od_ap(predicted: list[dict], gold: list[dict]) -> float:
    """Pay COCO's mAP (IoU 0.50:0.95) of the one image, with a price on false boxes (VLM-R1)."""
    return _image_map(predicted, gold, boxes.THRESHOLDS)


@_on_boxes
def od_ap50(predicted: list[dict], gold: list[dict]) -> float:
    """Pay `od_ap` at IoU 0.5 alone (VLM-R1)."""
    return _image_map(predicted, gold, boxes.THRESHOLDS[:1])


@_on_boxes
def od_length(predicted: list[dict], gold: list[dict]) -> float:
    """Pay `od_ap` times min(1, golds / boxes): VLM-R1's odLength, its remedy against spam."""
    return _image_map(predicted, gold, boxes.THRESHOLDS) * min(1.0, len(gold) / len(predicted))


# --- which examples a reward can score ---


def is_yes_or_no(example: "Example") -> bool:
    """Tell whether the gold is yes or no."""
    return text_form(example.answer) in ("yes", "no")


def names_a_choice(example: "Example") -> bool:
    """Tell whether the gold is one of the choices, or a letter where there are none."""
    if example.choices:
        return choice_index(example.answer, example.choices) is not None
    return isinstance(read(example.answer), Choice)


class Need(NamedTuple):
    """What the examples of a reward must have: in words, and as a test of one."""

    words: str
    holds: Callable[["Example"], bool]


BOXES = Need("examples with boxes (meta['boxes'])", has_boxes)
CHOICES = Need("answers that are a choice or its letter", names_a_choice)
YES_OR_NO = Need("answers that are yes or no", is_yes_or_no)


# --- the rewards by name ---


class Reward(NamedTuple):
    """A row of REWARDS: function(completion, example) -> float, and what to know about it.

    range: (lowest, highest), or the set of its values.
    needs: what its examples must have.
    needs_tokens: the function takes (completion, example, tokens, max_tokens).
    """

    function: Callable[..., float]
    range: tuple[float, float] | set[float] = (0.0, 1.0)
    needs: Need | None = None
    needs_tokens: bool = False

    def __call__(
        self,
        completion: str,
        example: "Example",
        tokens: int | None = None,
        max_tokens: int | None = None,
    ) -> float:
        """Score a completion of so many tokens, of at most max_tokens."""
        if self.needs_tokens:
            return self.function(completion, example, tokens, max_tokens)
        return self.function(completion, example)


ZERO_OR_ONE = {0.0, 1.0}
REWARDS = {
    "accuracy": Reward(accuracy, ZERO_OR_ONE),
    "mcq": Reward(mcq, ZERO_OR_ONE, needs=CHOICES),
    "yes_no": Reward(yes_no, ZERO_OR_ONE, needs=YES_OR_NO),
    "all_match": Reward(all_match, ZERO_OR_ONE),
    "classification": Reward(classification, ZERO_OR_ONE),
    "format": Reward(format, ZERO_OR_ONE),
    "format_lenient": Reward(format_lenient, ZERO_OR_ONE),
    "format_rec": Reward(format_rec, ZERO_OR_ONE),
    "format_multi_think": Reward(format_multi_think, ZERO_OR_ONE),
    "format_caption": Reward(format_caption, ZERO_OR_ONE),
    "tag_count": Reward(tag_count, {0.0, 0.25, 0.5, 0.75, 1.0}),
    "length": Reward(length, needs_tokens=True),
    "cosine": Reward(cosine, (-0.5, 1.0), needs_tokens=True),
    "repetition": Reward(repetition, (-1.0, 0.0)),
    "repetition_penalty": Reward(repetition_penalty, (-1.0, 0.0)),
    "soft_overlong": Reward(soft_overlong, (-1.0, 0.0), needs_tokens=True),
    "iou": Reward(iou, needs=BOXES),
    "iou_hard": Reward(iou_hard, ZERO_OR_ONE, needs=BOXES),
    "giou": Reward(giou, (0.0, 2.0), needs=BOXES),
    "accuracy_iou": Reward(accuracy_iou, needs=BOXES),
    "accuracy_confidence": Reward(accuracy_confidence, needs=BOXES),
    "weighted_sum": Reward(weighted_sum, needs=BOXES),
    "od_ap": Reward(od_ap, needs=BOXES),
    "od_ap50": Reward(od_ap50, needs=BOXES),
    "od_length": Reward(od_length, needs=BOXES),
}


# --- scoring a step ---


def check_rewards(names: list[str], examples: Iterable["Example"]) -> None:
    """Raise ValueError if a reward does not exist or cannot score an example.

    Call it once, before training: a reward that cannot work scores 0 all night.
    """
    check_names(names)
    for i, example in enumerate(examples):
        which = f"example {getattr(example, 'id', None) or i} with the answer {example.answer!r}"
        for name in names:
            need = REWARDS[name].needs
            if need and not need.holds(example):
                raise ValueError(f"reward {name} needs {need.words}; not so {which}")


def check_names(names: list[str]) -> None:
    """Raise ValueError for a name that is not in REWARDS."""
    unknown = [name for name in names if name not in REWARDS]
    if unknown:
        known = ", ".join(sorted(REWARDS))
        raise ValueError(f"unknown reward {', '.join(map(repr, unknown))}; known are {known}")


def reward_parts(
    completions: list[str],
    examples: list["Example"],
    names: list[str],
    tokens: list[int] | None = None,
    max_tokens: int | None = None,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Score each completion against its example: ({name: scores}, {name: number of failures}).

    tokens: the length of each completion; max_tokens: the longest it could have been.
    A reward that raises or returns nan or inf scores 0.0 and is counted; its first traceback is
    logged. ValueError if what a reward needs is not given.
    """
    check_names(names)
    if len(completions) != len(examples):
        raise ValueError(
            f"{len(completions)} completions but {len(examples)} examples: "
            "repeat each example for its group"
        )
    counting = [name for name in names if REWARDS[name].needs_tokens]
    if counting and (tokens is None or max_tokens is None):
        raise ValueError(
            f"reward {counting[0]} is about the number of tokens: it needs tokens and max_tokens"
        )
    if tokens is None:
        tokens = [None] * len(completions)
    if len(tokens) != len(completions):
        raise ValueError(f"{len(completions)} completions but {len(tokens)} token counts")
    parts, failed = {}, {}
    for name in names:
        parts[name], failed[name] = [], 0
        for completion, example, count in zip(completions, examples, tokens):
            try:
                score = float(REWARDS[name](completion, example, count, max_tokens))
                if not math.isfinite(score):
                    raise ValueError(f"reward {name} returned {score}")
            # Whatever a new reward raises must not end a night's run, nor pass unseen.
            except Exception:
                if failed[name] == 0:
                    log.warning("reward %r failed on %.200r", name, completion, exc_info=True)
                score = 0.0
                failed[name] += 1
            parts[name].append(score)
    return parts, failed


def total(parts: dict[str, list[float]], weights: list[float] | None = None) -> list[float]:
    """Add up the rewards of each completion, with a weight for each; None weighs all alike."""
    weights = [1.0] * len(parts) if weights is None else list(weights)
    if len(weights) != len(parts):
        raise ValueError(
            f"{len(weights)} reward weights for {len(parts)} rewards ({', '.join(parts)}): "
            "give one each"
        )
    totals = []
    for scores in zip(*parts.values()):
        totals.append(sum(weight * score for weight, score in zip(weights, scores)))
    return totals


# --- what an evaluation reports ---


def marks(completion: str, example: "Example") -> dict[str, float]:
    """Score one answer for people: its accuracy, and its iou if the example has boxes."""
    if has_boxes(example):
        return {"accuracy": accuracy(completion, example), "iou": iou(completion, example)}
    return {"accuracy": accuracy(completion, example)}


def summary(completions: list[str], examples: list["Example"]) -> dict[str, float]:
    """Sum up an evaluation with one answer a question; what cannot be read is wrong.

    accuracy of all n with its 95 % interval, accuracy_parsed of the answers that could be read,
    format_rate, parse_failures (a count), and the mean iou of examples with boxes, if any.
    """
    n = len(completions)
    pairs = list(zip(completions, examples))
    boxed = [(c, e) for c, e in pairs if has_boxes(e)]
    failures = sum(parse_failure(c) for c in completions)
    failures += sum(not parse_failure(c) and predicted_boxes(c, e) is None for c, e in boxed)
    right = sum(accuracy(c, e) for c, e in pairs)
    result = metrics.share("accuracy", right, n) | {
        "accuracy_parsed": right / max(1, n - failures),
        "format_rate": sum(format(c) for c in completions) / max(1, n),
        "parse_failures": failures,
    }
    if boxed:
        result["iou"] = sum(iou(c, e) for c, e in boxed) / len(boxed)
    return result
