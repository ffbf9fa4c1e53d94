"""What a file holds: shapes of JSON, keys that stand twice, tables, and what is no data at all.

Command: pytest tests/test_file_shapes.py. Expected: 5 s.
"""

import pytest
from samples import GOOD, refusal, write

import tasks
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from tasks import files

A, B = '{"question": "q", "answer": "1"}', '{"question": "q", "answer": "2"}'
SHAPES = {  # of a JSON text: (the text, the answers, the places)
    "one object": (A, "1", "1"),
    "one object, indented": ('\n{"question": "q",\n "answer": "1"}', "1", "2"),
    "data": (f'{{"version": 1, "data": [\n{A},\n{B}]}}', "12", "2 3"),
    "questions": (f'{{"questions": [{A}, {B}], "info": {{"a": [{{}}]}}}}', "12", "1#1 1#2"),
    "annotations": (f'{{"annotations":\n[{A}]}}', "1", "2"),
    "split and data": (f'{{"dataset_split": "val", "data": [{A}]}}', "1", "1"),
    "splits": (f'{{"train": [\n{A}],\n"test": [\n{B}]}}', "1", "2"),
    "an empty split": (f'{{"train": [\n{A}], "validation": []}}', "1", "2"),
    "objects of objects": (f'{{"7": {A},\n"8": {B}}}', "12", "1 2"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_a_json_text(tmp_path, shape):
    text, golds, places = SHAPES[shape]
    (tmp_path / "x.json").write_text(text)
    split = ":train" if shape == "splits" else ""
    got = tasks.read(f"{tmp_path / 'x.json'}{split}")
    assert "".join(e.answer for e in got) == golds
    assert [e.source.rpartition(":")[2] for e in got] == places.split()


NO_SHAPES = {  # (the text, what is said)
    "two lists": (f'{{"images": [{{}}], "annotations": [{A}]}}', "holds the lists images and"),
    "two splits": (f'{{"train": [{A}], "test": [{B}]}}', ": its `split` is test, but"),
    "test alone": (f'{{"test": [{B}]}}', ": its `split` is test, but what is trained on is train"),
    "DocVQA's test": (f'{{"dataset_split": "test", "data": [{A}]}}', "its `split` is test"),
    "an unknown key": (f'{{"meta": 1, "entries": [{A}]}}', "no question; expected `question`"),
    "a key twice": (f'{{"data": [{A}], "data": [{B}]}}', "'data' is there a second time"),
}


@pytest.mark.parametrize("shape", NO_SHAPES)
def test_shapes_that_say_too_little(tmp_path, shape):
    text, says = NO_SHAPES[shape]
    (tmp_path / "x.json").write_text(text)
    assert says in refusal(tasks.read, tmp_path / "x.json", training=True)


TWICE = '{"question": "q", "answer": "3", "answer": "4"}'
TWICE_TEXTS = {  # (the name, the text, the line of the record with a key twice)
    "a line": ("x.jsonl", f"{A}\n{TWICE}\n{B}", "2"),
    "a line of a .json": ("x.json", f"{A}\n{TWICE}\n{B}", "2"),
    "in a list": ("x.json", f"[{A},\n{TWICE},\n{B}]", "2"),
    "deep in it": ("x.json", f'[{A},\n{{"a": [{TWICE}]}},\n{B}]', "2"),
    "in an object": ("x.json", f'{{"7": {A},\n"8": {TWICE}, \n"9": {B}}}', "2"),
}


@pytest.mark.parametrize("case", TWICE_TEXTS)
def test_a_key_with_two_values_is_an_error_of_its_record(tmp_path, case):
    name, text, line = TWICE_TEXTS[case]
    path = tmp_path / name
    path.write_text(text)
    says = f"{path}:{line}: `answer` is there twice, with two values; delete one"
    assert refusal(tasks.read, path) == says
    assert [e.answer for e in tasks.read(path, bad=BadRecords(skip=True))] == ["1", "2"]
    path.write_text(text.replace('"4"', '"3"').replace('{"a": [', "").replace("]}", ""))
    assert [e.answer for e in tasks.read(path)] == ["1", "3", "2"]  # the same value twice


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_what_is_nested_near_the_limit_is_read_or_refused(tmp_path, name):
    for depth in range(900, 1000, 3):
        deep = '{"a": ' * depth + "1" + "}" * depth
        (tmp_path / name).write_text(f'[{A}, {{"question": "q", "answer": "2", "deep": {deep}}}]')
        try:
            list(files.rows_of(tmp_path / name, ""))
        except UserError as error:
            assert "nested too deeply" in str(error)


BROKEN = {  # (the name, what a whole file holds, what is said)
    "a pointer, lines": ("x.jsonl", "POINTER", "is a git-lfs pointer"),
    "a pointer, list": ("x.json", "POINTER", "run git lfs pull"),
    "a pointer, parquet": ("x.parquet", "POINTER", "run git lfs pull"),
    "a pointer, arrow": ("x.arrow", "POINTER", "run git lfs pull"),
    "a pointer, table": ("x.tsv", "POINTER", "run git lfs pull"),
    "a web page": ("x.jsonl", "<!DOCTYPE html>\n<p>\n" * 2000, "no other record of the file"),
    "a web page as a list": ("x.json", "<!DOCTYPE html>\n<p>\n", "broken JSON"),
    "a table": ("x.jsonl", "question,answer\nq,3\n", "no other record of the file"),
    "an indented list": ("x.jsonl", '[\n{"question": "q"\n "answer": 3}]', ":3: broken JSON"),
    "UTF-16": ("x.jsonl", b"\xff\xfe{\0}\0\n\0{\0}\0", "not UTF-8"),
    "UTF-16, list": ("x.json", b"\xff\xfe[\0{\0}\0\n\0]\0", "not UTF-8"),
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_broken_as_a_whole_is_one_error(tmp_path, case):
    name, content, says = BROKEN[case]
    content = POINTER if content == "POINTER" else content
    path = tmp_path / "set" / name
    path.parent.mkdir()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    write(tmp_path / "set", [GOOD] * 2, "good.jsonl")
    spec = path if name == "x.tsv" else path.parent
    bad = BadRecords(skip=True)
    for reading in ({}, {"bad": bad}):
        text = refusal(tasks.read, spec, **reading)
        assert says in text and text.startswith(str(path))
    assert not bad.found


def test_a_picture_that_is_a_pointer(folder):
    (folder / "images" / "a.png").write_text(POINTER)
    path = write(folder, [{"image": "images/a.png", **GOOD}])
    assert "it is a git-lfs pointer: run git lfs pull" in refusal(tasks.read, path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.tsv"])
def test_a_byte_that_is_no_utf8_costs_its_line(tmp_path, name):
    path = tmp_path / name
    lines = [A, A.replace("q", "caf\xe9"), B] if name != "x.tsv" else ["question\tanswer", "q\t1"]
    lines += ["caf\xe9\t3", "q\t2"] if name == "x.tsv" else []
    path.write_bytes("\n".join(lines).encode("latin-1"))
    line = 3 if name == "x.tsv" else 2
    assert refusal(tasks.read, path).startswith(f"{path}:{line}: not UTF-8 text")
    bad = BadRecords(skip=True)
    assert [e.answer for e in tasks.read(path, bad=bad)] == ["1", "2"]
    assert list(bad.found) == [(f"{path}:{line}", f"{name}:{line}")]


# --- tables ---

ODD_TEXTS = [
    "a",
    'say "hi"',
    '"',
    '""',
    "two\nlines",
    "tab\there",
    '"a\tb\n',
    '5" wide',
    "é\u2028x",
]


def test_what_pandas_writes_is_read_exactly(tmp_path):
    pandas = pytest.importorskip("pandas")
    questions = [f"q {text}." for text in ODD_TEXTS]
    table = pandas.DataFrame({"question": questions, "extra": ODD_TEXTS, "answer": "a"})
    table.loc[3, "extra"] = None
    table.to_csv(tmp_path / "x.tsv", sep="\t", index=False)
    got = [record for _, _, record in files.rows_of(tmp_path / "x.tsv", "")]
    extra = [*ODD_TEXTS[:3], None, *ODD_TEXTS[4:]]
    assert [r["question"] for r in got] == questions and [r["extra"] for r in got] == extra
    read = pandas.read_csv(tmp_path / "x.tsv", sep="\t", keep_default_na=False)
    assert list(read["question"]) == questions


TABLES = {  # the rows below "question, answer, extra": what is said, and the answers with skipping
    "none closed": (['"Hello\t1\tx', "q\t2\ty", "q\t3\tz"], ":2: a quote opens", None),
    "closed in another row": (['"Hello\t1\tx', 'q"\t2\ty', "q\t3\tz"], ":2: a quote opens", None),
    "a row of them": (['q\t"Hello\tA', 'r\tWorld"\tB', "q\t3\tz"], ":2: a quote opens", None),
    "at the end": (["q\t1\tx", '"q\t2\ty'], ":3: unexpected end of data", "1"),
    "words after it": (["q\t1\tx", '"q" or r\t2\ty', "q\t3\tz"], ":3: '\t' expected", "13"),
    "inside": (["q\t1\tx", 'a 5" screen\t2\ty', "q\t3\tz"], None, "123"),
    "a carriage return": (["q\t1\tx", "q\r r\t2\ty", "q\t3\tz"], ":3: new-line character", "13"),
    "short": (["q\t1\tx", "q\t2", "q\t3\tz"], ":3: 2 fields, but 3 columns", "13"),
}


@pytest.mark.parametrize("case", TABLES)
def test_quotes_in_a_table_swallow_no_rows(tmp_path, case):
    rows, says, golds = TABLES[case]
    path = tmp_path / "x.tsv"
    path.write_text("\n".join(["question\tanswer\textra", *rows]) + "\n" * (case != "at the end"))
    bad = BadRecords(skip=True)
    if says:
        assert refusal(tasks.read, path).startswith(f"{path}{says}")
    if golds:
        assert "".join(e.answer for e in tasks.read(path, bad=bad)) == golds
    else:
        assert says in refusal(tasks.read, path, bad=bad)


def test_two_columns_of_a_table_have_one_name(tmp_path):
    (tmp_path / "x.tsv").write_text("question\tanswer\tanswer\nq\t1\t2\n")
    assert "x.tsv:1: two columns are named answer" in refusal(tasks.read, tmp_path / "x.tsv")
