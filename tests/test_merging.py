"""Run: python -m pytest -q tests/test_merging.py    (8 s on one core of a CPU; no network)

--merge-same-image: which questions become one conversation, what is learned of it, and the limits.
"""

import dataclasses
import json

import pytest
from commands import metrics_of, train
from samples import png, write

import data
import lengths
import merging
import processor
import tasks
import train_sft
from plumbing.errors import UserError
from tasks.example import Turn


@pytest.fixture(scope="module")
def asker():
    return data.Asker(processor.processor_of("tiny"), "answer")


@pytest.fixture
def pictures(tmp_path):
    for name, color in (("a", "red"), ("b", "blue")):
        (tmp_path / f"{name}.png").write_bytes(png(112, 112, color))
    return tmp_path


def ask(image, number, **more):
    return {
        "image": f"{image}.png",
        "question": f"What is {number}?",
        "answer": str(number),
        **more,
    }


def read(folder, records):
    return tasks.read(str(write(folder, records)), needs_answer=False)


def said(example):
    """All that is said in an example: answers of its history, and its own."""
    answers = [turn.text for turn in example.history if turn.role == "assistant"]
    return [*answers, example.answer]


# --- which ---


def test_the_questions_on_a_picture_become_one_conversation(asker, pictures, capsys):
    """In the order of the file, where the first of them stood."""
    records = [ask("a", 1), ask("b", 2), ask("a", 3), ask("b", 4), ask("a", 5)]
    examples = read(pictures, records)
    before = [dataclasses.replace(example) for example in examples]
    a, b = merging.merged(asker, examples, 500)
    assert examples == before
    put = "Output the final answer in <answer> </answer> tags."
    assert a.history == [
        Turn("user", f"What is 1?  {put}"),
        Turn("assistant", "<answer> 1 </answer>"),
        Turn("user", f"What is 3?  {put}"),
        Turn("assistant", "<answer> 3 </answer>"),
    ]
    assert (a.question, a.answer, a.source) == ("What is 5?", "5", examples[0].source)
    assert said(b) == ["<answer> 2 </answer>", "4"]
    printed = capsys.readouterr().out
    # 112 x 112 pixels are 16 tokens: two are saved of a, one of b.
    assert (
        "5 of 5 questions became 2 conversations, 2 examples in all; 48 picture tokens" in printed
    )


def test_every_answer_is_learned_and_the_picture_is_there_once(asker, pictures):
    """As many answer tokens as the questions alone have, to the last token."""
    examples = read(pictures, [ask("a", 1), ask("a", 22), ask("a", 333)])
    [talk] = merging.merged(asker, examples, 500)
    prompt, targets, learned = asker.lesson(talk, 500)
    alone = [asker.lesson(example, 500) for example in examples]
    assert len(prompt.image_slots) == len(alone[0][0].image_slots) == 16
    assert prompt.ids.tolist() == alone[0][0].ids.tolist()  # it begins as the first alone
    answers = [target.tolist() for _, target, _ in alone]
    assert targets[learned.bool()].tolist() == sum(answers, [])


def test_what_stays_alone(asker, pictures):
    """Without a picture, with a past, with a place between words, with its own system turn, boxes
    in pixels of the shown picture, and the only question on its pictures."""
    earlier = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Hm."}]
    both = {"images": ["a.png", "b.png"], "question": "Same?", "answer": "no"}
    records = [
        {"question": "Why?", "answer": "so"},
        {"question": "Why not?", "answer": "no"},
        ask("a", 1, history=earlier),
        ask("a", 2) | {"question": "Is <image> red?"},
        ask("a", 3, system="Be brief."),
        both,
        both | {"images": ["b.png", "a.png"]},
        ask("a", 4),
    ]
    examples = read(pictures, records)
    assert merging.merged(asker, examples, 500) == examples
    boxes = [dataclasses.replace(e, meta={"box_format": "resized"}) for e in examples[-1:] * 2]
    assert merging.merged(asker, boxes, 500) == boxes


def test_a_picture_is_known_by_its_path_or_its_bytes(asker, pictures):
    (pictures / "link.png").symlink_to(pictures / "a.png")
    linked = read(pictures, [ask("a", 1), ask("link", 2)])
    assert len(merging.merged(asker, linked, 500)) == 1
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    red, blue = png(56, 56, "red"), png(56, 56, "blue")
    rows = [
        {"image": p, "question": f"{i}?", "answer": "1"} for i, p in enumerate([red, blue, red])
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), pictures / "x.parquet")
    embedded = tasks.read(str(pictures / "x.parquet"))
    assert [len(e.history) for e in merging.merged(asker, embedded, 500)] == [2, 0]


# --- how long ---


@pytest.mark.parametrize(
    "most, questions", [(1, [1] * 12), (60, [2] + [1] * 10), (130, [3, 3, 2, 2, 2]), (400, [8, 4])]
)
def test_no_conversation_is_longer_than_allowed(asker, pictures, most, questions):
    examples = read(pictures, [ask("a", 10**i) for i in range(12)])
    found = merging.merged(asker, examples, most)
    assert [a for e in found for a in map(answer_of, said(e))] == [e.answer for e in examples]
    for example in found:
        prompt, targets, _ = asker.lesson(example, 500)
        assert not example.history or len(targets) <= most
    assert [len(said(example)) for example in found] == questions


def answer_of(text):
    return text.removeprefix("<answer> ").removesuffix(" </answer>")


def test_no_conversation_is_longer_than_the_context(asker, pictures):
    examples = read(pictures, [ask("a", 10**i) for i in range(12)])
    first = lengths.lesson_tokens(asker, examples[0]).whole
    processor_ = dataclasses.replace(asker.processor, context=first + 130 + 400)
    small = dataclasses.replace(asker, processor=processor_)
    found = merging.merged(small, examples, 400)
    assert 1 < len(found) < 12
    for example in found:
        small.lesson(example, 400, 400)  # as train_sft.py does: it would be refused
        assert lengths.lesson_tokens(asker, example).whole <= first + 130


def test_a_template_that_drops_earlier_answers_is_refused(pictures):
    processor_ = processor.processor_of("tiny")
    processor_.tokenizer.chat_template = processor_.tokenizer.chat_template.replace(
        "{{ message['content'] }}<|im_end|>", "{{ message['content'][:3] }}<|im_end|>"
    )
    examples = read(pictures, [ask("a", 1), ask("a", 2)])
    with pytest.raises(UserError, match="--merge-same-image made them: omit it"):
        merging.merged(data.Asker(processor_, "answer"), examples, 500)


# --- as a user types it ---


def test_a_run_learns_the_conversations_and_asks_the_questions(base, pictures, no_pictures, capsys):
    """Six questions on two pictures are two examples to learn, and six to be asked."""
    records = [ask("ab"[i % 2], i) for i in range(6)]
    file = write(pictures, records)
    line = f"--model {base} --data {file} --batch-size 2 --num-train-epochs 2 --save-steps 0"
    line += f" --max-completion-length 300 --merge-same-image --output-dir {pictures / 'out'}"
    train(train_sft, line)
    assert "6 of 6 questions became 2 conversations" in capsys.readouterr().out
    assert [m["step"] for m in metrics_of(pictures / "out")] == [1, 2]
    assert json.loads((pictures / "out" / "result.json").read_text())["n"] == 6
