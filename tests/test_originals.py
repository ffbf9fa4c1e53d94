"""Run: python -m pytest -q tests/test_originals.py        (about 15 s on CPU; no network)

Two columns everywhere: ours (rewards.REWARDS), and what the original computes (originals.py). The
original's numbers are those measured on the projects' own functions. Where only a rule is known
and no number, the case says "by rule".
"""

import json
import random
import re

import originals
import pytest
from originals import ORIGINALS
from scored import THINK, box_example, boxes, example, tagged

import rewards
from grading import mathverify, tags
from tasks import cvbench


def ours(name, completion, e=None, *tokens):
    return rewards.REWARDS[name](completion, e, *tokens)


def theirs(name, completion, e=None, *tokens):
    return ORIGINALS[name](completion, e, *tokens)


def numbered(table):
    """Cases of a table, with its row numbers for ids: texts would be unreadable there."""
    return [pytest.param(*row, id=str(i)) for i, row in enumerate(table)]


# --- accuracy, by text ---

SIX = "<think>there are 4 cubes and 2 balls</think>"
ACCURACY = [  # completion, gold, ours, R1-V, VLM-R1 (None: not measured)
    (tagged("3"), "3", 1, 1, 1),
    ("3", "3", 0, 1, 1),  # no tag: a parse failure
    ("<think>I count 7</think><answer> seven</answer>", "7", 0, 1, 0),
    (r"<think>\boxed{7}</think><answer>5</answer>", "7", 0, 1, 0),
    (tagged("3.0"), "3", 1, 0, 1),
    (tagged("3 or 7"), "7", 0, 1, 1),
    (tagged("7 or 3"), "7", 0, 0, 0.286),
    ("7 or 3", "7", 0, 0, 0.286),
    (tagged("145"), "145°", 1, 0, 1),
    (tagged(" 145 "), "145°", 1, 1, None),
    (tagged("(A)"), "A", 1, 0, 0),
    (tagged("A. cat"), "A", 1, 0, 1),
    (tagged("\nA\n"), "A", 1, 0, 1),
    (tagged("yes"), "Yes", 1, 0, 1),
    (tagged("1/2"), "0.5", 1, 0, 1),
    (tagged(r"$\frac{1}{2}$"), "0.5", 1, 1, 1),
    (tagged("√3"), r"\sqrt{3}", 1, 0, 0.2),
    (tagged("1,000"), "1000", 1, 0, 1),
    (tagged("70%"), "70", 1, 0, 1),
    ("", "3", 0, 0, 0),
    ("<answer></answer>", "3", 0, 0, 0),
    # "6" glued to its tags is not read; the 2 of the thinking is
    (SIX + "<answer>6</answer>", "2", 0, 1, None),
    (SIX + "<answer>6</answer>", "6", 1, 1, None),
    (SIX + "\n<answer> 6 </answer>", "2", 0, 0, None),
    ("<think>The final answer is $7$.</think><answer>5</answer>", "7", 0, 1, None),
    (tagged("7.0"), "7", 1, 0, None),
    (tagged(" 7.0 "), "7", 1, 1, None),
]


@pytest.mark.parametrize("completion, gold, right, r1v, vlmr1", numbered(ACCURACY))
def test_accuracy(completion, gold, right, r1v, vlmr1):
    e = example(gold)
    assert ours("accuracy", completion, e) == right
    assert theirs("r1v_accuracy", completion, e) == r1v
    if vlmr1 is not None:
        assert theirs("vlmr1_accuracy", completion, e) == pytest.approx(vlmr1, abs=5e-4)


FORMAT = [  # completion, R1-V, open-r1-multimodal, ours (format)
    (tagged("b"), 1, 1, 1),
    ("<think>a</think>\n<answer>b</answer>", 1, 1, 1),
    ("<think>a\nb</think>\n\n<answer>b</answer>", 1, 0, 1),
    (THINK + "<answer>b</answer>\n", 0, 1, 1),
    (" " + tagged("b"), 0, 0, 1),
    (THINK + "<answer>b</answer> extra", 0, 1, 0),
    (THINK + tagged("b"), 1, 1, 0),
    (THINK + "<answer>b</answer><answer>c</answer>", 1, 1, 0),
    (THINK + " so <answer>b</answer>", 0, 0, 0),
    ("<think></think><answer></answer>", 1, 1, 0),
    ("<answer>b</answer>", 0, 0, 0),
    ("<think>a<answer>b</answer></think><answer>c</answer>", 1, 1, 0),
]


@pytest.mark.parametrize("completion, strict, lenient, right", numbered(FORMAT))
def test_format(completion, strict, lenient, right):
    assert theirs("r1v_format", completion) == strict
    assert theirs("open_r1_format", completion) == lenient
    assert ours("format", completion) == right


def test_tags_without_backtracking_are_the_regexes_of_the_originals():
    """On small random texts the linear functions agree with the patterns they stand for."""
    draw = random.Random(0)
    pieces = "<think> </think> <answer> </answer> a { }".split() + ["\n", " ", "[1, 2, 3, 4]"]
    pair, stripped_pair = "<answer>(.*?)</answer>", r"<answer>\s*(.*?)\s*</answer>"
    strict = r"<think>.*?</think>\s*<answer>.*?</answer>"
    box = r"\[\d+,\s*\d+,\s*\d+,\s*\d+\]"
    rec = rf"<think>.*?</think>\s*<answer>.*?\{{.*{box}.*\}}.*?</answer>"

    def first(pattern, text, flags=0):
        found = re.search(pattern, text, flags)
        return found and found[1]

    for _ in range(5000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 14)))
        assert tags.first_answer(text) == first(pair, text, re.DOTALL)
        assert tags.first_answer(text, dotall=False) == first(pair, text)
        assert cvbench.first_line_answer(text) == first(stripped_pair, text)
        assert tags.last_answer(text) == (re.findall(pair, text, re.DOTALL) or [None])[-1]
        framed = re.fullmatch(strict, text, re.DOTALL)
        assert theirs("r1v_format", text) == bool(framed)
        assert theirs("vlmr1_format_rec", text) == bool(re.search(rec, text, re.DOTALL))


LAST_LETTER = [  # said, VisualThinker's accuracy, ours: a sentence is no letter, two are none
    ("A.", 0, 1),
    ("The answer is A", 1, 0),
    ("(A)", 1, 1),
    ("A", 1, 1),
    ("[A]", 1, 1),
    ("B then A", 1, 0),
    ("A then (B)", 0, 0),
    ("Apple", 0, 0),
]


@pytest.mark.parametrize("said, original, right", LAST_LETTER)
def test_visualthinker_takes_the_last_standalone_letter(said, original, right):
    assert theirs("visualthinker_accuracy", tagged(said), example("A")) == original
    assert ours("mcq", tagged(said), example("A")) == right


# completion, gold, VisualThinker's code on its own data (gold glued to its tags), R1-V's (spaces)
VISUALTHINKER = [
    ("Answer: 7", "7", 0, 1),
    ("<answer>7</answer>", "7", 1, 1),
    ("x is 7", "7", 0, 1),
    ("<think> 7 </think><answer>8</answer>", "7", 0, 1),
    ("<answer> 1/2 </answer>", "0.5", 0, 1),
    (r"\boxed{7}", "7", 0, 1),
    (r"\boxed{7}", "$7$", 1, 1),
    ("answer: 7", " 7 ", 1, 1),
    ("<answer>cat</answer>", "cat", 1, 1),
    ("Cat", "cat", 0, 0),
]


@pytest.mark.parametrize("completion, gold, visualthinker, r1v", VISUALTHINKER)
def test_visualthinkers_gold_is_glued_to_its_tags(completion, gold, visualthinker, r1v):
    assert theirs("visualthinker_accuracy", completion, example(gold)) == visualthinker
    assert theirs("r1v_accuracy", completion, example(gold)) == r1v


VLMR1_LETTERS = {
    "A": "A",
    "A. cat": "A",
    "The answer is B": "B",
    "(A)": None,
    "A)": None,
    "Option C is right.": None,
    "I think A, but B.": "A",
    "I.": "I",
}


@pytest.mark.parametrize("text, letter", VLMR1_LETTERS.items())
def test_vlmr1_letter(text, letter):
    assert originals.extract_choice(text) == letter


MCQ = [  # said, gold, ours, VLM-R1
    ("A", "A", 1, 1),
    ("A", "(A)", 1, 0),
    ("(A)", "A", 1, 0),
    ("B. dog", "B", 1, 1),
    ("", "B", 0, 0),
    ("I think A, but B.", "B", 0, 0),
]
YES_NO = [  # said, gold, ours, VLM-R1
    ("Yes", "yes", 1, 1),
    ("No.", "no", 1, 1),
    ("I do not know", "no", 0, 1),
    ("maybe", "perhaps", 0, 1),
    ("yes", "no", 0, 0),
    ("</answer>no <ANSWER>yes</ANSWER>", "yes", 0, 0),
]


@pytest.mark.parametrize("said, gold, right, original", MCQ)
def test_mcq(said, gold, right, original):
    assert ours("mcq", tagged(said), example(gold)) == right
    assert theirs("vlmr1_mcq", tagged(said), example(gold)) == original


@pytest.mark.parametrize("said, gold, right, original", YES_NO)
def test_yes_no(said, gold, right, original):
    assert ours("yes_no", tagged(said), example(gold)) == right
    assert theirs("vlmr1_yes_no", tagged(said), example(gold)) == original


CAPITAL_TAGS = {  # text, VLM-R1's yes_no for the gold "yes"
    "no <ANSWER>yes</ANSWER>": 1,
    "no <Answer>yes</aNSWER>": 1,
    "yes <ANSWER>no</ANSWER>": 0,
    "no yes": 0,
    "<answer></answer>yes": 0,
}


@pytest.mark.parametrize("text, original", CAPITAL_TAGS.items())
def test_vlmr1_yes_no_drops_case_before_it_reads_tags(text, original):
    assert theirs("vlmr1_yes_no", text, example("yes")) == original


@pytest.mark.parametrize("text, right", [(tagged(" Click\nOK. "), 1), ("click ok", 0)])
def test_all_match(text, right):
    assert ours("all_match", text, example("click OK")) == right
    assert theirs("vlmr1_all_match", text, example("click OK")) == 1


# --- length and repetition ---

LENGTHS = {0: 1.0, 256: 0.9268, 512: 0.75, 1024: 0.5, 1536: 0.75, 2048: 1.0}  # tokens: VLM-R1's


@pytest.mark.parametrize("tokens, vlmr1", LENGTHS.items())
def test_length(tokens, vlmr1):
    """VLM-R1's is periodic and pays a wrong answer as much; VisualThinker's has no end.

    Ours falls and stays down, and a wrong answer is below every right one.
    """
    right, wrong, e = tagged("3"), tagged("4"), example("3")
    assert theirs("vlmr1_length", wrong, e, tokens, 1024) == pytest.approx(vlmr1, abs=5e-5)
    linear = theirs("visualthinker_length", right, e, tokens, 1024)
    assert linear == pytest.approx(0.001 * tokens)
    fallen = vlmr1 if tokens <= 1024 else 0.5
    assert ours("cosine", right, e, tokens, 1024) == pytest.approx(fallen, abs=5e-5)
    assert ours("cosine", wrong, e, tokens, 1024) <= 0
    assert ours("length", right, e, tokens, 1024) == pytest.approx(min(1, 0.001 * tokens))


def test_repetition():
    same, short = "a a a a a a a a", "a a a a a"
    assert theirs("vlmr1_repetition", same) == ours("repetition", same) == pytest.approx(-2 / 3)
    # by rule: fewer than six words
    assert theirs("vlmr1_repetition", short) == 0 > ours("repetition", short)
    assert theirs("vlmr1_repetition", "") == 0


BOX = {"bbox_2d": [1, 2, 3, 4], "label": "a"}

WORDS = " a b c d e f a b c d e f"

REPEATS = [  # text, VLM-R1's repetition
    ("```json\n[[1, 2, 3, 4]]\n```" + WORDS, 0),  # a list without boxes
    ('```json\n[{"label": "a"}]\n```' + WORDS, 0),
    (
        f"```json\n{json.dumps([BOX, BOX, {'label': 'a'}])}\n```" + WORDS,
        -0.5,
    ),  # items without a box do not count
    (f"```json\n{json.dumps([BOX, BOX, [1], 'x'])}\n```", -0.5),
    ("```json\n[null]\n```" + WORDS, 0),
    (f"```json\n{json.dumps([BOX, BOX, 3])}\n```", 0),  # TypeError there
    ("```json\n[]\n```" + WORDS, -0.1),
    ("```json\n{}\n```" + WORDS, -0.1),
    ("```json\n3\n```" + WORDS, -0.1),  # not a list: words
    (f"```\n{json.dumps([BOX, BOX])}\n```", -0.5),
    (f"``` ``` {json.dumps([BOX, BOX])}", -0.5),
    (f"```json\n``` {json.dumps([BOX, BOX])}", 0),
    (f"x {json.dumps([BOX, BOX])} y {json.dumps([BOX])}", -0.5),
    (f"x {json.dumps([BOX])} y {json.dumps([BOX, BOX])}", 0),  # the first span
    ('x [ {"bbox_2d": [1], "label": 3},{"bbox_2d": [1], "label": 3} ]', -0.5),
    ('[{"a": 1}] ' + json.dumps([BOX, BOX]), 0),
    (f"```json\n{json.dumps([BOX, {**BOX, 'bbox_2d': '[1, 2, 3, 4]'}])}\n```", -0.5),
    (f"```json\n{json.dumps([BOX, {**BOX, 'label': 'A'}])}\n```", 0),
]


@pytest.mark.parametrize("text, original", numbered(REPEATS))
def test_vlmr1_repetition_is_its_code(text, original):
    assert theirs("vlmr1_repetition", text) == pytest.approx(original)


def slow_indel_ratio(a, b):
    """2 LCS / (len a + len b), by the quadratic recurrence."""
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(row[j + 1], new[j]))
        row = new
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 1.0


def test_indel_ratio():
    assert originals.indel_ratio("7 or 3", "7") == pytest.approx(2 / 7)
    assert originals.indel_ratio("√3", r"\sqrt{3}") == pytest.approx(0.2)
    draw = random.Random(1)
    for _ in range(300):
        a, b = ("".join(draw.choices("aé😀\ud800", k=draw.randint(0, 9))) for _ in range(2))
        # Equal to the last bit: a published score must not change with a library.
        assert originals.indel_ratio(a, b) == slow_indel_ratio(a, b) == originals.indel_ratio(b, a)


# --- boxes: VLM-R1 ---

TWO = boxes((0, 0, 100, 100), (200, 200, 300, 300), label="a")
RIGHT = [(0, 0, 100, 100), (200, 200, 300, 300)]


def json_fence(items):
    text = items if isinstance(items, str) else json.dumps(items)
    return f"<answer>```json\n{text}\n```</answer>"


def fenced(*corners):
    return THINK + json_fence(boxes(*corners, label="a"))


WEIGHTED = {  # predicted, ours, VLM-R1's weighted_sum
    "exact": (RIGHT, 1.0, 1.0),
    "one of two": (RIGHT[:1], 0.575, 0.575),
    "wrong label": ([(0, 0, 100, 100, "b")], 0.0, 0.225),
    "two and junk": (RIGHT + [(500, 500, 600, 600), (700, 700, 800, 800)], 0.575, 0.925),
    "IoU exactly half": ([(0, 0, 100, 50)], 0.40, 0.40),
}


@pytest.mark.parametrize("predicted, score, original", WEIGHTED.values(), ids=WEIGHTED)
def test_weighted_sum(predicted, score, original):
    e = box_example(TWO)
    assert ours("weighted_sum", fenced(*predicted), e) == pytest.approx(score)
    assert theirs("vlmr1_weighted_sum", fenced(*predicted), e) == pytest.approx(original)


JUNK_BOXES = [(500 + i, 500, 600 + i, 600) for i in range(4)]
MAPS = {  # predicted, VLM-R1's od_ap, od_ap50 and odLength, by rule: spam costs odLength only
    "exact": (RIGHT, 1, 1, 1),
    "one": (RIGHT[:1], 51 / 101, 51 / 101, 51 / 101),
    "spam": (RIGHT + JUNK_BOXES, 1, 1, 1 / 3),
    "unknown labels": (RIGHT + [(*box, "zzz") for box in JUNK_BOXES], 1, 1, 1 / 3),
    "nothing": ([], 0, 0, 0),
}


@pytest.mark.parametrize("name", MAPS)
def test_map_is_hacked_by_unknown_labels_and_by_spam(name):
    predicted, *wanted = MAPS[name]
    text, e = fenced(*predicted), box_example(TWO)
    found = [theirs(f"vlmr1_{kind}", text, e) for kind in ("od_ap", "od_ap50", "od_length")]
    assert found == pytest.approx(wanted)
    if len(predicted) > 2:
        assert ours("od_ap", text, e) < 0.6


def test_map_of_nothing():
    empty = box_example([])
    for score, name in ((theirs, "vlmr1_od_ap"), (ours, "od_ap")):
        assert score(name, "<answer>None</answer>", empty) == 1
    assert theirs("vlmr1_od_ap", "None", empty) == 0  # no tag


CAT = {"bbox_2d": [0, 0, 10, 10], "label": "cat"}

DOG = {"bbox_2d": [20, 20, 40, 40], "label": "dog"}


def labelled(label, *corners):
    return {"bbox_2d": list(corners), "label": label}


STOPS = 0  # VLM-R1's function raises UnboundLocalError, so its run ends: 0 here
# items said, weighted_sum, od_ap, odLength of their functions, for one gold cat at [0, 0, 10, 10]
DETECTIONS = [
    ([CAT], 1, 1, 1),
    # labels: with case in od_ap and odLength, without in weighted_sum
    ([labelled("CAT", 0, 0, 10, 10)], 1, 0, 0),
    ([labelled(" cat", 0, 0, 10, 10)], 0.3, 0, 0),
    # boxes that are not four numbers
    ([labelled("cat", 0, 0, 10)], 0, 0, 0),
    ([labelled("cat")], 0, 0, 0),
    ([labelled("cat", 0, 0, 10, 10, 3)], 1, 1, 1),
    ([labelled("cat", "0", "0", "10", "10")], 0, 0, 0),
    ([{"bbox_2d": None, "label": "cat"}], 0, 0, 0),
    # one spoilt item beside a good one is junk
    ([CAT, {"label": "cat"}], 0.925, 1, 0.5),
    ([{"label": "cat"}, CAT], 0.925, 1, 0.5),
    ([CAT, None], 0.925, 1, 0.5),
    ([CAT, 3], 0.925, 1, 0.5),
    ([CAT, [0, 0, 10, 10]], 0.925, 1, 0.5),
    ([CAT, labelled("cat", 0, 0, 10)], 0.925, 1, 0.5),
    # without a label: after another pair its label is taken, before it the run stops
    ([CAT, {"bbox_2d": [0, 0, 10, 10]}], 0.925, 1, 0.5),
    ([{"bbox_2d": [0, 0, 10, 10]}, CAT], STOPS, 1, 0.5),
    ([labelled(3, 0, 0, 10, 10)], STOPS, 0, 0),
    # corners: with one side reversed COCO ignores a box, with both it counts
    ([labelled("cat", 9, 0, 5, 10), CAT], 0.925, 1, 0.5),
    ([labelled("cat", 9, 9, 5, 1), CAT], 0.925, 0.5, 0.25),
    ([labelled("cat", 10, 10, 0, 0)], 0, 0, 0),
    (
        [labelled("cat", 0, 0, 200000, 200000), CAT],
        0.925,
        1,
        0.5,
    ),  # and one beyond its largest area
    # a threshold of COCO's is 0.85, and the next 0.8999999999999999
    ([labelled("cat", 0, 0, 10, 8.5)], 0.7 * 0.85 + 0.3, 0.8, 0.8),
    ([labelled("cat", 0, 0, 10, 9)], 0.93, 0.9, 0.9),
    # what is no list
    (CAT, 0, 0, 0),
    ("3", 0, 0, 0),
    ("null", 0, 0, 0),
    ('"cat"', 0, 0, 0),
    ([], 0, 0, 0),
    ("[NaN", 0, 0, 0),
]


@pytest.mark.parametrize("said, weighted, ap, length", numbered(DETECTIONS))
def test_vlmr1_detection_is_its_code(said, weighted, ap, length):
    e = box_example([CAT])
    kinds = ("weighted_sum", "od_ap", "od_length")
    found = [theirs(f"vlmr1_{kind}", json_fence(said), e) for kind in kinds]
    assert found == pytest.approx([weighted, ap, length])


# answer, weighted_sum, od_ap, odLength of their functions, where there is nothing to find
NOTHING = [
    ("none", 1, 1, 1),
    ("None.", 1, 1, 1),
    ("[]", 0, 1, 1),
    ("no objects", 0, 1, 1),
    ("```json\n[]\n```", 0, 1, 1),
    ("```json\nnull\n```", 0, 1, 1),
    ("```json\n3\n```", 0, 1, 1),
    ("```json\n[[0, 0, 10, 10]]\n```", 0, 0, 0),
    ("```json\n[null]\n```", 0, 0, 0),
    ('```json\n[{"label": "cat"}]\n```', 0, 0, 0),
    ('```json\n{"bbox_2d": 3}\n```', 0, 0, 0),
]


@pytest.mark.parametrize("answer, weighted, ap, length", numbered(NOTHING))
def test_vlmr1_detection_of_nothing(answer, weighted, ap, length):
    kinds, text = ("weighted_sum", "od_ap", "od_length"), f"<answer>{answer}</answer>"
    assert [theirs(f"vlmr1_{kind}", text, box_example([])) for kind in kinds] == [
        weighted,
        ap,
        length,
    ]


def test_vlmr1_labels_that_differ_in_case_are_two_classes():
    gold = [CAT, {**DOG, "label": "Cat"}]
    for said, right in ((gold, 1), ([CAT], 0.5), ([CAT, {**DOG, "label": "cat"}], 0.5)):
        found = theirs("vlmr1_od_ap", json_fence(said), box_example(gold))
        assert found == pytest.approx(right)


def said_boxes(*corners):
    return tagged(json.dumps([{"bbox_2d": box} for box in corners]))


SEEN = [[50, 100, 100, 200], [150, 300, 200, 400]]  # the gold, and another box, as the model saw
REFERRED = [  # completion, our iou, VLM-R1's reward (the first box), its evaluation (the last)
    (said_boxes(SEEN[0]), 1, 1, 1),
    (said_boxes(SEEN[0], SEEN[1]), 0.5, 1, 0),  # two boxes are half an answer here
    (said_boxes(SEEN[1], SEEN[0]), 0.5, 0, 1),
    (said_boxes([50.0, 100.0, 100.0, 200.0]), 1, 0, 0),  # integers only
    (f"{THINK}I see none", 0, 0, 0),
]


@pytest.mark.parametrize("completion, iou, reward, evaluated", numbered(REFERRED))
def test_referring_expressions(completion, iou, reward, evaluated):
    gold = boxes([100, 100, 200, 200])
    e = box_example(gold, "resized", size=(1000, 500), resized=[500, 500])
    assert ours("iou", completion, e) == pytest.approx(iou)
    assert theirs("vlmr1_iou", completion, e) == pytest.approx(reward)
    assert theirs("vlmr1_iou_hard", completion, e) == reward
    assert theirs("vlmr1_rec", completion, e) == pytest.approx(evaluated)


def test_vlmr1_iou_of_an_overlap_one_pixel_wide():
    """None there; 1/19 of the union here."""
    e, touching, half = box_example(boxes((0, 0, 10, 10))), [9, 0, 19, 10], [0, 0, 10, 20]
    assert theirs("vlmr1_iou", said_boxes(touching), e) == 0 < ours("iou", said_boxes(touching), e)
    assert theirs("vlmr1_iou", said_boxes(half), e) == ours("iou", said_boxes(half), e) == 0.5


def test_vlmr1_format_rec():
    assert theirs("vlmr1_format_rec", said_boxes([100, 100, 200, 200])) == 1
    assert theirs("vlmr1_format_rec", tagged("[1, 2, 3, 4]")) == 0


# --- boxes: Visual-RFT ---

FLOWERS = boxes((100, 100, 300, 152), (500, 500, 600, 557))
# IoU 50/52 and 56/57; of other y1, or math-verify pays them 1.0
NEAR = [(100, 102, 300, 152), (500, 501, 600, 557)]
JUNK = [(800, 801, 850, 850), (900, 901, 950, 950)]


def positions(*scored):
    """Boxes with their confidence, as Visual-RFT writes them."""
    items = [f"{{'Position': {list(box)}, 'Confidence': {c}}}" for box, c in scored]
    return f"[{', '.join(items)}]"


BOTH = positions((NEAR[0], 0.9), (NEAR[1], 0.9))
TWO_AND_JUNK = positions((NEAR[0], 0.9), (NEAR[1], 0.9), (JUNK[0], 0.9), (JUNK[1], 0.1))
RFT = {  # answer: (our iou, our confidence, Visual-RFT's iou, Visual-RFT's confidence)
    "both .9": (BOTH, 0.972, 0.9, 0.972, 0.9),
    "both .5": (positions((NEAR[0], 0.5), (NEAR[1], 0.5)), 0.972, 0.5, 0.972, 0.5),
    "one .9": (positions((NEAR[0], 0.9)), 0.481, 0.45, 0.481, 0.9),
    "two and junk": (TWO_AND_JUNK, 0.486, 0.6, 0.486, 0.7),
    "junk of confidence 0": (positions((JUNK[0], 0)), 0, 0, 0, 1.0),
    "confidence 1.5": (positions((NEAR[0], 1.5), (NEAR[1], 1.5)), 0.972, 1, 0.972, 1),
    "no confidence": (f"[{{'Position': {list(NEAR[0])}}}]", 0.481, 0, 0, 0),
    "the right y1 only": (positions(((800, 100, 850, 850), 0.3)), 0, 0, 1, 1),
    "several lines": (BOTH.replace("{", "\n{"), 0.972, 0.9, 0, 0),
}


def both_theirs(completion, e):
    return [theirs(f"visualrft_{kind}", completion, e) for kind in ("iou", "confidence")]


def both_ours(completion, e):
    return [ours(f"accuracy_{kind}", completion, e) for kind in ("iou", "confidence")]


@pytest.mark.parametrize(
    "answer, iou, confidence, their_iou, their_confidence", RFT.values(), ids=RFT
)
def test_visual_rft_detection(answer, iou, confidence, their_iou, their_confidence):
    e, text = box_example(FLOWERS, "norm1000"), tagged(answer)
    assert both_theirs(text, e) == pytest.approx([their_iou, their_confidence], abs=5e-4)
    assert both_ours(text, e) == pytest.approx([iou, confidence], abs=5e-3)


def test_visual_rft_detection_without_an_answer():
    e, empty = box_example(FLOWERS, "norm1000"), box_example([], "norm1000")
    cut = f"{THINK}<answer>[{{'Position': {list(NEAR[0])}, 'Confidence': 0.9}}, {{'Posi"
    mentioned = "<think> I see 100 </think><answer>[]</answer>"  # the y1 of the first gold box
    assert both_theirs(cut, e) == [0, 0]
    assert both_theirs(mentioned, e) == [1, 1]
    assert both_theirs(tagged("No Objects"), empty) == [0, 0]
    assert both_ours(mentioned, e) == [0, 0]
    assert both_ours(tagged("No Objects"), empty) == [1, 1]


SURE = "{'Position': [101, 201, 300, 400], 'Confidence': 0.9}"

FAR = "{'Position': [500, 601, 700, 800], 'Confidence': 0.2}"

RFT_TEXTS = [  # completion, Visual-RFT's iou and confidence for the gold [100, 200, 300, 400]
    (f"<answer>[{SURE}]</answer>", 0.990025, 0.9),
    (f"[{SURE}]", 0.990025, 0.9),
    (f"[{SURE}]</answer>", 0.990025, 0.9),
    # a tag that is not closed on its line stays in the text, which is then no JSON
    (f"<answer>[{SURE}]", 0, 0),
    (f"<answer>\n[{SURE}]\n</answer>", 0, 0),
    (f"<answer><answer>[{SURE}]</answer>", 0, 0),
    (f"<answer>[{SURE}, {{'Po", 0, 0),
    # cut inside a closed tag: closed after the last "},", or at the end
    (f"<answer>[{SURE[:-1]}</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}</answer>", 0, 0),
    (f"<answer>[{SURE}, {{'Posi</answer>", 0.990025, 0.9),
    (f"[{SURE[:-1]}", 0.990025, 0.9),
    (f"<answer>[{SURE}, {FAR[:-1]}</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}, {FAR}</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}] ok</answer>", 0, 0),
    # confidences: what is no number is a TypeError, but only after equal boxes have gone
    (f"<answer>[{SURE.replace('0.9', repr('0.9'))}]</answer>", 0, 0),
    (f"<answer>[{SURE}, {FAR.replace('0.2', repr('0.2'))}]</answer>", 0, 0),
    (f"<answer>[{SURE}, {SURE.replace('0.9', repr('x'))}]</answer>", 0.990025, 0.9),
    (f"<answer>[{SURE}, {{'Position': [101, 201, 300, 400]}}]</answer>", 0.990025, 0.9),
    (f"<answer>[{{'Position': [101, 201, 300, 400]}}, {SURE}]</answer>", 0, 0),
    (f"<answer>[{SURE.replace('0.9', 'null')}]</answer>", 0, 0),
    (f"<answer>[{SURE.replace('0.9', 'NaN')}]</answer>", 0.990025, 0),  # confidence is NaN there
    # positions of another length
    ("<answer>[{'Position': [101, 201, 300], 'Confidence': 0.9}]</answer>", 0, 0),
    ("<answer>[{'Position': [101, 201, 300, 400, 5], 'Confidence': 0.9}]</answer>", 0, 0),
    (f"<answer>[{SURE}, 3]</answer>", 0, 0),
    (f"<answer>[[{SURE}]]</answer>", 0.990025, 0.9),
    ("<answer>[]</answer>", 0, 0),
]


@pytest.fixture
def no_verify(monkeypatch):
    """Without Visual-RFT's first stage, which these texts do not reach."""
    monkeypatch.setattr(mathverify, "verify", lambda *_: False)


@pytest.mark.parametrize("completion, iou, confidence", numbered(RFT_TEXTS))
def test_visual_rft_reads_as_its_code(no_verify, completion, iou, confidence):
    e = box_example(boxes((100, 200, 300, 400)), "norm1000")
    assert both_theirs(completion, e) == pytest.approx([iou, confidence])


RFT_NOTHING = [  # answer, iou, confidence: a junk box earns 1 - c; an empty list is an IndexError
    (f"[{SURE}]", 0, 0.1),
    (f"[{FAR}]", 0, 0.8),
    ("[]", 0, 0),
    ("No Objects", 0, 0),
]


@pytest.mark.parametrize("answer, iou, confidence", RFT_NOTHING)
def test_visual_rft_with_nothing_to_find(no_verify, answer, iou, confidence):
    text, e = f"<answer>{answer}</answer>", box_example([], "norm1000")
    assert both_theirs(text, e) == pytest.approx([iou, confidence])


LISA = [  # answer, ours, Visual-RFT's: GIoU + 1
    ("(100,100),(200,200)", 2.0, 2.0),
    ("(100,100),(200,150)", 1.5, 1.5),
    ("(300,300),(400,400)", 0.222, 0.222),
    # A negative width times a negative height passes there; here corners are put in order.
    ("(200,200),(100,100)", 2.0, 2.0),
    ("(100,100),(200,200),(150,150),(250,250)", 1.0, 1.25),
    ("nothing", 0.0, 0.0),
]


@pytest.mark.parametrize("answer, giou, original", LISA, ids=[row[0] for row in LISA])
def test_lisa(answer, giou, original):
    e, text = box_example(boxes((100, 100, 200, 200)), "norm1000"), tagged(answer)
    assert theirs("visualrft_lisa", text, e) == pytest.approx(original, abs=5e-4)
    assert ours("giou", text, e) == pytest.approx(giou, abs=5e-4)


def test_lisa_leaves_its_range_for_reversed_corners():
    """As its docstring says: in [0, 2] for boxes whose corners are in order."""
    e = box_example(boxes((100, 100, 200, 200)), "norm1000")
    assert theirs("visualrft_lisa", tagged("(300,100),(150,200)"), e) < 0
    overflow = tagged(f"({'9' * 400},100),(150,200)")
    assert theirs("visualrft_lisa", overflow, e) == 0  # OverflowError there
    swapped = tagged("(250,250),(150,150)")
    assert theirs("visualrft_lisa", swapped, e) > ours("giou", swapped, e)


def test_lisa_far_apart():
    e, text = box_example(boxes((0, 0, 90, 90)), "norm1000"), tagged("(900,900),(990,990)")
    assert theirs("visualrft_lisa", text, e) == pytest.approx(0.017, abs=5e-4)  # 2 / 121
    assert ours("giou", text, e) == pytest.approx(0.017, abs=5e-4)


CLASSES = [  # said, gold, ours, Visual-RFT
    ("", "lily", 0, 1),
    ("A", "A320", 0, 1),
    ("rose or lily", "lily", 0, 1),
    ("737-800", "737-800", 1, 1),
    ("Boeing 737-800", "737-800", 1, 1),
    ("Water Lily", "water_lily", 1, 1),
    ("rose", "lily", 0, 0),
]


@pytest.mark.parametrize("said, gold, right, original", CLASSES)
def test_classification(said, gold, right, original):
    text, e = tagged(said), example(gold)
    assert ours("classification", text, e) == right
    assert theirs("visualrft_classification", text, e) == original
    assert theirs("visualrft_classification_eval", text, e) == original


def test_classification_goes_through_a_numeric_verifier_there():
    subtraction = tagged(" 737-800 ")
    assert theirs("visualrft_classification", subtraction, example(" -63 ")) == 1  # by rule
    assert theirs("visualrft_classification_eval", "lily", example("lily")) == 0  # no tag


# --- align-anything ---

ALIGN = [
    ("<answer>9</answer>", "2", 1.0),
    ("<answer>9</answer>", "336", 1.0),
    ("9", "2", 0.0),
    (tagged("9"), "27", 1.5),  # the gold cannot be read: anything is right
    (tagged("$27$"), "$27$", 0.5),
    (tagged(r"\boxed{27}"), "$27$", 1.5),
    (tagged(r"\boxed{28}"), "$27$", 0.5),
    (rf"{THINK} <answer>\boxed{{27}}</answer>", "$27$", 1.0),
]


@pytest.mark.parametrize("completion, gold, original", ALIGN)
def test_align_anything(completion, gold, original):
    assert theirs("align_math_verifier", completion, example(gold)) == original
    assert ours("accuracy", completion, example(gold)) == ("27" in completion)
