import copy
import math
import sys
from typing import Any

import pytest
import torch
from restoring import load_state
from torch import nn

from conftest import on_gpu
from inheritune.errors import InputError
from inheritune.optimizers import read_optimizer
from inheritune.optimizers.stepping import allocate_state, set_learning_rate, state_tensors, step_if_finite

MATRICES = frozenset({"1.weight", "3.weight"})
GOOD, BAD = torch.tensor(0.0), torch.tensor(1.0)
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu())]


class Experts(nn.Module):
    """A tensor that holds a matrix for each of two experts; the mean of both is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, 6, 6) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights.mean(0)


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Embedding(11, 8), nn.Linear(8, 10), nn.LayerNorm(10), nn.Linear(10, 6), Experts(), nn.Linear(6, 11))
    return nn.Sequential(*layers)


def gradients(of: nn.Module, number: int) -> None:
    """The gradients of batch `number`, in place of those before."""
    device = next(of.parameters()).device
    tokens = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(number)).to(device)
    of.zero_grad()
    nn.functional.cross_entropy(of(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()


def build(of: nn.Module, name: str = "adamw", **settings: Any) -> list[torch.optim.Optimizer]:
    return read_optimizer({"name": name, "learning_rate": 0.01, "weight_decay": 0.1, **settings}).build(of, MATRICES)


def train(of: nn.Module, optimizers: list[torch.optim.Optimizer], numbers: range) -> None:
    for number in numbers:
        gradients(of, number)
        set_learning_rate(optimizers, 0.01 / (1 + number))
        step_if_finite(optimizers, GOOD.to(next(of.parameters()).device))


def everything(of: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    tensors = {**dict(of.named_parameters()), **state_tensors(of, optimizers)}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def adamw_by_hand(start: nn.Module, names: set[str], steps: int) -> dict[str, torch.Tensor]:
    """Loshchilov and Hutter (2019), algorithm 2, in double precision, number by number."""
    trained = copy.deepcopy(start).double()
    kept = {name: ([0.0] * p.numel(), [0.0] * p.numel()) for name, p in trained.named_parameters()}
    for step in range(1, steps + 1):
        gradients(trained, step)
        rate = 0.01 / (1 + step)
        for name, parameter in trained.named_parameters():
            if name not in names:
                continue
            mean, square = kept[name]
            values, decay = parameter.detach().flatten().tolist(), 0.1 if parameter.dim() >= 2 else 0.0
            for i, g in enumerate(parameter.grad.flatten().tolist()):
                mean[i] = 0.9 * mean[i] + 0.1 * g
                square[i] = 0.95 * square[i] + 0.05 * g * g
                corrected = math.sqrt(square[i] / (1 - 0.95**step)) + 1e-8
                values[i] -= rate * decay * values[i] + rate * mean[i] / (1 - 0.9**step) / corrected
            parameter.data = torch.tensor(values, dtype=torch.float64).view_as(parameter)
    return {name: p.detach() for name, p in trained.named_parameters()}


def test_adamw_by_hand() -> None:
    trained = model()
    expected = adamw_by_hand(trained, {name for name, _ in trained.named_parameters()}, 4)
    train(trained, build(trained), range(1, 5))
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-4, atol=1e-6)


def orthogonalised_by_hand(matrix: torch.Tensor) -> torch.Tensor:
    """Jordan et al. (2024): five steps of X <- aX + (bA + cA²)X with A = XXᵀ, in double precision."""
    X = matrix.double() / matrix.double().norm()
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X


def test_muon_by_hand() -> None:
    trained = model()
    optimizers = build(trained, "muon")
    values = {name: trained.get_parameter(name).detach().double() for name in MATRICES}
    momenta = {name: torch.zeros_like(value) for name, value in values.items()}
    for step in range(1, 4):
        rate = 0.01 / step
        for name, value in values.items():
            # far from singular, as rounding to bfloat16 (torch) turns small singular values into anything
            gradient = torch.randn(value.shape, generator=torch.Generator().manual_seed(step))
            trained.get_parameter(name).grad = gradient.clone()
            momenta[name] = 0.95 * momenta[name] + 0.05 * gradient
            update = orthogonalised_by_hand(0.05 * gradient + 0.95 * momenta[name])  # Nesterov's
            scale = 0.2 * math.sqrt(max(value.shape))  # Liu et al. (2025), equation 4
            values[name] = value * (1 - rate * 0.1) - rate * scale * update
        set_learning_rate(optimizers, rate)
        step_if_finite(optimizers, GOOD)
    for name, value in values.items():
        moved = value - model().get_parameter(name).detach().double()
        assert (trained.get_parameter(name).detach() - value).norm() < 0.02 * moved.norm()
        torch.testing.assert_close(
            state_tensors(trained, optimizers)[f"{name}/momentum_buffer"].double(), momenta[name]
        )


def test_muon_gets_the_blocks_matrices_and_adamw_all_else() -> None:
    trained = model()
    muon, adamw = build(trained, "muon")
    names = {id(p): name for name, p in trained.named_parameters()}
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {names[id(p)] for group in muon.param_groups for p in group["params"]} == MATRICES
    groups = [{names[id(p)] for p in group["params"]} for group in adamw.param_groups]
    assert groups == [
        {"0.weight", "4.weights", "5.weight"},
        {"1.bias", "2.weight", "2.bias", "3.bias", "5.bias"},
    ]
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]
    assert (muon.param_groups[0]["weight_decay"], muon.param_groups[0]["momentum"]) == (0.1, 0.95)


def test_muon_leaves_out_what_is_frozen_or_not_two_dimensional() -> None:
    trained = model()
    trained.get_parameter("1.weight").requires_grad_(False)
    settings = read_optimizer({"name": "muon"})
    muon, adamw = settings.build(trained, MATRICES | {"4.weights", "1.bias"})
    assert muon.param_groups[0]["params"] == [trained.get_parameter("3.weight")]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 8
    with pytest.raises(
        InputError, match=r"train\.optimizer\.name: muon, .* no trained matrix for it; give name: adamw"
    ):
        settings.build(trained, frozenset({"1.weight"}))
    with pytest.raises(ValueError, match="no parameters of this model"):
        settings.build(trained, frozenset({"1.wieght"}))


def test_a_shared_tensor_is_trained_once() -> None:
    trained = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    trained[1].weight = trained[0].weight
    [muon] = read_optimizer({"name": "muon"}).build(trained, frozenset({"1.weight"}))
    assert len(muon.param_groups[0]["params"]) == 1
    allocate_state(trained, [muon])
    assert list(state_tensors(trained, [muon])) == ["0.weight/momentum_buffer"]


def test_matrices_decay_and_vectors_do_not() -> None:
    trained = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    [optimizer] = read_optimizer({"learning_rate": 0.1, "weight_decay": 0.5}).build(trained, frozenset())
    for parameter in trained.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in trained.named_parameters():
        factor = 1 - 0.1 * 0.5 if before[name].dim() >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_step_changes_nothing(name: str, device: str) -> None:
    trained = model().to(device)
    optimizers = build(trained, name)
    allocate_state(trained, optimizers)
    for start in (0, 2):  # in the first step, and later
        before = everything(trained, optimizers)
        gradients(trained, start)
        trained[1].weight.grad[0, 0] = math.nan
        step_if_finite(optimizers, BAD.to(device))
        assert same(before, everything(trained, optimizers))
        train(trained, optimizers, range(start, start + 2))
        assert not same(before, everything(trained, optimizers))
    assert state_tensors(trained, optimizers)["0.weight/step"] == 4


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_good_step_is_the_optimizers_own(name: str, device: str) -> None:
    guarded, plain = model().to(device), model().to(device)
    ours, theirs = build(guarded, name), build(plain, name)
    for number in range(3):
        gradients(guarded, number)
        gradients(plain, number)
        step_if_finite(ours, GOOD.to(device))
        for optimizer in theirs:
            optimizer.step()
    assert same(everything(guarded, ours), everything(plain, theirs))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("allocated", [False, True])
def test_a_restored_state_goes_on_with_the_same_bits(name: str, allocated: bool) -> None:
    straight = model()
    optimizers = build(straight, name)
    if allocated:  # what is there already is not touched, and zeros are what the first step begins with
        allocate_state(straight, optimizers)
    train(straight, optimizers, range(3))
    weights, state = copy.deepcopy(straight.state_dict()), copy.deepcopy(state_tensors(straight, optimizers))
    allocate_state(straight, optimizers)
    assert same(state, state_tensors(straight, optimizers))
    train(straight, optimizers, range(3, 6))
    for used in (False, True):  # into fresh optimizers, and into ones that have gone another way
        resumed = model()
        again = build(resumed, name)
        if used:
            train(resumed, again, range(7, 9))
        resumed.load_state_dict(weights)
        load_state(resumed, again, state)
        train(resumed, again, range(3, 6))
        assert same(everything(straight, optimizers), everything(resumed, again))


def test_what_cannot_run_is_said_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)  # as if it were not installed
    read_optimizer({"name": "muon"}).check_device("cpu")
    with pytest.raises(
        InputError, match=r"^train\.optimizer\.states: 8bit, .*torchao.* pip install 'inheritune\[low-memory\]'"
    ):
        build(model(), states="8bit")
    with pytest.raises(InputError, match=r"^train\.optimizer\.offload: true, on cpu: .* CUDA GPU only; remove it"):
        build(model(), offload=True)
    with pytest.raises(InputError, match=r"^train\.optimizer\.offload: true, and .*torchao.* pip install"):
        read_optimizer({"offload": True}).check_device("cuda")


def test_what_works_on_several_processes() -> None:
    read_optimizer({}).check_shardable()
    read_optimizer({"name": "muon"}).check_shardable()
    with pytest.raises(InputError, match=r"train\.optimizer\.states: 8bit, on several processes"):
        read_optimizer({"states": "8bit"}).check_shardable()
    with pytest.raises(InputError, match=r"train\.optimizer\.offload: true, on several processes"):
        read_optimizer({"offload": True}).check_shardable()
