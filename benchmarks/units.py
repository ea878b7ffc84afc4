"""Untrained losses of narrower models: criteria for their units, with and without the refit, and the rotation.

    python benchmarks/units.py SmolLM2-135M-Instruct.Q4_1.gguf gcide.txt --neurons 1024 --criteria error magnitude
    python benchmarks/units.py MODEL TEXT --blocks 0-21 --heads 6 --refit only --ridges 0.1 0.3

Calibration sequences are drawn at random from the first 5 MB of the text, losses are taken on sequences drawn from 5.5
to 6 MB. ± is one standard error over these sequences, as if they were independent. Losses are computed in bfloat16
(products), statistics and refits in float32. One thread.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from refit import CALIBRATION, JUDGED, drawn, losses

from inheritune.arch import in_dtype, layer_count, load_model, load_tokenizer, parameter_count, silence_libraries
from inheritune.inheritance import inherit_settings
from inheritune.inheritance.units import CRITERIA, DEFAULTS, Shape, collect_statistics, derive_shape
from inheritune.recipe import model_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--blocks", default="all")
    parser.add_argument("--neurons", type=int, nargs="+", default=[None])
    parser.add_argument("--heads", type=int, nargs="+", default=[None])
    parser.add_argument("--hidden", type=int, nargs="+", default=[None])
    parser.add_argument("--criteria", nargs="+", default=["default"], choices=["default", *CRITERIA])
    parser.add_argument("--tokens", type=int, default=8192, help="of calibration")
    parser.add_argument("--refit", choices=["no", "too", "only"], default="no", help="whether blocks are refitted")
    parser.add_argument("--rotate", action="store_true", help="hidden channels are principal components")
    parser.add_argument("--ridges", type=float, nargs="+", default=[0.3])
    parser.add_argument("--sequences", type=int, default=32, help="how many are judged")
    given = parser.parse_args()
    torch.set_num_threads(1)
    silence_libraries()
    origin = model_at(given.model)
    reference, tokenizer = in_dtype(load_model(origin), "float32").eval(), load_tokenizer(origin)
    measure(given, reference, tokenizer)


def measure(given: argparse.Namespace, reference, tokenizer) -> None:
    """Print a row for each shape, criterion and ridge."""
    with given.text.open("rb") as file:
        text = file.read(JUDGED[1])
    judged = drawn(text[slice(*JUDGED)], tokenizer, given.sequences, 0)
    rows = drawn(text[slice(*CALIBRATION)], tokenizer, given.tokens // 256, 1)
    named = [name for one in given.criteria for name in ([one] if one != "default" else DEFAULTS.values())]
    needs = {need for name in named for need in CRITERIA[name].needs} - {"routing"}
    seen = collect_statistics(reference, rows, needs, axes=["neurons", "heads", "hidden"])
    blocks = range(layer_count(reference.config)) if given.blocks == "all" else inherit_settings(given.blocks).layers
    whole = judge(reference, judged)

    def show(name: str, model, seconds: float) -> None:
        gap = (whole if model is reference else judge(model, judged)) - whole
        error, size = gap.std(ddof=1) / np.sqrt(len(gap)), block_parameters(model) / block_parameters(reference)
        row = [name, f"{size:.3f}", f"{whole.mean() + gap.mean():.3f}", f"{gap.mean():+.3f} ±{error:.3f}"]
        print(f"| {' | '.join(row)} | {seconds:.0f} s |", flush=True)

    print("| target | of the block parameters | loss | gap | time |\n| --- | --- | --- | --- | --- |")
    show("reference", reference, 0)
    for shape in itertools.starmap(Shape, itertools.product(given.neurons, given.heads, given.hidden)):
        for criterion in given.criteria:
            for ridge in ([] if given.refit == "only" else [None]) + ([] if given.refit == "no" else given.ridges):
                began, by = time.monotonic(), None if criterion == "default" else criterion
                options = {"criterion": by, "rotated": given.rotate, "ridge": ridge, "seen": seen}
                done = derive_shape(reference, blocks, shape, rows, **options)
                name = f"{described(shape, blocks)}, {'rotated' if done.rotated else criterion}"
                name += "" if ridge is None else f", refitted with ridge {ridge:g}"
                show(name, done.target, time.monotonic() - began)


def judge(model, rows) -> np.ndarray:
    """The loss of each sequence."""
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return losses(model, rows)


def block_parameters(model) -> int:
    """Those outside embeddings and head."""
    ends = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return parameter_count(model) - sum({id(one): one.numel() for one in ends}.values())


def described(shape: Shape, blocks) -> str:
    """A shape in words."""
    parts = [f"{len(blocks)} blocks"]
    parts += [f"{count} {axis}" for axis, count in vars(shape).items() if count is not None]
    return ", ".join(parts)


if __name__ == "__main__":
    main()
