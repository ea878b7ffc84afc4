"""What is minimised: the head's form and the model's own logits agree; recomputing the blocks changes no bit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_step import losses, model, sequences, settings
from transformers import GPT2LMHeadModel

from inheritune import runtime
from inheritune.arch import block_modules, split_head
from inheritune.losses import functional
from inheritune.losses.functional import has_chunked_form
from inheritune.training import Job, Objective, train_steps
from inheritune.training.objective import checkpoint_activations


def tokens(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(sequences().rows(range(batch)).windows)
    return rows[:, :-1], rows[:, 1:]


def passed(trained: GPT2LMHeadModel) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Loss, gradients, and how many bytes were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(11)
    trained.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = Objective(trained)(*tokens())
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in trained.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_the_blocks_changes_no_bit_and_keeps_less(dropout: float) -> None:
    trained = model(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout).train()
    loss, gradients, kept = passed(trained)
    undo = checkpoint_activations(block_modules(trained))
    again, others, less = passed(trained)
    undo()
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    assert less < 0.7 * kept
    assert passed(trained)[2] == kept
    torch.manual_seed(12)
    assert torch.equal(loss, Objective(trained)(*tokens())) == (dropout == 0.0)


def test_without_gradients_nothing_is_recomputed() -> None:
    trained = model().eval()
    with torch.no_grad():
        expected = Objective(trained)(*tokens(), by_token=True)
        undo = checkpoint_activations(block_modules(trained))
        assert torch.equal(expected, Objective(trained)(*tokens(), by_token=True))
    undo()


def computed(blocks: Sequence[torch.nn.Module]) -> list[int]:
    """How often each block is computed from now on, also when it is computed again: the passes of its MLP."""
    counts = [0] * len(blocks)

    def count(number: int) -> Callable[..., None]:
        def note(*_: Any) -> None:
            counts[number] += torch.is_grad_enabled()  # not where the head is tried out

        return note

    for number, block in enumerate(blocks):
        block.get_submodule("mlp").register_forward_pre_hook(count(number))
    return counts


def test_blocks_get_back_the_forward_they_had() -> None:
    trained = model()
    counts = computed(block_modules(trained))
    first, second = block_modules(trained)
    own = first.forward

    def wrapped(*given: Any, **named: Any) -> Any:
        return own(*given, **named)

    first.forward = wrapped
    undo = checkpoint_activations([first, second, second])  # a block may stand at several depths
    assert first.forward is not wrapped
    loss = Objective(trained)(*tokens())
    assert counts == [1, 1]
    loss.backward()
    assert counts == [2, 2]
    undo()
    assert first.forward is wrapped
    assert "forward" not in vars(second)


def train(folder: Path, trained: GPT2LMHeadModel, validate: Callable[[], float] = lambda: 0.5, **more: Any) -> None:
    job = Job(
        label="test", model=trained, sequences=sequences(), settings=settings(**more), seed=5, folder=folder,
        runtime=runtime.start("cpu"), validate=lambda score: validate(),
        validate_every=2, blocks=block_modules(trained), head=split_head(trained),
    )  # fmt: skip
    train_steps(job)


def test_a_training_that_recomputes_ends_with_the_same_bits(tmp_path: Path) -> None:
    dropout = {"resid_pdrop": 0.2, "attn_pdrop": 0.2}
    plain, trained = model(**dropout), model(**dropout)
    once, again = computed(block_modules(plain)), computed(block_modules(trained))
    train(tmp_path / "plain", plain)
    train(tmp_path / "less", trained, activation_checkpointing=True)
    assert once == [6 * 2] * 2  # steps, micro-batches
    assert again == [6 * 2 * 2] * 2
    assert losses(tmp_path / "less") == losses(tmp_path / "plain")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), trained.parameters(), strict=True))
    assert all("forward" not in vars(block) for block in block_modules(trained))


def test_blocks_are_as_before_after_an_error_too(tmp_path: Path) -> None:
    def fail() -> float:
        raise ZeroDivisionError

    trained = model()
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "one", trained, fail, activation_checkpointing=True)
    assert all("forward" not in vars(block) for block in block_modules(trained))
    (tmp_path / "two").write_text("a file where the folder would be")
    with pytest.raises(OSError, match="two"):
        train(tmp_path / "two", trained, activation_checkpointing=True)
    assert all("forward" not in vars(block) for block in block_modules(trained))


@pytest.mark.skipif(not has_chunked_form(), reason="this torch has no chunked form")
def test_the_form_follows_the_size_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model()
    objective = Objective(trained, split_head(trained))
    found = {}
    for limit, expected in ((40 * 32 * 4, "whole"), (40 * 32 * 4 - 1, "chunked")):
        monkeypatch.setattr(functional, "_WHOLE_LOGITS", limit)
        objective.choose_form(32)
        assert objective.form == expected
        objective.zero_grad()
        loss = objective(*tokens())
        loss.backward()
        found[expected] = [loss, *(parameter.grad for parameter in trained.parameters())]
    for one, other in zip(found["whole"], found["chunked"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_head_gives_the_loss_of_the_models_own_logits() -> None:
    trained = model()
    inputs, targets = tokens()
    own, split = Objective(trained), Objective(trained, split_head(trained))
    assert split(inputs, targets).item() == pytest.approx(own(inputs, targets).item(), rel=1e-6)
    each = own(inputs, targets, by_token=True)
    assert each.shape == (4, 8)
    assert each.sum().item() == pytest.approx(own(inputs, targets).item(), rel=1e-6)
    assert [name for name, _ in split.named_parameters()] == [name for name, _ in own.named_parameters()]
