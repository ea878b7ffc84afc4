"""What `inheritune plan` predicts beside what a training here takes: FLOPs, memory and time, in one table.

    python benchmarks/planning.py

Each shape is trained through the engine, uncompiled, in float32, on one core, in turns. Memory is the largest resident
memory (Linux) beyond what the process had before; predicted are weights, gradients, optimizer states, activations,
logits and what backward passes take. Time is predicted from FLOPs and the rate that the first shape reached in the same
run, as a user predicts it from `inheritune bench`. Printed too: how long a plan of OpenLLaMA-3B takes after its
imports, and with them.
"""

import argparse
import ctypes
import gc
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, tuple[str, dict[str, Any], int, int]] = {  # model type, fields, sequences at once, tokens each
    "llama": ("llama", {"num_hidden_layers": 6}, 8, 128),
    "gpt2": ("gpt2", {"num_hidden_layers": 6, "n_positions": 128}, 8, 128),
    "deep llama": ("llama", {"num_hidden_layers": 16, "hidden_size": 192}, 8, 128),
    "wide head": ("llama", {"num_hidden_layers": 2, "vocab_size": 32000}, 4, 128),
    "mixtral": ("mixtral", {"num_hidden_layers": 4, "num_local_experts": 4}, 8, 128),
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
    """Seconds of a step, the median over the rounds, and the most memory that it takes beyond what there was."""
    from inheritune.bench import one_step
    from inheritune.runtime import start

    seconds, peaks = [], []
    for _ in range(rounds):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident memory begins anew
        before = _status("VmRSS")
        with tempfile.TemporaryDirectory() as folder:
            found = one_step(config_of(name), settings_of(name), start("cpu", 1), Path(folder))
        peaks.append(_status("VmHWM") - before)
        seconds.append(found["seconds"])
    return statistics.median(seconds), statistics.median_low(peaks)


def _status(key: str) -> int:
    """A line of /proc/self/status that says bytes."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def predicted(name: str) -> tuple[float, float]:
    """Bytes, and FLOPs of a step."""
    from inheritune.arch import flops_per_token
    from inheritune.planner import Anatomy, Way, memory_of

    config, settings = config_of(name), settings_of(name)
    anatomy = Anatomy(config)
    way = Way("float32", settings.micro_batch, settings.sequence_length, settings.optimizer, False)
    active = sum(part.size * part.share for part in anatomy.parts())
    flops = settings.batch_tokens * flops_per_token(config, active, settings.sequence_length)
    return memory_of(anatomy, range(anatomy.depth), way).total, flops


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


def plan_seconds(rounds: int) -> tuple[float, float]:
    """Seconds of a plan of OpenLLaMA-3B after its imports (the second of two in a process), and of the command."""
    fields = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 3200, "intermediate_size": 8640,
        "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 26, "vocab_size": 32000,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    recipe = Path(__file__).parents[1] / "recipes" / "openllama-1.5b.yaml"
    code = (
        "import sys, time; from inheritune import pipeline; from inheritune.planner import choose_devices;"
        "from inheritune.recipe import load_recipe; recipe = load_recipe(sys.argv[1], [f'reference={sys.argv[2]}']);"
        "pipeline.plan_recipe(recipe, choose_devices()); began = time.perf_counter();"
        "pipeline.plan_recipe(recipe, choose_devices()); print(time.perf_counter() - began)"
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(fields))
        after, whole = [], []
        for _ in range(rounds):
            words = [sys.executable, "-c", code, str(recipe), folder]
            after.append(float(subprocess.run(words, check=True, capture_output=True).stdout))
            began = time.perf_counter()
            words = [sys.executable, "-m", "inheritune", "plan", str(recipe), f"--reference={folder}"]
            subprocess.run(words, check=True, capture_output=True)
            whole.append(time.perf_counter() - began)
    return statistics.median(after), statistics.median(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    from inheritune.arch import silence_libraries

    silence_libraries()
    measured("llama", 1)  # what only the first step of a process takes
    rate, rows = 0.0, []
    for name in SHAPES:
        seconds, peak = measured(name, words.rounds)
        memory, flops = predicted(name)
        rate = rate or flops / seconds  # of the first shape
        rows.append((name, memory, peak, flops, torch_flops(name), flops / rate, seconds))
        print(f"{name} done", file=sys.stderr)
    print("| shape | MB | measured | ratio | FLOP a step | torch's count | ratio | s a step | measured | ratio |")
    print("|" + " --- |" * 10)
    for name, memory, real, flops, counted, expected, seconds in rows:
        print(
            f"| {name} | {memory / 1e6:,.0f} | {real / 1e6:,.0f} | {memory / real:.2f} | {flops:.3e} | {counted:.3e}"
            f" | {flops / counted:.3f} | {expected:.2f} | {seconds:.2f} | {expected / seconds:.2f} |"
        )
    after, whole = plan_seconds(words.rounds)
    print(f"\nA plan of OpenLLaMA-3B takes {after:.2f} s after its imports, {whole:.2f} s in all.")


if __name__ == "__main__":
    main()
