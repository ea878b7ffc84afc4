"""What `inheritune plan` predicts beside what a training here takes: FLOPs, memory and time, in one table.

    python benchmarks/planning.py

Each shape is trained through the engine, uncompiled, in float32, on one core, in turns. Memory is the largest resident
memory (Linux) beyond what the process had before; predicted are weights, gradients, optimizer states, activations,
logits and what backward passes take. It is measured twice: as training is, with all allocations in glibc's heap, and
once more with every large allocation in pages of its own (`alone`), which leaves no gaps. Time is CPU time, so that
what else runs on the machine matters less; predicted from FLOPs and the rate that the first shape reached in the same
run, as a user predicts it from `inheritune bench`. Printed too: how long plans of OpenLLaMA-3B and of a suite take
after their imports, and with them.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SHAPES: dict[str, tuple[str, dict[str, Any], int, int]] = {  # model type, fields, sequences at once, tokens each
    "llama": ("llama", {"num_hidden_layers": 6}, 8, 128),
    "gpt2": ("gpt2", {"num_hidden_layers": 6, "n_positions": 128}, 8, 128),
    "deep llama": ("llama", {"num_hidden_layers": 16, "hidden_size": 192}, 8, 128),
    "wide head": ("llama", {"num_hidden_layers": 2, "vocab_size": 32000}, 4, 128),
    "mixtral": ("mixtral", {"num_hidden_layers": 4, "num_local_experts": 4}, 8, 128),
    "large llama": (
        "llama", {"num_hidden_layers": 8, "hidden_size": 768, "intermediate_size": 2048, "vocab_size": 8192}, 8, 128,
    ),
}  # fmt: skip
_FIXED = {"hidden_size": 256, "vocab_size": 4096, "num_attention_heads": 8, "bos_token_id": 0, "eos_token_id": 0}
_MLP = 704  # where a shape does not say it; GPT-2 has its own
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def config_of(name: str) -> Any:
    from transformers import CONFIG_MAPPING

    kind, fields, _, length = SHAPES[name]
    if kind == "gpt2":
        return CONFIG_MAPPING[kind](**(_FIXED | fields | _NO_DROPOUT))
    own = {"intermediate_size": _MLP, "num_key_value_heads": 8, "max_position_embeddings": length}
    return CONFIG_MAPPING[kind](**(_FIXED | own | fields))


def settings_of(name: str) -> Any:
    from inheritune.recipe import Training, check

    _, _, batch, length = SHAPES[name]
    tree = {
        "length": "3 steps", "batch": f"{2 * batch} sequences", "micro_batch": batch, "sequence_length": length,
        "compile": False, "precision": "float32",
    }  # fmt: skip
    return check(Training, tree, "benchmark")


def measured(name: str, rounds: int) -> tuple[float, int]:
    """CPU seconds of a step, the median over the rounds, and the most memory that it takes beyond what there was."""
    from inheritune.bench import measurement
    from inheritune.runtime import start

    clock = SimpleNamespace(perf_counter=time.process_time)
    measurement.time = clock  # type: ignore[assignment]
    seconds, peaks = [], []
    for _ in range(rounds):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory begins anew
        before = _status("VmRSS")
        with tempfile.TemporaryDirectory() as folder:
            found = measurement.one_step(config_of(name), settings_of(name), start("cpu", 1), Path(folder))
        peaks.append(_status("VmHWM") - before)
        seconds.append(found["seconds"])
    return statistics.median(seconds), statistics.median_low(peaks)


def measured_alone(name: str) -> int:
    """The most memory that a step takes with every allocation from 128 KB on in pages of its own: no heap, no gaps."""
    pages = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_MMAP_MAX_": str(2**20)}
    words = [sys.executable, __file__, "--alone", name]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, **pages})
    return int(done.stdout.split()[-1])


def print_alone(name: str) -> None:
    """In the process that `measured_alone` starts."""
    from inheritune import runtime

    runtime.freed_memory_kept = contextlib.nullcontext  # type: ignore[assignment]  # else all is in the heap again
    measured("llama", 1)
    print(measured(name, 1)[1])


def _status(key: str) -> int:
    """A line of /proc/self/status that says bytes."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def predicted(name: str) -> tuple[float, float]:
    """Bytes, and FLOPs of a step."""
    from inheritune.arch import flops_per_token
    from inheritune.planner import MemoryConfig, ModelProfile, memory_of

    config, settings = config_of(name), settings_of(name)
    profile = ModelProfile(config)
    way = MemoryConfig("float32", settings.micro_batch, settings.sequence_length, settings.optimizer, False)
    active = sum(part.size * part.share for part in profile.parts())
    flops = settings.batch_tokens * flops_per_token(config, active, settings.sequence_length)
    return memory_of(profile, range(profile.depth), way).total, flops


def torch_flops(name: str) -> float:
    """FLOPs of a step as torch counts them in a real one: eager attention, a plain loss."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    settings = settings_of(name)
    model = AutoModelForCausalLM.from_config(
        config_of(name), attn_implementation="eager", experts_implementation="eager"
    )
    tokens = torch.randint(0, model.config.vocab_size, (1, settings.sequence_length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    return counter.get_total_flops() * settings.batch_sequences


_OPEN_LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 3200, "intermediate_size": 8640,
    "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 26, "vocab_size": 32000,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip
_PLANS = {
    "recipes/openllama-1.5b.yaml": "plan_recipe",
    "recipes/suites/low-data.yaml": "plan_suite",
}


def plan_seconds(file: str, function: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds and CPU seconds, medians, of a plan for OpenLLaMA-3B: the first and the second in a process after its
    imports, and the command as a whole.
    """
    recipe = Path(__file__).parents[1] / file
    load, home = ("load_suite", "experiment") if "suite" in function else ("load_recipe", "recipe")
    code = (
        f"import sys, time; from inheritune.experiment import {function};"
        "from inheritune.planner import choose_devices;"
        f"from inheritune.{home} import {load}; from transformers.models.llama import modeling_llama;"
        f"recipe = {load}(sys.argv[1], [f'reference={{sys.argv[2]}}'])\n"
        "for _ in range(2):\n"
        "    began = time.perf_counter(), time.process_time()\n"
        f"    {function}(recipe, choose_devices())\n"
        "    print(time.perf_counter() - began[0], time.process_time() - began[1])\n"
    )
    found: dict[str, list[tuple[float, float]]] = {"first": [], "second": [], "command": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_OPEN_LLAMA))
        for _ in range(rounds):
            words = [sys.executable, "-c", code, str(recipe), folder]
            said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
            for name, line in zip(("first", "second"), said[-2:], strict=True):
                seconds, own = map(float, line.split())
                found[name].append((seconds, own))
            began, before = time.perf_counter(), _children()
            words = [sys.executable, "-m", "inheritune", "plan", str(recipe), f"--reference={folder}"]
            subprocess.run(words, check=True, capture_output=True)
            found["command"].append((time.perf_counter() - began, _children() - before))
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in found.items()}  # type: ignore[misc]


def _children() -> float:
    """CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", help="measure one shape's memory without gaps, and nothing else")
    parser.add_argument("--plans-only", action="store_true", help="only how long plans take")
    words = parser.parse_args()
    from inheritune.arch import silence_libraries

    silence_libraries()
    if words.alone:
        print_alone(words.alone)
        return
    if not words.plans_only:
        print_shapes(words.rounds)
    print("| plan of OpenLLaMA-3B | first after imports, s | second | the command |")
    print("|" + " --- |" * 4)
    for file, function in _PLANS.items():
        found = plan_seconds(file, function, words.rounds)
        cells = [f"{wall:.2f} (CPU {own:.2f})" for wall, own in found.values()]
        print(f"| {file} | {' | '.join(cells)} |")
    print(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def print_shapes(rounds: int) -> None:
    """The table of shapes."""
    measured("llama", 1)  # what only the first step of a process takes
    rate, rows = 0.0, []
    for name in SHAPES:
        seconds, peak = measured(name, rounds)
        memory, flops = predicted(name)
        rate = rate or flops / seconds  # of the first shape
        alone = measured_alone(name)
        rows.append((name, memory, alone, peak, flops, torch_flops(name), flops / rate, seconds))
        print(f"{name} done", file=sys.stderr)
    print("| shape | MB | alone | ratio | as trained | ratio | FLOP a step | torch's count | ratio | CPU s a step |"
          " measured | ratio |")  # fmt: skip
    print("|" + " --- |" * 12)
    for name, memory, alone, real, flops, counted, expected, seconds in rows:
        print(
            f"| {name} | {memory / 1e6:,.0f} | {alone / 1e6:,.0f} | {memory / alone:.2f} | {real / 1e6:,.0f}"
            f" | {memory / real:.2f} | {flops:.3e} | {counted:.3e} | {flops / counted:.3f} | {expected:.2f}"
            f" | {seconds:.2f} | {expected / seconds:.2f} |"
        )
    print()


if __name__ == "__main__":
    main()
