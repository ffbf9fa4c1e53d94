"""Examples, readers, prompts, collate: the only place that pads, and the only one that expands image tokens.

From a record on disk to tensors, with the shapes of one toy question (a 112 x 112 picture is 8 x 8 patches, 16 tokens after merging):

    Example    id, images (not yet opened), question, answer, choices, solution, task, meta
    Pair       an example, and a better and a worse response to it (`read_pairs`)
    Prompt     ids (P,) with 16 <|image_pad|>, positions (3, P) for M-RoPE, pixel_values (64, 1176), grid (1, 3)
    collate    one prompt, B >= 2 responses -> packed [prompt | r1 | ... | rB]: input_ids (1, S), positions (3, 1, S), targets (B, T), mask (B, T), ...
               otherwise, N prompts and B responses -> input_ids (B, S), positions (3, B, S), ... padded on the right

The unit of work is a prompt and one or more responses: B rows in N groups, the rows of a prompt contiguous. T counts response
tokens only; the mask comes from lengths, never from `ids == pad`, because in Qwen2-VL pad is also an end-of-text token.
"""

import math
import os
import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from PIL import Image
from tqdm import tqdm

import families
import tasks
from grading import boxes
from plumbing import checkpoint_files, flags, templates
from plumbing.errors import UserError
from plumbing.text import HALF, cut
from tasks import box_fields, files, images, toy
from tasks.example import Example
from tasks.prompts import DEFAULT_TEMPLATE, question_text, template_of

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # we have a limit


def take(examples, start, number, seed):
    """`number` training examples from position `start` of the shuffled, endlessly repeated data: a pure function of its arguments, so
    that a resumed run goes on where it stopped. Every epoch is a new permutation."""
    if isinstance(examples, toy.ToyStream):
        return [examples[start + i] for i in range(number)]  # already random, already endless
    size, chosen = len(examples), []
    for position in range(start, start + number):
        epoch = position // size
        if position == start or position % size == 0:
            order = epoch_order(size, epoch, seed)
        chosen.append(examples[order[position % size]])
    return chosen


def steps_of(max_steps, epochs, spec, examples, per_step):
    """--max-steps, or what --num-train-epochs means for this many examples."""
    if max_steps:
        return max_steps
    if isinstance(examples, toy.ToyStream):
        raise UserError(
            f"--data {spec} never ends: say how long to train with --max-steps, e.g. --max-steps 200"
        )
    return max(1, round(epochs * len(examples) / per_step))


def default_eval(spec):
    """What to evaluate on when --eval-data was not given: a toy task's test split, or else the training data themselves, said aloud."""
    name, _ = files.split_name(spec)
    if name in toy.TASKS and not os.path.exists(name):
        return [f"{name}:test"]
    print("no --eval-data: accuracy will be that on the training data, which is not held out")
    return [spec]


def read_eval(specs, known, number, **reading):
    """{spec: the first `number` examples} of each --eval-data; reading: as for tasks.read.

    known: {spec: examples} of what has been read already.
    """
    sets = {}
    for spec in specs:
        examples = known[spec] if spec in known else tasks.read(spec, **reading)
        sets[spec] = head(examples, number)
    return sets


def head(examples, number):
    """The first `number` examples, or all there are."""
    if isinstance(examples, toy.ToyStream):
        return [examples[i] for i in range(number)]
    return examples[:number]


# -------------------------------------------------------------------------------------------------------------- prompts


@dataclass
class Prompt:
    """One encoded prompt. ids: (P,) long, image tokens expanded. positions: (3, P) long, M-RoPE (time, height, width). following: the
    position of the first response token (the same in all three). pixel_values: (patches, 1176) float or None; grid: (images, 3) long
    or None, in patches. image_at: (image tokens,) long, where the vision tower's output goes. features: (image tokens, D), that output, if
    model.cache_features has kept it."""

    ids: torch.Tensor
    positions: torch.Tensor
    following: int
    image_at: torch.Tensor
    pixel_values: torch.Tensor = None
    grid: torch.Tensor = None
    text: str = ""
    features: torch.Tensor = None


def ask_as_trained(args, otherwise=DEFAULT_TEMPLATE):
    """The flags that say how questions are put: as given, or else as the checkpoint was trained.

    {name: value} of --prompt-template, --system-prompt, --box-format and the limits on pixels; for
    main to store in args. otherwise: the template where neither says one.
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


def must_fit(example, processor, length, pads, room):
    """UserError unless `length` prompt tokens, `pads` of them from images, and `room` more fit the model's context."""
    if length + room > processor.context:
        raise UserError(
            f"{example.source}: the prompt has {length} tokens ({pads} of them from images) and with {room} more for the answer does not fit the model's context of "
            f"{processor.context}; lower --max-pixels or --max-completion-length, or shorten the question"
        )


def check_golds(examples, check):
    """check(answer, choices, meta) on every example of a file; what it objects to becomes a UserError naming file and line."""
    for example in () if isinstance(examples, toy.ToyStream) else examples:
        try:
            check(example.answer, example.choices, example.meta)
        except ValueError as error:
            raise UserError(cut(f"{example.source}: {error}")) from None


@dataclass(frozen=True)
class Asker:
    """How questions are put to one checkpoint.

    processor: a model.Processor: tokenizer, image processor with its limits on pixels.
    template: a name in TEMPLATES; an example's meta["prompt_template"] comes first.
    """

    processor: object
    template: str = DEFAULT_TEMPLATE
    system_prompt: str | None = None

    def verbatim(self) -> "Asker":
        """The same for questions that are whole user turns already."""
        return replace(self, template="none")

    def prompt(self, example: Example, room: int = 0) -> Prompt:
        """Encode an example: chat template, images first, one <|image_pad|> per merged patch.

        room: tokens that must still fit after the prompt. A prompt is never cut, because that cuts image tokens.
        Raises UserError for what does not fit, and for text that spells a reserved token.
        """
        processor, special = self.processor, self.processor.special
        rendered = self.render(example)
        pixel_values = grid = None
        counts = []
        if example.images:
            pictures = []
            for image in example.images:  # no two of them in memory
                opened = [images.open_image(image, example.source)]
                pictures.append(processor.image_processor(images=opened, return_tensors="pt"))
            pixel_values = torch.cat([picture["pixel_values"] for picture in pictures])
            grid = torch.cat([picture["image_grid_thw"] for picture in pictures])
            counts = (grid.prod(-1) // processor.image_processor.merge_size**2).tolist()
            parts = rendered.split(special.image)
            rendered = parts[0] + "".join(
                special.image * n + part for n, part in zip(counts, parts[1:])
            )
        ids = torch.tensor(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"])
        must_fit(example, processor, len(ids), sum(counts), room)
        is_image = ids == special.image_id
        positions, following = families.rope_positions(
            is_image,
            [] if grid is None else (grid[:, 1:] // processor.image_processor.merge_size).tolist(),
        )
        return Prompt(
            ids, positions, following, is_image.nonzero()[:, 0], pixel_values, grid, rendered
        )

    def target(self, example: Example, room: int) -> torch.Tensor:
        """Encode what the supervised stage imitates, with the end-of-turn token: (T,) ids.

        Raises UserError if it has more than `room` tokens or spells a reserved token.
        """
        text = target_text(example, self.template)
        return encode_response(text, self.processor, example.source, room, "solution")

    def check(self, examples: Iterable[Example], room: int, targets: bool = False) -> list[int]:
        """Check that every prompt fits the model's context, before any work.

        Of a toy task, the first few. Images are measured by their headers.
        targets: the supervised responses too. Returns the tokens of each prompt.
        Raises UserError as `prompt` and `target` would.
        """
        image_processor, lengths = self.processor.image_processor, []
        endless = isinstance(examples, toy.ToyStream)
        for example in tqdm(
            head(examples, 16) if endless else examples,
            desc="checking lengths",
            leave=False,
            disable=endless or len(examples) < 500,
        ):
            pads = 0
            for image in example.images:
                width, height = images.picture_size(image, example.source)
                patches = image_processor.get_number_of_image_patches(height, width)
                pads += patches // image_processor.merge_size**2
            text = self.render(example)
            words = len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
            words -= len(example.images)
            must_fit(example, self.processor, words + pads, pads, room)
            lengths.append(words + pads)
            if targets:
                self.target(example, room)
        return lengths

    def check_pairs(self, pairs: list) -> None:
        """Check that every pair's prompt with its longer response fits the model's context.

        A pair that is there several times is looked at once.
        Raises UserError, as for a response that spells a reserved token.
        """
        once = {id(pair): pair for pair in pairs}.values()
        for pair in tqdm(once, desc="checking lengths", leave=False, disable=len(once) < 500):
            responses = [
                encode_response(
                    getattr(pair, name),
                    self.processor,
                    pair.example.source,
                    math.inf,
                    f"{name} response",
                )
                for name in ("chosen", "rejected")
            ]
            self.check([pair.example], max(map(len, responses)))

    def render(self, example: Example) -> str:
        """The prompt as text by the chat template: images first, one <|image_pad|> for each.

        Raises UserError if it spells a reserved token.
        """
        text, system_prompt = question_text(example, self.template), self.system_prompt
        for token in self.processor.special.reserved:
            if token in text:
                raise UserError(
                    f"{example.source}: the question contains the reserved token {token}; remove it"
                )
            if token in (system_prompt or ""):
                raise UserError(f"--system-prompt contains the reserved token {token}; remove it")
        if HALF.search(system_prompt or ""):
            raise UserError(
                "the system prompt contains half a character; give another with --system-prompt (the checkpoint's args.json has this one)"
            )
        pictures = [{"type": "image"}] * len(example.images)
        messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
        if system_prompt is not None:
            messages.insert(0, {"role": "system", "content": system_prompt})
        return templates.render(
            self.processor.tokenizer, messages, len(example.images), example.source
        )


def append_response(prompt, text, processor):
    """The Prompt with the beginning of a response after it, for the policy to go on from there: its ids, and their positions one after the other."""
    ids = torch.tensor(
        processor.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long
    )
    after = (prompt.following + torch.arange(len(ids))).expand(3, -1)
    return replace(
        prompt,
        ids=torch.cat([prompt.ids, ids]),
        positions=torch.cat([prompt.positions, after], 1),
        following=prompt.following + len(ids),
        text=prompt.text + text,
    )


def target_text(example, template):
    """What the supervised stage imitates: the worked solution where there is one, else the answer (boxes as the model writes them), in tags if the
    prompt asks for them: the template, or the question itself, as Visual-RFT's do."""
    if example.solution:
        return example.solution.strip()
    answer = (
        box_fields.answer_text(example, example.meta["boxes"])
        if "boxes" in example.meta
        else example.answer
    )
    return (
        f"<answer> {answer} </answer>" if "<answer>" in question_text(example, template) else answer
    )


def encode_response(text, processor, where, max_length, name="response"):
    """(T,) ids of a response and the end-of-turn token. UserError, which says where and by which name, if it is longer than max_length or spells a reserved token."""
    for token in processor.special.reserved:
        if token in text:
            raise UserError(f"{where}: the {name} contains the reserved token {token}; remove it")
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"] + [
        processor.special.eos_ids[0]
    ]
    if len(ids) > max_length:
        raise UserError(
            f"{where}: the {name} has {len(ids)} tokens, more than --max-completion-length {max_length}; raise it or shorten the {name}"
        )
    return torch.tensor(ids)


# -------------------------------------------------------------------------------------------------------------- collate


def pad_targets(rows, pad_id):
    """List of (T_b,) ids -> targets (B, T) right-padded, mask (B, T) float: 1 for the first T_b, the end-of-turn token among them."""
    lengths = torch.tensor([len(row) for row in rows])
    targets = torch.full((len(rows), int(lengths.max())), pad_id)
    for b, row in enumerate(rows):
        targets[b, : len(row)] = row
    return targets, (torch.arange(targets.shape[1]) < lengths[:, None]).float()


def collate(prompts, targets, mask, counts=None, device="cpu", packed=True):
    """N prompts and B responses as one batch for the model: packed if it is one prompt with two responses or more, else padded on the right.

    prompts: list of N Prompt; targets, mask: (B, T) from pad_targets or a rollout; counts: how many consecutive rows belong to each
    prompt (default: B / N each). packed=False: padded in any case, which is the test's reference.
    Returns a dict of tensors on `device`: input_ids (rows, S); positions (3, rows, S); targets, mask (B, T); predicts (B, T), the index in S of
    the state that predicts each target (the one before it: the only shift in this project); pixel_values, grid: each prompt's once, or
    features, where model.cache_features has been; image_to, image_from (.,): flat index in (rows*S) of each image token, and which feature
    row goes there. rows: B if padded. If packed 1, and there are to_rows, from_rows: see `pack`.
    """
    B = len(targets)
    counts = counts or [B // len(prompts)] * len(prompts)
    assert sum(counts) == B and len(counts) == len(prompts), (
        f"{counts} rows of {len(prompts)} prompts, but {B} responses"
    )
    lengths = mask.sum(1).long()  # (B,)
    batch = (
        pack(prompts[0], targets, lengths)
        if packed and len(prompts) == 1 and B > 1
        else pad(prompts, targets, lengths, counts)
    )
    batch |= {"targets": targets, "mask": mask, "pixel_values": None, "grid": None}
    pictured = [p for p in prompts if p.pixel_values is not None]
    if pictured and all(p.features is not None for p in pictured):
        batch["features"] = torch.cat([p.features for p in pictured])
    elif pictured:
        batch |= {
            "pixel_values": torch.cat([p.pixel_values for p in pictured]),
            "grid": torch.cat([p.grid for p in pictured]),
        }
    return {name: value if value is None else value.to(device) for name, value in batch.items()}


def pad(prompts, targets, lengths, counts):
    """Rows [its prompt | its response | padding]. Nothing needs an attention mask: attention is causal and padding comes last."""
    B, T = targets.shape
    lengths = lengths.tolist()
    S = max(len(p.ids) for p in prompts) + T
    input_ids = targets.new_zeros(B, S)
    positions = torch.zeros(3, B, S, dtype=torch.long)
    predicts = torch.zeros(B, T, dtype=torch.long)
    image_to, image_from = [], []
    row = seen = 0
    for prompt, count in zip(prompts, counts):
        P, features = len(prompt.ids), torch.arange(len(prompt.image_at)) + seen
        seen += len(prompt.image_at)
        for b in range(row, row + count):
            input_ids[b, :P] = prompt.ids
            input_ids[b, P : P + lengths[b]] = targets[b, : lengths[b]]
            positions[:, b, :P] = prompt.positions
            positions[:, b, P : P + T] = prompt.following + torch.arange(T)
            predicts[b] = P - 1 + torch.arange(T)
            image_to.append(prompt.image_at + b * S)
            image_from.append(features)
        row += count
    return {
        "input_ids": input_ids,
        "positions": positions,
        "predicts": predicts,
        "image_to": torch.cat(image_to),
        "image_from": torch.cat(image_from),
    }


def pack(prompt, targets, lengths):
    """[prompt | r1 | r2 | ... | rB] in one row without padding: S = P + sum(lengths). Each response's positions start again after the prompt, and
    its first token is predicted by the prompt's last, which they share.

    The attention (model.packed_attention) takes the responses apart again. to_rows (B, L), L the longest one's length (at least 1): the index in S of
    each of their tokens, 0 where there is none. from_rows (sum(lengths),): the flat index in (B*L) of each response token.
    Lengths 2 and 1 after a prompt of 3 tokens: predicts [[2, 3], [2, .]], to_rows [[3, 4], [5, 0]], from_rows [0, 1, 2].
    """
    (B, T), P, longest = targets.shape, len(prompt.ids), max(1, int(lengths.max()))
    t = torch.arange(T)
    held = t < lengths[:, None]  # (B, T)
    index = (P + lengths.cumsum(0) - lengths)[:, None] + t  # (B, T), in S
    predicts = (index - 1).masked_fill(~held, 0)
    predicts[:, :1] = P - 1
    positions = (prompt.following + t).expand(B, T)[held]  # (sum(lengths),)
    return {
        "input_ids": torch.cat([prompt.ids, targets[held]])[None],
        "positions": torch.cat([prompt.positions, positions.expand(3, -1)], 1)[:, None],
        "predicts": predicts,
        "image_to": prompt.image_at,
        "image_from": torch.arange(len(prompt.image_at)),
        "to_rows": index[:, :longest].masked_fill(~held[:, :longest], 0),
        "from_rows": (torch.arange(B)[:, None] * longest + t)[held],
    }


def micro_batches(rows, size, counts):
    """Cuts B rows in groups of `counts` into pieces of at most `size` rows: yields (first row, end row, first prompt, end prompt, counts
    of the piece). A group of two rows or more makes pieces of its own, as even as can be (8 rows, size 5: 4 and 4), so that `collate` can
    pack them; its prompt is encoded once a piece. Groups of one row share a piece."""
    first = start = 0
    while start < rows:
        last = first + 1
        if not counts[first]:  # a prompt without responses
            first = last
            continue
        while (
            counts[first] == 1 and last < len(counts) and counts[last] == 1 and last - first < size
        ):
            last += 1
        cuts = even_cuts(sum(counts[first:last]), size)
        for a, b in zip(cuts, cuts[1:]):
            yield (
                start + a,
                start + b,
                first,
                last,
                [b - a] if last == first + 1 else counts[first:last],
            )
        first, start = last, start + cuts[-1]


def even_cuts(total, most):
    """[0, ..., total]: the ends of as few pieces as possible of at most `most`, of about the same size."""
    pieces = math.ceil(total / most)
    return [total * i // pieces for i in range(pieces + 1)]


def epoch_order(size, epoch, seed):
    """A permutation of range(size), a pure function of (epoch, seed)."""
    order = list(range(size))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order
