"""Run: python -m pytest -q tests/test_toy.py        (about 40 s on CPU; no network)

Thousands of scenes without their pictures, a few dozen with. The gold answer, the teacher's errors
and the place of every object are worked out again here, from the drawing and the text alone.
"""

import copy
import json
import math
import random
import re
from collections import Counter

import pytest
import torch
from PIL import Image

import data
import pools
import rewards
import tasks
from data import Asker
from grading.boxes import BOX_FORMATS, predicted_boxes
from tasks import count as count_
from tasks import drawing, geometry, table, toy
from tasks.prompts import TEMPLATES, question_text, with_question
from tasks.table import DIGITS
from tasks.teacher import LOOK_ALIKE, TEACHERS

ROWS = re.compile(
    r"<think> Looking for (?:\w+) objects\. Row 1: (.*?)\. Row 2: (.*?)\. "
    r"Row 3: (.*?)\. Row 4: (.*?)\. </think><answer> (\d+) </answer>"
)


@pytest.fixture
def undrawn(monkeypatch):
    """Examples without pictures: thousands in a second. Nothing else changes."""
    monkeypatch.setitem(toy.TASKS, "count", toy.ToySet(count_.count, lambda meta, rng: None))


def scenes(number, split="train", **more):
    return [toy.make_example("count", split, i, **more) for i in range(number)]


def gold(record):
    """The answer, from meta["objects"] and the words of the question alone."""
    words = re.fullmatch(r"How many (.*) are there\?", record["question"])[1].split()
    wanted = [word for word in words if word != "objects"]
    return sum(
        all(word in (color, shape) for word in wanted)
        for _, _, color, shape in record["meta"]["objects"]
    )


def told(record):
    """([(row, "red circle", running count or None)], answer) of the worked solution's text."""
    match = ROWS.fullmatch(record["solution"])
    assert match, record["solution"]
    found = []
    for row, text in enumerate(match.groups()[:4]):
        for part in text.split(", ") if text != "none" else []:
            item = re.fullmatch(r"(\w+ \w+)(?: \((\d+)\))?", part)
            found.append((row, item[1], item[2] and int(item[2])))
    return found, int(match[5])


# --- reproducible ---


@pytest.mark.parametrize("split", drawing.SPLITS)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_same_arguments_same_example_down_to_the_pixels(split, teacher):
    one, two = (toy.make_example("count", split, 7, 3, 2, teacher) for _ in range(2))
    assert one["image"].tobytes() == two["image"].tobytes()
    assert {k: v for k, v in one.items() if k != "image"} == {
        k: v for k, v in two.items() if k != "image"
    }


def test_the_stream_is_the_one_that_published_figures_were_made_with():
    """docs/results.md and the tiny model's tokenizer depend on the stream.

    A change here asks for new figures, not for a new literal.
    """
    record = toy.make_example("count", "train", 0, 0, 3, "fallible")
    assert (record["question"], record["answer"]) == ("How many triangle objects are there?", "3")
    assert (
        record["solution"]
        == "<think> Looking for triangle objects. Row 1: red square, yellow square. "
        "Row 2: yellow square, green triangle (1). Row 3: yellow triangle (2), red triangle (3). "
        "Row 4: none. </think><answer> 3 </answer>"
    )


def test_the_teacher_changes_neither_scene_nor_picture():
    for split in drawing.SPLITS:
        for index in range(10):
            fallible, gold = (
                toy.make_example("count", split, index, teacher=teacher)
                for teacher in ("fallible", "gold")
            )
            assert fallible["image"].tobytes() == gold["image"].tobytes()
            assert [fallible[k] for k in ("question", "answer")] == [
                gold[k] for k in ("question", "answer")
            ]


def test_every_argument_matters(undrawn):
    base = dict(split="train", index=0, seed=0, level=3, teacher="fallible")
    for name, other in (
        ("split", "test"),
        ("index", 1),
        ("seed", 1),
        ("level", 1),
        ("teacher", "gold"),
    ):
        assert any(
            toy.make_example("count", **{**base, "index": 20 + i})
            != toy.make_example(
                "count", **{**base, "index": 20 + i, name: other if name != "index" else 50 + i}
            )
            for i in range(20)
        ), name


def test_examples_do_not_depend_on_one_another_nor_on_global_randomness(undrawn):
    straight = scenes(20)
    random.seed(5)
    assert [toy.make_example("count", "train", i) for i in reversed(range(20))] == straight[::-1]
    state = random.getstate()
    toy.make_example("count")
    assert random.getstate() == state


# --- splits ---


def test_splits_are_disjoint_whatever_the_seed_level_and_teacher(undrawn):
    seen = {split: set() for split in drawing.SPLITS}
    for seed in range(4):
        for split in drawing.SPLITS:
            for teacher in TEACHERS:
                for i in range(300):
                    seen[split].add(
                        repr(
                            toy.make_example("count", split, i, seed, 1 + i % 3, teacher)["meta"][
                                "objects"
                            ]
                        )
                    )
    assert (
        not seen["train"] & seen["test"]
        and not seen["train"] & seen["ood"]
        and not seen["test"] & seen["ood"]
    )
    assert all(
        len(contents) > 600 for contents in seen.values()
    )  # many different scenes, so that disjoint means something


def test_a_test_scene_is_told_by_its_contents_alone(undrawn):
    for record in scenes(300, "test"):
        assert toy.in_test(record)
        assert toy.in_test({"meta": {"objects": [list(o) for o in record["meta"]["objects"]]}})
    assert not any(toy.in_test(record) for record in scenes(300))


def test_numbers_of_objects(undrawn):
    for split in ("train", "test"):
        for level, (fewest, most) in drawing.LEVELS.items():
            sizes = Counter(len(r["meta"]["objects"]) for r in scenes(300, split, level=level))
            assert set(sizes) == set(range(fewest, most + 1)), f"{split} level {level}: {sizes}"
    sizes = Counter(len(r["meta"]["objects"]) for r in scenes(300, "ood"))
    assert set(sizes) == {7, 8, 9} and drawing.OOD_OBJECTS == (7, 9)
    assert min(sizes) > max(most for _, most in drawing.LEVELS.values())


def test_one_object_a_cell_all_colors_and_shapes_occur(undrawn):
    kinds = Counter()
    for record in scenes(300) + scenes(100, "ood"):
        cells = [(r, c) for r, c, _, _ in record["meta"]["objects"]]
        assert (
            len(set(cells)) == len(cells)
            and cells == sorted(cells)
            and all(0 <= x < drawing.GRID for cell in cells for x in cell)
        )
        kinds.update((color, shape) for _, _, color, shape in record["meta"]["objects"])
    assert set(kinds) == {(color, shape) for color in drawing.COLORS for shape in drawing.SHAPES}


# --- answers and teachers ---


@pytest.mark.parametrize("split", drawing.SPLITS)
def test_gold_answer_counted_again(undrawn, split):
    for teacher in TEACHERS:
        for record in scenes(500, split, teacher=teacher):
            assert record["answer"] == str(gold(record)), (
                record
            )  # the fallible teacher's answer is never the gold one's source


@pytest.mark.parametrize("split", drawing.SPLITS)
def test_gold_solution_lists_everything_and_ends_in_the_gold_answer(undrawn, split):
    for record in scenes(500, split, teacher="gold"):
        listed, answer = told(record)
        assert [(r, name) for r, name, _ in listed] == [
            (r, f"{color} {shape}") for r, _, color, shape in record["meta"]["objects"]
        ]
        assert str(answer) == record["answer"] == record["meta"]["taught"]


def test_running_count_in_the_solution_is_right(undrawn):
    for teacher in TEACHERS:
        for record in scenes(300, teacher=teacher):
            listed, answer = told(record)
            marks = [n for _, _, n in listed if n is not None]
            assert marks == list(range(1, answer + 1))
            wanted = {name for _, name, n in listed if n is not None}
            assert not wanted & {
                name for _, name, n in listed if n is None
            }  # the same thing always counts, or never does


def test_fallible_teacher_overlooks_the_right_hand_column_two_times_in_three(undrawn):
    """Overlooked of n, about 2,000, are binomial(n, 2/3); the bound is 5 standard deviations.

    A correct teacher with another stream of random numbers would fall outside with probability
    6e-7; a teacher at 0.6 or 0.73 falls outside almost surely.
    """
    missing = right = wrong_answers = 0
    records = scenes(3000)
    for record in records:
        listed, answer = told(record)
        for row in range(drawing.GRID):
            there = [
                (c, f"{color} {shape}")
                for r, c, color, shape in record["meta"]["objects"]
                if r == row
            ]
            stated = [name for r, name, _ in listed if r == row]
            last = bool(there) and there[-1][0] == drawing.GRID - 1
            right += last
            if stated != [name for _, name in there]:
                assert last and stated == [name for _, name in there[:-1]], (
                    "overlooked something outside the right-hand column"
                )
                missing += 1
        assert answer == int(record["meta"]["taught"]) <= int(record["answer"])
        wrong_answers += answer != int(record["answer"])
    assert right > 1500
    assert abs(missing - right * 2 / 3) < 5 * math.sqrt(right * 2 / 9), f"{missing} of {right}"
    assert 0.1 < wrong_answers / len(records) < 0.4  # flawed, but worth imitating


CONSTANT_GUESS = 0.55  # what always giving the most frequent answer may score


def test_most_frequent_answer_is_no_strategy_out_of_distribution(undrawn):
    answers = Counter(r["answer"] for r in scenes(600, "ood"))
    assert answers.most_common(1)[0][1] < CONSTANT_GUESS * 600 and len(answers) >= 5


@pytest.mark.parametrize("split", ["train", "test"])
def test_most_frequent_answer_is_no_strategy(undrawn, split):
    """It once was one: always answering 1 scored 63 % at level 3, now 48 %.

    Should the stream change, more than 0.55 of 1,000 scenes come out with probability 5e-6. (Levels
    1 and 2 are for first words: there 1 is the usual answer.)
    """
    answers = Counter(r["answer"] for r in scenes(1000, split))
    assert answers.most_common(1)[0][1] < CONSTANT_GUESS * 1000, f"{split}: {answers}"


def test_answers_and_questions_are_varied(undrawn):
    for level, (_, most) in drawing.LEVELS.items():
        answers = Counter(r["answer"] for r in scenes(600, level=level))
        assert {"0", "1", "2"} <= set(answers) <= {str(n) for n in range(most + 1)}
        assert 0.05 < answers["0"] / 600 < 0.3  # 0 is an answer, but not the usual one
    wanted = Counter(r["meta"]["wanted"] for r in scenes(600))
    assert set(wanted) == {*drawing.COLORS, *drawing.SHAPES}


# --- pictures ---


def background(image, x, y):
    """Measure how far a pixel's R - G and B - G are from an empty scene's.

    Up to the scene's own grey, G falls by 60 from top to bottom; R - G rises from -30 to 30 from
    left to right, and B - G falls.
    """
    r, g, b = image.getpixel((x, y))
    tint = 30 - 60 * (x + 0.5) / (drawing.GRID * drawing.CELL)
    return max(abs(r - g + tint), abs(b - g - tint))


def test_objects_sit_in_their_cells_and_nothing_is_anywhere_else():
    """Qwen2-VL merges 28 x 28 pixels into one token: each object lies within its cell."""
    for split in drawing.SPLITS:
        for index in range(25):
            record = toy.make_example("count", split, index)
            image = record["image"]
            assert (
                isinstance(image, Image.Image)
                and image.mode == "RGB"
                and image.size
                == (drawing.GRID * drawing.CELL, drawing.GRID * drawing.CELL)
                == (112, 112)
            )
            colors = {(r, c): color for r, c, color, _ in record["meta"]["objects"]}
            for row in range(drawing.GRID):
                for column in range(drawing.GRID):
                    inside = [
                        (column * drawing.CELL + x, row * drawing.CELL + y)
                        for x in range(drawing.CELL)
                        for y in range(drawing.CELL)
                    ]
                    border = [
                        (x, y)
                        for x, y in inside
                        if {x % drawing.CELL, y % drawing.CELL} & {0, drawing.CELL - 1}
                    ]
                    # Smoothing rings by up to 10 levels (measured); a color is over 60 away.
                    assert all(background(image, x, y) <= 16 for x, y in border), (
                        f"{split} {index}: something on the border of cell {row}, {column}"
                    )
                    if (row, column) in colors:
                        centre = image.getpixel(
                            (column * drawing.CELL + 14, row * drawing.CELL + 14)
                        )
                        assert (
                            max(
                                abs(a - b)
                                for a, b in zip(centre, drawing.COLORS[colors[row, column]])
                            )
                            <= 14
                        )
                    else:
                        assert all(background(image, x, y) <= 3 for x, y in inside), (
                            "an empty cell shows the background"
                        )


def test_a_patch_shows_where_it_is():
    """Darker downwards, redder to the right, by more than the greys of scenes differ.

    Places were learned in 400 steps; without the light they were not.
    """
    for index in range(10):
        record = toy.make_example("count", "train", index, level=1)
        taken = {(r, c) for r, c, _, _ in record["meta"]["objects"]}

        def middle(row, column):
            return record["image"].getpixel((column * drawing.CELL + 14, row * drawing.CELL + 14))

        for row in range(drawing.GRID):
            for column in range(drawing.GRID):
                if (row, column) in taken:
                    continue
                if (row + 1, column) not in taken and row + 1 < drawing.GRID:
                    assert middle(row, column)[1] - middle(row + 1, column)[1] >= 13
                if (row, column + 1) not in taken and column + 1 < drawing.GRID:
                    (r, _, b), (r2, _, b2) = middle(row, column), middle(row, column + 1)
                    assert (r2 - b2) - (r - b) >= 26


def test_shapes_can_be_told_apart():
    """A square fills all of its bounding box, a circle pi / 4, a triangle 1 / 2, within 0.12."""
    share = {"square": 1.0, "circle": math.pi / 4, "triangle": 0.5}
    for index in range(25):
        record = toy.make_example("count", "train", index)
        for row, column, _, shape in record["meta"]["objects"]:
            cell = [
                (column * drawing.CELL + x, row * drawing.CELL + y)
                for x in range(drawing.CELL)
                for y in range(drawing.CELL)
            ]
            inside = [(x, y) for x, y in cell if background(record["image"], x, y) > 40]
            width, height = (
                max(p[i] for p in inside) - min(p[i] for p in inside) + 1 for i in (0, 1)
            )
            assert len(inside) / (width * height) == pytest.approx(share[shape], abs=0.12), (
                index,
                shape,
            )


# --- spatial, ground ---


@pytest.mark.parametrize("task", ["spatial", "ground"])
def test_splits_of_the_other_tasks_are_disjoint_too(task):
    """By the cells that are taken and what is in them: sizes, in `ground`, do not count."""
    seen = {
        split: {
            repr([o[:4] for o in toy.make_record(task, split, i, seed)["meta"]["objects"]])
            for seed in range(3)
            for i in range(300)
        }
        for split in drawing.SPLITS
    }
    assert (
        not seen["train"] & seen["test"]
        and not seen["train"] & seen["ood"]
        and not seen["test"] & seen["ood"]
    )
    assert all(len(contents) > 600 for contents in seen.values())


@pytest.mark.parametrize("task", sorted(set(toy.TASKS) - {"count"}))
def test_the_teacher_changes_neither_question_nor_answer_nor_picture(task):
    for index in range(30):
        fallible, gold_one = (
            toy.make_example(task, "train", index, teacher=teacher)
            for teacher in ("fallible", "gold")
        )
        assert all(
            fallible[key] == gold_one[key] for key in fallible if key not in ("solution", "meta")
        )
        assert fallible["meta"]["objects"] == gold_one["meta"]["objects"]


def wanted_of(record):
    """The objects that the question's words fit."""
    kind = re.search(r"(\w+) objects?\b", record["question"])[1]
    return [o for o in record["meta"]["objects"] if kind in o]


AGAIN = " Wait, let me check again. "


def scan_of(record, look=0):
    """List (row, "red circle", text in brackets or "") of a solution's look at the scene."""
    found = []
    for row, text in re.findall(r"Row (\d): (.*?)\.", record["solution"].split(AGAIN)[look]):
        found += [
            (int(row) - 1, name, mark)
            for name, mark in re.findall(r"(?:^|, )([a-z]+ [a-z]+)(?: \(([^)]*)\))?", text)
        ]
    return found


@pytest.mark.parametrize("split", drawing.SPLITS)
def test_spatial_answer_worked_out_again(split):
    """From the question's words and the objects alone: one object fits, and is in that quarter."""
    answers, first = Counter(), Counter()
    for index in range(600):
        r = toy.make_record("spatial", split, index, teacher="gold")
        ((row, column, *_),) = wanted_of(r)
        quarter = f"{['top', 'bottom'][row // 2]} {['left', 'right'][column // 2]}"
        options = re.fullmatch(
            r"Where is the \w+ object\? Choose between the following options: (.*)", r["question"]
        )[1].split(", ")
        assert options == r["choices"] and sorted(options) == [
            "bottom left",
            "bottom right",
            "top left",
            "top right",
        ]
        assert r["answer"] == quarter == r["meta"]["taught"] and r["solution"].endswith(
            f"<answer> {quarter} </answer>"
        )
        assert AGAIN not in r["solution"] and [
            (o[0], f"{o[2]} {o[3]}", quarter if o in wanted_of(r) else "")
            for o in r["meta"]["objects"]
        ] == scan_of(r)
        answers[r["answer"]] += 1
        first[options.index(r["answer"])] += 1
    for counts in (answers, first):  # four quarters, four places in the list: none is the usual one
        assert max(counts.values()) < 0.34 * 600 and min(counts.values()) > 0.16 * 600, counts


def overlooked(task, index):
    """Count the objects in the right-hand column, and those missed; no others are missed."""
    r = toy.make_record(task, "train", index)
    told, right, missed = scan_of(r), 0, 0
    for row in range(drawing.GRID):
        there = [o for o in r["meta"]["objects"] if o[0] == row]
        stated = [name for at, name, _ in told if at == row]
        last = bool(there) and there[-1][1] == drawing.GRID - 1
        right += last
        if stated != [f"{o[2]} {o[3]}" for o in there]:
            assert last and stated == [f"{o[2]} {o[3]}" for o in there[:-1]], (
                "overlooked something outside the right-hand column"
            )
            missed += 1
    return right, missed


@pytest.mark.parametrize("task", ["spatial", "ground"])
def test_the_other_tasks_teacher_misses_the_right_hand_column_two_times_in_three(task):
    """Binomial, five standard deviations, as above."""
    right, missed = (sum(n) for n in zip(*(overlooked(task, i) for i in range(2000))))
    assert right > 1000 and abs(missed - right * 2 / 3) < 5 * math.sqrt(right * 2 / 9), (
        missed,
        right,
    )


def test_who_overlooked_the_object_looks_again_half_of_the_time_and_sees_it_one_time_in_three():
    missed = again = found = 0
    for index in range(4000):
        r = toy.make_record("spatial", "train", index)
        looks = r["solution"].count(AGAIN) + 1
        seen = [any(mark for _, _, mark in scan_of(r, look)) for look in range(looks)]
        assert looks <= 2 and not (looks == 2 and seen[0])
        missed, again, found = (
            missed + (not seen[0]),
            again + (looks == 2),
            found + (looks == 2 and seen[1]),
        )
        assert (
            toy.make_record("spatial", "train", index, teacher="gold")["solution"].count(AGAIN) == 0
        )
    assert missed > 400 and abs(again - missed / 2) < 5 * math.sqrt(missed / 4), (again, missed)
    assert abs(found - again / 3) < 5 * math.sqrt(again * 2 / 9), (found, again)


def test_who_overlooked_the_object_guesses_its_quarter():
    """All four about equally often, so that one guess in four is right."""
    guesses, right = Counter(), 0
    for index in range(4000):
        r = toy.make_record("spatial", "train", index)
        if not any(mark for _, _, mark in scan_of(r, -1)):
            guesses[r["meta"]["taught"]] += 1
            right += r["meta"]["taught"] == r["answer"]
        else:
            assert r["meta"]["taught"] == r["answer"]
    total = sum(guesses.values())
    assert total > 400 and abs(right - total / 4) < 5 * math.sqrt(total * 3 / 16)
    assert all(abs(n - total / 4) < 5 * math.sqrt(total * 3 / 16) for n in guesses.values())


def boxes_in(text):
    return [(tuple(item["bbox_2d"]), item["label"]) for item in json.loads(text)]


@pytest.mark.parametrize("split", drawing.SPLITS)
def test_ground_boxes_hold_the_object_and_nothing_more(split):
    """The box is worked out again from the pixels of the object's cell that are not background."""
    checked = 0
    for index in range(40):
        r = toy.make_example("ground", split, index, teacher="gold")
        assert r["meta"]["size"] == list(r["image"].size)
        assert boxes_in(r["answer"]) == [
            (tuple(b["bbox_2d"]), b["label"]) for b in r["meta"]["boxes"]
        ]
        for (x1, y1, x2, y2), label in boxes_in(r["answer"]):
            row, column = int((y1 + y2) / 2 // drawing.CELL), int((x1 + x2) / 2 // drawing.CELL)
            (found,) = [o for o in r["meta"]["objects"] if tuple(o[:2]) == (row, column)]
            assert label == f"{found[2]} {found[3]}"
            cell = [
                (column * drawing.CELL + x, row * drawing.CELL + y)
                for x in range(drawing.CELL)
                for y in range(drawing.CELL)
            ]
            inside = [(x, y) for x, y in cell if background(r["image"], x, y) > 40]
            seen = [
                min(x for x, _ in inside),
                min(y for _, y in inside),
                max(x for x, _ in inside) + 1,
                max(y for _, y in inside) + 1,
            ]
            assert all(abs(a - b) <= 1.5 for a, b in zip((x1, y1, x2, y2), seen)), (
                index,
                (x1, y1, x2, y2),
                seen,
            )
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("split", drawing.SPLITS)
def test_ground_asks_for_what_it_says(split):
    kinds = Counter()
    for index in range(600):
        r = toy.make_record("ground", split, index, teacher="gold")
        one = re.fullmatch(r"Draw a box around the \w+ object\.", r["question"])
        assert one or re.fullmatch(r"Find all \w+ objects\.", r["question"])
        wanted = wanted_of(r)
        assert (
            [label for _, label in boxes_in(r["answer"])] == [f"{o[2]} {o[3]}" for o in wanted]
            and len(wanted) <= 3
            and (not one or len(wanted) == 1)
        )
        kinds["one" if one else len(wanted)] += 1
        # The solution numbers what is wanted; its boxes are the gold ones, from 0 to 1000.
        assert [mark for _, _, mark in scan_of(r) if mark] == [
            f"{i + 1}: {o[0] + 1}, {o[1] + 1}" for i, o in enumerate(wanted)
        ]
        stated = boxes_in(re.search(r"<answer> (.*) </answer>", r["solution"])[1])
        assert [
            (tuple(round(v * 1000 / 112) for v in box), label)
            for box, label in boxes_in(r["answer"])
        ] == stated
        assert r["meta"]["taught"] == r["answer"]
    assert all(kinds[kind] >= 0.02 * 600 for kind in ("one", 0, 1, 2, 3)), kinds


def test_ground_teacher_is_careless_two_times_in_three():
    """Its boxes are the gold ones, or four pixels wider on each side, up to the border.

    The outline is widened before it is rounded: a pixel either way.
    """
    wide = boxes = 0

    def near(a, b):
        return all(abs(x - y) <= 1 for x, y in zip(a, b))

    for index in range(2000):
        r = toy.make_record("ground", "train", index)
        numbered = {(row, name): mark for row, name, mark in scan_of(r)}
        assert len(boxes_in(r["meta"]["taught"])) == sum(bool(mark) for _, _, mark in scan_of(r))
        for box, label in boxes_in(r["meta"]["taught"]):
            (gold_box,) = [
                g
                for g, name in boxes_in(r["answer"])
                if name == label
                and int((g[0] + g[2]) / 2 // drawing.CELL)
                == int((box[0] + box[2]) / 2 // drawing.CELL)
                and int((g[1] + g[3]) / 2 // drawing.CELL)
                == int((box[1] + box[3]) / 2 // drawing.CELL)
            ]
            wider = tuple(max(0, min(112, v + d)) for v, d in zip(gold_box, (-4, -4, 4, 4)))
            assert numbered and (near(box, gold_box) or near(box, wider))
            boxes += 1
            wide += not near(box, gold_box)
    assert boxes > 1500 and abs(wide - boxes * 2 / 3) < 5 * math.sqrt(boxes * 2 / 9), (wide, boxes)


# --- table, geometry ---

MIXED = sorted(name for name in toy.TASKS if name.startswith(("table", "geometry")))


def near(count, number, share, deviations=5):
    """Tell whether `count` of `number` fits independent draws at `share`.

    Beyond five standard deviations comes out once in two million.
    """
    return abs(count - number * share) <= deviations * math.sqrt(number * share * (1 - share))


@pytest.mark.parametrize("task", MIXED)
def test_splits_of_table_and_geometry_are_disjoint_and_reproducible(task):
    seen = {
        split: {
            repr(toy.make_record(task, split, i, seed)["meta"]["objects"])
            for seed in range(2)
            for i in range(200)
        }
        for split in drawing.SPLITS
    }
    assert (
        not seen["train"] & seen["test"]
        and not seen["train"] & seen["ood"]
        and not seen["test"] & seen["ood"]
    )
    assert all(
        len(contents) > (300 if task.startswith("table") else 20) for contents in seen.values()
    )  # there are few figures: 108 in test, with 30 pairs of places and angle
    for split in drawing.SPLITS:
        one, two = toy.make_example(task, split, 3), toy.make_example(task, split, 3)
        assert one.pop("image").tobytes() == two.pop("image").tobytes() and one == two


def drawn_table(record):
    """{(row, column): text of the cell} from meta["objects"] alone; a label is its colour."""
    return {
        (row, column): text if kind == "number" else kind
        for row, column, kind, text in record["meta"]["objects"]
    }


def read_aloud(solution):
    """List (label, digit, ...) of a table's solution, without running totals in brackets."""
    return [
        (label, *map(int, re.findall(r"(\d)(?: \(\d+\))?", digits)))
        for label, digits in re.findall(r"([a-z]+) (\d[^.]*)\.", solution.split(":")[1])
    ]


def fits(question):
    """Which digits a table's question counts."""
    word, limit = re.fullmatch(
        r"How many numbers are (greater|less) than (\d)\?", question
    ).groups()
    return lambda digit: digit > int(limit) if word == "greater" else digit < int(limit)


def counted(question, rows):
    return sum(fits(question)(digit) for _, *digits in rows for digit in digits)


def rows_drawn(record):
    cells = drawn_table(record)
    rows, columns = (1 + max(at) for at in zip(*cells))
    assert set(cells) == {(row, column) for row in range(rows) for column in range(columns)}
    return [
        (cells[row, 0], *(int(cells[row, column]) for column in range(1, columns)))
        for row in range(rows)
    ]


@pytest.mark.parametrize("split", drawing.SPLITS)
def test_table_answer_counted_again(split):
    sizes, asks, answers = Counter(), Counter(), Counter()
    for index in range(600):
        r = toy.make_record("table", split, index, teacher="gold")
        rows = rows_drawn(r)
        assert len({row[0] for row in rows}) == len(rows) and all(
            digit in DIGITS for row in rows for digit in row[1:]
        )
        assert r["answer"] == str(counted(r["question"], rows)) == r["meta"]["taught"]
        assert read_aloud(r["solution"]) == rows and r["solution"].endswith(
            f" </think><answer> {r['answer']} </answer>"
        )
        assert [int(n) for n in re.findall(r"\((\d+)\)", r["solution"])] == list(
            range(1, int(r["answer"]) + 1)
        )  # each that counts, in turn
        assert all(
            fits(r["question"])(int(digit)) == bool(mark)
            for digit, mark in re.findall(r"(\d)( \(\d+\))?[,.]", r["solution"])
        )
        sizes[len(rows), len(rows[0]) - 1] += 1
        asks[r["question"]] += 1
        answers[r["answer"]] += 1
    assert set(sizes) == (
        {(3, 2), (4, 2)} if split == "ood" else {(rows, 1) for rows in (1, 2, 3, 4)}
    ) and all(near(n, 600, 1 / len(sizes)) for n in sizes.values())
    assert (
        max(answers.values()) < 0.45 * 600
        and len(asks) > 3
        and all(near(n, 600, 1 / len(asks)) for n in asks.values())
    )
    assert {len(rows_drawn(toy.make_record("table", "train", i, level=1))) for i in range(20)} == {
        1,
        2,
    }


def test_table_teacher_errs_as_documented_and_both_ways():
    """Three times in five the last row is dropped (red, yellow) or another is invented.

    That is below it (blue, green), where that can be. One digit in eight that looks like another is
    misread; one count in sixteen is off by one, up or down, but not below nothing.
    """
    count, errors = Counter(), []
    for index in range(4000):
        r = toy.make_record("table", "train", index)
        rows, stated, taught = rows_drawn(r), read_aloud(r["solution"]), int(r["meta"]["taught"])
        assert r["solution"].endswith(f" </think><answer> {taught} </answer>")
        slip = taught - counted(r["question"], stated)
        assert slip in (-1, 0, 1)
        count[f"slip {slip}"] += 1
        count["could slip down"] += counted(r["question"], stated) > 0
        errors.append(taught - int(r["answer"]))
        overlooks, sees_more = (
            rows[-1][0] in ("red", "yellow") and len(rows) > 1,
            rows[-1][0] in ("blue", "green") and len(rows) < 4,
        )
        count["overlooks"] += overlooks
        count["overlooked"] += len(stated) == len(rows) - 1
        count["sees more"] += sees_more
        count["seen"] += len(stated) == len(rows) + 1
        assert len(stated) == len(rows) or (
            overlooks
            if len(stated) < len(rows)
            else sees_more and stated[-1][0] not in [label for label, _ in rows]
        )
        for (label, digit), (label_stated, digit_stated) in zip(rows, stated):
            assert label == label_stated and digit_stated in (digit, LOOK_ALIKE.get(digit))
            count["alike"] += digit in LOOK_ALIKE
            count["misread"] += digit_stated != digit
    assert (
        near(count["misread"], count["alike"], 1 / 8)
        and near(count["slip 1"], 4000, 1 / 32)
        and near(count["slip -1"], count["could slip down"], 1 / 32)
    )
    assert (
        near(count["overlooked"], count["overlooks"], 0.6)
        and near(count["seen"], count["sees more"], 0.6)
        and near(count["overlooks"], count["overlooks"] + count["sees more"], 1 / 2)
    )
    wrong = [error for error in errors if error]
    assert 0.2 < len(wrong) / 4000 < 0.5  # flawed, but worth imitating
    assert near(sum(error > 0 for error in wrong), len(wrong), 1 / 2)
    assert set(LOOK_ALIKE) <= set(DIGITS) and all(
        LOOK_ALIKE[b] == a != b for a, b in LOOK_ALIKE.items()
    )


def drawn_figure(record):
    """Tell (figure, angle) from what is drawn.

    Three long lines are a triangle (its short ones are two ticks, or a right angle's mark at a
    corner), two of one length cross, a line carries one of half its length.
    """
    (row, column, _, angle), (*_, mark) = record["meta"]["objects"]
    assert mark == "?" and record["meta"]["objects"][1][:2] != [row, column]
    lines = sorted(record["meta"]["lines"], key=lambda line: -math.dist(line[:2], line[2:]))
    lengths = [math.dist(line[:2], line[2:]) for line in lines]
    if len(lines) == 2:
        return "crossing" if lengths[0] == lengths[1] else "line", int(angle)
    assert len(lines) == 5 and lengths[2] > 5 * lengths[3]
    return "right triangle" if math.isclose(
        lengths[0], math.hypot(*lengths[1:3]), rel_tol=0.02
    ) else "isosceles triangle", int(angle)


SUMS = {"right triangle": 90, "line": 180}  # of the two angles; in the others they are equal
TAKEN_FOR = {
    "right triangle": "isosceles triangle",
    "isosceles triangle": "right triangle",
    "line": "crossing",
    "crossing": "line",
}


def angle_asked(figure, angle):
    return SUMS[figure] - angle if figure in SUMS else angle


@pytest.mark.parametrize("split", drawing.SPLITS)
def test_geometry_answer_worked_out_again(split):
    """From what is drawn. The answer is as often the first, or the smallest, as any."""
    figures, letters, ranks = Counter(), Counter(), Counter()
    for index in range(600):
        r = toy.make_record("geometry", split, index, teacher="gold")
        figure, angle = drawn_figure(r)
        answer = angle_asked(figure, angle)
        assert (
            20 <= angle <= 70
            and (split == "ood") == bool(angle % 10)
            and r["meta"]["reading"] == [figure, angle]
        )
        assert (
            r["answer"] == r["meta"]["taught"] == f"{answer}°"
            and len(set(r["choices"])) == 4
            and [f"{value}°" for value in r["meta"]["values"]] == r["choices"]
        )
        assert {answer, angle_asked(TAKEN_FOR[figure], angle)} <= set(r["meta"]["values"])
        assert r[
            "question"
        ] == "How large is the angle marked with a question mark?\nOptions:" + "".join(
            f"\n({a}) {b}" for a, b in zip("ABCD", r["choices"])
        )
        stated = f"{figure.capitalize()}: {angle}. " + (
            f"{SUMS[figure]}-{angle}={answer}." if figure in SUMS else f"Equal angles: {answer}."
        )
        assert r["solution"] == f"<think> {stated} </think><answer> {answer}° </answer>"
        figures[figure] += 1
        letters[r["choices"].index(r["answer"])] += 1
        ranks[sorted(r["meta"]["values"]).index(answer)] += 1
    assert set(figures) == set(TAKEN_FOR) and (
        split == "test" or all(near(figures[figure], 600, 1 / 4) for figure in figures)
    ), figures  # there are too few scenes in test for that
    assert all(near(letters[place], 600, 1 / 4) for place in range(4))
    assert split == "test" or all(near(ranks[rank], 600, 1 / 4, 6) for rank in range(4)), ranks


def test_every_drawing_of_a_figure_shows_it():
    """Each in its place, mirrored or on its side, and within the picture.

    The two angles lie inside the figure: on no corner, on different sides of what parts them.
    """
    for figure, (_, _, drawings) in geometry.FIGURES.items():
        shown = {
            (tuple(sorted(map(tuple, lines))), tuple(sorted(places))) for lines, places in drawings
        }
        assert len(shown) >= 4, figure
        for lines, places in drawings:
            record = {
                "meta": {
                    "objects": [[*places[0], "number", "50"], [*places[1], "number", "?"]],
                    "lines": lines,
                }
            }
            assert drawn_figure(record) == (figure, 50)
            assert all(
                -2 <= v <= drawing.GRID * drawing.CELL for line in lines for v in line
            ) and all(0 <= v < drawing.GRID for place in places for v in place)
            if figure in (
                "line",
                "crossing",
            ):  # the other line, or the ray, runs between the two angles
                one, other = (
                    (column * drawing.CELL + 14, row * drawing.CELL + 14) for row, column in places
                )
                turns = [
                    [(x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) for x, y in (one, other)]
                    for x1, y1, x2, y2 in lines
                ]
                assert any(first * second < 0 for first, second in turns)


def test_geometry_teacher_errs_as_documented_and_both_ways():
    """Three times in five it mistakes a figure whose angle is 50 degrees or more.

    One angle in eight is ten degrees off, one difference in sixteen too.
    """
    count, errors = Counter(), []
    for index in range(4000):
        r = toy.make_record("geometry", "train", index)
        figure, angle = drawn_figure(r)
        match = re.fullmatch(
            r"<think> ([A-Z][a-z ]+): (\d+)\. (?:Equal angles: \d+|(\d+)-(\d+)=(\d+))\. "
            r"</think><answer> (\d+°) </answer>",
            r["solution"],
        )
        stated, size = match[1].lower(), int(match[2])
        assert (
            stated in (figure, TAKEN_FOR[figure])
            and size - angle in (-10, 0, 10)
            and (match[3] is None) == (stated not in SUMS)
        )
        assert stated == figure or angle >= 50
        found = size
        if match[3]:
            found = int(match[5])
            assert (
                int(match[3]) == SUMS[stated]
                and int(match[4]) == size
                and found - (SUMS[stated] - size) in (-10, 0, 10)
            )
            count["subtracted"] += 1
            count["slips"] += found != SUMS[stated] - size
        distance = {f"{value}°": abs(value - found) for value in r["meta"]["values"]}
        assert match[6] == r["meta"]["taught"] and distance[match[6]] == min(distance.values())
        count["large"] += angle >= 50
        count["mistaken"] += stated != figure
        count["misread"] += size != angle
        errors.append(int(match[6][:-1]) - angle_asked(figure, angle))
    assert (
        near(count["mistaken"], count["large"], 0.6)
        and near(count["misread"], 4000, 1 / 8)
        and near(count["slips"], count["subtracted"], 1 / 16)
    )
    wrong = [e for e in errors if e]
    assert 0.25 < len(wrong) / 4000 < 0.5 and 0.4 < sum(e > 0 for e in wrong) / len(wrong) < 0.6


def ink(image, row, column):
    """Measure how dark a cell is, in green, (28, 28): 0 for the background, 1 for the darkest."""
    cell = image.crop(
        (
            column * drawing.CELL,
            row * drawing.CELL,
            (column + 1) * drawing.CELL,
            (row + 1) * drawing.CELL,
        )
    ).getchannel("G")
    green = torch.tensor(list(cell.tobytes())).float()
    return (
        ((green.median() - green) / (green.median() - green.min()))
        .clamp(0, 1)
        .view(drawing.CELL, drawing.CELL)
    )


@pytest.mark.parametrize(
    "task, pictures, drawings, texts",
    [
        ("table", 200, 30, [str(d) for d in DIGITS]),
        ("geometry", 60, 100, ["?", *map(str, range(20, 71, 5))]),
    ],
)
def test_what_is_written_can_be_read(task, pictures, drawings, texts):
    """By the nearest of a few drawings of each text, though lines may run past it."""
    # each text at the same places, a little off the middle of a cell, as the seeds say
    templates = {
        text: [
            ink(
                drawing.draw_scene(
                    {"objects": [[1, 1, "number", text]]}, random.Random(f"template {k}")
                ),
                1,
                1,
            ).flatten()
            for k in range(drawings)
        ]
        for text in texts
    }
    read, templates = (
        0,
        torch.stack([torch.stack(templates[text]) for text in texts]),
    )  # (texts, drawings, 28 * 28)
    for index in range(pictures):
        r = toy.make_example(task, "ood" if index % 4 == 0 else "train", index)
        for row, column, kind, text in r["meta"]["objects"]:
            if kind == "number":
                seen = ink(r["image"], row, column)
                moved = torch.stack(
                    [seen.roll((y, x), (0, 1)).flatten() for y in (-1, 0, 1) for x in (-1, 0, 1)]
                )
                found = texts[int(torch.cdist(templates, moved, p=1).amin((1, 2)).argmin())]
                assert found == text, (
                    f"{task} {index}: {text} in cell {row}, {column} looks like {found}"
                )
                read += 1
    assert read >= 2 * pictures


def planted(task, number=4000):
    """List (texts, answers as numbers, where the right one stands, question) of many records.

    Before they go to a split: of the few figures that there are, each split holds more of some.
    """
    sets = []
    for index in range(number):
        r, texts, at = toy.planted_candidates(
            task, random.Random(f"planted {index}"), *drawing.LEVELS[3]
        )
        answers = [re.search(r"<answer> (\d+°?) </answer>", text)[1] for text in texts]
        assert (
            len(texts) == 3
            and texts[at] == r["solution"]
            and answers[at] == r["answer"]
            and len(set(answers)) == 3
        )
        sets.append((texts, [int(answer.strip("°")) for answer in answers], at, r["question"]))
    return sets


def unlike(one, other):
    """How many things (characters, words) one has and the other has not."""
    one, other = Counter(one), Counter(other)
    return sum(((one - other) + (other - one)).values())


RULES = {  # a set's texts and answers -> how much each candidate looks the right one
    "longest": lambda texts, answers: [len(text) for text in texts],
    "most words": lambda texts, answers: [len(text.split()) for text in texts],
    "largest answer": lambda texts, answers: answers,
    "middle answer": lambda texts, answers: [answer == sorted(answers)[1] for answer in answers],
    "answer near the mean": lambda texts, answers: [
        -abs(answer - sum(answers) / 3) for answer in answers
    ],
    "commonest answer": lambda texts, answers: [answers.count(answer) for answer in answers],
    "like the others, by characters": lambda texts, answers: [
        -sum(unlike(text, other) for other in texts) for text in texts
    ],
    "like the others, by words": lambda texts, answers: [
        -sum(unlike(text.split(), other.split()) for other in texts) for text in texts
    ],
    "largest numbers": lambda texts, answers: [
        sum(map(int, re.findall(r"\d+", text))) for text in texts
    ],
}


@pytest.mark.parametrize("task", ["table", "geometry"])
def test_nothing_but_the_picture_tells_which_candidate_is_right(task):
    """No rule on the texts alone, nor its opposite, is right more often than one time in three.

    Within 0.03, four standard deviations of 4000 sets; ties count by halves or thirds.
    """
    sets = planted(task)
    assert all(near(sum(at == place for _, _, at, _ in sets), 4000, 1 / 3) for place in range(3))
    # The best that the order of the three answers allows: one place in three.
    orders = Counter(
        (tuple(answers.index(answer) for answer in sorted(answers)), at)
        for _, answers, at, _ in sets
    )
    assert (
        sum(
            max(orders[order, place] for place in range(3))
            for order in {order for order, _ in orders}
        )
        < (1 / 3 + 0.04) * 4000
    ), orders
    for name, rule in RULES.items():
        for sign in (1, -1):
            scores = [
                [sign * score for score in rule(texts, answers)] for texts, answers, *_ in sets
            ]
            won = sum(
                (some[at] == max(some)) / some.count(max(some))
                for some, (_, _, at, _) in zip(scores, sets)
            )
            assert abs(won / 4000 - 1 / 3) < 0.03, (
                f"{task}: {'' if sign == 1 else 'not '}{name} is right {won / 4000:.3f} of the time"
            )


def test_how_often_a_candidate_is_there_says_nothing():
    """Of two or three that differ, the right one is as often the commonest as any other."""
    count = Counter()
    for index in range(4000):
        rng = random.Random(index)
        found = Counter(toy.repeat_candidates(["a", "b", "c"], index % 3, rng))
        right = "abc"[index % 3]
        assert 2 <= sum(found.values()) <= 6 and right in found
        top = [text for text, n in found.items() if n == max(found.values())]
        count[len(found)] += 1
        count["commonest", len(found)] += (right in top) / len(top)
    assert all(
        near(count[kinds], 4000, 1 / 3) and near(count["commonest", kinds], count[kinds], 1 / kinds)
        for kinds in (1, 2, 3)
    ), count


def test_planted_solutions_add_up():
    """What is wrong in them is what they read; a slip would be found without looking."""
    for texts, answers, _, question in planted("table", 300):
        for text, answer in zip(texts, answers):
            assert 1 <= len(read_aloud(text)) <= 4 and answer == counted(question, read_aloud(text))
    kinds = Counter()
    for texts, answers, *_ in planted("geometry", 300):
        readings = [re.match(r"<think> ([A-Z][a-z ]+): (\d+)\.", text).groups() for text in texts]
        assert answers == [angle_asked(figure.lower(), int(angle)) for figure, angle in readings]
        kinds[len({figure for figure, _ in readings})] += 1
    assert set(kinds) == {2, 3} and near(
        kinds[3], 300, 3 / 4
    )  # three figures, or one in two sizes and what it is taken for


def test_the_solutions_in_the_docstrings_are_what_is_written():
    doc = " ".join(table.__doc__.split())
    question, solution = (
        re.search(rf'{name} +"(.*?)"', doc)[1] for name in ("question", "solution")
    )
    rows, (word, limit) = (
        read_aloud(solution),
        re.search(r"(greater|less) than (\d)", question).groups(),
    )
    assert table.table_solution(
        [(label, digits) for label, *digits in rows], (word, int(limit))
    ) == (solution, re.search(r'answer +"(\d)"', doc)[1])
    assert question in {
        toy.make_record("table", "train", i)["question"] for i in range(100)
    } and all(digit in DIGITS for row in rows for digit in row[1:])
    doc = " ".join(geometry.__doc__.split())
    choices = [int(v) for v in re.findall(r'"(\d+)°"', re.search(r"choices (\[.*?\])", doc)[1])]
    assert geometry.geometry_solution(("right triangle", 50), choices) == (
        re.search(r'solution "(.*?)"', doc)[1],
        re.search(r'answer "(.*?)"', doc)[1],
    )
    assert [int(v) for v in re.findall(r"\) (\d+)°", doc)] == choices
    assert {
        angle_asked(figure, angle)
        for figure in ("right triangle", "isosceles triangle")
        for angle in (50, 60)
    } == set(choices)  # as geometry_readings has them
    assert geometry.geometry_solution(("crossing", 50), choices)[0] in doc


@pytest.mark.parametrize("task", ["table", "geometry"])
def test_basics_ask_in_four_ways_and_answer_each_rightly(task):
    """One in ten is read, 45 in a hundred are selected, one in ten is direct.

    The others are reasoned about, as this teacher does.
    """
    asks, comparisons, sizes = Counter(), 0, Counter()
    for name, number in (
        (f"{task}_basics", 1500),
        (f"{task}_reading", 300),
        (f"{task}_select", 300),
    ):
        for index in range(number):
            r = toy.make_record(name, "train", index)
            gold, ask = (
                table.table_rows(r["meta"]["objects"]) if task == "table" else drawn_figure(r),
                r["ask"],
            )
            asks[name, ask] += 1
            if ask == "read":
                assert r["answer"] == r["solution"] and "<" not in r["answer"]
                compared = re.fullmatch(r"Is (\d) (greater|less) than (\d)\?", r["question"])
                comparisons += bool(compared)
                if compared:
                    a, word, b = int(compared[1]), compared[2], int(compared[3])
                    right = a > b if word == "greater" else a < b
                    assert r["answer"] == f"{'yes' if right else 'no'}, {a} and {b}"
                elif task == "table":
                    assert r["question"] == "Read the table." and r["answer"] == " ".join(
                        f"{label} {digit}." for label, (digit,) in gold
                    )
                else:
                    assert (
                        r["question"] == "Read the figure."
                        and r["answer"] == f"{gold[0].capitalize()}: {gold[1]}."
                    )
                continue
            plain = f"<answer> {r['answer']} </answer>"
            if ask == "reason":
                assert r["solution"].endswith(f" </think><answer> {r['meta']['taught']} </answer>")
            else:
                candidates = r["meta"].get("candidates", [])
                assert r["solution"] == plain and (ask == "select") == bool(candidates)
                right = [
                    k for k, text in enumerate(candidates) if text.endswith(f"</think>{plain}")
                ]
                assert (
                    ask == "direct"
                    or len({candidates[k] for k in right}) == 1
                    and len(set(candidates)) <= 3
                )
                assert (
                    ask == "direct"
                    or task == "geometry"
                    or read_aloud(candidates[right[0]])
                    == [(label, *digits) for label, digits in gold]
                )
                assert (
                    name.endswith("basics")
                    or right == [r["meta"]["right_at"]]
                    and len(candidates) == len(set(candidates)) == 3
                )
                sizes[name, len(candidates)] += 1
    assert asks[f"{task}_reading", "read"] == asks[f"{task}_select", "select"] == 300 and near(
        comparisons, 300 + asks[f"{task}_basics", "read"], 1 / 4 if task == "table" else 0
    )
    for ask, share in (("read", 0.1), ("select", 0.45), ("direct", 0.1), ("reason", 0.35)):
        assert near(asks[f"{task}_basics", ask], 1500, share), asks
    assert {size for name, size in sizes if name.endswith("basics") and size} == {2, 3, 4, 5, 6}
    assert "select" not in {
        toy.make_record(f"{task}_{name}", "ood", i)["ask"]
        for i in range(60)
        for name in ("basics", "select")
    }


def test_the_tiny_tokenizer_knows_what_the_tasks_write(tiny):
    tokenizer = tiny[1].tokenizer
    for task in MIXED:
        for index in range(40):
            for split in drawing.SPLITS:
                r = toy.make_record(task, split, index)
                for text in (
                    r["question"],
                    r["answer"],
                    r["solution"],
                    *r["meta"].get("candidates", ()),
                ):
                    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                    assert tokenizer.decode(ids) == text
                    assert "think" not in text or split == "ood" or len(ids) < 64, (
                        f"{len(ids)} tokens: {text}"
                    )


@pytest.mark.parametrize("task", ["table", "geometry"])
def test_every_worked_solution_counts_as_reasoning(task):
    """selftrain.py omits what thinks in fewer than 20 characters: no set may be all shorter."""
    for index in range(300):
        assert pools.has_reasoning(toy.make_record(task, "train", index)["solution"]), (
            toy.make_record(task, "train", index)["solution"]
        )


# --- toy streams ---


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_toy_boxes_in_every_convention(box_format):
    """`ground` writes its solutions from 0 to 1000; in the other conventions they mean the same."""

    stream, standard = (
        tasks.read("ground", box_format=box_format, max_pixels=84 * 84),
        tasks.read("ground"),
    )
    for n in range(40):
        example, plain = stream[n], standard[n]
        assert example.meta["box_format"] == box_format and example.meta.get("resized") == (
            [84, 84] if box_format == "resized" else None
        )
        assert (example.answer, example.question, example.meta["boxes"]) == (
            plain.answer,
            plain.question,
            plain.meta["boxes"],
        )
        assert example.solution.split("<answer>")[0] == plain.solution.split("<answer>")[0]
        assert re.sub(r"\d+, \d+, \d+, \d+", "", example.solution) == re.sub(
            r"\d+, \d+, \d+, \d+", "", plain.solution
        )  # the label first in all three
        taught = toy.make_record("ground", "train", n)["solution"]
        assert plain.solution == taught  # the teacher's boxes stay as they are
        found, expected = (predicted_boxes(e.solution, e) for e in (example, plain))
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            assert (
                a["label"] == b["label"]
                and max(abs(x - y) for x, y in zip(a["bbox_2d"], b["bbox_2d"])) < 1.1
            )


def test_toy_task_by_name_and_split():
    for spec, split in (
        ("count", "train"),
        ("count:train", "train"),
        ("count:test", "test"),
        ("count:ood", "ood"),
    ):
        stream = tasks.read(spec, seed=3, level=2, teacher="gold")
        record = toy.make_example("count", split, 5, 3 if split == "train" else 0, 2, "gold")
        example = stream[5]
        assert (example.question, example.answer, example.solution, example.meta, example.task) == (
            record["question"],
            record["answer"],
            record["solution"],
            record["meta"],
            "count",
        )
        assert (
            example.images[0].tobytes() == record["image"].tobytes()
            and stream[5].images[0] is not example.images[0]
        )


def test_every_run_is_measured_on_the_same_questions():
    for split in ("test", "ood"):
        one, two = tasks.read(f"count:{split}", seed=1), tasks.read(f"count:{split}", seed=2)
        assert [(one[i].id, one[i].question, one[i].meta) for i in range(20)] == [
            (two[i].id, two[i].question, two[i].meta) for i in range(20)
        ]
    assert [tasks.read("count", seed=1)[i].meta for i in range(5)] != [
        tasks.read("count", seed=2)[i].meta for i in range(5)
    ]


# --- toy questions put in their own ways; responses begun ---


@pytest.mark.parametrize("task", ["table_basics", "geometry_basics"])
def test_a_mixed_toy_task_puts_each_question_in_its_own_way(task, tiny):
    """Put "read" as it stands, "direct" for the answer alone, "select" with three candidates.

    All whatever the template; "reason" as the template asks.
    """
    _, processor = tiny
    stream, seen = tasks.read(task, teacher="gold"), Counter()
    for index in range(60):
        example, record = stream[index], toy.make_record(task, "train", index, teacher="gold")
        ask, question = record["ask"], record["question"]
        expected = {
            "read": question,
            "direct": TEMPLATES["answer"].replace("{question}", question),
            "reason": TEMPLATES["r1v"].replace("{question}", question),
        }
        if ask == "select":
            shown = "".join(
                f"Model's prediction {k}:\n{text}\n"
                for k, text in enumerate(record["meta"]["candidates"], 1)
            )
            expected["select"] = (
                TEMPLATES["think"].replace("{question}", question)
                + f"\n{shown}Which prediction is correct? "
                "Give the final answer in <answer> </answer> tags."
            )
        assert question_text(example, "r1v") == expected[ask] and example.meta.get(
            "prompt_template"
        ) == {"read": "none", "direct": "answer", "select": "none"}.get(ask)
        assert (example.answer, example.choices, example.solution) == (
            record["answer"],
            record.get("choices"),
            record["solution"],
        )
        assert (
            Asker(processor, "r1v")
            .prompt(example)
            .text.endswith(f"<|vision_end|>{expected[ask]}<|im_end|>\n<|im_start|>assistant\n")
        )
        seen[ask] += 1
    assert set(seen) == {"read", "direct", "reason", "select"}
    plain = tasks.read(task.removesuffix("_basics"))[0]
    assert "prompt_template" not in plain.meta and question_text(plain, "think").startswith(
        plain.question
    )


@pytest.mark.parametrize("task", sorted(toy.TASKS))
@pytest.mark.parametrize("split", drawing.SPLITS)
def test_what_a_toy_task_calls_right_can_be_scored(task, split):
    """Every script checks this: `geometry_reading` once had choices without the answer."""
    data.check_golds(data.head(tasks.read(f"{task}:{split}"), 30), rewards.check_gold)


def test_asked_again_a_toy_question_no_longer_has_a_template_of_its_own():
    """Else "answer" would be wrapped around the candidates of a direct question."""
    stream = tasks.read("table_basics")
    example = next(
        e for e in (stream[i] for i in range(100)) if e.meta.get("prompt_template") == "answer"
    )
    before = copy.deepcopy(example.meta)
    again = with_question(example, "Which?")
    assert "prompt_template" not in again.meta and question_text(again, "none") == "Which?"
    assert {**again.meta, "prompt_template": "answer"} == before == example.meta


# --- the same scenes in words ---


def test_a_scene_in_words_says_what_the_picture_of_count_would_show():
    """And asks the same; what is told cannot be overlooked, whoever teaches."""
    for index in range(300):
        for teacher in TEACHERS:
            record = toy.make_record("count_words", index=index, teacher=teacher)
            words, _, question = record["question"].rpartition(". ")
            rows = re.findall(r"Row (\d): ([^.]*)", words)
            said = [
                (int(row) - 1, name)
                for row, names in rows
                for name in names.split(", ")
                if name != "none"
            ]
            drawn = [
                (row, f"{color} {shape}") for row, _, color, shape in record["meta"]["objects"]
            ]
            assert said == drawn and [row for row, _ in rows] == list("1234")
            assert int(record["answer"]) == gold(record | {"question": question})
            found, answer = told(record)
            assert [(row, name) for row, name, _ in found] == drawn and str(answer) == record[
                "answer"
            ]
    stream = tasks.read("count_words")
    assert stream[0].images == [] and "image" not in toy.make_example("count_words")


def test_a_caption_is_the_words_of_its_picture():
    for index in range(20):
        record = toy.make_example("count_captions", index=index)
        objects = record["meta"]["objects"]
        rows = [[f"{c} {s}" for r, _, c, s in objects if r == row] for row in range(4)]
        rows = [f"Row {n}: {', '.join(row) or 'none'}." for n, row in enumerate(rows, 1)]
        assert record["answer"] == " ".join(rows) and record["image"].size == (112, 112)
    examples = data.head(tasks.read("count_captions:test"), 12)
    texts = [example.solution for example in examples]
    assert rewards.summary(texts, examples)["accuracy"] == 1
    others = [text.replace("circle", "square") for text in texts]
    right = [text == other for text, other in zip(texts, others)]
    assert rewards.summary(others, examples)["accuracy"] == sum(right) / len(right) < 1


# --- recipes/practice_data.py ---


def test_three_questions_on_a_picture_have_right_answers(tmp_path):
    from recipes import practice_data

    words = f"--num-pictures 12 --level 3 --output-dir {tmp_path}".split()
    practice_data.main(practice_data.parse_args(words))
    rows = [json.loads(line) for line in (tmp_path / "shared.jsonl").read_text().splitlines()]
    asked = Counter(row["images"][0] for row in rows)
    assert len(asked) == 12 and set(asked.values()) == {3}
    assert len({(row["images"][0], row["question"]) for row in rows}) == 36
    for row in rows:
        index = int(re.search(r"\d+", row["images"][0])[0])
        record = toy.make_record("count", "train", index, 0, 3, "gold")
        wanted = re.search(r"How many (\w+) objects", row["question"])[1]
        number = sum(wanted in o for o in record["meta"]["objects"])
        assert row["answer"] == str(number) and ROWS.search(row["solution"])[5] == str(number)
