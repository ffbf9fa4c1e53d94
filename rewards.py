r"""Rewards: text in, float out, one dict of names.

    REWARDS[name](completion, example) -> float

`completion` is the text the policy wrote; `example` has `.answer` (the gold, a string such as "3", "140°", "(A)", "yes",
r"\sqrt{3}") and `.choices` (list of option texts, or None).  To add a reward, write such a function and name it in REWARDS.

The path of an answer, cheapest test first:

    completion --extract_answer--> body --match_answer(body, gold, choices)--> True / False
        choice letters, equal text, yes/no, numbers with units           (a few regexes on at most 200 characters)
        what is left and looks like mathematics: math-verify             (in a separate process, 0.8 s at most)

What the projects this follows got wrong (R1-V, VLM-R1, VisualThinker, Visual-RFT) is named where it is avoided.
A policy under RL emits every text there is, so nothing here may hang, raise, or run the text.
"""

import atexit
import functools
import json
import logging
import math
import os
import queue
import re
import subprocess
import sys
import threading
import unicodedata
from fractions import Fraction

log = logging.getLogger(__name__)

MAX_TAIL = 100_000      # characters after the thinking that are searched for the answer, from the end
MAX_ANSWER = 200        # an answer longer than this is compared as text only
ANSWER_SECONDS = 0.8    # for one symbolic comparison; a timeout counts as "not equal"
START_SECONDS = 120     # for the worker to import sympy, once: 0.5 s on an idle machine, many on a busy one


# ---------------------------------------------------------------------------------------------------------------------
# finding the answer


def extract_answer(completion):
    """Body of the last well-formed `<answer>...</answer>` after the thinking, stripped; None if there is none or it is empty.

    "After the thinking" means after the last `</think>`, with no `<think>` reopened behind it.  So an answer inside the
    thinking (closed or not) or before it is no answer: a policy that is paid for those learns to answer first and think never.
    A completion without think tags is all answer text (direct answering), as is one whose `<think>` stood in the prompt.
    Of nested or repeated tags the last innermost pair counts.  Tags are case-sensitive.

    R1-V runs its parser over the whole completion: a number or \\boxed{} in the thinking beats the answer.
    """
    tail = completion.rpartition("</think>")[2]
    if "<think>" in tail:
        return None
    pieces = re.split(r"(</?answer>)", tail[-MAX_TAIL:])  # text, tag, text, tag, ..., text: linear on any input
    for i in range(len(pieces) - 4, 0, -2):
        if pieces[i] == "<answer>" and pieces[i + 2] == "</answer>":
            return pieces[i + 1].strip() or None
    return None


def parse_failure(completion):
    """True if there is no answer to score: no tag, an empty one, or one only before or inside the thinking."""
    return extract_answer(completion) is None


# ---------------------------------------------------------------------------------------------------------------------
# one spelling for each answer

REPLACEMENTS = [  # in this order
    ("\u2212", "-"), ("\u2044", "/"), ("\u00f7", "/"), ("\u00d7", r"\times "), ("\u00b7", r"\cdot "), ("\u22c5", r"\cdot "),
    ("\u03c0", r"\pi "), ("\u221e", r"\infty "), ("^{\\circ}", "°"), ("^\\circ", "°"), ("\\degree", "°"), ("\\%", "%"),
    ("\\$", " "), ("$", " "), ("{,}", ","), ("\\,", " "), ("\\;", " "), ("\\:", " "), ("\\!", " "), ("\\ ", " "), ("~", " "),
    ("\\(", " "), ("\\)", " "), ("\\[", " "), ("\\]", " "), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"),
    ("\\left(", "("), ("\\right)", ")"), ("\\left[", "["), ("\\right]", "]"),
]  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
QUOTES = ['""', "''", "``", "“”", "‘’", "«»"]


def _clean(text):
    """Unicode, LaTeX dressing, quotes, spaces and the final period in one spelling; case kept.  At most MAX_ANSWER long."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + m.group().translate(SUPERSCRIPTS) + "}", text)
    text = re.sub("([¼½¾⅐-⅞])", r" \1", text.replace("º", "°"))  # the space keeps 3½ from becoming 31/2
    text = unicodedata.normalize("NFKC", text)  # full-width digits and brackets, ㎝, ½
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    text = re.sub(r"√\s*\(([^()]*)\)|(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", lambda m: "\\sqrt{" + (m[1] or m[2] or "") + "}", text)
    text = re.sub(r"√\s*([0-9.]+|[A-Za-z])", r"\\sqrt{\1}", text).replace("√", "\\sqrt")
    text = re.sub(r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi ", text)
    before = None
    while before != text:  # each turn makes the text shorter
        before = text
        text = " ".join(text.split()).rstrip(".。 ")
        if len(text) > 4 and text.startswith("**") and text.endswith("**"):
            text = text[2:-2]
        elif len(text) > 2 and text[0] + text[-1] in QUOTES:
            text = text[1:-1]
        elif text.startswith("\\boxed{") and _closes_at_end(text):  # not "\\boxed{3} or \\boxed{7}"
            text = text[7:-1]
    return re.sub(r"([0-9])\s*:\s*([0-9])", r"\1:\2", text)


def _closes_at_end(text):
    """True if the first "{" of the text is closed by its last character."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if char == "}" and depth == 0:
            return i == len(text) - 1
    return False


def _text(text):
    """The form in which two answers are compared as text.  Linear in the length."""
    return " ".join(text.split()).casefold() if len(text) > MAX_ANSWER else _clean(text).casefold()


UNITS = {
    "°": "° degree degrees deg 度", "°c": "°c", "°f": "°f", "%": "% percent pct",
    "mm": "mm millimeter millimeters millimetre millimetres", "cm": "cm centimeter centimeters centimetre centimetres 厘米",
    "dm": "dm", "m": "m meter meters metre metres 米", "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
    "mg": "mg", "g": "g gram grams", "kg": "kg kilogram kilograms", "lb": "lb lbs pound pounds",
    "s": "s sec second seconds", "min": "min minute minutes", "h": "h hr hour hours", "day": "day days", "year": "year years",
    "ml": "ml milliliter milliliters", "l": "l liter liters litre litres", "unit": "unit units",
    "dollar": "dollar dollars", "cent": "cent cents", "people": "people person persons",
}  # fmt: skip
UNITS = {word: unit for unit, words in UNITS.items() for word in words.split()}
# A plural is taken for the thing counted ("7 cubes"), unless it changes the number.
NOT_COUNTED = set(
    "plus minus times less halves thirds quarters fourths fifths sixths sevenths eighths ninths tenths hundredths thousandths "
    "tens hundreds thousands millions billions trillions dozens pairs scores twos threes fours fives sixes sevens eights nines".split()
)
SINGULAR = set("object item thing shape cube sphere cylinder ball block square circle triangle".split())
POWERS = {"square": "2", "sq": "2", "cubic": "3"}


def _split_unit(text):
    """'240\\pi cm^{2}' -> ('240\\pi', 'cm2'), '7 cubes' -> ('7', 'cube'); the unit is '' if the end is not one."""
    m = re.fullmatch(
        r"(.*?(?:[0-9.)}]|\\pi))\s*(?:(square|sq|cubic)\.?\s+)?(°\s?[CFcf]?|%|[A-Za-z]+|[度米]|厘米)(?:\^?\{?([23])\}?)?", text
    )
    if not m:
        return text, ""
    word = m[3].replace(" ", "").casefold()
    unit = UNITS.get(word)
    if unit is None and (word in SINGULAR or re.fullmatch(r"[a-z]{3,}s", word)) and word not in NOT_COUNTED:
        unit = word if word in SINGULAR else word[:-1]
    if unit is None:
        return text, ""
    return m[1], unit + (m[4] or POWERS.get(m[2], ""))


NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
NUMERIC = re.compile(rf"([+-]?)\s*(?:({NUMBER})(?:\s*/\s*({NUMBER}))?|\\frac\s*\{{\s*({NUMBER})\s*\}}\s*\{{\s*({NUMBER})\s*\}})")


def _number(text):
    """(exact value, unit) if the cleaned text is one number and perhaps a unit, else None.  3.0, 1,000, 1/2, \\frac{1}{2}, 7 cubes."""
    value, unit = _split_unit(text)
    m = NUMERIC.fullmatch(value)
    if not m:
        return None
    top, bottom = (Fraction(part.replace(",", "") if part else 1) for part in (m[2] or m[4], m[3] or m[5]))
    if bottom == 0:
        return None
    return (-top if m[1] == "-" else top) / bottom, unit


LETTER = re.compile(r"([a-z])[.:,)]?|\(([a-z])\)[.:,]?|\[([a-z])\][.:,]?")
LETTER_AND_TEXT = re.compile(r"(?:([a-z])(?:[.:]\s+|\)\s*)|\(([a-z])\)\s*|\[([a-z])\]\s*)([^\s.:,)].*)", re.DOTALL)
# what follows "A. " and names a second letter: "cat (b) dog", "cat or b", "cat, b", "b"
SECOND_LETTER = re.compile(r"(?<!\w)[a-z][).:]|(?:\bor|\band|[,/&])\s*[(\[]?[a-z](?!\w)|^[a-h]$")


def _letter(text, own_words=None):
    """(letter, text after it) of 'A', '(A)', 'A.', 'A)', '[a]', 'A: cat', 'A. cat'; None otherwise.

    'A cat' is None (an article), and so is whatever names two letters ('A or B', 'A: cat B: dog'), unless those are the choice's own words
    (own_words, the list of choices: 'A. x and y').
    VLM-R1's extractor misses '(A)' and reads 'I think A, but B.' as A.
    """
    text = _text(text)
    m = LETTER.fullmatch(text)
    if m:
        return m[1] or m[2] or m[3], ""
    m = LETTER_AND_TEXT.fullmatch(text)
    if not m:
        return None
    letter, rest = m[1] or m[2] or m[3], m[4]
    index = ord(letter) - ord("a")
    if own_words and index < len(own_words) and _same_plain(rest, own_words[index]):
        return letter, rest
    return None if SECOND_LETTER.search(rest) else (letter, rest)


def _same_plain(a, b):
    """Equal as text or as numbers.  Two units must agree if both are given: 3 cm is 3, but not 3 m."""
    a, b = _text(a), _text(b)
    if a == b:
        return a != ""
    if max(len(a), len(b)) > MAX_ANSWER:
        return False
    x, y = _number(a), _number(b)
    if x and y:
        return x[0] == y[0] and (x[1] == y[1] or not x[1] or not y[1])
    # A ratio is compared term by term, never as a quotient: 4:10 and 8:20 are two different times of day.
    return bool(re.fullmatch(r"[0-9]+[:/][0-9]+", a)) and a.replace("/", ":") == b.replace("/", ":")


def choice_index(text, choices):
    """Which of `choices` the text names, by its words, its number or its letter; None if none of them or more than one."""
    for i, choice in enumerate(choices):  # words first: a choice may itself read "A"
        if _same_plain(text, choice):
            return i
    named = _letter(text, choices)
    if named is None or ord(named[0]) - ord("a") >= len(choices):
        return None
    index, rest = ord(named[0]) - ord("a"), named[1]
    if rest and not _same_plain(rest, choices[index]):
        for i, choice in enumerate(choices):  # "A: dog" and "A. cat or dog" where dog is B
            if i != index and re.search(rf"(?<!\w){re.escape(_text(choice))}(?!\w)", rest):
                return None
    return index


def normalize_answer(text, choices=None):
    """Canonical form of an answer: equal strings vote together in majority@N.

    ' 3 ', '3.0', '3 cubes' -> '3'; '140°' -> '140'; '0.5' -> '1/2'; '(A)', 'A. cat' -> 'a'; '√3' and '$\\sqrt{3}$' -> '\\sqrt{3}'.
    With choices, every way to name one gives its letter.  Units are dropped: a voter who writes 3 cm agrees with one who writes 3
    (match_answer, which has a gold to compare with, is stricter).  Symbolic equality is not looked for: 2/4 is 1/2, but 2√3 is not √12.
    """
    if choices:
        index = choice_index(text, choices)
        if index is not None:
            return chr(ord("a") + index)
    plain = _text(text)
    if len(plain) > MAX_ANSWER:
        return plain
    number = _number(plain)
    if number:
        return str(number[0])
    named = _letter(text)
    if named:
        return named[0]
    return plain.replace(" ", "") if "\\" in plain else plain


# ---------------------------------------------------------------------------------------------------------------------
# comparing answers


def match_answer(prediction, gold, choices=None):
    """True if the prediction (an answer body, or None) says the same as the gold.

    In order: choice letters and texts, equal text (case, spaces, quotes, $ and the final period aside), yes/no, numbers with
    units, lists item by item, symbolic equality.  Decided where the sources disagree:
    - two answers are no answer: "3 or 7", "3, 7", "A or B", "3 = 7" never match a single gold (R1-V pays the last, Visual-RFT both);
    - a sentence is no answer: "I count 7" does not match 7, "7 cubes" does (a number and one unit or plural noun), "seven" does not;
    - 70% matches 70 and 70%, not 0.7: one answer must not match two golds;
    - numbers are exact: 0.33 is not 1/3;  "3,5" is a list, not a decimal;  lists are ordered.
    """
    if prediction is None or not prediction.strip():
        return False
    if choices:
        right, picked = choice_index(gold, choices), choice_index(prediction, choices)
        if right is not None and picked is not None:
            return right == picked
        if right is not None:
            gold = choices[right]  # the prediction may still equal it as mathematics
    if _same_plain(prediction, gold):
        return True
    if len(prediction) > MAX_ANSWER or len(gold) > MAX_ANSWER:
        return False

    words = re.findall(r"\w+", _text(prediction))
    if _text(gold) in ("yes", "no"):  # "Yes, it is" is yes; "yes and no" and "I do not know" are neither
        return words[:1] == [_text(gold)] and not {"yes", "no"} <= set(words)
    named = _letter(gold)
    if named and not choices:  # gold "A" or "A. cat" without a list of choices
        picked = _letter(prediction)
        return (picked is not None and picked[0] == named[0]) or (named[1] != "" and _same_plain(prediction, named[1]))
    return _same_mathematics(_clean(prediction), _clean(gold))


def _same_mathematics(prediction, gold):
    """Lists item by item, then `x = ` and units removed, then math-verify.  Both texts cleaned and at most MAX_ANSWER long."""
    if max(len(prediction), len(gold)) > MAX_ANSWER:
        return False  # cleaning can lengthen: one Arabic ligature becomes 18 characters
    if _number(prediction) and _number(gold):
        return _same_plain(prediction, gold)
    items, gold_items = _list(prediction), _list(gold)
    if len(items) > 1 or len(gold_items) > 1:
        if len(items) != len(gold_items) or (prediction[0] in "([") != (gold[0] in "(["):
            return False
        return all(_same_plain(p, g) or _same_mathematics(p, g) for p, g in zip(items, gold_items))
    if "=" in prediction and "=" in gold:  # two equations: math-verify compares their solutions
        if prediction.count("=") > 1 or not re.search("[A-Za-z]", prediction.partition("=")[0]):
            return False  # "3 = 7" for "x = 7"
    else:
        prediction, gold = _drop_assignment(prediction), _drop_assignment(gold)
        if "=" in prediction or "=" in gold:
            return False  # "3 = 7" names two numbers; math-verify would take the last
        if _number(prediction) and _number(gold):
            return _same_plain(prediction, gold)
    prediction, unit = _split_unit(prediction)
    gold, gold_unit = _split_unit(gold)
    if unit and gold_unit and unit != gold_unit:
        return False
    return symbolically_equal(gold, prediction)


def _list(text):
    """'(3, 7)' -> ['3', '7']; '1,000' -> ['1,000']; nested brackets are not looked into."""
    if _number(text):
        return [text]
    if len(text) > 1 and text[0] + text[-1] in ("()", "[]") and not set(text[1:-1]) & set("()[]"):
        text = text[1:-1]
    return [part.strip() for part in re.split("[,;]", text)]


def _drop_assignment(text):
    r"""'x = 7' -> '7', 'AB = 7' -> '7', '\angle ABC = 7' -> '7'; anything else, 'two = 7' included, as it is."""
    return re.sub(r"^(?:(?:\\angle|∠)\s*[A-Za-z]{1,3}|[A-Za-z]|[A-Z]{2})\s*=\s*(?=[^=]+$)", "", text)


# What may reach the symbolic comparison: plain algebra.  A closed list, so that prose, code and control characters never do.
COMMANDS = set("frac sqrt pi cdot times sin cos tan cot ln log alpha beta gamma delta theta lambda mu phi rho sigma omega infty".split())
ALGEBRA = re.compile(r"[0-9A-Za-z\\{}()\[\]+\-*/^.= ]*")
REFUSED = re.compile(
    r"\^\s*[^{\s]\s*\^|\^\s*\{[^}]*(?:\^|\(|\*|\\cdot|\\times)|\^\s*\("  # towers: 9^9^9, 10^{10^{10}}, 9^{9\cdot99}
    r"|[)}]\s*\^\s*\{?\s*-?[0-9]{2}"  # (9^99)^99
    r"|\^\s*\{?\s*-?[0-9]{4}"  # 9^{99999}
    r"|[0-9]{31}"  # long numbers
    r"|[0-9]\s+[0-9]|\{\s*\}"  # "3 7" and "3{}7" are 37 in LaTeX
    r"|(?<!\\)\b(?:or|and)\b"
)


def _algebra(text):
    """The LaTeX math-verify may see, or None if the text is not plain algebra or could take long."""
    text = text.replace("**", "^")
    if len(text) > MAX_ANSWER or not ALGEBRA.fullmatch(text) or REFUSED.search(text):
        return None
    if _depth(text) > 4:  # the grammar's time grows exponentially with bare brackets: 0.3 s for x in 7 of them, over 0.8 s in 19
        return None
    if not COMMANDS.issuperset(re.findall(r"\\([A-Za-z]*)", text)):
        return None
    # Letters are variables, at most two side by side: to a parser "yes" is the product e*s*y, equal to its anagrams.
    if re.search(r"[A-Za-z]{3}", re.sub(r"\\[A-Za-z]+|(?<![A-Za-z])(?:sin|cos|tan|log)(?![A-Za-z])", " ", text)):
        return None
    return text.replace("*", "\\cdot ")


def _depth(text):
    """How deep the brackets of any kind nest."""
    deepest = depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def symbolically_equal(gold, prediction):
    """math-verify on two pieces of plain algebra; False if either is not, and if it takes longer than ANSWER_SECONDS."""
    gold, prediction = _algebra(gold), _algebra(prediction)
    if not gold or not prediction or not re.search(r"[0-9\\+\-/^=]", gold):
        return False  # a gold of letters only is a word: "up" is not "pu"
    if gold.replace(" ", "") == prediction.replace(" ", ""):
        return True
    try:
        return _ask_worker(gold, prediction)
    except TimeoutError as error:
        log.warning("counted as not equal: %s", error)
        return False


# ---------------------------------------------------------------------------------------------------------------------
# math-verify, in a process that can be killed
#
# Read in math-verify 0.9.0: its time limits are SIGALRM (main thread only, absent on Windows), and its ExprExtractionConfig
# hands text to sympy.parse_expr, which is Python's eval.  Its LatexExtractionConfig goes through an ANTLR grammar
# (latex2sympy2_extended) that evaluates nothing.  So only the latter is used, on text from a closed alphabet, with its own limits
# off; and since neither a signal nor a thread stops a big-integer power in C, the limit is the end of the process.


@functools.lru_cache(maxsize=4096)  # the completions of a group repeat their answers; a TimeoutError is not remembered
def _ask_worker(gold, prediction):
    global _worker
    if _worker.pid != os.getpid():  # we are a fork: the pipes belong to the parent, and its lock may be taken for ever
        _worker = _MathWorker()
    return _worker.ask(gold, prediction)


class _MathWorker:
    """A child process that answers one JSON line per comparison; started at first use, shared by all threads of a process.

    A comparison is bounded by ANSWER_SECONDS, start-up (importing sympy) is not counted.  A worker that is late or dies is replaced at once,
    so only the next symbolic comparison waits for the new one's imports.
    """

    def __init__(self):
        self.pid, self.lock = os.getpid(), threading.Lock()
        self.process = self.answers = None
        self.ready = False

    def start(self):
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        # bufsize=0: a buffered pipe has a lock of its own, which a fork could inherit taken.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        self.answers, self.ready = queue.Queue(), False
        # A thread that reads, because waiting on a pipe with a time limit does not exist on Windows.
        threading.Thread(target=_read_lines, args=(self.process.stdout, self.answers), daemon=True).start()
        atexit.unregister(self.stop)
        atexit.register(self.stop)

    def stop(self):
        if self.process is not None and self.pid == os.getpid():
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()  # stdout is closed by its reading thread
        self.process = None

    def wait_until_ready(self):
        try:
            hello = self.answers.get(timeout=START_SECONDS)
        except queue.Empty:
            hello = {"error": f"it did not start within {START_SECONDS} s"}
        if hello is None or "error" in hello:
            self.stop()
            raise RuntimeError(f"the math-verify worker cannot start: {hello['error'] if hello else 'it died'}")
        self.ready = True

    def ask(self, gold, prediction):
        """True or False; TimeoutError if the worker was late or died of the question; RuntimeError if there can be none."""
        question = (json.dumps([gold, prediction]) + "\n").encode()
        with self.lock:
            if self.process is not None and self.process.poll() is not None:
                self.stop()  # it died between two questions
            if self.process is None:
                self.start()
            if not self.ready:
                self.wait_until_ready()
            answer = None
            try:
                self.process.stdin.write(question)
                answer = self.answers.get(timeout=ANSWER_SECONDS)
            except (queue.Empty, BrokenPipeError):
                pass
            finally:  # after Ctrl-C too: an answer that nobody read would be taken for the next one's
                if answer is None:
                    self.stop()
                    self.start()
            if answer is None:
                raise TimeoutError(f"math-verify did not finish {prediction!r} against {gold!r} in {ANSWER_SECONDS} s")
            return answer["equal"]


_worker = _MathWorker()  # no process yet


def _read_lines(pipe, answers):
    with pipe:
        for line in pipe:
            answers.put(json.loads(line))
    answers.put(None)  # the process has ended


def _compare_latex(gold, prediction):
    """The one call of math-verify, in its order: gold first (R1-V has them reversed, and the rule is not symmetric)."""
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text):
        return parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)

    return bool(verify(read(gold), read(prediction), timeout_seconds=None))


def _serve():
    """The worker: a line with [gold, prediction] in, a line with {"equal": ...} out, until stdin ends (with the parent)."""
    import faulthandler
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    out, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not answer
    try:
        for gold, prediction in [(r"\frac{1}{2}", "0.5"), (r"2\sqrt{3}", r"\sqrt{12}"), ("x+1", "1+x"), ("2x=4", "x=2")]:
            _compare_latex(gold, prediction)  # imports and warms the parser's tables
    except ImportError as error:
        print(json.dumps({"error": f"{error} (pip install math-verify)"}), file=out, flush=True)
        return
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        # If the parent dies while we compute, nobody kills us: this timer needs neither the GIL nor signals.
        faulthandler.dump_traceback_later(10 * ANSWER_SECONDS, exit=True)
        try:
            equal = _compare_latex(*json.loads(line))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            equal = False  # sympy could not make sense of it
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"equal": equal}), file=out, flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# the rewards


def check_gold(answer, choices=None):
    """ValueError if the gold cannot be scored against: call it once per example, at load time.

    Empty golds score 1.0 for everything in align-anything and for empty answers in Visual-RFT.  With choices, the gold must name one of them.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(f"the gold answer is empty or not text: {answer!r}")
    if choices and choice_index(answer, choices) is None:
        raise ValueError(f"the gold answer {answer!r} is neither a letter nor a text of the choices {choices!r}")


def accuracy(completion, example):
    """1.0 if the answer body matches example.answer, else 0.0 (see match_answer).  ValueError if the gold is empty.

    R1-V's accuracy with its faults removed: it scores the whole completion, not the answer, and compares tags, units and case.
    """
    check_gold(example.answer)
    return float(match_answer(extract_answer(completion), example.answer, example.choices))


def format_strict(completion, example=None):
    """1.0 if the completion is `<think>...</think> <answer>...</answer>` and nothing else, else 0.0.

    Each of the four tags exactly once, both bodies non-empty; whitespace is free around and between the blocks.  R1-V's fullmatch refuses
    a final newline, and lets nested blocks, repeated blocks and empty bodies pass.
    """
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    if any(completion.count(tag) != 1 for tag in tags):
        return 0.0
    before, _, rest = completion.partition("<think>")
    thinking, _, rest = rest.partition("</think>")
    between, _, rest = rest.partition("<answer>")
    answer, closed, after = rest.partition("</answer>")  # closed is "" if the tags came in another order
    outside = before + between + after
    return float(closed != "" and not outside.strip() and thinking.strip() != "" and answer.strip() != "")


def length(completion, example=None):
    """0.001 per word, at most 1.0 (VisualThinker, where it is per token and unbounded).

    Range [0, 1].  Gameable by repetition, and known to be gamed: VisualThinker reports longer text and no better answers.  It is here
    to show that.
    """
    return min(1.0, 0.001 * len(completion.split()))


REWARDS = {"accuracy": accuracy, "format": format_strict, "length": length}


def reward_parts(completions, examples, names):
    """Score each completion against its example: ({name: [float, ...]}, {name: number of failures}).

    A reward that raises or returns nan or inf scores 0.0, is counted (log it as `rewards/<name>/failed`), and its first traceback is logged.
    """
    unknown = [name for name in names if name not in REWARDS]
    if unknown:
        raise ValueError(f"unknown reward {', '.join(map(repr, unknown))}; known are {', '.join(sorted(REWARDS))}")
    if len(completions) != len(examples):
        raise ValueError(f"{len(completions)} completions but {len(examples)} examples: repeat each example for its group")
    parts, failed = {}, {}
    for name in names:
        parts[name], failed[name] = [], 0
        for completion, example in zip(completions, examples):
            try:
                score = float(REWARDS[name](completion, example))
                if not math.isfinite(score):
                    raise ValueError(f"reward {name} returned {score}")
            except Exception:  # whatever a new reward raises: it must not end a night's run, nor pass unseen
                if failed[name] == 0:
                    log.warning("reward %r failed on %.200r", name, completion, exc_info=True)
                score, failed[name] = 0.0, failed[name] + 1
            parts[name].append(score)
    return parts, failed


def total(parts, weights=None):
    """Weighted sum per completion: one weight per reward, in the order of the names; None is the plain sum.

    VLM-R1 accepts --reward_weights and never reads them.
    """
    weights = [1.0] * len(parts) if weights is None else list(weights)
    if len(weights) != len(parts):
        raise ValueError(f"{len(weights)} reward weights for {len(parts)} rewards ({', '.join(parts)}): give one each")
    return [sum(w * score for w, score in zip(weights, row)) for row in zip(*parts.values())]


def wilson(k, n, z=1.96):
    """95 % interval of a share: k of n (Wilson 1927).  Returns (low, high) in [0, 1]; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, square = k / n, z * z
    middle, half = p + square / (2 * n), z * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return max(0.0, (middle - half) / (1 + square / n)), min(1.0, (middle + half) / (1 + square / n))


def summary(completions, examples):
    """What an evaluation reports, one answer a question: accuracy in [0, 1] over all n (what cannot be read is wrong, never guessed), its 95 %
    interval, accuracy_parsed over the answers that could be read, format_rate, parse_failures (a count)."""
    n = len(completions)
    right = sum(accuracy(c, e) for c, e in zip(completions, examples))
    failures = sum(map(parse_failure, completions))
    low, high = wilson(right, n)
    return {"accuracy": right / max(1, n), "n": n, "accuracy_low": low, "accuracy_high": high, "accuracy_parsed": right / max(1, n - failures),
            "format_rate": sum(map(format_strict, completions)) / max(1, n), "parse_failures": failures}


if __name__ == "__main__":
    if sys.argv[1:] != ["--worker"]:
        sys.exit("rewards.py is a module: see its docstring, and tests/test_rewards.py")
    _serve()
