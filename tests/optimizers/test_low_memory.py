"""AdamW with its states in 8 bits or in the CPU's memory, by torchao."""

import contextlib
import copy
import shutil
from typing import Any

import pytest
import torch
from restoring import load_state
from torch import nn

from conftest import on_gpu
from inheritune.optimizers import read_optimizer
from inheritune.optimizers.stepping import allocate_state, set_learning_rate, state_tensors, step_if_finite

pytest.importorskip("torchao", reason="the extra low-memory is not installed")

State = dict[str, torch.Tensor]


def model(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    # the first and third matrix have the 4096 numbers that torchao asks for, the vectors have not
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)).to(device)


def build(of: nn.Module, **settings: Any) -> list[torch.optim.Optimizer]:
    return read_optimizer({"learning_rate": 0.01, **settings}).build(of, frozenset())


def train(of: nn.Module, optimizers: list[torch.optim.Optimizer], numbers: range, bad: float = 0.0) -> None:
    device = next(of.parameters()).device
    for number in numbers:
        x, y = torch.randn(16, 68, generator=torch.Generator().manual_seed(number)).to(device).split([64, 4], dim=1)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        for half in (slice(0, 8), slice(8, 16)):  # accumulated, and clipped after the backward pass
            ((of(x[half]) - y[half]).square().mean() / 2).backward()
        nn.utils.clip_grad_norm_(of.parameters(), 0.05)
        set_learning_rate(optimizers, 0.01 / (1 + number))
        step_if_finite(optimizers, torch.tensor(bad, device=device))


def everything(of: nn.Module, optimizers: list[torch.optim.Optimizer]) -> State:
    tensors = {**dict(of.named_parameters()), **state_tensors(of, optimizers)}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resumes(device: str, **settings: Any) -> None:
    """Skips a bad step, and goes on with the same bits from weights and state."""
    straight = model(device)
    optimizers = build(straight, **settings)
    allocate_state(straight, optimizers)
    for first in (0, 2):
        before = everything(straight, optimizers)
        train(straight, optimizers, range(9, 10), bad=1.0)
        assert same(before, everything(straight, optimizers))
        train(straight, optimizers, range(first, first + 2))
        assert not same(before, everything(straight, optimizers))
    weights, state = copy.deepcopy(straight.state_dict()), copy.deepcopy(state_tensors(straight, optimizers))
    train(straight, optimizers, range(4, 6))
    resumed = model(device)
    again = build(resumed, **settings)
    for go in range(2):  # into a fresh optimizer, and into one that has gone on
        resumed.load_state_dict(weights)
        load_state(resumed, again, state)
        train(resumed, again, range(4, 6))
        assert same(everything(straight, optimizers), everything(resumed, again)), go


def stays_near_adamw(device: str, tolerance: float, **settings: Any) -> None:
    ours, plain = model(device), model(device)
    train(ours, build(ours, **settings), range(6))
    train(plain, build(plain), range(6))
    for (name, a), b, start in zip(
        ours.named_parameters(), plain.parameters(), model(device).parameters(), strict=True
    ):
        assert (a - b).norm() <= tolerance * (b - start).norm(), name


@pytest.mark.long
def test_states_in_8_bits() -> None:
    if shutil.which("g++") is None:
        pytest.skip("torchao compiles its step, for which torch needs g++; it is not on this machine")
    stays_near_adamw("cpu", 0.1, states="8bit")
    resumes("cpu", states="8bit")
    trained = model()
    optimizers = build(trained, states="8bit")
    allocate_state(trained, optimizers)
    state = state_tensors(trained, optimizers)
    assert {key: (value.dtype, tuple(value.shape)) for key, value in state.items() if key.startswith("0.weight")} == {
        "0.weight/step": (torch.float32, ()),
        "0.weight/exp_avg/codes": (torch.uint8, (64, 64)),
        "0.weight/exp_avg/scale": (torch.float32, (16,)),
        "0.weight/exp_avg/qmap": (torch.float32, (256,)),
        "0.weight/exp_avg_sq/codes": (torch.uint8, (64, 64)),
        "0.weight/exp_avg_sq/scale": (torch.float32, (16,)),
        "0.weight/exp_avg_sq/qmap": (torch.float32, (256,)),
    }
    assert {key for key in state if key.startswith("0.bias")} == {"0.bias/step", "0.bias/exp_avg", "0.bias/exp_avg_sq"}


class Stream:
    """A CUDA stream and its event where there is no GPU: everything is done at once."""

    def wait_stream(self, other: "Stream") -> None:
        pass

    def record_event(self) -> "Stream":
        return self

    def synchronize(self) -> None:
        pass


@pytest.fixture(
    params=[
        "imitated",
        pytest.param("cuda", marks=on_gpu()),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A GPU, or a CPU that torchao takes for one."""
    if request.param == "cuda":
        return "cuda"
    empty_like = torch.empty_like
    monkeypatch.setattr("torchao.optim.cpu_offload.get_available_devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr("inheritune.optimizers.adamw.AdamW.check_device", lambda settings, device: None)
    monkeypatch.setattr(torch, "empty_like", lambda like, pin_memory=False, **more: empty_like(like, **more))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return "cpu"


def test_states_in_the_cpus_memory(device: str) -> None:
    # on the CPU it is the same arithmetic as AdamW's, so also the same bits: the gradients are the clipped ones
    stays_near_adamw(device, 0.0 if device == "cpu" else 1e-3, offload=True)
    resumes(device, offload=True)
    trained = model(device)
    optimizers = build(trained, offload=True)
    allocate_state(trained, optimizers)
    state = state_tensors(trained, optimizers)
    assert {key.rpartition("/")[0] for key in state} == {name for name, _ in trained.named_parameters()}
    assert state["0.weight/exp_avg"].device.type == "cpu"
