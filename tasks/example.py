"""The records that every reader produces."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Turn(NamedTuple):
    """One earlier turn of a conversation."""

    role: str  # "user" or "assistant"
    text: str  # an <image> in a user's turn is a picture's place


@dataclass
class Example:
    """A question with its pictures and its gold answer.

    A picture stands where its <image> stands: in `history` and `question` there is one for each of
    `images`, in order, or none at all. Without any, the pictures come before the first user turn.

    meta["boxes"], [{"bbox_2d": [x1, y1, x2, y2], "label": text or None}, ...], makes it a box
    example: in pixels of its one picture of meta["size"], [width, height]; [] if there is nothing
    to find. `answer` is the same as JSON. meta["box_format"] (boxes.BOX_FORMATS) is how the model
    writes boxes, meta["resized"] the [width, height] that it sees, where it writes them so.
    """

    id: str
    images: list  # `images.Picture`s; `open_images` opens them when needed
    question: str
    answer: str  # gold, without tags; "" for an open-ended question
    choices: list[str] | None = None
    solution: str | None = None  # the worked response to imitate
    task: str | None = None
    meta: dict = field(default_factory=dict)  # whatever else the record holds
    source: str = ""  # "file:line", for messages
    history: list[Turn] = field(default_factory=list)  # what was said before the question
    unlearned: list[int] = field(default_factory=list)  # answers in it that are not to be learned
    system: str | None = None  # the record's own system turn
    sizes: list | None = field(default=None, compare=False)  # what `images.sizes_of` has read

    def asked(self) -> dict:
        """Write for a record what was asked: the question and what came before.

        {"question": "And now?", "history": [{"role": "user", "content": "How many?"}, ...]}
        """
        asked = {"question": self.question}
        if self.history:
            asked["history"] = [{"role": role, "content": text} for role, text in self.history]
        if self.system is not None:
            asked["system"] = self.system
        return asked

    def about(self) -> dict:
        """Write for a record which question it is about, and the gold answer."""
        return {"id": self.id} | self.asked() | {"answer": self.answer}


@dataclass
class Pair:
    """A question with a better and a worse response, without the end-of-turn token."""

    example: Example
    chosen: str
    rejected: str
    kind: str | None = None  # what is wrong with a self-made one: answer, format or dropout_ntp
