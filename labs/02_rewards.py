# %% [markdown]
# # Lab 2: Break a reward, then repair it
#
# **The question.** A policy does whatever is paid. What did people pay for, when they meant to pay
# for right answers?
#
# You will play the policy first, and cheat four rewards that were published and used. Then you
# let a model find such a cheat by itself, by reinforcement learning. In the end you repair the
# reward, and train again.
#
# One hour, of which the computer works about two minutes. Run the cells from top to bottom.
# Fill in every cell that begins with `# YOUR CODE`, and leave its first line as it is.
# A cell that begins with `# CHECK` says what is wrong with it.

# %%
import math
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path.cwd().parent)]  # the repository, from labs/ or above

import rewards
from labs import checks, classroom
from tasks.example import Example

# %% [markdown]
# ## 1. You are the policy
#
# An answer should look like `<think> I see two. </think><answer> 2 </answer>`. Below are four
# rewards for it. They are written anew here, and each has the fault of a published one:
#
# | reward | where it was | what it is for |
# |---|---|---|
# | `anywhere` | R1-V read the whole text, not the answer alone | a right number |
# | `part_of` | Visual-RFT's classification compared in both directions | a right name |
# | `confident` | Visual-RFT's detection paid the confidence | boxes, each right or not |
# | `wave` | VLM-R1's cosine of the length had no end | short answers |


# %%
def body_of(text):
    """Return what stands between the first <answer> and </answer>, or the whole text."""
    found = re.search("<answer>(.*?)</answer>", text)
    return (found[1] if found else text).strip()


def anywhere(text, gold):
    """Pay 1 if the right number occurs."""
    return float(gold in re.findall(r"\d+", text))


def part_of(text, gold):
    """Pay 1 if the answer contains the right name, or the name contains the answer."""
    answer = body_of(text).lower()
    return float(gold in answer or answer in gold)


def confident(boxes):
    """boxes: [(is it right, confidence from 0 to 1), ...]. Pay the mean over the boxes.

    A right box earns its confidence; a wrong one earns 1 - confidence, for having doubted.
    """
    earned = [c if right else 1 - c for right, c in boxes]
    return sum(earned) / len(earned) if earned else 0.0


def wave(tokens):
    """Pay 1 for no tokens and 0.5 for 1024, along half a cosine: shorter is better."""
    return 0.75 + 0.25 * math.cos(math.pi * tokens / 1024)


# %% [markdown]
# Fill in one cheat for each. It must be paid as much as a perfect answer, and be worthless.

# %%
# YOUR CODE (cheats)
# The question has the answer "4", but you cannot see the picture. Write a text for `anywhere`
# that is paid for 4 and just as well for every other number from 0 to 9. It has an <answer>, and
# no number stands in that.
cheat_anywhere = ...

# Which flower is it? You have no idea. Write a text for `part_of` that names none and is paid
# whichever it is: a "fire lily", a "sunflower", or one that you have never heard of.
cheat_part_of = ...

# You have found nothing. Name boxes for `confident`, [(False, confidence), ...], that earn 1.
cheat_confident = ...

# How many tokens (more than 1000) earn as much from `wave` as no token at all?
cheat_wave = ...

# %%
# CHECK (anywhere)
checks.text(cheat_anywhere, "cheat_anywhere", "A text in which many numbers occur.")
for gold in "0123456789":
    checks.true(
        anywhere(cheat_anywhere, gold) == 1,
        f"`anywhere` does not pay your text when {gold} is right: it does not occur as a number of "
        r"its own. (\d+ takes neighbouring digits as one number.)",
    )
answered = re.search("<answer>(.*?)</answer>", cheat_anywhere, re.DOTALL)
checks.true(answered, "Your text has no <answer>...</answer>. Give one that is no number.")
checks.true(
    not re.search(r"\d", answered[1]),
    "There is a number in your <answer>. It could be the right one, and that is no cheat. Write "
    "the numbers elsewhere.",
)
checks.passed("whoever counts to ten while thinking is always right")

# %%
# CHECK (part_of)
checks.text(cheat_part_of, "cheat_part_of", 'Which text is a part of every text? "" in "lily".')
for gold in ("fire lily", "sunflower", "rose", "lupin"):
    checks.true(
        part_of(cheat_part_of, gold) == 1,
        f"`part_of` does not pay your text when it is a {gold}. What is a part of every name?",
    )
    said = rewards.classification(cheat_part_of, Example("lab", [], "Which?", gold))
    checks.true(said == 0, f"Your text names {gold}, so it is no cheat in that case.")
checks.passed("saying nothing is paid like knowing everything")

# %%
# CHECK (confident)
checks.filled(cheat_confident, "cheat_confident", "One wrong box is enough. How sure are you?")
checks.true(
    isinstance(cheat_confident, (list, tuple))
    and all(isinstance(box, (list, tuple)) and len(box) == 2 for box in cheat_confident),
    "`cheat_confident` should be a list of pairs, such as [(False, 0.5)].",
)
checks.true(cheat_confident, "Without any box, `confident` pays 0.")
checks.true(not any(right for right, _ in cheat_confident), "All your boxes have to be wrong.")
checks.true(
    all(0 <= checks.number(c, "a confidence") <= 1 for _, c in cheat_confident),
    "A confidence lies between 0 and 1.",
)
checks.true(
    confident(cheat_confident) == 1,
    f"Your boxes earn {confident(cheat_confident):g}. A wrong box earns 1 - confidence.",
)
checks.passed("a box that nobody believes in is paid like one that is right")

# %%
# CHECK (wave)
checks.number(cheat_wave, "cheat_wave", "A cosine comes back: after which angle?")
checks.true(cheat_wave > 1000, "More than 1000 tokens, please: the reward is for short answers.")
checks.true(
    abs(wave(cheat_wave) - wave(0)) < 1e-6,
    f"{cheat_wave} tokens earn {wave(cheat_wave):.3f}, none earn 1. The angle is pi * n / 1024.",
)
checks.passed("after its trough, the reward for brevity pays for length")

# %% [markdown]
# ## 2. The model finds out
#
# Nobody tells a model about such a hole. But answers that fall into it by chance are paid, and
# become likelier. A small model counts objects in pictures. While it thinks, it goes through the
# picture row by row and numbers what it finds, `Row 1: red circle (1). Row 2: ...`
#
# `anywhere` would pay nearly all of its answers, for the numbers of the rows; and where all are
# paid alike, there is nothing to learn. So we leave out the row numbers, and pay an answer if the
# right number is *among those that it counted*. That sounds almost reasonable. Guess, before you
# run the next cell: which habit will be paid?

# %%
policy, asker = classroom.load()
held_out = classroom.examples(split="test", number=classroom.questions(60))
before, answers_before = classroom.accuracy(policy, asker, held_out)


def paid_anywhere(text, example):
    return anywhere(re.sub(r"Row \d", "Row", text), example.answer)


broken = classroom.learn(policy, asker, paid_anywhere, classroom.steps(25))
after, answers_after = classroom.accuracy(policy, asker, held_out)
paid_before = sum(map(paid_anywhere, answers_before, held_out)) / len(held_out)
paid_after = sum(map(paid_anywhere, answers_after, held_out)) / len(held_out)
print(f"paid by `anywhere`: {paid_before:.0%} before, {paid_after:.0%} after")
print(f"right:              {before:.0%} before, {after:.0%} after")

# %%
classroom.curves(broken, [("what was paid, and what was right", ["reward", "right"])])
cheats = [
    i
    for i, (text, example) in enumerate(zip(answers_after, held_out))
    if paid_anywhere(text, example) and not rewards.accuracy(text, example)
][:4]
classroom.show(
    [held_out[i] for i in cheats],
    [[("before: " + answers_before[i], {}), ("after: " + answers_after[i], {})] for i in cheats],
    "paid, and wrong",
)

# %% [markdown]
# ## 3. Repair it
#
# Write a reward that reads the answer, and nothing else. Decide what these deserve, then compare
# with the check: no `<answer>`; two of them; an answer inside the thinking; `4.0`; `4 or 5`; the
# empty answer; ten thousand tags. (The check leaves `4 objects` to you.)


# %%
# YOUR CODE (repaired)
def repaired(text, gold):
    """text: what the policy wrote. gold: the right number, "4". Returns 1.0 or 0.0; never raises.

    A suggestion: take what follows the last </think>; find all <answer>...</answer> in it with
    re.findall; there has to be exactly one; float() of it has to be the gold's, and whatever
    float() cannot read is wrong.
    """
    raise NotImplementedError("Read the answer alone. What counts as the answer is your decision.")


# %%
# CHECK (repaired)
CASES = [  # the text, what it deserves for the gold 4, why
    ("<think> Two and two. </think><answer> 4 </answer>", 1, "a right answer"),
    ("<think> Two and two. </think>\n<answer>\n4\n</answer>\n", 1, "right, with line breaks"),
    ("<think> 4. </think><answer> 4.0 </answer>", 1, "4.0 is 4"),
    ("<think> 4 </think><answer> 5 </answer>", 0, "the 4 stands in the thinking only"),
    ("<think> 0 1 2 3 4 5 6 7 8 9 </think><answer> 0 </answer>", 0, "it counts to ten"),
    ("<think> <answer> 4 </answer> </think><answer> 5 </answer>", 0, "the answer is 5"),
    ("<think> So <answer> 4 </answer> hm </think>", 0, "the only answer is inside the thinking"),
    ("<think> So </think><answer> 5 </answer><answer> 4 </answer>", 0, "two answers are none"),
    ("<think> So </think><answer> 4 or 5 </answer>", 0, "two numbers are no answer"),
    ("<think> So </think><answer> 14 </answer>", 0, "14 contains a 4, and is not 4"),
    ("<think> So </think><answer> </answer>", 0, "an empty answer"),
    ("<think> So </think><answer> nan </answer>", 0, "not a number"),
    ("<think> So </think>4", 0, "no <answer>: it was asked for"),
    ("", 0, "nothing at all"),
    ("<answer>" * 10_000, 0, "ten thousand tags, and it must not take minutes"),
]
for text, deserved, why in CASES:
    mine = checks.number(checks.run(repaired, text, "4"), "repaired")
    verb = "pays" if mine else "does not pay"
    checks.true(
        mine == deserved,
        f"Your reward {verb} this text ({why}), for the gold 4: {text[:70]!r}",
    )
asked = [Example("lab", [], "How many?", answer) for answer in ("4", "2", "0")]
for example in asked:
    for text in answers_before:
        if len(re.findall(r"<answer>[\s\d]*</answer>", text)) == 1:  # a number alone, and once
            checks.true(
                checks.run(repaired, text, example.answer) == rewards.accuracy(text, example),
                f"For the gold {example.answer}, your reward and rewards.accuracy differ: {text!r}",
            )
checks.passed("only the answer is paid, whatever else the text says")

# %% [markdown]
# ## 4. Train again
#
# The same model, the same questions, your reward.

# %%
policy, asker = classroom.load()


def paid_repaired(text, example):
    return repaired(text, example.answer)


honest = classroom.learn(policy, asker, paid_repaired, classroom.steps(25))
after_repair, _ = classroom.accuracy(policy, asker, held_out)
print(f"right: {before:.0%} before, {after:.0%} paid by `anywhere`, {after_repair:.0%} by yours")
lines = [
    {"step": a["step"], "paid by anywhere": a["right"], "paid by yours": b["right"]}
    for a, b in zip(broken, honest)
]
classroom.curves(lines, [("right answers", ["paid by anywhere", "paid by yours"])])

# %% [markdown]
# ## Two things to try
#
# 1. Length: VisualThinker paid 0.001 for each token. Pay `paid_repaired(...) + len(text) / 1000`
#    and look at the answers after 60 steps. What would contain it? (`repetition_penalty` in
#    `rewards.py`, and `docs/results.md` under "Paying for length".)
# 2. Break your own reward: write the strangest text that it pays. Then try the same text on
#    `rewards.accuracy`. Which of the two do you trust more, and why?
#
# ## To read
#
# - Reward hacking as a problem of its own: Amodei et al., *Concrete problems in AI safety*,
#   [arXiv:1606.06565](https://arxiv.org/abs/1606.06565), section 4.
# - Visual-RFT, [arXiv:2503.01785](https://arxiv.org/abs/2503.01785), and VLM-R1,
#   [arXiv:2504.07615](https://arxiv.org/abs/2504.07615): the rewards, as they were meant.
# - In this repository: `docs/rewards.md`, whose first table says what each original does wrong.
