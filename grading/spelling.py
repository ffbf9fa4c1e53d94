r"""One spelling for what is written in many: Unicode, LaTeX, dressing. Text in, text out.

    spell(r"$\dfrac{1}{2}\,\text{cm}$")  -> r"\frac{1}{2} cm"
    spell("90° − \\alpha.")              -> "90° - α"
    spell("**“Yes”**")                   -> "Yes"

Commands that stand for one character become that character (\alpha: α, \leq: ≤), dressing goes, and
other commands stay (\frac, \sqrt, \begin).
"""

import functools
import re
import unicodedata

from grading.expressions import FUNCTIONS

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")
BEFORE_NFKC = str.maketrans("º˚∘", "°°°", "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")
AFTER_NFKC = str.maketrans({
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "―": "-", "⁄": "/", "∕": "/",
    "÷": "/", "∶": ":", "×": "*", "·": "*", "⋅": "*", "∙": "*",
    "’": "'", "‘": "'", "′": "'", "“": '"', "”": '"', "≦": "≤", "≧": "≥", "⩽": "≤", "⩾": "≥",
    "∥": "‖", "∆": "Δ", "〈": "⟨", "〉": "⟩", "∼": "∽", "∣": "|", "⟂": "⊥", "≌": "≅", "µ": "μ",
})  # fmt: skip

SYMBOLS = {
    **dict(zip("alpha beta gamma delta epsilon zeta eta theta iota".split(), "αβγδεζηθι")),
    **dict(zip("kappa lambda mu nu xi omicron pi rho".split(), "κλμνξοπρ")),
    **dict(zip("sigma tau upsilon phi chi psi omega".split(), "στυφχψω")),
    **dict(zip("varepsilon vartheta varphi varrho varsigma".split(), "εθφρσ")),
    **dict(zip("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(), "ΓΔΘΛΞΠΣΦΨΩ")),
    "infty": "∞", "leq": "≤", "le": "≤", "leqslant": "≤", "geq": "≥", "ge": "≥", "geqslant": "≥",
    "neq": "≠", "ne": "≠", "lt": "<", "gt": ">",
    "pm": "±", "mp": "∓", "times": "*", "cdot": "*", "div": "/", "approx": "≈", "sim": "∽",
    "angle": "∠", "triangle": "△", "bigtriangleup": "△",
    "parallel": "‖", "|": "‖", "perp": "⊥", "cup": "∪", "bigcup": "∪", "cap": "∩", "in": "∈",
    "notin": "∉", "subset": "⊂", "emptyset": "∅", "varnothing": "∅",
    "cong": "≅", "equiv": "≡", "rightarrow": "→", "to": "→", "Rightarrow": "→", "implies": "→",
    "odot": "⊙", "bigodot": "⊙", "circ": "°", "degree": "°", "textdegree": "°",
    "langle": "⟨", "rangle": "⟩", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉",
    "prime": "'", "ldots": "...", "dots": "...", "cdots": "...", "colon": ":", "lbrace": "⦃",
    "rbrace": "⦄", "{": "⦃", "}": "⦄", "%": "%", "$": "＄", "&": "&", "#": "#", "_": " ",
    "overrightarrow": "\\vec", "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac",
    "dbinom": "\\binom", "tbinom": "\\binom", "euro": "€", "pounds": "£", "land": "and",
    "lor": "or", "square": "□", "because": "∵", "therefore": "∴",
}  # fmt: skip
FUNCTION_NAMES = {*FUNCTIONS, "max", "min", "gcd", "lcm"}
DROPPED = set(
    (
        "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits "
        "rm bf it mathrm mathbf mathit mathsf text textbf boldsymbol bm "
        "quad qquad space thinspace"
    ).split()
) | set(",;:! ()[]")

COMMAND = re.compile(r"\\([A-Za-z]+|[^A-Za-z])")
_TEXT = r"\\(?:text[a-z]*|math[a-z]+|boldsymbol|bm|[mh]box|operatorname\*?|underline)"
WRAPPED = re.compile(_TEXT + r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
QUOTES = ['""', "''", "``", "«»", "「」", "《》"]
THOUSANDS = re.compile(r"-?[0-9]{1,3}(?: [0-9]{3})+")  # 12 345 678, which is no list
BOLD = re.compile(r"(?<![^\s(])\*\*([^*]+)\*\*(?=[\s.,:;)]|$)")  # **A.** cat
GREEK_NAME = re.compile(
    r"(?<![A-Za-z\\])(alpha|beta|gamma|delta|theta|lambda|omega|pi)(?![A-Za-z])", re.IGNORECASE
)


def _table(*rows: tuple[str, str]) -> list[tuple[re.Pattern, str]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in rows]


_USUAL = "[dt]?frac|sqrt|text|left|right|pi|cdot|times|circ"
BEFORE_LATEX = _table(
    (rf"\\\\(?=(?:{_USUAL})(?![A-Za-z]))", r"\\"),  # \\frac, escaped twice
    (r"(?<!\\)\\\s*$", ""),  # what a cut has left
    (r"(?<=[A-Z])\s*~\s*(?=△|\\triangle|Δ|\\Delta)", "∽"),  # similar triangles
    (r"(?<=[0-9])\s*[xX]\s*(?=10\s*(?:\^|\*\*))", "*"),  # 4.5 x 10^3
)
LATEX = _table(
    (r"\{,\}", ","),
    (r"(?<=[0-9])(?:\\,|\\ )(?=[0-9]{3}(?![0-9]))", ""),  # 10\,000
    (r"\\!\s*", ""),  # 1,\!000
    (r"\{\s*\\(?:rm|bf|it|sf|tt)(?![A-Za-z])([^{}]*)\}", r" \1 "),  # {\rm cm}
    (r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1"),  # a segment
)
AFTER_LATEX = _table(
    (r"\+\s*/\s*-|(?:(?<=^)|(?<=[=(,]))\s*\+\s*-", "±"),
    (r"-\s*/\s*\+|(?:(?<=^)|(?<=[=(,]))\s*-\s*\+", "∓"),
    (r"(?<![A-Za-z\\])(?:(?<=[-+(\[, ])oo|(?i:inf|infinity))(?![A-Za-z])", "∞"),
    (r"(?<=[)\]])\s*U\s*(?=[(\[])", "∪"),
    (r"⦃\s*⦄|^\{\}$", "∅"),
    (r"Δ(?=\s*[A-Z]{3})", "△"),
    (r"(?i:\bper\s+cent\b)", "percent"),
    (r"^\{([^{}]*\|[^{}]*)\}$", r"⦃\1⦄"),  # {x | x > 3}
    (r"^<([^<>]*,[^<>]*)>$", r"⟨\1⟩"),  # <1, 2>
    (">=", "≥"),
    ("<=", "≤"),
    ("!=", "≠"),
    (r"(?<=[A-Z])\s*(?://|\|\|)\s*(?=[A-Z])", "‖"),  # AB // CD
    (r"(?<=[0-9])\s*∽\s*(?=[0-9])", "~"),  # 3∼5, a range
    ("^∽", "≈"),
    (r"(°.*[0-9])\s*\"\s*$", r"\1''"),  # 12°34'56"
    (r"(?:\{\})?\s*\^\s*(?:\{\s*[°o]\s*\}|°|(?<=[0-9]\^)o(?![A-Za-z]))", "°"),  # ^\circ, ^o
    (r"\s*\^\s*(?:\{\s*('+)\s*\}|('+))", r"\1\2"),  # ^\prime
    (r"(?<=[0-9A-Za-z)])\s*\*\*\s*(?=[0-9A-Za-z(-])", "^"),  # 2**3
)


@functools.lru_cache(maxsize=8192)  # a step compares thousands of texts, most of them the same
def spell(text: str) -> str:
    """Write a short text in the one spelling that the grammar reads. Case is kept."""
    text = BOLD.sub(r"\1", _unicode(text.strip()))
    text = _rewrite(text, BEFORE_LATEX)
    if any(char in text for char in "\\${~"):
        text = _latex(text)
    text = _rewrite(text, AFTER_LATEX)
    text = GREEK_NAME.sub(lambda m: SYMBOLS[m[1].lower()], text)
    if THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    return _undress(text)


def _rewrite(text: str, table: list[tuple[re.Pattern, str]]) -> str:
    for pattern, replacement in table:
        text = pattern.sub(replacement, text)
    return text


UNICODE = _table(
    ("([¼½¾⅐-⅞])", r" \1 "),  # else 3½ would become 31/2
    ("([①-⑳])(?=[①-⑳])", r"\1,"),  # ②③ is no 23
    ("(?<=[0-9])又(?=[0-9])", " "),  # 1又1/2
    ("(?<=[\u4e00-\u9fff])\\s+(?=[\u4e00-\u9fff])", ""),
    ("∛", "√[3]"),
    ("∜", "√[4]"),
    ("(?<=[0-9])[\u2009\u202f\u00a0](?=[0-9]{3}(?![0-9]))", ""),  # between thousands
)


def _unicode(text: str) -> str:
    """Write full-width forms, superscripts, dashes and quotes in one way."""
    if text.isascii():
        return text
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉ₙ]+", lambda m: "_{" + m[0].translate(SUBSCRIPTS) + "}", text)
    text = _rewrite(text, UNICODE).translate(BEFORE_NFKC)
    return unicodedata.normalize("NFKC", text).translate(AFTER_NFKC)


def _latex(text: str) -> str:
    """Turn commands into characters, words or nothing, and dollars into nothing or a currency."""
    text = _rewrite(text, LATEX)
    for _ in range(3):
        text = WRAPPED.sub(r" \1 ", text)
    text = COMMAND.sub(_command, text)
    text = re.sub(r"^\s*~", "≈", text)
    text = re.sub(r"(?<![0-9])~|~(?![0-9])", " ", text)
    if text.count("$") == len(re.findall(r"\$(?=\s*-?[0-9.])", text)):
        text = text.replace("$", "＄")  # $5, $5 to $10
    elif text.count("$") == 1:
        text = re.sub(r"(?<=[0-9])\s*\$\s*$", "＄", text)  # 5$
    return text.replace("$", " ")


def _command(m: re.Match) -> str:
    name = m[1]
    if name in SYMBOLS:
        return SYMBOLS[name]
    if name in FUNCTION_NAMES:
        return f" {name} "
    return " " if name in DROPPED else m[0]


def _undress(text: str) -> str:
    """Take off bold, quotes, a box around all of the text, and the final period."""
    before = None
    while before != text:  # each turn makes the text shorter
        before = text
        text = " ".join(text.split())
        if not text.endswith("..."):
            text = text.rstrip(".。 ")
        bold = re.fullmatch(r"(\*{1,3}|_{1,2})([^*_]+)\1", text)
        if bold:
            text = bold[2]
        elif len(text) > 2 and text[0] + text[-1] in QUOTES and text[0] not in text[1:-1]:
            text = text[1:-1]
        elif text.startswith("\\boxed") and (inner := _boxed(text)) is not None:
            text = inner
    return text


def _boxed(text: str) -> str | None:
    """Return the inside of a \\boxed{} that is all of the text; None for two boxes."""
    start = text.find("{")
    if start < 0 or text[6:start].strip() or not closes_at_end(text[start:], "{}"):
        return None
    return text[start + 1 : -1]


def closes_at_end(text: str, brackets: str) -> bool:
    """Tell whether the first bracket of the text is closed by its last character."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == brackets[0]) - (char == brackets[1])
        if char == brackets[1] and depth == 0:
            return i == len(text) - 1
    return False


def plain(text: str) -> str:
    """Write a text without case, spaces beside signs, the article in front and a final cry."""
    text = re.sub(r"\s*([^\w\s'])\s*", r"\1", " ".join(text.split()).casefold())
    text = re.sub(r"_\{(\w+)\}(?!\w)", r"_\1", text)
    text = re.sub(r"(?<=[a-z][a-z])!$", "", text)
    text = re.sub(r"^(?:(?:the|an|a)\s+)+(?=\w\w)", "", text)
    # Folding and dropped spaces bring letters and accents together: ß´, "a ´".
    return unicodedata.normalize("NFC", text)
