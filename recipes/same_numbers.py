"""Compare what two checkouts wrote, to the last bit. recipes/same_numbers.sh runs the commands.

    python recipes/same_numbers.py inputs DIR OLD
    python recipes/same_numbers.py compare OLD_TREE NEW_TREE

`inputs` writes the data files that the commands read; of the checkout it takes its answer pairs.
`compare` finds a line for each difference: file, key, both values. Exit code 1 if there is any.
All lines stand in differences.txt beside NEW_TREE; the first of each file are printed.
What may differ stands in the tables below, each entry with its reason.
"""

import argparse
import collections
import json
import re
import sys
from pathlib import Path

# --- what may differ ---

# Keys of any JSON record: times, and checksums that cover times or the run's own flags.
TIMES = {
    "step_time",
    "data_time",
    "rollout_time",
    "reward_time",
    "resample_time",
    "tokens_per_second",
}
CHECKSUMS = {"crc32", "model_files"}
# Keys of args.json: which code ran, where, and as what.
OF_A_START = {"argv", "cwd", "commit", "versions", "run"}

# (regex, replacement) for keys. Both trees get them, so that a rename may have happened or not.
KEYS = [
    (r"^eval/(?:.*/)?([^/]+)\.jsonl?/", r"eval/\1/"),  # the file's name, without its path
]
# (regex, replacement) for paths of files in a tree.
FILES = [(r"/eval_(\d+)_(\w+)\.jsonl_", r"/eval_\1_\2_")]
# (regex, replacement) for texts that are printed.
TEXTS = [
    (r"[\d.]+ [kMGT]?B are free", "... are free"),
    (r"\S*?([^/\s]+)\.jsonl?/(?=\w)", r"\1/"),  # as in KEYS
    (r"\.\./inputs/(\w+)\.jsonl(?=: accuracy| \()", r"\1"),
    (r"[ \t]+", " "),  # columns are as wide as names
]
# (regex for "FILE KEY", issue): differences that an issue asked for. They are counted, not failed.
ASKED = [
    (r"result\.json data$", "14: a data set has a short name"),
    (r"args\.json (pairs|image_folder)$", "14: given pairs have a script of their own"),
    (r"^(dpo|mpo)_given/.*args\.json ", "14: train_dpo.py has no flags of samples"),
    (r"^export_(full|lora)\.out number of lines", "14: export's comparison is a test"),
    (r"args\.json (num_workers|skip_bad_records)$", "15: two new flags"),
    (r"^refused_data\.error line 1$", "15: a record without an answer may be learned from"),
]

PRINTED = 8  # lines of a file
PICTURES = {".png", ".jpg"}
WHOLE = {"tokenizer.json", "vocab.json"}  # compared as bytes: thousands of numbers that say nothing


# --- inputs ---

COLORS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200)}


def draw_circles(number: int, color: str, path: Path):
    """Draw circles on a grey picture of the size that the tiny model knows."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (112, 112), (118, 118, 118))
    draw = ImageDraw.Draw(image)
    for i in range(number):
        x, y = 28 * (i * 5 % 4) + 4, 28 * (i * 3 % 4) + 4
        draw.ellipse((x, y, x + 20, y + 20), fill=COLORS[color])
    image.save(path)


def count_records(folder: Path) -> list[dict]:
    """Make R1-V records with worked answers, and their pictures."""
    records = []
    for i in range(16):
        number, color = 1 + i % 4, list(COLORS)[i % 3]
        draw_circles(number, color, folder / f"count{i}.png")
        seen = ", ".join(f"{color} circle ({n})" for n in range(1, number + 1))
        solution = f"<think> I see {seen}. </think><answer> {number} </answer>"
        problem = f"How many {color} objects are there?"
        records.append({"image": f"count{i}.png", "problem": problem, "solution": solution})
    return records


def pair_records() -> list[dict]:
    """Make MMPR records about the same pictures: of one, of two, and of none."""
    records = []
    for i in range(8):
        right, wrong = 1 + i % 4, 1 + (i + 1) % 4
        record = {"image": f"count{i}.png", "question": "<image>\nHow many circles?"}
        record |= {"chosen": f"I see {right}. Final answer: {right}", "answer_gt": str(right)}
        records.append(record | {"rejected": f"Final answer: {wrong}"})
    two = {"image": ["count0.png", "count1.png"], "question": "<image>\n<image>\nThe same?"}
    records.append(two | {"chosen": "They differ. Final answer: no", "rejected": "yes"})
    texts = {"chosen": "Final answer: 3", "rejected": "Final answer: 2, or perhaps more"}
    records.append({"question": "What is 2 + 1?"} | texts)
    return records


def chartqa_records() -> list[dict]:
    """Make saved outputs with the answers on which relaxed accuracies differ."""
    said = ["14.5", "14.5.", "$14.5$", "14.6 percent", "£14.5", "15.4", "1.4e1", r"\boxed{14.5}"]
    texts = [f"Solution:\n1. I read the bar.\nAnswer: {text}" for text in said]
    records = [{"prediction": text, "answer": "14.6"} for text in texts]
    words = [("Answer: Yes", "Yes"), ("Answer: no, it is not", "No"), ("I do not know", "Yes")]
    years = [("Answer: 2014", "2013"), ("Answer: [China, Peru]", "[Peru, China]")]
    return records + [{"prediction": text, "answer": gold} for text, gold in words + years]


def tabmwp_records() -> list[dict]:
    """Make saved outputs of free-text and of multiple-choice questions."""
    free = [("5.2", "5.20", "$"), ("$5.20", "5.20", "$"), ("1,735", "1735", None)]
    free += [
        ("3/4", "0.75", None),
        ("12 marbles", "12", "marbles"),
        ("6:30 P.M.", "6:30 P.M.", None),
    ]
    records = []
    for said, gold, unit in free:
        records.append({"prediction": f"Answer: {said}", "answer": gold, "unit": unit})
    for said in ("Answer: B", "Answer: nonlinear", "Answer: linear", "neither", "Answer: (b)."):
        choices = ["linear", "nonlinear"]
        records.append({"prediction": said, "answer": "nonlinear", "choices": choices})
    return records


def rec_records() -> list[dict]:
    """Make saved boxes, in thousandths and in pixels of a resized picture."""
    boxes = [[[50, 100, 100, 200]], [[50, 100, 100, 151]], [[50, 100, 100, 150]]]
    boxes += [[[0, 0, 9, 9], [50, 100, 100, 200]], []]
    records = []
    for found in boxes:
        objects = [{"bbox_2d": box, "label": "man"} for box in found]
        text = f"<think> There. </think><answer>{json.dumps(objects)}</answer>"
        sizes = {"size": [1000, 500], "resized": [500, 500], "box_format": "resized"}
        records.append({"prediction": text, "answer": [100, 100, 200, 200]} | sizes)
    thousandths = {"answer": [200, 50, 400, 100], "width": 2000, "height": 500}
    for text in ("<answer>[100, 100, 200, 200]</answer>", "[100, 100, 200, 200]", "It is there."):
        records.append({"prediction": text} | thousandths)
    return records


def cvbench_records() -> list[dict]:
    """Make saved choices from the three sources of CV-Bench."""
    said = ["<answer>B</answer>", "<answer>(B)</answer>", "<answer>the dog</answer>", "It is B"]
    said += ["<answer>B. the dog</answer>", "<answer>A</answer>", "<answer>a bird</answer>"]
    records = []
    for i, text in enumerate(said * 3):
        source = ("ADE20K", "COCO", "Omni3D")[i % 3]
        record = {"prediction": text, "answer": "(B)", "choices": ["cat", "the dog"]}
        records.append(record | {"source": source, "task": "Depth" if i % 3 == 2 else "Count"})
    return records


def geoqa_records(checkout: Path) -> list[dict]:
    """Take pairs of answers that the checkout's tests have: what the grader must tell apart."""
    [file] = checkout.rglob("answer_golden.jsonl")
    pairs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    records = []
    for pair in pairs:
        text = f"<think> ... </think><answer>{pair['prediction']}</answer>"
        records.append({"prediction": text, "answer": pair["gold"], "task": pair["kind"]})
    return records


def write_inputs(folder: Path, checkout: Path):
    """Write every file that the commands read."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_circles(3, "red", folder / "picture.png")
    files = {"count": count_records(folder), "pairs": pair_records()}
    files |= {"chartqa": chartqa_records(), "tabmwp": tabmwp_records(), "rec": rec_records()}
    files |= {"cvbench": cvbench_records(), "geoqa": geoqa_records(checkout)}
    files["broken"] = [{"question": "How many?"}, {"picture": "a.png"}]
    for name, records in files.items():
        lines = [json.dumps(record) + "\n" for record in records]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


# --- comparing ---


class Comparison:
    """What was found equal and what not, over all files of two trees."""

    def __init__(self, places: dict[str, str]):
        """places: path -> the name that both trees have for it."""
        self.places = places
        self.counts = collections.Counter()
        self.differences: dict[str, list[str]] = collections.defaultdict(list)

    def differ(self, file: str, key: str, old, new):
        """Note a difference, or that an issue asked for it."""
        for pattern, _ in ASKED:
            if re.search(pattern, f"{file} {key}"):
                self.counts["asked"] += 1
                return
        self.differences[file].append(f"{file}  {key}: {shown(old)} -> {shown(new)}")

    def values(self, file: str, key: str, old, new):
        """Compare two values of JSON or of state.pt, down to their leaves."""
        if isinstance(old, dict) and isinstance(new, dict):
            old, new = kept(old, file), kept(new, file)
            for name in [*old, *(name for name in new if name not in old)]:
                inside = f"{key}/{name}" if key else str(name)
                self.values(file, inside, old.get(name, ABSENT), new.get(name, ABSENT))
        elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
            if len(old) != len(new):
                self.differ(file, f"{key} (length)", len(old), len(new))
            for i, (a, b) in enumerate(zip(old, new)):
                self.values(file, f"{key}[{i}]", a, b)
        elif type(old) is not type(new):
            self.differ(file, key, old, new)
        elif hasattr(old, "untyped_storage"):
            self.tensors(file, key, old, new)
        elif isinstance(old, str):
            self.texts(file, key, old, new)
        elif repr(old) != repr(new):  # repr: all digits of a float, and nan is nan
            self.differ(file, key, old, new)
        elif isinstance(old, (int, float)):
            self.counts["numbers"] += 1

    def texts(self, file: str, key: str, old: str, new: str):
        """Compare two texts; paths into trees and checkouts have one name."""
        for path, name in self.places.items():
            old, new = old.replace(path, name), new.replace(path, name)
        if old != new:
            self.differ(file, key, old, new)
        else:
            self.counts["texts"] += 1

    def tensors(self, file: str, key: str, old, new):
        """Compare two tensors by their bytes."""
        import torch

        if old.shape != new.shape or old.dtype != new.dtype:
            form = [f"{tuple(one.shape)} {one.dtype}" for one in (old, new)]
            self.differ(file, f"{key} (form)", *form)
            return
        a = old.contiguous().flatten().view(torch.uint8)
        b = new.contiguous().flatten().view(torch.uint8)
        if not torch.equal(a, b):
            unequal = old != new
            first = int(unequal.flatten().int().argmax())
            where = f"{key} ({int(unequal.sum())} of {old.numel()} unequal, first at {first})"
            self.differ(file, where, old.flatten()[first].item(), new.flatten()[first].item())
        else:
            self.counts["numbers"] += old.numel()

    def file(self, name: str, old: Path, new: Path):
        """Compare two files by what they are."""
        self.counts["files"] += 1
        kind = old.suffix
        if kind in PICTURES:
            self.counts["pictures"] += 1
            self.counts["pictures of equal bytes"] += old.read_bytes() == new.read_bytes()
        elif kind == ".safetensors":
            self.values(name, "", weights_of(old), weights_of(new))
        elif kind == ".pt":
            self.values(name, "", state_of(old), state_of(new))
        elif kind == ".json" and old.name not in WHOLE:
            self.values(name, "", json.loads(old.read_text()), json.loads(new.read_text()))
        elif kind == ".jsonl":
            self.lines(name, json_lines(old), json_lines(new), "line")
        elif old.name == "SHA256SUMS":
            self.values(name, "names", names_in(old), names_in(new))
        elif kind in (".out", ".error"):
            self.lines(name, printed(old), printed(new), "line")
        else:
            self.lines(name, old.read_text().split("\n"), new.read_text().split("\n"), "line")

    def lines(self, file: str, old: list, new: list, word: str):
        """Compare lines one by one."""
        if len(old) != len(new):
            self.differ(file, f"number of {word}s", len(old), len(new))
        for number, (a, b) in enumerate(zip(old, new), 1):
            self.values(file, f"{word} {number}", a, b)


class Absent:
    """What a key has in the tree that lacks it."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


def shown(value) -> str:
    """Write a value in at most about 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:150]} ... {text[-40:]}"


def replaced(text: str, table: list[tuple[str, str]]) -> str:
    """Apply a table of replacements."""
    for pattern, replacement in table:
        text = re.sub(pattern, replacement, text)
    return text


def kept(record: dict, file: str) -> dict:
    """Take the keys that must be equal, under their common names."""
    ignored = TIMES | CHECKSUMS
    if Path(file).name == "args.json":
        ignored |= OF_A_START
    found = {}
    for key, value in record.items():
        if key not in ignored:
            found[replaced(key, KEYS) if isinstance(key, str) else key] = value
    return found


def json_lines(path: Path) -> list:
    """Read a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def printed(path: Path) -> list[str]:
    """Read what a command printed, with times and column widths masked."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [replaced(line, TEXTS).strip() for line in text.splitlines()]


def names_in(sums: Path) -> list[str]:
    """List the files that a SHA256SUMS names. Their contents are compared themselves."""
    return sorted(line.split(maxsplit=1)[1] for line in sums.read_text().splitlines())


def weights_of(path: Path) -> dict:
    """Read the tensors of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(path)


def state_of(path: Path) -> dict:
    """Read a checkpoint's state.pt."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def files_of(tree: Path, only: str) -> dict[str, Path]:
    """List a tree's files by their common names. ValueError if two get the same."""
    found = {}
    for path in sorted(tree.rglob("*")):
        inside = path.relative_to(tree)
        command = inside.parts[0].split(".")[0]
        if not path.is_file() or inside.parts[0].startswith(".") or not re.search(only, command):
            continue
        name = replaced(str(inside), FILES)
        if name in found:
            raise ValueError(f"{path} and {found[name]} are both {name}: mend FILES")
        found[name] = path
    return found


def compare(args: argparse.Namespace) -> int:
    """Compare two trees and print what differs. Returns the exit code."""
    old, new = files_of(args.old, args.only), files_of(args.new, args.only)
    places = {(tree / ".place").read_text().strip(): "TREE" for tree in (args.old, args.new)}
    found = Comparison(places | dict.fromkeys(args.checkouts, "CHECKOUT"))
    for name in sorted(old.keys() | new.keys()):
        if name in old and name in new:
            try:
                found.file(name, old[name], new[name])
            except (ValueError, RuntimeError) as error:
                found.differ(name, "unreadable", "", f"{type(error).__name__}: {error}")
        else:
            here = ["there" if name in tree else "not there" for tree in (old, new)]
            found.differ(name, "file", *here)
    everything = [line for lines in found.differences.values() for line in lines]
    report = args.new.parent / "differences.txt"
    report.write_text("".join(f"{line}\n" for line in everything), encoding="utf-8")
    for file, lines in found.differences.items():
        print("\n".join(lines[:PRINTED]))
        if len(lines) > PRINTED:
            print(f"{file}  and {len(lines) - PRINTED} more: {report}")
    count = found.counts
    print(
        f"{count['files']} files, {count['numbers']} numbers, {count['texts']} texts equal; "
        f"{count['pictures']} pictures in both, {count['pictures of equal bytes']} of equal bytes; "
        f"{count['asked']} differences that an issue asked for; "
        f"{len(everything)} other differences"
    )
    if not count["files"]:
        print("nothing was compared")
    return int(bool(everything) or not count["files"])


def parse_args(argv=None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = p.add_subparsers(dest="command", required=True)
    one = commands.add_parser("inputs")
    one.add_argument("folder", type=Path)
    one.add_argument("checkout", type=Path)
    one = commands.add_parser("compare")
    one.add_argument("old", type=Path)
    one.add_argument("new", type=Path)
    one.add_argument("--only", default=".", help="regex for names of commands")
    one.add_argument("--checkouts", nargs="*", default=[], help="their paths, which texts may name")
    return p.parse_args(argv)


def main() -> int:
    args = parse_args()
    if args.command == "inputs":
        write_inputs(args.folder, args.checkout)
        return 0
    return compare(args)


if __name__ == "__main__":
    sys.exit(main())
