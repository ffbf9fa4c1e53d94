"""The batched rollout engine, and as a command: ask a checkpoint about an image.

    python generate.py --model runs/grpo --image picture.png --prompt "How many red objects are there?"

One prompt, many responses: `rollout` encodes each image once, prefills each prompt once and keeps its keys and values once (if its G rows fit into
memory together: `plan`); then the G rows of every prompt decode together, by a step of our own over the model's own weights (LoRA unmerged), each row with a cache for its own words only:

    prefill                      once a prompt   images, prompt -> its keys and values, the state that says the first token
    speak                        every step      state -> token and its log-prob (decode_kernels.head_sample)
    think                        every step      token -> state: 28 x (attention over [prompt | own words], MLP)

On a GPU `think` and `speak` are one CUDA graph: static addresses, nothing read by the host. Weights are arranged anew for each rollout and dropped after it,
so none can be stale. `rollout` samples by itself: a checkpoint's generation_config is not consulted, because Qwen2-VL's (top_k 1, temperature 0.01,
repetition penalty 1.05) silently makes sampling greedy.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before torch is imported, which takes seconds: Ctrl-C may come there too

import os
import sys
from pathlib import Path

import data
import model as modeling
import rollout
from grading import boxes
from plumbing import flags, running, stopping
from plumbing.errors import UserError
from tasks import images
from tasks.example import Example


def parse_args(argv=None):
    p = flags.Parser(__doc__, "generate.py")
    flags.add_model_flags(p)
    g = p.add_argument_group("question")
    g.add_argument("--image", nargs="*", default=[], help="one or several image files")
    g.add_argument(
        "--prompt",
        required=True,
        help="the question; goes verbatim into the chat template, unless the checkpoint's args.json names the template it was trained with",
    )
    g.add_argument(
        "--prompt-template",
        help="put the question by this template of data.py instead (none: verbatim)",
    )
    flags.add_box_format(g)
    flags.add_max_image_pixels(g)
    g.add_argument("--raw", action="store_true", help="print the completion and nothing else")
    g = p.add_argument_group("rollout")
    g.add_argument(
        "--num-generations", type=flags.int_from_1, default=1, help="G, answers to sample"
    )
    g.add_argument(
        "--max-completion-length",
        type=flags.int_from_1,
        default=512,
        help="tokens of a completion at most",
    )
    g.add_argument(
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
    return p.parse_args(argv)


def in_pixels(text, example):
    """The boxes of an answer about one picture, in that picture's own pixels; [] if it has none."""
    if len(example.images) != 1:
        return []
    return (
        boxes.predicted_boxes(text if "<answer>" in text else f"<answer>{text}</answer>", example)
        or []
    )


def main(args):
    vars(args).update(data.ask_as_trained(args, otherwise="none"))
    for image in args.image:
        if not os.path.isfile(image):  # also False for a name too long
            raise UserError(f"--image {image} does not exist; check the path")
    example = Example("question", [Path(i) for i in args.image], args.prompt, "", source="--image")
    images.check_images([example])
    if len(args.image) == 1:  # in which a box of the answer can be told in pixels
        size = images.open_images(example)[0].size
        example.meta = {
            "size": size,
            "resized": images.resized_size(size, args.min_pixels, args.max_pixels),
            "box_format": args.box_format,
        }
    out = sys.stdout
    if args.raw:
        sys.stdout = sys.stderr  # whatever loading has to say
    try:
        policy, processor = modeling.load_from_args(
            args, needs_training="it has nothing to say yet"
        )
        texts, lengths, finish = rollout.answer_all(
            policy,
            data.Asker(processor, args.prompt_template, args.system_prompt),
            [example],
            rollout.Sampling(args.max_completion_length, args.temperature, args.top_p, args.top_k),
            args.num_generations,
            args.num_generations,
            seed=args.seed,
        )
    finally:
        sys.stdout = out
    for text, length, reason in zip(texts, lengths, finish):
        text = text.encode("utf-8", "replace").decode("utf-8")
        print(
            text
            if args.raw
            else f"{text}\n({length} tokens, {'complete' if reason == 'stop' else 'cut at --max-completion-length'}; prompt template: {args.prompt_template})"
        )
        for box in () if args.raw else in_pixels(text, example):
            print(
                f"  {box['label'] or 'box'}: {[round(v) for v in box['bbox_2d']]} in pixels of {args.image[0]}"
            )


if __name__ == "__main__":
    running.run(main, parse_args)
