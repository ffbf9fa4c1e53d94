# %%
# YOUR CODE (cut)
def cut(logits, top_k):
    if top_k:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return logits.softmax(-1)


# %%
# YOUR CODE (prediction)
share_without_a_lesson = 1.0


# %%
# YOUR CODE (eval)
def in_eval_mode(policy, function):
    was_training = policy.training
    policy.train(False)
    try:
        return function()
    finally:
        policy.train(was_training)


# %%
# YOUR CODE (mask)
def mask_of(targets, eos_ids):
    is_end = torch.isin(targets, torch.tensor(eos_ids)).long()
    ends_before = is_end.cumsum(1) - is_end
    return (ends_before == 0).float()


# %%
# YOUR CODE (tokens)
def image_tokens(width, height):
    return (width // 28) * (height // 28)


# %%
# YOUR CODE (fit)
def must_fit(prompt_tokens, room, context):
    if prompt_tokens + room > context:
        raise ValueError(
            f"{prompt_tokens} tokens and {room} of the answer do not fit into {context}"
        )
    return prompt_tokens
