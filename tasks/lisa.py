"""LISA: segment what a sentence implies, here as a box. As Visual-RFT evaluates it: mean IoU."""

import rewards
from tasks.protocol import Protocol
from tasks.rec import mean_iou

SAMPLE = {
    "conversations": [
        {"from": "user", "value": "<img>/x/a.jpg</img> the person who appears to be speaking"},
        {"from": "assistant", "value": "(100,200),(300,400)"},  # in 0 to 1000
    ]
}

TEMPLATE = (
    "{question} Output the thinking process in <think> </think> and your grouding box. "
    'Following "<think> thinking process </think>\n<answer>(x1,y1),(x2,y2)</answer>)" format.'
)  # the spelling is Visual-RFT's

PROTOCOL = Protocol(
    name="lisa",
    sample=SAMPLE,
    template="lisa",
    templates={"lisa": TEMPLATE},
    score=rewards.accuracy,
    boxes=True,
    totals=mean_iou,
)
