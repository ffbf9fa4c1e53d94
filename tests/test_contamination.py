"""Run: python -m pytest -q tests/test_contamination.py        (15 s on CPU; no network)

What training and evaluation share: pictures saved anew, but not others that look alike; questions;
and a training file without them.
"""

import json
import random

import numpy as np
import pytest
from commands import opened, read
from PIL import Image, ImageDraw

import tasks
from plumbing.errors import UserError
from recipes.planted_duplicates import CHANGES
from tasks import contamination, drawing, kept, likeness, wording
from tasks.example import Example

# --- pictures ---

SCENE = [(0, 1, "red", "circle"), (1, 3, "blue", "square"), (3, 0, "green", "triangle")]
NUMBERS = [(0, 0, "red", "square"), (0, 1, "number", "50"), (2, 2, "number", "8")]


def scene(objects=SCENE, seed=0):
    return drawing.draw_scene({"objects": objects}, random.Random(seed))


def with_object(objects, place, *changed):
    return [*objects[:place], changed, *objects[place + 1 :]]


def found(one, other):
    """Whether all steps together take two pictures for the same."""
    pairs = list(likeness.candidates([likeness.of(one)], [likeness.of(other)]))
    return bool(pairs) and likeness.difference(one, other) <= 1


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("objects", [SCENE, NUMBERS], ids=["scene", "numbers"])
def test_a_picture_saved_anew_is_found(change, objects):
    picture = scene(objects)
    for seed in range(2):
        assert found(picture, CHANGES[change](picture, random.Random(seed)))


OTHERS = {
    "an object less": SCENE[:2],
    "an object more": [*SCENE, (2, 2, "red", "circle")],
    "another shape": with_object(SCENE, 1, 1, 3, "blue", "circle"),
    "another color": with_object(SCENE, 1, 1, 3, "red", "square"),
    "another place": with_object(SCENE, 1, 1, 2, "blue", "square"),
}
OTHER_NUMBERS = {
    "50 is 60": with_object(NUMBERS, 1, 0, 1, "number", "60"),
    "8 is 6": with_object(NUMBERS, 2, 2, 2, "number", "6"),
    "8 is 9": with_object(NUMBERS, 2, 2, 2, "number", "9"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_scene_that_looks_alike_is_another(name):
    assert not found(scene(), scene(OTHERS[name]))


@pytest.mark.parametrize("color", drawing.COLORS)
def test_of_a_single_object_the_corners_tell_a_square_from_a_circle(color):
    """The least that may differ: limits a quarter looser would take them for one picture."""
    one, other = ([(3, 3, color, shape)] for shape in ("circle", "square"))
    assert not found(scene(one), scene(other))


@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_one_stroke_of_a_digit_is_enough(name):
    assert not found(scene(NUMBERS), scene(OTHER_NUMBERS[name]))


def test_a_picture_differs_from_itself_by_nothing_and_both_ways_alike():
    one, other = scene(), CHANGES["cropped by 2 % at every side"](scene(), None)
    assert likeness.difference(one, one) < 0.001
    assert likeness.difference(one, other) == likeness.difference(other, one)


def test_flat_pictures():
    """Nothing to align, and nothing to divide by: white is white, and grey is no black."""
    white, dark = (Image.new("RGB", (60, 40), color) for color in ("white", (20, 20, 20)))
    assert likeness.difference(white, white) < 0.001
    assert 1 < likeness.difference(white, dark) < np.inf
    assert not found(white, scene())


def test_the_search_goes_through_all_of_a_large_set():
    """Hashes of unrelated pictures differ in half their bits; parts meet at ROWS."""
    rng = np.random.default_rng(0)
    size = likeness.ROWS + 100
    thumbs = rng.integers(0, 255, (size, 12, 12, 3), dtype=np.uint8)
    bits = rng.integers(0, 2**63, (size, 4), dtype=np.uint64)
    prints = [likeness.Print(b, t, 1.0) for b, t in zip(bits, thumbs)]
    places = [0, likeness.ROWS - 1, likeness.ROWS, size - 1]
    flipped = [prints[place]._replace(bits=bits[place] ^ np.uint64(5)) for place in places]
    assert list(likeness.candidates(flipped, prints)) == list(enumerate(places))
    narrow = [printed._replace(aspect=1.2) for printed in flipped]
    assert list(likeness.candidates(narrow, prints)) == []
    assert list(likeness.candidates([], prints)) == list(likeness.candidates(prints[:1], [])) == []


# --- questions ---


@pytest.mark.parametrize(
    "one, other, overlap",
    [
        ("How many red balls are there?", "how many RED balls are there", 1),
        ("<image>\nHow many?", "How many?", 1),
        ("What is the age gap?", "What is the age gap? (Unit: years)", 1),
        ("How many red balls are there?", "How many blue cubes are there?", 0),
        ("What is the height of the tower?", "What is the height of the tree?", 0.8),
        ("Why?", "Who?", 0),
        ("图中有多少个红球？", "图中有多少个红球，请回答。", 1),  # no blanks between words
        ("图中有多少个红球？", "图中哪个球最大？", 0),
        ("", "", 1),
        ("", "Why?", 0),
    ],
)
def test_overlap(one, other, overlap):
    words = wording.words_of(one), wording.words_of(other)
    assert wording.overlap(*words) == wording.overlap(*words[::-1]) == pytest.approx(overlap)


def test_a_question_is_known_whole_or_by_thirteen_words():
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    asked = wording.Asked(map(wording.words_of, [long, "How many?"]))
    assert wording.words_of("how many") in asked
    assert wording.words_of("how many balls") not in asked
    assert wording.words_of("so: " + long.removesuffix(" fourteen")) in asked
    assert wording.words_of(long.removeprefix("one two ")) not in asked  # twelve of its words


def test_one_picture_in_all_records_of_both_sets():
    """Not a pair for each record of the one with each of the other."""
    sets = contamination.Contents(), contamination.Contents()
    shown = likeness.of(scene())
    for number in range(60):
        for contents in sets:
            example = Example(str(number), [b"p"], f"Question {number}?", "1", source=str(number))
            contents.add(example, [("key", shown)])
    match = contamination.Match(0, 0, 0.0)
    pairs = list(contamination.shared_records(*sets, [match]))
    assert len(pairs) == 60 * contamination.ALIKE
    best = [pair for pair in pairs if pair.eval == pair.train]
    assert len(best) == 60 and all(pair.overlap == 1 for pair in best)
    figures = contamination.rates(*sets, [match], pairs)
    assert figures["picture"] == figures["picture_question"] == 1
    assert figures["train_with_picture"] == 60 == len(contamination.excluded(*sets, [match]))


# --- the script ---


def pictures_in(folder, **pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / name.replace("_", "."))


def lines_in(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def question(image, text, id=None):
    return {"id": id or image, "image": image, "question": text, "answer": "3"}


def compared(tmp_path, *words):
    out = ["--output-dir", str(tmp_path / "out")]
    contamination.main(contamination.parse_args([*map(str, words), *out]))
    return read(tmp_path / "out" / "result.json")


def refused(tmp_path, *words):
    with pytest.raises(UserError) as error:
        compared(tmp_path, *words)
    return str(error.value)


@pytest.fixture
def two_sets(tmp_path):
    """TRAIN of four records; EVAL of four, one saved anew, one equal file, and two others."""
    train, evaluated = tmp_path / "train", tmp_path / "eval"
    numbers = scene(NUMBERS)
    pictures_in(train, a_png=scene(), b_png=numbers, c_png=scene(OTHERS["another shape"]))
    pictures_in(
        evaluated,
        a_jpg=CHANGES["recoloured by up to 10 %"](scene(), random.Random(0)),
        b_png=numbers,
        d_png=scene(OTHERS["another color"]),
    )
    return (
        lines_in(
            train / "train.jsonl",
            question("a.png", "How many balls are red?"),
            question("b.png", "What is the number in the first row?"),
            question("c.png", "How many balls are there?"),
            {"id": "text", "question": "What is two and two?", "answer": "4"},
        ),
        lines_in(
            evaluated / "eval.jsonl",
            question("a.jpg", "How many balls are red? (Answer by a number.)"),
            question("b.png", "Which sign stands above the others?"),
            question("d.png", "How many balls are there?"),
            {"id": "text", "question": "What is two and two?", "answer": "4"},
        ),
    )


def test_the_three_rates(tmp_path, two_sets, capsys):
    result = compared(tmp_path, *two_sets)
    assert (result["picture"], result["picture_question"]) == (0.5, 0.25)
    assert result["question"] == 0.5  # the third, of another picture; and the one without
    assert (result["n"], result["eval_pictures"], result["train_n"]) == (4, 3, 4)
    assert result["train_with_picture"] == 2
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").open()]
    told = [(pair["eval"]["id"], pair["train"]["id"]) for pair in pairs]
    assert told == [("a.jpg", "a.png"), ("b.png", "b.png")]
    assert pairs[0]["overlap"] == 1 and 0 < pairs[0]["difference"] <= 1
    assert pairs[1]["overlap"] < 0.8 and pairs[1]["difference"] == 0
    assert pairs[0]["train"]["source"].endswith("train.jsonl:1")
    assert opened(tmp_path / "out" / "pairs.png") > 100
    assert "50.00%" in capsys.readouterr().out


def test_a_clean_training_file(tmp_path, two_sets):
    """Without the two pictures of EVAL, and without the question that is text only in both."""
    train, evaluated = two_sets
    clean = tmp_path / "train" / "clean.jsonl"
    result = compared(tmp_path, train, evaluated, "--exclude", clean)
    assert [example.id for example in tasks.read(str(clean))] == ["c.png"]
    assert json.loads(clean.read_text()) == question("c.png", "How many balls are there?")
    assert result["kept"] == 1
    assert compared(tmp_path, clean, evaluated)["picture"] == 0
    assert not (tmp_path / "out" / "pairs.png").exists()  # yesterday's would be wrong


def test_where_a_clean_file_cannot_stand(tmp_path, two_sets, capsys):
    sentence = refused(tmp_path, *two_sets, "--exclude", tmp_path / "clean.jsonl")
    assert "is not found from there; write the file beside TRAIN's" in sentence
    assert not (tmp_path / "clean.jsonl").exists()
    before = open(two_sets[0]).read()
    assert "is TRAIN itself" in refused(tmp_path, *two_sets, "--exclude", two_sets[0])
    assert open(two_sets[0]).read() == before
    for words, sentence in (
        (["count", two_sets[1], "--exclude", "x.jsonl"], "TRAIN is drawn anew each time"),
        ([*two_sets, "--exclude", "x.json"], "FILE must end in .jsonl"),
        ([*two_sets, "--exclude", "x.jsonl", "--max-samples", "2"], "omit --max-samples"),
    ):
        with pytest.raises(SystemExit):
            contamination.parse_args(words)
        assert sentence in capsys.readouterr().err


def test_embedded_pictures_of_parquet(tmp_path, two_sets):
    """They are read, and written into the clean file as data URLs, which stands anywhere."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "train"
    rows = [
        {"image": {"bytes": (folder / name).read_bytes(), "path": None}, "question": "How many?"}
        for name in ("a.png", "c.png")
    ]
    for row in rows:
        row["answer"] = "3"
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    clean = tmp_path / "elsewhere.jsonl"
    result = compared(tmp_path, tmp_path / "train.parquet", two_sets[1], "--exclude", clean)
    assert result["picture"] == 0.25
    [left] = tasks.read(str(clean))
    assert likeness.difference(kept.small_picture(left.images[0], ""), scene()) > 1


def test_preference_pairs_can_be_trained_on_too(tmp_path, two_sets):
    pair = {"image": "a.png", "question": "How many?", "chosen": "3", "rejected": "4"}
    train = lines_in(tmp_path / "train" / "pairs.jsonl", pair)
    assert compared(tmp_path, train, two_sets[1])["picture"] == 0.25


def test_fine_lines_saved_in_another_format(tmp_path):
    """A JPEG that is decoded at a quarter of its size is sharper than the same picture in a PNG."""
    page = Image.new("RGB", (1830, 2241), "white")
    draw = ImageDraw.Draw(page)
    for x in range(100, 1730, 200):
        draw.line((x, 100, x, 2141), fill="black", width=8)
    for y in range(100, 2141, 600):
        draw.line((100, y, 1730, y), fill="black", width=8)
    pictures_in(tmp_path, a_jpg=page, a_png=page)
    sets = [
        lines_in(tmp_path / f"{kind}.jsonl", question(f"a.{kind}", "What does it say?"))
        for kind in ("jpg", "png")
    ]
    assert compared(tmp_path, *sets)["picture"] == 1


def test_toy_tasks_are_drawn(tmp_path):
    result = compared(tmp_path, "count", "count:test", "--max-samples", "12")
    assert (result["picture"], result["n"], result["train_n"]) == (0, 12, 12)
    assert compared(tmp_path, "count:test", "count:test", "--max-samples", "12")["picture"] == 1


def test_a_damaged_picture_is_refused_or_left_out(tmp_path, two_sets):
    train, evaluated = two_sets
    (tmp_path / "train" / "c.png").write_bytes(b"no picture")
    assert "c.png cannot be opened" in refused(tmp_path, train, evaluated)
    clean = tmp_path / "train" / "clean.jsonl"
    words = [train, evaluated, "--skip-bad-records", "--exclude", str(clean)]
    result = compared(tmp_path, *words)
    assert (result["train_n"], result["kept"]) == (3, 0)
    assert "no such" in refused(tmp_path, "nowhere.jsonl", evaluated)


def test_records_share_pictures(tmp_path):
    """Two questions about one picture on either side are four pairs, of one match."""
    pictures_in(tmp_path / "a", a_png=scene())
    texts = ["How many balls?", "Which color has the square?"]
    asked = lines_in(tmp_path / "a" / "a.jsonl", *(question("a.png", text, text) for text in texts))
    result = compared(tmp_path, asked, asked)
    assert (result["picture"], result["picture_question"], result["eval_pictures"]) == (1, 1, 1)
    pairs = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").open()]
    assert sorted(pair["overlap"] for pair in pairs) == [0, 0, 1, 1]
