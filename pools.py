"""From scored samples to training rows: STaR, R3V, preference pairs. Text only.

A pool is a list of lines, one sample each, oldest first:
    {"id": example id, "iteration": 1, "sample": 0, "completion": text, "answer": "3" or None,
     "right": True, "readable": True, "tokens": 57, "finish": "stop" or "length"}
A sample is wrong if its answer is not the gold one, and unreadable if no answer could be read.
No builder writes to its arguments, or draws but from the random.Random or the seed it is given.

A method's builder makes its rows (METHODS in selftrain.py):
    build_items    what to imitate, for star and r3v
    build_pairs    what to prefer to what, for dpo and mpo
"""

import dataclasses
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from grading import metrics
from grading.answers import extract_answer, normalize_answer
from plumbing.errors import UserError
from tasks import prompts
from tasks.example import Example, Pair, Turn

BUILT = ("cot", "refine", "select")  # R3V's three tasks
LEAST = 20  # characters of thinking in a text that reasons

# --- the pool ---


def sort_pool(lines: Iterable[dict]) -> dict[str, tuple[list, list, list]]:
    """Sort pool lines by question: {id: (right, wrong, unreadable)}, each oldest to newest.

    Ids come in the order of their first line.
    """
    # R3V and MPO count unreadable as wrong; but it teaches something else than a wrong answer.
    sorts = {}
    for line in lines:
        right, wrong, unreadable = sorts.setdefault(line["id"], ([], [], []))
        if not line["readable"]:
            unreadable.append(line)
        elif line["right"]:
            right.append(line)
        else:
            wrong.append(line)
    return sorts


def shares_of(pool: Sequence[dict]) -> dict[str, float]:
    """Return the shares of right, wrong and unreadable lines; {} for an empty pool."""
    if not pool:
        return {}
    sorts = sort_pool(pool).values()
    return {
        kind: sum(len(groups[n]) for groups in sorts) / len(pool)
        for n, kind in enumerate(("right", "wrong", "unreadable"))
    }


def count_questions(sorts: dict[str, tuple], least: int = LEAST) -> Counter:
    """Count the questions by what their samples are, and the samples of no use.

    sorts: of `sort_pool`. Unreadable is not right. cut, no_reasoning: of the readable samples.
    """
    names = "questions all_right all_wrong mixed unreadable cut no_reasoning".split()
    counts = Counter(dict.fromkeys(names, 0))
    for right, wrong, unreadable in sorts.values():
        if not right:
            state = "all_wrong"
        elif wrong or unreadable:
            state = "mixed"
        else:
            state = "all_right"
        readable = right + wrong
        cut = sum(line["finish"] == "length" for line in readable)
        counts["questions"] += 1
        counts[state] += 1
        counts["unreadable"] += len(unreadable)
        counts["cut"] += cut
        counts["no_reasoning"] += len(readable) - len(usable(readable, least)) - cut
    return counts


def has_reasoning(completion: str, least: int = LEAST) -> bool:
    """Tell whether a completion has at least `least` characters of thinking before its answer.

    Thinking is what the think tags hold, and what stands before `<answer>` or `Answer:`.
    """
    # R3V's Qwen2-VL code wants over 50 characters not beginning with "Answer", InternVL's 20.
    thinking, _, rest = completion.rpartition("</think>")
    before_answer = re.split("<answer>|Answer:", rest, maxsplit=1)[0]
    return len((thinking.replace("<think>", "") + before_answer).strip()) >= least


def usable(lines: Iterable[dict], least: int = LEAST) -> list[dict]:
    """Keep the lines fit to be imitated or shown: they reason, and were not cut."""
    # A cut text would be imitated with an end-of-turn token in the middle of a sentence.
    return [
        line
        for line in lines
        if line["finish"] != "length" and has_reasoning(line["completion"], least)
    ]


def distinct(lines: Sequence[dict]) -> list[dict]:
    """Drop the lines whose text a newer line repeats."""
    newest = {line["completion"].strip(): i for i, line in enumerate(lines)}
    return [line for i, line in enumerate(lines) if newest[line["completion"].strip()] == i]


# --- R3V (arXiv:2411.00855): solve, refine, select ---


def self_cot(right: list[dict]) -> dict | None:
    """Return what self-CoT (L_SFT) imitates: the newest right sample."""
    return right[-1] if right else None


def self_refine(right: list[dict], wrong: list[dict]) -> tuple[dict, dict] | None:
    """Return (newest wrong, newest right): prompt and target of self-refine (L_REF)."""
    return (wrong[-1], right[-1]) if right and wrong else None


def self_select_sets(
    right: list[dict],
    wrong: list[dict],
    sizes: Sequence[int] = (3,),
    rng: random.Random | None = None,
    choices: list | None = None,
    per_size: int = 2,
) -> list[dict]:
    """Make candidate sets of one question for self-select (L_SEL): some right, some wrong.

    Size 3 is R3V's: {T[-1], T[-2], F[-1]}, kind "2+1", and {T[-1], F[-1], F[-2]}, kind "1+2".
    Other sizes get `per_size` sets: how many are right is uniform, and `rng` draws which.
    Returns [{"right": lines, "wrong": lines, "kind": "2+1"}, ...], lines oldest to newest.
    """
    # Equal texts count once, unlike in R3V's release: they give the answer away or waste a place.
    right, wrong = distinct(right), distinct(wrong)
    # Right candidates agree with the newest; the release checks this only for other sizes.
    right = [line for line in right if same_answer(line["answer"], right[-1]["answer"], choices)]
    sets = []
    for n in sizes:
        if n < 2:
            raise ValueError(f"a set to select from has at least 2 candidates, got size {n}")
        fewest = max(1, n - len(wrong))  # right ones
        most = min(len(right), n - 1)
        if n == 3:
            sets += [(right[-k:], wrong[k - n :]) for k in (2, 1) if fewest <= k <= most]
        elif fewest <= most:
            for _ in range(per_size):
                k = rng.randint(fewest, most)
                drawn = draw_lines(right, k, rng), draw_lines(wrong, n - k, rng)
                if drawn not in sets:
                    sets.append(drawn)
    return [{"right": good, "wrong": bad, "kind": f"{len(good)}+{len(bad)}"} for good, bad in sets]


def draw_lines(lines: list[dict], number: int, rng: random.Random) -> list[dict]:
    """Draw `number` of the lines, and keep their order."""
    return [lines[i] for i in sorted(rng.sample(range(len(lines)), number))]


def same_answer(one: str, other: str, choices: list | None = None) -> bool:
    """Tell whether two answers have one normal form."""
    return normalize_answer(one, choices) == normalize_answer(other, choices)


def balance_kinds(sets: list[dict], rng: random.Random) -> tuple[list[dict], int]:
    """Drop random sets until, for each size, right majorities are as common as wrong ones.

    Sets with as many right as wrong candidates all stay. Returns (sets in order, number dropped).
    """
    # From "2+1" sets alone a model learns to follow the majority, which needs no looking.
    groups = {}
    for i, one in enumerate(sets):
        surplus = len(one["right"]) - len(one["wrong"])
        size = len(one["right"]) + len(one["wrong"])
        groups.setdefault((size, surplus != 0), ([], []))[surplus > 0].append(i)
    dropped = set()
    for (_, uneven), pair in groups.items():
        rare, common = sorted(pair, key=len)
        if uneven:
            dropped |= set(rng.sample(common, len(common) - len(rare)))
    return [one for i, one in enumerate(sets) if i not in dropped], len(dropped)


def balance_positions(sets: list[dict], rng: random.Random) -> list[dict]:
    """Order the candidates of each set: every position is right equally often, to within one.

    In the sets of each kind, and of each size. Ties are drawn by rng.
    Returns the sets with "candidates" (lines in order) and "right_at" (positions, from 0).
    """
    # R3V shuffles; then preferring the first candidate costs nothing in training.
    placed, of_kinds, of_sizes = [None] * len(sets), {}, {}
    # Kind by kind: a size's second kind can then even out what the first left uneven.
    for i in sorted(range(len(sets)), key=lambda i: sets[i]["kind"]):
        right, wrong = list(sets[i]["right"]), list(sets[i]["wrong"])
        n = len(right) + len(wrong)
        of_kind = of_kinds.setdefault(sets[i]["kind"], [0] * n)
        of_size = of_sizes.setdefault(n, [0] * n)
        fewest = sorted((of_kind[at], of_size[at], rng.random(), at) for at in range(n))
        right_at = sorted(at for *_, at in fewest[: len(right)])
        rng.shuffle(right)
        rng.shuffle(wrong)
        for at in right_at:
            of_kind[at] += 1
            of_size[at] += 1
        candidates = [(right if at in right_at else wrong).pop() for at in range(n)]
        placed[i] = {**sets[i], "candidates": candidates, "right_at": right_at}
    return placed


# Templates whose select target is the bare answer in R3V's builders. TabMWP's is "Answer: B".
BARE_ANSWERS = ("chartqa", "clevr_math")


def final_answer(line: dict, bare: bool = False) -> str:
    """Return the target of a set: the answer alone, spelt as the sample did.

    "<answer> 3 </answer>" if the sample used tags; else "3" if bare, as R3V has it for ChartQA and
    CLEVR-Math, and "Answer: 3" otherwise, as it has it for TabMWP.
    """
    if "<answer>" in line["completion"]:
        return f"<answer> {line['answer']} </answer>"
    return line["answer"] if bare else f"Answer: {line['answer']}"


def build_items(
    examples: dict[str, Example],
    pool: list[dict],
    prompt_of: Callable[[Example], str],
    tasks: Sequence[str] = BUILT,
    sizes: Sequence[int] = (3,),
    seed: int = 0,
    balance: bool = True,
    hinted: Iterable[dict] = (),
    least: int = LEAST,
    instruction: str | None = None,
    bare: bool = False,
) -> tuple[list[dict], dict[str, int]]:
    """Build what one R3V iteration imitates, from the whole pool; ("cot",) alone is STaR.

    prompt_of: an example's question as asked for reasoning. sizes: of the sets to select from.
    hinted: pool lines sampled with `hint_prompt`, used where nothing else is right.
    instruction, bare: see prompts.select_prompt and `final_answer`.
    An item is {"id", "task", "prompt": the user turn, "target"}; see `select_items` for more.
    Returns (items, task by task: shuffle before training; counts, as docs/metrics.md has them).
    Raises UserError for a sample of a question that `examples` lacks.
    """
    rng = random.Random(seed)
    hints = {line["id"]: line for line in rationalised(hinted, least)}
    sorts = sort_pool(pool)
    sorts |= {id: ([], [], []) for id in hints if id not in sorts}
    unknown = next((id for id in sorts if id not in examples), None)
    if unknown is not None:
        raise UserError(
            f"the pool has samples of example {unknown!r}, which is not in the data: give the "
            "--data that they were sampled from, or another --output-dir"
        )
    counts = count_questions(sorts, least)
    counts.update(dict.fromkeys(("rationalised", *BUILT, "select/surplus"), 0))
    cot, refine, sets = [], [], []
    for id, (right, wrong, _) in sorts.items():
        right, wrong = usable(right, least), usable(wrong, least)
        prompt = prompt_of(examples[id])
        newest, pair = self_cot(right), self_refine(right, wrong)
        if newest is None and id in hints:
            newest = hints[id]
            counts["rationalised"] += "cot" in tasks
        if newest:
            cot.append(item_of(id, "cot", prompt, newest["completion"].strip()))
        if pair:
            failed, corrected = (line["completion"].strip() for line in pair)
            refine.append(item_of(id, "refine", prompts.refine_prompt(prompt, failed), corrected))
        if "select" in tasks:
            found = self_select_sets(right, wrong, sizes, rng, examples[id].choices)
            sets += [{"id": id, **one} for one in found]
    if balance:
        sets, counts["select/surplus"] = balance_kinds(sets, rng)
    placed = balance_positions(sets, rng)
    select, of_sets = select_items(examples, placed, prompt_of, instruction, bare)
    counts.update(of_sets)
    items = {"cot": cot, "refine": refine, "select": select}
    built = [item for task in BUILT if task in tasks for item in items[task]]
    counts.update(item["task"] for item in built)
    return built, dict(counts)


def item_of(id: str, task: str, prompt: str, target: str) -> dict:
    """Make a training item of a whole user turn and what to answer."""
    return {"id": id, "task": task, "prompt": prompt, "target": target}


def select_items(
    examples: dict[str, Example],
    sets: list[dict],
    prompt_of: Callable[[Example], str],
    instruction: str | None,
    bare: bool,
) -> tuple[list[dict], Counter]:
    """Make items of placed candidate sets, and count them by kind.

    An item also has "candidates" (texts), "right_at" (positions, from 0) and "kind".
    The count select/voted_right: the sets in which the majority of the candidates is right.
    """
    items, counts = [], Counter({"select/voted_right": 0})
    for one in sets:
        example, lines = examples[one["id"]], one["candidates"]
        candidates = [line["completion"].strip() for line in lines]
        given = [line["answer"] for line in lines]
        vote = metrics.majority(given, example.choices, lambda answer: answer)
        voted = [line["right"] for line in lines if line["answer"] == vote]
        counts["select/voted_right"] += any(voted)
        counts[f"select/{one['kind']}"] += 1
        prompt = prompts.select_prompt(prompt_of(example), candidates, instruction)
        item = item_of(one["id"], "select", prompt, final_answer(one["right"][-1], bare))
        shown = {"candidates": candidates, "right_at": one["right_at"], "kind": one["kind"]}
        items.append({**item, **shown})
    return items, counts


# --- STaR (arXiv:2203.14465): rationalisation ---


def hint_prompt(prompt: str, answer: str) -> str:
    """Add the gold answer as a hint: for sampling only, where nothing was right."""
    return (
        f"{prompt}\nHint: the answer is {prompts.quoted(answer)}. Show step by step, from what the "
        "picture shows, how one comes to it, without a word about this hint."
    )


def rationalised(lines: Iterable[dict], least: int = LEAST) -> list[dict]:
    """Return the newest usable right sample of each question that was asked with the hint."""
    right = [
        line
        for line in usable(lines, least)
        # The training prompt has no hint to speak of.
        if line["right"] and not re.search(r"\bhint", line["completion"], re.IGNORECASE)
    ]
    return list({line["id"]: line for line in right}.values())


# --- MPO (arXiv:2411.10442): pairs by correctness ---

# How to ask for reasoning when sampling, by kind of picture: samples then differ more.
# A pair's training prompt is the plain one.
INSTRUCTIONS = {
    "plain": "",
    "background": "First recall the definitions, rules and facts that the question calls for, "
    "then reason from them step by step.",
    "visual": "First describe what the picture shows that bears on the question, its text, "
    "numbers and layout, then reason from it step by step.",
    "grounded": "First name each object that the question is about and say where in the picture "
    "it is, then reason from these step by step.",
}
INSTRUCTION_OF = {
    "science": "background", "geometry": "background", "math": "background",
    "chart": "visual", "table": "visual", "document": "visual", "ocr": "visual",
    "general": "grounded", "count": "grounded", "spatial": "grounded", "ground": "grounded",
    # M3CoT's and CV-Bench's words
    "mathematics": "background", "commonsense": "grounded",
    "relation": "grounded", "depth": "grounded", "distance": "grounded",
}  # fmt: skip


def instructed(prompt: str, kind: str | None) -> str:
    """Add the instruction for a kind of picture or task to a prompt.

    kind: as in INSTRUCTION_OF, in any case; another gets none.
    """
    words = INSTRUCTIONS[INSTRUCTION_OF.get(str(kind).lower(), "plain")]
    return f"{prompt}\n{words}" if words else prompt


def sample_shares(num_generations: int, instructions: str) -> tuple[int, int]:
    """Return how many samples of a question are asked for plainly, and how many instructed."""
    if instructions == "plain":
        return num_generations, 0
    return num_generations - num_generations // 2, num_generations // 2


def entails(wrong: str, right: str, choices: list | None = None) -> bool:
    """Tell whether the wrong answer says the right one and more: "12 cm" and "12".

    The words of the right answer stand side by side in the wrong one, each by normalize_answer.
    Two different options never entail, nor do lists of boxes: one box too many is a mistake.
    """
    # Such a pair would punish what it should reward. MPO's code compares characters instead.
    forms = {normalize_answer(answer, choices) for answer in (right, wrong)}
    letters = len(forms) == 2 and all(re.fullmatch("[a-z]", form) for form in forms)
    if "[{" in right or letters:
        return False
    words, more = normal_words(right), normal_words(wrong)
    starts = range(len(more) - len(words) + 1)
    return bool(words) and any(more[i : i + len(words)] == words for i in starts)


def normal_words(answer: str) -> list[str]:
    """Split an answer into words without brackets and punctuation, each in its normal form."""
    words = [word.lstrip("([\"'").rstrip(".,;:!?)]\"'") for word in answer.split()]
    return [normalize_answer(word) for word in words if word]


def correctness_pairs(
    right: list[dict],
    wrong: list[dict],
    unreadable: list[dict],
    rng: random.Random,
    most: int = 15,
    choices: list | None = None,
) -> tuple[list, list]:
    """Pair a question's right samples with wrong and with unreadable ones: MPO's pairs.

    Equal texts count once; a cut sample is not chosen; answers that entail are left out.
    Lengths are not matched, as in the released code.
    Returns two lists of (chosen, rejected) lines, at most `most` each, drawn by rng.
    """
    right = [line for line in distinct(right) if line["finish"] != "length"]
    product = [(a, b) for a in right for b in distinct(wrong)]
    pairs = [(a, b) for a, b in product if not entails(b["answer"], a["answer"], choices)]
    # Apart, because these teach the format.
    format_pairs = [(a, b) for a in right for b in distinct(unreadable)]
    return at_most(pairs, most, rng), at_most(format_pairs, most, rng)


def at_most(pairs: list, most: int, rng: random.Random) -> list:
    """Draw `most` of the pairs, in order, if there are more."""
    return pairs if len(pairs) <= most else draw_lines(pairs, most, rng)


def build_pairs(
    examples: dict[str, Example], pool: list[dict], seed: int = 0, most: int = 15
) -> list[Pair]:
    """Build the pairs of one iteration by correctness, from its pool.

    kind: "answer" where the rejected sample is wrong, "format" where it is unreadable.
    """
    rng, pairs = random.Random(seed), []
    for id, (right, wrong, unreadable) in sort_pool(pool).items():
        example = examples[id]
        found = correctness_pairs(right, wrong, unreadable, rng, most, example.choices)
        for kind, lines in zip(("answer", "format"), found):
            pairs += [
                Pair(example, chosen["completion"].strip(), rejected["completion"].strip(), kind)
                for chosen, rejected in lines
            ]
    return pairs


# --- MPO's Dropout Next-Token Prediction: pairs without a gold answer ---


def to_continue(pool: list[dict]) -> list[dict]:
    """Choose what DropoutNTP continues: the newest uncut right sample of each question."""
    ends = [usable(right, 0) for right, _, _ in sort_pool(pool).values()]
    return [lines[-1] for lines in ends if lines]


def truncate_words(text: str, ratio: float = 0.5) -> str:
    """Return the first floor(n * ratio) of the n words of a response.

    Words are split at single spaces; no space at the end.
    """
    words = text.split(" ")
    return " ".join(words[: int(len(words) * ratio + 1e-9)])  # 0.29 * 100 is below 29 in floats


def blind(example: Example) -> Example:
    """Return the example without its images and their placeholders."""
    history = []
    for turn in example.history:
        text = without_marks(turn.text) if turn.role == "user" else turn.text
        history.append(Turn(turn.role, text))
    question = without_marks(example.question)
    return dataclasses.replace(example, images=[], question=question, history=history)


def without_marks(text: str) -> str:
    """Drop the places of pictures from a text."""
    return text.replace(prompts.MARK, "").strip()


def ntp_pair(
    chosen: str,
    prefix: str,
    continuation: str,
    choices: list | None = None,
    read: Callable[[str], str | None] = extract_answer,
) -> tuple[str, str] | None:
    """Pair a response with its beginning as the model continued it without the picture.

    prefix: of `truncate_words`. None if the continuation is empty, or has the same text or answer.
    """
    assert chosen.startswith(prefix), f"the prefix {prefix[-40:]!r} is not how the response begins"
    # The prefix ends without a space, and a continuation may begin with one: exactly one goes here.
    rejected = f"{prefix} {continuation.strip()}" if prefix else continuation.strip()
    if not continuation.strip() or rejected.split() == chosen.split():
        return None
    answers = [read(text) for text in (chosen, rejected)]
    if None not in answers and same_answer(*answers, choices):
        return None
    return chosen, rejected


def continuation_pairs(
    examples: dict[str, Example],
    chosen: list[dict],
    ends: list[dict],
    read: Callable[[str], str | None],
) -> list[Pair]:
    """Make the pairs of DropoutNTP. ends: how each chosen line went on without the picture."""
    pairs = []
    for line, end in zip(chosen, ends):
        example, text = examples[line["id"]], line["completion"].strip()
        pair = ntp_pair(text, end["prefix"], end["continuation"], example.choices, read)
        if pair:
            pairs.append(Pair(example, pair[0].strip(), pair[1].strip(), "dropout_ntp"))
    return pairs
