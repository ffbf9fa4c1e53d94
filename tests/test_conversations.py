"""Run: python -m pytest -q tests/test_conversations.py        (about 20 s on CPU; no network)

Pictures in their places and conversations: prompts against literal texts, positions and losses
against transformers' own, the rollouts against the plain loop and stock generate.
"""

import copy
import dataclasses
import json
import re
from pathlib import Path

import checkpoints
import pytest
import torch
from commands import metrics_of, train
from PIL import Image
from samples import HELPFUL, refusal, write

import batching
import data
import families
import generate
import logps
import losses
import model as modeling
import pools
import rollout
import selftrain
import tasks
import train_sft
import update
from data import Asker
from evaluating import scoring
from lengths import fitting, fitting_pairs
from plumbing.bad_records import REFUSE
from plumbing.errors import UserError
from tasks import marks, pairs, prompts, sheets
from tasks.example import Example, Pair, Turn

ROOT = Path(__file__).resolve().parents[1]
A, B = checkpoints.picture(56, 84), checkpoints.picture(112, 56, 1)  # 6 and 8 tokens
PAD_A = "<|vision_start|>" + "<|image_pad|>" * 6 + "<|vision_end|>"
PAD_B = "<|vision_start|>" + "<|image_pad|>" * 8 + "<|vision_end|>"
U, END, ASSISTANT = "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"
DIRECT = "\nAnswer the question using a single word or phrase."


def said(*texts):
    """Turns of a user and an assistant, by turns."""
    return [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]


def asked(question, images=(), *before, **more):
    return Example(
        "0", list(images), question, "3", source="d.jsonl:4", history=said(*before), **more
    )


PLACES = {  # name: (the example, the prompt under the template "direct")
    "first, without a mark": (
        asked("Which?", [A, B]),
        f"{HELPFUL}{U}{PAD_A}{PAD_B}Which?{DIRECT}{END}{ASSISTANT}",
    ),
    "between words, every blank kept": (
        asked("Is <image> or\n<image>\nlarger?", [A, B]),
        f"{HELPFUL}{U}Is {PAD_A} or\n{PAD_B}\nlarger?{DIRECT}{END}{ASSISTANT}",
    ),
    "last": (
        asked("Look: <image>", [A]),
        f"{HELPFUL}{U}Look: {PAD_A}{DIRECT}{END}{ASSISTANT}",
    ),
    "in two turns": (
        asked("And <image>?", [A, B], "<image>How many?", "Two."),
        f"{HELPFUL}{U}{PAD_A}How many?{END}{ASSISTANT}Two.{END}"
        f"{U}And {PAD_B}?{DIRECT}{END}{ASSISTANT}",
    ),
    "before the first turn, without a mark": (
        asked("And now?", [A, B], "How many?", " Two. "),
        f"{HELPFUL}{U}{PAD_A}{PAD_B}How many?{END}{ASSISTANT}Two.{END}"
        f"{U}And now?{DIRECT}{END}{ASSISTANT}",
    ),
    "an answer may spell the mark": (
        asked("And now?", [A], "How many?", "In <image>: two."),
        f"{HELPFUL}{U}{PAD_A}How many?{END}{ASSISTANT}In <image>: two.{END}"
        f"{U}And now?{DIRECT}{END}{ASSISTANT}",
    ),
    "the record's system turn": (
        asked("Why?", [], system="Be kind."),
        f"<|im_start|>system\nBe kind.{END}{U}Why?{DIRECT}{END}{ASSISTANT}",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_pictures_stand_where_their_marks_stand(tiny, name):
    example, expected = PLACES[name]
    prompt = Asker(tiny[1], "direct").prompt(example)
    assert prompt.text == expected == tiny[1].tokenizer.decode(prompt.ids)
    assert Asker(tiny[1], "direct").check([example], 5) == [len(prompt.ids)]


def test_parts_are_those_of_transformers_own_template(tiny):
    """Image, "A", image, "B", as in TRL's records: nothing stands between them."""
    parts = prompts.parts_of("<image>A<image>B")
    image, text = {"type": "image"}, "text"
    assert parts == [image, {"type": text, "text": "A"}, image, {"type": text, "text": "B"}]
    published = checkpoints.CHAT_TEMPLATE  # what the hub's Qwen2-VL brings
    rendered = tiny[1].tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], chat_template=published, tokenize=False
    )
    shown = rendered.replace("<|image_pad|>", "<|image_pad|>" * 6)
    assert Asker(tiny[1], "none").prompt(asked("<image>A<image>B", [A, A])).text.startswith(shown)


def test_the_records_system_turn_goes_before_the_flag(tiny):
    asker = Asker(tiny[1], "none", "Be brief.")
    own = asked("Why?", system="Be kind.")
    assert "Be kind." in asker.prompt(own).text and "Be brief." not in asker.prompt(own).text
    assert "system\nBe brief." in asker.prompt(asked("Why?")).text


@pytest.mark.parametrize(
    "question, images, history",
    [
        ("<image>", [], ()),
        ("<image> or <image>?", [A], ()),
        ("Is <image>?", [A, B], ()),
        ("Which?", [A], ("<image> <image>", "Two.")),
        ("<image>?", [A], ("<image>", "One.")),
    ],
)
def test_marks_and_pictures_that_do_not_match_are_refused(tiny, question, images, history):
    text = refusal(Asker(tiny[1]).prompt, asked(question, images, *history))
    assert text.startswith("d.jsonl:4: ") and "<image>" in text and f"{len(images)} images" in text


@pytest.mark.parametrize(
    "turns, stripped",
    [
        (["<image>\nHow many?"], ["How many?"]),
        ([" <image>\n <image> Same? "], ["Same?"]),
        (["<image>"], [""]),
        (["How many?"], ["How many?"]),
        (["Is <image> red?\n"], ["Is <image> red?"]),
        (["<image>Is <image> red?"], ["<image>Is <image> red?"]),
        (["How many?\n<image>"], ["How many?\n<image>"]),
        (["<image>One?", "Yes.", "Two?"], ["One?", "Yes.", "Two?"]),
        (["<image>One?", "Yes.", "<image>Two?"], ["<image>One?", "Yes.", "<image>Two?"]),
        (["One?", "Yes.", "<image>Two?"], ["One?", "Yes.", "<image>Two?"]),
        (["<image>One?", "<image>", "Two?"], ["One?", "<image>", "Two?"]),
    ],
)
def test_marks_before_the_first_words_are_stripped(turns, stripped):
    assert marks.without_first_marks(said(*turns)) == said(*stripped)


def test_reserved_tokens_anywhere_in_a_conversation_are_refused(tiny):
    bad = "so <|im_end|>"
    cases = {
        "the question": asked(bad),
        "an earlier question": asked("q", [], bad, "a"),
        "an earlier answer": asked("q", [], "q", bad),
        "the system turn": asked("q", system=bad),
    }
    for name, example in cases.items():
        text = refusal(Asker(tiny[1]).prompt, example)
        assert text.startswith(f"d.jsonl:4: {name} contains the reserved token <|im_end|>")


BAD_TEMPLATES = {  # what the template does: (old, new, what is said)
    "pictures first": (
        "{% for content in message['content'] %}",
        "{% for content in message['content']|sort(attribute='type') %}",
        "loses or moves '<|image_pad|>'",
    ),
    "answers without their thoughts": (
        "{{ message['content'] }}",
        "{{ message['content'].split('</think>')[-1] }}",
        "loses or moves '<think> a </think> Two.'",
    ),
    "only the last turn": (
        "{% for message in messages %}",
        "{% for message in messages[-1:] %}",
        "placed 1 images, not 2",
    ),
}


@pytest.mark.parametrize("fault", BAD_TEMPLATES)
def test_templates_that_lose_or_move_what_was_said_are_refused(tiny, fault):
    old, new, words = BAD_TEMPLATES[fault]
    processor = dataclasses.replace(tiny[1], tokenizer=families.tiny_tokenizer())
    template = processor.tokenizer.chat_template
    assert old in template
    processor.tokenizer.chat_template = template.replace(old, new)
    example = asked("Is <image> red?", [A, B], "<image>?", "<think> a </think> Two.")
    assert words in refusal(Asker(processor, "none").prompt, example)
    Asker(processor, "none").prompt(asked("Red?", [A]))


# --- positions, and who agrees about them ---

EXAMPLES = {
    "two pictures with text between": asked("Is <image> or <image> larger?", [A, B]),
    "in the middle of a history": asked(
        "And both?", [A, B], "Count <image>", "Two.", "And in <image> here?", "Four."
    ),
    "the last thing said": asked("Look <image>", [A, B], "<image>", "One."),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_positions_equal_transformers(tiny, name):
    policy, processor = tiny
    prompt = Asker(processor).prompt(EXAMPLES[name])
    rows = prompt.ids[None]
    is_image = rows == processor.special.image_id
    positions, deltas = policy.model.get_rope_index(
        rows, mm_token_type_ids=is_image.int(), image_grid_thw=prompt.grid
    )
    assert torch.equal(prompt.positions, positions[:, 0])
    assert prompt.next_position == rows.shape[1] + int(deltas)
    assert torch.equal(prompt.image_slots, is_image[0].nonzero()[:, 0])


@pytest.mark.parametrize("name", EXAMPLES)
def test_logps_equal_stock_transformers(tiny, name):
    """A group of two responses, packed and padded, against the stock forward of each row."""
    policy, processor = tiny
    prompt = Asker(processor).prompt(EXAMPLES[name])
    rows = [data.encode_response(text, processor, "", 99) for text in ("The first.", "No")]
    targets, mask = batching.pad_targets(rows, processor.special.pad_id)
    with torch.no_grad():
        for packed in (True, False):
            batch = batching.collate([prompt], targets, mask, packed=packed)
            logp = logps.token_logps(policy, batch)
            for b, row in enumerate(rows):
                inputs = checkpoints.stock_inputs([prompt], processor.special, [row])
                logits = policy(**inputs).logits[0].log_softmax(-1)
                expected = logits[len(prompt.ids) - 1 : -1].gather(1, row[:, None])[:, 0]
                torch.testing.assert_close(logp[b, : len(row)], expected, rtol=1e-4, atol=1e-4)


def test_both_rollouts_and_stock_generate_say_the_same(tiny):
    policy, processor = tiny
    special = processor.special
    given = [Asker(processor).prompt(example) for example in EXAMPLES.values()]
    sampled = rollout.Sampling(12, temperature=1.0)
    fast = rollout.rollout(policy, given, special, 3, sampled, seed=1)
    plain = rollout.rollout_plain(policy, given, special, 3, sampled, seed=1)
    assert torch.equal(fast.targets, plain.targets) and fast.finish == plain.finish
    torch.testing.assert_close(fast.logp, plain.logp, rtol=1e-4, atol=1e-4)
    greedy = rollout.rollout(policy, given, special, 1, rollout.Sampling(12, temperature=0))
    for prompt, row, length in zip(given, greedy.targets, greedy.lengths):
        out = policy.generate(
            **checkpoints.stock_inputs([prompt], special),
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=special.vision_ids,
            eos_token_id=special.eos_ids,
            pad_token_id=special.pad_id,
        )
        assert out[0, len(prompt.ids) :].tolist() == row[:length].tolist()


# --- what the supervised stage learns from ---

TALK = Example(
    "0",
    [A, B],
    "Which has more?",
    "the second",
    source="d.jsonl:4",
    history=said("<image>How many?", "Two.", "And in <image> here?", "Four."),
)


def test_a_single_turn_is_learned_as_ever(tiny):
    asker = Asker(tiny[1])
    example = asked("Is <image> red?", [A])
    prompt, targets, learned = asker.lesson(example, 50, 50)
    assert prompt.text == asker.prompt(example).text and prompt.response_positions is None
    assert torch.equal(targets, asker.target(example, 50)) and learned.tolist() == [1] * len(
        targets
    )


def test_the_mask_of_docs_data(tiny):
    """The page's literal example: a record, and below it the pieces with their marks."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    section = page.partition("## Conversations")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (.*)$", section, re.MULTILINE)
    start = next(n for n, line in enumerate(lines) if line.startswith("prompt"))
    record, pieces = json.loads("".join(lines[:start])), lines[start:]
    turns = [Turn(turn["role"], turn["content"]) for turn in record["messages"]]
    *history, last, answer = turns
    example = Example("0", [A, B], last.text, answer.text, history=history)
    prompt, targets, learned = Asker(tiny[1], "none").lesson(example, 50)
    shown = []
    for name, ids in (("prompt", prompt.ids), *runs(targets, learned)):
        text = tiny[1].tokenizer.decode(ids).replace("\n", "\\n")
        text = re.sub(r"(<\|image_pad\|>)+", "<|image_pad|>", text)
        first, *others = re.split(r"(?<=.)(?=<\|im_start\|>)", text)
        shown += [f"{name:<8}{first}", *(f"{'':8}{other}" for other in others)]
    assert shown == pieces


def runs(ids, learned):
    """Cut ids where `learned` changes: [("0" or "1", ids)]."""
    cuts = [0, *(learned.diff().nonzero()[:, 0] + 1).tolist(), len(ids)]
    return [(str(int(learned[a])), ids[a:b]) for a, b in zip(cuts, cuts[1:])]


def test_a_conversation_has_exactly_the_tokens_of_the_whole_chat(tiny):
    processor = tiny[1]
    prompt, targets, _ = Asker(processor, "r1v").lesson(TALK, 50)
    solution = "<answer> the second </answer>"
    chat = prompts.messages_of(TALK, "r1v") + [{"role": "assistant", "content": solution}]
    text = processor.tokenizer.apply_chat_template(chat, tokenize=False)
    first, between, rest = text.split("<|image_pad|>")
    text = first + "<|image_pad|>" * 6 + between + "<|image_pad|>" * 8 + rest
    ids = processor.tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    assert torch.cat([prompt.ids, targets]).tolist() == ids


def test_a_greeting_is_not_learned_and_users_may_speak_twice(tiny):
    """Only what follows a question is an answer."""
    asker, decode = Asker(tiny[1], "none"), tiny[1].tokenizer.decode
    greeting = [Turn("assistant", "Hello!"), Turn("user", "Hi."), Turn("user", "Look.")]
    for history in (greeting, greeting[1:]):
        example = dataclasses.replace(TALK, images=[A], history=history)
        prompt, targets, learned = asker.lesson(example, 50)
        assert prompt.text.endswith(f"{U}Look.{END}{U}Which has more?{END}{ASSISTANT}")
        assert decode(targets) == "the second<|im_end|>" and learned.all()
    example = dataclasses.replace(example, history=[*greeting, *said("Why?", "So.")])
    prompt, targets, learned = asker.lesson(example, 50)
    assert decode(prompt.ids).endswith(f"{U}Why?{END}{ASSISTANT}")
    assert decode(targets[learned.bool()]) == "So.<|im_end|>the second<|im_end|>"


def batch_of_talks(processor, packed=True):
    """A conversation with pictures in its first and second turn, beside a single turn."""
    asker = Asker(processor, "none")
    lessons = [asker.lesson(TALK, 50), asker.lesson(asked("Is <image> red?", [B]), 50)]
    given, rows, learned = zip(*lessons)
    targets, mask = batching.pad_targets(rows, processor.special.pad_id, learned)
    return batching.collate(given, targets, mask, [1, 1], packed=packed), lessons


def test_slots_and_positions_of_a_conversation(tiny):
    policy, processor = tiny
    batch, lessons = batch_of_talks(processor)
    ids, S = batch["input_ids"], batch["input_ids"].shape[1]
    is_image = ids == processor.special.image_id
    assert sorted(batch["slot_index"].tolist()) == is_image.flatten().nonzero()[:, 0].tolist()
    for b, (prompt, targets, _) in enumerate(lessons):
        length = len(prompt.ids) + len(targets)
        row = torch.cat([prompt.ids, targets])[None]
        positions, _ = policy.model.get_rope_index(
            row,
            mm_token_type_ids=(row == processor.special.image_id).int(),
            image_grid_thw=prompt.grid,
        )
        assert torch.equal(ids[b, :length], row[0]) and length <= S
        assert torch.equal(batch["positions"][:, b, :length], positions[:, 0])


@pytest.mark.parametrize("per_example", [False, True])
def test_loss_and_gradient_equal_transformers_own_with_labels(tiny, per_example):
    """labels -100 where nothing is learned; suppressed vision tokens leave no nan."""
    policy, processor = copy.deepcopy(tiny[0]).requires_grad_(True), tiny[1]
    special = processor.special
    batch, lessons = batch_of_talks(processor)
    assert (batch["targets"][0] == special.image_id).sum() == 8  # a picture in the response
    weight = policy.model.language_model.layers[0].mlp.up_proj.weight
    tower = policy.model.visual.patch_embed.proj.weight

    weights = losses.sft_weights(batch["mask"], per_example)
    logp = logps.token_logps(policy, batch, suppress=special.vision_ids)
    loss = losses.aggregate(losses.nll(logp), weights)
    ours = torch.autograd.grad(loss, [weight, tower])

    parts = []
    for prompt, targets, learned in lessons:
        labels = torch.cat([torch.full_like(prompt.ids, -100), targets])
        labels[len(prompt.ids) :][learned == 0] = -100
        inputs = checkpoints.stock_inputs([prompt], special, [targets])
        parts.append((policy(**inputs, labels=labels[None]).loss, int(learned.sum())))
    counts = [1, 1] if per_example else [count for _, count in parts]
    expected = sum(part * n for (part, _), n in zip(parts, counts)) / sum(counts)
    theirs = torch.autograd.grad(expected, [weight, tower])

    assert (batch["mask"].sum(1).tolist()) == [count for _, count in parts]
    # Theirs may say a vision token, to which an untrained model gives a share of the mass.
    blocked = logps.token_logps(policy, batch)
    assert torch.isfinite(logp).all()
    loss = losses.aggregate(losses.nll(blocked), weights)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    open_grads = torch.autograd.grad(loss, [weight, tower])
    for mine, own, stock in zip(ours, open_grads, theirs):
        assert torch.isfinite(mine).all() and mine.abs().sum() > 0
        torch.testing.assert_close(own, stock, rtol=1e-3, atol=1e-5)


def test_a_row_ends_at_the_last_learned_token():
    """Lengths by hand, with holes and without; none for a row that learns nothing."""
    prompt = data.Prompt(
        torch.tensor([1, 2]), torch.arange(2).expand(3, -1), 2, torch.zeros(0, dtype=torch.long)
    )
    targets = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8]])
    mask = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    ids = batching.collate([prompt], targets, mask, packed=False)["input_ids"]
    assert ids[:, 2:].tolist() == [[5, 6, 7, 0], [5, 6, 7, 8], [5, 6, 0, 0], [0, 0, 0, 0]]
    packed = batching.collate([prompt], targets, mask)["input_ids"]
    assert packed.tolist() == [[1, 2, 5, 6, 7, 5, 6, 7, 8, 5, 6]]


def test_a_conversation_is_no_group(tiny):
    prompt, targets, learned = Asker(tiny[1], "none").lesson(TALK, 50)
    rows, mask = batching.pad_targets([targets] * 2, 0, [learned] * 2)
    for packed in (True, False):
        with pytest.raises(AssertionError, match="only response"):
            batching.collate([prompt], rows, mask, packed=packed)


def test_lengths_of_the_whole_conversation_are_checked(tiny):
    """The last prompt holds all that was said; each answer has the limit of its own."""
    processor = tiny[1]
    asker = Asker(processor, "none")
    [length] = asker.check([TALK], 20)
    prompt, targets, _ = asker.lesson(TALK, 20)
    assert length + len(asker.target(TALK, 20)) == len(prompt.ids) + len(targets)
    exact = dataclasses.replace(processor, context=length + 20)
    assert fitting(Asker(exact, "none"), [TALK], 20, targets=True) == [TALK]
    assert "context" in refusal(fitting, Asker(exact, "none"), [TALK], 21, True)
    long = dataclasses.replace(TALK, history=said("<image> <image>?", "Two. " * 20))
    assert fitting(asker, [long], 20) == [long]  # as a question it is fine
    text = refusal(fitting, asker, [long], 20, True)
    assert text.startswith("d.jsonl:4: the earlier answer has ") and "--max-completion" in text


def test_nothing_to_imitate_is_refused(tiny):
    asker = Asker(tiny[1])
    empty = dataclasses.replace(TALK, answer="")
    assert "d.jsonl:4: nothing to imitate" in refusal(fitting, asker, [empty], 50, True)
    assert fitting(asker, [empty], 50) == [empty]  # as a question it is fine
    open_ended = dataclasses.replace(empty, solution="A long tale.")
    assert fitting(asker, [open_ended], 50, True) == [open_ended]


# --- asked again, and asked without the picture ---


def test_model_text_places_no_picture(tiny):
    asker = Asker(tiny[1], "none")
    example = asked("Is <image> red?", [A], "Hello.", "Hi.")
    for spelt in ("see <image>", "<image><image>", "<ima<image>ge>"):
        for text in (
            prompts.refine_prompt(example.question, spelt),
            prompts.select_prompt(example.question, [spelt, spelt]),
            pools.hint_prompt(example.question, spelt),
        ):
            again = prompts.with_question(example, text)
            assert again.history == example.history
            assert asker.prompt(again).text.count("<|vision_start|>") == 1


def test_a_blind_copy_has_no_marks():
    blind = pools.blind(asked("And <image>?", [A, B], "<image> Hm?", "In <image>."))
    assert blind.images == [] and blind.question == "And ?"
    assert blind.history == said("Hm?", "In <image>.")


def test_warm_up_conversations_are_learned_whole(tiny, monkeypatch):
    """As train_sft.py does; of a model's own samples only the last answer is learned."""
    policy, processor = tiny
    seen = []

    def remember(policy, batch, suppress):
        seen.append(batch["mask"])
        return torch.zeros_like(batch["mask"], requires_grad=True)

    monkeypatch.setattr(update, "token_logps", remember)
    asker = Asker(processor, "none")
    _, _, learned = asker.lesson(TALK, 50)
    last = len(asker.target(TALK, 50))
    for task, count in (("warmup", int(learned.sum())), ("cot", last)):
        item = pools.item_of("0", task, "Which has more?", "the second")
        encoded = [update.encode_item(item, asker, {"0": TALK})]
        metrics = update.imitate(policy, encoded, {}, asker, {}, False, 4)
        assert metrics["tokens"] == seen[-1].sum() == count
    assert last < int(learned.sum())


def test_warm_up_solutions_need_no_gold(folder):
    """They are imitated, and nobody scores them."""
    path = write(folder, [{"question": "Describe it.", "solution": "A long tale. " * 20}])
    [example] = selftrain.read_warmup(tasks.read, path, None, {}, REFUSE).values()
    assert example.answer == "" and example.solution.startswith("A long tale.")


# --- train_sft.py on a conversation ---


def test_train_sft_learns_from_every_answer(base, tmp_path, monkeypatch):
    """The loss of the first step is that of both answers' tokens, whatever the micro-batches."""
    policy, processor = modeling.load(base)
    single = asked("Is <image> red?", [B])
    batch, lessons = batch_of_talks(processor)
    logp = logps.token_logps(policy, batch, suppress=processor.special.vision_ids)
    expected = losses.aggregate(losses.nll(logp), losses.sft_weights(batch["mask"])).item()
    monkeypatch.setattr(tasks, "read", lambda *_, **__: [TALK, single])
    found = []
    for size in (1, 2):
        out = tmp_path / str(size)
        line = f"--model {base} --data count.jsonl --prompt-template none --batch-size 2"
        line += f" --micro-batch-size {size} --max-steps 1 --save-steps 0"
        train(train_sft, f"{line} --max-completion-length 50 --output-dir {out}")
        [metrics] = metrics_of(out)
        found.append(metrics["loss"])
        assert metrics["eval/count.jsonl/n"] == 2
    assert found == pytest.approx([expected] * 2, rel=1e-5)
    assert int(batch["mask"].sum()) == sum(int(learned.sum()) for *_, learned in lessons)


# --- records of what was asked, sheets, generate.py ---


def test_records_hold_what_was_asked():
    assert asked("Why?").asked() == {"question": "Why?"}
    example = asked("Why?", [], "One?", "Yes.", system="Be kind.")
    answer = {"prediction": "3", "tokens": 1, "samples": [], "sample_tokens": []}
    row = scoring.row_of(example, example, answer | {"prompt_tokens": 20}, None)
    assert example.asked().items() <= row.items() and list(row)[:2] == ["id", "question"]
    assert example.asked() == {
        "question": "Why?",
        "history": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Yes."}],
        "system": "Be kind.",
    }


@pytest.mark.parametrize("number, size", [(1, (56, 84)), (2, (648, 320)), (3, (648, 648))])
def test_a_sheet_shows_all_pictures(number, size):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)][:number]
    pictures = [Image.new("RGB", (56, 84), colour) for colour in colours]
    [shown] = sheets.sheet_row(asked("Which?", pictures), [])["images"]
    assert shown.size == size
    assert {colour for _, colour in shown.getcolors()} - {(255, 255, 255)} == set(colours)


def test_a_sheet_shows_the_whole_conversation():
    row = sheets.sheet_row(asked("And now?", [], "How many?", "Two."), [])
    assert row["question"] == "How many?\nTwo.\nAnd now?"


def test_generate_places_its_pictures(folder, tiny):
    paths = [str(folder / "images" / name) for name in ("a.png", "b.png")]

    def made(question, paths):
        return generate.make_example(question, paths, "norm1000", 3136, 401408, 28).question

    assert made("Is <image> or <image> red?", paths) == "Is <image> or <image> red?"
    assert made("<image>\nWhich?", paths[:1]) == "Which?"
    assert made(" Which?\n", paths) == " Which?\n"  # verbatim
    assert "2 <image> in the question, but 1 images" in refusal(
        made, "<image> or <image>?", paths[:1]
    )


# --- pairs ---

TWO = {"chosen": "Two.", "rejected": "Three."}
IMAGE, HERE = "images/a.png", {"type": "image"}


def chat(*texts):
    """A list of TRL's turns of a user and an assistant, by turns."""
    return [{"role": role, "content": text} for role, text in said(*texts)]


def words(text):
    return {"type": "text", "text": text}


LONGER = {  # name: (record, history, question, system)
    "TRL, parts in their places": (
        {"images": [IMAGE, "images/b.png"], "prompt": chat([HERE, words("A"), HERE, words("B")])},
        [],
        "<image>A<image>B",
        None,
    ),
    "TRL, several turns": (
        {
            "images": [IMAGE],
            "prompt": [
                {"role": "system", "content": "Be kind."},
                *chat("One?", "Yes.", [words("And here? "), HERE]),
            ],
        },
        said("One?", "Yes."),
        "And here? <image>",
        "Be kind.",
    ),
    "TRL, a picture inside a part": (
        {"prompt": chat([{"type": "image", "image": IMAGE}, words("One?")], "Yes.", "Two?")},
        said("One?", "Yes."),
        "Two?",
        None,
    ),
    "TRL, implicit prompt": (
        {
            "chosen": chat("One?", "Yes.", "Two?", "Two."),
            "rejected": chat("One?", "Yes.", "Two?", "Three."),
        },
        said("One?", "Yes."),
        "Two?",
        None,
    ),
    "LLaMA-Factory": (
        {
            "system": "Be kind.",
            "images": [IMAGE],
            "conversations": [
                {"from": "human", "value": "<image>One?"},
                {"from": "gpt", "value": "Yes."},
                {"from": "human", "value": "Two?"},
            ],
            "chosen": {"from": "gpt", "value": "Two."},
            "rejected": {"from": "gpt", "value": "Three."},
        },
        said("One?", "Yes."),
        "Two?",
        "Be kind.",
    ),
    "MMPR": ({"image": IMAGE, "question": "Is <image> red?"}, [], "Is <image> red?", None),
}


@pytest.mark.parametrize("layout", LONGER)
def test_pairs_with_a_history(folder, tiny, layout):
    record, history, question, system = LONGER[layout]
    [pair] = pairs.read_pairs(write(folder, [TWO | record]))
    example = pair.example
    assert (example.history, example.question, example.system) == (history, question, system)
    assert (pair.chosen, pair.rejected) == ("Two.", "Three.")
    asker = Asker(tiny[1], "none")
    assert fitting_pairs(asker, [pair]) == [pair]
    logp, lengths = update.pair_logps(tiny[0], asker, update.encode_pair(pair, asker))
    assert torch.isfinite(logp).all() and lengths.tolist() == [
        len(data.encode_response(text, tiny[1], "", 99)) for text in ("Two.", "Three.")
    ]


def test_a_pairs_log_probs_are_transformers_own(tiny):
    policy, processor = tiny
    asker = Asker(processor, "none")
    with torch.no_grad():
        pair = update.encode_pair(Pair(TALK, "The second.", "No"), asker)
        logp, _ = update.pair_logps(policy, asker, pair)
        for got, text in zip(logp, ("The second.", "No")):
            prompt = asker.prompt(TALK)
            row = data.encode_response(text, processor, "", 99)
            inputs = checkpoints.stock_inputs([prompt], processor.special, [row])
            logits = policy(**inputs).logits[0, len(prompt.ids) - 1 : -1]
            logits[:, processor.special.vision_ids] = -torch.inf
            expected = logits.log_softmax(-1).gather(1, row[:, None]).sum()
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_user_errors_name_the_line(tiny):
    with pytest.raises(UserError, match="d.jsonl:4"):
        Asker(tiny[1]).prompt(asked("<image>"))
