"""Mistakes in labs 4 to 6, as lab_mistakes.py has them."""

from lab_mistakes import of

ORDER = "def in_random_order(right, wrong, rng):\n    answers = [*right, *wrong]\n"
SHUFFLED = ORDER + "    rng.shuffle(answers)\n    return answers\n"
BALANCED = (
    "def balance(sets, rng):\n"
    "    kinds = [[s for s in sets if len(s['right']) == k] for k in (1, 2)]\n"
    "    fewer = min(map(len, kinds))\n"
)
DRAWN = BALANCED + "    return rng.sample(kinds[0], fewer) + rng.sample(kinds[1], fewer)\n"
VOTE = (
    "def vote(answers):\n"
    "    read = [a for a in answers if a is not None]\n"
    "    return max(read, key=read.count, default=None)\n"
)
CHOOSE = "def choose(selection, answers):\n"
DPO = "def dpo(chosen, rejected, ref_chosen, ref_rejected, beta):\n"
MARGIN = DPO + "    x = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))\n"
QUALITY = (
    "def quality(chosen, rejected, ref_chosen, ref_rejected, beta):\n"
    "    good, bad = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)\n"
    "    return -F.logsigmoid(good) - F.logsigmoid(-bad)\n"
)
GENERATION = "def generation(chosen, tokens):\n    return -chosen / tokens\n"
MPO = "def mpo(chosen, rejected, ref_chosen, ref_rejected, tokens, beta):\n"
SWAPPED = "def swapped(examples):\n"
ABOUT = "def about_the_picture(question, picture):\n"
TABLE = "def table_of(examples):\n"
PRINT = "def fingerprint(picture):\n"
TINY = "    tiny = torch.tensor(numpy.array(picture.convert('L').resize((9, 8)))).float()\n"
SAME = (
    "def same_colours(one, other):\n"
    "    def fields(picture):\n"
    "        small = picture.convert('RGB').resize((28, 28), Image.BOX)\n"
    "        return torch.tensor(numpy.array(small)).float()\n"
    "    difference = fields(one) - fields(other)\n"
)
SPLIT = "def split_score(marks, leaked):\n    others = {*range(len(marks))} - leaked\n"


MISTAKES = [
    *of(
        "04_mistakes",
        "lessons",
        ("def lessons(question, right, wrong):\n    return question, right", "the keys"),
        (
            "def lessons(question, right, wrong):\n"
            "    return {'cot': (question, right),\n"
            "            'refine': (prompts.refine_prompt(question, right), wrong)}",
            "The target of refine is not the right answer",
        ),
        (
            "def lessons(question, right, wrong):\n"
            "    return {'cot': (question, right),\n"
            "            'refine': (prompts.refine_prompt(question, right), right)}",
            "The model would only learn to copy it",
        ),
    ),
    *of(
        "04_mistakes",
        "sets",
        ("def balance(sets, rng):\n    return sets\n" + SHUFFLED, "counts votes"),
        (
            BALANCED + "    return kinds[0][:fewer] + kinds[1][:fewer]\n" + SHUFFLED,
            "always drop the same sets",
        ),
        (BALANCED + "    return kinds[0][:1] + kinds[1][:1]\n" + SHUFFLED, "can be kept"),
        (DRAWN + ORDER + "    return answers", "about 100 each"),
        (DRAWN + ORDER + "    return rng.shuffle(answers)", "returns nothing"),
        (BALANCED + "    return kinds[0][:fewer], kinds[1][:fewer]\n" + SHUFFLED, "two + one"),
        (
            BALANCED
            + "    return rng.choices(kinds[0], k=fewer) + kinds[0][:1] + kinds[1][:fewer]\n"
            + SHUFFLED,
            "You draw a set twice",
        ),
        (
            DRAWN + "def in_random_order(right, wrong, rng):\n"
            "    right += wrong\n    rng.shuffle(right)\n    return right\n",
            "You change the lists",
        ),
    ),
    *of(
        "04_mistakes",
        "choices",
        (
            "def vote(answers):\n    return max(answers, key=answers.count)\n"
            + CHOOSE
            + "    return vote(answers)",
            "leave it out before you count",
        ),
        (
            "def vote(answers):\n"
            "    read = sorted(a for a in answers if a is not None)\n"
            "    return max(read, key=read.count, default=None)\n"
            + CHOOSE
            + "    return vote(answers)",
            "3 came first",
        ),
        (VOTE + CHOOSE + "    return selection or vote(answers)", "7 is none of the answers"),
        (VOTE + CHOOSE + "    return vote(answers)", "against the majority"),
        (
            VOTE.replace(", default=None", "") + CHOOSE + "    return vote(answers)",
            "`vote` stops with ValueError",
        ),
        (
            VOTE.replace("default=None", "default='?'") + CHOOSE + "    return vote(answers)",
            "Nothing can be read",
        ),
        (
            VOTE + CHOOSE + "    if selection in answers:\n        return selection",
            "should be '2', not None",
        ),
        (
            VOTE + CHOOSE + "    return selection if selection in answers else vote(answers)",
            "None is in this list",
        ),
    ),
    *of(
        "05_preferences",
        "dpo",
        (MARGIN + "    return F.logsigmoid(x)", "The sign is wrong"),
        (MARGIN + "    return -F.logsigmoid(-x)", "You prefer the rejected answer"),
        (MARGIN + "    return -torch.sigmoid(x).log()", "rounds to log 0"),
        (MARGIN + "    return -F.logsigmoid(x).mean()", "do not take the mean"),
        (MARGIN + "    return -F.logsigmoid(x / beta)", "multiply by beta"),
        (
            DPO + "    return -F.logsigmoid(beta * (chosen - rejected))",
            "You forget the reference",
        ),
        (MARGIN + "    return -beta * F.logsigmoid(x / beta)", "Is beta inside sigma?"),
        (MARGIN + "    return -F.logsigmoid(x.detach())", "without detach"),
    ),
    *of(
        "05_preferences",
        "prediction",
        ("lower, at_start = 'a', 0.6931", "You say 'a'"),
        ("lower, at_start = 'same', 0", "That is not 0"),
        ("lower, at_start = 'same', torch.zeros(3)", "should be a number"),
        ("lower, at_start = 'b', 0.69", "of both models"),
    ),
    *of(
        "05_preferences",
        "first_difference",
        (
            "def first_difference(one, other):\n"
            "    return next(n for n, (a, b) in enumerate(zip(one, other)) if a != b)",
            "stops with StopIteration",
        ),
        (
            "def first_difference(one, other):\n    for n, (a, b) in enumerate(zip(one, other)):\n"
            "        if a != b:\n            return n",
            "returns nothing for [1, 2, 3], [1, 2]",
        ),
        ("def first_difference(one, other):\n    return 0", "should be 2"),
    ),
    *of(
        "05_preferences",
        "mpo",
        (QUALITY.replace("(-bad)", "(bad)") + GENERATION, "You reward the rejected answer"),
        (QUALITY.replace("    return -F", "    return F") + GENERATION, "Both signs?"),
        (QUALITY + GENERATION.replace("-chosen", "chosen"), "The sign of `generation`"),
        (QUALITY + GENERATION.replace(" / tokens", ""), "Divide `generation`"),
        (
            QUALITY + GENERATION + MPO + "    x = (chosen, rejected, ref_chosen, ref_rejected)\n"
            "    return dpo(*x, beta) + quality(*x, beta) + generation(chosen, tokens)",
            "at the right terms",
        ),
    ),
    *of(
        "06_looking",
        "swapped",
        (SWAPPED + "    return examples", "You change the examples"),
        (SWAPPED + "    return [replace(e) for e in examples]", "has kept its own picture"),
        (SWAPPED + "    return [e.images for e in examples]", "a list of as many examples"),
        *(
            (
                SWAPPED
                + f"    return [replace(e, images={images}) for n, e in enumerate(examples)]",
                says,
            )
            for images, says in (
                ("examples[n - 1]", "should be a list of pictures"),
                ("[examples[n - 1].images]", "should be a list of pictures"),
                ("examples[0].images", "Each picture should be used once"),
            )
        ),
        (
            SWAPPED + "    return [replace(e, images=examples[-1].images) for e in examples[:-1]]",
            "as many examples",
        ),
        (
            SWAPPED + "    other = [Image.new('RGB', (112, 112))]\n"
            "    return [replace(e, images=other) for e in examples]",
            "Each picture should be used once",
        ),
        (
            SWAPPED + "    return [replace(examples[n - 1]) for n in range(len(examples))]",
            "should stay in their places",
        ),
    ),
    *of(
        "06_looking",
        "about_the_picture",
        (ABOUT + "    return question.answer", "from the same example"),
        (ABOUT + "    return len(picture.meta['objects'])", "use str"),
        (ABOUT + "    return str(len(picture.meta['objects']))", "About its own picture"),
    ),
    *of(
        "06_looking",
        "table_of",
        (TABLE + "    return {e.question: e.answer for e in examples}", "keep the last answer"),
        (TABLE + "    return {e.answer: e.question for e in examples}", "The keys should be"),
        (
            TABLE + "    most = Counter(e.answer for e in examples).most_common(1)[0][0]\n"
            "    return {e.question: most for e in examples}",
            "For `How few?` the answers are 5 5: the table should say 5, but says 2",
        ),
        (
            TABLE + "    return {e.question: max(o.answer for o in examples\n"
            "        if o.question == e.question) for e in examples}",
            "the answers are 4 1 2 2 3: the table should say 2, but says 4",
        ),
        (
            TABLE + "    return {e.question: Counter(o.answer for o in examples\n"
            "        if o.question == e.question).most_common(1) for e in examples}",
            "take [0][0] of it",
        ),
    ),
    *of(
        "06_looking",
        "fingerprint",
        (PRINT + TINY + "    return tiny[:, 1:] > tiny[:, :-1]", ".flatten()"),
        (PRINT + TINY + "    return (tiny[:, 1:] - tiny[:, :-1]).flatten()", "be booleans"),
        (PRINT + TINY + "    return (tiny[:, 1:] > 118).flatten()", "another fingerprint"),
        (
            PRINT
            + TINY.replace(".float()", "")
            + "    return (tiny[:, 1:] - tiny[:, :-1] > 0).flatten()",
            "have no minus",
        ),
        (PRINT + TINY + "    return (tiny[1:] > tiny[:-1]).flatten()", "8 rows of 9"),
        (PRINT + "    return torch.ones(64).bool()", "A mirrored picture"),
    ),
    *of(
        "06_looking",
        "same_colours",
        (SAME + "    return difference.abs().mean() <= 10", "take the largest"),
        (SAME + "    return difference.abs().max() <= 5", "LIMIT is too small"),
        (SAME + "    return difference.max() <= 50", "without its sign"),
        (SAME + "    return difference.abs().max() <= 60", "A green square and a green circle"),
        (SAME + "    return difference.abs().mean() <= 1", "you take a mean"),
        (SAME + "    return difference.abs().max() <= 90", "LIMIT is too large"),
    ),
    *of(
        "06_looking",
        "split_score",
        (
            SPLIT + "    return tuple(sum(marks[n] for n in p) / len(p) for p in (others, leaked))",
            "exchanged",
        ),
        (
            SPLIT + "    return tuple(sum(marks[n] for n in p) / 6 for p in (leaked, others))",
            "by the number of its own",
        ),
        (SPLIT + "    return sum(marks) / len(marks)", "Return two numbers"),
    ),
]
