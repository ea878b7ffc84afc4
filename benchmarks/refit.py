"""Untrained losses of kept blocks as they are and refitted, against tokens of calibration, ridge and matrices.

    python benchmarks/refit.py SmolLM2-135M-Instruct.Q4_1.gguf gcide.txt
    python benchmarks/refit.py MODEL TEXT --blocks 0-5,9-11 --tokens 8192 --ridges 0.1 0.3

Calibration sequences are drawn at random from the first 5 MB of the text, losses are taken on sequences drawn from 5.5
to 6 MB. ± is one standard error over these sequences, as if they were independent. One thread.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from inheritune.arch import in_dtype, load_model, load_tokenizer, silence_libraries, split_head
from inheritune.data import Rows, Sequences
from inheritune.inheritance import TargetSpec, draft_target, inherit, inherit_settings, refit, refitted_matrices
from inheritune.recipe import model_at

LENGTH = 256
CALIBRATION, JUDGED = (0, 5_000_000), (5_500_000, 6_000_000)  # bytes of the text


def drawn(text: bytes, tokenizer, count: int, seed: int) -> Rows:
    """So many sequences, drawn at random from a text."""
    tokens = np.asarray(tokenizer(text.decode("utf-8", "ignore"))["input_ids"], np.int64)
    sequences = Sequences(tokens, LENGTH, "text")
    return sequences.rows(np.random.default_rng(seed).permutation(sequences.count)[:count])


@torch.no_grad()
def losses(model, rows: Rows) -> np.ndarray:
    """The mean loss of each sequence, in nats a token."""
    head, means = split_head(model), []
    for _, examples in rows.batches(8):
        losses_BT = head.token_losses(head.states(head.outputs(input_ids=examples.inputs)), examples.targets)
        means.append(losses_BT.mean(1))
    return torch.cat(means).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--blocks", default="0-2,8-11,20-24,27-29")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--ridges", type=float, nargs="+", default=[0.3])
    parser.add_argument("--matrices", choices=["all", "mlp"], nargs="+", default=["all"])
    parser.add_argument("--sequences", type=int, default=64, help="how many are judged")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="bfloat16", help="of the models' products"
    )
    given = parser.parse_args()
    # without the cache, which would hold the weights as they were before the fit
    with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bfloat16", cache_enabled=False):
        measure(given)


def measure(given: argparse.Namespace) -> None:
    """Print a row for each way."""
    torch.set_num_threads(1)
    silence_libraries()
    origin = model_at(given.model)
    reference, tokenizer = in_dtype(load_model(origin), "float32").eval(), load_tokenizer(origin)
    kept = inherit_settings(given.blocks).layers
    with given.text.open("rb") as file:
        text = file.read(JUDGED[1])
    judged = drawn(text[slice(*JUDGED)], tokenizer, given.sequences, 0)
    whole = losses(reference, judged)

    def show(name: str, model, seconds: float) -> None:
        own = whole if model is reference else losses(model, judged)
        gap, spread = own - whole, np.sqrt(len(own))
        error = f"{gap.std(ddof=1) / spread:.3f}"
        print(f"| {name} | {own.mean():.3f} | {gap.mean():+.3f} ±{error} | {seconds:.0f} s |", flush=True)

    print("| blocks | loss | gap | time |\n| --- | --- | --- | --- |")
    show("reference", reference, 0)
    show("as they are", inherit(reference, kept), 0)
    names = refitted_matrices(draft_target(reference, TargetSpec(tuple(kept))))
    for tokens in given.tokens:
        rows = drawn(text[slice(*CALIBRATION)], tokenizer, tokens // LENGTH, 1)
        for ridge in given.ridges:
            for which in given.matrices:
                chosen = names if which == "all" else [one[-1:] for one in names]
                target, began = inherit(reference, kept), time.monotonic()
                refit(target, reference, kept, chosen, rows, ridge=ridge)
                seconds = time.monotonic() - began
                show(f"refitted, {tokens:,} tokens, ridge {ridge:g}, {which}", target, seconds)


if __name__ == "__main__":
    main()
