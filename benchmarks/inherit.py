"""What inheriting costs: memory, bytes read and time, beside `cp` and the naive way, in one run, alternating.

    python benchmarks/inherit.py                      # a Llama of 4.4 GB, half of its blocks
    python benchmarks/inherit.py --kind mixtral       # experts stored one by one

The reference is random and is written below --folder (default: a temporary folder), which needs about four times its
size. Each way runs in a process of its own; its clock, its memory and its reads start behind the imports. `cp` copies a
checkpoint that inheriting has written. Bytes read are those of read calls; mapped files do not count.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_hidden_layers": 40},
    "mixtral": {
        "hidden_size": 1024, "intermediate_size": 3584, "num_attention_heads": 16, "num_key_value_heads": 4,
        "num_local_experts": 8, "num_hidden_layers": 24,
    },
}  # fmt: skip
WAYS = ("inherit", "inherit, model built", "inherit, half width", "naive", "cp", "cp and sync")


def make_reference(kind: str, folder: Path) -> None:
    """A checkpoint of random bits, none of them NaN, in files of 2 GB."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = CONFIG_MAPPING[kind](vocab_size=32000, dtype="bfloat16", **KINDS[kind])
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.view(torch.int16).random_(0, 16000)
    model.save_pretrained(folder, max_shard_size="2GB")


def one_way(way: str, reference: Path, layers: int, out: Path) -> None:
    """Done in a child process: carry out one way and print its figures as JSON."""
    import torch
    from transformers import AutoModelForCausalLM

    from inheritune import inheritance
    from inheritune.arch import load_config, save_model, silence_libraries
    from inheritune.recipe import FIRST_HALF, Reference

    silence_libraries()
    origin = Reference(path=str(reference))
    _import_all(load_config(origin).model_type, out.with_name("tiny"))
    memory, before, began = peak(), reads(), time.perf_counter()
    spec = inheritance.inherit_settings(layers)
    if way == "inherit":
        inheritance.write(origin, spec, out)
    elif way == "inherit, model built":
        save_model(inheritance.derive(origin, spec)[0], None, out)
    elif way == "inherit, half width":
        inheritance.write(origin, inheritance.inherit_settings(layers, **FIRST_HALF), out)
    else:
        whole = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.bfloat16)
        config = type(whole.config).from_dict(whole.config.to_dict() | {"num_hidden_layers": layers})
        target = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        tensors = whole.state_dict()
        target.load_state_dict({name: tensors[name] for name in target.state_dict()})
        target.save_pretrained(out)
    seconds = time.perf_counter() - began
    size = sum(file.stat().st_size for file in out.iterdir())
    print(json.dumps({"seconds": seconds, "memory": peak() - memory, "read": reads() - before, "size": size}))


def _import_all(kind: str, place: Path) -> None:
    """Inherit from a tiny model of the same kind, so that every module that is imported on the way is there."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from inheritune import inheritance
    from inheritune.recipe import Reference

    sizes = {
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
    }
    tiny = CONFIG_MAPPING[kind](**sizes, num_key_value_heads=1, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    AutoModelForCausalLM.from_config(tiny).save_pretrained(place)
    origin = Reference(path=str(place))
    inheritance.write(origin, inheritance.inherit_settings(1), place / "smaller")
    inheritance.inherit(origin, 1, out=place / "built")
    shutil.rmtree(place)


def peak() -> int:
    """The process's largest resident set so far, in bytes; getrusage's may be that of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def reads() -> int:
    """Bytes that the process has asked files for; pages of mapped files that it touched are not among them."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def copied(source: Path, goal: Path, sync: bool) -> dict[str, float]:
    """`cp -r`, and until the disk has it."""
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(goal)], check=True)
    if sync:
        subprocess.run(["sync", "-f", str(goal)], check=True)
    return {"seconds": time.perf_counter() - began}


def measure(
    reference: Path, layers: int, folder: Path, repeats: int, ways: list[str]
) -> dict[str, list[dict[str, float]]]:
    """These ways in turn, `repeats` times, each round beginning with another.

    What a way finds is the same for all: nothing left to be written to the disk, and all sources in the page cache.
    """
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    kept, out = folder / "kept", folder / "out"

    def in_child(way: str, goal: Path) -> dict[str, float]:
        words = [sys.executable, __file__, "--way", way, "--folder", str(reference), "--out", str(goal)]
        done = subprocess.run([*words, "--layers", str(layers)], check=True, capture_output=True, text=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    in_child("inherit", kept)
    for turn in range(repeats):
        for at in range(len(ways)):
            way = ways[(turn + at) % len(ways)]
            subprocess.run(["sync"], check=True)
            for file in (*reference.iterdir(), *kept.iterdir()):
                _read_through(file)
            found[way].append(copied(kept, out, sync=way != "cp") if way.startswith("cp") else in_child(way, out))
            shutil.rmtree(out)
    return found


def _read_through(file: Path) -> None:
    with file.open("rb", buffering=0) as opened:
        while opened.read(2**24):
            pass


def show(found: dict[str, list[dict[str, float]]], size: int, whole: int) -> None:
    """Medians, and ratios to `cp` and to the target's size."""
    middle = {way: statistics.median(run["seconds"] for run in runs) for way, runs in found.items()}
    print(f"reference {whole / 1e9:.2f} GB, target {size / 1e9:.2f} GB; {platform.machine()}, {os.cpu_count()} cores")
    times = "seconds (median, lowest to highest) | x cp | x cp and sync"
    print(f"| way | {times} | peak memory over imports | bytes written | read |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, runs in found.items():
        times = [run["seconds"] for run in runs]
        memory, read, wrote = (max(run.get(what, 0) for run in runs) for what in ("memory", "read", "size"))
        print(
            f"| {way} | {middle[way]:.2f} ({min(times):.2f} to {max(times):.2f}) | {middle[way] / middle['cp']:.2f}"
            f" | {middle[way] / middle['cp and sync']:.2f} | {memory / 1e6:,.0f} MB | {(wrote or size) / 1e6:,.0f} MB"
            f" | {read / (wrote or size):.3f} of that |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), default="llama")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="cp and 'cp and sync' always")
    parser.add_argument("--folder", type=Path, help="where the reference is made (or lies already)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help="blocks that are kept; default: half")
    words = parser.parse_args()
    layers = words.layers or KINDS[words.kind]["num_hidden_layers"] // 2
    if words.way is not None:
        one_way(words.way, words.folder, layers, words.out)
        return
    with tempfile.TemporaryDirectory(dir=words.folder) as place:
        reference = Path(place) / "reference"
        made = multiprocessing.get_context("spawn").Process(target=make_reference, args=(words.kind, reference))
        made.start()  # in a process of its own, since the memory that one holds lessens what a disk may be behind by
        made.join()
        found = measure(
            reference,
            layers,
            Path(place),
            words.repeats,
            [way for way in WAYS if way in words.ways or way.startswith("cp")],
        )
        size = sum(file.stat().st_size for file in (Path(place) / "kept").iterdir())
        show(found, size, sum(file.stat().st_size for file in reference.iterdir()))


if __name__ == "__main__":
    main()
