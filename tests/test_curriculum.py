"""Run: python -m pytest -q tests/test_curriculum.py    (10 s on one core of a CPU; no network)

What train_sft.py learns when: mixtures by answer tokens, growing pictures, groups of one length.
"""

import functools
import json
import re

import pytest
import torch
from commands import metrics_of, read, refusal, same_weights, train
from samples import captions, png

import curriculum
import data
import lengths
import processor
import tasks
import train_sft
from curriculum import Curriculum, Spot
from plumbing import arguments, checkpoint_files
from plumbing.errors import UserError
from tasks.example import Example


@pytest.fixture(scope="module")
def asker():
    return data.Asker(processor.processor_of("tiny"))


def examples(name, lengths_of):
    """Examples without pictures; the length of each is its question's."""
    return [Example(f"{name}{i}", [], "x" * n, "y") for i, n in enumerate(lengths_of)]


def spots_of(plan, steps, max_steps=100):
    return [plan.spots(step, max_steps) for step in steps]


def plan_of(sizes, counts=None, per_step=4, seed=0, **more):
    sources = [examples(str(i), range(1, size + 1)) for i, size in enumerate(sizes)]
    return Curriculum(sources, counts or list(sizes), per_step, seed, **more)


def question_length(example):
    return len(example.question)


# --- the order without any of these flags ---


@pytest.mark.parametrize("size, per_step, seed", [(7, 3, 5), (4, 4, 0), (3, 8, 1)])
def test_one_file_comes_in_the_order_of_data_take(size, per_step, seed):
    plan = plan_of([size], per_step=per_step, seed=seed)
    for step, spots in enumerate(spots_of(plan, range(1, 9))):
        given = [plan[spot].example for spot in spots]
        assert given == data.take(plan.sources[0], step * per_step, per_step, seed)


def test_a_toy_task_comes_as_it_is():
    stream = tasks.read("count")
    plan = Curriculum([stream], None, 2, 0)
    assert plan.epoch is None
    assert plan.spots(3, 9) == [Spot(0, 4, None), Spot(0, 5, None)]


# --- mixtures ---

# sizes, mean answer tokens, weights, examples of each in an epoch
COUNTS = [
    ([100, 100], [10, 10], [0.7, 0.3], [140, 60]),
    ([100, 100], [10, 10], [7, 3], [140, 60]),
    ([100, 100], [30, 10], [1, 1], [50, 150]),  # long answers: fewer of them
    ([10, 990], [200, 2], [1, 1], [10, 990]),
    ([1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]),
    ([3, 4], [1, 1], [0.5, 0.5], [4, 3]),  # 3.5 each: of equal rests the first
    ([50, 50], [1, 1], [1e-9, 1], [1, 100]),  # at least one
    ([50, 50], [1, 1], [1e308, 1e308], [50, 50]),  # whose sum is no number
    ([50, 50], [1, 1], [1e-320, 3e-320], [25, 75]),
    ([50, 50], [1, 1], [1e-300, 1e300], [1, 100]),
]


@pytest.mark.parametrize("sizes, tokens, weights, counts", COUNTS)
def test_how_many_examples_of_each_source_an_epoch_has(sizes, tokens, weights, counts):
    assert curriculum.epoch_counts(sizes, tokens, weights) == counts


@pytest.mark.parametrize("weights", [[0.7, 0.3], [0.1, 0.9], [0.5, 0.25, 0.25], [5, 3, 1]])
def test_the_expected_shares_are_the_weights(weights):
    """But for rounding to whole examples: at most one of some thousand."""
    tokens = [3.5, 40.25, 7.0][: len(weights)]
    counts = curriculum.epoch_counts([2000, 1000, 5000][: len(weights)], tokens, weights)
    shares = curriculum.token_shares(counts, tokens)
    assert shares == pytest.approx([w / sum(weights) for w in weights], abs=0.02)
    assert sum(shares) == pytest.approx(1)


def test_an_epoch_draws_the_shares_and_each_source_goes_on_where_it_was():
    """Of 30 and 10 examples, 8 and 32 an epoch: after 5 epochs 40 and 160 are drawn."""
    plan = plan_of([30, 10], [8, 32], per_step=4)
    drawn = [[(s.source, s.place) for s in spots] for spots in spots_of(plan, range(1, 51))]
    drawn = sum(drawn, [])
    for epoch in range(5):
        sources = [source for source, _ in drawn[40 * epoch : 40 * epoch + 40]]
        assert (sources.count(0), sources.count(1)) == (8, 32)
    first = [place for source, place in drawn if source == 0]
    assert sorted(first[:30]) == list(range(30))  # none a second time before all came once
    second = [place for source, place in drawn if source == 1]
    for n in range(16):
        assert sorted(second[10 * n : 10 * n + 10]) == list(range(10))


def test_a_mixture_is_a_pure_function_of_seed_and_position():
    plan = plan_of([30, 10], [8, 32])
    whole = spots_of(plan, range(1, 40))
    assert spots_of(plan_of([30, 10], [8, 32]), range(25, 40)) == whole[24:]
    assert spots_of(plan, [3, 30, 1]) == [whole[2], whole[29], whole[0]]
    assert spots_of(plan_of([30, 10], [8, 32], seed=1), range(1, 40)) != whole


def test_without_weights_every_example_comes_once_an_epoch():
    plan = plan_of([5, 7])
    drawn = [(s.source, s.place) for spots in spots_of(plan, range(1, 7)) for s in spots]
    everything = [(0, i) for i in range(5)] + [(1, i) for i in range(7)]
    assert sorted(drawn[:12]) == sorted(drawn[12:]) == everything and drawn[:12] != everything


def test_logged_shares_are_those_of_the_loss():
    shares = curriculum.logged_shares(["a.jsonl", "b.jsonl"], (0, 1, 1), [6.0, 3.0, 3.0])
    assert shares == {"mixture/a.jsonl": 0.5, "mixture/b.jsonl": 0.5}
    assert curriculum.logged_shares(["a.jsonl"], (0,), [6.0]) == {}


# --- how long an example is ---


def test_counted_lengths_are_those_of_what_is_encoded(asker, tmp_path):
    """With a picture, without one, and of a conversation."""
    (tmp_path / "a.png").write_bytes(png(84, 56))
    talk = [("user", "Red?"), ("assistant", "Yes, it is."), ("user", "Sure?"), ("assistant", "Hm.")]
    turns = [{"role": role, "content": text} for role, text in talk]
    records = [
        {"image": "a.png", "question": "How many?", "answer": "3"},
        {"question": "How many?", "solution": "<think> one </think><answer> 1 </answer>"},
        {"image": "a.png", "question": "Now?", "answer": "5", "history": turns},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for example in [*tasks.read(str(path)), tasks.read("count")[0]]:
        prompt, target, learned = asker.lesson(example, 500)
        found = lengths.lesson_tokens(asker, example)
        assert found.whole == len(prompt.ids) + len(target)
        assert found.answers == int(learned.sum())
        assert found.whole - found.words == len(prompt.image_slots)


# --- groups of one length ---


@pytest.mark.parametrize("size, per_step", [(37, 4), (100, 8), (9, 2), (7, 16), (600, 2)])
def test_a_grouped_epoch_holds_what_the_epoch_holds(size, per_step):
    plan = plan_of([size], per_step=per_step, measure=question_length)
    steps = range(1, 3 * size // per_step + 1)
    drawn = [s.place for spots in spots_of(plan, steps) for s in spots]
    for epoch in range(2):
        assert sorted(drawn[epoch * size : epoch * size + size]) == list(range(size))
    assert drawn[:size] != drawn[size : 2 * size] or size < per_step


def test_a_step_holds_examples_of_about_one_length():
    """Of 400 lengths, steps of 4: in blocks of 50 steps a step spans a few; at random, 240."""
    spans = {}
    for measure in (None, question_length):
        plan = plan_of([400], measure=measure)
        steps = [[s.place for s in spots] for spots in spots_of(plan, range(1, 101))]
        spans[measure] = sum(max(step) - min(step) for step in steps) / len(steps)
    assert spans[question_length] < 20 < 200 < spans[None]


def test_long_and_short_steps_come_in_an_order_by_chance():
    """Else the learning rate would fall with the length."""
    plan = plan_of([400], measure=question_length)
    means = [sum(s.place for s in spots) / 4 for spots in spots_of(plan, range(1, 101))]
    pairs = torch.corrcoef(torch.stack([torch.tensor(means), torch.arange(100.0)]))
    assert abs(pairs[0, 1]) < 0.4  # 4 standard deviations


def test_groups_are_a_pure_function_of_seed_and_position():
    plan = plan_of([61], per_step=3, measure=question_length)
    whole = spots_of(plan, range(1, 60))
    later = plan_of([61], per_step=3, measure=question_length)
    assert spots_of(later, range(37, 60)) == whole[36:]
    assert spots_of(plan, [50, 2, 30]) == [whole[49], whole[1], whole[29]]


def test_a_toy_task_is_grouped_without_leaving_anything_out(asker):
    measure = functools.partial(curriculum.whole_length, asker)
    plan = Curriculum([tasks.read("count", level=1)], None, 2, 0, measure=measure)
    places = [spot.place for spots in spots_of(plan, range(1, 51)) for spot in spots]
    assert sorted(places) == list(range(100)) and places != list(range(100))


# --- growing pictures ---


def test_the_stages_are_those_of_idefics3():
    sides = [364, 728, 1092, 1456, 1820]
    assert curriculum.stage_pixels(364**2, 1820**2) == [side**2 for side in sides]
    assert curriculum.stage_pixels(100_000, 400_000)[::4] == [100_000, 400_000]


@pytest.mark.parametrize("max_steps", [1, 3, 5, 10, 12, 1000])
def test_every_stage_has_its_share_of_the_steps(max_steps):
    stages = [1, 2, 3, 4, 5]
    found = [curriculum.pixels_at(step, max_steps, stages) for step in range(1, max_steps + 1)]
    assert found == sorted(found) and found[0] == 1
    for stage in stages:
        assert abs(found.count(stage) - max_steps / 5) < 1


def test_a_picture_is_as_large_as_its_stage_allows(asker, tmp_path):
    (tmp_path / "a.png").write_bytes(png(560, 560))
    line = {"image": "a.png", "question": "How many?", "answer": "3"}
    (tmp_path / "d.jsonl").write_text(json.dumps(line))
    sources = [tasks.read(str(tmp_path / "d.jsonl"))]
    plan = Curriculum(sources, [1], 1, 0, stages=curriculum.stage_pixels(112**2, 560**2))
    tokens = []
    for step in range(1, 11):
        lesson = plan[plan.spots(step, 10)[0]]
        prompt, *_ = train_sft.encode(asker, 99, lesson)
        tokens.append(len(prompt.image_slots))
    assert tokens == [4**2] * 2 + [8**2] * 2 + [12**2] * 2 + [16**2] * 2 + [20**2] * 2
    assert asker.processor.image_processor.size["longest_edge"] == 401408  # as it was


def test_boxes_in_pixels_of_the_shown_picture_grow_with_it(tmp_path):
    (tmp_path / "a.png").write_bytes(png(560, 560))
    box = {"bbox_2d": [0, 0, 280, 560], "label": "cat"}
    line = {"image": "a.png", "question": "Where?", "boxes": [box]}
    (tmp_path / "d.jsonl").write_text(json.dumps(line))
    own = tasks.read(str(tmp_path / "d.jsonl"), box_format="resized", max_pixels=560**2)
    toy = tasks.read("ground", box_format="resized", max_pixels=560**2)
    plan = Curriculum([own, toy], [1, 1], 1, 0, box_limits=("resized", 3136, 28))
    shown = [plan[Spot(0, 0, side**2)].example for side in (112, 560)]
    texts = [data.target_text(example, "none") for example in shown]
    assert "[0, 0, 56, 112]" in texts[0] and "[0, 0, 280, 560]" in texts[1]
    assert own[0].meta["resized"] == [560, 560]  # what is evaluated stays
    assert plan[Spot(1, 5, 56**2)].example.meta["resized"] == [56, 56]
    assert plan[Spot(1, 5, None)].example.meta["resized"] == [112, 112]


# --- as a user types it ---


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of captions, the second with answers three times as long."""
    folder = tmp_path_factory.mktemp("captions")
    return captions(folder / "short.jsonl", 6, 20), captions(folder / "long.jsonl", 5, 60)


ALL = "--mixture-weights 0.5 0.5 --group-by-length --max-pixels 3136:6272 --neftune-noise-alpha 5"


@pytest.fixture
def run(base, files, tmp_path, no_pictures):
    def steps(name, more, max_steps=5):
        line = f"--model {base} --batch-size 3 --max-steps {max_steps} --save-steps 2"
        line += f" --save-total-limit 9 --max-completion-length 400 {more}"
        train(train_sft, f"{line} --output-dir {tmp_path / name} --data", *files)
        return metrics_of(tmp_path / name)

    return steps


def test_all_of_it_at_once_resumes_exactly(run, tmp_path, capsys):
    """With workers, too: they are given what the steps are made of."""
    whole = run("whole", ALL)
    printed = capsys.readouterr().out
    assert "an epoch of the mixture has 11 examples" in printed and "3136, " in printed
    names = {"mixture/short", "mixture/long"}
    assert all(names <= line.keys() for line in whole)
    assert all(sum(line[name] for name in names) == pytest.approx(1) for line in whole)
    saved = read(tmp_path / "whole" / "args.json")
    assert saved["max_pixels"] == 6272 and saved["max_pixels_growth"] == "3136:6272"
    assert checkpoint_files.read_run(tmp_path / "whole")["data"] == saved["data"]
    size = read(tmp_path / "whole" / "preprocessor_config.json")["size"]
    assert size["longest_edge"] == 6272
    more = f"{ALL} --num-workers 2"
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert run("whole", f"{more} --resume-from-checkpoint {checkpoint}") == whole
    assert run("workers", more) == whole
    assert same_weights(tmp_path / "workers", tmp_path / "whole")


def test_an_epoch_of_a_mixture_has_as_many_examples_as_the_files(
    base, files, tmp_path, no_pictures
):
    line = f"--model {base} --batch-size 3 --save-steps 0 --max-completion-length 400"
    line += f" --num-train-epochs 1 --mixture-weights 1 3 --output-dir {tmp_path} --data"
    train(train_sft, line, *files)
    assert [m["step"] for m in metrics_of(tmp_path)] == [1, 2, 3, 4]  # 11 / 3


REFUSED = [
    ("--data count spatial --max-steps 1", "say with --mixture-weights how much of each"),
    ("--data {0} {0}", "names a set twice"),
    ("--data {0} --mixture-weights 1", "no meaning with one --data"),
    ("--data {0} {1} --mixture-weights 1", "one weight for each --data: 2, got 1"),
    ("--data {0} {1} --mixture-weights 1 0", "0 is not a finite number above 0"),
    ("--data {0} {1} --mixture-weights 1 -1", "-1"),
    ("--data {0} --max-pixels 6272:3136", "does not grow"),
    ("--data {0} --max-pixels 3136:3136", "does not grow"),
    ("--data {0} --max-pixels 3136:", "invalid whole number value"),
    ("--data {0} --max-pixels a:b", "invalid whole number value"),
    ("--data {0} --max-pixels 1000:6272", "begins below --min-pixels 3136"),
    ("--data {0} --neftune-noise-alpha -1", "not a finite number of at least 0"),
    ("--data {0} --neftune-noise-alpha nan", "not a finite number of at least 0"),
    ("--data {0} --neftune-noise-alpha 1e308", "far above what can be learned"),
    ("--data count spatial --mixture-weights 1 1", "--max-steps"),
    ("--data count --max-steps 1 --merge-same-image", "nothing to merge in a toy task"),
    ("--data {0} --train-sampling-strategy group_by_length", "use --group-by-length"),
    ("--data {0} --interleave-probs 0.7", "use --mixture-weights"),
]


@pytest.mark.parametrize("flags, says", REFUSED)
def test_what_cannot_be_is_refused(flags, says, base, files, tmp_path, capsys):
    words = flags.format(*files).split()
    argv = ["--model", base, "--output-dir", tmp_path / "out", *words]
    assert says in refusal(train_sft, argv, capsys)


GOES_ON = [  # flags of the run, of the command that goes on, what it says
    ("--max-pixels 3136:6272", "--max-pixels 6272", "--max-pixels was 3136:6272 when"),
    ("--max-pixels 6272", "--max-pixels 3136:6272", "--max-pixels was None when"),
    ("--max-pixels 3136:6272", "--max-pixels 4000:6272", "--max-pixels was 3136:6272 when"),
    ("--max-pixels 3136:6272", "--max-pixels 3136:9000", "--max-pixels was 6272 when"),
    ("--mixture-weights 1 1", "--mixture-weights 1 2", "--mixture-weights was [1.0, 1.0] when"),
    ("--neftune-noise-alpha 5", "--neftune-noise-alpha 1", "--neftune-noise-alpha was 5.0 when"),
    ("--group-by-length", "", "--group-by-length was True when"),
    (ALL, "--group-by-length", None),  # what is left open is as it was
    ("--max-pixels 3136:6272", "--max-pixels 3136:6272", None),
]


@pytest.mark.parametrize("was, now, says", GOES_ON)
def test_a_run_goes_on_as_it_was(was, now, says, files, tmp_path):
    line = ["--model", "tiny", "--output-dir", str(tmp_path), "--data", *map(str, files)]
    first = train_sft.parse_args([*line, *was.split()])
    first.min_pixels = 3136
    arguments.write_args(tmp_path, first)
    args = train_sft.parse_args([*line, *now.split()])
    is_fixed = bool(args.max_pixels) and not args.max_pixels_growth

    def go_on():
        arguments.same_flags(args, tmp_path)
        curriculum.check_growth(args, is_fixed)

    if says:
        with pytest.raises(UserError, match=re.escape(says)):
            go_on()
    else:
        go_on()
        names = ("data", "mixture_weights", "max_pixels", "max_pixels_growth", "group_by_length")
        assert [getattr(args, n) for n in names] == [getattr(first, n) for n in names]


def test_the_same_files_from_another_directory(files, tmp_path, monkeypatch):
    """A run of relative paths goes on from where these are others."""
    monkeypatch.chdir(files[0].parent)
    line = ["--model", "tiny", "--output-dir", str(tmp_path), "--data"]
    arguments.write_args(tmp_path, train_sft.parse_args([*line, *(f.name for f in files)]))
    monkeypatch.chdir(tmp_path)
    arguments.same_flags(train_sft.parse_args([*line, *map(str, files)]), tmp_path)
    with pytest.raises(UserError, match="--data was"):
        arguments.same_flags(train_sft.parse_args([*line, *map(str, files[::-1])]), tmp_path)
