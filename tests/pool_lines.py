"""Pools as tests write them."""

from tasks.example import Example


def line(
    sample,
    answer,
    right,
    id="q",
    finish="stop",
    thinking="There are several objects in the picture",
):
    """A pool line whose text says which sample it is. answer None: unreadable."""
    completion = f"<think> {thinking}, says sample {sample}. </think>" + (
        f"<answer> {answer} </answer>" if answer is not None else ""
    )
    return {
        "id": id,
        "iteration": 1,
        "sample": sample,
        "completion": completion,
        "answer": answer,
        "right": right,
        "readable": answer is not None,
        "tokens": 20,
        "finish": finish,
    }


def pool_of(pattern, id="q", gold="3"):
    """Make one line a letter: T right, F wrong, U unreadable; "TFT" gives three lines.

    A right one has the gold answer, a wrong one 90, 91, ... Samples count from 1, as in R3V.
    """
    lines = []
    for k, mark in enumerate(pattern, 1):
        said = {"T": gold, "U": None, "F": str(89 + k)}[mark]
        lines.append(line(k, said, mark == "T", id))
    return lines


def example(id="q", choices=None, **more):
    return Example(id, [], f"How many in {id}?", "3", choices, **more)


def prompt_of(example):
    return f"{example.question} Think." + "".join(
        f"\n({chr(65 + i)}) {choice}" for i, choice in enumerate(example.choices or [])
    )


def samples(lines):
    return [one["sample"] for one in lines]


def many(n, rng, length=3):
    """A pool of n questions with every pattern of right, wrong and unreadable, and the examples."""
    pool = [
        one
        for i in range(n)
        for one in pool_of(
            "".join(rng.choice("TTFU" if i % 2 else "TFF") for _ in range(length)), f"q{i}"
        )
    ]
    return {f"q{i}": example(f"q{i}") for i in range(n)}, pool
