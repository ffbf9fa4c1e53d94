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

A published protocol (tasks/protocols.py) asks and scores as that benchmark does: by our rule and,
where it is known, by the original's, bugs included (accuracy_original). It also scores saved
outputs, one {"prediction": text, "answer": gold, ...} a line, without a model:

    python evaluate.py --model Qwen/Qwen2-VL-2B-Instruct --data geoqa.jsonl --protocol geoqa \\
        --output-dir runs/geoqa
    python evaluate.py --predictions outputs.jsonl --protocol geoqa --output-dir runs/rescored
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import argparse
from functools import partial
from pathlib import Path

from tqdm import tqdm

import rewards
import tasks
from evaluating import asking, keeping, options, reporting, scoring
from grading import metrics
from plumbing import disk, flags, plots, report, rundir, running, stopping
from plumbing.arguments import flags_given, label_of, read_args, write_args
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.records import Lines
from tasks import folders, kept, protocols
from tasks.predictions import read_predictions


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exit with code 2 for flags that do not fit together."""
    p = flags.Parser(__doc__, "evaluate.py")
    flags.add_model_flags(p)
    flags.add_data_flags(p)
    options.add_rollout_flags(p.add_argument_group("rollout"))
    options.add_evaluation_flags(p.add_argument_group("evaluation"))
    g = p.add_argument_group("output")
    g.add_argument(
        "--output-dir", required=True, help="where result.json, predictions.jsonl and pictures go"
    )
    g.add_argument(
        "--resume-from-checkpoint",
        nargs="?",
        const="newest",
        metavar="DIR",
        help="keep the answers already in --output-dir and ask the rest",
    )
    given = flags_given(argv)
    if "predictions" in given:
        p.do_without("model", "data")
    args = p.parse_args(argv)
    args.num_samples = sorted(set(args.num_samples or [0]))
    options.check_flags(p, args, given)
    return args


def rescore(pairs: list, protocol: str, path: str, out: Path) -> None:
    """Score saved outputs, (completion, example) pairs of the file `path`, without a model."""
    progress = partial(tqdm, desc="score", unit="record")
    result, rows = protocols.score(pairs, protocol, progress)
    disk.write_lines(out / "predictions.jsonl", rows)
    reporting.print_report(out, result | {"predictions": path}, rows)
    report.write(out)


def main(args: argparse.Namespace) -> None:
    out, written = Path(args.output_dir), Path(args.output_dir) / "predictions.jsonl"
    if args.predictions is not None:  # what can be refused is, before anything is written
        path = Path(args.predictions)
        pairs = protocols.to_examples(read_predictions(path), args.protocol, args.box_format)
        keeping.check_no_training_run(out)
        rundir.refuse_anothers(out, args)
        if written.exists() and path.resolve() == written.resolve():
            raise UserError(
                f"--predictions {path} would be overwritten with the scores; "
                "name another --output-dir"
            )
        disk.make_writable(out)
        write_args(out, args)
        rescore(pairs, args.protocol, args.predictions, out)
        return

    import data
    import lengths
    import model as modeling
    import rollout
    from plumbing import loading

    # 1. what is asked; everything that can be wrong is found out before the first question
    disk.make_writable(out)
    keeping.check_no_training_run(out)
    rundir.refuse_anothers(out, args)
    if args.protocol and not args.prompt_template:
        args.prompt_template = protocols.PROTOCOLS[args.protocol].template
    vars(args).update(data.ask_as_trained(args))
    bad = BadRecords(args.skip_bad_records)
    found = tasks.read(args.data, **data.reading(args, bad))
    examples = data.head(found, args.max_eval_samples)
    if isinstance(found, list) and len(found) > len(examples):
        print(
            f"asking the first {len(examples)} of {len(found)} questions; "
            f"--max-eval-samples {len(found)} asks them all"
        )
    examples = data.check_golds(examples, rewards.check_gold, bad)
    if args.protocol:  # refused now, not after the model is loaded
        protocols.judged(examples, args.protocol)
    N = args.num_samples[-1]
    sizes = [n for n in args.num_samples if n]
    if len(sizes) < 2:
        sizes = range(1, N + 1)
    select_sizes = [n for n in sizes if n > 1] if args.self_select else []
    [name] = folders.short_names([args.data]).values()

    # 2. the model
    vars(args).update(modeling.resolve(args, needs_training="its answers would be noise"))
    policy, processor = modeling.load_from_args(args)
    args.num_workers = loading.workers(args.num_workers, data.is_toy(args.data), policy.device)
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    examples = lengths.fitting(asker, examples, args.max_completion_length, bad=bad)
    bad.report(out)
    as_judged = protocols.judged(examples, args.protocol) if args.protocol else examples
    if args.self_select:
        lengths.check_selections_fit(examples, asker, args.max_completion_length, N)

    # 3. what is answered already
    is_kept, resume = written.exists(), args.resume_from_checkpoint is not None
    if is_kept and not resume:
        raise UserError(
            f"{written} holds the answers of an evaluation; add --resume-from-checkpoint to go on "
            "with it, name another --output-dir, or delete the file to start over"
        )
    if resume and not is_kept:
        print(f"no answers in {out} yet: starting from the beginning")
    before = read_args(out, ours=True) if is_kept else {}
    args.run, args.model_files = before.get("run"), keeping.model_files(args.model)
    label = label_of(args, written)
    if is_kept:
        deciding = {name: getattr(args, name) for name in keeping.DECIDING}
        keeping.check_kept(written, label, before, deciding, [e.id for e in examples])
    write_args(out, args)
    batch_size = args.eval_batch_size
    step = max(1, batch_size // max(1, N))
    saved = Lines(written, label, step, len(examples), fresh=not is_kept)
    answers = len(examples) * (1 + N) * (4 * args.max_completion_length + 500)
    disk.announce(out, {"answers": answers, "pictures": 500_000})
    print(
        f"model: {modeling.describe(policy)}; prompt template {args.prompt_template}"
        + (f"; protocol {args.protocol}" if args.protocol else "")
    )
    print(
        f"asking {len(examples)} questions of {args.data}: greedily"
        + (f", and {N} samples each at temperature {args.temperature}" if N else "")
        + ("; which is right, it is asked again" if args.self_select else "")
        + (f"; {len(saved.lines)} are answered already" if saved.lines else "")
    )

    # 4. ask, a batch at a time; every finished batch is on disk
    questions = out / "samples" / "questions_answers.jsonl"
    pictured = tqdm(examples[: kept.MOST_EVALUATED], desc="keep small pictures", leave=False)
    kept.keep_questions(questions, pictured)
    done = len(saved.lines)
    ahead = rollout.prompts_ahead(asker, examples, sampling, step, args.num_workers, done)

    def answer(first: int, end: int) -> list[dict]:
        batch = slice(first, end)
        answers = asking.ask_batch(
            policy, asker, examples[batch], sampling, N, select_sizes, batch_size, args.seed, first,
            next(batches), args.num_workers,
        )  # fmt: skip
        columns = zip(examples[batch], as_judged[batch], answers)
        return [scoring.row_of(*column, args.protocol) for column in columns]

    with ahead as batches:
        answered = saved.fill(answer, "evaluate")

    # 5. count
    result = rewards.summary([r["prediction"] for r in answered], as_judged)
    if args.protocol:
        result |= protocols.totals(answered, args.protocol)
    mean_length = metrics.mean([r["tokens"] for r in answered])
    result |= {"data": name, "model": args.model, "mean_length": mean_length}
    print(
        f"Test@1 (greedy): accuracy {result['accuracy']:.3f}, 95 % interval "
        f"{result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}, n {result['n']}; "
        f"of readable answers {result['accuracy_parsed']:.3f}; "
        f"format {result['format_rate']:.3f}; {result['parse_failures']} could not be read"
        + (f"; mean IoU {result['iou']:.3f}" if "iou" in result else "")
    )
    if args.protocol:
        reporting.print_report(out, result, answered)
    curve = [
        scoring.sampled_scores(answered, as_judged, n, args.protocol)
        | {"greedy": result["accuracy"]}
        for n in sizes
    ]
    if curve:
        result |= reporting.curve_figures(curve, N)
        print(f"with k of the {N} samples: the first k; for pass any k, estimated from all {N}")
        for point in curve:
            reporting.print_point(point)
        disk.write_lines(out / "scaling.jsonl", curve)
        plots.plot_scaling(curve, result, out / "curve.png", f"{args.model}, {name}")
    disk.write_json(out / "result.json", result)

    # 6. draw: four wrong answers if there are any, then the first four
    wrong_first = sorted(range(len(answered)), key=lambda i: (answered[i]["accuracy"], i))
    shown = min(select_sizes, key=lambda n: abs(n - 3)) if args.self_select else 2
    rows = [
        reporting.sheet_row(examples[i], as_judged[i], answered[i], shown, args.protocol)
        for i in [*wrong_first[:4], *range(min(4, len(answered)))]
    ]
    title = f"{args.model} on {name}: four wrong answers if there are any, then the first four"
    plots.plot_samples(rows, out / "samples" / "answers.png", title)
    report.write(out)
    print(
        f"{out}/result.json has the figures, {written} every answer, "
        f"{out}/samples/answers.png some of them beside their pictures, {out}/report.html all"
    )


if __name__ == "__main__":
    running.run(main, parse_args)
