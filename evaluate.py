"""Evaluation: greedy Test@1 and, from N samples a question, majority@N and pass@N, with 95 % intervals and every failure to parse counted.

    python evaluate.py --model runs/grpo --data count:test --num-samples 8 --output-dir runs/eval

What is counted, and how:
    accuracy        greedy answers that are right, of all n. An answer that cannot be read is wrong; nothing is ever guessed.
    accuracy_parsed the same, of the answers that could be read: tells reasoning from format.
    majority@k      the commonest readable answer among the first k samples is right (ties: the one that came first).
    pass@k          the chance that at least one of k samples is right, unbiased from N (Chen et al. 2021, arXiv:2107.03374, eq. 1).
Prompt template and system prompt are those of the checkpoint's training run (args.json), so that training and evaluation ask alike.
"""
import json
import math
from collections import Counter
from pathlib import Path

from tqdm import tqdm

import data
import generate
import model as modeling
import rewards
import utils


def majority(completions, choices=None):
    """The commonest answer of some completions, as one of them wrote it, or None if none can be read. "3", "3.0" and " 3 " vote together, and
    with `choices` so do "B", "(b)" and the text of B; ties go to the answer that came first."""
    answers = [answer for answer in map(rewards.extract_answer, completions) if answer is not None]
    if not answers:
        return None
    forms = [rewards.normalize_answer(answer, choices) for answer in answers]
    winner = Counter(forms).most_common(1)[0][0]                      # keeps the order of arrival, and most_common is stable
    return answers[forms.index(winner)]


def pass_at_k(n, right, k):
    """1 - C(n - right, k) / C(n, k): unbiased estimate of the chance that one of k samples is right, from `right` of n."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def sampled_scores(records, k):
    """Shares over records (dicts with answer, choices, samples, right): majority@k and pass@k."""
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
    g = p.add_argument_group("output")
    g.add_argument("--output-dir", required=True, help="where result.json, predictions.jsonl and pictures go")
    g.add_argument("--resume-from-checkpoint", nargs="?", const="newest", metavar="DIR", help="keep the answers already in --output-dir and ask the rest")
    return p.parse_args(argv)


def main(args):
    # ---- setup -------------------------------------------------------------------------------------------------------------------
    out, resume = Path(args.output_dir), args.resume_from_checkpoint is not None
    utils.make_writable(out)
    if (out / "metrics.jsonl").is_file():
        raise utils.UserError(f"--output-dir {out} holds a training run, whose result.json and curve would be overwritten; name another")
    data.ask_as_trained(args)
    examples = data.head(data.read(args.data, level=args.level), args.max_eval_samples)
    data.check_golds(examples, rewards.check_gold)
    policy, processor = modeling.load_from_args(args, needs_training="its answers would be noise")
    predictions = out / "predictions.jsonl"
    data.check_fit(examples, processor, args.prompt_template, args.system_prompt, args.max_completion_length)
    records = utils.read_lines(predictions) if resume else []
    before = utils.read_args(out)
    same = ("model", "data", "level", "num_samples", "temperature", "top_p", "top_k", "seed", "prompt_template", "system_prompt", "max_completion_length")
    if records and ([r["id"] for r in records] != [e.id for e in examples[:len(records)]] or any(before.get(k) != getattr(args, k) for k in same)):
        raise utils.UserError(f"{predictions} holds answers of another evaluation; name another --output-dir, or leave --resume-from-checkpoint away to start over")
    utils.write_args(out, args)
    print(f"model: {modeling.describe(policy)}; prompt template {args.prompt_template}")
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
                records.append({"id": e.id, "question": e.question, "answer": e.answer, "choices": e.choices, "prediction": text, "tokens": lengths[i],
                                "accuracy": rewards.accuracy(text, e), "samples": mine, "right": [rewards.accuracy(s, e) for s in mine]})
                file.write(json.dumps(records[-1]) + "\n")
            file.flush()

    # ---- count, draw ---------------------------------------------------------------------------------------------------------------
    result = rewards.summary([r["prediction"] for r in records], examples)
    result |= {"data": args.data, "model": args.model, "mean_length": sum(r["tokens"] for r in records) / len(records)}
    print(f"Test@1 (greedy): accuracy {result['accuracy']:.3f}, 95 % interval {result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}, n {result['n']}; of readable answers "
          f"{result['accuracy_parsed']:.3f}; format {result['format_rate']:.3f}; {result['parse_failures']} could not be read")
    curve = []
    for k in range(1, args.num_samples + 1):
        voted, passed = sampled_scores(records, k)
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
        rows.append({"images": data.open_images(examples[i]), "question": examples[i].question, "answer": examples[i].answer, "completions": said})
    utils.plot_samples(rows, out / "samples" / "answers.png", f"{args.model} on {args.data}: four wrong answers if there are any, then the first four")
    print(f"{out}/result.json has the figures, {out}/predictions.jsonl every answer, {out}/samples/answers.png some of them beside their pictures")


if __name__ == "__main__":
    utils.run(main, parse_args)
