"""A server of the OpenAI protocol in a thread, for tests: it answers, forwards, and fails.

    with ChatServer(faults=["500", None, "half"]) as server:
        ... server.address ...
        server.bodies        what it was asked, in order

A fault, for the request of its number:

    "429", "500", ...    that status                 "429 after 7"  with Retry-After: 7
    "half"               half of the body            "malformed"    a body that is no JSON
    "html"               a page, with status 200     "reset"        the connection is reset
    "stuck"              no answer until the end     "slow"         a byte, and then the same
"""

import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text: object = "Three.", prompt: int = 10, tokens: int = 5, **more: object) -> dict:
    """Write a chat completion. more: of the message; `finish_reason` of the choice."""
    finish = more.pop("finish_reason", "stop")
    message = {"role": "assistant", "content": text} | more
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": 0},
    }


def failure(message: str, **more: object) -> dict:
    """Write an error as OpenAI does."""
    return {"error": {"message": message, "type": "error", "param": None, "code": None} | more}


def question_of(body: dict) -> str:
    """Find what was asked last."""
    content = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
    return content if isinstance(content, str) else content[-1]["text"]


def echo(body: dict) -> tuple[int, dict]:
    """Answer with the question and the seed."""
    return 200, completion(f"{question_of(body)} ({body.get('seed')})")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model", **more} for name, more in self.server.models]
        self.send(200, json.dumps({"object": "list", "data": models}).encode())

    def do_POST(self) -> None:
        server = self.server
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(json.loads(raw))
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.times.append(server.now())
        fault = server.fault(number)
        if fault in ("stuck", "reset", "slow"):
            self.hang(fault)
        elif fault == "html":
            self.send(200, b"<html>a page</html>", kind="text/html")
        elif fault and fault[0].isdigit():
            status, _, after = fault.partition(" after ")
            more = {"Retry-After": after} if after else {}
            self.send(int(status), json.dumps(failure(f"fault {status}")).encode(), more)
        else:
            status, text = (
                self.forward(raw) if server.forward_to else self.own(server.bodies[number])
            )
            if fault == "malformed":
                text = text[: len(text) // 2]
            self.send(status, text, half=fault == "half")

    def own(self, body: dict) -> tuple[int, bytes]:
        status, answer = self.server.answer(body)
        return status, json.dumps(answer).encode()

    def forward(self, raw: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"{self.server.forward_to}/chat/completions",
            raw,
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def send(
        self,
        status: int,
        text: bytes,
        more: dict = {},  # noqa: B006  never changed
        kind: str = "application/json",
        half: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text[: len(text) // 2] if half else text)
        self.close_connection = self.close_connection or half

    def hang(self, fault: str) -> None:
        if fault == "slow":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"{")
            self.wfile.flush()
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.rfile, self.wfile = open("/dev/null", "rb"), open("/dev/null", "wb")
        else:
            self.server.ended.wait(60)
        self.close_connection = True


class ChatServer(ThreadingHTTPServer):
    """See the head of the file.

    answer: body -> (status, JSON). faults: of the first requests; or number -> fault.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(
        self,
        answer: Callable = echo,
        faults: Sequence[str | None] | Callable = (),
        models: Sequence[tuple[str, dict]] = (("m", {}),),
        forward_to: str | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.models, self.forward_to = answer, models, forward_to
        self.fault = faults if callable(faults) else dict(enumerate(faults)).get
        self.bodies, self.headers, self.times = [], [], []
        self.now = lambda: 0.0
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.address = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> "ChatServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        pass  # a client that went away
