"""Run: python -m pytest -q tests/test_flags.py    (about 6 s on CPU, mostly importing torch)

Flags, seeds, schedules, checkpoints, the log. Nothing here needs a model.
"""

import argparse
import builtins
import math
import random
import re
import sys

import pytest
import torch

import data
import update
from plumbing import device, flags, run, running
from plumbing.errors import UserError
from plumbing.flags_of_others import FLAG_OF_OTHERS
from plumbing.text import cut
from tasks import toy


def training_parser():
    parser = flags.Parser("A script.\n\n    python script.py --model tiny\n")
    for add in (
        flags.add_model_flags,
        flags.add_training_flags,
        flags.add_data_flags,
        flags.add_evaluation_flags,
        flags.add_output_flags,
    ):
        add(parser)
    flags.add_optimization_flags(parser, "peak learning rate")
    return parser


REQUIRED = ["--model", "tiny", "--data", "count", "--output-dir", "out"]


def refusal(argv, capsys, parser=None):
    """The last line on stderr of a command line that must stop with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        (parser or training_parser()).parse_args(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


# --- flags ---


def test_dashes_and_underscores_are_alike_and_values_are_left_alone():
    dashed = training_parser().parse_args(
        [
            *REQUIRED,
            "--max-steps",
            "3",
            "--save-steps=4",
            "--no-gradient-checkpointing",
            "--system-prompt",
            "a_b --c_d",
        ]
    )
    scored = training_parser().parse_args(
        [
            "--model_name_or_path",
            "tiny",
            "--data=count",
            "--output_dir",
            "out",
            "--max_steps=3",
            "--save_steps",
            "4",
            "--no_gradient_checkpointing",
            "--system_prompt=a_b --c_d",
        ]
    )
    assert {**vars(dashed), "argv": 0} == {**vars(scored), "argv": 0}
    assert (dashed.max_steps, dashed.save_steps, dashed.model, dashed.system_prompt) == (
        3,
        4,
        "tiny",
        "a_b --c_d",
    )
    assert training_parser().parse_args([*REQUIRED[:-1], "my_runs/a_b"]).output_dir == "my_runs/a_b"


NOT_UTF8 = "runs/\udcff"  # what Python makes of the byte 255 in an argument


@pytest.mark.parametrize(
    "flag", ["--output-dir", "--data", "--model", "--system-prompt", "--eval-data"]
)
@pytest.mark.parametrize("joined", [True, False])
def test_what_is_not_utf8_is_refused_by_its_flag(flag, joined, capsys):
    """Such a run trained to its end, and could not write its model or draw its curve."""
    words = [f"{flag}={NOT_UTF8}"] if joined else [flag, NOT_UTF8]
    said = refusal([*REQUIRED, *words], capsys)
    assert said.startswith(f"error: {flag} runs/\\udcff is not UTF-8; ")


@pytest.mark.parametrize(
    "words, shown",
    [
        (["--eval-data", "count", "a\udc80b"], "--eval-data a\\udc80b is not UTF-8"),
        (["--system-prompt", "half \ud83d"], "--system-prompt half \\ud83d is not UTF-8"),
        (["--\udcff"], "--\\udcff is not UTF-8"),
        (["\udcff"], "\\udcff is not UTF-8"),
        (["--output-dir", "a\0b"], "--output-dir a\\x00b' has a NUL byte"),
        (["--output-dir", "x" * 9999 + "\udcff"], "--output-dir xxx"),
    ],
)
def test_odd_words_are_refused_whole_or_in_a_list(words, shown, capsys):
    said = refusal([*REQUIRED, *words], capsys)
    assert shown in said and len(said) < 700


@pytest.mark.parametrize(
    "text", ["日本/ü é", "\U0001f600", "$x^$", " ", "", "a\nb\tc", "\ufffd", "\u202e"]
)
def test_other_letters_are_taken(text):
    line = [*REQUIRED, f"--system-prompt={text}", f"--eval-data={text}"]
    args = training_parser().parse_args(line)
    assert args.system_prompt == text and args.eval_data == [text]


def test_argv_is_kept_as_it_was_typed_and_not_written_to():
    argv = [*REQUIRED, "--max_steps", "3"]
    before = list(argv)
    args = training_parser().parse_args(argv)
    assert args.argv == before == argv and args.argv is not argv


def test_without_arguments_the_command_line_is_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", *REQUIRED, "--max_steps", "7"])
    args = training_parser().parse_args()
    assert args.max_steps == 7 and args.argv == [*REQUIRED, "--max_steps", "7"]


def test_no_abbreviations(capsys):
    line = refusal([*REQUIRED, "--max-step", "3"], capsys)
    assert "unknown argument --max-step" in line and "--max-steps" in line


@pytest.mark.parametrize(
    "typo, meant",
    [
        ("--learing-rate", "--learning-rate"),
        ("--sede", "--seed"),
        ("--output_dri", None),
        ("--warmup_step=3", "--warmup-steps"),
        ("--gradient_checkpoint", "--gradient-checkpointing"),
    ],
)
def test_a_typo_is_met_with_a_guess(capsys, typo, meant):
    line = refusal([*REQUIRED, typo, "3"], capsys)
    assert typo.replace("_", "-") in line and (meant is None or f"did you mean {meant}?" in line)


def test_something_far_from_every_flag_is_pointed_to_help(capsys):
    assert "--help" in refusal([*REQUIRED, "--qqqqqqqqqqqq"], capsys)


@pytest.mark.parametrize("flag", sorted(FLAG_OF_OTHERS))
def test_flags_of_other_projects_name_ours(capsys, flag):
    for word in (flag, flag.replace("-", "_").replace("__", "--", 1) + "=5"):
        line = refusal([*REQUIRED, word, "5"], capsys)
        assert f"{flag} has no meaning here; use {FLAG_OF_OTHERS[flag]}" in line


def test_a_whole_command_of_trl_is_answered_with_our_flag_and_not_with_what_it_lacks(capsys):
    """It has no --data; argparse once complained about that first and hid the hint."""
    command = "--model_name_or_path Qwen/Qwen2-VL-2B-Instruct --dataset_name trl-lib/x"
    line = refusal(f"{command} --output_dir out --bf16".split(), capsys)
    assert "--dataset-name has no meaning here; use --data" in line


def test_what_is_ours_is_not_listed_as_foreign_and_advice_names_real_flags():
    ours = set(training_parser()._option_string_actions)
    assert not ours & set(FLAG_OF_OTHERS)
    other_scripts = {
        "--prompts-per-step",
        "--batch-size",
        "--num-generations",
        "--updates-per-rollout",
        "--max-completion-length",
        "--reward-funcs",
        "--top-p",
        "--pairs",
        "--image-folder",
        "--group-by-length",
        "--mixture-weights",
    }
    for flag, advice in FLAG_OF_OTHERS.items():
        assert re.fullmatch(r"--[a-z0-9-]+", flag)
        assert set(re.findall(r"--[a-z][a-z-]+", advice)) <= ours | other_scripts, (flag, advice)


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--micro-batch-size", "0"),
        ("--micro-batch-size", "-1"),
        ("--micro-batch-size", "1.5"),
        ("--micro-batch-size", "many"),
        ("--max-steps", "0"),
        ("--seed", "-1"),
        ("--learning-rate", "-1e-3"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
        ("--learning-rate", "fast"),
        ("--warmup-steps", "-0.1"),
        ("--save-total-limit", "0"),
        ("--logging-steps", "0"),
        ("--max-pixels", "0"),
        ("--lora-r", "-1"),
        ("--level", "4"),
        ("--optim", "sgd"),
        ("--quant", "int4"),
        ("--dtype", "float16"),
        ("--lr-scheduler-type", "step"),
        ("--report-to", "paper"),
    ],
)
def test_values_out_of_range_are_refused_by_name(capsys, flag, value):
    line = refusal([*REQUIRED, f"{flag}={value}"], capsys)
    assert flag in line and value in line


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (flags.int_from_1, ["1", "7"], ["0", "-1", "1.5", "x", ""]),
        (flags.int_from_0, ["0", "7"], ["-1", "0.5", "x"]),
        (flags.not_negative, ["0", "1e-3", "2"], ["-1e-9", "nan", "inf", "x"]),
        (flags.share, ["1", "0.01"], ["0", "1.01", "nan", "-1", "x"]),
    ],
)
def test_types(kind, good, bad):
    assert [kind(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            kind(text)


def test_help_shows_defaults_and_keeps_the_docstring_as_written(capsys):
    with pytest.raises(SystemExit) as stop:
        training_parser().parse_args(["--help-all"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "A script.\n\n    python script.py --model tiny" in shown
    assert (
        "--micro-batch-size" in shown
        and "(default: 8)" in shown
        and "(default: None)" not in shown
        and "(default: False)" not in shown
    )
    for flag in training_parser()._option_string_actions:
        assert flag in shown


def test_every_flag_has_a_help_text():
    for action in training_parser()._actions:
        assert action.help and len(action.help) > 10, action.option_strings


def test_data_names_every_toy_task_that_is_no_lesson():
    [action] = [action for action in training_parser()._actions if action.dest == "data"]
    listed = action.help.partition("(")[2].partition(", or a lesson")[0].split(", ")
    lessons = {f"{task}_{lesson}" for task in toy.TASKS for lesson in toy.LESSONS}
    assert sorted(listed) == sorted(toy.TASKS.keys() - lessons)


def test_run_turns_a_user_error_into_one_sentence_and_exit_code_2(capsys):
    def main(args):
        raise UserError(f"{args}: mend it")

    with pytest.raises(SystemExit) as stop:
        running.run(main, lambda argv: argv, "x.json:3")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: x.json:3: mend it\n"


def test_run_lets_programming_errors_through():
    def main(args):
        raise ValueError("not the user's fault")

    with pytest.raises(ValueError, match="not the user's fault"):
        running.run(main, lambda argv: argv)


# --- devices, seeds, schedule ---


def test_device_and_dtype(monkeypatch):
    assert device.pick_device("cpu") == torch.device("cpu")
    assert device.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "toaster"):
        with pytest.raises(UserError, match=f"--device {name}.*--device cpu"):
            device.pick_device(name)
    assert device.pick_dtype("auto", torch.device("cpu")) is torch.float32
    for there, dtype in (
        (True, torch.bfloat16),
        (False, torch.float32),
    ):  # a T4 only emulates bfloat16
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
        assert device.pick_dtype("auto", torch.device("cuda")) is dtype
    assert device.pick_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16


def test_seed_is_reproducible_and_different_at_every_step():
    def draw(seed, step):
        device.seed_everything(seed, step)
        return random.random(), *torch.rand(3).tolist()

    first = {(seed, step): draw(seed, step) for seed in range(3) for step in range(20)}
    random.seed(9), torch.rand(7)  # whatever was drawn in between
    assert all(draw(*key) == value for key, value in first.items())
    assert len(set(first.values())) == 60  # (1, 11) is not (11, 1), nor seed + step the key
    assert draw(1, 12) != draw(11, 2) != draw(12, 1)


def test_epoch_order_is_a_permutation_and_pure():
    orders = {
        (epoch, seed): tuple(data.epoch_order(50, epoch, seed))
        for epoch in range(4)
        for seed in range(4)
    }
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len(set(orders.values())) == 16
    state = random.getstate()
    assert tuple(data.epoch_order(50, 2, 3)) == orders[2, 3] and random.getstate() == state
    assert data.epoch_order(0, 0, 0) == [] and data.epoch_order(1, 5, 5) == [0]


def test_schedules_in_closed_form():
    def scale(kind, **more):
        return [run.lr_scale(step, 10, kind=kind, **more) for step in range(10)]

    assert scale("constant") == [1.0] * 10
    assert scale("linear") == pytest.approx([1 - s / 10 for s in range(10)])
    assert scale("cosine") == pytest.approx(
        [(1 + math.cos(math.pi * s / 10)) / 2 for s in range(10)]
    )
    assert set(flags.SCHEDULES) == {"constant", "linear", "cosine"}


def test_warmup_is_linear_never_zero_and_continuous():
    got = [run.lr_scale(step, 10, 4, "linear") for step in range(10)]
    assert got == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [run.lr_scale(step, 10, 4, "constant") for step in range(10)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8] + [1] * 6
    )
    cosine = [run.lr_scale(step, 10, 4, "cosine") for step in range(4, 10)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * s / 6)) / 2 for s in range(6)])


def test_warmup_below_one_is_a_share_of_all_steps():
    for kind in flags.SCHEDULES:
        assert [run.lr_scale(s, 40, 0.1, kind) for s in range(40)] == [
            run.lr_scale(s, 40, 4, kind) for s in range(40)
        ]
        assert [run.lr_scale(s, 40, 0.0, kind) for s in range(40)] == [
            run.lr_scale(s, 40, 0, kind) for s in range(40)
        ]
    assert run.lr_scale(0, 40, 1) == 0.5  # 1 is one step, not all of them


@pytest.mark.parametrize("kind", flags.SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 0.3, 1, 5, 100])
def test_no_step_is_wasted_on_a_rate_of_zero(kind, warmup):
    for steps in (1, 2, 7, 100):
        shares = [run.lr_scale(s, steps, warmup, kind) for s in range(steps)]
        assert all(0 < share <= 1 for share in shares)


def test_optimizer_has_no_weight_decay():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = update.make_optimizer("adamw", [weight], 0.1)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["lr"] == 0.1
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3))  # a gradient of zero moves nothing: decay would
    weight.grad = torch.tensor([1.0, -1.0, 0.0])
    optimizer.step()
    assert weight[0] < 1 < weight[1] and weight[2] == 1


def test_adamw_8bit_without_bitsandbytes_says_what_to_install(monkeypatch):
    genuine = builtins.__import__

    def missing(name, *rest, **more):
        if name.split(".")[0] == "bitsandbytes":
            raise ImportError("No module named 'bitsandbytes'")
        return genuine(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(
        UserError, match="adamw_8bit needs bitsandbytes: pip install bitsandbytes.*--optim adamw"
    ):
        update.make_optimizer("adamw_8bit", [weight], 0.1)
    assert isinstance(update.make_optimizer("adamw", [weight], 0.1), torch.optim.AdamW)


# --- odd texts ---


def test_long_messages_keep_their_beginning_and_their_remedy():
    assert cut("short") == "short" and cut("x" * 580) == "x" * 580
    long = cut("x.jsonl:1: " + "9" * 100_000 + "; mend it")
    assert (
        len(long) == 580
        and long.startswith("x.jsonl:1: 9")
        and long.endswith("9; mend it")
        and " ... " in long
    )
