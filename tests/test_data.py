"""Run: python -m pytest -q tests/test_data.py        (about 10 s on CPU; no network)

Prompts against literal strings and transformers' own positions, collate against a literal example
and plain loops.
"""

import copy
import dataclasses
import json
import random
from collections import Counter

import pytest
import torch
from PIL import Image
from samples import HELPFUL, PAIRS, SHARED, refusal, write

import data
import families
import logps
import tasks
from batching import collate, micro_batches, pad_targets
from data import Asker, Prompt, take
from lengths import fitting_pairs
from tasks import pairs
from tasks.example import Example, Pair
from tasks.prompts import (
    SELECT,
    TEMPLATES,
    question_text,
    refine_prompt,
    select_prompt,
    template_of,
    with_question,
)

# --- boxes ---


def test_the_box_format_is_that_of_the_training_run(tmp_path):
    from argparse import Namespace

    def asked(given, model):
        return Namespace(
            model=str(model),
            prompt_template=None,
            system_prompt=None,
            box_format=given,
            min_pixels=None,
            max_pixels=None,
        )

    (tmp_path / "args.json").write_text(json.dumps({"box_format": "resized", "max_pixels": 50176}))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    for given, model, expected in (
        (None, tmp_path, ("resized", 3136, 50176)),
        ("pixels", tmp_path, ("pixels", 3136, 50176)),
        (None, "tiny", ("norm1000", 3136, 401408)),
    ):
        args = asked(given, model)
        vars(args).update(data.ask_as_trained(args))
        assert (args.box_format, args.min_pixels, args.max_pixels) == expected


# --- toy streams ---


def test_heads_steps_and_what_to_evaluate_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stream, few = tasks.read("count"), [Example(str(n), [], "q", "a") for n in range(10)]
    assert data.is_endless(stream) and not data.is_endless(few)
    assert [e.id for e in data.head(stream, 3)] == [
        "count:train:0:0",
        "count:train:0:1",
        "count:train:0:2",
    ]
    assert data.head(few, 3) == few[:3] and data.head(few, 99) == few
    assert data.steps_of(7, 1.0, stream, 4) == 7
    data.must_end(7, "count", stream)
    assert "--max-steps" in refusal(data.must_end, None, "count", stream)
    assert [data.steps_of(None, e, few, 4) for e in (0.01, 1.0, 3.0)] == [1, 2, 8]
    assert data.default_eval("count:train") == ["count:test"] and not capsys.readouterr().out
    assert data.default_eval("x.json") == ["x.json"] and "not held out" in capsys.readouterr().out
    assert data.default_eval("x.json", "count") == ["x.json", "count:test"]
    assert "accuracy on x.json will be that on the training data" in capsys.readouterr().out


# --- pairs and the model ---


def test_prompts_and_responses_of_pairs_encode(tiny, folder):
    """As one packed group: the prompt with its pictures once, then both responses."""
    _, processor = tiny
    for layout in ("MMPR", "TRL, parts", "MMPR, text only"):
        record, images, question, _ = PAIRS[layout]
        [pair] = pairs.read_pairs(write(folder, [record]))
        prompt = Asker(processor, "none").prompt(pair.example)
        picture = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
        assert (
            prompt.text
            == f"{HELPFUL}<|im_start|>user\n{picture * len(images)}{question}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        rows = [
            data.encode_response(text, processor, pair.example.source, 100)
            for text in (pair.chosen, pair.rejected)
        ]
        assert [processor.tokenizer.decode(row) for row in rows] == [
            "Two.<|im_end|>",
            "Three.<|im_end|>",
        ]
        batch = collate([prompt], *pad_targets(rows, 0))
        assert batch["input_ids"][0].tolist() == [
            *prompt.ids.tolist(),
            *rows[0].tolist(),
            *rows[1].tolist(),
        ]


def test_pairs_that_do_not_fit_are_refused(tiny):
    _, processor = tiny
    example = Example("0", [Image.new("RGB", (560, 560))], "word " * 50, "", source="set.jsonl:2")
    P, lengths = (
        len(Asker(processor, "none").prompt(example).ids),
        [
            len(data.encode_response(text, processor, "", 1000))
            for text in ("short", "quite a bit longer " * 5)
        ],
    )
    assert lengths[0] < lengths[1]
    for chosen, rejected in (
        ("short", "quite a bit longer " * 5),
        ("quite a bit longer " * 5, "short"),
    ):
        pair = Pair(example, chosen, rejected)
        fits = dataclasses.replace(processor, context=P + lengths[1])
        fitting_pairs(Asker(fits, "none"), [pair] * 2)
        short = dataclasses.replace(processor, context=P + lengths[1] - 1)
        text = refusal(fitting_pairs, Asker(short, "none"), [pair])
        assert (
            text.startswith("set.jsonl:2: ")
            and f"{P} tokens (400 of them from images) and with {lengths[1]} more" in text
        )


def test_reserved_tokens_in_pairs_are_refused(tiny):
    _, processor = tiny
    for token in ("<|im_end|>", "<|endoftext|>", "<|image_pad|>"):
        for name in ("chosen", "rejected", "question"):
            texts = {"question": "q", "chosen": "yes", "rejected": "no", name: f"so {token}"}
            pair = Pair(
                Example("0", [], texts["question"], "", source="set.jsonl:7"),
                texts["chosen"],
                texts["rejected"],
            )
            text = refusal(
                fitting_pairs,
                Asker(processor, "none"),
                [Pair(Example("1", [], "q", ""), "yes", "no"), pair],
            )
            assert (
                text.startswith("set.jsonl:7: ")
                and name in text
                and token in text
                and "remove it" in text
            )


# --- prompts ---


@pytest.mark.parametrize(
    "images, system, template, expected",
    [
        (
            0,
            None,
            "none",
            HELPFUL + "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            0,
            "Be brief.",
            "none",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            1,
            None,
            "none",
            HELPFUL + "<|im_start|>user\n<|vision_start|>PADS<|vision_end|>How many?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            2,
            "Be brief.",
            "direct",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
            "<|vision_start|>PADS<|vision_end|><|vision_start|>PADS<|vision_end|>How many?\n"
            "Answer the question using a single word or phrase.<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            1,
            None,
            "r1v",
            HELPFUL
            + "<|im_start|>user\n<|vision_start|>PADS<|vision_end|>How many?  Output the thinking "
            "process in <think> </think> and final answer (number) in "
            "<answer> </answer> tags.<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_prompt_text_is_qwen2_vls(tiny, images, system, template, expected):
    _, processor = tiny
    example = Example("0", [Image.new("RGB", (56, 84), "red")] * images, "How many?", "3")
    prompt = Asker(processor, template, system).prompt(example)
    assert prompt.text == expected.replace(
        "PADS", "<|image_pad|>" * 6
    )  # 2 x 3 tokens of 28 x 28 pixels
    assert processor.tokenizer.decode(prompt.ids) == prompt.text
    assert (
        len(prompt.image_slots) == 6 * images
        and prompt.positions.shape == (3, len(prompt.ids))
        and prompt.ids.dtype == torch.long
    )
    assert (prompt.pixel_values is None) == (prompt.grid is None) == (images == 0)


def test_special_tokens_are_single_ids_and_not_spelt_out(tiny):
    _, processor = tiny
    prompt = Asker(processor, "none").prompt(Example("0", [Image.new("RGB", (56, 56))], "q", "a"))
    ids = Counter(prompt.ids.tolist())
    name = processor.tokenizer.convert_tokens_to_ids
    assert [
        ids[name(t)]
        for t in (
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|image_pad|>",
            "<|vision_end|>",
        )
    ] == [3, 2, 1, 4, 1]


def test_the_example_and_its_pictures_are_not_written_to(tiny):
    _, processor = tiny
    picture = Image.new("RGBA", (60, 60), (255, 0, 0, 100))
    example = Example(
        "0", [picture, picture], "q {question} {0} %s", "a", ["x"], "s", "t", {"m": [1]}, "f:1"
    )
    before = (
        copy.deepcopy(dataclasses.asdict(dataclasses.replace(example, images=[]))),
        picture.tobytes(),
    )
    prompt = Asker(processor, "r1v").prompt(example)
    assert (
        dataclasses.asdict(dataclasses.replace(example, images=[])),
        picture.tobytes(),
    ) == before and example.images == [picture, picture]
    assert "q {question} {0} %s  Output" in prompt.text  # braces in a question are text


def test_reserved_tokens_in_texts_are_refused(tiny):
    _, processor = tiny
    for token in (
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ):
        for images in ([], [Image.new("RGB", (28, 28))]):
            example = Example(
                "0",
                images,
                f"What is {token}?",
                "a",
                solution=f"It is {token}.",
                source="set.json:7",
            )
            text = refusal(Asker(processor).prompt, example)
            assert text.startswith("set.json:7: ") and token in text and "remove it" in text
            assert "--system-prompt" in refusal(
                Asker(processor, system_prompt=f"Like {token}").prompt,
                dataclasses.replace(example, question="q"),
            )
        text = refusal(Asker(processor, "r1v").target, example, 100)
        assert text.startswith("set.json:7: ") and "solution" in text and token in text


def test_half_a_character_in_a_system_prompt_is_refused(tiny):
    """args.json of a checkpoint may hold one, and the tokenizer answered with a TypeError."""
    _, processor = tiny
    example = Example("0", [], "q", "a")
    for text in ("half \ud83d", "\udcff"):
        said = refusal(Asker(processor, system_prompt=text).prompt, example)
        assert "half a character" in said and "--system-prompt" in said
    for text in ("日本 \U0001f600", "a\0b", ""):
        assert Asker(processor, system_prompt=text).prompt(example).text


def test_a_prompt_longer_than_the_context_is_refused_and_never_cut(tiny):
    _, processor = tiny
    prompt = Asker(processor).prompt(
        Example("0", [Image.new("RGB", (560, 560))], "word " * 50, "a")
    )
    exact = dataclasses.replace(processor, context=len(prompt.ids) + 10)
    example = Example("0", [Image.new("RGB", (560, 560))], "word " * 50, "a", source="set.json:2")
    assert torch.equal(Asker(exact).prompt(example, 10).ids, prompt.ids)
    text = refusal(Asker(exact).prompt, example, 11)
    assert (
        text.startswith("set.json:2: ")
        and f"{len(prompt.ids)} tokens" in text
        and "400 of them from images" in text
        and "--max-pixels" in text
    )
    assert processor.context == 4096
    assert "context" in refusal(
        Asker(processor).prompt,
        dataclasses.replace(example, images=[], question="日本語" * 3000),
    )


def test_unknown_template():
    assert all(
        name in refusal(template_of, "r2v") for name in ("--prompt-template r2v", *TEMPLATES)
    )


def test_targets(tiny):
    _, processor = tiny
    worked = Example(
        "0",
        [],
        "q",
        "3",
        solution="  <think> x </think><answer> 3 </answer>\n",
        source="set.json:8",
    )
    plain = Example("0", [], "q", "3")
    assert [data.target_text(plain, t) for t in ("r1v", "think", "option", "direct", "none")] == [
        "<answer> 3 </answer>"
    ] * 3 + ["3"] * 2
    assert (
        data.target_text(worked, "r1v")
        == data.target_text(worked, "direct")
        == "<think> x </think><answer> 3 </answer>"
    )
    ids = Asker(processor, "r1v").target(worked, 100)
    assert (
        ids[-1]
        == processor.special.eos_ids[0]
        == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        and (ids[:-1] < min(processor.special.vision_ids)).all()
    )
    assert processor.decode(ids) == "<think> x </think><answer> 3 </answer>"
    assert torch.equal(Asker(processor, "r1v").target(worked, len(ids)), ids)
    text = refusal(Asker(processor, "r1v").target, worked, len(ids) - 1)
    assert (
        text.startswith("set.json:8: ")
        and f"{len(ids)} tokens" in text
        and "--max-completion-length" in text
    )


TEXTS = [
    "",
    " ",
    "\n",
    "\n\n\r\n\t ",
    "plain",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301 vs \u00e9",
    "n\u0303o\u0308 NFD",
    "ﬁ ﬀ Å \u212b",
    "שלום עולם \u202ertl\u202c",
    "مرحبا 123",
    "a\x00b\x00",
    "\x7f\x1b[0m\x80",
    "日本語　全角",
    "\ufeffBOM",
    "\uffff\U0010ffff",
    "  two  spaces ",
    "tabs\t\tand\x0bvertical",
    "1234567890 3.14",
    "don't DON'T",
    "<think>",
    "</answer>",
    "ᄀ\u1161\u11a8",
]


def test_any_text_goes_through_the_tokenizer_and_back(tiny):
    tokenizer = tiny[1].tokenizer
    rng = random.Random(0)
    alphabet = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = (
        TEXTS
        + ["".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 12))) for _ in range(300)]
        + ["".join(rng.choices("".join(TEXTS), k=30)) for _ in range(300)]
    )
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            == text
        ), ascii(text)
        assert not set(ids) & set(tiny[1].special.vision_ids)


def test_the_processors_decode_stops_at_either_end_and_leaves_text_as_it_is(tiny):
    processor = tiny[1]
    for text in TEXTS:
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for eos in processor.special.eos_ids:
            assert processor.decode(torch.tensor(ids + [eos] + ids)) == text
        assert processor.decode(ids) == text


# --- positions ---


def test_positions_by_hand():
    """Two words, an image of 2 x 3, one word.

    The image stands at time 2 and counts rows and columns from there; after it comes 2 + 3.
    """
    is_image = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 0]).bool()
    positions, following = families.rope_positions(is_image, [(2, 3)])
    assert (
        positions.tolist()
        == [[0, 1, 2, 2, 2, 2, 2, 2, 5], [0, 1, 2, 2, 2, 3, 3, 3, 5], [0, 1, 2, 3, 4, 2, 3, 4, 5]]
        and following == 6
    )


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [(112, 112)],
        [(28, 28)],
        [(56, 280)],
        [(280, 56)],
        [(112, 56), (84, 140)],
        [(28, 28), (300, 100)],
        [(200, 200), (56, 56), (100, 300)],
    ],
)
def test_positions_and_expansion_equal_transformers(tiny, sizes):
    policy, processor = tiny
    example = Example(
        "0", [Image.new("RGB", size) for size in sizes], "How many red objects are there?", "3"
    )
    prompt = Asker(processor).prompt(example)
    rows = prompt.ids[None]
    if sizes:
        is_image = rows == processor.special.image_id
        assert is_image.sum() == (prompt.grid.prod(1) // 4).sum() == len(prompt.image_slots)
        positions, deltas = policy.model.get_rope_index(
            rows, mm_token_type_ids=is_image.int(), image_grid_thw=prompt.grid
        )
        assert is_image[0, prompt.image_slots].all()
        features = policy.model.get_image_features(prompt.pixel_values, prompt.grid).pooler_output
        assert [len(f) for f in features] == (
            prompt.grid.prod(1) // 4
        ).tolist()  # what the tower makes fits where it goes
    else:
        positions, deltas = (
            torch.arange(rows.shape[1]).expand(3, 1, -1),
            torch.zeros(1, 1, dtype=torch.long),
        )
    assert torch.equal(prompt.positions, positions[:, 0])
    assert prompt.next_position == rows.shape[1] + int(
        deltas
    )  # transformers' position of the first generated token


def test_a_collated_batch_means_to_the_model_what_transformers_own_inputs_do(tiny):
    """The states from collate's tensors are stock transformers', from ids and pixels alone."""

    policy, processor = tiny
    examples = [
        Example("0", [Image.effect_noise((112, 84), 80)], "How many circles are there?", "3"),
        Example("1", [], "None?", "no"),
        Example(
            "2",
            [Image.effect_noise((56, 56), 80), Image.effect_noise((84, 112), 80)],
            "Same?",
            "no",
        ),
    ]
    prompts = [Asker(processor).prompt(e) for e in examples]
    targets, mask = pad_targets(
        [Asker(processor, "r1v").target(e, 50) for e in examples for _ in range(2)],
        processor.special.pad_id,
    )
    targets[1, :3] = targets[3, 2]  # the two responses of a prompt differ
    batch = collate(prompts, targets, mask)
    with torch.no_grad():
        got = logps.token_logps(policy, batch)
        for b in range(len(targets)):
            prompt, length = prompts[b // 2], int(mask[b].sum())
            ids = torch.cat([prompt.ids, targets[b, :length]])[None]
            pictures = (
                {}
                if prompt.grid is None
                else {
                    "pixel_values": prompt.pixel_values,
                    "image_grid_thw": prompt.grid,
                    "mm_token_type_ids": (ids == processor.special.image_id).int(),
                }
            )
            logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[
                0
            ]
            expected = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1].gather(
                1, targets[b, :length, None]
            )[:, 0]
            torch.testing.assert_close(got[b, :length], expected, rtol=1e-4, atol=1e-4)
            assert (got[b, length:] == 0).all()


# --- take ---


def test_take_is_pure_and_every_epoch_a_permutation():
    examples = [Example(str(n), [], "q", "a") for n in range(7)]
    before = copy.deepcopy(examples)
    straight = take(examples, 0, 70, seed=3)
    assert examples == before
    epochs = [tuple(e.id for e in straight[i : i + 7]) for i in range(0, 70, 7)]
    assert all(sorted(epoch) == list("0123456") for epoch in epochs)
    assert len(set(epochs)) >= 8  # ten draws of 5,040 orders: a repeat or two by chance, at most
    for start in range(63):
        for number in (1, 4, 7):
            assert take(examples, start, number, seed=3) == straight[start : start + number]
    assert [e.id for e in take(examples, 0, 70, seed=4)] != [e.id for e in straight]
    assert take(examples, 5, 0, seed=3) == []


def test_take_does_not_touch_global_randomness():
    examples = [Example(str(n), [], "q", "a") for n in range(7)]
    random.seed(1), torch.manual_seed(1)
    states = random.getstate(), torch.get_rng_state()
    take(examples, 3, 9, 0)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_resuming_mid_way_equals_the_straight_run():
    for examples in (
        [Example(str(n), [], "q", "a") for n in range(10)],
        tasks.read("count", seed=2),
    ):

        def ids(taken):
            return [e.id for e in taken]

        straight = [i for step in range(8) for i in ids(take(examples, step * 3, 3, seed=5))]
        resumed = [i for step in range(5, 8) for i in ids(take(examples, step * 3, 3, seed=5))]
        assert straight[15:] == resumed and len(straight) == 24


def test_one_example_and_steps_larger_than_the_data():
    [only] = examples = [Example("0", [], "q", "a")]
    assert take(examples, 5, 3, 0) == [only] * 3
    pair = [Example("0", [], "q", "a"), Example("1", [], "q", "a")]
    assert Counter(e.id for e in take(pair, 0, 100, 0)) == {"0": 50, "1": 50}


# --- collate ---


def fake_prompt(ids, image_slots=(), next_position=None, fill=0.0):
    """A Prompt of these ids; positions 0, 1, 2, ... show mix-ups; four patches an image token."""
    n = len(image_slots)
    return Prompt(
        torch.tensor(ids),
        torch.arange(len(ids)).expand(3, -1).contiguous(),
        len(ids) if next_position is None else next_position,
        torch.tensor(image_slots, dtype=torch.long),
        torch.full((4 * n, 1176), fill) if n else None,
        torch.tensor([[1, 2, 2 * n]]) if n else None,
    )


def test_pad_targets_by_hand():
    targets, mask = pad_targets(
        [torch.tensor([5, 6, 9]), torch.tensor([9]), torch.tensor([7, 9])], pad_id=0
    )
    assert targets.tolist() == [[5, 6, 9], [9, 0, 0], [7, 9, 0]] and targets.dtype == torch.long
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]] and mask.dtype == torch.float32


def test_the_mask_comes_from_lengths_and_not_from_the_pad_token():
    targets, mask = pad_targets(
        [torch.tensor([0, 0, 0]), torch.tensor([5])], pad_id=0
    )  # a response may hold the pad token: it also ends texts
    assert mask.sum(1).tolist() == [3, 1]


def test_collate_by_hand():
    """Prompt A (3 ids, image token at 1, next position 7) has one response; B (2 ids) has two."""
    a, b = fake_prompt([11, 90, 12], [1], next_position=7, fill=1.0), fake_prompt([21, 22])
    targets = torch.tensor([[31, 32], [41, 0], [51, 52]])
    mask = torch.tensor([[1.0, 1], [1, 0], [1, 1]])
    batch = collate([a, b], targets, mask, [1, 2])
    assert batch["input_ids"].tolist() == [
        [11, 90, 12, 31, 32],
        [21, 22, 41, 0, 0],
        [21, 22, 51, 52, 0],
    ]
    assert batch["state_index"].tolist() == [[2, 3], [1, 2], [1, 2]]  # the state before each target
    for dimension in range(3):
        assert batch["positions"][dimension, 0].tolist() == [0, 1, 2, 7, 8]
        assert batch["positions"][dimension, 1:, :4].tolist() == [[0, 1, 2, 3]] * 2
    assert batch["slot_index"].tolist() == [1] and batch["feature_index"].tolist() == [0]
    assert torch.equal(batch["targets"], targets) and torch.equal(batch["mask"], mask)
    assert torch.equal(batch["pixel_values"], a.pixel_values) and torch.equal(batch["grid"], a.grid)


def test_every_response_of_a_group_sees_its_own_image_once_encoded():
    prompts = [
        fake_prompt([90, 90, 1], [0, 1], fill=1.0),
        fake_prompt([1]),
        fake_prompt([1, 90], [1], fill=2.0),
    ]
    batch = collate(
        prompts, torch.ones(6, 2, dtype=torch.long), torch.ones(6, 2)
    )  # two rows each by default
    S = batch["input_ids"].shape[1]
    assert (
        S == 3 + 2
        and batch["pixel_values"].shape == (4 * 3, 1176)
        and batch["grid"].tolist() == [[1, 2, 4], [1, 2, 2]]
    )
    where = {
        (int(to) // S, int(to) % S): int(row)
        for to, row in zip(batch["slot_index"], batch["feature_index"])
    }
    assert where == {(0, 0): 0, (0, 1): 1, (1, 0): 0, (1, 1): 1, (4, 1): 2, (5, 1): 2}
    assert all(batch["input_ids"][b, s] == 90 for b, s in where) and (
        batch["input_ids"] == 90
    ).sum() == len(where)


def test_text_only_batch_has_no_pixels():
    batch = collate([fake_prompt([1, 2])], torch.ones(2, 1, dtype=torch.long), torch.ones(2, 1))
    assert (
        batch["pixel_values"] is None
        and batch["grid"] is None
        and len(batch["slot_index"]) == len(batch["feature_index"]) == 0
    )


def test_each_target_follows_the_state_that_predicts_it():
    """Plain loops over random ragged batches."""
    rng = random.Random(0)
    for _ in range(50):
        prompts = [
            fake_prompt(
                [rng.randrange(1, 50) for _ in range(rng.randrange(1, 6))],
                next_position=rng.randrange(20),
            )
            for _ in range(rng.randrange(1, 4))
        ]
        counts = [rng.randrange(1, 4) for _ in prompts]
        rows = [
            torch.tensor([rng.randrange(50, 99) for _ in range(rng.randrange(1, 7))])
            for _ in range(sum(counts))
        ]
        targets, mask = pad_targets(rows, 0)
        batch = collate(prompts, targets, mask, counts, packed=False)
        owner = [p for p, count in zip(prompts, counts) for _ in range(count)]
        for b, (prompt, row) in enumerate(zip(owner, rows)):
            assert (
                batch["input_ids"][b].tolist()
                == (prompt.ids.tolist() + row.tolist() + [0] * 99)[: batch["input_ids"].shape[1]]
            )
            for t in range(len(row)):
                assert batch["input_ids"][b, batch["state_index"][b, t] + 1] == targets[b, t]
                assert (
                    batch["positions"][:, b, batch["state_index"][b, t] + 1]
                    == prompt.next_position + t
                ).all()


def test_pack_by_hand():
    """A prompt of 3 ids and responses of 2, 0 and 1 tokens: six tokens, none of padding.

    The prompt has one image token at 1, its next position is 7.
    """
    prompt = fake_prompt([11, 90, 12], [1], next_position=7, fill=1.0)
    targets, mask = (
        torch.tensor([[31, 32], [88, 88], [41, 88]]),
        torch.tensor([[1.0, 1], [0, 0], [1, 0]]),
    )
    batch = collate([prompt], targets, mask)
    assert batch["input_ids"].tolist() == [[11, 90, 12, 31, 32, 41]]
    assert batch["positions"].tolist() == [[[0, 1, 2, 7, 8, 7]]] * 3
    assert batch["state_index"][mask.bool()].tolist() == [
        2,
        3,
        2,
    ]  # the first token of every response is predicted by the prompt's last
    assert batch["to_rows"].tolist() == [[3, 4], [0, 0], [5, 0]] and batch[
        "from_rows"
    ].tolist() == [0, 1, 4]
    assert batch["slot_index"].tolist() == [1] and batch["feature_index"].tolist() == [0]
    assert torch.equal(batch["targets"], targets) and torch.equal(batch["mask"], mask)
    assert torch.equal(batch["pixel_values"], prompt.pixel_values) and torch.equal(
        batch["grid"], prompt.grid
    )
    empty = collate([prompt], targets, torch.zeros(3, 2))
    assert (
        empty["input_ids"].tolist() == [[11, 90, 12]]
        and empty["to_rows"].tolist() == [[0]] * 3
        and len(empty["from_rows"]) == 0
    )


def test_only_one_prompt_with_two_responses_or_more_is_packed():
    one, two, ones = (
        fake_prompt([1, 2]),
        fake_prompt([3]),
        lambda *shape: torch.ones(*shape, dtype=torch.long),
    )

    def rows(prompts, B, **more):
        return len(collate(prompts, ones(B, 2), torch.ones(B, 2), **more)["input_ids"])

    assert rows([one], 2) == rows([one], 8) == 1
    assert (
        rows([one], 1),
        rows([one, two], 2),
        rows([one, two], 4),
        rows([one], 2, packed=False),
    ) == (1, 2, 4, 2)
    assert "to_rows" not in collate([one], ones(1, 2), torch.ones(1, 2)) and "to_rows" in collate(
        [one], ones(2, 2), torch.ones(2, 2)
    )


def test_packed_tokens_and_the_way_back():
    """Plain loops over random ragged groups, some responses empty."""
    rng = random.Random(0)
    for _ in range(100):
        prompt = fake_prompt(
            [rng.randrange(1, 50) for _ in range(rng.randrange(1, 6))],
            next_position=rng.randrange(20),
        )
        rows, P = (
            [
                torch.tensor(
                    [rng.randrange(50, 99) for _ in range(rng.choice([0, 1, 2, 3, 7]))],
                    dtype=torch.long,
                )
                for _ in range(rng.randrange(2, 6))
            ],
            len(prompt.ids),
        )
        targets, mask = pad_targets(
            [*rows, torch.tensor([60] * rng.randrange(1, 9))], 0
        )  # wider than the longest of `rows`, at times
        targets, mask = targets[:-1], mask[:-1]
        batch = collate([prompt], targets, mask)
        ids, positions, predicts = (
            batch["input_ids"][0],
            batch["positions"][:, 0],
            batch["state_index"],
        )
        assert ids.tolist() == prompt.ids.tolist() + [int(i) for row in rows for i in row]
        assert torch.equal(positions[:, :P], prompt.positions) and batch["to_rows"].shape == (
            len(rows),
            max(1, *map(len, rows)),
        )
        at = P
        for b, row in enumerate(rows):
            for t in range(len(row)):
                assert (
                    predicts[b, t] == (P - 1 if t == 0 else at + t - 1)
                    and (positions[:, at + t] == prompt.next_position + t).all()
                )
                assert (
                    batch["to_rows"][b, t] == at + t
                    and batch["from_rows"][at - P + t] == b * batch["to_rows"].shape[1] + t
                )
            at += len(row)
        assert batch["to_rows"].flatten()[batch["from_rows"]].tolist() == list(range(P, at))
        assert (
            0 <= int(batch["to_rows"].min())
            and int(batch["to_rows"].max()) < at
            and 0 <= int(predicts.min())
            and int(predicts.max()) < at
        )


def test_features_take_the_place_of_the_pixels_if_every_picture_has_them():
    prompts = [
        fake_prompt([90, 1], [0], fill=1.0),
        fake_prompt([1]),
        fake_prompt([90, 90], [0, 1], fill=2.0),
    ]
    ones = torch.ones(3, 2, dtype=torch.long), torch.ones(3, 2)
    prompts[0].features = torch.full((1, 5), 1.0)
    assert (
        "features" not in collate(prompts, *ones)
        and len(collate(prompts, *ones)["pixel_values"]) == 12
    )
    prompts[2].features = torch.full((2, 5), 2.0)
    batch = collate(prompts, *ones)
    assert (
        batch["pixel_values"] is None
        and batch["grid"] is None
        and batch["features"][:, 0].tolist() == [1, 2, 2]
        and batch["feature_index"].tolist() == [0, 1, 2]
    )
    assert collate(prompts[2:], *ones)["features"].shape == (2, 5)


def test_collate_does_not_write_to_its_inputs():
    prompts, targets, mask, counts = (
        [fake_prompt([1, 90], [1], fill=1.0), fake_prompt([2, 3, 4])],
        torch.tensor([[5, 6], [7, 0], [8, 9]]),
        torch.tensor([[1.0, 1], [1, 0], [1, 1]]),
        [2, 1],
    )
    before = copy.deepcopy((prompts, targets, mask, counts))
    for batch in (collate(prompts, targets, mask, counts), collate(prompts[:1], targets, mask)):
        for value in (batch["input_ids"], batch["positions"], batch["state_index"]):
            value += 1
    for old, new in zip(before[0], prompts):
        assert (
            all(
                torch.equal(getattr(old, f), getattr(new, f))
                for f in ("ids", "positions", "image_slots")
            )
            and old.next_position == new.next_position
        )
    assert torch.equal(before[1], targets) and torch.equal(before[2], mask) and counts == before[3]


def test_collate_refuses_counts_that_do_not_fit():
    for counts in ([1, 1], [3], [1, 1, 1]):
        with pytest.raises(AssertionError):
            collate(
                [fake_prompt([1]), fake_prompt([2])],
                torch.ones(3, 1, dtype=torch.long),
                torch.ones(3, 1),
                counts,
            )


# --- micro-batches ---


def test_micro_batches_by_hand():
    assert list(micro_batches(6, 4, [3, 3])) == [
        (0, 3, 0, 1, [3]),
        (3, 6, 1, 2, [3]),
    ]  # never two prompts where one has two rows
    assert list(micro_batches(4, 8, [2, 2])) == [(0, 2, 0, 1, [2]), (2, 4, 1, 2, [2])]
    assert list(micro_batches(8, 5, [8])) == [(0, 4, 0, 1, [4]), (4, 8, 0, 1, [4])]  # not 5 and 3
    assert list(micro_batches(3, 1, [1, 2])) == [
        (0, 1, 0, 1, [1]),
        (1, 2, 1, 2, [1]),
        (2, 3, 1, 2, [1]),
    ]
    assert list(micro_batches(7, 2, [1, 1, 1, 2, 1, 1])) == [
        (0, 2, 0, 2, [1, 1]),
        (2, 3, 2, 3, [1]),
        (3, 5, 3, 4, [2]),
        (5, 7, 4, 6, [1, 1]),
    ]
    assert list(micro_batches(0, 4, [])) == []


def test_micro_batches_cover_every_row_once_with_its_own_prompt():
    rng = random.Random(0)
    for _ in range(300):
        counts = [rng.choice([0, 1, 1, 2, 5, 8]) for _ in range(rng.randrange(1, 8))]
        rows, size, before = sum(counts), rng.randrange(1, 12), list(counts)
        owner = [n for n, count in enumerate(counts) for _ in range(count)]
        seen = []
        for start, end, first, last, piece in micro_batches(rows, size, counts):
            assert (
                0 < end - start <= size and sum(piece) == end - start and len(piece) == last - first
            )
            assert [n for n, count in enumerate(piece, first) for _ in range(count)] == owner[
                start:end
            ]
            assert len(piece) == 1 or max(counts[n] for n in owner[start:end]) == 1, (
                "two prompts, one of which has several rows"
            )
            seen += range(start, end)
        assert seen == list(range(rows)) and counts == before


def test_micro_batches_collate_to_the_rows_of_the_whole():
    prompts = [
        fake_prompt([11, 90, 12], [1], next_position=5, fill=1.0),
        fake_prompt([21]),
        fake_prompt([90, 31], [0], fill=2.0),
    ]
    counts, rng = [3, 1, 2], random.Random(1)
    targets, mask = pad_targets(
        [
            torch.tensor([rng.randrange(40, 90) for _ in range(rng.randrange(1, 5))])
            for _ in range(6)
        ],
        0,
    )
    whole = collate(prompts, targets, mask, counts)
    for start, end, first, last, piece in micro_batches(6, 2, counts):
        part = collate(
            prompts[first:last], targets[start:end], mask[start:end], piece, packed=False
        )
        S = part["input_ids"].shape[1]
        assert torch.equal(part["input_ids"], whole["input_ids"][start:end, :S]) and torch.equal(
            part["state_index"], whole["state_index"][start:end]
        )
        P = part["state_index"][:, :1] + 1  # positions agree wherever there is a token
        for b in range(end - start):
            assert torch.equal(
                part["positions"][:, b, : P[b] + targets.shape[1]],
                whole["positions"][:, start + b, : P[b] + targets.shape[1]],
            )
        if len(part["slot_index"]):

            def lookup(batch, b):
                return [
                    (
                        int(to) % batch["input_ids"].shape[1],
                        float(batch["pixel_values"][4 * int(f), 0]),
                    )
                    for to, f in zip(batch["slot_index"], batch["feature_index"])
                    if int(to) // batch["input_ids"].shape[1] == b
                ]

            assert [lookup(part, b) for b in range(end - start)] == [
                lookup(whole, start + b) for b in range(end - start)
            ]


# --- R3V's prompts: refine and select ---


def test_refine_and_select_prompts_are_r3vs():
    prompt = question_text(Example("0", [], "How many are red?", "3"), "chartqa")
    asks = (
        "How many are red?\nFirst generate a step-by-step solution, then answer the question "
        "with a numerical value, Yes/No, or a word or phrase."
    )
    assert prompt == asks
    assert refine_prompt(prompt, "Solution:\n1. Two.\n\nAnswer:\n2") == (
        asks + "\nModel's prediction:\nSolution:\n1. Two.\n\nAnswer:\n2\n"
        "Judge the correctness of the model's prediction and refine it."
    )
    three = (
        asks + "\nModel's prediction 1:\na\nModel's prediction 2:\nb\nModel's prediction 3:\nc\n"
    )
    assert (
        select_prompt(prompt, ["a", "b", "c"], SELECT.get("chartqa"))
        == three
        + "Which prediction is correct? "
        "Give the final answer with a numerical value, Yes/No, or a word or phrase."
    )
    assert (
        select_prompt(prompt, ["a", "b", "c"])
        == three + "Which prediction is correct? Give the final answer."
    )
    assert select_prompt(prompt, ["a", "b", "c"], "Well?") == three + "Well?"
    assert (
        SELECT["tabmwp"]
        == "Which prediction has the right OCR, reasoning and calculations? Give the final answer."
    )
    assert (
        SELECT["clevr_math"] == "Which prediction is correct? "
        "Give the final answer with a single numerical value (0-10)."
    )
    assert SELECT.keys() <= TEMPLATES.keys()


@pytest.mark.parametrize("template", TEMPLATES)
def test_where_a_question_asks_for_tags_so_does_the_selection(template):
    text = select_prompt(question_text(Example("0", [], "How many?", "3"), template), ["a"])
    assert text.endswith(
        "Which prediction is correct? Give the final answer in <answer> </answer> tags."
    ) == ("<answer>" in TEMPLATES[template])


def test_asked_again_only_the_question_changes(tiny):
    _, processor = tiny
    picture = Image.new("RGB", (56, 84), "red")
    example = Example(
        "7",
        [picture],
        "Which?",
        "B",
        ["cat", "dog"],
        "I see. B",
        "pets",
        {"boxes": [], "box_format": "pixels"},
        "set.json:7",
    )
    again = with_question(example, "A {question}?")
    assert dataclasses.asdict(dataclasses.replace(again, images=[])) == dataclasses.asdict(
        dataclasses.replace(example, images=[], question="A {question}?", solution=None)
    )
    assert again.images == [picture] and (example.question, example.solution) == (
        "Which?",
        "I see. B",
    )
    assert (
        Asker(processor, "none").prompt(again).text
        == HELPFUL
        + "<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * 6
        + "<|vision_end|>A {question}?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_candidate_cannot_put_an_image_or_a_turn_into_the_prompt(tiny):
    """A policy spells what it likes, letter by letter."""
    _, processor = tiny
    plain = Counter(Asker(processor, "none").prompt(Example("0", [], "q", "3")).ids.tolist())
    special = processor.tokenizer.convert_tokens_to_ids(list(processor.special.reserved))
    for token in processor.special.reserved:
        for text in (
            select_prompt("q", [f"a {token} b", token * 2]),
            refine_prompt("q", f"<|x{token}x|>"),
        ):
            ids = Counter(
                Asker(processor, "none")
                .prompt(with_question(Example("0", [], "q", "3"), text))
                .ids.tolist()
            )
            assert token not in text and [ids[i] for i in special] == [plain[i] for i in special]


@pytest.mark.skipif(
    not (SHARED / "tabmwp").is_dir(),
    reason=f"{SHARED / 'tabmwp'} (public records, not part of this repository) is not there",
)
def test_worked_solutions_and_problems_of_tabmwp_are_asked_alike():
    """R3V's solutions carry its instruction in the question, TabMWP's problems do not.

    Under one template both ask alike, with options and without.
    """
    solved, problems = (
        tasks.read(SHARED / "tabmwp" / "warmup_cot64.json"),
        tasks.read(SHARED / "tabmwp" / "problems_dev64.json"),
    )
    asks = {text for name, text in TEMPLATES.items() if name.startswith("tabmwp")}
    for e in (*solved, *problems):
        text = question_text(e, "tabmwp")
        suffix = next(
            ask.removeprefix("{question}")
            for ask in asks
            if text.endswith(ask.removeprefix("{question}"))
        )
        assert text.count("step-by-step solution") == 1 and ("option" in suffix) == (
            "\n(B) " in text
        )
    assert (
        question_text(solved[0], "tabmwp") == solved[0].question
        and question_text(problems[0], "tabmwp") != problems[0].question
    )
    assert question_text(solved[0], "think") != solved[0].question


def test_a_question_is_not_asked_twice_in_the_same_words():
    """Nor in those of the template's twin; another template is put as ever, "none" adds nothing."""
    for name in ("tabmwp", "tabmwp_choices"):
        asked = Example("0", [], TEMPLATES[name].replace("{question}", "Which?"), "B")
        for choices in (None, ["a", "b"]):
            assert (
                question_text(dataclasses.replace(asked, choices=choices), "tabmwp")
                == asked.question
            )
        assert question_text(asked, "think") != asked.question == question_text(asked, "none")
    assert question_text(Example("0", [], "Which?", "B", ["a", "b"]), "tabmwp") == TEMPLATES[
        "tabmwp_choices"
    ].replace("{question}", "Which?")


def test_lengths_are_those_of_the_encoded_prompts(tiny):
    _, processor = tiny
    examples = [
        Example(str(k), [Image.new("RGB", (28 * k, 56))] * (k % 3), "How many? " * k, "3")
        for k in range(1, 5)
    ]
    assert Asker(processor, "r1v", "Count.").check(examples, 5) == [
        len(Asker(processor, "r1v", "Count.").prompt(e).ids) for e in examples
    ]


# --- toy questions put in their own ways; responses begun ---


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_response_begun_continues_the_prompt(tiny, images):
    """Ids and positions are those of prompt and text read as one: text goes on by ones."""
    _, processor = tiny
    prompt = Asker(processor, "think").prompt(
        Example("0", [Image.new("RGB", (56, 84), "red")] * images, "How many?", "3")
    )
    begun = "<think> red 3, 4 (1)."
    ids = processor.tokenizer(begun, add_special_tokens=False)["input_ids"]
    longer = data.append_response(prompt, begun, processor)
    assert longer.ids.tolist() == prompt.ids.tolist() + ids and longer.text == prompt.text + begun
    is_image = longer.ids == processor.special.image_id
    positions, following = families.rope_positions(is_image, [(3, 2)] * images)
    assert torch.equal(
        longer.positions, positions
    ) and longer.next_position == following == prompt.next_position + len(ids)
    assert (
        longer.positions[:, -1].tolist() == [following - 1] * 3
        and torch.equal(longer.image_slots, prompt.image_slots)
        and longer.pixel_values is prompt.pixel_values
    )
    same = data.append_response(prompt, "", processor)
    assert (
        torch.equal(same.ids, prompt.ids)
        and torch.equal(same.positions, prompt.positions)
        and same.next_position == prompt.next_position
    )
