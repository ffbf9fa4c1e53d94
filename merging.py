"""Several questions on one picture as one conversation, so that the picture is read once.

    a.png "How many?" "3"   +   a.png "Red?" "No."
    -> a.png, user "How many?", assistant "3", user "Red?", assistant "No."

All answers are learned (data.Asker.lesson). The Cauldron has its sets so (Idefics2,
arXiv:2405.02246, and Idefics3).
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import data
import lengths
from data import Asker
from plumbing.errors import UserError
from tasks.example import Example, Turn
from tasks.images import Picture
from tasks.marks import MARK
from tasks.prompts import question_text
from tasks.stored import Stored


@dataclass
class Growing:
    """A conversation that may take one more question."""

    parts: list[Example]
    response: int  # tokens after the first question, at most
    whole: int  # all tokens, at most


def picture_key(image: Picture) -> str | int:
    """Tell pictures apart: a file by its path, an embedded one by its bytes."""
    if isinstance(image, (str, Path)):
        return os.path.realpath(image)
    content = image.read() if isinstance(image, Stored) else image
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else id(image)


def can_merge(example: Example) -> bool:
    """Tell whether a question may stand beside others on its pictures.

    Not if it has none, has a history, says where they stand between its words, or if its boxes
    count in pixels of the picture as it is resized, which may grow in the course of a run.
    """
    is_plain = bool(example.images) and not example.history and MARK not in example.question
    return is_plain and example.meta.get("box_format") != "resized"


def conversation(parts: Sequence[Example], template: str) -> Example:
    """Join questions on the same pictures: the last one is asked, the others come before it."""
    *earlier, last = parts
    history = []
    for part in earlier:
        history.append(Turn("user", question_text(part, template)))
        history.append(Turn("assistant", data.target_text(part, template)))
    return replace(last, history=history, source=parts[0].source)


def groups_of(asker: Asker, examples: Sequence[Example], most: int) -> list[list[Example]]:
    """Group the questions that become one conversation, in the order of their first ones.

    most: tokens of a conversation after its first question.
    """
    context = asker.processor.context
    groups, growing = [], {}
    for example in lengths.shown(examples):
        if not can_merge(example):
            groups.append([example])
            continue
        tokens = lengths.lesson_tokens(asker, example)
        key = example.system, *map(picture_key, example.images)
        group = growing.get(key)
        # A question's words alone have a system turn too: so this is a little too careful.
        fits = group and group.response + tokens.words <= most
        # The last question leaves room for an answer of any length, as every prompt does.
        if fits and group.whole + tokens.words + most <= context:
            group.parts.append(example)
            group.response += tokens.words
            group.whole += tokens.words
        else:
            growing[key] = Growing([example], tokens.answers, tokens.whole)
            groups.append(growing[key].parts)
    return groups


def merged(asker: Asker, examples: Sequence[Example], most: int) -> Sequence[Example]:
    """Merge the questions on each picture into conversations; print what that saves.

    most: tokens of a conversation after its first question. Raises UserError for a chat template
    that does not repeat earlier answers.
    """
    groups = groups_of(asker, examples, most)
    found, saved, number = [], 0, 0
    for parts in groups:
        if len(parts) == 1:
            found += parts
            continue
        example = conversation(parts, asker.template)
        must_repeat(asker, example)
        found.append(example)
        number += len(parts)
        saved += (len(parts) - 1) * asker.image_tokens(example)
    print(
        f"--merge-same-image: {number} of {len(examples)} questions became "
        f"{len(found) - len(examples) + number} conversations, {len(found)} examples in all; "
        f"{saved} picture tokens less an epoch"
    )
    return found


def must_repeat(asker: Asker, example: Example) -> None:
    """Raise UserError if the chat template changes earlier answers, so that none can be learned."""
    try:
        asker.earlier_answers(example, asker.processor.context)
    except UserError as error:
        raise UserError(f"{error} (--merge-same-image made them: omit it)") from None
