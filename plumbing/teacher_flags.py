"""The flags that name a teacher or a judge, and say how one is asked (teachers.py).

They need no torch: a command with a typo is refused at once.
"""

import argparse

from plumbing import address, arguments, flags


def is_address(name: str | None) -> bool:
    """Tell whether --teacher names a server."""
    return "://" in (name or "")


def add_teacher_flags(
    parser: flags.Parser,
    prefix: str = "",
    others: str = "",
    default: str = "the teacher, greedily",
) -> flags.Group:
    """--teacher and how it is asked; with the prefix "judge", a second one: --judge.

    How both are asked comes with the first. For the help, others: what else the script takes;
    default: who judges without the flag.
    """
    who = prefix or "teacher"
    g = parser.add_argument_group(who)
    add = g.add_argument if prefix else g.add_common
    g.add_common(
        f"--{who}",
        required=not prefix,
        type=address.model_or_address,
        metavar="MODEL",
        help="who answers: a checkpoint's directory or hub name (one of docs/families.md, or a "
        "language model that reads text), or the address of a server of the OpenAI protocol, such "
        f"as http://localhost:8000/v1; its key is in {address.KEY}"
        + (f"; {others}" if others else "")
        + (f"; default: {default}; {who}s are always greedy" if prefix else ""),
    )
    add(
        f"--{who}-model",
        metavar="NAME",
        help="which model of the server; default: the only one that it has",
    )
    add(
        f"--{who}-price",
        nargs=2,
        type=flags.not_negative,
        metavar=("IN", "OUT"),
        help="price of a million prompt tokens, and of a million completion tokens",
    )
    if not prefix:
        add_sampling_flags(g)
        add_server_flags(parser.add_argument_group("server"))
        add_checkpoint_flags(parser.add_argument_group("checkpoint"))
    return g


def add_sampling_flags(g: flags.Group) -> None:
    """How a teacher samples."""
    g.add_common(
        "--max-completion-length",
        type=flags.int_from_1,
        default=2048,
        help="tokens of a completion at most",
    )
    g.add_common(
        "--temperature",
        type=flags.not_negative,
        default=0.6,
        help="sampling temperature; 0: greedy",
    )
    g.add_argument(
        "--top-p",
        type=flags.share,
        default=0.95,
        help="sample among the likeliest tokens that make up this mass; 1: all",
    )


def add_server_flags(g: flags.Group) -> None:
    """How a server is asked."""
    g.add_common(
        "--budget",
        type=flags.not_negative,
        metavar="COST",
        help="stop before the requests of teacher and judge cost more than this, in the currency "
        "of their prices; default: no limit",
    )
    g.add_argument(
        "--teacher-concurrency",
        type=flags.int_from_1,
        default=8,
        help="requests that are on their way at a time",
    )
    g.add_argument(
        "--max-retries",
        type=flags.int_from_0,
        default=10,
        help="times that a request is sent again when it fails for now; waits of 1, 2, 4, ... 60 s",
    )
    g.add_argument(
        "--request-timeout",
        type=flags.int_from_1,
        default=600,
        metavar="SECONDS",
        help="send a request again if its answer is not there after so long",
    )
    g.add_argument(
        "--max-requests-per-minute", type=flags.int_from_1, help="rate limit; default: none"
    )
    g.add_argument(
        "--max-tokens-per-minute",
        type=flags.int_from_1,
        help="rate limit, of prompts and completions together; default: none",
    )


def add_checkpoint_flags(g: flags.Group) -> None:
    """How a teacher's checkpoint is loaded, and sees."""
    flags.add_loading_flags(g)
    flags.add_pixel_flags(g)
    g.add_argument(
        "--eval-batch-size", type=flags.int_from_1, default=16, help="answers generated at a time"
    )


# What only some models have a use for.
FLAGS_OF = {
    "a checkpoint": "quant dtype device min_pixels eval_batch_size".split(),
    "a server": "teacher_concurrency max_retries request_timeout max_requests_per_minute "
    "max_tokens_per_minute".split(),
    "a model": ["max_pixels", "max_completion_length"],
}


def check_flags(parser: flags.Parser, args: argparse.Namespace, models: list[str]) -> None:
    """Refuse flags that none of the models, checkpoints and addresses, has a use for."""
    servers = [name for name in models if is_address(name)]
    kinds = ["a server"] if servers else []
    kinds += ["a checkpoint"] if len(servers) < len(models) else []
    for kind, names in FLAGS_OF.items():
        is_there = kind in kinds or kind == "a model" and bool(models)
        for name in arguments.flags_given(args.argv):
            if name in names and not is_there:
                shown = arguments.flag(name)
                parser.error(f"{shown} is for {kind}, and none is asked here; leave it out")
    if args.budget is not None and not servers:
        parser.error("--budget is for a server, and there is none to pay; leave it out")
