"""Entries that a model forbids, masks, caps or only pads its vocabulary with: losses, divergences, what is emitted.

The right values come from formulas written out in float64, over the entries that are allowed.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from distilled import chunked_distillation, distillation
from inheritune import runtime
from inheritune.data import Sequences, Shard, Tokens
from inheritune.distillation.layout import Layout
from inheritune.distillation.outputs import Computed, OnlineOutputs, StoredOutputs, packed
from inheritune.errors import RunError
from inheritune.evaluation import greedy_continuation, judge
from inheritune.losses import LossSetup, TeacherNeeds, build_losses
from inheritune.losses.functional import (
    Distribution,
    divergences,
    has_chunked_form,
    linear_cross_entropy,
    log_distribution,
    token_losses,
)
from inheritune.losses.streaming import linear_token_losses
from inheritune.recipe import Training
from inheritune.training import Job, train_steps

N, D, V = 10, 6, 23
FORBIDDEN = [3, 7, 20, 21, 22]
MASKS = {"forbidden": -math.inf, "masked": torch.finfo(torch.float32).min, "masked in float16": -65504.0}


def made(mask: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (N, D), a head's weight (V, D) and bias (V), some of it masked, and targets that are allowed."""
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(V, generator=generator)
    bias[FORBIDDEN] = mask
    targets = torch.tensor([number for number in range(V) if number not in FORBIDDEN])[:N].clone()
    targets[4] = -100
    return torch.randn(N, D, generator=generator), torch.randn(V, D, generator=generator), bias, targets


def allowed_probabilities(logits: torch.Tensor) -> list[dict[int, float]]:
    """Of each row, in float64: the probability of each entry that is neither forbidden nor masked."""
    found = []
    for row in logits.double().tolist():
        powers = {entry: math.exp(value) for entry, value in enumerate(row) if value > -1e4}
        found.append({entry: power / sum(powers.values()) for entry, power in powers.items()})
    return found


def slow_divergences(teacher: torch.Tensor, student: torch.Tensor, k: int | None) -> list[float]:
    found = []
    for p, q in zip(allowed_probabilities(teacher), allowed_probabilities(student), strict=True):
        order = sorted(p, key=lambda entry: -p[entry])
        groups = [[entry] for entry in order[:k]]
        if k is not None:
            groups.append([entry for entry in range(V) if entry not in order[:k]])
        total = 0.0
        for group in groups:
            a, b = sum(p.get(entry, 0.0) for entry in group), sum(q.get(entry, 0.0) for entry in group)
            total += 0.0 if a == 0 else math.inf if b == 0 else a * math.log(a / b)
        found.append(total)
    return found


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("k", [None, 4, V - len(FORBIDDEN), V - 2, V])
@pytest.mark.parametrize("both", [True, False])
def test_divergence_where_the_teacher_forbids(mask: float, k: int | None, both: bool) -> None:
    hidden, weight, bias, _ = made(mask)
    teacher = hidden @ weight.T + bias
    student = made(mask if both else 0.5, seed=1)
    leaf = (student[0] @ student[1].T + student[2]).requires_grad_()
    found = divergences(leaf, log_distribution(teacher, 1.0, k), 1.0)
    assert found.tolist() == pytest.approx(slow_divergences(teacher, leaf.detach(), k), rel=1e-5)
    found.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    if k is None:  # the gradient of KL is q - p
        q, p = (torch.softmax(logits.double(), dim=1) for logits in (leaf.detach(), teacher))
        torch.testing.assert_close(leaf.grad.double(), q - p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [None, 4, V])
def test_divergence_is_infinite_where_only_the_student_forbids(k: int | None) -> None:
    hidden, weight, _, _ = made(0.0)
    teacher = hidden @ weight.T
    student = teacher.clone()
    best = teacher.argmax(1)
    student[torch.arange(N), best] = -math.inf
    student.requires_grad_()
    found = divergences(student, log_distribution(teacher, 1.0, k), 1.0)
    assert found.tolist() == slow_divergences(teacher, student.detach(), k) == [math.inf] * N
    found.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("k", [None, 4, V - 2])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_stored_outputs_are_the_online_ones(mask: float, k: int | None, temperature: float, tmp_path: Path) -> None:
    hidden, weight, bias, _ = made(mask)
    teacher = hidden @ weight.T + bias
    online = log_distribution(teacher, temperature, k)
    head = torch.nn.Linear(D, V).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    layout = Layout(N, V, "float32", top_k=k) if k is not None else Layout(N, V, "float32", states=D)
    needs = TeacherNeeds(temperature, k)
    (data,) = packed(Computed(hidden, head, needs, {}), layout, 10**6)
    Path(tmp_path / "words").write_bytes(data)
    words = Tokens([Shard(tmp_path / "words", layout.words, "")], "uint16")
    stored = StoredOutputs(layout, words, needs, head)
    again = stored(torch.zeros(1, N, dtype=torch.long), *stored.stored(np.array([0]))).distribution(slice(None))
    student = made(mask, seed=1)
    logits = student[0] @ student[1].T + student[2]
    one, other = (divergences(logits, taught, temperature) for taught in (online, again))
    assert one.isfinite().all()
    if k is None:  # final hidden states are not rounded
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("k", [None, 4])
def test_distillation_and_its_gradients(mask: float, share: float, k: int | None) -> None:
    hidden, weight, bias, targets = made(mask)
    other = made(mask, seed=1)
    taught = log_distribution(other[0] @ other[1].T + other[2], 1.0, k)

    def part(tokens: slice) -> Distribution:
        return Distribution(
            taught.log_probabilities[tokens], None if taught.indices is None else taught.indices[tokens]
        )

    counted = [number for number in range(N) if targets[number] >= 0]
    logits = hidden @ weight.T + bias
    probabilities = allowed_probabilities(logits)
    entropy = sum(-math.log(probabilities[number][int(targets[number])]) for number in counted)
    each = slow_divergences(other[0] @ other[1].T + other[2], logits, k)
    divergence = sum(each[number] for number in counted)
    expected = [share * entropy + (1 - share) * divergence, entropy, divergence]
    for chunked in (False, True):
        leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
        if chunked:
            sums = chunked_distillation(*leaves, targets, part, share, 1.0)
        else:
            sums = distillation(torch.nn.functional.linear(*leaves), targets, taught, share, 1.0)
        sums[0].backward()
        assert sums.tolist() == pytest.approx(expected, rel=1e-5)
        assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_a_share_of_nothing_takes_no_part_in_the_loss() -> None:
    """Cross-entropy of a forbidden target, and divergence from a teacher who gives what is forbidden: both inf."""
    hidden, weight, bias, targets = made(-math.inf)
    logits = hidden @ weight.T + bias
    free = log_distribution(hidden @ weight.T, 1.0)
    assert distillation(logits, targets, free, 1.0, 1.0)[0].isfinite()
    forbidden = targets.clone()
    forbidden[0] = FORBIDDEN[0]
    sums = distillation(logits, forbidden, log_distribution(logits, 1.0), 0.0, 1.0)
    assert sums[1] == math.inf
    assert sums[0] == sums[2] == pytest.approx(0.0, abs=1e-5)
    assert distillation(logits, forbidden, free, 0.5, 1.0)[0] == math.inf


FORMS = ["whole", "chunked", "pieces", "token"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("forbidden_target", [False, True])
def test_cross_entropy_and_its_gradients(form: str, mask: float, forbidden_target: bool) -> None:
    if form == "chunked" and not has_chunked_form():
        pytest.skip("this torch has no such form")
    hidden, weight, bias, targets = made(mask)
    expected = 0.0
    for row, target in zip(allowed_probabilities(hidden @ weight.T + bias), targets.tolist(), strict=True):
        expected -= math.log(row[target]) if target >= 0 else 0.0
    if forbidden_target:
        targets[0] = FORBIDDEN[0]
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    if form == "pieces":
        loss = linear_token_losses(*leaves, targets).sum()
    elif form == "token":
        loss = token_losses(torch.nn.functional.linear(*leaves)[None], targets[None]).sum()
    else:
        loss = linear_cross_entropy(*leaves, targets, form)  # type: ignore[arg-type]
    loss.backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)
    if not forbidden_target:
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        assert not any(leaves[2].grad[entry] for entry in FORBIDDEN)  # type: ignore[index]
    elif mask == -math.inf:
        assert loss == math.inf
    else:
        assert loss > 6e4


class Forbidding(GPT2LMHeadModel):
    """A GPT-2 whose logits have -inf, or a large number, in some places."""

    changed: tuple[float, list[int]] = (0.0, [])

    def forward(self, *given: Any, **named: Any) -> Any:
        found = super().forward(*given, **named)
        value, entries = self.changed
        found.logits = found.logits.index_fill(-1, torch.tensor(entries, dtype=torch.long), value)
        return found


def small(vocabulary: int) -> Forbidding:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_layer=1, n_embd=8, n_head=1, n_positions=32)
    return Forbidding(config).eval()


def test_a_forbidden_token_of_the_text_is_said_when_a_model_is_judged() -> None:
    model = small(20)
    model.changed = (-math.inf, [5])
    row = np.arange(1, 33, dtype=np.uint16) % 5
    assert all(math.isfinite(loss) for loss in judge(model, Sequences(row, 8, "x"), runtime.start("cpu")).losses)
    row[12] = 5
    with pytest.raises(
        RunError, match=r"sequence 1 is inf: the model gives one of its tokens probability 0; .*forbids"
    ):
        judge(model, Sequences(row, 8, "x"), runtime.start("cpu"))


@pytest.mark.parametrize("taught", [False, True])
def test_a_training_ends_with_an_error_that_says_so(taught: bool, tmp_path: Path) -> None:
    """A forbidden token of the text, or one that the teacher may give and the model never; no weight is changed."""
    model = small(20)
    model.changed = (-math.inf, [9 if taught else 5])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    row = np.arange(400, dtype=np.uint16) % 7
    tree: dict[str, Any] = {"length": "3 steps", "batch": "4 sequences", "sequence_length": 8, "compile": False}
    settings, teacher = Training(**tree), None
    if taught:
        settings = Training(**tree, distillation={"student": 0.5})
        teacher = OnlineOutputs(small(20), TeacherNeeds(1.0), runtime.start("cpu"), "float32")
    job = Job(
        label="test", model=model, sequences=Sequences(row, 8, "x"), settings=settings, seed=1, folder=tmp_path,
        runtime=runtime.start("cpu"), validate=lambda score: 0.5, validate_every=9,
        teacher=teacher, losses=tuple(build_losses(settings, LossSetup())),
    )  # fmt: skip
    with pytest.raises(RunError, match=r"step 1: the loss is inf, .* gives probability 0 to a token .*; check which"):
        train_steps(job)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_entries_that_the_tokenizer_lacks_are_never_emitted(tokenizer: Any) -> None:
    padded = small(len(tokenizer) + 20)
    padded.changed = (100.0, list(range(len(tokenizer), len(tokenizer) + 20)))
    found = greedy_continuation(padded, tokenizer, "the small model", 6, ())
    ids = tokenizer("the small model")["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            ids = [*ids, int(padded(torch.tensor([ids])).logits[0, -1, : len(tokenizer)].argmax())]
    assert found == tokenizer.decode(ids).removeprefix("the small model")


def test_forbidden_entries_are_never_emitted(tokenizer: Any) -> None:
    model = small(len(tokenizer))
    first = greedy_continuation(model, tokenizer, "the small model", 1, ())
    [entry] = [number for number in range(len(tokenizer)) if tokenizer.decode([number]) == first]
    model.changed = (-math.inf, [entry])
    assert first not in greedy_continuation(model, tokenizer, "the small model", 6, ())
