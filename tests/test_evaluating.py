"""Run: python -m pytest -q tests/test_evaluating.py    (15 s on one core of a CPU; no network)

The same questions in other ways: policies with a planted fault are caught by evaluate.py as a user
types it; and what each way asks.
"""

import json
import random

import pytest
import torch
from commands import read, refusal, train
from PIL import Image

import batching
import data
import evaluate
import logps
import rollout
import tasks
from evaluating import figures, likelihood, partners, scoring, ways
from grading.answers import extract_answer
from plumbing import report_answers
from plumbing.errors import UserError
from plumbing.records import read_lines
from tasks import changed, images, option_orders, picture_keys, prompts
from tasks.example import Example, Turn

COLORS = ("red", "green", "blue", "yellow")
ASK = "--eval-batch-size 16 --max-completion-length 8"


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """40 questions about the colour of a picture; of three in four the words give it away."""
    folder = tmp_path_factory.mktemp("colors")
    lines = []
    for n in range(40):
        color = COLORS[n % 4]
        Image.new("RGB", (56, 56 + n), color).save(folder / f"{n}.png")
        hint = "ripe tomato grassy leaf deep sea sunny lemon".split()[2 * (n % 4)]
        thing = "thing" if n % 16 < 4 else f"{hint} thing"
        first = n % 10 < 7  # the right option is the first one
        options = [color, *(c for c in COLORS if c != color)]
        if not first:
            options = options[1:] + options[:1]
        lines.append(
            {
                "image": f"{n}.png",
                "question": f"What color is the {thing}?",
                "choices": options,
                "answer": color,
            }
        )
    path = folder / "colors.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answered_by(patch, policy):
    """Let policy(example) answer in place of the model."""

    def answer_all(model, asker, examples, sampling, G=1, **options):
        texts = [policy(example) for example in examples for _ in range(G)]
        return texts, [7] * len(texts), None

    patch.setattr(rollout, "answer_all", answer_all)


def tagged(answer):
    return f"<think> x </think><answer> {answer} </answer>"


def never_looks(example):
    """The shortcut: what the words give away, else a guess."""
    hints = dict(zip(("ripe", "grassy", "deep", "sunny"), COLORS))
    known = [color for hint, color in hints.items() if hint in example.question]
    return tagged(known[0] if known else "red")


def looks(example):
    if not example.images:
        return tagged("red")
    pixel = images.open_image(example.images[0], "").resize((1, 1)).getpixel((0, 0))
    nearest = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
    nearest["yellow"] = (255, 255, 0)
    return tagged(min(nearest, key=lambda c: sum(abs(a - b) for a, b in zip(nearest[c], pixel))))


def always_a(example):
    return tagged("A")


def evaluated(base, path, out, more):
    train(evaluate, f"--model {base} --data {path} {ASK} {more} --output-dir {out}")
    return read(out / "result.json")


# --- planted policies, through the script ---


def test_a_policy_that_never_looks_is_caught_blind(
    base, colors, tmp_path, no_pictures, monkeypatch, capsys
):
    answered_by(monkeypatch, never_looks)
    result = evaluated(base, colors, tmp_path / "blind", "--blind --swap")
    assert result["accuracy"] == 31 / 40  # scores high on the shortcut
    for way in ("blind", "swap"):
        assert result[f"{way}/accuracy"] == result["accuracy"]
        assert result[f"{way}/difference_low"] == result[f"{way}/difference_high"] == 0
        assert result[f"{way}/same_answer"] == 1
    assert result["commonest_gold"] == 1 / 4
    printed = capsys.readouterr().out
    assert "without any picture" in printed and "with another's picture" in printed

    answered_by(monkeypatch, looks)  # and one that looks is not
    result = evaluated(base, colors, tmp_path / "looks", "--blind --swap")
    assert result["accuracy"] == 1 and result["blind/accuracy"] == 1 / 4
    assert result["blind/difference_low"] > 0.5
    assert result["swap/accuracy"] == 0 == result["swap/same_answer"]


def test_a_bias_for_a_letter_is_caught_by_other_orders(
    base, colors, tmp_path, no_pictures, monkeypatch
):
    answered_by(monkeypatch, always_a)
    result = evaluated(base, colors, tmp_path / "a", "--shuffle-choices 3")
    assert result["accuracy"] == 0.7 and result["letter A/chosen"] == 1
    # Each option stands at A once in four orders: of the three others, for golds not at A.
    assert result["shuffled/accuracy"] == pytest.approx(0.3 / 3)
    assert result["shuffled/every_order"] == 0 and result["shuffled/flips"] == 1
    assert result["letter A/accuracy"] == 1 and result["letter B/accuracy"] == 0
    assert [result[f"letter {x}/right"] for x in "ABCD"] == [1 / 4] * 4
    # A letter that is never right is named, too, if it is chosen.
    never_right = figures.by_letter([figures.Answer([0, 1], 0, 1, 0.0)])
    assert never_right["letter B/chosen"] == 1 and "letter B/accuracy" not in never_right

    answered_by(monkeypatch, looks)
    result = evaluated(base, colors, tmp_path / "looks", "--shuffle-choices 3")
    assert result["shuffled/accuracy"] == result["shuffled/every_order"] == 1
    assert result["shuffled/flips"] == 0 == result["shuffled/difference"]


def test_direct_beside_reasoning(base, colors, tmp_path, no_pictures, monkeypatch):
    """Right by thinking alone; a bare answer counts where the template asks for one."""

    def thinks(example):
        name = example.meta["prompt_template"]
        return looks(example) if name == "think" else "Red."

    answered_by(monkeypatch, thinks)
    result = evaluated(base, colors, tmp_path / "one", "--templates direct think")
    assert (result["accuracy"], result["template think/accuracy"]) == (1 / 4, 1)
    assert result["parse_failures"] == 0 and result["template think/difference"] == -3 / 4
    other = evaluated(base, colors, tmp_path / "two", "--templates think direct")
    assert other["accuracy"] == 1 and other["template direct/accuracy"] == 1 / 4
    assert other["template direct/unreadable"] == 0


def test_small_changes_that_change_the_answer(base, colors, tmp_path, no_pictures, monkeypatch):
    """A policy that reads sizes, not pictures, is consistent under a shift and not when resized."""

    def measures(example):
        width, height = images.open_image(example.images[0], "").size
        return tagged(f"{height - width}" if "Question:" not in example.question else "none")

    answered_by(monkeypatch, measures)
    result = evaluated(base, colors, tmp_path / "out", "--consistency")
    stays = {name: result[f"{name}/same_answer"] for name in ("wording", *changed.CHANGES)}
    assert stays["shift"] == stays["jpeg"] == 1 and stays["wording"] == 0
    assert stays["resize"] < 0.5


def test_an_evaluation_in_other_ways_goes_on(base, colors, tmp_path, no_pictures, capsys):
    """The real model, cut: the same bytes; other ways are another evaluation."""
    line = f"--model {base} --data {colors} --max-eval-samples 5 --eval-batch-size 2 "
    line += "--max-completion-length 6 --blind --swap --shuffle-choices 1 --shots 1 --consistency "
    line += f"--choices-by likelihood --templates direct r1v --output-dir {tmp_path}"
    train(evaluate, line)
    whole = (tmp_path / "predictions.jsonl").read_bytes()
    result = read(tmp_path / "result.json")
    (tmp_path / "predictions.jsonl").write_bytes(whole[: len(whole) * 2 // 3])
    line += " --resume-from-checkpoint"
    train(evaluate, line)
    assert (tmp_path / "predictions.jsonl").read_bytes() == whole
    assert read(tmp_path / "result.json") == result
    row = read_lines(tmp_path / "predictions.jsonl")[0]
    names = ["template r1v", "blind", "swap", "wording", "resize", "shift", "jpeg", "order 1"]
    assert list(row["ways"]) == names and len(row["shots"]) == 1
    assert row["ways"]["blind"]["prompt_tokens"] < row["prompt_tokens"]
    assert set(row["likelihood"]) == {"letter", "text"}
    assert "likelihood by text/accuracy" in result and row["ways"]["order 1"]["order"][0] == 1
    for flag in ("--blind ", "--swap ", "--consistency ", "--choices-by likelihood "):
        assert "another evaluation" in refusal(evaluate, line.replace(flag, "").split(), capsys)
    other = line.replace("--shots 1", "--shots 2")
    assert "another evaluation" in refusal(evaluate, other.split(), capsys)


REFUSED = [
    ("--templates r1v direct --prompt-template think", "--prompt-template both say"),
    ("--templates r1v r1v", "names one twice"),
    ("--templates r1v nonsense", "nonsense is unknown"),
    ("--shots 40", "there are 3"),
    ("--shots 3 --max-completion-length 3800", "with --shots 3: "),
]


@pytest.mark.parametrize("more, says", REFUSED)
def test_what_cannot_be_asked_is_refused_first(base, colors, tmp_path, capsys, more, says):
    out = tmp_path / "out"
    line = f"--model {base} --data {colors} --max-eval-samples 4 --output-dir {out} {more}"
    assert says in refusal(evaluate, line.split(), capsys)
    assert not (out / "predictions.jsonl").exists()


@pytest.mark.parametrize(
    "more", ["--blind", "--swap", "--shuffle-choices 2", "--choices-by likelihood"]
)
def test_a_way_that_fits_no_question_is_refused(base, tmp_path, capsys, more):
    line = f"--model {base} --data count_words:test --output-dir {tmp_path} --max-eval-samples 9 "
    line += more
    assert more.split()[0] in refusal(evaluate, line.split(), capsys)


def test_saved_outputs_are_not_asked_again(tmp_path, capsys):
    line = f"--predictions x --protocol geoqa --output-dir {tmp_path} --blind"
    assert "omit --blind" in refusal(evaluate, line.split(), capsys)


# --- options in other orders ---

REORDERED = [  # question, choices, gold, question in the order 1 2 0, gold
    ("Which?\nOptions:\nA. red\nB. blue\nC. tan", "red blue tan", "B",
     "Which?\nOptions:\nA. blue\nB. tan\nC. red", "A"),
    ("Which?\n(A) red\n(B) blue\n(C) tan", "red blue tan", "(A)",
     "Which?\n(A) blue\n(B) tan\n(C) red", "(C)"),
    ("Is it red, blue or tan?", "red blue tan", "tan", "Is it blue, tan or red?", "tan"),
    ("A red, blue, tan box. Choose: red, blue, tan", "red blue tan", "red",
     "A red, blue, tan box. Choose: blue, tan, red", "red"),
    ("Which? (A) -1 (B) 1 (C) 10", "-1 1 10", "-1", "Which? (A) 1 (B) 10 (C) -1", "-1"),
    ("Which? A: 4 cm, B: 4 m, C: 40 m", "4~cm 4~m 40~m", "C",
     "Which? A: 4 m, B: 40 m, C: 4 cm", "B"),
]  # fmt: skip


@pytest.mark.parametrize("question, choices, gold, turned, new_gold", REORDERED)
def test_options_are_reordered_where_they_stand(question, choices, gold, turned, new_gold):
    options = [choice.replace("~", " ") for choice in choices.split()]
    example = Example("1", [], question, gold, choices=options, solution="x")
    found = option_orders.reordered(example, [1, 2, 0])
    assert (found.question, found.answer) == (turned, new_gold)
    assert found.choices == options[1:] + options[:1] and found.solution is None
    back = option_orders.reordered(found, [2, 0, 1])
    assert (back.question, back.answer, back.choices) == (question, gold, options)


NOT_REORDERED = [  # question, choices, gold
    ("Is it red? Or would you say blue?", ["red", "blue"], "red"),  # words between
    ("Which? A. red B. Both A and C C. blue", ["red", "Both A and C", "blue"], "A"),
    ("Which? A. red B. Neither A nor C C. blue", ["red", "Neither A nor C", "blue"], "A"),
    ("Which? A. red B. blue C. All of the above", ["red", "blue", "All of the above"], "A"),
    ("Which? A. red B. Only A C. blue", ["red", "Only A", "blue"], "A"),
    ("Which? A. red B. (a) or (c) C. blue", ["red", "(a) or (c)", "blue"], "A"),
    ("Which? A. red B. A/C C. blue", ["red", "A/C", "blue"], "A"),
    ("Which? A. c B. a C. b", ["c", "a", "b"], "Option A"),  # "B" would then be the third
    ("Which?", ["A", "B"], "A"),  # they stand in the picture
    ("Which? A. <image> B. <image>", ["<image>", "<image>"], "A"),
    ("Which? A. red B. blue", ["red", "blue"], "green"),
    ("Which?", None, "A"),
]


@pytest.mark.parametrize("question, choices, gold", NOT_REORDERED)
def test_options_that_cannot_be_reordered(question, choices, gold):
    example = Example("1", [], question, gold, choices=choices)
    assert option_orders.reordered(example, [1, 0, 2]) is None


def test_choices_that_carry_letters_keep_them():
    example = Example("1", [], "Which? A. red B. blue", "A. red", choices=["A. red", "B. blue"])
    found = option_orders.reordered(example, [1, 0])
    assert found.choices == ["A. blue", "B. red"] and found.answer == "B"


@pytest.mark.parametrize("options, count", [(2, 1), (2, 5), (3, 2), (3, 9), (4, 3), (5, 30)])
def test_orders_differ_and_rotate_first(options, count):
    found = list(option_orders.orders_of(options, count, "7 id"))
    every = [tuple(range(options)), *map(tuple, found)]
    assert len(set(every)) == len(every) == 1 + min(count, len_of_orders(options) - 1)
    rotations = every[:options]
    if len(rotations) == options:  # each option once at each place
        assert all(
            len({order[place] for order in rotations}) == options for place in range(options)
        )
    assert found == list(option_orders.orders_of(options, count, "7 id"))


def len_of_orders(options):
    return torch.arange(1, options + 1).prod().item()


# --- partners and shots ---


def numbered(answers, pictures):
    """Questions with these gold answers, about pictures of these names."""
    found = []
    for n, (answer, picture) in enumerate(zip(answers, pictures)):
        shown = [picture.encode()] if picture else []
        found.append(Example(f"q{n}", shown, f"Question {n}?", answer, source=f"file:{n}"))
    return found, [picture_keys.keys_of(example) for example in found]


def test_swapped_pictures_are_others_with_other_answers():
    for seed in range(20):
        rng = random.Random(seed)
        answers = rng.choices("123", k=30)
        pictures = [rng.choice(["p", "q", "r", "s", "t"]) + str(n // 2) for n in range(30)]
        found, keys = numbered(answers, [*pictures[:28], "", ""])
        lent = partners.swapped(found, keys, seed)
        assert lent[28:] == [None, None] and lent == partners.swapped(found, keys, seed)
        for place, other in enumerate(lent[:28]):
            assert keys[place] != keys[other] and answers[place] != answers[other]
        assert len(set(lent[:28])) >= 24  # nearly all lend theirs, and once
    assert lent != partners.swapped(found, keys, 1)


def test_swapped_pictures_where_answers_cannot_differ():
    found, keys = numbered("1111", "abcd")
    lent = partners.swapped(found, keys, 0)
    assert all(place != other for place, other in enumerate(lent))
    found, keys = numbered("123", "aaa")
    with pytest.raises(UserError, match="file:0: --swap needs another picture"):
        partners.swapped(found, keys, 0)


def test_no_shot_is_about_the_questions_picture():
    found, keys = numbered("12345678" * 4, [f"{n // 3}" for n in range(32)])
    drawn = [partners.shots_of(found, keys, place, 4, seed=3) for place in range(32)]
    for place, shots in enumerate(drawn):
        pictures = [keys[other][0] for other in (place, *shots)]
        assert len(shots) == 4 and len(set(pictures)) == 5
    assert drawn == [partners.shots_of(found, keys, place, 4, seed=3) for place in range(32)]
    assert drawn[0] != partners.shots_of(found, keys, 0, 4, seed=4)
    assert len({tuple(shots) for shots in drawn}) > 25
    found[5].solution = tagged("9")  # wrong: not to be shown
    assert all(5 not in partners.shots_of(found, keys, p, 9, 0) for p in range(32))


def test_no_shot_is_the_question_itself():
    """A set of texts that holds a question twice would show its answer."""
    found, keys = numbered("1212", ["", "", "", ""])
    found[2].question = found[0].question
    assert sorted(ways.shots_of(found, keys, 2, 0)[0]) == [1, 3]
    with pytest.raises(UserError, match="there are 2"):
        ways.shots_of(found, keys, 3, 0)


def test_shots_are_earlier_turns_with_their_pictures(tiny):
    _, processor = tiny
    found = data.head(tasks.read("count:test", teacher="gold"), 3)
    asked = partners.with_shots(found[0], found[1:], "r1v")
    conversation = Example(
        "c", [e.images[0] for e in (*found[1:], found[0])], f"<image>{found[0].question}", "",
        history=[
            turn
            for shot in found[1:]
            for turn in (
                Turn("user", f"<image>{prompts.question_text(shot, 'r1v')}"),
                Turn("assistant", shot.solution),
            )
        ],
    )  # fmt: skip
    asker = data.Asker(processor, "r1v")
    one, other = asker.prompt(asked), asker.prompt(conversation)
    assert torch.equal(one.ids, other.ids) and torch.equal(one.pixel_values, other.pixel_values)
    assert len(one.image_slots) == 3 * 16
    direct = partners.with_shots(found[0], found[1:], "direct")
    assert direct.history[1].text == found[1].answer
    assert partners.shown_answer(found[1], "answer") == f"<answer> {found[1].answer} </answer>"
    assert not asker.prompt(partners.without_pictures(asked)).image_slots.numel()
    talk = Example("t", [*found[0].images, *found[1].images], "And now?", "1")
    talk.history = [Turn("user", "Which two?"), Turn("assistant", "These.")]
    asked = partners.with_shots(talk, [found[2]], "r1v")
    texts = [turn.text for turn in asked.history[2:]] + [asked.question]
    assert texts == ["<image><image>Which two?", "These.", "And now?"]
    assert len(asker.prompt(asked).image_slots) == 3 * 16


# --- other words, other pictures ---


@pytest.mark.parametrize("template", prompts.TEMPLATES)
def test_other_words_ask_the_same(template):
    example = Example("1", [], "How many?", "3", meta={"kept": 1})
    asked, again = prompts.question_text(example, template), prompts.reworded(example, template)
    text = prompts.question_text(again, template)
    assert text != asked and text.endswith("Question: How many?") and again.meta["kept"] == 1
    for tag in ("<think>", "<answer>"):
        assert (tag in text) == (tag in asked)


def test_small_changes_of_a_picture(tmp_path):
    pixels = [(n * 3 % 256, n % 256, 9) for n in range(60 * 40)]
    picture = Image.new("RGB", (60, 40))
    picture.putdata(pixels)
    picture.save(tmp_path / "a.png")
    for image in (picture, tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        example = Example("1", [image], "?", "1", source="s")
        got = {name: changed.with_change(example, name) for name in changed.CHANGES}
        opened = {name: images.open_images(e)[0] for name, e in got.items()}
        shift = opened["shift"]
        assert shift.crop((1, 1, 60, 40)).tobytes() == picture.crop((0, 0, 59, 39)).tobytes()
        assert opened["resize"].size == (57, 38) and opened["jpeg"].size == (60, 40)
        assert opened["jpeg"].tobytes() != picture.tobytes()
        for name, asked in got.items():
            assert images.sizes_of(asked) == [opened[name].size]
        assert example.images == [image] and images.open_images(example)[0].size == (60, 40)


def test_boxes_in_pixels_are_not_asked_about_in_a_smaller_picture():
    """There the gold box is elsewhere: a policy that always finds it would look inconsistent."""
    picture = Image.new("RGB", (60, 40))
    for box_format, kept in (("norm1000", True), ("resized", False), ("pixels", False)):
        meta = {"boxes": [], "box_format": box_format}
        questions = ways.Questions([Example("1", [picture], "?", "", meta=meta)], "none", 0, [[]])
        named = [way.name for way in ways.small_changes(questions)]
        assert named == ["wording", *["resize"] * kept, "shift", "jpeg"]


def test_the_same_answer():
    example = Example("1", [], "?", "3", choices=None)
    read_, boxed = extract_answer, Example("1", [], "?", "[]", meta={"boxes": []})
    boxed.meta |= {"size": [100, 100], "box_format": "pixels", "boxes": [{"bbox_2d": [0, 0, 9, 9]}]}

    def same(one, other, about=example):
        return scoring.is_same(f"<answer>{one}</answer>", f"<answer>{other}</answer>", about, read_)

    assert same("3", "3.0") and not same("3", "4") and not same("", "")
    far, near = "[[0,0,50,50]]", "[[0,0,50,48]]"
    assert same(far, near, boxed) and not same(far, "[[50,50,99,99]]", boxed)
    assert not same(far, "nothing", boxed) and not same("", far, boxed)
    for text, known in ((tagged(far), far), (tagged("a lot"), None), ("no tags", None)):
        assert scoring.read_text(text, boxed, None) == known
    assert scoring.read_text(tagged("a lot"), example, None) == "a lot"
    options = Example("1", [], "?", "A", choices=["cat", "dog"])
    assert scoring.read_text(tagged("a lot"), options, "cvbench") is None


def test_bare_answers_are_completed():
    assert scoring.completed(" 3.\n", None) == "<answer>3.</answer>"
    for text in (tagged(3), "<answer>3", "<think> 3", " "):
        assert scoring.completed(text, None) == text
    assert scoring.completed("14", "chartqa") == "Answer: 14"


# --- likelihood ---


@pytest.mark.parametrize("template", ["direct", "think"])
def test_options_are_ranked_by_their_mean_log_prob(tiny, template):
    policy, processor = tiny
    [example] = data.head(tasks.read("spatial:test"), 1)
    asker = data.Asker(processor, template)
    prompt = asker.prompt(example)
    ranked = likelihood.choose(policy, asker, example, prompt)
    assert set(ranked) == {"text"}  # no letters are shown
    start, space = ("<answer>", " ") if template == "think" else ("", "")
    whole = data.append_response(prompt, start, processor)
    means = []
    for choice in example.choices:
        ids = processor.tokenizer(space + choice, add_special_tokens=False)["input_ids"]
        batch = batching.collate([whole], torch.tensor([ids]), torch.ones(1, len(ids)))
        suppress = processor.special.vision_ids
        means.append(logps.token_logps(policy, batch, suppress=suppress)[0].mean().item())
    assert ranked["text"]["logps"] == pytest.approx(means, abs=2e-4)
    assert ranked["text"]["chosen"] == means.index(max(means))


OPTIONS = [
    ("Which? A. cat B. dog", ["cat", "dog"], {"letter": ["A", "B"], "text": ["cat", "dog"]}),
    ("Is it a cat or a dog?", ["cat", "dog"], {"text": ["cat", "dog"]}),
    ("Which one?", ["A", "B"], {"letter": ["A", "B"]}),
    ("How many?", None, {}),
]


@pytest.mark.parametrize("question, choices, expected", OPTIONS)
def test_what_is_ranked(question, choices, expected):
    assert likelihood.options_of(Example("1", [], question, "A", choices=choices)) == expected


# --- figures and the page ---


def test_figures_of_a_way_count_its_questions_only():
    def part(accuracy, same):
        return {"accuracy": accuracy, "same": same, "read": "1" if same else None, "tokens": 4}

    rows = [{"accuracy": 1.0, "answer": "1"}, {"accuracy": 1.0, "answer": "2"}]
    rows += [{"accuracy": 0.0, "answer": "1"}]
    rows[0]["ways"] = {"blind": part(1.0, True)}
    rows[1]["ways"] = {"blind": part(0.0, False)}
    found = figures.of_ways(rows)
    assert (found["blind/n"], found["blind/accuracy"], found["blind/difference"]) == (2, 0.5, 0.5)
    assert (found["blind/same_answer"], found["blind/unreadable"]) == (0.5, 0.5)
    assert found["commonest_gold"] == 2 / 3
    assert figures.of_ways([{"accuracy": 1.0, "answer": "1"}]) == {}


def test_the_page_shows_other_ways():
    part = {"prediction": tagged(3), "accuracy": 1.0, "read": "3", "tokens": 9}
    line = {
        "prediction": tagged(4),
        "accuracy": 0.0,
        "ways": {
            "swap": part | {"pictures_of": "q7"},
            "order 1": part | {"order": [2, 0, 1]},
            "odd": 3,
            "blind": {"prediction": None, "accuracy": "?", "read": None},
        },
    }
    shown = report_answers.of_prediction(line, {})
    kinds = [(answer["kind"], answer["state"], answer.get("note")) for answer in shown]
    assert kinds == [
        ("greedy", "wrong", None),
        ("swap", "right", "with the picture of q7"),
        ("order 1", "right", "the options in the order C A B"),
        ("blind", "not scored", None),
    ]
    assert report_answers.of_ways({"ways": [1]}, {}) == []
