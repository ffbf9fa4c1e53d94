"""What tests of scorers share: small examples, boxes, and records scored under a protocol."""

import json
from types import SimpleNamespace

from tasks import protocols

THINK = "<think>a</think>"


def tagged(body):
    """A completion whose answer is this."""
    return f"{THINK}<answer>{body}</answer>"


def example(answer="x", choices=None, **meta):
    return SimpleNamespace(answer=answer, choices=choices, meta=meta, id="7", question="Which?")


def score(records, protocol, box_format=None):
    """(result, rows) of saved records."""
    return protocols.score(
        protocols.to_examples(enumerate(records), protocol, box_format), protocol
    )


def boxes(*corners, label=None):
    return [
        {"bbox_2d": list(box[:4]), "label": box[4] if len(box) > 4 else label} for box in corners
    ]


def box_example(gold, box_format="pixels", size=(1000, 1000), **meta):
    return example(json.dumps(gold), boxes=gold, size=list(size), box_format=box_format, **meta)
