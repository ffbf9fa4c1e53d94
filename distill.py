"""Make reasoning data: question-answer pairs in, worked answers out, each of them checked.

    --mode describe   the picture in formal language; a text teacher reasons over it; that is
                      written again as though looking (R1-Onevision, arXiv:2503.10615)
           hindsight  a text teacher sees question and answer; every word of that is then removed
                      (deepseek-r1-vision)
           direct     a teacher that sees the picture answers
           prefix     a caption begins a text reasoner's own thinking (R1-Vision)
           qa         questions and answers from the text of pages (Docmatix, arXiv:2408.12637)
Stages, --stages: describe reason look judge; hindsight clean judge; direct judge; caption continue
judge; qa. Each can be run by itself, with its own --teacher, in the same --output-dir. `blind` asks
the question without the picture, and marks what is answered right.

What is kept comes to the gold answer by our own scorer, names no description or reference, and
stands before the judge: distilling/filters.py. Prompts are our own words: distilling/prompts.py.
docs/distill.md is the page to follow.

Without a model, on drawn scenes whose teacher errs and whose judge knows the scene:
    python distill.py --data count --teacher toy --judge toy --output-dir runs/distilled
With a key, or a server of your own:
    export OPENAI_API_KEY=...
    python distill.py --data set.jsonl --teacher https://api.example.com/v1 --teacher-model NAME \\
        --teacher-price 0.4 1.6 --budget 10 --output-dir runs/distilled
A killed command goes on where it was when it is typed again: no reply is paid for twice.
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
import functools
from collections.abc import Iterable
from pathlib import Path

import data
import rewards
import tasks
import teachers
from distilling import asking, documents, estimates, formats, outputs, prompts, stages, toy_teacher
from distilling.stages import MODES, STAGES
from plumbing import arguments, disk, flags, rundir, running, teacher_flags
from plumbing.arguments import flag, read_args, write_args
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from tasks import images
from tasks.example import Example
from tasks.prompts import template_of

# What all stages of a directory have in common; who answers may differ from stage to stage.
DECIDING = "mode data level seed prompt_template picture_kind box_format".split()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Exit code 2 for what contradicts itself."""
    p = flags.Parser(__doc__, "distill.py", "distill.md")
    add_data_flags(flags.add_data_flags(p))
    add_stage_flags(p.add_argument_group("stages"))
    knows = "or toy, which knows the scenes of count and spatial"
    errs = "and errs as their teacher does (--teacher fallible of train_sft.py)"
    teacher_flags.add_teacher_flags(p, others=f"{knows}, {errs}")
    teacher_flags.add_teacher_flags(p, "judge", others=f"{knows}; none: the rules alone decide")
    add_output_flags(p.add_argument_group("output"))
    p.set_own_default("--prompt-template", "think")
    p.set_own_default("--box-format", "norm1000")
    args = p.parse_args(argv)
    known = [name for name in MODES[args.mode].stages if name != "kind"]
    if args.mode != "qa":
        known = ["blind", *known]
    for name in args.stages or ():
        if name not in known:
            p.error(f"--stages {name} is not of --mode {args.mode}, which has {' '.join(known)}")
    if args.drop_blind_solved and args.mode == "qa":
        p.error("--drop-blind-solved has no meaning with --mode qa: its teacher sees no picture")
    if args.picture_kind and args.mode != "describe":
        p.error("--picture-kind is for --mode describe; leave it out")
    check_who(p, args)
    return args


def check_who(p: flags.Parser, args: argparse.Namespace) -> None:
    """Refuse flags of a server, a checkpoint or a model where none is named."""
    for end in ("model", "price"):
        if getattr(args, f"judge_{end}") and not teacher_flags.is_address(args.judge):
            p.error(f"--judge-{end} is for a server as judge: name it by --judge, or leave it out")
        if getattr(args, f"teacher_{end}") and args.teacher == "toy":
            p.error(f"--teacher-{end} is for a server, and --teacher toy is none; leave it out")
    models = [who for who in (args.teacher, args.judge) if who not in (None, "toy", "none")]
    teacher_flags.check_flags(p, args, models)
    if args.teacher == "toy":
        for name in ("temperature", "top_p"):
            if name in arguments.flags_given(args.argv):
                p.error(f"{flag(name)} is for a model as teacher, and toy is none; leave it out")


def add_data_flags(g: flags.Group) -> None:
    """What to distil, besides --data."""
    flags.add_max_train_samples(g)
    g.add_argument(
        "--picture-kind",
        choices=prompts.KINDS,
        help="describe: how all pictures are put into words; default: as the record's task or "
        "source says, else the teacher is asked",
    )
    g.add_argument("--seed", type=flags.int_from_0, default=0, help="of toy tasks and the sampling")


def add_stage_flags(g: flags.Group) -> None:
    """Which route, and which part of it."""
    g.add_common("--mode", choices=MODES, default="describe", help="how worked answers are made")
    g.add_common(
        "--stages",
        nargs="+",
        metavar="STAGE",
        help="the stages to run now, the others being finished or later; blind is one more; "
        "default: all of the mode but blind",
    )
    g.add_common(
        "--drop-blind-solved",
        action="store_true",
        help="ask each question without its picture first, and leave out what is answered right",
    )


def add_output_flags(g: flags.Group) -> None:
    """What is written, and where."""
    g.add_common(
        "--output-format",
        choices=formats.FORMATS,
        default="r1_onevision",
        help="of distilled.jsonl and rejected.jsonl; typing the command again with another writes "
        "them anew, and asks nobody",
    )
    g.add_argument(
        "--output-dir", required=True, help="where the records, the stages and pictures go"
    )
    g.add_argument(
        "--resume-from-checkpoint",
        action="store_true",
        help="go on with the replies in --output-dir, as happens without this flag too",
    )


# --- what is distilled ---


def read_examples(args: argparse.Namespace, bad: BadRecords) -> dict[str, Example]:
    """Read the questions, or the documents of --mode qa, by id.

    UserError for a record without a gold answer, or without a picture where the mode needs one.
    """
    number = args.max_train_samples
    if args.mode == "qa":
        found = documents.read(args.data, number, args.seed, args.level, bad)
        return {example.id: example for example in found}
    names = ("level", "box_format")
    reading = {name: getattr(args, name) for name in names} | {"bad": bad}
    found = tasks.read(args.data, args.seed, teacher="fallible", training=True, **reading)
    if data.is_endless(found):
        number = number or 1024

    def check(answer: str, choices: list | None, meta: dict) -> None:
        rewards.check_gold(answer, choices, meta)

    examples = data.check_golds(data.head(found, number), check, bad)
    if MODES[args.mode].sees:
        examples = bad.usable(examples, must_have_picture)
    if args.output_format != "nanovlr":
        examples = bad.usable(examples, must_ask_for_no_boxes)
    return {example.id: example for example in examples}


def must_have_picture(example: Example) -> None:
    """Refuse a question without a picture."""
    if not example.images:
        raise UserError(
            f"{example.source}: no picture to put into words; use --mode direct or hindsight, or "
            "add --skip-bad-records"
        )


def must_ask_for_no_boxes(example: Example) -> None:
    """Refuse boxes where the format has no place for them."""
    if "boxes" in example.meta:
        raise UserError(
            f"{example.source}: it asks for boxes, which only --output-format nanovlr can hold; "
            "add it"
        )


def same_run(args: argparse.Namespace, out: Path) -> None:
    """Refuse a directory whose stages were made of other data or in another way. UserError."""
    was = read_args(out, ours=True)
    for name in DECIDING if was else ():
        now, before = getattr(args, name), was.get(name)
        if now != before and not arguments.same_place(now, before, was.get("cwd")):
            raise UserError(
                f"{flag(name)} was {before} when {out} was made and is {now} now; give it as it "
                "was, or name another --output-dir"
            )


def stages_of(args: argparse.Namespace) -> list[str]:
    """List the stages to run, in order: kind before describe, blind before all."""
    named = set(args.stages or MODES[args.mode].stages)
    if args.drop_blind_solved:
        named.add("blind")
    if "describe" in named:
        named.add("kind")
    return [name for name in ("blind", *MODES[args.mode].stages) if name in named]


# --- who answers ---


def make_teacher(
    args: argparse.Namespace, names: list[str], examples: dict[str, Example]
) -> object:
    """Make the teacher; `toy` knows the scenes of toy sets. None if no stage of `names` asks it."""
    if all(STAGES[name].by == "judge" for name in names):
        return None
    if args.teacher != "toy":
        return teachers.make_teacher(args)
    toy_teacher.must_be_toy(examples.values(), args.data)
    return toy_teacher.ToyTeacher(examples)


def make_judge(args: argparse.Namespace, examples: dict[str, Example], teacher: object) -> object:
    """Make the judge; None if the rules alone decide."""
    if args.judge == "none":
        return None
    if args.judge == "toy" or args.judge is None and args.teacher == "toy":
        toy_teacher.must_be_toy(examples.values(), args.data)
        return toy_teacher.ToyTeacher(examples)
    like = None if args.teacher == "toy" else teacher
    return teachers.make_teacher(args, "judge", like)


def must_see(teacher: object, names: Iterable[str], who: str) -> None:
    """Refuse a teacher of text where a stage shows pictures, before any is asked. UserError."""
    shown = [name for name in names if STAGES[name].shows]
    if shown and isinstance(teacher, teachers.TextTeacher):
        raise UserError(
            f"{who} {teacher.name} reads text only, and stage {shown[0]} shows the picture; name "
            "a vision-language model, or run the stages one by one: --stages"
        )


# --- main ---


def main(args: argparse.Namespace) -> None:
    # --- setup: everything that can be wrong is found out before the first request ---
    out = Path(args.output_dir)
    disk.make_writable(out)
    rundir.refuse_anothers(out, args)
    same_run(args, out)
    template_of(args.prompt_template)
    images.limit_image_pixels(args.max_image_pixels)
    bad = BadRecords(args.skip_bad_records)
    examples = read_examples(args, bad)
    bad.report(out)
    names = stages_of(args)
    folder = out / "stages"
    settings = stages.Settings(args.picture_kind, args.prompt_template, args.mode)
    estimates.announce(args, names, examples, settings)
    teacher = make_teacher(args, names, examples)
    judge = make_judge(args, examples, teacher) if "judge" in names else None
    must_see(teacher, [name for name in names if STAGES[name].by == "teacher"], "--teacher")
    must_see(judge, ["judge"], "--judge")
    folder.mkdir(exist_ok=True)
    write_args(out, args)
    said = outputs.said_before(folder, args.mode, names, examples)

    # --- the stages, one after the other ---
    wanted = dict(examples)
    for name in names:
        answering = judge if STAGES[name].by == "judge" else teacher
        if answering is None:  # --judge none
            continue
        requests = asking.requests_of(name, wanted, said, settings)
        path = folder / f"{name}.jsonl"
        lines = asking.run_stage(path, name, answering, wanted, requests, args.seed)
        outputs.add(said, name, lines)
        print(outputs.summary(name, lines))
        if name == "blind" and args.drop_blind_solved:
            wanted = outputs.not_solved_blind(wanted, said)
            print(f"{len(examples) - len(wanted)} questions are left out: solved blind")

    # --- the end: records of what is kept, and of what is not ---
    last = names[-1]
    *_, end = MODES[args.mode].stages
    if last != end:
        print(f"{last} is finished; the next stages: {' '.join(stages_after(args.mode, last))}")
        return
    write = functools.partial(outputs.write_pictures, out / "images")
    if args.mode == "qa":
        found = outputs.pair_records(args.output_format, examples, said, write)
    else:
        found = outputs.trace_records(
            args.output_format,
            examples,
            said,
            args.mode,
            judge is not None,
            args.drop_blind_solved,
            write,
        )
    outputs.publish(out, found, len(examples), said)
    print(outputs.shown(found))
    print(f"{out}/distilled.jsonl has {len(found.kept)} records; {found.in_words()}")


def stages_after(mode: str, name: str) -> list[str]:
    """List the stages of a mode after one of them, or all after `blind`."""
    order = ["blind", *MODES[mode].stages]
    return [later for later in order[order.index(name) + 1 :] if later != "kind"]


if __name__ == "__main__":
    running.run(main, parse_args)
