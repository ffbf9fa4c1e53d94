"""The batched rollout engine, and as a command: ask a checkpoint about an image.

    python generate.py --model runs/grpo --image picture.png --prompt "How many red objects are there?"

`rollout` encodes each image once and prefills each prompt once, whatever the number of completions; then all B = N * G rows decode
together, and rows that ended leave the batch. It samples by itself: a checkpoint's generation_config is not consulted, because Qwen2-VL's
(top_k 1, temperature 0.01, repetition penalty 1.05) silently makes sampling greedy.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import DynamicCache

import data
import model as modeling
import rewards
import utils


@dataclass
class Rollout:
    """B completions. targets: (B, T) ids, right-padded, the end-of-turn token included; logp, mask: (B, T) float32; lengths: (B,) long; finish:
    list of B, "stop" (said an end-of-text token) or "length" (cut)."""
    targets: torch.Tensor
    logp: torch.Tensor
    mask: torch.Tensor
    lengths: torch.Tensor
    finish: list


def sample(logits, uniform, temperature=1.0, top_p=1.0, top_k=0):
    """One token a row by inverting the cumulative distribution. logits: (B, V); uniform: (B,) float64 in [0, 1).

    temperature 0 is greedy. top_k 0 and top_p 1 keep the whole distribution, which is what RL wants: any cut makes importance ratios
    wrong. Returns tokens (B,) and logp (B,) float32: of the tempered distribution before top-k and top-p, the one that
    `token_logps` computes (greedy: at temperature 1).
    """
    logp = (logits.float() / (temperature or 1.0)).log_softmax(-1)                            # (B, V)
    if temperature == 0:
        tokens = logp.argmax(-1)
    else:
        probs = (logp.cpu() if logp.device.type == "mps" else logp).double().exp()            # Apple's GPUs have no float64
        if top_k and top_k < probs.shape[-1]:
            probs = probs.masked_fill((logp < logp.topk(top_k).values[:, -1:]).to(probs.device), 0)
        if top_p < 1:
            ordered, order = probs.sort(descending=True)
            ordered = ordered / ordered.sum(-1, keepdim=True)
            beyond = ordered.cumsum(-1) - ordered >= top_p                                    # the smallest set whose mass reaches top_p
            probs = probs.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0)
        cumulative = probs.cumsum(-1)
        # right=True: the first token whose cumulative mass exceeds the draw, so one of probability 0 is never taken
        tokens = torch.searchsorted(cumulative, uniform.to(probs.device)[:, None] * cumulative[:, -1:], right=True)[:, 0]
        tokens = tokens.clamp_max(logits.shape[-1] - 1).to(logp.device)
    return tokens, logp.gather(-1, tokens[:, None])[:, 0]


def row_uniforms(seed, rows, length):
    """(len(rows), length) float64 in [0, 1): the draws of each row, from (seed, row) alone, so that neither the composition of the batch
    nor the rows that have left it change what a row says."""
    draws = torch.empty(len(rows), length, dtype=torch.float64)
    generator = torch.Generator()
    for i, row in enumerate(rows):
        generator.manual_seed((seed * 1_000_003 + row * 7_919 + 17) % (2 ** 63))
        torch.rand(length, generator=generator, dtype=torch.float64, out=draws[i])
    return draws


@torch.no_grad()
def rollout(policy, prompts, special, num_generations=1, max_completion_length=256, temperature=1.0, top_p=1.0, top_k=0, seed=0, first_row=0):
    """Sample `num_generations` (G) completions for each of N prompts. Returns a Rollout of B = N * G rows, the rows of a prompt contiguous.

    prompts: list of data.Prompt, of any lengths and image sizes. special: processor.special; its vision ids are never sampled, its eos_ids end
    a row. Row b draws from (seed, first_row + b). Runs in eval mode, with no dropout and no gradient checkpointing (in train mode,
    checkpointing drops the cache and the tokens come out wrong), and restores the mode. logp is that of the tempered distribution.
    """
    core, G = modeling.core_of(policy), num_generations
    device, B = core.device, len(prompts) * num_generations
    was_training = policy.training
    policy.eval()
    language_model, eos = core.model.language_model, torch.tensor(special.eos_ids, device=device)
    uniforms = row_uniforms(seed, range(first_row, first_row + B), max_completion_length) if temperature else None
    if uniforms is not None and device.type != "mps":
        uniforms = uniforms.to(device)
    targets = torch.full((B, max_completion_length), special.pad_id, device=device)
    logps = torch.zeros(B, max_completion_length, device=device)
    lengths = torch.full((B,), max_completion_length, device=device)

    with modeling.autocast(core):
        # 1. images once, prompts once, padded on the left so that all of them end at the same place
        batch = left_padded(prompts, special.pad_id, device)
        embeds = modeling.embed(core, batch)                                                  # (N, P, D)
        cache = DynamicCache(config=language_model.config)
        state = language_model(inputs_embeds=embeds, position_ids=batch["positions"], attention_mask=batch["attention_mask"],
                               past_key_values=cache, use_cache=True).last_hidden_state[:, -1]                # (N, D)
        # 2. G rows for each prompt
        cache.batch_repeat_interleave(G)
        state, attention = state.repeat_interleave(G, 0), batch["attention_mask"].repeat_interleave(G, 0)
        following = torch.tensor([p.following for p in prompts], device=device).repeat_interleave(G)
        live = torch.arange(B, device=device)                                                 # rows still in the batch
        ended = torch.zeros(B, dtype=torch.bool, device=device)                               # of those, which have ended
        for t in range(max_completion_length):
            # 3. one token a row
            logits = core.lm_head(state).float()                                              # (live, V)
            logits[:, special.vision_ids] = -torch.inf
            tokens, logp = sample(logits, uniforms[live.to(uniforms.device), t] if temperature else None, temperature, top_p, top_k)
            writes = live[~ended]
            targets[writes, t], logps[writes, t] = tokens[~ended], logp[~ended]
            stops = torch.isin(tokens, eos) & ~ended
            lengths[live[stops]] = t + 1
            ended = ended | stops
            running = int((~ended).sum())
            if running == 0 or t == max_completion_length - 1:
                break
            # 4. rows that ended leave, once a quarter of them has: copying the cache costs about as much as a few steps
            if running <= 0.75 * len(live):
                keep = (~ended).nonzero()[:, 0]
                cache.batch_select_indices(keep)
                live, attention, tokens, ended = live[keep], attention[keep], tokens[keep], ended[keep]
            # 5. and on: in a response all three M-RoPE positions count 1, 2, 3, ...
            attention = torch.cat([attention, attention.new_ones(len(live), 1)], 1)
            position = (following[live] + t).expand(3, 1, -1).transpose(1, 2)                 # (3, live, 1)
            embeds = language_model.embed_tokens(tokens[:, None])
            state = language_model(inputs_embeds=embeds, position_ids=position, attention_mask=attention,
                                   past_key_values=cache, use_cache=True).last_hidden_state[:, -1]            # (live, D)

    policy.train(was_training)
    T = int(lengths.max())
    stopped = torch.isin(targets.gather(1, lengths[:, None] - 1)[:, 0], eos).tolist()
    mask = (torch.arange(T, device=device) < lengths[:, None]).float()
    return Rollout(targets[:, :T].cpu(), logps[:, :T].cpu(), mask.cpu(), lengths.cpu(), ["stop" if s else "length" for s in stopped])


def left_padded(prompts, pad_id, device):
    """N prompts padded on the left to one length P: what `embed` and a prefill need. Padding is masked, and its positions do not matter."""
    P = max(len(p.ids) for p in prompts)
    ids, attention = torch.full((len(prompts), P), pad_id), torch.zeros(len(prompts), P, dtype=torch.long)
    positions = torch.zeros(3, len(prompts), P, dtype=torch.long)
    for n, prompt in enumerate(prompts):
        start = P - len(prompt.ids)
        ids[n, start:], attention[n, start:], positions[:, n, start:] = prompt.ids, 1, prompt.positions
    image_to = torch.cat([p.image_at + (n + 1) * P - len(p.ids) for n, p in enumerate(prompts)])
    pictured = [p for p in prompts if p.pixel_values is not None]
    batch = {"input_ids": ids, "attention_mask": attention, "positions": positions, "image_to": image_to, "image_from": torch.arange(len(image_to)),
             "pixel_values": torch.cat([p.pixel_values for p in pictured]) if pictured else None, "grid": torch.cat([p.grid for p in pictured]) if pictured else None}
    return {name: value if value is None else value.to(device) for name, value in batch.items()}


def answer_all(policy, processor, examples, template, system_prompt=None, num_generations=1, batch_size=64, describe="", first_row=0, **sampling):
    """Completions of every example as text, with a progress bar: (list of len(examples) * G texts, their lengths in tokens, their finish reasons).

    batch_size: rows at a time. sampling: as for `rollout`. Row seeds count on through the examples: the batch size changes nothing.
    """
    texts, lengths, finish = [], [], []
    step = max(1, batch_size // num_generations)
    for start in tqdm(range(0, len(examples), step), desc=describe, leave=False, disable=len(examples) <= step):
        prompts = [data.encode_prompt(e, processor, template, system_prompt, sampling["max_completion_length"]) for e in examples[start:start + step]]
        out = rollout(policy, prompts, processor.special, num_generations, first_row=first_row + start * num_generations, **sampling)
        texts += [processor.decode(ids[:n]) for ids, n in zip(out.targets, out.lengths)]
        lengths += out.lengths.tolist()
        finish += out.finish
    return texts, lengths, finish


def parse_args(argv=None):
    p = utils.Parser(__doc__, "generate.py")
    utils.add_model_flags(p)
    g = p.add_argument_group("question")
    g.add_argument("--image", nargs="*", default=[], help="one or several image files")
    g.add_argument("--prompt", required=True, help="the question; goes verbatim into the chat template, unless the checkpoint's args.json names the template it was trained with")
    g.add_argument("--prompt-template", help="put the question by this template of data.py instead (none: verbatim)")
    utils.add_box_format(g)
    g.add_argument("--raw", action="store_true", help="print the completion and nothing else")
    g = p.add_argument_group("rollout")
    g.add_argument("--num-generations", type=utils.positive, default=1, help="G, answers to sample")
    g.add_argument("--max-completion-length", type=utils.positive, default=512, help="tokens of a completion at most")
    g.add_argument("--temperature", type=utils.not_negative, default=0.0, help="sampling temperature; 0: greedy")
    g.add_argument("--top-p", type=utils.fraction, default=1.0, help="sample among the likeliest tokens that make up this mass; 1: all")
    g.add_argument("--top-k", type=utils.count, default=0, help="sample among this many likeliest tokens; 0: all")
    g.add_argument("--seed", type=utils.count, default=0, help="of the sampling")
    return p.parse_args(argv)


def in_pixels(text, example):
    """The boxes of an answer about one picture, in that picture's own pixels; [] if it has none."""
    if len(example.images) != 1:
        return []
    return rewards.predicted_boxes(text if "<answer>" in text else f"<answer>{text}</answer>", example) or []


def main(args):
    data.ask_as_trained(args, otherwise="none")
    for image in args.image:
        if not Path(image).is_file():
            raise utils.UserError(f"--image {image} does not exist; check the path")
    example = data.Example("question", [Path(i) for i in args.image], args.prompt, "", source="--image")
    data.check_images([example])
    if len(args.image) == 1:                                         # in which a box of the answer can be told in pixels
        size = data.open_images(example)[0].size
        example.meta = {"size": size, "resized": data.resized_size(size, args.min_pixels, args.max_pixels), "box_format": args.box_format}
    out = sys.stdout
    if args.raw:
        sys.stdout = sys.stderr                                      # whatever loading has to say
    try:
        policy, processor = modeling.load_from_args(args, needs_training="it has nothing to say yet")
        texts, lengths, finish = answer_all(policy, processor, [example], args.prompt_template, args.system_prompt, args.num_generations, args.num_generations,
                                            max_completion_length=args.max_completion_length, temperature=args.temperature, top_p=args.top_p, top_k=args.top_k, seed=args.seed)
    finally:
        sys.stdout = out
    for text, length, reason in zip(texts, lengths, finish):
        text = text.encode("utf-8", "replace").decode("utf-8")
        print(text if args.raw else f"{text}\n({length} tokens, {'complete' if reason == 'stop' else 'cut at --max-completion-length'}; prompt template: {args.prompt_template})")
        for box in () if args.raw else in_pixels(text, example):
            print(f"  {box['label'] or 'box'}: {[round(v) for v in box['bbox_2d']]} in pixels of {args.image[0]}")


if __name__ == "__main__":
    utils.run(main, parse_args)
