"""The record that every reader produces."""

from dataclasses import dataclass, field


@dataclass
class Example:
    """The one record every reader produces.

    images: PIL images, paths or encoded bytes; opened by `open_images` when needed. answer: gold, without tags. solution: the worked
    response to imitate, or None. source: "file:line" for error messages. meta: whatever else the record holds.
    A box example is one with meta["boxes"], [{"bbox_2d": [x1, y1, x2, y2], "label": text or None}, ...] in pixels of its one image, whose [width, height] is
    meta["size"]; [] means that there is nothing to find, and `answer` is the same as JSON text. meta["box_format"] is how the model writes boxes (BOX_FORMATS),
    and meta["resized"] the [width, height] it sees, if it writes them so.
    """

    id: str
    images: list
    question: str
    answer: str
    choices: list = None
    solution: str = None
    task: str = None
    meta: dict = field(default_factory=dict)
    source: str = ""


@dataclass
class Pair:
    """A question with a better and a worse response. example: an Example, its answer "" where the record has none; chosen, rejected: texts, without the
    end-of-turn token; kind: what is wrong with the rejected one, where selftrain.py made the pair (answer, format or dropout_ntp)."""

    example: Example
    chosen: str
    rejected: str
    kind: str = None
