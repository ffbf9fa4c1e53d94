r"""One spelling for what is written in many: Unicode, LaTeX, dressing. Text in, text out.

    spell(r"$\dfrac{1}{2}\,\text{cm}$")  -> r"\frac{1}{2} cm"
    spell("90° − \\alpha.")              -> "90° - α"
    spell("**“Yes”**")                   -> "Yes"

Commands that stand for one character become that character (\alpha: α, \leq: ≤).
Of the others \frac, \sqrt and \begin stay, for the grammar.
"""

import functools
import re
import unicodedata

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")
BEFORE_NFKC = str.maketrans("º˚∘", "°°°", "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")
AFTER_NFKC = str.maketrans({
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "―": "-", "⁄": "/", "∕": "/",
    "÷": "/", "∶": ":", "×": "*", "·": "*", "⋅": "*", "∙": "*",
    "’": "'", "‘": "'", "′": "'", "“": '"', "”": '"', "≦": "≤", "≧": "≥", "⩽": "≤", "⩾": "≥",
    "∥": "‖", "∆": "Δ", "〈": "⟨", "〉": "⟩", "∼": "∽", "∣": "|", "⟂": "⊥", "≌": "≅", "µ": "μ",
})  # fmt: skip

# One character for a command. What is longer comes first where one begins as another.
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
FUNCTIONS = (
    "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln lg log exp max min gcd lcm"
).split()
NOTHING = (
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits "
    "rm bf it mathrm mathbf mathit mathsf text textbf boldsymbol bm"
).split()
SPACES = [",", ";", ":", "!", " ", "quad", "qquad", "space", "thinspace", "(", ")", "[", "]"]

GREEK_NAME = r"(?<![A-Za-z\\])(?i:(alpha|beta|gamma|delta|theta|lambda|omega))(?![A-Za-z])"
THOUSANDS = re.compile(r"-?[0-9]{1,3}(?: [0-9]{3})+")  # 12 345 678, which is no list
BOLD = re.compile(r"(?<![^\s(])\*\*([^*]+)\*\*(?=[\s.,:;)]|$)")  # **A.** cat
COMMAND = re.compile(r"\\([A-Za-z]+|[^A-Za-z])")
WRAPPED = re.compile(
    r"\\(?:text[a-z]*|math[a-z]+|boldsymbol|bm|[mh]box|operatorname\*?|underline)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
QUOTES = ['""', "''", "``", "«»", "「」", "《》"]


@functools.lru_cache(maxsize=8192)  # a step compares thousands of texts, most of them the same
def spell(text: str) -> str:
    """Write a short text in the one spelling that the grammar reads. Case is kept."""
    text = BOLD.sub(r"\1", _unicode(text.strip()))
    text = re.sub(r"(?<=[A-Z])\s*~\s*(?=△|\\triangle|Δ|\\Delta)", "∽", text)
    text = re.sub(r"(?<=[0-9])\s*[xX]\s*(?=10\s*(?:\^|\*\*))", "*", text)
    text = _latex(text) if "\\" in text or "$" in text or "{" in text or "~" in text else text
    text = re.sub(r"\+\s*/\s*-|(?:(?<=^)|(?<=[=(,]))\s*\+\s*-", "±", text)
    text = re.sub(r"-\s*/\s*\+|(?:(?<=^)|(?<=[=(,]))\s*-\s*\+", "∓", text)
    text = re.sub(r"(?<![A-Za-z\\])(?:(?<=[-+(\[, ])oo|(?i:inf|infinity))(?![A-Za-z])", "∞", text)
    text = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", "∪", text)
    text = re.sub(r"Δ(?=\s*[A-Z]{3})", "△", re.sub(r"⦃\s*⦄", "∅", text))
    text = re.sub(r"(?i:\bper\s+cent\b)", "percent", "∅" if text == "{}" else text)
    text = re.sub(GREEK_NAME, lambda m: SYMBOLS[m[1].lower()], text)
    text = re.sub(r"^\{([^{}]*\|[^{}]*)\}$", r"⦃\1⦄", text)
    text = (
        re.sub(r"(?<=[0-9]) (?=[0-9]{3}(?![0-9]))", "", text) if THOUSANDS.fullmatch(text) else text
    )
    text = re.sub(r"^<([^<>]*,[^<>]*)>$", r"⟨\1⟩", text)
    text = text.replace(">=", "≥").replace("<=", "≤").replace("!=", "≠")
    text = re.sub(r"(?<=[A-Z])\s*(?://|\|\|)\s*(?=[A-Z])", "‖", text)
    text = re.sub(r"^∽", "≈", re.sub(r"(?<=[0-9])\s*∽\s*(?=[0-9])", "~", text))
    text = re.sub(r"(?<=[0-9])\s*\"(?=\s*$)", "''", text) if "°" in text or "circ" in text else text
    text = re.sub(r"(?<![A-Za-z\\])(?i:pi)(?![A-Za-z])", "π", text)
    text = re.sub(r"(?:\{\})?\s*\^\s*(?:\{\s*[°o]\s*\}|°|(?<=[0-9]\^)o(?![A-Za-z]))", "°", text)
    text = re.sub(r"\s*\^\s*(?:\{\s*('+)\s*\}|('+))", r"\1\2", text)
    text = (
        text.replace("**", "^")
        if re.search(r"[0-9A-Za-z)]\s*\*\*\s*[0-9A-Za-z(-]", text) and not text.startswith("**")
        else text
    )
    return _undress(text)


def _unicode(text: str) -> str:
    """Full-width forms, superscripts, dashes, quotes and invisible characters in one spelling."""
    if text.isascii():
        return text
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉ₙ]+", lambda m: "_{" + m[0].translate(SUBSCRIPTS) + "}", text)
    text = re.sub("([¼½¾⅐-⅞])", r" \1 ", text)  # else 3½ would become 31/2
    text = re.sub("([①-⑳])(?=[①-⑳])", r"\1,", text)
    text = re.sub("(?<=[0-9])又(?=[0-9])", " ", text)  # the Chinese 1又1/2
    text = re.sub("(?<=[\u4e00-\u9fff])\\s+(?=[\u4e00-\u9fff])", "", text)
    text = text.replace("∛", "√[3]").replace("∜", "√[4]")
    text = re.sub(
        "(?<=[0-9])[\u2009\u202f\u00a0](?=[0-9]{3}(?![0-9]))", "", text
    )  # a thin space between thousands
    return unicodedata.normalize("NFKC", text.translate(BEFORE_NFKC)).translate(AFTER_NFKC)


def _latex(text: str) -> str:
    """Turn commands into characters, words or nothing. One lone dollar is a currency."""
    text = re.sub(r"(?<=[0-9])(?:\\,|\\ )(?=[0-9]{3}(?![0-9]))", "", text.replace("{,}", ","))
    text = re.sub(r"\\!\s*", "", text)
    text = re.sub(r"\{\s*\\(?:rm|bf|it|sf|tt)(?![A-Za-z])([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1", text)
    for _ in range(3):
        text = WRAPPED.sub(r" \1 ", text)
    text = COMMAND.sub(_command, text)
    text = re.sub(r"^\s*~", "≈", text)
    text = re.sub(r"(?<![0-9])~|~(?![0-9])", " ", text)
    dollars = text.count("$")
    if dollars == len(re.findall(r"\$(?=\s*-?[0-9.])", text)):
        text = text.replace("$", "＄")
    elif dollars == 1:
        text = re.sub(r"(?<=[0-9])\s*\$\s*$", "＄", text)
    return text.replace("$", " ")


def _command(m: re.Match) -> str:
    name = m[1]
    if name in SYMBOLS:
        return SYMBOLS[name]
    if name in FUNCTIONS:
        return f" {name} "
    if name in SPACES:
        return " "
    if name in NOTHING:
        return " "
    return m[0]


def _undress(text: str) -> str:
    """Without bold, quotes, a box around all of it, and the final period."""
    before = None
    while before != text:  # each turn makes the text shorter
        before = text
        text = (
            " ".join(text.split()).rstrip(".。 ")
            if not text.endswith("...")
            else " ".join(text.split())
        )
        bold = re.fullmatch(r"(\*{1,3}|_{1,2})([^*_]+)\1", text)
        if bold:
            text = bold[2]
        elif len(text) > 2 and text[0] + text[-1] in QUOTES and text[0] not in text[1:-1]:
            text = text[1:-1]
        elif text.startswith("\\boxed") and (inner := _boxed(text)) is not None:
            text = inner
    return text


def _boxed(text: str) -> str | None:
    """The inside of a \\boxed{} that is all of the text; None for r"\\boxed{3} or \\boxed{7}"."""
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
    """Write a text without case, spaces beside signs, and the article in front."""
    text = re.sub(r"\s*([^\w\s'])\s*", r"\1", " ".join(text.split()).casefold())
    text = re.sub(r"_\{(\w+)\}(?!\w)", r"_\1", text)
    text = re.sub(r"(?<=[a-z][a-z])!$", "", text)
    return re.sub(r"^(?:(?:the|an|a)\s+)+(?=\w\w)", "", text)
