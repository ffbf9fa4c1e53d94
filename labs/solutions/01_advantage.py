# %%
# YOUR CODE (advantage)
def advantage(rewards, G):
    groups = rewards.view(-1, G)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten()


# %%
# YOUR CODE (clipped)
def clipped(logp, old_logp, adv, low=0.8, high=1.2):
    ratio = (logp - old_logp).exp()
    adv = adv[:, None]
    return -torch.minimum(ratio * adv, ratio.clamp(low, high) * adv)


# %%
# YOUR CODE (predictions)
def cost_at_one(A):
    return -A


def slope_at_one(A):
    return -A


mean_cost_of_a_group = 0.0


# %%
# YOUR CODE (loss)
def loss_of(logp, old_logp, rewards, mask, G):
    cost = clipped(logp, old_logp, advantage(rewards, G))
    return losses.aggregate(cost, losses.token_weights(mask, "grpo"))
