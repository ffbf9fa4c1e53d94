"""Evaluate: greedy Test@1 and, from N samples a question, majority@N, self-select@N and pass@N.

    python evaluate.py --model runs/grpo --data count:test --num-samples 8 --output-dir runs/eval
    python evaluate.py --model runs/r3v --data geometry:test --num-samples 1 2 3 4 6 8 10 \\
        --self-select --output-dir runs/eval

What is counted (grading/metrics.py), with intervals of 95 %:
    accuracy        greedy answers that are right, of all n. What cannot be read is wrong.
    accuracy_parsed the same, of the answers that could be read: tells reasoning from format.
    majority@k      the commonest readable answer of the first k samples is right.
    self_select@k   the model is shown the first k samples and asked, greedily, for the final
                    answer (R3V, arXiv:2411.00855). If it names none of theirs, the majority's
                    counts instead, and how often is counted. R3V scores any answer.
    pass@k          the chance that one of k samples is right, from all N (arXiv:2107.03374).
Intervals are Wilson's, of n questions (for means over samples that is on the safe side); that of
self-select's gain over the majority is a paired bootstrap's. Questions are put as in the
checkpoint's training run (its args.json).

The same questions are asked once more, greedily, in each of the other ways that flags name, and
compared question by question with the accuracy above (docs/evaluation.md says what each tells):

    python evaluate.py --model runs/grpo --data count:test --templates r1v direct --blind --swap \\
        --consistency --output-dir runs/trust
    python evaluate.py --model runs/sft --data choices.jsonl --shuffle-choices 3 \\
        --choices-by likelihood --output-dir runs/options

A published protocol (tasks/protocols.py) asks and scores as that benchmark does: by our rule and,
where it is known, by the original's, bugs included (accuracy_original). It also scores saved
outputs, one {"prediction": text, "answer": gold, ...} a line, without a model:

    python evaluate.py --model Qwen/Qwen2-VL-2B-Instruct --data geoqa.jsonl --protocol geoqa \\
        --output-dir runs/geoqa
    python evaluate.py --predictions outputs.jsonl --protocol geoqa --output-dir runs/rescored

--judge has a language model rate open answers by LAVE (arXiv:2310.02567), beside these scores.
Two evaluations of the same questions are compared question by question (evaluating/comparing.py):

    python evaluate.py --compare runs/eval_before runs/eval_after
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

import rewards
import tasks
from evaluating import comparing, figures, judging, keeping, options, reporting, scoring
from grading import metrics
from plumbing import disk, flags, plots, report, rundir, running, stopping
from plumbing.arguments import flags_given, label_of, write_args
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.records import Lines, write_lines
from tasks import folders, kept, protocols
from tasks.example import Example
from tasks.predictions import read_predictions
from tasks.prompts import template_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exit with code 2 for flags that do not fit together."""
    p = flags.Parser(__doc__, "evaluate.py", "evaluation.md")
    flags.add_model_flags(p)
    flags.add_data_flags(p)
    options.add_rollout_flags(p.add_argument_group("rollout"))
    options.add_evaluation_flags(p.add_argument_group("evaluation"))
    options.add_trust_flags(p.add_argument_group("the same questions in other ways"))
    options.add_judge_flags(p)
    g = p.add_argument_group("output")
    g.add_argument(
        "--output-dir", required=True, help="where result.json, predictions.jsonl and pictures go"
    )
    g.add_common(
        "--resume-from-checkpoint",
        nargs="?",
        const="newest",
        metavar="DIR",
        help="keep the answers already in --output-dir and ask the rest",
    )
    given = flags_given(argv)
    if "predictions" in given:
        p.do_without("model", "data")
    if "compare" in given:
        p.do_without("model", "data", "output_dir")
    args = p.parse_args(argv)
    args.num_samples = sorted(set(args.num_samples or [0]))
    options.check_flags(p, args, given)
    if args.templates:
        args.prompt_template = args.templates[0]
    if args.compare:
        args.output_dir = args.output_dir or comparing.place_of(*args.compare)
    return args


def rescore(args: argparse.Namespace) -> None:
    """Score saved outputs without a model. What can be refused is, before anything is written."""
    out, path = Path(args.output_dir), Path(args.predictions)
    pairs = protocols.to_examples(read_predictions(path), args.protocol, args.box_format)
    keeping.check_no_training_run(out)
    rundir.refuse_anothers(out, args)
    written = out / "predictions.jsonl"
    if written.exists() and path.resolve() == written.resolve():
        raise UserError(
            f"--predictions {path} would be overwritten with the scores; name another --output-dir"
        )
    disk.make_writable(out)
    examples = [example for _, example in pairs]
    judge = judging.make_judge(args, examples)
    write_args(out, args)
    progress = partial(tqdm, desc="score", unit="record")
    result, rows = protocols.score(pairs, args.protocol, progress)
    rows = [row | scoring.picture_named(example.meta) for row, (_, example) in zip(rows, pairs)]
    disk.write_lines(written, rows)
    result["predictions"] = args.predictions
    reporting.print_report(out, result, rows)
    write = partial(disk.write_lines, written)
    judging.judge_all(judge, out, rows, examples, args.protocol, result, write)
    report.write(out)


def read_questions(args: argparse.Namespace, bad: BadRecords) -> list[Example]:
    """Read the questions to ask. UserError for what cannot be asked or scored, now."""
    import data

    found = tasks.read(args.data, **data.reading(args, bad))
    examples = data.head(found, args.max_eval_samples)
    if isinstance(found, list) and len(found) > len(examples):
        print(
            f"asking the first {len(examples)} of {len(found)} questions; "
            f"--max-eval-samples {len(found)} asks them all"
        )
    examples = data.check_golds(examples, rewards.check_gold, bad)
    protocols.judged(examples, args.protocol)
    return examples


def points_of(num_samples: list[int]) -> Sequence[int]:
    """List the points of the curves, in numbers of samples: those named, or 1 to the only one."""
    named = [n for n in num_samples if n]
    return named if len(named) > 1 else range(1, num_samples[-1] + 1)


def count(
    args: argparse.Namespace,
    rows: list[dict],
    as_judged: list[Example],
    points: Sequence[int],
    name: str,
) -> dict:
    """Count, print and write all figures.

    rows: of predictions.jsonl. as_judged: what they are scored by. name: of the set.
    Returns what result.json says.
    """
    out = Path(args.output_dir)
    read = [scoring.as_read(row, args.protocol)["prediction"] for row in rows]
    result = rewards.summary(read, as_judged)
    if args.protocol:
        result |= protocols.totals(rows, args.protocol)
    mean_length = metrics.mean([row["tokens"] for row in rows])
    result |= {"data": name, "model": args.model, "mean_length": mean_length}
    reporting.print_greedy(result)
    if args.protocol:
        reporting.print_report(out, result, rows)
    result |= figures.of_ways(rows, args.protocol)
    reporting.print_ways(result)
    if points:
        result |= count_samples(args, rows, as_judged, points, result)
    disk.write_json(out / "result.json", result)
    return result


def count_samples(
    args: argparse.Namespace,
    rows: list[dict],
    as_judged: list[Example],
    points: Sequence[int],
    greedy: dict,
) -> dict:
    """Count, print, write and draw the curves over the number of samples.

    greedy: the figures so far. Returns those to add.
    """
    out, N = Path(args.output_dir), args.num_samples[-1]
    curve = []
    for n in points:
        point = scoring.sampled_scores(rows, as_judged, n, args.protocol)
        curve.append(point | {"greedy": greedy["accuracy"]})
    print(f"with k of the {N} samples: the first k; for pass any k, estimated from all {N}")
    for point in curve:
        reporting.print_point(point)
    more = reporting.curve_figures(curve, N)
    disk.write_lines(out / "scaling.jsonl", curve)
    title = f"{args.model}, {greedy['data']}"
    plots.plot_scaling(curve, greedy | more, out / "curve.png", title)
    return more


def draw(
    args: argparse.Namespace,
    examples: list[Example],
    as_judged: list[Example],
    rows: list[dict],
    select_sizes: list[int],
    name: str,
) -> None:
    """Draw some answers beside their pictures, and write the page."""
    out = Path(args.output_dir)
    wrong_first = sorted(range(len(rows)), key=lambda i: (rows[i]["accuracy"], i))
    places = [*wrong_first[:4], *range(min(4, len(rows)))]
    shown = min(select_sizes, key=lambda n: abs(n - 3), default=2)
    sheet = [
        reporting.sheet_row(examples[i], as_judged[i], rows[i], shown, args.protocol)
        for i in places
    ]
    title = f"{args.model} on {name}: four wrong answers if there are any, then the first four"
    plots.plot_samples(sheet, out / "samples" / "answers.png", title)
    report.write(out)
    print(
        f"{out}/result.json has the figures, {out}/predictions.jsonl every answer, "
        f"{out}/samples/answers.png some of them beside their pictures, {out}/report.html all"
    )


def main(args: argparse.Namespace) -> None:
    out = Path(args.output_dir)
    if args.compare:
        comparing.compare(args.compare, out)
        return
    if args.predictions is not None:
        rescore(args)
        return

    import data
    import lengths
    import model as modeling
    import rollout
    from evaluating import asking, ways
    from plumbing import loading

    # 1. what is asked; everything that can be wrong is found out before the first question
    disk.make_writable(out)
    keeping.check_no_training_run(out)
    rundir.refuse_anothers(out, args)
    if args.protocol and not args.prompt_template:
        args.prompt_template = protocols.PROTOCOLS[args.protocol].template
    vars(args).update(data.ask_as_trained(args))
    for template in args.templates or ():
        template_of(template)
    bad = BadRecords(args.skip_bad_records)
    examples = read_questions(args, bad)
    [name] = folders.short_names([args.data]).values()
    points = points_of(args.num_samples)
    N = args.num_samples[-1]
    select_sizes = [n for n in points if n > 1 and args.self_select]

    # 2. the model, and whether all that it is asked fits
    vars(args).update(modeling.resolve(args, needs_training="its answers would be noise"))
    policy, processor = modeling.load_from_args(args)
    args.num_workers = loading.workers(args.num_workers, data.is_toy(args.data), policy.device)
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    room = args.max_completion_length
    sampling = rollout.Sampling(room, args.temperature, args.top_p, args.top_k)
    examples = lengths.fitting(asker, examples, room, bad=bad)
    bad.report(out)
    as_judged = protocols.judged(examples, args.protocol)
    questions, other_ways = ways.as_flags_say(examples, args)
    asked, bare = questions.put(examples), questions.bare()
    judge = judging.make_judge(args, as_judged)
    ways.must_fit(asker, questions, asked, other_ways, room)
    if select_sizes:
        lengths.check_selections_fit(asked, asker, room, N)

    # 3. what is answered already
    written = out / "predictions.jsonl"
    before = keeping.flags_of_kept(written, args.resume_from_checkpoint is not None)
    args.run = before.get("run")
    args.model_files = keeping.model_files(args.model)
    label = label_of(args, written)
    is_kept = written.exists()
    if is_kept:
        keeping.check_kept(written, label, before, args, [e.id for e in examples])
    write_args(out, args)
    step = max(1, args.eval_batch_size // max(1, N))
    saved = Lines(written, label, step, len(examples), fresh=not is_kept)
    done = len(saved.lines)
    answers = len(examples) * (1 + N + len(other_ways))
    disk.announce(out, {"answers": answers * (4 * room + 500), "pictures": 500_000})
    reporting.announce(
        modeling.describe(policy), args.data, args.prompt_template, args.protocol, len(examples), N,
        args.temperature, args.self_select, [way.name for way in other_ways], done,
    )  # fmt: skip

    # 4. ask, a batch at a time; every finished batch is on disk
    pictured = tqdm(examples[: kept.MOST_EVALUATED], desc="keep small pictures", leave=False)
    kept.keep_questions(out / "samples" / "questions_answers.jsonl", pictured)
    interview = asking.Interview(
        policy, asker, asked, other_ways, sampling, N, select_sizes,
        args.choices_by == "likelihood", args.eval_batch_size, args.seed, args.num_workers,
    )  # fmt: skip

    def answer(first: int, end: int) -> list[dict]:
        rows = []
        for i, said in enumerate(interview.answers(first, end, batches), first):
            row = scoring.row_of(examples[i], as_judged[i], said, args.protocol, bare[i])
            scoring.add_ways(row, other_ways, i, as_judged[i], said, args.protocol)
            rows.append(row | questions.shown_before(i))
        return rows

    with interview.prompts_ahead(step, done) as batches:
        rows = saved.fill(answer, "evaluate")

    # 5. count, and let the judge rate
    result = count(args, rows, as_judged, points, name)
    write = partial(write_lines, written, label=label)
    judging.judge_all(judge, out, rows, as_judged, args.protocol, result, write)

    # 6. draw four wrong answers if there are any, then the first four
    draw(args, examples, as_judged, rows, select_sizes, name)


if __name__ == "__main__":
    running.run(main, parse_args)
