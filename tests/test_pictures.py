"""Run: python -m pytest -q tests/test_pictures.py        (a few seconds; no network)

Which pictures a record has and where they stand: the same or another, under known and unknown keys,
and every published spelling of a place.
"""

import base64

import pytest
from samples import one, png, refusal, reply, turns, user, write

import tasks
from tasks import marks, pairs

RED, BLUE = png(), png(color="blue")
R, B = {"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}
ASKED = {"question": "q", "answer": "a"}


@pytest.fixture
def set_(tmp_path):
    """A folder with pictures, of which two have the same name."""
    for name in ("a.png", "b.png", "left/1.png", "right/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(RED)
    return tmp_path


def suffix_of(record):
    return "x.parquet" if b"PNG" in repr(record).encode() else "x.jsonl"


def names(folder, got):
    found = []
    for picture in got.images:
        is_path = not isinstance(picture, bytes)
        found.append(str(picture.relative_to(folder)) if is_path else picture)
    return found


# --- which pictures ---

READ = [  # what a record has besides, its pictures
    ({"image": "left/1.png", "image_path": "/x/left/1.png"}, ["left/1.png"]),
    ({"image": "left/1.png", "image_path": "1.png"}, ["left/1.png"]),
    ({"image": "left/1.png", "image_path": "./left/1.jpg"}, ["left/1.png"]),
    (
        {"images": ["left/1.png", "right/1.png"], "image": "right/1.png"},
        ["left/1.png", "right/1.png"],
    ),
    ({"image_1": R, "image_2": B, "image_3": None, "image_4": None}, [RED, BLUE]),
    ({"image_2": "b.png", "image_1": "a.png"}, ["a.png", "b.png"]),
    ({"img1": "a.png", "img2": "b.png"}, ["a.png", "b.png"]),
    ({"image_list": [R, B]}, [RED, BLUE]),
    ({"image": {"<image_0>": "b.png", "<image_1>": "a.png"}}, ["b.png", "a.png"]),  # MiniCPM-V
    ({"images": [{"image": "a.png"}]}, ["a.png"]),  # verl
    ({"image": R, "image_thumbnail": B, "ocr_tokens": ["b.jpg"]}, [RED]),  # TextVQA
    ({"images": [R], "image": R}, [RED]),
    ({"image": {**R, "path": "image.png"}, "image_path": "data/7.jpg"}, [RED]),  # RLAIF-V
    ({"image": {**R, "path": "image.png"}, "img_path": "data/7.jpg"}, [RED]),
    ({"image_bytes": [R], "image_name": "x/7.png"}, [RED]),
    ({"file_name": "a.png"}, ["a.png"]),
    ({"image_url": "a.png"}, ["a.png"]),
    ({"image_urls": ["a.png", "b.png"]}, ["a.png", "b.png"]),
    ({"image_url": {"url": "a.png"}}, ["a.png"]),
    ({"visual": "a.png", "image_id": 5}, ["a.png"]),
    ({"img_name": "a.png"}, ["a.png"]),
    ({"image_url": "http://x/7.png", "file_name": "a.png"}, ["a.png"]),
    ({"image": "['a.png', 'b.png']"}, ["a.png", "b.png"]),
    ({"image_path": '["a.png", "b.png"]'}, ["a.png", "b.png"]),
    # what is told about a picture
    ({"image": "a.png", "original_image": "c.png", "image_source": "coco/1.jpg"}, ["a.png"]),
    ({"image": "a.png", "mask": "m.png", "masks": ["m.png"], "segmentation": "s.png"}, ["a.png"]),
    ({"image": "a.png", "meta": {"image": "c.png"}, "sample_id": "c.jpg"}, ["a.png"]),
    ({"image": "a.png", "filename": "c.png", "file_name": "c.png"}, ["a.png"]),
    ({"image": "a.png", "url": "http://x/c.png", "solution_image": "c.png"}, ["a.png"]),
    ({"image": "a.png", "note": "This is the one that the user has saved as c.png"}, ["a.png"]),
    ({"image": "a.png", "again": ["a.png"], "meta_info": {"image_path": "c.png"}}, ["a.png"]),
    ({"image": R, "image_path": "images/c.png", "file": "c.png"}, [RED]),
    ({"image": R, "audio": {"bytes": b"RIFF....WAVE", "path": "c.wav"}}, [RED]),
]


@pytest.mark.parametrize("more, pictures", READ)
def test_these_pictures_are_read(more, pictures, set_):
    got = one(set_, {**ASKED, **more}, suffix_of(more))
    assert names(set_, got) == pictures


REFUSED = [  # what a record has besides, what is said
    ({"image": "left/1.png", "image_2": "right/1.png"}, "`image_2` seems to hold one more"),
    ({"image": "left/1.png", "right_image": "right/1.png"}, "`right_image` seems to hold one more"),
    ({"image": "left/1.png", "image_after": "right/1.png"}, "`image_after` seems to hold one more"),
    ({"image": "left/1.png", "img": "right/1.png"}, "`img` seems to hold one more"),
    ({"images": ["left/1.png"], "image_path": "right/1.png"}, "name different pictures"),
    ({"images": ["a.png", "b.png"], "image": ["b.png", "a.png"]}, "name different pictures"),
    ({"image": "a.png", "depth": "a.jpg"}, "`depth` seems to hold one more"),
    ({"image": "a.png", "image_b": "b"}, "`image_b` seems to hold one more"),
    ({"image": "a.png", "target_image": "b.png"}, "`target_image` seems to hold one more"),
    ({"image": "a.png", "option_image_A": "b.png"}, "`option_image_A` seems to hold one more"),
    ({"image": "a.png", "choice_images": ["b.png"]}, "`choice_images` seems to hold one more"),
    ({"image": "a.png", "crops": "['b.png', 'c.png']"}, "`crops` seems to hold one more"),
    ({"image": "a.png", "objects": [{"crop": "c.png"}]}, "`objects` seems to hold one more"),
    ({"image": "a.png", "infographic": "b.png"}, "`infographic` seems to hold one more"),
    ({"image": "a.png", "masked_image": "b.png"}, "`masked_image` seems to hold one more"),
    ({"image": "a.png", "image_2": "http://x/b.png"}, "`image_2` seems to hold one more"),
    ({"images": [R], "image": B}, "name different pictures"),
    ({"image": R, "crops": [B]}, "`crops` seems to hold one more"),
    ({"image": {**R, "path": "a.png"}, "img": "b.png"}, "`img` seems to hold one more"),
    ({"image": R, "support": B}, "`support` seems to hold one more"),
    ({"image": R, "image_2": R}, "`image_2` seems to hold one more"),
    ({"image": "a.png", "reference": "b.png"}, "`reference` seems to hold one more"),
    ({"image": "a.png", "x": "/9j/" + "A" * 60}, "`x` seems to hold one more"),
    ({"image_0": "a.png", "image_1": "b.png"}, "`image_0` seems to hold a picture"),
    ({"image_1": R, "image_2": None, "image_3": B}, "number 2 is none; list all of them"),
    ({"img": "a.png", "picture": "b.png"}, "`picture` seems to hold one more"),
    ({"images": [], "img": "a.png"}, "`img` seems to hold a picture"),
    ({"image_urls": ["http://x/a.png"]}, "is a web address"),
    ({"image_name": "000001"}, "`image_name` seems to hold a picture"),
    ({"visual": "000001"}, "`visual` seems to hold a picture"),
    ({"crops": ["a.png"]}, "`crops` seems to hold a picture"),
    ({"image_id": 458752}, "`image_id` is 458752, and no picture is read; write the name of its"),
    ({"pic_id": "7"}, "`pic_id` is 7, and no picture is read"),
]


@pytest.mark.parametrize("more, says", REFUSED)
def test_these_are_refused(more, says, set_):
    text = refusal(one, set_, {**ASKED, **more}, suffix_of(more), within=5)
    assert says in text and ":1: " in text, text


def test_pictures_of_turns_are_compared_by_their_paths(set_):
    part = [{"type": "image", "image": "right/1.png"}, {"type": "text", "text": "q"}]
    chat = {"messages": [user(part), reply("3")]}
    assert names(set_, one(set_, {"images": ["right/1.png"], **chat})) == ["right/1.png"]
    assert "other pictures" in refusal(one, set_, {"images": ["left/1.png"], **chat})
    beside = turns("q", "3")
    beside["conversations"][0]["image"] = "b.png"
    assert "`image` seems to hold one more" in refusal(one, set_, {"image": "a.png", **beside})


def test_a_row_may_name_the_row_that_has_its_picture(tmp_path):
    """So VLMEvalKit saves a picture once. A list of several is a text there."""
    first, second = (base64.b64encode(picture).decode() for picture in (RED, BLUE))
    rows = ["index\tquestion\tA\tB\tanswer\timage\timage_path"]
    rows.append(f"7\tq\tred\tblue\tA\t{first}\t")
    rows.append("8\tq\tred\tblue\tB\t7\t")
    rows.append(f"9\tq\tred\tblue\tB\t['{first}', '{second}']\t['x.jpg', 'y.jpg']")
    path = tmp_path / "x.tsv"
    path.write_text("\n".join(rows))
    assert [got.images for got in tasks.read(path)] == [[RED], [RED], [RED, BLUE]]
    path.write_text("\n".join([rows[0], "8\tq\tred\tblue\tB\t7\t"]))
    assert f"{path}:2: image" in refusal(tasks.read, path)


# --- their places ---

PLACES = [  # a text, its pictures, what is asked, the order of the pictures
    ("Is <|image_1|> or <|image_2|> red?", "ab", "Is <image> or <image> red?", "ab"),
    ("Is <image_2> or <image_1> red?", "ab", "Is <image> or <image> red?", "ba"),
    ("<image0> or <image1>?", "ab", "<image> or <image>?", "ab"),
    ("In <img1>, is <image 1> red?", "a", "In <image>, is image 1 red?", "a"),
    ("<image>\n<image>\nIs <image 1> red?", "ab", "Is image 1 red?", "ab"),
    ("A <ImageHere> b", "a", "A <image> b", "a"),
    ("A <IMAGE> b", "a", "A <image> b", "a"),
    ("A <Img><ImageHere></Img> b", "a", "A <image> b", "a"),
    ("A <img></img> b", "a", "A <image> b", "a"),
    ("A <image_placeholder> b", "a", "A <image> b", "a"),
    ("A <|image|> b", "a", "A <image> b", "a"),
    ("A [IMG] b", "a", "A <image> b", "a"),
    ("A <start_of_image> b", "a", "A <image> b", "a"),
    ("A <|vision_start|><|image_pad|><|vision_end|> b", "a", "A <image> b", "a"),
    ("Picture 1: <img>a</img>\nq", "", "Picture 1: <image>\nq", "a"),
    ("Picture 1: <img>a</img>\nPicture 2: <img>b</img>\nq", "ab",
     "Picture 1: <image>\nPicture 2: <image>\nq", "ab"),
    ("(<image>./</image>)\nq", "a", "q", "a"),
    ("A <image></image> b", "a", "A <image> b", "a"),
    ("A <image #1>, <image:2>", "ab", "A <image>, <image>", "ab"),
    ("A <fim_prefix> b", "a", "A <fim_prefix> b", "a"),
    (r"A $\text{image}$ b", "a", r"A $\text{image}$ b", "a"),
    ("A <images> b, <imageless>", "a", "A <images> b, <imageless>", "a"),
    ("A <p> <b>bold</b> x < img", "a", "A <p> <b>bold</b> x < img", "a"),
]  # fmt: skip


@pytest.mark.parametrize("text, pictures, asked, order", PLACES)
def test_published_spellings_of_a_place(text, pictures, asked, order):
    got = marks.placed([], text, list(pictures), "x:1")
    assert got == ([], asked, list(order))
    assert marks.placed([], asked, list(order), "x:1") == got  # once


def test_tags_are_words_where_all_pictures_have_a_place():
    text = "What is an <img> tag, or {image}?"
    assert marks.placed([], f"<image>\n{text}", ["a"], "x:1") == ([], text, ["a"])


NO_PLACES = [  # a text, its pictures, what is said
    ("A <im> b", "a", "the text has <im>, which may be the place of a picture; write <image>"),
    ("A {image} b", "a", "the text has {image}, which may be"),
    ("A {image_1} b {image#2}", "ab", "the text has {image_1}, but 2 images"),
    ("<image>\nAn <img> and <image 2>", "a", "the text has <image 2>, but 1 images"),
    ("A <picture> b", "a", "the text has <picture>, which may be"),
    ("A <img> b", "a", "the text has <img>, which may be"),
    ("A <image 3> b", "ab", "the text has <image 3>, but 2 images are read"),
    ("A <|image_3|> b", "ab", "the text has <|image_3|>, but 2 images"),
    ("<image0>, <image1> or <image2>", "ab", "the text has <image2>, but 2 images"),
    ("A <ImageHere> b", "ab", "1 <image> in the question, but 2 images"),
    ("A <ImageHere> b", "", "the text has <ImageHere>, but 0 images"),
    ("A <image> <image 1>", "ab", "1 <image> in the question, but 2 images"),
    ("A <video> b", "a", "the text has <video>, but 1 images"),
    ("A <img>b</img> c", "a", "the text has <img>b</img>, but the record names other pictures"),
    ("A ![](b.png)", "", "the text has ![](b.png), but 0 images"),
]


@pytest.mark.parametrize("text, pictures, says", NO_PLACES)
def test_what_is_no_place_is_refused(text, pictures, says):
    assert says in refusal(marks.placed, [], text, list(pictures), "x:1")


def test_places_in_several_turns_are_in_order_together(set_):
    chat = turns("Is <image_2> red?", "No.")["conversations"]
    chat += turns("And <image_1>, beside <image_2>?", "yes")["conversations"]
    got = one(set_, {"images": ["a.png", "b.png"], "conversations": chat})
    assert names(set_, got) == ["b.png", "a.png"]
    assert got.history[0].text == "Is <image> red?"
    assert got.question == "And <image>, beside image 2?"


QWEN = turns("Picture 1: <img>a.png</img>\nWhat is it?", "A dog.", ("user", "assistant"))
QWEN["conversations"] += turns("And <img>b.png</img>?", "yes")["conversations"]


def test_the_tags_of_qwen_vl_are_the_places_of_their_pictures(set_):
    got = one(set_, QWEN)
    assert names(set_, got) == ["a.png", "b.png"] and got.question == "And <image>?"
    assert got.history[0].text == "Picture 1: <image>\nWhat is it?"
    named = one(set_, {"images": ["a.png", "b.png"], **QWEN})
    assert (named.images, named.question) == (got.images, got.question)
    text = refusal(one, set_, {"images": ["b.png", "a.png"], **QWEN})
    assert "the turns hold other pictures than the record names" in text


def test_pairs_have_the_same_places_and_keys(set_):
    replies = {"chosen": "yes", "rejected": "no"}
    for record in (
        {"image_1": "a.png", "image_2": "b.png", "question": "Is <|image_2|> or <|image_1|> red?"},
        {"prompt": "Is <img>b.png</img> or <img>a.png</img> red?"},
    ):
        [pair] = pairs.read_pairs(write(set_, [{**record, **replies}]))
        assert names(set_, pair.example) == ["b.png", "a.png"]
        assert pair.example.question == "Is <image> or <image> red?"
