"""What the tests of the model share: small batches, training steps, and stock transformers."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import torch

import batching
import data
import families
import logps
import model as modeling
import rollout
import tasks
import update
from fast import decode
from plumbing import checkpoint_files


def flags(**changed):
    """The flags of a training script that model.load reads."""
    given = dict(
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
    return SimpleNamespace(**given | changed)


def randomise_lora(policy, scale=0.05, seed=0):
    """A trained adapter's stand-in.

    B is zero in a fresh one, which hides what goes wrong in A, and what forgets the adapter.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


# --- small batches ---


def responses_of(processor, lengths, seed=0):
    """Random response ids of these lengths, never a special token."""
    generator = torch.Generator().manual_seed(seed)
    words = min(processor.special.eos_ids + processor.special.vision_ids)
    return [torch.randint(0, words, (n,), generator=generator) for n in lengths]


def batch_of(processor, prompts, responses, G=1, dtype=torch.float32):
    targets, mask = batching.pad_targets(responses, processor.special.pad_id)
    batch = batching.collate(prompts, targets, mask, [G] * len(prompts))
    if batch["pixel_values"] is not None:
        batch["pixel_values"] = batch["pixel_values"].to(dtype)
    return batch


def gradients(policy):
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def relative(a, b):
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


# Of the responses to a picture, two pictures, and text alone; none longest but once.
LENGTHS = [6, 0, 1, 9, 5, 5, 3, 1, 12, 4, 2]
COUNTS = [4, 2, 5]


def packed_case(processor, dtype=torch.float32):
    """prompts (3), targets (11, 12), mask: two ragged groups and one of equal lengths."""
    prompts = checkpoints.prompts_of(processor, slice(5, 8))
    targets, mask = batching.pad_targets(responses_of(processor, LENGTHS), processor.special.pad_id)
    for prompt in prompts:
        prompt.pixel_values = None if prompt.pixel_values is None else prompt.pixel_values.to(dtype)
    return prompts, targets, mask


def both_ways(policy, processor, dtype=torch.float32, temperature=0.7):
    """[(logp, entropy, gradients)] of the padded batch of all prompts, and of the packed ones.

    Each packed prompt's forward comes before the one backward.
    """
    prompts, targets, mask = packed_case(processor, dtype)
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    starts = [sum(COUNTS[:n]) for n in range(4)]
    padded = [batching.collate(prompts, targets, mask, COUNTS)]
    packed = []
    for p, a, b in zip(prompts, starts, starts[1:]):
        packed.append(batching.collate([p], targets[a:b], mask[a:b]))
    assert [len(b["input_ids"]) for b in padded + packed] == [11, 1, 1, 1]
    held = [len(p.ids) + n for p, n in zip(prompts, (16, 10, 22))]
    assert [b["input_ids"].shape[1] for b in packed] == held
    found = []
    suppress = processor.special.vision_ids
    for batches in (padded, packed):
        policy.zero_grad()
        both = [logps.token_logps(policy, b, temperature, suppress, entropy=True) for b in batches]
        logp, entropy = (torch.cat(x) for x in zip(*both))
        (logp * weights).sum().backward()
        found.append((logp.detach(), entropy, gradients(policy)))
    return found


# --- training ---


def train_steps(
    policy,
    processor,
    steps=1,
    dtype=torch.float32,
    chosen=slice(4, 8),
    lengths=(3, 6, 2, 5, 1, 4, 7, 7),
    learning_rate=1e-2,
):
    """Real optimizer steps on a fixed batch; returns the losses."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = update.make_optimizer("adamw", trained, learning_rate)
    prompts = checkpoints.prompts_of(processor, chosen)
    batch = batch_of(processor, prompts, responses_of(processor, lengths), G=2)
    policy.train()
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        logp = logps.token_logps(policy, batch, suppress=processor.special.vision_ids)
        loss = -(logp * batch["mask"]).sum() / batch["mask"].sum()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    policy.eval()
    return found


def changed(policy, before):
    return {n for n, p in policy.named_parameters() if not torch.equal(p.detach(), before[n])}


# --- the rollout ---


def as_on_a_gpu(monkeypatch):
    """Buckets, fixed addresses, lengths on the device, and `capture` with its warm-up.

    A graph is a step taken at each replay; nothing happens while it is recorded.
    Returns the list of the numbers of rows that were captured.
    """
    captured, capture = [], decode.Decoder.capture

    def listening(wave):
        captured.append(wave.rows)

        @contextlib.contextmanager
        def recording(graph):
            kept = [
                (value, value.clone())
                for value in vars(wave).values()
                if isinstance(value, torch.Tensor)
            ]
            yield
            for value, before in kept:
                value.copy_(before)

        with monkeypatch.context() as patch:
            stream = SimpleNamespace(wait_stream=lambda other: None)
            patch.setattr(decode, "side_stream", lambda device: stream)
            patch.setattr(torch.cuda, "current_stream", lambda: stream)
            patch.setattr(torch.cuda, "stream", lambda other: contextlib.nullcontext())
            patch.setattr(
                torch.cuda,
                "CUDAGraph",
                lambda: SimpleNamespace(
                    replay=lambda: (wave.forward_one_token(), wave.sample_one_token())
                ),
            )
            patch.setattr(torch.cuda, "graph", recording)
            return capture(wave)

    monkeypatch.setattr(decode, "can_capture", lambda device, weights: True)
    monkeypatch.setattr(decode.Decoder, "capture", listening)
    return captured


# --- stock transformers ---


def stock_model(directory, **options):
    """The family's class of transformers, as anybody loads it."""
    kind = checkpoint_files.read_config(Path(directory))["model_type"]
    return families.FAMILIES[kind].model_class().from_pretrained(directory, **options).eval()


@torch.no_grad()
def logits_of(model, processor, chosen=slice(4, 8)):
    prompts = checkpoints.prompts_of(processor, chosen)
    return model(**checkpoints.stock_inputs(prompts, processor.special)).logits


def stock_logps(model, prompts, responses, special, temperature=1.0):
    """(logp, entropy), each a list of (T_b,): cross-entropy of the stock forward's logits.

    Everything is in float64 from there on.
    """
    inputs = checkpoints.stock_inputs(prompts, special, responses)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(next(model.parameters()).dtype)
    logits = model(**inputs, use_cache=False).logits.double() / temperature
    blocked = torch.zeros(logits.shape[-1])
    blocked[special.vision_ids] = -torch.inf
    logps, entropies = [], []
    for b, (prompt, response) in enumerate(zip(prompts, responses)):
        row = (logits[b] + blocked)[len(prompt.ids) - 1 : len(prompt.ids) - 1 + len(response)]
        logps.append(-torch.nn.functional.cross_entropy(row, response, reduction="none"))
        entropies.append(torch.distributions.Categorical(logits=row.detach()).entropy())
    return logps, entropies


def stock_greedy(model, processor, prompts, length, eos_ids=None, **more):
    """Greedy answers of stock generate, one prompt at a time: list of (T,) ids."""
    found = []
    for prompt in prompts:
        inputs = checkpoints.stock_inputs([prompt], processor.special)
        out = model.generate(
            **inputs,
            max_new_tokens=length,
            do_sample=False,
            repetition_penalty=1.0,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            suppress_tokens=processor.special.vision_ids,
            eos_token_id=eos_ids or processor.special.eos_ids,
            pad_token_id=processor.special.pad_id,
            **more,
        )
        found.append(out[0, len(prompt.ids) :].tolist())
    return found


def export(model, out, *more):
    line = ["export", "--model", str(model), "--output-dir", str(out), *more]
    modeling.main(modeling.parse_args(line))


def export_gap(source, out, dtype=torch.float32, quant="none"):
    """Mean |difference in log-prob| between a policy as it was trained and its export.

    Over its greedy answers to 16 questions. dtype: of the export; the policy computes in float32.
    """
    trained, processor = modeling.load(str(source), quant=quant)
    exported, _ = modeling.load(str(out), dtype)
    asker = data.Asker(processor, "none")
    prompts = [asker.prompt(e, 64) for e in data.head(tasks.read("count:test"), 16)]
    greedy = rollout.Sampling(64, temperature=0)
    sampled = rollout.rollout(trained, prompts, processor.special, 1, greedy)
    batch = batching.collate(prompts, sampled.targets, sampled.mask)
    suppress = processor.special.vision_ids
    with torch.no_grad():
        before = logps.token_logps(trained, batch, suppress=suppress)
        after = logps.token_logps(exported, batch, suppress=suppress)
    return float((before - after).abs().sum() / batch["mask"].sum())
