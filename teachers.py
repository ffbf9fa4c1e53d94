"""Teachers, who answer in the student's place: a checkpoint here, or a server elsewhere.

    a checkpoint of a family in docs/families.md   our own rollout, batched; it sees pictures
    a language model that reads text only          stock transformers
    http://..., https://...                        any server of the OpenAI protocol (served.py)

All are asked alike: `teacher.ask(asks, seeds)` yields (ask, Reply or Failure) as they come. Try an
address, a key or a checkpoint before a long run:

    python teachers.py --teacher http://localhost:8000/v1 --ask "How many?" --image picture.png
"""

from plumbing import stopping

if __name__ == "__main__":
    stopping.watch()  # before torch is imported, which takes seconds: Ctrl-C may come there too

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import torch
from tqdm import tqdm

import data
import families
import model
import rollout
import served
from plumbing import fields, flags, loaded, loading, running, teacher_flags, templates
from plumbing.device import dtype_name, pick_device, pick_dtype
from plumbing.errors import UserError
from plumbing.find_model import fetch, looks_local
from plumbing.spending import Limits, Price, Spending
from plumbing.teacher_flags import add_teacher_flags, is_address
from plumbing.text import short
from tasks.asks import Ask, Failure, Reply, pictures_of, text_of, to_example

# --- the interface ---


class Teacher(Protocol):
    """Who answers. name: the model's, for the provenance of what it says."""

    name: str

    def ask(
        self, asks: Sequence[Ask], seeds: Sequence[int]
    ) -> Iterator[tuple[Ask, Reply | Failure]]:
        """Yield an answer to every ask, once, in any order. seeds: one for each ask.

        Told to stop (stopping.Stop), yields what it has, and no more.
        """
        ...


# --- a checkpoint of ours ---


class LocalTeacher:
    """A vision-language checkpoint, through our rollout.

    loaded: the flags that it was loaded by, for provenance.
    What an ask is answered depends on its seed, not on the other asks. Batches begin at the first
    ask: what goes on at a multiple of batch_size computes the same to the last bit.
    """

    def __init__(
        self,
        name: str,
        policy: torch.nn.Module,
        processor: object,
        sampling: rollout.Sampling,
        batch_size: int = 16,
        num_workers: int = 0,
        loaded: dict | None = None,
    ) -> None:
        self.name, self.policy, self.processor = name, policy, processor
        self.loaded = loaded or {}
        self.sampling, self.batch_size, self.num_workers = sampling, batch_size, num_workers

    def ask(
        self, asks: Sequence[Ask], seeds: Sequence[int]
    ) -> Iterator[tuple[Ask, Reply | Failure]]:
        """Ask batch by batch; yields the answers in order."""
        steps = batches_of(asks, self.batch_size)
        with loading.loading(self.encode, asks, steps, self.num_workers) as encoded:
            for step in progress(self, asks, steps):
                prompts = next(encoded)
                places = [i for i, prompt in zip(step, prompts) if not isinstance(prompt, Failure)]
                answers = dict(zip(step, prompts))
                answers |= self.answer(places, [answers[i] for i in places], seeds)
                for i in step:
                    yield asks[i], answers[i]
                if stopping.requested():
                    return

    def encode(self, ask: Ask) -> data.Prompt | Failure:
        """Encode an ask; a Failure for what does not fit, or a picture that cannot be opened."""
        asker = data.Asker(self.processor, template="none")
        try:
            prompt = asker.prompt(to_example(ask), self.sampling.max_tokens)
            if ask.prefix:
                prompt = data.append_response(prompt, ask.prefix, self.processor)
                most = self.processor.context - self.sampling.max_tokens
                if len(prompt.ids) > most:
                    return Failure(f"with its prefix it has more than {most} tokens")
        except UserError as error:
            return Failure(short(error))
        return prompt

    def answer(
        self, places: list[int], prompts: list[data.Prompt], seeds: Sequence[int]
    ) -> dict[int, Reply | Failure]:
        """Sample one answer to each prompt: {place: answer}."""
        if not prompts:
            return {}
        numbers = [seeds[i] for i in places]
        roll = rollout.rollout(
            self.policy, prompts, self.processor.special, 1, self.sampling, numbers=numbers
        )
        texts = [self.processor.decode(ids[:n]) for ids, n in zip(roll.targets, roll.lengths)]
        return replies(places, texts, [len(prompt.ids) for prompt in prompts], roll)


# --- a language model that reads text only ---


class Draws:
    """A logits processor that leaves one token a row: what rollout.sample draws."""

    def __init__(self, uniforms: torch.Tensor, start: int, sampling: rollout.Sampling) -> None:
        self.uniforms, self.start, self.sampling = uniforms, start, sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        t = input_ids.shape[1] - self.start
        tokens, _ = rollout.sample(scores, self.uniforms[:, t], self.sampling)  # (B,)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None].to(scores.device), 0)


class TextTeacher:
    """A causal language model of any kind that transformers knows, through its `generate`.

    It draws by our own numbers: an answer depends on its seed, as LocalTeacher's.
    """

    def __init__(
        self,
        name: str,
        policy: torch.nn.Module,
        tokenizer: object,
        sampling: rollout.Sampling,
        batch_size: int = 16,
        loaded: dict | None = None,
    ) -> None:
        from transformers import GenerationConfig

        self.loaded = loaded or {}
        self.name, self.policy, self.tokenizer = name, policy, tokenizer
        self.sampling, self.batch_size = sampling, batch_size
        ends = policy.generation_config.eos_token_id or tokenizer.eos_token_id
        self.eos_ids = ends if isinstance(ends, list) else [ends]
        pad = tokenizer.pad_token_id
        self.pad_id = self.eos_ids[0] if pad is None else pad
        # Its own sampling rules would be applied before ours.
        policy.generation_config = GenerationConfig(
            eos_token_id=self.eos_ids, pad_token_id=self.pad_id, do_sample=False
        )
        self.context = getattr(policy.config, "max_position_embeddings", None) or 32768

    def ask(
        self, asks: Sequence[Ask], seeds: Sequence[int]
    ) -> Iterator[tuple[Ask, Reply | Failure]]:
        """Ask batch by batch; yields the answers in order. UserError for an ask with a picture."""
        for ask in asks:
            if pictures_of(ask):
                raise UserError(
                    f"{self.name} reads text only, and {ask.id} has a picture; name a "
                    "vision-language model"
                )
        steps = batches_of(asks, self.batch_size)
        for step in progress(self, asks, steps):
            rows = [self.encode(asks[i]) for i in step]
            most = self.context - self.sampling.max_tokens
            answers = {
                i: Failure(f"its prompt has {len(ids)} tokens, more than {most}")
                for i, ids in zip(step, rows)
            }
            places = [i for i, ids in zip(step, rows) if len(ids) <= most]
            answers |= self.answer(places, [ids for ids in rows if len(ids) <= most], seeds)
            for i in step:
                yield asks[i], answers[i]
            if stopping.requested():
                return

    def encode(self, ask: Ask) -> list[int]:
        """Encode an ask by the chat template."""
        turns = [{"role": turn["role"], "content": text_of(turn)} for turn in ask.messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text + ask.prefix, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def answer(
        self, places: list[int], rows: list[list[int]], seeds: Sequence[int]
    ) -> dict[int, Reply | Failure]:
        """Sample one answer to each row of ids: {place: answer}."""
        if not rows:
            return {}
        width, T = max(map(len, rows)), self.sampling.max_tokens
        ids = [[self.pad_id] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        numbers = [seeds[i] for i in places]
        draws = []
        if self.sampling.temperature:
            draws.append(Draws(rollout.row_uniforms(0, numbers, T), width, self.sampling))
        out = self.policy.generate(
            input_ids=torch.tensor(ids, device=self.policy.device),
            attention_mask=torch.tensor(mask, device=self.policy.device),
            max_new_tokens=T,
            logits_processor=draws,
        )
        targets = out[:, width:].cpu()
        ends = SimpleNamespace(eos_ids=self.eos_ids)
        roll = rollout.finish_rollout(targets, torch.zeros(targets.shape), ends)
        stopped = roll.finished().int().tolist()
        texts = [
            self.tokenizer.decode(
                row[: n - end], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for row, n, end in zip(roll.targets, roll.lengths.tolist(), stopped)
        ]
        return replies(places, texts, [len(row) for row in rows], roll)


def is_text_model(directory: Path) -> bool:
    """Tell whether a checkpoint is a causal language model, and none of our families."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    file = directory / "config.json"
    if not file.is_file() or (directory / "adapter_config.json").is_file():
        return False
    kind = fields.read_object(file).get("model_type")
    return isinstance(kind, str) and kind in CAUSAL and kind not in families.FAMILIES


def load_text_model(
    directory: Path, dtype: torch.dtype, device: torch.device, quant: str | None
) -> tuple:
    """Load (model, tokenizer) of a causal language model. UserError if that fails."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model.silence_transformers()
    options = {"dtype": dtype, "trust_remote_code": False, "output_loading_info": True}
    if quant == "nf4":
        options["device_map"] = {"": device}
        options["quantization_config"] = model.four_bit_config(["lm_head"], dtype)
    what = f"{directory} cannot be loaded as a language model"
    with loaded.refusing(what, "fetch or save the checkpoint again"):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        policy, report = AutoModelForCausalLM.from_pretrained(directory, **options)
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:2])
        raise UserError(f"{directory} lacks the weights {some}; fetch the checkpoint again")
    if not tokenizer.chat_template:
        raise UserError(
            f"{directory} has no chat template: it was not trained to answer; name a model that was"
        )
    templates.check_conversation(tokenizer, str(directory))
    return (policy if quant == "nf4" else policy.to(device)).eval(), tokenizer


# --- what both have ---


def batches_of(asks: Sequence, size: int) -> list[range]:
    """Cut the asks into batches, by their places."""
    return [range(i, min(i + size, len(asks))) for i in range(0, len(asks), size)]


def progress(teacher: Teacher, asks: Sequence, steps: list[range]) -> Iterator[range]:
    """Go through the batches with a progress bar of asks."""
    title, few = f"ask {short(teacher.name, 30)}", len(asks) < 2
    with tqdm(total=len(asks), desc=title, leave=False, disable=few) as bar:
        for step in steps:
            yield step
            bar.update(len(step))


def replies(
    places: list[int], texts: list[str], prompts: list[int], roll: rollout.Rollout
) -> dict[int, Reply | Failure]:
    """Write sampled texts as answers. prompts: their lengths in tokens."""
    answers = {}
    for i, text, prompt, n, end in zip(places, texts, prompts, roll.lengths.tolist(), roll.finish):
        answers[i] = Reply(text, prompt, n, end)
        if not text.strip():
            answers[i] = Failure("empty answer: it said nothing")
    return answers


# --- the command line ---


def make_teacher(
    args: argparse.Namespace, prefix: str = "", like: Teacher | None = None
) -> Teacher:
    """Make the teacher that the flags name, or with the prefix "judge" the judge.

    like: the teacher, for its judge: they share a budget, and the weights of one checkpoint.
    UserError for whatever cannot be loaded or reached.
    """
    who = prefix or "teacher"
    name, model_name, price = (getattr(args, f"{who}{end}") for end in ("", "_model", "_price"))
    if prefix and not name:
        name, model_name, price = args.teacher, args.teacher_model, args.teacher_price
    temperature, top_p = (0.0, 1.0) if prefix else (args.temperature, args.top_p)
    sampling = rollout.Sampling(args.max_completion_length, temperature, top_p)
    if is_address(name):
        return make_served(args, who, name, model_name, price, sampling, like)
    if model_name or price:
        flag = f"--{who}-model" if model_name else f"--{who}-price"
        raise UserError(f"{flag} is for a server, and --{who} {name} is none; leave it out")
    if args.budget is not None and not is_address(getattr(args, "judge", None)) and not prefix:
        raise UserError("--budget is for a server, and there is none to pay; leave it out")
    try:
        return make_local(args, name, sampling, like)
    except UserError as error:
        raise UserError(re.sub(r"^--model\b", f"--{who}", str(error))) from None


def make_served(
    args: argparse.Namespace,
    who: str,
    name: str,
    model_name: str | None,
    price: list[float] | None,
    sampling: rollout.Sampling,
    like: Teacher | None,
) -> served.ServedTeacher:
    """Make a teacher behind an address."""
    if args.budget is not None and not price:
        raise UserError(
            f"--budget needs --{who}-price IN OUT, what a million tokens cost; with 1 1 it counts "
            "millions of tokens"
        )
    limits = Limits(
        args.teacher_concurrency,
        args.max_retries,
        args.request_timeout,
        args.max_requests_per_minute,
        args.max_tokens_per_minute,
    )
    return served.ServedTeacher(
        name,
        model_name,
        sampling,
        Price(*price or ()),
        limits,
        getattr(like, "spending", None) or Spending(args.budget),
        args.max_pixels,
    )


def make_local(
    args: argparse.Namespace, name: str, sampling: rollout.Sampling, like: Teacher | None
) -> LocalTeacher | TextTeacher:
    """Load a checkpoint, or take the weights that `like` has loaded of it."""
    size = args.eval_batch_size
    if isinstance(like, LocalTeacher) and like.name == name:
        workers, loaded = like.num_workers, like.loaded
        return LocalTeacher(name, like.policy, like.processor, sampling, size, workers, loaded)
    if isinstance(like, TextTeacher) and like.name == name:
        return TextTeacher(name, like.policy, like.tokenizer, sampling, size, like.loaded)
    if families.preset(name):
        raise UserError(
            f"--model {name} is the untrained preset, which has nothing to teach; name a trained "
            "checkpoint"
        )
    directory = Path(name)
    if not directory.is_dir() and not looks_local(name):
        directory = fetch(name, weights=False)
    device = pick_device(args.device)
    if is_text_model(directory):
        directory = directory if Path(name).is_dir() else fetch(name)
        dtype = pick_dtype(args.dtype, device)
        policy, tokenizer = load_text_model(directory, dtype, device, args.quant)
        loaded = {"quant": args.quant or "none", "dtype": dtype_name(dtype)}
        return TextTeacher(name, policy, tokenizer, sampling, size, loaded)
    wanted = argparse.Namespace(
        model=name,
        output_dir=getattr(args, "output_dir", None),
        seed=0,
        **{flag: getattr(args, flag) for flag in LOADING},
    )
    decided = model.resolve(wanted)
    wanted = argparse.Namespace(**vars(wanted) | decided)
    policy, processor = model.load_from_args(wanted)
    workers = loading.workers(getattr(args, "num_workers", None), False, device)
    loaded = {name: decided[name] for name in LOADING if name != "device"}
    return LocalTeacher(name, policy, processor, sampling, size, workers, loaded)


LOADING = ("quant", "dtype", "device", "max_pixels", "min_pixels")  # flags that model.py reads


# --- ask one question ---


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = flags.Parser(__doc__, "teachers.py", "teachers.md")
    add_teacher_flags(p)
    g = p.add_argument_group("question")
    g.add_argument("--ask", required=True, help="the question")
    g.add_argument("--image", nargs="*", default=[], help="one or several image files")
    g.add_argument("--seed", type=flags.int_from_0, default=0, help="of the sampling")
    args = p.parse_args(argv)
    teacher_flags.check_flags(p, args, [args.teacher])
    return args


def trial(args: argparse.Namespace) -> None:
    """Ask one question and print the answer, its tokens, time and cost."""
    teacher = make_teacher(args)
    parts = [{"type": "image", "image": path} for path in args.image]
    parts.append({"type": "text", "text": args.ask})
    started = time.monotonic()
    asked = Ask("--ask", [{"role": "user", "content": parts}])
    for _, answer in teacher.ask([asked], [args.seed]):
        if isinstance(answer, Failure):
            raise UserError(f"{teacher.name} gave no answer: {answer.reason}")
        end = "complete" if answer.finish == "stop" else "cut at --max-completion-length"
        facts = [
            f"{teacher.name}: {end}",
            f"{answer.prompt_tokens} tokens of the prompt",
            f"{answer.completion_tokens} of the answer",
            f"{time.monotonic() - started:.1f} s",
        ]
        if args.teacher_price:
            facts.append(f"cost {teacher.spending.spent:.6f}")
        print(f"{answer.text}\n({', '.join(facts)})")


main = trial

if __name__ == "__main__":
    running.run(main, parse_args)
