"""Tests of rewards.py.    python -m pytest tests/test_rewards.py    (CPU, about 11 s on a shared core)

Golden vectors are facts/rl_family.md section E, measured on R1-V; the rules D1, D2, ... are its section D, restated here:
D1 only the last well-formed answer body is scored; D2 units, symbols and gold are normalised, gold comes first; D4 empty or ambiguous never scores,
letters in their usual dress do; D5 yes/no by word; D11 each tag exactly once.
"""

import copy
import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rewards

RANGES = {"accuracy": {0.0, 1.0}, "format": {0.0, 1.0}, "length": (0.0, 1.0)}


def example(answer, choices=None):
    return SimpleNamespace(answer=answer, choices=choices)


def in_range(name, score):
    allowed = RANGES[name]
    return type(score) is float and (score in allowed if isinstance(allowed, set) else allowed[0] <= score <= allowed[1])


@pytest.fixture(scope="module", autouse=True)
def warm_worker():
    """Importing sympy takes 0.5 s to many seconds: done once here, so that the time limits below are about comparing."""
    assert rewards.symbolically_equal("x+1", "1+x")


# ---- golden vectors

FORMAT = [  # completion, ours, R1-V's number (documentation), rule
    ("<think>a</think><answer>b</answer>", 1, 1, "D11"),
    ("<think>a</think>\n<answer>b</answer>", 1, 1, "D11"),
    ("<think>a\nb</think>\n\n<answer>b</answer>", 1, 1, "D11 DOTALL"),
    ("<think>a</think><answer>b</answer>\n", 1, 0, "D11 surrounding whitespace is free"),
    (" <think>a</think><answer>b</answer>", 1, 0, "D11 surrounding whitespace is free"),
    ("<think>a</think><answer>b</answer> extra", 0, 0, "D11"),
    ("<think>a</think><think>c</think><answer>b</answer>", 0, 1, "D11 exactly one"),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 0, 1, "D11 exactly one"),
    ("<think>a</think> so <answer>b</answer>", 0, 0, "D11"),
    ("<think></think><answer></answer>", 0, 1, "D4, D11 non-empty"),
    ("<think> </think><answer>b</answer>", 0, 1, "D11 non-empty"),
    ("<think>a</think><answer>\n</answer>", 0, 1, "D4 non-empty"),
    ("<answer>b</answer>", 0, 0, "D11"),
    ("<think>a<answer>b</answer></think><answer>c</answer>", 0, 1, "D11 exactly one"),
    ("<answer>b</answer><think>a</think>", 0, 0, "D11 order"),
    ("<think>a<answer>b</think></answer>", 0, 0, "D11 order"),
    ("</think>a<think><answer>b</answer>", 0, 0, "D11 order"),
    ("", 0, 0, "D11"),
]  # fmt: skip


@pytest.mark.parametrize("completion, ours, r1v, rule", FORMAT)
def test_format_golden(completion, ours, r1v, rule):
    assert rewards.format_strict(completion, example("b")) == ours, rule


THINK = "<think>a</think>"
ACCURACY = [  # completion, gold, ours, R1-V's number (None: not measured), rule
    (THINK + "<answer>3</answer>", " 3 ", 1, 1, "D2"),
    ("3", " 3 ", 0, 1, "D1 no tag"),
    ("<think>I count 7</think><answer> seven</answer>", "7", 0, 1, "D1 the 7 is in the thinking"),
    (r"<think>\boxed{7}</think><answer>5</answer>", "7", 0, 1, "D1"),
    (THINK + "<answer>3.0</answer>", "3", 1, 0, "D2"),
    (THINK + "<answer>3 or 7</answer>", "7", 0, 1, "D4 ambiguous"),
    (THINK + "<answer>7 or 3</answer>", "7", 0, 0, "D4 ambiguous"),
    (THINK + "<answer>145</answer>", "145°", 1, 0, "D2 unit"),
    (THINK + "<answer>(A)</answer>", "A", 1, 0, "D4 letter"),
    (THINK + "<answer>A. cat</answer>", "A", 1, 0, "D4 letter"),
    (THINK + "<answer>\nA\n</answer>", "A", 1, 0, "D1 DOTALL"),
    (THINK + "<answer>yes</answer>", "Yes", 1, 0, "D5 case"),
    (THINK + "<answer>1/2</answer>", "0.5", 1, 0, "D2"),
    (THINK + r"<answer>$\frac{1}{2}$</answer>", "0.5", 1, 1, "D2"),
    (THINK + "<answer>√3</answer>", r"\sqrt{3}", 1, 0, "D2"),
    (THINK + "<answer>1,000</answer>", "1000", 1, 0, "D2"),
    (THINK + "<answer>70%</answer>", "70", 1, 0, "D2"),
    ("", "3", 0, 0, "D1"),
    (THINK + "<answer></answer>", "3", 0, 0, "D4 empty"),
    # section 1b
    ("<think>there are 4 cubes and 2 balls</think><answer>6</answer>", "2", 0, 1, "D1"),
    ("<think>there are 4 cubes and 2 balls</think><answer>6</answer>", "6", 1, 1, "D1"),
    ("<think>a</think><answer>5</answer> The final answer is $7$.", "7", 0, 1, "D1"),
    # the known hacks
    ("<answer>7</answer><think>now I think</think>", "7", 0, None, "answer before the thinking"),
    ("<think>so <answer>7</answer></think>", "7", 0, None, "answer inside the thinking"),
    ("<think>so <answer>7</answer>", "7", 0, None, "inside thinking that never ends"),
    ("<think>a</think><answer>7</answer><think>wait", "7", 0, None, "thinking reopened"),
    ("<think>a<answer>3</answer></think><answer>7</answer>", "7", 1, None, "D1 last wins"),
    ("<think>a<answer>7</answer></think><answer>3</answer>", "7", 0, None, "D1 last wins"),
    (THINK + "<answer>7</answer><answer>3</answer>", "7", 0, None, "D1 last wins"),
    (THINK + "<answer>7</answer><answer></answer>", "7", 0, None, "D4 the last is empty"),
    (THINK + "<answer>3</answer><answer>7", "3", 1, None, "D1 the last well-formed"),
    (THINK + "<answer>3</answer> 7</answer>", "3", 1, None, "D1 the last well-formed"),
    ("<answer>7</answer>", "7", 1, None, "direct answer without thinking"),
    ("the prompt opened it</think><answer>7</answer>", "7", 1, None, "<think> stood in the prompt"),
]  # fmt: skip


@pytest.mark.parametrize("completion, gold, ours, r1v, rule", ACCURACY)
def test_accuracy_golden(completion, gold, ours, r1v, rule):
    assert rewards.accuracy(completion, example(gold)) == ours, rule


MATCH = [  # prediction, gold
    ("Cat.", "cat"), ('"cat"', "cat"), ("two  words", "Two words"), ("**7**", "7"), ("the cat", "The Cat"),
    ("a", "A"), ("A)", "(A)"), ("A.", "A"), ("A: cat", "A"), ("[b]", "B"), ("A", "A. cat"), ("cat", "A. cat"),
    ("Yes, it is", "yes"), ("NO", "no"),
    ("145 degrees", "145°"), (r"$145^\circ$", "145°"), ("3 cm", "3cm"), ("3", "3cm"), ("3 centimeters", "3 cm"), ("9", "9米"),
    ("7 cubes", "7"), ("1 object", "1"), ("12 cm²", "12cm^{2}"), ("12 square cm", "12cm^{2}"), ("$3.50", "3.5"), ("−3", "-3"),
    ("½", "0.5"), ("1,000,000", "1000000"), ("x = 7", "7"), ("7", "x=7"), ("AB = 7cm", "7"), (r"\angle ABC = 40°", "40"),
    ("1 : 2", "1:2"), ("1/2", "1:2"), ("(1,2)", "(1, 2)"), (r"\boxed{2\sqrt{3}}", "2√3"),
    ("sqrt(3)", "√{3}"), (r"\text{yes}", "yes"), ("240π", "240πcm^{2}"), (r"240\pi\,cm^2", "240πcm^{2}"),
    # these need math-verify
    (r"2\sqrt{3}", r"\sqrt{12}"), ("1+x", "x+1"), ("(x-1)(x+1)", "x^2-1"), ("2^3", "8"), ("√3/2", r"\frac{\sqrt{3}}{2}"),
    (r"\frac{\sqrt{3}}{3}", "1/√3"), ("2x+y=4", "y=4-2x"), (r"2^{\frac{1}{2}}", r"\sqrt{2}"), ("(√12, 1)", r"(2\sqrt{3}, 1)"),
]  # fmt: skip
NO_MATCH = [
    ("3 and 4", "4"), ("3, 7", "7"), ("3,7", "7"), ("7; 3", "7"), ("3 7", "37"), ("$3$7$", "37"), ("3 = 7", "7"), ("7=7", "7"), ("two = 7", "7"), ("3=7", "x=7"),
    (r"5\pm2", "7"), (r"3\text{ or }7", "7"), (r"\boxed{3} or \boxed{7}", "7"), ("3|7", "7"), ("{3}{}{7}", "37"), ("I count 7", "7"), ("seven", "7"),
    ("A or B", "A"), ("A, B", "A"), ("A/B", "A"), ("(A) or (B)", "B"), ("A: cat B: dog", "A"), ("A. B", "A"), ("A cat", "A"), ("apple", "A"), ("Answer", "A"), ("B", "A"),
    ("yes and no", "yes"), ("I do not know", "no"), ("nobody", "no"), ("yesterday", "yes"), ("", "no"),
    ("7 million", "7"), ("7 dozens", "7"), ("7 thirds", "7"), ("3 m", "3cm"), ("3 cm^2", "3cm"), ("70%", "0.7"), ("3½", "15.5"), ("0.33", "1/3"), ("8", "8√{3}"), ("1.73", "√3"),
    ("4:10", "8:20"), ("(2,1)", "(1,2)"), ("1,2,3", "1,2"), ("3!", "6"), ("1/0", "1"), ("cat", "category"), ("category", "cat"), ("on", "no"), ("pu", "up"), ("737-800", "-63 seats total"),
    (" ", "3"), (None, "3"), ("None", "3"), ("nan", "3"), ("...", "3"),
]  # fmt: skip


@pytest.mark.parametrize("prediction, gold", MATCH)
def test_same_answer(prediction, gold):
    assert rewards.match_answer(prediction, gold) is True


@pytest.mark.parametrize("prediction, gold", NO_MATCH)
def test_other_answer(prediction, gold):
    assert rewards.match_answer(prediction, gold) is False


ANIMALS, NUMBERS = ["cat", "dog", "black cat"], [r"2\sqrt{3}", "4", "0.5"]


@pytest.mark.parametrize(
    "prediction, gold, choices, same",
    [
        ("B", "dog", ANIMALS, True), ("dog", "B", ANIMALS, True), ("(b) Dog.", "B", ANIMALS, True), ("C: black cat", "c", ANIMALS, True),
        ("A. the cat", "A", ANIMALS, True), ("A: dog", "A", ANIMALS, False), ("A: dog", "B", ANIMALS, False), ("A. cat or dog", "A", ANIMALS, False),
        ("cat or dog", "dog", ANIMALS, False), ("A or B", "B", ANIMALS, False), ("D", "A", ANIMALS, False), ("A", "dog", ANIMALS, False), ("a dog", "A", ANIMALS, False),
        ("4.0", "B", NUMBERS, True), ("1/2", "C", NUMBERS, True), ("C", "1/2", NUMBERS, True), ("√12", "A", NUMBERS, True), ("√13", "A", NUMBERS, False),
        ("B. 4", "B", NUMBERS, True), ("B. 0.5", "B", NUMBERS, False), ("A", "B", ["B", "A"], False), ("A. x and y", "A", ["x and y", "y"], True),
    ],
)  # fmt: skip
def test_choices(prediction, gold, choices, same):
    assert rewards.match_answer(prediction, gold, choices) is same


@pytest.mark.parametrize(
    "spellings, form",
    [
        (["3", " 3 ", "3.0", "$3$", "3 cubes", "3.", r"\boxed{3}"], "3"), (["140", "140°", "140 degrees"], "140"), (["0.5", "1/2", "½", r"\frac{1}{2}"], "1/2"),
        (["(A)", "a", "A. cat"], "a"), (["√3", r"$\sqrt{3}$", "sqrt(3)", r"\sqrt 3"], r"\sqrt{3}"), (["Yes", "yes."], "yes"), (["3 or 7"], "3 or 7"),
    ],
)  # fmt: skip
def test_votes_of_one_answer_meet(spellings, form):
    assert {rewards.normalize_answer(text) for text in spellings} == {form}


def test_votes_with_choices():
    assert {rewards.normalize_answer(text, ANIMALS) for text in ["B", "dog", "(b) dog", "Dog."]} == {"b"}


def test_extract_and_parse_failure():
    assert rewards.extract_answer("<think>a</think><answer>\n x\ny </answer>") == "x\ny"
    for text in ["", "7", "<answer>7", "7</answer>", "</answer>7<answer>", "<answer> </answer>", "<Answer>7</Answer>", "<think><answer>7</answer></think>"]:
        assert rewards.extract_answer(text) is None and rewards.parse_failure(text), text
    assert not rewards.parse_failure("<answer>7</answer>")
    # the search keeps the end of an overlong completion, and still knows that thinking was opened before it
    assert rewards.extract_answer("x" * 300_000 + "<answer>7</answer>") == "7"
    assert rewards.extract_answer("<think>" + "x" * 300_000 + "<answer>7</answer>") is None


def test_length_is_gameable_and_bounded():
    assert rewards.length("a b\nc", example("3")) == pytest.approx(0.003)
    assert rewards.length("", example("3")) == 0.0
    assert rewards.length("so " * 5000, example("3")) == 1.0  # the known failure: repetition is paid in full


def test_check_gold():
    for gold in ["", " \n", None, 3]:
        with pytest.raises(ValueError, match="gold answer"):
            rewards.check_gold(gold)
    with pytest.raises(ValueError, match="choices"):
        rewards.check_gold("E", ANIMALS)
    rewards.check_gold("b", ANIMALS)
    rewards.check_gold("dog", ANIMALS)
    rewards.check_gold("3")
    with pytest.raises(ValueError, match="gold answer"):  # Visual-RFT pays an empty answer when '' in gold
        rewards.accuracy("<answer></answer>", example(""))


# ---- combining


def test_parts_and_total():
    completions = ["<think>a</think><answer>3</answer>", "<answer>3</answer>", "no"]
    parts, failed = rewards.reward_parts(completions, [example("3")] * 3, ["accuracy", "format", "length"])
    assert parts["accuracy"] == [1, 1, 0] and parts["format"] == [1, 0, 0]
    assert failed == {"accuracy": 0, "format": 0, "length": 0}
    assert rewards.total(parts, [1.0, 0.5, 0.0]) == [1.5, 1.0, 0.0]
    assert rewards.total(parts) == pytest.approx([2.001, 1.001, 0.001])
    with pytest.raises(ValueError, match="2 reward weights for 3 rewards"):
        rewards.total(parts, [1.0, 1.0])
    with pytest.raises(ValueError, match="acuracy.*accuracy, format, length"):
        rewards.reward_parts(completions, [example("3")] * 3, ["acuracy"])
    with pytest.raises(ValueError, match="3 completions but 1 examples"):
        rewards.reward_parts(completions, [example("3")], ["format"])


def test_exceptions_are_counted_not_swallowed(monkeypatch, caplog):
    def moody(completion, example):
        return {"bad": 1 / 0 if completion == "bad" else 0, "nan": math.nan, "inf": math.inf}.get(completion, 0.25)

    monkeypatch.setitem(rewards.REWARDS, "moody", moody)
    parts, failed = rewards.reward_parts(["ok", "bad", "nan", "inf", "ok"], [example("3")] * 5, ["moody", "format"])
    assert parts["moody"] == [0.25, 0.0, 0.0, 0.0, 0.25] and failed == {"moody": 3, "format": 0}
    assert "ZeroDivisionError" in caplog.text
    _, failed = rewards.reward_parts(["<answer>3</answer>"], [example(" ")], ["accuracy"])  # a gold nobody can score
    assert failed == {"accuracy": 1}


def test_inputs_are_not_changed():
    completions, examples, names = ["<answer>b</answer>", "no"], [example("B", ["x", "b"]), example("3")], list(rewards.REWARDS)
    before = copy.deepcopy((completions, examples, names))
    parts, _ = rewards.reward_parts(completions, examples, names)
    assert (completions, examples, names) == before
    parts_before, weights = copy.deepcopy(parts), [1.0, 2.0, 3.0]
    rewards.total(parts, weights)
    assert parts == parts_before and weights == [1.0, 2.0, 3.0]


# ---- any text, any thread, bounded time

BODIES = [
    "\0" * 150, "\ud800\udfff 3 \ud800", "\u202e3\u202c", "\u200b", "9**9**9**9", "9^9^9^9", "10^{10^{10}}", "9^{99999999}", "((9^{99})^{99})^{99}", "{{9^{999}}^{999}}^{999}",
    "\\frac{" * 1000, "\\frac{" * 25, "\\sqrt{" * 15 + "2" + "}" * 15, "(" * 19 + "x" + ")" * 19, "{" * 19 + "x" + "}" * 19, "\\frac{1}{" * 9 + "x" + "}" * 9, "x^{2}" * 40, "x+" * 90 + "1",
    "\\sin(\\cos(\\tan(x)))^9+\\sin x\\cos x\\tan x", "-" * 190, "[" * 200, "1" * 200, "1," * 100, "1,111" * 39, "1/" * 99 + "1", ("9" * 30 + "*") * 6 + "9", "x^{999}y^{999}z^{999}",
    "__import__('os').abort()", "exit()", "().__class__", "lambda: 0", "3!!!!", "999999!", "\\int_0^1 x dx", "\\sum_{x=1}^{999999} x", "\\lim", "\\left(" * 30, "\\boxed{" * 28,
    '"' * 200, "$" * 200, "*" * 200, "." * 200, "√" * 200, "π" * 200, "\ufdfa" * 200, "²" * 200, "\\text{" * 33, "A. " * 66, "a) " * 66, "a" * 200, " " * 150 + "A" + " " * 48, "yes " * 50,
    "\n" * 99, "x" * 2_000_000, "1" * 2_000_000, "A. " * 700_000, "\\text{" * 300_000, "=" * 100, "x=" * 99, "\\\\" * 99, "\\", "%" * 200, "°" * 200, "1e999999999", "0x7fffffff", "NaN", "1_000", "٣",
]  # fmt: skip
COMPLETIONS = ["<think>a</think><answer>" + body + "</answer>" for body in BODIES] + [
    "<answer>" * 200_000, "</answer>" * 200_000, "<answer></answer>" * 100_000, "<think>" * 200_000, "</think>" * 200_000, "<think></think>" * 200_000 + "<answer>3</answer>",
    "<answer>" * 100_000 + "3" + "</answer>" * 100_000, "<think>" + "<" * 3_000_000, "<answer" * 500_000, "a " * 2_000_000, " " * 5_000_000, "\ud800" * 1_000_000,
]  # fmt: skip
GOLDS = [example("3"), example(r"x^2+\sqrt{3}"), example("B", ["3", r"\sqrt{3}", "x"])]


def slowest_and_wrong(completions=COMPLETIONS):
    """(seconds of the slowest single reward call, what it was, list of scores out of range)"""
    rewards._ask_worker.cache_clear()  # or a fork would only repeat what its parent has worked out
    slowest, what, wrong = 0.0, "", []
    for completion in completions:
        for gold in GOLDS:
            for name, reward in rewards.REWARDS.items():
                start = time.perf_counter()
                score = reward(completion, gold)
                seconds = time.perf_counter() - start
                if seconds > slowest:
                    slowest, what = seconds, f"{name} of {completion[:60]!r} against {gold.answer!r}"
                if not in_range(name, score):
                    wrong.append((name, completion[:60], score))
    return slowest, what, wrong


def test_adversarial_text():
    """A new worker's imports are not counted in the limit; no text below should cost a worker, so there is none to count."""
    worker = rewards._worker.process.pid
    slowest, what, wrong = slowest_and_wrong()
    assert not wrong
    assert slowest < 1.0, what
    assert rewards._worker.process.pid == worker, "a text got past the guards and its comparison had to be killed"


def test_adversarial_text_in_a_thread():
    """math-verify's own time limits raise outside the main thread: SIGALRM.  R1-V swallows that and scores 0."""
    results = []

    def work():
        results.append(rewards.accuracy(r"<answer>2\sqrt{5}</answer>", example(r"\sqrt{20}")))
        results.append(slowest_and_wrong(COMPLETIONS[:60]))

    threads = [threading.Thread(target=work) for _ in range(2)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert len(results) == 4
    for result in results:
        if isinstance(result, float):
            assert result == 1.0
        else:
            assert not result[2] and result[0] < 1.0, result[1]


def in_another_process(queue):
    equal = rewards.symbolically_equal(r"\sqrt{76}", r"2\sqrt{19}")  # new to the cache, so it starts this process's own worker
    queue.put((equal, rewards._worker.process.pid, slowest_and_wrong(COMPLETIONS[:60])))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_adversarial_text_in_a_process(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=in_another_process, args=(results,))
    with rewards._worker.lock:  # as if another thread were asking: a fork copies the lock taken, and nobody there ever frees it
        process.start()
    try:
        equal, worker, (slowest, what, wrong) = results.get(timeout=60)
    finally:
        process.join(1)
        process.kill()
    assert equal and not wrong
    assert slowest < 1.0, what
    assert worker != rewards._worker.process.pid, "a fork must not talk through its parent's pipes: answers would be mixed up"
    assert rewards.symbolically_equal(r"\sqrt{28}", r"2\sqrt{7}"), "the parent's worker must outlive the child"


def test_a_hanging_comparison_is_killed(monkeypatch, caplog):
    """With the guards off, 9^(9^(9^9)) keeps sympy in one C call that no signal or thread interrupts."""
    monkeypatch.setattr(rewards, "_algebra", lambda text: text)
    worker = rewards._worker.process
    start = time.perf_counter()
    equal = rewards.symbolically_equal("1", "9^{9^{9^{9}}}+x")
    seconds = time.perf_counter() - start
    assert equal is False and seconds < 1.0
    assert worker.poll() is not None and "counted as not equal" in caplog.text
    assert rewards.symbolically_equal(r"\sqrt{44}", r"2\sqrt{11}")  # and the next question is answered, by a new worker


def test_a_dead_worker_is_replaced():
    rewards._worker.process.kill()
    rewards._worker.process.wait()
    assert rewards.symbolically_equal(r"\sqrt{52}", r"2\sqrt{13}")


def test_worker_ends_with_its_parent():
    """The child exits without cleaning up; the worker must notice that its stdin ended."""
    code = r"import rewards, os; rewards.symbolically_equal('x+1', '1+x'); print(rewards._worker.process.pid, flush=True); os._exit(1)"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(rewards.__file__).parent, stdout=subprocess.PIPE, timeout=120)
    pid = int(child.stdout)
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc to see whether a process that is not our child still runs")
    end = time.time() + 5
    while time.time() < end and os.path.exists(f"/proc/{pid}") and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.02)
    assert time.time() < end, "the worker outlived its parent"


def test_missing_math_verify_is_said(monkeypatch):
    """Not a silent 0: the cheap comparisons go on, the symbolic one raises, and reward_parts counts it."""
    popen = subprocess.Popen
    code = "import sys; sys.modules['math_verify'] = None; sys.argv = ['rewards.py', '--worker']; import runpy; runpy.run_path({!r}, run_name='__main__')"

    def without(command, **kwargs):
        return popen([command[0], "-c", code.format(command[1])], **kwargs)

    monkeypatch.setattr(rewards, "_worker", rewards._MathWorker())
    monkeypatch.setattr(rewards.subprocess, "Popen", without)
    parts, failed = rewards.reward_parts(["<answer>3.0</answer>", "<answer>3+0y</answer>"], [example("3")] * 2, ["accuracy"])
    assert parts == {"accuracy": [1.0, 0.0]} and failed == {"accuracy": 1}
    with pytest.raises(RuntimeError, match="pip install math-verify"):
        rewards.match_answer("3+0y", "3")


def test_text_is_never_executed(tmp_path):
    """sympy.parse_expr is eval: an answer must not reach it."""
    for i, body in enumerate(["open('{}','w')", "__import__('os').system('touch {}')", r"\operatorname{{open}}('{}','w')", "$open('{}','w')$"]):
        path = tmp_path / str(i)
        rewards.accuracy("<answer>" + body.format(path) + "</answer>", example(r"\sqrt{3}"))
        assert not path.exists()
    assert not rewards._compare_latex("3", f"open('{tmp_path}/x','w')")  # past every guard, math-verify is asked for LaTeX only
    assert not (tmp_path / "x").exists()


PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "3", "7", " or ", "A", "B", ")", "(", ".", ":", ",", "=", "x", "+", "^", "{", "}", "\\frac", "\\sqrt", "\\", "√", "π", "°", "%", "cm", "yes", "\n", "½", "1,000"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(alphabet=st.characters(), max_size=80),  # surrogates included
    st.lists(PIECES, max_size=20).map("".join),
    st.lists(PIECES, max_size=12).map(lambda pieces: "<answer>" + "".join(pieces) + "</answer>"),
)


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(TEXTS, st.sampled_from(GOLDS), TEXTS)
def test_any_text_scores_in_range(completion, gold, other):
    for name, reward in rewards.REWARDS.items():
        assert in_range(name, reward(completion, gold))
    assert json.dumps(rewards.normalize_answer(other)) and isinstance(rewards.match_answer(other, completion), bool)
    if other.strip():
        assert rewards.match_answer(other, other) or rewards._text(other) == ""  # reflexive
    canonical = rewards.normalize_answer(other)
    assert rewards.normalize_answer(canonical) == canonical  # idempotent, or votes would depend on who counts
