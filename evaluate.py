"""Evaluation: greedy Test@1 and, from N samples a question, majority@N, self-select@N and pass@N, with 95 % intervals and every failure to parse counted.

    python evaluate.py --model runs/grpo --data count:test --num-samples 8 --output-dir runs/eval
    python evaluate.py --model runs/r3v --data geometry:test --num-samples 1 2 3 4 6 8 10 --self-select --output-dir runs/eval

What is counted, and how:
    accuracy        greedy answers that are right, of all n. An answer that cannot be read is wrong; nothing is ever guessed.
    accuracy_parsed the same, of the answers that could be read: tells reasoning from format.
    majority@k      the commonest readable answer among the first k samples is right (ties: the one that came first).
    self_select@k   the model is shown the first k samples and asked, greedily, for the final answer (R3V, arXiv:2411.00855). What it says counts only if it is the
                    answer of one of them; else the majority's does. R3V scores what was said: how often this differs is counted.
    pass@k          the chance that at least one of k samples is right, unbiased from N (Chen et al. 2021, arXiv:2107.03374, eq. 1).
Intervals are Wilson's, of n questions (for means over samples that is on the safe side); that of self-select's gain over the majority is a paired bootstrap's.
Prompt template and system prompt are those of the checkpoint's training run (args.json), so that training and evaluation ask alike.

A published protocol (protocols.PROTOCOLS) asks and scores as that benchmark does, by our rule and, where it is known, by the original's, bugs included
(accuracy_original). It also scores outputs that anybody saved, one {"prediction": text, "answer": gold, ...} a line, without a model:

    python evaluate.py --model Qwen/Qwen2-VL-2B-Instruct --data geoqa.jsonl --protocol geoqa --output-dir runs/geoqa
    python evaluate.py --predictions outputs.jsonl --protocol geoqa --output-dir runs/rescored
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before all other imports, which take seconds: Ctrl-C may come there too

import json
import os
import re
from pathlib import Path

from tqdm import tqdm

import rewards
import tasks
from grading import boxes, metrics
from plumbing import disk, flags, plots, rundir, running, stopping, sums
from plumbing.arguments import flag, label_of, read_args, write_args
from plumbing.arguments import flags_given as typed
from plumbing.errors import UserError
from plumbing.records import Lines, checksum, good_lines
from plumbing.text import short
from tasks import files, outputs, prompts, protocols


def sampled_scores(records, examples, n, protocol=None, seed=0):
    """One point of the curves, from the first n samples of every record (pass@k: from all of them). records: rows of predictions.jsonl; examples: what they
    are judged by, under a protocol as it reads and scores. Returns a dict:

    mean_sample_accuracy, majority@k, pass@k, self_select@k     shares of the questions, each with _low and _high (95 %, Wilson)
    self_select_gain, _low, _high          self_select@k - majority@k, and its 95 % interval (rewards.bootstrap_difference)
    self_select_unreadable, _not_a_candidate, _fell_back         shares of the selections: nothing to read, no candidate's answer, the majority's taken instead
    self_select_by                         {what stood in the prompt: {accuracy, n}}
    greedy_tokens, majority_tokens, self_select_tokens           a question: its prompt once a call, and all that was said
    """
    right = protocols.PROTOCOLS[protocol].score if protocol else rewards.accuracy
    read = protocols.reader(protocol)
    score = lambda answers: [
        float(answer is not None and right(f"<answer>{answer}</answer>", e))
        for answer, e in zip(answers, examples)
    ]
    mean = lambda values: sum(values) / len(values)
    shown = [
        sum(r["right"][:n]) for r in records
    ]  # right ones among those that vote, or stand in the prompt
    shares = {
        "mean_sample_accuracy": [s / n for s in shown],
        "majority@k": score(
            [metrics.majority(r["samples"][:n], r["choices"], read) for r in records]
        ),
        "pass@k": [metrics.pass_at_k(len(r["right"]), int(sum(r["right"])), n) for r in records],
    }
    spent = [r["prompt_tokens"] + sum(r["sample_tokens"][:n]) for r in records]
    more = {
        "greedy_tokens": mean([r["prompt_tokens"] + r["tokens"] for r in records]),
        "majority_tokens": mean(spent),
    }
    if "selections" in records[0]:
        said = [selection(r, n, protocol) for r in records]
        answers, how = zip(
            *[
                metrics.select(text, r["samples"][:n], r["choices"], read)
                for text, r in zip(said, records)
            ]
        )
        shares["self_select@k"] = score(answers)
        more["self_select_tokens"] = mean(
            [
                tokens + sum(r["selection_tokens"].get(str(n), []))
                for tokens, r in zip(spent, records)
            ]
        )
        if n > 1:  # one sample is no choice, and nothing was asked
            low, high = metrics.bootstrap_difference(
                shares["self_select@k"], shares["majority@k"], seed
            )
            more |= {
                "self_select_gain": mean(shares["self_select@k"]) - mean(shares["majority@k"]),
                "self_select_gain_low": low,
                "self_select_gain_high": high,
            }
            unreadable = [read(text) is None for text in said]
            more |= {
                "self_select_unreadable": mean(unreadable),
                "self_select_not_a_candidate": mean(
                    [h != "selected" and not u for h, u in zip(how, unreadable)]
                ),
                "self_select_fell_back": mean([h == "majority" for h in how]),
            }
            parts = {
                "some right": [s > 0 for s in shown],
                "none right": [s == 0 for s in shown],
                "right in the minority": [0 < 2 * s < n for s in shown],
            }
            parts = {
                name: [score for score, here in zip(shares["self_select@k"], among) if here]
                for name, among in parts.items()
            }
            more["self_select_by"] = {
                name: {"accuracy": mean(scores), "n": len(scores)}
                for name, scores in parts.items()
                if scores
            }
    point = {"step": n}
    for name, values in shares.items():
        low, high = metrics.wilson(sum(values), len(values))
        point |= {name: mean(values), f"{name}_low": low, f"{name}_high": high}
    return point | more


def selection(record, n, protocol=None):
    """What self-select said of the first n samples; of one, that one. Where answers stand on a line, the bare answer will do, as in R3V's targets for ChartQA and CLEVR-Math."""
    text = record["selections"].get(str(n), record["samples"][0])
    return protocols.on_a_line(text, protocol) if n > 1 else text


def check_selections_fit(examples, asker, most, N):
    """UserError unless N samples of full length fit into every question's selection prompt, with its answer: found out now, not after an hour. (Bytes that are
    no text can grow when they are written again; then rollout.self_select objects.)"""
    empty = [
        prompts.with_question(
            e,
            prompts.select_prompt(
                prompts.question_text(e, asker.template),
                [""] * N,
                prompts.SELECT.get(asker.template),
            ),
        )
        for e in examples
    ]
    longest, context = max(asker.verbatim().check(empty, 1)), asker.processor.context
    fits = (context - longest) // (N + 1)
    if fits < most:
        raise UserError(
            f"--self-select shows {N} samples of up to {most} tokens with a question of {longest} and reads an answer of as many: too much for the model's "
            f"context of {context}; lower --num-samples"
            + (f", or --max-completion-length to {fits}" if fits > 0 else ", or --max-pixels")
        )


def parse_args(argv=None):
    p = flags.Parser(__doc__, "evaluate.py")
    flags.add_model_flags(p)
    flags.add_data_flags(p)
    g = p.add_argument_group("rollout")
    g.add_argument(
        "--num-samples",
        type=flags.int_from_0,
        nargs="+",
        default=0,
        metavar="N",
        help="sampled answers per question besides the greedy one, 0: none; several numbers: the points of "
        "the scaling curves, of which the largest is sampled (one number N: 1 to N)",
    )
    g.add_argument(
        "--self-select",
        action="store_true",
        help="show the model the first samples and ask which is right, at every point of the curves",
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
    g = p.add_argument_group("evaluation")
    g.add_argument(
        "--max-eval-samples", type=flags.int_from_1, default=512, help="questions to ask"
    )
    g.add_argument(
        "--eval-batch-size", type=flags.int_from_1, default=16, help="answers generated at a time"
    )
    g.add_argument(
        "--protocol",
        choices=sorted(protocols.PROTOCOLS),
        help="ask (unless --prompt-template says otherwise) and score as this benchmark's published evaluation does, by our rule "
        "and by the original one",
    )
    g.add_argument(
        "--predictions",
        metavar="FILE",
        help="score these saved outputs under --protocol instead of asking a model: JSONL, parquet (or R1-V's log) with prediction and answer, and where there are any id, "
        "question, choices, task, source, unit, size, resized, box_format; --model and --data are not needed",
    )
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
    words = typed(argv)
    rescored = "predictions" in words
    for action in p._actions:
        action.required = action.required and not (rescored and action.dest in ("model", "data"))
    args = p.parse_args(argv)
    args.num_samples = sorted(set(args.num_samples or [0]))
    if args.self_select and args.num_samples[-1] < 2 and not rescored:
        p.error("--self-select chooses among samples: give it two or more, --num-samples 3")
    if rescored and not args.protocol:
        p.error(
            f"--predictions needs --protocol, by which to score them: {', '.join(sorted(protocols.PROTOCOLS))}"
        )
    if "box_format" in words and args.protocol and not protocols.PROTOCOLS[args.protocol].boxes:
        p.error(f"--protocol {args.protocol} has no boxes: leave --box-format away")
    for word in words if rescored else ():
        if word not in ("predictions", "protocol", "output_dir", "box_format"):
            p.error(
                f"--predictions scores saved outputs and asks no model: leave {flag(word)} away, or --predictions"
            )
    return args


def main(args):
    ask(args) if args.predictions is None else rescore(args)


def rescore(args):
    """--predictions: saved outputs under --protocol, without a model. Everything that could be refused is, before anything is scored or written."""
    out, path = Path(args.output_dir), Path(args.predictions)
    pairs = protocols.to_examples(read_predictions(path), args.protocol, args.box_format)
    if (out / "metrics.jsonl").is_file():
        raise UserError(
            f"--output-dir {out} holds a training run, whose result.json would be overwritten; name another"
        )
    rundir.refuse_anothers(out, args)
    if (out / "predictions.jsonl").exists() and path.resolve() == (
        out / "predictions.jsonl"
    ).resolve():
        raise UserError(
            f"--predictions {path} would be overwritten with the scores; name another --output-dir"
        )
    disk.make_writable(out)
    write_args(out, args)
    result, rows = protocols.score(
        pairs, args.protocol, lambda work: tqdm(work, desc="score", unit="record")
    )
    disk.write_lines(out / "predictions.jsonl", rows)
    report(out, result | {"predictions": args.predictions}, rows)


OPENED_BY_THE_SHELL = ("/dev/fd/", "/dev/stdin")  # --predictions <(zcat saved.jsonl.gz)


def read_predictions(path):
    """Read saved outputs: [(place, record)], a record's `line` its number in the file.

    JSON Lines, parquet, and R1-V's and VLM-R1's logs, which are one object with `results`.
    UserError for a file that is missing, empty or broken, or that may never end.
    """

    if not os.path.exists(path):  # also for a name too long, or with a NUL
        raise UserError(
            f"--predictions {short(path)} cannot be read (there is no such file); check the path"
        )
    if not (path.is_fifo() and str(path).startswith(OPENED_BY_THE_SHELL)):
        files.must_end(path)
    if path.suffix == ".parquet":
        return [
            (f"{path}:{row}", as_saved({**record, "line": row}, f"{path}:{row}"))
            for row, _, record in files.rows_of(path, "prediction and answer")
        ]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"--predictions {path} cannot be read ({error.strerror or error}); check the path"
        ) from None
    records = []
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):  # as it should be, where there is more than one line
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("results"), list):
        records = [
            (f"{path}, result {number}", record, number)
            for number, record in enumerate(whole["results"], 1)
        ]
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    records.append((f"{path}:{number}", json.loads(line), number))
                except (ValueError, RecursionError) as error:
                    raise UserError(
                        f"{path}:{number}: broken JSON ({getattr(error, 'msg', str(error)[:60])}); one object a line is expected"
                    ) from None
    if not records:
        raise UserError(
            f'{path} holds no record; expected one {{"prediction": ..., "answer": ...}} a line'
        )
    found = []
    for place, record, number in records:
        if isinstance(record, dict):
            record = as_saved({**record, "line": number}, place)
        found.append((place, record))
    return found


def as_saved(record, place):
    """Make a record of plain values that can be scored, written and printed.

    Bytes become text, or null where they are none, and half a character becomes U+FFFD.
    A number too large to compute with becomes its digits.
    UserError for a gold answer or choice with half a character, and for what is nested too deeply.
    """
    try:
        saved = {key: storable(value) for key, value in record.items()}
        for key in ("answer", "choices", *outputs.ALIASES["answer"]):
            if key in record and record[key] != saved[key] and HALF in json.dumps(saved[key]):
                raise UserError(
                    f"{place}: `{key}` contains half of a surrogate pair (a character cut in two); "
                    "mend or delete the record"
                )
    except RecursionError:
        raise UserError(
            f"{place}: the record is nested too deeply; expected a flat object; "
            "delete what is deep in it"
        ) from None
    return saved


def storable(value):
    """Make a value of a record one that JSON can hold and UTF-8 can write."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:  # a picture
            return None
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, int) and abs(value) >= TOO_LARGE:
        return str(value)
    return value


HALF = "\\ufffd"  # U+FFFD, as json.dumps writes it
TOO_LARGE = 10**300  # near the largest float


def report(out, result, rows):
    """Writes result.json and disagreements.jsonl of a protocol; prints the figures and three rows on which the two scorers differ."""
    disk.write_json(out / "result.json", result)
    print(f"{result['protocol']}: n {result['n']}")
    print(
        f"  {'accuracy, ours':<24}{result['accuracy']:.4f}   95 % interval {result['accuracy_low']:.4f} to {result['accuracy_high']:.4f}; {result['parse_failures']} could not be read, of the others "
        f"{result['accuracy_parsed']:.4f}"
        + (
            f"; {result['undecided']} with numbers too large to compare"
            if result["undecided"]
            else ""
        )
        + (f"; predicted boxes in {result['box_format']}" if "box_format" in result else "")
    )
    for name in ("mean_iou", "mAP", "AP50", "cvbench", "cvbench_2d", "cvbench_3d"):
        if name in result:
            print(f"  {name:<24}{result[name]:.4f}")
    for name, parts in result.get("by", {}).items():
        if len(parts) <= 12:
            print(
                f"  by {name + ':':<21}"
                + "  ".join(
                    f"{value} {part['accuracy']:.4f} ({part['n']})" for value, part in parts.items()
                )
            )
    differ = protocols.disagreements(rows)
    disk.write_lines(out / "disagreements.jsonl", differ)
    if "accuracy_original" in result:
        print(
            f"  {'accuracy, original':<24}{result['accuracy_original']:.4f}   {result['original']}"
            + (
                f"; {result['original_timeouts']} ran out of time"
                if result["original_timeouts"]
                else ""
            )
        )
        print(f"  {'they differ on':<24}{len(differ)} records: {out}/disagreements.jsonl")
    for row in differ[:3]:
        said = " ".join(row["prediction"].split())
        print(
            f"    gold {row['answer']!r}, read {row['extracted']!r}: ours {row['accuracy']:g}, original {row['accuracy_original']:g}; text ends {said[-120:]!r}"
        )


def model_files(name):
    """What tells one model in a directory from another that was trained into it later: its SHA256SUMS; None of one from elsewhere."""
    saved = Path(name) / sums.SUMS
    return checksum({"sums": saved.read_text(encoding="utf-8")}) if saved.is_file() else None


def ask(args):
    """--model and --data: asks the checkpoint."""
    import data
    import model as modeling
    import rollout

    # ---- setup -------------------------------------------------------------------------------------------------------------------
    out, resume = Path(args.output_dir), args.resume_from_checkpoint is not None
    disk.make_writable(out)
    if (out / "metrics.jsonl").is_file():
        raise UserError(
            f"--output-dir {out} holds a training run, whose result.json and curve would be overwritten; name another"
        )
    rundir.refuse_anothers(out, args)
    if args.protocol:
        args.prompt_template = args.prompt_template or protocols.PROTOCOLS[args.protocol].template
    vars(args).update(data.ask_as_trained(args))
    found = tasks.read(
        args.data,
        level=args.level,
        box_format=args.box_format,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
    )
    examples = data.head(found, args.max_eval_samples)
    if isinstance(found, list) and len(found) > len(examples):
        print(
            f"asking the first {len(examples)} of {len(found)} questions; --max-eval-samples {len(found)} asks them all"
        )
    data.check_golds(examples, rewards.check_gold)
    as_judged = protocols.judged(examples, args.protocol) if args.protocol else examples
    right = protocols.PROTOCOLS[args.protocol].score if args.protocol else rewards.accuracy
    N, sizes = args.num_samples[-1], [n for n in args.num_samples if n]
    sizes = sizes if len(sizes) > 1 else range(1, N + 1)
    policy, processor = modeling.load_from_args(args, needs_training="its answers would be noise")
    predictions = out / "predictions.jsonl"
    asker = data.Asker(processor, args.prompt_template, args.system_prompt)
    greedily = rollout.Sampling(args.max_completion_length, temperature=0)
    sampling = rollout.Sampling(
        args.max_completion_length, args.temperature, args.top_p, args.top_k
    )
    prompt_tokens = asker.check(examples, args.max_completion_length) or [0] * len(examples)
    if args.self_select:
        check_selections_fit(examples, asker, args.max_completion_length, N)
    step = max(1, args.eval_batch_size // max(1, N))
    kept = resume and predictions.exists()
    if predictions.exists() and not resume:
        raise UserError(
            f"{predictions} holds the answers of an evaluation; add --resume-from-checkpoint to go on with it, name another --output-dir, or delete the file to start over"
        )
    if resume and not kept:
        print(f"no answers in {out} yet: starting from the beginning")
    before = read_args(out, ours=True) if kept else {}
    args.run, args.model_files = before.get("run"), model_files(args.model)
    same = (
        "model",
        "model_files",
        "data",
        "level",
        "num_samples",
        "self_select",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "prompt_template",
        "system_prompt",
        "max_completion_length",
        "protocol",
        "box_format",
        "max_pixels",
        "min_pixels",
        "quant",
        "dtype",
    )
    label, other = (
        label_of(args, predictions),
        before and any(before.get(k) != getattr(args, k) for k in same),
    )
    answered, lines = good_lines(predictions, label) if kept else ([], 0)
    if lines and (
        other
        or not before
        and not answered
        or [r["id"] for r in answered] != [e.id for e in examples[: len(answered)]]
    ):
        raise UserError(
            f"{predictions} holds answers of another evaluation, or to questions with other ids; "
            "name another --output-dir, or delete the file to start over"
        )
    write_args(out, args)
    saved = Lines(predictions, label, step, len(examples), fresh=not kept)
    disk.announce(
        out,
        {
            "answers": len(examples) * (1 + N) * (4 * args.max_completion_length + 500),
            "pictures": 500_000,
        },
    )
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

    # ---- ask, a batch at a time; every finished batch is on disk -------------------------------------------------------------------
    for start in tqdm(range(len(saved.lines), len(examples), step), desc="evaluate", unit="batch"):
        batch = examples[start : start + step]
        greedy, lengths, _ = rollout.answer_all(
            policy, asker, batch, greedily, batch_size=args.eval_batch_size
        )
        samples, sample_tokens, rows = [], [], []
        if N:
            samples, sample_tokens, _ = rollout.answer_all(
                policy,
                asker,
                batch,
                sampling,
                N,
                batch_size=args.eval_batch_size,
                seed=args.seed,
                first_row=start * N,
            )
        asks = (
            [(i, n) for i in range(len(batch)) for n in sizes if n > 1] if args.self_select else []
        )
        if asks:
            shown = [samples[i * N : i * N + n] for i, n in asks]
            chosen, said, read = rollout.self_select(
                policy,
                asker,
                [batch[i] for i, _ in asks],
                shown,
                greedily,
                batch_size=args.eval_batch_size,
            )
        for i, (e, text) in enumerate(zip(batch, greedy)):
            mine = samples[i * N : (i + 1) * N]
            row = {
                "id": e.id,
                "question": e.question,
                "answer": e.answer,
                "choices": e.choices,
                "prediction": text,
            }
            row |= (
                protocols.score_one(text, as_judged[start + i], args.protocol)
                if args.protocol
                else rewards.marks(text, e)
            )
            row |= {
                "prompt_tokens": prompt_tokens[start + i],
                "tokens": lengths[i],
                "samples": mine,
                "right": [right(s, as_judged[start + i]) for s in mine],
                "sample_tokens": sample_tokens[i * N : (i + 1) * N],
            }
            if asks:
                here = [j for j, (asked, _) in enumerate(asks) if asked == i]
                row |= {
                    "selections": {str(asks[j][1]): chosen[j] for j in here},
                    "selection_tokens": {str(asks[j][1]): [read[j], said[j]] for j in here},
                }
            rows.append(row)
        saved.append(rows)

    # ---- count, draw ---------------------------------------------------------------------------------------------------------------
    answered = saved.lines
    result = rewards.summary([r["prediction"] for r in answered], as_judged) | (
        protocols.totals(answered, args.protocol) if args.protocol else {}
    )
    result |= {
        "data": args.data,
        "model": args.model,
        "mean_length": sum(r["tokens"] for r in answered) / len(answered),
    }
    print(
        f"Test@1 (greedy): accuracy {result['accuracy']:.3f}, 95 % interval {result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}, n {result['n']}; of readable answers "
        f"{result['accuracy_parsed']:.3f}; format {result['format_rate']:.3f}; {result['parse_failures']} could not be read"
        + (f"; mean IoU {result['iou']:.3f}" if "iou" in result else "")
    )
    if args.protocol:
        report(out, result, answered)
    curve = [
        sampled_scores(answered, as_judged, n, args.protocol) | {"greedy": result["accuracy"]}
        for n in sizes
    ]
    if curve:
        for name in ("majority", "pass", "self_select"):
            result |= {
                f"{name}@{N}{end}": curve[-1][f"{name}@k{end}"]
                for end in ("", "_low", "_high")
                if f"{name}@k" in curve[-1]
            }
        result |= {"mean_sample_accuracy": curve[-1]["mean_sample_accuracy"], "scaling": curve}
        for c in curve:
            print(
                f"of {c['step']} samples: one alone is right {c['mean_sample_accuracy']:.3f}, majority {c['majority@k']:.3f}, "
                + (f"self-select {c['self_select@k']:.3f}, " if args.self_select else "")
                + f"pass {c['pass@k']:.3f}"
                + (
                    ""
                    if "self_select_gain" not in c
                    else f"; self-select over majority {c['self_select_gain']:+.3f}, 95 % interval {c['self_select_gain_low']:+.3f} to "
                    f"{c['self_select_gain_high']:+.3f}; {c['self_select_fell_back']:.1%} of the selections fell back on the majority"
                )
            )
        disk.write_lines(out / "scaling.jsonl", curve)
        plots.plot_scaling(curve, result, out / "curve.png", f"{args.model}, {args.data}")
    disk.write_json(out / "result.json", result)
    (out / "samples").mkdir(exist_ok=True)
    picked = sorted(range(len(answered)), key=lambda i: (answered[i]["accuracy"], i))[:4] + list(
        range(min(4, len(answered)))
    )
    rows, show = (
        [],
        min((n for n in sizes if n > 1), key=lambda n: abs(n - 3)) if args.self_select else 2,
    )
    for i in picked:
        said = [(f"greedy: {answered[i]['prediction']}", {"accuracy": answered[i]["accuracy"]})]
        said += [
            (sample, {"accuracy": right})
            for sample, right in zip(answered[i]["samples"][:show], answered[i]["right"])
        ]
        if args.self_select:
            point = sampled_scores([answered[i]], [as_judged[i]], show, args.protocol)
            instead = ", the majority in its place" if point["self_select_fell_back"] else ""
            said.append(
                (
                    f"self-select among these {show}{instead}: {answered[i]['selections'][str(show)]}",
                    {"accuracy": point["self_select@k"]},
                )
            )
        rows.append(
            {
                "images": plots.images_for_a_sheet(examples[i]),
                "question": examples[i].question,
                "answer": examples[i].answer,
                "completions": said,
                "boxes": boxes.drawn_boxes(
                    examples[i], answered[i]["prediction"], *answered[i]["samples"][:show]
                ),
            }
        )
    plots.plot_samples(
        rows,
        out / "samples" / "answers.png",
        f"{args.model} on {args.data}: four wrong answers if there are any, then the first four",
    )
    print(
        f"{out}/result.json has the figures, {out}/predictions.jsonl every answer, {out}/samples/answers.png some of them beside their pictures"
    )


if __name__ == "__main__":
    running.run(main, parse_args)
