"""What is kept of a teacher by its top k or by its final hidden states, with half of its blocks as student.

    python benchmarks/distillation.py MODEL TEXT [--sequences 4] [--length 256] [--states] [--steps 5]

MODEL is a hub id, a folder or a .gguf file, TEXT a folder of .md or .txt files, or one file. Prints a Markdown table:

- bytes: of a token's stored outputs; in the last line those of final hidden states in float32;
- rest: the teacher's mean probability of all entries beyond its top k;
- KL: what the student is taught with, in nats a token; over the whole vocabulary in the last line;
- gradient: cosine between its gradient in the student's logits and the whole vocabulary's, mean over the tokens;
- float16: how far the KL of a token is off at most when the top k were stored.

With `--states` it prints two other tables:

- what a type of the final hidden states costs: bytes a token, and the divergence of the distribution from that of a
  teacher in float32, in nats a token, mean and most. "computed" is a teacher that computes in that type, "rounded" one
  that computes in float32;
- seconds of a step (forward and backward) in float32 with outputs online and stored, in turns: the median of `--steps`
  each, and bytes and seconds of storing.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inheritune import runtime
from inheritune.arch import block_modules, in_dtype, load_model, load_tokenizer, split_head, training_flops_per_token
from inheritune.data import Sequences
from inheritune.distillation import DistillationRequest, Layout, Teacher
from inheritune.inheritance import derive
from inheritune.losses import LossSetup, TeacherNeeds, build_losses
from inheritune.losses.functional import Distribution, divergences, log_distribution
from inheritune.recipe import Inherit, Reference, Training
from inheritune.training import Objective

TOP = (1, 8, 32, 128, 512, None)
BATCH = 2  # sequences of a step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--states", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    origin = Reference(path=given.model)
    teacher, tokenizer = load_model(origin).float().eval(), load_tokenizer(origin)
    files = [given.text] if given.text.is_file() else sorted(given.text.rglob("*"))
    row: list[int] = []
    needed = given.sequences * given.length + 1
    for file in files:
        if len(row) < needed and file.suffix in (".md", ".txt"):
            row += tokenizer(file.read_text(encoding="utf-8")[: 8 * needed])["input_ids"]
    if len(row) < needed:
        raise SystemExit(f"{given.text} has {len(row)} tokens, {needed} are needed")
    if given.states:
        rounding(teacher, torch.tensor(row[: needed - 1]).view(given.sequences, given.length))
        steps(teacher, np.array(row[:needed], np.uint32), given.length, given.steps)
    else:
        top_k(teacher, torch.tensor(row[: needed - 1]).view(given.sequences, given.length))


def top_k(teacher: Any, tokens_BT: torch.Tensor) -> None:
    """The table over top k."""
    length, student = tokens_BT.shape[1], derive(teacher, Inherit(layers="half", choose="first"))[0].eval()
    began = time.perf_counter()
    with torch.no_grad():
        taught_NV = torch.cat([teacher(tokens_BT[i : i + 1]).logits.flatten(0, 1) for i in range(len(tokens_BT))])
    seconds = (time.perf_counter() - began) / len(tokens_BT)
    with torch.no_grad():
        own_NV = torch.cat([student(tokens_BT[i : i + 1]).logits.flatten(0, 1) for i in range(len(tokens_BT))])
    vocabulary = taught_NV.shape[1]
    flops = training_flops_per_token(teacher, length) // 3 * length
    print(f"vocabulary {vocabulary:,}; a sequence of {length}: {flops:.3g} FLOPs, {seconds:.3g} s\n")
    print("| top k | bytes | rest | KL | gradient | float16 |\n| --- | --- | --- | --- | --- | --- |")
    whole = _gradients(own_NV, log_distribution(taught_NV, 1.0))
    for k in TOP:
        taught = log_distribution(taught_NV, 1.0, k)
        layout = Layout(length, vocabulary, "float32", states=teacher.config.hidden_size if k is None else 0, top_k=k)
        rest = 0.0 if k is None else taught.log_probabilities[:, -1].exp().mean().item()
        seen = divergences(own_NV, taught, 1.0)
        rounded = torch.log_softmax(taught.log_probabilities.half().float(), dim=1)
        off = (divergences(own_NV, Distribution(rounded, taught.indices), 1.0) - seen).abs().max().item()
        cells = ("all", "0") if k is None else (str(k), f"{off:.1e}")  # hidden states are not rounded
        near = torch.cosine_similarity(_gradients(own_NV, taught), whole, dim=1).mean().item()
        size = layout.size // length
        print(f"| {cells[0]} | {size:,} | {rest:.2%} | {seen.mean().item():.4f} | {near:.4f} | {cells[1]} |")


def rounding(teacher: Any, tokens_BT: torch.Tensor) -> None:
    """The table over types of final hidden states."""
    half = in_dtype(copy.deepcopy(teacher), torch.bfloat16)
    head, own = split_head(teacher), split_head(half)
    assert head.linear is not None
    assert own.linear is not None
    apart: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for tokens in tokens_BT:
            states_ND = head.states(head.outputs(input_ids=tokens[None]))[0]
            exact = log_distribution(head.linear(states_ND), 1.0)
            for kind in (torch.float32, torch.bfloat16, torch.float16):
                logits_NV = head.linear(states_ND.to(kind).float())
                apart.setdefault(f"rounded to {kind}", []).append(divergences(logits_NV, exact, 1.0))
            logits_NV = own.linear(own.states(own.outputs(input_ids=tokens[None]))[0])
            apart.setdefault("computed in torch.bfloat16", []).append(divergences(logits_NV, exact, 1.0))
    print(
        f"{tokens_BT.numel():,} tokens\n\n| final hidden states | bytes | mean KL | most |\n| --- | --- | --- | --- |"
    )
    for name, parts in apart.items():
        values = torch.cat(parts).double()
        size = head.linear.in_features * (4 if name.endswith("float32") else 2)
        print(f"| {name.replace('torch.', '')} | {size:,} | {values.mean().item():.1e} | {values.max().item():.1e} |")


def steps(teacher: Any, row: Any, length: int, count: int) -> None:
    """The table of seconds: a step with outputs online and stored."""
    here, sequences = runtime.start("cpu"), Sequences(row, length, "benchmark")
    tree = {"length": "1 steps", "batch": f"{BATCH} sequences", "sequence_length": length, "precision": "float32"}
    student, plan = derive(teacher, Inherit(layers="half", choose="first"))
    kept = list(plan.kept)
    asked: dict[str, dict[str, Any]] = {
        "online": {"outputs": "online"}, "stored": {"outputs": "stored"},
        "online, hidden states": {"outputs": "online", "hidden_states": {"weight": 1}},
        "stored, hidden states": {"outputs": "stored", "hidden_states": {"weight": 1}},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        objectives, notes = {}, {}
        shared = Teacher(teacher, Path(folder))
        for name, distillation in asked.items():
            settings = Training.model_validate(tree | {"distillation": distillation})
            losses = build_losses(settings, LossSetup(None, student.config, teacher.config, kept))
            needs, width = TeacherNeeds.of(losses), teacher.get_output_embeddings().weight.shape[0]
            before = _size(folder)
            outputs, cost = shared.outputs(DistillationRequest(name, settings, sequences, 1, width, needs), here)
            objective = Objective(student, split_head(student), losses, outputs, block_modules(student))
            objectives[name], notes[name] = (objective, outputs), (_size(folder) - before, cost.get("teacher_seconds"))
        seconds: dict[str, list[float]] = {name: [] for name in asked}
        for turn in range(count + 1):
            numbers = np.arange(BATCH) + turn * BATCH
            examples = sequences.rows(numbers % sequences.count).examples()
            for name, (objective, outputs) in objectives.items():
                began = time.perf_counter()
                stored = outputs.stored(numbers % sequences.count * length)
                objective(examples.inputs, examples.targets, *stored)[0].backward()
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - began)
                student.zero_grad()
    print(f"\na step of {BATCH} x {length} tokens, of {sequences.count * length:,}\n")
    print("| outputs | a step | bytes stored | making them |\n| --- | --- | --- | --- |")
    for name, (size, took) in notes.items():
        made = "" if took is None else f"{took:.1f} s"
        print(f"| {name} | {statistics.median(seconds[name]):.2f} s | {size:,} | {made} |")


def _size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*.bin"))


def _gradients(logits_NV: torch.Tensor, taught: Distribution) -> torch.Tensor:
    leaf = logits_NV.clone().requires_grad_()
    divergences(leaf, taught, 1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad


if __name__ == "__main__":
    main()
