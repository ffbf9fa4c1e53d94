r"""Thinking, answers and boxes in the tags that the field publishes, written in ours.

"<THINK> one </THINK> 3", "◁think▷ one ◁/think▷ 3" (Kimi)  -> "<think> one </think> 3"
"one </think> 3" (QwQ)                                     -> "<think> one </think> 3"
"<SUMMARY> a </SUMMARY><CONCLUSION> 3 </CONCLUSION>"        -> "<think> a </think> 3 "
"<Answer> 3 </Answer>"                                     -> "<answer> 3 </answer>"
"""

import re

ANSWER_TAG = re.compile(r"<answer>([^<]*(?:<(?!/?answer>)[^<]*)*)</answer>")
THINK_TAG = re.compile(r"</?think>")

# What opens and closes thinking. In capitals: LLaVA-CoT and LlamaV-o1.
NAMES = (
    r"(?:(?:seed:)?think(?:ing)?|thoughts?|reason(?:ing)?|rationale|reflection|analysis"
    r"|(?-i:SUMMARY|CAPTION))"
)
SPELLINGS = [  # a tag as others write it, ours; "" drops it
    (rf"<{NAMES}>", "<think>"),
    (rf"</{NAMES}>", "</think>"),
    (r"◁think▷", "<think>"),  # Kimi
    (r"◁/think▷", "</think>"),
    (r"<\|(?:begin_of_thought|START_THINKING)\|>", "<think>"),  # Sky-T1, Command A
    (r"<\|(?:end_of_thought|END_THINKING)\|>", "</think>"),
    (r"(?-i:\[THINK\])", "<think>"),  # Magistral
    (r"(?-i:\[/THINK\])", "</think>"),
    (r"<\|channel\|>analysis<\|message\|>", "<think>"),  # gpt-oss
    (r"<\|channel\|>final<\|message\|>", "</think>"),
    (r"\A\s*## Thinking[ \t]*$(.*)^## Final Response[ \t]*$", r"<think>\1</think>"),  # HuatuoGPT-o1
    (r"<(?:final_)?answer>", "<answer>"),
    (r"</(?:final_)?answer>", "</answer>"),
    (r"<\|begin_of_box\|>([^<]*)<\|end_of_box\|>", r"\\boxed{\1}"),  # GLM-4.1V
    (r"</?conclusion>|<\|(?:begin|end)_of_solution\|>", ""),
    (r"<\|(?:START_RESPONSE|END_RESPONSE|end|return)\|>|<\|start\|>assistant", ""),
]
FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL
SPELLINGS = [(re.compile(tag, FLAGS), ours) for tag, ours in SPELLINGS]
MAY_HOLD_TAGS = re.compile(r"[<◁\[#]")
OUTPUT = re.compile(r"</?output>", re.IGNORECASE)  # Marco-o1


def in_our_tags(text: str) -> str:
    """Write a worked text in our tags: what is thought in others' becomes one block."""
    if not MAY_HOLD_TAGS.search(text):
        return text
    respelled = text
    for tag, ours in SPELLINGS:
        respelled = tag.sub(ours, respelled)
    before, closed, tail = respelled.rpartition("</think>")
    if not closed:
        return respelled
    if "<think>" not in before:  # QwQ, DeepSeek-R1: it stands in the prompt
        before = f"<think> {before.lstrip()}"
    if THINK_TAG.findall(text) != THINK_TAG.findall(respelled):
        lead, opened, thinking = before.partition("<think>")
        before = lead + opened + THINK_TAG.sub("", thinking)
        tail = OUTPUT.sub("", tail)
    return f"{before}</think>{tail}"


def after_thinking(text: str) -> str | None:
    """Give what follows the thinking; None if the thinking never ends."""
    tail = text.rpartition("</think>")[2]
    return None if "<think>" in tail else tail.strip()
