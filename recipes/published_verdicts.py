r"""Let the published scorers of five benchmarks judge made-up answers.

    pip install latex2sympy2==1.9.1 numpy pandas Levenshtein tqdm     (in an environment of its own)
    python recipes/published_verdicts.py --checkouts DIR --output tests/published_verdicts.jsonl

DIR holds checkouts, whose code is run and never copied:

    MathVista    github.com/lupantech/MathVista           53d5258
    MMMU         github.com/MMMU-Benchmark/MMMU           bb0b95a
    MMStar       github.com/MMStar-Benchmark/MMStar       88f243a
    VLMEvalKit   github.com/open-compass/VLMEvalKit       e8e78f0 (for MMBench)
    MATH-V       github.com/mathllm/MATH-V                a1f5cc3

Each line is a saved output with `verdict`, the scorer's; null where it would ask an LLM. The
answers are phrases that models use and texts that mislead rules, always the same ones.
"""

import argparse
import ast
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

KEPT = 260  # answers of each benchmark
QUESTIONS = [  # right letter, options
    ("A", ["red", "blue", "green", "white"]),
    ("C", ["12", "13", "14", "15"]),
    ("D", ["an apple", "apple", "a pear", "pears and apples"]),
    ("B", ["yes", "no"]),
    ("C", ["None of the above", "All of the above", "A and B", "The 5% level"]),
    ("B", ["It goes up, then down.", "It stays as it was before.", "It falls", "3.5 cm (exactly)"]),
    ("E", ["$\\frac{1}{2}$", "$2\\sqrt{3}$", "0.75", "3/4", "$\\pi$"]),
]
PHRASES = [  # L: a letter, T: its text; M and U: another option's
    "{L}",
    "({L})",
    "{L}.",
    "{L}) {T}",
    "{L}. {T}",
    "({L}) {T}",
    "{L}: {T}",
    "{l}",
    "[{L}]",
    "The answer is {L}.",
    "The answer is ({L}).",
    "the answer is {L}",
    "the answer is {l}",
    "The correct answer is **{L}**. It fits.",
    "Answer: {L}",
    "Option {L}",
    "option {l}",
    "'{L}'",
    "<answer>{L}</answer>",
    "<think>It may be {M}.</think><answer> {L} </answer>",
    "\\boxed{{{L}}}",
    "{T}",
    "{T}.",
    "I think it is {T}, as the picture shows.",
    "It is {T} and not {U}.",
    "{L} or {M}",
    "({M}) is wrong, ({L}) is right",
    "{M}, {L}",
    "{L}\n{M}",
    "Not {M} , but {L} .",
    "",
    " ",
    "?",
    "I cannot tell.",
    "Cannot determine the answer",
    "Z",
    "(",
    "option ",
    "()",
    "{{}}",
    "Sorry, I can't help with images of people yet.",
    "A good look at it says {T} to me.",
    "Step 1: the first is {U}.\nStep 2: compare.\nSo the final answer is {L}",
    "答案：{L}",
    "{L}!",
    "We see {T} {U} and more in the picture, so no option fits well here, I am afraid",
    "A lot of words come first, which say nothing about the picture, then {L} comes up .",
    "The answer is {M}. No, wait: the answer is {L}.",
    "{L} {L} {L}",
    "**{L}**",
    "Final: {L}, {T}",
]


# --- made-up answers ---


def said(phrase: str, right: str, options: list[str], draw: random.Random) -> str:
    """Fill a phrase, mostly with the right option."""
    letters = [chr(65 + place) for place in range(len(options))]
    letter = right if draw.random() < 0.6 else draw.choice(letters)
    other = draw.choice([one for one in letters if one != letter])
    texts = {"T": options[ord(letter) - 65], "U": options[ord(other) - 65]}
    return phrase.format(L=letter, l=letter.lower(), M=other, **texts)


def choice_answers(seed: int) -> Iterator[dict]:
    """Make a saved output of each phrase and question."""
    draw = random.Random(seed)
    for place, (right, options) in enumerate(QUESTIONS):
        for phrase in PHRASES:
            text = said(phrase, right, options, draw)
            yield {"id": f"{place}", "answer": right, "choices": options, "prediction": text}


OPEN = [  # gold or golds, answers
    (
        ["1.06", "1.060"],
        ["1.06", "1.064", "1.0649", "1.07", "is 1.06 m", "= 1.06", "106", "x=1.06."],
    ),
    (
        ["1,234"],
        ["1234", "1,234", "1,234.0", "so 1,234 in all", "12,34", "1.234e3", "-1,234", "1234,"],
    ),
    (
        ["-3"],
        ["-3", "3", "- 3", "2-3", "the result is -3.", "thus -3.00", "−3", "it could be -3 or 3"],
    ),
    (
        ["osmosis"],
        ["Osmosis", "It is osmosis.", "osmotic", "is called\nOSMOSIS", "", "is", "so so so"],
    ),
    (["B"], ["B", "b", "vitamin B", "vitamin b12", "so b", "the answer is B", "ab", "B."]),
    (
        ["1e3"],
        ["1000", "1e3", "1E+3", "1.0e3 m", "10^3", "1e3e3", "so .5e4", "1000.004", "1000.006"],
    ),
    (
        ["100 ohm"],
        ["100 ohm", "100 Ohms", "100", "is 100\nohm", "therefore 100 ohm =", "nan", "inf"],
    ),
]


def open_answers() -> Iterator[dict]:
    """Make saved outputs of MMMU's open questions."""
    for place, (golds, answers) in enumerate(OPEN):
        for text in answers:
            yield {"id": f"open {place}", "answer": golds, "choices": None, "prediction": text}


NUMBERS = [  # answer type, precision, gold, answers
    (
        "integer",
        None,
        "14",
        ["14", " 14\n", "14.0", "14.9", "1_4", "+14", "fourteen", "14 cm", "1e1"],
    ),
    ("integer", None, "-2", ["-2", "-2.5", "−2", "2", "- 2", "", "nan", "inf", "-2.", "0b10"]),
    (
        "float",
        1.0,
        "1.2",
        ["1.2", "1.20", "1.25", "1.15", "1.249", "1.2 m", "$1.2", "6/5", "1", ""],
    ),
    (
        "float",
        2.0,
        "0.5",
        ["0.5", ".5", "0.50", "0.504", "0.506", "50%", "1/2", "5e-1", "-0.5", "1e9"],
    ),
    ("float", 2.0, "3.14", ["3.14", "3.141", "3.145", "pi", "3,14", "3.1", "nan", "infinity"]),
    ("list", None, "[2, 3]", ["[2, 3]", "[2,3]", "2, 3", "(2, 3)", " [2, 3]", "[2.0, 3.0]", ""]),
]


def mathvista_answers() -> Iterator[dict]:
    """Make responses, and answers as an LLM may extract them (`extraction`)."""
    for record in choice_answers(1):
        record |= {"question_type": "multi_choice", "answer_type": "text", "precision": None}
        record["answer"] = record["choices"][ord(record["answer"]) - 65]
        yield record
        yield {**record, "extraction": record["prediction"], "prediction": "Let me see."}
    for place, (kind, precision, gold, answers) in enumerate(NUMBERS):
        form = {"question_type": "free_form", "answer_type": kind, "precision": precision}
        record = {"id": f"number {place}", "answer": gold, "choices": None, **form}
        for text in answers:
            yield {**record, "prediction": text}
            yield {**record, "prediction": "Let me see.", "extraction": text}


FREE = [  # gold, answers
    (
        "60",
        ["60", "\\boxed{60}", "the answer is 60.", "The final answer is 60. Really", "it is 60."],
    ),
    (
        "60",
        ["60^\\circ", "\\boxed{60^{\\circ}}", "60 km", "60\\text{ cm}", "60.004", "60.006", "$60$"],
    ),
    (
        "60",
        [
            "x = 60",
            "30+30",
            "\\boxed{12} then \\boxed{60}",
            "\\boxed{60",
            "oxed{60}",
            "120/2",
            "60%",
        ],
    ),
    (
        "\\frac{1}{2}",
        ["0.5", "1/2", "\\frac12", "\\frac{1}{2}", "\\dfrac{2}{4}", ".5", "-1/2", "50\\%"],
    ),
    (
        "2\\sqrt{3}",
        ["2\\sqrt{3}", "2\\sqrt3", "\\sqrt{12}", "3.46", "3.47", "2√3", "2*\\sqrt{3}", "3.4641"],
    ),
    ("18\\pi", ["18\\pi", "56.55", "18π", "\\boxed{18 \\pi }", "pi*18", "56.5", "\\approx 56.55"]),
    (
        "5!",
        ["120", "5!", "\\boxed{120}", "1\\cdot2\\cdot3\\cdot4\\cdot5", "\\binom{10}{3}", "5", "ab"],
    ),
    ("(1,2)", ["(1,2)", "(1, 2)", "\\left(1,2\\right)", "(1.0,2)", "[1,2]", "1,2", "(2/2,4/2)"]),
    ("8:5", ["8:5", "8/5", "1.6", "16:10", "5:8", "8 to 5", "\\frac{8}{5}"]),
    ("1000", ["1,000", "1000", "10^3", "10^{3}", "1000 units", "1e3", "\\$1000", "one thousand"]),
]
BOXED = [
    "{}",
    "\\boxed{{{}}}",
    "So the answer is \\boxed{{{}}}.",
    "the correct answer is {}. It fits",
]


def mathvision_answers() -> Iterator[dict]:
    """Make responses to questions with and without options."""
    for record in choice_answers(2):
        if len(record["choices"]) >= 4:
            yield {**record, "options": record.pop("choices")}
    for place, (gold, answers) in enumerate(FREE):
        for text in answers:
            for form in BOXED:
                prediction = form.format(text)
                yield {
                    "id": f"free {place}",
                    "answer": gold,
                    "options": [],
                    "prediction": prediction,
                }


def mmbench_answers() -> Iterator[dict]:
    """Make rows of questions with their options rolled on, some answered alike in all rows."""
    draw = random.Random(3)
    for index, phrase in enumerate(PHRASES * 2):
        right, options = draw.choice(QUESTIONS)
        gold = ord(right) - 65
        for roll in range(len(options)):
            rolled = options[roll:] + options[:roll]
            letter = chr(65 + (gold - roll) % len(options))
            sure = random.Random(index) if draw.random() < 0.9 else draw
            text = said(phrase, letter, rolled, sure)
            columns = dict(zip("ABCDE", rolled))
            told = {"index": index + roll * 1_000_000, "answer": letter, "prediction": text}
            yield {**told, **columns, "question": "Which?", "category": "x"}


# --- the published scorers ---


def functions(path: Path, *names: str, **given: object) -> dict:
    """Run only these functions and constants of a file, with what they use given."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = []
    for node in tree.body:
        assigned = [getattr(target, "id", "") for target in getattr(node, "targets", [])]
        if getattr(node, "name", None) in names or set(assigned) & set(names):
            kept.append(node)
    code = compile(ast.Module(kept, []), str(path), "exec")
    exec(code, given)
    return given


def judge_mathvista(folder: Path, records: list[dict]) -> None:
    import logging
    import re

    from Levenshtein import distance

    class NoModel(Exception):
        pass

    class Model:
        def get_response(self, user_prompt: str) -> str:
            raise NoModel

    known = {"re": re, "logging": logging, "distance": distance, "demo_prompt": ""}
    file = folder / "MathVista/evaluation/extract_answer.py"
    extract = functions(file, "extract_answer", "create_test_prompt", **known)["extract_answer"]
    file = folder / "MathVista/evaluation/calculate_score.py"
    score = functions(file, "get_most_similar", "normalize_extracted_answer", "safe_equal", **known)
    logging.info = lambda *_: asked.append(1)  # it logs where the model raises
    for record in records:
        asked = []
        extraction = record.get("extraction")
        if extraction is None:
            problem = record | {"query": "", "pid": record["id"]}
            extraction = extract(Model(), record["prediction"], problem)
        form = [record[name] for name in ("choices", "question_type", "answer_type", "precision")]
        said = score["normalize_extracted_answer"](extraction, *form)
        record["verdict"] = None if asked else int(score["safe_equal"](said, record["answer"]))


def judge_mmmu(folder: Path, records: list[dict]) -> None:
    sys.path.insert(0, str(folder / "MMMU/mmmu"))
    from utils import eval_utils  # it seeds its guesses with 42

    for record in records:
        kind, said = "open", record["prediction"]
        if record["choices"]:
            kind = "multiple-choice"
            options = {chr(65 + place): one for place, one in enumerate(record["choices"])}
            said = eval_utils.parse_multi_choice_response(said, list(options), options)
        else:
            said = eval_utils.parse_open_response(said)
        sample = {"id": "1", "answer": record["answer"], "parsed_pred": said, "question_type": kind}
        verdicts, _ = eval_utils.evaluate([sample])
        record["verdict"] = int(verdicts["1"] == "Correct")
    sys.path.pop(0)
    del sys.modules["utils"], sys.modules["utils.eval_utils"]


def judge_mmstar(folder: Path, records: list[dict]) -> None:
    from copy import deepcopy
    from types import SimpleNamespace

    import pandas

    file, rows, figures = folder / "MMStar/eval/vlmeval/evaluate/mmstar.py", [], {}
    known = {"deepcopy": deepcopy, "tqdm": lambda items: items, "load": lambda _: frame(rows)}
    known |= {"get_logger": lambda _: SimpleNamespace(info=lambda _: None)}
    known |= {"dump": lambda found, _: figures.update(found)}
    evaluate = functions(file, "MMStar_eval", **known)["MMStar_eval"]
    scores = next(node for node in ast.walk(ast.parse(file.read_text())) if type(node) is ast.Dict)
    categories = ast.literal_eval(scores)

    def frame(rows: list[dict]) -> "pandas.DataFrame":
        return pandas.DataFrame(rows)

    for record in records:  # it divides by the number in each category: one row in all of them
        rows.clear()
        for category, parts in categories.items():
            for part in parts:
                told = {"category": category, "l2_category": part, "bench": ""}
                rows.append({k: record[k] for k in ("answer", "prediction")} | told)
        evaluate("x.xlsx")
        record["verdict"] = round(figures["final score"] * 1500 / len(rows))


def judge_mmbench(folder: Path, records: list[dict]) -> None:
    import copy
    import os
    import re
    import string
    from types import SimpleNamespace

    import pandas

    root, quiet = folder / "VLMEvalKit/vlmeval", SimpleNamespace(info=lambda _: None)
    known = {"re": re, "os": os, "cp": copy, "string": string, "logger": quiet, "pd": pandas}
    names = ("_VERBOSE_ANSWER_RE", "can_infer_option", "can_infer_text", "can_infer")
    known = functions(root / "utils/matching_util.py", *names, **known)
    names = ("build_choices", "prefetch_answer", "prefetch_circular_group")
    known = functions(root / "dataset/utils/multiple_choice.py", *names, **known)
    rows = pandas.DataFrame(records)
    rows["GT"] = rows["answer"]
    for place, record in enumerate(records):
        said = known["prefetch_answer"](rows.iloc[place])
        record["verdict"] = int(said == record["answer"]) if said else None
        if record["index"] < 1_000_000:
            group = rows[rows["index"] % 1_000_000 == record["index"]]
            found = known["prefetch_circular_group"](group)
            record["circular"] = found["hit"] if found else 0  # "exact matching" has no LLM


def judge_mathvision(folder: Path, records: list[dict]) -> None:
    sys.path.insert(0, str(folder / "MATH-V/evaluation"))
    import utils

    questions = {str(place): record for place, record in enumerate(records)}
    lines = [{"id": place, "response": one["prediction"]} for place, one in questions.items()]
    known = {name: getattr(utils, name) for name in ("find_math_answer", "is_equal", "is_number")}
    known |= {"tqdm": lambda items, desc: items, "id_raw": questions}
    known |= {"load_jsonl": lambda _: lines, "save_jsonl": lambda *_, **__: None}
    functions(folder / "MATH-V/evaluation/evaluate.py", "evaluate", **known)["evaluate"]("", True)
    for line in lines:
        questions[line["id"]]["verdict"] = int(bool(line["correct"]))


JUDGES = {
    "mathvista": (mathvista_answers, judge_mathvista),
    "mmmu": (lambda: [*choice_answers(0), *open_answers()], judge_mmmu),
    "mmstar": (lambda: choice_answers(4), judge_mmstar),
    "mmbench": (mmbench_answers, judge_mmbench),
    "mathvision": (mathvision_answers, judge_mathvision),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--checkouts", type=Path, required=True, metavar="DIR", help="see above")
    p.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines")
    return p.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    lines = []
    for protocol, (make, judge) in JUDGES.items():
        records = list(make())
        if protocol != "mmbench":  # its rows belong together
            kept = sorted(random.Random(0).sample(range(len(records)), KEPT))
            records = [records[place] for place in kept]
        judge(args.checkouts, records)
        for record in records:
            told = {name: value for name, value in record.items() if value is not None}
            line = {"protocol": protocol} | told | {"verdict": record["verdict"]}
            lines.append(json.dumps(line, ensure_ascii=False))
        right = sum(bool(record["verdict"]) for record in records)
        print(f"{protocol}: {len(records)} answers, {right} right")
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(parse_args())
