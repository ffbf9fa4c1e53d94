"""Which examples fit the context, found out before any work; encoded only where it is not plain.

A token stands for at least one byte, so that a text of 300 bytes has at most 300 tokens.
"""

import math
import unicodedata
from collections.abc import Collection, Sequence
from typing import NamedTuple

from tqdm import tqdm

from data import Asker, encode_response, head, is_endless, must_spell_none, target_text
from plumbing.bad_records import REFUSE, BadRecords
from plumbing.errors import UserError
from tasks import prompts
from tasks.example import Example, Pair


def fitting(
    asker: Asker,
    examples: Sequence[Example],
    room: int,
    targets: bool = False,
    bad: BadRecords = REFUSE,
) -> Sequence[Example]:
    """Check that every prompt fits the context with `room` tokens more; return the good examples.

    Of a toy task, the first few are checked. targets: the supervised responses too.
    Raises UserError as `Asker.prompt` and `Asker.target` would, unless `bad` leaves them out.
    """

    def check(example: Example) -> None:
        most = most_tokens(asker.render(example)) + asker.image_tokens(example)
        if most + room > asker.processor.context:
            asker.check([example], room)
        if targets:
            text = target_text(example, asker.template)
            check_response(text, asker.processor, example.source, room, "solution")
            if example.history:
                asker.earlier_answers(example, room)

    if is_endless(examples):
        REFUSE.usable(head(examples, 16), check)
        return examples
    return bad.usable(shown(examples), check)


def fitting_sets(
    asker: Asker, sets: dict[str, list[Example]], room: int, bad: BadRecords = REFUSE
) -> dict[str, Sequence[Example]]:
    """Do the same for each held-out set: {name: the good examples}."""
    return {name: fitting(asker, examples, room, bad=bad) for name, examples in sets.items()}


def fitting_pairs(asker: Asker, pairs: Collection[Pair], bad: BadRecords = REFUSE) -> list[Pair]:
    """Check that each pair's prompt and longer response fit the context; return the good pairs.

    Raises UserError as above, also for a response that spells a reserved token.
    """
    processor = asker.processor

    def check(pair: Pair) -> None:
        example = pair.example
        texts = {"chosen response": pair.chosen, "rejected response": pair.rejected}
        for name, text in texts.items():
            check_response(text, processor, example.source, math.inf, name)
        room = max(map(most_tokens, texts.values())) + 1
        most = most_tokens(asker.render(example)) + asker.image_tokens(example)
        if most + room > processor.context:
            rows = [encode_response(t, processor, example.source, math.inf) for t in texts.values()]
            asker.check([example], max(map(len, rows)))

    once = list({id(pair): pair for pair in pairs}.values())  # one may be there several times
    good = {id(pair) for pair in bad.usable(shown(once), check)}
    return [pair for pair in pairs if id(pair) in good]


class Tokens(NamedTuple):
    """How long a lesson of the supervised stage is, in tokens."""

    whole: int  # prompt and response, pictures included
    words: int  # the same without the pictures
    answers: int  # those that the loss counts


def lesson_tokens(asker: Asker, example: Example) -> Tokens:
    """Count the tokens of what Asker.lesson would encode, by the headers of pictures."""
    answers = target = len(asker.target(example, math.inf))
    if example.history:
        ids, learned = asker.earlier_answers(example, math.inf)
        answers += int(learned.sum())
    else:
        ids = asker.encode(asker.render(example))
    words = len(ids) - len(example.images) + target
    return Tokens(words + asker.image_tokens(example), words, answers)


def shown(items: Sequence) -> Sequence:
    """Show how far the check is."""
    return tqdm(items, desc="checking lengths", leave=False, disable=len(items) < 500)


def most_tokens(text: str) -> int:
    """Bound the tokens of a text by its bytes, as byte-level BPE has it.

    Qwen's tokenizer composes characters first, a few of which then take more bytes.
    """
    if text.isascii():
        return len(text)
    return len(unicodedata.normalize("NFC", text).encode())


def check_response(text: str, processor: object, where: str, most: float, name: str) -> None:
    """Check as `encode_response` does, but encode only what may be too long."""
    must_spell_none(text, processor, where, name)
    if most_tokens(text) + 1 > most:
        encode_response(text, processor, where, most, name)


def check_selections_fit(examples: list[Example], asker: Asker, most: int, N: int) -> None:
    """Check that N samples of `most` tokens and an answer fit into every selection prompt.

    UserError now, not after an hour. (Bytes that are no text can grow when they are written again;
    then rollout.self_select objects.)
    """
    instruction = prompts.SELECT.get(asker.template)
    empty = []
    for e in examples:
        question = prompts.question_text(e, asker.template)
        text = prompts.select_prompt(question, [""] * N, instruction)
        empty.append(prompts.with_question(e, text))
    longest, context = max(asker.verbatim().check(empty, 1)), asker.processor.context
    fits = (context - longest) // (N + 1)
    if fits < most:
        lower = f"--max-completion-length to {fits}" if fits > 0 else "--max-pixels"
        raise UserError(
            f"--self-select shows {N} samples of up to {most} tokens with a question of {longest} "
            f"and reads an answer of as many: too much for the model's context of {context}; "
            f"lower --num-samples, or {lower}"
        )
