"""What students write by mistake: (lab, blank, its source, check, what the check has to say)."""

ADVANTAGE = "def advantage(rewards, G):\n"
CLIPPED = (
    "def clipped(logp, old_logp, adv, low=0.8, high=1.2):\n"
    "    ratio, adv = (logp - old_logp).exp(), adv[:, None]\n"
)
LOSS = "def loss_of(logp, old_logp, rewards, mask, G):\n"
MASK = "def mask_of(targets, eos_ids):\n    ends = torch.isin(targets, torch.tensor(eos_ids))\n"
REPAIRED = "def repaired(text, gold):\n"
TEN = "<think> 0 1 2 3 4 5 6 7 8 9 </think>"
CUT = (
    "def cut(logits, top_k):\n"
    "    if not top_k:\n        return logits.softmax(-1)\n"
    "    last = logits.topk(top_k).values[:, -1:]\n"
)
EVAL = (
    "def in_eval_mode(policy, function):\n    was = policy.training\n    policy.eval()\n"
    "    try:\n        return function()\n"
)
FIT = "def must_fit(prompt_tokens, room, context):\n"


def of(lab: str, blank: str, *rows: tuple[str, str]) -> list[tuple[str, str, str, str, str]]:
    """Write rows (source, what is said) for a blank whose check has the same name."""
    return [(lab, blank, source, blank, says) for source, says in rows]


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
        "number in your <answer>",
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
    *of(
        "01_advantage",
        "advantage",
        (ADVANTAGE + "    return rewards - rewards.mean()", "with all eight"),
        (
            ADVANTAGE + "    g = rewards.view(G, -1)\n"
            "    d = g.std(1, keepdim=True) + 1e-4\n"
            "    return ((g - g.mean(1, keepdim=True)) / d).flatten()",
            "Rows are questions",
        ),
        (
            ADVANTAGE + "    g = rewards.view(-1, G)\n"
            "    return ((g - g.mean(0)) / (g.std(0) + 1e-4)).flatten()",
            "dimension 1",
        ),
        (
            ADVANTAGE + "    g = rewards.view(-1, G)\n"
            "    d = g.var(1, keepdim=True) + 1e-4\n"
            "    return ((g - g.mean(1, keepdim=True)) / d).flatten()",
            "std (not var)",
        ),
        (ADVANTAGE + "    g = rewards.view(-1, G)\n    return g - g.mean(1)", "keepdim=True"),
    ),
    *of(
        "01_advantage",
        "clipped",
        (
            CLIPPED + "    return -torch.minimum(ratio, ratio.clamp(low, high)) * adv",
            "Multiply both by A first",
        ),
        (CLIPPED.replace("[:, None]", "") + "    return -ratio * adv", "or [:, None]"),
        *(
            (
                CLIPPED.replace("logp - old_logp", f"{cut_off} - old_logp")
                + "    return -torch.minimum(ratio * adv, ratio.clamp(low, high) * adv)",
                "without detach",
            )
            for cut_off in ("logp.detach()", "logp.detach().requires_grad_()")
        ),
    ),
    *of(
        "01_advantage",
        "predictions",
        ("mean_cost_of_a_group = '0'", "should be a number, but is '0'"),
        ("def cost_at_one(A):\n    return '-A'", "`cost_at_one` should be a number"),
        ("mean_cost_of_a_group = 1", "add up to 0"),
    ),
    *of(
        "01_advantage",
        "loss",
        *(
            (
                LOSS + "    A, w = advantage(rewards, G), losses.token_weights(mask, 'grpo')\n"
                f"    return {returned}",
                says,
            )
            for returned, says in (
                ("losses.aggregate(clipped(old_logp, logp, A), w)", "swap logp and old_logp"),
                ("-losses.aggregate(clipped(logp, old_logp, A), w)", "add a minus"),
                ("losses.aggregate(clipped(logp, old_logp, rewards), w)", "the rewards themselves"),
                ("losses.aggregate(clipped(logp, old_logp, A), mask)", "not the mask itself"),
                ("(clipped(logp, old_logp, A) * mask).mean()", "weigh all tokens alike"),
                ("clipped(logp, old_logp, A).mean()", "Padding counts in your mean"),
                ("clipped(logp, old_logp, A).sum()", "Padding counts in it"),
                ("losses.aggregate(clipped(logp, old_logp, 2 * A), w)", "all four steps"),
                ("losses.aggregate(clipped(logp.detach(), old_logp, A), w)", "has no gradient"),
            )
        ),
    ),
    *(
        ("02_rewards", "cheats", source, check, says)
        for check, source, says in (
            ("anywhere", "cheat_anywhere = 4", "should be a text"),
            ("anywhere", f"cheat_anywhere = '{TEN}'", "has no <answer>"),
            ("anywhere", f"cheat_anywhere = '{TEN}<answer>0</answer>'", "number in your <answer>"),
            ("anywhere", "cheat_anywhere = '0123456789'", "as a number of its own"),
            ("part_of", "cheat_part_of = 'e'", "it is a lupin"),
            ("part_of", "cheat_part_of = 'fire lily or sunflower'", "it is a rose"),
            ("part_of", "cheat_part_of = 1", "should be a text"),
            ("confident", "cheat_confident = (False, 0)", "a list of pairs"),
            ("confident", "cheat_confident = [(False, -1), (False, 1)]", "between 0 and 1"),
            ("confident", "cheat_confident = [(False, 'low')]", "should be a number"),
            ("confident", "cheat_confident = []", "Without any box"),
            ("wave", "cheat_wave = '2048'", "should be a number, but is '2048'"),
        )
    ),
    *of(
        "02_rewards",
        "repaired",
        (
            REPAIRED + "    found = re.findall('<answer>([^<]*)</answer>', text)\n"
            "    if len(found) == 2 and text.find('<answer>') < text.find('</think>'):\n"
            "        found = found[1:]\n"
            "    try:\n        return float(len(found) == 1 and float(found[0]) == float(gold))\n"
            "    except ValueError:\n        return 0.0",
            "the only answer is inside the thinking",
        ),
        (REPAIRED + "    return 'right'", "`repaired` should be a number"),
    ),
    *of(
        "03_sampling",
        "cut",
        (
            CUT + "    return logits.masked_fill(logits <= last, -torch.inf).softmax(-1)",
            "cut what is smaller (<)",
        ),
        (
            CUT.replace("-1:", "-1")
            + "    return logits.masked_fill(logits < last, -torch.inf).softmax(-1)",
            "Two shapes do not fit",
        ),
        (
            "def cut(logits, top_k):\n    last = logits.topk(top_k).values[:, -1:]\n"
            "    return logits.masked_fill(logits < last, -torch.inf).softmax(-1)",
            "The second one is empty",
        ),
        ("def cut(logits, top_k):\n    return logits.softmax(0)", "add up to 1?"),
        ("def cut(logits, top_k):\n    return logits.log_softmax(-1)", "without a log"),
        (CUT + "    return logits.softmax(-1)", "Which tokens of a row stay?"),
    ),
    *of("03_sampling", "prediction", ("share_without_a_lesson = 'all'", "should be a number")),
    *of(
        "03_sampling",
        "eval",
        (
            EVAL + "    except Exception:\n        pass\n    finally:\n        policy.train(was)",
            "hide it",
        ),
        (
            EVAL + "    except KeyError:\n        raise ValueError('x') from None\n"
            "    finally:\n        policy.train(was)",
            "should raise KeyError here, but raises ValueError: x",
        ),
    ),
    *of(
        "03_sampling",
        "mask",
        (MASK + "    return (ends.cumsum(1) - ends == 0).float()", "Subtraction"),
        (
            MASK + "    e = ends.long()\n    return (e.cumsum(0) - e == 0).float()",
            "count down the columns",
        ),
        (
            MASK + "    e = (targets == eos_ids[0]).long()\n"
            "    return (e.cumsum(1) - e == 0).float()",
            "the first of eos_ids only",
        ),
        ("def mask_of(targets, eos_ids):\n    return torch.isin(targets, eos_ids)", "in its line"),
    ),
    *of(
        "03_sampling",
        "tokens",
        ("def image_tokens(w, h):\n    return w * h / 784", "divide by //"),
    ),
    *of(
        "03_sampling",
        "fit",
        (
            FIT + "    if prompt_tokens + room >= context:\n        raise ValueError('x')\n"
            "    return prompt_tokens",
            "900 + 100 tokens fit",
        ),
        (
            FIT + "    assert prompt_tokens + room < context, 'x'\n    return prompt_tokens",
            "900 + 100 tokens fit",
        ),
        (
            FIT + "    assert prompt_tokens + room <= context, 'x'\n    return prompt_tokens",
            "should raise ValueError here, but raises AssertionError",
        ),
        (FIT + "    return prompt_tokens + room", "should return 90"),
    ),
]
