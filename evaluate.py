"""Evaluation: greedy Test@1 and, from N samples a question, majority@N and pass@N, with 95 % intervals and every failure to parse counted.

    python evaluate.py --model runs/grpo --data count:test --num-samples 8 --output-dir runs/eval

What is counted, and how:
    accuracy        greedy answers that are right, of all n. An answer that cannot be read is wrong; nothing is ever guessed.
    accuracy_parsed the same, of the answers that could be read: tells reasoning from format.
    majority@k      the commonest readable answer among the first k samples is right (ties: the one that came first).
    pass@k          the chance that at least one of k samples is right, unbiased from N (Chen et al. 2021, arXiv:2107.03374, eq. 1).
Prompt template and system prompt are those of the checkpoint's training run (args.json), so that training and evaluation ask alike.

A published protocol (protocols.PROTOCOLS) asks and scores as that benchmark does, by our rule and, where it is known, by the original's, bugs included
(accuracy_original). It also scores outputs that anybody saved, one {"prediction": text, "answer": gold, ...} a line, without a model:

    python evaluate.py --model Qwen/Qwen2-VL-2B-Instruct --data geoqa.jsonl --protocol geoqa --output-dir runs/geoqa
    python evaluate.py --predictions outputs.jsonl --protocol geoqa --output-dir runs/rescored
"""
import json
import math
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

import protocols
import rewards
import utils


def majority(completions, choices=None, read=rewards.extract_answer):
    """The commonest answer of some completions, as one of them wrote it, or None if none can be read. "3", "3.0" and " 3 " vote together, and
    with `choices` so do "B", "(b)" and the text of B; ties go to the answer that came first."""
    answers = [answer for answer in map(read, completions) if answer is not None]
    if not answers:
        return None
    forms = [rewards.normalize_answer(answer, choices) for answer in answers]
    winner = Counter(forms).most_common(1)[0][0]                      # keeps the order of arrival, and most_common is stable
    return answers[forms.index(winner)]


def pass_at_k(n, right, k):
    """1 - C(n - right, k) / C(n, k): unbiased estimate of the chance that one of k samples is right, from `right` of n."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def sampled_scores(records, k, protocol=None, examples=()):
    """Shares over records (dicts with answer, choices, samples, right): majority@k and pass@k; majority under a protocol as it reads and scores."""
    if protocol:
        winners = [majority(r["samples"][:k], r["choices"], lambda text: protocols.body(text, protocol)) for r in records]
        voted = [winner is not None and protocols.PROTOCOLS[protocol]["ours"](f"<answer>{winner}</answer>", e) for winner, e in zip(winners, examples)]
    else:
        voted = [rewards.match_answer(majority(r["samples"][:k], r["choices"]), r["answer"], r["choices"]) for r in records]
    passed = [pass_at_k(len(r["right"]), int(sum(r["right"])), k) for r in records]
    return sum(voted) / len(records), sum(passed) / len(records)


def parse_args(argv=None):
    p = utils.Parser(__doc__, "evaluate.py")
    utils.add_model_flags(p)
    utils.add_data_flags(p)
    g = p.add_argument_group("rollout")
    g.add_argument("--num-samples", type=utils.count, default=0, help="N, sampled answers per question besides the greedy one; 0: greedy only")
    g.add_argument("--max-completion-length", type=utils.positive, default=512, help="tokens of a completion at most")
    g.add_argument("--temperature", type=utils.not_negative, default=1.0, help="of the N samples; the greedy answer has none")
    g.add_argument("--top-p", type=utils.fraction, default=1.0, help="sample among the likeliest tokens that make up this mass; 1: all")
    g.add_argument("--top-k", type=utils.count, default=0, help="sample among this many likeliest tokens; 0: all")
    g.add_argument("--seed", type=utils.count, default=0, help="of the sampling")
    g = p.add_argument_group("evaluation")
    g.add_argument("--max-eval-samples", type=utils.positive, default=512, help="questions to ask")
    g.add_argument("--eval-batch-size", type=utils.positive, default=16, help="answers generated at a time")
    g.add_argument("--protocol", choices=sorted(protocols.PROTOCOLS), help="ask (unless --prompt-template says otherwise) and score as this benchmark's published evaluation does, by our rule "
                   "and by the original one")
    g.add_argument("--predictions", metavar="FILE", help="score these saved outputs under --protocol instead of asking a model: JSONL (or R1-V's log) with prediction and answer, and where there are any id, "
                   "question, choices, task, source, unit, size, resized, box_format; --model and --data are not needed")
    g = p.add_argument_group("output")
    g.add_argument("--output-dir", required=True, help="where result.json, predictions.jsonl and pictures go")
    g.add_argument("--resume-from-checkpoint", nargs="?", const="newest", metavar="DIR", help="keep the answers already in --output-dir and ask the rest")
    words = [word.partition("=")[0].replace("_", "-") for word in (sys.argv[1:] if argv is None else argv) if word.startswith("--")]
    rescored = "--predictions" in words
    for action in p._actions:
        action.required = action.required and not (rescored and action.dest in ("model", "data"))
    args = p.parse_args(argv)
    if rescored and not args.protocol:
        p.error(f"--predictions needs --protocol, by which to score them: {', '.join(sorted(protocols.PROTOCOLS))}")
    if "--box-format" in words and args.protocol and not protocols.PROTOCOLS[args.protocol].get("boxes"):
        p.error(f"--protocol {args.protocol} has no boxes: leave --box-format away")
    for word in words if rescored else ():
        if word not in ("--predictions", "--protocol", "--output-dir", "--box-format"):
            p.error(f"--predictions scores saved outputs and asks no model: leave {word} away, or --predictions")
    return args


def main(args):
    rewards._worker.seconds = max(rewards._worker.seconds, protocols.MATH_SECONDS)         # an evaluation waits longer than training does
    ask(args) if args.predictions is None else rescore(args)


def rescore(args):
    """--predictions: saved outputs under --protocol, without a model. Everything that could be refused is, before anything is scored or written."""
    out, path = Path(args.output_dir), Path(args.predictions)
    pairs = suited(read_predictions(path), args.protocol, args.box_format)
    utils.make_writable(out)
    if (out / "metrics.jsonl").is_file():
        raise utils.UserError(f"--output-dir {out} holds a training run, whose result.json would be overwritten; name another")
    if (out / "predictions.jsonl").exists() and path.resolve() == (out / "predictions.jsonl").resolve():
        raise utils.UserError(f"--predictions {path} would be overwritten with the scores; name another --output-dir")
    utils.write_args(out, args)
    result, rows = protocols.score(pairs, args.protocol, lambda work: tqdm(work, desc="score", unit="record"))
    utils.write_lines(out / "predictions.jsonl", rows)
    report(out, result | {"predictions": args.predictions}, rows)


def suited(records, protocol, box_format=None):
    """protocols.to_examples. UserError for a record that the protocol cannot score."""
    try:
        return protocols.to_examples(records, protocol, box_format)
    except ValueError as error:
        raise utils.UserError(str(error)) from None


def read_predictions(path):
    """[(place, record)] of a JSON Lines file, or of R1-V's and VLM-R1's logs, one object with `results`; a record's `line` is its number there. UserError for a file
    that is missing, empty or broken."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise utils.UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise utils.UserError(f"--predictions {path} cannot be read ({error.strerror or error}); check the path") from None
    records = []
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):                              # as it should be, where there is more than one line
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("results"), list):
        records = [(f"{path}, result {number}", record, number) for number, record in enumerate(whole["results"], 1)]
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    records.append((f"{path}:{number}", json.loads(line), number))
                except (ValueError, RecursionError) as error:
                    raise utils.UserError(f"{path}:{number}: broken JSON ({getattr(error, 'msg', str(error)[:60])}); one object a line is expected") from None
    if not records:
        raise utils.UserError(f"{path} holds no record; expected one {{\"prediction\": ..., \"answer\": ...}} a line")
    return [(place, {**record, "line": number} if isinstance(record, dict) else record) for place, record, number in records]


def report(out, result, rows):
    """Writes result.json and disagreements.jsonl of a protocol; prints the figures and three rows on which the two scorers differ."""
    utils.write_json(out / "result.json", result)
    print(f"{result['protocol']}: n {result['n']}")
    print(f"  {'accuracy, ours':<24}{result['accuracy']:.4f}   95 % interval {result['accuracy_low']:.4f} to {result['accuracy_high']:.4f}; {result['parse_failures']} could not be read, of the others "
          f"{result['accuracy_parsed']:.4f}" + (f"; {result['timeouts']} ran out of time" if result["timeouts"] else "") + (f"; predicted boxes in {result['box_format']}" if "box_format" in result else ""))
    for name in ("mean_iou", "mAP", "AP50", "cvbench", "cvbench_2d", "cvbench_3d"):
        if name in result:
            print(f"  {name:<24}{result[name]:.4f}")
    for name, parts in result.get("by", {}).items():
        if len(parts) <= 12:
            print(f"  by {name + ':':<21}" + "  ".join(f"{value} {part['accuracy']:.4f} ({part['n']})" for value, part in parts.items()))
    differ = protocols.disagreements(rows)
    utils.write_lines(out / "disagreements.jsonl", differ)
    if "accuracy_original" in result:
        print(f"  {'accuracy, original':<24}{result['accuracy_original']:.4f}   {result['original']}" + (f"; {result['original_timeouts']} ran out of time" if result["original_timeouts"] else ""))
        print(f"  {'they differ on':<24}{len(differ)} records: {out}/disagreements.jsonl")
    for row in differ[:3]:
        said = " ".join(row["prediction"].split())
        print(f"    gold {row['answer']!r}, read {row['extracted']!r}: ours {row['accuracy']:g}, original {row['accuracy_original']:g}; text ends {said[-120:]!r}")


def ask(args):
    """--model and --data: asks the checkpoint."""
    import data
    import generate
    import model as modeling

    # ---- setup -------------------------------------------------------------------------------------------------------------------
    out, resume = Path(args.output_dir), args.resume_from_checkpoint is not None
    utils.make_writable(out)
    if (out / "metrics.jsonl").is_file():
        raise utils.UserError(f"--output-dir {out} holds a training run, whose result.json and curve would be overwritten; name another")
    if args.protocol:
        args.prompt_template = args.prompt_template or protocols.PROTOCOLS[args.protocol]["template"]
    data.ask_as_trained(args)
    found = data.read(args.data, level=args.level, box_format=args.box_format, min_pixels=args.min_pixels, max_pixels=args.max_pixels)
    examples = data.head(found, args.max_eval_samples)
    if isinstance(found, list) and len(found) > len(examples):
        print(f"asking the first {len(examples)} of {len(found)} questions; --max-eval-samples {len(found)} asks them all")
    data.check_golds(examples, rewards.check_gold)
    judged = examples
    if args.protocol:
        asked = [{**e.meta, "id": e.id, "question": e.question, "answer": e.answer, "choices": e.choices, "task": e.task, "prediction": ""} for e in examples]
        judged = [e for _, e in suited([(f"{e.source} does not suit --protocol {args.protocol}", record) for e, record in zip(examples, asked)], args.protocol)]
    right = protocols.PROTOCOLS[args.protocol]["ours"] if args.protocol else rewards.accuracy
    policy, processor = modeling.load_from_args(args, needs_training="its answers would be noise")
    predictions = out / "predictions.jsonl"
    data.check_fit(examples, processor, args.prompt_template, args.system_prompt, args.max_completion_length)
    records = utils.read_lines(predictions) if resume else []
    before = utils.read_args(out)
    same = ("model", "data", "level", "num_samples", "temperature", "top_p", "top_k", "seed", "prompt_template", "system_prompt", "max_completion_length", "protocol", "box_format")
    if records and ([r["id"] for r in records] != [e.id for e in examples[:len(records)]] or any(before.get(k) != getattr(args, k) for k in same)):
        raise utils.UserError(f"{predictions} holds answers of another evaluation; name another --output-dir, or leave --resume-from-checkpoint away to start over")
    utils.write_args(out, args)
    print(f"model: {modeling.describe(policy)}; prompt template {args.prompt_template}" + (f"; protocol {args.protocol}" if args.protocol else ""))
    print(f"asking {len(examples)} questions of {args.data}: greedily" + (f", and {args.num_samples} samples each at temperature {args.temperature}" if args.num_samples else "")
          + (f"; {len(records)} are answered already" if records else ""))

    # ---- ask, a batch at a time; every finished batch is on disk -------------------------------------------------------------------
    step = max(1, args.eval_batch_size // max(1, args.num_samples))
    shared = dict(batch_size=args.eval_batch_size, max_completion_length=args.max_completion_length)
    utils.write_lines(predictions, records)
    with open(predictions, "a", encoding="utf-8") as file:
        for start in tqdm(range(len(records), len(examples), step), desc="evaluate", unit="batch"):
            batch = examples[start:start + step]
            greedy, lengths, _ = generate.answer_all(policy, processor, batch, args.prompt_template, args.system_prompt, temperature=0, **shared)
            samples = []
            if args.num_samples:
                samples, _, _ = generate.answer_all(policy, processor, batch, args.prompt_template, args.system_prompt, args.num_samples, temperature=args.temperature,
                                                    top_p=args.top_p, top_k=args.top_k, seed=args.seed, first_row=start * args.num_samples, **shared)
            for i, (e, text) in enumerate(zip(batch, greedy)):
                mine = samples[i * args.num_samples:(i + 1) * args.num_samples]
                row = {"id": e.id, "question": e.question, "answer": e.answer, "choices": e.choices, "prediction": text}
                row |= protocols.score_one(text, judged[start + i], args.protocol) if args.protocol else rewards.marks(text, e)
                records.append(row | {"tokens": lengths[i], "samples": mine, "right": [right(s, judged[start + i]) for s in mine]})
                file.write(json.dumps(records[-1]) + "\n")
            file.flush()

    # ---- count, draw ---------------------------------------------------------------------------------------------------------------
    result = rewards.summary([r["prediction"] for r in records], judged) | (protocols.totals(records, args.protocol) if args.protocol else {})
    result |= {"data": args.data, "model": args.model, "mean_length": sum(r["tokens"] for r in records) / len(records)}
    print(f"Test@1 (greedy): accuracy {result['accuracy']:.3f}, 95 % interval {result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}, n {result['n']}; of readable answers "
          f"{result['accuracy_parsed']:.3f}; format {result['format_rate']:.3f}; {result['parse_failures']} could not be read" + (f"; mean IoU {result['iou']:.3f}" if "iou" in result else ""))
    if args.protocol:
        report(out, result, records)
    curve = []
    for k in range(1, args.num_samples + 1):
        voted, passed = sampled_scores(records, k, args.protocol, judged)
        curve.append({"step": k, "majority@k": voted, "pass@k": passed, "greedy": result["accuracy"]})
    if curve:
        N = args.num_samples
        result |= {f"majority@{N}": curve[-1]["majority@k"], f"pass@{N}": curve[-1]["pass@k"], "mean_sample_accuracy": curve[0]["pass@k"], "scaling": curve}
        low, high = rewards.wilson(result[f"majority@{N}"] * len(records), len(records))
        result |= {f"majority@{N}_low": low, f"majority@{N}_high": high}
        low, high = rewards.wilson(result[f"pass@{N}"] * len(records), len(records))
        result |= {f"pass@{N}_low": low, f"pass@{N}_high": high}
        print(f"of {N} samples: one alone is right {result['mean_sample_accuracy']:.3f}, majority@{N} {result[f'majority@{N}']:.3f}, pass@{N} {result[f'pass@{N}']:.3f}")
        scaling = out / "scaling.jsonl"
        utils.write_lines(scaling, curve)
        utils.plot_curve(scaling, out / "curve.png", [("accuracy against number of samples", ["majority@k", "pass@k", "greedy"])], f"{args.model}, {args.data}", x="samples")
    utils.write_json(out / "result.json", result)
    (out / "samples").mkdir(exist_ok=True)
    picked = sorted(range(len(records)), key=lambda i: (records[i]["accuracy"], i))[:4] + list(range(min(4, len(records))))
    rows = []
    for i in picked:
        said = [(f"greedy: {records[i]['prediction']}", {"accuracy": records[i]["accuracy"]})]
        said += [(sample, {"accuracy": right}) for sample, right in zip(records[i]["samples"][:2], records[i]["right"])]
        rows.append({"images": data.open_images(examples[i]), "question": examples[i].question, "answer": examples[i].answer, "completions": said,
                     "boxes": rewards.drawn_boxes(examples[i], records[i]["prediction"], *records[i]["samples"][:2])})
    utils.plot_samples(rows, out / "samples" / "answers.png", f"{args.model} on {args.data}: four wrong answers if there are any, then the first four")
    print(f"{out}/result.json has the figures, {out}/predictions.jsonl every answer, {out}/samples/answers.png some of them beside their pictures")


if __name__ == "__main__":
    utils.run(main, parse_args)
