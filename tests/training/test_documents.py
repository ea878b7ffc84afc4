"""Attention inside documents: the losses are those of each document alone, however the model is held and trained."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import build

from inheritune import runtime
from inheritune.arch import block_modules, split_head
from inheritune.data import Packing, Sequences, clusters_of
from inheritune.errors import InputError
from inheritune.evaluation import judge
from inheritune.recipe import Training
from inheritune.runlog import read_metrics
from inheritune.training import Job, Objective, check_documents_apart, train_steps
from inheritune.training.documents import document_positions
from inheritune.training.objective import checkpoint_activations

END = 1


def packed() -> tuple[torch.Tensor, list[list[int]]]:
    """Three sequences of 16 tokens; the documents' bounds in each."""
    tokens_BT = torch.from_numpy(np.random.default_rng(2).integers(3, 60, (3, 17)))
    tokens_BT[0, [4, 9]] = END
    tokens_BT[1, [0, 7, 8, 15]] = END
    return tokens_BT, [[0, 5, 10, 16], [0, 1, 8, 9, 16], [0, 16]]


def apart(model: Any, tokens_BT: torch.Tensor, bounds: list[list[int]]) -> list[float]:
    """The mean loss of each sequence, every document passed alone."""
    return [float(np.mean(losses)) for losses in tokens_apart(model, tokens_BT, bounds)]


def tokens_apart(model: Any, tokens_BT: torch.Tensor, bounds: list[list[int]]) -> list[list[float]]:
    """The losses of each sequence, every document passed alone."""
    found = []
    for row, places in zip(tokens_BT, bounds, strict=True):
        losses = []
        for start, end in itertools.pairwise(places):
            with torch.no_grad():
                logits = model(input_ids=row[None, start:end], use_cache=False).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits, row[start + 1 : end + 1], reduction="none"))
        found.append(torch.cat(losses).double().tolist())
    return found


def test_positions_begin_anew_behind_each_end() -> None:
    row = torch.tensor([[5, 1, 5, 5, 1, 1, 5], [1, 5, 5, 5, 5, 5, 1]])
    assert document_positions(row, END).tolist() == [[0, 1, 0, 1, 2, 0, 0], [0, 0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "kind", ["llama", "gpt2", "gemma2", "mistral", "qwen3_moe", "gpt_neox", "olmo2", "falcon", "gpt_oss", "opt", "mpt"]
)
def test_losses_are_those_of_each_document_alone(kind: str) -> None:
    model = build(kind)
    check_documents_apart(model, END, 16, "here")
    tokens_BT, bounds = packed()
    expected = apart(model, tokens_BT, bounds)
    inputs, targets = tokens_BT[:, :-1], tokens_BT[:, 1:]
    with torch.no_grad():
        positions = document_positions(inputs, END)
        found = Objective(model)(inputs, targets, positions=positions, by_token=True).mean(dim=1)
        assert found.tolist() == pytest.approx(expected, rel=1e-4)
        total = Objective(model, split_head(model))(inputs, targets, positions=positions).item()
        assert total == pytest.approx(sum(expected) * 16, rel=1e-4)
        across = Objective(model)(inputs, targets, by_token=True).mean(dim=1)
    assert abs(across[0].item() - expected[0]) > 1e-3  # else the test would show nothing
    assert across[2].item() == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_models_that_do_not_keep_them_apart_are_refused(kind: str) -> None:
    model = build(kind).train()
    with pytest.raises(
        InputError, match=r"here: \w+ does not keep the documents of a sequence apart; set train\.attention to sequence"
    ):
        check_documents_apart(model, END, 16, "here")
    assert model.training


def test_gradients_are_the_same_with_activation_checkpointing() -> None:
    tokens_BT, _ = packed()
    found = []
    model = build("llama").train()
    for again in (False, True):
        model.zero_grad()
        undo = checkpoint_activations(block_modules(model)) if again else lambda: None
        inputs, targets = tokens_BT[:, :-1], tokens_BT[:, 1:]
        Objective(model, split_head(model))(inputs, targets, positions=document_positions(inputs, END)).backward()
        undo()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_judging_keeps_them_apart_too() -> None:
    model = build("llama")
    row = np.random.default_rng(1).integers(3, 60, 4 * 16 + 1)
    row[::7] = END
    sequences = Sequences(row.astype(np.uint16), 16, "x", packing=Packing((), END, True))
    rows = torch.from_numpy(sequences.rows(range(4)).windows)
    bounds = [[0, *(np.flatnonzero(r[:15] == END) + 1).tolist(), 16] for r in rows.numpy()]
    found = judge(model, sequences, runtime.start("cpu"), micro_batch=3)
    expected = tokens_apart(model, rows, bounds)
    assert found.loss.value == pytest.approx(np.mean(np.concatenate(expected)), rel=1e-4)
    ids = clusters_of(sequences).of(range(4), sequences.rows(range(4)).predicted)
    sums = np.bincount(ids.ravel(), np.ravel(expected))
    assert list(found.losses) == pytest.approx(sums / np.bincount(ids.ravel()), rel=1e-4)
    with pytest.raises(InputError, match="MambaForCausalLM does not keep the documents of a sequence apart"):
        judge(build("mamba"), sequences, runtime.start("cpu"))


def first_loss(folder: Path, compiled: bool = False, parallel: str = "auto", end: int | None = END) -> float:
    row = np.random.default_rng(1).integers(3, 60, 400)
    row[::6] = END
    tree = {"length": "2 steps", "batch": "4 sequences", "sequence_length": 16, "compile": compiled, "micro_batch": 2}
    torch.manual_seed(1)
    model = build("llama")
    job = Job(
        label="test", model=model, settings=Training(**tree), seed=5,
        sequences=Sequences(row.astype(np.uint16), 16, "x", packing=Packing((), end, end is not None)),
        folder=folder, runtime=runtime.start("cpu"), validate=lambda score: 0.5,
        validate_every=2, blocks=block_modules(model), head=split_head(model), parallel=parallel,
    )  # fmt: skip
    train_steps(job)
    return next(record["loss"] for record in read_metrics(folder / "metrics.jsonl") if "loss" in record)


def test_a_training_with_it_is_another_one(tmp_path: Path) -> None:
    assert abs(first_loss(tmp_path / "a") - first_loss(tmp_path / "b", end=None)) > 1e-3


@pytest.mark.long
def test_compiled_it_is_the_same(tmp_path: Path) -> None:
    assert first_loss(tmp_path / "a", compiled=True) == pytest.approx(first_loss(tmp_path / "b"), rel=1e-4)
