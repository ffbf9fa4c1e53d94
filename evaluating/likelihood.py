"""Choose the option that a checkpoint finds likeliest, instead of reading what it writes.

As lm-evaluation-harness ranks options: by the log-prob of an option's letter, and by that of its
text, in the mean over its tokens, so that a short text has no advantage.
"""

from collections.abc import Sequence

import torch

import batching
import data
import logps
from grading.answers import without_letters
from tasks import option_texts
from tasks.example import Example
from tasks.prompts import question_text


def options_of(example: Example) -> dict[str, list[str]]:
    """List what may be answered to a question: by its `letter`, if it shows letters, and `text`."""
    choices = example.choices
    if not choices:
        return {}
    texts = list(without_letters(tuple(choices)))
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    if option_texts.are_letters(choices):
        return {"letter": letters}
    shown = option_texts.names_all(example.question, choices, with_letters=True)
    return ({"letter": letters} if shown else {}) | {"text": texts}


@torch.no_grad()
def option_logps(
    policy: torch.nn.Module,
    asker: data.Asker,
    prompt: data.Prompt,
    texts: Sequence[str],
    tags: bool,
) -> list[float]:
    """Compute log pi(option | prompt) of each text, the mean over its tokens, in nats.

    tags: the answer stands in <answer> tags, of which the opening one belongs to the prompt.
    """
    processor = asker.processor
    space = " " if tags else ""
    if tags:
        prompt = data.append_response(prompt, "<answer>", processor)
    encode = processor.tokenizer
    rows = [
        torch.tensor(encode(f"{space}{text}", add_special_tokens=False)["input_ids"])
        for text in texts
    ]
    targets, mask = batching.pad_targets(rows, processor.special.pad_id)
    core = logps.core_of(policy)
    batch = batching.collate([prompt], targets, mask, [len(rows)], core.device)
    with logps.in_eval_mode(policy):
        logp = logps.token_logps(policy, batch, suppress=processor.special.vision_ids)  # (B, T)
    logps.must_be_numbers(logp)
    return (logp.sum(1) / batch["mask"].sum(1)).tolist()


def choose(
    policy: torch.nn.Module, asker: data.Asker, asked: Example, prompt: data.Prompt
) -> dict[str, dict]:
    """Rank a question's options: {"letter": {"logps": [...], "chosen": place}, "text": ...}."""
    tags = "<answer>" in question_text(asked, asker.template)
    chosen = {}
    for name, texts in options_of(asked).items():
        values = option_logps(policy, asker, prompt, texts, tags)
        best = max(range(len(values)), key=values.__getitem__)
        chosen[name] = {"logps": [round(value, 4) for value in values], "chosen": best}
    return chosen
