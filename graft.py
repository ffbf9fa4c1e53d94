"""A reasoning LLM given eyes: a text-only LLM behind the vision tower of a Qwen-VL checkpoint.

    python model.py graft --llm DIR --vision DIR --output-dir DIR

As Align-DS-V does it (align-anything). Layers and words are the LLM's; tower, tokenizer, tokens of
pictures and chat template are the vision checkpoint's. Ids collide between the two tokenizers, so
rows of embeddings and head go to the words that they stand for. Two stages of training follow, as
LLaVA's (arXiv:2304.08485): first the merger between tower and LLM, then also the LLM.

Weights are read and written one at a time: no model has to fit the memory.
"""

import argparse
import copy
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import families
from plumbing import checkpoint_files, disk, find_model, rundir, vocabulary, weights
from plumbing.device import dtype_name
from plumbing.errors import UserError
from plumbing.fields import ROPE, TEXT_CONFIG, check, read_object, shown
from plumbing.vocabulary import Vocabulary
from processor import Processor, load_processor

MERGERS = ("keep", "fresh")

# Weights by the names of transformers 5.
TOWER = "model.visual."
EMBEDDINGS = "model.language_model.embed_tokens.weight"
LAST_NORM = "model.language_model.norm.weight"
HEAD = "lm_head.weight"

# Settings of the language model, as text_config calls them, that are the LLM's.
OF_THE_LLM = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "attention_dropout",
    "initializer_range",
    "max_position_embeddings",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
)
ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")  # likewise
# Where the LLM has no <|im_start|> and <|im_end|>: what begins and ends its turns (DeepSeek-R1).
TURNS = ("<｜User｜>", "<｜Assistant｜>")
ENDS = ("<｜end▁of▁sentence｜>", "<|EOT|>")
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


class Source(NamedTuple):
    """A checkpoint that is read: what its config.json says, and its weights under today's names."""

    flag: str
    at: Path
    config: object  # of transformers
    names: dict[str, str]  # today's name -> the name in its files
    stored: dict[str, weights.Stored]  # by today's name

    def read(self, name: str) -> torch.Tensor:
        """Read one weight, by today's name."""
        return weights.read_weight(self.at, self.names[name])


# --- which two ---


def directory_of(flag: str, name: str) -> Path:
    """Find what --llm or --vision names, a directory or a hub name. UserError if it cannot be."""
    if families.preset(name):
        raise UserError(
            f"{flag} {name} is the untrained preset, which lies in no directory; train one first"
        )
    path = Path(name)
    if not os.path.isdir(path):
        if find_model.looks_local(name):
            raise UserError(
                f"{flag} {name}: no such directory; name a checkpoint's directory or a hub name "
                "(owner/model)"
            )
        path = find_model.fetch(name, flag=flag)
    rundir.check_model_files(path)
    if (path / "adapter_config.json").is_file():
        how = "with merge_and_unload of PEFT"
        if flag == "--vision":
            how = f"python model.py export --model {name} --output-dir merged"
        raise UserError(f"{flag} {name} is an adapter; merge it into its base first: {how}")
    if not (path / "config.json").is_file():
        raise UserError(f"{flag} {name} holds no config.json: not a Hugging Face checkpoint")
    return path


def check_kinds(llm: tuple[str, dict], vision: tuple[str, dict]) -> families.Family:
    """Find the family of the tower. UserError unless the LLM has its kind of layers.

    llm, vision: (name, config.json).
    """
    (llm_name, words), (vision_name, eyes) = llm, vision
    for flag, name, config in (("--llm", llm_name, words), ("--vision", vision_name, eyes)):
        if str(config.get("model_type")).endswith("_moe"):
            raise UserError(
                f"{flag} {name} is a mixture of experts ({config['model_type']}), which is not "
                "grafted; name a dense model"
            )
        method = checkpoint_files.quantised_by(config)
        if method:
            raise UserError(
                f"{flag} {name} is quantised by {shown(method)}; fetch the checkpoint in 16 bits"
            )
    kind, eyes_kind = words.get("model_type"), eyes.get("model_type")
    known = families.FAMILIES
    sees, lacks_eyes = kind in list(known), eyes_kind not in list(known)
    if sees and lacks_eyes:
        raise UserError(
            f"--llm {llm_name} is {known[kind].name}, and --vision {vision_name} has no tower "
            f"(model_type {shown(eyes_kind)}): name them the other way round"
        )
    if sees:
        raise UserError(
            f"--llm {llm_name} has eyes already: it is {known[kind].name}; name a text-only LLM "
            f"({known[kind].llm})"
        )
    if lacks_eyes:
        raise UserError(
            f"--vision {vision_name}: model_type is {shown(eyes_kind)}, whose tower is not known; "
            f"name a checkpoint of {families.known()}"
        )
    family = known[eyes_kind]
    if kind != family.llm:
        fitting = [other.name for other in families.ALL if other.llm == kind]
        instead = f", or a tower of {' or '.join(fitting)}" if fitting else ""
        raise UserError(
            f"--llm {llm_name} is of model_type {shown(kind)}, but behind the tower of "
            f"{family.name} are layers of {family.llm}; name such an LLM{instead}"
        )
    return family


# --- what both say ---


def today(name: str) -> str:
    """Return a published name of a vision checkpoint's weight as transformers 5 has it."""
    if name.startswith(("visual.", "model.visual.")):
        return f"model.{name.removeprefix('model.')}"
    return name


def is_tied(at: Path, stored: dict[str, weights.Stored], config: object) -> bool:
    """Say whether the head is the embeddings.

    Two that are stored and differ are not, whatever config.json says: so transformers loads them.
    """
    words = [name for name in stored if name.endswith("embed_tokens.weight")]
    if config.tie_word_embeddings and HEAD in stored and words:
        return torch.equal(weights.read_weight(at, HEAD), weights.read_weight(at, words[0]))
    return config.tie_word_embeddings


def read_vision(at: Path, family: families.Family) -> Source:
    """Read what the vision checkpoint says; of its weights, the tower's, embeddings and head."""
    checkpoint_files.check_model(at)
    config = family.config_class().from_dict(read_object(at / "config.json"))
    found = weights.read_weights(at)
    names = {today(name): name for name in found if today(name).startswith(TOWER)}
    for name in found:
        if name.endswith("embed_tokens.weight"):
            names[EMBEDDINGS] = name
        if name == HEAD and not is_tied(at, found, config):
            names[HEAD] = name
    return Source("--vision", at, config, names, {new: found[old] for new, old in names.items()})


def read_llm(at: Path, kind: str) -> Source:
    """Read what the text-only LLM says. UserError if its files are not as they must be."""
    from transformers import CONFIG_MAPPING

    file = at / "config.json"
    found = read_object(file)
    check(file, found, TEXT_CONFIG)
    for key in ("rope_scaling", "rope_parameters"):
        check(file, found.get(key) or {}, ROPE, f"{key}.")
    config = checkpoint_files.parsed(file, CONFIG_MAPPING[kind].from_dict, found)
    stored = weights.read_weights(at)
    checkpoint_files.must_be_floats(at, stored)
    config.tie_word_embeddings = is_tied(at, stored, config)
    names = {}
    for name in stored:
        is_head = name == HEAD
        if name.endswith("rotary_emb.inv_freq") or is_head and config.tie_word_embeddings:
            continue  # computed, or a copy of the embeddings
        new = HEAD if is_head else f"model.language_model.{name.removeprefix('model.')}"
        names[new] = name
    return Source("--llm", at, config, names, {new: stored[old] for new, old in names.items()})


def check_fit(family: families.Family, llm: Source, vision: Source, merger: str) -> None:
    """Raise UserError if the LLM cannot stand behind this tower."""
    words, eyes = llm.config, vision.config.text_config
    sections = eyes.rope_parameters["mrope_section"]
    head, out = families.head_size(words), getattr(vision.config.vision_config, family.tower_out)
    if set(getattr(words, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise UserError(
            f"--llm {llm.at} attends within a sliding window (use_sliding_window or layer_types in "
            "its config.json), which the attention of packed responses cannot; name another LLM"
        )
    if not family.has_head_dim and head * words.num_attention_heads != words.hidden_size:
        raise UserError(
            f"--llm {llm.at}: head_dim is {head}, but {family.name} takes hidden_size / "
            f"num_attention_heads, {words.hidden_size} / {words.num_attention_heads}; name another "
            "LLM"
        )
    if 2 * sum(sections) != head:
        raise UserError(
            f"--llm {llm.at} has heads of {head}, but the positions of --vision {vision.at} "
            f"(mrope_section {sections}) are for heads of {2 * sum(sections)}; name another LLM, "
            "or the tower of a smaller or larger checkpoint"
        )
    if merger == "keep" and out != words.hidden_size:
        raise UserError(
            f"the merger of --vision {vision.at} leads to a width of {out}, but --llm {llm.at} is "
            f"{words.hidden_size} wide; add --merger fresh, and train it on captions"
        )


def grafted_config(family: families.Family, llm: Source, vision: Source) -> dict:
    """Write config.json: the vision checkpoint's, in its own layout, with the LLM's settings."""
    config = copy.deepcopy(read_object(vision.at / "config.json"))
    words, _ = checkpoint_files.text_of(config)
    known = vision.config.text_config
    for key in OF_THE_LLM:
        value = getattr(llm.config, key, None)
        if hasattr(known, key) and (value is not None or key in words):
            words[key] = value
    words.pop("layer_types", None)  # follows from use_sliding_window, which is off
    if words is not config:  # of transformers 4.5, which repeated them outside
        for key in (*OF_THE_LLM, *ROPE_KEYS, "layer_types"):
            config.pop(key, None)
    config["vision_config"][family.tower_out] = llm.config.hidden_size
    config["tie_word_embeddings"] = llm.config.tie_word_embeddings
    if "tie_word_embeddings" in words:
        words["tie_word_embeddings"] = llm.config.tie_word_embeddings
    set_rope(words, llm.config.rope_parameters, known.rope_parameters)
    return config


def with_dtype(config: dict, dtype: torch.dtype) -> dict:
    """Name the type of the weights wherever config.json does."""
    words, _ = checkpoint_files.text_of(config)
    for part in (config, words):
        for key in {"dtype", "torch_dtype"} & part.keys():
            part[key] = dtype_name(dtype)
    return config


def set_rope(words: dict, of_llm: dict, of_vision: dict) -> None:
    """Put base and scaling of the LLM's positions beside the sections of the vision checkpoint."""
    sections = {key: value for key, value in of_vision.items() if key.startswith("mrope_")}
    if words.get("rope_parameters"):
        words["rope_parameters"] = of_llm | sections
        return
    words["rope_theta"] = of_llm["rope_theta"]
    scaling = {key: value for key, value in of_llm.items() if key != "rope_theta"}
    if scaling["rope_type"] == "default":  # as it stands there, of type mrope in 2024
        scaling = {key: v for key, v in words["rope_scaling"].items() if "type" in key}
    words["rope_scaling"] = scaling | sections


def empty_model(family: families.Family, config: dict):
    """Make the grafted model without memory for its weights: their names and shapes."""
    parsed = family.config_class().from_dict(copy.deepcopy(config))
    with torch.device("meta"):
        return family.model_class()(parsed)


def check_weights(source: Source, expected: dict[str, tuple], kind: str) -> None:
    """Raise UserError unless a checkpoint has these weights, and no others of the kind."""
    lacking = [
        name
        for name, shape in expected.items()
        if name not in source.stored or source.stored[name].shape != shape
    ]
    if lacking:
        raise UserError(
            f"{source.flag} {source.at}: {len(lacking)} weights are missing or of another shape "
            f"than its config.json says ({lacking[0]}, ...); fetch the checkpoint again"
        )
    more = [source.names[name] for name in source.stored if name not in expected]
    if more and source.flag == "--llm":
        raise UserError(
            f"{source.flag} {source.at} has weights that {kind} has no place for ({more[0]}, ...); "
            "name a plain causal language model"
        )


# --- embeddings and head, by string ---


class Rows(NamedTuple):
    """Where each row of the new embeddings, and of the head, comes from."""

    source: torch.Tensor  # (V,) long: the LLM's row; -1: none, it starts from the mean of all
    blends: dict[int, list[int]]  # id -> the LLM's rows whose mean it starts from
    of_vision: list[int]  # ids whose rows are the vision checkpoint's


def known_ids(llm: Source, own: Vocabulary, theirs: Vocabulary) -> dict[bytes, int]:
    """Return the LLM's rows by what they spell. UserError if it lacks a word of the new tokenizer.

    own: the vision checkpoint's words; theirs: the LLM's.
    """
    ids = {spelt: i for spelt, i in theirs.ids.items() if i < llm.config.vocab_size}
    lacking = [word for word in own.words if word not in ids]
    if lacking:
        raise UserError(
            f"{len(lacking)} of the {len(own.words)} words of --vision's tokenizer have no row in "
            f"--llm {llm.at} ({lacking[0].decode(errors='replace')!r}, ...): the two split text "
            "differently; name an LLM with the tokenizer of its family"
        )
    return ids


def turns_of(family: families.Family, llm: Source, ids: dict[bytes, int]) -> dict[str, list[int]]:
    """Return what begins and ends a turn of the LLM: {the family's token: the LLM's rows}."""
    ends = llm.config.eos_token_id
    ends = [i for i in (ends if isinstance(ends, list) else [ends]) if i in ids.values()]
    ends += [ids[token.encode()] for token in ENDS if token.encode() in ids]
    begins = [ids[token.encode()] for token in TURNS if token.encode() in ids]
    end_of_text, start_of_turn, end_of_turn = family.text_tokens[:3]
    return {start_of_turn: begins, end_of_turn: ends[:1], end_of_text: ends[:1]}


def match_rows(
    family: families.Family, llm: Source, own: Vocabulary, theirs: Vocabulary, rows: int, keep: bool
) -> Rows:
    """Map rows by what their tokens spell.

    rows: of the new model. keep: whether the vision checkpoint's rows have the LLM's width.
    """
    ids = known_ids(llm, own, theirs)
    found = [-1] * rows
    for spelt, place in own.ids.items():
        found[place] = ids.get(spelt, -1)
    of_vision = [own.added[token.encode()] for token in family.vision_tokens] if keep else []
    blends = {}
    for token, sources in turns_of(family, llm, ids).items():
        place = own.added[token.encode()]
        if found[place] < 0 and sources:
            blends[place] = sources
    for place in of_vision:
        found[place] = -1
    return Rows(torch.tensor(found), blends, of_vision)


def describe_rows(rows: Rows, own: Vocabulary, theirs: Vocabulary) -> str:
    """Say where the rows of other tokens than ordinary words come from."""
    names = {place: spelt.decode() for spelt, place in own.added.items()}
    its = {i: spelt.decode(errors="replace") for spelt, i in theirs.ids.items()}
    notes = [f"{len(own.words)} rows of words by string"]
    for place, sources in rows.blends.items():
        notes.append(f"{names[place]} starts as {' and '.join(its[i] for i in sources)}")
    others = [i for i in names if rows.source[i] < 0 and i not in (*rows.blends, *rows.of_vision)]
    if others:
        notes.append(f"{', '.join(names[i] for i in others)} start as the mean of all rows")
    left = [spelt.decode() for spelt in theirs.added if spelt not in own.ids]
    if left:
        notes.append(f"the LLM's own {', '.join(left)} are spelt in ordinary words from now on")
    return "; ".join(notes)


def warn_of_differences(own: Vocabulary, theirs: Vocabulary) -> None:
    """Say where the two tokenizers split ordinary text differently."""
    found = vocabulary.differences(own, theirs)
    if found:
        text, ours, its = found[0]
        print(
            f"warning: the tokenizers split {len(found)} of the texts tried differently: "
            f"{text[:40]!r} is {ours[:8]} from now on and was {its[:8]} for the LLM, which has to "
            "learn the difference"
        )


def new_rows(old: torch.Tensor, own: torch.Tensor | None, rows: Rows) -> torch.Tensor:
    """Put rows together. old: (V_llm, D), own: (V, D) of the vision checkpoint -> (V, D)."""
    new = old[rows.source.clamp(min=0)]
    new[rows.source < 0] = old.mean(0, dtype=torch.float32).to(old.dtype)
    for place, sources in rows.blends.items():
        new[place] = old[sources].mean(0, dtype=torch.float32).to(old.dtype)
    if own is not None:
        new[rows.of_vision] = own[rows.of_vision].to(old.dtype)
    return new


# --- the new weights ---


def fresh_mergers(model, family: families.Family, seed: int, dtype: torch.dtype) -> dict:
    """Draw the mergers anew, as transformers initialises them: {name: tensor}."""
    torch.manual_seed(seed)
    found = {}
    for name in family.mergers:
        merger = model.get_submodule(name).to_empty(device="cpu")
        for module in merger.modules():
            model.model.visual._init_weights(module)
        found |= {f"{name}.{key}": value.to(dtype) for key, value in merger.state_dict().items()}
    return found


def make(
    name: str, llm: Source, vision: Source, rows: Rows, fresh: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Make one weight of the new model, by today's name."""
    if name in fresh:
        return fresh[name]
    if name.startswith(TOWER):
        return vision.read(name)
    if name not in (EMBEDDINGS, HEAD):
        return llm.read(name)
    own = None
    if rows.of_vision:
        own = vision.read(name if name in vision.names else EMBEDDINGS)  # a tied head
    return new_rows(llm.read(name), own, rows)


def as_published(vision: Source) -> Callable[[str], str]:
    """Return what turns today's name of a weight into one of the vision checkpoint's layout."""
    if any(name.startswith(TOWER) for name in vision.names.values()):
        return str
    return lambda name: name.replace(TOWER, "visual.").replace(".language_model.", ".")


# --- the files ---


def write_processor(processor: Processor, at: Path, directory: Path) -> None:
    """Write what reads text and pictures: the vision checkpoint's files as they stand."""
    for name in PROCESSOR_FILES:
        if (at / name).is_file():
            shutil.copyfile(at / name, directory / name)
    if not (directory / "preprocessor_config.json").is_file():
        processor.image_processor.save_pretrained(directory)
    settings = directory / "tokenizer_config.json"
    has_template = settings.is_file() and read_object(settings).get("chat_template")
    files = ("chat_template.json", "chat_template.jinja")
    if not has_template and not any((directory / name).is_file() for name in files):
        disk.write_whole(directory / "chat_template.jinja", processor.tokenizer.chat_template)


def generation_config(llm: Source, processor: Processor) -> dict:
    """Write generation_config.json: the LLM's advice on sampling, and the tokenizer's ends."""
    file = llm.at / "generation_config.json"
    found = read_object(file) if file.is_file() else {}
    return {key: found[key] for key in SAMPLING if found.get(key) is not None} | {
        "eos_token_id": processor.special.eos_ids,
        "pad_token_id": processor.special.pad_id,
    }


# --- the command ---


class Plan(NamedTuple):
    """What is to be written, all of it checked."""

    family: families.Family
    llm: Source
    vision: Source
    processor: Processor
    config: dict  # config.json
    shapes: dict[str, tuple[int, ...]]  # of the new weights, by today's name
    fresh: dict[str, torch.Tensor]  # those that are drawn anew
    dtype: torch.dtype  # of the LLM


def must_be_apart(args: argparse.Namespace) -> None:
    """Raise UserError if the new checkpoint would be written over one of the two."""
    for flag, name in (("--llm", args.llm), ("--vision", args.vision)):
        if os.path.realpath(name) == os.path.realpath(args.output_dir):
            raise UserError(
                f"--output-dir {args.output_dir} is {flag} itself; name another directory"
            )


def plan(args: argparse.Namespace) -> Plan:
    """Decide what will be written. UserError if the two do not fit."""
    llm_at, vision_at = directory_of("--llm", args.llm), directory_of("--vision", args.vision)
    said = [read_object(place / "config.json") for place in (llm_at, vision_at)]
    family = check_kinds((args.llm, said[0]), (args.vision, said[1]))
    llm, vision = read_llm(llm_at, family.llm), read_vision(vision_at, family)
    check_fit(family, llm, vision, args.merger)
    processor = load_processor(vision_at)
    config = grafted_config(family, llm, vision)
    model = empty_model(family, config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if llm.config.tie_word_embeddings:
        shapes.pop(HEAD)
    its = {name: shape for name, shape in shapes.items() if not name.startswith(TOWER)}
    size = (llm.config.vocab_size, llm.config.hidden_size)
    its |= {name: size for name in (EMBEDDINGS, HEAD) if name in its}  # its own number of rows
    check_weights(llm, its, family.name)
    dtype = llm.read(LAST_NORM).dtype
    fresh = fresh_mergers(model, family, args.seed, dtype) if args.merger == "fresh" else {}
    tower = {name: shape for name, shape in shapes.items() if name.startswith(TOWER)}
    check_weights(vision, {n: shape for n, shape in tower.items() if n not in fresh}, family.name)
    config = with_dtype(config, dtype)
    return Plan(family, llm, vision, processor, config, shapes, fresh, dtype)


def match(p: Plan) -> Rows:
    """Match the words of the two tokenizers, and say what came of it."""
    own = vocabulary.vocabulary_of(p.processor.tokenizer.backend_tokenizer, p.vision.at)
    theirs = vocabulary.vocabulary_of(vocabulary.load_backend(p.llm.at), p.llm.at)
    keep = p.vision.stored[EMBEDDINGS].shape[1] == p.llm.config.hidden_size
    rows = match_rows(p.family, p.llm, own, theirs, p.shapes[EMBEDDINGS][0], keep)
    warn_of_differences(own, theirs)
    print(f"words: {describe_rows(rows, own, theirs)}")
    return rows


def graft(args: argparse.Namespace) -> None:
    """Write one checkpoint of --llm behind the tower of --vision."""
    out = Path(args.output_dir)
    must_be_apart(args)
    rundir.must_be_new(out)
    p = plan(args)
    rows = match(p)
    published = as_published(p.vision)
    size = sum(math.prod(shape) for shape in p.shapes.values()) * p.dtype.itemsize

    def save_model(directory: Path) -> None:
        names = tqdm(p.shapes, desc="grafting", unit=" weights", leave=False)
        made = ((published(name), make(name, p.llm, p.vision, rows, p.fresh)) for name in names)
        weights.write_weights(directory, made)
        disk.write_json(directory / "config.json", p.config)
        settings = generation_config(p.llm, p.processor)
        disk.write_json(directory / "generation_config.json", settings)
        write_processor(p.processor, p.vision.at, directory)

    disk.announce(out, {"the model": size})
    rundir.publish(out, save_model, size)
    how = "drawn anew" if p.fresh else "kept"
    print(f"wrote {out} ({p.family.name}, {dtype_name(p.dtype)}, merger {how})")
    print(
        f"train the merger next: python train_sft.py --model {out} --lora-r 0 --freeze-vision "
        "--freeze-llm --data CAPTIONS --output-dir stage1"
    )
