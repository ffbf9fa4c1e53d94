"""Run: python -m pytest -q tests/test_served.py        (10 s on CPU; the server is in a thread)

Teachers behind an address: nothing lost and nothing doubled, whatever the server does; what it
costs; and that the key is seen nowhere. Time is made up: no test waits for a clock.
"""

import base64
import io
import queue
import sys
import time
from contextlib import ExitStack

import pytest
from chat_server import ChatServer, completion, failure
from PIL import Image
from samples import png

from plumbing import address, stopping
from plumbing.errors import UserError
from plumbing.spending import ENOUGH, Limits, Measured, Price, Spending, Window
from rollout import Sampling
from served import ServedTeacher
from tasks.asks import Ask, Failure, Reply, picture_url, prompt_bound
from tasks.replies import retry_after

pytest.importorskip("openai")


class MadeUpClock:
    """Time passes when nothing is on its way, or nothing has come for a moment of real time.

    then: {seconds: what to do when so much has passed}. moment: long, unless a server hangs.
    """

    def __init__(self, then: dict | None = None, moment: float = 30) -> None:
        self.time, self.then, self.moment = 0.0, dict(then or {}), moment

    def now(self) -> float:
        return self.time

    def pass_by(self, seconds: float) -> None:
        self.time += seconds
        for due in [due for due in self.then if due <= self.time]:
            self.then.pop(due)()

    def sleep(self, seconds: float) -> None:
        self.pass_by(seconds)

    def wait(self, results: queue.SimpleQueue, seconds: float) -> tuple | None:
        try:
            return results.get(timeout=self.moment)
        except queue.Empty:
            self.pass_by(seconds)
            return None


def teacher_of(server, concurrency=4, clock=None, **more):
    """A teacher of a test's server, and a made-up clock that the server goes by too."""
    limits = {name: more.pop(name) for name in [*more] if name in Limits.__dataclass_fields__}
    more.setdefault("sampling", Sampling(max_tokens=20, temperature=0.7))
    clock = clock or MadeUpClock()
    server.now = clock.now
    limits = Limits(concurrency=concurrency, **limits)
    return ServedTeacher(server.address, "m", limits=limits, clock=clock, **more)


def asks(number=12, **more):
    return [Ask(f"q{i}", [{"role": "user", "content": f"q{i}"}], **more) for i in range(number)]


def answers_of(teacher, number=12):
    """Ask questions: {id: answer}, each of them once."""
    found = list(teacher.ask(asks(number), range(number)))
    assert len({ask.id for ask, _ in found}) == len(found)
    return {ask.id: answer for ask, answer in found}


def right(number=12):
    return {f"q{i}": Reply(f"q{i} ({i})", 10, 5, "stop") for i in range(number)}


def one(server, ask=None, **more):
    """Ask one question: its answer."""
    [(_, answer)] = teacher_of(server, **more).ask([ask or asks(1)[0]], [0])
    return answer


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(address.KEY, "sk-very-secret-key")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return "sk-very-secret-key"


# --- what is sent ---


def test_a_request_has_everything(tmp_path):
    (tmp_path / "a.png").write_bytes(png(40, 30, "blue"))
    parts = [{"type": "image", "image": tmp_path / "a.png"}, {"type": "text", "text": "How many?"}]
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": parts},
    ]
    with ChatServer() as server:
        teacher = teacher_of(server, sampling=Sampling(20, 0.7, top_p=0.9))
        list(teacher.ask([Ask("a", turns)], [2**40 + 7]))
    [body], [headers] = server.bodies, server.headers
    assert headers["authorization"] == "Bearer sk-very-secret-key"
    assert {name: body[name] for name in body if name != "messages"} == {
        "model": "m",
        "max_tokens": 20,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 7,
    }
    assert body["messages"][:3] == turns[:3]
    picture, words = body["messages"][3]["content"]
    assert words == {"type": "text", "text": "How many?"}
    start, encoded = picture["image_url"]["url"].split(",")
    assert start == "data:image/png;base64"
    assert base64.b64decode(encoded) == (tmp_path / "a.png").read_bytes()


def decoded(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def turned_jpeg():
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    "image, most, kind, size, is_same",
    [
        (png(40, 20), None, "PNG", (40, 20), True),
        (png(40, 20, kind="JPEG"), None, "JPEG", (40, 20), True),
        (png(40, 20, kind="JPEG"), 800, "JPEG", (40, 20), True),
        (png(40, 20, kind="JPEG"), 200, "JPEG", (20, 10), False),
        (png(40, 20, kind="BMP"), None, "PNG", (40, 20), False),
        (png(40, 20, kind="WEBP"), None, "PNG", (40, 20), False),
        (turned_jpeg(), None, "JPEG", (20, 40), False),  # not every server turns it
        (Image.new("RGB", (40, 20)), None, "PNG", (40, 20), False),
        (Image.new("RGBA", (40, 20)), None, "PNG", (40, 20), False),
    ],
)
def test_a_picture_goes_out_as_every_server_reads_it(image, most, kind, size, is_same):
    url = picture_url(image, most, "here")
    picture = decoded(url)
    assert url.startswith(f"data:image/{kind.lower()};base64,")
    assert (picture.format, picture.size, picture.mode) == (kind, size, "RGB")
    assert "exif" not in picture.info
    if isinstance(image, bytes):
        assert (base64.b64decode(url.partition(",")[2]) == image) == is_same


def test_transparency_is_white():
    picture = decoded(picture_url(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), None, "here"))
    assert picture.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("image", ["/nowhere/a.png", b"no picture", png()[:60]])
def test_a_bad_picture_is_a_failure_of_its_own(image):
    parts = [{"type": "image", "image": image}, {"type": "text", "text": "How many?"}]
    bad = Ask("bad", [{"role": "user", "content": parts}])
    with ChatServer() as server:
        found = list(teacher_of(server).ask([*asks(2), bad], range(3)))
    answers = {ask.id: answer for ask, answer in found}
    assert isinstance(answers["bad"], Failure) and "bad: " in answers["bad"].reason
    assert {id: answers[id] for id in ("q0", "q1")} == right(2) and len(server.bodies) == 2


# --- nothing lost, nothing doubled ---


FAULTS = "429 500 502 503 408 half malformed html reset stuck slow".split() + ["429 after 7"]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_for_now_is_asked_again(fault):
    with ChatServer(faults=[None, fault, None, fault, fault]) as server:
        clock = MadeUpClock(moment=0.02 if fault in ("stuck", "slow") else 30)
        teacher = teacher_of(server, clock=clock, timeout=5, price=Price(1, 1))
        assert answers_of(teacher) == right()
    assert teacher.tokens == [120, 60] and teacher.spending.reserved == pytest.approx(0)
    assert teacher.spending.spent == pytest.approx(180e-6)


def test_faults_of_all_kinds_at_random():
    import random

    draw = random.Random(1)
    kinds = [None] * 8 + [fault for fault in FAULTS if fault not in ("stuck", "slow")]
    drawn = [draw.choice(kinds) for _ in range(400)]
    with ChatServer(faults=drawn) as server:
        assert answers_of(teacher_of(server, concurrency=8), 100) == right(100)


def test_a_first_request_that_fails_is_asked_again():
    with ChatServer(faults=["503"] * 3) as server:
        assert answers_of(teacher_of(server, concurrency=1), 2) == right(2)


@pytest.mark.parametrize("fault", ["500", "malformed", "html"])
def test_one_ask_that_always_fails_is_given_up_and_the_others_are_answered(fault):
    with ChatServer() as server:
        poisoned = lambda number: fault if server.bodies[number]["seed"] == 3 else None  # noqa: E731
        server.fault = poisoned
        [(_, answer)] = teacher_of(server, max_retries=3).ask(asks(1), [3])  # no other is left
        assert isinstance(answer, Failure)
        server.bodies.clear()
        answers = answers_of(teacher_of(server, max_retries=3))
        tries = sum(body["seed"] == 3 for body in server.bodies)
    given_up = answers.pop("q3")
    assert isinstance(given_up, Failure) and given_up.reason.startswith("given up after 4 tries: ")
    assert answers == {id: reply for id, reply in right().items() if id != "q3"} and tries == 4


@pytest.mark.parametrize("fault", ["500", "429", "html", "reset"])
def test_a_server_that_never_answers_stops_the_command(fault):
    with ChatServer(faults=lambda number: fault if number >= 5 else None) as server:
        teacher, found = teacher_of(server, concurrency=2), []
        with pytest.raises(UserError, match="gives no answer, asked 11 times") as stop:
            for answer in teacher.ask(asks(), range(12)):
                found.append(answer)
    assert len(found) == 5  # which five depends on who is quicker
    assert all(answer == right()[ask.id] for ask, answer in found)
    assert "run the same command again" in str(stop.value) and "\n" not in str(stop.value)
    assert 60 < teacher.clock.time < 700  # minutes of patience, and no more


def test_a_server_that_was_never_there_is_told_at_once():
    with ChatServer() as server:
        pass
    teacher = teacher_of(server)
    with pytest.raises(UserError, match="does not answer.*start the server"):
        answers_of(teacher)
    assert teacher.clock.time < 2


def test_a_server_that_goes_away_for_a_while():
    with ExitStack() as stack:
        first = stack.enter_context(ChatServer())
        port = first.server_address[1]
        later = []

        def come_back():
            later.append(stack.enter_context(ChatServer(port=port)))

        clock = MadeUpClock({40.0: come_back})
        teacher = teacher_of(first, concurrency=2, clock=clock)
        found = []
        for answer in teacher.ask(asks(), range(12)):
            found.append(answer)
            if len(found) == 4:
                first.__exit__()
                teacher.client._client._transport.close()  # kept connections would live on
        assert {ask.id: answer for ask, answer in found} == right() and len(found) == 12
        assert 40 <= clock.time < 120 and later[0].bodies


def test_the_caller_may_be_away_for_long():
    """Answers that were here in time are not asked for again."""
    with ChatServer() as server:
        teacher = teacher_of(server, timeout=5)
        found = []
        for answer in teacher.ask(asks(), range(12)):
            found.append(answer)
            teacher.clock.time += 100
        assert len(found) == len(server.bodies) == 12


# --- when ---


def test_backoff_doubles_and_has_jitter():
    with ChatServer(faults=["503"] * 8) as server:
        answers_of(teacher_of(server, concurrency=1), 1)
    waits = [after - before for before, after in zip(server.times, server.times[1:])]
    for wait, longest in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60), strict=True):
        assert longest / 2 <= wait <= longest + 0.01
    assert len({round(wait / longest, 3) for wait, longest in zip(waits, (1, 2, 4, 8, 16))}) > 2


@pytest.mark.parametrize("status", ["429", "503", "500"])
def test_retry_after_holds_for_all(status):
    with ChatServer(faults=[None, f"{status} after 50"]) as server:
        assert answers_of(teacher_of(server, concurrency=1), 4) == right(4)
    assert server.times[2] - server.times[1] >= 50
    assert server.times[-1] - server.times[2] < 5


def test_an_absurd_retry_after_is_not_waited_for():
    with ChatServer(faults=["429 after 90000"]) as server:
        teacher = teacher_of(server)
        with pytest.raises(UserError, match="gives no answer"):
            answers_of(teacher)
    assert teacher.clock.time < 10


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "99999999999999999999 Oct 99999999"}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date():
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1000))
    assert 900 < retry_after({"retry-after": soon}) <= 1000


def test_requests_a_minute():
    with ChatServer() as server:
        assert answers_of(teacher_of(server, requests_per_minute=5), 14) == right(14)
    for first, last in zip(server.times, server.times[5:]):
        assert last - first >= 60


def test_tokens_a_minute():
    window = Window(Limits(tokens_per_minute=100))
    assert window.free_at(0, 1000) == 0  # alone it may go: it never could otherwise
    entry = window.add(0, 80)
    assert window.free_at(1, 20) == 1 and window.free_at(1, 21) == 60
    entry[1] = 10  # the server has counted
    assert window.free_at(2, 90) == 2 and window.free_at(60, 1000) == 60


def test_as_many_at_a_time_as_asked_for():
    most = []

    def answer(body):
        with server.lock:
            most.append(1)
        time.sleep(0.01)
        running = sum(most)
        with server.lock:
            most.append(-1)
        seen.append(running)
        return 200, completion("x")

    seen = []
    with ChatServer(answer) as server:
        answers_of(teacher_of(server, concurrency=3), 20)
    assert 1 < max(seen) <= 3


# --- what fails for good ---


@pytest.mark.parametrize(
    "status, error, says",
    [
        (401, failure("Incorrect API key"), "refuses the key .*export OPENAI_API_KEY"),
        (403, failure("No access"), "refuses the key"),
        (404, failure("The model `m` does not exist"), "no such page or model as m .*end in /v1"),
        (402, failure("Insufficient Balance"), "no credit is left"),
        (429, failure("You exceeded", code="insufficient_quota"), "no credit is left"),
    ],
)
def test_what_no_request_survives_stops_with_one_sentence(status, error, says):
    with ChatServer() as server:
        server.answer = lambda body: (status, error) if body["seed"] >= 6 else (200, completion())
        found = []
        with pytest.raises(UserError, match=says) as stop:
            for answer in teacher_of(server, concurrency=3).ask(asks(100), range(100)):
                found.append(answer)
    assert "\n" not in str(stop.value) and len(str(stop.value)) < 400
    assert len(found) == 6 and len(server.bodies) < 12


@pytest.mark.parametrize(
    "status, body, reason",
    [
        (400, failure("maximum context length is 4096"), "400: maximum context length is 4096"),
        (422, {"detail": "Unexpected fields"}, "422: Unexpected fields"),
        (413, {"error": "too large"}, "413: too large"),
        (200, completion("", finish_reason="content_filter"), "refused (content filter)"),
        (200, completion(None, refusal="I can't."), "refused (I can't.)"),
        (200, completion("  "), "empty answer: it said nothing, finish_reason stop"),
        (200, completion(None), "empty answer: it said nothing, finish_reason stop"),
        (
            200,
            completion("", reasoning_content="So", finish_reason="length"),
            "empty answer: it was cut while thinking, finish_reason length",
        ),
        (
            200,
            completion("", reasoning_content="So"),
            "empty answer: it thought, and said nothing, finish_reason stop",
        ),
    ],
)
def test_what_one_request_does_not_survive_is_its_failure(status, body, reason):
    with ChatServer() as server:
        usual = server.answer
        server.answer = lambda sent: (status, body) if sent["seed"] == 3 else usual(sent)
        answers = answers_of(teacher_of(server))
    assert answers.pop("q3") == Failure(reason)
    assert answers == {id: reply for id, reply in right().items() if id != "q3"}
    assert len(server.bodies) == 12


def test_if_all_are_refused_it_stops_soon():
    refuse = lambda body: (400, failure("does not support images"))  # noqa: E731
    with ChatServer(refuse) as server:
        found = []
        with pytest.raises(UserError, match="refused the first 2.*does not support images"):
            for answer in teacher_of(server).ask(asks(500), range(500)):
                found.append(answer)
    assert 20 <= len(found) < 30 and len(server.bodies) == len(found)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        {"choices": []},
        {"choices": None},
        {"choices": "x"},
        {"choices": [None]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": [{"type": "text", "text": "x"}]}}]},
        {"error": {"message": "Provider returned error", "code": 502}},  # OpenRouter, with 200
    ],
)
def test_what_is_no_completion_is_asked_for_again(body):
    with ChatServer() as server:
        usual = server.answer
        server.answer = lambda sent: (200, body) if len(server.bodies) == 2 else usual(sent)
        assert answers_of(teacher_of(server, concurrency=1), 3) == right(3)
    assert len(server.bodies) == 4


HUGE = {"prompt_tokens": 10**30, "completion_tokens": 10**30}  # would use up any budget for good


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "x"}, {"prompt_tokens": -1}, [1, 2], HUGE]
)
def test_without_a_count_tokens_are_guessed_from_above(usage):
    answer = completion("Three.") | {"usage": usage}
    with ChatServer(lambda body: (200, answer)) as server:
        reply = one(server)
    assert reply.text == "Three." and reply.completion_tokens == 6
    assert reply.prompt_tokens == prompt_bound(asks(1)[0])


# --- what it says ---


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_thought_that_is_given_apart_is_joined(name):
    answer = completion("\n\n3", **{name: "\nOne, two, three.\n"})
    with ChatServer(lambda body: (200, answer)) as server:
        assert one(server).text == "<think>\nOne, two, three.\n</think>\n\n3"


def test_a_cut_answer_says_so():
    with ChatServer(lambda body: (200, completion("One, t", finish_reason="length"))) as server:
        assert one(server) == Reply("One, t", 10, 5, "length")


def test_half_a_character_becomes_whole():
    with ChatServer(lambda body: (200, completion("a\ud83db"))) as server:
        assert one(server).text == "a\ufffdb"


@pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize("repeats", [True, False])
def test_a_begun_answer_is_continued(owner, repeats):
    begun = "<think>\nThe picture shows"
    says = completion(f"{begun if repeats else ''} two dogs.")
    with ChatServer(lambda body: (200, says), models=[("m", {"owned_by": owner})]) as server:
        reply = one(server, asks(1, prefix=begun)[0])
    [body] = server.bodies
    assert body["messages"][-1] == {"role": "assistant", "content": begun}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert reply.text == " two dogs."


def test_who_may_not_continue_it_is_not_asked():
    with ChatServer(models=[("m", {"owned_by": "openai"})]) as server:
        with pytest.raises(UserError, match="not known to continue.*vLLM, SGLang"):
            one(server, asks(1, prefix="So")[0])
    assert server.bodies == []


def test_what_the_model_does_not_take_is_left_out(capsys):
    """Newer models of OpenAI: other words for max_tokens, and no temperature."""

    def answer(body):
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use ..."
            return 400, failure(said, param="max_tokens", code="unsupported_parameter")
        if body.get("temperature") is not None:
            said = "Unsupported value: 'temperature' does not support 0.7 with this model."
            return 400, failure(said, param="temperature", code="unsupported_value")
        return 200, completion(f"q{body['seed']} ({body['seed']})")

    with ChatServer(answer) as server:
        assert answers_of(teacher_of(server)) == right()
    assert server.bodies[-1]["max_completion_tokens"] == 20
    printed = capsys.readouterr().out
    assert printed.count("does not take max_tokens: it is max_completion_tokens") == 1
    assert printed.count("does not take temperature: it is left to the model") == 1


# --- the server's models ---


@pytest.mark.parametrize("names", [[], ["a", "b"], [f"model-{i}" for i in range(300)]])
def test_a_model_is_named_where_there_are_several(names):
    with ChatServer(models=[(name, {}) for name in names]) as server:
        with pytest.raises(UserError, match=f"has {len(names)} models.*--teacher-model") as stop:
            ServedTeacher(server.address, None, Sampling())
    assert len(str(stop.value)) < 400


def test_one_model_needs_no_name():
    with ChatServer(models=[("only", {})]) as server:
        assert ServedTeacher(server.address, None, Sampling()).name == "only"


# --- what it costs ---


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("prompt", [10, 40, 4000])  # the guess is above, near, and far below
def test_a_budget_is_not_exceeded(concurrency, prompt):
    price, spent = Price(2, 10), []

    def answer(body):
        spent.append(price.of(prompt, 15))
        return 200, completion("x", prompt, 15)

    budget = 20 * price.of(prompt, 20)
    with ChatServer(answer) as server:
        spending = Spending(budget)
        teacher = teacher_of(server, concurrency, price=price, spending=spending)
        found = []
        with pytest.raises(UserError, match="stopped before --budget .*raise --budget") as stop:
            for given in teacher.ask(asks(1000), range(1000)):
                found.append(given)
    assert budget - 2 * price.of(max(prompt, 100), 20) < sum(spent) <= budget
    assert spending.spent == pytest.approx(sum(spent)) and len(found) == len(spent)
    assert "\n" not in str(stop.value)


def test_a_small_budget_is_used_up_though_a_longest_answer_would_cost_far_more():
    """A longest answer costs 2,000 here, a usual one 15: eight at a time, and little is left."""
    price, at_once = Price(0, 1), []
    with ChatServer(lambda body: (200, completion("x", 10, 15))) as server:
        spending = Spending(4000e-6)
        teacher = teacher_of(
            server, 8, price=price, spending=spending, sampling=Sampling(max_tokens=2000)
        )
        found = []
        with pytest.raises(UserError, match="stopped before --budget"):
            for given in teacher.ask(asks(1000), range(1000)):
                found.append(given)
                at_once.append(spending.reserved)
    assert spending.spent <= 4000e-6 and len(found) == 4000 // 15
    assert max(at_once[30:]) == pytest.approx(7 * 15e-6)  # seven others are on their way


def test_what_an_answer_may_take_is_reckoned_from_enough_of_them():
    measured = Measured()
    for completion_tokens in [10, 30] * (ENOUGH // 2):
        assert measured.expects(100, 150, 2000) == (150, 2000)  # at most, until there are enough
        measured.add(100, 40, completion_tokens)
    assert measured.expects(200, 300, 2000) == pytest.approx((80, 20 + 3 * 10))
    assert measured.expects(200, 60, 35) == (60, 35)  # never above what is possible


def test_a_budget_for_no_request_sends_none():
    with ChatServer() as server:
        with pytest.raises(UserError, match="stopped before --budget 1e-09"):
            answers_of(teacher_of(server, price=Price(1, 1), spending=Spending(1e-9)))
    assert server.bodies == []


def test_what_broke_off_counts_as_billed():
    """The server may have worked on it: the client cannot know."""
    spending = Spending(budget=1e-3)
    with ChatServer(faults=["half", "500"]) as server:
        teacher = teacher_of(server, price=Price(1, 1), spending=spending)
        assert answers_of(teacher, 1) == right(1)
    most = prompt_bound(asks(1)[0]) + 20
    assert spending.unsure == pytest.approx(most / 1e6)
    assert spending.spent == pytest.approx(15e-6) and spending.reserved == pytest.approx(0)


def test_teacher_and_judge_share_a_budget_and_what_an_earlier_start_spent_counts():
    spending = Spending(budget=2e-3)
    with ChatServer() as server:
        teacher = teacher_of(server, 1, price=Price(1, 1), spending=spending)
        judge = teacher_of(server, 1, price=Price(1, 1), spending=spending)
        judge.count_earlier(900, 600)
        assert answers_of(teacher, 10) == right(10)
        with pytest.raises(UserError, match="--budget"):
            answers_of(judge, 40)
    assert 1.5e-3 < spending.spent <= 2e-3


# --- told to stop ---


def test_told_to_stop_it_yields_what_is_on_its_way_and_sends_no_more():
    with ChatServer() as server, pytest.raises(SystemExit) as left, stopping.Stop() as stop:
        found = []
        for answer in teacher_of(server, concurrency=3).ask(asks(500), range(500)):
            found.append(answer)
            if len(found) == 7:
                stop.ask(stopping.SIGINT)
        sent = len(server.bodies)
    assert left.value.code == 130
    assert 7 <= len(found) == sent <= 10
    assert all(isinstance(answer, Reply) for _, answer in found)


def test_told_to_stop_while_it_waits_to_ask_again():
    with pytest.raises(SystemExit), stopping.Stop() as stop:
        clock = MadeUpClock({5.0: lambda: stop.ask(stopping.SIGTERM)})
        with ChatServer(faults=[None, "429 after 3000"]) as server:
            teacher = teacher_of(server, concurrency=1, clock=clock)
            found = list(teacher.ask(asks(), range(12)))
    assert len(found) == 1 and clock.time < 10


# --- the key ---


ECHO = {
    status: (status, failure("Incorrect API key provided: sk-very-secret-key."))
    for status in (400, 401, 403, 404, 429, 500)
}
ECHO[200] = (200, {"error": {"message": "bad key sk-very-secret-key"}})
ECHO[201] = (200, completion("your key is sk-very-secret-key"))


@pytest.mark.parametrize("status", ECHO)
def test_a_server_that_repeats_the_key_does_not_make_us_repeat_it(status, capsys):
    said = ""
    with ChatServer(lambda body: ECHO[status]) as server:
        teacher = teacher_of(server, max_retries=1)
        try:
            said = str(list(teacher.ask(asks(2), range(2))))
        except UserError as error:
            said = str(error)
    printed = capsys.readouterr()
    assert "***" in said and "secret" not in said + printed.out + printed.err


@pytest.mark.parametrize("key", ["sk-bad\nkey", "sk-b\u00e4d-key", "two words", "\x01abcdefg"])
def test_a_key_that_is_none_is_refused_unseen(key, monkeypatch):
    monkeypatch.setenv(address.KEY, key)
    with pytest.raises(UserError, match="no key has") as stop:
        ServedTeacher("http://localhost:1/v1", "m", Sampling())
    assert key.strip() not in str(stop.value)


def test_white_space_around_a_key_and_no_key_at_all(monkeypatch):
    for given, sent in ((" sk-very-secret-key\n", "sk-very-secret-key"), ("", "none")):
        monkeypatch.setenv(address.KEY, given)
        with ChatServer() as server:
            one(server)
        assert server.headers[0]["authorization"] == f"Bearer {sent}"


@pytest.mark.parametrize(
    "given",
    [
        "http://sk-secret@host/v1",
        "http://user:sk-secret@host/v1",
        "https://host/v1?api_key=sk-secret",
        "https://host/v1#sk-secret",
        "http://sk-secret:port/v1",
        "http:///sk-secret",
        "http://[sk-secret",
    ],
)
def test_an_address_with_a_key_is_refused_unseen(given):
    with pytest.raises(ValueError) as stop:
        address.check_address(given)
    assert "secret" not in str(stop.value) and "http" in str(stop.value) + "http"


@pytest.mark.parametrize(
    "given, kept",
    [
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://api.x.com/v1/chat/completions", "https://api.x.com/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_kept_short(given, kept):
    assert address.check_address(given) == kept


@pytest.mark.parametrize(
    "where, warned",
    [
        ("http://localhost:1/v1", False),
        ("http://127.0.0.1:1/v1", False),
        ("http://[::1]:1/v1", False),
        ("https://10.0.0.7/v1", False),
        ("http://10.0.0.7/v1", True),
        ("http://example.com/v1", True),
    ],
)
def test_a_key_that_travels_in_the_open_is_told(where, warned, capsys, monkeypatch):
    address.api_key(where)
    assert ("unencrypted" in capsys.readouterr().out) == warned
    monkeypatch.delenv(address.KEY)
    address.api_key(where)
    assert capsys.readouterr().out == ""


def test_without_the_client_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match="pip install openai"):
        ServedTeacher("http://localhost:1/v1", "m", Sampling())


# --- the numbers of others ---


def test_the_global_numbers_are_left_alone():
    import random

    random.seed(5)
    expected = random.random()
    random.seed(5)
    with ChatServer(faults=["503"]) as server:
        answers_of(teacher_of(server), 3)
    assert random.random() == expected
