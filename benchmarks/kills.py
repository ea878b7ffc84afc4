"""Kill a training (SIGKILL) at random instants, start it again each time, and compare the end with an undisturbed one.

    python benchmarks/kills.py                        # 50 kills, about 5 minutes on a core
    python benchmarks/kills.py --kills 6 --seed 3

A tiny Llama is trained by `inheritune train`, with a checkpoint after every step. An instant lies in the first seconds
of a process, or at random after its first step, or while a checkpoint is being written, or between two. A training that
comes to its end is compared: every bit of the weights, and every step once in metrics.jsonl with the same losses. Then
the next one begins. Exit status 1 where anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from inheritune.training import fault_of, list_checkpoints

STEPS = 150
TRAIN = [
    "--length", f"{STEPS} steps", "--sequence-length", "16", "--batch", "4 sequences", "--micro_batch=2",
    "--evaluate-every", "20 steps", "--checkpoint.every=1 steps", "--optimizer.learning_rate=3e-3",
    "--device", "cpu", "--quiet",
]  # fmt: skip
WORDS = ["a", "model", "is", "killed", "while", "it", "learns", "and", "goes", "on", "as", "if", "nothing", "happened"]
PHASES = ("starting", "stepping", "writing a checkpoint")


def make_inputs(place: Path) -> None:
    """A tiny model with dropout in its attention, its tokenizer, and prepared text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from inheritune.corpus import prepare
    from inheritune.data import train_tokenizer

    draw = random.Random(0)
    texts = [f"Document {number}: " + " ".join(draw.choices(WORDS, k=150)) for number in range(60)]
    (place / "text").mkdir()
    for number, text in enumerate(texts):
        (place / "text" / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    tokenizer = train_tokenizer(iter(texts), 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        attention_dropout=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    prepare({"sources": [{"path": str(place / "text")}], "validation": "600 tokens"}, tokenizer, place / "data")


def begin(place: Path, out: Path) -> "subprocess.Popen[str]":
    words = ["train", str(place / "model"), str(out), "--data", str(place / "data"), *TRAIN]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "inheritune", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=surroundings,
    )  # fmt: skip


class Watch:
    """Sees from outside whether a process has made a step: it has put metrics.jsonl there anew, and that has grown."""

    def __init__(self, out: Path) -> None:
        self.file, self.checkpoints = out / "metrics.jsonl", out / "checkpoints"
        self.before, self.began = self._now(), (0, 0)

    def _now(self) -> tuple[int, int]:
        try:
            found = self.file.stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size

    def has_stepped(self) -> bool:
        now = self._now()
        if now[0] == self.before[0]:
            return False
        if self.began[0] == 0:
            self.began = now
        return now[1] > self.began[1]

    def is_writing(self) -> bool:
        return any(self.checkpoints.glob(".step-*.partial"))


def kill(place: Path, out: Path, draw: random.Random, starting: float) -> tuple[str | None, float]:
    """Go on with a training and kill it; returns the phase that was hit (none: it had ended), and the seconds until
    the first step (`starting`, where there was none).
    """
    plan = draw.choices(["start", "any", "write", "between"], [0.15, 0.3, 0.3, 0.25])[0]
    delay = draw.uniform(0, starting if plan == "start" else 0.4)
    watch, clock = Watch(out), time.monotonic()
    process = begin(place, out)
    if plan != "start":
        while process.poll() is None and not watch.has_stepped():
            time.sleep(0.001)
        starting = time.monotonic() - clock
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        if plan == "write":
            while process.poll() is None and not watch.is_writing():
                pass
            time.sleep(draw.uniform(0, 0.03))
        while plan == "between" and process.poll() is None and watch.is_writing():
            pass
    stepped = watch.has_stepped()
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1]
    if process.returncode == 0:
        return None, starting
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"ended by itself with status {process.returncode}: {said}")
    return PHASES[2] if watch.is_writing() else PHASES[1] if stepped else PHASES[0], starting


def damage(out: Path) -> str | None:
    """What a kill has left that it must not: a newest checkpoint that is not whole, or metrics with gaps before it."""
    steps = list_checkpoints(out / "checkpoints")
    if not steps:
        return None
    fault = fault_of(out / "checkpoints" / f"step-{steps[-1]:09d}")
    if fault is not None:
        return f"the newest checkpoint, of step {steps[-1]}: {fault}"
    found = [step for step, *_ in metrics(out) if step <= steps[-1]]
    return None if found == list(range(steps[-1] + 1)) else f"metrics up to step {steps[-1]}: {found[-5:]} at the end"


def metrics(out: Path) -> list[tuple[Any, ...]]:
    """Step, losses, rate and gradient norm of each whole line."""
    lines = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith(b"\n")]
    wanted = ("step", "tokens", "loss", "val_loss", "learning_rate", "gradient_norm")
    return [tuple(record.get(name) for name in wanted) for record in records]


def weights(out: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    files = sorted((out / "model").glob("*.safetensors"))
    return {name: tensor.numpy().tobytes() for file in files for name, tensor in load_file(file).items()}


def finish(place: Path, out: Path) -> None:
    said = (process := begin(place, out)).communicate()[1]
    if process.returncode:
        raise SystemExit(f"ended with status {process.returncode}: {said}")


def differences(out: Path, expected: Path) -> list[str]:
    found = []
    ours, theirs = weights(out), weights(expected)
    if ours != theirs:
        found.append(f"{sum(ours.get(name) != theirs[name] for name in theirs)} of {len(theirs)} tensors differ")
    records = metrics(out)
    if [record[0] for record in records] != list(range(STEPS + 1)):
        found.append("steps are missing or repeated in metrics.jsonl")
    elif records != metrics(expected):
        found.append("losses differ")
    left = [str(path.relative_to(out)) for path in out.rglob(".*.partial")]
    return found + [f"left behind: {name}" for name in left]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="draws the instants")
    words = parser.parse_args()
    draw, hit, wrong, clock = random.Random(words.seed), Counter[str](), list[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_inputs(place)
        straight = place / "straight"
        watch, begun, starting = Watch(straight), time.monotonic(), 0.0
        with begin(place, straight) as process:
            while process.poll() is None and not watch.has_stepped():
                time.sleep(0.001)
            starting = time.monotonic() - begun
            said = process.communicate()[1]
        if process.returncode:
            raise SystemExit(f"ended with status {process.returncode}: {said}")
        trainings = 0
        while hit.total() < words.kills:
            trainings += 1
            out = place / f"killed-{trainings}"
            while hit.total() < words.kills:
                phase, starting = kill(place, out, draw, starting)
                if phase is None:
                    break
                hit[phase] += 1
                if (fault := damage(out)) is not None:
                    wrong.append(f"training {trainings}, kill {hit.total()} ({phase}): {fault}")
            finish(place, out)
            wrong += [f"training {trainings}: {what}" for what in differences(out, straight)]
    print(f"{hit.total()} kills in {trainings} trainings of {STEPS} steps, each with a checkpoint; seed {words.seed}")
    print(f"{time.monotonic() - clock:.0f} s; a process took {starting:.1f} s to its first step")
    for phase in PHASES:
        print(f"  {phase}: {hit[phase]}")
    for line in wrong:
        print(f"WRONG: {line}")
    print("DIFFERS" if wrong else "all trainings ended with the weights of the undisturbed one, bit for bit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
