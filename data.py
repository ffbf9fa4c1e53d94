"""Examples, readers, prompts, collate: the only place that pads, and the only one that expands image tokens.

From a record on disk to tensors, with the shapes of one toy question (a 112 x 112 picture is 8 x 8 patches, 16 tokens after merging):

    Example    id, images (not yet opened), question, answer, choices, solution, task, meta
    Pair       an example, and a better and a worse response to it (`read_pairs`)
    Prompt     ids (P,) with 16 <|image_pad|>, positions (3, P) for M-RoPE, pixel_values (64, 1176), grid (1, 3)
    collate    one prompt, B >= 2 responses -> packed [prompt | r1 | ... | rB]: input_ids (1, S), positions (3, 1, S), targets (B, T), mask (B, T), ...
               otherwise, N prompts and B responses -> input_ids (B, S), positions (3, B, S), ... padded on the right

The unit of work is a prompt and one or more responses: B rows in N groups, the rows of a prompt contiguous. T counts response
tokens only; the mask comes from lengths, never from `ids == pad`, because in Qwen2-VL pad is also an end-of-text token.
"""

import datetime
import decimal
import io
import json
import math
import os
import random
import re
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

import toyworld
from plumbing import checkpoint_files, plots, templates
from plumbing.errors import UserError
from utils import HALF, MAX_IMAGE_PIXELS, cut, epoch_order

# How a question is put to the model. r1v is R1-V's training prompt, byte for byte (two spaces); the same in training and evaluation. Those below the
# line are what the published evaluations asked with, byte for byte too; where the question itself holds the instructions (Visual-RFT's detection and
# classification sets, R3V's conversations), `none` adds nothing.
TEMPLATES = {
    "r1v": "{question}  Output the thinking process in <think> </think> and final answer (number) in <answer> </answer> tags.",
    "think": "{question}  Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.",
    "option": "{question}  Output the thinking process in <think> </think> and final answer (option) in <answer> </answer> tags.",
    "direct": "{question}\nAnswer the question using a single word or phrase.",
    "answer": "{question}  Output the final answer in <answer> </answer> tags.",
    "none": "{question}",
    # ---- R1-V (evaluation differs from training), VisualThinker, VLM-R1 (rec_direct is its baseline's), Visual-RFT's LISA (its spelling), R3V on Qwen-VL
    "superclevr": "{question} First output the thinking process in <think> </think> and final answer (number) in <answer> </answer> tags.",
    "geoqa": "{question} Output the thinking process in <think> </think> and final answer (number) in <answer> </answer> tags.",
    "cvbench": "{question}\nOutput the thinking process in <think> </think> and final answer in <answer> </answer> tags.",
    "vlmr1": "{question} First output the thinking process in <think> </think> tags and then output the final answer in <answer> </answer> tags.",
    "rec": "{question} First output the thinking process in <think> </think> tags and then output the final answer in <answer> </answer> tags. "
    "Output the final answer in JSON format.",
    "rec_direct": "{question} Please provide the bounding box coordinate in JSON format.",
    "lisa": "{question} Output the thinking process in <think> </think> and your grouding box. "
    'Following "<think> thinking process </think>\n<answer>(x1,y1),(x2,y2)</answer>)" format.',
    "chartqa": "{question}\nFirst generate a step-by-step solution, then answer the question with a numerical value, Yes/No, or a word or phrase.",
    "clevr_math": "{question}\nFirst generate a step-by-step solution, then answer the question using a single numerical value (0-10).",
    "tabmwp": "{question}\nFirst generate a step-by-step solution, then answer the question using a single word or phrase.",
    "tabmwp_choices": "{question}\nFirst generate a step-by-step solution, then answer with the option\u2019s letter from the given choices directly.",
}
DEFAULT_TEMPLATE = "r1v"

# What R3V asks after the candidates, by template and byte for byte; other templates ask it plainly (`select_prompt`).
SELECT = {
    "chartqa": "Which prediction is correct? Give the final answer with a numerical value, Yes/No, or a word or phrase.",
    "clevr_math": "Which prediction is correct? Give the final answer with a single numerical value (0-10).",
    "tabmwp": "Which prediction has the right OCR, reasoning and calculations? Give the final answer.",
}

# How a model writes the corners of a box (--box-format): in thousandths of the picture's sides (Qwen2-VL), in pixels of the picture as it was resized for
# the model (Qwen2.5-VL), or in pixels of the original. What a person sees, and Example.meta["boxes"], is always the last.
BOX_FORMATS = ("norm1000", "resized", "pixels")
MIN_PIXELS, MAX_PIXELS = 3136, 401408  # --min-pixels and --max-pixels where they are not given
LARGE = 2**24  # pixels of a picture that is not decoded beside another such
ONE_AT_A_TIME = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # we have a limit


@dataclass
class Example:
    """The one record every reader produces.

    images: PIL images, paths or encoded bytes; opened by `open_images` when needed. answer: gold, without tags. solution: the worked
    response to imitate, or None. source: "file:line" for error messages. meta: whatever else the record holds.
    A box example is one with meta["boxes"], [{"bbox_2d": [x1, y1, x2, y2], "label": text or None}, ...] in pixels of its one image, whose [width, height] is
    meta["size"]; [] means that there is nothing to find, and `answer` is the same as JSON text. meta["box_format"] is how the model writes boxes (BOX_FORMATS),
    and meta["resized"] the [width, height] it sees, if it writes them so.
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


@dataclass
class Pair:
    """A question with a better and a worse response. example: an Example, its answer "" where the record has none; chosen, rejected: texts, without the
    end-of-turn token; kind: what is wrong with the rejected one, where selftrain.py made the pair (answer, format or dropout_ntp)."""

    example: Example
    chosen: str
    rejected: str
    kind: str = None


# -------------------------------------------------------------------------------------------------------------- readers


class ToyStream:
    """An endless, indexable list of examples of a toy task (toyworld.example): stream[i] is always the same example."""

    def __init__(
        self,
        task,
        split,
        seed,
        level,
        teacher,
        box_format="norm1000",
        pixels=(MIN_PIXELS, MAX_PIXELS),
    ):
        self.task, self.split, self.seed, self.level, self.teacher, self.box_format, self.pixels = (
            task,
            split,
            seed,
            level,
            teacher,
            box_format,
            pixels,
        )

    def __getitem__(self, index):
        record = toyworld.example(self.task, self.split, index, self.seed, self.level, self.teacher)
        example = Example(
            f"{self.task}:{self.split}:{self.seed}:{index}",
            [record["image"]],
            record["question"],
            record["answer"],
            record.get("choices"),
            record["solution"],
            self.task,
            record["meta"],
            f"toy task {self.task}",
        )
        if (
            record.get("ask") == "select"
        ):  # a mixed task (toyworld.basics): each question is put in its own way
            example.question = select_prompt(wording(example, "think"), example.meta["candidates"])
        if record.get("ask", "reason") != "reason":
            example.meta["prompt_template"] = "answer" if record["ask"] == "direct" else "none"
        set_box_format(example, self.box_format, *self.pixels)
        if (
            "boxes" in example.meta and self.box_format != "norm1000"
        ):  # the toy teacher writes 0 to 1000; what he thinks, in pixels, is meta["taught"]
            example.solution = with_answer(
                example.solution, answer_text(example, json.loads(example.meta["taught"]))
            )
        return example


def split_name(spec):
    """("count", "test") from "count:test"; ("C:\\x.json", None) stays whole, as does a path without a split."""
    name, colon, split = str(spec).rpartition(":")
    return (name, split) if colon and split in toyworld.SPLITS else (str(spec), None)


def read(
    spec,
    seed=0,
    level=3,
    teacher="fallible",
    box_format="norm1000",
    min_pixels=MIN_PIXELS,
    max_pixels=MAX_PIXELS,
    needs_answer=True,
):
    """--data or --eval-data to a list of Example, or to a ToyStream (no length) for a toy task.

    seed, level and teacher are for toy tasks. The test and ood splits of a toy task do not depend on the seed: every run is
    measured on the same questions. box_format: how the model writes boxes, for box examples; the two limits are for "resized". needs_answer: see `to_example`.
    Raises UserError, naming file, line and remedy, for anything that would fail later: every image is looked at now.
    """
    name, split = split_name(spec)
    if box_format not in BOX_FORMATS:
        raise UserError(f"--box-format {box_format} is unknown; there are {', '.join(BOX_FORMATS)}")
    if name in toyworld.TASKS and not os.path.exists(name):
        return ToyStream(
            name,
            split or "train",
            seed if split in (None, "train") else 0,
            level,
            teacher,
            box_format,
            (min_pixels, max_pixels),
        )
    if not os.path.exists(name):  # unlike path.exists(), also False for a name too long
        raise UserError(
            f"--data {short(spec)}: no such file or folder, and not a toy task ({', '.join(sorted(toyworld.TASKS))})"
        )
    examples, names = [], []
    for file in files_of(spec):
        for place, name, record in rows_of(file, EXAMPLE_KEYS, name_in(spec, file)):
            examples.append(to_example(record, file, place, needs_answer, name))
            names.append(name)
    tell_apart(examples, names, spec)
    say_without_pictures(examples, spec)
    for example in examples:
        set_box_format(example, box_format, min_pixels, max_pixels)
        if (
            "boxes" in example.meta and example.solution
        ):  # worked out in the file's convention, to be imitated in the model's
            example.solution = with_answer(
                example.solution, answer_text(example, example.meta["boxes"])
            )
    check_images(examples)
    return examples


def files_of(spec):
    """The data files that "x.jsonl", a folder or "folder:test" stands for, in order. UserError if there are none."""
    name, split = split_name(spec)
    path = Path(name)
    files = [path]
    if path.is_dir():
        files = sorted(
            p
            for p in path.rglob("*")
            if p.suffix in READERS
            and not any(part.startswith(".") for part in p.relative_to(path).parts)
            and p.name not in ("dataset_infos.json", "dataset_info.json", "state.json")
        )
        wanted = split or "train"  # a hub snapshot has train-00000-of-00002.parquet, test-...
        named = [p for p in files if re.match(rf"{wanted}\b|{wanted}_", p.name)]
        if split and not named:
            raise UserError(
                f"{path} has no file whose name begins with {split}; leave :{split} away to read all of it"
            )
        files = named or files
        files = [
            p for p in files if p.suffix == ".parquet" or p.with_suffix(".parquet") not in files
        ]  # CV-Bench holds test_2d.parquet and, without images, test_2d.jsonl
    elif split:
        raise UserError(f"{spec}: a single file has no split; leave :{split} away")
    if not files:
        raise UserError(f"{path} holds no {', '.join(READERS)} file")
    return files


def name_in(spec, file):
    """Name a file by its path within the folder that was given, or by its own name."""
    folder = Path(split_name(spec)[0])
    return file.relative_to(folder).as_posix() if folder.is_dir() else file.name


def tell_apart(examples, names, spec):
    """Add its place to every id that an earlier example has, and say so once.

    names: of each example, what `rows_of` calls it.
    """
    taken, again = set(), []
    for example, name in zip(examples, names):
        if example.id in taken:
            again.append(example.id)
        while example.id in taken:  # a record may be given any id, even this one
            example.id = f"{example.id} ({name})"
        taken.add(example.id)
    if again:
        print(
            f"{spec}: {len(again)} of {len(examples)} records have the id of an earlier one "
            f"(the first: {short(again[0], 40)!r}); their place is added to it, and none is lost"
        )


def rows_of(file, expected, name=None):
    """[(place, name, record)] of a file, the records in order.

    place: what follows the file in a message: the line; "1, record 3" where it holds several.
    name: unique in the file, for a record without an id: "x.jsonl:12", in a JSON list "x.json#3".
    UserError, which says what is `expected`, if the file cannot be read or is empty.
    """
    name = name or file.name
    if file.suffix not in READERS:
        raise UserError(f"{file}: only {', '.join(READERS)} files can be read")
    must_end(file)
    try:
        rows = READERS[file.suffix](file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None
    if not rows:
        raise UserError(f"{file} holds no record; expected objects with {expected}")
    if file.suffix != ".json":  # one record a line: the line is the name
        return [(line, f"{name}:{line}", record) for line, record in rows]
    shared, found = Counter(line for line, _ in rows), []
    for number, (line, record) in enumerate(rows, 1):
        place = line if shared[line] == 1 else f"{line}, record {number}"
        # Not ":": older runs have lines behind it, which must not be taken for numbers.
        found.append((place, f"{name}#{number}", record))
    return found


def must_end(path):
    """Refuse a pipe, a socket and a device: reading one may never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(
            f"{short(path)} cannot be read (it is a pipe, a socket or a device); "
            "save what it holds as a file, and name that"
        )


def read_json(file):
    """[(line, record)] of a JSON file that holds a list of objects, or as TabMWP's an object of them: {"33": {...}} is read as [{"id": "33", ...}]."""
    text = read_text(file)
    try:
        rows = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}); mend that line"
        ) from None
    except RecursionError:
        raise UserError(
            f"{file}: JSON nested too deeply; expected a list of flat objects"
        ) from None
    except ValueError as error:  # a number of more than 4300 digits
        raise UserError(f"{file}: broken JSON ({str(error)[:60]}); mend that number") from None
    keyed = isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values())
    if not isinstance(rows, list) and not keyed:
        raise UserError(
            f"{file}: expected a list of objects, [{{...}}, {{...}}], found {type(rows).__name__}"
        )
    decoder, at, found = json.JSONDecoder(), text.find("{" if keyed else "[") + 1, []
    gap, line, ids = re.compile(r"[\s,:]*"), text.count("\n", 0, at) + 1, set()
    while (start := gap.match(text, at).end()) < len(text) and text[
        start
    ] not in "]}":  # a second pass, for the line where each record begins
        line += text.count("\n", at, start)
        record, at = decoder.raw_decode(text, start)
        if keyed:
            key = record
            if key in ids:
                raise UserError(
                    f"{file}:{line}: {key!r} is there a second time; delete one of them"
                )
            ids.add(key)
            record, at = decoder.raw_decode(text, gap.match(text, at).end())
            record = {"id": key, **record}
        found.append((line, record))
        line += text.count(
            "\n", start, at
        )  # counted on from the record before: from the top would be quadratic
    return found


def read_jsonl(file):
    """[(line, record)] of a JSON Lines file; blank lines are skipped."""
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except (
                ValueError,
                RecursionError,
            ) as error:  # ValueError: broken, or a number of more than 4300 digits
                raise UserError(
                    f"{file}:{number}: broken JSON ({getattr(error, 'msg', str(error)[:60])}); mend or delete that line"
                ) from None
    return rows


def read_text(file):
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}:{line}: not UTF-8 text (byte {error.start} of the file); save it as UTF-8"
        ) from None


def read_parquet(file):
    """[(row, record)] of a parquet file; images embedded as {"bytes": ..., "path": ...}, as hub snapshots have them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: parquet needs pyarrow: pip install pyarrow") from None
    try:
        table = pyarrow.parquet.read_table(file)
        names = table.column_names
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        if getattr(error, "errno", None):  # not the content, but the path or its permissions
            raise
        raise UserError(
            f"{file}: not a readable parquet file ({short(error, 100)}); fetch it again"
        ) from None
    columns = {name: values_of(table[name], name, file) for name in names}
    rows = zip(*columns.values())
    return [(number, dict(zip(columns, row))) for number, row in enumerate(rows, 1)]


def values_of(column, name, file):
    """List the plain values of a parquet column.

    UserError, naming the row, for one that Python cannot hold.
    """
    try:
        return [plain_value(value) for value in column.to_pylist()]
    except (ValueError, OverflowError, LookupError):
        pass  # a year past 9999, nanoseconds, a text that is no UTF-8
    values = []
    for row, scalar in enumerate(column, 1):
        try:
            values.append(plain_value(scalar.as_py()))
        except (ValueError, OverflowError, LookupError) as error:
            raise UserError(
                f"{file}:{row}: `{short(name, 60)}` of type {short(column.type, 60)} "
                f"cannot be read ({short(error, 80)}); save it as text, or delete the column"
            ) from None
    return values


def plain_value(value):
    """Turn a value of a parquet row into what a JSON record would hold.

    Bytes stay: pictures are made of them.

    Decimal("1.50") -> "1.50"; date(2020, 1, 5) and a time stamp of its midnight -> "2020-01-05"
    """
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        text = str(value)
        return text.removesuffix(" 00:00:00")  # pandas keeps dates as such time stamps
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        return value
    return str(value)  # a date, a time, a duration, a UUID


def mended(value):
    """Turn half surrogates in all texts of a value into U+FFFD.

    They can be neither written nor printed.
    """
    if isinstance(value, str):
        return value if value.isascii() else HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mended(item) for item in value]
    return value


READERS = {".json": read_json, ".jsonl": read_jsonl, ".parquet": read_parquet}

EXAMPLE_KEYS = "image(s), question (or problem) and answer (or solution)"
IMAGE_KEYS = ("images", "image", "image_path")
USUAL_FOLDERS = (
    "",
    "images",
    "png",
    "tables",
    "clevr_math_imgs",
)  # where images lie that are given by name, beside their file
QUESTION_KEYS = ("question", "problem")
ANSWER_KEYS = ("answer", "ground_truth")
# What Pillow raises for damaged or absurdly large files; RuntimeError: its AVIF, BLP and DDS.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
OUR_WORDS = ("prompt_template", "boxes")  # keys of Example.meta that decide something
MOST_COPIES, MOST_PAIRS = 1000, 10_000_000  # of a set with its repeat_time
SHORT_ANSWER = 100  # characters: a text without tags that is longer is no answer


def to_example(record, file, line, needs_answer=True, name=None):
    """Example from one record of any layout in LAYOUTS, which is recognised by its keys; else from R1-V's or a plain one (`plain`). needs_answer=False: open-ended
    questions too, whose answer is then "".
    line, name: its place in the file, and its id if it has none, as `rows_of` has them.

    A layout's function turns a record into (fields, meta): `fields` are question, images, and where there are any answer, choices, solution, id,
    task, boxes, box_format, box_style and folders (in which its images may be); `meta` is what else is worth keeping.
    """
    where = f"{file}:{line}"
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: expected an object with question and answer, found {type(record).__name__}"
        )
    layout = next((function for keys, function in LAYOUTS if keys <= record.keys()), plain)
    fields, meta = layout(record, where)
    meta = with_our_words(meta, where)
    answer, boxes = fields.get("answer"), fields.get("boxes")
    if boxes is None and not (answer or "").strip() and needs_answer:
        raise UserError(
            f"{where}: no answer; expected `answer`, or `solution` with <answer> ... </answer>"
        )
    given = as_list(fields["images"])
    images = [locate(image, file, where, fields.get("folders", ("",))) for image in given]
    must_see(meta, record["conversations"] if layout is conversation else [], given, where)
    must_match_marks([fields.get("question"), *(fields.get("choices") or [])], len(images), where)
    if boxes is not None:
        boxes, size = gold_boxes(boxes, fields.get("box_format") or "pixels", images, where)
        answer = boxes_to_text(boxes, "pixels", size)
        meta = {
            **meta,
            "boxes": boxes,
            "size": size,
            **({"box_style": fields["box_style"]} if fields.get("box_style") else {}),
        }
    question = (
        text_of(fields, ["question"], where).replace("<image>", "").strip()
    )  # placeholders of other formats: images always come first here
    known = label_of(fields, "id", where) or name or f"{file.name}:{line}"
    return Example(
        known,
        images,
        question,
        (answer or "").strip(),
        fields.get("choices"),
        fields.get("solution"),
        label_of(fields, "task", where),
        carried(meta, where),
        where,
    )


def text_of(record, keys, where, types=(str,)):
    """The first of these keys that the record has, as text; None if it has none. UserError for another type, half a character or emptiness."""
    for key in keys:
        value = record.get(key)
        if value is not None:
            value = decoded(value, key, where)  # a binary column of texts
            if not isinstance(value, types) or isinstance(value, bool):
                raise UserError(
                    f"{where}: `{key}` must be {' or '.join(t.__name__ for t in types)}, found {type(value).__name__}"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(
                    f"{where}: `{key}` is {value}, no number; "
                    "write it as text, or delete the record"
                )
            must_be_whole(value, key, where)
            if not str(value).strip():
                raise UserError(f"{where}: `{key}` is empty; fill it in or delete the record")
            return str(value)
    return None


def decoded(value, key, where):
    """Read bytes as UTF-8 text; other values stay. UserError if they are no text."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UserError(
            f"{where}: `{key}` holds bytes that are no UTF-8 text; "
            "save it as text, or delete the record"
        ) from None


def must_be_whole(value, key, where):
    """UserError for a text with half a character."""
    if isinstance(value, str) and not value.isascii() and HALF.search(value):
        raise UserError(
            f"{where}: `{key}` contains half of a surrogate pair (a character cut in two); "
            "mend or delete the record"
        )


def label_of(record, key, where):
    """Read what is only shown, an id or a task, as text; null, NaN and blanks as None."""
    value = record.get(key)
    if value is None or value != value:
        return None
    value = decoded(value, key, where)
    text = mended(short(value, 1000)) if isinstance(value, (dict, list)) else str(value)
    must_be_whole(text, key, where)
    return text if text.strip() else None


def with_our_words(meta, where):
    """Check the keys left in a record that mean something here; null is as good as absent."""
    meta = {key: value for key, value in meta.items() if value is not None or key not in OUR_WORDS}
    template = meta.get("prompt_template")
    if "prompt_template" in meta and not (isinstance(template, str) and template in TEMPLATES):
        raise UserError(
            f"{where}: `prompt_template` {short(template, 40)} is unknown; "
            f"delete the key, or name one of {', '.join(TEMPLATES)}"
        )
    if "boxes" in meta:  # `plain` has read its own
        raise UserError(
            f"{where}: `boxes` are read only beside `question` and images; "
            "write the record so, or delete the key"
        )
    return meta


def carried(meta, where):
    """Make of the rest of a record what can be written and printed."""
    try:
        return mended(meta)
    except RecursionError:
        raise UserError(
            f"{where}: the record is nested too deeply; expected a flat object; "
            "delete what is deep in it"
        ) from None


def needed(record, key, where, types=(str,)):
    """text_of a key that this layout cannot do without."""
    text = text_of(record, [key], where, types)
    if text is None:
        raise UserError(f"{where}: `{key}` is null; fill it in or delete the record")
    return text


def choices_of(record, where):
    """`choices` as a list of texts, or None."""
    choices = record.get("choices")
    if isinstance(choices, list):
        choices = [decoded(choice, "choices", where) for choice in choices]
    if choices is not None and not (
        isinstance(choices, list) and all(isinstance(c, (str, int, float)) for c in choices)
    ):
        raise UserError(f"{where}: `choices` must be a list of texts")
    for choice in choices or []:
        must_be_whole(choice, "choices", where)
        if choice != choice:
            raise UserError(
                f"{where}: `choices` holds NaN, which is no choice; "
                "write it as text, or delete the record"
            )
    return [str(c) for c in choices] if choices else None


def without(record, *keys):
    """What is left of a record."""
    return {k: v for k, v in record.items() if k not in keys}


def gold_in(text):
    """The answer that a worked solution comes to, "" if that cannot be told: the last tagged one, else what follows the last "Answer:" (R3V, Geo170K),
    else all of it, if it is short.

    "<think> one, two </think><answer> 2 </answer>" -> "2"; "Solution:\\n1. ...\\nAnswer: B" -> "B"; "Answer:\\nYes" -> "Yes"; "3.5" -> "3.5"
    """
    tagged = ANSWER_TAG.findall(text)
    if tagged:
        return tagged[-1].strip()
    answer = text.rpartition("Answer:")[2].strip()
    return answer if len(answer) < SHORT_ANSWER else ""


def with_answer(solution, answer):
    """A worked solution that comes to this answer: in the place of its last tagged one, or after its thinking if it has none.

    "<think> hm </think><answer>3</answer>", "4" -> "<think> hm </think><answer> 4 </answer>"; "I see it.", "4" -> "<think> I see it. </think><answer> 4 </answer>"
    """
    tagged = list(ANSWER_TAG.finditer(solution))
    if tagged:
        return f"{solution[: tagged[-1].start()]}<answer> {answer} </answer>{solution[tagged[-1].end() :]}"
    thinking, closed, _ = solution.rpartition("</think>")
    return (
        f"{thinking}</think><answer> {answer} </answer>"
        if closed
        else f"<think> {solution.strip()} </think><answer> {answer} </answer>"
    )


def asks_for_boxes(question, record):
    """Whether a record speaks of boxes, so that "No Objects" is a statement about them: by its question, or by VLM-R1's `accu_reward_method`."""
    return (
        bool(re.search("bounding box|bbox|'Position'", question, re.IGNORECASE))
        or record.get("accu_reward_method") in DETECTION_METHODS
    )


# ---- the layouts of published files, each with a record


def must_be_no_index(record, where):
    """Refuse an answer that is a number and may be the place of a choice, as in ScienceQA."""
    answer = next((record[key] for key in ANSWER_KEYS if record.get(key) is not None), None)
    choices = choices_of(record, where)
    if not choices or isinstance(answer, bool) or not isinstance(answer, int):
        return
    if 0 <= answer < len(choices) and choices[answer] != str(answer):
        raise UserError(
            f"{where}: `answer` is {answer}, which may be the place of {short(choices[answer], 40)!r} "
            "counted from 0; write the choice's letter, or its text in quotes"
        )


def plain(record, where):
    """R1-V's layout, that of the sets built like it, and the plain one.

    {"image": "a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"}  ->  question "How many?", answer "3"        R1-V, Visual-RFT's classification
    {"images": ["a.png", "b.png"], "question": "Same?", "answer": "yes", "choices": ["yes", "no"]}
    {"image": "a.jpg", "problem": "Please ...", "solution": [10, 20, 200, 300], "normalized_solution": [...]}                    VLM-R1's REC, in pixels
    {"image": "a.jpg", "problem": "Detect ...", "solution": "<answer>[{'Position': [110, 120, 210, 230], 'Confidence': 1}]</answer>"}   Visual-RFT, 0 to 1000
    {"image": "a.png", "question": "Find the cats.", "boxes": [[10, 20, 200, 300], {"bbox_2d": [5, 5, 9, 9], "label": "cat"}], "box_format": "pixels"}
    `solution` may hold the reasoning too; R1-V's SFT data have it apart, in `thinking`. Relative paths resolve beside the file. `box_format` says how this
    record's boxes are written: pixels of the image (also if it is left out) or norm1000.
    """
    question = text_of(record, QUESTION_KEYS, where)
    if question is None:
        raise UserError(
            f"{where}: no question; expected `question` or `problem`, found {', '.join(map(str, record)) or 'nothing'}"
        )
    answer = text_of(record, ANSWER_KEYS, where, (str, int, float))
    must_be_no_index(record, where)
    boxes, solution, box_format, style = record.get("boxes"), record.get("solution"), None, None
    if isinstance(solution, list) and boxes is None:
        boxes, solution = [solution], None
    else:
        solution = text_of(record, ["solution"], where)
    if boxes is not None and answer is not None and not boxes_in(answer, where, asked=True):
        raise UserError(f"{where}: both an answer and boxes; delete the one that is not asked for")
    tagged = ANSWER_TAG.findall(solution or "")
    if tagged and answer is None and boxes is None:
        boxes, box_format, style = boxes_in(
            tagged[-1], where, asked=asks_for_boxes(question, record)
        ) or (None, None, None)
    if answer is None and solution is not None:
        answer = gold_in(solution)
    thinking = text_of(record, ["thinking"], where)
    if thinking and solution:
        solution = f"{thinking.strip()}\n{solution.strip()}"  # R1-distilled: "<think>...</think>", then "<answer>...</answer>"
    if (
        solution is not None
        and "<think>" not in solution
        and ANSWER_TAG.fullmatch(solution.strip())
    ):
        solution = None  # R1-V's: only the answer in tags; nothing worked out to imitate
    images = pictures_of(record, where)
    fields = {
        "question": question,
        "images": images,
        "answer": answer,
        "choices": choices_of(record, where),
        "solution": solution,
        "id": record.get("id"),
        "task": record.get("task"),
        "boxes": boxes,
        "box_format": record.get("box_format") or box_format,
        "box_style": style,
    }
    return fields, without(
        record,
        *IMAGE_KEYS,
        *QUESTION_KEYS,
        *ANSWER_KEYS,
        "solution",
        "thinking",
        "choices",
        "id",
        "task",
        "boxes",
        "box_format",
    )


def conversation(record, where):
    """VLM-R1's JSONL, LLaVA's, Geo170K's and R3V's JSON, Visual-RFT's LISA: the first question and its answer. Later turns are left out, as in VLM-R1.

    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": 3}]}
    {"image": "a.png", "conversations": [{"from": "user", "value": "How many?"}, {"from": "assistant", "value": "Solution:\\n1. ...\\nAnswer: 3"}]}
    {"image": ["a.png", "b.png"], "conversations": [..., {"from": "gpt", "value": "yes"}], "accu_reward_method": "yes_no"}
    {"image": "a.png", "conversations": [..., {"from": "gpt", "value": [10, 20, 200, 300]}]}            a box, in pixels; so is the text "[10, 20, 200, 300]"
    {"conversations": [{"from": "user", "value": "<img>/x/a.jpg</img> Output ..."}, {"from": "assistant", "value": "(100,200),(300,400)"}]}   LISA, 0 to 1000
    Their images are given by name, and the folder apart: beside the file, or in a folder there of one of the usual names. What is worked out before an
    untagged "Answer: 3" (R3V, Geo170K) is put in tags, so that what is learned from it can be scored: "<think> Solution:\\n1. ... </think><answer> 3 </answer>".
    """
    turns = record["conversations"]
    if not (
        isinstance(turns, list)
        and len(turns) >= 2
        and all(isinstance(turn, dict) for turn in turns[:2])
        and turns[0].get("from") in ("human", "user")
        and turns[1].get("from") in ("gpt", "assistant")
    ):
        raise UserError(
            f"{where}: `conversations` must begin with a turn from human (or user) and one from gpt (or assistant), each with `from` and `value`"
        )
    question, value = needed(turns[0], "value", where), turns[1].get("value")
    tagged = re.findall(r"<img>(.*?)</img>", question)
    images, question = pictures_of(record, where) + tagged, re.sub(r"<img>.*?</img>", "", question)
    values = [turn.get("value") for turn in turns[1:] if isinstance(turn, dict)]
    if any("<image>" in value for value in values[1:] if isinstance(value, str)):
        raise UserError(
            f"{where}: a later turn has <image>, and only the first question and its answer are "
            "read; make that turn a record of its own, or delete it"
        )
    must_match_marks([question], len(images), where)
    if not images:
        must_match_marks([None, *(value for value in values if isinstance(value, str))], 0, where)
    answer = solution = found = None
    if isinstance(value, list):
        found = ([value], "pixels", None)
    else:
        value = needed(turns[1], "value", where, (str, int, float)).strip()
        answer, reply, method = (
            gold_in(value),
            (ANSWER_TAG.findall(value) or [value])[-1].strip(),
            record.get("accu_reward_method"),
        )
        if method in DETECTION_METHODS and answer.lower().rstrip(".") == "none":
            found = [], "pixels", None
        elif (
            FOUR_NUMBERS.fullmatch(reply)
            and len(images) == 1
            and method in (None, "default", *DETECTION_METHODS)
        ):  # not mcq, math, ...
            found = [[float(v) for v in reply.strip("[]").split(",")]], "pixels", None
        else:
            found = boxes_in(
                reply, where, corners=bool(tagged), asked=asks_for_boxes(question, record)
            )
        if not (answer or found):
            raise UserError(
                f'{where}: no answer; expected the reply to hold <answer> ... </answer> or "Answer: ...", or to be an answer of fewer than {SHORT_ANSWER} characters'
            )
        rest = (
            ANSWER_TAG.sub("", value)
            if "<answer>" in value
            else value.removesuffix(answer).strip().removesuffix("Answer:")
        )
        solution = (
            value if ("<think>" in value if found else rest.strip()) else None
        )  # more than the answer: worked out
        if solution and answer and "Answer:" in value and "<answer>" not in value:
            solution = with_answer(re.sub("</?think>", "", rest), answer)
    boxes, box_format, style = found or (None, None, None)
    fields = {
        "question": question,
        "images": images,
        "folders": USUAL_FOLDERS,
        "answer": answer,
        "choices": choices_of(record, where),
        "solution": solution,
        "id": record.get("id"),
        "task": record.get("task"),
        "boxes": boxes,
        "box_format": record.get("box_format") or box_format,
        "box_style": style,
    }
    return fields, without(
        record, *IMAGE_KEYS, "conversations", "choices", "id", "task", "box_format"
    )


def chartqa(record, where):
    """ChartQA, in its published tree (test/test_human.json, with the pictures in test/png), or with the pictures beside the file; and as the Hub has it.

    {"imgname": "12.png", "query": "What is the max?", "label": "14"}
    {"image": {"bytes": ...}, "query": "What is the max?", "label": ["14"], "human_or_machine": 0}
    """
    if isinstance(record["label"], list) and len(record["label"]) == 1:
        record = {**record, "label": record["label"][0]}
    fields = {
        "question": needed(record, "query", where),
        "images": record.get("image") or needed(record, "imgname", where),
        "folders": ("", "png", "../png"),
        "answer": needed(record, "label", where, (str, int, float)),
        "id": record.get("id"),
        "task": "chart",
    }
    return fields, without(record, "image", "imgname", "query", "label", "id")


def tabmwp(record, where):
    """TabMWP's problems_*.json, with the pictures in tables/ or beside the file. The question is put as R3V puts it, with unit and options. The published `solution`
    ends in a sentence, not in an answer that a reward could read: it is kept in meta, and not imitated.

    {"id": "33", "question": "Is the function linear?", "choices": ["linear", "nonlinear"], "answer": "nonlinear", "unit": null, "ques_type": "multi_choice",
     "ans_type": "boolean_text", "grade": 8, ...}  ->  question "Is the function linear?\\nOptions:\\n(A) linear\\n(B) nonlinear", image tables/33.png
    """
    name, unit, choices = (
        needed(record, "id", where, (str, int)),
        text_of(record, ["unit"], where),
        choices_of(record, where),
    )
    question = needed(record, "question", where) + (f" (Unit: {unit})" if unit else "")
    fields = {
        "question": with_options(question, choices),
        "images": f"{name}.png",
        "folders": ("", "tables"),
        "answer": needed(record, "answer", where, (str, int, float)),
        "choices": choices,
        "id": name,
        "task": "table",
    }
    return fields, without(record, "id", "question", "choices", "answer")


def cvbench(record, where):
    """CV-Bench: `prompt` is the question with its options; task (Count, Relation, Depth, Distance) and source (ADE20K, COCO, Omni3D) are for its averages.

    {"idx": 0, "type": "2D", "task": "Count", "image": {"bytes": ...}, "question": "How many organs are in the image?", "choices": ["3", "2"], "answer": "(A)",
     "prompt": "How many organs are in the image? Select from the following choices.\\n(A) 3\\n(B) 2", "filename": "...", "source": "ADE20K"}
    """
    fields = {
        "question": needed(record, "prompt", where),
        "images": record.get("image") or needed(record, "filename", where),
        "answer": needed(record, "answer", where),
        "choices": choices_of(record, where),
        "id": record.get("idx"),
        "task": needed(record, "task", where),
    }
    return fields, without(record, "idx", "image", "prompt", "answer", "choices")


def m3cot(record, where):
    """M3CoT: context, question and options are put together. `rationale` is prose without a marked answer: kept in meta, imitated only if it has tags.

    {"id": "s-1", "category": "...", "image": {"bytes": ...}, "question": "Which one?", "choices": ["a", "b"], "context": "", "answer": "B", "rationale": "...",
     "domain": "science", "topic": "..."}  ->  question "Which one?\\nOptions:\\n(A) a\\n(B) b"
    """
    context, choices = str(record.get("context") or "").strip(), choices_of(record, where)
    question = with_options(needed(record, "question", where), choices)
    rationale = record.get("rationale")
    fields = {
        "question": f"{context}\n{question}" if context else question,
        "images": record.get("image"),
        "answer": needed(record, "answer", where),
        "choices": choices,
        "solution": rationale
        if isinstance(rationale, str) and ANSWER_TAG.search(rationale)
        else None,
        "id": record.get("id"),
        "task": record.get("domain"),
    }
    return fields, without(record, "id", "question", "image", "answer", "choices", "context")


def with_options(question, choices):
    """The question and its options, lettered: "Which?\\nOptions:\\n(A) a\\n(B) b" (R3V)."""
    return (
        question
        + "".join(
            ["\nOptions:"] + [f"\n({chr(65 + n)}) {choice}" for n, choice in enumerate(choices)]
        )
        if choices
        else question
    )


LAYOUTS = [  # (the keys by which a record is recognised, its function), tried in this order
    ({"conversations"}, conversation),
    ({"imgname", "query", "label"}, chartqa),
    ({"image", "query", "label"}, chartqa),
    ({"question", "answer", "choices", "unit", "ques_type", "ans_type"}, tabmwp),
    ({"question", "answer", "choices", "prompt", "task", "source"}, cvbench),
    ({"question", "answer", "choices", "rationale", "domain", "topic"}, m3cot),
]


# --- never blind: a record that seems to have a picture which is not read is refused ---

PICTURE = (
    "images?|imgs?|pictures?|pics?|photos?|photographs?|figures?|figs?|frames?|videos?|pixels?"
    "|screenshots?|diagrams?"
)
HANDLE = (
    "paths?|files?|filenames?|names?|ur[il]s?|bytes|base64|b64|data|src|raw|pil|list|input|values"
    "|left|right|first|second|top|original|full|main|query|question|before|after|local|rgb"
)
NAMES_PICTURE = re.compile(rf"(?:{PICTURE}|{HANDLE}|[^a-z])+")  # imgname, image_2, leftImagePath
SAYS_PICTURE = re.compile(
    rf"(?:has|have|is|with|contains|needs|requires|uses)_?(?:an?_?)?(?:{PICTURE})"
)
COUNTS_PICTURES = re.compile(
    r"(?:num|number|n|nb|count|total)_?(?:of_?)?(?:image|img|picture|photo)s?"
    r"|(?:image|img|picture|photo)s?_?(?:count|num)"
)
PICTURE_FILE = re.compile(
    r"[^\n]{1,255}\.(?:png|jpe?g|jfif|gif|webp|bmp|tiff?|svg|heic|avif|ppm"
    r"|mp4|m4v|avi|mov|mkv|webm)(?:[?#]\S*)?",
    re.IGNORECASE,
)
PICTURE_BYTES = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"RIFF",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cJXL ",
)
ANOTHER = re.compile(r"\d|left|right|first|second|before|after")  # image_2, beside `image`
PART_TYPES = (
    "image",
    "image_url",
    "input_image",
    "video",
    "video_url",
)  # of a turn's parts, in chats
# Where a picture belongs in a text: <image>, <image 1>, <|image_1|>, <ImageHere>, <video>.
EMBEDDED = re.compile(r"<img\s[^>]*>|!\[[^\]]*\]\([^)]*\)|\[image\]", re.IGNORECASE)
MARK = re.compile(
    r"<\|?\s*(image|img|picture|photo|video)[ _-]?(\d{1,3}|here|placeholder|pad|token)?\s*\|?>",
    re.IGNORECASE,
)
READ_FROM = "pictures are read from `image`, `images` or `image_path`"


def as_list(value):
    """Make a list of one value, of none for null."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def pictures_of(record, where):
    """List what a record has under IMAGE_KEYS.

    UserError for an empty text, an empty list beside a picture, and keys that name different ones.
    """
    given = {key: as_list(record[key]) for key in IMAGE_KEYS if record.get(key) is not None}
    for key, images in given.items():
        if any(isinstance(image, str) and not image.strip() for image in images):
            raise UserError(
                f"{where}: `{key}` is empty; name the picture, or write null where there is none"
            )
    full = [key for key in given if given[key]]
    hollow = next((key for key in given if not given[key]), None)
    if full and hollow:
        raise UserError(
            f"{where}: `{hollow}` is an empty list, but `{full[0]}` is not; delete `{hollow}`"
        )
    for key in full[1:]:
        known = {name_of(image) for image in given[full[0]]} - {None}
        among = all(name_of(image) in known for image in given[key])
        if not among and not same_pictures(given[key], given[full[0]]):
            raise UserError(
                f"{where}: `{full[0]}` and `{key}` name different pictures; "
                f"put all of them in `images`, or delete `{key}`"
            )
    return given[full[0]] if full else []


def name_of(image):
    """Tell a picture's file name without folders and suffix, or None: "x/a.png" -> "a"."""
    if isinstance(image, dict):
        image = image.get("path") or image.get("url")
    if not isinstance(image, str):
        return None
    return os.path.splitext(os.path.basename(re.split("[?#]", image)[0].replace("\\", "/")))[0]


def same_pictures(some, others):
    """Tell whether two lists may be of the same pictures: as many, no names that differ."""
    if len(some) != len(others):
        return False
    pairs = [(name_of(a), name_of(b)) for a, b in zip(some, others)]
    return all(a == b for a, b in pairs if a is not None and b is not None)


def leaves(value):
    """List (key, value) of all that is inside a value, the containers too; keys are the nearest."""
    found, todo = [], [(None, value)]
    while todo:  # a loop: values may be nested deeper than calls may
        key, value = todo.pop()
        found.append((key, value))
        if isinstance(value, dict):
            todo += value.items()
        elif isinstance(value, (list, tuple)):
            todo += [(key, item) for item in value]
    return found


def has_content(value):
    """Tell whether anything is there but null, blanks, 0, false, NaN and containers of such."""
    plain_ones = [item for _, item in leaves(value) if not isinstance(item, (dict, list, tuple))]
    return any(
        item == item and (item.strip() if isinstance(item, (str, bytes)) else item)
        for item in plain_ones
    )


def is_picture(value):
    """Tell whether a text or bytes look like a picture or a video, or the name of one."""
    if isinstance(value, bytes):
        return value.startswith(PICTURE_BYTES) or value[4:8] == b"ftyp"
    if not isinstance(value, str):
        return False
    return value.startswith(("data:image/", "data:video/")) or bool(
        PICTURE_FILE.fullmatch(value.strip())
    )


def names_picture(key):
    """Tell whether a key is made of words for a picture: imgname, image_2, not image_id."""
    key = str(key).lower()[:60]  # the limit: matching is exponential in words
    return bool(NAMES_PICTURE.fullmatch(key) and re.search(PICTURE, key))


def seems_pictured(key, value):
    """Tell whether this looks like a picture, by key or value, where none was read."""
    if key == "type" and value in PART_TYPES or is_picture(value):
        return True
    return names_picture(key) and has_content(value)


def is_one_more(key, value, read):
    """Tell whether this looks like another picture than those that were read."""
    if not names_picture(key):
        return False
    sure = bool(ANOTHER.search(str(key).lower()))
    named = [
        item
        for _, item in leaves(value)
        if is_picture(item) or sure and isinstance(item, str) and item.strip()
    ]
    if not named or "video" in str(key).lower():
        return bool(named)
    if all(isinstance(item, str) and item.startswith(("http://", "https://")) for item in named):
        return len(named) > len(read)  # where those that were read come from
    whole = as_list(value)
    named = whole if any(isinstance(item, dict) for item in whole) else named
    known = {name_of(image) for image in read}
    if None in known and not sure and re.search("path|name|file", str(key).lower()):
        return len(named) > len(read)  # the names of embedded pictures
    return any(name_of(image) not in known - {None} for image in named)


def must_see(left, turns, read, where):
    """Refuse a record that seems to have a picture besides those that are read.

    left: what of the record is carried along unread.
    turns: those of its conversation, of which the words are read.
    read: its pictures, as they are given.
    """
    beside = [
        without(turn, "from", "value", "role", "content")
        for turn in turns
        if isinstance(turn, dict)
    ]
    turn_keys = [] if read else [pair for turn in beside for pair in turn.items()]
    for key, value in [*left.items(), *turn_keys]:
        low = str(key).lower()
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if COUNTS_PICTURES.fullmatch(low) and number and value > len(read):
            raise UserError(
                f"{where}: `{key}` is {short(value, 20)}, but {len(read)} images are read; "
                f"{READ_FROM}: list all of them in `images`, or mend the number"
            )
        if SAYS_PICTURE.fullmatch(low) and value in (True, "true", "True", "yes") and not read:
            raise UserError(
                f"{where}: `{key}` is {short(value, 20)}, but no picture is read; {READ_FROM}: "
                "name it there, or say false"
            )
        if read:
            found = is_one_more(key, value, read)
        else:
            found = any(seems_pictured(name or key, item) for name, item in leaves(value))
        if not found:
            continue
        shown = short(key, 60)
        if "video" in low:
            raise UserError(
                f"{where}: `{shown}`: the record is about a video, and only images can be read; "
                "delete the record, or the key if the question needs no video"
            )
        if read:
            raise UserError(
                f"{where}: `{shown}` seems to hold one more picture, which is not read; "
                "put all pictures in `images`, or delete the key if the question does not need it"
            )
        raise UserError(
            f"{where}: `{shown}` seems to hold a picture, but {READ_FROM}; "
            "rename the key, or delete it if the question needs no picture"
        )


def must_match_marks(texts, count, where):
    """Refuse texts that speak of other pictures than the `count` that are read.

    texts: the question first; in it there is one <image> for each picture, or none at all.
    """
    marks = texts[0].count("<image>") if texts and texts[0] else 0
    if marks and marks != count:
        raise UserError(
            f"{where}: {marks} <image> in the question, but {count} images; "
            "there must be one for each, or no <image> at all"
        )
    for text in filter(None, texts):
        embedded = EMBEDDED.search(text)
        if embedded and not count:
            raise UserError(
                f"{where}: the text has {short(embedded[0], 40)}, but no image is read; {READ_FROM}: "
                "name it there, or remove it"
            )
        for kind, number in MARK.findall(text):
            beyond = number.isdigit() and int(number) > count
            if not count or beyond or kind.lower() == "video":
                raise UserError(
                    f"{where}: the text has <{f'{kind} {number}'.strip()}>, "
                    f"but {count} images are read; {READ_FROM}: name it there, or remove the mark"
                )


def say_without_pictures(examples, spec):
    """Say once, of every file, how many of its records have no picture, and which keys they have."""
    by_file = {}
    for example in examples:
        file = re.split(r":\d+(?:, record \d+)?$", example.source)[0]
        by_file.setdefault(file, []).append(example)
    said = []
    for file, some in by_file.items():
        blank = [example for example in some if not example.images]
        if not blank:
            continue
        keys = sorted({str(key) for example in blank for key in example.meta})
        many = (
            f"none of {len(some)}" if blank == some else f"{len(some) - len(blank)} of {len(some)}"
        )
        place = "" if blank == some else f", the first without is {short(blank[0].source, 80)}"
        unread = f"; keys not read: {short(', '.join(keys), 60)}" if keys else ""
        said.append(f"{many} records of {short(Path(file).name, 60)} have a picture{place}{unread}")
    for line in said[:3]:
        print(f"{spec}: {line}; those without are asked as text alone")
    if len(said) > 3:
        print(f"{spec}: {len(said) - 3} more files have records without a picture")


# ---- preference pairs

PROMPT_KEYS = ("prompt", "conversations", "messages", *QUESTION_KEYS)
PAIR_KEYS = "question (or prompt, or conversations), chosen and rejected"
ROLES = {"human": "user", "gpt": "assistant"}


def read_pairs(spec, image_folder=None):
    """A file or folder of preference pairs, in any layout of `to_pair` or by an MMPR meta file, to a list of Pair: those that it repeats, several times.

    In a folder that holds a meta.json, only this is read. image_folder: where relative image paths resolve, instead of beside their file.
    Raises UserError, naming file, line and remedy, for anything that would fail later: every image is looked at now.
    """
    if not os.path.exists(split_name(spec)[0]):
        raise UserError(f"{short(spec)}: no such file or folder; name a file of preference pairs")
    if image_folder is not None and not os.path.isdir(image_folder):
        raise UserError(f"--image-folder {short(image_folder)}: no such folder")
    root = None if image_folder is None else Path(image_folder)
    files, rows, made = files_of(spec), [], {}
    for file in [f for f in files if f.name == "meta.json"] or files:
        for line, name, record in rows_of(file, PAIR_KEYS, name_in(spec, file)):
            is_set = isinstance(record, dict) and "annotation" in record and "chosen" not in record
            if is_set:
                rows += annotated(record, file, line, root)
            else:
                rows.append((record, file, line, root, name))
    for row in rows:
        if id(row[0]) not in made:  # a repeated record is made, and its images are looked at, once
            made[id(row[0])] = to_pair(*row)
    if not rows:
        raise UserError(
            f"{spec} holds no pair: its sets are sampled down to none; raise their repeat_time"
        )
    examples = [pair.example for pair in made.values()]
    names = {id(record): name for record, *_, name in rows}
    tell_apart(examples, [names[key] for key in made], spec)
    say_without_pictures(examples, spec)
    check_images(examples)
    return [made[id(record)] for record, *_ in rows]


def annotated(record, file, line, root):
    """What `to_pair` is to be given for one set of an MMPR meta file, whole copies first.

    {"scienceqa": {"root": "MMPR/images/ScienceQA", "annotation": "MMPR/annotations/scienceqa.jsonl", "data_augment": false, "repeat_time": 1, "length": 12345}}
    `repeat_time` 2.5: all of it twice, then half of it, sampled by the set's name alone and left in order; 0.1: a tenth. root: --image-folder, in which the set's
    own folder is looked for first.
    """
    where, name = f"{file}:{line}: set {short(record.get('id'), 60)}", record.get("id")
    repeat, images = (
        record.get("repeat_time", 1),
        text_of({"root": record.get("root") or None}, ["root"], where) or "",
    )
    if (
        isinstance(repeat, bool)
        or not isinstance(repeat, (int, float))
        or not 0 <= repeat <= MOST_COPIES
    ):
        raise UserError(
            f"{where}: `repeat_time` must be a number, 1 for once, 0.5 for half of it, "
            f"at most {MOST_COPIES}, found {short(repeat, 40)}; mend it"
        )
    annotation = near(needed(record, "annotation", where), file)
    must_end(annotation)
    if not os.path.isfile(annotation):
        raise UserError(
            f"{where}: annotation {short(annotation)} does not exist, nor does it above {file.name}; fetch it, or delete the set"
        )
    folder = (
        near(images, file)
        if root is None
        else root / images
        if os.path.isdir(root / images)
        else root
    )
    found = rows_of(annotation, PAIR_KEYS, f"{name}/{annotation.name}")
    rows = [(row, annotation, place, folder, row_name) for place, row_name, row in found]
    if repeat > 1 and len(rows) * repeat > MOST_PAIRS:
        raise UserError(
            f"{where}: {len(rows)} pairs with a `repeat_time` of {repeat} are more than "
            f"{MOST_PAIRS}; lower it, and raise --num-train-epochs instead"
        )
    sample = random.Random(str(name)).sample(
        range(len(rows)), int(len(rows) * repeat) - len(rows) * int(repeat)
    )
    return rows * int(repeat) + [rows[n] for n in sorted(sample)]


def near(name, file):
    """What a meta file means by a path: one beside it, in the two folders above it (MMPR's begin with the name of its own), or from where one stands."""
    places = [
        folder / name for folder in (file.parent, *list(file.resolve().parent.parents)[:2], Path())
    ]
    return next((path for path in places if os.path.exists(path)), places[0])


def to_pair(record, file, line, root=None, name=None):
    """Pair from one record. A prompt is under one of PROMPT_KEYS, or is how both responses begin; prompt and responses are texts, turns or lists of turns (`turns_of`).

    {"image": "a.png", "question": "<image>\nHow many?", "chosen": "... Final answer: 7", "rejected": "... Final answer: 5"}              MMPR; no image: text only
    {"image_path": "a.png", "text": "{\"question\": \"How many?\", \"chosen\": \"Two.\", \"rejected\": \"Three.\"}"}                    RLHF-V; `text` may be an object
    {"images": ["a.png"], "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}],
     "chosen": [{"role": "assistant", "content": "Two."}], "rejected": [{"role": "assistant", "content": "Three."}]}                       TRL, conversational
    {"image": "a.png", "prompt": "How many?", "chosen": "Two.", "rejected": "Three."}                                                      TRL, standard; VL-RLHF
    {"chosen": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}], "rejected": [the same, another]}      TRL, implicit prompt
    {"conversations": [{"from": "human", "value": "<image>How many?"}], "chosen": {"from": "gpt", "value": "Two."},
     "rejected": {"from": "gpt", "value": "Three."}, "images": ["a.png"]}                                                                  LLaMA-Factory
    A pair has one question: longer conversations and system turns are refused, not cut. `answer` (MMPR's is `answer_gt`), if there, is kept.
    """
    where = f"{file}:{line}"
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: expected an object with {PAIR_KEYS}, found {type(record).__name__}"
        )
    if "text" in record and "chosen" not in record:
        inner = record["text"]
        try:
            inner = json.loads(inner) if isinstance(inner, str) else inner
        except (ValueError, RecursionError):
            inner = None
        if not isinstance(inner, dict):
            raise UserError(
                f"{where}: `text` must be an object with question, chosen and rejected, or one as JSON; mend or delete the record"
            )
        record = {**without(record, "text"), **inner}
    if not {"chosen", "rejected"} <= record.keys():
        raise UserError(
            f"{where}: no pair; expected {PAIR_KEYS}, found {', '.join(map(str, record)) or 'nothing'}"
        )
    if record.get("video"):
        raise UserError(
            f"{where}: the pair is about a video, and only images can be read; delete the record"
        )
    key = next((key for key in PROMPT_KEYS if record.get(key) is not None), None)
    replies = {
        name: turns_of(record[name], "assistant", name, where) for name in ("chosen", "rejected")
    }
    begun = [turns_of(record[key], "user", key, where)] if key else []
    begun += [
        turns[:-1] for turns in replies.values() if len(turns) > 1 or not key
    ]  # how the responses begin
    if not all(begun):
        raise UserError(
            f"{where}: no prompt; expected `question`, `prompt` or `conversations`, or that chosen and rejected begin with it"
        )
    if any(turns != begun[0] for turns in begun):
        raise UserError(
            f"{where}: chosen and rejected do not answer the same prompt; mend or delete the record"
        )
    spoken = ["system"] * bool(record.get("system")) + [role for role, *_ in begun[0]]
    if spoken != ["user"] or any(turns[-1][0] != "assistant" for turns in replies.values()):
        raise UserError(
            f"{where}: a pair must be one turn from user (or human) and two replies from assistant (or gpt), found a prompt of {short(', '.join(spoken), 60)} "
            f"and replies of {short(', '.join(turns[-1][0] for turns in replies.values()), 60)}; a system prompt is given by --system-prompt; delete longer "
            "conversations"
        )
    chosen, rejected = (turns[-1][1].strip() for turns in replies.values())
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are the same text; delete the record")
    _, question, embedded = begun[0][0]
    # MMPR writes "" for no picture.
    named = {key: record.get(key) for key in IMAGE_KEYS}
    images = pictures_of({**named, "image": named["image"] or None}, where)
    if images and embedded and not same_pictures(images, embedded):
        raise UserError(
            f"{where}: the prompt holds other pictures than the record names; "
            "delete those that are not meant"
        )
    images = images or embedded
    spoken = [turn for name in (key, *replies) if name for turn in as_list(record[name])]
    must_see(without(record, *IMAGE_KEYS, key, *replies), spoken, images, where)
    must_match_marks([question], len(images), where)
    question = needed({"question": question.replace("<image>", "").strip()}, "question", where)
    given = label_of(record, "id", where) or label_of(record, "idx", where)
    name = given or name or f"{file.name}:{line}"
    answer = next(
        (
            str(record[key]).strip()
            for key in (*ANSWER_KEYS, "answer_gt")
            if isinstance(record.get(key), (str, int, float))
        ),
        "",
    )
    must_be_whole(answer, "answer", where)
    meta = without(
        record,
        *IMAGE_KEYS,
        *PROMPT_KEYS,
        *ANSWER_KEYS,
        "answer_gt",
        "chosen",
        "rejected",
        "choices",
        "id",
        "idx",
        "task",
        "video",
        "system",
    )
    meta["prompt_template"] = "none"  # the responses answer this prompt as it stands
    example = Example(
        name,
        [locate(image, file, where, USUAL_FOLDERS, root) for image in images],
        question,
        answer,
        choices=choices_of(record, where),
        task=label_of(record, "task", where),
        meta=carried(meta, where),
        source=where,
    )
    return Pair(example, chosen, rejected)


def turns_of(value, role, key, where):
    """[(role, text, images)] of what is under this key: a text of this role, a turn, or a list of turns, {"role", "content"} (TRL) or {"from", "value"} (LLaMA-Factory).

    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}  ->  [("user", "<image>How many?", [])]; a part may embed its image
    """
    turns = []
    for turn in (
        value
        if isinstance(value, list)
        else [value if isinstance(value, dict) else {"role": role, "content": value}]
    ):
        speaker = turn.get("role") or turn.get("from") if isinstance(turn, dict) else None
        if not isinstance(speaker, str):
            raise UserError(
                f"{where}: `{key}` must be a text or a list of turns, each with `role` and `content` (or `from` and `value`), found {short(turn, 60)}; mend it"
            )
        speaker, images = ROLES.get(speaker, speaker), []
        content = next(
            (turn[name] for name in ("content", "value") if turn.get(name) is not None), None
        )
        if isinstance(content, list):
            kinds = [
                part.get("type") if isinstance(part, dict) else type(part).__name__
                for part in content
            ]
            known = ["text"] if speaker == "assistant" else ["text", "image"]
            if not all(kind in known for kind in kinds):  # a list: a kind may be anything
                raise UserError(
                    f"{where}: `{key}` holds {', '.join(short(kind, 20) for kind in kinds[:5])}; a reply is made of text, a prompt of text and images; delete the record"
                )
            images = [
                part["image"]
                for kind, part in zip(kinds, content)
                if kind == "image" and part.get("image") is not None
            ]
            content = "".join(
                "<image>" if kind == "image" else needed({key: part.get("text")}, key, where)
                for kind, part in zip(kinds, content)
            )
        turns.append((speaker, needed({key: content}, key, where), images))
    if not turns:
        raise UserError(f"{where}: `{key}` is empty; fill it in or delete the record")
    return turns


# ---- boxes

DETECTION_METHODS = (
    "map",
    "od_ap",
    "od_ap50",
    "odLength",
    "weighted_sum",
)  # VLM-R1's rewards whose gold "None" means that there is nothing to find
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
FOUR_NUMBERS = re.compile(r"\[\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3}\s*\]")
CORNERS = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def boxes_in(text, where, corners=False, asked=False):
    """(boxes, box_format, style) that a gold answer's text writes down, or None if it is another kind of answer. json and regular expressions only.

    "[{'Position': [110, 120, 210, 230], 'Confidence': 1}]", "No Objects"     Visual-RFT's detection: 0 to 1000; the latter and "[]" only if boxes were `asked` for
    "(100,200),(300,400)"                                                     its LISA: 0 to 1000; read so only if `corners`, as it could be two points elsewhere
    '```json\\n[{"bbox_2d": [10, 20, 200, 300], "label": "cat"}]\\n```'         VLM-R1's detection: pixels
    UserError for what begins like boxes and cannot be read.
    """
    text = text.strip()
    if asked and text == "[]":
        return [], "pixels", None
    if asked and text.lower().rstrip(".") == "no objects":
        return [], "norm1000", "position"
    pair = corners and CORNERS.fullmatch(text)
    if pair:
        return [[int(v) for v in pair.groups()]], "norm1000", "corners"
    if not re.search("[\"'](Position|bbox_2d)[\"']", text):
        return None
    fenced = FENCE.search(text)
    body = fenced[1] if fenced else text
    try:
        found = json.loads(json_quotes(body) if "'Position'" in body else body)
    except (ValueError, RecursionError):
        found = None
    found = [found] if isinstance(found, dict) else found
    if isinstance(found, list) and all(
        isinstance(box, dict) and "Position" in box for box in found
    ):
        return [box["Position"] for box in found], "norm1000", "position"
    if isinstance(found, list) and all(isinstance(box, dict) and "bbox_2d" in box for box in found):
        return found, "pixels", None
    raise UserError(
        f"{where}: the answer looks like a list of boxes, but is none ({short(text, 60)}); mend or delete the record"
    )


def json_quotes(text):
    """Python's quotes as JSON's, in one pass: [{'label': "men's", 'note': 'a "b"'}] -> [{"label": "men's", "note": "a \\"b\\""}]."""
    inside = lambda m: re.sub(
        r'\\.|"', lambda e: {"\\'": "'", '"': '\\"'}.get(e[0], e[0]), m[1], flags=re.DOTALL
    )
    return re.sub(
        r"""\\.|"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'""",
        lambda m: m[0] if m[1] is None else f'"{inside(m)}"',
        text,
        flags=re.DOTALL,
    )


def gold_boxes(boxes, box_format, images, where):
    """(boxes, size) of a record, for Example.meta. UserError for what is no box, or lies outside the picture by more than a pixel (rounding; cut off here).

    [[100, 200, 300, 400]] of "norm1000" in a picture of 640 x 480  ->  [{"bbox_2d": [64.0, 96.0, 192.0, 192.0], "label": None}], [640, 480]
    """
    if box_format not in ("pixels", "norm1000"):
        raise UserError(
            f"{where}: `box_format` {short(box_format, 40)} is unknown; a file's boxes are in pixels (of the image, the default) or norm1000 "
            "(0 to 1000 across its width and height)"
        )
    if len(images) != 1:
        raise UserError(
            f"{where}: boxes lie in one image, but this record has {len(images)}; name one"
        )
    if not isinstance(boxes, list):
        raise UserError(
            f"{where}: `boxes` must be a list of boxes, [[x1, y1, x2, y2], ...], found {type(boxes).__name__}"
        )
    size = list(picture_size(images[0], where))
    found = []
    for box in boxes:
        corners, label = (
            (box.get("bbox_2d"), box.get("label")) if isinstance(box, dict) else (box, None)
        )
        if not (
            isinstance(corners, list)
            and len(corners) == 4
            and all(
                isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9
                for v in corners
            )
        ):
            raise UserError(
                f'{where}: a box must be four numbers, [x1, y1, x2, y2] or {{"bbox_2d": [x1, y1, x2, y2], "label": "..."}}, found {short(box, 60)}; mend it'
            )
        must_be_whole(label, "label", where)
        if label is not None and not (isinstance(label, str) and label.strip()):
            raise UserError(
                f"{where}: the label of a box must be a text, found {short(label, 60) or 'an empty one'}; mend it, or leave `label` away"
            )
        if box_format == "norm1000":
            corners = [v * side / 1000 for v, side in zip(corners, size * 2)]
        if any(not -1 <= v <= side + 1 for v, side in zip(corners, size * 2)):
            hint = (
                'write "box_format": "norm1000" if it is in 0 to 1000'
                if box_format == "pixels"
                else 'write "box_format": "pixels" if it is in pixels'
            )
            raise UserError(
                f"{where}: box {short(box, 60)} lies outside the picture of {size[0]} x {size[1]} pixels; mend it, or {hint}"
            )
        corners = [min(max(v, 0), side) for v, side in zip(corners, size * 2)]
        if not (corners[0] < corners[2] and corners[1] < corners[3]):
            raise UserError(
                f"{where}: box {short(box, 60)} encloses nothing; it must be [left, top, right, bottom], not [left, top, width, height]"
            )
        found.append({"bbox_2d": corners, "label": label})
    return found, size


def boxes_to_text(boxes, box_format, size, resized=None, style=None):
    """Boxes (meta["boxes"], pixels) written as the model writes them, in whole numbers; a box thinner than one of its steps is rounded outwards.

    one without a label  {"bbox_2d": [10, 20, 200, 300]}      else [{"label": "cat", "bbox_2d": [10, 20, 200, 300]}, ...], [] for none      (VLM-R1, but for the
                         order: as in toyworld's `ground`, the label comes first, so that the model knows what it is about to draw a box around)
    style "position"     [{'Position': [10, 20, 200, 300], 'Confidence': 1}], No Objects for none                             (what Visual-RFT's questions ask for)
    style "corners"      (10,20),(200,300)                                                                                    (LISA in Visual-RFT)
    """
    steps = {"norm1000": (1000, 1000), "resized": resized, "pixels": size}[box_format]
    written = []
    for box in boxes:
        corners = [0] * 4
        for axis in (0, 1):
            low, high = (
                box["bbox_2d"][axis] * steps[axis] / size[axis],
                box["bbox_2d"][axis + 2] * steps[axis] / size[axis],
            )
            whole = (round(low), round(high))
            corners[axis], corners[axis + 2] = (
                whole if whole[0] < whole[1] else (math.floor(low), math.ceil(high))
            )
        written.append(
            {**({"label": box["label"]} if box.get("label") else {}), "bbox_2d": corners}
        )
    if style == "corners":
        return ",".join("({},{}),({},{})".format(*box["bbox_2d"]) for box in written)
    if style == "position":
        return (
            str([{"Position": box["bbox_2d"], "Confidence": 1} for box in written])
            if written
            else "No Objects"
        )
    return json.dumps(
        written[0] if len(written) == 1 and "label" not in written[0] else written,
        ensure_ascii=False,
    )


def answer_text(example, boxes):
    """These boxes as this box example's answer would be written by the model."""
    meta = example.meta
    return boxes_to_text(
        boxes,
        meta.get("box_format", BOX_FORMATS[0]),
        meta["size"],
        meta.get("resized"),
        meta.get("box_style"),
    )


def set_box_format(example, box_format, min_pixels, max_pixels):
    """Notes in a box example how the model writes boxes; other examples stay as they are. UserError if its question asks for another convention."""
    if "boxes" in example.meta:
        if example.meta.get("box_style") and box_format != "norm1000":
            raise UserError(
                f"{example.source}: its boxes are those of Visual-RFT, whose questions ask for 0 to 1000, not for --box-format {box_format}; "
                "read it with --box-format norm1000"
            )
        example.meta["box_format"] = box_format
        if box_format == "resized":
            example.meta["resized"] = resized_size(example.meta["size"], min_pixels, max_pixels)


def resized_size(size, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, step=28):
    """[width, height] that Qwen2-VL's image processor makes of an image: multiples of 28, the area within the limits, the shape kept as far as that allows.

    [640, 480] -> [644, 476]: rounded to the nearest multiple, unless that breaks a limit; then scaled to it, and rounded down (or up, to the lower one)."""
    width, height = size
    rounded = [round(width / step) * step, round(height / step) * step]
    if rounded[0] * rounded[1] > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        return [max(step, math.floor(side / scale / step) * step) for side in size]
    if rounded[0] * rounded[1] < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        return [math.ceil(side * scale / step) * step for side in size]
    return rounded


def locate(image, file, where, folders=("",), root=None):
    """A record's image as a path, in the first of these folders beside `file` (or in the folder `root`) that holds it, or as the encoded bytes it embeds.
    An absolute path that does not exist (Visual-RFT's LISA names its authors' disk) is looked for by its name there."""
    found = type(image).__name__
    if isinstance(image, dict):
        found = "an object with neither bytes nor path"
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes) and image:
        return image
    if not isinstance(image, str) or not image.strip():
        found = "an empty text" if isinstance(image, str) else found
        raise UserError(
            f"{where}: an image must be a path (or embedded bytes in parquet), found {found}; "
            "name the picture, or delete the record"
        )
    beside = root or file.parent
    places = [
        beside / folder / image for folder in folders
    ]  # an absolute `image` replaces the folder
    if len(folders) > 1 and os.path.isabs(image):
        places += [beside / folder / os.path.basename(image) for folder in folders]
    for path in places:
        if os.path.isfile(
            path
        ):  # unlike path.is_file(), also False for a name too long: base64 in place of a path
            return path
    others = ", ".join(folder for folder in folders[1:])
    other = next((path for path in places if os.path.exists(path)), None)
    if other:
        raise UserError(
            f"{where}: image {short(other)} does not exist as a file, "
            "but as a folder, a pipe or a device; name a picture"
        )
    raise UserError(
        f"{where}: image {short(places[0])} does not exist{f', nor in {others} there' if others else ''}; relative paths resolve "
        f"{f'in {short(root)}' if root else f'beside {file.name}'}"
    )


def short(text, most=200):
    """One line of at most `most` characters, for messages."""
    try:
        text = " ".join(str(text).split())
    except RecursionError:
        text = f"a {type(text).__name__} nested too deeply to be shown"
    return text if len(text) <= most else text[:most] + "..."


def limit_image_pixels(most=MAX_IMAGE_PIXELS):
    """Let Pillow refuse, by its header, every picture of more pixels (--max-image-pixels)."""
    Image.MAX_IMAGE_PIXELS = most / 2  # it warns above this, and refuses above its double


def open_header(image, where):
    """Open a PIL image, a path or encoded bytes without decoding anything.

    UserError for what is no picture, is too large, or would have to be run.
    """
    if isinstance(image, Image.Image):
        return image
    try:
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    except IMAGE_ERRORS as error:
        raise not_opened(error, image, where) from None
    if image.format == "EPS":  # a program; Pillow would have Ghostscript run it
        raise UserError(
            f"{where}: {title(image)} is a PostScript program; save what it draws as PNG"
        )
    return image


def title(image):
    """Name a picture in a message."""
    known = image if isinstance(image, (str, Path)) else getattr(image, "filename", None)
    return f"image {known}" if known else "its embedded image"


def not_opened(error, image, where):
    """Make a UserError of what Pillow says about a picture."""
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+", str(error))[0]
        return UserError(
            f"{where}: {title(image)} has {found} pixels, more than --max-image-pixels "
            f"{int(2 * Image.MAX_IMAGE_PIXELS)}; shrink it, or raise the flag (60 bytes of memory a pixel)"
        )
    said = short(error, 80) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        said = "it is no picture of a known format"
    return UserError(
        f"{where}: {title(image)} cannot be opened ({said}); replace the file or delete the record"
    )


def picture_size(image, where):
    """(width, height) of a picture, by its header. UserError as for open_header."""
    if isinstance(image, Image.Image):
        return image.size
    with open_header(image, where) as opened:
        return opened.size


def open_image(image, where):
    """RGB PIL image from a PIL image, a path or encoded bytes; transparency is laid on white.

    UserError for what cannot be decoded.
    """
    image = open_header(image, where)
    try:
        if image.width * image.height <= LARGE:
            rgb = to_rgb(image)
        else:
            with ONE_AT_A_TIME:  # eight at once would fill the memory
                rgb = to_rgb(image)
    except IMAGE_ERRORS as error:
        raise not_opened(error, image, where) from None
    if max(rgb.size) > 200 * min(rgb.size):
        raise UserError(
            f"{where}: image of {rgb.width} x {rgb.height} pixels is too narrow for Qwen2-VL (sides at most 200 : 1); crop it or delete the record"
        )
    return rgb


def to_rgb(image):
    """Decode a picture of any mode to RGB, 16 bits to 8.

    ValueError for 32 bits whose values are not those of 8: nobody knows which of them is white.
    """
    image.load()
    wide = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits, held in 32
    if image.mode.startswith("I;16") or wide:
        image = image.convert("I").point(lambda value: value * (1 / 256))  # the high byte
    elif image.mode in ("I", "F"):
        low, high = image.getextrema()
        if not (0 <= low and high <= 255):
            raise ValueError(f"32 bits a pixel, from {low:g} to {high:g}, not 0 to 255")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def open_images(example):
    """The example's images, opened now: list of RGB PIL images."""
    return [open_image(image, example.source) for image in example.images]


def images_for_a_sheet(example):
    """Open the images that a picture for people shows: [] and a warning if they have gone since."""
    try:
        return open_images(example)
    except UserError as error:
        plots.warn(f"a sheet is drawn without its picture: {error}")
        return []


def check_images(examples, decode=2000):
    """Decodes the first `decode` examples' images and reads the headers of all others: bad files stop the run before it starts.
    (Decoding is 5 to 20 ms for a photograph; the rest of a large set is decoded when its turn comes, with the same error.)"""

    def check(item):
        number, example = item
        for image in example.images:
            if number < decode:
                open_image(image, example.source)
            else:
                picture_size(image, example.source)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(
            pool.map(check, enumerate(examples)),
            total=len(examples),
            desc="checking images",
            disable=len(examples) < 500,
            leave=False,
        ):
            pass


def take(examples, start, number, seed):
    """`number` training examples from position `start` of the shuffled, endlessly repeated data: a pure function of its arguments, so
    that a resumed run goes on where it stopped. Every epoch is a new permutation."""
    if isinstance(examples, ToyStream):
        return [examples[start + i] for i in range(number)]  # already random, already endless
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
        raise UserError(
            f"--data {args.data} never ends: say how long to train with --max-steps, e.g. --max-steps 200"
        )
    return max(1, round(args.num_train_epochs * len(examples) / per_step))


def default_eval(spec):
    """What to evaluate on when --eval-data was not given: a toy task's test split, or else the training data themselves, said aloud."""
    name, _ = split_name(spec)
    if name in toyworld.TASKS and not os.path.exists(name):
        return [f"{name}:test"]
    print("no --eval-data: accuracy will be that on the training data, which is not held out")
    return [spec]


def read_eval(args, examples):
    """{DATA: examples to ask} for each --eval-data, or for `default_eval`; what is also --data is not read twice."""
    args.eval_data = args.eval_data or default_eval(args.data)
    sets = {}
    for spec in args.eval_data:
        found = (
            examples
            if spec == args.data
            else read(
                spec,
                level=args.level,
                box_format=args.box_format,
                min_pixels=args.min_pixels,
                max_pixels=args.max_pixels,
            )
        )
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
    or None, in patches. image_at: (image tokens,) long, where the vision tower's output goes. features: (image tokens, D), that output, if
    model.cache_features has kept it."""

    ids: torch.Tensor
    positions: torch.Tensor
    following: int
    image_at: torch.Tensor
    pixel_values: torch.Tensor = None
    grid: torch.Tensor = None
    text: str = ""
    features: torch.Tensor = None


def template_of(name):
    """TEMPLATES[name]; UserError for an unknown one."""
    if name not in TEMPLATES:
        raise UserError(f"--prompt-template {name} is unknown; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def ask_as_trained(args, otherwise=DEFAULT_TEMPLATE):
    """Fills in --prompt-template, --system-prompt, --box-format and the limits on pixels where they were not given: as the checkpoint's training run had
    them (its args.json), so that training and evaluation ask alike. UserError for an unknown template."""
    trained_with = checkpoint_files.read_run(args.model)
    args.prompt_template = args.prompt_template or trained_with.get("prompt_template") or otherwise
    args.system_prompt = (
        args.system_prompt if args.system_prompt is not None else trained_with.get("system_prompt")
    )
    for name, default in (
        ("box_format", BOX_FORMATS[0]),
        ("min_pixels", MIN_PIXELS),
        ("max_pixels", MAX_PIXELS),
    ):
        if hasattr(args, name):  # a caller that has none of these flags needs none
            setattr(args, name, getattr(args, name) or trained_with.get(name) or default)
    if hasattr(args, "max_image_pixels"):
        limit_image_pixels(args.max_image_pixels)
    template_of(args.prompt_template)


def wording(example, template=DEFAULT_TEMPLATE):
    """The question as the template puts it, or the example's own meta["prompt_template"]. `tabmwp` asks for a letter where there are choices (its _choices twin), as R3V does.
    A question that already ends in what the template (or its twin) asks stays as it is: R3V's worked solutions have it in their files, TabMWP's problems do not."""
    template = example.meta.get("prompt_template", template)
    twin = f"{template}_choices"
    for name in (template, twin):
        if name in TEMPLATES and example.question.endswith(
            TEMPLATES[name].removeprefix("{question}").strip()
        ):
            return example.question
    return template_of(twin if example.choices and twin in TEMPLATES else template).replace(
        "{question}", example.question
    )


def refine_prompt(prompt, wrong):
    """R3V's self-refine (arXiv:2411.00855): a question, as `wording` puts it, with a wrong response to mend. Target: a right one."""
    return f"{prompt}\nModel's prediction:\n{quoted(wrong)}\nJudge the correctness of the model's prediction and refine it."


def select_prompt(prompt, candidates, instruction=None):
    """R3V's self-select: a question, as `wording` puts it, with several responses. Target: the final answer alone, no index and no reasoning.

    instruction: SELECT.get(template); None asks plainly, and for an answer in tags where the question itself does:
        <question>  Output the thinking process ... in <answer> </answer> tags.
        Model's prediction 1:
        <think> ... </think><answer> 3 </answer>
        Model's prediction 2:
        <think> ... </think><answer> 4 </answer>
        Which prediction is correct? Give the final answer in <answer> </answer> tags.              -> <answer> 3 </answer>
    """
    if instruction is None:
        instruction = f"Which prediction is correct? Give the final answer{' in <answer> </answer> tags' if '<answer>' in prompt else ''}."
    shown = "".join(
        f"Model's prediction {k}:\n{quoted(text)}\n" for k, text in enumerate(candidates, 1)
    )
    return f"{prompt}\n{shown}{instruction}"


def quoted(completion):
    """A response as it may stand in a prompt: a policy can spell <|image_pad|> letter by letter, which must not become an image."""
    return completion.replace("<|", "< |")


def asked(example, text):
    """The example with `text` for its question, to be encoded with template "none": pictures, choices and boxes stay, the worked solution does not."""
    return replace(
        example, question=text, solution=None, meta=without(example.meta, "prompt_template")
    )


def render(example, processor, template=DEFAULT_TEMPLATE, system_prompt=None):
    """The prompt as text, by the chat template, images first, one <|image_pad|> for each. UserError if it spells a reserved token."""
    text = wording(example, template)
    for token in processor.special.reserved:
        if token in text:
            raise UserError(
                f"{example.source}: the question contains the reserved token {token}; remove it"
            )
        if token in (system_prompt or ""):
            raise UserError(f"--system-prompt contains the reserved token {token}; remove it")
    if HALF.search(system_prompt or ""):
        raise UserError(
            "the system prompt contains half a character; give another with --system-prompt (the checkpoint's args.json has this one)"
        )
    messages = [
        {
            "role": "user",
            "content": [{"type": "image"}] * len(example.images) + [{"type": "text", "text": text}],
        }
    ]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    return templates.render(processor.tokenizer, messages, len(example.images), example.source)


def must_fit(example, processor, length, pads, room):
    """UserError unless `length` prompt tokens, `pads` of them from images, and `room` more fit the model's context."""
    if length + room > processor.context:
        raise UserError(
            f"{example.source}: the prompt has {length} tokens ({pads} of them from images) and with {room} more for the answer does not fit the model's context of "
            f"{processor.context}; lower --max-pixels or --max-completion-length, or shorten the question"
        )


def check_fit(examples, processor, template, system_prompt, room, targets=False):
    """Every prompt of a file (the first few of a toy task) against the model's context, before any work: its text is tokenised, its images
    measured by their headers. targets: the supervised responses too. Raises UserError as `encode_prompt` and `encode_target` would. Returns the tokens of each prompt."""
    merge, lengths = processor.image_processor.merge_size**2, []
    for example in tqdm(
        head(examples, 16) if isinstance(examples, ToyStream) else examples,
        desc="checking lengths",
        leave=False,
        disable=isinstance(examples, ToyStream) or len(examples) < 500,
    ):
        pads = 0
        for image in example.images:
            width, height = picture_size(image, example.source)
            pads += processor.image_processor.get_number_of_image_patches(height, width) // merge
        words = len(
            processor.tokenizer(
                render(example, processor, template, system_prompt), add_special_tokens=False
            )["input_ids"]
        ) - len(example.images)
        must_fit(example, processor, words + pads, pads, room)
        lengths.append(words + pads)
        if targets:
            encode_target(example, processor, template, room)
    return lengths


def check_pair_fit(pairs, processor, template, system_prompt):
    """Every pair before any work: the prompt with the longer response (end-of-turn token included) against the model's context. A pair that is there
    several times is looked at once. Raises UserError, as for a response that spells a reserved token."""
    once = {id(pair): pair for pair in pairs}.values()
    for pair in tqdm(once, desc="checking lengths", leave=False, disable=len(once) < 500):
        room = max(
            len(
                encode_response(
                    getattr(pair, name),
                    processor,
                    pair.example.source,
                    math.inf,
                    f"{name} response",
                )
            )
            for name in ("chosen", "rejected")
        )
        check_fit([pair.example], processor, template, system_prompt, room)


def check_golds(examples, check):
    """check(answer, choices, meta) on every example of a file; what it objects to becomes a UserError naming file and line."""
    for example in () if isinstance(examples, ToyStream) else examples:
        try:
            check(example.answer, example.choices, example.meta)
        except ValueError as error:
            raise UserError(cut(f"{example.source}: {error}")) from None


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
        pictures = []
        for image in example.images:  # no two of them in memory
            opened = [open_image(image, example.source)]
            pictures.append(processor.image_processor(images=opened, return_tensors="pt"))
        pixel_values = torch.cat([picture["pixel_values"] for picture in pictures])
        grid = torch.cat([picture["image_grid_thw"] for picture in pictures])
        counts = (grid.prod(-1) // processor.image_processor.merge_size**2).tolist()
        parts = rendered.split(special.image)
        rendered = parts[0] + "".join(
            special.image * n + part for n, part in zip(counts, parts[1:])
        )
    ids = torch.tensor(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"])
    must_fit(example, processor, len(ids), sum(counts), room)
    is_image = ids == special.image_id
    positions, following = rope_positions(
        is_image,
        [] if grid is None else (grid[:, 1:] // processor.image_processor.merge_size).tolist(),
    )
    return Prompt(ids, positions, following, is_image.nonzero()[:, 0], pixel_values, grid, rendered)


def continued(prompt, text, processor):
    """The Prompt with the beginning of a response after it, for the policy to go on from there: its ids, and their positions one after the other."""
    ids = torch.tensor(
        processor.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long
    )
    after = (prompt.following + torch.arange(len(ids))).expand(3, -1)
    return replace(
        prompt,
        ids=torch.cat([prompt.ids, ids]),
        positions=torch.cat([prompt.positions, after], 1),
        following=prompt.following + len(ids),
        text=prompt.text + text,
    )


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
            pieces.append(
                torch.stack(
                    [torch.zeros(rows * columns, dtype=torch.long), row.flatten(), column.flatten()]
                )
                + now
            )
            at, now = at + rows * columns, now + max(rows, columns)
        else:
            end = at
            while end < len(flags) and not flags[end]:
                end += 1
            pieces.append(torch.arange(now, now + end - at).expand(3, -1))
            at, now = end, now + end - at
    return torch.cat(pieces, 1), now


def target_text(example, template):
    """What the supervised stage imitates: the worked solution where there is one, else the answer (boxes as the model writes them), in tags if the
    prompt asks for them: the template, or the question itself, as Visual-RFT's do."""
    if example.solution:
        return example.solution.strip()
    answer = (
        answer_text(example, example.meta["boxes"]) if "boxes" in example.meta else example.answer
    )
    return f"<answer> {answer} </answer>" if "<answer>" in wording(example, template) else answer


def encode_target(example, processor, template, max_length):
    """(T,) ids of the target text and the end-of-turn token. UserError if it is longer than max_length or spells a reserved token."""
    return encode_response(
        target_text(example, template), processor, example.source, max_length, "solution"
    )


def encode_response(text, processor, where, max_length, name="response"):
    """(T,) ids of a response and the end-of-turn token. UserError, which says where and by which name, if it is longer than max_length or spells a reserved token."""
    for token in processor.special.reserved:
        if token in text:
            raise UserError(f"{where}: the {name} contains the reserved token {token}; remove it")
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"] + [
        processor.special.eos_ids[0]
    ]
    if len(ids) > max_length:
        raise UserError(
            f"{where}: the {name} has {len(ids)} tokens, more than --max-completion-length {max_length}; raise it or shorten the {name}"
        )
    return torch.tensor(ids)


# -------------------------------------------------------------------------------------------------------------- collate


def pad_targets(rows, pad_id):
    """List of (T_b,) ids -> targets (B, T) right-padded, mask (B, T) float: 1 for the first T_b, the end-of-turn token among them."""
    lengths = torch.tensor([len(row) for row in rows])
    targets = torch.full((len(rows), int(lengths.max())), pad_id)
    for b, row in enumerate(rows):
        targets[b, : len(row)] = row
    return targets, (torch.arange(targets.shape[1]) < lengths[:, None]).float()


def collate(prompts, targets, mask, counts=None, device="cpu", packed=True):
    """N prompts and B responses as one batch for the model: packed if it is one prompt with two responses or more, else padded on the right.

    prompts: list of N Prompt; targets, mask: (B, T) from pad_targets or a rollout; counts: how many consecutive rows belong to each
    prompt (default: B / N each). packed=False: padded in any case, which is the test's reference.
    Returns a dict of tensors on `device`: input_ids (rows, S); positions (3, rows, S); targets, mask (B, T); predicts (B, T), the index in S of
    the state that predicts each target (the one before it: the only shift in this project); pixel_values, grid: each prompt's once, or
    features, where model.cache_features has been; image_to, image_from (.,): flat index in (rows*S) of each image token, and which feature
    row goes there. rows: B if padded. If packed 1, and there are to_rows, from_rows: see `pack`.
    """
    B = len(targets)
    counts = counts or [B // len(prompts)] * len(prompts)
    assert sum(counts) == B and len(counts) == len(prompts), (
        f"{counts} rows of {len(prompts)} prompts, but {B} responses"
    )
    lengths = mask.sum(1).long()  # (B,)
    batch = (
        pack(prompts[0], targets, lengths)
        if packed and len(prompts) == 1 and B > 1
        else pad(prompts, targets, lengths, counts)
    )
    batch |= {"targets": targets, "mask": mask, "pixel_values": None, "grid": None}
    pictured = [p for p in prompts if p.pixel_values is not None]
    if pictured and all(p.features is not None for p in pictured):
        batch["features"] = torch.cat([p.features for p in pictured])
    elif pictured:
        batch |= {
            "pixel_values": torch.cat([p.pixel_values for p in pictured]),
            "grid": torch.cat([p.grid for p in pictured]),
        }
    return {name: value if value is None else value.to(device) for name, value in batch.items()}


def pad(prompts, targets, lengths, counts):
    """Rows [its prompt | its response | padding]. Nothing needs an attention mask: attention is causal and padding comes last."""
    B, T = targets.shape
    lengths = lengths.tolist()
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
            input_ids[b, P : P + lengths[b]] = targets[b, : lengths[b]]
            positions[:, b, :P] = prompt.positions
            positions[:, b, P : P + T] = prompt.following + torch.arange(T)
            predicts[b] = P - 1 + torch.arange(T)
            image_to.append(prompt.image_at + b * S)
            image_from.append(features)
        row += count
    return {
        "input_ids": input_ids,
        "positions": positions,
        "predicts": predicts,
        "image_to": torch.cat(image_to),
        "image_from": torch.cat(image_from),
    }


def pack(prompt, targets, lengths):
    """[prompt | r1 | r2 | ... | rB] in one row without padding: S = P + sum(lengths). Each response's positions start again after the prompt, and
    its first token is predicted by the prompt's last, which they share.

    The attention (model.packed_attention) takes the responses apart again. to_rows (B, L), L the longest one's length (at least 1): the index in S of
    each of their tokens, 0 where there is none. from_rows (sum(lengths),): the flat index in (B*L) of each response token.
    Lengths 2 and 1 after a prompt of 3 tokens: predicts [[2, 3], [2, .]], to_rows [[3, 4], [5, 0]], from_rows [0, 1, 2].
    """
    (B, T), P, longest = targets.shape, len(prompt.ids), max(1, int(lengths.max()))
    t = torch.arange(T)
    held = t < lengths[:, None]  # (B, T)
    index = (P + lengths.cumsum(0) - lengths)[:, None] + t  # (B, T), in S
    predicts = (index - 1).masked_fill(~held, 0)
    predicts[:, :1] = P - 1
    positions = (prompt.following + t).expand(B, T)[held]  # (sum(lengths),)
    return {
        "input_ids": torch.cat([prompt.ids, targets[held]])[None],
        "positions": torch.cat([prompt.positions, positions.expand(3, -1)], 1)[:, None],
        "predicts": predicts,
        "image_to": prompt.image_at,
        "image_from": torch.arange(len(prompt.image_at)),
        "to_rows": index[:, :longest].masked_fill(~held[:, :longest], 0),
        "from_rows": (torch.arange(B)[:, None] * longest + t)[held],
    }


def micro_batches(rows, size, counts):
    """Cuts B rows in groups of `counts` into pieces of at most `size` rows: yields (first row, end row, first prompt, end prompt, counts
    of the piece). A group of two rows or more makes pieces of its own, as even as can be (8 rows, size 5: 4 and 4), so that `collate` can
    pack them; its prompt is encoded once a piece. Groups of one row share a piece."""
    first = start = 0
    while start < rows:
        last = first + 1
        if not counts[first]:  # a prompt without responses
            first = last
            continue
        while (
            counts[first] == 1 and last < len(counts) and counts[last] == 1 and last - first < size
        ):
            last += 1
        cuts = even_cuts(sum(counts[first:last]), size)
        for a, b in zip(cuts, cuts[1:]):
            yield (
                start + a,
                start + b,
                first,
                last,
                [b - a] if last == first + 1 else counts[first:last],
            )
        first, start = last, start + cuts[-1]


def even_cuts(total, most):
    """[0, ..., total]: the ends of as few pieces as possible of at most `most`, of about the same size."""
    pieces = math.ceil(total / most)
    return [total * i // pieces for i in range(pieces + 1)]
