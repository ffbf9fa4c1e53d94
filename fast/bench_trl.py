"""TRL's GRPOTrainer as a side of the benchmark, where TRL is installed."""

import random
import tempfile
from collections.abc import Callable
from types import SimpleNamespace

import torch
from PIL import Image

import data
import model as modeling
from fast.race import clock, rows_of
from fast.sides import Work, frozen_optimizer, load_bench, our_step, picture_side, stock
from tasks.example import Example


def trl_example(P: int) -> Example:
    """Make a question about a picture of noise as large as that of random_prompt(P)."""
    side = 28 * picture_side(P)
    noise = random.Random(0).randbytes(3 * side * side)
    picture = Image.frombytes("RGB", (side, side), noise)
    question = "How many red objects are there?"
    return Example("trl", [picture], question, "1", source="bench.py")


def our_prompt(processor: modeling.Processor, example: Example) -> data.Prompt:
    """Make the prompt of `example` as our side does."""
    return data.Asker(processor, "none").prompt(example)


def their_processor(processor: modeling.Processor) -> object:
    """Make transformers' processor without videos: AutoProcessor needs torchvision for them."""

    class Pictures(processor.family.class_of("Processor")):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            super().__init__(image_processor, tokenizer, None, chat_template)

    tokenizer = processor.tokenizer
    return Pictures(processor.image_processor, tokenizer, tokenizer.chat_template)


def check_same_prompt(theirs: object, processor: modeling.Processor, example: Example) -> None:
    """Raise ValueError unless TRL's prompt has the tokens of ours."""
    content = [
        {"type": "image", "image": example.images[0]},
        {"type": "text", "text": example.question},
    ]
    asked = theirs.apply_chat_template(
        [[{"role": "user", "content": content}]],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )["input_ids"][0]
    if asked != our_prompt(processor, example).ids.tolist():
        raise ValueError("TRL's prompt differs from ours: the figures would compare different work")


def trl_config(out: str, device: torch.device, dtype: torch.dtype, work: Work, **more) -> object:
    """Make the GRPOConfig with the settings that `trl_rows` gives our side."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=out,
        per_device_train_batch_size=work.G,
        num_generations=work.G,
        max_completion_length=work.T,
        temperature=1.0,
        beta=0.0,
        num_iterations=1,
        loss_type="grpo",
        learning_rate=1e-9,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        gradient_checkpointing=False,
        use_cpu=device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def turn_timer(device: torch.device, seconds: list[float], between: Callable) -> object:
    """Make a callback that appends the time of each step and calls between(turn) after it."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.turn = 0
            self.started = clock(device)

        def on_step_end(self, *_, **__):
            seconds.append(clock(device) - self.started)
            between(self.turn)
            self.turn += 1
            self.started = clock(device)

    return Turns()


def ignore_turn(turn: int) -> None:
    """Do nothing between two steps of TRL."""


def trl_steps(
    directory: str,
    device: torch.device,
    dtype: torch.dtype,
    work: Work,
    steps: int,
    between: Callable[[int], None] = ignore_turn,
) -> list[float]:
    """Time `steps` steps of TRL's GRPOTrainer after one that does not count, in seconds.

    Model, picture, question and settings are those that `trl_rows` gives our side.
    between: called with the turn's number after every step, and not timed.
    Raises ValueError if TRL's prompt or completions differ from ours in length.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    def reward(completion_ids: list, **_) -> list[float]:
        lengths = [len(ids) for ids in completion_ids]
        if lengths != [work.T] * work.G:
            raise ValueError(
                f"TRL's completions have {lengths} tokens, not {work.G} x {work.T}: "
                "the figures would compare different work"
            )
        return [random.random() for _ in completion_ids]

    seconds = []
    example = trl_example(work.P)
    policy, processor, special = load_bench(directory, device, dtype)
    theirs = their_processor(processor)
    check_same_prompt(theirs, processor, example)
    prompt = [{"role": "user", "content": example.question}]
    with tempfile.TemporaryDirectory() as out:
        suppressed = {"suppress_tokens": special.vision_ids}
        more = {"max_steps": steps + 1, "generation_kwargs": suppressed}
        config = trl_config(out, device, dtype, work, **more)
        record = {"prompt": prompt, "image": example.images[0]}
        rows = Dataset.from_list([record] * (steps + 1))
        timer = turn_timer(device, seconds, between)
        trainer = GRPOTrainer(
            policy, reward, config, rows, processing_class=theirs, callbacks=[timer]
        )
        trainer.remove_callback(PrinterCallback)
        with stock(policy):
            trainer.train()
    return seconds[1:]


def trl_rows(
    directory: str,
    device: torch.device,
    dtype: torch.dtype,
    policy: torch.nn.Module,
    processor: modeling.Processor,
    special: SimpleNamespace,
    work: Work,
    repeats: int,
) -> list[dict]:
    """Make the rows of a whole step, ours and TRL's, which take turns.

    Both read the picture and write the prompt; neither pays for a reward.
    """
    example = trl_example(work.P)
    optimizer = frozen_optimizer(policy)
    ours = []

    def our_turn(turn: int) -> None:
        started = clock(device)
        prompts = [our_prompt(processor, example)]
        our_step(policy, special, prompts, work.T, work.G, optimizer, turn)
        ours.append(clock(device) - started)

    theirs = trl_steps(directory, device, dtype, work, repeats, our_turn)
    P = len(our_prompt(processor, example).ids)
    return rows_of(
        {"ours": ours[1:], "TRL's GRPOTrainer": theirs},
        what="step",
        **Work(1, P, work.T, work.G)._asdict(),
    )
