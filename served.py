"""A teacher behind an address: any server of the OpenAI protocol, by the `openai` client.

    many requests at once       as --teacher-concurrency says
    what fails for now          is asked again: exponential backoff with jitter, or Retry-After
    what fails for good         is a Failure of that one ask, or stops the command
    what could exceed --budget  is not sent

The loop in `Round` decides all of this. A thread sends one request, and says what came of it.
The client's own retries are off: they know neither the budget nor the other requests, sleep
through Ctrl-C, and give up on an answer that is no JSON.
"""

import queue
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from plumbing import stopping
from plumbing.address import KEY, api_key, make_client, without_key
from plumbing.errors import UserError
from plumbing.spending import Limits, Measured, Price, Spending, Window
from plumbing.text import short
from tasks.asks import Ask, Failure, Reply, prompt_bound, to_wire
from tasks.replies import Again, Arrived, Without, read_completion, retry_after

TICK = 0.5  # seconds between two looks at the clock and at Ctrl-C
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds of the backoff
PATIENCE = 3600  # seconds: a server that says to wait longer is not waited for
ALL_REFUSED = 20  # asks refused one after the other, and none answered: no fault of theirs
FOR_ALL = (429, 502, 503, 504)  # states of the server, which the other requests would meet too
FOR_NOW = (408, 409, 425)  # worth another try, as is everything from 500 on
CONTINUING = ("vllm", "sglang", "llamacpp")  # who continues an answer that is begun
OPTIONAL = ("max_tokens", "temperature", "top_p", "seed")  # some models refuse them
UNSUPPORTED = re.compile(r"[Uu]nsupported (?:parameter|value): '(\w+)'")

Outcome = Arrived | Again | Without | UserError


# --- the teacher ---


class Clock:
    """The time, and waiting: tests have another."""

    def now(self) -> float:
        """Return seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass: nothing is on its way."""
        time.sleep(seconds)

    def wait(self, results: queue.SimpleQueue, seconds: float) -> tuple | None:
        """Wait for the next result, so long at most; None if there was none."""
        try:
            return results.get(timeout=seconds)
        except queue.Empty:
            return None


class ServedTeacher:
    """A model behind an address of the OpenAI protocol.

    sampling: a rollout.Sampling; top_k is not in the protocol.
    Raises UserError if the client is missing, or no model is named and the server has several.
    """

    def __init__(
        self,
        address: str,
        model: str | None,
        sampling: object,
        price: Price | None = None,
        limits: Limits | None = None,
        spending: Spending | None = None,
        max_pixels: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.address, self.sampling, self.max_pixels = address, sampling, max_pixels
        self.loaded = {"max_pixels": max_pixels} if max_pixels else {}
        self.price, self.limits = price or Price(), limits or Limits()
        self.spending = spending or Spending()
        self.clock = clock or Clock()
        self.key = api_key(address)
        self.client = make_client(address, self.key, self.limits.timeout)
        self.window = Window(self.limits)
        self.parameters = self.sampled()
        self.tokens = [0, 0]  # of prompts, of completions
        self.ratio = 1.0  # by which the guess of `prompt_bound` was too low
        self.answered = self.succeeded = self.refused = 0  # answers of any kind, Replies, Failures
        self.troubles, self.hold_until = 0, 0.0  # of the server, one after the other
        self.name = model or self.only_model()

    def sampled(self) -> dict:
        """Write the sampling as the protocol has it."""
        sampling = self.sampling
        given = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        return given | ({"top_p": sampling.top_p} if sampling.top_p < 1 else {})

    def ask(
        self, asks: Sequence[Ask], seeds: Sequence[int]
    ) -> Iterator[tuple[Ask, Reply | Failure]]:
        """Ask, several at a time; yields each answer once, as they come.

        Told to stop (stopping.Stop), sends nothing more, and yields what is on its way.
        Raises UserError, after what is on its way: budget spent, key refused, server gone.
        """
        if any(ask.prefix for ask in asks):
            self.must_continue()
        return Round(self, asks, seeds).run()

    def count_earlier(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count towards the budget what an earlier start of the command has spent."""
        self.spending.spent += self.price.of(prompt_tokens, completion_tokens)

    # --- one request, in a thread of its own ---

    def request(self, ask: Ask, seed: int) -> Outcome:
        """Send one request, and say what came of it."""
        import openai

        given = {"seed": seed % 2**31} | self.parameters  # llama.cpp takes no larger seed
        given = {name: value for name, value in given.items() if value is not None}
        try:
            messages, more = to_wire(ask, self.max_pixels), {}
            if ask.prefix:
                messages.append({"role": "assistant", "content": ask.prefix})
                more = {"continue_final_message": True, "add_generation_prompt": False}
            completion = self.client.chat.completions.create(
                model=self.name, messages=messages, extra_body=more or None, **given
            )
        except UserError as error:  # of a picture
            return Arrived(Failure(short(error)), (0, 0), answered=False)
        except openai.APIStatusError as error:
            return self.of_status(error, given)
        except openai.APITimeoutError:
            return self.too_late()
        except openai.APIConnectionError as error:
            return self.of_connection(error)
        except ValueError as error:  # json's and pydantic's
            return Again(f"its answer is not JSON ({short(error, 80)})")
        outcome = read_completion(completion, ask.prefix, prompt_bound(ask))
        if isinstance(outcome, Again):
            return outcome._replace(reason=without_key(outcome.reason, self.key))
        first, *others = outcome.result  # the text, or the reason
        result = type(outcome.result)(without_key(first, self.key), *others)
        return outcome._replace(result=result)

    def is_alive(self) -> bool:
        """Ask something easy, to tell a bad ask from a bad server."""
        easy = Ask("is it alive", [{"role": "user", "content": "Hello"}])
        outcome = self.request(easy, 0)
        if isinstance(outcome, Arrived):
            self.spending.spent += self.price.of(*outcome.usage or (0, 0))
        return isinstance(outcome, Arrived)

    def too_late(self) -> Again:
        """Say that an answer has not come in time."""
        reason = f"no answer within --request-timeout {self.limits.timeout:g} s"
        return Again(reason, answered=False)

    def of_status(self, error: object, given: dict) -> Outcome:
        """Tell what an HTTP error means. given: the parameters that were sent."""
        status, said = error.status_code, self.said(error)
        unsupported = UNSUPPORTED.search(said)
        name = unsupported[1] if unsupported else error.param
        is_unsupported = unsupported or str(error.code).startswith("unsupported_")
        if status in (400, 422) and is_unsupported and name in OPTIONAL and name in given:
            return Without(name)
        if status in (401, 403):
            remedy = f"export {KEY}=... with a key of that server"
            return UserError(f"{self.address} refuses the key ({said}); {remedy}")
        if status == 402 or error.code == "insufficient_quota":
            return UserError(f"{self.address}: no credit is left ({said}); add some, and go on")
        if status in (404, 405):
            return UserError(
                f"{self.address} has no such page or model as {self.name} ({said}); correct "
                "--teacher or --judge, most of which end in /v1, or the model's name"
            )
        if status in FOR_ALL or status in FOR_NOW or status >= 500:
            after = retry_after(error.response.headers)
            return Again(f"{status}: {said}", after, status in FOR_ALL, billed=False)
        return Arrived(Failure(f"{status}: {said}"), (0, 0))

    def of_connection(self, error: object) -> Outcome:
        """Tell what a connection that failed or broke means."""
        cause = error.__cause__ or error
        never = type(cause).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")
        said = self.said(cause) or type(cause).__name__
        if never and not self.answered:
            return UserError(
                f"{self.address} does not answer ({said}); start the server, or correct the address"
            )
        reason = f"the connection failed ({said})"
        return Again(reason, for_all=never, billed=not never, answered=not never)

    def said(self, error: object) -> str:
        """Say an error in one line, without the key: some servers repeat it."""
        return short(without_key(message_of(error), self.key))

    # --- what the server has ---

    def models(self) -> list:
        """List the server's models. UserError if that fails."""
        import openai

        try:
            found = list(self.client.models.list())
        except openai.OpenAIError as error:
            said = self.said(error.__cause__ or error)
            raise UserError(
                f"{self.address} does not list its models ({said}); start the server or correct "
                f"the address, most of which end in /v1, set {KEY} if it wants a key, or name the "
                "model by --teacher-model or --judge-model"
            ) from None
        except (ValueError, AttributeError, TypeError):
            found = []
        return [model for model in found if isinstance(getattr(model, "id", None), str)]

    def only_model(self) -> str:
        """Return the name of the one model that the server has. UserError if there are more."""
        names = [model.id for model in self.models()]
        if len(names) != 1:
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise UserError(
                f"{self.address} has {len(names)} models{': ' if names else ''}{short(some)}; "
                "name one by --teacher-model or --judge-model"
            )
        return names[0]

    def must_continue(self) -> None:
        """Raise UserError unless the server is known to continue an answer that is begun."""
        owners = {getattr(model, "owned_by", None) for model in self.models()}
        if not owners & {*CONTINUING}:
            raise UserError(
                f"{self.address} is not known to continue an answer that is begun: vLLM, SGLang "
                "and llama.cpp do (continue_final_message); serve the model by one of them, or "
                "name its checkpoint as the teacher"
            )


def message_of(error: object) -> str:
    """Find what an error says: servers put it under several keys."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        found = [body.get(key) for key in ("message", "detail", "error") if body.get(key)]
        body = found[0] if found else None
    return str(body or getattr(error, "message", None) or error)


# --- the loop ---


@dataclass
class Job:
    """An ask on its way. tries: that failed by its own fault. entry: in the Window."""

    ask: Ask
    seed: int
    tries: int = 0
    due: float = 0.0
    tokens: int = 0
    cost: float = 0.0  # that is reserved for it
    deadline: float = 0.0
    entry: list = field(default_factory=list)


class Round:
    """One call of ServedTeacher.ask: who is asked when, and what is made of what comes back."""

    def __init__(self, teacher: ServedTeacher, asks: Sequence[Ask], seeds: Sequence[int]) -> None:
        self.teacher, self.clock = teacher, teacher.clock
        self.total = len(asks)
        self.fresh = iter(zip(asks, seeds, strict=True))
        self.later: list[Job] = []  # to be asked again, or that could not be sent yet
        self.running: dict[int, Job] = {}
        self.numbers = 0
        self.results = queue.SimpleQueue()
        self.jitter = random.Random()  # of its own: others count on the global numbers
        self.end: UserError | None = None
        self.exhausted, self.trouble = False, ""  # all have been asked; why the last failed for now
        self.wake = 0.0  # when something may be sent again
        self.most = teacher.sampling.max_tokens
        self.measured = Measured()

    def run(self) -> Iterator[tuple[Ask, Reply | Failure]]:
        """Yield the answers; see ServedTeacher.ask."""
        title, few = f"ask {short(self.teacher.name, 30)}", self.total < 2
        with tqdm(total=self.total, desc=title, leave=False, disable=few) as bar:
            while True:
                going_on = self.end is None and not stopping.requested()
                if going_on:
                    for answer in self.start():
                        bar.update()
                        yield answer
                waiting = going_on and bool(self.later or not self.exhausted)
                if not self.running and not waiting:
                    break
                bar.set_postfix_str(self.state(), refresh=False)
                for answer in self.next_answers():
                    bar.update()
                    yield answer
        if self.end:
            raise self.end

    def state(self) -> str:
        """Say in a few words how it goes, for the progress bar."""
        teacher = self.teacher
        words = f"{sum(teacher.tokens):,} tokens"
        if any(teacher.price):
            words += f", cost {teacher.spending.spent:.4g}"
        if self.later and self.trouble:
            words += f", {len(self.later)} again ({short(self.trouble, 40)})"
        return words

    # --- sending ---

    def start(self) -> Iterator[tuple[Ask, Failure]]:
        """Send what may be sent now; yields what cannot be sent at all."""
        teacher, now = self.teacher, self.clock.now()
        self.wake = now + TICK
        most = teacher.limits.concurrency
        if teacher.spending.budget is not None and not teacher.answered:
            most = 1  # the first answer tells how the server counts
        while len(self.running) < most and not self.end:
            if teacher.hold_until > now:
                self.wake = min(self.wake, teacher.hold_until)
                return
            job = self.next_job(now)
            if job is None:
                return
            failure = self.measure(job)
            if failure:
                yield job.ask, failure
            elif not self.may_go(job, now):
                self.later.append(job)
                return
            else:
                self.send(job, now)

    def next_job(self, now: float) -> Job | None:
        """Take what is due to be asked again, or else a fresh ask."""
        due = min(self.later, key=lambda job: job.due, default=None)
        if due is not None and due.due <= now:
            self.later.remove(due)
            return due
        if due is not None:
            self.wake = min(self.wake, due.due)
        given = next(self.fresh, None)
        if given is None:
            self.exhausted = True
            return None
        return Job(*given)

    def measure(self, job: Job) -> Failure | None:
        """Guess how long a job's prompt is, once; a Failure if a picture cannot be opened."""
        try:
            job.tokens = job.tokens or prompt_bound(job.ask)
        except UserError as error:
            return Failure(short(error))
        return None

    def may_go(self, job: Job, now: float) -> bool:
        """Tell whether rate limits and budget let a job go now; sets `end` if it never will."""
        teacher, spending = self.teacher, self.teacher.spending
        prompt, completion = job.tokens * teacher.ratio, self.most
        free_at = teacher.window.free_at(now, prompt + completion)
        if free_at > now:
            self.wake = min(self.wake, free_at)
            return False
        job.cost = teacher.price.of(*self.measured.expects(job.tokens, prompt, completion))
        if spending.allows(job.cost):
            return True
        if not self.running:
            left = spending.budget - spending.spent - spending.unsure
            self.end = UserError(
                f"stopped before --budget {spending.budget:g} is exceeded: {left:.4g} is left, and "
                f"the next request may cost {job.cost:.4g}; what was answered is kept: raise "
                "--budget, and run the same command again"
            )
        return False

    def send(self, job: Job, now: float) -> None:
        """Send a request, in a thread that nobody waits for at the end of the process."""
        teacher = self.teacher
        teacher.spending.reserved += job.cost
        job.entry = teacher.window.add(now, job.tokens * teacher.ratio + self.most)
        job.deadline = now + teacher.limits.timeout
        self.numbers += 1
        self.running[self.numbers] = job

        def exchange(number: int) -> None:
            try:
                outcome = teacher.request(job.ask, job.seed)
            except BaseException as error:  # a mistake of this code: raised in the main thread
                outcome = error
            self.results.put((number, outcome))

        threading.Thread(target=exchange, args=(self.numbers,), daemon=True).start()

    # --- what comes back ---

    def next_answers(self) -> list[tuple[Ask, Reply | Failure]]:
        """Wait a moment; returns the answer that arrived, if one did."""
        now = self.clock.now()
        wake = min([self.wake, now + TICK, *(job.deadline for job in self.running.values())])
        seconds, arrived = max(0.001, wake - now), None
        if self.running:
            arrived = self.clock.wait(self.results, seconds)
        else:
            self.clock.sleep(seconds)
        if arrived:
            number, outcome = arrived
            job = self.running.pop(number, None)  # None: its time was over, it is asked again
            return self.settled(job, outcome) if job else []
        # Only now: the caller may have been away for long, and answers been here in time.
        now = self.clock.now()
        found = []
        for number in [n for n, job in self.running.items() if job.deadline <= now]:
            found += self.settled(self.running.pop(number), self.teacher.too_late())
        return found

    def settled(self, job: Job, outcome: Outcome) -> list[tuple[Ask, Reply | Failure]]:
        """Count a request that has ended; returns its answer, or plans another try."""
        teacher = self.teacher
        teacher.spending.reserved -= job.cost
        if isinstance(outcome, Arrived):
            return [(job.ask, self.counted(job, outcome))]
        if isinstance(outcome, Again):
            return self.again(job, outcome)
        teacher.answered += not isinstance(outcome, UserError)
        if isinstance(outcome, Without):
            self.do_without(outcome.parameter)
            self.later.append(job)
        elif isinstance(outcome, UserError):
            self.end = self.end or outcome
        else:
            raise outcome
        return []

    def counted(self, job: Job, arrived: Arrived) -> Reply | Failure:
        """Count what an answer took."""
        teacher, result = self.teacher, arrived.result
        prompt, completion = arrived.usage or (job.tokens * teacher.ratio, self.most)
        if arrived.usage:
            teacher.ratio = max(teacher.ratio, prompt / max(1, job.tokens))
            if isinstance(result, Reply):
                self.measured.add(job.tokens, prompt, completion)
        teacher.spending.spent += teacher.price.of(prompt, completion)
        job.entry[1] = prompt + completion
        teacher.tokens[0] += round(prompt)
        teacher.tokens[1] += round(completion)
        teacher.answered += arrived.answered
        if isinstance(result, Reply):
            teacher.succeeded += 1
            teacher.troubles = 0
        else:
            teacher.refused += arrived.answered
        if not teacher.succeeded and teacher.refused >= ALL_REFUSED and not self.end:
            self.end = UserError(
                f"{teacher.address} refused the first {teacher.refused} requests and answered "
                f"none ({result.reason}); correct what it names, and begin anew"
            )
        return result

    def again(self, job: Job, outcome: Again) -> list[tuple[Ask, Failure]]:
        """Plan another try of what failed for now, or give it up."""
        teacher, now = self.teacher, self.clock.now()
        most = teacher.limits.max_retries
        self.trouble = outcome.reason
        if outcome.billed:
            teacher.spending.unsure += teacher.price.of(job.tokens * teacher.ratio, self.most)
        teacher.answered += outcome.answered
        if outcome.for_all:
            if teacher.hold_until <= now:  # else another request has met the same trouble
                teacher.troubles += 1
            tries = teacher.troubles
        else:
            job.tries += 1
            tries = job.tries
        if outcome.after is not None and outcome.after > PATIENCE:
            tries = most + 1
        if tries > most and not outcome.for_all and teacher.is_alive():
            return [(job.ask, Failure(f"given up after {tries} tries: {outcome.reason}"))]
        if tries > most:
            self.end = self.end or UserError(
                f"{teacher.address} gives no answer, asked {tries} times: {outcome.reason}; what "
                "was answered is kept: run the same command again when the server is back"
            )
            return []
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (tries - 1)) * self.jitter.uniform(0.5, 1)
        job.due = now + max(delay, outcome.after or 0.0)
        if outcome.for_all or outcome.after:
            teacher.hold_until = max(teacher.hold_until, job.due)
        self.later.append(job)
        return []

    def do_without(self, parameter: str) -> None:
        """Send a parameter no more, or as newer models call it."""
        given = self.teacher.parameters
        if given.get(parameter, 0) is None:
            return  # several requests were on their way
        change = "is left to the model"
        if parameter == "max_tokens":
            given["max_completion_tokens"], change = given[parameter], "is max_completion_tokens"
        given[parameter] = None
        tqdm.write(f"{self.teacher.name} does not take {parameter}: it {change}")
