"""Run: python -m pytest -q tests/test_utils.py        (about 6 s on CPU, mostly importing torch; no network)

Flags, seeds, schedules, checkpoints, the log. Nothing here needs a model.
"""
import builtins
import json
import math
import os
import random
import re
import signal
import sys
import threading
from argparse import Namespace

import pytest
import torch

import utils
from utils import UserError


def training_parser():
    parser = utils.Parser("A script.\n\n    python script.py --model tiny\n")
    for add in (utils.add_model_flags, utils.add_training_flags, utils.add_data_flags, utils.add_evaluation_flags, utils.add_output_flags):
        add(parser)
    utils.add_optimization_flags(parser, "peak learning rate")
    return parser


REQUIRED = ["--model", "tiny", "--data", "count", "--output-dir", "out"]


def refusal(argv, capsys, parser=None):
    """The last line on stderr of a command line that must stop with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        (parser or training_parser()).parse_args(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


# ------------------------------------------------------------------------------------------------------------- flags


def test_dashes_and_underscores_are_alike_and_values_are_left_alone():
    dashed = training_parser().parse_args([*REQUIRED, "--max-steps", "3", "--save-steps=4", "--no-gradient-checkpointing", "--system-prompt", "a_b --c_d"])
    scored = training_parser().parse_args(["--model_name_or_path", "tiny", "--data=count", "--output_dir", "out", "--max_steps=3", "--save_steps", "4",
                                           "--no_gradient_checkpointing", "--system_prompt=a_b --c_d"])
    assert {**vars(dashed), "argv": 0} == {**vars(scored), "argv": 0}
    assert (dashed.max_steps, dashed.save_steps, dashed.model, dashed.system_prompt) == (3, 4, "tiny", "a_b --c_d")
    assert training_parser().parse_args([*REQUIRED[:-1], "my_runs/a_b"]).output_dir == "my_runs/a_b"


NOT_UTF8 = "runs/\udcff"  # what Python makes of the byte 255 in an argument


@pytest.mark.parametrize("flag", ["--output-dir", "--data", "--model", "--system-prompt", "--eval-data"])
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


@pytest.mark.parametrize("text", ["日本/ü é", "\U0001f600", "$x^$", " ", "", "a\nb\tc", "\ufffd", "\u202e"])
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


@pytest.mark.parametrize("typo, meant", [("--learing-rate", "--learning-rate"), ("--sede", "--seed"), ("--output_dri", None), ("--warmup_step=3", "--warmup-steps"),
                                         ("--gradient_checkpoint", "--gradient-checkpointing")])
def test_a_typo_is_met_with_a_guess(capsys, typo, meant):
    line = refusal([*REQUIRED, typo, "3"], capsys)
    assert typo.replace("_", "-") in line and (meant is None or f"did you mean {meant}?" in line)


def test_something_far_from_every_flag_is_pointed_to_help(capsys):
    assert "--help" in refusal([*REQUIRED, "--qqqqqqqqqqqq"], capsys)


@pytest.mark.parametrize("flag", sorted(utils.ELSEWHERE))
def test_flags_of_other_projects_name_ours(capsys, flag):
    for word in (flag, flag.replace("-", "_").replace("__", "--", 1) + "=5"):
        line = refusal([*REQUIRED, word, "5"], capsys)
        assert f"{flag} has no meaning here; use {utils.ELSEWHERE[flag]}" in line


def test_a_whole_command_of_trl_is_answered_with_our_flag_and_not_with_what_it_lacks(capsys):
    """It has no --data, as ours require; argparse complained about that first, and the hint was never seen."""
    line = refusal("--model_name_or_path Qwen/Qwen2-VL-2B-Instruct --dataset_name trl-lib/x --output_dir out --bf16".split(), capsys)
    assert "--dataset-name has no meaning here; use --data" in line


def test_what_is_ours_is_not_listed_as_foreign_and_advice_names_real_flags():
    ours = set(training_parser()._option_string_actions)
    assert not ours & set(utils.ELSEWHERE)
    other_scripts = {"--prompts-per-step", "--batch-size", "--num-generations", "--num-iterations", "--max-completion-length", "--epsilon-high", "--reward-funcs", "--top-p", "--pairs", "--image-folder"}
    for flag, advice in utils.ELSEWHERE.items():
        assert re.fullmatch(r"--[a-z0-9-]+", flag)
        assert set(re.findall(r"--[a-z][a-z-]+", advice)) <= ours | other_scripts, (flag, advice)


@pytest.mark.parametrize("flag, value", [
    ("--micro-batch-size", "0"), ("--micro-batch-size", "-1"), ("--micro-batch-size", "1.5"), ("--micro-batch-size", "many"), ("--max-steps", "0"), ("--seed", "-1"),
    ("--learning-rate", "-1e-3"), ("--learning-rate", "nan"), ("--learning-rate", "inf"), ("--learning-rate", "fast"), ("--warmup-steps", "-0.1"), ("--save-total-limit", "0"),
    ("--logging-steps", "0"), ("--max-pixels", "0"), ("--lora-r", "-1"), ("--level", "4"), ("--optim", "sgd"), ("--quant", "int4"), ("--dtype", "float16"),
    ("--lr-scheduler-type", "step"), ("--report-to", "paper")])
def test_values_out_of_range_are_refused_by_name(capsys, flag, value):
    line = refusal([*REQUIRED, f"{flag}={value}"], capsys)
    assert flag in line and value in line


@pytest.mark.parametrize("kind, good, bad", [
    (utils.positive, ["1", "7"], ["0", "-1", "1.5", "x", ""]), (utils.count, ["0", "7"], ["-1", "0.5", "x"]),
    (utils.not_negative, ["0", "1e-3", "2"], ["-1e-9", "nan", "inf", "x"]), (utils.fraction, ["1", "0.01"], ["0", "1.01", "nan", "-1", "x"])])
def test_types(kind, good, bad):
    assert [kind(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises((ValueError, utils.argparse.ArgumentTypeError)):
            kind(text)


def test_help_shows_defaults_and_keeps_the_docstring_as_written(capsys):
    with pytest.raises(SystemExit) as stop:
        training_parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "A script.\n\n    python script.py --model tiny" in shown
    assert "--micro-batch-size" in shown and "(default: 8)" in shown and "(default: None)" not in shown and "(default: False)" not in shown
    for flag in training_parser()._option_string_actions:
        assert flag in shown


def test_every_flag_has_a_help_text():
    for action in training_parser()._actions:
        assert action.help and len(action.help) > 10, action.option_strings


def test_run_turns_a_user_error_into_one_sentence_and_exit_code_2(capsys):
    def main(args):
        raise UserError(f"{args}: mend it")
    with pytest.raises(SystemExit) as stop:
        utils.run(main, lambda argv: argv, "x.json:3")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: x.json:3: mend it\n"


def test_run_lets_programming_errors_through():
    def main(args):
        raise ValueError("not the user's fault")
    with pytest.raises(ValueError, match="not the user's fault"):
        utils.run(main, lambda argv: argv)


# ------------------------------------------------------------------------------------------- devices, seeds, schedule


def test_device_and_dtype(monkeypatch):
    assert utils.pick_device("cpu") == torch.device("cpu")
    assert utils.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "toaster"):
        with pytest.raises(UserError, match=f"--device {name}.*--device cpu"):
            utils.pick_device(name)
    assert utils.pick_dtype("auto", torch.device("cpu")) is torch.float32
    for there, dtype in ((True, torch.bfloat16), (False, torch.float32)):     # a T4 only emulates bfloat16
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
        assert utils.pick_dtype("auto", torch.device("cuda")) is dtype
    assert utils.pick_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16


def test_seed_is_reproducible_and_different_at_every_step():
    def draw(seed, step):
        utils.seed_everything(seed, step)
        return random.random(), *torch.rand(3).tolist()
    first = {(seed, step): draw(seed, step) for seed in range(3) for step in range(20)}
    random.seed(9), torch.rand(7)                                    # whatever was drawn in between
    assert all(draw(*key) == value for key, value in first.items())
    assert len(set(first.values())) == 60                            # (1, 11) is not (11, 1), nor seed + step the key
    assert draw(1, 12) != draw(11, 2) != draw(12, 1)


def test_epoch_order_is_a_permutation_and_pure():
    orders = {(epoch, seed): tuple(utils.epoch_order(50, epoch, seed)) for epoch in range(4) for seed in range(4)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len(set(orders.values())) == 16
    state = random.getstate()
    assert tuple(utils.epoch_order(50, 2, 3)) == orders[2, 3] and random.getstate() == state
    assert utils.epoch_order(0, 0, 0) == [] and utils.epoch_order(1, 5, 5) == [0]


def test_schedules_in_closed_form():
    scale = lambda kind, **more: [utils.lr_scale(step, 10, kind=kind, **more) for step in range(10)]
    assert scale("constant") == [1.0] * 10
    assert scale("linear") == pytest.approx([1 - s / 10 for s in range(10)])
    assert scale("cosine") == pytest.approx([(1 + math.cos(math.pi * s / 10)) / 2 for s in range(10)])
    assert set(utils.SCHEDULES) == {"constant", "linear", "cosine"}


def test_warmup_is_linear_never_zero_and_continuous():
    got = [utils.lr_scale(step, 10, 4, "linear") for step in range(10)]
    assert got == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [utils.lr_scale(step, 10, 4, "constant") for step in range(10)] == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1] * 6)
    cosine = [utils.lr_scale(step, 10, 4, "cosine") for step in range(4, 10)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * s / 6)) / 2 for s in range(6)])


def test_warmup_below_one_is_a_share_of_all_steps():
    for kind in utils.SCHEDULES:
        assert [utils.lr_scale(s, 40, 0.1, kind) for s in range(40)] == [utils.lr_scale(s, 40, 4, kind) for s in range(40)]
        assert [utils.lr_scale(s, 40, 0.0, kind) for s in range(40)] == [utils.lr_scale(s, 40, 0, kind) for s in range(40)]
    assert utils.lr_scale(0, 40, 1) == 0.5                           # 1 is one step, not all of them


@pytest.mark.parametrize("kind", utils.SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 0.3, 1, 5, 100])
def test_no_step_is_wasted_on_a_rate_of_zero(kind, warmup):
    for steps in (1, 2, 7, 100):
        shares = [utils.lr_scale(s, steps, warmup, kind) for s in range(steps)]
        assert all(0 < share <= 1 for share in shares)


def test_optimizer_has_no_weight_decay():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = utils.make_optimizer("adamw", [weight], 0.1)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["lr"] == 0.1
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3))                        # a gradient of zero moves nothing: decay would
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
    with pytest.raises(UserError, match="adamw_8bit needs bitsandbytes: pip install bitsandbytes.*--optim adamw"):
        utils.make_optimizer("adamw_8bit", [weight], 0.1)
    assert isinstance(utils.make_optimizer("adamw", [weight], 0.1), torch.optim.AdamW)


# --------------------------------------------------------------------------------------------------------- checkpoints


def model_writer(text="weights"):
    return lambda directory: (directory / "model.txt").write_text(text)


def save(out, step, keep=2, text="weights", **state):
    utils.save_checkpoint(out, step, model_writer(text), {"rng": torch.arange(3), **state}, keep)


def names(out):
    return [p.name for p in utils.checkpoints(out)]


def test_checkpoint_holds_the_model_and_the_state(tmp_path):
    save(tmp_path, 3, moments={"m": torch.ones(2)}, position=17)
    state = utils.load_state(tmp_path / "checkpoint-3")
    assert (tmp_path / "checkpoint-3" / "model.txt").read_text() == "weights"
    assert state["step"] == 3 and state["position"] == 17 and torch.equal(state["moments"]["m"], torch.ones(2)) and torch.equal(state["rng"], torch.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]  # nothing temporary is left


def test_state_is_not_written_to(tmp_path):
    state = {"position": 1}
    utils.save_checkpoint(tmp_path, 4, model_writer(), state, 1)
    assert state == {"position": 1}


def test_a_save_that_fails_half_way_leaves_the_earlier_checkpoint_and_no_new_one(tmp_path):
    save(tmp_path, 1)

    def full_disk(directory):
        (directory / "model.txt").write_text("half")
        raise OSError("no space left on device")
    for step in (1, 2):                                              # also over a checkpoint of the same step
        with pytest.raises(OSError, match="no space"):
            utils.save_checkpoint(tmp_path, step, full_disk, {}, 1)
        assert names(tmp_path) == ["checkpoint-1"] and not (tmp_path / "checkpoint-2").exists()
        assert (tmp_path / "checkpoint-1" / "model.txt").read_text() == "weights"
    save(tmp_path, 2)                                                # what it left behind is not in the way
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert (tmp_path / "checkpoint-2" / "model.txt").read_text() == "weights"


def test_a_state_that_cannot_be_written_leaves_no_checkpoint(tmp_path):
    with pytest.raises(Exception):
        utils.save_checkpoint(tmp_path, 1, model_writer(), {"callback": lambda: None}, 1)
    assert names(tmp_path) == []


def test_a_step_saved_again_replaces_the_first(tmp_path):
    save(tmp_path, 1, text="old")
    (tmp_path / "checkpoint-1" / "stale.txt").touch()
    save(tmp_path, 1, text="new")
    assert sorted(p.name for p in (tmp_path / "checkpoint-1").iterdir()) == ["model.txt", "state.pt"]
    assert (tmp_path / "checkpoint-1" / "model.txt").read_text() == "new"


def test_rotation_keeps_the_newest_by_number(tmp_path):
    for step in (8, 9, 10, 100):                                     # as text, 9 is after 100
        save(tmp_path, step)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-100"]
    save(tmp_path, 101, keep=1)
    assert names(tmp_path) == ["checkpoint-101"]
    save(tmp_path, 102, keep=5)
    assert names(tmp_path) == ["checkpoint-101", "checkpoint-102"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_rotation_after_going_back_keeps_what_was_just_written(tmp_path, keep):
    """--resume-from-checkpoint out/checkpoint-20 while checkpoint-40 is there. Rotation went by number alone: with --save-total-limit 1 it deleted
    checkpoint-30 as soon as it was written, and "newest" went on from the abandoned 40. Certain to happen, with every such resume."""
    for step in (20, 40):
        save(tmp_path, step)
    save(tmp_path, 30, keep=keep)
    assert names(tmp_path)[-1] == "checkpoint-30"
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-30"][-keep:]


def test_checkpoints_ignores_what_is_not_a_finished_checkpoint(tmp_path):
    save(tmp_path, 5)
    for name in (".checkpoint-6.tmp", "checkpoint-7", "checkpoint-x", "checkpoint-8-old", "checkpoint-"):
        (tmp_path / name).mkdir()
        if name != "checkpoint-7":                                   # 7 has no state.pt
            (tmp_path / name / "state.pt").touch()
    (tmp_path / "checkpoint-9").touch()
    assert names(tmp_path) == ["checkpoint-5"]
    assert utils.checkpoints(tmp_path / "nowhere") == []


def test_a_damaged_state_is_the_users_to_mend(tmp_path):
    save(tmp_path, 5)
    file = tmp_path / "checkpoint-5" / "state.pt"
    whole = file.read_bytes()
    for damaged in (b"", b"not a zip", whole[:len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="checkpoint-5.state.pt cannot be read.*resume from the one before") as error:
            utils.load_state(tmp_path / "checkpoint-5")
        assert "\n" not in str(error.value)


def test_state_is_read_without_running_code_in_it(tmp_path):
    """weights_only: a checkpoint from the internet must not be a program."""
    (tmp_path / "checkpoint-1").mkdir()
    torch.save({"step": 1, "x": Namespace(a=1)}, tmp_path / "checkpoint-1" / "state.pt")
    with pytest.raises(UserError):
        utils.load_state(tmp_path / "checkpoint-1")


def test_publish_puts_the_model_into_the_directory_itself(tmp_path):
    (tmp_path / "model.txt").write_text("of the run before")
    (tmp_path / "metrics.jsonl").write_text("kept")
    utils.publish(tmp_path, model_writer("final"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "model.txt"]
    assert (tmp_path / "model.txt").read_text() == "final"


# --------------------------------------------------------------------------------------------------- the output directory


def output(path, resume=None):
    return Namespace(output_dir=str(path), resume_from_checkpoint=resume, max_steps=None, argv=[])


def test_a_fresh_directory_is_made(tmp_path):
    assert utils.open_output_dir(output(tmp_path / "a" / "b")) is None
    assert (tmp_path / "a" / "b").is_dir() and not any((tmp_path / "a" / "b").iterdir())


def test_a_directory_that_holds_a_run_is_not_overwritten(tmp_path):
    save(tmp_path, 3)
    with pytest.raises(UserError, match="checkpoint-3.*--resume-from-checkpoint.*--output-dir"):
        utils.open_output_dir(output(tmp_path))
    assert names(tmp_path) == ["checkpoint-3"]


def test_other_files_in_the_directory_are_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert utils.open_output_dir(output(tmp_path)) is None
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_takes_the_newest_and_says_so(tmp_path, capsys):
    for step in (9, 10):
        save(tmp_path, step)
    assert utils.open_output_dir(output(tmp_path, "newest")) == tmp_path / "checkpoint-10"
    assert "checkpoint-10" in capsys.readouterr().out


def test_resuming_where_nothing_is_yet_starts_over_and_says_so(tmp_path, capsys):
    assert utils.open_output_dir(output(tmp_path / "new", "newest")) is None
    assert "starting from the beginning" in capsys.readouterr().out


def test_resuming_from_a_named_checkpoint(tmp_path):
    for step in (9, 10):
        save(tmp_path, step)
    assert utils.open_output_dir(output(tmp_path, str(tmp_path / "checkpoint-9"))) == tmp_path / "checkpoint-9"
    with pytest.raises(UserError, match="is not a checkpoint in --output-dir.*--model"):      # its metrics would be missing
        utils.open_output_dir(output(tmp_path / "elsewhere", str(tmp_path / "checkpoint-9")))
    for wrong in (tmp_path, tmp_path / "checkpoint-11"):
        with pytest.raises(UserError, match="is not a checkpoint.*checkpoint-10"):
            utils.open_output_dir(output(tmp_path, str(wrong)))


def test_a_resumed_run_is_the_run_that_was_interrupted(tmp_path):
    """Flags that are not typed again take the value they had; a changed one is refused, unless it only says how long, how often or in what portions."""
    was = {"script": "train_grpo.py", "seed": 0, "lora_r": 8, "quant": "nf4", "dtype": "float32", "learning_rate": 1e-4, "eval_data": ["count:test"], "save_steps": 5, "max_steps": 9}
    save(tmp_path, 9)
    utils.write_json(tmp_path / "checkpoint-9" / "args.json", was)
    flags = lambda **changes: Namespace(**{**vars(output(tmp_path, "newest")), "script": "train_grpo.py", "seed": 0, "lora_r": None, "quant": None, "dtype": "auto", "learning_rate": None,
                                           "eval_data": [], "save_steps": 100, "max_steps": None, **changes, "argv": [f"--{name.replace('_', '-')}=..." for name in changes]})
    args = flags()
    assert utils.open_output_dir(args) == tmp_path / "checkpoint-9" and [args.save_steps, args.max_steps] == [5, 9]
    args = flags(num_train_epochs=2.0)                               # which would count for nothing beside the old --max-steps
    assert utils.open_output_dir(args) == tmp_path / "checkpoint-9" and [args.save_steps, args.max_steps] == [5, None]
    args = flags(save_steps=7, max_steps=12)
    assert utils.open_output_dir(args) == tmp_path / "checkpoint-9"
    assert [args.lora_r, args.quant, args.dtype, args.learning_rate, args.eval_data, args.save_steps, args.max_steps] == [8, "nf4", "float32", 1e-4, ["count:test"], 7, 12]
    for changes, words in (({"seed": 1}, "--seed was 0"), ({"quant": "none"}, "--quant was nf4"), ({"learning_rate": 2e-4}, "--learning-rate was 0.0001"),
                           ({"script": "train_sft.py"}, "this script was train_grpo.py"), ({"max_steps": 8}, "past --max-steps 8")):
        with pytest.raises(UserError, match=words):
            utils.open_output_dir(flags(**changes))


def test_what_a_killed_save_left_is_removed(tmp_path):
    (tmp_path / ".checkpoint-4.tmp").mkdir()
    (tmp_path / ".checkpoint-4.tmp" / "state.pt").touch()
    assert utils.open_output_dir(output(tmp_path, "newest")) is None
    assert not any(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    """Below a regular file, and in its place: these fail for root, too."""
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "out", tmp_path / "file", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match="--output-dir .* cannot be written to .*another directory") as error:
            utils.open_output_dir(output(path))
        assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written to"):
        utils.open_output_dir(output(tmp_path))


# ----------------------------------------------------------------------------------------------------------- args, JSON


def test_args_are_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/train_sft.py"])
    args = training_parser().parse_args([*REQUIRED, "--system-prompt", "Höflich, bitte. 😀"])
    utils.write_args(tmp_path, args, batch=32)
    got = utils.read_args(tmp_path)
    assert {k: got[k] for k in vars(args)} == vars(args)
    assert got["batch"] == 32 and got["script"] == "train_sft.py" and got["argv"] == [*REQUIRED, "--system-prompt", "Höflich, bitte. 😀"]
    assert got["versions"]["torch"] == utils.importlib.metadata.version("torch") and "python" in got["versions"]
    assert got["commit"] is None or re.fullmatch(r"[0-9a-f]{40}( with changes)?", got["commit"])
    assert [p.name for p in tmp_path.iterdir()] == ["args.json"]


def test_args_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    utils.write_args(tmp_path, Namespace(model="tiny"))
    assert utils.read_args(tmp_path)["commit"] is None


def test_args_that_are_not_there_are_empty(tmp_path):
    assert utils.read_args(tmp_path) == utils.read_args("Qwen/Qwen2-VL-2B-Instruct") == {}
    (tmp_path / "args.json").write_text("{broken")
    assert utils.read_args(tmp_path) == {}


def test_json_is_written_whole_or_not_at_all(tmp_path):
    utils.write_json(tmp_path / "result.json", {"accuracy": 0.5})
    with pytest.raises(TypeError):
        utils.write_json(tmp_path / "result.json", {"accuracy": object()})
    assert json.loads((tmp_path / "result.json").read_text()) == {"accuracy": 0.5}


# --------------------------------------------------------------------------------------------------------------- Ctrl-C


def test_first_ctrl_c_asks_second_stops(capsys):
    before = signal.getsignal(signal.SIGINT)
    with utils.StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested and "stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with utils.StopRequest() as again:
        assert not again.requested                                   # one run's request is not the next one's
    assert not utils.StopRequest.requested


def test_the_handler_is_put_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), utils.StopRequest():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_stop_request_works_outside_the_main_thread():
    result = []

    def work():
        with utils.StopRequest() as stop:
            result.append(stop.requested)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [False]


# ------------------------------------------------------------------------------------------------------------------ log


def steps(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_one_line_a_step(tmp_path, capsys):
    log = utils.MetricsLog(tmp_path, every=2)
    for step in range(5):
        log.log(step, {"reward": step / 4, "eval/accuracy": 0.25}, show=["reward", "eval/accuracy", "absent"], last=step == 4)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [{"step": s, "reward": s / 4, "eval/accuracy": 0.25} for s in range(5)]
    shown = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in shown] == [0, 2, 4]
    assert "reward 0.5" in shown[1] and "accuracy 0.25" in shown[1] and "absent" not in shown[1]
    assert log.path == tmp_path / "metrics.jsonl" and [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_last_step_is_shown_whatever_the_interval(tmp_path, capsys):
    utils.MetricsLog(tmp_path, every=10).log(7, {"loss": 1.0}, show=["loss"], last=True)
    assert "step     7  loss 1" in capsys.readouterr().out


def test_numbers_that_json_has_not_are_null(tmp_path):
    log = utils.MetricsLog(tmp_path)
    log.log(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e300, "e": 0})
    line = log.path.read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {"step": 0, "a": None, "b": None, "c": None, "d": 1e300, "e": 0}


def test_metrics_given_are_not_written_to(tmp_path):
    metrics = {"a": math.nan, "b": 1.0}
    utils.MetricsLog(tmp_path).log(0, metrics)
    assert set(metrics) == {"a", "b"} and math.isnan(metrics["a"])


def test_a_new_run_begins_a_new_log(tmp_path):
    utils.MetricsLog(tmp_path).log(0, {"a": 1})
    utils.MetricsLog(tmp_path)
    assert steps(tmp_path) == []


@pytest.mark.parametrize("killed", ["", '{"step": 7, "a"', '{"step": 7, "a": 1.0}', '{"st', "\n"])
def test_resuming_drops_later_lines_and_a_half_written_one(tmp_path, killed):
    """Killed after step 6 or while writing 7, with a checkpoint of step 3: 4, 5 and 6 are done again and must not be there twice."""
    log = utils.MetricsLog(tmp_path)
    for step in range(7):
        log.log(step, {"a": step})
    with open(log.path, "a") as file:
        file.write(killed)
    resumed = utils.MetricsLog(tmp_path, resume_step=3)
    assert steps(tmp_path) == [0, 1, 2, 3]
    for step in range(4, 9):
        resumed.log(step, {"a": step})
    assert steps(tmp_path) == list(range(9))
    assert [m["a"] for m in utils.read_lines(log.path)] == list(range(9))


def test_a_half_written_line_in_the_middle_of_nowhere(tmp_path):
    assert utils.read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert utils.read_lines(tmp_path / "m.jsonl") == [{"step": 1}]


def test_resuming_into_an_empty_directory(tmp_path):
    utils.MetricsLog(tmp_path, resume_step=5).log(6, {"a": 1})
    assert steps(tmp_path) == [6]


def test_two_logs_are_two_runs_of_wandb(tmp_path, monkeypatch):
    """selftrain.py has one for its iterations and one for the steps of each: as one run, whose steps must not go back, most lines would be lost."""
    begun = []
    monkeypatch.setitem(sys.modules, "wandb", Namespace(init=lambda **flags: begun.append(flags) or Namespace(log=lambda metrics, step: None)))
    for out in (tmp_path / "r3v", tmp_path / "r3v" / "iteration-1"):
        out.mkdir()
        utils.MetricsLog(out, report_to="wandb").log(1, {"loss": 1.0})
    assert [run["reinit"] for run in begun] == ["create_new"] * 2 and begun[1]["name"] == "r3v/iteration-1" != begun[0]["name"]


@pytest.mark.parametrize("service, module", [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_service_says_what_to_install(tmp_path, monkeypatch, service, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install {service}"):
        utils.MetricsLog(tmp_path, report_to=service)


# --------------------------------------------------------------------------------------------------------- odd texts


def test_half_a_surrogate_is_written_as_json_writes_it(tmp_path):
    """A path that is no UTF-8, or a text cut in two, broke the writing of args.json and result.json."""
    value = {"data": "runs/\udcff.jsonl", "by \ud800": "é"}
    utils.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


def test_long_messages_keep_their_beginning_and_their_remedy():
    assert utils.cut("short") == "short" and utils.cut("x" * 580) == "x" * 580
    long = utils.cut("x.jsonl:1: " + "9" * 100_000 + "; mend it")
    assert len(long) == 580 and long.startswith("x.jsonl:1: 9") and long.endswith("9; mend it") and " ... " in long
