"""What training costs: `inheritune`, a plain loop and the Hugging Face Trainer, in one run, alternating.

    python benchmarks/training.py                                   # the standard shape, 2 cores
    python benchmarks/training.py --shape openllama-1.5b --micro-batch 4 --ways inheritune Trainer    # a GPU

Every way trains the same shape, from random weights, on random tokens: the same batch, AdamW with the fused kernel,
gradients clipped at norm 1. Each is a process of its own that stays and is asked in turn for a few steps; while one
works the others wait, so all meet the same machine. The first turn, in which they compile, does not count. Before each
round the machine's limit is measured, as `inheritune bench` does. With several ways on a GPU, their memory adds up.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WAYS = (
    "plain",
    "plain, compiled",
    "transformers",
    "transformers, compiled",
    "Trainer",
    "Trainer, compiled",
    "inheritune",
)


class GPT(nn.Module):
    """GPT-2 as one writes it for research: learned positions, norms first, GELU, the head tied to the embedding."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden = config.n_embd
        self.tokens, self.positions = nn.Embedding(config.vocab_size, hidden), nn.Embedding(config.n_positions, hidden)
        self.blocks = nn.ModuleList(GPTBlock(hidden, config.n_head) for _ in range(config.n_layer))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, config.vocab_size, bias=False)
        self.apply(small)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class GPTBlock(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Llama(nn.Module):
    """Llama likewise: rotary positions, RMS norms, gated MLP, a head of its own."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, size = config.hidden_size, config.hidden_size // config.num_attention_heads
        self.tokens = nn.Embedding(config.vocab_size, hidden)
        self.blocks = nn.ModuleList(LlamaBlock(config) for _ in range(config.num_hidden_layers))
        self.norm, self.head = nn.RMSNorm(hidden, eps=1e-6), nn.Linear(hidden, config.vocab_size, bias=False)
        rates = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(config.max_position_embeddings), rates).repeat(1, 2)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        self.apply(small)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, length = self.tokens(tokens), tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cosine[:length], self.sine[:length])
        return self.head(self.norm(x))


class LlamaBlock(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, wide, self.heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
        self.norm1, self.norm2 = nn.RMSNorm(hidden, eps=1e-6), nn.RMSNorm(hidden, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(hidden, wide, bias=False), nn.Linear(hidden, wide, bias=False)
        self.down = nn.Linear(wide, hidden, bias=False)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = x.shape
        normed = self.norm1(x)
        q, k, v = (
            part(normed).view(batch, length, self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        q, k = (part * cosine + rotated(part) * sine for part in (q, k))
        mixed = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))
        normed = self.norm2(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


def rotated(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def small(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Turns:
    """A child's side: waits to be asked, and answers with the seconds that its steps took and its peak memory."""

    def __init__(self, device: str) -> None:
        self.device, self.began = device, 0.0
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints is no answer

    def next(self) -> None:
        """Between two turns: answer for the last one, wait for the next. Ends the process when there is none."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        if self.began:
            answer = {"seconds": time.perf_counter() - self.began, "memory": peak(self.device)}
            print(json.dumps(answer), file=self.answers, flush=True)
        if sys.stdin.readline().strip() != "go":
            os._exit(0)
        self.began = time.perf_counter()


def peak(device: str) -> int:
    """The largest memory so far: tensors on a GPU, else the process's resident set; in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


class Task:
    """What all ways have in common."""

    def __init__(self, words: argparse.Namespace) -> None:
        from inheritune.bench.shapes import resolve
        from inheritune.runtime import start

        batch = {} if words.batch is None else {"batch": f"{words.batch} sequences"}
        self.runtime = start(words.device)
        self.name, self.config, settings = resolve(words.shape, batch, self.runtime)
        self.micro = words.micro_batch or settings.batch_sequences
        self.settings = settings.model_copy(update={"micro_batch": self.micro})
        self.length, self.steps = settings.sequence_length, words.steps
        self.precision = self.runtime.resolve_precision(settings.precision)

    def tokens(self) -> torch.Tensor:
        """A micro-batch of random tokens and the one behind it, shape (B, T + 1)."""
        return torch.randint(self.config.vocab_size, (self.micro, self.length + 1)).to(self.runtime.device)

    def autocast(self) -> Any:
        return torch.autocast(self.runtime.device, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


def plain_loop(task: Task, model: nn.Module, compiled: bool, logits_of: Any, turns: Turns) -> None:
    """The loop of research code; never returns."""
    model = model.to(task.runtime.device)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    parts = task.settings.batch_sequences // task.micro
    while True:
        turns.next()
        for _ in range(task.steps):
            for _ in range(parts):
                tokens = task.tokens()
                with task.autocast():
                    logits = logits_of(forward, tokens[:, :-1])
                    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) / parts
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if not math.isfinite(loss.item()):
                raise SystemExit("the loss is not finite")


def trainer(task: Task, compiled: bool, turns: Turns, folder: Path) -> None:
    """The Hugging Face Trainer with as little beside training as it allows; never returns."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Asked(TrainerCallback):
        def on_train_begin(self, *given: Any, **more: Any) -> None:
            turns.next()

        def on_step_end(self, arguments: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step % task.steps == 0:
                turns.next()

    rows = torch.randint(task.config.vocab_size, (64 * task.micro, task.length))
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=10**6, per_device_train_batch_size=task.micro,
        gradient_accumulation_steps=task.settings.batch_sequences // task.micro, optim="adamw_torch_fused",
        learning_rate=3e-4, weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, lr_scheduler_type="constant",
        bf16=task.precision == "bfloat16", torch_compile=compiled, use_cpu=task.runtime.device == "cpu",
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(task.config, attn_implementation="sdpa", dtype=torch.float32)
    data = [{"input_ids": row, "labels": row} for row in rows]
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Asked()]).train()


def ours(task: Task, turns: Turns, folder: Path) -> None:
    """The engine: between its steps it asks for a validation loss, and there it waits for its turn; never returns."""
    import numpy as np

    from inheritune.arch import build_random, parts_of
    from inheritune.data import Sequences
    from inheritune.recipe import Training, check
    from inheritune.training import Job, train_steps

    def wait(score: Any) -> float:
        turns.next()
        return 0.0

    tree = task.settings.model_dump(mode="json") | {"length": "1M steps"}
    tree["checkpoint"] = {"every": "10M steps", "best": False}
    count = 64 * task.settings.batch_sequences * task.length + 1
    row = np.random.default_rng(1).integers(0, task.config.vocab_size, count, dtype=np.uint16)
    model = build_random(task.config, 1)
    train_steps(
        Job(
            label="benchmark", model=model,
            sequences=Sequences(row, task.length, "benchmark"), settings=check(Training, tree, "benchmark"), seed=1,
            folder=folder, runtime=task.runtime, validate=wait,
            validate_every=task.steps, **parts_of(model),
        )
    )  # fmt: skip


def one_way(words: argparse.Namespace, folder: Path) -> None:
    """A child process: train in one way for as long as asked."""
    from transformers import AutoModelForCausalLM

    task, way = Task(words), words.way
    turns = Turns(task.runtime.device)
    compiled = way.endswith("compiled")
    if way == "inheritune":
        ours(task, turns, folder)
    elif way.startswith("Trainer"):
        trainer(task, compiled, turns, folder)
    elif way.startswith("plain"):
        model = GPT(task.config) if task.config.model_type == "gpt2" else Llama(task.config)
        plain_loop(task, model, compiled, lambda forward, tokens: forward(tokens), turns)
    else:
        theirs = AutoModelForCausalLM.from_config(task.config, attn_implementation="sdpa", dtype=torch.float32)
        plain_loop(
            task, theirs, compiled, lambda forward, tokens: forward(input_ids=tokens, use_cache=False).logits, turns
        )


class Child:
    """The parent's side of a way."""

    def __init__(self, way: str, folder: Path, script: str = __file__) -> None:
        self.way, self.said = way, folder / "said"
        folder.mkdir()
        command = [sys.executable, script, *sys.argv[1:], "--way", way, "--folder", str(folder)]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )

    def turn(self) -> dict[str, float]:
        """Ask for some steps and wait for them. Ends the benchmark when the way has failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.way} failed:\n" + self.said.read_text()[-3000:])
        return dict(json.loads(answer))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(
    words: argparse.Namespace, task: Task, folder: Path
) -> tuple[dict[str, list[dict[str, float]]], list[float]]:
    """All ways in turn, each round beginning with another; and the machine's limit before each round, FLOP/s."""
    from inheritune.bench import matrix_rates

    dtype = torch.float32 if task.precision == "float32" else torch.bfloat16
    children: list[Child] = []
    found: dict[str, list[dict[str, float]]] = {way: [] for way in words.ways}
    limits: list[float] = []
    try:
        for number, way in enumerate(words.ways):
            children.append(Child(way, folder / str(number)))
            print(f"{way}: first turn {children[-1].turn()['seconds']:.1f} s", file=sys.stderr)
        for turn in range(words.rounds):
            limits += matrix_rates(task.runtime, dtype)
            for at in range(len(children)):
                child = children[(turn + at) % len(children)]
                found[child.way].append(child.turn())
            limits += matrix_rates(task.runtime, dtype)
            print(f"round {turn + 1} of {words.rounds}", file=sys.stderr)
    finally:
        for child in children:
            child.close()
    return found, limits


def show(task: Task, found: dict[str, list[dict[str, float]]], limits: list[float]) -> None:
    """Medians, what part of the limit they are, and ratios within rounds."""
    from inheritune.arch import build_skeleton, training_flops_per_token

    flops = training_flops_per_token(build_skeleton(task.config), task.length)
    tokens, limit = task.steps * task.settings.batch_tokens, statistics.median(limits)
    print(
        f"{task.name}, {task.settings.batch_sequences} x {task.length} tokens a step, {task.precision},"
        f" {flops / 1e6:,.1f} MFLOP a token; limit {limit / 1e9:,.0f} GFLOP/s"
        f" ({min(limits) / 1e9:,.0f} to {max(limits) / 1e9:,.0f}); {len(limits) // 6} rounds of {task.steps} steps"
    )
    print()
    print("| way | tokens/s: median (lowest to highest) | of the limit | inheritune is faster by | peak memory |")
    print("| --- | --- | --- | --- | --- |")
    for way, turns in found.items():
        rates = [tokens / turn["seconds"] for turn in turns]
        ratio = "-"
        if "inheritune" in found and way != "inheritune":
            pairs = zip(turns, found["inheritune"], strict=True)
            ratio = f"{statistics.median(one['seconds'] / our['seconds'] for one, our in pairs):.3f} x"
        middle = statistics.median(rates)
        print(
            f"| {way} | {middle:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {middle * flops / limit:.3f} | {ratio}"
            f" | {max(turn['memory'] for turn in turns) / 2**30:.2f} GiB |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="standard")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="steps of one turn")
    parser.add_argument("--batch", type=int, help="sequences of one optimizer step; default: the shape's")
    parser.add_argument("--micro-batch", type=int, help="sequences that pass at once; default: the whole batch")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.way is not None:
        one_way(words, words.folder)
        return
    task = Task(words)
    with tempfile.TemporaryDirectory() as place:
        show(task, *measure(words, task, Path(place)))


if __name__ == "__main__":
    main()
