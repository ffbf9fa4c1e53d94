r"""Expressions: a grammar for the mathematics in answers, and a test of equality by evaluation.

    parse("2(x+1)")                         -> a tree of tuples
    equal(parse("2x+2"), parse("2(x+1)"))   -> True

Two expressions are equal if they agree in 200 digits wherever their variables have the same random
values (Schwartz 1980, Zippel 1979). Rational numbers are compared exactly. No text is run, every
step is bounded, and nothing depends on the clock.

A tree is ("n", Fraction), ("s", name) or (operation, tree, ...), with the operations of _apply.
"""

import functools
import math
import random
import re
import threading
from fractions import Fraction

MAX_DEPTH = 40  # of brackets, fractions and exponents inside each other
MAX_BITS = 20_000  # of a number on the way: what is larger cannot be decided
DIGITS = 250  # of the arithmetic; two numbers are equal if they agree in EQUAL_DIGITS
EQUAL_DIGITS = 200
POINTS = 10  # random values of the variables

FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln lg log exp".split()
TRIGONOMETRY = {"sin", "cos", "tan", "cot", "sec", "csc"}
GREEK = "αβγδεζηθικλμνξορστυφχψωΓΔΘΛΞΠΣΦΨΩ"


class Unreadable(ValueError):
    """The text is not an expression that has one meaning."""


class TooLarge(ArithmeticError):
    """A number on the way has more than MAX_BITS bits."""


INFINITY = ("s", "∞")


# --- the grammar ---

GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
# E is an exponent, and so is e, but for 2e+3, which is 2e plus 3: computers write 2e+03 or 2.0e+3.
EXPONENT = (
    r"(?:[eE]-?[0-9]{1,4}|E\+[0-9]{1,4}|e\+[0-9]{2,4}"
    r"|(?<=[.][0-9])e\+[0-9]|(?<=[.][0-9]{2})e\+[0-9])(?![0-9A-Za-z.])"
)
LITERAL = re.compile(rf"(?P<decimal>{NUMBER})(?P<exponent>{EXPONENT})?")
LITERAL_WITH_COMMAS = re.compile(rf"(?P<grouped>{GROUPED})|{LITERAL.pattern}")
LOG_BASE = re.compile(r"([0-9]{1,2})(?=\s*\()")
REPEATING = re.compile(r"\s*\\(?:overline|dot|bar)\s*\{?\s*([0-9]{1,20})\s*\}?")
WORD = re.compile(r"[A-Za-z]+")
_FUNCTIONS = "|".join(FUNCTIONS)
# Letters side by side that are no word: up to three without e, i, o, u, or with functions between.
PRODUCT = re.compile(
    rf"sqrt|[e-ioux]|(?!and$)[a-df-hj-np-tv-zA-Z]{{1,3}}|(?:[a-z]?(?:{_FUNCTIONS}))+[a-zA-C]?"
)
FUNCTION = re.compile(
    rf"({_FUNCTIONS})(?![A-Za-z])|({_FUNCTIONS})(?=[xyzABC](?![A-Za-z])|[xyz](?:{_FUNCTIONS}))"
)
SUBSCRIPT = re.compile(r"\s*_\s*(?:\{([^{}]{1,20})\}|([0-9]+|[A-Za-z0-9" + GREEK + "]))")
SYMBOL = re.compile(rf"[A-Z]{{2,4}}(?![a-z])|[A-Za-z{GREEK}]")
DIGITS_BEHIND = re.compile("[0-9]+")
SPACE = re.compile(r"\s*")


@functools.lru_cache(maxsize=8192)
def parse(text: str, commas: bool = True) -> tuple:
    """Read a spelled text (spelling.spell) as one expression. Raises Unreadable.

    commas: 1,000 is a thousand. Inside brackets a comma parts two items.
    """
    return _Parser(text, commas).whole()


class _Parser:
    """Recursive descent over the characters of a text, each read once or twice."""

    def __init__(self, text: str, commas: bool):
        self.text, self.at, self.depth, self.bars = text, 0, 0, 0
        self.literal = LITERAL_WITH_COMMAS if commas else LITERAL
        words = WORD.findall(re.sub(r"\\[A-Za-z]+", " ", text))
        lower = [word for word in words if not word.isupper()]
        if any(not PRODUCT.fullmatch(word) for word in lower):
            raise Unreadable("a word")
        letters_only = not re.search(r"[0-9\\^_=°" + GREEK + "π√]", text)
        longest = 2 if re.search(r"[-+*/()]", text) else 1
        words = [word for word in words if not FUNCTION.match(word) and word != "sqrt"]
        if letters_only and any(len(word) > longest for word in words):
            raise Unreadable("a word: to a parser on is the product of o and n, equal to no")

    def whole(self) -> tuple:
        tree = self.sum()
        if self.peek():
            raise Unreadable(f"{self.text[self.at :]!r} is left over")
        if "∞" in self.text and tree not in (INFINITY, ("-", ("n", Fraction(0)), INFINITY)):
            raise Unreadable("infinity is no number to reckon with")
        return tree

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        self.at = SPACE.match(self.text, self.at).end()
        return self.text[self.at : self.at + 1]

    def take(self, text: str) -> bool:
        self.peek()
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable(f"{text} is missing")

    def nested(self, read, *arguments):
        """read(*arguments), one level deeper."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        tree = read(*arguments)
        self.depth -= 1
        return tree

    def sum(self) -> tuple:
        tree = self.product()
        while (sign := self.peek()) and sign in "+-±∓":
            self.at += 1
            tree = (sign, tree, self.product())
        return tree

    def product(self) -> tuple:
        tree = self.signed()
        while True:
            char = self.peek()
            if char == "*":
                self.at += 1
                tree = ("*", tree, self.signed())
            elif char == "/":
                self.at += 1
                below = self.signed()
                if self.begins_factor() and (below[0] != "n" or variables(tree)):
                    raise Unreadable("is 1/xy 1/(xy) or y/x?")
                tree = ("/", tree, below)
            elif self.begins_factor():
                tree = ("*", tree, self.power())
            else:
                return tree

    def begins_factor(self) -> bool:
        """Tell whether a factor follows without a sign: 2x, 3(x+1). 3 7 is no product."""
        char = self.peek()
        if char == "|":
            return not self.bars
        return bool(char) and (char.isascii() and char.isalpha() or char in "({\\√π∞⌊" + GREEK)

    def signed(self) -> tuple:
        signs = []
        while (sign := self.peek()) and sign in "+-±∓":
            self.at += 1
            signs.append(sign)
            if len(signs) > 2:
                raise Unreadable("a run of signs")
        tree = self.power()
        for sign in reversed(signs):
            if sign != "+":
                tree = (sign, ("n", Fraction(0)), tree)
        return tree

    def power(self) -> tuple:
        tree = self.atom()
        while self.take("°"):
            tree = ("°", tree)
        if self.take("!"):
            tree = ("!", tree)
        if self.take("^"):
            tree = ("^", tree, self.nested(self.exponent))
        while self.take("°"):
            tree = ("°", tree)
        return tree

    def exponent(self) -> tuple:
        if self.peek() == "{":
            return self.bracketed("{", "}")
        return self.signed()

    def bracketed(self, opening: str, closing: str) -> tuple:
        self.expect(opening)
        bars, self.bars = self.bars, 0
        tree = self.nested(self.sum)
        self.bars = bars
        self.expect(closing)
        return tree

    def atom(self) -> tuple:
        char = self.peek()
        if char == "(":
            return self.bracketed("(", ")")
        if char == "{":
            return self.bracketed("{", "}")
        if char == "⌊":
            return ("floor", self.bracketed("⌊", "⌋"))
        if char == "|" and not self.bars:
            self.at += 1
            self.bars += 1
            tree = self.nested(self.sum)
            self.bars -= 1
            self.expect("|")
            return ("abs", tree)
        if char.isdigit() and char.isascii() or char == ".":
            return self.number()
        if char == "\\":
            return self.command()
        if self.take("√") or self.take("sqrt"):
            return self.root()
        if char and char in "π∞":
            self.at += 1
            return ("s", char)
        return self.function() or self.symbol()

    def number(self) -> tuple:
        m = self.literal.match(self.text, self.at)
        if not m:
            raise Unreadable("no number")
        self.at = m.end()
        if "." in m[0] and (repeating := REPEATING.match(self.text, self.at)):
            self.at = repeating.end()
            return ("n", repeating_value(m[0], repeating[1]))
        if SUBSCRIPT.match(self.text, self.at):
            raise Unreadable("a numeral in another base")
        value = literal_value(m)
        fraction = self.fraction_behind() if value.denominator == 1 and "." not in m[0] else None
        return ("n", value + fraction) if fraction else ("n", value)

    FRACTION = re.compile(
        r"\s+([0-9]{1,9})\s*/\s*([0-9]{1,9})(?![0-9.])|\s*\\frac\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))"
    )

    def fraction_behind(self) -> Fraction | None:
        """The 2/5 of a mixed number, 2 2/5 or 2\\frac{2}{5}."""
        m = self.FRACTION.match(self.text, self.at)
        if not m:
            return None
        top, bottom = int(m[1] or m[3] or m[4]), int(m[2] or m[5] or m[6])
        if not 0 < top < bottom:
            return None
        self.at = m.end()
        return Fraction(top, bottom)

    def command(self) -> tuple:
        if self.take("\\frac"):
            return ("/", self.argument(), self.argument())
        if self.take("\\binom"):
            return ("binom", self.argument(), self.argument())
        if self.take("\\sqrt"):
            return self.root(latex=True)
        raise Unreadable("an unknown command")

    def argument(self) -> tuple:
        """What LaTeX takes for an argument: a group, or one digit or letter."""
        char = self.peek()
        if char == "{":
            return self.bracketed("{", "}")
        if char == "(":
            return self.bracketed("(", ")")
        if char == "\\":
            return self.nested(self.command)
        self.at += 1
        if char and char in "0123456789":
            return ("n", Fraction(int(char)))
        if char and (char.isascii() and char.isalpha() or char in "π" + GREEK):
            return ("s", char)
        raise Unreadable("no argument")

    def root(self, latex: bool = False) -> tuple:
        degree = ("n", Fraction(2))
        if self.take("["):
            degree = self.nested(self.sum)
            self.expect("]")
        if latex or self.peek() in ("{", "("):
            return ("root", self.argument(), degree)
        return (
            "root",
            self.nested(self.atom),
            degree,
        )  # √12 is the root of 12, \sqrt12 would be that of 1

    def function(self) -> tuple | None:
        m = FUNCTION.match(self.text, self.at)
        if not m:
            return None
        name = m[1] or m[2]
        self.at = m.end()
        power, base = None, None
        if name == "log" and (sub := SUBSCRIPT.match(self.text, self.at)):
            base = parse(sub[1] or sub[2], False)
            self.at = sub.end()
        elif name == "log" and (digits := LOG_BASE.match(self.text, self.at)):
            base = ("n", Fraction(digits[1]))
            self.at = digits.end()
        if self.take("^"):
            power = self.nested(self.exponent)
        tree = self.nested(self.function_argument)
        if power == ("-", ("n", Fraction(0)), ("n", Fraction(1))) and name in ("sin", "cos", "tan"):
            return ("arc" + name, tree)
        tree = ("log", tree, base) if base else (name, tree)
        return ("^", tree, power) if power else tree

    def function_argument(self) -> tuple:
        """A bracket, or the factors up to the next sign or function: sin 2x, ln 2."""
        if self.peek() == "(":
            return self.power()
        tree = self.signed()
        while (
            self.begins_factor() and not FUNCTION.match(self.text, self.at) and self.peek() != "("
        ):
            tree = ("*", tree, self.power())
        return tree

    def symbol(self) -> tuple:
        """Read a variable: a letter or the capitals of a segment (AB), subscript and primes."""
        m = SYMBOL.match(self.text, self.at)
        if not m:
            raise Unreadable("no factor")
        self.at = m.end()
        name = m[0]
        digits = DIGITS_BEHIND.match(self.text, self.at)
        subscript = SUBSCRIPT.match(self.text, self.at)
        if digits:
            name += "_" + digits[0]
            self.at = digits.end()
        elif subscript:
            name += "_" + (subscript[1] or subscript[2]).replace(" ", "")
            self.at = subscript.end()
        while self.text.startswith("'", self.at):
            name += "'"
            self.at += 1
        return ("s", name)


def repeating_value(start: str, period: str) -> Fraction:
    """The value of 0.1\\overline{6}: start is "0.1", period is "6"."""
    places = len(start.partition(".")[2])
    return Fraction(start) + Fraction(int(period), (10 ** len(period) - 1) * 10**places)


def literal_value(m: re.Match) -> Fraction:
    """Work out a number that LITERAL found. Raises Unreadable if it is too long."""
    groups = m.groupdict()
    if groups.get("grouped"):
        return Fraction(groups["grouped"].replace(",", ""))
    exponent = int(groups["exponent"][1:]) if groups["exponent"] else 0
    if abs(exponent) > 400:
        raise Unreadable("a number of over 400 digits")
    return Fraction(groups["decimal"]) * Fraction(10) ** exponent


# --- exact numbers ---


@functools.lru_cache(maxsize=8192)
def variables(tree: tuple) -> frozenset:
    """Name the variables of a tree; π, e and i are numbers."""
    if tree[0] == "n":
        return frozenset()
    if tree[0] == "s":
        return frozenset() if tree[1] in CONSTANTS else frozenset([tree[1]])
    return frozenset().union(*map(variables, tree[1:]))


CONSTANTS = ("π", "e", "i")


@functools.lru_cache(maxsize=8192)
def exact(tree: tuple) -> Fraction | None:
    """Work out a tree of rational numbers, +, -, *, / and whole powers; else None.

    Raises TooLarge.
    """
    if tree[0] == "n":
        return tree[1]
    if tree[0] == "s":
        return None
    values = [exact(part) for part in tree[1:]]
    if None in values:
        return None
    value = _exact_operation(tree[0], *values)
    if value is not None and _bits(value) > MAX_BITS:
        raise TooLarge
    return value


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _exact_operation(kind: str, a: Fraction, b: Fraction = Fraction(1)) -> Fraction | None:
    """Work out one operation on rational numbers; None if it has no rational value."""
    if kind in ("+", "-", "*"):
        return {"+": a + b, "-": a - b, "*": a * b}[kind]
    if kind == "/":
        return a / b if b else None
    if kind in ("°", "abs", "floor"):
        return {"°": a, "abs": abs(a), "floor": Fraction(math.floor(a))}[kind]
    if kind == "^" and b.denominator == 1:
        return _whole_power(a, int(b))
    if kind == "!" and a.denominator == 1 and 0 <= a < 1000:
        return Fraction(math.factorial(int(a)))
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
    """This thread's arithmetic of DIGITS digits."""
    if not hasattr(_thread, "mp"):
        import mpmath

        _thread.mp = mpmath.MPContext()
        _thread.mp.dps = DIGITS
        _thread.values = {}
    return _thread.mp


@functools.lru_cache(maxsize=4096)
def _point(name: str, k: int) -> Fraction:
    """Draw the value of a variable at point k.

    Three points are positive and two negative. At the others two letters differ in sign somewhere.
    Some points are far out, where an absolute value may have changed its sign.
    """
    draw = random.Random(f"{name}/{k}")
    size = Fraction(draw.randrange(2**60, 3 * 2**60), 2**60)
    if k in (1, 4, 6):
        size *= 500
    code = sum(map(ord, name))  # its last five bits are different for every two letters
    negative = k in (3, 4) or k > 4 and (code >> (k - 5)) & 1
    return -size if negative else size


def evaluate(tree: tuple, k: int = 0, sign: int = 1):
    """Work out a tree at point k as a number of mpmath. sign: 1 or -1, for ±.

    Raises ArithmeticError where it has no value, and TooLarge.
    """
    return _evaluate(_mp(), tree, k, sign, False)


def _evaluate(mp, tree: tuple, k: int, sign: int, in_angle: bool):
    kind = tree[0]
    if kind == "n":
        return _fraction(mp, tree[1])
    if kind == "s":
        return _constant(mp, tree[1]) or _fraction(mp, _point(tree[1], k))
    in_angle = in_angle or kind in TRIGONOMETRY
    values = [_evaluate(mp, part, k, sign, in_angle) for part in tree[1:]]
    if kind == "°":
        return values[0] * mp.pi / 180 if in_angle else values[0]
    if kind == "^" and (exponent := _odd_root(tree[2])):
        value = _real_power(mp, values[0], exponent)
    else:
        value = _apply(mp, kind, values, sign)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    if mp.mag(value) > MAX_BITS:
        raise TooLarge
    return _without_noise(mp, kind, values, value)


def _fraction(mp, value: Fraction):
    return mp.mpf(value.numerator) / value.denominator


def _without_noise(mp, kind: str, values: list, value):
    """0 for what is left of a difference of equal numbers, or of sin π."""
    if kind in ("+", "-", "±", "∓"):
        size = max(map(abs, values))
    elif kind in TRIGONOMETRY or kind in ("ln", "log", "lg"):
        size = mp.mpf(1) if abs(values[0]) > 0.5 else mp.mpf(0)
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


def _apply(mp, kind: str, values: list, sign: int):
    """One operation of a tree."""
    a, b = values[0], values[-1]
    if kind in ARITHMETIC:
        return getattr(mp, ARITHMETIC[kind])(a, b)
    if kind in "±∓":
        return a + b if (kind == "±") == (sign > 0) else a - b
    if kind == "^":
        return _power(mp, a, b)
    if kind == "root":
        return _root(mp, a, b)
    if kind in ("log", "lg"):
        return mp.log(a) / mp.log(_base(mp, kind, values))
    if mp.mag(a) > 12 and kind in ("exp", "sinh", "cosh", "tanh", "!", "binom"):
        raise TooLarge
    if kind in TRIGONOMETRY and mp.mag(mp.im(a)) > 12:
        raise TooLarge
    return getattr(mp, FUNCTION_OF_MPMATH.get(kind, kind))(*values)


ARITHMETIC = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}
FUNCTION_OF_MPMATH = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "abs": "fabs",
    "!": "factorial",
    "binom": "binomial",
}


def _base(mp, kind: str, values: list):
    """The base of a logarithm. A log without one has some base, always the same."""
    if kind == "lg":
        return mp.mpf(10)
    return values[1] if len(values) == 2 else _fraction(mp, _point("base", 0))


def _power(mp, base, exponent):
    if base == 0:
        if mp.re(exponent) <= 0:
            raise ZeroDivisionError
        return mp.mpf(0)
    if mp.mag(exponent) > 30 or abs(exponent) * (abs(mp.mag(base)) + 1) > MAX_BITS:
        raise TooLarge
    return mp.power(base, exponent)


def _odd_root(tree: tuple) -> Fraction | None:
    """The exponent 2/3 or the like, for which negative numbers have a real power; else None."""
    value = exact(tree)
    return value if value is not None and value.denominator % 2 and value.denominator > 1 else None


def _real_power(mp, base, exponent: Fraction):
    """The real power of a negative number: (-8)^(2/3) is 4."""
    power = _fraction(mp, exponent)
    if mp.im(base) != 0 or mp.re(base) >= 0:
        return _power(mp, base, power)
    size = _power(mp, -base, power)
    return -size if exponent.numerator % 2 else size


def _root(mp, value, degree):
    """The root, real where there is a real one: the cube root of -8 is -2."""
    if degree == 0:
        raise ZeroDivisionError
    if mp.im(degree) == 0 and mp.isint(degree) and mp.mag(degree) < 10 and int(degree) % 2:
        return _real_power(mp, value, Fraction(1, int(degree)))
    return _power(mp, value, 1 / degree)


# --- equality ---


def same_number(a, b) -> bool:
    """Tell whether two numbers agree in EQUAL_DIGITS digits."""
    return abs(a - b) <= max(abs(a), abs(b)) * _mp().mpf(10) ** -EQUAL_DIGITS


def values(tree: tuple) -> list:
    """Work out a tree at each point, at one if it has no variables; None where it has no value.

    Raises TooLarge if it is so at every point.
    """
    _mp()
    if tree not in _thread.values:
        if len(_thread.values) >= 256:
            _thread.values.clear()
        _thread.values[tree] = [_value(tree, k) for k in range(POINTS if variables(tree) else 1)]
    found = _thread.values[tree]
    if all(value is TooLarge for value in found):
        raise TooLarge
    return [None if value is TooLarge else value for value in found]


def _value(tree: tuple, k: int):
    try:
        return evaluate(tree, k)
    except TooLarge:
        return TooLarge
    except (ArithmeticError, ValueError):
        return None


def equal(a: tuple, b: tuple) -> bool:
    """Tell whether two trees have the same value whatever their variables are. Raises TooLarge.

    Where both are real numbers somewhere, it is enough that they agree there.
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
    """The values of two trees where both have one; only the real ones if there are at least two."""
    columns = [values(a), values(b)]
    longest = max(map(len, columns))
    pairs = zip(*(column * longest if len(column) == 1 else column for column in columns))
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    im = _mp().im
    real = [(x, y) for x, y in known if im(x) == 0 and im(y) == 0]
    return real if len(real) > 1 else known


def _equal_pairs(a: tuple, b: tuple) -> bool:
    """Compare the two values of 1 ± √3 with those of another, in either order."""
    if has_two_values(a) != has_two_values(b):
        return False
    (x, y), (u, v) = ((one_of_two(tree, 1), one_of_two(tree, -1)) for tree in (a, b))
    return equal(x, u) and equal(y, v) or equal(x, v) and equal(y, u)


@functools.lru_cache(maxsize=8192)
def has_two_values(tree: tuple) -> bool:
    """Tell whether a ± stands in the tree."""
    if tree[0] in ("n", "s"):
        return False
    return tree[0] in "±∓" or any(map(has_two_values, tree[1:]))


def one_of_two(tree: tuple, sign: int) -> tuple:
    """Write the tree with + or - for ±."""
    if tree[0] in ("n", "s"):
        return tree
    kind = tree[0]
    if kind in "±∓":
        kind = "+" if (kind == "±") == (sign > 0) else "-"
    return (kind, *(one_of_two(part, sign) for part in tree[1:]))


def proportional(a: tuple, b: tuple) -> int:
    """Tell the sign of c in a = c * b, where c is a constant: 1 or -1; 0 if there is none.

    With such a constant a = 0 says what b = 0 says. Raises TooLarge.
    """
    if not variables(a) or variables(a) != variables(b):
        return 0
    pairs = _both_known(a, b)
    if not pairs or any(x == 0 or y == 0 for x, y in pairs):
        return 0
    ratios = [x / y for x, y in pairs]
    if _mp().im(ratios[0]) != 0 or not all(same_number(ratio, ratios[0]) for ratio in ratios):
        return 0
    return 1 if ratios[0] > 0 else -1
