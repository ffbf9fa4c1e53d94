"""What is published about a question set: how its records look, how it is asked and scored.

Each set is a file that ends in one Protocol; tasks/published.py lists the sets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from grading.answers import choice_index, extract_answer
from grading.boxes import predicted_boxes
from grading.tags import answer_line
from tasks.example import Example
from tasks.marked_answers import marked_answer

Scorer = Callable[[str, Example], float]  # (completion, example) -> 0.0 or 1.0
Reader = Callable[[dict, str], tuple[dict, dict]]  # (record, where) -> (fields, meta)
# (completion or the reply before, example) -> what a judge is asked; None: it need not be
JudgeStep = Callable[[str, Example], str | None]


def no_fields(meta: dict) -> dict:
    """Add nothing to a scored row."""
    return {}


def no_totals(rows: list[dict]) -> dict:
    """Add nothing to a set's figures."""
    return {}


def as_it_is(record: dict) -> dict:
    """Take a saved record as it is."""
    return record


def any_gold(answer: str) -> None:
    """Accept any gold answer."""


@dataclass(frozen=True)
class Protocol:
    """A published question set."""

    name: str  # of --protocol
    sample: dict  # a record as the set's files have it

    # how it is read: (the keys by which a record is recognised, its reader), see layouts.to_example
    layouts: tuple[tuple[set[str], Reader], ...] = ()
    saved: Callable[[dict], dict] = as_it_is  # a saved output in the set's form -> in ours
    check_gold: Callable[[str], None] = any_gold  # ValueError for a gold that cannot be scored

    # how it is asked: `none` where the questions hold their instructions
    template: str = "none"  # a name in prompts.TEMPLATES
    templates: dict[str, str] = field(default_factory=dict)  # what it adds to TEMPLATES
    selects: dict[str, str] = field(default_factory=dict)  # what it adds to SELECT

    # how it is scored: by our rule, and by its authors' rule (bugs included) where that is known
    score: Scorer | None = None  # None: no evaluation of it is published
    published_score: Scorer | None = None  # TimeoutError where math-verify is late
    also_published: Scorer | None = None

    # where its authors ask an LLM: what it is asked, step by step, and the score of its last reply
    judge_steps: tuple[JudgeStep, ...] = ()
    judge_score: Scorer | None = None  # (reply, example); ValueError for one that says nothing

    # what an answer is: its body in tags, unless one of these says otherwise
    boxes: bool = False  # boxes
    unsized_boxes: str = "norm1000"  # how they are written where no picture size is known
    unlabelled: bool = True  # the question names what to find, so that labels say nothing more
    on_a_line: bool = False  # may follow "Answer:", see tags.answer_line
    reads: Callable[[str], str | None] | None = None  # read by this function
    marked: bool = False  # may be marked in words, see marked_answers
    phrases: bool = False  # and may then be words without a mark
    choose: bool = False  # one of the choices

    # figures of the set: accuracy apart by these fields of a record, and what `totals` adds
    by: tuple[str, ...] = ()
    more_fields: Callable[[dict], dict] = no_fields  # a record's meta -> more fields of its row
    # It may first set in the rows what the authors' rule decides over all of them.
    totals: Callable[[list[dict]], dict] = no_totals

    def body(self, completion: str) -> str | None:
        """Read the answer as text; None if there is none."""
        if self.reads:
            return self.reads(completion)
        if self.marked:
            return marked_answer(completion, self.phrases)
        return answer_line(completion) if self.on_a_line else extract_answer(completion)

    def read(self, completion: str, example: Example) -> str | list[dict] | None:
        """Read what is scored: boxes in pixels, or the answer's text.

        None if it cannot be read. Where a choice is asked for, it must name one of the choices.
        """
        if self.boxes:
            return predicted_boxes(completion, example)
        body = self.body(completion)
        if body is None or not (self.choose and example.choices):
            return body
        return body if choice_index(body, example.choices) is not None else None


def mean(rows: list[dict], key: str = "accuracy") -> float:
    """Average a field of the rows; 0 without rows."""
    return sum(row[key] for row in rows) / max(1, len(rows))


def with_options(question: str, choices: list[str] | None) -> str:
    r"""Put lettered options below a question, as R3V does: "Which?\nOptions:\n(A) a\n(B) b"."""
    if not choices:
        return question
    options = [f"\n({chr(65 + i)}) {choice}" for i, choice in enumerate(choices)]
    return question + "\nOptions:" + "".join(options)
