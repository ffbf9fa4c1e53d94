"""Given pairs, and their log-probs by stock transformers."""

import json
from types import SimpleNamespace

import checkpoints
import torch

import data
import model as modeling

PAIRS = (
    "--max-steps 2 --save-steps 0 --batch-size 6 --learning-rate 1e-2 --max-completion-length 60"
)


FLAGS = dict(
    lora_r=0,
    lora_alpha=None,
    lora_dropout=0.0,
    lora_targets=None,
    train_merger=None,
    use_dora=None,
    use_rslora=None,
    freeze_vision=False,
    freeze_merger=False,
    freeze_llm=False,
    gradient_checkpointing=False,
)


def trainable(base, **more):
    """Load a model to be trained: (policy, processor)."""
    return modeling.load(base, train=SimpleNamespace(**{**FLAGS, **more}))


def write_pairs(folder):
    """Write a meta file of three sets (one image, two, text only), two pairs each: its folder."""
    (folder / "images").mkdir()
    for i in range(4):
        checkpoints.picture(56 + 28 * i, 84, i).save(folder / "images" / f"{i}.png")
    sets = {
        "one": [
            {
                "image": f"{i}.png",
                "question": "<image>\nHow many?",
                "chosen": f"I see {i}. Final answer: {i}",
                "rejected": f"Final answer: {i + 2}",
                "answer_gt": str(i),
            }
            for i in range(2)
        ],
        "two": [
            {
                "image": [f"{i}.png", "3.png"],
                "question": "<image>\n<image>\nThe same?",
                "chosen": "They differ. Final answer: no",
                "rejected": "yes",
            }
            for i in range(2)
        ],
        "text": [
            {
                "question": f"What is {i} + 1?",
                "chosen": f"Final answer: {i + 1}",
                "rejected": f"Final answer: {i}, or perhaps more",
            }
            for i in range(2)
        ],
    }
    for name, some in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    (folder / "meta.json").write_text(
        json.dumps(
            {
                name: {
                    "root": "images",
                    "annotation": f"{name}.jsonl",
                    "data_augment": False,
                    "repeat_time": 1,
                    "length": 2,
                }
                for name in sets
            }
        )
    )
    return folder


def stock_logps(policy, processor, pairs):
    """[(log pi of the chosen, of the rejected)] by stock transformers' forward on padded rows:
    nothing of ours but the prompt's ids and pixels.
    """
    found, special = [], processor.special
    for name in ("chosen", "rejected"):
        prompts = [data.Asker(processor, "none").prompt(pair.example) for pair in pairs]
        rows = [
            torch.tensor(
                processor.tokenizer(getattr(pair, name), add_special_tokens=False)["input_ids"]
                + [special.eos_ids[0]]
            )
            for pair in pairs
        ]
        with torch.no_grad():
            logits = policy(
                **checkpoints.stock_inputs(prompts, special, rows)
            ).logits.float()  # (B, S, V)
        logits[..., special.vision_ids] = -torch.inf
        logp = logits.log_softmax(-1)
        found.append(
            [
                float(
                    logp[b, len(p.ids) - 1 : len(p.ids) + len(row) - 1]
                    .gather(1, row[:, None])
                    .sum()
                )
                for b, (p, row) in enumerate(zip(prompts, rows))
            ]
        )
    return list(zip(*found))
