"""What students write by mistake: (lab, blank, its source, check, what the check has to say)."""

ADVANTAGE = "def advantage(rewards, G):\n"
CLIPPED = (
    "def clipped(logp, old_logp, adv, low=0.8, high=1.2):\n"
    "    ratio, adv = (logp - old_logp).exp(), adv[:, None]\n"
)
LOSS = "def loss_of(logp, old_logp, rewards, mask, G):\n"
MASK = "def mask_of(targets, eos_ids):\n    ends = torch.isin(targets, torch.tensor(eos_ids))\n"
REPAIRED = "def repaired(text, gold):\n"

MISTAKES = [
    ("01_advantage", "advantage", ADVANTAGE + "    pass", "advantage", "returns nothing"),
    ("01_advantage", "advantage", ADVANTAGE + "    return rewards", "advantage", "but should be"),
    (
        "01_advantage",
        "advantage",
        ADVANTAGE + "    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)",
        "advantage",
        "You compare each reward with all eight",
    ),
    (
        "01_advantage",
        "advantage",
        ADVANTAGE
        + "    g = rewards.view(-1, G)\n    return (g - g.mean(1, keepdim=True)).flatten()",
        "advantage",
        "do not divide by the standard deviation",
    ),
    (
        "01_advantage",
        "advantage",
        ADVANTAGE + "    g = rewards.view(-1, G)\n"
        "    d = g.std(1, keepdim=True, unbiased=False) + 1e-4\n"
        "    return ((g - g.mean(1, keepdim=True)) / d).flatten()",
        "advantage",
        "divides by G - 1",
    ),
    (
        "01_advantage",
        "advantage",
        ADVANTAGE + "    g = rewards.view(-1, G)\n"
        "    return ((g - g.mean(1, keepdim=True)) / g.std(1, keepdim=True)).flatten()",
        "advantage",
        "Add 1e-4 to the std",
    ),
    (
        "01_advantage",
        "advantage",
        ADVANTAGE + "    g = rewards.view(-1, G)\n    return g - g.mean(1)",
        "advantage",
        "`return g - g.mean(1)`",
    ),
    (
        "01_advantage",
        "clipped",
        CLIPPED + "    return torch.minimum(ratio * adv, ratio.clamp(low, high) * adv)",
        "clipped",
        "The sign is wrong",
    ),
    (
        "01_advantage",
        "clipped",
        CLIPPED + "    return -ratio.clamp(low, high) * adv",
        "clipped",
        "the clipped ratio alone",
    ),
    ("01_advantage", "clipped", CLIPPED + "    return -ratio * adv", "clipped", "do not clip yet"),
    (
        "01_advantage",
        "clipped",
        CLIPPED + "    return -torch.maximum(ratio * adv, ratio.clamp(low, high) * adv)",
        "clipped",
        "You take the maximum",
    ),
    (
        "01_advantage",
        "loss",
        LOSS + "    cost = losses.clipped_surrogate(\n"
        "        logp, old_logp, advantages.group_advantage(rewards, G), mask, 0.8, 1.2)\n"
        "    return (cost * mask).sum() / mask.sum()",
        "loss",
        "weigh all tokens alike",
    ),
    (
        "02_rewards",
        "cheats",
        'cheat_anywhere = "0 1 2 3 4 5 6 7 8 9 <answer> 4 </answer>"',
        "anywhere",
        "which is right",
    ),
    ("02_rewards", "cheats", 'cheat_anywhere = "1 2"', "anywhere", "when 0 is right"),
    ("02_rewards", "cheats", 'cheat_part_of = "lily"', "part_of", "it is a sunflower"),
    ("02_rewards", "cheats", "cheat_confident = [(True, 1.0)]", "confident", "have to be wrong"),
    ("02_rewards", "cheats", "cheat_confident = [(False, 0.5)]", "confident", "earn 0.5"),
    ("02_rewards", "cheats", "cheat_wave = 1024", "wave", "earn 0.500"),
    (
        "02_rewards",
        "repaired",
        REPAIRED + "    return float(gold in text)",
        "repaired",
        "in the thinking only",
    ),
    (
        "02_rewards",
        "repaired",
        REPAIRED + "    return float(float(body_of(text)) == float(gold))",
        "repaired",
        "stops with ValueError",
    ),
    (
        "03_sampling",
        "cut",
        "def cut(logits, top_k):\n"
        "    if not top_k:\n        return logits.softmax(-1)\n"
        "    kept = logits >= logits.topk(top_k).values[:, -1:]\n"
        "    return logits.softmax(-1) * kept",
        "cut",
        "do not add up to 1",
    ),
    (
        "03_sampling",
        "cut",
        "def cut(logits, top_k):\n"
        "    if not top_k:\n        return logits.softmax(-1)\n"
        "    kept = logits >= logits.topk(top_k).values[:, -1:]\n"
        "    return (logits * kept).softmax(-1)",
        "cut",
        "exp(0) is 1",
    ),
    (
        "03_sampling",
        "eval",
        "def in_eval_mode(policy, function):\n    return function()",
        "eval",
        "Dropout is still on",
    ),
    (
        "03_sampling",
        "eval",
        "def in_eval_mode(policy, function):\n    policy.eval()\n    return function()",
        "eval",
        "was in train mode before",
    ),
    (
        "03_sampling",
        "eval",
        "def in_eval_mode(policy, function):\n    was = policy.training\n    policy.eval()\n"
        "    result = function()\n    policy.train(was)\n    return result",
        "eval",
        "put it into `finally`",
    ),
    ("03_sampling", "mask", MASK + "    return targets != 9", "mask", "with the padding token"),
    (
        "03_sampling",
        "mask",
        MASK + "    return (ends.cumsum(1) == 0).float()",
        "mask",
        "stops before the end token",
    ),
    ("03_sampling", "mask", MASK + "    return torch.ones_like(ends)", "mask", "must be 0"),
    ("03_sampling", "tokens", "def image_tokens(w, h):\n    return w * h", "tokens", "are 16"),
    (
        "03_sampling",
        "fit",
        "def must_fit(prompt_tokens, room, context):\n    return prompt_tokens",
        "fit",
        "says nothing",
    ),
    (
        "03_sampling",
        "fit",
        "def must_fit(prompt_tokens, room, context):\n"
        "    if prompt_tokens + room > context:\n        raise ValueError('too long')\n"
        "    return prompt_tokens",
        "fit",
        "cannot tell what to change",
    ),
]
