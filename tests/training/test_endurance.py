"""What a training survives: loss spikes, kills in the middle of a return, and which weights were best."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import heard, stored_tensors
from inheritune import runtime
from inheritune.data import Array, Sequences, batch_numbers
from inheritune.errors import RunError
from inheritune.recipe import Training
from inheritune.report.curves import Curve, Curves
from inheritune.report.run_folder import TrainingFolder
from inheritune.report.sections.loss_curves import draw_curves
from inheritune.runlog import read_metrics
from inheritune.training import Job, fault_of, list_checkpoints, train_steps
from inheritune.training.checkpoint import read_position

LENGTH, BATCH, SEED, STEPS = 8, 4, 5, 30
ODD = 39  # a token that occurs only in poisoned sequences, and that the model finds very unlikely

RENDERS = True  # a figure is looked at


def model(dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, tie_word_embeddings=False,
    )  # fmt: skip
    made = GPT2LMHeadModel(config)
    with torch.no_grad():
        made.transformer.ln_f.bias[0] = 10.0
        made.lm_head.weight[:, 0] = 0.0
        made.lm_head.weight[ODD, 0] = -3.0  # a logit of -30
    return made


def sequences(odd: set[int] = frozenset()) -> Sequences:  # type: ignore[assignment]
    row = np.cumsum(np.random.default_rng(0).integers(1, 4, 200 * LENGTH + 1)) % ODD
    for number in odd:
        row[number * LENGTH + 1 : number * LENGTH + LENGTH] = ODD
    return Sequences(row.astype(np.uint16), LENGTH, "test")


def batches(*which: int) -> set[int]:
    """The sequences of the batches of these numbers."""
    return {number for batch in which for number in batch_numbers(batch, BATCH, sequences().count, SEED)}


def train(
    folder: Path, trained: torch.nn.Module, odd: set[int] = frozenset(),  # type: ignore[assignment]
    validate: Callable[[], float] = lambda: 0.5, queued: int | None = None, row: Sequences | None = None,
    trackers: Any = None, **more: Any,
) -> torch.nn.Module:  # fmt: skip
    tree = {
        "length": f"{STEPS} steps", "batch": f"{BATCH} sequences", "sequence_length": LENGTH, "micro_batch": 4,
        "optimizer": {"learning_rate": 0.01}, "schedule": {"warm_up": "2 steps"}, "spike": 1.5,
        "checkpoint": {"every": "4 steps", "keep": 2},
    }  # fmt: skip
    job = Job(
        label="test", model=trained, sequences=row or sequences(odd), settings=Training.model_validate(tree | more),
        seed=SEED, folder=folder, runtime=runtime.start("cpu"), trackers=trackers, queued=queued,
        validate=lambda score: validate(), validate_every=5,
    )  # fmt: skip
    train_steps(job)
    return trained


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def story(folder: Path) -> list[dict[str, Any]]:
    """The metrics without the times."""
    times = ("seconds", "tokens_per_second")
    return [{k: v for k, v in record.items() if k not in times} for record in read_metrics(folder / "metrics.jsonl")]


def events(folder: Path) -> list[tuple[int, int, list[int]]]:
    found = [record for record in story(folder) if "event" in record]
    assert all(record["event"] == "spike" for record in found)
    return [(record["step"], record["at_step"], record["skipped_batches"]) for record in found]


@pytest.fixture(params=[0, 1], ids=["plain", "queued"])
def queued(request: pytest.FixtureRequest) -> int:
    """Steps are looked at at once, or when another one is queued, as on a GPU."""
    return int(request.param)


class WithoutTwo(Sequences):
    """A text whose batches 16 and 17 are left out."""

    def batch_starts(self, step: int, batch: int, seed: int) -> Array:
        return super().batch_starts(step + 2 * (step >= 16), batch, seed)


def test_a_spike_goes_back_and_leaves_out_the_batches(
    tmp_path: Path, queued: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    trained = train(tmp_path / "run", model(0.1), batches(17), queued=queued)
    # batch 17 is step 18; the checkpoint before it is that of step 16
    assert events(tmp_path / "run") == [(16, 18, [16, 17])]
    said = " ".join(caplog.messages)
    assert "at step 18; resuming from step 16 without the batches 16 to 17" in said
    steps = [record["step"] for record in story(tmp_path / "run") if "event" not in record]
    assert steps == list(range(STEPS + 1))
    spike = next(record for record in story(tmp_path / "run") if "event" in record)
    left_out = {record["step"]: record.get("batches_left_out") for record in story(tmp_path / "run")[1:]}
    assert left_out == {step: 2 if step > 16 else None for step in range(1, STEPS + 1)}
    assert spike["loss"] > 1.5 * max(record["loss"] for record in story(tmp_path / "run")[1:16])
    place = tmp_path / "run" / "checkpoints" / f"step-{STEPS:09d}"
    assert (read_position(place).step, read_position(place).skipped) == (STEPS, 2)
    assert same(trained, train(tmp_path / "again", model(0.1), batches(17), queued=queued))
    assert story(tmp_path / "run") == story(tmp_path / "again")
    # what was learned is what a training on the other batches learns
    row = WithoutTwo(sequences().tokens, LENGTH, "test")
    assert same(trained, train(tmp_path / "without", model(0.1), row=row, queued=queued, spike=None))


def test_without_spike_in_the_recipe_it_goes_on(tmp_path: Path, queued: int) -> None:
    train(tmp_path, model(), batches(17), queued=queued, spike=None)
    assert events(tmp_path) == []
    losses = [record["loss"] for record in story(tmp_path) if "loss" in record]
    assert losses[17] > 1.5 * max(losses[:17])


def test_several_spikes_at_one_checkpoint_and_at_others(tmp_path: Path, queued: int) -> None:
    odd = batches(17, 20, 21, 30)
    trained = train(tmp_path, model(), odd, queued=queued)
    # 16 without 16, 17; then 18, 19, 20 are steps 17 to 19; then 21; then from step 16 on it is batch 22
    assert events(tmp_path) == [(16, 18, [16, 17]), (16, 19, [18, 20]), (16, 17, [21, 21]), (24, 25, [30, 30])]
    assert [record["step"] for record in story(tmp_path) if "event" not in record] == list(range(STEPS + 1))
    assert trained is not None


def test_a_spike_before_the_first_checkpoint_goes_back_to_the_start(tmp_path: Path, queued: int) -> None:
    more: dict[str, Any] = {"checkpoint": {"every": "15 steps"}, "queued": queued}
    trained = train(tmp_path / "run", model(), batches(12), **more)
    assert events(tmp_path / "run") == [(0, 13, [0, 12])]
    begun = stopped(tmp_path / "stopped", batches(12), "record 5 again", **more)
    assert events(tmp_path / "stopped") == [(0, 13, [0, 12])]
    assert begun
    assert same(trained, train(tmp_path / "stopped", model(), batches(12), **more))
    assert story(tmp_path / "run") == story(tmp_path / "stopped")


def test_it_gives_up_after_five_returns(tmp_path: Path, queued: int) -> None:
    odd = batches(*range(12, 50))  # up to the end of the epoch
    with pytest.raises(RunError, match=r"the loss spikes .* however many batches are skipped \(5 attempts\)"):
        train(tmp_path, model(), odd, queued=queued)
    assert [event[0] for event in events(tmp_path)] == [12] * 5
    assert list_checkpoints(tmp_path / "checkpoints")[-1] == 12
    assert fault_of(tmp_path / "checkpoints" / "step-000000012") is None
    with pytest.raises(RunError, match="5 attempts"):  # started again, it does not begin to count anew
        train(tmp_path, model(), odd, queued=queued)
    assert len(events(tmp_path)) == 5


def test_a_step_queued_behind_a_spike_does_not_stop_the_learning(tmp_path: Path) -> None:
    """That step may have found numbers that are not finite, in weights that are given up."""
    expected = train(tmp_path / "one", model(), batches(16), queued=1)
    inputs: list[torch.Tensor] = []
    spoilt = model()

    def spoil(_: Any, given: Any, named: dict[str, Any], outputs: Any) -> Any:
        inputs.append(named["input_ids"])
        if len(inputs) == 18:  # queued behind the spike of batch 16
            outputs.logits = outputs.logits * float("nan")
        return outputs

    spoilt.register_forward_hook(spoil, with_kwargs=True)
    found = train(tmp_path / "two", spoilt, batches(16), queued=1)
    for at, batch in ((16, 16), (17, 17), (18, 17)):  # batch 17 once before and once after the return
        rows = sequences(batches(16)).rows(batch_numbers(batch, BATCH, sequences().count, SEED)).examples()
        assert torch.equal(inputs[at], rows.inputs)
    assert same(expected, found)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing that is still to be written is written."""


def stopped(folder: Path, odd: set[int], moment: str, **more: Any) -> bool:
    """Train until a moment, and leave what a kill there would leave; False where the moment never came."""
    kept, spiked = folder.with_name("kept"), False
    replace, mkdir, fsync = Path.replace, Path.mkdir, os.fsync

    def hear(line: str) -> None:
        nonlocal spiked
        spiked |= "the loss spiked" in line
        if spiked and moment == "before the cut":
            raise Killed

    class Trackers:
        def write(self, record: dict[str, Any]) -> None:
            if moment.startswith("record") and spiked and record["step"] == int(moment.split()[1]):
                raise Killed

    def name(self: Path, target: Path) -> Path:
        if moment == "while it replaces" and spiked and target.name.startswith("step-"):
            # the old one is half deleted, the new one whole and not named yet
            target.mkdir()
            (target / "checkpoint.json").write_text("{}")
            shutil.copytree(target.parent, kept)  # as a kill, unlike an exception, removes nothing
            raise Killed
        named = replace(self, target)
        if moment == "before the event" and spiked and target.name == "metrics.jsonl":
            raise Killed
        return named

    def make(self: Path, *given: Any, **named: Any) -> None:
        if moment == "in the write" and spiked and self.name.startswith(".step-"):
            raise Killed
        mkdir(self, *given, **named)

    def sync(descriptor: int) -> None:
        if moment == "after the event" and events(folder):
            raise Killed
        fsync(descriptor)

    try:
        with pytest.MonkeyPatch.context() as patch, heard(hear):
            patch.setattr(Path, "replace", name)
            patch.setattr(Path, "mkdir", make)
            patch.setattr(os, "fsync", sync)
            train(folder, model(), odd, trackers=Trackers(), **more)
    except Killed:
        if kept.exists():
            shutil.rmtree(folder / "checkpoints")
            kept.rename(folder / "checkpoints")
        return True
    return False


MOMENTS = [
    "before the cut", "before the event", "after the event", "in the write", "while it replaces", "record 17",
    "record 22", "record 29",
]  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("keep", [1, pytest.param(2, marks=pytest.mark.long)])
def test_killed_after_a_spike_it_ends_the_same(tmp_path: Path, moment: str, keep: int) -> None:
    odd, more = batches(17, 19, 25), {"checkpoint": {"every": "4 steps", "keep": keep}}
    straight = train(tmp_path / "straight", model(), odd, **more)
    assert len(events(tmp_path / "straight")) == 3
    assert stopped(tmp_path / "run", odd, moment, **more)
    assert same(straight, train(tmp_path / "run", model(), odd, **more))
    assert story(tmp_path / "run") == story(tmp_path / "straight")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == sorted(
        p.name for p in (tmp_path / "straight" / "checkpoints").iterdir()
    )


def test_a_spike_with_no_good_checkpoint_left_is_an_error(tmp_path: Path) -> None:
    trained, passes = model(), iter(range(99))

    def damage(*_: Any) -> None:
        if next(passes) == 17:  # the step that spikes
            while list_checkpoints(tmp_path / "checkpoints") != [12, 16]:
                time.sleep(0.01)
            for file in (tmp_path / "checkpoints").rglob("*.safetensors"):
                file.write_bytes(b"")

    trained.register_forward_pre_hook(damage)
    with pytest.raises(RunError, match=r"step 18: the loss spiked to .*no checkpoint to go back to"):
        train(tmp_path, trained, batches(17))


def test_curves_are_drawn_of_a_training_with_a_spike(tmp_path: Path) -> None:
    train(tmp_path / "reference", model(), batches(17))
    assert len(events(tmp_path / "reference")) == 1
    points = TrainingFolder("reference", tmp_path / "reference", "reference").points(None)
    assert [point["tokens"] for point in points] == [step * BATCH * LENGTH for step in range(0, STEPS + 1, 5)]
    assert [point["val_loss"] for point in points] == [0.5] * 7
    picture = draw_curves(Curves([Curve("reference", points, "reference")], {"final": 0.4}), "tokens")
    assert picture is not None
    assert picture.svg.startswith("<svg")


# The best weights

VALUES = [3.0, 2.5, 2.1, 2.3, 1.9, 2.0, 2.2]  # at steps 0, 5, ..., 30


class Validation:
    """Gives the losses one after the other, and notes the weights at each."""

    def __init__(self, trained: torch.nn.Module, values: list[float], stop_at: int | None = None) -> None:
        self.trained, self.values, self.stop_at = trained, iter(values), stop_at
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self) -> float:
        if len(self.weights) == self.stop_at:
            raise Killed
        self.weights.append({f"model/{k}": v.detach().clone() for k, v in self.trained.named_parameters()})
        return next(self.values)


def best(folder: Path) -> tuple[int, float]:
    place = folder / "checkpoints" / "best"
    assert fault_of(place) is None
    facts = json.loads((place / "checkpoint.json").read_text())
    return facts["step"], facts["val_loss"]


def is_stored(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    found = stored_tensors(folder / "checkpoints" / "best")
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_best_weights_are_those_of_the_lowest_validation_loss(tmp_path: Path, queued: int) -> None:
    trained = model()
    seen = Validation(trained, VALUES)
    train(tmp_path, trained, validate=seen, queued=queued)
    assert best(tmp_path) == (20, 1.9)
    assert is_stored(tmp_path, seen.weights[4])
    assert not is_stored(tmp_path, seen.weights[5])
    assert list_checkpoints(tmp_path / "checkpoints") == [28, 30]  # it does not count as one of those kept


def test_the_best_weights_are_not_kept_where_not_wanted(tmp_path: Path) -> None:
    trained = model()
    train(tmp_path, trained, validate=Validation(trained, VALUES), checkpoint={"every": "4 steps", "best": False})
    assert list_checkpoints(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints" / "best").exists()


def test_the_start_is_not_written_and_nothing_worse_than_it(tmp_path: Path) -> None:
    trained = model()
    train(tmp_path, trained, validate=Validation(trained, [1.0, *VALUES[1:]]))
    assert not (tmp_path / "checkpoints" / "best").exists()


@pytest.mark.parametrize("stop_at", [1, 3, 5, 6])
def test_going_on_does_not_forget_which_was_best(tmp_path: Path, stop_at: int) -> None:
    trained = model()
    first = Validation(trained, VALUES, stop_at)
    with pytest.raises(Killed):
        train(tmp_path, trained, validate=first)
    resumed = model()
    position = list_checkpoints(tmp_path / "checkpoints")[-1]
    again = Validation(resumed, VALUES[position // 5 + 1 :])
    train(tmp_path, resumed, validate=again)
    assert best(tmp_path) == (20, 1.9)
    assert is_stored(tmp_path, [*first.weights[: position // 5 + 1], *again.weights][4])


@pytest.mark.parametrize("wiped", [False, True])
def test_after_a_spike_the_best_is_the_same_whether_killed_or_not(tmp_path: Path, wiped: bool) -> None:
    """A step that is rolled back may have been the best: its weights are kept, and no worse ones replace them."""
    odd = batches(26)
    # a checkpoint only at 12 and 24, so that the spike goes back behind the validation of step 25
    more = {"checkpoint": {"every": "12 steps"}}
    trained = model()
    seen = Validation(trained, [3.0, 2.5, 2.1, 2.3, 1.9, 1.2, 1.5, 1.6])
    train(tmp_path / "straight", trained, odd, validate=seen, **more)
    assert [event[:2] for event in events(tmp_path / "straight")] == [(24, 27)]
    assert best(tmp_path / "straight") == (25, 1.2)
    assert is_stored(tmp_path / "straight", seen.weights[5])
    broken = model()
    with pytest.raises(Killed):
        train(tmp_path / "run", broken, odd, validate=Validation(broken, [3.0, 2.5, 2.1, 2.3, 1.9, 1.2], 6), **more)
    if wiped:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "best")
    resumed = model()
    train(tmp_path / "run", resumed, odd, validate=Validation(resumed, [1.5, 1.6]), **more)
    if wiped:
        assert best(tmp_path / "run") == (25, 1.5)
    else:
        assert best(tmp_path / "run") == (25, 1.2)
        assert is_stored(tmp_path / "run", seen.weights[5])
    assert math.isclose(read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["val_loss"], 1.6)
