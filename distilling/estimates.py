"""What a run will ask, and what that may cost, said before the first request."""

import argparse

from distilling.stages import STAGES, Settings
from plumbing import flags
from plumbing.spending import Price
from tasks import images
from tasks.example import Example

CHARACTERS = 4  # of English a token
PIXELS = 28 * 28  # of a picture a token, in Qwen2-VL; other servers count otherwise


def picture_tokens(example: Example, most: int | None) -> float:
    """Guess the tokens of an example's pictures, shrunk to `most` pixels each."""
    sizes = images.sizes_of(example)
    most = most or flags.MAX_PIXELS
    return sum(min(width * height, most) / PIXELS for width, height in sizes)


def prompt_tokens(stage: str, example: Example, max_pixels: int | None) -> float:
    """Guess the tokens that a stage sends about an example."""
    text = example.question + str(example.meta.get("text", ""))
    tokens = (len(text) + STAGES[stage].quotes) / CHARACTERS
    return tokens + (picture_tokens(example, max_pixels) if STAGES[stage].shows else 0)


def announce(
    args: argparse.Namespace, names: list[str], examples: dict[str, Example], settings: Settings
) -> None:
    """Print how many requests a run makes at most, of how many tokens, and their cost."""
    asked = [name for name in names if name != "judge" or args.judge != "none"]
    requests, cost, totals, most = 0, 0.0, [0.0, 0.0], args.max_completion_length
    for name in asked:
        about = list(examples.values())
        if name == "kind":  # most records say it themselves
            about = [example for example in about if STAGES[name].request(example, {}, settings)]
        sent = sum(prompt_tokens(name, example, args.max_pixels) for example in about)
        got = len(about) * min(STAGES[name].replies, most)
        requests += len(about)
        totals = [totals[0] + sent, totals[1] + got]
        cost += price_of(args, STAGES[name].by).of(sent, got)
    price = f", {cost:.2f} by the prices given" if cost else ""
    print(
        f"estimate: {len(examples)} records, stages {' '.join(asked)}: at most "
        f"{requests} requests, about {totals[0] / 1e3:.0f} thousand prompt and "
        f"{totals[1] / 1e3:.0f} thousand completion tokens{price} (a reasoner writes several times "
        f"as much; a reply has at most {most} tokens)"
    )


def price_of(args: argparse.Namespace, by: str) -> Price:
    """Return the price of a million tokens of who answers a stage; 0 if none is given."""
    price = args.judge_price if by == "judge" and args.judge else args.teacher_price
    return Price(*price or ())
