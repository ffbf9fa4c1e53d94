"""Which questions are the same but for a few words: normalised n-grams."""

import re
import unicodedata
from collections.abc import Iterable

from tasks.marks import MARK

ROW = 13  # words in a row that no two questions share by chance (GPT-3, arXiv:2005.14165)
SHORT_ROW = 3  # words, of questions about one picture
NEAR = 0.8  # of the short rows in common: near-identical


# Signs of Chinese and Japanese, whose words have no blanks between them, are words of their own.
SIGN = r"[\u3040-\u30ff\u3400-\u9fff]"
WORD = re.compile(rf"{SIGN}|(?:(?!{SIGN})\w)+")


def words_of(question: str) -> tuple[str, ...]:
    """List the words of a question, without case, punctuation and places of pictures."""
    text = unicodedata.normalize("NFKC", question.replace(MARK, " ")).casefold()
    return tuple(WORD.findall(text))


def rows_of(words: tuple[str, ...], length: int) -> set[tuple[str, ...]]:
    """List all rows of so many words; of a shorter question the whole."""
    if len(words) <= length:
        return {words} if words else set()
    return {words[i : i + length] for i in range(len(words) - length + 1)}


def overlap(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    """Compute the share of the shorter question's rows of three words that the other one has."""
    length = min(SHORT_ROW, len(one), len(other))
    if not length:
        return float(one == other)
    rows = rows_of(one, length), rows_of(other, length)
    return len(rows[0] & rows[1]) / min(map(len, rows))


class Asked:
    """All questions of a set: whether another question is among them, whatever its picture.

    It is if it is there whole, or shares 13 words in a row.
    """

    def __init__(self, questions: Iterable[tuple[str, ...]] = ()) -> None:
        self.rows: set[int] = set()  # hashes: a tenth of the memory
        for words in questions:
            self.add(words)

    def add(self, words: tuple[str, ...]) -> None:
        """Take a question into account."""
        self.rows.update(map(hash, rows_of(words, ROW)))

    def __contains__(self, words: tuple[str, ...]) -> bool:
        return any(hash(row) in self.rows for row in rows_of(words, ROW))
