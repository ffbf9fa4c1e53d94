"""Where pictures stand in the user's turns: one <image> for each, in order, or none at all.

Other projects spell a place otherwise. What is surely a place is written <image>, what may be one
is refused.
"""

import re

from plumbing.errors import UserError
from plumbing.text import short
from tasks.example import Turn
from tasks.image_fields import READ_FROM, same_pictures

MARK = "<image>"  # in a user's turn, the place of a picture

# The place of the next picture, in any case.
PLACES = [
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>",  # Qwen2-VL
    r"<img>\s*(?:<image_?here>)?\s*</img>",  # MiniGPT-4; InternVL
    r"\(<image>\./</image>\)|<image>(?:\./)?</image>",  # MiniCPM-V
    r"<image>",  # LLaVA
    r"<image_?here>",  # InternLM-XComposer
    r"<image_?(?:placeholder|token)>",  # DeepSeek-VL, Janus
    r"<\|image\|>",  # Llama 3.2
    r"<start_of_image>",  # Gemma 3
    r"\[IMG\]",  # Pixtral
]
PLACE = re.compile("|".join(PLACES), re.IGNORECASE)
# The place of the picture with this number: MMMU's <image 1>, Phi's <|image_1|>.
NUMBERED = re.compile(r"<\|?(?:image|img)[ _:#-]{0,2}(\d{1,2})\|?>", re.IGNORECASE)
# Qwen-VL's: Picture 1: <img>a.png</img>
NAMED = re.compile(r"<img>([^<>\n]+)</img>")
# What may be a place, or belongs to a picture that must then be there.
UNSURE = re.compile(
    r"(?!<image>)<\|?\s*(?:im|image|img|picture|photo)[ _-]?(?:\d{1,3}|here|placeholder|token)?"
    r"\s*\|?>",
    re.IGNORECASE,
)
BRACED = re.compile(r"(?<![\w\\}])\{(?:image|img)[_#]?\d{0,2}\}")  # not LaTeX's \text{image}
MAY_BE_MARK = re.compile(r"[<\[{]")  # without these signs a text has no mark
VIDEO = re.compile(r"<\|?\s*video[ _-]?(?:\d{1,3}|token|pad)?\s*\|?>", re.IGNORECASE)
EMBEDDED = re.compile(r"<img\s[^>]*>|!\[[^\]]*\]\([^)]*\)|\[image\]", re.IGNORECASE)


def placed(
    history: list[Turn], question: str, images: list, where: str
) -> tuple[list[Turn], str, list]:
    """Write the places of pictures as <image>, and put the pictures in their order.

    Marks that only say that pictures come first are dropped.
    UserError unless there is one place for each of the `images`, or none at all.
    """
    turns = [*history, Turn("user", question)]
    at = [place for place, turn in enumerate(turns) if turn.role == "user"]
    given = [turns[place].text for place in at]
    if not any(map(MAY_BE_MARK.search, given)):
        *history, last = [Turn(role, text.strip()) for role, text in turns]
        return history, last.text, images
    texts, images = in_order(given, images, where)
    spelled = texts if images else given
    must_match(spelled, len(images), where)
    must_be_sure(spelled, len(images), where)
    for place, text in zip(at, texts):
        turns[place] = Turn("user", text)
    *history, last = without_first_marks(turns)
    return history, last.text, images


def in_order(texts: list[str], images: list, where: str) -> tuple[list[str], list]:
    """Write each place in the user's texts as <image>, with the pictures in that order.

    "Is <image 2> or <image 1> red?", [a, b] -> "Is <image> or <image> red?", [b, a]
    "Picture 1: <img>a.png</img>", [] -> "Picture 1: <image>", ["a.png"]
    A picture without a place comes first. A second mention of one stays words: "image 1".
    """
    texts = [PLACE.sub(MARK, text) for text in texts]
    names = [name.strip() for text in texts for name in NAMED.findall(text)]
    if names and images and not same_pictures(images, names):
        raise UserError(
            f"{where}: the text has <img>{short(names[0], 40)}</img>, but the record names other "
            "pictures; delete those that are not meant"
        )
    texts, images = [NAMED.sub(MARK, text) for text in texts], images or names
    numbers = [int(number) for text in texts for number in NUMBERED.findall(text)]
    first = 0 if 0 in numbers else 1
    are_places = not any(MARK in text for text in texts)
    order = []

    def written(mark: re.Match) -> str:
        """Write one numbered mark."""
        place = int(mark[1]) - first
        if place >= len(images):
            return mark[0]  # refused later, with the number
        if not are_places or place in order:
            return f"image {mark[1]}"
        order.append(place)
        return MARK

    texts = [NUMBERED.sub(written, text) for text in texts]
    unmarked = [place for place in range(len(images)) if place not in order]
    if order:
        texts[0] = MARK * len(unmarked) + texts[0]
    return texts, [images[place] for place in unmarked + order]


def without_first_marks(turns: list[Turn]) -> list[Turn]:
    """Strip the texts of a conversation, and its marks if all stand before its first words.

    Without marks pictures come first all the same, and nothing is left between them and the text.
    "<image>\\n<image> Which?" -> "Which?"; "<image> or <image>?" stays.
    """
    turns = [Turn(role, text.strip()) for role, text in turns]
    at = next(n for n, turn in enumerate(turns) if turn.role == "user")
    rest = turns[at].text
    while rest.startswith(MARK):
        rest = rest.removeprefix(MARK).lstrip()
    others = [turn.text for n, turn in enumerate(turns) if turn.role == "user" and n != at]
    if not any(MARK in text for text in [rest, *others]):
        turns[at] = Turn("user", rest)
    return turns


# --- refusals ---


def must_match(texts: list[str], count: int, where: str) -> None:
    """Refuse the user's texts unless they have one <image> for each picture, or none at all."""
    marks = sum(text.count(MARK) for text in texts)
    if marks and marks != count:
        raise UserError(
            f"{where}: {marks} {MARK} in the question, but {count} images; "
            f"there must be one for each, or no {MARK} at all"
        )


def must_be_sure(texts: list[str], count: int, where: str) -> None:
    """Refuse the user's texts if a mark is left in them that is no known place."""
    are_all_placed = any(MARK in text for text in texts)
    for text in texts:
        mark = VIDEO.search(text) or NUMBERED.search(text)
        if not are_all_placed:  # else these are words, as in "the <img> tag"
            mark = mark or UNSURE.search(text) or BRACED.search(text)
        if mark and count and not re.search(r"video|\d", mark[0], re.IGNORECASE):
            raise UserError(
                f"{where}: the text has {mark[0]}, which may be the place of a picture; "
                f"write {MARK} if it is, or else remove it"
            )
        if not count:
            mark = mark or PLACE.search(text) or EMBEDDED.search(text)
        if mark:
            raise unread(mark[0], count, where)


def must_need_none(texts: list[str], count: int, where: str) -> None:
    """Refuse choices and replies that speak of other pictures than the `count` that are read."""
    for text in texts:
        known = [] if count else [EMBEDDED, PLACE, NAMED, UNSURE]
        marks = [found.search(text) for found in (VIDEO, *known)]
        marks += [mark for mark in NUMBERED.finditer(text) if int(mark[1]) > count]
        mark = next(filter(None, marks), None)
        if mark:
            raise unread(mark[0], count, where)


def unread(mark: str, count: int, where: str) -> UserError:
    """Make the message about a mark without its picture."""
    return UserError(
        f"{where}: the text has {short(mark, 40)}, but {count} images are read; "
        f"{READ_FROM}: name it there, or remove the mark"
    )
