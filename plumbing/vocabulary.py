"""The words of a tokenizer by what they spell, since ids differ between tokenizers.

Byte-level BPE writes a word's bytes in letters of its own, an added token as it stands. As bytes
both compare: `<think>` is id 151648 in one tokenizer, and no token at all in another, where that
id is `<|box_start|>`.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

from plumbing import checkpoint_files, disk
from plumbing.errors import UserError
from plumbing.fields import first_line

# Texts that tell how words are split before they are merged: spaces, digits, letters of the world.
SAMPLES = (
    "How many red objects are there?\nCount them: 1, 12 and 345.\n\n  I'm sure, you're  not...",
    "f(x) = 3*x**2 - 0.5;  // \t<answer> x_1 </answer>\r\n",
    "Größe, 大きさ, 사과, \u0643\u0645, \u0928\u092e\u0938\u094d\u0924\u0947, \U0001f600!",
)


class Vocabulary(NamedTuple):
    """What a tokenizer can say."""

    backend: object  # of the tokenizers library
    words: dict[bytes, int]  # ordinary ones: what it spells -> id
    added: dict[bytes, int]  # added tokens, likewise; these are found in a text first

    @property
    def ids(self) -> dict[bytes, int]:
        """Return the id of everything that it can say."""
        return self.words | self.added


@functools.cache
def byte_of() -> dict[str, int]:
    """Return the byte behind each letter of byte-level BPE (GPT-2)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def spelled(word: str) -> bytes:
    """Return the bytes of a word of the vocabulary; one in other letters stands for itself."""
    table = byte_of()
    if any(letter not in table for letter in word):
        return word.encode()
    return bytes(table[letter] for letter in word)


def load_backend(directory: Path) -> object:
    """Load tokenizer.json itself: classes of transformers may change what it does.

    Where there is none, what transformers makes of vocab.json. UserError if neither can be read.
    """
    from tokenizers import Tokenizer

    file = directory / "tokenizer.json"
    if not file.is_file() and not (directory / "vocab.json").is_file():
        raise UserError(
            f"{directory} holds no tokenizer.json; "
            "copy the tokenizer's files of the original checkpoint there"
        )
    if not file.is_file():
        return checkpoint_files.load_tokenizer(directory).backend_tokenizer
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exception for all damage
        if disk.is_the_machines(error):
            raise
        raise UserError(
            f"{file} cannot be read ({first_line(error, 100)}); fetch the checkpoint again"
        ) from None


def vocabulary_of(backend: object, where: Path) -> Vocabulary:
    """Read a tokenizer's words. UserError unless it is byte-level BPE."""
    kind = json.loads(backend.to_str())
    if kind["model"]["type"] != "BPE" or '"ByteLevel"' not in json.dumps(kind["decoder"]):
        raise UserError(
            f"{where}: its tokenizer is not byte-level BPE, as those of the Qwen family are; "
            "name another LLM"
        )
    added = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
    words = backend.get_vocab(with_added_tokens=False)
    return Vocabulary(
        backend,
        {spelled(word): i for word, i in words.items() if word not in added},
        {content.encode(): i for content, i in added.items()},
    )


def differences(one: Vocabulary, other: Vocabulary) -> list[tuple[str, list[str], list[str]]]:
    """List texts that two tokenizers split differently, with both splits.

    Tried: every word of either that is a whole text, and SAMPLES.
    """
    texts = list(SAMPLES)
    for word in sorted(one.words.keys() | other.words.keys()):
        try:
            texts.append(word.decode())
        except UnicodeDecodeError:  # a part of a letter
            continue
    splits = [each.backend.encode_batch(texts, add_special_tokens=False) for each in (one, other)]
    return [
        (text, first.tokens, second.tokens)
        for text, first, second in zip(texts, *splits)
        if first.tokens != second.tokens
    ]
