"""Judges that are models: a reward checkpoint."""

import os
import warnings

import torch

from plumbing import disk, fields, templates
from plumbing.errors import UserError

# --------------------------------------------------------------------------------------------------------- a model as reward


def names_checkpoint(name):
    """Whether --reward-funcs NAME means a checkpoint: a directory, or something that looks like a path or a hub name (owner/model)."""
    return "/" in name or os.sep in name or os.path.isdir(name)


class RewardModel:
    """A sequence-classification checkpoint with one output as a reward, with its own tokenizer (TRL's and open-r1-multimodal's
    `reward_processing_class`). It reads question and answer, as a conversation if its tokenizer has a chat template, and never sees the picture.

    Range: whatever the checkpoint's head puts out; weigh it by --reward-weights. UserError if it cannot be loaded or has more outputs than one.
    """

    def __init__(self, name, device="cpu", dtype=torch.float32):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        where = f"--reward-funcs {name}"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.model, report = AutoModelForSequenceClassification.from_pretrained(
                    name, dtype=dtype, output_loading_info=True, trust_remote_code=False
                )
        except Exception as error:  # the hub client, the two loaders and their file formats raise some twenty types
            if disk.is_the_machines(error):
                raise
            raise UserError(
                f"{where} cannot be loaded as a sequence classifier ({fields.first_line(error)}); name a reward, or a checkpoint with its tokenizer"
            ) from None
        if self.model.config.num_labels != 1:
            raise UserError(
                f"{where} has {self.model.config.num_labels} outputs, but a reward is one number; name a checkpoint with num_labels 1"
            )
        if report["missing_keys"]:  # a plain language model: its head would be noise
            raise UserError(
                f"{where} lacks {', '.join(sorted(report['missing_keys'])[:2])}: not trained as a reward model; name one that is"
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.tokenizer.pad_token is None:
            raise UserError(
                f"{where}: its tokenizer has neither pad_token nor eos_token; set one in its tokenizer_config.json"
            )
        if self.tokenizer.chat_template:
            templates.check_conversation(self.tokenizer, where)
        self.tokenizer.padding_side = "right"
        self.model.config.pad_token_id = (
            self.tokenizer.pad_token_id
        )  # by which it finds the last token of each row
        self.model.to(device).eval().requires_grad_(False)
        self.most = min(
            self.tokenizer.model_max_length,
            getattr(self.model.config, "max_position_embeddings", self.tokenizer.model_max_length),
        )

    @torch.no_grad()
    def score(self, questions, completions, batch_size=32):
        """[float] of B questions and completions. Text beyond the checkpoint's context loses its beginning, but for the token that the tokenizer puts before
        all texts: the end of an answer is what counts. Scores are as fine as `dtype`: in bfloat16 three digits."""
        texts = []
        for question, completion in zip(questions, completions):
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": completion},
            ]
            texts.append(
                self.tokenizer.apply_chat_template(turns, tokenize=False)
                if self.tokenizer.chat_template
                else f"{question}\n{completion}"
            )
        rows = self.tokenizer(texts, add_special_tokens=not self.tokenizer.chat_template)[
            "input_ids"
        ]
        rows = [
            row
            if len(row) <= self.most
            else row[:1] + row[len(row) - self.most + 1 :]
            if row[0] in self.tokenizer.all_special_ids
            else row[-self.most :]
            for row in rows
        ]
        scores = []
        for start in range(0, len(rows), batch_size):
            batch = self.tokenizer.pad(
                {"input_ids": rows[start : start + batch_size]}, return_tensors="pt"
            ).to(self.model.device)
            scores += self.model(**batch).logits[:, 0].float().tolist()
        return scores
