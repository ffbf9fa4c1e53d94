"""The flags of evaluate.py, and which of them do not go together."""

import argparse

from plumbing import flags, teacher_flags
from plumbing.arguments import flag
from tasks import protocols

JUDGE_FLAGS = {
    "judge",
    "judge_model",
    "judge_price",
    "budget",
    "teacher_concurrency",
    "max_retries",
    "request_timeout",
    "max_requests_per_minute",
    "max_tokens_per_minute",
}
LOADING_FLAGS = {"quant", "dtype", "device", "eval_batch_size"}  # of a judge that is a checkpoint
WITH_PREDICTIONS = {"predictions", "protocol", "output_dir", "box_format"} | JUDGE_FLAGS
WITH_COMPARE = {"compare", "output_dir"}


def add_rollout_flags(g: flags.Group) -> None:
    g.add_common(
        "--num-samples",
        type=flags.int_from_0,
        nargs="+",
        default=0,
        metavar="N",
        help="sampled answers per question besides the greedy one, 0: none; several numbers: the "
        "points of the scaling curves, of which the largest is sampled (one number N: 1 to N)",
    )
    g.add_common(
        "--self-select",
        action="store_true",
        help="show the model the first samples and ask which is right, at each point of the curves",
    )
    how = "of the N samples; the greedy answer has none"
    flags.add_sampling_flags(g, 512, 1.0, top_p=1.0, top_k=0, temperature_help=how)
    g.add_common("--seed", type=flags.int_from_0, default=0, help="of the sampling")


def add_evaluation_flags(g: flags.Group) -> None:
    g.add_common("--max-eval-samples", type=flags.int_from_1, default=512, help="questions to ask")
    g.add_argument(
        "--eval-batch-size", type=flags.int_from_1, default=16, help="answers generated at a time"
    )
    g.add_common(
        "--protocol",
        choices=sorted(protocols.PROTOCOLS),
        metavar="NAME",
        help="ask (unless --prompt-template says otherwise) and score as this benchmark's "
        "published evaluation does, by our rule and by the original one: "
        f"{', '.join(sorted(protocols.PROTOCOLS))}",
    )
    g.add_common(
        "--predictions",
        metavar="FILE",
        help="score these saved outputs under --protocol instead of asking a model: JSONL, "
        "parquet (or R1-V's log) with prediction and answer, and where there are any id, "
        "question, choices, task, source, unit, size, resized, box_format; --model and --data "
        "are not needed",
    )
    g.add_common(
        "--compare",
        nargs=2,
        metavar=("RUN_A", "RUN_B"),
        help="compare two evaluations of the same questions, by their --output-dir: B less A, with "
        "an interval, McNemar's test, and the questions on which they differ; --output-dir is then "
        "RUN_B/compared_with_RUN_A unless it is given",
    )


def add_trust_flags(g: flags.Group) -> None:
    """Add the flags that ask the same questions in other ways, each greedily once more."""
    g.add_common(
        "--templates",
        nargs="+",
        metavar="NAME",
        help="ask by several templates (direct r1v): the first leads, the others stand beside it "
        "with their paired difference; these go before a record's own",
    )
    g.add_common(
        "--blind",
        action="store_true",
        help="ask without any picture, too: what words alone can answer",
    )
    g.add_argument(
        "--swap",
        action="store_true",
        help="ask with another question's picture, too",
    )
    g.add_argument(
        "--shuffle-choices",
        type=flags.int_from_0,
        default=0,
        metavar="K",
        help="ask with the options in K other orders, too (K = options - 1: each stands once at "
        "every letter); accuracy by letter",
    )
    g.add_argument(
        "--choices-by",
        choices=("letter", "likelihood"),
        default="letter",
        help="likelihood: rank the options by their log-probs, too, by letter and by text",
    )
    g.add_argument(
        "--shots",
        type=flags.int_from_0,
        default=0,
        metavar="N",
        help="show N other questions with their pictures and answers first, drawn from --data; "
        "none about the same picture",
    )
    g.add_argument(
        "--consistency",
        action="store_true",
        help="ask in other words and with the picture resized, shifted by a pixel, and as JPEG, "
        "too: how often the answer stays",
    )


def add_judge_flags(parser: flags.Parser) -> None:
    """Add the flags that name a judge, and say how a server is asked."""
    default = "no judge is asked"
    teacher_flags.add_teacher_flags(parser, "judge", default=default)
    teacher_flags.add_server_flags(parser.add_argument_group("server of the judge"))


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
    if args.templates and "prompt_template" in given:
        p.error("--templates and --prompt-template both say how to ask: omit --prompt-template")
    if args.templates and len(set(args.templates)) < len(args.templates):
        p.error(f"--templates names one twice: {' '.join(args.templates)}")
    for name in given:
        if name in JUDGE_FLAGS and not args.judge:
            p.error(f"{flag(name)} is for a judge, and none is named: add --judge, or omit it")
        if rescored and args.judge and name in LOADING_FLAGS:
            continue
        if rescored and name not in WITH_PREDICTIONS:
            p.error(
                f"--predictions scores saved outputs and asks no model: omit {flag(name)}, "
                "or --predictions"
            )
        if args.compare and name not in WITH_COMPARE:
            p.error(f"--compare reads answers and asks no model: omit {flag(name)}, or --compare")
    if args.judge:
        teacher_flags.check_flags(p, args, [args.judge, *([] if rescored else [args.model])])
