"""Records with a checksum: what is damaged is noticed, and what can be made anew is."""

import json
from pathlib import Path

import pytest

from plumbing import records
from plumbing.errors import UserError

LINE = {"id": "a", "completion": "é\n$", "right": True, "tokens": 3, "score": 0.1, "answer": None}


def test_a_record_is_read_back_as_it_was(tmp_path):
    for value in (LINE, {}, {"x": [1, {"y": 1e300}], "nan": 0.1 + 0.2, "half": "\ud800"}):
        records.write_record(tmp_path / "x.json", value, "run file")
        assert records.read_record(tmp_path / "x.json", "run file") == value
    assert json.loads((tmp_path / "x.json").read_text())[
        "crc32"
    ]  # ordinary JSON, with one key more


def test_what_it_belongs_to_counts(tmp_path):
    records.write_record(tmp_path / "x.json", LINE, "one run")
    assert records.read_record(tmp_path / "x.json", "another run") is None
    assert records.read_record(tmp_path / "nowhere.json", "one run") is None


def every_change(text):
    """A text with each of its characters changed, or left out."""
    for i, c in enumerate(text):
        yield text[:i] + chr(ord(c) ^ 1) + text[i + 1 :]
        yield text[:i] + text[i + 1 :]


def test_no_changed_or_missing_character_passes(tmp_path):
    """But in the white space between, which means nothing."""
    path = tmp_path / "x.json"
    records.write_record(path, LINE)
    for text in every_change(path.read_text()):
        path.write_text(text)
        assert records.read_record(path) in (None, LINE)
    for value in ([], 5, "x", None, {}, LINE, [LINE], {"crc32": "00000000"}, {"crc32": 7}):
        path.write_text(json.dumps(value))
        assert records.read_record(path) is None


def fill(path, count, batch=2, total=6):
    file = records.Lines(path, "run", batch, total)
    for start in range(len(file.lines), count, batch):
        file.append([{"n": n} for n in range(start, min(start + batch, count))])
    return file


def test_a_file_is_taken_up_after_its_last_whole_batch(tmp_path, capsys):
    whole = fill(tmp_path / "a.jsonl", 5, total=5)
    text = (tmp_path / "a.jsonl").read_text()
    for end in range(len(text)):
        (tmp_path / "b.jsonl").write_text(text[:end])
        kept = len(records.Lines(tmp_path / "b.jsonl", "run", 2, 5).lines)
        assert kept in (0, 2, 4) or end == len(text) - 1  # all but the last newline
        fill(tmp_path / "b.jsonl", 5, total=5)
        assert (tmp_path / "b.jsonl").read_text() == text
    assert whole.lines == [{"n": n} for n in range(5)]
    assert "damaged" not in capsys.readouterr().out  # a run that was killed leaves such
    assert records.Lines(tmp_path / "a.jsonl", "run", 2, 5).lines == whole.lines


@pytest.mark.parametrize(
    "line", ["5", "{}", "[]", "", "null", '{"n": 2}', '{"n": 2, "crc32": "00000000"}']
)
def test_what_is_damaged_is_made_anew_from_there(tmp_path, line, capsys):
    path = tmp_path / "a.jsonl"
    fill(path, 6)
    text = path.read_text()
    damaged = text.splitlines()
    damaged[2] = line
    path.write_text("\n".join(damaged) + "\n")
    assert len(records.Lines(path, "run", 2, 6).lines) == 2
    assert f"{path}:3 is damaged or another run's" in capsys.readouterr().out
    assert (tmp_path / "a.jsonl.damaged").read_text() == "\n".join(damaged) + "\n"
    fill(path, 6)
    assert path.read_text() == text


def test_another_runs_file_is_not_taken(tmp_path):
    fill(tmp_path / "a.jsonl", 6)
    assert records.Lines(tmp_path / "a.jsonl", "other run", 2, 6).lines == []
    assert records.Lines(tmp_path / "b.jsonl", "run", 2, 6).lines == []


def test_a_finished_file_that_is_damaged_names_line_and_remedy(tmp_path):
    path = tmp_path / "a.jsonl"
    fill(path, 6)
    assert len(records.finished_lines(path, "run", 6, "do it")) == 6
    path.write_text(path.read_text().replace('"n": 3', '"n": 4'))
    with pytest.raises(UserError, match=f"{path}:4 is damaged or another run's; do it"):
        records.finished_lines(path, "run", 6, "do it")


@pytest.mark.parametrize("left", [0, 4, None])
def test_a_finished_file_has_all_its_lines(tmp_path, left):
    path = tmp_path / "a.jsonl"
    fill(path, 6)
    lines = path.read_text().splitlines(keepends=True)
    path.unlink() if left is None else path.write_text("".join(lines[:left]))
    with pytest.raises(UserError, match=f"{path} has {left or 0} lines, not 6: .*; do it"):
        records.finished_lines(path, "run", 6, "do it")


def test_a_line_out_of_its_place_does_not_pass(tmp_path):
    path = tmp_path / "a.jsonl"
    fill(path, 6)
    lines = path.read_text().splitlines(keepends=True)
    for order, good in (("12345", 0), ("01345", 2), ("001234", 1), ("012354", 4)):
        path.write_text("".join(lines[int(n)] for n in order))
        assert len(records.good_lines(path, "run")[0]) == good


def test_a_flipped_last_line_is_damage_and_each_is_kept_aside(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    for number in ("", "-2", "-3"):
        fill(path, 6)
        path.write_text(path.read_text().replace('"n": 5', '"n": 6'))
        damaged = path.read_text()
        assert len(records.Lines(path, "run", 2, 6).lines) == 4
        assert f"as it was: a.jsonl.damaged{number})" in capsys.readouterr().out
        assert Path(f"{path}.damaged{number}").read_text() == damaged


def test_a_file_that_is_whole_is_not_written_again(tmp_path):
    path = tmp_path / "a.jsonl"
    fill(path, 6)
    path.chmod(0o400)
    before = path.stat().st_ino
    records.Lines(path, "run", 2, 6)
    assert path.stat().st_ino == before


def test_a_file_is_filled_in_batches_and_taken_up_where_it_ended(tmp_path):
    path, made = tmp_path / "lines.jsonl", []

    def make(first, end):
        made.append((first, end))
        if len(made) == 3:
            raise KeyboardInterrupt
        return [{"n": n} for n in range(first, end)]

    with pytest.raises(KeyboardInterrupt):
        records.Lines(path, "x", 2, 7).fill(make)
    wanted = [{"n": n} for n in range(7)]
    assert records.Lines(path, "x", 2, 7).fill(make) == records.read_lines(path) == wanted
    assert made == [(0, 2), (2, 4), (4, 6), (4, 6), (6, 7)]
    assert records.Lines(path, "x", 2, 7).fill(make) == wanted
    assert len(made) == 5  # nothing was left to do
