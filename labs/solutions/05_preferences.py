# %%
# YOUR CODE (dpo)
def dpo(chosen, rejected, ref_chosen, ref_rejected, beta):
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    return -F.logsigmoid(beta * margin)


# %%
# YOUR CODE (prediction)
lower = "same"
at_start = 0.6931  # log 2


# %%
# YOUR CODE (first_difference)
def first_difference(one, other):
    for place, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return place
    return min(len(one), len(other))


# %%
# YOUR CODE (mpo)
def quality(chosen, rejected, ref_chosen, ref_rejected, beta):
    good = F.logsigmoid(beta * (chosen - ref_chosen))
    bad = F.logsigmoid(-beta * (rejected - ref_rejected))
    return -good - bad


def generation(chosen, tokens):
    return -chosen / tokens


def mpo(chosen, rejected, ref_chosen, ref_rejected, tokens, beta):
    answers = chosen, rejected, ref_chosen, ref_rejected
    return 0.8 * dpo(*answers, beta) + 0.2 * quality(*answers, beta) + generation(chosen, tokens)
