"""Parquet and Arrow files: a few rows at a time, embedded pictures as places in a file.

Command: pytest tests/test_parquet.py. Expected: 5 s; the slow one 30 s.
"""

import io
import multiprocessing
import pickle
import subprocess
import sys

import pytest
from PIL import Image
from samples import png, refusal

import tasks
from plumbing.bad_records import BadRecords
from tasks import files, images, parquet, stored

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

COLORS = ["red", "lime", "blue"] * 50


def rows():
    pictures = [{"bytes": png(color=color), "path": None} for color in COLORS]
    pictures[4] = None
    return [
        {"image": p, "images": [p, p], "none": None, "question": f"q{n}", "answer": str(n)}
        for n, p in enumerate(pictures)
    ]


def write_arrow(path, table, kind="stream", **options):
    """An Arrow file of two batches."""
    writer = {"stream": pyarrow.ipc.new_stream, "file": pyarrow.ipc.new_file}[kind]
    with writer(path, table.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as opened:
        opened.write_table(table, max_chunksize=100)
    return path


FORMS = {
    "stream": ("stream", {}),
    "file": ("file", {}),
    "compressed": ("stream", {"compression": "zstd"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_arrow_files_hold_what_was_written_and_where(tmp_path, form):
    kind, options = FORMS[form]
    path = write_arrow(tmp_path / "x.arrow", pyarrow.Table.from_pylist(rows()), kind, **options)
    got = [record for _, _, record in parquet.read_arrow(path)]
    assert got == rows()
    for record in got:
        for picture in [record["image"], *record["images"]]:
            place = getattr(picture and picture["bytes"], "place", None)
            assert (place is None) == (picture is None or form == "compressed")
            assert place is None or place.read() == picture["bytes"]


def test_arrow_and_parquet_give_the_same_examples(tmp_path):
    table = pyarrow.Table.from_pylist([r for r in rows() if r["image"]])
    table = table.select(["image", "question", "answer"])
    write_arrow(tmp_path / "x.arrow", table)
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    one, other = tasks.read(tmp_path / "x.arrow"), tasks.read(tmp_path / "x.parquet")
    assert [(e.question, e.answer) for e in one] == [(e.question, e.answer) for e in other]
    for a, b in zip(one, other):
        [left], [right] = images.open_images(a), images.open_images(b)
        assert left.tobytes() == right.tobytes()
    assert all(isinstance(e.images[0], stored.Stored) for e in one)


def test_broken_arrow_files_are_refused(tmp_path):
    path = write_arrow(tmp_path / "x.arrow", pyarrow.Table.from_pylist(rows()))
    whole = path.read_bytes()
    for damaged in (b"", b"x" * 100, whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        assert refusal(tasks.read, path).startswith(f"{path}: not a readable arrow file")


def test_narrow_floats_keep_their_digits(tmp_path):
    """0.1 of 32 bits became the gold 0.10000000149011612."""
    narrow, half, wide = pyarrow.float32(), pyarrow.float16(), pyarrow.float64()
    struct = pyarrow.struct([("a", narrow), ("b", pyarrow.list_(pyarrow.struct([("c", narrow)])))])
    columns = {
        "answer": ([0.1, 1e-5], narrow),
        "half": ([0.1, None], half),
        "wide": ([0.10000000149011612, 0.1], wide),
        "list": ([[0.1, 0.7], None], pyarrow.list_(narrow)),
        "pair": ([[0.1, 0.7], [1, 2]], pyarrow.list_(narrow, 2)),
        "struct": ([{"a": 0.1, "b": [{"c": 0.7}]}, None], struct),
        "map": ([[("x", 0.1)], None], pyarrow.map_(pyarrow.string(), narrow)),
    }
    arrays = {key: pyarrow.array(values, kind) for key, (values, kind) in columns.items()}
    table = pyarrow.table({"question": ["q", "q"], **arrays})
    pyarrow.parquet.write_table(table.drop_columns("half"), tmp_path / "x.parquet")
    write_arrow(tmp_path / "x.arrow", table)
    expected = {key: values for key, (values, _) in columns.items()}
    expected["map"] = [[["x", 0.1]], None]
    for name, read in (("x.parquet", parquet.read_parquet), ("x.arrow", parquet.read_arrow)):
        records = [record for _, _, record in read(tmp_path / name)]
        for key in records[0].keys() - {"question"}:
            assert [record[key] for record in records] == expected[key], key
        assert [example.answer for example in tasks.read(tmp_path / name)] == ["0.1", "0.00001"]


DAMAGED = """
import random, sys, tasks
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError

path, rng = sys.argv[1], random.Random(0)
whole = open(path, "rb").read()
for number in range(250):
    damaged = bytearray(whole)
    for _ in range(rng.choice([1, 2, 4])):
        damaged[rng.randrange(len(whole))] = rng.choice([0, 0x7F, 0xFF, rng.randrange(256)])
    open(path, "wb").write(damaged)
    try:
        tasks.read(path, bad=BadRecords(skip=number % 2 == 1))
    except UserError as error:
        assert "\\n" not in str(error) and path in str(error), error
"""


@pytest.mark.parametrize("form", FORMS)
def test_damaged_arrow_files_are_refused_and_crash_nothing(tmp_path, form):
    """Of 400 such files 5 ended the process (a segmentation fault), and 6 raised SystemError.

    In a process of its own, which a crash would end.
    """
    kind, options = FORMS[form]
    table = pyarrow.Table.from_pylist(rows()[:4]).select(["image", "question", "answer"])
    path = write_arrow(tmp_path / "x.arrow", table, kind, **options)
    command = [sys.executable, "-c", DAMAGED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_columns_with_categories_are_read(tmp_path, kind):
    table = pyarrow.table({"question": ["a", "b", "a"], "answer": ["1", "2", None], "n": [1, 2, 3]})
    table = table.set_column(0, "question", table["question"].dictionary_encode())
    table = table.set_column(1, "answer", table["answer"].dictionary_encode())
    write_arrow(tmp_path / "x.arrow", table, kind)
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    for name in ("x.arrow", "x.parquet"):
        got = [record for _, _, record in files.rows_of(tmp_path / name, "")]
        assert got == table.to_pylist()


def test_an_arrow_file_without_columns_is_refused(tmp_path):
    """Its rows are a number alone, which damage had made 10^14."""
    write_arrow(tmp_path / "x.arrow", pyarrow.table({"a": [1]}).select([]))
    assert "not a readable arrow file (it has no columns)" in refusal(
        tasks.read, tmp_path / "x.arrow"
    )


# --- pictures in a file without a name ---


def test_pictures_beyond_the_memory_are_places_that_can_be_read(tmp_path):
    store = stored.Store(in_memory=5)
    kept = [store.keep(text) for text in (b"abc", b"defg", b"h", "a.png")]
    assert kept[0] == b"abc" and kept[3] == "a.png"
    assert [place.read() for place in kept[1:3]] == [b"defg", b"h"]
    assert pickle.loads(pickle.dumps(kept[1])).read() == b"defg"
    assert list(tmp_path.iterdir()) == []


def read_all(places):
    return [place.read() for place in places]


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_worker_processes_read_the_places(how):
    store = stored.Store(in_memory=0)
    texts = [bytes([n]) * 1000 for n in range(20)]
    places = [store.keep(text) for text in texts]
    with multiprocessing.get_context(how).Pool(2) as pool:
        assert pool.map(read_all, [places, places[::-1]]) == [texts, texts[::-1]]


def test_a_full_disk_says_what_to_do(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "spill_file", full)
    text = refusal(stored.Store(in_memory=0).keep, b"picture")
    assert "No space left" in text and "set TMPDIR" in text


def test_a_place_that_has_gone_names_the_record(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(png()[:20])
    text = refusal(images.open_image, stored.Stored(str(path), 0, 4000), "set.arrow:3")
    assert text.startswith("set.arrow:3: its embedded image cannot be opened")


# --- what is left out ---


def test_rows_that_python_cannot_hold_are_left_out(tmp_path):
    column = pyarrow.array([1, 2**61, 3], pyarrow.timestamp("us"))
    table = pyarrow.table({"question": ["a", "b", "c"], "answer": ["1", "2", "3"], "at": column})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    bad = BadRecords(skip=True)
    assert [e.question for e in tasks.read(tmp_path / "x.parquet", bad=bad)] == ["a", "c"]
    [found] = bad.found.values()
    assert found["record"] == f"{tmp_path / 'x.parquet'}:2" and "`at`" in found["reason"]


# --- memory ---

PEAK = """
import resource, sys, tasks
from tasks import images
examples = tasks.read(sys.argv[1])
for example in examples[::50]:
    images.open_images(example)
print(len(examples), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(path):
    """Read a set in a process of its own: (examples, its peak memory in MiB)."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    return tuple(map(int, done.stdout.split()[-2:]))


@pytest.mark.slow
@pytest.mark.parametrize("rows_a_group", [100, 10_000])
def test_a_set_of_600_mb_needs_little_more_memory_than_a_small_one(tmp_path, rows_a_group):
    """Its pictures alone would be 600 MB; 64 MiB of them stay, and 64 rows are in work."""
    buffer = io.BytesIO()
    Image.effect_noise((400, 500), 90).save(buffer, "PNG")
    encoded = buffer.getvalue()
    for name, size in (("small", 20), ("large", 600_000_000 // len(encoded))):
        pictures = [{"bytes": encoded + bytes([n % 256]), "path": None} for n in range(size)]
        columns = {"image": pictures, "question": ["q"] * size, "answer": ["a"] * size}
        path = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=rows_a_group)
    few, small = peak(tmp_path / "small.parquet")
    many, large = peak(tmp_path / "large.parquet")
    assert few == 20 and many > 2000
    assert large - small < 300
