"""Ask a checkpoint about one or several pictures, as it was trained to be asked.

    python generate.py --model checkpoints/count --toy count --num-questions 4
    python generate.py --model runs/grpo --image picture.png --prompt "How many red objects?"

The first asks about drawn pictures, writes them to files, and tells which answers are right.
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
import rewards
import rollout
import tasks
from grading import boxes
from plumbing import disk, flags, plots, running, stopping
from plumbing.errors import UserError
from plumbing.text import meant, short
from processor import family_of
from tasks import folders, images, sheets, toy
from tasks.example import Example, Turn
from tasks.marks import MARK, must_match, without_first_marks
from tasks.prompts import DEFAULT_TEMPLATE

ON_SHEET = 12  # questions, the first ones


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "generate.py", "evaluation.md")
    flags.add_model_flags(p)
    add_question_flags(p.add_argument_group("question"))
    add_rollout_flags(p.add_argument_group("rollout"))
    args = p.parse_args(argv)
    check_question(p, args)
    if args.num_generations > 1 and args.temperature == 0:
        p.error(
            f"--num-generations {args.num_generations} needs --temperature above 0, such as 1: "
            "greedy answers to one question are all the same"
        )
    return args


def add_question_flags(g: flags.Group) -> None:
    """What is asked: about files, or about pictures that are drawn."""
    g.add_common("--image", nargs="*", default=[], help="one or several image files")
    g.add_common(
        "--prompt",
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
    g.add_common(
        "--toy",
        metavar="NAME",
        help="instead of --image and --prompt: ask the questions of a toy task, such as count, "
        "spatial or table, about its drawn pictures; count:ood has more objects; default: its "
        "test questions",
    )
    g.add_common(
        "--num-questions", type=flags.int_from_1, default=1, help="of --toy, from the one --seed on"
    )
    g.add_argument(
        "--output",
        metavar="PNG",
        help="where the sheet of --toy goes, its pictures beside it; default: runs/toy/NAME.png",
    )


def add_rollout_flags(g: flags.Group) -> None:
    """How the answers are drawn."""
    g.add_common("--num-generations", type=flags.int_from_1, default=1, help="G, answers to sample")
    how = "sampling temperature; 0: greedy"
    flags.add_sampling_flags(g, 512, 0.0, top_p=1.0, top_k=0, temperature_help=how)
    g.add_argument(
        "--seed",
        type=flags.int_from_0,
        default=0,
        help="of the sampling; with --toy also the number of the first question",
    )


def check_question(p: flags.Parser, args: argparse.Namespace) -> None:
    """Refuse a command without a question, or with two kinds of them."""
    if not args.toy and args.prompt is None:
        p.error(
            'there is nothing to ask: add --prompt "How many?" and --image FILE, or --toy count '
            "for a drawn picture"
        )
    if not args.toy and (args.output or args.num_questions > 1):
        p.error("--num-questions and --output are for --toy; leave them out")
    if not args.toy:
        return
    if args.prompt is not None or args.image or args.raw:
        p.error("--toy brings its own pictures and questions; omit --prompt, --image and --raw")
    if not data.is_toy(args.toy):
        hint = meant(args.toy, toy.TASKS) or "; type --toy count"
        p.error(f"--toy {short(args.toy)} is none of {', '.join(sorted(toy.TASKS))}{hint}")
    if args.output and not args.output.endswith(".png"):
        p.error(f"--output {args.output} must be the name of a file that ends in .png")


# --- questions ---


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


def toy_examples(
    args: argparse.Namespace, sheet: Path, pixels: tuple[int, int, int]
) -> list[Example]:
    """Draw the questions of --toy, and write their pictures beside the sheet."""
    name, split = folders.split_name(args.toy)
    reading = dict(zip(("min_pixels", "max_pixels", "token_side"), pixels))
    stream = tasks.read(f"{name}:{split or 'test'}", box_format=args.box_format, **reading)
    examples = [stream[args.seed + n] for n in range(args.num_questions)]
    disk.make_writable(sheet.parent, "--output")
    for path, example in zip(picture_paths(sheet, examples), examples):
        if path:
            example.images[0].save(path)
    return examples


def picture_paths(sheet: Path, examples: list[Example]) -> list[Path | None]:
    """Name a file for the picture of each question, by its number; None where it has none."""
    numbers = [example.id.rpartition(":")[2] for example in examples]
    named = [sheet.with_name(f"{sheet.stem}-{number}.png") for number in numbers]
    return [path if example.images else None for path, example in zip(named, examples)]


# --- answers ---


def show(
    text: str, length: int, reason: str, template: str, example: Example, paths: list[str]
) -> None:
    """Print a completion with what is known about it."""
    end = "complete" if reason == "stop" else "cut at --max-completion-length"
    print(f"{text}\n({length} tokens, {end}; prompt template: {template})")
    for box in boxes_in_pixels(text, example):
        corners = [round(v) for v in box["bbox_2d"]]
        print(f"  {box['label'] or 'box'}: {corners} in pixels of {paths[0]}")


def show_toy(
    sheet: Path, examples: list[Example], answers: list[tuple[str, int, str]], template: str
) -> None:
    """Print each question, its picture's file, the answers and which are right; draw the sheet.

    answers: (text, length, reason) of each, those to one question after each other.
    """
    G = len(answers) // len(examples)
    rows, right = [], 0
    for n, (path, example) in enumerate(zip(picture_paths(sheet, examples), examples)):
        print(f"\npicture:  {path or 'none'}\nquestion: {example.question}")
        scored = []
        for text, length, reason in answers[n * G : (n + 1) * G]:
            marks = rewards.marks(text, example)
            scored.append((text, marks))
            show(text, length, reason, template, example, [str(path)])
            is_right = marks["accuracy"] == 1
            right += is_right
            print(f"{'right' if is_right else 'wrong'}: the answer is {example.answer}")
        rows.append(sheets.sheet_row(example, scored, [text for text, _ in scored]))
    told = f"{right} of {len(answers)} answers are right"
    plots.plot_samples(rows[:ON_SHEET], sheet, told)
    print(f"\n{told}; pictures and answers side by side, to look at: {sheet}")


def main(args: argparse.Namespace) -> None:
    vars(args).update(data.ask_as_trained(args, DEFAULT_TEMPLATE if args.toy else "none"))
    _, token_side = family_of(args.model)
    pixels = (args.min_pixels, args.max_pixels, token_side)
    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    # What loading prints must not get between raw completions.
    elsewhere = contextlib.redirect_stdout(sys.stderr) if args.raw else contextlib.nullcontext()
    with elsewhere:
        vars(args).update(model.resolve(args, needs_training="it has nothing to say yet"))
        if args.toy:
            sheet = Path(args.output or f"runs/toy/{args.toy.replace(':', '-')}.png")
            examples = toy_examples(args, sheet, pixels)
        else:
            examples = [make_example(args.prompt, args.image, args.box_format, *pixels)]
        policy, processor = model.load_from_args(args)
        asker = data.Asker(processor, args.prompt_template, args.system_prompt)
        G = args.num_generations
        answered = rollout.answer_all(policy, asker, examples, sampling, G, G, args.seed)
    texts = [text.encode("utf-8", "replace").decode("utf-8") for text in answered[0]]
    if args.raw:
        print("\n".join(texts))
    elif args.toy:
        show_toy(sheet, examples, list(zip(texts, *answered[1:])), args.prompt_template)
    else:
        for text, length, reason in zip(texts, *answered[1:]):
            show(text, length, reason, args.prompt_template, examples[0], args.image)


if __name__ == "__main__":
    running.run(main, parse_args)
