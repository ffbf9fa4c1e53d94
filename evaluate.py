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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

import rewards
import tasks
from grading import metrics
from plumbing import disk, flags, plots, report, rundir, running, stopping, sums
from plumbing.arguments import flag, flags_given, label_of, read_args, write_args
from plumbing.bad_records import BadRecords
from plumbing.errors import UserError
from plumbing.records import Lines, checksum, good_lines
from tasks import folders, kept, protocols, sheets
from tasks.example import Example
from tasks.predictions import read_predictions

if TYPE_CHECKING:
    import torch

    from data import Asker, Prompt
    from rollout import Sampling

# Flags that answers depend on: kept answers are gone on with only where these are the same.
DECIDING = (
    "model model_files data level num_samples self_select temperature top_p top_k seed "
    "prompt_template system_prompt max_completion_length protocol box_format max_pixels "
    "min_pixels quant dtype"
).split()
WITH_PREDICTIONS = {"predictions", "protocol", "output_dir", "box_format"}


# --- flags ---


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exit with code 2 for flags that do not fit together."""
    p = flags.Parser(__doc__, "evaluate.py", "evaluation.md")
    flags.add_model_flags(p)
    flags.add_data_flags(p)
    add_rollout_flags(p.add_argument_group("rollout"))
    add_evaluation_flags(p.add_argument_group("evaluation"))
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
    args = p.parse_args(argv)
    args.num_samples = sorted(set(args.num_samples or [0]))
    check_flags(p, args, given)
    return args


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
    g.add_common(
        "--max-completion-length",
        type=flags.int_from_1,
        default=512,
        help="tokens of a completion at most",
    )
    g.add_common(
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
    g.add_common("--seed", type=flags.int_from_0, default=0, help="of the sampling")


def add_evaluation_flags(g: flags.Group) -> None:
    g.add_common("--max-eval-samples", type=flags.int_from_1, default=512, help="questions to ask")
    g.add_common(
        "--eval-batch-size", type=flags.int_from_1, default=16, help="answers generated at a time"
    )
    g.add_common(
        "--protocol",
        choices=sorted(protocols.PROTOCOLS),
        help="ask (unless --prompt-template says otherwise) and score as this benchmark's "
        "published evaluation does, by our rule and by the original one",
    )
    g.add_common(
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


# --- what is asked, and how it is judged ---


def judge_of(protocol: str | None) -> tuple[metrics.Read, Callable]:
    """Return how answers are read and scored: read(text), right(text, example)."""
    right = protocols.PROTOCOLS[protocol].score if protocol else rewards.accuracy
    return protocols.reader(protocol), right


def selection(record: dict, n: int, protocol: str | None = None) -> str:
    """Return what self-select answered about the first n samples; of one, that one.

    Where answers stand on a line, a bare one will do, as in R3V's targets for ChartQA.
    """
    text = record["selections"].get(str(n), record["samples"][0])
    return protocols.on_a_line(text, protocol) if n > 1 else text


def sampled_scores(
    records: Sequence[dict], examples: Sequence, n: int, protocol: str | None = None
) -> dict:
    """Count one point of the curves: metrics.sampled_scores, read and scored by the protocol."""
    read, right = judge_of(protocol)
    selections = None
    if "selections" in records[0]:
        selections = [selection(record, n, protocol) for record in records]
    return metrics.sampled_scores(records, examples, n, read, right, selections)


def model_files(name: str) -> str | None:
    """Tell the model in a directory from a later one there, by a checksum."""
    saved = Path(name) / sums.SUMS
    return checksum({"sums": saved.read_text(encoding="utf-8")}) if saved.is_file() else None


# --- asking ---


def ask_batch(
    policy: "torch.nn.Module",
    asker: "Asker",
    examples: list[Example],
    sampling: "Sampling",
    N: int,
    sizes: list[int],
    batch_size: int,
    seed: int,
    first: int,
    prompts: "list[Prompt]",
    num_workers: int,
) -> list[dict]:
    """Ask some questions greedily and N times more, and at each size which sample is right.

    first: the number of questions before these, from which the samples' random draws follow.
    prompts: these questions', encoded. num_workers: prepare those of the selections.
    Returns each question's prediction, prompt_tokens, tokens, samples, sample_tokens and, by size,
    selections and selection_tokens (those of the prompt and of the answer).
    """
    import rollout

    greedy = rollout.Sampling(sampling.max_tokens, temperature=0)
    ask = partial(rollout.answer_all, policy, asker, examples, batch_size=batch_size)
    texts, lengths, _ = ask(greedy, batches=iter([prompts]))
    answers = [
        {
            "prediction": text,
            "prompt_tokens": len(prompt.ids),
            "tokens": tokens,
            "samples": [],
            "sample_tokens": [],
        }
        for text, prompt, tokens in zip(texts, prompts, lengths)
    ]
    if not N:
        return answers
    texts, lengths, _ = ask(sampling, N, seed=seed, first_row=first * N, batches=iter([prompts]))
    for i, answer in enumerate(answers):
        answer["samples"] = texts[i * N : (i + 1) * N]
        answer["sample_tokens"] = lengths[i * N : (i + 1) * N]
    if not sizes:
        return answers
    pairs = [(i, n) for i in range(len(examples)) for n in sizes]
    again = [examples[i] for i, _ in pairs]
    shown = [answers[i]["samples"][:n] for i, n in pairs]
    texts, lengths, prompt_lengths = rollout.self_select(
        policy, asker, again, shown, greedy, batch_size=batch_size, num_workers=num_workers
    )
    for (i, n), text, *tokens in zip(pairs, texts, prompt_lengths, lengths):
        answers[i].setdefault("selections", {})[str(n)] = text
        answers[i].setdefault("selection_tokens", {})[str(n)] = tokens
    return answers


def row_of(example: Example, as_judged: Example, answer: dict, protocol: str | None) -> dict:
    """Make a question's line of predictions.jsonl: what was answered, and what that scores."""
    _, right = judge_of(protocol)
    text = answer["prediction"]
    row = {"id": example.id} | example.asked()
    row |= {
        "answer": example.answer,
        "choices": example.choices,
        "prediction": text,
    }
    if protocol:
        row |= protocols.score_one(text, as_judged, protocol)
    else:
        row |= rewards.marks(text, example)
    row |= {
        "prompt_tokens": answer["prompt_tokens"],
        "tokens": answer["tokens"],
        "samples": answer["samples"],
        "right": [right(sample, as_judged) for sample in answer["samples"]],
        "sample_tokens": answer["sample_tokens"],
    }
    for name in ("selections", "selection_tokens"):
        if name in answer:
            row[name] = answer[name]
    return row


# --- reporting ---


def print_report(out: Path, result: dict, rows: list[dict]) -> None:
    """Write result.json and disagreements.jsonl of a protocol, and print what they say."""
    disk.write_json(out / "result.json", result)
    remarks = ""
    if result["undecided"]:
        remarks += f"; {result['undecided']} with numbers too large to compare"
    if "box_format" in result:
        remarks += f"; predicted boxes in {result['box_format']}"
    print(f"{result['protocol']}: n {result['n']}")
    print(
        f"  {'accuracy, ours':<24}{result['accuracy']:.4f}   95 % interval "
        f"{result['accuracy_low']:.4f} to {result['accuracy_high']:.4f}; "
        f"{result['parse_failures']} could not be read, of the others "
        f"{result['accuracy_parsed']:.4f}{remarks}"
    )
    for name in ("mean_iou", "mAP", "AP50", "cvbench", "cvbench_2d", "cvbench_3d"):
        if name in result:
            print(f"  {name:<24}{result[name]:.4f}")
    for name, parts in result.get("by", {}).items():
        if len(parts) <= 12:
            figures = [f"{key} {part['accuracy']:.4f} ({part['n']})" for key, part in parts.items()]
            print(f"  by {name + ':':<21}" + "  ".join(figures))
    differ = protocols.disagreements(rows)
    disk.write_lines(out / "disagreements.jsonl", differ)
    if "accuracy_original" in result:
        late = result["original_timeouts"]
        print(
            f"  {'accuracy, original':<24}{result['accuracy_original']:.4f}   {result['original']}"
            + (f"; {late} ran out of time" if late else "")
        )
        print(f"  {'they differ on':<24}{len(differ)} records: {out}/disagreements.jsonl")
    for row in differ[:3]:
        end = " ".join(row["prediction"].split())[-120:]
        print(
            f"    gold {row['answer']!r}, read {row['extracted']!r}: ours {row['accuracy']:g}, "
            f"original {row['accuracy_original']:g}; text ends {end!r}"
        )


def print_point(point: dict) -> None:
    """Print the line of one point of the curves."""
    selected = gain = ""
    if "self_select@k" in point:
        selected = f"self-select {point['self_select@k']:.3f}, "
    if "self_select_gain" in point:
        gain = (
            f"; self-select over majority {point['self_select_gain']:+.3f}, 95 % interval "
            f"{point['self_select_gain_low']:+.3f} to {point['self_select_gain_high']:+.3f}; "
            f"{point['self_select_fell_back']:.1%} of the selections fell back on the majority"
        )
    print(
        f"  k = {point['step']}: one alone is right {point['mean_sample_accuracy']:.3f}, "
        f"majority {point['majority@k']:.3f}, {selected}pass {point['pass@k']:.3f}{gain}"
    )


def curve_figures(curve: list[dict], N: int) -> dict:
    """Return what result.json says of the curves: their last point by name, and all points."""
    last, figures = curve[-1], {}
    for name in ("majority", "pass", "self_select"):
        if f"{name}@k" in last:
            for end in ("", "_low", "_high"):
                figures[f"{name}@{N}{end}"] = last[f"{name}@k{end}"]
    return figures | {"mean_sample_accuracy": last["mean_sample_accuracy"], "scaling": curve}


def sheet_row(
    example: Example, as_judged: Example, record: dict, shown: int, protocol: str | None
) -> dict:
    """Make one question's row of samples/answers.png, with the first `shown` samples."""
    read, right = judge_of(protocol)
    samples = record["samples"][:shown]
    completions = [(f"greedy: {record['prediction']}", {"accuracy": record["accuracy"]})]
    completions += [(s, {"accuracy": mark}) for s, mark in zip(samples, record["right"])]
    if "selections" in record:
        text = selection(record, shown, protocol)
        answer, how = metrics.select(text, samples, record["choices"], read)
        [mark] = metrics.answer_scores([answer], [as_judged], right)
        instead = ", the majority in its place" if how == "majority" else ""
        whole = f"self-select among these {shown}{instead}: {record['selections'][str(shown)]}"
        completions.append((whole, {"accuracy": mark}))
    return sheets.sheet_row(example, completions, [record["prediction"], *samples])


# --- the two commands ---


def check_no_training_run(out: Path) -> None:
    """UserError if a directory holds a training run: its result and curve would be overwritten."""
    if (out / "metrics.jsonl").is_file():
        raise UserError(
            f"--output-dir {out} holds a training run, whose result.json would be overwritten; "
            f"{disk.another(out)}"
        )


def rescore(pairs: list, protocol: str, path: str, out: Path) -> None:
    """Score saved outputs, (completion, example) pairs of the file `path`, without a model."""
    progress = partial(tqdm, desc="score", unit="record")
    result, rows = protocols.score(pairs, protocol, progress)
    disk.write_lines(out / "predictions.jsonl", rows)
    print_report(out, result | {"predictions": path}, rows)
    report.write(out)


def main(args: argparse.Namespace) -> None:
    out, written = Path(args.output_dir), Path(args.output_dir) / "predictions.jsonl"
    if args.predictions is not None:  # what can be refused is, before anything is written
        path = Path(args.predictions)
        pairs = protocols.to_examples(read_predictions(path), args.protocol, args.box_format)
        check_no_training_run(out)
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
    check_no_training_run(out)
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
    args.run, args.model_files = before.get("run"), model_files(args.model)
    label = label_of(args, written)
    if is_kept:
        deciding = {name: getattr(args, name) for name in DECIDING}
        check_kept(written, label, before, deciding, [e.id for e in examples])
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
        answers = ask_batch(
            policy, asker, examples[batch], sampling, N, select_sizes, batch_size, args.seed, first,
            next(batches), args.num_workers,
        )  # fmt: skip
        columns = zip(examples[batch], as_judged[batch], answers)
        return [row_of(*column, args.protocol) for column in columns]

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
        print_report(out, result, answered)
    curve = [
        sampled_scores(answered, as_judged, n, args.protocol) | {"greedy": result["accuracy"]}
        for n in sizes
    ]
    if curve:
        result |= curve_figures(curve, N)
        print(f"with k of the {N} samples: the first k; for pass any k, estimated from all {N}")
        for point in curve:
            print_point(point)
        disk.write_lines(out / "scaling.jsonl", curve)
        plots.plot_scaling(curve, result, out / "curve.png", f"{args.model}, {name}")
    disk.write_json(out / "result.json", result)

    # 6. draw: four wrong answers if there are any, then the first four
    wrong_first = sorted(range(len(answered)), key=lambda i: (answered[i]["accuracy"], i))
    shown = min(select_sizes, key=lambda n: abs(n - 3)) if args.self_select else 2
    rows = [
        sheet_row(examples[i], as_judged[i], answered[i], shown, args.protocol)
        for i in [*wrong_first[:4], *range(min(4, len(answered)))]
    ]
    title = f"{args.model} on {name}: four wrong answers if there are any, then the first four"
    plots.plot_samples(rows, out / "samples" / "answers.png", title)
    report.write(out)
    print(
        f"{out}/result.json has the figures, {written} every answer, "
        f"{out}/samples/answers.png some of them beside their pictures, {out}/report.html all"
    )


def check_kept(path: Path, label: str, before: dict, deciding: dict, ids: list[str]) -> None:
    """Check that the answers in a file are this evaluation's. UserError if they are not.

    before: args.json of the evaluation that made them. deciding: this one's flags.
    """
    answered, lines = good_lines(path, label)
    other = before and any(before.get(name) != value for name, value in deciding.items())
    unknown = not before and not answered
    same_ids = [row["id"] for row in answered] == ids[: len(answered)]
    if lines and (other or unknown or not same_ids):
        raise UserError(
            f"{path} holds answers of another evaluation, or to questions with other ids; "
            "name another --output-dir, or delete the file to start over"
        )


if __name__ == "__main__":
    running.run(main, parse_args)
