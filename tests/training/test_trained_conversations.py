"""Training on conversations: only targets that count have a loss, alone and taught, in any split, resumed too."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from inheritune import runtime
from inheritune.arch import block_modules
from inheritune.data import BEGINS, COUNTS, MarkedTokens, Packing, Sequences, batch_numbers
from inheritune.distillation import DistillationRequest, Teacher
from inheritune.losses import LossSetup, TeacherNeeds, build_losses
from inheritune.recipe import Training
from inheritune.runlog import read_metrics
from inheritune.training import Job, train_steps

LENGTH, SEED = 8, 5
HERE = runtime.Runtime("cpu", 1)


def model(seed: int = 3, dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, initializer_range=0.1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def sequences(documents: bool = False) -> Sequences:
    """Conversations of 3 to 12 tokens, about half of which count."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(3, 13, 40)
    row = np.cumsum(draw.integers(1, 4, sizes.sum())) % 40
    marks = (draw.random(len(row)) < 0.5).astype(np.uint8) * np.uint8(COUNTS)
    marks[np.cumsum([0, *sizes[:-1]])] = BEGINS
    return Sequences(MarkedTokens(row, marks), LENGTH, "test", packing=Packing(documents=documents))


def settings(**more: Any) -> Training:
    tree = {
        "length": "6 steps", "batch": "4 sequences", "sequence_length": LENGTH, "micro_batch": 4,
        "optimizer": {"learning_rate": 0.02}, "schedule": {"warm_up": "2 steps"}, "precision": "float32",
        "checkpoint": {"every": "2 steps", "keep": 2},
    }  # fmt: skip
    return Training.model_validate(tree | more)


class Stop(Exception):
    pass


def train(
    folder: Path, trained: Any, validate: Callable[[], float] = lambda: 0.5, teacher: Any = None, **more: Any
) -> list[dict[str, Any]]:
    """Train, and return what was recorded of the steps."""
    asked = settings(**more)
    learnt: dict[str, Any] = {}
    if teacher is not None:
        setup = LossSetup(None, trained.config, teacher.config, range(2))
        learnt["losses"] = build_losses(asked, setup)
        request = DistillationRequest("test", asked, sequences(), 24, 40, TeacherNeeds.of(learnt["losses"]))
        learnt["teacher"] = Teacher(teacher, folder / "outputs").outputs(request, HERE)[0]
    job = Job(
        label="test", model=trained, sequences=sequences(), settings=asked, seed=SEED, folder=folder / "run",
        runtime=HERE, validate=lambda score: validate(), validate_every=2, blocks=block_modules(trained), **learnt,
    )  # fmt: skip
    train_steps(job)
    return [record for record in read_metrics(folder / "run" / "metrics.jsonl") if "loss" in record]


def slow_rows(step: int) -> list[tuple[list[int], list[int]]]:
    """Tokens and labels of a step's sequences, as a fine-tuning library has them: -100 where nothing counts."""
    text = sequences()
    assert isinstance(text.tokens, MarkedTokens)
    assert text.placement is not None
    rows = []
    for number in batch_numbers(step, 4, text.count, SEED):
        start, size = int(text.placement.starts_N[number]), int(text.placement.sizes_N[number])
        tokens = text.tokens.tokens[start : start + size].tolist()
        marks = text.tokens.marks[start : start + size]
        rows.append((tokens, [token if mark & COUNTS else -100 for token, mark in zip(tokens, marks, strict=True)]))
    return rows


def test_a_loss_is_the_mean_over_the_targets_of_the_batch(tmp_path: Path) -> None:
    first = train(tmp_path, model())[0]
    losses, count = torch.zeros(()), 0
    for tokens, labels in slow_rows(0):  # one after the other, without padding
        counted = sum(label != -100 for label in labels[1:])
        if counted:
            with torch.no_grad():
                found = model()(input_ids=torch.tensor([tokens]), labels=torch.tensor([labels])).loss
            losses, count = losses + found * counted, count + counted
    assert first["loss"] == pytest.approx(float(losses / count), rel=1e-5)


def slow_taught(rows: list[tuple[list[int], list[int]]], top_k: int | None) -> tuple[float, float]:
    """The mean KL and the mean distance of hidden states over targets that count, sequence by sequence."""
    master, learner = model(9).eval(), model().eval()
    divergence, distance, count = 0.0, 0.0, 0
    kept: dict[tuple[int, int], torch.Tensor] = {}
    for which, one in enumerate((master, learner)):
        for depth, block in enumerate(one.transformer.h):
            block.register_forward_hook(lambda _, args, out, key=(which, depth): kept.update({key: out}))
    for tokens, labels in rows:
        is_target = [label != -100 for label in labels[1:]]
        with torch.no_grad():
            p, q = (one(torch.tensor([tokens])).logits[0, :-1][is_target].softmax(-1) for one in (master, learner))
        if top_k is not None:
            chosen = p.topk(top_k).indices
            p, q = (torch.cat([some := one.gather(1, chosen), 1 - some.sum(1, keepdim=True)], 1) for one in (p, q))
        divergence += float((p * (p / q).log()).sum())
        for depth in range(2):
            given, own = ((out[0] if isinstance(out := kept[which, depth], tuple) else out) for which in (0, 1))
            given, own = given.reshape(-1, 16)[:-1][is_target], own.reshape(-1, 16)[:-1][is_target]
            distance += float(((own - given).square().sum(1) / given.square().sum(1)).sum()) / 2
        count += sum(is_target)
    return divergence / count, distance / count


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("outputs", ["online", "stored"])
def test_a_teacher_counts_where_targets_do(top_k: int | None, outputs: str, tmp_path: Path) -> None:
    asked = {"student": 0.5, "top_k": top_k, "outputs": outputs, "hidden_states": {"weight": 0.1, "distance": "mse"}}
    first = train(tmp_path, model(), teacher=model(9), distillation=asked)[0]
    divergence, distance = slow_taught(slow_rows(0), top_k)
    assert first["kl"] == pytest.approx(divergence, rel=2e-3 if top_k else 1e-4)  # float16 where stored
    assert first["hidden_states"] == pytest.approx(distance, rel=1e-4)


def test_stored_and_online_outputs_of_conversations_teach_the_same(tmp_path: Path) -> None:
    records = [
        train(tmp_path / way, model(), teacher=model(9), distillation={"student": 0.3, "outputs": way})
        for way in ("online", "stored")
    ]
    for one, other in zip(*records, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_the_split_into_micro_batches_does_not_matter(tmp_path: Path) -> None:
    whole = train(tmp_path / "4", model(), micro_batch=4)
    for micro_batch in (1, 3):
        split = train(tmp_path / str(micro_batch), model(), micro_batch=micro_batch)
        assert [one["loss"] for one in split] == pytest.approx([one["loss"] for one in whole], rel=1e-3)


def test_going_on_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight, resumed = model(dropout=0.1), model(dropout=0.1)
    train(tmp_path / "straight", straight)
    calls = itertools.count()

    def validate() -> float:
        if next(calls) == 2:
            raise Stop
        return 0.5

    with pytest.raises(Stop):
        train(tmp_path / "broken", model(dropout=0.1), validate)
    torch.manual_seed(999)
    train(tmp_path / "broken", resumed)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
