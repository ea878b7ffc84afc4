"""Distillation's loss and gradient against formulas written out in float64, token by token."""

from collections.abc import Callable

import pytest
import torch

from distilled import chunked_distillation, distillation
from inheritune.losses import combining
from inheritune.losses.functional import Distribution, divergences, log_distribution

IGNORED = -100
N, D, V = 12, 8, 31


def made(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A student's and a teacher's logits (N, V), and targets of which some do not count."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(N, V, generator=generator) * scale for _ in range(2))
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[[0, 7]] = IGNORED
    return student, teacher, targets


def outcomes(logits: torch.Tensor, groups: list[list[int]], temperature: float) -> list[torch.Tensor]:
    """The probability of each group of entries, by the definition of softmax; largest logit first taken away."""
    powers = ((logits - logits.max().detach()) / temperature).exp()
    return [powers[group].sum() / powers.sum() for group in groups]


def slow(
    student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, share: float, temperature: float, k: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    entropy = divergence = 0 * student.sum()
    for row, taught, target in zip(student, teacher, targets.tolist(), strict=True):
        if target == IGNORED:
            continue
        order = sorted(range(V), key=lambda entry: -taught[entry].item())
        groups = [[entry] for entry in order[:k]] + ([order[k:]] if k is not None and k < V else [])
        entropy = entropy - outcomes(row, [[target]], 1.0)[0].log()
        p, q = outcomes(taught, groups, temperature), outcomes(row, groups, temperature)
        divergence = divergence + sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True))
    return share * entropy + (1 - share) * temperature**2 * divergence, entropy, divergence


@pytest.mark.parametrize("k", [None, 1, 5, V - 1, V])
@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.5])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_loss_and_gradient(k: int | None, temperature: float, share: float) -> None:
    student, teacher, targets = made()
    exact = student.double().requires_grad_()
    expected = slow(exact, teacher.double(), targets, share, temperature, k)
    expected[0].backward()
    leaf = student.clone().requires_grad_()
    found = distillation(leaf, targets, log_distribution(teacher, temperature, k), share, temperature)
    found[0].backward()
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert not leaf.grad[[0, 7]].any()


def test_the_gradient_is_the_difference_of_the_distributions() -> None:
    student, teacher, targets = made()
    targets[:] = 4
    leaf, temperature = student.clone().requires_grad_(), 3.0
    distillation(leaf, targets, log_distribution(teacher, temperature), 0.0, temperature)[0].backward()
    q, p = (torch.softmax(logits.double() / temperature, dim=1) for logits in (student, teacher))
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double(), temperature * (q - p), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_all_entries_are_the_whole_vocabulary(scale: float) -> None:
    student, teacher, targets = made(scale)
    found = []
    for k in (None, V):
        leaf = student.clone().requires_grad_()
        sums = distillation(leaf, targets, log_distribution(teacher, 1.5, k), 0.6, 1.5)
        sums[0].backward()
        found.append((sums.detach(), leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_a_rest_that_is_nearly_nothing_is_not_lost() -> None:
    """Logits so far apart that one less the sum of the top entries' probabilities is 0 in float32."""
    student, teacher, targets = made(30.0)
    expected = slow(student.double(), teacher.double(), targets, 0.6, 1.0, 3)
    found = distillation(student, targets, log_distribution(teacher, 1.0, 3), 0.6, 1.0)
    top = torch.softmax(student, dim=1).topk(3, dim=1).values.sum(dim=1)
    assert (1 - top <= 0).any()
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-5, atol=1e-4)


def test_fewer_entries_never_see_more_than_all() -> None:
    student, teacher, _ = made()
    whole = divergences(student, log_distribution(teacher, 1.0), 1.0)
    before = torch.zeros(N)
    for k in (1, 4, 16, V):
        found = divergences(student, log_distribution(teacher, 1.0, k), 1.0)
        assert (found >= before - 1e-6).all()
        before = found
    torch.testing.assert_close(before, whole)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    _, teacher, targets = made()
    for k in (None, 5):
        leaf = teacher.clone().requires_grad_()
        sums = distillation(leaf, targets, log_distribution(teacher, 1.0, k), 0.0, 1.0)
        sums[0].backward()
        assert abs(sums[2].item()) < 1e-5
        assert leaf.grad is not None
        assert leaf.grad.abs().max() < 1e-6


def test_only_the_loss_has_a_gradient() -> None:
    student, teacher, targets = made()
    found = distillation(student.clone().requires_grad_(), targets, log_distribution(teacher, 1.0), 0.6, 1.0)
    with_gradient = [torch.autograd.grad(found[i], found, retain_graph=True)[0] for i in range(3)]
    assert all(g.sum() == 1 for g in with_gradient)
    leaf = student.clone().requires_grad_()
    found = distillation(leaf, targets, log_distribution(teacher, 1.0), 0.6, 1.0)
    assert not torch.autograd.grad(found[1] + found[2], leaf, retain_graph=True)[0].any()
    assert torch.autograd.grad(found[0], leaf)[0].any()


def test_log_distributions_fit_float16_and_sum_up_to_one() -> None:
    for k, columns in ((None, V), (4, 5), (V, V)):
        found = log_distribution(made(1e5)[1], 0.1, k)
        assert found.log_probabilities.shape == (N, columns)
        assert torch.isfinite(found.log_probabilities.half()).all()
        torch.testing.assert_close(found.log_probabilities.exp().sum(dim=1), torch.ones(N))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("k", [None, 5])
def test_the_chunked_form_is_the_whole_one(bias: bool, k: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    _, teacher, targets = made()
    taught = log_distribution(teacher, 2.0, k)
    given = [torch.randn(N, D, generator=generator), torch.randn(V, D, generator=generator)]
    given += [torch.randn(V, generator=generator)] if bias else []
    held: list[int] = []

    def part(tokens: slice) -> Distribution:
        chosen = taught.log_probabilities[tokens]
        held.append(len(chosen))
        return Distribution(chosen, None if taught.indices is None else taught.indices[tokens])

    def whole(hidden: torch.Tensor, weight: torch.Tensor, bias_V: torch.Tensor | None = None) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, weight, bias_V)
        return distillation(logits, targets, taught, 0.6, 2.0)

    def chunked(hidden: torch.Tensor, weight: torch.Tensor, bias_V: torch.Tensor | None = None) -> torch.Tensor:
        return chunked_distillation(hidden, weight, bias_V, targets, part, 0.6, 2.0)

    def differentiated(compute: Callable[..., torch.Tensor]) -> list[torch.Tensor | None]:
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        sums = compute(*leaves)
        sums[0].backward()
        return [sums.detach(), *(leaf.grad for leaf in leaves)]

    monkeypatch.setattr(combining, "CHUNK", 5 * V * 4)
    torch.testing.assert_close(differentiated(chunked), differentiated(whole), rtol=1e-5, atol=1e-5)
    assert held == [5, 5, 2, 2, 5, 5]  # forward, and again backward
