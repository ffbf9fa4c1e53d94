"""The pictures of a run: its curves, and sheets of its answers. They may fail, the run may not.

A plot function draws on a `canvas`, ends with `save`, and is decorated with `picture`.
"""

import contextlib
import functools
import inspect
import os
import sys
import textwrap
import warnings
from pathlib import Path

from grading.boxes import drawn_boxes
from plumbing.errors import UserError
from tasks import images

# --- what all pictures share ---

# A name such as `$a$` is a name. matplotlib reads it as mathematics, unless it is told not to.
PLAIN_TEXT = {
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
}


def picture(plot):
    """Decorate a function that draws the file `png`: whatever fails is one warning on stderr.

    Errors of any type count: matplotlib raises many for the same text. The tests of the pictures
    fail on a warning, so that our own bugs stay visible.
    """
    signature = inspect.signature(plot)

    @functools.wraps(plot)
    def guarded(*args, **kwargs):
        png = signature.bind(*args, **kwargs).arguments["png"]
        try:
            import matplotlib

            with matplotlib.rc_context(PLAIN_TEXT), warnings.catch_warnings():
                # A glyph that the font lacks becomes a box, and a crowded layout stays crowded.
                warnings.simplefilter("ignore", UserWarning)
                plot(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            warn(f"{png} could not be drawn ({describe(error)}); the run goes on without it")

    return guarded


def canvas(rows, columns, width, height, **layout):
    """Make a figure of `width` x `height` inches: (figure, its axes).

    A bare Figure needs no display and no pyplot, which would keep it in memory until closed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **layout)


def save(figure, png, dpi=110):
    """Write a figure to the file `png`, whole or not at all; its directory is made if need be."""
    png = Path(png)
    png.parent.mkdir(parents=True, exist_ok=True)
    temporary = png.with_name(f".{png.stem}.part.png")
    figure.tight_layout()
    try:
        figure.savefig(temporary, dpi=dpi)
        os.replace(temporary, png)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def warn(text):
    """Print one line on stderr, above a progress bar instead of through it."""
    from tqdm import tqdm

    tqdm.write(f"warning: {text}", file=sys.stderr)


def describe(error):
    """Name an error and what it says, in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def printable(text):
    """Replace what matplotlib cannot draw or a terminal cannot show by question marks."""
    shown = [c if c.isprintable() and ord(c) < 0x2E80 else "?" for c in text.replace("\n", " ")]
    return "".join(shown)


def title_of(text, inches):
    """Break a title, at font size 10, into lines of so many inches: three at most."""
    return "\n".join(textwrap.wrap(printable(text), int(inches * 12), max_lines=3))


def label_of(text):
    """A label for the legend: matplotlib leaves out those that begin with `_`."""
    shown = printable(text)
    if len(shown) > 60:
        shown = f"{shown[:28]}...{shown[-29:]}"  # both ends of a path tell it from others
    return f" {shown}" if shown.startswith("_") else shown


# --- curves ---


@picture
def plot_curve(lines, png, panels, title="", x="step"):
    """Draw curve.png.

    lines: those of metrics.jsonl. panels: list of (heading, [metric names]). Names without data
    and empty panels are left out.
    """
    drawn = []
    for heading, names in panels:
        curves = [(name, points_of(lines, name)) for name in names]
        curves = [(name, points) for name, points in curves if points]
        if curves:
            drawn.append((heading, curves))
    if not drawn:
        return
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure, axes = canvas(rows, columns, 4.2 * columns, 3.0 * rows + 0.3)
    for ax in axes.flat[len(drawn) :]:
        ax.axis("off")
    for ax, (heading, curves) in zip(axes.flat, drawn):
        for name, points in curves:
            draw_curve(ax, name, points)
        ax.set_title(title_of(heading, 4.2), fontsize=10)
        ax.set_xlabel(x)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.suptitle(title_of(title, 4.2 * columns), fontsize=10)
    save(figure, png)


def points_of(lines, name):
    """The points of one curve, [(step, value)]: the lines of metrics.jsonl that have it."""
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def draw_curve(ax, name, points):
    """Draw a few points as they are, many as noise behind their trend: both are wanted."""
    steps, values = zip(*points)
    if len(points) < 40:
        ax.plot(steps, values, marker="o", label=label_of(name), lw=2)
        return
    line = ax.plot(steps, values, label=label_of(name), alpha=0.35, lw=1)[0]
    width = max(1, len(values) // 20)
    windows = [values[max(0, i - width) : i + 1] for i in range(len(values))]
    smooth = [sum(window) / len(window) for window in windows]
    ax.plot(steps, smooth, color=line.get_color(), lw=2)


# --- sheets of answers ---

BOX_COLORS = ("white", "red", "gold", "blue")


@picture
def plot_samples(rows, png, title=""):
    """Draw a sheet that a person can look at: pictures, and beside them what was answered.

    rows: dicts with `images` (PIL), `question`, `answer`, `completions` [(text, scores dict)], and
    perhaps `boxes`, in pixels of the first image: the gold ones (white, broken), then those of
    each completion (red, yellow, blue, in this order).
    """
    texts = [text_of(row) for row in rows]
    heights = [max(1.5, 0.17 * (text.count("\n") + 2)) for text in texts]
    ratios = {"width_ratios": [1, 6], "height_ratios": heights}
    figure, axes = canvas(len(rows), 2, 13, sum(heights) + 0.5, gridspec_kw=ratios)
    for row, text, (left, right) in zip(rows, texts, axes):
        if row["images"]:
            left.imshow(row["images"][0])
        draw_boxes(left, row.get("boxes") or [])
        left.axis("off")
        right.axis("off")
        where = {"va": "top", "ha": "left", "transform": right.transAxes}
        right.text(0, 1, text, fontsize=7.5, family="monospace", **where)
    figure.suptitle(title_of(title, 13), fontsize=10)
    save(figure, png, dpi=100)


def text_of(row):
    """A question and the answers to it, in lines that fit beside the picture."""
    blocks = [f"{row['question'].strip()}   [answer: {row['answer']}]"]
    for text, scores in row["completions"]:
        marks = "  ".join(f"{name} {value:g}" for name, value in scores.items())
        blocks.append(f"{marks}  |  {text.strip()}")
    shape = {"width": 160, "subsequent_indent": "      ", "max_lines": 7}
    return "\n".join("\n".join(textwrap.wrap(printable(block), **shape)) for block in blocks)


def draw_boxes(ax, boxes):
    """Draw the boxes of each answer in its color, the gold ones broken; twenty of each."""
    from matplotlib.patches import Rectangle

    for i, (some, color) in enumerate(zip(boxes, BOX_COLORS)):
        style = "--" if i == 0 else "-"
        for x1, y1, x2, y2 in some[:20]:
            ax.add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.5, ec=color, ls=style)
            )


def images_for_a_sheet(example):
    """Open the images that a picture for people shows: [] and a warning if they have gone since."""
    try:
        return images.open_images(example)
    except UserError as error:
        warn(f"a sheet is drawn without its picture: {error}")
        return []


@picture
def plot_before_after(png, name, examples, before, after):
    """A sheet of held-out pictures with what was answered before and after training: five answers that changed, if there are, and three others.
    before, after: the lines of samples/eval_*.jsonl, in the order of `examples`."""
    triples = list(zip(examples, before, after))
    rows = []
    for e, b, a in (
        sorted(triples[:200], key=lambda t: t[1]["accuracy"] == t[2]["accuracy"])[:5] + triples[:3]
    ):
        said = [
            (
                f"{when}: {answer['prediction']}",
                {k: answer[k] for k in ("accuracy", "iou") if k in answer},
            )
            for when, answer in (("before", b), ("after", a))
        ]
        rows.append(
            {
                "images": images_for_a_sheet(e),
                "boxes": drawn_boxes(e, b["prediction"], a["prediction"]),
                "question": e.question,
                "answer": e.answer,
                "completions": said,
            }
        )
    plot_samples(rows, png, f"{name}: answers that changed, and three others")


@picture
def plot_scaling(curve, result, png, title):
    """curve.png: accuracy against the number of samples, and against what a question costs in tokens. curve: points of `sampled_scores`; bars: 95 %."""
    figure, [[by_n, by_tokens]] = canvas(1, 2, 9, 3.6, sharey=True)
    greedy = [
        {
            "greedy": result["accuracy"],
            "greedy_low": result["accuracy_low"],
            "greedy_high": result["accuracy_high"],
            "greedy_tokens": curve[0]["greedy_tokens"],
        }
    ]
    by_n.axhline(result["accuracy"], color="gray", label="greedy")
    by_n.axhspan(result["accuracy_low"], result["accuracy_high"], color="gray", alpha=0.15)
    drawn = [
        (by_n, "pass@k", "step", "C0", curve),
        (by_n, "majority@k", "step", "C1", curve),
        (by_n, "self_select@k", "step", "C2", curve),
        (by_tokens, "greedy", "greedy_tokens", "gray", greedy),
        (by_tokens, "majority@k", "majority_tokens", "C1", curve),
        (by_tokens, "self_select@k", "self_select_tokens", "C2", curve),
    ]
    for ax, name, x, color, points in drawn:
        if name in points[0]:
            bars = [
                [max(0, p[name] - p[f"{name}_low"]) for p in points],
                [max(0, p[f"{name}_high"] - p[name]) for p in points],
            ]  # an interval can end 1e-16 short of 1
            ax.errorbar(
                [p[x] for p in points],
                [p[name] for p in points],
                bars,
                color=color,
                marker="o",
                capsize=2,
                label=name,
            )
    for ax, heading, x in (
        (by_n, "accuracy against number of samples", "samples, k"),
        (by_tokens, "accuracy against tokens", "tokens per question, prompts and answers"),
    ):
        ax.set_title(heading, fontsize=10)
        ax.set_xlabel(x)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.suptitle(title_of(title, 9), fontsize=10)
    save(figure, png)
