r"""Compare graders on pairs of answers whose verdict is known: what each pays and refuses wrongly.

    python recipes/compare_graders.py                                 (CPU, about a minute)
    python recipes/compare_graders.py --pairs my_pairs.jsonl --output table.md
    pip install --no-deps mathruler==0.1.0 pylatexenc==2.11            (for the row "mathruler")

A pair is a line of JSON: prediction, gold, same (is the prediction right?), perhaps choices.
Each grader gets a pair as its project's training loop holds it:

    ours        match_answer(prediction, gold, choices): the text between the answer tags
    R1-V        verify(parse(completion), parse(solution)): prediction first, all at its default;
                both are "<answer> ... </answer>" whole.  If that is 0: equal text inside the tags.
    open-r1     verify(parse(solution), parse(completion)): "$gold$" and "\boxed{prediction}",
                gold first, first match only, the completion read as strict, anchored LaTeX
    mathruler   grade_answer(prediction, gold), as EasyR1 calls it on what stood in \boxed{}
    string      equal after strip()

Only ours knows the choices.  "Raised" counts pairs on which a grader raised, or met math-verify's
limit of 5 s; they pay nothing.  Every grader is warmed up, and starts with empty sympy caches.
math-verify and mathruler pass text to sympy's parse_expr, which is eval: trust your pair files.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Grader = Callable[[str, str, list[str] | None], bool]

ROOT = Path(__file__).resolve().parent.parent
HINT = "write a JSON object with prediction, gold and same: two texts, and true or false."
WARM_UP = [("7", "8"), ("1/2", "0.5"), (r"2\sqrt{3}", r"\sqrt{12}"), ("x > 1", "1 < x")]
HEADER = """\
| grader | version | paid though wrong | unpaid though right | raised | µs, median | µs, mean |
| --- | --- | --- | --- | --- | --- | --- |"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    own = [ROOT / "tests" / "answer_pairs.jsonl"]
    p.add_argument("--pairs", nargs="+", type=Path, default=own, metavar="FILE", help="JSON lines")
    p.add_argument("--graders", nargs="+", choices=GRADERS, default=list(GRADERS), help="rows")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    return p.parse_args(argv)


# --- graders: each builder imports its package, and returns its version and its verdict ---


def build_ours() -> tuple[str, Grader]:
    from grading import answers

    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return commit.strip(), answers.match_answer


def build_r1v() -> tuple[str, Grader]:
    from math_verify import parse, verify

    def same(prediction: str, gold: str, choices: list[str] | None = None) -> bool:
        completion, solution = f"<answer> {prediction} </answer>", f"<answer> {gold} </answer>"
        symbolic = float(verify(parse(completion), parse(solution)))
        return symbolic > 0 or prediction.strip() == gold.strip()

    return version("math-verify"), same


def build_open_r1() -> tuple[str, Grader]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # open-r1 also sets equations=True, which this version of math-verify ignores.
    strict = NormalizationConfig(units=True, boxed="all", basic_latex=True, nits=False)
    anchored = LatexExtractionConfig(
        normalization_config=strict, boxed_match_priority=0, try_extract_without_anchor=False
    )

    def same(prediction: str, gold: str, choices: list[str] | None = None) -> bool:
        solution = gold if "$" in gold or r"\boxed" in gold else f"${gold}$"
        completion = prediction if r"\boxed" in prediction else rf"\boxed{{{prediction}}}"
        right = parse(solution, extraction_mode="first_match")
        answer = parse(completion, extraction_config=[anchored], extraction_mode="first_match")
        return bool(right) and bool(verify(right, answer))  # an unread gold is skipped: unpaid

    return version("math-verify"), same


def build_mathruler() -> tuple[str, Grader]:
    from mathruler.grader import grade_answer

    def same(prediction: str, gold: str, choices: list[str] | None = None) -> bool:
        return bool(grade_answer(prediction, gold))

    return version("mathruler"), same


def build_string() -> tuple[str, Grader]:
    def same(prediction: str, gold: str, choices: list[str] | None = None) -> bool:
        return prediction.strip() == gold.strip()

    return "", same


GRADERS = {
    "ours": build_ours,
    "R1-V": build_r1v,
    "open-r1": build_open_r1,
    "mathruler": build_mathruler,
    "string": build_string,
}


# --- measuring ---


class Timeouts(logging.Handler):
    """Count math-verify's timeouts: it logs them, and returns as if the answers differed."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage().startswith("Timeout during")


def measure(grader: Grader, pairs: list[dict]) -> list[tuple[bool, bool, float]]:
    """Ask about every pair: (paid, raised or out of time, microseconds)."""
    timeouts = Timeouts()
    verdicts = []
    logging.getLogger("math_verify").addHandler(timeouts)
    for pair in pairs:
        late = timeouts.count
        started = time.perf_counter()
        try:
            paid = bool(grader(pair["prediction"], pair["gold"], pair.get("choices")))
            raised = False
        except Exception:  # sympy raises anything; the table counts it
            paid, raised = False, True
        microseconds = (time.perf_counter() - started) * 1e6
        verdicts.append((paid, raised or timeouts.count > late, microseconds))
    logging.getLogger("math_verify").removeHandler(timeouts)
    return verdicts


def empty_caches() -> None:
    """Forget what sympy and math-verify remember, so that no grader is quick thanks to another."""
    from math_verify import parser
    from sympy.core.cache import clear_cache

    clear_cache()
    parser.parse_latex_cached.cache_clear()
    parser.parse_expr_cached.cache_clear()


def row(name: str, pairs: list[dict]) -> str:
    """Measure one grader: its line of the table."""
    if name == "mathruler" and find_spec("mathruler") is None:
        return f"| {name} | not installed | | | | | |"
    number, grader = GRADERS[name]()
    measure(grader, [{"prediction": a, "gold": b} for a, b in WARM_UP])
    empty_caches()
    paid, raised, times = zip(*measure(grader, pairs), strict=True)
    same = [pair["same"] for pair in pairs]
    wrong = sum(p and not s for p, s in zip(paid, same, strict=True))
    unpaid = sum(s and not p for p, s in zip(paid, same, strict=True))
    counts = f"{wrong} of {same.count(False)} | {unpaid} of {same.count(True)} | {sum(raised)}"
    speed = f"{statistics.median(times):,.1f} | {statistics.mean(times):,.1f}"
    return f"| {name} | {number} | {counts} | {speed} |"


def read_pairs(path: Path) -> list[dict]:
    """Read one pair a line.  SystemExit names the file and line that holds none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read as UTF-8 text ({error}); check it") from None
    pairs = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        try:
            pair = json.loads(line)
            texts = isinstance(pair["prediction"], str) and isinstance(pair["gold"], str)
            if not texts or not isinstance(pair["same"], bool):
                raise ValueError("of other types")
        except (ValueError, LookupError, TypeError) as error:
            raise SystemExit(f"{path}:{number} is no pair: {HINT}") from error
        pairs.append(pair)
    return pairs


def main(args: argparse.Namespace) -> None:
    if args.output and not args.output.parent.is_dir():
        raise SystemExit(f"--output {args.output}: there is no folder {args.output.parent}")
    pairs = [pair for path in args.pairs for pair in read_pairs(path)]
    table = "\n".join([HEADER, *(row(name, pairs) for name in args.graders)])
    print(table)
    if args.output:
        args.output.write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(parse_args())
