"""Write the language model of a tiny checkpoint as a text-only LLM with words and tokens like R1's.

    python recipes/text_llm.py --model runs/words --output-dir runs/llm --seed 0

recipes/graft.sh needs an LLM that has never seen a picture. Only vision-language models train here,
so it trains one on texts alone, and this script drops its tower. The seed gives all words other
ids. In place of <|im_start|> and <|im_end|> stand DeepSeek-R1's tokens, at ids where the tokenizer
of a Qwen-VL has others. A turn still begins as it was learned: `<｜User｜>user` and a line break.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import graft
import model
from plumbing import rundir, running

END, EOT = graft.ENDS
USER, ASSISTANT = graft.TURNS
TOKENS = (END, USER, ASSISTANT, "<｜begin▁of▁sentence｜>", EOT, "<think>", "</think>")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--model", required=True, help="checkpoint that was trained on texts alone")
    p.add_argument("--output-dir", required=True, help="where the LLM goes")
    p.add_argument("--seed", type=int, default=0, help="of the words' new ids")
    return p.parse_args(argv)


def renamed(settings: dict, order: list[int]) -> dict:
    """Give the words of a tokenizer.json new ids, and the added tokens R1's names.

    order: the old id of each new one.
    """
    new_id = {old: new for new, old in enumerate(order)}
    words = {word: new_id[old] for word, old in settings["model"]["vocab"].items()}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    added = [
        {"id": len(order) + i, "content": token, "special": "think" not in token, **flags}
        for i, token in enumerate(TOKENS)
    ]
    return settings | {"added_tokens": added, "model": settings["model"] | {"vocab": words}}


def turns_of(template: str) -> str:
    """Write a chat template with R1's tokens."""
    template = template.replace("<|im_start|>assistant", f"{ASSISTANT}assistant")
    return template.replace("<|im_start|>", USER).replace("<|im_end|>", END)


def rows_of(old: torch.Tensor, order: list[int], processor) -> torch.Tensor:
    """Put embeddings in the new order, and the rows of turns under R1's tokens."""
    ids = processor.tokenizer.get_vocab()
    start, end = old[ids["<|im_start|>"]], old[ids["<|im_end|>"]]
    mean = old.mean(0)
    added = {END: end, USER: start, ASSISTANT: start}
    return torch.cat([old[order], torch.stack([added.get(token, mean) for token in TOKENS])])


def main(args: argparse.Namespace) -> None:
    policy, processor = model.load(args.model)
    words = policy.config.text_config
    settings = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    generator = torch.Generator().manual_seed(args.seed)
    order = torch.randperm(len(settings["model"]["vocab"]), generator=generator).tolist()
    rows = rows_of(policy.get_input_embeddings().weight.detach(), order, processor)

    rope = {k: v for k, v in words.rope_parameters.items() if not k.startswith("mrope")}
    sizes = {key: getattr(words, key) for key in graft.OF_THE_LLM if hasattr(words, key)}
    ids = {"vocab_size": len(rows), "eos_token_id": len(order), "pad_token_id": len(order)}
    config = CONFIG_MAPPING[policy.family.llm](
        **sizes, **ids, rope_parameters=rope, tie_word_embeddings=False
    )
    llm = AutoModelForCausalLM.from_config(config)
    state = {f"model.{k}": v for k, v in policy.model.language_model.state_dict().items()}
    llm.load_state_dict(state | {"model.embed_tokens.weight": rows, "lm_head.weight": rows})

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(renamed(settings, order))),
        eos_token=END,
        pad_token=END,
    )
    tokenizer.chat_template = turns_of(processor.tokenizer.chat_template)

    def save(directory: Path) -> None:
        llm.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    rundir.publish(args.output_dir, save)
    print(f"wrote {args.output_dir}: {policy.family.llm}, {len(rows)} rows, head of its own")


if __name__ == "__main__":
    running.run(main, parse_args)
