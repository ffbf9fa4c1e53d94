"""Run: python -m pytest -q tests/test_teachers.py        (10 s on CPU; slow: 1 min, a real server)

Teachers that are checkpoints: our own rollout, and language models that read text only. And, slow,
`transformers serve` behind a proxy that fails in all ways of test_served.py.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from chat_server import ChatServer, completion
from samples import png
from test_served import FAULTS

import data
import families
import rollout
import teachers
from plumbing import address, flags, stopping, teacher_flags
from plumbing.errors import UserError
from plumbing.spending import Limits
from served import ServedTeacher
from tasks.asks import Ask, Failure, Reply, to_example
from tasks.example import Example

SAMPLING = rollout.Sampling(max_tokens=12, temperature=1.0)


def asked(text, *images, id="q", **more):
    parts = [{"type": "image", "image": image} for image in images]
    parts.append({"type": "text", "text": text})
    return Ask(id, [{"role": "user", "content": parts}], **more)


def text_asks(number):
    return [asked("How many? " * (i % 3 + 1), id=f"q{i}") for i in range(number)]


def answers_of(teacher, asks, seeds):
    found = list(teacher.ask(asks, seeds))
    assert [ask for ask, _ in found] == list(asks)
    return [answer for _, answer in found]


# --- our own engine ---


@pytest.fixture(scope="module")
def local(tiny):
    return teachers.LocalTeacher("tiny", *tiny, SAMPLING, batch_size=4)


def seeing(number):
    colors = ["red", "blue", "white"]
    return [
        asked("How many?" * (i % 3 + 1), *[png(56 + 28 * (i % 2), color=colors[i % 3])] * (i % 3))
        for i in range(number)
    ]


def test_an_answer_depends_on_its_seed_and_not_on_the_others(local):
    asks, seeds = seeing(9), [2**62 + 7 * i for i in range(9)]
    answers = answers_of(local, asks, seeds)
    assert sum(isinstance(answer, Reply) for answer in answers) > 5  # noise: one may be empty
    assert answers_of(local, asks[4:], seeds[4:]) == answers[4:]  # gone on after one batch
    order = random.Random(0).sample(range(9), 9)
    mixed = answers_of(local, [asks[i] for i in order], [seeds[i] for i in order])
    assert mixed == [answers[i] for i in order]
    [alone] = answers_of(local, asks[3:4], seeds[3:4])
    assert alone == answers[3]
    [other] = answers_of(local, asks[3:4], [seeds[3] + 1])
    assert other != answers[3]


def test_it_is_the_rollout_of_the_same_question(local, tiny):
    policy, processor = tiny
    image = png(color="green")
    example = Example("q", [image], "How many?", "")
    prompt = data.Asker(processor, "none").prompt(example)
    roll = rollout.rollout(policy, [prompt], processor.special, 1, SAMPLING, 0, first_row=5)
    [reply] = answers_of(local, [asked("How many?", image)], [5])
    assert reply.text == processor.decode(roll.targets[0, : roll.lengths[0]])
    assert reply.prompt_tokens == len(prompt.ids)
    assert (reply.completion_tokens, reply.finish) == (int(roll.lengths[0]), roll.finish[0])


def test_turns_pictures_and_marks_keep_their_places(local):
    turns = [
        {"role": "system", "content": "Be <image> brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Is "},
                {"type": "image", "image": png()},
                {"type": "text", "text": " an <image>, <|im_end|>?"},
            ],
        },
        {"role": "assistant", "content": "Yes, an <image>."},
        {"role": "user", "content": "And now?"},
    ]
    example = to_example(Ask("q", turns))
    assert example.system == "Be < image> brief."
    assert [turn.text for turn in example.history] == [
        "Is <image> an < image>, < |im_end|>?",
        "Yes, an < image>.",
    ]
    assert example.question == "And now?" and len(example.images) == 1
    assert isinstance(answers_of(local, [Ask("q", turns)], [0])[0], Reply)


def test_a_prefix_is_continued(local, tiny):
    policy, processor = tiny
    [reply] = answers_of(local, [asked("How many?", prefix="There are")], [3])
    prompt = data.Asker(processor, "none").prompt(Example("q", [], "How many?", ""))
    longer = data.append_response(prompt, "There are", processor)
    roll = rollout.rollout(policy, [longer], processor.special, 1, SAMPLING, 0, first_row=3)
    assert reply.text == processor.decode(roll.targets[0, : roll.lengths[0]])
    assert reply.prompt_tokens == len(longer.ids)


@pytest.mark.parametrize(
    "bad, reason",
    [
        (asked("x " * 5000), "does not fit the model's context"),
        (asked("x", prefix="y " * 5000), "with its prefix"),
        (asked("x", "/nowhere/a.png"), "/nowhere/a.png"),
        (asked("x", b"no picture"), "cannot be opened"),
    ],
)
def test_what_cannot_be_asked_is_a_failure_and_the_others_are_answered(local, bad, reason):
    good = text_asks(3)
    answers = answers_of(local, [good[0], bad, *good[1:]], [0, 1, 2, 3])
    assert isinstance(answers[1], Failure) and reason in answers[1].reason
    assert [answers[i] for i in (0, 2, 3)] == answers_of(local, good, [0, 2, 3])
    assert isinstance(answers_of(local, [bad], [0])[0], Failure)


def test_workers_change_nothing(tiny, local):
    many = teachers.LocalTeacher("tiny", *tiny, SAMPLING, batch_size=4, num_workers=2)
    asks, seeds = seeing(7), range(7)
    assert answers_of(many, asks, seeds) == answers_of(local, asks, seeds)


@pytest.mark.parametrize("kind", ["local", "text"])
def test_told_to_stop_it_ends_after_a_batch(kind, request):
    teacher = request.getfixturevalue(kind)
    with pytest.raises(SystemExit), stopping.Stop() as stop:
        found = []
        for answer in teacher.ask(text_asks(20), range(20)):
            found.append(answer)
            if len(found) == 6:
                stop.ask(stopping.SIGINT)
    assert len(found) == 8


def test_nothing_to_ask(local, text):
    assert list(local.ask([], [])) == list(text.ask([], [])) == []


# --- language models that read text only ---

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_text_model(folder, kind="Qwen2", template=TURNS):
    """Write a tiny causal language model whose own rules of sampling must not count."""
    import transformers

    tokenizer = families.tiny_tokenizer()
    tokenizer.chat_template = template
    ids = families.special_ids(tokenizer)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        eos_token_id=ids.eos_ids[0],
        pad_token_id=ids.pad_id,
        bos_token_id=None,
    )
    written = getattr(transformers, f"{kind}ForCausalLM")(config)
    rules = written.generation_config
    rules.eos_token_id, rules.pad_token_id = ids.eos_ids, ids.pad_id
    rules.do_sample, rules.top_k, rules.repetition_penalty = True, 1, 1.5
    written.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("text"))


def loaded(folder, **more):
    found = teachers.load_text_model(Path(folder), torch.float32, torch.device("cpu"), None)
    more.setdefault("sampling", SAMPLING)
    return teachers.TextTeacher(str(folder), *found, batch_size=4, **more)


@pytest.fixture(scope="module")
def text(text_folder):
    return loaded(text_folder)


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama"])
def test_greedy_is_the_model_by_itself(kind, tmp_path):
    """Token by token, without a cache, and without the rules in generation_config.json."""
    teacher = loaded(write_text_model(tmp_path, kind), sampling=rollout.Sampling(12, 0))
    ask = asked("How many?", prefix="There are")
    [reply] = answers_of(teacher, [ask], [0])
    written = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nThere are"
    ids = teacher.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert reply.prompt_tokens == len(ids)
    said = []
    while len(said) < 12 and not {*said} & {*teacher.eos_ids}:
        with torch.no_grad():
            logits = teacher.policy(torch.tensor([ids + said])).logits[0, -1]
        said.append(int(logits.argmax()))
    assert reply.completion_tokens == len(said)
    assert reply.text == teacher.tokenizer.decode(said, skip_special_tokens=True)


def test_a_text_answer_depends_on_its_seed_and_not_on_the_others(text):
    asks, seeds = text_asks(9), range(9)
    answers = answers_of(text, asks, seeds)
    assert len({answer.text for answer in answers}) > 5
    assert answers_of(text, asks[4:], seeds[4:]) == answers[4:]
    assert answers_of(text, asks[::-1], seeds[::-1]) == answers[::-1]
    assert answers_of(text, asks[3:4], [3]) == answers[3:4]
    assert answers_of(text, asks[3:4], [4]) != answers[3:4]


def test_text_is_drawn_as_the_model_says(text):
    """The first token of 400 seeds against the model's own probabilities."""
    teacher = loaded(text.name, sampling=rollout.Sampling(1, 1.0))
    teacher.batch_size = 400
    ask = asked("How many?")
    draws = teacher.answer([*range(400)], [teacher.encode(ask)] * 400, range(400))
    with torch.no_grad():
        probs = text.policy(torch.tensor([text.encode(ask)])).logits[0, -1].softmax(-1)
    words = [text.tokenizer.decode([i], skip_special_tokens=True) for i in range(len(probs))]
    top = words[int(probs.argmax())]
    p = sum(float(probs[i]) for i, word in enumerate(words) if word == top)
    drawn = [draw.text for draw in draws.values() if isinstance(draw, Reply)].count(top) / 400
    assert 0.1 < p < 0.9 and abs(drawn - p) < 4 * (p * (1 - p) / 400) ** 0.5


def test_it_cannot_see(text):
    with pytest.raises(UserError, match="reads text only.*vision-language"):
        list(text.ask([asked("x", png())], [0]))


def test_a_text_that_is_too_long_is_a_failure(text):
    answers = answers_of(text, [asked("x " * 900), asked("How many?")], [0, 1])
    assert isinstance(answers[0], Failure) and "more than 500" in answers[0].reason
    assert isinstance(answers[1], Reply)


@pytest.mark.parametrize(
    "break_it, says",
    [
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ x y }}"), "chat template"),
    ],
)
def test_a_broken_text_model_is_refused_with_a_sentence(break_it, says, tmp_path):
    break_it(write_text_model(tmp_path))
    with pytest.raises(UserError, match=says) as stop:
        loaded(tmp_path)
    assert "\n" not in str(stop.value)


def test_lost_weights_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    file = write_text_model(tmp_path) / "model.safetensors"
    weights = load_file(file)
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match="lacks the weights model.layers.1.mlp.up_proj.weight"):
        loaded(tmp_path)


# --- the command line ---


def parsed(line):
    parser = flags.Parser("A script.")
    teacher_flags.add_teacher_flags(parser)
    teacher_flags.add_teacher_flags(parser, "judge")
    return parser.parse_args(line.split())


def test_checkpoints_by_the_command_line(base, text_folder, capsys):
    args = parsed(f"--teacher {base} --judge {text_folder} --eval-batch-size 3")
    teacher = teachers.make_teacher(args)
    judge = teachers.make_teacher(args, "judge", like=teacher)
    assert isinstance(teacher, teachers.LocalTeacher) and isinstance(judge, teachers.TextTeacher)
    assert (teacher.name, judge.name) == (str(base), str(text_folder))
    assert teacher.sampling == rollout.Sampling(2048, 0.6, 0.95)
    assert judge.sampling == rollout.Sampling(2048, 0.0)
    assert teacher.batch_size == judge.batch_size == 3


@pytest.mark.parametrize("judge", ["", "--judge {base}"])
def test_one_checkpoint_is_loaded_once(base, judge):
    args = parsed(f"--teacher {base} {judge.format(base=base)}")
    teacher = teachers.make_teacher(args)
    judge = teachers.make_teacher(args, "judge", like=teacher)
    assert judge.policy is teacher.policy and judge.sampling.temperature == 0


def test_servers_by_the_command_line(monkeypatch):
    monkeypatch.setenv(address.KEY, "sk-very-secret-key")
    with ChatServer() as one, ChatServer() as two:
        args = parsed(
            f"--teacher {one.address}/ --judge {two.address} --judge-model j --budget 3 "
            "--teacher-price 1 2 --judge-price 3 4 --teacher-concurrency 5 --max-retries 0 "
            "--request-timeout 9 --max-requests-per-minute 7 --max-tokens-per-minute 8"
        )
        teacher = teachers.make_teacher(args)
        judge = teachers.make_teacher(args, "judge", like=teacher)
    assert (teacher.name, judge.name) == ("m", "j")
    assert teacher.price == (1, 2) and judge.price == (3, 4)
    assert teacher.spending is judge.spending and teacher.spending.budget == 3
    assert teacher.limits == judge.limits == Limits(5, 0, 9, 7, 8)
    assert "secret" not in str(vars(args))


@pytest.mark.parametrize(
    "line, says",
    [
        ("--teacher localhost:8000/v1", "begins with http"),
        ("--teacher ftp://host/v1", "begins with http"),
        ("--teacher http://sk-secret@host/v1", "export OPENAI_API_KEY"),
        ("--teacher x --judge https://host/v1?key=sk-secret", "export OPENAI_API_KEY"),
        ("--teacher x --api-key sk-secret", "export OPENAI_API_KEY"),
        ("--teacher x --api-key=sk-secret", "export OPENAI_API_KEY"),
        ("--teacher x --teacher-key=sk-secret", "unknown argument --teacher-key=..."),
        ("--teacher x --budget -1", "--budget"),
        ("--teacher x --teacher-price 1", "--teacher-price"),
        ("--teacher x --request-timeout 0", "--request-timeout"),
        ("--judge x", "--teacher"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_sentence_without_a_key(line, says, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(line)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and says in said and "secret" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "line, says",
    [
        ("--teacher tiny", "--teacher tiny is the untrained preset"),
        ("--teacher nowhere/at/all", "--teacher nowhere/at/all: no such directory"),
        ("--teacher {base} --teacher-model x", "--teacher-model is for a server"),
        ("--teacher {base} --teacher-price 1 2", "--teacher-price is for a server"),
        ("--teacher {base} --budget 2", "--budget is for a server"),
        ("--teacher http://localhost:1/v1 --budget 2", "--budget needs --teacher-price"),
        ("--teacher http://localhost:1/v1", "does not list its models"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(line, says, base):
    with pytest.raises(UserError, match=says) as stop:
        teachers.make_teacher(parsed(line.format(base=base)))
    assert "\n" not in str(stop.value)


def test_a_budget_of_the_judge_alone(base):
    args = parsed(f"--teacher {base} --judge http://h/v1 --judge-model j --budget 2")
    teacher = teachers.make_teacher(args)
    with pytest.raises(UserError, match="--budget needs --judge-price"):
        teachers.make_teacher(args, "judge", like=teacher)


def test_a_question_to_try_it(base, folder, capsys):
    line = f"--teacher {base} --ask Many? --image {folder}/images/a.png --max-completion-length 5"
    teachers.main(teachers.parse_args(line.split()))
    assert "5 of the answer" in capsys.readouterr().out


def test_a_question_to_try_a_server(capsys):
    with ChatServer(lambda body: (200, completion("Three."))) as server:
        line = f"--teacher {server.address} --ask Many? --teacher-price 1 2"
        teachers.main(teachers.parse_args(line.split()))
    printed = capsys.readouterr().out
    assert printed.startswith("Three.\n(m: complete, 10 tokens of the prompt, 5 of the answer, ")
    assert printed.endswith("cost 0.000020)\n")


def test_a_question_without_an_answer(capsys):
    with ChatServer(lambda body: (200, completion(""))) as server:
        line = f"--teacher {server.address} --ask Many?"
        with pytest.raises(UserError, match="m gave no answer: empty answer"):
            teachers.main(teachers.parse_args(line.split()))


# --- a real server ---


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`transformers serve`, in a process of its own: (address, name of the model)."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder = write_text_model(tmp_path_factory.mktemp("served"), "Llama")
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    log = open(folder / "log", "w")
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                opener.open(f"http://127.0.0.1:{port}/health")
                break
            except OSError:
                time.sleep(0.5)
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}/v1", name=str(folder))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        log.close()


@pytest.mark.slow
def test_a_real_server_behind_a_proxy_that_fails(served):
    sampling = rollout.Sampling(max_tokens=24, temperature=1.0)
    asks, seeds = text_asks(64), range(64)
    limits = Limits(concurrency=6, timeout=20)

    def ask(where):
        teacher = ServedTeacher(where, served.name, sampling, limits=limits)
        found = list(teacher.ask(asks, seeds))
        assert sorted(ask.id for ask, _ in found) == sorted(ask.id for ask in asks)
        return {ask.id: answer for ask, answer in found}

    plain = ask(served.address)
    assert all(isinstance(a, Reply) or "said nothing" in a.reason for a in plain.values())
    assert sum(isinstance(answer, Reply) for answer in plain.values()) > 50
    draw = random.Random(3)
    kinds = [None] * 12 + [fault for fault in FAULTS if fault not in ("stuck", "429 after 7")]
    faults = [draw.choice(kinds) for _ in range(1000)]
    faults[7] = "stuck"
    with ChatServer(faults=faults, forward_to=served.address) as proxy:
        failing = ask(proxy.address)
    assert failing == plain
    assert len(proxy.bodies) > 80  # it did fail
