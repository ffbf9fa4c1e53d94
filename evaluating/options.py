"""The flags of evaluate.py, and which of them do not go together."""

import argparse

from plumbing import flags
from plumbing.arguments import flag
from tasks import protocols

WITH_PREDICTIONS = {"predictions", "protocol", "output_dir", "box_format"}


def add_rollout_flags(g: argparse._ArgumentGroup) -> None:
    g.add_argument(
        "--num-samples",
        type=flags.int_from_0,
        nargs="+",
        default=0,
        metavar="N",
        help="sampled answers per question besides the greedy one, 0: none; several numbers: the "
        "points of the scaling curves, of which the largest is sampled (one number N: 1 to N)",
    )
    g.add_argument(
        "--self-select",
        action="store_true",
        help="show the model the first samples and ask which is right, at each point of the curves",
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
        default=1.0,
        help="of the N samples; the greedy answer has none",
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


def add_evaluation_flags(g: argparse._ArgumentGroup) -> None:
    g.add_argument(
        "--max-eval-samples", type=flags.int_from_1, default=512, help="questions to ask"
    )
    g.add_argument(
        "--eval-batch-size", type=flags.int_from_1, default=16, help="answers generated at a time"
    )
    g.add_argument(
        "--protocol",
        choices=sorted(protocols.PROTOCOLS),
        help="ask (unless --prompt-template says otherwise) and score as this benchmark's "
        "published evaluation does, by our rule and by the original one",
    )
    g.add_argument(
        "--predictions",
        metavar="FILE",
        help="score these saved outputs under --protocol instead of asking a model: JSONL, "
        "parquet (or R1-V's log) with prediction and answer, and where there are any id, "
        "question, choices, task, source, unit, size, resized, box_format; --model and --data "
        "are not needed",
    )


def check_flags(p: flags.Parser, args: argparse.Namespace, given: list[str]) -> None:
    """Refuse flags that do not go together; given: the names of those on the command line."""
    rescored = "predictions" in given
    if args.self_select and args.num_samples[-1] < 2 and not rescored:
        p.error("--self-select chooses among samples: give it two or more, --num-samples 3")
    if args.num_samples[-1] > 1 and args.temperature == 0:
        p.error("--num-samples needs --temperature above 0: greedy samples are all the same")
    if rescored and not args.protocol:
        known = ", ".join(sorted(protocols.PROTOCOLS))
        p.error(f"--predictions needs --protocol, by which to score them: {known}")
    has_boxes = args.protocol and protocols.PROTOCOLS[args.protocol].boxes
    if "box_format" in given and args.protocol and not has_boxes:
        p.error(f"--protocol {args.protocol} has no boxes: omit --box-format")
    for name in given:
        if rescored and name not in WITH_PREDICTIONS:
            p.error(
                f"--predictions scores saved outputs and asks no model: omit {flag(name)}, "
                "or --predictions"
            )
