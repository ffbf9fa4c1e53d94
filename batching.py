"""Prompts and responses to one batch for the model. The only place that pads.

What `collate` returns, as [prompt | r1 | ... | rB] for one prompt and B >= 2 responses (rows = 1),
else right-padded, a response a row (rows = B):

    input_ids (rows, S), positions (3, rows, S), targets (B, T), mask (B, T)
    state_index (B, T)           in S, the state that predicts each target: the one before it
    slot_index, feature_index    in rows * S, the place of an image token, and its feature's row
    pixel_values, grid           each prompt's once; or features, where logps.cache_features was
    to_rows, from_rows           if packed only: see `pack`

The unit of work is a prompt and one or more responses: B rows in N groups, those of a prompt
contiguous. T counts response tokens only. The mask comes from lengths, never from `ids == pad`:
in Qwen2-VL pad is also an end-of-text token.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from data import Prompt


def pad_targets(
    rows: Sequence[torch.Tensor], pad_id: int, learned: Sequence[torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad B rows of (T_b,) ids on the right: targets (B, T), mask (B, T) float.

    The mask is 1 for the first T_b, the end-of-turn token among them, or what `learned` says.
    """
    lengths = torch.tensor([len(row) for row in rows])
    targets = torch.full((len(rows), int(lengths.max())), pad_id)
    for b, row in enumerate(rows):
        targets[b, : len(row)] = row
    mask = (torch.arange(targets.shape[1]) < lengths[:, None]).float()
    for b, row in enumerate(learned or ()):
        mask[b, : len(row)] = row
    return targets, mask


def collate(
    prompts: Sequence[Prompt],
    targets: torch.Tensor,
    mask: torch.Tensor,
    counts: list[int] | None = None,
    device: torch.device | str = "cpu",
    packed: bool = True,
) -> dict[str, torch.Tensor | None]:
    """Join N prompts and B responses into one batch for the model (module docstring).

    targets, mask: (B, T), from pad_targets or a rollout. A response ends at its mask's last 1.
    counts: how many consecutive rows belong to each prompt; None: B / N each.
    packed=False: padded in any case, which is the tests' reference.
    """
    B = len(targets)
    counts = counts or [B // len(prompts)] * len(prompts)
    assert sum(counts) == B and len(counts) == len(prompts), (
        f"{counts} rows of {len(prompts)} prompts, but {B} responses"
    )
    lengths = response_lengths(mask)
    if packed and len(prompts) == 1 and B > 1:
        batch = pack(prompts[0], targets, lengths)
    else:
        batch = pad(prompts, targets, lengths, counts)
    batch |= {"targets": targets, "mask": mask, "pixel_values": None, "grid": None}
    pictured = [p for p in prompts if p.pixel_values is not None]
    if pictured and all(p.features is not None for p in pictured):
        batch["features"] = torch.cat([p.features for p in pictured])
    elif pictured:
        batch["pixel_values"] = torch.cat([p.pixel_values for p in pictured])
        batch["grid"] = torch.cat([p.grid for p in pictured])
    return {name: value if value is None else value.to(device) for name, value in batch.items()}


def response_lengths(mask: torch.Tensor) -> torch.Tensor:
    """Count the tokens up to the mask's last 1, unlearned parts too: (B, T) -> (B,)."""
    return mask.flip(1).cumsum(1).gt(0).sum(1)


def times_in_rows(batch: dict) -> torch.Tensor:
    """Say how many rows [prompt | response] each token of a batch belongs to: (rows, S) long.

    0: padding. A packed prompt belongs to each of its B responses.
    """
    ends = batch["state_index"][:, :1] + 1  # (B, 1), where prompts end
    place = torch.arange(batch["input_ids"].shape[1], device=ends.device)  # (S,)
    if "to_rows" in batch:
        return torch.where(place < ends[:1], len(ends), 1)
    return (place < ends + response_lengths(batch["mask"])[:, None]).long()


def pad(
    prompts: Sequence[Prompt], targets: torch.Tensor, lengths: torch.Tensor, counts: list[int]
) -> dict[str, torch.Tensor]:
    """Lay out rows [its prompt | its response | padding].

    They need no attention mask: attention is causal, and padding comes last.
    """
    B, T = targets.shape
    lengths = lengths.tolist()
    S = max(len(p.ids) for p in prompts) + T
    input_ids = targets.new_zeros(B, S)
    positions = torch.zeros(3, B, S, dtype=torch.long)
    state_index = torch.zeros(B, T, dtype=torch.long)
    slot_index, feature_index = [], []
    row = features_before = 0
    for prompt, count in zip(prompts, counts):
        P, image_tokens = len(prompt.ids), len(prompt.image_slots)
        for b in range(row, row + count):
            input_ids[b, :P] = prompt.ids
            input_ids[b, P : P + lengths[b]] = targets[b, : lengths[b]]
            positions[:, b, :P] = prompt.positions
            positions[:, b, P : P + T] = prompt.next_position + torch.arange(T)
            if prompt.response_positions is not None:
                assert count == 1, "a conversation is the only response to its prompt"
                positions[:, b, P : P + lengths[b]] = prompt.response_positions
            state_index[b] = P - 1 + torch.arange(T)
            slot_index.append(prompt.image_slots + b * S)
            feature_index.append(torch.arange(image_tokens) + features_before)
        row += count
        features_before += image_tokens
    return {
        "input_ids": input_ids,
        "positions": positions,
        "state_index": state_index,
        "slot_index": torch.cat(slot_index),
        "feature_index": torch.cat(feature_index),
    }


def pack(prompt: Prompt, targets: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """Lay out [prompt | r1 | r2 | ... | rB] in one row: S = P + sum(lengths), without padding.

    Positions restart after the prompt; its last state predicts every response's first token.
    logps.packed_attention takes the responses apart again, to L tokens each, the longest's:
    to_rows (B, L): the index in S of each token, 0 for none.
    from_rows (sum(lengths),): the flat index in (B*L) of each response token.
    Lengths 2 and 1 after a prompt of 3 tokens: state_index [[2, 3], [2, .]],
    to_rows [[3, 4], [5, 0]], from_rows [0, 1, 2].
    """
    assert prompt.response_positions is None, "a conversation is the only response to its prompt"
    B, T = targets.shape
    P = len(prompt.ids)
    longest = max(1, int(lengths.max()))
    t = torch.arange(T)
    held = t < lengths[:, None]  # (B, T)
    index = (P + lengths.cumsum(0) - lengths)[:, None] + t  # (B, T), in S
    state_index = (index - 1).masked_fill(~held, 0)
    state_index[:, :1] = P - 1
    positions = (prompt.next_position + t).expand(B, T)[held]  # (sum(lengths),)
    return {
        "input_ids": torch.cat([prompt.ids, targets[held]])[None],
        "positions": torch.cat([prompt.positions, positions.expand(3, -1)], 1)[:, None],
        "state_index": state_index,
        "slot_index": prompt.image_slots,
        "feature_index": torch.arange(len(prompt.image_slots)),
        "to_rows": index[:, :longest].masked_fill(~held[:, :longest], 0),
        "from_rows": (torch.arange(B)[:, None] * longest + t)[held],
    }


def micro_batches(
    rows: int, size: int, counts: list[int]
) -> Iterator[tuple[int, int, int, int, list[int]]]:
    """Cut B rows in groups of `counts` into micro-batches of at most `size` rows, for `collate`.

    Yields (first row, end row, first prompt, end prompt, counts of the micro-batch).
    A group of two rows or more is cut evenly by itself, to be packed: 8 rows, size 5: 4 and 4.
    Its prompt is encoded once a micro-batch. Groups of one row share a micro-batch.
    """
    first = start = 0
    while start < rows:
        last = first + 1
        if not counts[first]:  # a prompt without responses
            first = last
            continue
        single = counts[first] == 1
        while single and last < len(counts) and counts[last] == 1 and last - first < size:
            last += 1
        cuts = even_cuts(sum(counts[first:last]), size)
        for a, b in zip(cuts, cuts[1:]):
            own = [b - a] if last == first + 1 else counts[first:last]
            yield start + a, start + b, first, last, own
        first, start = last, start + cuts[-1]


def pieces(
    prompts: Sequence[Prompt],
    targets: torch.Tensor,
    mask: torch.Tensor,
    size: int,
    where: torch.device | str,
) -> Iterator[tuple[slice, dict]]:
    """Cut N prompts and B responses, as many of each, into micro-batches: yield (rows, batch)."""
    B, N = len(targets), len(prompts)
    each = [B // N] * N if N else []  # one of several processes may have nothing to do
    for a, b, first, last, counts in micro_batches(B, size, each):
        rows = slice(a, b)
        yield rows, collate(prompts[first:last], targets[rows], mask[rows], counts, where)


def even_cuts(total: int, most: int) -> list[int]:
    """Cut `total` into as few pieces of at most `most` as possible: [0, ..., total], their ends."""
    pieces = math.ceil(total / most)
    return [total * i // pieces for i in range(pieces + 1)]
