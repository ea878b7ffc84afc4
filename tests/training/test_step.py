"""One step: a loss or gradient that is not finite changes nothing and names who is to blame, also with a step queued
behind; too little memory halves the micro-batch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import GPT2Config, GPT2LMHeadModel

from inheritune import runtime
from inheritune.cli import main
from inheritune.data import Batches, Sequences, batch_numbers
from inheritune.errors import RunError
from inheritune.optimizers.stepping import allocate_state, state_tensors
from inheritune.recipe import Training
from inheritune.runlog import read_metrics
from inheritune.training import Job, Objective, list_checkpoints, parallelize, train_steps
from inheritune.training.checkpoint import read_position
from inheritune.training.step import Stepper

BAD = 39  # a token that occurs only where a test puts it
LENGTH, BATCH, SEED = 8, 4, 5


def model(**more: Any) -> GPT2LMHeadModel:
    torch.manual_seed(3)
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, **sizes, **(none | more), tie_word_embeddings=False))


def sequences(bad: tuple[int, ...] = ()) -> Sequences:
    """50 sequences; those in `bad` have the bad token in their middle."""
    row = np.cumsum(np.random.default_rng(0).integers(1, 4, 401)) % BAD
    for number in bad:
        row[number * LENGTH + 4] = BAD
    return Sequences(row.astype(np.uint16), LENGTH, "test")


def poisoned() -> GPT2LMHeadModel:
    """A model whose loss is NaN wherever the bad token stands, and only there."""
    made = model()
    with torch.no_grad():
        made.transformer.wte.weight[BAD] = float("nan")
    return made


def settings(**more: Any) -> Training:
    tree = {
        "length": "6 steps", "batch": f"{BATCH} sequences", "sequence_length": LENGTH, "micro_batch": 2,
        "optimizer": {"learning_rate": 0.02}, "schedule": {"warm_up": "2 steps"},
        "checkpoint": {"every": "1 steps", "keep": 2},
    }  # fmt: skip
    return Training.model_validate(tree | more)


def train(
    folder: Path,
    trained: torch.nn.Module,
    row: Sequences,
    matrices: frozenset[str] = frozenset(),
    queued: int | None = None,
    place: runtime.Runtime | None = None,
    **more: Any,
) -> None:
    job = Job(
        label="test", model=trained, sequences=row, settings=settings(**more), seed=SEED, folder=folder,
        runtime=place or runtime.start("cpu"), validate=lambda score: 0.5,
        validate_every=2, matrices=matrices, queued=queued,
    )  # fmt: skip
    train_steps(job)


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]


def numbers(step: int) -> list[int]:
    """The sequences of a step (from 0)."""
    return batch_numbers(step, BATCH, sequences().count, SEED)


class Course:
    """Every weight and optimizer state of a training before each step, and at the end."""

    def __init__(self, trained: torch.nn.Module) -> None:
        self.trained, self.states, self.passes = trained, list[dict[str, torch.Tensor]](), 0
        self.optimizers: list[torch.optim.Optimizer] = []
        trained.register_forward_pre_hook(self._note)

    def note_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer not in self.optimizers:
            self.optimizers.append(optimizer)

    def _note(self, *_: Any) -> None:
        if self.passes % 2 == 0:  # two micro-batches a step
            self.states.append(self.state())
        self.passes += 1

    def state(self) -> dict[str, torch.Tensor]:
        parts = dict(self.trained.named_parameters()) | state_tensors(self.trained, self.optimizers)
        return {name: tensor.detach().clone() for name, tensor in parts.items()}


@pytest.fixture
def course() -> Iterator[Course]:
    """The course of a training of `poisoned()`; it knows the optimizers from their first step on."""
    followed = Course(poisoned())
    hook = register_optimizer_step_pre_hook(followed.note_optimizer)
    yield followed
    hook.remove()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(one.values(), other.values(), strict=True)
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("place", range(BATCH))
def test_a_loss_that_is_not_finite_changes_nothing_and_names_its_micro_batch(
    tmp_path: Path, course: Course, place: int, optimizer: str
) -> None:
    step = 3
    if optimizer == "muon":
        blocks = model().transformer.h
        matrices = frozenset(f"transformer.h.{name}" for name, p in blocks.named_parameters() if p.dim() == 2)
    else:
        matrices = frozenset()
    row = sequences(bad=(numbers(step)[place],))
    with pytest.raises(RunError) as caught:
        train(tmp_path, course.trained, row, matrices=matrices, optimizer={"learning_rate": 0.02, "name": optimizer})
    blamed = numbers(step)[place // 2 * 2 :][:2]
    assert re.search(rf"test, step {step + 1}: the loss is nan", str(caught.value))
    assert f"(sequences {blamed[0]}, {blamed[1]})" in str(caught.value)
    assert len(course.states) == step + 1
    assert equal(course.state(), course.states[step])
    assert not equal(course.states[step], course.states[step - 1])
    assert list_checkpoints(tmp_path / "checkpoints") == [step - 1, step]
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(step + 1))


@pytest.mark.parametrize("step", [2, 3, 4])
def test_steps_queued_behind_a_bad_one_change_nothing_either(tmp_path: Path, course: Course, step: int) -> None:
    row = sequences(bad=(numbers(step)[1],))
    with pytest.raises(RunError, match=f"step {step + 1}: the loss is nan"):
        train(tmp_path, course.trained, row, queued=1, checkpoint={"every": "60 minutes"}, length="8 steps")
    # a step is queued behind, unless the bad one is the last before a validation
    assert len(course.states) == step + 1 + (step % 2 == 0)
    assert equal(course.state(), course.states[step])
    assert not equal(course.states[step], course.states[step - 1])


def test_the_flag_stays_for_good_steps_after_a_bad_one() -> None:
    stepper = a_stepper(poisoned(), sequences(bad=(numbers(1)[0],)))
    launched = [stepper.launch(step, step, 0.01, lambda: (False, False)) for step in range(3)]
    after = [parameter.detach().clone() for parameter in stepper.parallel.module.parameters()]
    assert [step.outcome().is_finite for step in launched] == [True, False, True]
    stepper.launch(3, 3, 0.01, lambda: (False, False))
    for one, other in zip(after, stepper.parallel.module.parameters(), strict=True):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    stepper.start_over()
    stepper.launch(3, 3, 0.01, lambda: (False, False))
    assert not torch.equal(after[-1], list(stepper.parallel.module.parameters())[-1])


def a_stepper(trained: torch.nn.Module, row: Sequences) -> Stepper:
    place = runtime.start("cpu")
    held = parallelize(Objective(trained), [], "alone", place)
    optimizers = settings().optimizer.build(trained, frozenset())
    allocate_state(trained, optimizers)
    return Stepper(held, optimizers, Batches(row, BATCH, SEED), settings(), place, 2, 6)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_under_a_finite_loss_names_the_whole_batch(
    tmp_path: Path, course: Course, value: float
) -> None:
    step, calls = 2, iter(range(99))

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * value if next(calls) == step * 2 + 1 else gradient

    dict(course.trained.named_parameters())["transformer.ln_f.bias"].register_hook(spoil)
    with pytest.raises(RunError, match=f"step {step + 1}: the loss is [0-9.]+, the gradient norm {value}") as caught:
        train(tmp_path, course.trained, sequences())
    assert f"(sequences {', '.join(map(str, numbers(step)))})" in str(caught.value)
    assert equal(course.state(), course.states[step])


def test_of_many_sequences_some_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    broken = model()
    with torch.no_grad():
        broken.transformer.ln_f.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"\(sequences (\d+, ){15}\d+ and 4 more\)"):
        train(tmp_path, broken, sequences(), batch="20 sequences", micro_batch=5)


class OfTwo(runtime.Runtime):
    """The first of two processes, of which the second has found something."""

    def gather(self, value: Any, group: Any = None) -> list[Any]:
        return [([], [1, 2]), ([7], [7, 8])]


def test_what_other_processes_find_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\(sequences 7\)"):
        train(tmp_path, poisoned(), sequences(bad=(numbers(0)[0],)), place=OfTwo("cpu", 1))


# Too little memory


def short_of_memory(trained: torch.nn.Module, most: int, first: int, where: str, error: Exception) -> list[int]:
    """Let the forward or backward pass of more than `most` sequences fail, from the call of number `first` on.

    Returns the sizes of the batches that the model gets from now on.
    """
    sizes: list[int] = []

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, logits: torch.Tensor) -> torch.Tensor:
            return logits.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise error

    def before(_: Any, given: Any, named: dict[str, Any]) -> None:
        sizes.append(len(named["input_ids"]))
        if where == "forward" and sizes[-1] > most and len(sizes) > first:
            raise error

    def after(_: Any, given: Any, outputs: Any) -> Any:
        if where == "backward" and sizes[-1] > most and len(sizes) > first:
            outputs.logits = Fails.apply(outputs.logits)  # type: ignore[no-untyped-call]
        return outputs

    trained.register_forward_pre_hook(before, with_kwargs=True)
    trained.register_forward_hook(after)
    return sizes


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB.")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to")


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("error", [OUT_OF_MEMORY, CPU], ids=["gpu", "cpu"])
def test_too_little_memory_halves_the_micro_batch_and_changes_nothing_else(
    tmp_path: Path, where: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    small, trained = model(), model()
    train(tmp_path / "small", small, sequences(), micro_batch=1)
    sizes = short_of_memory(trained, 1, 2, where, error)
    train(tmp_path / "halved", trained, sequences(), micro_batch=4)
    assert sizes == [4, 4, 4, 2, *[1] * 16]  # third step, at first with 4, then with 2
    assert losses(tmp_path / "halved") == pytest.approx(losses(tmp_path / "small"), abs=1e-5)
    for one, other in zip(small.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)
    said = " ".join(caplog.messages)
    assert "out of memory at step 3; continuing with micro-batches of 2 sequences" in said
    assert "out of memory at step 3; continuing with micro-batches of 1 sequences" in said


def test_a_step_that_is_repeated_drops_out_what_it_would_have_dropped_out(tmp_path: Path) -> None:
    found = []
    for where in ("forward", "backward"):  # before any mask is drawn, and after all of them
        trained = model(resid_pdrop=0.5)
        short_of_memory(trained, 2, 2, where, OUT_OF_MEMORY)
        train(tmp_path / where, trained, sequences(), micro_batch=4)
        found.append(trained)
    assert all(torch.equal(a, b) for a, b in zip(*(each.parameters() for each in found), strict=True))
    assert losses(tmp_path / "forward") == losses(tmp_path / "backward")


def test_the_smaller_micro_batch_is_remembered(tmp_path: Path) -> None:
    straight, broken_off, resumed = model(), model(), model()
    short_of_memory(straight, 2, 2, "forward", OUT_OF_MEMORY)
    train(tmp_path / "straight", straight, sequences(), micro_batch=4)
    sizes = short_of_memory(broken_off, 2, 2, "forward", OUT_OF_MEMORY)

    def interrupt(*_: Any) -> None:
        if len(sizes) == 8:  # the fifth step begins
            raise KeyboardInterrupt

    broken_off.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", broken_off, sequences(), micro_batch=4)
    assert sizes == [4, 4, 4, *[2] * 5]
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == [3, 4]
    assert read_position(tmp_path / "run" / "checkpoints" / "step-000000004").micro_batch == 2
    sizes = short_of_memory(resumed, 2, 0, "forward", OUT_OF_MEMORY)
    train(tmp_path / "run", resumed, sequences(), micro_batch=4)
    assert sizes == [2] * 4
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, CPU], ids=["gpu", "cpu"])
def test_what_does_not_even_fit_alone_ends_with_a_line(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = model()
    short_of_memory(trained, 0, 2, "forward", error)
    with pytest.raises(RunError, match="test, step 3: out of memory with micro-batches of 1 sequences; shorten"):
        train(tmp_path, trained, sequences(), micro_batch=4)
    assert list_checkpoints(tmp_path / "checkpoints") == [1, 2]

    def fail() -> bool:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", fail)
    assert main(["bench", "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "out of memory; set train.activation_checkpointing" in said


def test_another_error_is_no_lack_of_memory(tmp_path: Path) -> None:
    trained = model()
    sizes = short_of_memory(trained, 0, 2, "forward", RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        train(tmp_path, trained, sequences(), micro_batch=4)
    assert sizes == [4] * 3


# Splitting


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4))
@examples(max_examples=12, deadline=None)
def test_loss_and_gradient_do_not_depend_on_the_split(batch: int, micro_batch: int, processes: int) -> None:
    row, trained = sequences(), model().double()
    objective = Objective(trained)
    rows = torch.from_numpy(row.rows(batch_numbers(3, batch, row.count, SEED)).windows)
    whole = objective(rows[:, :-1], rows[:, 1:])
    whole.backward()
    expected = [parameter.grad.clone() for parameter in trained.parameters() if parameter.grad is not None]
    objective.zero_grad()
    total = 0.0
    for rank in range(processes):
        for part in Batches(row, batch, SEED, dp_rank=rank, dp_size=processes).micro_batches(3, micro_batch):
            loss = objective(part.examples.inputs, part.examples.targets)
            loss.backward()
            total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    found = [parameter.grad for parameter in trained.parameters() if parameter.grad is not None]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
