"""Run: python -m pytest -q tests/test_graft.py    (20 s on one core of a CPU; no network)

model.py graft: a text-only LLM behind the tower of a vision checkpoint. Both are tiny and random,
in their published layouts (donors.py, published.py); what comes of it is compared with stock
transformers' LLM under its own tokenizer.
"""

import json
import random
import re
import runpy
import shutil
import subprocess
import sys
import time

import checkpoints
import donors
import published
import pytest
import torch
from commands import ROOT, refusal, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import families
import graft
import model
import train_sft
from plumbing import rundir, vocabulary, weights
from plumbing.errors import UserError

KINDS = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def run(line, *more):
    """Do what model.py does."""
    model.main(model.parse_args([*line.split(), *map(str, more)]))


def grafted(llm, vision, out, *more):
    """Graft, and return the new directory."""
    run("graft --llm", llm, "--vision", vision, "--output-dir", out, *more)
    return out


def all_weights(directory):
    """Every weight in a directory's files, by the name it has there."""
    found = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def vision(kind, tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("vision"), kind)


@pytest.fixture(scope="module")
def llm(kind, tmp_path_factory):
    return donors.write(tmp_path_factory.mktemp("llm"), KINDS[kind], shard_bytes=400_000)


@pytest.fixture(scope="module")
def both(llm, vision, tmp_path_factory):
    """The graft of the two."""
    return grafted(llm, vision, tmp_path_factory.mktemp("grafted"))


# --- the same words, the same thoughts ---

PIECES = [
    *"How many red objects are there ? 1 22 345 I'm you're don't Größe naïve 大きさ 사과".split(),
    *"... x**2 ( )}; \U0001f600 \u0928\u092e < |> <answer> <box_start> ٣ ﬁ Ⅷ \u200b".split(),
    *["  ", "\n", "\n\n", "\t", " \n", "\r\n"],
]


def texts(seed, count=40):
    """Random texts of ordinary words and letters of many scripts, with odd spaces."""
    rng = random.Random(seed)
    words = [vocabulary.spelled(w).decode(errors="ignore") for w in donors.permuted(0)]
    found = []
    for _ in range(count):
        some = rng.choices(PIECES, k=rng.randint(0, 15)) + rng.choices(words, k=30)
        rng.shuffle(some)
        found.append(rng.choice(["", " "]).join(some) + rng.choice(["", " ", "\n"]))
    letters = [*range(32, 127)] * 20 + [*range(160, 0x3000)]
    return [*found, "".join(map(chr, rng.choices(letters, k=200)))]


def stock_words(llm):
    """Stock transformers' LLM, and its tokenizer as the file says."""
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32)
    return stock.eval(), Tokenizer.from_file(str(llm / "tokenizer.json"))


def stock_eyes(directory):
    """Stock transformers' class for what was grafted, found by its config.json."""
    from transformers import AutoModelForImageTextToText

    found, report = AutoModelForImageTextToText.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return found.eval()


def largest_gap(llm, directory, seed=0):
    """Largest difference in the logits of ordinary words, over random texts."""
    stock, its_words = stock_words(llm)
    seeing = stock_eyes(directory)
    own_words = Tokenizer.from_file(str(directory / "tokenizer.json"))
    vocab = own_words.get_vocab(with_added_tokens=False)
    its_ids = its_words.get_vocab(with_added_tokens=False)
    own_columns = list(vocab.values())
    its_columns = [its_ids[word] for word in vocab]
    worst, seen = 0.0, set()
    for text in texts(seed):
        own = own_words.encode(text, add_special_tokens=False)
        its = its_words.encode(text, add_special_tokens=False)
        assert own.tokens == its.tokens
        seen |= set(own.tokens)
        with torch.no_grad():
            after = seeing(input_ids=torch.tensor([own.ids])).logits[0][:, own_columns]
            before = stock(input_ids=torch.tensor([its.ids])).logits[0][:, its_columns]
        worst = max(worst, float((after - before).abs().max()))
    assert len(seen) > 350
    return worst


def test_text_gives_the_llms_logits(llm, both):
    """Its own tokenizer numbers the same words otherwise: none has its old id by design."""
    assert largest_gap(llm, both) <= 1e-5


@pytest.mark.parametrize("tied, rope", [(True, {}), (False, {"rope_scaling": YARN})])
def test_tied_heads_and_scaled_positions_too(tied, rope, kind, vision, tmp_path):
    sizes = dict(rope_theta=70000.0, rms_norm_eps=1e-3, num_hidden_layers=2) | rope
    llm = donors.write(tmp_path / "llm", KINDS[kind], tied=tied, seed=1, **sizes)
    out = grafted(llm, vision, tmp_path / "out")
    assert largest_gap(llm, out, seed=1) <= 1e-5
    policy, _ = model.load(str(out))
    assert policy.config.tie_word_embeddings == tied
    assert (policy.lm_head.weight is policy.get_input_embeddings().weight) == tied
    assert policy.config.text_config.rope_parameters["rope_theta"] == 70000


def test_a_head_that_differs_is_kept_though_config_json_ties_it(llm, vision, tmp_path):
    """As transformers loads it: the head was left behind, and all logits were others."""
    said = shutil.copytree(llm, tmp_path / "llm")
    config = json.loads((said / "config.json").read_text())
    config["tie_word_embeddings"] = True
    checkpoints.write_json(said / "config.json", config, 2)
    out = grafted(said, vision, tmp_path / "out")
    assert largest_gap(said, out) <= 1e-5
    assert not json.loads((out / "config.json").read_text())["tie_word_embeddings"]


def test_a_gap_would_be_seen(llm, both, tmp_path):
    """Two words change places: the test above must notice."""
    broken = shutil.copytree(both, tmp_path / "broken")
    stored = load_file(broken / "model.safetensors")
    name = next(name for name in stored if name.endswith("embed_tokens.weight"))
    ids = Tokenizer.from_file(str(both / "tokenizer.json")).get_vocab()
    one, other = ids["a"], ids["e"]
    stored[name][[one, other]] = stored[name][[other, one]]
    save_file(stored, broken / "model.safetensors", metadata={"format": "pt"})
    assert largest_gap(llm, broken) > 1e-2


# --- what is written ---


def test_tower_merger_and_layers_are_the_two_checkpoints_to_the_last_bit(kind, llm, vision, both):
    """And stand under the vision checkpoint's own names."""
    new, eyes, words = all_weights(both), all_weights(vision), all_weights(llm)
    of_words = "model.language_model." if kind == "qwen3_vl" else "model."
    tower = {name for name in eyes if "visual." in name}
    layers = {name for name in words if "embed_tokens" not in name and "lm_head" not in name}
    assert all(torch.equal(new[name], eyes[name]) for name in tower)
    renamed = {name: name.replace("model.", of_words, 1) for name in layers}
    assert all(torch.equal(new[renamed[name]], words[name]) for name in layers)
    rest = {f"{of_words}embed_tokens.weight", "lm_head.weight"}
    assert new.keys() == tower | set(renamed.values()) | rest


def test_pictures_are_read_by_stock_transformers_and_by_us_alike(both):
    policy, processor = model.load(str(both))
    prompts = checkpoints.prompts_of(processor, slice(0, 7))
    inputs = checkpoints.stock_inputs(prompts, processor.special)
    with torch.no_grad():
        ours, stock = policy(**inputs).logits, stock_eyes(both)(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert torch.allclose(ours[real], stock[real], atol=1e-5)
    blind = inputs | {"pixel_values": torch.zeros_like(inputs["pixel_values"])}
    with torch.no_grad():
        assert not torch.allclose(policy(**blind).logits[real], ours[real], atol=1e-2)


def test_settings_and_files(kind, llm, vision, both):
    config = json.loads((both / "config.json").read_text())
    its, eyes = (json.loads((at / "config.json").read_text()) for at in (llm, vision))
    words, eyes_words = (c.get("text_config", c) for c in (config, eyes))
    for key in ("rms_norm_eps", "max_position_embeddings", "rope_theta"):
        assert words[key] == its[key] != eyes_words[key], key
    assert config["tie_word_embeddings"] is False and eyes["tie_word_embeddings"] is True
    assert words["rope_scaling"] == eyes_words["rope_scaling"]  # the sections
    for key in ("vocab_size", "eos_token_id"):
        assert words[key] == eyes_words[key], key
    assert config["image_token_id"] == eyes["image_token_id"] and "vision_config" in config
    copied = [name for name in graft.PROCESSOR_FILES if (vision / name).is_file()]
    assert "preprocessor_config.json" in copied and "tokenizer.json" in copied
    assert all((both / name).read_bytes() == (vision / name).read_bytes() for name in copied)
    said = json.loads((both / "generation_config.json").read_text())
    _, processor = model.load(str(both))
    assert said["temperature"] == 0.6 and said["eos_token_id"] == processor.special.eos_ids
    rundir.check_model_files(both)
    assert processor.context == its["max_position_embeddings"]


def test_a_config_that_says_everything_twice(pair, tmp_path):
    """transformers 4.5 wrote the settings into text_config, and left them outside as well."""
    llm, vision = pair
    flat = json.loads((vision / "config.json").read_text())
    outside = ("vision_config", "image_token_id", "video_token_id", "architectures", "model_type")
    words = {key: value for key, value in flat.items() if key not in outside}
    twice = edited(vision, tmp_path / "twice", text_config=words)
    out = grafted(llm, twice, tmp_path / "out")
    assert largest_gap(llm, out) <= 1e-5
    config = json.loads((out / "config.json").read_text())
    its = json.loads((llm / "config.json").read_text())
    for key in ("num_hidden_layers", "rope_theta", "rms_norm_eps"):
        assert config["text_config"][key] == its[key] and key not in config


def test_rows_of_special_tokens(llm, vision, both):
    """Turns start as R1's User, Assistant and end; pictures' as they were; the rest as the mean."""
    own = Tokenizer.from_file(str(both / "tokenizer.json"))
    its = Tokenizer.from_file(str(llm / "tokenizer.json"))
    new, eyes, words = all_weights(both), all_weights(vision), all_weights(llm)
    for end in ("embed_tokens.weight", "lm_head.weight"):
        rows, old = (next(w[n] for n in w if n.endswith(end)) for w in (new, words))
        seen = next(eyes[n] for n in eyes if n.endswith("embed_tokens.weight"))  # tied
        mean = old.mean(0)
        of = {token: old[its.token_to_id(token)] for token in donors.R1_TOKENS}
        for token in ("<|im_end|>", "<|endoftext|>"):
            assert torch.equal(rows[own.token_to_id(token)], of["<｜end▁of▁sentence｜>"])
        begins = (of["<｜User｜>"] + of["<｜Assistant｜>"]) / 2
        assert torch.allclose(rows[own.token_to_id("<|im_start|>")], begins, atol=1e-6)
        for token in families.QWEN2_VL.vision_tokens:
            place = own.token_to_id(token)
            assert torch.equal(rows[place], seen[place])
        for place in (own.token_to_id("<|box_start|>"), len(rows) - 1):  # a spare row
            assert torch.allclose(rows[place], mean, atol=1e-6)
        # What a table of ids would have given: this id is R1's <think>.
        assert its.token_to_id("<think>") == own.token_to_id("<|box_start|>")
        assert not torch.allclose(rows[own.token_to_id("<|box_start|>")], of["<think>"], atol=1e-3)


def test_tokens_that_both_have_go_by_their_names(vision, tmp_path):
    """A Qwen2.5 has <|im_start|> itself; its untrained rows of picture tokens are not taken."""
    tokens = ("<|endoftext|>", "<|box_end|>", "<|vision_start|>", "<|im_end|>", "<|im_start|>")
    kind = json.loads((vision / "config.json").read_text())["model_type"]
    llm = donors.write(tmp_path / "llm", KINDS[kind], tokens=tokens)
    out = grafted(llm, vision, tmp_path / "out")
    own = Tokenizer.from_file(str(out / "tokenizer.json"))
    its = Tokenizer.from_file(str(llm / "tokenizer.json"))
    new, old, eyes = (
        next(w[n] for n in w if n.endswith("embed_tokens.weight"))
        for w in map(all_weights, (out, llm, vision))
    )
    for token in tokens:
        place = own.token_to_id(token)
        source = eyes[place] if token == "<|vision_start|>" else old[its.token_to_id(token)]
        assert torch.equal(new[place], source), token


# --- a merger of another width ---


def test_a_fresh_merger_joins_another_width(kind, vision, tmp_path, capsys):
    sizes = dict(hidden_size=192, intermediate_size=320, num_attention_heads=6)
    if kind == "qwen3_vl":
        sizes["num_attention_heads"] = 4  # heads have a size of their own
    llm = donors.write(tmp_path / "llm", KINDS[kind], **sizes)
    line = ["graft", "--llm", llm, "--vision", vision, "--output-dir"]
    said = refusal(model, [*line, tmp_path / "kept"], capsys)
    assert "leads to a width of 128" in said and "192 wide; add --merger fresh" in said
    assert not (tmp_path / "kept").exists()
    out, again, other = (
        grafted(llm, vision, tmp_path / name, "--merger", "fresh", "--seed", seed)
        for name, seed in (("out", 1), ("again", 1), ("other", 2))
    )
    assert largest_gap(llm, out) <= 1e-5
    new, same, changed = map(all_weights, (out, again, other))
    family = families.FAMILIES[kind]
    mergers = {n for n in new if graft.today(n).startswith(family.mergers)}
    differ = {n for n in new if not torch.equal(new[n], changed[n])}
    assert all(torch.equal(new[n], same[n]) for n in new)
    assert differ == {n for n in mergers if new[n].dim() == 2} and differ
    eyes = all_weights(vision)
    assert mergers < {n for n in new if "visual." in n}
    assert all(torch.equal(new[n], eyes[n]) for n in new if "visual." in n and n not in mergers)
    for name in mergers:
        if new[name].dim() == 2:
            assert float(new[name].std()) == pytest.approx(0.02, rel=0.05), name
            assert new[name].shape[0] in (192, 256)  # the width, or that of four patches
        else:
            assert set(new[name].tolist()) == {
                1.0 if name.endswith(("norm.weight", "ln_q.weight")) else 0.0
            }


# --- two stages ---


def test_stage_1_moves_the_merger_alone_and_stage_2_also_the_llm(kind, both, tmp_path, no_pictures):
    line = "--data count_captions --level 1 --batch-size 4 --max-eval-samples 2 --lora-r 0"
    line += " --max-completion-length 60 --max-steps 2 --save-steps 0 --learning-rate 1e-3"
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    train(train_sft, f"--model {both} {line} --freeze-vision --freeze-llm --output-dir {first}")
    train(train_sft, f"--model {first} {line} --freeze-vision --output-dir {second}")
    family = families.FAMILIES[kind]
    before, after, last = (
        {n: v.detach().clone() for n, v in model.load(str(at))[0].state_dict().items()}
        for at in (both, first, second)
    )
    moved = {n for n in before if before[n].numpy().tobytes() != after[n].numpy().tobytes()}
    assert moved == {n for n in before if n.startswith(family.mergers)}
    moved = {n for n in after if not torch.equal(after[n], last[n])}
    assert not any(
        n.startswith("model.visual.")
        for n in moved - {m for m in before if m.startswith(family.mergers)}
    )
    assert {n for n in after if n.startswith("model.language_model.layers.")} <= moved


# --- large checkpoints ---


def test_weights_come_and_go_one_file_at_a_time(tmp_path):
    """No file is larger than it may be, unless one weight is; the index names all of them."""
    named = [(f"w{i}", torch.full((i + 1, 100), float(i))) for i in range(12)]
    held = []

    def watched():
        for name, value in named:
            held.append(len(list(tmp_path.glob("*.safetensors"))))
            yield name, value

    weights.write_weights(tmp_path, watched(), most=2000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(v.nbytes for _, v in named)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [f.name for f in files] == sorted(set(index["weight_map"].values()))
    assert re.fullmatch(r"model-00001-of-000\d\d.safetensors", files[0].name)
    for file in files:
        with safe_open(file, "pt") as opened:
            sizes = [opened.get_tensor(key).nbytes for key in opened.keys()]
        assert sum(sizes) <= 2000 or len(sizes) == 1
    assert held == sorted(held) and held[-1] >= len(files) - 2  # written before the end
    assert weights.read_weights(tmp_path).keys() == dict(named).keys()
    for name, value in named:
        assert torch.equal(weights.read_weight(tmp_path, name), value)


def test_an_llm_in_pickles(llm, vision, both, tmp_path):
    old = shutil.copytree(llm, tmp_path / "old", ignore=shutil.ignore_patterns("*safetensors*"))
    torch.save(all_weights(llm), old / "pytorch_model.bin")
    out = grafted(old, vision, tmp_path / "out")
    new, usual = all_weights(out), all_weights(both)
    assert all(torch.equal(new[name], usual[name]) for name in usual)
    torch.save(all_weights(llm), old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="convert it to safetensors"):
        grafted(old, vision, tmp_path / "no")


def test_types_of_weights_are_kept(pair, tmp_path):
    _, vision = pair
    llm = donors.write(tmp_path / "llm", dtype=torch.bfloat16, tied=True)
    out = grafted(llm, vision, tmp_path / "out")
    for name, value in all_weights(out).items():
        is_tower = name.startswith("visual.")
        assert value.dtype == (torch.float32 if is_tower else torch.bfloat16), name
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert largest_gap(llm, out) <= 1e-5


# --- towers and LLMs of this repository ---


def test_the_words_of_a_tiny_model_as_an_llm_and_behind_its_own_tower(tiny, base, tmp_path):
    """recipes/text_llm.py gives all words other ids; the graft puts each back in its place."""
    from recipes import text_llm

    line = ["--model", base, "--output-dir", tmp_path / "llm", "--seed", 3]
    text_llm.main(text_llm.parse_args([str(word) for word in line]))
    out = grafted(tmp_path / "llm", base, tmp_path / "out")
    assert largest_gap(tmp_path / "llm", out) <= 1e-5
    policy, processor = tiny
    before, after = policy.state_dict(), model.load(str(out))[0].state_dict()
    rows = ("model.language_model.embed_tokens.weight", "lm_head.weight")
    assert all(torch.equal(after[n], before[n]) for n in before if n not in rows)
    special = processor.special
    words = processor.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    for name in rows:
        for place in (*words.values(), special.eos_ids[0], *special.vision_ids):
            assert torch.equal(after[name][place], before[name][place])
    stock, its = stock_words(tmp_path / "llm")
    ids = [its.get_vocab()[word] for word in words]
    assert ids != list(words.values()) and sorted(ids) == sorted(words.values())


def test_the_script_that_drops_a_tower_refuses_in_a_sentence(tmp_path, monkeypatch, capsys):
    from recipes import text_llm

    words = ["text_llm.py", "--model", str(tmp_path / "no"), "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(text_llm.__file__, run_name="__main__")
    assert ended.value.code == 2 and "error: --model" in capsys.readouterr().err


def test_table(tmp_path, capsys):
    from recipes import graft_table

    for seed, last in (("0", 0.5), ("1", 0.75)):
        for name in graft_table.SETS:
            folder = tmp_path / f"before{seed}" / name.partition(":")[0]
            folder.mkdir(parents=True)
            (folder / "result.json").write_text('{"accuracy": 0.125}')
        for stage, value in (("stage1", 0.25), ("stage2", last)):
            found = {f"eval/{name}/accuracy": value for name in graft_table.SETS}
            (tmp_path / f"{stage}_{seed}").mkdir()
            (tmp_path / f"{stage}_{seed}" / "result.json").write_text(json.dumps(found))
    graft_table.main(graft_table.parse_args([str(tmp_path), "0", "1"]))
    cells = "0.125 → 0.250 → 0.500 | 0.125 → 0.250 → 0.750 | 0.125 → 0.250 → 0.625 | 0.500 – 0.750"
    assert f"| the same about pictures | {cells} |" in capsys.readouterr().out


# --- what is refused ---


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An LLM and a tower that fit."""
    folder = tmp_path_factory.mktemp("pair")
    return donors.write(folder / "llm"), published.write(folder / "vision", "qwen2_vl")


def edited(directory, to, file="config.json", **changes):
    """Copy a checkpoint with other settings; None removes one."""
    shutil.copytree(directory, to)
    found = json.loads((to / file).read_text()) | changes
    (to / file).write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    return to


def adapter_in(folder):
    """Write a directory that looks like an adapter."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def without(directory, to, pattern):
    return shutil.copytree(directory, to, ignore=shutil.ignore_patterns(pattern))


SIZES = dict(hidden_size=128, num_attention_heads=4)
REFUSED = {  # what is wrong: (make the LLM, make the tower; None: the one that fits), the sentence
    "swapped": (lambda l, v, t: v, lambda l, v, t: l, "the other way round"),
    "two towers": (lambda l, v, t: v, None, "has eyes already: it is Qwen2-VL"),
    "two LLMs": (None, lambda l, v, t: l, '--vision .* model_type is "qwen2", whose tower'),
    "no model_type": (
        lambda l, v, t: edited(l, t / "x", model_type=None),
        None,
        "is of model_type null, but .* layers of qwen2",
    ),
    "another LLM": (
        lambda l, v, t: edited(l, t / "x", model_type="llama"),
        None,
        'is of model_type "llama", but .* layers of qwen2; name such an LLM$',
    ),
    "a later LLM": (
        lambda l, v, t: donors.write(t / "x", "qwen3"),
        None,
        'model_type "qwen3", .* layers of qwen2; name such an LLM, or a tower of Qwen3-VL',
    ),
    "experts": (
        lambda l, v, t: edited(l, t / "x", model_type="qwen2_moe"),
        None,
        r"mixture of experts \(qwen2_moe\), which is not grafted; name a dense",
    ),
    "experts behind the tower": (
        lambda l, v, t: donors.write(t / "x", "qwen3"),
        lambda l, v, t: published.write(t / "y", "qwen3_vl_moe"),
        r"--vision .* mixture of experts \(qwen3_vl_moe\)",
    ),
    "quantised": (
        lambda l, v, t: edited(l, t / "x", quantization_config={"quant_method": "awq"}),
        None,
        'is quantised by "awq"; .*in 16 bits',
    ),
    "quantised as MLX says it": (
        lambda l, v, t: edited(l, t / "x", quantization={"group_size": 64, "bits": 4}),
        None,
        "--llm .* is quantised by .*in 16 bits",
    ),
    "quantised in an odd place": (
        lambda l, v, t: edited(l, t / "x", text_config=["?"], quantization_config={"bits": 4}),
        None,
        "--llm .* is quantised by .*in 16 bits",
    ),
    "a quantised tower": (
        None,
        lambda l, v, t: edited(v, t / "y", quantization_config={"quant_method": "gptq"}),
        "--vision .* is quantised",
    ),
    "an adapter": (lambda l, v, t: adapter_in(t / "x"), None, "is an adapter; merge it .*PEFT"),
    "a tower's adapter": (
        None,
        lambda l, v, t: adapter_in(t / "y"),
        "--vision .* is an adapter; .*python model.py export --model",
    ),
    "no tokenizer": (
        lambda l, v, t: without(l, t / "x", "tokenizer*"),
        None,
        "holds no tokenizer.json; copy the tokenizer's files",
    ),
    "a damaged tokenizer": (
        lambda l, v, t: edited(l, t / "x", "tokenizer.json", model={}),
        None,
        "tokenizer.json cannot be read .*fetch",
    ),
    "no weights": (lambda l, v, t: without(l, t / "x", "*.safetensors"), None, "holds no weights"),
    "a hub name without a network": (
        lambda l, v, t: "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        None,
        "--llm deepseek-ai/.* could not be fetched",
    ),
    "no such directory": (lambda l, v, t: t / "none", None, "--llm .*no such directory"),
    "an empty directory": (None, lambda l, v, t: t, "--vision .* holds no config.json"),
    "the preset": (lambda l, v, t: "tiny", None, "--llm tiny is the untrained preset"),
    "a sliding window": (
        lambda l, v, t: edited(l, t / "x", use_sliding_window=True, max_window_layers=1),
        None,
        "sliding window",
    ),
    "heads of another size": (
        lambda l, v, t: donors.write(t / "x", num_attention_heads=8),
        None,
        "has heads of 16, but .*mrope_section .* are for heads of 32",
    ),
    "a head apart from the width": (
        lambda l, v, t: edited(l, t / "x", head_dim=64),
        None,
        "head_dim is 64, but Qwen2-VL takes hidden_size / num_attention_heads",
    ),
    "a size that is none": (
        lambda l, v, t: edited(l, t / "x", hidden_size="wide"),
        None,
        'hidden_size is "wide", not a whole number',
    ),
    "fewer layers than it says": (
        lambda l, v, t: edited(l, t / "x", num_hidden_layers=4),
        None,
        "weights are missing or of another shape .*layers.3",
    ),
    "more layers than it says": (
        lambda l, v, t: edited(l, t / "x", num_hidden_layers=2),
        None,
        "has no place for .*plain causal language model",
    ),
    "rows of another number": (
        lambda l, v, t: edited(l, t / "x", vocab_size=768),
        None,
        "another shape .*embed_tokens",
    ),
    "no head": (
        lambda l, v, t: edited(
            donors.write(t / "w", tied=True), t / "x", tie_word_embeddings=False
        ),
        None,
        "missing .*lm_head",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_told_in_a_sentence(case, pair, tmp_path, capsys):
    make_llm, make_vision, says = REFUSED[case]
    llm, vision = pair
    for_llm, for_vision = llm, vision
    if make_llm:
        for_llm = make_llm(llm, vision, tmp_path)
    if make_vision:
        for_vision = make_vision(llm, vision, tmp_path)
    out = tmp_path / "out"
    line = ["graft", "--llm", for_llm, "--vision", for_vision, "--output-dir", out]
    said = refusal(model, line, capsys)
    assert re.search(says, said), said
    assert not out.exists()


@pytest.mark.parametrize(
    "line, says",
    [
        ("graft --llm a --output-dir c", "graft needs --vision"),
        ("graft --vision a --output-dir c", "graft needs --llm"),
        ("export --output-dir c", "export needs --model"),
        ("graft --llm a --vision b --dtype float32 --output-dir c", "--dtype has no meaning"),
        ("export --model a --merger fresh --output-dir c", "--merger has no meaning for export"),
        ("graft --llm a --vision b --merger new --output-dir c", "--merger"),
        ("graft --llm a --vision b", "--output-dir"),
    ],
)
def test_flags_of_one_command_are_not_the_others(line, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        model.parse_args(line.split())
    assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_nothing_is_written_over(pair, tmp_path, capsys):
    llm, vision = pair
    for flag, place in (("--llm", llm), ("--vision", vision)):
        line = ["graft", "--llm", llm, "--vision", vision, "--output-dir", place]
        assert f"is {flag} itself" in refusal(model, line, capsys)
    (tmp_path / "notes.txt").write_text("mine")
    line = ["graft", "--llm", llm, "--vision", vision, "--output-dir", tmp_path]
    assert "is not empty" in refusal(model, line, capsys)


def test_a_graft_that_was_stopped_leaves_nothing_that_loads_and_is_done_again(
    pair, tmp_path, monkeypatch
):
    llm, vision = pair
    out, stop = tmp_path / "out", iter([False] * 30)
    read = weights.read_weight

    def dies(*given):
        if next(stop, True):
            raise KeyboardInterrupt
        return read(*given)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "read_weight", dies)
        with pytest.raises(KeyboardInterrupt):
            grafted(llm, vision, out)
    assert not [f for f in out.glob("*") if not f.name.startswith(".")]
    grafted(llm, vision, out)
    model.load(str(out))


# --- tokenizers that differ ---


def with_merges(directory, to, change):
    """Copy a checkpoint whose tokenizer has other merges."""
    shutil.copytree(directory, to)
    file = to / "tokenizer.json"
    found = json.loads(file.read_text())
    found["model"]["merges"] = change(found["model"]["merges"])
    file.write_text(json.dumps(found))
    return to


def test_words_that_are_split_otherwise_are_told(pair, tmp_path, capsys):
    llm, vision = pair
    grafted(llm, vision, tmp_path / "same")
    assert "warning" not in capsys.readouterr().out
    grafted(with_merges(llm, tmp_path / "x", lambda m: m[:-40]), vision, tmp_path / "out")
    said = capsys.readouterr().out
    assert "warning: the tokenizers split" in said and "has to learn the difference" in said


def test_a_word_that_the_llm_lacks_is_refused(pair, tmp_path):
    """One of its words is another: its row has no place, and ours no source."""
    llm, vision = pair
    other = shutil.copytree(llm, tmp_path / "x")
    found = json.loads((other / "tokenizer.json").read_text())
    vocab, merges = found["model"]["vocab"], found["model"]["merges"]
    last = "".join(merges.pop().split(" "))
    vocab["qqq"] = vocab.pop(last)
    (other / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="1 of the 584 words .* have no row .*two split text"):
        grafted(other, vision, tmp_path / "out")


def test_spelled():
    assert vocabulary.spelled("Ġred") == b" red" and vocabulary.spelled("Ċ") == b"\n"
    assert vocabulary.spelled("Ã©") == "é".encode()
    assert vocabulary.spelled("<｜User｜>") == "<｜User｜>".encode()  # in no letter of BPE


# --- real sizes ---

REAL = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import model

started = time.time()
model.main(model.parse_args(sys.argv[3:]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
json.dump({"seconds": time.time() - started, "peak_gib": peak}, open(sys.argv[2], "w"))
"""


@pytest.mark.slow
def test_real_shapes_load_and_take_a_step(tmp_path):
    """R1-Distill-Qwen-1.5B behind the tower of Qwen2-VL-2B, random weights in bfloat16."""
    llm = donors.write_r1(tmp_path / "llm")
    vision = checkpoints.write_2024(tmp_path / "vision", "2b")
    out = tmp_path / "out"
    line = ["graft", "--llm", llm, "--vision", vision, "--output-dir", out]
    done = subprocess.run(
        [sys.executable, "-c", REAL, ROOT, tmp_path / "seen.json", *map(str, line)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    size = sum(f.stat().st_size for f in out.glob("*.safetensors")) / 2**30
    print(
        f"\n{done.stdout}grafted in {seen['seconds']:.0f} s, {size:.2f} GiB, peak memory "
        f"{seen['peak_gib']:.2f} GiB"
    )
    shutil.rmtree(llm)
    shutil.rmtree(vision)
    config = json.loads((out / "config.json").read_text())
    assert (config["rope_theta"], config["vocab_size"]) == (10000, 151936)
    assert config["tie_word_embeddings"] is False and config["max_position_embeddings"] == 131072
    checkpoints.picture(224, 168).save(tmp_path / "picture.png")
    record = {"image": "picture.png", "question": "Describe it.", "solution": "Coarse blocks. " * 9}
    (tmp_path / "one.jsonl").write_text(json.dumps(record) + "\n")
    line = f"--model {out} --data {tmp_path}/one.jsonl --lora-r 0 --freeze-vision --freeze-llm"
    line += " --batch-size 1 --micro-batch-size 1 --max-steps 1 --save-steps 0 --dtype bfloat16"
    line += f" --gradient-checkpointing --output-dir {tmp_path}/stage1"
    started = time.time()
    code = "import sys, resource; sys.path.insert(0, sys.argv[1]); import train_sft; "
    code += "train_sft.main(train_sft.parse_args(sys.argv[2:])); "
    code += "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *line.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(
        f"one step of stage 1 in {time.time() - started:.0f} s, {done.stdout.splitlines()[-1]} GiB"
    )
    metrics = json.loads((tmp_path / "stage1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["loss"] > 0 and metrics["grad_norm"] > 0
    kept = weights.read_weights(tmp_path / "stage1")
    for name in ("lm_head.weight", "model.language_model.layers.27.mlp.down_proj.weight"):
        old = name.replace("language_model.", "")
        was = weights.read_weight(out, old if old in weights.read_weights(out) else name)
        new = name if name in kept else old
        assert torch.equal(weights.read_weight(tmp_path / "stage1", new).to(was.dtype), was)
