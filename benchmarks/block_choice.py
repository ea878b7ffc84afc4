"""Which blocks to inherit: choices of the same size, trained on the same tokens, judged on the same sequences.

    python benchmarks/block_choice.py MODEL DATA --out FOLDER [--layers 15] [--tokens 123K] ...

MODEL is a hub id, folder or .gguf file, DATA what `inheritune prepare` wrote with its tokenizer. Choices: first, ends,
middle, last, every, rank and loss (from figures of the whole model), auto, or any blocks as NAME=0-2,8-11. Measured
choices see `--calibration` sequences of the training tokens, never the validation tokens. Goes on where it was stopped.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import inheritune
from inheritune.analysis import choose
from inheritune.arch import layer_count, load_config, load_tokenizer
from inheritune.evaluation import gap, judge_on
from inheritune.inheritance import select_blocks
from inheritune.recipe import MEASURED, Evaluate, Inherit, Reference, check
from inheritune.report import spans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--choices", nargs="+", default=["first", "ends", "middle", "last", "rank", "loss", "auto"])
    parser.add_argument("--calibration", default="3072 tokens")
    parser.add_argument("--recovery", default="1024 tokens", help="of auto, behind each block that is dropped; none")
    parser.add_argument("--tokens", default="123K tokens")
    parser.add_argument("--batch", default="8 sequences")
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--schedule", default="cosine")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--evaluate-every", default="20 steps")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    for seed in given.seeds:
        for choice in given.choices:
            measure(given, choice, seed)
    show(given)


def settings(given: argparse.Namespace) -> dict[str, object]:
    return {
        "length": given.tokens, "batch": given.batch, "sequence_length": given.sequence_length, "micro_batch": 8,
        "precision": given.precision, "optimizer": {"learning_rate": given.learning_rate, "weight_decay": 0.1},
        "schedule": {"name": given.schedule, "warm_up": "5%"},
    }  # fmt: skip


def measure(given: argparse.Namespace, choice: str, seed: int) -> None:
    name, _, listed = choice.partition("=")
    folder = given.out / f"{name}-{seed}"
    if (folder / "choice.json").exists() and (folder / "trained" / "evaluation.json").exists():
        return
    began = time.monotonic()
    blocks = check(Inherit, {"layers": listed}, "choices").layers if listed else chosen(given, name, folder)
    seconds = time.monotonic() - began
    target = inheritune.inherit(given.model, blocks).float()
    before = judge_on(target, given.data, given.sequence_length).loss
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"blocks": blocks, "untrained": before.value, "choosing_seconds": round(seconds, 1)}
    (folder / "choice.json").write_text(json.dumps(facts))
    judged = {"every": given.evaluate_every, "sequences": 32}
    inheritune.train(
        target, given.data, folder / "trained", settings=settings(given), seed=seed,
        evaluate=check(Evaluate, judged, "evaluate"), tokenizer=tokenizer(given),
    )  # fmt: skip
    print(row(given, name, seed), flush=True)


def tokenizer(given: argparse.Namespace) -> object:
    return load_tokenizer(Reference(path=given.model))


def chosen(given: argparse.Namespace, name: str, folder: Path) -> list[int]:
    if name not in MEASURED:
        return select_blocks(given.layers, name, layer_count(load_config(Reference(path=given.model))))
    fields = {
        "layers": given.layers, "choose": name, "calibration": given.calibration, "recovery": given.recovery,
    }  # fmt: skip
    selection = choose(given.model, check(Inherit, fields, "choices"), data=given.data)
    selection.write(folder / "selection.json")
    return selection.blocks


def row(given: argparse.Namespace, name: str, seed: int) -> str:
    folder = given.out / f"{name}-{seed}"
    choice = json.loads((folder / "choice.json").read_text())
    auto = given.out / f"auto-{seed}" / "trained" / "evaluation.json"
    found = json.loads((folder / "trained" / "evaluation.json").read_text())
    return (
        f"| {name} | {seed} | {spans(choice['blocks'])} | {choice['untrained']:.2f} | {found['val_loss']:.4f}"
        f" ±{found['val_loss_se']:.4f} | {found['tokens']:,} | {over(found, auto) if name != 'auto' else ''} |"
    )


def over(found: dict, auto: Path) -> str:
    """The difference to `auto` on the same text, with its standard error; nothing where that is missing."""
    if not auto.exists():
        return ""
    other = json.loads(auto.read_text())["cluster_losses"]
    apart = gap(found["cluster_losses"], other, found["cluster_tokens"])
    return f"{apart.value:+.4f} ±{apart.error:.4f}"


def show(given: argparse.Namespace) -> None:
    print("| choice | seed | blocks | untrained | trained | tokens | over auto |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in given.seeds:
        for choice in given.choices:
            print(row(given, choice.partition("=")[0], seed))


if __name__ == "__main__":
    main()
