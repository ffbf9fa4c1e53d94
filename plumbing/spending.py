"""What requests cost, what they may cost at most, and how many may go in a minute."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple


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
    reserved: at most, of those on their way.
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
