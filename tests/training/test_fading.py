"""Blocks that fade out over a training: against a plain loop whose blocks are mixed by hand, stopped, and compiled."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import Stop, model, same, sequences, settings, stop_at
from transformers import GPT2LMHeadModel

from inheritune import runtime
from inheritune.arch import block_modules
from inheritune.data import batch_numbers
from inheritune.training import Job, Objective, train_steps


def train(folder: Path, validate: Any = lambda: 0.5, **more: Any) -> GPT2LMHeadModel:
    trained = model()
    job = Job(
        label="test", model=trained, sequences=sequences(), settings=settings(**more), seed=5, folder=folder,
        runtime=runtime.start("cpu"), validate=lambda score: validate(), validate_every=2,
        blocks=block_modules(trained), fading=[1],
    )  # fmt: skip
    train_steps(job)
    assert all("forward" not in vars(block) for block in job.blocks)
    return trained


class Mixed(torch.nn.Module):
    """A block of which a share is used, and its input for the rest."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block, self.share = block, 1.0

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.block(hidden, *args, **kwargs)
        states = output if torch.is_tensor(output) else output[0]
        mixed = hidden + self.share * (states - hidden)
        return mixed if torch.is_tensor(output) else (mixed, *output[1:])


def test_a_block_fades_linearly_over_the_steps(tmp_path: Path) -> None:
    trained, plain = train(tmp_path), model()
    mixed = Mixed(plain.transformer.h[1])
    plain.transformer.h[1] = mixed
    decay = [p for p in plain.parameters() if p.dim() >= 2]
    rest = [p for p in plain.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.02, betas=(0.9, 0.95)
    )
    rates = [0.01, 0.02] + [
        0.02 * (0.1 + 0.9 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * k / 3)))) for k in range(4)
    ]
    for step in range(6):
        mixed.share = 1 - step / 5
        rows = torch.from_numpy(sequences().rows(batch_numbers(step, 4, sequences().count, 5)).windows)
        optimizer.zero_grad()
        plain(input_ids=rows, labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = float(rates[step])
        optimizer.step()
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight")
    with pytest.raises(Stop):
        train(tmp_path / "broken", stop_at(4))
    assert same(straight, train(tmp_path / "broken"))


@pytest.mark.long
def test_compiled_it_learns_the_same(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++, which is not on this machine")
    for a, b in zip(train(tmp_path / "1").parameters(), train(tmp_path / "2", compile=True).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


def test_a_block_that_has_faded_out_is_not_there() -> None:
    whole, short = model().eval(), model().eval()
    del short.transformer.h[1]
    inputs = torch.arange(8)[None]
    objective = Objective(whole, blocks=block_modules(whole), fading=[1])
    with torch.no_grad():
        before = objective(inputs, inputs)
        torch.testing.assert_close(before, Objective(model().eval())(inputs, inputs))
        objective.set_step(5, 6, 32)
        torch.testing.assert_close(objective(inputs, inputs), Objective(short)(inputs, inputs))
