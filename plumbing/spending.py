"""What requests cost, what they may cost at most, and how many may go in a minute."""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

ENOUGH = 20  # answers, to tell what the next may take


class Price(NamedTuple):
    """Of a million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Compute what so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass
class Spending:
    """What all requests of a command cost, the teacher's and the judge's.

    spent: as the servers count. unsure: at most, of requests that broke off and may be billed.
    reserved: of those on their way, at most or by what was measured (`Measured`).
    """

    budget: float | None = None
    spent: float = 0.0
    unsure: float = 0.0
    reserved: float = 0.0

    def allows(self, cost: float) -> bool:
        """Tell whether a request that may cost this much can be sent."""
        if self.budget is None:
            return True
        return self.spent + self.unsure + self.reserved + cost <= self.budget


@dataclass
class Measured:
    """How many tokens the answers of one stage have taken, and what that says of the next.

    A longest answer is many times a usual one. Were it reserved for each request, a small budget
    would let few go at a time, and end with much of it unspent.
    """

    answers: int = 0
    total: float = 0.0  # completion tokens of all answers
    squares: float = 0.0  # the sum of their squares
    ratio: float = 0.0  # the highest of a prompt's tokens to those that were guessed

    def add(self, guessed: float, prompt: float, completion: float) -> None:
        """Note what an answer took. guessed: tokens of its prompt."""
        self.answers += 1
        self.total += completion
        self.squares += completion**2
        self.ratio = max(self.ratio, prompt / max(1, guessed))

    def expects(self, guessed: float, prompt: float, completion: float) -> tuple[float, float]:
        """Give the tokens to reserve for (prompt, completion), of which so many are possible.

        From ENOUGH answers on: the highest ratio so far; mean and three standard deviations.
        """
        if self.answers < ENOUGH:
            return prompt, completion
        mean = self.total / self.answers
        deviation = math.sqrt(max(0.0, self.squares / self.answers - mean**2))
        return min(prompt, guessed * self.ratio), min(completion, mean + 3 * deviation)


@dataclass(frozen=True)
class Limits:
    """How a server is asked. timeout: seconds of a request until its answer is there."""

    concurrency: int = 8
    max_retries: int = 10
    timeout: float = 600.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Window:
    """What was sent in the last minute, for the rate limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sent = deque()  # [time, tokens]: at most, until the answer tells

    def free_at(self, now: float, tokens: float) -> float:
        """Return the time from which another request of so many tokens may go."""
        while self.sent and self.sent[0][0] <= now - 60:
            self.sent.popleft()
        most, most_tokens = self.limits.requests_per_minute, self.limits.tokens_per_minute
        full = most and len(self.sent) >= most
        if most_tokens and self.sent:
            full = full or sum(entry[1] for entry in self.sent) + tokens > most_tokens
        return self.sent[0][0] + 60 if full else now

    def add(self, now: float, tokens: float) -> list:
        """Note a request; returns its entry, to be corrected."""
        self.sent.append([now, tokens])
        return self.sent[-1]
