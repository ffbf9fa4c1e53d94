# %% [markdown]
# # Lab 1: Advantage and the clipped objective
#
# **The question.** A model answers one question eight times. Three answers are right. Nobody
# shows it a better answer. How can it still learn from these eight?
#
# GRPO says: compare the eight with each other. Make the tokens of those above the average more
# likely, and the tokens of the others less likely, but only a little at a time. You will write
# the two formulas that say so, and then watch them teach a small vision-language model.
#
# One hour, of which the computer works about one minute. Run the cells from top to bottom.
# Fill in every cell that begins with `# YOUR CODE`, and leave its first line as it is.
# A cell that begins with `# CHECK` says what is wrong with it.

# %%
import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path.cwd().parent)]  # the repository, from labs/ or above

import torch

import logps
import losses
import rewards
from labs import checks, classroom
from reinforcing import advantages

policy, asker = classroom.load()
G = 8  # completions of each question

# %% [markdown]
# ## 1. Eight answers to one question
#
# The model has 1.4 million parameters. It has learned to describe pictures and to count from a
# teacher that often overlooks what stands in the right-hand column. So we ask about just that:
# there is most to learn. Each answer below has its *reward*: 1 if the number is right, plus 1 if it
# is written as asked.


# %%
def overlooked(example):
    """Tell whether something in the right-hand column is to be counted."""
    objects = example.meta["objects"]  # [row, column, color, shape] of each
    return any(column == 3 and example.meta["wanted"] in kind for _, column, *kind in objects)


asked = classroom.examples(number=6, keep=overlooked)
prompts, roll, texts = classroom.sample(policy, asker, asked, G)


def reward(text, example):
    return rewards.accuracy(text, example) + rewards.format(text, example)


repeated = [example for example in asked for _ in range(G)]  # (B,): each question G times
scores = torch.tensor([reward(text, example) for text, example in zip(texts, repeated)])
print("rewards, a row for each question:")
print(scores.view(-1, G))

marked = [(text, {"reward": float(score)}) for text, score in zip(texts, scores)]
groups = [marked[i : i + G] for i in range(0, 3 * G, G)]
different = [[*dict(group).items()][:3] for group in groups]  # the same text is shown once
classroom.show(asked[:3], different)

# %% [markdown]
# ## 2. The advantage
#
# The advantage of answer $i$ compares its reward with those of the answers to *the same question*:
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r) + 10^{-4}}$$
#
# `rewards` is one flat tensor of N questions times G answers; the answers to one question
# stand next to each other. So `rewards.view(-1, G)` has a row for each question.


# %%
# YOUR CODE (advantage)
def advantage(rewards, G):
    """rewards: (N * G,). Returns (N * G,): each reward compared with its own group.

    Use torch's mean and std along dimension 1, with keepdim=True, and flatten what comes out.
    """
    raise NotImplementedError("Replace this line: reshape, subtract the mean, divide, flatten.")


# %%
# CHECK (advantage)
r = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 6.0, 8.0])  # two questions, four answers each
mine = checks.run(advantage, r.clone(), 4)
checks.shape(mine, (8,), "the advantage", "Did you flatten the rows again?")
groups = r.view(-1, 4)
centred = groups - groups.mean(1, keepdim=True)
biased = centred / (groups.std(1, keepdim=True, unbiased=False) + 1e-4)
checks.true(
    not any(checks.same(mine, (r - r.mean()) / d) for d in (1, r.std() + 1e-4)),
    "You compare each reward with all eight. An easy question would then always look good, "
    "whatever the model answers. Compare within the rows of view(-1, G): dimension 1.",
)
checks.true(
    not checks.same(mine, centred.flatten()),
    "You subtract the mean but do not divide by the standard deviation. (That is Dr. GRPO, and "
    "one of the things to try below. Here we want DeepSeekMath's formula.)",
)
checks.true(
    not checks.same(mine, biased.flatten()),
    "Your standard deviation divides by G. torch's std divides by G - 1 unless it is told not to.",
)
checks.close(
    mine,
    advantages.group_advantage(r, 4),
    "the advantage",
    "Rows are questions: view(-1, G), dimension 1. Divide by std (not var) + 1e-4.",
    tolerance=1e-3,
)
flat = checks.run(advantage, torch.tensor([2.0, 2.0, 2.0, 2.0]), 4)
checks.close(flat, torch.zeros(4), "the advantage of four equal rewards", "Add 1e-4 to the std.")
checks.passed("each answer is compared with the others to its own question")

# %% [markdown]
# Look at a group in which all rewards are equal: its advantages are all 0. Such a question teaches
# nothing, whether all its answers are right or all are wrong. Then look at the fifth: seven of its
# answers have a positive advantage. Are they right?

# %%
adv = advantages.group_advantage(scores, G)
print("advantages, a row for each question:")
print(adv.view(-1, G))
print("share of questions without a lesson:", float(advantages.frac_reward_zero_std(scores, G)))

# %% [markdown]
# ## 3. The clipped objective
#
# $\pi$ is the model now, $\pi_\mathrm{old}$ the model that has sampled the answers. For each token
#
# $$\mathrm{ratio} = \frac{\pi(\mathrm{token})}{\pi_\mathrm{old}(\mathrm{token})}
#   = e^{\,\mathrm{logp} - \mathrm{old\_logp}}
# \qquad
# \mathrm{cost} = -\min\big(\mathrm{ratio}\cdot A,\ \mathrm{clip}(\mathrm{ratio}, 0.8, 1.2)
#   \cdot A\big)$$
#
# The minimum makes the cost a pessimist: there is no reward for moving the ratio further than
# 0.8 or 1.2 in the wanted direction, but an unwanted move always costs.


# %%
# YOUR CODE (clipped)
def clipped(logp, old_logp, adv, low=0.8, high=1.2):
    """logp, old_logp: (B, T), of B answers with T tokens. adv: (B,). Returns the cost, (B, T).

    adv has one number a row: adv[:, None] makes it (B, 1), which fits to (B, T).
    """
    raise NotImplementedError("Replace this line: the ratio, then -torch.minimum of two products.")


# %%
# CHECK (clipped)
# Two answers, one good and one bad, with the same five ratios.
ratio = torch.tensor([[0.5, 0.9, 1.0, 1.1, 1.5]]).repeat(2, 1)
old = torch.full((2, 5), -1.0)
new = (old + ratio.log()).requires_grad_()
A = torch.tensor([2.0, -1.0])
mine = checks.run(clipped, new, old, A)
checks.shape(mine, (2, 5), "the cost", "One number for each token.")
one, two = ratio * A[:, None], ratio.clamp(0.8, 1.2) * A[:, None]
right = losses.clipped_surrogate(new, old, A, torch.ones(2, 5), 0.8, 1.2).detach()
checks.true(
    not checks.same(mine, -right),
    "The sign is wrong. An optimizer makes the loss small, so a good answer needs a negative cost.",
)
checks.true(
    not checks.same(mine, -two),
    "You use the clipped ratio alone. Look at the second answer (A = -1) at the ratio 1.5: a bad "
    "token became likelier, and its cost should say so. Take the minimum of both products.",
)
checks.true(
    not checks.same(mine, -torch.minimum(ratio, ratio.clamp(0.8, 1.2)) * A[:, None]),
    "You take the minimum of the ratios. Multiply both by A first: a negative A turns their order "
    "round.",
)
checks.true(not checks.same(mine, -one), "You do not clip yet: use ratio.clamp(low, high).")
checks.true(
    not checks.same(mine, -torch.maximum(one, two)),
    "You take the maximum. The objective is a pessimist: the minimum, and then the minus.",
)
checks.close(mine, right, "the cost", "Is the ratio exp(logp - old_logp)?")
slope = checks.gradient(
    mine, new, "The cost has no gradient. Compute it from logp, without detach."
)
stopped = (slope == 0).tolist()
checks.true(
    stopped == losses.clipped_tokens(new.detach(), old, A, torch.ones(2, 5), 0.8, 1.2).tolist(),
    "The values are right, but the gradient is not. Compute everything with torch, from logp.",
)
print("no gradient (True) at the ratios 0.5, 0.9, 1.0, 1.1, 1.5:")
print("  A = +2:", stopped[0])
print("  A = -1:", stopped[1])
checks.passed("the cost is clipped on one side for good answers, on the other for bad ones")

# %% [markdown]
# ## 4. Why is the loss 0?
#
# In the first update after sampling, the model *is* the model that has sampled: logp and old_logp
# are equal. Predict, before you measure:
#
# - the cost of a token, at the ratio 1, as a formula of its advantage `A`;
# - the derivative of this cost with respect to logp (the derivative of $e^x$ at $x = 0$ is 1);
# - the mean of the cost over a group of answers of the same length.


# %%
# YOUR CODE (predictions)
def cost_at_one(A):
    """Return the cost of a token whose ratio is 1 and whose advantage is A."""
    raise NotImplementedError("Put the ratio 1 into the formula of part 3.")


def slope_at_one(A):
    """Return the derivative of that cost with respect to logp."""
    raise NotImplementedError("cost = -exp(logp - old_logp) * A; differentiate it.")


mean_cost_of_a_group = ...  # a number


# %%
# CHECK (predictions)
for A in (1.5, -0.5):
    x = torch.tensor([[-2.0]], requires_grad=True)
    cost = losses.clipped_surrogate(x, x.detach(), torch.tensor([A]), torch.ones(1, 1), 0.8, 1.2)
    cost.sum().backward()
    checks.true(
        abs(checks.number(checks.run(cost_at_one, A), "cost_at_one") - cost.item()) < 1e-6,
        f"The cost at the ratio 1 and A = {A} was measured: it is {cost.item():g}.",
    )
    checks.true(
        abs(checks.number(checks.run(slope_at_one, A), "slope_at_one") - x.grad.item()) < 1e-6,
        f"The slope at the ratio 1 and A = {A} was measured: it is {x.grad.item():g}. "
        "A negative slope means: making logp larger makes the loss smaller.",
    )
mine = checks.number(mean_cost_of_a_group, "mean_cost_of_a_group", "What do advantages add up to?")
checks.true(
    abs(mine) < 1e-6,
    "The advantages of a group add up to 0, by the way they are made. So what is their mean cost?",
)
checks.passed("the value of the loss is 0, and its gradient is not")

# %% [markdown]
# ## 5. One loss out of both, and a run
#
# `losses.token_weights(mask, "grpo")` says how much a token counts: each answer as a whole counts
# the same, whatever its length, and padding counts nothing. The loss is the sum of cost times
# weight: `losses.aggregate(cost, weights)`. Use your own two functions before them.


# %%
# YOUR CODE (loss)
def loss_of(logp, old_logp, rewards, mask, G):
    """logp, old_logp, mask: (N * G, T). rewards: (N * G,). Returns one number with a gradient."""
    raise NotImplementedError("advantage, then clipped, then token_weights, then aggregate.")


# %%
# CHECK (loss)
mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
some = torch.linspace(-2.0, -0.5, 12).view(4, 3).requires_grad_()
r = torch.tensor([1.0, 0.0, 0.0, 2.0])
mine = checks.run(loss_of, some, some.detach(), r, mask, 4)
checks.shape(mine, (), "the loss", "One number: did you aggregate?")
weights = losses.token_weights(mask, "grpo")
A = advantages.group_advantage(r, 4)[:, None]
mine = checks.gradient(mine, some, "The loss has no gradient. Do not detach logp.")
ALIKE = "You weigh all tokens alike, so long answers count more. Use token_weights(mask, 'grpo')."
for wrong, why in (  # gradients: each is -A times the weight, see part 4
    (A * weights, "The sign is wrong: did you swap logp and old_logp, or add a minus?"),
    (-A * mask / mask.sum(), ALIKE),
    (-A * mask / mask.numel(), ALIKE),
    (-A * mask, "aggregate needs token_weights(mask, 'grpo'), not the mask itself."),
    (-A * torch.ones(4, 3) / 12, "Padding counts in your mean. Use token_weights and aggregate."),
    (-r[:, None] * weights, "These are the rewards themselves: compute the advantage first."),
):
    checks.true(not checks.same(mine, wrong), why)
padded = (mine * (1 - mask)).any()
hint = "Padding counts in it." if padded else "Are all four steps there, in their order?"
checks.close(mine, -A * weights, "the gradient of the loss", hint)
checks.passed("padding counts nothing, and each answer counts the same")


# %%
def train(policy, asker, number, size=8, learning_rate=2e-4):
    """Take GRPO steps of `size` questions with your loss; returns what to draw."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0)
    lessons = classroom.examples(number=number * size, start=100, keep=overlooked)
    lines = []
    for step in range(1, number + 1):
        asked = lessons[(step - 1) * size : step * size]
        # 1. sample G answers to each question
        prompts, roll, texts = classroom.sample(policy, asker, asked, G, seed=step)
        # 2. score them
        repeated = [example for example in asked for _ in range(G)]
        scores = torch.tensor([reward(text, example) for text, example in zip(texts, repeated)])
        # 3. the log-probs again, now with gradient; the ratio is 1, because nothing has moved yet
        batch = classroom.one_batch(prompts, roll)
        logp = logps.token_logps(policy, batch, suppress=asker.processor.special.vision_ids)
        # 4. your loss
        loss = loss_of(logp, logp.detach(), scores, roll.mask, G)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.2)
        optimizer.step()
        signal = advantages.group_advantage(scores, G).abs().mean()
        line = {"step": step, "reward": float(scores.mean()), "loss": loss.item()}
        lines.append(line | {"mean |advantage|": float(signal)})
        if step % 5 == 0 or step == number:
            print(f"step {step}: reward {line['reward']:.2f}, loss {line['loss']:+.6f}")
    return lines


held_out = classroom.examples(split="test", number=classroom.questions(60), keep=overlooked)
before, answers_before = classroom.accuracy(policy, asker, held_out)
lines = train(policy, asker, classroom.steps(30), size=classroom.questions(8))
after, answers_after = classroom.accuracy(policy, asker, held_out)
print(f"right answers on questions it was never trained on: {before:.0%} before, {after:.0%} after")

# %%
panels = [("reward (at most 2)", ["reward"]), ("loss", ["loss"]), ("signal", ["mean |advantage|"])]
classroom.curves(lines, panels)
changed = [i for i in range(len(held_out)) if answers_before[i] != answers_after[i]][:4]
classroom.show(
    [held_out[i] for i in changed],
    [[("before: " + answers_before[i], {}), ("after: " + answers_after[i], {})] for i in changed],
)

# %% [markdown]
# The reward rises, and not smoothly: each step asks eight other questions. The loss stays at 0
# (look at the power of ten above its axis). The signal falls: more and more groups agree.
# Look at the answers that changed: what does the model do now in the right-hand column, and who
# taught it that?
#
# ## Two things to try
#
# 1. Dr. GRPO: do not divide by the standard deviation (load the model afresh first:
#    `policy, asker = classroom.load()`). Which questions lose weight: those half solved, or those
#    nearly all right or nearly all wrong? Then do not subtract the mean either. What does the loss
#    show now, and what the reward?
# 2. Take four updates on each rollout: repeat from step 3 on, with `old_logp = logp.detach()` from
#    the first. In each, print
#    `losses.clipped_tokens(logp.detach(), old_logp, adv, roll.mask, 0.8, 1.2).sum()`, where
#    `adv = advantages.group_advantage(scores, G)`. When does the clip begin to matter?
#
# ## To read
#
# - DeepSeekMath, [arXiv:2402.03300](https://arxiv.org/abs/2402.03300), equations 3 and 4: GRPO.
# - PPO, [arXiv:1707.06347](https://arxiv.org/abs/1707.06347), equation 7: the clipped objective.
# - Dr. GRPO, [arXiv:2503.20783](https://arxiv.org/abs/2503.20783): what the two divisions do.
# - In this repository: `group_advantage` in `reinforcing/advantages.py`, `clipped_surrogate` in
#   `losses.py`, and the numbered steps in `train_grpo.py`.
