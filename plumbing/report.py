"""The page of a run, report.html: curves, and answers beside their pictures at every step.

    python -m plumbing.report runs/grpo                 # writes runs/grpo/report.html
    python -m plumbing.report runs/before runs/after    # side by side: runs/after/compare.html

Training and evaluation write it as they go. It is one file that asks nothing of the network. What a
model has written is data in it, and is only ever set as text; the policy in its head allows no
script, style or picture but its own.
"""

import argparse
import base64
import hashlib
import json
import time
from pathlib import Path

from plumbing import disk, flags, plots, running
from plumbing.errors import UserError
from plumbing.report_data import run_data

HERE = Path(__file__).parent


def write(out: str | Path) -> None:
    """Write out/report.html, whole or not at all. It may fail, the run may not: one warning."""
    path = Path(out) / "report.html"
    try:
        disk.write_whole(path, page([Path(out)]))
    except Exception as error:
        reason = plots.describe(error)
        plots.warn(f"{path} could not be written ({reason}); the run goes on without it")


def page(runs: list[Path]) -> str:
    """Make the page of one run, or of two side by side."""
    labels = labels_of(runs)
    data: dict = {"runs": [], "pictures": {}}
    for out, label in zip(runs, labels):
        shown, pictures = run_data(out, label)
        data["runs"].append(shown)
        data["pictures"] |= pictures
    style, script = read("report.css"), read("report.js")
    parts = {
        "{{title}}": escaped(" and ".join(labels)),
        "{{policy}}": f"default-src 'none'; img-src data:; style-src {sum_of(style)}; "
        f"script-src {sum_of(script)}; base-uri 'none'; form-action 'none'",
        "{{style}}": style,
        "{{script}}": script,
        "{{data}}": as_json(data),  # last: a model may have written {{script}}
    }
    template = read("report_template.html")
    for name, text in parts.items():
        before, _, after = template.partition(name)
        template = before + text + after
    return template


def labels_of(runs: list[Path]) -> list[str]:
    """Name runs by their folder, or by its path where that does not tell them apart."""
    names = [out.resolve().name for out in runs]
    return names if len(set(names)) == len(names) else [str(out) for out in runs]


def read(name: str) -> str:
    """Read a part of the page that lies beside this file."""
    return (HERE / name).read_text(encoding="utf-8")


def sum_of(text: str) -> str:
    """Name a script or style by its hash, as a content security policy does."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def as_json(value: object) -> str:
    """Write JSON that can stand in a <script>: in ASCII, without <, > and &."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def escaped(text: str) -> str:
    """Write a text for HTML: letters and digits as they are, all else as numbers."""
    return "".join(c if c.isascii() and c.isalnum() else f"&#{ord(c)};" for c in text)


# --- by hand ---


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "python -m plumbing.report", "report.md")
    p.add_argument("runs", nargs="+", metavar="RUN", help="the output directory of a run; one, two")
    args = p.parse_args(argv)
    if len(args.runs) > 2:
        p.error(f"one run or two go on a page, not {len(args.runs)}")
    return args


def write_page(args: argparse.Namespace) -> None:
    """Write the page of a run into its directory, or of two into that of the second."""
    runs = [Path(run) for run in args.runs]
    for run in runs:
        check_run(run)
    started = time.perf_counter()
    path = runs[-1] / ("report.html" if len(runs) == 1 else "compare.html")
    text = page(runs)
    disk.write_whole(path, text)
    seconds = time.perf_counter() - started
    print(f"{path} ({disk.size(len(text))}, {seconds:.2f} s): open it in a browser")


def check_run(out: Path) -> None:
    """Refuse a directory without anything to show. UserError."""
    if not out.is_dir():
        raise UserError(f"{out} is not a directory; name the --output-dir of a run")
    files = ("metrics.jsonl", "predictions.jsonl", "args.json", "iteration-0")
    if not any((out / name).exists() for name in files):
        raise UserError(
            f"{out} holds no run: there is no metrics.jsonl or predictions.jsonl; name the "
            "--output-dir of a run"
        )


main = write_page

if __name__ == "__main__":
    running.run(main, parse_args)
