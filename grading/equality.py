r"""Compare two formulas by evaluation (trees of expressions.py).

    equal(parse("2x+2"), parse("2(x+1)"))   -> True

Two trees are equal if they agree in 200 digits wherever their variables have the same random values
(Schwartz 1980, Zippel 1979). Rational numbers are compared exactly. Every step is bounded by the
size of its numbers, so nothing depends on the clock.
"""

import functools
import math
import operator
import random
import threading
import zlib
from fractions import Fraction

from grading.expressions import GREEK, TRIGONOMETRY, variables

MAX_BITS = 20_000  # of a number on the way: what is larger cannot be decided
DIGITS = 250  # of the arithmetic; two numbers are equal if they agree in EQUAL_DIGITS
EQUAL_DIGITS = 200
SIGN_BITS = 7  # enough to tell all letters of LETTERS apart
POINTS = 5 + SIGN_BITS  # values of the variables
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" + GREEK


class TooLarge(ArithmeticError):
    """A number on the way is too large to work with."""


# --- exact numbers ---


@functools.lru_cache(maxsize=8192)
def exact(tree: tuple) -> Fraction | None:
    """Work out a tree of rational numbers, +, -, *, / and whole powers; else None.

    Raises TooLarge.
    """
    if tree[0] == "n":
        return tree[1]
    if tree[0] == "s":
        return None
    parts = [exact(part) for part in tree[1:]]
    if None in parts:
        return None
    value = _exact_operation(tree[0], *parts)
    if value is not None and _bits(value) > MAX_BITS:
        raise TooLarge
    return value


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


EXACT = {"+": operator.add, "-": operator.sub, "*": operator.mul, "abs": abs, "floor": math.floor}


def _exact_operation(kind: str, a: Fraction, *more: Fraction) -> Fraction | None:
    """Work out one operation on rational numbers; None if it has no rational value."""
    if kind in EXACT:
        return Fraction(EXACT[kind](a, *more))
    if kind == "°":
        return a
    if kind == "!" and a.denominator == 1 and 0 <= a < 1000:
        return Fraction(math.factorial(int(a)))
    if not more:
        return None
    b = more[0]
    if kind == "/":
        return a / b if b else None
    if kind == "^" and b.denominator == 1:
        return _whole_power(a, int(b))
    if kind == "binom" and a.denominator == b.denominator == 1 and 0 <= b <= a < 1000:
        return Fraction(math.comb(int(a), int(b)))
    return None


def _whole_power(base: Fraction, n: int) -> Fraction | None:
    if base == 0:
        return Fraction(0) if n > 0 else None
    if abs(n) * _bits(base) > MAX_BITS:
        raise TooLarge
    return base**n


# --- numbers of many digits ---

_thread = threading.local()  # mpmath's contexts are not safe between threads


def _mp():
    """Return this thread's arithmetic of DIGITS digits."""
    if not hasattr(_thread, "mp"):
        import mpmath

        _thread.mp = mpmath.MPContext()
        _thread.mp.dps = DIGITS
        _thread.values = {}
    return _thread.mp


@functools.lru_cache(maxsize=4096)
def _point(name: str, k: int) -> Fraction:
    """Draw the value of a variable at point k.

    Three points are positive and two negative. At the others any two letters differ in sign
    somewhere. Some points are far out, where an absolute value may have changed its sign.
    """
    draw = random.Random(f"{name}/{k}")
    size = Fraction(draw.randrange(2**60, 3 * 2**60), 2**60)
    if k in (1, 4, 6):
        size *= 500
    code = LETTERS.index(name) if len(name) == 1 and name in LETTERS else zlib.crc32(name.encode())
    negative = k in (3, 4) or (k > 4 and (code >> (k - 5)) & 1)
    return -size if negative else size


def evaluate(tree: tuple, k: int = 0):
    """Work out a tree without ± at point k as a number of mpmath.

    Raises ArithmeticError where it has no value, and TooLarge.
    """
    try:
        return _evaluate(_mp(), tree, k, False)
    except (ValueError, TypeError) as error:  # mpmath's words for a pole, and for complex arguments
        raise ArithmeticError(str(error)) from error


def _evaluate(mp, tree: tuple, k: int, in_angle: bool):
    kind = tree[0]
    if kind == "n":
        return _number(mp, tree[1])
    if kind == "s":
        return _constant(mp, tree[1]) or _number(mp, _point(tree[1], k))
    in_angle = in_angle or kind in TRIGONOMETRY
    parts = [_evaluate(mp, part, k, in_angle) for part in tree[1:]]
    if kind == "°":
        return parts[0] * mp.pi / 180 if in_angle else parts[0]
    if kind == "^" and (exponent := _odd_root(tree[2])):
        value = _real_power(mp, parts[0], exponent)
    else:
        value = _apply(mp, kind, parts)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    if mp.mag(value) > MAX_BITS:
        raise TooLarge
    return _without_noise(mp, kind, parts, value)


def _number(mp, value: Fraction):
    return mp.mpf(value.numerator) / value.denominator


def _without_noise(mp, kind: str, parts: list, value):
    """Round to 0 what cancellation has left: of x - x, of sin π."""
    if kind in ("+", "-"):
        size = max(map(abs, parts))
    elif kind in TRIGONOMETRY or kind in ("ln", "log", "lg"):
        size = 1 if abs(parts[0]) > 0.5 else 0
    else:
        return value
    return mp.mpf(0) if abs(value) <= size * mp.mpf(10) ** -(EQUAL_DIGITS + 20) else value


def _constant(mp, name: str):
    if name == "π":
        return +mp.pi
    if name == "e":
        return +mp.e
    if name == "i":
        return mp.mpc(0, 1)
    return None


ARITHMETIC = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}
FUNCTION_OF_MPMATH = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "abs": "fabs",
    "!": "factorial",
    "binom": "binomial",
}
GROWING = ("exp", "sinh", "cosh", "tanh", "!", "binom")


def _apply(mp, kind: str, parts: list):
    """Work out one operation."""
    if kind in ARITHMETIC:
        return getattr(mp, ARITHMETIC[kind])(*parts)
    if kind == "^":
        return _power(mp, *parts)
    if kind == "root":
        return _root(mp, *parts)
    if kind in ("log", "lg"):
        return mp.log(parts[0]) / mp.log(_base(mp, kind, parts))
    if kind in GROWING and max(map(mp.mag, parts)) > 12:
        raise TooLarge
    if kind in TRIGONOMETRY and mp.mag(mp.im(parts[0])) > 12:
        raise TooLarge
    return getattr(mp, FUNCTION_OF_MPMATH.get(kind, kind))(*parts)


def _base(mp, kind: str, parts: list):
    """Return the base of a logarithm; log without one gets a random one, so log 100 is not 2."""
    if kind == "lg":
        return mp.mpf(10)
    return parts[1] if len(parts) == 2 else _number(mp, _point("base", 0))


def _power(mp, base, exponent):
    if base == 0:
        if mp.re(exponent) <= 0:
            raise ZeroDivisionError
        return mp.mpf(0)
    if mp.mag(exponent) > 30 or abs(exponent) * (abs(mp.mag(base)) + 1) > MAX_BITS:
        raise TooLarge
    return mp.power(base, exponent)


def _odd_root(tree: tuple) -> Fraction | None:
    """Read an exponent such as 2/3, with which negative numbers have a real power; else None."""
    value = exact(tree)
    return value if value is not None and value.denominator % 2 and value.denominator > 1 else None


def _real_power(mp, base, exponent: Fraction):
    """Work out the real power of a negative number: (-8)^(2/3) is 4."""
    power = _number(mp, exponent)
    if mp.im(base) != 0 or mp.re(base) >= 0:
        return _power(mp, base, power)
    size = _power(mp, -base, power)
    return -size if exponent.numerator % 2 else size


def _root(mp, value, degree):
    """Work out a root, the real one where there is one: the cube root of -8 is -2."""
    if degree == 0:
        raise ZeroDivisionError
    whole = mp.im(degree) == 0 and mp.isint(mp.re(degree)) and mp.mag(degree) < 10
    if whole and int(mp.re(degree)) % 2:
        return _real_power(mp, value, Fraction(1, int(mp.re(degree))))
    return _power(mp, value, 1 / degree)


# --- equality ---

TOO_LARGE = object()  # stands for the value at a point


def same_number(a, b) -> bool:
    """Tell whether two numbers agree in EQUAL_DIGITS digits."""
    return abs(a - b) <= max(abs(a), abs(b)) * _mp().mpf(10) ** -EQUAL_DIGITS


def values_at_points(tree: tuple) -> list:
    """Evaluate a tree at every point; None where it has no value.

    Raises TooLarge if it is so at every point.
    """
    _mp()
    if tree not in _thread.values:
        if len(_thread.values) >= 256:
            _thread.values.clear()
        points = POINTS if variables(tree) else 1
        found = [_value(tree, k) for k in range(points)]
        _thread.values[tree] = found * (POINTS // points)
    found = _thread.values[tree]
    if all(value is TOO_LARGE for value in found):
        raise TooLarge
    return found


def forget_values() -> None:
    """Clear what this thread remembers of values."""
    _mp()
    _thread.values.clear()


def _value(tree: tuple, k: int):
    try:
        return evaluate(tree, k)
    except TooLarge:
        return TOO_LARGE
    except ArithmeticError:
        return None


def equal(a: tuple, b: tuple) -> bool:
    """Tell whether two trees have the same value whatever their variables are. Raises TooLarge.

    Where both are real at two points or more, it is enough that they agree there.
    """
    if a == b:
        return True
    x, y = exact(a), exact(b)
    if x is not None and y is not None:
        return x == y
    if has_two_values(a) or has_two_values(b):
        return _equal_pairs(a, b)
    pairs = _both_known(a, b)
    return bool(pairs) and all(same_number(x, y) for x, y in pairs)


def _both_known(a: tuple, b: tuple) -> list[tuple]:
    """Pair the values where both trees have one; only the real ones if there are two or more."""
    pairs = zip(values_at_points(a), values_at_points(b), strict=True)
    known = [pair for pair in pairs if None not in pair and TOO_LARGE not in pair]
    im = _mp().im
    real = [(x, y) for x, y in known if im(x) == 0 and im(y) == 0]
    return real if len(real) > 1 else known


def _equal_pairs(a: tuple, b: tuple) -> bool:
    """Compare the two values of 1 ± √3 with those of another, in either order."""
    if has_two_values(a) != has_two_values(b):
        return False
    (x, y), (u, v) = both_values(a), both_values(b)
    in_order = equal(x, u) and equal(y, v)
    return in_order or (equal(x, v) and equal(y, u))


@functools.lru_cache(maxsize=8192)
def has_two_values(tree: tuple) -> bool:
    """Tell whether a ± stands in the tree."""
    if tree[0] in ("n", "s"):
        return False
    return tree[0] in "±∓" or any(map(has_two_values, tree[1:]))


def both_values(tree: tuple) -> tuple[tuple, tuple]:
    """Write a tree with + for ±, and with -."""
    return _with_sign(tree, "+", "-"), _with_sign(tree, "-", "+")


def _with_sign(tree: tuple, sign: str, opposite: str) -> tuple:
    if tree[0] in ("n", "s"):
        return tree
    kind = {"±": sign, "∓": opposite}.get(tree[0], tree[0])
    return (kind, *(_with_sign(part, sign, opposite) for part in tree[1:]))


def proportional(a: tuple, b: tuple) -> int:
    """Return the sign of the constant c in a = c * b, 1 or -1; 0 if there is no such constant.

    With it a = 0 says what b = 0 says. Raises TooLarge.
    """
    if not variables(a) or variables(a) != variables(b):
        return 0
    pairs = _both_known(a, b)
    if not pairs or any(x == 0 or y == 0 for x, y in pairs):
        return 0
    ratios = [x / y for x, y in pairs]
    if _mp().im(ratios[0]) != 0 or not all(same_number(ratio, ratios[0]) for ratio in ratios):
        return 0
    return 1 if _mp().re(ratios[0]) > 0 else -1
