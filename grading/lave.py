"""LAVE: how a language model rates an open answer (arXiv:2310.02567), as text and nothing else.

    prompt(question, references, candidate) -> what a judge is asked
    rating(reply) -> 1 wrong or irrelevant, 2 ambiguous or incomplete, 3 correct, None unreadable
    score(rating) -> 0, 0.5 or 1

The instruction and the form are the paper's. The demonstrations are our own, eight of each kind as
there: the published ones come without a licence.
"""

import re
from collections import Counter
from collections.abc import Sequence

INSTRUCTION = (
    "You are given a question, a set of gold-standard reference answers written by experts, and a "
    "candidate answer. Please rate the accuracy of the candidate answer for the question "
    "considering the reference answers. Use a scale of 1-3, with 1 indicating an incorrect or "
    "irrelevant answer, 2 indicating an ambiguous or incomplete answer, and 3 indicating a correct "
    "answer. Give the rationale before rating.\n\nTHIS IS VERY IMPORTANT: A binary question should "
    "only be answered with 'yes' or 'no', otherwise the candidate answer is incorrect (rating=1)."
)
RARE = 0.25  # references of at most this share of the commonest one's count are left out

# (question, references, candidate, rationale, rating)
DEMONSTRATIONS = (
    (
        "What is on the table?",
        ["teapot", "teapot", "tea pot", "teapot"],
        "a kettle of tea",
        "The candidate answer is correct because a kettle of tea on a table is a teapot, which all "
        "reference answers name.",
        3,
    ),
    (
        "How many boats are moored?",
        ["4", "4", "four", "5"],
        "two",
        "The candidate answer is incorrect because most reference answers count four boats, and "
        "none counts two.",
        1,
    ),
    (
        "What color is the bus?",
        ["red and white", "red and white", "white and red"],
        "red",
        "The candidate answer is incomplete because the reference answers name white besides red.",
        2,
    ),
    (
        "What is the woman carrying?",
        ["umbrella", "umbrella", "parasol"],
        "umbrella",
        "The candidate answer is correct because it is what most reference answers name.",
        3,
    ),
    (
        "Which room is this?",
        ["kitchen", "kitchen", "kitchen"],
        "It is a lovely sunny day.",
        "The candidate answer is irrelevant because it speaks of the weather, and the question "
        "asks for a room.",
        1,
    ),
    (
        "What kind of tree is behind the house?",
        ["palm", "palm tree", "pine", "oak"],
        "an evergreen",
        "The candidate answer is ambiguous because the reference answers do not agree on the tree, "
        "and an evergreen can be several of them.",
        2,
    ),
    (
        "What is the total in the last row?",
        ["128.50", "128.50"],
        "$128.5",
        "The candidate answer is correct because it is the same amount as the reference answers, "
        "written with its currency.",
        3,
    ),
    (
        "What is the dog doing?",
        ["sleeping", "sleeping", "lying down"],
        "barking",
        "The candidate answer is incorrect because a dog that sleeps or lies down is not barking.",
        1,
    ),
)
BINARY_DEMONSTRATIONS = (
    (
        "Is the door open?",
        ["yes", "yes", "yes"],
        "yes",
        "The candidate answer is correct because all reference answers say that the door is open.",
        3,
    ),
    (
        "Is it raining?",
        ["no", "no", "yes", "no"],
        "yes",
        "The candidate answer is incorrect because most reference answers say that it is not "
        "raining.",
        1,
    ),
    (
        "Are there any people on the beach?",
        ["yes", "yes", "yes"],
        "three surfers",
        "The candidate answer is incorrect because the question is binary, and the answer is "
        "neither 'yes' nor 'no'.",
        1,
    ),
    (
        "Is the food finished?",
        ["yes", "no", "no", "yes"],
        "no",
        "The candidate answer is ambiguous because the reference answers are divided between 'yes' "
        "and 'no'.",
        2,
    ),
    (
        "Does the man wear a hat?",
        ["no", "no", "no"],
        "No, he does not.",
        "The candidate answer is correct because it says 'no', as all reference answers do.",
        3,
    ),
    (
        "Is this photo in color?",
        ["no", "no"],
        "black and white",
        "The candidate answer is incorrect because the question is binary, and the answer is "
        "neither 'yes' nor 'no'.",
        1,
    ),
    (
        "Is the train moving?",
        ["yes", "yes", "no"],
        "yes",
        "The candidate answer is correct because most reference answers say that the train is "
        "moving.",
        3,
    ),
    (
        "Is the lamp on?",
        ["yes", "yes"],
        "no",
        "The candidate answer is incorrect because the reference answers say that the lamp is on.",
        1,
    ),
)


# --- what a judge is asked ---


def prompt(question: str, references: Sequence[str], candidate: str) -> str:
    """Write what a judge is asked about an answer. references: at least one gold answer."""
    demonstrations = BINARY_DEMONSTRATIONS if is_binary(references) else DEMONSTRATIONS
    parts = [INSTRUCTION]
    for asked, given, said, why, rated in demonstrations:
        parts.append(f"{case(asked, given, said)} {why} So rating={rated}")
    parts.append(case(question, without_rare(references), candidate))
    return "\n\n".join(parts)


def case(question: str, references: Sequence[str], candidate: str) -> str:
    """Write a question and its answers in the paper's form, up to where the judge goes on."""
    listed = ", ".join(f"'{reference}'" for reference in sorted(references))
    return (
        f"Question: '{question}'\nReference answers: {listed}\nCandidate answer: '{candidate}'\n"
        "Output:"
    )


def is_binary(references: Sequence[str]) -> bool:
    """Tell whether the commonest reference is yes or no."""
    [(commonest, _)] = Counter(references).most_common(1)
    return commonest.lower().rstrip(".") in ("yes", "no")


def without_rare(references: Sequence[str]) -> list[str]:
    """Leave out references that are much rarer than the commonest one."""
    counts = Counter(references)
    most = max(counts.values())
    return [reference for reference in references if counts[reference] / most > RARE]


# --- what it says ---

ANOTHER = r"\s?(?:[-–—]|(?:to|or)\b)\s?"  # between the numbers of "1-3", "1 or 2"
RATED = re.compile(
    rf"\brating\W{{0,9}}(?:is|of)?\W{{0,5}}(?<![-−])([1-3])(?![\d/]|[.,]\d|{ANOTHER}\d)",
    re.IGNORECASE,
)
LAST = re.compile(
    r"(?<![\d.,/-])(?<!\d[-–—] )(?<!\d (?:to|or|of) )([1-3])[\s.*'\"`)\]]*\Z", re.IGNORECASE
)


def rating(reply: str) -> int | None:
    """Read a judge's rating: the last "rating=N", or else a digit alone at the end.

    None for anything else, and for thoughts without an end: nothing is guessed.
    """
    said = reply.rpartition("</think>")[2]
    if "<think>" in said:
        return None
    found = RATED.findall(said) or LAST.findall(said)
    return int(found[-1]) if found else None


def score(rated: int) -> float:
    """Map a rating to its score, as the paper does: 1, 2, 3 -> 0, 0.5, 1."""
    return (rated - 1) / 2


def score_original(reply: str) -> float:
    """Score a reply as the authors' program does: by its last character, and 0.5 for any other."""
    last = reply.rstrip()[-1:]
    return score(int(last)) if last and last in "123" else 0.5
