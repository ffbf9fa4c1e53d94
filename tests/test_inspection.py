"""Run: python -m pytest -q tests/test_inspection.py        (about 10 s on CPU; no network)

`python data.py FILE`: what it prints about good files and bad ones, its sheet, its exit code.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from samples import CVBENCH, PAIRS, TABMWP, bad_images, png, turns, write

import data
import tasks
from plumbing import find_model, running
from plumbing.errors import UserError
from processor import processor_of
from tasks import inspection, published

ROOT = Path(__file__).resolve().parents[1]
A = {"image": "images/a.png", "question": "How many?", "answer": "3"}


@pytest.fixture
def look(tmp_path, capsys):
    """look(FILE, flags): (what it prints, whether all is well)."""

    def look(spec, *more):
        args = data.parse_args([str(spec), "--output", str(tmp_path / "out" / "sheet.png"), *more])
        try:
            data.main(args)
            well = True
        except SystemExit as stop:
            assert stop.code == 1
            well = False
        return capsys.readouterr().out, well

    return look


def line_of(printed, name):
    """What the table says behind a name."""
    [found] = re.findall(rf"^{name} +(.*)$", printed, re.MULTILINE)
    return found


def problems_in(printed):
    return re.findall(r"^  (\S.*)$", printed.partition(" problem")[2], re.MULTILINE)


# --- what there is ---


def test_a_good_file(look, folder, tmp_path):
    Image.new("RGB", (640, 480), "blue").save(folder / "images" / "wide.jpg")
    records = [
        {"image": "images/wide.jpg", "question": "How many?", "answer": "3", "choices": ["3", "4"]},
        {"images": ["images/wide.jpg", "images/a.png"], "question": "Same?", "answer": "no"},
        {"image": "images/a.png", "question": "Find it.", "boxes": [[10, 20, 40, 50]]},
        {
            "question": "2 + 2?",
            "answer": "4",
            "solution": "<think> hm </think><answer> 4 </answer>",
        },
        {"image": "images/a.png", "question": "Describe it.", "solution": "A plain. " * 20},
        {"image": "images/a.png", **turns("<image>How many?", "Two and one.\nAnswer: 3")},
    ]
    printed, well = look(write(folder, records))
    assert well and "no problem was found" in printed
    assert line_of(printed, "records") == "6 in 1 file"
    assert line_of(printed, "layouts") == "5 plain, 1 conversation"
    assert line_of(printed, "answers").startswith("5 with a gold answer, 1 open (no gold")
    assert "1 with choices, 1 with boxes, 3 with a worked solution" in printed
    assert line_of(printed, "good for") == "train_sft.py (6 records)"
    assert "train_grpo.py, selftrain.py and evaluate.py (5 records)" in printed
    said = "1 each in 4 records, 2 each in 1 record, none (text only) in 1 record"
    assert line_of(printed, "pictures") == said
    sizes = [Image.open(folder / "images" / "a.png").size, (640, 480)]
    assert line_of(printed, "width") == f"{sizes[0][0]} / {sizes[0][0]} / 640"
    assert line_of(printed, "tokens of a picture").endswith(f" / {644 * 476 // 784}")
    sheet = tmp_path / "out" / "sheet.png"
    assert f"the first 5 records with pictures: {sheet}" in printed
    assert Image.open(sheet).size[1] > 500


def test_the_lengths_are_those_that_training_counts(look, folder, tiny):
    examples = tasks.read(write(folder, [A, {**A, "question": "How many red ones?"}, A]))
    printed, _ = look(folder / "set.jsonl")
    asker = data.Asker(tiny[1])
    prompts = sorted(len(asker.prompt(example).ids) for example in examples)
    targets = sorted(len(asker.target(example, 100)) for example in examples)
    assert line_of(printed, "tokens of a prompt") == " / ".join(map(str, prompts))
    assert line_of(printed, "tokens of a target") == " / ".join(map(str, targets))


def shown_in(printed):
    """The lines of the records whose prompts are shown."""
    return [int(n) for n in re.findall(r"^--- prompt of .*:(\d+) ---$", printed, re.MULTILINE)]


@pytest.mark.parametrize(
    "number, shown", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (5, [1, 3, 5]), (99, [1, 49, 99])]
)
def test_the_first_prompt_a_middle_one_and_the_last_are_shown(look, folder, number, shown):
    found = shown_in(look(write(folder, [A] * number))[0])
    assert len(found) == len(shown) and [found[0], found[-1]] == [shown[0], shown[-1]]
    assert all(abs(a - b) <= number / 8 for a, b in zip(found, shown))


def test_the_first_prompt_of_each_layout_is_shown(look, folder):
    other = {"image": "images/a.png", **turns("<image>How many?", "3")}
    assert shown_in(look(write(folder, [A] * 8 + [other] + [A] * 91))[0])[:2] == [1, 9]


def test_prompts_as_the_model_sees_them(look, folder, tiny):
    path = write(folder, [{**A, "question": f"How many of {n}?"} for n in range(5)])
    printed, _ = look(path, "--prompt-template", "direct", "--system-prompt", "Look.")
    text = data.Asker(tiny[1], "direct", "Look.").prompt(tasks.read(path)[0]).text
    pads = text.count("<|image_pad|>")
    shown = text.replace("<|image_pad|>" * pads, f"<|image_pad|> x {pads}")
    assert pads > 1 and f"--- prompt of {path}:1 ---\n{shown}\n--- gold: 3 ---" in printed
    assert "--- target of the supervised stage ---\n3\n" in printed


def test_boxes_are_learned_as_the_model_writes_them(look, folder):
    boxed = {"image": "images/b.png", "question": "Find it.", "boxes": [[0, 0, 28, 56]]}
    (folder / "images" / "b.png").write_bytes(png(56, 112))
    printed, _ = look(write(folder, [boxed]), "--box-format", "norm1000")
    assert '--- gold: {"bbox_2d": [0, 0, 28, 56]} ---' in printed and "[0, 0, 500, 500]" in printed


def test_a_folder_says_which_files_it_reads(look, folder):
    for name in ("train_a.jsonl", "train_b.json", "test.jsonl"):
        write(folder, [A], name)
    printed, well = look(folder)
    assert well and line_of(printed, "records") == "2 in 2 files"
    for words in ("1 in train_a.jsonl", "1 in train_b.json", "not read: test.jsonl (of another"):
        assert words in printed
    printed, _ = look(f"{folder}:test")
    assert line_of(printed, "records") == "1 in 1 file" and "not read: train_a.jsonl" in printed


@pytest.mark.parametrize("task", ["count:test", "ground", "geometry_basics"])
def test_a_toy_task(look, task):
    printed, well = look(task, "--max-samples", "20")
    assert well and line_of(printed, "records") == "20 in 1 file"
    assert line_of(printed, "tokens of a picture") == "16 / 16 / 16"


def test_no_more_records_are_looked_at_than_asked_for(look, folder):
    records = [{**A, "id": "1"}, {**A, "id": "1"}, {**A, "image": "gone.png"}]
    printed, well = look(write(folder, records), "--max-samples", "2")
    assert well and line_of(printed, "records") == "2 in 1 file"
    assert line_of(printed, "ids") == "1 record with an earlier one's; the place is added to it"


def test_every_layout_has_a_name(folder):
    names = set()
    for protocol in published.SETS:
        for keys, _ in protocol.layouts:
            names.add(inspection.layout_of(dict.fromkeys(keys)))
    assert {"chartqa", "tabmwp", "cvbench", "m3cot"} <= names and "read" not in names
    assert inspection.layout_of(A) == "plain" and inspection.layout_of([A]) == "none"
    assert inspection.layout_of(turns("q", "a")) == "conversation"


def test_other_kinds_of_files(look, folder):
    (folder / "tabmwp.json").write_text(json.dumps(TABMWP))
    printed, _ = look(folder / "tabmwp.json")
    assert line_of(printed, "layouts") == "2 tabmwp"
    assert "no sheet: there is no picture to show" in printed
    record = {**CVBENCH, "image": {"bytes": png(), "path": None}}
    printed, well = look(write(folder, [record], "x.parquet"))
    assert well and line_of(printed, "layouts") == "1 cvbench"


# --- what it is good for ---


@pytest.mark.parametrize("layout", PAIRS)
def test_preference_pairs(look, folder, layout):
    printed, well = look(write(folder, [PAIRS[layout][0]]))
    assert well and line_of(printed, "layouts") == "1 preference pair"
    assert line_of(printed, "good for") == "train_dpo.py --pairs (1 record)"
    assert "--- chosen ---\nTwo." in printed and "--- rejected ---\nThree." in printed
    assert "gold" not in printed and "train_sft" not in printed


def test_a_meta_file_of_pairs(look, mmpr):
    printed, well = look(mmpr / "meta.json")
    assert well and line_of(printed, "layouts") == "6 preference pair"


def test_pairs_beside_questions(look, folder):
    printed, well = look(write(folder, [PAIRS["MMPR"][0], A, A]))
    assert not well and "1 preference pair beside 2 questions: no script reads both" in printed


def test_a_record_to_learn_nothing_from_is_a_problem(look, folder):
    printed, well = look(write(folder, [A, {"image": "images/a.png", "question": "What?"}]))
    [problem] = problems_in(printed)
    assert not well and "set.jsonl:2: nothing to imitate, neither" in problem
    assert line_of(printed, "good for") == "train_sft.py (1 record)"


def test_a_gold_that_is_no_choice_is_a_problem(look, folder):
    printed, well = look(write(folder, [{**A, "choices": ["4", "5"]}]))
    assert not well and "set.jsonl:1: " in problems_in(printed)[0]


@pytest.mark.parametrize(
    "template, answer, choices, says",
    [
        ("r1v", "yes", None, 'r1v asks for "(number)", but 1 of 2 gold answers are no number'),
        ("r1v", "B", ["red", "blue"], "no number"),
        ("superclevr", "red", None, "no number"),
        ("option", "yes", None, "2 of 2 gold answers are no option"),
        ("r1v", "3.5 cm", None, None),
        ("r1v", "1,000", None, None),
        ("think", "yes", None, None),
        ("direct", "yes", None, None),
    ],
)
def test_a_template_that_asks_for_another_answer(look, folder, template, answer, choices, says):
    records = [{**A, "answer": "12"}, {**A, "answer": answer, "choices": choices}]
    printed, well = look(write(folder, records), "--prompt-template", template)
    assert well and ("note: template" in printed) == bool(says) and (says or "") in printed


# --- what is wrong ---


def test_every_problem_is_found_with_its_line(look, folder):
    bad_images(folder)
    records = [
        A,
        {**A, "image": "images/cut.png"},
        {**A, "image": "images/gone.png"},
        {**A, "question": "How many <|image_pad|>?"},
        {**A, "images": ["images/text.png", "images/narrow.png"], "image": None},
        {**A, "answer": " "},
        ["no", "record"],
        A,
    ]
    path = write(folder, records)
    lines = path.read_text().splitlines()
    lines[1:1] = ["", '{"image": "a.png", ']
    path.write_text("\n".join(lines))
    printed, well = look(path)
    found = problems_in(printed)
    expected = [
        (3, "broken JSON"),
        (4, "cut.png cannot be opened"),
        (5, "gone.png does not exist"),
        (6, "contains the reserved token <|image_pad|>"),
        (7, "text.png cannot be opened (it is no picture"),
        (7, "is too narrow"),
        (8, "`answer` is empty"),
        (9, "expected an object"),
    ]
    assert not well and len(found) == len(expected)
    for problem, (line, says) in zip(found, expected):
        assert problem.startswith(f"{path}:{line}: ") and says in problem
    assert line_of(printed, "records") == "9 in 1 file: 2 good, 7 with a problem"
    assert line_of(printed, "tokens of a prompt")  # of the good ones


def test_many_problems_are_told_by_kind_and_all_are_kept(look, folder, tmp_path):
    records = [{**A, "image": f"gone{n}.png"} for n in range(30)]
    records += [{**A, "answer": []}] * 2 + [A]
    path = write(folder, records)
    printed, well = look(path)
    kept = (tmp_path / "out" / "sheet.txt").read_text().splitlines()
    assert not well and "\n32 problems\n" in printed and len(kept) == 32
    first, second = re.findall(r"^  (\d+ times: .*)$", printed, re.MULTILINE)
    assert first.startswith(f"30 times: {path}:1: image ") and "gone0.png" in first
    assert second.startswith(f"2 times: {path}:31: `answer`")
    assert f"also {path}:2, {path}:3, " in printed and f"{path}:20, and 10 more\n" in printed
    assert "gone29.png" in kept[29] and f"all of them: {tmp_path / 'out' / 'sheet.txt'}" in printed


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.json", '[{"image": 1},\n {"broken": ]', "a.json:2: broken JSON"),
        ("a.jsonl", "", "a.jsonl holds no record"),
        ("a.jsonl", b"\xff\xfe", "a.jsonl:1: not UTF-8"),
        ("a.parquet", "no parquet", "not a readable parquet file"),
    ],
)
def test_the_other_files_are_looked_at_after_one_that_cannot_be_read(
    look, folder, name, content, says
):
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(content)
    write(folder, [A], "b.jsonl")
    printed, well = look(folder)
    [problem] = problems_in(printed)
    assert not well and says in problem and "1 in b.jsonl" in printed


def test_a_prompt_that_does_not_fit_is_a_problem(look, folder):
    printed, well = look(write(folder, [A, {**A, "question": "How many? " * 9000}, A]))
    [problem] = problems_in(printed)
    assert not well and "set.jsonl:2: the prompt has" in problem and "does not fit" in problem


def test_what_is_printed_moves_no_cursor(look, folder):
    printed, _ = look(write(folder, [{**A, "question": "\x1b[2J How \u202emany?"}]))
    assert "?[2J How ?many?" in printed and "\x1b" not in printed


@pytest.mark.parametrize("spec", ["nothing.jsonl", "counting", ""])
def test_no_such_data(look, spec):
    with pytest.raises(UserError, match="no such file or folder"):
        look(spec)


# --- the command ---


def test_exit_codes_and_the_sheet_without_flags(folder, tmp_path, monkeypatch, capsys):
    """The one of problems is that of the real command."""
    monkeypatch.chdir(tmp_path)
    good, bad = write(folder, [A], "good.jsonl"), write(folder, [A, {}], "bad.jsonl")
    running.run(data.main, data.parse_args, [str(good)])
    done = subprocess.run([sys.executable, ROOT / "data.py", bad], capture_output=True, text=True)
    assert done.returncode == 1 and "1 problem\n" in done.stdout, done.stderr
    with pytest.raises(SystemExit) as stop:
        running.run(data.main, data.parse_args, ["none.jsonl"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    sheets = sorted(path.name for path in (tmp_path / "runs" / "data").iterdir())
    assert sheets == ["bad.png", "good.png"]


@pytest.mark.parametrize(
    "spec, name", [("count:test", "count-test"), ("a/b.jsonl", "b"), ("a:train", "a-train")]
)
def test_the_name_of_the_sheet(spec, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write((tmp_path / "a", (tmp_path / "a").mkdir())[0], [A], "b.jsonl")
    assert inspection.file_name(spec) == name


@pytest.mark.parametrize("output", ["sheet.jpg", "sheet", "{}.png"])
def test_where_the_sheet_cannot_go(output, tmp_path, capsys):
    (tmp_path / "x.png").mkdir()
    output = output.replace("{}", str(tmp_path / "x"))
    with pytest.raises(SystemExit) as stop:
        data.parse_args(["count", "--output", output])
    assert stop.value.code == 2 and "must be the name of a file" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit):
        data.parse_args(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: data.py") and "python data.py FILE --model Qwen" in printed
    for flag in ("--model", "--prompt-template", "--max-samples", "--max-pixels", "--output"):
        assert flag in printed


def test_of_a_hub_model_no_weights_are_fetched(tiny, tmp_path, monkeypatch):
    """Gigabytes, for a look at a file."""
    import huggingface_hub

    model, processor = tiny
    processor.save(tmp_path)
    model.config.save_pretrained(tmp_path)
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    find_model.fetch.cache_clear()
    try:
        loaded = processor_of("someone/small", max_pixels=784 * 9)
    finally:
        find_model.fetch.cache_clear()
    assert asked and "*.safetensors" not in asked
    assert loaded.image_processor.size["longest_edge"] == 784 * 9
    assert loaded.context == processor.context
