"""The loop against a plain one written out here, and its promises: splits, resuming, damage, numbers that are not finite."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import on_gpu
from inheritune import runtime
from inheritune.data import Sequences, batch_numbers
from inheritune.errors import InputError, Interrupted, RunError
from inheritune.recipe import Training
from inheritune.runlog import read_metrics
from inheritune.training import Job, list_checkpoints, train_steps

GOLDEN = [
    3.7105,
    3.6991,
    3.7085,
    3.6321,
    3.5857,
    3.6082,
]  # recorded with the order of sequences that data.loader has; guards every later change


def model(dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def sequences() -> Sequences:
    row = np.cumsum(np.random.default_rng(0).integers(1, 4, 400)) % 40  # each token says much about the next
    return Sequences(row.astype(np.uint16), 8, "test")


def settings(**more: Any) -> Training:
    return Training.model_validate(
        {
            "length": "6 steps",
            "batch": "4 sequences",
            "sequence_length": 8,
            "micro_batch": 4,
            "optimizer": {"learning_rate": 0.02},
            "schedule": {"warm_up": "2 steps"},
            "checkpoint": {"every": "2 steps", "keep": 2},
            **more,
        }
    )


@dataclass
class Stop(Exception):
    step: int


def train(
    folder: Path, trained: torch.nn.Module, validate: Callable[[], float] = lambda: 0.5, **more: Any
) -> torch.nn.Module:
    job = Job(
        label="test", model=trained, sequences=sequences(), settings=settings(**more), seed=5, folder=folder,
        runtime=runtime.start("cpu"), validate=lambda score: validate(), validate_every=2,
    )  # fmt: skip
    train_steps(job)
    return trained


def stop_at(step: int) -> Callable[[], float]:
    """A validation that breaks off the training when it is asked for the loss after `step`."""
    calls = iter(range(0, 1000, 2))

    def validate() -> float:
        if next(calls) == step:
            raise Stop(step)
        return 0.5

    return validate


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_it_is_the_plain_loop(tmp_path: Path) -> None:
    trained = train(tmp_path, model())
    plain = model()
    decay = [p for p in plain.parameters() if p.dim() >= 2]
    rest = [p for p in plain.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.02, betas=(0.9, 0.95)
    )
    rates = [0.01, 0.02] + [0.02 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * k / 3))) for k in range(4)]
    losses = []
    for step in range(6):
        rows = torch.from_numpy(sequences().rows(batch_numbers(step, 4, sequences().count, 5)).windows)
        loss = plain(input_ids=rows, labels=rows).loss  # transformers shifts the labels itself
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        losses.append(loss.item())
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        # rounding noise in gradients that are zero but for it (a key's bias) is scaled up by Adam
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)
    recorded = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert recorded == pytest.approx(losses, rel=1e-4)


def test_golden_losses(tmp_path: Path) -> None:
    train(tmp_path, model())
    recorded = [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert recorded == pytest.approx(GOLDEN, abs=2e-3)


def test_the_split_into_micro_batches_does_not_matter(tmp_path: Path) -> None:
    whole = train(tmp_path / "4", model(), micro_batch=4)
    for micro_batch in (1, 3):
        split = train(tmp_path / str(micro_batch), model(), micro_batch=micro_batch)
        for a, b in zip(whole.parameters(), split.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


def test_metrics_have_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path, model(), stop_at(4))
    train(tmp_path, model())
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(7))
    assert [record["step"] for record in records if "val_loss" in record] == [0, 2, 4, 6]
    assert [record["tokens"] for record in records] == [step * 32 for step in range(7)]


@pytest.mark.parametrize("step", [0, 2, 4, 6])
def test_going_on_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    straight = train(tmp_path / "straight", model(dropout=0.1))
    with pytest.raises(Stop):
        train(tmp_path / "broken", model(dropout=0.1), stop_at(step))
    torch.manual_seed(999)  # a new process has another random state
    resumed = train(tmp_path / "broken", model(dropout=0.1))
    assert same(straight, resumed)
    assert not same(straight, model(dropout=0.1))


TENSORS = "shard-00001-model-00001-of-00001.safetensors"


@pytest.mark.parametrize("file", [TENSORS, "checkpoint.json"])
@pytest.mark.parametrize("fault", ["cut", "changed", "missing"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, fault: str
) -> None:
    caplog.set_level("INFO", "inheritune")
    straight = train(tmp_path / "straight", model())
    with pytest.raises(Stop):
        train(tmp_path / "run", model(), stop_at(6))
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == [2, 4]
    broken = tmp_path / "run" / "checkpoints" / "step-000000004" / file
    content = broken.read_bytes()
    if fault == "missing":
        broken.unlink()
    else:
        middle = len(content) // 2
        broken.write_bytes(
            content[:middle] if fault == "cut" else content[:middle] + b"\x00\xff" + content[middle + 2 :]
        )
    job = Job(
        label="test", model=model(), sequences=sequences(), settings=settings(), seed=5, folder=tmp_path / "run",
        runtime=runtime.start("cpu"), validate=lambda score: 0.5, validate_every=2,
    )  # fmt: skip
    train_steps(job)
    said = " ".join(caplog.messages)
    assert "step-000000004 is damaged" in said
    assert "resuming from step 2" in said
    assert same(straight, job.model)


def test_all_checkpoints_damaged_begins_again(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight", model())
    with pytest.raises(Stop):
        train(tmp_path / "run", model(), stop_at(6))
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        (checkpoint / TENSORS).write_bytes(b"")
    assert same(straight, train(tmp_path / "run", model()))


def test_as_many_checkpoints_stay_as_asked(tmp_path: Path) -> None:
    train(tmp_path, model(), checkpoint={"every": "1 steps", "keep": 3})
    assert list_checkpoints(tmp_path / "checkpoints") == [4, 5, 6]


def test_a_half_written_checkpoint_is_none(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "run", model(), stop_at(4))
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-000000002", folder / ".step-000000004.partial")
    assert list_checkpoints(folder) == [2]
    assert same(train(tmp_path / "run", model()), train(tmp_path / "straight", model()))


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    poisoned = model()
    with torch.no_grad():
        poisoned.transformer.wte.weight[3] = float("nan")
    with pytest.raises(RunError, match="step 1: the loss is nan"):
        train(tmp_path, poisoned)
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_interrupted_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    import os
    import signal

    def interrupt() -> float:
        if not (tmp_path / "sent").exists():
            (tmp_path / "sent").write_text("")
            os.kill(os.getpid(), signal.SIGTERM)
        return 0.5

    with pytest.raises(Interrupted, match="run the same command again"):
        train(tmp_path, model(), interrupt, checkpoint={"every": "60 minutes"})
    assert list_checkpoints(tmp_path / "checkpoints") == [1]
    assert same(train(tmp_path, model()), train(tmp_path / "straight", model()))


def test_interrupted_in_the_first_validation_it_waits_for_no_more_of_it(tmp_path: Path) -> None:
    """It may take minutes, and nothing was done yet."""
    import os
    import signal

    judged = 0

    def validate(score: Callable[[Any], torch.Tensor]) -> float:
        nonlocal judged
        for first in range(0, 8, 2):
            if first == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            score(sequences().rows([first, first + 1]).examples())
            judged += 1
        return 0.5

    job = Job(
        label="test", model=model(), sequences=sequences(), settings=settings(), seed=5, folder=tmp_path,
        runtime=runtime.start("cpu"), validate=validate, validate_every=2,
    )  # fmt: skip
    with pytest.raises(Interrupted, match="stopped by SIGTERM before the first step; nothing of it was done"):
        train_steps(job)
    assert judged == 2


def test_lengths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="less than one step"):
        train(tmp_path, model(), length="31 tokens")
    with pytest.raises(InputError, match="6 of 6 steps"):
        train(tmp_path, model(), schedule={"warm_up": "6 steps"})


@pytest.mark.long
def test_compiled_it_learns_the_same(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++, which is not on this machine")
    plain, compiled = train(tmp_path / "plain", model()), train(tmp_path / "compiled", model(), compile=True)
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=on_gpu())],
)
def test_bfloat16_stays_near_float32(tmp_path: Path, device: str) -> None:
    def losses(precision: str) -> list[float]:
        job = Job(
            label="test", model=model().to(device), sequences=sequences(), settings=settings(precision=precision), seed=5,
            folder=tmp_path / precision, runtime=runtime.start(device),
            validate=lambda score: 0.5, validate_every=2,
        )  # fmt: skip
        train_steps(job)
        return [record["loss"] for record in read_metrics(tmp_path / precision / "metrics.jsonl") if "loss" in record]

    exact, rough = losses("float32"), losses("bfloat16")
    assert rough != exact
    assert rough == pytest.approx(exact, abs=0.05)


def test_the_rates_that_are_planned_are_recorded_before_the_first_step(tmp_path: Path) -> None:
    train(tmp_path, model())
    first, *steps = read_metrics(tmp_path / "metrics.jsonl")
    assert first["step"] == 0
    assert first["planned_rates"] == [[record["step"], record["learning_rate"]] for record in steps]
    train(tmp_path / "long", model(), length="250 steps", checkpoint={"every": "250 steps"})
    first, *steps = read_metrics(tmp_path / "long" / "metrics.jsonl")
    rates = {record["step"]: record["learning_rate"] for record in steps}
    assert (first["planned_rates"][0][0], first["planned_rates"][-1][0]) == (1, 250)
    assert len(first["planned_rates"]) == 101
    assert all(rates[step] == rate for step, rate in first["planned_rates"])
