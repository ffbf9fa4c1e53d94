# %% [markdown]
# # Lab 6: Is it looking?
#
# **The question.** A model answers 95 % of the questions about pictures. Does it look at them?
#
# Two models stand side by side here. One looks. The other has learned what its questions give
# away. Their scores do not tell you which is which; you will write the tests that do. Then you
# will find out why a third model is much better on some questions than on others.
#
# One and a half hours, of which the computer works about two minutes. Run the cells from top to
# bottom.
# Fill in every cell that begins with `# YOUR CODE`, and leave its first line as it is.
# A cell that begins with `# CHECK` says what is wrong with it.

# %%
import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path.cwd().parent)]  # the repository, from labs/ or above

import io
import random
from collections import Counter
from dataclasses import replace

import numpy
import torch
from PIL import Image, ImageEnhance

import pools
import rewards
from labs import checks, classroom, training
from tasks import drawing

# %% [markdown]
# ## 1. Two models, two scores
#
# Each question asks how many objects of a colour or of a shape there are. In this question set,
# somebody was careless: whoever knows the word in the question knows the answer.

# %%
GIVEN_AWAY = {"red": "1", "yellow": "1", "blue": "2", "circle": "2", "square": "3", "green": "3"}


def careless(split, number):
    """Collect questions whose right answer is the one that their word gives away."""
    found, start = [], 0
    while len(found) < number:
        block = classroom.examples("count", split, 50, start)
        found += [e for e in block if GIVEN_AWAY.get(e.meta["wanted"]) == e.answer]
        start += 50
    return found[:number]


careless_test = careless("test", classroom.questions(100))
careless_train = careless("train", classroom.questions(320))
fair_test = classroom.examples("count", "test", classroom.questions(100))

print("right answers in the careless test:", Counter(e.answer for e in careless_test))

model_a, asker = classroom.load()  # has learned to describe pictures, row by row
model_b, _ = classroom.load()  # the same, then trained on the careless questions, answers alone
training.learn_answers(model_b, asker, careless_train, classroom.steps(60))
for name, policy in (("A", model_a), ("B", model_b)):
    score, _ = classroom.accuracy(policy, asker, careless_test)
    print(f"model {name}: {score:.0%} of the careless questions")

# %% [markdown]
# B wins. Would you publish it? B may have learned to count better, or it may not look at all.
# Nothing in these two numbers tells.
#
# ## 2. Another question's picture
#
# Give each question the picture of another one. Who does not look will not notice.
#
# An `Example` has `.images` (a list), `.question` and `.answer`. Change a copy:
# `replace(example, images=...)` makes one.


# %%
# YOUR CODE (swapped)
def swapped(examples):
    """Return new examples: the same questions and answers, each with another one's images.

    No example may keep its own. The simplest way is a circle: each takes its neighbour's, and the
    first takes the last one's. In Python, `examples[-1]` is the last.
    """
    raise NotImplementedError("Replace this line: a list of replace(example, images=...).")


# %%
# CHECK (swapped)
some = classroom.examples("count", "test", 5)
own = [e.images for e in some]
mine = checks.run(swapped, list(some))
checks.true(
    isinstance(mine, list) and len(mine) == 5 and all(isinstance(e, type(some[0])) for e in mine),
    "swapped should return a list of as many examples as it was given.",
)
checks.true(
    all(new is not old for new, old in zip(mine, some))
    and all(e.images is images for e, images in zip(some, own)),
    "You change the examples that you were given. Make copies: replace(example, images=...). "
    "Otherwise the next cell asks the wrong questions, and nobody notices.",
)
checks.true(
    all((new.question, new.answer) == (old.question, old.answer) for new, old in zip(mine, some)),
    "Questions and answers should stay in their places. Only the images move.",
)
for e in mine:
    checks.true(
        isinstance(e.images, list) and all(isinstance(one, Image.Image) for one in e.images),
        f"`.images` should be a list of pictures, as examples[-1].images is, not {e.images!r:.50}.",
    )
checks.true(
    all(sum(new.images == images for new in mine) == 1 for images in own),
    "Each picture should be used once. If all get the same one, you test that picture.",
)
kept = [n for n, (new, images) in enumerate(zip(mine, own)) if new.images == images]
checks.true(
    not kept,
    f"Example {kept[0] if kept else 0} has kept its own picture. A shuffle does that now and then "
    "(with five, it keeps at least one in 63 % of all cases). Move them round in a circle.",
)
checks.passed("each question has another one's picture")

# %% [markdown]
# Now think before you measure. With another picture, the *old* answer can be right only by
# chance. So a model that looks must lose. But "it loses" is also what a broken model does. There
# is a sharper test: we know what is in these pictures, so we know the right answer to the
# question *about the picture that the model sees*. A model that looks gives that one.
#
# `example.meta["objects"]` lists what is drawn: `[row, column, colour, shape]`, such as
# `[0, 3, "red", "circle"]`. `example.meta["wanted"]` is the word that is asked for.


# %%
# YOUR CODE (about_the_picture)
def about_the_picture(question, picture):
    """Count what `question` (an example) asks for among what is drawn in that of `picture`.

    Returns the answer as text: "2". A word such as "red" stands among the four entries of each
    red object: `"red" in [0, 3, "red", "circle"]` is True.
    """
    raise NotImplementedError("Replace this line: count objects with the word, return str(count).")


# %%
# CHECK (about_the_picture)
for number, e in enumerate(some):
    mine = checks.run(about_the_picture, e, e)
    checks.true(
        isinstance(mine, str),
        f"The answer should be a text such as '2', but is {mine!r:.40}: use str(...).",
    )
    checks.true(
        mine == e.answer,
        f"About its own picture, example {number} ({e.question}) has the answer {e.answer}. "
        f"You have {mine}.",
    )
    other = some[number - 1]
    right = str(sum(e.meta["wanted"] in o for o in other.meta["objects"]))
    checks.true(
        checks.run(about_the_picture, e, other) == right,
        "The word comes from `question`, the objects from `picture`. You seem to take both from "
        "the same example.",
    )
checks.passed("we know what a model that looks should say")


# %%
def share_right(texts, golds, examples):
    """Return the share of texts whose answer is the gold given for it."""
    asked = [replace(e, answer=gold) for e, gold in zip(examples, golds)]
    return sum(rewards.accuracy(t, e) for t, e in zip(texts, asked)) / len(asked)


moved = swapped(careless_test)
pictured = {id(e.images): e for e in careless_test}  # whose picture is it?
seen = [about_the_picture(e, pictured[id(e.images)]) for e in moved]
old = [e.answer for e in moved]

said = {}
print("model   own picture   another's: old answer   another's: what it shows")
for name, policy in (("A", model_a), ("B", model_b)):
    own_picture, _ = classroom.accuracy(policy, asker, careless_test)
    _, said[name] = classroom.accuracy(policy, asker, moved)
    rates = own_picture, *(share_right(said[name], golds, moved) for golds in (old, seen))
    print(f"{name}       {rates[0]:11.0%}   {rates[1]:21.0%}   {rates[2]:24.0%}")

# %%
differ = [n for n in range(len(moved)) if old[n] != seen[n]][:4]
classroom.show(
    [replace(moved[n], answer=f"was {old[n]}; this picture: {seen[n]}") for n in differ],
    [[(f"{name}: {said[name][n]}", {}) for name in ("A", "B")] for n in differ],
    "Each question with another one's picture",
)

# %% [markdown]
# ## 3. Without any picture
#
# Papers also report *blind* accuracy: the question alone, without a picture.


# %%
def blind(examples):
    return [pools.blind(e) for e in examples]  # no image, and no place for one in the text


for name, policy in (("A", model_a), ("B", model_b)):
    score, texts = classroom.accuracy(policy, asker, blind(careless_test))
    print(f"model {name}, without a picture: {score:.0%}   for example: {texts[0][:60]!r}")

# %% [markdown]
# Careful: this number is easy to misread. These models have never seen a prompt without a picture.
# Look at what they write: that is no answer, but a model that is lost. The number can be low though
# the questions give everything away, or high because the lost model always says "1". It can even
# point at the wrong one of the two. To know what the *questions* give away, ask somebody who has
# learned from the questions alone. The simplest such somebody is a table: for each question, the
# answer that was right most often.


# %%
# YOUR CODE (table_of)
def table_of(examples):
    """Return {question: its most frequent answer} of training examples.

    Counter(["1", "2", "2"]).most_common(1)[0][0] is "2".
    """
    raise NotImplementedError(
        "Replace this line: collect the answers to each question, then count."
    )


# %%
# CHECK (table_of)
made_up = [("How many?", a) for a in "41223"] + [("How few?", a) for a in "55"] + [("Why?", "7")]
made_up = [replace(some[0], question=q, answer=a) for q, a in made_up]
mine = checks.run(table_of, made_up)
checks.true(isinstance(mine, dict), "table_of should return a dictionary {question: answer}.")
checks.true(
    set(mine) == {"How many?", "How few?", "Why?"},
    "The keys should be the questions: each text once.",
)
checks.true(
    mine["How many?"] != "3",
    "For `How many?` you keep the last answer that came. Count the answers of each question.",
)
checks.true(
    all(isinstance(answer, str) for answer in mine.values()),
    f"The values should be answers such as '2'; yours are like {mine['How many?']!r:.60}. "
    "most_common(1) gives a list with one (answer, times): take [0][0] of it.",
)
for question, right in {"How many?": "2", "How few?": "5", "Why?": "7"}.items():
    given = " ".join(e.answer for e in made_up if e.question == question)
    checks.true(
        mine[question] == right,
        f"For `{question}` the answers are {given}: the table should say {right}, but says "
        f"{mine[question]}. Count the answers to each question by themselves.",
    )
checks.passed("this is what language alone can do")

# %%
fair_train = classroom.examples("count", "train", classroom.questions(320))
for title, train, test in (
    ("careless", careless_train, careless_test),
    ("fair", fair_train, fair_test),
):
    table = table_of(train)
    right = [table.get(e.question) == e.answer for e in test]
    print(f"{title:8} questions: the table without eyes {sum(right) / len(right):4.0%}", end="")
    for name, policy in (("A", model_a), ("B", model_b)):
        print(f"   model {name} {classroom.accuracy(policy, asker, test)[0]:4.0%}", end="")
    print()

# %% [markdown]
# The table scores as well as B on the careless questions. On fair ones it has nearly half of the
# points: that much one gets without opening the eyes, and only what is above it is seen. (B has
# less, because the answers that it learned by heart are not even the frequent ones there.)
#
# ## 4. Was the test in the training data?
#
# Model C comes with the remark: trained on 240 pictures of our own.

# %%
test = classroom.examples("count", "test", classroom.questions(80), start=200)


def as_jpeg(picture):
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=60)
    return Image.open(stored).convert("RGB")


def smaller(picture):
    return picture.resize((90, 90))


def brighter(picture):
    return ImageEnhance.Brightness(picture).enhance(1.1)


DISGUISES = (as_jpeg, smaller, brighter)
LEAKED = set(range(0, len(test), 2))  # which test questions are in it; we only know it here
copies = [replace(test[n], images=[DISGUISES[n % 3](test[n].images[0])]) for n in sorted(LEAKED)]
own_pictures = classroom.examples("count", "train", 5 * len(copies), start=900)
training_set = own_pictures + copies
print(f"{len(training_set)} training pictures, of which {len(copies)} are from the test")

# %% [markdown]
# The copies were saved as JPEG, made smaller, or made a little brighter. So they are not equal
# byte for byte. A *perceptual hash* is a fingerprint that survives this. Make the picture tiny and
# grey, 9 pixels wide and 8 high, and ask of each pixel: is it brighter than its left neighbour?
# That makes 8 x 8 = 64 answers (called *dHash*). Two pictures are compared by how many of their
# answers differ.


# %%
# YOUR CODE (fingerprint)
def fingerprint(picture):
    """Return 64 booleans of a PIL picture, a tensor (64,).

    picture.convert("L") is grey, .resize((9, 8)) makes it tiny: 9 wide, 8 high.
    torch.tensor(numpy.array(tiny)) has 8 rows of 9 pixels.
    """
    raise NotImplementedError("Make it tiny, then compare pixels[:, 1:] with pixels[:, :-1].")


# %%
# CHECK (fingerprint)
shown = [e.images[0] for e in classroom.examples("count", "test", 8, start=40)]
mine = [checks.run(fingerprint, picture) for picture in shown]
for one in mine:
    checks.shape(
        one, (64,), "the fingerprint", "Compare columns, in 8 rows of 9, and then .flatten() them."
    )
    checks.true(
        one.dtype == torch.bool, "The fingerprint should be booleans: compare with > instead of -."
    )


def apart(change):
    """Count the answers that a change of the picture changes: the mean over eight pictures."""
    changed = [checks.run(fingerprint, change(picture)) for picture in shown]
    return sum(int((a != b).sum()) for a, b in zip(mine, changed)) / len(shown)


checks.true(
    apart(brighter) < 8,
    "A picture that is a little brighter has another fingerprint. Compare pixels with their "
    "neighbours and not with a fixed number.",
)
checks.true(
    apart(lambda picture: picture.transpose(Image.FLIP_LEFT_RIGHT)) > 16,
    "A mirrored picture has nearly the same fingerprint, and so has any other. Compare each pixel "
    "with its left neighbour. (These are 8-bit numbers, which have no minus: use >, not a "
    "difference.)",
)
checks.true(
    apart(smaller) < 8 and apart(as_jpeg) < 10,
    "A smaller copy has another fingerprint. Resize to (9, 8) first, and then compare.",
)
checks.passed("a copy keeps its fingerprint")

# %%
train_prints = torch.stack([fingerprint(e.images[0]) for e in training_set])  # (M, 64)
test_prints = torch.stack([fingerprint(e.images[0]) for e in test])  # (N, 64)
distance = (test_prints[:, None] != train_prints[None]).sum(-1)  # (N, M)
candidates = (distance <= 10).nonzero().tolist()
alarms = {n for n, _ in candidates}
print(f"fingerprints at most 10 apart: {len(candidates)} pairs")
print(f"test pictures under suspicion: {len(alarms)} of {len(test)}; leaked are {len(LEAKED)}")


def show_pairs(pairs):
    """Show the closest pairs of different test pictures: test above, training set below."""
    closest = {}
    for n, m in sorted(pairs, key=lambda pair: int(distance[tuple(pair)])):
        closest.setdefault(n, m)
    pairs = list(closest.items())[:7]
    sheet = Image.new("RGB", (120 * 7, 232), "white")
    for column, (n, m) in enumerate(pairs):
        print(f"{int(distance[n, m])} of 64 differ", end="   ")
        for row, e in enumerate((test[n], training_set[m])):
            sheet.paste(e.images[0].resize((112, 112)), (120 * column, 120 * row))
    print()
    classroom.draw("pairs", lambda picture, png: picture.save(png), sheet)


show_pairs([(n, m) for n, m in candidates if m < len(own_pictures)])  # none of these is leaked

# %% [markdown]
# Nearly every test picture is under suspicion. Look at the pairs: what does the fingerprint not
# see? Alarms are cheap, so use them as a first sieve only, and look closer at what it catches.
#
# Divide both pictures into 28 x 28 fields and take each field's mean colour. In a copy, *no* field
# differs by much. In two scenes, some field shows an object in one picture alone, or in another
# colour.


# %%
# YOUR CODE (same_colours)
LIMIT = 0  # how much the colour of a field may differ: try some between 20 and 80


def same_colours(one, other):
    """Tell whether no field of two PIL pictures differs by more than LIMIT in red, green or blue.

    fields(picture) is (28, 28, 3): red, green and blue of each field, from 0 to 255.
    """

    def fields(picture):
        small = picture.convert("RGB").resize((28, 28), Image.BOX)
        return torch.tensor(numpy.array(small)).float()  # (28, 28, 3)

    raise NotImplementedError("The largest absolute difference of both, compared with LIMIT.")


# %%
# CHECK (same_colours)
red_corner = Image.new("RGB", (112, 112), (120, 120, 120))
red_corner.paste((200, 120, 120), (80, 0, 112, 32))
plain = Image.new("RGB", (112, 112), (120, 120, 120))
checks.true(
    bool(checks.run(same_colours, plain, plain.copy())), "A picture should be the same as itself."
)
checks.true(
    not checks.run(same_colours, plain, red_corner)
    and not checks.run(same_colours, red_corner, plain),
    "A grey picture and one with a red corner pass for the same. The mean over all fields hides "
    "the corner: take the largest difference, without its sign (.abs().max()). Or LIMIT is too "
    "large.",
)
for place in ((1, 1, "blue"), (3, 2, "green")):  # row, column, colour
    square, circle = (
        drawing.draw_scene({"objects": [(*place, shape)]}, random.Random(0))
        for shape in ("square", "circle")
    )
    checks.true(
        not checks.run(same_colours, square, circle),
        f"A {place[2]} square and a {place[2]} circle pass for the same: LIMIT is too large. (If "
        "a smaller one misses copies, you take a mean: .abs().max() instead.)",
    )
caught, missed, false_alarms = 0, 0, 0
sample = classroom.examples("count", "test", 60, start=300)
for number, e in enumerate(sample):
    copy = DISGUISES[number % 3](e.images[0])
    if checks.run(same_colours, e.images[0], copy):
        caught += 1
    else:
        missed += 1
    for other in sample[:number]:
        if other.meta["objects"] != e.meta["objects"]:  # a few scenes are there twice
            false_alarms += bool(same_colours(e.images[0], other.images[0]))
checks.true(
    missed <= 3,
    f"Of 60 copies you miss {missed}: LIMIT is too small. 10 % more brightness moves a field's "
    "colour by up to about 25, and JPEG at the edge of an object by up to about 40. If no LIMIT "
    "fits, you take a mean: .abs().max() instead.",
)
checks.true(
    false_alarms <= 3,
    f"{false_alarms} of about 1770 pairs of different scenes pass for copies: LIMIT is too large.",
)
checks.passed(
    f"{caught} of 60 copies are found, with {false_alarms} false alarms in about 1770 pairs"
)

# %%
found = [
    (n, m) for n, m in candidates if same_colours(test[n].images[0], training_set[m].images[0])
]
caught = {n for n, _ in found}
others = len(caught - LEAKED)
print(f"leaked and found {len(caught & LEAKED)} of {len(LEAKED)}; found, not planted: {others}")
show_pairs(found)
show_pairs([(n, m) for n, m in found if n not in LEAKED])  # those not planted

# %% [markdown]
# If some are left that we did not plant: are they false? A few scenes are in the test twice, with
# different questions. The picture of such a twin is in the training data, too.
#
# ## 5. What the leak was worth
#
# Train model C, to save time on the copies alone. Its score on the whole test is one number. Split
# it.


# %%
# YOUR CODE (split_score)
def split_score(marks, leaked):
    """Return (accuracy on the leaked questions, accuracy on the others).

    marks: a 1 or 0 for each test question. leaked: the set of the places of leaked questions.
    """
    raise NotImplementedError("Two lists: marks[n] for n in leaked, and for the others.")


# %%
# CHECK (split_score)
mine = checks.run(split_score, [1, 1, 0, 0, 1, 0], {0, 1, 4})
checks.true(
    isinstance(mine, tuple) and len(mine) == 2, "Return two numbers: `return leaked, others`."
)
checks.true(mine != (0.0, 1.0), "You have exchanged the two.")
checks.true(
    mine == (1.0, 0.0),
    f"Of the marks 1 1 0 0 1 0 the places 0, 1 and 4 are all right, the others all wrong: (1.0, "
    f"0.0), but you return {mine!r:.60}. Divide each sum by the number of its own questions.",
)
mine = checks.run(split_score, [1, 0, 1, 1], {0, 1})
checks.true(mine == (0.5, 1.0), f"Marks 1 0 1 1, leaked 0 and 1: (0.5, 1.0), not {mine!r:.60}.")
checks.passed("one score is now two")

# %%
model_c, _ = classroom.load()
training.learn_answers(model_c, asker, copies, classroom.steps(90))
for name, policy in (("A", model_a), ("C", model_c)):
    score, texts = classroom.accuracy(policy, asker, test)
    marks = [rewards.accuracy(text, e) for text, e in zip(texts, test)]
    leaked, others = split_score(marks, LEAKED)
    print(
        f"model {name}: whole test {score:.0%}; leaked questions {leaked:.0%}, others {others:.0%}"
    )

# %% [markdown]
# C's score on the whole test hides two: on what it has seen it is better than A, on the rest far
# worse. Only the rest says what it will be worth tomorrow.
#
# ## Two things to try
#
# 1. Instead of another question's picture, give all questions an empty one:
#    `replace(e, images=[Image.new("RGB", (112, 112), (118, 118, 118))])`. Papers call this blind,
#    too. Is it as telling as the swapped pictures, for A and for B? What would you ask the authors
#    of a paper that reports blind accuracy?
# 2. Add a disguise: cut 2 pixels off each side, `picture.crop((2, 2, 110, 110))`. Which of your two
#    tests misses the copies, and can you repair it without raising the false alarms? (Shift one
#    picture by a few pixels, and take the best match.)
#
# ## To read
#
# - Goyal and others, [arXiv:1612.00837](https://arxiv.org/abs/1612.00837): how much of visual
#   question answering needs no picture, and a test set made to stop it.
# - MMStar, [arXiv:2403.20330](https://arxiv.org/abs/2403.20330): the same of today's benchmarks,
#   and how much of them leaked into training.
# - Idefics3, [arXiv:2408.12637](https://arxiv.org/abs/2408.12637): the authors look for the
#   benchmarks in their own training data.
# - In this repository: `evaluate.py --blind` and `--swap`, `python -m tasks.contamination`, and
#   [docs/traps.md](../docs/traps.md).
