"""Run: python -m pytest -q tests/test_looking.py        (about 10 s on a CPU, no network)

vision/kl and vision/blind_accuracy: on a policy that looks, and on the same one made blind.
"""

from functools import partial
from pathlib import Path

import pytest
import torch

import data
import logps
import model
import tasks
from reinforcing import looking

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "count"
QUESTIONS = 24


@pytest.fixture
def shipped():
    """Load the shipped warm start: it describes scenes, and counts what it describes."""
    return model.load(str(SHIPPED))


def questions(number):
    return data.head(tasks.read("count:test"), number)


def measure(policy, processor, examples=None):
    logp_of = partial(logps.token_logps, suppress=processor.special.vision_ids)
    asker = data.Asker(processor, "r1v", None)
    examples = examples or questions(QUESTIONS)
    return looking.measure(policy, asker, examples, 100, logp_of, batch_size=12, size=8)


def test_a_policy_that_looks_and_one_that_cannot(shipped):
    policy, processor = shipped
    looks = measure(policy, processor)
    assert looks["vision/kl"] > 0.1
    assert looks["vision/blind_accuracy"] < 0.4
    last = list(policy.model.visual.merger.modules())[-1]
    with torch.no_grad():  # what the tower says is the same of every picture
        last.weight.zero_()
    blind = measure(policy, processor)
    assert abs(blind["vision/kl"]) < 1e-6


def test_the_policy_is_left_as_it_was(shipped):
    policy, processor = shipped
    for training in (True, False):
        policy.train(training)
        measure(policy, processor, questions(2))
        assert policy.training == training


def test_words_alone_are_not_measured(shipped):
    policy, processor = shipped
    [example] = questions(1)
    example.images = []
    assert measure(policy, processor, [example]) == {}


def test_words_among_pictures_are_not_measured(shipped):
    """Nor does it matter which of them share a batch."""
    policy, processor = shipped
    first, words, second = questions(3)
    words.images = []
    alone = measure(policy, processor, [first, second])
    assert measure(policy, processor, [words, first, second]) == alone


def test_a_greyed_prompt_differs_in_its_pixels_only(shipped):
    _, processor = shipped
    prompt = data.Asker(processor, "r1v", None).prompt(questions(1)[0], room=10)
    grey = looking.greyed(prompt)
    assert grey.pixel_values.shape == prompt.pixel_values.shape
    assert not grey.pixel_values.any() and prompt.pixel_values.any()
    assert torch.equal(grey.ids, prompt.ids) and torch.equal(grey.positions, prompt.positions)
