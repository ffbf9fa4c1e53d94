"""Judges that are models: a reward checkpoint."""

import os
from collections.abc import Iterable

import torch

from plumbing import loaded, templates
from plumbing.errors import UserError


def names_checkpoint(name: str) -> bool:
    """Tell whether --reward-funcs NAME means a checkpoint: a directory, a path or a hub name."""
    return "/" in name or os.sep in name or os.path.isdir(name)


class RewardModel:
    """Score with a sequence-classification checkpoint that has one output.

    It has its own tokenizer, as in TRL and open-r1-multimodal (`reward_processing_class`). It reads
    question and answer, as a conversation if its tokenizer has a chat template; no picture.
    Range: whatever the checkpoint's head puts out; weigh it by --reward-weights.
    UserError if it cannot be loaded or has more outputs than one.
    """

    def __init__(self, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32):
        where = f"--reward-funcs {name}"
        self.tokenizer, self.model, missing = load_classifier(name, where, dtype)
        if self.model.config.num_labels != 1:
            raise UserError(
                f"{where} has {self.model.config.num_labels} outputs, but a reward is one number; "
                "name a checkpoint with num_labels 1"
            )
        if missing:  # a plain language model: its head would be noise
            raise UserError(
                f"{where} lacks {', '.join(sorted(missing)[:2])}: not trained as a reward model; "
                "name one that is"
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.tokenizer.pad_token is None:
            raise UserError(
                f"{where}: its tokenizer has neither pad_token nor eos_token; "
                "set one in its tokenizer_config.json"
            )
        if self.tokenizer.chat_template:
            templates.check_conversation(self.tokenizer, where)
        self.tokenizer.padding_side = "right"
        # The model finds the last token of each row by this id.
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model.to(device).eval().requires_grad_(False)
        most = self.tokenizer.model_max_length
        self.context = min(most, getattr(self.model.config, "max_position_embeddings", most))

    @torch.no_grad()
    def score(
        self, questions: Iterable[str], completions: Iterable[str], batch_size: int = 32
    ) -> list[float]:
        """Score each completion of its question; as fine as `dtype`: in bfloat16 three digits."""
        texts = [self.conversation(*pair) for pair in zip(questions, completions)]
        special = not self.tokenizer.chat_template  # a template writes its own special tokens
        rows = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        rows = [keep_end(ids, self.context, self.tokenizer.all_special_ids) for ids in rows]
        scores = []
        for start in range(0, len(rows), batch_size):
            batch = {"input_ids": rows[start : start + batch_size]}
            batch = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
            scores += self.model(**batch).logits[:, 0].float().tolist()
        return scores

    def conversation(self, question: str, completion: str) -> str:
        """Write a question and an answer to it as the checkpoint reads them."""
        if not self.tokenizer.chat_template:
            return f"{question}\n{completion}"
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": completion},
        ]
        return self.tokenizer.apply_chat_template(turns, tokenize=False)


def load_classifier(name: str, where: str, dtype: torch.dtype) -> tuple:
    """Load (tokenizer, model, names of weights that it lacks). UserError if that fails."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    what = f"{where} cannot be loaded as a sequence classifier"
    with loaded.refusing(what, "name a reward, or a checkpoint with its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    return tokenizer, model, report["missing_keys"]


def keep_end(ids: list[int], limit: int, special: list[int]) -> list[int]:
    """Cut a row from the left: the end of an answer counts. A leading special token stays."""
    if len(ids) <= limit:
        return ids
    if ids[0] in special:
        return ids[:1] + ids[len(ids) - limit + 1 :]
    return ids[-limit:]
