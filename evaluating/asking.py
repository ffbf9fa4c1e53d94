"""Put questions to a checkpoint: greedily, several times, about its own answers, in other ways."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

import rollout
from data import Asker, Prompt
from evaluating import likelihood
from evaluating.ways import Way
from plumbing.loading import loading
from tasks.example import Example


@dataclass(frozen=True)
class Interview:
    """The questions of an evaluation, and all that is asked about each.

    asked: the questions as they lead. ways: other ways to put them.
    N: samples of each beside the greedy answer. sizes: numbers of samples to select from.
    ranks: the options of each are ranked by their log-probs, too.
    """

    policy: torch.nn.Module
    asker: Asker
    asked: list[Example]
    ways: list[Way]
    sampling: rollout.Sampling
    N: int
    sizes: list[int]
    ranks: bool
    batch_size: int
    seed: int
    num_workers: int

    def prompts_ahead(
        self, size: int, first: int
    ) -> contextlib.AbstractContextManager[Iterator[list[Prompt]]]:
        """Encode the questions from `first` on in worker processes, `size` at a time.

        After each such batch come its questions in every other way, if any is asked in it.
        """
        total = len(self.asked)
        rows = self.asked + [example for way in self.ways for example in way.asked]

        def steps() -> Iterator[list[int]]:
            for start in range(first, total, size):
                places = range(start, min(start + size, total))
                yield list(places)
                for number, way in enumerate(self.ways, 1):
                    here = way.places_in(places)
                    if here:
                        yield [number * total + place for place in here]

        encode = partial(self.asker.prompt, room=self.sampling.max_tokens)
        return loading(encode, rows, steps(), self.num_workers)

    def answers(self, first: int, end: int, batches: Iterator[list[Prompt]]) -> list[dict]:
        """Ask the questions from `first` to `end`, whose prompts are the next of `batches`.

        Returns each question's prediction, prompt_tokens, tokens, samples, sample_tokens and, by
        size, selections and selection_tokens (those of the prompt and of the answer);
        likelihood, as likelihood.choose has it; and ways: {name: prediction, prompt_tokens,
        tokens}.
        """
        examples = self.asked[first:end]
        prompts = next(batches)
        answers = self.greedily(examples, prompts)
        if self.N:
            self.sample(examples, prompts, first, answers)
        if self.sizes:
            self.select(examples, answers)
        for example, prompt, answer in zip(examples, prompts, answers):
            answer["ways"] = {}
            if self.ranks:
                answer["likelihood"] = likelihood.choose(self.policy, self.asker, example, prompt)
        for way in self.ways:
            here = way.places_in(range(first, end))
            if here:
                again = self.greedily([way.asked[place] for place in here], next(batches))
                for place, other in zip(here, again):
                    known = ("prediction", "prompt_tokens", "tokens")
                    answers[place - first]["ways"][way.name] = {key: other[key] for key in known}
        return answers

    def greedily(self, examples: list[Example], prompts: list[Prompt]) -> list[dict]:
        """Ask some questions greedily."""
        greedy = rollout.Sampling(self.sampling.max_tokens, temperature=0)
        texts, lengths, _ = rollout.answer_all(
            self.policy,
            self.asker,
            examples,
            greedy,
            batch_size=self.batch_size,
            batches=iter([prompts]),
        )
        return [
            {
                "prediction": text,
                "prompt_tokens": len(prompt.ids),
                "tokens": tokens,
                "samples": [],
                "sample_tokens": [],
            }
            for text, prompt, tokens in zip(texts, prompts, lengths)
        ]

    def sample(
        self, examples: list[Example], prompts: list[Prompt], first: int, answers: list[dict]
    ) -> None:
        """Add N samples to the answers. first: questions before these, for the random draws."""
        N = self.N
        texts, lengths, _ = rollout.answer_all(
            self.policy,
            self.asker,
            examples,
            self.sampling,
            N,
            batch_size=self.batch_size,
            seed=self.seed,
            first_row=first * N,
            batches=iter([prompts]),
        )
        for i, answer in enumerate(answers):
            answer["samples"] = texts[i * N : (i + 1) * N]
            answer["sample_tokens"] = lengths[i * N : (i + 1) * N]

    def select(self, examples: list[Example], answers: list[dict]) -> None:
        """Ask which of the first samples is right, for each number of them; add what is said."""
        pairs = [(i, n) for i in range(len(examples)) for n in self.sizes]
        texts, lengths, prompt_lengths = rollout.self_select(
            self.policy,
            self.asker,
            [examples[i] for i, _ in pairs],
            [answers[i]["samples"][:n] for i, n in pairs],
            rollout.Sampling(self.sampling.max_tokens, temperature=0),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
        )
        for (i, n), text, *tokens in zip(pairs, texts, prompt_lengths, lengths):
            answers[i].setdefault("selections", {})[str(n)] = text
            answers[i].setdefault("selection_tokens", {})[str(n)] = tokens
