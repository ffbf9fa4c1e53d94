# %% [markdown]
# # Lab 5: Preferences
#
# **The question.** A model is told, of two answers, which one is better. It learns to tell them
# apart: the margin between them grows, step by step. Does the better answer become likelier?
#
# You will write DPO, which learns from such pairs, and see why nothing in it asks for that. You
# will look at single tokens to find out what falls. Then you will add the two terms of MPO.
#
# One hour, of which the computer works about three minutes. Run the cells from top to bottom.
# Fill in every cell that begins with `# YOUR CODE`, and leave its first line as it is.
# A cell that begins with `# CHECK` says what is wrong with it.

# %%
import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path.cwd().parent)]  # the repository, from labs/ or above

from collections import Counter

import torch
import torch.nn.functional as F

import losses
import pools
import update
from labs import checks, classroom, training
from tasks import toy

BETA = 0.1  # DPO's beta: the larger, the closer the model stays to where it started
policy, asker = classroom.load()

# %% [markdown]
# ## 1. Pairs
#
# The model answers each training question six times. A right answer and a wrong one to the same
# question make a pair: the right one is *chosen*, the wrong one *rejected*. Nobody writes anything.

# %%
asked = classroom.examples("count", number=classroom.questions(160))
pool = training.sample_pool(policy, asker, asked, G=6)
by_id = {example.id: example for example in asked}
pairs = [pair for pair in pools.build_pairs(by_id, pool, most=2) if pair.kind == "answer"]
pairs = pairs[: classroom.questions(160)]
print(f"{len(pool)} answers, {sum(line['right'] for line in pool)} right; {len(pairs)} pairs")

classroom.show(
    [pair.example for pair in pairs[:4]],
    [[(f"chosen: {p.chosen}", {}), (f"rejected: {p.rejected}", {})] for p in pairs[:4]],
    "Right and wrong answers to the same question",
)

# %% [markdown]
# Both answers are the model's own, and often they differ in a few words only. Remember that.
#
# ## 2. DPO
#
# $\log\pi(y)$ is the log-probability of a whole answer: the sum over its tokens. $\pi_\mathrm{ref}$
# is the model before training. DPO's cost of a pair compares how far both answers have moved:
#
# $$\mathrm{cost} = -\log\sigma\Big(\beta\,\big[(\log\pi(y_c) - \log\pi_\mathrm{ref}(y_c))
#   - (\log\pi(y_r) - \log\pi_\mathrm{ref}(y_r))\big]\Big)$$
#
# Each of the four below is a tensor (P,), a number for each of P pairs.


# %%
# YOUR CODE (dpo)
def dpo(chosen, rejected, ref_chosen, ref_rejected, beta):
    """Return the cost of each pair, (P,). Use F.logsigmoid, which is exact for large numbers."""
    raise NotImplementedError("Replace this line: two differences, their difference, logsigmoid.")


# %%
# CHECK (dpo)
c, r = torch.tensor([-5.0, -6.0, -900.0]), torch.tensor([-7.0, -4.0, -10.0])
rc, rr = torch.tensor([-6.0, -5.0, -5.0]), torch.tensor([-6.5, -5.0, -9.0])
mine = checks.run(dpo, c, r, rc, rr, 0.5)
checks.shape(mine, (3,), "the cost", "One number for each pair: do not take the mean here.")
inside = 0.5 * ((c - rc) - (r - rr))  # what sigma is taken of
checks.true(
    torch.isfinite(mine).all(),
    "The cost of a pair that is very wrong is infinite: torch.log(torch.sigmoid(x)) rounds to "
    "log 0. Use F.logsigmoid(x).",
)
checks.true(
    not checks.same(mine, F.logsigmoid(inside)),
    "The sign is wrong. An optimizer makes the cost small, so there is a minus in front.",
)
checks.true(
    not checks.same(mine, -F.logsigmoid(-inside)),
    "You prefer the rejected answer: chosen minus rejected, not the other way round.",
)
checks.true(
    not checks.same(mine, -F.logsigmoid(0.5 * (c - r))),
    "You forget the reference. It is where both answers started; only the way from there counts.",
)
checks.true(not checks.same(mine, -F.logsigmoid(inside / 0.5)), "You do not multiply by beta.")
checks.close(
    mine,
    losses.dpo(c - rc, r - rr, 0.5),
    "the cost",
    "Is beta inside sigma? Is each difference an answer minus its own reference?",
)
c.requires_grad_()
again = dpo(c, r, rc, rr, 0.5)
checks.gradient(again, c, "The cost has no gradient: compute it without detach.")
checks.passed("this is DPO, equation 7 of its paper")

# %% [markdown]
# Now predict, before anything is trained. The reference gives the chosen answer -5 and the
# rejected one -6. Which of these models has the lower cost?
#
# - model "a": chosen -4, rejected -7;
# - model "b": chosen -14, rejected -17.
#
# In model b the chosen answer is $e^{10} \approx 22000$ times *less* likely than in model a.


# %%
# YOUR CODE (prediction)
lower = ...  # "a", "b" or "same"
at_start = ...  # the cost of every pair before the first step, when the model is the reference

# %%
# CHECK (prediction)
checks.filled(lower, "lower", "Put the numbers into the formula: what is in the square brackets?")
mine = checks.number(at_start, "at_start", "What is in the square brackets? What is sigma of it?")
checks.true(
    lower == "same",
    f"You say {lower!r}. Compute the square brackets of both models. Model a: (-4 + 5) - (-7 + 6).",
)
checks.true(
    abs(mine - 0.6931) < 0.01,
    f"All differences are 0 at the start, and -log sigma(0) = -log 0.5. That is not {mine:g}.",
)
checks.passed("DPO sees the difference alone: both may fall, and it does not mind")

# %% [markdown]
# ## 3. A run
#
# The loop takes 16 pairs a step. Watch three numbers, in nats (natural logarithms): the *margin*,
# which is what stands in the square brackets, and how far the log-probability of chosen and of
# rejected answers has moved since the start. The learning rate is high, and each pair comes round
# several times, so that a minute shows what a long run does slowly.

# %%
encoded = [update.encode_pair(pair, asker) for pair in pairs]
start = training.logps_of_pairs(policy, asker, encoded)  # token by token, under the reference
encoded = [
    one._replace(ref=tuple(x.sum().item() for x in logp)) for one, logp in zip(encoded, start)
]


def learn(policy, cost, steps=48):
    """Train on the pairs with cost(chosen, rejected, ref_chosen, ref_rejected, tokens), (1,).

    tokens: (1,), the length of the chosen answer.
    """

    def add_gradient(rows):
        seen = []
        for pair in rows:
            logp, tokens = update.pair_logps(policy, asker, pair)  # (2,), (2,): chosen, rejected
            ref = logp.new_tensor(pair.ref)
            part = cost(logp[:1], logp[1:], ref[:1], ref[1:], tokens[:1]).sum() / len(rows)
            part.backward()
            seen.append([part.item(), *(logp.detach() - ref).tolist(), float(tokens.sum())])
        total, chosen, rejected, tokens = torch.tensor(seen).T
        return {
            "loss": float(total.sum()),
            "margin": float((chosen - rejected).mean()),
            "chosen": float(chosen.mean()),
            "rejected": float(rejected.mean()),
            "tokens": float(tokens.sum()),
        }

    lines = training.train(policy, encoded, add_gradient, classroom.steps(steps), 4e-4, 16)
    last = lines[-1]
    print(
        f"margin {last['margin']:+.1f} nats; chosen {last['chosen']:+.1f}, "
        f"rejected {last['rejected']:+.1f} since the start"
    )
    return lines


held_out = classroom.examples("count", "test", classroom.questions(100))


def measure(policy):
    """Return the share of right answers, and of answers that end as asked."""
    score, texts = classroom.accuracy(policy, asker, held_out)
    return score, sum(text.endswith("</answer>") for text in texts) / len(texts)


results = {"before": measure(policy)}
with_dpo, _ = classroom.load()
dpo_lines = learn(with_dpo, lambda c, r, rc, rr, tokens: dpo(c, r, rc, rr, BETA))
results["DPO"] = measure(with_dpo)

# %%
PANELS = [
    ("loss", ["loss"]),
    ("margin, nats", ["margin"]),
    ("since the start, nats", ["chosen", "rejected"]),
]
classroom.curves(dpo_lines, PANELS, "DPO")

# %% [markdown]
# The margin grows and the loss falls: by its own measure DPO succeeds. And the chosen answers?
#
# ## 4. What falls?
#
# Chosen and rejected answers of a pair begin alike. Up to the first token in which they differ,
# they are the same text after the same question, so these tokens cancel in the square brackets.
# Find that place.


# %%
# YOUR CODE (first_difference)
def first_difference(one, other):
    """Return the first place in which two lists of tokens differ.

    [7, 8, 9] and [7, 8, 5, 6]: 2. If one begins with all of the other: the shorter length.
    """
    raise NotImplementedError("Replace this line: zip both, with enumerate.")


# %%
# CHECK (first_difference)
for one, other, right in (
    ([7, 8, 9], [7, 8, 5, 6], 2),
    ([1, 2], [3, 2], 0),
    ([1, 2, 3], [1, 2], 2),
    ([4], [4, 5, 6], 1),
):
    mine = checks.run(first_difference, one, other)
    checks.true(
        mine == right, f"first_difference({one}, {other}) should be {right}, but is {mine!r:.40}."
    )
checks.passed("we know where the two answers of a pair part")

# %%
places = [first_difference(*(row.tolist() for row in one.rows)) for one in encoded]


def change_of(policy):
    """Return the changes of log-probability of each pair's chosen tokens, and print their sums."""
    now = training.logps_of_pairs(policy, asker, encoded)
    changes = [(after[0] - before[0]) for after, before in zip(now, start)]
    before = sum(float(x[:k].sum()) for x, k in zip(changes, places)) / len(places)
    at = sum(float(x[k : k + 1].sum()) for x, k in zip(changes, places)) / len(places)
    behind = sum(float(x[k + 1 :].sum()) for x, k in zip(changes, places)) / len(places)
    fell = sum(float(x.sum()) < 0 for x in changes) / len(places)
    print("change of the chosen answers in nats, by where the token stands:")
    print(f"before the two part {before:+.2f}, there {at:+.2f}, after {behind:+.2f}")
    print(f"{fell:.0%} of the chosen answers are less likely than at the start")
    by_word = Counter()
    for one, change in zip(encoded, changes):
        for word, x in zip(training.words_of(one.rows[0], asker), change.tolist()):
            by_word[word] += x / len(places)
    most = [f"{word} {x:+.1f}" for word, x in by_word.most_common()[:-4:-1]]
    print("the words that lost most, in nats for each pair:", ", ".join(most))
    return changes


def without_oversight(example):
    """Write what a teacher who overlooks nothing answers."""
    return toy.make_record("count", "train", int(example.id.split(":")[-1]), teacher="gold")


dpo_changes = change_of(with_dpo)
is_true = [without_oversight(p.example)["solution"] == p.chosen.strip() for p in pairs]
moved = [float(change.sum()) for change in dpo_changes]
for name, kind in (("overlook nothing", True), ("are right by luck", False)):
    those = [x for x, true in zip(moved, is_true) if true == kind]
    mean = sum(those) / max(1, len(those))
    print(f"{len(those)} chosen answers {name}: {mean:+.1f} nats on average")
# The one that lost most of those that overlook nothing.
shown = min(range(len(places)), key=lambda n: (not is_true[n], moved[n]))
words = training.words_of(encoded[shown].rows[0], asker)
training.draw_tokens(words, places[shown], {"DPO": dpo_changes[shown]})

# %% [markdown]
# Which words have lost most, and what do the rejected answers of part 1 write where they overlook
# something? A "none", or a full stop that ends a row too early. DPO makes these unlikely in the
# rejected answers. But the chosen ones need them, too, where a row really is empty or at its end.
# (Some chosen answers are right by luck: they overlook an object that is not asked for, or count
# twice. Their fall is no loss. But the others fall as well, and the picture shows one of them.)
#
# - *Before* the two part, they cancel in the square brackets: DPO pays nothing to keep a word.
# - *After*, the same words stand in both answers, a place or two apart. One set of weights writes
#   both, and can hardly make a word unlikely in one and leave it alone in the other.
#
# So the more alike the answers of a pair are, the less holds the chosen one up. Pal and others call
# it a failure mode of DPO.
#
# ## 5. What MPO adds
#
# MPO asks for the chosen answer itself. It adds two terms to DPO:
#
# - *quality*: each answer by itself is better, or worse, than what the reference would give:
#   $-\log\sigma(\beta\,[\log\pi(y_c) - \log\pi_\mathrm{ref}(y_c)])
#    -\log\sigma(-\beta\,[\log\pi(y_r) - \log\pi_\mathrm{ref}(y_r)])$
# - *generation*: imitate the chosen answer, per token: $-\log\pi(y_c) / |y_c|$
#
# (The paper also shifts the zero of *quality* by a running mean, `losses.reward_shift`. Leave that
# out here.)
#
# $$\mathrm{MPO} = 0.8 \cdot \mathrm{DPO} + 0.2 \cdot \mathrm{quality} + \mathrm{generation}$$


# %%
# YOUR CODE (mpo)
def quality(chosen, rejected, ref_chosen, ref_rejected, beta):
    """Return the quality term of each pair, (P,)."""
    raise NotImplementedError("Two logsigmoids, one for each answer.")


def generation(chosen, tokens):
    """chosen: (P,) log-probabilities. tokens: (P,) lengths. Returns the generation term, (P,)."""
    raise NotImplementedError("The formula of `generation`: mind the sign.")


def mpo(chosen, rejected, ref_chosen, ref_rejected, tokens, beta):
    """Return the cost of each pair, (P,): the weighted sum of your three functions."""
    raise NotImplementedError("0.8 dpo + 0.2 quality + generation.")


# %%
# CHECK (mpo)
rc, rr = torch.tensor([-6.0, -5.0, -5.0]), torch.tensor([-6.5, -5.0, -9.0])
c, r = torch.tensor([-5.0, -6.0, -900.0]), torch.tensor([-7.0, -4.0, -10.0])
n = torch.tensor([10.0, 20.0, 30.0])
mine = checks.run(quality, c, r, rc, rr, 0.5)
checks.shape(mine, (3,), "the quality term", "One number for each pair.")
one_sign = -F.logsigmoid(0.5 * (c - rc)) - F.logsigmoid(0.5 * (r - rr))
checks.true(
    not checks.same(mine, one_sign),
    "You reward the rejected answer, too: there is a minus inside its logsigmoid.",
)
checks.close(
    mine,
    losses.bco_pair(c - rc, r - rr, 0.5),
    "the quality term",
    "Is beta inside sigma? Is each difference an answer minus its own reference? Both signs?",
)
mine = checks.run(generation, c, n)
checks.shape(mine, (3,), "the generation term", "One number for each pair.")
checks.true(
    not checks.same(mine, c / n),
    "The sign of `generation` is wrong: a likely answer should cost little.",
)
checks.true(not checks.same(mine, -c), "Divide `generation` by the length of the chosen answer.")
checks.close(mine, losses.sft_pair(c, n), "the generation term")
mine = checks.run(mpo, c, r, rc, rr, n, 0.5)
right = losses.preference_loss(c, r, rc, rr, n, n, **losses.MPO, beta=0.5)
checks.close(mine, right, "MPO", "0.8, 0.2 and 1: are the weights at the right terms?")
c.requires_grad_()
again = mpo(c, r, rc, rr, n, 0.5)
checks.gradient(again, c, "The cost has no gradient: compute it without detach.")
checks.passed("this is MPO")

# %%
with_mpo, _ = classroom.load()
mpo_lines = learn(with_mpo, lambda c, r, rc, rr, tokens: mpo(c, r, rc, rr, tokens, BETA))
results["MPO"] = measure(with_mpo)
mpo_changes = change_of(with_mpo)
training.draw_tokens(words, places[shown], {"DPO": dpo_changes[shown], "MPO": mpo_changes[shown]})

# %%
both = [
    {**line, "MPO: chosen": line["chosen"], "MPO: margin": line["margin"]} for line in mpo_lines
]
for line, other in zip(both, dpo_lines):
    line |= {"DPO: chosen": other["chosen"], "DPO: margin": other["margin"]}
classroom.curves(
    both,
    [
        ("margin, nats", ["DPO: margin", "MPO: margin"]),
        ("chosen since the start, nats", ["DPO: chosen", "MPO: chosen"]),
    ],
)
for name, (score, ended) in results.items():
    print(f"{name:7} right {score:4.0%}   answers that end as asked {ended:4.0%}")

# %% [markdown]
# Both tell the pairs apart. Compare what it has cost them. One hundred questions leave about five
# points of noise to each share, so look at the log-probabilities first.
#
# ## Two things to try
#
# 1. Which of MPO's terms holds the chosen answers up? Train with DPO + generation, and with
#    0.8 DPO + 0.2 quality: `fresh, _ = classroom.load()`, and then
#    `learn(fresh, lambda c, r, rc, rr, tokens: ...)`.
# 2. Pal and others repair DPO otherwise (DPOP): inside the square brackets they subtract
#    $\lambda \cdot \max(0, \log\pi_\mathrm{ref}(y_c) - \log\pi(y_c))$, with $\lambda$ between 5 and
#    50. Write it, with `torch.clamp(ref_chosen - chosen, min=0)`. Does the margin still grow? (The
#    curve shows the margin without that penalty.)
#
# ## To read
#
# - DPO, [arXiv:2305.18290](https://arxiv.org/abs/2305.18290), equation 7.
# - Pal and others, [arXiv:2402.13228](https://arxiv.org/abs/2402.13228): why the chosen answer
#   falls, and DPOP.
# - MPO, [arXiv:2411.10442](https://arxiv.org/abs/2411.10442): its table of preference losses, with
#   and without the generation term.
# - In this repository: `dpo`, `bco_pair` and `sft_pair` in `losses.py`, the warning `ChosenFall` in
#   `update.py`, and claim (d) in [docs/selftraining.md](../docs/selftraining.md).
