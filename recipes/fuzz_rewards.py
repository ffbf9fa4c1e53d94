"""Score hostile completions with every reward, and time the answer grammar against length.

    python recipes/fuzz_rewards.py --n 100000 --seed 0                (CPU, minutes)
    python recipes/fuzz_rewards.py --n 0 --plot docs/grading_time.png (CPU, seconds)

A policy under RL emits every text there is. Completion i of a seed is always the same, made by the
generators below; every reward scores it against a gold that it has a meaning for. Checked: the
score is a float in its range, nothing raises, no call takes over a second of CPU time, no text ran
as code (a canary file), no process is left. Three fifths of the run are in the main thread, a fifth
in worker threads, a fifth in worker processes. Exit status 1 if anything is wrong.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import rewards
from grading import answers

LIMIT = 1.0  # seconds of CPU time a call may take
CHUNK = 250  # completions per task of a thread or process


# --- golds ---


def example(
    answer: str, choices: list[str] | None = None, boxes: list[dict] | None = None, **meta
) -> SimpleNamespace:
    if boxes is not None:
        meta |= {"boxes": boxes, "size": [640, 480]}
    return SimpleNamespace(answer=answer, choices=choices, meta=meta)


def gold(label: str | None, *box: int) -> dict:
    return {"bbox_2d": list(box), "label": label}


PLAIN = [
    example("3"), example("30-39"), example("2020-02-04"), example("x > 3"),
    example(r"\{a^b, a^c\}"), example("60°或120°"), example("5 km/h"), example("140°"),
    example("240πcm^{2}"), example(r"x^2+\sqrt{3}"), example(r"\frac{12}{5}"),
    example("B", ["a cat", "7", r"\sqrt{3}"]), example("(A)"), example("yes"), example("No"),
    example("737-800"), example("golden retriever"), example("3, 7"), example("(1, 2)"),
    example("two words, and a comma"), example("√{3}"), example("2x+y=4"), example("1:2"),
]  # fmt: skip
PETS = [
    gold("cat", 0, 0, 100, 100),
    gold("dog", 200, 200, 300, 300),
    gold("cat", 400, 10, 600, 450),
]
NEAR = [gold("cat", 0, 120, 100, 220), gold(None, 5, 125, 100, 220)]
BOXED = [
    example("[10, 20, 300, 400]", boxes=[gold(None, 10, 20, 300, 400)]),
    example("[...]", boxes=[gold("cat", 10, 20, 300, 400)], box_format="pixels"),
    example("[...]", boxes=PETS),
    example("[...]", boxes=NEAR, box_format="resized", resized=[308, 224]),
    example("[]", boxes=[]),
]


# --- answer bodies: each maker takes a Random and the path that code would touch ---

TAGS = [
    "<think>", "</think>", "<answer>", "</answer>", "<caption>", "</caption>", "<Answer>",
    "< answer>", "<answer", "</answer", "<|im_end|>", "<|box_start|>", "<|box_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|image_pad|>",
]  # fmt: skip
ANSWERS = [
    "3", "140°", r"140^{\circ}", "240π", r"240\pi\text{ cm}^{2}", r"\frac{12}{5}", "2.4", "B",
    "(B)", "[b].", "A. a cat", "A or B", "yes", "Yes and no", "no", "737-800", "Boeing 737-800",
    "golden_retriever", "3, 7", "(1, 2)", "√3", r"\sqrt{3}", r"8\sqrt{3}", "none", "No Objects",
    "[]", "x = 3", "y=4-2x", "2/1", "70%", "3 cm²", "½", "1,000", "3万", "٣", "１２", "Ⅷ", "",
]  # fmt: skip
PIECES = ANSWERS + [
    "\\frac", "\\sqrt", "{", "}", "(", ")", "[", "]", "^", "_", "\\", "$", "+", "-", "*", "/", "=",
    ",", ";", ":", ".", "'", '"', "`", "\n", " ", "\t", "\0", "or", "and", "not", "cm", "π", "°",
    "%", "×", "−", "–",
]  # fmt: skip
TOWERS = [
    "9**9**9**9", "9^9^9^9", "9^{9^{9^{9}}}", "10^{10^{10}}", "9^{99999999}",
    "((9^{99})^{99})^{99}", "(9^9)^{9}", "2^{999}", "x^{99}", "999999!", "3!!!!", r"\binom{99}{9}",
    r"\sum_{x=1}^{999999} x", r"\int_0^1 x dx", r"9^{9\cdot 9}", "1e999999999",
    "9" * 30 + "*" + "9" * 30, r"\sin(\cos(\tan(x)))^9", "0^{-1}", "1/0", r"\frac{1}{0}",
    r"\sqrt{-1}", r"\log(0)", "x^x^x", r"2^{\frac{1}{2}}", "1/3/3/3/3", "x+y+x+y-x",
]  # fmt: skip
BRACKETS = [
    ("(", ")"), ("{", "}"), ("[", "]"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"),
    ("\\left(", "\\right)"), ("\\text{", "}"), ("\\boxed{", "}"), ('{"a":', "}"), ("[[", "]]"),
    ("**", "**"),
]  # fmt: skip
ODD_CHARACTERS = [
    "\0\a\b\x1b", "\ud800\udfff\udc80", "\u202e\u202d\u2066\u200f\u05d0\u0627",
    "\u200b\u200d\ufeff", "\ufdfa²³½√π", "e\u0301\u0300", "٣４Ⅷ㎝㎠", "\U0001f600\U0001f468\u200d",
    "".join(map(chr, range(32, 127))),
]  # fmt: skip
GOLD_CORNERS = [  # x, y, width, height
    (10, 20, 290, 380), (0, 0, 100, 100), (200, 200, 100, 100), (400, 10, 200, 440),
    (0, 120, 100, 100),
]  # fmt: skip
LABELS = ["cat", "dog", "Cat", "unicorn", "it's", 'a \\"b\\"', "\\u00e9", "", "x" * 300]
REPEATED = [
    "a", "a ", "A. ", "1,", "1,111", "1/", " ", "\n", "x=", "=", "$", "*", "**", '"', ".", "√", "²",
    "\\text{", "\\\\", "\\", "%", "°", "yes ", "let me ", "wait ", "-", "_", "-_ ", "a-", "<",
    "<answer", "(", "^", "^\\circ", "\ufdfa", "sqrt ", "{}", "\\sqrt",
]  # fmt: skip
BEFORE_REPEATED = [  # runs of spaces after a key once took minutes
    "", "", "score:", "Confidence':", 'score:"', "(1,2)", "label:", "[", "[1,", "Answer", "3 =",
    "\\angle", "sin ",
]  # fmt: skip
THOUGHTS = ["wait", "so", "the", "cat", "is", "7", "hmm", "again", "box"]
SEPARATORS = [
    "-", ",", ":", "/", ".", ";", " or ", " ", "^", "_", "=", "<", "±", "°", "'", "|", "∪", "&",
    "\\\\", "{", "(", "[", "\\frac", "\\sqrt", "9", "9,", "9-", "x_", "$", "~", " and ", "A. ",
    "\\text{", "和", "√", "!", "sin", "\\pm", "5 cm ",
]  # fmt: skip


def tower(rng: Random, canary: str) -> str:
    return rng.choice(TOWERS) + rng.choice(["", "", "+x", "=3", "°", " or 3", "cm"])


def deep(rng: Random, canary: str) -> str:
    opening, closing = rng.choice(BRACKETS)
    n = rng.choice([1, 2, 3, 4, 5, 8, 19, 100, 2000])
    inside = rng.choice(["x", "3", "", "\\sqrt{3}", "1,2,3,4"])
    return opening * n + inside + closing * rng.choice([0, n, n, n - 1, n + 1])


def odd(rng: Random, canary: str) -> str:
    length = rng.choice([1, 3, 20, 190, 400])
    return "".join(rng.choice(rng.choice(ODD_CHARACTERS)) for _ in range(length))


def number(rng: Random) -> str:
    return rng.choice([
        str(rng.randrange(1000)), str(rng.randrange(-50, 700)), f"{rng.random() * 1000:.3f}", "0",
        "1e3", "1e999", "NaN", "Infinity", "-0", "9" * rng.choice([9, 10, 400]), ".5", "5.", '"7"',
        "null", "0x10", "1_0", "٣",
    ])  # fmt: skip


def box(rng: Random) -> str:
    if rng.random() < 0.6:  # near a gold
        x, y, w, h = rng.choice(GOLD_CORNERS)
        corners = [v + rng.randrange(-9, 10) for v in (x, y, x + w, y + h)]
        if rng.random() < 0.1:
            corners.reverse()
        return ", ".join(map(str, corners))
    comma = rng.choice([", ", ",", " ,\n"])
    return comma.join(number(rng) for _ in range(rng.choice([4, 4, 4, 3, 5])))


def boxes(rng: Random, canary: str) -> str:
    quote, style = rng.choice('""\''), rng.randrange(5)
    if rng.random() < 0.2:
        n = rng.choice([0, 1, 1, 1, 2, 3, 5, 40, 299, 300, 301, 1000])
    else:
        n = rng.choice([1, 1, 2, 3])
    same = box(rng) if rng.random() < 0.1 else None
    items = []
    for _ in range(n):
        four = same or box(rng)
        items.append(written(four, rng.choice(LABELS), quote, number(rng))[style])
    text = "[" + ", ".join(items) + "]" if rng.random() < 0.8 else "\n".join(items)
    if rng.random() < 0.1:
        text = text[: rng.randrange(len(text) + 1)]
    around = ["{}", "{}", "```json\n{}\n```", "```{}```", "The box is {}.", "{} {}"]
    return rng.choice(around).replace("{}", text)


def written(four: str, label: str, quote: str, confidence: str) -> list[str]:
    """Write one box in five notations."""
    corners = (four + ",0,0,0,0").replace("\n", "").split(",")[:4]
    return [
        f"[{four}]",
        "({},{}),({},{})".format(*corners),
        f"{{{quote}bbox_2d{quote}: [{four}], {quote}label{quote}: {quote}{label}{quote}}}",
        f"{{{quote}Position{quote}: [{four}], {quote}Confidence{quote}: {confidence}}}",
        f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>({four})<|box_end|>",
    ]


def json_bomb(rng: Random, canary: str) -> str:
    n = rng.choice([10, 100, 100, 1000, 1000, 1000, 1000, 20000])
    return rng.choice([
        "[" * n, "{" * n, '{"a":' * n, "[" * n + "]" * n, "[" + "1" * n + "]",
        '{"bbox_2d": [' + "1," * n + "]}", '{"label": "' * n, "'label': \"" * n, '"label":"\\' * n,
        "[1,2,3,4],".replace("1", "1" * 9) * (n // 10), "[ " * n, "[" + " " * n + "1", "(1,2)" * n,
        "(1,2),(3,4" * n, "<|object_ref_start|>" * n, '{"a":1,"a":2,' * n, "Confidence:" * n,
        "[1,1,1,1]" * n,
    ])  # fmt: skip


def code(rng: Random, canary: str) -> str:
    run = f"__import__('os').system('touch {canary}')"
    return rng.choice([
        run, f"${run}$", f"open('{canary}','w')", f"exec(\"open('{canary}','w')\")",
        f"\\operatorname{{open}}('{canary}','w')", f"[{run}, 1, 2, 3]",
        f"{{'Position': [{run},2,3,4]}}", f"lambda: {run}", f"{{{{{run}}}}}", f"$(touch {canary})",
        f"`touch {canary}`", f"; touch {canary} #", f"'; touch {canary}; '",
        "().__class__.__bases__[0].__subclasses__()", "exit()", "__import__('os').abort()",
        f"f'{{{run}}}'", f'sympy.sympify("{run}")',
    ])  # fmt: skip


def redos(rng: Random, canary: str) -> str:
    unit, before = rng.choice(REPEATED), rng.choice(BEFORE_REPEATED)
    run = unit * rng.choice([5, 30, 66, 99, 199, 2000, 20000])
    return before + run + rng.choice(["", "!", "b", "}", ">", "\0"])


def loop(rng: Random, canary: str) -> str:
    phrase = " ".join(rng.choice(THOUGHTS) for _ in range(rng.randrange(1, 9)))
    return (phrase + " ") * rng.choice([1, 2, 5, 50, 500])


def soup(rng: Random, canary: str) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 25)))


def answer(rng: Random, canary: str) -> str:
    return rng.choice(ANSWERS)


def mutated(rng: Random, canary: str) -> str:
    text = list(rng.choice([answer, boxes, tower, soup])(rng, canary)[:3000]) or ["3"]
    for _ in range(rng.randrange(1, 4)):
        i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        text[i:j] = rng.choice([[], text[i:j] * 2, list(rng.choice(PIECES)), text[i:j][::-1]])
    return "".join(text)


def grammar(rng: Random, canary: str) -> str:
    """Repeat a separator, nest or count: just inside the length that is read, and far beyond."""
    unit = rng.choice(SEPARATORS)
    n = rng.choice([1, 5, 20, 60, 190, 5_000, 100_000 // len(unit)])
    run = (unit * n)[: rng.choice([50, 150, 199, 100_000])]
    inside = rng.choice(["", "x", "3", "1,2", "\\sqrt{3}", "2020-02-04"])
    return rng.choice(["%s", "3%s3", "x%s", "(%s)", "\\{%s\\}", "x=%s"]).replace("%s", run + inside)


# --- completions ---

BODIES = [
    answer, answer, grammar, grammar, soup, tower, deep, odd, boxes, boxes, boxes, json_bomb, code,
    redos, loop, mutated, mutated,
]  # fmt: skip
THINKING = [loop, soup, answer, boxes, odd, redos]
SHAPES = [  # B: a body; T: a thinking
    "<think>T</think><answer>B</answer>", "<think>T</think>\n<answer>\nB\n</answer>\n",
    "<answer>B</answer>", "B", "", "T<answer>B</answer>", "<think>T<answer>B</answer></think>",
    "<answer>B</answer><think>T</think>", "<think>T</think><answer>B", "<think>T</think>B",
    "<think>T", "<caption>T</caption><think>T</think><answer>B</answer>",
    "<think>T</think><think>T</think><answer>B</answer>",
    "<think>T</think><answer>B</answer><answer>B</answer>",
    "<think><answer>B</answer></think><answer>B</answer>", "<answer><answer>B</answer></answer>",
    "<think>T</think> T <answer>B</answer> T", "<think></think><answer></answer>",
    "</think>T<think><answer>B</answer>", "<answer>B</answer>T</think><answer>B</answer>",
]  # fmt: skip
MEGABYTES_OF = [
    *TAGS, "x", "1", " ", "A. ", "a ", "\ud800", "[1,2,3,4],", "{", "\0", "<think></think>",
    "<answer>3</answer>", "wait, ", "\\text{", "<think>a</think>", "<answer></answer>",
]  # fmt: skip
AROUND_MEGABYTES = [
    "T",
    "<think>T</think><answer>3</answer>",
    "<think>a</think><answer>T</answer>",
    "<answer>3</answer>T",
]


def completion(seed: int | str, index: int, canary: str) -> str:
    """Make completion number `index` of a seed."""
    rng = Random(f"{seed}/{index}")
    if rng.random() < 0.05:
        pieces = [*TAGS, "3", "x", " ", "[1,2,3,4]"]
        return "".join(rng.choice(pieces) for _ in range(rng.randrange(40)))
    if rng.random() < 0.001:
        unit = rng.choice(MEGABYTES_OF)
        text = unit * (rng.randrange(1, 4) * 1_000_000 // len(unit))
        return rng.choice(AROUND_MEGABYTES).replace("T", text)
    makers = {"B": BODIES, "T": THINKING}
    text = ""
    for piece in rng.choice(SHAPES).replace("B", "\1B\1").replace("T", "\1T\1").split("\1"):
        text += rng.choice(makers[piece])(rng, canary) if piece in makers else piece
    return text


# --- scoring them ---


def calls(index: int, text: str) -> Iterator[tuple[str, tuple]]:
    """Yield (reward, arguments) for completion number `index`, once for each reward.

    Box rewards score it against a gold with boxes, the others against a plain one, accuracy both.
    """
    plain, boxed = PLAIN[index % len(PLAIN)], BOXED[index % len(BOXED)]
    counts = ((0, 0), (500, 512), (10**9, 512), (-1, 7))[index % 4]
    for name, reward in rewards.REWARDS.items():
        if reward.needs is not rewards.BOXES:
            yield name, (text, plain, *counts)
        if reward.needs is rewards.BOXES or name == "accuracy":
            yield name, (text, boxed, *counts)


def in_range(name: str, score: object) -> bool:
    allowed = rewards.REWARDS[name].range
    if type(score) is not float:
        return False
    if isinstance(allowed, set):
        return score in allowed
    return allowed[0] <= score <= allowed[1]  # nan is in no range


def run(seed: int, first: int, last: int, canary: str) -> dict:
    """Score completions first..last-1: {"calls", "wrong", "slow", "slowest"}.

    A slow call is (CPU seconds, what).
    """
    result = {"calls": 0, "wrong": [], "slow": [], "slowest": (0.0, "")}
    for index in range(first, last):
        text = completion(seed, index, canary)
        for name, arguments in calls(index, text):
            start = time.thread_time()
            try:
                score = rewards.REWARDS[name](*arguments)
            except Exception as error:
                score = error
            call = (time.thread_time() - start, f"{name} of completion {index}, {ascii(text[:60])}")
            result["calls"] += 1
            result["slowest"] = max(result["slowest"], call)
            if call[0] > LIMIT:
                result["slow"].append(call)
            if not in_range(name, score):
                result["wrong"].append((name, index, ascii(score), ascii(text[:200])))
    return result


def children() -> list[str]:
    """List the processes that this one has started and that still run; Linux only."""
    lists = Path("/proc/self/task").glob("*/children")
    return " ".join(path.read_text(encoding="utf-8") for path in lists).split()


def time_of(text: str, gold: str = "x+1") -> float:
    """Measure the seconds of CPU time to compare a text for the first time."""
    answers.forget()
    start = time.thread_time()
    answers.match_answer(text, gold)
    return time.thread_time() - start


def fastest(text: str) -> float:
    """Measure three times, and return the least."""
    return min(time_of(text) for _ in range(3))


LENGTHS = [10, 20, 40, 80, 120, 160, 200, 201, 1_000, 10_000, 100_000]


def plot(path: str) -> float:
    """Draw CPU time against length for runs of each separator; return the largest time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    largest = 0.0
    for unit in SEPARATORS:
        texts = [(unit * (n // len(unit) + 1))[:n] for n in LENGTHS]
        times = [fastest(text) for text in texts]
        largest = max(largest, *times)
        axes.plot(LENGTHS, times, color="tab:blue", alpha=0.4, linewidth=1)
    axes.plot(LENGTHS, [n * 1e-6 for n in LENGTHS], "k--", label="linear: 1 µs a character")
    axes.axvline(200, color="gray", linewidth=1, label="longer texts are compared as text")
    axes.set(xscale="log", yscale="log", xlabel="characters", ylabel="seconds of CPU time")
    axes.set_title(f"one comparison, {len(SEPARATORS)} runs of a separator")
    axes.legend()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return largest


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--n", type=int, default=100_000, help="completions")
    p.add_argument("--seed", type=int, default=0, help="of the generators")
    p.add_argument("--threads", type=int, default=4, help="for a fifth of the completions")
    p.add_argument("--processes", type=int, default=2, help="for another fifth")
    p.add_argument("--plot", metavar="FILE", help="draw CPU time against length")
    args = p.parse_args(argv)
    if args.n < 0 or args.threads < 1 or args.processes < 1:
        p.error("--n must be 0 or more, --threads and --processes at least 1")
    if args.plot and not Path(args.plot).absolute().parent.is_dir():
        p.error(f"--plot {args.plot}: there is no such folder")
    return args


def score_all(n: int, seed: int, threads: int, processes: int, canary: str) -> list[tuple]:
    """Score all completions, in the main thread, threads and processes: [(kind, result)]."""
    alone, in_threads = n * 3 // 5, n * 4 // 5
    results = []
    for i in range(0, alone, 20 * CHUNK):
        results.append(("main thread", run(seed, i, min(alone, i + 20 * CHUNK), canary)))
        print(f"{min(alone, i + 20 * CHUNK)} completions", file=sys.stderr, flush=True)
    pools = [
        (f"{threads} threads", ThreadPoolExecutor(threads), alone, in_threads),
        (f"{processes} processes", ProcessPoolExecutor(processes), in_threads, n),
    ]
    for kind, pool, first, last in pools:
        with pool:
            chunks = [(i, min(last, i + CHUNK)) for i in range(first, last, CHUNK)]
            tasks = [pool.submit(run, seed, *chunk, canary) for chunk in chunks]
            results += [(kind, task.result()) for task in tasks]
    return results


def main(args: argparse.Namespace) -> int:
    if args.plot:
        print(f"{args.plot}: at most {plot(args.plot):.3f} s of CPU time for one comparison")
    if not args.n:
        return 0
    canary = os.path.join(tempfile.mkdtemp(), "canary")
    start = time.perf_counter()
    results = score_all(args.n, args.seed, args.threads, args.processes, canary)
    seconds = time.perf_counter() - start
    calls_made = sum(r["calls"] for _, r in results)
    wrong = [w for _, r in results for w in r["wrong"]]
    slow = [call for _, r in results for call in r["slow"]]
    print(
        f"{args.n} completions, seed {args.seed}: {calls_made} calls of {len(rewards.REWARDS)} "
        f"rewards in {seconds:.0f} s"
    )
    for kind in dict(results):
        cpu, what = max(r["slowest"] for k, r in results if k == kind)
        print(f"  {kind}: slowest call {cpu:.3f} s of CPU time, {what}")
    print(f"  over {LIMIT} s of CPU time: {len(slow)}; raised or out of range: {len(wrong)}")
    ran, left = os.path.exists(canary), children()
    print(f"  text run as code: {'YES' if ran else 'no'}; processes left: {len(left)}")
    for case in [*slow, *wrong][:20]:
        print("   ", *case)
    return int(ran or bool(left) or bool(wrong) or bool(slow))


if __name__ == "__main__":
    sys.exit(main(parse_args()))
