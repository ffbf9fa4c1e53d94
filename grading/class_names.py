"""Does an answer name a class: "a photo of a **lily**", "Boeing 737-800", `water_lily`?"""

import re
import unicodedata

from grading.boxes import normalize_label
from grading.reading import MAX_ANSWER
from grading.spelling import closes_at_end

# Words ignored around a class name.
AROUND_LABEL = set(
    "a an the this that there it is its it's image picture photo shows show contains depicts of in "
    "type kind species model class category label variant breed answer name".split()
)
# The nouns of Visual-RFT's questions are ignored too, unless the gold itself is one:
# otherwise "flower plant" would be paid for two golds.
ASKED_ABOUT = set("aircraft airplane plane plant flower car vehicle animal pet".split())
# Words that deny or doubt the class that follows them, so none of them is a maker.
NO_MAKER = set(
    "or and not no never nor neither either unlike without except but than maybe perhaps possibly "
    "probably likely hardly isn't isnt wasn't can't cannot versus vs if non".split()
)

# Markup that may stand around a whole class name and is no part of it.
MARKUP = re.compile(r"\\(?:boxed|fbox|mbox|emph|text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf))\s*\{")
BRACKETS = {"(": "()", "[": "[]", "{": "{}"}
AROUND_WORD = " \t\r\n\"'`*.。“”‘’"


def names_class(answer: str, gold: str) -> bool:
    """Tell whether an answer is the gold class (Visual-RFT's task).

    Equal but for case, spaces, underscores, hyphens and markup; or the class among words that name
    nothing ("a photo of a lily"); or with a digit in it, behind its maker ("Boeing 737-800").
    No answer names two classes: "A320-200" is not "A320", "water lily" is not "lily".
    Exception: of the classes "lily" and "lily flower", "lily flower" names both.
    """
    if len(answer) > MAX_ANSWER or not normalize_label(gold):
        return False
    bare = _without_markup(answer)
    if normalize_label(gold) in (normalize_label(answer), normalize_label(bare)):
        return True
    bare = re.sub(r"[{}$*]", " ", MARKUP.sub(" ", bare)).replace("’", "'")  # "a **lily**"
    text, gold = _folded(bare), _folded(gold)
    parts = [re.escape(part) for part in re.split(r"[\s_\-]+", gold) if part]
    m = re.search(r"(?<![\w\-])" + r"[\s_\-]?".join(parts) + r"(?![\w\-])", text)
    if not m:
        return False
    before, after = _words(text[: m.start()]), _words(text[m.end() :])
    around = AROUND_LABEL if gold in ASKED_ABOUT else AROUND_LABEL | ASKED_ABOUT
    unknown = [word for word in before + after if word not in around]
    return not unknown or (bool(re.search("[0-9]", gold)) and _are_a_maker(unknown, before))


def _are_a_maker(unknown: list[str], before: list[str]) -> bool:
    """Tell whether the unknown words stand before a class and could be its maker."""
    if len(unknown) > 2 or unknown != before[-len(unknown) :] or NO_MAKER & set(unknown):
        return False
    return all(word.replace("-", "").isalpha() for word in unknown)


def _without_markup(text: str) -> str:
    """Strip the LaTeX, emphasis, quotes and brackets around all of a class name."""
    text = re.sub(r"\\([_&%#-])", r"\1", re.sub(r"\\[ ,;:!]|~", " ", text))
    before = None
    while before != text:  # each turn makes the text shorter
        before = text
        text = text.strip(AROUND_WORD)
        command = MARKUP.match(text)
        if command and closes_at_end(text, "{}"):
            text = text[command.end() : -1]
        elif text[:1] in BRACKETS and closes_at_end(text, BRACKETS[text[0]]):
            text = text[1:-1]
        elif len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text.strip("$"):
            text = text.strip("$")
        elif re.fullmatch(r"\\\((?:(?!\\[()]).)*\\\)|\\\[(?:(?!\\[\[\]]).)*\\\]", text, re.DOTALL):
            text = text[2:-2]
    return text


def _folded(text: str) -> str:
    """Fold case and compatibility characters, and strip quotes and periods."""
    return unicodedata.normalize("NFKC", text).casefold().strip("\"'`.。 ")


def _words(text: str) -> list[str]:
    """Split a text at spaces, commas and brackets."""
    words = [word.strip("'`") for word in re.findall(r"[^\s:,!?\"()\[\]“”]+", text)]
    return [word for word in words if word]
