"""Losses against a formula written out in float64."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from inheritune.losses import streaming
from inheritune.losses.functional import has_chunked_form, linear_cross_entropy, token_losses
from inheritune.losses.streaming import linear_token_losses

FORMS = [
    "whole",
    pytest.param("chunked", marks=pytest.mark.skipif(not has_chunked_form(), reason="this torch has no such form")),
    "pieces",
]
IGNORED = -100


def summed(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, form: Any
) -> torch.Tensor:
    """The sum of all losses, by a form of `linear_cross_entropy` or in pieces of the vocabulary."""
    if form == "pieces":
        return linear_token_losses(hidden.flatten(0, 1), weight, bias, targets.flatten()).sum()
    return linear_cross_entropy(hidden.flatten(0, 1), weight, bias, targets.flatten(), form)


def slow(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
    """Token by token: log of the sum of exponentials, less the target's logit."""
    total = 0 * (hidden.sum() + weight.sum() + (0 if bias is None else bias.sum()))
    for state, target in zip(hidden.flatten(0, 1), targets.flatten().tolist(), strict=True):
        if target != IGNORED:
            logits = weight @ state if bias is None else weight @ state + bias
            total = total + logits.exp().sum().log() - logits[target]
    return total


def made(bias: bool, ignored: str, shape: tuple[int, int, int, int] = (3, 7, 8, 29)) -> list[torch.Tensor | None]:
    """Hidden states (B, T, D), weight (V, D), bias (V) or none, targets (B, T)."""
    batch, length, width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(batch, length, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * 0.4
    targets = torch.randint(0, vocabulary, (batch, length), generator=generator)
    if ignored == "some":
        targets[1:] = IGNORED
        targets[0, 2:3] = IGNORED
    elif ignored == "all":
        targets[:] = IGNORED
    return [hidden, weight, torch.randn(vocabulary, generator=generator) if bias else None, targets]


def differentiated(compute: Callable[..., torch.Tensor], parts: list[Any], kind: torch.dtype) -> list[torch.Tensor]:
    """Value and gradients, in float64."""
    leaves = [None if part is None else part.detach().to(kind).requires_grad_() for part in parts[:3]]
    loss = compute(*leaves, parts[3])
    (loss * 0.37).backward()  # not 1, as gradients may be computed going forward
    gradients = [leaf.grad for leaf in leaves if leaf is not None]
    return [loss.detach().double(), *(gradient.double() / 0.37 for gradient in gradients)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ignored", ["none", "some", "all"])
@pytest.mark.parametrize("shape", [(3, 7, 8, 29), (1, 1, 4, 3), (2, 700, 8, 53)], ids=str)
def test_linear_cross_entropy(form: str, bias: bool, ignored: str, shape: tuple[int, int, int, int]) -> None:
    parts = made(bias, ignored, shape)
    expected = differentiated(slow, parts, torch.float64)
    found = differentiated(lambda *given: summed(*given, form), parts, torch.float32)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    if ignored == "all":
        assert not any(tensor.any() for tensor in found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("half_states", [False, True])
def test_under_autocast_to_bfloat16(form: str, bias: bool, half_states: bool) -> None:
    parts = made(bias, "some", (3, 50, 16, 31))
    expected = differentiated(slow, parts, torch.float64)

    def rough(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return summed(hidden.bfloat16() if half_states else hidden, *rest, form)

    found = differentiated(rough, parts, torch.float32)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-2)
    assert found[0] != expected[0]
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert (one - other).norm() < 0.03 * other.norm()


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_float32_and_its_gradient_in_the_weights_own_type(form: str) -> None:
    hidden, weight, _, targets = made(False, "none")
    assert hidden is not None
    assert weight is not None
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = summed(hidden.bfloat16(), weight, None, targets, form)  # type: ignore[arg-type]
    loss.backward()
    assert loss.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_that_is_not_trained_and_states_that_are(form: str) -> None:
    parts = made(False, "some")
    hidden, weight, _, targets = parts
    expected = differentiated(slow, parts, torch.float64)[1]
    state = hidden.clone().requires_grad_()  # type: ignore[union-attr]
    summed(state, weight, None, targets, form).backward()  # type: ignore[arg-type]
    assert state.grad is not None
    torch.testing.assert_close(state.grad.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("held", [1, 256 * 21, 300 * 21, 2**21])  # numbers: the least of 256 entries, as much, 300, all
def test_pieces_give_each_tokens_loss_and_gradients(bias: bool, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LOGITS_ON_CPU", held)
    parts = made(bias, "some", (3, 7, 8, 700))
    hidden, weight, shift, targets = parts
    generator = torch.Generator().manual_seed(1)
    stress = torch.rand(21, generator=generator)

    def weighted(*given: Any) -> torch.Tensor:
        return (linear_token_losses(given[0].flatten(0, 1), *given[1:3], given[3].flatten()) * stress).sum()

    def by_hand(*given: Any) -> torch.Tensor:
        each = [slow(*one) for one in _each(*given)]
        return (torch.stack(each) * stress.double()).sum()

    for one, other in zip(
        differentiated(weighted, parts, torch.float32), differentiated(by_hand, parts, torch.float64), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert hidden is not None
    assert weight is not None
    assert targets is not None
    found = linear_token_losses(hidden.flatten(0, 1), weight, shift, targets.flatten())
    logits = torch.nn.functional.linear(hidden, weight, shift)
    torch.testing.assert_close(found, token_losses(logits, targets).flatten())


def _each(hidden: Any, weight: Any, bias: Any, targets: Any) -> Any:
    states = hidden.flatten(0, 1)
    for at, target in enumerate(targets.flatten()):
        yield states[None, None, at], weight, bias, target[None, None]


def test_pieces_of_logits_that_are_large_do_not_overflow() -> None:
    hidden, weight = torch.full((2, 4), 300.0), torch.tensor([[50.0] * 4, [49.0] * 4, [-50.0] * 4])
    found = linear_token_losses(hidden, weight, None, torch.tensor([0, 1]))
    assert found.tolist() == [0.0, 1200.0]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_pieces_of_rounded_logits_are_one_distribution(kind: torch.dtype) -> None:
    """The target's logit is rounded as all are, so no loss is below zero."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(300, 64, generator=generator).to(kind)
    weight = torch.randn(700, 64, generator=generator).to(kind)
    logits = torch.nn.functional.linear(hidden, weight)
    best = logits.float().argmax(1)
    found = linear_token_losses(hidden, weight, None, best)
    assert (found >= 0).all()
    torch.testing.assert_close(found, token_losses(logits[None], best[None])[0], rtol=1e-3, atol=1e-4)


def test_pieces_of_forbidden_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LOGITS_ON_CPU", 1)
    hidden, weight, bias, targets = made(True, "none", (3, 7, 8, 900))
    assert hidden is not None
    assert weight is not None
    assert bias is not None
    assert targets is not None
    bias[256:600] = float("-inf")
    wanted = targets.flatten() % 256
    hidden, weight = hidden.flatten(0, 1).requires_grad_(), weight.detach().requires_grad_()
    found = linear_token_losses(hidden, weight, bias, wanted)
    expected = token_losses(torch.nn.functional.linear(hidden, weight, bias)[None], wanted[None])[0]
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sum(), (hidden, weight))
    for one, other in zip(gradients, torch.autograd.grad(expected.sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_token_losses(half: bool) -> None:
    hidden, weight, _, targets = made(False, "some")
    assert hidden is not None
    assert targets is not None
    logits = hidden @ weight.T  # type: ignore[union-attr]
    logits = logits.bfloat16() if half else logits
    found = token_losses(logits, targets)
    assert found.dtype == torch.float32
    assert found.shape == targets.shape
    for place in [(b, t) for b in range(3) for t in range(7)]:
        if targets[place] == IGNORED:
            assert found[place] == 0
        else:
            exact = logits[place].double()
            expected = exact.exp().sum().log() - exact[targets[place]]
            assert found[place].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.long
def test_no_logits_are_held_whole_in_the_chunked_form() -> None:
    if not has_chunked_form():
        pytest.skip("this torch has no such form")
    hidden, weight = torch.randn(1, 4096, 8, requires_grad=True), torch.randn(5000, 8, requires_grad=True)
    targets = torch.randint(0, 5000, (1, 4096))
    largest: dict[str, int] = {}
    for form in ("whole", "chunked"):
        with contextlib.ExitStack() as stack:
            profile = stack.enter_context(
                torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
            )
            linear_cross_entropy(hidden.flatten(0, 1), weight, None, targets.flatten(), form).backward()  # type: ignore[arg-type]
        largest[form] = max(event.cpu_memory_usage for event in profile.events())  # type: ignore[attr-defined]
    assert largest["whole"] >= 4096 * 5000 * 4
    assert largest["chunked"] < 4096 * 5000 * 4 / 2
