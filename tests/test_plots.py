"""Run: python -m pytest -q tests/test_plots.py        (about 6 s on CPU, mostly matplotlib)

A picture that fails is a warning. So each test of a picture also fails if there was one.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fast import bench
from plumbing import plots

ROOT = Path(__file__).resolve().parents[1]
NASTY = (
    "5 $ and $x^$ or $\\frac{$ \x00\x07\x1b[31m \ud83d \U0001f600 "
    "日本語 e\u0301 \u202e tab\t line\n"
    "שלום مرحبا हिन्दी \u200b" + "w" * 400
)
NAMES = ["$x^$", "$", "_hidden", "__", "a\nb\r\nc", "\udcff.jsonl", "", " ", "x" * 5000, "%s {0}"]
NAMES += ["שלום", "مرحبا", "\u202eabc", "\U0001f600", "e\u0301" * 30, "\\", "^_{}", NASTY]


@pytest.fixture(autouse=True)
def no_warning(request, capsys):
    """Fail where a picture could not be drawn, unless the test says that it expects that."""
    yield
    if "warned" not in request.fixturenames:
        assert "warning" not in capsys.readouterr().err


@pytest.fixture
def warned(capsys):
    """warned(): the one line that was said on stderr."""

    def said():
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: ") and line.endswith("; the run goes on without it")
        return line

    return said


def whole_png(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 50
        assert len(image.convert("L").getcolors()) > 5  # something is drawn on it
        return image.size


def sheet(text, picture=None, **more):
    images = [picture or Image.new("RGB", (56, 56), "red")]
    said = [(text, {"accuracy": 1.0, "format": 0.0}), ("", {})]
    return [{"images": images, "question": text, "answer": text, "completions": said} | more]


# --- what is drawn ---


def test_curve(tmp_path):
    lines = [{"step": s, "reward": s / 90, "kl": None} for s in range(90)]
    for line in lines[::30]:
        line["accuracy"] = 0.5
    metrics = lines
    panels = [("reward", ["reward", "absent"]), ("nothing", ["kl"])]
    plots.plot_curve(metrics, tmp_path / "one.png", panels, "a run")
    panels = [("reward", ["reward"]), ("accuracy", ["accuracy"])]
    plots.plot_curve(metrics, tmp_path / "two.png", panels, "a run")
    one, two = whole_png(tmp_path / "one.png"), whole_png(tmp_path / "two.png")
    # The panel without data was left out of the first.
    assert two[0] == pytest.approx(2 * one[0], abs=2)


def test_no_data_no_curve(tmp_path):
    metrics = [{"step": 0, "kl": None}]
    plots.plot_curve(metrics, tmp_path / "c.png", [("a", ["kl", "absent"])])
    plots.plot_curve([], tmp_path / "c.png", [("a", ["kl"])])
    assert not (tmp_path / "c.png").exists()


def test_a_very_long_completion_keeps_the_sheet_small(tmp_path):
    plots.plot_samples(sheet("word " * 20000), tmp_path / "long.png")
    assert max(whole_png(tmp_path / "long.png")) < 2000


def test_boxes_are_drawn_on_the_picture(tmp_path):
    """Gold in white, the completions' in red, yellow and blue: seen in the sheet's pixels."""
    green = Image.new("RGB", (112, 112), (0, 128, 0))
    red, gold, blue = (255, 0, 0), (255, 215, 0), (0, 0, 255)

    def shades(**more):
        plots.plot_samples(sheet("here", green, **more), tmp_path / "sheet.png")
        image = Image.open(tmp_path / "sheet.png").convert("RGB")
        return {color for _, color in image.getcolors(1 << 24)}

    boxes = [[(10, 10, 50, 50)], [(20, 20, 60, 60), (70, 70, 90, 100)]]
    boxes += [[(1, 1, 30, 30)], [(60, 5, 100, 30)]]
    assert {red, gold, blue} <= shades(boxes=boxes)
    assert not {red, gold, blue} & shades()
    assert red not in shades(boxes=boxes[:1]) and red not in shades(boxes=[])


def test_a_sheet_without_a_picture(tmp_path):
    plots.plot_samples(sheet("a question", images=[]), tmp_path / "sheet.png")
    whole_png(tmp_path / "sheet.png")


# --- any text ---


def test_printable():
    assert plots.printable("plain é ü α $5$") == "plain é ü α $5$"
    assert plots.printable("a\x00b\x1b\ud83d\U0001f600日") == "a?b????"
    assert plots.printable("two\nlines") == "two lines"
    assert all(c.isprintable() for c in plots.printable("".join(map(chr, range(0x3000)))))


def test_titles_and_labels_fit():
    assert plots.label_of("rewards/accuracy") == "rewards/accuracy"
    assert len(plots.label_of("a" * 100 + "b" * 100)) == 60
    assert plots.label_of("_hidden") == " _hidden"
    lines = plots.title_of("x" * 5000, 4.2).split("\n")
    assert len(lines) <= 3 and max(map(len, lines)) <= 50
    assert plots.title_of("a short one", 4.2) == "a short one"


SCALING = {"step": 1, "greedy_tokens": 9.0, "majority_tokens": 20.0}
for name in ("pass@k", "majority@k"):
    SCALING |= {name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.6}
RESULT = {"accuracy": 1.0, "accuracy_low": 0.9, "accuracy_high": 1.0}


def test_a_name_is_no_mathematics(tmp_path):
    """A path with dollar signs is a broken formula to matplotlib: it ended the run at its end."""
    lines = [{"step": s} | dict.fromkeys(NAMES, s) for s in range(3)]
    metrics = lines
    panels = [(name, [name]) for name in NAMES]
    plots.plot_curve(metrics, tmp_path / "curve.png", panels, NAMES[0], x=NAMES[0])
    rows = [row for name in NAMES for row in sheet(name)]
    plots.plot_samples(rows, tmp_path / "samples.png", " ".join(NAMES))
    plots.plot_scaling([SCALING], RESULT, tmp_path / "scaling.png", NASTY)
    for png in ("curve.png", "samples.png", "scaling.png"):
        whole_png(tmp_path / png)


def test_a_directory_may_have_any_name(tmp_path):
    for name in ("$x^$", "_", "日本", "%d{}", "\udcff", " "):
        png = tmp_path / name / "samples.png"
        plots.plot_samples(sheet("text"), png, str(png))
        whole_png(png)


def test_a_legend_shows_names_that_begin_with_an_underscore(tmp_path):
    """matplotlib leaves them out, and the legend is smaller."""
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    plots.draw_curve(ax, "_a", [(0, 1), (1, 2)])
    assert [text.get_text() for text in ax.legend().get_texts()] == [" _a"]


def test_the_settings_of_a_person_do_not_end_a_picture(tmp_path, monkeypatch):
    """matplotlibrc with LaTeX, which is not installed here."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "axes.formatter.use_mathtext", True)
    plots.plot_samples(sheet("100 % of $x^$"), tmp_path / "samples.png", "a_b")
    metrics = [{"step": s, "a": s * 1e12} for s in range(3)]
    plots.plot_curve(metrics, tmp_path / "curve.png", [("a", ["a"])])
    whole_png(tmp_path / "samples.png")
    assert matplotlib.rcParams["text.usetex"] is True


# --- what fails ---


def every_plot(png, tmp_path):
    """Each kind of picture that a run draws, as a function without arguments."""
    metrics = [{"step": s, "a": s} for s in range(3)]
    timing = {"against": "G", "what": "update", "value": 1, "seconds": 1, "low": 0.9, "high": 1.1}
    base = {"G": 1, "P": 2, "T": 3}
    yield lambda: plots.plot_curve(metrics, png, [("a", ["a"])])
    yield lambda: plots.plot_samples(sheet("text"), png)
    yield lambda: plots.plot_scaling([SCALING], RESULT, png, "title")
    yield lambda: bench.plot_scaling([timing], png, base)


def test_a_failure_is_one_warning_and_the_old_picture_stays(tmp_path, monkeypatch, warned):
    from matplotlib.figure import Figure

    def fill_the_disk(self, path, **_):
        Path(path).write_bytes(b"half a pict")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    png = tmp_path / "a picture.png"
    png.write_text("the old one")
    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    for draw in every_plot(png, tmp_path):
        draw()
        line = warned()
        assert str(png) in line and "OSError: [Errno 28] No space left on device" in line
    assert png.read_text() == "the old one"
    assert {path.name for path in tmp_path.iterdir()} == {"a picture.png"}


def test_any_error_of_matplotlib_is_a_warning_in_one_line(tmp_path, monkeypatch, warned):
    from matplotlib.figure import Figure

    for error in (ValueError("two\nlines"), RuntimeError(), MemoryError(), IndexError("x" * 9999)):
        monkeypatch.setattr(Figure, "tight_layout", lambda _, error=error: raise_(error))
        plots.plot_samples(sheet("text"), tmp_path / "a.png")
        line = warned()
        assert type(error).__name__ in line and len(line) < 500


def raise_(error):
    raise error


def test_no_matplotlib_is_a_warning(tmp_path, monkeypatch, warned):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plots.plot_samples(sheet("text"), tmp_path / "a.png")
    assert "ModuleNotFoundError" in warned()


def test_ctrl_c_and_wrong_calls_are_no_warnings(tmp_path, monkeypatch):
    with pytest.raises(TypeError):
        plots.plot_samples(sheet("text"), tmp_path / "a.png", colour="red")
    monkeypatch.setattr(plots, "text_of", lambda row: raise_(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        plots.plot_samples(sheet("text"), tmp_path / "a.png")


def test_a_directory_that_cannot_be_made_is_a_warning(tmp_path, warned):
    (tmp_path / "file").write_text("in the way")
    plots.plot_samples(sheet("text"), tmp_path / "file" / "samples" / "a.png")
    assert "NotADirectoryError" in warned()


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from matplotlib.figure import Figure
from plumbing import plots
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
row = {"images": [], "question": "q", "answer": "a", "completions": []}
plots.plot_samples([row], sys.argv[2])
"""


def test_a_file_size_limit_is_a_warning(tmp_path):
    """The real thing: the system refuses to write more than 1000 bytes."""
    png = tmp_path / "a.png"
    command = [sys.executable, "-c", LIMITED, str(ROOT), str(png)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0 and "OSError: [Errno 27]" in done.stderr
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_figure_of_several_runs_takes_any_name(tmp_path, monkeypatch):
    from recipes import seed_plot

    for run in ("$a^$", "_b"):
        (tmp_path / run).mkdir()
        lines = [{"step": s, "loss": 1.0 / (s + 1)} for s in range(50)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / run / "metrics.jsonl").write_text(text, encoding="utf-8")
    line = ["seed_plot.py", str(tmp_path / "$.png"), "--title", "$x^$", "--metrics", "$l^$=loss"]
    line += ["--runs", f"_one={tmp_path}/$a^$,{tmp_path}/_b"]
    monkeypatch.setattr(sys, "argv", line)
    seed_plot.main(seed_plot.parse_args())
    whole_png(tmp_path / "$.png")
