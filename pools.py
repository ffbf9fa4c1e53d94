"""From scored samples to training rows: STaR, R3V, pairs. Text only."""

import dataclasses
import random
import re
from collections import Counter

from grading import metrics
from grading.answers import extract_answer, normalize_answer
from plumbing.errors import UserError
from tasks import prompts

BUILT = ("cot", "refine", "select")  # R3V's three tasks


# ------------------------------------------------------------------------------------------------------------- the pool


def sort_pool(lines):
    """{id: (right, wrong, unreadable)}, three lists of pool lines, each oldest to newest, ids in the order of their first line.

    Unreadable samples are kept apart: R3V and MPO take them for wrong, but a text without an answer teaches something else than a wrong answer does.
    """
    sorts = {}
    for line in lines:
        groups = sorts.setdefault(line["id"], ([], [], []))
        groups[2 if not line["readable"] else 0 if line["right"] else 1].append(line)
    return sorts


def has_reasoning(completion, least=20):
    """Whether a completion reasons before it answers: at least `least` characters of thinking.

    That is what stands inside the think tags, and after them or without them before the first `<answer>` or `Answer:` (all of a text that has none of these). Answering
    first and explaining later is no reasoning. R3V's Qwen2-VL code asks for more than 50 characters that do not begin with "Answer"; InternVL's for 20 of thinking.
    """
    thinking, _, rest = completion.rpartition("</think>")
    return (
        len(
            (
                thinking.replace("<think>", "") + re.split("<answer>|Answer:", rest, maxsplit=1)[0]
            ).strip()
        )
        >= least
    )


def usable(lines, least=20):
    """The lines fit to be imitated or shown as candidates: they reason, and came to their end. What was cut at the length limit would be imitated with an end-of-turn
    token in the middle of its sentence."""
    return [
        line
        for line in lines
        if line["finish"] != "length" and has_reasoning(line["completion"], least)
    ]


# ---------------------------------------------------------------------------- R3V (arXiv:2411.00855): solve, refine, select


def self_cot(right):
    """Self-CoT, L_SFT: the newest right sample, or None."""
    return right[-1] if right else None


def self_refine(right, wrong):
    """Self-refine, L_REF: (newest wrong, newest right), the first for the prompt and the second for the target; None if there are not both."""
    return (wrong[-1], right[-1]) if right and wrong else None


def self_select_sets(right, wrong, sizes=(3,), rng=None, choices=None, per_size=2):
    """Self-select, L_SEL: sets of candidates of one question, at least one of them right and one wrong.

    Size 3 is R3V's: {T[-1], T[-2], F[-1]}, kind "2+1", and {T[-1], F[-1], F[-2]}, kind "1+2", of T right and F wrong, as far as there are enough. Other sizes n
    (2 to 6, so that more candidates than in training are no surprise at test time; sizes=(2, 3, 4, 5, 6)) get `per_size` sets each: the number of right ones is uniform
    over what can be filled, R3V's 1 to min(|T|, n - 1), and `rng` draws which ones. Different from the release, at any size:
    - candidates differ as texts: of equal ones only the newest counts. Twice the same text, common at low temperature, gives the answer away or wastes a place;
    - the right ones give the same answer as the newest of them (normalize_answer, with `choices`): the release checks this only in its variant for other sizes.
    Returns [{"right": lines, "wrong": lines, "kind": "2+1"}, ...], lines oldest to newest; [] if all are right or all are wrong.
    """
    right, wrong = distinct(right), distinct(wrong)
    right = [
        line
        for line in right
        if normalize_answer(line["answer"], choices)
        == normalize_answer(right[-1]["answer"], choices)
    ]
    sets = []
    for n in sizes:
        if n < 2:
            raise ValueError(f"a set to select from has at least 2 candidates, got size {n}")
        fewest, most = max(1, n - len(wrong)), min(len(right), n - 1)  # right ones
        if n == 3:
            sets += [(right[-k:], wrong[k - n :]) for k in (2, 1) if fewest <= k <= most]
        elif fewest <= most:
            for _ in range(per_size):
                k = rng.randint(fewest, most)
                one = tuple(
                    [lines[i] for i in sorted(rng.sample(range(len(lines)), m))]
                    for lines, m in ((right, k), (wrong, n - k))
                )
                sets += [one] if one not in sets else []
    return [
        {"right": some, "wrong": others, "kind": f"{len(some)}+{len(others)}"}
        for some, others in sets
    ]


def distinct(lines):
    """The lines without those whose text a newer one repeats."""
    newest = {line["completion"].strip(): i for i, line in enumerate(lines)}
    return [line for i, line in enumerate(lines) if newest[line["completion"].strip()] == i]


def balance_kinds(sets, rng):
    """As many sets with the right candidates in the majority as in the minority, within each size: (what is kept, in order; number dropped, drawn by rng).

    Of "2+1" sets alone a model learns to take the majority of the answers shown, which needs no looking. Sets with as many right as wrong ones all stay.
    """
    groups = {}
    for i, one in enumerate(sets):
        balance = len(one["right"]) - len(one["wrong"])
        groups.setdefault((len(one["right"]) + len(one["wrong"]), abs(balance) > 0), ([], []))[
            balance > 0
        ].append(i)
    dropped = set()
    for (_, uneven), pair in groups.items():
        rare, common = sorted(pair, key=len)
        dropped |= set(rng.sample(common, len(common) - len(rare))) if uneven else set()
    return [one for i, one in enumerate(sets) if i not in dropped], len(dropped)


def balance_positions(sets, rng):
    """Puts the candidates of each set in an order: every position holds a right one equally often, to within one, in the sets of each kind.

    R3V shuffles and hopes; a preference for the first candidate then costs nothing in training. Here the right ones go where the fewest have been so far, ties drawn
    by rng, over the whole data set. Returns the sets with "candidates" (lines in order) and "right_at" (positions of the right ones, from 0).
    """
    placed, kinds, sizes = [None] * len(sets), {}, {}
    for i in sorted(
        range(len(sets)), key=lambda i: sets[i]["kind"]
    ):  # kind by kind, so that the second can even out the first over all sets of a size
        right, wrong = list(sets[i]["right"]), list(sets[i]["wrong"])
        n = len(right) + len(wrong)
        of_kind, of_size = kinds.setdefault(sets[i]["kind"], [0] * n), sizes.setdefault(n, [0] * n)
        right_at = sorted(
            sorted(range(n), key=lambda at: (of_kind[at], of_size[at], rng.random()))[: len(right)]
        )
        rng.shuffle(right)
        rng.shuffle(wrong)
        for at in right_at:
            of_kind[at] += 1
            of_size[at] += 1
        placed[i] = {
            **sets[i],
            "candidates": [(right if at in right_at else wrong).pop() for at in range(n)],
            "right_at": right_at,
        }
    return placed


# Templates whose select target is the bare answer in R3V's builders. TabMWP's is "Answer: B".
BARE_ANSWERS = ("chartqa", "clevr_math")


def final_answer(line, bare=False):
    """Return the target of a set: the answer alone, spelt as the sample did.

    "<answer> 3 </answer>" if the sample used tags; else "3" if bare, as R3V has it for ChartQA and
    CLEVR-Math, and "Answer: 3" otherwise, as it has it for TabMWP.
    """
    if "<answer>" in line["completion"]:
        return f"<answer> {line['answer']} </answer>"
    return line["answer"] if bare else f"Answer: {line['answer']}"


def build(
    examples,
    pool,
    prompt_of,
    tasks=BUILT,
    sizes=(3,),
    seed=0,
    balance=True,
    hinted=(),
    least=20,
    instruction=None,
    bare=False,
):
    """The training data of one R3V iteration from the whole pool: (items, counts for the log).

    examples: {id: Example}; prompt_of(example): the question as it is asked for reasoning (data.wording), its options in it, which the release's rebuilt prompts lost.
    tasks: which of BUILT; cot alone is R3V's STaR. sizes: of the sets to select from. balance=False leaves both kinds of sets as common as they are (R3V).
    hinted: pool lines sampled with the gold answer as a hint (hint_prompt), for STaR's rationalisation: used where nothing else is right. least: see has_reasoning.
    instruction: of data.select_prompt, data.SELECT.get(template). bare: see final_answer.
    An item is {"id", "task", "prompt": the whole user turn, "target": what to answer}, and of "select" also "candidates" (texts), "right_at" (positions from 0) and
    "kind". At most one cot and one refine item a question. All items of a task are together: shuffle before training.
    counts: questions (all_right, all_wrong, mixed, by all their samples; unreadable is not right); samples that are unreadable, cut, or without reasoning; items of each
    task and kind; select/surplus, sets dropped by balance_kinds; select/voted_right, items on which the majority of the candidates is right: what voting alone would get.
    Raises UserError if the pool has a sample of a question that examples lacks.
    """
    rng = random.Random(seed)
    counts = Counter(
        dict.fromkeys(
            [
                "questions",
                "all_right",
                "all_wrong",
                "mixed",
                "unreadable",
                "cut",
                "no_reasoning",
                "rationalised",
                *BUILT,
                "select/surplus",
                "select/voted_right",
            ],
            0,
        )
    )
    items, sets = {task: [] for task in BUILT}, []
    hints = {line["id"]: line for line in rationalised(hinted, least)}
    by_id = sort_pool(pool)
    for id in [*by_id, *(id for id in hints if id not in by_id)]:
        if id not in examples:
            raise UserError(
                f"the pool has samples of example {id!r}, which is not in the data: give the --data that they were sampled from, or another --output-dir"
            )
        everything = by_id.get(id, ([], [], []))
        right, wrong = (usable(lines, least) for lines in everything[:2])
        cut = sum(line["finish"] == "length" for line in everything[0] + everything[1])
        counts["questions"] += 1
        counts[
            "all_wrong"
            if not everything[0]
            else "mixed"
            if everything[1] or everything[2]
            else "all_right"
        ] += 1
        counts["unreadable"] += len(everything[2])
        counts["cut"] += cut
        counts["no_reasoning"] += (
            len(everything[0]) + len(everything[1]) - len(right) - len(wrong) - cut
        )
        prompt, newest, pair = prompt_of(examples[id]), self_cot(right), self_refine(right, wrong)
        if newest is None and id in hints:
            newest = hints[id]
            counts["rationalised"] += "cot" in tasks
        if newest:
            items["cot"].append(
                {"id": id, "task": "cot", "prompt": prompt, "target": newest["completion"].strip()}
            )
        if pair and "refine" in tasks:
            items["refine"].append(
                {
                    "id": id,
                    "task": "refine",
                    "prompt": prompts.refine_prompt(prompt, pair[0]["completion"].strip()),
                    "target": pair[1]["completion"].strip(),
                }
            )
        if "select" in tasks:
            sets += [
                {"id": id, **one}
                for one in self_select_sets(right, wrong, sizes, rng, examples[id].choices)
            ]
    if balance:
        sets, counts["select/surplus"] = balance_kinds(sets, rng)
    for one in balance_positions(sets, rng):
        example, candidates = (
            examples[one["id"]],
            [line["completion"].strip() for line in one["candidates"]],
        )
        vote = metrics.majority(
            [line["answer"] for line in one["candidates"]], example.choices, lambda answer: answer
        )
        counts["select/voted_right"] += any(
            line["right"] for line in one["candidates"] if line["answer"] == vote
        )
        counts[f"select/{one['kind']}"] += 1
        items["select"].append(
            {
                "id": one["id"],
                "task": "select",
                "prompt": prompts.select_prompt(prompt_of(example), candidates, instruction),
                "target": final_answer(one["right"][-1], bare),
                "candidates": candidates,
                "right_at": one["right_at"],
                "kind": one["kind"],
            }
        )
    built = [item for task in BUILT if task in tasks for item in items[task]]
    counts.update(item["task"] for item in built)
    return built, dict(counts)


# ------------------------------------------------------------------------------------- STaR (arXiv:2203.14465): rationalisation


def hint_prompt(prompt, answer):
    """The prompt with the gold answer as a hint: for sampling only, on questions nothing was right for. The training prompt is the one without."""
    return f"{prompt}\nHint: the answer is {answer}. Show step by step, from what the picture shows, how one comes to it, without a word about this hint."


def rationalised(lines, least=20):
    """The newest usable right sample of each question, of samples drawn with the hint. What speaks of the hint is left out: no hint will be there to speak of."""
    right = [
        line
        for line in usable(lines, least)
        if line["right"] and not re.search(r"\bhint", line["completion"], re.IGNORECASE)
    ]
    return list({line["id"]: line for line in right}.values())


# --------------------------------------------------------------------------------- MPO (arXiv:2411.10442): pairs by correctness

# How to ask for reasoning when sampling, by kind of picture: appended to the prompt, so that samples differ in more than luck. A pair's training prompt is the plain one.
INSTRUCTIONS = {
    "plain": "",
    "background": "First recall the definitions, rules and facts that the question calls for, then reason from them step by step.",
    "visual": "First describe what the picture shows that bears on the question, its text, numbers and layout, then reason from it step by step.",
    "grounded": "First name each object that the question is about and say where in the picture it is, then reason from these step by step.",
}
INSTRUCTION_OF = {
    "science": "background", "geometry": "background", "math": "background",
    "chart": "visual", "table": "visual", "document": "visual", "ocr": "visual",
    "general": "grounded", "count": "grounded", "spatial": "grounded", "ground": "grounded",
    "mathematics": "background", "relation": "grounded", "depth": "grounded", "distance": "grounded", "commonsense": "grounded",      # M3CoT's and CV-Bench's words
}  # fmt: skip


def instructed(prompt, kind):
    """The prompt to sample with, for a kind of picture or task (INSTRUCTION_OF, upper or lower case; plain for any other, None included). Tags and format are left to the prompt."""
    words = INSTRUCTIONS[INSTRUCTION_OF.get(str(kind).lower(), "plain")]
    return f"{prompt}\n{words}" if words else prompt


def entails(wrong, right, choices=None):
    """Whether the wrong answer says the right one and more, "12 cm" and "12": the pair would punish what it should reward.

    The words of the right answer stand side by side in the wrong one, each by normalize_answer. MPO's code looks for characters: it drops the right "A" beside "B. Paris",
    "1" beside "12", and, since it writes 'None' where there is no answer, "No" beside every unreadable text. Two different options (`choices`, or letters) never entail,
    nor do lists of boxes: one box too many is a mistake.
    """
    forms = {normalize_answer(answer, choices) for answer in (right, wrong)}
    if "[{" in right or len(forms) == 2 and all(re.fullmatch("[a-z]", form) for form in forms):
        return False
    pieces = (
        [piece.lstrip("([\"'").rstrip(".,;:!?)]\"'") for piece in answer.split()]
        for answer in (right, wrong)
    )
    words, more = ([normalize_answer(piece) for piece in some if piece] for some in pieces)
    return bool(words) and any(
        more[i : i + len(words)] == words for i in range(len(more) - len(words) + 1)
    )


def correctness_pairs(right, wrong, unreadable, rng, most=15, choices=None):
    """MPO's pairs of one question: ([(chosen, rejected), ...], the same with an unreadable rejected one), of pool lines, at most `most` each, drawn by rng.

    All right x wrong but those whose answers entail (see `entails`), and all right x unreadable, kept apart, because they teach the format. Equal texts count once, and a
    right sample that was cut is not chosen. Lengths are not matched, as in the released code. Both are empty if nothing is right.
    """
    right = [line for line in distinct(right) if line["finish"] != "length"]
    pairs = [
        (a, b)
        for a in right
        for b in distinct(wrong)
        if not entails(b["answer"], a["answer"], choices)
    ]
    format_pairs = [(a, b) for a in right for b in distinct(unreadable)]
    return tuple(
        some if len(some) <= most else [some[i] for i in sorted(rng.sample(range(len(some)), most))]
        for some in (pairs, format_pairs)
    )


# ------------------------------------------------------------- MPO's Dropout Next-Token Prediction: pairs without a gold answer


def truncate_words(text, ratio=0.5):
    """The first floor(n * ratio) of the n words of a response, split at single spaces, so that it is exactly how the text begins; no space at its end."""
    words = text.split(" ")
    return " ".join(words[: int(len(words) * ratio + 1e-9)])  # 0.29 * 100 is a little less than 29


def blind(example):
    """The example without its images, nor a placeholder for them: what the continuation is made up from."""
    return dataclasses.replace(
        example, images=[], question=example.question.replace("<image>", "").strip()
    )


def ntp_pair(chosen, prefix, continuation, choices=None, read=extract_answer):
    """(chosen, rejected): a response to the picture, and its beginning (truncate_words) as the same model went on without the picture. None if that tells nothing: it went
    on with nothing, with the same text, or to the same answer.

    The two share the words of the prefix, which ends without a space while a continuation may or may not begin with one: exactly one goes between.
    """
    assert chosen.startswith(prefix), f"the prefix {prefix[-40:]!r} is not how the response begins"
    rejected = f"{prefix} {continuation.strip()}" if prefix else continuation.strip()
    answers = [read(text) for text in (chosen, rejected)]
    same = (
        None not in answers and len({normalize_answer(answer, choices) for answer in answers}) == 1
    )
    return (
        None
        if same or not continuation.strip() or rejected.split() == chosen.split()
        else (chosen, rejected)
    )


def pool_shares(args):
    """Samples of a question in each of POOLS."""
    K = args.num_generations
    return [K, 0] if args.instructions == "plain" else [K - K // 2, K // 2]


def shares_of(pool):
    """{"right": share, "wrong": ..., "unreadable": ...} of pool lines; {} of none."""
    return (
        {
            kind: sum(len(groups[n]) for groups in sort_pool(pool).values()) / len(pool)
            for n, kind in enumerate(("right", "wrong", "unreadable"))
        }
        if pool
        else {}
    )
