"""Run: python tests/shard_memory.py 1024 8 2 4

Peak memory of each process in two steps of full fine-tuning, without and with --shard, of a random
Qwen2-VL of that size, on a CPU.
"""

import argparse
import copy
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from test_ranks import in_processes

import batching
import data
import families
import logps
import losses
import model
import tasks
import update
from plumbing import ranks
from processor import tiny_processor


def random_model(width, layers):
    """Make a Qwen2-VL with the tiny one's tower and words: (policy, processor)."""
    family = families.preset("tiny")
    small, tokenizer, images = families.tiny(0, family)
    config = copy.deepcopy(small.config)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 4 * width, layers
    text.num_attention_heads, text.num_key_value_heads = width // 64, width // 128
    text.layer_types = text.layer_types[:1] * layers
    text.rope_parameters = text.rope_parameters | {"mrope_section": [8, 12, 12]}
    config.vision_config.hidden_size = width
    policy = family.model_class()(config).float()
    policy.family = family
    model.prepare(policy, torch.float32)
    return policy, tiny_processor(family, tokenizer, images)


def held(name):
    """Read a line of this process's status, in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def work(_rank, width, layers, is_split):
    """Print what a process holds."""
    signal.alarm(0)
    torch.set_num_threads(1)
    with ranks.together(argparse.Namespace(device="cpu"), True):
        policy, processor = random_model(width, layers)
        if is_split:
            ranks.shard(policy)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        loaded = held("VmRSS")
        [question] = data.head(tasks.read("count:test"), 1)
        targets, mask = batching.pad_targets([torch.arange(10, 30)], processor.special.pad_id)
        batch = batching.collate([data.Asker(processor).prompt(question)], targets, mask)
        trained = list(policy.parameters())
        optimizer = update.make_optimizer("adamw", trained, 1e-3)
        optimizer.register_step_post_hook(ranks.gather)
        for step in (1, 2):
            optimizer.zero_grad()
            losses.aggregate(losses.nll(logps.token_logps(policy, batch)), mask).backward()
            ranks.sum_gradients(trained)
            update.clip_gradient(trained, 1.0, step)
            optimizer.step()
        number = sum(weight.numel() for weight in trained) / 1e6
        print(
            f"{ranks.world()} processes, shard {is_split}: {number:.0f} M weights; GiB loaded "
            f"{loaded:.2f}, after two steps {held('VmRSS'):.2f}, peak {held('VmHWM'):.2f}"
        )


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    p.add_argument("width", type=int, help="of the language model")
    p.add_argument("layers", type=int, help="of the language model")
    p.add_argument("worlds", type=int, nargs="+", help="numbers of processes")
    return p.parse_args()


def main(args):
    for world in args.worlds:
        for is_split in (False, True):
            folder = Path(tempfile.mkdtemp())
            call = partial(work, width=args.width, layers=args.layers, is_split=is_split)
            codes, errors = in_processes(world, call, folder)
            assert codes == [0] * world, errors
            for rank in range(world):
                print((folder / f"out{rank}").read_text().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main(parse_args())
