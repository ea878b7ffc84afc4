"""Optimizers on parameters that two processes share (FSDP2), compared with one process. Gloo, on the CPU."""

from pathlib import Path

import pytest
import torch
from restoring import load_state
from torch import nn

from inheritune.optimizers import read_optimizer
from inheritune.optimizers.stepping import allocate_state, set_learning_rate, state_tensors, step_if_finite
from processes import in_processes

MATRICES = frozenset({"0.weight", "2.weight"})
STEPS = 4


def model() -> nn.Sequential:
    torch.manual_seed(0)
    # a tall, a wide and an odd matrix, as the sharded dimension is the first
    return nn.Sequential(nn.Linear(24, 33), nn.Tanh(), nn.Linear(33, 7), nn.Tanh(), nn.Linear(7, 5))


def sharded() -> nn.Sequential:
    from torch.distributed.fsdp import fully_shard

    whole = model()
    for layer in (whole[0], whole[2]):
        fully_shard(layer)
    fully_shard(whole)
    return whole


def build(of: nn.Module, name: str) -> list[torch.optim.Optimizer]:
    return read_optimizer({"name": name, "learning_rate": 0.01}).build(of, MATRICES)


def train(of: nn.Module, optimizers: list[torch.optim.Optimizer], numbers: range, bad: float = 0.0) -> None:
    """The same batch on every process, so that the mean gradient is that of one process."""
    for number in numbers:
        x, y = torch.randn(16, 29, generator=torch.Generator().manual_seed(number)).split([24, 5], dim=1)
        of.zero_grad()
        (of(x) - y).square().mean().backward()
        set_learning_rate(optimizers, 0.01 / (1 + number))
        step_if_finite(optimizers, torch.tensor(bad))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def everything(of: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    tensors = {**dict(of.named_parameters()), **state_tensors(of, optimizers)}
    return {name: whole(tensor).detach().clone() for name, tensor in tensors.items()}


def agrees_with_one_process(name: str) -> None:
    one, many = model(), sharded()
    train(one, alone := build(one, name), range(STEPS))
    train(many, shared := build(many, name), range(STEPS))
    expected, got = everything(one, alone), everything(many, shared)
    assert expected.keys() == got.keys()
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    train(many, shared, range(STEPS, STEPS + 1), bad=1.0)
    assert all(torch.equal(got[key], value) for key, value in everything(many, shared).items())


def goes_on_with_the_same_bits(name: str, folder: str) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.tensor import DTensor

    straight = sharded()
    train(straight, optimizers := build(straight, name), range(STEPS))
    dcp.save({**straight.state_dict(), **state_tensors(straight, optimizers)}, checkpoint_id=folder)
    copies = {key: tensor.clone() for key, tensor in state_tensors(straight, optimizers).items()}
    weights = {key: tensor.clone() for key, tensor in straight.state_dict().items()}
    train(straight, optimizers, range(STEPS, STEPS + 2))
    expected = everything(straight, optimizers)

    from_disk = sharded()
    allocate_state(from_disk, again := build(from_disk, name))
    state = state_tensors(from_disk, again)
    assert {key for key, value in state.items() if not isinstance(value, DTensor)} == {
        key for key in state if key.endswith("/step")
    }
    assert not any(whole(value).any() for value in state.values())
    dcp.load({**from_disk.state_dict(), **state}, checkpoint_id=folder)
    train(from_disk, again, range(STEPS, STEPS + 2))
    from_memory = sharded()
    from_memory.load_state_dict(weights)
    load_state(from_memory, others := build(from_memory, name), copies)
    train(from_memory, others, range(STEPS, STEPS + 2))
    for got in (everything(from_disk, again), everything(from_memory, others)):
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[key], value) for key, value in expected.items())


def process(rank: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        agrees_with_one_process(name)
        goes_on_with_the_same_bits(name, f"{folder}/state")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.long
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_two_processes(name: str, tmp_path: Path) -> None:
    in_processes(process, str(tmp_path), name)
