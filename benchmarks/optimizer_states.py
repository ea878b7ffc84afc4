"""What AdamW with states of 8 bits saves and costs, beside AdamW in float32: a model of 98M parameters on the CPU.

    python benchmarks/optimizer_states.py

Each way trains through the engine, uncompiled, in a process of its own; they take turns, so that both see the same
machine. Printed: the states' bytes, the process's largest resident memory, seconds a step, and the ratio of the rates
within a round (median). torchao compiles its own step, for which torch needs a C++ compiler; that is in the memory too.
Offloaded states need a CUDA GPU and are not measured here.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from training import Child, Turns, ours

WAYS = ("float32", "8bit")
BLOCKS, HIDDEN, VOCABULARY, LENGTH, BATCH = 12, 768, 16384, 64, 2


def task(words: argparse.Namespace, way: str) -> Any:
    """What `training.ours` wants to know."""
    from transformers import LlamaConfig

    from inheritune.recipe import Training, check
    from inheritune.runtime import start

    config = LlamaConfig(
        num_hidden_layers=BLOCKS, hidden_size=HIDDEN, intermediate_size=2048, num_attention_heads=12,
        vocab_size=VOCABULARY, max_position_embeddings=LENGTH, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    tree = {
        "length": "1M steps", "batch": f"{BATCH} sequences", "sequence_length": LENGTH, "compile": False,
        "optimizer": {"states": way},
    }  # fmt: skip
    settings = check(Training, tree, "benchmark")
    return SimpleNamespace(
        config=config, settings=settings, length=LENGTH, steps=words.steps, runtime=start("cpu", words.threads)
    )


def state_bytes(words: argparse.Namespace, way: str) -> tuple[int, int]:
    """The model's parameters, and the bytes of all that the optimizer keeps for them."""
    from inheritune.arch import build_random
    from inheritune.optimizers.stepping import allocate_state, state_tensors

    made = task(words, way)
    model = build_random(made.config, 1)
    optimizers = made.settings.optimizer.build(model, frozenset())
    allocate_state(model, optimizers)
    sizes = [tensor.numel() * tensor.element_size() for tensor in state_tensors(model, optimizers).values()]
    return sum(parameter.numel() for parameter in model.parameters()), sum(sizes)


def measure(words: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """The ways in turn, each round beginning with another."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    children: list[Child] = []
    try:
        for way in WAYS:
            children.append(Child(way, folder / way, __file__))
            children[-1].turn()  # compiles
        for turn in range(words.rounds):
            for child in children if turn % 2 else reversed(children):
                found[child.way].append(child.turn())
            print(f"round {turn + 1} of {words.rounds}", file=sys.stderr)
    finally:
        for child in children:
            child.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of one turn")
    parser.add_argument("--threads", type=int, help="CPU threads; default: as PyTorch takes")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.way is not None:
        ours(task(words, words.way), Turns("cpu"), words.folder)
        return
    with tempfile.TemporaryDirectory() as place:
        found = measure(words, Path(place))
    ratios = [one["seconds"] / few["seconds"] for one, few in zip(found["float32"], found["8bit"], strict=True)]
    print("| states | bytes of states | a parameter | peak memory | s a step: median (lowest to highest) | rate |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way, turns in found.items():
        parameters, states = state_bytes(words, way)
        seconds = [turn["seconds"] / words.steps for turn in turns]
        print(
            f"| {way} | {states:,} | {states / parameters:.2f} | {max(turn['memory'] for turn in turns) / 1e9:.2f} GB"
            f" | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            f" | {1.0 if way == 'float32' else statistics.median(ratios):.3f} |"
        )


if __name__ == "__main__":
    main()
