"""Examples, readers, prompts, collate: the only place that pads, and the only one that expands image tokens.

From a record on disk to tensors, with the shapes of one toy question (a 112 x 112 picture is 8 x 8 patches, 16 tokens after merging):

    Example    id, images (not yet opened), question, answer, choices, solution, task, meta
    Prompt     ids (P,) with 16 <|image_pad|>, positions (3, P) for M-RoPE, pixel_values (64, 1176), grid (1, 3)
    collate    N prompts and B responses -> input_ids (B, S), positions (3, B, S), targets (B, T), mask (B, T), ...

The unit of work is a prompt and one or more responses: B rows in N groups, the rows of a prompt contiguous. T counts response
tokens only; the mask comes from lengths, never from `ids == pad`, because in Qwen2-VL pad is also an end-of-text token.
"""
import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

import toyworld
from utils import UserError, epoch_order, read_args

# How a question is put to the model. r1v is R1-V's training prompt, byte for byte (two spaces); the same in training and evaluation.
TEMPLATES = {
    "r1v": "{question}  Output the thinking process in <think> </think> and final answer (number) in <answer> </answer> tags.",
    "think": "{question}  Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.",
    "option": "{question}  Output the thinking process in <think> </think> and final answer (option) in <answer> </answer> tags.",
    "direct": "{question}\nAnswer the question using a single word or phrase.",
    "none": "{question}",
}
DEFAULT_TEMPLATE = "r1v"
TAGGED = ("r1v", "think", "option")         # templates that ask for <answer> tags


@dataclass
class Example:
    """The one record every reader produces.

    images: PIL images, paths or encoded bytes; opened by `open_images` when needed. answer: gold, without tags. solution: the worked
    response to imitate, or None. source: "file:line" for error messages.
    """
    id: str
    images: list
    question: str
    answer: str
    choices: list = None
    solution: str = None
    task: str = None
    meta: dict = field(default_factory=dict)
    source: str = ""


# -------------------------------------------------------------------------------------------------------------- readers

class ToyStream:
    """An endless, indexable list of examples of a toy task (toyworld.example): stream[i] is always the same example."""
    def __init__(self, task, split, seed, level, teacher):
        self.task, self.split, self.seed, self.level, self.teacher = task, split, seed, level, teacher

    def __getitem__(self, index):
        record = toyworld.example(self.task, self.split, index, self.seed, self.level, self.teacher)
        return Example(f"{self.task}:{self.split}:{self.seed}:{index}", [record["image"]], record["question"], record["answer"], record.get("choices"),
                       record["solution"], self.task, record["meta"], f"toy task {self.task}")


def split_name(spec):
    """("count", "test") from "count:test"; ("C:\\x.json", None) stays whole, as does a path without a split."""
    name, colon, split = str(spec).rpartition(":")
    return (name, split) if colon and split in toyworld.SPLITS else (str(spec), None)


def read(spec, seed=0, level=3, teacher="fallible"):
    """--data or --eval-data to a list of Example, or to a ToyStream (no length) for a toy task.

    seed, level and teacher are for toy tasks. The test and ood splits of a toy task do not depend on the seed: every run is
    measured on the same questions. Raises UserError, naming file, line and remedy, for anything that would fail later:
    every image is looked at now.
    """
    name, split = split_name(spec)
    if name in toyworld.TASKS and not Path(name).exists():
        return ToyStream(name, split or "train", seed if split in (None, "train") else 0, level, teacher)
    path = Path(name)
    if not path.exists():
        raise UserError(f"--data {spec}: no such file or folder, and not a toy task ({', '.join(sorted(toyworld.TASKS))})")
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in READERS and not any(part.startswith(".") for part in p.relative_to(path).parts)
                       and p.name not in ("dataset_infos.json", "dataset_info.json", "state.json"))
        wanted = split or "train"                                    # a hub snapshot has train-00000-of-00002.parquet, test-...
        named = [p for p in files if re.match(rf"{wanted}\b|{wanted}_", p.name)]
        if split and not named:
            raise UserError(f"{path} has no file whose name begins with {split}; leave :{split} away to read all of it")
        files = named or files
    elif split:
        raise UserError(f"{spec}: a single file has no split; leave :{split} away")
    if not files:
        raise UserError(f"{path} holds no {', '.join(READERS)} file")
    examples = []
    for file in files:
        if file.suffix not in READERS:
            raise UserError(f"{file}: only {', '.join(READERS)} files can be read")
        try:
            rows = READERS[file.suffix](file)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror or error}); check the path and its permissions") from None
        examples += [to_example(record, file, line) for line, record in rows]
        if not rows:
            raise UserError(f"{file} holds no record; expected objects with image(s), question (or problem) and answer (or solution)")
    check_images(examples)
    return examples


def read_json(file):
    """[(line, record)] of a JSON file that holds a list of objects."""
    text = read_text(file)
    try:
        rows = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}); mend that line") from None
    except RecursionError:
        raise UserError(f"{file}: JSON nested too deeply; expected a list of flat objects") from None
    except ValueError as error:                                      # a number of more than 4300 digits
        raise UserError(f"{file}: broken JSON ({str(error)[:60]}); mend that number") from None
    if not isinstance(rows, list):
        raise UserError(f"{file}: expected a list of objects, [{{...}}, {{...}}], found {type(rows).__name__}")
    decoder, at, found = json.JSONDecoder(), text.find("[") + 1, []   # an empty file has no "[" and no rows
    line = text.count("\n", 0, at) + 1
    for record in rows:                                              # a second pass, for the line where each record begins
        start = re.compile(r"[\s,]*").match(text, at).end()
        line += text.count("\n", at, start)
        found.append((line, record))
        at = decoder.raw_decode(text, start)[1]
        line += text.count("\n", start, at)                          # counted on from the record before: from the top would be quadratic
    return found


def read_jsonl(file):
    """[(line, record)] of a JSON Lines file; blank lines are skipped."""
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:           # ValueError: broken, or a number of more than 4300 digits
                raise UserError(f"{file}:{number}: broken JSON ({getattr(error, 'msg', str(error)[:60])}); mend or delete that line") from None
    return rows


def read_text(file):
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{line}: not UTF-8 text (byte {error.start} of the file); save it as UTF-8") from None


def read_parquet(file):
    """[(row, record)] of a parquet file; images embedded as {"bytes": ..., "path": ...}, as hub snapshots have them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: parquet needs pyarrow: pip install pyarrow") from None
    try:
        return list(enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1))
    except pyarrow.ArrowException as error:
        raise UserError(f"{file}: not a readable parquet file ({str(error).splitlines()[0][:100]}); fetch it again") from None


READERS = {".json": read_json, ".jsonl": read_jsonl, ".parquet": read_parquet}

IMAGE_KEYS = ("images", "image", "image_path")
QUESTION_KEYS = ("question", "problem")
ANSWER_KEYS = ("answer", "ground_truth")
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)     # what PIL raises for damaged or absurdly large files
ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def to_example(record, file, line):
    """Example from one record: R1-V's (image, problem, solution "<answer> 3 </answer>") or the plain one (image or images, question, answer).

    {"image": "a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"}  ->  question "How many?", answer "3"
    {"images": ["a.png", "b.png"], "question": "Same?", "answer": "yes", "choices": ["yes", "no"]}
    `solution` may hold the reasoning too; R1-V's SFT data have it apart, in `thinking`. Relative paths resolve beside `file`.
    """
    where = f"{file}:{line}"
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object with question and answer, found {type(record).__name__}")

    def text_of(keys, types=(str,)):
        for key in keys:
            value = record.get(key)
            if value is not None:
                if not isinstance(value, types) or isinstance(value, bool):
                    raise UserError(f"{where}: `{key}` must be {' or '.join(t.__name__ for t in types)}, found {type(value).__name__}")
                if not str(value).isascii() and re.search("[\ud800-\udfff]", str(value)):
                    raise UserError(f"{where}: `{key}` contains half of a surrogate pair (a character cut in two); mend or delete the record")
                if not str(value).strip():
                    raise UserError(f"{where}: `{key}` is empty; fill it in or delete the record")
                return str(value)
        return None

    question = text_of(QUESTION_KEYS)
    if question is None:
        raise UserError(f"{where}: no question; expected `question` or `problem`, found {', '.join(map(str, record)) or 'nothing'}")
    answer = text_of(ANSWER_KEYS, (str, int, float))
    solution, thinking = text_of(["solution"]), text_of(["thinking"])
    if answer is None and solution is not None:
        tagged = ANSWER_TAG.findall(solution)
        answer = tagged[-1].strip() if tagged else (solution.strip() if len(solution) < 100 else "")
    if not (answer or "").strip():
        raise UserError(f"{where}: no answer; expected `answer`, or `solution` with <answer> ... </answer>")
    if thinking and solution:
        solution = f"{thinking.strip()}\n{solution.strip()}"         # R1-distilled: "<think>...</think>", then "<answer>...</answer>"
    if solution is not None and "<think>" not in solution and ANSWER_TAG.fullmatch(solution.strip()):
        solution = None                                              # R1-V's: only the answer in tags; nothing worked out to imitate
    choices = record.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(c, (str, int, float)) for c in choices)):
        raise UserError(f"{where}: `choices` must be a list of texts")

    images = next((record[key] for key in IMAGE_KEYS if record.get(key) is not None), [])
    images = [locate(image, file, where) for image in (images if isinstance(images, list) else [images])]
    question = question.replace("<image>", "").strip()               # placeholders of other formats: images always come first here
    known = {*IMAGE_KEYS, *QUESTION_KEYS, *ANSWER_KEYS, "solution", "thinking", "choices", "id", "task"}
    meta = {k: v for k, v in record.items() if k not in known}
    return Example(str(record["id"] if record.get("id") is not None else f"{file.name}:{line}"), images, question, answer.strip(), [str(c) for c in choices] if choices else None,
                   solution, record.get("task"), meta, where)


def locate(image, file, where):
    """A record's image as a path beside `file`, or as the encoded bytes it embeds."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str) or not image:
        raise UserError(f"{where}: an image must be a path (or embedded bytes in parquet), found {type(image).__name__}")
    path = file.parent / image                                       # an absolute `image` replaces the folder
    if not os.path.isfile(path):                                     # unlike path.is_file(), also False for a name too long: base64 in place of a path
        raise UserError(f"{where}: image {short(path)} does not exist; relative paths resolve beside {file.name}")
    return path


def short(text, most=200):
    """One line of at most `most` characters, for messages."""
    text = " ".join(str(text).split())
    return text if len(text) <= most else text[:most] + "..."


def open_image(image, where):
    """RGB PIL image from a PIL image, a path or encoded bytes; transparency is laid on white. UserError for what cannot be decoded."""
    name = "its embedded image" if isinstance(image, bytes) else f"image {getattr(image, 'filename', image)}"
    try:
        if not isinstance(image, Image.Image):
            image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        image.load()
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    except IMAGE_ERRORS as error:
        raise UserError(f"{where}: {name} cannot be opened ({short(error, 80) or type(error).__name__}); replace the file or delete the record") from None
    if max(image.size) > 200 * min(image.size):
        raise UserError(f"{where}: image of {image.width} x {image.height} pixels is too narrow for Qwen2-VL (sides at most 200 : 1); crop it or delete the record")
    return image


def open_images(example):
    """The example's images, opened now: list of RGB PIL images."""
    return [open_image(image, example.source) for image in example.images]


def check_images(examples, decode=2000):
    """Decodes the first `decode` examples' images and reads the headers of all others: bad files stop the run before it starts.
    (Decoding is 5 to 20 ms for a photograph; the rest of a large set is decoded when its turn comes, with the same error.)"""
    def check(item):
        number, example = item
        for image in example.images:
            if number < decode:
                open_image(image, example.source)
            else:
                try:
                    Image.open(io.BytesIO(image) if isinstance(image, bytes) else image).close()
                except IMAGE_ERRORS:
                    open_image(image, example.source)                # for its message
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(check, enumerate(examples)), total=len(examples), desc="checking images", disable=len(examples) < 500, leave=False):
            pass


def take(examples, start, number, seed):
    """`number` training examples from position `start` of the shuffled, endlessly repeated data: a pure function of its arguments, so
    that a resumed run goes on where it stopped. Every epoch is a new permutation."""
    if isinstance(examples, ToyStream):
        return [examples[start + i] for i in range(number)]          # already random, already endless
    size, chosen = len(examples), []
    for position in range(start, start + number):
        epoch = position // size
        if position == start or position % size == 0:
            order = epoch_order(size, epoch, seed)
        chosen.append(examples[order[position % size]])
    return chosen


def steps_of(args, examples, per_step):
    """--max-steps, or what --num-train-epochs means for this many examples."""
    if args.max_steps:
        return args.max_steps
    if isinstance(examples, ToyStream):
        raise UserError(f"--data {args.data} never ends: say how long to train with --max-steps, e.g. --max-steps 200")
    return max(1, round(args.num_train_epochs * len(examples) / per_step))


def default_eval(spec):
    """What to evaluate on when --eval-data was not given: a toy task's test split, or else the training data themselves, said aloud."""
    name, _ = split_name(spec)
    if name in toyworld.TASKS and not Path(name).exists():
        return [f"{name}:test"]
    print("no --eval-data: accuracy will be that on the training data, which is not held out")
    return [spec]


def read_eval(args, examples):
    """{DATA: examples to ask} for each --eval-data, or for `default_eval`; what is also --data is not read twice."""
    args.eval_data = args.eval_data or default_eval(args.data)
    sets = {}
    for spec in args.eval_data:
        found = examples if spec == args.data else read(spec, level=args.level)
        sets[spec] = head(found, args.max_eval_samples)
    return sets


def head(examples, number):
    """The first `number` examples, or all there are."""
    if isinstance(examples, ToyStream):
        return [examples[i] for i in range(number)]
    return examples[:number]


# -------------------------------------------------------------------------------------------------------------- prompts

@dataclass
class Prompt:
    """One encoded prompt. ids: (P,) long, image tokens expanded. positions: (3, P) long, M-RoPE (time, height, width). following: the
    position of the first response token (the same in all three). pixel_values: (patches, 1176) float or None; grid: (images, 3) long
    or None, in patches. image_at: (image tokens,) long, where the vision tower's output goes."""
    ids: torch.Tensor
    positions: torch.Tensor
    following: int
    image_at: torch.Tensor
    pixel_values: torch.Tensor = None
    grid: torch.Tensor = None
    text: str = ""


def template_of(name):
    """TEMPLATES[name]; UserError for an unknown one."""
    if name not in TEMPLATES:
        raise UserError(f"--prompt-template {name} is unknown; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def ask_as_trained(args, otherwise=DEFAULT_TEMPLATE):
    """Fills in --prompt-template and --system-prompt where they were not given: as the checkpoint's training run had them (its args.json), so that
    training and evaluation ask alike. UserError for an unknown template."""
    trained_with = read_args(args.model)
    args.prompt_template = args.prompt_template or trained_with.get("prompt_template") or otherwise
    args.system_prompt = args.system_prompt if args.system_prompt is not None else trained_with.get("system_prompt")
    template_of(args.prompt_template)


def render(example, processor, template=DEFAULT_TEMPLATE, system_prompt=None):
    """The prompt as text, by the chat template, images first, one <|image_pad|> for each. UserError if it spells a reserved token."""
    text = template_of(template).replace("{question}", example.question)
    for token in processor.special.reserved:
        if token in text:
            raise UserError(f"{example.source}: the question contains the reserved token {token}; remove it")
        if token in (system_prompt or ""):
            raise UserError(f"--system-prompt contains the reserved token {token}; remove it")
    messages = [{"role": "user", "content": [{"type": "image"}] * len(example.images) + [{"type": "text", "text": text}]}]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    return processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def must_fit(example, processor, length, pads, room):
    """UserError unless `length` prompt tokens, `pads` of them from images, and `room` more fit the model's context."""
    if length + room > processor.context:
        raise UserError(f"{example.source}: the prompt has {length} tokens ({pads} of them from images) and with {room} more for the answer does not fit the model's context of "
                        f"{processor.context}; lower --max-pixels or --max-completion-length, or shorten the question")


def check_fit(examples, processor, template, system_prompt, room, targets=False):
    """Every prompt of a file (the first few of a toy task) against the model's context, before any work: its text is tokenised, its images
    measured by their headers. targets: the supervised responses too. Raises UserError as `encode_prompt` and `encode_target` would."""
    merge = processor.image_processor.merge_size ** 2
    for example in tqdm(head(examples, 16) if isinstance(examples, ToyStream) else examples, desc="checking lengths", leave=False, disable=isinstance(examples, ToyStream) or len(examples) < 500):
        pads = 0
        for image in example.images:
            size = (image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)).size
            pads += processor.image_processor.get_number_of_image_patches(size[1], size[0]) // merge
        words = len(processor.tokenizer(render(example, processor, template, system_prompt), add_special_tokens=False)["input_ids"]) - len(example.images)
        must_fit(example, processor, words + pads, pads, room)
        if targets:
            encode_target(example, processor, template, room)


def check_golds(examples, check):
    """check(answer, choices) on every example of a file; what it objects to becomes a UserError naming file and line."""
    for example in () if isinstance(examples, ToyStream) else examples:
        try:
            check(example.answer, example.choices)
        except ValueError as error:
            raise UserError(f"{example.source}: {error}") from None


def encode_prompt(example, processor, template=DEFAULT_TEMPLATE, system_prompt=None, room=0):
    """Prompt of an example: chat template, images first, each <|image_pad|> repeated once per merged patch (grid.prod() / 4).

    room: tokens that must still fit after the prompt. A prompt is never truncated, because that cuts image tokens: what does not fit
    raises UserError, as does text that spells a reserved token.
    """
    special = processor.special
    rendered = render(example, processor, template, system_prompt)
    pixel_values = grid = None
    counts = []
    if example.images:
        pictures = processor.image_processor(images=open_images(example), return_tensors="pt")
        pixel_values, grid = pictures["pixel_values"], pictures["image_grid_thw"]
        counts = (grid.prod(-1) // processor.image_processor.merge_size ** 2).tolist()
        parts = rendered.split(special.image)
        assert len(parts) == len(counts) + 1, f"the chat template placed {len(parts) - 1} images, not {len(counts)}"
        rendered = parts[0] + "".join(special.image * n + part for n, part in zip(counts, parts[1:]))
    ids = torch.tensor(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"])
    must_fit(example, processor, len(ids), sum(counts), room)
    is_image = ids == special.image_id
    positions, following = rope_positions(is_image, [] if grid is None else (grid[:, 1:] // processor.image_processor.merge_size).tolist())
    return Prompt(ids, positions, following, is_image.nonzero()[:, 0], pixel_values, grid, rendered)


def rope_positions(is_image, grids):
    """M-RoPE positions of a prompt (Qwen2-VL, arXiv:2409.12191, section 2.1).

    is_image: (P,) bool; grids: [(rows, columns)] of each image in merged patches. Text counts 1, 2, 3, ... in all three dimensions. An
    image stands still in time and counts its rows and columns from where it starts; the text after it goes on one past the largest
    number used. Returns ((3, P) long, the next position).
    """
    pieces, now, at = [], 0, 0
    flags = is_image.tolist()
    images = iter(grids)
    while at < len(flags):
        if flags[at]:
            rows, columns = next(images)
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            pieces.append(torch.stack([torch.zeros(rows * columns, dtype=torch.long), row.flatten(), column.flatten()]) + now)
            at, now = at + rows * columns, now + max(rows, columns)
        else:
            end = at
            while end < len(flags) and not flags[end]:
                end += 1
            pieces.append(torch.arange(now, now + end - at).expand(3, -1))
            at, now = end, now + end - at
    return torch.cat(pieces, 1), now


def target_text(example, template):
    """What the supervised stage imitates: the worked solution where there is one, else the answer, in tags if the template asks for them."""
    if example.solution:
        return example.solution.strip()
    return f"<answer> {example.answer} </answer>" if template in TAGGED else example.answer


def encode_target(example, processor, template, max_length):
    """(T,) ids of the target text and the end-of-turn token. UserError if it is longer than max_length or spells a vision token."""
    text = target_text(example, template)
    for token in processor.special.reserved:
        if token in text:
            raise UserError(f"{example.source}: the solution contains the reserved token {token}; remove it")
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"] + [processor.special.eos_ids[0]]
    if len(ids) > max_length:
        raise UserError(f"{example.source}: the solution has {len(ids)} tokens, more than --max-completion-length {max_length}; raise it or shorten the solution")
    return torch.tensor(ids)


# -------------------------------------------------------------------------------------------------------------- collate

def pad_targets(rows, pad_id):
    """List of (T_b,) ids -> targets (B, T) right-padded, mask (B, T) float: 1 for the first T_b, the end-of-turn token among them."""
    lengths = torch.tensor([len(row) for row in rows])
    targets = torch.full((len(rows), int(lengths.max())), pad_id)
    for b, row in enumerate(rows):
        targets[b, :len(row)] = row
    return targets, (torch.arange(targets.shape[1]) < lengths[:, None]).float()


def collate(prompts, targets, mask, counts=None, device="cpu"):
    """N prompts and B responses as one right-padded batch, each row [its prompt | its response].

    prompts: list of N Prompt; targets, mask: (B, T) from pad_targets or a rollout; counts: how many consecutive rows belong to each
    prompt (default: B / N each). Nothing needs an attention mask: attention is causal and padding comes last.
    Returns a dict of tensors on `device`: input_ids (B, S); positions (3, B, S); targets, mask (B, T); predicts (B, T), the index in S of
    the state that predicts each target (the one before it: the only shift in this project); pixel_values, grid: each prompt's once;
    image_to, image_from (.,): flat index in (B*S) of each image token, and which feature row goes there.
    """
    B, T = targets.shape
    counts = counts or [B // len(prompts)] * len(prompts)
    assert sum(counts) == B and len(counts) == len(prompts), f"{counts} rows of {len(prompts)} prompts, but {B} responses"
    lengths = mask.sum(1).long().tolist()
    S = max(len(p.ids) for p in prompts) + T
    input_ids = targets.new_zeros(B, S)
    positions = torch.zeros(3, B, S, dtype=torch.long)
    predicts = torch.zeros(B, T, dtype=torch.long)
    image_to, image_from = [], []
    row = seen = 0
    for prompt, count in zip(prompts, counts):
        P, features = len(prompt.ids), torch.arange(len(prompt.image_at)) + seen
        seen += len(prompt.image_at)
        for b in range(row, row + count):
            input_ids[b, :P] = prompt.ids
            input_ids[b, P:P + lengths[b]] = targets[b, :lengths[b]]
            positions[:, b, :P] = prompt.positions
            positions[:, b, P:P + T] = prompt.following + torch.arange(T)
            predicts[b] = P - 1 + torch.arange(T)
            image_to.append(prompt.image_at + b * S)
            image_from.append(features)
        row += count
    pictured = [p for p in prompts if p.pixel_values is not None]
    batch = {"input_ids": input_ids, "positions": positions, "targets": targets, "mask": mask, "predicts": predicts,
             "image_to": torch.cat(image_to), "image_from": torch.cat(image_from),
             "pixel_values": torch.cat([p.pixel_values for p in pictured]) if pictured else None,
             "grid": torch.cat([p.grid for p in pictured]) if pictured else None}
    return {name: value if value is None else value.to(device) for name, value in batch.items()}


def micro_batches(rows, size, counts):
    """Cuts B rows in groups of `counts` into pieces of at most `size` rows: yields (first row, end row, first prompt, end prompt, counts
    of the piece). A piece may cut through a group: its prompt is then encoded once more."""
    owner = [n for n, count in enumerate(counts) for _ in range(count)]
    for start in range(0, rows, size):
        end = min(rows, start + size)
        first, last = owner[start], owner[end - 1]
        yield start, end, first, last + 1, [sum(o == n for o in owner[start:end]) for n in range(first, last + 1)]
