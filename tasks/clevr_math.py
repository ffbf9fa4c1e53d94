"""CLEVR-Math, as R3V asks it. It is trained on; no evaluation of it is published."""

from tasks.protocol import Protocol

SAMPLE = {
    "image": "CLEVR_train_006841.png",
    "conversations": [
        {
            "from": "user",
            "value": "Add 1 matte cubes. How many matte cubes exist?\n"
            "Answer the question using a single numerical value (0-10).",
        },
        {"from": "assistant", "value": "3"},
    ],
}

TEMPLATE = (
    "{question}\nFirst generate a step-by-step solution, then answer the question "
    "using a single numerical value (0-10)."
)
SELECT = "Which prediction is correct? Give the final answer with a single numerical value (0-10)."

PROTOCOL = Protocol(
    name="clevr_math",
    sample=SAMPLE,
    template="clevr_math",
    templates={"clevr_math": TEMPLATE},
    selects={"clevr_math": SELECT},
)
