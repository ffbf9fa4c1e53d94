"""The pictures of a run: its curves, and sheets of its answers. They may fail, the run may not.

A plot function draws on a `canvas`, ends with `save`, and is decorated with `picture`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: matplotlib takes half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# --- what all pictures share ---

# A name such as `$a$` is a name. matplotlib reads it as mathematics, unless it is told not to.
PLAIN_TEXT = {
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
}


def picture(plot: Callable[..., None]) -> Callable[..., None]:
    """Decorate a function that draws the file `png`: whatever fails is one warning on stderr.

    Errors of any type count: matplotlib raises many for the same text. The tests of the pictures
    fail on a warning, so that our own bugs stay visible.
    """
    signature = inspect.signature(plot)

    @functools.wraps(plot)
    def guarded(*args: object, **kwargs: object) -> None:
        png = signature.bind(*args, **kwargs).arguments["png"]
        try:
            import matplotlib

            with matplotlib.rc_context(PLAIN_TEXT), warnings.catch_warnings():
                # A glyph that the font lacks becomes a box, and a crowded layout stays crowded.
                warnings.simplefilter("ignore", UserWarning)
                plot(*args, **kwargs)
        except Exception as error:
            warn(f"{png} could not be drawn ({describe(error)}); the run goes on without it")

    return guarded


def canvas(
    rows: int, columns: int, width: float, height: float, **layout: object
) -> tuple[Figure, list]:
    """Make a figure of `width` x `height` inches: (figure, its axes).

    A bare Figure needs no display and no pyplot, which would keep it in memory until closed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **layout)


def save(figure: Figure, png: str | Path, dpi: int = 110) -> None:
    """Write a figure to the file `png`, whole or not at all, and make its directory."""
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


def warn(text: str) -> None:
    """Print one line on stderr, above a progress bar instead of through it."""
    from tqdm import tqdm

    tqdm.write(f"warning: {text}", file=sys.stderr)


def describe(error: Exception) -> str:
    """Name an error and what it says, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}" if message else type(error).__name__


def printable(text: str) -> str:
    """Replace what matplotlib cannot draw or a terminal cannot show by question marks."""
    shown = [c if c.isprintable() and ord(c) < 0x2E80 else "?" for c in text.replace("\n", " ")]
    return "".join(shown)


def title_of(text: str, inches: float) -> str:
    """Break a title, at font size 10, into three lines of so many inches."""
    return "\n".join(textwrap.wrap(printable(text), int(inches * 12), max_lines=3))


def label_of(text: str) -> str:
    """A label for the legend: matplotlib leaves out those that begin with `_`."""
    shown = printable(text)
    if len(shown) > 60:
        shown = f"{shown[:28]}...{shown[-29:]}"  # both ends of a path tell it from others
    return f" {shown}" if shown.startswith("_") else shown


# --- curves ---


@picture
def plot_curve(
    lines: list[dict],
    png: str | Path,
    panels: list[tuple[str, list[str]]],
    title: str = "",
    x: str = "step",
) -> None:
    """Draw curve.png.

    lines: those of metrics.jsonl. panels: (heading, metric names); those without data are omitted.
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


def points_of(lines: list[dict], name: str) -> list[tuple[float, float]]:
    """Collect the points (step, value) of one curve from the lines of metrics.jsonl."""
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def draw_curve(ax: Axes, name: str, points: list[tuple[float, float]]) -> None:
    """Draw a few points as they are, and many as noise behind their trend."""
    steps, values = zip(*points)
    if len(points) < 40:
        ax.plot(steps, values, marker="o", label=label_of(name), lw=2)
        return
    line = ax.plot(steps, values, alpha=0.35, lw=1)[0]
    width = max(1, len(values) // 20)
    windows = [values[max(0, i - width) : i + 1] for i in range(len(values))]
    smooth = [sum(window) / len(window) for window in windows]
    ax.plot(steps, smooth, color=line.get_color(), label=label_of(name), lw=2)


# --- sheets of answers ---

BOX_COLORS = ("white", "red", "gold", "blue")


@picture
def plot_samples(rows: list[dict], png: str | Path, title: str = "") -> None:
    """Draw a sheet to look at: pictures, and beside them what was answered.

    rows: dicts with `images` (PIL), `question`, `answer`, `completions` [(text, scores dict)], and
    perhaps `boxes`, in pixels of the first image: the gold ones (white, broken), then those of
    each completion (red, yellow, blue, in this order).
    """
    texts = [text_of(row) for row in rows]
    side = min(3.0, max(1.5, 12 / len(rows)))  # inches of a picture: few rows have room for more
    heights = [max(side, 0.17 * (text.count("\n") + 2)) for text in texts]
    pictures = [picture for row in rows for picture in row["images"][:1]]
    shapes = [picture.width / picture.height for picture in pictures]
    left = side * min(2.0, max([1.0, *shapes])) + 0.4  # two side by side are as large as one
    ratios = {"width_ratios": [left, 11], "height_ratios": heights}
    width = left + 11
    figure, axes = canvas(len(rows), 2, width, sum(heights) + 0.5, gridspec_kw=ratios)
    for row, text, (shown, right) in zip(rows, texts, axes):
        if row["images"]:
            shown.imshow(row["images"][0])
        draw_boxes(shown, row.get("boxes") or [])
        shown.axis("off")
        right.axis("off")
        where = {"va": "top", "ha": "left", "transform": right.transAxes}
        right.text(0, 1, text, fontsize=7.5, family="monospace", **where)
    figure.suptitle(title_of(title, width), fontsize=10)
    save(figure, png, dpi=100)


def text_of(row: dict) -> str:
    """Write a question and the answers to it, in lines that fit beside the picture."""
    blocks = [f"{row['question'].strip()}   [answer: {row['answer']}]"]
    for text, scores in row["completions"]:
        marks = "  ".join(f"{name} {value:g}" for name, value in scores.items())
        blocks.append(f"{marks}  |  {text.strip()}")
    shape = {"width": 160, "subsequent_indent": "      ", "max_lines": 7}
    return "\n".join("\n".join(textwrap.wrap(printable(block), **shape)) for block in blocks)


def draw_boxes(ax: Axes, boxes: list[list[tuple]]) -> None:
    """Draw the gold boxes broken and each answer's in its color; twenty of each."""
    from matplotlib.patches import Rectangle

    for i, (corners, color) in enumerate(zip(boxes, BOX_COLORS)):
        style = "--" if i == 0 else "-"
        for x1, y1, x2, y2 in corners[:20]:
            ax.add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.5, ec=color, ls=style)
            )


# --- accuracy against samples ---


@picture
def plot_scaling(curve: list[dict], result: dict, png: str | Path, title: str) -> None:
    """Draw accuracy against the number of samples, and against tokens per question.

    curve: points of `sampled_scores`. result: result.json, for greedy answers. Bars: 95 %.
    """
    figure, [[by_n, by_tokens]] = canvas(1, 2, 9, 3.6, sharey=True)
    greedy = {f"greedy{end}": result[f"accuracy{end}"] for end in ("", "_low", "_high")}
    greedy["greedy_tokens"] = curve[0]["greedy_tokens"]
    by_n.axhline(result["accuracy"], color="gray", label="greedy")
    by_n.axhspan(result["accuracy_low"], result["accuracy_high"], color="gray", alpha=0.15)
    for ax, name, x, color, points in (
        (by_n, "pass@k", "step", "C0", curve),
        (by_n, "majority@k", "step", "C1", curve),
        (by_n, "self_select@k", "step", "C2", curve),
        (by_tokens, "greedy", "greedy_tokens", "gray", [greedy]),
        (by_tokens, "majority@k", "majority_tokens", "C1", curve),
        (by_tokens, "self_select@k", "self_select_tokens", "C2", curve),
    ):
        if name in points[0]:
            draw_with_bars(ax, points, x, name, color)
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


def draw_with_bars(ax: Axes, points: list[dict], x: str, name: str, color: str) -> None:
    """Draw `name` of each point against `x`, with bars from NAME_low to NAME_high."""
    values = [point[name] for point in points]
    # An interval can end 1e-16 short of the value 1.
    down = [max(0, point[name] - point[f"{name}_low"]) for point in points]
    up = [max(0, point[f"{name}_high"] - point[name]) for point in points]
    style = {"color": color, "marker": "o", "capsize": 2, "label": name}
    ax.errorbar([point[x] for point in points], values, [down, up], **style)
