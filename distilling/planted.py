"""A teacher for the toy sets that knows the scene, and errs as it is told to.

`--teacher toy` speaks the solutions of the toy sets' teacher (tasks/teacher.py), mistakes and all.
`--judge toy` judges exactly: it compares what a trace says with the scene.
`plant` puts a fault of a known kind into a worked answer, or what only looks like one, so that
recipes/planted_distill.py can count what each filter finds.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from distilling import filters
from distilling.filters import Trace
from distilling.stages import to_trace
from plumbing.errors import UserError
from tasks import drawing
from tasks.asks import Ask, Reply, text_of
from tasks.example import Example

# --- faults ---

# How teachers speak of what they were given. "seen": filters.LEAKS was written with a look at what
# it missed of these. "unseen": without.
LEAKS = {
    "seen": (
        "According to the description, this is so.",
        "The description says where each object is.",
        "Based on the given description, I can go row by row.",
        "As described, the rows are listed from the top.",
        "As the caption notes, there is not much else.",
        "From the caption I know what is there.",
        "The provided reference answer agrees with this.",
        "The reference says so, and my count confirms it.",
        "This matches the reference answer.",
        "Looking at the reference, I should end up with this number.",
        "The reference solution counts the same.",
        "Since the correct answer is given, I only have to explain it.",
        "I was given the answer, so let me see how one comes to it.",
        "We are told that the answer is this.",
        "The given answer fits what I found.",
        "The hint tells me where to look.",
        "Following the hint, I check each row.",
        "The ground truth is the same.",
        "The expected answer is what I have.",
        "I already know the answer, but let me work it out.",
        "The textual description lists four rows.",
        "In the provided text, the rows are numbered.",
        "The user provided a list of the objects.",
        "The user describes a picture with four rows.",
        "I cannot see the image, but its objects are listed.",
        "Without seeing the picture, I rely on the list.",
        "The annotation mentions every object.",
        "Going by the scene description, I can answer this.",
        "The metadata lists the objects by row.",
        "Per the description, nothing is left out.",
        "The formal description does not mention any other object.",
        "The transcript gives the rows in order.",
        "The information provided is enough to answer.",
        "That is consistent with the provided solution.",
        "My result equals the answer I was handed.",
        "So the answer I was supplied with is right.",
        "What I was told about the picture is enough.",
        "The written account of the picture has four rows.",
        "My notes on the image list all rows.",
        "The answer key has the same number.",
        "If I go by the text I got, there are four rows.",
        "The image description is quite clear here.",
        "I only have a verbal description, so I trust it.",
        "The description given to me starts at the top.",
        "The problem statement gives the picture in words.",
        "From the details given, each row has few objects.",
        "So the reference is right.",
        "The reference answer also has this, so I am confident.",
        "Let me double-check with the reference.",
        "I need to explain how to get the reference answer.",
        "The solution that was given uses the same steps.",
        "The answer provided is the same.",
        "Because the answer was provided, I can verify it.",
        "The hint was right.",
        "As the hint suggests, I look at each row.",
        "The CSV lists each object once.",
        "According to the JSON, each object has a box.",
        "The caption describes four rows.",
        "According to the caption, the rows are numbered.",
        "The text says that there are four rows.",
        "The picture is described as having four rows.",
        "The scene is described row by row.",
        "In the description, row 1 comes first.",
        "Reading the description again, I see four rows.",
        "The description doesn't say anything about size.",
        "It was mentioned that there are four rows.",
        "I was told that the picture has four rows.",
        "We have been given the objects row by row.",
        "The gold answer is what I get.",
        "My answer agrees with the ground-truth label.",
        "The model answer says the same.",
        "The user told me what is in the picture.",
        "I don't have access to the picture itself.",
        "Since I can't view the image, I go by the words.",
        "The OCR text has no other entries.",
        "The annotations show where the objects are.",
        "Given the description above, this is simple.",
        "The supplied description is complete.",
        "The answer I was given is consistent with this.",
        "The target answer is reached.",
    ),
    "unseen": (
        "Okay, so the image description mentions four rows.",
        "Wait, the description said the first row was empty.",
        "Hmm, it isn't mentioned whether there are more.",
        "The description provided doesn't include sizes.",
        "But in the given scenario, the rows are listed.",
        "The user hasn't provided the actual picture, only words.",
        "Since there's no image to look at, I have to trust the words.",
        "The list that I got names each object.",
        "From what's been described, there are four rows.",
        "Assuming that the description is accurate, I can count.",
        "The formal representation uses one line per row.",
        "In the structured data, each row is one entry.",
        "Let me parse the description again.",
        "Let me reread the caption.",
        "Judging by the caption, nothing else is there.",
        "The bounding boxes in the list tell me the places.",
        "According to the provided details, this is right.",
        "As per the description, the count is right.",
        "As noted in the description, the rows are even.",
        "The dataset's label is the same.",
        "The expected output is this value.",
        "The right answer, as given, is what I have.",
        "I need to arrive at the given result.",
        "To justify the reference, I count again.",
        "The reference text supports this.",
        "That's what the reference indicates.",
        "They told me the answer already.",
        "The teacher's answer is the same.",
        "The solution says so as well.",
        "Since the solution is known, I just check it.",
        "My reasoning must lead to the provided answer.",
        "The prompt lists all objects.",
        "The prompt says that the picture has four rows.",
        "The input describes four rows.",
        "The question comes with a description.",
        "The alt text names all objects.",
        "The picture, as it was described to me, has four rows.",
        "Only the description is available to me.",
        "The image isn't shown here, so I use the words.",
        "Without access to the picture, I use what is written.",
    ),
}
# What a filter for leaks should leave alone.
INNOCENT = {
    "seen": (
        "The caption of the chart is at the top.",
        "I describe each row before I count.",
        "Let me give a description of each row first.",
        "The reference angle would be of no use here.",
        "I note where each object is.",
        "As stated in the question, only some objects count.",
        "I take the top row as the reference line.",
        "The question mentions a colour and not a shape.",
        "The given options are four corners.",
        "The given figure has four rows.",
        "That gives me the answer.",
        "So the correct answer is what I counted.",
        "The expected number of rows is four.",
        "I should provide the answer as a number.",
        "I can see the image clearly.",
        "The picture shows what the question asks about.",
        "Given that the row is empty, I go on.",
        "The text in the picture, if any, does not matter.",
        "Let me look at the picture again.",
        "Nothing else is known about the empty cells, which is fine.",
        "The description column of the table is not needed.",
        "I will describe the picture row by row.",
        "The label on the axis gives the unit.",
        "This line at the bottom is a caption of the picture.",
        "Compared with the reference circle, it is smaller.",
        "The known side has length four.",
        "As shown in the picture, the rows are even.",
        "As the picture shows, nothing else is there.",
        "The text in the picture says stop.",
        "The legend says which colour is which.",
        "I was wrong at first, so I count again.",
        "We are given a triangle with two equal sides.",
        "I told myself to be careful.",
        "Let me provide the steps.",
        "The answer is what I counted.",
        "The correct choice is the second one.",
        "There is a hint of blue at the edge.",
        "Without seeing a fifth row, I stop.",
        "The user asks for a count.",
        "The question provides four options.",
    ),
    "unseen": (
        "The picture gives all that is needed.",
        "The chart is labelled in units of ten.",
        "I look at the upper part first and describe it in short.",
        "The title of the figure mentions sales.",
        "The legend lists three colours.",
        "As I said, the row is empty.",
        "The given triangle is isosceles.",
        "Since angle A is given, angle B follows.",
        "The sides are known to be equal.",
        "It is noted on the axis that values are in dollars.",
        "The instructions ask for a number.",
        "The expected sum would be higher.",
        "The table provides the price of each item.",
        "The sign in the picture says no parking.",
        "The speech bubble says hello.",
        "I am not given to guessing, so I count.",
        "This follows from the definition.",
        "The scale of the map is provided in the corner.",
        "The information in the chart is enough.",
        "The label below the picture reads B.",
    ),
}


SENTENCES = "unseen"  # which of them are planted


def with_sentence(solution: str, sentence: str, rng: random.Random) -> str:
    """Put a sentence before, between or after those of a worked answer's thinking."""
    trace = to_trace(solution)
    said = [part.strip() for part in re.findall(r"[^.]*\.", trace.thinking)] or [trace.thinking]
    said.insert(rng.randint(0, len(said)), sentence)
    return f"<think> {' '.join(said)} </think><answer> {trace.answer} </answer>"


def with_answer(solution: str, answer: str) -> str:
    """Put another answer into a worked answer."""
    return f"<think> {to_trace(solution).thinking} </think><answer> {answer} </answer>"


def leaking(solution: str, example: Example, rng: random.Random) -> str:
    """Plant a leak."""
    return with_sentence(solution, rng.choice(LEAKS[SENTENCES]), rng)


def innocent(solution: str, example: Example, rng: random.Random) -> str:
    """Plant a sentence that only looks like a leak."""
    return with_sentence(solution, rng.choice(INNOCENT[SENTENCES]), rng)


def wrong(solution: str, example: Example, rng: random.Random) -> str:
    """Plant a wrong answer: another number of the scene's size, or another choice."""
    if example.choices:
        others = [choice for choice in example.choices if choice != example.answer]
        return with_answer(solution, rng.choice(others))
    gold = int(example.answer)
    return with_answer(solution, str(rng.choice([n for n in range(8) if n != gold])))


NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def respelt(solution: str, example: Example, rng: random.Random) -> str:
    """Write the right answer in another way."""
    if example.choices:
        letter = "ABCD"[example.choices.index(example.answer)]
        forms = [f"({letter})", f"{letter}. {example.answer}", f"In the {example.answer}."]
        return with_answer(solution, rng.choice([*forms, example.answer.upper()]))
    word = NUMBER_WORDS[int(example.answer)]
    objects = f"{example.answer} {example.meta['wanted']} objects"
    forms = [word, objects, f"{example.answer}.0", f"**{example.answer}**", f"There are {word}."]
    return with_answer(solution, rng.choice(forms))


def absent(example: Example, rng: random.Random) -> str | None:
    """Draw the name of an object that the scene does not have; None if it has all."""
    there = {drawing.name_of(o) for o in example.meta["objects"]}
    names = [f"{color} {shape}" for color in drawing.COLORS for shape in drawing.SHAPES]
    left = [name for name in names if name not in there]
    return rng.choice(left) if left else None


def row_changed(solution: str, rng: random.Random, change: Callable[[str], str]) -> str:
    """Change what a worked answer lists in one row."""
    rows = list(filters.ROW.finditer(solution))
    row = rng.choice(rows)
    return solution[: row.start(2)] + change(row[2]) + solution[row.end(2) :]


def hallucinating(solution: str, example: Example, rng: random.Random) -> str:
    """Plant an object that is not there: in a row's list, in a sentence, or in other words."""
    name = absent(example, rng)
    color, shape = name.split()
    how = rng.random()
    if how < 0.4:
        return row_changed(solution, rng, lambda row: name if row == "none" else f"{row}, {name}")
    if how < 0.6:  # one that is there is taken for another
        seen = [row for row in filters.ROW.finditer(solution) if filters.named_in(row[2])]
        if seen:
            row = rng.choice(seen)
            first = filters.named_in(row[2])[0]
            return solution[: row.start(2)] + row[2].replace(first, name) + solution[row.end(2) :]
    sentences = (
        f"I also see a {name} near the middle.",
        f"There is a small {name} at the edge.",
        f"The {name} does not count.",
        f"In the corner stands a {shape} that is {color}.",
    )
    return with_sentence(solution, rng.choice(sentences), rng)


def looking_again(solution: str, example: Example, rng: random.Random) -> str:
    """Say true things that only look like hallucinations: listed again, or said to be absent."""
    name = absent(example, rng)
    sentences = [f"There is no {name}.", f"I see no {name} anywhere.", "Some objects are red."]
    rows = [row[0] for row in filters.ROW.finditer(solution)]
    sentences += [f"Looking again: {row}" for row in rows]
    return with_sentence(solution, rng.choice(sentences), rng)


PLANTS: dict[str, Callable[[str, Example, random.Random], str]] = {
    "leak": leaking,
    "wrong_answer": wrong,
    "hallucination": hallucinating,
}
LOOK_ALIKES = {"leak": innocent, "wrong_answer": respelt, "hallucination": looking_again}


# Answers to a page's question that a filter for pairs should refuse, and that it should not.
BAD_ANSWERS = {
    "unanswerable": (
        "Unanswerable",
        "This cannot be determined from the text.",
        "The text does not say.",
        "Not mentioned.",
        "N/A",
        "There is no information about this on the page.",
        "It is not specified.",
        "The document doesn't give the date.",
        "The name isn't stated.",
        "Unknown",
        "Nobody can tell from this page.",
        "The page leaves this open.",
    ),
    "code": (
        "def total(rows):\n    return sum(rows)",
        "```python\nprint(7)\n```",
        "<td>7</td>",
        "import pandas as pd",
        "SELECT name FROM pages WHERE id = 7",
        "for (int i = 0; i < n; i++) {",
        "const total = 7;",
        "#include <stdio.h>",
        "print('7');",
        "x = df['total'].sum()",
    ),
}
GOOD_ANSWERS = (
    "7",
    "On 3 May 2019",
    "The committee (five members)",
    "$1,200.50",
    "The class of 1998",
    "It returns on Monday",
    "From London to Paris",
    "Unknown Pleasures",
    "No",
    "None of the members voted against it",
    "a = b + c",
    "Room B; second floor",
    "john@example.com",
    "He was not available on Tuesday",
)

# --- the teacher ---


@dataclass(frozen=True)
class Faults:
    """How often the toy teacher plants each fault, beside the mistakes of its solutions."""

    leak: float = 0.0
    wrong_answer: float = 0.0
    hallucination: float = 0.0


def must_be_toy(examples: Iterable[Example], spec: str) -> None:
    """Refuse data whose scenes are not known, or are of no shapes. UserError."""
    if not all(filters.scene_of(example) for example in examples):
        raise UserError(
            f"--teacher toy and --judge toy know the scenes of count and spatial, and --data is "
            f"{spec}; name a teacher, or one of these"
        )


class ToyTeacher:
    """Answer every stage about toy examples of shapes, from their scenes; seeded by ask.

    examples: {id: example}, of `count` or `spatial`; a request's id is "stage:id".
    """

    name = "toy"

    def __init__(self, examples: dict[str, Example], faults: Faults = Faults()) -> None:
        self.examples, self.faults = examples, faults

    def ask(self, asks: Sequence[Ask], seeds: Sequence[int]) -> Iterator[tuple[Ask, Reply]]:
        """Answer each ask, in order; tokens are counted as words."""
        for ask, seed in zip(asks, seeds):
            stage, _, id = ask.id.partition(":")
            said = "\n".join(text_of(message) for message in ask.messages)
            text = self.answer(stage, self.examples[id], said, random.Random(seed))
            yield ask, Reply(text, len(said.split()), len(text.split()), "stop")

    def answer(self, stage: str, example: Example, said: str, rng: random.Random) -> str:
        """Write what a stage wants. said: the text of the request."""
        solution = example.solution or ""
        rows = " ".join(row[0] for row in filters.ROW.finditer(solution))
        if stage == "kind":
            return "natural"
        if stage == "blind":
            guess = rng.choice(example.choices or ["0", "1", "2"])
            return f"<think> I see nothing, and guess. </think><answer> {guess} </answer>"
        if stage in ("describe", "caption"):
            return f"Four rows of objects on grey. {rows}"
        if stage == "reason":
            return with_sentence(self.planted(solution, example, rng), LEAKS["seen"][0], rng)
        if stage == "hindsight":
            return with_sentence(self.planted(solution, example, rng), LEAKS["seen"][6], rng)
        if stage in ("look", "clean"):
            again = solution.replace(" </think>", " Looking again, I see the same. </think>")
            return self.planted(again, example, rng)
        if stage == "continue":
            return self.planted(solution, example, rng).removeprefix("<think>")
        if stage == "judge":
            return self.verdict(example, said)
        if stage == "qa":
            return f"Q: {example.question}\nA: {example.answer}"
        return self.planted(solution, example, rng)

    def planted(self, solution: str, example: Example, rng: random.Random) -> str:
        """Plant each fault as often as it should be."""
        for name, plant in PLANTS.items():
            if rng.random() < getattr(self.faults, name):
                solution = plant(solution, example, rng)
        return solution

    def verdict(self, example: Example, said: str) -> str:
        """Judge exactly what the student says about the scene."""
        told = re.search(
            r"Student's reasoning:\n(.*)\n\nStudent's answer: (.*?)\n", said, re.DOTALL
        )
        trace = Trace(f"<think> {told[1]} </think><answer> {told[2]} </answer>")
        found = [filters.hallucination(trace, example), filters.overlooked(trace, example)]
        why = "; ".join(verdict.why for verdict in found if not verdict.passes)
        return f"CONSISTENT: yes\nRELEVANT: yes\nGROUNDED: {f'no, {why}' if why else 'yes'}"
