"""One optimizer step: schedule, optimizer, clipping, supervised and preference gradients."""

import math

import torch
from tqdm import tqdm

import data
import losses
from logps import token_logps
from plumbing import flags, records
from plumbing.arguments import label_of
from plumbing.errors import UserError
from tasks.prompts import with_question


def texts_of(pairs):
    """What log-probs of pairs depend on, but for the model."""
    return [[pair.example.id, pair.chosen, pair.rejected] for pair in pairs]


def reference_logps(path, policy, processor, pairs, args):
    """log pi_ref of both responses of each pair, sums over tokens, [(chosen, rejected), ...]: those of the policy that training starts from, computed before its first
    step, so that no second model is kept. Appended to `path` as they come."""
    file = records.Lines(path, label_of(args, path, texts_of(pairs)), 1, len(pairs))
    policy.eval()
    with torch.no_grad():
        for pair in tqdm(
            pairs[len(file.lines) :], desc="reference log-probs", unit="pair", leave=False
        ):
            chosen, rejected = pair_logps(policy, processor, pair, args)[0].tolist()
            file.append([{"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}])
    return [(line["ref_chosen_logps"], line["ref_rejected_logps"]) for line in file.lines]


def pair_logps(policy, processor, pair, args):
    """(log pi(y|x) of the chosen and of the rejected response (2,), sums over tokens, with gradient; their lengths (2,)): one forward pass over [prompt | chosen | rejected]."""
    room = processor.context
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    prompt = asker.prompt(pair.example)
    rows = [
        data.encode_response(text, processor, pair.example.source, room)
        for text in (pair.chosen, pair.rejected)
    ]
    targets, mask = data.pad_targets(rows, processor.special.pad_id)  # (2, T)
    batch = data.collate([prompt], targets, mask, [2], policy.device)
    logp = token_logps(policy, batch, suppress=processor.special.vision_ids)  # (2, T)
    return losses.sequence_logp(logp, batch["mask"]), batch["mask"].sum(1)


def imitate(policy, processor, items, examples, args):
    """One update's gradient of star and r3v, from built items: {metric: value}."""
    verbatim = data.Asker(processor, "none", args.system_prompt)
    encoded = [
        (
            verbatim.prompt(with_question(examples[item["id"]], item["prompt"])),
            data.encode_response(item["target"], processor, item["id"], processor.context),
            item["task"],
        )
        for item in items
    ]
    encoded.sort(
        key=lambda e: len(e[0].ids) + len(e[1])
    )  # rows of about one length share a micro-batch; their order in the step means nothing
    prompts, rows, tasks = zip(*encoded)
    targets, mask = data.pad_targets(rows, processor.special.pad_id)  # (B, T)
    weights = losses.r3v_weights(
        mask,
        tasks,
        {task: getattr(args, f"{task}_weight", 1.0) for task in set(tasks)},
        args.per_example,
    )
    loss, spent = 0.0, torch.zeros_like(mask)
    for a, b, first, last, counts in data.micro_batches(
        len(rows), args.micro_batch_size, [1] * len(rows)
    ):
        longest = max(len(row) for row in rows[a:b])
        batch = data.collate(
            prompts[first:last], targets[a:b, :longest], mask[a:b, :longest], counts, policy.device
        )
        per_token = losses.nll(token_logps(policy, batch, suppress=processor.special.vision_ids))
        part = losses.aggregate(per_token, weights[a:b, :longest].to(policy.device))
        part.backward()
        loss, spent[a:b, :longest] = loss + part.item(), per_token.detach().cpu()
    of = {task: [b for b in range(len(rows)) if tasks[b] == task] for task in sorted(set(tasks))}
    return {
        "loss": loss,
        **{
            f"loss/{task}": float(losses.masked_mean(spent[at], mask[at]))
            for task, at in of.items()
        },
        "tokens": float(mask.sum()),
    }


def prefer(policy, processor, pairs, references, args, shift):
    """One update's gradient of dpo and mpo: {metric: value}. shift: {"total", "count"} of losses.reward_shift, which moves on."""
    loss, seen = 0.0, []
    for pair, (ref_chosen, ref_rejected) in zip(pairs, references):
        logps, tokens = pair_logps(policy, processor, pair, args)  # (2,), (2,)
        ref = logps.new_tensor([ref_chosen, ref_rejected])
        scores = args.beta * (logps.detach() - ref)
        if not torch.isfinite(scores).all():
            raise UserError(
                f"{pair.example.source}: the log-probability of a response is not finite; {NOT_FINITE}"
            )
        delta, shift["total"], shift["count"] = losses.reward_shift(
            scores[:1], scores[1:], shift["total"], shift["count"]
        )
        part = losses.preference_loss(
            logps[:1],
            logps[1:],
            ref[:1],
            ref[1:],
            tokens[:1],
            tokens[1:],
            args.loss_type,
            args.loss_weights,
            args.beta,
            args.label_smoothing,
            delta,
        ).sum() / len(pairs)
        part.backward()
        loss += part.item()
        seen.append([*logps.tolist(), ref_chosen, ref_rejected, float(tokens.sum())])
    chosen, rejected, ref_chosen, ref_rejected, tokens = torch.tensor(seen).T
    metrics = {
        k: float(v)
        for k, v in losses.preference_metrics(
            chosen, rejected, ref_chosen, ref_rejected, args.beta
        ).items()
    }
    return {
        "loss": loss,
        **metrics,
        "logps/chosen_change": float((chosen - ref_chosen).mean()),
        "logps/chosen_start": float(ref_chosen.mean()),
        "delta": shift["total"] / max(1, shift["count"]),
        "tokens": float(tokens.sum()),
    }


def lr_scale(step, max_steps, warmup_steps=0, kind="linear"):
    """Learning rate at `step` (0-based) as a share of its peak: linear warm-up, then SCHEDULES[kind] down to step max_steps.

    warmup_steps below 1 is a share of max_steps (transformers 5). The first step is never wasted on a rate of 0.
    """
    warmup = round(warmup_steps * max_steps) if warmup_steps < 1 else int(warmup_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return flags.SCHEDULES[kind]((step - warmup) / max(1, max_steps - warmup))


def make_optimizer(name, parameters, learning_rate, betas=(0.9, 0.999)):
    """AdamW without weight decay over float32 `parameters`; adamw_8bit needs bitsandbytes."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, weight_decay=0.0)
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            "--optim adamw_8bit needs bitsandbytes: pip install bitsandbytes, or use --optim adamw"
        ) from None
    return bitsandbytes.optim.AdamW8bit(parameters, lr=learning_rate, betas=betas, weight_decay=0.0)


def optimizer_bytes(optimizer):
    """Bytes of an AdamW's two moments, as state.pt holds them."""
    each = 1 if "8bit" in type(optimizer).__name__ else 4
    return sum(2 * each * q.numel() for group in optimizer.param_groups for q in group["params"])


NOT_FINITE = "begin another --output-dir with the last checkpoint as --model and a lower --learning-rate, or with --dtype float32"


def clip_gradient(parameters, max_norm, step):
    """Clips to max_norm (0: not at all) and returns the norm before that, a float. UserError, before the weights are spoiled, if it is not finite."""
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf))
    if not math.isfinite(norm):
        raise UserError(f"the gradient of step {step} is {norm}; {NOT_FINITE}")
    return norm
