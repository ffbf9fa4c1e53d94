"""--skip-bad-records: what is left out, what is said of it, and what stays a refusal.

Command: pytest tests/test_bad_records.py. Expected: 20 s.
"""

import json

import pytest
from PIL import Image
from samples import png, refusal, write

import lengths
import rewards
import tasks
from data import Asker, check_golds
from lengths import fitting, most_tokens
from plumbing.bad_records import BadRecords
from tasks import pairs
from tasks.example import Example, Pair

GOOD = {"image": "a.png", "question": "q", "answer": "3"}
BAD = [  # a record as its line, a word of the reason
    ('{"question": "q",', "broken JSON"),
    ("5", "expected an object"),
    ('{"question": "q"}', "no answer"),
    ('{"image": "none.png", "question": "q", "answer": "3"}', "does not exist"),
    ('{"image": "cut.png", "question": "q", "answer": "3"}', "cannot be opened"),
    ('{"image": "text.png", "question": "q", "answer": "3"}', "cannot be opened"),
    ('{"question": "<image>?", "answer": "3"}', "1 <image>"),
]


@pytest.fixture
def mixed(tmp_path):
    """A file in which each bad record stands between good ones."""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "cut.png").write_bytes(png()[:-40])
    (tmp_path / "text.png").write_text("no picture")
    good = json.dumps(GOOD)
    lines = [good]
    for line, _ in BAD:
        lines += [line, good]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_bad_records_are_left_out_and_listed(mixed, tmp_path, capsys):
    bad = BadRecords(skip=True)
    got = tasks.read(mixed, bad=bad)
    assert [e.id for e in got] == [f"x.jsonl:{n}" for n in range(1, 2 * len(BAD) + 2, 2)]
    bad.report(tmp_path)
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    by_place = {row["record"]: row for row in listed}
    places = [f"{mixed}:{2 * number}" for number in range(1, len(BAD) + 1)]
    assert [row["record"] for row in listed] == places  # though pictures are opened last
    assert [row["id"] for row in listed] == [place.rpartition("/")[2] for place in places]
    for number, (_, word) in enumerate(BAD, 1):
        assert word in by_place[f"{mixed}:{2 * number}"]["reason"]
    assert f"{len(BAD)} records are left out" in capsys.readouterr().out


def test_without_the_flag_the_first_is_refused(mixed):
    assert refusal(tasks.read, mixed).startswith(f"{mixed}:2: broken JSON")


def test_nothing_left_is_a_refusal_and_so_is_a_broken_file(tmp_path):
    path = write(tmp_path, [{"question": "q"}] * 2)
    text = refusal(tasks.read, path, bad=BadRecords(skip=True))
    assert text.startswith(f"{path}:1: no answer") and "all 2 are bad" in text
    (tmp_path / "y.json").write_text('[{"question": ')
    assert "broken JSON" in refusal(tasks.read, tmp_path / "y.json", bad=BadRecords(skip=True))


def test_golds_that_cannot_be_scored_are_left_out():
    examples = [
        Example(str(n), [], "q", answer, choices=["x", "y"], source=f"set.jsonl:{n}")
        for n, answer in enumerate(["A", "neither", "B"])
    ]
    bad = BadRecords(skip=True)
    assert [e.answer for e in check_golds(examples, rewards.check_gold, bad)] == ["A", "B"]
    assert list(bad.found) == [("set.jsonl:1", "1")]
    assert refusal(check_golds, examples, rewards.check_gold).startswith("set.jsonl:1: ")


def test_bad_pairs_are_left_out(tmp_path):
    good = {"question": "q", "chosen": "yes", "rejected": "no"}
    path = write(tmp_path, [good, {**good, "rejected": "yes"}, {**good, "image": "x.png"}, good])
    bad = BadRecords(skip=True)
    assert [p.example.id for p in pairs.read_pairs(str(path), bad=bad)] == [
        f"{path.name}:1",
        f"{path.name}:4",
    ]
    assert [row["record"] for row in bad.found.values()] == [f"{path}:2", f"{path}:3"]


# --- lengths ---


TEXTS = ["", "How many?", "größer 世界 🙂", "\u0958\u0344 \U0001d160" * 20, "a" * 500, "<|im_end|>"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_at_most_as_many_tokens_as_bytes(tiny, text):
    """Composed, U+1D160 takes three times its bytes: the bound is that of the composed text."""
    tokenizer = tiny[1].tokenizer
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= most_tokens(text)


@pytest.mark.parametrize("spare", [-1, 0, 1, 500])
def test_what_fits_is_what_fits_by_exact_count(tiny, spare):
    import dataclasses

    picture = Image.new("RGB", (112, 112))
    example = Example("0", [picture], "How many? " * 9, "3", solution="one two", source="s:1")
    asker = Asker(tiny[1])
    length = len(asker.prompt(example).ids)
    short = dataclasses.replace(tiny[1], context=length + 20 + spare)
    if spare >= 0:
        assert fitting(Asker(short), [example], 20, targets=True) == [example]
        return
    says = refusal(Asker(short).check, [example], 20)
    assert refusal(fitting, Asker(short), [example], 20) == says
    bad = BadRecords(skip=True)
    other = Example("1", [], "q", "3", source="s:2")
    assert fitting(Asker(short), [example, other], 20, bad=bad) == [other]
    assert [source for source, _ in bad.found] == ["s:1"]


def test_a_target_too_long_or_with_a_reserved_token_is_left_out(tiny):
    def solved(n, text):
        return Example(str(n), [], "q", "3", solution=text, source=f"s:{n}")

    examples = [solved(0, "fine"), solved(1, "word " * 90), solved(2, "<|im_end|>")]
    bad = BadRecords(skip=True)
    assert fitting(Asker(tiny[1]), examples, 20, targets=True, bad=bad) == examples[:1]
    assert "more than --max-completion-length 20" in bad.found["s:1", "1"]["reason"]
    assert "reserved token" in bad.found["s:2", "2"]["reason"]
    assert fitting(Asker(tiny[1]), examples, 20) == examples


def test_pairs_that_do_not_fit_are_left_out(tiny):
    def pair(n, text):
        return Pair(Example(str(n), [], "q", "", source=f"s:{n}"), text, "no")

    given = [pair(0, "yes"), pair(1, "word " * 5000)]
    bad = BadRecords(skip=True)
    assert lengths.fitting_pairs(Asker(tiny[1], "none"), [*given, given[0]], bad) == [given[0]] * 2
    assert [source for source, _ in bad.found] == ["s:1"]


# --- a script ---


def test_a_script_trains_on_the_rest(mixed, tmp_path, capsys):
    import train_sft

    out = tmp_path / "out"
    flags = f"--model tiny --data {mixed} --batch-size 4 --max-completion-length 8 --device cpu"
    flags += f" --max-eval-samples 2 --output-dir {out} --skip-bad-records"
    train_sft.main(train_sft.parse_args(flags.split()))
    assert len((out / "skipped.jsonl").read_text().splitlines()) == len(BAD)
    said = capsys.readouterr().out
    assert f"({len(BAD) + 1} examples)" in said and "2 steps" in said


def test_a_gold_that_cannot_be_scored_is_left_out_of_the_evaluation(tmp_path, capsys):
    import train_sft

    record = {"question": "Which?", "choices": ["red", "blue"], "answer": "red"}
    path = write(tmp_path, [record, {**record, "answer": "purple"}, record], "which.jsonl")
    flags = f"--model tiny --data count --max-steps 1 --batch-size 2 --eval-data {path}"
    flags += f" --max-completion-length 200 --device cpu --output-dir {tmp_path / 'out'}"
    says = refusal(train_sft.main, train_sft.parse_args(flags.split()))
    assert says.startswith(f"{path}:2: the answer 'purple' names none of")
    train_sft.main(train_sft.parse_args([*flags.split(), "--skip-bad-records"]))
    [skipped] = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert "purple" in skipped
    assert "of 2 greedy answers" in capsys.readouterr().out
