"""Ask a checkpoint about one or several pictures, as it was trained to be asked.

    python generate.py --model runs/grpo --image picture.png --prompt "How many red objects?"

Prints each completion, its length, and the boxes it names in the picture's own pixels.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before torch is imported, which takes seconds: Ctrl-C may come there too

import argparse
import contextlib
import os
import sys
from pathlib import Path

import data
import model
import rollout
from grading import boxes
from plumbing import flags, running, stopping
from plumbing.errors import UserError
from processor import family_of
from tasks import images
from tasks.example import Example, Turn
from tasks.marks import MARK, must_match, without_first_marks


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "generate.py", "evaluation.md")
    flags.add_model_flags(p)
    g = p.add_argument_group("question")
    g.add_common("--image", nargs="*", default=[], help="one or several image files")
    g.add_argument(
        "--prompt",
        required=True,
        help="the question; goes verbatim into the chat template, unless the checkpoint's "
        "args.json names the template it was trained with; <image> is the place of a picture",
    )
    g.add_common(
        "--prompt-template",
        help="put the question by this template of tasks/prompts.py instead (none: verbatim)",
    )
    flags.add_box_format(g)
    flags.add_max_image_pixels(g)
    g.add_common("--raw", action="store_true", help="print the completion and nothing else")
    g = p.add_argument_group("rollout")
    g.add_common("--num-generations", type=flags.int_from_1, default=1, help="G, answers to sample")
    g.add_common(
        "--max-completion-length",
        type=flags.int_from_1,
        default=512,
        help="tokens of a completion at most",
    )
    g.add_common(
        "--temperature",
        type=flags.not_negative,
        default=0.0,
        help="sampling temperature; 0: greedy",
    )
    g.add_argument(
        "--top-p",
        type=flags.share,
        default=1.0,
        help="sample among the likeliest tokens that make up this mass; 1: all",
    )
    g.add_argument(
        "--top-k",
        type=flags.int_from_0,
        default=0,
        help="sample among this many likeliest tokens; 0: all",
    )
    g.add_argument("--seed", type=flags.int_from_0, default=0, help="of the sampling")
    args = p.parse_args(argv)
    if args.num_generations > 1 and args.temperature == 0:
        p.error(
            f"--num-generations {args.num_generations} needs --temperature above 0, such as 1: "
            "greedy answers to one question are all the same"
        )
    return args


def make_example(
    question: str,
    paths: list[str],
    box_format: str,
    min_pixels: int,
    max_pixels: int,
    token_side: int,
) -> Example:
    """Make an Example of a question about image files.

    Raises UserError for a file that is missing or is no image.
    """
    for path in paths:
        if not os.path.isfile(path):  # also False for a name too long
            raise UserError(f"--image {path} does not exist; check the path")
    if MARK in question:
        [turn] = without_first_marks([Turn("user", question)])  # as records are read
        question = turn.text
    example = Example("question", [Path(path) for path in paths], question, "", source="--image")
    must_match([question], len(paths), "--image")
    images.check_images([example])
    if len(paths) == 1:  # an answer's boxes are then in this picture
        size = images.open_images(example)[0].size
        example.meta = {
            "size": size,
            "resized": images.resized_size(size, min_pixels, max_pixels, token_side),
            "box_format": box_format,
        }
    return example


def boxes_in_pixels(text: str, example: Example) -> list[dict]:
    """Read the boxes of an answer about one picture, in its own pixels; [] if it has none."""
    if len(example.images) != 1:
        return []
    if "<answer>" not in text:
        text = f"<answer>{text}</answer>"
    return boxes.predicted_boxes(text, example) or []


def show(
    text: str, length: int, reason: str, template: str, example: Example, paths: list[str]
) -> None:
    """Print a completion with what is known about it."""
    end = "complete" if reason == "stop" else "cut at --max-completion-length"
    print(f"{text}\n({length} tokens, {end}; prompt template: {template})")
    for box in boxes_in_pixels(text, example):
        corners = [round(v) for v in box["bbox_2d"]]
        print(f"  {box['label'] or 'box'}: {corners} in pixels of {paths[0]}")


def main(args: argparse.Namespace) -> None:
    vars(args).update(data.ask_as_trained(args, otherwise="none"))
    _, token_side = family_of(args.model)
    pixels = (args.min_pixels, args.max_pixels, token_side)
    example = make_example(args.prompt, args.image, args.box_format, *pixels)
    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    # What loading prints must not get between raw completions.
    elsewhere = contextlib.redirect_stdout(sys.stderr) if args.raw else contextlib.nullcontext()
    with elsewhere:
        vars(args).update(model.resolve(args, needs_training="it has nothing to say yet"))
        policy, processor = model.load_from_args(args)
        asker = data.Asker(processor, args.prompt_template, args.system_prompt)
        G = args.num_generations
        answers = rollout.answer_all(policy, asker, [example], sampling, G, G, args.seed)
    for text, length, reason in zip(*answers):
        text = text.encode("utf-8", "replace").decode("utf-8")
        if args.raw:
            print(text)
        else:
            show(text, length, reason, args.prompt_template, example, args.image)


if __name__ == "__main__":
    running.run(main, parse_args)
