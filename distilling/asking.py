"""Ask a stage's requests, and keep the replies as they come."""

import functools
from pathlib import Path

from distilling import prompts
from distilling.replies import Replies
from distilling.stages import STAGES, Request, Settings
from plumbing import records, stopping
from plumbing.text import crc32
from tasks.asks import Ask, Failure
from tasks.example import Example


def seed_of(seed: int, id: str) -> int:
    """Seed one request by its id: no other request changes it."""
    return crc32(f"{seed} {id}")


def requests_of(
    stage: str, examples: dict[str, Example], said: dict[str, dict], settings: Settings
) -> dict[str, Request]:
    """Return {id: request} of the examples that a stage has something to ask about."""
    ask = STAGES[stage].request
    found = {id: ask(example, said[id], settings) for id, example in examples.items()}
    return {id: request for id, request in found.items() if request}


def checksum_of(request: Request, seed: int) -> str:
    """Tell a request from every other, but for its pictures."""
    return records.checksum({"request": request, "seed": seed})


def sampling_of(teacher: object) -> dict:
    """Write how a teacher samples, and how it was loaded; {} if it is no model."""
    sampling = getattr(teacher, "sampling", None)
    names = ("max_tokens", "temperature", "top_p")
    found = {name: getattr(sampling, name) for name in names} if sampling else {}
    return found | getattr(teacher, "loaded", {})


def run_stage(
    path: Path,
    stage: str,
    teacher: object,
    examples: dict[str, Example],
    requests: dict[str, Request],
    seed: int,
) -> dict[str, dict]:
    """Ask what has no reply yet, and return all lines by id, in order.

    A line is {"id", "stage", "model", "sampling", "prompt", "messages", "prefix", "seed", "ask",
    "text", "finish", "prompt_tokens", "completion_tokens", "failed"}, failed: why, or None. A
    server's has its address, "server".
    Ends the process at Ctrl-C, when what is on its way is written.
    """
    seeds = {id: seed_of(seed, f"{stage}:{id}") for id in requests}
    wanted = {id: checksum_of(request, seeds[id]) for id, request in requests.items()}
    by = {"model": teacher.name, "sampling": sampling_of(teacher)}
    server = getattr(teacher, "address", None)
    replies = Replies(path, wanted, by, getattr(teacher, "batch_size", 1), server)
    count_earlier(teacher, replies.lines.values())
    left = replies.left
    if not left:
        return replies.finish()
    by = by | ({"server": server} if server else {})
    make = functools.partial(line_of, stage, by, requests, seeds, wanted)
    asks = [ask_of(stage, id, examples[id], requests[id]) for id in left]
    with stopping.Stop() as stop:
        for ask, reply in teacher.ask(asks, [seeds[id] for id in left]):
            replies.append(make(ask.id.partition(":")[2], reply))
        if stop.requested:
            stop.leave(
                f"stopped in stage {stage}, {len(replies.lines)} of {len(wanted)} replies are in "
                f"{path}; type the command again to go on"
            )
    return replies.finish()


def ask_of(stage: str, id: str, example: Example, request: Request) -> Ask:
    """Make what a teacher is asked of a request."""
    messages = prompts.with_pictures(request.messages, example)
    return Ask(f"{stage}:{id}", messages, request.prefix)


def count_earlier(teacher: object, lines: object) -> None:
    """Count what an earlier start has spent towards --budget."""
    if hasattr(teacher, "count_earlier"):
        for line in lines:
            teacher.count_earlier(line["prompt_tokens"], line["completion_tokens"])


def line_of(
    stage: str, by: dict, requests: dict, seeds: dict, wanted: dict, id: str, reply: object
) -> dict:
    """Make the line of a reply or a failure."""
    request = requests[id]
    line = {"id": id, "stage": stage, **by, "prompt": request.prompt}
    line |= {"messages": request.messages, "prefix": request.prefix}
    line |= {"seed": seeds[id], "ask": wanted[id]}
    if isinstance(reply, Failure):
        empty = {"text": "", "finish": "", "prompt_tokens": 0, "completion_tokens": 0}
        return {**line, **empty, "failed": reply.reason}
    tokens = {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }
    return {**line, "text": reply.text, "finish": reply.finish, **tokens, "failed": None}
