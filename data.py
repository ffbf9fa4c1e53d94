"""Examples to tensors: prompts, targets, collate. The only place that pads or expands image tokens.

From a record to a batch, with the shapes of one toy question (112 x 112 pixels are 8 x 8 patches,
16 tokens after merging):

    Example    id, images (not yet opened), question, answer, choices, solution, task, meta
    Prompt     ids (P,), 16 of them <|image_pad|>; positions (3, P); pixel_values (64, 1176)
    batch      what `collate` returns, as [prompt | r1 | ... | rB] for one prompt and B >= 2
               responses (rows = 1), else right-padded, a response a row (rows = B):
        input_ids (rows, S), positions (3, rows, S), targets (B, T), mask (B, T)
        state_index (B, T)           in S, the state that predicts each target: the one before it
        slot_index, feature_index    in rows * S, the place of an image token, and its feature's row
        pixel_values, grid           each prompt's once; or features, where logps.cache_features was
        to_rows, from_rows           if packed only: see `pack`

The unit of work is a prompt and one or more responses: B rows in N groups, those of a prompt
contiguous. T counts response tokens only. The mask comes from lengths, never from `ids == pad`:
in Qwen2-VL pad is also an end-of-text token.
"""

import argparse
import math
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from tqdm import tqdm

import families
import tasks
from grading import boxes
from plumbing import checkpoint_files, flags, templates
from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.text import HALF, cut
from tasks import box_fields, folders, images, toy
from tasks.example import Example
from tasks.prompts import DEFAULT_TEMPLATE, question_text, template_of

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # we have a limit


# --- which examples ---


def is_endless(examples: Sequence[Example]) -> bool:
    """Say whether these are a toy task's stream: indexable, but without a length."""
    return not hasattr(examples, "__len__")


def head(examples: Sequence[Example], number: int | None) -> list[Example]:
    """Take the first `number` examples, or all there are."""
    if is_endless(examples):
        return [examples[i] for i in range(number)]
    return examples[:number]


def take(examples: Sequence[Example], start: int, number: int, seed: int) -> list[Example]:
    """Take `number` training examples from position `start` of the shuffled, repeated data.

    A pure function of its arguments, so a resumed run sees the same examples.
    Every epoch is a new permutation; a stream is random and endless already.
    """
    if is_endless(examples):
        return [examples[start + i] for i in range(number)]
    size = len(examples)
    taken = []
    for position in range(start, start + number):
        epoch = position // size
        if position == start or position % size == 0:
            order = epoch_order(size, epoch, seed)
        taken.append(examples[order[position % size]])
    return taken


def epoch_order(size: int, epoch: int, seed: int) -> list[int]:
    """Permute range(size): a pure function of (epoch, seed)."""
    order = list(range(size))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order


def steps_of(
    max_steps: int | None, epochs: float, spec: str, examples: Sequence[Example], per_step: int
) -> int:
    """Count the steps: --max-steps, or what --num-train-epochs means for this many examples.

    Raises UserError for an endless stream (--data `spec`) without --max-steps.
    """
    if max_steps:
        return max_steps
    if is_endless(examples):
        raise UserError(
            f"--data {spec} never ends: say how long to train with --max-steps, "
            "e.g. --max-steps 200"
        )
    return max(1, round(epochs * len(examples) / per_step))


def default_eval(spec: str) -> list[str]:
    """Choose what to evaluate on without --eval-data: a toy task's test split, or --data itself."""
    name, _ = folders.split_name(spec)
    if name in toy.TASKS and not os.path.exists(name):
        return [f"{name}:test"]
    print("no --eval-data: accuracy will be that on the training data, which is not held out")
    return [spec]


def read_eval(
    specs: list[str], known: dict[str, Sequence[Example]], number: int | None, **reading: object
) -> dict[str, list[Example]]:
    """Read the first `number` examples of each --eval-data: {short name: examples}.

    known: {spec: examples} of what has been read already. reading: as for tasks.read.
    """
    sets = {}
    for spec, name in folders.short_names(specs).items():
        examples = known[spec] if spec in known else tasks.read(spec, **reading)
        sets[name] = head(examples, number)
    return sets


def check_golds(
    examples: Sequence[Example], check: Callable, bad: BadRecords = REFUSE
) -> Sequence[Example]:
    """Call check(answer, choices, meta) on every example of a file; return those that pass.

    Raises UserError with file and line for its ValueError, unless `bad` leaves it out.
    """

    def check_gold(example: Example) -> None:
        try:
            check(example.answer, example.choices, example.meta)
        except ValueError as error:
            raise UserError(cut(f"{example.source}: {error}")) from None

    return examples if is_endless(examples) else bad.usable(examples, check_gold)


# --- how a question is put ---


@dataclass
class Prompt:
    """One encoded prompt.

    ids: (P,) long, image tokens expanded. positions: (3, P) long, M-RoPE (time, height, width).
    next_position: of the first response token, the same in all three.
    image_slots: (image tokens,) long, the places in ids of the vision tower's output.
    pixel_values: (patches, 1176) float, grid: (images, 3) long, in patches; or None.
    features: (image tokens, D), that output, if logps.cache_features has kept it.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    next_position: int
    image_slots: torch.Tensor
    pixel_values: torch.Tensor | None = None
    grid: torch.Tensor | None = None
    text: str = ""
    features: torch.Tensor | None = None


def ask_as_trained(
    args: argparse.Namespace, otherwise: str = DEFAULT_TEMPLATE
) -> dict[str, object]:
    """Decide how questions are put: as the flags say, or else as the checkpoint was trained.

    Returns {flag: value} for main to store: template, system prompt, box format, pixel limits.
    otherwise: the template where neither names one.
    Raises UserError for an unknown template.
    """
    trained_with = checkpoint_files.read_run(args.model)
    decided = {
        "prompt_template": args.prompt_template or trained_with.get("prompt_template") or otherwise,
        "system_prompt": args.system_prompt,
    }
    if args.system_prompt is None:
        decided["system_prompt"] = trained_with.get("system_prompt")
    defaults = {
        "box_format": boxes.BOX_FORMATS[0],
        "min_pixels": flags.MIN_PIXELS,
        "max_pixels": flags.MAX_PIXELS,
    }
    for name, default in defaults.items():
        if hasattr(args, name):  # a script without these flags needs none
            decided[name] = getattr(args, name) or trained_with.get(name) or default
    if hasattr(args, "max_image_pixels"):
        images.limit_image_pixels(args.max_image_pixels)
    template_of(decided["prompt_template"])
    return decided


@dataclass(frozen=True)
class Asker:
    """How questions are put to one checkpoint.

    processor: a processor.Processor; it holds the limits on pixels.
    template: a name in TEMPLATES, unless an example's meta["prompt_template"] names another.
    """

    processor: object
    template: str = DEFAULT_TEMPLATE
    system_prompt: str | None = None

    def verbatim(self) -> "Asker":
        """Return the asker of questions that are whole user turns already."""
        return replace(self, template="none")

    def prompt(self, example: Example, room: int = 0) -> Prompt:
        """Encode an example: chat template, images first, one <|image_pad|> per merged patch.

        room: tokens that must still fit after the prompt.
        Raises UserError for what does not fit: cutting a prompt would cut image tokens.
        """
        processor = self.processor
        special = processor.special
        text = self.render(example)
        pixel_values = grid = None
        sizes, counts = [], []  # of each image: (rows, columns) of merged patches, and tokens
        if example.images:
            pictures = []
            for image in example.images:  # one at a time, so that no two are in memory
                opened = [images.open_image(image, example.source)]
                pictures.append(processor.image_processor(images=opened, return_tensors="pt"))
            pixel_values = torch.cat([picture["pixel_values"] for picture in pictures])
            grid = torch.cat([picture["image_grid_thw"] for picture in pictures])
            merge = processor.image_processor.merge_size
            sizes = (grid[:, 1:] // merge).tolist()
            counts = (grid.prod(-1) // merge**2).tolist()
            first, *parts = text.split(special.image)
            text = first + "".join(special.image * n + part for n, part in zip(counts, parts))
        ids = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        self.must_fit(example, len(ids), sum(counts), room)
        is_image = ids == special.image_id
        positions, next_position = families.QWEN2_VL.positions(is_image, sizes)
        slots = is_image.nonzero()[:, 0]
        return Prompt(ids, positions, next_position, slots, pixel_values, grid, text)

    def target(self, example: Example, room: int) -> torch.Tensor:
        """Encode what the supervised stage imitates, with the end-of-turn token: (T,) ids.

        Raises UserError if it has more than `room` tokens or spells a reserved token.
        """
        text = target_text(example, self.template)
        return encode_response(text, self.processor, example.source, room, "solution")

    def check(self, examples: Sequence[Example], room: int) -> list[int]:
        """Check before any work that every prompt fits the context; return their tokens.

        Of a toy task, the first few. Images are measured by their headers.
        Raises UserError as `prompt` would.
        """
        lengths = []
        few = is_endless(examples) or len(examples) < 500
        first = head(examples, 16) if is_endless(examples) else examples
        for example in tqdm(first, desc="checking lengths", leave=False, disable=few):
            pads, text = self.image_tokens(example), self.render(example)
            words = len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            length = words - len(example.images) + pads
            self.must_fit(example, length, pads, room)
            lengths.append(length)
        return lengths

    def image_tokens(self, example: Example) -> int:
        """Count an example's image tokens by its pictures' sizes."""
        image_processor = self.processor.image_processor
        pads = 0
        for width, height in images.sizes_of(example):
            patches = image_processor.get_number_of_image_patches(height, width)
            pads += patches // image_processor.merge_size**2
        return pads

    def render(self, example: Example) -> str:
        """Write the prompt by the chat template: images first, one <|image_pad|> for each.

        Raises UserError if it spells a reserved token.
        """
        text = question_text(example, self.template)
        system_prompt = self.system_prompt
        for token in self.processor.special.reserved:
            if token in text:
                raise UserError(
                    f"{example.source}: the question contains the reserved token {token}; remove it"
                )
            if token in (system_prompt or ""):
                raise UserError(f"--system-prompt contains the reserved token {token}; remove it")
        if HALF.search(system_prompt or ""):
            raise UserError(
                "the system prompt contains half a character; give another with --system-prompt "
                "(the checkpoint's args.json has this one)"
            )
        pictures = [{"type": "image"}] * len(example.images)
        messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
        if system_prompt is not None:
            messages.insert(0, {"role": "system", "content": system_prompt})
        tokenizer = self.processor.tokenizer
        return templates.render(tokenizer, messages, len(pictures), example.source)

    def must_fit(self, example: Example, length: int, pads: int, room: int) -> None:
        """Raise UserError unless `length` tokens, `pads` from images, and `room` more fit."""
        context = self.processor.context
        if length + room > context:
            raise UserError(
                f"{example.source}: the prompt has {length} tokens ({pads} of them from images) "
                f"and with {room} more for the answer does not fit the model's context of "
                f"{context}; lower --max-pixels or --max-completion-length, or shorten the question"
            )


def append_response(prompt: Prompt, text: str, processor: object) -> Prompt:
    """Append the beginning of a response to a prompt, for the policy to continue."""
    tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor(tokens, dtype=torch.long)
    positions = (prompt.next_position + torch.arange(len(ids))).expand(3, -1)
    return replace(
        prompt,
        ids=torch.cat([prompt.ids, ids]),
        positions=torch.cat([prompt.positions, positions], 1),
        next_position=prompt.next_position + len(ids),
        text=prompt.text + text,
    )


def target_text(example: Example, template: str) -> str:
    """Write what the supervised stage imitates: the worked solution, or else the answer.

    Boxes are as the model writes them. An answer is in tags if the template or the question asks
    for them, as Visual-RFT's questions do.
    """
    if example.solution:
        return example.solution.strip()
    answer = example.answer
    if "boxes" in example.meta:
        answer = box_fields.answer_text(example, example.meta["boxes"])
    if "<answer>" in question_text(example, template):
        return f"<answer> {answer} </answer>"
    return answer


def must_spell_none(text: str, processor: object, where: str, name: str) -> None:
    """Refuse a response that spells a reserved token. UserError."""
    for token in processor.special.reserved:
        if token in text:
            raise UserError(f"{where}: the {name} contains the reserved token {token}; remove it")


def encode_response(
    text: str, processor: object, where: str, max_length: float, name: str = "response"
) -> torch.Tensor:
    """Encode a response and the end-of-turn token: (T,) ids.

    where, name: for the message.
    Raises UserError if it has more than max_length tokens or spells a reserved token.
    """
    must_spell_none(text, processor, where, name)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, processor.special.eos_ids[0]]
    if len(ids) > max_length:
        raise UserError(
            f"{where}: the {name} has {len(ids)} tokens, more than "
            f"--max-completion-length {max_length}; raise it or shorten the {name}"
        )
    return torch.tensor(ids)


# --- collate ---


def pad_targets(rows: Sequence[torch.Tensor], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad B rows of (T_b,) ids on the right: targets (B, T), mask (B, T) float.

    The mask is 1 for the first T_b, the end-of-turn token among them.
    """
    lengths = torch.tensor([len(row) for row in rows])
    targets = torch.full((len(rows), int(lengths.max())), pad_id)
    for b, row in enumerate(rows):
        targets[b, : len(row)] = row
    return targets, (torch.arange(targets.shape[1]) < lengths[:, None]).float()


def collate(
    prompts: Sequence[Prompt],
    targets: torch.Tensor,
    mask: torch.Tensor,
    counts: list[int] | None = None,
    device: torch.device | str = "cpu",
    packed: bool = True,
) -> dict[str, torch.Tensor | None]:
    """Join N prompts and B responses into one batch for the model (module docstring).

    targets, mask: (B, T), from pad_targets or a rollout.
    counts: how many consecutive rows belong to each prompt; None: B / N each.
    packed=False: padded in any case, which is the tests' reference.
    """
    B = len(targets)
    counts = counts or [B // len(prompts)] * len(prompts)
    assert sum(counts) == B and len(counts) == len(prompts), (
        f"{counts} rows of {len(prompts)} prompts, but {B} responses"
    )
    lengths = mask.sum(1).long()  # (B,)
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


def even_cuts(total: int, most: int) -> list[int]:
    """Cut `total` into as few pieces of at most `most` as possible: [0, ..., total], their ends."""
    pieces = math.ceil(total / most)
    return [total * i // pieces for i in range(pieces + 1)]
