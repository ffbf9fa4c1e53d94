r"""Compare two texts by math-verify as published scorers call it, in a process of its own.

    verify("$x+1$", "$1+x$")          # True; TimeoutError after CPU_SECONDS of the worker's CPU

Our own comparison (grading/answers.py) does not use it. math-verify hands text to
sympy.parse_expr, that is Python's eval. In version 0.9.0 (0.5.2 has the same pattern) only the
group `expr` of its pattern gets there: digits of any script, ".", white space and
+ - * / ^ ( ) × ÷, so no name, no attribute, no string and nothing to call. Such text can still be
large (9**9**9), which limits of time and memory end. An audit hook guards against later versions.
"""

import functools
import json
import os
import sys

from grading.math_worker import MathWorker, serve

CPU_SECONDS = 5  # for one comparison; math-verify's own limit is 5 s of the clock
MEMORY_BYTES = 2 << 30  # address space of the worker
LONG_QUESTION = 20_000  # characters; longer ones are not remembered

worker = MathWorker(["-m", "grading.mathverify"], CPU_SECONDS)  # starts at the first question


def verify(first: str, second: str) -> bool:
    """Compute math_verify.verify(parse(first), parse(second)) in its default setting.

    It reads LaTeX and plain expressions, anywhere in the texts. TimeoutError if it is late.
    Version 0.9.0 differs from 0.5.2, which the projects pin, only in LaTeX with a unit or letter
    glued to its number ("$8m$" is 8 here and 8*m there): 20 of 1,536 comparisons on GEOQA's golds.
    """
    return ask("default", first, second)


def ask(kind: str, *texts: str | list[str]) -> bool:
    """Let the worker compute compare(kind, *texts). TimeoutError if it is late."""
    question = json.dumps([kind, *texts])
    if len(question) < LONG_QUESTION:
        return ask_once(question)
    return ask_once.__wrapped__(question)


@functools.lru_cache(maxsize=4096)  # completions repeat their answers; errors are not remembered
def ask_once(question: str) -> bool:
    """Send a question, [kind, *texts] as JSON, to the worker."""
    return worker.ask(json.loads(question))["equal"]


# --- the worker's side ---


def compare(kind: str, *texts: str | list[str]) -> bool:
    """Answer one question. Whatever math-verify raises counts as the project counts it."""
    try:
        return bool(COMPARISONS[kind](*texts))
    except Exception:  # sympy raises anything, and the projects catch it all
        return kind == "latex"  # there an error is "equal"


def compare_default(said: str, gold: str) -> bool:
    """Compare as R1-V and most others do."""
    import math_verify

    texts = [math_verify.parse(text, parsing_timeout=None) for text in (said, gold)]
    return math_verify.verify(*texts, timeout_seconds=None)


def compare_strings(said: str, golds: list[str], strings: list[str]) -> bool:
    """Compare as VisualThinker does: `strings` may be the answer too."""
    import math_verify

    kinds = [
        math_verify.LatexExtractionConfig(),
        math_verify.ExprExtractionConfig(),
        math_verify.StringExtractionConfig(strings=tuple(strings)),
    ]
    target = math_verify.parse(said, kinds, parsing_timeout=None)
    return math_verify.verify(gold=golds, target=target, timeout_seconds=None)


def compare_latex(said: str, gold: str) -> bool:
    """Compare as align-anything does: LaTeX only; a gold that cannot be read equals anything."""
    import math_verify

    anchored = math_verify.LatexExtractionConfig(
        try_extract_without_anchor=False, boxed_match_priority=0
    )
    latex = math_verify.LatexExtractionConfig()
    gold_values = math_verify.parse(gold, [latex], parsing_timeout=None)
    said_values = math_verify.parse(said, [anchored], parsing_timeout=None)
    if not gold_values:
        return True
    return math_verify.verify(said_values, gold_values, timeout_seconds=None)


def compare_mathvision(said: str, gold: str) -> bool:
    """Compare as MATH-Vision's evaluation does: by the values that Python finds for their LaTeX."""
    from grading.latex_values import mathvision_equal

    return mathvision_equal(said, gold)


COMPARISONS = {
    "mathvision": compare_mathvision,
    "default": compare_default,
    "strings": compare_strings,
    "latex": compare_latex,
}


def warm_up() -> None:
    """Import, fill the parser's tables, then lock down: no model's text has been read yet."""
    import math_verify  # noqa: F401

    compare("default", r"$\frac{1}{2}$", "0.5")
    compare("default", r"\boxed{2\sqrt{3}}", r"$\sqrt{12}$")
    compare("default", "1/2 + 3", "3.5")
    compare("default", "$x+1$", "$1+x$")
    lock_down()


def lock_down() -> None:
    """Limit this process's memory; from now on programs, sockets and writing files raise."""
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ImportError, OSError, ValueError):
        pass  # Windows has no such limits, macOS not all; the limit of CPU time still holds
    sys.dont_write_bytecode = True  # sympy imports more of itself when a question needs it
    sys.addaudithook(refuse)


REFUSED_EVENTS = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.kill", "subprocess.", "socket.", "shutil.", "ctypes."),
    *("urllib.", "ftplib.", "smtplib.", "webbrowser."),
)
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def refuse(event: str, arguments: tuple) -> None:
    """Raise PermissionError at an audit event that runs, sends or writes something."""
    if event.startswith(REFUSED_EVENTS):
        raise PermissionError(f"{event} in the math worker")
    if event == "open":
        path, mode, flags = arguments
        if set(mode or "") & set("wax+") or (flags or 0) & WRITING_FLAGS:
            raise PermissionError(f"writing {path!r} in the math worker")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--worker"]:
        sys.exit("this is the worker of published scorers: see evaluate.py --predictions")
    serve(lambda question: {"equal": compare(*question)}, warm_up)
