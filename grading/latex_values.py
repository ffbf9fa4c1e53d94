"""Compare two answers as MATH-Vision's evaluation does, by the values of their LaTeX.

It evaluates what latex2sympy makes of a policy's text: call it in a worker only (mathverify.py).
Theirs is latex2sympy2 1.9.1, which does not fit beside math-verify. Here its successor reads,
latex2sympy2_extended, with what it reads otherwise undone.
"""

import math
import re

NAME = re.compile(r"[A-Za-z_]\w*")
KNOWN = {name: value for name, value in vars(math).items() if not name.startswith("_")}
BLANKS = re.compile(r"\\displaystyle|\\q?quad|\\(?:left|right)(?![a-z])|\\,|[~$]")
MARKER = re.compile(r"(~*)\^")  # the last line of a message: the column of what cannot be read
# What latex2sympy2 does not know.
UNREAD = re.compile(
    r'[^\x00-\x7f]|(?<!\\)%|\s\\%|["`]|\\[()\[\]!]|\\(?:circ|degree|boxed|text)(?![a-z])'
)
# Where it does not stop, but fails: at most commands too.
FAILS_AT = re.compile(rf"\\(?!end|mathrm|rightarrow|choose)|{UNREAD.pattern}")


def mathvision_equal(said: str, gold: str) -> bool:
    """Compute MATH-Vision's is_equal: equal texts, or values that are equal to 0.01."""
    said, gold = said.lower(), gold.lower()
    if not said.replace(" ", "") or not gold.replace(" ", ""):
        return False
    if said.strip() == gold.strip():
        return True
    said, gold = evaluated_tuple(said), evaluated_tuple(gold)
    if said == gold:
        return True
    try:
        return rounded_value(gold) == rounded_value(said)
    except Exception:  # sympy raises anything, and theirs catches it all
        return False


def evaluated_tuple(text: str) -> str:
    """Write the values of "(1/2,3)" or "[1/2,3]" as "(0.5,3)"; other text stays."""
    parts = text[1:-1].split(",")
    if text[0] + text[-1] not in ("()", "[]") or len(parts) < 2:
        return text
    try:
        values = [part if is_left(part) else written_value(part) for part in parts]
    except Exception:  # as above
        return text
    return f"{text[0]}{','.join(values)}{text[-1]}"


def written_value(part: str) -> str:
    """Write a value as Python writes theirs: of "4/2" it is 2.0, of "2.0" the integer 2."""
    value = rounded_value(part)
    is_decimal = re.fullmatch(r"\s*-?\d*\.\d+\s*", part) is not None
    if is_decimal and value == int(value):
        return str(int(value))
    return str(float(value) if "/" in part or "frac" in part else value)


def is_left(part: str) -> bool:
    """Tell whether MATH-Vision leaves this part of a tuple as it is."""
    return "infty" in part or part in ("a", "-a")


def rounded_value(text: str) -> float:
    """Evaluate LaTeX, rounded to 0.01. Raises anything for what has no value.

    Only names of Python's math module are evaluated: any other is a NameError there, too.
    """
    expression = str(parsed(prepared(text)))
    unknown = set(NAME.findall(expression)) - KNOWN.keys()
    if unknown:
        raise NameError(f"{unknown} in {expression:.100}")
    return round(eval(expression, {"__builtins__": {}}, dict(KNOWN)), 2)


def prepared(text: str) -> str:
    r"""Write a formula so that it is read as latex2sympy2 does: 3\frac{1}{2} is a product there."""
    text = BLANKS.sub(" ", re.sub(r"\\[dt]frac", r"\\frac", text)).strip()
    text = re.sub(r"(?<=\d)\s*(?=\\frac)", "*", text)
    inside = text[1:-1]
    is_group = text[:1] == "{" and text[-1:] == "}" and not set("{}") & set(inside)
    return inside if is_group else text


def parsed(text: str) -> object:
    """Read LaTeX by latex2sympy2_extended; of "1/2}. The answer" what comes before the "}".

    latex2sympy2 stops where a formula cannot go on, unless it does not know what is there.
    """
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    config = ConversionConfig(
        interpret_as_mixed_fractions=False,
        interpret_simple_eq_as_assignment=True,
        lowercase_symbols=False,
    )
    try:
        value = latex2sympy(text, normalization_config=None, conversion_config=config)
    except Exception as error:
        found = MARKER.fullmatch(str(error).rpartition("\n")[2])
        column = len(found[1]) if found else 0
        start, rest = text[:column].rstrip(), text[column:]
        is_whole = all(start.count(a) == start.count(b) for a, b in ("{}", "()", "[]"))
        if not start or not is_whole or len(start) == len(text) or FAILS_AT.match(rest):
            raise
        return parsed(start)
    if UNREAD.search(text):
        raise ValueError("a sign that is not known")
    return value
