"""Sets of the hub by name: which split and config, what `datasets` saves, what it raises.

Command: pytest tests/test_hub.py. Expected: 2 s; 10 s where `datasets` is installed.
"""

import sys
import types

import pytest
from samples import png, refusal, write

import tasks
from tasks import folders, hub, images, pairs, stored

NAME = "owner/set"


def record(n, color):
    picture = {"bytes": png(color=color), "path": f"{n}.png"}
    return {"image": picture, "problem": f"q{n}", "solution": f"<answer> {n} </answer>"}


def arrow(path, records):
    """An Arrow file, as `datasets` has in its cache."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(records)
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return {"filename": str(path)}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A stand-in for `datasets`: fake.splits and fake.configs are what the hub has."""
    module = types.ModuleType("datasets")
    module.splits, module.configs, module.asked = {}, ["default"], []

    def load_dataset(path, config):
        module.asked.append((path, config))
        found = {}
        for split, parts in module.splits.items():
            files = [arrow(tmp_path / f"{split}-{n}.arrow", part) for n, part in enumerate(parts)]
            found[split] = types.SimpleNamespace(cache_files=files)
        return found

    module.load_dataset = load_dataset
    module.get_dataset_config_names = lambda path: module.configs
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_the_shards_of_a_split_are_read_in_order(fake):
    fake.splits = {
        "train": [[record(1, "red")], [record(2, "lime"), record(3, "blue")]],
        "test": [[record(4, "white")]],
    }
    got = tasks.read(NAME, training=True)
    assert [e.answer for e in got] == ["1", "2", "3"]
    assert [e.id for e in got] == [f"{NAME}:train:{n}" for n in (1, 2, 3)]
    assert got[2].source == f"{NAME}:train:3" and fake.asked == [(NAME, None)]
    assert isinstance(got[0].images[0], stored.Stored)
    assert images.open_images(got[1])[0].getpixel((0, 0)) == (0, 255, 0)
    assert [e.answer for e in tasks.read(f"{NAME}:test")] == ["4"]
    assert "has no split ood, but train, test" in refusal(tasks.read, f"{NAME}:ood")


def test_another_split_trains_only_when_it_is_named(fake):
    fake.splits = {"validation": [[record(1, "red")]]}
    assert len(tasks.read(NAME)) == 1
    text = refusal(tasks.read, NAME, training=True)
    assert "has no split train, but validation" in text and f"{NAME}:validation" in text
    assert len(tasks.read(f"{NAME}:dev", training=True)) == 1


def test_rows_that_say_another_split_than_the_hub(fake):
    said = {"image": None, "problem": "q", "solution": "3"}
    fake.splits = {
        "train": [[{**said, "split": "train"}], [{**said, "split": "test"}]],
        "dev": [[{**said, "split": "validation"}]],
    }
    assert "2: its `split` is test, but it is read as train" in refusal(tasks.read, NAME)
    assert len(tasks.read(f"{NAME}:dev")) == 1
    assert f"say {NAME}:dev" in refusal(tasks.read, f"{NAME}:vlaidation")


@pytest.mark.parametrize(
    "configs, name, asked, says",
    [
        (["default"], NAME, (NAME, None), None),
        (["main"], NAME, (NAME, None), None),
        (["a", "b"], f"{NAME}/b", (NAME, "b"), None),
        (["a", "b"], NAME, None, f"has the configs a, b, and --data says none; say {NAME}/a"),
        (["a", "b"], f"{NAME}/c", None, "is not among them"),
    ],
)
def test_configs(fake, configs, name, asked, says):
    fake.configs, fake.splits = configs, {"train": [[record(1, "red")]]}
    if says:
        assert says in refusal(tasks.read, name)
    else:
        assert len(tasks.read(name)) == 1 and fake.asked == [asked]


class DatasetNotFoundError(FileNotFoundError):
    pass


class GatedRepoError(Exception):
    pass


RAISED = {
    "no such set": (DatasetNotFoundError("Dataset 'x' doesn't exist"), "check the name"),
    "closed": (GatedRepoError("Access to it is restricted"), "hf auth login"),
    "closed, as datasets says it": (
        DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub."),
        "hf auth login",
    ),
    "no network": (ConnectionError("Couldn't reach the Hub\nmax retries"), "out of reach"),
    "a script": (RuntimeError("Dataset scripts are no longer supported"), "fetch its files"),
}


@pytest.mark.parametrize("case", RAISED)
def test_what_the_hub_raises_is_one_sentence(fake, monkeypatch, case):
    error, remedy = RAISED[case]

    def fails(path):
        raise error

    monkeypatch.setattr(fake, "get_dataset_config_names", fails)
    text = refusal(tasks.read, NAME)
    assert text.startswith(f"--data {NAME}") and remedy in text
    has_path_first = case in ("no such set", "no network")
    assert ("no such file or folder" if has_path_first else "cannot be fetched (") in text


def test_without_datasets_the_remedy_is_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = refusal(tasks.read, NAME)
    assert "no such file or folder" in text and "pip install datasets" in text


def test_a_path_that_is_misspelt_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "sets.jsonl").touch()
    for spec in ("data/trian", "data/trian:test", "data/trian/x.jsonl"):
        for call in (tasks.read, pairs.read_pairs):
            said = refusal(call, spec)
            assert "no such file or folder" in said and "(is data/train meant?)" in said
    assert "(is sets.jsonl meant?)" in refusal(tasks.read, "set.jsonl")
    assert "(is count meant?)" in refusal(tasks.read, "cuont")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "no such file or folder (is data meant?)" in refusal(tasks.read, "dta/train")


def test_a_path_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / NAME).mkdir(parents=True)
    write(tmp_path / NAME, [{"question": "q", "answer": "mine"}])
    assert [e.answer for e in tasks.read(NAME)] == ["mine"]


@pytest.mark.parametrize("spec", ["x.jsonl", "a/x.jsonl", "/a/b", "./a", "a/b/c/d", "count", "~/x"])
def test_what_is_no_name_of_the_hub(spec):
    assert not hub.is_name(spec)


@pytest.mark.parametrize(
    "specs, names",
    [
        ([NAME], ["set"]),
        ([f"{NAME}:test"], ["set:test"]),
        ([NAME, "other/set"], [NAME, "other/set"]),
        ([f"{NAME}/config"], ["set/config"]),
    ],
)
def test_short_names(specs, names):
    assert list(folders.short_names(specs).values()) == names


# --- with the package itself, without network ---


@pytest.fixture
def real(tmp_path, monkeypatch):
    """`datasets`, for which NAME is a folder as the hub has it."""
    datasets = pytest.importorskip("datasets")
    home = tmp_path / "hub"
    (home / "data").mkdir(parents=True)
    write(home / "data", [record(n, "red") for n in range(3)], "train-00000-of-00001.parquet")
    write(home / "data", [record(9, "blue")], "test-00000-of-00001.parquet")
    load, names = datasets.load_dataset, datasets.get_dataset_config_names

    def load_dataset(path, config):
        return load(str(home), config, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: names(str(home)))
    return datasets


def test_a_set_of_the_package(real):
    got = tasks.read(f"{NAME}:test") + tasks.read(NAME, training=True)
    assert [e.answer for e in got] == ["9", "0", "1", "2"]
    assert images.open_images(got[0])[0].getpixel((0, 0)) == (0, 0, 255)
    assert all(isinstance(e.images[0], stored.Stored) for e in got)


def test_what_save_to_disk_writes(real, tmp_path):
    found = real.load_dataset(NAME, None)
    found.save_to_disk(str(tmp_path / "all"))
    found["train"].save_to_disk(str(tmp_path / "one"))
    assert [e.answer for e in tasks.read(tmp_path / "all", training=True)] == ["0", "1", "2"]
    assert [e.answer for e in tasks.read(f"{tmp_path / 'all'}:test")] == ["9"]
    assert [e.answer for e in tasks.read(tmp_path / "one", training=True)] == ["0", "1", "2"]
