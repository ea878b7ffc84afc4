"""What is found damaged, or another's, when a training goes on; and signals that come when no step is left."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from inheritune import runtime
from inheritune.data import Sequences
from inheritune.errors import InputError, Interrupted
from inheritune.recipe import Training
from inheritune.runlog import read_metrics
from inheritune.training import Job, fault_of, list_checkpoints, train_steps
from inheritune.training.checkpoint import Checkpoints, TrainProgress, read_tensors

STEPS = 6


def model(layers: int = 2, width: int = 16) -> GPT2LMHeadModel:
    torch.manual_seed(3)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=40, n_positions=16, n_embd=width, n_layer=layers, n_head=2, bos_token_id=0, eos_token_id=0
        )
    )


def train(folder: Path, trained: torch.nn.Module, validate: Callable[[], float] = lambda: 0.5) -> torch.nn.Module:
    tree = {
        "length": f"{STEPS} steps", "batch": "4 sequences", "sequence_length": 8, "micro_batch": 4,
        "checkpoint": {"every": "2 steps", "keep": 9},
    }  # fmt: skip
    row = np.cumsum(np.random.default_rng(0).integers(1, 4, 400)) % 40
    job = Job(
        label="test", model=trained, sequences=Sequences(row.astype(np.uint16), 8, "test"),
        settings=Training.model_validate(tree), seed=5, folder=folder, runtime=runtime.start("cpu"),
        validate=lambda score: validate(), validate_every=2,
    )  # fmt: skip
    train_steps(job)
    return trained


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def step(folder: Path, number: int) -> Path:
    return folder / "checkpoints" / f"step-{number:09d}"


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(caplog.messages)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    losses = iter([3.0, 2.0, 1.5, 1.7])  # best is step 4
    train(folder, model(), lambda: next(losses))
    return folder


@pytest.fixture
def broken_off(finished: Path, tmp_path: Path) -> Path:
    """A training that was killed after step 5."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(step(folder, 6))
    return folder


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ('"step": 4', '"step": 2', "has changed"),
        ('"skipped": 0', '"skipped": 9', "has changed"),
        ('"micro_batch": 4', '"micro_bbtch": 4', "has changed"),
        ('"checksum": "', '"checksum": "0', "has changed"),
        ('"checksums": {', '"checksumz": {', "cannot be read"),
        ("{", "[", "cannot be read"),
    ],
)
def test_a_changed_fact_is_noticed_and_the_checkpoint_before_is_used(
    finished: Path, broken_off: Path, caplog: pytest.LogCaptureFixture, before: str, after: str, fault: str
) -> None:
    facts = step(broken_off, 4) / "checkpoint.json"
    assert before in facts.read_text()
    facts.write_text(facts.read_text().replace(before, after, 1))
    caplog.set_level("INFO", "inheritune")
    trained = train(broken_off, model())
    words = said(caplog)
    assert f"{step(broken_off, 4)} is damaged (checkpoint.json {fault}); it is removed" in words
    assert "resuming from step 2 of 6" in words
    assert same(trained, train(finished, model()))


def test_every_flipped_bit_of_the_facts_is_noticed_or_says_the_same(broken_off: Path) -> None:
    place = step(broken_off, 4)
    content = (place / "checkpoint.json").read_bytes()
    for at in range(len(content)):
        (place / "checkpoint.json").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        if fault_of(place) is None:  # the last digit of a number may be one that does not count
            assert json.loads((place / "checkpoint.json").read_bytes()) == json.loads(content)


def test_what_cannot_be_seen_is_not_taken_for_damage(broken_off: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer for a moment must not cost a checkpoint."""
    plain = Path.open

    def read(self: Path, *given: Any, **more: Any) -> Any:
        if self.name == "checkpoint.json" and "step-000000004" in str(self):
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", read)
        with pytest.raises(PermissionError):
            train(broken_off, model())
    assert list_checkpoints(broken_off / "checkpoints") == [2, 4]


def test_a_file_under_a_checkpoints_name_is_taken_away(broken_off: Path, caplog: pytest.LogCaptureFixture) -> None:
    step(broken_off, 99).write_text("x")
    train(broken_off, model())
    assert "step-000000099 is damaged (checkpoint.json is missing)" in said(caplog)
    assert list_checkpoints(broken_off / "checkpoints") == [2, 4, 6]


def test_damaged_best_weights_are_named_and_removed(broken_off: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = broken_off / "checkpoints" / "best"
    next(best.glob("*.safetensors")).write_bytes(b"")
    train(broken_off, model(), lambda: 1.6)
    assert f"{best} is damaged" in said(caplog)
    assert not best.exists()  # 1.6 is above the 1.5 that metrics.jsonl has at step 4


@pytest.mark.parametrize("other", [model(layers=1), model(layers=3), model(width=8)], ids=["less", "more", "narrow"])
def test_checkpoints_of_another_model_are_not_taken_over(broken_off: Path, other: torch.nn.Module) -> None:
    with pytest.raises(InputError, match=r"step-000000004: belongs to another model: .* missing or of another shape"):
        train(broken_off, other)
    assert list_checkpoints(broken_off / "checkpoints") == [2, 4]


@pytest.mark.parametrize("shape", [(3,), (2, 2)], ids=["missing", "of another shape"])
def test_states_that_do_not_fit_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    place = runtime.Runtime("cpu", 1)
    held = Checkpoints(tmp_path, 3, place)
    stored = {"model/a": torch.zeros(3), "optimizer/a/exp_avg": torch.zeros(3)}
    held.save(TrainProgress(1), stored)
    held.wait()
    name = "optimizer/a/momentum_buffer" if shape == (3,) else "optimizer/a/exp_avg"
    with pytest.raises(InputError, match=rf"1 tensors are missing or of another shape \({name} "):
        read_tensors(tmp_path / "step-000000001", {"model/a": torch.zeros(3), name: torch.zeros(shape)}, place)
    held.close()


@pytest.mark.parametrize("line", ["", "17", '{"step": 3, "lo', '{"loss": 1.0}', '{"step": "3"}', "\x00\x00"])
def test_a_damaged_line_of_the_metrics_costs_that_line(
    finished: Path, broken_off: Path, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    file = broken_off / "metrics.jsonl"
    lines = file.read_text().splitlines()
    lines[3] = line
    file.write_text("\n".join(lines) + "\n")
    trained = train(broken_off, model())
    assert "metrics.jsonl is damaged: 1 of the steps up to 4 are missing" in said(caplog)
    assert [record["step"] for record in read_metrics(file)] == [0, 1, 2, 4, 5, 6]
    assert same(trained, train(finished, model()))


@pytest.mark.parametrize("at", [1, 4], ids=["before the first step", "behind the last step"])
def test_a_signal_when_no_step_runs_is_not_lost(tmp_path: Path, at: int) -> None:
    """It comes in a validation; behind the last step hours of other stages might follow."""
    calls = iter(range(1, 99))

    def validate() -> float:
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return 0.5

    stopped = {1: 1, 4: STEPS}[at]
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {stopped} of {STEPS}"):
        train(tmp_path / "run", model(), validate)
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1] == stopped
    assert same(train(tmp_path / "run", model()), train(tmp_path / "straight", model()))
