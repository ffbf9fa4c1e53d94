"""Try the code in somebody else's checkpoint, chat templates and regular expressions, in a child.

The child has a second of CPU time and half a gigabyte: one that loops or grows is refused.
"""

import contextlib
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from plumbing.errors import UserError
from plumbing.fields import REMEDY, first_line, read_object, shown
from plumbing.text import short

CPU_SECONDS = 1.0
MEMORY_BYTES = 512 * 2**20
STUCK_SECONDS = 300  # of the clock: only a child that waits for something needs so long


def bounded(work: Callable, *given):
    """work(*given), a JSON value, from a child with little CPU time and memory.

    None if it took more. The kernel counts CPU time, so that a busy machine makes no difference.
    Windows cannot do that: there it runs here.
    """
    if not hasattr(os, "fork"):
        return work(*given)
    sys.stdout.flush()
    sys.stderr.flush()
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            limit_child()
            with os.fdopen(into, "w") as answer:
                answer.write(json.dumps(work(*given)))
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None


def limit_child() -> None:
    """Limit what this process may take from now on."""
    import resource

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.alarm(STUCK_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # /proc is Linux's
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def chat_template(tokenizer, directory: Path) -> str | dict | None:
    """The tokenizer's chat template, or that of chat_template.json (2024).

    None if there is none, or if it renders nothing of a question that is given in parts: that of
    the base models, which knows no turns, and one of a model that only reads text.
    UserError for one that is broken, or takes more than a second of CPU time or 512 MB.
    """
    directory = Path(directory)
    file = directory / "tokenizer_config.json"
    if (directory / "chat_template.jinja").is_file():
        file = directory / "chat_template.jinja"
    if tokenizer.chat_template is None and (directory / "chat_template.json").is_file():
        file = directory / "chat_template.json"
        tokenizer.chat_template = read_object(file).get("chat_template")
    if tokenizer.chat_template is None:
        return None
    templates = tokenizer.chat_template
    templates = list(templates.values()) if isinstance(templates, dict) else [templates]
    if not all(isinstance(template, str) for template in templates):
        raise UserError(f"{file}: chat_template is {shown(templates[0])}, not a text; {REMEDY}")
    verdict = try_template(tokenizer)
    if verdict not in ("renders", "says nothing"):
        raise UserError(
            f"{file}: its chat template {verdict}; correct it there, or delete it to use "
            "its family's own"
        )
    return tokenizer.chat_template if verdict == "renders" else None


TOO_MUCH = f"takes more than {CPU_SECONDS:g} s of CPU time, or 512 MB, for a short question"
_TRIED = {}  # template: verdict; a reference model's is the policy's


def try_template(tokenizer) -> str:
    """ "renders", "says nothing", or what is wrong with the tokenizer's chat template."""
    key = json.dumps(tokenizer.chat_template)
    if key not in _TRIED:
        _TRIED[key] = bounded(render_samples, tokenizer) or TOO_MUCH
    return _TRIED[key]


def render_samples(tokenizer) -> str:
    """Render a few conversations. The verdict is about the first; all must end."""
    question = "How many red objects are there? " * 40
    words, picture = {"type": "text", "text": question}, {"type": "image"}
    asks = [{"role": "user", "content": [picture] * n + [words]} for n in (0, 1, 2)]
    system = {"role": "system", "content": "Be brief."}
    answer = {"role": "assistant", "content": "Three."}
    verdict = render_sample(tokenizer, asks[:1], question)
    for messages in ([asks[1]], [asks[2]], [system, asks[1]], [asks[1], answer, asks[0]]):
        render_sample(tokenizer, messages, question)
    return verdict


def check_conversation(tokenizer, where: str) -> None:
    """Check that the chat template of a reward model's tokenizer renders question and answer."""
    verdict = bounded(render_turns, tokenizer) or TOO_MUCH
    if verdict != "renders":
        raise UserError(f"{where}: its chat template {verdict}; correct it, or delete it there")


def render_turns(tokenizer) -> str:
    """Render a question and its answer, each given as a text."""
    question = "How many red objects are there? " * 40
    answer = {"role": "assistant", "content": "Three."}
    return render_sample(tokenizer, [{"role": "user", "content": question}, answer], question)


def render_sample(tokenizer, messages: list, question: str) -> str:
    """Render one conversation; say what came of it."""
    from jinja2 import UndefinedError

    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except (TypeError, UndefinedError):  # it takes the content for a text, not for parts
        return "says nothing"
    except MemoryError:
        return "takes more than 512 MB of memory"
    except RecursionError:
        return "calls itself without end"
    except Exception as error:  # a template is a program: it can raise anything
        return f"fails ({first_line(error, 100)})"
    says = question.strip() in rendered and "{'type'" not in rendered
    return "renders" if says else "says nothing"


def render(tokenizer, messages: list[dict], source: str) -> str:
    """Render a prompt.

    UserError if the template fails, places other pictures, or loses or moves a part of a turn.
    """
    remedy = f"correct it in {tokenizer.name_or_path}, or delete it to use its family's own"
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program: it can raise anything
        raise UserError(
            f"{source}: the chat template fails ({first_line(error, 100)}); {remedy}"
        ) from None
    parts = said(messages)
    images, placed = parts.count(IMAGE), rendered.count(IMAGE)
    if placed != images:
        raise UserError(
            f"{source}: the chat template placed {placed} images, not {images}; {remedy}"
        )
    at = 0
    for part in parts:
        at = rendered.find(part, at)
        if at < 0:
            raise UserError(
                f"{source}: the chat template loses or moves {short(part, 40)!r}; {remedy}"
            )
        at += len(part)
    return rendered


IMAGE = "<|image_pad|>"


def said(messages: list[dict]) -> list[str]:
    """List what users and assistants say, in order, with IMAGE for each picture."""
    parts = []
    for message in messages:
        if message["role"] == "assistant":
            parts.append(message["content"].strip())
        if message["role"] == "user":
            parts += [part.get("text", IMAGE).strip() for part in message["content"]]
    return parts


def check_patterns(file: Path, found: dict, modules: list[str], known: list[str]) -> None:
    """Check that the regular expressions of an adapter compile and are quick.

    known: those of our own adapters, which need no try.
    """
    patterns = [found[k] for k in ("target_modules", "exclude_modules") if found.get(k)]
    patterns = [p for p in patterns if isinstance(p, str)]
    patterns += [*(found.get("rank_pattern") or {}), *(found.get("alpha_pattern") or {})]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"{file}: {pattern[:60]!r} is no regular expression ({error}); correct it there, "
                "or fetch the adapter again"
            ) from None
    patterns = [p for p in patterns if p not in known and not re.fullmatch(r"[\w.-]*", p)]
    if patterns and bounded(match_all, patterns, modules) is None:
        raise UserError(
            f"{file}: {patterns[0][:60]!r} takes more than {CPU_SECONDS:g} s to match; "
            "list the names of the modules there instead"
        )


def match_all(patterns: list[str], modules: list[str]) -> bool:
    """Match everything with everything, for the time that it takes."""
    for pattern in patterns:
        for module in modules:
            re.fullmatch(pattern, module)
            re.match(rf"(.*\.)?({pattern})$", module)
    return True
