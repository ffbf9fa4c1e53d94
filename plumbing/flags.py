"""The flags that scripts share, and the types of their values."""

import argparse
import math
from collections.abc import Iterable

from plumbing.parser import Group, Parser

# --- types of values ---


def int_from_1(text: str) -> int:
    """argparse type: a whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def not_negative(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return float(text)


def int_from_0(text: str) -> int:
    """argparse type: a whole number of at least 0."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def above_0(text: str) -> float:
    """argparse type: a finite number above 0."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return float(text)


def pixels_or_growth(text: str) -> int | str:
    """argparse type: a whole number of at least 1, or two, A:B, of which the second is larger."""
    first, colon, last = text.partition(":")
    if not colon:
        return int_from_1(text)
    if not int_from_1(first) < int_from_1(last):
        raise argparse.ArgumentTypeError(f"{text} does not grow: A:B needs A below B")
    return f"{int(first)}:{int(last)}"


def share(text: str) -> float:
    """argparse type: a number in (0, 1]."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return float(text)


def below_1(text: str) -> float:
    """argparse type: a number in [0, 1)."""
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to below 1")
    return float(text)


for _type, _word in (
    (above_0, "number"),
    (below_1, "number"),
    (int_from_1, "whole number"),
    (int_from_0, "whole number"),
    (not_negative, "number"),
    (pixels_or_growth, "whole number"),
    (share, "number"),
):
    _type.__name__ = _word  # argparse says "invalid whole number value: 'x'"


# --- flags that scripts share ---

MIN_PIXELS = 3136  # --min-pixels where neither the flag nor the checkpoint says: 4 tokens
MAX_PIXELS = 401408  # --max-pixels likewise: 512 tokens
MAX_IMAGE_PIXELS = 178_956_970  # Pillow's own limit
SCHEDULES = {  # share of the learning rate after warm-up, from progress in [0, 1)
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def add_model_flags(parser: Parser, growing: bool = False) -> Group:
    """--model and how to load it; the same in every script.

    growing: --max-pixels may grow in the course of the run.
    """
    g = parser.add_argument_group("model")
    g.add_argument(
        "--model",
        "--model-name-or-path",
        required=True,
        help="`tiny` (the untrained preset; tiny:FAMILY is another family's), a directory (a full "
        "checkpoint of a family in docs/families.md, or a PEFT adapter that names its base), or a "
        "hub name such as Qwen/Qwen2-VL-2B-Instruct",
    )
    add_loading_flags(g)
    add_seeing_flags(g, growing)
    return g


def add_loading_flags(g: Group) -> None:
    """How a checkpoint is loaded."""
    g.add_common(
        "--quant",
        choices=["none", "nf4"],
        help="nf4: the language model's linear layers in 4 bits (QLoRA); default: what the "
        "adapter was trained with, else none",
    )
    g.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="arithmetic; auto is bfloat16 on a GPU, float32 on a CPU. Trained weights are float32",
    )
    g.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:1, mps; auto is cuda where there is one, else cpu",
    )


def add_seeing_flags(g: Group, growing: bool = False) -> None:
    """What of a picture the model sees, and what it is told first."""
    add_pixel_flags(g, growing)
    g.add_argument(
        "--system-prompt",
        help="the system turn; default: the chat template's own (You are a helpful assistant.)",
    )


def add_pixel_flags(g: Group, growing: bool = False) -> None:
    """What of a picture the model sees. growing: --max-pixels may name a range."""
    g.add_common(
        "--max-pixels",
        type=pixels_or_growth if growing else int_from_1,
        help="shrink larger images to this many pixels, 28 x 28 of which are one token (32 x 32 in "
        "Qwen3-VL); default: as the checkpoint was trained here, else 401408 (512 tokens; 392)"
        + ("; A:B grows from A to B in five stages of the run" if growing else ""),
    )
    g.add_argument(
        "--min-pixels",
        type=int_from_1,
        help="enlarge smaller images to this many pixels; default: as the checkpoint was trained "
        "here, else 3136",
    )


def add_training_flags(parser: Parser) -> Group:
    """What may change in the model; the same in every training script."""
    g = parser.add_argument_group("adapter and freezing")
    add_adapter_flags(g)
    g.add_argument(
        "--freeze-vision",
        action="store_true",
        help="full fine-tuning: leave the vision tower as it is (not the merger)",
    )
    g.add_argument(
        "--freeze-merger",
        action="store_true",
        help="full fine-tuning: leave the merger (vision to language projector) as it is",
    )
    g.add_argument(
        "--freeze-llm",
        action="store_true",
        help="full fine-tuning: leave the language model as it is, embeddings and head included",
    )
    g.add_common(
        "--gradient-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="recompute activations in the backward pass: slower, much less memory",
    )
    if parser.prog in ("train_sft.py", "train_grpo.py"):  # processes of others are not in step
        g.add_argument("--shard", action="store_true", help="full fine-tuning: split it over cards")
    return g


def add_adapter_flags(g: Group) -> None:
    """What LoRA is made of, and where it goes."""
    g.add_common(
        "--lora-r",
        type=int_from_0,
        help="rank of LoRA; 0 trains the weights themselves; default: the adapter's if --model is "
        "one, 16 with --quant nf4, else 0",
    )
    g.add_argument(
        "--lora-alpha",
        type=int_from_1,
        help="LoRA scale is alpha / r; default: 2 r; an adapter that is trained on keeps its own",
    )
    g.add_argument(
        "--lora-targets",
        nargs="+",
        choices=["llm", "vision", "experts", "all"],
        help="where LoRA goes, one or several: llm, the language model's linear layers (of a "
        "mixture of experts its attention); vision, those of the vision tower's blocks; experts, "
        "a mixture's expert weights; all, whatever of these the model has; default: the "
        "adapter's if --model is one, else llm",
    )
    g.add_argument(
        "--train-merger",
        action=argparse.BooleanOptionalAction,
        help="beside LoRA: train the merger (vision to language projector) itself, in float32",
    )
    g.add_argument(
        "--use-dora",
        action=argparse.BooleanOptionalAction,
        help="DoRA: LoRA for the direction of each output's weights, a trained number for their "
        "length; slower",
    )
    g.add_argument(
        "--use-rslora",
        action=argparse.BooleanOptionalAction,
        help="rank-stabilised LoRA: its scale is alpha / sqrt(r)",
    )
    g.add_argument(
        "--lora-dropout",
        type=below_1,
        default=0.0,
        help="LoRA dropout; keep 0 in RL, where rollout and update must be the same policy",
    )


def add_max_train_samples(g: Group) -> None:
    """The limit on questions, in the scripts that make answers to them."""
    g.add_common(
        "--max-train-samples",
        type=int_from_1,
        help="questions to learn from: the first so many; default: all of a file, 1024 of a toy "
        "task",
    )


def add_data_flags(parser: Parser, several: bool = False) -> Group:
    """--data and --eval-data; the same in every script that reads examples.

    several: --data may name more than one set.
    """
    g = parser.add_argument_group("data")
    g.add_argument(
        "--data",
        required=True,
        nargs="+" if several else None,
        help="a toy task (count, count_words, count_captions, spatial, ground, table, geometry, or "
        "a lesson such as table_reading or table_basics), a JSON, JSONL, parquet or Arrow file or "
        "a folder of them, or a set of the Hugging Face hub: owner/name, owner/name/config; toy "
        "tasks, folders and sets take a split: count:test, folder:validation, owner/name:test"
        + ("; one or several" if several else ""),
    )
    add_asking_flags(g)
    return g


def add_asking_flags(g: Group) -> None:
    """How questions are read and put; in every script that asks some."""
    g.add_common(
        "--prompt-template",
        default=None,
        help="how a question is put, by name (TEMPLATES in tasks/prompts.py); default: the one the "
        "checkpoint was trained with, else r1v",
    )
    g.add_argument(
        "--level", type=int, choices=[1, 2, 3], default=3, help="difficulty of toy tasks"
    )
    add_box_format(g)
    add_max_image_pixels(g)
    g.add_argument(
        "--num-workers",
        type=int_from_0,
        help="processes that read, decode, resize and tokenise ahead of the model; default: 0 for "
        "a toy task or a model on the CPU, else one less than the cores, from 1 to 4",
    )
    add_skip_bad_records(g)


def add_skip_bad_records(group: Group) -> None:
    """--skip-bad-records, where records are read."""
    group.add_argument(
        "--skip-bad-records",
        action="store_true",
        help="leave out records that cannot be read, lack what is needed or do not fit the "
        "context, and list them in OUTPUT_DIR/skipped.jsonl; default: refuse the first",
    )


def add_box_format(group: Group) -> None:
    """--box-format, where boxes may be answered."""
    group.add_argument(
        "--box-format",
        choices=["norm1000", "resized", "pixels"],
        help="how the model writes boxes: norm1000, thousandths of the picture's sides "
        "(Qwen2-VL); resized, pixels of the picture as the model sees it (Qwen2.5-VL); pixels, "
        "of the original; default: as the checkpoint was trained here, else as its family does",
    )


def add_max_image_pixels(group: Group) -> None:
    """--max-image-pixels, where pictures are read."""
    group.add_argument(
        "--max-image-pixels",
        type=int_from_1,
        default=MAX_IMAGE_PIXELS,
        help="refuse a picture of more pixels, by its header, before it fills the memory",
    )


def add_optimization_flags(parser: Parser, learning_rate_help: str) -> Group:
    """Learning rate, steps, batches, seed; the same in every training script."""
    g = parser.add_argument_group("optimization")
    g.add_common("--learning-rate", type=not_negative, help=learning_rate_help)
    g.add_argument(
        "--lr-scheduler-type",
        choices=sorted(SCHEDULES),
        default="linear",
        help="shape of the learning rate after the warm-up",
    )
    g.add_argument(
        "--warmup-steps",
        type=not_negative,
        default=0,
        help="steps of linear warm-up; below 1: a share of all steps",
    )
    g.add_common(
        "--max-steps",
        type=int_from_1,
        help="steps of training; default: from --num-train-epochs (toy tasks never end and need "
        "--max-steps)",
    )
    g.add_common(
        "--num-train-epochs",
        type=not_negative,
        default=1.0,
        help="passes over a data file, when --max-steps is not given (selftrain.py: over what an "
        "iteration builds, 3 for star and r3v)",
    )
    g.add_common(
        "--max-grad-norm",
        type=not_negative,
        default=1.0,
        help="clip the gradient to this norm; 0 does not clip",
    )
    g.add_argument(
        "--router-aux-loss-coef",
        type=not_negative,
        help="models with experts: weight of the loss that makes routers use all of them alike, "
        "which is not in the metric `loss`; default: 0.001",
    )
    g.add_argument(
        "--optim",
        choices=["adamw", "adamw_8bit"],
        default="adamw",
        help="adamw_8bit keeps the moments in 8 bits (bitsandbytes)",
    )
    g.add_common(
        "--micro-batch-size",
        type=int_from_1,
        default=8,
        help="responses per forward pass (of one question, where it has several): memory only, "
        "never the gradient",
    )
    g.add_common(
        "--seed", type=int_from_0, default=0, help="of the data order, the sampling and new weights"
    )
    return g


def add_evaluation_flags(parser: Parser) -> Group:
    """--eval-data and how it is asked; the same in every training script."""
    g = parser.add_argument_group("evaluation")
    g.add_common(
        "--eval-data",
        nargs="+",
        default=[],
        metavar="DATA",
        help="like --data, one or several; accuracy of greedy answers before, during and after "
        "training",
    )
    g.add_common(
        "--eval-steps",
        type=int_from_0,
        default=0,
        help="steps between evaluations; 0: only before and after",
    )
    g.add_common(
        "--max-eval-samples",
        type=int_from_1,
        default=512,
        help="questions of each --eval-data to ask",
    )
    g.add_argument(
        "--eval-batch-size", type=int_from_1, default=16, help="answers generated at a time"
    )
    return g


def add_output_flags(parser: Parser) -> Group:
    """Where a run is saved, and how often; the same in every training script."""
    g = parser.add_argument_group("output")
    g.add_argument(
        "--output-dir", required=True, help="where checkpoints, metrics, pictures and the result go"
    )
    g.add_common(
        "--save-steps",
        type=int_from_0,
        default=100,
        help="steps between checkpoints; 0: only the last",
    )
    g.add_argument(
        "--save-total-limit", type=int_from_1, default=2, help="checkpoints to keep, newest first"
    )
    g.add_argument(
        "--logging-steps",
        type=int_from_1,
        default=1,
        help="steps between lines on the screen (metrics.jsonl gets every step)",
    )
    g.add_common(
        "--resume-from-checkpoint",
        nargs="?",
        const="newest",
        metavar="DIR",
        help="go on from DIR, or without a value from the newest checkpoint in --output-dir; "
        "none there yet: start over",
    )
    g.add_common(
        "--report-to",
        choices=["none", "wandb", "tensorboard"],
        default="none",
        help="also send the metrics there (installed separately)",
    )
    return g


def add_sampling_flags(
    g: Group,
    max_completion_length: int = 384,
    temperature: float = 0.9,
    top_p: float = 0.95,
    top_k: int = 50,
    temperature_help: str = "sampling temperature",
) -> None:
    """How completions are sampled, by default with R3V's values."""
    g.add_common(
        "--max-completion-length",
        type=int_from_1,
        default=max_completion_length,
        help="tokens of a completion at most",
    )
    g.add_common("--temperature", type=not_negative, default=temperature, help=temperature_help)
    g.add_argument(
        "--top-p",
        type=share,
        default=top_p,
        help="sample among the likeliest tokens that make up this mass; 1: all",
    )
    g.add_argument(
        "--top-k",
        type=int_from_0,
        default=top_k,
        help="sample among this many likeliest tokens; 0: all",
    )


def add_preference_flags(g: Group, loss_types: Iterable[str]) -> None:
    """What a pair costs, for dpo and mpo. loss_types: names that can be added up."""
    g.add_common(
        "--loss-type",
        nargs="+",
        choices=sorted(loss_types),
        help="dpo and mpo: what a pair costs, to be added up; default: sigmoid, and for mpo "
        "sigmoid bco_pair sft",
    )
    g.add_argument(
        "--loss-weights",
        nargs="+",
        type=not_negative,
        metavar="W",
        help="one weight per --loss-type; default: all 1, and for mpo 0.8 0.2 1.0",
    )
    g.add_common(
        "--beta", type=not_negative, default=0.1, help="how far log-ratios count as rewards"
    )
    g.add_argument(
        "--label-smoothing",
        type=below_1,
        default=0.0,
        help="sigmoid: share of pairs taken to be the wrong way round (cDPO); below 0.5",
    )


def decide_pair_losses(parser: Parser, args: argparse.Namespace, defaults: dict) -> None:
    """Fill in --loss-type and --loss-weights where none is given, and check what a pair costs.

    defaults: {"loss_type", "loss_weights"} of the method.
    """
    if args.beta == 0:
        parser.error("--beta must be above 0: it is what turns log-ratios into rewards")
    if args.label_smoothing >= 0.5:
        parser.error(
            "--label-smoothing must be below 0.5: from there on the pairs would say the opposite"
        )
    if args.loss_type is None:
        args.loss_type = list(defaults["loss_type"])
        if not args.loss_weights and defaults["loss_weights"]:
            args.loss_weights = list(defaults["loss_weights"])
    if args.label_smoothing and "sigmoid" not in args.loss_type:
        parser.error(
            "--label-smoothing changes the loss sigmoid, which is not among --loss-type "
            f"{' '.join(args.loss_type)}"
        )
    if args.loss_weights and len(args.loss_weights) != len(args.loss_type):
        parser.error(
            f"--loss-weights needs one weight for each of {' '.join(args.loss_type)}, "
            f"got {len(args.loss_weights)}"
        )


def add_protocol(g: Group, names: Iterable[str]) -> None:
    """--protocol of a script that samples."""
    g.add_common(
        "--protocol",
        choices=sorted(names),
        metavar="NAME",
        help="read and score answers as this benchmark does; default: the accuracy reward; "
        f"{', '.join(sorted(names))}",
    )


def refuse_steps_of_iterations(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse flags that name a step where a run has iterations, each with steps of its own."""
    if args.eval_steps:
        parser.error("--eval-steps has no meaning here: every iteration is evaluated at its end")
    if args.resume_from_checkpoint not in (None, "newest"):
        parser.error(
            "--resume-from-checkpoint takes no directory here: a run goes on in the phase it was in"
        )
