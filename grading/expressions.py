r"""A grammar for the formulas in answers: text in, a tree of tuples out.

    parse("2(x+1)")  -> ("*", ("n", Fraction(2)), ("+", ("s", "x"), ("n", Fraction(1))))

A tree is ("n", Fraction), ("s", name) or (operation, tree, ...). The operations are + - * / ^ ± ∓,
abs, floor, root, binom, ! and °, and the names in FUNCTIONS. equality.py compares trees.
"""

import functools
import re
from fractions import Fraction

MAX_DEPTH = 40  # of brackets, fractions and exponents inside each other

FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln lg log exp".split()
TRIGONOMETRY = {"sin", "cos", "tan", "cot", "sec", "csc"}
GREEK = "αβγδεζηθικλμνξορστυφχψωΓΔΘΛΞΠΣΦΨΩ"


class Unreadable(ValueError):
    """The text is not an expression that has one meaning."""


ZERO, ONE = ("n", Fraction(0)), ("n", Fraction(1))
INFINITY = ("s", "∞")
CONSTANTS = ("π", "e", "i")


# --- the grammar ---

GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
# e and E start an exponent. Only 2e+3 is 2e plus 3: computers print 2e+03 or 2.0e+3.
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
FORMULA_SIGN = re.compile(rf"[0-9\\^_=°π√{GREEK}]")
DIGITS_BEHIND = re.compile("[0-9]+")
SPACE = re.compile(r"\s*")
POWER = re.compile(r"[0-9]+\s*\^")
POWER_BEFORE = re.compile(r"\^\s*(?:[0-9]+|\{[^{}]*\})\s+$")
# The fraction of a mixed number: 2/5, \frac{2}{5}, \frac25
SLASHED = re.compile(r"\s+([0-9]{1,9})\s*/\s*([0-9]{1,9})(?![0-9.])")
_PART = r"\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))"
STACKED = re.compile(rf"\s*\\frac{_PART}{_PART}")


@functools.lru_cache(maxsize=8192)
def parse(text: str, commas: bool = True) -> tuple:
    """Read a spelled text (spelling.spell) as one expression. Raises Unreadable.

    commas: 1,000 is a thousand. Inside brackets a comma parts two items.
    """
    return _Parser(text, commas).whole()


class _Parser:
    """Recursive descent, in time linear in the text."""

    def __init__(self, text: str, commas: bool):
        self.text = text
        self.literal = LITERAL_WITH_COMMAS if commas else LITERAL
        self.at = 0  # the next character
        self.depth = 0  # of brackets and the like
        self.bars = 0  # | that are open

    def refuse_words(self) -> None:
        """Raise Unreadable for prose: to a parser on is the product of o and n, equal to no."""
        words = WORD.findall(re.sub(r"\\[A-Za-z]+", " ", self.text))
        if any(not word.isupper() and not PRODUCT.fullmatch(word) for word in words):
            raise Unreadable("a word")
        if FORMULA_SIGN.search(self.text):
            return
        longest = 2 if re.search(r"[-+*/()]", self.text) else 1
        words = [word for word in words if not FUNCTION.match(word) and word != "sqrt"]
        if any(len(word) > longest for word in words):
            raise Unreadable("a word")

    def whole(self) -> tuple:
        self.refuse_words()
        tree = self.sum()
        if self.peek():
            raise Unreadable(f"{self.text[self.at :]!r} is left over")
        if "∞" in self.text and tree not in (INFINITY, ("-", ZERO, INFINITY)):
            raise Unreadable("infinity is no number to reckon with")
        return tree

    def peek(self) -> str:
        """Return the next character that is no space; "" at the end."""
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
        """Call read(*arguments) one level deeper."""
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
            elif self.begins_factor() or self.power_behind_power():
                tree = ("*", tree, self.power())
            else:
                return tree

    def begins_factor(self) -> bool:
        """Tell whether a factor follows without a sign: 2x, 3(x+1). 3 7 is no product."""
        char = self.peek()
        if char == "|":
            return not self.bars
        if char.isascii() and char.isalpha():
            return True
        return char != "" and char in "({\\√π∞⌊" + GREEK

    def power_behind_power(self) -> bool:
        """Tell whether the 3^5 of 2^6 3^5 follows, a prime factorisation without its signs."""
        return bool(POWER.match(self.text, self.at) and POWER_BEFORE.search(self.text[: self.at]))

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
                tree = (sign, ZERO, tree)
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
        if char and char in "0123456789.":
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
        if value.denominator == 1 and "." not in m[0]:
            value += self.fraction_behind()
        return ("n", value)

    def fraction_behind(self) -> Fraction:
        """Read the 2/5 of a mixed number, 2 2/5 or 2\\frac{2}{5}; 0 if there is none."""
        m = SLASHED.match(self.text, self.at) or STACKED.match(self.text, self.at)
        if not m:
            return Fraction(0)
        top, bottom = (int(digits) for digits in m.groups() if digits)
        if not 0 < top < bottom:
            return Fraction(0)
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
        """Read what LaTeX takes for an argument: a group, or one digit or letter."""
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
        # √12 is the root of 12; LaTeX would take \sqrt12 for the root of 1 times 2.
        return ("root", self.nested(self.atom), degree)

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
        if power == ("-", ZERO, ONE) and name in ("sin", "cos", "tan"):
            return ("arc" + name, tree)
        tree = ("log", tree, base) if base else (name, tree)
        return ("^", tree, power) if power else tree

    def function_argument(self) -> tuple:
        """Read a bracket, or the factors up to the next sign or function: sin 2x, ln 2."""
        if self.peek() == "(":
            return self.power()
        tree = self.signed()
        while self.begins_factor() and not self.begins_function_or_bracket():
            tree = ("*", tree, self.power())
        return tree

    def begins_function_or_bracket(self) -> bool:
        return self.peek() == "(" or bool(FUNCTION.match(self.text, self.at))

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
    """Work out 0.1\\overline{6}: start is "0.1", period is "6"."""
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


@functools.lru_cache(maxsize=8192)
def variables(tree: tuple) -> frozenset:
    """Name the variables of a tree; π, e and i are numbers."""
    if tree[0] == "n":
        return frozenset()
    if tree[0] == "s":
        return frozenset([tree[1]]) - set(CONSTANTS)
    return frozenset().union(*map(variables, tree[1:]))
