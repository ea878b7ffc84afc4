"""What is kept of a teacher by its top k, and what float16 costs: on real text, with half of its blocks as the student.

    python benchmarks/distillation.py MODEL TEXT [--sequences 4] [--length 256]

MODEL is a hub id, a folder or a .gguf file, TEXT a folder of .md or .txt files. Prints a Markdown table:

- bytes: of a token's stored outputs;
- rest: the teacher's mean probability of all entries beyond its top k;
- KL: what the student is taught with, in nats a token; over the whole vocabulary in the last line;
- gradient: cosine between its gradient in the student's logits and the whole vocabulary's, mean over the tokens;
- float16: how far the KL of a token is off at most when the outputs were stored.
"""

import argparse
import time
from pathlib import Path

import torch

from inheritune.arch import load_model, load_tokenizer, training_flops_per_token
from inheritune.distillation import Layout
from inheritune.inheritance import derive
from inheritune.losses.functional import Distribution, divergences, log_distribution
from inheritune.recipe import Inherit, Reference

TOP = (1, 8, 32, 128, 512, None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    given = parser.parse_args()
    origin = Reference(path=given.model)
    teacher, tokenizer = load_model(origin).float().eval(), load_tokenizer(origin)
    student = derive(teacher, Inherit(layers="half"))[0].eval()
    files = sorted(file for file in given.text.rglob("*") if file.suffix in (".md", ".txt"))
    row = [token for file in files for token in tokenizer(file.read_text(encoding="utf-8"))["input_ids"]]
    needed = given.sequences * given.length
    if len(row) < needed:
        raise SystemExit(f"{given.text} has {len(row)} tokens, {needed} are needed")
    tokens_BT = torch.tensor(row[:needed]).view(given.sequences, given.length)
    began = time.perf_counter()
    with torch.no_grad():
        taught_NV = torch.cat([teacher(tokens_BT[i : i + 1]).logits.flatten(0, 1) for i in range(len(tokens_BT))])
    seconds = (time.perf_counter() - began) / len(tokens_BT)
    with torch.no_grad():
        own_NV = torch.cat([student(tokens_BT[i : i + 1]).logits.flatten(0, 1) for i in range(len(tokens_BT))])
    vocabulary = taught_NV.shape[1]
    flops = training_flops_per_token(teacher, given.length) // 3 * given.length
    print(f"vocabulary {vocabulary:,}; a sequence of {given.length}: {flops:.3g} FLOPs, {seconds:.3g} s\n")
    print("| top k | bytes | rest | KL | gradient | float16 |\n| --- | --- | --- | --- | --- | --- |")
    whole = _gradients(own_NV, log_distribution(taught_NV, 1.0))
    for k in TOP:
        taught = log_distribution(taught_NV, 1.0, k)
        size = Layout(given.length, vocabulary, k).size // given.length
        rest = 0.0 if k is None else taught.log_probabilities[:, -1].exp().mean().item()
        seen = divergences(own_NV, taught, 1.0)
        rounded = torch.log_softmax(taught.log_probabilities.half().float(), dim=1)
        off = (divergences(own_NV, Distribution(rounded, taught.indices), 1.0) - seen).abs().max().item()
        near = torch.cosine_similarity(_gradients(own_NV, taught), whole, dim=1).mean().item()
        name = "all" if k is None else str(k)
        print(f"| {name} | {size:,} | {rest:.2%} | {seen.mean().item():.4f} | {near:.4f} | {off:.1e} |")


def _gradients(logits_NV: torch.Tensor, taught: Distribution) -> torch.Tensor:
    leaf = logits_NV.clone().requires_grad_()
    divergences(leaf, taught, 1.0).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


if __name__ == "__main__":
    main()
