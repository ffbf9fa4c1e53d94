"""Examples to tensors: which of them, and how a question is put. Only here image tokens expand.

From a record to a prompt, with the shapes of one toy question (112 x 112 pixels are 8 x 8 patches,
16 tokens after merging):

    Example    id, images (not yet opened), question, answer, choices, solution, task, meta, history
    Prompt     ids (P,), 16 of them <|image_pad|>; positions (3, P); pixel_values (64, 1176)
    batch      of batching.collate: prompts and their responses, padded or packed

`python data.py FILE` looks at a data set (tasks/inspection.py).
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before torch is imported, which takes seconds: Ctrl-C may come there too

import argparse
import contextlib
import functools
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from tqdm import tqdm

import tasks
from plumbing import checkpoint_files, flags, running, templates
from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from plumbing.loading import loading
from plumbing.text import HALF, cut
from processor import family_of, processor_of
from tasks import box_fields, folders, images, inspection, toy
from tasks.example import Example
from tasks.prompts import DEFAULT_TEMPLATE, messages_of, question_text, template_of

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
    """
    return [examples[place] for place in places(examples, start, number, seed)]


def places(examples: Sequence[Example], start: int, number: int, seed: int | str) -> list[int]:
    """Say where in the data the examples are that `take` takes.

    Every epoch is a new permutation; a stream is random and endless already.
    """
    if is_endless(examples):
        return list(range(start, start + number))
    size = len(examples)
    found = []
    for position in range(start, start + number):
        epoch = position // size
        found.append(epoch_order(size, epoch, seed)[position % size])
    return found


def batches_ahead(
    encode: Callable,
    examples: Sequence[Example],
    steps: Iterable[int],
    number: int,
    seed: int,
    num_workers: int,
    own: Sequence[int] | None = None,
) -> contextlib.AbstractContextManager[Iterator[list]]:
    """Encode the `number` examples of each training step ahead of it: see plumbing/loading.py.

    steps: their numbers, from 1. encode(example): what a step gets of it.
    own: which of a step's are wanted; None: all.
    """
    own = range(number) if own is None else own

    def wanted() -> Iterator[list[int]]:
        for step in steps:
            found = places(examples, (step - 1) * number, number, seed)
            yield [found[n] for n in own]

    return loading(encode, examples, wanted(), num_workers)


@functools.lru_cache(maxsize=4)  # a step asks, and the loader for two steps later
def epoch_order(size: int, epoch: int, seed: int | str) -> list[int]:
    """Permute range(size): a pure function of (epoch, seed)."""
    order = list(range(size))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order


def must_end(max_steps: int | None, spec: str, examples: Sequence[Example]) -> None:
    """Raise UserError for an endless stream (--data `spec`) without --max-steps."""
    if is_endless(examples) and not max_steps:
        raise UserError(
            f"--data {spec} never ends: say how long to train with --max-steps, "
            "e.g. --max-steps 200"
        )


def steps_of(max_steps: int | None, epochs: float, examples: Sequence, per_step: int) -> int:
    """Count the steps: --max-steps, or what --num-train-epochs means for this many examples."""
    return max_steps or max(1, round(epochs * len(examples) / per_step))


def is_toy(spec: str) -> bool:
    """Say whether --data names a toy task, whose pictures are drawn."""
    name, _ = folders.split_name(spec)
    return name in toy.TASKS and not os.path.exists(name)


def default_eval(*specs: str) -> list[str]:
    """Choose what to evaluate on without --eval-data: a toy task's test split, or --data itself."""
    chosen = [f"{folders.split_name(s)[0]}:test" if is_toy(s) else s for s in specs]
    own = [spec for spec in specs if not is_toy(spec)]
    if own:
        print(
            f"no --eval-data: accuracy on {', '.join(own)} will be that on the training data, "
            "which is not held out"
        )
    return list(dict.fromkeys(chosen))


def reading(args: argparse.Namespace, bad: BadRecords) -> dict[str, object]:
    """Collect what flags tell tasks.read about records and their boxes."""
    names = ("level", "box_format", "min_pixels", "max_pixels")
    _, token_side = family_of(args.model)
    return {name: getattr(args, name) for name in names} | {"token_side": token_side, "bad": bad}


def read_eval(
    specs: list[str], known: dict[str, Sequence[Example]], number: int | None, **reading: object
) -> dict[str, list[Example]]:
    """Read the first `number` examples of each --eval-data: {short name: examples}.

    known: {spec: examples} of what has been read already. reading: as for tasks.read.
    """
    sets = {}
    for spec, name in folders.short_names(specs).items():
        if spec not in known:
            tasks.must_exist(spec, "--eval-data")
        examples = known[spec] if spec in known else tasks.read(spec, **reading)
        sets[name] = head(examples, number)
    return sets


def has_golds(examples: Sequence[Example]) -> bool:
    """Say whether any of these has a gold answer."""
    return is_endless(examples) or any(example.answer for example in examples)


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

    That of a conversation (Asker.lesson) has one response, in which later pictures lie: they are
    in image_slots, counted on from ids. response_positions: (3, T) long, of the whole response.
    text: as rendered, up to where the last answer begins.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    next_position: int
    image_slots: torch.Tensor
    pixel_values: torch.Tensor | None = None
    grid: torch.Tensor | None = None
    text: str = ""
    features: torch.Tensor | None = None
    response_positions: torch.Tensor | None = None


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
        "min_pixels": flags.MIN_PIXELS,
        "max_pixels": flags.MAX_PIXELS,
    }
    if hasattr(args, "box_format"):
        defaults["box_format"] = family_of(args.model)[0].box_format
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
        """Encode an example up to the answer: the chat, one <|image_pad|> per merged patch.

        room: tokens that must still fit after the prompt.
        Raises UserError for what does not fit: cutting a prompt would cut image tokens.
        """
        processor = self.processor
        special = processor.special
        text = self.render(example)
        pixel_values = grid = None
        sizes, pads = [], []  # of each image: (rows, columns) of merged patches, and tokens
        if example.images:
            pictures = []
            for image in example.images:  # one at a time, so that no two are in memory
                opened = [images.open_image(image, example.source)]
                pictures.append(processor.image_processor(images=opened, return_tensors="pt"))
            pixel_values = torch.cat([picture["pixel_values"] for picture in pictures])
            grid = torch.cat([picture["image_grid_thw"] for picture in pictures])
            merge = processor.image_processor.merge_size
            sizes = (grid[:, 1:] // merge).tolist()
            pads = (grid.prod(-1) // merge**2).tolist()
            first, *parts = text.split(special.image)
            text = first + "".join(special.image * n + part for n, part in zip(pads, parts))
        ids = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        self.must_fit(example, len(ids), sum(pads), room)
        is_image = ids == special.image_id
        positions, next_position = processor.family.positions(is_image, sizes)
        slots = is_image.nonzero()[:, 0]
        return Prompt(ids, positions, next_position, slots, pixel_values, grid, text)

    def target(self, example: Example, room: int) -> torch.Tensor:
        """Encode what the supervised stage imitates, with the end-of-turn token: (T,) ids.

        Raises UserError if there is nothing, more than `room` tokens, or a reserved token.
        """
        text = target_text(example, self.template)
        return encode_response(text, self.processor, example.source, room, "solution")

    def lesson(
        self, example: Example, most: int, room: int = 0
    ) -> tuple[Prompt, torch.Tensor, torch.Tensor]:
        """Encode what the supervised stage learns from: prompt, targets (T,), learned (T,) float.

        learned: 1 for the tokens of answers. Of a conversation the prompt ends where the first
        answer begins, and later questions, with their pictures, are targets of learned 0.
        most: tokens of each answer. room: as for `prompt`, which asks the last question.
        Raises UserError as `prompt` and `target` do.
        """
        whole, last = self.prompt(example, room), self.target(example, most)
        if example.history:
            ids, learned = self.earlier_answers(example, most)
        if not example.history or not learned.any():
            return whole, last, torch.ones(len(last))
        repeats = torch.ones(len(ids), dtype=torch.long)
        if whole.grid is not None:
            merge = self.processor.image_processor.merge_size
            repeats[ids == self.processor.special.image_id] = whole.grid.prod(-1) // merge**2
        learned = learned.repeat_interleave(repeats)  # one for each of whole.ids
        first = int(learned.argmax())
        own = (whole.next_position + torch.arange(len(last))).expand(3, -1)
        prompt = replace(
            whole,
            ids=whole.ids[:first],
            positions=whole.positions[:, :first],
            next_position=int(whole.positions[0, first]),
            response_positions=torch.cat([whole.positions[:, first:], own], 1),
        )
        targets = torch.cat([whole.ids[first:], last])
        return prompt, targets, torch.cat([learned[first:], torch.ones(len(last))])

    def earlier_answers(self, example: Example, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the answers in a prompt's history, their end-of-turn tokens included.

        None is what an assistant says before the first question, or in a turn of `unlearned`.
        Returns the prompt's ids (P,), a picture being one token, and learned (P,) float.
        Raises UserError for one of more than `most` tokens, or that the template does not repeat.
        """
        messages = messages_of(example, self.template, self.system_prompt)
        ids = self.encode(self.render(example))
        learned = torch.zeros(len(ids))
        is_asked = False
        start_of_history = len(messages) - len(example.history) - 1
        for n, message in enumerate(messages):
            is_asked |= message["role"] == "user"
            is_learned = n - start_of_history not in example.unlearned
            if is_asked and is_learned and message["role"] == "assistant":
                before = templates.render(self.processor.tokenizer, messages[:n], example.source)
                start = len(self.encode(before))
                answer = encode_response(
                    message["content"], self.processor, example.source, most, "earlier answer"
                )
                end = start + len(answer)
                if not torch.equal(ids[start:end], answer):
                    raise UserError(
                        f"{example.source}: the chat template does not repeat the earlier answers "
                        "as they were given, so they cannot be learned; delete the earlier turns"
                    )
                learned[start:end] = 1
        return ids, learned

    def encode(self, text: str) -> torch.Tensor:
        """Encode a rendered text: (P,) ids."""
        return torch.tensor(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

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
        return sum(self.tokens_of(width, height) for width, height in images.sizes_of(example))

    def tokens_of(self, width: int, height: int) -> int:
        """Count the tokens of a picture of this size."""
        image_processor = self.processor.image_processor
        patches = image_processor.get_number_of_image_patches(height, width)
        return patches // image_processor.merge_size**2

    def render(self, example: Example) -> str:
        """Write the prompt by the chat template, one <|image_pad|> for each picture.

        Raises UserError if it spells a reserved token.
        """
        names = {"user": "an earlier question", "assistant": "an earlier answer"}
        texts = [("the question", question_text(example, self.template))]
        texts += [(names[turn.role], turn.text) for turn in example.history]
        texts.append(("the system turn", example.system or ""))
        system_prompt = self.system_prompt
        for token in self.processor.special.reserved:
            for name, text in texts:
                if token in text:
                    raise UserError(
                        f"{example.source}: {name} contains the reserved token {token}; remove it"
                    )
            if token in (system_prompt or ""):
                raise UserError(f"--system-prompt contains the reserved token {token}; remove it")
        if HALF.search(system_prompt or ""):
            raise UserError(
                "the system prompt contains half a character; give another with --system-prompt "
                "(the checkpoint's args.json has this one)"
            )
        messages = messages_of(example, self.template, system_prompt)
        return templates.render(self.processor.tokenizer, messages, example.source)

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
    for them, as Visual-RFT's questions do. Raises UserError if there is neither.
    """
    if not (example.solution or example.answer):
        raise UserError(
            f"{example.source}: nothing to imitate, neither `solution` nor `answer`; "
            "fill one in or delete the record"
        )
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


# --- look at a data set ---


def inspect(args: argparse.Namespace) -> None:
    """Print what a data set holds; exit with code 1 if anything in it is wrong."""
    args = argparse.Namespace(**{**vars(args), **ask_as_trained(args)})
    processor = processor_of(args.model, args.max_pixels, args.min_pixels)
    if not inspection.report(args, Asker(processor, args.prompt_template, args.system_prompt)):
        sys.exit(1)


parse_args = inspection.parse_args
main = inspect

if __name__ == "__main__":
    running.run(main, parse_args)
