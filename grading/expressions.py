r"""Expressions: a grammar for the mathematics in answers, and a test of equality by evaluation.

    parse("2(x+1)")                         -> a tree of tuples
    equal(parse("2x+2"), parse("2(x+1)"))   -> True

Two expressions are equal if they agree in 200 digits wherever their variables have the same random
values (Schwartz 1980, Zippel 1979). Rational numbers are compared exactly. No text is run, every
step is bounded, and nothing depends on the clock.

A tree is ("n", Fraction), ("s", name) or (operation, tree, ...), with the operations of _apply.
"""

import functools
import random
import re
import threading
from fractions import Fraction

MAX_DEPTH = 40  # of brackets, fractions and exponents inside each other
MAX_BITS = 20_000  # of a number on the way: what is larger cannot be decided
DIGITS = 250  # of the arithmetic; two numbers are equal if they agree in EQUAL_DIGITS
EQUAL_DIGITS = 200
POINTS = 6  # random values of the variables

FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln lg log exp".split()
TRIGONOMETRY = {"sin", "cos", "tan", "cot", "sec", "csc"}
GREEK = "αβγδεζηθικλμνξορστυφχψωΓΔΘΛΞΠΣΦΨΩ"


class Unreadable(ValueError):
    """The text is not an expression that has one meaning."""


class TooLarge(ArithmeticError):
    """A number on the way has more than MAX_BITS bits."""


# --- the grammar ---

GROUPED = (
    r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"
)
NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
# E is an exponent, and so is e, but for 2e+3, which is 2e plus 3: computers write 2e+03 or 2.0e+3.
EXPONENT = (
    r"(?:[eE]-?[0-9]{1,4}|E\+[0-9]{1,4}|e\+[0-9]{2,4}"
    r"|(?<=[.][0-9])e\+[0-9]|(?<=[.][0-9]{2})e\+[0-9])(?![0-9A-Za-z.])"
)
LITERAL = re.compile(rf"(?P<decimal>{NUMBER})(?P<exponent>{EXPONENT})?")
LITERAL_WITH_COMMAS = re.compile(rf"(?P<grouped>{GROUPED})|{LITERAL.pattern}")
REPEATING = re.compile(r"\s*\\(?:overline|dot|bar)\s*\{?\s*([0-9]{1,20})\s*\}?")
WORD = re.compile(r"[A-Za-z]+")
FUNCTION = re.compile(
    rf"({'|'.join(FUNCTIONS)})(?![A-Za-z])|({'|'.join(FUNCTIONS)})(?=[xyzABC](?![A-Za-z]))"
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
        if any(len(word) > 2 and not FUNCTION.match(word) and word != "sqrt" for word in lower):
            raise Unreadable("a word")
        letters_only = not re.search(r"[0-9\\^_=°" + GREEK + "π√]", text)
        if letters_only and any(
            len(word) > 1 and not FUNCTION.match(word) and word != "sqrt" for word in words
        ):
            raise Unreadable("a word: to a parser on is the product of o and n, equal to no")

    def whole(self) -> tuple:
        tree = self.sum()
        if self.peek():
            raise Unreadable(f"{self.text[self.at :]!r} is left over")
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
            tree = (
                "s",
                f"{tree}!",
            )  # stands for itself: 3! is no 6, which may be followed by a cry
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


# --- equality ---


@functools.lru_cache(maxsize=8192)
def variables(tree: tuple) -> frozenset:
    """The names of a tree's variables; π, e and i are numbers."""
    if tree[0] == "n":
        return frozenset()
    if tree[0] == "s":
        return frozenset() if tree[1] in ("π", "e", "i") else frozenset([tree[1]])
    return frozenset().union(*map(variables, tree[1:]))


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
    if tree[0] == "°":
        return values[0]
    if tree[0] in ("+", "-", "*"):
        a, b = values
        return _bounded({"+": a + b, "-": a - b, "*": a * b}[tree[0]])
    if tree[0] == "/":
        return values[0] / values[1] if values[1] else None
    if tree[0] == "abs":
        return abs(values[0])
    if tree[0] == "^" and values[1].denominator == 1:
        return _whole_power(values[0], int(values[1]))
    return None


def _whole_power(base: Fraction, n: int) -> Fraction | None:
    if base == 0:
        return Fraction(0) if n > 0 else None
    if abs(n) * (base.numerator.bit_length() + base.denominator.bit_length()) > MAX_BITS:
        raise TooLarge
    return base**n


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise TooLarge
    return value


_arithmetic = threading.local()  # mpmath's contexts are not safe between threads


def _mp():
    """This thread's arithmetic of DIGITS digits."""
    if not hasattr(_arithmetic, "mp"):
        import mpmath

        _arithmetic.mp = mpmath.MPContext()
        _arithmetic.mp.dps = DIGITS
    return _arithmetic.mp


@functools.lru_cache(maxsize=1024)
def _point(name: str, k: int) -> Fraction:
    """Draw a variable's value at point k: at three positive, at one negative, then either."""
    draw = random.Random(f"{name}/{k}")
    size = Fraction(draw.randrange(2**60, 3 * 2**60), 2**60)
    negative = k == 3 or k > 3 and draw.random() < 0.5
    return -size if negative else size


def evaluate(tree: tuple, k: int, sign: int = 1):
    """Work out a tree at point k as a number of mpmath. sign: 1 or -1, for ±.

    Raises ArithmeticError where it has no value, and TooLarge.
    """
    return _evaluate(_mp(), tree, k, sign, False)


def _evaluate(mp, tree: tuple, k: int, sign: int, in_angle: bool):
    kind = tree[0]
    if kind == "n":
        return mp.mpf(tree[1].numerator) / tree[1].denominator
    if kind == "s":
        return (
            _constant(mp, tree[1])
            or mp.mpf(_point(tree[1], k).numerator) / _point(tree[1], k).denominator
        )
    in_angle = in_angle or kind in TRIGONOMETRY
    values = [_evaluate(mp, part, k, sign, in_angle) for part in tree[1:]]
    if kind == "°":
        return values[0] * mp.pi / 180 if in_angle else values[0]
    value = _apply(mp, kind, values, sign)
    if not mp.isfinite(value):
        raise ZeroDivisionError
    if mp.mag(value) > MAX_BITS:
        raise TooLarge
    return value


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
    if kind in ("+", "-", "*", "/"):
        return {"+": mp.fadd, "-": mp.fsub, "*": mp.fmul, "/": mp.fdiv}[kind](a, b)
    if kind == "±":
        return a + sign * b
    if kind == "∓":
        return a - sign * b
    if kind == "^":
        return _power(mp, a, b)
    if kind == "root":
        return _root(mp, a, b)
    if kind == "log" and len(values) == 2:
        return mp.log(a) / mp.log(b)
    if kind == "log":  # of a base that is not named: some base
        return mp.log(a) / mp.log(mp.mpf(_point("base of log", 0).numerator) / 2**60)
    if kind == "lg":
        return mp.log(a) / mp.log(10)
    if kind == "abs":
        return mp.fabs(a)
    if kind in ("exp", "sinh", "cosh", "tanh") and mp.mag(a) > 12:
        raise TooLarge
    names = {"ln": "ln", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}
    return getattr(mp, names.get(kind, kind))(a)


def _power(mp, base, exponent):
    if base == 0:
        if mp.re(exponent) <= 0:
            raise ZeroDivisionError
        return mp.mpf(0)
    if mp.mag(exponent) > 30 or abs(exponent) * (abs(mp.mag(base)) + 1) > MAX_BITS:
        raise TooLarge
    return mp.power(base, exponent)


def _root(mp, value, degree):
    """The real root of a real number where there is one: the cube root of -8 is -2."""
    if degree == 0:
        raise ZeroDivisionError
    whole = mp.isint(degree) and mp.mag(degree) < 10
    if whole and int(degree) % 2 and mp.im(value) == 0 and mp.re(value) < 0:
        return -mp.power(-mp.re(value), 1 / degree)
    return _power(mp, value, 1 / degree)


def same_number(a, b) -> bool:
    """Tell whether two numbers agree in EQUAL_DIGITS digits, or are both zero but for rounding."""
    mp = _mp()
    size = max(abs(a), abs(b))
    if size < mp.mpf(10) ** -(DIGITS - 20):
        return True
    return abs(a - b) <= size * mp.mpf(10) ** -EQUAL_DIGITS


def values(tree: tuple, sign: int = 1) -> list:
    """The tree at each point; None where it has no value. Without variables one point is enough."""
    found = []
    for k in range(POINTS if variables(tree) else 1):
        try:
            found.append(evaluate(tree, k, sign))
        except TooLarge:
            raise
        except (ArithmeticError, ValueError):
            found.append(None)
    return found


def equal(a: tuple, b: tuple) -> bool:
    """Tell whether two trees have the same value whatever their variables are. Raises TooLarge."""
    if a == b:
        return True
    x, y = exact(a), exact(b)
    if x is not None and y is not None:
        return x == y
    if _signs(a) != _signs(b):
        return False
    for sign in (1, -1) if _signs(a) else (1,):
        pairs = list(zip(*_stretched(values(a, sign), values(b, sign))))
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if len(known) * 2 < len(pairs) or not all(same_number(x, y) for x, y in known):
            return False
    return True


def _stretched(a: list, b: list) -> tuple[list, list]:
    longest = max(len(a), len(b))
    return [column * longest if len(column) == 1 else column for column in (a, b)]


@functools.lru_cache(maxsize=8192)
def _signs(tree: tuple) -> bool:
    """Tell whether a ± stands in the tree."""
    if tree[0] in ("n", "s"):
        return False
    return tree[0] in "±∓" or any(map(_signs, tree[1:]))


def has_two_values(tree: tuple) -> bool:
    """Tell whether the tree is 1 ± √3 or the like."""
    return _signs(tree)


def one_of_two(tree: tuple, sign: int) -> tuple:
    """The tree with + or - for ±."""
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
    ratio = None
    for x, y in zip(values(a), values(b)):
        if x is None or y is None:
            continue
        if same_number(x, 0) or same_number(y, 0):
            return 0
        if ratio is None:
            ratio = x / y
        elif not same_number(x / y, ratio):
            return 0
    if ratio is None or _mp().im(ratio) != 0:
        return 0
    return 1 if ratio > 0 else -1
