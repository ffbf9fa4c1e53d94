"""Run: python -m pytest -q tests/test_turns.py        (a few seconds; no network)

The turns of conversations and pairs: published forms that are read, and those that are refused.
"""

import json

import pytest
from layout_table import BYTES, PICTURE, talk
from samples import one, refusal, reply, turns, user, write

import data
import tasks
from tasks import layouts, pairs
from tasks.example import Turn

LONG = "The two lines meet at a right angle, so the sum of squares applies here. " * 3
IMAGE = {"images": ["a.png"]}
ASK = user("<image>How many?")
GREEN = [user("<image>Green?"), reply("No.")]
BEFORE = [("user", "Green?"), ("assistant", "No.")]  # as it is read, before "How many?"
THOUGHT = "<think> one, two </think>"


def like(**more):
    """What most records below are read as."""
    return {"question": "How many?", "answer": "3", "history": [], "system": None} | more


READ = {  # name: (a record, what it is read as)
    "a question that is written otherwise": (
        {
            "messages": [user("<image>how many?\n(A) 3\n(B) 4"), reply("3")],
            "question": "How many? A. 3 B. 4",
            **IMAGE,
        },
        like(question="how many?\n(A) 3\n(B) 4"),
    ),
    "a part without text": (
        {
            "messages": [
                user([{"type": "text", "text": ""}, {"type": "text", "text": "How many?"}]),
                reply("3"),
            ],
            **IMAGE,
        },
        like(),
    ),
    "a history as JSON": (
        {"question": "How many?", "answer": "3", "history": '[["Green?", "No."]]', **IMAGE},
        like(history=BEFORE),
    ),
    "a system turn that says nothing": (
        {"messages": [{"role": "system", "content": ""}, ASK, reply("3")], **IMAGE},
        like(),
    ),
    "a system turn of null": (
        {**IMAGE, "conversations": [{"from": "system", "value": None}, *talk("How many?", "3")]},
        like(),
    ),
    "a question beside the same conversation": (
        {"messages": [user("<image>How many?"), reply("3")], "problem": "How many?", **IMAGE},
        like(),
    ),
    "a question inside the prompt (TRL's make_conversation)": (
        {
            "prompt": [user([{"type": "image"}, {"type": "text", "text": "How many? In tags."}])],
            "problem": "How  many?",
            "solution": "<answer> 3 </answer>",
            **IMAGE,
        },
        like(question="How many? In tags."),
    ),
    "history and system beside a question": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                *GREEN,
                user("How many?"),
            ],
            "question": "How many?",
            "answer": "3",
            **IMAGE,
        },
        like(history=BEFORE, system="Be brief."),
    ),
    "VLM-R1's problem": (
        {**turns("<image>How many?", "3"), "problem": "How many?", "image": "a.png"},
        like(),
    ),
    "verl's question": (
        {
            "prompt": [user("<image>How many? Use \\boxed{}.")],
            "reward_model": {"ground_truth": "3"},
            "extra_info": {"question": "<image> How many?"},
            "images": [BYTES],
        },
        like(question="How many? Use \\boxed{}."),
    ),
    "a column of another layout that is null": (
        {"messages": None, "conversations": None, "prompt": "How many?", "answer": "3", **IMAGE},
        like(),
    ),
    "a question whose conversation is null": (
        {"conversations": None, "question": "How many?", "answer": "3", **IMAGE},
        like(),
    ),
    "texts that are no turns": (
        {"texts": ["A", "B"], "question": "How many?", "answer": "3", **IMAGE},
        like(),
    ),
    "a plain question with its history": (
        {"question": "How many?", "history": GREEN, "system": "Be brief.", "answer": 3, **IMAGE},
        like(history=BEFORE, system="Be brief."),
    ),
    "a history that is no turns": (
        {"question": "How many?", "history": "Roman", "system": "", "answer": "3", **IMAGE},
        like(),
    ),
    "ms-swift's query": (
        {
            "query": "How many?",
            "response": "3",
            "history": [["<image>Green?", "No."]],
            "system": "Be brief.",
            **IMAGE,
        },
        like(history=BEFORE, system="Be brief."),
    ),
    "ms-swift's query without a reply": (
        {
            "query": "<image>How many?",
            "response": None,
            "solution": "<answer> 3 </answer>",
            **IMAGE,
        },
        like(),
    ),
    "ms-swift's ShareGPT": (
        {
            "system": "Be brief.",
            "conversation": [
                {"human": "<image>Green?", "assistant": "No."},
                {"human": "How many?", "assistant": "3"},
            ],
            **IMAGE,
        },
        like(history=BEFORE, system="Be brief."),
    ),
    "the_cauldron, FineVision": (
        {
            "images": [BYTES],
            "texts": [
                {"user": "Green?", "assistant": "No.", "source": "VQAv2"},
                {"user": "How many?", "assistant": "3", "source": "VQAv2"},
            ],
            "source": "vqav2",
            "relevance_ratings": [5, 5],
        },
        like(history=BEFORE),
    ),
    "alpaca": (
        {"instruction": "<image>How many?", "input": "", "output": "3", "history": None, **IMAGE},
        like(),
    ),
    "alpaca with input and history": (
        {
            "instruction": "How many?",
            "input": "Of the cats.",
            "output": "3",
            "system": "Be brief.",
            "history": [["<image>Green?", "No."]],
            **IMAGE,
        },
        like(question="How many?\nOf the cats.", history=BEFORE, system="Be brief."),
    ),
    "Magpie": ({"instruction": "<image>How many?", "response": "3", **IMAGE}, like()),
    "Dolly": (
        {"instruction": "How many?", "context": "Of the cats.", "response": "3", **IMAGE},
        like(question="How many?\nOf the cats."),
    ),
    "the same conversation twice": (
        {"messages": [user("<image>How many?"), reply("3")], **turns("How many?", "3"), **IMAGE},
        like(),
    ),
    "UltraFeedback's messages, which are the chosen ones": (
        {
            "prompt": "How many?",
            "messages": [user("<image>How many?"), reply("3")],
            "chosen": [user("How many?"), reply("3")],
            "rejected": [user("How many?"), reply("4")],
            **IMAGE,
        },
        like(),
    ),
    "a prompt and its response": (
        {"prompt": "<image>How many?", "response": "3", **IMAGE},
        like(),
    ),
    "messages as JSON": (
        {"messages": json.dumps([*GREEN, user("How many?"), reply("3")]), **IMAGE},
        like(history=BEFORE),
    ),
    "conversations as JSON": (
        {"conversations": json.dumps(talk("<image>How many?", "3")), "image": "a.png"},
        like(),
    ),
    "LMM-R1's and MM-Eureka's message": (
        {
            "id": "0",
            "message": json.dumps(
                [
                    user(
                        [
                            {"type": "image", "image": "file:///a.png"},
                            {"type": "text", "text": "How many?"},
                        ]
                    )
                ]
            ),
            "answer": "$3$",
            **IMAGE,
        },
        like(answer="$3$"),
    ),
    "a prompt in brackets is a text": (
        {"prompt": "[1, 2, 3]: How many?", "answer": "3", **IMAGE},
        like(question="[1, 2, 3]: How many?"),
    ),
    "a user who speaks twice": (
        {"messages": [user("<image>Look."), user("How many?"), reply("3")], **IMAGE},
        like(history=[("user", "Look.")]),
    ),
    "thoughts beside the answer": (
        {
            "messages": [
                {**user("<image>How many?"), "thinking": None},
                {**reply("3"), "reasoning_content": "one, two", "reasoning": "one, two"},
            ],
            **IMAGE,
        },
        like(solution=f"{THOUGHT}<answer> 3 </answer>"),
    ),
    "thoughts beside a worked answer": (
        {
            "messages": [
                user("<image>How many?"),
                {**reply("<answer> 3 </answer>"), "thinking": "<think>one, two</think>"},
            ],
            **IMAGE,
        },
        like(solution=f"{THOUGHT}\n<answer> 3 </answer>"),
    ),
    "thoughts that the answer repeats": (
        {
            "messages": [
                user("<image>How many?"),
                {**reply(f"{THOUGHT}<answer> 3 </answer>"), "reasoning_content": "one, two"},
            ],
            **IMAGE,
        },
        like(solution=f"{THOUGHT}<answer> 3 </answer>"),
    ),
    "Qwen's parts without a type, in parquet": (
        {
            "messages": [
                user([{"type": None, "image": "a.png"}, {"type": None, "text": "How many?"}]),
                reply([{"type": None, "text": "3"}]),
            ]
        },
        like(),
    ),
    "OpenAI's input_text": (
        {"messages": [user([{"type": "input_text", "text": "<image>How many?"}]), reply("3")]}
        | IMAGE,
        like(),
    ),
    "a good answer of KTO": (
        {"messages": [user("<image>How many?"), reply("3")], "label": True, **IMAGE},
        like(),
    ),
    "a class beside a conversation": (
        {"messages": [user("<image>How many?")], "label": 0, "answer": "3", **IMAGE},
        like(),
    ),
    "tools that are none": (
        {"messages": [user("<image>How many?"), reply("3")], "tools": "[]", **IMAGE},
        like(),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name, wide):
    record, expected = READ[name]
    got = layouts.to_example(record, wide / "set.jsonl", 1)
    assert {key: getattr(got, key) for key in expected} == expected
    assert len(got.images) == 1


@pytest.mark.parametrize("names", ["user assistant", "Human GPT", "human bot", "USER model"])
def test_names_of_who_speaks(names, wide):
    asks, says = names.split()
    chat = [{"from": asks, "value": "<image>How many?"}, {"from": says, "value": "3"}]
    got = one(wide, {"conversations": chat, **IMAGE})
    assert (got.question, got.answer) == ("How many?", "3")


def test_the_cauldrons_pictures_come_first(wide):
    texts = [{"user": "Same?", "assistant": "no", "source": "nlvr2"}]
    record = {"images": [BYTES, BYTES], "texts": texts}
    got = layouts.to_example(record, wide / "set.jsonl", 1)
    assert got.images == [PICTURE, PICTURE] and got.question == "Same?"


CALL = {"id": "1", "type": "function", "function": {"name": "zoom", "arguments": "{}"}}


def chat(*said, **more):
    return {"messages": [*said], **IMAGE, **more}


REFUSED = {  # name: (a record, what is said)
    "parts in another order": (
        chat(
            user([*({"type": "image", "index": n} for n in (1, 0)), {"type": "text", "text": "q"}]),
            reply("3"),
            images=["a.png", "a.png"],
        ),
        "names the pictures in the order [1, 0]",
    ),
    "a text part with a picture": (
        chat(user([{"type": "text", "text": "q", "image": "a.png"}]), reply("3")),
        "`messages` holds both in a turn of the user",
    ),
    "another question": (chat(*GREEN, ASK, reply("3"), question="Why?"), "`question` is not what"),
    "an earlier question beside a gold": (
        chat(*GREEN, user("How many?"), question="Green?", answer="No."),
        "`question` is not what the conversation asks last, 'How many?'",
    ),
    "less than the question": (
        chat(ASK, reply("3"), problem="How many?\nA. 2\nB. 3"),
        "`problem` is not what the conversation asks last",
    ),
    "a prompt beside a question": (
        {"prompt": "Answer briefly.", "question": "How many?", "answer": "3"},
        "`question` is not what the conversation asks last, 'Answer briefly.'",
    ),
    "another question beside conversations": (
        {**turns("How many?", "3"), "question": "Why?"},
        "`question` is not what the conversation asks last",
    ),
    "two conversations": (
        chat(ASK, reply("3"), **turns("Why?", "So.")),
        "`conversations` and `messages` ask different questions",
    ),
    "LLaMA-Factory's older pairs": (
        {"instruction": "q", "input": "", "output": ["3", "4"]},
        "`messages` holds str, str in a turn of the assistant; a reply is made of text",
    ),
    "two histories": (
        chat(*GREEN, user("How many?"), reply("3"), history=[["Red?", "No."]]),
        "both a conversation of several turns and `history`",
    ),
    "a history of texts": (
        {"question": "q", "answer": "3", "history": ["Red?", "No."]},
        "`history` must be turns, or pairs of a question and its answer, found Red?",
    ),
    "a picture of a turn of the history": (
        {"question": "q", "answer": "3", "history": [{**user("q"), "image": "a.png"}, reply("3")]},
        "`image` seems to hold a picture",
    ),
    "a history that ends in a question": (
        {"question": "q", "answer": "3", "history": [user("Red?")]},
        "`history` must begin with a question and end with its answer",
    ),
    "a bad answer of TRL's KTO": (
        {"prompt": "q", "completion": "3", "label": False},
        "`label` is false, which marks the reply as a bad one (KTO)",
    ),
    "a bad answer of ms-swift's KTO": (chat(ASK, reply("3"), label=False), "`label` is false"),
    "a bad answer of LLaMA-Factory's KTO": (
        {"instruction": "q", "input": "", "output": "3", "kto_tag": False},
        "`kto_tag` is false",
    ),
    "a last answer that is not learned": (
        chat(*GREEN, user("How many?"), {**reply("3"), "loss": False}),
        "the last answer of `messages` is marked as not to be learned",
    ),
    "half a weight": (chat(ASK, {**reply("3"), "weight": 0.5}), "`weight` is 0.5 in a turn of the"),
    "a question that is learned": (
        chat({**ASK, "train": True}, reply("3")),
        "`train` is True in a turn of the user",
    ),
    "parts of a turn": (
        chat(ASK, {**reply("3"), "train_detail": [{"begin_offset": 0, "train": False}]}),
        "`train_detail` marks parts of a turn",
    ),
    "two kinds of thoughts": (
        chat(ASK, {**reply(f"{THOUGHT} 3"), "reasoning_content": "two and one"}),
        "an answer thinks once: delete the key",
    ),
    "a user who thinks": (
        chat({**ASK, "thinking": "one, two"}, reply("3")),
        "`thinking` in a turn of the user",
    ),
    "a call of a tool": (
        chat(ASK, {**reply("Look."), "tool_calls": [CALL]}),
        "`messages` has a turn that calls a tool",
    ),
    "a call without words": (
        chat(ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}),
        "`messages` has a turn that calls a tool",
    ),
    "LLaMA-Factory's function_call": (
        chat(ASK, {"role": "function_call", "content": "{}"}),
        "`messages` has a turn from function_call, and calls of tools cannot be learned",
    ),
    "LLaMA-Factory's observation": (
        chat(ASK, reply("Look."), {"role": "observation", "content": "4"}),
        "`messages` has a turn from observation",
    ),
    "tools": (chat(ASK, reply("3"), tools=[CALL]), "`tools` names tools that the model may call"),
    "two answers in a row": (chat(ASK, reply("2"), reply("3")), "must take turns"),
    "JSON that is broken": ({"messages": '[{"role": "user"'}, "`messages` must begin with a turn"),
    "a picture and a text in one part": (
        chat(user([{"image": "a.png", "text": "How many?"}]), reply("3")),
        "`messages` holds both in a turn of the user",
    ),
    "a picture of an exchange": (
        {"texts": [{"user": "q", "assistant": "3", "image": "a.png"}]},
        "`image` seems to hold a picture",
    ),
    "a pair": (
        {"question": "q", "chosen": "3", "rejected": "4"},
        "a preference pair without a gold answer: train_dpo.py --pairs learns from such records",
    ),
    "a pair of ms-swift": (chat(ASK, reply("3"), rejected_response="4"), "a preference pair"),
    "a pair of RLHF-V": (
        {"text": json.dumps({"question": "q", "chosen": "3", "rejected": "4"})},
        "a preference pair",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, wide):
    record, says = REFUSED[name]
    path = write(wide, [{"question": "q", "answer": "a"}, record])
    text = refusal(tasks.read, path, needs_answer=False)
    assert text.startswith(f"{path}:2: ") and says in text, text


def test_a_question_with_a_gold_may_carry_a_pair(wide):
    assert one(wide, {"question": "q", "answer": "3", "chosen": "3", "rejected": "4"}).answer == "3"


# --- answers that are not learned ---


LEARNED = [("loss", False, True), ("loss_scale", 0.0, 1.0), ("weight", 0, 1), ("train", 0, 1)]


@pytest.mark.parametrize("key, no, yes", LEARNED)
def test_an_answer_that_is_not_learned(key, no, yes, wide, tiny):
    record = chat(
        {"role": "system", "content": "Be brief.", key: no},
        {**user("<image>Green?"), key: None},
        {**reply("Not green."), key: no},
        user("Red?"),
        {**reply("Rather red."), key: yes},
        user("How many?"),
        reply("3"),
    )
    example = one(wide, record)
    assert example.unlearned == [1] and example.history[1] == Turn("assistant", "Not green.")
    prompt, targets, learned = data.Asker(tiny[1], "none").lesson(example, 50)
    decode = tiny[1].tokenizer.decode
    assert decode(targets[learned.bool()]) == "Rather red.<|im_end|>3<|im_end|>"
    assert "Not green." in decode(prompt.ids)


def test_answers_that_are_all_learned(wide):
    assert one(wide, chat(*GREEN, user("How many?"), reply("3"))).unlearned == []


def test_a_history_in_pairs_is_not_learned_where_it_says_so(wide):
    history = [user("Red?"), {**reply("No."), "loss": False}]
    got = one(wide, {"question": "q", "answer": "3", "history": history})
    assert got.unlearned == [1]


# --- pairs ---


def pair_of(**more):
    return {"question": "How many?", "history": [], "system": None} | more


PAIRS = {  # name: (a record, what is read); the answers are "3" and "4"
    "ms-swift": (
        chat(*GREEN, user("How many?"), reply("3"), rejected_response="4"),
        pair_of(history=BEFORE),
    ),
    "ms-swift, a system turn that says nothing": (
        chat({"role": "system", "content": ""}, ASK, reply("3"), rejected_response="4"),
        pair_of(),
    ),
    "choices that the question does not name": (
        {"question": "Which?", "choices": ["red", "blue"], "chosen": "3", "rejected": "4", **IMAGE},
        pair_of(question="Which?\nOptions:\nA. red\nB. blue"),
    ),
    "boxes, which nothing scores": (
        {"prompt": "How many?", "boxes": [[1, 2, 3, 4]], "chosen": "3", "rejected": "4", **IMAGE},
        pair_of(),
    ),
    "ms-swift, two conversations": (
        chat(ASK, reply("3"), rejected_messages=[ASK, reply("4")], rejected_images=["a.png"]),
        pair_of(),
    ),
    "ms-swift, query": (
        {
            "query": "How many?",
            "response": "3",
            "rejected_response": "4",
            "history": [["<image>Green?", "No."]],
            "system": "Be brief.",
            **IMAGE,
        },
        pair_of(history=BEFORE, system="Be brief."),
    ),
    "LLaMA-Factory, alpaca": (
        {
            "instruction": "<image>How many?",
            "input": "Of the cats.",
            "chosen": "3",
            "rejected": "4",
            **IMAGE,
        },
        pair_of(question="How many?\nOf the cats."),
    ),
    "LLaMA-Factory, JSON": (
        {
            "conversations": json.dumps(talk("<image>How many?")),
            "chosen": json.dumps({"from": "gpt", "value": "3"}),
            "rejected": json.dumps({"from": "gpt", "value": "4"}),
            **IMAGE,
        },
        pair_of(),
    ),
    "TRL, vision": (
        {
            "images": [BYTES],
            "prompt": [user([{"type": "image"}, {"type": "text", "text": "How many?"}])],
            "chosen": [reply([{"type": "text", "text": "3"}])],
            "rejected": [reply([{"type": "text", "text": "4"}])],
        },
        pair_of(),
    ),
    "RLAIF-V": (
        {
            "ds_name": "RLAIF-V",
            "image": BYTES,
            "question": "How many?",
            "chosen": "3",
            "rejected": "4",
            "origin_dataset": "vqav2",
            "origin_split": '{"model": "x"}',
            "idx": "1",
            "image_path": "x/1.jpg",
        },
        pair_of(),
    ),
    "our own": (
        {
            "image": ["a.png"],
            "question": "How many?",
            "history": GREEN,
            "system": "Be brief.",
            "chosen": "3",
            "rejected": "4",
        },
        pair_of(history=BEFORE, system="Be brief."),
    ),
    "thoughts": (
        {
            "question": "<image>How many?",
            "chosen": {**reply("3"), "reasoning_content": "one, two"},
            "rejected": f"{THOUGHT}\n4",
            **IMAGE,
        },
        pair_of(chosen=f"{THOUGHT}\n3", rejected=f"{THOUGHT}\n4"),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_that_are_read(name, wide):
    record, expected = PAIRS[name]
    assert pairs.is_pair(record)
    pair = pairs.to_pair(record, wide / "set.jsonl", 1)
    assert "boxes" not in pair.example.meta  # they were never checked
    answers = {"chosen": "3", "rejected": "4"} | expected
    assert (pair.chosen, pair.rejected) == (answers.pop("chosen"), answers.pop("rejected"))
    assert {key: getattr(pair.example, key) for key in answers} == answers
    assert len(pair.example.images) == 1


NO_PAIRS = {  # name: (a record, what is said)
    "KTO of TRL": ({"prompt": "q", "completion": "3", "label": False}, "good or bad (KTO)"),
    "KTO of ms-swift": (chat(ASK, reply("3"), label=True), "good or bad (KTO)"),
    "PPO": (chat(ASK), "no pair; expected question (or prompt, or conversations)"),
    "LLaMA-Factory's older pairs": (
        {"instruction": "q", "input": "", "output": ["3", "4"]},
        "chosen and rejected, found instruction, input, output",
    ),
    "VLFeedback": (
        {"prompt": "q", "completions": [{"response": "3", "annotations": {}}], "models": ["x"]},
        "several rated answers in `completions`",
    ),
    "the same answer twice": (chat(ASK, reply("3"), rejected_response=" 3"), "are the same text"),
    "the same conversation twice": (
        chat(ASK, reply("3"), rejected_messages=[ASK, reply("3")]),
        "are the same text",
    ),
    "no better answer": (chat(ASK, rejected_response="4"), "`messages` must end with the better"),
    "no messages": (
        {"question": "q", "response": "3", "rejected_response": "4"},
        "no pair; expected question (or prompt, or conversations), chosen and rejected, found",
    ),
    "other pictures": (
        chat(ASK, reply("3"), rejected_response="4", rejected_images=["b.png"]),
        "`rejected_images` are other pictures than `images`",
    ),
    "a tool": (
        {"prompt": [user("q")], "chosen": [{**reply("3"), "tool_calls": [CALL]}], "rejected": "4"},
        "`chosen` has a turn that calls a tool",
    ),
    "another question": (
        {"prompt": [user("q")], "question": "r", "chosen": "3", "rejected": "4"},
        "`question` is not what the conversation asks last, 'q'",
    ),
    "tools": (chat(ASK, reply("3"), rejected_response="4", tools=[CALL]), "`tools` names tools"),
    "two answers in a row": (
        {"prompt": [user("q"), reply("a"), reply("b"), user("r")], "chosen": "3", "rejected": "4"},
        "found a prompt of user, assistant, assistant, user",
    ),
}


@pytest.mark.parametrize("name", NO_PAIRS)
def test_pairs_that_are_refused(name, wide):
    record, says = NO_PAIRS[name]
    path = write(wide, [{"question": "q", "chosen": "3", "rejected": "4"}, record])
    text = refusal(pairs.read_pairs, path)
    assert text.startswith(f"{path}:2: ") and says in text, text


def test_json_turns_of_a_parquet_file(wide):
    """A column of text, and turns whose every key is there, null where it says nothing."""
    record = {**IMAGE, "messages": json.dumps([user("<image>How many?"), reply("3")])}
    assert one(wide, record, "set.parquet").answer == "3"
    nothing = {"weight": None, "tool_calls": None, "reasoning_content": None, "name": None}
    record["messages"] = [
        nothing | user("<image>How many?"),
        nothing | {**reply("3"), "reasoning_content": "one, two"},
    ]
    assert one(wide, record, "set.parquet").solution == f"{THOUGHT}<answer> 3 </answer>"


@pytest.mark.parametrize("record", [5, {}, {"text": "{"}, {"chosen": "a"}, {"question": "q"}])
def test_what_is_no_pair(record):
    assert not pairs.is_pair(record)
