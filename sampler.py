"""Sample answers into files, score them, and build an iteration's training rows from them.

A killed run takes its files up where they end. Of several processes each answers a share of the
questions (plumbing/ranks.py).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import data
import pools
import rollout
from plumbing import iterations, ranks, records
from plumbing.errors import UserError
from plumbing.text import short
from tasks import kept, protocols
from tasks.example import Example, Pair
from tasks.prompts import SELECT, question_text, with_question

# Of an iteration: samples asked for plainly, and with MPO's instructions.
POOLS = ("pool.jsonl", "pool_instructed.jsonl")

# --- sampling ---


def check_order(file: records.Lines, ids: list[str]) -> None:
    """Raise UserError if the lines are of other questions than these: the data have changed.

    ids: one for each line of the finished file.
    """
    for number, (line, id) in enumerate(zip(file.lines, ids), 1):
        if line["id"] != id:
            raise UserError(
                f"{file.path}:{number} is of {short(line['id'], 60)!r}, where the data have "
                f"{short(id, 60)!r}: they have changed; begin anew in another --output-dir"
            )


@dataclass(frozen=True)
class Sampler:
    """Draw answers, score them, and append them to a file.

    score(text, example) -> (answer or None, right). label(path): see arguments.label_of.
    batch_size: answers at a time, of each process; it changes no answer.
    num_workers: see plumbing/loading.py.
    """

    asker: data.Asker
    sampling: rollout.Sampling
    score: Callable
    label: Callable[..., str]
    batch_size: int
    num_workers: int = 0
    protocol: str | None = None

    @property
    def greedy(self) -> rollout.Sampling:
        """The likeliest answers, of the same length at the most."""
        return replace(self.sampling, temperature=0, top_p=1.0, top_k=0)

    def question(self, example: Example) -> str:
        """Return the question as the template puts it."""
        return question_text(example, self.asker.template)

    def spells_reserved(self, text: str) -> bool:
        """Tell whether a text has a token like <|im_end|>, spelt letter by letter."""
        return any(token in text for token in self.asker.processor.special.reserved)

    def fits(self, ask: Example) -> bool:
        """Tell whether a whole user turn and a longest answer fit the model's context."""
        try:
            return bool(self.asker.verbatim().check([ask], self.sampling.max_tokens))
        except UserError:
            return False

    def sample(
        self,
        path: Path,
        policy: torch.nn.Module,
        asks: list[Example],
        examples: list[Example],
        G: int,
        seed: int,
        sampling: rollout.Sampling,
        describe: str = "",
        **more,
    ) -> list[dict]:
        """Append G answers of each ask to the file `path`; returns its lines, in order.

        asks: examples whose question is the whole user turn. examples: what they are scored as.
        more: keys for every line.
        """
        step = max(1, self.batch_size // G)  # questions of a process at a time
        file = records.Lines(path, self.label(path), step * G * ranks.world(), len(asks) * G)
        ids = [example.id for example in examples for _ in range(G)]
        ranks.from_first(lambda: check_order(file, ids))
        asker = self.asker.verbatim()

        def own(first: int, end: int) -> range:
            part = ranks.share((end - first) // G)
            return range(first // G + part.start, first // G + part.stop)

        def answers(first: int, end: int) -> list[dict]:
            questions = own(first, end)
            texts, lengths, finish = rollout.answer_all(
                policy,
                asker,
                [asks[n] for n in questions],
                sampling,
                G,
                batch_size=step * G,
                seed=seed,
                first_row=questions.start * G,
                batches=batches,
            )
            lines = []
            rows = zip(texts, lengths, finish)
            for row, (text, tokens, ending) in enumerate(rows, questions.start * G):
                example = examples[row // G]
                answer, right = None, False
                if not self.spells_reserved(text):  # which no training text may
                    answer, right = self.score(text, example)
                line = {"id": example.id, **more, "sample": row % G, "completion": text}
                line |= {"answer": answer, "right": right, "readable": answer is not None}
                lines.append(line | {"tokens": tokens, "finish": ending})
            return sum(ranks.gathered(lines), [])

        questions = [own(batch.start, batch.stop) for batch in file.left()]
        ahead = rollout.prompts_ahead(asker, asks, sampling, questions, self.num_workers)
        with ahead as batches:
            return file.fill(answers, describe)

    def continue_blind(
        self,
        path: Path,
        policy: torch.nn.Module,
        chosen: list[dict],
        asks: list[Example],
        ratio: float,
        seed: int,
    ) -> list[dict]:
        """Append to `path` how the policy continues each text's beginning without the image.

        chosen: pool lines. asks: for each an example whose question is the whole user turn.
        ratio: share of the words that is kept.
        Returns [{"id", "sample", "prefix", "continuation", "tokens"}, ...]: DropoutNTP of MPO.
        """
        label = self.label(path, [line["completion"] for line in chosen])
        file = records.Lines(path, label, self.batch_size, len(chosen))
        check_order(file, [line["id"] for line in chosen])
        asker, processor = self.asker.verbatim(), self.asker.processor

        def continuations(first: int, end: int) -> list[dict]:
            lines, prompts = [], []
            for line, ask in zip(chosen[first:end], asks[first:end]):
                prefix = pools.truncate_words(line["completion"].strip(), ratio)
                prompt = asker.prompt(pools.blind(ask), 2 * self.sampling.max_tokens)
                prompts.append(data.append_response(prompt, prefix, processor))
                lines.append({"id": line["id"], "sample": line["sample"], "prefix": prefix})
            roll = rollout.rollout(
                policy, prompts, processor.special, 1, self.sampling, seed, first
            )
            for line, ids, tokens in zip(lines, roll.targets, roll.lengths.tolist()):
                line |= {"continuation": processor.decode(ids[:tokens]), "tokens": tokens}
            return lines

        return file.fill(continuations, "continue without the image")


# --- what an iteration samples and builds ---


def sample_pool(
    folder: Path,
    t: int,
    policy: torch.nn.Module,
    sampler: Sampler,
    examples: dict[str, Example],
    shares: tuple[int, int],
    seed: int,
) -> tuple[list[dict], dict[str, float]]:
    """Sample answers to every question into POOLS: (pool lines, {metric: share of them}).

    shares: samples of a question that are asked for plainly, and with an instruction.
    """
    questions, pool = list(examples.values()), []
    kept.keep_questions(folder / "questions_pool.jsonl", questions[: kept.MOST])
    plain = [sampler.question(example) for example in questions]
    instructed = [pools.instructed(text, e.task) for text, e in zip(plain, questions)]
    for n, (name, K, texts) in enumerate(zip(POOLS, shares, (plain, instructed))):
        if K:
            asks = [with_question(example, text) for example, text in zip(questions, texts)]
            pool += sampler.sample(
                folder / name,
                policy,
                asks,
                questions,
                K,
                (seed * 100 + t) * 10 + n,
                sampler.sampling,
                f"iteration {t}: sample",
                iteration=t,
            )
    known = [line for line in pool if examples[line["id"]].answer]  # else right is unknown
    return pool, {f"pool/{kind}": share for kind, share in pools.shares_of(known).items()}


def sample_hinted(
    folder: Path,
    t: int,
    policy: torch.nn.Module,
    sampler: Sampler,
    examples: dict[str, Example],
    pool: list[dict],
    seed: int,
) -> list[dict]:
    """Ask the questions without a right sample again, with the answer as a hint (STaR)."""
    sorts = pools.sort_pool(pool)
    failed = [examples[id] for id, (right, _, _) in sorts.items() if not right]
    asks = [
        with_question(example, pools.hint_prompt(sampler.question(example), example.answer))
        for example in failed
    ]
    return sampler.sample(
        folder / "hinted.jsonl",
        policy,
        asks,
        failed,
        1,
        seed,
        sampler.greedy,
        f"iteration {t}: with the answer as a hint",
        iteration=t,
    )


def read_pools(
    out: Path, t: int, shares: tuple[int, int], questions: int, label: Callable
) -> list[dict]:
    """Read the pools of the iterations before t. UserError if one is damaged."""
    lines = []
    for i in range(1, t):
        for name, K in zip(POOLS, shares):
            path = out / f"iteration-{i}" / name
            remedy = iterations.remade(out, i)
            lines += records.finished_lines(path, label(path), K * questions, remedy)
    return lines


def items_from_pools(
    folder: Path,
    t: int,
    policy: torch.nn.Module,
    sampler: Sampler,
    examples: dict[str, Example],
    pool: list[dict],
    shares: tuple[int, int],
    build: Callable,
    tasks: list[str],
    hints: bool,
    seed: int,
) -> tuple[list[dict], dict[str, float]]:
    """Build what is imitated from all pools: (items that fit the context, {metric: count}).

    shares: as in `sample_pool`. build: a method's, for these `tasks`. hints: whether to ask again
    what went wrong, with the answer. Raises UserError if nothing is built.
    """
    hinted = sample_hinted(folder, t, policy, sampler, examples, pool, seed) if hints else []
    before = read_pools(folder.parent, t, shares, len(examples), sampler.label)
    template = sampler.asker.template
    built, counts = build(
        examples,
        before + pool,
        sampler.question,
        seed=seed * 100 + t,
        hinted=hinted,
        instruction=SELECT.get(template),
        bare=template in pools.BARE_ANSWERS,
    )
    items = [
        item for item in built if sampler.fits(with_question(examples[item["id"]], item["prompt"]))
    ]
    counts["too_long"] = len(built) - len(items)
    counts |= {task: sum(item["task"] == task for item in items) for task in tasks}
    shares = pools.shares_of(pool)
    print(
        f"iteration {t}: samples "
        + ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items())
        + f"; of {counts['questions']} questions in all pools {counts['all_right']} all right, "
        f"{counts['mixed']} mixed, {counts['all_wrong']} without a right one; built "
        + ", ".join(f"{counts[task]} {task}" for task in tasks)
    )
    if not items:
        raise UserError(
            f"iteration {t}: nothing was built from {folder}/pool.jsonl, {shares['right']:.1%} of "
            "whose samples are right; start from a model that answers right now and then, or, in "
            "another --output-dir, raise --num-generations or --max-completion-length"
        )
    return items, {f"built/{name}": count for name, count in counts.items()}


def pairs_from_pool(
    folder: Path,
    t: int,
    policy: torch.nn.Module,
    sampler: Sampler,
    examples: dict[str, Example],
    pool: list[dict],
    build: Callable,
    ratio: float | None,
    seed: int,
) -> tuple[list[Pair], dict[str, float]]:
    """Build what is preferred to what from an iteration's pool: (pairs, {metric: value}).

    build: a method's. ratio: DropoutNTP's instead, with this share of the words; None: not.
    Raises UserError if there are no pairs.
    """
    spent, metrics = sum(line["tokens"] for line in pool), {}
    if ratio is None:
        pairs = build(examples, pool, seed * 100 + t)
    else:
        pairs, more, used = pairs_by_dropout(
            folder, t, policy, sampler, examples, pool, ratio, seed
        )
        spent += more
        metrics = {"pairs/tokens_used_per_pair": used}
    pairs = [
        pair
        for pair in pairs
        # No training text may spell such a token.
        if not any(map(sampler.spells_reserved, (pair.chosen, pair.rejected)))
    ]
    if not pairs:
        right = sum(line["right"] for line in pool) / len(pool)
        raise UserError(
            f"iteration {t}: no pair could be made of {folder}/pool.jsonl ({right:.1%} of its "
            "samples are right); raise --num-generations or --max-train-samples, in another "
            "--output-dir"
        )
    kinds = Counter(pair.kind for pair in pairs)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(
        f"iteration {t}: {len(pairs)} pairs ({counted}), {spent / len(pairs):.0f} sampled tokens "
        "a pair"
    )
    counts = {f"pairs/{kind}": count for kind, count in kinds.items()}
    return pairs, {"pairs/tokens_per_pair": spent / len(pairs), **metrics, **counts}


def pairs_by_dropout(
    folder: Path,
    t: int,
    policy: torch.nn.Module,
    sampler: Sampler,
    examples: dict[str, Example],
    pool: list[dict],
    ratio: float,
    seed: int,
) -> tuple[list[Pair], int, float]:
    """Make DropoutNTP's pairs: (pairs, tokens of the continuations, tokens used per pair)."""
    chosen = pools.to_continue(pool)
    asks = []
    for line in chosen:
        example = examples[line["id"]]
        asks.append(with_question(example, sampler.question(example)))
    path, seed = folder / "continuations.jsonl", (seed * 100 + t) * 10 + 9
    ends = sampler.continue_blind(path, policy, chosen, asks, ratio, seed)
    read = protocols.reader(sampler.protocol)
    pairs = pools.continuation_pairs(examples, chosen, ends, read)
    # What --num-generations 1 would have spent.
    used = sum(line["tokens"] for line in chosen + ends) / max(1, len(pairs))
    return pairs, sum(end["tokens"] for end in ends), used


def direct_items(examples: dict[str, Example], template: str) -> list[dict]:
    """Make items that answer every question without reasoning."""
    items = []
    for example in examples.values():
        answer = data.target_text(replace(example, solution=None), template)
        items.append(pools.item_of(example.id, "direct", question_text(example, template), answer))
    return items


def warmup_items(warm: dict[str, Example], template: str) -> list[dict]:
    """Make items of the worked solutions."""
    return [
        pools.item_of(
            id, "warmup", question_text(example, template), data.target_text(example, template)
        )
        for id, example in warm.items()
    ]
