# %% [markdown]
# # Lab 3: Sampling bugs
#
# **The question.** Reinforcement learning trains on what the model says. What if the sampling is
# wrong? No error message comes up. The reward just does not rise, and days are lost.
#
# Here are four such bugs, all of them from published code. For each you measure the symptom and
# write the line that is right.
#
# One hour, of which the computer works about two minutes. Run the cells from top to bottom.
# Fill in every cell that begins with `# YOUR CODE`, and leave its first line as it is.
# A cell that begins with `# CHECK` says what is wrong with it.

# %%
import sys
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path.cwd().parent)]  # the repository, from labs/ or above

import torch

import logps
import losses
import rewards
import rollout
from labs import checks, classroom
from reinforcing import advantages, agreement

policy, asker = classroom.load()
special = asker.processor.special
G = 8  # completions of each question
asked = classroom.examples("count", number=classroom.questions(12))
repeated = [example for example in asked for _ in range(G)]

# %% [markdown]
# ## 1. top-k 1
#
# A checkpoint carries a file `generation_config.json` with the authors' favourite sampling.
# Qwen2-VL's says `top_k: 1`: of all tokens, only the likeliest may be drawn. A trainer that calls
# `model.generate(do_sample=True)` gets this setting without asking for it.
#
# Write what top-k does to the distribution of the next token.


# %%
# YOUR CODE (cut)
def cut(logits, top_k):
    """logits: (B, V). Returns (B, V), the probabilities that are drawn from; each row adds up to 1.

    top_k: how many of the likeliest tokens may be drawn; 0 means all of them, and needs an `if`.
    logits.topk(top_k).values[:, -1:] is the smallest logit that may stay.
    """
    raise NotImplementedError("Set the logits that are too small to -torch.inf, then softmax.")


# %%
# CHECK (cut)
logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 3.0, 0.5, 1.0]])
everything = checks.run(cut, logits.clone(), 0)
checks.close(
    everything,
    logits.softmax(-1),
    "cut(logits, 0)",
    "0 means: do not cut. Does each row add up to 1? softmax(-1), without a log.",
)
mine = checks.run(cut, logits.clone(), 2)
kept = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
part = logits.softmax(-1) * kept
checks.true(
    not checks.same(mine, part),
    "The tokens are right, but the rows do not add up to 1: cut the logits before the softmax.",
)
checks.true(
    not checks.same(mine, (logits * kept).softmax(-1)),
    "A logit of 0 is not a probability of 0: exp(0) is 1. Use -torch.inf.",
)
likeliest = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
checks.true(
    not checks.same(mine, likeliest),
    "One token is left of two. The smallest of them stays: cut what is smaller (<), not what is "
    "equal.",
)
checks.close(
    mine, part / part.sum(-1, keepdim=True), "cut(logits, 2)", "Which tokens of a row stay?"
)
one = checks.run(cut, logits.clone(), 1)
checks.close(one, likeliest, "cut(logits, 1)", "One token of each row stays.")
checks.passed("with top-k 1 there is one token to draw from: sampling has become greedy")

# %% [markdown]
# Before you run the next cell, predict: with top-k 1, which share of the questions has eight
# answers with equal rewards?

# %%
# YOUR CODE (prediction)
share_without_a_lesson = ...  # a number from 0 to 1

# %%
for top_k in (1, 0):
    sampling = rollout.Sampling(classroom.LIMIT, top_k=top_k)
    _, roll, texts = classroom.sample(policy, asker, asked, G, sampling=sampling)
    scores = torch.tensor([rewards.accuracy(t, e) for t, e in zip(texts, repeated)])
    different = sum(len({*texts[i : i + G]}) for i in range(0, len(texts), G)) / len(asked)
    measured = float(advantages.frac_reward_zero_std(scores, G))
    adv = advantages.group_advantage(scores, G).abs().mean()
    print(
        f"top-k {top_k}: {different:.1f} different answers of {G}, right {scores.mean():.0%}, "
        f"questions without a lesson {measured:.0%}, mean |advantage| {adv:.2f}"
    )
    if top_k == 1:
        zero_std = measured
classroom.show(asked[:2], [[(t, {}) for t in texts[:3]], [(t, {}) for t in texts[G : G + 3]]])

# %%
# CHECK (prediction)
mine = checks.number(
    share_without_a_lesson, "share_without_a_lesson", "Are greedy answers different?"
)
checks.true(
    abs(mine - zero_std) < 1e-6,
    f"It was measured: {zero_std:g}. Eight greedy answers to one question are the same text.",
)
checks.passed("greedy groups teach nothing: watch frac_reward_zero_std in the log of a run")

# %% [markdown]
# ## 2. Train mode
#
# Dropout switches off random parts of a network, in train mode only. LoRA adapters often have
# some. If the answers are sampled or their log-probs are computed in train mode, then the model
# that is trained is not the one that spoke. We give our model a dropout of 0.1 and look.


# %%
# YOUR CODE (eval)
def in_eval_mode(policy, function):
    """Call function() with dropout off, and return what it returns.

    Afterwards the policy is in the mode in which it was, train or eval, even if function() raises.
    policy.training tells the mode; policy.train(True) and policy.train(False) set it.
    """
    raise NotImplementedError("Remember policy.training; then try: ... finally: restore it.")


# %%
# CHECK (eval)
for before in (True, False):
    policy.train(before)
    during = checks.run(in_eval_mode, policy, lambda: str(policy.training))
    checks.true(during == "False", "Dropout is still on while function() runs: policy.eval().")
    checks.true(
        policy.training == before,
        f"The policy was in {'train' if before else 'eval'} mode before, and is not any more.",
    )


def fails():
    raise KeyError("a picture is missing")


policy.train()
checks.raises(
    KeyError,
    in_eval_mode,
    policy,
    fails,
    silent="function() raised an error, and you hide it. try and finally let it through.",
)
checks.true(policy.training, "After an error the policy stays in eval mode: put it into `finally`.")
policy.eval()
checks.passed("dropout is off while the model speaks, and comes back for the training step")

# %%
in_eval = ...  # until in_eval_mode is written
prompts, roll, texts = classroom.sample(policy, asker, asked, G)  # always in eval mode, here
batch = classroom.one_batch(prompts, roll)
for layer in policy.modules():
    if hasattr(layer, "attention_dropout"):
        layer.attention_dropout = 0.1


def log_probs():
    with torch.no_grad():
        return logps.token_logps(policy, batch, suppress=special.vision_ids)


policy.train()
torch.manual_seed(0)  # which parts dropout switches off
in_train, in_eval = log_probs(), in_eval_mode(policy, log_probs)
for name, logp in (("train", in_train), ("eval", in_eval)):
    ratio = (logp - roll.logp).exp()[roll.mask == 1]
    outside = ((ratio < 0.8) | (ratio > 1.2)).float().mean()
    gap = agreement.logp_difference(roll.logp, logp, roll.mask)
    print(
        f"{name} mode: ratios from {ratio.min():.3g} to {ratio.max():.3g}, {outside:.1%} of the "
        f"tokens outside 0.8 to 1.2, KL {gap['k3']:.1e} nats a token"
    )

# %%
# CHECK (ratio)
checks.filled(in_eval, "in_eval", "Fill in in_eval_mode first, then run the cell above again.")
checks.true(
    agreement.rollout_agrees(roll.logp, in_eval, roll.mask),
    "Rollout and training disagree. Run the cells of part 2 again, from its beginning.",
)
checks.true(not agreement.rollout_agrees(roll.logp, in_train, roll.mask), "Was dropout on at all?")
checks.passed("nothing has been trained yet, so every ratio has to be 1; in train mode it is not")

# %% [markdown]
# ## 3. The end token in the mask
#
# The mask says which tokens count. Answers have different lengths, and `targets` is padded on the
# right. In Qwen2-VL the padding token is itself one of the two tokens that end a text! Two bugs
# are popular: `mask = targets != pad`, and a mask that stops *before* the end token. With the
# second one the model is never told whether to stop here was a good idea.


# %%
# YOUR CODE (mask)
def mask_of(targets, eos_ids):
    """targets: (B, T) ids. eos_ids: the ids that end a text. Returns (B, T) of 0.0 and 1.0.

    1 up to the first end token, that token included. A row without one is all 1.
    torch.isin(targets, torch.tensor(eos_ids)) finds end tokens; .long() makes 1 and 0 of True and
    False. cumsum(1) counts those so far, with the token itself.
    """
    raise NotImplementedError("A token counts if no end token stands *before* it in its row.")


# %%
# CHECK (mask)
END, PAD = 7, 9  # both end a text
rows = torch.tensor([[1, 2, END, PAD], [1, 2, 3, 4], [PAD, PAD, PAD, PAD], [1, END, 2, END]])
right = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
mine = checks.run(mask_of, rows.clone(), [END, PAD])
checks.shape(mine, (4, 4), "the mask")
mine = mine.float()
checks.true(
    not checks.same(mine, (rows != PAD).float()),
    "You compare with the padding token. Row 2 (from 0) ends with its first token, which is the "
    "padding token, and row 3 goes on after its end. Count the end tokens before each place.",
)
checks.true(
    not checks.same(mine, torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])),
    "You count down the columns, over different answers. Along an answer is cumsum(1).",
)
one_id = right.clone()
one_id[2] = 1
checks.true(
    not checks.same(mine, one_id),
    "You look for the first of eos_ids only. Each of them ends a text: torch.isin.",
)
checks.true(
    mine[0, 2] == 1 and mine[3, 1] == 1,
    "Your mask stops before the end token. That token is a choice of the model, too.",
)
checks.true(mine[0, 3] == 0 and mine[3, 2] == 0, "What follows the first end token must be 0.")
checks.true(mine[2, 0] == 1, "Row 2 says nothing but its end token, and that counts.")
checks.close(mine, right, "the mask")
checks.close(
    checks.run(mask_of, roll.targets, special.eos_ids).float(), roll.mask, "the mask of the rollout"
)
checks.passed("the first end token is inside the mask, and nothing after it")


# %% [markdown]
# Can you see this bug in a curve? We train twice for a few steps, once with each mask, and pay an
# answer for being short. Guess first what will differ.


# %%
def without_end(targets):
    """The bug: the mask stops before the end token."""
    mask = mask_of(targets, special.eos_ids)
    is_end = torch.isin(targets, torch.tensor(special.eos_ids))
    return mask * ~is_end


def with_end(targets):
    return mask_of(targets, special.eos_ids)


def brevity(text, example):
    return 1 - len(text) / 400


runs = {}
for name, mask in (("end token in the mask", with_end), ("without it", without_end)):
    print(name)
    fresh, _ = classroom.load()
    runs[name] = classroom.learn(fresh, asker, brevity, classroom.steps(15), mask_of=mask)
lines = [
    {"step": step, **{name: run[step - 1]["tokens"] for name, run in runs.items()}}
    for step in range(1, len(runs["without it"]) + 1)
]
classroom.curves(lines, [("tokens of an answer", [*runs])], "paid for being short")

# %% [markdown]
# When we ran this, the two curves were alike: there are other ways to be short, such as leaving
# out what is in the picture. So look at the gradient instead. Which share of the end tokens has
# one? (In a group whose answers are equally long, no token has; nor has an answer whose length is
# just the mean of its group.)

# %%
is_end = torch.isin(roll.targets, torch.tensor(special.eos_ids)) & (roll.mask == 1)
lengths = roll.mask.sum(1)
adv = advantages.group_advantage(-lengths, G)  # the shorter, the better
for name, mask in (("end token in the mask", with_end), ("without it", without_end)):
    logp = roll.logp.clone().requires_grad_()
    counted = mask(roll.targets)
    cost = losses.clipped_surrogate(logp, logp.detach(), adv, counted, 0.8, 1.2)
    losses.aggregate(cost, losses.token_weights(counted, "grpo")).backward()
    has_gradient = (logp.grad[is_end] != 0).float().mean()
    print(f"{name}: {has_gradient:.0%} of the end tokens have a gradient")

# %% [markdown]
# ## 4. Truncated prompts
#
# A picture costs tokens: one for each 28 x 28 pixels. Some trainers have a longest prompt and cut
# what is too long, on the left, after the picture has become tokens. The question stands at the
# end and survives. The picture does not.


# %%
# YOUR CODE (tokens)
def image_tokens(width, height):
    """Return how many tokens a picture of width x height pixels costs, both multiples of 28."""
    raise NotImplementedError("One for each square of 28 x 28 pixels.")


# %%
# CHECK (tokens)
for width, height in ((112, 112), (280, 140), (560, 420)):
    mine = checks.run(image_tokens, width, height)
    right = asker.tokens_of(width, height)
    checks.true(isinstance(mine, int), f"{mine!r} is no whole number: divide by //, not by /.")
    checks.true(mine == right, f"{width} x {height} pixels are {right} tokens, not {mine}.")
whole, smaller = image_tokens(1372, 1008), asker.tokens_of(1372, 1008)
checks.passed(f"a photograph of 1372 x 1008 would be {whole} tokens; made smaller, {smaller} here")


# %%
def cut_on_the_left(prompt, longest):
    """The bug: keep the last `longest` tokens, and of the picture what is left of it."""
    gone = max(0, len(prompt.ids) - longest)
    slots = prompt.image_slots - gone
    kept = slots >= 0
    if not kept.any():
        prompt = replace(prompt, pixel_values=None, grid=None, features=None)
    else:
        with torch.no_grad():
            features = logps.image_features(policy, prompt.pixel_values, prompt.grid)
        prompt = replace(prompt, features=features[kept])
    return replace(
        prompt,
        ids=prompt.ids[gone:],
        positions=prompt.positions[:, gone:],
        image_slots=slots[kept],
    )


policy, asker = classroom.load()  # without the dropout
held_out = classroom.examples(split="test", number=classroom.questions(60))
whole = [asker.prompt(example) for example in held_out]
shortest = min(len(prompt.ids) - int(prompt.image_slots[-1]) for prompt in whole)  # no picture
longest = max(len(prompt.ids) for prompt in whole)
greedy = rollout.Sampling(classroom.LIMIT, temperature=0)
lines = []
for kept in torch.linspace(longest, shortest - 1, 6).int().tolist():
    cut_prompts = [cut_on_the_left(prompt, kept) for prompt in whole]
    roll = rollout.rollout(policy, cut_prompts, special, 1, greedy)
    texts = [asker.processor.decode(ids[:n]) for ids, n in zip(roll.targets, roll.lengths)]
    pairs = list(zip(texts, held_out))
    line = {
        "step": kept,
        "right answers": sum(rewards.accuracy(t, e) for t, e in pairs) / len(pairs),
        "well-formed answers": sum(rewards.format(t, e) for t, e in pairs) / len(pairs),
    }
    lines.append(line)
    left = sum(len(prompt.image_slots) for prompt in cut_prompts) / len(cut_prompts)
    print(f"{kept} tokens: {left:.0f} of 16 image tokens left, right {line['right answers']:.0%}")
classroom.curves(
    lines,
    [("share of answers", ["right answers", "well-formed answers"])],
    "prompts cut on the left",
    x="tokens kept",
)
print("an answer without the picture:", texts[0])

# %% [markdown]
# Nothing failed. The tags are perfect and the thinking is nonsense, about a picture that the model
# has not seen. A reward for form would be paid. So a program should refuse what does not fit.


# %%
# YOUR CODE (fit)
def must_fit(prompt_tokens, room, context):
    """Return prompt_tokens if the prompt and `room` tokens of answer fit into the context.

    Otherwise raise a ValueError that names the three numbers, so that a user knows what to change.
    """
    raise NotImplementedError("Compare prompt_tokens + room with context, then raise or return.")


# %%
# CHECK (fit)
mine = checks.run(must_fit, 90, 100, 1000)
checks.true(mine == 90, f"must_fit(90, 100, 1000) should return 90, but returns {mine!r:.40}.")
try:
    must_fit(900, 100, 1000)
except Exception:
    raise checks.Wrong("900 + 100 tokens fit into 1000, and you refuse them. Use >.") from None
said = checks.raises(
    ValueError,
    must_fit,
    901,
    100,
    1000,
    silent="901 + 100 tokens do not fit into 1000, and `must_fit` says nothing.",
)
missing = [number for number in ("901", "100", "1000") if number not in said]
checks.true(not missing, f"Your message does not say {missing}: a user cannot tell what to change.")
checks.passed("better no run at all than one that trains blind")

# %% [markdown]
# ## Two things to try
#
# 1. Sample with `rollout.Sampling(classroom.LIMIT, top_k=3)`. How many questions still have a
#    lesson? Compute the ratio as in part 2. It is 1 although tokens were cut. Why, and which
#    distribution were the answers drawn from? (`rollout.sample` says which log-probs it returns.)
#    Then `temperature=0.3`: give it to `logps.token_logps`, too. What happens without?
# 2. In part 3, pay for length instead: `len(text) / 400`. Which of the two masks can lengthen the
#    answers now? Explain what happens at the limit of 96 tokens, where there is no end token.
#
# ## To read
#
# - DAPO, [arXiv:2503.14476](https://arxiv.org/abs/2503.14476), section 3.4: answers that are cut.
# - TRL's issue [3000](https://github.com/huggingface/trl/issues/3000): dropout while sampling.
# - In this repository: `rollout_plain` in `rollout.py`, which is 45 lines, and `logps.py`.
